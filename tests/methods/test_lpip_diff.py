"""LPIP-Diff: Algorithm 2 against NumPy in float64, patches without seams, and pictures of any size."""

from __future__ import annotations

import copy
import json
import sys

import numpy as np
import pytest
import tiny_diffusion
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from bfr_core.cli import main
from bfr_core.errors import InputMediaError, RestoreError, SettingsError
from bfr_core.methods.lpip_diff import METHOD
from bfr_core.methods.lpip_diff.model import LPIPDiff
from bfr_core.methods.lpip_diff.picture import mirrored, restore_picture, tiled
from bfr_core.methods.lpip_diff.restore import PATCH_BATCH, patch_size, quarter, sample
from bfr_core.models.checkpoints.unfilled import unfilled
from bfr_core.networks.restore_unet import RestoreUNet
from bfr_core.registry import Context
from bfr_core.runtime import Runtime
from bfr_core.seeding import Draws

SIDE = 64
# The forward process of the paper (betas from 1e-4 to 0.02, T = 1000), by hand.
ABAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


class Neighbours(nn.Module):
    """A U-Net that sees a patch's borders: what it says of a pixel depends on where the patch ends."""

    multiple = 8

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, x, t):
        self.sizes.append(len(x))
        return by_hand(x[:, :3].numpy(), x[:, 3:6].numpy(), t.double().numpy())


class Pointwise(nn.Module):
    """A U-Net for which patches make no difference."""

    multiple = 8

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, x, t):
        self.sizes.append(len(x))
        return torch.tanh(0.3 * x[:, :3] - 0.2 * x[:, 3:6]) * (t / 1000).view(-1, 1, 1, 1).to(x)


def by_hand(y, condition, t):
    """Return what Neighbours says: each pixel less the patch's mean and its wrapped neighbour."""
    made = 0.5 * y - 0.1 * np.roll(condition, 1, 3) + 0.3 * y.mean((2, 3), keepdims=True)
    return torch.from_numpy(made * (t.reshape(-1, 1, 1, 1) / 1000))


def small(restorer):
    torch.manual_seed(1)
    if restorer.net.irn is not None:
        restorer.net.irn = RestoreUNet(widths=(8, 16), blocks=(1, 1)).eval().requires_grad_(False)
        nn.init.normal_(restorer.net.irn.head[0].weight, std=0.1)
    return restorer


@pytest.fixture(scope="module")
def restorer():
    return small(tiny_diffusion.tiny_restorer("lpip_diff"))


@pytest.fixture(scope="module")
def printed():
    return small(tiny_diffusion.tiny_restorer("lpip_diff", printed=True))


@pytest.fixture
def pointwise(restorer):
    """Return a restorer whose U-Net and identity recovery network look at one pixel at a time."""
    restorer = copy.copy(restorer)
    restorer.net = copy.deepcopy(restorer.net)
    restorer.net.unet, restorer.net.irn = Pointwise(), Squared()
    return restorer


class Squared(nn.Module):
    def forward(self, x):
        return x**2


@pytest.fixture(scope="module")
def faces():
    return torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def run(restorer, faces, seeds=(5, 6, 7), runtime=None, **chosen):
    chosen = {"steps": 2, "patch": 32, **chosen}
    return restorer.restore(faces, seeds=list(seeds), settings=chosen, runtime=runtime or Runtime(batch=2))


def net_of(unet, predicts="noise", condition="degraded"):
    net = LPIPDiff(unet=tiny_diffusion.PRINTED["lpip_diff"]["unet"], condition=condition, predicts=predicts)
    net.unet = unet
    return net


class Doubles:
    """Draws in float64."""

    def __init__(self, rows):
        self.rows = rows

    def normal(self, name, *shape):
        generator = torch.Generator().manual_seed(sum(name.encode()))
        return torch.randn(self.rows, *shape, generator=generator, dtype=torch.float64)


# Algorithm 2.


