"""The one path from a degraded picture to a restored one: detect, align, restore, composite, report.

Nodes, command line and library all come through here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .compose.colour import keep_colours
from .compose.masks import FEATHER
from .compose.paste import composite
from .errors import InputMediaError, SettingsError
from .faces.align import align_faces, sample, whole_crop
from .faces.select import select_faces
from .registry import MASK, Method, methods
from .restorer import Restorer, face_seed
from .runtime import Runtime
from .types import Face, FaceCrop, FaceReport, RestoreReport

if TYPE_CHECKING:
    from .faces.detect import Detector
    from .faces.people import DriftGate, People


@dataclass(frozen=True, slots=True)
class Options:
    """What the path does, beside the method's own settings."""

    strength: float = 1.0
    seed: int = 0
    threshold: float | None = None
    """Least confidence of a face; None for the detector's own."""
    max_faces: int = 0
    """Restore this many of the largest faces; 0 for all."""
    min_size: float = 16.0
    """Leave faces smaller than this many pixels: there is nothing in them to restore from."""
    people: People | None = None
    """Whom to restore, chosen among the faces that are large enough and before the largest are counted."""
    gate: DriftGate | None = None
    """Which restored faces to take back."""
    feather: float = FEATHER
    settings: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Raise SettingsError where a value is out of range."""
        limits = {"strength": (0, 1), "feather": (0, 0.5), "max_faces": (0, 4096), "min_size": (0, 1e6)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise SettingsError(
                    f"Cannot restore with {name} {value}",
                    found=f"expected {low:g} to {high:g}",
                    kept="Nothing was started",
                    todo=f"Give a {name} in that range",
                )


@dataclass(slots=True)
class Restored:
    """The result of the path for one frame."""

    image: Tensor
    """(3, H, W), the input wherever `mask` is zero."""
    mask: Tensor
    """(H, W) share of restored pixels, strength included."""
    crops: list[FaceCrop]
    faces: list[Tensor]
    """Restored crops, in the order of `crops`."""
    report: RestoreReport


def check_frame(frame: Tensor) -> None:
    """Refuse what is not one RGB frame.

    Raises:
        InputMediaError: another shape or type, or NaN.
    """
    found = None
    if frame.ndim != 3 or frame.shape[0] != 3:
        found = f"found shape {tuple(frame.shape)}"
        if frame.ndim == 3 and frame.shape[-1] in (3, 4):
            found += ", which looks like (H, W, C)"
        elif frame.ndim == 4:
            found += ", a batch; pass one frame at a time"
    elif min(frame.shape[1:]) < 1:
        found = f"found an empty picture of shape {tuple(frame.shape)}"
    elif frame.dtype != torch.float32:
        found = f"found {frame.dtype}" + (" (0 to 255 must be divided by 255)" if frame.dtype == torch.uint8 else "")
    elif not bool(frame.isfinite().all()):
        found = f"found {int((~frame.isfinite()).sum())} NaN or infinite values"
    if found:
        raise InputMediaError(
            "Cannot restore this picture",
            found=f"{found}; expected (3, H, W) float32 RGB in [0, 1]",
            kept="The picture is unchanged",
            todo="Convert it first",
        )


def mask_input(method: Method) -> str:
    """Return the name of the method's input that says where in a face it may act.

    Raises:
        SettingsError: it has none.
    """
    name = next((declared.name for declared in method.inputs if declared.kind == MASK), None)
    if name is None:
        raise SettingsError(
            f"{method.title} takes no mask",
            found="a mask was given; expected none, as this method works on the whole face",
            kept="The picture is unchanged",
            todo="Leave the mask out, or choose a method that guides",
        )
    return name


def restore_frame(
    frame: Tensor,
    restorer: Restorer,
    detector: Detector | None = None,
    *,
    faces: Sequence[Face] | None = None,
    aligned: bool = False,
    options: Options | None = None,
    runtime: Runtime | None = None,
    frame_index: int = 0,
    mask: Tensor | None = None,
) -> Restored:
    """Restore the faces of one picture.

    Shapes: frame (3, H, W) float32 RGB in [0, 1]; mask (H, W) in [0, 1].

    Args:
        frame: the picture; not changed. Values slightly outside [0, 1] are kept outside the faces.
        restorer: the loaded method.
        detector: finds the faces; not needed with `faces` or `aligned`.
        faces: faces found before, or by hand.
        aligned: the whole picture is one aligned face.
        options: what to do.
        runtime: where to run.
        frame_index: number of the frame in its batch; part of the seed.
        mask: where in the picture the method's guidance may act, for methods that take a mask.

    Raises:
        InputMediaError: the frame or the mask cannot be used.
        SettingsError: an option is out of range, or no source of faces was given.
        RestoreError: the method failed.
    """
    options, runtime = options or Options(), runtime or Runtime()
    options.check()
    check_frame(frame)
    masked = None if mask is None else mask_input(restorer.method)
    if mask is not None and mask.shape != frame.shape[1:]:
        raise InputMediaError(
            "Cannot use this mask",
            found=f"its shape is {tuple(mask.shape)}, the picture's {tuple(frame.shape[1:])}; expected the same",
            kept="The picture is unchanged",
            todo="Bring the mask to the height and width of the picture",
        )
    report = RestoreReport(
        restorer.method.id, restorer.config.name, "none", options.seed, options.strength, notes=runtime.notes
    )
    clock = _Clock(report.seconds)
    if aligned:
        report.detector = "aligned"
        crop = whole_crop(frame.clamp(0, 1), restorer.size)
        found: list[Face] = [crop.face]
        chosen = _choose([crop.face], lambda _: [crop], replace(options, min_size=0.0))
    else:
        if faces is None:
            if detector is None:
                raise SettingsError(
                    "No way to find the faces",
                    found="neither a detector nor faces were given; expected one of them",
                    kept="The picture is unchanged",
                    todo="Pass a detector, faces, or aligned=True",
                )
            runtime.check_cancel()
            faces = detector.detect(frame.clamp(0, 1)[None], threshold=options.threshold)[0]
            report.detector = detector.name
        else:
            report.detector = "given"
        clock.lap("detect")
        found = list(faces)
        inside = frame.clamp(0, 1)
        chosen = _choose(found, lambda some: align_faces(inside, some, restorer.size, frame_index=frame_index), options)
        clock.lap("align")
    crops = list(chosen.crops.values())
    images = (
        torch.stack([crop.image for crop in crops]) if crops else frame.new_zeros(0, 3, restorer.size, restorer.size)
    )
    seeds = [face_seed(options.seed, frame_index, index) for index in range(len(crops))]
    inputs: dict[str, Tensor] = {}
    if masked and mask is not None and crops:
        inputs[masked] = torch.stack([sample(mask[None], crop.matrix, restorer.size).clamp(0, 1) for crop in crops])
    made = restorer.restore(images, seeds=seeds, settings=options.settings, inputs=inputs, runtime=runtime)
    restored = {
        index: keep_colours(crop.image, face) for (index, crop), face in zip(chosen.crops.items(), made, strict=True)
    }
    clock.lap("restore")
    if options.gate:
        _take_back(options.gate, chosen, restored, options.strength)
        clock.lap("gate")
    crops, results = list(chosen.crops.values()), list(restored.values())
    if not aligned:
        image, mask = composite(frame, crops, results, strength=options.strength, feather=options.feather)
    elif crops:
        image, mask = _blend_whole(frame, results[0], options.strength)
    else:
        image, mask = frame.clone(), torch.zeros(frame.shape[-2:])
    clock.lap("composite")
    report.faces = [chosen.report(frame_index, index, face) for index, face in enumerate(found)]
    if options.people and chosen.likeness and not images.numel():
        # In this report alone: the run's notes are shared by all frames of a batch.
        nearest = max(chosen.likeness.values())
        report.notes = [*runtime.notes, f"Nobody here is to be restored; the likeness of the nearest is {nearest:.3f}"]
    return Restored(image, mask, crops, results, report)


@dataclass(slots=True)
class _Chosen:
    """What is to be done to the faces of a picture, all by their index in it."""

    crops: dict[int, FaceCrop]
    """Of the faces to restore."""
    reasons: dict[int, str]
    """Why the others are left."""
    likeness: dict[int, float] = field(default_factory=dict)
    drift: dict[int, float] = field(default_factory=dict)

    def report(self, frame_index: int, index: int, face: Face) -> FaceReport:
        """Return what the report says of a face."""
        likeness, drift = (
            None if known is None else round(known, 4) for known in (self.likeness.get(index), self.drift.get(index))
        )
        crop = self.crops.get(index)
        return FaceReport(
            frame_index,
            index,
            tuple(round(float(value), 2) for value in face.box),  # type: ignore[arg-type]
            round(face.score, 4),
            round(crop.scale, 4) if crop else 0.0,
            "restored" if crop else "kept",
            self.reasons.get(index, ""),
            likeness,
            drift,
        )


def _choose(found: Sequence[Face], align: Callable[[list[Face]], list[FaceCrop]], options: Options) -> _Chosen:
    """Choose whom to restore, and cut out no face that nobody looks at."""
    limits = {"min_size": options.min_size, "max_faces": options.max_faces}
    if options.people is None:
        faces, reasons = select_faces(found, **limits)
        there = [index for index in range(len(found)) if index not in reasons]
        return _Chosen(dict(zip(there, align(faces), strict=True)), reasons)
    candidates, reasons = select_faces(found, min_size=options.min_size)
    there = [index for index in range(len(found)) if index not in reasons]
    crops = dict(zip(there, align(candidates), strict=True))
    images = [crop.image for crop in crops.values()]
    likeness = dict(zip(there, options.people.find(torch.stack(images)) if images else (), strict=True))
    reasons |= {index: known.reason for index, known in likeness.items() if known.reason}
    _, reasons = select_faces(found, **limits, left=reasons)
    return _Chosen(
        {index: crop for index, crop in crops.items() if index not in reasons},
        reasons,
        {index: known.cosine for index, known in likeness.items()},
    )


def _take_back(gate: DriftGate, chosen: _Chosen, restored: dict[int, Tensor], strength: float) -> None:
    """Leave out the faces that restoring, at this strength, moved too far from who they were."""
    if not restored:
        return
    before = torch.stack([crop.image for crop in chosen.crops.values()])
    after = torch.lerp(before, torch.stack(list(restored.values())), strength)
    for index, (moved, reason) in zip(list(restored), gate.judge(before, after), strict=True):
        chosen.drift[index] = moved
        if reason:
            chosen.reasons[index] = reason
            del chosen.crops[index], restored[index]


def restore_whole(
    frame: Tensor, restorer: Restorer, *, options: Options | None = None, runtime: Runtime | None = None
) -> Restored:
    """Restore a picture of any size as a whole, with a method that can.

    Shapes: frame (3, H, W) float32 RGB in [0, 1].

    Raises:
        InputMediaError: the frame cannot be used.
        SettingsError: an option is out of range or needs faces, or the method restores faces only.
        RestoreError: the method failed.
    """
    options, runtime = options or Options(), runtime or Runtime()
    options.check()
    check_frame(frame)
    whole = whole_picture(restorer.method, options)
    report = RestoreReport(
        restorer.method.id, restorer.config.name, "whole", options.seed, options.strength, notes=runtime.notes
    )
    clock = _Clock(report.seconds)
    seed = face_seed(options.seed, 0, 0)
    made = whole(restorer, frame.clamp(0, 1), seed=seed, settings=options.settings, runtime=runtime)
    made = keep_colours(frame.clamp(0, 1), made, restorer.size)
    clock.lap("restore")
    image = torch.lerp(frame, made, options.strength) if options.strength else frame.clone()
    return Restored(image, torch.full(frame.shape[-2:], options.strength), [], [], report)


def whole_picture(method: Method, options: Options) -> Callable[..., Tensor]:
    """Return how a method restores a whole picture.

    Raises:
        SettingsError: it restores faces only, or the options choose among faces.
    """
    if options.people or options.gate:
        asked = "to choose people" if options.people else "to take back faces that drift"
        raise SettingsError(
            "A whole picture is restored without looking at its faces",
            found=f"a whole picture was asked for, and {asked}; expected one of the two",
            kept="The picture is unchanged",
            todo="Leave out --whole, or else --only, --except and --max-drift",
        )
    if method.picture is None:
        able = ", ".join(other.id for other in methods().values() if other.picture)
        raise SettingsError(
            f"{method.title} restores faces, not whole pictures",
            found=f"a whole picture was asked for; expected one of the methods that can: {able or 'none here'}",
            kept="The picture is unchanged",
            todo="Leave --whole out, or choose another method",
        )
    return method.picture


def _blend_whole(frame: Tensor, face: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Blend a restored face over the whole of an aligned picture, at the picture's own size."""
    size = frame.shape[-1]
    if face.shape[-1] != size:
        face = torch.nn.functional.interpolate(face[None], (size, size), mode="bicubic", antialias=True)[0].clamp(0, 1)
    mask = torch.full(frame.shape[-2:], strength)
    return (torch.lerp(frame, face, strength) if strength else frame.clone()), mask


class _Clock:
    """Seconds since the last lap, added up by name."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds, self._last = seconds, time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self._seconds[name] = round(self._seconds.get(name, 0.0) + now - self._last, 4)
        self._last = now
