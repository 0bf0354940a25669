"""The files that metrics need and a person brings: what each is for, its name, where it comes from, its licence.

Files of models stand in the declarations of these (`models.spec`); those that a metric alone reads are written here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import SettingsError
from ..models.registry import specs


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

_FILES: dict[str, MetricFile] = {
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
    "inception_reference": MetricFile(
        "FID",
        ("inception_FFHQ_512.pth",),
        "the links in the README of github.com/TencentARC/VQFR, or github.com/SamsungLabs/DT-BFR, releases v1.0.0",
        "no licence stated; statistics of FFHQ, whose images are CC BY-NC-SA",
    ),
}
_MODELS = {"recognizer": "identity", "landmarker": "LMD", "expression": "emotion accuracy"}
"""What is measured by the models of a role."""


def files() -> dict[str, MetricFile]:
    """Return every file by the key that the report asks for it with; that of a model's file is the model's role."""
    return {**_FILES, **{role: _of_role(role, metric) for role, metric in _MODELS.items()}}


def _of_role(role: str, metric: str) -> MetricFile:
    """Return the files that any model of a role is known to work with, as one of which one is enough."""
    known = [spec for spec in specs(role) if spec.files]
    sources: dict[str, list[str]] = {}
    for spec in known:
        for file in spec.files:
            sources.setdefault(file.source, []).append(file.name)
    return MetricFile(
        metric,
        tuple(file.name for spec in known for file in spec.files),
        " or ".join(f"{source} ({', '.join(names)})" for source, names in sources.items()),
        "; ".join(dict.fromkeys(spec.licence for spec in known)),
    )


def find(folder: Path | None, key: str) -> Path | None:
    """Return the file that `key` stands for in `folder`, None where there is none or no folder is given.

    Raises:
        SettingsError: there is no such key.
    """
    if key not in (known := files()):
        raise SettingsError(
            f"No metric file is called {key!r}",
            found=f"{key!r}; expected {', '.join(known)}",
            kept="Nothing was read",
            todo="Choose one of these keys",
        )
    if folder is None:
        return None
    return next((path for name in known[key].names if (path := folder / name).is_file()), None)