@pytest.mark.parametrize("predicts", ["noise", "residual"])
@pytest.mark.parametrize("size", [(32, 32), (24, 43), (17, 16)])
def test_algorithm2_against_numpy(predicts, size):
    unet = Neighbours()
    net = net_of(unet, predicts)
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(2, 3, *size, generator=generator, dtype=torch.float64) * 2 - 1
    chosen = METHOD.settings({"steps": 3, "sampler": "ddim", "start": 1000})
    draws, patch = Doubles(2), 16
    with torch.no_grad():
        made = sample(net, x, x, chosen, draws, Context(), patch=patch)

    x_t, condition = draws.normal("x_T", 3, *size).numpy(), x.numpy()  # line 1
    starts = [sorted({*range(0, side - patch, patch // 2), side - patch}) for side in size]
    for t, later in ((999, 500), (500, 0), (0, None)):
        total, count = np.zeros(x_t.shape), np.zeros(x_t.shape)
        for top in starts[0]:
            for left in starts[1]:
                here = (..., slice(top, top + patch), slice(left, left + patch))
                y = x_t[here]  # lines 5 and 6
                values = by_hand(y, condition[here], np.full(2, float(t))).numpy()
                if predicts == "residual":  # the noise that is left beside EDM's estimate (Table 1) of the clean patch
                    ratio = np.sqrt((1 - ABAR[t]) / ABAR[t])
                    skip, out = 0.05**2 / (ratio**2 + 0.05**2), 0.05 * ratio / np.sqrt(ratio**2 + 0.05**2)
                    clean = condition[here] + skip * (y / np.sqrt(ABAR[t]) - condition[here]) + out * values
                    values = (y - np.sqrt(ABAR[t]) * clean) / np.sqrt(1 - ABAR[t])
                total[here] += values  # line 7
                count[here] += 1
        assert count.min() >= 1
        fused = total / count  # line 9
        clean = (x_t - np.sqrt(1 - ABAR[t]) * fused) / np.sqrt(ABAR[t])
        abar = 1.0 if later is None else ABAR[later]
        x_t = np.sqrt(abar) * clean + np.sqrt(1 - abar) * fused  # line 10
    np.testing.assert_allclose(made.numpy(), x_t, rtol=1e-7, atol=1e-7)


def test_the_median_is_of_the_noise(faces):
    """Four estimates of the middle, of which one is far off: their median is the mean of the middle two."""
    said = iter([10.0, 1.0, 2.0, 3.0])

    class Constant(nn.Module):
        multiple = 8

        def forward(self, x, t):
            return torch.stack([torch.full_like(patch[:3], next(said)) for patch in x])

    x, level = faces[:1, :, :24, :24] * 2 - 1, 0
    chosen = METHOD.settings({"steps": 1, "start": 1, "sampler": "ddim", "fusion": "median"})
    made = sample(net_of(Constant()), x, x, chosen, Draws([5]), Context(), patch=16)
    noise = Draws([5]).normal("x_T", 3, 24, 24)
    x_t = np.sqrt(ABAR[level]) * x + np.sqrt(1 - ABAR[level]) * noise
    expected = (x_t - np.sqrt(1 - ABAR[level]) * 2.5) / np.sqrt(ABAR[level])
    torch.testing.assert_close(made[..., 8:16, 8:16], expected[..., 8:16, 8:16].float())


def test_patches_are_a_quarter_and_overlap_by_half():
    for side, patch in ((64, 16), (128, 32), (256, 64), (512, 128)):  # Sec. III-A
        assert quarter(net_of(Neighbours()), side) == patch
    unet = Pointwise()
    x = torch.zeros(1, 3, 64, 64)
    sample(net_of(unet), x, x, METHOD.settings({"steps": 1}), Draws([1]), Context(), patch=16)
    assert sum(unet.sizes) == 49  # always a grid of 7 x 7


@pytest.mark.parametrize(("asked", "side", "todo"), [(20, 64, "patch 16"), (128, 64, "patch 64"), (4, 5, "at least 8")])
def test_patches_that_do_not_fit_are_refused(asked, side, todo):
    with pytest.raises(SettingsError, match=f"multiples of 8.*{side}.*No picture was changed.*{todo}"):
        patch_size(net_of(Neighbours()), asked, side)


def test_a_setting_of_patches_that_do_not_fit_reaches_the_user(restorer, faces):
    with pytest.raises(SettingsError, match="Cannot cut patches of 80 px"):
        run(restorer, faces, patch=80)


# Seams.


def test_patches_of_a_translation_invariant_network_leave_no_seams(pointwise, faces):
    net, x = pointwise.net, faces[:1] * 2 - 1
    chosen = METHOD.settings({"steps": 4})
    whole = sample(net, x, x, chosen, Draws([5]), Context(), patch=64)
    for patch in (8, 24, 32):
        torch.testing.assert_close(sample(net, x, x, chosen, Draws([5]), Context(), patch=patch), whole)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 90), st.integers(0, 90))
def test_mirroring_is_numpys_reflect_as_often_as_it_takes(height, width, down, right):
    x = torch.arange(height * width).view(1, 1, height, width)
    expected = np.pad(x[0, 0].numpy(), ((0, down), (0, right)), mode="reflect")
    np.testing.assert_array_equal(mirrored(x, height + down, width + right)[0, 0].numpy(), expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(4, 40))
def test_tiles_of_a_pointwise_network_are_the_whole(height, width, tile):
    x = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(height), dtype=torch.float64)
    sizes = []

    def call(part):
        sizes.append(tuple(part.shape[2:]))
        return part**2

    torch.testing.assert_close(tiled(call, x, tile), x**2)
    assert set(sizes) == {(min(tile, height), min(tile, width))}


def test_tiles_that_disagree_fade_into_each_other():
    x = torch.rand(1, 1, 40, 150, generator=torch.Generator().manual_seed(2))
    value = iter(range(100))
    made = tiled(lambda part: torch.full_like(part, float(next(value))), x, 40)[0, 0]
    steps = (made[:, 1:] - made[:, :-1]).abs()
    assert made.max() - made.min() > 3  # five tiles: 0, 1, 2, 3, 4
    assert steps.max() < 0.35  # a plain mean would step by a half


@pytest.mark.parametrize("size", [(64, 64), (65, 91), (200, 70), (5, 7), (1, 1), (30, 150)])
def test_a_picture_of_any_size_is_restored_as_one(pointwise, size):
    picture = torch.rand(3, *size, generator=torch.Generator().manual_seed(3))
    made = restore_picture(pointwise, picture, seed=9, settings={"steps": 3}, runtime=Runtime())
    assert made.shape == picture.shape and made.min() >= 0 and made.max() <= 1
    # The same in one patch: this network sees pixels one at a time, so its borders cannot matter.
    padded = [side if side > 64 else 64 for side in size]
    x = torch.from_numpy(
        np.pad(picture.numpy(), ((0, 0), (0, padded[0] - size[0]), (0, padded[1] - size[1])), mode="reflect")
    )[None] * 2 - 1  # fmt: skip
    x_irn = ((x + 1) / 2) ** 2 * 2 - 1
    y = sample_by_hand(pointwise.net, x, x_irn, Draws([9]))
    expected = ((y + 1) / 2).clamp(0, 1)[0, :, : size[0], : size[1]]
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)


