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
from ..faces.detect import Detector, load_detector
from ..faces.identity import Recogniser, identity_cosine
from ..media.pictures import read_picture, to_float
from ..media.sheets import caption, row, stack, to_bytes
from ..metrics.fidelity import laplacian_variance, psnr
from ..registry import methods
from ..restorer import Restorer, face_seed, load_restorer
from ..runtime import Runtime

_SETS = ("pd512", "free512", "cc0gen512")


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
    """Measure one restorer: seconds a face, then fidelity, identity, landmarks and sharpness at several severities."""
    runtime = Runtime()
    face = torch.rand(1, 3, restorer.size, restorer.size)
    laps = []
    for _ in range(6):
        start = time.perf_counter()
        restorer.restore(face, seeds=[0], runtime=runtime)
        laps.append(time.perf_counter() - start)
    figures: dict[str, Any] = {"seconds_per_face": round(statistics.median(laps[1:]), 3)}
    figures["parameters"] = sum(p.numel() for p in restorer.net.parameters())
    size = f"{figures['parameters'] / 1e6:.2f} M parameters"
    say(f"{figures['seconds_per_face']:.3f} s a face of {restorer.size} px (promised: 0.5), {size}")
    if data is None:
        say("quality: needs --data, a folder with faces/*/val and weights")
        return figures
    files = [path for name in _SETS for path in sorted((data / "faces" / name / "val").glob("*.*"))]
    clean = [to_bytes(to_float(read_picture(path))) for path in files]
    truth = _tensor(clean)
    recogniser = _recogniser(data / "weights" / "mobilefacenet.pt")
    landmarks = load_detector("yunet", path=data / "weights" / "yunet_n_dynamic.onnx")
    for name, low in _degraded(clean):
        restored = restorer.restore(low, seeds=[face_seed(0, 0, i) for i in range(len(low))], runtime=runtime)
        before = _figures(low, truth, recogniser, landmarks)
        after = _figures(restored, truth, recogniser, landmarks)
        figures[name] = {"before": before, "after": after}
        say(
            f"{name:28s} PSNR {before['psnr']:.2f} -> {after['psnr']:.2f} dB, identity {before['identity']:.3f} -> "
            f"{after['identity']:.3f}, landmarks {before['landmarks']:.1f} -> {after['landmarks']:.1f} % of the eye "
            f"distance, faces found {before['found']} -> {after['found']} of {len(low)}, sharpness "
            f"{before['sharpness']:.0f} -> {after['sharpness']:.0f} (truth {laplacian_variance(truth).mean():.0f})"
        )
        if sheets is not None:
            _write_sheet(
                sheets / f"{restorer.method.id}_{restorer.config.name}_{name.replace(' ', '_')}.png",
                low,
                restored,
                truth,
            )
    return figures


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


def _recogniser(path: Path) -> Recogniser:
    from ..networks.mobilefacenet import MobileFaceNet
    from ..weights import fill, load_state

    with torch.device("meta"):
        net = MobileFaceNet()
    fill(net, load_state(path), what="MobileFaceNet")
    return net.eval()


def _figures(faces: Tensor, truth: Tensor, recogniser: Recogniser, landmarks: Detector) -> dict[str, float]:
    scores = psnr(faces, truth)
    errors, found = _landmark_errors(faces, truth, landmarks)
    return {
        "psnr": scores[scores.isfinite()].mean().item() if scores.isfinite().any() else float("inf"),
        "identity": identity_cosine(recogniser, faces, truth).mean().item(),
        "landmarks": float(np.mean(errors)) if errors else float("nan"),
        "found": found,
        "sharpness": laplacian_variance(faces).mean().item(),
    }


def _landmark_errors(faces: Tensor, truth: Tensor, detector: Detector) -> tuple[list[float], int]:
    """Return the mean distance of the five points, in % of the truth's eye distance, for faces found in both."""
    errors: list[float] = []
    found = 0
    for image, clean in zip(faces, truth, strict=True):
        here, there = detector.detect(image[None])[0], detector.detect(clean[None])[0]
        found += bool(here)
        if here and there:
            distance = np.linalg.norm(here[0].points - there[0].points, axis=1).mean()
            errors.append(100 * float(distance) / there[0].eye_distance)
    return errors, found


def _write_sheet(path: Path, low: Tensor, restored: Tensor, truth: Tensor, count: int = 12) -> None:
    from ..media.pictures import Picture, write_picture

    chosen = range(0, len(low), max(len(low) // count, 1))
    rows = [row([to_bytes(x[index]) for x in (low, restored, truth)], 320) for index in chosen]
    width = rows[0].shape[1]
    pairs = [np.concatenate([left, right], axis=1) for left, right in zip(rows[::2], rows[1::2], strict=False)]
    sheet = stack([caption(["input | restored | truth"], width * 2), *pairs])
    write_picture(path, Picture(np.ascontiguousarray(sheet)))
