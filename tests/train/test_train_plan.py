"""Plans: stages one after another by one command, on tiny stages, and the plan that trains everything we ship."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from accelerate.state import AcceleratorState
from marks import opens_pickles
from safetensors.torch import save_file
from train_command import few_faces
from train_stages import TinyStage, config

import train.__main__ as command
from bfr_core.errors import SettingsError
from bfr_core.models.checkpoints.cards import Card, embedded, embedded_cards, load_embedded
from bfr_core.models.checkpoints.files import fill, load_state
from bfr_core.networks.restore_unet import RestoreUNet
from train import export as exporting
from train.export import write_weights
from train.pairs import RestorePhase
from train.planning import plan as planning
from train.planning import work
from train.planning.folder import PlanFolder
from train.planning.judging import compare, in_words
from train.planning.line import StatusLine
from train.planning.plan import Keep, load_plan
from train.run import TrainOptions
from train.stage import FileNeed, stage_names
from train.validation import RestoreValidator

PHASES = (RestorePhase("one", 16, batch=4, size=64, lr=(0.02, 0.01), weights={"l1": 1.0}),)


class First(TinyStage):
    """A stage that needs nothing."""

    configs: ClassVar[Mapping] = {"compact": config(phases=PHASES, validate_images=8)}


class Next(TinyStage):
    """A stage that restores what the network before it has restored."""

    configs: ClassVar[Mapping] = {"compact": config(phases=PHASES, seed=3, validate_images=8)}
    needs: ClassVar[Mapping[str, FileNeed]] = {"base": FileNeed("weights of tiny.first")}
    given: ClassVar[list[Path]] = []

    def __init__(self, config, files) -> None:
        super().__init__(config, files)
        self.base = RestoreUNet((8, 16), (1, 1))
        fill(self.base, load_state(files["base"]), what="base")
        self.frozen["base"] = self.base
        self.given.append(files["base"])

    def validator(self, pictures):
        return RestoreValidator(
            pictures, self.config.preset(), lambda nets: lambda face: nets["net"](self.base(face)), recogniser=None,
            size=64, limit=self.config.validate_limit,
        )  # fmt: skip


STAGES = {"tiny.first": First, "tiny.next": Next}


def declare(place=None) -> None:
    """Let the command find the tiny stages; `place` sets attributes for good or for a test."""
    place = place or setattr
    place(planning, "find_stage", STAGES.__getitem__)
    place(planning, "stage_names", lambda: dict.fromkeys(STAGES, ""))
    place(exporting, "find_stage", STAGES.__getitem__)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    AcceleratorState._reset_state(reset_partial_state=True)
    Next.given.clear()
    declare(monkeypatch.setattr)


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    return few_faces(tmp_path_factory.mktemp("faces"))


TWO = """
[[stages]]
name = "first"
stage = "tiny.first"

[[stages]]
name = "next"
stage = "tiny.next"
files = { base = "@first" }
init = "@first"
images = 24
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "plan.toml"
    path.write_text(text)
    return path


def arguments(path: Path, faces: Path, out: Path, *more: object) -> list[str]:
    given = ["plan", path, "--data", faces, "--val", faces, "--out", out, "--workers", 0, "--cpu", *more]
    return [str(one) for one in given]


def call(path: Path, faces: Path, out: Path, *more: object) -> int:
    return command.main(arguments(path, faces, out, *more))


def result(out: Path, name: str) -> dict:
    return json.loads((out / "results" / f"{name}.json").read_text())


def status(path: Path, out: Path, capsys) -> list[str]:
    capsys.readouterr()
    assert command.main(["plan", str(path), "--out", str(out), "--status"]) == 0
    return capsys.readouterr().out.splitlines()


