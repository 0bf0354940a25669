"""Marks that several test files use."""

from __future__ import annotations

import cv2
import pytest
import torch

_TORCH = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])

opens_pickles = pytest.mark.skipif(_TORCH < (2, 10), reason="this torch is too old to open .pth files safely")
runs_yunet = pytest.mark.skipif(
    int(cv2.__version__.split(".")[0]) < 5, reason="this OpenCV is too old for YuNet's dynamic ONNX file"
)
