"""Choosing people by their photos and taking back faces that drifted: command, nodes and library, on real faces."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fake_host import FakeHost, execute
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from bfr_core.cli import main
from bfr_core.compose.colour import keep_colours
from bfr_core.degrade.chain import degrade, fixed
from bfr_core.errors import SettingsError
from bfr_core.faces.align import align_faces
from bfr_core.faces.detect import load_detector
from bfr_core.faces.identity import embedded_recognizer
from bfr_core.faces.people import DriftLimit, People, usual_min_likeness
from bfr_core.faces.reference import photo_identities
from bfr_core.faces.select import select_faces
from bfr_core.media.pictures import read_picture, to_float
from bfr_core.models.checkpoints.cards import embedded, read_card
from bfr_core.registry import Config, Method
from bfr_core.restoration.options import RestoreOptions
from bfr_core.restoration.photo import restore_photo, restore_whole
from bfr_core.restorer import Restorer, face_seed
from bfr_core.types import Face

PROJECT = Path(__file__).resolve().parents[2]
NAMES = ("A000361", "K000375", "S001142", "C000754")
"""The fourth is in no picture."""
SIDES = (150, 210, 250)
"""Of the faces in the picture: the last is the largest."""
STRIDE = 320


def numpy_cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    """Embed two aligned faces by the bare network, and compare them in float64."""
    recogniser = embedded_recognizer()
    vectors = []
    for face in (one, other):
        with torch.no_grad():
            seen = recogniser.net(recogniser.preprocessing.crop(face[None]) * 2 - 1)
        vectors.append(seen[0].double().numpy())
    return float(vectors[0] @ vectors[1] / np.sqrt((vectors[0] ** 2).sum() * (vectors[1] ** 2).sum()))


def aligned_face(frame: torch.Tensor, size: int) -> list[torch.Tensor]:
    """Return the crops of every face of a frame, from left to right."""
    faces = sorted(load_detector().detect(frame[None])[0], key=lambda face: face.box[0])
    return [crop.image for crop in align_faces(frame, faces, size)]


@pytest.fixture(scope="module")
def desk(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Clean photos of four people, and a degraded picture with the first three beside each other."""
    folder = tmp_path_factory.mktemp("people")
    photos = []
    for name in NAMES:
        # A darker copy with a border: the reference is not the picture that was degraded.
        face = Image.open(shared / "faces" / "pd512" / "val" / f"{name}.jpg").convert("RGB").resize((320, 320))
        sheet = np.full((400, 400, 3), 110, np.uint8)
        sheet[40:360, 40:360] = 255 * (np.asarray(face) / 255) ** 1.15
        Image.fromarray(sheet).save(folder / f"{name}.png")
        photos.append(folder / f"{name}.png")
    scene = np.full((STRIDE, STRIDE * 3, 3), 110, np.uint8)
    for number, (name, side) in enumerate(zip(NAMES, SIDES, strict=False)):
        face = Image.open(shared / "faces" / "pd512" / "val" / f"{name}.jpg").convert("RGB").resize((side, side))
        top, left = (STRIDE - side) // 2, STRIDE * number + (STRIDE - side) // 2
        scene[top : top + side, left : left + side] = np.asarray(face)
    Image.fromarray(degrade(scene, fixed(3, jpeg_quality=70))).save(folder / "scene.png")
    Image.fromarray(np.full((200, 200, 3), 90, np.uint8)).save(folder / "wall.png")
    frame = to_float(read_picture(folder / "scene.png"))
    return SimpleNamespace(folder=folder, photos=photos, scene=folder / "scene.png", frame=frame)


def invert(net: Any, faces: torch.Tensor, *_: Any) -> torch.Tensor:
    return 1 - faces


