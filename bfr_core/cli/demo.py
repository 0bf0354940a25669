"""`bfr demo`: one command that shows what the package does."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ._output import show


def add(commands: Any, argv: Sequence[str] | None) -> None:
    """Declare the command."""
    demo = commands.add_parser("demo", help="degrade a portrait, restore it, show both", description=_demo.__doc__)
    demo.add_argument("-o", "--out", type=Path, default=Path("demo.png"), help="where the picture goes (%(default)s)")
    demo.add_argument("--seed", type=int, default=2, help="draws the degradation (%(default)s)")
    demo.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (%(default)s)")
    demo.set_defaults(run=_demo)


def _demo(args: argparse.Namespace) -> int:
    """Degrade NASA's astronaut portrait, which scikit-image ships, restore it, and write before | after | truth."""
    from ..demo import run

    show(run(args.out, seed=args.seed, device=args.device))
    return 0
