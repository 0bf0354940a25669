"""Larger results from small photos: where every pixel lies, what stays as it is, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from skimage.data import astronaut
from tiny_restorers import restorer_of
from torch import Tensor, nn

from bfr_core.cli import main
from bfr_core.errors import InputMediaError, ModelError, RestoreError, SettingsError
from bfr_core.faces.align import points_from_box, sample
from bfr_core.media.pictures import Picture, read_picture, write_picture
from bfr_core.media.scaling import enlarge_plane
from bfr_core.restoration.options import RestoreOptions
from bfr_core.restoration.photo import restore_aligned, restore_photo, restore_whole
from bfr_core.restoration.upscale import ModelUpscaler, load_upscaler, upscaled
from bfr_core.runtime import Runtime
from bfr_core.types import Face


def run(*arguments) -> int:
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)


def face(box: tuple[float, float, float, float]) -> Face:
    return Face(box, points_from_box(box), 1.0)


class Same(nn.Module):
    """Give every face back as it came."""

    def forward(self, faces: Tensor) -> Tensor:
        return faces.clone()


class Dark(nn.Module):
    """Halve the light of every face."""

    def forward(self, faces: Tensor) -> Tensor:
        return faces * 0.5


def waves(height: int, width: int, factor: int, turn: float) -> Tensor:
    """Return a picture of slow waves, sampled at the centres of pixels that are `factor` times as small."""
    y = (torch.arange(height * factor, dtype=torch.float64)[:, None] + 0.5) / factor
    x = (torch.arange(width * factor, dtype=torch.float64)[None] + 0.5) / factor
    parts = [0.5 + 0.4 * torch.sin(x / (4 + part) + turn) * torch.cos(y / (5 - part)) for part in range(3)]
    return torch.stack(parts).float()


def lanczos(count: int, samples: int, factor: float, left: float = 0.0) -> np.ndarray:
    """The kernel by its formula, in float64: (samples, count) weights of one axis."""
    at = left + (np.arange(samples) + 0.5) / factor - 0.5
    distance = at[:, None] - np.arange(count)
    weight = np.sinc(distance) * np.sinc(distance / 3) * (np.abs(distance) < 3)
    return weight / weight.sum(1, keepdims=True)


# Planes


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 24), st.integers(1, 24), st.sampled_from([2, 4]), st.integers(0, 2**31))
def test_a_plane_is_enlarged_as_the_formula_says(height, width, factor, seed):
    plane = np.random.default_rng(seed).random((height, width)).astype(np.float32)
    expected = lanczos(height, height * factor, factor) @ plane @ lanczos(width, width * factor, factor).T
    np.testing.assert_allclose(enlarge_plane(plane, factor, (-9, 9)), expected, atol=2e-6)
    deep = np.rint(plane * 65535).astype(np.uint16)
    expected = lanczos(height, height * factor, factor) @ deep @ lanczos(width, width * factor, factor).T
    made = enlarge_plane(deep, factor, (0, 65535))
    assert made.dtype == np.uint16
    assert np.abs(made - expected.clip(0, 65535)).max() < 0.52


@pytest.mark.parametrize(("factor", "left"), [(2, 0.125), (4, 0.1875), (4, 0.28125)])
def test_samples_that_lie_beside_the_middle_stay_there(factor, left):
    plane = np.random.default_rng(0).random((6, 9)).astype(np.float32)
    padded = np.pad(plane, ((0, 0), (0, 1)), mode="edge")
    expected = lanczos(6, 6 * factor, factor) @ padded @ lanczos(10, 9 * factor, factor, left).T
    np.testing.assert_allclose(enlarge_plane(plane, factor, (-9, 9), left=left), expected, atol=2e-6)


def test_overshoot_is_cut_off_and_light_beyond_white_is_not():
    edge = np.zeros((8, 8), np.float32)
    edge[:, 4:] = 1
    made = enlarge_plane(edge, 4, (0, 1))
    assert made.min() == 0 and made.max() == 1
    bright = enlarge_plane(edge * 3, 4, (0, 1))
    assert bright.max() == 3 and bright.min() == 0
    studio = np.full((8, 8), 16, np.uint8)
    studio[:, 4:] = 235
    assert set(np.unique(enlarge_plane(studio, 2, (16, 235)))[[0, -1]]) == {16, 235}


# Photos


@settings(max_examples=25, deadline=None)
@given(st.integers(40, 70), st.integers(40, 70), st.sampled_from([1, 2, 4]), st.integers(10, 28), st.floats(0, 6))
def test_a_restorer_that_changes_nothing_leaves_the_enlarged_picture(height, width, factor, side, turn):
    frame = waves(height, width, 1, turn)
    box = (8.0, 6.0, 8.0 + side, 6.0 + side)
    options = RestoreOptions(upscale=factor, min_size=0, colours="method", grain=0)  # for which fine waves pass
    result = restore_photo(frame, restorer_of(Same()), faces=[face(box)], options=options)
    canvas = upscaled(frame, factor)
    assert result.image.shape == (3, height * factor, width * factor) and result.mask.shape == result.image.shape[1:]
    assert bool((result.mask > 0.9).any())
    outside = result.mask == 0
    assert torch.equal(result.image[:, outside], canvas[:, outside])
    # The truth of the waves at the finer pixels: half a pixel of the small picture would be off by 0.05 and more.
    inner = (..., slice(4 * factor, -4 * factor), slice(4 * factor, -4 * factor))
    assert float((canvas - waves(height, width, factor, turn))[inner].abs().max()) < 0.006
    assert float((result.image - waves(height, width, factor, turn))[inner].abs().max()) < 0.02
    assert result.report.upscale == factor and result.report.upscaled_by == ("Lanczos" if factor > 1 else "")
    assert result.report.faces[0].box == box


def test_faces_are_cut_from_the_small_picture_and_go_in_at_full_size():
    frame = waves(50, 60, 1, 0.3)
    seen: list[Tensor] = []

    class Checks(nn.Module):
        """Paint a pattern that is finer than the small picture can hold."""

        def forward(self, faces: Tensor) -> Tensor:
            seen.append(faces)
            rows = torch.arange(faces.shape[-1]) % 2
            return rows.float()[None, None, :, None].expand_as(faces)

    box = (18.0, 12.0, 34.0, 28.0)
    options = RestoreOptions(upscale=4, min_size=0, colours="method")
    small = restore_photo(frame, restorer_of(Checks()), faces=[face(box)], options=RestoreOptions(
        min_size=0, colours="method"))  # fmt: skip
    large = restore_photo(frame, restorer_of(Checks()), faces=[face(box)], options=options)
    assert float((seen[0] - seen[1]).abs().max()) < 0.01  # the same crop, but for the kernel
    middle = large.image[0, 60:100, 90:110]
    assert float(middle.std()) > 0.25 > float(small.image[0, 15:25, 23:27].std())


@pytest.mark.parametrize("factor", [2, 4])
def test_a_crop_is_what_the_enlarged_picture_would_give(factor):
    frame = waves(90, 80, 1, 0.7)
    matrix = np.array([[1.6, 0.2, -40.0], [-0.2, 1.6, -20.0]])
    cut = sample(frame, matrix, 64, enlarge=factor)
    torch.testing.assert_close(
        cut, sample(upscaled(frame, factor), matrix / [[factor, factor, 1]], 64), atol=0.01, rtol=0
    )
    large = np.array([[0.7, 0.1, 0.0], [-0.1, 0.7, 8.0]])
    assert torch.equal(sample(frame, large, 64, enlarge=factor), sample(frame, large, 64))


def test_light_outside_the_range_is_kept():
    frame = waves(40, 40, 1, 0.0) * 3 - 0.5
    result = restore_photo(frame, restorer_of(Same()), faces=[], options=RestoreOptions(upscale=2))
    assert torch.equal(result.image, upscaled(frame, 2))
    assert float(result.image.max()) == pytest.approx(float(frame.max()))
    assert float(result.image.min()) < -0.1


def test_an_aligned_face_and_a_whole_picture_are_enlarged():
    frame = waves(48, 48, 1, 1.0)
    options = RestoreOptions(upscale=2, strength=0.5)
    result = restore_aligned(frame, restorer_of(Dark()), options=RestoreOptions(upscale=2, colours="method"))
    assert result.image.shape == (3, 96, 96) and float((result.image - 0.5 * waves(48, 48, 2, 1.0)).abs().max()) < 0.03
    untouched = restore_aligned(frame, restorer_of(Dark()), options=RestoreOptions(upscale=2, strength=0))
    assert torch.equal(untouched.image, upscaled(frame, 2)) and not untouched.mask.any()
    able = restorer_of(Same())
    able.method = replace(able.method, picture=lambda restorer, picture, **_: picture.clone())
    made = restore_whole(frame, able, options=options)
    assert made.image.shape == (3, 96, 96) and made.mask.shape == (96, 96) and made.report.upscale == 2


def test_what_cannot_be_enlarged_is_refused_in_words():
    with pytest.raises(SettingsError, match=r"upscale of 3.*one of 1, 2, 4"):
        restore_photo(waves(8, 8, 1, 0), restorer_of(Same()), faces=[], options=RestoreOptions(upscale=3))
    frame = torch.zeros(1).expand(3, 4000, 4000)
    with pytest.raises(InputMediaError, match=r"16000 x 16000 pixels; expected at most 178956970.*Choose upscale 2"):
        restore_photo(frame, restorer_of(Same()), faces=[], options=RestoreOptions(upscale=4))

    def wrong(frame, factor):
        return frame

    wrong.name = "Wrong"  # type: ignore[attr-defined]
    with pytest.raises(RestoreError, match="Wrong did not enlarge"):
        upscaled(waves(8, 8, 1, 0), 2, wrong)  # type: ignore[arg-type]


# Models


class Twice(nn.Module):
    """Nearest neighbours by two, then a blur that sees two pixels around."""

    def __init__(self, scale: int = 2) -> None:
        super().__init__()
        self.scale = scale
        self.blur = nn.Conv2d(3, 3, 5, padding=2, padding_mode="replicate", groups=3, bias=False)
        nn.init.constant_(self.blur.weight, 1 / 25)

    def forward(self, image: Tensor) -> Tensor:
        return self.blur(image.repeat_interleave(self.scale, -1).repeat_interleave(self.scale, -2))


class Descriptor:
    """What spandrel says of a model, as far as it is asked."""

    def __init__(self, net: Twice, largest: int = 1 << 30) -> None:
        self.model, self.scale, self.largest = net, net.scale, largest
        self.input_channels = self.output_channels = 3
        self.purpose, self.tiling = "SR", SimpleNamespace(name="SUPPORTED")
        self.sides: list[int] = []

    def __call__(self, image: Tensor) -> Tensor:
        self.sides.append(max(image.shape[-2:]))
        if self.sides[-1] > self.largest:
            raise torch.OutOfMemoryError("too large")
        return self.model(image).clamp(0, 1)


def model(
    net: Twice | None = None, tile: int | None = None, largest: int = 1 << 30
) -> tuple[ModelUpscaler, Descriptor]:
    descriptor = Descriptor(net or Twice(), largest)
    return ModelUpscaler(descriptor, Runtime(), name="twice", key="1", tile=tile), descriptor


@pytest.mark.parametrize("shape", [(150, 201), (64, 300), (63, 64)])
def test_tiles_give_what_the_whole_picture_gives(shape):
    frame = torch.rand(1, 3, *shape, generator=torch.Generator().manual_seed(1))
    whole, parts = model()[0](frame, 2), model(tile=64)
    torch.testing.assert_close(parts[0](frame, 2), whole, atol=2e-6, rtol=0)
    assert max(parts[1].sides) <= 64


def test_memory_that_runs_out_halves_the_tiles():
    frame = torch.rand(1, 3, 300, 300, generator=torch.Generator().manual_seed(2))
    upscaler, descriptor = model(tile=256, largest=130)
    torch.testing.assert_close(upscaler(frame, 2), model()[0](frame, 2), atol=2e-6, rtol=0)
    assert descriptor.sides[:2] == [256, 128]
    assert upscaler.runtime.notes == ["Memory ran out while enlarging; tiles were reduced to 128 px"]
    with pytest.raises(RestoreError, match="Out of memory while twice enlarged"):
        model(tile=256, largest=10)[0](frame, 2)


@pytest.mark.parametrize(("scale", "factor"), [(2, 2), (2, 4), (4, 2), (1, 2), (8, 4)])
def test_the_factor_of_a_model_is_brought_to_the_one_asked_for(scale, factor):
    upscaler, _ = model(Twice(scale))
    frame = waves(40, 50, 1, 0.5)
    made = upscaled(frame, factor, upscaler)
    assert made.shape == (3, 40 * factor, 50 * factor)
    inner = (..., slice(4 * factor, -4 * factor), slice(4 * factor, -4 * factor))
    # Nearest neighbours and a blur are coarse, but half a pixel of the small picture would show as 0.05 more.
    assert float((made - waves(40, 50, factor, 0.5))[inner].abs().mean()) < 0.02


def test_a_model_leaves_light_beyond_the_range_and_says_what_it_is():
    upscaler, _ = model()
    frame = waves(40, 40, 1, 0.0) * 2
    assert float(upscaled(frame, 2, upscaler).max()) == pytest.approx(float(frame.max()), abs=0.02)
    options = RestoreOptions(upscale=2, upscaler=upscaler)
    report = restore_photo(waves(40, 40, 1, 0), restorer_of(Same()), faces=[], options=options).report
    assert report.upscaled_by == "twice"
    descriptor = Descriptor(Twice())
    descriptor.purpose = "FaceSR"
    with pytest.raises(ModelError, match="it is a model for FaceSR"):
        ModelUpscaler(descriptor, Runtime(), name="faces", key="")


# spandrel's own import warns of what it imports.
@pytest.mark.filterwarnings("ignore")
def test_a_file_of_a_known_architecture_is_read(tmp_path):
    spandrel = pytest.importorskip("spandrel", reason="spandrel, or torchvision which it needs, is not installed")
    state = esrgan(features=4, blocks=1, grow=32)
    assert spandrel.ModelLoader().load_from_state_dict(dict(state)).scale == 4
    for path in (tmp_path / "tiny.safetensors", tmp_path / "tiny.pth"):
        if path.suffix == ".pth":
            torch.save({"params_ema": state}, path)
        else:
            safetensors.torch.save_file(state, path)
        upscaler = load_upscaler(path, Runtime())
        assert upscaler.name == "tiny" and len(upscaler.key) == 64
        made = [upscaled(waves(20, 24, 1, 0), factor, upscaler) for factor in (2, 4)]
        assert [part.shape[1:] for part in made] == [(40, 48), (80, 96)]
    source, out = tmp_path / "in.png", tmp_path / "out.png"
    Image.fromarray(astronaut()[0:60, 60:130]).save(source)
    assert run("restore", source, "-o", out, "--upscale", 4, "--upscale-model", path) == 0
    assert read_picture(out).rgb.shape == (240, 280, 3)
    safetensors.torch.save_file({"strange.weight": torch.zeros(3)}, tmp_path / "strange.safetensors")
    assert run("restore", source, "-o", out, "--upscale", 4, "--upscale-model", tmp_path / "strange.safetensors",
               "--overwrite") == 1  # fmt: skip


def esrgan(features: int, blocks: int, grow: int) -> dict[str, Tensor]:
    """Return random weights by the names and shapes of RealESRGAN's published files."""
    draw = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}

    def conv(name: str, inside: int, outside: int) -> None:
        state[f"{name}.weight"] = 0.1 * torch.randn(outside, inside, 3, 3, generator=draw)
        state[f"{name}.bias"] = torch.zeros(outside)

    conv("conv_first", 3, features)
    for block in range(blocks):
        for dense in (1, 2, 3):
            for layer in range(1, 6):
                outside = features if layer == 5 else grow
                conv(f"body.{block}.rdb{dense}.conv{layer}", features + (layer - 1) * grow, outside)
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
        conv(name, features, features)
    conv("conv_last", features, 3)
    return state


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    import builtins

    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "spandrel":
            raise ModuleNotFoundError("No module named 'torchvision'", name="torchvision")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModelError, match=r"torchvision, which spandrel needs.*pip install"):
        load_upscaler(tmp_path / "model.safetensors", Runtime())


