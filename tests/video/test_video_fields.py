"""Interlaced films: fields stay fields, a moving face does not comb, and whoever wants gets whole pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from film_jobs import LOSSLESS, Spot, Stop, options, run, same
from tapes import SPEED, START, frames_of, header_order, tape
from tiny_restorers import Brighten, restorer_of
from torch import nn
from video_media import blank, fill, planes, write_clip

from bfr_core.cli import main
from bfr_core.errors import OutputMediaError, SettingsError
from bfr_core.runtime import Runtime
from bfr_core.video.encode import EncodeSettings
from bfr_core.video.fields import Marker, Orders, per_field
from bfr_core.video.plan import FilmModels, plan_film, with_fields
from bfr_core.video.probe import probe
from bfr_core.video.reader import Reader
from bfr_core.video.render import RenderOptions

FAST = EncodeSettings(preset="ultrafast")
HEADER = {"tff": (2, 4), "bff": (3, 5)}


def orders(path: Path) -> set[str]:
    told = Orders()
    return {told(frame) for frame in frames_of(path)}


class Paint(nn.Module):
    """Paints the same black square amid every crop, wherever its face is."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        made = x + 0 * self.scale
        size = x.shape[-1]
        made[..., 5 * size // 8 - size // 10 : 5 * size // 8 + size // 10, 2 * size // 5 : 3 * size // 5] = 0
        return made


# --- fields stay fields -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "name", "target", "encode", "made"),
    [
        ("tff", "a.mkv", "out.mp4", FAST, {}),
        ("bff", "a.mp4", "out.mov", FAST, {}),
        ("bff", "a.mov", "out.mkv", FAST, {}),
        ("bff", "a.mkv", "out.mkv", LOSSLESS, {}),
        ("tff", "a.mkv", "out.mov", EncodeSettings(codec="prores"), {}),
        ("bff", "a.mpg", "out.mkv", FAST, {"codec": "mpeg2video"}),
        ("tff", "a.ts", "out.mp4", FAST, {"codec": "mpeg2video"}),
        ("tff", "a.mkv", "out.mkv", EncodeSettings(), {"codec": "ffv1", "pix_fmt": "yuv422p10le"}),
        ("bff", "a.mov", "out.mov", EncodeSettings(codec="prores"), {"codec": "prores_ks", "pix_fmt": "yuv422p10le"}),
    ],
)
def test_row30_fields_stay_fields(tmp_path, order, name, target, encode, made):
    """Before, every one of these came out as whole frames, so that no player took the fields apart."""
    source = tape(tmp_path / name, 5, order=order, **made)
    assert probe(source).fields == order
    report = run(source, tmp_path / target, options(encode=encode))
    assert report.frames == 5 == report.restored_frames
    assert orders(tmp_path / target) == {order}
    assert header_order(tmp_path / target) in (*HEADER[order], None)
    assert any("fields stay fields" in note for note in report.notes)
    old, new = frames_of(source), frames_of(tmp_path / target)
    starts = [frames[0].pts * frames[0].time_base for frames in (old, new)]
    for before, after in zip(old, new, strict=True):
        assert float(before.pts * before.time_base - starts[0]) == pytest.approx(
            float(after.pts * after.time_base - starts[1]), abs=1e-3
        )


def test_a_dv_tape_of_either_system_stays_one(tmp_path):
    for name, size, rate, pix_fmt in (("pal.dv", (720, 576), 25, "yuv420p"),
                                      ("ntsc.dv", (720, 480), Fraction(30000, 1001), "yuv411p")):  # fmt: skip
        source = tape(tmp_path / name, 3, order="bff", codec="dvvideo", size=size, rate=rate, pix_fmt=pix_fmt)
        info = probe(source)
        assert info.fields == "bff" and info.rate == rate
        target = source.with_suffix(".mp4")
        run(source, target, options(encode=FAST))
        assert orders(target) == {"bff"} and header_order(target) in (*HEADER["bff"], None)
        assert [frame.format.name for frame in frames_of(target)][:1] == [pix_fmt.replace("411", "422")]