def row(lines: list[str], name: str) -> list[str]:
    (line,) = (line for line in lines if line.startswith(f"{name} "))
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def rival(path: Path, *, shift: float = 0.0) -> Path:
    """Write weights that give faces back, brighter by `shift`, with their card."""
    net = RestoreUNet((8, 16), (1, 1))
    torch.nn.init.constant_(net.head[0].bias, shift)  # type: ignore[index]
    fields = {
        "images": "none", "images_seen": 0, "command": "by hand", "metrics": {}, "weaknesses": "", "method": "irn",
        "config": "compact", "title": "Tiny restorer",
    }  # fmt: skip
    write_weights(path, net.state_dict(), dtype="float32", **fields)
    return path


def assert_same_weights(out: Path, other: Path, name: str) -> None:
    """Check that a stage came to the same in both; a file's header may list its metadata in another order."""
    states = [load_state(folder / f"exports/{name}.safetensors") for folder in (out, other)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(tensor, states[1][key]) for key, tensor in states[0].items())
    results = [{**result(folder, name), "sha256": ""} for folder in (out, other)]
    assert results[0] == results[1]


# The whole way


def test_a_plan_trains_its_stages_and_hands_their_weights_on(faces, tmp_path, capsys):
    path, out = write(tmp_path, TWO), tmp_path / "out"
    assert row(status(path, out, capsys), "first")[1:3] == ["waiting", "0 of 16"]
    assert not out.exists()
    assert call(path, faces, out) == 0
    said = capsys.readouterr().out
    assert "[1/2] first: " in said and "[2/2] next: one 24/24" in said and "2 of 2 stages decided" in said
    first, after = result(out, "first"), result(out, "next")
    assert first["kept"] and after["kept"] and after["trained_on"] == ["first"]
    assert set(Next.given) == {out / "exports/first.safetensors"}
    assert {"psnr", "sharpness", "grain", "weave"} <= after["after"].keys()
    # It began with what it was handed.
    log = [json.loads(line) for line in (out / "runs/next/log.jsonl").read_text().splitlines()]
    assert any(entry.get("total") == 24 for entry in log)
    card = Card("next", **json.loads((out / "exports/next.json").read_text()))
    assert card.images_seen == 40 and str(tmp_path) not in card.command and "plan.toml" in card.command
    assert hashlib.sha256((out / "exports/next.safetensors").read_bytes()).hexdigest() == after["sha256"] == card.sha256

    lines = status(path, out, capsys)
    cells = row(lines, "next")
    assert cells[1:3] == ["handed on", "24 of 24"] and "psnr" in cells[4] and cells[5] == "exports/next.safetensors"
    # The same command again has nothing to do.
    times = {file: file.stat().st_mtime_ns for file in out.rglob("*.safetensors")}
    assert call(path, faces, out) == 0
    assert times == {file: file.stat().st_mtime_ns for file in out.rglob("*.safetensors")}


SCRIPT = """
import sys
sys.path[:0] = ['tests/support', 'tests/train', '.']
import test_train_plan
import train.__main__ as command
if __name__ == '__main__':
    test_train_plan.declare()
    sys.exit(command.main(sys.argv[1:]))
"""


def test_killed_in_the_middle_of_a_stage_it_goes_on_to_the_same_weights(faces, tmp_path):
    # Each step is saved and long phases leave time to be killed in.
    text = TWO + "overrides = { save_minutes = 1e-9, validate_images = 100000 }\n"
    path = write(tmp_path, text.replace("images = 24", "images = 160"))
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    given = arguments(path, faces, tmp_path / "killed", "--threads", 1)
    child = subprocess.Popen([sys.executable, str(script), *given], cwd=Path(__file__).parents[2])
    checkpoints = tmp_path / "killed/runs/next/checkpoints"
    ends = time.monotonic() + 300
    while len(list(checkpoints.glob("*.pt"))) < 2:
        assert child.poll() is None and time.monotonic() < ends
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "killed/results/next.json").exists()
    threads = torch.get_num_threads()
    try:
        for out in ("killed", "whole"):
            assert call(path, faces, tmp_path / out, "--threads", 1) == 0
    finally:
        torch.set_num_threads(threads)
    for name in ("first", "next"):
        assert_same_weights(tmp_path / "killed", tmp_path / "whole", name)


