"""From what a scan found to tracks that say whether they are to be restored; the same for films and for batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from ..compose.within import OUTSIDE, check_within
from ..faces.people import usual_min_likeness
from .choose import choose
from .options import FilmOptions
from .plan import FilmModels
from .scan import ScanOptions
from .tracks import link, people
from .types import Scan, Track


def analyse(
    found: Scan,
    models: FilmModels,
    options: FilmOptions,
    shape: tuple[int, int],
    *,
    looking: ScanOptions | None = None,
    check_cancel: Callable[[], None] = lambda: None,
) -> list[Track]:
    """Follow the faces of a scan, number the persons where there is a recogniser, and choose.

    Args:
        found: the whole scan.
        models: who recognises, and the size of whose crops the quality filter judges by.
        options: whom to choose.
        shape: height and width of an upright frame.
        looking: how the scan was made, where that is not as the options have it.
        check_cancel: raises where the run is to stop.

    Raises:
        SettingsError: the choice names a track or a person that is not there.
        InputMediaError: masks of where restoring may show are not as many as frames.
    """
    tracks = link(found, looking or options.looking, check_cancel)
    if models.recogniser is not None:
        people(tracks, usual_min_likeness(models.recogniser), check_cancel)
    # A face that is sharp as it is would be soft where it is drawn out.
    choose(tracks, options.choice, shape, size=options.upscale * models.restorer.size)
    if options.render.within is not None:
        leave_outside(tracks, check_within(options.render.within, len(found)), shape)
    return tracks


def leave_outside(tracks: Sequence[Track], masks: Tensor, shape: tuple[int, int]) -> None:
    """Leave faces alone in the frames in which a mask lets none of their box be seen, and tracks where it never does.

    Args:
        tracks: changed in place.
        masks: from `check_within`.
        shape: height and width of an upright frame.
    """
    # The box in the pixels of the mask: to bring every mask to the frames' size would take longer than decoding them.
    scale = np.array([masks.shape[2] / shape[1], masks.shape[1] / shape[0]] * 2)
    for track in tracks:
        if not track.restore:
            continue
        boxes = track.boxes * scale
        boxes[:, :2], boxes[:, 2:] = np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])
        for row, frame in enumerate(track.frames.tolist()):
            mask = masks[frame if len(masks) > 1 else 0]
            x0, y0, x1, y1 = boxes[row].clip(0).astype(int).tolist()
            if not (mask[y0:y1, x0:x1] > 0).any():
                track.weight[row] = 0
        if not (track.weight > 0).any():
            track.restore, track.reason = False, OUTSIDE
