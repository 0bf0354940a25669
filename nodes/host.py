"""ComfyUI's side of a run: its devices, memory management, progress bar, cancel button and model folders."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_management as mm
import comfy.model_patcher
import comfy.utils
import folder_paths
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..bfr_core.errors import InputMediaError, OutputMediaError, WeightsError
from ..bfr_core.media.atomic import make_folder
from ..bfr_core.media.sheets import row, to_bytes
from ..bfr_core.models.registry import specs
from ..bfr_core.restoration.kept import KeptFaces, MemoryShelf
from ..bfr_core.runtime import Runtime
from .compat import intermediate_dtype

FOLDERS = {
    "facerestore_models": ("restorer",),
    "facedetection": ("detector", "landmarker"),
    "insightface": ("recognizer",),
}
"""Model folders and the roles whose files lie there. Other face packs use them too, so people keep one copy of each."""

_OTHERS = {"insightface": (".onnx",)}
"""What other packs look for in a folder of theirs that we may be the first to name."""

_LIVE = 512
"""Longest side of the live picture over a node, in pixels; the host shrinks what is larger."""

_LOOK = 0.5
"""Least seconds between two live pictures of faces."""

_SMALL = 256
"""Height of frames that are shown beside each other, in pixels."""

_SAVED = " [output]"
"""Ends the name of a file in the output folder, for the host's functions and its page."""


def register_folders() -> None:
    """Make the model folders known; entries that other packs or the user's yaml file made stay."""
    for name in FOLDERS:
        new = name not in folder_paths.folder_names_and_paths
        folder_paths.add_model_folder_path(name, str(Path(folder_paths.models_dir) / name))
        if new:  # a new name has an empty suffix set, which lists every file
            folder_paths.folder_names_and_paths[name][1].update((*_suffixes(name), *_OTHERS.get(name, ())))


def model_files(folder: str) -> list[str]:
    """Return the weight files in one of our model folders, read anew each time."""
    return [name for name in folder_paths.get_filename_list(folder) if name.lower().endswith(_suffixes(folder))]


def _suffixes(folder: str) -> tuple[str, ...]:
    """Return the suffixes of what the models of a folder's roles read."""
    return tuple({suffix for role in FOLDERS[folder] for spec in specs(role) for suffix in spec.suffixes})


def model_folders(folder: str) -> list[Path]:
    """Return the directories behind one of our model folders."""
    return [Path(path) for path in folder_paths.get_folder_paths(folder)]


def model_path(folder: str, name: str) -> Path:
    """Return the path of a file that `model_files` listed.

    Raises:
        WeightsError: it is there no longer.
    """
    path = folder_paths.get_full_path(folder, name)
    if path is None:
        raise WeightsError(
            f"Cannot find {name}",
            found=f"it is not in {' or '.join(map(str, model_folders(folder)))}; expected a file from the list",
            kept="Nothing was started",
            todo="Put the file there, or choose another; pressing R reads the list again",
        )
    return Path(path)


def new_output(prefix: str, suffix: str, usual: str) -> tuple[Path, dict[str, str]]:
    """Return a path in the output folder that no file has yet, and what the host's history says of it.

    Args:
        prefix: name that a counter follows, with folders before it, as in Save Image.
        suffix: of the file.
        usual: a prefix that the host allows, for the error.

    Raises:
        OutputMediaError: the host allows no file there.
    """
    try:
        found = folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory())
    except Exception as error:  # the host raises bare ones
        raise OutputMediaError(
            f"Cannot save as {prefix!r}",
            found=f"the host refused: {str(error).splitlines()[0] if str(error) else type(error).__name__}; expected a "
            "name within the output folder",
            kept="Nothing was written",
            todo=f"Choose another filename_prefix, such as {usual}",
        ) from error
    folder, name, counter, subfolder, _ = found
    file = f"{name}_{counter:05}_{suffix}"
    return Path(folder) / file, {"filename": file, "subfolder": subfolder, "type": "output"}


