"""The adaptive-wing FAN of facexlib, 98 points."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...models.spec import Checkpoint, KnownFile, ModelSpec, has_all


class FanLandmarks:
    """The 98 WFLW points of a face, by the adaptive-wing FAN that VQFR measures its landmark distance with.

    Source: Wang et al., "Adaptive Wing Loss", arXiv:1904.07399; file `alignment_WFLW_4HG.pth` of facexlib.
    """

    size = 256

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def __call__(self, faces: Tensor) -> Tensor:
        """Return the points of each face, x and y in its pixels.

        Shapes: faces (B, 3, H, W) RGB [0, 1]; returns (B, 98, 2) float64 on the CPU.
        """
        height, width = faces.shape[-2:]
        # Without antialiasing, as published: the picture goes through OpenCV's plain bilinear resize.
        x = F.interpolate(faces.float(), (self.size, self.size), mode="bilinear", align_corners=False)
        with torch.no_grad():
            points = decode_heatmaps(self.net(x)[:, :-1])
        return points * points.new_tensor([width / 64, height / 64])


def decode_heatmaps(heatmaps: Tensor) -> Tensor:
    """Return where each heatmap peaks: (B, K, H, W) to (B, K, 2) float64 on the CPU, x and y in its pixels.

    The pixel of the maximum, a quarter of a pixel towards the higher of its two neighbours along each axis, and half
    a pixel to the centre. Differs from facexlib on purpose at the border: there, one peak in the first or last row
    gives all points of the batch another neighbour, here such a point alone takes no quarter step across the border.
    """
    batch, count, height, width = heatmaps.shape
    flat = heatmaps.detach().cpu().double().flatten(2)
    peak = flat.argmax(2)
    x, y = peak % width, peak // width
    steps = []
    for at, size, stride in ((x, width, 1), (y, height, width)):
        inside = (at > 0) & (at < size - 1)
        after = flat.gather(2, (peak + stride).clamp(max=height * width - 1)[..., None])[..., 0]
        before = flat.gather(2, (peak - stride).clamp(min=0)[..., None])[..., 0]
        steps.append(torch.where(inside, torch.sign(after - before) * 0.25, 0.0))
    return torch.stack([x + steps[0], y + steps[1]], 2).view(batch, count, 2) + 0.5


def _load(checkpoint: Checkpoint) -> FanLandmarks:
    from ...networks.fan import Fan

    return FanLandmarks(checkpoint.fill(Fan))


SPEC = ModelSpec(
    "fan",
    "landmarker",
    "98-point FAN of facexlib",
    "MIT repository, weights trained on WFLW",
    _load,
    (KnownFile("alignment_WFLW_4HG.pth", source="github.com/xinntao/facexlib, releases v0.1.0"),),
    detect=has_all("conv1.conv.weight", "m3.coordconv.conv.weight", "l3.bias"),
    order=0,
)
