"""One film from file to file: analyse, render, join. A job that was stopped goes on by the same call.

A job keeps what it has in a folder beside the output: what was found in the film, which faces are to be restored
(`tracks.json`, which a person may edit between two runs), the finished segments, and pictures of the faces.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..errors import InputMediaError
from ..restoration.fingerprint import digest_of
from ..restoration.kept import DiskShelf, KeptFaces
from ..restoration.options import colours_of
from ..restoration.upscale import upscaler_name
from ..runtime import Runtime
from .analysis import analyse
from .attention import Drawn, changed_boxes
from .choose import apply_json, best_row, thumbnail, to_json
from .drift import apply_drift, measure_drift
from .enlarge import Enlarger
from .fields import Cadence, made_of
from .join import join
from .manifest import JobFolder
from .options import FilmOptions
from .pipes import Halt
from .pipes import run as run_pipes
from .pixels import Pixels
from .plan import FilmModels, Plan, expected_frames, fingerprint, with_fields
from .reader import FieldsAs, Reader, file_fingerprint
from .render import Rendered, reach, render
from .scan import scan
from .sink import Sink
from .types import Preview, ProgressCallback, Scan, Track, VideoFrame, no_progress, now_and_then

_TRACKS = "tracks.json"
_DRIFT = "drift.json"
_FACES = "faces"


@dataclass(slots=True)
class FilmReport:
    """What a job did."""

    source: str
    target: str
    method: str
    config: str
    colours: str
    """Whose colours restored faces have: input or method."""
    frames: int
    restored_frames: int
    """In which a face was restored."""
    tracks: list[dict[str, Any]]
    """As in tracks.json: who is there, from when to when, whether restored, and why not."""
    joined: dict[str, Any]
    """What the check of the result found."""
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    upscale: int = 1
    """How many times as wide and as high the result is; boxes and sizes of tracks are those of the clip."""
    upscaled_by: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON types."""
        return asdict(self)


