"""Options of `bfr restore` for films, and one film's way through it."""

from __future__ import annotations

import argparse
import json
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SettingsError
from ._output import show

if TYPE_CHECKING:
    from ..faces.quality import QualityFilter
    from ..media.outputs import FilePair
    from ..restoration.options import RestoreOptions
    from ..runtime import Runtime
    from ..video.options import FilmOptions
    from ..video.plan import FilmModels
    from ..video.types import ProgressCallback

_PICTURES_ONLY = ("aligned", "whole", "mask", "format", "compare")
"""Options that films do not take."""


_FILMS_ONLY = {
    "restart": False, "job": None, "keep_faces": None, "tracks": (), "except_tracks": (), "persons": (), "region": None,
    "look_every": 0, "deflicker": 1.0, "codec": "auto", "crf": None, "preset": "medium",
    "drop_streams": (), "stream": None, "on_damage": "stop", "deinterlace": "off", "drop_alpha": False,
    "frame_rate": None, "from_second": 0.0, "seconds": None,
}  # fmt: skip
"""Options that pictures do not take, and what they are where nobody gives them."""


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}; expected numbers with commas between, such as 1,4") from None


def _box(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 4 or not (0 <= values[0] < values[2] <= 1 and 0 <= values[1] < values[3] <= 1):
        raise argparse.ArgumentTypeError(
            f"found {text!r}; expected left,top,right,bottom in shares of the frame, such as 0,0,0.5,1"
        )
    return values


def _rate(text: str) -> Fraction:
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        value = Fraction(0)
    if not 0 < value <= 1000:
        raise argparse.ArgumentTypeError(f"found {text!r}; expected frames a second, such as 25 or 30000/1001")
    return value


def _crf(text: str) -> int | None:
    try:
        return None if text == "auto" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}; expected auto or a number, such as 18") from None


def _gigabytes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"found {text!r}; expected how many GB they may take, such as 4")
    return value


