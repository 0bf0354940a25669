"""How steady a restored film is, on clips whose truth is known: a still face that is moved smoothly.

The truth is made by moving one photo of a face over a still background, so it has no flicker of its own but what
resampling and the estimate of the motion bring. It is then degraded as a film, and restored twice with the same
method: frame by frame, as any program for pictures would, and by the passes of `bfr_core.video`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from ..compose.paste import composite
from ..degrade.drawing import DegradeParams
from ..degrade.video import ClipParams, degrade_frames
from ..faces.align import sample
from ..faces.detect import Detector, load_detector
from ..media.pictures import Picture, read_picture, to_float, write_picture
from ..media.sheets import caption, row, stack, to_bytes
from ..metrics.temporal import estimate_motion, pair_flicker
from ..registry import default_method, guiding_methods
from ..restoration.options import RestoreOptions
from ..restoration.photo import restore_photo
from ..restorer import Restorer, load_restorer
from ..runtime import Runtime
from ..types import Face, FaceCrop
from ..video.render import RenderOptions, render
from ..video.scan import ScanOptions, scan
from ..video.tracks import link
from ..video.types import Scan, VideoFrame

FPS = 25.0
SHAPE = (360, 640)
FACE = 230.0
"""Side of the square of the face, in pixels of the frame."""
QUICK, SLOW = 50, 25
"""Frames that a method is measured on, of one pass and of many steps with noise, which takes seconds for each. A second
at least, as the first and last frames of a shot have neighbours to one side only."""
_VIEW = 256
"""Side at which flicker is measured: about that of the face in the frame."""
_INNER = slice(round(0.14 * _VIEW), round(0.86 * _VIEW))
"""The part of the square in which the restored face shows in full."""
_MILD = ClipParams(
    DegradeParams(
        kernel=11, sigma_x=1.0, sigma_y=1.0, theta=0.0, downscale=1.5, noise_sigma=6.0, noise_seed=5, jpeg_quality=0
    ),
    seed=5,
    quality=27,
    drop_prob=0.0,
    repeat_prob=0.0,
)  # fmt: skip
"""A lens that is a little soft, a shrink by 1.5, noise of 6 levels and H.264 at constant rate factor 27."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A film whose truth is known."""

    truth: list[Tensor]
    """(3, H, W) each."""
    frames: list[Tensor]
    """The same, degraded."""
    matrices: list[np.ndarray]
    """(2, 3) each: the frame to the square of the face, 256 px."""


def moving_face(face: Tensor, background: Tensor, count: int) -> Clip:
    """Return a clip of a face that sways, nods at 1.2 Hz, tilts and comes 2 % nearer and back.

    Shapes: face (3, S, S), an FFHQ crop; background (3, H, W).
    """
    truth, matrices = [], []
    for index in range(count):
        t = 2 * math.pi * index / FPS
        centre = np.array([SHAPE[1] / 2 + 45 * math.sin(0.2 * t), SHAPE[0] / 2 + 6 * math.sin(1.2 * t)])
        scale = FACE / _VIEW * (1 + 0.02 * math.sin(0.5 * t))
        angle = math.radians(3) * math.sin(0.4 * t)
        a, b = math.cos(angle) / scale, math.sin(angle) / scale
        linear = np.array([[a, -b], [b, a]])
        matrix = np.hstack([linear, _VIEW / 2 - linear @ centre[:, None]])
        crop = FaceCrop(face, matrix * (face.shape[-1] / _VIEW), Face((0, 0, 1, 1), np.zeros((5, 2)), 1.0))
        truth.append(composite(background, [crop], [face])[0])
        matrices.append(matrix)
    pictures = ((index / FPS, to_bytes(frame)) for index, frame in enumerate(truth))
    frames = [to_float(Picture(degraded)) for degraded, _ in degrade_frames(pictures, _MILD)]
    return Clip(truth, frames, matrices)


def frame_by_frame(clip: Clip, restorer: Restorer, detector: Detector, runtime: Runtime) -> Iterator[Tensor]:
    """Restore every frame as a picture of its own: its own detection, its own seed."""
    for index, frame in enumerate(clip.frames):
        options = RestoreOptions(max_faces=1, quality_filter=None)
        yield restore_photo(frame, restorer, detector, options=options, runtime=runtime, frame_index=index).image


def as_a_film(
    frames: Sequence[Tensor], restorer: Restorer, detector: Detector, options: RenderOptions, runtime: Runtime
) -> Iterator[Tensor]:
    """Restore the frames as the passes of a film do, with their default settings."""

    def moments() -> Iterator[VideoFrame]:
        for index, frame in enumerate(frames):
            small = to_bytes(frame)[::5, ::5].mean(2).astype(np.uint8)
            yield VideoFrame(index, index / FPS, lambda frame=frame: frame, lambda small=small: small)

    tracks = link(Scan.joined(list(scan(moments(), detector, None, ScanOptions(), runtime))))
    for result in render(moments(), tracks, restorer, options, runtime):
        yield result.moment.rgb() if result.after is None else result.after