def sample_by_hand(net, x, x_irn, draws):
    """DPM-Solver++ is `core`'s to prove; here the whole picture is one patch of its own size."""
    from bfr_core.diffusion.samplers import dpm_solver_pp

    levels = net.levels(3, 400, "dpm++")
    y = levels[0].alpha * x_irn + levels[0].sigma * draws.normal("x_T", *x.shape[1:])
    return dpm_solver_pp(lambda y, level: net.predict(y, torch.cat([x, x_irn], 1), level), y, levels)


def test_a_crop_of_the_restorers_size_is_restored_as_a_face(restorer, faces):
    as_face = run(restorer, faces[:1], (5,))[0]
    as_picture = restore_picture(restorer, faces[0], seed=5, settings={"steps": 2, "patch": 32}, runtime=Runtime())
    torch.testing.assert_close(as_picture, as_face)


# The start, the dial and the noise.


@pytest.mark.parametrize(
    ("start", "fidelity", "at"),
    [(1000, 0.5, 999), (400, 0.5, 399), (400, 0.0, 699), (400, 1.0, 99), (1000, 0.0, 999), (1000, 1.0, 249)],
)
def test_the_dial_turns_the_start(restorer, faces, monkeypatch, start, fidelity, at):
    inputs = []
    predict = restorer.net.predict
    monkeypatch.setattr(
        restorer.net, "predict", lambda y, c, level: inputs.append((y, c, level)) or predict(y, c, level)
    )
    run(restorer, faces[:1], (5,), start=start, fidelity=fidelity, patch=64, steps=1)
    y, condition, level = inputs[0]
    assert level.t == at
    x_irn = restorer.net.irn(faces[:1]).clamp(0, 1) * 2 - 1
    torch.testing.assert_close(condition, torch.cat([faces[:1] * 2 - 1, x_irn], 1))
    noise = Draws([5]).normal("x_T", 3, SIDE, SIDE)
    expected = noise if at == 999 else np.sqrt(ABAR[at]) * x_irn + np.sqrt(1 - ABAR[at]) * noise
    torch.testing.assert_close(y, expected.float())


