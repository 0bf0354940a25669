"""CLR-Face: conditional latent refinement with a score-based diffusion prior.

Source: Suin and Chellappa, "CLR-Face: Conditional Latent Refinement for Blind Face Restoration Using Score-Based
Diffusion Models", IJCAI 2024, arXiv:2402.06106. Config `paper` has the printed sizes and, where none are printed, those
of the published code that it names (latent-diffusion's vq-f4-noattn, guided-diffusion's U-Net). Config `compact` is the
same code, thin; its denoiser sees z^id beside z^d, because a network this small cannot learn to restore and to paint.

Table 4 by settings; all but the last two rows are about one part alone:

| row                     | how                                                                            |
|-------------------------|--------------------------------------------------------------------------------|
| VQVAE-Rec (f=4)         | `steps` 0, `start` degraded, given the true face                               |
| VQVAE-Rec (f=32)        | options of `vq` with six widths; to train                                      |
| VQVAE-Rest (f=4)        | another network, fine-tuned to restore; not here                               |
| IRN, IRN^ID             | the method `irn`, trained without and with its identity loss                   |
| Diff. Prior             | `start` noise, `guidance` off                                                  |
| IRN^ID + Diff. Prior    | `masking` none                                                                 |
| IRN^ID + Diff. Prior + M_l | the defaults                                                                |

As printed: config `paper`, `sampler` heun, `steps` 40, which are 79 evaluations of the denoiser.
"""

from __future__ import annotations

from collections.abc import Collection

from ...registry import MASK, Config, Input, LearntMask, Method, Paper, Part
from .latent_mask import latent_mask
from .model import CLRFace
from .restore import GUIDANCE_SCALE, START_NOISE, restore
from .settings import ClrFaceSettings

COMPACT = {
    "vq": {"channels": 64, "mult": (1,), "blocks": 2, "dim": 4, "fold": 4, "groups": 8, "shortcut": True},
    "unet": {
        "channels": 48, "mult": (1, 2, 3, 3), "blocks": 1, "attention": (8,), "head": 48, "residual_resample": False,
        "groups": 8,
    },
    "irn": "compact",
    "condition": "both",
}  # fmt: skip

PAPER = {
    "vq": {"channels": 128, "mult": (1, 2, 3), "blocks": 2, "codes": 8192},
    "unet": {"channels": 128, "mult": (1, 2, 3, 4), "blocks": 2, "attention": (8,), "head": 64},
    "irn": "paper",
    "condition": "degraded",
}
"""The latents of 512 px are 128 x 128: attention at 16 x 16 positions is at a rate of 8."""


def build(config: Config) -> CLRFace:
    """Make the untrained network of a config."""
    return CLRFace(**config.options)


def recognise(keys: Collection[str]) -> str | None:
    """Tell a config by keys that only it has; each of the large parts tells it by itself."""
    if not any(key.startswith(("vq.", "unet.", "mask.")) for key in keys):
        return None
    if {"vq.encoder.down.2.block.0.conv1.weight", "unet.input_blocks.11.0.in_layers.0.weight"}.intersection(keys):
        return "paper"
    # The compact autoencoder has the keys of the paper's first level, and no more.
    if {"vq.encoder.down.0.block.0.conv1.weight", "unet.input_blocks.2.0.op.weight"}.intersection(keys):
        return "compact"
    return None


PARTS = (
    Part(
        "vq", "VQ autoencoder", "clr_face_vq.safetensors",
        prefixes=("vq.",), source={},
        keys=("vq.quantize.embedding.weight", "vq.post_quant_conv.weight", "vq.mean"),
    ),
    Part(
        "diffusion", "latent denoiser", "clr_face_diffusion.safetensors",
        prefixes=("unet.",), source={},
        keys=("unet.time_embed.0.weight", "unet.out.2.weight"),
    ),
    Part(
        "mask", "latent mask", "clr_face_mask.safetensors",
        prefixes=("mask.",), source={},
        keys=("mask.layers.4.weight",),
    ),
    Part(
        "irn", "identity recovery network", "irn.safetensors",
        prefixes=("irn.",), source={},
        alone="irn",
    ),
)  # fmt: skip

METHOD = Method(
    id="clr_face",
    title="CLR-Face",
    summary="Latent diffusion: starts from a recovered face, repaints it in few steps inside a VQ autoencoder, and "
    "keeps the person by guidance where a latent mask finds identity.",
    traits="slow, crisp, guided where identity shows",
    papers=(Paper("CLR-Face", "https://arxiv.org/abs/2402.06106", "Sec. 3"),),
    configs=(
        Config(
            "compact", "Compact, embedded weights", 512, COMPACT,
            embedded=("clr_face_compact_vq", "clr_face_compact_diffusion", "clr_face_compact_mask"),
            shared={"irn.": "irn_compact"},
            # Trained for minutes, it paints less well than the face it starts from: it starts lower.
            defaults={"steps": 8, "sampler": "dpm++", "sigma": 0.2, "guide_to": 0.05},
        ),
        Config("paper", "Published sizes, bring your weights", 512, PAPER, colours="method"),
    ),
    build=build,
    restore=restore,
    recognise=recognise,
    settings_type=ClrFaceSettings,
    inputs=(Input("mask", MASK, "Where the identity guidance may act, in place of the learned latent mask"),),
    dials=(START_NOISE, GUIDANCE_SCALE),
    parts=PARTS,
    stages={"vq": "clr_face_vq", "irn": "irn", "diffusion": "clr_face_diffusion", "mask": "clr_face_mask"},
    guides=True,
    mask=LearntMask("latent mask", latent_mask),
    benches={"diffusion": ".diffusion"},
    published_benches={"diffusion": ".diffusion_published"},
)  # fmt: skip
