"""The passes over a batch of frames in memory, for programs that hand films around that way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from ..bounds import check_bounds
from ..errors import InputMediaError, SettingsError
from ..media.luma import luma
from ..restoration.upscale import check_upscale, upscaled
from ..runtime import Runtime
from .analysis import analyse
from .choose import to_json
from .drift import apply_drift, measure_drift
from .options import FilmOptions
from .plan import FilmModels
from .render import render
from .scan import scan
from .types import Preview, ProgressCallback, Scan, Track, VideoFrame, no_progress, now_and_then

_SMALL = 4_000
"""Pixels of the picture that cuts are found in."""


@dataclass(slots=True)
class RestoredFrames:
    """A batch of frames and what was done to it."""

    frames: Tensor
    """(N, 3, H, W), the input, enlarged where that was asked for, wherever nothing was restored."""
    tracks: list[Track]
    scan: Scan

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON types."""
        return to_json(self.tracks, self.scan)


def restore_frames(
    frames: Tensor,
    rate: float,
    models: FilmModels,
    options: FilmOptions | None = None,
    runtime: Runtime | None = None,
    *,
    on_progress: ProgressCallback = no_progress,
    preview: Preview | None = None,
) -> RestoredFrames:
    """Restore the faces of consecutive frames as a film's: followed, steadied, and chosen as a whole.

    Shapes: frames (N, 3, H, W) float32 RGB in [0, 1]; N from 1.

    Args:
        frames: of one film, in order; not changed.
        rate: frames a second.
        models: who does the work.
        options: what to do; what concerns files is not read.
        runtime: where to run.
        on_progress: hears the name of a pass, frames done and frames in all.
        preview: sees a frame now and then.

    Raises:
        InputMediaError: the frames have another shape or type.
        SettingsError: the rate is not above 0, or an option is out of range.
        RestoreError: the method failed.
    """
    options, runtime = options or FilmOptions(), runtime or Runtime()
    options.render.check()
    check_bounds(options, "restore these frames")
    if frames.ndim != 4 or frames.shape[1] != 3 or 0 in frames.shape or frames.dtype != torch.float32:
        raise InputMediaError(
            "Cannot restore these frames",
            found=f"found shape {tuple(frames.shape)} of {frames.dtype}; expected (N, 3, H, W) float32, N from 1",
            kept="The frames are unchanged",
            todo="Convert them first",
        )
    if not rate > 0:
        raise SettingsError(
            "Cannot restore frames at this rate",
            found=f"found {rate} frames a second; expected more than 0",
            kept="The frames are unchanged",
            todo="Give the frame rate of the film",
        )

    shape, factor = (frames.shape[2], frames.shape[3]), options.upscale
    check_upscale(shape, factor)

    def moments(name: str) -> Iterator[VideoFrame]:
        for index, frame in enumerate(frames):
            runtime.check_cancel()
            on_progress(name, index, len(frames))
            yield VideoFrame(
                index, index / rate, lambda frame=frame: frame.clamp(0, 1), lambda frame=frame: small(frame)
            )
        on_progress(name, len(frames), len(frames))

    found = Scan.joined(list(scan(moments("analyse"), models.detector, models.recogniser, options.looking, runtime)))
    tracks = analyse(found, models, options, shape, check_cancel=runtime.check_cancel)
    if options.drift_limit is not None:
        limit, silent = options.drift_limit, runtime.silent()
        drift = measure_drift(moments("judge"), tracks, models.restorer, options.render, limit, silent)
        apply_drift(tracks, drift, limit)
    out = frames.clone() if factor == 1 else frames.new_empty(len(frames), 3, *(factor * side for side in shape))

    def enlarged(moment: VideoFrame) -> VideoFrame:
        canvas = upscaled(frames[moment.index], factor, options.upscaler)
        out[moment.index] = canvas
        return replace(moment, rgb=lambda: canvas.clamp(0, 1))

    made = render(
        moments("render"), tracks, models.restorer, options.render, runtime, span=(0, len(frames)), upscale=factor,
        enlarge=enlarged if factor > 1 else None,
    )  # fmt: skip
    show = now_and_then(preview)
    for item in made:
        if item.after is not None and item.before is not None:
            # As a difference: what lies outside [0, 1] beside the faces stays.
            out[item.index] += item.after - item.before
            show(item.before, item.after)
    return RestoredFrames(out, tracks, found)


def small(frame: Tensor) -> np.ndarray:
    """Return the luma of (3, H, W) as a small (h, w) uint8 picture, enough to notice a cut."""
    height, width = frame.shape[1:]
    scale = min((_SMALL / (height * width)) ** 0.5, 1.0)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    shrunk = cv2.resize(luma(frame)[0].cpu().numpy(), size, interpolation=cv2.INTER_AREA)
    return (shrunk * 255).clip(0, 255).round().astype(np.uint8)
