"""What a person chooses of a film, for all of its passes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING

from ..restoration.options import UPSCALES
from .choose import TrackSelection
from .encode import EncodeSettings
from .fields import Deinterlace
from .reader import OnDamage
from .render import RenderOptions
from .scan import HALVED_PX, ScanOptions

if TYPE_CHECKING:
    from ..faces.people import DriftLimit
    from ..types import Upscaler


@dataclass(frozen=True, slots=True)
class FilmOptions:
    """What a job does, beside whom it asks."""

    scan: ScanOptions = field(default_factory=ScanOptions)
    choice: TrackSelection = field(default_factory=TrackSelection)
    render: RenderOptions = field(default_factory=RenderOptions)
    drift_limit: DriftLimit | None = None
    """Which tracks to leave because restoring would make somebody else of them."""
    encode: EncodeSettings = field(default_factory=EncodeSettings)
    stream: int | None = None
    """Which video stream; None for the container's default."""
    drop: tuple[int, ...] = ()
    """Streams that need not be copied."""
    on_damage: OnDamage = "stop"
    """What to do with frames that cannot be decoded: stop, hold the picture before them, or skip them."""
    rate: Fraction | None = None
    """Frames a second of a clip without time stamps."""
    window: tuple[float, float] | None = None
    """Start and length in seconds of the part to restore; None for all of it."""
    segment_frames: int = 48
    """Frames that are encoded to one file, and lost at most when a run is killed."""
    keep_faces: int = 0
    """Bytes of restored faces that stay in the job's folder for another run of it; 0 keeps none there. A runtime that
    has kept faces of its own needs none."""
    deinterlace: Deinterlace = "off"
    """What becomes of the fields of an interlaced clip: they stay, 'frame' makes one whole picture of two, and 'field'
    two, at double rate."""
    upscale: int = field(default=1, metadata={"choices": UPSCALES})
    """How many times as wide and as high the result is. Faces are found and cut out in the film as it is."""
    upscaler: Upscaler | None = None
    """What makes all but the faces larger; None: Lanczos, in the film's own pixel format."""

    @property
    def looking(self) -> ScanOptions:
        """How closely to look, given that the quality filter leaves smaller faces alone."""
        # There are two kinds of search only, so other sizes are no reason to look anew.
        least = max(self.scan.min_px, self.choice.quality_filter.min_size if self.choice.quality_filter else 0.0)
        return replace(self.scan, min_px=HALVED_PX if least >= HALVED_PX else 0.0)
