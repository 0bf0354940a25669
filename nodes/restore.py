"""Loading restorers, the one-node path, and one node for each declared method."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from ..bfr_core.compose.within import check_within, outside, within_of
from ..bfr_core.errors import InputMediaError, SettingsError
from ..bfr_core.faces.quality import QualityFilter
from ..bfr_core.faces.select import select_faces
from ..bfr_core.registry import Method
from ..bfr_core.restoration.faces import FaceBatch, restore_crops
from ..bfr_core.restoration.options import COLOURS, COLOURS_HELP, GRAIN_HELP, Colours, RestoreOptions
from ..bfr_core.restoration.photo import restore_photos
from ..bfr_core.restorer import face_seed
from ..bfr_core.runtime import Runtime
from ..bfr_core.types import FaceReport
from . import boxes as core_boxes
from .compat import boxes_input, boxes_output, io, option, schema
from .detect import resolve_faces
from .foreign import landmarks_input, segs_input
from .host import check_cancel, join_image, runtime, split_image, to_host
from .models import (
    EMBEDDED,
    LoadedRestorer,
    check_file,
    file_stamp,
    get_detector,
    get_restorer,
    left_out,
    method_input,
    restorer_files,
)
from .own import input_kind
from .people import person_in
from .settings import chosen_settings, default_config, fidelity_input, param_input, settings_input
from .types import RESTORE, Crops, CropsSocket, DetectorSocket, Faces, FacesSocket, RestorerSocket
from .upscaling import host_upscaler, larger_alpha, larger_shape, upscale_inputs

SEED = {"default": 0, "min": 0, "max": 2**32 - 1, "control_after_generate": True}
SEED_HELP = "Draws the noise of methods that need any; the same seed gives the same faces"
FACE_ALIASES = [
    *("face restoration", "restore faces", "blind face restoration", "face fix", "repair", "face enhance"),
    *("face detailer", "upscale face", "face upscale", "old photo", "scratch", "deblur face"),
    *("gfpgan", "codeformer", "restoreformer", "gpen"),
]
"""What people type who look for this: the task, what they know from elsewhere, and what is wrong with their photo."""
CROPS_HELP = (
    "From Align Faces, where the faces come from it: noise is then drawn as in Face Restoration, also for images of a "
    "batch and where some faces were left out"
)
REPORT_HELP = "What was done, as JSON; its notes say what was not done as asked, and what the method read in the faces"


def colours_input() -> Any:
    """Return the widget of whose colours restored faces have; graphs that were saved without it run as before."""
    return option(io.Combo, "colours", options=list(COLOURS), default="auto", optional=True, advanced=True,
                  tooltip=COLOURS_HELP)  # fmt: skip


def grain_input() -> Any:
    """Return the widget of the grain that is put back, to be put behind all others."""
    return option(io.Float, "grain", default=1.0, min=0.0, max=1.0, step=0.05, optional=True, advanced=True,
                  tooltip=GRAIN_HELP)  # fmt: skip


def within_input(how_many: str) -> Any:
    """Return the socket of where restoring may show."""
    return io.Mask.Input(
        "mask", optional=True,
        tooltip=f"Where restoring may show: 1 in full, 0 not at all. {how_many}A face outside is left alone, and the "
        "pixels there stay as they were",
    )  # fmt: skip


def every_face_input() -> Any:
    """Return the widget that switches the quality filter off."""
    return option(
        io.Boolean, "all_faces", default=False, optional=True,
        tooltip="Also faces that are sharp already or turned too far aside, which are left alone otherwise; the report "
        "says which and why",
    )  # fmt: skip


class LoadRestorer(io.ComfyNode):
    """Choose a restoration method and its weights."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="BFR_LoadRestorer",
            display_name="Load Face Restorer",
            category=RESTORE,
            description="Choose a restoration method, its size and its weights. The first ones in the list come with "
            "weights; the others need a file of yours in models/facerestore_models.",
            search_aliases=["face restore model", "gfpgan", "codeformer", "restoreformer", "face restoration model"],
            inputs=[
                method_input("Method and size", embedded_only=False),
                option(
                    io.Combo, "weights", options=restorer_files(),
                    tooltip="embedded: the weights of the pack; else a file in models/facerestore_models"
                    + left_out("restorer"),
                ),
            ],
            outputs=[RestorerSocket.Output(display_name="restorer", tooltip="For the nodes that restore")],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, weights: str | None = None) -> bool | str:
        """Say why weights are of no use before anything runs."""
        return check_file("restorer", weights)

    @classmethod
    def fingerprint_inputs(cls, weights: str | None = EMBEDDED, **_: Any) -> float:
        """Run again when the file was replaced."""
        return file_stamp("restorer", weights)

    @classmethod
    def execute(cls, method: str, weights: str = EMBEDDED) -> io.NodeOutput:
        """Load the restorer."""
        return io.NodeOutput(get_restorer(method, weights))


