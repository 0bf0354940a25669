"""Encoders, segments, copied streams and the joined film: nothing lost, and nothing left behind where it cannot be."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from video_media import add_cover, blank, frame_of, number, picture, planes, side_data, vfr, write_clip

from bfr_core.errors import InputMediaError, OutputMediaError, SettingsError
from bfr_core.media.outputs import plan_outputs
from bfr_core.media.pyav import has_chapters
from bfr_core.video import join as join_module
from bfr_core.video.encode import EncodeSettings, Encoding, choose_encoding, trial
from bfr_core.video.join import join
from bfr_core.video.probe import probe
from bfr_core.video.reader import Reader
from bfr_core.video.segments import SegmentWriter
from bfr_core.video.streams import plan_streams
from bfr_core.video.types import VideoInfo

LOSSLESS = EncodeSettings(codec="ffv1")
FAST = EncodeSettings(preset="ultrafast", crf=0)
needs_16 = pytest.mark.skipif(not has_chapters(), reason="PyAV before 16 has neither chapters nor attachments")


def render(source: Path, target: Path, chosen=FAST, *, drop=(), each=5, window=None, kept=None):
    """Take a clip to a film through all of it, and return the report, the encoding and the stamps."""
    info = probe(source)
    streams, notes = plan_streams(info, target, drop)
    encoding = choose_encoding(info, target, chosen, gop=each)
    segments, pts = cut(source, target.parent, encoding, info, each, window)
    report = join(segments, info, target, encoding, streams if kept is None else kept, pts, window=window)
    return report | {"plan": notes}, encoding, pts


def cut(source: Path, folder: Path, encoding: Encoding, info: VideoInfo, each=5, window=None):
    segments, pts, writer = [], [], None
    for moment in Reader(info, window=window):
        if writer is None:
            writer = SegmentWriter(folder, encoding, info, len(segments), moment.index)
        writer.write(moment.picture, moment.pts)
        pts.append(moment.pts)
        if (moment.index + 1) % each == 0:
            segments.append(writer.finish())
            writer = None
    if writer is not None:
        segments.append(writer.finish())
    return segments, np.array(pts)


def frames_of(path: Path, kind="video", index=0):
    with av.open(str(path)) as container:
        return list(container.decode(getattr(container.streams, kind)[index]))


def stamps_of(path: Path) -> list[Fraction]:
    return [frame.pts * frame.time_base for frame in frames_of(path)]


def packets_of(path: Path, kind="audio") -> dict[int, list[tuple[float, bytes]]]:
    """Packets of each stream of a kind with their times, by FFmpeg alone."""
    with av.open(str(path)) as container:
        streams = [stream for stream in container.streams if stream.type == kind]
        found: dict[int, list[tuple[float, bytes]]] = {place: [] for place in range(len(streams))}
        places = {stream.index: place for place, stream in enumerate(streams)}
        for packet in container.demux(*streams) if streams else ():
            if packet.size and packet.pts is not None:
                found[places[packet.stream_index]].append((float(packet.pts * packet.time_base), bytes(packet)))
    return found


def assert_sound(source: Path, target: Path, shift=0.0, within=1e-9) -> None:
    was, now = packets_of(source), packets_of(target)
    assert list(was) == list(now)
    for place in was:
        assert [data for _, data in was[place]] == [data for _, data in now[place]]
        np.testing.assert_allclose([t + shift for t, _ in was[place]], [t for t, _ in now[place]], atol=within, rtol=0)


def leftovers(folder: Path, *expected: str) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.name not in expected)


def clip_info(path: Path = Path("clip.mp4"), **changes) -> VideoInfo:
    facts = {
        "path": path, "container": "mp4", "bytes": 1, "streams": (), "video": 0, "width": 96, "height": 64,
        "turned": 0, "mirrored": False, "pixel_aspect": Fraction(1), "time_base": Fraction(1, 25),
        "rate": Fraction(25), "frames": 10, "seconds": 0.4, "codec": "h264", "pix_fmt": "yuv420p", "depth": 8,
        "matrix": 1, "full_range": False, "primaries": 1, "transfer": 1, "alpha": False,
    }  # fmt: skip
    return VideoInfo(**(facts | changes))


# --- what is chosen ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "changes", "codec", "pix_fmt", "said"),
    [
        (".mp4", {}, "libx264", "yuv420p", ""),
        (".mov", {"pix_fmt": "yuv422p10le", "depth": 10}, "libx264", "yuv422p10le", ""),
        (".mkv", {"pix_fmt": "yuvj420p", "full_range": True}, "libx264", "yuvj420p", ""),
        (".mkv", {"pix_fmt": "yuv444p12le", "depth": 12}, "libx265", "yuv444p12le", "12 bits"),
        (".mp4", {"pix_fmt": "yuv420p10le", "depth": 10, "transfer": 18}, "libx265", "yuv420p10le", "HDR"),
        (".mp4", {"pix_fmt": "yuv420p16le", "depth": 16}, "libx265", "yuv420p12le", "16 bits a colour become 12"),
        (".mp4", {"pix_fmt": "yuva420p"}, "libx264", "yuv420p", "holds all of it"),  # opaque throughout
        (".mkv", {"pix_fmt": "yuva420p", "alpha": True}, "ffv1", "yuva420p", ""),
        (".mov", {"pix_fmt": "yuva444p10le", "depth": 10, "alpha": True}, "prores_ks", "yuva444p10le", ""),
        (".webm", {"pix_fmt": "yuva420p", "alpha": True}, "libvpx-vp9", "yuva420p", ""),
        (".webm", {"pix_fmt": "gbrap", "matrix": 0, "alpha": True}, "libvpx-vp9", "yuva420p", "between RGB and YCbCr"),
        (".mp4", {"pix_fmt": "gbrp", "matrix": 0}, "libx264", "yuv444p", "between RGB and YCbCr"),
        (".mp4", {"pix_fmt": "gray"}, "libx264", "gray", ""),
        (".webm", {}, "libvpx-vp9", "yuv420p", ""),
        (".webm", {"pix_fmt": "gray"}, "libvpx-vp9", "yuv420p", "holds all of it"),
        (".mkv", {"codec": "ffv1", "pix_fmt": "yuva444p10le", "depth": 10, "alpha": True}, "ffv1", "yuva444p10le", ""),
        (".mkv", {"codec": "ffv1", "pix_fmt": "yuv411p"}, "ffv1", "yuv411p", ""),
        (".mp4", {"pix_fmt": "yuv411p"}, "libx264", "yuv422p", "more samples"),
        (".mp4", {"width": 95, "height": 63}, "libx264", "yuv444p", "width and height is odd"),
        (".mp4", {"height": 63}, "libx264", "yuv422p", "height is odd"),
        (".webm", {"width": 95, "height": 63}, "libvpx-vp9", "yuv420p", ""),
    ],
)
def test_row28_29_31_what_is_chosen_keeps_the_most(suffix, changes, codec, pix_fmt, said, monkeypatch):
    monkeypatch.setattr("bfr_core.video.encode.mastering", lambda info: "")
    encoding = choose_encoding(clip_info(**changes), Path(f"out{suffix}"))
    assert (encoding.codec, encoding.pix_fmt) == (codec, pix_fmt)
    assert said in "; ".join(encoding.notes)
    assert bool(encoding.notes) == bool(said)


@pytest.mark.parametrize(
    ("target", "chosen", "said"),
    [
        ("out.mp4", {"codec": "divx"}, "expected auto or one of h264"),
        ("out.mp4", {"codec": "ffv1"}, "or one of .mkv"),
        ("out.webm", {"codec": "h264"}, ".webm files hold vp9"),
        ("out.mp4", {"crf": 60}, "0 to 51"),
        ("out.mp4", {"crf": -1}, "0 to 51"),
        ("out.mp4", {"preset": "quick"}, "ultrafast"),
        ("out.mp4", {"pix_fmt": "yuv500p"}, "yuv420p"),
        ("out.avi", {}, "expected one of .mp4"),
        ("out", {}, "expected one of .mp4"),
    ],
)
def test_settings_that_cannot_be_are_refused(target, chosen, said):
    with pytest.raises((SettingsError, OutputMediaError), match="Nothing was started") as caught:
        choose_encoding(clip_info(), Path(target), EncodeSettings(**chosen))
    assert said in str(caught.value)


def test_row48_an_encoder_that_refuses_says_why_before_any_work(tmp_path):
    info = clip_info(tmp_path / "clip.mp4", width=63, height=47)
    encoding = Encoding("libx264", "yuv420p", {"crf": "16"}, "mp4", "yuv420p")
    with pytest.raises(OutputMediaError, match="not divisible by 2"):
        trial(encoding, info)
    trial(choose_encoding(info, Path("out.mp4")), info)
    with pytest.raises(OutputMediaError, match="FFmpeg refused"):
        trial(Encoding("libx264", "yuv420p", {"crf": "16", "profile": "nonsense"}, "mp4", "yuv420p"), clip_info())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("codec", ["h264", "h265", "vp9", "ffv1", "prores"])
def test_every_codec_passes_its_trial(codec):
    target = Path("out.mov" if codec == "prores" else "out.mkv")
    trial(choose_encoding(clip_info(), target, EncodeSettings(codec=codec, preset="ultrafast")), clip_info())


# --- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pix_fmt", ["yuv420p", "yuv422p10le", "yuv444p", "yuva420p", "gray", "gray10le", "yuv420p16le"]
)
def test_row29_lossless_film_has_every_sample(tmp_path, pix_fmt):
    source = write_clip(tmp_path / "in.mkv", 7, codec="ffv1", pix_fmt=pix_fmt)
    render(source, tmp_path / "out.mkv", LOSSLESS, each=3)
    was, now = frames_of(source), frames_of(tmp_path / "out.mkv")
    assert len(was) == len(now) == 7
    for before, after in zip(was, now, strict=True):
        assert after.format.name == pix_fmt
        for one, other in zip(planes(before), planes(after), strict=True):
            np.testing.assert_array_equal(one, other)


def test_row29_full_range_and_rgb_keep_every_sample(tmp_path):
    source = write_clip(tmp_path / "full.mp4", 6, pix_fmt="yuvj420p", full=True, options={"qp": "0"})
    render(source, tmp_path / "full.mkv", LOSSLESS)
    for before, after in zip(frames_of(source), frames_of(tmp_path / "full.mkv"), strict=True):
        assert (after.format.name, int(after.color_range)) == ("yuv420p", 2)
        assert all((a == b).all() for a, b in zip(planes(before), planes(after), strict=True))
    rgb = write_clip(tmp_path / "rgb.mkv", 6, codec="ffv1", pix_fmt="bgr0", colour={"colorspace": 0})
    render(rgb, tmp_path / "rgb_out.mkv", LOSSLESS)
    for index, frame in enumerate(frames_of(tmp_path / "rgb_out.mkv")):
        np.testing.assert_array_equal(frame.to_ndarray(format="rgb24"), picture(index))


def test_row29_rgb_in_mp4_comes_back_within_two_levels(tmp_path):
    rgb = write_clip(tmp_path / "rgb.mkv", 4, codec="ffv1", pix_fmt="bgr0", colour={"colorspace": 0})
    _, encoding, _ = render(rgb, tmp_path / "out.mp4", FAST)
    assert encoding.pix_fmt == "yuv444p"
    for index, frame in enumerate(frames_of(tmp_path / "out.mp4")):
        back = frame.to_ndarray(format="rgb24").astype(int)
        assert np.abs(back - picture(index)).max() <= 3


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_row29_hdr_keeps_its_colours_and_its_light(tmp_path, suffix):
    light = "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50):max-cll=1000,400"
    source = write_clip(
        tmp_path / "in.mp4", 3, codec="libx265", pix_fmt="yuv420p10le",
        options={"x265-params": f"{light}:log-level=none"},
        colour={"colorspace": 9, "color_primaries": 9, "color_trc": 16},
    )  # fmt: skip
    report, encoding, _ = render(source, tmp_path / f"out{suffix}", EncodeSettings(preset="ultrafast"))
    assert (encoding.codec, encoding.pix_fmt) == ("libx265", "yuv420p10le")
    with av.open(str(source)) as was, av.open(str(tmp_path / f"out{suffix}")) as now:
        before, after = (next(container.decode(video=0)) for container in (was, now))
        context = now.streams.video[0].codec_context
        assert (context.color_primaries, context.color_trc, context.colorspace, context.color_range) == (9, 16, 9, 1)
        sides = [dict(side_data(frame)) for frame in (before, after)]
        for name in ("MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL"):
            assert sides[0][name] == sides[1][name]
        if suffix != ".mkv":
            assert context.codec_tag == "hvc1"
    assert report["frames"] == 3


@pytest.mark.parametrize(
    ("suffix", "chosen"),
    [
        (".mp4", FAST), (".mkv", FAST), (".mkv", LOSSLESS), (".webm", FAST),
        (".mov", EncodeSettings(codec="prores", pix_fmt="yuv422p10le")),
    ],
)  # fmt: skip
def test_row27_29_shape_of_pixels_and_colour_tags_are_kept(tmp_path, suffix, chosen):
    colour = {"colorspace": 1, "color_primaries": 1, "color_trc": 1}
    source = write_clip(tmp_path / "in.mp4", 4, aspect=Fraction(4, 3), colour=colour)
    render(source, tmp_path / f"out{suffix}", chosen)
    with av.open(str(tmp_path / f"out{suffix}")) as container:
        stream = container.streams.video[0]
        assert stream.sample_aspect_ratio == Fraction(4, 3)
        assert "title" not in stream.metadata
        context = stream.codec_context
        next(container.decode(stream))
        assert (context.color_primaries, context.color_trc, context.colorspace) == (1, 1, 1)
        # ProRes has no mark for its range, which is always the limited one.
        assert context.color_range in ((0, 1) if suffix == ".mov" else (1,))


def test_row26_frames_stored_out_of_order_come_out_in_order(tmp_path):
    source = write_clip(tmp_path / "in.mp4", 23, options={"bf": "3", "g": "12"})
    render(source, tmp_path / "out.mp4", each=4)
    shown = [number(frame.to_ndarray(format="rgb24")) for frame in frames_of(tmp_path / "out.mp4")]
    assert shown == list(range(23))


def test_kinds_of_the_source_frames_are_no_orders_to_the_encoder(tmp_path):
    source = write_clip(tmp_path / "in.mp4", 12, options={"g": "1"})
    render(source, tmp_path / "out.mp4", each=6)
    with av.open(str(tmp_path / "out.mp4")) as container:
        keys = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
    assert [place for place, key in enumerate(keys) if key] == [0, 6]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux lets a test take cores away")
@pytest.mark.parametrize("codec", ["h264", "h265", "vp9"])
def test_row55_bits_do_not_depend_on_the_number_of_cores(tmp_path, codec):
    info = clip_info(tmp_path / "clip.mp4", width=320, height=192)
    encoding = choose_encoding(info, Path("out.mkv"), EncodeSettings(codec=codec, preset="superfast"))
    cores, hashes = os.sched_getaffinity(0), []
    try:
        for some in (cores, {min(cores)}):
            os.sched_setaffinity(0, some)
            writer = SegmentWriter(tmp_path, encoding, info, 0)
            for index in range(6):
                writer.write(frame_of(picture(index, 320, 192)), index)
            hashes.append(writer.finish().sha256)
    finally:
        os.sched_setaffinity(0, cores)
    assert hashes[0] == hashes[1]


# --- time -------------------------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    gaps=st.lists(st.integers(1, 9000), min_size=0, max_size=9),
    first=st.sampled_from([0, 1, 7500, 90000 * 9]),
    ticks=st.sampled_from([90000, 600, 25, 30000]),
    suffix=st.sampled_from([".mp4", ".mov", ".mkv"]),
)
def test_row23_24_time_stamps_are_those_of_the_clip(tmp_path, gaps, first, ticks, suffix):
    info = clip_info(tmp_path / "in.nut", time_base=Fraction(1, ticks), width=32, height=32)
    pts = np.cumsum([first * ticks // 90000, *gaps])
    encoding = choose_encoding(info, tmp_path / f"out{suffix}", FAST)
    frames = [frame_of(picture(0, 32, 32)) for _ in pts]
    source = write_clip(
        tmp_path / "in.mkv", len(pts), size=(32, 32), pts=(pts * 1000 // ticks).tolist() if ticks <= 1000 else None
    )
    info = clip_info(source, time_base=Fraction(1, ticks), width=32, height=32)
    writer = SegmentWriter(tmp_path, encoding, info, 0)
    for frame, stamp in zip(frames, pts, strict=True):
        writer.write(frame, int(stamp))
    report = join([writer.finish()], info, tmp_path / f"out{suffix}", encoding, (), pts)
    exact = [Fraction(int(stamp), ticks) for stamp in pts]
    found = stamps_of(tmp_path / f"out{suffix}")
    worst = max(abs(a - b) for a, b in zip(found, exact, strict=True))
    assert worst == 0 if suffix != ".mkv" else worst <= Fraction(1, 2000)
    assert report["worst_stamp_s"] == pytest.approx(float(worst))
    (tmp_path / f"out{suffix}").unlink()


def test_row23_uneven_times_and_the_last_frame_s_length_are_kept(tmp_path):
    ticks = [3 * stamp for stamp in vfr(20, 4)]
    source = write_clip(tmp_path / "in.mp4", 20, pts=ticks, time_base=Fraction(1, 600), audio=1)
    render(source, tmp_path / "out.mp4")
    assert stamps_of(source) == stamps_of(tmp_path / "out.mp4")
    with av.open(str(source)) as was, av.open(str(tmp_path / "out.mp4")) as now:
        ends = [
            max((p.pts + p.duration) * p.time_base for p in container.demux(video=0) if p.size)
            for container in (was, now)
        ]
    assert ends[0] == ends[1]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(
    "sound",
    [
        {"audio": 0}, {"audio": 1}, {"audio": 3}, {"audio": 1, "audio_s": 0.3}, {"audio": 1, "audio_s": 2.5},
        {"audio": 1, "audio_start_s": 0.4},
    ],
)  # fmt: skip
def test_row22_sound_is_copied_with_its_place_against_the_pictures(tmp_path, suffix, sound):
    source = write_clip(tmp_path / "in.mp4", 20, container_options={"movie_timescale": "16000"}, **sound)
    report, *_ = render(source, tmp_path / f"out{suffix}")
    assert_sound(source, tmp_path / f"out{suffix}", within=1e-9 if suffix == ".mp4" else 5.1e-4)
    assert len(report["streams"]) == sound["audio"]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_row24_offsets_of_transport_streams_are_kept(tmp_path, suffix):
    source = write_clip(tmp_path / "in.ts", 20, audio=2, options={"bf": "2"})
    report, *_ = render(source, tmp_path / f"out{suffix}")
    assert report["shift_s"] == 0
    assert stamps_of(source) == stamps_of(tmp_path / f"out{suffix}")
    was, now = packets_of(source), packets_of(tmp_path / f"out{suffix}")
    for place in was:
        # A transport stream's AAC packets begin with 7 bytes that MP4 and Matroska keep in the header.
        assert [data[7:] for _, data in was[place]] == [data for _, data in now[place]]
        assert max(abs(a - b) for (a, _), (b, _) in zip(was[place], now[place], strict=True)) <= 1e-3


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_row24_a_recording_that_begins_late_begins_at_zero_and_says_so(tmp_path, suffix):
    pts = [3600 * 90000 + 3003 * k for k in range(10)]
    source = write_clip(tmp_path / "in.ts", 10, pts=pts, time_base=Fraction(1, 90000))
    report, *_ = render(source, tmp_path / f"out{suffix}")
    assert report["shift_s"] == pytest.approx(-3600, abs=0.1)
    assert "moved" in report["notes"][0]
    found = stamps_of(tmp_path / f"out{suffix}")
    assert found[0] == 0
    assert max(abs(a - Fraction(3003 * k, 90000)) for k, a in enumerate(found)) <= (
        0 if suffix == ".mp4" else Fraction(1, 2000)
    )


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_part_that_is_cut_out_begins_at_zero_with_its_sound(tmp_path, suffix):
    source = write_clip(tmp_path / "in.mp4", 40, audio=1)
    report, *_ = render(source, tmp_path / f"out{suffix}", window=(0.4, 0.6))
    assert (report["frames"], float(report["shift_s"])) == (15, -0.4)
    shown = [number(frame.to_ndarray(format="rgb24")) for frame in frames_of(tmp_path / f"out{suffix}")]
    assert shown == list(range(10, 25))
    assert stamps_of(tmp_path / f"out{suffix}")[0] == 0
    kept = [(t - 0.4, data) for t, data in packets_of(source)[0] if 0.4 <= t < 1.0]
    now = packets_of(tmp_path / f"out{suffix}")[0]
    assert [data for _, data in kept] == [data for _, data in now]
    assert max(abs(a - b) for (a, _), (b, _) in zip(kept, now, strict=True)) < 1e-3


# --- other streams ----------------------------------------------------------------------------------------------------


def test_row22_subtitles_and_a_second_picture_are_copied(tmp_path):
    source = write_clip(tmp_path / "in.mkv", 40, audio=2, subtitles=2, videos=2, options={"bf": "2"})
    whole = True
    try:
        plan_streams(probe(source), tmp_path / "out.mkv")
    except OutputMediaError as error:
        assert re.search(r"1 \(video, h264\): PyAV .* another header", str(error))
        whole = False
    assert whole or int(av.__version__.split(".")[0]) < 17
    render(source, tmp_path / "out.mkv", drop=() if whole else (1,))
    for kind in ("audio", "subtitle"):
        was, now = packets_of(source, kind), packets_of(tmp_path / "out.mkv", kind)
        assert len(was) == 2
        assert was == now
    if not whole:
        return
    second = [frames_of(path, index=1) for path in (source, tmp_path / "out.mkv")]
    assert [f.pts for f in second[0]] == [f.pts for f in second[1]]
    assert all((a == b).all() for x, y in zip(*second, strict=True) for a, b in zip(planes(x), planes(y), strict=True))


def test_streams_that_a_container_cannot_hold_are_named_and_never_dropped_in_silence(tmp_path):
    source = write_clip(tmp_path / "in.mkv", 10, audio=1, subtitles=1)
    info = probe(source)
    with pytest.raises(OutputMediaError, match=r"2 \(subtitle.*by number: 2"):
        plan_streams(info, tmp_path / "out.mp4")
    with pytest.raises(OutputMediaError, match=r"1 \(audio, aac"):
        plan_streams(info, tmp_path / "out.webm")
    kept, notes = plan_streams(info, tmp_path / "out.mp4", drop=[2])
    assert kept == (1,)
    assert any("2 (subtitle" in note and "dropped" in note for note in notes)
    for wrong in (0, 7):
        with pytest.raises(SettingsError, match="Cannot drop stream"):
            plan_streams(info, tmp_path / "out.mkv", drop=[wrong])
    assert leftovers(tmp_path, "in.mkv") == []


@pytest.mark.skipif(not hasattr(av.stream, "Disposition"), reason="PyAV before 14.1 cannot mark a cover")
def test_row21_a_cover_is_kept_or_refused(tmp_path):
    source = add_cover(write_clip(tmp_path / "in.mp4", 6, audio=1))
    with av.open(str(source)) as container:
        jpeg = next(bytes(p) for p in container.demux(container.streams[2]) if p.size)
    with pytest.raises(OutputMediaError, match=r"2 \(video"):
        plan_streams(probe(source), tmp_path / "out.mov")
    for suffix in (".mp4", ".mkv") if has_chapters() else (".mp4",):
        render(source, tmp_path / f"out{suffix}")
        with av.open(str(tmp_path / f"out{suffix}")) as container:
            stream = container.streams[2]
            assert stream.disposition & av.stream.Disposition.attached_pic
            assert next(bytes(p) for p in container.demux(stream) if p.size) == jpeg
        assert_sound(source, tmp_path / f"out{suffix}", within=5.1e-4)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_titles_that_are_no_utf8_are_copied_byte_for_byte(tmp_path, suffix):
    source = write_clip(tmp_path / f"in{suffix}", 4, metadata={"title": "TITLE"})
    source.write_bytes(source.read_bytes().replace(b"TITLE", b"caf\xe9s"))
    report, *_ = render(source, tmp_path / f"out{suffix}")
    assert b"caf\xe9s" in (tmp_path / f"out{suffix}").read_bytes() and report["notes"] == []


@needs_16
def test_chapters_attachments_metadata_and_languages_are_copied(tmp_path):
    path, third = tmp_path / "in.mkv", Fraction(1, 1000)
    chapters = [
        {"id": 1, "start": 0, "end": 500, "time_base": third, "metadata": {"title": "one"}},
        {"id": 2, "start": 500, "end": 1000, "time_base": third, "metadata": {"title": "two"}},
    ]
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.metadata["language"] = "fre"
        out.set_chapters(chapters)
        out.add_attachment("font.ttf", "application/x-truetype-font", b"abc" * 50)
        out.metadata.update({"title": "Film", "camera": "X1"})
        for index in range(25):
            out.mux(stream.encode(frame_of(picture(index))))
        out.mux(stream.encode(None))
    render(path, tmp_path / "out.mkv")
    render(path, tmp_path / "out.mp4", drop=[1])
    for name in ("out.mkv", "out.mp4"):
        with av.open(str(tmp_path / name)) as container:
            told = [(c["start"] * c["time_base"], c["end"] * c["time_base"], c["metadata"]["title"]) for c in container.chapters()]  # fmt: skip # noqa: E501
            assert told == [(0, Fraction(1, 2), "one"), (Fraction(1, 2), 1, "two")]
            metadata = {key.lower(): value for key, value in container.metadata.items()}
            assert (metadata["title"], metadata["camera"]) == ("Film", "X1")
            assert container.streams.video[0].language == "fre"
            if name == "out.mkv":
                attached = next(s for s in container.streams if s.type == "attachment")
                assert (attached.name, attached.data) == ("font.ttf", b"abc" * 50)
    with pytest.raises(OutputMediaError, match="attachment"):
        plan_streams(probe(path), tmp_path / "out.mov")
    report, *_ = render(path, tmp_path / "part.mkv", window=(0.4, 0.4))
    with av.open(str(tmp_path / "part.mkv")) as container:
        spans = [(float(c["start"] * c["time_base"]), float(c["end"] * c["time_base"])) for c in container.chapters()]
    assert spans == [(0, pytest.approx(0.1)), (pytest.approx(0.1), pytest.approx(0.4))]
    assert report["chapters"] == 2


# --- what goes wrong --------------------------------------------------------------------------------------------------


def writer_for(folder: Path, *, number=0, first=0, **changes):
    info = clip_info(folder / "clip.mp4", **changes)
    return SegmentWriter(folder, choose_encoding(info, Path("out.mp4"), FAST), info, number, first)


def test_a_segment_is_there_whole_or_not_at_all(tmp_path):
    writer = writer_for(tmp_path)
    writer.write(frame_of(picture(0)), 0)
    assert leftovers(tmp_path) != []
    writer.abort()
    writer.abort()
    assert leftovers(tmp_path) == []
    with pytest.raises(KeyboardInterrupt), writer_for(tmp_path) as writer:
        writer.write(frame_of(picture(0)), 0)
        raise KeyboardInterrupt
    assert leftovers(tmp_path) == []
    with pytest.raises(OutputMediaError, match="0 packets for 0 frames"):
        writer_for(tmp_path).finish()
    assert leftovers(tmp_path) == []
    writer = writer_for(tmp_path)
    writer.write(frame_of(picture(0)), 5)
    with pytest.raises(OutputMediaError, match="time stamp 5, and the one before 5"):
        writer.write(frame_of(picture(1)), 5)
    writer = writer_for(tmp_path)
    with pytest.raises(OutputMediaError, match="32 x 32 pixels, expected 96 x 64"):
        writer.write(frame_of(picture(0, 32, 32)), 0)
    assert leftovers(tmp_path) == []
    with pytest.raises(OutputMediaError, match="does not exist"):
        writer_for(tmp_path / "missing")


def test_a_finished_segment_says_what_it_is(tmp_path):
    writer = writer_for(tmp_path, number=3, first=7)
    for index in range(4):
        writer.write(frame_of(picture(index)), 10 * index)
    segment = writer.finish()
    writer.abort()
    data = segment.path.read_bytes()
    assert (segment.number, segment.first, segment.frames) == (3, 7, 4)
    assert (segment.bytes, segment.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert leftovers(tmp_path) == [segment.path.name]


@contextmanager
def largest_file(size: int):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def noise(index: int, width=160, height=96):
    return np.random.default_rng(index).integers(0, 255, (height, width, 3), np.uint8)


@pytest.mark.skipif(os.name != "posix", reason="limits of file sizes are a thing of POSIX")
@pytest.mark.parametrize(("target", "limit"), [("out.mkv", 60_000), ("out.mkv", 100), ("out.mov", 60_000)])
def test_row41_a_full_disk_at_a_segment_leaves_those_before_and_says_what_is_needed(tmp_path, target, limit):
    info = clip_info(tmp_path / "clip.mp4", width=160, height=96, frames=100)
    codec = "prores" if target == "out.mov" else "ffv1"
    encoding = choose_encoding(info, Path(target), EncodeSettings(codec=codec))
    writer = SegmentWriter(tmp_path, encoding, info, 0)
    writer.write(frame_of(noise(0)), 0)
    done = writer.finish()
    with largest_file(limit), pytest.raises(OutputMediaError, match="is full") as caught:
        writer = SegmentWriter(tmp_path, encoding, info, 1, 1)
        for index in range(1, 40):
            writer.write(frame_of(noise(index)), index)
        writer.finish()
    assert "segments before it are kept" in str(caught.value)
    if limit > 100:
        assert "MiB" in str(caught.value)
    assert leftovers(tmp_path) == [done.path.name]


@pytest.mark.skipif(os.name != "posix", reason="limits of file sizes are a thing of POSIX")
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.999])
def test_row41_a_full_disk_at_the_join_keeps_segments_and_an_older_film(tmp_path, suffix, share):
    source = write_clip(tmp_path / "in.mp4", 12, size=(160, 96), make=noise, audio=1)
    info, target = probe(source), tmp_path / f"out{suffix}"
    encoding = choose_encoding(info, target, EncodeSettings(preset="ultrafast", crf=1))
    segments, pts = cut(source, tmp_path, encoding, info)
    join(segments, info, target, encoding, (1,), pts)
    size = target.stat().st_size
    target.write_bytes(b"older")
    before = leftovers(tmp_path)
    with largest_file(int(size * share)), pytest.raises(OutputMediaError, match="MiB") as caught:
        join(segments, info, target, encoding, (1,), pts)
    assert f"All {len(segments)} segments are kept" in str(caught.value)
    assert target.read_bytes() == b"older"
    assert leftovers(tmp_path) == before


@pytest.mark.parametrize("damage", ["video", "sound", "lost"])
def test_row50_a_film_that_is_not_what_it_should_be_is_rejected(tmp_path, monkeypatch, damage):
    source, target = write_clip(tmp_path / "in.mp4", 12, audio=1), tmp_path / "out.mp4"
    target.write_bytes(b"older")
    real, sounds = join_module.verify, [data for _, data in packets_of(source)[0]]

    def spoilt(path, target, written, *heard):
        data = bytearray(path.read_bytes())
        if damage == "sound":
            place = data.find(sounds[4])
            data[place + 3] ^= 0xFF
        elif damage == "video":
            place = data.find(b"mdat") + 40
            data[place : place + 600] = bytes(600)
        else:
            data = data[: len(data) // 2]
        path.write_bytes(data)
        return real(path, target, written, *heard)

    monkeypatch.setattr(join_module, "verify", spoilt)
    with pytest.raises(OutputMediaError, match=r"not what it should be.*out\.mp4\.rejected"):
        render(source, target)
    assert target.read_bytes() == b"older"
    assert (tmp_path / "out.mp4.rejected").stat().st_size > 100
    assert not [name for name in leftovers(tmp_path) if name.startswith(".bfr-")]


def test_row45_49_segments_that_are_not_the_film_s_are_refused(tmp_path):
    source, target = write_clip(tmp_path / "in.mp4", 12), tmp_path / "out.mp4"
    info = probe(source)
    encoding = choose_encoding(info, target, FAST)
    segments, pts = cut(source, tmp_path, encoding, info)
    cases: list[tuple[Sequence, np.ndarray, str]] = [
        ([], np.array([], int), "no frame was encoded"),
        (segments[:-1], pts, "10 frames, expected 12"),
        ([segments[1], segments[0], segments[2]], pts, "do not follow"),
        (segments, np.r_[pts[:3], pts[2:-1]], "do not grow at frame 3"),
    ]
    for some, stamps, said in cases:
        with pytest.raises(OutputMediaError, match=said):
            join(some, info, target, encoding, (), stamps)
    shutil.copy(segments[2].path, segments[1].path)
    with pytest.raises(OutputMediaError, match="hold 9 frames, expected 12"):
        join(segments, info, target, encoding, (), pts)
    other = choose_encoding(info, target, EncodeSettings(preset="medium", crf=20))
    with pytest.raises(OutputMediaError, match="other settings"):
        join(segments, info, target, other, (), pts)
    segments[0].path.write_bytes(b"nothing")
    with pytest.raises(OutputMediaError, match="segments are kept"):
        join(segments, info, target, encoding, (), pts)
    assert not target.exists()
    assert not [name for name in leftovers(tmp_path) if name.startswith(".bfr-")]


def test_row37_a_clip_that_vanished_before_the_join_is_named(tmp_path):
    source, target = write_clip(tmp_path / "in.mp4", 6), tmp_path / "out.mp4"
    info = probe(source)
    encoding = choose_encoding(info, target, FAST)
    segments, pts = cut(source, tmp_path, encoding, info)
    source.unlink()
    with pytest.raises(InputMediaError, match=r"in\.mp4"):
        join(segments, info, target, encoding, (), pts)
    assert not target.exists()


def test_row43_cancel_during_the_join_leaves_nothing(tmp_path):
    source, target = write_clip(tmp_path / "in.mp4", 30, audio=1), tmp_path / "out.mp4"
    info = probe(source)
    encoding = choose_encoding(info, target, FAST)
    segments, pts = cut(source, tmp_path, encoding, info)
    before = leftovers(tmp_path)

    class Stop(BaseException):
        pass

    def cancel():
        nonlocal left
        left -= 1
        if not left:
            raise Stop

    for calls in (1, 2, 3):
        left = calls
        with pytest.raises(Stop):
            join(segments, info, target, encoding, (1,), pts, check_cancel=cancel)
        assert leftovers(tmp_path) == before


def test_the_unfinished_film_of_a_killed_run_is_written_over(tmp_path):
    source, target = write_clip(tmp_path / "in.mp4", 6), tmp_path / "out.mp4"
    info = probe(source)
    encoding = choose_encoding(info, target, FAST)
    segments, pts = cut(source, tmp_path, encoding, info)
    left = "0123456789abcdef"
    (tmp_path / f".bfr-{left}.mp4").write_bytes(b"left by a killed run")
    join(segments, info, target, encoding, (), pts, token=left)
    assert not [name for name in leftovers(tmp_path) if name.startswith(".bfr-")]
    assert len(frames_of(target)) == 6


def test_blank_frames_and_another_format_are_fitted(tmp_path):
    info = clip_info(tmp_path / "clip.mp4", width=95, height=63)
    encoding = choose_encoding(info, Path("out.mp4"), FAST)
    writer = SegmentWriter(tmp_path, encoding, info, 0)
    for index in range(3):
        frame = blank("yuv420p", 95, 63)
        for plane, value in zip(frame.planes, (90, 100, 160), strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        writer.write(frame, index)
    segment = writer.finish()
    with av.open(str(segment.path)) as container:
        for frame in container.decode(video=0):
            assert [int(np.median(plane)) for plane in planes(frame)] == [90, 100, 160]
            assert (frame.width, frame.height) == (95, 63)


# --- where films go ---------------------------------------------------------------------------------------------------


def test_row38_39_40_names_of_films_are_checked_before_the_first_frame(tmp_path):
    film, other = tmp_path / "a film %03d é \N{CLAPPER BOARD}.mkv", tmp_path / "-b.avi"
    for path in (film, other):
        path.write_bytes(b"x")
    jobs = plan_outputs([film, other], tmp_path / "out", clips=True)
    assert [job.target.name for job in jobs] == ["a film %03d é \N{CLAPPER BOARD}.mkv", "-b.mkv"]
    assert plan_outputs([film], tmp_path / "one.mp4", clips=True)[0].target == tmp_path / "one.mp4"
    with pytest.raises(OutputMediaError, match="it is the input"):
        plan_outputs([film], film, overwrite=True, clips=True)
    (tmp_path / "alias.mkv").symlink_to(film)
    with pytest.raises(OutputMediaError, match="it is the input"):
        plan_outputs([film], tmp_path / "alias.mkv", overwrite=True, clips=True)
    (tmp_path / "there.mp4").write_bytes(b"y")
    with pytest.raises(OutputMediaError, match="exists already"):
        plan_outputs([film], tmp_path / "there.mp4", clips=True)
    assert plan_outputs([film], tmp_path / "there.mp4", overwrite=True, clips=True)
    with pytest.raises(OutputMediaError, match="not a folder"):
        plan_outputs([film], tmp_path / "there.mp4" / "x.mp4", clips=True)
    with pytest.raises(SettingsError, match="suffix"):
        plan_outputs([film], tmp_path / "out", suffix=".avi", clips=True)
    with pytest.raises(InputMediaError, match="no picture or clip to restore"):
        plan_outputs([tmp_path / "out"], tmp_path / "out2", clips=True)
    with pytest.raises(OutputMediaError, match="Two inputs"):
        (tmp_path / "-b.mkv").write_bytes(b"z")
        plan_outputs([other, tmp_path / "-b.mkv"], tmp_path / "out3", clips=True)
