"""The first pass over films: where shots begin, where faces are looked for, and that a break changes nothing."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bfr_core.errors import SettingsError
from bfr_core.faces.align import FFHQ_TEMPLATE
from bfr_core.faces.detect import load_detector
from bfr_core.faces.identity import embedded_recognizer
from bfr_core.faces.pyramid import overlap
from bfr_core.runtime import Runtime
from bfr_core.types import Face
from bfr_core.video.cuts import CutFinder
from bfr_core.video.probe import probe
from bfr_core.video.reader import Reader
from bfr_core.video.scan import Follower, ScanOptions, scan
from bfr_core.video.tracks import link
from bfr_core.video.types import Scan, VideoFrame

HIGH, WIDE = 47, 84


@lru_cache(maxsize=64)
def scene(seed: int, height: int = HIGH, width: int = WIDE) -> np.ndarray:
    """Return a picture like a photo's luma: a random field whose amplitude falls with the frequency."""
    rng = np.random.default_rng(seed)
    shape = (2 * height, 2 * width)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(shape[1]) * shape[1], np.fft.fftfreq(shape[0]) * shape[0]))
    field = np.fft.ifft2(np.fft.fft2(rng.normal(size=shape)) / np.maximum(frequency, 1) ** 1.2).real[:height, :width]
    spread = rng.uniform(25, 50)
    return np.clip(rng.uniform(80, 160) + spread * (field - field.mean()) / field.std(), 0, 255)


def eight(seed: int) -> np.ndarray:
    return scene(seed).round().astype(np.uint8)


def marks(lumas, noise: float = 2.0) -> list[int]:
    """Return the numbers of the frames that begin a shot, in a film with some noise."""
    finder, rng = CutFinder(), np.random.default_rng(1)
    grainy = (np.clip(luma + rng.normal(0, noise, luma.shape), 0, 255).round().astype(np.uint8) for luma in lumas)
    return [number for number, luma in enumerate(grainy) if finder.step(luma)]


@pytest.mark.parametrize("noise", [0.0, 3.0, 10.0])
def test_every_cut_between_scenes_is_found(noise):
    lengths = [9, 1, 14, 2, 30, 7, 25, 3]
    film = [scene(number) for number, length in enumerate(lengths) for _ in range(length)]
    assert marks(film, noise) == [0, *np.cumsum(lengths)[:-1].tolist()]


def test_flashes_and_lamps_are_no_cuts():
    one = scene(1)
    lamp = [one * (1 - 0.6 * (number > 20)) for number in range(40)]
    flash = [np.clip(one * 1.5 + 60, 0, 255) if number in (10, 25, 26) else one for number in range(40)]
    burnt = [np.full_like(one, 253) if number in (10, 11, 12) else one for number in range(40)]
    black = [one * 0 if number in (10, 11, 12) else one for number in range(40)]
    for film in (lamp, flash, burnt, black):
        assert marks(film) == [0]


def test_a_cut_by_way_of_black_is_found_when_there_is_a_picture():
    film = [scene(1)] * 10 + [np.full((HIGH, WIDE), 4.0)] * 8 + [scene(2)] * 10
    assert marks(film, 0.5) == [0, 18]


@pytest.mark.parametrize("step", [0.5, 1.0, 2.0, 3.0])
def test_a_pan_is_no_cut_and_a_cut_within_one_is(step):
    wide = scene(3, HIGH, 400)
    other = scene(4, HIGH, 400)

    def window(picture, number):
        at = step * number
        low = int(at)
        return picture[:, low : low + WIDE] * (1 - at % 1) + picture[:, low + 1 : low + WIDE + 1] * (at % 1)

    assert marks([window(wide, number) for number in range(60)]) == [0]
    assert marks([window(wide if number < 30 else other, number) for number in range(60)]) == [0, 30]


def test_zooming_and_somebody_walking_past_are_no_cuts():
    large = scene(5, 200, 356)
    zoom = []
    for number in range(50):
        rows = (100 + np.linspace(-1, 1, HIGH) * (45 + number)).round().astype(int)
        columns = (178 + np.linspace(-1, 1, WIDE) * (80 + 1.8 * number)).round().astype(int)
        zoom.append(large[np.ix_(rows, columns)])
    assert marks(zoom) == [0]
    back, person = scene(6), scene(7)
    walk = []
    for number in range(40):
        luma = back.copy()
        left = -30 + 3 * number
        low, high = np.clip([left, left + 30], 0, WIDE)
        luma[:, low:high] = person[:, low - left : high - left]
        walk.append(luma)
    assert marks(walk) == [0]


