"""Choosing whose faces of a film to restore, by their pictures."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..bfr_core.errors import SettingsError
from ..bfr_core.media.pictures import read_picture, to_float
from ..bfr_core.media.sheets import caption, row, to_bytes
from ..bfr_core.video.reader import OnDamage
from .compat import io, option, schema, ui
from .host import FilmBar, film_runtime, join_image
from .models import get_detector, get_recogniser
from .types import FILM, DetectorSocket, TrackChoice, TracksSocket
from .video import all_faces_input, damage_input, make_choice, person_input

if TYPE_CHECKING:
    from ..bfr_core.video.job import FilmJob

_THESE, _OTHERS = "restore only these", "all but these"
_TRACKS = "tracks.json"
_SIDE = 240
"""Of a face on its card, in pixels."""
_LETTERS, _LINES = 23, 5
"""Of the text below it, in a line and in all."""
_MOST = 100_000
"""Largest number of a track that is read; a range up to any other is a mistake in typing."""


@dataclass(frozen=True, slots=True)
class _Nobody:
    """Stands for the restorer where nothing is restored: the quality gate asks how large its crops are."""

    size: int = 512


def read_numbers(text: str) -> tuple[int, ...]:
    """Read numbers of tracks such as `1, 3-5`.

    Raises:
        SettingsError: something else stands there.
    """
    numbers: set[int] = set()
    for part in text.replace(";", ",").split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if not (first or dash):
            continue
        bounds = (first, last) if dash else (first, first)
        if not all(bound.isascii() and bound.isdigit() and int(bound) <= _MOST for bound in bounds):
            raise _cannot_read(text, f"found {part.strip()!r}")
        low, high = map(int, bounds)
        if not 1 <= low <= high:
            raise _cannot_read(text, f"found {part.strip()!r}, where the first number is 0 or above the last")
        numbers |= {*range(low, high + 1)}
    return tuple(sorted(numbers))


def _cannot_read(text: str, found: str) -> SettingsError:
    return SettingsError(
        f"Cannot read the tracks {text!r}",
        found=f"{found}; expected numbers with commas between, such as 1, 3-5",
        kept="Nothing was started",
        todo="Take the numbers below the pictures; leave it empty to restore whom the quality gate lets through",
    )


class SelectTracks(io.ComfyNode):
    """Show who is in a film, and choose."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="BFR_SelectTracks",
            display_name="Select Tracks",
            category=FILM,
            description="Find and follow the faces of a video and show each with its number. A track is one face in "
            "one shot; faces that are alike have the same person. Run it with tracks left empty, look at the pictures, "
            "type the numbers, and connect it to Restore Faces in Video with the same video: that node does not "
            "analyse it again.",
            search_aliases=["face selection", "choose face", "video person", "track faces"],
            inputs=[
                io.Video.Input("video", tooltip="The same that Restore Faces in Video gets"),
                option(
                    io.String, "tracks", default="",
                    tooltip="Numbers below the pictures, such as 1, 3-5. Empty: whom the quality gate and the photo "
                    "choose",
                ),
                option(
                    io.Combo, "mode", options=[_THESE, _OTHERS],
                    tooltip="What the numbers are for. Those named are restored whatever the quality gate says; of all "
                    "others it decides",
                ),
                all_faces_input(),
                damage_input(),
                DetectorSocket.Input("detector", optional=True, tooltip="Left open: the embedded detector"),
                person_input(),
            ],
            outputs=[
                TracksSocket.Output(display_name="tracks", tooltip="For Restore Faces in Video with the same video"),
                io.Image.Output(display_name="thumbnails", tooltip="A picture of each track; black if there is none"),
                io.String.Output(display_name="report", tooltip="Every track with what was measured, as JSON"),
            ],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        video: Any,
        tracks: str = "",
        mode: str = _THESE,
        all_faces: bool = False,
        on_damage: OnDamage = "stop",
        detector: Any = None,
        person: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        """Analyse, or read what an earlier run found."""
        from ..bfr_core.video.options import FilmOptions
        from ..bfr_core.video.plan import FilmModels
        from .film import film_job, open_film

        numbers, film = read_numbers(tracks), open_film(video)
        detector = detector or get_detector()
        ids, but = (numbers, ()) if mode == _THESE else ((), numbers)
        choice = make_choice(all_faces, person, detector, ids=ids, but=but)
        bar = FilmBar("analyse", frames=film.frames)
        models = FilmModels(_Nobody(), detector, get_recogniser())  # type: ignore[arg-type]
        with film_job(film, models, FilmOptions(choice=choice, on_damage=on_damage), film_runtime(bar), bar) as job:
            told = _analysed(job)
            cards = [_card(entry, job.folder.report) for entry in told]
        images = torch.from_numpy(np.stack(cards or [_card(None, Path())])).movedim(-1, 1).float() / 255
        shown = join_image(images)
        selected = TrackChoice(film.key, film.name, choice, detector, on_damage)
        return io.NodeOutput(selected, shown, json.dumps(told, indent=1), ui=ui.PreviewImage(shown, cls=cls))


def _analysed(job: FilmJob) -> list[dict[str, Any]]:
    """Return what tracks.json says of each track, whose pictures are there."""
    job.analyse()
    told: Any = job.folder.read_json(_TRACKS)
    if not all(_picture(entry, job.folder.report).is_file() for entry in told["tracks"]):
        # A run that was stopped at its pictures has a tracks.json already, and they are made together with it.
        (job.folder.path / _TRACKS).unlink()
        job.analyse()
    return told["tracks"]


def _picture(entry: Mapping[str, Any], folder: Path) -> Path:
    return folder / f"track_{entry['id']:04}.png"


def _card(entry: Mapping[str, Any] | None, folder: Path) -> np.ndarray:
    """Return the picture of a track with what is known of it below, (h, w, 3) uint8; of none a black one."""
    face, lines = torch.zeros(3, _SIDE, _SIDE), ["no face was found"]
    if entry is not None:
        face = to_float(read_picture(_picture(entry, folder)))
        who = f", person {entry['person']}" if entry["person"] else ""
        fate = "restored" if entry["restore"] else f"left: {entry['reason']}"
        lines = [f"{entry['id']}{who}", f"{entry['first_s']:.2f} to {entry['last_s']:.2f} s"]
        lines += textwrap.wrap(fate, _LETTERS, max_lines=_LINES - 2, placeholder=" ...")
    return np.concatenate([row([to_bytes(face)], _SIDE), caption(_padded(lines), _SIDE)])


def _padded(lines: Sequence[str]) -> list[str]:
    return [*lines, *[""] * (_LINES - len(lines))]
