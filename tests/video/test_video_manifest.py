"""The folder of a job: held by one run at a time, refused under other settings, and nothing in it taken on trust."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bfr_core.errors import OutputMediaError, SettingsError
from bfr_core.media import atomic
from bfr_core.video.manifest import VERSION, JobFolder
from bfr_core.video.segments import Segment
from bfr_core.video.types import Scan

ANALYSIS = {"source": "abc", "scan": {"every": 0, "look_s": 0.4}}
RENDER = {"strength": 1.0, "encoding": {"codec": "libx264", "options": {"crf": "16"}}}


def segment_of(folder: JobFolder, number: int, data: bytes | None = None, frames=5) -> Segment:
    data = bytes([number]) * (300 + number) if data is None else data
    path = folder.path / f"segment_{number:06}.nut"
    path.write_bytes(data)
    return Segment(number, 5 * number, frames, path, len(data), hashlib.sha256(data).hexdigest())


def begun(path: Path, count=4) -> None:
    """A job with two stages, `count` segments and two parts of a scan."""
    with JobFolder(path) as job:
        job.begin(ANALYSIS, "analysis")
        for seed in range(2):
            job.add_scan(scan_of(seed))
        job.finish_scan({"lost": ["frame 3: damaged"], "notes": ["the end is missing"]})
        job.begin(RENDER, "render")
        for number in range(count):
            job.record(segment_of(job, number))


def scan_of(seed: int, frames=7, found=3) -> Scan:
    rng = np.random.default_rng(seed)
    return Scan(
        times=np.arange(frames) / 25 + seed,
        pts=np.arange(frames, dtype=np.int64) * 3003, cuts=rng.random(frames) < 0.2,
        looked=rng.random(frames) < 0.5, frame=np.sort(rng.integers(0, frames, found)),
        boxes=rng.random((found, 4)).astype(np.float32), points=rng.random((found, 5, 2)),
        scores=rng.random(found).astype(np.float32), identity=np.full((found, 0), np.nan, np.float32),
        sharpness=np.array([np.nan, 0.5, 0.1], np.float32),
    )  # fmt: skip


@contextmanager
def reopened(path: Path):
    """The folder as the next run of the same command sees it."""
    with JobFolder(path) as job:
        job.begin(ANALYSIS, "analysis")
        job.begin(RENDER, "render")
        yield job


# --- held by one ------------------------------------------------------------------------------------------------------


def test_row46_a_second_run_is_refused_and_told_who_is_there(tmp_path):
    path = tmp_path / "film.mp4.bfr"
    with JobFolder(path), pytest.raises(OutputMediaError, match=f"process {os.getpid()} on ") as caught:
        JobFolder(path).__enter__()
    assert "Nothing in it was changed" in str(caught.value)
    with JobFolder(path):
        pass


def test_row46_of_many_threads_one_gets_the_folder(tmp_path):
    path, won, gate = tmp_path / "job", [], threading.Barrier(8)
    leave = threading.Event()

    def enter():
        gate.wait()
        try:
            with JobFolder(path):
                won.append(1)
                leave.wait(5)
        except OutputMediaError:
            pass

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    while sum(thread.is_alive() for thread in threads) > 1:
        threads[0].join(0.01)
    leave.set()
    for thread in threads:
        thread.join(5)
    assert len(won) == 1


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_row46_a_killed_run_holds_nobody_up(tmp_path):
    path = tmp_path / "job"
    heard, said = os.pipe()
    child = os.fork()
    if not child:
        try:
            with JobFolder(path) as job:
                job.begin(ANALYSIS, "analysis")
                os.write(said, b"held")
                time.sleep(30)
        finally:
            os._exit(1)
    try:
        assert os.read(heard, 4) == b"held"
        with pytest.raises(OutputMediaError, match=f"process {child} on "):
            JobFolder(path).__enter__()
        (path / ".bfr-0011223344556677.nut").write_bytes(b"unfinished")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with JobFolder(path) as job:
        job.begin(ANALYSIS, "analysis")
        assert not list(path.glob(".bfr-*"))


# --- the place --------------------------------------------------------------------------------------------------------


def test_row40_a_folder_that_is_no_job_s_is_left_alone(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    with pytest.raises(OutputMediaError, match=r"a\.jpg and no job\.json"):
        JobFolder(tmp_path / "photos").__enter__()
    assert [entry.name for entry in (tmp_path / "photos").iterdir()] == ["a.jpg"]
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OutputMediaError, match="file stands where a folder"):
        JobFolder(tmp_path / "file" / "job").__enter__()
    with pytest.raises(OutputMediaError):
        JobFolder(tmp_path / "file").__enter__()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes everywhere")
def test_row40_a_read_only_place_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputMediaError, match="read-only"):
            JobFolder(tmp_path / "job").__enter__()
    finally:
        tmp_path.chmod(0o700)


def test_a_run_that_was_killed_before_its_first_record_can_begin_again(tmp_path):
    (tmp_path / "job" / "report").mkdir(parents=True)
    for name in ("lock", ".bfr-00112233aabbccdd.json", "report/.bfr-5566.png"):
        (tmp_path / "job" / name).write_bytes(b"")
    with JobFolder(tmp_path / "job") as job:
        job.begin(ANALYSIS, "analysis")
        assert job.report.is_dir()
    assert not [*(tmp_path / "job").rglob(".bfr-*")]


# --- settings ---------------------------------------------------------------------------------------------------------


def test_row44_other_settings_are_refused_key_by_key_and_restart_throws_away_only_what_depends(tmp_path):
    begun(tmp_path / "job")
    changed = json.loads(json.dumps(RENDER))
    changed["strength"], changed["encoding"]["options"]["crf"], changed["new"] = 0.5, "20", True
    with JobFolder(tmp_path / "job") as job:
        job.begin(ANALYSIS, "analysis")
        with pytest.raises(SettingsError) as caught:
            job.begin(changed, "render")
        for told in (
            'encoding.options.crf was "16", now "20"',
            "new was not set, now true",
            "strength was 1.0, now 0.5",
        ):
            assert told in str(caught.value)
        assert "--restart" in str(caught.value)
        assert job.settings("render") == RENDER != changed
    with reopened(tmp_path / "job") as job:
        assert len(job.segments(verify=True)) == 4
        job.begin(changed, "render", restart=True)
        assert job.segments() == [] and job.scan_done
        assert not list(job.path.glob("segment_*"))
        token = job.token
    with JobFolder(tmp_path / "job") as job:
        job.write_json("tracks.json", {})
        with pytest.raises(SettingsError, match="source was"):
            job.begin(ANALYSIS | {"source": "other"}, "analysis")
        assert job.scan_done
        job.begin(ANALYSIS | {"source": "other"}, "analysis", restart=True)
        assert not job.scan_done and job.scan_parts() == [] and job.read_json("tracks.json") is None
        job.begin(RENDER, "render")
        assert job.segments() == [] and job.token == token


def test_restart_with_the_same_settings_keeps_what_is_there(tmp_path):
    begun(tmp_path / "job")
    with JobFolder(tmp_path / "job") as job:
        job.begin(ANALYSIS, "analysis", restart=True)
        job.begin(RENDER, "render", restart=True)
        assert len(job.segments(verify=True)) == 4 and job.scan_done


def test_settings_are_compared_as_they_are_read_back(tmp_path):
    with JobFolder(tmp_path / "job") as job:
        job.begin({"window": (1.0, 2.0), "none": None}, "analysis")
    with JobFolder(tmp_path / "job") as job:
        job.begin({"none": None, "window": [1.0, 2.0]}, "analysis")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "damaged"),
        (b"{", "damaged"),
        (b"\xff\xfe", "damaged"),
        (b"[]", "damaged"),
        (b'{"version": 1}', "damaged"),
        (b'{"version": 1, "id": "../../etc", "stages": {}}', "damaged"),
        (b'{"version": 1, "id": "0123456789abcdef", "stages": {"render": 3}}', "damaged"),
        (b'{"version": %d, "id": "0123456789abcdef", "stages": {}}' % (VERSION + 1), f"version {VERSION + 1}"),
    ],
)
def test_row45_a_damaged_or_future_job_stops_the_run_until_restart(tmp_path, content, said):
    begun(tmp_path / "job")
    (tmp_path / "job" / "job.json").write_bytes(content)
    with JobFolder(tmp_path / "job") as job:
        with pytest.raises(SettingsError, match=said):
            job.begin(ANALYSIS, "analysis")
        assert (job.path / "segment_000000.nut").exists()
        job.begin(ANALYSIS, "analysis", restart=True)
        job.begin(RENDER, "render")
        assert job.segments() == [] and not job.scan_done and job.scan_parts() == []
    with reopened(tmp_path / "job") as job:
        assert not list(job.path.glob("segment_*"))


# --- segments ---------------------------------------------------------------------------------------------------------


def test_segments_are_found_again_as_they_were(tmp_path):
    begun(tmp_path / "job")
    with reopened(tmp_path / "job") as job:
        found = job.segments(verify=True)
        assert [(s.number, s.first, s.frames, s.bytes) for s in found] == [(n, 5 * n, 5, 300 + n) for n in range(4)]
        assert all(s.path.read_bytes() == bytes([s.number]) * s.bytes for s in found)
        assert found == job.segments()
        job.clear_segments()
        assert job.segments() == [] and not list(job.path.glob("segment_*"))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    number=st.integers(0, 3),
    kind=st.sampled_from(["nut", "json"]),
    how=st.sampled_from(["flip", "cut", "empty", "delete", "append", "swap", "text"]),
    place=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
)
def test_row45_what_is_damaged_is_redone_and_never_taken(whole_job, number, kind, how, place, bit):
    path, original = whole_job
    shutil.rmtree(path)
    shutil.copytree(original, path)
    file = path / f"segment_{number:06}.{kind}"
    data = bytearray(file.read_bytes())
    at = int(place * len(data))
    if how == "flip":
        data[at] ^= 1 << bit
    elif how == "cut":
        data = data[:at]
    elif how == "empty":
        data = bytearray()
    elif how == "append":
        data += b"\0"
    elif how == "text":
        data[at : at + 4] = b"1234"
    elif how == "swap":
        data = bytearray((path / f"segment_{(number + 1) % 4:06}.{kind}").read_bytes())
    file.unlink() if how == "delete" else file.write_bytes(data)
    with reopened(path) as job:
        found = job.segments(verify=True)
    # A record that reads the same may be kept: JSON has more than one form of a thing. The rest must be as it was.
    told = {s.number: (s.first, s.frames, s.path.read_bytes()) for s in found}
    assert set(told) >= {0, 1, 2, 3} - {number}
    for which, facts in told.items():
        assert facts == (5 * which, 5, bytes([which]) * (300 + which))
    if kind == "nut" and bytes(data) != bytes([number]) * (300 + number):
        assert number not in told
    if how in ("empty", "delete", "swap") or (how == "cut" and kind == "nut"):
        assert number not in told


@pytest.fixture(scope="module")
def whole_job(tmp_path_factory):
    original = tmp_path_factory.mktemp("jobs") / "original"
    begun(original)
    shutil.copytree(original, original.with_name("copy"))
    return original.with_name("copy"), original


def test_row45_a_segment_of_another_job_or_of_other_settings_is_not_taken(tmp_path):
    begun(tmp_path / "one")
    begun(tmp_path / "two")
    for suffix in ("json", "nut"):
        shutil.copy(tmp_path / "two" / f"segment_000002.{suffix}", tmp_path / "one")
    with reopened(tmp_path / "one") as job:
        assert [s.number for s in job.segments(verify=True)] == [0, 1, 3]
        stale = {name: (job.path / name).read_bytes() for name in ("segment_000000.json", "segment_000000.nut")}
        job.begin(RENDER | {"strength": 0.1}, "render", restart=True)
        for name, data in stale.items():
            (job.path / name).write_bytes(data)
        assert job.segments() == []


def test_a_record_outside_the_folder_or_under_another_number_is_not_taken(tmp_path):
    begun(tmp_path / "job")
    with reopened(tmp_path / "job") as job:
        good = job.segments()[1]
        job.record(replace(good, number=9))
        assert [s.number for s in job.segments(verify=True)] == [0, 2, 3]
        (tmp_path / "elsewhere.nut").write_bytes(good.path.read_bytes())
        shutil.copy(job.path / "segment_000000.json", job.path / "segment_000007.json")
        assert [s.number for s in job.segments(verify=True)] == [0, 2, 3]


# --- scan and other files ---------------------------------------------------------------------------------------------


def test_parts_of_a_scan_come_back_bit_by_bit(tmp_path):
    begun(tmp_path / "job")
    with reopened(tmp_path / "job") as job:
        assert job.scan_done
        assert job.scan_notes == ["the end is missing", "lost: frame 3: damaged"]
        for seed, part in enumerate(job.scan_parts()):
            for name, array in scan_of(seed).arrays().items():
                got = getattr(part, name)
                assert got.dtype == array.dtype and got.shape == array.shape
                np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize(
    "name", ["scan_000001.safetensors", "scan_000001.json", "scan_000000.safetensors", "scan.json"]
)
@pytest.mark.parametrize("how", ["cut", "flip", "delete"])
def test_row45_a_damaged_part_of_a_scan_is_made_again(tmp_path, name, how):
    begun(tmp_path / "job")
    file = tmp_path / "job" / name
    data = bytearray(file.read_bytes())
    if how == "delete":
        file.unlink()
    else:
        data[len(data) // 2] ^= 4
        file.write_bytes(data[:-9] if how == "cut" else data)
    with reopened(tmp_path / "job") as job:
        assert not job.scan_done
        parts = job.scan_parts()
        assert len(parts) == {"scan_000000.safetensors": 0, "scan.json": 2}.get(name, 1)
        for seed in range(len(parts), 2):
            job.add_scan(scan_of(seed))
        job.finish_scan({})
        assert job.scan_done and job.scan_notes == []
        np.testing.assert_array_equal(job.scan_parts()[1].points, scan_of(1).points)


def test_an_unfinished_scan_is_not_done(tmp_path):
    with JobFolder(tmp_path / "job") as job:
        job.begin(ANALYSIS, "analysis")
        assert not job.scan_done and job.scan_parts() == [] and job.scan_notes == []
        job.add_scan(scan_of(0))
        assert not job.scan_done and len(job.scan_parts()) == 1


def test_what_a_person_wrote_is_read_and_nonsense_is_told(tmp_path):
    with JobFolder(tmp_path / "job") as job:
        job.begin(ANALYSIS, "analysis")
        assert job.read_json("tracks.json") is None
        job.write_json("tracks.json", {"name": "é", "restore": True})
        assert job.read_json("tracks.json") == {"name": "é", "restore": True}
        job.write_json("report/report.json", [1])
        assert job.read_json("report/report.json") == [1]
        (job.path / "tracks.json").write_text('{"restore": yes}', "utf-8")
        with pytest.raises(SettingsError, match=r"no JSON: .*line 1 column 13.*delete it"):
            job.read_json("tracks.json")


def test_arrays_that_are_missing_or_damaged_are_told(tmp_path):
    with JobFolder(tmp_path / "job") as job:
        job.begin(ANALYSIS, "analysis")
        size, digest = job.save_arrays("a.safetensors", {"x": np.arange(6.0).reshape(2, 3).T, "b": np.array([True])})
        data = (job.path / "a.safetensors").read_bytes()
        assert (size, digest) == (len(data), hashlib.sha256(data).hexdigest())
        np.testing.assert_array_equal(job.load_arrays("a.safetensors")["x"], np.arange(6.0).reshape(2, 3).T)
        (job.path / "a.safetensors").write_bytes(data[:20])
        for name in ("a.safetensors", "b.safetensors"):
            with pytest.raises(OutputMediaError, match=f"{name} cannot be read"):
                job.load_arrays(name)


# --- publishing -------------------------------------------------------------------------------------------------------


def test_row50_a_file_that_its_check_refuses_is_kept_aside(tmp_path):
    path, seen = tmp_path / "film.mp4", []
    path.write_bytes(b"older")

    def refuse(temporary):
        seen.append(temporary.read_bytes())
        raise OutputMediaError("no", found="f", kept="k", todo="t")

    with pytest.raises(OutputMediaError, match="no"), atomic.publish(path, check=refuse) as file:
        file.write(b"new")
    assert seen == [b"new"]
    assert path.read_bytes() == b"older"
    assert (tmp_path / "film.mp4.rejected").read_bytes() == b"new"
    with atomic.publish(path, check=lambda temporary: None) as file:
        file.write(b"newer")
    assert path.read_bytes() == b"newer"
    with pytest.raises(KeyboardInterrupt), atomic.publish(path, check=lambda temporary: interrupt()) as file:
        file.write(b"newest")
    assert path.read_bytes() == b"newer"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["film.mp4", "film.mp4.rejected"]


def interrupt() -> None:
    raise KeyboardInterrupt
