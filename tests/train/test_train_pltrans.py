"""The training stages of PLTrans, one after another, through the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from marks import opens_pickles
from tiny_pltrans import declare
from train_command import exported, few_faces, train

from bfr_core.models.checkpoints.files import load_state
from bfr_core.restorer import load_restorer
from bfr_core.runtime import Runtime
from train import losses

pytestmark = opens_pickles

REGULARISER = {"features": 1.0, "kl": 1e-6, "diffusion": 1.0}
FACE = {"l1": 1.0, "colour": 1.0, "perceptual": 0.3, **REGULARISER}
JUDGED = {**FACE, "adversarial": 0.05, "critic": 1.0, "r1": 1.0}
CODES = [{"l1": 1.0}, {"l1": 1.0, "codebook": 1.0}]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    declare(monkeypatch)


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    return few_faces(tmp_path_factory.mktemp("faces"))


def restored(weights: Path, config: str = "tiny") -> torch.Tensor:
    restorer = load_restorer("pltrans", config, weights=weights)
    face = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    made = restorer.restore(face, seeds=[1], runtime=Runtime())
    assert made.shape == face.shape and made.std() > 0
    return made


def test_the_stages_make_a_restorer(faces, tmp_path):
    state = train("pltrans.dictionary", faces, tmp_path / "dictionary", weights=CODES, codebook_images=2, ema=0)
    assert state["networks"]["net"]["vq.quantize.embedding.weight"].abs().max() > 1 / 64
    dictionary = exported(tmp_path / "dictionary")

    run = tmp_path / "restorer"
    small = {"critic_channels": 8, "r1_every": 1, "ema": 0}
    state = train("pltrans.restorer", faces, run, files=("--dictionary", dictionary), weights=[FACE, JUDGED], **small)
    assert state["position"]["skipped"] == 0 and set(state["networks"]) == {"net", "regulariser", "discriminator"}
    net, regulariser = state["networks"]["net"], state["networks"]["regulariser"]
    before = load_state(dictionary)
    entries = "vq.quantize.embedding.weight"
    assert torch.equal(net[entries], before[entries].float())  # learnt beforehand
    assert not torch.equal(net["vq.encoder.conv_in.weight"], before["vq.encoder.conv_in.weight"].float())
    assert regulariser["regulariser.std"].min() > 0 and not (regulariser["regulariser.mean"] == 0).all()
    whole = exported(run)
    keys = set(load_state(whole))
    assert {"prior.r", "regulariser.mean", entries} <= keys and not any(key.startswith("irn.") for key in keys)
    once = restored(whole)

    # The regulariser goes on by itself, and takes its place beside the rest in a folder.
    state = train(
        "pltrans.regulariser", faces, tmp_path / "regulariser", weights=[REGULARISER], ema=0,
        files=("--restorer", whole),
    )  # fmt: skip
    assert all(key.startswith("regulariser.") for key in load_state(exported(tmp_path / "regulariser")))
    # And all of it from where it was.
    state = train(
        "pltrans.restorer", faces, tmp_path / "next", weights=[FACE], lr=(1e-9, 1e-9), ema=0,
        files=("--dictionary", dictionary, "--init", whole),
    )  # fmt: skip
    for key, tensor in load_state(whole).items():
        if key.startswith(("vq.", "prior.", "attention.")):
            torch.testing.assert_close(state["networks"]["net"][key], tensor.float(), rtol=0, atol=1e-5)
    assert once.isfinite().all()


def test_the_printed_losses_run(faces, tmp_path):
    """Eq. 10 to 12 with the weights of config `paper`, in a network of its form."""
    common = {"config": "paper", "network": "tiny_paper", "precision": "no", "degradation": "gfpgan", "ema": 0}
    picture = {"l1": 1.0, "perceptual": 1.0, "codebook": 1.0, "adversarial": 0.8, "critic": 1.0}
    run = tmp_path / "dictionary"
    train("pltrans.dictionary", faces, run, weights=[{"l1": 1.0}, picture], critic_channels=8, **common)
    terms = {"l1": 1.0, "perceptual": 1.0, "adversarial": 1.0, "critic": 1.0, **REGULARISER, "kl": 5e-5}
    state = train(
        "pltrans.restorer", faces, tmp_path / "restorer", weights=[terms], critic_channels=8, lr=(5e-5, 5e-5),
        files=("--dictionary", exported(run)), **common,
    )  # fmt: skip
    assert state["position"]["skipped"] == 0
    restored(exported(tmp_path / "restorer"), "tiny_paper")


def test_the_divergence_is_that_of_normal_distributions():
    """Eq. 2 by SciPy's entropy and a sum, in float64."""
    rng = np.random.default_rng(0)
    mean, logvar = rng.normal(size=(2, 3, 4, 4)), rng.normal(size=(2, 3, 4, 4))
    entropy = 0.5 * (np.log(2 * np.pi * np.e) + logvar)
    cross = 0.5 * (np.log(2 * np.pi) + mean**2 + np.exp(logvar))
    made = losses.kl(torch.from_numpy(mean), torch.from_numpy(logvar)).item()
    assert made == pytest.approx((cross - entropy).sum() / 2, rel=1e-12)


@pytest.mark.release
def test_each_stage_learns(faces, tmp_path, capsys):
    """400 images each of the real thing, in test size: every loss falls from one phase to the next alike."""
    runs = {"dictionary": tmp_path / "dictionary", "restorer": tmp_path / "restorer", "alone": tmp_path / "alone"}
    train("pltrans.dictionary", faces, runs["dictionary"], weights=CODES, images=200, codebook_images=4)
    given = ("--dictionary", exported(runs["dictionary"]))
    train("pltrans.restorer", faces, runs["restorer"], files=given, weights=[FACE] * 2, images=200)
    given = ("--restorer", exported(runs["restorer"]))
    train("pltrans.regulariser", faces, runs["alone"], files=given, weights=[REGULARISER] * 2, images=200)
    terms = {"dictionary": ("l1",), "restorer": ("l1", "features", "diffusion"), "alone": ("features", "diffusion")}
    for name, run in runs.items():
        rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        for term in terms[name]:
            seen = [row[term] for row in rows if term in row]
            with capsys.disabled():
                print(f"{name}: {term} {seen[0]:.3f} -> {seen[-1]:.3f}")
            assert len(seen) > 1 and seen[-1] < 0.95 * seen[0], (name, term)
