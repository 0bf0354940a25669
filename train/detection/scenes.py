"""Training pictures for the face detector: scenes pasted together, rotated, covered, and degraded.

Everything random about the n-th picture comes from its own seed, so the n-th is the same on every run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from bfr_core.backends.detectors.embedded import MIRRORED_POINTS
from bfr_core.errors import InputMediaError, SettingsError
from bfr_core.networks.face_detector import STRIDES

from ..data import Examples
from .labelled import Labelled, LabelledPictures
from .photograph import light, photograph
from .textures import texture

MAX_FACES = 16
SMALLEST_SIDE = 96
"""Occlusions are cut out of the picture itself, from 40 px away."""


@dataclass(slots=True)
class Canvas:
    """A training picture in the making."""

    image: np.ndarray
    boxes: list[np.ndarray] = field(default_factory=list)
    """x0, y0, x1, y1."""
    points: list[np.ndarray] = field(default_factory=list)
    visible: list[float] = field(default_factory=list)
    """Share of the face still to be seen; below a half it is neither face nor background."""


class SceneMixer(Examples[LabelledPictures]):
    """Draw training pictures: `image`, `boxes`, `points` and `kind` of up to MAX_FACES faces.

    Shapes: image (S, S, 3) uint8; boxes (MAX_FACES, 4) float32 x0, y0, x1, y1, rows of zeros where there is no face;
    points (MAX_FACES, 5, 2) float32; kind (MAX_FACES,) int8: 1 a face, 2 ignored, 0 empty.

    Args:
        pictures: labelled ones.
        size: side of the training pictures.
        seed: together with the index it decides everything random.

    Raises:
        SettingsError: the networks cannot take that size, or occlusions do not fit into it.
        InputMediaError: no picture with faces is left for training.
    """

    def __init__(self, pictures: LabelledPictures, *, size: int = 256, seed: int = 0) -> None:
        if size % STRIDES[-1] or size < SMALLEST_SIDE:
            raise SettingsError(
                f"Cannot make training pictures of {size} px",
                found=f"expected a multiple of {STRIDES[-1]}, at least {SMALLEST_SIDE}",
                kept="Nothing was started",
                todo="Change the size",
            )
        if not pictures.drawn:
            raise InputMediaError(
                "There is nothing to train the detector on",
                found=f"none of {len(pictures.sources)} pictures has faces and is outside the held-out tenth",
                kept="Nothing was started",
                todo="Name more folders with --data",
            )
        super().__init__(pictures, seed)
        self.size = size
        self._bad: dict[str, str] = {}

    def example(self, index: int, rng: np.random.Generator, bad: dict[str, str]) -> dict[str, Any]:
        """Paste faces, and what looks like them, onto a background."""
        self._bad = bad
        canvas = Canvas(self._background(rng))
        if rng.random() < 0.17:
            for _ in range(rng.integers(0, 4)):
                self._paste(rng, canvas, face=False, size=self._draw_size(rng))
            for _ in range(rng.integers(0, 12)):
                self._paste_part(rng, canvas)
        elif rng.random() < 0.5:
            # One face of any size, from a third of the frame to larger than it.
            for _ in range(rng.integers(0, 4)):
                self._paste_part(rng, canvas)
            self._paste(
                rng,
                canvas,
                face=True,
                size=float(np.exp(rng.uniform(math.log(48), math.log(1.45 * self.size)))),
                whole=True,
            )
        else:
            top = float(np.exp(rng.uniform(math.log(16), math.log(0.55 * self.size))))
            count = int(np.clip(rng.integers(2, 5) * (128 / top) * (self.size / 256) ** 2, 2, 14))
            for _ in range(count):
                size = float(np.clip(top * np.exp(rng.uniform(-0.9, 0.25)), 9, 160))
                if rng.random() < 0.35:
                    self._paste_part(rng, canvas)
                self._paste(rng, canvas, face=bool(rng.random() < 0.65), size=size)
        self._occlude(rng, canvas)
        sizes = [math.sqrt((x1 - x0) * (y1 - y0)) for x0, y0, x1, y1 in canvas.boxes]
        canvas.image, smallest = photograph(rng, light(rng, canvas.image), sizes)
        return self._finish(canvas, smallest)

    def _scene(self, rng: np.random.Generator) -> Labelled:
        return self.drawn(rng, self._bad, self.pictures.labelled)

    @staticmethod
    def _draw_size(rng: np.random.Generator) -> float:
        return float(np.exp(rng.uniform(math.log(12), math.log(200))))

    def _background(self, rng: np.random.Generator) -> np.ndarray:
        draw = rng.random()
        if draw < 0.45:
            return texture(rng, self.size)
        scene = self._scene(rng)
        image = _erase(rng, scene.pyramid[1], scene.boxes / 2)
        # A part of the picture, so that walls, gardens and cloth are seen at every scale.
        height, width = image.shape[:2]
        side = int(min(height, width) * rng.uniform(0.3, 1.0))
        y, x = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
        return cv2.resize(image[y : y + side, x : x + side], (self.size, self.size), interpolation=cv2.INTER_LINEAR)

    def _paste(self, rng: np.random.Generator, canvas: Canvas, *, face: bool, size: float, whole: bool = False) -> None:
        scene, side = self._scene(rng), self.size
        x, y, w, h = scene.boxes[0]
        scale = size / math.sqrt(w * h)
        level = int(np.clip(math.floor(math.log2(1 / scale)) if scale < 1 else 0, 0, len(scene.pyramid) - 1))
        source = scene.pyramid[level] if face else _erase(rng, scene.pyramid[level], scene.boxes / 2**level)
        angle = rng.uniform(-48, 48) if rng.random() < 0.45 else rng.normal(0, 9)
        mirror = rng.random() < 0.5
        stretch = math.exp(rng.normal(0, 0.07))
        shear = rng.normal(0, 0.06)
        if whole and size > 100:
            spread = 0.5 * side * (0.25 if size > 200 else 0.5)
            cx, cy = side / 2 + rng.uniform(-spread, spread), side / 2 + rng.uniform(-spread, spread)
        else:
            cx, cy = rng.uniform(-0.05, 1.05, size=2) * side
        c, s = math.cos(math.radians(angle)) * scale, math.sin(math.radians(angle)) * scale
        linear = np.array([[c, -s], [s, c]]) @ np.array([[stretch, shear], [0.0, 1 / stretch]])
        if mirror:
            linear = linear @ np.diag([-1.0, 1.0])
        matrix = np.empty((2, 3))
        matrix[:, :2] = linear
        matrix[:, 2] = np.array([cx, cy]) - linear @ np.array([x + w / 2, y + h / 2])
        height, width = scene.pyramid[0].shape[:2]
        corners = np.array([[0, 0], [width, 0], [0, height], [width, height]]) @ linear.T + matrix[:, 2]
        left, top = np.clip(np.floor(corners.min(0)), 0, side).astype(int)
        right, bottom = np.clip(np.ceil(corners.max(0)), 0, side).astype(int)
        if right <= left or bottom <= top:
            return
        warp = _to_pixels(matrix, 2.0**level)
        warp[:, 2] -= (left, top)
        mask = self._mask(rng, scene, source.shape[:2], level, whole=whole)
        patch = (int(right - left), int(bottom - top))
        image = cv2.warpAffine(source, warp, patch, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        mask = cv2.warpAffine(mask, warp, patch, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
        for i, box in enumerate(canvas.boxes):
            canvas.visible[i] *= 1 - _covered(mask, box - [left, top, left, top])
        alpha = mask[..., None].astype(np.uint16)
        area = np.s_[top:bottom, left:right]
        canvas.image[area] = ((image * alpha + canvas.image[area] * (255 - alpha)) // 255).astype(np.uint8)
        if not face:
            return
        for (bx, by, bw, bh), points in zip(scene.boxes, scene.points, strict=True):
            centre = matrix[:, :2] @ np.array([bx + bw / 2, by + bh / 2]) + matrix[:, 2]
            # The box around the turned ellipse: the box around the turned box would grow by half at 45 degrees.
            half = np.hypot(linear[:, 0] * bw / 2, linear[:, 1] * bh / 2)
            moved = points @ matrix[:, :2].T + matrix[:, 2]
            canvas.boxes.append(np.concatenate((centre - half, centre + half)))
            canvas.points.append(moved[MIRRORED_POINTS] if mirror else moved)
            x0, y0, x1, y1 = canvas.boxes[-1]
            inside = max(min(x1, side) - max(x0, 0), 0) * max(min(y1, side) - max(y0, 0), 0)
            canvas.visible.append(inside / ((x1 - x0) * (y1 - y0)))

    def _paste_part(self, rng: np.random.Generator, canvas: Canvas) -> None:
        """Paste a part of a picture without its face: hands, cloth, hair and walls are what false alarms look like."""
        scene, side = self._scene(rng), self.size
        level = int(rng.integers(0, 3))
        image = scene.pyramid[min(level, len(scene.pyramid) - 1)]
        height, width = image.shape[:2]
        x, y, w, h = scene.boxes[0] * (image.shape[0] / scene.pyramid[0].shape[0])
        cut = int(np.exp(rng.uniform(math.log(12), math.log(min(height, width) * 0.6))))
        for _ in range(4):
            left, top = int(rng.integers(0, width - cut + 1)), int(rng.integers(0, height - cut + 1))
            # Only what reaches no deeper than the rim of the face: a chin or an ear alone is no face either.
            if left > x + 0.9 * w or left + cut < x + 0.1 * w or top > y + 0.95 * h or top + cut < y + 0.1 * h:
                break
        else:
            return
        part = image[top : top + cut, left : left + cut]
        size = int(np.clip(cut * np.exp(rng.uniform(-0.7, 0.7)), 8, side))
        part = cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA if size < cut else cv2.INTER_LINEAR)
        part = np.rot90(part, int(rng.integers(0, 4)))
        at_x, at_y = int(rng.integers(0, side - size + 1)), int(rng.integers(0, side - size + 1))
        mask = np.zeros((side, side), np.uint8)
        if rng.random() < 0.5:
            cv2.circle(mask, (at_x + size // 2, at_y + size // 2), size // 2, 255, -1)
        else:
            mask[at_y : at_y + size, at_x : at_x + size] = 255
        for i, box in enumerate(canvas.boxes):
            canvas.visible[i] *= 1 - _covered(mask, box)
        area = np.s_[at_y : at_y + size, at_x : at_x + size]
        canvas.image[area] = np.where(mask[area][..., None] > 0, part, canvas.image[area])

    @staticmethod
    def _mask(
        rng: np.random.Generator, scene: Labelled, shape: tuple[int, int], level: int, *, whole: bool
    ) -> np.ndarray:
        """Return what is pasted of the picture: all of it, a rectangle, or a soft shape around the head."""
        mask = np.zeros(shape, np.uint8)
        draw = rng.random()
        if draw < (0.7 if whole else 0.35):
            mask[:] = 255
            return mask
        x, y, w, h = scene.boxes[0] / 2**level
        if draw < 0.75:
            grow = rng.uniform(0.15, 1.2, size=4) * (w, h, w, h)
            x0, y0 = max(int(x - grow[0]), 0), max(int(y - grow[1]), 0)
            mask[y0 : int(y + h + grow[3]), x0 : int(x + w + grow[2])] = 255
            return mask
        centre, axes = (
            (int(x + w / 2), int(y + h * 0.48)),
            (int(w * rng.uniform(0.62, 1.0)), int(h * rng.uniform(0.62, 0.9))),
        )
        cv2.ellipse(mask, centre, axes, 0, 0, 360, 255, -1)
        if rng.random() < 0.6:
            cv2.ellipse(
                mask, (centre[0], int(y + h * 1.9)), (int(w * rng.uniform(0.9, 1.4)), int(h * 0.9)), 0, 0, 360, 255, -1
            )
        soft = int(w * rng.uniform(0.0, 0.12)) * 2 + 1
        return cv2.GaussianBlur(mask, (soft, soft), 0) if soft > 1 else mask

    def _occlude(self, rng: np.random.Generator, canvas: Canvas) -> None:
        for i, (x0, y0, x1, y1) in enumerate(canvas.boxes):
            if rng.random() > 0.22 or canvas.visible[i] < 0.5:
                continue
            w, h = x1 - x0, y1 - y0
            mask = np.zeros(canvas.image.shape[:2], np.uint8)
            draw = rng.random()
            if draw < 0.25:
                # Something before the mouth and chin: a scarf, a microphone, the head in front.
                a, b = (x0 - 0.1 * w, y0 + h * rng.uniform(0.58, 0.8)), (x1 + 0.1 * w, y1 + 0.2 * h)
            elif draw < 0.4:
                # Before the eyes or the brow.
                top = rng.uniform(-0.1, 0.3)
                a, b = (x0, y0 + h * top), (x1, y0 + h * (top + rng.uniform(0.12, 0.22)))
            elif draw < 0.6:
                side = x0 - 0.3 * w if rng.random() < 0.5 else x1 - 0.05 * w - w * rng.uniform(0, 0.3)
                a, b = (side, y0 - 0.2 * h), (side + 0.35 * w, y1 + 0.2 * h)
            else:
                centre = (x0 + w * rng.uniform(0, 1), y0 + h * rng.uniform(0, 1))
                size = rng.uniform(0.1, 0.28, size=2) * (w, h)
                a, b = centre - size, centre + size
            corner, opposite = (int(a[0]), int(a[1])), (int(b[0]), int(b[1]))
            if rng.random() < 0.5:
                cv2.rectangle(mask, corner, opposite, 255, -1)
            else:
                middle = ((corner[0] + opposite[0]) // 2, (corner[1] + opposite[1]) // 2)
                axes = (max(abs(opposite[0] - corner[0]) // 2, 1), max(abs(opposite[1] - corner[1]) // 2, 1))
                cv2.ellipse(mask, middle, axes, rng.uniform(-30, 30), 0, 360, 255, -1)
            if rng.random() < 0.6:
                paint = np.broadcast_to(rng.integers(0, 256, 3).astype(np.uint8), canvas.image.shape)
            else:
                paint = np.roll(canvas.image, tuple(rng.integers(40, self.size - 40, 2)), (0, 1))
            for j, box in enumerate(canvas.boxes):
                canvas.visible[j] *= 1 - _covered(mask, box)
            canvas.image[mask > 0] = paint[mask > 0]

    def _finish(self, canvas: Canvas, smallest: float) -> dict[str, Any]:
        boxes, points = np.zeros((MAX_FACES, 4), np.float32), np.zeros((MAX_FACES, 5, 2), np.float32)
        kind = np.zeros(MAX_FACES, np.int8)
        order = [i for i in np.argsort(canvas.visible)[::-1] if canvas.visible[i] > 0.08]
        for row, i in enumerate(order[:MAX_FACES]):
            box = canvas.boxes[i]
            boxes[row], points[row] = box, canvas.points[i]
            size = math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
            # A face larger than the frame is cut by it and still to be found.
            seen = canvas.visible[i] >= (0.3 if size > 0.7 * self.size else 0.55)
            kind[row] = 1 if seen and size >= smallest else 2
        return {"image": canvas.image, "boxes": boxes, "points": points, "kind": kind}


def _to_pixels(matrix: np.ndarray, scale: float) -> np.ndarray:
    """Turn a matrix on continuous coordinates of the full picture into OpenCV's, on centres of the shrunken one."""
    warp = matrix.copy()
    warp[:, :2] *= scale
    warp[:, 2] += warp[:, :2] @ np.array([0.5, 0.5]) - 0.5
    return warp


