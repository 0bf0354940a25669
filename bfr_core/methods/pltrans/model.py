"""The whole network: encoder, regulariser of the query, prior of keys and values, attention, decoder (paper Fig. 2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from ...networks.conditional_diffusion import clipped
from ...networks.vq import VQAutoencoder
from ..irn import METHOD as IRN
from .prior import CrossAttention, PriorKeyValue
from .regulariser import Regulariser

_IRN_MULTIPLES = {None: 1, "compact": 32, "paper": 64}
"""What sides of a picture the configs of the identity recovery network take."""


class PLTrans(nn.Module):
    """Everything that restoring takes: `vq` is E, V and G, `regulariser` E_Q, D_Q and epsilon_theta, `prior` Phi and r.

    Pictures are (B, 3, H, W) RGB [-1, 1] with sides that are multiples of `multiple`; features (B, dim, h, w).
    """

    def __init__(
        self,
        *,
        vq: Mapping[str, Any],  # options of VQAutoencoder
        regulariser: Mapping[str, Any],  # options of Regulariser
        heads: int = 4,  # of the attentions that make keys and values
        top: int = 8,  # d, entries of the dictionary for each position
        blocks: int = 1,  # of cross-attention
        irn: Literal["compact", "paper"] | None = None,  # config of an identity recovery network before the encoder
    ) -> None:
        super().__init__()
        self.vq = VQAutoencoder(**vq)
        dim = self.vq.dim
        self.regulariser = Regulariser(dim, **regulariser)
        self.prior = PriorKeyValue(dim, top=top, heads=heads, groups=vq.get("groups", 32))
        self.attention = nn.ModuleList(CrossAttention(dim) for _ in range(blocks))
        # The paper's encoder learns to restore by itself. One small enough for a CPU, trained for minutes, cannot learn
        # to restore and to paint: it is given the face as a regressor recovered it.
        self.irn = None if irn is None else IRN.build(IRN.config(irn))
        self.multiple = math.lcm(self.vq.factor * self.regulariser.unet.multiple, _IRN_MULTIPLES[irn])

    def seen(self, x: Tensor, share: float = 1.0) -> Tensor:
        """Return what E looks at: x, or where there is an identity recovery network, its result.

        Args:
            x: degraded faces.
            share: how much of the network's correction is taken.
        """
        if self.irn is None:
            return x
        recovered = clipped(self.irn((x + 1) / 2) * 2 - 1)
        return recovered if share == 1 else x + share * (recovered - x)

    def encode(self, x: Tensor) -> Tensor:
        """Return q = E(x) of what `seen` returned, (B, dim, h, w)."""
        return self.vq.encode(x)

    def keys_values(self, q: Tensor, *, dictionary: bool = True, transformer: bool = True) -> tuple[Tensor, Tensor]:
        """Return k and v (Sec. 3.3), without V or without the transformer where those are off (Table 1)."""
        return self.prior(q, self.vq.codebook, retrieve=dictionary, transform=transformer)

    def restored_features(
        self, q_hat: Tensor, q: Tensor, *, dictionary: bool = True, transformer: bool = True
    ) -> Tensor:
        """Return z_hat of the query q_hat and the features q that keys and values come from (Eq. 8).

        "In each transformer block" q_hat, k and v meet (Fig. 2): a block after the first asks with what it was given.
        """
        k, v = self.keys_values(q, dictionary=dictionary, transformer=transformer)
        for block in self.attention:
            q_hat = block(q_hat, k, v)
        return q_hat

    def decode(self, z_hat: Tensor) -> Tensor:
        """Return y_hat = G(z_hat), not quantised again, in about [-1, 1]."""
        return self.vq.decode_codes(z_hat)
