"""Films whose faces were restored before: only blended again, whatever of the rest is changed, and as if anew."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from film_jobs import Stop, frames_of, models, options, run, same, write_clip
from tiny_restorers import Brighten, restorer_of

from bfr_core.cli import main
from bfr_core.faces.identity import embedded_recognizer
from bfr_core.faces.people import DriftLimit
from bfr_core.restoration.kept import DiskShelf, KeptFaces
from bfr_core.runtime import Runtime
from bfr_core.video.choose import TrackSelection
from bfr_core.video.plan import plan_film
from bfr_core.video.render import RenderOptions

KEEP = 1 << 30


def restored(who) -> int:
    """Return how many faces a run's models restored."""
    return sum(who.restorer.net.batches)


CHANGES = {
    "strength": {"render": RenderOptions(strength=0.4)},
    "feather": {"render": RenderOptions(feather=0.3)},
    "colours": {"render": RenderOptions(colours="method")},
    "deflicker": {"render": RenderOptions(deflicker=0)},
    "segments": {"segment_frames": 11},
    "a drift limit": {"drift_limit": True},
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_film_is_neither_looked_through_nor_restored_again(what, tmp_path):
    source = write_clip(tmp_path / "in.mkv")
    chosen = options(keep_faces=KEEP)
    folder = plan_film(source, tmp_path / "out.mkv", chosen).folder
    first = models()
    run(source, tmp_path / "out.mkv", chosen, who=first)
    assert restored(first) == 30 and first.detector.looks > 0
    changes = dict(CHANGES[what])
    if "drift_limit" in changes:
        changes["drift_limit"] = DriftLimit(embedded_recognizer(), "test", 2.0)
    changed, second = replace(chosen, **changes), models()
    report = run(source, tmp_path / "changed.mkv", changed, who=second, folder=folder)
    assert restored(second) == 0 and second.detector.looks == 0
    assert "30 faces were taken from an earlier run, and not restored again" in report.notes
    assert any("keeps 1 MB of restored faces" in note for note in report.notes), report.notes
    run(source, tmp_path / "fresh.mkv", changed, who=(fresh := models()))
    assert restored(fresh) == 30 and fresh.detector.looks > 0
    same(tmp_path / "fresh.mkv", tmp_path / "changed.mkv")


def test_who_is_restored_may_change(tmp_path):
    """Nobody at first, then everybody: what was not restored before is, once."""
    source = write_clip(tmp_path / "in.mkv")
    nobody = options(keep_faces=KEEP, choice=TrackSelection(quality_filter=None, except_ids=(1,)))
    folder = plan_film(source, tmp_path / "out.mkv", nobody).folder
    counts = []
    for number, chosen in enumerate((nobody, options(keep_faces=KEEP), nobody, options(keep_faces=KEEP))):
        who = models()
        run(source, tmp_path / f"{number}.mkv", chosen, who=who, folder=folder)
        counts.append(restored(who))
    assert counts == [0, 30, 0, 0]
    same(tmp_path / "1.mkv", tmp_path / "3.mkv")


def test_a_run_that_was_stopped_restores_no_face_twice(tmp_path):
    source = write_clip(tmp_path / "in.mkv")
    chosen, first, second = options(keep_faces=KEEP, segment_frames=100), models(), models()
    seen = [0]

    def cancel():
        if seen[0] >= 18:
            raise Stop

    def on_progress(name, done, total):
        seen[0] = done if name == "render" else 0

    with pytest.raises(Stop):
        run(source, tmp_path / "out.mkv", chosen, who=first, runtime=Runtime(check_cancel=cancel),
            on_progress=on_progress)  # fmt: skip
    run(source, tmp_path / "out.mkv", chosen, who=second)
    assert restored(first) + restored(second) == 30 and restored(second) < 15
    run(source, tmp_path / "whole.mkv", chosen)
    same(tmp_path / "whole.mkv", tmp_path / "out.mkv")


def test_row45_a_damaged_face_of_a_film_is_restored_again_and_named(tmp_path):
    source, chosen = write_clip(tmp_path / "in.mkv"), options(keep_faces=KEEP)
    folder = plan_film(source, tmp_path / "out.mkv", chosen).folder
    run(source, tmp_path / "out.mkv", chosen)
    victim = sorted((folder / "faces").iterdir())[7]
    victim.write_bytes(victim.read_bytes()[:100])
    who = models()
    report = run(source, tmp_path / "again.mkv", chosen, who=who, folder=folder)
    assert restored(who) == 1 and any(victim.name in note for note in report.notes)
    same(tmp_path / "out.mkv", tmp_path / "again.mkv")


def test_what_is_kept_is_rounded_by_less_than_can_be_seen(tmp_path):
    """Without a shelf a film differs where the rounding of 16 bits tips that of 8, by one level of Y'CbCr."""
    source = write_clip(tmp_path / "in.mkv")
    run(source, tmp_path / "plain.mkv")
    run(source, tmp_path / "kept.mkv", options(keep_faces=KEEP))
    plain, kept = (np.stack(frames_of(tmp_path / f"{name}.mkv")[0]).astype(int) for name in ("plain", "kept"))
    away = np.abs(plain - kept)
    assert away.max() <= 3 and away.mean() < 0.01  # as RGB


def test_nothing_is_kept_unless_it_is_asked_for(tmp_path):
    source = write_clip(tmp_path / "in.mkv", frames=8)
    run(source, tmp_path / "out.mkv")
    assert not list(tmp_path.rglob("*.face"))


def test_a_runtime_with_a_shelf_serves_films_of_one_content(tmp_path):
    """As the nodes do it: a folder for all films, in which the same film under another name finds its faces."""
    source, chosen = write_clip(tmp_path / "in.mkv", frames=12), options()
    (tmp_path / "copy.mkv").write_bytes(source.read_bytes())
    counts = []
    for name in ("in", "copy"):
        who = models()
        runtime = Runtime(kept=KeptFaces(DiskShelf(tmp_path / "all")))
        run(tmp_path / f"{name}.mkv", tmp_path / f"{name}_out.mkv", chosen, who=who, runtime=runtime)
        counts.append(restored(who))
    assert counts == [12, 0]
    same(tmp_path / "in_out.mkv", tmp_path / "copy_out.mkv")


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_keeps_faces_in_the_folder_of_the_job(tmp_path, monkeypatch, capsys):
    source, job = write_clip(tmp_path / "in.mp4", frames=10), tmp_path / "job"
    net = Brighten()
    who = models()
    monkeypatch.setattr("bfr_core.restorer.load_restorer", lambda *_, **__: restorer_of(net))
    monkeypatch.setattr("bfr_core.faces.detect.load_detector", lambda *_, **__: who.detector)
    usual = ["restore", str(source), "--all-faces", "--job", str(job)]
    assert main([*usual, "-o", str(tmp_path / "one.mkv"), "--keep-faces", "0.5"]) == 0
    assert len(list((job / "faces").glob("*.face"))) == 10 == sum(net.batches)
    capsys.readouterr()
    assert main([*usual, "-o", str(tmp_path / "two.mkv"), "--keep-faces", "0.5", "--strength", "0.2"]) == 0
    said = capsys.readouterr().out
    assert "10 faces were taken from an earlier run" in said and str(job / "faces") in said
    assert sum(net.batches) == 10
    told = json.loads((job / "report" / "report.json").read_text())
    assert told["restored_frames"] == 10 == len(frames_of(tmp_path / "two.mkv")[0])


@pytest.mark.parametrize("value", ["0", "-1", "much", "nan", "inf"])
def test_a_size_that_is_none_is_refused(value, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["restore", str(tmp_path / "a.mp4"), "-o", str(tmp_path / "b.mp4"), "--keep-faces", value])
    assert "--keep-faces" in capsys.readouterr().err


def test_pictures_keep_none(tmp_path, capsys):
    from PIL import Image

    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    assert main(["restore", str(tmp_path / "a.png"), "-o", str(tmp_path / "b.png"), "--keep-faces", "1"]) == 1
    assert "--keep-faces" in capsys.readouterr().err
