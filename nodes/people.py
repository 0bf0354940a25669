"""Choosing one person's faces by a photo, and taking back faces that restoring turned into somebody else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch

from ..bfr_core.errors import InputMediaError
from .compat import io, option, schema
from .host import check_cancel, join_image, split_image
from .models import EMBEDDED, check_file, file_stamp, files_of, get_detector, get_recogniser
from .types import FIND, GUIDE, Crops, CropsSocket, DetectorSocket

if TYPE_CHECKING:
    from ..bfr_core.faces.identity import RecognizerNet
    from ..bfr_core.faces.people import People

_EMPTY = 512
"""Side of the black square where there is no face, as of the one that Align Faces gives then."""
_THIS, _OTHERS = "this person", "everybody else"


def person_in(
    photos: torch.Tensor,
    detector: Any = None,
    *,
    recogniser: str = EMBEDDED,
    min_likeness: float = 0.0,
    others: bool = False,
) -> People:
    """Return the person whom an IMAGE shows, or with `others` everybody else.

    Args:
        photos: of one person; the largest face of each counts.
        detector: finds the face; None for the embedded one.
        recogniser: choice of a recogniser.
        min_likeness: 0 for the recogniser's usual one.
        others: choose everybody but the person.

    Raises:
        InputMediaError: a photo shows no face.
        SettingsError: the likeness is out of range.
        WeightsError: the recogniser's file cannot be used.
    """
    from ..bfr_core.faces.people import People
    from ..bfr_core.faces.reference import reference_identity

    network, title = _recogniser(recogniser)
    frames, _ = split_image(photos)
    finder = detector or get_detector()
    identity = reference_identity(network, frames.clamp(0, 1), finder, check_cancel=check_cancel)[None]
    whom = {"others": identity} if others else {"only": identity}
    return People.of(network, title, **whom, min_likeness=min_likeness or None)


class SelectPerson(io.ComfyNode):
    """Keep the faces of one person."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="BFR_SelectPerson",
            display_name="Select Person",
            category=FIND,
            description="Keep the faces of the person in a photo, at most one in each image, or of everybody else. "
            "Connect it after Align Faces; restore what comes out and put it back with Composite Faces. Where nobody "
            "is left, aligned is one black square and Composite Faces changes nothing.",
            search_aliases=["face recognition", "face selection", "reference photo", "arcface", "only this person"],
            inputs=[
                CropsSocket.Input("crops", tooltip="From Align Faces"),
                io.Image.Input("person", tooltip="Photos of the person; the largest face of each counts"),
                option(
                    io.Combo, "keep", options=[_THIS, _OTHERS],
                    tooltip="Whose faces to keep: those of the person, or all but those",
                ),
                option(
                    io.Float, "least_likeness", default=0.0, min=0.0, max=1.0, step=0.01,
                    tooltip="Cosine from which a face is taken for the person; 0 takes the recogniser's usual one. The "
                    "report tells that of every face",
                ),
                option(
                    io.Combo, "recogniser", options=files_of("recognizer"),
                    tooltip="embedded: comes with the pack; else an ArcFace file for torch in models/insightface, such "
                    "as model_ir_se50.pth",
                ),
                DetectorSocket.Input(
                    "detector", optional=True, tooltip="Finds the face in the photo. Left open: the embedded one"
                ),
            ],
            outputs=[
                io.Image.Output(display_name="aligned", tooltip="One image for each face that is left"),
                CropsSocket.Output(display_name="crops", tooltip="Where they came from, for Composite Faces"),
                io.String.Output(display_name="report", tooltip="The likeness of each face, and why not, as JSON"),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, recogniser: str | None = None) -> bool | str:
        """Say why a file is of no use before anything runs."""
        return check_file("recognizer", recogniser)

    @classmethod
    def fingerprint_inputs(cls, recogniser: str | None = EMBEDDED, **_: Any) -> float:
        """Run again when the recogniser's file was replaced."""
        return file_stamp("recognizer", recogniser)

    @classmethod
    def execute(
        cls,
        crops: Crops,
        person: torch.Tensor,
        keep: str = _THIS,
        least_likeness: float = 0.0,
        recogniser: str = EMBEDDED,
        detector: Any = None,
    ) -> io.NodeOutput:
        """Compare the faces of each image with the photo."""
        people = person_in(person, detector, recogniser=recogniser, min_likeness=least_likeness, others=keep == _OTHERS)
        left, told = [], []
        for index in range(crops.frames):
            check_cancel()
            here = [crop for crop in crops.crops if crop.frame_index == index]
            found = people.find(torch.stack([crop.image for crop in here])) if here else []
            left += [crop for crop, face in zip(here, found, strict=True) if not face.reason]
            told.append([{"likeness": round(face.cosine, 4), "reason": face.reason} for face in found])
        size = crops.crops[0].size if crops.crops else _EMPTY
        aligned = torch.stack([crop.image for crop in left]) if left else torch.zeros(1, 3, size, size)
        report = json.dumps(
            {"recogniser": people.title, "least_likeness": people.min_likeness, "images": told}, indent=1
        )
        return io.NodeOutput(join_image(aligned), Crops(tuple(left), crops.frames, crops.size), report)


