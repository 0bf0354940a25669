"""Rendering: which pixels change, in which order frames come, what is held, and that faces are steadier than before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bfr_core.bench.video_flicker import SHAPE, moving_face, steadiness
from bfr_core.compose.paste import composite
from bfr_core.errors import RestoreError, SettingsError
from bfr_core.faces.align import FFHQ_TEMPLATE, sample, similarity
from bfr_core.registry import Config, Method
from bfr_core.restorer import Restorer
from bfr_core.runtime import Runtime
from bfr_core.types import Face, FaceCrop
from bfr_core.video import render as rendering
from bfr_core.video.deflicker import MAX_FRAMES, REACH_S, Deflicker
from bfr_core.video.render import RenderOptions, reach, render, track_seed
from bfr_core.video.types import Track, VideoFrame

SIDE = 64
"""Of the stand-in's crops."""
PLAIN = RenderOptions(deflicker=0, grain=0)


def stand_in(restore: Callable[..., Tensor], size: int = SIDE) -> Restorer:
    """Return a restorer that does `restore(faces, seeds)`."""
    config = Config("test", "Test", size)
    method = Method(
        "test", "Test method", "", (), (config,), lambda c: nn.Identity(),
        lambda net, faces, settings, seeds, inputs, context: restore(faces, list(seeds)), lambda keys: None,
    )  # fmt: skip
    return Restorer(method, config, nn.Identity(), "test")


LUMA = torch.tensor([0.299, 0.587, 0.114])


def inverted(image: Tensor) -> Tensor:
    """Turn the light of (..., 3, H, W) round and leave the colours, which are the input's whatever a method does."""
    return image + (1 - 2 * torch.einsum("c,...chw->...hw", LUMA, image)).unsqueeze(-3)


INVERT = stand_in(lambda faces, seeds: inverted(faces))


def noisy(faces: Tensor, seeds: Sequence[int]) -> Tensor:
    """Paint noise that depends on the face's pixels, as a method does whose noise is not shared."""
    made = []
    for face in faces:
        key = int(torch.round(face.sum(dtype=torch.float64) * 1e4)) % (1 << 40)
        made.append(face + 0.1 * torch.randn(face.shape, generator=torch.Generator().manual_seed(key)))
    return torch.stack(made)


def track(first: int, count: int, *, at=(60.0, 50.0), side=48.0, step=(0.0, 0.0), number=1, **other) -> Track:
    """Return a track whose crop's square of `side` px has its centre at `at`, moving by `step` a frame."""
    frames = np.arange(first, first + count)
    centres = np.array(at) + np.outer(np.arange(count), step)
    points = (FFHQ_TEMPLATE - 256) * side / 512 + centres[:, None]
    matrices = np.stack([similarity(each, FFHQ_TEMPLATE) for each in points])
    boxes = np.concatenate([centres - side / 4, centres + side / 4], 1).astype(np.float32)
    fields = {
        "observed": np.ones(count, bool),
        "scores": np.ones(count, np.float32),
        "weight": np.ones(count, np.float32),
    }
    return Track(number, 0, frames, boxes=boxes, points=points, matrices=matrices, **{**fields, **other})


class Film:
    """Frames made when they are asked for, which counts how often, and how many moments are alive."""

    def __init__(self, count: int, shape=(100, 120), *, fps: float = 25.0, gray: bool = False) -> None:
        rng = np.random.default_rng(3)
        frames = 0.35 + 0.3 * rng.random((count, 3, 8, 10), dtype=np.float32)  # inverted they are in range as well
        if gray:
            frames[:] = frames.mean(1, keepdims=True)
        self.frames = torch.nn.functional.interpolate(torch.from_numpy(frames), shape, mode="bilinear")
        self.fps = fps
        self.asked: dict[int, int] = {}

    def moments(self, first: int = 0, last: int | None = None):
        for index in range(first, len(self.frames) if last is None else last):
            yield VideoFrame(index, index / self.fps, lambda index=index: self._rgb(index), lambda: np.zeros((1, 1)))

    def _rgb(self, index: int) -> Tensor:
        self.asked[index] = self.asked.get(index, 0) + 1
        return self.frames[index]


def rendered(film: Film, tracks, restorer=INVERT, options=PLAIN, runtime=None, **span):
    return list(render(film.moments(), tracks, restorer, options, runtime or Runtime(), **span))


