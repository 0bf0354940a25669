"""What the diffusion methods cost and give: evaluations of the network times the time of one, steps, precision.

Times of one run are comparable with each other, so most are said as multiples of one evaluation.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..degrade.chain import degrade, draw
from ..degrade.presets import get_preset
from ..errors import WeightsError
from ..faces.identity import RecognizerNet, identity_cosine, load_recognizer
from ..media.pictures import Picture, read_picture, to_float, write_picture
from ..media.sheets import caption, row, stack, to_bytes
from ..metrics.fidelity import laplacian_variance, psnr
from ..registry import GUIDANCE, get_method, methods
from ..restorer import Restorer, load_restorer
from ..runtime import Runtime
from .diffusion_published import filled, memory
from .half import InFloat32, times_slower

PART = "diffusion"
"""By which methods ask to be measured here."""
_TIMED_STEPS = 4
_SETS = ("pd512", "free512")
"""A held-out face of each is what the curve is measured on: it takes about 500 evaluations a face."""
_BATCHES = (1, 4, 8)


def measured_methods() -> list[str]:
    """Return the ids of the methods that ask for it."""
    return [method.id for method in methods().values() if PART in method.benches]


def measure(data: Path | None, say: Callable[[str], None], sheets: Path | None = None) -> dict[str, Any]:
    """Measure the config `compact` of each method; quality needs `data`, times and distances do not."""
    figures: dict[str, Any] = {}
    for name in measured_methods():
        restorer = prepared(name, "compact", say)
        figures[name] = measure_one(restorer, faces_of(data, restorer.size), say, sheets)
    return figures


def prepared(method: str, config: str, say: Callable[[str], None]) -> Restorer:
    """Return a restorer with its embedded weights, or with random ones where it has none, which it says."""
    try:
        restorer = load_restorer(method, config)
    except WeightsError as error:
        declared = get_method(method)
        chosen = declared.config(config)
        restorer = Restorer(declared, chosen, filled(declared.build(chosen)), "random")
        say(f"{method}/{config}, random weights, which times do not depend on. {error.what}")
    else:
        say(f"{method}/{config}, {restorer.source}")
    return restorer


@dataclass(frozen=True, slots=True)
class Faces:
    """What is restored. Shapes: (N, 3, S, S) in [0, 1]."""

    low: Tensor
    truth: Tensor | None = None
    judge: RecognizerNet | None = None
    """Tells how alike a face is to its truth; no part of any guide."""

    def figures(self, faces: Tensor) -> dict[str, float]:
        """Return identity cosine, PSNR and sharpness, their means; nothing without a truth."""
        if self.truth is None or self.judge is None:
            return {}
        found = {
            "identity": identity_cosine(self.judge, faces, self.truth),
            "psnr": psnr(faces, self.truth),
            "sharpness": laplacian_variance(faces),
        }
        return {name: round(value.double().mean().item(), 3) for name, value in found.items()}


def faces_of(data: Path | None, size: int) -> Faces:
    """Return held-out faces degraded by the GFPGAN preset, seeded by their number; soft blobs without `data`."""
    if data is None:
        blobs = torch.rand(len(_SETS), 3, 12, 12, generator=torch.Generator().manual_seed(0))
        return Faces(F.interpolate(blobs, (size, size), mode="bicubic", align_corners=False).clamp(0, 1))
    paths = [min((data / "faces" / name / "val").glob("*.*")) for name in _SETS]
    clean = [to_bytes(to_float(read_picture(path))) for path in paths]
    low = [degrade(image, draw(get_preset("gfpgan"), seed)) for seed, image in enumerate(clean)]
    judge = load_recognizer(data / "weights" / "mobilefacenet.pt")
    return Faces(_tensor(low, size), _tensor(clean, size), judge)


def _tensor(images: Sequence[np.ndarray], size: int) -> Tensor:
    faces = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    if faces.shape[-1] == size:
        return faces
    return F.interpolate(faces, (size, size), mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)


def measure_one(
    restorer: Restorer, faces: Faces, say: Callable[[str], None], sheets: Path | None = None
) -> dict[str, Any]:
    """Measure one restorer: cost, memory, the curve of steps, bfloat16, and batches where there is a GPU."""
    figures: dict[str, Any] = {"weights": restorer.source, "cost": cost(restorer, faces.low[:1], say)}
    figures["memory"] = memory(restorer.method.id, restorer.config, {"steps": 2}, say)
    figures["curve"] = curve(restorer, faces, say, sheets)
    figures["bfloat16"] = precision(restorer, faces.low, say)
    if torch.cuda.is_available():
        figures["gpu"] = batches(restorer, say, torch.device("cuda"))
    else:
        say("  GPU: none here, so neither batches nor compiled networks were timed")
    return figures


# One face, lap by lap -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Solved:
    """Faces restored, and the seconds that went by.

    Args:
        pictures: (B, 3, S, S) in [0, 1].
        seconds: in all.
        before: until the first evaluation: encoder, identity recovery network, whom to steer to.
        evaluations: each of them, with its guidance, but for the last.
        rest: the last evaluation and all after it.
        notes: what was not done as asked.
    """

    pictures: Tensor
    seconds: float
    before: float
    evaluations: tuple[float, ...]
    rest: float
    notes: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many evaluations there were."""
        return len(self.evaluations) + 1


