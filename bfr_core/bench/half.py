"""bfloat16 on CPUs that only emulate it."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

_aten = torch.ops.aten
_PRODUCTS = frozenset(
    {
        _aten.convolution.default,
        _aten.mm.default,
        _aten.addmm.default,
        _aten.bmm.default,
        _aten.baddbmm.default,
        _aten._scaled_dot_product_flash_attention_for_cpu.default,
    }
)


class InFloat32(TorchDispatchMode):
    """Within it, bfloat16 products are summed in float32 and the sums rounded: as hardware that has bfloat16 does.

    A product of two bfloat16 numbers is exact in float32. A CPU without them takes a hundred times as long for a
    convolution, and differs from this by the order of the sums alone.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation."""
        kwargs = kwargs or {}
        if func not in _PRODUCTS or args[0].dtype != torch.bfloat16:
            return func(*args, **kwargs)
        wide = tree_map_only(Tensor, lambda x: x.float() if x.dtype == torch.bfloat16 else x, (args, kwargs))
        made = func(*wide[0], **wide[1])
        if isinstance(made, tuple):  # attention: the second is float32 in any precision
            return (made[0].bfloat16(), *made[1:])
        return made.bfloat16()


def times_slower() -> float:
    """Return how much longer a convolution takes in bfloat16 than in float32 on the CPU."""
    seconds = []
    for dtype in (torch.float32, torch.bfloat16):
        x, weight = torch.rand(1, 64, 32, 32, dtype=dtype), torch.rand(64, 64, 3, 3, dtype=dtype)
        laps = []
        for _ in range(3):
            start = time.perf_counter()
            torch.nn.functional.conv2d(x, weight, padding=1)
            laps.append(time.perf_counter() - start)
        seconds.append(min(laps))
    return seconds[1] / seconds[0]
