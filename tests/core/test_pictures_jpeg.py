"""JPEG files as cameras and phones make them: coded again as they were, with all that stands around the pixels."""

from __future__ import annotations

import base64
import io
import re
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bfr_core.errors import InputMediaError
from bfr_core.media.pictures import Picture, enlarged_from_float, read_picture, to_float, write_picture

RNG = np.random.default_rng(18)


def photo(height: int = 240, width: int = 320) -> np.ndarray:
    """Return smooth colours with fine detail and a little noise, as of a photo."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = [np.sin(x / (9 + 7 * k)) * np.cos(y / (13 - 3 * k)) for k in range(3)]
    colour = 128 + 60 * np.stack(waves, 2) + 30 * np.sin(x * y / 900)[..., None] + RNG.normal(0, 2, (height, width, 3))
    return colour.clip(20, 235).astype(np.uint8)


def jpeg(pixels: np.ndarray | Image.Image, **options) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    stream = io.BytesIO()
    image.save(stream, "jpeg", **({"quality": 75} | options))
    return stream.getvalue()


def store(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def with_segments(data: bytes, *segments: bytes) -> bytes:
    """Put segments behind JFIF's."""
    place = 4 + struct.unpack_from(">H", data, 4)[0] if data[2:4] == b"\xff\xe0" else 2
    return data[:place] + b"".join(segments) + data[place:]


def heads(data: bytes) -> list[tuple[int, bytes]]:
    """Return marker and body of every segment in front of the first scan."""
    found, place = [], 2
    while data[place + 1] != 0xDA:
        size = struct.unpack_from(">H", data, place + 2)[0]
        found.append((data[place + 1], data[place + 4 : place + 2 + size]))
        place += 2 + size
    return found


def changed(picture: Picture, box: tuple[slice, slice]) -> Picture:
    rgb = picture.rgb.copy()
    rgb[box] = 255 - rgb[box]
    return replace(picture, rgb=rgb)


BOX = (slice(96, 160), slice(112, 176))
NEAR = (slice(78, 178), slice(94, 194))
"""The box with the chroma samples that touch it."""


def far_difference(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    difference = np.abs(one.astype(int) - two).max(2)
    difference[NEAR] = 0
    return difference


ARITHMETIC = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8UHRofHh0aHBwgJC4nICIsIxwcKDcpLDAx"
    "NDQ0Hyc5PTgyPC4zNDL/2wBDAQkJCQwLDBgNDRgyIRwhMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIy"
    "MjIyMjIyMjL/yQARCAAQABADASIAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwD+5eK9fpT/2Q=="
)


# Coded as the input was


@pytest.mark.parametrize("quality", [40, 75, 85])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(240, 320), (233, 317)])
def test_a_jpeg_is_coded_as_it_was(
    tmp_path: Path, quality: int, subsampling: int, progressive: bool, size: tuple[int, int]
) -> None:
    source = jpeg(photo(*size), quality=quality, subsampling=subsampling, progressive=progressive)
    picture = read_picture(store(tmp_path / "a.jpg", source))
    write_picture(tmp_path / "b.jpg", changed(picture, BOX))
    result = (tmp_path / "b.jpg").read_bytes()
    with Image.open(io.BytesIO(source)) as one, Image.open(io.BytesIO(result)) as two:
        tables = [[image.quantization[each[3]] for each in image.layer] for image in (one, two)]
        assert tables[0] == tables[1]
        assert [each[1:3] for each in one.layer] == [each[1:3] for each in two.layer]
        assert one.info.get("progressive") == two.info.get("progressive")
    back = read_picture(tmp_path / "b.jpg")
    difference = far_difference(back.rgb, picture.rgb)
    # Chroma at the edge of a progressive 4:2:0 file ends in blocks of which a part is never shown.
    assert (difference > 0).mean() < (0.002 if size == (240, 320) else 0.02)
    assert difference.max() <= (0 if quality < 80 and size == (240, 320) else 6)
    assert np.abs(back.rgb[BOX].astype(int) - (255 - picture.rgb[BOX])).mean() < 9
    assert len(result) < 1.15 * len(source)


