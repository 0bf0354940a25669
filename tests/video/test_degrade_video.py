"""The video chain: coherence in numbers, time stamps, sound, and the truth of every frame."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.data import astronaut

from bfr_core.cli import main
from bfr_core.degrade.codec import Recoder
from bfr_core.degrade.presets import SEVERITIES, get_preset, override
from bfr_core.degrade.video import (
    ClipParams,
    LastingNoise,
    SmoothPath,
    clip_from_dict,
    degrade_frames,
    draw_clip,
)
from bfr_core.errors import InputMediaError, OutputMediaError, SettingsError

FACE = np.ascontiguousarray(astronaut()[0:120, 160:290])
RATE = 25
PLAIN = replace(draw_clip(SEVERITIES["x4"], 1, codec="none"), drop_prob=0.0, repeat_prob=0.0)


def moving(count: int, height: int = 96, width: int = 112) -> Iterator[tuple[float, np.ndarray]]:
    """A portrait that slides by five pixels a frame; its gray corner tells the frame's number."""
    for index in range(count):
        frame = np.roll(FACE, 5 * index, 1)[:height, :width].copy()
        frame[:16, :16] = 8 * (index % 30) + 8
        yield index / RATE, frame


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * math.log10(255**2 / max(np.mean((a.astype(float) - b) ** 2), 1e-9))


# --- coherence ---------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**40), st.floats(0.2, 5), st.floats(-50, 500), st.sampled_from([24, 25, 30, 60]))
@settings(max_examples=60, deadline=None)
def test_paths_stay_inside_and_move_slowly(seed, spacing, start, rate):
    path = SmoothPath(seed, 1, spacing)
    values = np.array([path.at(start + index / rate) for index in range(40)])
    assert np.abs(values).max() <= 1
    # Smoothstep is steepest in its middle, at 1.5 times the mean slope; two points are at most 2 apart.
    assert np.abs(np.diff(values)).max() <= 3 / spacing / rate + 1e-9
    assert path.at(start) == SmoothPath(seed, 1, spacing).at(start)


def test_paths_use_their_range():
    values = np.array([SmoothPath(4, 1, 0.5).at(index / 10) for index in range(600)])
    assert values.min() < -0.8 and values.max() > 0.8 and abs(values.mean()) < 0.2
    assert not np.allclose(values, [SmoothPath(5, 1, 0.5).at(index / 10) for index in range(600)])


@pytest.mark.parametrize(("memory", "share"), [(0.0, 0.0), (0.6, 0.0), (0.5, 0.3), (0.9, 0.0), (0.0, 1.0)])
def test_noise_is_correlated_as_stated(memory, share):
    noise = LastingNoise((60, 60, 3), 7, memory=memory, fixed_share=share)
    frames = np.stack([noise.next() for _ in range(40)]).reshape(40, -1).astype(np.float64)
    assert frames.var() == pytest.approx(1, abs=0.05) and abs(frames.mean()) < 0.05
    for lag in (1, 2, 5):
        measured = np.mean([np.corrcoef(frames[k], frames[k + lag])[0, 1] for k in range(40 - lag)])
        assert measured == pytest.approx(share + (1 - share) * memory**lag, abs=0.02)


def test_noise_of_a_clip_lasts_and_does_not_depend_on_drops():
    gray = [(index / RATE, np.full((96, 96, 3), 128, np.uint8)) for index in range(30)]
    base = replace(PLAIN.base, sigma_x=0.0, sigma_y=0.0, downscale=1.0, noise_sigma=20.0)
    params = replace(PLAIN, base=base, noise_memory=0.7, fixed_share=0.1)
    out = {record.index: image.astype(float) - 128 for image, record in degrade_frames(gray, params)}
    measured = np.mean([np.corrcoef(out[k].ravel(), out[k + 1].ravel())[0, 1] for k in range(29)])
    assert measured == pytest.approx(0.1 + 0.9 * 0.7, abs=0.02)
    assert np.std([frame.std() for frame in out.values()]) < 0.6 and out[3].std() == pytest.approx(20, abs=1)
    fewer = {r.index: i.astype(float) - 128 for i, r in degrade_frames(gray, replace(params, drop_prob=0.3))}
    assert 10 < len(fewer) < 28 and all(np.array_equal(fewer[index], out[index]) for index in fewer)