def test_frames_come_in_order_and_only_faces_change():
    film = Film(12)
    results = rendered(film, [track(3, 5, step=(2, 0))])
    assert [result.index for result in results] == list(range(12))
    assert [result.index for result in results if result.after is not None] == [3, 4, 5, 6, 7]
    assert set(film.asked) == {3, 4, 5, 6, 7}, "frames without a face cost nothing"
    for result in results[3:8]:
        x0, y0, x1, y1 = result.box
        assert torch.equal(result.before, film.frames[result.index])
        outside = torch.ones(100, 120, dtype=torch.bool)
        outside[y0:y1, x0:x1] = False
        assert torch.equal(result.after[:, outside], result.before[:, outside])
        centre = 60 + 2 * (result.index - 3)
        assert centre - 24 <= x0 <= centre - 16 and centre + 16 <= x1 <= centre + 24, "a head, not its square"
        assert 26 <= y0 <= 29 and 71 <= y1 <= 74
        assert torch.allclose(result.after[:, 50, centre], inverted(result.before)[:, 50, centre], atol=0.02)


def test_a_frame_equals_the_composite_of_one_picture():
    film = Film(3)
    one = track(0, 3, at=(55, 48), side=60)
    for result in rendered(film, [one]):
        matrix = one.matrices[result.index] * SIDE / 512
        frame = film.frames[result.index]
        crop = FaceCrop(sample(frame, matrix, SIDE), matrix, Face((0, 0, 1, 1), one.points[0], 1.0))
        wanted, _ = composite(frame, [crop], [inverted(crop.image)], worth=[0.0])
        assert torch.allclose(result.after, wanted, atol=1e-5)


@pytest.mark.parametrize(("sharpness", "kept"), [(0.6, True), (0.3, False), (None, False)])
def test_a_large_face_keeps_its_detail_where_its_track_is_sharp(sharpness, kept):
    """The face has 96 px, its crop fewer; a restorer that changes nothing gives the frame back."""
    film = Film(2)
    film.frames = torch.rand(film.frames.shape, generator=torch.Generator().manual_seed(0))
    facts = {} if sharpness is None else {"sharpness": sharpness}
    for result in rendered(film, [track(0, 2, side=96, facts=facts)], restorer=stand_in(lambda faces, seeds: faces)):
        frame = film.frames[result.index]
        after = frame if result.after is None else result.after
        assert torch.allclose(after, frame, atol=1e-5) == kept


def test_tracks_that_are_not_to_be_restored_or_have_no_weight_stay():
    film = Film(6)
    weight = np.array([0, 0.5, 1, 1, 0.5, 0], np.float32)
    results = rendered(film, [track(0, 6, weight=weight), track(0, 6, number=2, at=(30, 30), restore=False)])
    assert [result.after is not None for result in results] == [False, True, True, True, True, False]
    change = [float((r.after - r.before)[:, 50, 60].sum() / (inverted(r.before) - r.before)[:, 50, 60].sum())
              for r in results[1:5]]  # fmt: skip
    assert np.allclose(change, [0.5, 1, 1, 0.5], atol=0.1)
    assert all(result.box[0] >= 36 for result in results[1:5]), "the other face was touched"


def test_strength_of_each_track():
    film = Film(1)
    tracks = [track(0, 1, at=(35, 50)), track(0, 1, at=(90, 50), number=2), track(0, 1, at=(60, 20), number=3, side=20)]
    options = RenderOptions(deflicker=0, strength=0.8, strengths={2: 0.4, 3: 0.0})
    (result,) = rendered(film, tracks, options=options)
    moved = (result.after - result.before) / (inverted(result.before) - result.before)
    assert torch.allclose(moved[:, 50, 35].median(), torch.tensor(0.8), atol=0.06)
    assert torch.allclose(moved[:, 50, 90].median(), torch.tensor(0.4), atol=0.06)
    assert torch.equal(result.after[:, :20], result.before[:, :20])


def test_gray_films_stay_gray():
    film = Film(4, gray=True)
    tint = stand_in(lambda faces, seeds: faces * torch.tensor([1.0, 0.9, 0.8]).view(3, 1, 1))
    for options in (PLAIN, RenderOptions()):
        for result in rendered(film, [track(0, 4)], tint, options):
            assert float((result.after.amax(0) - result.after.amin(0)).max()) < 1e-6
            assert not torch.equal(result.after, result.before)


