"""LPIPS: how different two pictures look, learnt from people's judgements."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import InputMediaError, WeightsError
from ..models.checkpoints.files import load_state
from ..networks.alexnet import AlexNetFeatures, alexnet_of
from ..networks.vgg import FeatureNet, VggFeatures, describe_keys, fill_features, vgg_of
from .fidelity import require_pair

_LAYERS = {
    "VGG16": ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"),
    "AlexNet": ("relu1", "relu2", "relu3", "relu4", "relu5"),
}
_SMALLEST = {"VGG16": 16, "AlexNet": 31}
"""Shortest side that leaves a pixel in the deepest map."""
_KEPT = "Nothing was loaded and the files are unchanged"
_EPSILON = 1e-10


class Lpips(nn.Module):
    """The learned perceptual distance, version 0.1, from a backbone and five linear heads.

    Both pictures go through the backbone; at each of five layers the maps are normalised to unit length across
    channels, their squared difference is weighted by the layer's head and averaged over the picture; the five are
    added. Lower is more alike. The papers use VGG16; figures of the two backbones are not comparable.

    Shapes: image, truth (B, 3, H, W) RGB [0, 1]; returns (B,). The published input is [-1, 1]; the range is turned
    inside. Gradients flow to both pictures.
    Source: Zhang et al., arXiv:1801.03924, Eq. 1; constants of the `lpips` package (richzhang/PerceptualSimilarity).
    """

    def __init__(self, backbone: FeatureNet) -> None:
        super().__init__()
        self.backbone = backbone
        self.layers = _LAYERS[backbone.title]
        self.heads = nn.ParameterList(
            nn.Parameter(torch.empty(1, backbone.widths[layer], 1, 1), requires_grad=False) for layer in self.layers
        )

    @classmethod
    def load(cls, backbone: Path, heads: Path) -> Lpips:
        """Return LPIPS from torchvision's VGG16 or AlexNet file and the linear heads trained for it.

        Raises:
            WeightsError: a file cannot be used, is something else, or the heads belong to another backbone.
        """
        state = load_state(backbone)
        net = vgg_of(state) or alexnet_of(state)
        if net is None or (isinstance(net, VggFeatures) and net.depth != 16):
            raise WeightsError(
                f"{backbone} is no backbone of LPIPS",
                found=f"found {'VGG19' if net else describe_keys(state)}; expected torchvision's VGG16 or AlexNet",
                kept=_KEPT,
                todo="Give vgg16-397923af.pth (or alexnet-owt-7be5be79.pth) of torchvision "
                "(download.pytorch.org/models)",
            )
        fill_features(net, state)
        lpips = cls(net)
        lpips._fill_heads(heads, load_state(heads))
        return lpips.eval()

    def _fill_heads(self, path: Path, state: dict[str, Tensor]) -> None:
        own = {f"lin{index}.model.1.weight": head for index, head in enumerate(self.heads)}
        shapes = {key: tuple(value.shape) for key, value in state.items()}
        if shapes != {key: tuple(head.shape) for key, head in own.items()}:
            widths = [shape[1] for shape in shapes.values() if len(shape) == 4]
            name = "alex.pth" if isinstance(self.backbone, AlexNetFeatures) else "vgg.pth"
            raise WeightsError(
                f"The LPIPS heads {path} do not belong to {self.backbone.title}",
                found=f"{path.name} holds {describe_keys(state)}, heads of widths {widths}; expected "
                f"lin0.model.1.weight to lin4.model.1.weight of widths {[head.shape[1] for head in self.heads]}",
                kept=_KEPT,
                todo=f"Give {name} of lpips/weights/v0.1 (richzhang/PerceptualSimilarity), or the other backbone",
            )
        for key, head in own.items():
            head.data = state[key].to(torch.float32)

    def forward(self, image: Tensor, truth: Tensor) -> Tensor:
        """Return the distance of each picture to its truth: (B, 3, H, W) twice to (B,).

        Raises:
            InputMediaError: the shapes differ, or the pictures are too small for the backbone.
        """
        require_pair(image, truth)
        if min(image.shape[-2:]) < (least := _SMALLEST[self.backbone.title]):
            raise InputMediaError(
                "Cannot measure LPIPS",
                found=f"the pictures are {image.shape[-1]}x{image.shape[-2]}; expected at least {least} pixels a side",
                kept="Both are unchanged",
                todo="Compare larger pictures",
            )
        first, second = self.backbone(image, self.layers), self.backbone(truth, self.layers)
        total = image.new_zeros(image.shape[0])
        for layer, head in zip(self.layers, self.heads, strict=True):
            difference = (_unit(first[layer]) - _unit(second[layer])).square()
            total = total + (difference * head).sum(1).mean((1, 2))
        return total


def _unit(features: Tensor) -> Tensor:
    # In half precision, which training may run in, squares of features overflow.
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    # The square root has no gradient at zero, where a whole pixel was rectified away; the published one is NaN there.
    length = features.square().sum(1, keepdim=True).clamp(min=1e-30).sqrt()
    return features / (length + _EPSILON)