def test_blur_wanders_within_its_bounds_and_slowly():
    params = replace(PLAIN, wander=0.3, turn=0.5, wander_s=0.8, base=replace(PLAIN.base, sigma_y=4.0, theta=0.2))
    records = [record for _, record in degrade_frames(moving(60, 32, 32), params)]
    for name, middle, step in (("sigma_x", 2.0, 0.3), ("sigma_y", 4.0, 0.3)):
        ratio = np.log([getattr(record, name) / middle for record in records])
        assert np.abs(ratio).max() <= 0.3 and np.ptp(ratio) > 0.1
        assert np.abs(np.diff(ratio)).max() <= step * 3 / 0.8 / RATE + 1e-9
    angles = np.array([record.theta for record in records]) - 0.2
    assert np.abs(angles).max() <= 0.5 and np.abs(np.diff(angles)).max() <= 0.5 * 3 / 0.8 / RATE + 1e-9


# --- the chain ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["none", "h264", "mpeg4"])
def test_every_frame_comes_out_in_its_place_with_its_truth(codec):
    quality = {"none": 0, "h264": 18, "mpeg4": 3}[codec]
    params = draw_clip(SEVERITIES["x4"], 3, codec=codec, quality=quality, drop_prob=0.1, repeat_prob=0.15)
    out = list(degrade_frames(moving(60), params))
    clean = dict(enumerate(frame for _, frame in moving(60)))
    order = [record.index for _, record in out]
    assert order == sorted(set(order)) and order[0] == 0 and 40 < len(order) < 60
    held = [record for _, record in out if record.shows != record.index]
    assert len(held) >= 3
    for image, record in out:
        assert image.shape == (96, 112, 3) and image.dtype == np.uint8
        assert record.time_s == record.index / RATE and record.shows <= record.index
        near = {
            index: psnr(image, clean[index]) for index in range(max(record.index - 4, 0), min(record.index + 3, 60))
        }
        assert max(near, key=near.__getitem__) == record.shows
        # The corner is 4 pixels wide after the shrink and tells the number by itself.
        number = (image[4:8, 4:8].mean() - 8) / 8
        assert abs(number - record.shows % 30) < 2
    for record in held:
        source = next(other for other in order[::-1] if other < record.index)
        assert next(r.shows for _, r in out if r.index == source) == record.shows


@pytest.mark.parametrize("codec", ["h264", "mpeg4"])
def test_a_seed_decides_everything(codec):
    params = draw_clip(get_preset("gfpgan"), 12, codec=codec)
    first, second = (list(degrade_frames(moving(20), params)) for _ in range(2))
    assert [record for _, record in first] == [record for _, record in second]
    assert all(np.array_equal(a, b) for (a, _), (b, _) in zip(first, second, strict=True))
    assert (
        draw_clip(get_preset("gfpgan"), 12)
        == draw_clip(get_preset("gfpgan"), 12)
        != draw_clip(get_preset("gfpgan"), 13)
    )
    assert clip_from_dict(json.loads(json.dumps(params.to_dict()))) == params


def test_a_worse_quality_looks_worse():
    clean = np.stack([frame for _, frame in moving(12)])
    for codec, ladder in (("h264", (18, 30, 45)), ("mpeg4", (2, 8, 25))):
        scores = []
        for quality in ladder:
            recoder = Recoder(codec, quality, 112, 96)
            back = [image for frame in clean for image in recoder.push(frame)] + recoder.finish()
            assert len(back) == 12
            scores.append(psnr(np.stack(back), clean))
        assert scores[0] > 30 and scores[0] > scores[1] + 2 > scores[2] + 4, (codec, scores)


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (17, 16), (33, 50)])
def test_odd_and_tiny_sizes_pass_the_codec(size):
    frames = np.random.default_rng(0).integers(100, 140, (4, *size, 3), dtype=np.uint8)
    for codec in ("h264", "mpeg4"):
        recoder = Recoder(codec, 20, size[1], size[0])
        back = [image for frame in frames for image in recoder.push(frame)] + recoder.finish()
        assert [image.shape for image in back] == [(*size, 3)] * 4
        assert abs(np.stack(back).mean() - frames.mean()) < 4


def test_memory_is_that_of_the_codec():
    """Frames are taken only as fast as they come out, but for what the codec holds."""
    taken = 0

    def counted() -> Iterator[tuple[float, np.ndarray]]:
        nonlocal taken
        for item in moving(90, 32, 32):
            taken += 1
            yield item

    for number, _ in enumerate(degrade_frames(counted(), replace(PLAIN, codec="h264", quality=30))):
        assert taken - number <= 64
    assert taken == 90


