"""A vector-quantised autoencoder: the latent space of CLR-Face, and encoder, dictionary and decoder of PLTrans.

Sources: CLR-Face Sec. 3.1, after VQGAN (Esser et al., arXiv:2012.09841) in the layout that Latent Diffusion published
as vq-f4-noattn (github.com/CompVis/latent-diffusion), whose keys these are; attention at 128 x 128 positions would cost
more than all else together. PLTrans takes RestoreFormer's sizes (arXiv:2201.06374, Sec. 3.2), which attend in several
heads at the 16 x 16 positions of their last level and in the middle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

SIGMA_DATA = 0.5
"""Standard deviation that latents are brought to: what EDM (arXiv:2206.00364) assumes of data."""

_Heads = Mapping[int, int]
"""Heads of the attention by level."""

_ROWS = 4_096
"""Positions compared with the codebook at a time: 8,192 entries make 128 MiB of distances."""


class _Block(nn.Module):
    def __init__(self, inp: int, out: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inp, eps=1e-6)
        self.conv1 = nn.Conv2d(inp, out, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out, eps=1e-6)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.nin_shortcut = nn.Identity() if inp == out else nn.Conv2d(inp, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class _Down(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class _Up(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class _Attention(nn.Module):
    def __init__(self, channels: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.GroupNorm(groups, channels, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        ways = (self.q(h), self.k(h), self.v(h))
        q, k, v = (rearrange(way, "b (n c) h w -> b n (h w) c", n=self.heads).contiguous() for way in ways)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(rearrange(mixed, "b n (h w) c -> b (n c) h w", h=x.shape[2]))


class _Middle(nn.Module):
    def __init__(self, width: int, groups: int, heads: int | None) -> None:
        super().__init__()
        self.block_1 = _Block(width, width, groups)
        self.attn_1 = nn.Identity() if heads is None else _Attention(width, heads, groups)
        self.block_2 = _Block(width, width, groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class _Level(nn.Module):
    """Blocks of one resolution, each with attention behind it or none."""

    def __init__(self, inp: int, out: int, blocks: int, groups: int, heads: int | None) -> None:
        super().__init__()
        self.block = nn.ModuleList(_Block(inp if first == 0 else out, out, groups) for first in range(blocks))
        self.attn = (
            nn.ModuleList() if heads is None else nn.ModuleList(_Attention(out, heads, groups) for _ in self.block)
        )
        self.downsample: nn.Module | None = None
        self.upsample: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        for index, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[index](x)
        resample = self.downsample or self.upsample
        return x if resample is None else resample(x)


class _Encoder(nn.Module):
    """E of CLR-Face Eq. 1, before the quantiser."""

    def __init__(self, widths: Sequence[int], blocks: int, dim: int, fold: int, groups: int, heads: _Heads) -> None:
        super().__init__()
        self.fold = fold
        self.conv_in = nn.Conv2d(3 * fold**2, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        width = widths[0]
        for depth, out in enumerate(widths):
            level = _Level(width, out, blocks, groups, heads.get(depth))
            if depth < len(widths) - 1:
                level.downsample = _Down(out)
            self.down.append(level)
            width = out
        self.mid = _Middle(width, groups, heads.get(-1))
        self.norm_out = nn.GroupNorm(groups, width, eps=1e-6)
        self.conv_out = nn.Conv2d(width, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(F.pixel_unshuffle(x, self.fold) if self.fold > 1 else x)
        for level in self.down:
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))


class _FineHead(nn.Module):
    """From features to the `fold`^2 pixels that each position becomes, without a grid.

    Each pixel of the square has weights of its own. Left to the loss they differ by a little where features are even,
    and walls and dark hair show a grid: so what the sums of the weights of a channel's pixels differ by is taken off,
    shared out among the taps, and the pixels have one bias. And no pixel sees its neighbour beyond the square, which
    shows in eyes and teeth: so two convolutions at full size follow, whose result is added to the colours.
    """

    def __init__(self, width: int, fold: int, fine: int) -> None:
        super().__init__()
        self.fold, self.channels = fold, 3 + fine // 2
        self.pixels = nn.Conv2d(width, self.channels * fold**2, 3, padding=1)
        self.fine = nn.Sequential(
            nn.Conv2d(self.channels, fine, 3, padding=1), nn.SiLU(), nn.Conv2d(fine, 3, 3, padding=1)
        )

    def forward(self, h: Tensor) -> Tensor:
        shape = (self.channels, self.fold**2)
        answers = self.pixels.weight.mean((2, 3), keepdim=True).unflatten(0, shape)
        weight = self.pixels.weight - (answers - answers.mean(1, keepdim=True)).flatten(0, 1)
        bias = self.pixels.bias.view(shape).mean(1, keepdim=True).expand(shape).flatten()  # type: ignore[union-attr]
        x = F.pixel_shuffle(F.conv2d(h, weight, bias, padding=1), self.fold)
        return x[:, :3] + self.fine(x)


class _Decoder(nn.Module):
    """G of CLR-Face Eq. 2, after the quantiser."""

    def __init__(
        self, widths: Sequence[int], blocks: int, dim: int, fold: int, groups: int, heads: _Heads, fine: int
    ) -> None:
        super().__init__()
        self.fold = fold
        width = widths[-1]
        self.conv_in = nn.Conv2d(dim, width, 3, padding=1)
        self.mid = _Middle(width, groups, heads.get(-1))
        levels: list[nn.Module] = []
        for depth, out in reversed(list(enumerate(widths))):
            level = _Level(width, out, blocks + 1, groups, heads.get(depth))
            if depth:
                level.upsample = _Up(out)
            levels.insert(0, level)  # numbered by resolution, as the encoder's
            width = out
        self.up = nn.ModuleList(levels)
        self.norm_out = nn.GroupNorm(groups, width, eps=1e-6)
        self.conv_out = _FineHead(width, fold, fine) if fine else nn.Conv2d(width, 3 * fold**2, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        h = self.conv_out(F.silu(self.norm_out(h)))
        shuffled = self.fold == 1 or isinstance(self.conv_out, _FineHead)
        return h if shuffled else F.pixel_shuffle(h, self.fold)


class VQAutoencoder(nn.Module):
    """Bring pictures to a latent space and back, with the quantiser in front of the decoder (Sec. 3.1).

    The widths are `channels` times `mult`; each but the first halves the picture, as does a `fold` of 2.
    """

    def __init__(
        self,
        channels: int = 128,
        mult: tuple[int, ...] = (1, 2, 3),
        blocks: int = 2,
        *,
        dim: int = 3,  # d of a codebook entry, and channels of the latent
        codes: int = 8192,  # K
        fold: int = 1,  # side of the square of pixels that becomes one position
        groups: int = 32,
        shortcut: bool = False,  # means of colours pass straight to the latent, and the latent to colours
        attention: tuple[int, ...] = (),  # levels whose blocks attend, counted from 0; the middle then does, too
        heads: int = 1,  # of the attention
        fine: int = 0,  # channels of convolutions at full size behind the pixels of a square of `fold`
    ) -> None:
        super().__init__()
        widths = [channels * factor for factor in mult]
        self.dim, self.codes = dim, codes
        self.factor = fold * 2 ** (len(mult) - 1)
        # -1: the middle.
        attending: _Heads = dict.fromkeys((*attention, -1), heads) if attention else {}
        self.encoder = _Encoder(widths, blocks, dim, fold, groups, attending)
        self.decoder = _Decoder(widths, blocks, dim, fold, groups, attending, fine)
        self.quant_conv = nn.Conv2d(dim, dim, 1)
        self.post_quant_conv = nn.Conv2d(dim, dim, 1)
        # Group norms forget what all of a picture has in common, its colours. A large network codes them in patterns; a
        # small one drops the axis that its training pictures have least of, and lips turn brown.
        self.shortcut_in = nn.Conv2d(3, dim, 1) if shortcut else None
        self.shortcut_out = nn.Conv2d(dim, 3, 1) if shortcut else None
        self.quantize = nn.Module()
        self.quantize.embedding = nn.Embedding(codes, dim)
        nn.init.uniform_(self.quantize.embedding.weight, -1 / codes, 1 / codes)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        self.mean: Tensor
        self.std: Tensor

    @property
    def codebook(self) -> Tensor:
        """Z, (K, dim)."""
        return self.quantize.embedding.weight  # type: ignore[return-value, union-attr]

    def encode(self, x: Tensor) -> Tensor:
        """Return z = E(x), not quantised: (B, 3, H, W) in [-1, 1] to (B, dim, H / factor, W / factor)."""
        z = self.quant_conv(self.encoder(x))
        return z if self.shortcut_in is None else z + self.shortcut_in(F.avg_pool2d(x, self.factor))

    def nearest(self, z: Tensor) -> Tensor:
        """Return the number of the entry nearest to each position, (B, h, w)."""
        batch, dim, height, width = z.shape
        # Half precision would choose among neighbours by chance.
        codebook = self.codebook.detach()
        codebook = codebook.to(torch.promote_types(codebook.dtype, torch.float32))
        rows = z.detach().permute(0, 2, 3, 1).reshape(-1, dim).to(codebook.dtype)
        with torch.autocast(z.device.type, enabled=False):
            half = codebook.square().sum(1) / 2
            # |z - c|^2 = |z|^2 - 2 z.c + |c|^2, of which the first term changes no order.
            found = [torch.addmm(half, part, codebook.T, alpha=-1).argmin(1) for part in rows.split(_ROWS)]
        return torch.cat(found).view(batch, height, width)

    def quantise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return z_q = Q(z) (Eq. 1), whose gradient reaches the codebook, and the numbers of its entries."""
        numbers = self.nearest(z)
        return F.embedding(numbers, self.codebook).permute(0, 3, 1, 2), numbers

    def decode(self, z: Tensor, *, straight_through: bool = True) -> Tensor:
        """Return G(Q(z)), (B, 3, H, W) in about [-1, 1].

        Args:
            z: latents, (B, dim, h, w), in the codebook's units.
            straight_through: let the gradient pass the quantiser unchanged (Sec. 3.3), to `z`.
        """
        quantised, _ = self.quantise(z)
        if straight_through:
            quantised = z + (quantised - z).detach()
        return self.decode_codes(quantised)

    def decode_codes(self, z: Tensor) -> Tensor:
        """Return G(z) of latents that are quantised already, or deliberately not."""
        x = self.decoder(self.post_quant_conv(z))
        if self.shortcut_out is None:
            return x
        return x + F.interpolate(self.shortcut_out(z), size=x.shape[-2:], mode="bilinear", align_corners=False)

    def normalise(self, z: Tensor) -> Tensor:
        """Bring latents of E to mean 0 and standard deviation SIGMA_DATA in each channel."""
        return (z - self.mean.view(1, -1, 1, 1)) / self.std.view(1, -1, 1, 1) * SIGMA_DATA

    def denormalise(self, z: Tensor) -> Tensor:
        """Undo `normalise`."""
        return z / SIGMA_DATA * self.std.view(1, -1, 1, 1) + self.mean.view(1, -1, 1, 1)