def restorer_of(restore: Any = invert, size: int = 128, **fields: Any) -> Restorer:
    config = Config("tiny", "Tiny", size)
    method = Method("irn", "Test method", "", (), (config,), lambda c: nn.Identity(), restore, lambda keys: None)
    return Restorer(method, config, nn.Identity(), "test")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore by inverting, which is seen at once and takes no time."""
    monkeypatch.setattr("bfr_core.restorer.load_restorer", lambda *_, **__: restorer_of())


def run(desk: SimpleNamespace, out: Path, *arguments: Any, source: Path | None = None) -> int:
    command = ["restore", source or desk.scene, "-o", out / "out.png", "--report", out / "report.json", *arguments]
    try:
        return main([str(argument) for argument in (*command, "--device", "cpu")])
    except SystemExit as end:
        return int(end.code or 0)


def changed_thirds(desk: SimpleNamespace, out: Path) -> list[bool]:
    before, after = read_picture(desk.scene).rgb, read_picture(out / "out.png").rgb
    changed = (before != after).any(2)
    return [bool(changed[:, STRIDE * n : STRIDE * (n + 1)].any()) for n in range(3)]


def said_of(face: dict[str, Any]) -> float:
    """Return the cosine in the reason why a face was kept, which is rounded by itself."""
    found = re.search(r"cosine (-?[0-9.]+) to the person", face["reason"])
    assert found is not None, face["reason"]
    return float(found[1])


def told(out: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the report of a run, and its faces from left to right."""
    report = json.loads((out / "report.json").read_text())
    return report, sorted(report["files"][0]["report"]["faces"], key=lambda face: face["box"][0])


# The command --------------------------------------------------------------------------------------------------------


def test_only_the_person_in_the_photo_is_restored(desk, tmp_path, capsys):
    """By the real method; the person is not the largest, yet --max-faces counts after the choice."""
    assert run(desk, tmp_path, "--only", desk.photos[1], "--max-faces", 1) == 0
    assert changed_thirds(desk, tmp_path) == [False, True, False]
    report, faces = told(tmp_path)
    assert [face["action"] for face in faces] == ["kept", "restored", "kept"]
    assert report["people"] == {
        "recogniser": "embedded recogniser",
        "only": 1,
        "except": 0,
        "least_likeness": usual_min_likeness(embedded_recognizer()),
    }
    (photo,) = aligned_face(to_float(read_picture(desk.photos[1])), 512)
    for face, crop in zip(faces, aligned_face(desk.frame, 512), strict=True):
        assert face["likeness"] == pytest.approx(numpy_cosine(crop, photo), abs=2e-3)
        assert face["drift"] is None
        assert face["action"] == "restored" or said_of(face) == pytest.approx(face["likeness"], abs=6e-4)
    assert "1 faces restored" in capsys.readouterr().out


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("only", "others", "restored"),
    [((0, 2, 2), (), (0, 2)), ((), (0, 1), (2,)), ((0, 1), (1,), (0,))],
)  # fmt: skip
def test_photos_add_up(desk, tmp_path, only, others, restored):
    arguments = [part for n in only for part in ("--only", desk.photos[n])]
    arguments += [part for n in others for part in ("--except", desk.photos[n])]
    assert run(desk, tmp_path, *arguments) == 0
    assert changed_thirds(desk, tmp_path) == [n in restored for n in range(3)]
    faces = told(tmp_path)[1]
    assert all(bool(face["reason"]) == (face["action"] == "kept") for face in faces)
    assert not others or all("left alone" in faces[n]["reason"] for n in others if n < 3)


@pytest.mark.usefixtures("quick")
def test_where_the_person_is_not_nothing_is_touched_and_that_is_said(desk, tmp_path, capsys):
    assert run(desk, tmp_path, "--only", desk.photos[3], "--least-likeness", 0.95) == 0
    assert (tmp_path / "out.png").read_bytes() == desk.scene.read_bytes()
    report, faces = told(tmp_path)
    nearest = max(face["likeness"] for face in faces)
    assert all("at least 0.95 needed" in face["reason"] and face["action"] == "kept" for face in faces)
    assert any(f"{nearest:.3f}" in note for note in report["files"][0]["report"]["notes"])
    out = capsys.readouterr().out
    assert "1 of 1 pictures done, 0 faces restored" in out
    assert f"cosine of {nearest:.3f}, at least 0.95 is needed" in out
    # Lower, somebody is found: the nearest and nobody else.
    assert run(desk, tmp_path, "--only", desk.photos[3], "--least-likeness", -1, "--overwrite") == 0
    faces = told(tmp_path)[1]
    assert [face["likeness"] == nearest for face in faces] == [face["action"] == "restored" for face in faces]
    assert sum("more like the reference" in face["reason"] for face in faces) == 2