def test_real_frames_look_like_the_clip(shared):
    with av.open(str(shared / "video" / "talking_480x480.mp4")) as container:
        frames = []
        for frame in container.decode(video=0):
            frames.append((float(frame.time), frame.to_ndarray(format="rgb24")[100:340, 100:340].copy()))
            if len(frames) == 6:
                break
    params = replace(draw_clip(get_preset("mild"), 1, codec="h264", quality=28), drop_prob=0.0, repeat_prob=0.0)
    out = list(degrade_frames(iter(frames), params))
    assert [record.time_s for _, record in out] == [time_s for time_s, _ in frames]
    for (image, _), (_, clean) in zip(out, frames, strict=True):
        assert 22 < psnr(image, clean) < 45 and np.abs(image.mean((0, 1)) - clean.mean((0, 1))).max() < 2.5


@pytest.mark.parametrize("change", [
    {"codec": "vp9"}, {"quality": 60}, {"quality": 2.5}, {"noise_memory": 1.5}, {"drop_prob": -0.1}, {"wander": -1},
    {"wander_s": 0}, {"drop_prob": 0.6, "repeat_prob": 0.6}, {"seed": -1}, {"codec": "mpeg4", "quality": 0},
])  # fmt: skip
def test_bad_clip_settings_are_refused(change):
    with pytest.raises(SettingsError, match="Cannot degrade a clip like this"):
        ClipParams(**{**asdict(PLAIN), "base": PLAIN.base, "codec": "h264", "quality": 28, **change})


def test_a_change_of_size_is_refused_with_the_frame():
    frames = [(0.0, FACE), (0.04, FACE[:50])]
    with pytest.raises(InputMediaError, match="frame 1"):
        list(degrade_frames(frames, PLAIN))
    for broken in ({}, {**PLAIN.to_dict(), "sharpness": 1}, {**PLAIN.to_dict(), "wander": "much"}):
        with pytest.raises(SettingsError):
            clip_from_dict(broken)


# --- files -------------------------------------------------------------------------------------------------------

BASE = Fraction(1, 12800)
STAMPS = [512 * index + (300 if index % 3 == 0 else 0) for index in range(24)]
"""Variable: some frames come late."""


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"crf": "10", "bf": "0"})
        video.width, video.height, video.pix_fmt = 112, 96, "yuv420p"
        video.codec_context.time_base = BASE
        sound = container.add_stream("aac", rate=44100, layout="mono")
        for pts, (_, image) in zip(STAMPS, moving(24), strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = pts + 2560, BASE
            container.mux(video.encode(frame))
        tone = np.sin(np.arange(44100) / 20).astype(np.float32)[None]
        for start in range(0, 43008, 1024):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(tone[:, start : start + 1024]), "fltp", "mono")
            frame.sample_rate, frame.pts, frame.time_base = 44100, start, Fraction(1, 44100)
            container.mux(sound.encode(frame))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
    return path


