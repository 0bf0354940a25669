"""AlexNet as a feature extractor: the smaller backbone of LPIPS.

Source: Krizhevsky, "One weird trick", arXiv:1404.5997, in the parameter layout of torchvision (`features.N.weight`),
so that its published ImageNet file loads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import WeightsError
from ..models.checkpoints.files import load_state
from .vgg import FeatureNet, describe_keys, fill_features


class AlexNetFeatures(FeatureNet):
    """The convolutions of AlexNet; its maps are named relu1 to relu5."""

    def __init__(self) -> None:
        layers = (
            nn.Conv2d(3, 64, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
        )
        maps = {"relu1": 1, "relu2": 4, "relu3": 7, "relu4": 9, "relu5": 11}
        widths = {"relu1": 64, "relu2": 192, "relu3": 384, "relu4": 256, "relu5": 256}
        super().__init__("AlexNet", nn.Sequential(*layers), maps, widths)


def alexnet_of(state: Mapping[str, Tensor]) -> AlexNetFeatures | None:
    """Return AlexNet, without values, if these are the keys and shapes of its convolutions; None otherwise."""
    with torch.device("meta"):
        net = AlexNetFeatures()
    shapes = {key: tuple(value.shape) for key, value in state.items() if not key.startswith("classifier.")}
    return net if shapes == {key: tuple(value.shape) for key, value in net.state_dict().items()} else None


def load_alexnet(path: Path) -> AlexNetFeatures:
    """Return AlexNet with the weights in `path`, ready to extract features; gradients reach its input only.

    Raises:
        WeightsError: the file cannot be used or holds another network.
    """
    state = load_state(path)
    net = alexnet_of(state)
    if net is None:
        raise WeightsError(
            f"{path} is no AlexNet",
            found=f"found {describe_keys(state)}; expected torchvision's features.0.weight (64, 3, 11, 11) to "
            "features.10.bias",
            kept="Nothing was loaded and the file is unchanged",
            todo="Give alexnet-owt-7be5be79.pth of torchvision (download.pytorch.org/models)",
        )
    fill_features(net, state)
    return net
