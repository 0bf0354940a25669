"""The detector's training: pictures that fit their labels, losses that reach zero where they should, and whole runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from marks import runs_yunet
from PIL import Image
from skimage.data import astronaut

from bfr_core.backends.detectors.embedded import MIRRORED_POINTS
from bfr_core.bench.detector import held_out_scenes
from bfr_core.errors import InputMediaError, SettingsError
from bfr_core.faces.detect import load_detector
from bfr_core.models.checkpoints.cards import Card
from bfr_core.models.checkpoints.files import load_state
from bfr_core.networks.face_detector import BASE, STRIDES, FaceDetectorNet, FaceRefinerNet, Predictions, cells
from bfr_core.types import Face
from train.__main__ import main
from train.checkpoint import Checkpoints, read_checkpoint
from train.detection.crops import STORED, CropExamples, Crops, collect, move, vary
from train.detection.export import main as export
from train.detection.labelled import LabelledPictures, held_out
from train.detection.losses import assign, giou, refiner_losses, search_losses
from train.detection.scenes import Canvas, SceneMixer
from train.detection.trained import TrainedDetector
from train.detection.validation import Tally
from train.stages.refiner import read_search

MARKS = np.array([[70, 80], [110, 80], [90, 105], [75, 130], [106, 130]], np.float64)
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 0, 255]], np.uint8)
NAMES = [f"{i}.png" for i in range(60)]
HELD = next(name for name in NAMES if held_out(name))
LEARNT = [name for name in NAMES if not held_out(name)][:3]


def write_scene(folder: Path, pictures: dict[str, tuple[np.ndarray, list[dict]]]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, (image, _) in pictures.items():
        Image.fromarray(image).save(folder / name)
    (folder / "labels.json").write_text(json.dumps({name: faces for name, (_, faces) in pictures.items()}))
    return folder


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> LabelledPictures:
    """A gray picture with a disc of its own colour at each of the five points."""
    image = np.full((220, 180, 3), 128, np.uint8)
    y, x = np.mgrid[:220, :180] + 0.5
    for (px, py), colour in zip(MARKS, COLOURS, strict=True):
        image[(x - px) ** 2 + (y - py) ** 2 < 64] = colour
    face = {"box": [50.0, 50.0, 80.0, 100.0], "points": MARKS.tolist()}
    return LabelledPictures([write_scene(tmp_path_factory.mktemp("marks"), {LEARNT[0]: (image, [face])})])


@pytest.fixture(scope="module")
def portraits(tmp_path_factory) -> Path:
    """The astronaut at four sizes, one of them held out; box and points by eye."""
    pictures = {}
    for name, side in zip([HELD, *LEARNT], (160, 144, 176, 208), strict=True):
        scale = side / 320
        image = cv2.resize(astronaut()[:320, 60:380], (side, side), interpolation=cv2.INTER_AREA)
        points = (np.array([[144, 101], [188, 102], [162, 126], [143, 141], [182, 141]]) * scale).tolist()
        box = (np.array([119, 68, 88, 112]) * scale).tolist()
        pictures[name] = (image, [{"box": box, "points": points}])
    return write_scene(tmp_path_factory.mktemp("portraits"), pictures)


def test_the_same_index_gives_the_same_picture(scene: LabelledPictures) -> None:
    a, b = SceneMixer(scene, size=96, seed=3), SceneMixer(scene, size=96, seed=3)
    for index in range(12):
        np.testing.assert_array_equal(a[index][0]["image"], b[index][0]["image"])
        np.testing.assert_array_equal(a[index][0]["points"], b[index][0]["points"])
    assert not np.array_equal(a[0][0]["image"], SceneMixer(scene, size=96, seed=4)[0][0]["image"])


def test_points_follow_their_marks_through_warp_and_mirror(scene: LabelledPictures) -> None:
    mixer = SceneMixer(scene, size=256)
    checked = 0
    for seed in range(60):
        canvas = Canvas(np.full((256, 256, 3), 10, np.uint8))
        mixer._paste(np.random.default_rng(seed), canvas, face=True, size=90.0, whole=True)
        for point, colour in zip(canvas.points[0], COLOURS, strict=True):
            x, y = (int(v) for v in point)
            if not (4 < x < 251 and 4 < y < 251):
                continue
            seen = canvas.image[y, x]
            if (seen < 12).all():  # a mask that left this mark out
                continue
            # A mirrored picture has the mirrored colours: the viewer's left eye is the other eye.
            other = COLOURS[MIRRORED_POINTS][[tuple(c) for c in COLOURS].index(tuple(colour))]
            close = [np.abs(seen.astype(int) - c.astype(int)).max() < 60 for c in (colour, other)]
            assert any(close), (seed, seen, colour)
            checked += 1
    assert checked > 150


def test_the_split_is_a_tenth_and_stable() -> None:
    names = [f"pd/{i:06d}.jpg" for i in range(2000)]
    share = sum(map(held_out, names)) / len(names)
    assert 0.08 < share < 0.12
    assert held_out("pd/W000797.jpg")


def perfect(boxes: torch.Tensor, points: torch.Tensor, size: int) -> Predictions:
    """Every cell predicts the first face exactly."""
    count = sum((size // stride) ** 2 for stride in STRIDES)
    return Predictions(
        torch.full((1, count), -9.0), boxes[:, :1].expand(1, count, 4), points[:, :1].expand(1, count, 5, 2)
    )


def test_cells_of_a_fitting_grid_are_given_to_a_face() -> None:
    size = 128
    boxes = torch.tensor([[[40.0, 40.0, 60.0, 64.0], [0.0, 0.0, 0.0, 0.0]]])
    points = torch.zeros(1, 2, 5, 2) + 50
    kind = torch.tensor([[1, 0]])
    grids = [cells(size // stride, size // stride, stride, boxes) for stride in STRIDES]
    strides = torch.cat([torch.full((len(grid),), float(s)) for grid, s in zip(grids, STRIDES, strict=True)])
    centres = torch.cat(grids)
    index, loose = assign(perfect(boxes, points, size), centres, strides, boxes, kind)
    chosen = torch.nonzero(index[0] >= 0)[:, 0]
    assert len(chosen) >= 1
    assert set(strides[chosen].tolist()) == {8.0}, "22 px belongs to the finest grid"
    assert (centres[chosen] - torch.tensor([50.0, 52.0])).abs().max() <= 8
    assert not loose.any()
    ignored = assign(perfect(boxes, points, size), centres, strides, boxes, kind * 2)
    assert (ignored[0] < 0).all()
    assert ignored[1].any()


def test_losses_of_exact_predictions_are_those_of_the_score_alone() -> None:
    boxes = torch.tensor([[[30.0, 30.0, 80.0, 90.0]]])
    points = torch.rand(1, 1, 5, 2) * 50 + 30
    parts = search_losses(perfect(boxes, points, 128), 128, boxes, points, torch.tensor([[1]]))
    assert parts["box"].item() == pytest.approx(0, abs=1e-5)
    assert parts["points"].item() == pytest.approx(0, abs=1e-6)
    assert parts["score"].item() > 0.5


def test_giou_of_known_boxes() -> None:
    a = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0]])
    b = torch.tensor([[1.0, 0.0, 3.0, 2.0], [2.0, 0.0, 3.0, 1.0]])
    iou, generalised = giou(a, b)
    torch.testing.assert_close(iou, torch.tensor([1 / 3, 0.0]))
    torch.testing.assert_close(generalised, torch.tensor([1 / 3, -1 / 3]))
    assert BASE * STRIDES[0] == 32


def test_exact_predictions_of_the_second_look_cost_only_their_score() -> None:
    boxes, points = torch.tensor([[0.2, 0.2, 0.8, 0.8]]).repeat(3, 1), torch.rand(3, 5, 2)
    face, judged = torch.tensor([True, False, True]), torch.tensor([True, True, False])
    said = Predictions(torch.tensor([0.0, 0.0, 99.0]), boxes + torch.tensor([[0.0], [9.0], [0.0]]), points)
    parts = refiner_losses(said, judged=judged, face=face, boxes=boxes, points=points)
    assert parts["box"].item() == pytest.approx(0, abs=1e-5)
    assert parts["points"].item() == 0
    assert parts["score"].item() == pytest.approx(math.log(2)), "the third is not judged"
    nothing = torch.zeros(3, dtype=torch.bool)
    for value in refiner_losses(said, judged=nothing, face=nothing, boxes=boxes, points=points).values():
        assert value.item() == 0


def test_held_out_scenes_are_never_drawn(portraits: Path) -> None:
    pictures = LabelledPictures([portraits])
    assert [pictures.sources[number].path.name for number in pictures.held] == [HELD]
    assert pictures.drawn == 3
    rng = np.random.default_rng(0)
    drawn = {pictures.sources[pictures.pick(rng)].path.name for _ in range(200)}
    assert drawn == set(LEARNT)


def test_the_benchmark_measures_what_training_holds_out(shared: Path) -> None:
    pictures = LabelledPictures([shared / "scenes"])
    held = {pictures.sources[number].path.relative_to(shared / "scenes").as_posix() for number in pictures.held}
    assert held == set(held_out_scenes(shared))


@runs_yunet
def test_yunet_labels_an_aligned_face(shared: Path, tmp_path: Path) -> None:
    image = cv2.resize(astronaut()[10:234, 110:334], (512, 512), interpolation=cv2.INTER_CUBIC)
    Image.fromarray(image).save(tmp_path / "face.png")
    Image.fromarray(np.full((128, 128, 3), 90, np.uint8)).save(tmp_path / "flat.png")
    pictures = LabelledPictures([tmp_path], yunet=shared / "weights" / "yunet_n_dynamic.onnx")
    face = pictures.labelled(0)
    assert face.pyramid[0].shape == (256, 256, 3)
    by_eye = (np.array([[204, 101], [248, 102], [222, 126], [203, 141], [242, 141]]) - (110, 10)) * (256 / 224)
    assert np.linalg.norm(face.points[0] - by_eye, axis=1).max() < 8
    x, y, w, h = face.boxes[0]
    assert (face.points[0] > (x, y)).all() and (face.points[0] < (x + w, y + h)).all()
    with pytest.raises(InputMediaError, match=r"flat\.png.*0 faces"):
        pictures.labelled(1)


def test_labels_that_do_not_fit_are_refused(portraits: Path, tmp_path: Path) -> None:
    folder = write_scene(tmp_path / "scenes", {LEARNT[0]: (np.zeros((99, 99, 3), np.uint8), [])})
    with pytest.raises(InputMediaError, match="nothing to train"):
        SceneMixer(LabelledPictures([folder]), size=96)
    Image.fromarray(np.zeros((99, 99, 3), np.uint8)).save(folder / "more.png")
    with pytest.raises(InputMediaError, match=r"more\.png"):
        LabelledPictures([folder])
    (folder / "labels.json").write_text('{"0.png": [{"box": [1, 2, 3, 4]}]}')
    with pytest.raises(InputMediaError, match="five points"):
        LabelledPictures([folder])
    (folder / "labels.json").unlink()
    with pytest.raises(SettingsError, match="--yunet"):
        LabelledPictures([folder])


@pytest.mark.parametrize("size", [64, 112])
def test_sizes_that_the_search_cannot_take_are_refused(scene: LabelledPictures, size: int) -> None:
    with pytest.raises(SettingsError, match="multiple of 32, at least 96"):
        SceneMixer(scene, size=size)


def test_a_damaged_scene_is_named_and_another_drawn(portraits: Path, tmp_path: Path) -> None:
    image = np.asarray(Image.open(portraits / LEARNT[0]))
    face = json.loads((portraits / "labels.json").read_text())[LEARNT[0]]
    folder = write_scene(tmp_path / "scenes", dict.fromkeys(LEARNT, (image, face)))
    (folder / LEARNT[1]).write_bytes(b"no picture")
    mixer = SceneMixer(LabelledPictures([folder]), size=96)
    named = [name for index in range(8) for name in mixer[index][1]]
    assert {Path(name).name for name in named} == {LEARNT[1]}


def test_points_follow_their_marks_into_the_crops_of_the_second_look(scene: LabelledPictures) -> None:
    image = np.full((STORED, STORED, 3), 128, np.uint8)
    marks = np.array([[36, 40], [60, 40], [48, 52], [38, 64], [58, 64]], np.float64)
    y, x = np.mgrid[:STORED, :STORED] + 0.5
    for (px, py), colour in zip(marks, COLOURS, strict=True):
        image[(x - px) ** 2 + (y - py) ** 2 < 25] = colour
    box = np.array([30, 34, 66, 70])
    crops = Crops(
        np.stack([image] * 3),
        np.zeros(3, np.float32),
        np.arange(3),
        np.stack([box] * 3).astype(np.float32) / STORED,
        np.stack([marks] * 3).astype(np.float32) / STORED,
        {},
    )
    examples = CropExamples(crops, scene, seed=0)
    mirrored = 0
    for index in range(40):
        example, again = examples[index][0], examples[index][0]
        assert all(np.array_equal(example[key], again[key]) for key in example)
        matrix = vary(image, np.random.Generator(np.random.PCG64([7, index])))[1]
        moved = move(matrix, box.astype(float), marks)[1]
        flips = np.linalg.det(matrix[:, :2]) < 0
        mirrored += flips
        np.testing.assert_allclose(moved[0], matrix @ [*marks[1 if flips else 0], 1])
        gray = (np.ptp(example["image"].astype(int), axis=2) < 3).all()
        for point, colour in zip(example["points"] * FaceRefinerNet.SIZE, COLOURS, strict=True):
            px, py = (int(v) for v in point)
            if gray or not (0 <= px < FaceRefinerNet.SIZE and 0 <= py < FaceRefinerNet.SIZE):
                continue
            other = COLOURS[MIRRORED_POINTS][[tuple(c) for c in COLOURS].index(tuple(colour))]
            seen = example["image"][py, px].astype(float)
            # Relit: the direction of the colour stays, not its length.
            best = COLOURS[np.argmax([np.corrcoef(seen, c)[0, 1] for c in COLOURS])]
            assert tuple(best) in {tuple(colour), tuple(other)}, (index, seen, colour)
    assert 10 < mirrored < 30


def test_recall_and_point_error_by_hand() -> None:
    boxes = np.array([[0.0, 0, 10, 10], [100, 100, 120, 120]])
    points = np.zeros((2, 5, 2))
    points[:, 1] = (10, 0)
    tally = Tally()
    tally.add((boxes, points), [Face((0, 0, 10, 9), points[0] + (3, 4), 0.9), Face((50, 50, 60, 60), points[0], 0.9)])
    assert tally.figures() == {"recall": 0.5, "point_error": pytest.approx(0.5), "unlabelled": 1.0}
    assert Tally().figures() == {"recall": 0.0, "point_error": 1.0, "unlabelled": 0.0}


def write_config(path: Path, **changes) -> Path:
    phase = {"name": "one", "images": 12, "batch": 4, "size": 96, "lr": [0.002, 0.001]}
    fields = {"phases": [{**phase, "weights": {"score": 1.0, "box": 1.0, "points": 20.0}}], **changes}
    path.write_text(json.dumps(fields))
    return path


def arguments(stage: str, config: Path, data: Path, out: Path) -> list[str]:
    places = ["--data", str(data), "--val", str(data), "--out", str(out), "--licence", "public domain"]
    return [stage, "--config", str(config), *places, "--workers", "0", "--cpu"]


@pytest.fixture(scope="module")
def searched(portraits: Path, tmp_path_factory) -> Path:
    """The folder of a short run of the search."""
    folder = tmp_path_factory.mktemp("runs")
    assert main(arguments("detector.search", write_config(folder / "tiny.json"), portraits, folder / "search")) == 0
    return folder / "search"


def test_the_search_trains_through_the_harness(searched: Path) -> None:
    log = [json.loads(line) for line in (searched / "log.jsonl").read_text().splitlines()]
    steps = [entry for entry in log if "images_per_second" in entry]
    assert steps[-1]["total"] == 12
    assert all(math.isfinite(steps[-1][term]) and steps[-1][term] > 0 for term in ("score", "box", "points"))
    assert any("recall_clean" in entry.get("validation", {}) for entry in log)
    state = Checkpoints(searched).load(print)
    assert state is not None and state["stage"] == "detector.search" and state["position"]["total"] == 12
    assert set(state["averages"]["net"]) == set(FaceDetectorNet(norm=True).state_dict())
    assert list((searched / "sheets").glob("*.png"))


def test_the_dry_run_of_the_search_writes_nothing(portraits: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("train.estimate._data_rate", lambda *_: 1.0)  # it feeds for three seconds
    config = write_config(tmp_path / "tiny.json")
    assert main([*arguments("detector.search", config, portraits, tmp_path / "out"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    count = sum(weight.numel() for weight in FaceDetectorNet(norm=True).parameters())
    assert f"net: {count / 1e6:.2f} M parameters" in said
    assert "GFLOP" in said and "Nothing was written" in said
    assert not (tmp_path / "out").exists()


def test_the_second_look_trains_on_what_the_search_names_and_both_are_exported(
    portraits: Path, searched: Path, tmp_path: Path, capsys
) -> None:
    path = next(iter(sorted((searched / "checkpoints").glob("*.pt"))))
    config = write_config(tmp_path / "tiny.json", pictures=12, sides=[96])
    fields = json.loads(config.read_text())
    fields["phases"][0] |= {"images": 48, "batch": 16, "size": 64}
    config.write_text(json.dumps(fields))
    run = [*arguments("detector.refiner", config, portraits, tmp_path / "look"), "--search"]
    assert main([*run, str(path)]) == 1
    assert "0 found faces" in capsys.readouterr().err, "an untrained search names nothing"

    # One that names every cell has everything to teach.
    torch.manual_seed(0)
    generous = FaceDetectorNet(norm=True)
    torch.nn.init.zeros_(generous.out.bias)
    state = {**read_checkpoint(path), "averages": {"net": generous.state_dict()}}
    path = Checkpoints(tmp_path / "generous").save(state, 12)
    assert main([*run, str(path)]) == 0
    log = [json.loads(line) for line in (tmp_path / "look" / "log.jsonl").read_text().splitlines()]
    steps = [entry for entry in log if "images_per_second" in entry]
    assert all(math.isfinite(steps[-1][term]) and steps[-1][term] > 0 for term in ("score", "box", "points"))

    out = tmp_path / "detector.safetensors"
    assert export(["--search", str(path), "--refiner", str(tmp_path / "look"), "-o", str(out)]) == 0
    card = Card(name="detector", **json.loads(out.with_suffix(".json").read_text()))
    assert card.images_seen == 60 and "public domain" in card.images and "detector.refiner" in card.command
    shipped = load_detector("embedded", path=out)
    look = FaceRefinerNet(norm=True)
    refined = Checkpoints(tmp_path / "look").load(print)
    assert refined is not None
    look.load_state_dict(refined["averages"]["net"])
    pictures, crops = torch.rand(2, 3, 96, 96), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        pairs = (
            (shipped.net.search(pictures), generous.eval()(pictures)),
            (shipped.net.refine(crops, torch.zeros(2)), look.eval()(crops, torch.zeros(2))),
        )
    for folded, trained in pairs:
        torch.testing.assert_close(folded.boxes, trained.boxes, atol=0.1, rtol=0.01)
        torch.testing.assert_close(folded.logits, trained.logits, atol=0.02, rtol=0.01)

    # The search of a shipped detector serves as well, to train a second look on and to be shipped with it.
    torch.testing.assert_close(read_search(out)(pictures).boxes, shipped.net.search(pictures).boxes)
    again = tmp_path / "again.safetensors"
    assert export(["--search", str(out), "--refiner", str(tmp_path / "look"), "-o", str(again)]) == 0
    for key, tensor in load_state(out).items():
        assert torch.equal(tensor, load_state(again)[key])
    other = Card(name="again", **json.loads(again.with_suffix(".json").read_text()))
    assert other.images_seen == 108 and "the search of detector.safetensors" in other.images

    assert main([*run, str(path), "--set", "phases.one.size=96", "--out", str(tmp_path / "other")]) == 1
    assert "sees crops of 64 px" in capsys.readouterr().err
    assert main([*run, str(next((tmp_path / "look" / "checkpoints").glob("*.pt")))]) == 1
    assert "expected detector.search" in capsys.readouterr().err
    assert export(["--search", str(tmp_path / "look"), "--refiner", str(searched), "-o", str(out)]) == 1


def test_the_same_search_gives_the_same_crops_and_frames_real_faces(portraits: Path) -> None:
    search = load_detector("embedded").net.search  # type: ignore[attr-defined]
    a, b = (
        collect(TrainedDetector(search), LabelledPictures([portraits]), count=8, sides=(192,), seed=3) for _ in range(2)
    )
    for name in ("images", "logits", "group", "boxes", "points"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    found, alarms, random = (a.group == group for group in range(3))
    assert found.any() and alarms.any() and random.any()
    # The search centres its crops on the faces, which are turned by less than a quarter.
    middle = (a.boxes[found][:, :2] + a.boxes[found][:, 2:]) / 2
    assert np.abs(middle - 0.5).max() < 0.2
    assert (a.points[found][:, :2, 1].mean(1) < a.points[found][:, 3:, 1].mean(1)).all()
    assert not a.boxes[alarms].any()
