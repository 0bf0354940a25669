"""Fidelity of a picture to its truth, and how sharp it is."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputMediaError


def psnr(image: Tensor, truth: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each picture, in dB, over all RGB values after rounding to 8 bit.

    Shapes: image, truth (B, 3, H, W) in [0, 1]; returns (B,), infinite where the two are equal.
    Source: the BasicSR protocol (RGB, no border crop), which the papers follow.

    Raises:
        InputMediaError: the shapes differ.
    """
    if image.shape != truth.shape:
        raise InputMediaError(
            "Cannot compare two pictures",
            found=f"found shapes {tuple(image.shape)} and {tuple(truth.shape)}, expected the same shape twice",
            kept="Both are unchanged",
            todo="Resize one to the other first",
        )
    difference = (image.clamp(0, 1) * 255).round() - (truth.clamp(0, 1) * 255).round()
    error = difference.double().square().flatten(1).mean(1)
    return 10 * torch.log10(255.0**2 / error)


def laplacian_variance(image: Tensor) -> Tensor:
    """Return the variance of the 4-neighbour Laplacian of the luma in 8-bit levels: a plain measure of sharpness.

    Shapes: image (B, 3, H, W) in [0, 1]; returns (B,).
    Convention: the same as the variance of OpenCV's `Laplacian(gray, ksize=1)`, without the border.
    """
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=image.dtype, device=image.device).view(1, 3, 1, 1)
    luma = 255.0 * (image * weights).sum(1, keepdim=True)
    stencil = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]], dtype=image.dtype, device=image.device)
    return F.conv2d(luma, stencil.view(1, 1, 3, 3)).flatten(1).var(1, correction=0)
