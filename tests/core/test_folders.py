"""Folders: the same command goes on, what is passed over is named, and what is noted of files is said."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from film_jobs import write_clip
from PIL import Image

from bfr_core.cli import _finished, main
from bfr_core.cli._finished import RECORD
from bfr_core.cli._summary import note_lines
from bfr_core.video import job as film_job


def run(*arguments) -> int:
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Two pictures without a face, which are quick, one of them in a folder of its own."""
    folder = tmp_path / "album"
    (folder / "sub").mkdir(parents=True)
    Image.new("RGB", (120, 90), (90, 120, 80)).save(folder / "a.png")
    Image.new("RGB", (120, 90), (80, 90, 120)).save(folder / "sub" / "b.jpg")
    return folder


def stamps(out: Path) -> dict[str, int]:
    return {str(path.relative_to(out)): path.stat().st_mtime_ns for path in out.rglob("[!.]*.[pjm]*") if path.is_file()}


def test_the_same_command_takes_what_is_new_and_leaves_what_is_finished(album, tmp_path, capsys):
    out, report = tmp_path / "out", tmp_path / "r.json"
    assert run("restore", album, "-o", out, "--report", report) == 0
    first, before = json.loads(report.read_text())["files"], stamps(out)
    assert len(before) == 2
    Image.new("RGB", (100, 80), (30, 40, 50)).save(album / "c.png")
    capsys.readouterr()
    assert run("restore", album, "-o", out, "--report", report) == 0
    assert "1 of 3 pictures done, 2 finished before" in capsys.readouterr().out
    after = stamps(out)
    assert {name: after[name] for name in before} == before and set(after) - set(before) == {"c.png"}
    # The report of the second run tells of the whole folder.
    files = {Path(file["source"]).name: file for file in json.loads(report.read_text())["files"]}
    assert {name: file["status"] for name, file in files.items()} == {
        "a.png": "finished before", "b.jpg": "finished before", "c.png": "done",
    }  # fmt: skip
    assert files["a.png"]["report"] == first[0]["report"]
    assert run("restore", album, "-o", out) == 0 and stamps(out) == after
    assert "0 of 3 pictures done, 3 finished before" in capsys.readouterr().out


def test_a_copied_album_counts_as_the_same(album, tmp_path, capsys):
    assert run("restore", album, "-o", tmp_path / "out") == 0
    moved = tmp_path / "elsewhere"
    shutil.copytree(album, moved)
    for path in moved.rglob("*.*"):
        os.utime(path, (1, 1))
    assert run("restore", moved, "-o", tmp_path / "out") == 0
    assert "2 finished before" in capsys.readouterr().out


