"""The faster ways of a convolution give the sums they stand for, against SciPy and the second evaluation in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import vspbfr_oracle as oracle
from torch.nn import functional as F

from bfr_core.methods.vspbfr.restoration_net import Smart
from bfr_core.networks import _winograd, stylegan2
from bfr_core.networks._cached import Cached
from bfr_core.networks._winograd import convolve, pays

RNG = np.random.default_rng(5)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32).astype(np.float64)


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).float()


def error(found: torch.Tensor, wanted: np.ndarray) -> float:
    assert tuple(found.shape) == wanted.shape
    return float(np.abs(found.double().numpy() - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize(("dilation", "side"), [(1, 32), (2, 32), (4, 32), (8, 32), (1, 36)])
def test_winograds_convolution(dilation, side, monkeypatch):
    monkeypatch.setattr(_winograd, "pays", lambda x, weight, dilation: True)
    x, weight, bias = normal(2, 6, side, side), normal(5, 6, 3, 3), normal(5)
    wanted = 0.7 * oracle.conv(x, weight, padding=dilation, dilation=dilation) + bias.reshape(1, -1, 1, 1)
    how = {"dilation": dilation, "gain": 0.7}
    found = convolve(tensor(x), tensor(weight), Cached(), bias=tensor(bias), **how)
    assert error(found, wanted) < 1e-5
    kept = torch.from_numpy(weight)[None]
    exact = convolve(torch.from_numpy(x), kept, Cached(), bias=torch.from_numpy(bias), **how)
    assert error(exact, wanted) < 1e-12


def test_winograds_convolution_in_strips(monkeypatch):
    """Strips of one row of tiles give what one strip gives, whatever the maps' shape."""
    monkeypatch.setattr(_winograd, "pays", lambda x, weight, dilation: True)
    x, weight = tensor(normal(1, 8, 64, 32)), tensor(normal(4, 8, 3, 3))
    found = []
    for size in (1, 1 << 40):
        monkeypatch.setattr(_winograd, "_STRIP", size)
        found.append(convolve(x, weight, Cached(), dilation=2))
    torch.testing.assert_close(*found)
    torch.testing.assert_close(found[0], F.conv2d(x, weight, padding=2, dilation=2), rtol=1e-4, atol=1e-4)


def test_wide_layers_take_winograds_way_and_follow_their_weight():
    """At the width from which it pays: close to the direct sum, and no stale weight after a change in place."""
    layer = stylegan2.EqualConv2d(256, 256, 3)
    x = torch.randn(1, 256, 32, 32, generator=torch.Generator().manual_seed(0))
    assert pays(x, layer.weight)
    for _ in range(2):
        direct = F.conv2d(x.double(), layer.weight.double() * layer.scale, padding=1)
        assert error(layer(x), direct.numpy()) < 3e-5
        layer.weight.mul_(-0.5)


@pytest.mark.parametrize(
    ("why", "change"),
    [
        ("narrow", lambda x, w: (x[:, :128], w[:, :128])),
        ("1x1", lambda x, w: (x, w[..., :1, :1])),
        ("double", lambda x, w: (x.double(), w.double())),
        ("no whole tiles", lambda x, w: (x[..., :33], w)),
        ("small", lambda x, w: (x[..., :16, :16], w)),
    ],
)
def test_other_layers_do_not(why, change):
    x, weight = change(torch.zeros(1, 256, 64, 64), torch.zeros(256, 256, 3, 3))
    assert not pays(x, weight), why


def test_training_and_autocast_take_the_direct_way():
    x, weight = torch.zeros(1, 256, 32, 32), torch.zeros(256, 256, 3, 3)
    with torch.enable_grad():
        assert not pays(x, weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert not pays(x, weight)


@pytest.mark.parametrize("side", [32, 40])
def test_doubled_phase_by_phase(side):
    x, weight = normal(2, 3, side, side), normal(4, 3, 3, 3)
    wanted = np.asarray(oracle.conv_transpose(x, weight))
    assert error(stylegan2.doubled(tensor(x), tensor(weight)), wanted) < 1e-5


@pytest.mark.parametrize("mode", ["", "up", "down"])
@pytest.mark.parametrize("batch", [1, 2])
def test_modulating_the_weight_or_the_maps(mode, batch):
    """A single large picture modulates the weight, several modulate the maps."""
    layer = stylegan2.StyledConv(5, 6, 4, resample=mode)
    for parameter in layer.parameters():
        parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    x, prompt, side = normal(batch, 5, 32, 32), normal(batch, 4), {"": 32, "up": 64, "down": 16}[mode]
    noise = normal(batch, 1, side, side)
    p = {key: value.double().numpy() for key, value in layer.state_dict().items()}
    wanted = oracle.styled_conv(p, x, prompt, noise, mode or "plain")
    assert stylegan2.in_weight(tensor(x), layer.conv.weight) == (batch == 1)
    assert error(layer(tensor(x), tensor(prompt), lambda name, at: tensor(noise), "layer"), wanted) < 1e-5


@pytest.mark.parametrize("batch", [1, 2])
def test_modulating_the_weights_of_a_smart_layer(batch):
    layer = Smart(8, 8, 4)
    for parameter in layer.parameters():
        parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    x, prompt, noise = normal(batch, 8, 32, 32), normal(batch, 4), normal(batch, 1, 32, 32)
    p = {key: value.double().numpy() for key, value in layer.state_dict().items()}
    found = layer(tensor(x), tensor(prompt), lambda name, at: tensor(noise), "layer")
    assert error(found, oracle.smart(p, x, prompt, noise)) < 1e-5
