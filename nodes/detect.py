"""Finding faces and turning them upright."""

from __future__ import annotations

from typing import Any

import torch

from ..bfr_core.errors import InputMediaError, SettingsError
from ..bfr_core.faces.align import align_faces
from ..bfr_core.faces.find import FoundFaces, find_faces
from ..bfr_core.faces.select import numbered, select_faces
from ..bfr_core.types import Face
from . import boxes as core_boxes
from .compat import boxes_input, boxes_output, io, option, schema
from .foreign import SegsSocket, faces_of_landmarks, faces_of_segs, landmarks_input, segs_input, to_segs
from .host import check_cancel, join_image, split_image, to_host
from .models import get_detector
from .types import FIND, Crops, CropsSocket, DetectorSocket, Faces, FacesSocket


def check_faces(faces: Faces, images: int) -> None:
    """Refuse faces of another number of images.

    Raises:
        InputMediaError: they are.
    """
    if len(faces) != images:
        raise InputMediaError(
            "Cannot use these faces",
            found=f"they were found in {len(faces)} images, but {images} images came in; expected as many",
            kept="The images are unchanged",
            todo="Connect the same image to Detect Faces and to this node",
        )


def resolve_faces(
    frames: torch.Tensor,
    detector: Any,
    faces: Faces | None,
    boxes: Any,
    threshold: float = 0.0,
    *,
    landmarks: Any = None,
    segs: Any = None,
) -> list[FoundFaces]:
    """Return the faces of each frame: those given in any form, the first of these that is, or those a detector finds.

    Boxes and segments have no points: those of the face that a detector finds there are taken. Boxes in which none is
    found are among the result, and say so.

    Raises:
        InputMediaError: what was given cannot be read, or belongs to other frames.
    """
    shape = (frames.shape[-2], frames.shape[-1])
    if faces is not None:
        check_faces(faces, len(frames))
        return [FoundFaces.given(there) for there in faces]
    if landmarks is not None:
        return [FoundFaces.given(there) for there in faces_of_landmarks(landmarks, len(frames), shape)]
    given = None
    if boxes is not None:
        given = core_boxes.to_faces(boxes, len(frames))
    elif segs is not None:
        given = faces_of_segs(segs, len(frames), shape)
    finder = detector or get_detector()
    found = []
    for index, frame in enumerate(frames):
        check_cancel()
        drawn = None if given is None else given[index]
        found.append(find_faces(frame, finder, threshold=threshold or None, boxes=drawn))
    return found


