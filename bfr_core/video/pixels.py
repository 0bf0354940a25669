"""Between a decoder's samples and the RGB of restorers, both ways, so that what nobody changed keeps every bit.

Conversions are written out here and not left to swscale, because PyAV can tell it neither where chroma is sited nor
to keep fractions, and its rounding differs between FFmpeg's versions. Y'CbCr follows ITU-T H.273; chroma is sited on
the left column and between the rows, as H.264 and MPEG-2 have it unless they say otherwise, which PyAV hides.
"""

from __future__ import annotations

import re
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from ..errors import SettingsError
from ..media.luma import RED_AND_BLUE, assumed_matrix
from .hdr import to_code, to_display
from .types import VideoInfo

REFUSED = {
    3: "a reserved matrix",
    8: "YCgCo",
    11: "Y'D'zD'x",
    12: "chromaticity-derived Y'CbCr",
    13: "chromaticity-derived Y'CbCr of constant luminance",
    14: "ICtCp",
    15: "IPT-C2",
    16: "YCgCo-Re",
    17: "YCgCo-Ro",
}
"""Kinds of colour that are not read, by AVCOL_SPC."""

_PLANAR = re.compile(r"(?:yuvj?4(?:44|22|20|11|10|40)p|yuva4(?:44|22|20)p|gbra?p|gray)(?:(?:9|1[0246])le)?")
_SUBSAMPLING = {"444": (1, 1), "422": (2, 1), "420": (2, 2), "411": (4, 1), "410": (4, 4), "440": (1, 2)}
_SMALL = 4000
"""Pixels of a thumbnail."""

_OTHERS = {
    "nv12": "yuv420p", "nv21": "yuv420p", "nv16": "yuv422p", "nv24": "yuv444p", "nv42": "yuv444p",
    "yuyv422": "yuv422p", "uyvy422": "yuv422p", "yvyu422": "yuv422p", "uyyvyy411": "yuv411p",
    "nv20le": "yuv422p10le", "p010le": "yuv420p10le", "p012le": "yuv420p12le", "p016le": "yuv420p16le",
    "p210le": "yuv422p10le", "p212le": "yuv422p12le", "p216le": "yuv422p16le",
    "p410le": "yuv444p10le", "p412le": "yuv444p12le", "p416le": "yuv444p16le",
    "y210le": "yuv422p10le", "y212le": "yuv422p12le", "xv30le": "yuv444p10le", "xv36le": "yuv444p12le",
    "vuyx": "yuv444p", "vuya": "yuva444p", "ayuv": "yuva444p", "ayuv64le": "yuva444p16le",
    "ya8": "gbrap", "ya16le": "gbrap16le", "monob": "gray", "monow": "gray", "pal8": "gbrap",
    "x2rgb10le": "gbrp10le", "x2bgr10le": "gbrp10le", "rgb48le": "gbrp16le", "bgr48le": "gbrp16le",
    "rgba64le": "gbrap16le", "bgra64le": "gbrap16le",
}  # fmt: skip
"""Packed formats whose samples fit a planar one unchanged."""


def planar_format(name: str) -> str:
    """Return the planar pixel format that holds every sample of `name`, itself where it is one."""
    import av

    little = re.sub(r"be$", "le", name)
    if _PLANAR.fullmatch(little):
        return little
    if little in _OTHERS:
        return _OTHERS[little]
    form = av.VideoFormat(name)
    deep = max(component.bits for component in form.components) > 8
    clear = any(component.is_alpha for component in form.components)
    return f"gbr{'a' if clear else ''}p{'16le' if deep else ''}"


def square_chroma(name: str) -> str:
    """Return the format with chroma in full where that of `name` would not survive a quarter turn."""
    return re.sub(r"4(22|11|40)p", "444p", name)


def depth_of(name: str) -> int:
    """Return the bits of a sample of a planar format."""
    digits = re.search(r"(\d+)le$", name)
    return int(digits[1]) if digits else 8


