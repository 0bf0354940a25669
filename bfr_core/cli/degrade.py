"""`bfr degrade`: make poor pictures and clips of good ones, and say what was done."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .. import __version__
from ..degrade.presets import PRESETS, SEVERITIES, describe, get_preset, override
from ..degrade.video import CLIP_KEYS
from ..errors import BfrError, InputMediaError, SettingsError
from ..media.formats import FILMS, PICTURES, is_clip, picture_format, suffixes, titles
from ._output import FAILED, say, show, write_json

if TYPE_CHECKING:
    from ..degrade.drawing import DegradeParams
    from ..degrade.video import ClipParams
    from ..media.outputs import FilePair


def add(commands: Any, argv: Sequence[str] | None) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "degrade",
        help="make poor pictures and clips of good ones",
        description="Degrade pictures and clips the way restoration methods are trained and tested. What is drawn for "
        "a file depends on --seed and on its name (below its folder), so other files come and go without changing it. "
        "Pictures are written as PNG unless --format or the output's name says otherwise; their colours have 8 bit.",
        epilog="example: bfr degrade faces/ -o low/ --preset gfpgan --seed 1 --set jpeg_quality=30,60 --truth high/",
    )
    parser.add_argument(
        "inputs",
        nargs="*",
        type=Path,
        metavar="INPUT",
        help=f"pictures ({titles(PICTURES)}), folders of pictures, and clips ({titles(FILMS)})",
    )
    parser.add_argument("-o", "--out", type=Path, help="output file for one picture or clip, else a folder")
    parser.add_argument("--preset", default="gfpgan", help="a paper's ranges or a severity such as x8 (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="draws everything random (%(default)s)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="replace a range of the preset: low,high or one number or a|b|c, such as jpeg_quality=30,60; of clips "
        f"also {', '.join(CLIP_KEYS)}",
    )
    parser.add_argument("--params", type=Path, metavar="FILE", help="write what was drawn for each file, as JSON")
    parser.add_argument("--repeat", type=Path, metavar="FILE", help="do again exactly what --params wrote")
    parser.add_argument("--truth", type=Path, metavar="DIR", help="write what each picture should be restored to there")
    parser.add_argument(
        "--format", metavar="SUFFIX", help=f"suffix of the pictures: {', '.join(suffixes(PICTURES, write=True))} (.png)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace results of an earlier run, never an input")
    parser.add_argument("--list", action="store_true", help="list presets and severities with their ranges")
    parser.set_defaults(run=_degrade)


@dataclass(slots=True)
class _Work:
    """One file to degrade."""

    job: FilePair
    name: str
    """Below its input folder; with the seed it decides what is drawn."""
    clip: bool
    truth: Path | None = None
    params: DegradeParams | ClipParams | None = None
    entry: dict[str, Any] = field(default_factory=dict)


def _degrade(args: argparse.Namespace) -> int:
    from ..degrade.drawing import draw
    from ..degrade.video import draw_clip

    if args.list:
        for preset in (*PRESETS.values(), *SEVERITIES.values()):
            show(f"{preset.name}: {describe(preset)}")
        return 0
    if not args.inputs or args.out is None:
        raise SettingsError(
            "Nothing to degrade",
            found=f"found {len(args.inputs)} inputs and the output {args.out}; expected at least one, and -o",
            kept="Nothing was started",
            todo="Name pictures, folders or clips, and with -o where the results go; or ask for --list",
        )
    if args.seed < 0:
        raise SettingsError(
            "Cannot use this seed",
            found=f"found {args.seed}, expected 0 or more",
            kept="Nothing was started",
            todo="Use 0",
        )
    if args.repeat and args.set:
        raise SettingsError(
            "Cannot repeat a degradation and change it",
            found=f"--repeat comes with --set {' '.join(args.set)}",
            kept="Nothing was started",
            todo="Leave one of them out, or edit the file to repeat",
        )
    clip_settings = _clip_settings(args.set)
    preset = override(get_preset(args.preset), [text for text in args.set if _key(text) not in CLIP_KEYS])
    stored = _read_stored(args.repeat) if args.repeat else None
    # Everything that can fail for all files fails before the first one.
    if clip_settings and not any(is_clip(path) for path in args.inputs):
        raise SettingsError(
            f"Nothing takes the setting {next(iter(clip_settings))}",
            found="it is one of clips, and there is no clip among the inputs",
            kept="Nothing was started",
            todo="Leave it out, or name a clip",
        )
    works = _plan(args)
    for work in works:
        work.entry = {"name": work.name, "source": str(work.job.source), "target": str(work.job.target)}
        if stored is not None:
            work.params = _stored_for(stored, work, args.repeat)
        elif work.clip:
            work.params = draw_clip(preset, file_seed(args.seed, work.name), **clip_settings)
        else:
            work.params = draw(preset, file_seed(args.seed, work.name))
        work.entry["params"] = work.params.to_dict()
    failed, changed = _run(works)
    if args.params:
        origin = {"repeat": str(args.repeat)} if args.repeat else {"preset": args.preset, "seed": args.seed}
        content = {"bfr": __version__, **origin, "set": args.set}
        write_json(args.params, {**content, "files": [work.entry for work in works]})
    show(f"{len(works) - failed} of {len(works)} files degraded, in {args.out}")
    if args.truth and any(work.clip for work in works):
        show(
            "--truth is of pictures; the .json beside each clip says which frame of the input each of its frames shows"
        )
    if changed and not args.truth:
        show(f"{changed} of them have a truth that is gray or moved; --truth DIR writes it")
    if failed:
        names = ", ".join(work.entry["source"] for work in works if work.entry["status"] == "failed")
        say(f"{failed} files failed and have no output: {names}")
    return FAILED if failed else 0


def _run(works: list[_Work]) -> tuple[int, int]:
    """Degrade every file; return how many failed, and of how many the truth changed."""
    from tqdm import tqdm

    failed = changed = 0
    with tqdm(works, unit="file", disable=None) as bar:
        for work in bar:
            bar.set_postfix_str(work.name[-32:], refresh=True)
            try:
                changed += _degrade_clip(work) if work.clip else _degrade_picture(work)
                work.entry["status"] = "done"
                for note in work.entry["notes"] if work.clip else ():
                    tqdm.write(f"{work.name}: {note}", file=sys.stderr)
            except BfrError as error:
                failed += 1
                work.entry |= {"status": "failed", "error": str(error)}
                tqdm.write(f"Failed: {error}", file=sys.stderr)
    return failed, changed


def file_seed(seed: int, name: str) -> int:
    """Return the seed of one file: the first 62 bits of SHA-256 of 'seed/name'.

    Args:
        seed: of the whole run.
        name: of the file below its input folder, with forward slashes.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 2


