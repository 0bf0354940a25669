"""The only loader: packages and files are checked here, kinds told, and each model is kept once.

Nothing falls back to another model: what was asked for runs on every call, or an error says why it cannot.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any

import torch

from ..errors import ModelError, WeightsError
from .checkpoints.cards import embedded
from .checkpoints.files import KEPT, sha256_of
from .registry import describe, specs
from .roles import ROLES
from .spec import Checkpoint, ModelSpec

_kept: dict[tuple[Any, ...], tuple[float, Any]] = {}
"""Each with the time of its file: a replaced file takes the place of the old one in memory."""
_lock = RLock()


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Whether a model can run here, for lists and drop-downs."""

    name: str
    title: str
    licence: str
    available: bool
    reason: str
    """Why not, or which file it would use."""


def load(
    which: ModelSpec | str,
    file: Path | None = None,
    *,
    config: str = "",
    device: torch.device | str | None = None,
    folders: Sequence[Path] = (),
    trust: bool = False,
    shared: bool = True,
    wrap: Callable[[Any], Any] | None = None,
) -> Any:
    """Return a model that is ready to run, in the shape of its role's protocol.

    Args:
        which: its declaration; or a role, whose model is told by the file, and is the first of the list without one.
        file: its weights; None for those that come with the package, or for a known file in `folders`.
        config: its size, where there are several; empty for the default or the one that the file tells.
        device: where it computes; the CPU when None.
        folders: where to look for a known file when none is given.
        trust: open a file whose hash is not known.
        shared: return the one that is kept for everybody who asks for the same, who must leave it as and where it is;
            else a new one, which is the caller's own.
        wrap: makes of the model, once, what is kept and returned in its place; the same for all who share.

    Raises:
        ModelError: a package that it needs is missing.
        WeightsError: its file is missing, unknown, damaged, or another model's.
    """
    where = torch.device(device or "cpu")
    if isinstance(which, str) and file is None:
        which = specs(which)[0]
    if isinstance(which, ModelSpec):
        _require_packages(which)
        if file is None and not which.embedded:
            file = search(which, folders)
    if not shared:
        return _open(which, file, config, where, trust, wrap)
    role, name = (which, "") if isinstance(which, str) else (which.role, which.id)
    key = (role, name, file, config, where, trust)
    with _lock:
        time = 0.0
        if file is not None and file.exists():
            time = file_time(file, *(specs(which) if isinstance(which, str) else (which,)))
        if key not in _kept or _kept[key][0] != time:
            _kept[key] = time, _open(which, file, config, where, trust, wrap)
        return _kept[key][1]


def available(role: str, folders: Sequence[Path] = ()) -> list[ModelInfo]:
    """Return every model of a role and whether it can run with the files in `folders`."""
    infos = []
    for spec in specs(role):
        if missing := _missing(spec):
            state, reason = False, f"needs {' and '.join(missing)}: {spec.install}"
        elif spec.embedded:
            state = all(embedded(name).is_file() for name in spec.embedded)
            reason = "comes with the package" if state else "its weights are missing: install the package again"
        else:
            try:
                state, reason = True, f"uses {search(spec, folders)}"
            except WeightsError as error:
                state, reason = False, f"needs a file: {error.todo}"
        infos.append(ModelInfo(spec.id, spec.title, spec.licence, state, reason))
    return infos


def known_file(spec: ModelSpec, folders: Sequence[Path]) -> Path | None:
    """Return the first known file of a model in `folders`, None where there is none."""
    paths = (folder / known.name for folder in folders for known in spec.files)
    return next((path for path in paths if path.is_file()), None)


def search(spec: ModelSpec, folders: Sequence[Path]) -> Path:
    """Return the first known file of a model in `folders`.

    Raises:
        WeightsError: there is none.
    """
    if (path := known_file(spec, folders)) is not None:
        return path
    looked = f"in {', '.join(map(str, folders))}" if folders else "because no path was given"
    raise WeightsError(
        f"The {ROLES[spec.role].title} {spec.id} has no weight file",
        found=f"found none {looked}; expected {spec.words}",
        kept=_kept_others(spec.role),
        todo=f"{_get(spec)} and give its path{_or_embedded(spec.role)}",
    )


def file_time(path: Path, *of: ModelSpec) -> float:
    """Return what changes when a file is replaced: its time, or the sum of those of all files that are read with it."""
    return sum(file.stat().st_mtime for file in {file for spec in of for file in spec.beside(path)})


