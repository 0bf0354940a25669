"""Everything that can fail before the work begins: the clip, its streams, the encoder, the folder and the disk."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bounds import check_bounds
from ..errors import OutputMediaError
from ..restoration.fingerprint import fingerprint as fingerprint_of
from .alpha import is_transparent
from .encode import Encoding, check_level, choose_encoding, trial
from .enlarge import enlarged_info
from .fields import made_of, told
from .options import FilmOptions
from .probe import no_stamps, probe
from .rate import follow_input
from .segments import PREFIX
from .streams import plan_streams
from .types import VideoInfo

if TYPE_CHECKING:
    from ..faces.detect import Detector
    from ..faces.identity import RecognizerNet
    from ..restorer import Restorer

JOB_SUFFIX = ".bfr"
"""After the name of the output: the folder of its job."""


@dataclass(frozen=True, slots=True)
class FilmModels:
    """Who does the work."""

    restorer: Restorer
    detector: Detector
    recogniser: RecognizerNet | None = None
    """Tells people apart; without one, faces are followed by place alone and nobody can be chosen by photo."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A job that can begin."""

    info: VideoInfo
    """The clip."""
    made: VideoInfo
    """What the result is: the clip, enlarged where that is asked for."""
    target: Path
    folder: Path
    encoding: Encoding
    kept: tuple[int, ...]
    """Streams that are copied."""
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types, for --dry-run."""
        return {
            "source": str(self.info.path),
            "target": str(self.target),
            "job": str(self.folder),
            "clip": self.info.to_dict(),
            "size": [self.made.width, self.made.height],
            "encoding": asdict(self.encoding),
            "copied_streams": list(self.kept),
            "notes": list(self.notes),
        }


def plan_film(source: Path, target: Path, options: FilmOptions | None = None, *, folder: Path | None = None) -> Plan:
    """Check that a film can be restored, and say how.

    The paths are expected to be checked already (`media.outputs.plan_outputs`): that the target is no input and may be
    written. Nothing is written but a few frames to memory.

    Args:
        source: the clip.
        target: what it becomes; the suffix chooses the container.
        options: what to do.
        folder: of the job; by default beside the target.

    Raises:
        InputMediaError: the clip cannot be read.
        SettingsError: an option does not fit the clip.
        OutputMediaError: the container cannot hold a stream, the encoder refuses, or there is too little space.
    """
    options = options or FilmOptions()
    options.render.check()
    check_bounds(options, "restore a film")
    info = probe(source, stream=options.stream)
    if info.start is None and options.rate is None:
        raise no_stamps(source)
    if info.alpha and not is_transparent(info, rate=options.rate, window=options.window):
        info = replace(info, alpha=False, notes=(*info.notes, "Its alpha channel is opaque throughout."))
    kept, notes = plan_streams(info, target, drop=options.drop)
    made, encoding = _encoded(info, target, options)
    folder = folder or target.with_name(target.name + JOB_SUFFIX)
    _check_space(info, target, folder, options.window)
    return Plan(
        info,
        made,
        target,
        folder,
        encoding,
        tuple(kept),
        (*info.notes, *told(info, options.deinterlace), *notes, *encoding.notes),
    )


def _encoded(info: VideoInfo, target: Path, options: FilmOptions) -> tuple[VideoInfo, Encoding]:
    """Return what the result is, and an encoding that passed its trial."""
    made = enlarged_info(made_of(info, options.deinterlace), options.upscale)
    encoding = choose_encoding(made, target, options.encode, gop=options.segment_frames)
    if options.upscale > 1:
        check_level(encoding, made)
    trial(encoding, made)
    if options.encode.crf is None:
        encoding = follow_input(info, encoding, options)
    return made, encoding


def with_fields(plan: Plan, options: FilmOptions, fields: str) -> Plan:
    """Return the plan of a clip whose frames are whole at first and turn out to be interlaced later."""
    info = replace(plan.info, fields=fields)
    made, encoding = _encoded(info, plan.target, options)
    late = told(info, options.deinterlace)
    return replace(plan, info=info, made=made, encoding=encoding, notes=(*plan.notes, *late, *encoding.notes))


def _check_space(info: VideoInfo, target: Path, folder: Path, window: tuple[float, float] | None) -> None:
    """Refuse where the result cannot fit by any guess: segments and the joined file lie side by side for a while."""
    share = min(max(info.seconds - window[0], 0.0), window[1]) / info.seconds if window and info.seconds else 1.0
    # What an earlier run has finished takes no more space.
    done = sum(path.stat().st_size for path in folder.glob(f"{PREFIX}*"))
    needed = max(int(info.bytes * min(share, 1.0)) - done, 0)
    # Before a run its folders need not be there.
    free = shutil.disk_usage(next(place for place in target.absolute().parents if place.exists())).free
    if free < needed:
        raise OutputMediaError(
            f"Too little space for {target}",
            found=f"{free:,} bytes are free in {target.parent}; expected at least {needed:,}, the size of the clip, "
            "and up to twice that",
            kept="Nothing was started and no file was changed",
            todo="Free some space, or choose a folder on another disk",
        )


def expected_frames(info: VideoInfo, window: tuple[float, float] | None) -> int:
    """Return how many frames a clip, or a part of it, has by its header; 0 where that does not say."""
    if window and info.seconds and info.rate:
        return round(min(max(info.seconds - window[0], 0.0), window[1]) * info.rate)
    return info.frames or round((info.seconds or 0) * (info.rate or 0))


def fingerprint(models: FilmModels) -> dict[str, Any]:
    """Return who restores, weights and guide included, so that a job is continued by the same one only."""
    return fingerprint_of(models.restorer)
