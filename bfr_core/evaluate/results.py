"""What an evaluation found: values of every face, their summary, and the worst faces."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from ..media.pictures.encode import encode
from ..media.sheets import to_bytes
from .catalogue import Better, Metric

THUMBNAIL = 256
"""Side of the pictures kept of the worst faces."""

Values = dict[str, dict[str, float]]
"""Value by metric and side; NaN where it could not be measured, infinite where PSNR finds no difference."""


@dataclass(slots=True)
class Item:
    """One face, or one pair of consecutive frames, and its values."""

    name: str
    values: Values
    why: dict[str, str] = field(default_factory=dict)
    """By metric: why it could not be measured here."""
    time: float | None = None
    """Of a frame of a clip, in seconds."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types: null where a value could not be measured, "inf" where nothing differs."""
        values = {key: {side: _plain(value) for side, value in sides.items()} for key, sides in self.values.items()}
        entry: dict[str, Any] = {"name": self.name, "values": values}
        if self.time is not None:
            entry["time"] = round(self.time, 6)
        return entry | ({"why": self.why} if self.why else {})


@dataclass(frozen=True, slots=True)
class Spread:
    """How the values of one side are distributed."""

    mean: float | None
    """Of the finite values; None where there are none."""
    median: float | None
    std: float | None
    n: int
    """Finite values."""
    equal: int = 0
    """Infinite values: PSNR of faces that equal their truth; they count in no mean."""
    unmeasured: int = 0

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Summarise values."""
        every = list(values)
        finite = [value for value in every if math.isfinite(value)]
        equal = sum(math.isinf(value) for value in every)
        if not finite:
            return cls(None, None, None, 0, equal, len(every) - equal)
        mean, median = statistics.fmean(finite), statistics.median(finite)
        return cls(mean, median, statistics.pstdev(finite), len(finite), equal, len(every) - len(finite) - equal)


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of the table."""

    metric: Metric
    sides: dict[str, Spread] = field(default_factory=dict)
    missing: str = ""
    """What to put where, where a file is missing; the row has no values then."""
    measured_with: str = ""
    """The network or model behind the values; those of two do not compare."""
    why: str = ""
    """Why some values could not be measured: the most frequent reason."""
    better: int = 0
    """Faces whose restored value is better than that of the input."""
    compared: int = 0
    """Faces that have both."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        about = {name: getattr(self.metric, name) for name in ("key", "title", "unit", "better", "scope", "about")}
        row = about | {"sides": {side: asdict(spread) for side, spread in self.sides.items()}}
        if self.missing:
            row["missing"] = self.missing
        if self.measured_with:
            row["measured_with"] = self.measured_with
        if self.why:
            row["why"] = self.why
        if self.compared:
            row["improved"] = {"better_than_input": self.better, "of": self.compared}
        return row


@dataclass(frozen=True, slots=True)
class WorstFace:
    """One of the worst faces, as pictures."""

    name: str
    values: Values
    pictures: dict[str, bytes]
    """JPEG by side."""


@dataclass(slots=True)
class Evaluation:
    """Everything an evaluation found."""

    kind: str
    """`pictures` or `clip`."""
    paths: dict[str, str]
    made: str
    versions: dict[str, str]
    rows: list[Row]
    faces: list[Item]
    pairs: list[Item]
    """Consecutive frames of a clip."""
    unmatched: dict[str, list[str]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    """By name: why a face could not be compared."""
    notes: list[str] = field(default_factory=list)
    worst: list[WorstFace] = field(default_factory=list)
    worst_by: Metric | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, with every value of every face."""
        return {
            "kind": self.kind,
            "paths": self.paths,
            "made": self.made,
            "versions": self.versions,
            "metrics": [row.to_dict() for row in self.rows],
            "faces": [item.to_dict() for item in self.faces],
            "pairs": [item.to_dict() for item in self.pairs],
            "unmatched": self.unmatched,
            "failed": self.failed,
            "notes": self.notes,
            "worst": {
                "by": self.worst_by.key if self.worst_by else None,
                "names": [face.name for face in self.worst],
            },
        }


def summarise(metric: Metric, items: list[Item]) -> Row:
    """Return the row of a metric that was measured on `items`."""
    values = [item.values[metric.key] for item in items if metric.key in item.values]
    sides = {side: Spread.of(v[side] for v in values if side in v) for side in ("restored", "input", "truth")}
    both = [
        v for v in values if not math.isnan(v.get("restored", math.nan)) and not math.isnan(v.get("input", math.nan))
    ]
    reasons = [item.why[metric.key] for item in items if metric.key in item.why]
    return Row(
        metric,
        {side: spread for side, spread in sides.items() if spread.n + spread.equal + spread.unmeasured},
        why=statistics.mode(reasons) if reasons else "",
        better=sum(badness(metric.better, v, "restored") < badness(metric.better, v, "input") for v in both),
        compared=len(both),
    )


def badness(better: Better, values: Mapping[str, float], side: str) -> float:
    """Return a number that grows as the value of `side` gets worse; NaN where it cannot be told."""
    value = values.get(side, math.nan)
    if better == "truth":
        return abs(value - values.get("truth", math.nan))
    return -value if better == "higher" else value


class WorstKeeper:
    """Keeps the worst faces seen so far as small pictures, one of each group."""

    def __init__(self, metric: Metric, count: int) -> None:
        self.metric, self.count = metric, count
        self._kept: dict[object, tuple[float, int, WorstFace]] = {}
        self._offered = 0

    def offer(self, group: object, item: Item, images: Mapping[str, Tensor]) -> None:
        """Keep the face if it is among the worst; a face whose value could not be measured is not.

        Shapes: images: (3, S, S) in [0, 1], by side.
        """
        bad = badness(self.metric.better, item.values.get(self.metric.key, {}), "restored")
        self._offered += 1
        before = self._kept.get(group)
        if math.isnan(bad) or self.count < 1 or (before is not None and before[0] >= bad):
            return
        if before is None and len(self._kept) == self.count:
            mildest = min(self._kept, key=lambda key: self._kept[key][:2])
            if self._kept[mildest][0] >= bad:
                return
            del self._kept[mildest]
        pictures = {side: _thumbnail(image) for side, image in images.items()}
        # Of two faces equally bad the earlier comes first.
        self._kept[group] = (bad, -self._offered, WorstFace(item.name, item.values, pictures))

    def worst(self) -> list[WorstFace]:
        """Return the worst faces, the worst first."""
        return [face for *_, face in sorted(self._kept.values(), key=lambda kept: kept[:2], reverse=True)]


def _thumbnail(image: Tensor) -> bytes:
    pixels = to_bytes(image)
    if max(pixels.shape[:2]) > THUMBNAIL:
        scale = THUMBNAIL / max(pixels.shape[:2])
        size = (max(round(pixels.shape[1] * scale), 1), max(round(pixels.shape[0] * scale), 1))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return encode("jpeg", np.ascontiguousarray(pixels), icc=None, exif=None, quality=88)


def _plain(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return "inf" if math.isinf(value) else round(value, 6)