def _covered(mask: np.ndarray, box: np.ndarray) -> float:
    """Return the share of `box` under `mask`, which is zero outside the picture."""
    x0, y0, x1, y1 = (round(float(v)) for v in box)
    area = max(x1 - x0, 1) * max(y1 - y0, 1)
    part = mask[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)]
    return float(part.sum(dtype=np.int64)) / (255 * area)


def _erase(rng: np.random.Generator, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return a copy without its faces."""
    image = image.copy()
    height, width = image.shape[:2]
    for x, y, w, h in boxes:
        x0, y0 = max(int(x - 0.15 * w), 0), max(int(y - 0.12 * h), 0)
        x1, y1 = min(int(x + 1.15 * w) + 1, width), min(int(y + 1.12 * h) + 1, height)
        if x1 <= x0 or y1 <= y0:
            continue
        size = (x1 - x0, y1 - y0)
        draw = rng.random() if min(size) >= 24 else rng.uniform(0.35, 1)
        if draw < 0.35:
            # Skin, eyes and mouth in the wrong places: what hands and crumpled cloth look like to it.
            patch = _shuffle(rng, image[y0:y1, x0:x1])
        elif draw < 0.5:
            # The middle of the cheeks, or any colour: a head without features is no face.
            colour = image[int((y0 + y1) / 2), int((x0 + x1) / 2)] if rng.random() < 0.6 else rng.integers(0, 256, 3)
            patch = np.empty((size[1], size[0], 3), np.uint8)
            patch[:] = np.asarray(colour, np.uint8)
        elif draw < 0.72 and height - y1 > 4:
            # Clothes and shoulders.
            left = int(rng.integers(0, max(width - size[0], 0) + 1))
            patch = cv2.resize(image[y1:, left : left + size[0]], size, interpolation=cv2.INTER_LINEAR)
        elif draw < 0.82:
            # An ear and its side, twice: skin, hair and an outline, and no eyes.
            strip = image[y0:y1, x0 : x0 + max(size[0] // 7, 1)]
            patch = cv2.resize(strip, size, interpolation=cv2.INTER_LINEAR)
        else:
            patch = texture(rng, max(size))[: size[1], : size[0]]
        if rng.random() < 0.5:
            mask = np.zeros((size[1], size[0]), np.uint8)
            cv2.ellipse(mask, (size[0] // 2, size[1] // 2), (size[0] // 2 + 1, size[1] // 2 + 1), 0, 0, 360, 255, -1)
            image[y0:y1, x0:x1][mask > 0] = patch[mask > 0]
        else:
            image[y0:y1, x0:x1] = patch
    return image


def _shuffle(rng: np.random.Generator, patch: np.ndarray) -> np.ndarray:
    """Return `patch` with its parts in another order, each turned."""
    height, width = patch.shape[:2]
    rows, columns = int(rng.integers(2, 4)), int(rng.integers(2, 4))
    ys, xs = np.linspace(0, height, rows + 1).astype(int), np.linspace(0, width, columns + 1).astype(int)
    cells = [(i, j) for i in range(rows) for j in range(columns)]
    # A shift by at least one keeps no part in its place.
    shift = int(rng.integers(1, len(cells)))
    out = np.empty_like(patch)
    for k, (i, j) in enumerate(cells):
        a, b = cells[(k + shift) % len(cells)]
        part = np.rot90(patch[ys[a] : ys[a + 1], xs[b] : xs[b + 1]], int(rng.integers(1, 4)))
        to = (int(xs[j + 1] - xs[j]), int(ys[i + 1] - ys[i]))
        out[ys[i] : ys[i + 1], xs[j] : xs[j + 1]] = cv2.resize(np.ascontiguousarray(part), to)
    return out