def test_a_second_copy_is_refused_and_the_status_is_not(faces, tmp_path, capsys):
    path, out = write(tmp_path, TWO), tmp_path / "out"
    with PlanFolder(out):
        assert call(path, faces, out) == 1
        said = capsys.readouterr().err
        assert f"another run is at it: process {os.getpid()} on " in said and not (out / "runs").exists()
        assert row(status(path, out, capsys), "first")[1] == "waiting"
    assert call(path, faces, out, "--skip", "next") == 0


def test_a_folder_of_something_else_is_refused(faces, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "holiday.jpg").write_bytes(b"mine")
    assert call(write(tmp_path, TWO), faces, out) == 1
    assert "it holds holiday.jpg and no plan.json" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["holiday.jpg"]


def test_the_time_limit_ends_in_the_middle_and_the_same_command_goes_on(faces, tmp_path, capsys, monkeypatch):
    path, out = write(tmp_path, TWO), tmp_path / "out"
    assert call(path, faces, out, "--time-limit", 0) == 0
    assert "Ended (time limit); the same command goes on" in capsys.readouterr().out and not (out / "runs").exists()
    with monkeypatch.context() as soon:
        soon.setattr(work.Work, "_left", lambda self: 1e-9)
        assert call(path, faces, out) == 0
    cells = row(status(path, out, capsys), "first")
    assert cells[1:3] == ["training", "4 of 16"] and float(cells[3]) == 0.0
    assert not (out / "results/first.json").exists()
    assert call(path, faces, out) == 0
    assert call(path, faces, tmp_path / "whole") == 0
    assert_same_weights(out, tmp_path / "whole", "next")


# What is kept

AGAINST = """
[[stages]]
name = "first"
stage = "tiny.first"
against = ["best.safetensors"]
keep.must_rise = {{ psnr = {first} }}

[[stages]]
name = "next"
stage = "tiny.next"
files = {{ base = "@first" }}
against = ["after.safetensors"]
keep.{rule} = {{ psnr = {next} }}
"""


def test_a_worse_result_is_not_kept_and_what_was_there_is_handed_on(faces, tmp_path, capsys):
    path, out = write(tmp_path, AGAINST.format(first=50, rule="must_not_fall", next=50)), tmp_path / "out"
    best, _ = rival(tmp_path / "best.safetensors"), rival(tmp_path / "after.safetensors")
    assert call(path, faces, out) == 0
    assert "not kept: psnr must rise by 50" in capsys.readouterr().out
    first = result(out, "first")
    assert not first["kept"] and first["before"]["psnr"] + 50 > first["after"]["psnr"]
    assert first["checks"] == [
        {"figure": "psnr", "rule": "must_rise", "amount": 50.0, "before": first["before"]["psnr"],
         "after": first["after"]["psnr"], "holds": False}
    ]  # fmt: skip
    assert set(Next.given) == {best} and result(out, "next")["trained_on"] == []
    # What is kept has the name of what it takes the place of, and its card.
    assert [file.name for file in sorted((out / "weights").iterdir())] == ["after.json", "after.safetensors"]
    assert (out / "weights/after.safetensors").read_bytes() == (out / "exports/next.safetensors").read_bytes()
    lines = status(path, out, capsys)
    assert row(lines, "first")[1] == "not kept" and row(lines, "first")[5] == "as before: best"
    assert f"psnr {first['before']['psnr']:.4g} -> {first['after']['psnr']:.4g}" in row(lines, "first")[4]
    assert row(lines, "next")[5] == "weights/after.safetensors"
    assert any(line.startswith("first: psnr must rise by 50: ") for line in lines)
    # A decision stands, whatever its rules have become since.
    write(tmp_path, AGAINST.format(first=0, rule="must_not_fall", next=50))
    assert call(path, faces, out) == 0 and result(out, "first") == first
    assert "[1/2] first: its rules changed since it was decided" in capsys.readouterr().out


