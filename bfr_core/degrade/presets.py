"""The degradation ranges of the papers, by name.

Each range is uniform. Source of every row: the published training code or paper of the method it is named after.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import SettingsError


@dataclass(frozen=True, slots=True)
class DegradePreset:
    """Ranges to draw one degradation from.

    Units: blur and kernel in pixels of the clean picture, noise and colour shift in 8-bit levels.
    """

    name: str
    blur_sigma: tuple[float, float] = (0.1, 10.0)
    kernel: tuple[int, ...] = (41,)
    """Odd kernel sizes, one drawn per picture."""
    isotropic_prob: float = 0.5
    downscale: tuple[float, float] = (0.8, 8.0)
    noise_sigma: tuple[float, float] = (0.0, 20.0)
    jpeg_quality: tuple[int, int] = (60, 100)
    colour_shift_prob: float = 0.0
    colour_shift: float = 20.0
    colour_jitter_prob: float = 0.0
    """Brightness and contrast in [0.5, 1.5], saturation in [0, 1.5], hue +-0.1 turns (GFPGAN's `jitter_pt`)."""
    gray_prob: float = 0.0

    def without_colour(self) -> DegradePreset:
        """Return the same ranges with every colour change switched off.

        A restorer that learns to undo colour shifts repaints faces in pictures that were lit that way, so ours
        are trained and compared without them too.
        """
        return replace(self, colour_shift_prob=0.0, colour_jitter_prob=0.0, gray_prob=0.0)


_PRESETS = (
    DegradePreset("gfpgan", colour_shift_prob=0.3, colour_jitter_prob=0.3, gray_prob=0.01),
    DegradePreset("restoreformer", kernel=(39, 41)),
    DegradePreset("vspbfr-paper", blur_sigma=(0.2, 10.0), downscale=(1.0, 8.0)),
    DegradePreset("vqfr-v1"),
    DegradePreset("vqfr-v2", blur_sigma=(1.0, 15.0), downscale=(1.0, 30.0), jpeg_quality=(30, 90)),
    DegradePreset("difface", blur_sigma=(0.1, 15.0), downscale=(0.8, 32.0), jpeg_quality=(30, 100), gray_prob=0.01),
)
PRESETS = {preset.name: preset for preset in _PRESETS}


def get_preset(name: str) -> DegradePreset:
    """Return the preset called `name`.

    Raises:
        SettingsError: no preset has that name.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise SettingsError(
            f"Unknown degradation preset {name!r}",
            found=f"expected one of {', '.join(PRESETS)}",
            kept="Nothing was changed",
            todo="Choose a preset from the list",
        ) from None
