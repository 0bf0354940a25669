"""Photos of every format: read upright once, written back, or named with what to do.

Made with Pillow 13.0.0, pillow-heif 1.8.1 and pillow-jxl-plugin 1.3.8; tests skip where the last two are missing.
"""

from __future__ import annotations

import io
import re
import struct
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from bfr_core.cli import main
from bfr_core.errors import InputMediaError, OutputMediaError
from bfr_core.media.formats import HEIF, JXL, PICTURES, picture_format, suffixes
from bfr_core.media.metadata import ORIENTATION
from bfr_core.media.outputs import plan_outputs
from bfr_core.media.pictures import Picture, lost, read_picture, write_picture
from bfr_core.media.pictures.beside import Beside
from bfr_core.media.pictures.plugins import is_srgb, jxl_header, without_orientation
from bfr_core.media.pictures.sniff import picture_kind

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
needs_heif = pytest.mark.skipif(not HEIF.here, reason=f"needs {HEIF.title}")
needs_jxl = pytest.mark.skipif(not JXL.here, reason=f"needs {JXL.title}")

HEIGHT, WIDTH = 48, 64


def scene() -> np.ndarray:
    """Return (48, 64, 3) uint8 that is smooth, and differs from itself however it is turned."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([x * 4, y * 5, (x + y) * 2], axis=-1).astype(np.uint8)


def stored(image: np.ndarray, orientation: int) -> np.ndarray:
    """Return pixels as a camera stores them under an EXIF orientation. Source: Exif 2.32, tag 274."""
    ways = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, 1), 7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    return np.ascontiguousarray(ways[orientation](image))


def exif_block(orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION], exif[0x010F] = orientation, "Camera"
    exif.get_ifd(0x8769)[0x927C] = b"maker\0note"
    return exif.tobytes().removeprefix(b"Exif\0\0")


def far(one: np.ndarray, two: np.ndarray) -> int:
    assert one.shape == two.shape
    return int(np.abs(one.astype(int) - two.astype(int)).max())


def refusal(path: Path) -> str:
    with pytest.raises(InputMediaError) as caught:
        read_picture(path)
    return str(caught.value)


def iso_tags(block: bytes) -> tuple[int | None, bytes]:
    exif = Image.Exif()
    exif.load(block)
    return exif.get(ORIENTATION), exif.get_ifd(0x8769)[0x927C]


# --- AVIF --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_avif_is_turned_once(tmp_path, orientation):
    """Pillow's writer moves the orientation out of EXIF into the container, and gives it back as EXIF."""
    path = tmp_path / "a.avif"
    image = Image.fromarray(stored(scene(), orientation))
    image.save(path, quality=100, subsampling="4:4:4", exif=exif_block(orientation))
    picture = read_picture(path)
    assert picture.kind == "avif" and far(picture.rgb, scene()) <= 6
    write_picture(tmp_path / "b.avif", picture, quality=100)
    assert far(read_picture(tmp_path / "b.avif").rgb, scene()) <= 12
    # A reader that knows the container only, and one that knows EXIF only, see the same.
    data = (tmp_path / "b.avif").read_bytes()
    assert b"irot" not in data and b"imir" not in data
    with Image.open(tmp_path / "b.avif") as back:
        assert back.size == (WIDTH, HEIGHT) and back.getexif().get(ORIENTATION, 1) == 1
    with av.open(str(tmp_path / "b.avif")) as file:
        (frame, *_) = file.decode(video=0)
        assert far(frame.to_ndarray(format="rgb24"), scene()) <= 24  # PyAV 14 takes its full range for the narrow one


def test_avif_keeps_profile_exif_alpha_and_gray(tmp_path):
    alpha = scene()[..., 0]
    picture = Picture(scene(), alpha, SRGB, exif_block(), False, "png")
    write_picture(tmp_path / "a.avif", picture, quality=100)
    back = read_picture(tmp_path / "a.avif")
    assert back.icc == SRGB and far(back.alpha, alpha) <= 2 and iso_tags(back.exif) == (None, b"maker\0note")
    # No byte but those of the tag is another: what a maker note points to is where it was.
    short = without_orientation(exif_block())
    assert back.exif == short and len(short) == len(exif_block()) and without_orientation(short) == short
    gray = np.repeat(scene()[..., :1], 3, axis=2)
    write_picture(tmp_path / "g.avif", Picture(gray, gray=True), quality=100)
    assert far(read_picture(tmp_path / "g.avif").rgb, gray) <= 3


