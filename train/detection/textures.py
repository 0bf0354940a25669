"""Pictures of nothing, for a face detector to learn to keep silent."""

from __future__ import annotations

import math

import cv2
import numpy as np


def texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return a picture of nothing: flat, gradients, noise of several scales, stripes, discs, letters."""
    draw = rng.random()
    base = rng.integers(0, 256, 3).astype(np.float32)
    if draw < 0.15:
        image = np.empty((size, size, 3), np.float32)
        image[:] = base
    elif draw < 0.35:
        corners = rng.integers(0, 256, (2, 2, 3)).astype(np.float32)
        image = cv2.resize(corners, (size, size), interpolation=cv2.INTER_LINEAR)
    elif draw < 0.6:
        image = np.empty((size, size, 3), np.float32)
        image[:] = base
        for cellsize in rng.choice([2, 4, 8, 16, 32, 64], 3, replace=False):
            n = max(size // int(cellsize), 2)
            coarse = rng.normal(0, rng.uniform(5, 45), (n, n, 1 if rng.random() < 0.6 else 3)).astype(np.float32)
            image += cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC).reshape(size, size, -1)
    elif draw < 0.68:
        # Gravel, leaves, stars, clouds: one band of noise, driven into contrast.
        cell = float(np.exp(rng.uniform(math.log(2.5), math.log(24))))
        n = max(int(size / cell), 4)
        coarse = rng.standard_normal((n, n, 1 if rng.random() < 0.7 else 3), dtype=np.float32)
        band = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC).reshape(size, size, -1)
        image = base + rng.uniform(20, 90) * np.tanh(rng.uniform(0.5, 4) * (band - rng.uniform(-0.5, 2.2)))
        image = image + rng.normal(0, 1, image.shape).astype(np.float32) * rng.uniform(0, 15)
        image = np.broadcast_to(image, (size, size, 3))
    elif draw < 0.75:
        angle, wave = rng.uniform(0, math.pi), rng.uniform(3, 60)
        y, x = np.mgrid[:size, :size].astype(np.float32)
        image = (
            base + 70 * np.sign(np.sin((x * math.cos(angle) + y * math.sin(angle)) * (2 * math.pi / wave)))[..., None]
        )
    else:
        image = np.empty((size, size, 3), np.uint8)
        image[:] = base.astype(np.uint8)
        shapes = rng.random()
        for _ in range(rng.integers(4, 40)):
            colour = tuple(map(float, rng.integers(0, 256, 3)))
            at = tuple(int(v) for v in rng.integers(0, size, 2))
            if shapes < 0.4:
                # Discs in discs: buttons, wheels and lamps look like eyes.
                radius = int(rng.integers(2, max(size // 6, 4)))
                cv2.circle(image, at, radius, colour, -1)
                if rng.random() < 0.5:
                    cv2.circle(image, at, max(radius // 2, 1), tuple(255 - v for v in colour), -1)
            elif shapes < 0.7:
                word = "".join(chr(c) for c in rng.integers(33, 123, rng.integers(1, 8)))
                cv2.putText(
                    image, word, at, int(rng.integers(0, 5)), rng.uniform(0.3, 2.5), colour, int(rng.integers(1, 4))
                )
            else:
                to = tuple(int(v) for v in rng.integers(0, size, 2))
                if rng.random() < 0.5:
                    cv2.rectangle(image, at, to, colour, int(rng.choice([-1, 1, 2, 4])))
                else:
                    cv2.line(image, at, to, colour, int(rng.integers(1, 8)))
    return np.clip(image, 0, 255).astype(np.uint8)
