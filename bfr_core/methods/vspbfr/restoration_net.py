"""The restoration auto-encoder G (paper Sec. III-C, Eqs. 6 to 8).

`RestorationNet` is what was released, in the layout of its files; `PrintedRestorationNet` is what the text says. The
class of each config is named in its declaration.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...networks._cached import Cached
from ...networks._winograd import convolve, pays
from ...networks.stylegan2 import (
    FFHQ_WIDTHS,
    Bias,
    ConvLayer,
    EqualConv2d,
    EqualLinear,
    MappingNetwork,
    Noise,
    NoiseInjection,
    StyledConv,
    ToRGB,
    Widths,
    arranged,
    demodulation,
    full_precision,
    in_weight,
    plus,
    sides,
    silent,
    token_count,
)

DILATIONS = (1, 2, 4, 8)
"""d of Eq. 8."""
UNDILATED = (1, 1, 1, 1)
"""Ablation (b): at a dilation of 1 a SMART layer is a style layer again (Sec. IV-E)."""


class _Weight(nn.Module):
    equalised = True

    def __init__(self, out: int, inp: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, out, inp, 3, 3))


def calm(fusion: ConvLayer) -> None:
    """Let a fresh aggregation start at a lower gain.

    Its second activation meets values that are mostly positive and multiplies them by sqrt 2, which over fifteen layers
    would make a picture a hundred times too bright.
    """
    with torch.no_grad():
        fusion[0].weight.mul_(0.5**0.5)  # type: ignore[union-attr]


class Smart(nn.Module):
    """Style-modulated aggregation transformation as released: a quarter of the channels for each dilation.

    Shapes: x (B, inp, H, W); prompt (B, style_dim); returns (B, out, H, W).

    Against Eq. 8: each dilation has weights of its own, no activation follows a branch, noise and a second activation
    follow the aggregation.
    """

    def __init__(self, inp: int, out: int, style_dim: int) -> None:
        super().__init__()
        self.ModulatedConv2ds = nn.ModuleList(_Weight(out // len(DILATIONS), inp) for _ in DILATIONS)
        self.modulation = EqualLinear(style_dim, inp, bias=1.0)
        self.fusion = ConvLayer(out, out, 3)
        self.noise = NoiseInjection()
        self.activate = Bias(out)
        calm(self.fusion)
        self.scale = (9 * inp) ** -0.5
        self._energies, self._kept = ([Cached() for _ in DILATIONS] for _ in range(2))

    def forward(
        self, x: Tensor, prompt: Tensor, noise: Noise, name: str, dilations: Sequence[int] = DILATIONS
    ) -> Tensor:
        x, weights = arranged(x), [branch.weight for branch in self.ModulatedConv2ds]
        kept: Sequence[Cached | None] = self._kept
        with full_precision(x):
            s = self.modulation(prompt.to(weights[0].dtype))  # s = FC(w_bar)
            gain = s[:, :, None, None] * self.scale
            back = [demodulation(w, self.scale, s, energy) for w, energy in zip(weights, self._energies, strict=True)]
        if folded := in_weight(x, weights[0]) and not pays(x, weights[0]):
            weights = [w * gain * b[..., None] for w, b in zip(weights, back, strict=True)]
            kept = [None] * len(weights)
        else:
            x = x * gain.to(x.dtype)
        x = torch.cat([convolve(x, w, k, dilation=d) for w, k, d in zip(weights, kept, dilations, strict=True)], 1)
        if not folded:
            x = x * torch.cat(back, 1).to(x.dtype)
        x = self.fusion(x, 2.0)
        x = plus(x, self.activate.scaled(x))
        return F.leaky_relu_(self.noise(x, noise(name, x.shape[-1])), 0.2)


class PrintedSmart(nn.Module):
    """The SMART layer of Eq. 8: one modulated kernel k' over all dilations, phi after each, 3x3 aggregation."""

    equalised = True

    def __init__(self, inp: int, out: int, style_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, out, inp, 3, 3))
        self.modulation = EqualLinear(style_dim, inp, bias=1.0)
        self.fusion = EqualConv2d(len(DILATIONS) * out, out, 3)
        self.scale = (9 * inp) ** -0.5
        self._energy, self._kept = Cached(), Cached()

    def forward(
        self, x: Tensor, prompt: Tensor, noise: Noise, name: str, dilations: Sequence[int] = DILATIONS
    ) -> Tensor:
        x = arranged(x)
        with full_precision(x):
            s = self.modulation(prompt.to(self.weight.dtype))
            back = demodulation(self.weight, self.scale, s, self._energy)
        x = x * (s[:, :, None, None] * self.scale).to(x.dtype)
        branches = (convolve(x, self.weight, self._kept, dilation=d) for d in dilations)
        maps = [F.leaky_relu_(branch * back.to(x.dtype), 0.2) for branch in branches]  # phi
        return self.fusion(torch.cat(maps, 1))


