"""Frames and sound in memory as a clip: read back by FFmpeg alone, every value is there."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bfr_core.errors import InputMediaError, OutputMediaError
from bfr_core.video.lossless import write_lossless
from bfr_core.video.probe import probe
from bfr_core.video.reader import Reader

EXACT = "ffv1" in av.open(io.BytesIO(), "w", format="mp4").supported_codecs


def noise(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def read(path: Path, form: str) -> tuple[list[np.ndarray], list[Fraction]]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        return [frame.to_ndarray(format=form) for frame in frames], [frame.pts * frame.time_base for frame in frames]


def heard(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        count = container.streams.audio[0].layout.nb_channels
        blocks = [frame.to_ndarray() for frame in container.decode(audio=0)]
    return np.concatenate(blocks, 1).reshape(-1, count).T / 2**31


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(30000, 1001), Fraction(2997, 100)])
def test_frames_of_8_bits_come_back_level_by_level_at_their_times(rate: Fraction, tmp_path: Path) -> None:
    levels = (noise((7, 46, 66, 3)) * 255).round()
    write_lossless(tmp_path / "a.mp4", levels / 255, rate)
    frames, times = read(tmp_path / "a.mp4", "rgb24")
    assert np.array_equal(np.stack(frames), levels.numpy().astype(np.uint8))
    late = [abs(time - index / rate) for index, time in enumerate(times)]
    assert max(late) == 0 if EXACT else max(late) <= Fraction(1, 2000)


def test_frames_of_a_network_keep_16_bits(tmp_path: Path) -> None:
    images = noise((3, 33, 47, 4)) * 1.2 - 0.1
    write_lossless(tmp_path / "a.mp4", images, Fraction(25))
    frames, _ = read(tmp_path / "a.mp4", "rgb48le")
    expected = images[..., :3].clamp(0, 1).numpy() * 65535
    assert np.abs(np.stack(frames) - expected).max() <= 0.51
    info = probe(tmp_path / "a.mp4")
    # What the passes see, in their own way from codes to colours.
    seen = torch.stack([moment.rgb() for moment in Reader(info)]).movedim(1, -1)
    assert (info.width, info.height) == (47, 33)
    assert (seen - images[..., :3].clamp(0, 1)).abs().max() <= 2 / 65535


@given(st.integers(1, 8), st.integers(1, 9000), st.sampled_from([8000, 16000, 44100, 48000]))
@settings(max_examples=12, deadline=None)
def test_sound_comes_back_to_24_bits_and_ends_with_the_pictures(
    tmp_path_factory: pytest.TempPathFactory, channels: int, samples: int, rate: int
) -> None:
    path = tmp_path_factory.mktemp("sound") / "a.mp4"
    sound = noise((channels, samples), samples) * 1.8 - 0.9
    write_lossless(path, noise((4, 16, 16, 3)), Fraction(25), sound=sound, sample_rate=rate)
    got = heard(path)
    assert got.shape == (channels, min(samples, 4 * rate // 25))
    assert np.abs(got - sound.numpy()[:, : got.shape[1]]).max() <= 1 / 2**23


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_lossless(tmp_path / name, noise((3, 16, 16, 3)), Fraction(25), sound=noise((1, 900)), sample_rate=8000)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_what_is_no_film_is_refused(tmp_path: Path) -> None:
    bad = [
        (noise((0, 16, 16, 3)), Fraction(25), {}),
        (noise((2, 16, 16, 1)), Fraction(25), {}),
        (noise((2, 16, 16, 3)), Fraction(0), {}),
        (noise((2, 16, 16, 3)), Fraction(25), {"sound": noise((9, 100)), "sample_rate": 8000}),
        (noise((2, 16, 16, 3)), Fraction(25), {"sound": noise((1, 100)), "sample_rate": 0}),
    ]
    for frames, rate, fields in bad:
        with pytest.raises(InputMediaError):
            write_lossless(tmp_path / "a.mp4", frames, rate, **fields)
    with pytest.raises(OutputMediaError):
        write_lossless(tmp_path / "none" / "a.mp4", noise((1, 16, 16, 3)), Fraction(25))
    assert not list(tmp_path.iterdir())


def test_a_cancel_leaves_no_file(tmp_path: Path) -> None:
    def cancel() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_lossless(tmp_path / "a.mp4", noise((2, 16, 16, 3)), Fraction(25), check_cancel=cancel)
    assert not list(tmp_path.iterdir())
