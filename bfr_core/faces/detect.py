"""Getting a face detector by name; each is a file of `backends/detectors/`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputMediaError
from ..models.loader import ModelInfo, available, load
from ..models.registry import get_spec
from ..models.roles import FaceDetector

Detector = FaceDetector
"""Its name until now, kept for one release."""


def load_detector(
    name: str = "embedded",
    *,
    path: Path | None = None,
    device: torch.device | str | None = None,
    folders: Sequence[Path] = (),
    trust: bool = False,
) -> FaceDetector:
    """Return a detector of the caller's own that is ready to run; see `models.loader.load`.

    Raises:
        ModelError: no such back end, or a package that it needs is missing.
        WeightsError: its file is missing, unknown or damaged.
    """
    return load(get_spec("detector", name), path, device=device, folders=folders, trust=trust, shared=False)


def detectors(folders: Sequence[Path] = ()) -> list[ModelInfo]:
    """Return every detector and whether it can run with the files in `folders`; see `models.loader.available`."""
    return available("detector", folders)


def check_frames(frames: Tensor) -> None:
    """Refuse what is not a batch of pictures.

    Raises:
        InputMediaError: another shape or type, or a side of zero.
    """
    if frames.ndim != 4 or frames.shape[1] != 3 or not frames.is_floating_point() or 0 in frames.shape[2:]:
        raise InputMediaError(
            "Cannot look for faces in this tensor",
            found=f"found shape {tuple(frames.shape)} of {frames.dtype}, expected (B, 3, H, W) of float32 in [0, 1]",
            kept="The tensor is unchanged",
            todo="Convert it to RGB planes first",
        )