class BilinearStyledConv(StyledConv):
    """SC(F) halved, or SC of F doubled, bilinearly as Eqs. 6 and 7 print."""

    def __init__(self, inp: int, out: int, style_dim: int, *, resample: str) -> None:
        super().__init__(inp, out, style_dim)
        self.resample = resample

    def forward(self, x: Tensor, prompt: Tensor, noise: Noise, name: str) -> Tensor:
        if self.resample == "up":
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = super().forward(x, prompt, noise, name)
        if self.resample == "down":
            x = F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False)
        return x


class _DilatedLayer(nn.Module):
    """The unmodulated kin of Smart at both ends of the encoder."""

    def __init__(self, inp: int, out: int, kernel: int) -> None:
        super().__init__()
        quarter = out // len(DILATIONS)
        self.dilated_convs = nn.ModuleList(EqualConv2d(inp, quarter, kernel, dilation=d) for d in DILATIONS)
        self.fusion = ConvLayer(out, out, 1)
        self.activate = Bias(out)
        calm(self.fusion)

    def forward(self, x: Tensor) -> Tensor:
        x = arranged(x)
        x = self.fusion(torch.cat([conv(x) for conv in self.dilated_convs], 1), 2.0)
        return F.leaky_relu_(plus(x, self.activate.scaled(x)), 0.2)