@pytest.mark.parametrize(("fidelity", "eta"), [(0.0, 1.0), (0.25, 0.5), (0.5, 0.0), (0.8, 0.0)])
def test_the_dial_turns_ddims_noise(restorer, faces, monkeypatch, fidelity, eta):
    module = sys.modules[sample.__module__]
    etas, ddim = [], module.ddim
    monkeypatch.setattr(module, "ddim", lambda predict, x, levels, eta, *rest, **named: etas.append(eta) or ddim(
        predict, x, levels, eta, *rest, **named))  # fmt: skip
    run(restorer, faces[:1], (5,), sampler="ddim", fidelity=fidelity)
    assert etas == [pytest.approx(eta)]


@pytest.mark.parametrize(
    "chosen", [{}, {"sampler": "ddim"}, {"sampler": "ddim", "fidelity": 0.1}, {"fusion": "median", "overlap": 0.75}]
)
@pytest.mark.parametrize("which", ["restorer", "printed"])
def test_a_face_depends_on_its_seed_alone(request, which, faces, chosen):
    restorer = request.getfixturevalue(which)
    together = run(restorer, faces, (5, 6, 7), **chosen)
    alone = run(restorer, faces[[2, 0]], (7, 5), runtime=Runtime(batch=1), **chosen)
    torch.testing.assert_close(together[[2, 0]], alone, atol=2e-5, rtol=0)
    other = run(restorer, faces[:1], (8,), **chosen)
    assert (other - together[:1]).abs().mean() > 1e-3
    assert together.min() >= 0 and together.max() <= 1


def test_the_printed_model_has_no_recovery_network(printed, faces, monkeypatch):
    assert printed.net.irn is None
    inputs = []
    forward = printed.net.unet.forward
    monkeypatch.setattr(printed.net.unet, "forward", lambda x, t: inputs.append(x) or forward(x, t))
    run(printed, faces[:1], (5,), patch=64, steps=1, start=1000)
    torch.testing.assert_close(inputs[0][:, 3:], faces[:1] * 2 - 1)


# Memory, stops and faults.


def test_no_more_patches_at_once_than_the_patch_batch(pointwise, faces):
    run(pointwise, faces, patch=16, runtime=Runtime(batch=3))
    assert set(pointwise.net.unet.sizes) == {PATCH_BATCH, 3 * 49 % PATCH_BATCH}
    pointwise.net.unet.sizes.clear()
    restore_picture(pointwise, torch.rand(3, 150, 130), settings={"steps": 1, "patch": 16}, runtime=Runtime())
    assert max(pointwise.net.unet.sizes) == PATCH_BATCH


def test_fewer_patches_are_taken_where_memory_runs_out(restorer, faces, monkeypatch):
    expected, forward, sizes = run(restorer, faces[:1], (5,), patch=16), restorer.net.unet.forward, []

    def cramped(x, t):
        sizes.append(len(x))
        if len(x) > 5:
            raise torch.OutOfMemoryError
        return forward(x, t)

    monkeypatch.setattr(restorer.net.unet, "forward", cramped)
    runtime = Runtime()
    torch.testing.assert_close(run(restorer, faces[:1], (5,), patch=16, runtime=runtime), expected, atol=2e-5, rtol=0)
    assert sizes[:4] == [16, 8, 4, 4] and sizes.count(16) == 1  # and it stays at what fits
    assert runtime.notes == [
        "Memory ran out; 8 patches are taken at once",
        "Memory ran out; 4 patches are taken at once",
    ]
    monkeypatch.setattr(restorer.net.unet, "forward", _never)
    with pytest.raises(RestoreError, match="Out of memory"):
        restore_picture(restorer, faces[0], runtime=Runtime())


def _never(x, t):
    raise torch.OutOfMemoryError


