"""Keys and values from a dictionary of clean faces, and the attention that uses them (paper Sec. 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...networks.unet import AttentionBlock

_ROWS = 4_096
"""Positions compared with the dictionary at a time."""


class LightTransformer(nn.Module):
    """Phi of Eq. 7: one block with norms first, whose queries come from z and whose keys and values from e_z.

    The paper gives no sizes. What runs through the block is z - e_z, which the entries leave out of z: Eq. 7 adds e_z,
    whose steps show as patches in flat parts of a picture and as stairs along edges, and only from there can Phi smooth
    them. It starts with half of that for k, and with nothing for v.

    Shapes: e_z and z (B, T, dim), a position in each row; returns (B, T, 2 dim).
    """

    def __init__(self, dim: int, heads: int, expansion: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.norm_z, self.norm_e, self.norm_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key_value = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, expansion * dim), nn.GELU(), nn.Linear(expansion * dim, dim))
        self.out = nn.Linear(dim, 2 * dim)
        for last in (self.proj, self.mlp[2], self.out):
            nn.init.zeros_(last.weight)  # type: ignore[arg-type]
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            self.out.weight[:dim].fill_diagonal_(0.5)

    def forward(self, e_z: Tensor, z: Tensor) -> Tensor:
        key, value = self.key_value(self.norm_e(e_z)).chunk(2, dim=-1)
        parts = (self.query(self.norm_z(z)), key, value)
        heads = [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts]
        mixed = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        h = z - e_z + self.proj(mixed)
        return self.out(h + self.mlp(self.norm_mlp(h)))


class PriorKeyValue(nn.Module):
    """From features q to keys and values that are made of entries of V (Eq. 5 to 7).

    Shapes: q, z, e_z, k and v (B, dim, h, w); the dictionary V (K, dim).
    """

    def __init__(
        self,
        dim: int,
        *,
        top: int = 8,  # d, entries that are fetched for each position
        heads: int = 4,  # of both attentions
        groups: int = 8,  # of the norm before the first
    ) -> None:
        super().__init__()
        self.top = top
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)
        # With what the attention starts as, z = q: entries near it mean something before anything is trained.
        nn.init.dirac_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]
        self.attention = AttentionBlock(dim, head=dim // heads, groups=groups)
        # r of Eq. 6, at the start the mean: it is nearer to z than the nearest entry, as their errors are independent.
        self.r = nn.Parameter(torch.full((top,), 1 / top))
        self.phi = LightTransformer(dim, heads)

    def compared(self, q: Tensor) -> Tensor:
        """Return z, what is compared with the dictionary: "convolution and self-attention operations" on q."""
        return self.attention(self.conv(q))

    def nearest(self, z: Tensor, dictionary: Tensor) -> Tensor:
        """Return the numbers of the d entries nearest to each position, the nearest first, (B, h, w, d).

        Eq. 5 prints arg min, its text the top d.
        """
        batch, dim, height, width = z.shape
        # Half precision would choose among neighbours by chance.
        entries = dictionary.detach().to(torch.promote_types(dictionary.dtype, torch.float32))
        rows = z.detach().permute(0, 2, 3, 1).reshape(-1, dim).to(entries.dtype)
        with torch.autocast(z.device.type, enabled=False):
            half = entries.square().sum(1) / 2
            # |e - z|^2 = |z|^2 - 2 z.e + |e|^2, of which the first term changes no order.
            found = [
                torch.addmm(half, part, entries.T, alpha=-1).topk(self.top, largest=False).indices
                for part in rows.split(_ROWS)
            ]
        return torch.cat(found).view(batch, height, width, self.top)

    def combined(self, numbers: Tensor, dictionary: Tensor) -> Tensor:
        """Return e_z = sum r_l e_(l) (Eq. 6) of the entries with these numbers, (B, h, w, d)."""
        batch, height, width, top = numbers.shape
        weights = self.r.to(dictionary).expand(batch * height * width, top)
        found = F.embedding_bag(numbers.view(-1, top), dictionary, per_sample_weights=weights, mode="sum")
        return found.view(batch, height, width, -1).permute(0, 3, 1, 2)

    def forward(
        self, q: Tensor, dictionary: Tensor, *, retrieve: bool = True, transform: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Return k and v (Eq. 7).

        Args:
            q: features of a degraded face.
            dictionary: V.
            retrieve: off: "w/o V" of Table 1, e_z = z.
            transform: off: "w/o LT" of Table 1, k = v = e_z.
        """
        z = self.compared(q)
        e_z = self.combined(self.nearest(z, dictionary), dictionary) if retrieve else z
        if not transform:
            return e_z, e_z
        told = self.phi(_tokens(e_z), _tokens(z)).transpose(1, 2).unflatten(2, q.shape[2:])
        k, v = told.chunk(2, dim=1)
        return k + e_z, v + e_z


class CrossAttention(nn.Module):
    """z_hat = Conv(softmax(Q K^T / sqrt(N)) V) + k, with one head (Eq. 8 and 9).

    The convolution starts at zero: z_hat = k, and the decoder sees what it was made for.

    Shapes: q_hat, k, v and the result (B, dim, h, w).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))  # W and b of Eq. 9
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, q_hat: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts = (self.query(_tokens(q_hat)), self.key(_tokens(k)), self.value(_tokens(v)))
        # By itself it divides by the root of the last side, which is N.
        mixed = F.scaled_dot_product_attention(*(part[:, None] for part in parts))[:, 0]
        return self.conv(mixed.transpose(1, 2).reshape(q_hat.shape)) + k


def _tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)
