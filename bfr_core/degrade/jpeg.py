"""JPEG, 4:2:0: through libjpeg, or differentiable on any device.

The differentiable codec does in float32 what libjpeg does in integers: JFIF colours, chroma averaged over 2 x 2, 8 x 8
DCT, the tables of ITU-T T.81 Annex K scaled by the quality, then back with the triangle filter that libjpeg enlarges
chroma with. Rounding passes the gradient through. Source of the scaling and of how borders are filled: libjpeg-turbo
(jcparam.c, jcsample.c, jcprepct.c, jdsample.c).
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputMediaError
from ..media.luma import BT601

_LARGEST_SIDE = 65_500
_LUMA = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
_CHROMA = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99, *(99,) * 32,
)  # fmt: skip
_TO_YCC = (BT601, (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))
_TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136286, -0.714136286), (1.0, 1.772, 0.0))


def libjpeg(image: Tensor, quality: int) -> Tensor:
    """Encode and decode (3, h, w) float in [0, 1] with OpenCV's libjpeg, on the CPU.

    Raises:
        InputMediaError: the picture is larger than a JPEG can be.
    """
    # The codec takes BGR; handing it RGB would put red into the blue-difference plane and halve the wrong one.
    levels = (image.detach().flip(0) * 255).round_().byte().permute(1, 2, 0).contiguous().cpu().numpy()
    height, width = levels.shape[:2]
    if max(height, width) > _LARGEST_SIDE:
        raise InputMediaError(
            "Cannot pass this picture through JPEG",
            found=f"it is {width} x {height} pixels after the shrink, and JPEG holds {_LARGEST_SIDE} a side",
            kept="The picture is unchanged",
            todo="Cut it into parts, or leave JPEG out (jpeg_quality=0)",
        )
    data = cv2.imencode(".jpg", levels, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1]
    decoded = torch.from_numpy(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))).to(image.device)
    return decoded.permute(2, 0, 1).flip(0).float().div_(255)


def round_through(values: Tensor) -> Tensor:
    """Round, with the gradient of the identity."""
    return values + (values.round() - values).detach()


def table(base: tuple[int, ...], quality: int) -> Tensor:
    """Return a quantisation table, (8, 8) float32, scaled as libjpeg does for `quality` from 1 to 100."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return torch.tensor([min(max((x * scale + 50) // 100, 1), 255) for x in base], dtype=torch.float32).reshape(8, 8)


def differentiable(image: Tensor, quality: int) -> Tensor:
    """Encode and decode (3, h, w) float in [0, 1], on its device, passing gradients."""
    height, width = image.shape[1:]
    levels = round_through(image * 255)
    planes = torch.einsum("ij,jhw->ihw", levels.new_tensor(_TO_YCC), levels)
    offset = levels.new_tensor((-128.0, 0.0, 0.0)).reshape(3, 1, 1)
    planes = round_through(planes) + offset
    luma = _code(planes[:1], table(_LUMA, quality))[:, :height, :width]
    # Columns repeat before the averaging and rows after it, as in libjpeg.
    half = (math.ceil(height / 2), math.ceil(width / 2))
    chroma = F.pad(planes[1:], (0, 16 * math.ceil(width / 16) - width, 0, height % 2), mode="replicate")
    chroma = round_through(F.avg_pool2d(chroma, 2))
    chroma = _code(chroma, table(_CHROMA, quality))[:, : half[0], : half[1]]
    chroma = F.interpolate(chroma[None], scale_factor=2, mode="bilinear", align_corners=False)[0, :, :height, :width]
    decoded = torch.einsum("ij,jhw->ihw", levels.new_tensor(_TO_RGB), torch.cat([luma + 128, chroma]))
    return (round_through(decoded) / 255).clamp(0, 1)


def _code(planes: Tensor, quantiser: Tensor) -> Tensor:
    """Transform, quantise and transform back; (C, h, w) comes back filled up to whole blocks, rounded and clamped."""
    height, width = planes.shape[1:]
    rows, columns = math.ceil(height / 8), math.ceil(width / 8)
    padded = F.pad(planes, (0, 8 * columns - width, 0, 8 * rows - height), mode="replicate")
    blocks = padded.reshape(-1, rows, 8, columns, 8).transpose(2, 3).reshape(-1, 64)
    transform = torch.from_numpy(_DCT).to(planes)
    steps = quantiser.to(planes).reshape(64)
    values = round_through(blocks @ transform.T / steps) * steps
    decoded = (values @ transform).reshape(-1, rows, columns, 8, 8).transpose(2, 3)
    return round_through(decoded.reshape(-1, 8 * rows, 8 * columns)).clamp(-128, 127)


_K = np.arange(8)
_ROWS = np.sqrt(np.where(_K[:, None] == 0, 1.0, 2.0) / 8) * np.cos((2 * _K + 1) * _K[:, None] * np.pi / 16)
_DCT = np.kron(_ROWS, _ROWS).astype(np.float32)
"""Orthonormal two-dimensional DCT-II of a block, (64, 64): one product for all blocks, where 8 x 8 ones are slow."""
