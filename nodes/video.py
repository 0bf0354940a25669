"""Restoring the faces of a film: of a VIDEO from file to file, and of frames that come as a batch of images."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..bfr_core.compose.within import check_within
from ..bfr_core.errors import SettingsError
from ..bfr_core.restoration.options import Colours, colours_of
from ..bfr_core.video.encode import ENCODERS, EncodeSettings
from ..bfr_core.video.fields import DEINTERLACE, Deinterlace
from ..bfr_core.video.reader import ON_DAMAGE, OnDamage
from .compat import io, option, schema
from .detect import check_faces
from .host import FilmBar, film_runtime, join_image, side_by_side, split_image
from .models import LoadedRestorer, get_detector, get_recogniser, get_restorer, method_input
from .people import person_in
from .restore import SEED, SEED_HELP, colours_input, grain_input, within_input
from .settings import chosen_settings, fidelity_input, settings_input
from .types import FILM, DetectorSocket, Faces, FacesSocket, RestorerSocket, TrackChoice, TracksSocket
from .upscaling import host_upscaler, larger_alpha, upscale_inputs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..bfr_core.types import Face
    from ..bfr_core.video.choose import TrackSelection
    from ..bfr_core.video.scan import GivenFaces

_CODECS = ["auto", *(name for name in ENCODERS if name not in ("vp9", "prores"))]
"""Those that MP4 holds, and one that loses nothing."""

_SHOWN = 4
"""Pairs of frames in the preview."""


def all_faces_input() -> Any:
    """Return the widget that switches the quality gate off."""
    return option(
        io.Boolean, "all_faces", default=False,
        tooltip="Also faces that are sharp already, too small to restore from, or in profile, which are left alone "
        "otherwise; the report says which and why",
    )  # fmt: skip


def person_input() -> Any:
    """Return the socket of a photo."""
    help_text = "A photo: restore only the person in it, told by the embedded recogniser"
    return io.Image.Input("person", optional=True, tooltip=help_text)


def damage_input() -> Any:
    """Return the widget of what to do with frames that cannot be decoded."""
    return option(
        io.Combo, "on_damage", options=list(ON_DAMAGE), advanced=True,
        tooltip="Frames that cannot be decoded. stop: say where, and end; hold: show the one before them on; skip: "
        "leave them out. The report counts them",
    )  # fmt: skip


def settings_inputs() -> list[Any]:
    """Return the widgets of how to restore, which films and frames share."""
    return [
        method_input("How to restore; a connected restorer takes its place"),
        option(
            io.Float, "strength", default=1.0, min=0.0, max=1.0, step=0.01,
            tooltip="0 keeps the video, 1 shows the restored faces in full",
        ),
        option(io.Int, "seed", **SEED, tooltip=SEED_HELP),
        option(
            io.Float, "deflicker", default=1.0, min=0.0, max=1.0, step=0.05,
            tooltip="Takes out what changes from frame to frame without the input showing it; 0 restores each frame "
            "for itself",
        ),
        all_faces_input(),
    ]  # fmt: skip


def more_inputs() -> list[Any]:
    """Return what was added since 0.2.0 to the nodes of films and frames, the same for both."""
    return [
        within_input("One for all frames, or one for each. "),
        FacesSocket.Input(
            "faces", optional=True,
            tooltip="From Detect Faces. Those of the first frame alone: restore these people, wherever they are seen. "
            "Those of every frame: follow these faces and look for no others",
        ),
        fidelity_input(),
        *upscale_inputs(),
        settings_input(),
        grain_input(),
    ]  # fmt: skip


def given_faces(faces: Faces | None) -> tuple[GivenFaces | None, list[Face] | None]:
    """Return what is to be followed in place of what a detector finds, and whom of the first frame to restore."""
    from ..bfr_core.video.scan import GivenFaces

    if faces is None:
        return None, None
    return (None, faces[0]) if len(faces) == 1 else (GivenFaces(faces), None)


def make_choice(
    all_faces: bool,
    person: torch.Tensor | None,
    detector: Any,
    *,
    ids: Any = (),
    but: Any = (),
    faces: list[Face] | None = None,
) -> TrackSelection:
    """Return whom to restore.

    Args:
        all_faces: ask no quality gate.
        person: photos of the only one to restore; None for everybody.
        detector: finds the face in the photo.
        ids: restore these tracks only, whatever the gate says.
        but: leave these tracks alone.
        faces: of the first frame: restore these people only.

    Raises:
        InputMediaError: a photo shows no face.
    """
    from ..bfr_core.faces.quality import QualityFilter
    from ..bfr_core.video.choose import TrackSelection

    people = None if person is None else person_in(person, detector)
    gate = None if all_faces else QualityFilter()
    return TrackSelection(people=people, ids=ids, except_ids=but, faces=faces, quality_filter=gate)


class _Pairs:
    """A few frames before and after, from all over a film of any length."""

    def __init__(self) -> None:
        self.kept: list[np.ndarray] = []
        self._each, self._seen = 1, 0

    def add(self, before: torch.Tensor, after: torch.Tensor) -> None:
        """See a pair; every so many are kept, ever fewer as the film goes on."""
        if self._seen % self._each == 0:
            self.kept.append(side_by_side(before, after))
        self._seen += 1
        if len(self.kept) > _SHOWN:
            self.kept, self._each = self.kept[::2], self._each * 2

    def image(self) -> torch.Tensor:
        """Return them as a batch (N, 3, H, W); one black picture where no face was restored."""
        if not self.kept:
            return torch.zeros(1, 3, 64, 128)
        return torch.from_numpy(np.stack(self.kept[:_SHOWN])).movedim(-1, 1).float() / 255


class RestoreFacesInVideo(io.ComfyNode):
    """A film from file to file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="BFR_RestoreFacesInVideo",
            display_name="Restore Faces in Video",
            category=FILM,
            description="Find and follow the faces of a video, restore them without flicker and put them back. Works "
            "from file to file in little memory; every frame keeps its time, and sound and subtitles are copied. A run "
            "that was stopped goes on where it was. What is connected to tracks decides whom to restore.",
            search_aliases=[
                *("video face restoration", "video face fix", "face enhance video", "upscale face video"),
                *("face detailer video", "deflicker", "old film"),
            ],
            inputs=[
                io.Video.Input("video", tooltip="From Load Video, Create Video or any other node that gives a VIDEO"),
                *settings_inputs(),
                option(
                    io.Combo, "codec", options=_CODECS,
                    tooltip="auto: as the video needs, in most cases h264; ffv1 loses nothing and is written as MKV",
                ),
                option(
                    io.Int, "crf", default=-1, min=-1, max=51,
                    tooltip="Quality of the encoder, less is better and larger; -1 follows the video, so that it stays "
                    "about as large; ffv1 does not ask for it",
                ),
                damage_input(),
                RestorerSocket.Input("restorer", optional=True, tooltip="Left open: the method chosen here"),
                DetectorSocket.Input("detector", optional=True, tooltip="Left open: the embedded detector"),
                person_input(),
                TracksSocket.Input(
                    "tracks", optional=True,
                    tooltip="From Select Tracks with the same video: whom to restore. Then all_faces, detector, "
                    "person and on_damage are those of that node",
                ),
                colours_input(),
                *more_inputs(),
                option(
                    io.Combo, "deinterlace", options=list(DEINTERLACE), optional=True, advanced=True,
                    tooltip="Interlaced videos, such as tapes. off: keep both fields of a frame, each restored at its "
                    "own time; frame: make one whole picture of both; field: make two, at double rate",
                ),
            ],
            outputs=[
                io.Video.Output(display_name="video", tooltip="In the temp directory; Save Video copies it as it is"),
                io.String.Output(display_name="report", tooltip="Who was restored, when, and who was not, as JSON"),
                io.Image.Output(display_name="preview", tooltip="Some frames, before and after; black if no face was"),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        video: Any,
        method: str,
        strength: float = 1.0,
        seed: int = 0,
        deflicker: float = 1.0,
        all_faces: bool = False,
        codec: str = "auto",
        crf: int = -1,
        on_damage: OnDamage = "stop",
        restorer: LoadedRestorer | None = None,
        detector: Any = None,
        person: torch.Tensor | None = None,
        tracks: TrackChoice | None = None,
        colours: Colours = "auto",
        mask: torch.Tensor | None = None,
        faces: Faces | None = None,
        fidelity: float = 0.5,
        upscale: str = "1",
        upscale_model: Any = None,
        settings: Mapping[str, Any] | None = None,
        grain: float = 1.0,
        deinterlace: Deinterlace = "off",
    ) -> io.NodeOutput:
        """Analyse, render and join, or go on with it."""
        from ..bfr_core.video.options import FilmOptions
        from ..bfr_core.video.plan import FilmModels
        from ..bfr_core.video.render import RenderOptions
        from ..bfr_core.video.scan import EVERY_FRAME, ScanOptions
        from .film import as_host_writes, film_job, open_film, to_video

        loaded = restorer or get_restorer(method)
        chosen, within = chosen_settings(loaded, fidelity, settings), None if mask is None else check_within(mask)
        film, scan = open_film(video), ScanOptions()
        if tracks is None:
            detector = detector or get_detector()
            given, first = given_faces(faces)
            choice = make_choice(all_faces, person, detector, faces=first)
            if given is not None:
                detector, scan = given, EVERY_FRAME
        else:
            _check_tracks(tracks, film.key, detector, person=person, faces=faces)
            detector, choice, on_damage = tracks.detector, tracks.choice, tracks.on_damage
        encode = EncodeSettings(codec=codec, crf=None if crf < 0 else crf)
        if film.from_memory and codec != "ffv1":
            encode = as_host_writes(video, encode)
        options = FilmOptions(
            scan=scan,
            choice=choice,
            render=RenderOptions(
                strength=strength,
                seed=seed,
                deflicker=deflicker,
                colours=colours,
                settings=chosen,
                within=within,
                grain=grain,
            ),
            encode=encode,
            on_damage=on_damage,
            deinterlace=deinterlace,
            upscale=int(upscale),
            upscaler=host_upscaler(upscale_model),
        )
        models = FilmModels(loaded.restorer, detector, get_recogniser())
        pairs, bar = _Pairs(), FilmBar("analyse", "render", "join", "verify", frames=film.frames)

        def preview(before: torch.Tensor, after: torch.Tensor) -> None:
            pairs.add(before, after)
            bar.show(before, after)

        run = film_runtime(bar, loaded.managed)
        with film_job(film, models, options, run, bar, preview=preview) as job:
            report, target = job.run(), job.plan.target
        if film.copied:  # it would fill the disk, and can be made again
            film.path.unlink(missing_ok=True)
        return io.NodeOutput(to_video(target), json.dumps(report.to_dict(), indent=1), join_image(pairs.image()))


