"""A VIDEO of the host as a file that the passes over a film read, and the job that goes over it."""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import os
import secrets
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from ..bfr_core.errors import InputMediaError, OutputMediaError
from ..bfr_core.media.atomic import publish
from ..bfr_core.media.clips import open_clip
from ..bfr_core.restoration.kept import DiskShelf, KeptFaces
from ..bfr_core.runtime import Runtime
from ..bfr_core.video.encode import Colour, EncodeSettings
from ..bfr_core.video.job import FilmJob
from ..bfr_core.video.lossless import SUFFIX, write_lossless
from ..bfr_core.video.options import FilmOptions
from ..bfr_core.video.plan import FilmModels, Plan, expected_frames, plan_film
from ..bfr_core.video.probe import probe
from ..bfr_core.video.reader import file_fingerprint
from ..bfr_core.video.segments import measure
from ..bfr_core.video.types import Preview
from .compat import InputImpl
from .host import FilmBar, check_cancel, new_temporary, temporary_folder

_FOLDER = "bfr_video"
_FINE_CRF = 8
"""For copies that the host has to encode: nothing visible is lost before the restored film is encoded once more."""

_TINY_S = 1e-6
"""Less than any time between two frames."""

_SLACK_S = 0.05
"""By how much a length may differ without anything having been cut off."""


