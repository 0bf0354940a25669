"""What stands behind the end of a JPEG: gain maps, second pictures, previews, films of motion photos."""

from __future__ import annotations

import io
import re
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bfr_core.media.pictures import read_picture, write_picture

RNG = np.random.default_rng(19)
HEIGHT, WIDTH = 480, 640
FACE = (slice(160, 320), slice(240, 400))
NEAR = (slice(140, 340), slice(220, 420))
HDRGM = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" '
HDRGM += b'hdrgm:Version="1.0" hdrgm:GainMapMax="2.3"/></x:xmpmeta>'
APPLE = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description xmlns:HDRGainMap="http://ns.apple.com/HDRGainMap/1.0/" '
APPLE += b"><HDRGainMap:HDRGainMapVersion>65536</HDRGainMap:HDRGainMapVersion></rdf:Description></x:xmpmeta>"
ISO = b"urn:iso:std:iso:ts:21496:-1\0"


def picture() -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    waves = np.stack([np.sin(x / 40) * np.cos(y / 31), np.sin(x / 23 + y / 50), np.cos(x * y / 9000)], 2)
    return (128 + 70 * waves + RNG.normal(0, 2, waves.shape)).clip(20, 235).astype(np.uint8)


def gain() -> np.ndarray:
    y, x = np.mgrid[: HEIGHT // 4, : WIDTH // 4].astype(np.float32)
    values = 120 + 50 * np.sin(x / 20) + 30 * np.cos(y / 17) + RNG.normal(0, 12, x.shape)
    return values.clip(0, 255).astype(np.uint8)


def jpeg(pixels: np.ndarray, *segments: bytes, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "jpeg", **({"quality": 85} | options))
    data = stream.getvalue()
    return data[:20] + b"".join(segments) + data[20:]


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def xmp(packet: bytes) -> bytes:
    return segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + packet)


def index(endian: str, kinds: list[int], sizes: list[int], offsets: list[int]) -> bytes:
    """Return the segment of CIPA DC-007: version, number of pictures, entries."""
    header = b"II*\0" if endian == "<" else b"MM\0*"
    count, entries = len(kinds), 8 + 2 + 3 * 12 + 4
    body = header + struct.pack(f"{endian}IH", 8, 3)
    body += struct.pack(f"{endian}HHI4s", 0xB000, 7, 4, b"0100")
    body += struct.pack(f"{endian}HHII", 0xB001, 4, 1, count)
    body += struct.pack(f"{endian}HHIII", 0xB002, 7, 16 * count, entries, 0)
    for kind, size, offset in zip(kinds, sizes, offsets, strict=True):
        body += struct.pack(f"{endian}IIIHH", kind, size, offset, 0, 0)
    return segment(0xE2, b"MPF\0" + body)


def joined(
    first: np.ndarray, others: list[bytes], kinds: list[int], *, endian: str = ">", directory: bytes = b""
) -> bytes:
    """Return a file of several pictures with a true index."""
    front = [xmp(directory)] if directory else []
    sizes, base = [0] * len(kinds), 20 + sum(map(len, front)) + 8
    for _ in range(2):
        offsets = [0, *(int(end) for end in np.cumsum(sizes)[:-1])]
        offsets = [offset and offset - base for offset in offsets]
        primary = jpeg(first, *front, index(endian, kinds, sizes, offsets))
        sizes = [len(primary), *map(len, others)]
    return b"".join([primary, *others])


def read_index(data: bytes) -> list[tuple[int, int]]:
    """Return where the pictures of the index begin, and their sizes."""
    base = data.index(b"MPF\0") + 4
    endian = "<" if data[base : base + 2] == b"II" else ">"
    count = struct.unpack_from(f"{endian}I", data, base + 8 + 2 + 12 + 8)[0]
    found = [struct.unpack_from(f"{endian}II", data, base + 50 + 16 * number + 4) for number in range(count)]
    return [(offset and base + offset, size) for size, offset in found]


def decoded(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=["jpeg"]) as image:
        return np.asarray(image).astype(int)


def restore(path: Path, data: bytes) -> tuple[bytes, tuple[str, ...]]:
    """Write the file back with another face."""
    path.write_bytes(data)
    read = read_picture(path)
    rgb = read.rgb.copy()
    rgb[FACE] = 255 - rgb[FACE]
    notes = write_picture(path.with_name("out.jpg"), replace(read, rgb=rgb))
    return path.with_name("out.jpg").read_bytes(), (*read.notes, *notes)


