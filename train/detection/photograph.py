"""What light, a lens and saving do to a scene."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np


def light(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Change light and colour: one curve for each channel, then perhaps gray or sepia."""
    ramp = np.arange(256, dtype=np.float32) / 255
    curve = np.clip(ramp, 0, 1) ** math.exp(rng.normal(0, 0.35))
    curve = (curve - 0.5) * math.exp(rng.normal(0, 0.25)) + 0.5 + rng.normal(0, 0.07)
    tint = rng.normal(1, 0.08, 3) if rng.random() < 0.6 else np.ones(3)
    table = np.clip(curve[:, None] * tint * 255, 0, 255).astype(np.uint8)
    image = cv2.LUT(image, table[None])
    draw = rng.random()
    if draw < 0.25:
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        image = cv2.cvtColor(gray, cv2.COLOR_GRAY2RGB)
        if draw < 0.07:
            image = cv2.LUT(image, np.clip(np.arange(256)[:, None] * (1.05, 0.92, 0.75), 0, 255).astype(np.uint8)[None])
    elif draw < 0.4:
        gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        mix = rng.uniform(-0.5, 0.8)
        image = cv2.addWeighted(image, 1 - mix, gray, mix, 0)
    if rng.random() < 0.15:
        # Light from one side.
        y, x = np.mgrid[-1 : 1 : complex(0, image.shape[0]), -1 : 1 : complex(0, image.shape[1])].astype(np.float32)
        angle = rng.uniform(0, 2 * math.pi)
        gain = 1 + rng.uniform(0.2, 0.6) * (x * math.cos(angle) + y * math.sin(angle))
        image = np.clip(image * gain[..., None], 0, 255).astype(np.uint8)
    return image


def photograph(rng: np.random.Generator, image: np.ndarray, sizes: Sequence[float]) -> tuple[np.ndarray, float]:
    """Blur, shrink, add noise, save as JPEG, enlarge: what a restorer's input went through.

    Args:
        rng: decides how.
        image: (S, S, 3) uint8.
        sizes: of its faces in pixels; the larger the largest, the worse it may get.

    Returns:
        The picture, and the size in pixels below which its faces are beyond finding.
    """
    sigma, factor, noise = 0.0, 1.0, 0.0
    if rng.random() < 0.25:
        return image, 9.0
    size = image.shape[0]
    largest = max(sizes, default=64.0)
    if rng.random() < 0.55:
        sigma = rng.uniform(0.3, 1.0) if rng.random() < 0.4 else rng.uniform(0.3, 0.06 * largest + 0.4)
        sigma = min(sigma, 9.0)
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    if rng.random() < 0.6:
        # As far as the largest face still has some 11 pixels, and at most twelvefold.
        limit = float(np.clip(largest / 11, 1.0, 12.0))
        factor = math.exp(rng.uniform(0, math.log(limit))) if limit > 1 else 1.0
        small = max(int(size / factor), 8)
        image = cv2.resize(image, (small, small), interpolation=int(rng.choice([cv2.INTER_AREA, cv2.INTER_LINEAR])))
    if rng.random() < 0.45:
        noise = rng.uniform(1, 25)
        shape = (*image.shape[:2], 3 if rng.random() < 0.6 else 1)
        drawn = rng.standard_normal(shape, dtype=np.float32) * np.float32(noise)
        image = np.clip(image + drawn, 0, 255).astype(np.uint8)
    # Blobs that only the label knows to be faces would teach it to see faces in blobs.
    smallest = max(9.0, math.hypot(9.0 * sigma, 9.5 * factor)) * (1 + noise / 35)
    if rng.random() < 0.65:
        quality = int(rng.integers(25, 96))
        image = cv2.imdecode(cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)[
            ..., ::-1
        ]
    if image.shape[0] != size:
        way = int(
            rng.choice(
                [cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4, cv2.INTER_NEAREST], p=[0.4, 0.3, 0.2, 0.1]
            )
        )
        image = cv2.resize(np.ascontiguousarray(image), (size, size), interpolation=way)
    return np.ascontiguousarray(image), smallest
