"""Degrade a clip as a whole: blur that wanders, noise that lasts, a codec, frames lost and held.

Picture by picture degradation flickers, and a restorer judged on it is judged on the flicker. Here one degradation is
drawn for the clip and its parts move slowly: what a lens, a sensor, a recorder and a bad line do. In order, for each
frame: blur whose width and angle follow a smooth path; haze; shrink by the clip's own factor; noise of a fixed
pattern and an AR(1) process; frames dropped and held; H.264 or MPEG-4 at a drawn quality; enlarge; colour.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import torch

from ..errors import InputMediaError, SettingsError
from .blur import blur_and_shrink, gaussian_kernel, resize
from .codec import Recoder
from .colour import change_colour
from .drawing import DegradeParams, draw, params_from_dict
from .presets import DegradePreset

Codec = Literal["h264", "mpeg4", "none"]

_QUALITY = {"h264": (23, 38), "mpeg4": (3, 14), "none": (0, 0)}
"""Ranges to draw from: constant rate factor of x264, quantiser of MPEG-4. Higher is worse."""

_SHARES = ("noise_memory", "fixed_share", "drop_prob", "repeat_prob")


@dataclass(frozen=True, slots=True)
class ClipParams:
    """What is done to one clip, reproducible from these numbers alone.

    Raises:
        SettingsError: a value is out of range.
    """

    base: DegradeParams
    """Blur about which the path wanders; shrink, noise and colour of every frame. Its JPEG and move are not used."""
    seed: int
    codec: Codec = "h264"
    quality: int = 28
    """Constant rate factor of h264 (0 to 51), quantiser of mpeg4 (1 to 31)."""
    wander: float = 0.3
    """The blur's width stays within a factor of exp(+-wander)."""
    turn: float = 0.4
    """The kernel's angle stays within +-turn radians."""
    wander_s: float = 1.5
    """Seconds between the drawn points of the path."""
    noise_memory: float = 0.5
    """AR(1) coefficient of the noise from one frame to the next."""
    fixed_share: float = 0.2
    """Share of the noise's variance that is a pattern fixed in the picture."""
    drop_prob: float = 0.02
    repeat_prob: float = 0.02

    def __post_init__(self) -> None:
        highest = {"h264": (0, 51), "mpeg4": (1, 31), "none": (0, 0)}.get(self.codec)
        bad = [name for name in _SHARES if not 0 <= getattr(self, name) <= 1]
        bad += [name for name in ("wander", "turn") if not 0 <= getattr(self, name) <= 4]
        bad += [] if 0.05 <= self.wander_s <= 3600 else ["wander_s"]
        bad += [] if isinstance(self.seed, int) and self.seed >= 0 else ["seed"]
        if highest is None:
            bad.append("codec")
        elif not (isinstance(self.quality, int) and highest[0] <= self.quality <= highest[1]):
            bad.append("quality")
        if self.drop_prob + self.repeat_prob > 1:
            bad.append("drop_prob")
        if bad:
            raise SettingsError(
                "Cannot degrade a clip like this",
                found="; ".join(f"{name} is {getattr(self, name)!r}" for name in bad)
                + "; expected shares from 0 to 1, h264 with quality 0 to 51, mpeg4 with 1 to 31 or none with 0, wander "
                "and turn from 0 to 4, wander_s from 0.05",
                kept="Nothing was changed",
                todo="Give values inside those limits",
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters as plain JSON types."""
        return asdict(self)


CLIP_KEYS = {field.name: field.type for field in fields(ClipParams) if field.name not in ("base", "seed")}
"""Settings of a clip that a caller may fix, beside the ranges of a preset."""


def clip_from_dict(values: Mapping[str, Any]) -> ClipParams:
    """Read back what `ClipParams.to_dict` wrote.

    Raises:
        SettingsError: a key is unknown or missing, or a value is out of range.
    """
    known = {field.name for field in fields(ClipParams)}
    if set(values) != known or not isinstance(values["base"], Mapping):
        raise SettingsError(
            "Cannot use these clip parameters",
            found=f"found {', '.join(sorted(values))}; expected {', '.join(sorted(known))}",
            kept="Nothing was changed",
            todo="Use a file that was written for a clip",
        )
    try:
        return ClipParams(**{**values, "base": params_from_dict(values["base"])})
    except TypeError as error:
        raise SettingsError(
            "Cannot use these clip parameters",
            found=f"a value is of another kind: {error}",
            kept="Nothing was changed",
            todo="Use a file that was written for a clip",
        ) from error


def draw_clip(preset: DegradePreset, seed: int, **settings: Any) -> ClipParams:
    """Draw what to do to a clip: `preset` as for a picture, then a codec and its quality.

    Args:
        preset: ranges; its JPEG and what moves the truth are left out.
        seed: decides everything random, together with the frames' order.
        settings: fields of ClipParams to fix.

    Raises:
        SettingsError: a setting is out of range.
    """
    base = replace(draw(preset, seed), jpeg_quality=0, move=(0, 0), gray_on="low")
    rng = np.random.Generator(np.random.PCG64([seed, 2]))
    codec, share = ("h264", "mpeg4")[int(rng.integers(2))], rng.random()
    codec = settings.pop("codec", codec)
    low, high = _QUALITY.get(codec, (0, 0))
    quality = settings.pop("quality", low + int(share * (high - low + 1)))
    return ClipParams(base, seed, codec, quality, **settings)


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """What was done to one frame that came out. An input index that no record has was dropped."""

    index: int
    """Of the input frame whose place and time it takes."""
    shows: int
    """Of the input frame it was made from, its truth: `index`, or an earlier one where a frame is held."""
    time_s: float
    sigma_x: float
    sigma_y: float
    theta: float


class SmoothPath:
    """A random path in [-1, 1], smooth in time: uniform points `spacing_s` apart, joined by smoothstep.

    It changes by at most 3 / spacing_s in a second, and needs no memory of the past.
    """

    def __init__(self, seed: int, name: int, spacing_s: float) -> None:
        self._key, self._spacing = (seed, name), spacing_s

    def _point(self, number: int) -> float:
        # Zig-zag, as a seed must not be negative and a clip may start before 0.
        where = 2 * number if number >= 0 else -2 * number - 1
        return float(np.random.Generator(np.random.PCG64([*self._key, where])).uniform(-1, 1))

    def at(self, time_s: float) -> float:
        """Return the path's value at a time."""
        number = math.floor(time_s / self._spacing)
        share = time_s / self._spacing - number
        first, second = self._point(number), self._point(number + 1)
        return first + (second - first) * share * share * (3 - 2 * share)


class LastingNoise:
    """Unit Gaussian noise for frame after frame: a fixed pattern, and an AR(1) process per value.

    The correlation of frames k apart is fixed_share + (1 - fixed_share) * memory ** k.
    """

    def __init__(self, shape: tuple[int, ...], seed: int, *, memory: float, fixed_share: float) -> None:
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self._pattern = self._rng.standard_normal(shape, dtype=np.float32) * np.float32(math.sqrt(fixed_share))
        self._state = self._rng.standard_normal(shape, dtype=np.float32)
        self._memory, self._share = np.float32(memory), np.float32(math.sqrt(1 - fixed_share))
        self._fresh = np.float32(math.sqrt(1 - memory * memory))

    def next(self) -> np.ndarray:
        """Return the noise of the next frame."""
        noise = self._pattern + self._share * self._state
        self._state = self._memory * self._state
        self._state += self._fresh * self._rng.standard_normal(self._state.shape, dtype=np.float32)
        return noise


def degrade_frames(
    frames: Iterable[tuple[float, np.ndarray]], params: ClipParams
) -> Iterator[tuple[np.ndarray, FrameRecord]]:
    """Degrade a clip frame by frame, holding only as many frames as the codec does (some 50).

    Args:
        frames: time in seconds, and (H, W, 3) uint8 RGB of one size, in order.
        params: from `draw_clip`.

    Yields:
        The degraded frame, of the same size and type, and what was done to it. Dropped frames are left out. The first
        frame is neither dropped nor held.

    Raises:
        InputMediaError: a frame has another shape or type than the first.
        SettingsError: this build of FFmpeg lacks the codec.
    """
    size: tuple[int, int] | None = None
    recoder: Recoder | None = None
    waiting: deque[FrameRecord] = deque()
    for small, record, size in _before_codec(frames, params):
        if params.codec == "none":
            yield _after_codec(small, size, params), record
            continue
        recoder = recoder or Recoder(params.codec, params.quality, small.shape[1], small.shape[0])
        waiting.append(record)
        for decoded in recoder.push(small):
            yield _after_codec(decoded, size, params), waiting.popleft()
    if recoder is not None and size is not None:
        for decoded in recoder.finish():
            yield _after_codec(decoded, size, params), waiting.popleft()
    if waiting:
        raise InputMediaError(
            "The codec lost frames of this clip",
            found=f"{len(waiting)} frames went in and never came out",
            kept="The frames before them came out",
            todo="Choose another codec (codec=mpeg4 or codec=none)",
        )


def _before_codec(
    frames: Iterable[tuple[float, np.ndarray]], params: ClipParams
) -> Iterator[tuple[np.ndarray, FrameRecord, tuple[int, int]]]:
    """Yield small uint8 frames as they go into the codec, with their record and the full size."""
    base = params.base
    wide, long, angle = (SmoothPath(params.seed, name, params.wander_s) for name in (11, 12, 13))
    fate = np.random.Generator(np.random.PCG64([params.seed, 14]))
    noise: LastingNoise | None = None
    size: tuple[int, int] | None = None
    held: tuple[np.ndarray, FrameRecord] | None = None
    for index, (time_s, frame) in enumerate(frames):
        size = size or frame.shape[:2]
        if frame.shape != (*size, 3) or frame.dtype != np.uint8:
            raise InputMediaError(
                f"Cannot degrade frame {index} ({time_s:.3f} s)",
                found=f"found shape {frame.shape} of {frame.dtype}, expected {(*size, 3)} of uint8",
                kept="The frames before it came out",
                todo="Cut the clip where its size changes",
            )
        height, width = size
        small = (max(int(height // base.downscale), 1), max(int(width // base.downscale), 1))
        if noise is None:
            memory, share = params.noise_memory, params.fixed_share
            noise = LastingNoise((*small, 3), base.noise_seed, memory=memory, fixed_share=share)
        # Drawn and stepped for every frame, so that the drops of a clip do not change its noise.
        grain, chance = noise.next(), fate.random()
        if held is not None and chance < params.drop_prob:
            continue
        if held is not None and chance < params.drop_prob + params.repeat_prob:
            image, shown = held
            yield image, replace(shown, index=index, time_s=time_s), size
            continue
        sigma_x = base.sigma_x * math.exp(params.wander * wide.at(time_s))
        isotropic = base.sigma_x == base.sigma_y
        sigma_y = sigma_x if isotropic else base.sigma_y * math.exp(params.wander * long.at(time_s))
        theta = base.theta if isotropic else base.theta + params.turn * angle.at(time_s)
        kernel = gaussian_kernel(base.kernel, sigma_x, sigma_y, theta) if min(sigma_x, sigma_y) > 0 else None
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            planes = torch.from_numpy(frame).permute(2, 0, 1).float().div_(255).contiguous()
            out = blur_and_shrink(planes, kernel, *small).permute(1, 2, 0).numpy()
        out = out * np.float32(base.haze) + np.float32(1 - base.haze) + grain * np.float32(base.noise_sigma / 255)
        image = np.round(np.clip(out, 0, 1) * 255).astype(np.uint8)
        record = FrameRecord(index, index, time_s, sigma_x, sigma_y, theta)
        held = (image, record)
        yield image, record, size


def _after_codec(image: np.ndarray, size: tuple[int, int], params: ClipParams) -> np.ndarray:
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        planes = torch.from_numpy(image).permute(2, 0, 1).float().div_(255).contiguous()
        out = change_colour(resize(planes, *size), params.base).clamp(0, 1)
        return np.ascontiguousarray((out * 255).round_().byte().permute(1, 2, 0).numpy())
