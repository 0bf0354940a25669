"""Faces that were restored before: what decides that one is taken, that nothing shows it, and what goes wrong with
them."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_restorers import Brighten, restorer_of
from torch import Tensor, nn

from bfr_core.diffusion.guidance import IdentityGuide
from bfr_core.errors import InputMediaError, SettingsError
from bfr_core.faces.align import points_from_box
from bfr_core.faces.identity import embedded_recognizer
from bfr_core.faces.people import DriftLimit
from bfr_core.registry import Config, Method, methods
from bfr_core.restoration.faces import FaceBatch, restore_crops
from bfr_core.restoration.kept import DiskShelf, KeptFaces, MemoryShelf, Shelf
from bfr_core.restoration.options import RestoreOptions
from bfr_core.restoration.photo import restore_photo
from bfr_core.restorer import Restorer, load_restorer
from bfr_core.runtime import Runtime
from bfr_core.types import Face

SIZE = 64
FACE = 4 * 3 * SIZE * SIZE
"""Bytes of one in memory; half of that on disk, and a little."""


def crops(count: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)) * 0.6 + 0.1


def batch(images: Tensor | None = None, **more: Any) -> FaceBatch:
    images = crops() if images is None else images
    return FaceBatch(images, more.pop("seeds", range(len(images))), **more)


@pytest.fixture(params=["memory", "disk"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Shelf]:
    """Return what opens the same shelf anew, as another run does."""
    if request.param == "disk":
        return lambda: DiskShelf(tmp_path / "faces")
    only = MemoryShelf()
    return lambda: only


def run_on(shelf: Shelf, **more: Any) -> Runtime:
    return Runtime(kept=KeptFaces(shelf), **more)


def calls(net: Brighten) -> int:
    """Return how many faces a net restored since it was asked last."""
    count = sum(net.batches)
    net.batches.clear()
    return count


# --- taken, and nothing shows it -----------------------------------------------------------------------------------


def test_faces_are_restored_once_and_come_back_bit_for_bit(shelf):
    net = Brighten()
    first = restore_crops(batch(), restorer_of(net), run_on(shelf()))
    assert calls(net) == 3
    run = run_on(shelf())
    again = restore_crops(batch(), restorer_of(net), run)
    assert calls(net) == 0
    assert torch.equal(first.faces, again.faces) and first.colours == again.colours
    assert run.notes == ["3 faces were taken from an earlier run, and not restored again"]


def test_memory_keeps_what_a_run_without_it_makes_and_disk_comes_within_its_rounding(tmp_path):
    plain = restore_crops(batch(), restorer_of(Brighten()), Runtime()).faces
    for _ in range(2):
        kept = restore_crops(batch(), restorer_of(Brighten()), run_on(MemoryShelf())).faces
        assert torch.equal(kept, plain)
        near = restore_crops(batch(colours="method"), restorer_of(Brighten()), run_on(DiskShelf(tmp_path))).faces
        own = restore_crops(batch(colours="method"), restorer_of(Brighten()), Runtime()).faces
        assert 0 < (near - own).abs().max() <= 0.5 / 65535 + 1e-7


@pytest.mark.parametrize("colours", ["input", "method"])
def test_what_comes_after_the_restorer_may_change(shelf, colours):
    """Colours, strength and the drift limit: the same as of a run that restores everything anew on its own shelf."""
    net = Brighten()
    restore_crops(batch(), restorer_of(net), run_on(shelf()))
    calls(net)
    limit = DriftLimit(embedded_recognizer(torch.device("cpu")), "test", 0.0)
    asked = batch(colours=colours, strength=0.4, drift_limit=limit)
    got = restore_crops(asked, restorer_of(net), run_on(shelf()))
    assert calls(net) == 0
    other = DiskShelf(shelf().folder.parent / "fresh") if isinstance(shelf(), DiskShelf) else MemoryShelf()
    fresh = restore_crops(asked, restorer_of(net), run_on(other))
    assert torch.equal(got.faces, fresh.faces)
    assert got.drift == fresh.drift and got.reasons == fresh.reasons and all(got.reasons)


def test_a_photo_is_only_blended_again(shelf):
    net = Brighten()
    frame = torch.rand(3, 96, 180, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2
    boxes = ((20.0, 20.0, 60.0, 64.0), (110.0, 20.0, 160.0, 76.0))
    found = [Face(box, points_from_box(box), 0.9) for box in boxes]

    def restored(place: Shelf, **options: Any) -> Tensor:
        run, chosen = run_on(place), RestoreOptions(**options)
        return restore_photo(frame, restorer_of(net), faces=found, options=chosen, runtime=run).image

    restored(shelf())
    assert calls(net) == 2
    for options in ({"strength": 0.3}, {"feather": 0.3}, {"colours": "method"}, {"max_faces": 1}):
        got = restored(shelf(), **options)
        assert calls(net) == 0, options
        fresh = DiskShelf(shelf().folder.parent / str(options)) if isinstance(shelf(), DiskShelf) else MemoryShelf()
        assert torch.equal(got, restored(fresh, **options))
        calls(net)


def test_some_of_a_batch_may_be_there(shelf):
    net = Brighten()
    images = crops(5)
    restore_crops(batch(images[[1, 3]], seeds=[1, 3]), restorer_of(net), run_on(shelf()))
    calls(net)
    heard: list[tuple[int, int]] = []
    run = run_on(shelf(), batch=2, on_progress=lambda *progress: heard.append(progress))
    got = restore_crops(batch(images), restorer_of(net), run).faces
    assert net.batches == [2, 1] and heard == [(2, 5), (4, 5), (5, 5)]
    calls(net)
    assert torch.equal(got, restore_crops(batch(images), restorer_of(net), run_on(shelf())).faces)
    assert not calls(net)


def test_a_run_takes_its_own_faces_without_a_word(shelf):
    net, run = Brighten(), run_on(shelf())
    for _ in range(2):
        restore_crops(batch(), restorer_of(net), run)
    assert calls(net) == 3 and run.notes == []


def test_none_keeps_nothing():
    net = Brighten()
    for _ in range(2):
        restore_crops(batch(), restorer_of(net), Runtime())
    assert calls(net) == 6


def test_no_face_is_no_work(shelf):
    assert restore_crops(batch(crops(0)), restorer_of(Brighten()), run_on(shelf())).faces.shape == (0, 3, SIZE, SIZE)


# --- what decides --------------------------------------------------------------------------------------------------


def nudged() -> Tensor:
    """Return the crops with one value that differs in its last bit."""
    images = crops()
    images[0, 0, 0, 0] = torch.nextafter(images[0, 0, 0, 0], torch.tensor(1.0))
    return images


def with_weight(value: float) -> Restorer:
    net = Brighten()
    net.scale.data.fill_(value)
    return restorer_of(net)


def guided(**fields: Any) -> Restorer:
    restorer = restorer_of(Brighten())
    restorer.guide = IdentityGuide(embedded_recognizer(torch.device("cpu")), "test", **fields)
    return restorer


CASES = {
    "a bit of a crop": (lambda: (batch(nudged()), restorer_of(Brighten())), 1),
    "a seed": (lambda: (batch(seeds=[0, 1, 9]), restorer_of(Brighten())), 1),
    "a setting": (lambda: (batch(settings={"level": 0.6}), restorer_of(Brighten())), 3),
    "an input": (lambda: (batch(inputs={"codes": torch.rand(3, 3)}), restorer_of(Brighten())), 3),
    "the weights": (lambda: (batch(), with_weight(1.01)), 3),
    "a guide": (lambda: (batch(), guided()), 3),
}


@pytest.mark.parametrize("what", CASES)
def test_what_decides_a_face_has_it_restored_anew(what, shelf):
    restore_crops(batch(), restorer_of(Brighten()), run_on(shelf()))
    make, expected = CASES[what]
    asked, restorer = make()
    restore_crops(asked, restorer, run_on(shelf()))
    assert isinstance(restorer.net, Brighten)
    assert calls(restorer.net) == expected


def test_the_guide_decides_by_all_that_it_has(shelf):
    reference = torch.rand(8)
    for fields in ({}, {"strength": 2.0}, {"reference": reference}, {"reference": reference + 1e-6}):
        restorer = guided(**fields)
        restore_crops(batch(), restorer, run_on(shelf()))
        assert calls(restorer.net) == 3, fields  # type: ignore[arg-type]


def test_precision_config_and_method_decide(shelf):
    net = Brighten()
    restore_crops(batch(), restorer_of(net), run_on(shelf()))
    calls(net)
    restore_crops(batch(), restorer_of(net), run_on(shelf(), dtype=torch.bfloat16))
    assert calls(net) == 3
    known = restorer_of(net)
    for method, config in (
        (known.method, dataclasses.replace(known.config, name="other")),
        (dataclasses.replace(known.method, id="other"), known.config),
    ):
        restore_crops(batch(), Restorer(method, config, net, "test"), run_on(shelf()))
        assert calls(net) == 3


def test_the_seed_is_left_out_where_a_method_draws_nothing(shelf):
    net = Brighten()
    known = restorer_of(net)
    steady = Restorer(dataclasses.replace(known.method, draws=False), known.config, net, "test")
    restore_crops(batch(), steady, run_on(shelf()))
    restore_crops(batch(seeds=[7, 8, 9]), steady, run_on(shelf()))
    assert calls(net) == 3


@pytest.mark.parametrize("method", [method.id for method in methods().values() if not method.draws])
def test_methods_that_say_so_draw_nothing(method):
    restorer = load_restorer(method)
    face = torch.rand(1, 3, restorer.size, restorer.size, generator=torch.Generator().manual_seed(1))
    one, other = (restore_crops(FaceBatch(face, [seed]), restorer, Runtime()).faces for seed in (1, 2))
    assert torch.equal(one, other)


def test_a_whole_picture_is_kept_apart_from_a_face(shelf):
    pictures: list[int] = []

    def whole(restorer: Any, picture: Tensor, *, seed: int, settings: Any, runtime: Runtime) -> Tensor:
        pictures.append(seed)
        return 1 - picture

    known = restorer_of(Brighten())
    restorer = Restorer(dataclasses.replace(known.method, picture=whole), known.config, known.net, "test")
    image = crops(1)
    faces = [
        restore_crops(batch(image, whole=flag, colours="method"), restorer, run_on(shelf())).faces
        for flag in (False, True, True)
    ]
    assert pictures == [0] and torch.equal(faces[1], faces[2]) and not torch.equal(faces[0], faces[1])
    with pytest.raises(SettingsError):
        restore_crops(batch(image, whole=True), known, run_on(shelf()))


def test_crops_that_do_not_fit_are_refused_as_without(shelf):
    restorer = restorer_of(Brighten())
    with pytest.raises(InputMediaError):
        restore_crops(batch(crops()[..., :32]), restorer, run_on(shelf()))
    with pytest.raises(SettingsError):
        restore_crops(batch(seeds=[1]), restorer, run_on(shelf()))
    with pytest.raises(SettingsError):
        restore_crops(batch(settings={"nothing": 1}), restorer, run_on(shelf()))


# --- what is said --------------------------------------------------------------------------------------------------


def test_what_was_said_of_a_face_is_said_again(shelf):
    """Notes of the method, and the numbers that it read in each face."""

    def restore(net: Any, faces: Tensor, settings: Any, seeds: Any, inputs: Any, context: Any) -> Tensor:
        context.note("the method left something aside")
        context.tell("It read levels", {"level": [float(seed) for seed in seeds]})
        return net(faces)

    config = Config("tiny", "Tiny", SIZE)
    net = nn.Identity()
    told = Restorer(
        Method("tells", "Tells", "", (), (config,), lambda c: net, restore, lambda k: None), config, net, ""
    )
    first = run_on(shelf(), batch=2)
    restore_crops(batch(seeds=[10, 20, 40]), told, first)
    assert first.notes == ["the method left something aside", "It read levels. 3 faces: level 10 to 40 (mean 23.33)"]
    again = run_on(shelf(), batch=2)
    restore_crops(batch(crops()[[0, 2]], seeds=[10, 40]), told, again)
    assert again.notes == [
        first.notes[0],
        "It read levels. 2 faces: level 10 to 40 (mean 25)",
        "2 faces were taken from an earlier run, and not restored again",
    ]


def test_the_count_is_of_the_whole_run(shelf):
    net = Brighten()
    images = crops(6)
    restore_crops(batch(images), restorer_of(net), run_on(shelf()))
    run = run_on(shelf())
    for index in (0, 2, 4, 4):
        restore_crops(batch(images[index : index + 2], seeds=[index, index + 1]), restorer_of(net), run)
    assert run.notes == ["6 faces were taken from an earlier run, and not restored again"]


# --- bounds --------------------------------------------------------------------------------------------------------


def test_memory_is_bounded_and_what_was_used_longest_ago_goes_first():
    net, shelf = Brighten(), MemoryShelf(4 * FACE)
    images = crops(6)

    def restored(rows: list[int]) -> int:
        restore_crops(batch(images[rows], seeds=rows), restorer_of(net), run_on(shelf))
        return calls(net)

    assert [restored([row]) for row in (0, 1, 2, 3)] == [1, 1, 1, 1]
    assert restored([0]) == 0
    assert restored([4]) == 1 and len(shelf) == 4
    assert restored([1]) == 1, "it was used longest ago"
    assert restored([0]) == 0
    shelf.clear()
    assert len(shelf) == 0 and restored([0]) == 1


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_a_film_longer_than_the_shelf_keeps_its_beginning(kind, tmp_path):
    net, images = Brighten(), crops(10)
    on_disk = FACE // 2 + 200
    only = MemoryShelf(4 * FACE)

    def restored() -> tuple[int, list[str]]:
        run = run_on(DiskShelf(tmp_path, 4 * on_disk) if kind == "disk" else only)
        for row in range(10):
            restore_crops(batch(images[row : row + 1], seeds=[row]), restorer_of(net), run)
        return calls(net), run.notes

    count, notes = restored()
    assert count == 10 and len(notes) == 1 and "6 faces were not kept" in notes[0] and "full" in notes[0]
    count, notes = restored()
    assert count == 6, "with the oldest given up for the newest, it would be all of them"
    assert any("4 faces were taken" in note for note in notes)


def test_a_disk_that_is_nearly_full_is_left_room(tmp_path, monkeypatch):
    free = type("Usage", (), {"free": 3 * FACE})
    monkeypatch.setattr("shutil.disk_usage", lambda path: free)
    run = run_on(DiskShelf(tmp_path))
    restore_crops(batch(crops(6)), restorer_of(Brighten()), run)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 1.5 * FACE
    assert any("not kept" in note for note in run.notes)


# --- damage, and others at the same folder ---------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: FACE // 4])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def swapped(path: Path) -> None:
    other = next(file for file in path.parent.iterdir() if file != path)
    path.write_bytes(other.read_bytes())


@pytest.mark.parametrize("harm", [cut, flip, empty, swapped])
def test_row45_a_damaged_face_is_restored_again_and_named(harm, tmp_path):
    net = Brighten()
    first = restore_crops(batch(), restorer_of(net), run_on(DiskShelf(tmp_path))).faces
    calls(net)
    victim = min(tmp_path.iterdir())
    harm(victim)
    run = run_on(DiskShelf(tmp_path))
    again = restore_crops(batch(), restorer_of(net), run).faces
    assert calls(net) == 1 and torch.equal(first, again)
    assert any("1 face was kept but damaged" in note and victim.name in note for note in run.notes), run.notes
    restore_crops(batch(), restorer_of(net), run_on(DiskShelf(tmp_path)))
    assert calls(net) == 0, "it was written anew"


def test_a_folder_that_vanishes_stops_the_keeping_and_not_the_run(tmp_path):
    net, run = Brighten(), run_on(DiskShelf(tmp_path / "faces"))
    restore_crops(batch(), restorer_of(net), run)
    for path in (tmp_path / "faces").iterdir():
        path.unlink()
    (tmp_path / "faces").rmdir()
    (tmp_path / "faces").write_bytes(b"")
    got = restore_crops(batch(), restorer_of(net), run).faces
    assert torch.equal(got, restore_crops(batch(), restorer_of(net), run_on(DiskShelf(tmp_path / "other"))).faces)
    assert any("no longer kept" in note for note in run.notes)


WORK = """
import sys, torch
from pathlib import Path
from tiny_restorers import Brighten, restorer_of
from bfr_core.restoration.faces import FaceBatch, restore_crops
from bfr_core.restoration.kept import DiskShelf, KeptFaces
from bfr_core.runtime import Runtime

images = torch.rand(24, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.1
expected = None
for _ in range(6):
    shelf = DiskShelf(Path(sys.argv[1]), int(sys.argv[2]))
    run = Runtime(kept=KeptFaces(shelf))
    faces = torch.cat([
        restore_crops(FaceBatch(images[row : row + 1], [row]), restorer_of(Brighten()), run).faces for row in range(24)
    ])
    assert expected is None or torch.equal(faces, expected)
    expected = faces
    assert not [note for note in run.notes if "damaged" in note or "no longer" in note], run.notes
print("well")
"""


def test_two_runs_at_once_on_one_folder_are_right(tmp_path):
    """With room for half of the faces, so that each gives up what the other has just kept."""
    command = [sys.executable, "-c", WORK, str(tmp_path), str(12 * (FACE // 2 + 200))]
    root = Path(__file__).parents[2]
    own = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), str(root / "tests" / "support")])}
    pipe = subprocess.PIPE
    working = [subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=own) for _ in range(2)]
    for process in working:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0 and out.strip() == "well", err
    assert not list(tmp_path.glob(".bfr-*"))
