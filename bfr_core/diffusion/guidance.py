"""Steering a sampler to a person: the gradient of an identity loss, where a mask lets it act.

Sources: Diffuse-and-Restore Eq. 7 to 9 (the gradient on the estimate of y_0, times a region mask); CLR-Face Sec. 3.3
(the same through the decoder of a latent, times a latent mask). Both take L_arc = 1 - cos of ArcFace embeddings and
descend it. Methods differ in what they differentiate by and in which mask: here is what they have in common.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputMediaError, SettingsError
from ..faces.identity import RecognizerNet, embed
from .levels import Level
from .predictions import Predict, Prediction

MAX_STRENGTH = 10.0
"""Largest strength of a guide: beyond it every method paints the recogniser's taste, no face."""


@dataclass(frozen=True, slots=True, eq=False)
class IdentityGuide:
    """Whom to steer to, and who tells how alike two faces are.

    Raises:
        SettingsError: the strength is out of range, or the reference is no vector of numbers.
    """

    recogniser: RecognizerNet
    title: str
    """In words, for reports."""
    strength: float = 1.0
    """Multiplies the method's own scale of guidance."""
    reference: Tensor | None = None
    """(D,), the identity to steer to by this recogniser; None: that of the method's first estimate of each face."""

    def __post_init__(self) -> None:
        found = None
        if not 0 <= self.strength <= MAX_STRENGTH:
            found = f"found a strength of {self.strength}; expected 0 to {MAX_STRENGTH:g}"
        elif self.reference is not None and self.reference.ndim != 1:
            found = f"found a reference of shape {tuple(self.reference.shape)}; expected one vector"
        elif self.reference is not None and not bool(self.reference.isfinite().all()):
            found = "found NaN or infinity in the reference; expected numbers"
        if found:
            raise SettingsError(
                "Cannot guide by this identity",
                found=found,
                kept="Nothing was started",
                todo="Choose another strength, or another photo as the reference",
            )

    def to(self, device: torch.device) -> IdentityGuide:
        """Return this guide on a device, ready for gradients; what others hold of the recogniser stays where it is."""
        tensors = [*self.recogniser.parameters(), *self.recogniser.buffers()]
        if all(tensor.device == device and not tensor.is_inference() for tensor in tensors):
            recogniser = self.recogniser
        else:
            with torch.inference_mode(False):
                recogniser = copy.deepcopy(self.recogniser).to(device)
        with torch.inference_mode(False):
            reference = None if self.reference is None else self.reference.detach().clone().to(device)
        return replace(self, recogniser=recogniser, reference=reference)


def guide_or_embedded(guide: IdentityGuide | None, device: torch.device) -> IdentityGuide:
    """Return the guide of a run, or one by the embedded recogniser where the run has none."""
    if guide is not None:
        return guide
    from ..faces.identity import embedded_recognizer

    return IdentityGuide(embedded_recognizer(device), "embedded recogniser")


def targets(guide: IdentityGuide, pictures: Tensor) -> Tensor:
    """Return the identities to steer to, (B, D) of unit length: of `pictures`, or the reference for each of them.

    Shapes: pictures (B, 3, S, S) RGB [0, 1], aligned in the FFHQ template.

    Raises:
        SettingsError: the reference is of another recogniser.
    """
    with torch.no_grad(), torch.autocast(pictures.device.type, enabled=False):
        own = embed(guide.recogniser, pictures.float())
    if guide.reference is None:
        return own
    if guide.reference.shape[0] != own.shape[1]:
        raise SettingsError(
            f"Cannot steer to this reference by the {guide.title}",
            found=f"it has {guide.reference.shape[0]} numbers, expected {own.shape[1]}",
            kept="No picture was changed",
            todo="Embed the reference photo with the recogniser that guides",
        )
    return F.normalize(guide.reference.to(own), dim=0).expand_as(own)