def solve(
    restorer: Restorer, faces: Tensor, given: Mapping[str, Any], *, runtime: Runtime | None = None, seed: int = 0
) -> Solved:
    """Restore faces, seeded from `seed` on, by any solver, be it no choice of the method's settings, and time it."""
    run = runtime or Runtime()
    others = {name: value for name, value in given.items() if name != "sampler"}
    chosen = restorer.method.settings(others, restorer.config)
    chosen = replace(chosen, sampler=given.get("sampler", chosen.sampler))
    marks: dict[int, float] = {}

    def mark(index: int, total: int) -> None:
        wait(run.device)
        marks.setdefault(index, time.perf_counter())  # patches report within an evaluation, too

    runtime = run.derived(on_step=mark)
    net, context = runtime.ready(restorer.net), restorer.context(runtime)
    seeds = range(seed, seed + len(faces))
    wait(runtime.device)
    start = time.perf_counter()
    there = faces.to(runtime.device)
    with torch.inference_mode(False), torch.no_grad():
        made = restorer.run_with_fp32_fallback(
            lambda: restorer.method.restore(net, there, chosen, seeds, {}, context), runtime
        )
    made = made.clamp(0, 1).cpu()
    end = time.perf_counter()
    laps = [b - a for a, b in itertools.pairwise([start, *marks.values(), end])]
    return Solved(made, end - start, laps[0], tuple(laps[1:-1]), laps[-1], tuple(runtime.notes))