def test_one_seed_for_all_frames_of_a_track():
    seen: list[int] = []

    def note(faces, seeds):
        seen.extend(seeds)
        return faces

    tracks = [track(0, 5), track(1, 3, number=2, at=(20, 20))]
    options = RenderOptions(deflicker=0, seed=7, seeds={2: 9})
    rendered(Film(5), tracks, stand_in(note), options)
    assert set(seen) == {track_seed(options, each) for each in tracks}
    assert [seen.count(track_seed(options, each)) for each in tracks] == [5, 3]
    assert track_seed(options, tracks[0]) != track_seed(RenderOptions(seed=8), tracks[0])


def test_row55_batches_reach_across_frames_and_their_size_changes_nothing():
    film = Film(11)
    tracks = [track(0, 11, step=(1, 0)), track(2, 4, number=2, at=(30, 40)), track(8, 3, number=3, at=(90, 70))]
    sizes: list[int] = []

    def note(faces, seeds):
        sizes.append(len(faces))
        return noisy(faces, seeds)

    for options in (PLAIN, RenderOptions()):
        first = rendered(film, tracks, stand_in(noisy), options, Runtime(batch=1))
        for batch in (3, 64):
            sizes.clear()
            other = rendered(film, tracks, stand_in(note), options, Runtime(batch=batch))
            assert max(sizes) == min(batch, 18) or batch == 64
            assert sum(sizes) == 18
            for one, two in zip(first, other, strict=True):
                assert one.box == two.box
                assert torch.equal(one.after, two.after)


@settings(max_examples=6, deadline=None)
@given(st.integers(1, 18), st.integers(1, 18), st.sampled_from([1, 3, 4]), st.sampled_from([10.0, 25.0, 60.0]))
def test_row47_parts_of_a_film_give_what_the_whole_gives(one, other, batch, fps):
    film = Film(19, (48, 48), fps=fps)
    tracks = [track(0, 9, at=(24, 24), side=32), track(11, 8, at=(24, 24), side=30, step=(0.3, 0.1), number=2)]
    options = RenderOptions()
    restorer = stand_in(noisy, 32)
    margin = reach([index / fps for index in range(19)], options)
    whole = rendered(film, tracks, restorer, options)
    cuts = sorted({0, one, other, 19})
    for first, last in pairwise(cuts):
        moments = film.moments(max(first - margin, 0), min(last + margin, 19))
        part = list(render(moments, tracks, restorer, options, Runtime(batch=batch), span=(first, last)))
        assert [result.index for result in part] == list(range(first, last))
        for result in part:
            assert torch.equal(result.after, whole[result.index].after) if result.after is not None else (
                whole[result.index].after is None
            )  # fmt: skip


def test_reach_counts_frames_in_time():
    options = RenderOptions()
    assert reach(np.arange(100) / 25, options) == round(REACH_S * 25)
    assert reach(np.arange(100) / 240, options) == MAX_FRAMES
    assert reach(np.arange(100) / 2, options) == 0
    assert reach(np.array([0, 1, 1.01, 1.02, 1.03, 3.0]), options) == 3
    assert reach(np.arange(100) / 25, PLAIN) == reach([], options) == 0


@pytest.mark.parametrize("options", [PLAIN, RenderOptions()])
def test_row52_what_is_held_does_not_grow(options, monkeypatch):
    held: list[tuple[int, int, int]] = []
    take = rendering._Renderer._take

    def watch(self, moment):
        take(self, moment)
        rows = max((len(steady) for steady in self._steady.values()), default=0)
        held.append((len(self.held), len(self.waiting), rows))

    monkeypatch.setattr(rendering._Renderer, "_take", watch)
    film = Film(60, (32, 32))
    # A single face in a long stretch without any must not hold frames back for a batch that never fills.
    tracks = [track(0, 30, at=(16, 16), side=16), track(38, 1, at=(16, 16), side=16, number=2)]
    results = render(film.moments(), tracks, stand_in(lambda f, s: f, 16), options, Runtime(batch=4))
    assert [result.index for result in results] == list(range(60))
    frames, waiting, rows = np.array(held).max(0)
    assert frames <= 4 + MAX_FRAMES + 1
    assert waiting <= 4 + 1
    assert rows <= (2 * MAX_FRAMES + 4 + 1 if options.deflicker else 0)


