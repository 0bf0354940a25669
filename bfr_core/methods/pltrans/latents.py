"""Latents by themselves: read from faces, sampled, interpolated, edited, kept, and decoded (paper Sec. 4.6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ...diffusion.guidance import resized
from ...diffusion.samplers import ddpm
from ...errors import InputMediaError, SettingsError
from ...media.tensors import TensorFile
from ...runtime import Runtime
from ...seeding import Draws
from .model import PLTrans
from .restore import decoded, encoded

if TYPE_CHECKING:
    from ...restorer import Restorer

SAMPLING_STEPS = 50
"""Of the reverse process from T, respaced."""

_FILE = TensorFile("pltrans latents", 1, "PLTrans latents", "Save PLTrans Latent")


@dataclass(frozen=True, slots=True, eq=False)
class PLTransLatents:
    """What the decoder makes faces of, float32 on the CPU.

    Raises:
        InputMediaError: the tensors do not fit each other, or are not finite.
    """

    u: Tensor
    """The regularised latents, which become the query; (B, latent, h, w), normalised: of about unit variance."""
    q: Tensor
    """The features that keys and values are made of, (B, dim, h, w)."""
    config: str
    """Config of the method they were made with; those of another belong to another decoder."""

    def __post_init__(self) -> None:
        if found := _misfit(self.u, self.q):
            raise InputMediaError(
                "Cannot use these PLTrans latents",
                found=f"{found}; expected finite float32 numbers, (faces, channels, height, width) of u and of q, "
                "alike but for the channels",
                kept="Nothing was changed",
                todo="Make them with the node PLTrans Latent or PLTrans Sample",
            )

    def __len__(self) -> int:
        return len(self.u)

    def made_with(self, config: str) -> PLTransLatents:
        """Return these latents where they were made with that config.

        Raises:
            InputMediaError: they were made with another.
        """
        if self.config != config:
            raise InputMediaError(
                "Cannot use these PLTrans latents",
                found=f"they were made with the config {self.config}, and {config} is to use them; expected one, as "
                "each has a decoder of its own",
                kept="Nothing was changed",
                todo="Make the latents with the restorer that uses them",
            )
        return self


def _misfit(u: Tensor, q: Tensor) -> str | None:
    if {u.dtype, q.dtype} != {torch.float32}:
        return f"found {u.dtype} and {q.dtype}"
    if u.ndim != 4 or q.ndim != 4 or (len(u), *u.shape[2:]) != (len(q), *q.shape[2:]):
        return f"found {tuple(u.shape)} and {tuple(q.shape)}"
    bad = sum(int((~values.isfinite()).sum()) for values in (u, q))
    return f"found NaN or infinity in {bad} values" if bad else None


# With a network.


def encode(
    restorer: Restorer,
    faces: Tensor,
    *,
    seeds: Sequence[int],
    settings: Mapping[str, Any] | None = None,
    runtime: Runtime,
) -> PLTransLatents:
    """Return the latents of aligned faces, regularised.

    Decoded with the same settings they give what `Restorer.restore` gives with the same seeds and batches.

    Shapes: faces (B, 3, size, size) float32 RGB [0, 1], B may be 0.

    Args:
        restorer: of this method.
        faces: aligned in the FFHQ template.
        seeds: one per face.
        settings: as for restoring; those of the query matter, and the dial.
        runtime: where to run, and who hears of progress.

    Raises:
        InputMediaError: wrong shape or range.
        SettingsError: a restorer of another method, seeds of another number, or settings that do not fit.
        RestoreError: out of memory with one face, or numbers that are not finite even in float32.
    """
    net = _network(restorer)
    restorer.check(faces, seeds)
    chosen, context = restorer.settings(settings or {}, runtime), restorer.context(runtime)
    if not len(faces):
        return _empty(restorer, net)
    ready = cast(PLTrans, runtime.ready(net))

    def made(part: Tensor, draws: Draws) -> Tensor:
        return torch.cat(encoded(ready, part, chosen, draws, context), 1)

    return _split(net, _rows(restorer, made, faces, seeds, runtime), restorer.config.name)


def sample(
    restorer: Restorer, *, seeds: Sequence[int], runtime: Runtime, steps: int = SAMPLING_STEPS
) -> PLTransLatents:
    """Return latents of faces that nobody has: from the Gaussian prior by the whole reverse process.

    There is no degraded face whose features keys and values could come from: they come from D_Q(u), as the query does.

    Args:
        restorer: of this method.
        seeds: one per face.
        runtime: where to run, and who hears of progress.
        steps: of the reverse process, evenly respaced over all of T.

    Raises:
        SettingsError: a restorer of another method, or more steps than noise levels.
        RestoreError: out of memory with one face, or numbers that are not finite even in float32.
    """
    net = _network(restorer)
    levels = net.regulariser.schedule.levels(steps)
    if not seeds:
        return _empty(restorer, net)
    ready, report = cast(PLTrans, runtime.ready(net)), restorer.context(runtime).report
    side = restorer.size // net.vq.factor
    shape = (net.regulariser.latent, side, side)

    def made(part: Tensor, draws: Draws) -> Tensor:
        u = ddpm(
            ready.regulariser.predict, draws.normal("u_T", *shape), levels,
            draw=lambda index: draws.normal(f"u_{index}", *shape), report=report,
        )  # fmt: skip
        return torch.cat([u, ready.regulariser.decode(u).to(u)], 1)

    rows = torch.zeros(len(seeds), 1)
    return _split(net, _rows(restorer, made, rows, seeds, runtime), restorer.config.name)


def decode(
    restorer: Restorer, latents: PLTransLatents, *, settings: Mapping[str, Any] | None = None, runtime: Runtime
) -> Tensor:
    """Return the faces of latents, (B, 3, size, size) float32 RGB [0, 1] on the CPU.

    Args:
        restorer: of this method and of the config that the latents were made with.
        latents: of any number of faces.
        settings: those of Table 1 matter: what was off when the latents were made is to be off here.
        runtime: where to run, and who hears of progress.

    Raises:
        InputMediaError: latents of another config, or of another shape than this network's.
        SettingsError: a restorer of another method, or settings that do not fit.
        RestoreError: out of memory with one face, or numbers that are not finite even in float32.
    """
    net = _network(restorer)
    latents.made_with(restorer.config.name)
    chosen, channels = restorer.settings(settings or {}, runtime), (net.regulariser.latent, net.vq.dim)
    side = restorer.size // net.vq.factor
    if (latents.u.shape[1:], latents.q.shape[1]) != ((channels[0], side, side), channels[1]):
        raise InputMediaError(
            "Cannot decode these PLTrans latents",
            found=f"found u {tuple(latents.u.shape)} and q {tuple(latents.q.shape)}; expected {channels[0]} and "
            f"{channels[1]} channels of {side} x {side} positions",
            kept="Nothing was changed",
            todo="Make the latents with the restorer that decodes them",
        )
    if not len(latents):
        return torch.zeros(0, 3, restorer.size, restorer.size)
    ready = cast(PLTrans, runtime.ready(net))

    def made(part: Tensor, draws: Draws) -> Tensor:
        u, q = part.split(channels, 1)
        return decoded(ready, u, q, chosen)

    rows = torch.cat([latents.u, latents.q], 1)
    return _rows(restorer, made, rows, [0] * len(latents), runtime).clamp(0, 1)


def _rows(restorer: Restorer, made: Any, items: Tensor, seeds: Sequence[int], runtime: Runtime) -> Tensor:
    """Return what `made` makes of each batch of items and the draws of their seeds, (B, ...) float32 on the CPU."""
    numbered, done = list(seeds), 0

    def call(part: Tensor) -> Tensor:
        nonlocal done
        draws = Draws(numbered[done : done + len(part)], runtime.device)
        there = part.to(runtime.device)
        result = restorer.run_with_fp32_fallback(lambda: made(there, draws), runtime, what="latents").cpu()
        done += len(part)
        return result

    with torch.inference_mode():
        result = runtime.run_batched(call, items)
    return result.clone()  # outside inference mode, so that callers may use it anywhere


def _split(net: PLTrans, both: Tensor, config: str) -> PLTransLatents:
    u, q = both.split((net.regulariser.latent, net.vq.dim), 1)
    return PLTransLatents(u.contiguous(), q.contiguous(), config)


def _empty(restorer: Restorer, net: PLTrans) -> PLTransLatents:
    side = restorer.size // net.vq.factor
    return _split(net, torch.zeros(0, net.regulariser.latent + net.vq.dim, side, side), restorer.config.name)


def _network(restorer: Restorer) -> PLTrans:
    if not isinstance(restorer.net, PLTrans):
        raise SettingsError(
            f"{restorer.method.title} has no PLTrans latents",
            found="found a restorer of that method; expected one of PLTrans",
            kept="Nothing was started",
            todo="Load a restorer of PLTrans",
        )
    return restorer.net


# Without one.


def mix(a: PLTransLatents, b: PLTransLatents, share: float) -> PLTransLatents:
    """Return latents on the straight line from `a` to `b`: u, and q with it.

    Args:
        a: of some faces.
        b: of as many; or one of the two holds a single face, which is mixed with each of the other.
        share: 0 for `a`, 1 for `b`.

    Raises:
        InputMediaError: they are of different configs or sizes, or of different numbers of faces.
        SettingsError: the share is out of range.
    """
    _check_pair(a, b)
    if not 0 <= share <= 1:
        raise SettingsError(
            "Cannot mix PLTrans latents in this way",
            found=f"found a share of {share:g}; expected 0 to 1",
            kept="Nothing was changed",
            todo="Give 0 for the first, 1 for the second, or a number between",
        )
    return replace(a, u=torch.lerp(a.u, b.u, share), q=torch.lerp(a.q, b.q, share))


def replaced(a: PLTransLatents, b: PLTransLatents, mask: Tensor, share: float = 1.0) -> PLTransLatents:
    """Return `a` with the region of `b` that a mask shows: "the u's subvector associated with the customized region".

    q goes with u, as its keys and values would else bring the old region back.

    Shapes: mask (B or 1, 1, H, W) in [0, 1], of any size; it is brought to that of the latents.

    Args:
        a: of some faces.
        b: of as many; or one of the two holds a single face.
        mask: 1 takes `b`.
        share: how much of `b` is taken within the mask.

    Raises:
        InputMediaError: they are of different configs or sizes, or of different numbers of faces, or the mask does not
            fit.
        SettingsError: the share is out of range.
    """
    mixed = mix(a, b, share)
    found = None
    if mask.ndim != 4 or mask.shape[1] != 1 or len(mask) not in (1, len(mixed)) or 0 in mask.shape[2:]:
        found = f"found shape {tuple(mask.shape)}"
    elif not bool(((mask >= -1e-3) & (mask <= 1 + 1e-3)).all()):  # what resampling rounds; NaN fails, too
        found = "found values out of range"
    if found:
        raise InputMediaError(
            "Cannot replace a region of PLTrans latents by this mask",
            found=f"{found}; expected ({len(mixed)}, 1, height, width) in 0 to 1",
            kept="Nothing was changed",
            todo="Give one mask, or one for each face in the same order",
        )
    where = resized(mask, mixed.u)
    return replace(a, u=torch.lerp(a.u, mixed.u, where), q=torch.lerp(a.q, mixed.q, where))


def _check_pair(a: PLTransLatents, b: PLTransLatents) -> None:
    b.made_with(a.config)
    counts = {len(a), len(b)}
    if a.u.shape[1:] != b.u.shape[1:] or a.q.shape[1:] != b.q.shape[1:] or (len(counts) == 2 and 1 not in counts):
        raise InputMediaError(
            "Cannot mix these PLTrans latents",
            found=f"found {tuple(a.u.shape)} and {tuple(b.u.shape)} (faces, channels, height, width); expected as many "
            "faces, or a single one, and the rest equal",
            kept="Nothing was changed",
            todo="Make both with the same restorer, from as many faces",
        )


# In files.


def save_latents(path: Path, latents: PLTransLatents) -> None:
    """Write latents to a safetensors file, whole or not at all.

    Raises:
        OutputMediaError: it cannot be written there.
    """
    _FILE.save(path, {"u": latents.u, "q": latents.q}, {"config": latents.config})


def load_latents(path: Path) -> PLTransLatents:
    """Read latents that `save_latents` wrote.

    Raises:
        InputMediaError: the file is missing, damaged, of another kind or of a newer version, or its latents do not fit.
    """
    tensors, metadata = _FILE.load(path)
    try:
        return PLTransLatents(tensors["u"], tensors["q"], metadata["config"])
    except KeyError as error:
        raise _FILE.damaged(path, f"{error} is missing") from error
    except InputMediaError as error:
        raise _FILE.unreadable(path, error.found) from error
