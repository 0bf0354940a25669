"""How finely a film is encoded where nobody says: as finely as the film that came in.

A film of little rate encoded at a high quality holds the blocks and the noise of the first encoder in great detail,
at two or three times the size. So a few short stretches are encoded on trial, and the quality is taken at which they
are about as large as they were; never higher than was always usual, and lossless only where the film is.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import InputMediaError
from ..media.clips import open_clip
from ..media.pyav import open_output
from .encode import FINEST_CRF, Encoding, add_video
from .fields import made_of
from .reader import Reader
from .segments import fit
from .types import VideoInfo

if TYPE_CHECKING:
    from .options import FilmOptions

_STRETCHES = 3
_FRAMES = 24
"""Frames of a stretch that are encoded on trial."""
_PLACES = (0.1, 0.45, 0.8)
"""Where stretches begin, in shares of a film."""
_MOST_PACKETS = 600
"""Packets that are weighed in a stretch: whole groups of pictures, as first pictures weigh far more than the rest."""

_SHARE = 1.2
"""Size that is aimed at, of the input's. Encoders of films that are cut into segments have no B-frames and begin each
with a whole picture: at the same size the result would be somewhat worse."""
_COARSEST = {"libx264": 32, "libx265": 34, "libvpx-vp9": 38}
"""Where pictures would be spoilt by being encoded twice, and with VP9 what was restored of a face."""
_FACES_CRF = {"libx264": 20, "libx265": 22}
"""Quality that restored faces have in a coarser film. FFmpeg marks regions for libvpx in its fastest mode alone."""
_MOST_FINER = 6
"""Measured on a face over half of a frame at crf 30: 10 % larger, and 3 dB nearer to what was restored."""
_STEP = 6.0
"""Steps of CRF that about halve a film, by which the next trial is guessed."""
_TRIALS = 5
_NEAR = 0.85
"""Share of the size that is aimed at from which on no finer quality is tried."""
_LOSSLESS_SHARE = 1.2
"""Size of a lossless trial up to which a film of the same codec counts as lossless."""
_FAMILY = {"libx264": "h264", "libx265": "hevc", "libvpx-vp9": "vp9"}


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Some frames of a film, and what each of them weighs there."""

    frames: list[Any]
    bytes: float
    """Of a frame on average, in the input."""


def follow_input(info: VideoInfo, encoding: Encoding, options: FilmOptions) -> Encoding:
    """Return an encoding with the quality that makes a film about as large as it was, and a note that says so.

    FFV1 and ProRes ask for no quality and come back as they are, as does what cannot be tried.

    Args:
        info: the clip. It is tried in its own size also where the result is larger: the quality is that of the clip.
        encoding: chosen with FINEST_CRF.
        options: of the film.
    """
    if encoding.codec not in _COARSEST:
        return encoding
    made = made_of(info, options.deinterlace)
    tried_all = (_stretch(info, made, encoding, place, options) for place in _places(info, options.window))
    stretches = [found for found in tried_all if found is not None]
    # Where each field becomes a frame, it has half of what the frame had.
    had = sum(each.bytes for each in stretches) * float((info.rate or 1) / (made.rate or 1))
    if not stretches or not had:
        return _noted(encoding, f"crf {FINEST_CRF}: the clip does not say how fine it is")
    gop, tried = options.segment_frames, dict[int, float]()

    def size(crf: int) -> float:
        if crf not in tried:
            tried[crf] = _size(with_crf(encoding, crf), made, stretches, gop) / had
        return tried[crf]

    if info.codec == _FAMILY[encoding.codec] and size(FINEST_CRF) < _SHARE / 2:
        lossless = _without_loss(encoding)
        if _size(lossless, made, stretches, gop) <= _LOSSLESS_SHARE * had:
            return _noted(lossless, "without loss, as the clip is")
    crf = _search(size, FINEST_CRF, _COARSEST[encoding.codec])
    share = f"about {100 * tried[crf]:.0f} % of" if crf in tried else "about"
    # The fastest preset of x264 has no quantiser that varies in a frame.
    fixed = encoding.codec not in _FACES_CRF or encoding.options.get("preset") == "ultrafast"
    finer = 0 if fixed else min(max(0, crf - _FACES_CRF[encoding.codec]), _MOST_FINER)
    faces = f"; restored faces are encoded {finer} steps finer" if finer else ""
    chosen = replace(with_crf(encoding, crf), finer_faces=finer)
    return _noted(chosen, f"crf {crf}, which follows the clip: {share} its size where no face is restored{faces}")