@dataclass(frozen=True, slots=True)
class Film:
    """A video as a file."""

    path: Path
    name: str
    """For messages."""
    frames: int
    """As the header says; 0 where it does not, for the progress alone."""
    window: tuple[float, float] | None = None
    """Start and length in seconds of the part that is meant; None for all of it."""
    copied: bool = False
    """The file is a copy in the temp directory, made here."""
    from_memory: bool = False
    """Its frames were in memory, so that no file says how to encode them."""
    rate: Fraction | None = None
    """Frames a second of one that has no times, as its header guesses."""
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Return what tells the video from others and from other parts of itself."""
        return _digest(file_fingerprint(self.path), self.window)


def open_film(video: Any) -> Film:
    """Return a VIDEO as a file with the part of it that is meant, streaming wherever the host's object lets it.

    A file stays where it is. Frames in memory are written without loss, and what is cut out or scaled by the host when
    it saves is saved by it, both to the temp directory and under a name made of the content, so that the same video
    has the same file.

    Raises:
        InputMediaError: it cannot be read.
        OutputMediaError: the temp directory cannot be written.
    """
    if isinstance(video, InputImpl.VideoFromComponents):
        return _from_memory(video.get_components())
    if getattr(video, "has_pending_frame_edits", lambda: False)():
        return _saved(video)
    source = video.get_stream_source()
    if isinstance(source, (str, os.PathLike)):
        film = Film(Path(source), Path(source).name, 0)
    else:
        film = Film(_from_buffer(source), "video", 0, copied=True)
    info = probe(film.path)
    # The host's size may be that of the stored pixels, before they are turned upright.
    if sorted(video.get_dimensions()) != sorted((info.width, info.height)):
        return _saved(video)
    window = _window(video, info.seconds)
    if window is None:
        return _saved(video)
    start, length = window
    meant = None
    if start or length:
        # The host rounds both ends down to a time stamp, and sums of floats can lie just above one.
        begin = max(start - _TINY_S, 0.0)
        meant = (begin, start + length - _TINY_S - begin if length else float("inf"))
    rate = info.rate if info.start is None else None
    return replace(film, frames=expected_frames(info, meant), window=meant, rate=rate)


def _window(video: Any, seconds: float | None) -> tuple[float, float] | None:
    """Return start and length of the part that is meant, a length of 0 for all the rest; None where nobody tells.

    `get_stream_source` gives the whole file whatever part of it is meant.
    """
    asked = getattr(video, "get_active_trim_window", None)
    if asked is not None:
        start, length = asked()
        return float(start or 0), float(length or 0)
    if isinstance(video, InputImpl.VideoFromFile):
        # Hosts up to 0.20 keep it to themselves and could only decode the part to memory and encode it anew.
        start = float(getattr(video, "_VideoFromFile__start_time", 0) or 0)
        length = float(getattr(video, "_VideoFromFile__duration", 0) or 0)
        return (max((seconds or 0) + start, 0) if start < 0 else start), length
    if seconds is not None and video.get_duration() < seconds - _SLACK_S:
        return None
    return 0.0, 0.0


def _from_memory(components: Any) -> Film:
    images, audio = components.images, components.audio
    rate = Fraction(components.frame_rate).limit_denominator(1001)
    digest = hashlib.sha256(json.dumps([list(images.shape), str(rate)]).encode())
    for frame in images:
        check_cancel()
        digest.update(frame.detach().to("cpu", torch.float32).contiguous().numpy().data)
    sound, sample_rate = None, 0
    if audio:
        sound, sample_rate = audio["waveform"][0].detach().to("cpu", torch.float32).contiguous(), audio["sample_rate"]
        digest.update(json.dumps([list(sound.shape), sample_rate]).encode())
        digest.update(sound.numpy().data)
    path = _copies() / f"{digest.hexdigest()[:32]}{SUFFIX}"
    if not path.exists():
        write_lossless(path, images, rate, sound=sound, sample_rate=sample_rate, check_cancel=check_cancel)
        _undate(path)
    return Film(path, "video", len(images), copied=True, from_memory=True)


def as_host_writes(video: Any, settings: EncodeSettings) -> EncodeSettings:
    """Return settings by which frames in memory are written with the host's pixel format and colours.

    Hosts differ in both and tell of neither, so this one is asked to save a frame, which is looked at.

    Args:
        video: of frames in memory.
        settings: what a person asks for.

    Raises:
        OutputMediaError: the temp directory cannot be written.
    """
    whole = video.get_components()
    # Of a size that every encoder takes.
    sample = copy.copy(whole)
    sample.images, sample.audio = whole.images.new_zeros(1, 64, 64, 3), None
    depth = {"bit_depth": video.get_bit_depth()} if hasattr(video, "get_bit_depth") else {}
    path = _copies() / f"{secrets.token_hex(8)}.sample{SUFFIX}"
    try:
        InputImpl.VideoFromComponents(sample, **depth).save_to(str(path))
        info = probe(path)
        with open_clip(path) as container:
            reach = int(container.streams.video[0].codec_context.color_range)
    finally:
        path.unlink(missing_ok=True)
    even = all(side % 2 == 0 for side in video.get_dimensions())
    pix_fmt = info.pix_fmt if even else info.pix_fmt.replace("420", "444")
    colour = Colour(reach, info.matrix, info.primaries, info.transfer)
    codec = "h264" if settings.codec == "auto" else settings.codec
    return replace(settings, codec=codec, pix_fmt=pix_fmt, colour=colour)


def _from_buffer(buffer: Any) -> Path:
    data = buffer.getbuffer()
    path = _copies() / hashlib.sha256(data).hexdigest()[:32]
    if not path.exists():
        with publish(path) as file:
            file.write(data)
        _undate(path)
    return path


def _saved(video: Any) -> Film:
    """Have the host save a video with all that was asked of it."""
    part = _copies() / f"{secrets.token_hex(8)}.part{SUFFIX}"
    fine = {"crf": _FINE_CRF} if "crf" in inspect.signature(video.save_to).parameters else {}
    try:
        video.save_to(str(part), **fine)
        if not part.exists():
            raise InputMediaError(
                "Cannot take this video",
                found="the host saved nothing of it; expected a file",
                kept="Nothing was started",
                todo="Save it with Save Video, and load that",
            )
        path = part.with_name(f"{measure(part)[1][:32]}{SUFFIX}")
        part.replace(path)
        _undate(path)
    finally:
        part.unlink(missing_ok=True)
    info = probe(path)
    told = "It was cut or scaled before, so the host encoded it once before its faces were restored."
    return Film(path, "video", info.frames or 0, copied=True, notes=(told,))


def _copies() -> Path:
    return temporary_folder(f"{_FOLDER}/copies")


def _undate(path: Path) -> None:
    """Give a copy whose name tells its content a time that tells nothing: made again, it is the same file."""
    os.utime(path, ns=(0, 0))


def _digest(*told: Any) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:24]


def film_job(
    film: Film,
    models: FilmModels,
    options: FilmOptions,
    runtime: Runtime,
    bar: FilmBar,
    *,
    preview: Preview | None = None,
) -> FilmJob:
    """Plan a film's job and return it, to be used as a context.

    Its folder lies in the temp directory under a name made of the video and of what looks for faces in it. So what was
    found serves every node that asks the same, and a run that was stopped goes on. The faces of all films are kept in
    one folder beside them, so that another strength, deflickering or choice of tracks only blends again.

    Raises:
        InputMediaError: the video cannot be read.
        OutputMediaError: the result cannot be written or encoded.
    """
    options = replace(options, window=film.window, rate=film.rate)
    looks = (models.detector.name, models.recogniser is not None, options.on_damage)
    folder = temporary_folder(f"{_FOLDER}/jobs") / _digest(film.key, looks)
    plan = _plan(film, options, folder)
    runtime = runtime.derived(kept=KeptFaces(DiskShelf(temporary_folder(f"{_FOLDER}/faces"))))
    return FilmJob(plan, models, options, runtime, on_progress=bar.on_progress, preview=preview, restart=True)


def _plan(film: Film, options: FilmOptions, folder: Path) -> Plan:
    """Plan an MP4, which pages play; a Matroska file where the codec or a stream that is copied needs one."""
    target = new_temporary(f"{_FOLDER}/film", SUFFIX)
    refused: OutputMediaError | None = None
    if options.encode.codec != "ffv1":
        try:
            return _noted(plan_film(film.path, target, options, folder=folder), film.notes)
        except OutputMediaError as error:
            refused = error
    plan = plan_film(film.path, target.with_suffix(".mkv"), options, folder=folder)
    why = (f"It is written as MKV: {refused.found}.",) if refused else ()
    return _noted(plan, (*film.notes, *why))


def _noted(plan: Plan, notes: tuple[str, ...]) -> Plan:
    return replace(plan, notes=(*notes, *plan.notes))


def to_video(path: Path) -> Any:
    """Return a finished file as the host's VIDEO."""
    return InputImpl.VideoFromFile(str(path))
