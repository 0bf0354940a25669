"""`python -m train plan PLAN.toml`."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from bfr_core.errors import SettingsError

from .folder import PlanFolder
from .plan import PLACES, load_plan
from .status import table

_EPILOG = """\
Running the same command again goes on where it was. --status looks without disturbing a run.
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    made = argparse.ArgumentParser(
        prog="python -m train plan",
        description="Train the stages of a plan one after another, hand on what each gives, and keep what is better "
        "than what was there.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("plan", type=Path, metavar="PLAN.toml", help="such as train/plans/compact.toml")
    made.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the plan's runs and results")
    made.add_argument("--status", action="store_true", help="show how far it is, and end")
    places = made.add_argument_group("pictures and files")
    places.add_argument("--data", type=Path, nargs="+", help="folders and .tar shards to learn from")
    places.add_argument("--val", type=Path, nargs="+", help="held-out ones to validate and judge on")
    places.add_argument(
        "--file", action="append", default=[], metavar="NAME=PATH", help="what the plan asks for under [files]"
    )
    places.add_argument("--align", action="store_true", help="photos: find and align the largest face of each")
    places.add_argument("--store", type=Path, metavar="DIR", help="keep the aligned faces there for the next run")
    places.add_argument("--licence", default="", help="licence of the pictures, where no file beside them states it")
    how = made.add_argument_group("how to run")
    how.add_argument("--skip", nargs="+", default=[], metavar="STAGE", help="leave these out; others get what is there")
    how.add_argument("--time-limit", type=float, default=math.inf, metavar="MINUTES", help="save and end after these")
    how.add_argument("--workers", type=int, metavar="N", help="processes that read and degrade (by the machine)")
    how.add_argument("--memory", type=float, default=2.0, metavar="GB", help="of decoded pictures kept (%(default)s)")
    how.add_argument("--threads", type=int, metavar="N", help="of the network on a CPU (all cores)")
    how.add_argument("--cpu", action="store_true", help="leave an accelerator alone")
    return made


def main(arguments: Sequence[str], workers: int) -> int:
    """Run the command and return its exit status.

    Args:
        arguments: after `plan`.
        workers: where --workers does not say.
    """
    command = parser()
    args = command.parse_args(arguments)
    plan, folder = load_plan(args.plan), PlanFolder(args.out)
    if args.status:
        sys.stdout.write("\n".join(table(plan, folder)) + "\n")
        return 0
    if lacking := [f"--{name}" for name in PLACES if getattr(args, name) is None]:
        command.error(f"the following arguments are required: {', '.join(lacking)} (only --status does without)")
    plan.give({"data": args.data, "val": args.val, **_files(args.file)}, args.skip)
    if args.threads:
        torch.set_num_threads(args.threads)
    from .line import StatusLine
    from .work import How, Work

    how = How(
        time_limit=60 * args.time_limit, skipped=args.skip, align=args.align, store=args.store,
        workers=workers if args.workers is None else args.workers, memory=int(args.memory * (1 << 30)), cpu=args.cpu,
        licence=args.licence,
    )  # fmt: skip
    line = StatusLine()
    with folder:
        try:
            outcome = Work(plan, folder, how, line).run()
        finally:
            line.clear()
        sys.stdout.write("\n".join(table(plan, folder)) + "\n")
    if outcome != "done":
        sys.stdout.write(f"Ended ({outcome}); the same command goes on\n")
    return 130 if outcome == "interrupted" else 0


def _files(given: Sequence[str]) -> dict[str, list[Path]]:
    """Read NAME=PATH; a name given several times has several paths."""
    files: dict[str, list[Path]] = {}
    for text in given:
        name, sign, path = text.partition("=")
        if not sign or name in PLACES:
            raise SettingsError(
                f"Cannot use --file {text}",
                found=f"expected NAME=PATH, with a name that is not {' or '.join(PLACES)}",
                kept="Nothing was started",
                todo="Write for example --file recogniser=mobilefacenet.pt",
            )
        files.setdefault(name, []).append(Path(path))
    return files
