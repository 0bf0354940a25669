"""VSPBFR's modules against `vspbfr_oracle`, the same equations in float64 NumPy, at small widths and fixed noise."""

from __future__ import annotations

import ast
import hashlib
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import torch
import vspbfr_oracle as oracle
from torch import nn

from bfr_core.methods.vspbfr import METHOD, diffuser, model, restoration_net, style_encoder
from bfr_core.methods.vspbfr.restore import random_styles
from bfr_core.networks import stylegan2
from bfr_core.registry import Context
from bfr_core.seeding import Draws

BOUNDS = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Greatest difference over greatest magnitude. Single precision: what the issue promises."""
BATCH = 3
WIDTHS = {4: 8, 8: 16, 16: 12, 32: 8}
STYLE = 6


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def generator(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


def normal(name: str, *shape: int) -> np.ndarray:
    """Standard normal numbers that single precision holds exactly, the same for the same name."""
    return generator(name).standard_normal(shape).astype(np.float32).astype(np.float64)


def filled(module: nn.Module) -> nn.Module:
    """The module with random weights that keep maps near 1, every bias, noise strength and statistic away from rest."""
    for key, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue
        values = normal(key, *tensor.shape)
        if key.endswith("running_var"):
            values = 0.5 + values**2
        elif key.endswith("modulation.bias"):
            values = 1 + 0.3 * values
        elif tensor.ndim < 2:
            values = 0.3 * values
        elif "style." in f".{key}" and "styles." not in key:
            values = 100 * values  # a learning rate of 0.01 divides them again
        elif key.endswith("weight") and not (tensor.ndim == 5 or is_equalised(module, key)):
            # Less for the diffuser's linear layers: sharp attention, four steps in a row, would amplify any rounding.
            values = values * np.sqrt((2 if tensor.ndim == 4 else 0.5) / values[0].size)
        tensor.copy_(torch.from_numpy(values))
    return module.eval()


def is_equalised(module: nn.Module, key: str) -> bool:
    owner = module.get_submodule(key.rpartition(".")[0])
    return isinstance(owner, stylegan2.EqualLinear | stylegan2.EqualConv2d)


def arrays(module: nn.Module) -> dict[str, np.ndarray]:
    return {key: value.double().numpy().copy() for key, value in module.state_dict().items()}


class Drawn:
    """Fixed noise for every layer, by its name and the side of its map; notes what was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def array(self, name: str, side: int) -> np.ndarray:
        return normal(f"{name} at {side}", BATCH, 1, side, side)

    def __call__(self, name: str, side: int) -> torch.Tensor:
        self.asked.append((name, side))
        return torch.from_numpy(self.array(name, side))


def difference(ours, theirs: np.ndarray) -> float:
    ours = ours.double().numpy() if isinstance(ours, torch.Tensor) else np.asarray(ours)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def flat(result) -> list:
    return [leaf for item in result for leaf in flat(item)] if isinstance(result, list | tuple) else [result]


def agrees(module: nn.Module, expected, run: Callable, *inputs: np.ndarray, bounds=BOUNDS) -> None:
    """`run(*inputs)` with the module and its inputs in double and in single precision, against `expected`."""
    for dtype, bound in bounds.items():
        module.to(dtype)
        found, wanted = flat(run(*(torch.from_numpy(array).to(dtype) for array in inputs))), flat(expected)
        assert len(found) == len(wanted)
        for place, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
            assert ours.dtype == dtype
            assert difference(ours, theirs) <= bound, (place, dtype)


# The oracle's own parts, against SciPy and OpenCV


def test_oracle_convolution_is_scipys():
    x, w = normal("x", 1, 2, 9, 11), normal("w", 3, 2, 3, 3)
    for rate in oracle.RATES[:3]:
        spread = oracle.insert_zeros(w, rate)[:, :, : 2 * rate + 1, : 2 * rate + 1]
        same = [sum(scipy.signal.correlate2d(x[0, i], spread[o, i], "same") for i in range(2)) for o in range(3)]
        assert difference(oracle.conv(x, w, padding=rate, dilation=rate)[0], np.stack(same)) < 1e-12
    full = oracle.insert_zeros(x, 2)[0, :, :-1, :-1]
    stamped = [sum(scipy.signal.convolve2d(full[i], w[o, i]) for i in range(2)) for o in range(3)]
    assert difference(oracle.conv_transpose(x, w[None])[0], np.stack(stamped)) < 1e-12


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (2, 3)])
def test_oracle_filter_is_scipys(up, down):
    x, taps = normal("x", 1, 1, 8, 10), np.array([1.0, 2.0, 4.0, 3.0])
    ours = oracle.upfirdn(x, taps, up=up, down=1, pad=(3, 3), gain=up**2)[0, 0]
    theirs = scipy.signal.upfirdn(taps / taps.sum() * up, x[0, 0], up, axis=0)
    theirs = scipy.signal.upfirdn(taps / taps.sum() * up, theirs, up, axis=1)
    assert difference(ours[: theirs.shape[0], : theirs.shape[1]], theirs) < 1e-12
    assert np.array_equal(oracle.upfirdn(x, taps, up=up, down=down, pad=(3, 3), gain=up**2)[0, 0], ours[::down, ::down])


