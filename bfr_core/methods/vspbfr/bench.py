"""What VSPBFR of full size costs, beside the same layout evaluated the plain way with the same weights and faces.

The weights are random: time and memory do not depend on them. The published file set is not needed.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...bench.memory import kilobytes
from ...networks.irse import STAGES
from ...registry import Config
from ...restoration.faces import FaceBatch, restore_crops
from ...restorer import Restorer
from ...runtime import Runtime
from ...seeding import Draws
from . import METHOD
from . import published_layout as published
from .diffuser import diffuse
from .model import VSPBFR
from .restore import injected, random_styles

_ROUNDS = 3
_BATCHES = (1, 4, 8)
_PAPER_MS = 81
"""Table III: one face on an RTX 3080 Ti."""
_PARTS = ("encoder", "diffuser", "bank", "restorer")


def measure(data: Path | None, say: Callable[[str], None], sheets: Path | None = None) -> dict[str, Any]:
    """Measure seconds a face, part by part, and memory; on a GPU also batches and compiled networks."""
    del data, sheets
    config = METHOD.config("official")
    figures: dict[str, Any] = {"memory": memory(config, say)}
    net = filled(METHOD.build(config))
    figures |= compare(net, config, say)
    if torch.cuda.is_available():
        gpu = torch.device("cuda")
        figures["gpu"] = batches(net.to(gpu), config, say)
    else:
        say("GPU: none here")
    del net
    figures["compact"] = _compact(say)
    return figures


def filled(net: Any) -> VSPBFR:
    """Give biases and noise strengths, which begin at zero, some weight: no part may agree by being nothing."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in [*net.parameters(), net.latent_avg]:
            if not tensor.any():
                tensor.normal_(0, 0.1, generator=generator)
    return net.eval().requires_grad_(False)


# One face on the CPU --------------------------------------------------------------------------------------------------


