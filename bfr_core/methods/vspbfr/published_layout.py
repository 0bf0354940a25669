"""VSPBFR evaluated the plain way, to measure speed against: one operation after another, as the layout reads.

Every picture has weights of its own, for which the convolution is grouped; the FIR filter spreads pixels apart by
zeros and sees each channel as a picture; the bank runs to its full size and paints all its pictures; the diffuser
computes its condition anew at each step; nothing is kept. Source: the layouts of the released checkpoints, with the
weights of one state_dict under their published names; no layer of the package is used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ...networks.stylegan2 import Noise

_RATES = (1, 2, 4, 8)
_UNITS = (3, 4, 14, 3)
"""Residual units in each stage of IR-SE50."""


class Weights:
    """A state_dict seen from one of its prefixes."""

    def __init__(self, state: dict[str, Tensor], prefix: str = "") -> None:
        self._state, self._prefix = state, prefix

    def __getitem__(self, name: str) -> Tensor:
        return self._state[self._prefix + name]

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._state

    def at(self, name: str) -> Weights:
        """Return what lies below `name.`."""
        return Weights(self._state, f"{self._prefix}{name}.")

    def count(self, name: str) -> int:
        """Return how many numbered children `name` has."""
        start = f"{self._prefix}{name}."
        return len({key[len(start) :].split(".")[0] for key in self._state if key.startswith(start)})


# StyleGAN2 ----------------------------------------------------------------------------------------------------------


def _filter(x: Tensor, up: int, before: int, after: int, gain: float) -> Tensor:
    batch, channels, height, width = x.shape
    x = F.pad(x.reshape(-1, 1, height, 1, width, 1), (0, up - 1, 0, 0, 0, up - 1))
    x = F.pad(x.reshape(-1, 1, height * up, width * up), (before, after, before, after))
    tap = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype)
    x = F.conv2d(x, (torch.outer(tap, tap) / 64 * gain)[None, None])
    return x.reshape(batch, channels, *x.shape[2:])


def _activated(x: Tensor, bias: Tensor) -> Tensor:
    return F.leaky_relu(x + bias.view(1, -1, *[1] * (x.ndim - 2)), 0.2) * math.sqrt(2)


def _linear(p: Weights, x: Tensor, rate: float = 1.0, *, activate: bool = False) -> Tensor:
    x = F.linear(x, p["weight"] * (rate / math.sqrt(x.shape[-1])))
    return _activated(x, p["bias"] * rate) if activate else x + p["bias"] * rate


def _modulated(
    x: Tensor, weight: Tensor, style: Tensor, mode: str = "", *, demodulate: bool = True, dilation: int = 1
) -> Tensor:
    batch, inp, height, width = x.shape
    out, side = weight.shape[1], weight.shape[-1]
    weight = weight / math.sqrt(inp * side**2) * style.view(batch, 1, inp, 1, 1)
    if demodulate:
        weight = weight * torch.rsqrt(weight.square().sum((2, 3, 4), keepdim=True) + 1e-8)
    if mode == "up":
        weight = weight.transpose(1, 2).reshape(batch * inp, out, side, side)
        x = F.conv_transpose2d(x.reshape(1, batch * inp, height, width), weight, stride=2, groups=batch)
        return _filter(x.view(batch, out, *x.shape[2:]), 1, 1, 1, 4)
    if mode == "down":
        x = _filter(x, 1, 2, 2, 1)
    x = x.reshape(1, batch * inp, *x.shape[2:])
    stride, padding = (2, 0) if mode == "down" else (1, dilation * (side // 2))
    x = F.conv2d(
        x, weight.view(batch * out, inp, side, side), padding=padding, stride=stride, dilation=dilation, groups=batch
    )
    return x.view(batch, out, *x.shape[2:])


def _noisy(p: Weights, x: Tensor, noise: Noise, name: str) -> Tensor:
    drawn = noise(name, x.shape[-1])
    return x if drawn is None else x + p["noise.weight"] * drawn


def _styled(p: Weights, x: Tensor, prompt: Tensor, noise: Noise, name: str, mode: str = "") -> Tensor:
    x = _modulated(x, p["conv.weight"], _linear(p.at("conv.modulation"), prompt), mode)
    return _activated(_noisy(p, x, noise, name), p["activate.bias"])


def _to_rgb(p: Weights, x: Tensor, prompt: Tensor, skip: Tensor | None) -> Tensor:
    style = _linear(p.at("conv.modulation"), prompt)
    x = _modulated(x, p["conv.weight"], style, demodulate=False) + p["bias"]
    return x if skip is None else x + _filter(skip, 2, 2, 1, 4)


def bank(p: Weights, codes: Tensor, noise: Noise) -> tuple[list[Tensor], Tensor]:
    """Return the feature maps from 4 px on and the picture."""
    x = p["input.input"].repeat(len(codes), 1, 1, 1)
    x = _styled(p.at("conv1"), x, codes[:, 0], noise, "bank.0")
    maps, picture = [x], _to_rgb(p.at("to_rgb1"), x, codes[:, 1], None)
    for level in range(p.count("to_rgbs")):
        i = 2 * level
        x = _styled(p.at(f"convs.{i}"), x, codes[:, i + 1], noise, f"bank.{i + 1}", "up")
        maps.append(x)
        x = _styled(p.at(f"convs.{i + 1}"), x, codes[:, i + 2], noise, f"bank.{i + 2}")
        picture = _to_rgb(p.at(f"to_rgbs.{level}"), x, codes[:, i + 3], picture)
    return maps, picture


# Style encoder ------------------------------------------------------------------------------------------------------


def _batch_norm(p: Weights, x: Tensor) -> Tensor:
    return F.batch_norm(x, p["running_mean"], p["running_var"], p["weight"], p["bias"])


def _unit(p: Weights, x: Tensor, stride: int) -> Tensor:
    r = p.at("res_layer")
    y = F.prelu(F.conv2d(_batch_norm(r.at("0"), x), r["1.weight"], padding=1), r["2.weight"])
    y = _batch_norm(r.at("4"), F.conv2d(y, r["3.weight"], stride=stride, padding=1))
    gate = F.relu(F.conv2d(F.adaptive_avg_pool2d(y, 1), r["5.fc1.weight"]))
    y = y * torch.sigmoid(F.conv2d(gate, r["5.fc2.weight"]))
    if "shortcut_layer.0.weight" in p:
        skip = _batch_norm(p.at("shortcut_layer.1"), F.conv2d(x, p["shortcut_layer.0.weight"], stride=stride))
    else:
        skip = F.max_pool2d(x, 1, stride)
    return y + skip


def _head(p: Weights, x: Tensor) -> Tensor:
    for index in range(p.count("convs")):
        layer = p.at(f"convs.{2 * index}")
        x = F.leaky_relu(F.conv2d(x, layer["weight"], layer["bias"], stride=2, padding=1), 0.01)
    return _linear(p.at("linear"), x.flatten(1))


def encode(
    p: Weights, face: Tensor, side: int, *, units: Sequence[int] = _UNITS, levels: tuple[int, int] = (3, 7)
) -> Tensor:
    """Return w_hat of faces in [-1, 1], looked at with `side` pixels."""
    e = p.at("encoder")
    x = F.interpolate(face, (side, side), mode="bilinear", align_corners=False)
    x = F.prelu(
        _batch_norm(e.at("input_layer.1"), F.conv2d(x, e["input_layer.0.weight"], padding=1)), e["input_layer.2.weight"]
    )
    ends, block = [], 0
    for count in units:
        for unit in range(count):
            x = _unit(e.at(f"body.{block}"), x, 1 if unit else 2)
            block += 1
        ends.append(x)
    pyramid = [ends[3]]
    for name, finer in (("latlayer1", ends[2]), ("latlayer2", ends[1])):
        coarse = F.interpolate(pyramid[-1], finer.shape[2:], mode="bilinear", align_corners=True)
        pyramid.append(coarse + F.conv2d(finer, e[f"{name}.weight"], e[f"{name}.bias"]))
    first = _head(e.at("styles.0"), pyramid[0])
    codes = [first]
    for index in range(1, e.count("styles")):
        codes.append(first + _head(e.at(f"styles.{index}"), pyramid[sum(index >= level for level in levels)]))
    return torch.stack(codes, 1) + p["latent_avg"]


# Code diffuser ------------------------------------------------------------------------------------------------------


def _block(p: Weights, x: Tensor, condition: Tensor) -> Tensor:
    def branch(name: str) -> Tensor:
        b = p.at(name)
        hidden = F.linear(condition, b["0.weight"], b["0.bias"])
        hidden = F.layer_norm(hidden, hidden.shape[-1:], b["1.weight"], b["1.bias"])
        return F.linear(F.leaky_relu(hidden, 0.2) * math.sqrt(2), b["3.weight"], b["3.bias"])

    x = x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)
    q, k, v = (F.linear(y, p[f"{n}_matrix.weight"]) for n, y in (("q", condition), ("k", x), ("v", x)))
    tokens = torch.softmax(k @ q.mT / math.sqrt(x.shape[1]), -1) @ v
    c = p.at("attention_layer")
    q, k, v = (F.linear(y, c[f"{n}_matrix.weight"]) for n, y in (("q", x), ("k", condition), ("v", x)))
    channels = v @ torch.softmax(k.mT @ q / math.sqrt(x.shape[2]), 1)
    a = tokens + F.layer_norm(channels, channels.shape[-1:])
    gate, bias = torch.sigmoid(branch("gamma_")), F.leaky_relu(branch("beta_"), 0.2) * math.sqrt(2)
    return F.layer_norm(a, a.shape[-1:]) * (1 + gate) + bias


def diffuse(p: Weights, initial: Tensor, noise: Tensor, steps: int = 4) -> Tensor:
    """Return w^0 from w^T = noise: x0-prediction, betas linear in their root, posterior means."""
    betas = torch.linspace(0.1**0.5, 0.99**0.5, steps, dtype=torch.float64) ** 2
    bars = torch.cat([betas.new_ones(1), (1 - betas).cumprod(0)])
    x = noise
    for t in range(steps, 0, -1):
        time = torch.full_like(initial[..., :1], (t - 1) / steps)
        clean = x
        for index in range(p.count("att_mapper")):
            clean = _block(p.at(f"att_mapper.{index}"), clean, torch.cat([initial, time], -1))
        beta, bar, before = (value.item() for value in (betas[t - 1], bars[t], bars[t - 1]))
        x = (before**0.5 * beta * clean + (1 - beta) ** 0.5 * (1 - before) * x) / (1 - bar)
    return x


# Restoration auto-encoder -------------------------------------------------------------------------------------------


def _smart(p: Weights, x: Tensor, prompt: Tensor, noise: Noise, name: str) -> Tensor:
    style = _linear(p.at("modulation"), prompt)
    maps = [_modulated(x, p[f"ModulatedConv2ds.{i}.weight"], style, dilation=d) for i, d in enumerate(_RATES)]
    return _activated(_noisy(p, _fused(p.at("fusion"), maps), noise, name), p["activate.bias"])


def _dilated(p: Weights, x: Tensor) -> Tensor:
    maps = [_conv(x, p[f"dilated_convs.{i}.weight"], d) for i, d in enumerate(_RATES)]
    return _activated(_fused(p.at("fusion"), maps), p["activate.bias"])


def _fused(p: Weights, maps: list[Tensor]) -> Tensor:
    return _activated(_conv(torch.cat(maps, 1), p["0.weight"], 1), p["1.bias"])


def _conv(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    scale = 1 / math.sqrt(weight[0].numel())
    return F.conv2d(x, weight * scale, padding=dilation * (weight.shape[-1] // 2), dilation=dilation)


def restore(p: Weights, face: Tensor, codes: Tensor, styles: Tensor, maps: Sequence[Tensor], noise: Noise) -> Tensor:
    """Return I_out in [-1, 1] of I_de, w^0, z_hat and F^s."""
    levels = p.count("to_rgbs")
    prompts = torch.cat([codes[:, : 2 * levels + 2], styles], -1)
    x, skips = _dilated(p.at("down_from_big"), face), []
    for level in range(levels):
        i, prompt = 2 * level, prompts[:, prompts.shape[1] - 1 - 2 * level]
        x = _smart(p.at(f"encoder_convs.{i}"), x, prompt, noise, f"encoder.{i}")
        skips.append(x)
        x = _styled(p.at(f"encoder_convs.{i + 1}"), x, prompt, noise, f"encoder.{i + 1}", "down")
    x = _dilated(p.at("final_layer"), x)
    c = _linear(p.at("final_linear.0"), x.flatten(1), activate=True)
    x = x + _linear(p.at("final_transfer"), c, activate=True).view_as(x)
    full = [torch.cat([prompts[:, index], c], -1) for index in range(prompts.shape[1])]
    x = _smart(p.at("conv1"), x, full[0], noise, "decoder.0")
    picture = _to_rgb(p.at("to_rgb1"), x, full[1], None)
    for level in range(levels):
        i = 2 * level
        x = _styled(p.at(f"convs.{i}"), x, full[i + 1], noise, f"decoder.{i + 1}", "up")
        x = x + skips[-1 - level] + maps[level + 1]
        x = _smart(p.at(f"convs.{i + 1}"), x, full[i + 2], noise, f"decoder.{i + 2}")
        picture = _to_rgb(p.at(f"to_rgbs.{level}"), x, full[i + 3], picture)
    return picture
