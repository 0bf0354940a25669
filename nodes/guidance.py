"""Masks that say where a face may be steered, and whom it is steered to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from ..bfr_core.compose.mask_algebra import MAX_FEATHER, OPERATIONS, combine_masks, overlay
from ..bfr_core.errors import SettingsError
from ..bfr_core.faces.regions import FEATHER, PARTS, crop_points, part_masks, select_parts
from ..bfr_core.registry import LearntMask, Method, guiding_methods
from .compat import io, option, schema
from .host import check_cancel, join_image, runtime, split_image, to_host
from .models import (
    EMBEDDED,
    FIVE_POINTS,
    LoadedRestorer,
    check_file,
    file_stamp,
    files_of,
    get_detector,
    get_landmarks,
    get_recogniser,
    get_restorer,
)
from .restore import SEED, SEED_HELP, batch_seeds, default_choice
from .types import GUIDE, Crops, CropsSocket, DetectorSocket, RestorerSocket

_FEATURES = ("eyes", "brows", "mouth", "nose")
"""Parts that are on to begin with: those that tell who it is."""
_EMPTY = 512
"""Side of the black mask where there is no face, as of the black square that Align Faces gives then."""


class GuidanceMask(io.ComfyNode):
    """Show where a method lets its identity guidance act."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        masking = _masking()
        return schema(
            node_id="BFR_GuidanceMask",
            display_name="Guidance Mask",
            category=GUIDE,
            description="Show where a method has learnt to steer aligned faces to their identity: "
            + _either((f"the {mask.name} of {method.title}" for method, mask in masking), ", or ")
            + ". Change it with Combine Guidance Masks, and give it back to the node that restores.",
            search_aliases=[*(mask.name for _, mask in masking), "identity guidance", "attention mask"],
            inputs=[
                io.Image.Input("faces", tooltip="Aligned faces, from Align Faces"),
                option(io.Int, "seed", **SEED, tooltip=SEED_HELP),
                RestorerSocket.Input(
                    "restorer", optional=True,
                    tooltip=f"Of {_either(method.title for method, _ in masking)}. "
                    f"Left open: {default_choice(masking[0][0])}",
                ),
            ],
            outputs=[io.Mask.Output(display_name="mask", tooltip="One for each face, 1 where it may be steered")],
        )  # fmt: skip

    @classmethod
    def execute(cls, faces: torch.Tensor, seed: int = 0, restorer: LoadedRestorer | None = None) -> io.NodeOutput:
        """Run the network that masks."""
        loaded = restorer or get_restorer(default_choice(_masking()[0][0]))
        method = loaded.restorer.method
        if method.mask is None:
            raise SettingsError(
                f"{method.title} has no guidance mask",
                found=f"the restorer is {method.title}; expected one of "
                + ", ".join(other.title for other, _ in _masking()),
                kept="Nothing was started",
                todo="Load a restorer of one of them, or make a mask with Mask of Face Parts",
            )
        frames, _ = split_image(faces)
        mask = method.mask.make(
            loaded.restorer,
            frames.clamp(0, 1),
            seeds=batch_seeds(seed, len(frames)),
            runtime=runtime(loaded.managed, len(frames)),
        )
        return io.NodeOutput(to_host(mask[:, 0]))