def test_oracle_resampling_is_opencvs_and_scipys():
    x = normal("x", 1, 1, 16, 20)
    assert difference(oracle.bilinear(x, (7, 31))[0, 0], cv2.resize(x[0, 0], (31, 7))) < 1e-6
    zoomed = scipy.ndimage.zoom(x[0, 0], (2, 0.5), order=1)
    assert difference(oracle.bilinear(x, (32, 10), corners=True)[0, 0], zoomed) < 1e-12


def test_oracle_posterior_is_equation_3():
    """Eq. 3 is the posterior's mean with w^0 written in terms of the noise."""
    betas = oracle.betas_linear()
    clean, noise = normal("clean", 2, 5), normal("noise", 2, 5)
    for t in range(4):
        alpha, kept = 1 - betas[t], np.prod(1 - betas[: t + 1])
        noisy = oracle.noised(betas, clean, t, noise)
        of_clean, of_noisy, _ = oracle.posterior(betas, t)
        mean = (noisy - (1 - alpha) / np.sqrt(1 - kept) * noise) / np.sqrt(alpha)
        assert difference(of_clean * clean + of_noisy * noisy, mean) < 1e-12


# StyleGAN2


def test_resampling():
    x = normal("x", BATCH, 4, 6, 10)
    still = nn.Identity()
    agrees(still, oracle.upsample(x), stylegan2.upsample, x)
    for pad in ((1, 1), (2, 2), (2, 1)):
        agrees(still, oracle.upfirdn(x, pad=pad, gain=4.0), lambda t, pad=pad: stylegan2.fir(t, pad, 4.0), x)


@pytest.mark.parametrize("mode", ["", "up", "down"])
def test_styled_convolution(mode):
    layer = filled(stylegan2.StyledConv(6, 10, 5, resample=mode))
    x, prompt, noise = normal("x", BATCH, 6, 8, 8), normal("prompt", BATCH, 5), Drawn()
    side = {"up": 16, "down": 4}.get(mode, 8)
    expected = oracle.styled_conv(arrays(layer), x, prompt, noise.array("layer", side), mode or "plain")
    agrees(layer, expected, lambda x, w: layer(x, w, noise, "layer"), x, prompt)
    assert noise.asked == [("layer", side)] * 2
    silent = oracle.styled_conv(arrays(layer), x, prompt, 0.0, mode or "plain")
    agrees(layer, silent, lambda x, w: layer(x, w, stylegan2.silent, "layer"), x, prompt)


def test_to_rgb():
    layer = filled(stylegan2.ToRGB(6, 5))
    x, prompt, skip = normal("x", BATCH, 6, 8, 8), normal("prompt", BATCH, 5), normal("skip", BATCH, 3, 4, 4)
    agrees(layer, oracle.to_rgb(arrays(layer), x, prompt, skip), layer, x, prompt, skip)
    agrees(layer, oracle.to_rgb(arrays(layer), x, prompt), lambda x, w: layer(x, w, None), x, prompt)


def bank() -> stylegan2.Generator:
    return filled(stylegan2.Generator(32, STYLE, WIDTHS))


