"""SwinIR with pixel-unshuffle: the identity recovery network in the size both papers quote, about 16 M parameters.

Source: Liang et al., "SwinIR", arXiv:2108.10257, Sec. 3; sizes of the face restorer that DifFace publishes
(unshuffle 8, embedding 180, 8 groups of 6 blocks, 6 heads, window 8, MLP ratio 2, nearest + conv upsampling), whose
parameter layout this module keeps so that published files load. Attention runs through PyTorch's fused kernel.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F


def _relative_index(window: int) -> Tensor:
    """Return, for each pair of tokens in a window, the row of the bias table for their offset."""
    axis = torch.arange(window)
    y, x = (grid.flatten() for grid in torch.meshgrid(axis, axis, indexing="ij"))
    dy, dx = y[:, None] - y[None, :] + window - 1, x[:, None] - x[None, :] + window - 1
    return dy * (2 * window - 1) + dx


def _shift_mask(height: int, width: int, window: int, shift: int) -> Tensor:
    """Return which tokens may not attend to each other after a cyclic shift: (windows, N, N), 0 or -100.

    The shift brings opposite borders into one window; tokens of different borders must stay strangers.
    """
    edges = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    label = torch.zeros(height, width)
    for number, (rows, columns) in enumerate((r, c) for r in edges for c in edges):
        label[rows, columns] = number
    tokens = rearrange(label, "(h p) (w q) -> (h w) (p q)", p=window, q=window)
    return (tokens[:, None, :] != tokens[:, :, None]).float() * -100.0


class WindowAttention(nn.Module):
    """Self-attention within windows, with a learnt bias per offset (Eq. 5 of SwinIR)."""

    relative_position_index: Tensor

    def __init__(self, dim: int, window: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", _relative_index(window))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within each window: x (B * windows, N, C); mask (windows, N, N) or None."""
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        bias = rearrange(self.relative_position_bias_table[self.relative_position_index], "n m h -> 1 h n m")
        if mask is not None:
            bias = bias + mask.to(bias.dtype).repeat(x.shape[0] // mask.shape[0], 1, 1)[:, None]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return self.proj(rearrange(out, "b h n d -> b n (h d)"))


class _Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """LayerNorm, (shifted) window attention, LayerNorm, MLP, each with a residual."""

    def __init__(self, dim: int, heads: int, window: int, shift: int, mlp_ratio: float, resolution: int) -> None:
        super().__init__()
        self.window, self.shift, self.resolution = window, shift, resolution
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = _Mlp(dim, int(dim * mlp_ratio))
        mask = _shift_mask(resolution, resolution, window, shift) if shift else None
        self.register_buffer("attn_mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x (B, H, W, C), H and W multiples of the window."""
        height, width = x.shape[1:3]
        h = self.norm1(x)
        mask = None
        if self.shift:
            h = torch.roll(h, (-self.shift, -self.shift), (1, 2))
            mask = self.attn_mask
            if (height, width) != (self.resolution, self.resolution):
                mask = _shift_mask(height, width, self.window, self.shift).to(x)
        h = rearrange(h, "b (h p) (w q) c -> (b h w) (p q) c", p=self.window, q=self.window)
        h = self.attn(h, mask)
        h = rearrange(
            h, "(b h w) (p q) c -> b (h p) (w q) c", h=height // self.window, w=width // self.window, p=self.window
        )
        if self.shift:
            h = torch.roll(h, (self.shift, self.shift), (1, 2))
        x = x + h
        return x + self.mlp(self.norm2(x))


class _ResidualGroup(nn.Module):
    def __init__(self, dim: int, depth: int, heads: int, window: int, mlp_ratio: float, resolution: int) -> None:
        super().__init__()
        self.residual_group = nn.Module()
        self.residual_group.blocks = nn.ModuleList(
            SwinBlock(dim, heads, window, window // 2 if index % 2 else 0, mlp_ratio, resolution)
            for index in range(depth)
        )
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for block in self.residual_group.blocks:  # type: ignore[union-attr]
            h = block(h)
        h = self.conv(rearrange(h, "b h w c -> b c h w"))
        return x + rearrange(h, "b c h w -> b h w c")


class _PatchEmbed(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(rearrange(x, "b c h w -> b h w c"))


class SwinIR(nn.Module):
    """Restore a face with shifted-window attention at 1/8 resolution.

    Shapes: x (B, 3, H, W) RGB [0, 1], H and W multiples of unshuffle * window; returns the same shape, not clamped.
    """

    def __init__(
        self,
        size: int = 512,  # side of the picture the stored attention masks are for
        unshuffle: int = 8,  # the picture is folded by this before anything else
        dim: int = 180,  # channels of the body
        depths: tuple[int, ...] = (6, 6, 6, 6, 6, 6, 6, 6),  # blocks of each group
        heads: int = 6,  # attention heads
        window: int = 8,  # side of a window, in tokens
        mlp_ratio: float = 2.0,  # hidden width of the MLP over dim
        features: int = 64,  # channels of the upsampling tail
    ) -> None:
        super().__init__()
        self.conv_first = nn.Sequential(nn.PixelUnshuffle(unshuffle), nn.Conv2d(3 * unshuffle**2, dim, 3, padding=1))
        self.patch_embed = _PatchEmbed(dim)
        self.layers = nn.ModuleList(
            _ResidualGroup(dim, depth, heads, window, mlp_ratio, size // unshuffle) for depth in depths
        )
        self.norm = nn.LayerNorm(dim)
        self.conv_after_body = nn.Conv2d(dim, dim, 3, padding=1)
        self.conv_before_upsample = nn.Sequential(nn.Conv2d(dim, features, 3, padding=1), nn.LeakyReLU())
        self.conv_up1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv_up2 = nn.Conv2d(features, features, 3, padding=1)
        self.conv_up3 = nn.Conv2d(features, features, 3, padding=1)
        self.conv_hr = nn.Conv2d(features, features, 3, padding=1)
        self.conv_last = nn.Conv2d(features, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.conv_first(x)
        h = self.patch_embed(shallow)
        for layer in self.layers:
            h = layer(h)
        h = shallow + self.conv_after_body(rearrange(self.norm(h), "b h w c -> b c h w"))
        h = self.conv_before_upsample(h)
        for conv in (self.conv_up1, self.conv_up2, self.conv_up3):
            h = F.leaky_relu(conv(F.interpolate(h, scale_factor=2.0, mode="nearest")), 0.2)
        return self.conv_last(F.leaky_relu(self.conv_hr(h), 0.2))
