"""Whose faces to restore, by photos of them, and which restored faces to take back because they became somebody else.

Both ask a recogniser, by cosines of identity vectors, and neither knows anybody's name. What a cosine means depends on
the recogniser, so every limit here belongs to one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import SettingsError
from .identity import RecognizerNet, drift, identities

_TIE = 1e-4
"""Cosines this close are equal: a photo among both the wanted and the others is embedded in batches of two sizes."""
USUAL_DRIFT = "0 to 0.07 by the embedded recogniser, 0 to 0.55 by MobileFaceNet; of another person 0.75 and more"
"""How far faces degraded as for GFPGAN move when the compact methods restore them: the rows of drift of
`bfr bench recogniser`; to be measured again with every new file of the embedded one."""


def usual_min_likeness(recogniser: RecognizerNet) -> float:
    """Return the least likeness to be taken for the same person by a recogniser."""
    return recogniser.layout.min_likeness()


class Likeness(NamedTuple):
    """What was found about one face."""

    cosine: float
    """To the nearest of the people asked for; where only people to leave alone were named, to the nearest of them."""
    reason: str
    """Why the face is left as it is; empty where it is to be restored."""


@dataclass(frozen=True, slots=True, eq=False)
class People:
    """Whom to restore, whom to leave alone, and who tells.

    For each vector of `only`, the one face of a picture that is most like it is restored, if it is `min_likeness` like
    it or more; several vectors may be of one person. For each of `others`, the face most like it is left alone, if it
    is as like it and not more like somebody in `only`. With `only` empty, everybody else is restored.

    Raises:
        SettingsError: nobody is named, the vectors are not of this recogniser, or `min_likeness` is out of range.
    """

    recogniser: RecognizerNet
    title: str
    """Of the recogniser, in words, for reports."""
    only: Tensor
    """(N, D) of unit length; N may be 0."""
    others: Tensor
    """(M, D) of unit length; M may be 0."""
    min_likeness: float

    def __post_init__(self) -> None:
        found = None
        if not -1 <= self.min_likeness <= 1:
            found = f"found a least likeness of {self.min_likeness}; expected a cosine, -1 to 1"
        elif not len(self.only) + len(self.others):
            found = "found nobody to look for; expected a photo of somebody to restore or to leave alone"
        elif self.only.ndim != 2 or self.others.ndim != 2 or self.only.shape[1] != self.others.shape[1]:
            found = f"found vectors of shape {tuple(self.only.shape)} and {tuple(self.others.shape)}; expected (N, D) "
            found += "and (M, D)"
        if found:
            raise SettingsError(
                "Cannot look for these people",
                found=found,
                kept="Nothing was started",
                todo="Choose a likeness in that range, or give photos that show a face",
            )

    @classmethod
    def of(
        cls,
        recogniser: RecognizerNet,
        title: str,
        *,
        only: Tensor | None = None,
        others: Tensor | None = None,
        min_likeness: float | None = None,
    ) -> People:
        """Return the people of these identity vectors; who is not given is nobody, the limit the recogniser's usual."""
        width = next((given.shape[1] for given in (only, others) if given is not None), 0)
        nobody = torch.zeros(0, width)
        return cls(
            recogniser,
            title,
            nobody if only is None else only,
            nobody if others is None else others,
            usual_min_likeness(recogniser) if min_likeness is None else min_likeness,
        )

    def find(self, faces: Tensor) -> list[Likeness]:
        """Say for each face of one picture whether it is to be restored, and why not.

        Shapes: faces (B, 3, S, S), FFHQ-aligned crops in [0, 1]; B may be 0.
        """
        return self.find_vectors(identities(self.recogniser, faces)) if len(faces) else []

    def find_vectors(self, vectors: Tensor, together: Tensor | None = None) -> list[Likeness]:
        """Say for each identity vector whether that face is to be restored, and why not.

        Shapes: vectors (B, D) of unit length, B may be 0; together (B, B) bool, symmetric: which faces are in sight at
        the same time, so that only one of them can be a person. None for all, as in one picture; of the tracks of a
        film those that share a frame.
        """
        if not len(vectors):
            return []
        here = torch.ones(len(vectors), len(vectors), dtype=torch.bool) if together is None else together.clone()
        here.fill_diagonal_(True)
        wanted, others = vectors @ self.only.T, vectors @ self.others.T
        nearest = _most(wanted)
        reasons = self._not_asked_for(wanted, nearest, here) if len(self.only) else [""] * len(vectors)
        for face in torch.nonzero(_first_choices(others, here).any(1))[:, 0].tolist():
            cosine = float(others[face].max())
            if not reasons[face] and cosine >= self.min_likeness and cosine >= nearest[face] - _TIE:
                reasons[face] = f"cosine {cosine:.3f} to somebody who is to be left alone"
        cosines = nearest if len(self.only) else _most(others)
        return [Likeness(float(cosine), reason) for cosine, reason in zip(cosines, reasons, strict=True)]

    def _not_asked_for(self, wanted: Tensor, nearest: Tensor, here: Tensor) -> list[str]:
        chosen = (_first_choices(wanted, here) & (wanted >= self.min_likeness)).any(1).tolist()
        reasons = []
        for face, cosine in enumerate(nearest.tolist()):
            if chosen[face]:
                reasons.append("")
            elif cosine < self.min_likeness:
                needed = f"at least {self.min_likeness:g} needed"
                reasons.append(f"cosine {cosine:.3f} to the person asked for, {needed}")
            else:
                most = float(wanted[here[face], int(wanted[face].argmax())].max())
                reasons.append(
                    f"cosine {cosine:.3f} to the person asked for, but somebody else in this picture is more like the "
                    f"reference ({most:.3f})"
                )
        return reasons


