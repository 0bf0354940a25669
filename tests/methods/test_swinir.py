"""SwinIR against its published layout and an independent float64 evaluation of its equations."""

from __future__ import annotations

import math

import numpy as np
import torch

from bfr_core.networks.swinir import SwinBlock, SwinIR

# Layout of the published face restorer: a sample of its keys with their shapes, and the count of all.
PUBLISHED = {
    "conv_first.1.weight": (180, 192, 3, 3),
    "patch_embed.norm.bias": (180,),
    "layers.0.residual_group.blocks.0.attn.relative_position_bias_table": (225, 6),
    "layers.0.residual_group.blocks.0.attn.relative_position_index": (64, 64),
    "layers.7.residual_group.blocks.5.attn_mask": (64, 64, 64),
    "layers.7.residual_group.blocks.5.mlp.fc1.weight": (360, 180),
    "layers.7.conv.weight": (180, 180, 3, 3),
    "conv_before_upsample.0.weight": (64, 180, 3, 3),
    "conv_up3.bias": (64,),
    "conv_hr.weight": (64, 64, 3, 3),
    "conv_last.weight": (3, 64, 3, 3),
}


def test_layout_and_size_are_the_published_ones():
    with torch.device("meta"):
        net = SwinIR()
    shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    assert len(shapes) == 732 and PUBLISHED.items() <= shapes.items()
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 2) == 15.79
    assert "layers.0.residual_group.blocks.0.attn_mask" not in shapes


def block_by_hand(block: SwinBlock, x: np.ndarray) -> np.ndarray:
    """Evaluate one block token by token, from the paper: no windows, no rolls, no tables of indices.

    A token attends to those of its window of the shifted grid that lie in the same piece of the picture.
    """
    weights = {key: value.double().numpy() for key, value in block.state_dict().items()}
    height, width, dim = x.shape
    window, shift, heads = block.window, block.shift, block.attn.heads
    depth = dim // heads

    def norm(value, name):
        value = value - value.mean(-1, keepdims=True)
        value = value / np.sqrt((value**2).mean(-1, keepdims=True) + 1e-5)
        return value * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def gelu(value):
        return value * 0.5 * (1 + np.vectorize(math.erf)(value / math.sqrt(2)))

    qkv = norm(x, "norm1") @ weights["attn.qkv.weight"].T + weights["attn.qkv.bias"]
    q, k, v = (qkv[..., part * dim : (part + 1) * dim].reshape(height, width, heads, depth) for part in range(3))
    table = weights["attn.relative_position_bias_table"]

    def place(i, j):
        i, j = (i - shift) % height, (j - shift) % width  # position in the shifted picture
        # Rows that the shift has wrapped around are another piece than those beside them.
        piece = (i >= height - shift if shift else False, j >= width - shift if shift else False)
        return (i // window, j // window), piece, (i % window, j % window)

    out = np.zeros_like(x)
    positions = [(i, j) for i in range(height) for j in range(width)]
    for here in positions:
        cell, piece, (row, column) = place(*here)
        mates = [there for there in positions if place(*there)[:2] == (cell, piece)]
        for head in range(heads):
            scores = []
            for there in mates:
                other_row, other_column = place(*there)[2]
                bias = table[(row - other_row + window - 1) * (2 * window - 1) + column - other_column + window - 1]
                scores.append(q[here][head] @ k[there][head] / math.sqrt(depth) + bias[head])
            share = np.exp(np.array(scores) - max(scores))
            share /= share.sum()
            mixed = sum(s * v[there][head] for s, there in zip(share, mates, strict=True))
            out[here][head * depth : (head + 1) * depth] = mixed
    x = x + out @ weights["attn.proj.weight"].T + weights["attn.proj.bias"]
    h = gelu(norm(x, "norm2") @ weights["mlp.fc1.weight"].T + weights["mlp.fc1.bias"])
    return x + h @ weights["mlp.fc2.weight"].T + weights["mlp.fc2.bias"]


def test_blocks_agree_with_the_equations():
    torch.manual_seed(0)
    for shift in (0, 2):
        for height, width in ((8, 8), (8, 12)):  # the second: masks made on the fly
            block = SwinBlock(12, heads=3, window=4, shift=shift, mlp_ratio=2.0, resolution=8)
            for parameter in block.parameters():
                torch.nn.init.normal_(parameter, std=0.3)
            x = torch.randn(1, height, width, 12)
            with torch.no_grad():
                ours = block(x)[0].numpy()
            truth = block_by_hand(block, x[0].double().numpy())
            assert np.abs(ours - truth).max() < 1e-4 * np.abs(truth).max()


def test_other_sizes_run():
    net = SwinIR(size=128, dim=12, depths=(2,), heads=2, features=4)
    with torch.no_grad():
        assert net(torch.rand(1, 3, 128, 192)).shape == (1, 3, 128, 192)