def test_row51_out_of_memory_goes_on_with_smaller_batches_at_the_same_frame():
    def hungry(faces, seeds):
        if len(faces) > 2:
            raise torch.OutOfMemoryError
        return noisy(faces, seeds)

    film, tracks = Film(9, (48, 48)), [track(0, 9, at=(24, 24), side=32)]
    runtime = Runtime(batch=8)
    results = rendered(film, tracks, stand_in(hungry), PLAIN, runtime)
    wanted = rendered(film, tracks, stand_in(noisy), PLAIN)
    assert all(torch.equal(one.after, two.after) for one, two in zip(results, wanted, strict=True))
    assert runtime.batch == 2
    assert any("batch was reduced" in note for note in runtime.notes)

    def starving(faces, seeds):
        raise torch.OutOfMemoryError

    with pytest.raises(RestoreError, match="single item"):
        rendered(film, tracks, stand_in(starving), PLAIN)


def test_cancel_passes_through():
    class Interrupt(BaseException):
        pass

    seen = []

    def check():
        seen.append(1)
        if len(seen) > 5:
            raise Interrupt

    with pytest.raises(Interrupt):
        rendered(Film(50, (32, 32)), [], runtime=Runtime(check_cancel=check))


@pytest.mark.parametrize(
    "options",
    [RenderOptions(strength=1.5), RenderOptions(deflicker=-0.1), RenderOptions(feather=0.7),
     RenderOptions(strengths={3: 2.0})],
)  # fmt: skip
def test_row58_options_out_of_range(options):
    with pytest.raises(SettingsError, match="expected 0 to"):
        rendered(Film(1), [], options=options)


# De-flicker -----------------------------------------------------------------------------------------------------------


def astronaut(size: int = 256) -> np.ndarray:
    from skimage import data

    return cv2.resize(data.astronaut()[0:220, 120:340], (size, size), interpolation=cv2.INTER_AREA).astype(
        np.float32
    ) / np.float32(255)  # fmt: skip


