"""Getting models for nodes from the one loader, under the host's model management."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bfr_core.errors import SettingsError, WeightsError
from ..bfr_core.models.loader import file_time, load
from ..bfr_core.models.registry import get_spec, specs
from ..bfr_core.models.usable import unfit
from ..bfr_core.registry import get_method, methods
from .compat import io, option
from .host import FOLDERS, Managed, device, model_files, model_folders, model_path

if TYPE_CHECKING:
    from ..bfr_core.diffusion.guidance import IdentityGuide
    from ..bfr_core.faces.identity import RecognizerNet
    from ..bfr_core.models.roles import FaceDetector, FaceLandmarker
    from ..bfr_core.restorer import Restorer

EMBEDDED = "embedded"
"""Choice in a file list that stands for the weights that come with the pack."""

AUTOMATIC = "automatic"
"""Choice in the detector's file list: the embedded weights, or a file known to work that lies in the folder."""

FIVE_POINTS = "five points"
"""Choice in the list of landmark networks that stands for none: the detector's own points."""

_TOLD = 8
"""Files that a tooltip tells of at most."""

_FOLDERS = {role: folder for folder, roles in FOLDERS.items() for role in roles}
"""The model folder of each role that nodes choose files of."""

_WITHOUT = {"detector": AUTOMATIC, "landmarker": FIVE_POINTS, "recognizer": EMBEDDED, "restorer": EMBEDDED}
"""The choice that stands for no file of one's own, the first of each list."""


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


def method_choices(*, embedded_only: bool = False) -> list[str]:
    """Return every method and config as `method/config`: those that need no file first, the default one before all."""
    pairs = [(method, config) for method in methods().values() for config in method.configs]
    pairs.sort(key=lambda pair: (not pair[1].embedded, not pair[0].default))
    return [f"{method.id}/{config.name}" for method, config in pairs if config.embedded or not embedded_only]


def method_labels() -> dict[str, str]:
    """Return what people read in place of each of `method_choices`: its title, and what to expect of it in one line."""
    labels = {}
    for method in methods().values():
        for config in method.configs:
            known = config.embedded and method.traits
            labels[f"{method.id}/{config.name}"] = f"{method.title}: {method.traits if known else config.title}"
    return labels


def method_input(tooltip: str, *, embedded_only: bool = True) -> Any:
    """Return the widget of which method restores; pages show the labels of the choices."""
    labels, choices = method_labels(), method_choices(embedded_only=embedded_only)
    shown = {choice: labels[choice] for choice in choices}
    told = "".join(f"\n- {label} ({choice})" for choice, label in shown.items())
    return option(io.Combo, "method", options=choices, tooltip=f"{tooltip}{told}", extra_dict={"labels": shown})


def _files_by_use(role: str) -> dict[str, str]:
    """Return the files that the models of a role might read, each with why it is of no use; empty where it is."""
    suffixes = tuple({suffix for spec in specs(role) for suffix in spec.suffixes})
    folder = _FOLDERS[role]
    files = [file for file in model_files(folder) if file.lower().endswith(suffixes)]
    return {file: unfit(role, model_path(folder, file)) for file in files}


def files_of(role: str) -> list[str]:
    """Return the choices of files of a role: the one that stands for none, then those that one of its models can use.

    Told by their headers: other packs keep files of their own in the same folders.
    """
    return [_WITHOUT[role], *(file for file, why in _files_by_use(role).items() if not why)]


def left_out(role: str) -> str:
    """Say which files in the folder of a role are not offered and why, to follow a tooltip; empty where all are."""
    why = [reason for reason in _files_by_use(role).values() if reason]
    more = f"\nand {len(why) - _TOLD} more" if len(why) > _TOLD else ""
    return "\nNot offered:" + "".join(f"\n- {reason}" for reason in why[:_TOLD]) + more if why else ""


def check_file(role: str, choice: str | None) -> bool | str:
    """Tell a host whether it may begin with a choice of files, or in one sentence why not.

    A choice that comes over a link is None.
    """
    if choice is None or choice in files_of(role) or choice.endswith("/"):
        return True
    if reason := _files_by_use(role).get(choice):
        return reason
    return f"{choice} is not in models/{_FOLDERS[role]}; press R to read the list again, and choose another"


def restorer_files() -> list[str]:
    """Return the choices of restorer weights: embedded, each folder that holds the parts of a network, each file."""
    first, *files = files_of("restorer")
    # Folders with a part that cannot be used are offered, too: the loader says which part and why.
    return [first, *_part_folders(list(_files_by_use("restorer"))), *files]


def _part_folders(files: list[str]) -> dict[str, str]:
    """Return the folders whose files are named like the parts of one network, as `folder/`, with one of their files."""
    from ..bfr_core.models.checkpoints.parts import named_like_parts

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


def _path_of(role: str, choice: str | None) -> Path | None:
    """Return the file or folder behind a choice, None for the one that stands for none.

    Raises:
        WeightsError: it is there no longer.
    """
    folder = _FOLDERS[role]
    if choice in (None, _WITHOUT[role]):
        return None
    if choice.endswith("/"):
        # A folder that no longer holds the parts is asked for as a file, which says where it was looked for.
        member = _part_folders(model_files(folder)).get(choice)
        return model_path(folder, member).parent if member else model_path(folder, choice)
    return model_path(folder, choice)


def get_restorer(choice: str, file: str = EMBEDDED) -> LoadedRestorer:
    """Return the restorer of a `method/config` choice, loaded on first use and again when its file changes.

    Raises:
        SettingsError: the choice is unknown.
        WeightsError: the weights cannot be used.
    """
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
    return load(get_spec("restorer", method), _path_of("restorer", file), config=config, wrap=_managed)


def _managed(restorer: Restorer) -> LoadedRestorer:
    return LoadedRestorer(restorer, Managed(restorer.net))


def get_detector(name: str = EMBEDDED, file: str = AUTOMATIC) -> FaceDetector:
    """Return the detector called `name`, loaded on first use and again when its file changes.

    Raises:
        ModelError: it cannot run here.
        WeightsError: its file cannot be used.
    """
    spec, folders = get_spec("detector", name), model_folders(_FOLDERS["detector"])
    return load(spec, _path_of("detector", file), folders=folders, device=device())


def get_recogniser(file: str = EMBEDDED) -> RecognizerNet:
    """Return the face recogniser in a file, loaded on first use and again when it changes.

    Raises:
        WeightsError: its file cannot be used.
    """
    return load("recognizer", _path_of("recognizer", file))


def get_landmarks(file: str) -> FaceLandmarker:
    """Return the landmark network in a file, loaded on first use and again when it changes.

    Raises:
        WeightsError: its file cannot be used, or holds another network.
    """
    return load("landmarker", _path_of("landmarker", file))


def file_stamp(role: str, choice: str | None) -> float:
    """Return what changes when the file of a choice is replaced, so that the host runs its loader again.

    A choice that comes over a link is None here; the node that gives it has a fingerprint of its own.
    """
    path = _path_of(role, choice)
    return 0.0 if path is None else file_time(path, *specs(role))
