"""The script that compares the pixels of two builds: it finds what differs, and nothing where nothing does."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import cv2
import numpy as np
import pytest
import video_media as media
from safetensors.numpy import save_file

PROJECT = Path(__file__).resolve().parents[2]
CASES = ("aligned/irn", "degrade/pictures")

STUB = """
import os, sys
import numpy as np
def main(argv):
    name, out = argv
    if name == "dies" and {side!r} == "before":
        os._exit(7)
    if name == "refuses" and {side!r} == "after":
        print("Error: no such option", file=sys.stderr)
        return 2
    np.save(out, np.full((4, 5), {value} if name == "differs" else 0.5, np.float32))
    return 0
"""
"""A build whose command writes an array, in one case another one in each build."""


@pytest.fixture(scope="module")
def tool() -> Iterator[SimpleNamespace]:
    """The modules of the script, which are no package and find each other in their folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PROJECT / "tests" / "support"))
        names = ("build_cases", "compare_builds", "drive_build", "output_files")
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})


@pytest.fixture(scope="module")
def ran(tool: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """This tree beside itself, in cases that ask for no real face."""
    data, out = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("ran") / "out"
    texture = cv2.resize(np.random.default_rng(1).integers(0, 255, (24, 24, 3), np.uint8), (256, 256))
    for name in ("photos/degraded/Adele_crop.png", "photos/clean/obama-240p.jpg"):
        (data / name).parent.mkdir(parents=True)
        cv2.imwrite(str(data / name), texture)
    sides = ("--before", str(PROJECT), "--after", str(PROJECT))
    status = tool.compare_builds.main([*sides, "--data", str(data), "--only", *CASES, "--out", str(out)])
    return SimpleNamespace(status=status, out=out, cases=[c for c in tool.build_cases.fixed_cases() if c.name in CASES])


def test_a_build_equals_itself(ran: SimpleNamespace, capfd: pytest.CaptureFixture[str]) -> None:
    assert ran.status == 0
    assert [case.name for case in ran.cases] == list(CASES)
    assert (ran.out / "after" / "aligned__irn" / "restored.png").is_file()
    assert len(list((ran.out / "before" / "degrade__pictures").rglob("*.png"))) == 4, "truth included"


def test_a_planted_level_is_found(
    tool: SimpleNamespace, ran: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planted = tmp_path / "after"
    shutil.copytree(ran.out / "after", planted)
    path = planted / "aligned__irn" / "restored.png"
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    picture[10, 20, 1] ^= 1
    cv2.imwrite(str(path), picture)
    fine = tool.compare_builds.Ran()
    rows = [
        tool.compare_builds.judge(case, fine, fine, ran.out / "before" / case.folder, planted / case.folder)
        for case in ran.cases
    ]
    assert [row.result for row in rows] == ["differs", "equal"]
    assert (rows[0].found.largest, rows[0].found.of) == (1, 255)
    assert rows[0].found.share == 1 / picture.size
    assert not tool.compare_builds.report(rows, {})
    assert "1 of them not expected: aligned/irn" in capsys.readouterr().out
    assert tool.compare_builds.report(rows, {"aligned/irn": "planted", "degrade/pictures": "nothing"})
    told = capsys.readouterr().out
    assert "expected: planted" in told and "Expected to differ, but equal: degrade/pictures" in told


def test_each_build_runs_in_processes_of_its_own(
    tool: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for side, value in (("before", 0.5), ("after", 0.75)):
        folder = tmp_path / side
        folder.mkdir()
        (folder / "pyproject.toml").write_text('[project.scripts]\nbfr = "stub:main"\n')
        (folder / "stub.py").write_text(STUB.format(side=side, value=value))
    names = ("differs", "dies", "refuses", "equal")
    cases = [tool.build_cases.Case(name, (name, "{out}/values.npy")) for name in names]
    builds = [tool.compare_builds.Build(side, tmp_path / side, tmp_path / "out") for side in ("before", "after")]
    rows = tool.compare_builds.compare(*builds, tmp_path, cases, 1)
    assert [row.result for row in rows] == ["differs", "only after", "only before", "equal"]
    assert rows[0].found.largest == 0.25 * 255 and rows[0].found.share == 1
    assert rows[1].before.error == "its process ended with status 7"
    assert "no such option" in rows[2].details and "status 2" in rows[2].details
    assert not tool.compare_builds.report(rows, {"differs": "why"})
    assert "1 of them not expected: refuses" in capsys.readouterr().out


def test_modules_of_another_build_do_not_answer_for_it(tool: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="json is imported from"):
        tool.drive_build.load_command(tmp_path, "json:dumps")


def clip(path: Path, level: int = 400, late: int = 0) -> None:
    """Write two frames of 10 bit, with a level in the corner of the second and a time of it."""
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 24, 16, "yuv420p10le"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for index in range(2):
            planes = [np.full(size, 400, np.uint16) for size in ((16, 24), (8, 12), (8, 12))]
            planes[0][0, 0] = level if index else 400
            frame = media.fill(media.blank("yuv420p10le", 24, 16), planes)
            frame.pts, frame.time_base = index * (40 + late), Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def test_films_are_compared_by_plane_and_time(tool: SimpleNamespace, tmp_path: Path) -> None:
    for name, settings in (("a", {}), ("b", {}), ("level", {"level": 403}), ("late", {"late": 1})):
        (tmp_path / name).mkdir()
        clip(tmp_path / name / "film.mkv", **settings)
    folders = tool.output_files.compare_folders
    same = folders(tmp_path / "a", tmp_path / "b")
    assert same.equal and same.values == 2 * 24 * 16 * 3 // 2
    level = folders(tmp_path / "a", tmp_path / "level")
    assert (level.largest, level.of, level.differing) == (3, 1023, 1)
    late = folders(tmp_path / "a", tmp_path / "late")
    assert not late.equal and not late.differing and "frame 1 at" in late.other


def test_every_kind_of_result_is_compared(tool: SimpleNamespace, tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    picture, deep = np.full((4, 6, 3), 9, np.uint8), np.full((4, 6, 3), 500, np.uint16)
    cv2.imwrite(str(before / "picture.png"), picture)
    cv2.imwrite(str(before / "deep.png"), deep)
    save_file({"codes": np.zeros(8, np.float32)}, before / "codes.safetensors")
    shutil.copytree(before, after)
    (after / "report.json").write_text("{}")
    folders = tool.output_files.compare_folders
    assert folders(before, after).equal and folders(before, after).files == 3
    deep[0, 0] += 7
    cv2.imwrite(str(after / "deep.png"), deep)
    found = folders(before, after)
    assert (found.largest, found.of, found.differing, found.unequal) == (7, 65535, 3, {"deep.png"})
    save_file({"codes": np.full(8, np.nan, np.float32)}, after / "codes.safetensors")
    found = folders(before, after)
    assert found.largest == np.inf and found.unequal == {"deep.png", "codes.safetensors"}
    cv2.imwrite(str(after / "picture.png"), picture[:2])
    assert "uint8 (4, 6, 3) before, uint8 (2, 6, 3) after" in folders(before, after).other
    (after / "picture.png").unlink()
    assert folders(before, after).other == "picture.png: only before"
    empty = tmp_path / "empty"
    empty.mkdir()
    case, fine = tool.build_cases.Case("none"), tool.compare_builds.Ran()
    assert tool.compare_builds.judge(case, fine, fine, empty, empty).result == "nothing to compare"
    broken = tool.compare_builds.Ran("broken")
    assert tool.compare_builds.judge(case, broken, broken, empty, empty).result == "neither"


def test_workflows_of_both_builds_are_run(tool: SimpleNamespace) -> None:
    cases = tool.build_cases.workflow_cases(
        {"old": "1", "same": "2", "new": "3"}, {"same": "2", "new": "4", "more": "5"}
    )
    names = [
        "workflow/more",
        "workflow/new",
        "workflow-before/new",
        "workflow/old",
        "workflow-before/old",
        "workflow/same",
    ]
    assert [case.name for case in cases] == names


def test_every_case_has_its_inputs(tool: SimpleNamespace) -> None:
    cases = [*tool.build_cases.fixed_cases(), *tool.build_cases.method_cases(["irn"])]
    cases += tool.build_cases.workflow_cases(
        {path.stem: "" for path in (PROJECT / "tests" / "nodes" / "api").glob("*.json")}, {}
    )
    made = {*tool.build_cases._MADE, *tool.build_cases._COPIED}
    assert {name for case in cases for name in case.inputs} == made
    assert len({case.folder for case in cases}) == len(cases)


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        (["--only", "aligned/irn", "--out", "{full}"], "is not empty"),
        (["--only", "none/*"], "no case is named none/*"),
        (["--expected", "{bad}"], "which says why it differs"),
        (["--after", "{full}"], "is no checkout"),
    ],
)
def test_wrong_usage_is_named(
    extra: list[str], told: str, tool: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "bad.toml").write_text('"aligned/irn" = ""\n')
    monkeypatch.setattr(tool.compare_builds.Build, "methods", lambda self: ["irn"])  # spares two processes
    extra = [part.format(full=tmp_path, bad=tmp_path / "bad.toml") for part in extra]
    with pytest.raises(SystemExit) as ended:
        tool.compare_builds.main(["--before", str(PROJECT), "--data", str(tmp_path), *extra])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