def data_files(folder: str, suffix: str) -> list[str]:
    """Return the files that a loader offers, named as the host names them.

    Those in the input folder and in its `folder`, then those in `folder` of the output folder: what was just saved can
    be loaded without moving it.
    """
    found = []
    inside, outside = Path(folder_paths.get_input_directory()), Path(folder_paths.get_output_directory())
    for base, place, mark in ((inside, inside, ""), (inside, inside / folder, ""), (outside, outside / folder, _SAVED)):
        if place.is_dir():
            files = sorted(path for path in place.iterdir() if path.suffix == suffix and path.is_file())
            found += [f"{path.relative_to(base).as_posix()}{mark}" for path in files]
    return found


def data_path(name: str) -> Path:
    """Return the path of a file that `data_files` listed; it may be gone."""
    return Path(folder_paths.get_annotated_filepath(name))


def temporary_folder(name: str) -> Path:
    """Return a folder in the host's temp directory, which lasts until the host ends, and make it where it is missing.

    Raises:
        OutputMediaError: it cannot be made.
    """
    folder = Path(folder_paths.get_temp_directory()) / name
    make_folder(folder)
    return folder


def new_temporary(prefix: str, suffix: str) -> Path:
    """Return a path in the host's temp directory that no file has yet; a counter follows the prefix.

    Raises:
        OutputMediaError: its folder cannot be made.
    """
    temporary_folder(str(Path(prefix).parent))
    folder, name, counter, _, _ = folder_paths.get_save_image_path(prefix, folder_paths.get_temp_directory())
    return Path(folder) / f"{name}_{counter:05}_{suffix}"


RESTORED = MemoryShelf()
"""Faces that nodes restored, so that a change of strength or colours only blends again."""


class _Patcher(comfy.model_patcher.ModelPatcher):
    """What the host moves a network by."""

    def detach(self, unpatch_all: bool = True) -> Any:
        """Let go of the restored faces with the weights: the host frees memory, and there is no other sign of it."""
        if unpatch_all:
            RESTORED.clear()
        return super().detach(unpatch_all)


class Managed:
    """A network under the host's model management."""

    def __init__(self, net: nn.Module) -> None:
        # ModelPatcher, not CoreModelPatcher: the dynamic one leaves weights of plain modules on the offload device.
        self._patcher = _Patcher(net, load_device=mm.get_torch_device(), offload_device=mm.unet_offload_device())

    def ready(self, activation_bytes: int) -> nn.Module:
        """Have the host make room and load the network; a no-op where it is loaded already."""
        # The host runs nodes in inference mode, where moved weights could take no part in the gradients of a guide.
        with torch.inference_mode(False):
            mm.load_models_gpu([self._patcher], memory_required=activation_bytes, force_full_load=True)
            net = self._patcher.model.to(self._patcher.load_device)
            for tensor in (*net.parameters(), *net.buffers()):
                if tensor.is_inference():  # another node's, which made room, moved it
                    tensor.data = tensor.detach().clone()
        return net


BATCHES = {"cpu": 1, "cuda": 8}
"""Faces at once by kind of device. A processor is as fast with one at a time, and stops sooner."""