def test_a_gray_jpeg_keeps_its_blocks(tmp_path: Path) -> None:
    source = jpeg(Image.fromarray(photo()).convert("L"))
    picture = read_picture(store(tmp_path / "a.jpg", source))
    write_picture(tmp_path / "b.jpg", changed(picture, BOX))
    back = read_picture(tmp_path / "b.jpg")
    assert back.gray
    assert far_difference(back.rgb, picture.rgb).max() == 0
    # Colour in a gray file keeps the tables.
    coloured = picture.rgb.copy()
    coloured[BOX] = 200, 40, 90
    write_picture(tmp_path / "c.jpg", replace(picture, rgb=coloured))
    assert np.abs(read_picture(tmp_path / "c.jpg").rgb[120, 140].astype(int) - (200, 40, 90)).max() < 12


def test_an_optimised_jpeg_with_restart_markers_stays_so(tmp_path: Path) -> None:
    source = jpeg(photo(), optimize=True, restart_marker_rows=1)
    write_picture(tmp_path / "b.jpg", changed(read_picture(store(tmp_path / "a.jpg", source)), BOX))
    one, two = (dict(heads(data)) for data in (source, (tmp_path / "b.jpg").read_bytes()))
    assert one[0xDD] == two[0xDD] != b"\0\0"
    # The usual tables have 162 codes for AC; optimised ones have those that occur.
    assert len(two[0xC4]) < 150


def test_an_rgb_jpeg_stays_rgb(tmp_path: Path) -> None:
    source = jpeg(photo(), keep_rgb=True, quality=90)
    picture = read_picture(store(tmp_path / "a.jpg", source))
    write_picture(tmp_path / "b.jpg", changed(picture, BOX))
    with Image.open(tmp_path / "b.jpg") as image:
        assert bytes(layer[0] for layer in image.layer) == b"RGB"
    assert far_difference(read_picture(tmp_path / "b.jpg").rgb, picture.rgb).max() <= 2


def test_rare_sampling_is_noted(tmp_path: Path) -> None:
    # Sampling of 4 by 1, which Pillow does not write, put into the header of a smaller picture, of no meaning.
    data = bytearray(jpeg(np.full((64, 64, 3), (200, 60, 90), np.uint8), subsampling=0))
    place = data.index(b"\xff\xc0")
    data[place + 11] = 0x41
    struct.pack_into(">HH", data, place + 5, 8, 32)
    picture = read_picture(store(tmp_path / "a.jpg", bytes(data)))
    assert picture.rgb.shape == (8, 32, 3)
    notes = write_picture(tmp_path / "b.jpg", picture)
    assert any("sampling of its colours is rare" in note for note in notes)
    assert read_picture(tmp_path / "b.jpg").rgb.shape == (8, 32, 3)