def avif_of_10_bit(path: Path, transfer: int = 13) -> Path:
    with av.open(str(path), "w", format="avif") as file:
        stream = file.add_stream("libsvtav1", rate=1, options={"crf": "5", "svtav1-params": "lp=1"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p10le"
        stream.codec_context.color_trc, stream.codec_context.color_primaries = transfer, 1
        frame = av.VideoFrame.from_ndarray(scene(), format="rgb24").reformat(format="yuv420p10le")
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


@pytest.mark.skipif("libsvtav1" not in av.codecs_available, reason="this build of PyAV has no encoder of AV1")
def test_avif_of_10_bit_says_that_it_becomes_8_and_hdr_is_refused(tmp_path):
    picture = read_picture(avif_of_10_bit(tmp_path / "a.avif"))
    assert picture.rgb.dtype == np.uint8 and "10 bit become 8" in picture.notes
    if b"nclx" in avif_of_10_bit(tmp_path / "pq.avif", 16).read_bytes():
        assert "HDR picture (PQ)" in refusal(tmp_path / "pq.avif")


def test_pillow_without_avif_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "a.avif"
    Image.fromarray(scene()).save(path)
    monkeypatch.setattr("bfr_core.media.pictures.sniff.features.check", lambda name: name != "avif")
    assert "build of Pillow is without AVIF" in refusal(path) and "pip install" in refusal(path)
    with pytest.raises(OutputMediaError, match="without AVIF"):
        write_picture(path, Picture(scene()))


# --- HEIC --------------------------------------------------------------------------------------------------------


@needs_heif
@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic_is_turned_once(tmp_path, orientation):
    """The container turns it, and EXIF says so too: phones write both, and the container goes first."""
    import pillow_heif

    shape = stored(scene(), orientation)
    file = pillow_heif.from_bytes("RGB", (shape.shape[1], shape.shape[0]), shape.tobytes())
    file[0].info["exif"] = exif_block(orientation)
    file.save(tmp_path / "a.heic", quality=-1, chroma=444)
    assert orientation == 1 or {b"irot", b"imir"} & set(re.findall(b"irot|imir", (tmp_path / "a.heic").read_bytes()))
    picture = read_picture(tmp_path / "a.heic")
    assert picture.kind == "heif" and far(picture.rgb, scene()) <= 3
    assert iso_tags(picture.exif) == (1, b"maker\0note")
    write_picture(tmp_path / "b.heic", picture, quality=100)
    back = read_picture(tmp_path / "b.heic")
    assert far(back.rgb, scene()) <= 4 and back.exif == picture.exif
    write_picture(tmp_path / "b.jpg", picture)
    assert far(read_picture(tmp_path / "b.jpg").rgb, scene()) <= 12


@needs_heif
def test_heic_keeps_its_depth_alpha_and_profile(tmp_path):
    import pillow_heif

    deep = scene().astype(np.uint16) * 257
    file = pillow_heif.from_bytes("RGB;16", (WIDTH, HEIGHT), deep.tobytes())
    file.save(tmp_path / "a.heic", quality=-1, chroma=444)
    picture = read_picture(tmp_path / "a.heic")
    # 10 bits, so within a step of 64 and the rounding of YCbCr.
    assert picture.rgb.dtype == np.uint16 and far(picture.rgb, deep) <= 4 * 64
    write_picture(tmp_path / "b.heic", picture, quality=100)
    assert far(read_picture(tmp_path / "b.heic").rgb, deep) <= 8 * 64
    alpha = scene()[..., 0]
    write_picture(tmp_path / "c.heic", Picture(scene(), alpha, SRGB), quality=100)
    back = read_picture(tmp_path / "c.heic")
    assert back.icc == SRGB and far(back.alpha, alpha) <= 3 and far(back.rgb, scene()) <= 4


XMP = b"""<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>
<rdf:Description xmlns:tiff='http://ns.adobe.com/tiff/1.0/' tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>"""


@pytest.mark.parametrize("suffix", [".avif", pytest.param(".heic", marks=needs_heif)])
def test_xmp_is_carried_and_turns_nothing(tmp_path, suffix):
    """pillow-heif turns what it writes by the orientation in XMP where EXIF has none."""
    picture = Picture(scene(), beside=Beside(xmp=XMP, orientation=6))
    path = tmp_path / f"a{suffix}"
    write_picture(path, picture, quality=100)
    back = read_picture(path)
    assert far(back.rgb, scene()) <= 4 and back.beside.xmp == XMP.replace(b'"6"', b'"1"')
    write_picture(tmp_path / f"b{suffix}", back, quality=100)
    assert far(read_picture(tmp_path / f"b{suffix}").rgb, scene()) <= 6


@needs_heif
def test_heic_of_several_pictures_gives_the_main_one(tmp_path):
    import pillow_heif

    file = pillow_heif.from_bytes("RGB", (WIDTH, HEIGHT), bytes(3 * WIDTH * HEIGHT))
    file.add_frombytes("RGB", (WIDTH, HEIGHT), scene().tobytes())
    file.save(tmp_path / "a.heic", quality=-1, primary_index=1)
    picture = read_picture(tmp_path / "a.heic")
    assert far(picture.rgb, scene()) <= 12 and "several pictures: the main one of 2 used" in picture.notes


HEIC_HEAD = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
JXL_HEAD = b"\xff\x0a\xfa\x7f\0\0\0\0\0\0"


@pytest.mark.parametrize(
    ("name", "data", "module", "words"),
    [
        ("a.heic", HEIC_HEAD, "pillow_heif", ("HEIC", "pillow-heif", "bfr-faces[heif]")),
        ("a.jxl", JXL_HEAD, "pillow_jxl", ("JPEG XL", "pillow-jxl-plugin", "bfr-faces[jxl]")),
    ],
)
def test_without_its_package_a_format_says_what_to_install(tmp_path, monkeypatch, name, data, module, words):
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / name).write_bytes(data)
    message = refusal(tmp_path / name)
    assert all(word in message for word in words)
    with pytest.raises(OutputMediaError, match=re.escape(words[2])):
        write_picture(tmp_path / f"out{Path(name).suffix}", Picture(scene()))
    # It is an input all the same: a folder does not pass it over.
    assert plan_outputs([tmp_path], tmp_path / "out", make=False)[0].source == tmp_path / name


# --- JPEG XL -----------------------------------------------------------------------------------------------------


@needs_jxl
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_jpeg_xl_without_loss(tmp_path, mode):
    rgb = scene() if mode != "L" else np.repeat(scene()[..., :1], 3, axis=2)
    picture = Picture(rgb, scene()[..., 1] if mode == "RGBA" else None, SRGB, exif_block(), mode == "L")
    write_picture(tmp_path / "a.jxl", picture, quality=100)
    back = read_picture(tmp_path / "a.jxl")
    assert np.array_equal(back.rgb, rgb) and back.kind == "jxl" and back.gray == (mode == "L")
    assert (back.alpha is None) == (picture.alpha is None) and back.exif == picture.exif
    if back.alpha is not None:
        assert np.array_equal(back.alpha, picture.alpha)
    assert mode == "L" or is_srgb(back.icc)


@needs_jxl
def test_jpeg_xl_is_turned_once(tmp_path):
    """In a picture of its own, EXIF says nothing of the turn; a JPEG that is packed in one lies as its EXIF says."""
    prepared = exif_block(6)
    lying = Image.fromarray(stored(scene(), 6))
    lying.save(tmp_path / "a.jpg", quality=100, subsampling=0, exif=b"Exif\0\0" + prepared)
    import pillow_jxl.JpegXLImagePlugin  # noqa: F401

    with Image.open(tmp_path / "a.jpg") as jpeg, pytest.warns(UserWarning, match="reconstruction"):
        jpeg.save(tmp_path / "packed.jxl")
    assert far(read_picture(tmp_path / "packed.jxl").rgb, scene()) <= 6
    Image.fromarray(scene()).save(tmp_path / "own.jxl", lossless=True, exif=prepared)
    back = read_picture(tmp_path / "own.jxl")
    assert np.array_equal(back.rgb, scene()) and iso_tags(back.exif)[0] == 1


@needs_jxl
def test_what_a_jpeg_xl_says_before_its_pixels(tmp_path):
    codecs = pytest.importorskip("imagecodecs")
    for size, kind, depth in (
        ((48, 64), np.uint8, "8 bit"), ((300, 170), np.uint16, "16 bit"), ((1080, 1920), np.float32, "float"),
        ((768, 1024), np.uint8, "8 bit"), ((7, 5000), np.uint8, "8 bit"),
    ):  # fmt: skip
        header = jxl_header(codecs.jpegxl_encode(np.zeros((*size, 3), kind), lossless=True))
        assert (header.height, header.width, header.depth, header.animated) == (*size, depth, False)
    moving = codecs.jpegxl_encode(np.zeros((3, 48, 64, 3), np.uint8), lossless=True)
    assert jxl_header(moving).animated
    (tmp_path / "deep.jxl").write_bytes(codecs.jpegxl_encode(scene().astype(np.uint16) * 257, lossless=True))
    picture = read_picture(tmp_path / "deep.jxl")
    assert np.array_equal(picture.rgb, scene()) and "16 bit become 8" in picture.notes


@needs_jxl
def test_a_jpeg_xl_too_large_is_refused_before_it_is_decoded(tmp_path):
    # 'small' off, height of 30 bits, ratio 1:1. Source: ISO/IEC 18181-1, D.3.2.
    bits = 0 | 3 << 1 | 59_999 << 3 | 1 << 33 | 1 << 36
    (tmp_path / "a.jxl").write_bytes(b"\xff\x0a" + bits.to_bytes(8, "little"))
    assert "60000 x 60000" in refusal(tmp_path / "a.jxl")


# --- older ones --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".bmp", ".ppm", ".pgm", ".jp2", ".j2k"])
def test_exact_formats_without_a_profile(tmp_path, suffix):
    gray = suffix == ".pgm"
    rgb = np.repeat(scene()[..., :1], 3, axis=2) if gray else scene()
    picture = Picture(rgb, None, SRGB, exif_block(), gray)
    write_picture(tmp_path / f"a{suffix}", picture)
    back = read_picture(tmp_path / f"a{suffix}")
    assert (
        np.array_equal(back.rgb, rgb)
        and back.gray == gray
        and back.notes == ()
        and back.kind == "".join(each.name for each in PICTURES if suffix in each.suffixes)
    )
    assert lost(picture, back.kind) == (
        f"the EXIF block is not kept: {picture_kind(back.kind).title} has no place for it",
    )
    assert lost(picture, "png") == ()


def test_pnm_of_16_bit_and_of_odd_ranges(tmp_path):
    deep = scene().astype(np.uint16) * 257 - (scene() > 9).astype(np.uint16)
    write_picture(tmp_path / "a.ppm", Picture(deep))
    assert np.array_equal(read_picture(tmp_path / "a.ppm").rgb, deep)
    assert np.array_equal(cv2.imread(str(tmp_path / "a.ppm"), cv2.IMREAD_UNCHANGED)[..., ::-1], deep)
    (tmp_path / "b.pgm").write_bytes(b"P5\n# of a scanner\n2 1\n1023\n" + struct.pack(">2H", 1023, 511))
    assert read_picture(tmp_path / "b.pgm").rgb[0, :, 0].tolist() == [65_535, round(511 * 65_535 / 1023)]
    (tmp_path / "c.pbm").write_bytes(b"P4 8 1\n\xf0")
    assert read_picture(tmp_path / "c.pbm").rgb[0, :, 0].tolist() == [0] * 4 + [255] * 4


def test_jpeg_2000_of_16_bit_says_that_it_becomes_8(tmp_path):
    gray = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    Image.fromarray(gray).save(tmp_path / "a.jp2")
    picture = read_picture(tmp_path / "a.jp2")  # gray comes at its depth
    assert np.array_equal(picture.rgb[..., 0], gray) and picture.gray and picture.notes == ()
    codecs = pytest.importorskip("imagecodecs")
    (tmp_path / "b.jp2").write_bytes(codecs.jpeg2k_encode(scene().astype(np.uint16) * 257, level=0))
    picture = read_picture(tmp_path / "b.jp2")
    assert far(picture.rgb, scene()) <= 1 and "16 bit become 8" in picture.notes


# --- camera raw --------------------------------------------------------------------------------------------------


def directory(**tags: object) -> bytes:
    made = TiffImagePlugin.ImageFileDirectory_v2()
    values = {256: 4, 257: 4, 258: 16, 259: 1, 262: 1, 277: 1} | {int(name[1:]): value for name, value in tags.items()}
    for tag, value in values.items():
        made[tag] = value
    stream = io.BytesIO()
    made.save(stream)
    return stream.getvalue()


def with_inner(**tags: object) -> bytes:
    """Return a TIFF whose directory below the first has these tags."""
    outer = directory(t271="NIKON CORPORATION", t330=1)
    inner = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        inner[int(tag[1:])] = value
    data = bytearray(outer + inner.tobytes(len(outer)))
    (count,) = struct.unpack_from("<H", data, 8)
    for place in range(10, 10 + 12 * count, 12):
        if struct.unpack_from("<H", data, place)[0] == 330:
            struct.pack_into("<HHII", data, place, 330, 4, 1, len(outer))
    return bytes(data)


@pytest.mark.parametrize(
    ("name", "data", "camera"),
    [
        ("a.dng", directory(t50706=b"\1\4\0\0", t262=32803, t271="Leica"), "DNG of Leica"),
        ("a.tif", directory(t50706=b"\1\4\0\0", t262=34892), "DNG"),
        ("a.nef", with_inner(t262=32803, t259=34713), "NIKON CORPORATION"),
        ("a.arw", directory(t259=32767, t271="SONY"), "SONY"),
        ("a.cr2", b"II*\0\x10\0\0\0CR\2\0" + bytes(40), "Canon CR2"),
        ("a.cr3", b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(20), "Canon CR3"),
        ("a.raf", b"FUJIFILMCCD-RAW 0201" + bytes(40), "Fujifilm RAF"),
        ("a.orf", b"IIRO\x08\0\0\0" + bytes(40), "Olympus ORF"),
        ("a.rw2", b"IIU\0\x18\0\0\0" + bytes(40), "Panasonic RW2"),
    ],
)
def test_camera_raw_is_named_with_what_to_do(tmp_path, name, data, camera):
    path = tmp_path / name
    path.write_bytes(data)
    message = refusal(path)
    assert f"raw file ({camera})" in message and "raw converter" in message and "damaged" not in message
    if picture_format(path).name == "raw":
        with pytest.raises(InputMediaError, match="raw converter"):
            plan_outputs([path], tmp_path / "out")


def test_no_message_names_a_place_in_memory(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(60))
    (tmp_path / "a.avif").write_bytes(b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + bytes(60))
    for name in ("a.png", "a.avif"):
        assert re.search("is damaged|is cut short", refusal(tmp_path / name)) and " at 0x" not in refusal(
            tmp_path / name
        )


# --- folders and the command -------------------------------------------------------------------------------------


def test_a_folder_passes_no_format_over(tmp_path):
    for suffix in suffixes(PICTURES):
        (tmp_path / f"{suffix[1:]}{suffix.upper()}").write_bytes(b"x")
    jobs = plan_outputs([tmp_path], tmp_path / "out", make=False)
    assert {job.source.suffix.lower() for job in jobs} == set(suffixes(PICTURES))
    assert all(job.target.suffix == job.source.suffix for job in jobs)


def test_the_table_is_printed(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert main(["formats"]) == 0
    lines = capsys.readouterr().out.splitlines()
    row = {line.split("  ")[0]: line for line in lines}
    assert re.search(r"\.heic \.heif \.hif +yes +yes +needs pillow-heif", row["HEIC"])
    assert re.search(r"\.jpg .*yes +yes +yes +8 bit", row["JPEG"])
    assert re.search(r"no +no +- +Develop it", row["camera raw"])
    assert re.search(r"\.mp4 \.m4v +yes +yes", row["MP4"]) and re.search(r"\.avi .*yes +no", row["AVI"])
    assert "pillow-heif: pip install 'bfr-faces[heif]'" in lines
