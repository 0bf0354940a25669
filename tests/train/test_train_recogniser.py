"""The stage that distils the embedded recogniser: its views, its teacher, its losses, what it ships."""

from __future__ import annotations

import dataclasses
import json

import cv2
import numpy as np
import pytest
import torch
from marks import opens_pickles
from torch.nn import functional as F

from bfr_core.backends.recognizers.arcface_resnet18 import LAYOUT
from bfr_core.errors import SettingsError
from bfr_core.faces.identity import RecognizerNet, load_recognizer
from bfr_core.networks.face_embedder import FaceEmbedder
from train.__main__ import main
from train.pictures import Pictures
from train.recognition import FaceViews, Student, Teacher
from train.stage import find_stage
from train.stages.recogniser import RecogniserStage, _missed, _pairs


@pytest.fixture(scope="module")
def portraits(tmp_path_factory):
    """A folder of the astronaut, and of her mirrored and darker, which are two more people to the views."""
    from skimage.data import astronaut

    folder = tmp_path_factory.mktemp("portraits")
    face = cv2.resize(astronaut()[20:220, 120:320], (192, 192), interpolation=cv2.INTER_AREA)
    for name, image in (("a", face), ("b", face[:, ::-1]), ("c", face // 2)):
        assert cv2.imwrite(str(folder / f"{name}.png"), image[..., ::-1])
    return folder


def views(portraits, **changes) -> FaceViews:
    given = {"seed": 3, "views": 4, "hard": 0.5, "mild": 0.3, **changes}
    return FaceViews(Pictures([portraits]), **given)


def test_a_clean_view_comes_again_with_another_degradation(portraits):
    made = views(portraits)
    (first, _), (again, _), (other, _) = made[1], made[1 + 4], made[2]
    assert first["number"] == again["number"] == 1
    assert np.array_equal(first["clean"], again["clean"]) and not np.array_equal(first["seen"], again["seen"])
    assert not np.array_equal(first["clean"], other["clean"])
    assert first["clean"].shape == (112, 112, 3) and first["seen"].shape == (96, 96, 3)
    # By its number alone: a worker that never made the others makes the same.
    fresh, _ = views(portraits)[5]
    assert all(np.array_equal(fresh[key], again[key]) for key in fresh)


def test_what_is_degraded_hard_is_further_from_the_clean_view(portraits):
    distance = {}
    for name, shares in {"none": (0, 0), "mild": (0, 1), "hard": (1, 0)}.items():
        made = views(portraits, hard=shares[0], mild=shares[1], views=24)
        blurred = [cv2.Laplacian(made[index][0]["seen"], cv2.CV_64F).var() for index in range(24)]
        distance[name] = np.median(blurred)
    assert distance["hard"] < 0.5 * distance["none"]
    assert distance["hard"] < distance["mild"]


@opens_pickles
def test_the_teacher_is_asked_once_about_each_view(shared):
    recogniser = load_recognizer(shared / "weights" / "mobilefacenet.pt")
    teacher = Teacher(recogniser)
    clean = torch.rand(3, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    vectors, eighth, sixteenth = teacher(torch.tensor([7, 8, 9]), clean, [12, 6])
    torch.testing.assert_close(vectors, recogniser(clean), atol=1e-3, rtol=0)
    assert eighth.shape == (3, 128, 12, 12)
    wanted = F.adaptive_avg_pool2d(recogniser.maps(clean)[-1], 6)
    torch.testing.assert_close(sixteenth, wanted, atol=2e-2, rtol=2e-3)
    # The pictures of known views are not looked at again.
    again, *_ = teacher(torch.tensor([9, 7]), torch.full((2, 3, 112, 112), torch.nan), [12, 6])
    torch.testing.assert_close(again, vectors[[2, 0]])


def test_another_network_cannot_teach():
    with torch.device("meta"):
        recogniser = RecognizerNet(LAYOUT.build(), LAYOUT)
    with pytest.raises(SettingsError, match=r"Cannot learn from ArcFace resnet18.*expected a MobileFaceNet"):
        Teacher(recogniser)


def test_the_losses_by_hand():
    vectors = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    target = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert _pairs(vectors, target).item() == pytest.approx(0.6**2)
    wanted = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    assert _missed(wanted, wanted).item() == 0
    constant = wanted.mean((0, 2, 3), keepdim=True).expand_as(wanted)
    assert _missed(constant, wanted).item() == pytest.approx(1, abs=1e-3)


def test_what_is_shipped_is_the_network_without_norms_and_readers():
    torch.manual_seed(0)
    student = Student()
    with torch.no_grad():
        student(torch.randn(4, 3, 96, 96))
    student.eval()
    net = FaceEmbedder()
    net.load_state_dict(dict(RecogniserStage.shipped(student.state_dict())))
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(F.normalize(net(x), dim=1), student(x)[0], atol=1e-4, rtol=1e-4)


@opens_pickles
def test_another_size_is_refused_before_anything_is_read(shared):
    config = RecogniserStage.configs["compact"]
    phases = tuple(dataclasses.replace(phase, size=112) for phase in config.phases)
    with pytest.raises(SettingsError, match="the network reads 96"):
        RecogniserStage(dataclasses.replace(config, phases=phases), {"recogniser": shared / "weights/mobilefacenet.pt"})


@opens_pickles
def test_it_trains_and_goes_on_by_the_same_command(portraits, shared, tmp_path):
    """A few views of three portraits, over and over: the loss falls."""
    assert find_stage("recogniser") is RecogniserStage
    command = [
        "recogniser",
        "--data",
        portraits,
        "--val",
        portraits,
        "--out",
        tmp_path / "run",
        "--workers",
        0,
        "--cpu",
    ]
    command += ["--recogniser", shared / "weights" / "mobilefacenet.pt", "--licence", "CC0"]
    for text in ("views=8", "phases.views.batch=8", "phases.last.batch=8", "phases.views.warmup=0"):
        command += ["--set", text]
    words = [str(word) for word in command]
    short = ["--set", "phases.views.images=48", "--set", "phases.last.images=16"]
    assert main([*words, *short]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [line["maps"] for line in lines if "maps" in line]
    assert len(losses) >= 2 and losses[-1] < losses[0]
    found = [line["validation"] for line in lines if "validation" in line]
    assert {"auc_moved", "tar_gfpgan", "agreement"} <= found[-1].keys()
    assert main([*words, *short]) == 0
    after = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert not any("maps" in json.loads(line) for line in after[len(lines) :])
