"""The prompts of image generators, which stand in a PNG's text and in the EXIF block of other formats.

Where to: AUTOMATIC1111's web UI reads its parameters from EXIF's UserComment, ComfyUI's page its graph from text in
the tags of camera maker and model.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from PIL import Image

from .beside import Chunk

_USER_COMMENT, _EXIF_DIRECTORY = 0x9286, 0x8769
_GRAPHS = {"prompt": 0x0110, "workflow": 0x010F}


def as_exif(texts: Sequence[Chunk], limit: int | None) -> tuple[bytes | None, set[str]]:
    """Return an EXIF block of what of a PNG's text an image generator wrote, and the keys of that.

    Args:
        texts: text chunks.
        limit: most bytes of the block; None for any number. Graphs are left out first.
    """
    read = dict(filter(None, map(_read, texts)))
    for names in (("parameters", "prompt", "workflow"), ("parameters", "prompt"), ("parameters",)):
        chosen = {name: read[name] for name in names if name in read}
        exif = Image.Exif()
        for name, text in chosen.items():
            if name == "parameters":
                exif.get_ifd(_EXIF_DIRECTORY)[_USER_COMMENT] = b"UNICODE\0" + text.encode("utf-16-be")
            else:
                exif[_GRAPHS[name]] = f"{name}:{text}"
        block = exif.tobytes().removeprefix(b"Exif\0\0")
        if chosen and (limit is None or len(block) <= limit):
            return block, set(chosen)
    return None, set()


def _read(chunk: Chunk) -> tuple[str, str] | None:
    """Return key and text; None where the chunk is damaged."""
    key, _, rest = chunk.body.partition(b"\0")
    try:
        if chunk.name == b"tEXt":
            text = rest.decode("latin-1")
        elif chunk.name == b"zTXt":
            text = zlib.decompress(rest[1:]).decode("latin-1")
        else:
            text_bytes = rest[2:].split(b"\0", 2)[2]
            text = (zlib.decompress(text_bytes) if rest[0] else text_bytes).decode("utf-8")
    except (IndexError, UnicodeDecodeError, zlib.error):
        return None
    return key.decode("latin-1"), text