def test_an_arithmetic_jpeg_becomes_a_usual_one(tmp_path: Path) -> None:
    # 16 x 16 pixels of (200, 60, 90), by cjpeg -arithmetic -quality 75 of libjpeg-turbo 2.1.5.
    source = base64.b64decode(ARITHMETIC)
    picture = read_picture(store(tmp_path / "a.jpg", source))
    assert np.abs(picture.rgb.astype(int) - (200, 60, 90)).max() <= 4
    notes = write_picture(tmp_path / "b.jpg", picture)
    assert notes == ("arithmetic coding, which few programs read, becomes Huffman coding",)
    assert np.array_equal(read_picture(tmp_path / "b.jpg").rgb, picture.rgb)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_jpeg_is_written_as_it_was_stored(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    inner = exif.get_ifd(0x8769)
    inner[0xA002], inner[0xA003] = 317, 233
    source = jpeg(photo(233, 317), exif=exif.tobytes())
    picture = read_picture(store(tmp_path / "a.jpg", source))
    assert picture.rgb.shape[:2] == ((317, 233) if orientation >= 5 else (233, 317))
    write_picture(tmp_path / "b.jpg", changed(picture, BOX))
    with Image.open(tmp_path / "b.jpg") as image:
        assert image.size == (317, 233)
        assert image.getexif().get(0x0112, 1) == orientation
        assert image.getexif().get_ifd(0x8769)[0xA002] == 317
    back = read_picture(tmp_path / "b.jpg")
    assert (far_difference(back.rgb, picture.rgb) > 0).mean() < 0.01
    assert np.abs(back.rgb[BOX].astype(int) - (255 - picture.rgb[BOX])).mean() < 9
    # Other formats are written upright.
    write_picture(tmp_path / "b.png", picture)
    with Image.open(tmp_path / "b.png") as image:
        assert image.size == picture.rgb.shape[1::-1]
        assert image.getexif().get(0x0112, 1) == 1


def test_a_number_of_quality_stands_above_the_input(tmp_path: Path) -> None:
    picture = read_picture(store(tmp_path / "a.jpg", jpeg(photo(), quality=60)))
    write_picture(tmp_path / "b.jpg", picture, quality=92)
    with Image.open(tmp_path / "b.jpg") as one, Image.open(io.BytesIO(jpeg(photo(), quality=92))) as two:
        assert one.quantization == two.quantization
        assert {layer[1:3] for layer in one.layer} == {(1, 1)}


@pytest.mark.parametrize("quality", [30, 60, 80, 95])
def test_webp_quality_is_estimated(tmp_path: Path, quality: int) -> None:
    Image.fromarray(photo()).save(tmp_path / "a.webp", quality=quality)
    picture = read_picture(tmp_path / "a.webp")
    # On 36 encodings of photos it is off by one at most; fine waves everywhere leave libwebp without plain segments.
    assert abs(picture.coding.quality - quality) <= 8
    write_picture(tmp_path / "b.webp", picture)
    assert 0.8 < (tmp_path / "b.webp").stat().st_size / (tmp_path / "a.webp").stat().st_size < 1.15


def test_webp_without_loss_stays_so(tmp_path: Path) -> None:
    Image.fromarray(photo()).save(tmp_path / "a.webp", lossless=True)
    picture = read_picture(tmp_path / "a.webp")
    write_picture(tmp_path / "b.webp", picture)
    assert np.array_equal(read_picture(tmp_path / "b.webp").rgb, photo_of(tmp_path / "a.webp"))


def photo_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


# Damage and processes


def refused(path: Path) -> str:
    with pytest.raises(InputMediaError) as caught:
        read_picture(path)
    return caught.value.found


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"restart_marker_blocks": 7}, {"subsampling": 0}, {"optimize": True}]
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_whose_last_rows_are_gone_is_short(tmp_path: Path, options: dict, mode: str) -> None:
    whole = jpeg(Image.fromarray(photo()).convert(mode), **options)
    assert read_picture(store(tmp_path / "a.jpg", whole)).rgb.shape == (240, 320, 3)
    for part in (0.5, 0.9, 0.99):
        cut = whole[: int(part * len(whole))].rstrip(b"\xff")
        found = refused(store(tmp_path / "b.jpg", cut + b"\xff\xd9"))
        assert "cut short" in found, part
    if mode == "RGB" and not options:
        row = int(re.search(r"from row (\d+) of 240", found)[1])
        assert 200 < row < 240


def test_gray_at_the_bottom_is_not_short(tmp_path: Path) -> None:
    pixels = photo()
    pixels[100:] = 128
    for options in ({}, {"progressive": True}, {"restart_marker_rows": 1}):
        assert read_picture(store(tmp_path / "a.jpg", jpeg(pixels, **options))).notes == ()


@pytest.mark.parametrize(
    ("marker", "bits", "words"),
    [(0xC1, 12, "12 bits a sample"), (0xC3, 8, "lossless"), (0xC3, 16, "16 bits"), (0xC7, 8, "hierarchical")],
)
def test_other_processes_are_called_by_name(tmp_path: Path, marker: int, bits: int, words: str) -> None:
    data = bytearray(jpeg(photo()))
    frame = data.index(b"\xff\xc0")
    data[frame + 1], data[frame + 4] = marker, bits
    found = refused(store(tmp_path / "a.jpg", bytes(data)))
    assert words in found
    assert "damaged" not in found


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_no_address_of_an_object_in_a_message(tmp_path: Path, name: str) -> None:
    starts = {
        "a.jpg": b"\xff\xd8\xff",
        "a.png": b"\x89PNG\r\n\x1a\n",
        "a.webp": b"RIFF\0\1\0\0WEBPVP8 ",
        "a.tif": b"II*\0",
    }
    for size in (0, 30, 3000):
        data = starts[name] + RNG.integers(0, 256, size, dtype=np.uint8).tobytes()
        found = refused(store(tmp_path / name, data))
        assert "0x" not in found
        assert "BytesIO" not in found


