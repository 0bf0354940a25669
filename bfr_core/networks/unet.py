"""The denoising U-Net of guided diffusion, for every diffusion method of the package.

Source: Dhariwal and Nichol, "Diffusion Models Beat GANs on Image Synthesis", arXiv:2105.05233, Sec. 3 (ADM). The keys
are those of the published implementation (github.com/openai/guided-diffusion), whose files, and those of the many
works that trained with it, therefore fit.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def timestep_embedding(t: Tensor, dim: int, longest: float = 10_000.0) -> Tensor:
    """Return the sinusoidal embedding of times t (B,), (B, dim) float32: cosines, then sines (arXiv:1706.03762)."""
    half = dim // 2
    frequencies = torch.exp(-math.log(longest) / half * torch.arange(half, dtype=torch.float32, device=t.device))
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class _Resample(nn.Module):
    """Halve or double a map: by a convolution, or where `conv` is off by means and repeats alone."""

    def __init__(self, channels: int, *, up: bool, conv: bool) -> None:
        super().__init__()
        self.up = up
        if conv and up:
            self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        elif conv:
            self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.convolves = conv

    def forward(self, x: Tensor) -> Tensor:
        if self.up:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            return self.conv(x) if self.convolves else x
        return self.op(x) if self.convolves else F.avg_pool2d(x, 2)


class ResidualBlock(nn.Module):
    """Two convolutions whose second norm is scaled and shifted by the time (AdaGN, ADM Sec. 3)."""

    def __init__(
        self, inp: int, out: int, embedding: int, *, groups: int, scale_shift: bool, resample: str = ""
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.in_layers = nn.Sequential(nn.GroupNorm(groups, inp), nn.SiLU(), nn.Conv2d(inp, out, 3, padding=1))
        self.resample = _Resample(inp, up=resample == "up", conv=False) if resample else None
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * out if scale_shift else out))
        last = nn.Conv2d(out, out, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        # The third place is a dropout in the published code, which none of the methods here uses.
        self.out_layers = nn.Sequential(nn.GroupNorm(groups, out), nn.SiLU(), nn.Identity(), last)
        self.skip_connection = nn.Identity() if inp == out else nn.Conv2d(inp, out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        if self.resample is None:
            h = self.in_layers(x)
        else:
            norm, act, conv = self.in_layers
            h, x = conv(self.resample(act(norm(x)))), self.resample(x)
        told = self.emb_layers(embedding)[:, :, None, None].type(h.dtype)
        if self.scale_shift:
            scale, shift = told.chunk(2, dim=1)
            norm, *rest = self.out_layers
            h = norm(h) * (1 + scale) + shift
            for layer in rest:
                h = layer(h)
        else:
            h = self.out_layers(h + told)
        return self.skip_connection(x) + h


class AttentionBlock(nn.Module):
    """Self-attention over all positions."""

    def __init__(self, channels: int, *, head: int, groups: int) -> None:
        super().__init__()
        self.heads = max(channels // head, 1)
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        flat = x.flatten(2)
        # Heads first, then q, k and v within each: the order of the published weights.
        parts = self.qkv(self.norm(flat)).view(batch, self.heads, 3, channels // self.heads, height * width)
        # Strided views, fused attention on a CPU reads seven times slower.
        q, k, v = (part.transpose(-1, -2).contiguous() for part in parts.unbind(2))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(batch, channels, -1)
        return (flat + self.proj_out(mixed)).view(x.shape)


class _Stack(nn.Sequential):
    """Layers in a row, of which residual blocks are told the time."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, ResidualBlock) else layer(x)
        return x


class UNet(nn.Module):
    """Predict noise, velocity or a clean picture from a noisy one, its time and what is concatenated with it.

    Shapes: x (B, inp, H, W), H and W multiples of `multiple`; t (B,); returns (B, out, H, W).
    """

    def __init__(
        self,
        inp: int,
        out: int,
        *,
        channels: int,
        mult: tuple[int, ...],  # widths of the levels, in units of `channels`
        blocks: int,  # residual blocks of each level; one more on the way up
        attention: tuple[int, ...] = (),  # downsampling rates at which the blocks attend
        head: int = 64,  # channels of an attention head
        scale_shift: bool = True,  # the time scales and shifts (AdaGN); off: it is added
        residual_resample: bool = True,  # halve and double within residual blocks; off: by convolutions
        fold: int = 1,  # side of the square of pixels that becomes one position; see `multiple`
        groups: int = 32,  # of the norms
    ) -> None:
        super().__init__()
        self.channels, self.fold, self.out_channels = channels, fold, out
        self.multiple = fold * 2 ** (len(mult) - 1)
        """Sides must be multiples of this. Diffuse-and-Restore goes to 512 px by extra levels around the U-Net of 256
        px; folding squares of pixels is such a level, a strided convolution and its transpose, whose widest maps cost
        nothing."""
        embedding = 4 * channels
        self.time_embed = nn.Sequential(nn.Linear(channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding))

        def residual(inp: int, out: int, resample: str = "") -> ResidualBlock:
            return ResidualBlock(inp, out, embedding, groups=groups, scale_shift=scale_shift, resample=resample)

        def level(inp: int, out: int, rate: int) -> list[nn.Module]:
            attends = [AttentionBlock(out, head=head, groups=groups)] if rate in attention else []
            return [residual(inp, out), *attends]

        def resample(width: int, way: str) -> nn.Module:
            return residual(width, width, way) if residual_resample else _Resample(width, up=way == "up", conv=True)

        width = channels * mult[0]
        self.input_blocks = nn.ModuleList([_Stack(nn.Conv2d(inp * fold**2, width, 3, padding=1))])
        skips, rate = [width], 1
        for depth, factor in enumerate(mult):
            for _ in range(blocks):
                self.input_blocks.append(_Stack(*level(width, channels * factor, rate)))
                width = channels * factor
                skips.append(width)
            if depth < len(mult) - 1:
                self.input_blocks.append(_Stack(resample(width, "down")))
                skips.append(width)
                rate *= 2
        middle = AttentionBlock(width, head=head, groups=groups)
        self.middle_block = _Stack(residual(width, width), middle, residual(width, width))
        self.output_blocks = nn.ModuleList()
        for depth, factor in reversed(list(enumerate(mult))):
            for index in range(blocks + 1):
                layers = level(width + skips.pop(), channels * factor, rate)
                width = channels * factor
                if depth and index == blocks:
                    layers.append(resample(width, "up"))
                    rate //= 2
                self.output_blocks.append(_Stack(*layers))
        last = nn.Conv2d(width, out * fold**2, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.out = nn.Sequential(nn.GroupNorm(groups, width), nn.SiLU(), last)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        # Sines in float32, then whatever precision the weights have.
        told = self.time_embed(timestep_embedding(t, self.channels).to(x.dtype))
        h = F.pixel_unshuffle(x, self.fold) if self.fold > 1 else x
        skips: list[Tensor] = []
        for block in self.input_blocks:
            h = block(h, told)
            skips.append(h)
        h = self.middle_block(h, told)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), told)
        h = self.out(h)
        return F.pixel_shuffle(h, self.fold) if self.fold > 1 else h
