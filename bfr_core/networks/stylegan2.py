"""StyleGAN2: layers, generator and discriminator, in plain PyTorch and in the layout that public files share.

Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", arXiv:1912.04958; parameter names as in
the widely used PyTorch port (rosinality), which VSPBFR, e4e and GFPGAN build on. Constant kernels and stored noise of
those files are not parameters here: kernels follow from [1, 3, 3, 1], noise is drawn.

A modulated convolution scales its input and output instead of its weight, which is the same sum in another order: one
weight serves the whole batch, and no weight is copied per picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._cached import Cached
from ._winograd import convolve, pays

Widths = Mapping[int, int]
"""Channels of the maps of each side, in pixels."""
Noise = Callable[[str, int], "Tensor | None"]
"""Draws the noise of a layer: name and side of the map; (B, 1, side, side), or None for a layer without."""

FFHQ_WIDTHS: Widths = {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64, 1024: 32}
"""Config F of the paper."""

SQRT2 = math.sqrt(2)


def silent(layer: str, side: int) -> None:
    """Draw no noise."""


def sides(size: int) -> list[int]:
    """Return the sides of a pyramid from 4 to `size` pixels."""
    return [2**power for power in range(2, int(math.log2(size)) + 1)]


def token_count(size: int) -> int:
    """Return how many style codes a generator of `size` px takes: two for each side, less the two that 4 px lacks."""
    return 2 * len(sides(size))


# Memory ---------------------------------------------------------------------------------------------------------------


def arranged(x: Tensor) -> Tensor:
    """Return maps with the channels innermost on a CPU, or outermost where they are small.

    Convolutions of large maps take a third less time (measured), those of small ones would spend it on rearranging
    their weights.
    """
    if x.device.type != "cpu":
        return x
    return x.contiguous(memory_format=torch.channels_last if x.shape[-1] >= 32 else torch.contiguous_format)


def plus(x: Tensor, y: Tensor) -> Tensor:
    """Return x + y; in place of x, which must not be needed any more, where no gradient asks for it."""
    return x + y if torch.is_grad_enabled() else x.add_(y)


def in_weight(x: Tensor, weight: Tensor) -> bool:
    """Tell whether it is cheaper to scale the weight than the maps: one picture, and a map that is larger."""
    return len(x) == 1 and weight.numel() < x.numel()


# Resampling by the kernel [1, 3, 3, 1] ------------------------------------------------------------------------------


def fir_kernel(x: Tensor, gain: float = 1.0) -> Tensor:
    """Return the 4x4 kernel for a depthwise convolution of `x`, (C, 1, 4, 4), with a sum of `gain`."""
    tap = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype, device=x.device) / 8
    return (torch.outer(tap, tap) * gain).expand(x.shape[1], 1, 4, 4).contiguous()


def fir(x: Tensor, padding: tuple[int, int], gain: float = 1.0, bias: Tensor | None = None) -> Tensor:
    """Blur (B, C, H, W) after padding each side with zeros, before and after, along both axes; add a bias (C,)."""
    before, after = padding
    if before != after:
        x, before = F.pad(x, (before, after, before, after)), 0
    return F.conv2d(x, fir_kernel(x, gain), bias, padding=before, groups=x.shape[1])


def upsample(x: Tensor) -> Tensor:
    """Double the size of (B, C, H, W)."""
    return F.conv_transpose2d(x, fir_kernel(x, 4.0), stride=2, padding=1, groups=x.shape[1])


def doubled(x: Tensor, weight: Tensor) -> Tensor:
    """Return the transposed convolution of stride 2, (B, O, 2H + 1, 2W + 1), by a weight (O, I, 3, 3)."""
    if x.device.type != "cpu" or torch.is_grad_enabled() or x.shape[-1] < 32:
        return F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
    # Each phase of the output by itself: even rows see two rows of the kernel, odd ones the middle row. 30 % faster.
    (batch, _, height, width), kernel = x.shape, weight.flip(2, 3)
    y = None
    for row, rows in enumerate((slice(0, 3, 2), slice(1, 2))):
        for column, columns in enumerate((slice(0, 3, 2), slice(1, 2))):
            phase = F.conv2d(x, kernel[:, :, rows, columns], padding=(1 - row, 1 - column))
            if y is None:
                y = phase.new_empty(batch, 2 * height + 1, 2 * width + 1, len(weight)).permute(0, 3, 1, 2)
            y[:, :, row::2, column::2] = phase
    assert y is not None
    return y


# Layers with an equalised learning rate (arXiv:1710.10196, Sec. 4.1) ----------------------------------------------


def lrelu(x: Tensor) -> Tensor:
    """Leaky ReLU that keeps the variance: slope 0.2, times sqrt 2."""
    return F.leaky_relu(x, 0.2) * SQRT2


class Bias(nn.Module):
    """The bias of an `lrelu`.

    lrelu(x) = leaky_relu(sqrt 2 x), so callers put the factor where it costs no pass over a map: into weights, styles
    and this bias.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def scaled(self, like: Tensor, gain: float = SQRT2) -> Tensor:
        """Return gain * b for (B, C, H, W) maps, in their type."""
        return (self.bias * gain).to(like.dtype).view(1, -1, 1, 1)


