"""Read a TIFF: its first page, of 8 or 16 bits or float."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from .. import metadata
from .picture import FULL_SCALE, Picture
from .pixels import decode_deep, from_pillow, upright
from .refuse import require_size, unreadable
from .tiff_beside import read_beside


def read_tiff(path: Path, data: bytes) -> Picture:
    """Read a TIFF or BigTIFF, upright."""
    tags = metadata.read_directory(data)
    width, height, samples = tags[256], tags[257], tags.get(277, 1)
    require_size(path, width, height)
    # Both decoders turn a TIFF upright, each in its own versions; patched to 1, it is turned here, once.
    turned, orientation = metadata.set_upright(data)
    depth = max(tags.get(258, (1,)))
    if depth <= 8:
        with Image.open(io.BytesIO(turned), formats=["TIFF"]) as image:
            picture = from_pillow(path, image, "tiff")
    else:
        picture = _read_deep_tiff(path, turned, tags)
    notes = list(picture.notes)
    colours = {0: 1, 1: 1, 3: 1, 5: 4}.get(tags.get(262), 3)
    if (spare := samples - colours - (picture.alpha is not None)) > 0:
        notes.append(f"{spare} extra channel(s) are not kept")
    if 37724 in tags:
        notes.append("Photoshop layers are not kept")
    beside, more = read_beside(tags, orientation)
    if (pages := metadata.count_pages(data)) > 1:
        notes.append(f"first page of {pages} used")
    exif, _, damage = metadata.kept_exif(metadata.to_block(metadata.describing_tags(data)))
    return upright(replace(picture, exif=exif, beside=beside, notes=(*notes, *more, *damage)), orientation)


def _read_deep_tiff(path: Path, data: bytes, tags: ImageFileDirectory_v2) -> Picture:
    """Read a TIFF of 16-bit or float channels."""
    bits, samples, photometric = set(tags.get(258, (1,))), tags.get(277, 1), tags.get(262, 1)
    form = set(tags.get(339, (1,)))
    dtype = np.uint16 if (bits, form) == ({16}, {1}) else np.float32 if (bits, form) == ({32}, {3}) else None
    # OpenCV returns wrong pixels and no error for planes stored one after the other, so they are refused by name.
    planar = samples > 1 and tags.get(284, 1) != 1
    known = (samples == 1 and photometric in (0, 1)) or (samples in (3, 4) and photometric == 2)
    if dtype is None or planar or not known:
        form_names = {1: "unsigned", 2: "signed", 3: "float"}
        kinds = "/".join(form_names.get(value, str(value)) for value in sorted(form))
        found = f"{samples} channel(s) of {'/'.join(map(str, sorted(bits)))} bit {kinds}, photometric {photometric}"
        found += ", stored as planes" if planar else ""
        found = (
            f"its pixels are {found}; expected gray, RGB or RGBA of 8 or 16 bit unsigned or 32 bit float, interleaved"
        )
        raise unreadable(path, found, "Save it as 16-bit RGB or RGBA")
    rgb, alpha = decode_deep(data, (tags[257], tags[256]), dtype)
    notes: list[str] = []
    extra = tags.get(338, (2,))[0]
    if photometric == 0:
        rgb = (FULL_SCALE[str(rgb.dtype)] - rgb).astype(dtype)
    if alpha is not None and extra == 0:
        alpha = None
    elif alpha is not None and extra == 1:
        # Alpha is stored unmultiplied everywhere else; where it is 0 the colour is gone and stays as it is.
        scale = FULL_SCALE[str(rgb.dtype)]
        plain = rgb.astype(np.float64) * scale / np.maximum(alpha, np.finfo(np.float32).tiny)[..., None]
        plain = np.rint(plain).clip(0, scale) if scale > 1 else plain
        rgb = np.where((alpha > 0)[..., None], plain, rgb).astype(dtype)
        notes.append("premultiplied alpha turned into plain alpha")
    icc, more = metadata.fitting_profile(tags.get(metadata.ICC_PROFILE), gray=samples == 1)
    return Picture(rgb, alpha, icc, None, samples == 1, "tiff", (*notes, *more))
