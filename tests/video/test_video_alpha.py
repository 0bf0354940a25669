"""Transparency in films: it stays, or the run is refused before it begins."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from film_jobs import options, run
from video_media import picture, planes, write_clip

from bfr_core.cli import main
from bfr_core.errors import OutputMediaError
from bfr_core.media.clips import decoder_of, open_clip, read_frames
from bfr_core.video.alpha import is_transparent
from bfr_core.video.encode import EncodeSettings
from bfr_core.video.plan import plan_film
from bfr_core.video.probe import probe

WIDTH, HEIGHT = 160, 96
FAST = EncodeSettings(preset="ultrafast")


def clear(path: Path, codec: str, pix_fmt: str, *, frames: int = 3, late: int = 0, opaque: bool = False) -> Path:
    """Write a clip that shows a bright disc through a ramp of transparency; opaque before frame `late`."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    ramp = np.broadcast_to(np.linspace(0, 255, WIDTH).round().astype(np.uint8), (HEIGHT, WIDTH))
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        stream.time_base = stream.codec_context.time_base = Fraction(1, 25)
        if codec == "libvpx-vp9":
            stream.metadata["alpha_mode"] = "1"
        for number in range(frames):
            image = picture(number, WIDTH, HEIGHT) // 4
            image[(x - 80) ** 2 + (y - 60) ** 2 < 300] = 235
            alpha = np.full_like(ramp, 255) if opaque or number < late else ramp
            frame: Any = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.dstack([image, alpha])), format="rgba")
            frame = frame.reformat(format=pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def alphas(path: Path) -> list[np.ndarray]:
    """The alpha of every frame in 0 to 255."""
    with open_clip(path) as container:
        frames = list(read_frames(container, container.streams.video[0]))
    assert all(any(part.is_alpha for part in frame.format.components) for frame in frames)
    return [frame.reformat(format="rgba").to_ndarray()[..., 3] for frame in frames]


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "target", "made"),
    [
        ("a.mov", "prores_ks", "yuva444p10le", "out.mov", "prores_ks"),
        ("a.mov", "prores_ks", "yuva444p10le", "out.mkv", "ffv1"),
        ("a.mov", "qtrle", "argb", "out.mkv", "ffv1"),
        ("a.mov", "png", "rgba", "out.mov", "prores_ks"),
        ("a.webm", "libvpx-vp9", "yuva420p", "out.webm", "libvpx-vp9"),
        ("a.webm", "libvpx-vp9", "yuva420p", "out.mkv", "ffv1"),
        ("a.mov", "qtrle", "argb", "out.webm", "libvpx-vp9"),
        ("a.mkv", "ffv1", "yuva420p", "out.mkv", "ffv1"),
    ],
)
def test_row31_transparency_stays(tmp_path, name, codec, pix_fmt, target, made):
    """Before, each of these lost it with a note, and VP9's was not even read."""
    source = clear(tmp_path / name, codec, pix_fmt)
    report = run(source, tmp_path / target, options(encode=FAST))
    assert report.restored_frames == 3
    assert plan_film(source, tmp_path / "x" / target, options(encode=FAST)).encoding.codec == made
    before, after = alphas(source), alphas(tmp_path / target)
    assert len(after) == 3
    for old, new in zip(before, after, strict=True):
        # VP9 codes it with loss; ProRes holds 16 bits of it.
        np.testing.assert_allclose(new.astype(int), old.astype(int), atol=4 if made == "libvpx-vp9" else 1)


@pytest.mark.parametrize(("target", "codec"), [("out.mp4", "auto"), ("out.mp4", "vp9"), ("out.mkv", "h264"),
                                               ("out.mov", "h265")])  # fmt: skip
def test_row31_transparency_that_cannot_stay_is_refused_before_the_work(tmp_path, target, codec):
    source = clear(tmp_path / "a.mkv", "ffv1", "yuva420p")
    chosen = EncodeSettings(codec=codec, preset="ultrafast")
    with pytest.raises(OutputMediaError, match=r"Cannot keep the transparency.*\.mov \(prores\)"):
        plan_film(source, tmp_path / target, options(encode=chosen))
    plan = plan_film(
        source, tmp_path / target, options(encode=EncodeSettings(codec=codec, drop_alpha=True, preset="ultrafast"))
    )
    assert "transparency is dropped, as asked" in plan.notes


def test_an_alpha_channel_that_is_opaque_throughout_is_none(tmp_path):
    source = clear(tmp_path / "a.mov", "prores_ks", "yuva444p10le", opaque=True)
    assert probe(source).alpha and not is_transparent(probe(source))
    plan = plan_film(source, tmp_path / "out.mp4", options(encode=FAST))
    assert "Its alpha channel is opaque throughout." in plan.notes and not plan.info.alpha
    assert not any("transparency" in note for note in plan.notes)
    run(source, tmp_path / "out.mp4", options(encode=FAST))
    gif = write_clip(tmp_path / "a.gif", 3, codec="gif", pix_fmt="rgb8")
    assert plan_film(gif, tmp_path / "gif.mp4", options(encode=FAST)).encoding.codec == "libx264"


def test_transparency_that_begins_late_is_found(tmp_path):
    source = clear(tmp_path / "a.mkv", "ffv1", "yuva420p", frames=6, late=5)
    assert is_transparent(probe(source)) and not is_transparent(probe(source), window=(0, 0.19))
    with pytest.raises(OutputMediaError, match="transparency"):
        plan_film(source, tmp_path / "out.mp4", options(encode=FAST))


def test_the_command_keeps_it_or_drops_it_when_asked(tmp_path, capsys):
    source = clear(tmp_path / "a.mov", "prores_ks", "yuva444p10le")
    arguments = ["restore", str(source), "--preset", "ultrafast", "-o"]
    assert main([*arguments, str(tmp_path / "x.mp4")]) == 1
    assert "--drop-alpha" in capsys.readouterr().err and not (tmp_path / "x.mp4").exists()
    assert main([*arguments, str(tmp_path / "x.mp4"), "--drop-alpha"]) == 0
    assert main([*arguments, str(tmp_path / "x.mov")]) == 0
    assert alphas(tmp_path / "x.mov")[0].min() == 0


def test_a_film_that_lost_it_is_rejected(tmp_path, monkeypatch):
    from bfr_core.video import encode

    source = clear(tmp_path / "a.webm", "libvpx-vp9", "yuva420p")
    # NUT keeps the pictures and drops what stands beside them.
    monkeypatch.setattr(encode.Encoding, "segment_container", property(lambda self: "nut"))
    with pytest.raises(OutputMediaError, match="has no transparency"):
        run(source, tmp_path / "out.webm", options(encode=FAST))


def test_only_what_has_transparency_beside_it_gets_another_decoder(tmp_path):
    for name, pix_fmt, special in (("a.webm", "yuva420p", True), ("b.webm", "yuv420p", False)):
        source = write_clip(tmp_path / name, 2, codec="libvpx-vp9", pix_fmt=pix_fmt)
        with open_clip(source) as container:
            assert (decoder_of(container.streams.video[0]) is not None) is special
            assert [len(planes(frame)) for frame in read_frames(container, container.streams.video[0])] == [
                4 if special else 3
            ] * 2
