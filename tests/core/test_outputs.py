"""Which file becomes which: every clash is found before the first picture, and nothing leaves the output folder."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bfr_core.errors import BfrError, InputMediaError, OutputMediaError, SettingsError
from bfr_core.media import outputs
from bfr_core.media.outputs import FilePair, plan_outputs

ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


def touch(*paths: Path) -> list[Path]:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return list(paths)


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def targets(jobs: list[FilePair], out: Path) -> list[str]:
    return [str(job.target.relative_to(out)) for job in jobs]


# What is planned


def test_folders_keep_their_layout_and_order(tmp_path: Path) -> None:
    names = ["b.JPG", "a.png", "sub/deep/c.webp", "sub/a.tiff"]
    touch(*(tmp_path / "in" / name for name in (*names, "notes.txt", ".hidden.png", "._a.png", ".cache/x.png")))
    jobs = plan_outputs([tmp_path / "in"], tmp_path / "out")
    assert targets(jobs, tmp_path / "out") == ["a.png", "b.JPG", "sub/a.tiff", "sub/deep/c.webp"]
    assert [job.source for job in jobs] == [tmp_path / "in" / job.target.relative_to(tmp_path / "out") for job in jobs]
    assert (tmp_path / "out/sub/deep").is_dir()
    assert [name for name in listing(tmp_path / "out") if "." in name] == []


def test_one_file_to_one_file_or_into_a_folder(tmp_path: Path) -> None:
    (source,) = touch(tmp_path / "a.png")
    out = tmp_path / "new" / "b.jpg"
    assert plan_outputs([source], out) == [FilePair(source, out)]
    assert plan_outputs([source], tmp_path / "folder") == [FilePair(source, tmp_path / "folder" / "a.png")]
    (tmp_path / "taken.png").mkdir()
    assert plan_outputs([source], tmp_path / "taken.png") == [FilePair(source, tmp_path / "taken.png" / "a.png")]
    assert plan_outputs([source], tmp_path / "f2", suffix=".TIF") == [FilePair(source, tmp_path / "f2" / "a.tif")]


def test_a_folder_of_one_picture_is_still_a_folder(tmp_path: Path) -> None:
    touch(tmp_path / "in" / "a.png")
    jobs = plan_outputs([tmp_path / "in"], tmp_path / "b.png")
    assert jobs[0].target == tmp_path / "b.png" / "a.png"


def test_a_picture_named_twice_is_one_job(tmp_path: Path) -> None:
    (source,) = touch(tmp_path / "in" / "a.png")
    assert len(plan_outputs([source, tmp_path / "in", tmp_path / "in" / ".." / "in" / "a.png"], tmp_path / "out")) == 1


def test_results_inside_the_input_folder_are_not_inputs_again(tmp_path: Path) -> None:
    touch(tmp_path / "a.png")
    out = tmp_path / "out"
    (job,) = plan_outputs([tmp_path], out)
    touch(job.target)
    assert plan_outputs([tmp_path], out, overwrite=True) == [job]


def test_suffix_is_checked(tmp_path: Path) -> None:
    (source,) = touch(tmp_path / "a.png")
    for out, suffix in ((tmp_path / "out", "png"), (tmp_path / "out", ".tga"), (tmp_path / "b.jpg", ".png")):
        with pytest.raises(SettingsError):
            plan_outputs([source], out, suffix=suffix)
    (plain,) = touch(tmp_path / "scan.v2")
    with pytest.raises(InputMediaError, match="suffix"):
        plan_outputs([plain], tmp_path / "out")
    assert plan_outputs([plain], tmp_path / "out", suffix=".png")[0].target == tmp_path / "out" / "scan.v2.png"


# Row 38: an output that is an input, or is there already


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("alias", ["same", "dotted", "symlink", "hard link", "linked folder"])
def test_row38_output_is_an_input(tmp_path: Path, alias: str, overwrite: bool) -> None:
    first, second = touch(tmp_path / "in" / "a.png", tmp_path / "in" / "b.png")
    out = tmp_path / "out" / "a.png"
    out.parent.mkdir()
    if alias == "same":
        out = first
    elif alias == "dotted":
        out = tmp_path / "out" / ".." / "in" / "a.png"
    elif alias == "symlink":
        out.symlink_to(first)
    elif alias == "hard link":
        out.hardlink_to(first)
    else:
        (tmp_path / "out").rmdir()
        (tmp_path / "out").symlink_to(tmp_path / "in")
    with pytest.raises(OutputMediaError, match="is the input"):
        plan_outputs([first], out, overwrite=overwrite)
    with pytest.raises(OutputMediaError, match="is the input"):
        plan_outputs([first, second], out.parent, overwrite=overwrite)
    assert (first.read_bytes(), second.read_bytes()) == (b"x", b"x")


def test_row38_output_of_one_is_the_input_of_another(tmp_path: Path) -> None:
    first, second = touch(tmp_path / "one" / "a.png", tmp_path / "two" / "b.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").hardlink_to(second)
    with pytest.raises(OutputMediaError) as caught:
        plan_outputs([first, second], tmp_path / "out", overwrite=True)
    assert str(second) in caught.value.found


def test_row38_output_exists(tmp_path: Path) -> None:
    first, second, old = touch(tmp_path / "a.png", tmp_path / "b.png", tmp_path / "out" / "b.png")
    with pytest.raises(OutputMediaError, match="exists already"):
        plan_outputs([first, second], tmp_path / "out")
    assert old.read_bytes() == b"x"
    assert len(plan_outputs([first, second], tmp_path / "out", overwrite=True)) == 2
    assert old.read_bytes() == b"x"


def test_row38_broken_link_counts_as_existing(tmp_path: Path) -> None:
    (source,) = touch(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputMediaError, match="exists"):
        plan_outputs([source], tmp_path / "b.png")


def test_row38_case_alias(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = touch(tmp_path / "in" / "A.png", tmp_path / "in2" / "a.png")
    assert len(plan_outputs([first, second], tmp_path / "out")) == 2 or outputs._folds_case(tmp_path)
    monkeypatch.setattr(outputs, "_folds_case", lambda folder: True)
    with pytest.raises(OutputMediaError, match="both become"):
        plan_outputs([first, second], tmp_path / "out2")


def test_row38_two_inputs_one_output(tmp_path: Path) -> None:
    first, second = touch(tmp_path / "one" / "a.png", tmp_path / "two" / "a.png")
    for inputs in ([first, second], [first.parent, second.parent]):
        with pytest.raises(OutputMediaError) as caught:
            plan_outputs(inputs, tmp_path / "out")
        assert str(first) in caught.value.found
        assert str(second) in caught.value.found
    other = touch(tmp_path / "one" / "a.jpg")[0]
    with pytest.raises(OutputMediaError, match="both become"):
        plan_outputs([first, other], tmp_path / "out", suffix=".webp")
    assert not (tmp_path / "out").exists()


def test_row38_one_output_is_the_folder_of_another(tmp_path: Path) -> None:
    first = touch(tmp_path / "one" / "a.png", tmp_path / "two" / "a.png" / "b.png")[0]
    with pytest.raises(OutputMediaError, match="needs a folder"):
        plan_outputs([first, tmp_path / "two"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Row 39: names

NAMES = [
    "two words.png",
    "quote'\".png",
    "%03d.png",
    "face \N{GRINNING FACE}.png",
    "-rf.png",
    "new\nline.png",
    "x" * 246 + ".png",
    "CON.png",
    "..png.png",
    "...png",
    "a:b.png",
    "back\\slash.png",
    "\u0065\u0301.png",
    "~.png",
    "$HOME.png",
    "*.png",
]


@pytest.mark.parametrize("name", NAMES)
def test_row39_odd_names_stay_inside(tmp_path: Path, name: str) -> None:
    try:
        (source,) = touch(tmp_path / "in" / name)
    except OSError:
        pytest.skip("this file system cannot hold the name")
    (job,) = plan_outputs([source], tmp_path / "out")
    assert job.target == tmp_path / "out" / name
    touch(job.target)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


def test_row39_climbing_paths_stay_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "x.png", tmp_path / "a" / "b" / "y.png")
    monkeypatch.chdir(tmp_path / "a" / "b")
    (job,) = plan_outputs([Path("../../x.png")], Path("out"))
    assert job.target == Path("out/x.png")
    jobs = plan_outputs([Path("../..")], Path("out"))
    assert all(job.target.resolve().is_relative_to(tmp_path / "a" / "b" / "out") for job in jobs)


def test_row39_link_out_of_the_output_folder(tmp_path: Path) -> None:
    touch(tmp_path / "in" / "sub" / "a.png")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputMediaError, match="outside the output folder"):
        plan_outputs([tmp_path / "in"], tmp_path / "out")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_row39_name_too_long_for_its_new_suffix(tmp_path: Path) -> None:
    (source,) = touch(tmp_path / ("x" * 251 + ".png"))
    with pytest.raises(OutputMediaError, match="256"):
        plan_outputs([source], tmp_path / "out", suffix=".jpeg")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["CON.png", "con.tar.png", "Lpt1.png", "nul .png", "a:b.png", "a?.png", "a\n.png"])
def test_row39_windows_names_are_refused_on_windows(name: str) -> None:
    with pytest.raises(OutputMediaError, match="Windows"):
        outputs._check_names([FilePair(Path("a.png"), Path("out") / name)], windows=True)
    outputs._check_names([FilePair(Path("a.png"), Path("out") / "console.png")], windows=True)


@given(st.lists(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=60)))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_row39_any_name_is_inside_or_refused(tmp_path_factory: pytest.TempPathFactory, stems: list[str]) -> None:
    folder = tmp_path_factory.mktemp("names")
    for stem in stems:
        try:
            touch(folder / "in" / f"{stem}.png")
        except OSError:
            continue
    out = folder / "out"
    try:
        jobs = plan_outputs([folder / "in"] if stems else [], out)
    except BfrError:
        assert not out.exists()
        return
    for job in jobs:
        assert job.target.parent == out
        assert job.source.is_file()
    assert len({job.target for job in jobs}) == len(jobs)


# Row 40: the output folder


def test_row40_output_folder_is_a_file(tmp_path: Path) -> None:
    source, _ = touch(tmp_path / "in" / "a.png", tmp_path / "file")
    for out in (tmp_path / "file", tmp_path / "file" / "deep", tmp_path / "file" / "b.png"):
        with pytest.raises(OutputMediaError, match="not a folder"):
            plan_outputs([source], out)
    (tmp_path / "out").mkdir()
    touch(tmp_path / "in" / "sub" / "b.png", tmp_path / "out" / "sub")
    with pytest.raises(OutputMediaError, match="not a folder"):
        plan_outputs([tmp_path / "in"], tmp_path / "out")
    assert listing(tmp_path / "out") == ["sub"]


def test_row40_missing_output_folder_is_made(tmp_path: Path) -> None:
    (source,) = touch(tmp_path / "a.png")
    plan_outputs([source], tmp_path / "new" / "deep")
    assert listing(tmp_path / "new") == ["deep"]


@pytest.mark.skipif(ROOT, reason="permissions say nothing to root")
def test_row40_read_only_output_folder(tmp_path: Path) -> None:
    (source,) = touch(tmp_path / "a.png")
    (tmp_path / "out").mkdir(mode=0o555)
    for out in (tmp_path / "out", tmp_path / "out" / "deep"):
        with pytest.raises(OutputMediaError, match="read-only"):
            plan_outputs([source], out)


@pytest.mark.parametrize(
    ("number", "word"), [(errno.EROFS, "read-only"), (errno.EACCES, "read-only"), (errno.ENOSPC, "full")]
)
@pytest.mark.parametrize("call", ["open", "mkdir"])
def test_row40_read_only_output_folder_as_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, word: str, call: str
) -> None:
    (source,) = touch(tmp_path / "a.png")

    def fail(*args: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, call, fail)
    with pytest.raises(OutputMediaError, match=word):
        plan_outputs([source], tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Row 49: nothing to do


def test_row49_zero_pictures(tmp_path: Path) -> None:
    touch(tmp_path / "in" / "notes.txt", tmp_path / "in" / ".hidden.png")
    (tmp_path / "in" / "folder.png").mkdir()
    for inputs in ([tmp_path / "in"], []):
        with pytest.raises(InputMediaError, match="no picture"):
            plan_outputs(inputs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_row49_missing_and_odd_inputs(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.png", Path("nul\0.png")):
        with pytest.raises(InputMediaError):
            plan_outputs([path], tmp_path / "out")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        with pytest.raises(InputMediaError, match="pipe"):
            plan_outputs([tmp_path / "pipe.png"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_row49_folder_that_cannot_be_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "in" / "a.png")

    def fail(path: object) -> None:
        raise PermissionError(errno.EACCES, "denied")

    monkeypatch.setattr(outputs.os, "scandir", fail)
    with pytest.raises(InputMediaError, match="search"):
        plan_outputs([tmp_path / "in"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
