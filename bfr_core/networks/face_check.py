"""A small network that says of an aligned crop whether it shows a face at all.

Ours. The detector's own second look sees candidates as its search framed them, upright or not, and at the size of the
box; this one sees them turned, shifted and scaled by their five points, so that eyes, nose and mouth have to lie where
those of every face lie. Buttons, pebbles and folds of cloth, for which points can be guessed too, do not pass.

Batch norms exist while training; `face_detector.fold` merges them into the convolutions.
"""

from __future__ import annotations

from torch import Tensor, nn

from .face_detector import crop_body


class FaceCheckNet(nn.Module):
    """The network: 7.4 million multiplications for a crop, 0.1 M parameters.

    Shapes: x (N, 3, SIZE, SIZE) float32 RGB [0, 1]; returns logits (N,).

    Args:
        widths: channels at strides 2, 4, 8 and 16.
        norm: with batch norms, for training.
    """

    SIZE = 64
    """Side of the crops."""
    TEMPLATE = 80
    """Side of the whole FFHQ square at their scale: the crop is its middle, eight tenths of it."""

    def __init__(self, widths: tuple[int, int, int, int] = (16, 32, 56, 80), *, norm: bool = False) -> None:
        super().__init__()
        self.body = crop_body(widths, norm=norm)
        self.is_face = nn.Linear(widths[3] * (self.SIZE // 16) ** 2, 1)
        nn.init.normal_(self.is_face.weight, std=0.01)
        nn.init.zeros_(self.is_face.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Judge crops."""
        return self.is_face(self.body(x - 0.5).flatten(1))[:, 0]