def identity_gradient(
    guide: IdentityGuide, x: Tensor, target: Tensor, *, picture: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Return the gradient of L_arc = 1 - cos(embedding, target) by `x`, each face's of its own loss.

    Source: Diffuse-and-Restore Eq. 7; the second term of CLR-Face Eq. 11. Descend it to look more like the target.
    Computed with gradients on, outside autocast.

    Shapes: x (B, ...); target (B, D) of unit length; returns the shape of `x`.

    Args:
        guide: holds the recogniser.
        x: what to differentiate by.
        target: see `targets`.
        picture: makes of `x` the aligned faces (B, 3, S, S) RGB [0, 1], through whatever networks; None: `x` is that.
    """
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        free = x.detach().clone().requires_grad_(True)  # cloned: the host may have made it in inference mode
        free = free if free.dtype == torch.float64 else free.float()
        faces = free if picture is None else picture(free)
        loss = (1 - (embed(guide.recogniser, faces) * target.detach().clone()).sum(1)).sum()
        (gradient,) = torch.autograd.grad(loss, free)
    return gradient.detach()


def normalised(gradient: Tensor) -> Tensor:
    """Return a gradient of unit RMS in each face, so that one scale means the same along the chain; 0 stays 0.

    Shapes: (B, ...).
    """
    rms = gradient.flatten(1).square().mean(1).sqrt()
    # A face at its target has a gradient of rounding errors: not to be blown up.
    factor = torch.where(rms > 1e-12, 1 / rms.clamp_min(1e-12), torch.zeros_like(rms))
    return gradient * factor.view(-1, *[1] * (gradient.ndim - 1))


def steering(
    guide: IdentityGuide,
    x: Tensor,
    target: Tensor,
    *,
    scale: float,
    mask: Tensor | None = None,
    normalise: bool = True,
    picture: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return what a sampler subtracts, `strength * scale * mask * gradient`: Diffuse-and-Restore Eq. 9.

    Shapes: x (B, ...); mask broadcasts to it; see `identity_gradient` for the rest.

    Args:
        guide: holds the recogniser and the strength.
        x: what to differentiate by.
        target: see `targets`.
        scale: the method's own.
        mask: where the gradient may act; None: everywhere.
        normalise: bring each face's gradient to unit RMS, before the mask.
        picture: see `identity_gradient`.
    """
    gradient = identity_gradient(guide, x, target, picture=picture)
    gradient = (normalised(gradient) if normalise else gradient) * (guide.strength * scale)
    return gradient if mask is None else gradient * mask.to(gradient)


def every_kth(guided: Predict, plain: Predict, levels: Sequence[Level], k: int) -> Predict:
    """Return a network for a sampler that is guided at some levels of a chain and asks the guide at every k-th of them.

    Between, the gradient is held: k then trades exactness for time alone, and with more steps the chain becomes that of
    a guide who is always asked. Left out instead, the guide would have a k-th of its strength, and DPM-Solver++, which
    continues the line through its last two estimates, would take his coming and going for a slope.

    Args:
        guided: brings a gradient.
        plain: brings none.
        levels: where the guide acts, falling; the first asks.
        k: 1 asks at each.
    """
    acting, asking = frozenset(levels), frozenset(levels[::k])
    held: Tensor | None = None

    def predict(x: Tensor, level: Level) -> Prediction:
        nonlocal held
        if level not in acting:
            return plain(x, level)
        if level not in asking:
            return replace(plain(x, level), gradient=held)
        said = guided(x, level)
        held = said.gradient
        return said

    return predict


def choose_mask(
    choice: str, like: Tensor, *, given: Tensor | None = None, makers: Mapping[str, Callable[[], Tensor]]
) -> Tensor:
    """Return the mask of a guidance, in [0, 1], float32, of the size of `like`.

    Shapes: like (B, C, H, W); given (B, 1, h, w); returns (B, 1 or C, H, W).

    Args:
        choice: "none", which is 1 everywhere, or a key of `makers`.
        like: what the gradient is of.
        given: takes the place of the choice; resized, bilinear with antialias.
        makers: make the masks that can be chosen.

    Raises:
        InputMediaError: `given` has another number of faces.
    """
    if given is None:
        return torch.ones_like(like[:, :1]).float() if choice == "none" else resized(makers[choice](), like)
    if given.ndim != 4 or len(given) not in (1, len(like)) or given.shape[1] not in (1, like.shape[1]):
        raise InputMediaError(
            "Cannot use this mask",
            found=f"found shape {tuple(given.shape)}, expected ({len(like)}, 1, height, width)",
            kept="No picture was changed",
            todo="Give one mask, or one for each face in the same order",
        )
    return resized(given, like)


def resized(mask: Tensor, like: Tensor) -> Tensor:
    """Bring a mask (B, C, h, w) to the height and width of `like`, float32 in [0, 1]."""
    mask = mask.to(like.device, torch.float32)
    size = (like.shape[-2], like.shape[-1])
    if tuple(mask.shape[-2:]) != size:
        mask = F.interpolate(mask, size, mode="bilinear", antialias=True, align_corners=False)
    return mask.clamp(0, 1)