def _degrade_picture(work: _Work) -> bool:
    """Degrade one picture and return whether its truth is another than itself."""
    from ..degrade.chain import degrade_batch
    from ..media.pictures import USUAL_QUALITY, from_float, read_picture, to_float, write_picture

    params = cast("DegradeParams", work.params)
    picture = read_picture(work.job.source)
    result = degrade_batch(to_float(picture).clamp(0, 1)[None], [params])
    degraded = from_float(picture, result.degraded[0])
    # Its loss is the one that was drawn: the input's own compression is not repeated.
    write_picture(work.job.target, degraded, quality=USUAL_QUALITY)
    if work.truth is not None:
        truth = from_float(picture, result.truth[0]) if params.changes_truth else picture
        write_picture(work.truth, truth, quality=USUAL_QUALITY)
        work.entry["truth"] = str(work.truth)
    work.entry["notes"] = list(degraded.notes)
    return params.changes_truth


def _degrade_clip(work: _Work) -> bool:
    """Degrade one clip, and write what was done to which frame beside it."""
    from ..degrade.clips import degrade_clip, record_path

    record = degrade_clip(work.job.source, work.job.target, cast("ClipParams", work.params))
    path = record_path(work.job.target)
    # Always written: without it nobody knows which frame shows what.
    write_json(path, record)
    work.entry |= {"record": str(path), "dropped": record["dropped"], "held": record["held"], "notes": record["notes"]}
    return False