def read(path: Path) -> tuple[list[Fraction], np.ndarray, list[tuple[Fraction, int]]]:
    with av.open(str(path)) as container:
        frames = [(f.pts * f.time_base, f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
    with av.open(str(path)) as container:
        sound = [(p.pts * p.time_base, p.size) for p in container.demux(audio=0) if p.dts is not None]
    return [time for time, _ in frames], np.stack([image for _, image in frames]), sound


def run(*arguments: object) -> int:
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)


def test_a_clip_keeps_its_time_stamps_and_sound(clip, tmp_path):
    low = tmp_path / "low.mp4"
    options = ["--preset", "x4", "--seed", 2, "--set", "drop_prob=0.15", "--set", "repeat_prob=0.1"]
    assert run("degrade", clip, "-o", low, *options, "--set", "codec=h264", "--set", "quality=18") == 0
    record = json.loads((tmp_path / "low.mp4.json").read_text())
    times, images, sound = read(clip)
    low_times, low_images, low_sound = read(low)
    order = [frame["index"] for frame in record["frames"]]
    assert sorted(order + record["dropped"]) == list(range(24)) and record["dropped"]
    assert low_times == [times[index] for index in order] and low_sound == sound and sound
    for image, frame in zip(low_images, record["frames"], strict=True):
        near = range(max(frame["shows"] - 3, 0), min(frame["shows"] + 4, 24))
        assert max(near, key=lambda index: psnr(image, images[index])) == frame["shows"]
    assert abs(low_images.mean() - images[[frame["shows"] for frame in record["frames"]]].mean()) < 1.5


def test_a_clip_can_be_repeated_exactly(clip, tmp_path):
    first, second = tmp_path / "a.mkv", tmp_path / "b.mkv"
    params = tmp_path / "p.json"
    assert run("degrade", clip, "-o", first, "--preset", "gfpgan", "--seed", 4, "--params", params) == 0
    assert run("degrade", clip, "-o", second, "--repeat", params) == 0
    assert np.array_equal(read(first)[1], read(second)[1]) and read(first)[0] == read(second)[0]
    entry = json.loads(params.read_text())["files"][0]
    assert entry["params"]["codec"] in ("h264", "mpeg4") and entry["record"] == str(tmp_path / "a.mkv.json")
    assert run("degrade", clip, "-o", first, "--overwrite", "--preset", "gfpgan", "--seed", 5) == 0
    assert not np.array_equal(read(first)[1][0], read(second)[1][0])


def test_clips_that_cannot_be_used_are_named_and_leave_nothing(clip, tmp_path, capsys):
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:3000])
    secret = tmp_path / "script.mp4"
    secret.write_text(f"ffconcat version 1.0\nfile '{clip.name}'\n")
    out = tmp_path / "out"
    assert run("degrade", clip, tmp_path / "cut.mp4", secret, "-o", out, "--preset", "x4", "--set", "codec=none") == 1
    told = capsys.readouterr()
    assert "cut.mp4" in told.err and "script.mp4" in told.err and "1 of 3 files degraded" in told.out
    assert sorted(path.name for path in out.iterdir()) == ["clip.mp4", "clip.mp4.json"]
    before = clip.read_bytes()
    assert run("degrade", clip, "-o", clip, "--overwrite") == 1 and run("degrade", clip, "-o", tmp_path) == 1
    assert run("degrade", clip, "-o", out) == 1 and "exists already" in capsys.readouterr().err
    (tmp_path / "x.mp4.json").write_text("mine")
    assert run("degrade", clip, "-o", tmp_path / "x.mp4") == 1 and (tmp_path / "x.mp4.json").read_text() == "mine"
    assert run("degrade", tmp_path / "gone.mp4", "-o", tmp_path / "x.mp4") == 1 and clip.read_bytes() == before
    for setting in ("codec=vp9", "drop_prob=2", "quality=best", "wander=x"):
        assert run("degrade", clip, "-o", tmp_path / "x.mp4", "--set", setting) == 1
        assert not (tmp_path / "x.mp4").exists()


def test_what_is_missing_is_said(tmp_path, capsys):
    whole, cut = tmp_path / "whole.mkv", tmp_path / "cut.mkv"
    with av.open(str(whole), "w") as container:
        video = container.add_stream("libx264", rate=10, options={"bf": "0", "g": "5"})
        video.width, video.height, video.pix_fmt = 63, 47, "yuv444p"
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        for index in range(60):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(FACE[index : index + 47, :63]), format="rgb24")
            container.mux(video.encode(frame))
            tone = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
            tone.sample_rate, tone.pts = 8000, 800 * index
            container.mux(sound.encode(tone))
        container.mux(video.encode(None))
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    settings_ = ["--preset", "x4", "--set", "codec=none"]
    assert run("degrade", cut, "-o", tmp_path / "low.mkv", *settings_) == 0
    told = capsys.readouterr().err
    assert "header promises 6.0" in told and "pcm_s16le) is not copied" in told
    with av.open(str(tmp_path / "low.mkv")) as container:
        assert next(container.decode(video=0)).to_ndarray(format="rgb24").shape == (47, 63, 3)
    notes = json.loads((tmp_path / "low.mkv.json").read_text())["notes"]
    assert len(notes) == 2
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        container.mux(sound.encode(tone))
    assert run("degrade", tmp_path / "sound.mkv", "-o", tmp_path / "x.mkv", *settings_) == 1
    assert "no video stream" in capsys.readouterr().err and not (tmp_path / "x.mkv").exists()


def test_a_full_disk_leaves_the_old_clip(clip, tmp_path, monkeypatch):
    from bfr_core.degrade import clips

    target = tmp_path / "low.mp4"
    target.write_bytes(b"old")

    def full(self, image, record):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(clips._Clip, "_write", full)
    with pytest.raises(OutputMediaError, match="full"):
        clips.degrade_clip(clip, target, override_codec())
    assert target.read_bytes() == b"old" and not list(tmp_path.glob(".bfr-*"))


def override_codec() -> ClipParams:
    return draw_clip(override(SEVERITIES["x4"], ["noise_sigma=2"]), 1, codec="none")