class EqualLinear(nn.Module):
    """A fully connected layer.

    Args:
        inp: features in.
        out: features out.
        lr_mul: learning rate relative to the others.
        bias: what the bias begins as.
        activate: whether `lrelu` follows.
    """

    def __init__(self, inp: int, out: int, *, lr_mul: float = 1.0, bias: float = 0.0, activate: bool = False) -> None:
        super().__init__()
        self.equalised = lr_mul == 1  # a slower layer keeps its own rate under any optimiser
        self.weight = nn.Parameter(nn.init.normal_(torch.empty(out, inp), std=1 / lr_mul))
        self.bias = nn.Parameter(torch.full((out,), float(bias)))
        self.scale, self.lr_mul, self.activate = lr_mul / math.sqrt(inp), lr_mul, activate

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.weight * self.scale, self.bias * self.lr_mul)
        return lrelu(x) if self.activate else x


class EqualConv2d(nn.Module):
    """A convolution without bias, `(out, inp, kernel, kernel)`; the picture keeps its size unless strided."""

    equalised = True

    def __init__(
        self, inp: int, out: int, kernel: int, *, stride: int = 1, padding: int | None = None, dilation: int = 1
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out, inp, kernel, kernel))
        self.scale, self.stride, self.dilation = 1 / math.sqrt(inp * kernel**2), stride, dilation
        self.padding = dilation * (kernel // 2) if padding is None else padding
        self._plain = stride == 1 and padding is None
        self._kept = Cached()

    def forward(self, x: Tensor, gain: float = 1.0, bias: Tensor | None = None) -> Tensor:
        if self._plain:
            return convolve(x, self.weight, self._kept, dilation=self.dilation, gain=self.scale * gain, bias=bias)
        return F.conv2d(x, self.weight * (self.scale * gain), bias, self.stride, self.padding, self.dilation)


class PixelNorm(nn.Module):
    """Divide by the root mean square along an axis."""

    def __init__(self, dim: int = 1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(self.dim, keepdim=True) + 1e-8)


# Modulated convolution (Sec. 2.2) -----------------------------------------------------------------------------------


def full_precision(x: Tensor) -> torch.autocast:
    """Return the context in which styles are computed: eight bits of a mantissa would shift whole channels."""
    return torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False)


