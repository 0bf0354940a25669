"""Options of `bfr restore` for larger results."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SettingsError
from ..restoration.options import UPSCALES

if TYPE_CHECKING:
    from ..runtime import Runtime


def add_upscale(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    group = parser.add_argument_group(
        "small pictures and films",
        "The result is larger than the input; faces come from the restorer as large as they are there, all else is "
        "enlarged.",
    )
    group.add_argument(
        "--upscale", type=int, choices=UPSCALES, default=1, help="times as wide and as high (%(default)s)"
    )
    group.add_argument(
        "--upscale-model", type=Path, metavar="FILE",
        help="enlarge by this model, of any architecture that the package spandrel reads (without: by Lanczos)",
    )  # fmt: skip


def upscale_options(args: argparse.Namespace, runtime: Runtime) -> dict[str, Any]:
    """Return the fields of `RestoreOptions` and `FilmOptions` that the options ask for.

    Raises:
        SettingsError: a model was given, and nothing to enlarge.
        ModelError: it cannot run here.
        WeightsError: its file cannot be used.
    """
    if args.upscale_model is None:
        return {"upscale": args.upscale}
    if args.upscale == 1:
        raise SettingsError(
            "Nothing is to be enlarged by this model",
            found="--upscale-model was given without --upscale; expected both",
            kept="Nothing was started",
            todo="Add --upscale 2 or 4, or leave the model out",
        )
    from ..restoration.upscale import load_upscaler

    return {"upscale": args.upscale, "upscaler": load_upscaler(args.upscale_model, runtime)}
