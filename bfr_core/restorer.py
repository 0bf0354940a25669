"""A method with its weights loaded, ready to restore face crops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import InputMediaError, RestoreError, SettingsError, WeightsError
from .registry import Config, Method, get_method, identify
from .runtime import Runtime
from .weights import fill, load_embedded, load_state


class Restorer:
    """One method, one config, one set of weights."""

    def __init__(self, method: Method, config: Config, net: nn.Module, source: str) -> None:
        self.method, self.config, self.source = method, config, source
        self.net = net.eval().requires_grad_(False)

    @property
    def size(self) -> int:
        """Side of the crops this restorer takes, in pixels."""
        return self.config.size

    def restore(
        self, faces: Tensor, *, seeds: Sequence[int], settings: Mapping[str, Any] | None = None, runtime: Runtime
    ) -> Tensor:
        """Restore aligned faces.

        Shapes: faces (B, 3, size, size) float32 RGB [0, 1], B may be 0; returns the same shape, on the CPU or
        device the faces came from, clamped to [0, 1].

        Args:
            faces: aligned in the FFHQ template.
            seeds: one per face; the noise of a face depends on its seed alone, not on batch size or order.
            settings: the method's parameters by name; defaults for those left out.
            runtime: where to run, and who hears of progress.

        Raises:
            InputMediaError: wrong shape or range.
            SettingsError: an unknown or unfit setting, or seeds of another number.
            RestoreError: out of memory with one face, or numbers that are not finite even in float32.
        """
        self._check(faces, seeds)
        chosen = self.method.settings(settings or {})
        net = runtime.ready(self.net)
        home = faces.device
        numbered = list(seeds)
        done = 0

        def call(part: Tensor) -> Tensor:
            nonlocal done
            part_seeds = numbered[done : done + len(part)]
            restored = self._run(net, part.to(runtime.device), chosen, part_seeds, runtime)
            done += len(part)
            return restored.to(home)

        with torch.inference_mode():
            result = runtime.run_batched(call, faces)
        return result.clone()  # outside inference mode, so that callers may use it anywhere

    def _run(
        self, net: nn.Module, part: Tensor, settings: Mapping[str, Any], seeds: Sequence[int], runtime: Runtime
    ) -> Tensor:
        half = runtime.dtype != torch.float32
        with torch.autocast(runtime.device.type, runtime.dtype, enabled=half):
            restored = self.method.restore(net, part, settings, seeds).float()
        if half and not bool(restored.isfinite().all()):
            runtime.note(f"{runtime.dtype} overflowed in {self.method.title}; those faces were run again in float32")
            restored = self.method.restore(net, part, settings, seeds).float()
        broken = int((~restored.isfinite()).flatten(1).any(1).sum())
        if broken:
            raise RestoreError(
                f"{self.method.title} gave numbers that are not finite",
                found=f"NaN or infinity in {broken} of {len(part)} faces, in float32; expected numbers",
                kept="No picture was changed",
                todo="Check the weights with `bfr models verify`; report the picture if they are intact",
            )
        return restored.clamp(0, 1)

    def _check(self, faces: Tensor, seeds: Sequence[int]) -> None:
        size = self.size
        found = None
        if faces.ndim != 4 or faces.shape[1] != 3 or tuple(faces.shape[2:]) != (size, size):
            found = f"found shape {tuple(faces.shape)}"
            if faces.ndim == 4 and faces.shape[-1] == 3:
                found += ", which looks like (B, H, W, C)"
        elif faces.dtype != torch.float32:
            found = f"found {faces.dtype}"
        elif len(faces) and not bool(((faces >= -1e-3) & (faces <= 1 + 1e-3)).all()):
            low, high = faces.min().item(), faces.max().item()
            found = f"found values from {low:.3g} to {high:.3g}" if low == low else "found NaN"
        if found:
            raise InputMediaError(
                f"{self.method.title} cannot take these faces",
                found=f"{found}; expected (B, 3, {size}, {size}) float32 in [0, 1]",
                kept="Nothing was changed",
                todo="Align the faces for this restorer (Align Faces does), in the range 0 to 1",
            )
        if len(seeds) != len(faces):
            raise SettingsError(
                "Cannot seed these faces",
                found=f"found {len(seeds)} seeds for {len(faces)} faces, expected one each",
                kept="Nothing was changed",
                todo="Give one seed per face",
            )


def load_restorer(method_id: str, config: str = "", *, weights: Path | None = None) -> Restorer:
    """Build a method's network and load its weights.

    Args:
        method_id: a declared method.
        config: its config; empty for the default, or for the one that `weights` belong to.
        weights: a checkpoint to load in place of the embedded weights.

    Raises:
        SettingsError: unknown method or config.
        WeightsError: no weights are embedded and none were given, or the file does not fit.
    """
    method = get_method(method_id)
    if weights is not None:
        state = load_state(weights)
        chosen = method.config(config or method.recognise(state.keys()) or "")
        source = str(weights)
    else:
        chosen = method.config(config)
        if chosen.embedded is None:
            raise WeightsError(
                f"{method.title} has no embedded weights for the config {chosen.name}",
                found="no weight file was given; expected one, because nobody publishes weights for this size",
                kept="Nothing was started",
                todo="Give a file with --weights, or choose a config with embedded weights",
            )
        state = load_embedded(chosen.embedded)
        source = f"embedded {chosen.embedded}"
    with torch.device("meta"):
        net = method.build(chosen)
    fill(net, state, what=f"{method.title}, config {chosen.name}", guess=identify)
    return Restorer(method, chosen, net, source)


def face_seed(seed: int, frame_index: int, face_index: int) -> int:
    """Return the seed of one face: the same whatever else is in the batch."""
    # Large odd multipliers keep neighbouring frames and faces apart without tables.
    return (seed * 1_000_003 + frame_index * 8191 + face_index * 127) % 2**63