def test_a_better_result_is_kept(faces, tmp_path):
    path, out = write(tmp_path, AGAINST.format(first=0.5, rule="must_rise", next=-0)), tmp_path / "out"
    rival(tmp_path / "best.safetensors", shift=0.3)
    rival(tmp_path / "after.safetensors", shift=0.3)
    assert call(path, faces, out) == 0
    assert result(out, "first")["kept"] and (out / "weights/best.safetensors").is_file()
    assert set(Next.given) >= {out / "exports/first.safetensors"}


def test_a_result_is_withdrawn_where_what_stays_does_not_go_with_it(faces, tmp_path, capsys):
    """The first gives brighter faces and is kept all the same; what the second does not beat is worse off with it."""
    phase = '{ name = "still", images = 4, batch = 4, size = 64, lr = [1e-9, 1e-9], weights = { l1 = 1.0 } }'
    still = f'stage = "tiny.first"\ninit = "bright.safetensors"\noverrides = {{ phases = [{phase}] }}'
    text = AGAINST.format(first=90, rule="must_rise", next=0.5).replace("must_rise", "must_not_fall", 1)
    path, out = write(tmp_path, text.replace('stage = "tiny.first"', still)), tmp_path / "out"
    for name, shift in (("best", 0.0), ("after", 0.0), ("bright", 0.4)):
        rival(tmp_path / f"{name}.safetensors", shift=shift)
    assert call(path, faces, out) == 0
    first, after = result(out, "first"), result(out, "next")
    assert not first["kept"] and first["withdrawn"].startswith("next is not kept, and what stays does not go with it")
    assert first["before"]["psnr"] > first["after"]["psnr"] + 5
    assert after["trained_on"] == ["first"] and after["before"]["psnr"] > after["beside"]["psnr"] + 5
    assert list((out / "weights").iterdir()) == []
    lines = status(path, out, capsys)
    assert row(lines, "first")[1] == "withdrawn" and any(line.startswith("first: next is not kept") for line in lines)
    # Killed between both records, the next command does what was left to do.
    (out / "results/first.json").write_text(json.dumps({**first, "kept": True} | {"withdrawn": ""}))
    assert call(path, faces, out) == 0
    assert result(out, "first") == first and list((out / "weights").iterdir()) == []


def test_what_goes_well_with_what_stays_is_not_withdrawn(faces, tmp_path):
    path, out = write(tmp_path, AGAINST.format(first=0.01, rule="must_rise", next=50)), tmp_path / "out"
    for name, shift in (("best", 0.3), ("after", 0.0)):
        rival(tmp_path / f"{name}.safetensors", shift=shift)
    assert call(path, faces, out) == 0
    first, after = result(out, "first"), result(out, "next")
    assert first["kept"] and not after["kept"] and after["beside"]["psnr"] > after["before"]["psnr"]
    assert [file.name for file in sorted((out / "weights").iterdir())] == ["best.json", "best.safetensors"]


@pytest.mark.parametrize("better", [True, False])
def test_a_result_is_divided_as_what_it_takes_the_place_of_and_a_later_stage_may_refine_it(faces, tmp_path, better):
    text = f"""
    [[stages]]
    name = "first"
    stage = "tiny.first"
    against = ["body.safetensors", "head.safetensors"]
    keep.must_rise = {{ psnr = 0.01 }}

    [[stages]]
    name = "refined"
    stage = "tiny.first"
    init = "@first"
    against = ["@first"]
    keep.{"must_not_fall" if better else "must_rise"} = {{ psnr = 50 }}
    """
    whole = load_state(rival(tmp_path / "whole.safetensors", shift=0.3))
    card = (tmp_path / "whole.json").read_text()
    for name, within in (("head", True), ("body", False)):
        part = {key: tensor for key, tensor in whole.items() if key.startswith("head.") is within}
        save_file(part, tmp_path / f"{name}.safetensors")
        (tmp_path / f"{name}.json").write_text(card)
    out = tmp_path / "out"
    assert call(write(tmp_path, text), faces, out) == 0
    assert result(out, "first")["kept"] and result(out, "refined")["kept"] is better
    # What the second is compared with is what the first made, and not what was there before.
    assert result(out, "refined")["before"] == result(out, "first")["after"]
    parts = {name: load_state(out / f"weights/{name}.safetensors") for name in ("body", "head")}
    assert all(key.startswith("head.") for key in parts["head"]) and parts["body"]
    kept = load_state(out / f"exports/{'refined' if better else 'first'}.safetensors")
    assert kept.keys() == parts["body"].keys() | parts["head"].keys()
    for part in parts.values():
        assert all(torch.equal(tensor, kept[key]) for key, tensor in part.items())
    told = json.loads((out / "weights/head.json").read_text())
    assert told["parameters"] == sum(tensor.numel() for tensor in parts["head"].values())
    assert told["sha256"] == hashlib.sha256((out / "weights/head.safetensors").read_bytes()).hexdigest()


