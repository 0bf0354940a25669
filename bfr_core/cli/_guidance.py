"""Options of commands that steer a restorer: to whom, by which recogniser, how hard and where."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputMediaError
from ..registry import GUIDANCE

if TYPE_CHECKING:
    from ..diffusion.guidance import IdentityGuide
    from ..faces.detect import Detector
    from ..faces.identity import RecognizerNet
    from ..restorer import Restorer

_SAME_ASPECT = 0.01
"""Largest relative difference of the aspects of a mask and its picture: thumbnails round their sides."""


def add_guidance(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    group = parser.add_argument_group("guidance", "for methods that steer the face to an identity")
    group.add_argument(
        "--reference",
        type=Path,
        action="append",
        metavar="PHOTO",
        help="steer to the person in this photo, not to whom the input seems to show; repeat it for several photos",
    )
    group.add_argument(
        "--guide-strength", type=float, metavar="X", help="multiplies the method's own scale, 0 to 10 (1)"
    )
    group.add_argument(
        "--recogniser",
        "--recognizer",
        type=Path,
        metavar="FILE",
        help="who tells faces apart, such as model_ir_se50.pth (embedded)",
    )
    group.add_argument(
        "--mask", type=Path, metavar="FILE",
        help="picture of the input's size: white where the guidance may act, in place of the method's own mask",
    )  # fmt: skip


def recogniser_of(args: argparse.Namespace, device: torch.device) -> tuple[RecognizerNet, str]:
    """Return the recogniser that the options name, and its title.

    Raises:
        WeightsError: the recogniser cannot be used.
    """
    from ..faces.identity import embedded_recognizer, load_recognizer

    if args.recogniser:
        return load_recognizer(args.recogniser).to(device), f"recogniser {args.recogniser.name}"
    return embedded_recognizer(device), "embedded recogniser"


def asks_to_guide(args: argparse.Namespace, restorer: Restorer, settings: Mapping[str, Any], *, choosing: bool) -> bool:
    """Tell whether the options ask for a guide.

    A recogniser alone does, except where it is there for `choosing` faces: then it guides methods that would guide by
    themselves, and switches on no guidance.
    """
    if args.reference is not None or args.guide_strength is not None:
        return True
    if choosing and not getattr(restorer.method.settings(settings, restorer.config), GUIDANCE, False):
        return False
    return args.recogniser is not None


def guided(
    args: argparse.Namespace, restorer: Restorer, who: tuple[RecognizerNet, str], device: torch.device
) -> Restorer:
    """Return the restorer with the guide that the options ask for, by a recogniser and its title.

    Raises:
        InputMediaError: a reference photo cannot be read, or does not show exactly one face.
        SettingsError: the method cannot be steered, or the strength is out of range.
    """
    from ..diffusion.guidance import IdentityGuide
    from ..faces.detect import load_detector
    from ..faces.reference import reference_identity

    guide = IdentityGuide(*who, 1.0 if args.guide_strength is None else args.guide_strength)
    bound = restorer.guided(guide)  # refuses before any photo is read
    if not args.reference:
        return bound
    detector = load_detector(args.detector, path=args.detector_weights, device=device)
    photos = [one_face(path, detector) for path in args.reference]
    return restorer.guided(replace(guide, reference=reference_identity(who[0], photos, detector)))


def one_face(path: Path, detector: Detector) -> Tensor:
    """Return a photo of one person, (3, H, W) float32 RGB [0, 1].

    Raises:
        InputMediaError: it cannot be read, or does not show exactly one face.
    """
    from ..media.pictures import read_picture, to_float

    frame = to_float(read_picture(path)).clamp(0, 1)
    faces = detector.detect(frame[None])[0]
    if len(faces) != 1:
        raise InputMediaError(
            f"Cannot tell whose face {path} is the reference for",
            found=f"{len(faces) or 'no'} face{'s' if len(faces) != 1 else ''} found in it; expected exactly one",
            kept="Nothing was started",
            todo="Crop the photo to the person" if faces else "Give a photo where the person faces the camera",
        )
    return frame


def read_mask(path: Path) -> Tensor:
    """Return the mask in a picture, (H, W) float32 in [0, 1].

    Raises:
        InputMediaError: it cannot be read.
    """
    from ..media.pictures import read_picture, to_float

    return to_float(read_picture(path)).mean(0).clamp(0, 1)


def mask_for(mask: Tensor, frame: Tensor, path: Path) -> Tensor:
    """Bring a mask to the size of a picture of the same aspect.

    Raises:
        InputMediaError: the picture is of another aspect.
    """
    (height, width), (tall, wide) = frame.shape[-2:], mask.shape
    if (height, width) == (tall, wide):
        return mask
    if abs(wide * height / (width * tall) - 1) > _SAME_ASPECT:
        raise InputMediaError(
            f"Cannot lay the mask {path} over this picture",
            found=f"the mask is {wide} x {tall} pixels, the picture {width} x {height}; expected the same shape",
            kept="The picture is unchanged",
            todo="Draw the mask over this picture, or restore pictures of other shapes by themselves",
        )
    return F.interpolate(mask[None, None], (height, width), mode="bilinear", antialias=True, align_corners=False)[0, 0]


def describe_guide(guide: IdentityGuide) -> dict[str, Any]:
    """Return what a report says of a guide."""
    return {"recogniser": guide.title, "strength": guide.strength, "reference": guide.reference is not None}