def _plan(args: argparse.Namespace) -> list[_Work]:
    """Decide what becomes what, and refuse what would go wrong, before anything is read."""
    from ..media.outputs import plan_outputs

    clips = [path for path in args.inputs if is_clip(path)]
    pictures = [path for path in args.inputs if path not in clips]
    works: list[_Work] = []
    if pictures:
        single = len(args.inputs) == 1 and picture_format(args.out) is not None and not args.out.is_dir()
        suffix = args.format or (None if single else ".png")
        jobs = plan_outputs(pictures, args.out, suffix=suffix, overwrite=args.overwrite)
        truths: list[Path | None] = [None] * len(jobs)
        if args.truth:
            planned = plan_outputs(pictures, args.truth, suffix=suffix or args.out.suffix, overwrite=args.overwrite)
            where = {job.source: job.target for job in planned}
            truths = [where.get(job.source) for job in jobs]
        folders = [path for path in pictures if path.is_dir()]
        works += [
            _Work(job, _name(job.source, folders), clip=False, truth=truth)
            for job, truth in zip(jobs, truths, strict=True)
        ]
    if clips:
        from ..degrade.clips import plan_clips

        jobs = plan_clips(clips, args.out, alone=len(args.inputs) == 1, overwrite=args.overwrite)
        works += [_Work(job, job.source.name, clip=True) for job in jobs]
    return works


def _name(source: Path, folders: list[Path]) -> str:
    folder = next((folder for folder in folders if folder in source.parents), None)
    return source.relative_to(folder).as_posix() if folder else source.name


def _key(setting: str) -> str:
    return setting.partition("=")[0].strip()


def _clip_settings(settings: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for setting in settings:
        key, text = _key(setting), setting.partition("=")[2].strip()
        if key not in CLIP_KEYS:
            continue
        try:
            values[key] = text if key == "codec" else int(text) if key == "quality" else float(text)
        except ValueError:
            raise SettingsError(
                f"Cannot use the setting {setting!r}",
                found=f"found {text!r}, expected {'a whole number' if key == 'quality' else 'a number'}",
                kept="Nothing was started",
                todo="Write it as drop_prob=0.05",
            ) from None
    return values


def _read_stored(path: Path) -> dict[str, dict[str, Any]]:
    """Return the parameters of each file that --params wrote, by name."""
    try:
        content = json.loads(path.read_text("utf-8"))
        files = {entry["name"]: entry["params"] for entry in content["files"] if "params" in entry}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputMediaError(
            f"Cannot read the parameters in {path}",
            found=f"{type(error).__name__}: {error}; expected a file that --params wrote",
            kept="Nothing was started",
            todo="Name such a file with --repeat",
        ) from error
    return files


def _stored_for(stored: dict[str, dict[str, Any]], work: _Work, path: Path) -> DegradeParams | ClipParams:
    """Return a file's parameters; the only ones of a file with one entry are for every input."""
    from ..degrade.drawing import params_from_dict
    from ..degrade.video import clip_from_dict

    found = next(iter(stored.values())) if len(stored) == 1 else stored.get(work.name)
    if not isinstance(found, dict) or ("base" in found) != work.clip:
        raise InputMediaError(
            f"There are no parameters for {work.name} in {path}",
            found=f"it has those of {', '.join(list(stored)[:6]) or 'nothing'} ({len(stored)} in all); "
            f"expected those of a {'clip' if work.clip else 'picture'} of that name",
            kept="Nothing was started",
            todo="Repeat on the files it was written for, or use a file with one entry for all",
        )
    return clip_from_dict(found) if work.clip else params_from_dict(found)
