"""The vector-quantised autoencoder of CLR-Face (paper Sec. 3.1, Eq. 1-2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ..pairs import FREE, RestorePhase
from ..quantised import VqConfig, VqStage

_COMPACT = {"l1": 1.0, "colour": 10.0, "codebook": 1.0}

COMPACT = VqConfig(
    phases=(
        RestorePhase(
            "smooth", 2_000, batch=8, size=256, lr=(0.02, 0.008), warmup=80, weights={"l1": 1.0, "colour": 10.0}
        ),
        RestorePhase("codes", 2_400, batch=8, size=256, lr=(0.008, 0.001), warmup=80, weights=_COMPACT),
    ),
    optimiser="muon",
    clip=0.1,
    ema=400.0,
    precision="auto",
    degraded=0.25,
    folder_weights=FREE,
)
"""Two cores, about half an hour. First without the codebook, which is then fitted to the latents there are: entries
drawn beforehand would mostly lie where no latent is, and never be used. No discriminator: at f = 4 the L1 keeps what a
face has, and the minutes go further there."""

_PAPER = {"l1": 1.0, "perceptual": 1.0, "codebook": 1.0}

PAPER = VqConfig(
    network="paper",
    phases=(
        RestorePhase("smooth", 400_000, batch=8, size=256, lr=(3.6e-5, 3.6e-5), weights=_PAPER),
        RestorePhase(
            "sharp", 4_000_000, batch=8, size=256, lr=(3.6e-5, 3.6e-5),
            weights={**_PAPER, "adversarial": 0.75, "critic": 1.0},
        ),
    ),
    betas=(0.5, 0.9),
    clip=0.0,
    ema=10_000.0,
)  # fmt: skip
"""Eq. 2 weighs its terms alike; rate (4.5e-6 a picture), discriminator weight and its late start are those of Latent
Diffusion's vq-f4."""


class ClrVqStage(VqStage):
    """Train x = G(Q(E(x)))."""

    title: ClassVar[str] = "Vector-quantised autoencoder"
    method: ClassVar[str] = "clr_face"
    source: ClassVar[str] = (
        "CLR-Face Eq. 2: |x - x~|_1 + |phi(x) - phi(x~)|_1 + GAN + |sg(E(x)) - z_q|^2 + |sg(z_q) - E(x)|^2. The hinge "
        "form of the GAN and its adaptive weight are VQGAN's (arXiv:2012.09841), on which the paper builds."
    )
    configs: ClassVar[Mapping[str, VqConfig]] = {"compact": COMPACT, "paper": PAPER}
    weaknesses: ClassVar[str] = (
        "Trained for minutes on two cores and a thousand portraits: the finest texture of skin and hair is lost in it."
    )


STAGE = ClrVqStage
