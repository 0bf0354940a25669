"""What PLTrans costs and what each part of it is good for: Fig. 3 and 4 and Table 1 of the paper, on held-out faces."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ...bench.diffusion import Faces, prepared
from ...degrade.chain import degrade, draw, fixed
from ...degrade.presets import get_preset
from ...faces.identity import RecognizerNet, load_recognizer
from ...media.pictures import Picture, read_picture, to_float, write_picture
from ...media.sheets import caption, row, stack, to_bytes
from ...registry import Context
from ...restoration.faces import FaceBatch, restore_crops
from ...restorer import Restorer
from ...runtime import Runtime
from ...seeding import Draws
from ...settings import Value
from .degradation_level import STOP, degradation_level
from .model import PLTrans
from .restore import encoded

_SETS = ("pd512", "free512", "cc0gen512")
_EACH = 4
"""Held-out faces of each set."""
_FACTORS = (4, 8, 16, 32)
_CURVE = (50, 100, 200, 400, 600, 800)
_TABLE1: Mapping[str, Mapping[str, Value]] = {
    "whole": {},
    "w/o V": {"dictionary": False},
    "w/o DIFF": {"diffusion": False},
    "w/o LT": {"transformer": False},
    "w/o DWT": {"wavelet": False},
}
_PROMISED_SECONDS, _PROMISED_SHARE = 2.0, 0.15


def measure(data: Path | None, say: Callable[[str], None], sheets: Path | None = None) -> dict[str, Any]:
    """Measure the config `compact`; all but what it costs needs `data`."""
    restorer = prepared("pltrans", "compact", say)
    figures: dict[str, Any] = {"weights": restorer.source, "cost": cost(restorer, say)}
    if data is None:
        say("features and quality: need --data, a folder with faces/*/val and weights")
        return figures
    files = [path for name in _SETS for path in sorted((data / "faces" / name / "val").glob("*.*"))[:_EACH]]
    degraded = degradations([to_bytes(to_float(read_picture(path))) for path in files], restorer.size)
    figures["features"] = robustness(restorer, degraded, say)
    figures["steps"] = curve(restorer, degraded, say)
    judge = load_recognizer(data / "weights" / "mobilefacenet.pt")
    figures["table 1"] = ablations(restorer, degraded, judge, say, sheets)
    return figures


@dataclass(frozen=True, slots=True)
class Degraded:
    """The same faces, clean and degraded in several ways. Shapes: (B, 3, S, S) in [0, 1]."""

    clean: Tensor
    ways: Mapping[str, Tensor]


def degradations(clean: Sequence[np.ndarray], size: int) -> Degraded:
    """Degrade faces by the GFPGAN preset and by factors, seeded by their number."""
    preset = get_preset("gfpgan").without_colour()
    ways = {"gfpgan": _tensor([degrade(image, draw(preset, seed)) for seed, image in enumerate(clean)], size)}
    for factor in _FACTORS:
        low = [
            degrade(image, fixed(factor, noise_sigma=5, jpeg_quality=80, noise_seed=seed))
            for seed, image in enumerate(clean)
        ]
        ways[f"x{factor}"] = _tensor(low, size)
    return Degraded(_tensor(clean, size), ways)


def _tensor(images: Sequence[np.ndarray], size: int) -> Tensor:
    faces = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    if faces.shape[-1] == size:
        return faces
    return torch.nn.functional.interpolate(faces, (size, size), mode="bilinear", antialias=True).clamp(0, 1)


# Cost -----------------------------------------------------------------------------------------------------------------


def cost(restorer: Restorer, say: Callable[[str], None], *, rounds: int = 5) -> dict[str, Any]:
    """Time one face whole and its regulariser, and both ways of finding the nearest entries."""
    net, size = cast(PLTrans, restorer.net), restorer.size
    chosen = restorer.method.settings({}, restorer.config)
    face = torch.rand(1, 3, size, size)
    with torch.no_grad():
        q = net.encode(net.seen(face * 2 - 1)).float()
        z = net.prior.compared(q)

        def regularise() -> Tensor:
            u = net.regulariser.encode(q)
            arguments = (400, 220, chosen.transitions, chosen.levels, Draws([0]))
            return net.regulariser.decode(net.regulariser.regularise(u, *arguments))

        ways: dict[str, Callable[[], Any]] = {
            "whole": lambda: restore_crops(FaceBatch(face, [0], colours="method"), restorer, Runtime()),
            "regulariser": regularise,
            "matmul": lambda: net.prior.nearest(z, net.vq.codebook),
        }
        laps: dict[str, list[float]] = {name: [] for name in ways}
        for turn, (name, call) in itertools.product(range(rounds + 1), ways.items()):  # the first turn warms up
            start = time.perf_counter()
            call()
            laps[name] += [time.perf_counter() - start] if turn else []
        start = time.perf_counter()
        brute_force(z, net.vq.codebook, net.prior.top)
        slowly = time.perf_counter() - start
    each = {name: statistics.median(found) for name, found in laps.items()}
    own = sum(p.numel() for name, child in net.named_children() if name != "irn" for p in child.parameters())
    figures = {
        "parameters": own,
        "seconds": round(each["whole"], 3),
        "regulariser_share": round(each["regulariser"] / each["whole"], 3),
        "evaluations": chosen.transitions + 1,
        "nearest_by_matmul_ms": round(1e3 * each["matmul"], 2),
        "nearest_by_brute_force_ms": round(1e3 * slowly, 2),
    }
    say(
        f"  {figures['seconds']:.2f} s a face of {size} px at the defaults (promised: {_PROMISED_SECONDS:g}), "
        f"{own / 1e6:.2f} M parameters of its own"
    )
    say(
        f"  the regulariser, {figures['evaluations']} evaluations: {100 * figures['regulariser_share']:.1f} % of it "
        f"(promised: {100 * _PROMISED_SHARE:g} %)"
    )
    say(
        f"  {net.prior.top} nearest of {len(net.vq.codebook)} entries for {z[0, 0].numel()} positions: "
        f"{figures['nearest_by_matmul_ms']:.1f} ms by one product, {figures['nearest_by_brute_force_ms']:.1f} ms by "
        "differences"
    )
    return figures


def brute_force(z: Tensor, dictionary: Tensor, top: int, rows: int = 256) -> Tensor:
    """Return what `PriorKeyValue.nearest` does, from every difference: rows of positions at a time fit memory."""
    positions = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])
    found = [
        (part[:, None] - dictionary).square().sum(2).topk(top, largest=False).indices for part in positions.split(rows)
    ]
    return torch.cat(found).view(len(z), *z.shape[2:], top)


# Features -------------------------------------------------------------------------------------------------------------


def features(restorer: Restorer, faces: Tensor, given: Mapping[str, Value] | None = None) -> tuple[Tensor, Tensor]:
    """Return the query q_hat and the features q of faces, each restored by itself, seeded by its number."""
    net = cast(PLTrans, restorer.net)
    chosen = restorer.method.settings(given or {}, restorer.config)
    queries, plain = [], []
    with torch.no_grad():
        for seed, face in enumerate(faces):
            u, q = encoded(net, face[None], chosen, Draws([seed]), Context())
            queries.append(net.regulariser.decode(u))
            plain.append(q)
    return torch.cat(queries), torch.cat(plain)


def direct(restorer: Restorer, faces: Tensor) -> Tensor:
    """Return E(x) of faces as they are, without a network before the encoder."""
    net = cast(PLTrans, restorer.net)
    with torch.no_grad():
        return torch.cat([net.encode(face[None] * 2 - 1) for face in faces])


def apart(a: Tensor, b: Tensor) -> float:
    """Return the mean distance of features, row by row: the root of their mean squared difference."""
    return (a - b).double().flatten(1).square().mean(1).sqrt().mean().item()


def between(features: Tensor) -> float:
    """Return the mean distance of different rows."""
    pairs = list(itertools.combinations(range(len(features)), 2))
    first, second = (torch.tensor(side) for side in zip(*pairs, strict=True))
    return apart(features[first], features[second])


def told_apart(clean: Tensor, degraded: Tensor) -> float:
    """Return how often a face's features are on the right side of clean and degraded; 0.5 is chance (Fig. 3).

    Faces are points of the mean and the spread of each channel; each is compared with the centres of both kinds without
    itself and its other version.
    """
    kinds = [_points(clean), _points(degraded)]
    spread = torch.cat(kinds).std(0).clamp(min=1e-12)
    right = 0.0
    for index in range(len(clean)):
        rest = [torch.cat([points[:index], points[index + 1 :]]).mean(0) for points in kinds]
        for own, points in enumerate(kinds):
            near, far = (((points[index] - rest[kind]) / spread).square().sum() for kind in (own, 1 - own))
            right += float(near < far) + 0.5 * float(near == far)
    return right / (2 * len(clean))


def _points(features: Tensor) -> Tensor:
    flat = features.double().flatten(2)
    return torch.cat([flat.mean(2), flat.std(2)], 1)


def robustness(restorer: Restorer, faces: Degraded, say: Callable[[str], None]) -> dict[str, Any]:
    """Return how far features of degraded faces are from those of the clean ones, before and after (Fig. 3).

    In units of the distance between different clean faces. "encoder": E(x); "before": E of what it is given, which an
    identity recovery network may have made of x; "after": q_hat.
    """
    clean = direct(restorer, faces.clean)
    unit = between(clean)
    figures: dict[str, Any] = {"between_clean_faces": unit}
    say(
        f"  features of {len(clean)} faces: distance of degraded and clean ones, by that between clean faces; in "
        "brackets how often the two kinds are told apart (50 % is chance)"
    )
    for name, low in faces.ways.items():
        after, before = features(restorer, low)
        sides = {"encoder": direct(restorer, low), "before": before, "after": after}
        figures[name] = {
            side: {"distance": round(apart(q, clean) / unit, 3), "told_apart": round(told_apart(clean, q), 3)}
            for side, q in sides.items()
        } | {"strength": round(degradation_level(low).mean().item(), 3)}
        said = ", ".join(
            f"{side} {figures[name][side]['distance']:.3f} ({100 * figures[name][side]['told_apart']:.0f} %)"
            for side in sides
        )
        say(f"    {name:8s} strength {figures[name]['strength']:.2f}: {said}")
    return figures


def curve(restorer: Restorer, faces: Degraded, say: Callable[[str], None]) -> dict[str, Any]:
    """Return how far the query is from the clean features after more and fewer steps (Fig. 4)."""
    clean = direct(restorer, faces.clean)
    unit = between(clean)
    figures: dict[str, Any] = {}
    say(f"  distance of the query by steps n, s = {STOP:g} n")
    for name, low in faces.ways.items():
        rows: dict[str, float] = {}
        for n in _CURVE:
            given: dict[str, Value] = {"steps": "fixed", "n": n, "s": round(STOP * n)}
            rows[str(n)] = round(apart(features(restorer, low, given)[0], clean) / unit, 3)
        rows["auto"] = round(apart(features(restorer, low)[0], clean) / unit, 3)
        figures[name] = rows
        say(f"    {name:8s} " + ", ".join(f"{n} {value:.3f}" for n, value in rows.items()))
    return figures


# Pictures -------------------------------------------------------------------------------------------------------------


def ablations(
    restorer: Restorer,
    faces: Degraded,
    judge: RecognizerNet,
    say: Callable[[str], None],
    sheets: Path | None = None,
) -> dict[str, Any]:
    """Return identity, PSNR and sharpness of the input and of each row of Table 1, on the GFPGAN preset."""
    low = faces.ways["gfpgan"]
    truth = Faces(low, faces.clean, judge)
    seeds = range(len(low))
    shown = {"input": low}
    for name, given in _TABLE1.items():
        shown[name] = restore_crops(FaceBatch(low, seeds, given, colours="method"), restorer, Runtime(batch=1)).faces
    figures = {name: truth.figures(pictures) for name, pictures in (shown | {"truth": faces.clean}).items()}
    say(f"  Table 1 on {len(low)} faces of the GFPGAN preset; one network, its parts switched off without new training")
    for name, found in figures.items():
        say(
            f"    {name:9s} identity {found['identity']:.3f}, PSNR {found['psnr']:.2f} dB, "
            f"sharpness {found['sharpness']:.0f}"
        )
    if sheets is not None:
        columns = shown | {"truth": faces.clean}
        rows = [row([to_bytes(face) for face in line], 256) for line in zip(*columns.values(), strict=True)]
        title = caption([" | ".join(columns)], rows[0].shape[1])
        write_picture(sheets / "pltrans_table1.png", Picture(np.ascontiguousarray(stack([title, *rows]))))
    return figures