class IdentityDriftGate(io.ComfyNode):
    """Take back restored faces that became somebody else."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        from ..bfr_core.faces.people import USUAL_DRIFT

        return schema(
            node_id="BFR_IdentityDriftGate",
            display_name="Identity Drift Gate",
            category=GUIDE,
            description="Compare restored faces with what they were made from, and put back those whose identity moved "
            "too far. Connect it between a node that restores aligned faces and Composite Faces.",
            search_aliases=["identity preservation", "face similarity", "arcface", "identity check"],
            inputs=[
                io.Image.Input("before", tooltip="Aligned faces, from Align Faces"),
                io.Image.Input("after", tooltip="The same faces, restored"),
                option(
                    io.Float, "max_drift", default=0.5, min=0.0, max=2.0, step=0.01,
                    tooltip=f"0: the same person, about 1: somebody else. Usual is {USUAL_DRIFT}",
                ),
                option(
                    io.Combo, "recogniser", options=files_of("recognizer"),
                    tooltip="embedded: comes with the pack; else an ArcFace file for torch in models/insightface, such "
                    "as model_ir_se50.pth",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="faces", tooltip="In the same order, for Composite Faces"),
                io.String.Output(display_name="report", tooltip="The drift of each face, and why it is back, as JSON"),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, recogniser: str | None = None) -> bool | str:
        """Say why a file is of no use before anything runs."""
        return check_file("recognizer", recogniser)

    @classmethod
    def fingerprint_inputs(cls, recogniser: str | None = EMBEDDED, **_: Any) -> float:
        """Run again when the recogniser's file was replaced."""
        return file_stamp("recognizer", recogniser)

    @classmethod
    def execute(
        cls, before: torch.Tensor, after: torch.Tensor, max_drift: float = 0.5, recogniser: str = EMBEDDED
    ) -> io.NodeOutput:
        """Judge every face."""
        from ..bfr_core.faces.people import DriftLimit

        old, new = split_image(before)[0], split_image(after)[0]
        if old.shape != new.shape:
            raise InputMediaError(
                "Cannot compare these faces",
                found=f"{len(old)} faces of {old.shape[-1]} x {old.shape[-2]} pixels before and {len(new)} of "
                f"{new.shape[-1]} x {new.shape[-2]} after; expected as many, of the same size",
                kept="No face was changed",
                todo="Connect the aligned faces that went into the restorer as before, and what came out as after",
            )
        network, title = _recogniser(recogniser)
        judged = DriftLimit(network, title, max_drift).judge(old.clamp(0, 1), new.clamp(0, 1))
        faces = [was if reason else now for was, now, (_, reason) in zip(old, new, judged, strict=True)]
        told = [{"drift": round(moved, 4), "reason": reason} for moved, reason in judged]
        report = json.dumps({"recogniser": title, "max_drift": max_drift, "faces": told}, indent=1)
        return io.NodeOutput(join_image(torch.stack(faces) if faces else new), report)


def _recogniser(choice: str) -> tuple[RecognizerNet, str]:
    network = get_recogniser(choice)
    return network, "embedded recogniser" if choice == EMBEDDED else f"{network.title} ({choice})"