def test_the_cuts_of_a_real_clip(shared):
    """By eye: a man on a stage, a profile in a dark room, the man nearer, three people in the audience."""
    finder = CutFinder()
    found = [number for number, moment in enumerate(decoded(shared, "performance_cuts_640x360")) if finder.step(moment)]
    assert found == [0, 20, 82, 211]


def test_talking_is_no_cut(shared):
    for name in ("talking_480x480", "old_film_512x512"):
        finder = CutFinder()
        assert [n for n, luma in enumerate(decoded(shared, name)) if finder.step(luma)] == [0]


def decoded(shared: Path, name: str):
    """Yield small lumas of a real clip."""
    import av

    with av.open(str(shared / "video" / f"{name}.mp4")) as container:
        for frame in container.decode(video=0):
            scale = (4000 / (frame.width * frame.height)) ** 0.5
            size = (round(frame.width * scale), round(frame.height * scale))
            yield frame.reformat(*size, format="gray").to_ndarray()


# Scanning -----------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def quick(request, monkeypatch):
    """Sharpness is measured in the tests of the gate; here it would take most of the time."""
    if "shared" not in request.fixturenames:
        monkeypatch.setattr("bfr_core.video.scan.CROP", 16)
        monkeypatch.setattr("bfr_core.video.scan.sharpness", lambda crop: round(float(crop[0, 0, 0]), 4))


class Film:
    """A film whose frames say which faces they show, and which counts how often a frame was rendered."""

    def __init__(self, faces: dict[int, list[tuple[float, float, float]]], frames: int, cuts=(), rate=25.0) -> None:
        self.faces, self.frames, self.cuts, self.rate = faces, frames, cuts, rate
        self.drawn: list[int] = []
        self.alive = self.most_alive = 0

    def moments(self):
        shot = 0
        for number in range(self.frames):
            shot += number in self.cuts
            yield VideoFrame(
                number, number / self.rate, lambda number=number: self.draw(number), lambda shot=shot: eight(shot),
                pts=7 * number,
            )  # fmt: skip

    def draw(self, number: int) -> torch.Tensor:
        self.drawn.append(number)
        frame = torch.full((3, 40, 60), 0.5)
        frame[0, 0, 0] = number / 4096
        return frame


class Knows:
    """A detector that reads the number of a frame in its first pixel, and follows what moved less than a third."""

    name = "knows"

    def __init__(self, film: Film, tremble: float = 0.0) -> None:
        self.film, self.tremble = film, tremble
        self.searched: list[int] = []
        self.followed: list[int] = []

    def there(self, number: int) -> list[Face]:
        rng = np.random.default_rng(number)
        faces = []
        for x, y, size in self.film.faces.get(number, []):
            middle = np.array([x, y]) + rng.normal(0, self.tremble * size, 2)
            points = (FFHQ_TEMPLATE - 256) * (2 * size / 512) + middle
            box = (*(middle - size / 2), *(middle + size / 2))
            faces.append(Face(tuple(map(float, box)), points, 0.99))
        return faces

    def detect(self, frames, *, threshold=None):
        numbers = [round(float(frame[0, 0, 0]) * 4096) for frame in frames]
        self.searched += numbers
        return [self.there(number) for number in numbers]

    def to_device(self, device):
        pass


class Follows(Knows):
    def search(self, frames):
        return self.detect(frames)

    def follow(self, frame, faces, *, threshold=None):
        number = round(float(frame[0, 0, 0]) * 4096)
        self.followed.append(number)
        there = self.there(number)
        found = []
        for face in faces:
            for other in there:
                near = overlap(np.array(face.box), np.array([other.box]))[0][0] > 0.45
                if near and not any(other is known for known in found):
                    found.append(other)
                    break
        return found


def scanned(film: Film, detector, options=None, recogniser=None, runtime=None, start=()) -> Scan:
    parts = scan(film.moments(), detector, recogniser, options or ScanOptions(), runtime or Runtime(), start=start)
    return Scan.joined([*start, *parts])


