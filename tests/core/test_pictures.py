"""Pictures in and out: every kind read right or refused in words, and written back with nothing lost."""

from __future__ import annotations

import io
import os
import socket
import struct
import subprocess
import sys
import threading
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile, TiffImagePlugin

from bfr_core.errors import BfrError, InputMediaError, OutputMediaError, SettingsError
from bfr_core.media import atomic, pictures
from bfr_core.media.atomic import publish
from bfr_core.media.pictures import Picture, from_float, read_picture, to_float, write_picture

RNG = np.random.default_rng(17)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
DTYPES = {"uint8": np.uint8, "uint16": np.uint16, "float32": np.float32}


def fake_profile(space: bytes, size: int = 3144) -> bytes:
    """Return a profile that is whole to a file format, of a colour space that lcms cannot make here."""
    body = bytearray(RNG.integers(0, 256, size, dtype=np.uint8).tobytes())
    body[0:4], body[16:20], body[36:40] = struct.pack(">I", size), space, b"acsp"
    return bytes(body)


def exif_block(orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "Camera"
    inner = exif.get_ifd(0x8769)
    inner[0x9003], inner[0xA002], inner[0xA003], inner[0x927C] = "2001:02:03 04:05:06", 7, 5, b"maker\0note"
    exif.get_ifd(0x8825)[1] = "N"
    return exif.tobytes().removeprefix(b"Exif\0\0")


def exif_values(block: bytes) -> tuple[dict, dict, dict]:
    exif = Image.Exif()
    exif.load(block)
    return dict(exif), dict(exif.get_ifd(0x8769)), dict(exif.get_ifd(0x8825))


def random_pixels(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    if dtype == np.float32:
        return RNG.normal(0.5, 2, shape).astype(np.float32)
    return RNG.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def make_picture(height: int, width: int, dtype: type, *, alpha: bool = False, gray: bool = False, **extra) -> Picture:
    rgb = random_pixels((height, width, 1 if gray else 3), dtype).repeat(3 if gray else 1, axis=2)
    return Picture(rgb, random_pixels((height, width), dtype) if alpha else None, gray=gray, **extra)


def assert_same_pixels(one: Picture, two: Picture) -> None:
    assert one.rgb.dtype == two.rgb.dtype
    assert one.rgb.tobytes() == two.rgb.tobytes()
    assert (one.alpha is None) == (two.alpha is None)
    if one.alpha is not None and two.alpha is not None:
        assert one.alpha.dtype == two.alpha.dtype
        assert one.alpha.tobytes() == two.alpha.tobytes()


def save(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(pixels: np.ndarray, **tags: object) -> bytes:
    """Return an uncompressed TIFF of one strip; `tags` as t262=0."""
    height, width, count = pixels.shape
    form = 3 if pixels.dtype.kind == "f" else 2 if pixels.dtype.kind == "i" else 1
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    values = {256: width, 257: height, 258: (8 * pixels.dtype.itemsize,) * count, 259: 1, 262: 2 if count > 2 else 1}
    values |= {277: count, 278: height, 284: 1, 339: (form,) * count}
    values |= {int(name[1:]): value for name, value in tags.items()}
    directory.tagtype |= {273: 4, 279: 4}
    for tag, value in (values | {273: (0,), 279: (pixels.nbytes,)}).items():
        directory[tag] = value
    stream = io.BytesIO()
    directory.save(stream)
    return stream.getvalue() + pixels.tobytes()


def store(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


# Row 17: what is read right


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_row17_round_trip_is_exact(tmp_path: Path, suffix: str, dtype: str, data: st.DataObject) -> None:
    if suffix == ".png" and dtype == "float32":
        return
    size = st.sampled_from([1, 2, 3, 7, 16, 33])
    height, width, alpha, gray = (data.draw(s) for s in (size, size, st.booleans(), st.booleans()))
    icc = data.draw(st.sampled_from([None, SRGB]))
    exif = data.draw(st.sampled_from([None, exif_block()]))
    picture = make_picture(height, width, DTYPES[dtype], alpha=alpha, gray=gray, icc=icc, exif=exif)
    path = tmp_path / f"a{suffix}"
    write_picture(path, picture)
    back = read_picture(path)
    assert_same_pixels(picture, back)
    assert back.icc == icc
    assert back.kind == {".png": "png", ".tif": "tiff"}[suffix]
    assert back.notes == ()
    assert back.gray == (gray and not (alpha and dtype != "uint8"))
    assert (back.exif is None) == (exif is None)


def test_row17_tiff_of_many_strips(tmp_path: Path) -> None:
    picture = make_picture(500, 801, np.uint16)
    write_picture(tmp_path / "a.tif", picture)
    assert_same_pixels(picture, read_picture(tmp_path / "a.tif"))
    with Image.open(tmp_path / "a.tif") as other:
        other.load()
        assert np.array_equal(np.asarray(other), picture.rgb >> 8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "8.tif", "16.tif", "float.tif", "16.png"])
def test_row17_exif_rotation_once(tmp_path: Path, name: str, orientation: int) -> None:
    dtype = np.float32 if "float" in name else np.uint16 if "16" in name else np.uint8
    picture = make_picture(32, 48, dtype, exif=exif_block(orientation))
    flat = picture.rgb.copy()
    flat[:] = flat.max()
    flat[:16, :16] = 0
    flat[:16, 16:32, 0] = 0
    picture = replace(picture, rgb=flat)
    path = tmp_path / name
    write_picture(path, picture)
    if name.endswith(".tif"):
        # The writer keeps the tag as the block has it, as another program would.
        assert exif_values(path.read_bytes())[0][0x0112] == orientation
    back = read_picture(path)
    transpose = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    tops = ((flat == flat.max()) * 255).astype(np.uint8)
    expected = Image.fromarray(tops)
    if orientation > 1:
        expected = expected.transpose(transpose[orientation])
    found = (back.rgb > back.rgb.max() / 2) * 255
    assert found.shape == np.asarray(expected).shape
    assert (found == np.asarray(expected)).mean() > (0.97 if back.kind in ("jpeg", "webp") else 0.999)
    assert back.exif is not None
    outer, inner, place = exif_values(back.exif)
    assert outer[0x0112] == 1
    assert outer[0x010F] == "Camera"
    assert inner[0x9003] == "2001:02:03 04:05:06"
    assert inner[0x927C] == b"maker\0note"
    assert place[1] == "N"
    assert (inner[0xA002], inner[0xA003]) == ((5, 7) if orientation >= 5 else (7, 5))
    write_picture(path, back)
    assert np.array_equal(read_picture(path).rgb.shape, back.rgb.shape)


def test_row17_old_preview_is_unlinked(tmp_path: Path) -> None:
    block = bytearray(exif_block())
    endian = "<" if block[:2] == b"II" else ">"
    first = struct.unpack_from(f"{endian}I", block, 4)[0]
    end = first + 2 + 12 * struct.unpack_from(f"{endian}H", block, first)[0]
    struct.pack_into(f"{endian}I", block, end, first)
    path = save(tmp_path / "a.jpg", Image.new("RGB", (8, 8)), exif=b"Exif\0\0" + bytes(block))
    back = read_picture(path)
    assert back.exif is not None
    assert struct.unpack_from(f"{endian}I", back.exif, end)[0] == 0


@pytest.mark.parametrize("damage", [b"garbage", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff"])
def test_row17_damaged_exif_is_noted(tmp_path: Path, damage: bytes) -> None:
    path = save(tmp_path / "a.jpg", Image.new("RGB", (8, 8)), exif=b"Exif\0\0" + damage)
    back = read_picture(path)
    assert back.exif is None
    assert "the EXIF block is damaged and not kept" in back.notes


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "16.png", "a.webp", "a.tif", "16.tif", "float.tif"])
@pytest.mark.parametrize("gray", [False, True])
def test_row17_profile_and_exif_survive(tmp_path: Path, name: str, gray: bool) -> None:
    dtype = np.float32 if "float" in name else np.uint16 if "16" in name else np.uint8
    icc = fake_profile(b"GRAY" if gray else b"RGB ", 70_000)
    picture = make_picture(9, 11, dtype, gray=gray, icc=icc, exif=exif_block())
    write_picture(tmp_path / name, picture)
    back = read_picture(tmp_path / name)
    if gray and name == "a.webp":
        assert (back.icc, back.gray) == (None, False)
    else:
        assert (back.icc, back.gray) == (icc, gray)
    assert back.exif is not None
    assert exif_values(back.exif) == exif_values(picture.exif or b"")


def test_row17_profile_opens_in_a_colour_engine(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "16.png", "a.webp", "a.tif", "16.tif"):
        dtype = np.uint16 if "16" in name else np.uint8
        write_picture(tmp_path / name, make_picture(4, 4, dtype, icc=SRGB))
        with Image.open(tmp_path / name) as image:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        assert "sRGB" in ImageCms.getProfileDescription(profile)


def test_row17_palette_gray_and_one_bit(tmp_path: Path) -> None:
    colour = Image.fromarray(random_pixels((8, 9, 3), np.uint8))
    palette = colour.quantize(16)
    back = read_picture(save(tmp_path / "p.png", palette))
    assert np.array_equal(back.rgb, np.asarray(palette.convert("RGB")))
    assert not back.gray
    assert back.notes == ("the palette becomes full RGB",)

    back = read_picture(save(tmp_path / "pt.png", palette, transparency=3))
    assert back.alpha is not None
    assert np.array_equal(back.alpha == 0, np.asarray(palette) == 3)

    bits = Image.fromarray(random_pixels((8, 9), np.uint8)).convert("1")
    for name in ("1.png", "1.tif"):
        back = read_picture(save(tmp_path / name, bits))
        assert back.gray
        assert np.array_equal(back.rgb[..., 1], np.asarray(bits) * np.uint8(255))

    gray = random_pixels((8, 9), np.uint8)
    for name in ("g.png", "g.tif"):
        back = read_picture(save(tmp_path / name, Image.fromarray(gray)))
        assert back.gray
        assert np.array_equal(back.rgb, gray[..., None].repeat(3, axis=2))

    keyed = read_picture(save(tmp_path / "gt.png", Image.fromarray(gray), transparency=int(gray[2, 3])))
    assert keyed.gray
    assert keyed.alpha is not None
    assert np.array_equal(keyed.alpha == 0, gray == gray[2, 3])


def test_row17_deep_png_colour_types(tmp_path: Path) -> None:
    pixels = random_pixels((5, 7, 2), np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    back = read_picture(store(tmp_path / "la.png", png(7, 5, 16, 4, rows)))
    assert back.gray
    assert back.alpha is not None
    assert np.array_equal(back.rgb[..., 0], pixels[..., 0])
    assert np.array_equal(back.alpha, pixels[..., 1])

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels[..., 0])
    back = read_picture(store(tmp_path / "l.png", png(7, 5, 16, 0, rows)))
    assert back.gray
    assert back.rgb.dtype == np.uint16
    assert np.array_equal(back.rgb[..., 2], pixels[..., 0])


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_row17_lzw_tiff(tmp_path: Path, dtype: str, channels: int) -> None:
    pixels = random_pixels((21, 34, channels), DTYPES[dtype])
    # OpenCV writes BGR(A), LZW and a predictor.
    data = cv2.imencode(".tif", pixels, [cv2.IMWRITE_TIFF_COMPRESSION, 5])[1].tobytes()
    back = read_picture(store(tmp_path / "a.tif", data))
    if channels == 1:
        assert np.array_equal(back.rgb[..., 1], pixels[..., 0])
    else:
        assert np.array_equal(back.rgb[..., ::-1], pixels[..., :3])
    assert (back.alpha is not None) == (channels == 4)


def test_row17_lzw_tiff_of_8_bit(tmp_path: Path) -> None:
    pixels = random_pixels((21, 34, 4), np.uint8)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        path = save(tmp_path / "a.tif", Image.fromarray(pixels), compression=compression)
        back = read_picture(path)
        assert np.array_equal(back.rgb, pixels[..., :3])
        assert np.array_equal(back.alpha, pixels[..., 3])


def test_row17_tiff_of_other_programs(tmp_path: Path) -> None:
    gray = random_pixels((5, 7, 1), np.uint16)
    back = read_picture(store(tmp_path / "white.tif", tiff(gray, t262=0)))
    assert np.array_equal(back.rgb[..., 0], 65_535 - gray[..., 0])

    rgba = random_pixels((5, 7, 4), np.uint16)
    back = read_picture(store(tmp_path / "unknown.tif", tiff(rgba, t338=(0,))))
    assert back.alpha is None
    assert np.array_equal(back.rgb, rgba[..., :3])
    assert "1 extra channel(s) are not kept" in back.notes

    rgba[..., 3] = 32_768
    rgba[..., :3] //= 2
    back = read_picture(store(tmp_path / "premultiplied.tif", tiff(rgba, t338=(1,))))
    assert np.abs(back.rgb.astype(int) - 2 * rgba[..., :3].astype(int)).max() <= 2
    assert "premultiplied alpha turned into plain alpha" in back.notes

    xmp = save(tmp_path / "xmp.tif", Image.new("RGB", (4, 4)), tiffinfo={700: b"<x/>"})
    back = read_picture(xmp)
    assert (back.notes, back.beside.xmp) == ((), b"<x/>")

    images = [Image.fromarray(random_pixels((4, 4, 3), np.uint8)) for _ in range(3)]
    path = save(tmp_path / "pages.tif", images[0], save_all=True, append_images=images[1:])
    back = read_picture(path)
    assert np.array_equal(back.rgb, np.asarray(images[0]))
    assert "first page of 3 used" in back.notes


@pytest.mark.parametrize(
    ("pixels", "tags", "word"),
    [
        (np.zeros((5, 7, 3), np.int16), {}, "signed"),
        (np.zeros((5, 7, 3), np.uint32), {}, "32 bit unsigned"),
        (np.zeros((5, 7, 3), np.float64), {}, "64 bit float"),
        (np.zeros((5, 7, 3), np.float16), {}, "16 bit float"),
        (np.zeros((5, 7, 4), np.float32), {"t262": 5}, "photometric 5"),
    ],
)
def test_row17_unusual_tiff_is_refused_by_name(tmp_path: Path, pixels: np.ndarray, tags: dict, word: str) -> None:
    with pytest.raises(InputMediaError, match=word):
        read_picture(store(tmp_path / "a.tif", tiff(pixels, **tags)))


def test_row17_nan_in_float_tiff(tmp_path: Path) -> None:
    pixels = np.zeros((5, 7, 3), np.float32)
    pixels[1, 2] = np.nan, np.inf, 0
    with pytest.raises(InputMediaError, match="2 of its values are NaN"):
        read_picture(store(tmp_path / "a.tif", tiff(pixels)))


def test_row17_cmyk(tmp_path: Path) -> None:
    ink = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    back = read_picture(save(tmp_path / "a.jpg", ink, quality=100))
    assert back.rgb[4, 4].tolist() == pytest.approx([0, 255, 255], abs=3)
    assert any("CMYK" in note for note in back.notes)
    # A damaged profile must not stop the reading.
    back = read_picture(save(tmp_path / "b.jpg", ink, quality=100, icc_profile=fake_profile(b"CMYK")))
    assert back.icc is None
    assert any("damaged" in note for note in back.notes)


def cmyk_profile(cyan: tuple[int, int, int]) -> bytes:
    """Return a small printer profile: `cyan` is the L*a*b* of pure cyan ink, other inks are gray, black is black."""
    nodes = []
    for node in range(16):
        c, m, y, k = (node >> bit & 1 for bit in (3, 2, 1, 0))
        lab = (0, 0, 0) if k else (100 - 30 * (m + y), 0, 0) if m or y else cyan if c else (100, 0, 0)
        nodes += [round(lab[0] * 2.55), lab[1] + 128, lab[2] + 128]
    identity = struct.pack(">9i", *(65_536 * (n % 4 == 0) for n in range(9)))
    ramp = bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + ramp * 4 + bytes(nodes) + ramp * 3
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63_190, 65_536, 54_061)
    start = 128 + 4 + 2 * 12
    tags = struct.pack(">I4sII4sII", 2, b"A2B0", start, len(table), b"wtpt", start + len(table) + 1, len(white))
    body = tags + table + b"\0" + white
    header = bytearray(128)
    struct.pack_into(">I4sI4s4s4s", header, 0, 128 + len(body), b"", 0x02400000, b"prtr", b"CMYK", b"Lab ")
    header[36:40] = b"acsp"
    struct.pack_into(">3i", header, 68, 63_190, 65_536, 54_061)
    return bytes(header) + body


def test_row17_cmyk_goes_through_its_profile(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.tif"):
        ink = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
        options = {"quality": 100} if name == "a.jpg" else {}
        back = read_picture(save(tmp_path / name, ink, icc_profile=cmyk_profile((60, -30, -40)), **options))
        # L*a*b* (60, -30, -40) D50 is sRGB (0, 161, 214); the plain formula would give (0, 255, 255).
        assert back.rgb[4, 4].tolist() == pytest.approx([0, 161, 214], abs=4)
        assert back.icc is None
        assert back.notes == ("CMYK converted to sRGB RGB through its ICC profile",)


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_row17_animation_gives_its_first_frame(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (16, 16), (60 * n, 0, 0)) for n in range(4)]
    path = save(tmp_path / f"a{suffix}", frames[0], save_all=True, append_images=frames[1:], lossless=True)
    back = read_picture(path)
    assert back.rgb.max() == 0
    assert "animated: first frame of 4 used" in back.notes


def test_row17_phone_jpeg_with_a_second_picture(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 16), (200 * n, 0, 0)) for n in range(2)]
    path = save(tmp_path / "a.jpg", frames[0], format="MPO", save_all=True, append_images=frames[1:])
    back = read_picture(path)
    assert back.kind == "jpeg"
    assert back.rgb.max() < 5
    notes = write_picture(tmp_path / "a.png", back)
    assert any("a second picture of 16 x 16 pixels" in note for note in notes)


