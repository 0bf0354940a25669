"""Aligned face pictures, degraded while they are read."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from bfr_core.degrade.chain import degrade, draw
from bfr_core.degrade.presets import DegradePreset
from bfr_core.errors import InputMediaError
from bfr_core.media.pictures import read_picture

MILD = DegradePreset(
    "mild", blur_sigma=(0.1, 2.5), downscale=(1.0, 4.0), noise_sigma=(0.0, 10.0), jpeg_quality=(70, 100)
)
"""Photos that are nearly good. The papers' ranges hardly hold any, and a net that never saw one smooths them."""

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def list_images(folders: list[Path]) -> list[Path]:
    """Return the pictures below `folders`, sorted.

    Raises:
        InputMediaError: a folder is missing or holds no picture.
    """
    files: list[Path] = []
    for folder in folders:
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not found:
            raise InputMediaError(
                f"No training pictures in {folder}",
                found=f"the folder {'holds none' if folder.is_dir() else 'does not exist'}; "
                f"expected files ending in {', '.join(sorted(SUFFIXES))}",
                kept="Nothing was started",
                todo="Name a folder of aligned face pictures with --data",
            )
        files += found
    return files


def read_rgb(path: Path) -> np.ndarray:
    """Read one picture as (H, W, 3) uint8 RGB.

    Raises:
        InputMediaError: the file cannot be read; the message names it.
    """
    return read_picture(path).rgb


@dataclass(frozen=True, slots=True)
class Sample:
    """One training pair."""

    low: np.ndarray
    """(S, S, 3) uint8."""
    truth: np.ndarray
    enlarged: bool
    """The truth was enlarged from a smaller picture and says nothing about the finest detail."""


class FacePairs:
    """Draw (degraded, truth) pairs, the n-th of them the same on every run.

    Args:
        files: aligned faces.
        weights: how often each is drawn, relative to the others.
        preset: degradation ranges.
        size: side the faces are brought to, and the scale degradations are drawn at.
        crop: side of the square cut out of each face; `size` for the whole face.
        seed: together with the index it decides everything random.
        mild: share of the pictures degraded by MILD instead of `preset`.
    """

    _MARGIN = 24
    """Context around a crop, so that the blur at its edge sees what it would see in the whole face."""

    def __init__(
        self,
        files: list[Path],
        weights: list[float],
        preset: DegradePreset,
        *,
        size: int,
        crop: int,
        seed: int,
        mild: float = 0.0,
    ) -> None:
        self.images: list[np.ndarray] = []
        self.enlarged: list[bool] = []
        for path in files:
            image = read_rgb(path)
            side = image.shape[0]
            self.enlarged.append(side < size)
            interpolation = cv2.INTER_CUBIC if side < size else cv2.INTER_AREA
            self.images.append(image if side == size else cv2.resize(image, (size, size), interpolation=interpolation))
        self.probabilities = np.asarray(weights, np.float64) / np.sum(weights)
        self.preset, self.size, self.crop, self.seed, self.mild = preset, size, crop, seed, mild

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.Generator(np.random.PCG64([self.seed, index]))
        which = int(rng.choice(len(self.images), p=self.probabilities))
        image = self.images[which]
        if self.crop < self.size:
            reach = self.crop + 2 * self._MARGIN
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
        preset = MILD if rng.random() < self.mild else self.preset
        low = degrade(image, draw(preset, int(rng.integers(2**62))))
        if self.crop < self.size:
            inside = slice(self._MARGIN, self._MARGIN + self.crop)
            image, low = image[inside, inside], low[inside, inside]
        return Sample(low, image, self.enlarged[which])

    def _tilt(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Turn, scale and shift a little, as an imperfect alignment would."""
        matrix = cv2.getRotationMatrix2D((self.size / 2, self.size / 2), rng.normal(0, 3), rng.uniform(0.95, 1.08))
        matrix[:, 2] += rng.normal(0, 6, size=2)
        return cv2.warpAffine(
            image, matrix, (self.size, self.size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
        )


def to_tensor(images: list[np.ndarray]) -> Tensor:
    """Stack (S, S, 3) uint8 pictures into (B, 3, S, S) float32 [0, 1], channels last in memory."""
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return batch.float().div_(255.0).contiguous(memory_format=torch.channels_last)


class Prefetch:
    """Prepare batches on one thread while the network works.

    An exception on the thread is raised again, with its cause, by the call that waits for the batch.
    """

    def __init__(self, pairs: FacePairs, start: int, batch: int, depth: int = 4) -> None:
        self._queue: queue.Queue[tuple[Tensor, Tensor, Tensor] | BaseException] = queue.Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(pairs, start, batch), daemon=True)
        self._thread.start()

    def _work(self, pairs: FacePairs, index: int, batch: int) -> None:
        try:
            while not self._stop.is_set():
                samples = [pairs[index + offset] for offset in range(batch)]
                index += batch
                item = (
                    to_tensor([sample.low for sample in samples]),
                    to_tensor([sample.truth for sample in samples]),
                    torch.tensor([sample.enlarged for sample in samples]),
                )
                self._put(item)
        except BaseException as error:
            self._put(error)

    def _put(self, item: tuple[Tensor, Tensor, Tensor] | BaseException) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.2)
                return
            except queue.Full:
                continue

    def next(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the next (degraded, truth, enlarged) batch."""
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise RuntimeError("The data thread failed") from item
        return item

    def close(self) -> None:
        """Stop the thread."""
        self._stop.set()
        self._thread.join(timeout=5)
