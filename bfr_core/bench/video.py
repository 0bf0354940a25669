"""What a film costs beside a plain decode and encode, whether memory stays constant, and how steady the faces are."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..faces.detect import load_detector
from ..media.atomic import publish
from ..media.clips import open_clip
from ..media.pictures import read_picture, to_float
from ..media.pyav import open_output
from ..media.sheets import to_bytes
from ..registry import default_method
from ..restorer import load_restorer
from ..runtime import Runtime
from ..video.choose import TrackSelection
from ..video.encode import add_video
from ..video.job import FilmJob
from ..video.options import FilmOptions
from ..video.plan import FilmModels, Plan, plan_film
from .memory import peak_bytes, reset_peak
from .video_flicker import measure as flicker

_SIZE, _RATE = (640, 360), 25
_PROMISED_MEMORY, _PROMISED_SPEED = 1.05, 0.7
_FACE_SECONDS, _TIMES = 1.92, 5
"""How long a face is in the picture, and how often in a clip of any length: restoring all of ten minutes would take an
hour, and the peak of more draws is higher by chance alone. It stays for a whole segment of 48 frames each time, as what
the encoder holds rises within each."""


def measure(data: Path | None, say: Callable[[str], None], sheets: Path | None = None) -> dict[str, Any]:
    """Measure films; faces in them and flicker need `data`."""
    face = None
    if data is None:
        say("faces and flicker: need --data, a folder with faces and video")
    else:
        face = to_bytes(to_float(read_picture(sorted((data / "faces" / "free512" / "val").glob("*.*"))[0])))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        figures: dict[str, Any] = {"memory": _memory(place, face, say), "speed": _speed(place, say)}
    if data is not None:
        figures["flicker"] = flicker(data, say, sheets)
    return figures


def _memory(place: Path, face: np.ndarray | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Restore clips of one and of ten minutes, and compare peak memory and open files."""
    models = FilmModels(load_restorer(default_method().id), load_detector())
    peaks, handles = {}, {}
    for minutes in (0.2, 1, 10):  # the first warms up
        source = place / f"minutes_{minutes}.mp4"
        make_clip(source, minutes * 60, face)
        reset_peak()
        before = _open_files()
        options = FilmOptions(choice=TrackSelection(quality_filter=None))
        with FilmJob(plan_film(source, place / f"out_{minutes}.mp4", options), models, options, Runtime()) as job:
            report = job.run()
        peaks[minutes], handles[minutes] = peak_bytes(), _open_files() - before
        if minutes >= 1:
            say(
                f"{minutes} min, {report.frames} frames, {report.restored_frames} with a restored face: peak "
                f"{peaks[minutes] / 1e6:.0f} MB, {handles[minutes]} files left open, "
                f"{sum(report.seconds.values()):.0f} s"
            )
    ratio = peaks[10] / peaks[1]
    say(f"peak of 10 minutes against 1: {ratio:.3f} (promised: at most {_PROMISED_MEMORY})")
    return {"peaks": peaks, "ratio": ratio, "handles": handles}


def _speed(place: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Compare a film without faces with a plain decode and encode, by turns."""
    source = place / "no_faces.mp4"
    make_clip(source, 60, None)
    models = FilmModels(load_restorer(default_method().id), load_detector())
    options = FilmOptions()
    laps: dict[str, list[float]] = {"plain": [], "job": []}
    for turn in range(4):  # the first warms up
        plan = plan_film(source, place / f"speed_{turn}.mp4", options)
        start = time.perf_counter()
        plain(plan, place / f"plain_{turn}.mp4")
        between = time.perf_counter()
        with FilmJob(plan, models, options, Runtime()) as job:
            report = job.run()
        if turn:
            laps["plain"].append(between - start)
            laps["job"].append(time.perf_counter() - between)
    best = {name: float(np.median(found)) for name, found in laps.items()}
    ratio = best["plain"] / best["job"]
    say(
        f"without faces, {report.frames} frames: plain {report.frames / best['plain']:.0f} frames/s, job "
        f"{report.frames / best['job']:.0f} frames/s, {ratio:.2f} x (promised: at least {_PROMISED_SPEED}); "
        + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in report.seconds.items())
    )
    return {"ratio": ratio, **best}


def plain(plan: Plan, target: Path) -> None:
    """Decode and encode with the job's settings and nothing else."""
    with open_clip(plan.info.path) as source, publish(target) as file, open_output(file, format="mp4") as out:
        video: Any = source.streams.video[0]
        video.thread_type = "AUTO"
        stream = add_video(out, plan.encoding, plan.info)
        for frame in source.decode(video):
            frame.pict_type = 0
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def make_clip(path: Path, seconds: float, face: np.ndarray | None) -> None:
    """Write a clip of moving texture with sound of silence; the face drifts through it `_TIMES` times."""
    import av

    width, height = _SIZE
    rng = np.random.default_rng(0)
    texture = _texture(rng, height + 64, width + 64)
    small = None if face is None else _shrunk(face, 200)
    with publish(path) as file, open_output(file, format="mp4") as out:
        stream: Any = out.add_stream("libx264", rate=_RATE, options={"crf": "18", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(round(seconds * _RATE)):
            x, y = int(32 + 30 * np.sin(number / 40)), int(32 + 30 * np.cos(number / 31))
            image = texture[y : y + height, x : x + width].copy()
            if small is not None and number / _RATE % (seconds / _TIMES) < _FACE_SECONDS:
                left = 200 + number % 25
                image[80:280, left : left + 200] = small
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, _RATE)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    import cv2

    coarse = rng.integers(0, 256, (height // 16, width // 16, 3), np.uint8)
    fine = rng.integers(0, 40, (height, width, 3), np.uint8)
    return cv2.add(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) // 2, fine)


def _shrunk(face: np.ndarray, side: int) -> np.ndarray:
    import cv2

    return cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)


def _open_files() -> int:
    place = Path("/proc/self/fd")
    return sum(1 for _ in place.iterdir()) if place.is_dir() else 0
