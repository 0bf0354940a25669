"""Where restored frames go: into files of a few each, so that a run that is stopped has done something."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import InputMediaError, RestoreError
from .attention import Drawn
from .segments import SegmentWriter

if TYPE_CHECKING:
    from .manifest import JobFolder
    from .plan import Plan


class Sink:
    """Cuts the stream of restored frames into files, each recorded when it is whole.

    Args:
        folder: of the job.
        plan: of the job.
        each: frames of a file.
        first: frame to begin with, with which a file begins.
    """

    def __init__(self, folder: JobFolder, plan: Plan, each: int, first: int) -> None:
        self.folder, self.plan, self.each, self.next = folder, plan, each, first
        self.writer: SegmentWriter | None = None

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *error: Any) -> None:
        if self.writer is not None:
            self.writer.abort()

    def __call__(self, item: Drawn) -> None:
        """Take the next frame."""
        moment, picture, faces = item
        if moment.index != self.next:
            raise RestoreError(
                "Frames came out of order",
                found=f"frame {moment.index}, expected {self.next}",
                kept="The finished segments are kept",
                todo="Report this with the clip's --dry-run",
            )
        if self.writer is None:
            number = moment.index // self.each
            self.writer = SegmentWriter(self.folder, self.plan.encoding, self.plan.made, number, moment.index)
        self.writer.write(picture, moment.pts, faces)
        self.next += 1
        if self.next % self.each == 0:
            self._close()

    def finish(self, last: int) -> None:
        """Close the last segment, which is shorter at the end of a film."""
        if self.next != last:  # what was encoded of its segment is given up: recorded, it would count as whole
            raise InputMediaError(
                f"{self.plan.info.path} reads otherwise than before",
                found=f"it ends before frame {self.next}, and had {last} frames or more in the first pass",
                kept=f"The finished segments are in {self.plan.folder}; no output was written",
                todo=f"Check the disk and the file, then delete {self.plan.folder} and run the same command again",
            )
        self._close()

    def _close(self) -> None:
        if self.writer is not None:
            self.folder.record(self.writer.finish())
            self.writer = None
