"""Sound that an output does not hold as it is: sample for sample what its decoder gives, at its time, and noted."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from plain_films import packets_of, passed
from video_media import frame_of, picture, write_clip

from bfr_core.errors import OutputMediaError
from bfr_core.video.probe import probe
from bfr_core.video.streams import plan_streams


def write_sound(path: Path, codec: str, rate: int, channels: int = 1, *, late_s: float = 0.0, hole=()) -> Path:
    """Write a second of film with sound of a codec, without the packets that are numbered in `hole`."""
    muxer = {".mpg": {"format": "vob"}}.get(path.suffix, {})
    pictures = {".mpg": "mpeg2video", ".3gp": "mpeg4"}.get(path.suffix, "libx264")
    with av.open(str(path), "w", **muxer) as out:
        video = out.add_stream(pictures, rate=25)
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        names, options = ("mono", "stereo"), {"strict": "experimental"}  # FFmpeg's own Vorbis asks for it
        sound: Any = out.add_stream(codec, rate=rate, layout=names[channels - 1], options=options)
        bits = {"libopencore_amrnb": 12200, "wmav2": 64000}.get(codec)
        if bits:
            sound.bit_rate = bits
        sound.codec_context.open()
        for index in range(25):
            frame = frame_of(picture(index))
            frame.pts, frame.time_base = index, Fraction(1, 25)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        size = sound.codec_context.frame_size or 800
        sample = sound.codec_context.format.name
        rng = np.random.default_rng(4)
        for number in range(rate // size):
            t = np.arange(number * size, (number + 1) * size) / rate
            wave = [
                0.4 * np.sin(2 * np.pi * 300 * (1 + k) * t) + 0.02 * rng.standard_normal(size) for k in range(channels)
            ]
            block = av.AudioFrame.from_ndarray(
                np.stack(wave).astype(np.float32), "fltp", ("mono", "stereo")[channels - 1]
            )
            block.sample_rate, block.time_base = rate, Fraction(1, rate)
            block.pts = number * size + round(late_s * rate)
            block = av.AudioResampler(sample, sound.codec_context.layout, rate).resample(block)[0]
            packets = sound.encode(block)
            if number not in hole:
                out.mux(packets)
        out.mux(sound.encode(None))
    return path


def heard(path: Path) -> tuple[str, float, np.ndarray]:
    """Codec, first time and samples (n, channels) of a film's sound, by FFmpeg alone."""
    parts: list[np.ndarray] = []
    with av.open(str(path)) as container:
        stream: Any = container.streams.audio[0]
        name, start = stream.codec_context.name, None
        for frame in container.decode(stream):
            start = float(frame.pts * frame.time_base) if start is None else start
            values = frame.to_ndarray()
            parts.append(values.T if frame.format.is_planar else values.reshape(-1, len(frame.layout.channels)))
    return name, start or 0.0, np.concatenate(parts)


KINDS = [
    # Held by: FFmpeg 8.1 (PyAV 18.1). PyAV refuses in MKV what FFmpeg's own list of codecs there does not name.
    ("a.avi", "adpcm_ms", 16000, 1, {".mp4": "flac", ".mov": "pcm_s16le", ".mkv": "flac"}),
    ("a.avi", "adpcm_ima_wav", 16000, 1, {".mp4": "flac", ".mov": "pcm_s16le", ".mkv": "flac"}),
    ("a.mov", "adpcm_ima_qt", 16000, 1, {".mp4": "flac", ".mov": "", ".mkv": "flac"}),
    ("a.avi", "pcm_alaw", 8000, 1, {".mp4": "flac", ".mov": "", ".mkv": "flac"}),
    ("a.avi", "pcm_mulaw", 8000, 2, {".mp4": "flac", ".mov": "", ".mkv": "flac"}),
    ("a.avi", "wmav2", 44100, 2, {".mp4": "pcm_f32le", ".mov": "pcm_f32le", ".mkv": "pcm_f32le"}),
    ("a.3gp", "libopencore_amrnb", 8000, 1, {".mp4": "pcm_f32le", ".mov": "", ".mkv": "pcm_f32le"}),
    ("a.avi", "pcm_u8", 11025, 1, {".mp4": "flac", ".mov": "", ".mkv": ""}),
    ("a.mov", "pcm_s8", 11025, 1, {".mp4": "flac", ".mov": "", ".mkv": "pcm_u8"}),
    ("a.avi", "pcm_s16le", 48000, 2, {".mp4": "flac", ".mov": "", ".mkv": ""}),
    ("a.mov", "pcm_s24be", 48000, 2, {".mp4": "", ".mov": "", ".mkv": ""}),
    ("a.mkv", "pcm_s24le", 48000, 2, {".mp4": "flac", ".mov": "", ".mkv": ""}),
    ("a.mov", "pcm_f32be", 48000, 2, {".mp4": "", ".mov": "", ".mkv": "pcm_f32le"}),
    ("a.mpg", "pcm_dvd", 48000, 2, {".mp4": "flac", ".mov": "pcm_s16le", ".mkv": "flac"}),
    ("a.mkv", "libvorbis", 48000, 2, {".mov": "pcm_f32le", ".mkv": ""}),
    ("a.mkv", "flac", 48000, 2, {".mp4": "", ".mov": "pcm_s16le", ".mkv": ""}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "codec", "rate", "channels", "held"), KINDS)
