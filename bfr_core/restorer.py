"""A method with its weights loaded, ready to restore face crops."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .errors import InputMediaError, NumbersError, RestoreError, SettingsError, WeightsError
from .models.checkpoints.cards import load_embedded
from .models.checkpoints.files import fill, load_state
from .models.checkpoints.folders import locate
from .models.checkpoints.parts import check_fit, inspect
from .models.checkpoints.unfilled import unfilled
from .registry import GUIDANCE, Config, Context, Method, get_method, guiding_methods, identify, methods
from .runtime import Runtime

if TYPE_CHECKING:
    from .diffusion.guidance import IdentityGuide


class Restorer:
    """One method, one config, one set of weights, and whom it steers to where it can and was told."""

    def __init__(self, method: Method, config: Config, net: nn.Module, source: str) -> None:
        self.method, self.config, self.source = method, config, source
        self.net = net.eval().requires_grad_(False)
        self.guide: IdentityGuide | None = None

    @property
    def size(self) -> int:
        """Side of the crops this restorer takes, in pixels."""
        return self.config.size

    def guided(self, guide: IdentityGuide | None) -> Restorer:
        """Return a restorer that shares this network and steers to an identity; None: as its method does by itself.

        Raises:
            SettingsError: the method cannot be steered.
        """
        if guide is not None and not self.method.guides:
            able = ", ".join(method.title for method in guiding_methods())
            raise SettingsError(
                f"{self.method.title} cannot be guided to an identity",
                found=f"found a guide by the {guide.title}; expected none, as this method takes no steps to guide",
                kept="Nothing was started",
                todo="Leave the guide out" + (f", or choose a method that guides: {able}" if able else ""),
            )
        bound = copy.copy(self)
        bound.guide = guide
        return bound

    def settings(self, given: Mapping[str, Any], runtime: Runtime) -> Any:
        """Return the method's settings, checked, with the config's defaults where none was given.

        A guide is there to be followed: with one, guidance is on unless it is switched off, which is noted.

        Raises:
            SettingsError: a name is unknown or a value does not fit.
        """
        chosen = self.method.settings(given, self.config)
        if self.guide is not None and getattr(chosen, GUIDANCE, None) is False:
            if GUIDANCE in given:
                runtime.note(f"The guide by the {self.guide.title} was left aside, as {GUIDANCE} is off")
            else:
                return replace(chosen, **{GUIDANCE: True})
        return chosen

    def context(self, runtime: Runtime) -> Context:
        """Return what the method is given of a run: its guide on the device, and the run's ears."""

        def report(index: int, total: int) -> None:
            runtime.check_cancel()
            runtime.on_step(index, total)

        guide = None if self.guide is None else self.guide.to(runtime.device)
        return Context(guide, report, runtime.note, self.method.patch_batch, runtime.tell)

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
        chosen = self.settings(settings or {}, runtime)
        beside = self.method.check_inputs(inputs or {}, len(faces))
        with torch.inference_mode(False), torch.no_grad():  # what guides must be able to switch gradients on
            return self._restore(faces, list(seeds), chosen, beside, runtime)

    def restore_picture(
        self, picture: Tensor, *, seed: int, settings: Mapping[str, Any] | None = None, runtime: Runtime
    ) -> Tensor:
        """Restore a picture of any size as a whole, faces and all.

        Shapes: picture (3, H, W) float32 RGB [0, 1]; returns the same.

        Raises:
            InputMediaError: wrong shape or range.
            SettingsError: an unknown or unfit setting, or a method that restores faces only.
            RestoreError: out of memory with one patch, or numbers that are not finite even in float32.
        """
        return whole_picture(self.method)(self, picture, seed=seed, settings=settings, runtime=runtime)

    def _restore(
        self,
        faces: Tensor,
        seeds: list[int],
        settings: Any,
        inputs: Mapping[str, Tensor],
        runtime: Runtime,
    ) -> Tensor:
        net, context = runtime.ready(self.net), self.context(runtime)
        home = faces.device
        done = 0

        def call(part: Tensor) -> Tensor:
            nonlocal done
            here = slice(done, done + len(part))
            rows = {name: _ordinary(value[here].to(runtime.device)) for name, value in inputs.items()}
            there = _ordinary(part.to(runtime.device))
            restored = self.run_with_fp32_fallback(
                lambda: self.method.restore(net, there, settings, seeds[here], rows, context), runtime
            )
            done += len(part)
            restored = restored.clamp(0, 1).to(home)
            runtime.on_faces(part, restored)
            return restored

        return _ordinary(runtime.run_batched(call, faces))

    def run_with_fp32_fallback(self, compute: Callable[[], Tensor], runtime: Runtime, *, what: str = "faces") -> Tensor:
        """Return what `compute` makes of this restorer's network, (B, ...), as float32.

        It runs in the runtime's precision, and again in float32 where that overflowed, be it on the way.

        Args:
            compute: the computation.
            runtime: its precision, and who hears of a second run.
            what: what the rows are, for messages.

        Raises:
            RestoreError: numbers are not finite even in float32.
        """
        half = runtime.dtype != torch.float32
        made = None
        if half:
            with torch.autocast(runtime.device.type, runtime.dtype):
                made = _whole(compute)
            if made is None:
                runtime.forget()
                runtime.note(
                    f"{runtime.dtype} overflowed in {self.method.title}; those {what} were run again in float32"
                )
        if made is None:
            try:
                made = compute().float()
            except NumbersError as error:
                raise RestoreError(
                    f"{self.method.title} gave numbers that are not finite. {error.what}",
                    found=f"{error.found}, in float32",
                    kept=error.kept,
                    todo=error.todo,
                ) from error
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