def _check_tracks(tracks: TrackChoice, key: str, detector: Any, **others: Any) -> None:
    """Refuse a choice of tracks that is not of this video, or that another input contradicts.

    Raises:
        SettingsError: one of both.
    """
    if tracks.source != key:
        raise SettingsError(
            "These tracks belong to another video",
            found=f"they were selected in {tracks.name}; expected the video that is connected here, and the same part",
            kept="Nothing was started",
            todo="Connect the same video to Select Tracks and to this node",
        )
    given = [name for name, value in {**others, "detector": detector}.items() if value is not None]
    if given and not (given == ["detector"] and detector is tracks.detector):
        raise SettingsError(
            f"Two nodes say whom to restore by {' and '.join(given)}",
            found=f"tracks and {' and '.join(given)} are connected; expected one or the other",
            kept="Nothing was started",
            todo=f"Connect {' and '.join(given)} to Select Tracks alone",
        )


class RestoreFacesInFrames(io.ComfyNode):
    """The frames of a film that lie in memory."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="BFR_RestoreFacesInFrames",
            display_name="Restore Faces in Frames",
            category=FILM,
            description="Restore the faces in the frames of a film, followed from frame to frame and without flicker. "
            "For frames that other nodes give as a batch of images; a VIDEO takes less memory in Restore Faces in "
            "Video. Everything outside the faces stays exactly as it was.",
            search_aliases=["video face restoration", "batch", "frames", "deflicker"],
            inputs=[
                io.Image.Input("image", tooltip="Consecutive frames of one film"),
                option(
                    io.Float, "frame_rate", default=25.0, min=0.1, max=1000.0, step=0.001,
                    tooltip="Frames a second, as Get Video Components tells: how fast faces move and fade",
                ),
                *settings_inputs(),
                RestorerSocket.Input("restorer", optional=True, tooltip="Left open: the method chosen here"),
                DetectorSocket.Input("detector", optional=True, tooltip="Left open: the embedded detector"),
                person_input(),
                colours_input(),
                *more_inputs(),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The frames with their faces restored"),
                io.String.Output(display_name="report", tooltip="Who was restored, when, and who was not, as JSON"),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        frame_rate: float,
        method: str,
        strength: float = 1.0,
        seed: int = 0,
        deflicker: float = 1.0,
        all_faces: bool = False,
        restorer: LoadedRestorer | None = None,
        detector: Any = None,
        person: torch.Tensor | None = None,
        colours: Colours = "auto",
        mask: torch.Tensor | None = None,
        faces: Faces | None = None,
        fidelity: float = 0.5,
        upscale: str = "1",
        upscale_model: Any = None,
        settings: Mapping[str, Any] | None = None,
        grain: float = 1.0,
    ) -> io.NodeOutput:
        """Restore the batch as one film."""
        from ..bfr_core.video.frames import restore_frames
        from ..bfr_core.video.options import FilmOptions
        from ..bfr_core.video.plan import FilmModels
        from ..bfr_core.video.render import RenderOptions
        from ..bfr_core.video.scan import EVERY_FRAME, ScanOptions

        frames, alpha = split_image(image)
        loaded, detector = restorer or get_restorer(method), detector or get_detector()
        chosen = chosen_settings(loaded, fidelity, settings)
        within = None if mask is None else check_within(mask, len(frames))
        if faces is not None and len(faces) > 1:
            check_faces(faces, len(frames))
        given, first = given_faces(faces)
        options = FilmOptions(
            scan=ScanOptions() if given is None else EVERY_FRAME,
            choice=make_choice(all_faces, person, detector, faces=first),
            render=RenderOptions(
                strength=strength,
                seed=seed,
                deflicker=deflicker,
                colours=colours,
                settings=chosen,
                within=within,
                grain=grain,
            ),
            upscale=int(upscale),
            upscaler=host_upscaler(upscale_model),
        )
        bar = FilmBar("analyse", "render", frames=len(frames))
        models = FilmModels(loaded.restorer, given or detector, get_recogniser())
        run = film_runtime(bar, loaded.managed)
        made = restore_frames(frames, frame_rate, models, options, run, on_progress=bar.on_progress, preview=bar.show)
        by = {
            "method": loaded.restorer.method.id,
            "config": loaded.restorer.config.name,
            "colours": colours_of(colours, loaded.restorer.config),
            "frames": len(frames),
        }
        report = {**by, **made.to_dict(), "notes": run.notes}
        image = join_image(made.frames, larger_alpha(alpha, options.upscale))
        return io.NodeOutput(image, json.dumps(report, indent=1))
