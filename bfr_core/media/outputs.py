"""Decide which file becomes which, and refuse what would go wrong, before the first picture is read."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import BfrError, InputMediaError, OutputMediaError, SettingsError
from .atomic import make_folder, require_writable
from .formats import (
    FILMS,
    PICTURES,
    FilmFormat,
    PictureFormat,
    becomes_film,
    content_format,
    film_format,
    is_clip,
    is_picture_and_film,
    misnamed,
    picture_format,
    suffixes,
)

OUTPUT_FOLDER = "the output folder"
"""Why results of an earlier run are passed over."""

_LONGEST_NAME = 255
_WINDOWS_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in "123456789¹²³")}
_WINDOWS_FORBIDDEN = set('<>:"/\\|?*') | {chr(code) for code in range(32)}


@dataclass(frozen=True, slots=True)
class _Kind:
    """What sort of file is planned for."""

    name: str
    formats: tuple[PictureFormat | FilmFormat, ...]
    default: str | None
    """Suffix of results whose input has one that is not written; None refuses them."""

    @property
    def read(self) -> tuple[str, ...]:
        """Suffixes of inputs."""
        return suffixes(self.formats)

    @property
    def written(self) -> dict[str, str]:
        """Suffixes of outputs, and the format that each one names."""
        return {suffix: each.name for each in self.formats if each.write for suffix in each.suffixes}


_PICTURES = _Kind("picture", PICTURES, None)
_BOTH = _Kind("picture or clip", (*PICTURES, *FILMS), ".mkv")


@dataclass(frozen=True, slots=True)
class FilePair:
    """One file to read and where its result goes."""

    source: Path
    target: Path

    @property
    def film(self) -> bool:
        """Whether it is restored as a film; a GIF is one if its result is named as one."""
        return becomes_film(self.source, self.target)


@dataclass(frozen=True, slots=True)
class PassedOver:
    """What a search of a folder found and did not take."""

    path: Path
    why: str
    """A few words."""


Standing = Callable[[FilePair], str | None]
"""Tells of a result that is there: an empty text where it is finished as it would be made now, what is in the way of
going on with it, or None where nothing is known of it."""


def plan_outputs(
    inputs: Sequence[Path],
    out: Path,
    *,
    suffix: str | None = None,
    overwrite: bool = False,
    clips: bool = False,
    make: bool = True,
    standing: Standing = lambda job: None,
) -> list[FilePair]:
    """Pair every input picture with its output file, and make the output folders.

    Folders among the inputs are searched with their sub-folders, whose layout is kept below `out`; hidden names,
    linked folders and `out` itself are passed over. `out` is the output file when the one input is a file and `out`
    ends in a picture suffix without being a folder; otherwise it is a folder. A picture named twice is one job.

    Nothing is made on disk unless the whole plan holds.

    Args:
        inputs: picture files and folders.
        out: output file or folder.
        suffix: suffix of the outputs, such as '.png'; None keeps each input's own.
        overwrite: replace results of an earlier run. An input is never replaced, under any of its names.
        clips: take clips, too; those in a container that is not written become an .mkv.
        make: make the output folders; where it is off, `make_places` does it later.
        standing: what is known of results that are there; those that are finished are no reason to refuse.

    Returns:
        Jobs in the order of `inputs`, each folder's sorted by path.

    Raises:
        InputMediaError: an input is missing, no regular file, or not named as a picture; a folder cannot be searched;
            no picture is found.
        OutputMediaError: an output is an input, exists already, is asked for twice, leaves the output folder, or has
            a name the system cannot hold; the output folder is a file or read-only.
        SettingsError: `suffix` is no picture suffix, or contradicts the output file's.
    """
    return _plan(_BOTH if clips else _PICTURES, inputs, Path(out), suffix, overwrite, make, standing)


def passed_over(inputs: Sequence[Path], out: Path, *, clips: bool = False) -> list[PassedOver]:
    """Return what `plan_outputs` finds in the folders among its inputs and does not take, sorted by path.

    Files that another of the inputs names are among them; results of an earlier run in `out` are named as one folder.

    Raises:
        InputMediaError: a folder cannot be searched.
    """
    read = (_BOTH if clips else _PICTURES).read
    found: dict[Path, PassedOver] = {}
    for folder in filter(Path.is_dir, map(Path, inputs)):
        for inner, why in _walk(folder, Path(out), read):
            if why:
                found.setdefault(folder / inner, PassedOver(folder / inner, why))
    return sorted(found.values(), key=lambda each: each.path.parts)


def _plan(
    kind: _Kind, inputs: Sequence[Path], out: Path, suffix: str | None, overwrite: bool, make: bool, standing: Standing
) -> list[FilePair]:
    formats = kind.written
    suffix = suffix.lower() if suffix is not None else None
    if suffix is not None and suffix not in formats:
        expected = f"expected one of {', '.join(formats)}"
        raise _error(
            SettingsError, "Cannot use this output suffix", f"found '{suffix}', {expected}", "Use one of these"
        )
    pairs = list(_pair(inputs, out, kind.read))
    if not pairs:
        places = ", ".join(map(str, inputs)) or "an empty list of inputs"
        found = f"found no file ending in {', '.join(kind.read)} in {places}"
        todo = f"Name a {kind.name}, or a folder of them"
        raise _error(InputMediaError, f"There is no {kind.name} to restore", found, todo)
    named = picture_format(out) or film_format(out)
    if len(inputs) == 1 and pairs[0][1] is None and named is not None and not named.write and not out.is_dir():
        found = f"{named.title} is read and not written; expected one of {', '.join(formats)}"
        raise _error(OutputMediaError, f"Cannot write {out}", found, "Give the output one of these suffixes")
    if len(inputs) == 1 and pairs[0][1] is None and out.suffix.lower() in formats and not out.is_dir():
        if suffix is not None and formats[suffix] != formats[out.suffix.lower()]:
            found = f"the output is {out}, and the suffix asked for is {suffix}"
            raise _error(SettingsError, "The output has two formats", found, "Leave one of them out")
        folder, jobs = out.parent, [FilePair(pairs[0][0], out)]
    else:
        folder, jobs = out, [FilePair(source, _target(source, inner, out, suffix, kind)) for source, inner in pairs]
    _check_kinds(jobs)
    _check_names(jobs)
    _check_folders(jobs, folder)
    _check_collisions(jobs, folder)
    _check_existing(jobs, overwrite, standing)
    if make:
        make_places(jobs)
    return jobs


def make_places(jobs: Sequence[FilePair]) -> None:
    """Make the folders of a plan's outputs, and prove that files can be made there.

    Raises:
        OutputMediaError: one cannot be made or written.
    """
    for place in sorted({job.target.parent for job in jobs}):
        make_folder(place)
        require_writable(place)


def _error(tree: type[BfrError], what: str, found: str, todo: str) -> BfrError:
    return tree(what, found=found, kept="Nothing was started and no file was changed", todo=todo)


def _pair(inputs: Sequence[Path], out: Path, read: tuple[str, ...]) -> Iterator[tuple[Path, Path | None]]:
    """Yield every input once, with its path inside its input folder (None for a file named by itself)."""
    seen: set[Path] = set()
    for path in map(Path, inputs):
        try:
            mode = path.stat().st_mode
        except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
            missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
            found = "there is no such file or folder" if missing else f"the system refused: {error}"
            raise _error(InputMediaError, f"Cannot read {path}", found, "Check the name and the folder") from error
        if stat.S_ISDIR(mode):
            found_here = [(path / inner, inner) for inner in _search(path, out, read)]
        elif stat.S_ISREG(mode):
            found_here = [(path, None)]
        else:
            found = "it is a pipe, socket or device; expected a regular file or a folder"
            raise _error(InputMediaError, f"Cannot read {path}", found, "Save it to a file first")
        for source, inner in found_here:
            # Told apart by name and not by file: two links to one file are two jobs.
            name = source.parent.resolve() / source.name
            if name not in seen:
                seen.add(name)
                yield source, inner


def _search(folder: Path, out: Path, read: tuple[str, ...]) -> list[Path]:
    """Return the files below `folder` that end in one of `read`, relative to it, sorted."""
    return sorted((path for path, why in _walk(folder, out, read) if not why), key=lambda path: path.parts)


def _walk(folder: Path, out: Path, read: tuple[str, ...]) -> Iterator[tuple[Path, str]]:
    """Yield what is below `folder`, relative to it, and why it is not taken, which is empty for what is.

    Of a folder that is not searched, only its own name comes.
    """

    def refuse(error: OSError) -> None:
        found = f"the system refused: {error}"
        raise _error(InputMediaError, f"Cannot search {folder}", found, "Change its permissions") from error

    results = out.resolve()
    for root, folders, names in os.walk(folder, onerror=refuse):
        here = Path(root)
        inner = here.relative_to(folder)
        entered = []
        for name in folders:
            why = _why_not_entered(here / name, results)
            if why:
                yield inner / name, why
            else:
                entered.append(name)
        folders[:] = entered
        for name in names:
            taken = Path(name).suffix.lower() in read
            why = "hidden" if name.startswith(".") else "" if taken else Path(name).suffix.lower() or "no suffix"
            yield inner / name, why


def _why_not_entered(folder: Path, results: Path) -> str:
    if folder.name.startswith("."):
        return "hidden"
    if folder.resolve() == results:  # results of an earlier run are not inputs of this one
        return OUTPUT_FOLDER
    return "a link to a folder" if folder.is_symlink() else ""


def _target(source: Path, inner: Path | None, out: Path, suffix: str | None, kind: _Kind) -> Path:
    named = Path(source.name) if inner is None else inner
    by_name = picture_format(named)
    if by_name is not None and not by_name.read:
        raise _error(InputMediaError, f"Cannot read {source}", f"it is named as {by_name.title}", by_name.instead)
    told = content_format(source)
    strange = not is_picture_and_film(source) and is_clip(source) != (film_format(named) is not None)
    if suffix is None and told in kind.formats and strange:
        # A film that is named like a picture or like nothing, or a picture like a film: the result is named right.
        suffix = told.suffixes[0] if told.write else kind.default
    known = named.suffix.lower() in (*kind.read, *kind.written)
    if suffix is None and known and named.suffix.lower() not in kind.written:
        suffix = kind.default
    if suffix is not None:
        named = named.with_suffix(suffix) if known else named.with_name(named.name + suffix)
    elif not known:
        found = f"its suffix is '{named.suffix}'; expected one of {', '.join(kind.written)}"
        raise _error(InputMediaError, f"Cannot tell the output format for {source}", found, "Ask for an output suffix")
    return out / named


def _check_kinds(jobs: list[FilePair]) -> None:
    """Refuse to make a picture of a clip, or a clip of a picture; a GIF is both."""
    for job in jobs:
        if is_picture_and_film(job.source):
            continue
        named = picture_format(job.target)
        film = is_clip(job.source)
        if film == (named is not None and named.write):
            told = misnamed(job.source)
            what = "a clip, and its output is named as a picture" if film else "no clip, and its output is named so"
            raise _error(
                OutputMediaError, f"Cannot write {job.target}",
                f"{job.source} is {what}{f' ({told})' if told else ''}", "Choose another suffix",
            )  # fmt: skip


def _check_names(jobs: list[FilePair], *, windows: bool = os.name == "nt") -> None:
    """Refuse names the system cannot hold, which would otherwise end the run in its middle."""
    for job in jobs:
        name = job.target.name
        length = len(name.encode("utf-16-le")) // 2 if windows else len(os.fsencode(name))
        if length > _LONGEST_NAME:
            found = f"the name has {length} units; file systems hold {_LONGEST_NAME}"
            raise _error(OutputMediaError, f"Cannot write {job.target}", found, "Shorten the input's name")
        # Windows opens the device even where a suffix follows, and drops dots and spaces at the end.
        device = name.split(".")[0].rstrip(" ").lower() in _WINDOWS_DEVICES
        if windows and (device or name[-1] in " ." or set(name) & _WINDOWS_FORBIDDEN):
            found = "Windows reserves this name or a character in it"
            raise _error(OutputMediaError, f"Cannot write {job.target}", found, "Rename the input")


def _check_folders(jobs: list[FilePair], folder: Path) -> None:
    """Refuse an output folder that is a file, is read-only, or leads elsewhere through a link."""
    root = folder.resolve()
    for place in sorted({job.target.parent for job in jobs}):
        resolved = place.resolve()
        if not resolved.is_relative_to(root):
            found = f"it leads to {resolved}, outside the output folder {root}"
            raise _error(
                OutputMediaError, f"Cannot write to {place}", found, "Remove the link or choose another folder"
            )
        # The nearest path that is there decides whether the rest can be made.
        standing = next(path for path in (resolved, *resolved.parents) if os.path.lexists(path))
        if not standing.is_dir():
            found = f"{standing} is not a folder"
            raise _error(OutputMediaError, f"Cannot write to {place}", found, "Choose another output folder")
        require_writable(standing)


def _check_collisions(jobs: list[FilePair], folder: Path) -> None:
    """Refuse two inputs that would become one output, on disks that fold case too."""
    folds = _folds_case(folder)
    owners: dict[str, FilePair] = {}

    def key(path: Path) -> str:
        return unicodedata.normalize("NFC", str(path)).casefold() if folds else str(path)

    for job in jobs:
        other = owners.setdefault(key(job.target), job)
        if other is not job:
            found = f"{other.source} and {job.source} would both become {job.target}"
            raise _error(OutputMediaError, "Two inputs have one output", found, "Restore them into two folders")
    for job in jobs:
        for above in job.target.parents:
            if other := owners.get(key(above)):
                found = f"{other.source} would become the file {above}, and {job.source} needs a folder of that name"
                raise _error(OutputMediaError, "Two inputs have one output", found, "Restore them into two folders")


def _folds_case(folder: Path) -> bool:
    """Tell whether the disk takes 'a' and 'A' for one name, by looking up a standing folder in the other case."""
    for path in (folder.resolve(), *folder.resolve().parents):
        other = path.with_name(path.name.swapcase()) if path.name else path
        if path.exists() and other != path:
            return other.exists() and other.samefile(path)
    return os.name == "nt"


def _check_existing(jobs: list[FilePair], overwrite: bool, known: Standing) -> None:
    """Refuse outputs that are inputs under any name, and outputs that are there already."""
    # The file's number sees through links, hard links and case, which no comparison of names does.
    sources: dict[tuple[int, int], Path] = {}
    for job in jobs:
        try:
            status = job.source.stat()
        except OSError:
            continue  # a broken link in a searched folder: reading it reports it, for that one picture
        sources[status.st_dev, status.st_ino] = job.source
    standing = [job for job in jobs if os.path.lexists(job.target)]
    for job in standing:
        if job.target.is_dir():
            raise _error(OutputMediaError, f"Cannot write {job.target}", "a folder has that name", "Rename the input")
        try:
            status = job.target.stat()
        except OSError:
            continue  # a broken link: replaced, or refused below
        if source := sources.get((status.st_dev, status.st_ino)):
            found = f"it is the input {source}, which would be lost"
            raise _error(OutputMediaError, f"Will not write over {job.target}", found, "Choose another output folder")
    if overwrite:
        return
    told = [(job, why) for job in standing if (why := known(job)) != ""]
    if told:
        first, why = told[0]
        more = f", and {len(told) - 1} more results that are there" if len(told) > 1 else ""
        found = (why or "it exists already") + more
        todo = "Choose another output folder, or allow overwriting"
        raise _error(OutputMediaError, f"Will not write over {first.target}", found, todo)