# The command


@pytest.fixture
def portrait(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "small.png"
    path.parent.mkdir()
    Image.fromarray(astronaut()[0:320, 60:400]).resize((198, 186), Image.Resampling.BICUBIC).save(path)
    return path


def lanczos_of(rgb: np.ndarray, factor: int) -> np.ndarray:
    full = 65535 if rgb.dtype == np.uint16 else 255
    frame = torch.from_numpy(rgb.astype(np.float32) / full).permute(2, 0, 1)
    return np.rint(upscaled(frame, factor).permute(1, 2, 0).numpy() * np.float32(full)).astype(rgb.dtype)


@pytest.mark.parametrize(("depth", "factor"), [(8, 4), (16, 2)])
def test_a_small_portrait_comes_out_large(portrait, tmp_path, depth, factor):
    rgb = read_picture(portrait).rgb
    rgb = rgb if depth == 8 else rgb.astype(np.uint16) * 257
    alpha = np.linspace(0, 255 if depth == 8 else 65535, rgb.shape[1]).astype(rgb.dtype)[None].repeat(len(rgb), 0)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif.get_ifd(0x8769).update({0xA002: rgb.shape[1], 0xA003: rgb.shape[0]})
    exif[270] = "A portrait"
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    write_picture(portrait, Picture(rgb, alpha, profile, block))
    out, report = tmp_path / "out.png", tmp_path / "report.json"
    asked = ("--upscale", factor, "--max-faces", 1, "--report", report, "--compare")
    assert run("restore", portrait, "-o", out, *asked) == 0
    after = read_picture(out)
    assert after.rgb.shape == (rgb.shape[0] * factor, rgb.shape[1] * factor, 3) and after.rgb.dtype == rgb.dtype
    assert np.array_equal(after.alpha, enlarge_plane(alpha, factor, (0, 255 if depth == 8 else 65535)))
    with Image.open(out) as image:
        told = image.getexif()
        assert (told.get_ifd(0x8769)[0xA002], told.get_ifd(0x8769)[0xA003]) == image.size
        assert told[270] == "A portrait" and image.info["icc_profile"] == profile
    same = (after.rgb == lanczos_of(rgb, factor)).all(2)
    assert not same.all() and same[-35 * factor :].all() and same[:, -23 * factor :].all()
    entry = json.loads(report.read_text())["files"][0]["report"]
    assert (entry["upscale"], entry["upscaled_by"]) == (factor, "Lanczos")
    boxes = [told["box"] for told in entry["faces"] if told["action"] == "restored"]
    assert len(boxes) == 1 and max(boxes[0]) < 198
    assert (tmp_path / "out.compare.png").is_file()


def test_a_picture_without_a_face_is_enlarged_and_not_copied(tmp_path):
    source, out = tmp_path / "flat.jpg", tmp_path / "out.jpg"
    Image.fromarray(np.tile(np.arange(40, dtype=np.uint8) * 5, (30, 1))).save(source, quality=95)
    assert run("restore", source, "-o", out, "--upscale", 2) == 0
    with Image.open(out) as image:
        assert image.size == (80, 60) and image.mode == "L"


def test_options_that_do_not_fit_are_refused(portrait, tmp_path, capsys):
    assert run("restore", portrait, "-o", tmp_path / "out.png", "--upscale-model", "model.pth") == 1
    assert "--upscale-model was given without --upscale" in capsys.readouterr().err
    assert run("restore", portrait, "-o", tmp_path / "out.png", "--upscale", 3) == 2
    assert not (tmp_path / "out.png").exists()
