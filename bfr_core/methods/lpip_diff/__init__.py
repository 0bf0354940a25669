"""LPIP-Diff: identity-preserving diffusion for face restoration, patch by patch.

Source: Bai et al., "Identity-Preserving Diffusion for Face Restoration", ICASSP 2025. No code or weights were
published; what the paper leaves open is said where it is decided.
"""

from __future__ import annotations

from collections.abc import Collection

from ...networks.conditional_diffusion import COMPACT
from ...registry import Config, Method, Paper, Part
from .model import LPIPDiff
from .picture import restore_picture
from .restore import PATCH_BATCH, START_LEVEL, STEP_NOISE, restore
from .settings import LpipDiffSettings

PAPER = {
    "irn": None,
    "condition": "degraded",
    "predicts": "noise",
    "unet": {
        "channels": 128, "mult": (1, 1, 2, 3, 4), "blocks": 2, "attention": (8,), "scale_shift": False,
        "residual_resample": False,
    },
}  # fmt: skip
"""The paper names no network. Its sampling is that of WeatherDiffusion (arXiv:2207.14626), whose network for patches of
128 px this is in size: a quarter of 512 px, as the paper has it."""


def build(config: Config) -> LPIPDiff:
    """Make the untrained network of a config."""
    return LPIPDiff(**config.options)


def recognise(keys: Collection[str]) -> str | None:
    """Tell a config by keys that only it has."""
    if any(key.startswith(("vq.", "mask.")) for key in keys):
        return None
    if "unet.input_blocks.14.0.in_layers.0.weight" in keys and "unet.input_blocks.3.0.op.weight" in keys:
        return "paper"
    if "unet.input_blocks.7.0.in_layers.0.weight" in keys and "unet.input_blocks.2.0.op.weight" in keys:
        return "compact"
    return None


PARTS = (
    Part(
        "diffusion", "conditional diffusion model of patches", "lpip_diff_diffusion.safetensors",
        prefixes=("unet.",), source={}, keys=("unet.time_embed.0.weight",),
    ),
    Part("irn", "identity recovery network", "irn.safetensors", prefixes=("irn.",), source={}, alone="irn"),
)  # fmt: skip

METHOD = Method(
    id="lpip_diff",
    title="LPIP-Diff",
    summary="Paints overlapping patches by diffusion and puts what it estimates together at each step: fine detail, no "
    "seams, pictures of any size.",
    traits="slow, fine detail, whole pictures too",
    papers=(Paper("LPIP-Diff (ICASSP 2025)", "", "Sec. II, Algorithm 2"),),
    configs=(
        Config(
            "compact", "Compact, embedded weights", 512, COMPACT,
            embedded=("lpip_diff_compact_diffusion",), shared={"irn.": "irn_compact"},
            # Trained for minutes, it paints less well than the face it starts from.
            defaults={"start": 120, "steps": 6},
        ),
        Config(
            "paper", "As in the paper, for training", 512, PAPER,
            defaults={"steps": 25, "sampler": "ddim", "start": 1000}, colours="method",
        ),
    ),
    build=build,
    restore=restore,
    recognise=recognise,
    settings_type=LpipDiffSettings,
    dials=(START_LEVEL, STEP_NOISE),
    parts=PARTS,
    stages={"diffusion": "lpip_diff_diffusion"},
    patch_batch=PATCH_BATCH,
    picture=restore_picture,
    picture_help="overlapping patches are painted together, so no seam shows. It was trained on faces, so look at what "
    "it makes of the rest; Composite Faces pastes faces alone. Time grows with the number of pixels.",
    benches={"diffusion": ".diffusion"},
    published_benches={"diffusion": ".diffusion_published"},
)  # fmt: skip