class _Laps:
    """Collects the seconds of named parts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._cpu, self._last = time.process_time(), time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self._last = now - self._last, now
        self.seconds["cpu"] = time.process_time() - self._cpu


@dataclass(frozen=True, slots=True)
class _Painted:
    codes: Tensor
    picture: Tensor
    seconds: dict[str, float]


def _ours(net: VSPBFR, face: Tensor, given: Tensor | None = None) -> _Painted:
    """Restore; see `_plain` for `given`."""
    draws, laps = Draws((0,)), _Laps()
    noise = injected(draws)
    initial = net.encode(face).float()
    laps.lap("encoder")
    codes = diffuse(net.att_mapper, initial, draws.normal("w_T", *initial.shape[1:]), net.diffusion, _none)[-1]
    laps.lap("diffuser")
    used = codes if given is None else given
    maps = net.decoder.features(used, noise, largest=net.restorer.side)
    laps.lap("bank")
    picture = net.restorer(face, used, random_styles(net, draws, mean=False, mixing=0.5), maps, noise)
    laps.lap("restorer")
    return _Painted(codes, picture.float(), laps.seconds)


def _plain(net: VSPBFR, face: Tensor, units: list[int], given: Tensor) -> _Painted:
    """Restore; the picture is painted from `given` codes in place of those found, so that it can be compared alone."""
    draws, laps = Draws((0,)), _Laps()
    noise, p = injected(draws), published.Weights(net.state_dict())
    initial = published.encode(p, face, net.encoder.input_size, units=units)
    laps.lap("encoder")
    codes = published.diffuse(p, initial, draws.normal("w_T", *initial.shape[1:]))
    laps.lap("diffuser")
    maps, _ = published.bank(p.at("decoder"), given, noise)
    laps.lap("bank")
    styles = random_styles(net, draws, mean=False, mixing=0.5)
    picture = published.restore(p.at("restorer"), face, given, styles, maps, noise)
    laps.lap("restorer")
    return _Painted(codes, picture, laps.seconds)


def _none(t: int) -> Tensor:
    raise AssertionError(f"the released process draws no noise at step {t}")


def compare(
    net: VSPBFR, config: Config, say: Callable[[str], None], *, rounds: int = _ROUNDS, half: bool | None = None
) -> dict[str, Any]:
    """Time one face the plain way, ours in float32 and ours in bfloat16, in turns, and compare the pictures.

    Args:
        net: on the CPU.
        config: its config.
        say: hears the figures.
        rounds: how often, after one round to warm up.
        half: whether bfloat16 is among them; None: unless this CPU emulates it, where a face would take minutes.
    """
    units = [count for _, count in config.options["encoder"].get("stages", STAGES)]
    face = torch.rand(1, 3, config.size, config.size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    figures: dict[str, Any] = {"bfloat16": {"convolution_times_slower": round(_slower_in_half(), 2)}}
    emulated = figures["bfloat16"]["convolution_times_slower"] > 3

    def rough() -> _Painted:
        with torch.autocast("cpu", torch.bfloat16):
            return _ours(net, face, last["float32"].codes)

    last: dict[str, _Painted] = {}
    ways = {"float32": lambda: _ours(net, face), "plain": lambda: _plain(net, face, units, last["float32"].codes)}
    if not emulated if half is None else half:
        ways["bfloat16"] = rough
    laps: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    with torch.inference_mode():
        for _ in range(rounds + 1):  # in turns, so that what else the machine does troubles all alike
            for name, way in ways.items():
                last[name] = way()
                laps[name].append(last[name].seconds)

    titles = {"plain": "published layout, plain", "float32": "ours, float32 (aimed at: 5)"}
    titles["bfloat16"] = "ours, bfloat16 (aimed at: 3)"
    for name in (name for name in titles if name in ways):
        figure = figures.setdefault(name, {})
        figure |= _summary(laps[name][1:])
        parts = ", ".join(f"{part} {figure[part]:.2f}" for part in _PARTS)
        say(f"{titles[name]}: {figure['seconds']:.2f} s a face ({parts}), {figure['cpu']:.2f} s of CPU")
        if name != "plain":
            for clock in ("seconds", "cpu"):
                figure[f"times_faster_{clock}"] = round(figures["plain"][clock] / figure[clock], 2)
            by_clock, by_cpu = figure["times_faster_seconds"], figure["times_faster_cpu"]
            say(f"  {by_clock:.2f} x as fast as the plain way, {by_cpu:.2f} x in CPU time")
    ours = last["float32"]
    figures["agreement"] = {}
    for name, true, found in (("plain", last["plain"], ours), ("bfloat16", ours, last.get("bfloat16"))):
        if found is None:
            continue
        codes, picture = _deviation(true.codes, found.codes), _deviation(true.picture, found.picture)
        figures["agreement" if name == "plain" else "bfloat16"] |= {"codes": codes, "picture": picture}
        say(f"float32 and {name}: codes differ by {_words(codes)}")
        say(f"  the picture from the same codes by {_words(picture)}")
    if "bfloat16" not in last:
        times = figures["bfloat16"]["convolution_times_slower"]
        say(f"bfloat16: this CPU emulates it, a convolution takes {times:.1f} x as long as float32; no face was timed")
    return figures


def _slower_in_half() -> float:
    """Return how much longer a convolution takes in bfloat16 than in float32."""
    seconds = []
    for dtype in (torch.float32, torch.bfloat16):
        x, weight = torch.rand(1, 128, 64, 64, dtype=dtype), torch.rand(128, 128, 3, 3, dtype=dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        laps = []
        for _ in range(4):
            start = time.perf_counter()
            torch.nn.functional.conv2d(x, weight, padding=1)
            laps.append(time.perf_counter() - start)
        seconds.append(min(laps))
    return seconds[1] / seconds[0]


def _summary(laps: list[dict[str, float]]) -> dict[str, float]:
    figures = {part: round(statistics.median(lap[part] for lap in laps), 3) for part in (*_PARTS, "cpu")}
    whole = [_whole(lap) for lap in laps]
    return {
        "seconds": round(statistics.median(whole), 3),
        "fastest": round(min(whole), 3),
        "laps": len(laps),
        **figures,
    }


def _whole(lap: Mapping[str, float]) -> float:
    return sum(lap[part] for part in _PARTS)


def _deviation(true: Tensor, found: Tensor) -> dict[str, float]:
    """Compare on the range of the true values, as random weights paint beyond [0, 1]."""
    error = (found - true).abs().double() / (true.max() - true.min()).double()
    square = error.square().mean().item()
    psnr = -10 * math.log10(square) if square else math.inf
    return {"mean": error.mean().item(), "max": error.max().item(), "psnr": round(psnr, 2)}


def _words(deviation: Mapping[str, float]) -> str:
    mean, most, psnr = (deviation[name] for name in ("mean", "max", "psnr"))
    return f"{mean:.1e} of the range in the mean, {most:.1e} at most, PSNR {psnr:.1f} dB"


def _compact(say: Callable[[str], None]) -> dict[str, float]:
    config = METHOD.config("compact")
    net = filled(METHOD.build(config))
    face, runtime = torch.rand(1, 3, config.size, config.size), Runtime()
    restorer, laps = Restorer(METHOD, config, net, "random"), []
    for _ in range(_ROUNDS + 3):
        start = time.perf_counter()
        restore_crops(FaceBatch(face, [0], colours="method"), restorer, runtime)
        laps.append(time.perf_counter() - start)
    figures = {"seconds": round(statistics.median(laps[1:]), 3), "fastest": round(min(laps[1:]), 3)}
    figures["parameters"] = sum(p.numel() for p in net.parameters())
    say(f"compact: {figures['seconds']:.3f} s a face, {figures['parameters'] / 1e6:.2f} M parameters")
    return figures


# Memory ---------------------------------------------------------------------------------------------------------------


def memory(config: Config, say: Callable[[str], None]) -> dict[str, float] | None:
    """Build the network and restore a face in a process of its own; compare its memory with the parameters'."""
    if not Path("/proc/self/status").exists():
        say("peak memory: can be read on Linux only")
        return None
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_restore_once, args=(theirs, config, torch.get_num_threads()))
    process.start()
    theirs.close()
    grown, parameters = ours.recv()
    process.join()
    figures = {"parameter_bytes": parameters, "peak_bytes": grown, "ratio": round(grown / parameters, 2)}
    say(
        f"peak memory {figures['ratio']:.2f} x the parameters (aimed at: 2.2): {grown / 1e9:.2f} GB for "
        f"{parameters / 1e9:.2f} GB of them"
    )
    return figures


