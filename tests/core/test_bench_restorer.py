"""The part of the benchmark that every method shares: one table a method, and which methods are in it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import pytest
import torch
from marks import opens_pickles, runs_yunet
from safetensors.torch import save_file

from bfr_core.bench import restorer as part
from bfr_core.cli import main
from bfr_core.networks.restore_unet import RestoreUNet
from bfr_core.registry import Config, get_method, methods
from bfr_core.restorer import Restorer

SIDE = 128


@pytest.fixture(scope="module")
def data(shared: Path, tmp_path_factory) -> Path:
    """Two held-out faces of 128 px, with the weights that judge them."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "weights").symlink_to(shared / "weights")
    for name in ("pd512", "cc0gen512"):
        (folder / "faces" / name / "val").mkdir(parents=True)
        file = sorted((shared / "faces" / name / "val").glob("*.*"))[0]
        face = cv2.resize(cv2.imread(str(file)), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        assert cv2.imwrite(str(folder / "faces" / name / "val" / "0.png"), face)
    return folder


def tiny(shift: float = 0.0) -> Restorer:
    """Return a restorer that gives faces back, brighter by `shift`."""
    net = RestoreUNet((8, 16), (1, 1))
    torch.nn.init.constant_(net.head[0].bias, shift)  # type: ignore[index]
    method = get_method("irn")
    return Restorer(method, dataclasses.replace(method.config("compact"), size=SIDE), net, "tiny")


@opens_pickles
@runs_yunet
def test_one_table_holds_every_degradation_with_the_input_first(data, tmp_path):
    said: list[str] = []
    figures = part.compare({"embedded": tiny(), "given": tiny(0.1)}, data, said.append, tmp_path)
    names = [name for name in figures if isinstance(figures[name], dict) and "before" in figures[name]]
    assert names == ["gfpgan", "gfpgan without colour", *(f"x{n} noise 5 JPEG 80" for n in (2, 4, 8, 16, 32)), "clean"]
    lines = said[-len(names) - 2 :]
    assert lines[0].startswith("input | embedded | given") and "faces found of 2" in lines[0]
    assert [line.split("  ")[0] for line in lines[1:]] == [*names, "truth"]
    for name, line in zip(names, lines[1:], strict=False):
        found = figures[name]
        sides = [found[side] for side in ("before", "embedded", "given")]
        for key, digits in (("psnr", 2), ("identity", 3), ("grain", 2), ("weave", 2), ("sharpness_share", 3)):
            values = ["equal" if side[key] is None else f"{side[key]:.{digits}f}" for side in sides]
            assert " | ".join(values) in line
        assert " | ".join(str(side["found"]) for side in sides) in line
        # The first gives its input back; the other's brightness is known.
        assert found["embedded"] == found["before"] and found["after"] == found["given"]
        assert found["colour_shift"] == pytest.approx(25.5, abs=1.5)
    truth = figures["truth"]
    assert truth["grain"] == 1 and truth["sharpness_share"] == 1 and truth["identity"] == pytest.approx(1, abs=1e-4)
    assert figures["clean"]["before"]["sharpness"] == truth["sharpness"]
    worst = figures["x32 noise 5 JPEG 80"]["before"]
    assert worst["sharpness_share"] == pytest.approx(worst["sharpness"] / truth["sharpness"], abs=2e-3)
    assert worst["sharpness_share"] < 0.05 and worst["identity"] < figures["x8 noise 5 JPEG 80"]["before"]["identity"]
    assert len(list(tmp_path.glob("irn_compact_*.png"))) == len(names)


@opens_pickles
@runs_yunet
def test_by_itself_a_method_is_measured_before_and_after(data):
    said: list[str] = []
    figures = part.compare({"after": tiny()}, data, said.append)
    assert any(line.startswith("before | after") for line in said)
    assert figures["gfpgan"].keys() == {"before", "after", "sharper", "colour_shift"}
    assert figures["gfpgan"]["sharper"] == pytest.approx(1, abs=0.01)


def test_the_command_measures_the_methods_it_is_told(monkeypatch, tmp_path, capsys):
    measured: list[tuple[str, list[str]]] = []

    def compare(rivals, data, say, sheets):
        last = list(rivals.values())[-1]
        measured.append((last.method.id, list(rivals)))
        return {"seconds_per_face": 0.1}

    monkeypatch.setattr(part, "compare", compare)
    report = tmp_path / "figures.json"
    assert main(["bench", "restorer", "--method", "irn", "pltrans", "--json", str(report)]) == 0
    assert measured == [("irn", ["after"]), ("pltrans", ["after"])]
    assert list(json.loads(report.read_text())["restorer"]) == ["irn/compact", "pltrans/compact"]
    measured.clear()
    # A method named means this part; weights are measured beside what is embedded.
    weights = tmp_path / "irn.safetensors"
    save_file(RestoreUNet().state_dict(), weights)
    assert main(["bench", "--method", "irn", "--weights", str(weights)]) == 0
    assert measured == [("irn", ["embedded", "given"])]


def test_methods_and_weights_that_do_not_go_together_are_refused(monkeypatch, tmp_path, capsys):
    assert main(["bench", "restorer", "--method", "irm"]) == 1
    assert "Unknown method 'irm'" in capsys.readouterr().err
    assert main(["bench", "detector", "--method", "irn"]) == 1
    assert "only the part restorer" in capsys.readouterr().err
    assert main(["bench", "--weights", str(tmp_path / "x.safetensors")]) == 1
    assert "expected the one that the weights are of" in capsys.readouterr().err
    bare = dataclasses.replace(get_method("irn"), configs=(Config("paper", "brought", 512),))
    monkeypatch.setitem(methods(), "irn", bare)
    assert main(["bench", "--method", "irn"]) == 1
    assert "nothing to measure of irn" in capsys.readouterr().err
