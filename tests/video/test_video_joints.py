"""Joined recordings: times that jump back or hours ahead go on behind one another, with the sound."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from plain_films import packets_of, passed
from video_media import decoded, joined, number, picture, write_clip

from bfr_core.errors import InputMediaError, OutputMediaError
from bfr_core.video.probe import probe
from bfr_core.video.reader import Reader
from bfr_core.video.timeline import Timeline, find_joints

WRAP_S = 2**33 / 90000
"""When the clock of a transport stream begins anew."""


def part(path: Path, first: int, start_s: float, count: int = 50) -> Path:
    """Write a part of a recording: frames with their numbers, B-frames and a tone, from a time on."""
    stamps = [round(start_s * 90000) + 3600 * index for index in range(count)]
    return write_clip(
        path, count, pts=stamps, time_base=Fraction(1, 90000), options={"bf": "2", "g": "25"}, audio=1,
        audio_start_s=start_s, audio_s=count / 25, make=lambda index: picture(first + index),
    )  # fmt: skip


def recording(folder: Path, *starts: float) -> Path:
    each = 100 // len(starts)
    return joined(folder / "in.ts", *(part(folder / f"part{k}.ts", k * each, at, each) for k, at in enumerate(starts)))


def shown(path: Path) -> list[int]:
    return [number(image) for _, image in decoded(path)]


def times(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.array([float(frame.pts * frame.time_base) for frame in container.decode(video=0)])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize(
    "starts",
    [
        (0, 0),  # the clock begins anew
        (0, 1),  # the second part begins before the first one ends
        (0, 70000),  # 19 hours ahead
        (80000, 0),  # FFmpeg takes it for a wrap-around, and is hours ahead
        (500, 100, 100, 0),
        (WRAP_S - 1, 0),  # the first part wraps around on its own
    ],
)
def test_joined_recordings_have_every_frame_and_their_sound_in_sync(tmp_path, starts, suffix):
    source, target = recording(tmp_path, *starts), tmp_path / f"out{suffix}"
    report = passed(source, target)
    joints = len(starts) - 1
    assert shown(target) == list(range(100))
    steps = np.diff(times(target))
    each = 100 // len(starts)
    at_joint = np.arange(1, 100) % each == 0
    # Within a part frames keep their distance; at a joint the next follows when the sound before it ends.
    np.testing.assert_allclose(steps[~at_joint], 0.04, atol=1.1e-3)
    assert (steps[at_joint] > 0.039).all() and (steps[at_joint] < 0.3).all()
    was, now = packets_of(source), packets_of(target)
    assert [data[7:] for _, data in was] == [data for _, data in now]  # without the header of transport streams
    sound = np.array([at for at, _ in now])
    assert (np.diff(sound) > 0).all()
    # Sound and pictures of a part begin as far from one another as in the part itself.
    lag = _lag(tmp_path / "part0.ts")
    for k in range(joints + 1):
        first = times(target)[k * each]
        nearest = sound[np.abs(sound - (first - lag)).argmin()]
        assert abs(nearest - (first - lag)) < 2e-3, k
    assert any("start anew" in note for note in report["plan"]) == bool(joints)


def _lag(path: Path) -> float:
    """Return by how much the sound of a clip begins before its pictures, in seconds."""
    return float(times(path)[0]) - packets_of(path)[0][0]


def test_the_length_of_a_joined_recording_is_that_of_its_parts(tmp_path):
    info = probe(recording(tmp_path, 80000, 0))
    assert info.seconds == pytest.approx(4.1, abs=0.3) and len(info.joints) == 1
    assert "start anew in one place" in " ".join(info.notes)
    assert info.to_dict()["joints"][0]["position"] == info.joints[0].position


def test_program_streams_as_of_dvds_are_joined_too(tmp_path):
    # Cells of a DVD begin at 0 each.
    cells = [
        write_clip(
            tmp_path / f"{k}.mpg", 50, codec="mpeg2video", make=lambda i, k=k: picture(50 * k + i), container="vob"
        )
        for k in (0, 1)
    ]  # fmt: skip
    source, target = joined(tmp_path / "in.mpg", *cells), tmp_path / "out.mkv"
    passed(source, target)
    assert shown(target) == list(range(100))
    assert np.diff(times(target)).max() < 0.3


def test_a_part_is_cut_out_behind_a_joint(tmp_path):
    source, target = recording(tmp_path, 0, 0), tmp_path / "out.mp4"
    passed(source, target, window=(3.0, 0.5))
    found = shown(target)
    assert found == list(range(found[0], found[0] + len(found))) and 70 < found[0] < 80 and 12 <= len(found) <= 13
    sound = [at for at, _ in packets_of(target)]
    assert 0 <= sound[0] < 0.07 and 0.35 < sound[-1] < 0.5


def with_stamp(path: Path, pid: int, count: int, ticks: int) -> Path:
    """Set the presentation stamp, and the decoding one, of packet `count` of a stream of a transport stream."""
    data = bytearray(path.read_bytes())
    seen = 0
    for place in range(0, len(data), 188):
        begins, found = data[place + 1] & 0x40, (data[place + 1] & 0x1F) << 8 | data[place + 2]
        if found != pid or not begins:
            continue
        start = place + 4 + (1 + data[place + 4] if data[place + 3] & 0x20 else 0)
        if seen == count:
            flags = data[start + 7] >> 6
            for at in (start + 9, *([start + 14] if flags == 3 else [])):
                head = data[at] & 0xF0
                data[at : at + 5] = bytes([
                    head | (ticks >> 29 & 0xE) | 1, ticks >> 22 & 0xFF, (ticks >> 14 & 0xFE) | 1, ticks >> 7 & 0xFF,
                    (ticks << 1 & 0xFE) | 1,
                ])  # fmt: skip
        seen += 1
    path.write_bytes(data)
    return path


def test_one_damaged_stamp_is_no_joint(tmp_path):
    source = with_stamp(part(tmp_path / "in.ts", 0, 10), 0x100, 20, 3600 * 90000)
    assert find_joints(source, "mpegts")[0] == ()
    with pytest.raises(InputMediaError, match="time stamp"):
        list(Reader(probe(source)))


def test_a_fault_in_time_stamps_is_called_that_and_not_what_a_container_cannot_hold(tmp_path):
    whole = part(tmp_path / "in.ts", 0, 10)
    source = with_stamp(tmp_path / "in.ts", 0x101, 10, 10 * 90000)  # sound of 10.6 s is stamped 10.0 s
    assert whole == source and find_joints(source, "mpegts")[0] == ()
    for suffix in (".mp4", ".mkv"):
        with pytest.raises(
            OutputMediaError, match=r"time stamps of stream 1 fall back by 0\.\d+ s at .*--drop-streams 1"
        ):
            passed(source, tmp_path / f"out{suffix}")
    report = passed(source, tmp_path / "silent.mp4", drop=(1,))
    assert report["frames"] == 50


def test_stamps_of_sound_that_fall_back_a_little_are_mended_and_noted(tmp_path):
    part(tmp_path / "in.ts", 0, 10)
    early = round(packets_of(tmp_path / "in.ts")[8][0] * 90000) - 9000
    source = with_stamp(tmp_path / "in.ts", 0x101, 4, early)
    assert any(np.diff([at for at, _ in packets_of(source)]) < 0)
    report = passed(source, tmp_path / "out.mp4")
    assert any("fell back" in note for note in report["notes"])
    assert len(packets_of(source)) == len(packets_of(tmp_path / "out.mp4"))


def test_packets_are_moved_by_where_they_lie_in_the_file(tmp_path):
    source = recording(tmp_path, 0, 0)
    joints = find_joints(source, "mpegts")[0]
    assert joints[0].position == pytest.approx((tmp_path / "part0.ts").stat().st_size, abs=188 * 8)
    timeline = Timeline(joints)
    with av.open(str(source)) as container:
        found = []
        for packet in container.demux(video=0):
            timeline.move(packet)
            if packet.dts is not None:
                found.append(packet.dts)
    assert len(found) == 100 and (np.diff(found) > 0).all()