def test_rules_by_hand():
    keep = Keep(must_rise={"a": 1}, must_fall={"b": 1}, must_not_fall={"c": 1}, must_not_rise={"d": 1})
    before = dict.fromkeys("abcd", 10.0)
    good = compare(keep, before, {"a": 11, "b": 9, "c": 9, "d": 11})
    assert [check["holds"] for check in good] == [True] * 4
    bad = compare(keep, before, {"a": 10.9, "b": 9.1, "c": 8.9, "d": 11.1})
    assert [check["holds"] for check in bad] == [False] * 4
    assert in_words(bad[2]) == "c must not fall by more than 1: 10 to 8.9"
    # What stays need not be better, but no worse.
    stays = compare(keep, before, {"a": 9, "b": 11, "c": 9, "d": 11}, stays=True)
    assert [check["holds"] for check in stays] == [True] * 4
    assert not any(
        check["holds"] for check in compare(keep, before, {"a": 8.9, "b": 11.1, "c": 8, "d": 12}, stays=True)
    )
    # A figure that is missing or no number holds nothing.
    missing = compare(Keep(must_not_fall={"a": 1}), before, {"a": float("nan")}) + compare(keep, {}, {})
    assert not any(check["holds"] for check in missing) and in_words(missing[1]).endswith("none to none")


# Budgets


def test_hours_become_images_once(faces, tmp_path, monkeypatch, capsys):
    path, out = write(tmp_path, TWO.replace("images = 24", "hours = 0.01")), tmp_path / "out"
    asked: list[TrainOptions] = []

    def rates(label, stage, options):
        asked.append(options)
        return [2.0]

    monkeypatch.setattr(work, "rates", rates)
    decide = work.Work._decide
    monkeypatch.setattr(
        work.Work, "_decide", lambda self, planned: None if planned.name == "next" else decide(self, planned)
    )
    assert "those of 0.01 hours" in row(status(path, out, capsys), "next")
    assert call(path, faces, out) == 0
    assert "0.01 hours are about 72 images here" in capsys.readouterr().out
    monkeypatch.setattr(work, "rates", lambda *given: pytest.fail("measured again"))
    assert row(status(path, out, capsys), "next")[1:3] == ["measuring", "72 of 72"]
    monkeypatch.setattr(work.Work, "_decide", decide)
    assert call(path, faces, out) == 0 and len(asked) == 1
    assert json.loads((out / "plan.json").read_text())["next"]["images"] == 72


def test_speed_is_measured_without_a_trace(faces, tmp_path, capsys):
    from train.estimate import rates

    options = TrainOptions(out=tmp_path / "out", data=[faces], val=[faces], workers=0, cpu=True)
    (speed,) = rates(("tiny.first", "compact"), First(First.configs["compact"], {}), options)
    assert speed > 0 and not options.out.exists() and capsys.readouterr().out == ""