class FacePartMask(io.ComfyNode):
    """Make masks of the parts of aligned faces."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="BFR_FacePartMask",
            display_name="Mask of Face Parts",
            category=GUIDE,
            description="Make soft masks of parts of aligned faces: eyes, brows, mouth, nose, skin, and the rest. They "
            "follow the five points that the faces were aligned by; with a landmark network in models/facedetection, "
            "98 points. They say where identity guidance may act, and limit what Composite Faces pastes.",
            search_aliases=["face part mask", "face parsing", "face segmentation", "eyes mask", "mouth mask"],
            inputs=[
                CropsSocket.Input("crops", tooltip="From Align Faces"),
                *(
                    option(io.Boolean, part, default=part in _FEATURES, tooltip=_PART_HELP[part])
                    for part in PARTS
                ),
                option(
                    io.Float, "feather", default=FEATHER, min=0.0, max=0.25, step=0.005,
                    tooltip="Soft edge outside the outlines, as a share of the crop's side",
                ),
                option(
                    io.Float, "grow", default=0.0, min=-0.1, max=0.1, step=0.005,
                    tooltip="Moves the outlines of eyes, brows, mouth and nose outwards, as a share of the crop's side",
                ),
                option(
                    io.Combo, "landmarks", options=files_of("landmarker"),
                    tooltip="five points: those of the detector; else a network in models/facedetection, such as "
                    "alignment_WFLW_4HG.pth",
                ),
            ],
            outputs=[io.Mask.Output(display_name="mask", tooltip="One for each face, in the square of its crop")],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, landmarks: str | None = None) -> bool | str:
        """Say why a file is of no use before anything runs."""
        return check_file("landmarker", landmarks)

    @classmethod
    def fingerprint_inputs(cls, landmarks: str | None = FIVE_POINTS, **_: Any) -> float:
        """Run again when the landmark network was replaced."""
        return file_stamp("landmarker", landmarks)

    @classmethod
    def execute(
        cls,
        crops: Crops,
        feather: float = FEATHER,
        grow: float = 0.0,
        landmarks: str = FIVE_POINTS,
        **chosen: bool,
    ) -> io.NodeOutput:
        """Draw the chosen parts of every face."""
        names = [part for part in PARTS if chosen.get(part, part in _FEATURES)]
        network = None if landmarks == FIVE_POINTS else get_landmarks(landmarks)
        masks = []
        for crop in crops.crops:
            check_cancel()
            points = crop_points(crop) if network is None else network(crop.image[None])[0]
            masks.append(select_parts(part_masks(points, crop.size, feather=feather, grow=grow), names))
        return io.NodeOutput(to_host(torch.stack(masks) if masks else torch.zeros(1, _EMPTY, _EMPTY)))


class CombineGuidanceMasks(io.ComfyNode):
    """Put two masks together."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="BFR_CombineGuidanceMasks",
            display_name="Combine Guidance Masks",
            category=GUIDE,
            description="Put two masks of the same faces together, then invert or blur the result. One mask serves a "
            "whole batch; masks of another size are resized. With b left open, a alone is inverted or blurred.",
            search_aliases=["mask union", "mask intersection", "subtract mask", "invert mask", "feather mask"],
            inputs=[
                io.Mask.Input("a", tooltip="The first mask"),
                option(
                    io.Combo, "operation", options=list(OPERATIONS), default="intersection",
                    tooltip="intersection: where both are; union: where one is; subtract: a less b; multiply: a by b",
                ),
                option(io.Boolean, "invert", default=False, tooltip="Swap 0 and 1 of the result"),
                option(
                    io.Float, "feather", default=0.0, min=0.0, max=MAX_FEATHER, step=0.005,
                    tooltip="Blur the result: the standard deviation, as a share of the shorter side",
                ),
                io.Mask.Input("b", optional=True, tooltip="The second mask"),
            ],
            outputs=[io.Mask.Output(display_name="mask", tooltip="For a node that restores, or Composite Faces")],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        a: torch.Tensor,
        operation: str = "intersection",
        invert: bool = False,
        feather: float = 0.0,
        b: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        """Combine."""
        return io.NodeOutput(to_host(combine_masks(a, b, operation=operation, invert=invert, feather=feather)))