@pytest.mark.usefixtures("quick")
def test_a_recogniser_of_ones_own_chooses_without_guiding(desk, tmp_path):
    shutil.copy(embedded("recogniser"), tmp_path / "mine.safetensors")
    assert run(desk, tmp_path, "--only", desk.photos[0], "--recogniser", tmp_path / "mine.safetensors") == 0
    report, _ = told(tmp_path)
    assert report["people"]["recogniser"] == "recogniser mine.safetensors" and "guide" not in report
    assert changed_thirds(desk, tmp_path) == [True, False, False]


@pytest.mark.usefixtures("quick")
def test_what_cannot_be_asked_ends_before_the_first_picture(desk, tmp_path, capsys):
    for arguments, words in (
        (["--only", desk.folder / "wall.png"], ["no faces found", "wall.png"]),
        (["--except", desk.scene], ["3 faces found", "exactly one"]),
        (["--only", desk.folder / "gone.png"], ["gone.png"]),
        (["--least-likeness", 0.4], ["--only or --except"]),
        (["--only", desk.photos[0], "--least-likeness", 1.5], ["1.5", "-1 to 1"]),
        (["--only", desk.photos[0], "--least-likeness", "nan"], ["nan", "-1 to 1"]),
        (["--max-drift", 3], ["3.0", "0 to 2"]),
        (["--max-drift", "nan"], ["nan"]),
        (["--only", desk.photos[0], "--whole"], ["whole picture", "--only"]),
        (["--max-drift", 0.5, "--whole"], ["whole picture", "--max-drift"]),
    ):
        assert run(desk, tmp_path / "none", *arguments) == 1, arguments
        error = capsys.readouterr().err
        assert all(word in error for word in words), (arguments, error)
        assert not (tmp_path / "none").exists()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("aligned", [False, True])
