"""Options of commands that choose whose faces to restore, and take back those that became somebody else."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SettingsError
from ..faces.people import USUAL_DRIFT
from ._guidance import one_face

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..faces.identity import RecognizerNet
    from ..faces.people import DriftLimit, People


def add_people(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    group = parser.add_argument_group(
        "people", "told apart by the recogniser; --recogniser FILE takes a better one than the embedded"
    )
    group.add_argument(
        "--only", type=Path, action="append", metavar="PHOTO",
        help="restore the face most like the one in this photo, and nobody else; repeat it for more people or photos",
    )  # fmt: skip
    group.add_argument(
        "--except", dest="others", type=Path, action="append", metavar="PHOTO",
        help="leave the face most like the one in this photo as it is; repeat it for several",
    )  # fmt: skip
    group.add_argument(
        "--min-likeness", "--least-likeness", type=float, metavar="X",
        help="cosine from which a face is taken for the person, -1 to 1 (the recogniser's usual one)",
    )  # fmt: skip
    group.add_argument(
        "--max-drift", type=float, metavar="X",
        help="leave a face as it was where restoring moved its identity by more than this: 0 the same person, about 1 "
        f"somebody else. Usual is {USUAL_DRIFT} (off)",
    )  # fmt: skip


def asks_for_people(args: argparse.Namespace) -> bool:
    """Tell whether a recogniser is needed to choose faces."""
    return bool(args.only or args.others or args.max_drift is not None)


def people_options(
    args: argparse.Namespace, who: tuple[RecognizerNet, str] | None, device: torch.device
) -> dict[str, Any]:
    """Return the fields of `RestoreOptions` that the options ask for.

    Args:
        args: of the command line.
        who: the recogniser and its title, None where nothing asks for one.
        device: where faces are detected.

    Raises:
        InputMediaError: a photo cannot be read, or does not show exactly one face.
        SettingsError: a limit is out of range, or has nothing to limit.
    """
    from ..faces.detect import load_detector
    from ..faces.people import DriftLimit, People
    from ..faces.reference import photo_identities

    if args.min_likeness is not None and not (args.only or args.others):
        raise SettingsError(
            "Nobody to compare the faces with",
            found="--least-likeness was given; expected --only or --except beside it",
            kept="Nothing was started",
            todo="Name a photo with --only or --except, or leave --least-likeness out",
        )
    fields: dict[str, People | DriftLimit] = {}
    if who is None:
        return fields
    if args.max_drift is not None:
        fields["drift_limit"] = DriftLimit(*who, args.max_drift)
    if args.only or args.others:
        detector = load_detector(args.detector, path=args.detector_weights, device=device)

        def vectors(photos: list[Path] | None) -> Tensor | None:
            return photo_identities(who[0], [one_face(path, detector) for path in photos], detector) if photos else None

        fields["people"] = People.of(
            *who, only=vectors(args.only), others=vectors(args.others), min_likeness=args.min_likeness
        )
    return fields


def describe_people(people: People | None, gate: DriftLimit | None) -> dict[str, Any]:
    """Return what a report says of them."""
    told: dict[str, Any] = {}
    if people:
        told["people"] = {
            "recogniser": people.title,
            "only": len(people.only),
            "except": len(people.others),
            "least_likeness": people.min_likeness,
        }
    if gate:
        told["gate"] = {"recogniser": gate.title, "max_drift": gate.max_drift}
    return told


def summary(entries: list[dict[str, Any]], people: People | None, gate: DriftLimit | None) -> list[str]:
    """Return what to say at the end: in which pictures nobody was chosen, and how many faces were taken back."""
    pictures = [entry["report"]["faces"] for entry in entries if "report" in entry]
    lines = []
    if people:
        compared = [[face["likeness"] for face in faces if face["likeness"] is not None] for faces in pictures]
        missed = [
            max(cosines)
            for cosines, faces in zip(compared, pictures, strict=True)
            if cosines and not any(face["action"] == "restored" or face["drift"] is not None for face in faces)
        ]
        if missed and len(people.only):
            lines.append(
                f"in {len(missed)} of {len(pictures)} pictures nobody is like the person asked for: the nearest has a "
                f"cosine of {max(missed):.3f}, at least {people.min_likeness:g} is needed (--min-likeness)"
            )
    if gate:
        drifts = [face["drift"] for faces in pictures for face in faces if face["drift"] is not None]
        back = sum(drift > gate.max_drift for drift in drifts)
        if back:
            lines.append(
                f"{back} of {len(drifts)} faces were left as they were: restoring moved their identity by more than "
                f"{gate.max_drift:g} (--max-drift)"
            )
    return lines
