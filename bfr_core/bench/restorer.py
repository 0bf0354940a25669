"""How good and how fast the embedded restorers are, on faces held out from training."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..degrade.chain import degrade, draw, fixed
from ..degrade.presets import get_preset
from ..errors import SettingsError
from ..evaluate.catalogue import BY_KEY
from ..evaluate.results import summarise
from ..evaluate.run import measure_pictures
from ..evaluate.tools import FaceSample, MetricModels
from ..faces.detect import load_detector
from ..media.pictures import read_picture, to_float
from ..media.sheets import caption, row, stack, to_bytes
from ..metrics.fidelity import laplacian_variance
from ..registry import default_method, get_method, methods
from ..restoration.faces import FaceBatch, restore_crops
from ..restorer import Restorer, face_seed, load_restorer
from ..runtime import Runtime

SLOW = 1.0
"""Seconds a face, in the fastest of several turns, beyond which a method is measured on every third face."""
_SETS = ("pd512", "free512", "cc0gen512")
_METRICS = {
    "psnr": "psnr", "identity": "identity", "landmarks": "nme_5", "sharpness": "sharpness", "grain": "grain",
    "weave": "weave",
}  # fmt: skip
"""Figures by name, and the metrics they are the means of."""
_DIGITS = {"psnr": 3, "identity": 4, "landmarks": 2, "sharpness": 2, "grain": 2, "weave": 2, "sharpness_share": 3}
_COLUMNS = {
    "psnr": ("PSNR, dB", 2), "identity": ("identity", 3), "landmarks": ("landmarks, %", 2), "found": ("faces found", 0),
    "sharpness_share": ("sharpness / truth", 3), "grain": ("grain", 2), "weave": ("weave", 2),
}  # fmt: skip
"""Of the table: figure, its heading and its digits."""
_FACTORS = (2, 4, 8, 16, 32)


def measure(
    data: Path | None,
    say: Callable[[str], None],
    sheets: Path | None = None,
    *,
    only: Sequence[str] = (),
    weights: Path | None = None,
) -> dict[str, Any]:
    """Measure every method that has embedded weights.

    Args:
        data: folder with faces/*/val and weights; without it only speed is measured.
        say: hears the figures.
        sheets: folder for pictures of what was measured.
        only: ids of the methods to measure; empty for all.
        weights: of the one method in `only`, to be measured beside the embedded ones.

    Raises:
        SettingsError: a method is unknown or has nothing embedded, or `weights` come without their method.
        WeightsError: the weights are not of that method.
    """
    chosen = {method: get_method(method) for method in only} or methods()
    if weights is not None and len(chosen) != 1:
        raise SettingsError(
            f"Cannot measure {weights}",
            found=f"{len(chosen)} methods are to be measured; expected the one that the weights are of",
            kept="Nothing was measured",
            todo=f"Name it: --method {default_method().id}",
        )
    if weights is not None:
        given = load_restorer(next(iter(chosen)), weights=weights)
        rivals = {"given": given}
        if given.config.embedded:
            rivals = {"embedded": load_restorer(given.method.id, given.config.name), "given": given}
        return {_title(given): compare(rivals, data, say, sheets)}
    names = [(method.id, config.name) for method in chosen.values() for config in method.configs if config.embedded]
    if lacking := sorted(chosen.keys() - {method for method, _ in names}):
        raise SettingsError(
            f"There is nothing to measure of {', '.join(lacking)}",
            found="no weights of it come with the package",
            kept="Nothing was measured",
            todo="Give weights with --weights, or choose another method",
        )
    figures: dict[str, Any] = {}
    for method, config in names:
        restorer = load_restorer(method, config)
        figures[_title(restorer)] = compare({"after": restorer}, data, say, sheets)
    return figures


def _title(restorer: Restorer) -> str:
    return f"{restorer.method.id}/{restorer.config.name}"


def compare(
    rivals: Mapping[str, Restorer], data: Path | None, say: Callable[[str], None], sheets: Path | None = None
) -> dict[str, Any]:
    """Measure one method with one or several sets of weights, and print what becomes of the input in one table.

    Each degradation has the figures of the input as `before`, those of the last rival as `after`, and those of any
    other under its name. `sharper` is how many times the variance of the Laplacian rises in the median face; `colour
    shift` how far the mean colour moves, in levels of 255, on average over faces, for its worst channel; both are the
    last rival's.

    Args:
        rivals: restorers of one method and size by what they are called; the last is the one in question.
        data: folder with faces/*/val and weights; without it only speed is measured.
        say: hears the figures.
        sheets: folder for pictures of the last.
    """
    last = list(rivals.values())[-1]
    say(_title(last))
    laps = {name: _laps(restorer) for name, restorer in rivals.items()}
    seconds = {name: round(statistics.median(each), 3) for name, each in laps.items()}
    figures: dict[str, Any] = {"seconds_per_face": list(seconds.values())[-1]}
    figures["parameters"] = sum(p.numel() for p in last.net.parameters())
    timed = ", ".join(f"{value:.3f} s{f' ({name})' if len(rivals) > 1 else ''}" for name, value in seconds.items())
    say(f"{timed} a face of {last.size} px (promised: 0.5), {figures['parameters'] / 1e6:.2f} M parameters")
    if data is None:
        say("quality: needs --data, a folder with faces/*/val and weights")
        return figures
    files = [path for name in _SETS for path in sorted((data / "faces" / name / "val").glob("*.*"))]
    if max(map(min, laps.values())) > SLOW:  # other work on the machine slows single turns
        files = files[::3]
        say(f"slow: measured on every third face, {len(files)} in all")
    clean = [to_bytes(to_float(read_picture(path))) for path in files]
    judge = Judge(_tensor(clean), data / "weights")
    rows: dict[str, Mapping[str, Mapping[str, Any]]] = {}
    for name, low in _degraded(clean):
        seeds = [face_seed(0, 0, i) for i in range(len(low))]
        sides = {
            rival: restore_crops(FaceBatch(low, seeds, colours="method"), restorer, Runtime()).faces
            for rival, restorer in rivals.items()
        }
        restored = list(sides.values())[-1]
        sharper = (laplacian_variance(restored) / laplacian_variance(low)).median().item()
        shift = (restored - low).mean((2, 3)).abs().amax(1).mean().item() * 255
        given, judged = judge.figures(low), {rival: judge.figures(faces) for rival, faces in sides.items()}
        # The last one's are where `train export --metrics` looks for the figures of a card.
        figures[name] = {"before": given, **judged, "after": list(judged.values())[-1]}
        figures[name] |= {"sharper": round(sharper, 2), "colour_shift": round(shift, 2)}
        rows[name] = {"before" if len(rivals) == 1 else "input": given, **judged}
        if sheets is not None:
            stem = f"{last.method.id}_{last.config.name}_{name.replace(' ', '_')}"
            _write_sheet(sheets / f"{stem}.png", low, restored, judge.truth)
    figures["truth"] = judge.figures(judge.truth)
    for line in table(rows, figures, len(files)):
        say(line)
    return figures


def table(rows: Mapping[str, Mapping[str, Mapping[str, Any]]], figures: Mapping[str, Any], faces: int) -> list[str]:
    """Return the figures of one method as lines: a degradation each, a cell with the value of every side.

    Args:
        rows: by degradation, then by side in their order.
        figures: the same with `sharper` and `colour_shift` by degradation, and the `truth`'s own.
        faces: how many were measured.
    """
    sides = " | ".join(next(iter(rows.values())))
    head = [sides, *(title for title, _ in _COLUMNS.values()), "sharper, times", "colour shift"]
    head[1 + list(_COLUMNS).index("found")] += f" of {faces}"
    body = []
    for name, judged in [*rows.items(), ("truth", {"truth": figures["truth"]})]:
        cells = [
            " | ".join(_show(side[key], digits) for side in judged.values()) for key, (_, digits) in _COLUMNS.items()
        ]
        more = figures[name] if name in rows else {}
        body.append([name, *cells, *(f"{more[key]:.1f}" if more else "" for key in ("sharper", "colour_shift"))])
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    return [
        "  ".join(cell.rjust(width) if at else cell.ljust(width) for at, (cell, width) in enumerate(pairs)).rstrip()
        for pairs in (list(zip(line, widths, strict=True)) for line in (head, *body))
    ]


def _laps(restorer: Restorer) -> list[float]:
    """Return the seconds that a face takes, several times."""
    runtime = Runtime()
    face = torch.rand(1, 3, restorer.size, restorer.size)
    laps = []
    for _ in range(6):
        start = time.perf_counter()
        restore_crops(FaceBatch(face, [0], colours="method"), restorer, runtime)
        laps.append(time.perf_counter() - start)
    return laps[1:]


def _show(value: float | None, digits: int) -> str:
    return "equal" if value is None else f"{value:.{digits}f}"


class Judge:
    """Compares faces with their truth; what was found in the truth is remembered.

    Shapes: truth (B, 3, S, S) in [0, 1].
    """

    def __init__(self, truth: Tensor, weights: Path) -> None:
        detector = load_detector("yunet", path=weights / "yunet_n_dynamic.onnx")
        self.tools = MetricModels(given={"recognizer": weights / "mobilefacenet.pt"}, detector=detector)
        self.truth, self.pictures = truth, [FaceSample(face, self.tools) for face in truth]
        self.sharpness = laplacian_variance(truth).mean().item()

    def figures(self, faces: Tensor) -> dict[str, float | None]:
        """Return the mean figures of `faces`, (B, 3, S, S) in the order of the truth; None where none is finite."""
        metrics = [BY_KEY[key] for key in _METRICS.values()]
        pictures = [FaceSample(face, self.tools) for face in faces]
        items = [
            measure_pictures("", metrics, {"restored": here, "truth": there}, self.tools)
            for here, there in zip(pictures, self.pictures, strict=True)
        ]
        means = {name: summarise(BY_KEY[key], items).sides["restored"].mean for name, key in _METRICS.items()}
        found = sum(picture.five_points is not None for picture in pictures)
        if (sharpness := means["sharpness"]) is not None:
            means["sharpness_share"] = sharpness / self.sharpness
        rounded = {name: None if mean is None else round(mean, _DIGITS[name]) for name, mean in means.items()}
        return rounded | {"found": found}


def _degraded(clean: list[np.ndarray]) -> list[tuple[str, Tensor]]:
    """Return the same faces under several degradations, seeded by their number."""
    gfpgan = get_preset("gfpgan")
    sets = [
        ("gfpgan", [degrade(image, draw(gfpgan, seed)) for seed, image in enumerate(clean)]),
        (
            "gfpgan without colour",
            [degrade(image, draw(gfpgan.without_colour(), seed)) for seed, image in enumerate(clean)],
        ),
    ]
    for factor in _FACTORS:
        name = f"x{factor} noise 5 JPEG 80"
        sets.append(
            (
                name,
                [
                    degrade(image, fixed(factor, noise_sigma=5, jpeg_quality=80, noise_seed=seed))
                    for seed, image in enumerate(clean)
                ],
            )
        )
    sets.append(("clean", clean))
    return [(name, _tensor(images)) for name, images in sets]


def _tensor(images: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def _write_sheet(path: Path, low: Tensor, restored: Tensor, truth: Tensor, count: int = 12) -> None:
    from ..media.pictures import Picture, write_picture

    chosen = range(0, len(low), max(len(low) // count, 1))
    rows = [row([to_bytes(x[index]) for x in (low, restored, truth)], 320) for index in chosen]
    width = rows[0].shape[1]
    pairs = [np.concatenate([left, right], axis=1) for left, right in zip(rows[::2], rows[1::2], strict=False)]
    sheet = stack([caption(["input | restored | truth"], width * 2), *pairs])
    write_picture(path, Picture(np.ascontiguousarray(sheet)))