class _AutoEncoder(nn.Module):
    """What both forms share: the encoder of Eq. 6 and the mapping network F."""

    smart: type[nn.Module]
    styled: type[StyledConv]

    def __init__(self, size: int, style_dim: int, widths: Widths, patch: int, depth: int) -> None:
        super().__init__()
        self.side, self.style_dim, self.patch, self.tokens = size // patch, style_dim, patch, token_count(size // patch)
        self.style = MappingNetwork(style_dim, depth)
        layers: list[nn.Module] = []
        for side in reversed(sides(self.side)[1:]):
            layers.append(self.smart(widths[side], widths[side], 2 * style_dim))
            layers.append(self.styled(widths[side], widths[side // 2], 2 * style_dim, resample="down"))
        self.encoder_convs = nn.ModuleList(layers)
        self._average = Cached()

    def mean_style(self) -> Tensor:
        """Return the mean of F(z), (style_dim,): a style that no seed chose."""
        first = next(self.style.parameters())

        def compute() -> Tensor:
            z = torch.randn(4096, self.style_dim, generator=torch.Generator().manual_seed(0))
            return self.style(z.to(first)).mean(0)

        return self._average(compute, *self.style.parameters())

    def _encode(
        self, x: Tensor, prompts: Sequence[Tensor], noise: Noise, dilations: Sequence[int]
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the last map and those of the SMART layers, largest first (Eq. 6)."""
        skips = []
        for index in range(0, len(self.encoder_convs), 2):
            x = self.encoder_convs[index](x, prompts[index], noise, f"encoder.{index}", dilations)
            skips.append(x)
            x = self.encoder_convs[index + 1](x, prompts[index + 1], noise, f"encoder.{index + 1}")
        return x, skips


class RestorationNet(_AutoEncoder):
    """G as released.

    Args:
        size: side of the faces.
        style_dim: features of a code.
        widths: channels of each side of a map; the bank's from 8 px on.
        patch: side of the square of pixels that one position of the largest map reads and writes. The released net
            has 1; 2 costs a quarter at the largest side.
        depth: layers of the mapping network.
    """

    smart, styled = Smart, StyledConv

    def __init__(
        self, size: int = 512, style_dim: int = 512, widths: Widths = FFHQ_WIDTHS, patch: int = 1, depth: int = 8
    ) -> None:
        super().__init__(size, style_dim, widths, patch, depth)
        low, code = widths[4], 2 * widths[4]
        prompt = 2 * style_dim + code
        self.down_from_big = _DilatedLayer(3 * patch**2, widths[self.side], 1)
        self.final_layer = _DilatedLayer(low, low, 3)
        self.final_linear = nn.Sequential(EqualLinear(16 * low, code, activate=True), nn.Dropout(0.5))
        self.final_transfer = EqualLinear(code, 16 * low, activate=True)
        self.conv1 = Smart(low, low, prompt)
        self.to_rgb1 = ToRGB(low, prompt)
        levels = sides(self.side)[1:]
        convs: list[nn.Module] = []
        for side in levels:
            convs.append(StyledConv(widths[side // 2], widths[side], prompt, resample="up"))
            convs.append(Smart(widths[side], widths[side], prompt))
        self.convs = nn.ModuleList(convs)
        self.to_rgbs = nn.ModuleList(
            ToRGB(widths[side], prompt, patch=patch if side == self.side else 1) for side in levels
        )

    def forward(
        self,
        x: Tensor,
        codes: Tensor,
        styles: Tensor,
        bank: Sequence[Tensor] | None,
        noise: Noise = silent,
        dilations: Sequence[int] = DILATIONS,
    ) -> Tensor:
        """Restore.

        Shapes: x (B, 3, size, size) RGB [-1, 1]; returns the same, not clamped.

        Args:
            x: I_de.
            codes: w^0, (B, tokens or more, style_dim); those beyond `tokens` belong to sides the net does not have.
            styles: z_hat for each code, (B, tokens, style_dim).
            bank: F^s from 4 px on, one for each side; None for none (ablation d).
            noise: noise of the layers `encoder.N` and `decoder.N`.
            dilations: of the SMART layers.
        """
        prompts = torch.cat([codes[:, : self.tokens], styles], -1)  # [w_i, z_hat]
        # The released encoder takes the codes from the last, and the two layers of a side share one.
        flipped = prompts.flip(1)
        shared = [flipped[:, index - index % 2] for index in range(len(self.encoder_convs))]
        x = self.down_from_big(F.pixel_unshuffle(x, self.patch))
        x, skips = self._encode(x, shared, noise, dilations)

        x = self.final_layer(x)
        c = self.final_linear(x.flatten(1))
        x = x + self.final_transfer(c).view(x.shape)
        full = torch.cat([prompts, c[:, None].expand(-1, self.tokens, -1)], -1)  # [w_i, z_hat, c]

        x = self.conv1(x, full[:, 0], noise, "decoder.0", dilations)
        picture = self.to_rgb1(x, full[:, 1], None)
        for level, skip in enumerate(reversed(skips)):
            first = 2 * level + 1
            x = self.convs[2 * level](x, full[:, first], noise, f"decoder.{first}")
            x = plus(x, skip) if bank is None else plus(plus(x, skip), bank[level + 1])  # f of Eq. 7
            x = self.convs[2 * level + 1](x, full[:, first + 1], noise, f"decoder.{first + 1}", dilations)
            picture = self.to_rgbs[level](x, full[:, first + 2], picture)
        return picture


class PrintedRestorationNet(_AutoEncoder):
    """G as Eqs. 6 and 7 print it; arguments and call as for RestorationNet.

    Layer i takes code i in encoder and decoder alike; c = FC(F_N) and F_0 = Conv(F_N) are plain, the picture is one
    convolution of the last map.
    """

    smart, styled = PrintedSmart, BilinearStyledConv

    def __init__(
        self, size: int = 512, style_dim: int = 512, widths: Widths = FFHQ_WIDTHS, patch: int = 1, depth: int = 8
    ) -> None:
        super().__init__(size, style_dim, widths, patch, depth)
        low, code = widths[4], 2 * style_dim  # c is 512 x 2
        prompt = 2 * style_dim + code
        self.stem = EqualConv2d(3 * patch**2, widths[self.side], 3)
        self.final_linear = EqualLinear(16 * low, code)
        self.first = EqualConv2d(low, low, 3)
        layers: list[nn.Module] = []
        for side in sides(self.side)[1:]:
            layers.append(BilinearStyledConv(widths[side // 2], widths[side], prompt, resample="up"))
            layers.append(PrintedSmart(widths[side], widths[side], prompt))
        self.decoder_convs = nn.ModuleList(layers)
        self.head = EqualConv2d(widths[self.side], 3 * patch**2, 3)

    def forward(
        self,
        x: Tensor,
        codes: Tensor,
        styles: Tensor,
        bank: Sequence[Tensor] | None,
        noise: Noise = silent,
        dilations: Sequence[int] = DILATIONS,
    ) -> Tensor:
        prompts = torch.cat([codes[:, : self.tokens], styles], -1)
        x = self.stem(F.pixel_unshuffle(x, self.patch))  # F_0 = Conv(I_de)
        x, skips = self._encode(x, prompts.unbind(1), noise, dilations)
        c = self.final_linear(x.flatten(1))
        full = torch.cat([prompts, c[:, None].expand(-1, self.tokens, -1)], -1)
        x = self.first(x)
        for level, skip in enumerate(reversed(skips)):
            odd = 2 * level
            x = self.decoder_convs[odd](x, full[:, odd], noise, f"decoder.{odd}")
            x = x + skip if bank is None else x + skip + bank[level + 1]
            x = self.decoder_convs[odd + 1](x, full[:, odd + 1], noise, f"decoder.{odd + 1}", dilations)
        return F.pixel_shuffle(self.head(x), self.patch)
