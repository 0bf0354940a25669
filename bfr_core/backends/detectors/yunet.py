"""YuNet through cv2.FaceDetectorYN."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from ...errors import WeightsError
from ...models.spec import KnownFile, ModelSpec
from ...types import Face
from ._pictures import Found, detect_each

THRESHOLD = 0.7
_NMS = 0.4


class YuNetDetector:
    """YuNet, on the CPU whatever device is asked for: OpenCV's wheels have no other.

    Args:
        path: ONNX file.
    """

    name = "yunet"

    def __init__(self, path: Path) -> None:
        try:
            self._detector = cv2.FaceDetectorYN.create(str(path), "", (320, 320), THRESHOLD, _NMS)
        except cv2.error as error:
            older = int(cv2.__version__.partition(".")[0]) < 5
            raise WeightsError(
                f"OpenCV {cv2.__version__} cannot open {path}",
                found=f"{said(error)}; expected a YuNet model",
                kept="Nothing was loaded and the file is unchanged",
                todo="Take face_detection_yunet_2023mar.onnx or update OpenCV to 5, which also opens the dynamic one"
                if older
                else "Get the file again, or choose the detector embedded",
            ) from error

    def to_device(self, device: torch.device | str) -> None:
        """Stay on the CPU."""

    def detect(self, frames: Tensor, *, threshold: float | None = None) -> list[list[Face]]:
        """Return the faces of every frame (B, 3, H, W), the biggest first."""
        self._detector.setScoreThreshold(THRESHOLD if threshold is None else threshold)
        return detect_each(frames, self._search)

    def _search(self, image: np.ndarray) -> Found:
        self._detector.setInputSize((image.shape[1], image.shape[0]))
        rows = self._detector.detect(image)[1]
        rows = np.zeros((0, 15)) if rows is None else rows.astype(np.float64)
        # x, y, w, h; the points in the order of POINT_NAMES; the score.
        boxes = np.concatenate((rows[:, :2], rows[:, :2] + rows[:, 2:4]), 1)
        return boxes, rows[:, 4:14].reshape(-1, 5, 2), rows[:, 14]


def said(error: cv2.error) -> str:
    """Return what is wrong by an error of OpenCV's: of errors in errors the innermost, without where its source lies.

    OpenCV 4 says "OpenCV(4.10.0) /path/x.cpp:1057: error: (-2:Unspecified error) in function 'handleNode'", then, in a
    line that begins with ">", the node and the error in it, and ends with an empty such line; OpenCV 5 says one line.
    """
    text = " ".join(line.strip("> ") for line in str(error).splitlines())
    node = re.search(r"Node \[\w+@[\w.]+\]", text)
    inner = text.rsplit("error: ", 1)[-1].strip()
    return f"{node[0]}: {inner}" if node else inner


SPEC = ModelSpec(
    "yunet",
    "detector",
    "YuNet (OpenCV)",
    "MIT or Apache-2.0, by file",
    lambda checkpoint: YuNetDetector(checkpoint.path),
    (
        KnownFile(
            "yunet_n_dynamic.onnx",
            "104ee26c71d5c270ce79a6b3dced91c91013260d29a6bf18f9296c5b8c4c2b12",
            "ShiqiYu/libfacedetection.train, onnx/yunet_n_dynamic.onnx",
        ),
        KnownFile(
            "face_detection_yunet_2023mar.onnx",
            "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
            "opencv/opencv_zoo, models/face_detection_yunet",
            "https://media.githubusercontent.com/media/opencv/opencv_zoo/main/models/face_detection_yunet/"
            "face_detection_yunet_2023mar.onnx",
        ),
    ),
    needs=("cv2",),
    install="pip install opencv-python",
    suffixes=(".onnx",),
    order=10,
)
