"""One table of formats: what it says is read is read, and what it says is written is written."""

from __future__ import annotations

import ast
import io
import os
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import video_media as media
from PIL import Image

from bfr_core.cli import main
from bfr_core.degrade.clips import degrade_clip, plan_clips
from bfr_core.degrade.presets import SEVERITIES
from bfr_core.degrade.video import draw_clip
from bfr_core.errors import InputMediaError, OutputMediaError
from bfr_core.evaluate.sources import ClipMatch
from bfr_core.media.clips import open_clip, read_frames, upright
from bfr_core.media.formats import (
    FILMS,
    PICTURES,
    Package,
    becomes_film,
    content_format,
    demuxers,
    film_format,
    is_clip,
    is_picture,
    misnamed,
    picture_format,
    suffixes,
    titles,
)
from bfr_core.media.luma import BT601, RED_AND_BLUE, luma
from bfr_core.media.outputs import plan_outputs
from bfr_core.media.pictures import Picture, read_picture, write_picture
from bfr_core.media.pictures.sniff import missing
from bfr_core.video.encode import ENCODERS, container_of
from bfr_core.video.probe import probe
from bfr_core.video.reader import Reader

ROOT = Path(__file__).resolve().parents[2]

MADE_WITH = {
    "avi": ("mpeg4", "avi"), "mpegts": ("libx264", "mpegts"), "mpeg": ("mpeg2video", "mpeg"), "gif": ("gif", "gif"),
    "h264": ("libx264", "h264"), "hevc": ("libx265", "hevc"), "webm": ("libvpx-vp9", "webm"),
    "dv": ("dvvideo", "dv"), "asf": ("wmv2", "asf"), "mxf": ("mpeg2video", "mxf"), "ogg": ("libvpx", "ogg"),
    "rm": ("rv20", "rm"), "wtv": ("mpeg2video", "wtv"), "mpegvideo": ("mpeg2video", "mpeg2video"),
    "yuv4mpegpipe": ("wrapped_avframe", "yuv4mpegpipe"), "ivf": ("libvpx-vp9", "ivf"),
}  # fmt: skip
"""Encoder and muxer of a format; H.264 and the format's own name where it is not here."""


def film(path: Path, count: int = 6) -> Path:
    """Write a film as its suffix says."""
    found = film_format(path)
    assert found is not None
    codec, container = MADE_WITH.get(found.name, ("libx264", found.name))
    options = {"x265-params": "log-level=none"} if codec == "libx265" else None
    pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
    size = {"dvvideo": (720, 576), "rv20": (352, 288)}.get(codec, (96, 64))  # those that the codec knows
    return media.write_clip(path, count, size=size, codec=codec, container=container, pix_fmt=pix_fmt, options=options)


# --- the table ---------------------------------------------------------------------------------------------------


def test_every_suffix_names_one_format():
    for formats in (PICTURES, FILMS):
        every = [suffix for each in formats for suffix in each.suffixes]
        assert len(every) == len(set(every)) and all(suffix[0] == "." and suffix == suffix.lower() for suffix in every)
        for one, other in combinations(formats, 2):
            assert one.name != other.name and one.title != other.title
    # A GIF is both: what it becomes says which.
    pictures, films = ({suffix for each in formats for suffix in each.suffixes} for formats in (PICTURES, FILMS))
    assert pictures & films == {".gif"}
    assert suffixes(FILMS, write=True) == (".mp4", ".m4v", ".mov", ".qt", ".mkv", ".webm")
    assert {each.name for each in FILMS if each.write} == {each.name for each in FILMS if each.codecs}


def test_lists_for_texts():
    every = "JPEG, PNG, WebP, TIFF, AVIF, HEIC, JPEG XL, GIF, BMP, PNM and JPEG 2000"
    assert titles(PICTURES) == titles(PICTURES, write=True) == every
    assert titles(FILMS) == (
        "MP4, MOV, MKV, WebM, AVI, MPEG-TS, MPEG-PS, 3GP, DV, WMV, FLV, F4V, MXF, Ogg, RealMedia, WTV, "
        "raw MPEG-1 and -2, raw H.264, raw H.265, Y4M, IVF, NUT and GIF"
    )
    assert titles(FILMS, write=True) == "MP4, MOV, MKV and WebM" and titles(FILMS[:1]) == "MP4"
    assert titles(PICTURES[:2], last="or") == "JPEG or PNG"