def demodulation(weight: Tensor, scale: float, style: Tensor, cached: Cached) -> Tensor:
    """Return 1 / |w'| of Eq. 3 for each picture and output channel, (B, O, 1, 1).

    w' = scale * weight * style; sum_ik w'^2 = scale^2 * sum_i style_i^2 (sum_k weight_ik^2), and the inner sum, which
    costs a pass over the whole weight, does not depend on the picture.

    Args:
        weight: (1, O, I, k, k).
        scale: of the equalised learning rate.
        style: s, (B, I).
        cached: keeps the inner sum while the weight stays the same.
    """
    energy = cached(lambda: weight[0].square().sum((2, 3)).T * scale**2, weight)
    return torch.rsqrt(style.square() @ energy + 1e-8)[:, :, None, None]


class ModulatedConv2d(nn.Module):
    """A convolution whose weight is scaled by a style, and back to unit norm (Eqs. 1 to 3).

    Shapes: x (B, inp, H, W); prompt (B, style_dim); returns (B, out, H, W), doubled or halved with `resample`.

    Args:
        inp: channels in.
        out: channels out.
        kernel: side of the kernel.
        style_dim: features of the prompt that the style is computed from.
        demodulate: whether Eq. 3 follows.
        resample: `up` or `down` by two, with the FIR kernel; empty for neither.
    """

    equalised = True

    def __init__(
        self, inp: int, out: int, kernel: int, style_dim: int, *, demodulate: bool = True, resample: str = ""
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, out, inp, kernel, kernel))
        self.modulation = EqualLinear(style_dim, inp, bias=1.0)
        self.scale, self.demodulate, self.resample = 1 / math.sqrt(inp * kernel**2), demodulate, resample
        self._energy, self._kept = Cached(), Cached()

    def forward(self, x: Tensor, prompt: Tensor, bias: Bias | None = None) -> Tensor:
        """Convolve; where a bias is given, add it and return sqrt 2 of the sum, ready for a leaky ReLU."""
        x, weight = arranged(x), self.weight
        with full_precision(x):
            style = self.modulation(prompt.to(weight.dtype))
            gain = style[:, :, None, None] * self.scale
            back = demodulation(weight, self.scale, style, self._energy) if self.demodulate else None
            if back is not None and bias is not None:
                back = back * SQRT2
        if in_weight(x, weight) and (self.resample or not pays(x, weight)):
            weight = weight * gain if back is None else weight * gain * back[..., None]
            return self._resampled(x, weight, None, None if bias is None else bias.bias * SQRT2)
        x = self._resampled(x * gain.to(x.dtype), weight, self._kept, None)
        if back is None:
            return x
        return x * back.to(x.dtype) if bias is None else torch.addcmul(bias.scaled(x), x, back.to(x.dtype))

    def _resampled(self, x: Tensor, weight: Tensor, kept: Cached | None, bias: Tensor | None) -> Tensor:
        if self.resample == "up":
            return fir(doubled(x, weight[0]), (1, 1), 4.0, bias)
        if self.resample == "down":
            return F.conv2d(fir(x, (2, 2)), weight[0], bias, stride=2)
        return convolve(x, weight, kept, bias=bias)