@dataclass(frozen=True, slots=True)
class Steadiness:
    """How a film changes along the motion of its truth, in 8-bit levels."""

    change: float
    """Mean absolute change of a place on the face from frame to frame; of the truth too it is not zero."""
    surplus: float
    """`metrics.temporal.aligned_flicker`: the change of the error, which is zero of the truth."""
    detail: float
    """Mean absolute Laplacian: what is steady because it is soft shows here."""


def steadiness(frames: Sequence[Tensor], clip: Clip) -> Steadiness:
    """Measure a restored clip in the square of the face, with the truth's alignment and the motion of the truth."""
    faces = [_face(frame, matrix) for frame, matrix in zip(frames, clip.matrices, strict=True)]
    truth = [_face(frame, matrix) for frame, matrix in zip(clip.truth, clip.matrices, strict=True)]
    changes, surplus = [], []
    for (one, true_one), (two, true_two) in pairwise(zip(faces, truth, strict=True)):
        motion = estimate_motion(true_one, true_two)
        if motion.measurable:
            changes.append(float(np.abs(motion.change(one, two)).mean()) * 255)
            surplus.append(pair_flicker(motion, (one, two), (true_one, true_two)))
    detail = [float(np.abs(cv2.Laplacian(face.permute(1, 2, 0).numpy(), cv2.CV_32F)).mean()) * 255 for face in faces]
    return Steadiness(float(np.mean(changes)), float(np.mean(surplus)), float(np.mean(detail)))


def measure(data: Path | None, say: Callable[[str], None], sheets: Path | None = None) -> dict[str, Any]:
    """Measure the flicker of the truth, the degraded clip, and both ways of restoring it, with two methods."""
    if data is None:
        say("flicker: needs --data, for a face")
        return {}
    figures: dict[str, Any] = {}
    detector = load_detector()
    for method, count in ((default_method().id, QUICK), (guiding_methods()[0].id, SLOW)):
        clip = moving_face(*_material(data), count)
        restorer, runtime = load_restorer(method), Runtime()
        single = list(frame_by_frame(clip, restorer, detector, runtime))
        start = time.perf_counter()
        film = list(as_a_film(clip.frames, restorer, detector, RenderOptions(), runtime))
        seconds = time.perf_counter() - start
        shown = {"truth": clip.truth, "input": clip.frames, "frame_by_frame": single, "film": film}
        told = {name: steadiness(frames, clip) for name, frames in shown.items()}
        for name, each in told.items():
            levels = f"change {each.change:5.2f} levels, surplus {each.surplus:5.2f}, detail {each.detail:5.2f}"
            say(f"{method}, {name:14} {levels}")
        share = told["film"].change / told["truth"].change
        less = 100 * (1 - told["film"].change / told["frame_by_frame"].change)
        say(f"{method}: film {share:.2f} x the truth (promised: at most 1.2), {seconds / count:.2f} s a frame in all")
        say(f"{method}: {less:.0f} % less change than frame by frame (promised: at least 40)")
        figures[method] = {
            **{f"{key}_{name}": round(getattr(each, key), 3) for name, each in told.items()
               for key in ("change", "surplus", "detail")},
            "film_over_truth": round(share, 3), "less_than_frame_by_frame": round(less, 1),
            "seconds_a_frame": round(seconds / count, 3),
        }  # fmt: skip
        if sheets is not None:
            draw(shown, clip, sheets, method)
    return figures


def draw(shown: Mapping[str, Sequence[Tensor]], clip: Clip, folder: Path, name: str) -> None:
    """Write two pictures: six consecutive faces of each film, and one column of each over time."""
    rows, slices = [], []
    for frames in shown.values():
        faces = [
            to_bytes(_face(frame, matrix, slice(None))) for frame, matrix in zip(frames, clip.matrices, strict=True)
        ]
        rows.append(row(faces[len(faces) // 2 :][:6], _VIEW))
        column = np.stack([face[:, round(0.37 * _VIEW)] for face in faces], 1)
        slices.append(cv2.resize(column, (len(faces) * 8, 2 * _VIEW), interpolation=cv2.INTER_NEAREST))
    lines = [", ".join(shown)]
    for kind, picture in (("strip", stack(rows)), ("slice", row(slices, 2 * _VIEW))):
        sheet = np.concatenate([picture, caption(lines, picture.shape[1])])
        write_picture(folder / f"flicker_{name}_{kind}.png", Picture(sheet))


def _material(data: Path) -> tuple[Tensor, Tensor]:
    """Return a face and what is behind it: smooth blotches, in which no detector sees anybody."""
    face = to_float(read_picture(sorted((data / "faces" / "free512" / "val").iterdir())[0]))
    blotches = np.random.default_rng(1).random((12, 20, 3), dtype=np.float32) * 0.5 + 0.2
    background = cv2.resize(blotches, (SHAPE[1], SHAPE[0]), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    return face, torch.from_numpy(np.ascontiguousarray(background.transpose(2, 0, 1)))


def _face(frame: Tensor, matrix: np.ndarray, inner: slice = _INNER) -> Tensor:
    return sample(frame, matrix, _VIEW)[:, inner, inner]