def test_where_no_face_is_shown_both_fields_keep_every_bit(tmp_path):
    source = tape(tmp_path / "a.mkv")
    run(source, tmp_path / "out.mkv")
    for number, (before, after) in enumerate(zip(frames_of(source), frames_of(tmp_path / "out.mkv"), strict=True)):
        changed = planes(before)[0] != planes(after)[0]
        rows, columns = np.nonzero(changed)
        assert changed[0::2].any() and changed[1::2].any()
        assert abs(columns.mean() - (START + SPEED * (number + 0.25))) < 4 and abs(rows.mean() - 48) < 8
        assert not changed[:, :26].any() and not changed[:6].any()
        for part in (1, 2):
            assert not (planes(before)[part] != planes(after)[part])[:, :13].any()


def test_a_film_without_faces_is_handed_through_bit_for_bit(tmp_path):
    source = tape(tmp_path / "a.mkv", spot=False)
    run(source, tmp_path / "out.mkv")
    for before, after in zip(frames_of(source), frames_of(tmp_path / "out.mkv"), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(planes(before), planes(after), strict=True))


@pytest.mark.parametrize("order", ["tff", "bff"])
def test_a_moving_face_does_not_comb(tmp_path, order):
    """What is painted has the place of its face in each field; restored as one, both fields would have one place."""
    source = tape(tmp_path / "a.mkv", order=order)
    who = FilmModels(restorer_of(Paint()), Spot())
    run(source, tmp_path / "out.mkv", options(render=RenderOptions(deflicker=0, grain=0, colours="method")), who=who)
    places: list[list[float]] = [[], []]
    for was, now in zip(frames_of(source), frames_of(tmp_path / "out.mkv"), strict=True):
        darker = planes(was)[0].astype(float) - planes(now)[0]
        for field in (0, 1):
            line = field if order == "tff" else 1 - field
            dark = darker[line::2] > 60
            assert dark.sum() > 20
            places[field].append(np.nonzero(dark)[1].mean())
    first, second = np.array(places)[:, 2:-2]
    np.testing.assert_allclose(second - first, SPEED / 2, atol=0.8)
    np.testing.assert_allclose(np.diff(first), SPEED, atol=1.2)


def test_frames_of_both_kinds_in_one_film(tmp_path):
    """The first frames are whole, so only the first pass can tell; FFV1 describes each frame by itself."""
    source = tape(tmp_path / "a.mkv", codec="ffv1", whole=(0, 1, 2, 7))
    assert probe(source).fields == ""
    report = run(source, tmp_path / "out.mkv")
    told = Orders()
    assert [told(frame) for frame in frames_of(tmp_path / "out.mkv")] == [
        "" if number in (0, 1, 2, 7) else "tff" for number in range(12)
    ]
    assert any("top field first" in note for note in report.notes)
    plan = plan_film(source, tmp_path / "out.mp4", options(encode=FAST))
    assert plan.encoding.codec == "libx264" and "flags" not in plan.encoding.options
    late = with_fields(plan, options(encode=FAST), "tff")
    assert late.made.fields == "tff" and late.encoding.options["x264-params"] == "tff=1"


def test_a_job_that_was_stopped_goes_on_with_its_fields(tmp_path):
    source = tape(tmp_path / "a.mkv", 10)
    run(source, tmp_path / "whole.mkv", options(segment_frames=2))
    seen = []

    def cancel():
        if ("render", 5) in seen:
            raise Stop

    with pytest.raises(Stop):
        run(source, tmp_path / "out.mkv", options(segment_frames=2), runtime=Runtime(check_cancel=cancel),
            on_progress=lambda name, done, total: seen.append((name, done)))  # fmt: skip
    again = []
    run(source, tmp_path / "out.mkv", options(segment_frames=2), on_progress=lambda name, *rest: again.append(rest))
    same(tmp_path / "whole.mkv", tmp_path / "out.mkv")
    assert orders(tmp_path / "out.mkv") == {"tff"}


def test_masks_are_counted_by_frames(tmp_path):
    source = tape(tmp_path / "a.mkv", 6)
    masks = torch.zeros(6, 8, 8)
    masks[3] = 1
    run(source, tmp_path / "out.mkv", options(render=RenderOptions(within=masks)))
    changed = [
        [bool((planes(before)[0] != planes(after)[0])[line::2].any()) for line in (0, 1)]
        for before, after in zip(frames_of(source), frames_of(tmp_path / "out.mkv"), strict=True)
    ]
    assert changed == [[number == 3] * 2 for number in range(6)]


