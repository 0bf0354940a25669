"""The evaluation: every metric that can be measured, on every face, pair of frames and set."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import torch
from torch import Tensor

from .. import __version__
from ..errors import BfrError, InputMediaError, SettingsError
from ..faces.align import align_face
from ..media.formats import is_clip
from ..metrics.temporal import estimate_motion
from ..types import Face
from .catalogue import BY_KEY, METRICS, WORST_BY, Metric
from .results import Evaluation, Item, Row, WorstKeeper, summarise
from .sources import SIDES, ClipMatch, FrameSet, pair_pictures, read_entry
from .tools import FaceSample, FramePair, MetricModels

_FACE_SIZE = 512
_SAME_PLACE = 0.3
"""Least overlap (intersection over union) of the largest faces of two frames to take them for one person."""


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """How to evaluate."""

    resize: bool = False
    """Bring restored and input to the size of the truth."""
    worst: int = 10
    """How many of the worst faces to keep as pictures."""
    worst_by: str = ""
    """Key of the metric that chooses them; empty for the first of WORST_BY that can be measured."""


def evaluate(
    paths: Mapping[str, Path],
    tools: MetricModels,
    options: EvalOptions | None = None,
    *,
    on_progress: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> Evaluation:
    """Compare restored faces with their truth, and their inputs too where there are any.

    Args:
        paths: files, folders or clips for `restored`, `truth` and perhaps `input`.
        tools: what to measure with.
        options: how.
        on_progress: hears how many faces are done, of how many (0: unknown), and the name of the last.

    Raises:
        InputMediaError: nothing matches, a clip cannot be decoded, or not one face could be compared.
        SettingsError: the worst are to be chosen by a metric that cannot choose.
        WeightsError: a file of a metric is damaged or another network's.
    """
    options = options or EvalOptions()
    clips = {side: is_clip(path) for side, path in paths.items()}
    if len(set(clips.values())) > 1:
        raise SettingsError(
            "Cannot compare a clip with pictures",
            found=", ".join(f"{paths[side]} is {'a clip' if clip else 'none'}" for side, clip in clips.items()),
            kept="Nothing was measured",
            todo="Name clips only, or pictures only",
        )
    clip = clips["restored"]
    scopes = {"face", "set", "pair"} if clip else {"face", "set"}
    wanted = [metric for metric in METRICS if metric.scope in scopes]
    missing = {metric.key: tools.missing(metric.needs) for metric in wanted}
    measured = [metric for metric in wanted if not missing[metric.key]]
    by = _worst_by(options.worst_by, measured, missing)
    for metric in measured:  # a damaged file ends the run before the first face
        if metric.tool:
            getattr(tools, metric.tool)
    evaluation = Evaluation(
        kind="clip" if clip else "pictures",
        paths={side: str(path) for side, path in paths.items()},
        made=datetime.now(timezone.utc).astimezone().isoformat(timespec="seconds"),
        versions={"bfr": __version__, "torch": torch.__version__, "device": str(tools.device)},
        rows=[],
        faces=[],
        pairs=[],
        worst_by=by,
    )
    keeper = WorstKeeper(by, options.worst)
    for_faces = [metric for metric in measured if metric.scope == "face"]
    if clip:
        for_pairs = [metric for metric in measured if metric.scope == "pair"]
        _clip(evaluation, ClipMatch(paths, options.resize), tools, (for_faces, for_pairs), keeper, on_progress)
    else:
        _pictures(evaluation, paths, tools, for_faces, keeper, on_progress, resize=options.resize)
    sets = {metric.key: _measure_set(metric, tools) for metric in measured if metric.scope == "set"}
    for metric in wanted:
        if missing[metric.key]:
            evaluation.rows.append(Row(metric, missing=missing[metric.key]))
        elif metric.scope == "set":
            evaluation.rows.append(summarise(metric, [sets[metric.key]]))
        else:
            row = summarise(metric, evaluation.faces if metric.scope == "face" else evaluation.pairs)
            evaluation.rows.append(replace(row, measured_with=tools.title_of(metric.tool)))
    evaluation.worst = keeper.worst()
    _check_features(evaluation, tools)
    return evaluation


def _worst_by(key: str, measured: Sequence[Metric], missing: Mapping[str, str]) -> Metric:
    choices = {metric.key: metric for metric in measured if metric.scope == "face" and not metric.share}
    if not key:
        return next(choices[name] for name in WORST_BY if name in choices)
    if key not in choices:
        lacks = f": {missing[key]}" if missing.get(key) else ""
        raise SettingsError(
            f"Cannot choose the worst faces by {key!r}",
            found=f"{'it cannot be measured here' + lacks if key in BY_KEY else 'there is no such metric'}; "
            f"expected one of {', '.join(choices)}",
            kept="Nothing was measured",
            todo="Choose another metric, or leave --worst-by out",
        )
    return choices[key]


def measure_face(name: str, metrics: Sequence[Metric], images: Mapping[str, Tensor], tools: MetricModels) -> Item:
    """Measure every metric on one face, for each side that has one.

    Shapes: images: (3, S, S) float32 in [0, 1] by side, of one size, with `truth`.
    """
    return measure_pictures(name, metrics, {side: FaceSample(image, tools) for side, image in images.items()}, tools)


def measure_pictures(
    name: str, metrics: Sequence[Metric], faces: Mapping[str, FaceSample], tools: MetricModels
) -> Item:
    """Do as `measure_face` for pictures that remember what was found in them."""

    def measure(metric: Metric, side: str) -> float:
        return metric.measure(tools, faces[side], faces["truth"])

    return _measure(name, metrics, [side for side in SIDES if side in faces], measure)


def _measure(
    name: str, metrics: Sequence[Metric], sides: Sequence[str], measure: Callable[[Metric, str], float]
) -> Item:
    """Measure metrics for each side; what cannot be measured is NaN, with the reason."""
    item = Item(name, {})
    for metric in metrics:
        values: dict[str, float] = {}
        for side in sides:
            if side == "truth" and not metric.own:
                continue
            try:
                with torch.no_grad():
                    values[side] = measure(metric, side)
            except InputMediaError as error:
                values[side] = math.nan
                item.why.setdefault(metric.key, f"{side}: {error.found}")
        item.values[metric.key] = values
    return item


def _measure_set(metric: Metric, tools: MetricModels) -> Item:
    sides = ["restored"] + (["input"] if not tools.missing(["features_input"]) else [])
    return _measure(metric.key, [metric], sides, lambda metric, side: metric.measure(tools, side))


def _pictures(
    evaluation: Evaluation,
    paths: Mapping[str, Path],
    tools: MetricModels,
    metrics: Sequence[Metric],
    keeper: WorstKeeper,
    on_progress: Callable[[int, int, str], None],
    *,
    resize: bool,
) -> None:
    pairing = pair_pictures(paths)
    evaluation.unmatched = pairing.unmatched
    for done, entry in enumerate(pairing.entries):
        on_progress(done, len(pairing.entries), entry.name)
        try:
            images = read_entry(entry, resize=resize)
            item = measure_face(entry.name, metrics, images, tools)
        except BfrError as error:
            evaluation.failed[entry.name] = str(error)
            continue
        evaluation.faces.append(item)
        keeper.offer(entry.name, item, images)
    on_progress(len(pairing.entries), len(pairing.entries), "")
    if not evaluation.faces:
        name, error = next(iter(evaluation.failed.items()))
        raise InputMediaError(
            "Not one face could be compared",
            found=f"all {len(evaluation.failed)} failed, the first ({name}) with: {error}",
            kept="No report was written",
            todo="Mend the first, then run again",
        )


@dataclass(slots=True)
class _Seen:
    """What the next frame is compared with."""

    moment: FrameSet
    face: Face | None
    pictures: dict[str, FaceSample]


def _clip(
    evaluation: Evaluation,
    match: ClipMatch,
    tools: MetricModels,
    metrics: tuple[Sequence[Metric], Sequence[Metric]],
    keeper: WorstKeeper,
    on_progress: Callable[[int, int, str], None],
) -> None:
    """Measure the largest face of each frame, and each pair of consecutive frames; two frames are held at a time."""
    for_faces, for_pairs = metrics
    before: _Seen | None = None
    frames = without_face = done = 0
    for moment in match.moments():
        on_progress(moment.index, match.count, moment.name)
        frames += 1
        found = tools.detector.detect(moment.frames["truth"][None].to(tools.device))[0]
        face = found[0] if found else None
        pictures: dict[str, FaceSample] = {}
        if face is None:
            without_face += 1
        else:
            # All sides are cut alike, so that what differs is what the restorer did and not where it was cut.
            crops = {side: align_face(frame, face, _FACE_SIZE).image for side, frame in moment.frames.items()}
            pictures = {side: FaceSample(crop, tools) for side, crop in crops.items()}
            item = measure_pictures(moment.name, for_faces, pictures, tools)
            item.time = moment.time
            evaluation.faces.append(item)
            keeper.offer(int(moment.time), item, crops)
        now = _Seen(moment, face, pictures)
        if before is not None and before.moment.index + 1 == moment.index:
            evaluation.pairs.append(_measure_pair(before, now, for_pairs, tools))
        before, done = now, moment.index + 1
    on_progress(done, done, "")
    if not frames:
        raise InputMediaError(
            "The clips have no frame at the same time",
            found=f"without a partner: {', '.join(f'{count} of {side}' for side, count in match.unmatched.items())}",
            kept="No report was written",
            todo="Give clips that were made from one another, with their times kept",
        )
    evaluation.notes += [f"{count} frames without a partner: {side}" for side, count in match.unmatched.items()]
    if without_face:
        evaluation.notes.append(f"{without_face} of {frames} frames of the truth show no face")


def _measure_pair(before: _Seen, now: _Seen, metrics: Sequence[Metric], tools: MetricModels) -> Item:
    sides = [side for side in SIDES if side in before.moment.frames and side in now.moment.frames]
    motion = estimate_motion(before.moment.frames["truth"], now.moment.frames["truth"])
    faces = face_motion = None
    if before.face is not None and now.face is not None and _overlap(before.face, now.face) >= _SAME_PLACE:
        faces = before.pictures, now.pictures
        first, second = (pictures["truth"].image[0].cpu() for pictures in faces)
        face_motion = estimate_motion(first, second)
    pair = FramePair((before.moment.frames, now.moment.frames), motion, faces, face_motion)
    name = f"{before.moment.name} to {now.moment.name}"
    item = _measure(name, metrics, sides, lambda metric, side: metric.measure(tools, pair, side))
    item.time = before.moment.time
    return item


def _overlap(first: Face, second: Face) -> float:
    """Return the intersection over union of two faces' boxes."""
    x0, y0 = (max(first.box[axis], second.box[axis]) for axis in (0, 1))
    x1, y1 = (min(first.box[axis], second.box[axis]) for axis in (2, 3))
    shared = max(x1 - x0, 0.0) * max(y1 - y0, 0.0)
    return shared / (first.size**2 + second.size**2 - shared)


def _check_features(evaluation: Evaluation, tools: MetricModels) -> None:
    """Say where given features are not as many as the faces: they may be of other pictures."""
    for side in SIDES:
        if f"features_{side}" in tools.given:
            rows = len(tools.features(side))
            if rows != len(evaluation.faces):
                evaluation.notes.append(
                    f"The features of {side} have {rows} rows for {len(evaluation.faces)} faces compared"
                )