def runtime(managed: Managed, faces: int, *, activation_bytes: int = 1 << 30) -> Runtime:
    """Return a runtime that works through the host, and shows faces before and after as they are restored.

    Args:
        managed: the network to run.
        faces: how many faces the whole node will restore, for the progress bar.
        activation_bytes: memory that one batch needs beside the weights.
    """
    bar = comfy.utils.ProgressBar(max(faces, 1))
    finished, shown = 0, -math.inf
    picture: Any = None

    def progress(done: int, total: int) -> None:
        nonlocal finished, picture
        if done > finished:
            finished = done
            bar.update_absolute(done, max(faces, total, 1), picture)
            picture = None

    def look(before: Tensor, after: Tensor) -> None:
        nonlocal picture, shown
        now = time.monotonic()
        if now - shown >= _LOOK:
            shown, picture = now, ("JPEG", Image.fromarray(side_by_side(before[-1], after[-1])), _LIVE)

    def step(index: int, total: int) -> None:
        # Faces of one batch take their steps together; the bar moves within them.
        at_work = max(min(made.batch, faces - finished), 0)
        bar.update_absolute(round(finished + at_work * index / max(total, 1), 2), max(faces, 1))

    made = _runtime(managed, activation_bytes).derived(on_progress=progress, on_step=step, on_faces=look)
    return made


def _runtime(managed: Managed | None, activation_bytes: int = 1 << 30) -> Runtime:
    """Return a runtime on the host's device whose progress nobody hears of."""
    device = mm.get_torch_device()
    return Runtime(
        device=device,
        batch=BATCHES.get(device.type, 2),
        check_cancel=mm.throw_exception_if_processing_interrupted,
        prepare=None if managed is None else lambda net: managed.ready(activation_bytes),
        kept=KeptFaces(RESTORED),
    )


_PAUSE = 0.1
"""Seconds between two messages of a film's progress."""


class FilmBar:
    """The progress bar of a node that goes over a film, in frames of all its passes, with a picture now and then.

    The page hears of it ten times a second at most: a film without faces goes by at hundreds of frames a second.

    Args:
        passes: their names, in order; the bar stands still in others.
        frames: of the part of the film that is meant, about; 0 where nobody knows.
    """

    def __init__(self, *passes: str, frames: int = 0) -> None:
        self._bar = comfy.utils.ProgressBar(max(len(passes) * frames, 1))
        self._passes, self._frames = passes, frames
        self._done, self._total, self._said = 0.0, 1, -math.inf

    def on_progress(self, name: str, done: int, total: int) -> None:
        """Move on to so many frames of a pass."""
        if name not in self._passes:
            return
        # A header speaks of the whole file, also where a part of it is meant.
        each = max(min(total or self._frames, self._frames or total), done, 1)
        self._total = each * len(self._passes)
        self._move(self._passes.index(name) * each + done)

    def step(self, index: int, total: int, faces: int) -> None:
        """Move within a batch of faces by the steps of their method, a face for a frame."""
        self._move(min(self._done + faces / max(total, 1), self._total))

    def show(self, before: Tensor, after: Tensor) -> None:
        """Show a frame before and after; (3, H, W) each."""
        picture = Image.fromarray(side_by_side(before, after))
        self._bar.update_absolute(round(self._done, 2), self._total, ("JPEG", picture, _LIVE))

    def _move(self, done: float) -> None:
        # Passes overlap by what they hold back, and a bar that goes back tells nothing.
        self._done = max(self._done, done)
        now = time.monotonic()
        if now - self._said >= _PAUSE or self._done >= self._total:
            self._said = now
            self._bar.update_absolute(round(self._done, 2), self._total)


