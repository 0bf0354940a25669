"""Files of several pictures, the pages of a TIFF and the frames of an animation: all of them in, all of them out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import OutputMediaError
from ..formats import picture_format
from .animation import ANIMATED, Frame, Play, animation_of, encode_animation, read_frames
from .picture import Picture
from .read import checked, decoding, read_whole
from .sniff import kind_of, picture_kind
from .tiff import page_offsets, read_page
from .tiff_join import join_tiffs
from .write import encode_picture


@dataclass(frozen=True, slots=True)
class Album:
    """A file of several pictures, which are decoded as they are taken."""

    path: Path
    kind: str
    """Name of its format."""
    count: int
    data: bytes
    play: Play | None = None
    """Of an animation."""

    @property
    def several(self) -> str:
        """What its pictures are called: frames or pages."""
        return picture_kind(self.kind).several

    def __iter__(self) -> Iterator[Frame]:
        """Yield the pictures in order.

        Raises:
            InputMediaError: as `read_picture`; the number of the picture is in the message.
        """
        frames = self._pages() if self.play is None else read_frames(self.path, self.data, self.kind)
        for number in range(self.count):
            with decoding(self.path, self.data, self.kind, f"{self.several[:-1]} {number + 1} of "):
                frame = next(frames)
            yield replace(frame, picture=checked(self.path, frame.picture))

    def _pages(self) -> Iterator[Frame]:
        offsets, notes = page_offsets(self.data)
        for number, offset in enumerate(offsets):
            picture = read_page(self.path, self.data, offset)
            yield Frame(picture if number else with_notes(picture, notes))


def with_notes(picture: Picture, notes: Iterable[str]) -> Picture:
    """Return a picture with further notes."""
    return replace(picture, notes=(*picture.notes, *notes))


def open_album(path: Path) -> Album | None:
    """Open a file as what it holds several pictures of; None where it holds one, and for formats that hold one.

    A GIF is an album of any count: what it is written with has to know which pixels changed.

    Raises:
        InputMediaError: as `read_picture`.
    """
    path = Path(path)
    data = read_whole(path)
    kind = kind_of(path, data)
    with decoding(path, data, kind):
        if kind == "tiff":
            offsets, _ = page_offsets(data)
            return Album(path, kind, len(offsets), data) if len(offsets) > 1 else None
        if kind in ANIMATED:
            play = animation_of(path, data, kind)
            if play is None and kind == "gif":
                play = Play(1, None)
            return None if play is None else Album(path, kind, play.count, data, play)
    return None


def require_album(path: Path, album: Album) -> None:
    """Refuse an output that cannot hold what an album holds.

    Raises:
        OutputMediaError: its format holds one picture, or pages and no frames, or the other way round.
    """
    named = picture_format(path)
    if named is None or album.count < 2 or (named.write and named.several == album.several):
        return
    raise OutputMediaError(
        f"Cannot write {path}",
        found=f"{album.path.name} holds {album.count} {album.several}, and {named.title} holds "
        f"{named.several or 'one picture'}",
        kept="Nothing was written",
        todo=f"Keep the suffix {picture_kind(album.kind).suffixes[0]}, or use --pages first",
    )


def encode_album(path: Path, album: Album, frames: Iterable[Frame], *, quality: int | None = None) -> bytes:
    """Return a file of several pictures in the format that `path` names.

    Raises:
        OutputMediaError: as `write_picture`.
    """
    require_album(path, album)
    named = picture_format(path)
    if album.play is None or named is None or named.name not in ANIMATED:
        pages = [encode_picture(path, frame.picture, quality=quality)[0] for frame in frames]
        return pages[0] if len(pages) == 1 else join_tiffs(pages)
    # Taken before the encoder runs: what reads them raises errors of its own.
    held = list(frames)
    try:
        return encode_animation(named.name, held, album.play, quality=quality)
    except (OSError, ValueError, MemoryError) as error:
        raise OutputMediaError(
            f"Cannot write {path}",
            found=f"the {named.title} encoder failed: {error}",
            kept="An older file of that name is untouched",
            todo="Use another format",
        ) from error