def test_no_other_list_of_suffixes_is_written_by_hand():
    every = {suffix for each in (*PICTURES, *FILMS) for suffix in each.suffixes}
    for room in ("bfr_core", "nodes", "train"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                held = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", [])
                named = [each.value for each in held if isinstance(each, ast.Constant) and each.value in every]
                assert len(named) < 2 or path.name == "formats.py", f"{path}:{node.lineno} {named}"


def test_names_of_the_table_are_ffmpegs():
    known = {name for each in av.formats_available for name in each.split(",")}
    assert set(demuxers().split(",")) <= known
    assert {each.name for each in FILMS} <= known
    assert {codec for each in FILMS for codec in each.codecs} == set(ENCODERS)


def test_files_are_told_by_their_names(tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    assert is_clip(Path("A.GIF")) and is_clip(Path("a.h264")) and not is_clip(Path("a.png"))
    assert not is_clip(tmp_path / "folder.mp4") and not is_clip(Path("mp4")) and not is_clip(Path("a.mp4.json"))
    assert is_picture(Path("A.JPEG")) and is_picture(Path("a.gif")) and is_picture(Path("a.HEIC"))
    assert not is_picture(Path("a.dng")) and picture_format(Path("a.dng")).name == "raw"
    assert picture_format(Path("a.tga")) is None


@pytest.mark.parametrize("suffix", suffixes(PICTURES))
def test_every_picture_is_read_and_written(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    if isinstance(lacking := missing(picture_format(path)), Package):
        pytest.skip(f"needs {lacking.title}")
    write_picture(path, Picture(np.full((8, 8, 3), 90, np.uint8)))
    found = picture_format(path)
    assert found is not None and found.write and read_picture(path).kind == found.name


@pytest.mark.parametrize("suffix", suffixes(FILMS))
def test_every_film_is_read(tmp_path, suffix):
    path = film(tmp_path / f"a{suffix}")
    rate = Fraction(25) if "no times" in film_format(path).notes else None
    moments = list(Reader(probe(path), rate=rate))
    numbers = [media.number((moment.rgb() * 255).round().byte().permute(1, 2, 0).numpy()) for moment in moments]
    assert numbers == list(range(6))
    assert is_clip(path) and plan_outputs([path], tmp_path / "out", clips=True)[0].source == path


@pytest.mark.parametrize(
    ("real", "name"),
    [("a.avi", "b.mp4"), ("a.mkv", "b.avi"), ("a.mp4", "b.mkv"), ("a.m2ts", "b.mpg"), ("a.vob", "b.mov"),
     ("a.wmv", "b.avi"), ("a.flv", "b.mp4"), ("a.dv", "b.avi"), ("a.h264", "b.mp4"), ("a.mp4", "b.jpg"),
     ("a.mov", "b"), ("a.mkv", "b.dat"), ("a.gif", "b.png")],
)  # fmt: skip
def test_films_are_told_by_their_content(tmp_path, real, name):
    """Named for another container, for a picture, or for nothing: read for what it is, and said where the name lies."""
    path = film(tmp_path / real).rename(tmp_path / name)
    was = film_format(Path(real))
    assert is_clip(path) and content_format(path).demuxers == was.demuxers
    info = probe(path)
    assert len(list(Reader(info, rate=Fraction(25)))) == 6
    said = [note for note in info.notes if "by its content" in note or "its content is" in note]
    assert [f"its content is a film: {content_format(path).title}" in note for note in said] == (
        [True] if path.suffix not in ("", ".dat") and (path.suffix, real) != (".mpg", "a.m2ts") else []
    )
    job = plan_outputs([path], tmp_path / "out", clips=True)[0]
    # A GIF is a picture as well, and stays one.
    assert job.film == (real != "a.gif") and (not job.film or film_format(job.target).write)


def test_mp4_and_mov_are_one_to_ffmpeg_and_no_name_lies(tmp_path):
    path = film(tmp_path / "a.mov").rename(tmp_path / "a.mp4")
    assert misnamed(path) == "" and misnamed(film(tmp_path / "b.3gp")) == ""


@pytest.mark.parametrize("name", ["a.mp4", "a.ts", "a.gif"])
def test_a_picture_that_is_named_like_a_film_is_restored_as_one(tmp_path, capsys, name):
    Image.fromarray(media.picture(1)).save(tmp_path / name, "PNG")
    assert not is_clip(tmp_path / name)
    with pytest.raises(InputMediaError, match=f"named {Path(name).suffix}, and its content is a picture: PNG"):
        probe(tmp_path / name)
    assert run("restore", tmp_path / name, "-o", tmp_path / "x.mp4") == 1
    assert "its content is a picture: PNG" in capsys.readouterr().err
    assert run("restore", tmp_path / name, "-o", tmp_path / "out") == 0
    assert [path.name for path in (tmp_path / "out").glob("[!.]*")] == ["a.png"]
    assert any("but holds PNG" in note for note in read_picture(tmp_path / name).notes)


def test_a_film_that_is_named_like_a_picture_is_restored_as_one(tmp_path, capsys):
    film(tmp_path / "a.mp4").rename(tmp_path / "a.jpg")
    assert run("restore", tmp_path / "a.jpg", "-o", tmp_path / "x.jpg") == 1
    assert "its content is a film: MP4" in capsys.readouterr().err
    assert run("restore", tmp_path / "a.jpg", "-o", tmp_path / "out") == 0
    assert "named .jpg, and its content is a film: MP4" in capsys.readouterr().out
    assert len(list(Reader(probe(tmp_path / "out" / "a.mp4")))) == 6


def test_what_begins_like_nothing_is_told_by_its_name(tmp_path):
    for name, film_like in (("a.mp4", True), ("a.jpg", False), ("a.264", True)):
        (tmp_path / name).write_bytes(bytes(300))
        assert is_clip(tmp_path / name) is film_like and misnamed(tmp_path / name) == ""


def test_formats_that_are_only_read_become_mkv_and_are_no_outputs(tmp_path):
    sources = [tmp_path / name for name in ("a.gif", "b.h264", "c.265", "d.m2ts", "e.avi")]
    for source in sources:
        source.write_bytes(b"x")
    jobs = plan_outputs(sources, tmp_path / "out", clips=True)
    assert [job.target.name for job in jobs] == ["a.gif", "b.mkv", "c.mkv", "d.mkv", "e.mkv"]
    assert [job.film for job in jobs] == [False, True, True, True, True]
    for name in ("x.gif", "x.h264", "x.avi"):
        with pytest.raises(OutputMediaError, match=r"named as a picture|read and not written.*\.mp4"):
            plan_outputs(sources[1:2], tmp_path / name, clips=True)
        with pytest.raises(OutputMediaError):
            container_of(tmp_path / name)
        with pytest.raises(OutputMediaError, match=r"not written here.*\.mp4"):
            plan_clips(sources[:1], tmp_path / name, alone=True, overwrite=False)
    (tmp_path / "x.gif").mkdir()  # a folder of that name is a folder
    assert plan_outputs(sources[1:2], tmp_path / "x.gif", clips=True)[0].target == tmp_path / "x.gif" / "b.mkv"


def test_a_gif_becomes_what_its_result_is_named(tmp_path):
    source = tmp_path / "a.gif"
    source.write_bytes(b"x")
    for name, is_film in (("b.gif", False), ("b.webp", False), ("b.png", False), ("b.mp4", True), ("b.mkv", True)):
        (job,) = plan_outputs([source], tmp_path / name, clips=True)
        assert job.film is becomes_film(job.source, job.target) is is_film
    assert plan_outputs([source], tmp_path / "out", clips=True, suffix=".mkv")[0].film


# --- from outside ------------------------------------------------------------------------------------------------


def run(*arguments: object) -> int:
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)


def test_a_gif_is_restored_with_the_times_of_its_pictures(tmp_path, capsys):
    pictures = [Image.fromarray(media.picture(index)) for index in range(4)]
    waits = [40, 300, 100, 60]
    file = io.BytesIO()
    pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=waits, loop=0)
    (tmp_path / "a.gif").write_bytes(file.getvalue())
    assert run("restore", tmp_path / "a.gif", "-o", tmp_path / "a.mkv", "--codec", "ffv1") == 0
    assert "4 frames" in capsys.readouterr().out
    times = [moment.time for moment in Reader(probe(tmp_path / "a.mkv"))]
    assert times == pytest.approx(np.cumsum([0, *waits[:-1]]) / 1000, abs=1e-3)


@pytest.mark.parametrize("suffix", [".h264", ".265"])
def test_a_raw_stream_is_restored_at_the_rate_that_is_given(tmp_path, capsys, suffix):
    source = film(tmp_path / f"a{suffix}")
    assert run("restore", source, "-o", tmp_path / "a.mp4") == 1
    assert "--frame-rate" in capsys.readouterr().err and not (tmp_path / "a.mp4").exists()
    assert run("restore", source, "-o", tmp_path / "a.mp4", "--frame-rate", 20) == 0
    assert [moment.time for moment in Reader(probe(tmp_path / "a.mp4"))] == pytest.approx(np.arange(6) / 20)


# --- one reader --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["eval", "degrade", "restore"])
def test_row20_no_command_follows_a_playlist_named_like_a_clip(tmp_path, capsys, command):
    # A reader of the canary would wait for somebody to write into it.
    os.mkfifo(tmp_path / "canary.mp4")
    evil = tmp_path / "evil.mp4"
    evil.write_text("ffconcat version 1.0\nfile 'canary.mp4'\n")
    more = ["--truth", film(tmp_path / "a.mp4")] if command == "eval" else ["-o", tmp_path / "out.mp4"]
    assert run(command, evil, *more) == 1
    assert "evil.mp4" in capsys.readouterr().err and not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize("way", range(1, 9))
def test_clips_are_compared_upright_whatever_way_they_are_stored(tmp_path, way):
    def written(name: str, shown: int) -> Path:
        size = (64, 96) if shown >= 5 else (96, 64)
        path = media.write_clip(
            tmp_path / name, 3, size=size, codec="libx264", pix_fmt="yuv444p", options={"crf": "0", "bf": "0"},
            make=lambda index: media.stored(media.picture(index), shown),
        )  # fmt: skip
        return media.set_matrix(path, shown)

    match = ClipMatch({"restored": written("a.mp4", way), "truth": written("b.mp4", 1)})
    moments = list(match.moments())
    assert len(moments) == 3 and match.unmatched == {}
    for moment in moments:
        assert (moment.frames["restored"] - moment.frames["truth"]).abs().max() <= 3 / 255


@pytest.mark.parametrize("way", [2, 6])
def test_a_clip_that_is_stored_askew_is_not_degraded(tmp_path, way):
    source = media.set_matrix(media.write_clip(tmp_path / "a.mp4", 3), way)
    with pytest.raises(InputMediaError, match="expected upright"):
        degrade_clip(source, tmp_path / "out.mp4", draw_clip(SEVERITIES["x4"], 1, codec="none"))
    assert not (tmp_path / "out.mp4").exists()


def test_times_of_avi_are_those_of_decoding(tmp_path):
    """AVI stores no order of presentation, so its frames are matched by the stamps that ascend."""
    paths = {
        "restored": media.write_clip(tmp_path / "a.avi", 12, codec="mpeg4", options={"bf": "2", "qscale": "1"}),
        "truth": media.write_clip(tmp_path / "b.mkv", 12, codec="ffv1", pix_fmt="yuv420p"),
    }
    match = ClipMatch(paths)
    numbers = [
        [media.number((moment.frames[side] * 255).byte().permute(1, 2, 0).numpy()) for side in ("restored", "truth")]
        for moment in match.moments()
    ]
    assert numbers == [[number, number] for number in range(12)] and match.unmatched == {}


def test_a_reader_hears_of_every_packet_and_of_every_fault(tmp_path):
    path = media.write_clip(tmp_path / "a.mp4", 8, audio=1, options={"g": "1", "bf": "0"})
    heard: list[int] = []
    with open_clip(path) as container:
        stream = container.streams.video[0]
        frames = read_frames(container, stream, streams=[], on_packet=lambda packet: heard.append(packet.stream.index))
        assert [media.number(frame.to_ndarray(format="rgb24")) for frame in frames] == list(range(8))
    assert set(heard) == {0, 1}
    faults: list[int] = []

    def broken(error: Exception, packet: object, row: int) -> bool:
        faults.append(row)
        return row < 3

    class Fails:
        """Its packets hold nothing that can be decoded."""

        def __init__(self, packet: object) -> None:
            self.stream = packet.stream

        def decode(self) -> list:
            raise av.error.InvalidDataError(1094995529, "Invalid data found", "a.mp4")

    class Container:
        def __init__(self, inner: object) -> None:
            self.inner = inner

        def demux(self, *streams: object):
            return (Fails(packet) for packet in self.inner.demux(*streams))

    with open_clip(path) as container:
        stream = container.streams.video[0]
        assert list(read_frames(Container(container), stream, on_fault=broken)) == [] and faults == [1, 2, 3]
    with open_clip(path) as container, pytest.raises(av.error.InvalidDataError):
        list(read_frames(Container(container), container.streams.video[0]))


def test_turned_pixels_come_upright():
    image = media.picture(5)
    for way, (turned, mirrored) in {1: (0, False), 2: (0, True), 3: (2, False), 6: (1, False), 8: (3, False)}.items():
        assert np.array_equal(upright(media.stored(image, way), turned, mirrored), image)


# --- luma --------------------------------------------------------------------------------------------------------


def test_luma_is_that_of_bt601_at_any_depth_of_batch():
    image = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    expected = torch.from_numpy(np.einsum("bchw,c->bhw", image.double().numpy(), [0.299, 0.587, 0.114]))[:, None]
    assert torch.allclose(luma(image).double(), expected, atol=1e-6)
    assert torch.equal(luma(image[0]), luma(image)[0]) and luma(image[0]).shape == (1, 5, 7)
    assert sum(BT601) == pytest.approx(1) and RED_AND_BLUE[6] == (0.299, 0.114)
