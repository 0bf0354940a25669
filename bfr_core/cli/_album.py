"""Files of several pictures in `bfr restore`: animations, and TIFF files of several pages."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..media.formats import picture_format

if TYPE_CHECKING:
    import argparse

    from torch import Tensor

    from ..media.outputs import FilePair
    from ..media.pictures import Album, Frame
    from ..restoration.photo import Restored


def add_pages(parser: argparse.ArgumentParser) -> None:
    """Declare the option that says how much of such a file is restored."""
    parser.add_argument(
        "--pages",
        choices=("all", "first"),
        default="all",
        help="of animations (GIF, WebP, PNG, AVIF) and TIFF files of several pages, every picture, or the first alone, "
        "which then is all that is written (%(default)s)",
    )


def restore_album(
    job: FilePair, album: Album, restore: Callable[[Tensor, int], Restored], factor: int, args: argparse.Namespace
) -> dict[str, Any]:
    """Restore every picture of a file, write them as one file, and return its entry of the report.

    Args:
        job: the file, and what is written.
        album: what the file holds.
        restore: restores one picture, given with its number.
        factor: how many times as wide and as high the result is.
        args: the command line.
    """
    from ..media.atomic import publish
    from ..media.pictures import encode_album, lost, require_album, to_float
    from ..media.sheets import compare_sheet
    from ..restoration.upscale import upscaled

    require_album(job.target, album)
    made: list[dict[str, Any]] = []
    notes: list[str] = []
    compared: list[Path] = []
    touched = 0
    named = picture_format(job.target)

    def restored() -> Iterator[Frame]:
        nonlocal touched
        for number, frame in enumerate(album):
            pixels = to_float(frame.picture)
            result = restore(pixels, number)
            changed = result.mask > 0
            touched += bool(changed.any())
            picture = _back(frame, result, factor)
            of_file = [*frame.picture.notes, *picture.notes, *(lost(picture, named.name) if named else ())]
            notes.extend(note for note in of_file if note not in notes)
            made.append(result.report.to_dict())
            if args.compare and number == 0:
                pairs = [(crop.image, face) for crop, face in zip(result.crops, result.faces, strict=True)]
                sheet = compare_sheet(
                    upscaled(pixels, factor), result.image, [] if args.aligned or args.whole else pairs
                )
                compared.append(job.target.with_name(f"{job.target.stem}.compare.png"))
                write_sheet(compared[0], sheet)
            yield replace(frame, picture=picture, changed=changed.cpu().numpy() if factor == 1 else None)

    data = encode_album(job.target, album, restored(), quality=args.quality)
    if factor == 1 and not touched and named is not None and named.name == album.kind:
        # Writing it anew would recompress pictures in which nothing changed.
        with job.source.open("rb") as source, publish(job.target) as target:
            shutil.copyfileobj(source, target)
        notes = ["no face was restored: the file was copied as it is"]
    else:
        with publish(job.target) as target:
            target.write(data)
    entry: dict[str, Any] = {"report": _together(made, album.count), "notes": notes}
    if album.count > 1:
        entry[album.several] = album.count
    if compared:
        entry["compare"] = str(compared[0])
    return entry


def _back(frame: Frame, result: Restored, factor: int) -> Any:
    from ..media.pictures import enlarged_from_float, from_float

    if factor > 1:
        return enlarged_from_float(frame.picture, result.image, factor)
    return from_float(frame.picture, result.image, result.mask > 0)


def _together(reports: list[dict[str, Any]], count: int) -> dict[str, Any]:
    """Return the reports of the pictures of one file as one; each face says in which of them it is, from 1 on."""
    whole = reports[0]
    if count > 1:
        whole["faces"] = [
            {**face, "picture": number} for number, report in enumerate(reports, 1) for face in report["faces"]
        ]
        whole["notes"] = list(dict.fromkeys(note for report in reports for note in report["notes"]))
        steps = dict.fromkeys(step for report in reports for step in report["seconds"])
        whole["seconds"] = {step: sum(report["seconds"].get(step, 0) for report in reports) for step in steps}
    return whole


def write_sheet(path: Path, sheet: Any) -> None:
    """Write before | after."""
    from ..media.pictures import Picture, write_picture

    write_picture(path, Picture(sheet))