def moved(picture: np.ndarray, x: float, y: float) -> Tensor:
    shift = np.float32([[1, 0, x], [0, 1, y]])
    there = cv2.warpAffine(picture, shift, picture.shape[1::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    return torch.from_numpy(there.transpose(2, 0, 1).copy()).clamp(0, 1)


def steadied(inputs: Sequence[Tensor], made: Sequence[Tensor], wanted: Sequence[int]) -> dict[int, Tensor]:
    """Return the steadied faces of some frames, at 25 frames a second."""
    steady = Deflicker(inputs[0].shape[-1])
    for index, (crop, face) in enumerate(zip(inputs, made, strict=True)):
        steady.add(index, index / 25, crop, face)
    return {index: steady.result(index) for index in wanted}


INNER = (slice(None), slice(32, -32), slice(32, -32))


def test_noise_that_a_restorer_paints_is_averaged_along_the_motion():
    picture = astronaut()
    generator = torch.Generator().manual_seed(1)
    inputs = [moved(picture, 2.3 * np.sin(index / 3), 0.7 * index) for index in range(12)]
    made = [(face + 0.04 * torch.randn(face.shape, generator=generator)).clamp(0, 1) for face in inputs]
    results = steadied(inputs, made, (5, 6))
    before = np.mean([float((made[index] - inputs[index])[INNER].std()) for index in results])
    after = np.mean([float((results[index] - inputs[index])[INNER].std()) for index in results])
    assert after < 0.55 * before, (before, after)


def test_a_steady_restorer_is_left_as_it_is():
    picture = astronaut()
    inputs = [moved(picture, 1.5 * index, 0.5 * index) for index in range(9)]
    softer = [moved(cv2.GaussianBlur(picture, (0, 0), 2), 1.5 * index, 0.5 * index) for index in range(9)]
    # What is painted is a sharper face than the input, moving with it.
    for index, result in steadied(softer, inputs, (0, 1, 4, 8)).items():
        assert float((result - inputs[index])[INNER].abs().mean()) < 1.5 / 255, index


def test_no_ghost_of_what_changed():
    """An eye shuts in one frame: neither frame may show the other's."""
    picture = astronaut()
    shut = picture.copy()
    cv2.ellipse(shut, (100, 110), (22, 12), 0, 0, 360, (0.75, 0.55, 0.45), -1)
    inputs = [moved(picture if index < 6 else shut, 0.4 * index, 0) for index in range(12)]
    results = steadied(inputs, inputs, (4, 5, 6, 7))
    at = (slice(None), slice(102, 118), slice(84, 118))
    for index in (4, 5, 6, 7):
        error = float((results[index] - inputs[index])[at].abs().mean())
        assert error < 2.5 / 255, (index, error * 255)


def test_light_is_followed_at_once():
    picture = astronaut()
    inputs = [moved(picture * (0.6 if index < 6 else 1.0), 0, 0) for index in range(12)]
    results = steadied(inputs, inputs, (5, 6))
    for index in results:
        levels = 255 * float((results[index].mean((1, 2)) - inputs[index].mean((1, 2))).abs().max())
        assert levels < 1, levels


def test_far_frames_and_gaps_take_no_part():
    crops = [torch.rand(3, 64, 64) for _ in range(2)]
    for second, time in ((1, 0.5), (2, 0.08)):
        steady = Deflicker(64)
        steady.add(0, 0.0, crops[0], crops[0])
        steady.add(second, time, crops[0], crops[1])
        assert torch.allclose(steady.result(0), crops[0], atol=1e-4)


def test_film_frames_flicker_less_than_frames_restored_one_by_one():
    """The figure of the benchmark, on a small clip with a restorer that paints noise."""
    picture = torch.from_numpy(astronaut(128).transpose(2, 0, 1).copy())
    clip = moving_face(picture, torch.full((3, *SHAPE), 0.4), 7)
    one = track(0, 7)
    one.matrices = np.stack(clip.matrices) * 2  # to 512 px
    film = Film(0)
    film.frames = torch.stack(clip.truth)
    changes = {}
    for share in (0, 1):
        results = rendered(film, [one], stand_in(noisy, 128), RenderOptions(deflicker=share))
        changes[share] = steadiness([result.after for result in results], clip).change
    assert steadiness(clip.truth, clip).surplus == 0
    assert changes[1] < 0.6 * changes[0], changes


def test_the_share_of_deflicker_is_linear():
    film, tracks = Film(5, (64, 64)), [track(0, 5, at=(32, 32), side=40)]
    off, half, full = (
        rendered(film, tracks, stand_in(noisy), RenderOptions(deflicker=share, grain=0))[2].after
        for share in (0, 0.5, 1)
    )
    assert torch.allclose(half, (off + full) / 2, atol=1e-5)
    assert not torch.allclose(off, full, atol=1e-3)


# --- grain --------------------------------------------------------------------------------------------------------


class Grainy(Film):
    """A still picture under grain of 9 levels that is new in every frame, but for one that is held."""

    def __init__(self, count: int, held: int | None = None) -> None:
        super().__init__(1, (256, 256), gray=True)
        grain = torch.randn(count, 1, 256, 256, generator=torch.Generator().manual_seed(5)) * (9 / 255)
        if held is not None:
            grain[held] = grain[held - 1]
        self.frames = (self.frames * 0.3 + 0.35 + grain).clamp(0, 1).expand(-1, 3, -1, -1).contiguous()


SMOOTH = stand_in(lambda faces, seeds: torch.full_like(faces, 0.5), 256)
"""Takes all grain for noise."""


@pytest.mark.parametrize("deflicker", [0.0, 1.0])
def test_grain_is_as_steady_as_the_films_own(deflicker):
    """Of one strength in all frames, and as new from frame to frame as around the face; a held frame holds it too."""
    film, one = Grainy(6, held=4), track(0, 6, at=(128, 128), side=220)
    options = RenderOptions(deflicker=deflicker)
    faces = torch.stack([result.after[0, 100:150, 100:160] for result in rendered(film, [one], SMOOTH, options)])
    levels = faces.flatten(1).std(1) * 255
    assert torch.allclose(levels, torch.full((6,), 9.0), rtol=0.2)
    assert levels.std() / levels.mean() < 0.05, "it pumps"
    for number, (before, after) in enumerate(pairwise(faces.flatten(1)), 1):
        alike = float(torch.corrcoef(torch.stack([before, after]))[0, 1])
        assert alike > 0.999 if number == 4 else abs(alike) < 0.15


def test_a_part_of_a_film_has_the_grain_of_the_whole():
    film, one = Grainy(6), track(0, 6, at=(128, 128), side=220)
    options = RenderOptions(deflicker=0)
    whole = rendered(film, [one], SMOOTH, options)[3].after
    part = next(iter(render(film.moments(3, 4), [one], SMOOTH, options, Runtime(batch=1), span=(3, 4)))).after
    assert torch.allclose(whole, part, atol=1e-5)
    none = rendered(film, [one], SMOOTH, RenderOptions(deflicker=0, grain=0.0))[3].after
    assert float(none[0, 100:150, 100:160].std()) * 255 < 1
