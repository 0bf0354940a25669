"""The training stages of the diffusion methods, one after another, through the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from marks import opens_pickles
from scipy.stats import norm
from tiny_diffusion import declare
from train_command import exported, few_faces, train

from bfr_core.models.checkpoints.files import load_state
from bfr_core.models.checkpoints.origin import read_origin
from bfr_core.restorer import load_restorer
from bfr_core.runtime import Runtime
from train import losses
from train.diffusion import patches

pytestmark = opens_pickles


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    declare(monkeypatch)


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    return few_faces(tmp_path_factory.mktemp("faces"))


def restored(method: str, folder: Path, config="tiny") -> torch.Tensor:
    restorer = load_restorer(method, config, weights=folder)
    face = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    made = restorer.restore(face, seeds=[1], settings={"steps": 2}, runtime=Runtime())
    assert made.shape == face.shape and made.std() > 0
    return made


def test_the_stages_of_clr_face_make_a_restorer(faces, tmp_path):
    folder = tmp_path / "whole"
    folder.mkdir()
    codes = [{"l1": 1.0}, {"l1": 1.0, "codebook": 1.0}]
    state = train("clr_face.vq", faces, folder / "vq", weights=codes, ema=0)
    net = state["networks"]["net"]
    # The second phase began by filling the codebook with latents.
    assert net["vq.quantize.embedding.weight"].abs().max() > 1 / 64 and net["vq.std"].min() > 0
    given = ("--vq", exported(folder / "vq"))
    diffusion = {"weights": [{"edm": 1.0}], "validate_settings": {"steps": 2, "guidance": False}}
    train("clr_face.diffusion", faces, folder / "diffusion", files=given, **diffusion)
    given = (*given, "--diffusion", exported(folder / "diffusion"))
    terms = {"perceptual": 1.0, "identity": 0.5, "sparsity": 0.1}
    train("clr_face.mask", faces, folder / "mask", files=given, weights=[terms], validate_settings={"steps": 2})
    exported(folder / "mask")
    restored("clr_face", folder)


def test_the_stages_of_diffuse_and_restore_make_a_restorer(faces, tmp_path):
    folder = tmp_path / "whole"
    folder.mkdir()
    settings = {"steps": 2, "guidance": False}
    train(
        "diffuse_restore.diffusion", faces, folder / "diffusion",
        weights=[{"residual": 1.0}], validate_settings=settings,
    )  # fmt: skip
    given = ("--diffusion", exported(folder / "diffusion"))
    terms = {"perceptual": 1.0, "identity": 0.5, "sparsity": 0.1}
    state = train(
        "diffuse_restore.mask", faces, folder / "mask", files=given, weights=[terms], validate_settings={"steps": 2}
    )
    assert all(key.startswith("mask.") for key in state["networks"]["net"])
    exported(folder / "mask")
    restored("diffuse_restore", folder)


def test_the_stage_of_lpip_diff_makes_a_restorer_and_starts_the_other(faces, tmp_path, capsys):
    run = tmp_path / "diffusion"
    common = {"weights": [{"residual": 1.0}], "validate_settings": {"steps": 2}}
    train("lpip_diff.diffusion", faces, run, split=2, **common)
    file = exported(run)
    restored("lpip_diff", file)
    common["validate_settings"]["guidance"] = False
    state = train(
        "diffuse_restore.diffusion", faces, tmp_path / "next", files=("--init", file), **common, lr=(1e-9, 1e-9)
    )
    for key, tensor in load_state(file).items():
        torch.testing.assert_close(state["networks"]["net"][key], tensor, rtol=0, atol=1e-5)
    assert read_origin(exported(tmp_path / "next")).method == "diffuse_restore"
    with pytest.raises(AssertionError):  # as it is, it is no denoiser of the other's
        train("diffuse_restore.mask", faces, tmp_path / "mask", files=("--diffusion", file), weights=[{"sparsity": 1}])
    said = capsys.readouterr().err
    assert "it holds weights of LPIP-Diff, Patch diffusion model" in said and "--init" in said


def test_the_published_losses_run(faces, tmp_path):
    """Every term of the configs `paper`, in networks of their form."""
    common = {"config": "paper", "network": "tiny_printed", "precision": "no", "ema": 100.0, "degradation": "gfpgan"}
    state = train(
        "diffuse_restore.diffusion", faces, tmp_path / "dr",
        weights=[{"noise": 1.0, "bound": 0.001}],
        validate_settings={"steps": 2, "guidance": False, "sampler": "ddpm"},
        **common,
    )  # fmt: skip
    assert state["position"]["skipped"] == 0
    quick = {"steps": 2}
    state = train(
        "lpip_diff.diffusion", faces, tmp_path / "lpip", weights=[{"noise": 1.0}], validate_settings=quick, **common
    )
    assert state["position"]["skipped"] == 0
    picture = {"l1": 1.0, "perceptual": 1.0, "codebook": 1.0, "adversarial": 0.75, "critic": 1.0}
    state = train("clr_face.vq", faces, tmp_path / "vq", weights=[picture], critic_channels=8, **common)
    assert state["position"]["skipped"] == 0 and "discriminator" in state["networks"]


def test_without_a_recovery_network_the_stage_says_so(faces, tmp_path, capsys):
    with pytest.raises(AssertionError):  # the command ends with an error
        train("diffuse_restore.diffusion", faces, tmp_path / "run", network="paper256", weights=[{"noise": 1.0}])
    said = capsys.readouterr().err
    assert "no identity recovery network" in said and "--irn" in said and "Nothing was started" in said


def test_patches_are_the_picture_cut_up():
    picture = torch.arange(2 * 1 * 6 * 6.0).view(2, 1, 6, 6)
    cut = patches(picture, 3)
    assert cut.shape == (18, 1, 2, 2)
    torch.testing.assert_close(cut[9 + 3 + 2], picture[1, :, 2:4, 4:6])


def test_the_variational_bound_is_the_divergence_in_bits():
    """Improved DDPM Eq. 4 to 7 and 15, by SciPy's normal distribution and the formula of KL, in float64."""
    rng = np.random.default_rng(0)
    shape = (2, 1, 3, 3)
    values, x0, noise, clean = (rng.normal(size=shape) for _ in range(4))
    values, x0, clean = np.tanh(values), np.clip(x0, -1, 1), np.tanh(clean)
    kept, before = np.array([0.7, 0.9995]), np.array([0.75, 1.0])
    a, b = kept.reshape(-1, 1, 1, 1), before.reshape(-1, 1, 1, 1)
    x_t = np.sqrt(a) * x0 + np.sqrt(1 - a) * noise
    given = [torch.from_numpy(array) for array in (values, x0, x_t, clean, a, b)]
    made = losses.variational_bound(*given).item()

    beta = 1 - a / b
    posterior = beta * (1 - b) / (1 - a)
    mean_of = lambda guess: (np.sqrt(b) * beta * guess + np.sqrt(1 - beta) * (1 - b) * x_t) / (1 - a)  # noqa: E731
    floor = np.where(b == 1, beta, posterior)
    variance = beta ** ((values + 1) / 2) * floor ** ((1 - values) / 2)
    mean, true = mean_of(clean), mean_of(x0)
    kl = np.log(np.sqrt(variance / floor)) + (floor + (true - mean) ** 2) / (2 * variance) - 0.5
    spread = np.sqrt(variance)
    upper = np.where(x0 > 0.999, 1.0, norm.cdf(x0 + 1 / 255, mean, spread))
    lower = np.where(x0 < -0.999, 0.0, norm.cdf(x0 - 1 / 255, mean, spread))
    nll = -np.log(np.maximum(upper - lower, 1e-12))
    assert made == pytest.approx(np.where(b == 1, nll, kl).mean() / np.log(2), rel=1e-9)