class PreviewGuidanceMask(io.ComfyNode):
    """Show masks over the faces they belong to."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="BFR_PreviewGuidanceMask",
            display_name="Preview Guidance Mask",
            category=GUIDE,
            description="Show masks over the images they belong to: orange where a mask is 1, dark where it is 0.",
            search_aliases=["mask overlay", "mask preview", "show mask"],
            inputs=[
                io.Image.Input("image", tooltip="Aligned faces, or any images"),
                io.Mask.Input("mask", tooltip="One, or one for each image"),
                option(
                    io.Float, "opacity", default=0.5, min=0.0, max=1.0, step=0.01,
                    tooltip="0 shows the images alone, 1 the masks alone",
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="For Preview Image")],
        )  # fmt: skip

    @classmethod
    def execute(cls, image: torch.Tensor, mask: torch.Tensor, opacity: float = 0.5) -> io.NodeOutput:
        """Draw."""
        frames, _ = split_image(image)
        return io.NodeOutput(join_image(overlay(frames.clamp(0, 1), mask, opacity=opacity)))


class IdentityGuideNode(io.ComfyNode):
    """Say whom a restorer steers to, and by which recogniser."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="BFR_IdentityGuide",
            display_name="Identity Guide",
            category=GUIDE,
            description="Say whom a restorer steers faces to, by which recogniser and how strongly. With a reference "
            "photo it steers to the person in it, otherwise to who is recognised in each face itself. For "
            + _either((method.title for method in guiding_methods()), " and ")
            + ", in every node that takes a restorer.",
            search_aliases=["arcface", "identity preservation", "reference photo", "insightface", "face recognition"],
            inputs=[
                RestorerSocket.Input(
                    "restorer", tooltip=f"Of {_either(method.title for method in guiding_methods())}"
                ),
                option(
                    io.Combo, "recogniser", options=files_of("recognizer"),
                    tooltip="embedded: comes with the pack; else an ArcFace file for torch in models/insightface, such "
                    "as model_ir_se50.pth",
                ),
                option(
                    io.Float, "strength", default=1.0, min=0.0, max=10.0, step=0.05,
                    tooltip="Multiplies the method's own scale; 0 does not steer",
                ),
                io.Image.Input(
                    "reference", optional=True,
                    tooltip="Photos of the person; the largest face of each counts. Left open: each face is its own",
                ),
                DetectorSocket.Input(
                    "detector", optional=True, tooltip="Finds the face in the reference. Left open: the embedded one"
                ),
            ],
            outputs=[RestorerSocket.Output(display_name="restorer", tooltip="For the nodes that restore")],
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
        restorer: LoadedRestorer,
        recogniser: str = EMBEDDED,
        strength: float = 1.0,
        reference: torch.Tensor | None = None,
        detector: Any = None,
    ) -> io.NodeOutput:
        """Bind the guide to the restorer."""
        from ..bfr_core.diffusion.guidance import IdentityGuide
        from ..bfr_core.faces.reference import reference_identity

        network = get_recogniser(recogniser)
        identity = None
        if reference is not None:
            photos, _ = split_image(reference)
            finder = detector or get_detector()
            identity = reference_identity(network, photos.clamp(0, 1), finder, check_cancel=check_cancel)
        title = "embedded recogniser" if recogniser == EMBEDDED else f"{network.title} ({recogniser})"
        return io.NodeOutput(restorer.guided(IdentityGuide(network, title, strength, identity)))


_PART_HELP = {
    "eyes": "Both eyes with their lids",
    "brows": "Both brows",
    "mouth": "Lips and what is between them",
    "nose": "The nose, from its root to the nostrils",
    "skin": "The rest of the face, up to the usual hairline",
    "background": "Everything else: hair, ears, neck, surroundings",
}


def _masking() -> list[tuple[Method, LearntMask]]:
    """Return the methods that have learnt where to guide, with their masks, the default first."""
    return [(method, method.mask) for method in guiding_methods() if method.mask]


def _either(names: Iterable[str], last: str = " or ") -> str:
    """Return names in a row, the last after its own word."""
    *others, end = names
    return last.join([", ".join(others), end]) if others else end
