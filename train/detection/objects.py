"""Pictures of things that detectors take for faces: round things in rows and pairs, and folds."""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np

from .photograph import light, photograph

Colour = tuple[float, float, float]


def thing(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return a picture of things without a face, (size, size, 3) uint8."""
    draw = THINGS[int(rng.integers(len(THINGS)))]
    # Drawn at twice the size: edges without steps.
    image = cv2.resize(draw(rng, 2 * size), (size, size), interpolation=cv2.INTER_AREA)
    turn = cv2.getRotationMatrix2D((size / 2, size / 2), rng.normal(0, 12), math.exp(rng.normal(0.1, 0.15)))
    image = cv2.warpAffine(image, turn, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return photograph(rng, light(rng, image), [size * 0.4])[0]


def _colour(rng: np.random.Generator, low: float = 0, high: float = 255) -> Colour:
    base = rng.uniform(low, high)
    red, green, blue = np.clip(base + rng.normal(0, 35, 3), 0, 255)
    return float(red), float(green), float(blue)


def _noise(rng: np.random.Generator, size: int, cell: float, strength: float) -> np.ndarray:
    n = max(int(size / cell), 2)
    coarse = rng.standard_normal((n, n, 1), dtype=np.float32) * np.float32(strength)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)[..., None]


def _ground(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return a plain or faintly mottled ground with light from one side."""
    image = np.empty((size, size, 3), np.float32)
    image[:] = _colour(rng)
    image += _noise(rng, size, math.exp(rng.uniform(0.5, 4.5)), rng.uniform(0, 18))
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j].astype(np.float32)
    angle = rng.uniform(0, 2 * math.pi)
    return np.clip(image + rng.uniform(0, 50) * (x * math.cos(angle) + y * math.sin(angle))[..., None], 0, 255).astype(
        np.uint8
    )


def _ball(rng: np.random.Generator, image: np.ndarray, at: tuple[float, float], axes: tuple[float, float]) -> None:
    """Paint a shaded ellipse with a shadow: a pebble, a fruit, a knob."""
    size, (x, y), (a, b) = image.shape[0], at, axes
    angle, colour = rng.uniform(0, 180), np.array(_colour(rng, 30, 235), np.float32)
    mask = np.zeros((size, size), np.uint8)
    cv2.ellipse(mask, (int(x + 0.15 * a), int(y + 0.2 * b)), (int(a), int(b)), angle, 0, 360, 90, -1)
    shade = cv2.GaussianBlur(mask, (0, 0), max(0.15 * a, 1)).astype(np.float32)[..., None] / 255
    image[:] = (image * (1 - shade)).astype(np.uint8)
    mask[:] = 0
    cv2.ellipse(mask, (int(x), int(y)), (int(a), int(b)), angle, 0, 360, 255, -1)
    rows, columns = np.mgrid[:size, :size].astype(np.float32)
    lit = np.clip(1 - ((columns - x + 0.4 * a) ** 2 + (rows - y + 0.4 * b) ** 2) / (2.2 * max(a, b)) ** 2, 0, 1)
    painted = colour * (0.45 + 0.75 * lit[..., None]) + _noise(rng, size, max(a / 4, 2), rng.uniform(0, 20))
    image[mask > 0] = np.clip(painted, 0, 255).astype(np.uint8)[mask > 0]


