"""What PNG, WebP and TIFF files say beside their pixels, kept byte for byte."""

from __future__ import annotations

import io
import re
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from bfr_core.media.pictures import Picture, read_picture, write_picture
from bfr_core.media.pictures.xmp import fitted

RNG = np.random.default_rng(20)
PACKET = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description dc:title="\xe7\x8c\xab"/></x:xmpmeta>'
PROMPT = b"a cat, <lora:x:0.8>\nNegative prompt: \nSteps: 20, Sampler: Euler a"


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, place = [], 8
    while place < len(data):
        size = struct.unpack_from(">I", data, place)[0]
        found.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + size]))
        place += 12 + size
    return found


def png(*extra: tuple[bytes, bytes], depth: int = 8) -> bytes:
    """Return a PNG of 4 x 3 pixels with these chunks in front of its pixels."""
    rows = b"".join(b"\0" + RNG.integers(0, 256, 4 * 3 * depth // 8, dtype=np.uint8).tobytes() for _ in range(3))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 3, depth, 2, 0, 0, 0))
    middle = b"".join(chunk(*each) for each in extra)
    return b"\x89PNG\r\n\x1a\n" + header + middle + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


KEPT = (
    (b"gAMA", struct.pack(">I", 100_000)),
    (b"cHRM", struct.pack(">8I", 31_270, 32_900, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000)),
    (b"sRGB", b"\0"),
    (b"cICP", bytes([9, 16, 0, 1])),
    (b"pHYs", struct.pack(">IIB", 11_811, 5_906, 1)),
    (b"tEXt", b"parameters\0" + PROMPT),
    (b"tEXt", b'prompt\0{"3": {"class_type": "KSampler"}}'),
    (b"zTXt", b"workflow\0\0" + zlib.compress(b'{"nodes": []}')),
    (b"iTXt", b"Title\0\1\0ja\0\xe8\xa1\xa8\0" + zlib.compress("猫".encode())),
    (b"vpAg", bytes(9)),
)


def store(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("depth", [8, 16])
def test_chunks_of_a_png_are_kept_byte_for_byte(tmp_path: Path, depth: int) -> None:
    xmp = (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + PACKET)
    picture = read_picture(store(tmp_path / "a.png", png(*KEPT, xmp, depth=depth)))
    assert picture.notes == ()
    assert write_picture(tmp_path / "b.png", replace(picture, rgb=255 - picture.rgb)) == ()
    found = [each for each in chunks((tmp_path / "b.png").read_bytes()) if each[0] not in (b"IHDR", b"IDAT", b"IEND")]
    assert sorted(found) == sorted([*KEPT, xmp])


def test_chunks_that_would_not_be_true_are_noted(tmp_path: Path) -> None:
    data = png((b"tIME", bytes(7)), (b"caBX", b"jumb"), (b"xxXX", b"of the pixels"), (b"sBIT", b"\5\6\5"))
    notes = read_picture(store(tmp_path / "a.png", data)).notes
    assert [note.split(" not kept")[0] for note in notes] == [
        "the time of the last change (tIME) is",
        "content credentials (C2PA), which vouch for the picture as it was are",
        "the chunk xxXX, which depends on the pixels, is",
        "how many bits were significant (sBIT) is",
    ]


def test_compressed_xmp_of_a_png_is_read(tmp_path: Path) -> None:
    body = b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(PACKET)
    assert read_picture(store(tmp_path / "a.png", png((b"iTXt", body)))).beside.xmp == PACKET
    broken = read_picture(store(tmp_path / "b.png", png((b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0no"))))
    assert broken.beside.xmp is None


def test_a_png_as_jpeg_keeps_what_that_holds_and_says_the_rest(tmp_path: Path) -> None:
    xmp = (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + PACKET)
    picture = read_picture(store(tmp_path / "a.png", png(*KEPT[:1], *KEPT[4:7], xmp)))
    notes = write_picture(tmp_path / "a.jpg", picture)
    assert [note.split(":")[0] for note in notes] == [
        "a gamma of 1 (sRGB is assumed) is not kept",
    ]
    back = read_picture(tmp_path / "a.jpg")
    assert back.beside.xmp == PACKET
    assert back.beside.density == (300, 150, "inch")


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_the_prompt_of_an_image_generator_goes_where_its_program_looks(tmp_path: Path, suffix: str) -> None:
    text = "猫, a cat\nSteps: 20"
    info = PngImagePlugin.PngInfo()
    info.add_itxt("parameters", text)
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png", pnginfo=info)
    assert write_picture(tmp_path / f"a{suffix}", read_picture(tmp_path / "a.png")) == ()
    with Image.open(tmp_path / f"a{suffix}") as image:
        comment = image.getexif().get_ifd(0x8769)[0x9286]
    assert comment[:8] == b"UNICODE\0"
    assert comment[8:].decode("utf-16-be") == text


def webp(pixels: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "webp", **options)
    return stream.getvalue()


@pytest.mark.parametrize("lossless", [False, True])
def test_xmp_and_exif_of_a_webp_are_kept(tmp_path: Path, lossless: bool) -> None:
    pixels = RNG.integers(0, 256, (20, 30, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x010F] = "Camera"
    source = webp(pixels, lossless=lossless, exact=True, xmp=PACKET, exif=exif.tobytes())
    picture = read_picture(store(tmp_path / "a.webp", source))
    assert picture.notes == ()
    write_picture(tmp_path / "b.webp", picture)
    back = read_picture(tmp_path / "b.webp")
    assert (back.beside.xmp, back.exif) == (PACKET, picture.exif)
    assert back.coding.lossless == lossless
    if lossless:
        assert np.array_equal(np.dstack([back.rgb, back.alpha]), pixels)


def test_unknown_chunks_of_a_webp_are_noted(tmp_path: Path) -> None:
    data = webp(np.zeros((8, 8, 3), np.uint8), xmp=PACKET) + b"ABCD\2\0\0\0xy" + b"C2PA\2\0\0\0xy"
    data = data[:4] + struct.pack("<I", len(data) - 8) + data[8:]
    notes = read_picture(store(tmp_path / "a.webp", data)).notes
    assert len(notes) == 2
    assert "ABCD" in notes[0]
    assert "C2PA" in notes[1]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_xmp_iptc_and_photoshop_data_of_a_tiff_are_kept(tmp_path: Path, dtype: type) -> None:
    resources = b"8BIM\x04\x04\0\0" + struct.pack(">I", 12) + b"\x1c\x02\x78\0\x07Caption"
    beside = read_picture_beside(tmp_path, dtype, resources)
    assert beside.xmp == PACKET
    assert beside.resources == resources
    assert beside.iptc == b"\x1c\x02\x78\0\x07Caption"


def read_picture_beside(tmp_path: Path, dtype: type, resources: bytes):
    info = {700: PACKET, 34377: resources, 33723: b"\x1c\x02\x78\0\x07Caption"}
    Image.new("RGB", (8, 8)).save(tmp_path / "a.tif", tiffinfo=info)
    picture = read_picture(tmp_path / "a.tif")
    assert picture.notes == ()
    picture = replace(picture, rgb=picture.rgb.astype(dtype))
    assert write_picture(tmp_path / "b.tif", picture) == ()
    with Image.open(tmp_path / "b.tif") as image:
        assert bytes(image.tag_v2[700]) == PACKET
    if dtype == np.uint8:
        # Photoshop's data have a place in a JPEG, byte for byte.
        write_picture(tmp_path / "b.jpg", picture)
        assert read_picture(tmp_path / "b.jpg").beside.resources == resources
    return read_picture(tmp_path / "b.tif").beside


@pytest.mark.parametrize("orientation", range(1, 9))
def test_regions_turn_as_pixels_do(orientation: int) -> None:
    area = (
        "<mwg-rs:Area><stArea:x>{:.9g}</stArea:x><stArea:y>{:.9g}</stArea:y><stArea:w>{:.9g}</stArea:w>"
        "<stArea:h>{:.9g}</stArea:h></mwg-rs:Area>"
    )
    corner = '<rdf:li MPReg:Rectangle="{:.9g}, {:.9g}, {:.9g}, {:.9g}"/>'
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[4:12, 16:36] = 255
    packet = (area.format(26 / 80, 8 / 40, 20 / 80, 8 / 40) + corner.format(16 / 80, 4 / 40, 20 / 80, 8 / 40)).encode()
    image = Image.fromarray(pixels)
    image.getexif()[0x0112] = orientation
    stream = io.BytesIO()
    image.save(stream, "png", exif=image.getexif())
    with Image.open(stream) as stored:
        upright = np.asarray(ImageOps.exif_transpose(stored))
    rows, columns = np.flatnonzero(upright.any((1, 2))), np.flatnonzero(upright.any((0, 2)))
    height, width = upright.shape[:2]
    box = columns[0] / width, rows[0] / height, columns.size / width, rows.size / height
    expected = area.format(box[0] + box[2] / 2, box[1] + box[3] / 2, *box[2:]) + corner.format(*box)
    found = fitted(packet, orientation)
    assert numbers(found) == pytest.approx(numbers(expected.encode()), abs=1e-8)
    assert strip(found) == strip(packet)


def numbers(packet: bytes) -> list[float]:
    return [float(number) for number in re.findall(rb"(?<![\w.])\d+(?:\.\d+)?(?:e-?\d+)?(?![\w.])", packet)]


def strip(packet: bytes) -> bytes:
    return re.sub(rb"(?<![\w.])\d+(?:\.\d+)?(?:e-?\d+)?(?![\w.])", b"#", packet)


def test_a_picture_without_anything_beside_gets_nothing(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", Picture(np.zeros((4, 4, 3), np.uint8)))
    assert [name for name, _ in chunks((tmp_path / "a.png").read_bytes())] == [b"IHDR", b"IDAT", b"IEND"]
