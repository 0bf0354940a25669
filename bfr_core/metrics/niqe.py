"""NIQE: how far the local statistics of a picture are from those of untouched photographs, without a truth."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from ..errors import InputMediaError, WeightsError
from ..media.atomic import publish
from ..media.luma import BT601
from ..models.checkpoints.arrays import load_arrays

_BLOCK = 96
_FEATURES = 36
_SHARP = 0.75
"""Share of a picture's sharpest block that a block must reach to count as pristine (Sec. II-C of the paper)."""
_PUBLISHED = (17.32876552816881, 1.6309188316421013)
"""Sum of the mean and trace of the covariance of the published model."""
_OWN = "own pristine model"
_Y = tuple(219 * share for share in BT601)
"""Weights of R, G, B in the Y of MATLAB's rgb2ycbcr, whose black is 16."""


@dataclass(frozen=True, slots=True)
class Niqe:
    """The Gaussian model of pristine pictures against which a picture's own is held; lower is more natural.

    Source: Mittal et al., "Making a Completely Blind Image Quality Analyzer", 2013, Eq. 1-10, in the BasicSR protocol:
    the rounded Y of MATLAB's YCbCr, no border crop, 96x96 blocks without overlap, and the same blocks again after
    MATLAB's antialiased bicubic reduction to half. Pictures are held in single precision, as there: flat areas are
    then exactly zero once normalised, where double precision leaves noise whose signs the fit would count.
    """

    mean: Tensor
    """(36,) float64."""
    covariance: Tensor
    """(36, 36) float64."""
    window: Tensor
    """(7, 7) float64, adds up to 1."""
    model: str
    """`published`, `own` or `another`, and `pristine model`: figures of different models do not compare."""

    @classmethod
    def load(cls, path: Path) -> Niqe:
        """Read a model: `niqe_pris_params.npz` as BasicSR ships it, or one that `save` wrote.

        Raises:
            WeightsError: it is missing, damaged, or no such model.
        """
        if not path.is_file():
            raise _no_model(path, f"no such file in {path.parent}")
        keys = ("mu_pris_param", "cov_pris_param", "gaussian_window")
        try:
            arrays = load_arrays(path)
        except WeightsError as error:
            raise _no_model(path, error.found) from error
        if missing := [key for key in keys if key not in arrays or arrays[key].dtype.kind != "f"]:
            raise _no_model(path, f"no numbers called {', '.join(missing)} among its arrays ({', '.join(arrays)})")
        mean, covariance, window = (torch.from_numpy(arrays[key].astype(np.float64)) for key in keys)
        own = str(arrays.get("model")) == _OWN
        shapes = mean.numel(), tuple(covariance.shape), tuple(window.shape)
        if shapes != (_FEATURES, (_FEATURES, _FEATURES), (7, 7)):
            raise _no_model(path, f"mean of {shapes[0]}, covariance {shapes[1]} and window {shapes[2]}")
        if not all(bool(value.isfinite().all()) for value in (mean, covariance, window)):
            raise _no_model(path, "values that are not finite")
        mean = mean.flatten()
        known = abs(float(mean.sum()) - _PUBLISHED[0]) + abs(float(covariance.trace()) - _PUBLISHED[1]) < 1e-6
        model = _OWN if own else "published pristine model" if known else "another pristine model"
        return cls(mean, covariance, window, model)

    @classmethod
    def fit(cls, images: Iterable[Tensor]) -> Niqe:
        """Fit a pristine model of your own: the statistics of the sharp blocks of good pictures.

        Its figures order pictures but are not those of the published model, so they carry its name.

        Args:
            images: untouched pictures, (3, H, W) or (B, 3, H, W) RGB [0, 1] each; some dozens, better hundreds.

        Raises:
            InputMediaError: a picture is smaller than a block, or too few blocks are sharp for 36 features.
        """
        window = _gaussian_window()
        rows = []
        for image in images:
            for single in image.reshape(-1, *image.shape[-3:]):
                features, sharpness = _features(_luma(single), window)
                rows.append(features[sharpness > _SHARP * sharpness.max()])
        blocks = torch.cat(rows) if rows else torch.empty(0, _FEATURES)
        blocks = blocks[blocks.isfinite().all(1)]
        if len(blocks) <= _FEATURES:
            raise InputMediaError(
                "Cannot fit a pristine model for NIQE",
                found=f"{len(blocks)} sharp blocks of {_BLOCK}x{_BLOCK} in {len(rows)} pictures; "
                f"expected more than {_FEATURES}",
                kept="Nothing was written",
                todo="Give more or larger sharp pictures",
            )
        return cls(blocks.mean(0), torch.cov(blocks.T), window, _OWN)

    def save(self, path: Path) -> None:
        """Write the model as `.npz`, in the layout of `niqe_pris_params.npz` and with its name.

        Raises:
            OutputMediaError: it cannot be written.
        """
        with publish(path) as file:
            np.savez(
                file,
                mu_pris_param=self.mean.numpy()[None],
                cov_pris_param=self.covariance.numpy(),
                gaussian_window=self.window.numpy(),
                model=np.array(self.model),
            )

    def __call__(self, image: Tensor) -> Tensor:
        """Return the NIQE of each picture: (B, 3, H, W) RGB [0, 1] to (B,) float64 on the CPU.

        Raises:
            InputMediaError: a picture holds fewer than two blocks of 96x96 with any texture.
        """
        return torch.stack([self._quality(single) for single in image])

    def _quality(self, image: Tensor) -> Tensor:
        features, _ = _features(_luma(image), self.window)
        mean = features.nanmean(0)
        whole = features[features.isfinite().all(1)]
        if len(whole) < 2:
            raise InputMediaError(
                "Cannot measure NIQE",
                found=f"the picture of {image.shape[-1]}x{image.shape[-2]} holds {len(whole)} blocks of "
                f"{_BLOCK}x{_BLOCK} with texture; expected at least 2",
                kept="The picture is unchanged",
                todo="Measure a larger picture that is not flat",
            )
        away = self.mean - mean
        # NumPy's cut-off, not torch's larger one, because the published figures were made with it.
        inverse = torch.linalg.pinv((self.covariance + torch.cov(whole.T)) / 2, rtol=1e-15)
        return (away @ inverse @ away).sqrt()