def bank_noise(noise: Drawn) -> list[np.ndarray]:
    return [noise.array(f"bank.{n}", 4 << (n + 1) // 2) for n in range(7)]


def test_mapping_network():
    net = bank().style
    assert len(net) == 9
    z = normal("z", BATCH, STYLE)
    agrees(net, oracle.mapping({f"style.{key}": value for key, value in arrays(net).items()}, z), net, z)


def test_facial_feature_bank():
    net, noise, codes = bank(), Drawn(), normal("codes", BATCH, 8, STYLE)
    picture, maps = oracle.generator(arrays(net), codes, bank_noise(noise))
    agrees(net, [*maps, picture], lambda w: net.features_and_picture(w, noise), codes)
    agrees(net, picture, lambda w: net(w, noise), codes)
    agrees(net, maps, lambda w: net.features(w, noise), codes)
    agrees(net, maps[:3], lambda w: net.features(w, noise, largest=16), codes)
    picture, maps = oracle.generator(arrays(net), codes, [0.0] * 7)
    agrees(net, [*maps, picture], net.features_and_picture, codes)


def test_the_bank_draws_each_noise_once():
    net, noise = bank(), Drawn()
    net(torch.zeros(BATCH, 8, STYLE), noise)
    assert noise.asked == [(f"bank.{n}", 4 << (n + 1) // 2) for n in range(7)]


@pytest.mark.parametrize("batch", [1, 2, 4, 8])
def test_discriminator(batch):
    net = filled(stylegan2.Discriminator(32, WIDTHS))
    x = normal("x", batch, 3, 32, 32)
    agrees(net, oracle.discriminator(arrays(net), x), net, x)


@pytest.mark.parametrize("patch", [1, 2])
def test_patches(patch):
    """A position of the largest map that reads or writes a square of pixels (config `compact`)."""
    x, prompt, skip = normal("x", BATCH, 6, 8, 8), normal("prompt", BATCH, 5), normal("skip", BATCH, 3, 4, 4)
    layer = filled(stylegan2.ToRGB(6, 5, patch=patch))
    agrees(layer, oracle.to_rgb(arrays(layer), x, prompt, skip, patch), layer, x, prompt, skip)
    net, picture = filled(stylegan2.Discriminator(32, WIDTHS, patch=patch)), normal("x", 4, 3, 32 * patch, 32 * patch)
    agrees(net, oracle.discriminator(arrays(net), oracle.to_channels(picture, patch)), net, picture)


# Style encoder

STAGES = ((16, 1), (16, 3), (32, 2), (48, 2))


def test_style_encoder():
    net = filled(style_encoder.StyleEncoder(tokens=9, style_dim=STYLE, input_size=64, stages=STAGES))
    for side in (64, 96, 50):
        x = normal("x", BATCH, 3, side, side)
        expected = oracle.style_encoder(arrays(net), oracle.bilinear(x, (64, 64)), [units for _, units in STAGES])
        agrees(net, expected, net, x)


def test_released_style_encoder_takes_its_pyramid_from_units_6_20_and_23():
    """The released depth, at channels that a test can afford."""
    stages = tuple((16 * n, units) for n, (_, units) in enumerate(style_encoder.STAGES, 1))
    assert [units for _, units in stages] == [3, 4, 14, 3]
    net = filled(style_encoder.StyleEncoder(tokens=8, style_dim=STYLE, input_size=32, stages=stages))
    x = normal("x", 1, 3, 32, 32)
    agrees(net, oracle.style_encoder(arrays(net), x), net, x)


# Code diffuser

LAYOUTS = {"official": (diffuser.RELEASED_TACC, oracle.tacc), "paper": (diffuser.PAPER_TACC, oracle.tacc_paper)}
DIM = 12


def blocks(layout: diffuser.TaccLayout) -> nn.ModuleList:
    return filled(nn.ModuleList(diffuser.TACC(DIM, layout) for _ in range(4)))  # type: ignore[return-value]


def named(net: nn.ModuleList) -> dict[str, np.ndarray]:
    return {f"att_mapper.{key}": value for key, value in arrays(net).items()}


@pytest.mark.parametrize("config", LAYOUTS)
def test_tacc_block(config):
    """18 tokens, as the released constant under the root of the token scores demands."""
    layout, block = LAYOUTS[config]
    net, x, initial = blocks(layout)[0], normal("x", BATCH, 18, DIM), normal("initial", BATCH, 18, DIM)
    for step in range(4):
        condition = oracle.with_time(initial, step / 4)
        agrees(net, block(arrays(net), x, condition), lambda x, c: net(x, net.condition(c)), x, condition)


@pytest.mark.parametrize("config", ["official", "paper"])
def test_diffusion_chain(config):
    """w^T ... w^0: released, w^0 predicted and no noise; printed, Eq. 3 with its noise."""
    layout, block = LAYOUTS[config]
    process = METHOD.config(config).options.get("diffusion", diffuser.Diffusion())
    net, start, initial = blocks(layout), normal("start", BATCH, 18, DIM), normal("initial", BATCH, 18, DIM)
    noise = {t: normal(f"noise {t}", BATCH, 18, DIM) for t in (4, 3, 2)}

    def predict(codes, t):
        return oracle.code_diffuser(named(net), codes, initial, t / 4, block)

    if config == "official":
        expected = oracle.chain_of_means(predict, oracle.betas_sqrt_linear(), start)
    else:
        expected = oracle.ancestral_chain(predict, oracle.betas_linear(), start, [*noise.values(), 0.0])
    asked = []

    def drawn(t):
        asked.append(t)
        return torch.from_numpy(noise[t]).to(next(net.parameters()))

    # In single precision only step by step, below: the released layout ends its channel attention, which is nearly the
    # same for all channels, in a LayerNorm, and four steps of that amplify rounding a thousandfold. So does its code.
    bounds = BOUNDS if config == "paper" else {torch.float64: BOUNDS[torch.float64]}
    agrees(net, expected, lambda e, w: diffuser.diffuse(net, e, w, process, drawn), initial, start, bounds=bounds)
    assert asked == ([] if config == "official" else [4, 3, 2] * 2)
    for step, t in enumerate((4, 3, 2, 1)):  # each step by itself, from the oracle's w^t
        wanted = expected[step + 1] - (process.deviation(t) * noise[t] if t in asked else 0.0)

        def run(e, w, t=t):
            prepared = [block.condition(diffuser.conditions(e, process)) for block in net]
            return process.mean(w, diffuser.predict(net, prepared, w, t - 1), t)

        agrees(net, wanted, run, initial, expected[step])


@pytest.mark.parametrize(
    ("schedule", "oracles", "betas", "kept"),
    [
        ("sqrt_linear", oracle.betas_sqrt_linear, [0.1, 0.2943, 0.5910, 0.99], [0.9, 0.6351, 0.2598, 0.0026]),
        ("linear", oracle.betas_linear, [0.1, 0.397, 0.693, 0.99], [0.9, 0.543, 0.167, 0.0017]),
    ],
)
def test_schedules(schedule, oracles, betas, kept):
    """Against the oracle, and the figures of the released buffers and of the text."""
    process = diffuser.Diffusion(schedule=schedule)
    assert process.betas == pytest.approx(oracles(), rel=1e-14)
    assert process.betas == pytest.approx(betas, abs=6e-4)
    assert process.alpha_bars == pytest.approx([1.0, *kept], abs=6e-4)
    clean, noise = normal("clean", 2, 5), normal("noise", 2, 5)
    for t in range(1, 5):
        expected = oracle.noised(oracles(), clean, t - 1, noise)
        agrees(nn.Identity(), expected, lambda c, n, t=t: process.noised(c, n, t), clean, noise)


@pytest.mark.parametrize("schedule", ["sqrt_linear", "linear"])
def test_posterior(schedule):
    """The mean given w^0, the same given the noise, and the deviation."""
    betas = diffuser.Diffusion(schedule=schedule).betas
    x, clean = normal("x", 2, 5), normal("clean", 2, 5)
    for t in range(1, 5):
        of_clean, of_noisy, variance = oracle.posterior(betas, t - 1)
        given_clean = diffuser.Diffusion(schedule=schedule)
        given_noise = diffuser.Diffusion(schedule=schedule, predicts="noise", ancestral=True)
        expected = of_clean * clean + of_noisy * x
        agrees(nn.Identity(), expected, lambda x, c, t=t, p=given_clean: p.mean(x, c, t), x, clean)
        kept = np.prod(1 - betas[:t])
        noise = (x - np.sqrt(kept) * clean) / np.sqrt(1 - kept)
        agrees(nn.Identity(), expected, lambda x, n, t=t, p=given_noise: p.mean(x, n, t), x, noise)
        assert given_noise.deviation(t) == pytest.approx(np.sqrt(variance), rel=1e-12)
        assert given_clean.deviation(t) == 0


# Restoration auto-encoder

RATES = {"smart": restoration_net.DILATIONS, "style": restoration_net.UNDILATED}


@pytest.mark.parametrize("rates", RATES)
def test_smart_layer(rates):
    layer, noise = filled(restoration_net.Smart(6, 12, 5)), Drawn()
    x, prompt = normal("x", BATCH, 6, 16, 16), normal("prompt", BATCH, 5)
    expected = oracle.smart(arrays(layer), x, prompt, noise.array("layer", 16), RATES[rates])
    agrees(layer, expected, lambda x, w: layer(x, w, noise, "layer", RATES[rates]), x, prompt)


@pytest.mark.parametrize("rates", RATES)
def test_printed_smart_layer(rates):
    layer = filled(restoration_net.PrintedSmart(6, 12, 5))
    x, prompt = normal("x", BATCH, 6, 16, 16), normal("prompt", BATCH, 5)
    expected = oracle.smart_paper(arrays(layer), x, prompt, rates=RATES[rates])
    agrees(layer, expected, lambda x, w: layer(x, w, Drawn(), "layer", RATES[rates]), x, prompt)


def restorer_noise(noise: Drawn, side: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Of the encoder, from the largest map down, and of the decoder, from 4 px up."""
    levels = int(np.log2(side)) - 2
    encoder = [noise.array(f"encoder.{n}", side >> (n + 1) // 2) for n in range(2 * levels)]
    return encoder, [noise.array(f"decoder.{n}", 4 << (n + 1) // 2) for n in range(2 * levels + 1)]


def restorer_inputs(side: int, patch: int = 1, tokens: int = 10) -> tuple[np.ndarray, ...]:
    """Picture, codes, random styles and the bank's maps."""
    levels = int(np.log2(side)) - 1
    return (
        normal("picture", BATCH, 3, side * patch, side * patch),
        normal("codes", BATCH, tokens, STYLE),
        normal("random", BATCH, 2 * levels, STYLE),
        *(normal(f"map {n}", BATCH, WIDTHS[n], n, n) for n in (4, 8, 16, 32)[:levels]),
    )


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("priors", [True, False])
def test_restoration_auto_encoder(rates, priors, patch):
    """With ablations (b) and (d)."""
    net = filled(restoration_net.RestorationNet(32 * patch, STYLE, WIDTHS, patch))
    noise, inputs = Drawn(), restorer_inputs(32, patch)
    picture, codes, random, *maps = inputs
    expected = oracle.restorer(
        arrays(net), picture, maps if priors else None, codes, random, *restorer_noise(noise, 32), RATES[rates], patch
    )
    agrees(net, expected, lambda x, w, z, *m: net(x, w, z, m if priors else None, noise, RATES[rates]), *inputs)


def test_restoration_auto_encoder_without_noise():
    net, inputs = filled(restoration_net.RestorationNet(32, STYLE, WIDTHS)), restorer_inputs(32)
    picture, codes, random, *maps = inputs
    expected = oracle.restorer(arrays(net), picture, maps, codes, random, [0.0] * 6, [0.0] * 7)
    agrees(net, expected, lambda x, w, z, *m: net(x, w, z, m), *inputs)


def test_the_restorer_draws_each_noise_once():
    net, noise = filled(restoration_net.RestorationNet(32, STYLE, WIDTHS)), Drawn()
    picture, codes, random, *maps = (torch.from_numpy(array).float() for array in restorer_inputs(32))
    net(picture, codes, random, maps, noise)
    encoder = [("encoder.0", 32), ("encoder.1", 16), ("encoder.2", 16), ("encoder.3", 8), ("encoder.4", 8)]
    assert noise.asked[:6] == [*encoder, ("encoder.5", 4)]
    assert noise.asked[6:] == [(f"decoder.{n}", 4 << (n + 1) // 2) for n in range(7)]


@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("priors", [True, False])
def test_printed_restoration_auto_encoder(rates, priors):
    net, noise = filled(restoration_net.PrintedRestorationNet(32, STYLE, WIDTHS)), Drawn()
    picture, codes, random, *maps = inputs = restorer_inputs(32)
    encoder = {i: noise.array(f"encoder.{i - 1}", 32 >> i // 2 - 1) for i in (2, 4, 6)}
    decoder = {i: noise.array(f"decoder.{i - 1}", 8 << i // 2) for i in (1, 3, 5)}
    expected = oracle.restorer_paper(
        arrays(net), picture, maps if priors else None, codes, random, encoder, decoder, RATES[rates]
    )
    agrees(net, expected, lambda x, w, z, *m: net(x, w, z, m if priors else None, noise, RATES[rates]), *inputs)


# Gradients


def gradient_cases() -> dict[str, Callable]:
    """Builders of (module, ours(*inputs), oracle(arrays, *inputs), inputs)."""
    noise, maps = Drawn(), normal("x", BATCH, 6, 8, 8)
    prompt = normal("prompt", BATCH, 5)

    def styled(mode: str):
        layer, side = filled(stylegan2.StyledConv(6, 8, 5, resample=mode)), {"up": 16, "down": 4}.get(mode, 8)
        drawn = noise.array("layer", side)
        return (
            layer,
            lambda x, w: layer(x, w, noise, "layer"),
            lambda p, x, w: oracle.styled_conv(p, x, w, drawn, mode or "plain"),
            (maps, prompt),
        )

    def smart():
        layer, drawn = filled(restoration_net.Smart(6, 8, 5)), noise.array("layer", 8)
        ours = lambda x, w: layer(x, w, noise, "layer")  # noqa: E731
        return layer, ours, lambda p, x, w: oracle.smart(p, x, w, drawn), (maps, prompt)

    def tacc():
        block, codes = filled(diffuser.TACC(DIM)), normal("codes", BATCH, 18, DIM)
        condition = normal("condition", BATCH, 18, DIM + 1)
        return block, lambda x, c: block(x, block.condition(c)), oracle.tacc, (codes, condition)

    def encoder():
        net = filled(style_encoder.StyleEncoder(tokens=9, style_dim=STYLE, input_size=32, stages=STAGES))
        units = [units for _, units in STAGES]
        return net, net, lambda p, x: oracle.style_encoder(p, x, units), (normal("x", BATCH, 3, 32, 32),)

    def facial_bank():
        net = bank()
        return (
            net,
            lambda w: net(w, noise),
            lambda p, w: oracle.generator(p, w, bank_noise(noise))[0],
            (normal("codes", BATCH, 8, STYLE),),
        )

    def auto_encoder():
        net, drawn = filled(restoration_net.RestorationNet(16, STYLE, WIDTHS)), restorer_noise(noise, 16)
        return (
            net,
            lambda x, w, z, *m: net(x, w, z, m, noise),
            lambda p, x, w, z, *m: oracle.restorer(p, x, m, w, z, *drawn),
            restorer_inputs(16),
        )

    def judge():
        net = filled(stylegan2.Discriminator(16, WIDTHS))
        return net, net, oracle.discriminator, (normal("x", 4, 3, 16, 16),)

    return {
        "styled": lambda: styled(""),
        "styled up": lambda: styled("up"),
        "styled down": lambda: styled("down"),
        "smart": smart,
        "tacc": tacc,
        "encoder": encoder,
        "bank": facial_bank,
        "auto-encoder": auto_encoder,
        "discriminator": judge,
    }


@pytest.mark.parametrize("case", gradient_cases())
def test_gradients_are_the_oracles_differences(case):
    """Along a random direction of all weights and inputs at once, in double precision."""
    net, ours, theirs, inputs = gradient_cases()[case]()
    net.double()
    p, step = arrays(net), 1e-6
    ways = {key: normal(f"way {key}", *value.shape) for key, value in net.named_parameters()}
    turns = [normal(f"turn {n}", *value.shape) for n, value in enumerate(inputs)]

    def moved(by: float) -> np.ndarray:
        weights = {key: value + by * ways.get(key, 0.0) for key, value in p.items()}
        return theirs(weights, *(value + by * turn for value, turn in zip(inputs, turns, strict=True)))

    change = (moved(step) - moved(-step)) / (2 * step)
    probe = normal("probe", *change.shape)
    with torch.enable_grad():
        leaves = [torch.from_numpy(value).requires_grad_() for value in inputs]
        (ours(*leaves) * torch.from_numpy(probe)).sum().backward()
    found = sum(
        (value.grad * torch.from_numpy(ways[key])).sum() for key, value in net.named_parameters() if moves(value)
    )
    found += sum(
        (leaf.grad * torch.from_numpy(turn)).sum() for leaf, turn in zip(leaves, turns, strict=True) if moves(leaf)
    )
    assert float(found) == pytest.approx(float((change * probe).sum()), rel=1e-5)


def moves(tensor: torch.Tensor) -> bool:
    """Whether the output depends on it: not the mapping network of a run with given codes, nor a map nobody reads."""
    return tensor.grad is not None


def test_gradient_penalty_of_the_discriminator():
    """R1 needs the gradient of a gradient: its own difference along a random direction of the weights."""
    net = filled(stylegan2.Discriminator(16, WIDTHS)).double()
    ways = {key: torch.from_numpy(normal(f"way {key}", *value.shape)) for key, value in net.named_parameters()}
    picture, step = torch.from_numpy(normal("x", 4, 3, 16, 16)).requires_grad_(), 1e-6

    def penalty() -> torch.Tensor:
        (slope,) = torch.autograd.grad(net(picture).sum(), picture, create_graph=True)
        return slope.square().sum()

    def moved(by: float) -> float:
        for key, value in net.named_parameters():
            value.data = value.data + by * ways[key]
        with torch.enable_grad():
            return penalty().item()

    with torch.enable_grad():
        penalty().backward()
    found = sum((value.grad * ways[key]).sum() for key, value in net.named_parameters() if moves(value))
    assert float(found) == pytest.approx((moved(step) - moved(-2 * step)) / (2 * step), rel=1e-5)


# The whole method

SIDE, SEEDS = 32, (7, 8, 900)
WHOLE = {
    "style_dim": STYLE,
    "encoder": {"input_size": 32, "stages": STAGES},
    "bank": {"size": 64, "widths": {**WIDTHS, 64: 8}, "depth": 3},
    "restorer": {"size": SIDE, "widths": WIDTHS, "depth": 2},
}
DEFAULTS = {param.name: param.default for param in METHOD.params}


@pytest.fixture(scope="module")
def whole() -> model.VSPBFR:
    with torch.no_grad():
        net = filled(model.VSPBFR(**WHOLE))
        for block in net.att_mapper:  # a bias that outweighs the attention, so that the chain does not amplify rounding
            block.beta_[3].weight.mul_(30)  # type: ignore[index]
    return net  # type: ignore[return-value]


def second_evaluation(net: model.VSPBFR, faces: np.ndarray, settings, codes: np.ndarray | None = None) -> np.ndarray:
    """Fig. 1 from the oracle, with the noise that the seeds give."""
    p, draws = arrays(net), Draws(SEEDS)

    def drawn(name: str, *shape: int) -> np.ndarray:
        return draws.normal(name, *shape).double().numpy()

    def layer(kind: str, sides: list[int]) -> list:
        named = [(f"noise {kind}.{n}", side) for n, side in enumerate(sides)]
        return [drawn(name, 1, side, side) if settings["noise"] else 0.0 for name, side in named]

    image, up, down = faces * 2 - 1, [4, 8, 8, 16, 16, 32, 32, 64, 64], [32, 16, 16, 8, 8, 4]
    if codes is None:
        units = [units for _, units in STAGES]
        initial = oracle.style_encoder(
            oracle.at(p, "encoder"), oracle.bilinear(image, (32, 32)), units, p["latent_avg"]
        )
        start = drawn("w_T", *initial.shape[1:])

        def predict(w, t):
            blocks = {key: value for key, value in p.items() if key.startswith("att_mapper")}
            return oracle.code_diffuser(
                blocks, w, initial, t / 4, lambda *args: oracle.tacc(*args, kappa=initial.shape[1])
            )

        chain = oracle.chain_of_means(predict, oracle.betas_sqrt_linear(), start)
        codes = chain[-1] if settings["prompts"] == "diffused" else initial
    _, maps = oracle.generator(oracle.at(p, "decoder"), codes, layer("bank", up))
    own = oracle.at(p, "restorer")
    tokens = 8
    if settings["random_style"] == "mean":
        random = np.tile(net.restorer.mean_style().double().numpy(), (len(SEEDS), tokens, 1))
    else:
        random = np.repeat(oracle.mapping(own, drawn("z", STYLE))[:, None], tokens, 1)
        second = oracle.mapping(own, drawn("z mixed in", STYLE))
        for face, (luck, place) in enumerate(zip(draws.uniform("mixing"), draws.uniform("mixing from"), strict=True)):
            if luck < settings["mixing"]:
                random[face, 1 + int(place * (tokens - 1)) :] = second[face]
    if not settings["modulation"]:
        codes = np.zeros_like(codes)
    rates = oracle.RATES if settings["smart"] else (1, 1, 1, 1)
    encoder, decoder = layer("encoder", down), layer("decoder", up[:7])
    out = oracle.restorer(own, image, maps if settings["priors"] else None, codes, random, encoder, decoder, rates)
    return (out + 1) / 2


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"prompts": "initial"},
        {"smart": False},
        {"modulation": False},
        {"priors": False},
        {"random_style": "mean"},
        {"mixing": 1.0},
        {"mixing": 0.0, "noise": False},
    ],
    ids=str,
)
def test_restoring_a_face(whole, changed):
    """Every setting, from a picture in [0, 1] to a picture."""
    settings = DEFAULTS | changed
    faces = generator("faces").uniform(0, 1, (len(SEEDS), 3, SIDE, SIDE)).astype(np.float32).astype(np.float64)
    chosen = METHOD.settings(settings)
    found = METHOD.restore(whole, torch.from_numpy(faces).float(), chosen, SEEDS, {}, Context())
    assert difference(found, second_evaluation(whole, faces, settings)) <= 1e-4


def test_restoring_a_face_with_given_codes(whole):
    faces = generator("faces").uniform(0, 1, (len(SEEDS), 3, SIDE, SIDE)).astype(np.float32).astype(np.float64)
    codes = normal("given", len(SEEDS), 10, STYLE)
    inputs = {"codes": torch.from_numpy(codes).float()}
    found = METHOD.restore(whole, torch.from_numpy(faces).float(), METHOD.settings({}), SEEDS, inputs, Context())
    assert difference(found, second_evaluation(whole, faces, DEFAULTS, codes)) <= 1e-4


def test_mean_style_is_the_mean_of_the_mapping_network(whole):
    """Against 40 000 styles of the oracle, within five standard errors of the smaller sample."""
    styles = oracle.mapping(oracle.at(arrays(whole), "restorer"), normal("many z", 40_000, STYLE))
    error = np.abs(whole.restorer.mean_style().double().numpy() - styles.mean(0))
    assert (error < 5 * styles.std(0) * np.sqrt(1 / 4096 + 1 / 40_000)).all()


def test_style_mixing_crosses_over_anywhere_but_at_the_ends(whole):
    """As released: half of the faces take a second style, from the second code on at the earliest."""
    styles = random_styles(whole, Draws(range(400)), mean=False, mixing=0.5)
    changes = (styles[:, 1:] != styles[:, :-1]).all(2)
    mixed = changes.any(1)
    assert (changes.sum(1) == mixed).all()
    assert 150 < mixed.sum() < 250  # five standard deviations
    assert set(changes[mixed].float().argmax(1).tolist()) == set(range(7))


# The published layout

LAYOUT = {
    "encoder": (621, 267_136_704, "7bc68bfacc0c2210969aeb8161b756c7ba4f441e15fbc62e46924104e755e360"),
    "decoder": (138, 30_370_060, "6232d189b608cb675910c717903a7d439024f8a4c7e4492d1dc9687a1f550459"),
    "att_mapper": (72, 10_510_336, "d4ca7de6c3728fa700dc89c64e812fbdb13d9a0984df30ac21cae8392b9e09a4"),
    "restorer": (286, 112_550_773, "f4de8cdaa1670e6060988f2a2c4a9a5367dc39315f5bd0c33eaab9cadfae5d9d"),
    "discriminator": (43, 28_982_849, "f8b2f71c9a5ca7f49e6889de986b7cd7a1eec2f867fa5531bef48cc3b4f6cd23"),
}
"""Of each published module, without constant kernels and stored noise: entries, weights (running statistics of batch
normalisation not counted), SHA-256 of the sorted lines `key [sides]`."""
LISTS = {
    "encoder": "keys_encoder.txt",
    "decoder": "keys_stylegan1024.txt",
    "att_mapper": "keys_code_diffuser.txt",
    "restorer": "keys_restoration.txt",
    "discriminator": "keys_discriminator.txt",
}
Shapes = dict[str, tuple[int, ...]]


@pytest.fixture(scope="module")
def official() -> dict[str, Shapes]:
    """Keys and shapes of every module of the config, below the prefix they have in the whole network."""
    with torch.device("meta"):
        net = METHOD.build(METHOD.config("official"))
        judge = stylegan2.Discriminator(512)
    state = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    assert state.pop("latent_avg") == (18, 512)
    parts: dict[str, Shapes] = {"discriminator": {key: tuple(v.shape) for key, v in judge.state_dict().items()}}
    for key, shape in state.items():
        part, _, rest = key.partition(".")
        parts.setdefault(part, {})[key if part == "att_mapper" else rest] = shape  # its file keeps this name
    return parts


def test_official_layout_is_the_published_one(official):
    assert set(official) == set(LAYOUT)
    for part, shapes in official.items():
        learnt = [shape for key, shape in shapes.items() if "running_" not in key and "num_batches" not in key]
        text = "\n".join(sorted(f"{key} {list(shape)}" for key, shape in shapes.items()))
        weights = sum(int(np.prod(shape)) for shape in learnt)
        assert (len(shapes), weights, hashlib.sha256(text.encode()).hexdigest()) == LAYOUT[part], part
    millions = {part: round(weights / 1e6, 2) for part, (_, weights, _) in LAYOUT.items()}
    assert list(millions.values()) == [267.14, 30.37, 10.51, 112.55, 28.98]


@pytest.mark.parametrize("part", LISTS)
def test_official_layout_key_by_key(official, part):
    """Against the published listings, where they are at hand."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "design" / "vspbfr_keys"
    if not folder.is_dir():
        pytest.skip(f"no published listings in {folder}")
    rows = [line.split("\t") for line in (folder / LISTS[part]).read_text("utf-8").splitlines()]
    listed = {key: ast.literal_eval(shape) for key, shape in rows}
    constant = {key for key in listed if key.endswith(".kernel") or key.startswith("noises.")}
    assert official[part] == {key: shape for key, shape in listed.items() if key not in constant}
