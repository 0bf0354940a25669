"""Which faces of a picture to restore, and what the report says of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..compose.detail import LARGER, NONE, worth_in
from ..faces.select import select_faces
from ..types import Face, FaceCrop, FaceReport
from .options import RestoreOptions

EMPTY = "no face was found in this box"


@dataclass(slots=True)
class ChosenFaces:
    """What is to be done to the faces of a picture, all by their index in it."""

    crops: dict[int, FaceCrop]
    """Of the faces to restore."""
    reasons: dict[int, str]
    """Why the others are left."""
    likeness: dict[int, float] = field(default_factory=dict)
    sharpness: dict[int, float] = field(default_factory=dict)
    """Of the input, where it was measured."""
    drift: dict[int, float] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    """That restoring took."""

    def softens(self, index: int, face: Tensor, options: RestoreOptions) -> str:
        """Say why a restored face is to be left alone after all, empty where it is not."""
        if options.quality_filter is None or index not in self.sharpness:
            return ""
        before = self.crops[index].image
        return options.quality_filter.softens(self.sharpness[index], before, torch.lerp(before, face, options.strength))

    def detail(self, frame: Tensor) -> tuple[list[float], list[str]]:
        """Return how much of each restored face's own detail is worth keeping, and what is to be said of large ones."""
        worth = [
            worth_in(frame, crop, self.sharpness.get(index)) if crop.scale < NONE else 0.0
            for index, crop in self.crops.items()
        ]
        large = [there for crop, there in zip(self.crops.values(), worth, strict=True) if crop.scale <= LARGER]
        if not large:
            return worth, []
        size, kept = next(iter(self.crops.values())).size, "the picture's own fine detail was kept"
        if blurred := large.count(0.0):
            kept += f", but for {blurred} too blurred to have any"
        faces = "1 face is" if len(large) == 1 else f"{len(large)} faces are"
        return worth, [f"{faces} larger than the {size} px of the restorer, and restored at that size; {kept}"]

    def report(self, frame_index: int, index: int, face: Face) -> FaceReport:
        """Return what the report says of a face."""
        likeness, drift, sharpness = (
            None if known is None else round(known, 4)
            for known in (self.likeness.get(index), self.drift.get(index), self.sharpness.get(index))
        )
        crop = self.crops.get(index)
        return FaceReport(
            frame_index,
            index if face.index is None else face.index,
            tuple(round(float(value), 2) for value in face.box),  # type: ignore[arg-type]
            round(face.score, 4),
            round(crop.scale, 4) if crop else 0.0,
            "restored" if crop else "kept",
            self.reasons.get(index, ""),
            likeness,
            drift,
            sharpness,
            face.turned,
            round(self.seconds.get(index, 0.0), 4),
        )


def choose_faces(
    found: Sequence[Face],
    options: RestoreOptions,
    align: Callable[[list[Face]], list[FaceCrop]],
    facts: Callable[[Face], dict[str, float]],
    size: int,
    left: Mapping[int, str] | None = None,
) -> ChosenFaces:
    """Choose whom to restore, and cut out no face that nobody looks at.

    Args:
        found: all faces of the picture.
        options: whom.
        align: cuts faces out.
        facts: tells what the quality filter judges a face by.
        size: side of the restorer's crop, in pixels.
        left: indices that are left out already, and why.
    """
    reasons = {index: EMPTY for index, face in enumerate(found) if face.origin == "empty"} | dict(left or {})
    _, reasons = select_faces(found, min_size=options.min_size, left=reasons)
    likeness: dict[int, float] = {}
    crops: dict[int, FaceCrop] = {}
    if options.people is not None:
        there = [index for index in range(len(found)) if index not in reasons]
        crops = dict(zip(there, align([found[index] for index in there]), strict=True))
        images = [crop.image for crop in crops.values()]
        known = dict(zip(there, options.people.find(torch.stack(images)) if images else (), strict=True))
        reasons |= {index: person.reason for index, person in known.items() if person.reason}
        likeness = {index: person.cosine for index, person in known.items()}
    sharpness: dict[int, float] = {}
    for index, face in enumerate(found if options.quality_filter is not None else ()):
        if index in reasons or face.origin == "drawn" or options.quality_filter is None:
            continue
        told = facts(face)
        if "sharpness" in told:
            sharpness[index] = told["sharpness"]
        if reason := options.quality_filter.reason(told, size):
            reasons[index] = reason
    _, reasons = select_faces(found, max_faces=options.max_faces, left=reasons)
    there = [index for index in range(len(found)) if index not in reasons]
    missing = [index for index in there if index not in crops]
    crops |= dict(zip(missing, align([found[index] for index in missing]), strict=True))
    return ChosenFaces({index: crops[index] for index in there}, reasons, likeness, sharpness)
