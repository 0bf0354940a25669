"""Larger results: what enlarges all but the faces, by a resampler or by a model that spandrel reads.

Faces do not take this way: they are cut out of the picture as it is, and the restored crop goes into the larger
picture at the size it has there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputMediaError, ModelError, RestoreError, WeightsError
from ..media.scaling import enlarge_plane
from .options import UPSCALES

if TYPE_CHECKING:
    from ..runtime import Runtime
    from ..types import FaceCrop, Upscaler

_TILES = {"cpu": 256, "cuda": 512}
"""Side of the tiles that a model is given at first, by kind of device: about 1 GB of activations for the usual ones."""

_OVERLAP = 32
"""Pixels that neighbouring tiles share, over which one fades into the other."""

_SMALLEST = 64
"""Side of a tile that is not halved again."""

SPANDREL = "pip install spandrel"


class Lanczos:
    """Lanczos' kernel of three lobes: sharp, and invents nothing."""

    name = key = "Lanczos"

    def __call__(self, frame: Tensor, factor: int) -> Tensor:
        """Enlarge one picture; see `media.scaling.enlarge_plane`."""
        planes = [enlarge_plane(plane, factor, (0.0, 1.0)) for plane in frame[0].cpu().numpy()]
        return torch.from_numpy(np.stack(planes))[None].to(frame.device)


def upscaler_name(upscaler: Upscaler | None) -> str:
    """Return what a report calls it."""
    return (upscaler or Lanczos()).name


def check_upscale(shape: Sequence[int], factor: int) -> None:
    """Refuse a result of more pixels than a picture may have.

    Args:
        shape: height and width of the input.
        factor: how many times as wide and as high the result would be.

    Raises:
        InputMediaError: it would have more.
    """
    from ..media.pictures import MAX_PIXELS

    height, width = (factor * side for side in shape)
    if factor > 1 and height * width > MAX_PIXELS:
        fits = max((small for small in UPSCALES if small**2 * shape[0] * shape[1] <= MAX_PIXELS), default=1)
        raise InputMediaError(
            f"Cannot enlarge this picture {factor} times",
            found=f"it would have {width} x {height} pixels; expected at most {MAX_PIXELS} in all",
            kept="The picture is unchanged",
            todo="Leave upscale at 1" if fits == 1 else f"Choose upscale {fits}",
        )


def upscaled(frame: Tensor, factor: int, upscaler: Upscaler | None = None) -> Tensor:
    """Return a picture enlarged; itself where the factor is 1.

    Shapes: frame (3, H, W) float32; returns (3, factor * H, factor * W).

    Raises:
        RestoreError: the upscaler failed, or gave another size or numbers that are not finite.
    """
    if factor == 1:
        return frame
    upscaler = upscaler or Lanczos()
    made = upscaler(frame[None], factor)
    expected = (1, 3, factor * frame.shape[1], factor * frame.shape[2])
    if tuple(made.shape) != expected or not bool(made.isfinite().all()):
        held = tuple(made.shape) if tuple(made.shape) != expected else "NaN or infinite values"
        raise RestoreError(
            f"{upscaler.name} did not enlarge the picture",
            found=f"found {held}; expected {expected} of finite numbers",
            kept="The picture is unchanged",
            todo="Enlarge without a model, or with another one",
        )
    return made[0].to(frame)


def fit_faces(
    faces: Sequence[Tensor], crops: Sequence[FaceCrop], factor: int, upscaler: Upscaler | None = None
) -> list[Tensor]:
    """Return restored crops with enough pixels for what they are to be in the enlarged picture.

    Those that have not are enlarged as the picture is: drawn out linearly while it is pasted, a face would be softer
    than what lies around it. Faces larger than the crop in the input itself are left,
    as their detail is the picture's.

    Shapes: faces (3, S, S); returns (3, n * S, n * S) each, n one of UPSCALES.
    """
    shown: list[Tensor] = []
    for face, crop in zip(faces, crops, strict=True):
        scale = crop.scale * face.shape[-1] / crop.size
        missing = factor / scale if scale >= 1 else 1.0
        times = next((step for step in UPSCALES if step >= missing), UPSCALES[-1])
        shown.append(upscaled(face, times, upscaler).clamp(0, 1) if factor > 1 else face)
    return shown


