"""Animations: every frame in, every frame out, with its time, its transparency and the pixels that no face touches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bfr_core.cli import main
from bfr_core.errors import InputMediaError, OutputMediaError
from bfr_core.media.pictures import Frame, Picture, encode_album, open_album, read_picture, require_album
from bfr_core.media.pictures.animation import encode_gif

WAITS = [40, 300, 100, 60]
EXACT = {"a.gif": {}, "a.png": {}, "a.webp": {"lossless": True}}


def frames(count: int = 4, *, alpha: bool = False) -> list[Image.Image]:
    """Return frames of 40 x 30 in few colours, each of its own; with `alpha`, a hole that moves."""
    made = []
    for number in range(count):
        rgb = np.zeros((30, 40, 4 if alpha else 3), np.uint8)
        rgb[..., 0], rgb[..., 1] = 40 * number, np.arange(40) // 8 * 50
        if alpha:
            rgb[..., 3] = 255
            rgb[5:12, 4 * number : 4 * number + 9, 3] = 0
        made.append(Image.fromarray(rgb))
    return made


def animate(path: Path, images: list[Image.Image], **options) -> Path:
    options = {"duration": WAITS[: len(images)], "loop": 2, "disposal": 2, **EXACT.get(path.name, {}), **options}
    images[0].save(path, save_all=True, append_images=images[1:], **options)
    return path


def shown(path: Path) -> list[tuple[np.ndarray, float]]:
    """Return what Pillow shows of an animation: (H, W, 4) and the time of each frame."""
    with Image.open(path) as image:
        found = []
        for number in range(image.n_frames):
            image.seek(number)
            image.load()
            rgba = np.array(image.convert("RGBA"))
            rgba[rgba[..., 3] == 0] = 0
            found.append((rgba, image.info.get("duration", 0)))
        return found


def rewritten(source: Path, target: Path) -> Path:
    album = open_album(source)
    kept = [Frame(each.picture, each.milliseconds, np.zeros(each.picture.rgb.shape[:2], bool)) for each in album]
    target.write_bytes(encode_album(target, album, kept, quality=100))
    return target


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("out", [".gif", ".png", ".webp"])
def test_every_frame_comes_back_with_its_time_and_holes(tmp_path, name, alpha, out):
    source = animate(tmp_path / name, frames(alpha=alpha))
    album = open_album(source)
    assert album.count == 4 and album.play.loop == 2 and album.several == "frames"
    before, after = shown(source), shown(rewritten(source, tmp_path / f"b{out}"))
    assert [wait for _, wait in after] == WAITS
    for (one, _), (two, _) in zip(before, after, strict=True):
        assert np.array_equal(one, two)
    with Image.open(tmp_path / f"b{out}") as image:
        assert image.info["loop"] == 2


def test_an_animation_is_played_as_often_as_it_was(tmp_path):
    for loop in (None, 0, 1, 7):
        options = {} if loop is None else {"loop": loop}
        images = frames()
        images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], **options)
        assert open_album(tmp_path / "a.gif").play.loop == loop
        rewritten(tmp_path / "a.gif", tmp_path / "b.gif")
        with Image.open(tmp_path / "b.gif") as image:
            assert image.info.get("loop") == loop


def test_frames_that_show_nothing_new_stay_frames_of_a_gif(tmp_path):
    images = [frames(1)[0]] * 3
    encoded = encode_gif([Frame(Picture(np.array(image)), wait) for image, wait in zip(images, WAITS, strict=False)], 0)
    (tmp_path / "a.gif").write_bytes(encoded)
    assert [wait for _, wait in shown(tmp_path / "a.gif")] == WAITS[:3]


def test_a_png_shows_its_poster_to_those_who_know_no_animations(tmp_path):
    images = frames(4)
    images[0].save(
        tmp_path / "a.png", save_all=True, append_images=images[1:], default_image=True, duration=WAITS[1:], loop=0
    )
    assert open_album(tmp_path / "a.png").play.poster
    before, after = shown(tmp_path / "a.png"), shown(rewritten(tmp_path / "a.png", tmp_path / "b.png"))
    assert len(after) == 4 and [wait for _, wait in after][1:] == WAITS[1:]
    assert all(np.array_equal(one, two) for (one, _), (two, _) in zip(before, after, strict=True))
    with Image.open(tmp_path / "b.png") as image:
        assert image.info["default_image"] is True


def test_avif_keeps_frames_and_times(tmp_path):
    animate(tmp_path / "a.avif", frames(), quality=100)
    after = shown(rewritten(tmp_path / "a.avif", tmp_path / "b.avif"))
    assert [wait for _, wait in after] == WAITS
    for (one, _), (two, _) in zip(shown(tmp_path / "a.avif"), after, strict=True):
        assert np.abs(one.astype(int) - two).max() < 12


def noise(colours: int) -> np.ndarray:
    """Return (64, 64, 3) uint8 of exactly that many colours."""
    rng = np.random.default_rng(colours)
    palette = np.unique(rng.integers(0, 256, (4 * colours, 3), dtype=np.uint8), axis=0)
    palette = palette[rng.permutation(len(palette))[:colours]]
    return palette[np.arange(64 * 64).reshape(64, 64) % colours]


@pytest.mark.parametrize("colours", [2, 100, 255, 256])
def test_pixels_of_a_gif_that_no_face_touches_stay_bit_for_bit(tmp_path, colours):
    rgb = noise(colours)
    changed = np.zeros((64, 64), bool)
    changed[10:30, 20:50] = True
    new = rgb.copy()
    y, x = np.mgrid[0:64, 0:64]
    smooth = np.stack([4 * x, 4 * y, 2 * (x + y)], axis=-1).astype(np.uint8)
    new[changed] = smooth[changed]
    kept = np.unique(rgb[~changed].reshape(-1, 3), axis=0)
    (tmp_path / "a.gif").write_bytes(encode_gif([Frame(Picture(new), 50, changed)], None))
    back = read_picture(tmp_path / "a.gif").rgb
    assert np.array_equal(back[~changed], rgb[~changed]) and len(kept) == colours
    error = np.abs(back[changed].astype(int) - new[changed]).mean()
    assert error < (40 if colours >= 255 else 12)


def test_the_first_frame_of_an_animation_of_full_colour_is_dithered_where_it_must(tmp_path):
    y, x = np.mgrid[0:64, 0:64]
    rgb = np.stack([4 * x, 4 * y, 2 * (x + y)], axis=-1).astype(np.uint8)
    (tmp_path / "a.gif").write_bytes(encode_gif([Frame(Picture(rgb))], None))
    back = read_picture(tmp_path / "a.gif").rgb
    assert len(np.unique(back.reshape(-1, 3), axis=0)) <= 256 and np.abs(back.astype(int) - rgb).mean() < 8


def test_what_cannot_hold_frames_is_refused_in_words(tmp_path):
    album = open_album(animate(tmp_path / "a.gif", frames()))
    for name, word in (("b.jpg", "one picture"), ("b.tif", "pages"), ("b.bmp", "one picture")):
        with pytest.raises(OutputMediaError, match=f"4 frames.*{word}.*--pages first"):
            require_album(tmp_path / name, album)


def test_an_animation_too_large_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr("bfr_core.media.pictures.animation.MOST_BYTES", 4 * 40 * 30 * 4 - 1)
    with pytest.raises(InputMediaError, match=r"4 frames of 40 x 30.*--pages first"):
        open_album(animate(tmp_path / "a.gif", frames()))


def test_a_damaged_frame_is_named(tmp_path):
    data = animate(tmp_path / "a.gif", frames()).read_bytes()
    (tmp_path / "a.gif").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(InputMediaError, match="GIF"):
        list(open_album(tmp_path / "a.gif"))


# --- the command -------------------------------------------------------------------------------------------------


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture
def faces(shared, tmp_path) -> list[Image.Image]:
    with Image.open(shared / "photos" / "degraded" / "Adele_crop.png") as image:
        face = image.convert("RGB").resize((160, 160))
    made = []
    for number in range(3):
        made.append(Image.new("RGB", (320, 320), (90, 100, 110)))
        made[-1].paste(face, (80 + 4 * number, 80))
    return made


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_all_frames_are_restored(faces, tmp_path, name):
    source = animate(tmp_path / name, faces)
    report = tmp_path / "r.json"
    assert run("restore", source, "-o", tmp_path / "out" / name, "--all-faces", "--report", report) == 0
    (entry,) = json.loads(report.read_text())["files"]
    assert entry["frames"] == 3
    assert {face["picture"] for face in entry["report"]["faces"] if face["action"] == "restored"} == {1, 2, 3}
    before, after = shown(source), shown(tmp_path / "out" / name)
    assert [wait for _, wait in after] == WAITS[:3]
    for (one, _), (two, _) in zip(before, after, strict=True):
        assert (one != two).any() and (name == "a.webp" or np.array_equal(one[:3, :3], two[:3, :3]))


def test_the_first_frame_alone_by_choice(faces, tmp_path):
    source = animate(tmp_path / "a.png", faces)
    report = tmp_path / "r.json"
    words = ["restore", source, "-o", tmp_path / "b.jpg", "--all-faces", "--report", report]
    assert run(*words) == 1 and not (tmp_path / "b.jpg").exists()
    assert run(*words, "--pages", "first") == 0
    (entry,) = json.loads(report.read_text())["files"]
    assert "animated: first frame of 3 used" in entry["notes"] and "frames" not in entry


def test_an_animation_without_faces_is_copied(tmp_path):
    source = animate(tmp_path / "a.gif", frames())
    assert run("restore", source, "-o", tmp_path / "b.gif") == 0
    assert (tmp_path / "b.gif").read_bytes() == source.read_bytes()