def test_a_face_that_drifted_is_left_as_it_was(desk, tmp_path, capsys, aligned, shared):
    extra = ["--aligned"] if aligned else []
    source = shared / "faces" / "pd512" / "val" / f"{NAMES[0]}.jpg" if aligned else None
    if aligned:
        Image.open(source).save(tmp_path / "in.png")
        source = tmp_path / "in.png"
    assert run(desk, tmp_path, "--max-drift", 2, *extra, source=source) == 0
    assert (tmp_path / "out.png").read_bytes() != (source or desk.scene).read_bytes()
    report, faces = told(tmp_path)
    assert report["gate"] == {"recogniser": "embedded recogniser", "max_drift": 2.0}
    crops = aligned_face(desk.frame, 128)
    if aligned:
        picture = to_float(read_picture(source))[None]
        crops = [nn.functional.interpolate(picture, (128, 128), mode="bilinear", antialias=True)[0]]
    drifts = [face["drift"] for face in faces]
    for face, crop in zip(faces, crops, strict=True):
        inverted = keep_colours(crop, 1 - crop)
        assert face["drift"] == pytest.approx(1 - numpy_cosine(crop, inverted), abs=0.02 if aligned else 2e-3)
        assert face["action"] == "restored" and face["likeness"] is None
    # A limit between the faces takes back those above it, and a strict one every face.
    limit = sorted(drifts)[len(drifts) // 2] - 1e-3
    assert run(desk, tmp_path, "--max-drift", limit, "--overwrite", *extra, source=source) == 0
    faces = told(tmp_path)[1]
    assert [face["action"] == "kept" for face in faces] == [drift > limit for drift in drifts]
    for face in faces:
        said = re.search(r"moved its identity by ([\d.]+),", face["reason"])
        assert (said is not None) == (face["action"] == "kept")
        assert said is None or float(said[1]) == pytest.approx(face["drift"], abs=6e-4), "of three digits each"
    assert aligned or changed_thirds(desk, tmp_path) == [drift <= limit for drift in drifts]
    capsys.readouterr()
    assert run(desk, tmp_path, "--max-drift", 0, "--overwrite", "--compare", *extra, source=source) == 0
    assert (tmp_path / "out.png").read_bytes() == (source or desk.scene).read_bytes()
    assert f"{len(drifts)} of {len(drifts)} faces were left as they were" in capsys.readouterr().out


@pytest.mark.usefixtures("quick")
def test_an_aligned_face_is_compared_too(desk, tmp_path, shared):
    Image.open(shared / "faces" / "pd512" / "val" / f"{NAMES[0]}.jpg").save(tmp_path / "in.png")
    for n, action in ((0, "restored"), (1, "kept")):
        code = run(desk, tmp_path, "--only", desk.photos[n], "--aligned", "--overwrite", source=tmp_path / "in.png")
        assert code == 0 and [face["action"] for face in told(tmp_path)[1]] == [action]


# The library --------------------------------------------------------------------------------------------------------


class Table:
    """A recogniser that reads the number of a face from its colour."""

    size, layout = 8, None

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = torch.from_numpy(vectors).float()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.vectors[(x.mean((1, 2, 3)) * 100).round().long()]


def unit(rng: np.random.Generator, count: int) -> np.ndarray:
    vectors = rng.standard_normal((count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**20), st.integers(1, 6), st.integers(0, 3), st.integers(0, 3), st.sampled_from([-1, 0, 0.5, 0.9])
)
def test_who_is_chosen_is_what_was_promised(seed, count, wanted, unwanted, least):
    """Against the rules, spelt out in numpy face by face."""
    if not wanted + unwanted:
        return
    rng = np.random.default_rng(seed)
    faces, only, others = (unit(rng, number).astype(np.float32) for number in (count, wanted, unwanted))
    pictures = torch.arange(count).view(-1, 1, 1, 1).expand(-1, 3, 16, 16) / 100
    people = People(Table(faces), "table", torch.from_numpy(only), torch.from_numpy(others), least)  # type: ignore[arg-type]
    found = people.find(pictures)
    for n, face in enumerate(faces):
        restored = not wanted
        for photo in only:
            restored |= all(photo @ face >= photo @ other for other in faces) and photo @ face >= least
        for photo in others:
            nearest = max(float(one @ face) for one in others)
            like_wanted = max((float(one @ face) for one in only), default=-2.0)
            if all(photo @ face >= photo @ other for other in faces) and least <= nearest >= like_wanted - 1e-4:
                restored = False
        assert restored == (not found[n].reason), (n, found)
        basis = only if wanted else others
        assert found[n].cosine == pytest.approx(float((basis @ face).max()), abs=1e-5)
    assert people.find(pictures[:0]) == []


def test_the_usual_likeness_is_that_of_the_card():
    figures = read_card("recogniser").metrics
    assert usual_min_likeness(embedded_recognizer()) == figures["least_moved_gfpgan"]
    assert figures["other"] < usual_min_likeness(embedded_recognizer()) < 1
    assert figures["auc_moved_gfpgan"] > 0.9


def test_unfit_people_are_refused():
    recogniser, one = embedded_recognizer(), torch.eye(128)[:1]
    for only, others, words in ((None, None, "nobody"), (one, one[:, :9], "shape")):
        with pytest.raises(SettingsError, match=words):
            People.of(recogniser, "r", only=only, others=others)
    with pytest.raises(SettingsError, match="one minus a cosine"):
        DriftLimit(recogniser, "r", -0.1)
    options = RestoreOptions(drift_limit=DriftLimit(recogniser, "r", 0.5))
    with pytest.raises(SettingsError, match="without looking at its faces"):
        restore_whole(torch.rand(3, 20, 20), restorer_of(), options=options)


def test_faces_that_are_left_take_no_place_among_the_largest():
    faces = [Face((0.0, 0.0, side, side), np.zeros((5, 2)), 1.0) for side in (10.0, 90.0, 50.0, 30.0)]
    chosen, reasons = select_faces(faces, max_faces=1, min_size=20, left={1: "somebody else"})
    assert chosen == [faces[2]] and reasons[1] == "somebody else" and set(reasons) == {0, 1, 3}


def test_a_chosen_face_is_restored_as_if_it_were_alone(desk):
    """Its seed is that of its place among all faces that were found, and the faces around it take no part."""
    seen = []

    def noisy(net: Any, faces: torch.Tensor, settings: Any, seeds: Any, *_: Any) -> torch.Tensor:
        seen.extend(seeds)
        return 1 - faces

    detector = load_detector()
    recogniser = embedded_recognizer()
    photo = photo_identities(recogniser, [to_float(read_picture(desk.photos[2]))], detector)
    people = People.of(recogniser, "r", only=photo)
    options = RestoreOptions(seed=5, people=people)
    chosen = restore_photo(desk.frame, restorer_of(noisy), detector, options=options)
    place = next(face.face_index for face in chosen.report.faces if face.action == "restored")
    assert seen == [face_seed(5, 0, place)] and len(chosen.crops) == 1
    alone = restore_photo(desk.frame, restorer_of(noisy), faces=[chosen.crops[0].face], options=RestoreOptions(seed=5))
    assert torch.equal(chosen.image, alone.image)
    # Too small to be compared: no likeness, and the reason is its size.
    report = restore_photo(
        desk.frame, restorer_of(), detector, options=RestoreOptions(people=people, min_size=5000)
    ).report
    assert all(face.likeness is None and "below the minimum" in face.reason for face in report.faces)
    assert not report.notes


def test_half_the_strength_is_half_the_drift_that_is_judged(desk):
    gate = DriftLimit(embedded_recognizer(), "r", 2)
    drifts = []
    for strength in (0.0, 0.3, 1.0):
        options = RestoreOptions(strength=strength, drift_limit=gate, max_faces=1)
        report = restore_photo(desk.frame, restorer_of(), load_detector(), options=options).report
        drifts.append(next(face.drift for face in report.faces if face.drift is not None))
    assert drifts[0] == 0 and drifts[0] < drifts[1] < drifts[2]


# The nodes ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def graph(desk, tmp_path_factory: pytest.TempPathFactory):
    with FakeHost(tmp_path_factory.mktemp("host")) as host:
        pack = host.load(PROJECT)
        listed = asyncio.run(asyncio.run(pack.root.comfy_entrypoint()).get_node_list())
        nodes = {node.define_schema().node_id.removeprefix("BFR_"): node for node in listed}
        scene = desk.frame.movedim(0, -1)[None]
        # The second image shows nobody, the third the same people mirrored.
        images = torch.cat([scene, scene * 0 + 0.4, scene.flip(2)])
        faces = execute(nodes["DetectFaces"], image=images)[0]
        aligned, crops = execute(nodes["AlignFaces"], image=images, size=128, faces=faces)
        photos = [to_float(read_picture(path)).movedim(0, -1)[None] for path in desk.photos]
        yield SimpleNamespace(
            host=host, pack=pack, nodes=nodes, images=images, faces=faces, aligned=aligned, crops=crops, photos=photos
        )


def thirds(before: torch.Tensor, after: torch.Tensor) -> list[list[bool]]:
    changed = (before != after).any(-1)
    return [[bool(part.any()) for part in one.split(STRIDE, 1)] for one in changed]


def test_select_person_and_put_back(graph):
    person = graph.photos[1]
    aligned, crops, report = execute(graph.nodes["SelectPerson"], crops=graph.crops, person=person)
    report = json.loads(report)
    assert len(graph.crops.crops) == 6 and crops.crops[0].frame_index == 0
    out, _ = execute(graph.nodes["CompositeFaces"], image=graph.images, faces=1 - aligned, crops=crops)
    assert thirds(graph.images, out)[:2] == [[False, True, False], [False] * 3]
    assert thirds(graph.images, out)[2] in ([False, True, False], [False] * 3)  # mirrored, he may be missed
    assert [len(faces) for faces in report["images"]] == [3, 0, 3]
    assert sum(not face["reason"] for face in report["images"][0]) == 1
    (photo,) = aligned_face(person[0].movedim(-1, 0), 512)
    first = [face["likeness"] for face in report["images"][0]]
    wanted = [numpy_cosine(crop.image, photo) for crop in graph.crops.crops[:3]]
    np.testing.assert_allclose(first, wanted, atol=2e-3)


def test_select_everybody_else(graph):
    aligned, crops, _ = execute(
        graph.nodes["SelectPerson"], crops=graph.crops, person=graph.photos[1], keep="everybody else"
    )
    out, _ = execute(graph.nodes["CompositeFaces"], image=graph.images, faces=1 - aligned, crops=crops)
    assert thirds(graph.images, out)[0] == [True, False, True]


def test_select_nobody(graph):
    node = graph.nodes["SelectPerson"]
    aligned, crops, report = execute(node, crops=graph.crops, person=graph.photos[3], least_likeness=0.99)
    assert aligned.shape == (1, 128, 128, 3) and not aligned.any() and not crops.crops and "0.99 needed" in report
    out, mask = execute(graph.nodes["CompositeFaces"], image=graph.images, faces=1 - aligned, crops=crops)
    assert torch.equal(out, graph.images) and not mask.any()
    errors = graph.pack.module("bfr_core.errors")
    with pytest.raises(errors.InputMediaError, match="no face was found in photo 1"):
        execute(node, crops=graph.crops, person=graph.images[1:2])
    empty = type(crops)((), 2, (320, 960))
    aligned, crops, report = execute(node, crops=empty, person=graph.photos[0])
    assert aligned.shape == (1, 512, 512, 3) and crops.frames == 2 and json.loads(report)["images"] == [[], []]


def test_restore_faces_of_one_person(graph, monkeypatch):
    method = graph.pack.module("bfr_core.registry").Method(
        "tiny", "Tiny", "", (), (graph.pack.module("bfr_core.registry").Config("tiny", "Tiny", 128),),
        lambda config: nn.Identity(), invert, lambda keys: None,
    )  # fmt: skip
    restorer = graph.pack.module("bfr_core.restorer").Restorer(method, method.configs[0], nn.Identity(), "test")
    loaded = graph.pack.module("nodes.models").LoadedRestorer(
        restorer, graph.pack.module("nodes.host").Managed(restorer.net)
    )
    node, images = graph.nodes["RestoreFaces"], graph.images[:2]
    for found in ({}, {"faces": graph.faces[:2]}):
        graph.host.progress.clear()
        out, _, boxes, report = execute(
            node, image=images, method="any", restorer=loaded, person=graph.photos[0], **found
        )
        assert thirds(images, out) == [[True, False, False], [False] * 3]
        assert len(boxes[0]) == 3 and "to the person asked for" in report
        assert graph.host.progress[-1] == (3, 3), "the bar reaches its end though two faces were left"


def test_the_gate_gives_back_who_became_somebody_else(graph):
    node, before = graph.nodes["IdentityDriftGate"], graph.aligned[:3]
    after = before.clone() * 0.98
    after[1] = before[2]
    faces, report = execute(node, before=before, after=after, max_drift=0.25)
    assert torch.equal(faces, torch.stack([after[0], before[1], after[2]]))
    told = json.loads(report)["faces"]
    for face, was, now in zip(told, before, after, strict=True):
        expected = 1 - numpy_cosine(was.movedim(-1, 0), now.movedim(-1, 0))
        assert face["drift"] == pytest.approx(expected, abs=2e-3)
        assert bool(face["reason"]) == (face["drift"] > 0.25)
    faces, _ = execute(node, before=before, after=after, max_drift=2.0)
    assert torch.equal(faces, after)


def test_the_gate_refuses_faces_that_do_not_belong_together(graph):
    node, errors = graph.nodes["IdentityDriftGate"], graph.pack.module("bfr_core.errors")
    for after in (graph.aligned[:2], graph.aligned[:3, :64, :64]):
        with pytest.raises(errors.InputMediaError, match="expected as many, of the same size") as caught:
            execute(node, before=graph.aligned[:3], after=after)
        assert caught.value.kept and caught.value.todo