def _open(
    which: ModelSpec | str,
    file: Path | None,
    config: str,
    device: torch.device,
    trust: bool,
    wrap: Callable[[Any], Any] | None,
) -> Any:
    # Who asks first may be in inference mode, whose tensors could never guide anybody.
    with torch.inference_mode(False):
        if file is not None and not file.exists():
            raise _no_file(which, file)
        checkpoint = Checkpoint(which if isinstance(which, ModelSpec) else specs(which)[0], file, device, config)
        if isinstance(which, str) and file is not None:
            checkpoint.spec = _told(which, checkpoint)
            _require_packages(checkpoint.spec)
        spec = checkpoint.spec
        if file is not None:
            _require_known(spec, file, trust=trust)
            if spec.detect and not spec.detect(checkpoint.state):
                raise _strange([spec], checkpoint)
        model = spec.load(checkpoint)
        if not isinstance(model, wanted := ROLES[spec.role].protocol):
            raise AssertionError(f"{spec.id} opened as {type(model).__name__}, which is no {wanted.__name__}")
        return wrap(model) if wrap else model


def _told(role: str, checkpoint: Checkpoint) -> ModelSpec:
    """Return the model that a file belongs to: by its keys, else by its hash, else the only one that reads its kind."""
    known, path = specs(role), checkpoint.path
    reads = [spec for spec in known if path.suffix.lower() in spec.suffixes] or [spec for spec in known if spec.detect]
    told = [spec for spec in reads if spec.detect]
    for spec in told:
        if spec.detect and spec.detect(checkpoint.state):
            return spec
    silent = [spec for spec in reads if not spec.detect]
    hashed = [spec for spec in silent if any(file.sha256 for file in spec.files)]
    if hashed:
        actual = sha256_of(path)
        for spec in hashed:
            if actual in {file.sha256 for file in spec.files}:
                return spec
    for spec in silent:
        if spec not in hashed:
            return spec
    raise _strange(known, checkpoint)


def _require_packages(spec: ModelSpec) -> None:
    if missing := _missing(spec):
        raise ModelError(
            f"The {ROLES[spec.role].title} {spec.id} cannot run here",
            found=f"{' and '.join(missing)} cannot be imported; expected {' and '.join(spec.needs)}",
            kept=_kept_others(spec.role),
            todo=f"Run `{spec.install}`{_or_embedded(spec.role)}",
        )


def _missing(spec: ModelSpec) -> list[str]:
    return [module for module in spec.needs if importlib.util.find_spec(module) is None]


def _require_known(spec: ModelSpec, path: Path, *, trust: bool) -> None:
    hashes = {known.sha256: known.name for known in spec.files if known.sha256}
    if trust or not hashes:
        return
    actual = sha256_of(path)
    if actual not in hashes:
        expected = " or ".join(f"{digest[:12]}... ({name})" for digest, name in hashes.items())
        raise WeightsError(
            f"Will not open {path} for the {ROLES[spec.role].title} {spec.id}",
            found=f"its sha256 is {actual}, expected {expected}",
            kept=KEPT,
            todo="Get the known file, or say that you trust this one (trust=True) if you know where it comes from",
        )


def _no_file(which: ModelSpec | str, path: Path) -> WeightsError:
    wanted = list(specs(which)) if isinstance(which, str) else [which]
    role = which if isinstance(which, str) else which.role
    named = [spec for spec in wanted if spec.files] or wanted
    of = f"the {ROLES[role].title}" + (f" {wanted[0].id}" if isinstance(which, ModelSpec) else "")
    return WeightsError(
        f"Cannot find the weights {path} of {of}",
        found=f"no such file; expected {' or '.join(spec.words for spec in named)}",
        kept=_kept_others(role),
        todo=f"{_get(named[0])} and put it there",
    )


def _strange(wanted: Sequence[ModelSpec], checkpoint: Checkpoint) -> WeightsError:
    role, titles = wanted[0].role, [spec.title for spec in wanted]
    names = [known.name for spec in wanted for known in spec.files[:1]]
    such = f", such as {' or '.join(names[:2])}" if names else ""
    others = f", or none for the {ROLES[role].title} that comes with the package" if specs(role)[0].embedded else ""
    return WeightsError(
        f"Cannot use {checkpoint.path} as a {ROLES[role].title}",
        found=f"the file holds {_contents(checkpoint)}; expected {_either(titles)}",
        kept=KEPT,
        todo=f"Give a file of {'one of these' if len(titles) > 1 else titles[0]}{such}{others}",
    )


def _either(words: Sequence[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _contents(checkpoint: Checkpoint) -> str:
    if "state" not in vars(checkpoint):  # of a format whose keys nobody read
        return "another model"
    keys = checkpoint.state
    return describe(keys, checkpoint.spec.role) or f"an unknown model with keys {', '.join(list(keys)[:3])}"


def _get(spec: ModelSpec) -> str:
    if not spec.files:
        return f"Get a file of {spec.title}"
    first = spec.files[0]
    digest = f"; sha256 {first.sha256[:12]}..." if first.sha256 else ""
    return f"Get {first.name} ({first.source}{digest})"


def _kept_others(role: str) -> str:
    return f"Nothing was changed and no other {ROLES[role].title} is used in its place"


def _or_embedded(role: str) -> str:
    """Point to the model of a role that comes with the package, where there is one."""
    first = specs(role)[0]
    return f", or choose the {ROLES[role].title} {first.id}" if first.embedded else ""