@pytest.mark.release
def test_each_stage_learns(faces, tmp_path, capsys):
    """400 images each of the real thing, in test size: every loss falls from one phase to the next alike."""
    folder = tmp_path / "whole"
    folder.mkdir()
    vq = train("clr_face.vq", faces, folder / "vq", weights=[{"l1": 1.0}, {"l1": 1.0, "codebook": 1.0}], images=200)
    given = ("--vq", exported(folder / "vq"))
    quick = {"steps": 2, "guidance": False}
    clr = train(
        "clr_face.diffusion", faces, folder / "diffusion", files=given, images=200,
        weights=[{"edm": 1.0}] * 2, validate_settings=quick,
    )  # fmt: skip
    pixels = train(
        "diffuse_restore.diffusion", faces, tmp_path / "dr", images=200,
        weights=[{"residual": 1.0}] * 2, validate_settings=quick,
    )  # fmt: skip
    tiles = train(
        "lpip_diff.diffusion", faces, tmp_path / "lpip", images=200, split=2,
        weights=[{"residual": 1.0}] * 2, validate_settings={"steps": 2},
    )  # fmt: skip
    runs = {"vq": folder / "vq", "clr": folder / "diffusion", "dr": tmp_path / "dr", "lpip": tmp_path / "lpip"}
    terms = {"vq": "l1", "clr": "edm", "dr": "residual", "lpip": "residual"}
    for name, run in runs.items():
        rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        seen = [row[terms[name]] for row in rows if terms[name] in row]
        with capsys.disabled():
            print(f"{name}: {terms[name]} {seen[0]:.3f} -> {seen[-1]:.3f}")
        assert len(seen) > 1 and seen[-1] < 0.95 * seen[0], name
    assert all(state["position"]["skipped"] == 0 for state in (vq, clr, pixels, tiles))