def test_a_stage_that_has_begun_keeps_its_settings(faces, tmp_path, capsys):
    path, out = write(tmp_path, TWO), tmp_path / "out"
    assert call(path, faces, out, "--skip", "next") == 0
    write(tmp_path, TWO.replace("images = 24", "images = 28"))
    with PlanFolder(out) as folder:
        folder.begin("next", {"images": 24})
        with pytest.raises(SettingsError, match="images was 24 and is 28"):
            folder.begin("next", {"images": 28})
    assert call(path, faces, out) == 1
    assert "Cannot continue stage next" in capsys.readouterr().err
    # One that has not begun may change.
    write(tmp_path, TWO.replace('[[stages]]\nname = "next"', '[[stages]]\nname = "later"'))
    assert call(path, faces, out) == 0 and result(out, "later")["kept"]


# What a plan says


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[[stages]]", "file = 1\n[[stages]]", "Did you mean 'files'"),
        ("images = 24", "imagse = 24", "Did you mean 'images'"),
        ("images = 24", 'images = "many"', "stages.1.images is 'many'"),
        ("images = 24", "hours = 2\nimages = 24", "a budget of images and one of hours"),
        ("images = 24", "keep.must_ries = { psnr = 1 }", "Did you mean 'must_rise'"),
        ("images = 24", 'against = ["irn_compact"]\nkeep.must_rise = { pnsr = 1 }', "Did you mean 'psnr'"),
        ("images = 24", "keep.must_rise = { psnr = 1 }", "lacks what it is compared with"),
        ("images = 24", 'against = ["irn_compact"]', "lacks rules for its figures"),
        ("images = 24", 'against = ["irn_compct"]\nkeep.must_rise = { psnr = 1 }', "did you mean 'irn_compact'"),
        ("images = 24", "overrides = { sede = 1 }", "Did you mean 'seed'"),
        ('stage = "tiny.next"', 'stage = "tiny.nxt"', "did you mean 'tiny.next'"),
        ('name = "next"', 'name = "first"', "its name is taken"),
        ('name = "next"', 'name = "Next one"', "small letters"),
        ("base =", "bse =", "Did you mean 'base'"),
        ('files = { base = "@first" }', "", "its files lack base: weights of tiny.first"),
        ('{ base = "@first" }', '{ base = "@frist" }', "did you mean 'first'"),
        ('{ base = "@first" }', '{ base = "@next" }', "no earlier stage"),
        ('{ base = "@first" }', '{ base = "$base" }', "not among [files]"),
        ('{ base = "@first" }', '{ base = "embedded:irn" }', "no embedded weights are called irn"),
        ('init = "@first"', 'init = "@nothing"', "no earlier stage"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path, old, new, message):
    assert TWO.count(old) >= 1
    head, tail = TWO.rsplit(old, 1)
    with pytest.raises(SettingsError) as caught:
        load_plan(write(tmp_path, head + new + tail))
    assert message in str(caught.value) and "Nothing was started" in str(caught.value)


def test_what_the_command_must_be_given_is_asked_for(faces, tmp_path, capsys):
    text = '[files]\nteacher = "the file to learn from"\n' + TWO.replace("@first", "$teacher", 1).replace(
        'init = "@first"\n', ""
    )
    path, out = write(tmp_path, text), tmp_path / "out"
    assert call(path, faces, out) == 1
    said = capsys.readouterr().err
    assert (
        "it lacks teacher: the file to learn from" in said and "--file teacher=PATH" in said and "--skip next" in said
    )
    assert call(path, faces, out, "--file", f"teacher={tmp_path / 'none.pt'}") == 1
    assert "none.pt" in capsys.readouterr().err
    assert call(path, faces, out, "--file", "techer=x") == 1
    assert "Did you mean 'teacher'" in capsys.readouterr().err
    assert call(path, faces, out, "--file", "teacher") == 1
    assert "expected NAME=PATH" in capsys.readouterr().err
    assert call(path, faces, out, "--skip", "nxt") == 1
    assert "Did you mean 'next'" in capsys.readouterr().err
    assert not out.exists()
    teacher = rival(tmp_path / "teacher.safetensors")
    assert call(path, faces, out, "--file", f"teacher={teacher}", "--skip", "first") == 0
    assert set(Next.given) == {teacher}
    # A stage that others need cannot be left out where nothing stands in for it.
    assert call(write(tmp_path, TWO), faces, tmp_path / "other", "--skip", "first") == 1
    assert "the result of first, which is skipped" in capsys.readouterr().err


