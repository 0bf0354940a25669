"""What the embedded recogniser is worth: held-out people told apart by worse views, beside the file it learnt from."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from ..degrade.chain import DegradeParams, degrade, draw, fixed
from ..degrade.presets import get_preset
from ..faces.identity import RecognizerNet, drift, embedded_recognizer, load_recognizer
from ..media.pictures import read_picture
from ..metrics.verification import agreement, embeddings, verification
from ..registry import methods
from ..restoration.faces import FaceBatch, restore_crops
from ..restorer import load_restorer
from ..runtime import Runtime

HELD_OUT = ("pd512/val", "free512/val", "cc0gen512/val")
"""Folders below `faces`, a person each picture, that nothing of ours is trained on."""
VIEWS = ("moved", "x8_jpeg60", "x16_jpeg60", "gfpgan", "moved_gfpgan")
"""What people are told apart by, beside the clean picture: see `views_of`."""
_SIDE = 256
_FACE = 512
"""Side at which the faces are degraded."""
_FEW = 6
"""Faces that each method with embedded weights restores, with the settings it has by itself."""


def views_of(images: Sequence[np.ndarray]) -> dict[str, Tensor]:
    """Return views of aligned faces, the same every time: name, (N, 3, 256, 256) uint8; the first is `clean`.

    Shapes: images (S, S, 3) uint8 RGB.
    """
    faces = [cv2.resize(i, (_FACE, _FACE), interpolation=cv2.INTER_AREA) if i.shape[0] != _FACE else i for i in images]
    makers: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
        "clean": lambda face, seed: face,
        "moved": _moved,
        "x8_jpeg60": lambda face, seed: degrade(face, fixed(8, jpeg_quality=60)),
        "x16_jpeg60": lambda face, seed: degrade(face, fixed(16, jpeg_quality=60)),
        "gfpgan": lambda face, seed: degrade(face, _drawn(seed)),
        "moved_gfpgan": lambda face, seed: degrade(_moved(face, seed), _drawn(seed)),
    }
    return {
        name: torch.stack([_small(make(face, seed)) for seed, face in enumerate(faces)])
        for name, make in makers.items()
    }


def judge(
    recogniser: RecognizerNet, views: Mapping[str, Tensor], teacher: RecognizerNet | None = None
) -> dict[str, float]:
    """Return how well views of people are told apart, and how that agrees with a teacher.

    Figures end in the name of their view: `auc`, `tar` (true accept rate at a false accept rate of 1 %), `least` (the
    cosine at which that is) and `same` (mean cosine of a person's view with the clean picture); for the clean
    pictures, over all pairs of them, `other` (mean cosine of two people), and `agreement` (correlation with the
    teacher's cosines) and `cosine` (with the teacher's embedding) where there is one.
    """
    ours = {name: embeddings(recogniser, faces) for name, faces in views.items()}
    clean = ours.pop("clean")
    figures: dict[str, float] = {}
    for name, vectors in ours.items():
        found = verification(clean, vectors)
        figures |= {f"auc_{name}": found["auc"], f"tar_{name}": found["tar_at_far_1e-2"]}
        figures |= {f"least_{name}": found["threshold"], f"same_{name}": found["same_mean"]}
    figures["other"] = verification(clean, clean)["other_mean"]
    if teacher is not None:
        theirs = embeddings(teacher, views["clean"])
        found = agreement(clean, theirs)
        figures["agreement"] = found["correlation"]
        figures |= {"cosine": found["cosine"]} if "cosine" in found else {}
    return {key: round(value, 4) for key, value in figures.items()}


def bench_recogniser(shared: Path, recogniser: RecognizerNet | None = None, *, quick: bool = False) -> dict[str, Any]:
    """Return the figures of `recogniser`, the embedded one by default, and of the file it learnt from.

    Args:
        shared: the folder with faces/ and weights/.
        recogniser: any recogniser.
        quick: leave out the timing and the drift of restored faces, which takes most of the time.
    """
    recogniser = recogniser or embedded_recognizer()
    folders = [shared / "faces" / name for name in HELD_OUT]
    paths = [path for folder in folders for path in sorted(folder.iterdir())]
    images = [read_picture(path).rgb for path in paths]
    views = views_of(images)
    teacher = load_recognizer(shared / "weights" / "mobilefacenet.pt")
    figures: dict[str, Any] = {
        "people": len(paths),
        **judge(recogniser, views, teacher),
        "teacher": judge(teacher, views),
    }
    if not quick:
        figures |= _speed(recogniser)
        figures["teacher"] |= _speed(teacher)
        for method in _restoring():
            before, after = _restored(method, images[:: len(images) // _FEW][:_FEW])
            for judged, net in ((figures, recogniser), (figures["teacher"], teacher)):
                moved = drift(net, before, after).sort().values.tolist()
                judged |= {f"drift_{method}": round(statistics.median(moved), 4), f"most_{method}": round(moved[-1], 4)}
    return figures


def measure(data: Path | None, say: Callable[[str], None], sheets: Path | None = None) -> dict[str, Any]:
    """Measure the embedded recogniser; without `data` only its speed."""
    del sheets
    if data is None:
        figures = _speed(embedded_recognizer())
        say(f"{_in_words(figures)}; the rest needs --data")
        return figures
    figures = bench_recogniser(data)
    teacher = figures["teacher"]
    say(f"{figures['people']} people, each view against the clean picture of everybody; in brackets the teacher")
    for view in VIEWS:
        auc, tar, least, same = (f"{figures[f'{key}_{view}']:.3f} ({teacher[f'{key}_{view}']:.3f})" for key in _FIGURES)
        say(
            f"{view}: AUC {auc}, true accepts at 1 % false ones {tar}, from a cosine of {least}, mean cosine of the "
            f"same person {same}"
        )
    for method in _restoring():
        usual, most = (f"{figures[f'{key}_{method}']:.3f} ({teacher[f'{key}_{method}']:.3f})" for key in _DRIFT)
        say(f"drift from a face degraded as for GFPGAN, restored by {method}: median {usual}, most {most} of {_FEW}")
    say(f"correlation with the teacher's cosines of clean pairs {figures['agreement']:.3f}")
    say(f"{_in_words(figures)}; teacher: {_in_words(teacher)}")
    return figures


_FIGURES = ("auc", "tar", "least", "same")
_DRIFT = ("drift", "most")


def _in_words(figures: Mapping[str, Any]) -> str:
    return f"{1e3 * figures['seconds']:.1f} ms a face, {1e3 * figures['seconds_gradient']:.1f} ms with its gradient"


def _drawn(seed: int) -> DegradeParams:
    return draw(get_preset("gfpgan"), seed)


def _moved(face: np.ndarray, seed: int) -> np.ndarray:
    """Mirror a face, turn, scale and shift it a little, and change its light."""
    rng = np.random.Generator(np.random.PCG64([7, seed]))
    matrix = cv2.getRotationMatrix2D((_FACE / 2, _FACE / 2), rng.uniform(-6, 6), rng.uniform(0.95, 1.05))
    matrix[:, 2] += rng.uniform(-10, 10, 2)
    moved = cv2.warpAffine(face[:, ::-1], matrix, (_FACE, _FACE), borderMode=cv2.BORDER_REFLECT_101)
    levels = 255 * (moved / 255) ** rng.uniform(0.7, 1.4) * rng.uniform(0.85, 1.1, 3)
    return np.clip(levels, 0, 255).round().astype(np.uint8)


def _restoring() -> list[str]:
    return [method.id for method in methods().values() if method.configs[0].embedded]


def _restored(method: str, images: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Return faces degraded as for GFPGAN, and as a method restores them, (N, 3, 512, 512) in [0, 1] each."""
    low = [degrade(face, _drawn(seed)) for seed, face in enumerate(images)]
    faces = torch.stack([torch.from_numpy(face.copy()).permute(2, 0, 1).float() / 255 for face in low])
    return faces, restore_crops(FaceBatch(faces, range(len(faces))), load_restorer(method), Runtime(batch=2)).faces


def _small(face: np.ndarray) -> Tensor:
    small = cv2.resize(face, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(small).permute(2, 0, 1).contiguous()


def _speed(recogniser: RecognizerNet) -> dict[str, float]:
    face = torch.rand(1, 3, recogniser.size, recogniser.size, generator=torch.Generator().manual_seed(7))

    def forward() -> None:
        with torch.no_grad():
            recogniser(face)

    def both() -> None:
        x = face.clone().requires_grad_()
        torch.autograd.grad(recogniser(x).sum(), x)

    return {"seconds": _median(forward), "seconds_gradient": _median(both)}


def _median(call: Callable[[], None]) -> float:
    call()
    times = []
    for _ in range(9):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return round(statistics.median(times), 5)
