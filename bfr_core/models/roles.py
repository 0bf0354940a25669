"""What a model does for the others: a small protocol for each role, so that one can take another's place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor, device

from ..types import Face

if TYPE_CHECKING:
    from ..runtime import Runtime


@runtime_checkable
class FaceDetector(Protocol):
    """Finds faces."""

    name: str

    def detect(self, frames: Tensor, *, threshold: float | None = None) -> list[list[Face]]:
        """Return the faces of every frame, the biggest first; no faces is an empty list.

        Args:
            frames: (B, 3, H, W) float32 RGB [0, 1].
            threshold: least score; None for the detector's own.
        """
        ...

    def to_device(self, device: device | str) -> None:
        """Move what computes; detectors without torch stay where they are."""
        ...


@runtime_checkable
class FaceLandmarker(Protocol):
    """Finds the landmarks of a face."""

    def __call__(self, faces: Tensor) -> Tensor:
        """Return the points of aligned faces: (B, 3, H, W) RGB [0, 1] to (B, K, 2), x and y in pixels."""
        ...


@runtime_checkable
class FaceRecognizer(Protocol):
    """Tells who a face shows, differentiably."""

    size: int
    """Side of the pictures it reads."""

    def __call__(self, x: Tensor) -> Tensor:
        """Map (B, 3, size, size) RGB [0, 1] to identity vectors (B, D) of unit length."""
        ...


@runtime_checkable
class ExpressionClassifier(Protocol):
    """Tells which expression a face wears."""

    names: Sequence[str]
    """What each label means."""

    def __call__(self, faces: Tensor) -> Tensor:
        """Return the label of each face, an index into `names`: (B, 3, S, S) RGB [0, 1] to (B,)."""
        ...


@runtime_checkable
class FaceRestorer(Protocol):
    """Restores aligned faces."""

    size: int
    """Side of the crops it takes."""

    def restore(
        self,
        faces: Tensor,
        *,
        seeds: Sequence[int],
        settings: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Tensor] | None = None,
        runtime: Runtime,
    ) -> Tensor:
        """Return the faces restored, (B, 3, size, size) RGB [0, 1], the noise of each from its own seed."""
        ...


@dataclass(frozen=True, slots=True)
class Role:
    """What a role is called in messages, and what plays it."""

    title: str
    plural: str
    protocol: type


ROLES: dict[str, Role] = {
    "detector": Role("detector", "detectors", FaceDetector),
    "landmarker": Role("landmark network", "landmark networks", FaceLandmarker),
    "recognizer": Role("recogniser", "recognisers", FaceRecognizer),
    "expression": Role("expression classifier", "expression classifiers", ExpressionClassifier),
    "restorer": Role("restorer", "restorers", FaceRestorer),
}
"""By id; the models of a role are the files of `backends/<id>s/`."""
