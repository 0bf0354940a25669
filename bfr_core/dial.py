"""One dial with one meaning in every method: 0 is for looks, 0.5 as published, 1 stays with the input.

Each method has `fidelity` among its settings and declares, as `Dial`s, which of its quantities follow it and how far.
"""

from __future__ import annotations

from dataclasses import dataclass

from .settings import param


def fidelity_param() -> float:
    """Declare the setting, the same in every method."""
    return param(
        0.5,
        "0 paints what looks best, 0.5 is the method as published, 1 stays closest to the input and the person in it",
        low=0.0,
        high=1.0,
        step=0.05,
    )


@dataclass(frozen=True, slots=True)
class Dial:
    """How a quantity of a method follows the dial: by way of three values of it."""

    quantity: str
    """In words; the values are shares of what is set or published, unless these say otherwise."""
    perception: float
    """The value at 0."""
    published: float
    """The value at 0.5, met exactly."""
    faithful: float
    """The value at 1."""
    linear: bool = False
    """Interpolate the values, not their logarithms; for quantities that may be 0."""

    def at(self, fidelity: float) -> float:
        """Return the value for a position of the dial, 0 to 1."""
        if fidelity == 0.5:
            return self.published
        low, high, share = (
            (self.perception, self.published, 2 * fidelity)
            if fidelity < 0.5
            else (self.published, self.faithful, 2 * fidelity - 1)
        )
        return (1 - share) * low + share * high if self.linear else low ** (1 - share) * high**share
