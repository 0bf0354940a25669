"""Blur with a Gaussian and shrink, in one step where that is faster.

Both are linear, and a Gaussian kernel is a sum of a few products of a column and a row: one for an isotropic kernel,
5 to 15 for most others. Blur and shrink of one product are two small matrices, so only the pixels that the shrink
looks at are ever blurred. Where the sum is long or the shrink is slight, a Fourier transform is faster. The choice
changes results by about 1e-6 at full scale 1.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from torch import Tensor

_TERM_ERROR = 1e-6
"""Sum of what a short sum of products leaves of a kernel: the largest error of a pixel, at full scale 1."""

_MOST_TERMS = 18
_FOURIER_COST = 1400
"""Multiplications of a matrix product that take as long as one pixel of the Fourier way (2 cores, MKL)."""


def gaussian_kernel(size: int, sigma_x: float, sigma_y: float, theta: float) -> np.ndarray:
    """Return a normalised bivariate Gaussian, (size, size) float32, rotated by `theta` radians."""
    axis = np.arange(size, dtype=np.float64) - (size - 1) / 2
    x, y = np.meshgrid(axis, axis)
    c, s = math.cos(theta), math.sin(theta)
    u, v = c * x + s * y, -s * x + c * y
    kernel = np.exp(-0.5 * ((u / sigma_x) ** 2 + (v / sigma_y) ** 2))
    return (kernel / kernel.sum()).astype(np.float32)


def products(kernel: np.ndarray, most: int = _MOST_TERMS) -> tuple[np.ndarray, np.ndarray] | None:
    """Split a kernel into a sum of columns times rows.

    Returns:
        Columns and rows, both (terms, size) float64, or None where more than `most` terms are needed.

    Source: adaptive cross approximation with full pivoting (Bebendorf, Approximation of boundary element matrices,
    2000); the singular values of a Gaussian fall so fast that it needs hardly more terms than the SVD.
    """
    rest = kernel.astype(np.float64)
    columns, rows = [], []
    while np.abs(rest).sum() > _TERM_ERROR:
        if len(columns) == most:
            return None
        at_row, at_column = divmod(int(np.abs(rest).argmax()), rest.shape[1])
        column, row = rest[:, at_column] / rest[at_row, at_column], rest[at_row].copy()
        columns.append(column)
        rows.append(row)
        rest -= np.outer(column, row)
    return np.array(columns), np.array(rows)


def reflect_index(size: int, margin: int) -> np.ndarray:
    """Return the pixel that each position from -margin to size + margin - 1 shows: reflect-101, as often as needed."""
    if size == 1:
        return np.zeros(1 + 2 * margin, np.int64)
    position = np.abs(np.arange(-margin, size + margin)) % (2 * size - 2)
    return np.minimum(position, 2 * size - 2 - position)


def _bilinear(size: int, out: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the left neighbour and the weight of the right one, for every output pixel; edges repeat."""
    # Rounded to float32 where OpenCV rounds, so that the pictures before JPEG differ by no more than they must.
    at = ((np.arange(out) + 0.5) * (size / out) - 0.5).astype(np.float32)
    left = np.floor(at).astype(np.int64)
    weight = at - left.astype(np.float32)
    outside = (left < 0) | (left >= size - 1)
    return np.clip(left, 0, size - 1), np.where(outside, np.float32(0), weight)


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Resize (3, H, W) float32 bilinearly, pixel centres at half, edges repeated, without antialias."""
    if tuple(image.shape[1:]) == (height, width):
        return image
    if image.device.type == "cpu" and not image.requires_grad:
        # A tenth of the time of torch's bilinear interpolation on one thread.
        out = np.empty((len(image), height, width), np.float32)
        for plane, target in zip(image.contiguous().numpy(), out, strict=True):
            cv2.resize(plane, (width, height), dst=target, interpolation=cv2.INTER_LINEAR)
        return torch.from_numpy(out)
    for axis, out_size in ((1, height), (2, width)):
        size = image.shape[axis]
        left, weight = _bilinear(size, out_size)
        first, second, share = (
            torch.from_numpy(values).to(image.device) for values in (left, np.minimum(left + 1, size - 1), weight)
        )
        low, high = image.index_select(axis, first), image.index_select(axis, second)
        image = torch.lerp(low, high, (share[:, None] if axis == 1 else share).expand_as(low))
    return image


def blur_and_shrink(image: Tensor, kernel: np.ndarray | None, height: int, width: int) -> Tensor:
    """Correlate (3, H, W) with an odd square kernel, reflect-101 at the border, and resize it bilinearly.

    Args:
        image: (3, H, W) float32.
        kernel: (k, k), or None for no blur.
        height: of the result.
        width: of the result.
    """
    if kernel is None:
        return resize(image, height, width)
    full_height, full_width = image.shape[1:]
    margin = kernel.shape[0] // 2
    sides = [_fast_length(side + 2 * margin) for side in (full_height, full_width)]
    each = 3 * height * full_width * (full_height + width)
    # Where float32 products may be rounded to bfloat16 or TF32, the Fourier way keeps the precision.
    exact = image.device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"
    most = min(_FOURIER_COST * sides[0] * sides[1] // each, _MOST_TERMS) if exact else 0
    split = products(kernel, most) if most else None
    if split is None:
        return resize(_fourier(image, kernel, sides), height, width)
    columns, rows = split
    terms = len(columns)
    # Ordered so that neither product needs a copy: (3, h, terms * W) @ (terms * W, w).
    down = _matrix(columns, full_height, height).transpose(1, 0, 2).reshape(height * terms, full_height)
    across = _matrix(rows, full_width, width).transpose(0, 2, 1).reshape(terms * full_width, width)
    blurred = torch.from_numpy(np.ascontiguousarray(down)) @ image
    return blurred.reshape(3, height, terms * full_width) @ torch.from_numpy(np.ascontiguousarray(across))


def _matrix(taps: np.ndarray, size: int, out: int) -> np.ndarray:
    """Return (terms, out, size) float32: correlate with each row of taps, then pick `out` pixels bilinearly."""
    terms, width = taps.shape
    margin = width // 2
    left, weight = _bilinear(size, out)
    share = weight.astype(np.float64)[None, :, None]
    both = np.zeros((terms, out, width + 1))
    both[..., :-1] = (1 - share) * taps[:, None]
    both[..., 1:] += share * taps[:, None]
    padded = np.zeros((terms, out, size + 2 * margin + 1), np.float32)
    padded[:, np.arange(out)[:, None], left[:, None] + np.arange(width + 1)] = both
    matrix = padded[..., margin : margin + size]
    if margin < size:
        matrix[..., 1 : margin + 1] += padded[..., :margin][..., ::-1]
        matrix[..., size - 1 - margin : size - 1] += padded[..., margin + size : -1][..., ::-1]
    else:
        index = reflect_index(size, margin)
        for position in (*range(margin), *range(margin + size, size + 2 * margin)):
            matrix[..., index[position]] += padded[..., position]
    return matrix


def _fourier(image: Tensor, kernel: np.ndarray, sides: list[int]) -> Tensor:
    margin = kernel.shape[0] // 2
    height, width = image.shape[1:]
    for axis in (1, 2):
        index = torch.from_numpy(reflect_index(image.shape[axis], margin)).to(image.device)
        image = image.index_select(axis, index)
    # The kernel is symmetric about its centre, so correlation and convolution are one. What wraps around lands in
    # the margin that is cut off.
    spectrum = torch.fft.rfft2(image, s=sides) * torch.fft.rfft2(torch.from_numpy(kernel).to(image), s=sides)
    whole = torch.fft.irfft2(spectrum, s=sides)
    start = 2 * margin
    return whole[:, start : start + height, start : start + width]


def _fast_length(least: int) -> int:
    """Return the next length whose only prime factors are 2, 3 and 5."""
    length = least
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 1
