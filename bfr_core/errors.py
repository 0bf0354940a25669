"""The errors this package raises on purpose: one tree, one shape of message.

A message has four parts, so that the person who reads it needs nothing else: what failed, what was found and
what was expected, what is kept, and what to do next.
"""

from __future__ import annotations

from typing import Any


class BfrError(Exception):
    """Base of every error raised on purpose.

    Args:
        what: what failed, with the file, tensor or setting in question.
        found: what was found, against what was expected.
        kept: what is untouched or saved.
        todo: what the reader can do next.
    """

    def __init__(self, what: str, *, found: str, kept: str, todo: str) -> None:
        super().__init__(what, found, kept, todo)
        self.what = what
        self.found = found
        self.kept = kept
        self.todo = todo

    def __reduce__(self) -> tuple[Any, ...]:
        """Cross to another process whole: by itself an exception is rebuilt from `args` alone."""
        return _rebuild, (type(self), *self.args)

    def __str__(self) -> str:
        return " ".join(f"{part.rstrip('. ')}." for part in (self.what, self.found, self.kept, self.todo))


def _rebuild(kind: type[BfrError], what: str, found: str, kept: str, todo: str) -> BfrError:
    return kind(what, found=found, kept=kept, todo=todo)


class InputMediaError(BfrError):
    """A picture, clip or tensor that cannot be used as it is."""


class OutputMediaError(BfrError):
    """A result that cannot be written where it was asked for."""


class SettingsError(BfrError):
    """A setting that is out of range, unknown, or at odds with another."""


class WeightsError(BfrError):
    """A weight file that is missing, damaged, unsafe, or of another model."""


class ModelError(BfrError):
    """A model that is not known, or that cannot run here."""


DetectorError = ModelError
"""Its name until now, kept for one release."""


class RestoreError(BfrError):
    """A restorer that failed on valid input."""


class NumbersError(RestoreError):
    """Numbers that stopped being finite on the way; in half precision, float32 may cure it."""


class TrainError(BfrError):
    """A training run that cannot go on."""
