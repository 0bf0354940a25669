"""From what a scan found to tracks that say whether they are to be restored; the same for films and for batches."""

from __future__ import annotations

from collections.abc import Callable

from ..faces.people import usual_min_likeness
from .choose import choose
from .plan import FilmModels, FilmOptions
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
    """
    tracks = link(found, looking or options.looking, check_cancel)
    if models.recogniser is not None:
        people(tracks, usual_min_likeness(models.recogniser), check_cancel)
    # A face that is sharp as it is would be soft where it is drawn out.
    choose(tracks, options.choice, shape, size=options.upscale * models.restorer.size)
    return tracks
