"""Fidelity of a picture to its truth, and how sharp it is."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputMediaError
from ..media.luma import luma

_SSIM_WINDOW = 11
_SSIM_SIGMA = 1.5
_SSIM_CONSTANTS = ((0.01 * 255) ** 2, (0.03 * 255) ** 2)


def require_pair(image: Tensor, truth: Tensor) -> None:
    """Check that two batches of pictures can be compared value by value.

    Raises:
        InputMediaError: they are not (B, 3, H, W) of one shape.
    """
    if image.shape != truth.shape or image.ndim != 4 or image.shape[1] != 3:
        raise InputMediaError(
            "Cannot compare two pictures",
            found=f"found shapes {tuple(image.shape)} and {tuple(truth.shape)}, expected the same (B, 3, H, W) twice",
            kept="Both are unchanged",
            todo="Resize one to the other first",
        )


def psnr(image: Tensor, truth: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each picture, in dB, over all RGB values after rounding to 8 bit.

    Shapes: image, truth (B, 3, H, W) in [0, 1]; returns (B,), infinite where the two are equal.
    Source: the BasicSR protocol (RGB, no border crop), which the papers follow.

    Raises:
        InputMediaError: the shapes differ.
    """
    require_pair(image, truth)
    error = (_levels(image) - _levels(truth)).square().flatten(1).mean(1)
    return 10 * torch.log10(255.0**2 / error)


def ssim(image: Tensor, truth: Tensor) -> Tensor:
    """Return the structural similarity of each picture, the mean over its three channels, after rounding to 8 bit.

    Gaussian window of 11 pixels with sigma 1.5, population variances, only windows that lie wholly inside.

    Shapes: image, truth (B, 3, H, W) in [0, 1]; returns (B,) float64 on the CPU, in [-1, 1], 1 where equal.
    Source: Wang et al., "Image quality assessment", 2004, Eq. 13, in the BasicSR protocol (RGB, no border crop).

    Raises:
        InputMediaError: the shapes differ, or a side is shorter than the window.
    """
    require_pair(image, truth)
    if min(image.shape[-2:]) < _SSIM_WINDOW:
        raise InputMediaError(
            "Cannot measure SSIM",
            found=f"the pictures are {image.shape[-1]}x{image.shape[-2]}; expected {_SSIM_WINDOW} pixels a side",
            kept="Both are unchanged",
            todo="Compare larger pictures",
        )
    pairs = zip(_levels(image).cpu(), _levels(truth).cpu(), strict=True)
    return torch.tensor(
        [_ssim(*(side.permute(1, 2, 0).numpy() for side in pair)) for pair in pairs], dtype=torch.float64
    )


def laplacian_variance(image: Tensor) -> Tensor:
    """Return the variance of the 4-neighbour Laplacian of the luma in 8-bit levels: a plain measure of sharpness.

    Shapes: image (B, 3, H, W) in [0, 1]; returns (B,).
    Convention: the same as the variance of OpenCV's `Laplacian(gray, ksize=1)`, without the border.
    """
    stencil = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]], dtype=image.dtype, device=image.device)
    return F.conv2d(255.0 * luma(image), stencil.view(1, 1, 3, 3)).flatten(1).var(1, correction=0)


def _levels(image: Tensor) -> Tensor:
    """Return the 8-bit levels a picture would be saved with, float64; on the CPU where the device has no float64."""
    image = image.cpu() if image.device.type == "mps" else image
    return (image.clamp(0, 1) * 255).round().double()


def _ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Return the mean of Eq. 13 over pixels and channels: x, y (H, W, 3) float64 in 8-bit levels."""
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = _SSIM_CONSTANTS
    index = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float((index / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean())


def _blur(x: np.ndarray) -> np.ndarray:
    """Filter each channel with the Gaussian window, keeping only where it fits: (H, W, C) to (H-10, W-10, C)."""
    # OpenCV, because torch's convolution in double precision is many times slower.
    row = cv2.getGaussianKernel(_SSIM_WINDOW, _SSIM_SIGMA)
    edge = _SSIM_WINDOW // 2
    return cv2.sepFilter2D(np.ascontiguousarray(x), cv2.CV_64F, row, row)[edge:-edge, edge:-edge]
