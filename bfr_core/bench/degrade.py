"""How fast the degradation chain feeds a training: two workers, one thread each, as data loaders run."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from ..degrade.chain import DegradeParams, degrade, degrade_batch, draw, gaussian_kernel
from ..degrade.presets import get_preset
from ..media.pictures import read_picture
from ..runtime import worker_start_method

_WORKERS = 2
_SIZE = 256
_COUNT = 150
_PROMISED = 150


def measure(data: Path | None, say: Callable[[str], None], sheets: Path | None = None) -> dict[str, Any]:
    """Measure images a second of the gfpgan preset at 256 px, all workers together, beside plain OpenCV."""
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    say(f"load average before: {busy:.1f} on {os.cpu_count()} cores; wall time suffers from it, CPU time hardly")
    image = _picture(data)
    figures: dict[str, Any] = {"load_before": round(busy, 2), "size": _SIZE, "workers": _WORKERS}
    context = multiprocessing.get_context(worker_start_method())
    with ProcessPoolExecutor(_WORKERS, mp_context=context) as pool:
        for name in ("ours", "plain"):
            _round(pool, image, name, 8)  # imports and first calls
            wall, cpu = _round(pool, image, name, _COUNT)
            figures[name] = {
                "images_per_s": round(_WORKERS * _COUNT / wall, 1),
                "cpu_ms_per_image": round(1000 * cpu / (_WORKERS * _COUNT), 2),
            }
            figures[name]["images_per_cpu_s_times_workers"] = round(_WORKERS * _WORKERS * _COUNT / cpu, 1)
    ours, plain = figures["ours"], figures["plain"]
    figures["ratio_cpu"] = round(plain["cpu_ms_per_image"] / ours["cpu_ms_per_image"], 2)
    say(
        f"gfpgan preset at {_SIZE} px, {_WORKERS} workers: {ours['images_per_s']:.0f} images/s by the clock, "
        f"{ours['images_per_cpu_s_times_workers']:.0f} with {_WORKERS} cores to themselves (promised: {_PROMISED}); "
        f"{ours['cpu_ms_per_image']:.2f} ms of CPU each"
    )
    say(
        f"the same chain with plain OpenCV: {plain['images_per_s']:.0f} images/s, {plain['cpu_ms_per_image']:.2f} ms "
        f"of CPU each; ours takes 1/{figures['ratio_cpu']:.2f} of it"
    )
    figures["differentiable"] = _differentiable(image, say)
    return figures


def _picture(data: Path | None) -> np.ndarray:
    """Return a face where there is data, else smooth noise; the speed hardly depends on it."""
    files = sorted((data / "faces").glob("*/val/*.*")) if data is not None else []
    if files:
        return cv2.resize(read_picture(files[0]).rgb, (_SIZE, _SIZE), interpolation=cv2.INTER_AREA)
    noise = np.random.default_rng(0).integers(0, 256, (_SIZE, _SIZE, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 3)


def _round(pool: ProcessPoolExecutor, image: np.ndarray, name: str, count: int) -> tuple[float, float]:
    """Return wall and CPU seconds of one round of all workers."""
    start = time.perf_counter()
    tasks = [pool.submit(_work, image, name, worker * count, count) for worker in range(_WORKERS)]
    cpu = sum(task.result() for task in tasks)
    return time.perf_counter() - start, cpu


def _work(image: np.ndarray, name: str, first: int, count: int) -> float:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    chain = degrade if name == "ours" else _plain
    preset = get_preset("gfpgan")
    start = time.process_time()
    for seed in range(first, first + count):
        chain(image, draw(preset, seed))
    return time.process_time() - start


def _plain(image: np.ndarray, params: DegradeParams) -> np.ndarray:
    """The chain as it is usually written, one OpenCV call for each stage, to compare with."""
    height, width = image.shape[:2]
    out = image.astype(np.float32) / 255
    kernel = gaussian_kernel(params.kernel, params.sigma_x, params.sigma_y, params.theta)
    out = cv2.filter2D(out, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
    small = (int(width // params.downscale), int(height // params.downscale))
    out = cv2.resize(out, small, interpolation=cv2.INTER_LINEAR)
    noise = np.random.Generator(np.random.PCG64(params.noise_seed)).standard_normal(out.shape, dtype=np.float32)
    out = np.clip(out + noise * np.float32(params.noise_sigma / 255), 0, 1)
    levels = np.round(out[..., ::-1] * 255).astype(np.uint8)
    data = cv2.imencode(".jpg", levels, [cv2.IMWRITE_JPEG_QUALITY, params.jpeg_quality])[1]
    out = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))[..., ::-1].astype(np.float32) / 255
    out = cv2.resize(out, (width, height), interpolation=cv2.INTER_LINEAR)
    if any(params.colour_shift):
        out = np.clip(out + np.asarray(params.colour_shift, np.float32) / 255, 0, 1)
    brightness, contrast, saturation, hue = params.jitter
    if params.jitter != (1.0, 1.0, 1.0, 0.0):
        out = np.clip(out * np.float32(brightness), 0, 1)
        mean = cv2.cvtColor(out, cv2.COLOR_RGB2GRAY).mean()
        out = np.clip((out - mean) * np.float32(contrast) + mean, 0, 1)
        gray = cv2.cvtColor(out, cv2.COLOR_RGB2GRAY)[..., None]
        out = np.clip((out - gray) * np.float32(saturation) + gray, 0, 1)
        hsv = cv2.cvtColor(out, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0] + 360 * hue) % 360
        out = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if params.gray:
        out = np.repeat(cv2.cvtColor(out, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    return np.round(np.clip(out, 0, 1) * 255).astype(np.uint8)


def _differentiable(image: np.ndarray, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure the batch with the differentiable codec and its gradient, on every device here."""
    figures: dict[str, Any] = {}
    batch = torch.from_numpy(image).permute(2, 0, 1).float().div(255).expand(16, -1, -1, -1).contiguous()
    params = [draw(get_preset("gfpgan"), seed) for seed in range(16)]
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        laps = []
        for _ in range(3):
            faces = batch.to(device).requires_grad_()
            start = time.perf_counter()
            degrade_batch(faces, params, jpeg="differentiable").degraded.sum().backward()
            if device == "cuda":
                torch.cuda.synchronize()
            laps.append(time.perf_counter() - start)
        figures[device] = {"images_per_s": round(16 / min(laps), 1)}
        say(f"differentiable, with gradient, on {device}: {figures[device]['images_per_s']:.0f} images/s")
    return figures
