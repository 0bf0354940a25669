"""The crossing: the only caller of a restorer.

Whatever restores comes through `restore_crops`: photos, aligned faces, films, frames, whole pictures, nodes and the
benchmarks. So seeds, colours and the drift limit cannot be forgotten by one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ..compose.colour import keep_colours
from ..restorer import Restorer, whole_picture
from ..runtime import Runtime
from .fingerprint import keys_of
from .kept import KeptFace, KeptFaces, heard_of
from .options import Colours, colours_of

if TYPE_CHECKING:
    from ..faces.people import DriftLimit


@dataclass(frozen=True, slots=True, eq=False)
class FaceBatch:
    """Crops on their way to a restorer."""

    images: Tensor
    """(B, 3, S, S) float32 RGB [0, 1] in the FFHQ template, S the restorer's size; B may be 0. Of a whole picture
    (1, 3, H, W)."""
    seeds: Sequence[int]
    """One for each, from `restorer.face_seed`: a face's noise depends on it alone."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of the method."""
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    """What the method takes beside the faces, one row for each."""
    colours: Colours = "auto"
    strength: float = 1.0
    """How much of each will be shown, which is what the drift limit judges."""
    drift_limit: DriftLimit | None = None
    whole: bool = False
    """It is one picture of any size and no face, for methods that can."""


@dataclass(frozen=True, slots=True, eq=False)
class FaceResults:
    """What became of a `FaceBatch`, in its order."""

    faces: Tensor
    """Of the shape of the images, in [0, 1]; also of faces that are to be taken back."""
    colours: Literal["input", "method"]
    """Whose colours they have."""
    drift: Sequence[float | None]
    """How far restoring moved each identity; None where nobody asked."""
    reasons: Sequence[str]
    """Why a face is to be left as it was; empty where it is restored."""


def restore_crops(batch: FaceBatch, restorer: Restorer, run: Runtime) -> FaceResults:
    """Restore crops, give them their colours, and judge how far they moved.

    Where the run has kept faces, those that are there are not restored again. They are what this call would have made
    of them; only where some of a batch are there, and the rest makes a smaller batch, may the rest differ by rounding.

    Raises:
        InputMediaError: crops or inputs the restorer cannot take.
        SettingsError: an unknown or unfit setting, seeds of another number, or a method that restores faces only.
        RestoreError: out of memory with one crop, or numbers that are not finite even in float32.
    """
    made = _made(batch, restorer, run) if run.kept is None else _kept_or_made(batch, restorer, run, run.kept)
    colours = colours_of(batch.colours, restorer.config)
    if colours == "input":
        size = restorer.size if batch.whole else None
        for image, face in zip(batch.images, made, strict=True):
            face.copy_(keep_colours(image, face, size))
    drift: list[float | None] = [None] * len(made)
    reasons = [""] * len(made)
    if batch.drift_limit is not None and len(made):
        shown = torch.lerp(batch.images, made, batch.strength)
        for index, (moved, reason) in enumerate(batch.drift_limit.judge(batch.images, shown)):
            drift[index], reasons[index] = moved, reason
    return FaceResults(made, colours, drift, reasons)


def _made(batch: FaceBatch, restorer: Restorer, run: Runtime) -> Tensor:
    seeds, settings = batch.seeds, batch.settings
    if batch.whole:
        return restorer.restore_picture(batch.images[0], seed=seeds[0], settings=settings, runtime=run)[None]
    return restorer.restore(batch.images, seeds=seeds, settings=settings, inputs=batch.inputs, runtime=run)


def _kept_or_made(batch: FaceBatch, restorer: Restorer, run: Runtime, kept: KeptFaces) -> Tensor:
    """Take the faces that were restored before, and restore and keep the others."""
    count = len(batch.images)
    if batch.whole:
        whole_picture(restorer.method)
    else:
        restorer.check(batch.images, batch.seeds)
    inputs = restorer.method.check_inputs(batch.inputs, count)
    settings = restorer.settings(batch.settings, run)
    keys = keys_of(batch.images, batch.seeds, restorer, settings, inputs, run, whole=batch.whole)
    faces = torch.empty_like(batch.images)
    missing: list[int] = []
    for index, key in enumerate(keys):
        run.check_cancel()
        face = kept.take(key)
        if face is None:
            missing.append(index)
        else:
            faces[index].copy_(face.image)
            run.repeat(face.heard)
    found = count - len(missing)
    if found:
        run.on_progress(found, count)
    if missing or not count:
        rest = batch if not found else _some(batch, missing)
        with run.hearing() as heard:
            made = kept.shelf.rounded(_made(rest, restorer, run.scaled(found, count) if found else run))
        for index, face, said in zip(missing, made, heard_of(heard, len(missing)), strict=True):
            faces[index].copy_(face)
            kept.keep(keys[index], KeptFace(face.detach().to("cpu", copy=True), said))
    for subject, text in kept.said().items():
        run.say(subject, text)
    return faces


def _some(batch: FaceBatch, rows: list[int]) -> FaceBatch:
    return replace(
        batch,
        images=batch.images[rows],
        seeds=[batch.seeds[row] for row in rows],
        inputs={name: value[rows] for name, value in batch.inputs.items()},
    )
