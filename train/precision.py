"""Which precision the processor at hand computes fast.

The configs `compact` ask for `auto` where bf16 is safe: where, from the weights we ship, the gradient of two faces has
the direction that it has in float32. Cosines of both, over two batches: irn.irn 0.990 and 0.994; clr_face.vq 0.998 and
0.993; clr_face.diffusion 0.999; lpip_diff.diffusion and diffuse_restore.diffusion 1.000; pltrans.dictionary 1.000;
pltrans.regulariser 0.993 and 1.000. Elsewhere they stay with float32: vspbfr.bank 0.20 and 0.03, whose codes are
whitened; discriminators 0.96; masks 0.98; detector.search 0.93, whose boxes are in pixels.
"""

from __future__ import annotations

from typing import Literal

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from bfr_core.errors import SettingsError

Precision = Literal["no", "bf16", "fp16"]
"""What accelerate computes in; `no` is float32."""


def has_native_bf16(device: torch.device) -> bool:
    """Tell whether a device has instructions for bfloat16 and torch uses them.

    Without them bf16 still computes, by conversion to float32 and back, many times slower than float32 itself. So it
    is not enough that oneDNN accepts bf16, which it does on any processor with AVX-512, nor that CUDA does, which
    emulates it before capability 8.
    """
    if device.type == "cuda":
        # The capability of AMD's devices counts otherwise; torch knows of none that lacks bf16.
        return torch.version.hip is not None or torch.cuda.get_device_capability(device)[0] >= 8
    if device.type != "cpu":
        return False
    instructions = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    # oneDNN may have been kept from using them, as ONEDNN_MAX_CPU_ISA does.
    return instructions and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def settle(asked: str, *, cpu: bool) -> Precision:
    """Return the precision to compute in: what was asked for, and for `auto` what the processor is fast in.

    Several processes agree: bf16 only where all of them have it.

    Args:
        asked: `auto`, or one of `Precision`.
        cpu: leave an accelerator alone.
    """
    if asked != "auto":
        return asked  # type: ignore[return-value]  # the config allows nothing else
    native = has_native_bf16(PartialState(cpu=cpu).device)
    return "bf16" if all(gather_object([native])) else "no"


def called(precision: str) -> str:
    """Return a precision as people call it."""
    return "float32" if precision == "no" else precision


def refuse(precision: str, found: str) -> SettingsError:
    """Return the error of a precision that this machine does not have."""
    return SettingsError(
        f"Cannot train in {precision} here",
        found=found,
        kept="Nothing was started",
        todo="Use --set precision=auto, no or bf16; fp16 needs a GPU",
    )
