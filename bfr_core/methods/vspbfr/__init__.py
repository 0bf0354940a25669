"""VSPBFR: visual style prompt learning for blind face restoration.

Source: Lu et al., "Visual Style Prompt Learning Using Diffusion Models for Blind Face Restoration", Pattern
Recognition 2025, arXiv:2412.21042. Config `official` is the released model, `paper` the printed one; where they differ
is said in their options below and in the classes these name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from ...networks.stylegan2 import FFHQ_WIDTHS
from ...registry import Config, Input, Method, Paper, Part
from .diffuser import PAPER_DIFFUSION, PAPER_TACC
from .model import VSPBFR
from .restore import ENCODER_CODES, NOISE, TRUNCATION, restore
from .settings import VspbfrSettings

_COMPACT_WIDTHS = {4: 128, 8: 160, 16: 160, 32: 128, 64: 64, 128: 32, 256: 16}

COMPACT = {
    "style_dim": 80,
    "encoder": {"input_size": 128, "stages": ((24, 1), (48, 2), (96, 3), (160, 2)), "whiten": True},
    "bank": {"size": 256, "widths": _COMPACT_WIDTHS, "depth": 4},
    "restorer": {"size": 512, "widths": _COMPACT_WIDTHS, "patch": 2, "depth": 4},
}
"""The released layout, thin, at half the side."""

OFFICIAL = {
    "encoder": {},
    "bank": {"size": 1024, "widths": FFHQ_WIDTHS},
    "restorer": {"size": 512, "widths": FFHQ_WIDTHS},
}

PAPER = OFFICIAL | {
    "tacc": PAPER_TACC,
    "diffusion": PAPER_DIFFUSION,
    "printed": True,
}


def build(config: Config) -> VSPBFR:
    """Make the untrained network of a config."""
    return VSPBFR(**config.options)


def recognise(keys: Collection[str]) -> str | None:
    """Tell a config by keys that only it has."""
    if "restorer.convs.13.fusion.0.weight" in keys:
        return "official"
    if "restorer.decoder_convs.0.conv.weight" in keys:
        return "paper"
    if "restorer.convs.11.fusion.0.weight" in keys:
        return "compact"
    return None


def _describe_style(tensors: Mapping[str, Tensor]) -> str:
    heads = sum(key.startswith("encoder.styles.") and key.endswith(".linear.weight") for key in tensors)
    layers = len({key.split(".")[2] for key in tensors if key.startswith("decoder.to_rgbs.")})
    return f"{heads} style heads, a generator of {2 ** (layers + 2)} px"


PARTS = (
    Part(
        "style_encoder_decoder", "style encoder and facial feature bank", "style_encoder_decoder.pt",
        prefixes=("encoder.", "decoder.", "latent_avg"),
        source={"state_dict": "", "latent_avg": "latent_avg"},
        keys=("encoder.styles.0.linear.weight", "decoder.input.input"),
        ignored=("decoder.noises.noise_*",),
        kernels={"decoder.*.kernel": 4.0},
        trained_with={"start_from_latent_avg": True, "encoder_type": "Encoder4Editing"},
        describe=_describe_style,
    ),
    Part(
        "code_diffuser", "code diffuser", "code_diffuser.pt",
        prefixes=("att_mapper.",),
        source={"att_mapper": ""},
        keys=("att_mapper.0.attention_layer.k_matrix.weight",),
    ),
    Part(
        "restoration_net", "restoration auto-encoder", "restoration_net.pt",
        prefixes=("restorer.",),
        source={"g_ema": "restorer."},
        keys=("restorer.encoder_convs.0.modulation.weight",),
        ignored=("restorer.noises.noise_*",),
        kernels={"restorer.encoder_convs.*.kernel": 1.0, "restorer.*.kernel": 4.0},
    ),
)  # fmt: skip
"""The three published files."""

METHOD = Method(
    id="vspbfr",
    title="VSPBFR",
    summary="Visual style prompts: a code diffuser refines what a style encoder sees of the face; features of a face "
    "generator and style-modulated layers paint it anew.",
    traits="fast, crisp, less like the person",
    papers=(Paper("Visual Style Prompt Learning (VSPBFR)", "https://arxiv.org/abs/2412.21042", "Sec. III"),),
    configs=(
        Config(
            "compact", "Compact, embedded weights", 512, COMPACT,
            embedded=("vspbfr_compact_style", "vspbfr_compact_diffuser", "vspbfr_compact_restorer"),
        ),
        Config(
            "official", "As released by the authors, bring their three files", 512, OFFICIAL,
            published="https://huggingface.co/Wanglong2/VSPBFR", colours="method",
        ),
        Config("paper", "As printed in the paper, for training", 512, PAPER, colours="method"),
    ),
    build=build,
    restore=restore,
    recognise=recognise,
    settings_type=VspbfrSettings,
    inputs=(
        Input("codes", "style_codes", "Style codes to use in place of the diffused ones, such as edited or mixed ones"),
    ),
    dials=(TRUNCATION, ENCODER_CODES, NOISE),
    parts=PARTS,
    foreign_checkpoints={
        "the recogniser Arcface.pth, which only training needs": ("layer3.22.conv1.weight", "fc.weight"),
        "the discriminator, which only training needs": ("encoder_input_convs.0.weight", "final_linear.0.weight"),
        "a StyleGAN2 generator without its style encoder": ("style.1.weight", "input.input"),
    },
    nodes=(".style",),
    benches={"vspbfr": f"{__name__}.bench"},
    commands={"styles": f"{__name__}.command"},
    stages={
        "bank": "vspbfr_bank",
        "encoder": "vspbfr_encoder",
        "diffuser": "vspbfr_diffuser",
        "restorer": "vspbfr_restorer",
    },
)  # fmt: skip
