"""The nodes of films on a stand-in host: from VIDEO to VIDEO, choosing tracks, and frames as a batch."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
import video_media
from fake_host import (
    FakeHost,
    VideoFromComponents,
    VideoFromFile,
    VideoFromTaggedComponents,
    VideoFromTrimmableFile,
    execute,
)
from PIL import Image
from tapes import frames_of as tape_frames
from tapes import tape
from tiny_nodes import load, synthetic

PROJECT = Path(__file__).resolve().parents[2]
WIDTH, HEIGHT, FRAMES, RATE = 160, 96, 14, 25
PARTS = ("what", "found", "kept", "todo")


class Spots:
    """A detector that finds a face in the middle of a bright spot in the left half, and of one in the right half."""

    name = "spots"

    def __init__(self, face: Any, template: np.ndarray) -> None:
        self.face, self.template, self.looks = face, template, 0

    def detect(self, frames: torch.Tensor, *, threshold: float | None = None) -> list[list[Any]]:
        self.looks += len(frames)
        found: list[list[Any]] = []
        for frame in frames:
            bright, faces = frame.mean(0) > 0.8, []
            for left in (0, WIDTH // 2):
                half = torch.zeros_like(bright)
                half[:, left : left + WIDTH // 2] = bright[:, left : left + WIDTH // 2]
                if half.sum() > 50:
                    y, x = torch.nonzero(half).double().mean(0).tolist()
                    points = (self.template - [256, 300]) * (24 / 256) + [x + 0.5, y + 0.5]
                    faces.append(self.face((x - 16, y - 20, x + 16, y + 20), points, 0.99))
            found.append(faces)
        return found

    def to_device(self, device: Any) -> None:
        pass


old_host = pytest.mark.parametrize("setting", ["old"], indirect=True)
"""For what 0.8 does otherwise: it does not trim, and its cancel is an Exception."""


@pytest.fixture(scope="module", params=["new"])
def setting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    with FakeHost(tmp_path_factory.mktemp("host"), newer=request.param == "new") as host:
        pack = host.load(PROJECT)
        extension = asyncio.run(pack.root.comfy_entrypoint())
        nodes = {node.define_schema().node_id: node for node in asyncio.run(extension.get_node_list())}
        yield SimpleNamespace(host=host, pack=pack, nodes=nodes)


@pytest.fixture
def given(setting: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A detector of bright spots, a restorer that inverts, and nobody who tells people apart."""
    pack, host = setting.pack, setting.host
    detector = Spots(pack.module("bfr_core.types").Face, pack.module("bfr_core.faces.align").FFHQ_TEMPLATE)
    for name in ("video", "tracks"):
        module = pack.module(f"nodes.{name}")
        monkeypatch.setattr(module, "get_detector", lambda *_: detector)
        monkeypatch.setattr(module, "get_recogniser", lambda *_: None)
    loaded = load(pack, synthetic(pack))
    monkeypatch.setattr(pack.module("nodes.video"), "get_restorer", lambda *_: loaded)
    host.progress.clear()
    host.previews.clear()
    yield SimpleNamespace(host=host, pack=pack, nodes=setting.nodes, detector=detector, restorer=loaded)
    host.cancel_after = None