def wait(device: torch.device) -> None:
    """Wait until a GPU has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def unguided(restorer: Restorer) -> dict[str, Any]:
    """Return the settings that switch guidance off, where there is any."""
    return {GUIDANCE: False} if GUIDANCE in {param.name for param in restorer.method.params} else {}


# Cost -----------------------------------------------------------------------------------------------------------------


def cost(restorer: Restorer, face: Tensor, say: Callable[[str], None], *, rounds: int = 3) -> dict[str, Any]:
    """Time one face: an evaluation, what guidance adds to it in each way, what runs once, and all at the defaults.

    Ways are timed `rounds` times in turns, so that what else the machine does troubles all alike.
    """
    choices = {param.name: param.choices for param in restorer.method.params}
    ways: dict[str, dict[str, Any]] = {"unguided": unguided(restorer)}
    if GUIDANCE in choices:
        gradients = choices.get("gradient", ())
        ways |= {f"gradient {name}": {GUIDANCE: True, "gradient": name} for name in gradients}
        ways |= {} if gradients else {"guided": {GUIDANCE: True}}
    fixed = {"steps": _TIMED_STEPS, "sampler": "ddim"}
    parts = _parts(restorer.net, face)
    laps: dict[str, list[float]] = {name: [] for name in ways}
    once: dict[str, list[float]] = {name: [] for name in parts}
    for turn in range(rounds + 1):  # the first warms up
        for name, given in ways.items():
            laps[name] += solve(restorer, face, fixed | given).evaluations if turn else ()
        for name, call in parts.items():
            start = time.perf_counter()
            with torch.no_grad():
                call()
            once[name] += [time.perf_counter() - start] if turn else []
    each = {name: statistics.median(found) for name, found in laps.items()}
    plain = each.pop("unguided")
    whole = [solve(restorer, face, {}) for _ in range(2)]
    best = min(whole, key=lambda solved: solved.seconds)
    figures: dict[str, Any] = {
        "parameters": sum(p.numel() for p in restorer.net.parameters()),
        "evaluation_seconds": round(plain, 4),
        "guidance_adds": {name: round(seconds / plain - 1, 2) for name, seconds in each.items()},
        "once": {name: round(statistics.median(found) / plain, 2) for name, found in once.items()},
        "before": round(best.before / plain, 2),
        "seconds": round(best.seconds, 2),
        "evaluations": best.count,
        "in_evaluations": round(best.seconds / plain, 1),
    }
    chosen = asdict(restorer.method.settings({}, restorer.config))
    named = ", ".join(f"{name} {chosen[name]}" for name in ("steps", "sampler", GUIDANCE) if name in chosen)
    say(
        f"  {figures['seconds']:.2f} s a face of {restorer.size} px at the defaults ({named}; promised: 20), "
        f"{figures['parameters'] / 1e6:.2f} M parameters"
    )
    say(
        f"    that is {figures['evaluations']} evaluations of the network, and the time of {figures['in_evaluations']} "
        f"unguided ones of {1e3 * plain:.0f} ms. As multiples of one:"
    )
    say(f"    all before the first step {figures['before']:.2f}")
    for name, times in figures["once"].items():
        say(f"    {name} {times:.2f}, each time it runs")
    for name, times in figures["guidance_adds"].items():
        say(f"    guidance adds {times:.2f} to an evaluation ({name})")
    if not figures["guidance_adds"]:
        say("    this method is not guided")
    return figures


def _parts(net: Any, face: Tensor) -> dict[str, Callable[[], Any]]:
    """Return what runs beside the denoiser, by name."""
    parts: dict[str, Callable[[], Any]] = {}
    x = face * 2 - 1
    if net.irn is not None:
        parts["identity recovery network"] = lambda: net.recovered(x)
    if hasattr(net, "vq"):
        with torch.no_grad():
            z = net.encode(x)
        parts |= {"encoder": lambda: net.encode(x), "decoder": lambda: net.decode(z)}
    return parts


# The curve ------------------------------------------------------------------------------------------------------------


def curve(
    restorer: Restorer,
    faces: Faces,
    say: Callable[[str], None],
    sheets: Path | None = None,
    *,
    steps: Sequence[int] = (5, 10, 20, 40),
    samplers: Sequence[str] = ("heun", "dpm++", "ddim"),
    reference: int = 100,
) -> list[dict[str, Any]]:
    """Solve the same flow in more and fewer steps; return what each costs, and how far its pictures are off.

    Guidance is off, so that all solve the same equation; the last row has it on, at the defaults.

    Args:
        restorer: of a method that takes steps.
        faces: what to restore; each is restored by itself.
        say: hears the rows.
        sheets: folder for a picture of all step counts.
        steps: how many to take.
        samplers: solvers of the flow.
        reference: steps of Heun's method that stand for the exact solution.
    """
    still = unguided(restorer)
    exact = _all(restorer, faces.low, {**still, "steps": reference, "sampler": "heun"})
    judged = "" if faces.truth is None else f"; sharpness of the truth {faces.figures(faces.truth)['sharpness']:.0f}"
    say(
        f"  steps, {len(faces.low)} faces, unguided, by how much the picture is off {reference} steps of Heun's method "
        f"(RMS, of 255; they took {exact.seconds:.1f} s a face){judged}"
    )
    rows: list[dict[str, Any]] = []
    shown: dict[str, Tensor] = {"input": faces.low}
    if restorer.net.irn is not None:
        with torch.no_grad():
            shown["recovered"] = (restorer.net.recovered(faces.low * 2 - 1).float() + 1).div(2).clamp(0, 1)  # type: ignore[operator]
    for name, pictures in shown.items():
        rows.append({"way": name, **faces.figures(pictures), "off": _off(pictures, exact.pictures)})
    for sampler in samplers:
        for count in steps:
            found = _all(restorer, faces.low, {**still, "steps": count, "sampler": sampler})
            rows.append(_row(f"{sampler} {count}", found, faces, exact.pictures))
            if sampler == restorer.method.settings({}, restorer.config).sampler:
                shown[f"{sampler} {count}"] = found.pictures
    rows.append({"way": f"heun {reference}", **faces.figures(exact.pictures), "off": 0.0})
    if still:
        found = _all(restorer, faces.low, {})
        rows.append(_row("defaults, guided", found, faces, exact.pictures))
        shown["defaults"] = found.pictures
    for line in rows:
        say("    " + _line(line))
    if sheets is not None:
        shown |= {f"heun {reference}": exact.pictures} | ({} if faces.truth is None else {"truth": faces.truth})
        _write_sheet(sheets / f"diffusion_{restorer.method.id}_{restorer.config.name}.png", shown)
    return rows


def _all(restorer: Restorer, faces: Tensor, given: Mapping[str, Any]) -> Solved:
    """Restore faces one after the other; return their pictures and the mean seconds of one."""
    found = [solve(restorer, face[None], given, seed=seed) for seed, face in enumerate(faces)]
    first, pictures = found[0], torch.cat([solved.pictures for solved in found])
    seconds = statistics.mean(solved.seconds for solved in found)
    notes = tuple(note for solved in found for note in solved.notes)
    return Solved(pictures, seconds, first.before, first.evaluations, first.rest, notes)


def _row(way: str, found: Solved, faces: Faces, exact: Tensor) -> dict[str, Any]:
    timed = {"way": way, "evaluations": found.count, "seconds": round(found.seconds, 3)}
    return {**timed, "off": _off(found.pictures, exact), **faces.figures(found.pictures)}


def _off(pictures: Tensor, exact: Tensor) -> float:
    return round(255 * (pictures - exact).double().square().mean().sqrt().item(), 3)


def _line(line: Mapping[str, Any]) -> str:
    text = f"{line['way']:16s}"
    if "seconds" in line:
        text += f" {line['evaluations']:3d} evaluations {line['seconds']:7.2f} s"
    text = f"{text:46s} off by {line['off']:6.2f}"
    if "psnr" in line:
        text += f", identity {line['identity']:.3f}, PSNR {line['psnr']:.2f} dB, sharpness {line['sharpness']:.0f}"
    return text


def _write_sheet(path: Path, shown: Mapping[str, Tensor], height: int = 256) -> None:
    rows = [row([to_bytes(face) for face in faces], height) for faces in zip(*shown.values(), strict=True)]
    title = caption([" | ".join(shown)], rows[0].shape[1])
    write_picture(path, Picture(np.ascontiguousarray(stack([title, *rows]))))


# Mixed precision ------------------------------------------------------------------------------------------------------


def precision(restorer: Restorer, faces: Tensor, say: Callable[[str], None]) -> dict[str, Any]:
    """Restore the same faces with the same seeds at the defaults in float32 and in bfloat16; return how they differ.

    On a GPU where there is one. A CPU that emulates bfloat16 would take minutes for a step: there its products are
    summed in float32, as hardware that has it does, and only the deviation is of interest.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    slower = times_slower() if device.type == "cpu" else 0.0
    emulated = slower > 3
    found: dict[torch.dtype, list[Solved]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        inside: AbstractContextManager[Any] = InFloat32() if emulated and dtype == torch.bfloat16 else nullcontext()
        with inside:
            found[dtype] = [
                solve(restorer, face[None], {}, runtime=Runtime(device, dtype), seed=seed)
                for seed, face in enumerate(faces)
            ]
    full, half = found[torch.float32], found[torch.bfloat16]
    error = torch.cat([a.pictures - b.pictures for a, b in zip(full, half, strict=True)]).abs().double()
    square = error.square().mean().item()
    figures: dict[str, Any] = {
        "mean": error.mean().item(),
        "max": error.max().item(),
        "psnr": round(-10 * math.log10(square), 2) if square else math.inf,
        "notes": sorted({note for solved in half for note in solved.notes}),
    }
    say(
        f"  bfloat16 and float32, {len(faces)} faces at the defaults with the same seeds: off by "
        f"{255 * figures['mean']:.3f} of 255 in the mean, {255 * figures['max']:.1f} at most, "
        f"PSNR {figures['psnr']:.1f} dB"
    )
    if emulated:
        figures["convolution_times_slower"] = round(slower, 1)
        say(f"    this CPU emulates bfloat16: a convolution takes {slower:.0f} x as long as in float32")
    else:
        pairs = [statistics.median(solved.seconds for solved in some) for some in (full, half)]
        figures["times_faster"] = round(pairs[0] / pairs[1], 2)
        say(f"    {figures['times_faster']:.2f} x as fast as float32 on the {device.type}")
    for note in figures["notes"]:
        say(f"    {note}")
    return figures


# Batches on a GPU -----------------------------------------------------------------------------------------------------


def batches(
    restorer: Restorer,
    say: Callable[[str], None],
    device: torch.device,
    *,
    counts: Sequence[int] = _BATCHES,
    dtypes: Sequence[torch.dtype] = (torch.float32, torch.bfloat16),
    given: Mapping[str, Any] | None = None,
    **compiling: Any,
) -> dict[str, Any]:
    """Time batches of faces at the defaults on a device, the denoiser as it stands and compiled.

    Args:
        restorer: what to time.
        say: hears the figures.
        device: where.
        counts: faces in a batch.
        dtypes: what to compute in.
        given: settings other than the defaults.
        compiling: options of torch.compile.
    """
    net: Any = restorer.net
    figures: dict[str, Any] = {}
    ways: dict[str, nn.Module] = {"eager": net.unet}
    ways["compiled"] = torch.compile(net.unet, **compiling)  # type: ignore[assignment]
    try:
        for dtype, (name, unet) in itertools.product(dtypes, ways.items()):
            net.unet = unet
            for count in counts:
                faces = torch.rand(count, 3, restorer.size, restorer.size)
                laps = [
                    solve(restorer, faces, given or {}, runtime=Runtime(device, dtype, batch=count)).seconds / count
                    for _ in range(4)  # the first compiles
                ]
                key = f"{name} {str(dtype).removeprefix('torch.')} x{count}"
                figures[key] = {"seconds_per_face": round(statistics.median(laps[1:]), 4), "first": round(laps[0], 2)}
                say(f"  {key}: {figures[key]['seconds_per_face']:.3f} s a face")
    finally:
        net.unet = ways["eager"]
        restorer.net.to("cpu")
    return figures