@dataclass(frozen=True, slots=True, eq=False)
class DriftLimit:
    """How far restoring may move who a face shows, and who tells.

    Raises:
        SettingsError: the limit is out of range.
    """

    recogniser: RecognizerNet
    title: str
    """Of the recogniser, in words, for reports."""
    max_drift: float

    def __post_init__(self) -> None:
        if not 0 <= self.max_drift <= 2:
            raise SettingsError(
                f"Cannot allow a drift of {self.max_drift}",
                found="a drift is one minus a cosine; expected 0 to 2",
                kept="Nothing was started",
                todo="Choose a limit in that range: 0 is the same person, about 1 somebody else",
            )

    def reason(self, moved: float) -> str:
        """Say why a face that moved too far is left as it was."""
        return f"restoring moved its identity by {moved:.3f}, more than the {self.max_drift:g} allowed"

    def judge(self, before: Tensor, after: Tensor) -> list[tuple[float, str]]:
        """Return for each face its drift and why it is to be left as it was, empty where it may stay restored.

        Shapes: before and after (B, 3, S, S), FFHQ-aligned crops in [0, 1]; B may be 0.
        """
        if not len(before):
            return []
        return [
            (moved, self.reason(moved) if moved > self.max_drift else "")
            for moved in drift(self.recogniser, before, after).tolist()
        ]


def _first_choices(cosines: Tensor, here: Tensor) -> Tensor:
    """Return which faces are most like each person among those in sight with them, (B, N) bool; the first of equals.

    Shapes: cosines (B, N); here (B, B) bool.
    """
    order = torch.arange(len(cosines))
    more = cosines[None] > cosines[:, None]
    equal = (cosines[None] == cosines[:, None]) & (order[None] < order[:, None])[:, :, None]
    return ~((more | equal) & here[:, :, None]).any(1)


def _most(cosines: Tensor) -> Tensor:
    """Return the largest of each row, below any cosine where there is no column."""
    return cosines.amax(1) if cosines.shape[1] else torch.full((len(cosines),), -2.0)
