"""`bfr formats`: which pictures and films are read and written here."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from ..media.formats import FILMS, PICTURES, Package, PictureFormat
from ._output import show


def add(commands: Any, argv: Sequence[str] | None) -> None:
    """Declare the command."""
    formats = commands.add_parser(
        "formats", help="which pictures and films are read and written here", description=_formats.__doc__
    )
    formats.set_defaults(run=_formats)


def _formats(args: argparse.Namespace) -> int:
    """List formats of pictures and films: suffixes, read or written, what they need and whether it is here."""
    rows = [("pictures", "suffixes", "read", "write", "here", "notes")]
    rows += [
        (each.title, " ".join(each.suffixes), _yes(each.read), _yes(each.write), _here(each), remarks(each))
        for each in PICTURES
    ]
    rows.append(("films", "suffixes", "read", "write", "here", "notes"))
    rows += [
        (each.title, " ".join(each.suffixes), _yes(each.read), _yes(each.write), "yes", each.notes) for each in FILMS
    ]
    widths = [min(28, max(len(row[column]) for row in rows)) for column in range(5)]
    for number, row in enumerate(rows):
        if number and row[1] == "suffixes":
            show("")
        show("  ".join(cell.ljust(width) for cell, width in zip(row[:5], widths, strict=True)) + f"  {row[5]}".rstrip())
    for package in dict.fromkeys(each.needs or each.helps for each in PICTURES):
        if package is not None and not package.here:
            show(f"\n{package.title}: {package.install}")
    return 0


def remarks(each: PictureFormat) -> str:
    """Return what a person should know of a format of pictures."""
    told = [each.notes] if each.notes else []
    if each.several:
        told.append(f"all {each.several} are restored")
    return "; ".join([*told, each.instead] if each.instead else told)


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


def _here(each: PictureFormat) -> str:
    from ..media.pictures.sniff import missing

    lacking = missing(each)
    if isinstance(lacking, Package):
        return f"needs {lacking.title}"
    if lacking:
        return "not in this Pillow"
    if each.helps is not None and not each.helps.here:
        return "in part"
    return "yes" if each.read else "-"