def test_a_picture_can_be_stopped_within_a_step(restorer):
    class StoppedError(Exception):
        pass

    calls = []

    def stop():
        calls.append(1)
        if len(calls) > 4:
            raise StoppedError

    heard = []
    runtime = Runtime(check_cancel=stop, on_step=lambda index, total: heard.append((index, total)))
    with pytest.raises(StoppedError):
        restore_picture(restorer, torch.rand(3, 64, 100), settings={"steps": 2}, runtime=runtime)
    assert set(heard) == {(0, 2)}


def test_numbers_that_break_while_sampling_are_named_by_their_step(restorer, faces, monkeypatch):
    forward = restorer.net.unet.forward
    monkeypatch.setattr(restorer.net.unet, "forward", lambda x, t: forward(x, t) * (float("nan") if t[0] == 0 else 1))
    for attempt in (
        lambda: run(restorer, faces[:1], (5,)),
        lambda: restore_picture(restorer, faces[0, :, :40], settings={"steps": 2}, runtime=Runtime()),
    ):
        with pytest.raises(RestoreError, match=r"evaluation 2 of 2.*NaN or infinity.*No picture was changed.*verify"):
            attempt()


@pytest.mark.parametrize(
    ("picture", "found"),
    [
        (torch.rand(4, 8, 8), r"found shape \(4, 8, 8\)"),
        (torch.rand(3, 0, 8), r"found shape \(3, 0, 8\)"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "uint8"),
        (torch.full((3, 8, 8), 255.0), "found values from 255 to 255"),
        (torch.full((3, 8, 8), float("nan")), "found NaN"),
    ],
)
def test_a_picture_that_cannot_be_used_is_refused(restorer, picture, found):
    with pytest.raises(InputMediaError, match=f"{found}.*expected .3, height, width.*Nothing was changed"):
        restore_picture(restorer, picture, runtime=Runtime())


def test_whole_pictures_need_this_method():
    other = tiny_diffusion.tiny_restorer("diffuse_restore")
    with pytest.raises(SettingsError, match=r"Diffuse-and-Restore; expected LPIP-Diff.*Load the restorer lpip_diff"):
        restore_picture(other, torch.rand(3, 8, 8), runtime=Runtime())


@pytest.mark.parametrize("size", [(90, 133), (40, 20)])
def test_the_command_restores_a_whole_picture(tmp_path, monkeypatch, size):
    tiny_diffusion.declare(monkeypatch)
    made = small(tiny_diffusion.tiny_restorer("lpip_diff", printed=True))
    save_file({key: value.contiguous() for key, value in made.net.state_dict().items()}, tmp_path / "w.safetensors")
    photo = (torch.rand(*size, 3, generator=torch.Generator().manual_seed(1)) * 255).byte().numpy()
    Image.fromarray(photo).save(tmp_path / "photo.png")
    arguments = [
        "restore", str(tmp_path / "photo.png"), "-o", str(tmp_path / "out.png"), "--whole", "--device", "cpu",
        "--method", "lpip_diff", "--config", "tiny_printed", "--weights", str(tmp_path / "w.safetensors"),
        "--steps", "2", "--report", str(tmp_path / "report.json"), "--seed", "4",
    ]  # fmt: skip
    assert main(arguments) == 0
    out = np.asarray(Image.open(tmp_path / "out.png")).astype(int)
    assert out.shape == photo.shape and np.abs(out - photo).mean() > 1
    (entry,) = json.loads((tmp_path / "report.json").read_text())["files"]
    assert entry["status"] == "done" and entry["report"]["detector"] == "whole"


@pytest.mark.parametrize("config", ["compact", "paper"])
def test_configs_have_their_sizes_and_tell_themselves(config):
    net = unfilled(METHOD, METHOD.config(config))
    assert METHOD.recognise(net.state_dict().keys()) == config
    size = sum(weight.numel() for weight in net.unet.parameters()) / 1e6
    # WeatherDiffusion's network for patches of 128 px has 86 million; its blocks are not quite these.
    assert 75 < size < 95 if config == "paper" else size <= 12
    chosen = METHOD.settings({}, METHOD.config(config))
    assert quarter(net, 512) == 128
    assert (chosen.sampler, chosen.steps, chosen.start) == (
        ("ddim", 25, 1000) if config == "paper" else ("dpm++", 6, 120)
    )


def test_one_network_can_begin_from_the_other():
    from bfr_core.methods.diffuse_restore import METHOD as SIBLING

    ours, theirs = (unfilled(method, method.config("compact")).unet.state_dict() for method in (METHOD, SIBLING))
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}
