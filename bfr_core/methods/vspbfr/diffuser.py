"""The code diffuser P: initial codes w_hat to denoised codes w^0 in a few steps (paper Sec. III-B, Eqs. 1 to 5).

The released model differs from the text in several points (block layout, prediction, schedule, sampling). Each is a
field of `TaccLayout` or `Diffusion`; the configs name the values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...networks.stylegan2 import PixelNorm

Source = Literal["features", "condition"]


@dataclass(frozen=True, slots=True)
class TaccLayout:
    """Where the released TACC block departs from Eqs. 4 and 5."""

    channel_query: Source = "features"
    """What the query of the channel attention is computed from; its key comes from the other. The paper prints
    `condition`."""
    normalise: bool = True
    """Whether the input is normalised, over the tokens. Not in the paper."""
    channel_norm: bool = True
    """Whether the channel attention ends in a LayerNorm of its own. Not in the paper."""
    gate_norm: bool = True
    """Whether the MLPs of gate and bias normalise their hidden layer. Not in the paper."""
    gain: float = math.sqrt(2)
    """Factor after each leaky ReLU; 1 in the paper."""


RELEASED_TACC = TaccLayout()
PAPER_TACC = TaccLayout("condition", normalise=False, channel_norm=False, gate_norm=False, gain=1.0)


class _ScaledLeakyReLU(nn.Module):
    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, 0.2) * self.gain


def _mlp(dim: int, layout: TaccLayout, last: nn.Module) -> nn.Sequential:
    norm = nn.LayerNorm(dim) if layout.gate_norm else nn.Identity()
    return nn.Sequential(nn.Linear(dim + 1, dim), norm, _ScaledLeakyReLU(layout.gain), nn.Linear(dim, dim), last)


class ChannelAttention(nn.Module):
    """Softmax(q k^T / kappa_2) v over channels, kappa_2 = sqrt(dim): the second term of Eq. 5."""

    def __init__(self, dim: int, layout: TaccLayout) -> None:
        super().__init__()
        widths = {"features": dim, "condition": dim + 1}
        self.query = layout.channel_query
        other = "features" if self.query == "condition" else "condition"
        self.q_matrix = nn.Linear(widths[self.query], dim, bias=False)
        self.k_matrix = nn.Linear(widths[other], dim, bias=False)
        self.v_matrix = nn.Linear(dim, dim, bias=False)
        self.norm = nn.LayerNorm(dim, elementwise_affine=False) if layout.channel_norm else None

    def condition(self, condition: Tensor) -> Tensor:
        """Return the part that does not depend on the codes being denoised."""
        return (self.q_matrix if self.query == "condition" else self.k_matrix)(condition)

    def forward(self, x: Tensor, prepared: Tensor) -> Tensor:
        q = prepared if self.query == "condition" else self.q_matrix(x)
        k = self.k_matrix(x) if self.query == "condition" else prepared
        # Rows are tokens here and columns in the paper, so everything stands transposed.
        score = k.transpose(1, 2) @ q / math.sqrt(x.shape[-1])
        # The softmax over hundreds of channels is nearly flat, so its product with v is nearly v's mean, and a norm
        # that follows removes just that. Writing softmax(s) = (1 + e) / (D + sum e), e = exp(s - c) - 1 for any c, the
        # part that varies is computed by itself: in float32 the chain is then an order of magnitude closer to exact.
        c = score.mean(1, keepdim=True).maximum(score.amax(1, keepdim=True) - 60)  # the mean, unless exp overflowed
        e = torch.expm1(score - c)
        v = self.v_matrix(x)
        mean = v.mean(-1, keepdim=True)
        varying = (v - mean) @ e / (e.shape[1] + e.sum(1, keepdim=True))
        return varying + mean if self.norm is None else self.norm(varying)


@dataclass(frozen=True, slots=True)
class Conditioned:
    """What a block computes from [w_hat, t] alone."""

    q: Tensor
    channel: Tensor
    gate: Tensor
    bias: Tensor

    def at(self, index: int) -> Conditioned:
        """Return the part of one step, where the first axis counts steps."""
        return Conditioned(self.q[index], self.channel[index], self.gate[index], self.bias[index])


class TACC(nn.Module):
    """Temporal-aware code-to-code block, Gamma_i = TACC(Gamma_{i-1}, w_hat, t).

    Shapes: x (B, N, dim); returns the same.

    Args:
        dim: features of a code.
        layout: the released or the printed form.
    """

    def __init__(self, dim: int = 512, layout: TaccLayout = RELEASED_TACC) -> None:
        super().__init__()
        self.normalise = PixelNorm(1) if layout.normalise else nn.Identity()
        self.q_matrix = nn.Linear(dim + 1, dim, bias=False)
        self.k_matrix = nn.Linear(dim, dim, bias=False)
        self.v_matrix = nn.Linear(dim, dim, bias=False)
        self.gamma_ = _mlp(dim, layout, nn.Sigmoid())
        self.beta_ = _mlp(dim, layout, _ScaledLeakyReLU(layout.gain))
        self.attention_layer = ChannelAttention(dim, layout)

    def condition(self, condition: Tensor) -> Conditioned:
        """Prepare for [w_hat, t], (..., B, N, dim + 1): Eq. 4's w^q and the factors of Eq. 5."""
        return Conditioned(
            self.q_matrix(condition),
            self.attention_layer.condition(condition),
            self.gamma_(condition) + 1,
            self.beta_(condition),
        )

    def forward(self, x: Tensor, at: Conditioned) -> Tensor:
        x = self.normalise(x)
        # Eq. 5, first term: each token collects values by how its key meets all queries; kappa_1 = sqrt(N).
        score = self.k_matrix(x) @ at.q.transpose(1, 2) / math.sqrt(x.shape[1])
        a = score.softmax(-1) @ self.v_matrix(x) + self.attention_layer(x, at.channel)
        return F.layer_norm(a, a.shape[-1:]) * at.gate + at.bias


