"""PLTrans: a degradation-unaware query, and keys and values from a dictionary of clean faces.

Source: Xie et al., "Learning Degradation-unaware Representation with Prior-based Latent Transformations for Blind Face
Restoration", CVPR 2024. No code or weights were published; what the paper leaves open is said where it is decided.
Config `paper` has RestoreFormer's sizes, which the paper builds on; `compact` is the same code, thin, behind the
identity recovery network.

Table 1 by settings:

| row     | settings           |
|---------|--------------------|
| w/o V   | `dictionary` off   |
| w/o DIFF | `diffusion` off   |
| w/o LT  | `transformer` off  |
| w/o DWT | `wavelet` off      |
"""

from __future__ import annotations

from collections.abc import Collection

from ...registry import Config, Method, Paper, Part
from .model import PLTrans
from .restore import PERTURBATION, RECOVERY, restore
from .settings import PLTransSettings

COMPACT = {
    "vq": {
        "channels": 64, "mult": (1, 2), "blocks": 1, "dim": 64, "codes": 1024, "fold": 4, "groups": 8, "shortcut": True,
        "fine": 16,
    },
    "regulariser": {
        "latent": 16, "width": 64, "predicts": "clean",
        "unet": {
            "channels": 64, "mult": (1, 2), "blocks": 1, "attention": (2,), "head": 64, "fold": 4, "groups": 8,
            "residual_resample": False,
        },
    },
    "heads": 4,
    "irn": "compact",
}  # fmt: skip
"""Features of 512 px are 64 x 64; the U-Net of the regulariser works at 16 x 16."""

PAPER = {
    "vq": {
        "channels": 64, "mult": (1, 2, 2, 4, 4, 8), "blocks": 2, "dim": 256, "codes": 1024, "attention": (5,),
        "heads": 8,
    },
    "regulariser": {
        "latent": 256, "width": 256,
        "unet": {"channels": 128, "mult": (1, 2, 2), "blocks": 2, "attention": (1, 2), "head": 64},
    },
    "heads": 8,
}  # fmt: skip
"""RestoreFormer's autoencoder, whose features are 16 x 16, and a U-Net of guided diffusion that attends there and at
8 x 8. About 73 and 31 million parameters."""


def build(config: Config) -> PLTrans:
    """Make the untrained network of a config."""
    return PLTrans(**config.options)


def recognise(keys: Collection[str]) -> str | None:
    """Tell a config by keys that only it has; each of the large parts tells it by itself."""
    if not any(key.startswith(("prior.", "regulariser.")) for key in keys):
        return None
    paper = {"vq.encoder.down.5.block.0.conv1.weight", "regulariser.unet.input_blocks.8.0.in_layers.0.weight"}
    if paper.intersection(keys):
        return "paper"
    compact = {"vq.encoder.down.1.block.0.conv1.weight", "regulariser.unet.input_blocks.2.0.op.weight"}
    return "compact" if compact.intersection(keys) else None


PARTS = (
    Part(
        "restorer", "autoencoder, dictionary and attention", "pltrans_restorer.safetensors",
        prefixes=("vq.", "prior.", "attention."), source={},
        keys=("vq.quantize.embedding.weight", "prior.r", "attention.0.conv.weight"),
    ),
    Part(
        "regulariser", "latent diffusion of features", "pltrans_regulariser.safetensors",
        prefixes=("regulariser.",), source={},
        keys=("regulariser.mean", "regulariser.unet.time_embed.0.weight"),
    ),
    Part(
        "irn", "identity recovery network", "irn.safetensors",
        prefixes=("irn.",), source={},
        alone="irn",
    ),
)  # fmt: skip

METHOD = Method(
    id="pltrans",
    title="PLTrans",
    summary="Asks a dictionary of clean faces by cross-attention, with a query that latent diffusion has made unaware "
    "of the degradation.",
    traits="keeps the person, soft skin",
    papers=(Paper("PLTrans (CVPR 2024)", "", "Sec. 3"),),
    configs=(
        Config(
            "compact", "Compact, embedded weights", 512, COMPACT,
            embedded=("pltrans_compact_restorer", "pltrans_compact_regulariser"),
            shared={"irn.": "irn_compact"},
            # Its features have four times the side of the paper's: J = 3 keeps as many low frequencies as J = 1 there.
            defaults={"levels": 3},
        ),
        Config("paper", "RestoreFormer's sizes, bring your weights", 512, PAPER, colours="method"),
    ),
    build=build,
    restore=restore,
    recognise=recognise,
    settings_type=PLTransSettings,
    dials=(PERTURBATION, RECOVERY),
    parts=PARTS,
    nodes=(".pltrans",),
    benches={"pltrans": f"{__name__}.bench"},
    stages={
        "dictionary": "pltrans_dictionary",
        "restorer": "pltrans_restorer",
        "regulariser": "pltrans_regulariser",
    },
)  # fmt: skip
