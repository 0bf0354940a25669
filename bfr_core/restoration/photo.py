"""Pictures to the restorer and back.

`restore_photo` finds the faces of a picture, `restore_photos` those of many with their crops in common batches,
`restore_aligned` takes a picture that is a face, `restore_whole` one as a whole. Command line, nodes and library all
come through here.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..compose.detail import share_kept
from ..compose.paste import composite
from ..compose.within import check_within, keep_outside, outside, within_of
from ..errors import InputMediaError, SettingsError
from ..faces.align import align_faces, sample, whole_crop
from ..faces.find import FoundFaces, find_faces
from ..faces.quality import photo_facts
from ..faces.select import numbered
from ..registry import MASK, Method
from ..restorer import Restorer, face_seed, whole_picture
from ..runtime import Runtime
from ..types import Face, FaceCrop, RestoreReport
from .choosing import ChosenFaces, choose_faces
from .clock import Clock
from .faces import FaceBatch, restore_crops
from .options import RestoreOptions, colours_of
from .upscale import check_upscale, fit_faces, upscaled, upscaler_name

if TYPE_CHECKING:
    from ..faces.detect import Detector


_HELD = 4
"""Pictures that are held at most for each face of a batch."""


@dataclass(slots=True)
class Restored:
    """The result for one picture."""

    image: Tensor
    """(3, H, W), the input, enlarged where that was asked for, wherever `mask` is zero."""
    mask: Tensor
    """(H, W) of the image, share of restored pixels, strength included."""
    crops: list[FaceCrop]
    faces: list[Tensor]
    """Restored crops, in the order of `crops`."""
    report: RestoreReport


def restore_photo(
    frame: Tensor,
    restorer: Restorer,
    detector: Detector | None = None,
    *,
    faces: Sequence[Face] | FoundFaces | None = None,
    options: RestoreOptions | None = None,
    runtime: Runtime | None = None,
    frame_index: int = 0,
    mask: Tensor | None = None,
    within: Tensor | None = None,
) -> Restored:
    """Restore the faces of one picture.

    Shapes: frame (3, H, W) float32 RGB in [0, 1]; mask (H, W) in [0, 1]; within (h, w) in [0, 1], brought to the frame.

    Args:
        frame: the picture; not changed. Values slightly outside [0, 1] are kept outside the faces.
        restorer: the loaded method.
        detector: finds the faces; not needed with `faces`.
        faces: faces found before, or by hand; with what `find_faces` gave, the report has its seconds and notes.
        options: what to do.
        runtime: where to run.
        frame_index: number of the picture in its batch; part of the seed.
        mask: where in the picture the method's guidance may act, for methods that take a mask.
        within: where in the picture restoring may show, with any method; a face that lies outside is left alone.

    Raises:
        InputMediaError: the frame or the mask cannot be used.
        SettingsError: an option is out of range, or no source of faces was given.
        RestoreError: the method failed.
    """
    given = None if faces is None else [faces]
    masks = None if mask is None else [mask]
    made = restore_photos(
        [frame], restorer, detector, faces=given, options=options, runtime=runtime, first=frame_index, masks=masks,
        within=None if within is None else [within],
    )  # fmt: skip
    return next(iter(made))


def restore_photos(
    frames: Iterable[Tensor],
    restorer: Restorer,
    detector: Detector | None = None,
    *,
    faces: Sequence[Sequence[Face] | FoundFaces] | None = None,
    options: RestoreOptions | None = None,
    runtime: Runtime | None = None,
    first: int = 0,
    masks: Sequence[Tensor] | None = None,
    within: Sequence[Tensor] | None = None,
) -> Iterator[Restored]:
    """Restore the faces of pictures; the crops of several fill one batch of the network.

    A picture's result does not depend on the others. Held at once are the pictures that wait for a batch to be full.

    Shapes: frames (3, H, W) each, of any sizes; masks (H, W) as their frames; within (h, w) of any size.

    Args:
        frames: the pictures; see `restore_photo` for these and the other arguments.
        restorer: the loaded method.
        detector: finds the faces.
        faces: for each picture, those found before.
        options: what to do.
        runtime: where to run; its progress counts faces of the pictures that were taken so far.
        first: number of the first picture in its batch; part of the seeds.
        masks: for each picture.
        within: for each picture.

    Yields:
        What became of each picture, in order.

    Raises:
        InputMediaError: a frame or a mask cannot be used.
        SettingsError: an option is out of range, or no source of faces was given.
        RestoreError: the method failed.
    """
    options, runtime = options or RestoreOptions(), runtime or Runtime()
    options.check()
    if faces is None and detector is None:
        raise SettingsError(
            "No way to find the faces",
            found="neither a detector nor faces were given; expected one of them",
            kept="The picture is unchanged",
            todo="Pass a detector or faces, or use restore_aligned for a picture that is a face",
        )
    taken = mask_input(restorer.method) if masks is not None else ""
    waiting: list[_Photo] = []
    done = 0
    for number, frame in enumerate(frames):
        runtime.check_cancel()
        photo = _Photo(frame, first + number, restorer, options, None if within is None else within[number])
        photo.find(detector, None if faces is None else faces[number])
        if masks is not None:
            photo.limit(taken, masks[number])
        waiting.append(photo)
        crops = sum(len(one.chosen.crops) for one in waiting)
        # Pictures without faces must not pile up behind one that waits for company.
        if not crops or crops >= runtime.batch or len(waiting) >= _HELD * runtime.batch:
            done += _restore(waiting, restorer, options, runtime, done)
            yield from (one.finish(runtime) for one in waiting)
            waiting = []
    _restore(waiting, restorer, options, runtime, done)
    yield from (one.finish(runtime) for one in waiting)


def restore_aligned(
    frame: Tensor,
    restorer: Restorer,
    *,
    options: RestoreOptions | None = None,
    runtime: Runtime | None = None,
    mask: Tensor | None = None,
) -> Restored:
    """Restore a picture that is one aligned face, at its own size or enlarged.

    Shapes: frame (3, S, S) float32 RGB in [0, 1]; mask (S, S) in [0, 1].

    Raises:
        InputMediaError: the frame is not square, or it or the mask cannot be used.
        SettingsError: an option is out of range.
        RestoreError: the method failed.
    """
    options, runtime = options or RestoreOptions(), runtime or Runtime()
    options.check()
    photo = _Photo(frame, 0, restorer, replace(options, min_size=0.0, quality_filter=None))
    photo.take_whole()
    if mask is not None:
        photo.limit(mask_input(restorer.method), mask)
    _restore([photo], restorer, options, runtime, 0)
    return photo.finish(runtime)


def restore_whole(
    frame: Tensor,
    restorer: Restorer,
    *,
    options: RestoreOptions | None = None,
    runtime: Runtime | None = None,
    frame_index: int = 0,
) -> Restored:
    """Restore a picture of any size as a whole, with a method that can; to be enlarged, it is afterwards.

    Shapes: frame (3, H, W) float32 RGB in [0, 1].

    Raises:
        InputMediaError: the frame cannot be used.
        SettingsError: an option is out of range or needs faces, or the method restores faces only.
        RestoreError: the method failed.
    """
    options, runtime = options or RestoreOptions(), runtime or Runtime()
    options.check()
    check_frame(frame)
    check_upscale(frame.shape[-2:], options.upscale)
    check_whole(restorer.method, options)
    clock = Clock()
    inside = frame.clamp(0, 1)
    seeds = [face_seed(options.seed, frame_index, 0)]
    batch = FaceBatch(inside[None], seeds, settings=options.settings, colours=options.colours, whole=True)
    results = restore_crops(batch, restorer, runtime)
    clock.lap("restore")
    image = torch.lerp(frame, results.faces[0], options.strength) if options.strength else frame.clone()
    image = upscaled(image, options.upscale, options.upscaler)
    report = _report(restorer, options, "whole", runtime)
    report.seconds = clock.laps
    return Restored(image, torch.full(image.shape[-2:], options.strength), [], [], report)


def check_frame(frame: Tensor) -> None:
    """Refuse what is not one RGB frame.

    Raises:
        InputMediaError: another shape or type, or NaN.
    """
    found = None
    if frame.ndim != 3 or frame.shape[0] != 3:
        found = f"found shape {tuple(frame.shape)}"
        if frame.ndim == 3 and frame.shape[-1] in (3, 4):
            found += ", which looks like (H, W, C)"
        elif frame.ndim == 4:
            found += ", a batch; pass one frame at a time"
    elif min(frame.shape[1:]) < 1:
        found = f"found an empty picture of shape {tuple(frame.shape)}"
    elif frame.dtype != torch.float32:
        found = f"found {frame.dtype}" + (" (0 to 255 must be divided by 255)" if frame.dtype == torch.uint8 else "")
    elif not bool(frame.isfinite().all()):
        found = f"found {int((~frame.isfinite()).sum())} NaN or infinite values"
    if found:
        raise InputMediaError(
            "Cannot restore this picture",
            found=f"{found}; expected (3, H, W) float32 RGB in [0, 1]",
            kept="The picture is unchanged",
            todo="Convert it first",
        )


def mask_input(method: Method) -> str:
    """Return the name of the method's input that says where in a face it may act.

    Raises:
        SettingsError: it has none.
    """
    name = next((declared.name for declared in method.inputs if declared.kind == MASK), None)
    if name is None:
        raise SettingsError(
            f"{method.title} takes no mask",
            found="a mask was given; expected none, as this method works on the whole face",
            kept="The picture is unchanged",
            todo="Leave the mask out, or choose a method that guides",
        )
    return name


def check_whole(method: Method, options: RestoreOptions) -> None:
    """Refuse to restore a whole picture where the method cannot, or options choose among faces.

    Raises:
        SettingsError: one of both.
    """
    if options.people or options.drift_limit:
        asked = "to choose people" if options.people else "to take back faces that drift"
        raise SettingsError(
            "A whole picture is restored without looking at its faces",
            found=f"a whole picture was asked for, and {asked}; expected one of the two",
            kept="The picture is unchanged",
            todo="Leave out --whole, or else --only, --except and --max-drift",
        )
    whole_picture(method)


def _report(restorer: Restorer, options: RestoreOptions, detector: str, runtime: Runtime) -> RestoreReport:
    return RestoreReport(
        restorer.method.id,
        restorer.config.name,
        detector,
        options.seed,
        options.strength,
        colours_of(options.colours, restorer.config),
        options.upscale,
        upscaler_name(options.upscaler) if options.upscale > 1 else "",
        notes=runtime.notes,
    )


class _Photo:
    """One picture on its way: its faces, who of them is chosen, and what becomes of them."""

    def __init__(
        self, frame: Tensor, number: int, restorer: Restorer, options: RestoreOptions, within: Tensor | None = None
    ) -> None:
        check_frame(frame)
        check_upscale(frame.shape[-2:], options.upscale)
        self.frame, self.number, self.restorer, self.options = frame, number, restorer, options
        height, width = frame.shape[-2:]
        self.within = None if within is None else within_of(check_within(within, 1), 0, (height, width))
        self.detector = "none"
        self.found: list[Face] = []
        self.chosen = ChosenFaces({}, {})
        self.notes: list[str] = []
        self.inputs: dict[str, Tensor] = {}
        self.restored: dict[int, Tensor] = {}
        self.clock = Clock()
        self.aligned = False

    def find(self, detector: Detector | None, faces: Sequence[Face] | FoundFaces | None) -> None:
        """Find the faces, choose, and cut the chosen ones out."""
        if faces is None and detector is not None:
            faces = find_faces(self.frame, detector, threshold=self.options.threshold)
        if not isinstance(faces, FoundFaces):
            faces = FoundFaces.given(faces or ())
        self.detector, self.found, self.notes = faces.detector, numbered(faces.faces), list(faces.notes)
        self.clock.add("detect", faces.seconds)
        self.clock.lap()
        inside, size, factor = self.frame.clamp(0, 1), self.restorer.size, self.options.upscale
        self.chosen = choose_faces(
            self.found,
            self.options,
            lambda some: align_faces(inside, some, size, frame_index=self.number, enlarge=factor),
            lambda face: photo_facts(inside, face, size, upscale=factor),
            size,
            {} if self.within is None else outside(self.found, self.within),
        )
        self.clock.lap("align")

    def take_whole(self) -> None:
        """Take the picture itself for an aligned face."""
        self.detector, self.aligned = "aligned", True
        crop = whole_crop(self.frame.clamp(0, 1), self.restorer.size, enlarge=self.options.upscale)
        self.found = numbered([crop.face])
        self.chosen = choose_faces(
            self.found, self.options, lambda some: [crop for _ in some], lambda _: {}, self.restorer.size
        )

    def limit(self, name: str, mask: Tensor) -> None:
        """Take where the method's guidance may act.

        Raises:
            InputMediaError: a mask of another size than the picture.
        """
        if mask.shape != self.frame.shape[1:]:
            raise InputMediaError(
                "Cannot use this mask",
                found=f"its shape is {tuple(mask.shape)}, the picture's {tuple(self.frame.shape[1:])}; expected the "
                "same",
                kept="The picture is unchanged",
                todo="Bring the mask to the height and width of the picture",
            )
        crops = self.chosen.crops.values()
        if crops:
            size = self.restorer.size
            self.inputs[name] = torch.stack([sample(mask[None], crop.matrix, size).clamp(0, 1) for crop in crops])

    def seeds(self) -> list[int]:
        """Return the seeds of the chosen faces: of each its place among all that were found."""
        return [face_seed(self.options.seed, self.number, self.found[index].index or 0) for index in self.chosen.crops]

    def take(self, faces: Tensor, drift: Sequence[float | None], reasons: Sequence[str], seconds: float) -> None:
        """Take the restored faces, each of which took so long; those with a reason stay as they were."""
        self.clock.add("restore", seconds * len(faces))
        self.chosen.seconds |= dict.fromkeys(self.chosen.crops, seconds)
        for index, face, moved, reason in zip(list(self.chosen.crops), faces, drift, reasons, strict=True):
            if moved is not None:
                self.chosen.drift[index] = moved
            if reason := reason or self.chosen.softens(index, face, self.options):
                self.chosen.reasons[index] = reason
                del self.chosen.crops[index]
            else:
                self.restored[index] = face

    def finish(self, runtime: Runtime) -> Restored:
        """Put the faces back and say what was done."""
        self.clock.lap()
        crops, results = list(self.chosen.crops.values()), list(self.restored.values())
        options, factor = self.options, self.options.upscale
        worth, said = self.chosen.detail(self.frame)
        self.notes += said
        canvas = upscaled(self.frame, factor, options.upscaler)
        shown = fit_faces(results, crops, factor, options.upscaler)
        if not self.aligned:
            image, mask = composite(
                canvas, crops, shown, strength=options.strength, feather=options.feather, worth=worth, upscale=factor,
                grain=options.grain, seeds=self.seeds(),
            )  # fmt: skip
        elif crops:
            image, mask = _blend_whole(canvas, crops[0], shown[0], options.strength, worth[0])
        else:
            image, mask = canvas.clone(), torch.zeros(canvas.shape[-2:])
        if self.within is not None:
            height, width = canvas.shape[-2:]
            image, mask = keep_outside(canvas, image, mask, within_of(self.within[None], 0, (height, width)))
        self.clock.lap("composite")
        report = _report(self.restorer, options, self.detector, runtime)
        report.faces = [self.chosen.report(self.number, index, face) for index, face in enumerate(self.found)]
        report.seconds = self.clock.laps
        notes = self.notes
        if options.people and self.chosen.likeness and not crops and not self.chosen.drift:
            nearest = max(self.chosen.likeness.values())
            notes = [*notes, f"Nobody here is to be restored; the likeness of the nearest is {nearest:.3f}"]
        if notes:
            # In this report alone: the run's notes are shared by all pictures of a batch.
            report.notes = [*runtime.notes, *notes]
        return Restored(image, mask, crops, results, report)


def _restore(photos: Sequence[_Photo], restorer: Restorer, options: RestoreOptions, runtime: Runtime, done: int) -> int:
    """Restore the faces of pictures together, and return how many there were."""
    counts = [len(photo.chosen.crops) for photo in photos]
    if not sum(counts):
        return 0
    crops = [crop for photo in photos for crop in photo.chosen.crops.values()]
    names = {name for photo in photos for name in photo.inputs}
    inputs = {name: torch.cat([photo.inputs[name] for photo in photos if photo.inputs]) for name in names}
    batch = FaceBatch(
        torch.stack([crop.image for crop in crops]),
        [seed for photo in photos for seed in photo.seeds()],
        options.settings,
        inputs,
        options.colours,
        options.strength,
        options.drift_limit,
    )
    start = time.perf_counter()
    results = restore_crops(batch, restorer, runtime.scaled(done, done + len(crops)))
    each = (time.perf_counter() - start) / len(crops)
    at = 0
    for photo, count in zip(photos, counts, strict=True):
        here = slice(at, at + count)
        photo.take(results.faces[here], results.drift[here], results.reasons[here], each)
        at += count
    return len(crops)


def _blend_whole(frame: Tensor, crop: FaceCrop, face: Tensor, strength: float, worth: float) -> tuple[Tensor, Tensor]:
    """Blend a restored face over the whole of an aligned picture, at the picture's own size."""
    size = frame.shape[-1]
    if face.shape[-1] != size:
        kept = share_kept(worth, crop.scale)
        face = face - kept * crop.image if kept else face
        face = torch.nn.functional.interpolate(face[None], (size, size), mode="bicubic", antialias=True)[0]
        face = (face.add_(frame, alpha=kept) if kept else face).clamp_(0, 1)
    mask = torch.full(frame.shape[-2:], strength)
    return (torch.lerp(frame, face, strength) if strength else frame.clone()), mask