# The process (Eqs. 1 to 3) ------------------------------------------------------------------------------------------

_SCHEDULES: dict[str, Callable[[float, float, int], np.ndarray]] = {
    "linear": np.linspace,  # type: ignore[dict-item]
    "sqrt_linear": lambda low, high, steps: np.linspace(low**0.5, high**0.5, steps) ** 2,
}


@dataclass(frozen=True, slots=True)
class Diffusion:
    """The schedule, what the network predicts, and how a step is drawn."""

    steps: int = 4
    """T."""
    schedule: Literal["sqrt_linear", "linear"] = "sqrt_linear"
    """How beta grows from 0.1 to 0.99: linearly as printed, or by its square root as released."""
    predicts: Literal["clean", "noise"] = "clean"
    """What P returns: w^0 as released, or the noise of Eq. 3."""
    ancestral: bool = False
    """Whether Eq. 3's last term is added. The released model draws no noise after w^T."""

    @property
    def betas(self) -> np.ndarray:
        """Return beta_1 ... beta_T, float64."""
        return _SCHEDULES[self.schedule](0.1, 0.99, self.steps)

    @property
    def alpha_bars(self) -> np.ndarray:
        """Return abar_0 = 1, abar_1 ... abar_T, float64."""
        return np.concatenate([[1.0], np.cumprod(1 - self.betas)])

    def noised(self, clean: Tensor, noise: Tensor, t: int) -> Tensor:
        """Return w^t given w^0 (below Eq. 1), t in 1 ... T."""
        abar = self.alpha_bars[t]
        return abar**0.5 * clean + (1 - abar) ** 0.5 * noise

    def mean(self, x: Tensor, predicted: Tensor, t: int) -> Tensor:
        """Return the mean of p(w^{t-1} | w^t), Eqs. 2 and 3."""
        beta, abar, before = self.betas[t - 1], self.alpha_bars[t], self.alpha_bars[t - 1]
        if self.predicts == "noise":
            return (x - beta / (1 - abar) ** 0.5 * predicted) / (1 - beta) ** 0.5  # Eq. 3
        # The same Gaussian given w^0: DDPM, arXiv:2006.11239, Eq. 7.
        clean = before**0.5 * beta / (1 - abar)
        return clean * predicted + (1 - beta) ** 0.5 * (1 - before) / (1 - abar) * x

    def deviation(self, t: int) -> float:
        """Return sigma_t of Eq. 3; zero for t = 1."""
        before, abar = self.alpha_bars[t - 1], self.alpha_bars[t]
        return math.sqrt((1 - before) / (1 - abar) * self.betas[t - 1]) if self.ancestral else 0.0


RELEASED_DIFFUSION = Diffusion()
PAPER_DIFFUSION = Diffusion(schedule="linear", predicts="noise", ancestral=True)


def conditions(initial: Tensor, diffusion: Diffusion) -> Tensor:
    """Return [w_hat, t] of every step, (T, B, N, dim + 1), first for t = 1.

    The time is (t - 1) / T as released; the layer that reads it makes any other scale the same.
    """
    times = torch.arange(diffusion.steps, device=initial.device, dtype=initial.dtype) / diffusion.steps
    stacked = initial.expand(diffusion.steps, *initial.shape)
    return torch.cat([stacked, times.view(-1, 1, 1, 1).expand(*stacked.shape[:-1], 1)], -1)


def predict(blocks: Iterable[nn.Module], prepared: Iterable[Conditioned], x: Tensor, index: int) -> Tensor:
    """Run the four blocks for step t = index + 1: Gamma_0 = w^t; returns Gamma_4."""
    for block, at in zip(blocks, prepared, strict=True):
        x = block(x, at.at(index))
    return x


def diffuse(
    blocks: nn.ModuleList, initial: Tensor, noise: Tensor, diffusion: Diffusion, drawn: Callable[[int], Tensor]
) -> list[Tensor]:
    """Return w^T, w^{T-1} ... w^0.

    Args:
        blocks: the TACC blocks.
        initial: w_hat, (B, N, dim).
        noise: w^T, the same shape.
        diffusion: the process.
        drawn: noise of the step from t to t - 1, the same shape; asked for only where the process draws any.
    """
    every = conditions(initial, diffusion)
    # One batch over all steps: none of it depends on the codes being denoised.
    prepared = [block.condition(every) for block in blocks]  # type: ignore[operator]
    codes = [noise]
    for t in range(diffusion.steps, 0, -1):
        x = diffusion.mean(codes[-1], predict(blocks, prepared, codes[-1], t - 1), t)
        if sigma := diffusion.deviation(t):
            x = x + sigma * drawn(t)
        codes.append(x)
    return codes