def test_row17_webp_alpha(tmp_path: Path) -> None:
    picture = make_picture(9, 13, np.uint8, alpha=True)
    write_picture(tmp_path / "a.webp", picture, quality=100)
    assert_same_pixels(picture, read_picture(tmp_path / "a.webp"))
    write_picture(tmp_path / "b.webp", picture)
    assert np.array_equal(read_picture(tmp_path / "b.webp").alpha, picture.alpha)


def test_row17_content_decides_not_the_name(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", Image.new("RGB", (4, 4)), format="PNG")
    back = read_picture(path)
    assert back.kind == "png"
    assert back.notes == ("named .jpg but holds PNG",)


def test_row17_jpeg_keeps_its_colour_resolution(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.jpg", make_picture(16, 16, np.uint8))
    with Image.open(tmp_path / "a.jpg") as image:
        assert {(layer[1], layer[2]) for layer in image.layer} == {(1, 1)}


# Row 17: what is refused


def refused(path: Path) -> str:
    with pytest.raises(InputMediaError) as caught:
        read_picture(path)
    return caught.value.found


def test_row17_decompression_bomb(tmp_path: Path) -> None:
    bomb = png(60_000, 60_000, 8, 2, b"\0" * 64)
    assert "60000 x 60000" in refused(store(tmp_path / "bomb.png", bomb))
    assert "60000 x 60000" in refused(
        store(tmp_path / "bomb.tif", tiff(np.zeros((1, 1, 3), np.uint8), t256=60_000, t257=60_000))
    )
    jpeg = bytearray(save(tmp_path / "a.jpg", Image.new("RGB", (8, 8))).read_bytes())
    frame = jpeg.index(b"\xff\xc0")
    struct.pack_into(">HH", jpeg, frame + 5, 60_000, 50_000)
    assert "50000 x 60000" in refused(store(tmp_path / "bomb.jpg", bytes(jpeg)))
    webp = b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X" + struct.pack("<I", 10) + b"\0" * 4 + b"\xfe\xff\0" * 2
    assert "65535 x 65535" in refused(store(tmp_path / "bomb.webp", webp))


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif", "16.png", "16.tif", "float.tif"])
def test_row17_truncated_file(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # ComfyUI and others turn this on for the whole process.
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    dtype = np.float32 if "float" in name else np.uint16 if "16" in name else np.uint8
    write_picture(tmp_path / name, make_picture(48, 64, dtype))
    whole = (tmp_path / name).read_bytes()
    for length in {12, 20, 30, len(whole) // 4, len(whole) // 2, len(whole) - 40}:
        found = refused(store(tmp_path / name, whole[:length]))
        assert "cut short" in found or "damaged" in found, length
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_row17_distinct_refusals(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere.png")
    texts = [
        refused(tmp_path / "missing.png"),
        refused(tmp_path / "folder.png"),
        refused(tmp_path / "link.png"),
        refused(store(tmp_path / "empty.png", b"")),
        refused(store(tmp_path / "page.png", b"\n<!DOCTYPE html><html>404</html>")),
        refused(store(tmp_path / "lfs.png", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n")),
        refused(store(tmp_path / "text.png", b"hello")),
        refused(store(tmp_path / "a.psd", b"8BPS\0\1")),
        refused(store(tmp_path / "a.heic", b"\0\0\0\x18ftypqt  ")),
        refused(Path("nul\0.png")),
    ]
    assert len(set(texts)) == len(texts)
    for text, word in zip(
        texts, ("no such", "folder", "link", "empty", "web page", "LFS", "68 65", "Photoshop", "MP4"), strict=False
    ):
        assert word in text


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFO on this system")
def test_row17_fifo_and_socket_do_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    result: list[str] = []
    thread = threading.Thread(target=lambda: result.append(refused(tmp_path / "a.png")), daemon=True)
    thread.start()
    thread.join(5)
    assert result and "pipe" in result[0]
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "s.png"))
        assert "socket" in refused(tmp_path / "s.png")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions say nothing to root")
def test_row17_unreadable_file(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.new("RGB", (4, 4)))
    path.chmod(0)
    assert "may not read" in refused(path)


@pytest.mark.parametrize(
    ("error", "word"), [(PermissionError(13, "denied"), "may not read"), (OSError(5, "I/O error"), "I/O error")]
)
def test_row17_unreadable_file_as_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, word: str
) -> None:
    path = save(tmp_path / "a.png", Image.new("RGB", (4, 4)))

    def fail(self: Path) -> bytes:
        raise error

    monkeypatch.setattr(Path, "read_bytes", fail)
    assert word in refused(path)


def test_row17_replay_folder_of_odd_files(tmp_path: Path) -> None:
    """Cut and mutate every kind of file; the list of allowed exceptions has one entry."""
    allowed = (BfrError,)
    seeds: list[bytes] = []
    for name in ("a.jpg", "a.png", "a.webp", "a.tif", "16.png", "16.tif", "float.tif"):
        dtype = np.float32 if "float" in name else np.uint16 if "16" in name else np.uint8
        for gray in (False, True):
            alpha = not name.endswith("jpg")
            picture = make_picture(12, 10, dtype, alpha=alpha, gray=gray, icc=SRGB, exif=exif_block(6))
            write_picture(tmp_path / name, picture)
            seeds.append((tmp_path / name).read_bytes())
    seeds.append(save(tmp_path / "c.jpg", Image.new("CMYK", (8, 8)), icc_profile=SRGB).read_bytes())
    rng = np.random.default_rng(0)
    path, read, refused_count = tmp_path / "odd", 0, 0
    for _ in range(25):
        for seed in seeds:
            odd = bytearray(seed)
            for _ in range(rng.integers(1, 6)):
                # Headers sit in front, where a change does most.
                reach = len(odd) if rng.random() < 0.5 else min(len(odd), 120)
                odd[rng.integers(4, reach)] = rng.integers(256)
            if rng.random() < 0.2:
                odd = odd[: rng.integers(len(odd))]
            path.write_bytes(odd)
            try:
                picture = read_picture(path)
            except allowed:
                refused_count += 1
            else:
                read += 1
                assert picture.rgb.size <= 3 * pictures.MAX_PIXELS
    assert read > 50
    assert refused_count > 50


# Tensors


@pytest.mark.parametrize("dtype", DTYPES)
def test_row18_unchanged_pixels_are_the_original_bits(dtype: str) -> None:
    picture = make_picture(9, 7, DTYPES[dtype], alpha=True, icc=SRGB, exif=exif_block())
    rgb = to_float(picture)
    assert rgb.shape == (3, 9, 7)
    assert rgb.dtype == torch.float32
    assert_same_pixels(from_float(picture, rgb), picture)
    changed = torch.zeros(9, 7, dtype=torch.bool)
    changed[2:4, 3] = True
    result = from_float(picture, torch.full_like(rgb, 2.0), changed)
    mask = changed.numpy()
    assert result.rgb[~mask].tobytes() == picture.rgb[~mask].tobytes()
    full = {"uint8": 255, "uint16": 65_535, "float32": 2}[dtype]
    assert (result.rgb[mask] == full).all()
    assert (result.icc, result.exif) == (picture.icc, picture.exif)
    assert result.rgb.dtype == picture.rgb.dtype


def test_row17_every_16_bit_value_survives_float() -> None:
    rgb = np.arange(65_536, dtype=np.uint16).reshape(256, 256, 1).repeat(3, axis=2)
    picture = Picture(rgb)
    assert np.array_equal(from_float(picture, to_float(picture)).rgb, rgb)


def test_row16_bad_tensors_are_refused() -> None:
    picture = make_picture(4, 5, np.uint8)
    good = to_float(picture)
    for bad in (good[:, :3], good.permute(1, 2, 0), good.unsqueeze(0), good.to(torch.uint8)):
        with pytest.raises(InputMediaError, match="expected"):
            from_float(picture, bad)
    for value in (float("nan"), float("inf")):
        bad = good.clone()
        bad[0, 0, 0] = value
        with pytest.raises(InputMediaError, match="NaN"):
            from_float(picture, bad)
    with pytest.raises(InputMediaError):
        from_float(picture, good, torch.ones(4, 5))
    with pytest.raises(InputMediaError):
        Picture(np.zeros((4, 5), np.uint8))
    with pytest.raises(InputMediaError):
        Picture(np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), np.uint16))


def test_row17_gray_that_became_colour(tmp_path: Path) -> None:
    picture = make_picture(4, 5, np.uint8, gray=True, icc=fake_profile(b"GRAY"))
    rgb = to_float(picture)
    rgb[0] = 1 - rgb[0]
    result = from_float(picture, rgb)
    assert result.icc is None
    assert any("gray ICC" in note for note in result.notes)
    write_picture(tmp_path / "a.png", result)
    assert not read_picture(tmp_path / "a.png").gray


# Writing


@pytest.mark.parametrize(
    ("name", "picture", "word"),
    [
        ("a.jpg", make_picture(2, 2, np.uint16), ".png"),
        ("a.jpg", make_picture(2, 2, np.uint8, alpha=True), "alpha"),
        ("a.webp", make_picture(2, 2, np.uint16), ".png"),
        ("a.png", make_picture(2, 2, np.float32), ".tif"),
        ("a.webp", Picture(np.zeros((1, 16_384, 3), np.uint8)), "16383"),
        ("a.jpg", Picture(np.zeros((1, 65_501, 3), np.uint8)), "65500"),
        ("a.jpg", Picture(np.zeros((1, 1, 3), np.uint8), exif=exif_block() + b"\0" * 66_000), "EXIF"),
        ("a.tga", make_picture(2, 2, np.uint8), "suffix"),
        ("a.bmp", make_picture(2, 2, np.uint8, alpha=True), "alpha"),
        ("a.gif", make_picture(2, 2, np.uint8, alpha=True), "half transparent"),
        ("a.avif", make_picture(2, 2, np.uint16), "holds 8"),
        ("a.jp2", make_picture(2, 2, np.uint8, icc=fake_profile(b"RGB ")), "profile"),
    ],
)
def test_row40_what_a_format_cannot_hold_is_refused(tmp_path: Path, name: str, picture: Picture, word: str) -> None:
    with pytest.raises(OutputMediaError, match=word):
        write_picture(tmp_path / name, picture)
    assert list(tmp_path.iterdir()) == []


def test_row58_quality_out_of_range(tmp_path: Path) -> None:
    for quality in (0, 101):
        with pytest.raises(SettingsError):
            write_picture(tmp_path / "a.jpg", make_picture(2, 2, np.uint8), quality=quality)


def test_row40_missing_folder_file_as_folder_folder_as_file(tmp_path: Path) -> None:
    picture = make_picture(2, 2, np.uint8)
    store(tmp_path / "file", b"x")
    (tmp_path / "taken.png").mkdir()
    for path, word in (("no/a.png", "does not exist"), ("file/a.png", "file stands"), ("taken.png", "folder has")):
        with pytest.raises(OutputMediaError, match=word):
            write_picture(tmp_path / path, picture)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken.png"]


@pytest.mark.parametrize(("number", "word"), [(28, "full"), (30, "read-only"), (13, "read-only"), (5, "refused")])
def test_row41_failing_write_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, word: str
) -> None:
    target = store(tmp_path / "a.png", b"old")

    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.os, "fsync", fail)
    with pytest.raises(OutputMediaError, match=word):
        write_picture(target, make_picture(2, 2, np.uint8))
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_FSIZE")
def test_row41_disk_full_for_real(tmp_path: Path) -> None:
    code = """
import resource, sys
from pathlib import Path
from bfr_core.errors import OutputMediaError
from bfr_core.media.atomic import publish
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with publish(Path(sys.argv[1])) as file:
        for _ in range(100):
            file.write(b"x" * 100)
except OutputMediaError as error:
    sys.exit(0 if "full" in str(error) and "1000 bytes" in str(error) else str(error))
sys.exit("no error")
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.bin")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_row43_any_exception_removes_the_temporary_file(tmp_path: Path, error: type[BaseException]) -> None:
    target = store(tmp_path / "a.bin", b"old")
    with pytest.raises(error), publish(target) as file:
        file.write(b"new")
        raise error
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_row41_errors_about_other_files_pass_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), publish(tmp_path / "a.bin"):
        (tmp_path / "input").read_bytes()
    assert list(tmp_path.iterdir()) == []


def test_row43_published_under_the_final_name_only_when_whole(tmp_path: Path) -> None:
    target = tmp_path / "a.mp4"
    with publish(target) as file:
        assert Path(file.name).suffix == ".mp4"
        assert Path(file.name).parent == tmp_path
        file.write(b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [target]
