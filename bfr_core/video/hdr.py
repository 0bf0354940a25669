"""Show HDR code values to networks that know SDR pictures only, and bring what they change back.

The way there: PQ (SMPTE ST 2084) or HLG (ARIB STD-B67, as display light of a 1,000 nit screen, ITU-R BT.2100) to
linear light in units of the reference white of 203 nits (ITU-R BT.2408), BT.2020 to BT.709 primaries where the clip
has the former, a shoulder, and the sRGB curve. Every step has an exact inverse, except that colours outside BT.709
are clipped; since only differences are written back, a pixel that no restorer changes keeps its code values.
"""

from __future__ import annotations

import torch
from torch import Tensor

PQ, HLG = 16, 18
"""FFmpeg's AVCOL_TRC."""

_WHITE = 203.0
_KNEE = 0.5
"""Linear light above which the shoulder begins; reference white becomes 0.75 of display light, 0.88 in sRGB."""

_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
_A = 0.17883277
_B, _C = 1 - 4 * _A, 0.55991073
_GAMMA = 1.2
_LUMA = (0.2627, 0.6780, 0.0593)
"""Of BT.2020."""

_TO_709 = torch.tensor(
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]],
    dtype=torch.float64,
)
"""Linear BT.2020 to linear BT.709 (ITU-R BT.2087)."""


def to_display(code: Tensor, transfer: int, *, wide: bool) -> Tensor:
    """Map R'G'B' of an HDR signal to display RGB.

    Args:
        code: (3, H, W) in [0, 1].
        transfer: PQ or HLG.
        wide: the primaries are those of BT.2020.

    Returns:
        (3, H, W) in [0, 1].
    """
    light = _pq_light(code) if transfer == PQ else _hlg_light(code)
    if wide:
        light = _mix(light, _TO_709)
    light = light.clamp(min=0)
    over = (light - _KNEE).clamp(min=0) / (1 - _KNEE)
    light = torch.where(light > _KNEE, _KNEE + (1 - _KNEE) * over / (1 + over), light)
    return torch.where(light <= 0.0031308, 12.92 * light, 1.055 * light.clamp(min=1e-9) ** (1 / 2.4) - 0.055)


def to_code(display: Tensor, transfer: int, *, wide: bool) -> Tensor:
    """Undo `to_display`; display values brighter than the signal can be become its peak."""
    linear = torch.where(display <= 0.04045, display / 12.92, ((display + 0.055) / 1.055) ** 2.4)
    peak = (10000.0 if transfer == PQ else 1000.0) / _WHITE
    share = ((linear - _KNEE) / (1 - _KNEE)).clamp(0, 1 - 1e-7)
    over = _KNEE + (1 - _KNEE) * share / (1 - share)
    light = torch.where(linear > _KNEE, over, linear).clamp(0, peak)
    if wide:
        light = _mix(light, torch.linalg.inv(_TO_709)).clamp(0, peak)
    return _pq_code(light) if transfer == PQ else _hlg_code(light)


def _mix(light: Tensor, matrix: Tensor) -> Tensor:
    return torch.einsum("ij,jhw->ihw", matrix.to(light), light)


def _pq_light(code: Tensor) -> Tensor:
    power = code.clamp(0, 1) ** (1 / _M2)
    return ((power - _C1).clamp(min=0) / (_C2 - _C3 * power)) ** (1 / _M1) * (10000 / _WHITE)


def _pq_code(light: Tensor) -> Tensor:
    power = (light * (_WHITE / 10000)) ** _M1
    return ((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2


def _hlg_light(code: Tensor) -> Tensor:
    code = code.clamp(0, 1)
    scene = torch.where(code <= 0.5, code**2 / 3, (torch.exp((code - _C) / _A) + _B) / 12)
    return scene * _luminance(scene).clamp(min=1e-9) ** (_GAMMA - 1) * (1000 / _WHITE)


def _hlg_code(light: Tensor) -> Tensor:
    shown = light * (_WHITE / 1000)
    scene = shown * _luminance(shown).clamp(min=1e-9) ** (1 / _GAMMA - 1)
    return torch.where(scene <= 1 / 12, (3 * scene).sqrt(), _A * torch.log((12 * scene - _B).clamp(min=1e-6)) + _C)


def _luminance(rgb: Tensor) -> Tensor:
    return torch.einsum("i,ihw->hw", torch.tensor(_LUMA).to(rgb), rgb)