def picture(index: int, spots: int = 2) -> np.ndarray:
    texture = np.random.default_rng(3).integers(20, 120, (HEIGHT, WIDTH, 3), np.uint8)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for spot in range(spots):
        texture[(x - 35 - 80 * spot - index // 4) ** 2 + (y - 48) ** 2 < 300] = 235
    return texture


def write_clip(path: Path, *, frames: int = FRAMES, spots: int = 2, sound: bool = True, stamps: Any = None) -> Path:
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("libx264", rate=RATE, options={"crf": "8", "preset": "ultrafast", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 600)
        audio: Any = output.add_stream("aac", rate=16000, layout="mono") if sound else None
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(index, spots), format="rgb24")
            frame.pts, frame.time_base = stamps[index] if stamps else index * 24, Fraction(1, 600)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if audio:
            for start in range(0, 16000 * frames // RATE, 1024):
                wave = (np.sin(np.arange(start, start + 1024) / 9) * 9000).astype(np.int16)[None]
                block = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
                block.sample_rate, block.pts, block.time_base = 16000, start, Fraction(1, 16000)
                output.mux(audio.encode(block))
            output.mux(audio.encode(None))
    return path


def decoded(path: str | Path) -> tuple[np.ndarray, list[Fraction]]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return np.stack([frame.to_ndarray(format="rgb24") for frame in frames]), [f.pts * f.time_base for f in frames]


def sound_of(path: str | Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def restore(given: SimpleNamespace, video: Any, **inputs: Any) -> tuple[str, dict[str, Any], torch.Tensor]:
    node = given.nodes["BFR_RestoreFacesInVideo"]
    usual = {"method": "irn/compact", "codec": "ffv1", "all_faces": True, "deflicker": 0.0}
    if "tracks" in inputs:
        del usual["all_faces"]
    made, report, preview = execute(node, **{"video": video, **usual, **inputs})
    return made.get_stream_source(), json.loads(report), preview


def select(given: SimpleNamespace, video: Any, **inputs: Any) -> tuple[Any, torch.Tensor, list[dict[str, Any]]]:
    chosen, cards, report = execute(given.nodes["BFR_SelectTracks"], **{"video": video, **inputs})
    return chosen, cards, json.loads(report)


def refused(given: SimpleNamespace, kind: str, call: Any) -> Any:
    with pytest.raises(getattr(given.pack.module("bfr_core.errors"), kind)) as caught:
        call()
    assert all(getattr(caught.value, part).strip() for part in PARTS)
    return caught.value


def changed(got: np.ndarray, clip: Path | str) -> np.ndarray:
    """Return by frame whether the left and the right face were changed, (N, 2) bool."""
    before = decoded(clip)[0].astype(int)
    difference = np.abs(got.astype(int) - before).max(-1) > 40
    return np.stack([difference[:, :, : WIDTH // 2].any((1, 2)), difference[:, :, WIDTH // 2 :].any((1, 2))], 1)


def kept(given: SimpleNamespace, part: str) -> list[Path]:
    """Return the files below a folder of the temp directory."""
    return sorted(path for path in (given.host.temp / "bfr_video" / part).rglob("*") if path.is_file())


# --- from VIDEO to VIDEO -----------------------------------------------------------------------------------------


def test_a_video_comes_back_with_its_times_and_sound(given: SimpleNamespace, tmp_path: Path) -> None:
    stamps = np.cumsum([0, *np.random.default_rng(0).integers(10, 40, FRAMES - 1)]).tolist()
    clip = write_clip(tmp_path / "film.mp4", stamps=stamps)
    made, report, preview = restore(given, VideoFromFile(str(clip)))
    assert Path(made).parent == given.host.temp / "bfr_video"
    got, times = decoded(made)
    assert len(got) == FRAMES and report["frames"] == FRAMES
    off = [abs(got - had) for got, had in zip(times, decoded(clip)[1], strict=True)]
    assert max(off) <= Fraction(1, 1000), "MKV counts in milliseconds"
    assert sound_of(made) == sound_of(clip)
    assert changed(got, clip).all(), "both faces in all frames"
    assert [track["restore"] for track in report["tracks"]] == [True, True]
    assert preview.ndim == 4 and len(preview) <= 4 and preview.shape[-1] == 3
    assert preview.shape[2] > 1.9 * WIDTH * preview.shape[1] / HEIGHT
    left, right = preview[..., : preview.shape[2] // 2 - 8, :], preview[..., preview.shape[2] // 2 + 8 :, :]
    assert (left - right).abs().max() > 0.2, "before and after"


def test_mp4_is_what_comes_out_unless_it_cannot_hold_the_video(given: SimpleNamespace, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "film.mp4", frames=10)
    made, report, _ = restore(given, VideoFromFile(str(clip)), codec="auto")
    with av.open(made) as container:
        assert made.endswith(".mp4") and container.streams.video[0].codec_context.name == "h264"
    assert decoded(made)[1] == decoded(clip)[1]
    assert not any("MKV" in note for note in report["notes"])


def test_what_mp4_cannot_hold_makes_it_an_mkv(given: SimpleNamespace, tmp_path: Path) -> None:
    clip = video_media.write_clip(tmp_path / "film.mkv", 8, subtitles=1, audio=2)
    made, report, _ = restore(given, VideoFromFile(str(clip)), codec="auto")
    with av.open(made) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio", "audio", "subtitle"]
    assert made.endswith(".mkv") and any("It is written as MKV" in note for note in report["notes"])


def test_tapes_keep_their_fields_or_are_taken_apart(given: SimpleNamespace, tmp_path: Path) -> None:
    clip = tape(tmp_path / "a.vob", 4, codec="mpeg2video", order="bff")
    orders = given.pack.module("bfr_core.video.fields").Orders()
    for way, count, order in (("off", 4, "bff"), ("field", 8, "")):
        got, report, _ = restore(given, VideoFromFile(str(clip)), deinterlace=way)
        frames = tape_frames(Path(got))
        assert len(frames) == count and {orders(frame) for frame in frames} == {order}
        assert any("bottom field first" in note for note in report["notes"])
        assert report["restored_frames"] == 4


def test_a_raw_stream_is_restored_at_the_rate_that_its_header_guesses(given: SimpleNamespace, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.h264", frames=4, sound=False)
    got, report, _ = restore(given, VideoFromFile(str(clip)))
    assert len(decoded(got)[0]) == 4 and any("frames a second are assumed" in note for note in report["notes"])


def test_damaged_frames_stop_are_held_or_left_out(given: SimpleNamespace, tmp_path: Path) -> None:
    """The error names the widget; a choice of tracks carries it on."""
    clip = write_clip(tmp_path / "film.mp4", frames=20)
    with av.open(str(clip)) as container:
        bad = [packet for packet in container.demux(video=0) if packet.size][15]
        place, size = bad.pos, bad.size
    data = bytearray(clip.read_bytes())
    data[place : place + size] = bytes(size)
    clip.write_bytes(data)
    video = VideoFromFile(str(clip))
    error = refused(given, "InputMediaError", lambda: restore(given, video))
    assert "frame 15" in error.found and "on_damage" in error.todo
    refused(given, "InputMediaError", lambda: select(given, video))
    for policy, frames in (("hold", 20), ("skip", 19)):
        chosen, _, told = select(given, video, on_damage=policy, all_faces=True)
        assert len(told) == 2
        for inputs in ({"tracks": chosen}, {"on_damage": policy}):
            made, report, _ = restore(given, video, **inputs)
            assert report["frames"] == len(decoded(made)[0]) == frames
            assert any("15" in note for note in report["notes"])


def test_the_bar_is_not_sent_for_every_frame(given: SimpleNamespace) -> None:
    bar = given.pack.module("nodes.host").FilmBar("analyse", frames=5000)
    start = time.monotonic()
    for index in range(5001):
        bar.on_progress("analyse", index, 5000)
    values = [value for value, _ in given.host.progress]
    assert len(values) <= 2 + (time.monotonic() - start) / 0.1 and values[-1] == 5000


def test_the_bar_moves_with_the_steps_of_a_method(given: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    host = given.pack.module("nodes.host")
    monkeypatch.setattr(host, "_PAUSE", 0.0)
    bar = host.FilmBar("analyse", "render", frames=20)
    for index in range(20):
        bar.on_progress("analyse", index, 500)  # what the header says of the whole file
    for done in (0, 4, 8, 20):
        for step in range(10):
            bar.step(step, 10, 4)
        bar.on_progress("render", done, 20)
    bar.on_progress("join", 0, 20)
    values = [value for value, _ in given.host.progress]
    assert values == sorted(values) and {total for _, total in given.host.progress} == {40}
    assert len({value for value in values if 20 < value < 24}) > 5, "within the first batch"
    assert values[-1] == 40


def test_the_bar_goes_forward_in_frames_with_pictures(given: SimpleNamespace, tmp_path: Path) -> None:
    restore(given, VideoFromFile(str(write_clip(tmp_path / "film.mp4"))))
    values = [value for value, _ in given.host.progress]
    assert values == sorted(values)
    assert given.host.progress[-1] == (4 * FRAMES, 4 * FRAMES)
    assert given.host.previews
    kind, shown, side = given.host.previews[0]
    assert (kind, side) == ("JPEG", 512) and shown.width > 1.9 * shown.height * WIDTH / HEIGHT


def test_bytes_and_frames_in_memory_are_taken(given: SimpleNamespace, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "film.mp4", frames=10)
    made, _, _ = restore(given, VideoFromFile(io.BytesIO(clip.read_bytes())))
    frames, _ = decoded(clip)
    assert changed(decoded(made)[0], clip).all()
    audio = {"waveform": torch.sin(torch.arange(6400) / 9)[None, None] * 0.5, "sample_rate": 16000}
    images = torch.from_numpy(frames).float() / 255
    video = VideoFromComponents(SimpleNamespace(images=images, audio=audio, frame_rate=Fraction(30000, 1001)))
    made, report, _ = restore(given, video)
    got, times = decoded(made)
    assert changed(got, clip).all()
    far = [abs(time - index * Fraction(1001, 30000)) for index, time in enumerate(times)]
    assert max(far) <= Fraction(1, 1000) and report["frames"] == 10
    assert len(sound_of(made)) >= 1
    assert kept(given, "copies") == [], "a copy would fill the disk"


def look(path: str | Path) -> tuple[tuple[Any, ...], np.ndarray]:
    """Return pixel format, range, matrix, primaries and transfer of a film, and its frames by them, (N, H, W, 3)."""
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        frames = list(container.decode(video=0))
        tags = (context.pix_fmt, int(context.color_range), int(context.colorspace), context.color_primaries)
        # FFmpeg's scaler takes BT.601 where nothing is said, as hosts that say nothing write it.
        shown = [f.reformat(format="rgb24", interpolation=4 | 0x2000 | 0x4000 | 0x40000).to_ndarray() for f in frames]
    return (*tags, context.color_trc), np.stack(shown)


@pytest.mark.parametrize("kind", [VideoFromComponents, VideoFromTaggedComponents])
@pytest.mark.parametrize("depth", [8, 10])
def test_frames_in_memory_have_the_colours_of_the_host(
    given: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, depth: int
) -> None:
    """Create Video, Restore, Save Video writes what Create Video, Save Video does, beside the faces."""
    if depth > 8 and kind is VideoFromComponents:
        pytest.skip("0.19 writes 8 bits alone")
    monkeypatch.setattr(given.pack.module("nodes.film").InputImpl, "VideoFromComponents", kind)
    images = torch.from_numpy(np.stack([picture(index) for index in range(8)])).float() / 255
    for left, colour in enumerate([(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.7, 0.5, 0.4), (0.6, 0.6, 0.6), (0, 0, 0)]):
        images[:, :16, 24 * left : 24 * left + 24] = torch.tensor(colour).float()
    components = SimpleNamespace(images=images, audio=None, frame_rate=Fraction(25))
    video = kind(components, depth) if depth > 8 else kind(components)
    video.save_to(str(tmp_path / "direct.mp4"))
    tags, direct = look(tmp_path / "direct.mp4")
    assert tags == ("yuv420p10le" if depth > 8 else "yuv420p", *kind.tags)
    for strength in (0.0, 1.0):
        made, _, _ = restore(given, video, codec="auto", strength=strength)
        told, frames = look(made)
        assert told == tags
        spot = np.s_[:, 44:52, 32:38]
        moved = np.abs(frames[spot].astype(float) - direct[spot]).mean()
        assert moved > 40 if strength else moved < 2
        off = frames[:, :20].astype(float) - direct[:, :20]
        assert np.abs(off.mean((0, 1, 2))).max() < 1, "the same colours"
        for left in range(6):  # each of the plain ones: a wrong matrix is 10 levels and more off
            patch = np.s_[:, 4:12, 24 * left + 6 : 24 * left + 18]
            assert np.abs(frames[patch].astype(float) - direct[patch]).mean() < 3


def test_a_video_of_other_nodes_that_was_scaled_is_saved_by_the_host(given: SimpleNamespace, tmp_path: Path) -> None:
    clip, small = (write_clip(tmp_path / f"{name}.mp4", frames=10) for name in ("whole", "edited"))

    asked: list[Any] = []

    class Edited(VideoFromFile):
        def has_pending_frame_edits(self) -> bool:
            return True

        def save_to(self, path: Any, format: Any = "auto", codec: Any = "auto", metadata: Any = None, crf: Any = None):  # type: ignore[no-untyped-def]
            asked.append(crf)
            Path(path).write_bytes(small.read_bytes())

    class Cropped(Edited):
        def has_pending_frame_edits(self) -> bool:
            return False

        def get_dimensions(self) -> tuple[int, int]:
            return WIDTH // 2, HEIGHT

    class Foreign:
        """Of another pack: it was cut short, and says so by its length alone."""

        get_dimensions, save_to = VideoFromFile.get_dimensions, Edited.save_to

        def __init__(self, file: str) -> None:
            self.file = file

        def get_stream_source(self) -> str:
            return self.file

        def get_duration(self) -> float:
            return 0.2

    for kind in (Edited, Cropped, Foreign):
        made, report, _ = restore(given, kind(str(clip)))
        assert len(decoded(made)[0]) == 10 and asked.pop() == 8
        assert any("the host encoded it once" in note for note in report["notes"])
        assert kept(given, "copies") == []


# --- the part that is meant --------------------------------------------------------------------------------------


def windowed(given: SimpleNamespace, clip: Path, start: float, length: float, told: bool) -> Any:
    """Return a trimmed VIDEO: of a host that tells its window, or of one that keeps it to itself."""

    class Telling(VideoFromFile):
        def get_active_trim_window(self) -> tuple[float, float]:
            return start, length

    if told:
        return Telling(str(clip))
    return VideoFromTrimmableFile(str(clip), start_time=start, duration=length)


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(("start", "length", "first", "count"), [(0.16, 0.2, 4, 5), (0.4, 0.0, 10, 4)])
def test_a_trimmed_video_is_restored_in_that_part(
    given: SimpleNamespace, tmp_path: Path, told: bool, start: float, length: float, first: int, count: int
) -> None:
    clip = write_clip(tmp_path / "film.mp4")
    made, report, _ = restore(given, windowed(given, clip, start, length, told))
    got, times = decoded(made)
    assert len(got) == count == report["frames"] and float(times[0]) == pytest.approx(0, abs=0.03)
    whole = decoded(clip)[0][first : first + count].astype(int)
    corner = np.s_[:, :20, :20]
    assert np.abs(got[corner].astype(int) - whole[corner]).max() <= 2, "those frames and no others"


def test_a_start_from_the_end_is_counted_from_there(given: SimpleNamespace, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "film.mp4", sound=False)
    made, _, _ = restore(given, VideoFromTrimmableFile(str(clip), start_time=-0.2, duration=0))
    assert len(decoded(made)[0]) == 5


# --- stopping and going on ---------------------------------------------------------------------------------------


def test_a_cancel_passes_and_the_next_run_goes_on(
    given: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choices, job = given.pack.module("bfr_core.video.options"), given.pack.module("bfr_core.video.job")
    options = choices.FilmOptions
    monkeypatch.setattr(choices, "FilmOptions", lambda **fields: options(segment_frames=3, **fields))
    begun: list[int] = []
    render = job.FilmJob._render_run
    monkeypatch.setattr(job.FilmJob, "_render_run", lambda self, *args: (begun.append(args[2]), render(self, *args))[1])
    clip = write_clip(tmp_path / "film.mp4")
    video, films = VideoFromFile(str(clip)), given.host.temp / "bfr_video"
    finished = films / "jobs"
    check = given.host.throw
    before = set(films.glob("*.mkv"))

    def stop_after_two() -> None:
        if len(list(finished.rglob("segment_*.json"))) >= 2:
            given.host.cancel_after = 0
        check()

    monkeypatch.setattr(given.pack.module("nodes.host").mm, "throw_exception_if_processing_interrupted", stop_after_two)
    with pytest.raises(given.host.interrupted):
        restore(given, video, grain=0.0)
    given.host.cancel_after = None
    monkeypatch.setattr(given.pack.module("nodes.host").mm, "throw_exception_if_processing_interrupted", check)
    assert set(films.glob("*.mkv")) == before, "no unfinished film"
    assert not list(films.rglob(".bfr-*")), "no unfinished file"
    looks = given.detector.looks
    made, report, _ = restore(given, video, grain=0.0)
    assert given.detector.looks == looks, "it was analysed"
    assert begun[0] == 0 and begun[1] >= 6, "what was finished is not done again"
    assert report["frames"] == FRAMES and changed(decoded(made)[0], clip).all()
    assert not list(finished.rglob("segment_*")), "cleaned up"
    whole, _, _ = restore(given, video, seed=1, grain=0.0)
    assert np.array_equal(decoded(whole)[0], decoded(made)[0])


def test_a_cancel_that_one_thread_was_told_of_stops_all(given: SimpleNamespace) -> None:
    """The host forgets it once it has told; a decoder that hears it must not be the only one."""
    host = given.pack.module("nodes.host")
    run = host.film_runtime(host.FilmBar("analyse"))
    given.host.cancel_after = 0

    def decode() -> None:
        with pytest.raises(given.host.interrupted):
            run.check_cancel()

    thread = threading.Thread(target=decode)
    thread.start()
    thread.join()
    given.host.cancel_after = None
    with pytest.raises(given.host.interrupted):
        run.check_cancel()
    host.film_runtime(host.FilmBar("analyse")).check_cancel()


# --- choosing tracks ---------------------------------------------------------------------------------------------


def test_tracks_are_shown_chosen_and_restored(given: SimpleNamespace, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "film.mp4")
    video = VideoFromFile(str(clip))
    chosen, cards, told = select(given, video, all_faces=True)
    assert [entry["id"] for entry in told] == [1, 2] and all(entry["restore"] for entry in told)
    assert cards.shape[0] == 2 and cards.shape[1] > cards.shape[2]
    assert cards[:, :240].amax() > 0.8, "the faces"
    looks = given.detector.looks
    made, report, _ = restore(given, video, tracks=chosen)
    assert given.detector.looks == looks, "it is not analysed again"
    assert changed(decoded(made)[0], clip).all()
    for numbers, mode, left, right in (
        ("2", "restore only these", False, True),
        ("1, 2", "all but these", False, False),
    ):
        chosen, cards, told = select(given, video, tracks=numbers, mode=mode, all_faces=True)
        assert [entry["restore"] for entry in told] == [left, right]
        made, report, preview = restore(given, video, tracks=chosen)
        assert (changed(decoded(made)[0], clip) == [left, right]).all()
        assert all(bool(track["reason"]) != track["restore"] for track in report["tracks"])
        assert (preview.amax() > 0.1) == (left or right)
    _, _, told = select(given, video, tracks="2", mode="all but these", all_faces=True)
    assert [entry["restore"] for entry in told] == [True, False]
    assert given.detector.looks == looks


def test_pictures_that_a_stopped_run_left_out_are_made(given: SimpleNamespace, tmp_path: Path) -> None:
    video = VideoFromFile(str(write_clip(tmp_path / "film.mp4", frames=6)))
    _, cards, _ = select(given, video)
    (picture,) = [path for path in kept(given, "jobs") if path.name == "track_0002.png" and is_new(path, tmp_path)]
    picture.unlink()
    _, again, told = select(given, video)
    assert torch.equal(again, cards) and len(told) == 2


def is_new(path: Path, since: Path) -> bool:
    return path.stat().st_mtime >= (since / "film.mp4").stat().st_mtime


@old_host
def test_an_old_host_is_served_as_well(given: SimpleNamespace, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "film.mp4", frames=8)
    chosen, _, _ = select(given, VideoFromFile(str(clip)), tracks="1")
    made, report, _ = restore(given, VideoFromFile(str(clip)), tracks=chosen)
    assert (changed(decoded(made)[0], clip) == [True, False]).all() and report["frames"] == 8
    given.host.cancel_after = 4
    with pytest.raises(given.host.interrupted):
        restore(given, VideoFromFile(str(clip)), seed=1)
    given.host.cancel_after = None
    out, _ = batch(given, images(6))
    assert not torch.equal(out, images(6))


def test_the_gate_decides_unless_a_track_is_named(
    given: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The spots are large enough and not sharp; a gate that wants more finds them too small."""
    video = VideoFromFile(str(write_clip(tmp_path / "film.mp4", frames=8)))
    gate = given.pack.module("bfr_core.faces.quality")
    strict = gate.QualityFilter(min_size=500)
    monkeypatch.setattr(gate, "QualityFilter", lambda: strict)
    _, _, told = select(given, video)
    assert [entry["restore"] for entry in told] == [False, False] and "below the minimum" in told[0]["reason"]
    _, _, told = select(given, video, tracks="1")
    assert [entry["restore"] for entry in told] == [True, False]
    _, _, told = select(given, video, all_faces=True)
    assert [entry["restore"] for entry in told] == [True, True]


def test_a_film_without_faces_is_a_result(given: SimpleNamespace, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "film.mp4", frames=8, spots=0)
    chosen, cards, told = select(given, VideoFromFile(str(clip)))
    assert told == [] and cards.shape[0] == 1
    made, report, preview = restore(given, VideoFromFile(str(clip)), tracks=chosen)
    assert report["tracks"] == [] and preview.amax() == 0
    assert np.array_equal(decoded(made)[0], decoded(clip)[0]), "every bit"


def test_a_choice_for_another_video_is_refused(given: SimpleNamespace, tmp_path: Path) -> None:
    one, other = (VideoFromFile(str(write_clip(tmp_path / f"{n}.mp4", frames=8 + n))) for n in (0, 1))
    chosen, _, _ = select(given, one)
    error = refused(given, "SettingsError", lambda: restore(given, other, tracks=chosen))
    assert "0.mp4" in str(error)
    part = windowed(given, tmp_path / "0.mp4", 0.08, 0.16, told=True)
    refused(given, "SettingsError", lambda: restore(given, part, tracks=chosen))
    stranger = Spots(given.detector.face, given.detector.template)
    refused(given, "SettingsError", lambda: restore(given, one, tracks=chosen, detector=stranger))
    refused(given, "SettingsError", lambda: restore(given, one, tracks=chosen, person=torch.zeros(1, 8, 8, 3)))
    restore(given, one, tracks=chosen, detector=given.detector)
    error = refused(given, "SettingsError", lambda: select(given, one, tracks="1,7"))
    assert "7" in str(error)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("", ()), (" , ", ()), ("3", (3,)), ("1,3-5", (1, 3, 4, 5)), (" 7 - 8 ;2,2", (2, 7, 8))],
)
def test_numbers_of_tracks_are_read(given: SimpleNamespace, text: str, numbers: tuple[int, ...]) -> None:
    assert given.pack.module("nodes.tracks").read_numbers(text) == numbers


@pytest.mark.parametrize("text", ["a", "0", "-3", "3-", "5-3", "1.5", "1 2", "1-999999999", "\u0663"])
def test_what_is_no_number_is_refused(given: SimpleNamespace, text: str) -> None:
    refused(given, "SettingsError", lambda: given.pack.module("nodes.tracks").read_numbers(text))


# --- frames as a batch -------------------------------------------------------------------------------------------


def batch(given: SimpleNamespace, images: torch.Tensor, **inputs: Any) -> tuple[torch.Tensor, Any]:
    usual = {"frame_rate": 25.0, "method": "irn/compact", "all_faces": True, "deflicker": 0.0}
    out, report = execute(given.nodes["BFR_RestoreFacesInFrames"], **{"image": images, **usual, **inputs})
    return out, json.loads(report)


def images(count: int = 10, spots: int = 2) -> torch.Tensor:
    return torch.from_numpy(np.stack([picture(index, spots) for index in range(count)])).float() / 255


def test_frames_are_restored_as_a_film(given: SimpleNamespace) -> None:
    given_images = images()
    # A frame in which nobody is seen: a film fills it, single pictures would leave it.
    given_images[6, 30:70, 20:60] = 0.3
    out, report = batch(given, given_images)
    assert out.shape == given_images.shape
    assert len(report["tracks"]) == 2 and report["tracks"][0]["last_frame"] == 9
    difference = (out - given_images).abs().amax(-1)
    assert all(difference[index, :, : WIDTH // 2].max() > 0.1 for index in range(10)), "frame 6 too"
    assert difference[:, :, 74:80].max() == 0, "between the faces no bit changes"


def test_what_is_beside_the_faces_keeps_its_bits_and_alpha(given: SimpleNamespace) -> None:
    frames = torch.cat([images() * 1.3 - 0.1, torch.rand(10, HEIGHT, WIDTH, 1)], -1)
    out, _ = batch(given, frames)
    assert torch.equal(out[..., 3], frames[..., 3])
    assert torch.equal(out[:, :, 74:80], frames[:, :, 74:80])
    assert not torch.equal(out, frames)
    plain, report = batch(given, images(spots=0))
    assert torch.equal(plain, images(spots=0)) and report["tracks"] == []


def test_the_bar_of_frames_ends_full(given: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = SimpleNamespace(monotonic=lambda: 100.0)  # on a busy machine it takes more than a second
    for name in ("nodes.host", "bfr_core.video.types"):
        monkeypatch.setattr(given.pack.module(name), "time", stopped)
    batch(given, images())
    values = [value for value, _ in given.host.progress]
    assert values == sorted(values) and given.host.progress[-1] == (20, 20)
    assert len(given.host.previews) == 1, "a frame before and after, once a second at most"
    given.host.cancel_after = 3
    with pytest.raises(given.host.interrupted):
        batch(given, images())


def test_a_rate_of_nothing_is_refused(given: SimpleNamespace) -> None:
    refused(given, "SettingsError", lambda: batch(given, images(), frame_rate=0.0))


# --- how and where -----------------------------------------------------------------------------------------------


def left_half(count: int = 1) -> torch.Tensor:
    mask = torch.zeros(count, HEIGHT // 2, WIDTH // 2)
    mask[..., : WIDTH // 4] = 1
    return mask


def test_a_mask_limits_where_frames_are_restored(given: SimpleNamespace) -> None:
    frames = images()
    whole, _ = batch(given, frames)
    assert (whole - frames)[:, :, 90:].abs().amax() > 0.1
    looks = given.restorer.restorer.method.stages["seen"]
    for number, mask in enumerate((left_half()[0], left_half(), left_half(10))):
        # Another picture each time: what was restored before is not restored again.
        frames = images() * (0.97 - 0.02 * number)
        looks.clear()
        out, report = batch(given, frames, mask=mask)
        restored = sum(len(seeds) for _, seeds in looks)
        whole, _ = batch(given, frames)
        assert torch.equal(out[:, :, 82:], frames[:, :, 82:])
        assert torch.equal(out[:, :, :78], whole[:, :, :78])
        assert [entry["restore"] for entry in report["tracks"]] == [True, False]
        assert "mask" in report["tracks"][1]["reason"]
        assert restored == 10, "nothing is restored that nobody sees"
    each = left_half(10)
    each[5:] = 0
    out, report = batch(given, frames, mask=each)
    assert torch.equal(out[5:], frames[5:]) and torch.equal(out[:5, :, :78], whole[:5, :, :78])
    refused(given, "InputMediaError", lambda: batch(given, frames, mask=left_half(9)))


def test_a_mask_limits_where_a_video_is_restored(given: SimpleNamespace, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mp4")
    plain, _ = decoded(restore(given, VideoFromFile(str(clip)))[0])
    path, report, _ = restore(given, VideoFromFile(str(clip)), mask=left_half())
    out, before = decoded(path)[0], decoded(clip)[0]
    assert np.array_equal(out[:, :, :76], plain[:, :, :76])
    assert np.abs(out[:, :, 84:].astype(int) - before[:, :, 84:]).max() <= 2, "no more than the way into the file"
    assert np.abs(plain[:, :, 84:].astype(int) - before[:, :, 84:]).max() > 50
    assert [entry["restore"] for entry in report["tracks"]] == [True, False]
    masks = left_half(FRAMES)
    masks[7:] = 0
    path, report, _ = restore(given, VideoFromFile(str(clip)), mask=masks)
    assert report["restored_frames"] == 7
    error = refused(
        given, "InputMediaError", lambda: restore(given, VideoFromFile(str(clip)), mask=left_half(FRAMES + 1))
    )
    assert str(FRAMES + 1) in error.found


def test_given_faces_are_followed_and_no_others(given: SimpleNamespace, tmp_path: Path) -> None:
    frames = images()
    faces = [found[:1] for found in given.detector.detect(frames.movedim(-1, 1))]
    given.detector.looks = 0
    out, report = batch(given, frames, faces=faces)
    assert given.detector.looks == 0, "nobody is looked for"
    assert len(report["tracks"]) == 1
    assert torch.equal(out[:, :, 80:], frames[:, :, 80:]) and not torch.equal(out, frames)
    out, report = batch(given, frames, faces=faces[:1])
    assert given.detector.looks, "the first frame says who, the others are searched"
    assert [entry["restore"] for entry in report["tracks"]] == [True, False]
    assert torch.equal(out[:, :, 80:], frames[:, :, 80:]) and not torch.equal(out, frames)
    refused(given, "InputMediaError", lambda: batch(given, frames, faces=faces[:9]))
    clip = write_clip(tmp_path / "in.mp4", frames=10)
    for some in (faces, faces[:1]):
        path, report, _ = restore(given, VideoFromFile(str(clip)), faces=some)
        assert sum(entry["restore"] for entry in report["tracks"]) == 1
        assert np.abs(decoded(path)[0][:, :, 84:].astype(int) - decoded(clip)[0][:, :, 84:]).max() <= 2
    refused(given, "InputMediaError", lambda: restore(given, VideoFromFile(str(clip)), faces=faces[:9]))
    tracks, *_ = select(given, VideoFromFile(str(clip)))
    error = refused(
        given, "SettingsError", lambda: restore(given, VideoFromFile(str(clip)), tracks=tracks, faces=faces)
    )
    assert "faces" in error.what


def test_the_settings_of_the_method_reach_films_too(given: SimpleNamespace, tmp_path: Path) -> None:
    seen = given.restorer.restorer.method.stages["seen"]
    clip = VideoFromFile(str(write_clip(tmp_path / "in.mp4")))
    for run in (lambda **more: batch(given, images(), **more), lambda **more: restore(given, clip, **more)):
        seen.clear()
        run(settings={"settings": "probe", "steps": 9})
        assert {settings["steps"] for settings, _ in seen} == {9}
        refused(given, "SettingsError", lambda run=run: run(settings={"settings": "clr_face"}))
        error = refused(given, "SettingsError", lambda run=run: run(fidelity=0.9))
        assert "fidelity" in error.what, "the method of a test has no dial"


# --- real faces --------------------------------------------------------------------------------------------------


def test_the_person_of_a_photo_is_restored_in_a_real_film(
    setting: SimpleNamespace, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real detector and recogniser: the woman's own face leads to her, and her film is left alone for another's."""
    clip = shared / "video" / "talking_480x480.mp4"
    if not clip.is_file():
        pytest.skip(f"no {clip}")
    pack = setting.pack
    monkeypatch.setattr(pack.module("nodes.video"), "get_restorer", lambda *_: load(pack, synthetic(pack)))
    part = VideoFromTrimmableFile(str(clip), start_time=0.4, duration=0.2)
    frames, times = decoded(clip)
    frame = torch.from_numpy(frames[int(np.argmin([abs(float(t) - 1.0) for t in times]))])[None].float() / 255
    stranger = torch.from_numpy(np.array(Image.open(shared / "photos" / "clean" / "astronaut.png").convert("RGB")))
    given = SimpleNamespace(nodes=setting.nodes, pack=pack, host=setting.host)
    for photo, wanted in ((frame, True), (stranger[None].float() / 255, False)):
        _, _, told = select(given, part, person=photo, all_faces=True)
        assert [entry["restore"] for entry in told] == [wanted]
        assert (told[0]["facts"]["likeness"] > 0.5) == wanted