def add_video(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    group = parser.add_argument_group(
        "films",
        "A film is restored by a job, whose folder lies beside the output with .bfr after its name. A run that was "
        "stopped is continued by the same command.",
    )
    group.add_argument("--dry-run", action="store_true", help="print what would be done to each film, and do nothing")
    group.add_argument(
        "--analyse-only", action="store_true",
        help="find and follow the faces, and stop: tracks.json in the job's folder says which would be restored, and "
        "may be edited",
    )  # fmt: skip
    group.add_argument(
        "--restart", action="store_true",
        help="begin anew where an earlier run had other settings; what was edited in tracks.json is lost where the "
        "film is looked through anew",
    )  # fmt: skip
    group.add_argument("--job", type=Path, metavar="DIR", help="folder of the job, for one film (beside the output)")
    group.add_argument(
        "--keep-faces", type=_gigabytes, metavar="GB",
        help="keep restored faces in the job's folder, at most so many GB: the next run of that job with this option "
        "restores them not again where only strength, feather, colours, grain, deflicker or whom to restore changed",
    )  # fmt: skip
    group.add_argument("--tracks", type=_numbers, default=(), metavar="N,N", help="restore these tracks and no others")
    group.add_argument("--except-tracks", type=_numbers, default=(), metavar="N,N", help="leave these tracks alone")
    group.add_argument(
        "--persons", type=_numbers, default=(), metavar="N,N", help="restore these persons, as numbered in tracks.json"
    )
    group.add_argument(
        "--region", type=_box, metavar="L,T,R,B", help="restore faces there only, in shares of the frame"
    )
    group.add_argument(
        "--look-every", type=int, default=0, metavar="N",
        help="look for faces in every Nth frame and follow them between (0: as often as it takes)",
    )  # fmt: skip
    group.add_argument(
        "--deflicker",
        type=float,
        default=1.0,
        metavar="X",
        help="0 frame by frame, 1 as steady as can be (%(default)s)",
    )
    group.add_argument("--codec", default="auto", help="auto, h264, h265, vp9, ffv1 or prores (%(default)s)")
    group.add_argument(
        "--crf", type=_crf, metavar="N", help="quality of the film, less is better (auto: about as large as the input)"
    )
    group.add_argument(
        "--drop-alpha",
        action="store_true",
        help="leave transparency out, which is kept otherwise, or refused where the output cannot hold it",
    )
    group.add_argument("--preset", default="medium", help="speed of the encoder: ultrafast to veryslow (%(default)s)")
    group.add_argument(
        "--drop-streams", type=_numbers, default=(), metavar="N,N", help="do without these streams of the film"
    )
    group.add_argument("--stream", type=int, metavar="N", help="which video stream, where there are several")
    group.add_argument(
        "--on-damage", choices=["stop", "hold", "skip"], default="stop",
        help="frames that cannot be decoded: stop, show the one before them on, or leave them out (%(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--deinterlace", choices=["off", "frame", "field"], default="off",
        help="interlaced films: keep their fields, make one whole picture of each two, or two at double rate "
        "(%(default)s)",
    )  # fmt: skip
    group.add_argument("--frame-rate", type=_rate, metavar="N", help="of films without time stamps, such as 25")
    group.add_argument(
        "--from-second", type=float, default=0.0, metavar="S", help="cut out and restore the film from there on"
    )
    group.add_argument("--seconds", type=float, metavar="S", help="cut out and restore so many seconds")


def check_films(args: argparse.Namespace, films: int, files: int) -> None:
    """Refuse options that do not go with films, and those of films where there is none.

    Raises:
        SettingsError: one of them was given.
    """
    if (args.dry_run or args.analyse_only) and films < files:
        raise SettingsError(
            "Only films can be looked into beforehand",
            found=f"--dry-run or --analyse-only was given, and {files - films} of {files} inputs are pictures",
            kept="Nothing was started",
            todo="Leave the option out, or name films only",
        )
    if not films:
        given = [name for name, usual in _FILMS_ONLY.items() if getattr(args, name) != usual]
        if given:
            raise SettingsError(
                "These options are for films",
                found=f"{', '.join('--' + name.replace('_', '-') for name in given)}, and no input is a film",
                kept="Nothing was started",
                todo="Leave them out, or name a film",
            )
        return
    given = [name for name in _PICTURES_ONLY if getattr(args, name) not in (None, False)]
    if given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise SettingsError(
            "These options are for pictures",
            found=f"{names} beside {films} film{'s' if films > 1 else ''}",
            kept="Nothing was started",
            todo="Leave them out, or restore pictures and films by two commands",
        )
    if args.job and films > 1:
        raise SettingsError(
            "One folder cannot hold several jobs",
            found=f"--job was given for {films} films; expected one",
            kept="Nothing was started",
            todo="Leave --job out: each job then lies beside its output",
        )
    if args.from_second < 0 or (args.seconds is not None and args.seconds <= 0):
        raise SettingsError(
            "Cannot restore this part of a film",
            found=f"--from-second {args.from_second:g} --seconds {args.seconds}; expected 0 or more, and more than 0",
            kept="Nothing was started",
            todo="Give them in seconds",
        )


def film_options(args: argparse.Namespace, options: RestoreOptions) -> FilmOptions:
    """Return what the command line asks of films."""
    from ..video.choose import TrackSelection
    from ..video.encode import EncodeSettings
    from ..video.options import FilmOptions
    from ..video.render import RenderOptions
    from ..video.scan import ScanOptions

    window = None
    if args.from_second or args.seconds is not None:
        window = (args.from_second, float("inf") if args.seconds is None else args.seconds)
    return FilmOptions(
        scan=ScanOptions(every=args.look_every, threshold=args.threshold),
        choice=TrackSelection(
            people=options.people,
            ids=args.tracks,
            except_ids=args.except_tracks,
            persons=args.persons,
            largest=args.max_faces,
            region=args.region,
            quality_filter=_gate(args),
        ),
        render=RenderOptions(
            strength=args.strength,
            feather=options.feather,
            grain=options.grain,
            seed=args.seed,
            settings=options.settings,
            deflicker=args.deflicker,
            colours=args.colours,
        ),
        drift_limit=options.drift_limit,
        encode=EncodeSettings(codec=args.codec, crf=args.crf, preset=args.preset, drop_alpha=args.drop_alpha),
        stream=args.stream,
        drop=args.drop_streams,
        on_damage=args.on_damage,
        rate=args.frame_rate,
        window=window,
        deinterlace=args.deinterlace,
        keep_faces=int((args.keep_faces or 0) * 1e9),
        upscale=options.upscale,
        upscaler=options.upscaler,
    )


def _gate(args: argparse.Namespace) -> QualityFilter | None:
    from ..faces.quality import QualityFilter

    if args.all_faces:
        return None
    return QualityFilter() if args.min_size is None else QualityFilter(min_size=args.min_size)


def restore_film(
    job: FilePair,
    models: FilmModels,
    options: FilmOptions,
    runtime: Runtime,
    args: argparse.Namespace,
    on_progress: ProgressCallback,
) -> dict[str, Any]:
    """Restore one film and return its entry of the report."""
    from ..video.job import FilmJob
    from ..video.plan import plan_film

    plan = plan_film(job.source, job.target, options, folder=args.job)
    if args.dry_run:
        show(json.dumps(plan.to_dict(), indent=2))
        return {"plan": plan.to_dict()}
    with FilmJob(plan, models, options, runtime, on_progress=on_progress, restart=args.restart) as film:
        if args.analyse_only:
            tracks = film.analyse()
            chosen = sum(track.restore for track in tracks)
            show(f"{job.source}: {len(tracks)} tracks, {chosen} to restore; see {plan.folder / 'tracks.json'}")
            return {"tracks": len(tracks), "job": str(plan.folder)}
        return {"report": film.run().to_dict(), "job": str(plan.folder)}


def film_line(entry: dict[str, Any]) -> str:
    """Return what is said of a film at the end."""
    report = entry["report"]
    chosen = sum(track["restore"] for track in report["tracks"])
    line = (
        f"{entry['target']}: {report['frames']} frames, {chosen} of {len(report['tracks'])} faces restored, in "
        f"{report['restored_frames']} frames; report in {entry['job']}"
    )
    return "\n".join([line, *(f"  {note}" for note in report["notes"])])
