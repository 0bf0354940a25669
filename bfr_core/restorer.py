"""A method with its weights loaded, ready to restore face crops."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .errors import InputMediaError, RestoreError, SettingsError, WeightsError
from .registry import Config, Method, get_method, identify
from .runtime import Runtime
from .weights import fill, load_embedded, load_state
from .weights.parts import check_fit, inspect, locate


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
        self,
        faces: Tensor,
        *,
        seeds: Sequence[int],
        settings: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Tensor] | None = None,
        runtime: Runtime,
    ) -> Tensor:
        """Restore aligned faces.

        Shapes: faces (B, 3, size, size) float32 RGB [0, 1], B may be 0; returns the same shape, on the CPU or
        device the faces came from, clamped to [0, 1].

        Args:
            faces: aligned in the FFHQ template.
            seeds: one per face; the noise of a face depends on its seed alone, not on batch size or order.
            settings: the method's parameters by name; defaults for those left out.
            inputs: tensors that the method declares beside the faces, by name, one row per face.
            runtime: where to run, and who hears of progress.

        Raises:
            InputMediaError: wrong shape or range, or an input that does not go with the faces.
            SettingsError: an unknown or unfit setting, an unknown input, or seeds of another number.
            RestoreError: out of memory with one face, or numbers that are not finite even in float32.
        """
        self.check(faces, seeds)
        chosen = self.method.settings(settings or {})
        beside = self.method.check_inputs(inputs or {}, len(faces))
        net = runtime.ready(self.net)
        home = faces.device
        numbered = list(seeds)
        done = 0

        def call(part: Tensor) -> Tensor:
            nonlocal done
            here = slice(done, done + len(part))
            rows = {name: value[here].to(runtime.device) for name, value in beside.items()}
            there = part.to(runtime.device)
            restored = self.computed(lambda: self.method.restore(net, there, chosen, numbered[here], rows), runtime)
            done += len(part)
            return restored.clamp(0, 1).to(home)

        with torch.inference_mode():
            result = runtime.run_batched(call, faces)
        return result.clone()  # outside inference mode, so that callers may use it anywhere

    def computed(self, compute: Callable[[], Tensor], runtime: Runtime, *, what: str = "faces") -> Tensor:
        """Return what `compute` makes of this restorer's network, (B, ...), as float32.

        It runs in the runtime's precision, and again in float32 where that overflowed.

        Args:
            compute: the computation.
            runtime: its precision, and who hears of a second run.
            what: what the rows are, for messages.

        Raises:
            RestoreError: numbers are not finite even in float32.
        """
        half = runtime.dtype != torch.float32
        with torch.autocast(runtime.device.type, runtime.dtype, enabled=half):
            made = compute().float()
        if half and not bool(made.isfinite().all()):
            runtime.note(f"{runtime.dtype} overflowed in {self.method.title}; those {what} were run again in float32")
            made = compute().float()
        broken = int((~made.isfinite()).flatten(1).any(1).sum())
        if broken:
            raise RestoreError(
                f"{self.method.title} gave numbers that are not finite",
                found=f"NaN or infinity in {broken} of {len(made)} {what}, in float32; expected numbers",
                kept="No picture was changed",
                todo="Check the weights with `bfr models verify`; report the picture if they are intact",
            )
        return made

    def check(self, faces: Tensor, seeds: Sequence[int]) -> None:
        """Check that faces and seeds are what `restore` takes.

        Raises:
            InputMediaError: wrong shape or range.
            SettingsError: seeds of another number.
        """
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
        weights: a checkpoint to load in place of the embedded weights. Of a method whose weights come in parts: a
            folder that holds them, one of them (the others are looked for beside it), or a file that holds them all.

    Raises:
        SettingsError: unknown method or config.
        WeightsError: no weights are embedded and none were given, a part is missing, or a file does not fit.
    """
    method = get_method(method_id)
    if weights is not None and method.parts:
        return _load_parts(method, config, weights)
    if weights is not None:
        state = load_state(weights)
        chosen = method.config(config or method.recognise(state.keys()) or "")
        source = str(weights)
    else:
        chosen = method.config(config)
        if not chosen.embedded:
            raise WeightsError(
                f"{method.title} has no embedded weights for the config {chosen.name}",
                found="no weight file was given; expected "
                + (_files(method) if chosen.published else "one, because nobody publishes weights for this size"),
                kept="Nothing was started",
                todo=f"Get them from {chosen.published} and give their folder with --weights"
                if chosen.published
                else "Give a file with --weights, or choose a config with embedded weights",
            )
        state = {key: tensor for name in chosen.embedded for key, tensor in load_embedded(name).items()}
        source = f"embedded {', '.join(chosen.embedded)}"
    net = _unfilled(method, chosen)
    fill(net, state, what=f"{method.title}, config {chosen.name}", guess=identify)
    return Restorer(method, chosen, net, source)


def _load_parts(method: Method, config: str, weights: Path) -> Restorer:
    located = locate(method, weights)
    keys = {key for _, contents in located for key in contents.tensors}
    chosen = method.config(config or method.recognise(keys) or "")
    net = _unfilled(method, chosen)
    own = net.state_dict()
    for part, contents in located:  # all of them before the first is read, which takes long
        check_fit(chosen, part, contents, own)
    source = ", ".join(dict.fromkeys(str(contents.path) for _, contents in located))
    while located:  # each file is let go as soon as it is read
        part, contents = located.pop(0)
        if len(contents.parts) > 1:  # opened anew for each part, as what was read of a mapped file stays in memory
            contents = inspect(method, contents.path)
        what = f"{method.title}, config {chosen.name}, {part.title}"
        fill(net, contents.read(part), what=what, guess=identify, within=part.holds)
    return Restorer(method, chosen, net, source)


class _NoRandomStart(TorchFunctionMode):
    """Skip the random start of weights that are about to be loaded: on the meta device it imports torch's compiler."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run what torch was asked for, but for random numbers."""
        if func in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        return torch.empty(*args) if func is torch.randn else func(*args, **(kwargs or {}))


def _unfilled(method: Method, config: Config) -> nn.Module:
    """Build a network that has shapes, but neither numbers nor memory."""
    with torch.device("meta"), _NoRandomStart():
        return method.build(config)


def _files(method: Method) -> str:
    return ", ".join(part.file for part in method.parts) or "the published file"


def face_seed(seed: int, frame_index: int, face_index: int) -> int:
    """Return the seed of one face: the same whatever else is in the batch."""
    # Large odd multipliers keep neighbouring frames and faces apart without tables.
    return (seed * 1_000_003 + frame_index * 8191 + face_index * 127) % 2**63
