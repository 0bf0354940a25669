"""The command `bfr`. Each of its commands is a module here."""

from __future__ import annotations

import argparse
import importlib
import logging
from collections.abc import Sequence

from .. import __version__
from ..errors import BfrError
from ..registry import methods
from ._output import FAILED, INTERRUPTED, say

COMMANDS = ("restore", "degrade", "eval", "models", "formats", "bench", "demo")
"""Modules of this package, in the order `bfr --help` shows them, those of single methods after the first. Each declares
its command with `add`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 something failed, 2 wrong usage, 130 interrupted."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    args = _parser(argv).parse_args(argv)
    try:
        return args.run(args)
    except BfrError as error:
        say(f"Error: {error}")
        return FAILED
    except KeyboardInterrupt:
        say("Interrupted. Files finished so far are kept; run the same command again for the rest.")
        return INTERRUPTED


def _parser(argv: Sequence[str] | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bfr",
        description="Restore degraded faces in photos.",
        epilog="`bfr COMMAND --help` shows the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"bfr {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    own = [module for method in methods().values() for module in method.commands.values()]
    for module in (f".{COMMANDS[0]}", *own, *(f".{name}" for name in COMMANDS[1:])):
        importlib.import_module(module, __name__).add(commands, argv)
    return parser
