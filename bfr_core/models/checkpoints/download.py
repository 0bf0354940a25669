"""Fetch one known file, by an explicit act of the user: pinned address and hash, resumable, never in the background."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ...errors import WeightsError
from ...media.atomic import append_part, make_folder, publish_part
from .files import sha256_of

if TYPE_CHECKING:
    from http.client import HTTPResponse

OFFLINE = "BFR_OFFLINE"
"""Environment variable that forbids every download."""

_BLOCK = 1 << 18
_PATIENCE_S = 30.0


def download(
    url: str,
    target: Path,
    *,
    sha256: str,
    size: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> bool:
    """Bring `url` to `target` and prove that it is the expected file.

    A download that broke off leaves a part beside the target and goes on from there next time. A target that has
    the right hash already is left as it is.

    Args:
        url: https; plain http only from this machine, for tests and mirrors.
        target: where the file goes; its folder is made.
        sha256: hash of the file.
        size: its bytes, where known; more is never read.
        on_progress: hears bytes done and bytes in all (0 where the server does not say).

    Returns:
        Whether anything was fetched.

    Raises:
        WeightsError: downloads are switched off, the address is not https, the server fails, or the file is another.
        OutputMediaError: the target cannot be written.
    """
    if target.is_file() and sha256_of(target) == sha256:
        return False
    if os.environ.get(OFFLINE, "") not in ("", "0"):
        raise _error(target, f"{OFFLINE} is set", f"Unset {OFFLINE}, or put the file there yourself")
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost")):
        raise _error(target, f"the address is {url}; expected https", "Use the address the package names")
    make_folder(target.parent)
    # The name carries the hash: a part of another version is never continued.
    part = target.with_name(f".bfr-{sha256[:16]}.part")
    _continue(url, part, target, size, on_progress)
    if (actual := sha256_of(part)) != sha256:
        part.unlink()
        raise _error(
            target,
            f"the server's file has sha256 {actual}, expected {sha256}",
            "Try again; if it happens again the address serves another version, so get the file elsewhere",
        )
    publish_part(part, target)
    return True


def _continue(url: str, part: Path, target: Path, size: int | None, on_progress: Callable[[int, int], None]) -> None:
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    done = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "bfr", **({"Range": f"bytes={done}-"} if done else {})}
    request = Request(url, headers=headers)  # noqa: S310 - the scheme was checked
    try:
        answer: HTTPResponse
        with urlopen(request, timeout=_PATIENCE_S) as answer:  # noqa: S310
            if done and answer.status != 206:  # the server does not continue: from the start
                part.unlink()
                done = 0
            length = int(answer.headers.get("Content-Length") or 0)
            total = size or (done + length if length else 0)
            if (free := shutil.disk_usage(part.parent).free) < total - done:
                raise _error(
                    target, f"{free} bytes are free, expected {total - done}", "Free some space, then run again"
                )
            with append_part(part) as file:
                while block := answer.read(_BLOCK):
                    done += len(block)
                    if size is not None and done > size:
                        raise _error(target, f"the server sends more than {size} bytes", "Get the file elsewhere")
                    file.write(block)
                    on_progress(done, total)
            if total and done < total:
                raise _error(
                    target, f"the connection ended at {done} of {total} bytes", "Run again: it continues there"
                )
    except HTTPError as error:
        if error.code == 416:  # the part is whole, or not of this file: the hash decides
            return
        raise _error(target, f"the server answered {error.code} {error.reason} for {url}", "Try again later") from error
    except (URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise _error(
            target, f"{urlsplit(url).hostname} cannot be reached ({reason})", "Run again: it continues"
        ) from error


def _error(target: Path, found: str, todo: str) -> WeightsError:
    return WeightsError(
        f"Cannot download {target.name}",
        found=found,
        kept=f"{target} is untouched; a part that was fetched stays beside it",
        todo=todo,
    )
