"""Degrade a portrait that a dependency ships, restore it, and show both beside the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from .degrade.chain import degrade, draw
from .degrade.presets import get_preset
from .errors import InputMediaError
from .faces.align import sample
from .faces.detect import load_detector
from .media.pictures import Picture, write_picture
from .media.sheets import caption, row, stack, to_bytes
from .metrics.fidelity import laplacian_variance, psnr
from .registry import default_method
from .restoration.photo import restore_photo
from .restorer import load_restorer
from .runtime import Runtime, pick_device


def portrait() -> np.ndarray:
    """Return NASA's portrait of Eileen Collins, (512, 512, 3) uint8, from scikit-image (public domain).

    Raises:
        InputMediaError: scikit-image is not installed.
    """
    try:
        from skimage.data import astronaut
    except ImportError as error:
        raise InputMediaError(
            "No portrait for the demo",
            found="scikit-image, which ships one, is not installed",
            kept="Nothing was written",
            todo='Run pip install "bfr-faces[demo]"',
        ) from error
    return np.ascontiguousarray(astronaut())


def run(out: Path, *, seed: int = 2, device: str = "auto") -> str:
    """Write before | after | truth with the figures under it, and return the figures.

    The portrait is enlarged to 2 x before it is degraded, so that the face has the size the degradations are meant
    for.

    Raises:
        InputMediaError: scikit-image is not installed, or no face was found in the degraded portrait.
        OutputMediaError: `out` cannot be written.
    """
    truth = torch.from_numpy(portrait()).permute(2, 0, 1).float()[None] / 255
    truth = torch.nn.functional.interpolate(truth, scale_factor=2.0, mode="bicubic", antialias=True).clamp(0, 1)[0]
    params = draw(get_preset("gfpgan").without_colour(), seed)
    low = torch.from_numpy(degrade(to_bytes(truth), params)).permute(2, 0, 1).float() / 255
    restorer = load_restorer(default_method().id)
    runtime = Runtime(device=pick_device(device))
    result = restore_photo(low, restorer, load_detector(device=runtime.device), runtime=runtime)
    if not result.crops:
        raise InputMediaError(
            "The demo found no face",
            found=f"none in the degraded portrait (seed {seed}); expected one",
            kept="Nothing was written",
            todo="Try another --seed; if none works, run `bfr models verify`",
        )
    clean = sample(truth, result.crops[0].matrix, restorer.size)
    faces = torch.stack([result.crops[0].image, result.faces[0], clean])
    scores = psnr(faces[:2], clean.expand(2, -1, -1, -1)).tolist()
    sharp = laplacian_variance(faces).tolist()
    lines = [
        f"blur {params.sigma_x:.1f} px, shrunk {params.downscale:.1f} x, noise {params.noise_sigma:.0f}/255, "
        f"JPEG {params.jpeg_quality}",
        f"PSNR of the face: {scores[0]:.2f} dB before, {scores[1]:.2f} dB after",
        f"sharpness (Laplacian variance): {sharp[0]:.1f} before, {sharp[1]:.1f} after, {sharp[2]:.1f} truth",
    ]
    pictures = [row([to_bytes(image) for image in (low, result.image, truth)], 480)]
    pictures.append(row([to_bytes(face) for face in faces], 480))
    sheet = stack(pictures)
    sheet = np.concatenate([caption(["before | after | truth"], sheet.shape[1]), sheet, caption(lines, sheet.shape[1])])
    write_picture(out, Picture(sheet))
    return "\n".join([*lines, f"before | after | truth is in {out}"])
