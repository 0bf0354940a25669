"""Larger films: every plane enlarged as it is sited, nothing else lost, faces at full size, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_restorers import Brighten, restorer_of
from torch import Tensor
from video_media import frame_of, planes

from bfr_core.cli import main
from bfr_core.errors import InputMediaError, OutputMediaError, SettingsError
from bfr_core.faces.align import FFHQ_TEMPLATE
from bfr_core.media.scaling import enlarge_plane
from bfr_core.restoration.upscale import upscaled
from bfr_core.runtime import Runtime
from bfr_core.types import Face
from bfr_core.video.choose import TrackSelection
from bfr_core.video.encode import EncodeSettings
from bfr_core.video.enlarge import Enlarger, enlarged_info
from bfr_core.video.frames import restore_frames
from bfr_core.video.job import FilmJob
from bfr_core.video.options import FilmOptions
from bfr_core.video.pixels import Pixels, depth_of
from bfr_core.video.plan import FilmModels, plan_film
from bfr_core.video.probe import probe
from bfr_core.video.types import VideoFrame, VideoInfo

WIDTH, HEIGHT = 96, 64
TICKS = Fraction(1, 600)


class Spot:
    """Finds one face where the frame is bright."""

    name = "spot"

    def detect(self, frames: Tensor, *, threshold: float | None = None) -> list[list[Face]]:
        found = []
        for frame in frames:
            where = frame.mean(0) > 0.8
            if where.sum() < 50:
                found.append([])
                continue
            y, x = torch.nonzero(where).double().mean(0).tolist()
            points = (FFHQ_TEMPLATE - [256, 300]) * (24 / 256) + [x + 0.5, y + 0.5]
            found.append([Face((x - 16, y - 20, x + 16, y + 20), points, 0.99)])
        return found

    def to_device(self, device: Any) -> None:
        pass


class Bright:
    """An upscaler of its own: nearest neighbours, a tenth brighter."""

    name, key = "bright", "b"

    def __call__(self, frame: Tensor, factor: int) -> Tensor:
        larger = frame.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
        return (larger + 0.1).clamp(0, 1)


def images(count: int = 10, spot: bool = True) -> list[np.ndarray]:
    texture = np.random.default_rng(3).integers(20, 120, (HEIGHT, WIDTH, 3), np.uint8)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    made = []
    for number in range(count):
        image = texture.copy()
        if spot:
            image[(x - 44 - number) ** 2 + (y - 32) ** 2 < 200] = 235
        made.append(image)
    return made


def clip(path: Path, *, spot: bool = True, pix_fmt: str = "yuv420p", matrix: int | None = 1) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1" if path.suffix == ".mkv" else "libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        stream.time_base = stream.codec_context.time_base = TICKS
        stream.codec_context.sample_aspect_ratio = Fraction(16, 15)
        if matrix is not None and not pix_fmt.startswith("gbr"):
            stream.codec_context.colorspace = matrix
        for number, image in enumerate(images(spot=spot)):
            frame = frame_of(image, pix_fmt, matrix or 5)
            frame.pts, frame.time_base = number * number * 20 + number, TICKS
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def frames_of(path: Path) -> list[tuple[Fraction, list[np.ndarray]]]:
    with av.open(str(path)) as container:
        return [(frame.pts * frame.time_base, planes(frame)) for frame in container.decode(video=0)]


def options(**changes: Any) -> FilmOptions:
    usual: dict[str, Any] = {
        "choice": TrackSelection(quality_filter=None), "encode": EncodeSettings(codec="ffv1"), "segment_frames": 4,
    }  # fmt: skip
    return FilmOptions(**usual | changes)


def models() -> FilmModels:
    return FilmModels(restorer_of(Brighten()), Spot())


def restore(source: Path, target: Path, chosen: FilmOptions, **kwargs: Any) -> Any:
    with FilmJob(plan_film(source, target, chosen), models(), chosen, Runtime(), **kwargs) as job:
        return job.run()


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p10le", "yuv444p", "gray", "gbrp16le", "yuva420p", "yuv411p"])
def test_frames_without_a_face_are_their_planes_enlarged(tmp_path, pix_fmt):
    source, out = clip(tmp_path / "in.mkv", spot=False, pix_fmt=pix_fmt), tmp_path / "out.mkv"
    report = restore(source, out, options(upscale=2))
    assert (report.upscale, report.upscaled_by, report.restored_frames) == (2, "Lanczos", 0)
    before, after = frames_of(source), frames_of(out)
    assert [time for time, _ in after] == [time for time, _ in before]
    across = {"yuv420p": 2, "yuva420p": 2, "yuv422p10le": 2, "yuv411p": 4}.get(pix_fmt, 1)
    for (_, small), (_, large) in zip(before, after, strict=True):
        for number, (source_plane, plane) in enumerate(zip(small, large, strict=True)):
            left = (0.5 - 0.5 / across) / 2 if number in (1, 2) else 0.0
            span = (0, (1 << depth_of(pix_fmt)) - 1)
            expected = enlarge_plane(source_plane, 2, span, left=left)
            if pix_fmt.startswith("yuv") and number < 3:
                step = 1 << (depth_of(pix_fmt) - 8)
                low, high = (16 * step, (240 if number else 235) * step)
                expected = expected.clip(min(low, source_plane.min()), max(high, source_plane.max()))
            assert np.array_equal(plane, expected)
    info = probe(out)
    assert (info.width, info.height, info.pix_fmt) == (WIDTH * 2, HEIGHT * 2, probe(source).pix_fmt)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["yuv444p16le", "yuv422p16le", "yuv420p16le", "yuv411p", "yuv440p", "gbrp16le", "yuv420p"]),
    st.sampled_from([2, 4]), st.integers(33, 60), st.integers(33, 60), st.floats(0, 6),
)  # fmt: skip
def test_colours_stay_on_what_they_colour(pix_fmt, factor, width, height, turn):
    """Slow waves of another phase in each colour, as planes and then as RGB: what moves by a quarter pixel shows."""
    info = VideoInfo(
        Path("x"), "", 0, (), 0, width, height, 0, False, Fraction(1), TICKS, Fraction(25), None, None, "", pix_fmt,
        depth_of(pix_fmt), 1, True, 1, 1, False,
    )  # fmt: skip
    pixels = Pixels(info)
    picture = av.VideoFrame(width, height, pix_fmt)
    picture.pts, picture.time_base = 0, TICKS
    top = (1 << info.depth) - 1
    for number, (plane, step) in enumerate(zip(pixels.planes(picture), cells(pix_fmt), strict=True)):
        rows, columns = plane.shape
        y = (np.arange(rows)[:, None] + 0.5) * step[1]  # amid the rows of a cell
        x = np.arange(columns)[None] * step[0] + 0.5  # on its left column
        wave = 0.5 + 0.2 * np.sin(x / 9 + turn + number) * np.cos(y / 8 + number)
        plane[:] = np.rint(wave * top)
    enlarger = Enlarger(info, factor)
    moment = VideoFrame(0, 0.0, lambda: pixels.rgb(picture), lambda: np.zeros((1, 1)), picture, 0)
    made = enlarger(moment)
    rough = 1.5 / 255 if info.depth == 8 else 0.001
    for number, (plane, step) in enumerate(zip(enlarger.pixels.planes(made.picture), cells(pix_fmt), strict=True)):
        rows, columns = plane.shape
        y = (np.arange(rows)[:, None] + 0.5) * step[1] / factor
        x = (np.arange(columns)[None] * step[0] + 0.5) / factor
        wave = 0.5 + 0.2 * np.sin(x / 9 + turn + number) * np.cos(y / 8 + number)
        edge = 4 * factor
        error = np.abs(plane / top - wave)[edge:-edge, edge:-edge]
        assert not error.size or error.max() < rough + 0.0035  # a quarter pixel would be 0.0055 and more


def cells(pix_fmt: str) -> list[tuple[int, int]]:
    cell = {"420": (2, 2), "422": (2, 1), "411": (4, 1), "440": (1, 2)}.get(pix_fmt[3:6], (1, 1))
    return [(1, 1), cell, cell]


def test_faces_go_into_the_larger_frames_and_nothing_else_changes(tmp_path):
    source, out, plain = clip(tmp_path / "in.mkv"), tmp_path / "out.mkv", tmp_path / "plain.mkv"
    report = restore(source, out, options(upscale=4))
    assert report.restored_frames >= 8  # the last ones last so long that the face fades
    nobody = options(upscale=4, choice=TrackSelection(quality_filter=None, except_ids=(1,)))
    restore(source, plain, nobody)
    for (_, made), (_, canvas) in list(zip(frames_of(out), frames_of(plain), strict=True))[:8]:
        changed = made[0] != canvas[0]
        assert changed[4 * 20 : 4 * 44].any() and not changed[:, : 4 * 6].any() and not changed[:, -4 * 6 :].any()
        # Brighter by a quarter, as the restorer paints it, whatever the size.
        inside = (made[0].astype(int) - canvas[0])[changed]
        assert inside.max() >= 0.2 * 219


def test_a_model_enlarges_films_in_their_own_format(tmp_path):
    source, out = clip(tmp_path / "in.mkv", spot=False), tmp_path / "out.mkv"
    report = restore(source, out, options(upscale=2, upscaler=Bright()))
    assert report.upscaled_by == "bright"
    for (_, small), (_, large) in zip(frames_of(source), frames_of(out), strict=True):
        lift = large[0].mean() - small[0].mean()
        assert lift == pytest.approx(0.1 * 219, abs=1.5)


def test_a_job_with_another_size_is_not_gone_on_with(tmp_path):
    source, out = clip(tmp_path / "in.mkv"), tmp_path / "out.mkv"
    chosen = options(upscale=2)
    plan = plan_film(source, out, chosen)

    def stop(name: str, done: int, total: int) -> None:
        if name == "render" and done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), FilmJob(plan, models(), chosen, Runtime(), on_progress=stop) as job:
        job.run()
    for other in (options(upscale=4), options(upscale=2, upscaler=Bright())):
        with pytest.raises(SettingsError, match="upscale"):
            restore(source, out, other)
    assert restore(source, out, chosen).frames == 10


def test_the_matrix_that_players_assumed_is_said_of_larger_frames(tmp_path):
    source, out = clip(tmp_path / "in.mkv", spot=False, matrix=None), tmp_path / "out.mkv"
    info = probe(source)
    tall = replace(info, height=400, width=600)
    assert info.matrix == 2 and enlarged_info(tall, 2).matrix == 5 and enlarged_info(tall, 1).matrix == 2
    assert enlarged_info(replace(tall, height=720), 2).matrix == 1
    restore(source, out, options(upscale=2))
    assert probe(out).matrix in (5, 6)


def test_what_cannot_be_enlarged_is_refused_before_the_work(tmp_path):
    source = clip(tmp_path / "in.mkv")
    info = probe(source)
    with pytest.raises(SettingsError, match="interlaced"):
        enlarged_info(replace(info, fields="tff"), 2)
    with pytest.raises(InputMediaError, match="Cannot enlarge this picture 4 times"):
        enlarged_info(replace(info, width=8000, height=4000), 4)
    with pytest.raises(SettingsError, match="upscale of 3"):
        plan_film(source, tmp_path / "out.mkv", options(upscale=3))
    from bfr_core.video.encode import check_level, choose_encoding

    large = replace(info, width=8192, height=4608)
    encoding = choose_encoding(large, tmp_path / "out.mp4", EncodeSettings())
    with pytest.raises(OutputMediaError, match=r"8192 x 4608.*highest level"):
        check_level(encoding, large)
    check_level(choose_encoding(large, tmp_path / "out.mkv", EncodeSettings(codec="ffv1")), large)


def test_a_film_of_another_size_than_planned_is_noticed(tmp_path, monkeypatch):
    from bfr_core.video import join

    real = join.Written
    monkeypatch.setattr(join, "Written", lambda video, size, *rest: real(video, (size[0] + 2, size[1]), *rest))
    source = clip(tmp_path / "in.mkv", spot=False)
    with pytest.raises(OutputMediaError, match="frame 0 has 192 x 128 pixels, expected 194 x 128"):
        restore(source, tmp_path / "out.mkv", options(upscale=2))


def test_frames_in_memory_are_enlarged():
    frames = torch.stack([torch.from_numpy(image).permute(2, 0, 1).float() / 255 for image in images()])
    frames[:, 2, :5] *= 4  # light that no screen shows
    chosen = options(upscale=2)
    made = restore_frames(frames, 25, models(), chosen)
    assert made.frames.shape == (10, 3, 2 * HEIGHT, 2 * WIDTH)
    for frame, result in zip(frames, made.frames, strict=True):
        canvas = upscaled(frame, 2)
        changed = (result != canvas).any(0)
        assert not changed[:7].any() and not changed[:, :12].any()
    assert bool((made.frames[5] != upscaled(frames[5], 2)).any())
    with pytest.raises(InputMediaError, match="Choose upscale 2"):
        restore_frames(torch.zeros(1).expand(1, 3, 4000, 4000), 25, models(), options(upscale=4))


def test_the_command_enlarges_films(tmp_path, capsys):
    source, out = clip(tmp_path / "in.mp4", spot=False), tmp_path / "out.mp4"
    assert main(["restore", str(source), "-o", str(out), "--upscale", "2", "--preset", "ultrafast"]) == 0
    info = probe(out)
    assert (info.width, info.height, info.pixel_aspect) == (192, 128, Fraction(16, 15))
    assert main(["restore", str(source), "-o", str(tmp_path / "b.mp4"), "--upscale", "4", "--dry-run"]) == 0
    assert '"size": [\n    384,\n    256\n  ]' in capsys.readouterr().out
