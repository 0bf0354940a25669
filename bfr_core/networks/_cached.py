"""Remember what is computed from weights alone while they stay as they are."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from torch import Tensor


class Cached:
    """Hold one tensor derived from others.

    It is computed anew whenever a source changed: another tensor, another place or type, or a write in place that
    PyTorch counts, which it does not for writes through `.data`. With gradients on it is never kept. It belongs to no
    state_dict and moves with nothing: a network that was copied or moved computes it once more.
    """

    def __init__(self) -> None:
        self._sources: tuple[weakref.ref[Tensor], ...] = ()
        self._state: tuple[object, ...] = ()
        self._value: Tensor | None = None

    def __call__(self, compute: Callable[[], Tensor], *sources: Tensor) -> Tensor:
        """Return what `compute` makes of `sources`: the parameters themselves, as views come and go."""
        # A traced graph holds the computation itself, as it cannot watch a tensor's state.
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or any(source.is_inference() for source in sources):
            return compute()
        # The object as well as its address: what follows a tensor that is gone may lie where it lay.
        state = tuple((source.data_ptr(), source._version, source.dtype, source.device) for source in sources)
        same = len(self._sources) == len(sources) and all(
            kept() is source for kept, source in zip(self._sources, sources, strict=True)
        )
        if self._value is None or not same or state != self._state:
            self._sources, self._state = tuple(weakref.ref(source) for source in sources), state
            self._value = compute()
        return self._value

    def __deepcopy__(self, memo: dict[int, object]) -> Cached:
        return Cached()

    def __reduce__(self) -> tuple[type[Cached], tuple[()]]:
        return Cached, ()
