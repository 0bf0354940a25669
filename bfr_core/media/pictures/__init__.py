"""Read pictures with all they carry, and write them back with nothing lost in silence.

Several decoders share the work, each for what it alone does right. Pillow reads every header, profile and EXIF block,
and all 8-bit pixels: it knows palettes, transparency keys, CMYK and gray with alpha, which OpenCV mixes up. OpenCV
reads 16-bit and float pixels, which Pillow cuts to 8 bit or refuses. Packages that a person may add read HEIC, JPEG XL,
and TIFF of rare compressions.
"""

from .album import Album, Frame, encode_album, open_album, require_album
from .beside import Beside, Coding
from .carried import lost
from .encode import USUAL_QUALITY
from .picture import Picture, enlarged_from_float, from_float, to_float
from .read import decode_picture, read_picture
from .refuse import MAX_FILE_BYTES, MAX_PIXELS
from .write import encode_picture, write_picture

__all__ = [
    "MAX_FILE_BYTES",
    "MAX_PIXELS",
    "USUAL_QUALITY",
    "Album",
    "Beside",
    "Coding",
    "Frame",
    "Picture",
    "decode_picture",
    "encode_album",
    "encode_picture",
    "enlarged_from_float",
    "from_float",
    "lost",
    "open_album",
    "read_picture",
    "require_album",
    "to_float",
    "write_picture",
]
