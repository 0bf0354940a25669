"""Frames and sound in memory as a clip that holds every value of them, for programs that hand films around that way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputMediaError, OutputMediaError
from ..media.atomic import publish
from ..media.pyav import open_output

SUFFIX = ".mp4"

_LAYOUTS = ("mono", "stereo", "3.0", "4.0", "5.0", "5.1", "6.1", "7.1")
"""Of 1 to 8 channels, which is what FLAC holds."""
_BITS = 24
"""Of a sample of sound: FLAC has no more, and no microphone either."""


def write_lossless(
    path: Path,
    frames: Tensor,
    rate: Fraction,
    *,
    sound: Tensor | None = None,
    sample_rate: int = 0,
    check_cancel: Callable[[], None] = lambda: None,
) -> None:
    """Write frames and sound to a clip: FFV1 with 8 bits a colour where those hold all of them, else 16, and FLAC.

    The same input gives the same bytes. Frames have exact times, except with FFmpeg before 8, whose MP4 has no FFV1:
    the clip is then Matroska, which counts in milliseconds.

    Shapes: frames (N, H, W, 3 or more) in [0, 1], of which the first three channels are taken; sound (C, T) in [-1, 1].

    Args:
        path: the file, usually with SUFFIX.
        frames: N from 1, with any values; those outside [0, 1] are cut off.
        rate: frames a second.
        sound: C from 1 to 8.
        sample_rate: of the sound.
        check_cancel: asked before each frame.

    Raises:
        InputMediaError: there are no frames, or the sound has too many channels.
        OutputMediaError: the file cannot be written.
    """
    import av.error

    found = ""
    if frames.ndim != 4 or frames.shape[-1] < 3 or 0 in frames.shape:
        found = f"found frames of shape {tuple(frames.shape)}; expected (N, H, W, 3), N from 1"
    elif not rate > 0:
        found = f"found {rate} frames a second; expected more than 0"
    elif sound is not None and not (sound.ndim == 2 and 1 <= sound.shape[0] <= len(_LAYOUTS) and sample_rate > 0):
        found = f"found sound of shape {tuple(sound.shape)}, {sample_rate} samples a second; expected (C, T), C 1 to 8"
    if found:
        raise InputMediaError(
            "Cannot make a clip of these frames", found=found, kept="Nothing was written", todo="Look at their source"
        )
    with publish(path) as file:
        output: Any = None
        try:
            output = _open(file)
            _write(output, frames, rate, sound, sample_rate, check_cancel)
            output.close()
        except (av.error.FFmpegError, ValueError) as error:
            raise OutputMediaError(
                f"Cannot write {path}",
                found=f"FFmpeg refused: {error}",
                kept="No unfinished file is left",
                todo="Free some space, or save the frames as a clip and load that",
            ) from error
        finally:
            if output is not None:
                output.close()


def _open(file: Any) -> Any:
    exact = {"fflags": "+bitexact"}
    output = open_output(file, format="mp4", options=exact)
    if "ffv1" in output.supported_codecs:
        return output
    return open_output(file, format="matroska", options=exact)


def _write(
    output: Any, frames: Tensor, rate: Fraction, sound: Tensor | None, sample_rate: int, check: Callable[[], None]
) -> None:
    deep = _is_deep(frames)
    video: Any = output.add_stream("ffv1", rate=rate, options={"level": "3", "slicecrc": "1"})
    video.height, video.width = frames.shape[1:3]
    video.pix_fmt = "gbrp16le" if deep else "bgr0"
    video.time_base = video.codec_context.time_base = 1 / rate
    video.codec_context.thread_count = 1
    blocks = _sound(output, sound, sample_rate, rate, len(frames)) if sound is not None else iter(())
    for index, frame in enumerate(frames):
        check()
        picture = _picture(frame[..., :3], deep).reformat(format=video.pix_fmt)
        picture.pts, picture.time_base = index, 1 / rate
        output.mux(video.encode(picture))
        output.mux(next(blocks, []))
    output.mux(video.encode(None))
    for packets in blocks:
        output.mux(packets)


def _is_deep(frames: Tensor) -> bool:
    """Return whether a value lies between the levels of 8 bits."""
    for frame in frames:
        levels = frame[..., :3].float().clamp(0, 1) * 255
        # Halves of a level are far; what is left of dividing by 255 and multiplying again is near.
        if bool(((levels - levels.round()).abs() > 1e-3).any()):
            return True
    return False


def _picture(frame: Tensor, deep: bool) -> Any:
    import av

    most = 65535 if deep else 255
    levels = (frame.detach().float().cpu().clamp(0, 1) * most).round().numpy()
    samples: Any = np.ascontiguousarray(levels.astype(np.uint16 if deep else np.uint8))
    return av.VideoFrame.from_ndarray(samples, format="rgb48le" if deep else "rgb24")


def _sound(output: Any, sound: Tensor, sample_rate: int, rate: Fraction, frames: int) -> Iterator[list[Any]]:
    """Yield the packets beside each frame, and then the rest; sound that is longer than the frames ends with them."""
    import av

    layout = _LAYOUTS[sound.shape[0] - 1]
    stream: Any = output.add_stream("flac", rate=sample_rate, layout=layout)
    stream.codec_context.format = "s32"
    most = min(sound.shape[1], -(-frames * sample_rate // rate))
    full = 1 << (_BITS - 1)

    def packets() -> Iterator[list[Any]]:
        done = 0
        for index in range(1, frames + 1):
            end = min(int(index * sample_rate / rate), most) if index < frames else most
            if end <= done:
                yield []
                continue
            part = sound[:, done:end].detach().to("cpu", torch.float64)
            # A round trip by way of 32 bits: FFmpeg's FLAC takes 24 of them.
            levels = (part * full).round().clamp(-full, full - 1).to(torch.int32) << (32 - _BITS)
            block: Any = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(levels.T.reshape(1, -1).numpy()), format="s32", layout=layout
            )
            block.sample_rate, block.pts, block.time_base = sample_rate, done, Fraction(1, sample_rate)
            yield stream.encode(block)
            done = end
        yield stream.encode(None)

    return packets()
