"""Loading detectors and restorers for nodes, once for each file, under the host's model management."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..bfr_core.errors import SettingsError, WeightsError
from ..bfr_core.registry import get_method, methods
from .host import Managed, device, model_files, model_folders, model_path

if TYPE_CHECKING:
    from ..bfr_core.diffusion.guidance import IdentityGuide
    from ..bfr_core.faces.detect import Detector
    from ..bfr_core.faces.identity import FaceRecogniser
    from ..bfr_core.metrics.landmarks import FanLandmarks
    from ..bfr_core.restorer import Restorer

EMBEDDED = "embedded"
"""Choice in a file list that stands for the weights that come with the pack."""

AUTOMATIC = "automatic"
"""Choice in the detector's file list: the embedded weights, or a file known to work that lies in the folder."""

FIVE_POINTS = "five points"
"""Choice in the list of landmark networks that stands for none: the detector's own points."""

_FIRST = "irn"
"""The method that lists begin with, and so start from: it needs one pass and no file."""

_FOLDER = "facerestore_models"
_RECOGNISERS = "insightface"
_LANDMARKS = "facedetection"


@dataclass(frozen=True, slots=True)
class LoadedRestorer:
    """What BFR_RESTORER carries."""

    restorer: Restorer
    managed: Managed

    def guided(self, guide: IdentityGuide) -> LoadedRestorer:
        """Return the same network, steered to an identity.

        Raises:
            SettingsError: its method cannot be steered.
        """
        return LoadedRestorer(self.restorer.guided(guide), self.managed)


# Each entry carries the time of its file: a replaced file takes the place of the old one in memory.
_restorers: dict[tuple[str, str], tuple[float, LoadedRestorer]] = {}
_detectors: dict[tuple[str, str], tuple[float, Detector]] = {}
_recognisers: dict[str, tuple[float, FaceRecogniser]] = {}
_landmarks: dict[str, tuple[float, FanLandmarks]] = {}


def method_choices(*, embedded_only: bool = False) -> list[str]:
    """Return every method and config as `method/config`: those that need no file first, the default one before all."""
    pairs = [(method, config) for method in methods().values() for config in method.configs]
    pairs.sort(key=lambda pair: (not pair[1].embedded, pair[0].id != _FIRST))
    return [f"{method.id}/{config.name}" for method, config in pairs if config.embedded or not embedded_only]


def restorer_files() -> list[str]:
    """Return the choices of restorer weights: embedded, each folder that holds the parts of a network, each file."""
    files = model_files(_FOLDER)
    return [EMBEDDED, *_part_folders(files), *files]


def _part_folders(files: list[str]) -> dict[str, str]:
    """Return the folders whose files are named like the parts of one network, as `folder/`, with one of their files."""
    from ..bfr_core.weights.parts import named_like_parts

    inside: dict[str, list[str]] = {}
    for file in files:
        parent, _, _ = file.replace("\\", "/").rpartition("/")
        if parent:
            inside.setdefault(f"{parent}/", []).append(file)
    return {
        folder: names[0]
        for folder, names in sorted(inside.items())
        if any(named_like_parts(method, (Path(name).stem for name in names)) for method in methods().values())
    }


def _restorer_path(choice: str | None) -> Path | None:
    """Return the file or folder behind a choice of restorer weights, None for the embedded ones.

    Raises:
        WeightsError: it is there no longer.
    """
    if choice in (None, EMBEDDED):
        return None
    if choice.endswith("/"):
        # A folder that no longer holds the parts is asked for as a file, which says where it was looked for.
        member = _part_folders(model_files(_FOLDER)).get(choice)
        return model_path(_FOLDER, member).parent if member else model_path(_FOLDER, choice)
    return model_path(_FOLDER, choice)


def detector_files() -> list[str]:
    """Return the choices of detector weights."""
    return [AUTOMATIC, *model_files("facedetection")]