class NoiseInjection(nn.Module):
    """Add noise of a learnt strength, the same for every channel."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """Add sqrt 2 times the noise to maps that already carry the factor, in place."""
        return x if noise is None else x.addcmul_((self.weight * SQRT2).to(x.dtype), noise.to(x.dtype))


class StyledConv(nn.Module):
    """Modulated convolution, noise, bias, activation.

    Args:
        inp: channels in.
        out: channels out.
        style_dim: features of the prompt.
        resample: see ModulatedConv2d.
    """

    def __init__(self, inp: int, out: int, style_dim: int, *, resample: str = "") -> None:
        super().__init__()
        self.conv = ModulatedConv2d(inp, out, 3, style_dim, resample=resample)
        self.noise = NoiseInjection()
        self.activate = Bias(out)

    def forward(self, x: Tensor, prompt: Tensor, noise: Noise, name: str) -> Tensor:
        x = self.conv(x, prompt, self.activate)
        return F.leaky_relu_(self.noise(x, noise(name, x.shape[-1])), 0.2)


class ToRGB(nn.Module):
    """Add a layer's picture to the enlarged one of the layers below.

    Args:
        inp: channels in.
        style_dim: features of the prompt.
        patch: side of the square of pixels that each position of the map writes.
    """

    def __init__(self, inp: int, style_dim: int, *, patch: int = 1) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(inp, 3 * patch**2, 1, style_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.patch = patch

    def forward(self, x: Tensor, prompt: Tensor, skip: Tensor | None) -> Tensor:
        picture = F.pixel_shuffle(self.conv(x, prompt), self.patch) + self.bias
        while skip is not None and skip.shape[-1] < picture.shape[-1]:
            skip = upsample(skip)
        return picture if skip is None else picture + skip


# Generator (Fig. 7, output skips) -----------------------------------------------------------------------------------


class MappingNetwork(nn.Sequential):
    """F(z): normalise, then fully connected layers."""

    def __init__(self, dim: int, depth: int = 8, lr_mul: float = 0.01) -> None:
        layers = [EqualLinear(dim, dim, lr_mul=lr_mul, activate=True) for _ in range(depth)]
        super().__init__(PixelNorm(), *layers)


class ConstantInput(nn.Module):
    """The learnt 4x4 map that every picture begins as."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))


