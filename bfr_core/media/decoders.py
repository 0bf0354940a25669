"""The decoders' process-wide switches, held where this package needs them while it reads."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
from PIL import Image, ImageFile

_DECODERS = threading.Lock()


@contextmanager
def strict_decoders() -> Iterator[None]:
    """Hold the decoders' process-wide switches where this module needs them.

    Other packs in the same process set them: ComfyUI turns LOAD_TRUNCATED_IMAGES on, which paints a cut file gray and
    says nothing. The pixel limit is ours, so that it does not depend on theirs. What Pillow would warn of is either
    noted or an error here.
    """
    with _DECODERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        truncated, limit = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
        level = _set_opencv_log_level(0)
        ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = False, None
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = truncated, limit
            _set_opencv_log_level(level)


def _set_opencv_log_level(level: int) -> int:
    """Set OpenCV's log level, 0 for silence, and return the one before; its home moved with version 5."""
    modern = getattr(cv2.utils, "logging", None)
    return modern.setLogLevel(level) if modern else cv2.setLogLevel(level)  # type: ignore[attr-defined]