def directory(length: int, film: int = 0) -> bytes:
    items = (
        b'<rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="Primary" Item:Mime="image/jpeg"/></rdf:li>'
    )
    items += b'<rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="GainMap" Item:Mime="image/jpeg" '
    items += f'Item:Length="{length}"/></rdf:li>'.encode()
    if film:
        items += b'<rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="MotionPhoto" Item:Mime="video/mp4" '
        items += f'Item:Length="{film}"/></rdf:li>'.encode()
    return (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description '
        b'xmlns:Container="http://ns.google.com/photos/1.0/container/" '
        b'xmlns:Item="http://ns.google.com/photos/1.0/container/item/" '
        b'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"><Container:Directory><rdf:Seq>'
        + items
        + b"</rdf:Seq></Container:Directory></rdf:Description></x:xmpmeta>"
    )


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("marks", ["ultra hdr", "iso", "apple"])
@pytest.mark.parametrize("colour", [False, True])
def test_a_gain_map_is_carried(tmp_path: Path, endian: str, marks: str, colour: bool) -> None:
    own = {"ultra hdr": [xmp(HDRGM)], "iso": [segment(0xE2, ISO + bytes(57))], "apple": [xmp(APPLE)]}[marks]
    values = np.stack([gain()] * 3, 2) if colour else gain()
    second = jpeg(values, *own, quality=90, subsampling=0)
    source = joined(picture(), [second], [0x030000, 0], endian=endian, directory=directory(len(second)))
    result, notes = restore(tmp_path / "a.jpg", source)
    assert notes == ()
    (start, size), (second_start, second_size) = read_index(result)
    assert (start, second_start, second_start + second_size) == (0, size, len(result))
    new = result[second_start:]
    assert new[20 : 20 + len(own[0])] == own[0]
    assert f'Item:Length="{len(new)}"'.encode() in result
    old, now = decoded(second), decoded(new)
    face = tuple(slice(each.start // 4, each.stop // 4) for each in FACE)
    far = np.abs(now - old)
    far[tuple(slice(each.start // 4 - 4, each.stop // 4 + 4) for each in NEAR)] = 0
    assert far.max() <= 2
    # Inside, the level of the gain stays, and the noise of the old one goes.
    assert abs(now[face].mean() - old[face].mean()) < 3
    assert np.diff(now[face], axis=1).std() < 0.6 * np.diff(old[face], axis=1).std()
    # The faces of the first picture have changed, too.
    assert np.abs(decoded(result)[FACE] - (255 - decoded(source)[FACE])).mean() < 9


def test_nothing_changed_nothing_moves(tmp_path: Path) -> None:
    second = jpeg(gain(), xmp(HDRGM))
    source = joined(picture(), [second], [0x030000, 0], directory=directory(len(second)))
    (tmp_path / "a.jpg").write_bytes(source)
    write_picture(tmp_path / "b.jpg", read_picture(tmp_path / "a.jpg"))
    result = (tmp_path / "b.jpg").read_bytes()
    assert result.endswith(second)
    assert read_index(result)[1][0] == len(result) - len(second)


def test_a_motion_photo_keeps_its_film(tmp_path: Path) -> None:
    second, film = (
        jpeg(gain(), xmp(HDRGM)),
        b"\0\0\0\x18ftypmp42" + RNG.integers(0, 256, 5000, dtype=np.uint8).tobytes(),
    )
    source = joined(picture(), [second], [0x030000, 0], directory=directory(len(second), len(film))) + film
    result, notes = restore(tmp_path / "a.jpg", source)
    assert result.endswith(film)
    assert notes == ("the film of a motion photo is carried as it was: faces in it are not restored",)
    lengths = [int(length) for length in re.findall(rb'Item:Length="(\d+)"', result)]
    start, size = read_index(result)[1]
    assert lengths == [size, len(film)]
    assert start + size + len(film) == len(result)


def test_a_stereo_pair_is_carried_and_noted(tmp_path: Path) -> None:
    second = jpeg(picture()[::-1].copy())
    source = joined(picture(), [second], [0x020002, 0x020002])
    result, notes = restore(tmp_path / "a.jpg", source)
    assert result.endswith(second)
    assert notes == (
        "a second picture of 640 x 480 pixels behind the first is carried as it was: faces in it are not restored",
    )
    # Pillow finds the second one by the index.
    with Image.open(io.BytesIO(result)) as image:
        assert image.format == "MPO"
        image.seek(1)
        assert np.array_equal(np.asarray(image), decoded(second))


def test_large_previews_show_the_new_face(tmp_path: Path) -> None:
    first = picture()
    small = np.asarray(Image.fromarray(first).resize((320, 240), Image.Resampling.BOX))
    source = joined(first, [jpeg(small)], [0x030000, 0x010001])
    result, notes = restore(tmp_path / "a.jpg", source)
    assert notes == ()
    start, size = read_index(result)[1]
    preview = decoded(result[start : start + size])
    shrunk = Image.fromarray(decoded(result).astype(np.uint8)).resize((320, 240), Image.Resampling.BOX)
    assert np.abs(preview - np.asarray(shrunk)).mean() < 2


def test_a_damaged_gain_map_does_not_stop_the_picture(tmp_path: Path) -> None:
    second = bytearray(jpeg(gain(), xmp(HDRGM)))
    tables = second.index(b"\xff\xc4")
    second[tables + 4 : tables + 24] = b"\xee" * 20
    result, _ = restore(tmp_path / "a.jpg", joined(picture(), [bytes(second)], [0x030000, 0]))
    assert result.endswith(second)


def test_another_format_says_what_it_loses(tmp_path: Path) -> None:
    second = jpeg(gain(), xmp(HDRGM))
    (tmp_path / "a.jpg").write_bytes(joined(picture(), [second, jpeg(picture())], [0x030000, 0, 0x020003]))
    notes = write_picture(tmp_path / "a.png", read_picture(tmp_path / "a.jpg"))
    assert notes == (
        "the gain map, which makes the picture HDR is not kept: PNG has no place for it",
        "a second picture of 640 x 480 pixels behind the first is not kept: PNG has no place for it",
    )