def get_restorer(choice: str, file: str = EMBEDDED) -> LoadedRestorer:
    """Return the restorer of a `method/config` choice, loaded on first use and again when its file changes.

    Raises:
        SettingsError: the choice is unknown.
        WeightsError: the weights cannot be used.
    """
    from ..bfr_core.restorer import load_restorer

    if choice not in method_choices():
        raise SettingsError(
            f"Unknown restorer {choice!r}",
            found=f"expected one of {', '.join(method_choices())}",
            kept="Nothing was started",
            todo="Choose one from the list; the workflow may come from a newer version of the pack",
        )
    method, config = choice.split("/")
    declared = get_method(method).config(config)
    if file == EMBEDDED and not declared.embedded:
        embedded = ", ".join(method_choices(embedded_only=True))
        where = f"; {declared.published} has the published ones" if declared.published else ""
        raise WeightsError(
            f"No weights of {choice} come with the pack",
            found="'embedded' was chosen; expected a file in models/facerestore_models, or a folder in it where the "
            "weights come in several files",
            kept="Nothing was started",
            todo=f"Choose yours in Load Face Restorer{where}, or one of {embedded}",
        )
    path = _restorer_path(file)
    key, stamp = (choice, file), _stamp(path)
    if key not in _restorers or _restorers[key][0] != stamp:
        restorer = load_restorer(method, config, weights=path)
        _restorers[key] = stamp, LoadedRestorer(restorer, Managed(restorer.net))
    return _restorers[key][1]


def get_detector(name: str = EMBEDDED, file: str = AUTOMATIC) -> Detector:
    """Return the detector called `name`, loaded on first use and again when its file changes.

    Raises:
        DetectorError: it cannot run here.
        WeightsError: its file cannot be used.
    """
    from ..bfr_core.faces.detect import load_detector

    path = None if file == AUTOMATIC else model_path("facedetection", file)
    key, stamp = (name, file), _stamp(path)
    if key not in _detectors or _detectors[key][0] != stamp:
        folders = model_folders("facedetection")
        _detectors[key] = stamp, load_detector(name, path=path, folders=folders, device=device())
    return _detectors[key][1]


def recogniser_files() -> list[str]:
    """Return the choices of face recognisers."""
    return [EMBEDDED, *model_files(_RECOGNISERS)]


def get_recogniser(file: str = EMBEDDED) -> FaceRecogniser:
    """Return the face recogniser in a file, loaded on first use and again when it changes.

    Raises:
        WeightsError: its file cannot be used.
    """
    from ..bfr_core.faces.identity import embedded_recogniser, load_recogniser

    with torch.inference_mode(False):  # it is there for gradients
        if file == EMBEDDED:
            return embedded_recogniser()
        path = model_path(_RECOGNISERS, file)
        stamp = path.stat().st_mtime
        if file not in _recognisers or _recognisers[file][0] != stamp:
            _recognisers[file] = stamp, load_recogniser(path)
        return _recognisers[file][1]


def landmark_files() -> list[str]:
    """Return the choices of landmark networks."""
    return [FIVE_POINTS, *(file for file in model_files(_LANDMARKS) if not file.lower().endswith(".onnx"))]


def get_landmarks(file: str) -> FanLandmarks:
    """Return the landmark network in a file, loaded on first use and again when it changes.

    Raises:
        WeightsError: its file cannot be used, or holds another network.
    """
    from ..bfr_core.metrics.landmarks import FanLandmarks

    path = model_path(_LANDMARKS, file)
    stamp = path.stat().st_mtime
    if file not in _landmarks or _landmarks[file][0] != stamp:
        _landmarks[file] = stamp, FanLandmarks.load(path)
    return _landmarks[file][1]


def file_stamp(folder: str, file: str | None) -> float:
    """Return what changes when the file of a choice is replaced, so that the host runs its loader again.

    A choice that comes over a link is None here; the node that gives it has a fingerprint of its own.
    """
    if file in (None, EMBEDDED, AUTOMATIC, FIVE_POINTS):
        return 0.0
    return _stamp(_restorer_path(file) if folder == _FOLDER else model_path(folder, file))


def _stamp(path: Path | None) -> float:
    """Return the time of a file; of a folder, or of a file that belongs to others beside it, the sum of all of them."""
    from ..bfr_core.weights.parts import candidates

    if path is None:
        return 0.0
    names = {Path(part.file).stem for method in methods().values() for part in method.parts}
    if path.is_dir() or path.stem in names:
        return sum(file.stat().st_mtime for file in candidates(path if path.is_dir() else path.parent))
    return path.stat().st_mtime
