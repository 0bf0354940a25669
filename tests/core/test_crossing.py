"""The one crossing: whoever restores comes through `restore_crops`, so seeds, colours and limits agree everywhere."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bfr_core.cli import main
from bfr_core.compose.colour import keep_colours
from bfr_core.faces.align import points_from_box
from bfr_core.faces.identity import embedded_recognizer
from bfr_core.faces.people import DriftLimit
from bfr_core.media.pictures import Picture, write_picture
from bfr_core.registry import Config, Method, methods
from bfr_core.restoration.faces import FaceBatch, restore_crops
from bfr_core.restoration.options import RestoreOptions, colours_of
from bfr_core.restoration.photo import restore_photo, restore_photos, restore_whole
from bfr_core.restorer import Restorer, face_seed
from bfr_core.runtime import Runtime
from bfr_core.types import Face
from bfr_core.video.choose import TrackSelection
from bfr_core.video.frames import restore_frames
from bfr_core.video.options import FilmOptions
from bfr_core.video.plan import FilmModels

ROOT = Path(__file__).resolve().parents[2]
SIZE = 64
BOXES = ((20.0, 20.0, 60.0, 64.0), (70.0, 30.0, 100.0, 62.0), (110.0, 20.0, 160.0, 76.0))


class Noise(nn.Module):
    """Paint each face in the shade that its seed draws; count the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []
        self.seeds: list[int] = []

    def forward(self, faces: torch.Tensor, seeds: Any) -> torch.Tensor:
        self.calls.append(len(faces))
        self.seeds += seeds
        shades = [torch.rand(3, 1, 1, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(shades).expand_as(faces) * 0.5 + faces * 0.5


def restorer(net: nn.Module | None = None, **config: Any) -> Restorer:
    net = net or Noise()
    configs = (Config("tiny", "Tiny", SIZE, **config),)
    method = Method(
        "noise", "Noise", "", (), configs, lambda c: net,
        lambda net, faces, settings, seeds, inputs, context: net(faces, seeds), lambda keys: None,
    )  # fmt: skip
    return Restorer(method, configs[0], net, "test")


def faces() -> list[Face]:
    return [Face(box, points_from_box(box), 0.9) for box in BOXES]


def picture(seed: int = 0) -> torch.Tensor:
    return torch.rand(3, 96, 180, generator=torch.Generator().manual_seed(seed)) * 0.6 + 0.2


# --- nobody else -------------------------------------------------------------------------------------------------

ALLOWED = {
    "bfr_core/restoration/faces.py": "the crossing itself",
    "bfr_core/methods/vspbfr/bench.py": "computes the published layout beside ours",
    "bfr_core/restorer.py": "hands a batch to the method's own function",
    "bfr_core/bench/diffusion.py": "times the method's own function with solvers that no surface offers",
}


def calls(path: Path) -> list[int]:
    """Return the lines that call `restore` or `restore_picture` as an attribute of anything."""
    tree = ast.parse(path.read_text("utf-8"))
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("restore", "restore_picture")
    ]


def test_nobody_else_calls_a_restorer():
    found = {
        str(path.relative_to(ROOT).as_posix()): lines
        for folder in ("bfr_core", "nodes")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if (lines := calls(path))
    }
    assert set(found) == set(ALLOWED), found


# --- seeds -------------------------------------------------------------------------------------------------------


def drawn(**options: Any) -> list[int]:
    net = Noise()
    restore_photo(picture(), restorer(net), faces=faces(), options=RestoreOptions(seed=3, **options), frame_index=2)
    return net.seeds


def test_a_face_keeps_its_noise_whoever_else_is_restored():
    everybody = drawn()
    assert everybody == [face_seed(3, 2, index) for index in range(3)]
    assert drawn(max_faces=1) == [everybody[2]]
    assert drawn(min_size=40) == [everybody[0], everybody[2]]


def test_faces_that_were_chosen_before_keep_the_place_they_had():
    net = Noise()
    whole = restore_photo(picture(), restorer(), faces=faces()).report.faces
    numbered = [Face(face.box, face.points, face.score, index) for index, face in enumerate(faces())]
    report = restore_photo(picture(), restorer(net), faces=numbered[1:]).report
    assert net.seeds == [face_seed(0, 0, 1), face_seed(0, 0, 2)]
    assert [face.face_index for face in report.faces] == [face.face_index for face in whole][1:]


# --- batches -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "calls"), [(1, [1] * 8), (3, [3, 3, 2]), (8, [8])])
def test_crops_of_several_pictures_fill_one_batch_and_change_nothing(batch, calls):
    frames = [picture(seed) for seed in range(8)]
    found = [[faces()[index % 3]] for index in range(8)]
    net = Noise()
    heard: list[tuple[int, int]] = []
    run = Runtime(batch=batch, on_progress=lambda *progress: heard.append(progress))
    together = list(restore_photos(frames, restorer(net), faces=found, runtime=run))
    assert net.calls == calls
    assert [done for done, _ in heard] == np.cumsum(calls).tolist()
    for index, result in enumerate(together):
        alone = restore_photo(frames[index], restorer(), faces=found[index], frame_index=index)
        assert torch.equal(result.image, alone.image) and torch.equal(result.mask, alone.mask)
        assert result.report.faces == alone.report.faces


def test_pictures_without_a_face_do_not_wait_for_one():
    given = iter([picture(seed) for seed in range(40)])
    found = [[faces()[0]] if index == 3 else [] for index in range(40)]
    made = restore_photos(given, restorer(), faces=found, runtime=Runtime(batch=2))
    for _ in range(3):
        next(made)
    assert len(list(given)) == 37  # not one was taken ahead
    held = restore_photos((picture(s) for s in range(40)), restorer(), faces=[[faces()[0]], *[[]] * 39],
                          runtime=Runtime(batch=2))  # fmt: skip
    assert sum(1 for _ in held) == 40


# --- colours -----------------------------------------------------------------------------------------------------


class Violet(nn.Module):
    """Turn every face violet."""

    def forward(self, faces: torch.Tensor, seeds: Any) -> torch.Tensor:
        return (faces + torch.tensor([0.2, 0.0, 0.2])[:, None, None]).clamp(0, 1)


@pytest.mark.parametrize("declared", ["input", "method"])
@pytest.mark.parametrize("asked", ["auto", "input", "method"])
def test_colours_are_those_asked_for_and_reported(declared, asked):
    violet = restorer(Violet(), colours=declared)
    crop = picture()[:, :SIZE, :SIZE].contiguous()
    results = restore_crops(FaceBatch(crop[None], [0], colours=asked), violet, Runtime())
    own = Violet()(crop[None], [0])[0]
    expected = declared if asked == "auto" else asked
    assert results.colours == expected
    assert torch.equal(results.faces[0], own if expected == "method" else keep_colours(crop, own))
    report = restore_photo(picture(), violet, faces=faces(), options=RestoreOptions(colours=asked)).report
    assert report.colours == expected


def test_published_sizes_show_their_own_colours_and_compact_ones_the_inputs():
    for method in methods().values():
        for config in method.configs:
            assert colours_of("auto", config) == ("input" if config.name == "compact" else "method")


# --- settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--threshold", "--strength", "--max-faces", "--min-size"])
@pytest.mark.parametrize("value", ["5000000", "-1", "nan"])
def test_settings_out_of_range_are_refused_before_anything_is_written(option, value, tmp_path, capsys):
    if option == "--max-faces" and value == "nan":
        pytest.skip("argparse refuses it")
    source = tmp_path / "in.png"
    write_picture(source, Picture(np.full((40, 40, 3), 90, np.uint8)))
    assert main(["restore", str(source), "-o", str(tmp_path / "out.png"), f"{option}={value}"]) == 1
    assert not (tmp_path / "out.png").exists()
    assert option[2:].replace("-", "_") in capsys.readouterr().err


def test_a_runtime_is_not_written_to():
    run = Runtime(batch=4)
    for name in ("notes", "batch", "on_step", "on_progress", "device"):
        with pytest.raises(AttributeError, match="derived"):
            setattr(run, name, None)
    heard: list[tuple[int, int]] = []
    part = run.derived(on_progress=lambda *progress: heard.append(progress)).scaled(10, 20)
    part.run_batched(lambda x: x, torch.zeros(3, 1))
    part.silent().run_batched(lambda x: x, torch.zeros(3, 1))
    assert heard == [(13, 20)]
    part.note("said")
    assert run.notes == ["said"] and not run.renewed().notes


# --- whole pictures and films ------------------------------------------------------------------------------------


def test_whole_pictures_have_colours_and_a_report():
    def paint(restorer: Any, picture: torch.Tensor, **_: Any) -> torch.Tensor:
        return Violet()(picture[None], [0])[0]

    loaded = restorer(Violet())
    able = Restorer(dataclasses.replace(loaded.method, picture=paint), loaded.config, loaded.net, "test")
    frame = picture()
    kept = restore_whole(frame, able)
    own = restore_whole(frame, able, options=RestoreOptions(colours="method"))
    assert torch.equal(own.image, paint(None, frame)) and not torch.equal(kept.image, own.image)
    assert (kept.report.colours, own.report.colours) == ("input", "method")
    assert kept.report.detector == "whole"


class Spot:
    """A detector that finds one face in the same place, always."""

    name = "spot"

    def detect(self, frames: torch.Tensor, *, threshold: float | None = None) -> list[list[Face]]:
        return [[faces()[2]] for _ in frames]

    def to_device(self, device: Any) -> None:
        """Stay."""


class Mirrored(nn.Module):
    """Turn a face upside down, which makes somebody else of it."""

    def forward(self, faces: torch.Tensor, seeds: Any) -> torch.Tensor:
        return faces.flip(2)


@pytest.mark.parametrize(("limit", "restored"), [(2.0, True), (0.05, False)])
def test_a_track_that_would_become_somebody_else_is_left_as_a_whole(limit, restored):
    frames = torch.stack([picture(7)] * 6)
    gate = DriftLimit(embedded_recognizer(), "embedded recogniser", limit)
    models = FilmModels(restorer(Mirrored()), Spot(), None)
    made = restore_frames(
        frames, 25.0, models, FilmOptions(choice=TrackSelection(quality_filter=None), drift_limit=gate)
    )
    track = made.to_dict()["tracks"][0]
    assert track["restore"] is restored and track["facts"]["drift"] > 0.05
    assert ("moved its identity" in track["reason"]) is not restored
    assert torch.equal(made.frames, frames) is not restored