def _search(share: Callable[[int], float], finest: int, coarsest: int) -> int:
    """Return the finest quality at which a film is no larger than _SHARE of what it was, within a step or two."""
    # Too large at `low`, or not asked for; small enough at `high`, or given up.
    crf, low, high = finest, finest - 1, coarsest
    for _ in range(_TRIALS):
        found = share(crf)
        if found <= _SHARE:
            high = crf
            if crf == finest or found > _NEAR * _SHARE:
                break
        else:
            low = crf
        if high - low <= 1:
            break
        guess = crf + _STEP * math.log2(max(found, 1e-3) / _SHARE)
        crf = min(max(math.ceil(guess), low + 1), high - 1)
    return high


def with_crf(encoding: Encoding, crf: int) -> Encoding:
    """Return an encoding with another quality."""
    return replace(encoding, options=encoding.options | {"crf": str(crf)})


def _without_loss(encoding: Encoding) -> Encoding:
    options = {name: value for name, value in encoding.options.items() if name != "crf"}
    if encoding.codec == "libx264":
        return replace(encoding, options=options | {"qp": "0"})
    if encoding.codec == "libx265":
        return replace(encoding, options=options | {"x265-params": options["x265-params"] + ":lossless=1"})
    return replace(encoding, options=options | {"lossless": "1"})


def _noted(encoding: Encoding, note: str) -> Encoding:
    return replace(encoding, notes=(*encoding.notes, note))


def _places(info: VideoInfo, window: tuple[float, float] | None) -> list[float]:
    """Return the seconds at which stretches begin."""
    start, length = window or (0.0, math.inf)
    if info.seconds is not None:
        length = min(length, max(info.seconds - start, 0.0))
    each = _FRAMES / float(info.rate or 25)
    # Where times start anew, or are not told, later frames are reached from the first one only.
    if not math.isfinite(length) or length < 2 * _STRETCHES * each or info.joints or info.start is None:
        return [start]
    return [start + share * length for share in _PLACES]


def _stretch(
    info: VideoInfo, made: VideoInfo, encoding: Encoding, place: float, options: FilmOptions
) -> _Stretch | None:
    """Return the frames from a second on and what they weigh; None where they cannot be read."""
    frames: list[Any] = []
    reader = Reader(
        info, window=(place, math.inf), rate=options.rate, on_damage=options.on_damage,
        fields_as="first" if info.fields and not encoding.has_fields else "woven",
    )  # fmt: skip
    try:
        for moment in reader:
            frames.append(fit(moment.picture, encoding, made))
            if len(frames) == _FRAMES:
                break
        weight = _weight(info, place)
    except InputMediaError:
        return None
    return _Stretch(frames, weight) if frames and weight else None


def _weight(info: VideoInfo, place: float) -> float:
    """Return the bytes of a frame on average, in the groups of pictures from a second on."""
    import av.error

    with open_clip(info.path) as container:
        stream = container.streams[info.video]
        if place and info.start is not None:
            with suppress(av.error.FFmpegError, OSError, ValueError):
                container.seek(info.start + round(place / float(info.time_base)), stream=stream, backward=True)
        weights: list[int] = []
        group = 0
        """Packets of whole groups."""
        try:
            for packet in container.demux(stream):
                if not packet.size or (not weights and not packet.is_keyframe):
                    continue
                if packet.is_keyframe and weights:
                    group = len(weights)
                    if group >= _FRAMES:
                        break
                weights.append(packet.size)
                if len(weights) >= _MOST_PACKETS:
                    break
            else:
                group = len(weights)
        except (av.error.FFmpegError, OSError, IndexError):
            pass
    whole = weights[: group or len(weights)]
    return sum(whole) / len(whole) if whole else 0.0


def _size(encoding: Encoding, info: VideoInfo, stretches: Sequence[_Stretch], gop: int) -> float:
    """Return the bytes of a frame of each stretch on average, summed, as segments of `gop` frames would have them."""
    total = 0.0
    for stretch in stretches:
        output = open_output(io.BytesIO(), format=encoding.segment_container)
        try:
            stream = add_video(output, encoding, info)
            sizes: list[int] = []
            for count, frame in enumerate(stretch.frames):
                frame.pts, frame.time_base = count * _tick(info), info.time_base
                frame.pict_type = 0
                sizes += [packet.size for packet in stream.encode(frame)]
            sizes += [packet.size for packet in stream.encode(None)]
        finally:
            with suppress(Exception):
                output.close()
        first, later = sizes[0], sizes[1:]
        total += (first + (gop - 1) * sum(later) / len(later)) / gop if later else first
    return total


def _tick(info: VideoInfo) -> int:
    return max(1, round(1 / (info.time_base * (info.rate or 25))))
