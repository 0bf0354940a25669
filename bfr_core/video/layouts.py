"""Which pixel format of an encoder keeps most of a clip's."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import SettingsError
from .types import VideoInfo

_VP9_DEEP = ("yuv420p10le", "yuv422p10le", "yuv444p10le", "yuv420p12le", "yuv422p12le", "yuv444p12le")
"""Not in the list that libvpx gives before it is opened; the trial tells whether it was built with them."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What a pixel format can tell apart."""

    rgb: bool
    gray: bool
    alpha: bool
    depth: int
    across: int
    """Columns of pixels that share a chroma sample."""
    down: int


def traits(name: str) -> Traits:
    """Return what a pixel format can tell apart, by its name."""
    import av

    shape = av.VideoFormat(name, 64, 64)
    parts = shape.components
    colour = [part for part in parts if not part.is_alpha]
    chroma = [part for part in parts if part.is_chroma]
    return Traits(
        shape.is_rgb,
        len(colour) == 1,
        len(parts) > len(colour),
        max(part.bits for part in colour),
        64 // min((part.width for part in chroma), default=64),
        64 // min((part.height for part in chroma), default=64),
    )


def _losses(have: Traits, get: Traits) -> list[tuple[int, str]]:
    """Return what a conversion takes away, each with its weight."""
    lost: list[tuple[int, str]] = []
    if have.rgb != get.rgb and not have.gray:
        lost.append((400, "colours are converted between RGB and YCbCr"))
    if get.gray and not have.gray:
        lost.append((10000, "colour is dropped"))
    if get.depth < have.depth:
        lost.append((100 * (have.depth - get.depth), f"{have.depth} bits a colour become {get.depth}"))
    if not have.gray and (get.across > have.across or get.down > have.down):
        lost.append((300, "the resolution of colour is lowered"))
    if have.alpha and not get.alpha:
        lost.append((5000, "transparency is dropped"))
    return lost


def _keeps_alpha(info: VideoInfo, encoder: str, name: str, dropped: bool) -> bool:
    """Tell whether a pixel format with transparency is one to consider."""
    if encoder == "libx265" or (encoder == "libvpx-vp9" and name != "yuva420p"):
        return False  # FFmpeg lists them, and opens them as experiments, or where x265 was built for it
    return not dropped and (info.alpha or (encoder == "ffv1" and name == info.pix_fmt))


def choose_format(info: VideoInfo, encoder: str, asked: str, notes: list[str], *, dropped: bool) -> str:
    """Return the pixel format that loses least of the clip's and adds least to it.

    Args:
        info: the clip.
        encoder: FFmpeg's name.
        asked: name of a pixel format, or 'auto'.
        notes: takes what a person should know of it.
        dropped: transparency is to be left out.

    Raises:
        SettingsError: the encoder does not take the one that is asked for.
    """
    import av.codec

    source = info.pix_fmt
    offered = [shape.name for shape in av.codec.Codec(encoder, "w").video_formats or ()]
    if encoder == "libvpx-vp9":
        offered += [name for name in _VP9_DEEP if name not in offered]
    offered = [name for name in offered if not traits(name).alpha or _keeps_alpha(info, encoder, name, dropped)]
    # What is opaque throughout is no transparency.
    have = replace(traits(source), alpha=info.alpha and not dropped)
    fits: list[tuple[int, int, str]] = []
    odd = [word for word, size in (("width", info.width), ("height", info.height)) if size % 2]
    refused_odd = False
    for place, name in enumerate(offered):
        get = traits(name)
        odd_one = name.startswith(("nv", "p0", "p2", "p4")) or get.across > 2 or get.down > 2
        if odd_one and name != source:
            continue
        halved = (get.across > 1 and info.width % 2) or (get.down > 1 and info.height % (4 if info.fields else 2))
        if halved and encoder in ("libx264", "libx265"):
            refused_odd |= name == source
            continue
        gained = (
            (get.depth - have.depth if get.depth > have.depth else 0)
            + 2 * (get.across < have.across) + 2 * (get.down < have.down)
            + 8 * (get.alpha and not have.alpha) + 3 * (have.gray and not get.gray)
            + (name.startswith("yuvj") != source.startswith("yuvj"))
        )  # fmt: skip
        weight = sum(weight for weight, _ in _losses(have, get))
        fits.append((0 if name == source else 10 * weight + gained + 1, place, name))
    if asked != "auto" and asked not in [name for *_, name in fits]:
        found = f"found '{asked}', expected auto or one of {', '.join(sorted(name for *_, name in fits))}"
        raise SettingsError(
            f"Cannot use this pixel format with {encoder}",
            found=found,
            kept="Nothing was started and no file was changed",
            todo="Use one of these",
        )
    chosen = min(fits)[2] if asked == "auto" else asked
    if refused_odd and asked == "auto":
        what = f"its {' and '.join(odd)} is odd" if odd else f"its {info.height} lines cannot be halved in each field"
        notes.append(f"{what}, so it is encoded as {chosen}, which some players cannot show")
    lost = _losses(have, traits(chosen))
    if info.alpha and dropped and not traits(chosen).alpha:
        notes.append("transparency is dropped, as asked")
    if lost:
        notes.append(f"{source} becomes {chosen}: {', '.join(text for _, text in lost)}")
    elif chosen.replace("yuvj", "yuv") != source.replace("yuvj", "yuv") and not refused_odd:
        get = traits(chosen)
        finer = get.across < have.across or get.down < have.down
        held = "in which colour has more samples" if finer else "which holds all of it"
        notes.append(f"{source} becomes {chosen}, {held}")
    return chosen
