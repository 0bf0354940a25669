"""Films with one bright face, and jobs over them, for tests of jobs."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from tiny_restorers import Brighten, restorer_of

from bfr_core.faces.align import FFHQ_TEMPLATE
from bfr_core.runtime import Runtime
from bfr_core.types import Face
from bfr_core.video.choose import TrackSelection
from bfr_core.video.encode import EncodeSettings
from bfr_core.video.job import FilmJob
from bfr_core.video.options import FilmOptions
from bfr_core.video.plan import FilmModels, plan_film

WIDTH, HEIGHT = 160, 96
LOSSLESS = EncodeSettings(codec="ffv1")


class Spot:
    """A detector that finds one face where the brightest spot of the frame is; none in frames without a bright one."""

    name = "spot"

    def __init__(self) -> None:
        self.looks = 0

    def detect(self, frames, *, threshold=None):
        self.looks += len(frames)
        found = []
        for frame in frames:
            gray = frame.mean(0)
            where = gray > 0.8
            if where.sum() < 50:
                found.append([])
                continue
            y, x = torch.nonzero(where).double().mean(0).tolist()
            points = (FFHQ_TEMPLATE - [256, 300]) * (24 / 256) + [x + 0.5, y + 0.5]
            found.append([Face((x - 16, y - 20, x + 16, y + 20), points, 0.99)])
        return found

    def to_device(self, device):
        pass


def write_clip(path: Path, frames: int = 30, *, spot=True, rate=25, sound=True, codec="libx264", stamps=None) -> Path:
    """Write a clip with a bright disc that drifts over dim texture, and a tone."""
    rng = np.random.default_rng(3)
    texture = rng.integers(20, 120, (HEIGHT, WIDTH, 3), np.uint8)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate, options={"crf": "10", "preset": "ultrafast", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 600)
        audio = out.add_stream("aac", rate=16000, layout="mono") if sound else None
        for number in range(frames):
            image = texture.copy()
            if spot:
                drift = 40 - abs(number % 80 - 40)  # there and back, and never out of the frame
                image[(x - 60 - drift) ** 2 + (y - 48) ** 2 < 300] = 235
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = stamps[number] if stamps is not None else number * (600 // rate)
            frame.time_base = Fraction(1, 600)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if audio is not None:
            samples = int(16000 * frames / rate)
            wave = (np.sin(np.arange(samples) / 9) * 9000).astype(np.int16)[None]
            for start in range(0, samples, 1024):
                block = av.AudioFrame.from_ndarray(wave[:, start : start + 1024], format="s16", layout="mono")
                block.sample_rate, block.pts, block.time_base = 16000, start, Fraction(1, 16000)
                out.mux(audio.encode(block))
            out.mux(audio.encode(None))
    return path


def frames_of(path: Path) -> tuple[list[np.ndarray], list[Fraction]]:
    """Return luma planes and times of a clip."""
    images, times = [], []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            images.append(frame.to_ndarray(format="rgb24"))
            times.append(frame.pts * frame.time_base)
    return images, times


def sound_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def models() -> FilmModels:
    return FilmModels(restorer_of(Brighten()), Spot())


def options(**changes) -> FilmOptions:
    usual = {"choice": TrackSelection(quality_filter=None), "encode": LOSSLESS, "segment_frames": 8}
    return FilmOptions(**{**usual, **changes})


def run(source: Path, target: Path, chosen: FilmOptions | None = None, *, who=None, folder=None, **kwargs):
    chosen = chosen or options()
    runtime = kwargs.pop("runtime", Runtime())
    with FilmJob(plan_film(source, target, chosen, folder=folder), who or models(), chosen, runtime, **kwargs) as job:
        return job.run()


class Stop(BaseException):
    """Like ComfyUI's, no Exception."""


def same(one: Path, other: Path) -> None:
    left, right = frames_of(one), frames_of(other)
    assert left[1] == right[1]
    assert all(np.array_equal(a, b) for a, b in zip(left[0], right[0], strict=True))
