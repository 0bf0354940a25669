"""VGG16 and VGG19 as feature extractors: the maps that LPIPS and the perceptual loss compare.

Source: Simonyan and Zisserman, "Very Deep Convolutional Networks", arXiv:1409.1556, Table 1 (D and E), in the
parameter layout of torchvision (`features.N.weight`), so that its published ImageNet files load.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..errors import SettingsError, WeightsError
from ..models.checkpoints.files import fill, load_state

_CONVOLUTIONS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions of each of the five stages, by depth."""
_WIDTHS = (64, 128, 256, 512, 512)


class FeatureNet(nn.Module):
    """A chain of layers that gives the maps after chosen rectifiers.

    The picture is normalised inside by ImageNet's mean and standard deviation. LPIPS's scaling layer, which shifts by
    (-.030, -.088, -.188) and divides by (.458, .448, .450) in [-1, 1], is the same map.
    """

    mean: ClassVar = (0.485, 0.456, 0.406)
    std: ClassVar = (0.229, 0.224, 0.225)

    def __init__(self, title: str, features: nn.Sequential, maps: Mapping[str, int], widths: Mapping[str, int]) -> None:
        super().__init__()
        self.title = title
        self.features = features
        self.maps = dict(maps)
        """Position in `features` of each rectifier, in order of depth."""
        self.widths = dict(widths)
        """Channels of each map."""

    def forward(self, x: Tensor, layers: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Return the maps after the rectifiers named in `layers`, after all of them when None.

        Shapes: x (B, 3, H, W) RGB [0, 1]; returns (B, C, H / stride, W / stride) each, gradients flow to x.

        Raises:
            SettingsError: a name is unknown.
        """
        wanted = list(self.maps) if layers is None else list(layers)
        if unknown := [name for name in wanted if name not in self.maps]:
            raise SettingsError(
                f"{self.title} has no feature map {', '.join(unknown)}",
                found=f"it has {', '.join(self.maps)}",
                kept="Nothing was computed",
                todo="Choose among these names",
            )
        # Not buffers: those outside a checkpoint are lost when a net is built on the meta device.
        x = (x - x.new_tensor(self.mean).view(1, 3, 1, 1)) / x.new_tensor(self.std).view(1, 3, 1, 1)
        named = {self.maps[name]: name for name in wanted}
        found: dict[str, Tensor] = {}
        for index, layer in enumerate(self.features):
            if len(found) == len(named):
                break
            x = layer(x)
            if index in named:
                found[named[index]] = x
        return {name: found[name] for name in wanted}


class VggFeatures(FeatureNet):
    """The convolutions of VGG; its maps are named relu1_1, relu1_2, relu2_1 and so on to the last of stage five."""

    def __init__(self, depth: int = 16) -> None:
        layers: list[nn.Module] = []
        maps: dict[str, int] = {}
        widths: dict[str, int] = {}
        channels = 3
        for stage, (count, width) in enumerate(zip(_CONVOLUTIONS[depth], _WIDTHS, strict=True), start=1):
            for number in range(1, count + 1):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                maps[f"relu{stage}_{number}"] = len(layers) - 1
                widths[f"relu{stage}_{number}"] = channels = width
            layers.append(nn.MaxPool2d(2))
        super().__init__(f"VGG{depth}", nn.Sequential(*layers), maps, widths)
        self.depth = depth


def fill_features(net: FeatureNet, state: Mapping[str, Tensor]) -> FeatureNet:
    """Copy the convolutions of a torchvision checkpoint into `net`; its classifier is not used and left out.

    Raises:
        WeightsError: the convolutions are of another network.
    """
    fill(net, {key: value for key, value in state.items() if not key.startswith("classifier.")}, what=net.title)
    return net.eval().requires_grad_(False)


def vgg_of(state: Mapping[str, Tensor]) -> VggFeatures | None:
    """Return the VGG, without values, whose convolutions have these keys and shapes; None where there is none."""
    shapes = {key: tuple(value.shape) for key, value in state.items() if not key.startswith("classifier.")}
    for depth in _CONVOLUTIONS:
        with torch.device("meta"):
            net = VggFeatures(depth)
        if shapes == {key: tuple(value.shape) for key, value in net.state_dict().items()}:
            return net
    return None


def load_vgg(path: Path) -> VggFeatures:
    """Return VGG16 or VGG19, whichever `path` holds, ready to extract features; gradients reach its input only.

    Raises:
        WeightsError: the file cannot be used or is neither.
    """
    state = load_state(path)
    net = vgg_of(state)
    if net is None:
        raise WeightsError(
            f"{path} is no VGG16 or VGG19",
            found=f"found {describe_keys(state)}; expected torchvision's features.0.weight to features.28 or .34, "
            "without batch normalisation",
            kept="Nothing was loaded and the file is unchanged",
            todo="Give vgg16-397923af.pth or vgg19-dcbb9e9d.pth of torchvision (download.pytorch.org/models)",
        )
    fill_features(net, state)
    return net


def describe_keys(state: Mapping[str, Tensor]) -> str:
    """Return the number of tensors and the first of them, in words, for messages."""
    first = ", ".join(f"{key} {tuple(value.shape)}" for key, value in list(state.items())[:2])
    return f"{len(state)} tensors ({first})"