def side_by_side(before: Tensor, after: Tensor) -> np.ndarray:
    """Return two frames (3, H, W) beside each other as a small picture, (h, w, 3) uint8."""
    height, width = before.shape[1:]
    return row([to_bytes(before), to_bytes(after)], max(min(height, _SMALL, _SMALL * 2 * height // width), 1))


def film_runtime(bar: FilmBar, managed: Managed | None = None) -> Runtime:
    """Return a runtime that works through the host and leaves the progress to the passes over a film.

    Args:
        bar: moves with the steps of a batch.
        managed: the network that restores; None where nothing is restored.
    """
    made = _runtime(managed).derived(check_cancel=_lasting(mm.throw_exception_if_processing_interrupted))
    return made.derived(on_step=lambda index, total: bar.step(index, total, made.batch))


def _lasting(check: Callable[[], None]) -> Callable[[], None]:
    """Return a check that raises in every thread once it has raised in one.

    The host forgets a cancel as soon as it has told of it. Told to the thread that decodes, it would wait there until
    all that was decoded before is restored.
    """
    raised: list[type[BaseException]] = []

    def asked() -> None:
        if raised:
            raise raised[0]
        try:
            check()
        except BaseException as error:
            raised.append(type(error))
            raise

    return asked


def device() -> torch.device:
    """Return the device the host computes on."""
    return mm.get_torch_device()


def check_cancel() -> None:
    """Raise the host's exception where the user has pressed cancel."""
    mm.throw_exception_if_processing_interrupted()


def split_image(image: Tensor) -> tuple[Tensor, Tensor | None]:
    """Turn ComfyUI's IMAGE into frames and alpha.

    Shapes: image (B, H, W, 3 or 4); returns (B, 3, H, W) float32 and (B, H, W, 1) or None.

    Raises:
        InputMediaError: another shape, integers, NaN or infinity.
    """
    if image.ndim != 4 or image.shape[-1] not in (3, 4) or 0 in image.shape[1:]:
        raise InputMediaError(
            "Cannot take this image",
            found=f"found shape {tuple(image.shape)}, expected (batch, height, width, 3 or 4)",
            kept="The image is unchanged",
            todo="Connect an IMAGE output; a MASK goes through Convert Mask to Image first",
        )
    if not image.is_floating_point():
        raise InputMediaError(
            "Cannot take this image",
            found=f"found {image.dtype}; expected floating point from 0 to 1",
            kept="The image is unchanged",
            todo="Divide it by 255 in the node before this one: taken as it is, nearly all of it would be white"
            if image.dtype == torch.uint8
            else "Bring it to floating point from 0 to 1 in the node before this one",
        )
    frames = image[..., :3].movedim(-1, 1).to("cpu", torch.float32).contiguous()
    bad = [index for index, frame in enumerate(frames) if not bool(frame.isfinite().all())]
    if bad:
        raise InputMediaError(
            "Cannot take this image",
            found=f"found NaN or infinite values in {len(bad)} of {len(frames)} images, the first at index {bad[0]}; "
            "expected numbers from 0 to 1",
            kept="The image is unchanged",
            todo="Look at the node before this one; a VAE in half precision is the usual source",
        )
    return frames, image[..., 3:] if image.shape[-1] == 4 else None


def join_image(frames: Tensor, alpha: Tensor | None = None) -> Tensor:
    """Turn (B, 3, H, W) frames back into an IMAGE, with the alpha of the input, where the host keeps images."""
    out = frames.movedim(1, -1).to(mm.intermediate_device(), intermediate_dtype())
    return out.contiguous() if alpha is None else torch.cat([out, alpha.to(out)], dim=-1)


def mask_layers(mask: Tensor, count: int) -> Tensor:
    """Turn ComfyUI's MASK into one layer for each face; a single one serves them all.

    Shapes: mask (H, W) or (B, H, W); returns (count, H, W) float32 on the CPU.

    Raises:
        InputMediaError: another shape, or neither one mask nor one for each face.
    """
    layers = mask.to("cpu", torch.float32)
    layers = layers[None] if layers.ndim == 2 else layers
    if layers.ndim != 3 or 0 in layers.shape[1:] or len(layers) not in (1, count):
        found = f"{len(layers)} masks" if layers.ndim == 3 else f"shape {tuple(mask.shape)}"
        raise InputMediaError(
            "Cannot use these masks",
            found=f"found {found} for {count} faces; expected one, or one each",
            kept="The images are unchanged",
            todo="Connect one mask, or a batch with a mask for each face",
        )
    return layers.expand(count, -1, -1) if len(layers) == 1 else layers


def to_host(tensor: Tensor) -> Tensor:
    """Bring a mask or crop to where the host keeps images."""
    return tensor.to(mm.intermediate_device())