class ModelUpscaler:
    """A network that enlarges, as spandrel describes it: ComfyUI's UPSCALE_MODEL, or a file.

    The network works on tiles, so that memory stays the same however large the picture is. Its own factor is brought to
    the one asked for by resampling. What lies outside [0, 1], which networks do not know, goes by Lanczos.

    Args:
        descriptor: spandrel's `ImageModelDescriptor` of a network from RGB to RGB.
        runtime: where to run; the network is brought there by its `ready`.
        name: of the model, for reports.
        key: what tells its weights from others.
        tile: side of the tiles to begin with; halved where memory runs out.

    Raises:
        ModelError: it is no network from RGB to RGB.
    """

    def __init__(self, descriptor: Any, runtime: Runtime, *, name: str, key: str, tile: int | None = None) -> None:
        channels = tuple(getattr(descriptor, part, None) for part in ("input_channels", "output_channels"))
        if channels != (3, 3) or getattr(descriptor, "purpose", "SR") not in ("SR", "Restoration"):
            kind = getattr(descriptor, "purpose", type(descriptor).__name__)
            raise ModelError(
                f"Cannot enlarge pictures by {name}",
                found=f"it is a model for {kind} with {channels[0]} channels in and {channels[1]} out; expected super "
                "resolution with 3 and 3",
                kept="Nothing was started",
                todo="Choose another model, such as RealESRGAN",
            )
        self.descriptor, self.runtime, self.name, self.key = descriptor, runtime, name, key
        self._tile = tile or _TILES.get(runtime.device.type, 256)
        if getattr(getattr(descriptor, "tiling", None), "name", "") == "INTERNAL":
            self._tile = 1 << 30

    def __call__(self, frame: Tensor, factor: int) -> Tensor:
        """Enlarge one picture.

        Raises:
            RestoreError: memory runs out with the smallest tile.
        """
        inside = frame.clamp(0, 1)
        height, width = (factor * side for side in frame.shape[-2:])
        made = self._run(inside)
        if made.shape[-2:] != (height, width):
            made = _resize(made[0], (height, width))[None]
        made = made.to(frame).clamp(0, 1)
        beyond = frame - inside
        return made + Lanczos()(beyond, factor) if bool(beyond.any()) else made

    def _run(self, frame: Tensor) -> Tensor:
        """Return what the network makes of a picture, at the network's own factor, on the CPU."""
        net = self.runtime.ready(self.descriptor.model)
        weights = next(net.parameters())
        while True:
            made = self._try(frame.to(weights.device, weights.dtype))
            if made is not None:
                return made
            side = min(self._tile, max(frame.shape[-2:]))
            if side <= _SMALLEST:
                raise RestoreError(
                    f"Out of memory while {self.name} enlarged a picture",
                    found=f"a tile of {side} px does not fit on {self.runtime.device}",
                    kept="No file was changed",
                    todo="Close other programs, choose a smaller model, or enlarge without one",
                )
            self._tile = max(side // 2, _SMALLEST)
            self.runtime.note(f"Memory ran out while enlarging; tiles were reduced to {self._tile} px")

    @torch.no_grad()
    def _try(self, frame: Tensor) -> Tensor | None:
        scale = int(self.descriptor.scale)
        height, width = frame.shape[-2:]
        total = torch.zeros(1, 3, scale * height, scale * width)
        shares = torch.zeros(scale * height, scale * width)
        try:
            for y0, y1 in _spans(height, self._tile):
                for x0, x1 in _spans(width, self._tile):
                    self.runtime.check_cancel()
                    part = self.descriptor(frame[..., y0:y1, x0:x1]).to("cpu", torch.float32)
                    share = _fade(y0, y1, height, scale)[:, None] * _fade(x0, x1, width, scale)
                    place = (..., slice(scale * y0, scale * y1), slice(scale * x0, scale * x1))
                    total[place] += part * share
                    shares[place] += share
        except torch.OutOfMemoryError:
            if frame.device.type == "cuda":
                torch.cuda.empty_cache()
            return None
        return total.div_(shares)


def _spans(length: int, tile: int) -> Iterator[tuple[int, int]]:
    """Yield the first and last pixels of tiles of equal length that share `_OVERLAP` or more."""
    if length <= tile:
        yield 0, length
        return
    count = math.ceil((length - _OVERLAP) / (tile - _OVERLAP))
    for index in range(count):
        start = round(index * (length - tile) / (count - 1))
        yield start, start + tile


def _fade(start: int, end: int, length: int, scale: int) -> Tensor:
    """Return the share of a tile along one axis.

    It comes and goes in the middle of the overlap, not at the picture's border: near the edge of a tile a network sees
    its padding in place of the picture.
    """
    place = (torch.arange(scale * (end - start)) + 0.5) / scale
    share = torch.ones(len(place))
    for inside, distance in ((start > 0, place), (end < length, (end - start) - place)):
        if inside:
            share = torch.minimum(share, (distance - _OVERLAP / 4) / (_OVERLAP / 2))
    return share.clamp(0, 1)


def _resize(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring a picture to another size: (3, H, W) to (3, *size)."""
    factor, rest = divmod(size[0], picture.shape[1])
    if factor > 1 and not rest:
        return Lanczos()(picture[None], factor)[0]
    return F.interpolate(picture[None], size, mode="bicubic", antialias=True, align_corners=False)[0]


def load_upscaler(path: Path, runtime: Runtime) -> ModelUpscaler:
    """Read a model that enlarges from a file, of any architecture that spandrel knows.

    The file is opened as all weights are, without running code from it; spandrel is given the tensors.

    Raises:
        ModelError: spandrel is not installed, or the model enlarges no RGB pictures.
        WeightsError: the file cannot be used, or spandrel does not know the architecture.
    """
    from ..models.checkpoints.files import KEPT, load_state, sha256_of

    try:
        import spandrel
    except ImportError as error:
        missing = "torchvision, which spandrel needs," if "torchvision" in str(error) else "spandrel"
        raise ModelError(
            f"Cannot enlarge pictures by {path.name}",
            found=f"{missing} cannot be imported ({error})",
            kept="Nothing was started",
            todo=f"Run `{SPANDREL}`, or enlarge without a model",
        ) from error
    state = spandrel.canonicalize_state_dict(load_state(path, strip=False))
    try:
        descriptor = spandrel.ModelLoader().load_from_state_dict(state)
    except Exception as error:  # of an architecture that it takes for another, torch raises what it likes
        known = isinstance(error, spandrel.UnsupportedModelError)
        reason = "none of the architectures that it knows" if known else str(error).splitlines()[0]
        raise WeightsError(
            f"spandrel cannot read {path}",
            found=f"{reason}; expected a model that enlarges, such as RealESRGAN",
            kept=KEPT,
            todo="Choose another file",
        ) from error
    return ModelUpscaler(descriptor, runtime, name=path.stem, key=sha256_of(path))