def test_what_was_made_otherwise_is_refused_before_anything_is_touched(album, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("restore", album, "-o", out) == 0
    before = stamps(out)
    assert run("restore", album, "-o", out, "--strength", 0.5, "--max-faces", 2) == 1
    said = capsys.readouterr().err
    assert "--strength was 1.0 and is 0.5 now" in said and "--max-faces was 0 and is 2 now" in said
    assert "and 1 more results that are there" in said
    Image.new("RGB", (120, 90), (1, 2, 3)).save(album / "a.png")
    assert run("restore", album, "-o", out) == 1
    assert "it was made of another a.png, which has changed since" in capsys.readouterr().err
    assert stamps(out) == before
    (out / "stranger.png").write_bytes(b"precious")
    Image.new("RGB", (120, 90), (90, 120, 80)).save(album / "stranger.png")
    assert run("restore", album / "stranger.png", album / "sub", "-o", out) == 1
    assert "it exists already" in capsys.readouterr().err and (out / "stranger.png").read_bytes() == b"precious"
    assert run("restore", album, "-o", out, "--overwrite") == 0
    assert all(stamps(out)[name] != stamp for name, stamp in before.items() if name == "a.png")


def test_an_option_that_came_later_is_no_other_option(album, tmp_path, monkeypatch, capsys):
    asked = _finished.asked_of
    monkeypatch.setattr(
        "bfr_core.cli.restore.asked_of", lambda args: {k: v for k, v in asked(args).items() if k != "upscale"}
    )
    assert run("restore", album, "-o", tmp_path / "out") == 0
    monkeypatch.undo()
    assert run("restore", album, "-o", tmp_path / "out") == 0
    assert "2 finished before" in capsys.readouterr().out


@pytest.mark.parametrize("kept", [0, 10, 60, 200])
def test_a_record_that_was_cut_short_loses_no_result(album, tmp_path, kept, capsys):
    """A run that was killed between a result and its line, or in the middle of the line."""
    out = tmp_path / "out"
    assert run("restore", album, "-o", out) == 0
    before, record = stamps(out), out / RECORD
    lines = record.read_bytes().rstrip(b"\n").split(b"\n")
    assert json.loads(lines[-1])["what"] == "finished"
    record.write_bytes(b"\n".join(lines[:-1]) + b"\n" + lines[-1][:kept])
    Image.new("RGB", (100, 80), (30, 40, 50)).save(album / "c.png")
    assert run("restore", album, "-o", out) == 0
    assert "1 of 3 pictures done, 2 finished before" in capsys.readouterr().out
    assert {name: stamp for name, stamp in stamps(out).items() if name != "c.png"} == before
    assert run("restore", album, "-o", out) == 0 and "3 finished before" in capsys.readouterr().out


def test_killed_before_an_old_result_was_replaced(album, tmp_path, monkeypatch, capsys):
    """What was only to be replaced is not taken for the new one."""
    out = tmp_path / "out"
    (out / "sub").mkdir(parents=True)
    (out / "a.png").write_bytes(b"old")

    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("bfr_core.cli.restore._restore_file", stop)
        assert run("restore", album, "-o", out, "--overwrite") != 0
    assert (out / RECORD).exists()
    assert run("restore", album, "-o", out) == 1 and "it exists already" in capsys.readouterr().err


def test_a_failed_file_is_tried_again(album, tmp_path, capsys):
    whole = (album / "a.png").read_bytes()
    (album / "a.png").write_bytes(whole[:60])
    assert run("restore", album, "-o", tmp_path / "out") == 1
    (album / "a.png").write_bytes(whole)
    assert run("restore", album, "-o", tmp_path / "out") == 0
    assert "1 of 2 pictures done, 1 finished before" in capsys.readouterr().out


def test_row42_a_folder_of_films_goes_on_in_the_film_that_was_stopped(tmp_path, monkeypatch, capsys):
    films, out = tmp_path / "films", tmp_path / "out"
    films.mkdir()
    for name in ("a.mp4", "b.mp4"):
        write_clip(films / name, 60)
    join = film_job.join

    def stop(segments, info, target, *args, **kwargs):
        if target.name == "b.mp4":
            raise KeyboardInterrupt
        return join(segments, info, target, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(film_job, "join", stop)
        assert run("restore", films, "-o", out) == 130
    assert not (out / "b.mp4").exists()
    before = stamps(out)
    segments = {path: path.stat().st_mtime_ns for path in (out / "b.mp4.bfr").glob("segment*")}
    assert segments and "a.mp4" in before
    made = []
    monkeypatch.setattr(film_job, "render", lambda *args, **kwargs: made.append(1))
    assert run("restore", films, "-o", out) == 0
    assert not made, "finished segments are not made again"
    assert stamps(out)["a.mp4"] == before["a.mp4"] and (out / "b.mp4").exists()
    said = capsys.readouterr().out
    assert "b.mp4: 60 frames" in said and "1 of 2 films finished before" in said


def test_what_is_passed_over_is_named(album, tmp_path, capsys):
    for name in ("notes.txt", "more.txt", "raw.xyz", "plain", ".DS_Store"):
        (album / name).write_bytes(b"x")
    (album / ".thumbnails").mkdir()
    report = tmp_path / "r.json"
    assert run("restore", album, "-o", album / "out", "--report", report) == 0
    said = capsys.readouterr().err
    assert "2 .txt (more.txt, notes.txt)" in said and said.startswith("Passed over: 2 ")
    assert "1 .xyz (raw.xyz)" in said and "1 no suffix (plain)" in said and "2 hidden (.DS_Store, .thumbnails)" in said
    told = json.loads(report.read_text())["passed_over"]
    assert {Path(each["path"]).name: each["why"] for each in told} == {
        "notes.txt": ".txt", "more.txt": ".txt", "raw.xyz": ".xyz", "plain": "no suffix", ".DS_Store": "hidden",
        ".thumbnails": "hidden",
    }  # fmt: skip
    assert run("restore", album, "-o", album / "out", "--report", report) == 0
    assert "the output folder" in [each["why"] for each in json.loads(report.read_text())["passed_over"]]


def test_notes_of_pictures_are_said(album, tmp_path, capsys):
    Image.new("P", (60, 60)).save(album / "palette.png")
    assert run("restore", album / "palette.png", "-o", tmp_path / "out.png", "--upscale", 2) == 0
    assert f"{album / 'palette.png'}: the palette becomes full RGB" in capsys.readouterr().out


def test_a_note_of_many_pictures_is_said_once():
    entries = [
        {"source": f"{n}.jpg", "notes": ["odd"], "report": {"notes": ["odd", "rare"][: 1 + (n == 2)]}} for n in range(5)
    ]
    assert note_lines(entries) == ["  0.jpg, 1.jpg, 2.jpg and 2 more: odd", "  2.jpg: rare"]