def test_chroma_of_each_field_is_scaled_by_itself():
    """4:2:0 to 4:2:2 as ProRes wants it: rows of chroma belong to alternate fields, and must not mix."""
    cb = np.full((32, 32), 60, np.uint8)
    cb[1::2] = 180
    ramp = np.repeat((40 + 2 * (2 * np.arange(32) + 0.5)).round().astype(np.uint8)[:, None], 32, 1)
    frame = fill(blank("yuv420p", 64, 64), [np.full((64, 64), 100, np.uint8), cb, ramp])
    made = planes(per_field(Marker()(frame, "tff"), "yuv422p10le"))
    assert set((made[1][:, 5] / 4).tolist()) == {60.0, 180.0}
    np.testing.assert_allclose(made[2][8:-8, 5] / 4, (40 + 2 * np.arange(64))[8:-8], atol=0.5)


@pytest.mark.parametrize(
    ("target", "codec", "words"),
    [("out.mkv", "h265", "x265 codes each field"), ("out.mkv", "vp9", "no fields"), ("out.webm", "auto", "no fields")],
)
def test_codecs_without_fields_are_refused_before_the_work(tmp_path, target, codec, words):
    source = tape(tmp_path / "a.mkv", 2)
    with pytest.raises(OutputMediaError, match=words) as caught:
        plan_film(source, tmp_path / target, options(encode=EncodeSettings(codec=codec)))
    assert "--deinterlace" in str(caught.value)
    plan_film(source, tmp_path / target, options(encode=EncodeSettings(codec=codec), deinterlace="frame"))


def test_more_bits_than_h264_has_go_where_they_fit(tmp_path):
    source = tape(tmp_path / "a.mkv", 2, codec="ffv1", pix_fmt="yuv422p12le")
    chosen = {name: plan_film(source, tmp_path / name, options(encode=EncodeSettings())).encoding.codec
              for name in ("o.mkv", "o.mov", "o.mp4")}  # fmt: skip
    assert chosen == {"o.mkv": "ffv1", "o.mov": "prores_ks", "o.mp4": "libx264"}


def test_lines_that_do_not_halve_in_each_field(tmp_path):
    """486 lines of NTSC have 243 in a field; x264 refuses to halve those."""
    source = tape(tmp_path / "a.mkv", 2, codec="ffv1", size=(96, 54))
    plan = plan_film(source, tmp_path / "out.mp4", options(encode=EncodeSettings()))
    assert plan.encoding.pix_fmt == "yuv422p" and any("54 lines" in note for note in plan.notes)
    run(source, tmp_path / "out.mp4", options(encode=FAST))
    assert orders(tmp_path / "out.mp4") == {"tff"}


def test_a_result_whose_fields_are_not_said_is_rejected(tmp_path, monkeypatch):
    source = tape(tmp_path / "a.mkv", 4, order="bff")
    monkeypatch.setattr(Marker, "__call__", lambda self, frame, order: frame)
    from bfr_core.video import encode

    monkeypatch.setattr(encode, "_field_options", lambda name, fields: {})
    with pytest.raises(OutputMediaError, match="whole frames, expected bottom field first"):
        run(source, tmp_path / "out.mp4", options(encode=FAST))
    assert not (tmp_path / "out.mp4").exists()


# --- whole pictures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("order", "target"), [("tff", "out.mkv"), ("bff", "out.mp4"), ("tff", "out.webm")])
def test_deinterlaced_once_or_at_double_rate(tmp_path, order, target):
    source = tape(tmp_path / "a.mkv", order=order)
    encode = EncodeSettings(preset="ultrafast")
    for way, each in (("frame", 1), ("field", 2)):
        report = run(source, tmp_path / f"{way}{target}", options(encode=encode, deinterlace=way))
        made = frames_of(tmp_path / f"{way}{target}")
        assert len(made) == 12 * each == report.joined["frames"] and orders(tmp_path / f"{way}{target}") == {""}
        times = [float((frame.pts - made[0].pts) * frame.time_base) for frame in made]
        np.testing.assert_allclose(times, np.arange(12 * each) * 0.04 / each, atol=6e-4)
        for number, frame in enumerate(made[2:-2], 2):
            columns = np.nonzero(planes(frame)[0][48] > 190)[0]
            assert abs(columns.mean() - (START + SPEED * number / each)) < 1.5, number