def _no_model(path: Path, found: str) -> WeightsError:
    return WeightsError(
        f"Cannot use the NIQE model {path}",
        found=f"{found}; expected mu_pris_param (36), cov_pris_param (36, 36) and gaussian_window (7, 7)",
        kept="Nothing was loaded",
        todo="Get niqe_pris_params.npz of BasicSR (github.com/XPixelGroup/BasicSR, basicsr/metrics), or fit a model of "
        "your own with `bfr models fit-niqe`",
    )


def _luma(image: Tensor) -> Tensor:
    """Return the rounded Y of MATLAB's YCbCr, in [16, 235]: (3, H, W) to (H, W) float32."""
    levels = ((image.detach().cpu().float().clamp(0, 1) * 255).round() / 255).double()
    luma = (torch.einsum("chw,c->hw", levels, levels.new_tensor(_Y)) + 16) / 255
    return (luma.float() * 255).round()


def _gaussian_window() -> Tensor:
    """Return the 7x7 window with sigma 7/6 that the published model was made with."""
    axis = torch.arange(-3, 4, dtype=torch.float64)
    row = torch.exp(-(axis**2) / (2 * (7 / 6) ** 2))
    window = row[:, None] * row[None, :]
    return window / window.sum()


def _features(luma: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
    """Return the 36 features of every block, (N, 36), NaN where a block has no texture, and its sharpness, (N,)."""
    rows, columns = luma.shape[0] // _BLOCK, luma.shape[1] // _BLOCK
    if not rows * columns:
        raise InputMediaError(
            "Cannot measure NIQE",
            found=f"the picture is {luma.shape[1]}x{luma.shape[0]}; expected at least one block of {_BLOCK}x{_BLOCK}",
            kept="The picture is unchanged",
            todo="Measure a larger picture; enlarging one changes its figure",
        )
    luma = luma[: rows * _BLOCK, : columns * _BLOCK]
    found, sharpness = [], None
    for size in (_BLOCK, _BLOCK // 2):
        mean = _filter(luma, window)
        deviation = (_filter(luma * luma, window) - mean * mean).abs().sqrt()
        normalised = _blocks((luma - mean) / (deviation + 1), size).double()  # Eq. 1
        found.append(_block_features(normalised))
        if sharpness is None:
            sharpness = _blocks(deviation, size).double().mean((1, 2))
            luma = _halve(luma)
    assert sharpness is not None  # noqa: S101 - the first of two passes sets it
    return torch.cat(found, 1), sharpness


def _filter(plane: Tensor, window: Tensor) -> Tensor:
    # OpenCV, because torch's convolution in double precision took four fifths of this metric's time.
    kernel = window.numpy()
    filtered = cv2.filter2D(plane.double().numpy(), cv2.CV_64F, kernel, borderType=cv2.BORDER_REPLICATE)
    return torch.from_numpy(filtered).float()


def _blocks(plane: Tensor, size: int) -> Tensor:
    return plane.unfold(0, size, size).unfold(1, size, size).flatten(0, 1)


def _halve(plane: Tensor) -> Tensor:
    """Reduce to half as MATLAB's `imresize(plane, 0.5)`: a cubic of a = -0.5 stretched by 2, mirrored at the border.

    The source position of every output pixel lies half-way between two pixels, so that one set of 8 weights serves all.
    """
    distance = (torch.arange(8, dtype=torch.float64) - 3.5).abs() / 2
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = torch.where(distance <= 1, near, far)
    weights = weights / weights.sum()
    plane = plane.double()
    for _ in range(2):
        # MATLAB mirrors with the edge pixel repeated, which no padding mode of torch does.
        padded = torch.cat([plane[:3].flip(0), plane, plane[-3:].flip(0)])
        plane = (padded.unfold(0, 8, 2) @ weights).T
    return plane.float()


def _block_features(blocks: Tensor) -> Tensor:
    """Return 18 features of each normalised block: shape and spread of its values and of four neighbour products."""
    shape, left, right = fit_aggd(blocks)
    features = [shape, (left + right) / 2]
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
        shape, left, right = fit_aggd(blocks * blocks.roll(shift, (1, 2)))
        mean = (right - left) * torch.exp(torch.lgamma(2 / shape) - torch.lgamma(1 / shape))  # Eq. 8
        features += [shape, mean, left, right]
    return torch.stack(features, 1)


def fit_aggd(blocks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Fit an asymmetric generalised Gaussian to each block by its moments (Eq. 4-7, Lasmar et al.).

    Shapes: blocks (N, ...) float64; returns shape, left and right scale, (N,) each. The shape is searched in steps of
    0.001 from 0.2 to 10, as published; the scales are NaN where a block has no negative or no positive value.
    """
    values = blocks.flatten(1)
    squares = values * values
    left = (squares * (values < 0)).sum(1) / (values < 0).sum(1)
    right = (squares * (values > 0)).sum(1) / (values > 0).sum(1)
    left, right = left.sqrt(), right.sqrt()
    ratio = left / right
    r = values.abs().mean(1) ** 2 / squares.mean(1)
    r = r * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    shapes = 0.2 + 0.001 * torch.arange(9801, dtype=values.dtype)
    # The ratio rises with the shape, so that the nearest entry is one of two neighbours.
    table = torch.exp(2 * torch.lgamma(2 / shapes) - torch.lgamma(1 / shapes) - torch.lgamma(3 / shapes))
    above = torch.searchsorted(table, r.nan_to_num(0.0)).clamp(1, len(table) - 1)
    nearer = (table[above - 1] - r).abs() <= (table[above] - r).abs()
    shape = shapes[torch.where(nearer | r.isnan(), above - 1, above)]
    scale = torch.exp(0.5 * (torch.lgamma(1 / shape) - torch.lgamma(3 / shape)))
    return shape, left * scale, right * scale
