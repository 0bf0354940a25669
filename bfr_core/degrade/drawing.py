"""Draw one degradation from a preset: everything random is decided here, from one seed per picture."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from ..errors import SettingsError
from .presets import Choice, DegradePreset, GrayOn, Range, antialias, get_preset

NO_JITTER = (1.0, 1.0, 1.0, 0.0)


@dataclass(frozen=True, slots=True)
class DegradeParams:
    """One drawn degradation, reproducible from these numbers alone."""

    kernel: int
    sigma_x: float
    sigma_y: float
    theta: float
    """Rotation of the blur kernel, radians."""
    downscale: float
    noise_sigma: float
    """8-bit levels."""
    noise_seed: int
    jpeg_quality: int
    """0 leaves JPEG out."""
    colour_shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Added to R, G, B, in 8-bit levels."""
    jitter: tuple[float, float, float, float] = NO_JITTER
    """Factors of brightness, contrast and saturation; hue shift in turns."""
    gray: bool = False
    gray_on: GrayOn = "low"
    """What `gray` changes: see `presets.GrayOn`."""
    haze: float = 1.0
    """Share of the picture that is left over white, after the blur."""
    move: tuple[int, int] = (0, 0)
    """Pixels down and to the right that the clean picture, and so the truth, is moved by."""

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters as plain JSON types."""
        return asdict(self)

    @property
    def changes_truth(self) -> bool:
        """True where the truth is not the clean picture: gray, or moved."""
        return any(self.move) or (self.gray and self.gray_on != "low")


def params_from_dict(values: Mapping[str, Any]) -> DegradeParams:
    """Read back what `DegradeParams.to_dict` wrote.

    Raises:
        SettingsError: a key is unknown or missing, or a value has another type or is out of range.
    """
    known = {field.name: field for field in fields(DegradeParams)}
    needed = list(known)[:8]
    for name in values:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            raise _unreadable(f"there is no {name!r}", f"Perhaps {close[0]} is meant" if close else "Remove it")
    if missing := [name for name in needed if name not in values]:
        raise _unreadable(f"{', '.join(missing)} missing", "Use a file that --params wrote")
    read: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    params = DegradeParams(**read)
    numbers = [params.kernel, params.sigma_x, params.sigma_y, params.theta, params.downscale, params.noise_sigma]
    numbers += [params.noise_seed, params.jpeg_quality, params.haze]
    shapes = ((params.colour_shift, 3), (params.jitter, 4), (params.move, 2))
    for several, count in shapes:
        if not isinstance(several, tuple) or len(several) != count:
            raise _unreadable(f"found {several!r}, expected {count} numbers", "Use a file that --params wrote")
        numbers += several
    if not all(isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x) for x in numbers):
        raise _unreadable("a value is not a finite number", "Use a file that --params wrote")
    whole = (params.kernel, params.noise_seed, params.jpeg_quality, *params.move)
    good = all(isinstance(x, int) for x in whole) and params.kernel % 2 == 1 and 0 < params.kernel <= 401
    good = good and min(params.sigma_x, params.sigma_y, params.noise_sigma, params.noise_seed) >= 0
    good = good and 0.1 <= params.downscale <= 256 and 0 <= params.jpeg_quality <= 100 and 0 <= params.haze <= 1
    if not good or params.gray_on not in ("low", "both", "clean") or not isinstance(params.gray, bool):
        raise _unreadable(f"a value is out of range in {dict(values)}", "Use a file that --params wrote")
    return params


def _unreadable(found: str, todo: str) -> SettingsError:
    kept = "Nothing was changed"
    return SettingsError("Cannot use these degradation parameters", found=found, kept=kept, todo=todo)


def _draw(rng: np.random.Generator, values: Range, size: int | None = None) -> Any:
    if isinstance(values, Choice):
        return np.asarray(values.values, np.float64)[rng.integers(len(values.values), size=size)]
    return rng.uniform(*values, size=size)


def draw(preset: DegradePreset, seed: int) -> DegradeParams:
    """Draw one degradation from `preset`; the same seed gives the same numbers on every machine."""
    if preset.other and np.random.Generator(np.random.PCG64([seed, 1])).random() < preset.other_prob:
        return draw(get_preset(preset.other), seed)
    rng = np.random.Generator(np.random.PCG64(seed))
    sigma_x, sigma_y = _draw(rng, preset.blur_sigma, 2)
    theta = _draw(rng, preset.theta)
    if rng.random() < preset.isotropic_prob:
        sigma_y, theta = sigma_x, 0.0
    kernel = int(preset.kernel[rng.integers(len(preset.kernel))])
    downscale = float(_draw(rng, preset.downscale))
    noise_sigma = float(_draw(rng, preset.noise_sigma))
    noise_seed = int(rng.integers(2**31))
    if isinstance(preset.jpeg_quality, Choice):
        quality = int(_draw(rng, preset.jpeg_quality))
    else:
        quality = int(rng.integers(int(preset.jpeg_quality[0]), int(preset.jpeg_quality[1]) + 1))
    # Drawn whether used or not, so that a preset with its colour part off gives the same blur, noise and JPEG. What
    # was added later is drawn last: seeds of earlier versions keep their numbers.
    shift_draw, jitter_draw, gray_draw = rng.random(3)
    shift = rng.uniform(-preset.colour_shift, preset.colour_shift, size=3)
    jitter = (*rng.uniform(0.5, 1.5, size=2), rng.uniform(0.0, 1.5), rng.uniform(-0.1, 0.1))
    haze_draw, move_draw = rng.random(2)
    haze = float(_draw(rng, preset.haze))
    move = rng.integers(-preset.move, preset.move + 1, size=2)
    gray = bool(gray_draw < preset.gray_prob)
    return DegradeParams(
        kernel=kernel,
        sigma_x=float(sigma_x),
        sigma_y=float(sigma_y),
        theta=float(theta),
        downscale=downscale,
        noise_sigma=noise_sigma,
        noise_seed=noise_seed,
        jpeg_quality=quality,
        colour_shift=tuple(map(float, shift)) if shift_draw < preset.colour_shift_prob else (0.0, 0.0, 0.0),  # type: ignore[arg-type]
        jitter=tuple(map(float, jitter)) if jitter_draw < preset.colour_jitter_prob else NO_JITTER,  # type: ignore[arg-type]
        gray=gray,
        gray_on=preset.gray_on if gray else "low",
        haze=haze if haze_draw < preset.haze_prob else 1.0,
        move=(int(move[0]), int(move[1])) if move_draw < preset.move_prob else (0, 0),
    )


def fixed(downscale: float, *, noise_sigma: float = 0.0, jpeg_quality: int = 0, noise_seed: int = 0) -> DegradeParams:
    """Return a degradation of one known severity: antialiasing blur, shrink, noise, JPEG.

    Raises:
        SettingsError: `downscale` is below 1.
    """
    if not downscale >= 1:
        raise SettingsError(
            "Cannot build a fixed degradation",
            found=f"downscale is {downscale}, expected at least 1",
            kept="Nothing was changed",
            todo="Give 1, 4, 8, 16 or another factor above 1",
        )
    sigma, kernel = antialias(downscale)
    return DegradeParams(kernel, sigma, sigma, 0.0, downscale, noise_sigma, noise_seed, jpeg_quality)
