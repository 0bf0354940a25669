"""Which streams of a clip its result can hold as they are, and how one is copied."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import OutputMediaError, SettingsError
from ..media.clips import is_cover, open_clip
from ..media.formats import FILMS
from ..media.pyav import disposition, has_chapters, open_input, open_output, set_disposition
from .encode import container_of
from .sound import Recipe, Sound, name_of_unknown, recipe_for
from .types import StreamInfo, VideoInfo

_TRIED_PACKETS = 400
"""Packets of a clip that are looked at for the first ones of each stream: some containers refuse only at a packet."""
_TRIED_SOUND = 30
"""Packets of sound that are decoded and stored, to see whether that can be done."""

KEEP_STAMPS = {"avoid_negative_ts": "disabled"}
"""For muxers: sound that begins before the pictures does so in the result, and nothing else moves for it."""

PLAIN_KEYS = {
    "mp4": {
        "title", "artist", "album_artist", "composer", "album", "date", "comment", "genre", "copyright", "grouping",
        "lyrics", "description", "synopsis", "show", "episode_id", "network", "keywords", "creation_time",
    },
    "mov": {"title", "artist", "album", "date", "comment", "genre", "copyright", "creation_time"},
}  # fmt: skip
"""Metadata that a container holds where players look for it; with others among them, all are written in a form that
holds any."""
_OF_THE_FILE = ("major_brand", "minor_version", "compatible_brands", "encoder")
"""What the muxer says of its own file."""


def plan_streams(info: VideoInfo, target: Path, drop: Collection[int] = ()) -> tuple[tuple[int, ...], list[str]]:
    """Return the streams that are copied beside the restored pictures, and what a person should know of the rest.

    Every stream is tried: its header and its first packets are written to memory. Data streams, such as time codes
    and camera telemetry, are not copied and noted; time code written in the metadata is kept with them. Sound that the
    container, or PyAV, does not take is kept as well, decoded (see `stored_sound`), and noted; sound without a decoder
    is left out and noted where there is another.

    Args:
        info: the clip.
        target: the result; its suffix names the container.
        drop: streams that a person does not need.

    Raises:
        SettingsError: `drop` names no stream, or the restored one.
        OutputMediaError: the container cannot hold a stream that is not dropped.
    """
    container = container_of(target)
    unknown = {stream.index for stream in info.streams if stream.kind == "audio" and not stream.codec}
    other_sound = any(each.kind == "audio" and each.index not in {*drop, *unknown} for each in info.streams)
    info = replace(info, streams=tuple(_named(info, stream) for stream in info.streams))
    there = {stream.index for stream in info.streams}
    for index in drop:
        if index not in there or index == info.video:
            what = "is the one that is restored" if index == info.video else "is not in the clip"
            raise SettingsError(
                f"Cannot drop stream {index}",
                found=f"it {what}; expected one of {sorted(there - {info.video})}",
                kept="Nothing was started and no file was changed",
                todo="Name other streams, or none",
            )
    notes = [f"stream {_title(stream)} is dropped, as asked" for stream in info.streams if stream.index in drop]
    wanted: list[StreamInfo] = []
    for stream in info.streams:
        if stream.index in drop or stream.index == info.video:
            continue
        if stream.kind in ("data", "unknown"):
            notes.append(f"stream {_title(stream)} is not copied")
        elif stream.index in unknown and other_sound:
            notes.append(f"stream {_title(stream)} is left out: this build of FFmpeg has no decoder for it")
        else:
            wanted.append(stream)
    refused = _try(info, container, wanted)
    recipes = _recipes(info, container, [stream for stream, _ in refused])
    notes += [_told(info, target, stream, recipes[stream.index]) for stream, _ in refused if stream.index in recipes]
    refused = [(stream, why) for stream, why in refused if stream.index not in recipes]
    if refused:
        names = "; ".join(f"{_title(stream)}: {why}" for stream, why in refused)
        numbers = ", ".join(str(stream.index) for stream, _ in refused)
        fits = [
            each for each in FILMS
            if each.write and each.name != container and not _unheld(info, each.name, [stream for stream, _ in refused])
        ]  # fmt: skip
        other = f"Choose {' or '.join(each.suffixes[0] for each in fits)}, or drop" if fits else "Drop"
        raise OutputMediaError(
            f"{target.suffix} cannot hold all streams of {info.path}",
            found=f"stream {names}",
            kept="Nothing was started and no file was changed",
            todo=f"{other} them by number: {numbers}",
        )
    if not has_chapters():
        import av

        notes.append(f"chapters are not copied: PyAV {av.__version__} cannot read them; expected 16 or newer")
    return tuple(stream.index for stream in wanted), notes


def stored_sound(info: VideoInfo, container: str, kept: Collection[int]) -> dict[int, Recipe]:
    """Return which of the streams that are kept are not copied but decoded, and how their sound is stored.

    Args:
        info: the clip.
        container: FFmpeg's name of the one to write.
        kept: indices of streams, from `plan_streams`.
    """
    sounds = [stream for stream in info.streams if stream.index in kept and stream.kind == "audio"]
    return _recipes(info, container, [stream for stream, _ in _try(info, container, sounds)])


def copy_stream(output: Any, stream: Any, path: Path) -> Any:
    """Add a stream to an output that takes the packets of `stream`, with its metadata and disposition.

    Args:
        output: an open container.
        stream: of the open clip.
        path: of the clip, from which a cover picture is read for Matroska, where it is an attachment.

    Raises:
        ValueError: the container, or this version of PyAV, cannot hold it. So do FFmpeg's errors.
    """
    if is_attached(stream, output.format.name):
        if not hasattr(output, "add_attachment"):
            raise ValueError("this version of PyAV writes no attachments; expected 16 or newer")
        if stream.type == "attachment":
            return output.add_attachment(stream.name or "attachment", stream.mimetype or "", stream.data)
        kind = "png" if stream.codec_context.name == "png" else "jpeg"
        name = stream.metadata.get("filename", f"cover.{kind.replace('jpeg', 'jpg')}")
        return output.add_attachment(name, stream.metadata.get("mimetype", f"image/{kind}"), _cover(path, stream.index))
    made = output.add_stream_from_template(stream)
    made.metadata.update(stream.metadata)
    set_disposition(made, disposition(stream))
    return made


def is_attached(stream: Any, container: str) -> bool:
    """Return whether a stream is written with the header of a container, and has no packets there."""
    return stream.type == "attachment" or (container == "matroska" and stream.type == "video" and is_cover(stream))


def _cover(path: Path, index: int) -> bytes:
    with open_clip(path) as container:
        for packet in container.demux(container.streams[index]):
            if packet.size:
                return bytes(packet)
    raise ValueError("it is empty")


def _title(stream: StreamInfo) -> str:
    told = ", ".join(part for part in (stream.kind, stream.codec or "unknown codec", stream.language) if part)
    return f"{stream.index} ({told})"


def _named(info: VideoInfo, stream: StreamInfo) -> StreamInfo:
    """Return a stream under the name that the file has for its codec, where FFmpeg has none."""
    if stream.codec or stream.kind == "attachment":
        return stream
    return replace(stream, codec=name_of_unknown(info.path, stream.index))


def _told(info: VideoInfo, target: Path, stream: StreamInfo, recipe: Recipe) -> str:
    """Say that a stream is decoded, and which containers would take it as it is."""
    container = container_of(target)
    takes = [each for each in FILMS if each.write and each.name != container and not _try(info, each.name, [stream])]
    other = f"; {' and '.join(each.suffixes[0] for each in takes)} would hold it as it is" if takes else ""
    return f"stream {_title(stream)} becomes {recipe.title}, which is what its decoder gives{other}"


def _unheld(info: VideoInfo, container: str, streams: Sequence[StreamInfo]) -> list[StreamInfo]:
    """Return the streams that a container holds neither as they are nor decoded."""
    refused = [stream for stream, _ in _try(info, container, streams)]
    recipes = _recipes(info, container, refused)
    return [stream for stream in refused if stream.index not in recipes]


def _recipes(info: VideoInfo, container: str, streams: Sequence[StreamInfo]) -> dict[int, Recipe]:
    """Return how a container holds the decoded sound of streams, those of which it can; their beginning is tried."""
    import av.error

    found: dict[int, Recipe] = {}
    for told in streams:
        if told.kind != "audio" or not told.codec:
            continue
        with open_clip(info.path) as source:
            stream = source.streams[told.index]
            recipe = recipe_for(stream, container)
            if recipe is None:
                continue
            output = open_output(io.BytesIO(), format=container)
            try:
                sound = Sound(output, stream, recipe)
                for _, packet in zip(range(_TRIED_SOUND), source.demux(stream), strict=False):
                    for ready in sound.take(packet):
                        output.mux(ready)
                for ready in sound.finish():
                    output.mux(ready)
                output.close()
                found[told.index] = recipe
            except (av.error.FFmpegError, ValueError, TypeError, OverflowError):
                _shut(output)
    return found


def _try(info: VideoInfo, container: str, wanted: Sequence[StreamInfo]) -> list[tuple[StreamInfo, str]]:
    """Return the streams that the container refuses or drops, and why."""
    import av.error

    errors = (av.error.FFmpegError, ValueError, TypeError)
    refused: dict[int, str] = {}
    tried: dict[int, tuple[io.BytesIO, Any, Any]] = {}
    written = dict.fromkeys((told.index for told in wanted), 0)
    shown = dict(written)
    with open_clip(info.path) as source:
        for told in wanted:
            file, index = io.BytesIO(), told.index
            output = open_output(file, format=container, options=KEEP_STAMPS)
            try:
                made = copy_stream(output, source.streams[index], info.path)
                output.start_encoding()
                if told.kind == "video" and not _same_header(made, source.streams[index]):
                    raise ValueError(f"PyAV {av.__version__} writes another header for it; expected 17 or newer")
                tried[index] = file, output, made
            except errors as error:
                refused[index] = str(error)
                _shut(output)
        for count, packet in enumerate(source.demux()):
            if count >= _TRIED_PACKETS or not tried:
                break
            index = packet.stream_index
            if index not in tried or not packet.size or is_attached(source.streams[index], container):
                continue
            if packet.dts is None and not is_cover(source.streams[index]):
                continue
            try:
                # Stamps of their own: what is asked is whether the container holds the stream, not when it is shown.
                packet.pts = packet.dts = shown[index]
                shown[index] += max(1, packet.duration or 1)
                packet.stream = tried[index][2]
                tried[index][1].mux(packet)
                written[index] += 1
            except errors as error:
                refused[index] = str(error)
                _shut(tried.pop(index)[1])
        for index, (file, output, _) in tried.items():
            try:
                output.close()
                if written[index] and not _holds_packets(file):
                    refused[index] = "it is dropped without a word"
            except errors as error:
                refused[index] = str(error)
    return [(told, refused[told.index]) for told in wanted if told.index in refused]


def _shut(output: Any) -> None:
    """Close a refused file in memory while that is still there: left to the garbage collector, PyAV 14 crashes."""
    with suppress(Exception):
        output.close()


def _same_header(made: Any, stream: Any) -> bool:
    """Tell whether a copied stream describes itself as before; PyAV before 17 opens an encoder that does otherwise."""
    if made.codec_context is None:
        return True
    return (made.codec_context.extradata or b"") == (stream.codec_context.extradata or b"")


def _holds_packets(file: io.BytesIO) -> bool:
    file.seek(0)
    with open_input(file) as written:
        return any(packet.size for packet in written.demux())


def of_the_clip(metadata: dict[str, str]) -> dict[str, str]:
    """Return what a container's metadata say of the clip, without what the muxer said of its file."""
    return {key: value for key, value in metadata.items() if key.lower() not in _OF_THE_FILE}


def lasts(key: str) -> bool:
    """Tell whether a note on the pictures still holds of the restored ones; those on the encoded data do not."""
    return key.lower() not in ("encoder", "rotate", "alpha_mode") and not key.startswith(
        ("BPS", "DURATION", "NUMBER_OF_", "_STAT")
    )
