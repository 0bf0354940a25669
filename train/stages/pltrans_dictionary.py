"""The dictionary of PLTrans, with the encoder and decoder it is learnt between (paper Sec. 3.3 and 3.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ..pairs import FREE, RestorePhase
from ..quantised import VqConfig, VqStage

_SMOOTH = {"l1": 1.0, "colour": 10.0}

COMPACT = VqConfig(
    phases=(
        RestorePhase("smooth", 2_400, batch=8, size=256, lr=(0.02, 0.008), warmup=80, weights=_SMOOTH),
        RestorePhase(
            "codes", 600, batch=8, size=256, lr=(0.004, 0.001), warmup=80, weights={**_SMOOTH, "codebook": 1.0}
        ),
    ),
    optimiser="muon",
    clip=0.1,
    ema=400.0,
    precision="auto",
    codebook_images=32,
    commitment=0.25,
    folder_weights=FREE,
)
"""Two cores, a quarter of an hour. First without the dictionary, which is then fitted to the features there are. Its
1,024 entries, one for each 8 x 8 pixels, cannot hold a face by themselves; they need not, as PLTrans refines them."""

_PAPER = {"l1": 1.0, "perceptual": 1.0, "codebook": 1.0}

PAPER = VqConfig(
    network="paper",
    phases=(
        RestorePhase("smooth", 40_000, batch=4, lr=(1.8e-5, 1.8e-5), weights=_PAPER),
        RestorePhase(
            "sharp", 2_100_000, batch=4, lr=(1.8e-5, 1.8e-5), weights={**_PAPER, "adversarial": 0.8, "critic": 1.0}
        ),
    ),
    betas=(0.5, 0.9),
    clip=0.0,
    ema=10_000.0,
    commitment=0.25,
)
"""The paper says no more than that it is vector quantisation; rate (4.5e-6 a picture), the discriminator's weight and
its start after 10,001 steps are those of RestoreFormer's published config. 30 epochs of FFHQ's 70,000 faces."""


class DictionaryStage(VqStage):
    """Train E, V and G on clean faces."""

    title: ClassVar[str] = "Dictionary of clean faces"
    method: ClassVar[str] = "pltrans"
    source: ClassVar[str] = (
        '"The latent dictionary V is learnt by performing vector quantization in a clear face image reconstruction '
        'process" (Sec. 3.4), as VQ-VAE (arXiv:1711.00937) does with beta 0.25; L1, perceptual and adversarial terms '
        "are VQGAN's (arXiv:2012.09841), on which RestoreFormer builds, whose sizes PLTrans has."
    )
    configs: ClassVar[Mapping[str, VqConfig]] = {"compact": COMPACT, "paper": PAPER}
    weaknesses: ClassVar[str] = "Faces made of its entries alone are patchy; it is a start for pltrans.restorer."


STAGE = DictionaryStage