def test_pictures_of_fields_have_the_lines_of_their_field(tmp_path):
    source = tape(tmp_path / "a.mkv", 5, order="bff")
    info = probe(source)
    moments = list(Reader(info, fields_as="both"))
    assert [moment.index for moment in moments] == list(range(10))
    np.testing.assert_allclose([moment.time for moment in moments], np.arange(10) * 0.02, atol=1e-9)
    for moment in moments:
        line = 1 - moment.index % 2
        for whole, picture in zip(planes(moment.whole), planes(moment.picture), strict=True):
            assert np.array_equal(whole[line::2], picture[line::2])
    first = [planes(moment.picture) for moment in Reader(info, fields_as="first")]
    for one, other in zip(first, moments[::2], strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, planes(other.picture), strict=True))


def test_uneven_times_and_a_window_at_double_rate(tmp_path):
    source = tape(tmp_path / "a.mkv", 20)
    chosen = options(deinterlace="field", window=(0.2, 0.39))
    run(source, tmp_path / "out.mkv", chosen)
    times = [float(frame.pts * frame.time_base) for frame in frames_of(tmp_path / "out.mkv")]
    np.testing.assert_allclose(times, np.arange(20) * 0.02, atol=6e-4)


def test_a_film_that_is_not_interlaced_is_left_alone(tmp_path):
    source = write_clip(tmp_path / "a.mp4", 6)
    plan = plan_film(source, tmp_path / "out.mp4", options(deinterlace="field", encode=FAST))
    assert plan.made.rate == 25 and any("not marked as interlaced" in note for note in plan.notes)
    with pytest.raises(SettingsError, match="expected one of off, frame, field"):
        plan_film(source, tmp_path / "out.mp4", options(deinterlace="blend"))
    with pytest.raises(SettingsError, match="stored turned"):
        from bfr_core.video.fields import made_of

        made_of(replace(plan.info, fields="tff", turned=1), "off")


def test_deinterlaced_films_may_be_enlarged(tmp_path):
    source = tape(tmp_path / "a.mkv", 4)
    with pytest.raises(SettingsError, match="--deinterlace field"):
        plan_film(source, tmp_path / "out.mkv", options(upscale=2))
    run(source, tmp_path / "out.mkv", options(upscale=2, deinterlace="field"))
    made = frames_of(tmp_path / "out.mkv")
    assert len(made) == 8 and (made[0].width, made[0].height) == (320, 192)


def test_the_command_keeps_fields_or_takes_them_apart(tmp_path, capsys):
    source = tape(tmp_path / "a.mkv", 4, spot=False)
    assert main(["restore", str(source), "-o", str(tmp_path / "o.mp4"), "--preset", "ultrafast"]) == 0
    assert "top field first" in capsys.readouterr().out and orders(tmp_path / "o.mp4") == {"tff"}
    arguments = ["--deinterlace", "field", "--preset", "ultrafast"]
    assert main(["restore", str(source), "-o", str(tmp_path / "f.mp4"), *arguments]) == 0
    assert len(frames_of(tmp_path / "f.mp4")) == 8
    capsys.readouterr()
    assert main(["restore", str(source), "-o", str(tmp_path / "x.mp4"), "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["clip"]["fields"] == "tff"


def test_sound_is_copied_beside_fields(tmp_path):
    silent = tape(tmp_path / "a.mkv", 25)
    with_sound = write_clip(tmp_path / "s.mkv", 25, audio=1)
    with av.open(str(silent)) as one, av.open(str(with_sound)) as two, av.open(str(tmp_path / "b.mkv"), "w") as out:
        video = out.add_stream_from_template(one.streams.video[0])
        sound = out.add_stream_from_template(two.streams.audio[0])
        packets = [(packet, video) for packet in one.demux(video=0)] + [
            (packet, sound) for packet in two.demux(audio=0)
        ]
        for packet, stream in packets:
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    for way in ("off", "field"):
        report = run(tmp_path / "b.mkv", tmp_path / f"{way}.mp4", options(encode=FAST, deinterlace=way))
        assert report.joined["streams"][0]["packets"] > 10 and report.joined["streams"][0]["worst_stamp_s"] < 1e-3


def test_restoring_is_asked_for_each_field(tmp_path):
    net = Brighten()
    run(tape(tmp_path / "a.mkv", 6), tmp_path / "out.mkv", who=FilmModels(restorer_of(net), Spot()))
    assert sum(net.batches) == 12
