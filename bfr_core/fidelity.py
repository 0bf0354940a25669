"""One dial with one meaning in every method: 0 is for looks, 0.5 as published, 1 stays with the input.

Each method declares `FIDELITY` among its settings and turns the dial into its own quantities with `dial`.
"""

from __future__ import annotations

from .registry import Param

FIDELITY = Param(
    "fidelity", 0.5,
    "0 paints what looks best, 0.5 is the method as published, 1 stays closest to the input and the person in it",
    0.0, 1.0, 0.05,
)  # fmt: skip
"""The setting, as every surface shows it."""


def dial(fidelity: float, perception: float, published: float, faithful: float, *, linear: bool = False) -> float:
    """Return a quantity for a position of the dial, by way of three values of it.

    Args:
        fidelity: the position, 0 to 1.
        perception: the value at 0.
        published: the value at 0.5, met exactly.
        faithful: the value at 1.
        linear: interpolate the values, not their logarithms; for quantities that may be 0.
    """
    if fidelity == 0.5:
        return published
    low, high, share = (
        (perception, published, 2 * fidelity) if fidelity < 0.5 else (published, faithful, 2 * fidelity - 1)
    )
    return (1 - share) * low + share * high if linear else low ** (1 - share) * high**share
