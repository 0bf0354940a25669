"""The files that metrics need and a person brings: what each is for, its name, where it comes from, its licence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import SettingsError


@dataclass(frozen=True, slots=True)
class MetricFile:
    """One file that a metric needs."""

    metric: str
    """What is measured with it."""
    names: tuple[str, ...]
    """File names it goes by, relative to the folder of weights, the preferred first."""
    source: str
    licence: str
    """Of the file, as its publisher states it."""

    @property
    def todo(self) -> str:
        """Say what to put where, for a report row that lacks the file."""
        return f"put {self.names[0]} into the folder of metric weights; it comes from {self.source} ({self.licence})"


_LPIPS = "github.com/richzhang/PerceptualSimilarity, lpips/weights/v0.1"
_TORCHVISION = "torchvision, download.pytorch.org/models"
_IMAGENET = "BSD-3-Clause code, weights trained on ImageNet"

FILES: dict[str, MetricFile] = {
    "niqe": MetricFile(
        "NIQE",
        ("niqe_pris_params.npz",),
        "github.com/XPixelGroup/BasicSR, basicsr/metrics, or `bfr models fit-niqe` with pictures of your own",
        "Apache-2.0 repository; the values are those of LIVE's NIQE release",
    ),
    "lpips_backbone": MetricFile("LPIPS (VGG)", ("vgg16-397923af.pth",), _TORCHVISION, _IMAGENET),
    "lpips_heads": MetricFile(
        "LPIPS (VGG)", ("lpips_heads/vgg.pth", "lpips_vgg.pth", "vgg.pth"), _LPIPS, "BSD-2-Clause"
    ),
    "lpips_backbone_alex": MetricFile("LPIPS (AlexNet)", ("alexnet-owt-7be5be79.pth",), _TORCHVISION, _IMAGENET),
    "lpips_heads_alex": MetricFile(
        "LPIPS (AlexNet)", ("lpips_heads/alex.pth", "lpips_alex.pth", "alex.pth"), _LPIPS, "BSD-2-Clause"
    ),
    "recogniser": MetricFile(
        "identity",
        ("mobilefacenet.pt", "arcface_resnet18.pth", "model_ir_se50.pth"),
        "a MobileFaceNet checkpoint, github.com/TencentARC/GFPGAN, releases v0.1.0 (arcface_resnet18.pth), or "
        "github.com/TreB1eN/InsightFace_Pytorch (model_ir_se50.pth)",
        "the network's own; most face recognition sets are for research only",
    ),
    "fan": MetricFile(
        "LMD",
        ("alignment_WFLW_4HG.pth",),
        "github.com/xinntao/facexlib, releases v0.1.0",
        "MIT repository, weights trained on WFLW",
    ),
    "emotion": MetricFile(
        "emotion accuracy",
        ("enet_b0_8_best_vgaf.onnx", "enet_b0_8_best_afew.onnx"),
        "github.com/sb-ai-lab/EmotiEffLib, models/affectnet_emotions/onnx",
        "Apache-2.0",
    ),
    "inception_reference": MetricFile(
        "FID",
        ("inception_FFHQ_512.pth",),
        "the links in the README of github.com/TencentARC/VQFR, or github.com/SamsungLabs/DT-BFR, releases v1.0.0",
        "no licence stated; statistics of FFHQ, whose images are CC BY-NC-SA",
    ),
}
"""Every file by the key that the report asks for it with."""


def find(folder: Path | None, key: str) -> Path | None:
    """Return the file that `key` stands for in `folder`, None where there is none or no folder is given.

    Raises:
        SettingsError: there is no such key.
    """
    if key not in FILES:
        raise SettingsError(
            f"No metric file is called {key!r}",
            found=f"{key!r}; expected {', '.join(FILES)}",
            kept="Nothing was read",
            todo="Choose one of these keys",
        )
    if folder is None:
        return None
    return next((path for name in FILES[key].names if (path := folder / name).is_file()), None)
