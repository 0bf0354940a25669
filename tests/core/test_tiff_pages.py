"""TIFF files of scanners and repro cameras: every page, every colour space, and compressions by their names.

Made with tifffile 2026.3.3 and imagecodecs 2026.3.6 where a compression needs them; the rest byte by byte.
"""

from __future__ import annotations

import io
import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from bfr_core.cli import main
from bfr_core.errors import InputMediaError, OutputMediaError
from bfr_core.media.formats import TIFF_CODECS
from bfr_core.media.metadata import ORIENTATION
from bfr_core.media.pictures import Frame, Picture, encode_album, encode_picture, open_album, read_picture
from bfr_core.media.pictures.colours import from_lab
from bfr_core.media.pictures.directory import page_chain, with_directory
from bfr_core.media.pictures.tiff_join import join_tiffs

RNG = np.random.default_rng(5)
needs_codecs = pytest.mark.skipif(not TIFF_CODECS.here, reason=f"needs {TIFF_CODECS.title}")


def tiff(pixels: np.ndarray, strips: int = 1, endian: str = "<", **tags: object) -> bytes:
    """Return an uncompressed TIFF of (H, W, C), interleaved, or with t284=2 in planes of `strips` strips each."""
    height, width, count = pixels.shape
    planar = tags.get("t284", 1) == 2
    stored = np.moveaxis(pixels, 2, 0) if planar else pixels[None]
    rows = -(-height // strips)
    parts = [plane[top : top + rows].astype(pixels.dtype.newbyteorder(endian)).tobytes()
             for plane in stored for top in range(0, height, rows)]  # fmt: skip
    directory = TiffImagePlugin.ImageFileDirectory_v2(b"II*\0\0\0\0\0" if endian == "<" else b"MM\0*\0\0\0\0")
    form = 3 if pixels.dtype.kind == "f" else 1
    values = {256: width, 257: height, 258: (8 * pixels.dtype.itemsize,) * count, 259: 1, 262: 2 if count > 2 else 1}
    values |= {277: count, 278: rows, 284: 1, 339: (form,) * count}
    values |= {int(name[1:]): value for name, value in tags.items()}
    directory.tagtype |= {273: 4, 279: 4}
    values[279] = tuple(len(part) for part in parts)
    values[273] = tuple(int(place) for place in np.cumsum([0, *values[279][:-1]]))
    for tag, value in values.items():
        directory[tag] = value
    stream = io.BytesIO()
    directory.save(stream)
    return stream.getvalue() + b"".join(parts)


def store(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def random(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    if dtype == np.float32:
        return RNG.random(shape, np.float32)
    return RNG.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


# --- layouts and colours -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("strips", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [3, 4])
def test_planes_are_read(tmp_path, dtype, channels, strips, endian):
    """OpenCV 4 and 5 return other pixels and no error for planes of 16 bit and of float."""
    pixels = random((11, 7, channels), dtype)
    data = tiff(pixels, strips, endian, t284=2, **({"t338": (2,)} if channels == 4 else {}))
    back = read_picture(store(tmp_path / "a.tif", data))
    assert back.rgb.dtype == dtype and np.array_equal(back.rgb, pixels[..., :3])
    assert (back.alpha is None) == (channels == 3)
    if back.alpha is not None:
        assert np.array_equal(back.alpha, pixels[..., 3])


@pytest.mark.parametrize("orientation", [1, 6])
def test_planes_are_turned_once(tmp_path, orientation):
    pixels = random((5, 7, 3), np.uint16)
    back = read_picture(store(tmp_path / "a.tif", tiff(pixels, t284=2, t274=orientation)))
    assert np.array_equal(back.rgb, np.rot90(pixels, -1) if orientation == 6 else pixels)


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("planes", [1, 2])
def test_cmyk_of_16_bit_by_the_plain_formula(tmp_path, planes, endian):
    ink = random((9, 7, 4), np.uint16)
    back = read_picture(store(tmp_path / "a.tif", tiff(ink, 1, endian, t262=5, t284=planes)))
    light = 1 - ink.astype(np.float64) / 65_535
    assert np.array_equal(back.rgb, np.rint(light[..., :3] * light[..., 3:] * 65_535).astype(np.uint16))
    assert any("plain formula" in note for note in back.notes)


def cmyk_profile() -> bytes:
    """Return a small printer profile whose pure cyan is L*a*b* (60, -30, -40)."""
    nodes = []
    for node in range(16):
        c, m, y, k = (node >> bit & 1 for bit in (3, 2, 1, 0))
        lab = (0, 0, 0) if k else (100 - 30 * (m + y), 0, 0) if m or y else (60, -30, -40) if c else (100, 0, 0)
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


def test_cmyk_of_16_bit_goes_through_its_profile(tmp_path):
    ink = np.zeros((4, 4, 4), np.uint16)
    ink[..., 0] = 65_535
    back = read_picture(store(tmp_path / "a.tif", tiff(ink, t262=5, t34675=cmyk_profile())))
    # L*a*b* (60, -30, -40) D50 is sRGB (0, 161, 214); the plain formula would give (0, 255, 255).
    assert back.rgb[2, 2].tolist() == pytest.approx([0, 161, 214], abs=4)
    assert back.icc is None and any("ICC profile; 16 bit become 8" in note for note in back.notes)


@pytest.mark.parametrize("photometric", [8, 9])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_lab_becomes_srgb(tmp_path, dtype, photometric):
    """As littleCMS makes it, from L*a*b* in whole numbers."""
    y, x = np.mgrid[0:24, 0:32]
    rgb = Image.fromarray(np.stack([60 + x * 4, 70 + y * 5, 200 - x * 2 - y * 2], axis=-1).astype(np.uint8))
    srgb, flat = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    exact = ImageCms.Flags.NOOPTIMIZE  # else through a table of 33 steps, which is off by 9
    lab = ImageCms.applyTransform(rgb, ImageCms.buildTransform(srgb, flat, "RGB", "LAB"))
    expected = np.asarray(
        ImageCms.applyTransform(lab, ImageCms.buildTransform(flat, srgb, "LAB", "RGB", flags=exact)), float
    )
    found = np.asarray(lab)
    step = 1 if dtype == np.uint8 else 256
    most = 255 if dtype == np.uint8 else 0xFFFF if photometric == 8 else 0xFF00
    pixels = np.empty(found.shape, dtype)
    pixels[..., 0] = np.rint(found[..., 0] / 255 * most)
    ab = found[..., 1:].view(np.int8).astype(np.int64) * step + (128 * step if photometric == 9 else 0)
    pixels[..., 1:] = (ab & np.iinfo(dtype).max).astype(dtype)
    back = read_picture(store(tmp_path / "a.tif", tiff(pixels, t262=photometric)))
    assert back.rgb.dtype == dtype and back.notes == ("L*a*b* converted to sRGB",)
    error = np.abs(back.rgb / (np.iinfo(dtype).max / 255) - expected)
    assert error.mean() < 0.5 and error.max() <= 2


def test_lab_of_known_colours():
    lab = np.array([[[0, 0, 0], [0xFFFF, 0, 0], [round(0.5 * 0xFFFF), 0, 0]]], np.uint16)
    rgb, _ = from_lab(lab, offset=False)
    # L* 50 is Y 0.1842, which sRGB codes as 0.4663 (IEC 61966-2-1).
    assert rgb[0, 0].tolist() == [0, 0, 0] and rgb[0, 1].min() > 65_500
    assert rgb[0, 2] / 65_535 == pytest.approx([0.4663] * 3, abs=6e-4)


def test_gray_with_alpha_of_16_bit(tmp_path):
    pixels = random((5, 7, 2), np.uint16)
    path = store(tmp_path / "a.tif", tiff(pixels, t338=(2,)))
    if not TIFF_CODECS.here:
        with pytest.raises(InputMediaError, match=r"2 channel.*bfr-faces\[tiff\]"):
            read_picture(path)
        return
    back = read_picture(path)
    assert np.array_equal(back.rgb[..., 1], pixels[..., 0]) and np.array_equal(back.alpha, pixels[..., 1]) and back.gray


# --- compressions ------------------------------------------------------------------------------------------------


def recompressed(data: bytes, number: int) -> bytes:
    """Return a TIFF that says of its pixels that they are compressed by another method."""
    return with_directory(data, page_chain(data)[0], {259: (3, (number,))})


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("number", "name"),
    [
        (6, "JPEG of the old kind"),
        (34661, "JBIG"),
        (34887, "LERC"),
        (34712, "JPEG 2000"),
        (50002, "JPEG XL"),
        (999, "999"),
    ],
)
def test_a_compression_that_is_not_read_is_called_that(tmp_path, monkeypatch, capfd, number, name, dtype):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    path = store(tmp_path / "a.tif", recompressed(tiff(random((8, 8, 3), dtype)), number))
    with pytest.raises(InputMediaError) as caught:
        read_picture(path)
    message = str(caught.value)
    assert name in message and "damaged" not in message and "bfr-faces[tiff]" in message and " at 0x" not in message


@needs_codecs
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("name", ["zstd", "lzma", "lerc", "jpeg2000", "jpegxl", "png"])
def test_rare_compressions_are_read_with_the_package(tmp_path, name, dtype):
    import tifffile

    pixels = random((16, 24, 3), dtype)
    options = {"lerc": {"level": 0}, "jpegxl": {"lossless": True, "level": 101}, "jpeg2000": {"level": 0}}.get(name, {})
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", compression=name, compressionargs=options)
    back = read_picture(tmp_path / "a.tif")
    assert np.array_equal(back.rgb, pixels) and back.rgb.dtype == dtype


@needs_codecs
def test_scanner_of_12_bit(tmp_path):
    import imagecodecs
    import tifffile

    pixels = RNG.integers(0, 4096, (8, 10)).astype(np.uint16)
    packed = imagecodecs.packints_encode(pixels.reshape(8, 10), 12)
    data = tiff(np.zeros((8, 15, 1), np.uint8))
    data = with_directory(data[: -8 * 15] + packed, page_chain(data)[0], {256: (3, (10,)), 258: (3, (12,))})
    back = read_picture(store(tmp_path / "a.tif", data))
    assert np.array_equal(back.rgb[..., 0], np.rint(pixels * (65_535 / 4095)).astype(np.uint16))
    assert tifffile.imread(tmp_path / "a.tif").max() < 4096


@pytest.mark.parametrize("name", ["group3", "group4", "tiff_ccitt"])
def test_faxes_are_read(tmp_path, name):
    image = Image.fromarray(RNG.integers(0, 2, (20, 30)).astype(bool))
    image.save(tmp_path / "a.tif", compression=name)
    assert np.array_equal(read_picture(tmp_path / "a.tif").rgb[..., 0], np.asarray(image) * np.uint8(255))


# --- pages -------------------------------------------------------------------------------------------------------


def pages() -> list[Picture]:
    exif = Image.Exif()
    exif[0x010F] = "Scanner"
    exif.get_ifd(0x8769)[0x9003] = "2001:02:03 04:05:06"
    exif.get_ifd(0x8825)[1] = "N"
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    gray = np.repeat(random((9, 8, 1), np.uint8), 3, axis=2)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return [
        Picture(random((300, 2000, 3), np.uint8), None, srgb, block, kind="tiff"),
        Picture(random((9, 8, 3), np.uint16), random((9, 8), np.uint16), None, block, kind="tiff"),
        Picture(gray, gray=True, kind="tiff"),
        Picture(random((7, 5, 3), np.float32), kind="tiff"),
    ]


def test_pages_of_every_kind_are_joined_and_read_back(tmp_path):
    made = pages()
    joined = join_tiffs([encode_picture(tmp_path / "a.tif", page)[0] for page in made])
    album = open_album(store(tmp_path / "a.tif", joined))
    assert album.count == 4 and album.several == "pages"
    for one, two in zip(made, [frame.picture for frame in album], strict=True):
        assert one.rgb.dtype == two.rgb.dtype and np.array_equal(one.rgb, two.rgb)
        assert (one.alpha is None) == (two.alpha is None) and (
            one.alpha is None or np.array_equal(one.alpha, two.alpha)
        )
        assert (one.icc, one.gray) == (two.icc, two.gray)
        assert (one.exif is None) == (two.exif is None)
    exif = Image.Exif()
    exif.load(next(iter(album)).picture.exif)
    assert exif[0x010F] == "Scanner" and exif.get_ifd(0x8825)[1] == "N"
    # Others see the same pages; Pillow reads no float.
    with Image.open(
        io.BytesIO(join_tiffs([encode_picture(tmp_path / "a.tif", page)[0] for page in made[:3]]))
    ) as image:
        assert image.n_frames == 3
        image.seek(2)
        assert np.array_equal(np.asarray(image), made[2].rgb[..., 0])
    tifffile = pytest.importorskip("tifffile")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert [page.shape for page in file.pages] == [(300, 2000, 3), (9, 8, 4), (9, 8), (7, 5, 3)]
        if TIFF_CODECS.here:
            assert np.array_equal(file.pages[0].asarray(), made[0].rgb)
        assert file.pages[1].tags[34665].value["DateTimeOriginal"] == "2001:02:03 04:05:06"


def chain(*files: bytes) -> bytes:
    return join_tiffs(files)


def test_pages_are_turned_each_as_it_says(tmp_path):
    one, two = (random((4, 6, 3), np.uint8) for _ in range(2))
    path = store(tmp_path / "a.tif", chain(tiff(one, t274=6), tiff(two, t274=3)))
    first, second = (frame.picture for frame in open_album(path))
    assert np.array_equal(first.rgb, np.rot90(one, -1)) and np.array_equal(second.rgb, two[::-1, ::-1])
    exif = Image.Exif()
    exif.load(second.exif)
    assert exif.get(ORIENTATION) == 1


def test_reduced_copies_and_masks_are_no_pages(tmp_path):
    small, mask = tiff(random((2, 3, 3), np.uint8), t254=1), tiff(random((4, 6, 1), np.uint8), t254=4)
    whole = random((4, 6, 3), np.uint8)
    path = store(tmp_path / "a.tif", chain(tiff(whole), small, mask))
    assert open_album(path) is None
    picture = read_picture(path)
    assert np.array_equal(picture.rgb, whole)
    assert picture.notes == ("1 reduced copy is not kept", "1 mask(s) of transparency are not kept")
    album = open_album(store(tmp_path / "b.tif", chain(tiff(whole), small, tiff(whole[::-1]))))
    first, second = album
    assert np.array_equal(second.picture.rgb, whole[::-1]) and "1 reduced copy is not kept" in first.picture.notes


def test_a_damaged_page_is_named(tmp_path):
    data = chain(tiff(random((4, 6, 3), np.uint8)), tiff(random((4, 6, 3), np.uint8)))
    album = open_album(store(tmp_path / "a.tif", data[:-30]))
    with pytest.raises(InputMediaError, match=r"cut short: its pixels reach"):
        list(album)
    broken = tiff(random((4, 6, 3), np.uint8), t259=5)
    with pytest.raises(InputMediaError, match="page 2 of the TIFF file is damaged"):
        list(open_album(store(tmp_path / "b.tif", chain(tiff(random((4, 6, 3), np.uint8)), broken))))


def test_a_chain_that_runs_in_a_circle_ends(tmp_path):
    data = bytearray(chain(tiff(random((4, 6, 3), np.uint8)), tiff(random((4, 6, 3), np.uint8))))
    first, second = page_chain(bytes(data))
    (count,) = struct.unpack_from("<H", data, second)
    struct.pack_into("<I", data, second + 2 + 12 * count, first)
    assert page_chain(bytes(data)) == [first, second]
    assert open_album(store(tmp_path / "a.tif", bytes(data))).count == 2


def test_too_many_bytes_for_a_tiff_are_refused(monkeypatch):
    monkeypatch.setattr("bfr_core.media.pictures.tiff_join.LARGEST_TIFF", 500)
    with pytest.raises(ValueError, match="500 bytes"):
        join_tiffs([tiff(random((9, 9, 3), np.uint8))] * 3)


def test_pages_do_not_become_frames(tmp_path):
    album = open_album(store(tmp_path / "a.tif", chain(*[tiff(random((4, 6, 3), np.uint8))] * 2)))
    kept = [Frame(frame.picture) for frame in album]
    for name, word in (("b.png", "frames"), ("b.jpg", "one picture")):
        with pytest.raises(OutputMediaError, match=rf"2 pages.*{word}.*--pages first"):
            encode_album(tmp_path / name, album, kept)


# --- the command -------------------------------------------------------------------------------------------------


def test_all_pages_of_a_scan_are_restored(shared, tmp_path):
    with Image.open(shared / "photos" / "degraded" / "Adele_crop.png") as image:
        face = np.asarray(image.convert("RGB").resize((160, 160)))
    sheet = np.full((320, 320, 3), 200, np.uint8)
    sheet[80:240, 80:240] = face
    empty = random((30, 40, 3), np.uint8)
    source = store(
        tmp_path / "scan.tif", chain(tiff(sheet, t271="Scanner"), tiff(empty), tiff(sheet.astype(np.uint16) * 257))
    )
    report = tmp_path / "r.json"
    words = ["--all-faces", "--report", str(report)]
    assert main(["restore", str(source), "-o", str(tmp_path / "out.tif"), *words]) == 0
    (entry,) = json.loads(report.read_text())["files"]
    assert entry["pages"] == 3
    assert {face["picture"] for face in entry["report"]["faces"] if face["action"] == "restored"} == {1, 3}
    one, two, three = (frame.picture for frame in open_album(tmp_path / "out.tif"))
    assert np.array_equal(two.rgb, empty) and three.rgb.dtype == np.uint16
    for restored, before in ((one.rgb, sheet), (three.rgb, sheet.astype(np.uint16) * 257)):
        assert (restored != before).any() and np.array_equal(restored[:60], before[:60])
    assert main(["restore", str(source), "-o", str(tmp_path / "first.tif"), "--pages", "first", *words]) == 0
    (entry,) = json.loads(report.read_text())["files"]
    assert "first page of 3 used" in entry["notes"] and open_album(tmp_path / "first.tif") is None