class RestoreFaces(io.ComfyNode):
    """The whole path in one node: detect, align, restore, composite."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="BFR_RestoreFaces",
            display_name="Face Restoration",  # the page ranks titles that begin with what was typed first
            category=RESTORE,
            description="Find the faces in every image, restore them and put them back. Everything outside the faces "
            "stays exactly as it was.",
            search_aliases=FACE_ALIASES,
            inputs=[
                io.Image.Input("image", tooltip="One image or a batch, of any size"),
                method_input("How to restore; a connected restorer takes its place"),
                option(
                    io.Float, "strength", default=1.0, min=0.0, max=1.0, step=0.01,
                    tooltip="0 keeps the image, 1 shows the restored face in full",
                ),
                option(io.Int, "seed", **SEED, tooltip=SEED_HELP),
                option(
                    io.Int, "max_faces", default=0, min=0, max=256,
                    tooltip="Restore this many of the largest in each image; 0 restores all",
                ),
                option(
                    io.Float, "threshold", default=0.0, min=0.0, max=1.0, step=0.01, advanced=True,
                    tooltip="Least confidence of a face; 0 takes the detector's own",
                ),
                option(
                    io.Int, "min_size", default=16, min=0, max=4096, advanced=True,
                    tooltip="Leave faces smaller than this many pixels as they are: nothing is in them to restore from",
                ),
                RestorerSocket.Input("restorer", optional=True, tooltip="Left open: the method chosen here"),
                DetectorSocket.Input("detector", optional=True, tooltip="Left open: the embedded detector"),
                FacesSocket.Input("faces", optional=True, tooltip="From Detect Faces: restore these only"),
                boxes_input("boxes", "Restore the faces in these boxes only; used where no faces are connected"),
                io.Image.Input(
                    "person", optional=True,
                    tooltip="A photo: restore only the person in it, told by the embedded recogniser. Select Person "
                    "has more to choose",
                ),
                colours_input(),
                within_input("One, or one for each image. "),
                landmarks_input("restore these faces only; used where no faces are connected"),
                segs_input("restore these faces only; used where nothing else is connected"),
                fidelity_input(),
                every_face_input(),
                *upscale_inputs(),
                settings_input(),
                grain_input(),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The images with their faces restored"),
                io.Mask.Output(display_name="mask", tooltip="How much of each pixel was replaced"),
                boxes_output("boxes", "Every face that was found, restored or not"),
                io.String.Output(display_name="report", tooltip="What was done to each face, and why not, as JSON"),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        method: str,
        strength: float = 1.0,
        seed: int = 0,
        max_faces: int = 0,
        threshold: float = 0.0,
        min_size: int = 16,
        restorer: LoadedRestorer | None = None,
        detector: Any = None,
        faces: Faces | None = None,
        boxes: Any = None,
        person: torch.Tensor | None = None,
        colours: Colours = "auto",
        mask: torch.Tensor | None = None,
        landmarks: Any = None,
        segs: Any = None,
        fidelity: float = 0.5,
        all_faces: bool = False,
        upscale: str = "1",
        upscale_model: Any = None,
        settings: Mapping[str, Any] | None = None,
        grain: float = 1.0,
    ) -> io.NodeOutput:
        """Restore every frame."""
        frames, alpha = split_image(image)
        loaded = restorer or get_restorer(method)
        chosen = chosen_settings(loaded, fidelity, settings)
        within = None if mask is None else check_within(mask, len(frames)).expand(len(frames), -1, -1)
        if (faces is None and landmarks is None) or person is not None:
            detector = detector or get_detector()
        people = None if person is None else person_in(person, detector)
        found = resolve_faces(frames, detector, faces, boxes, threshold, landmarks=landmarks, segs=segs)
        options = RestoreOptions(
            strength=strength, seed=seed, max_faces=max_faces, min_size=min_size, people=people, colours=colours,
            settings=chosen, quality_filter=None if all_faces else QualityFilter(), upscale=int(upscale),
            upscaler=host_upscaler(upscale_model), grain=grain,
        )  # fmt: skip
        # With a person, as many as there may be: who is who is seen frame by frame.
        total = 0
        for index, there in enumerate(found):
            left = {} if within is None else outside(there.faces, within_of(within, index, frames.shape[-2:]))
            total += len(select_faces(there.faces, max_faces=max_faces, min_size=min_size, left=left)[0])
        run = runtime(loaded.managed, total)
        out, reports = frames.new_empty(larger_shape(frames, options.upscale)), []
        masks = out.new_zeros(len(out), *out.shape[-2:])
        made = restore_photos(frames, loaded.restorer, faces=found, options=options, runtime=run, within=within)
        for index, result in enumerate(made):
            check_cancel()
            out[index], masks[index] = result.image, result.mask
            reports.append(result.report.to_dict())
        run.on_progress(total, total)
        report = json.dumps(reports, indent=1)
        there = core_boxes.from_faces([one.faces for one in found], options.upscale)
        larger = larger_alpha(alpha, options.upscale)
        return io.NodeOutput(join_image(out, larger), to_host(masks), there, report)


def batch_seeds(seed: int, count: int, crops: Crops | None = None) -> list[int]:
    """Return the seeds of a batch of aligned faces: every node that draws for them draws the same.

    Args:
        seed: of the node.
        count: how many faces there are.
        crops: where they were cut from: they are then seeded as Face Restoration does, by their image and their place
            among all faces that were found in it.

    Raises:
        InputMediaError: crops of another number.
    """
    # With no crop Align Faces puts out one black square.
    if crops is None or (not crops.crops and count == 1):
        return [face_seed(seed, 0, index) for index in range(count)]
    if len(crops.crops) != count:
        raise InputMediaError(
            "Cannot seed these faces by their crops",
            found=f"found {count} faces and {len(crops.crops)} crops; expected equal numbers",
            kept="The faces are unchanged",
            todo="Connect the crops of the Align Faces that the faces came from, or none",
        )
    return [face_seed(seed, crop.frame_index, crop.face.index or 0) for crop in crops.crops]


def batch_report(loaded: LoadedRestorer, run: Runtime, seconds: float, **said: Any) -> str:
    """Return what was done to a batch as JSON, in the form of Face Restoration: one entry, with the keys that apply.

    Args:
        loaded: what did it.
        run: whose notes it ends with.
        seconds: how long it took, by the clock.
        said: more of the keys of `RestoreReport`.
    """
    by = {"method": loaded.restorer.method.id, "config": loaded.restorer.config.name}
    entry = {**by, **said, "notes": run.notes, "seconds": {"restore": round(seconds, 4)}}
    return json.dumps([entry], indent=1)


def default_choice(method: Method) -> str:
    """Return the restorer that a node uses where none is connected, as `get_restorer` takes it."""
    return f"{method.id}/{default_config(method).name}"


def method_node(method: Method) -> type[io.ComfyNode]:
    """Make the node of a declared method: aligned faces in, restored faces out, its parameters as widgets."""
    default = default_config(method)
    choice = default_choice(method)
    sockets = {declared.name: input_kind(method, declared.kind) for declared in method.inputs}

    class RestoreAligned(io.ComfyNode):
        """Restore aligned faces with one method."""

        @classmethod
        def define_schema(cls) -> io.Schema:
            """Describe the node."""
            size = default.size
            return schema(
                node_id=f"BFR_Restore_{method.id}",
                display_name=f"Restore Aligned Faces ({method.title})",
                category=RESTORE,
                description=f"{method.summary} Takes aligned faces of {size} px, from Align Faces, not whole images. "
                + " ".join(f"{paper.title}, {paper.section}." for paper in method.papers),
                search_aliases=[method.id, method.title, "face restoration"],
                inputs=[
                    io.Image.Input("faces", tooltip=f"Aligned faces of {size} px, from Align Faces"),
                    option(io.Int, "seed", **SEED, tooltip=SEED_HELP),
                    *(param_input(param) for param in method.params_of(default)),
                    RestorerSocket.Input("restorer", optional=True, tooltip=f"Left open: {choice}"),
                    *(
                        sockets[declared.name].socket.Input(declared.name, optional=True, tooltip=declared.help)
                        for declared in method.inputs
                    ),
                    CropsSocket.Input("crops", optional=True, tooltip=CROPS_HELP),
                    colours_input(),
                ],
                outputs=[
                    io.Image.Output(display_name="faces", tooltip="In the same order, for Composite Faces"),
                    io.String.Output(display_name="report", tooltip=REPORT_HELP),
                ],
            )

        @classmethod
        def execute(
            cls,
            faces: torch.Tensor,
            seed: int = 0,
            restorer: LoadedRestorer | None = None,
            crops: Crops | None = None,
            colours: Colours = "auto",
            **settings: Any,
        ) -> io.NodeOutput:
            """Restore a batch of faces."""
            loaded = restorer or get_restorer(choice)
            if loaded.restorer.method.id != method.id:
                raise SettingsError(
                    f"{method.title} cannot use this restorer",
                    found=f"it holds weights of {loaded.restorer.method.title}, expected {method.title}",
                    kept="The faces are unchanged",
                    todo="Load a restorer of this method, or use the node of that method",
                )
            given = {name: settings.pop(name, None) for name in sockets}
            config = loaded.restorer.config.name
            frames, _ = split_image(faces)
            inputs = {
                name: sockets[name].rows(value, config, len(frames))
                for name, value in given.items()
                if value is not None
            }
            run, start = runtime(loaded.managed, len(frames)), time.monotonic()
            seeds = batch_seeds(seed, len(frames), crops)
            batch = FaceBatch(frames.clamp(0, 1), seeds, settings, inputs, colours)
            results = restore_crops(batch, loaded.restorer, run)
            side = float(loaded.restorer.size)
            done = [
                asdict(FaceReport(index, 0, (0.0, 0.0, side, side), 1.0, 1.0, "restored"))
                for index in range(len(frames))
            ]
            report = batch_report(
                loaded, run, time.monotonic() - start, detector="aligned", seed=seed, strength=1.0,
                colours=results.colours, faces=done,
            )  # fmt: skip
            return io.NodeOutput(join_image(results.faces), report)

    RestoreAligned.__name__ = RestoreAligned.__qualname__ = f"BFR_Restore_{method.id}"
    return RestoreAligned
