"""Example media of nobody: what degrades a good portrait, and makes a short film of it."""

from __future__ import annotations

import io
import math
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np
import torch
from torch import Tensor

from .degrade.chain import degrade_batch
from .degrade.drawing import DegradeParams
from .media.pyav import open_output
from .media.sheets import to_bytes

RATE = 25
"""Frames a second of the example film."""
SIDE = 384
"""Of a square frame, in pixels."""


def degraded(pictures: Tensor, seed: int = 0) -> Tensor:
    """Return pictures as a poor copy shows them: blurred, shrunk, noisy, and compressed hard.

    Shapes: (B, 3, H, W) float32 RGB [0, 1], in and out.
    """
    params = [
        DegradeParams(21, 1.6, 1.6, 0.0, 3.0, 7.0, noise_seed=seed + index, jpeg_quality=45)
        for index in range(len(pictures))
    ]
    return degrade_batch(pictures, params).degraded


def side_by_side(first: Tensor, second: Tensor) -> Tensor:
    """Return two portraits (3, H, W) of one size as one picture (3, H, 1.6 W): two people before one backdrop."""
    width = first.shape[-1]
    overlap = round(0.4 * width)
    share = torch.linspace(0, 1, overlap) ** 2 * (3 - 2 * torch.linspace(0, 1, overlap))
    seam = first[..., -overlap:] * (1 - share) + second[..., :overlap] * share
    return torch.cat([first[..., :-overlap], seam, second[..., overlap:]], -1)


def moving(picture: Tensor, frames: int) -> Tensor:
    """Return a portrait as a camera held by hand shows it: it sways, turns a little, and comes nearer.

    Shapes: picture (3, H, W) float32 RGB [0, 1]; returns (frames, 3, SIDE, SIDE).
    """
    height, width = picture.shape[-2:]
    pixels = to_bytes(picture)
    made = []
    for index in range(frames):
        turn = 2 * math.pi * index / (2.2 * RATE)
        scale = SIDE / width * (1.02 + 0.14 * index / max(frames - 1, 1))
        matrix = cv2.getRotationMatrix2D((width / 2, 0.46 * height), 2.2 * math.sin(0.8 * turn), scale)
        matrix[:, 2] += SIDE / 2 - width / 2, SIDE / 2 - 0.46 * height
        matrix[:, 2] += 7 * math.sin(turn), 4 * math.sin(1.7 * turn)
        made.append(cv2.warpAffine(pixels, matrix, (SIDE, SIDE), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE))
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).float() / 255


def film(frames: Tensor) -> io.BytesIO:
    """Return frames (N, 3, H, W) float32 RGB [0, 1], of even sides, as an MP4 file in memory."""
    buffer = io.BytesIO()
    with open_output(buffer, format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=RATE, options={"crf": "20"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[-2:], "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, RATE)
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(to_bytes(frame), format="rgb24")
            picture.pts, picture.time_base = index, Fraction(1, RATE)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    buffer.seek(0)
    return buffer