class DetectFaces(io.ComfyNode):
    """Find faces in every image of a batch."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="BFR_DetectFaces",
            display_name="Detect Faces",
            category=FIND,
            description="Find the faces in every image of a batch, at any angle, or take those that another tool has "
            "found. What only looks like a face is left out; no face at all is a normal result. The mask shows the "
            "boxes; connect faces to Align Faces.",
            search_aliases=["face detection", "find faces", "face bbox"],
            inputs=[
                io.Image.Input("image", tooltip="The images to search"),
                option(
                    io.Float, "threshold", default=0.0, min=0.0, max=1.0, step=0.01,
                    tooltip="Least confidence of a face; 0 takes the detector's own",
                ),
                option(
                    io.Int, "max_faces", default=0, min=0, max=256,
                    tooltip="Keep this many of the largest in each image; 0 keeps all",
                ),
                option(
                    io.Int, "min_size", default=16, min=0, max=4096, advanced=True,
                    tooltip="Leave out faces smaller than this many pixels",
                ),
                DetectorSocket.Input("detector", optional=True, tooltip="Left open: the embedded detector"),
                boxes_input("boxes", "Of another detector: take these faces instead of searching"),
                landmarks_input("take these faces instead of searching, with their points"),
                segs_input("take these faces instead of searching"),
            ],
            outputs=[
                FacesSocket.Output(display_name="faces", tooltip="Boxes and five points, for Align Faces"),
                boxes_output("boxes", "The boxes alone, for core nodes"),
                io.Mask.Output(display_name="mask", tooltip="1 inside the boxes"),
                io.Int.Output(display_name="count", tooltip="Faces in the whole batch"),
                SegsSocket.Output(display_name="segs", tooltip="Those of the first image, for the Impact Pack"),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        threshold: float = 0.0,
        max_faces: int = 0,
        min_size: int = 16,
        detector: Any = None,
        boxes: Any = None,
        landmarks: Any = None,
        segs: Any = None,
    ) -> io.NodeOutput:
        """Detect, and paint the boxes into a mask."""
        frames, _ = split_image(image)
        resolved = resolve_faces(frames, detector, None, boxes, threshold, landmarks=landmarks, segs=segs)
        found = [_there(there.faces) for there in resolved]
        kept = [select_faces(faces, max_faces=max_faces, min_size=min_size)[0] for faces in found]
        mask = torch.zeros(len(frames), *frames.shape[-2:])
        for layer, faces in zip(mask, kept, strict=True):
            for face in faces:
                x0, y0, x1, y1 = (max(round(value), 0) for value in face.box)
                layer[y0:y1, x0:x1] = 1.0
        first = to_segs(kept[0] if kept else [], (frames.shape[-2], frames.shape[-1]))
        return io.NodeOutput(kept, core_boxes.from_faces(kept), to_host(mask), sum(map(len, kept)), first)


class AlignFaces(io.ComfyNode):
    """Cut faces out, upright, in the square that restorers take."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="BFR_AlignFaces",
            display_name="Align Faces",
            category=FIND,
            description="Cut every face out of its image, upright, the way restoration methods expect it (FFHQ "
            "template). Connect faces, or boxes from any core detector; a box in which no face is found is left out. "
            "Where there is none at all, aligned is one black square and Composite Faces changes nothing.",
            search_aliases=["face crop", "ffhq"],
            inputs=[
                io.Image.Input("image", tooltip="The images the faces were found in"),
                option(
                    io.Int, "size", default=512, min=64, max=2048, step=64,
                    tooltip="Side of the crop, in pixels; restorers take 512",
                ),
                FacesSocket.Input("faces", optional=True, tooltip="From Detect Faces"),
                boxes_input("boxes", "Boxes of a core detector, used where no faces are connected"),
                landmarks_input("used where no faces are connected"),
                segs_input("used where nothing else is connected"),
            ],
            outputs=[
                io.Image.Output(display_name="aligned", tooltip="One image for each face"),
                CropsSocket.Output(display_name="crops", tooltip="Where they came from, for Composite Faces"),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        size: int = 512,
        faces: Faces | None = None,
        boxes: Any = None,
        landmarks: Any = None,
        segs: Any = None,
    ) -> io.NodeOutput:
        """Align the faces of every frame."""
        if all(given is None for given in (faces, boxes, landmarks, segs)):
            raise SettingsError(
                "No faces to align",
                found="neither faces, boxes, landmarks nor segs are connected; expected one of them",
                kept="The image is unchanged",
                todo="Connect Detect Faces, or the boxes of a core face detector",
            )
        frames, _ = split_image(image)
        found = resolve_faces(frames, None, faces, boxes, landmarks=landmarks, segs=segs)
        crops = [
            crop
            for index, (frame, present) in enumerate(zip(frames, found, strict=True))
            for crop in align_faces(frame.clamp(0, 1), _there(present.faces), size, frame_index=index)
        ]
        aligned = torch.stack([crop.image for crop in crops]) if crops else torch.zeros(1, 3, size, size)
        height, width = frames.shape[-2:]
        return io.NodeOutput(join_image(aligned), Crops(tuple(crops), len(frames), (height, width)))


def _there(faces: list[Face]) -> list[Face]:
    """Return the faces, numbered, without boxes in which none was found."""
    return [face for face in numbered(faces) if face.origin != "empty"]
