"""Make the pictures of templates and help pages: what each workflow does to the example of nobody.

make pictures
"""

from __future__ import annotations

from pathlib import Path

import lay_out
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from bfr_core.compose.mask_algebra import combine_masks, overlay
from bfr_core.examples import degraded, moving, side_by_side
from bfr_core.faces.align import sample
from bfr_core.faces.detect import load_detector
from bfr_core.faces.regions import crop_points, part_masks, select_parts
from bfr_core.media.pictures import read_picture, to_float
from bfr_core.media.sheets import to_bytes
from bfr_core.methods.vspbfr.prompts import preview, style_codes
from bfr_core.restoration.photo import restore_photo, restore_whole
from bfr_core.restorer import load_restorer
from bfr_core.runtime import Runtime

PROJECT = Path(__file__).resolve().parents[2]
LARGE, SHOWN, SMALL = (360, 270), (320, 240), (240, 180)
"""Sizes that pictures are drawn in, that the browser of templates gets, and that help pages get."""
DARK = (24, 25, 28)


def tile(image: Tensor, size: tuple[int, int]) -> Image.Image:
    """Return the middle of a picture (3, H, W), filling a size."""
    picture = Image.fromarray(to_bytes(image))
    scale = max(size[0] / picture.width, size[1] / picture.height)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)
    left, top = (picture.width - size[0]) // 2, (picture.height - size[1]) // 3
    return picture.crop((left, top, left + size[0], top + size[1]))


def grid(images: list[Tensor], columns: int, edge: int = 0) -> Image.Image:
    """Return pictures in rows, which fill a large one."""
    rows = -(-len(images) // columns)
    width, height = LARGE[0] // columns, (LARGE[1] - 2 * edge) // rows
    sheet = Image.new("RGB", LARGE, DARK)
    for index, image in enumerate(images):
        place = (index % columns) * width + 1, edge + (index // columns) * height + 1
        sheet.paste(tile(image, (width - 2, height - 2)), place)
    return sheet


def strip(before: list[Tensor], after: list[Tensor]) -> Image.Image:
    """Return frames of a film, poor ones above good ones, between rows of holes."""
    sheet = grid([*before, *after], len(before), edge=18)
    draw = ImageDraw.Draw(sheet)
    for x in range(8, LARGE[0], 24):
        for y in (5, LARGE[1] - 13):
            draw.rounded_rectangle((x, y, x + 12, y + 8), 2, fill=(225, 225, 220))
    return sheet


def split(before: Tensor, after: Tensor) -> Image.Image:
    """Return one picture, poor to the left of a line and restored to the right."""
    poor, good = tile(before, LARGE), tile(after, LARGE)
    good.paste(poor.crop((0, 0, LARGE[0] // 2, LARGE[1])), (0, 0))
    ImageDraw.Draw(good).line((LARGE[0] // 2, 0, LARGE[0] // 2, LARGE[1]), fill="white", width=3)
    return good


def draw() -> dict[str, Image.Image]:
    """Return the pictures by the names that help pages call them."""
    run = Runtime(device=torch.device("cpu"), batch=1)
    detector = load_detector()
    first, second = (
        to_float(read_picture(PROJECT / "nodes" / "examples" / f"{name}.jpg")) for name in ("first", "second")
    )
    poor = degraded(first[None])[0]
    irn = load_restorer("irn")
    good = restore_photo(poor, irn, detector, runtime=run)
    crop = good.crops[0]

    def face(method: str, **settings: object) -> Tensor:
        return load_restorer(method).restore(crop.image[None], seeds=[0], settings=settings, runtime=run)[0]

    both = side_by_side(first, second)
    pair = degraded(both[None])[0]
    faces = detector.detect(pair[None])[0]
    one = min(faces, key=lambda face: face.box[0])
    chosen = restore_photo(pair, irn, faces=[one], runtime=run).image
    frames = moving(first, 30)[[0, 14, 29]]
    shots = degraded(frames)
    restored = [restore_photo(shot, irn, detector, runtime=run).image for shot in shots]
    methods = ("irn", "vspbfr", "clr_face", "diffuse_restore", "lpip_diff", "pltrans")
    made = [face(method) for method in methods]
    clean = sample(first, crop.matrix, irn.size)
    steered = load_restorer("diffuse_restore")
    assert steered.method.mask is not None
    learnt = steered.method.mask.make(steered, crop.image[None], seeds=[0], runtime=run)
    parts = select_parts(part_masks(crop_points(crop), crop.size), ("eyes", "brows", "mouth", "nose"))
    where = combine_masks(learnt.reshape(1, *learnt.shape[-2:]), parts[None], operation="intersection")
    styles = load_restorer("vspbfr")
    codes = style_codes(styles, crop.image[None], seeds=[0], runtime=run)
    grown = preview(styles, codes.steps[0], runtime=run)
    grown = grown[torch.linspace(0, len(grown) - 1, 4).round().long()]
    return {
        "restore_faces": split(poor, good.image),
        "step_by_step": grid([crop.image, good.faces[0], poor, good.image], 2),
        "guided": grid([overlay(crop.image[None], where, opacity=0.5)[0], made[3]], 2),
        "whole": split(poor, restore_whole(poor, load_restorer("lpip_diff"), runtime=run).image),
        "style": grid([*grown, crop.image, made[1]], 3),
        "person": grid([pair, chosen], 1),
        "video": strip(list(shots), restored),
        "methods": grid(made, 3),
        "measure": grid([crop.image, good.faces[0], clean], 3),
        "example": grid([both], 1),
    }


def main() -> None:
    """Write them: by the title of the workflow that shows them, and by their name for help pages."""
    drawn = draw()
    folder = PROJECT / "web" / "docs" / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in drawn.items():
        picture.resize(SMALL, Image.Resampling.LANCZOS).save(folder / f"{name}.jpg", quality=70, optimize=True)
    for spec in lay_out.specs():
        if spec.get("offered", True):
            picture = drawn[spec["picture"]].resize(SHOWN, Image.Resampling.LANCZOS)
            picture.save(lay_out.target(spec).with_suffix(".jpg"), quality=68, optimize=True)


if __name__ == "__main__":
    main()
