"""The grain of a picture, measured around a face and put back into it.

A restorer takes the grain of film and paper for noise, and among grain a smooth face looks pasted. So the grain is
measured where the picture is flat: how strong it is at each brightness, how it goes together from pixel to pixel and
from colour to colour. What the restored face lacks of it is drawn anew, from a seed; nothing of the picture itself
comes back that way, so neither do its blocks, its rings or its noise from a codec, which lie unevenly: where a picture
has places that hold nothing at all, it has no grain.

Source: ours. Films are given grain by strength and spectrum likewise in AV1 (Norkin and Birkbeck, "Film grain synthesis
for AV1 video codec", DCC 2018); flat patches follow Liu et al., "Single-image noise level estimation" (2013).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from ..media.luma import luma

PATCH = 16
"""Side of the patches in pixels: grain that goes together over more than half of it is not grain."""
_PATCHES, _SPECTRA = 1500, 400
"""About so many are looked at, and so many make the spectrum: strength is then known to 3 %."""
_LEVELS = 10
"""Steps of brightness at which strength is measured."""
_FEW = 6
"""Flat patches below which nothing is said of a brightness, or of a face."""
_NONE, _FULL = 2.0 / 255, 2.8 / 255
"""Strength up to which there is no grain worth speaking of (a camera's noise, rounding, a good JPEG), and from which on
all of it is put back: a film must not jump where it crosses a limit."""
_MOST = 40 / 255
"""What is stronger is a pattern."""
_FLAT, _LOWEST = 0.1, 1.28
"""Share of the patches of a brightness, the flattest, that tell what grain there is, and how many standard deviations
below the mean of a normal distribution that share ends."""
_ALIKE = 2.5
"""A patch varies by up to so much more than those and may hold grain alone, until it is known how much grain varies."""
_SEEN, _STEP = 0.12, 1.45
"""Share of all flat patches from which the strength at their brightness is certain, and most by which it differs from
one step of brightness to the next."""
_SHARE, _LEAST, _FLOOR = (0.27, 0.34), 0.02, (0.47, 0.55)
"""Share of patches that are alike up to which there is no grain, and from which there is for sure. The same of the
variance of the flattest 2 %, in that of the flattest 20 %."""
_EVEN, _STRAIGHT = 6.0, 0.55
"""Most by which quarters of a patch may differ in variance, and most of its slopes that may point one way."""
_CLIPPED = 0.02
"""Distance from black and white within which grain is cut off."""
_SMOOTHED = (0.2, 0.4)
"""Power of a face's own grain, as a share of what its brightness lets expect, up to which the face was smoothed before
and gets all of it, and from which on it has what it is to have."""
_TILE = 320
"""Largest side of what is drawn; larger faces repeat it, which nobody sees of noise."""


@dataclass(frozen=True, slots=True)
class Grain:
    """How a picture is grained."""

    spectrum: Tensor
    """(PATCH, PATCH, C, C) complex: power of each frequency and what its colours share, of unit variance; of gray
    pictures C is 1, else 3."""
    levels: Tensor
    """(_LEVELS,) standard deviation at brightnesses from 0 to 1."""

    def at(self, light: Tensor) -> Tensor:
        """Return the strength at each brightness, in the shape of `light`."""
        place = light.clamp(0, 1) * (_LEVELS - 1)
        low = place.floor().clamp_(0, _LEVELS - 2)
        share = place - low
        index = low.long()
        return self.levels[index] * (1 - share) + self.levels[index + 1] * share


@dataclass(frozen=True, slots=True)
class _Patches:
    """Patches of a picture, each less its smooth part."""

    rest: Tensor
    """(N, C, PATCH, PATCH)."""
    light: Tensor
    """(N,) mean brightness."""
    power: Tensor
    """(N,) variance, the mean of the colours'."""
    flat: Tensor
    """(N,) bool: it may hold grain alone."""
    clipped: Tensor
    """(N,) bool: it reaches black or white, where grain is cut off."""
    corners: Tensor
    """(N, 2) int64: row and column in the picture."""


def measure(picture: Tensor) -> Grain | None:
    """Return the grain of a picture, None where it has none.

    Shapes: picture (3, H, W) in [0, 1].
    """
    if min(picture.shape[-2:]) < PATCH:
        return None
    return _grain(_patches(picture))


def add_grain(
    before: Tensor, after: Tensor, faces: Sequence[tuple[tuple[int, int, int, int], Tensor]], seeds: Sequence[int],
    strength: float,
) -> None:  # fmt: skip
    """Put the grain around faces back into them, in place.

    Shapes: before and after (3, H, W); a weight has the shape of its box.

    Args:
        before: the picture without the faces.
        after: with them; changed where a weight is above zero.
        faces: of each its box, x0, y0, x1, y1 in pixels, and how much of it is shown at each pixel.
        seeds: of each.
        strength: how much of the grain, 0 to 1.
    """
    total = before.new_zeros(before.shape[-2:])
    for box, weight in faces:
        total[_slices(box)] += weight
    total.clamp_(max=1)
    for (box, weight), seed in zip(faces, seeds, strict=True):
        if bool(weight.any()):
            _grain_face(before, after, total, box, weight, seed, strength)


def _grain_face(
    before: Tensor,
    after: Tensor,
    total: Tensor,
    box: tuple[int, int, int, int],
    weight: Tensor,
    seed: int,
    strength: float,
) -> None:
    height, width = before.shape[-2:]
    around = _around(box, height, width)
    if min(around[2] - around[0], around[3] - around[1]) < PATCH:
        return
    found = _patches(before[(..., *_slices(around))])
    grain = _grain(found)
    if grain is None:
        return
    shown = before.new_zeros(height, width)
    shown[_slices(box)] = weight
    root = _root(grain, _left(found, grain, after, shown, around))
    if root is None:
        return
    noise = _drawn(root, weight.shape, seed).to(before)
    # What the frame still shows of itself has its grain: where a share w of a face is shown, 1 - (1 - w)^2 is missing.
    here = _slices(box)
    most = total[here]
    missing = ((1 - (1 - most) ** 2) * (weight / most.clamp(min=1e-6))).sqrt()
    light = _calm(luma(after[(..., *here)])[0])
    region = after[(..., *here)]
    low, high = region.clamp(max=0), region.clamp(min=1)
    grained = region + strength * missing * grain.at(light) * noise
    after[(..., *here)] = torch.where(weight > 0, torch.minimum(torch.maximum(grained, low), high), region)


def _slices(box: tuple[int, int, int, int]) -> tuple[slice, slice]:
    return slice(box[1], box[3]), slice(box[0], box[2])


def _around(box: tuple[int, int, int, int], height: int, width: int) -> tuple[int, int, int, int]:
    """Return a box of twice the size, and no less than 16 patches wide and high, as far as the picture goes."""
    x0, y0, x1, y1 = box
    half = max(x1 - x0, y1 - y0, 8 * PATCH)
    x, y = (x0 + x1) // 2, (y0 + y1) // 2
    return max(x - half, 0), max(y - half, 0), min(x + half, width), min(y + half, height)


def _patches(picture: Tensor) -> _Patches:
    """Cut a picture of at least one patch into patches, about `_PATCHES` of them, and tell which are flat."""
    height, width = picture.shape[-2:]
    step = max(PATCH // 2, math.ceil(math.sqrt(height * width / _PATCHES)))
    gray = bool((picture[0] == picture[1]).all() and (picture[0] == picture[2]).all())
    cut = (picture[:1] if gray else picture).unfold(1, PATCH, step).unfold(2, PATCH, step)
    rows, columns = cut.shape[1:3]
    cut = cut.permute(1, 2, 0, 3, 4).flatten(0, 1).flatten(2)
    smooth = _smooth_basis().to(picture)
    rest = cut - (cut @ smooth) @ smooth.T
    power = rest.square().sum(-1).mean(1) / (PATCH * PATCH - smooth.shape[1])
    light = _light(cut.unflatten(-1, (PATCH, PATCH))).flatten(1)
    mean = light.mean(1)
    clipped = ((light < _CLIPPED) | (light > 1 - _CLIPPED)).float().mean(1) > 0.02
    rest = rest.unflatten(-1, (PATCH, PATCH))
    shade = _light(rest)[:, 0]
    half = PATCH // 2
    quarters = rest.square().mean(1).unflatten(1, (2, half)).unflatten(3, (2, half)).mean((2, 4)).flatten(1)
    uneven = quarters.amax(1) > _EVEN * quarters.amin(1).clamp(min=1e-12)
    x, y = shade[:, :-1, 1:] - shade[:, :-1, :-1], shade[:, 1:, :-1] - shade[:, :-1, :-1]
    xx, yy, xy = x.square().mean((1, 2)), y.square().mean((1, 2)), (x * y).mean((1, 2))
    straight = ((xx - yy) ** 2 + 4 * xy**2).sqrt() > _STRAIGHT * (xx + yy).clamp(min=1e-12)
    corners = torch.cartesian_prod(torch.arange(rows) * step, torch.arange(columns) * step).reshape(-1, 2)
    return _Patches(rest, mean, power, ~(clipped | uneven | straight), clipped, corners)


def _grain(patches: _Patches) -> Grain | None:
    """Return the grain that patches show."""
    step = (patches.light.clamp(0, 1) * (_LEVELS - 1)).round().long()
    steps = [here for level in range(_LEVELS) if int((here := (step == level) & patches.flat).sum()) >= _FEW]
    if not steps:
        return None
    used = _alike(patches, steps, _ALIKE)
    sure = _sure(patches, steps, used)
    if not sure:
        return None
    spectrum = _spectrum(patches.rest[used], patches.power[used])
    # The variance of a patch varies by so much where there is grain alone: what varies more is something else.
    total = float(spectrum.diagonal(dim1=-2, dim2=-1).real.sum())
    spread = math.sqrt(2 * float(spectrum.abs().square().sum())) / total
    even = max(1 - _LOWEST * spread, 0.3)
    used = _alike(patches, steps, (1 + 2 * spread) / even)
    spectrum = _spectrum(patches.rest[used], patches.power[used])
    counts = torch.bincount(step[used], minlength=_LEVELS).to(patches.power)
    sums = torch.bincount(step[used], patches.power[used], _LEVELS)
    # Of neighbouring brightnesses more is known together, and what was not seen is taken from the nearest.
    away = (torch.arange(_LEVELS)[:, None] - torch.arange(_LEVELS)).abs().to(counts)
    near = torch.exp(-0.5 * (away / 0.6) ** 2) + 1e-9 / (1 + away) ** 8
    levels = ((near @ sums) / (near @ counts)).sqrt()
    # Where hardly a patch of that brightness is flat, as in hair, texture is taken for grain.
    seen = torch.where(counts >= _SEEN * counts.sum(), levels, torch.inf)
    levels = torch.minimum(levels, (seen * _STEP**away).amin(1))
    levels = levels * _ramp(levels, _NONE, _FULL) * sure
    return Grain(spectrum, levels) if bool((levels > 0).any()) else None


def _alike(patches: _Patches, steps: Sequence[Tensor], ratio: float) -> Tensor:
    """Return which patches vary by up to `ratio` of the flattest of their brightness, (N,) bool."""
    used = torch.zeros_like(patches.flat)
    for here in steps:
        used |= here & (patches.power <= ratio * torch.quantile(patches.power[here], _FLAT))
    return used


def _sure(patches: _Patches, steps: Sequence[Tensor], used: Tensor) -> float:
    """Return how sure it is that patches show grain, 0 to 1, and not the texture of things or what a codec left.

    Grain is everywhere, so a good part of all patches is alike, and none has much less than the others.
    """
    usable = ~patches.clipped
    share = float(used.sum()) / max(int(usable.sum()), 1)
    edges = [torch.quantile(patches.power[here], torch.tensor([_LEAST, 2 * _FLAT])) for here in steps]
    weights = torch.tensor([float(here.sum()) for here in steps])
    floor = torch.stack([low / high.clamp(min=1e-12) for low, high in edges])
    overall = patches.power[used].median().sqrt()
    strong = float(_ramp(overall, _NONE, _FULL)) * float(overall < _MOST)
    return strong * _rising(share, _SHARE) * _rising(float((floor * weights).sum() / weights.sum()), _FLOOR)


def _ramp(value: Tensor, low: float, high: float) -> Tensor:
    return ((value - low) / (high - low)).clamp(0, 1)


def _rising(value: float, span: tuple[float, float]) -> float:
    return float(_ramp(torch.tensor(value), *span))


def _spectrum(rest: Tensor, power: Tensor) -> Tensor:
    """Return the mean cross power of patches that were brought to unit variance, (PATCH, PATCH, C, C) complex."""
    every = max(len(rest) // _SPECTRA, 1)
    rest, power = rest[::every], power[::every]
    unit = torch.fft.fft2(rest / power.clamp(min=1e-12).sqrt()[:, None, None, None]) / PATCH
    # In real numbers: products of many small complex matrices take twenty times as long.
    real, imaginary = (part.contiguous() for part in torch.view_as_real(unit.permute(2, 3, 1, 0)).unbind(-1))
    power = real @ real.mT + imaginary @ imaginary.mT
    return torch.complex(power, imaginary @ real.mT - real @ imaginary.mT) / len(rest)


def _left(
    found: _Patches, grain: Grain, after: Tensor, shown: Tensor, around: tuple[int, int, int, int]
) -> Tensor | None:
    """Return the spectrum of what grain a restored face has of its own, relative to that of the picture.

    It is looked at where the picture was flat, as elsewhere detail would be taken for it. Even there skin has some,
    which the input shows beside its grain.
    """
    rows, columns = (found.corners[:, axis] + around[1 - axis] for axis in (0, 1))
    middle = shown[rows + PATCH // 2, columns + PATCH // 2]
    inside = (found.flat & (middle > 0.9 * shown.max()) & (grain.at(found.light) > 0)).nonzero()[:, 0]
    if len(inside) < _FEW:
        return None
    inside = inside[:: max(len(inside) // _SPECTRA, 1)]
    places = zip(rows[inside].tolist(), columns[inside].tolist(), strict=True)
    colours = found.rest.shape[1]
    cut = torch.stack([after[:colours, row : row + PATCH, column : column + PATCH] for row, column in places])
    smooth = _smooth_basis().to(after)
    flat = cut.flatten(2)
    rest = (flat - (flat @ smooth) @ smooth.T).unflatten(-1, (PATCH, PATCH))
    power = rest.square().mean((1, 2, 3))
    calm = power <= torch.quantile(power, 0.5)  # the other half may show what the restorer added
    expected = grain.at(found.light[inside][calm]).square()
    own = _spectrum(found.rest[inside][calm], expected)
    # A face that has less grain than its brightness tells, as in print, is to keep it so; one with hardly any was
    # smoothed before.
    share = float(own.diagonal(dim1=-2, dim2=-1).real.mean())
    share += (1 - share) * _rising(-share, (-_SMOOTHED[1], -_SMOOTHED[0]))
    goal = grain.spectrum * min(share, 1.0)
    return grain.spectrum - goal + _spectrum(rest[calm], expected) - _positive(own - goal)


def _positive(spectrum: Tensor) -> Tensor:
    """Return the part of Hermitian matrices that is a power."""
    values, vectors = torch.linalg.eigh(spectrum)
    return (vectors * values.clamp(min=0)[..., None, :]) @ vectors.mH


def _root(grain: Grain, left: Tensor | None) -> Tensor | None:
    """Return what white noise is multiplied by at each frequency, (PATCH, PATCH, C, C); None where nothing lacks."""
    missing = grain.spectrum if left is None else grain.spectrum - left
    values, vectors = torch.linalg.eigh(missing.to(torch.complex128))
    values = values.clamp(min=0)
    if float(values.mean()) < 0.01:  # of the variance of one
        return None
    values = values / max(float(values.mean()), 1.0)
    root = (vectors * values.sqrt()[..., None, :]) @ vectors.mH
    return root / _smoothing_loss(root)


def _smoothing_loss(root: Tensor) -> float:
    """Return by how much grain seems weaker as its smooth part is taken off each patch.

    The measure loses that part, and what is drawn after it is measured alike by who looks.
    """
    power = (root.abs() ** 2).sum(-1).mean(-1)  # of the mean colour at each frequency
    together = torch.fft.ifft2(power).real
    # Correlation of any two pixels of a patch; the wrap around its edge is what the patch knows.
    y, x = torch.meshgrid(torch.arange(PATCH), torch.arange(PATCH), indexing="ij")
    y, x = y.flatten(), x.flatten()
    down, across = (y[:, None] - y).abs(), (x[:, None] - x).abs()
    near = (down <= PATCH // 2) & (across <= PATCH // 2)
    covariance = torch.where(near, together[down % PATCH, across % PATCH], 0.0)
    smooth = _smooth_basis().double()
    seen = (covariance.trace() - (smooth.T @ covariance @ smooth).trace()) / (PATCH * PATCH - smooth.shape[1])
    return math.sqrt(max(float(seen / together[0, 0]), 0.25))


def _drawn(root: Tensor, shape: Sequence[int], seed: int) -> Tensor:
    """Return grain of unit strength, (C, *shape) float32."""
    height, width = (min(_TILE, max(math.ceil(side / 64) * 64, 64)) for side in shape)
    colours = root.shape[-1]
    white = torch.randn(colours, height, width, generator=torch.Generator().manual_seed(seed))
    # The root on a grid of 16 frequencies is a kernel of 16 pixels, which is then as good as on any other grid.
    kernel = torch.fft.fftshift(torch.fft.ifft2(root.permute(2, 3, 0, 1)).real.float(), dim=(-2, -1))
    padded = torch.zeros(colours, colours, height, width)
    padded[..., :PATCH, :PATCH] = kernel
    response = torch.fft.rfft2(padded)
    tile = torch.fft.irfft2((response * torch.fft.rfft2(white)).sum(1), s=(height, width))
    times = (math.ceil(shape[0] / height), math.ceil(shape[1] / width))
    return tile.repeat(1, *times)[:, : shape[0], : shape[1]]


def _light(picture: Tensor) -> Tensor:
    """Return the brightness of (..., C, H, W) as (..., 1, H, W)."""
    return picture if picture.shape[-3] == 1 else luma(picture)


def _calm(light: Tensor) -> Tensor:
    """Return brightness without detail, (H, W): grain does not follow a pore."""
    return F.avg_pool2d(light[None, None], 5, 1, 2, count_include_pad=False)[0, 0]


@lru_cache(1)
def _smooth_basis() -> Tensor:
    """Return an orthonormal basis of parabolas over a patch, (PATCH^2, 6) float32."""
    along = torch.linspace(-1, 1, PATCH, dtype=torch.float64)
    y, x = torch.meshgrid(along, along, indexing="ij")
    powers = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], -1).reshape(-1, 6)
    return torch.linalg.qr(powers).Q.float()