def test_a_film_without_faces_is_hardly_looked_at():
    film = Film({}, 1000)
    found = scanned(film, detector := Follows(film), ScanOptions(look_s=0.4))
    assert len(found) == 1000 and len(found.frame) == 0 and link(found) == []
    # Every 0.4 s, and the last frame.
    assert detector.searched == [*range(0, 1000, 10), 999]
    assert len(film.drawn) == 101
    np.testing.assert_allclose(found.times, np.arange(1000) / 25)
    assert found.pts.tolist() == [7 * number for number in range(1000)]


@pytest.mark.parametrize("kind", [Knows, Follows])
def test_births_and_deaths_are_known_to_the_frame(kind):
    film = Film({frame: [(100 + 2 * frame, 90, 60)] for frame in range(33, 78)}, 120)
    found = scanned(film, detector := kind(film))
    (track,) = link(found)
    assert (track.first, track.last) == (33, 77)
    assert track.observed.all()
    if kind is Follows:
        assert len(detector.searched) < 30
        assert isinstance(detector, Follower)


@pytest.mark.parametrize("every", [1, 2, 5])
def test_frames_between_looks_are_filled_where_nobody_can_follow(every):
    film = Film({frame: [(100 + 2 * frame, 90, 60)] for frame in range(40)}, 40)
    found = scanned(film, detector := Knows(film), ScanOptions(every=every))
    (track,) = link(found)
    assert (track.first, track.last) == (0, 39)
    assert sorted(detector.searched) == sorted({*range(0, 40, every), 39})
    exact = np.stack([detector.there(frame)[0].points for frame in range(40)])
    np.testing.assert_allclose(track.points, exact, atol=1e-9)


def test_a_search_in_half_the_size_finds_the_same_faces(shared):
    """Where small ones do not matter."""
    detector = load_detector()
    tracks = []
    for least in (0.0, 32.0):
        film = Reader(probe(shared / "video" / "talking_480x480.mp4"), window=(2.0, 0.4))
        parts = scan(iter(film), detector, None, ScanOptions(min_px=least))
        (track,) = link(Scan.joined(list(parts)))
        tracks.append(track)
    assert [(track.first, track.last) for track in tracks] == [(0, 9)] * 2
    size = np.sqrt(np.prod(tracks[0].boxes[:, 2:] - tracks[0].boxes[:, :2], axis=1))
    apart = np.linalg.norm(tracks[0].points - tracks[1].points, axis=2).mean(1) / size
    assert apart.max() < 0.01


def test_a_face_too_fast_to_follow_is_searched_for():
    film = Film({frame: [(100 + 80 * frame, 300, 100)] for frame in range(20)}, 20)
    (track,) = link(scanned(film, detector := Follows(film)))
    assert (track.first, track.last) == (0, 19) and track.observed.all()
    assert set(detector.searched) == set(range(20))


def test_a_second_person_is_traced_back_to_where_they_came_in():
    faces = {frame: [(100, 90, 60)] + ([(300, 90, 50)] if 43 <= frame < 61 else []) for frame in range(90)}
    film = Film(faces, 90)
    tracks = link(scanned(film, detector := Follows(film)))
    assert [(track.first, track.last) for track in tracks] == [(0, 89), (43, 60)]
    assert len(set(detector.searched)) < 30


def test_faces_before_a_cut_are_seen_to_its_last_frame():
    for kind in (Knows, Follows):
        faces = {frame: [(100, 90, 60) if frame < 47 else (250, 90, 40)] for frame in range(90)}
        film = Film(faces, 90, cuts=(47,))
        tracks = link(scanned(film, kind(film)))
        assert [(track.first, track.last) for track in tracks] == [(0, 46), (47, 89)]
        assert all((track.weight == 1).all() for track in tracks)


def test_frames_are_searched_together_on_an_accelerator(monkeypatch):
    """As many as the runtime's batch; a detector there searches every frame."""
    film = Film({frame: [(100, 90, 60)] for frame in range(40)}, 40)
    detector, sizes = Follows(film), []
    single = detector.detect
    monkeypatch.setattr(detector, "detect", lambda frames, **given: (sizes.append(len(frames)), single(frames))[1])
    scanned(film, detector, runtime=Runtime(device=torch.device("meta"), batch=6))
    assert sorted(detector.searched) == list(range(40)) and not detector.followed
    assert max(sizes) == 6 and len(sizes) < 10


