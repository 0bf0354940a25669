"""Names of before `restoration`: they work for one release, and then go.

`Options` is `restoration.options.RestoreOptions`, and `restore_frame` was split into `restore_photo` and
`restore_aligned` of `restoration.photo`.
"""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor

from .restoration.options import RestoreOptions
from .restoration.photo import Restored, restore_aligned, restore_photo, restore_whole
from .restorer import Restorer

__all__ = ["Options", "Restored", "restore_frame", "restore_whole"]


def Options(*, gate: Any = None, **fields: Any) -> RestoreOptions:  # noqa: N802  the old name
    """Return options by the old name; `gate` is `drift_limit` now."""
    _say("Options", "restoration.options.RestoreOptions")
    return RestoreOptions(drift_limit=gate, **fields)


def restore_frame(
    frame: Tensor, restorer: Restorer, detector: Any = None, *, aligned: bool = False, **given: Any
) -> Restored:
    """Restore a picture by the old name."""
    _say("restore_frame", "restoration.photo.restore_photo or restore_aligned")
    if aligned:
        given = {name: value for name, value in given.items() if name not in ("faces", "frame_index")}
        return restore_aligned(frame, restorer, **given)
    return restore_photo(frame, restorer, detector, **given)


def _say(old: str, new: str) -> None:
    text = f"bfr_core.pipeline.{old} goes with the next release; use bfr_core.{new}"
    warnings.warn(text, DeprecationWarning, stacklevel=3)
