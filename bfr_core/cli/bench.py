"""`bfr bench`: what is promised beside what is measured here."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..bench import parts_of
from ._output import show, write_json


def add(commands: Any, argv: Sequence[str] | None) -> None:
    """Declare the command."""
    bench = commands.add_parser("bench", help="measure speed, memory and quality here", description=_bench.__doc__)
    bench.add_argument("parts", nargs="*", help=f"{', '.join(parts_of())}; all when none is named")
    bench.add_argument("--data", type=Path, help="folder of faces, photos and scenes that the figures are measured on")
    bench.add_argument("--method", nargs="+", default=[], metavar="ID", help="only these methods, in the part restorer")
    bench.add_argument("--weights", type=Path, help="of that one method: measure them beside the embedded ones")
    bench.add_argument("--sheets", type=Path, metavar="DIR", help="write input | restored | truth of some faces there")
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    bench.add_argument(
        "--paper",
        action="store_true",
        help="only restore one face in each published size, with random weights; parts: "
        + ", ".join(parts_of(paper=True)),
    )
    bench.set_defaults(run=_bench)


def _bench(args: argparse.Namespace) -> int:
    """Print the figures this package promises, measured on this machine."""
    from ..bench import run
    from ..media.atomic import make_folder

    if args.sheets:
        make_folder(args.sheets)
    figures = run(
        args.parts, args.data, show, sheets=args.sheets, paper=args.paper, only=args.method, weights=args.weights
    )
    if args.json:
        write_json(args.json, figures)
    return 0
