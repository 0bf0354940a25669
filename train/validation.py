"""Validation of restorers: held-out faces under degradations that are the same every time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from bfr_core.degrade.chain import degrade, draw, truth_of
from bfr_core.degrade.presets import DegradePreset
from bfr_core.faces.identity import RecognizerNet, embed
from bfr_core.media.sheets import to_bytes
from bfr_core.metrics.fidelity import laplacian_variance, psnr
from bfr_core.metrics.texture import SMALLEST_WOVEN, grain, weave

from .pictures import Pictures, fit
from .stage import Check, Nets, Validator

_ROWS = 6


class RestoreValidator(Validator):
    """Restore held-out faces one by one and compare them with their truth.

    Args:
        pictures: held-out aligned faces; at most `limit`, spread evenly, are used.
        preset: ranges of the degradation; the n-th face is degraded with seed n.
        restore: maps the judged networks to a function of (1, 3, S, S) in [0, 1].
        recogniser: measures identity where it is given.
        size: side the faces are brought to.
        limit: most faces to use.
    """

    def __init__(
        self,
        pictures: Pictures,
        preset: DegradePreset,
        restore: Callable[[Nets], Callable[[Tensor], Tensor]],
        *,
        recogniser: RecognizerNet | None,
        size: int,
        limit: int,
    ) -> None:
        chosen = range(0, len(pictures), max(len(pictures) // limit, 1))[:limit]
        images = [fit(pictures[index], size) for index in chosen]
        drawn = [draw(preset, seed) for seed in range(len(images))]
        self.truth, self.low = (
            torch.stack([_tensor(change(image, params)) for image, params in zip(images, drawn, strict=True)])
            for change in (truth_of, degrade)
        )
        self.restore, self.recogniser = restore, recogniser
        self._identity: Tensor | None = None
        self.baseline = self.measure(self.low)

    def measure(self, faces: Tensor) -> dict[str, float]:
        """Return the mean figures of (B, 3, S, S) faces, in the order of the truth."""
        figures = {
            "psnr": psnr(faces, self.truth).mean().item(),
            "sharpness": laplacian_variance(faces).mean().item(),
            "grain": grain(faces, self.truth).mean().item(),
        }
        if faces.shape[-1] >= SMALLEST_WOVEN:
            figures["weave"] = weave(faces).mean().item()
        if self.recogniser is not None:
            if self._identity is None:
                self._identity = _embed(self.recogniser, self.truth)
            figures["identity"] = (_embed(self.recogniser, faces) * self._identity).sum(1).mean().item()
        return figures

    def run(self, nets: Nets) -> Check:
        """Restore every face with `nets` and measure it."""
        device = next(weight.device for net in nets.values() for weight in net.parameters())
        restore = self.restore(nets)
        with torch.inference_mode():
            faces = torch.cat([restore(face[None].to(device)).clamp(0, 1).float().cpu() for face in self.low])
        rows = [
            [to_bytes(side[index]) for side in (self.low, faces, self.truth)]
            for index in range(0, len(faces), max(len(faces) // _ROWS, 1))
        ][:_ROWS]
        return Check(self.measure(faces), rows)


def _tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1).float() / 255


@torch.no_grad()
def _embed(recogniser: RecognizerNet, faces: Tensor) -> Tensor:
    device = next(recogniser.parameters()).device
    return torch.cat([embed(recogniser, part.to(device)).cpu() for part in faces.split(8)])
