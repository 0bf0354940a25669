"""`bfr restore`: the faces in pictures and films."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import BfrError
from ..media.formats import FILMS, PICTURES, picture_format, suffixes, titles
from ..models.registry import specs
from ..registry import Config, Method, Param, default_method, methods
from ..restoration.options import COLOURS, COLOURS_HELP, GRAIN_HELP
from ._album import add_pages, restore_album, write_sheet
from ._finished import Finished, asked_of
from ._guidance import add_guidance, asks_to_guide, describe_guide, guided, mask_for, read_mask, recogniser_of
from ._output import FAILED, write_json
from ._people import add_people, asks_for_people, describe_people, people_options
from ._summary import summarise
from ._upscale import add_upscale, upscale_options
from ._video import add_video, check_films, film_options, restore_film

if TYPE_CHECKING:
    from torch import Tensor

    from ..faces.detect import Detector
    from ..media.outputs import FilePair
    from ..restoration.options import RestoreOptions
    from ..restoration.photo import Restored
    from ..restorer import Restorer
    from ..runtime import Runtime
    from ..video.types import ProgressCallback


def _chosen_method(argv: Sequence[str] | None) -> tuple[Method, Config]:
    """Look ahead for --method, whose parameters become options, and --config, whose defaults they show."""
    ahead = argparse.ArgumentParser(add_help=False)
    ahead.add_argument("--method", default=default_method().id)
    ahead.add_argument("--config", default="")
    known = ahead.parse_known_args(sys.argv[1:] if argv is None else list(argv))[0]
    method = methods().get(known.method) or default_method()
    return method, next((config for config in method.configs if config.name == known.config), method.configs[0])


def add(commands: Any, argv: Sequence[str] | None) -> None:
    """Declare the command; its options include the settings of the method named in `argv`."""
    method, config = _chosen_method(argv)
    parser = commands.add_parser(
        "restore",
        help="restore the faces in pictures and films",
        description="Restore the faces in pictures and films. Everything outside the faces stays as it was, bit for "
        "bit in formats that are exact; of films every frame, time stamp and stream. A file that cannot be read is "
        "named and the rest goes on. The same command on a folder leaves what is finished, goes on with what was "
        "stopped, and takes what is new.",
        epilog="examples: bfr restore old_photos/ -o restored/ --compare --report restored/report.json; "
        "bfr restore film.mp4 -o restored.mp4 --only actor.jpg",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        type=Path,
        metavar="INPUT",
        help=f"pictures ({titles(PICTURES)}), films ({titles(FILMS)}), and folders of them",
    )
    parser.add_argument("-o", "--out", required=True, type=Path, help="output file for one input, else a folder")
    parser.add_argument("--method", choices=list(methods()), default=default_method().id, help="default: %(default)s")
    parser.add_argument("--config", default="", help=f"size of the method: {', '.join(c.name for c in method.configs)}")
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="in place of the embedded ones; a folder where they are several"
    )
    detectors = ", ".join(spec.id for spec in specs("detector"))
    parser.add_argument("--detector", default="embedded", help=f"{detectors} (%(default)s)")
    parser.add_argument("--detector-weights", type=Path, metavar="FILE", help="the detector's file, where it needs one")
    parser.add_argument("--threshold", type=float, help="least confidence of a face (the detector's own)")
    parser.add_argument("--aligned", action="store_true", help="each picture is one aligned face: detect nothing")
    parser.add_argument("--whole", action="store_true", help="restore all of each picture, with methods that can")
    parser.add_argument("--max-faces", type=int, default=0, metavar="N", help="only the N largest faces (0: all)")
    parser.add_argument(
        "--all-faces",
        action="store_true",
        help="also those that are sharp already or in profile (and in films too small), which are left alone otherwise",
    )
    parser.add_argument("--min-size", type=float, metavar="PX", help="leave smaller faces (16; in films 32)")
    parser.add_argument(
        "--strength", type=float, default=1.0, help="0 keeps the input, 1 restores in full (%(default)s)"
    )
    parser.add_argument("--colours", choices=COLOURS, default="auto", help=f"{COLOURS_HELP} (%(default)s)")
    parser.add_argument("--grain", type=float, default=1.0, metavar="X", help=f"{GRAIN_HELP} (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of methods that draw noise (%(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (%(default)s)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="(%(default)s)")
    parser.add_argument(
        "--format",
        metavar="SUFFIX",
        help="suffix of the outputs (each input's own, .mkv for films that are read only): "
        f"{', '.join(suffixes((*PICTURES, *FILMS), write=True))}",
    )
    add_pages(parser)
    parser.add_argument(
        "--quality",
        type=int,
        metavar="N",
        help="of JPEG, WebP, AVIF, HEIC and JPEG XL, 1 to 100 (as the input; 95 where that is another format)",
    )
    parser.add_argument("--compare", action="store_true", help="also write before | after beside each output")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write what was done to each face, as JSON")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace results of an earlier run, finished ones too, never an input"
    )
    add_upscale(parser)
    add_people(parser)
    add_guidance(parser)
    add_video(parser)
    if method.params:
        group = parser.add_argument_group(f"settings of {method.title}", f"with the defaults of {config.name}")
        for param in method.params_of(config):
            _add_param(group, param)
    parser.set_defaults(run=_restore, params=method.params)


def _add_param(group: Any, param: Param) -> None:
    kind = type(param.default)
    span = f" from {param.low:g} to {param.high:g}" if param.low is not None else ""
    # Left out, it is up to the config, which the weights may tell.
    options: dict[str, Any] = {"default": None, "help": f"{param.help}{span} ({param.default})"}
    if kind is bool:
        options["action"] = argparse.BooleanOptionalAction
    else:
        options["type"] = kind
        if param.choices:
            options["choices"] = param.choices
        else:
            options["metavar"] = "N" if kind is int else "X"
    group.add_argument(f"--{param.name.replace('_', '-')}", dest=f"param_{param.name}", **options)


def _restore(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ..faces.detect import load_detector
    from ..faces.quality import QualityFilter
    from ..media.outputs import make_places, passed_over, plan_outputs
    from ..restoration.options import RestoreOptions
    from ..restoration.photo import check_whole, mask_input
    from ..restorer import load_restorer
    from ..runtime import DTYPES, Runtime, pick_device
    from ..video.plan import FilmModels

    # Everything that can fail for all inputs fails before the first one.
    options = RestoreOptions(
        strength=args.strength,
        colours=args.colours,
        grain=args.grain,
        seed=args.seed,
        threshold=args.threshold,
        max_faces=args.max_faces,
        **({} if args.min_size is None else {"min_size": args.min_size}),
        quality_filter=None if args.all_faces else QualityFilter(),
        settings={
            param.name: value for param in args.params if (value := getattr(args, f"param_{param.name}")) is not None
        },
    )
    options.check()
    device = pick_device(args.device)
    # A processor is as fast with one face at a time, and stops sooner.
    runtime = Runtime(device=device, dtype=DTYPES[args.dtype], batch=1 if device.type == "cpu" else 8)
    restorer = load_restorer(args.method, args.config, weights=args.weights)
    restorer.method.settings(options.settings, restorer.config)
    mask = None
    if args.mask:
        mask_input(restorer.method)
        mask = read_mask(args.mask)
    record = Finished(args.out, asked_of(args))
    jobs = plan_outputs(
        args.inputs, args.out, suffix=args.format, overwrite=args.overwrite, clips=True, make=False,
        standing=record.standing,
    )  # fmt: skip
    over = passed_over(args.inputs, args.out, clips=True)
    films = sum(job.film for job in jobs)
    check_films(args, films, len(jobs))
    # A result that is there, and was not refused, is finished.
    finished = [] if args.overwrite else [job for job in jobs if job.target.exists()]
    choosing = asks_for_people(args)
    guiding = asks_to_guide(args, restorer, options.settings, choosing=choosing)
    who = recogniser_of(args, runtime.device) if guiding or choosing or films else None
    options = replace(options, **people_options(args, who if choosing else None, runtime.device))
    options = replace(options, **upscale_options(args, runtime))
    if args.whole:
        check_whole(restorer.method, options)
    if guiding and who:
        restorer = guided(args, restorer, who, runtime.device)
    detector = None
    if not args.aligned and not args.whole:
        detector = load_detector(args.detector, path=args.detector_weights, device=runtime.device)
    looks_only = args.dry_run or args.analyse_only
    if not args.dry_run:
        make_places(jobs)

    entries: list[dict[str, Any]] = [
        record.entry(job) | {"source": str(job.source), "target": str(job.target), "status": "finished before"}
        for job in finished
    ]
    with tqdm([job for job in jobs if job not in finished], unit="file", disable=None) as bar:
        for job in bar:
            name = job.source.name[-32:]
            bar.set_postfix_str(name, refresh=True)
            run = runtime.renewed()
            entry: dict[str, Any] = {"source": str(job.source), "target": str(job.target)}
            recorded = not looks_only and job.target != args.out
            try:
                if recorded:
                    record.begin(job)
                if detector is not None and job.film:
                    models = FilmModels(restorer, detector, who[0] if who else None)
                    done = restore_film(job, models, film_options(args, options), run, args, _shown(bar, name))
                else:
                    run = run.derived(
                        on_step=lambda index, total, name=name: bar.set_postfix_str(f"{name} {index + 1}/{total}")
                    )
                    done = _restore_file(job, restorer, detector, options, run, args, mask)
                entry |= {"status": "done", **done}
                if recorded:
                    record.finish(job, entry)
            except BfrError as error:
                entry |= {"status": "failed", "error": str(error)}
                tqdm.write(f"Failed: {error}", file=sys.stderr)
            entries.append(entry)
    if args.dry_run:
        return FAILED if any(entry["status"] == "failed" for entry in entries) else 0
    if args.report:
        asked = describe_people(options.people, options.drift_limit)
        if restorer.guide:
            asked["guide"] = describe_guide(restorer.guide)
        asked["passed_over"] = [{"path": str(each.path), "why": each.why} for each in over]
        write_json(args.report, {"bfr": __version__, "weights": restorer.source, **asked, "files": entries})
    return summarise(entries, over, args, options)


def _shown(bar: Any, name: str) -> ProgressCallback:
    """Return what shows how far a film has come, in the bar of the files, five times a second at most."""
    shown, named = 0.0, ""

    def on_progress(what: str, done: int, total: int) -> None:
        nonlocal shown, named
        now = time.monotonic()
        if now - shown > 0.2 or what != named:
            shown, named = now, what
            bar.set_postfix_str(f"{name}: {what} {done}/{total or '?'}")

    return on_progress


def _restore_file(
    job: FilePair,
    restorer: Restorer,
    detector: Detector | None,
    options: RestoreOptions,
    runtime: Runtime,
    args: argparse.Namespace,
    mask: Tensor | None,
) -> dict[str, Any]:
    """Restore one file and return its entry of the report."""
    from ..media.atomic import publish
    from ..media.pictures import (
        enlarged_from_float,
        from_float,
        open_album,
        read_picture,
        to_float,
        write_picture,
    )
    from ..media.sheets import compare_sheet
    from ..restoration.upscale import upscaled

    factor = options.upscale

    def restored_frame(frame: Tensor, number: int = 0) -> Restored:
        return _restore_frame(frame, number, restorer, detector, options, runtime, args, mask)

    if args.pages == "all" and (album := open_album(job.source)) is not None:
        return restore_album(job, album, restored_frame, factor, args)
    picture = read_picture(job.source)
    frame = to_float(picture)
    result = restored_frame(frame)
    notes = list(picture.notes)
    named = picture_format(job.target)
    if factor == 1 and not bool(result.mask.any()) and named is not None and named.name == picture.kind:
        # Writing it anew would recompress a picture in which nothing changed.
        with job.source.open("rb") as source, publish(job.target) as target:
            shutil.copyfileobj(source, target)
        notes = ["no face was restored: the file was copied as it is"]
    else:
        if factor == 1:
            restored = from_float(picture, result.image, result.mask > 0)
        else:
            restored = enlarged_from_float(picture, result.image, factor)
        unheld = write_picture(job.target, restored, quality=args.quality)
        notes += [note for note in (*restored.notes, *unheld) if note not in notes]
    entry: dict[str, Any] = {"report": result.report.to_dict(), "notes": notes}
    if args.compare:
        pairs = [(crop.image, face) for crop, face in zip(result.crops, result.faces, strict=True)]
        sheet = compare_sheet(upscaled(frame, factor), result.image, [] if args.aligned or args.whole else pairs)
        target = job.target.with_name(f"{job.target.stem}.compare.png")
        write_sheet(target, sheet)
        entry["compare"] = str(target)
    return entry


def _restore_frame(
    frame: Tensor,
    number: int,
    restorer: Restorer,
    detector: Detector | None,
    options: RestoreOptions,
    runtime: Runtime,
    args: argparse.Namespace,
    mask: Tensor | None,
) -> Restored:
    """Restore one picture of a file, the `number`th, in the way that was asked for."""
    from ..restoration.photo import restore_aligned, restore_photo, restore_whole

    if args.whole:
        return restore_whole(frame, restorer, options=options, runtime=runtime, frame_index=number)
    here = None if mask is None else mask_for(mask, frame, args.mask)
    if args.aligned:
        return restore_aligned(frame, restorer, options=options, runtime=runtime, mask=here)
    return restore_photo(frame, restorer, detector, options=options, runtime=runtime, frame_index=number, mask=here)