def many_faces(seed: int, frames: int) -> dict[int, list[tuple[float, float, float]]]:
    """Return people who come, walk and go at random."""
    rng = np.random.default_rng(seed)
    faces: dict[int, list[tuple[float, float, float]]] = {}
    for person in range(6):
        first, length = rng.integers(0, frames), rng.integers(5, frames)
        x, way, size = 120 + 200 * person, rng.normal(0, 3), rng.uniform(30, 90)
        for frame in range(first, min(first + length, frames)):
            faces.setdefault(int(frame), []).append((x + 30 * np.sin(way * frame / 20), 200.0, size))
    return faces


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 1000), st.booleans())
def test_row45_a_scan_that_was_broken_off_goes_on_as_if_it_had_not_been(seed, can_follow):
    """From any of its parts: the arrays are the same to the bit, and what is done is not searched again."""
    kind = Follows if can_follow else Knows
    film = Film(many_faces(seed, 130), 130, cuts=(40, 41, 95))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bfr_core.video.scan.PART", 30)
        parts = list(scan(film.moments(), kind(film, 0.01), None, ScanOptions(), Runtime()))
        whole = Scan.joined(parts)
        assert len(parts) > 2 and len(whole) == 130
        for kept in range(1, len(parts)):
            again = scanned(film, detector := kind(film, 0.01), start=parts[:kept])
            for name, array in whole.arrays().items():
                np.testing.assert_array_equal(array, again.arrays()[name], err_msg=name)
            assert min(detector.searched, default=130) >= sum(map(len, parts[:kept]))


def test_few_frames_are_held_however_fast_the_film():
    """At 1000 frames a second 0.4 s would be 400 frames."""
    held = []
    film = Film({}, 500, rate=1000.0)

    def counted():
        import weakref

        for moment in film.moments():
            token = np.zeros(1)
            held.append(weakref.ref(token))
            moment.picture = token
            yield moment
            alive = sum(reference() is not None for reference in held)
            film.most_alive = max(film.most_alive, alive)

    list(scan(counted(), Follows(film), None, ScanOptions(), Runtime()))
    assert film.most_alive <= 51


def test_a_run_can_be_cancelled():
    film, asked = Film({}, 100), []

    def cancel():
        asked.append(1)
        if len(asked) > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scanned(film, Follows(film), runtime=Runtime(check_cancel=cancel))


@pytest.mark.parametrize(
    "wrong", [{"every": -1}, {"every": 31}, {"look_s": -1.0}, {"threshold": 1.5}, {"gap_s": 11.0}, {"look_s": np.nan}]
)  # fmt: skip
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        ScanOptions(**wrong)


# By the real detector and recogniser ---------------------------------------------------------------------------------


def real(shared: Path, name: str, first: int, last: int):
    import av

    with av.open(str(shared / "video" / f"{name}.mp4")) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number >= last:
                return
            if number >= first:
                rgb = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1).float() / 255
                luma = frame.reformat(WIDE, HIGH, format="gray").to_ndarray()
                yield VideoFrame(number - first, (number - first) / 29.97, lambda rgb=rgb: rgb, lambda luma=luma: luma)


def test_following_a_real_face_is_as_good_as_searching_every_frame(shared):
    """A singer who moves: points within 1.5 % of the face on average of those of a full search."""
    detector = load_detector()
    found = Scan.joined(
        list(scan(real(shared, "performance_cuts_640x360", 100, 112), detector, embedded_recognizer()))
    )  # fmt: skip
    (track,) = link(found)
    assert track.observed.all() and len(track.frames) == 12
    assert track.identity is not None and np.linalg.norm(track.identity) == pytest.approx(1, abs=1e-3)
    assert np.isfinite(found.sharpness).sum() == 1
    for moment in list(real(shared, "performance_cuts_640x360", 100, 112))[2::6]:
        (face,) = detector.detect(moment.rgb()[None])[0]
        off = np.linalg.norm(track.points[moment.index] - face.points, axis=1).mean()
        assert off < 0.015 * face.size
