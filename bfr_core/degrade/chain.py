"""The common degradation chain: blur, shrink, noise, JPEG, enlarge, colour.

Source: the GFPGAN family's data pipeline. In order: filter with a normalised bivariate Gaussian (reflect-101
border), bilinear resize without antialias to int(side // s), colour Gaussian noise clipped but not rounded, JPEG
4:2:0 at integer quality, bilinear resize back, colour changes, rounding to 8 bit.

Everything random is drawn first, into `DegradeParams`, from one seed per picture: the result depends neither on
the batch nor on the order of the pictures.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np

from ..errors import InputMediaError, SettingsError
from .presets import DegradePreset


@dataclass(frozen=True, slots=True)
class DegradeParams:
    """One drawn degradation, reproducible from these numbers alone."""

    kernel: int
    sigma_x: float
    sigma_y: float
    theta: float
    """Rotation of the blur kernel, radians."""
    downscale: float
    noise_sigma: float
    """8-bit levels."""
    noise_seed: int
    jpeg_quality: int
    """0 leaves JPEG out."""
    colour_shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Added to R, G, B, in 8-bit levels."""
    jitter: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 0.0)
    """Factors of brightness, contrast and saturation; hue shift in turns."""
    gray: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters as plain JSON types."""
        return asdict(self)


def draw(preset: DegradePreset, seed: int) -> DegradeParams:
    """Draw one degradation from `preset`; the same seed gives the same numbers on every machine."""
    rng = np.random.Generator(np.random.PCG64(seed))
    sigma_x, sigma_y = rng.uniform(*preset.blur_sigma, size=2)
    theta = rng.uniform(-math.pi, math.pi)
    if rng.random() < preset.isotropic_prob:
        sigma_y, theta = sigma_x, 0.0
    kernel = int(preset.kernel[rng.integers(len(preset.kernel))])
    downscale = float(rng.uniform(*preset.downscale))
    noise_sigma = float(rng.uniform(*preset.noise_sigma))
    noise_seed = int(rng.integers(2**31))
    quality = int(rng.integers(preset.jpeg_quality[0], preset.jpeg_quality[1] + 1))
    # Drawn whether used or not, so that a preset with its colour part off gives the same blur, noise and JPEG.
    shift_draw, jitter_draw, gray_draw = rng.random(3)
    shift = rng.uniform(-preset.colour_shift, preset.colour_shift, size=3)
    jitter = (*rng.uniform(0.5, 1.5, size=2), rng.uniform(0.0, 1.5), rng.uniform(-0.1, 0.1))
    return DegradeParams(
        kernel=kernel,
        sigma_x=float(sigma_x),
        sigma_y=float(sigma_y),
        theta=float(theta),
        downscale=downscale,
        noise_sigma=noise_sigma,
        noise_seed=noise_seed,
        jpeg_quality=quality,
        colour_shift=tuple(map(float, shift)) if shift_draw < preset.colour_shift_prob else (0.0, 0.0, 0.0),  # type: ignore[arg-type]
        jitter=tuple(map(float, jitter)) if jitter_draw < preset.colour_jitter_prob else (1.0, 1.0, 1.0, 0.0),  # type: ignore[arg-type]
        gray=bool(gray_draw < preset.gray_prob),
    )


def fixed(downscale: float, *, noise_sigma: float = 0.0, jpeg_quality: int = 0, noise_seed: int = 0) -> DegradeParams:
    """Return a degradation of one known severity: antialiasing blur, shrink, noise, JPEG.

    The blur of half a low-resolution pixel stands for the lens; without it the bilinear shrink would alias.
    """
    if not downscale >= 1:
        raise SettingsError(
            "Cannot build a fixed degradation",
            found=f"downscale is {downscale}, expected at least 1",
            kept="Nothing was changed",
            todo="Give 1, 4, 8, 16 or another factor above 1",
        )
    sigma = 0.5 * downscale if downscale > 1 else 0.0
    kernel = 2 * math.ceil(3 * sigma) + 1
    return DegradeParams(kernel, sigma, sigma, 0.0, downscale, noise_sigma, noise_seed, jpeg_quality)


def gaussian_kernel(size: int, sigma_x: float, sigma_y: float, theta: float) -> np.ndarray:
    """Return a normalised bivariate Gaussian, (size, size) float32, rotated by `theta` radians."""
    axis = np.arange(size, dtype=np.float64) - (size - 1) / 2
    x, y = np.meshgrid(axis, axis)
    c, s = math.cos(theta), math.sin(theta)
    u, v = c * x + s * y, -s * x + c * y
    kernel = np.exp(-0.5 * ((u / sigma_x) ** 2 + (v / sigma_y) ** 2))
    return (kernel / kernel.sum()).astype(np.float32)


def degrade(image: np.ndarray, params: DegradeParams) -> np.ndarray:
    """Degrade one picture.

    Shapes: image (H, W, 3) uint8 RGB; returns the same shape and type.

    Raises:
        InputMediaError: the picture has another shape or type.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise InputMediaError(
            "Cannot degrade this picture",
            found=f"found shape {image.shape} of {image.dtype}, expected (H, W, 3) of uint8",
            kept="The picture is unchanged",
            todo="Convert it to 8-bit RGB first",
        )
    height, width = image.shape[:2]
    out = image.astype(np.float32) / 255.0
    if params.sigma_x > 0 and params.sigma_y > 0 and params.kernel > 1:
        kernel = gaussian_kernel(params.kernel, params.sigma_x, params.sigma_y, params.theta)
        out = cv2.filter2D(out, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
    small = (max(int(width // params.downscale), 1), max(int(height // params.downscale), 1))
    out = cv2.resize(out, small, interpolation=cv2.INTER_LINEAR)
    if params.noise_sigma > 0:
        rng = np.random.Generator(np.random.PCG64(params.noise_seed))
        out = out + rng.standard_normal(out.shape, dtype=np.float32) * np.float32(params.noise_sigma / 255.0)
    out = np.clip(out, 0.0, 1.0)
    if params.jpeg_quality > 0:
        out = _jpeg(out, params.jpeg_quality)
    out = cv2.resize(out, (width, height), interpolation=cv2.INTER_LINEAR)
    out = _colour(out, params)
    return np.round(np.clip(out, 0.0, 1.0) * 255.0).astype(np.uint8)


def _jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    # OpenCV's codec takes BGR; handing it RGB would put red into the blue-difference plane and halve the wrong one.
    bgr = np.round(image[..., ::-1] * 255.0).astype(np.uint8)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    assert done, "libjpeg refused an 8-bit picture"
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].astype(np.float32) / 255.0


def _colour(image: np.ndarray, params: DegradeParams) -> np.ndarray:
    if any(params.colour_shift):
        image = np.clip(image + np.asarray(params.colour_shift, np.float32) / 255.0, 0.0, 1.0)
    brightness, contrast, saturation, hue = params.jitter
    if params.jitter != (1.0, 1.0, 1.0, 0.0):
        image = np.clip(image * np.float32(brightness), 0.0, 1.0)
        mean = np.float32(_luma(image).mean())
        image = np.clip((image - mean) * np.float32(contrast) + mean, 0.0, 1.0)
        luma = _luma(image)[..., None]
        image = np.clip((image - luma) * np.float32(saturation) + luma, 0.0, 1.0)
        hsv = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0] + 360.0 * hue) % 360.0
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if params.gray:
        image = np.repeat(_luma(image)[..., None], 3, axis=2)
    return image


def _luma(image: np.ndarray) -> np.ndarray:
    return image @ np.array([0.299, 0.587, 0.114], np.float32)
