"""Diffuse-and-Restore: a region-adaptive diffusion model for identity-preserving blind face restoration.

Source: Suin et al., "Diffuse and Restore: A Region-Adaptive Diffusion Model for Identity-Preserving Blind Face
Restoration", WACV 2024. No code or weights were published; what the paper leaves open is said where it is decided.
"""

from __future__ import annotations

from collections.abc import Collection

from ...networks.conditional_diffusion import COMPACT
from ...registry import MASK, Config, Input, LearntMask, Method, Paper, Part
from .model import DiffuseRestore
from .region_mask import region_mask
from .restore import GUIDANCE_SCALE, START_LEVEL, restore
from .settings import DiffuseRestoreSettings

PAPER_256 = {
    "irn": "paper",
    "condition": "degraded",
    "predicts": "noise",
    "learned_variance": True,
    "unet": {"channels": 128, "mult": (1, 1, 2, 2, 4, 4), "blocks": 2, "attention": (16,)},
}
"""Guided diffusion's layout for 256 px (Sec. 5), of half the published width: the paper gives none."""

PAPER = PAPER_256 | {"unet": {**PAPER_256["unet"], "fold": 2}}  # type: ignore[dict-item]
"""For 512 px, with one more level down and up around it (Sec. 5)."""

PRINTED = {"steps": 400, "sampler": "ddpm", "gradient": "network"}


def build(config: Config) -> DiffuseRestore:
    """Make the untrained network of a config."""
    return DiffuseRestore(**config.options)


def recognise(keys: Collection[str]) -> str | None:
    """Tell a config by keys that only it has; the two of the paper have the same, and the first is meant."""
    if any(key.startswith("vq.") for key in keys):
        return None
    if "unet.input_blocks.17.0.in_layers.0.weight" in keys and "unet.input_blocks.3.0.in_layers.0.weight" in keys:
        return "paper"
    if "unet.input_blocks.7.0.in_layers.0.weight" in keys and "unet.input_blocks.2.0.op.weight" in keys:
        return "compact"
    return None


PARTS = (
    Part(
        "diffusion", "conditional diffusion model", "diffuse_restore_diffusion.safetensors",
        prefixes=("unet.",), source={}, keys=("unet.time_embed.0.weight",),
    ),
    Part(
        "mask", "region mask", "diffuse_restore_mask.safetensors",
        prefixes=("mask.",), source={}, keys=("mask.stem.0.weight", "mask.head.weight"),
    ),
    Part("irn", "identity recovery network", "irn.safetensors", prefixes=("irn.",), source={}, alone="irn"),
)  # fmt: skip

METHOD = Method(
    id="diffuse_restore",
    title="Diffuse-and-Restore",
    summary="Recovers who it is first, then paints the face anew from there by diffusion, steered back to that person "
    "in the regions that matter.",
    traits="slow, crisp, guided back to the person",
    papers=(Paper("Diffuse and Restore (WACV 2024)", "", "Sec. 3"),),
    configs=(
        Config(
            "compact", "Compact, embedded weights", 512, COMPACT,
            embedded=("diffuse_restore_compact_diffusion", "diffuse_restore_compact_mask"),
            shared={"irn.": "irn_compact"},
            # Trained for minutes, it paints less well than the face it starts from: it starts lower than T' = 400.
            defaults={"start": 120, "steps": 8},
        ),
        Config("paper", "As in the paper, 512 px, for training", 512, PAPER, defaults=PRINTED, colours="method"),
        Config("paper256", "As in the paper, 256 px, for training", 256, PAPER_256, defaults=PRINTED, colours="method"),
    ),
    build=build,
    restore=restore,
    recognise=recognise,
    settings_type=DiffuseRestoreSettings,
    inputs=(Input("mask", MASK, "Where steering may act, in place of the mask that was chosen"),),
    dials=(START_LEVEL, GUIDANCE_SCALE),
    parts=PARTS,
    stages={"ipc": "irn", "diffusion": "diffuse_restore_diffusion", "mask": "diffuse_restore_mask"},
    guides=True,
    mask=LearntMask("region mask", region_mask, default=True),
    benches={"diffusion": ".diffusion"},
    published_benches={"diffusion": ".diffusion_published"},
)  # fmt: skip
