"""HSEmotion: ONNX files of EfficientNets that tell 7 or 8 expressions apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import WeightsError
from ...models.spec import Checkpoint, KnownFile, ModelSpec

EMOTIONS_7 = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
EMOTIONS_8 = ("anger", "contempt", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_SIZES = (224, 260)
"""Sides of the faces that the networks with ImageNet's normalisation see: EfficientNet-B0 and -B2."""


class HsEmotion:
    """A classifier of facial expressions in an ONNX file, run by OpenCV on the CPU.

    Source: Savchenko's HSEmotion (EmotiEffLib): faces resized by plain bilinear interpolation to the size that the
    file declares (224 px where it leaves it open), ImageNet's mean and deviation, and 7 or 8 classes in alphabetical
    order; a file with ten outputs has valence and arousal after its 8 classes.
    """

    def __init__(self, net: cv2.dnn.Net, path: Path, size: int) -> None:
        self._net = net
        self.path = path
        self.size = size
        """Side of the faces it sees."""
        shape = self._run(np.zeros((1, 3, size, size), np.float32)).shape
        if len(shape) != 2 or shape[1] not in (7, 8, 10):
            raise _no_emotions(path, f"it gives outputs of shape {shape} for one face")
        self.names = EMOTIONS_7 if shape[1] == 7 else EMOTIONS_8
        """What each label means."""

    def probabilities(self, faces: Tensor) -> Tensor:
        """Return how likely each emotion is: faces (B, 3, S, S) RGB [0, 1] to (B, len(names)), rows add up to 1."""
        x = F.interpolate(faces.detach().float().cpu(), (self.size, self.size), mode="bilinear", align_corners=False)
        x = (x - x.new_tensor(_MEAN).view(1, 3, 1, 1)) / x.new_tensor(_STD).view(1, 3, 1, 1)
        # One face at a time: a file may fix its batch to one.
        scores = [self._run(face[None].numpy())[:, : len(self.names)] for face in x]
        return torch.softmax(torch.from_numpy(np.concatenate(scores)).double(), 1)

    def __call__(self, faces: Tensor) -> Tensor:
        """Return the label of each face, an index into `names`: (B, 3, S, S) RGB [0, 1] to (B,)."""
        return self.probabilities(faces).argmax(1)

    def _run(self, x: np.ndarray) -> np.ndarray:
        try:
            self._net.setInput(x)
            return np.array(self._net.forward())
        except cv2.error as error:
            raise _no_emotions(self.path, f"OpenCV cannot run it on a face ({_reason(error)})") from error


def _no_emotions(path: Path, found: str) -> WeightsError:
    return WeightsError(
        f"{path} is no emotion network",
        found=f"{found}; expected an ONNX file of HSEmotion with 7 or 8 emotions on faces of 224 or 260 px",
        kept="The file is unchanged",
        todo=f"Get {' or '.join(known.name for known in SPEC.files)} of HSEmotion ({SPEC.files[0].source})",
    )


def _reason(error: Exception) -> str:
    lines = (getattr(error, "err", "") or str(error)).splitlines()
    return next((line.strip("> ") for line in lines if line.strip("> ")), type(error).__name__)


def _declared_size(model: bytes) -> int | None:
    """Return the side of the picture that an ONNX file declares for its first input; None where it is left open.

    OpenCV runs a network at any size that fits and does not tell the declared one. Field numbers are those of
    onnx.proto: graph 7, input 11, type 2, tensor type 1, shape 2, dimension 1, value 1.
    """
    found = memoryview(model)
    for number in (7, 11, 2, 1, 2):
        nested = (value for key, value in _fields(found) if key == number and isinstance(value, memoryview))
        inner = next(nested, None)
        if inner is None:
            return None
        found = inner
    sides = [dict(_fields(value)).get(1) for key, value in _fields(found) if key == 1 and isinstance(value, memoryview)]
    return sides[-1] if len(sides) == 4 and isinstance(sides[-1], int) else None


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Walk the fields of a protobuf message: number and value, a number or the bytes of a nested message."""
    at = 0

    def varint() -> int:
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            yield number, varint()
            continue
        length = {1: 8, 5: 4}.get(kind)
        length = varint() if length is None else length
        yield number, data[at : at + length]
        at += length


def _load(checkpoint: Checkpoint) -> HsEmotion:
    path = checkpoint.path
    model = path.read_bytes()
    try:
        # From memory, because OpenCV cannot open every path that Python can.
        net = cv2.dnn.readNetFromONNX(np.frombuffer(model, np.uint8))
        size = _declared_size(model)
    except (cv2.error, IndexError) as error:
        raise _no_emotions(path, f"OpenCV cannot read it ({_reason(error)})") from error
    if size not in (None, *_SIZES):
        raise _no_emotions(path, f"it is made for faces of {size} px")
    return HsEmotion(net, path, size or _SIZES[0])


_SOURCE = "github.com/sb-ai-lab/EmotiEffLib, models/affectnet_emotions/onnx"
SPEC = ModelSpec(
    "hsemotion",
    "expression",
    "HSEmotion",
    "Apache-2.0",
    _load,
    (
        KnownFile("enet_b0_8_best_vgaf.onnx", source=_SOURCE),
        KnownFile("enet_b0_8_best_afew.onnx", source=_SOURCE),
    ),
    needs=("cv2",),
    install="pip install opencv-python",
    suffixes=(".onnx",),
    order=0,
)
