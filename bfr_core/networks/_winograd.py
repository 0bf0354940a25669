"""3x3 convolutions by Winograd's minimal filtering: 36 multiplications for 16 outputs in place of 144.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308, Sec. 4.1 and the matrices
of F(4x4, 3x3) there. The sum is the same in another order; in float32 it differs from the direct one by 1e-5 of its
largest value.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ._cached import Cached

_INPUT = [
    [4.0, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
_KERNEL = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0.0, 0, 1],
]
_OUTPUT = [[1.0, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]

_STRIP = 4 << 20
"""Bytes of transformed tiles at a time, so that they stay in the cache."""


def convolve(
    x: Tensor,
    weight: Tensor,
    kept: Cached | None,
    *,
    dilation: int = 1,
    gain: float = 1.0,
    bias: Tensor | None = None,
) -> Tensor:
    """Convolve maps and keep their size: gain * (x * weight) + bias, by whichever way is faster.

    Shapes: x (B, I, H, W), weight (O, I, k, k) or (1, O, I, k, k) with k odd, bias (O,); returns (B, O, H, W).

    Args:
        x: the maps.
        weight: the kernels.
        kept: keeps the transformed weight, four times the memory of the weight, where that way is taken; None for
            a weight that is no parameter.
        dilation: of the kernel.
        gain: factor.
        bias: added last.
    """
    if kept is not None and pays(x, weight, dilation):
        return _convolve(x, kept(lambda: _transformed(weight), weight), dilation, gain, bias)
    weight = weight.view(weight.shape[-4:])
    if gain != 1:
        weight = weight * gain
    return F.conv2d(x, weight, bias, padding=dilation * (weight.shape[-1] // 2), dilation=dilation)


def pays(x: Tensor, weight: Tensor, dilation: int = 1) -> bool:
    """Tell whether the arithmetic saved is worth the passes over the maps: measured on AVX2."""
    out, inp, kernel = weight.shape[-4:-1]
    height, width = x.shape[2:]
    return (
        kernel == 3
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and height % (4 * dilation) == width % (4 * dilation) == 0
        and height * width >= 32**2
        and ((inp >= 512 and out >= 128) or (inp >= 256 and out >= 256))
    )


def _matrix(rows: list[list[float]], like: Tensor) -> Tensor:
    """Return the Kronecker square of a matrix: a transform along both sides of a tile."""
    matrix = torch.tensor(rows, dtype=like.dtype, device=like.device)
    return torch.kron(matrix, matrix)


def _transformed(weight: Tensor) -> Tensor:
    """Return the kernels in the transform's space, (36, I, O)."""
    weight = weight.view(weight.shape[-4:])
    out, inp = weight.shape[:2]
    return (_matrix(_KERNEL, weight) @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(36, inp, out)


def _convolve(x: Tensor, kernels: Tensor, dilation: int, gain: float, bias: Tensor | None) -> Tensor:
    batch, inp, height, width = x.shape
    out = kernels.shape[-1]
    forth, back = _matrix(_INPUT, x), _matrix(_OUTPUT, x) * gain
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, *[dilation] * 4))
    # A dilated convolution is a plain one of each phase, the pixels that lie `dilation` apart.
    phase = (dilation, width // (4 * dilation), dilation)
    row, column = padded.stride(1), padded.stride(2)
    down, across = 4 * dilation * row, 4 * dilation * column
    rows = height // (4 * dilation)
    step = max(1, _STRIP // (36 * 4 * inp * dilation * width // 4))
    result = x.new_empty(batch, rows, 4, phase[0], phase[1], 4, phase[2], out)
    for picture, written in zip(padded, result, strict=True):
        for first in range(0, rows, step):
            count = min(step, rows - first)
            tiles = picture.as_strided(
                (6, 6, count, *phase, inp),
                (dilation * row, dilation * column, down, row, across, column, 1),
                picture.storage_offset() + first * down,
            )
            products = torch.bmm((forth @ tiles.reshape(36, -1)).view(36, -1, inp), kernels)
            strip = back @ products.view(36, -1)
            if bias is not None:
                strip.view(-1, out).add_(bias)
            written[first : first + count] = strip.view(4, 4, count, *phase, out).permute(2, 0, 3, 4, 1, 5, 6)
    return result.view(batch, height, width, out).permute(0, 3, 1, 2)
