"""Publish a file whole or not at all. No other module of the package opens a file for writing."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import OutputMediaError

TEMPORARY_PREFIX = ".bfr-"
"""Start of the name of an unfinished file; a run that was killed can leave one behind, safe to delete."""

_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_LOCKED = {errno.EACCES, errno.EPERM, errno.EROFS}


REJECTED = ".rejected"
"""After the name of a file that its own check refused."""


@contextmanager
def publish(
    path: Path, *, check: Callable[[Path], None] | None = None, token: str | None = None, sync: bool = True
) -> Iterator[BinaryIO]:
    """Give an open file beside `path` that becomes `path` when the block ends well.

    The file's `name` is its temporary path, with the suffix of `path`, for a writer that wants a path and not a
    handle. It is flushed and synced before it takes the name, so `path` holds the old file or the whole new one
    even after a power cut. Whatever ends the block early, Ctrl-C included, removes the temporary file.

    A `path` that is a symbolic link is replaced itself; the file that it points to stays as it is.

    Args:
        path: what the file becomes.
        check: looks at the finished temporary file. Where it raises an OutputMediaError, the file is kept as
            `<name>.rejected` and `path` is untouched.
        token: part of the temporary file's name instead of a random one. A file that a killed run left under it is
            written over, so only one run at a time may use it.
        sync: wait until it is on the disk. Without, a power cut can leave a damaged file under the name, which whoever
            reads it must notice.

    Raises:
        OutputMediaError: the folder is missing, a file or read-only, `path` is a folder, or the disk is full.
    """
    path = Path(path)
    if path.is_dir():
        raise _error(path, "a folder has that name", "Choose another name")
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{token or secrets.token_hex(8)}{path.suffix[:16]}")
    try:
        if token:
            temporary.unlink(missing_ok=True)
        handle = temporary.open("xb")
    except OSError as error:
        raise _translate(path, error, 0) from error
    written = 0
    try:
        with handle:
            yield handle
            handle.flush()
            written = os.fstat(handle.fileno()).st_size
            if sync:
                os.fsync(handle.fileno())
        if check:
            try:
                check(temporary)
            except OutputMediaError:
                temporary.replace(path.with_name(path.name + REJECTED))
                raise
        temporary.replace(path)
    except OSError as error:
        # An error that names another file is not about this one, such as an input that vanished during the block.
        if error.filename is not None and Path(os.fsdecode(error.filename)) not in (path, temporary):
            raise
        with suppress(OSError):
            written = written or temporary.stat().st_size
        raise _translate(path, error, written) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    if sync:
        _sync_folder(path.parent)


def require_writable(folder: Path) -> None:
    """Prove that a file can be made in `folder`, by making and removing an empty one.

    Permission bits are not asked: they say nothing to root, on network shares or on a read-only mount.

    Raises:
        OutputMediaError: the folder is missing, a file, read-only or full.
    """
    probe = folder / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
    try:
        probe.open("xb").close()
    except OSError as error:
        raise _translate(folder, error, 0) from error
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make `folder` and the folders above it where they are missing.

    Raises:
        OutputMediaError: a file stands in the way, or the place is read-only or full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _translate(folder, error, 0) from error


def _sync_folder(folder: Path) -> None:
    """Make the new name last; some file systems cannot sync a folder, and the file itself is safe by then."""
    if os.name != "posix":
        return
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _error(path: Path, found: str, todo: str) -> OutputMediaError:
    return OutputMediaError(
        f"Cannot write {path}",
        found=found,
        kept="No unfinished file is left, and an older file of that name is untouched",
        todo=todo,
    )


def _translate(path: Path, error: OSError, written: int) -> OutputMediaError:
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno in _FULL:
        free = ""
        with suppress(OSError):
            free = f", {shutil.disk_usage(path.parent).free} bytes are free"
        found = f"the disk, the quota or the largest allowed file is full ({reason}) after {written} bytes{free}"
        return _error(path, found, "Free some space or choose a folder on another disk, then run again")
    if error.errno in _LOCKED:
        return _error(path, f"the place is read-only for this user ({reason})", "Choose a folder you may write to")
    if isinstance(error, FileNotFoundError):
        return _error(path, f"the folder {path.parent} does not exist", "Make the folder, or choose another")
    if isinstance(error, (NotADirectoryError, FileExistsError)):
        return _error(path, f"a file stands where a folder is needed ({reason})", "Choose another folder")
    if isinstance(error, IsADirectoryError):
        return _error(path, "a folder has that name", "Choose another name")
    if error.errno == errno.ENAMETOOLONG:
        return _error(path, f"the name is too long ({reason})", "Choose a shorter name")
    return _error(path, f"the system refused: {reason}, after {written} bytes", "Choose another place, then run again")


def append_part(part: Path) -> BinaryIO:
    """Open an unfinished file to go on where it ended; `publish_part` gives it its name once it is whole.

    Raises:
        OutputMediaError: it cannot be written.
    """
    try:
        return part.open("ab")
    except OSError as error:
        raise _translate(part, error, 0) from error


def append_line(path: Path, line: bytes) -> None:
    """Add a line to a file, with the break before it: the last line may have been cut short by a kill.

    Raises:
        OSError: the system refused.
    """
    with path.open("ab") as file:
        file.write(b"\n" + line)


def publish_part(part: Path, target: Path) -> None:
    """Sync a finished part and give it its name.

    Raises:
        OutputMediaError: the target cannot be written.
    """
    try:
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(target)
    except OSError as error:
        raise _translate(target, error, 0) from error
    _sync_folder(target.parent)


def hold(path: Path) -> BinaryIO | None:
    """Open `path` and hold it against every other process and thread until it is closed, or this process ends.

    The system lets go of it whatever ends the process, so the file of a killed run holds nobody up.

    Returns:
        The open file, to read and write; None where somebody else holds it.

    Raises:
        OutputMediaError: the folder is missing or read-only.
    """
    try:
        file = path.open("a+b")
    except OSError as error:
        raise _translate(path, error, 0) from error
    try:
        _lock(file)
    except OSError:
        file.close()
        return None
    return file


def _lock(file: BinaryIO) -> None:
    if os.name == "nt":
        import msvcrt

        # Far behind the content, which others may read meanwhile.
        file.seek(1 << 30)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
    else:
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


def sweep(folder: Path) -> int:
    """Remove the unfinished files that killed runs left in a folder that nobody else writes to, and count them."""
    count = 0
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        with suppress(OSError):
            path.unlink()
            count += 1
    return count