def test_pictures_without_a_licence_are_refused_before_anything_is_trained(faces, tmp_path, capsys):
    (tmp_path / "bare").mkdir()
    bare = few_faces(tmp_path / "bare")
    (bare / "LICENCE.txt").unlink()
    path, out = write(tmp_path, TWO), tmp_path / "out"
    assert call(path, bare, out) == 1
    assert "no licence is stated" in capsys.readouterr().err and not (out / "runs").exists()
    assert call(path, bare, out, "--licence", "CC0", "--skip", "next") == 0


def test_several_processes_are_refused(faces, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(work, "PartialState", lambda cpu: SimpleNamespace(num_processes=2))
    assert call(write(tmp_path, TWO), faces, tmp_path / "out") == 1
    assert "2 were launched" in capsys.readouterr().err and not (tmp_path / "out/runs").exists()


def test_the_line_is_written_over_at_a_terminal_only():
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen, pipe = Terminal(), io.StringIO()
    for stream in (screen, pipe):
        line = StatusLine(stream)
        line.prefix = "a: "
        line.show("long text")
        line.show("short")
        line.keep("kept")
        line.clear()
    assert screen.getvalue() == "\ra: long text\ra: short    \r        \ra: kept\n"
    assert pipe.getvalue() == "a: long text\na: short\na: kept\n"


# The plan we ship


@pytest.fixture
def everything(monkeypatch):
    from train import stage

    monkeypatch.setattr(planning, "find_stage", stage.find_stage)
    monkeypatch.setattr(planning, "stage_names", stage.stage_names)
    monkeypatch.setattr(exporting, "find_stage", stage.find_stage)
    return load_plan(Path(__file__).parents[2] / "train/plans/compact.toml")


def test_the_compact_plan_trains_every_stage_and_every_weight(everything):
    from train.planning.kept import targets

    trained = {planned.entry.stage for planned in everything.stages}
    # Two methods share the identity recovery network under names of their own.
    assert {stage_names()[name] for name in trained} == set(stage_names().values())
    shipped = {name for planned in everything.stages for name in targets(everything, planned)}
    assert shipped == {card.name for card in embedded_cards()}
    assert all(planned.entry.hours for planned in everything.stages)


@pytest.mark.release
@opens_pickles
def test_the_weights_we_ship_are_measured_at_every_stage(everything, shared, tmp_path, monkeypatch):
    """Each stage builds with what goes with the embedded weights, and finds the figures that it says it finds."""
    faces, weights = [shared / "faces" / name / "val" for name in ("free512", "cc0gen512")], shared / "weights"
    given = {"recogniser": weights / "mobilefacenet.pt", "scenes": shared / "scenes"}
    given["yunet"] = weights / "yunet_n_dynamic.onnx"
    everything.give({"data": faces, "val": faces, **{name: [path] for name, path in given.items()}})
    # Stages that nothing embedded is compared with are not trained here: weights of their kind stand for them.
    dictionary = tmp_path / "dictionary.safetensors"
    whole = load_embedded("pltrans_compact_restorer")
    save_file({key: tensor for key, tensor in whole.items() if key.startswith("vq.")}, dictionary)
    made = {"vspbfr-bank": [embedded("vspbfr_compact_style")], "pltrans-dictionary": [dictionary]}
    stands_for = work.Work._stands_for
    monkeypatch.setattr(work.Work, "_stands_for", lambda self, name: made.get(name) or stands_for(self, name))
    labour = work.Work(everything, PlanFolder(tmp_path), work.How(cpu=True))
    for planned in everything.stages:
        if planned.rivals:
            few = dataclasses.replace(planned, entry=dataclasses.replace(planned.entry, judge_limit=6))
            found = labour._measured(few, labour._companions(planned), labour._rivals(planned))
            assert found.keys() == set(planned.stage.figures), planned.name
            assert all(math.isfinite(value) for value in found.values()), planned.name
