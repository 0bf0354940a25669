"""Read pictures with all they carry, and write them back with nothing lost in silence.

Two decoders share the work, each for what it alone does right. Pillow reads every header, profile and EXIF block,
and all 8-bit pixels: it knows palettes, transparency keys, CMYK and gray with alpha, which OpenCV mixes up. OpenCV
reads 16-bit and float pixels, which Pillow cuts to 8 bit or refuses.
"""

from .beside import Beside, Coding
from .encode import USUAL_QUALITY
from .picture import Picture, enlarged_from_float, from_float, to_float
from .read import decode_picture, read_picture
from .refuse import MAX_FILE_BYTES, MAX_PIXELS
from .write import write_picture

__all__ = [
    "MAX_FILE_BYTES",
    "MAX_PIXELS",
    "USUAL_QUALITY",
    "Beside",
    "Coding",
    "Picture",
    "decode_picture",
    "enlarged_from_float",
    "from_float",
    "read_picture",
    "to_float",
    "write_picture",
]
