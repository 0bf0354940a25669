"""Face detectors behind one interface: which there are, which can run here, and how to get one.

Nothing falls back to another detector: what was asked for runs on every call, or an error says why it cannot.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ..errors import DetectorError, InputMediaError, WeightsError
from ..types import Face
from ..weights import embedded, sha256_of


@runtime_checkable
class Detector(Protocol):
    """Finds faces."""

    name: str

    def detect(self, frames: Tensor, *, threshold: float | None = None) -> list[list[Face]]:
        """Return the faces of every frame, the biggest first; no faces is an empty list.

        Args:
            frames: (B, 3, H, W) float32 RGB [0, 1].
            threshold: least score; None for the detector's own.
        """
        ...

    def to_device(self, device: torch.device | str) -> None:
        """Move what computes; detectors without torch stay where they are."""
        ...


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A weight file that a back end is known to work with."""

    name: str
    sha256: str
    source: str
    """Where it is published, in words."""
    url: str = ""
    """Where `bfr models fetch` gets it; empty where its licence wants the user to go there."""


@dataclass(frozen=True, slots=True)
class Backend:
    """One detector that can be asked for by name."""

    name: str
    title: str
    licence: str
    """Of the weights."""
    files: tuple[KnownFile, ...] = ()
    """Empty where the weights come with the package."""
    needs: tuple[str, ...] = ()
    """Modules to import."""
    install: str = ""


@dataclass(frozen=True, slots=True)
class DetectorInfo:
    """Whether a back end can run here, for lists and drop-downs."""

    name: str
    title: str
    licence: str
    available: bool
    reason: str
    """Why not, or which file it would use."""


BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend("embedded", "Ours, comes with the package", "MIT"),
        Backend(
            "yunet",
            "YuNet (OpenCV)",
            "MIT or Apache-2.0, by file",
            (
                KnownFile(
                    "yunet_n_dynamic.onnx",
                    "104ee26c71d5c270ce79a6b3dced91c91013260d29a6bf18f9296c5b8c4c2b12",
                    "ShiqiYu/libfacedetection.train, onnx/yunet_n_dynamic.onnx",
                ),
                KnownFile(
                    "face_detection_yunet_2023mar.onnx",
                    "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
                    "opencv/opencv_zoo, models/face_detection_yunet",
                    "https://media.githubusercontent.com/media/opencv/opencv_zoo/main/models/face_detection_yunet/"
                    "face_detection_yunet_2023mar.onnx",
                ),
            ),
            needs=("cv2",),
            install="pip install opencv-python",
        ),
        Backend(
            "insightface",
            "SCRFD (InsightFace)",
            "non-commercial research",
            (
                KnownFile(
                    "det_10g.onnx",
                    "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91",
                    "deepinsight/insightface, release v0.7, in buffalo_l.zip",
                ),
            ),
            needs=("insightface", "onnxruntime"),
            install="pip install 'bfr-faces[insightface]'",
        ),
        Backend(
            "facexlib",
            "RetinaFace (facexlib)",
            "MIT",
            (
                KnownFile(
                    "detection_Resnet50_Final.pth",
                    "6d1de9c2944f2ccddca5f5e010ea5ae64a39845a86311af6fdf30841b0a5a16d",
                    "xinntao/facexlib, release v0.1.0",
                    "https://github.com/xinntao/facexlib/releases/download/v0.1.0/detection_Resnet50_Final.pth",
                ),
                KnownFile(
                    "retinaface_mobilenet025.pth",
                    "2979b33ffafda5d74b6948cd7a5b9a7a62f62b949cef24e95fd15d2883a65220",
                    "biubug6/Pytorch_Retinaface, mobilenet0.25_Final.pth",
                ),
            ),
            needs=("facexlib",),
            install="pip install 'bfr-faces[facexlib]'",
        ),
    )
}
"""In the order of a drop-down."""


