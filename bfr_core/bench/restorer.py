"""How good and how fast the embedded restorers are, on faces held out from training."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..degrade.chain import degrade, draw, fixed
from ..degrade.presets import get_preset
from ..evaluate.catalogue import BY_KEY
from ..evaluate.results import summarise
from ..evaluate.run import measure_pictures
from ..evaluate.tools import FaceSample, MetricModels
from ..faces.detect import load_detector
from ..media.pictures import read_picture, to_float
from ..media.sheets import caption, row, stack, to_bytes
from ..metrics.fidelity import laplacian_variance
from ..registry import methods
from ..restoration.faces import FaceBatch, restore_crops
from ..restorer import Restorer, face_seed, load_restorer
from ..runtime import Runtime

SLOW = 1.0
"""Seconds a face beyond which a method is measured on every third face."""
_SETS = ("pd512", "free512", "cc0gen512")
_METRICS = {"psnr": "psnr", "identity": "identity", "landmarks": "nme_5", "sharpness": "sharpness"}
"""Figures by name, and the metrics they are the means of."""
_DIGITS = {"psnr": 3, "identity": 4, "landmarks": 2, "sharpness": 2}


def measure(data: Path | None, say: Callable[[str], None], sheets: Path | None = None) -> dict[str, Any]:
    """Measure every method that has embedded weights."""
    figures: dict[str, Any] = {}
    for method in methods().values():
        for config in method.configs:
            if config.embedded:
                restorer = load_restorer(method.id, config.name)
                say(f"{method.id}/{config.name}")
                figures[f"{method.id}/{config.name}"] = measure_one(restorer, data, say, sheets)
    return figures


def measure_one(
    restorer: Restorer, data: Path | None, say: Callable[[str], None], sheets: Path | None = None
) -> dict[str, Any]:
    """Measure one restorer: seconds a face, then fidelity, identity, landmarks and sharpness at several severities.

    `sharper` is how many times the variance of the Laplacian rises in the median face; `colour shift` how far the mean
    colour moves, in levels of 255, on average over faces, for its worst channel.
    """
    runtime = Runtime()
    face = torch.rand(1, 3, restorer.size, restorer.size)
    laps = []
    for _ in range(6):
        start = time.perf_counter()
        restore_crops(FaceBatch(face, [0]), restorer, runtime)
        laps.append(time.perf_counter() - start)
    figures: dict[str, Any] = {"seconds_per_face": round(statistics.median(laps[1:]), 3)}
    figures["parameters"] = sum(p.numel() for p in restorer.net.parameters())
    size = f"{figures['parameters'] / 1e6:.2f} M parameters"
    say(f"{figures['seconds_per_face']:.3f} s a face of {restorer.size} px (promised: 0.5), {size}")
    if data is None:
        say("quality: needs --data, a folder with faces/*/val and weights")
        return figures
    files = [path for name in _SETS for path in sorted((data / "faces" / name / "val").glob("*.*"))]
    if figures["seconds_per_face"] > SLOW:
        files = files[::3]
        say(f"slow: measured on every third face, {len(files)} in all")
    clean = [to_bytes(to_float(read_picture(path))) for path in files]
    judge = _Judge(_tensor(clean), data / "weights")
    for name, low in _degraded(clean):
        restored = restore_crops(FaceBatch(low, [face_seed(0, 0, i) for i in range(len(low))]), restorer, runtime).faces
        before, after = judge.figures(low), judge.figures(restored)
        sharper = (laplacian_variance(restored) / laplacian_variance(low)).median().item()
        shift = (restored - low).mean((2, 3)).abs().amax(1).mean().item() * 255
        figures[name] = {
            "before": before,
            "after": after,
            "sharper": round(sharper, 2),
            "colour_shift": round(shift, 2),
        }
        shown = {key: [_show(side[key]) for side in (before, after)] for key in before}
        say(
            f"{name:24s} PSNR {' -> '.join(shown['psnr'])} dB, identity {' -> '.join(shown['identity'])}, landmarks "
            f"{' -> '.join(shown['landmarks'])} % of the eye distance, faces found {' -> '.join(shown['found'])} of "
            f"{len(low)}, sharpness {' -> '.join(shown['sharpness'])} (truth {judge.sharpness:.0f}), {sharper:.1f} x "
            f"in the median face, colour shift {shift:.1f}"
        )
        if sheets is not None:
            stem = f"{restorer.method.id}_{restorer.config.name}_{name.replace(' ', '_')}"
            _write_sheet(sheets / f"{stem}.png", low, restored, judge.truth)
    return figures


def _show(value: float | None) -> str:
    return "equal" if value is None else f"{value:.4g}"


class _Judge:
    """Compares faces with their truth; what was found in the truth is remembered."""

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
    for factor in (2, 4, 8, 16):
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
