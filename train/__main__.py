"""`python -m train METHOD.STAGE`, `python -m train plan PLAN`, `... export CHECKPOINT`, `... list`."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from bfr_core.errors import BfrError, SettingsError

from .config import load_config
from .stage import Stage, find_stage, stage_names

_EPILOG = """\
Progress is counted in images. Running the same command again continues from the last checkpoint.
Several GPUs or machines: accelerate launch -m train METHOD.STAGE ... (see `accelerate launch --help`).
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments[:1] == ["export"]:
            return _export(arguments[1:])
        if arguments[:1] == ["plan"]:
            from .planning.command import main as plan

            return plan(arguments[1:], _workers())
        if arguments[:1] == ["list"]:
            return _list()
        if not arguments or arguments[0].startswith("-"):
            _overview().parse_args(arguments or ["--help"])
            return 2
        return _train(find_stage(arguments[0]), arguments[0], arguments[1:])
    except BfrError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted. The last checkpoint is kept; the same command continues from it.\n")
        return 130


def _overview() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train",
        description="Train one stage of a method, or many by a plan, or write trained weights as they are shipped.",
        epilog="`python -m train METHOD.STAGE --help` shows the options of a stage.\n" + _EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", help=f"{', '.join(stage_names())}; or plan, or export, or list")
    return parser


def _list() -> int:
    for name in stage_names():
        stage = find_stage(name)
        sys.stdout.write(f"{name}: {stage.title}. Configs: {', '.join(stage.configs)}\n")
        for term, equation in stage.terms.items():
            sys.stdout.write(f"  {term}: {equation}\n")
    return 0


def _parser(stage: type[Stage], name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m train {name}",
        description=f"{stage.title}. {stage.source}",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    places = parser.add_argument_group("pictures")
    places.add_argument("--data", type=Path, nargs="+", required=True, help="folders and .tar shards to learn from")
    places.add_argument("--val", type=Path, nargs="+", help="held-out ones to validate on")
    places.add_argument("--align", action="store_true", help="photos: find and align the largest face of each")
    places.add_argument("--store", type=Path, metavar="DIR", help="keep the aligned faces there for the next run")
    places.add_argument("--licence", default="", help="licence of the pictures, where no file beside them states it")
    what = parser.add_argument_group("what to train")
    what.add_argument(
        "--config", default=next(iter(stage.configs)), help=f"{', '.join(stage.configs)}, or a FILE.toml (%(default)s)"
    )
    what.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one value of the config")
    what.add_argument("--init", type=Path, metavar="FILE", help="weights or checkpoint to start a new run from")
    for need, about in stage.needs.items():
        what.add_argument(f"--{need}", type=Path, metavar="FILE", required=about.required, help=about.help)
    how = parser.add_argument_group("how to run")
    how.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of checkpoints, log and sheets")
    how.add_argument("--time-limit", type=float, default=math.inf, metavar="MINUTES", help="save and end after these")
    how.add_argument("--dry-run", action="store_true", help="print size, arithmetic, memory and speed, then end")
    how.add_argument("--workers", type=int, metavar="N", help="processes that read and degrade (by the machine)")
    how.add_argument("--memory", type=float, default=2.0, metavar="GB", help="of decoded pictures kept (%(default)s)")
    how.add_argument("--threads", type=int, metavar="N", help="of the network on a CPU (all cores)")
    how.add_argument("--cpu", action="store_true", help="leave an accelerator alone")
    return parser


def _train(stage: type[Stage], name: str, arguments: Sequence[str]) -> int:
    parser = _parser(stage, name)
    args = parser.parse_args(arguments)
    if args.val is None and not args.dry_run:
        parser.error("the following arguments are required: --val (only --dry-run does without)")
    # accelerate launch sets OMP_NUM_THREADS to 1 for each process, which is wrong where the CPU does the work.
    if args.threads:
        torch.set_num_threads(args.threads)
    config = load_config(args.config, stage.configs, args.set)
    files = {need: getattr(args, need) for need in stage.needs if getattr(args, need) is not None}
    for need, path in files.items():
        if not path.exists():
            raise SettingsError(
                f"Cannot use --{need} {path}",
                found="nothing of that name",
                kept="Nothing was started",
                todo=f"Give the {stage.needs[need].help}",
            )
    from .loop import train
    from .run import TrainOptions

    options = TrainOptions(
        out=args.out,
        data=args.data,
        val=args.val or args.data,
        time_limit=60 * args.time_limit,
        init=args.init,
        align=args.align,
        store=args.store,
        workers=_workers() if args.workers is None else args.workers,
        memory=int(args.memory * (1 << 30)),
        cpu=args.cpu,
        licence=args.licence,
        command=_command(name, args),
    )
    label = (name, args.config if args.config in stage.configs else Path(args.config).name)
    if args.dry_run:
        from .estimate import estimate

        estimate(label, stage(config, files), dataclasses.replace(options, workers=min(options.workers, 4)))
        return 0
    return 130 if train(label, stage(config, files), options) == "interrupted" else 0


def _workers() -> int:
    """One worker feeds a network that two cores compute; more only take its cores away."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores - 1, 8)) if torch.cuda.is_available() else 1


def _command(name: str, args: argparse.Namespace) -> str:
    """Return the command without the paths of this machine, as a card shows it."""
    parts = [f"python -m train {name} --config {Path(args.config).name} --data DIR... --val DIR... --out DIR"]
    parts += [f"--set {text}" for text in args.set]
    parts += [f"--init {args.init.name}"] if args.init else []
    parts += ["--align"] if args.align else []
    return " ".join(parts)


def _export(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m train export",
        description="Write the averaged weights of a checkpoint as half-precision safetensors with their card.",
    )
    parser.add_argument("checkpoint", type=Path, help="a .pt file of `checkpoints`, or the folder of a run")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FILE.safetensors")
    parser.add_argument("--metrics", type=Path, metavar="JSON", help="figures for the card: `bfr bench --json`")
    parser.add_argument("--licence", default="", help="licence of the pictures, where the run does not know it")
    parser.add_argument("--images", default="", help="the pictures in words, in place of their folders' names")
    parser.add_argument("--weaknesses", default="", help="what a user should know, in place of the stage's words")
    parser.add_argument("--dtype", choices=["float16", "float32"], default="float16", help="(%(default)s)")
    args = parser.parse_args(arguments)
    from .export import export

    card = export(
        args.checkpoint,
        args.out,
        metrics=args.metrics,
        licence=args.licence,
        images=args.images,
        weaknesses=args.weaknesses,
        dtype=args.dtype,
    )
    sys.stdout.write(
        f"{args.out}: {card.parameters / 1e6:.2f} M parameters of {card.method}/{card.config} after "
        f"{card.images_seen} images, sha256 {card.sha256}; card {args.out.with_suffix('.json').name}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