def whole_picture(method: Method) -> Callable[..., Tensor]:
    """Return how a method restores a whole picture.

    Raises:
        SettingsError: it restores faces only.
    """
    if method.picture is None:
        able = ", ".join(other.id for other in methods().values() if other.picture)
        raise SettingsError(
            f"{method.title} restores faces, not whole pictures",
            found=f"a whole picture was asked for; expected one of the methods that can: {able or 'none here'}",
            kept="The picture is unchanged",
            todo="Leave --whole out, or choose another method",
        )
    return method.picture


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
    with torch.inference_mode(False):  # tensors that a host makes in inference mode take no part in gradients
        if weights is None:
            return _load_embedded(method, method.config(config))
        if method.parts:
            return _load_parts(method, config, weights)
        state = load_state(weights)
        chosen = method.config(config or method.recognise(state.keys()) or "")
        return _filled(method, chosen, state, str(weights))


def _load_embedded(method: Method, config: Config) -> Restorer:
    if not config.embedded:
        raise WeightsError(
            f"{method.title} has no embedded weights for the config {config.name}",
            found="no weight file was given; expected "
            + (_files(method) if config.published else "one, because nobody publishes weights for this size"),
            kept="Nothing was started",
            todo=f"Get them from {config.published} and give their folder with --weights"
            if config.published
            else "Give a file with --weights, or choose a config with embedded weights",
        )
    sources = [("", name) for name in config.embedded] + list(config.shared.items())
    state = {prefix + key: tensor for prefix, name in sources for key, tensor in load_embedded(name).items()}
    return _filled(method, config, state, f"embedded {', '.join(name for _, name in sources)}")


def _filled(method: Method, config: Config, state: Mapping[str, Tensor], source: str) -> Restorer:
    net = unfilled(method, config.for_keys(state.keys()))
    fill(net, state, what=f"{method.title}, config {config.name}", guess=identify)
    return Restorer(method, config, net, source)


def _load_parts(method: Method, config: str, weights: Path) -> Restorer:
    chosen, located = locate(method, weights, config)
    net = unfilled(method, chosen)
    own = net.state_dict()
    for part, contents in located:  # all of them before the first is read, which takes long
        check_fit(chosen, part, contents, own)
    source = ", ".join(dict.fromkeys(contents.source for _, contents in located))
    while located:  # each file is let go as soon as it is read
        part, contents = located.pop(0)
        if len(contents.parts) > 1:  # opened anew for each part, as what was read of a mapped file stays in memory
            contents = inspect(method, contents.path)
        what = f"{method.title}, config {chosen.name}, {part.title}"
        fill(net, contents.read(part), what=what, guess=identify, within=part.holds)
    return Restorer(method, chosen, net, source)


def _ordinary(tensor: Tensor) -> Tensor:
    """Return a tensor that can take part in gradients: what a host made in inference mode cannot, but its copy can."""
    return tensor.clone() if tensor.is_inference() else tensor


def _whole(compute: Callable[[], Tensor]) -> Tensor | None:
    """Return what is computed as float32, None where it is not finite or broke off because of that."""
    try:
        made = compute().float()
    except NumbersError:
        return None
    return made if bool(made.isfinite().all()) else None


def _files(method: Method) -> str:
    return ", ".join(part.file for part in method.parts) or "the published file"


def face_seed(seed: int, frame_index: int, face_index: int) -> int:
    """Return the seed of one face: the same whatever else is in the batch."""
    # Large odd multipliers keep neighbouring frames and faces apart without tables.
    return (seed * 1_000_003 + frame_index * 8191 + face_index * 127) % 2**63