def has_alpha(name: str) -> bool:
    """Return whether a planar format has transparency."""
    return name.startswith(("yuva", "gbrap"))


class Pixels:
    """The samples of one clip's frames as RGB, and changes of RGB as samples.

    Args:
        info: of the clip; its `pix_fmt` must be planar, as `Reader` gives frames.

    Attributes:
        notes: what is assumed where the clip does not tell; `probe` puts it into those of the clip.
        cell: columns and rows of pixels that share a chroma sample.

    `rgb` and `small` may be called from any thread, `write` and `copy` from one at a time.

    Raises:
        SettingsError: the pixel format is none that `Reader` gives.
    """

    def __init__(self, info: VideoInfo) -> None:
        if not _PLANAR.fullmatch(info.pix_fmt):
            raise SettingsError(
                "Cannot turn frames into RGB",
                found=f"their pixel format is {info.pix_fmt}; expected a planar one",
                kept="Nothing was started",
                todo="Take the frames of bfr_core.video.reader.Reader",
            )
        self.info = info
        self.notes: list[str] = []
        self._rgb = info.pix_fmt.startswith("gbr")
        self._gray = info.pix_fmt.startswith("gray")
        found = re.match(r"yuv[aj]?(\d{3})", info.pix_fmt)
        self.cell = _SUBSAMPLING[found[1]] if found else (1, 1)
        self._deep = info.depth > 8
        self._top = (1 << info.depth) - 1
        step = 1 << (info.depth - 8)
        full = info.full_range or self._rgb
        self._black, self._span, self._chroma_span = (
            (0, self._top, self._top) if full else (16 * step, 219 * step, 224 * step)
        )
        self._middle = 1 << (info.depth - 1)
        matrix = info.matrix
        if matrix not in RED_AND_BLUE and not self._rgb:
            matrix = assumed_matrix(info.height)
            if not self._gray:
                self.notes.append(f"Its colour matrix is not given; BT.{709 if matrix == 1 else 601} is assumed.")
        self._red, self._blue = RED_AND_BLUE.get(matrix, RED_AND_BLUE[1])
        self._green = 1 - self._red - self._blue
        self._wide = info.primaries == 9
        self._copier: Filter | None = None

    # --- to RGB ------------------------------------------------------------------------------------------------

    def rgb(self, picture: Any) -> Tensor:
        """Return (3, H, W) float32 display RGB in [0, 1] of a frame; of HDR clips as `hdr.to_display` says."""
        planes = self.planes(picture)
        rgb = np.empty((3, picture.height, picture.width), np.float32)
        if self._rgb:
            for plane, row in zip(planes[:3], (1, 2, 0), strict=True):
                np.multiply(plane, np.float32(1 / self._top), out=rgb[row])
        else:
            luma = planes[0].astype(np.float32)
            luma -= self._black
            luma /= self._span
            if self._gray:
                rgb[:] = luma
            else:
                self._colour(planes[1], planes[2], rgb)
                rgb += luma
        shown = torch.from_numpy(rgb).clamp_(0, 1)
        return to_display(shown, self.info.transfer, wide=self._wide).clamp_(0, 1) if self.info.hdr else shown

    def _colour(self, blue: np.ndarray, red: np.ndarray, rgb: np.ndarray) -> None:
        """Fill `rgb` with what chroma adds to luma (ITU-T H.273, 38 to 40 solved for R'G'B'), mixed while small."""
        cb = blue.astype(np.float32)
        cb -= self._middle
        cb *= 2 * (1 - self._blue) / self._chroma_span
        cr = red.astype(np.float32)
        cr -= self._middle
        cr *= 2 * (1 - self._red) / self._chroma_span
        cg = cb * (-self._blue / self._green) + cr * (-self._red / self._green)
        columns, rows = self.cell
        # From a pixel to its place among the chroma samples: on the left column of a cell, amid its rows.
        place = np.array([[1 / columns, 0, 0], [0, 1 / rows, 0.5 / rows - 0.5]])
        for part, plane in zip((cr, cg, cb), rgb, strict=True):
            if self.cell == (1, 1):
                plane[:] = part
            else:
                cv2.warpAffine(
                    part,
                    place,
                    (plane.shape[1], plane.shape[0]),
                    dst=plane,
                    flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                    borderMode=cv2.BORDER_REPLICATE,
                )

    def small(self, picture: Any) -> np.ndarray:
        """Return a thumbnail of the luma, of green in RGB clips: (h, w) uint8 with h * w of about 4,000."""
        plane = self.planes(picture, 1)[0]
        height, width = plane.shape
        # A whole factor is several times as fast as any other.
        factor = max(1, min(height, width, round((height * width / _SMALL) ** 0.5)))
        size = width // factor, height // factor
        shrunk: Any = cv2.resize(plane[: size[1] * factor, : size[0] * factor], size, interpolation=cv2.INTER_AREA)
        return (shrunk >> (self.info.depth - 8)).astype(np.uint8) if self._deep else shrunk

    # --- and back ----------------------------------------------------------------------------------------------

    def write(self, picture: Any, before: Tensor, after: Tensor, box: tuple[int, int, int, int]) -> Any:
        """Return a new frame that differs from `picture` as `after` differs from `before` inside `box`.

        The difference goes through the clip's matrix, range and depth and is added to the stored samples, so where
        there is none no bit changes. A chroma sample takes the mean over the pixels that it colours, and changes
        where one of them does. Transparency, time stamp, colour tags and side data are those of `picture`.

        Args:
            picture: frame of the clip, as `Reader` gives it; it is left as it is.
            before: (3, H, W) display RGB in [0, 1], from `rgb`.
            after: the same size.
            box: left, top, right, bottom in pixels, clipped to the frame.
        """
        result = self.copy(picture)
        height, width = picture.height, picture.width
        for name, given in (("before", before), ("after", after)):
            if tuple(given.shape) != (3, height, width):
                raise SettingsError(
                    "Cannot write RGB into a frame",
                    found=f"`{name}` has the shape {tuple(given.shape)}; expected {(3, height, width)}",
                    kept="The frame is untouched",
                    todo="Give RGB of the whole frame",
                )
        left, top = max(0, int(box[0])), max(0, int(box[1]))
        right, bottom = min(width, int(box[2])), min(height, int(box[3]))
        if left >= right or top >= bottom:
            return result
        old, new = (given[:, top:bottom, left:right].detach().to("cpu", torch.float32) for given in (before, after))
        if self.info.hdr:
            changed = (new != old).any(0)
            old, new = (to_code(part.double(), self.info.transfer, wide=self._wide) for part in (old, new))
            delta = torch.where(changed, new - old, 0.0).float().numpy()
        else:
            delta = (new - old).numpy()
        planes = self.planes(result, 3)
        red, green, blue = delta
        if self._rgb:
            for plane, change in zip(planes, (green, blue, red), strict=True):
                self._add(plane[top:bottom, left:right], change * self._top)
            return result
        luma = self._red * red + self._green * green + self._blue * blue
        self._add(planes[0][top:bottom, left:right], luma * self._span)
        if not self._gray:
            place = (left, top, right, bottom)
            for plane, part, share in ((planes[1], blue, self._blue), (planes[2], red, self._red)):
                change, (x0, y0) = _shrink((part - luma) * (self._chroma_span / (2 * (1 - share))), place, plane.shape,
                                           (height, width), self.cell)  # fmt: skip
                self._add(plane[y0 : y0 + change.shape[0], x0 : x0 + change.shape[1]], change)
        return result

    def _add(self, samples: np.ndarray, change: np.ndarray) -> None:
        """Add a change to samples in place."""
        samples[...] = np.clip(samples.astype(np.int32) + np.rint(change).astype(np.int32), 0, self._top)

    def planes(self, picture: Any, count: int | None = None) -> list[np.ndarray]:
        """Return planes as arrays over their own memory: (h, w) uint8, or uint16 where samples are deeper."""
        views = []
        for plane in picture.planes[:count]:
            kind = np.dtype("<u2") if self._deep else np.dtype(np.uint8)
            lines = np.frombuffer(plane, kind)[: plane.height * plane.line_size // kind.itemsize]
            views.append(lines.reshape(plane.height, -1)[:, : plane.width])
        return views

    def span(self, number: int) -> tuple[float, float]:
        """Return what a plane's samples are meant to lie between: black and white, or the two ends of chroma."""
        if self._rgb or number == 3:
            return 0, self._top
        if number:
            return self._middle - self._chroma_span / 2, self._middle + self._chroma_span / 2
        return self._black, self._black + self._span

    def copy(self, picture: Any) -> Any:
        """Return a copy of a frame with memory of its own; a filter is the one way of PyAV that keeps side data."""
        if self._copier is None:
            self._copier = Filter(picture, ("copy", ""), time_base=self.info.time_base)
        return self._copier(picture)


class Filter:
    """A chain of FFmpeg's filters that takes and gives one frame at a time.

    Args:
        picture: a frame of the size and format of all that will be given.
        filters: name and arguments of each.
        time_base: of their time stamps.
    """

    def __init__(self, picture: Any, *filters: tuple[str, str], time_base: Any) -> None:
        from av.filter import Graph

        self._graph: Any = Graph()
        last: Any = self._graph.add_buffer(
            width=picture.width, height=picture.height, format=picture.format, time_base=time_base
        )
        for name, arguments in (*filters, ("buffersink", "")):
            following = self._graph.add(name, arguments) if arguments else self._graph.add(name)
            last.link_to(following)
            last = following
        self._graph.configure()

    def __call__(self, picture: Any) -> Any:
        """Return what becomes of a frame."""
        self._graph.push(picture)
        return self._graph.pull()


def _shrink(
    change: np.ndarray,
    box: tuple[int, int, int, int],
    plane: tuple[int, ...],
    frame: tuple[int, int],
    cell: tuple[int, int],
) -> tuple[np.ndarray, tuple[int, int]]:
    """Average a change in `box` over what each chroma sample colours.

    A sample is the mean of the rows of its cell, and along a row of the pixels that `Pixels.rgb` gives a share of
    it, with those shares. Beyond the frame its last pixels go on; beyond the box nothing changes.

    Returns:
        The change of the chroma samples that the box touches, and the place of the first in `plane`.
    """
    columns, rows = cell
    left, top, right, bottom = box
    height, width = frame
    x0, x1 = left // columns, min(plane[1], (right + columns - 2) // columns + 1)
    y0, y1 = top // rows, min(plane[0], -(-bottom // rows))
    reach = columns - 1
    pads = (
        (top - y0 * rows, y1 * rows - bottom),
        (left - (x0 * columns - reach), (x1 - 1) * columns + reach + 1 - right),
    )
    beyond = (
        (0, max(0, y1 * rows - height)),
        (max(0, reach - x0 * columns), max(0, (x1 - 1) * columns + reach + 1 - width)),
    )
    unchanged = tuple(
        tuple(pad - out for pad, out in zip(*pair, strict=True)) for pair in zip(pads, beyond, strict=True)
    )
    crop = np.pad(np.pad(change, unchanged), beyond, mode="edge")
    crop = crop.reshape(y1 - y0, rows, -1).mean(1)
    total = np.zeros((y1 - y0, x1 - x0), np.float32)
    for offset in range(-reach, reach + 1):
        first = offset + reach
        share = (columns - abs(offset)) / columns**2
        total += share * crop[:, first : first + (x1 - x0 - 1) * columns + 1 : columns]
    return total, (x0, y0)
