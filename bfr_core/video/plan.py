"""Everything that can fail before the work begins: the clip, its streams, the encoder, the folder and the disk."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import OutputMediaError
from .choose import Choice
from .encode import EncodeSettings, Encoding, choose_encoding, trial
from .probe import probe
from .render import RenderOptions
from .scan import ScanOptions
from .streams import plan_streams
from .types import VideoInfo

if TYPE_CHECKING:
    from ..faces.detect import Detector
    from ..faces.identity import FaceRecogniser
    from ..restorer import Restorer

OnError = Literal["stop", "hold", "skip"]

JOB_SUFFIX = ".bfr"
"""After the name of the output: the folder of its job."""


@dataclass(frozen=True, slots=True)
class FilmOptions:
    """What a job does, beside whom it asks."""

    scan: ScanOptions = field(default_factory=ScanOptions)
    choice: Choice = field(default_factory=Choice)
    render: RenderOptions = field(default_factory=RenderOptions)
    encode: EncodeSettings = field(default_factory=EncodeSettings)
    stream: int | None = None
    """Which video stream; None for the container's default."""
    drop: tuple[int, ...] = ()
    """Streams that need not be copied."""
    on_error: OnError = "stop"
    """What to do with frames that cannot be decoded: stop, hold the picture before them, or skip them."""
    rate: Fraction | None = None
    """Frames a second of a clip without time stamps."""
    window: tuple[float, float] | None = None
    """Start and length in seconds of the part to restore; None for all of it."""
    segment_frames: int = 120
    """Frames that are encoded to one file, and lost at most when a run is killed."""

    @property
    def looking(self) -> ScanOptions:
        """How closely to look, given that the gate leaves smaller faces alone."""
        gate = self.choice.gate
        return replace(self.scan, least_px=max(self.scan.least_px, gate.min_size if gate else 0.0))


@dataclass(frozen=True, slots=True)
class Crew:
    """Who does the work."""

    restorer: Restorer
    detector: Detector
    recogniser: FaceRecogniser | None = None
    """Tells people apart; without one, faces are followed by place alone and nobody can be chosen by photo."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A job that can begin."""

    info: VideoInfo
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
            "encoding": asdict(self.encoding),
            "copied_streams": list(self.kept),
            "notes": list(self.notes),
        }


def plan_film(source: Path, target: Path, options: FilmOptions | None = None, *, folder: Path | None = None) -> Plan:
    """Check that a film can be restored, and say how.

    The paths are expected to be checked already (`media.outputs.plan_outputs`): that the target is no input and may be
    written. Nothing is written but two frames to memory.

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
    info = probe(source, stream=options.stream)
    kept, notes = plan_streams(info, target, drop=options.drop)
    encoding = choose_encoding(info, target, options.encode, gop=options.segment_frames)
    trial(encoding, info)
    _check_space(info, target, options.window)
    return Plan(
        info,
        target,
        folder or target.with_name(target.name + JOB_SUFFIX),
        encoding,
        tuple(kept),
        (*info.notes, *notes, *encoding.notes),
    )


def _check_space(info: VideoInfo, target: Path, window: tuple[float, float] | None) -> None:
    """Refuse where the result cannot fit by any guess: segments and the joined file lie side by side for a while."""
    share = min(window[1] / info.seconds, 1.0) if window and info.seconds else 1.0
    needed = int(info.bytes * share)
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise OutputMediaError(
            f"Too little space for {target}",
            found=f"{free:,} bytes are free in {target.parent}; expected at least {needed:,}, the size of the clip, "
            "and up to twice that",
            kept="Nothing was started and no file was changed",
            todo="Free some space, or choose a folder on another disk",
        )


def fingerprint(crew: Crew) -> dict[str, str]:
    """Return who restores, weights included, so that a job is continued by the same one only."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(crew.restorer.net.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    restorer = crew.restorer
    return {
        "method": restorer.method.id,
        "config": restorer.config.name,
        "weights": digest.hexdigest(),
        "guide": restorer.guide.title if restorer.guide else "",
    }
