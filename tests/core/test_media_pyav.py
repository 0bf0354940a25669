"""What differs between versions of PyAV comes out the same."""

from __future__ import annotations

import ast
import struct
from fractions import Fraction
from pathlib import Path

import pytest
import video_media as media

from bfr_core.media import pyav
from bfr_core.media.pyav import chapters, has_chapters, open_input, open_output, rational, side_data

ROOT = Path(__file__).resolve().parents[2]


class Rational:
    """A rate as PyAV 19 gives it: not a Fraction, and 0/1 or anything over 0 where it is not set."""

    def __init__(self, numerator: int, denominator: int) -> None:
        self.numerator, self.denominator = numerator, denominator

    def __bool__(self) -> bool:
        return self.numerator != 0 and self.denominator != 0


def test_rates_are_fractions_and_none_where_unset():
    for given in (Rational(30000, 1001), Fraction(30000, 1001)):
        assert type(rational(given)) is Fraction and rational(given) == Fraction(30000, 1001)
    assert [rational(given) for given in (None, Fraction(0), Rational(0, 1), Rational(1, 0), Rational(0, 0))] == [
        None
    ] * 5


def test_rates_of_a_clip(tmp_path):
    path = media.write_clip(tmp_path / "a.mp4", 3, aspect=Fraction(4, 3))
    with open_input(str(path)) as container:
        (stream,) = container.streams
        assert rational(stream.average_rate) == 25 and rational(stream.sample_aspect_ratio) == Fraction(4, 3)
        assert type(rational(stream.time_base)) is Fraction
    with open_input(str(media.write_clip(tmp_path / "b.mkv", 3))) as container:
        assert rational(container.streams[0].sample_aspect_ratio) is None


def test_side_data_is_found_by_name(tmp_path):
    path = media.set_matrix(media.write_clip(tmp_path / "a.mp4", 2), 6)
    with open_input(str(path)) as container:
        found = side_data(next(container.decode(video=0)))
    assert len(found["DISPLAYMATRIX"]) == 36
    with open_input(str(media.write_clip(tmp_path / "b.mkv", 2, codec="ffv1"))) as container:
        assert "DISPLAYMATRIX" not in side_data(next(container.decode(video=0)))


def test_side_data_of_one_type_twice_hides_nothing(tmp_path):
    """x265 signs itself in the header and in the first frame, before the light levels of that frame."""
    light = "max-cll=1000,400:bframes=0:log-level=none"
    options = {"x265-params": light}
    path = media.write_clip(tmp_path / "a.mp4", 2, codec="libx265", pix_fmt="yuv420p10le", options=options)
    with open_input(str(path)) as container:
        frame = next(container.decode(video=0))
    assert side_data(frame)["CONTENT_LIGHT_LEVEL"] == struct.pack("=2I", 1000, 400)
    assert set(side_data(frame)) == {name for name, _ in media.side_data(frame)}


@pytest.mark.skipif(not has_chapters(), reason="PyAV before 16 has no chapters")
def test_chapters_have_fractions(tmp_path):
    path = tmp_path / "a.mkv"
    with path.open("wb") as file, open_output(file, format="matroska") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        told = {"id": 1, "start": 0, "end": 40, "time_base": Fraction(1, 1000), "metadata": {"title": "one"}}
        output.set_chapters([told])
        output.mux(stream.encode(media.frame_of(media.picture(0))))
        output.mux(stream.encode(None))
    with open_input(str(path)) as container:
        (chapter,) = chapters(container)
    assert type(chapter["time_base"]) is Fraction and chapter["metadata"]["title"] == "one"
    assert (chapter["end"] - chapter["start"]) * chapter["time_base"] == Fraction(1, 25)


def test_dispositions_are_numbers(tmp_path):
    path = media.add_cover(media.write_clip(tmp_path / "a.mp4", 2, audio=1))
    with open_input(str(path)) as container:
        flags = [pyav.disposition(stream) for stream in container.streams]
    assert flags in ([1, 1, 0x400], [None] * 3)


def test_containers_are_opened_in_one_place():
    """An `av.open` elsewhere would know nothing of the versions."""
    for path in [*(ROOT / "bfr_core").rglob("*.py"), *(ROOT / "nodes").rglob("*.py"), *(ROOT / "train").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "av.open":
                assert path == ROOT / "bfr_core" / "media" / "pyav.py", f"{path}:{node.lineno}"
