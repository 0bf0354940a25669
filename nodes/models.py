"""Loading detectors and restorers for nodes, once for each file, under the host's model management."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..bfr_core.errors import SettingsError
from ..bfr_core.registry import methods
from .host import Managed, model_files, model_path

if TYPE_CHECKING:
    from ..bfr_core.faces.detect import Detector
    from ..bfr_core.restorer import Restorer

EMBEDDED = "embedded"
"""Choice in a file list that stands for the weights that come with the pack."""


@dataclass(frozen=True, slots=True)
class LoadedRestorer:
    """What BFR_RESTORER carries."""

    restorer: Restorer
    managed: Managed


_restorers: dict[tuple[str, str, str, float], LoadedRestorer] = {}
_detectors: dict[tuple[str, str, float], Detector] = {}


def method_choices() -> list[str]:
    """Return every method and config as `method/config`, those that need no file first."""
    pairs = [(method, config) for method in methods().values() for config in method.configs]
    pairs.sort(key=lambda pair: pair[1].embedded is None)
    return [f"{method.id}/{config.name}" for method, config in pairs]


def restorer_files() -> list[str]:
    """Return the choices of restorer weights."""
    return [EMBEDDED, *model_files("facerestore_models")]


def detector_files() -> list[str]:
    """Return the choices of detector weights."""
    return [EMBEDDED, *model_files("facedetection")]


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
    path = None if file == EMBEDDED else model_path("facerestore_models", file)
    method, config = choice.split("/")
    key = (method, config, str(path), _stamp(path))
    if key not in _restorers:
        restorer = load_restorer(method, config, weights=path)
        _restorers[key] = LoadedRestorer(restorer, Managed(restorer.net))
    return _restorers[key]


def get_detector(name: str = EMBEDDED, file: str = EMBEDDED) -> Detector:
    """Return the detector called `name`, loaded on first use and again when its file changes.

    Raises:
        DetectorError: it cannot run here.
        WeightsError: its file cannot be used.
    """
    from ..bfr_core.faces.detect import load_detector

    path = None if file == EMBEDDED else model_path("facedetection", file)
    key = (name, str(path), _stamp(path))
    if key not in _detectors:
        _detectors[key] = load_detector(name, path=path)
    return _detectors[key]


def _stamp(path: Path | None) -> float:
    return path.stat().st_mtime if path else 0.0
