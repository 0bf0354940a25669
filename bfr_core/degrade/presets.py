"""The degradation ranges of the papers, and fixed severities, by name.

Where each row comes from (its numbers are those of the published training code, unless the paper is named):

- gfpgan: GFPGAN options/train_gfpgan_v1.yml. Order of the colour changes is fixed here; there it is shuffled.
- gpen-open: GPEN training/data_loader/dataset_face.py. Its rounding before the enlargement is what JPEG does anyway.
- restoreformer: RestoreFormer configs. Kernels of 39 or 41.
- restoreformer++: configs/RestoreFormer++.yaml; `shift_prob` there moves the pair by up to 32 pixels, and is no
  colour shift. Its `uneven_prob` 0.1, a square patch with a second degradation, is left out.
- vspbfr-code: the VSPBFR repository; vspbfr-paper: Sec. 4.1 of the paper.
- vqfr-v1, vqfr-v2: VQFR options; v2 is the heavier one.
- codeformer-2, codeformer-3: options of stages II and III. Stage III runs 80 000 steps on its own ranges, 40 000 on
  those of stage II, then 30 000 of which one in 15 is its own: 45 in 100 pictures are drawn from codeformer-2.
- difface: configs/training/swinir_ffhq512.yaml; difface-test: the lists of the paper's synthetic test set.
- clr-face, diffuse-and-restore: blur is unstated in both papers and taken from difface. x32: 512 to 16 pixels, blur and
  noise unstated and taken from the same rows, no JPEG.
- pltrans: the paper's implementation details; blur in steps of 0.1.
- lpip-diff: gfpgan's ranges with the factors of the paper, without colour.
- mild: ours, photos that are nearly good. The papers' ranges hardly hold any, and a net that never saw one smooths
  them.
- heavy: ours, faces that lost nearly everything; as many of them are learnt from as of the mild ones.
- x4 to x64: ours, one known severity: blur of half a low-resolution pixel, bilinear shrink, nothing drawn.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Literal

from ..errors import SettingsError


@dataclass(frozen=True, slots=True)
class Choice:
    """Values to draw one of, all equally often."""

    values: tuple[float, ...]


Range = tuple[float, float] | Choice
"""Uniform from the first to the second number, both for whole numbers too; or a list."""

GrayOn = Literal["low", "both", "clean"]
"""What a gray draw changes: the degraded picture, it and the truth, or the clean picture before everything else."""

_LIMITS = {
    "blur_sigma": (0.0, 200.0),
    "theta": (-2 * math.pi, 2 * math.pi),
    "downscale": (0.1, 256.0),
    "noise_sigma": (0.0, 255.0),
    "jpeg_quality": (1, 100),
    "haze": (0.0, 1.0),
}
_LARGEST_KERNEL = 401


@dataclass(frozen=True, slots=True)
class DegradePreset:
    """Ranges to draw one degradation from.

    Units: blur, kernel and move in pixels of the clean picture, noise and colour shift in 8-bit levels.

    Raises:
        SettingsError: a range is empty or outside what the chain can do.
    """

    name: str
    blur_sigma: Range = (0.1, 10.0)
    """Of each axis on its own. 0 on either axis leaves the blur out."""
    kernel: tuple[int, ...] = (41,)
    """Odd kernel sizes, one drawn per picture."""
    isotropic_prob: float = 0.5
    theta: Range = (-math.pi, math.pi)
    """Rotation of a kernel that is not isotropic, radians."""
    downscale: Range = (0.8, 8.0)
    noise_sigma: Range = (0.0, 20.0)
    jpeg_quality: Range = (60, 100)
    """Whole numbers; (0, 0) leaves JPEG out."""
    colour_shift_prob: float = 0.0
    colour_shift: float = 20.0
    colour_jitter_prob: float = 0.0
    """Brightness and contrast in [0.5, 1.5], saturation in [0, 1.5], hue +-0.1 turns (GFPGAN's `jitter_pt`)."""
    gray_prob: float = 0.0
    gray_on: GrayOn = "low"
    haze_prob: float = 0.0
    """After the blur: x * a + (1 - a), with a from `haze`."""
    haze: Range = (0.75, 0.95)
    move_prob: float = 0.0
    """Move the clean picture, and so the truth, by up to `move` pixels each way, mirrored at its border."""
    move: int = 32
    other: str = ""
    """Name of another preset, drawn from instead in `other_prob` of the pictures."""
    other_prob: float = 0.0

    def __post_init__(self) -> None:
        for name, (low, high) in _LIMITS.items():
            _check_range(self, name, low, high)
        for name in ("isotropic_prob", "colour_shift_prob", "colour_jitter_prob", "gray_prob", "haze_prob"):
            _check(self, name, 0.0 <= getattr(self, name) <= 1.0, "a share from 0 to 1")
        for name in ("move_prob", "other_prob"):
            _check(self, name, 0.0 <= getattr(self, name) <= 1.0, "a share from 0 to 1")
        odd = all(isinstance(size, int) and size % 2 and 1 <= size <= _LARGEST_KERNEL for size in self.kernel)
        _check(self, "kernel", bool(self.kernel) and odd, f"odd whole numbers from 1 to {_LARGEST_KERNEL}")
        _check(self, "colour_shift", 0.0 <= self.colour_shift <= 255.0, "0 to 255")
        _check(self, "move", isinstance(self.move, int) and 0 <= self.move <= 4096, "a whole number from 0 to 4096")
        _check(self, "gray_on", self.gray_on in ("low", "both", "clean"), "low, both or clean")
        _check(self, "other", bool(self.other) or not self.other_prob, "a preset's name where other_prob is not 0")

    def without_colour(self) -> DegradePreset:
        """Return the same ranges with every colour change switched off.

        A restorer that learns to undo colour shifts repaints faces in pictures that were lit that way, so ours
        are trained and compared without them too.
        """
        return replace(self, colour_shift_prob=0.0, colour_jitter_prob=0.0, gray_prob=0.0, haze_prob=0.0)

    @property
    def changes_truth(self) -> bool:
        """True where a draw can make the truth gray or move it, so that it must be taken from the result."""
        return bool(self.move_prob or (self.gray_prob and self.gray_on != "low"))


def _check(preset: DegradePreset, name: str, good: bool, expected: str) -> None:
    if not good:
        raise SettingsError(
            f"Cannot use these degradation ranges ({preset.name})",
            found=f"{name} is {describe_value(getattr(preset, name))}, expected {expected}",
            kept="Nothing was changed",
            todo="Give values inside those limits",
        )


def _check_range(preset: DegradePreset, name: str, low: float, high: float) -> None:
    value = getattr(preset, name)
    numbers = value.values if isinstance(value, Choice) else value
    whole = name == "jpeg_quality"
    if whole and tuple(numbers) == (0, 0):
        return
    good = all(isinstance(x, int if whole else (int, float)) and low <= x <= high for x in numbers)
    good = good and (bool(numbers) if isinstance(value, Choice) else len(numbers) == 2 and numbers[0] <= numbers[1])
    kind = "whole numbers" if whole else "numbers"
    more = ", or 0 for no JPEG" if whole else ""
    _check(preset, name, good, f"{kind} from {low:g} to {high:g}, the lower one first{more}")


def _steps(first: float, last: float, step: float) -> Choice:
    return Choice(tuple(round(first + step * index, 6) for index in range(round((last - first) / step) + 1)))


_PAPERS = (
    DegradePreset("gfpgan", colour_shift_prob=0.3, colour_jitter_prob=0.3, gray_prob=0.01),
    DegradePreset("gpen-open", gray_prob=0.2, gray_on="clean"),
    DegradePreset("restoreformer", kernel=(39, 41)),
    DegradePreset(
        "restoreformer++", kernel=(39, 41), gray_prob=0.008, gray_on="both", haze_prob=0.008, move_prob=0.2
    ),
    DegradePreset("vspbfr-code", kernel=(39, 41), gray_prob=0.008, gray_on="both", haze_prob=0.008),
    DegradePreset("vspbfr-paper", blur_sigma=(0.2, 10.0), downscale=(1.0, 8.0)),
    DegradePreset("vqfr-v1"),
    DegradePreset("vqfr-v2", blur_sigma=(1.0, 15.0), downscale=(1.0, 30.0), jpeg_quality=(30, 90)),
    DegradePreset("codeformer-2", blur_sigma=(1.0, 15.0), downscale=(4.0, 30.0), jpeg_quality=(30, 80)),
    DegradePreset(
        "codeformer-3", downscale=(1.0, 12.0), noise_sigma=(0.0, 15.0), other="codeformer-2", other_prob=68 / 150
    ),
    DegradePreset(
        "difface", blur_sigma=(0.1, 15.0), downscale=(0.8, 32.0), jpeg_quality=(30, 100), gray_prob=0.01,
        gray_on="both",
    ),
    DegradePreset(
        "difface-test", blur_sigma=_steps(4, 16, 4), isotropic_prob=0.0, theta=_steps(0, 0.75 * math.pi, math.pi / 4),
        downscale=_steps(4, 40, 4), noise_sigma=Choice((1.0, 5.0, 10.0, 15.0, 20.0)),
        jpeg_quality=Choice((30, 40, 50, 60, 70)),
    ),
    DegradePreset("clr-face", blur_sigma=(0.1, 15.0), downscale=(1.0, 32.0), jpeg_quality=(30, 90)),
    DegradePreset("clr-face-x32", blur_sigma=(0.1, 15.0), downscale=(32.0, 32.0), jpeg_quality=(0, 0)),
    DegradePreset("diffuse-and-restore", blur_sigma=(0.1, 15.0), downscale=(1.0, 32.0), jpeg_quality=(30, 90)),
    DegradePreset("diffuse-and-restore-x32", blur_sigma=(0.1, 15.0), downscale=(32.0, 32.0), jpeg_quality=(0, 0)),
    DegradePreset(
        "pltrans", blur_sigma=_steps(0, 5, 0.1), downscale=(0.8, 32.0), noise_sigma=(0.0, 10.0), jpeg_quality=(50, 100)
    ),
    DegradePreset("lpip-diff", downscale=Choice((4.0, 8.0, 16.0))),
)  # fmt: skip

MILD = DegradePreset(
    "mild", blur_sigma=(0.1, 2.5), downscale=(1.0, 4.0), noise_sigma=(0.0, 10.0), jpeg_quality=(70, 100)
)
HEAVY = DegradePreset(
    "heavy", blur_sigma=(2.0, 16.0), kernel=(41, 65), downscale=(8.0, 32.0), noise_sigma=(0.0, 12.0),
    jpeg_quality=(50, 100),
)  # fmt: skip


def antialias(downscale: float) -> tuple[float, int]:
    """Return the blur that stands for the lens before a bilinear shrink: sigma and kernel size, in pixels.

    Half a low-resolution pixel; without it the shrink would alias.
    """
    sigma = 0.5 * downscale if downscale > 1 else 0.0
    return sigma, 2 * math.ceil(3 * sigma) + 1


def _severity(factor: int) -> DegradePreset:
    sigma, kernel = antialias(factor)
    return DegradePreset(
        f"x{factor}", blur_sigma=(sigma, sigma), kernel=(kernel,), isotropic_prob=1.0,
        downscale=(float(factor), float(factor)), noise_sigma=(0.0, 0.0), jpeg_quality=(0, 0),
    )  # fmt: skip


PRESETS = {preset.name: preset for preset in (*_PAPERS, MILD, HEAVY)}
SEVERITIES = {preset.name: preset for preset in map(_severity, (4, 8, 16, 32, 64))}


def get_preset(name: str) -> DegradePreset:
    """Return the preset or severity called `name`.

    Raises:
        SettingsError: none has that name.
    """
    known = PRESETS | SEVERITIES
    if name not in known:
        close = difflib.get_close_matches(name, known, 1)
        raise SettingsError(
            f"Unknown degradation preset {name!r}",
            found=f"expected one of {', '.join(known)}",
            kept="Nothing was changed",
            todo=f"Perhaps {close[0]} is meant" if close else "Choose a preset from the list",
        )
    return known[name]


def override(preset: DegradePreset, settings: Iterable[str]) -> DegradePreset:
    """Return `preset` with some ranges replaced.

    Args:
        preset: what to start from.
        settings: 'key=value' each; a value is 'low,high', one number, or 'a|b|c' for a list to draw from. `kernel` is
            always a list.

    Raises:
        SettingsError: a key is unknown, given twice, or its value is not of that form or out of range.
    """
    changes: dict[str, object] = {}
    names = [field.name for field in fields(DegradePreset) if field.name != "name"]
    for setting in settings:
        key, equals, text = (part.strip() for part in setting.partition("="))
        if not equals or key not in names or key in changes:
            close = difflib.get_close_matches(key, names, 1)
            twice = f"{key} is given twice" if key in changes else f"found {setting!r}, expected key=value"
            raise SettingsError(
                f"Cannot use the setting {setting!r}",
                found=twice if key in names else f"there is no {key!r}; expected one of {', '.join(names)}",
                kept="Nothing was changed",
                todo=f"Perhaps {close[0]} is meant" if close and key not in names else "Write it as jpeg_quality=30,60",
            )
        changes[key] = _parse(setting, key, text)
    changed = replace(preset, **changes)  # type: ignore[arg-type]
    if changed.other:
        get_preset(changed.other)
    return changed


def _parse(setting: str, key: str, text: str) -> object:
    if key in ("gray_on", "other"):
        return text
    listed = "|" in text
    try:
        numbers = [float(part) for part in text.split("|" if listed else ",")]
    except ValueError:
        numbers = []
    whole = key in ("jpeg_quality", "kernel", "move")
    bad = not numbers or not all(math.isfinite(x) and (not whole or x == int(x)) for x in numbers)
    single = key not in _LIMITS and key != "kernel"
    if bad or (single and len(numbers) != 1) or (not single and key != "kernel" and not listed and len(numbers) > 2):
        form = "a number" if single else "'low,high', one number, or 'a|b|c'"
        raise SettingsError(
            f"Cannot use the setting {setting!r}",
            found=f"found {text!r}, expected {form}{', whole numbers' if whole else ''}",
            kept="Nothing was changed",
            todo="Write it as jpeg_quality=30,60 or downscale=4|8|16",
        )
    values = tuple(int(x) if whole else x for x in numbers)
    if single:
        return values[0]
    if key == "kernel":
        return values
    return Choice(values) if listed else (values[0], values[-1])


def describe_value(value: object) -> str:
    """Return a range the way it is written on the command line."""
    if isinstance(value, Choice):
        return "|".join(f"{number:g}" for number in value.values)
    if isinstance(value, tuple):
        unique = value if value[:1] != value[1:] else value[:1]
        return ",".join(f"{number:g}" if isinstance(number, (int, float)) else repr(number) for number in unique)
    return f"{value:g}" if isinstance(value, float) else str(value)


def describe(preset: DegradePreset) -> str:
    """Return one line with what `preset` draws, without what it leaves alone."""
    plain = DegradePreset(preset.name)
    always = ("blur_sigma", "downscale", "noise_sigma", "jpeg_quality")
    parts = []
    for field in fields(preset):
        value = getattr(preset, field.name)
        if field.name in always or (field.name != "name" and value != getattr(plain, field.name)):
            text = describe_value(value)
            if isinstance(value, Choice) and len(value.values) > 12:
                text = "|".join([*text.split("|")[:2], "...", text.split("|")[-1]])
            parts.append(f"{field.name}={text}")
    return " ".join(parts)