def _button(rng: np.random.Generator, image: np.ndarray, x: int, y: int, radius: int) -> None:
    colour = _colour(rng)
    cv2.circle(image, (x + radius // 8, y + radius // 6), radius, (30, 30, 30), -1, cv2.LINE_AA)
    cv2.circle(image, (x, y), radius, colour, -1, cv2.LINE_AA)
    darker, lighter = (tuple(min(c * f, 255.0) for c in colour) for f in (0.65, 1.25))
    cv2.circle(image, (x, y), int(radius * rng.uniform(0.7, 0.88)), darker, max(radius // 9, 1), cv2.LINE_AA)
    cv2.ellipse(image, (x, y), (int(radius * 0.9),) * 2, 0, 190, 260, lighter, max(radius // 12, 1), cv2.LINE_AA)
    holes, apart = int(rng.choice([0, 2, 2, 4, 4])), radius * rng.uniform(0.22, 0.36)
    turn, wide = rng.uniform(0, math.pi), max(int(radius * rng.uniform(0.08, 0.16)), 1)
    ends = []
    for hole in range(holes):
        angle = turn + 2 * math.pi * hole / holes
        at = (int(x + apart * math.cos(angle)), int(y + apart * math.sin(angle)))
        ends.append(at)
        cv2.circle(image, at, wide, _colour(rng, 0, 60), -1, cv2.LINE_AA)
    if holes and rng.random() < 0.5:
        cv2.line(image, ends[0], ends[holes // 2], _colour(rng), max(wide // 2, 1), cv2.LINE_AA)


def _buttons(rng: np.random.Generator, size: int) -> np.ndarray:
    image = _ground(rng, size) if rng.random() < 0.5 else _cloth(rng, size)
    radius = int(size * rng.uniform(0.05, 0.3))
    for _ in range(int(rng.integers(1, 9))):
        x, y = (int(v) for v in rng.integers(0, size, 2))
        _button(rng, image, x, y, max(int(radius * math.exp(rng.normal(0, 0.2))), 4))
    return image


def _pebbles(rng: np.random.Generator, size: int) -> np.ndarray:
    image = _ground(rng, size)
    a = size * math.exp(rng.uniform(math.log(0.03), math.log(0.25)))
    for _ in range(int(np.clip(0.7 * (size / a) ** 2 / 4, 3, 60))):
        radius = a * math.exp(rng.normal(0, 0.3))
        _ball(rng, image, (rng.uniform(0, size), rng.uniform(0, size)), (radius, radius * rng.uniform(0.55, 1)))
    return image


def _cloth(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return folds: light on a bent sheet, with a weave or a print."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    height = np.zeros((size, size), np.float32)
    for _ in range(int(rng.integers(2, 6))):
        angle, wave = rng.uniform(0, math.pi), size * math.exp(rng.uniform(math.log(0.08), math.log(0.8)))
        bend = _noise(rng, size, size / rng.uniform(2, 6), wave * rng.uniform(0.1, 0.5))[..., 0]
        height += wave * np.sin(2 * math.pi * (x * math.cos(angle) + y * math.sin(angle) + bend) / wave) / 6
    slope_y, slope_x = np.gradient(height)
    angle = rng.uniform(0, 2 * math.pi)
    lit = 0.75 + rng.uniform(0.2, 0.9) * np.tanh(slope_x * math.cos(angle) + slope_y * math.sin(angle))
    image = np.empty((size, size, 3), np.float32)
    image[:] = _colour(rng, 30, 230)
    if rng.random() < 0.4:
        step = size / rng.uniform(4, 30)
        image += 40 * np.sign(np.sin(2 * math.pi * (x + slope_x * 4) / step))[..., None]
        if rng.random() < 0.5:
            image += 40 * np.sign(np.sin(2 * math.pi * (y + slope_y * 4) / step))[..., None]
    image = image * lit[..., None] + rng.normal(0, rng.uniform(0, 8), (size, size, 1))
    return np.clip(image, 0, 255).astype(np.uint8)


def _clouds(rng: np.random.Generator, size: int) -> np.ndarray:
    total, cell, strength = np.zeros((size, size, 1), np.float32), size / rng.uniform(2, 5), 1.0
    while cell > 2:
        total += _noise(rng, size, cell, strength)
        cell, strength = cell / 2, strength * rng.uniform(0.45, 0.65)
    share = np.clip(0.5 + total * rng.uniform(0.3, 0.9), 0, 1)
    dark, bright = np.array(_colour(rng, 20, 170)), np.array(_colour(rng, 130, 255))
    return np.clip(dark * (1 - share) + bright * share, 0, 255).astype(np.uint8)


def _text(rng: np.random.Generator, size: int) -> np.ndarray:
    image = _ground(rng, size)
    colour, font = _colour(rng), int(rng.integers(0, 8))
    scale = math.exp(rng.uniform(math.log(0.5), math.log(6)))
    row = 0.0
    while row < size:
        row += 34 * scale
        word = "".join(chr(c) for c in rng.integers(33, 123, 40))
        at = (int(-rng.integers(0, 60)), int(row))
        cv2.putText(image, word, at, font, scale, colour, max(int(scale * rng.uniform(1, 4)), 1), cv2.LINE_AA)
    return image


def _wheel(rng: np.random.Generator, image: np.ndarray, x: int, y: int, radius: int) -> None:
    cv2.circle(image, (x, y), radius, _colour(rng, 10, 70), -1, cv2.LINE_AA)
    cv2.circle(image, (x, y), int(radius * 0.72), _colour(rng, 110, 230), -1, cv2.LINE_AA)
    spokes, turn = int(rng.integers(3, 16)), rng.uniform(0, math.pi)
    dark, wide = _colour(rng, 10, 110), max(int(radius * rng.uniform(0.04, 0.2)), 1)
    for spoke in range(spokes):
        angle = turn + 2 * math.pi * spoke / spokes
        far = (int(x + 0.62 * radius * math.cos(angle)), int(y + 0.62 * radius * math.sin(angle)))
        near = (int(x + 0.2 * radius * math.cos(angle)), int(y + 0.2 * radius * math.sin(angle)))
        cv2.line(image, near, far, dark, wide, cv2.LINE_AA)
    cv2.circle(image, (x, y), max(int(radius * rng.uniform(0.08, 0.22)), 1), _colour(rng), -1, cv2.LINE_AA)


def _wheels(rng: np.random.Generator, size: int) -> np.ndarray:
    image = _ground(rng, size)
    radius = int(size * rng.uniform(0.08, 0.4))
    for _ in range(int(rng.integers(1, 4))):
        _wheel(rng, image, int(rng.integers(0, size)), int(rng.integers(size // 3, size)), radius)
    return image


def _flowers(rng: np.random.Generator, size: int) -> np.ndarray:
    image = _clouds(rng, size)
    for _ in range(int(rng.integers(1, 7))):
        x, y, petals = rng.uniform(0, size), rng.uniform(0, size), int(rng.integers(4, 15))
        radius, colour = size * rng.uniform(0.05, 0.3), _colour(rng, 60, 240)
        for petal in range(petals):
            angle = 2 * math.pi * petal / petals + rng.normal(0, 0.08)
            at = (int(x + 0.6 * radius * math.cos(angle)), int(y + 0.6 * radius * math.sin(angle)))
            shade = tuple(float(np.clip(c * rng.uniform(0.75, 1.15), 0, 255)) for c in colour)
            axes = (int(0.55 * radius) + 1, int(radius * rng.uniform(1.0, 1.6) / petals * 1.6) + 1)
            cv2.ellipse(image, at, axes, math.degrees(angle), 0, 360, shade, -1, cv2.LINE_AA)
        cv2.circle(image, (int(x), int(y)), int(radius * 0.25) + 1, _colour(rng), -1, cv2.LINE_AA)
    return image


def _sockets(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return plates with two or three holes, as sockets, plugs and intercoms have them."""
    image = _ground(rng, size)
    for _ in range(int(rng.integers(1, 5))):
        x, y, half = rng.uniform(0, size), rng.uniform(0, size), size * rng.uniform(0.08, 0.35)
        corner, opposite = (int(x - half), int(y - half)), (int(x + half), int(y + half))
        plate, dark = _colour(rng, 90, 250), _colour(rng, 0, 70)
        cv2.rectangle(image, corner, opposite, plate, -1)
        cv2.rectangle(image, corner, opposite, tuple(c * 0.7 for c in plate), max(int(half / 25), 1), cv2.LINE_AA)
        if rng.random() < 0.6:
            ring = (int(half * rng.uniform(0.6, 0.85)),) * 2
            cv2.ellipse(image, (int(x), int(y)), ring, 0, 0, 360, tuple(c * 0.82 for c in plate), -1, cv2.LINE_AA)
        wide, apart = max(int(half * rng.uniform(0.05, 0.14)), 1), half * rng.uniform(0.2, 0.42)
        tall = int(wide * rng.choice([1.0, 2.5]))
        for side in (-1, 1):
            cv2.ellipse(image, (int(x + side * apart), int(y - 0.1 * half)), (wide, tall), 0, 0, 360, dark, -1)
        if rng.random() < 0.7:
            low = (int(x), int(y + half * rng.uniform(0.2, 0.5)))
            cv2.ellipse(image, low, (int(wide * rng.uniform(0.8, 4)), wide), 0, 0, 360, dark, -1, cv2.LINE_AA)
    return image


def _cars(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return fronts of cars and trains: two lamps over a grille, under a windscreen."""
    image = _ground(rng, size)
    for _ in range(int(rng.integers(1, 4))):
        x, y, half = rng.uniform(0.1, 0.9) * size, rng.uniform(0.2, 0.9) * size, size * rng.uniform(0.1, 0.45)
        body, dark = _colour(rng, 20, 240), _colour(rng, 0, 80)

        def at(across: float, down: float, x: float = x, y: float = y, half: float = half) -> tuple[int, int]:
            return int(x + across * half), int(y + down * half)

        tall = rng.uniform(0.45, 0.9)
        cv2.rectangle(image, at(-1, -0.3), at(1, tall), body, -1)
        roof = np.array([at(-0.8, -0.3), at(-0.62, -1), at(0.62, -1), at(0.8, -0.3)], np.int32)
        cv2.fillPoly(image, [roof], tuple(c * 0.8 for c in body), cv2.LINE_AA)
        glass = np.array([at(-0.68, -0.33), at(-0.54, -0.9), at(0.54, -0.9), at(0.68, -0.33)], np.int32)
        cv2.fillPoly(image, [glass], _colour(rng, 20, 190), cv2.LINE_AA)
        lamp, lit = half * rng.uniform(0.1, 0.22), _colour(rng, 140, 255)
        for side in (-0.7, 0.7):
            cv2.ellipse(image, at(side, 0), (int(lamp) + 1, int(lamp * rng.uniform(0.5, 1)) + 1), 0, 0, 360, lit, -1)
            cv2.circle(image, at(side, 0), int(lamp * 0.5) + 1, dark, int(rng.choice([-1, 2])), cv2.LINE_AA)
        across, low = rng.uniform(0.3, 0.6), rng.uniform(0.25, 0.42)
        cv2.rectangle(image, at(-across, 0.05), at(across, low), dark, -1)
        for bar in np.linspace(-across, across, int(rng.integers(3, 12))):
            cv2.line(image, at(bar, 0.05), at(bar, low), tuple(min(c + 90, 255.0) for c in dark), 2, cv2.LINE_AA)
        cv2.rectangle(image, at(-0.25, tall - 0.25), at(0.25, tall - 0.1), _colour(rng, 150, 255), -1)
        for side in (-0.8, 0.8):
            cv2.rectangle(image, at(side - 0.14, tall), at(side + 0.14, tall + 0.2), (20, 20, 20), -1)
    return image


THINGS: tuple[Callable[[np.random.Generator, int], np.ndarray], ...] = (
    _buttons, _pebbles, _cloth, _clouds, _text, _wheels, _flowers, _sockets, _cars,
)  # fmt: skip