def test_ycck_is_cmyk_after_adobe(tmp_path: Path) -> None:
    # Adobe's transform 2 says that the first three channels are YCbCr of the inverted inks; 0 that all are inks.
    inks = Image.new("CMYK", (32, 32), (30, 180, 90, 20))
    data = bytearray(jpeg(inks, quality=100, subsampling=0))
    expected = read_picture(store(tmp_path / "a.jpg", bytes(data))).rgb[16, 16].astype(int)
    assert np.abs(expected - [(255 - ink) * (255 - 20) // 255 for ink in (30, 180, 90)]).max() <= 3
    # The inks are stored inverted, and libjpeg says that YCbCr are of 255 less the first three: of the inks themselves.
    red, green, blue = 30, 180, 90
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    planes = [luma, 128 + (blue - luma) / 1.772, 128 + (red - luma) / 1.402, 255 - 20]
    # Pillow inverts what it stores.
    raw = Image.merge("CMYK", [Image.new("L", (32, 32), 255 - round(value)) for value in planes])
    data = bytearray(jpeg(raw, quality=100, subsampling=0))
    place = data.index(b"Adobe")
    data[place + 11] = 2
    found = read_picture(store(tmp_path / "b.jpg", bytes(data))).rgb[16, 16].astype(int)
    assert np.abs(found - expected).max() <= 4


# Around the pixels

PACKET = (
    b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF>'
    b'<rdf:Description tiff:Orientation="6" dc:title="K\xc3\xb6ln"><mwg-rs:Regions rdf:parseType="Resource">'
    b'<mwg-rs:AppliedToDimensions stDim:w="320" stDim:h="240" stDim:unit="pixel"/><mwg-rs:RegionList><rdf:Bag><rdf:li>'
    b'<rdf:Description mwg-rs:Name="Anna" mwg-rs:Type="Face"><mwg-rs:Area stArea:x="0.25" stArea:y="0.125"'
    b' stArea:w="0.2" stArea:h="0.1" stArea:unit="normalized"/></rdf:Description></rdf:li></rdf:Bag>'
    b"</mwg-rs:RegionList></mwg-rs:Regions></rdf:Description></rdf:RDF></x:xmpmeta>"
)
RESOURCES = b"8BIM\x04\x04\0\0" + struct.pack(">I", 12) + b"\x1c\x02\x78\0\x07Caption"
EXTENDED = b"0123456789ABCDEF0123456789ABCDEF" + RNG.integers(0, 256, 150_000, dtype=np.uint8).tobytes()


def extended_segments() -> list[bytes]:
    name, body = EXTENDED[:32], EXTENDED[32:]
    start = b"http://ns.adobe.com/xmp/extension/\0" + name
    return [
        segment(0xE1, start + struct.pack(">II", len(body), place) + body[place : place + 60_000])
        for place in range(0, len(body), 60_000)
    ]


def laden(orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(photo(), exif=exif.tobytes(), dpi=(300, 250), comment=b"first")
    return with_segments(
        data,
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + PACKET),
        *extended_segments(),
        segment(0xED, b"Photoshop 3.0\0" + RESOURCES),
        segment(0xEC, b"Ducky\0\1\0\4\0\0\0\x3c"),
        segment(0xE5, b"RICOH\0own data"),
        segment(0xFE, b"second\0\xff"),
    )


def own(data: bytes) -> dict[int, bytes]:
    """Return what stands in each kind of segment of applications and comments, all parts in a row."""
    joined: dict[int, bytes] = {}
    for marker, body in heads(data):
        if (marker >> 4 == 0xE or marker == 0xFE) and marker != 0xE1:
            joined[marker] = joined.get(marker, b"") + body
    return joined


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("quality", [None, 90])
def test_what_stands_around_a_jpeg_is_carried(tmp_path: Path, orientation: int, quality: int | None) -> None:
    source = laden(orientation)
    picture = read_picture(store(tmp_path / "a.jpg", source))
    assert picture.notes == ()
    assert write_picture(tmp_path / "b.jpg", changed(picture, BOX), quality=quality) == ()
    result = (tmp_path / "b.jpg").read_bytes()
    assert own(result) == own(source)
    back = read_picture(tmp_path / "b.jpg").beside
    assert back.xmp == PACKET
    assert back.extended_xmp == EXTENDED
    assert back.comments == picture.beside.comments
    assert set(back.comments) == {b"first", b"second\0\xff"}


def test_face_regions_follow_a_picture_that_is_turned_or_enlarged(tmp_path: Path) -> None:
    picture = read_picture(store(tmp_path / "a.jpg", laden(6)))
    notes = write_picture(tmp_path / "a.png", picture)
    # 300 pixels an inch across and 250 down, in the stored orientation.
    assert read_picture(tmp_path / "a.png").beside.density == (9843, 11811, "metre")
    assert sorted(note.split(" is not")[0].split(" are not")[0] for note in notes) == [
        "APP5 and APP12 of the JPEG's maker or program",
        "IPTC and Photoshop's data",
        "extended XMP",
    ]
    # A turn by 90 degrees to the right: what was left is above, and what was above is right.
    expected = PACKET.replace(b'Orientation="6"', b'Orientation="1"').replace(
        b'w="320" stDim:h="240"', b'w="240" stDim:h="320"'
    )
    expected = expected.replace(b'x="0.25" stArea:y="0.125"', b'x="0.875" stArea:y="0.25"')
    expected = expected.replace(b'w="0.2" stArea:h="0.1"', b'w="0.1" stArea:h="0.2"')
    assert read_picture(tmp_path / "a.png").beside.xmp == expected
    for name in ("a.webp", "a.tif"):
        write_picture(tmp_path / name, picture)
        assert read_picture(tmp_path / name).beside.xmp == expected
    larger = enlarged_from_float(picture, to_float(picture).repeat_interleave(2, 1).repeat_interleave(2, 2), 2)
    write_picture(tmp_path / "large.png", larger)
    assert read_picture(tmp_path / "large.png").beside.xmp == expected.replace(
        b'w="240" stDim:h="320"', b'w="480" stDim:h="640"'
    )
    write_picture(tmp_path / "large.jpg", larger)
    assert read_picture(tmp_path / "large.jpg").beside.xmp == PACKET.replace(
        b'w="320" stDim:h="240"', b'w="640" stDim:h="480"'
    )


def test_resolution_and_comments_go_into_a_png(tmp_path: Path) -> None:
    picture = read_picture(
        store(tmp_path / "a.jpg", with_segments(jpeg(photo(), dpi=(300, 300)), segment(0xFE, b"hi")))
    )
    assert write_picture(tmp_path / "a.png", picture) == ()
    with Image.open(tmp_path / "a.png") as image:
        image.load()
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.02)
        assert image.text == {"Comment": "hi"}


def test_previews_of_the_old_picture_are_left_out(tmp_path: Path) -> None:
    thumb = jpeg(np.zeros((16, 16, 3), np.uint8))
    resource = b"8BIM\x04\x0c\0\0" + struct.pack(">I", 28 + len(thumb)) + bytes(28) + thumb + b"\0" * (len(thumb) % 2)
    data = with_segments(
        jpeg(photo()),
        segment(0xE0, b"JFXX\0\x10" + thumb),
        segment(0xED, b"Photoshop 3.0\0" + RESOURCES + resource + RESOURCES),
    )
    picture = read_picture(store(tmp_path / "a.jpg", data))
    assert any("preview" in note for note in picture.notes)
    write_picture(tmp_path / "b.jpg", picture)
    result = (tmp_path / "b.jpg").read_bytes()
    assert dict(heads(result))[0xED] == b"Photoshop 3.0\0" + RESOURCES + RESOURCES
    assert b"JFXX" not in result


def test_content_credentials_are_noted(tmp_path: Path) -> None:
    box = b"JP\0\1\0\0\0\1\0\0\0\x40jumb\0\0\0\x30jumdc2pa\0\x11\0\x10\x80\0\0\xaa\0\x38\x9b\x71\3c2pa\0"
    picture = read_picture(store(tmp_path / "a.jpg", with_segments(jpeg(photo()), segment(0xEB, box))))
    assert any("C2PA" in note for note in picture.notes)
    write_picture(tmp_path / "b.jpg", picture)
    assert 0xEB not in dict(heads((tmp_path / "b.jpg").read_bytes()))
