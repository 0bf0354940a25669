"""Whole films from file to file: nothing lost, nothing done twice, and a job that was stopped goes on."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from film_jobs import WIDTH, Spot, Stop, frames_of, models, options, run, same, sound_of, write_clip
from tiny_restorers import Brighten, restorer_of

from bfr_core.cli import main
from bfr_core.errors import BfrError, InputMediaError, OutputMediaError, SettingsError
from bfr_core.faces.identity import embedded_recognizer
from bfr_core.faces.people import DriftLimit
from bfr_core.faces.quality import QualityFilter
from bfr_core.runtime import Runtime
from bfr_core.video import job as job_module
from bfr_core.video.choose import TrackSelection
from bfr_core.video.drift import measure_drift
from bfr_core.video.encode import EncodeSettings
from bfr_core.video.job import FilmJob
from bfr_core.video.options import FilmOptions
from bfr_core.video.plan import FilmModels, fingerprint, plan_film
from bfr_core.video.render import RenderOptions


def test_frames_stamps_and_sound_come_back_and_only_the_face_changed(tmp_path):
    rng = np.random.default_rng(1)
    stamps = np.cumsum(rng.integers(5, 60, 30)).tolist()  # every frame lasts differently
    source = write_clip(tmp_path / "in.mkv", stamps=stamps)
    report = run(source, tmp_path / "out.mkv")
    before, times = frames_of(source)
    after, after_times = frames_of(tmp_path / "out.mkv")
    assert len(after) == len(before) == report.frames == 30 == report.restored_frames
    assert after_times == times
    assert sound_of(tmp_path / "out.mkv") == sound_of(source)
    changed = np.stack([(a != b).any(-1) for a, b in zip(after, before, strict=True)])
    assert changed.any((1, 2)).all()
    for number, mask in enumerate(changed):
        rows, columns = np.nonzero(mask)
        assert abs(columns.mean() - (60 + number)) < 4 and abs(rows.mean() - 48) < 8
        assert not mask[:, :30].any() and not mask[:6].any()
    assert json.loads((tmp_path / "out.mkv.bfr" / "report" / "report.json").read_text())["frames"] == 30


def test_row52_a_film_without_faces_is_handed_through_bit_for_bit(tmp_path):
    source = write_clip(tmp_path / "in.mp4", spot=False)
    report = run(source, tmp_path / "out.mkv")
    assert report.restored_frames == 0 and not report.tracks
    for a, b in zip(frames_of(source)[0], frames_of(tmp_path / "out.mkv")[0], strict=True):
        assert np.array_equal(a, b)


def test_an_ordinary_mp4_keeps_its_stamps_exactly(tmp_path):
    source = write_clip(tmp_path / "in.mp4")
    run(source, tmp_path / "out.mp4", options(encode=EncodeSettings(preset="ultrafast")))
    assert frames_of(tmp_path / "out.mp4")[1] == frames_of(source)[1]
    assert sound_of(tmp_path / "out.mp4") == sound_of(source)


def test_row43_a_cancelled_job_continues_where_it_was(tmp_path):
    source = write_clip(tmp_path / "in.mp4")
    run(source, tmp_path / "whole.mkv")
    seen = []

    def on_progress(name, done, total):
        seen.append((name, done))

    def cancel():
        if ("render", 20) in seen:
            raise Stop

    began = time.monotonic()
    with pytest.raises(Stop):
        run(source, tmp_path / "out.mkv", runtime=Runtime(check_cancel=cancel), on_progress=on_progress)
    assert time.monotonic() - began < 20
    assert not (tmp_path / "out.mkv").exists()
    again, who = [], models()
    run(source, tmp_path / "out.mkv", who=who, on_progress=lambda name, done, total: again.append((name, done)))
    assert who.detector.looks == 0  # what was found is used again
    first = min(done for name, done in again if name == "render")
    assert first > 8  # at least one segment was not made again
    same(tmp_path / "whole.mkv", tmp_path / "out.mkv")


def test_row44_other_settings_are_refused_by_name_and_restart_begins_anew(tmp_path):
    source = write_clip(tmp_path / "in.mp4")
    _break_off(source, tmp_path / "out.mkv", options())
    other = options(render=RenderOptions(strength=0.5))
    with pytest.raises(SettingsError, match="strength") as caught:
        run(source, tmp_path / "out.mkv", other)
    assert "restart" in str(caught.value)
    run(source, tmp_path / "out.mkv", other, restart=True)
    run(source, tmp_path / "whole.mkv", other)
    same(tmp_path / "whole.mkv", tmp_path / "out.mkv")


def _break_off(source: Path, target: Path, chosen: FilmOptions, after: int = 18) -> None:
    seen = [0]

    def cancel():
        if seen[0] >= after:
            raise Stop

    def on_progress(name, done, total):
        seen[0] = done if name == "render" else 0

    with pytest.raises(Stop):
        run(source, target, chosen, runtime=Runtime(check_cancel=cancel), on_progress=on_progress)


@pytest.mark.parametrize("harm", ["cut", "foreign", "gone"])
def test_row45_a_damaged_segment_is_made_again(tmp_path, harm):
    source = write_clip(tmp_path / "in.mp4")
    run(source, tmp_path / "whole.mkv")
    _break_off(source, tmp_path / "out.mkv", options(), after=26)
    segments = sorted(path for path in (tmp_path / "out.mkv.bfr").rglob("*") if path.suffix in (".nut", ".mkv", ".mp4"))
    assert len(segments) >= 2
    victim = segments[0]
    if harm == "cut":
        os.truncate(victim, victim.stat().st_size // 2)
    elif harm == "foreign":
        shutil.copy(segments[1], victim)
    else:
        victim.unlink()
    run(source, tmp_path / "out.mkv")
    same(tmp_path / "whole.mkv", tmp_path / "out.mkv")


def test_tracks_that_a_person_unticked_are_left_alone(tmp_path):
    source, target = write_clip(tmp_path / "in.mp4"), tmp_path / "out.mkv"
    chosen = options()
    with FilmJob(plan_film(source, target, chosen), models(), chosen, Runtime()) as job:
        assert [track.restore for track in job.analyse()] == [True]
    listed = tmp_path / "out.mkv.bfr" / "tracks.json"
    told = json.loads(listed.read_text())
    assert (tmp_path / "out.mkv.bfr" / "report" / "track_0001.png").exists()
    told["tracks"][0]["restore"] = False
    listed.write_text(json.dumps(told))
    assert run(source, target).restored_frames == 0
    for a, b in zip(frames_of(source)[0], frames_of(target)[0], strict=True):
        assert np.array_equal(a, b)


def test_every_pass_is_heard_to_its_end(tmp_path):
    heard = {}
    source = write_clip(tmp_path / "in.mp4")
    report = run(
        source, tmp_path / "out.mkv", on_progress=lambda name, done, total: heard.setdefault(name, []).append(done)
    )
    assert list(heard) == ["analyse", "pictures", "render", "join", "verify"]
    assert all(done == sorted(done) for done in heard.values())
    assert heard["analyse"][-1] == heard["render"][-1] == heard["verify"][-1] == report.frames
    assert len(heard["join"]) > 1


def test_row37_a_clip_that_changes_meanwhile_stops_the_job(tmp_path):
    source = write_clip(tmp_path / "in.mp4")

    def on_progress(name, done, total):
        if name == "render" and done == 20:
            os.utime(source, (1, 1))

    with pytest.raises(InputMediaError, match="changed"):
        run(source, tmp_path / "out.mkv", on_progress=on_progress)
    assert not (tmp_path / "out.mkv").exists()
    with pytest.raises(BfrError, match="source"):
        run(source, tmp_path / "out.mkv")


def test_row46_two_jobs_do_not_share_a_folder(tmp_path):
    source, chosen = write_clip(tmp_path / "in.mp4", frames=4), options()
    first = FilmJob(plan_film(source, tmp_path / "out.mkv", chosen), models(), chosen, Runtime())
    with first, pytest.raises(OutputMediaError, match=str(os.getpid())):
        run(source, tmp_path / "out.mkv")


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("segment", [5, 64])
def test_row55_batches_and_segments_change_nothing(tmp_path, batch, segment):
    source = write_clip(tmp_path / "in.mp4", frames=20)
    run(source, tmp_path / "usual.mkv")
    run(source, tmp_path / "out.mkv", options(segment_frames=segment), runtime=Runtime(batch=batch))
    same(tmp_path / "usual.mkv", tmp_path / "out.mkv")


def test_row51_memory_that_runs_out_halves_the_batch_and_changes_nothing(tmp_path):
    source = write_clip(tmp_path / "in.mp4", frames=12)
    run(source, tmp_path / "usual.mkv")
    report = run(source, tmp_path / "out.mkv", who=FilmModels(restorer_of(Brighten(most=1)), Spot()))
    assert any("batch was reduced" in note for note in report.notes)
    same(tmp_path / "usual.mkv", tmp_path / "out.mkv")


def test_row49_a_part_without_frames_is_refused_and_a_part_is_restored(tmp_path):
    source = write_clip(tmp_path / "in.mp4")
    with pytest.raises(InputMediaError, match="no frame"):
        run(source, tmp_path / "none.mkv", options(window=(99.0, 1.0)))
    assert not (tmp_path / "none.mkv").exists()
    report = run(source, tmp_path / "part.mkv", options(window=(0.4, 0.4)))
    assert report.frames == 10 == len(frames_of(tmp_path / "part.mkv")[0])


@pytest.mark.parametrize("frames", [160, pytest.param(3000, marks=pytest.mark.release)])
def test_row52_files_and_memory_stay_bounded_over_a_film(tmp_path, frames):
    source = write_clip(tmp_path / "in.mp4", frames=frames, sound=False)
    run(source, tmp_path / "warm.mkv", options(segment_frames=40))
    handles, resident = [], []

    def on_progress(name, done, total):
        if name == "render" and done % 20 == 0:
            handles.append(sum(1 for _ in Path("/proc/self/fd").iterdir()))
            resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))

    run(source, tmp_path / "out.mkv", options(segment_frames=40), on_progress=on_progress)
    assert max(handles) - min(handles) <= 2
    assert resident[-1] - resident[1] < 40e6


def test_row54_a_clock_that_is_set_back_is_not_noticed(tmp_path, monkeypatch):
    source = write_clip(tmp_path / "in.mp4", frames=6)
    now = [2e9]

    def back():
        now[0] -= 3600
        return now[0]

    monkeypatch.setattr(time, "time", back)
    report = run(source, tmp_path / "out.mkv")
    assert set(report.seconds) == {"analyse", "render", "join"}
    assert all(0 <= seconds < 60 for seconds in report.seconds.values())


def test_row44_what_is_asked_of_the_gate_is_no_reason_to_look_anew(tmp_path):
    source, target = write_clip(tmp_path / "in.mp4", frames=12), tmp_path / "out.mkv"
    usual = replace(options(), choice=TrackSelection(quality_filter=QualityFilter(sharp=2.0)))
    with FilmJob(plan_film(source, target, usual), models(), usual, Runtime()) as job:
        job.analyse()
    larger = replace(usual, choice=TrackSelection(quality_filter=QualityFilter(min_size=40, sharp=2.0)))
    assert run(source, target, larger, who=(who := models())).tracks[0]["restore"] is False
    assert who.detector.looks == 0
    # Faces of any size are asked for now, which the first run did not look for.
    report = run(source, tmp_path / "again.mkv", options(), folder=plan_film(source, target, usual).folder)
    assert report.restored_frames == 12
    assert any("Small faces" in note for note in report.notes)


def test_a_default_that_is_said_is_no_other_setting(tmp_path):
    source = write_clip(tmp_path / "in.mp4")
    _break_off(source, tmp_path / "out.mkv", options())
    run(source, tmp_path / "out.mkv", options(render=RenderOptions(settings={"level": 0.5})))


def test_another_guide_does_not_continue_a_film():
    from bfr_core.diffusion.guidance import IdentityGuide
    from bfr_core.faces.identity import embedded_recognizer
    from bfr_core.restorer import load_restorer

    restorer, recogniser = load_restorer("diffuse_restore"), embedded_recognizer()
    told = []
    for strength in (1.0, 2.0):
        guide = IdentityGuide(recogniser, "test", strength=strength)
        told.append(fingerprint(FilmModels(restorer.guided(guide), Spot())))
    assert told[0] != told[1]
    assert told[0] == fingerprint(FilmModels(restorer.guided(IdentityGuide(recogniser, "test", strength=1.0)), Spot()))


def test_a_film_that_ends_early_the_second_time_leaves_no_short_segment(tmp_path, monkeypatch):
    source, target = write_clip(tmp_path / "in.mp4"), tmp_path / "out.mkv"
    chosen = options()
    with FilmJob(plan_film(source, target, chosen), models(), chosen, Runtime()) as job:
        job.analyse()
    whole = job_module.Reader.__iter__
    monkeypatch.setattr(job_module.Reader, "__iter__", lambda self: islice(whole(self), 21))
    with pytest.raises(InputMediaError, match="ends before"):
        run(source, target)
    monkeypatch.undo()
    run(source, target)
    run(source, tmp_path / "whole.mkv")
    same(tmp_path / "whole.mkv", target)


# The command ----------------------------------------------------------------------------------------------------------


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path, capsys):
    source = write_clip(tmp_path / "in.mp4", frames=4)
    out = tmp_path / "out"
    out.mkdir()
    assert main(["restore", str(source), "-o", str(out / "film.mp4"), "--dry-run"]) == 0
    told = json.loads(capsys.readouterr().out.split("\n\n")[0])
    assert told["clip"]["width"] == WIDTH and told["encoding"]["codec"] == "libx264"
    assert list(out.iterdir()) == []


def test_row38_a_film_is_never_written_over_itself(tmp_path, capsys):
    source = write_clip(tmp_path / "in.mp4", frames=4)
    before = source.read_bytes()
    (tmp_path / "link.mp4").symlink_to(source)
    for target in (source, tmp_path / "link.mp4"):
        assert main(["restore", str(source), "-o", str(target), "--overwrite"]) == 1
        assert "is the input" in capsys.readouterr().err
    assert source.read_bytes() == before


def test_dry_run_makes_no_folder(tmp_path, capsys):
    source = write_clip(tmp_path / "in.mp4", frames=4)
    assert main(["restore", str(source), "-o", str(tmp_path / "new" / "film.mp4"), "--dry-run"]) == 0
    assert not (tmp_path / "new").exists()


def test_options_of_films_are_refused_for_pictures(tmp_path, capsys):
    from PIL import Image

    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    assert main(["restore", str(tmp_path / "a.png"), "-o", str(tmp_path / "b.png"), "--tracks", "1"]) == 1
    assert "--tracks" in capsys.readouterr().err


def test_options_of_pictures_are_refused_for_films(tmp_path, capsys):
    source = write_clip(tmp_path / "in.mp4", frames=4)
    assert main(["restore", str(source), "-o", str(tmp_path / "out.mp4"), "--whole"]) == 1
    assert "--whole" in capsys.readouterr().err


def test_pictures_and_films_of_a_folder_go_together(tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    write_clip(folder / "film.mp4", frames=6, spot=False)
    from PIL import Image

    Image.new("RGB", (64, 48), (90, 80, 70)).save(folder / "photo.png")
    assert main(["restore", str(folder), "-o", str(tmp_path / "out"), "--report", str(tmp_path / "r.json")]) == 0
    assert (tmp_path / "out" / "film.mp4").exists() and (tmp_path / "out" / "photo.png").exists()
    told = json.loads((tmp_path / "r.json").read_text())
    assert {entry["status"] for entry in told["files"]} == {"done"} and len(told["files"]) == 2


def test_a_real_talking_head_by_command(tmp_path, shared, capsys):
    source = shared / "video" / "talking_480x480.mp4"
    out = tmp_path / "out.mkv"
    command = ["restore", str(source), "-o", str(out), "--seconds", "0.2", "--codec", "ffv1", "--all-faces"]
    assert main(command) == 0
    restored, times = frames_of(out)
    original, original_times = frames_of(source)
    assert len(restored) == 5 and max(abs(float(a - b)) for a, b in zip(times, original_times, strict=False)) < 0.0006
    change = np.abs(restored[2].astype(int) - original[2]).mean(-1)
    assert change[:40].max() == 0 and change[150:350, 150:330].mean() > 1


KILLED = """
import sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from pathlib import Path
from film_jobs import run
run(Path({source!r}), Path({target!r}))
"""


def _kill_once(source: Path, target: Path, delay: float) -> bool:
    """Run the job in a process of its own and kill it after a while; tell whether it had ended by then."""
    tests = str(Path(__file__).parent)
    code = KILLED.format(tests=tests, source=str(source), target=str(target))
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests" / "support")])}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    started = time.monotonic()
    while time.monotonic() - started < 60:  # importing takes seconds: the clock begins with the job
        if target.with_name(target.name + ".bfr").exists():
            break
        time.sleep(0.005)
    try:
        process.wait(delay)
        return True
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return False


@pytest.mark.release
def test_row42_killed_at_any_moment_the_same_command_ends_as_if_nothing_had_been(tmp_path):
    source = write_clip(tmp_path / "in.mp4", frames=60)
    run(source, tmp_path / "whole.mkv")
    rng = random.Random(5)
    for turn in range(12):
        target = tmp_path / f"out_{turn}.mkv"
        ended = _kill_once(source, target, rng.uniform(0.0, 1.5))
        if not ended:
            run(source, target)
        same(tmp_path / "whole.mkv", target)
        orphans = [path for path in tmp_path.rglob("*") if path.name.startswith(".bfr-") or path.suffix == ".part"]
        assert not orphans


@pytest.mark.parametrize(("limit", "restored"), [(0.0, False), (2.0, True)])
def test_a_face_that_would_become_somebody_else_is_left_and_measured_once(tmp_path, monkeypatch, limit, restored):
    source, target = write_clip(tmp_path / "in.mkv"), tmp_path / "out.mkv"
    chosen = options(drift_limit=DriftLimit(embedded_recognizer(), "embedded recogniser", limit))
    measured = []
    monkeypatch.setattr(job_module, "measure_drift", lambda *given: measured.append(1) or measure_drift(*given))
    with FilmJob(plan_film(source, target, chosen), models(), chosen, Runtime()) as first:
        first.analyse()
    report = run(source, target, chosen)
    assert len(measured) == 1, "what the first run measured is used again"
    assert [track["restore"] for track in report.tracks] == [restored]
    assert report.tracks[0]["facts"]["drift"] > 0
    assert ("moved its identity" in report.tracks[0]["reason"]) is not restored
    assert (report.restored_frames > 0) is restored
