"""Pairs of a degraded face and its truth, for every stage that learns to restore."""

from __future__ import annotations

import dataclasses
from typing import Any

import cv2
import numpy as np
from pydantic.dataclasses import dataclass

from bfr_core.degrade.chain import degrade, draw, truth_of
from bfr_core.degrade.presets import HEAVY, MILD, DegradePreset, get_preset

from .config import STRICT, Phase, Share, TrainConfig
from .data import Examples
from .pictures import Pictures, fit


@dataclass(frozen=True, config=STRICT)
class RestorePhase(Phase):
    """A phase of a stage that restores."""

    mild: Share = 0.0
    """Share of the pictures that are nearly good. The papers' ranges hardly hold any, and a net that never saw one
    smooths them."""
    heavy: Share = 0.0
    """Share of the pictures that lost nearly everything, shrunk 8 to 32 times; with `mild` at most 1."""


@dataclass(frozen=True, config=STRICT)
class RestoreConfig(TrainConfig):
    """A stage that restores."""

    phases: tuple[RestorePhase, ...]
    face_size: int = 512
    """Side the faces are brought to, and the scale degradations are drawn at."""
    degradation: str = "gfpgan"
    """A preset of `bfr degrade --list`."""
    colour: bool = False
    """Whether the preset's colour changes are used. A net that learns to undo them repaints faces of pictures that
    were lit that way."""
    folder_weights: dict[str, float] = dataclasses.field(default_factory=dict)
    """How often pictures below a folder of that name are drawn, relative to 1."""

    def preset(self) -> DegradePreset:
        """Return the ranges to draw from.

        Raises:
            SettingsError: no preset has that name.
        """
        found = get_preset(self.degradation)
        return found if self.colour else found.without_colour()


FREE = {"free512": 3.0, "free2_512": 3.0, "cc0gen512": 1.5, "pd256": 0.4, "free256": 0.8, "free2_256": 0.8}
"""How often the free faces are drawn: varied portraits more often, those of half the size less."""


class FacePairs(Examples[Pictures]):
    """Draw `low`, `truth` and whether the truth was `enlarged` from a smaller picture.

    Args:
        pictures: aligned faces.
        preset: degradation ranges.
        size: side the faces are brought to, and the scale degradations are drawn at.
        crop: side of the square cut out of each face; `size` for the whole face.
        seed: together with the index it decides everything random.
        mild: share of the pictures degraded by MILD instead of `preset`.
        heavy: share of the pictures degraded by HEAVY instead of `preset`.
    """

    _MARGIN = 24
    """Context around a crop, so that the blur at its edge sees what it would see in the whole face."""

    def __init__(
        self,
        pictures: Pictures,
        preset: DegradePreset,
        *,
        size: int,
        crop: int,
        seed: int,
        mild: float = 0.0,
        heavy: float = 0.0,
    ) -> None:
        super().__init__(pictures, seed)
        self.preset, self.size, self.crop, self.mild, self.heavy = preset, size, crop, mild, heavy

    def example(self, index: int, rng: np.random.Generator, bad: dict[str, str]) -> dict[str, Any]:
        image = self.drawn(rng, bad, self.pictures.__getitem__)
        enlarged = image.shape[0] < self.size
        image = fit(image, self.size)
        if self.crop < self.size:
            reach = min(self.crop + 2 * self._MARGIN, self.size)
            top, left = rng.integers(0, self.size - reach + 1, size=2)
            image = image[top : top + reach, left : left + reach]
        else:
            image = self._tilt(image, rng)
        if rng.random() < 0.5:
            image = image[:, ::-1]
        gain = rng.uniform(0.85, 1.15) * rng.uniform(0.93, 1.07, size=3)
        image = np.clip(image * gain.astype(np.float32), 0, 255).round().astype(np.uint8)
        if rng.random() < 0.05:
            image = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
        kind = rng.random()
        preset = MILD if kind < self.mild else HEAVY if kind > 1 - self.heavy else self.preset
        params = draw(preset, int(rng.integers(2**62)))
        low, image = degrade(image, params), truth_of(image, params)
        margin = (image.shape[0] - self.crop) // 2
        inside = slice(margin, margin + self.crop)
        return {"low": low[inside, inside], "truth": image[inside, inside], "enlarged": np.array(enlarged)}

    def _tilt(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Turn, scale and shift a little, as an imperfect alignment would."""
        scale = self.size / 512
        matrix = cv2.getRotationMatrix2D((self.size / 2, self.size / 2), rng.normal(0, 3), rng.uniform(0.95, 1.08))
        matrix[:, 2] += rng.normal(0, 6 * scale, size=2)
        return cv2.warpAffine(
            image, matrix, (self.size, self.size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
        )


def face_pairs(config: RestoreConfig, pictures: Pictures, phase: RestorePhase) -> FacePairs:
    """Return the pairs of one phase; another phase of the same run draws others."""
    seed = config.seed * 1000 + [one.name for one in config.phases].index(phase.name)
    return FacePairs(
        pictures,
        config.preset(),
        size=config.face_size,
        crop=phase.size,
        seed=seed,
        mild=phase.mild,
        heavy=phase.heavy,
    )