class Generator(nn.Module):
    """S(w): style codes to maps and a picture.

    Args:
        size: side of the picture, a power of two.
        style_dim: features of a code.
        widths: channels of each side.
        depth: layers of the mapping network.
    """

    def __init__(self, size: int, style_dim: int = 512, widths: Widths = FFHQ_WIDTHS, depth: int = 8) -> None:
        super().__init__()
        self.size, self.style_dim, self.tokens = size, style_dim, token_count(size)
        self.style = MappingNetwork(style_dim, depth)
        self.input = ConstantInput(widths[4])
        self.conv1 = StyledConv(widths[4], widths[4], style_dim)
        self.to_rgb1 = ToRGB(widths[4], style_dim)
        convs: list[nn.Module] = []
        for side in sides(size)[1:]:
            convs.append(StyledConv(widths[side // 2], widths[side], style_dim, resample="up"))
            convs.append(StyledConv(widths[side], widths[side], style_dim))
        self.convs = nn.ModuleList(convs)
        self.to_rgbs = nn.ModuleList(ToRGB(widths[side], style_dim) for side in sides(size)[1:])

    def features(self, codes: Tensor, noise: Noise = silent, *, largest: int | None = None) -> list[Tensor]:
        """Return the map after the first convolution of each side, from 4 px to `largest`.

        What follows the largest map, and every picture, is not computed.

        Args:
            codes: (B, tokens, style_dim).
            noise: noise of the layers `bank.N`.
            largest: side of the last map; the generator's own size where it is None.
        """
        maps, _ = self._run(codes, noise, largest or self.size, picture=False)
        return maps

    def forward(self, codes: Tensor, noise: Noise = silent) -> Tensor:
        """Return the picture of codes (B, tokens, style_dim): (B, 3, size, size) RGB, about [-1, 1]."""
        _, picture = self._run(codes, noise, self.size, picture=True)
        assert picture is not None
        return picture

    def features_and_picture(self, codes: Tensor, noise: Noise = silent) -> tuple[list[Tensor], Tensor]:
        """Return both, (F^s, I_ve) of VSPBFR."""
        maps, picture = self._run(codes, noise, self.size, picture=True)
        assert picture is not None
        return maps, picture

    def _run(self, codes: Tensor, noise: Noise, largest: int, *, picture: bool) -> tuple[list[Tensor], Tensor | None]:
        x = self.conv1(self.input.input.expand(len(codes), -1, -1, -1), codes[:, 0], noise, "bank.0")
        maps = [x]
        rgb = self.to_rgb1(x, codes[:, 1], None) if picture else None
        for level, side in enumerate(sides(largest)[1:]):
            first = 2 * level + 1
            x = self.convs[2 * level](x, codes[:, first], noise, f"bank.{first}")
            maps.append(x)
            if side == largest and not picture:
                break
            x = self.convs[2 * level + 1](x, codes[:, first + 1], noise, f"bank.{first + 1}")
            if picture:
                rgb = self.to_rgbs[level](x, codes[:, first + 2], rgb)
        return maps, rgb


# Discriminator (Fig. 7, residual) -----------------------------------------------------------------------------------


class ConvLayer(nn.Sequential):
    """EqualConv2d, blurred before a stride of two, with bias and `lrelu` or neither."""

    def __init__(self, inp: int, out: int, kernel: int, *, down: bool = False, activate: bool = True) -> None:
        # The blur holds a place in the published numbering.
        blur = [_Blur((kernel + 1) // 2, kernel // 2 + kernel % 2)] if down else []
        conv = EqualConv2d(inp, out, kernel, stride=2, padding=0) if down else EqualConv2d(inp, out, kernel)
        super().__init__(*blur, conv, *([Bias(out)] if activate else []))
        self.conv, self.blur, self.activate = (conv,), tuple(blur), activate  # in tuples: registered once

    def forward(self, x: Tensor, gain: float = SQRT2) -> Tensor:
        """Return gain / sqrt 2 times the layer's output."""
        conv: EqualConv2d
        (conv,) = self.conv
        for blur in self.blur:
            x = blur(x)
        if not self.activate:
            return conv(x)
        bias: Bias = self[-1]  # type: ignore[assignment]
        return F.leaky_relu_(conv(x, gain, bias.bias * gain), 0.2)


class _Blur(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.padding = (before, after)

    def forward(self, x: Tensor) -> Tensor:
        return fir(x, self.padding)


class _ResidualBlock(nn.Module):
    def __init__(self, inp: int, out: int) -> None:
        super().__init__()
        self.conv1 = ConvLayer(inp, inp, 3)
        self.conv2 = ConvLayer(inp, out, 3, down=True)
        self.skip = ConvLayer(inp, out, 1, down=True, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv2(self.conv1(x)) + self.skip(x)) / SQRT2


class Discriminator(nn.Module):
    """D(I): tell pictures from generated ones.

    Shapes: x (B, 3, size * patch, size * patch) RGB [-1, 1]; returns logits (B, 1).

    Args:
        size: side of the first map, a power of two.
        widths: channels of each side.
        patch: side of the square of pixels that becomes one position of the first map.
        group: pictures over which the last layer sees how much they vary (arXiv:1710.10196, Sec. 3). A batch that
            it does not divide is one group.
    """

    def __init__(self, size: int, widths: Widths = FFHQ_WIDTHS, *, patch: int = 1, group: int = 4) -> None:
        super().__init__()
        self.encoder_input_convs = ConvLayer(3 * patch**2, widths[size], 1)
        self.encoder_convs = nn.ModuleList(
            _ResidualBlock(widths[side], widths[side // 2]) for side in reversed(sides(size)[1:])
        )
        self.final_conv = ConvLayer(widths[4] + 1, widths[4], 3)
        self.final_linear = nn.Sequential(
            EqualLinear(widths[4] * 16, widths[4], activate=True), EqualLinear(widths[4], 1)
        )
        self.patch, self.group = patch, group

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder_input_convs(F.pixel_unshuffle(x, self.patch))
        for block in self.encoder_convs:
            x = block(x)
        x = self.final_conv(torch.cat([x, self._variation(x)], 1))
        return self.final_linear(x.flatten(1))

    def _variation(self, x: Tensor) -> Tensor:
        """Return the mean standard deviation over each group, as one more channel."""
        group = self.group if len(x) % self.group == 0 else len(x)
        grouped = x.reshape(group, -1, *x.shape[1:])
        spread = (grouped.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
        return spread.repeat(group).view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])
