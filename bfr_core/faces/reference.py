"""Whose face it should be: the identity of a person from photos of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputMediaError
from .align import align_face
from .identity import FaceRecognizer, identities

if TYPE_CHECKING:
    from ..models.roles import FaceDetector


def photo_identities(
    recogniser: FaceRecognizer,
    photos: Sequence[Tensor],
    detector: FaceDetector,
    *,
    check_cancel: Callable[[], None] = lambda: None,
) -> Tensor:
    """Return the identity of the largest face of each photo, (N, D) of unit length, on the CPU.

    Shapes: each photo (3, H, W) float32 RGB [0, 1].

    Args:
        recogniser: by whom it is told.
        photos: one or more.
        detector: finds the faces.
        check_cancel: raises where the work is to stop.

    Raises:
        InputMediaError: there is no photo, or one in which no face is found.
    """
    crops = []
    for number, photo in enumerate(photos):
        check_cancel()
        faces = detector.detect(photo[None])[0]
        if not faces:
            raise InputMediaError(
                "Cannot tell whose face the reference shows",
                found=f"no face was found in photo {number + 1} of {len(photos)}; expected one in each",
                kept="Nothing was started",
                todo="Give photos in which the person looks about into the camera",
            )
        crops.append(align_face(photo, max(faces, key=lambda face: face.size)).image)
    if not crops:
        raise InputMediaError(
            "Cannot tell whose face the reference shows",
            found="found no photo; expected at least one",
            kept="Nothing was started",
            todo="Give a photo of the person, or leave the reference out",
        )
    return identities(recogniser, torch.stack(crops))


def reference_identity(
    recogniser: FaceRecognizer,
    photos: Sequence[Tensor],
    detector: FaceDetector,
    *,
    check_cancel: Callable[[], None] = lambda: None,
) -> Tensor:
    """Return the identity that photos of one person show, (D,) of unit length, on the CPU.

    Several photos are averaged, which evens out pose and light. Arguments and errors as of `photo_identities`.
    """
    return F.normalize(photo_identities(recogniser, photos, detector, check_cancel=check_cancel).mean(0), dim=0)
