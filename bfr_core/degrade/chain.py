"""The common degradation chain: blur, shrink, noise, JPEG, enlarge, colour.

Source: the GFPGAN family's data pipeline. In order: filter with a normalised bivariate Gaussian (reflect-101
border), haze, bilinear resize without antialias to int(side // s), colour Gaussian noise clipped but not rounded, JPEG
4:2:0 at integer quality, bilinear resize back, colour changes, rounding to 8 bit.

Everything random is drawn first, into `DegradeParams`, from one seed per picture, and the noise is drawn on the CPU:
the result depends neither on the batch nor on the order of the pictures nor on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from ..errors import InputMediaError, SettingsError
from . import jpeg as codecs
from .blur import blur_and_shrink, gaussian_kernel, resize
from .colour import change_colour, to_gray
from .drawing import DegradeParams, draw, fixed

__all__ = ["DegradeParams", "Result", "degrade", "degrade_batch", "draw", "fixed", "gaussian_kernel", "truth_of"]

Jpeg = Literal["libjpeg", "differentiable"]


@dataclass(frozen=True, slots=True)
class Result:
    """A degraded batch and what it should be restored to."""

    degraded: Tensor
    """(B, 3, H, W) float32, multiples of 1/255."""
    truth: Tensor
    """(B, 3, H, W) float32: the input, gray or moved where a preset does that to the truth too."""


def degrade_batch(faces: Tensor, params: Sequence[DegradeParams], *, jpeg: Jpeg = "libjpeg") -> Result:
    """Degrade each face by its own parameters.

    The faces are worked on one by one, as their sizes in the middle of the chain differ; a face gives the same result
    alone and in any batch. Devices differ by rounding in the last bits of float32, which can tip single values over a
    rounding edge of the 8-bit pictures before and after JPEG.

    Args:
        faces: (B, 3, H, W) float32 RGB in [0, 1], on any device.
        params: one for each face.
        jpeg: 'libjpeg' takes every face through the CPU and passes no gradient. 'differentiable' stays on the device,
            passes gradients through all rounding, and stays within a few levels of libjpeg.

    Raises:
        InputMediaError: the faces have another shape or dtype, or hold NaN or infinity.
        SettingsError: another number of parameters, an unknown codec, or libjpeg where a gradient is asked for.
    """
    if faces.ndim != 4 or faces.shape[1] != 3 or faces.dtype != torch.float32 or 0 in faces.shape[2:]:
        raise InputMediaError(
            "Cannot degrade these faces",
            found=f"found {tuple(faces.shape)} of {faces.dtype}, expected (batch, 3, height, width) of torch.float32",
            kept="The faces are unchanged",
            todo="Convert them to RGB float32 in [0, 1] first",
        )
    if not bool(faces.sum().isfinite()):  # ten times as fast as to ask every value
        raise InputMediaError(
            "Cannot degrade these faces",
            found="some of their values are NaN or infinite, expected 0 to 1",
            kept="The faces are unchanged",
            todo="Look at where they were made",
        )
    gradient = torch.is_grad_enabled() and faces.requires_grad
    if jpeg not in ("libjpeg", "differentiable") or len(params) != len(faces) or (jpeg == "libjpeg" and gradient):
        found = f"found {len(params)} parameters for {len(faces)} faces and the codec {jpeg!r}"
        if jpeg == "libjpeg" and gradient:
            found += ", which passes no gradient, for faces that require one"
        raise SettingsError(
            "Cannot degrade these faces",
            found=f"{found}; expected one for each, and libjpeg or differentiable",
            kept="The faces are unchanged",
            todo="Draw parameters for each face, and choose differentiable where a gradient is needed",
        )
    truths, degraded = [], []
    # Half precision would move pictures by more than a level.
    with torch.autocast(faces.device.type, enabled=False):
        for face, drawn in zip(faces, params, strict=True):
            start, truth = _clean(face, drawn)
            truths.append(truth)
            degraded.append(_degrade_one(start, drawn, jpeg) / 255)
    if not degraded:
        return Result(faces.clone(), faces)
    changed = any(drawn.changes_truth for drawn in params)
    return Result(torch.stack(degraded), torch.stack(truths) if changed else faces)


def degrade(image: np.ndarray, params: DegradeParams) -> np.ndarray:
    """Degrade one picture, through libjpeg; where the truth changes with it, `truth_of` returns that.

    Shapes: image (H, W, 3) uint8 RGB; returns the same shape and type.

    Raises:
        InputMediaError: the picture has another shape or type.
    """
    face = _from_bytes(image)
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        return _to_bytes(_degrade_one(_clean(face, params)[0], params, "libjpeg"))


def truth_of(image: np.ndarray, params: DegradeParams) -> np.ndarray:
    """Return what a picture degraded by `params` should be restored to: itself, gray or moved where they say so.

    Shapes: image (H, W, 3) uint8 RGB; returns the same shape and type.

    Raises:
        InputMediaError: the picture has another shape or type.
    """
    face = _from_bytes(image)
    return _to_bytes(_clean(face, params)[1] * 255) if params.changes_truth else image


def _from_bytes(image: np.ndarray) -> Tensor:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise InputMediaError(
            "Cannot degrade this picture",
            found=f"found shape {image.shape} of {image.dtype}, expected (H, W, 3) of uint8",
            kept="The picture is unchanged",
            todo="Convert it to 8-bit RGB first",
        )
    return torch.from_numpy(np.stack(cv2.split(image))).float().div_(255)


def _to_bytes(levels: Tensor) -> np.ndarray:
    return cv2.merge(list(levels.round().byte().numpy()))


def _clean(face: Tensor, params: DegradeParams) -> tuple[Tensor, Tensor]:
    """Return where the chain starts, and the truth: `face` itself where nothing changes it."""
    start = face
    if any(params.move):
        for axis, pixels in ((1, params.move[0]), (2, params.move[1])):
            size = face.shape[axis]
            # Mirrored with the edge repeated, as numpy's 'symmetric' padding does.
            position = (torch.arange(size, device=face.device) - pixels) % (2 * size)
            start = start.index_select(axis, torch.minimum(position, 2 * size - 1 - position))
    if not params.gray or params.gray_on == "low":
        return start, start
    return (to_gray(start) if params.gray_on == "clean" else start), to_gray(start)


def _degrade_one(face: Tensor, params: DegradeParams, jpeg: Jpeg) -> Tensor:
    """Return the degraded (3, H, W) in whole 8-bit levels."""
    height, width = face.shape[1:]
    kernel = None
    if params.sigma_x > 0 and params.sigma_y > 0 and params.kernel > 1:
        kernel = gaussian_kernel(params.kernel, params.sigma_x, params.sigma_y, params.theta)
    small = (max(int(height // params.downscale), 1), max(int(width // params.downscale), 1))
    out = blur_and_shrink(face, kernel, *small)
    if params.haze < 1:
        # Before the shrink in the published code; a bilinear shrink of constants is the same constant.
        out = out * params.haze + (1 - params.haze)
    if params.noise_sigma > 0:
        rng = np.random.Generator(np.random.PCG64(params.noise_seed))
        noise = rng.standard_normal((*small, 3), dtype=np.float32) * np.float32(params.noise_sigma / 255)
        out = out + torch.from_numpy(noise).permute(2, 0, 1).to(out.device)
    out = out.clamp(0, 1)
    if params.jpeg_quality > 0:
        out = (codecs.libjpeg if jpeg == "libjpeg" else codecs.differentiable)(out, params.jpeg_quality)
    out = change_colour(resize(out, height, width), params).clamp(0, 1) * 255
    return codecs.round_through(out) if out.requires_grad else out.round_()