def test_sound_that_no_container_takes_as_it_is_keeps_every_sample(tmp_path, name, codec, rate, channels, held):
    codec = "vorbis" if codec == "libvorbis" else codec
    source = write_sound(tmp_path / name, codec, rate, channels)
    was, began, samples = heard(source)
    for suffix, stored in held.items():
        target = tmp_path / f"out{suffix}"
        report = passed(source, target)
        now, begins, got = heard(target)
        assert now == (stored or was)
        if samples.dtype == np.uint8 and got.dtype == np.int16:
            samples_now = (samples.astype(np.int16) - 128) << 8
        else:
            samples_now = samples
        np.testing.assert_array_equal(got, samples_now)
        assert begins == pytest.approx(began, abs=6e-4)
        said = [note for note in report["plan"] if "becomes" in note]
        assert bool(said) == bool(stored), said
        if not stored:
            # Readers of MP4 and MOV cut PCM as they like.
            assert b"".join(data for _, data in packets_of(source)) == b"".join(data for _, data in packets_of(target))


@pytest.mark.parametrize(("codec", "suffix"), [("adpcm_ima_qt", ".mp4"), ("adpcm_ima_qt", ".mkv"), ("flac", ".mov")])
def test_decoded_sound_keeps_its_place_also_where_packets_are_missing(tmp_path, codec, suffix):
    name = "in.mov" if codec == "adpcm_ima_qt" else "in.mkv"
    source = write_sound(
        tmp_path / name, codec, 16000, 2, late_s=0.3, hole=range(5, 7) if codec == "flac" else range(5, 9)
    )
    report = passed(source, tmp_path / f"out{suffix}")
    _, began, samples = heard(source)
    _, begins, got = heard(tmp_path / f"out{suffix}")
    assert begins == pytest.approx(began, abs=6e-4) and began > 0.2
    with av.open(str(source)) as container:
        last = max(
            float(p.pts * p.time_base) + float(p.duration * p.time_base) for p in container.demux(audio=0) if p.size
        )
    if name == "in.mkv":  # in MOV sound has no gaps: what is missing is not there
        assert len(got) > len(samples) and "silence" in " ".join(report["notes"])
        assert begins + len(got) / 16000 == pytest.approx(last, abs=0.02)
        assert (got[:100] == samples[:100]).all() and (got[-2000:] == samples[-2000:]).all()


def test_a_part_that_is_cut_out_has_the_samples_of_its_time(tmp_path):
    source = write_sound(tmp_path / "in.mov", "adpcm_ima_qt", 16000)
    passed(source, tmp_path / "out.mp4", window=(0.2, 0.39))
    _, begins, got = heard(tmp_path / "out.mp4")
    _, _, samples = heard(source)
    assert begins == 0 and len(got) == round(0.4 * 16000)
    np.testing.assert_array_equal(got, samples[round(0.2 * 16000) : round(0.6 * 16000)])


def test_advice_names_the_containers_that_were_tried(tmp_path):
    source = write_sound(tmp_path / "in.3gp", "libopencore_amrnb", 8000)
    _, notes = plan_streams(probe(source), Path("out.mp4"))
    assert any("amrnb" in note and ".mov would hold it as it is" in note for note in notes)
    with pytest.raises(
        OutputMediaError, match=r"1 \(audio, amrnb.*Choose \.mp4 or \.mov or \.mkv, or drop them by number: 1"
    ):
        plan_streams(probe(source), Path("out.webm"))
    words = write_clip(tmp_path / "words.mkv", 10, subtitles=1)
    with pytest.raises(OutputMediaError, match=r"Choose \.mkv, or drop"):
        plan_streams(probe(words), Path("out.mp4"))


def without_decoder(path: Path, *places: int) -> Path:
    """Give sound tracks of a MOV file the name of a codec that FFmpeg 8.1 does not decode, as newer phones do."""
    data, place = bytearray(path.read_bytes()), -1
    tables = []
    while (place := data.find(b"stsd", place + 1)) >= 0:
        tables.append(place)
    for track in places:
        start = tables[track]
        assert data[start + 16 : start + 20] == b"mp4a"
        for word in (b"mp4a", b"esds", b"mp4a"):
            at = data.find(word, start)
            data[at : at + 4] = b"apac" if word == b"mp4a" else b"free"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_sound_without_a_decoder_beside_another_is_left_out_by_name(tmp_path, suffix):
    source = without_decoder(write_clip(tmp_path / "in.mov", 25, audio=2), 2)
    report = passed(source, tmp_path / f"out{suffix}")
    assert any("2 (audio, apac" in note and "left out" in note for note in report["plan"])
    assert [data for _, data in packets_of(source)] == [data for _, data in packets_of(tmp_path / f"out{suffix}")]
    alone = without_decoder(write_clip(tmp_path / "alone.mov", 25, audio=1), 1)
    with pytest.raises(OutputMediaError, match=r"1 \(audio, apac\).*Drop them by number: 1"):
        plan_streams(probe(alone), tmp_path / f"no{suffix}")


def test_a_damaged_packet_of_decoded_sound_leaves_silence_and_a_note(tmp_path):
    source = write_sound(tmp_path / "in.avi", "adpcm_ima_wav", 16000)
    data = bytearray(source.read_bytes())
    chunks = [at for at in range(len(data) - 4) if data[at : at + 4] == b"01wb"]
    middle = chunks[len(chunks) // 2]
    data[middle + 8 : middle + 12] = b"\xff\xff\xff\xff"  # a step index that cannot be
    source.write_bytes(data)
    report = passed(source, tmp_path / "out.mkv")
    assert any("could not be decoded" in note for note in report["notes"]), report["notes"]
    assert len(heard(tmp_path / "out.mkv")[2]) > 12000
