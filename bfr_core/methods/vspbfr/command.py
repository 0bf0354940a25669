"""`bfr styles`: the style prompts of the faces in a picture."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...cli._output import show
from ...errors import InputMediaError, OutputMediaError, SettingsError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_SIDE = 256
"""Side of each picture on the sheet."""


def add(commands: Any, argv: Sequence[str] | None) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "styles",
        help="read the style prompts of the faces in a picture",
        description="Read the visual style prompts (VSPBFR) of the faces in a picture into a file, for the node Load "
        "Style Codes and the library. With the same seed they are those that `bfr restore --method vspbfr` uses.",
        epilog="example: bfr styles portrait.jpg -o portrait.safetensors --preview portrait.steps.png",
    )
    parser.add_argument("input", type=Path, metavar="INPUT", help="a picture")
    parser.add_argument("-o", "--out", required=True, type=Path, metavar="FILE", help="the codes, .safetensors")
    parser.add_argument("--preview", type=Path, metavar="FILE", help="also write each face and its steps as a picture")
    parser.add_argument("--config", default="", help="size of the method (that of the weights)")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="weights to use in place of the embedded ones")
    parser.add_argument("--aligned", action="store_true", help="the picture is one aligned face: detect nothing")
    parser.add_argument("--max-faces", type=int, default=0, metavar="N", help="only the N largest faces (0: all)")
    parser.add_argument("--seed", type=int, default=0, help="draws what the diffusion begins from (%(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (%(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace files of an earlier run, never the input")
    parser.set_defaults(run=_styles)


def _styles(args: argparse.Namespace) -> int:
    from ...media.atomic import require_writable
    from ...media.formats import PICTURES, suffixes
    from ...media.pictures import Picture, read_picture, to_float, write_picture
    from ...media.tensors import SUFFIX
    from ...restoration.options import RestoreOptions
    from ...restorer import face_seed, load_restorer
    from ...runtime import Runtime, pick_device
    from . import METHOD
    from .codes import save_codes
    from .prompts import preview, style_codes

    # Everything that can fail at once fails before the network runs.
    for target, expected in ((args.out, (SUFFIX,)), (args.preview, suffixes(PICTURES, write=True))):
        if target:
            _check_target(target, expected, args)
            require_writable(target.parent)
    options = RestoreOptions(max_faces=args.max_faces)
    options.check()
    runtime = Runtime(device=pick_device(args.device))
    restorer = load_restorer(METHOD.id, args.config, weights=args.weights)
    frame = to_float(read_picture(args.input)).clamp(0, 1)
    faces = _faces(frame, restorer.size, options, runtime, args)
    seeds = [face_seed(args.seed, 0, index) for index in range(len(faces))]
    codes = style_codes(restorer, faces, seeds=seeds, runtime=runtime)
    if args.preview:
        shown = preview(restorer, codes.steps.flatten(0, 1), runtime=runtime)
        write_picture(args.preview, Picture(_sheet(faces, shown.unflatten(0, codes.steps.shape[:2]))))
    save_codes(args.out, codes)
    show(f"Style codes of {len(codes)} faces, {codes.steps.shape[1]} steps each, are in {args.out}")
    return 0


def _check_target(target: Path, suffixes: Collection[str], args: argparse.Namespace) -> None:
    if target.suffix.lower() not in suffixes:
        raise SettingsError(
            f"Cannot write {target}",
            found=f"its suffix is {target.suffix or 'missing'}; expected {', '.join(suffixes)}",
            kept="Nothing was started",
            todo="Give the file such a name",
        )
    own = target.exists() and args.input.exists() and target.samefile(args.input)
    if own or (target.exists() and not args.overwrite):
        raise OutputMediaError(
            f"Cannot write {target}",
            found="it is the input" if own else "it exists already",
            kept="Nothing was started and no file was changed",
            todo="Choose another name" if own else "Choose another name, or add --overwrite",
        )


def _faces(frame: Tensor, size: int, options: Any, runtime: Any, args: argparse.Namespace) -> Tensor:
    """Return the aligned faces of a picture, (B, 3, size, size), chosen and ordered as for restoring."""
    import torch

    from ...faces.align import align_faces, whole_crop
    from ...faces.detect import load_detector
    from ...faces.select import select_faces

    if args.aligned:
        return whole_crop(frame, size).image[None]
    (found,) = load_detector(device=runtime.device).detect(frame[None])
    chosen, _ = select_faces(found, max_faces=options.max_faces, min_size=options.min_size)
    if not chosen:
        raise InputMediaError(
            f"No face in {args.input}",
            found=f"{len(found)} faces, none of at least {options.min_size:g} pixels; expected one or more",
            kept="Nothing was written",
            todo="Choose another picture, or cut the face out and add --aligned",
        )
    return torch.stack([crop.image for crop in align_faces(frame, chosen, size)])


def _sheet(faces: Tensor, steps: Tensor) -> np.ndarray:
    """Return a row for each face: the face, then the pictures of w^T ... w^0 (paper Fig. 7)."""
    from ...media.sheets import row, stack, to_bytes

    return stack(
        [row([to_bytes(face), *map(to_bytes, shown)], _SIDE) for face, shown in zip(faces, steps, strict=True)]
    )