def load_detector(
    name: str = "embedded",
    *,
    path: Path | None = None,
    device: torch.device | str | None = None,
    folders: Sequence[Path] = (),
    trust: bool = False,
) -> Detector:
    """Return a detector that is ready to run.

    Args:
        name: one of BACKENDS.
        path: its weight file; for `embedded` another checkpoint of the same network.
        device: where it computes; the CPU when None.
        folders: where to look for a known file when no path is given.
        trust: use a weight file whose hash is not known.

    Raises:
        DetectorError: no such back end, or a package that it needs is missing.
        WeightsError: its file is missing, unknown or damaged.
    """
    backend = _backend(name)
    if missing := _missing(backend):
        raise DetectorError(
            f"The detector {name} cannot run here",
            found=f"{' and '.join(missing)} cannot be imported; expected {' and '.join(backend.needs)}",
            kept="Nothing was changed and no other detector is used in its place",
            todo=f"Run `{backend.install}`, or choose the detector embedded",
        )
    where = torch.device(device or "cpu")
    if name == "embedded":
        from .backends.embedded import EmbeddedDetector

        return EmbeddedDetector(path, where)
    file = _check(backend, path or _search(backend, folders), trust=trust)
    return _opener(name)(file, where)


def detectors(folders: Sequence[Path] = ()) -> list[DetectorInfo]:
    """Return every back end and whether it can run with the files in `folders`."""
    infos = []
    for backend in BACKENDS.values():
        if missing := _missing(backend):
            state, reason = False, f"needs {' and '.join(missing)}: {backend.install}"
        elif not backend.files:
            state = embedded("detector").is_file()
            reason = "comes with the package" if state else "its weights are missing: install the package again"
        else:
            try:
                state, reason = True, f"uses {_search(backend, folders)}"
            except WeightsError as error:
                state, reason = False, f"needs a file: {error.todo}"
        infos.append(DetectorInfo(backend.name, backend.title, backend.licence, state, reason))
    return infos


def check_frames(frames: Tensor) -> None:
    """Refuse what is not a batch of pictures.

    Raises:
        InputMediaError: another shape or type, or a side of zero.
    """
    if frames.ndim != 4 or frames.shape[1] != 3 or not frames.is_floating_point() or 0 in frames.shape[2:]:
        raise InputMediaError(
            "Cannot look for faces in this tensor",
            found=f"found shape {tuple(frames.shape)} of {frames.dtype}, expected (B, 3, H, W) of float32 in [0, 1]",
            kept="The tensor is unchanged",
            todo="Convert it to RGB planes first",
        )


def _backend(name: str) -> Backend:
    try:
        return BACKENDS[name]
    except KeyError:
        raise DetectorError(
            f"Unknown detector {name!r}",
            found=f"expected one of {', '.join(BACKENDS)}",
            kept="Nothing was changed",
            todo="Choose a detector from the list",
        ) from None


def _missing(backend: Backend) -> list[str]:
    return [module for module in backend.needs if importlib.util.find_spec(module) is None]


def _search(backend: Backend, folders: Sequence[Path]) -> Path:
    """Return the first known file in `folders`."""
    for folder in folders:
        for known in backend.files:
            if (folder / known.name).is_file():
                return folder / known.name
    first = backend.files[0]
    looked = f"in {', '.join(map(str, folders))}" if folders else "because no path was given"
    raise WeightsError(
        f"The detector {backend.name} has no weight file",
        found=f"found none {looked}; expected {' or '.join(known.name for known in backend.files)}",
        kept="Nothing was changed and no other detector is used in its place",
        todo=f"Get {first.name} ({first.source}; sha256 {first.sha256[:12]}...) and give its path, "
        "or choose the detector embedded",
    )


def _check(backend: Backend, path: Path, *, trust: bool) -> Path:
    """Return `path` if it is a file that may be opened."""
    if not path.is_file():
        raise WeightsError(
            f"Cannot find the weights {path} of the detector {backend.name}",
            found=f"no such file; expected {' or '.join(known.name for known in backend.files)}",
            kept="Nothing was changed and no other detector is used in its place",
            todo=f"Get {backend.files[0].name} ({backend.files[0].source}) and put it there",
        )
    if trust:
        return path
    actual = sha256_of(path)
    if actual not in {known.sha256 for known in backend.files}:
        expected = " or ".join(f"{known.sha256[:12]}... ({known.name})" for known in backend.files)
        raise WeightsError(
            f"Will not open {path} for the detector {backend.name}",
            found=f"its sha256 is {actual}, expected {expected}",
            kept="Nothing was loaded and the file is unchanged",
            todo="Get the known file, or say that you trust this one (trust=True) if you know where it comes from",
        )
    return path


def _opener(name: str) -> Callable[[Path, torch.device], Detector]:
    if name == "yunet":
        from .backends.yunet import YuNetDetector

        return YuNetDetector
    if name == "insightface":
        from .backends.scrfd import ScrfdDetector

        return ScrfdDetector
    from .backends.retinaface import RetinaFaceDetector

    return RetinaFaceDetector