class FilmJob:
    """One film's way through the passes. Use it as a context, which holds the lock of its folder.

    Args:
        plan: from `plan_film`.
        models: who does the work.
        options: the same as the plan's.
        runtime: where to run; its `check_cancel` is asked several times a second.
        on_progress: hears of the passes: analyse, pictures (of the faces, for the report), render, join, verify.
        preview: sees a frame now and then.
        restart: throw away what an earlier run with other settings left.

    Raises:
        OutputMediaError: another job has the folder.
        SettingsError: an earlier run had other settings, and `restart` is off.
    """

    def __init__(
        self,
        plan: Plan,
        models: FilmModels,
        options: FilmOptions,
        runtime: Runtime,
        *,
        on_progress: ProgressCallback = no_progress,
        preview: Preview | None = None,
        restart: bool = False,
    ) -> None:
        self.plan, self.models, self.options, self.runtime = plan, models, options, runtime
        self.on_progress, self.show = on_progress, now_and_then(preview)
        self.folder = JobFolder(plan.folder, runtime.check_cancel)
        self._restart = restart
        self._seconds: dict[str, float] = {}
        self._identity: dict[str, Any] = {}
        self._pixels = Pixels(plan.made)
        larger = options.upscale > 1
        self._enlarge = (
            Enlarger(made_of(plan.info, options.deinterlace), options.upscale, options.upscaler) if larger else None
        )
        self._cadence = Cadence(plan.info, options.deinterlace)
        self._found = Scan.joined([])
        self._looking = options.looking
        self._render = options.render
        self._notes = list(plan.notes)

    def __enter__(self) -> FilmJob:
        self.folder.__enter__()
        try:
            self._identity = file_fingerprint(self.plan.info.path)
            self._begin_analysis()
            if self.options.keep_faces:
                shelf = DiskShelf(self.plan.folder / _FACES, self.options.keep_faces)
                self.runtime = self.runtime.derived(kept=KeptFaces(shelf))
        except BaseException:
            self.folder.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        self.folder.__exit__(*error)

    def _begin_analysis(self) -> None:
        """Continue what an earlier run found, where it is of use to this one."""
        restart = self._restart
        before = self.folder.settings("analysis").get("scan", {}).get("min_px")
        if before == 0:
            self._looking = replace(self._looking, min_px=0.0)
        elif before is not None and not self._looking.min_px and not _is_edited(self.folder.read_json(_TRACKS)):
            restart = True
            self._notes.append("Small faces were not looked for before: the film was looked through anew")
        settings = {"source": self._identity, "bfr": __version__, **self._analysis_settings()}
        self.folder.begin(settings, "analysis", restart)

    # Pass 1 ---------------------------------------------------------------------------------------------------------

    def analyse(self) -> list[Track]:
        """Find and follow the faces, mark which are to be restored, and write tracks.json and their pictures.

        What an earlier run found is used again, and what a person wrote into tracks.json holds.

        Raises:
            InputMediaError: the clip cannot be read, or holds no frame in the part that was asked for.
            SettingsError: tracks.json was edited to something that cannot be.
        """
        start = time.monotonic()
        found = self._scanned()
        shape = (self.plan.info.height, self.plan.info.width)
        tracks = analyse(
            found, self.models, self.options, shape, looking=self._looking, check_cancel=self.runtime.check_cancel
        )
        self._judge_drift(tracks)
        self._found = replace(found, identity=found.identity[:, :0])  # the largest part, which nobody asks for again
        written = self.folder.read_json(_TRACKS)
        self._write_thumbnails([track for track in tracks if not self._picture_of(track).exists()])
        if _is_edited(written):
            self._apply(tracks, written)
        else:
            told = to_json(tracks, found)
            self.folder.write_json(_TRACKS, told | {"unedited": _digest(told["tracks"])})
        self._seconds["analyse"] = time.monotonic() - start
        return tracks

    def _judge_drift(self, tracks: Sequence[Track]) -> None:
        """Leave the tracks that restoring would turn into somebody else; what an earlier run measured is used again."""
        limit = self.options.drift_limit
        if limit is None:
            return
        chosen = [(track.id, int(track.first), int(track.last)) for track in tracks if track.restore]
        told = {**fingerprint(self.models), **self._render.told(), "by": digest_of(limit.recogniser), "tracks": chosen}
        key = _digest(told)
        before = self.folder.read_json(_DRIFT)
        if isinstance(before, dict) and before.get("key") == key:
            drift = {int(track): float(moved) for track, moved in before["drift"].items()}
        else:
            drift = measure_drift(
                self._reader(), tracks, self.models.restorer, self._render, limit, self.runtime.silent()
            )
            self.folder.write_json(_DRIFT, {"key": key, "drift": drift})
        apply_drift(tracks, drift, limit)

    def _apply(self, tracks: Sequence[Track], edited: Any) -> None:
        """Let a person's tracks.json decide over the options."""
        chosen = {track.id: track.restore for track in tracks}
        strengths, seeds = apply_json(tracks, {key: value for key, value in edited.items() if key != "unedited"})
        turned = [str(track.id) for track in tracks if track.restore != chosen[track.id]]
        if turned:
            self._notes.append(f"{_TRACKS} was edited and decides: tracks {', '.join(turned)}")
        self._render = replace(self._render, strengths=strengths, seeds=seeds)

    def _scanned(self) -> Scan:
        parts = self.folder.scan_parts()
        if not self.folder.scan_done:
            total = expected_frames(self.plan.info, self.options.window)

            def decoded() -> Iterator[VideoFrame]:
                for moment in reader:
                    small = moment.small()  # in the decoder's thread, beside the search for faces
                    yield replace(moment, small=lambda small=small: small)

            def listen(moments: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
                for moment in moments:
                    self.runtime.check_cancel()
                    self.on_progress("analyse", moment.index, total)
                    yield moment

            def looked(moments: Iterator[VideoFrame]) -> Iterator[Scan]:
                models, seen = self.models, listen(moments)
                with halt:
                    yield from scan(seen, models.detector, models.recogniser, self._looking, self.runtime, start=done)

            def keep(part: Scan) -> None:
                self.folder.add_scan(part)
                parts.append(part)

            done, halt = list(parts), Halt(self.runtime.check_cancel)
            reader = self._reader(halt.check_decoder)
            run_pipes(decoded(), looked, keep, check_cancel=halt.check_cancel)
            more = reader.lost_count - len(reader.lost)
            lost = [*reader.lost, *([f"and {more} more frames"] if more else [])]
            self.folder.finish_scan({"lost": lost, "notes": reader.notes, "fields": reader.fields})
            # Frames are heard of as they are decoded, by their indices; only now is it known that all were looked at.
            frames = sum(len(part) for part in parts)
            self.on_progress("analyse", frames, frames)
        self._notes += self.folder.scan_notes
        self._take_fields()
        found = Scan.joined(parts)
        if not len(found):
            raise InputMediaError(
                f"There is nothing to restore in {self.plan.info.path}",
                found="no frame lies in the part that was asked for; expected at least one",
                kept="No file was written",
                todo="Choose another part of the clip",
            )
        return found

    def _take_fields(self) -> None:
        """Keep the fields of a film whose first frames have none."""
        if (fields := self.folder.scan_fields) and not self.plan.info.fields:
            planned = len(self.plan.notes)
            self.plan = with_fields(self.plan, self.options, fields)
            self._cadence = Cadence(self.plan.info, self.options.deinterlace)
            self._notes += self.plan.notes[planned:]

    def _picture_of(self, track: Track) -> Path:
        return self.folder.report / f"track_{track.id:04}.png"

    def _write_thumbnails(self, tracks: Sequence[Track]) -> None:
        wanted: dict[int, list[Track]] = {}
        for track in tracks:
            wanted.setdefault(int(track.frames[best_row(track)]), []).append(track)
        if not wanted:
            return
        from ..media.pictures import Picture, write_picture
        from ..media.sheets import to_bytes

        last = max(wanted)
        for moment in self._reader():
            self.runtime.check_cancel()
            self.on_progress("pictures", moment.index, last + 1)
            for track in wanted.get(moment.index, ()):
                picture = thumbnail(moment.rgb(), track, best_row(track))
                write_picture(self._picture_of(track), Picture(to_bytes(picture)))
            if moment.index >= last:
                return

    # Pass 2 and 3 -----------------------------------------------------------------------------------------------------

    def run(self) -> FilmReport:
        """Do whatever is left of the job, and publish the film.

        Raises:
            InputMediaError: the clip cannot be read on, or was changed meanwhile.
            OutputMediaError: the result cannot be written, or is not what it should be.
            RestoreError: the method failed.
        """
        tracks = self.analyse()
        found = self._found
        self.folder.begin(self._render_settings(tracks), "render", self._restart)
        start = time.monotonic()
        stamps = self._cadence.stamps(found.pts)
        missing = self._missing(len(stamps))
        done = len(stamps) - sum(last - first for first, last in missing)
        for first, last in missing:
            self._render_run(tracks, found, first, last, done)
            done += last - first
        self._seconds["render"] = time.monotonic() - start
        if file_fingerprint(self.plan.info.path) != self._identity:
            raise InputMediaError(
                f"{self.plan.info.path} was changed while it was read",
                found="its size, its time or its content is no longer what it was when the job began",
                kept=f"The finished segments are in {self.plan.folder}; no output was written",
                todo="Bring the clip back as it was and run the same command, or begin anew with --restart",
            )
        start = time.monotonic()
        if self.options.keep_faces:
            kept = self.plan.folder / _FACES
            size = sum(path.stat().st_size for path in kept.iterdir()) / 1e6
            self._notes.append(f"{kept} keeps {size:,.0f} MB of restored faces for another run; it may be deleted")
        joined = join(
            self.folder.segments(), self.plan.made, self.plan.target, self.plan.encoding, self.plan.kept, stamps,
            window=self.options.window, check_cancel=self.runtime.check_cancel, on_progress=self.on_progress,
            token=self.folder.token,
        )  # fmt: skip
        self._seconds["join"] = time.monotonic() - start
        report = self._report(tracks, found, joined)
        self.folder.write_json("report/report.json", report.to_dict())
        self.folder.clear_segments()
        return report

    def _missing(self, total: int) -> list[tuple[int, int]]:
        """Return runs of frames, first and past the last, whose segments are not there whole."""
        each = self.options.segment_frames
        whole = {
            segment.number
            for segment in self.folder.segments(verify=True)
            if segment.first == segment.number * each and segment.frames == min(each, total - segment.first)
        }
        runs: list[tuple[int, int]] = []
        for number in range((total + each - 1) // each):
            if number in whole:
                continue
            first, last = number * each, min((number + 1) * each, total)
            if runs and runs[-1][1] == first:
                runs[-1] = (runs[-1][0], last)
            else:
                runs.append((first, last))
        return runs

    def _render_run(self, tracks: Sequence[Track], found: Scan, first: int, last: int, done: int) -> None:
        """Restore and encode the frames of some consecutive segments: decoder, restorer and encoder side by side.

        Args:
            tracks: of the whole film.
            found: in the whole film.
            first: frame of the result to begin with.
            last: past the last.
            done: frames that were finished before, for the progress.
        """
        cadence, stamps = self._cadence, self._cadence.stamps(found.pts)
        ahead, each = reach(cadence.times(found.times), self._render), cadence.per_frame
        halt = Halt(self.runtime.check_cancel)

        def decoded() -> Iterator[VideoFrame]:
            for moment in self._reader(halt.check_decoder, "both" if cadence.split else "first"):
                if moment.index >= last * each + ahead:
                    return
                if moment.index >= first * each - ahead:
                    self._check_stamp(moment, found)
                    yield moment

        def restored(moments: Iterator[VideoFrame]) -> Iterator[Drawn]:
            made = render(
                moments, cadence.tracks(tracks), self.models.restorer, cadence.options(self._render), self.runtime,
                span=(first * each, last * each), upscale=self.options.upscale, enlarge=self._enlarge,
            )  # fmt: skip
            shown = (self._shown(item) for item in made)
            drawn = cadence.woven(shown, self._pixels) if cadence.weave else map(self._drawn, shown)
            with halt:
                for count, (moment, picture, faces) in enumerate(drawn):
                    self.runtime.check_cancel()
                    yield replace(moment, pts=int(stamps[moment.index])), picture, faces
                    self.on_progress("render", done + count + 1, len(stamps))

        with Sink(self.folder, self.plan, self.options.segment_frames, first) as encoder:
            run_pipes(decoded(), restored, encoder, check_cancel=halt.check_cancel)
            encoder.finish(last)

    def _shown(self, item: Rendered) -> Rendered:
        """Return what was made, and let the person see it where a face was restored."""
        self.runtime.check_cancel()
        if item.after is not None and item.before is not None:
            self.show(item.before, item.after)
        return item

    def _drawn(self, item: Rendered) -> Drawn:
        """Return the frame to encode: the decoder's own where nothing was restored."""
        if item.after is None or item.before is None:
            return item.moment, item.moment.picture, ()
        picture = self._pixels.write(item.moment.picture, item.before, item.after, item.box)
        finer = self.plan.encoding.finer_faces
        return item.moment, picture, changed_boxes(item.before, item.after, item.box) if finer else ()

    def _check_stamp(self, moment: VideoFrame, found: Scan) -> None:
        index = moment.index // 2 if self._cadence.split else moment.index
        if index >= len(found) or moment.pts != int(found.pts[index]):
            raise InputMediaError(
                f"{self.plan.info.path} reads otherwise than before",
                found=f"frame {index} has another time stamp than in the first pass",
                kept=f"The finished segments are in {self.plan.folder}; no output was written",
                todo=f"Check the disk and the file, then delete {self.plan.folder} and run the same command again",
            )

    def _reader(self, check_cancel: Callable[[], None] | None = None, fields_as: FieldsAs = "first") -> Reader:
        """Return what reads the film; frames that are no fields are as they are in any case."""
        return Reader(
            self.plan.info, on_damage=self.options.on_damage, rate=self.options.rate, window=self.options.window,
            fields_as=fields_as if self.plan.info.fields else "woven",
            check_cancel=check_cancel or self.runtime.check_cancel,
        )  # fmt: skip

    # What a job is told by -------------------------------------------------------------------------------------------

    def _analysis_settings(self) -> dict[str, Any]:
        options = self.options
        return {
            "detector": self.models.detector.name,
            "recogniser": digest_of(self.models.recogniser) if self.models.recogniser is not None else "",
            "scan": asdict(self._looking),
            "on_damage": options.on_damage,
            "rate": str(options.rate),
            "window": options.window,
            "stream": self.plan.info.video,
        }

    def _render_settings(self, tracks: Sequence[Track]) -> dict[str, Any]:
        options, restorer = self.options, self.models.restorer
        return {
            **fingerprint(self.models),
            "render": self._render.told()
            | {"settings": asdict(restorer.method.settings(self._render.settings, restorer.config))},
            "encoding": asdict(self.plan.encoding),
            "segment_frames": options.segment_frames,
            "upscale": self._enlarge.told() if self._enlarge else None,
            "fields": [self.plan.info.fields, options.deinterlace],
            "dtype": str(self.runtime.dtype),
            "tracks": [track.id for track in tracks if track.restore],
        }

    def _report(self, tracks: Sequence[Track], found: Scan, joined: dict[str, Any]) -> FilmReport:
        touched = np.zeros(len(found), bool)
        for track in tracks:
            if track.restore and self._render.strengths.get(track.id, self._render.strength) > 0:
                touched[track.frames] |= track.weight > 0
        restorer = self.models.restorer
        return FilmReport(
            str(self.plan.info.path), str(self.plan.target), restorer.method.id, restorer.config.name,
            colours_of(self._render.colours, restorer.config), len(found), int(touched.sum()),
            to_json(tracks, found)["tracks"], joined,
            list(dict.fromkeys([*self._notes, *self.runtime.notes, *joined.pop("notes", ())])),
            {name: round(seconds, 2) for name, seconds in self._seconds.items()},
            self.options.upscale, upscaler_name(self.options.upscaler) if self._enlarge else "",
        )  # fmt: skip


def _digest(entries: Any) -> str:
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def _is_edited(written: Any) -> bool:
    """Tell whether a person changed tracks.json; one that no run wrote counts as edited, too."""
    if written is None:
        return False
    return not isinstance(written, dict) or written.get("unedited") != _digest(written.get("tracks"))