def _restore_once(connection: Any, config: Config, threads: int) -> None:
    torch.set_num_threads(threads)
    status = Path("/proc/self/status")
    before = kilobytes(status, "VmRSS")
    net = METHOD.build(config)
    restorer = Restorer(METHOD, config, net, "random")
    for seed in (0, 1):
        face = torch.rand(1, 3, config.size, config.size)
        restore_crops(FaceBatch(face, [seed], colours="method"), restorer, Runtime())
    grown = (kilobytes(status, "VmHWM") - before) * 1024
    connection.send((grown, sum(p.numel() * p.element_size() for p in net.parameters())))


# Batches on a GPU -----------------------------------------------------------------------------------------------------


def batches(
    net: VSPBFR,
    config: Config,
    say: Callable[[str], None],
    *,
    counts: Sequence[int] = _BATCHES,
    dtypes: Sequence[torch.dtype] = (torch.float32, torch.bfloat16),
    **compiling: Any,
) -> dict[str, Any]:
    """Time batches of faces where the network is, as it stands and with diffuser and auto-encoder compiled.

    Args:
        net: on its device.
        config: its config.
        say: hears the figures.
        counts: faces in a batch.
        dtypes: what to compute in.
        compiling: options of torch.compile; CUDA graphs by default.
    """
    options = compiling or {"mode": "reduce-overhead"}
    device = net.latent_avg.device
    figures: dict[str, Any] = {}
    ways: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
        "eager": (diffuse, net.restorer),
        "compiled": (torch.compile(diffuse, **options), torch.compile(net.restorer, **options)),
    }
    for dtype in dtypes:
        for name, (denoise, paint) in ways.items():
            for count in counts:
                key = f"{name} {str(dtype).removeprefix('torch.')} x{count}"
                faces = torch.rand(count, 3, config.size, config.size).to(device) * 2 - 1
                with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    figures[key] = _batch_ms(net, faces, denoise, paint)
                ratio = _PAPER_MS / figures[key]["ms_per_face"]
                say(
                    f"{key}: {figures[key]['ms_per_face']:.1f} ms a face, {ratio:.2f} x as fast as the paper's "
                    f"{_PAPER_MS} ms on an RTX 3080 Ti; {figures[key]['noise_ms_per_face']:.1f} ms more for its noise"
                )
    return figures


def _batch_ms(net: VSPBFR, faces: Tensor, denoise: Callable[..., Any], paint: Callable[..., Any]) -> dict[str, float]:
    draws, drawn = Draws(range(len(faces)), faces.device), {}
    first = draws.normal("w_T", *net.latent_avg.shape)
    styles = random_styles(net, draws, mean=False, mixing=0.5)

    def layer(name: str, side: int) -> Tensor:
        if name not in drawn:
            drawn[name] = draws.normal(f"noise {name}", 1, side, side)
        return drawn[name]

    def run(denoise: Callable[..., Any], paint: Callable[..., Any]) -> None:
        initial = net.encode(faces).float()
        codes = denoise(net.att_mapper, initial, first, net.diffusion, _none)[-1]
        paint(faces, codes, styles, net.decoder.features(codes, layer, largest=net.restorer.side), layer)

    run(diffuse, net.restorer)  # draws all noise, which no graph should do
    start = time.perf_counter()
    for name, noise in list(drawn.items()):
        draws.normal(f"noise {name}", *noise.shape[1:])
    noise_ms = (time.perf_counter() - start) * 1e3 / len(faces)
    laps = []
    for _ in range(3 + 5):  # three to compile, to record and to warm up
        torch.compiler.cudagraph_mark_step_begin()
        _wait(faces)
        start = time.perf_counter()
        run(denoise, paint)
        _wait(faces)
        laps.append((time.perf_counter() - start) * 1e3 / len(faces))
    return {"ms_per_face": round(statistics.median(laps[3:]), 2), "noise_ms_per_face": round(noise_ms, 2)}


def _wait(x: Tensor) -> None:
    if x.device.type == "cuda":
        torch.cuda.synchronize()
