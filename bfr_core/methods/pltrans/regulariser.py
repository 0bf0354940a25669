"""The latent diffusion that makes features unaware of their degradation (paper Sec. 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ...diffusion.levels import CLEAN, Level, Levels, posterior, q_sample
from ...diffusion.predictions import Prediction, edm_scaling, from_clean, from_noise
from ...diffusion.schedules import Schedule, linear
from ...errors import NumbersError
from ...networks.unet import UNet
from ...networks.wavelet import exchange_low
from ...seeding import Draws

Predicts = Literal["noise", "clean"]


class Moments(NamedTuple):
    """p_u of Eq. 2: a normal distribution for each number of u. Shapes: both (B, latent, h, w)."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Return u drawn from p_u with standard normal noise."""
        return self.mean + (self.log_variance / 2).exp() * noise


class Regulariser(nn.Module):
    """E_Q, D_Q and epsilon_theta: features q to latents u, through noise and back, and to features q_hat again.

    Shapes: q (B, dim, h, w); u (B, latent, h, w), h and w multiples of `unet.multiple`.
    """

    def __init__(
        self,
        dim: int,
        *,
        latent: int,  # channels of u
        width: int,  # channels within E_Q and D_Q
        unet: Mapping[str, Any],  # options of UNet; its channels in and out are those of u
        predicts: Predicts = "noise",  # what the U-Net gives: see `predict`
        timesteps: int = 1000,  # T; betas rise linearly from 1e-4 to 0.02
    ) -> None:
        super().__init__()
        self.latent, self.timesteps, self.predicts = latent, timesteps, predicts
        self.encoder = _mapping(dim, width, 2 * latent)  # E_Q
        self.decoder = _mapping(latent, width, dim)  # D_Q
        self.unet = UNet(latent, latent, **unet)
        self.register_buffer("mean", torch.zeros(latent))
        self.register_buffer("std", torch.ones(latent))
        self.mean: Tensor
        self.std: Tensor
        # Convolutions of maps this small take a fifth less time; loading may put other tensors in place of these.
        _laid_out(self)
        self.register_load_state_dict_post_hook(_laid_out)

    @cached_property
    def schedule(self) -> Schedule:
        """The variance schedule of Eq. 4."""
        # Made when it is asked for: the network itself is built without numbers, on the meta device.
        return linear(self.timesteps)

    # Latents.

    def moments(self, q: Tensor) -> Moments:
        """Return p_u of features (Eq. 2), in E_Q's own units."""
        # What is added to rows of channels and to maps in turn takes longer: out of the networks come maps.
        mean, log_variance = self.encoder(q).contiguous().chunk(2, dim=1)
        # Kept from overflowing where nothing was trained, as latent diffusion does (github.com/CompVis).
        return Moments(mean, log_variance.clamp(-30, 20))

    def encode(self, q: Tensor) -> Tensor:
        """Return u = E_Q(q), the mean of p_u, normalised; float32 or wider, as the chain multiplies what rounds."""
        u = self.moments(q).mean
        return self.normalise(u.to(torch.promote_types(u.dtype, torch.float32)))

    def decode(self, u: Tensor) -> Tensor:
        """Return q_hat = D_Q(u) of normalised latents (Eq. 3)."""
        return self.decoder(self.denormalise(u))

    def normalise(self, u: Tensor) -> Tensor:
        """Bring latents of E_Q to mean 0 and standard deviation 1 in each channel, which Eq. 4 takes for granted.

        A lambda of 5e-5 pulls them towards a standard normal distribution, but not all the way.
        """
        return (u - self.mean.view(1, -1, 1, 1)) / self.std.view(1, -1, 1, 1)

    def denormalise(self, u: Tensor) -> Tensor:
        """Undo `normalise`."""
        return u * self.std.view(1, -1, 1, 1) + self.mean.view(1, -1, 1, 1)

    # Diffusion. All of it is of normalised latents.

    def level(self, t: int) -> Level:
        """Return level t of 0..T as the paper counts: alpha_bar_t is a product of t factors, and 0 is without noise."""
        return self.schedule.level(t - 1) if t else CLEAN

    def predict(self, u_t: Tensor, level: Level | Levels) -> Prediction:
        """Return the estimates of u_0 and of the noise, epsilon_theta(u_t, t) of Eq. 4, in the dtype of u_t.

        A U-Net that `predicts` noise gives the latter, as printed. One that folds positions is narrower than what it
        sees and cannot hand all of the noise through: what it leaves out stays in u_0, sigma / alpha times as large.
        EDM's preconditioning (arXiv:2206.00364, Table 1), of data of unit variance, asks for the clean latent in such a
        way that what is left out is as a Wiener filter leaves it. Eq. 4 is a loss of either.
        """
        t = torch.as_tensor(level.t, dtype=torch.float32, device=u_t.device).expand(len(u_t))
        values = self.unet(u_t, t).to(u_t).contiguous()
        if self.predicts == "noise":
            return from_noise(u_t, values, level)
        scaling = edm_scaling(level.sigma / level.alpha, 1.0)
        return from_clean(u_t, scaling.skip * (u_t / level.alpha) + scaling.out * values, level)

    def chain(self, n: int, s: int, transitions: int) -> list[Level]:
        """Return the levels from n down to s, evenly respaced, one more than there are transitions.

        Where fewer levels lie between them some are repeated; such a transition changes nothing.

        Args:
            n: steps of perturbation, at most T.
            s: where the transitions end, 0 <= s < n.
            transitions: at least 1.
        """
        times = [round(n + (s - n) * index / transitions) for index in range(transitions)]
        return [self.level(max(t, 1)) for t in times] + [self.level(s)]

    def regularise(
        self,
        u_lq: Tensor,
        n: int | Sequence[int],
        s: int | Sequence[int],
        transitions: int,
        levels: int,
        draws: Draws,
        *,
        wavelet: bool = True,
        report: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Return u_hat_0^hq: u^lq perturbed for n steps, brought back to s, and from there to 0 at once.

        p(u_{t-1} | u_t) is DDPM's posterior, over respaced levels (Improved DDPM Sec. 4).

        Shapes: u_lq and the result (B, latent, h, w), normalised.

        Args:
            u_lq: latents of degraded faces.
            n: steps of perturbation, of each face or of all.
            s: where the reverse process stops, of each face or of all; 0 <= s < n <= T.
            transitions: between n and s; the network is evaluated once for each, and once more at s.
            levels: J of the wavelet transform; 2^J divides h and w.
            draws: noise of each face.
            wavelet: inject low frequencies (Eq. 1); off: "w/o DWT" of Table 1.
            report: hears of each evaluation.

        Raises:
            NumbersError: an estimate is not finite.
        """
        rows = len(u_lq)
        each_n, each_s = ([value] * rows if isinstance(value, int) else list(value) for value in (n, s))
        chains = [self.chain(a, b, transitions) for a, b in zip(each_n, each_s, strict=True)]
        steps = [list(step) for step in zip(*chains, strict=True)]
        evaluations = transitions + any(level != CLEAN for level in steps[-1])

        def evaluate(u_t: Tensor, step: Sequence[Level], index: int) -> Tensor:
            if report is not None:
                report(index, evaluations)
            clean = self.predict(u_t, _rows(step, u_t)).clean
            if not bool(clean.amax().isfinite() & clean.amin().isfinite()):  # an eighth of the time of asking each
                raise _not_finite(index, evaluations)
            return clean

        # u_n^lq, which is taken for u_n^hq. The same noise makes every u_t^lq, so that u_n^lq is one of them.
        noise = draws.normal("u_n", *u_lq.shape[1:]).to(u_lq)
        u_hq = q_sample(u_lq, _rows(steps[0], u_lq), noise)
        for index, (step, before) in enumerate(pairwise(steps)):
            # p_theta(u_{t-1}^hq | u_t^hq), s < t <= n.
            of_clean, of_noisy, variance = _columns(map(posterior, step, before), u_lq)
            fresh = draws.normal(f"u_{index}", *u_lq.shape[1:]).to(u_lq)
            u_hq = of_clean * evaluate(u_hq, step, index) + of_noisy * u_hq + variance.sqrt() * fresh
            if wavelet:  # Eq. 1, at the level that the transition came to
                u_hq = exchange_low(q_sample(u_lq, _rows(before, u_lq), noise), u_hq, levels)
        # p_theta(u_hat_0^hq | u_s^hq), directly; at s = 0 it is there already.
        return u_hq if evaluations == transitions else evaluate(u_hq, steps[-1], transitions)


def _laid_out(module: nn.Module, _: object = None) -> None:
    """Keep the kernels as rows of channels."""
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _mapping(inp: int, width: int, out: int) -> nn.Sequential:
    """E_Q or D_Q, of which the paper says no more than that they map."""
    return nn.Sequential(
        nn.Conv2d(inp, width, 1),
        nn.SiLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(width, out, 1),
    )


def _columns(rows: Any, like: Tensor) -> list[Tensor]:
    """Return numbers of each face, column by column, each (B, 1, 1, 1)."""
    return [column.view(-1, 1, 1, 1) for column in torch.tensor(list(rows), dtype=torch.float64).to(like).unbind(1)]


def _rows(step: Sequence[Level], like: Tensor) -> Levels:
    """Return the levels of the faces of a batch as tensors."""
    t, alpha, sigma = _columns(((level.t, level.alpha, level.sigma) for level in step), like)
    return Levels(t.flatten(), alpha, sigma)


def _not_finite(index: int, evaluations: int) -> NumbersError:
    return NumbersError(
        f"The regularisation broke off at evaluation {index + 1} of {evaluations}",
        found="NaN or infinity in the estimate of the clean latent; expected numbers",
        kept="No picture was changed",
        todo="Check the weights with `bfr models verify`; report the picture if they are intact",
    )
