"""What can be set of the style prompts and the auto-encoder (paper Fig. 1); switches are ablations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...dial import fidelity_param
from ...settings import param


@dataclass(frozen=True, slots=True)
class VspbfrSettings:
    """See each field's help."""

    prompts: Literal["diffused", "initial"] = param(
        "diffused", "Style prompts: refined by the code diffuser, or as the style encoder first read them (ablation a)"
    )
    smart: bool = param(True, "SMART layers see at four dilations; off: at one, as plain style layers (ablation b)")
    modulation: bool = param(
        True, "Style codes modulate the restoration; off: only random style and image do (ablation c)"
    )
    priors: bool = param(True, "Features of the facial feature bank join the restoration (ablation d)")
    random_style: Literal["seed", "mean"] = param("seed", "The random style: drawn from the seed, or their mean")
    mixing: float = param(
        0.5, "How often a second random style takes over part of the layers", low=0.0, high=1.0, step=0.05
    )
    noise: bool = param(True, "Noise in every layer, drawn from the seed; off: none, smoother skin and hair")
    fidelity: float = fidelity_param()
