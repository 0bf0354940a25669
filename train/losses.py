"""The losses of every method, once.

Pictures are (B, 3, H, W) RGB [0, 1]; every loss is a scalar, the mean over the batch, so that the mean over equal
parts of a batch (gradient accumulation) equals the loss of the whole. None of them holds state.

Reductions differ between publications. Where a weight of a paper is meant to be used as printed, the docstring says
which reduction it belongs to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bfr_core.errors import SettingsError
from bfr_core.faces.identity import FaceRecognizer, RecognizerNet, embed, load_recognizer
from bfr_core.metrics.lpips import Lpips
from bfr_core.networks.vgg import load_vgg

# Pixels and codes ------------------------------------------------------------------------------------------------


def l1(output: Tensor, truth: Tensor, enlarged: Tensor | None = None) -> Tensor:
    """Return the mean absolute difference; of pictures or of codes of any shape.

    Args:
        output: what the network made, (B, ...).
        truth: what it should have made.
        enlarged: (B,) bool, pictures whose truth was enlarged from a smaller one. They are compared at half size, so
            that the softness of the truth is not learnt.
    """
    if enlarged is None:
        return (output - truth).abs().mean()
    full = (output - truth).abs().mean((1, 2, 3))
    half = (F.avg_pool2d(output, 2) - F.avg_pool2d(truth, 2)).abs().mean((1, 2, 3))
    # Chosen per picture without asking which there are: a question would wait for the accelerator.
    return torch.where(enlarged, half, full).mean()


def sparsity(mask: Tensor) -> Tensor:
    """Return the mean of |m|, which keeps a mask closed where opening it gains nothing (f_M of CLR-Face)."""
    return mask.abs().mean()


# What a face shows -----------------------------------------------------------------------------------------------


def identity(recogniser: FaceRecognizer, output: Tensor, truth: Tensor) -> Tensor:
    """Return D_cos = 1 - cos(f(output), f(truth)), in [0, 2].

    Source: CLR-Face Eq. 11, Diffuse-and-Restore Eq. 4; pSp and e4e use the same with IR-SE50, VSPBFR with resnet101.
    GFPGAN takes the L1 distance of resnet18's raw vectors instead, so its weight of 10 does not apply here.

    Args:
        recogniser: see bfr_core.faces.identity.
        output: FFHQ-aligned faces. Values outside [0, 1] are clamped first: no file can hold them, and a recogniser,
            who never saw any, rewards some.
        truth: the true faces, or their vectors (B, D) from `embed`; no gradient reaches it.
    """
    with torch.no_grad():
        target = embed(recogniser, truth) if truth.ndim == 4 else truth
    return 1 - (embed(recogniser, output.clamp(0, 1)) * target).sum(1).mean()


class Perceptual(nn.Module):
    """Compare pictures by the features of a frozen network: sum over layers of w_l |phi_l(x) - phi_l(y)|.

    Source: Johnson et al., arXiv:1603.08155, Eq. 2.

    Args:
        net: the network, kept so that the loss moves between devices with it.
        features: maps (B, C, H, W) of a batch of pictures, one for each weight.
        weights: w_l.
        title: what is compared, for the log.
        criterion: mean of absolute (l1) or of squared (l2) differences.
        relative: measure each map of each picture in units of how much the truth's map varies over the picture. A
            restoration without detail then scores about 1 in every layer, whatever the network's scale.
    """

    def __init__(
        self,
        net: nn.Module,
        features: Callable[[Tensor], Sequence[Tensor]],
        weights: Sequence[float],
        *,
        title: str,
        criterion: Literal["l1", "l2"] = "l1",
        relative: bool = False,
    ) -> None:
        super().__init__()
        self.net, self.title, self.weights = net.eval().requires_grad_(False), title, tuple(weights)
        self._features, self._relative = features, relative
        self._measure = torch.abs if criterion == "l1" else torch.square

    def train(self, mode: bool = True) -> Perceptual:
        """Stay in evaluation mode."""
        return super().train(False)

    def forward(self, output: Tensor, truth: Tensor) -> Tensor:
        """Return the distance of `output` to `truth`; no gradient reaches the latter."""
        with torch.no_grad():
            wanted = self._features(truth.detach())
        total = output.new_zeros((), dtype=torch.float32)
        for weight, made, true in zip(self.weights, self._features(output), wanted, strict=True):
            made, true = made.float(), true.float()
            distance = self._measure(made - true).mean((1, 2, 3))
            if self._relative:
                spread = self._measure(true - true.mean((2, 3), keepdim=True)).mean((1, 2, 3))
                # A truth of one colour has no spread; the size of its features stands in.
                distance = distance / spread.clamp(min=1e-8).maximum(0.01 * self._measure(true).mean((1, 2, 3)))
            total = total + weight * distance.mean()
        return total


VGG_WEIGHTS = (0.1, 0.1, 1.0, 1.0, 1.0)
"""Weights of the last map of each stage of VGG in GFPGAN."""


def vgg_perceptual(
    path: Path, weights: Sequence[float] = VGG_WEIGHTS, criterion: Literal["l1", "l2"] = "l1"
) -> Perceptual:
    """Compare the last map of each stage of the VGG19 (or VGG16) in `path`.

    Source: GFPGAN's training options (conv1_2, conv2_2, conv3_4, conv4_4, conv5_4; L1). It reads these convolutions
    before the rectifier, this after it. PLTrans uses VGG19 with L2.

    Raises:
        WeightsError: the file cannot be used or is no VGG.
    """
    net = load_vgg(path)
    names = [[name for name in net.maps if name.startswith(f"relu{stage}_")][-1] for stage in range(1, 6)]
    return Perceptual(
        net,
        lambda x: list(net(x, names).values()),
        weights,
        title=f"{net.title} {names[0]} to {names[-1]}, {criterion}",
        criterion=criterion,
    )


RECOGNISER_SIDE = 256
"""Side that larger faces are shown to a recogniser's convolutions at. They were trained on faces of 112 px; on a whole
face of 256 px the window they know is about 190 px wide."""


def recogniser_perceptual(recogniser: RecognizerNet, side: int = RECOGNISER_SIDE) -> Perceptual:
    """Compare the maps of a recogniser at the end of each of its four stages, where no VGG is at hand.

    The whole face is looked at, not the recogniser's window: its convolutions accept any size. Each layer counts a
    quarter, in units of the truth's own variation. Eight held-out faces of 512 px with MobileFaceNet: a blur of sigma
    4 px scores 0.43 to 0.60 in the four layers, 13 to 21 times as much as a brighter picture with the same L1; with
    the faces shown at 112 px it scores 0.23 on average.
    """

    def features(x: Tensor) -> tuple[Tensor, ...]:
        if x.shape[-1] > side:
            height = round(x.shape[-2] * side / x.shape[-1])
            x = F.interpolate(x, (height, side), mode="bilinear", antialias=True, align_corners=False)
        return recogniser.maps(x)

    title = f"features of {recogniser.title} at the end of each stage, l1, relative"
    return Perceptual(recogniser, features, (0.25,) * 4, title=title, relative=True)


class LpipsLoss(nn.Module):
    """The mean of LPIPS (bfr_core.metrics.lpips), as VQGAN and VSPBFR train with it; VSPBFR adds over the batch."""

    def __init__(self, lpips: Lpips) -> None:
        super().__init__()
        self.net = lpips.eval().requires_grad_(False)
        self.title = f"LPIPS of {lpips.backbone.title}"

    def forward(self, output: Tensor, truth: Tensor) -> Tensor:
        """Return the distance of `output` to `truth`."""
        return self.net(output, truth.detach()).mean()


def load_perceptual(
    vgg: Path | None = None,
    heads: Path | None = None,
    recogniser: RecognizerNet | None = None,
    side: int = RECOGNISER_SIDE,
) -> Perceptual | LpipsLoss:
    """Choose the perceptual loss by what is at hand; its `title` says which, for the log.

    LPIPS with a backbone and its heads, VGG's features with a VGG alone, else the recogniser's own features of
    pictures brought down to `side`.

    Raises:
        SettingsError: nothing was given, or heads without a backbone.
        WeightsError: a file cannot be used.
    """
    if vgg is not None:
        return LpipsLoss(Lpips.load(vgg, heads)) if heads is not None else vgg_perceptual(vgg)
    if recogniser is None or heads is not None:
        raise SettingsError(
            "The perceptual loss has no network to look with",
            found="found LPIPS heads without their backbone" if heads else "found neither a VGG nor a recogniser",
            kept="Nothing was started",
            todo="Give torchvision's vgg19 or vgg16 file, or a recogniser whose own features are compared",
        )
    return recogniser_perceptual(recogniser, side)


def recogniser_of(files: Mapping[str, Path]) -> RecognizerNet:
    """Return the recogniser that a stage was given, or the embedded one.

    Raises:
        WeightsError: the file cannot be used.
    """
    if "recogniser" in files:
        return load_recognizer(files["recogniser"])
    from bfr_core.faces.identity import embedded_recognizer

    return embedded_recognizer()


# Adversarial -----------------------------------------------------------------------------------------------------

Adversarial = Literal["softplus", "hinge"]
"""softplus: the non-saturating loss of GAN (arXiv:1406.2661, Sec. 3) as StyleGAN2 writes it. hinge: Geometric GAN
(arXiv:1705.02894), as VQGAN trains."""


def generator_loss(fake: Tensor, kind: Adversarial = "softplus") -> Tensor:
    """Return what the generator minimises, given the logits of its pictures: softplus(-D) or -D."""
    return F.softplus(-fake).mean() if kind == "softplus" else -fake.mean()


def discriminator_loss(real: Tensor, fake: Tensor, kind: Adversarial = "softplus") -> Tensor:
    """Return what the discriminator minimises, given its logits of real and of generated pictures.

    softplus(D(fake)) + softplus(-D(real)), or half of relu(1 + D(fake)) + relu(1 - D(real)); the half is VQGAN's.
    The generated pictures must be detached.
    """
    if kind == "softplus":
        return F.softplus(fake).mean() + F.softplus(-real).mean()
    return 0.5 * (F.relu(1 + fake).mean() + F.relu(1 - real).mean())


def r1(real: Tensor, logits: Tensor, gamma: float = 10.0, every: int = 1) -> Tensor:
    """Return the R1 penalty gamma / 2 E|dD/dx|^2 on real pictures.

    Source: Mescheder et al., arXiv:1801.04406, Eq. 9. StyleGAN2 (arXiv:1912.04958, Sec. 3.1) evaluates it on every
    k-th step only; the penalty is then multiplied by k, here `every`, so that its pull stays the same.

    Args:
        real: the pictures the logits belong to; they must require a gradient before the discriminator sees them.
        logits: one or a map of logits for each picture; a map is added up.
        gamma: weight; VSPBFR and GFPGAN use 10.
        every: steps between two evaluations.
    """
    (slope,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
    return 0.5 * gamma * every * slope.square().flatten(1).sum(1).mean()


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, weight: float = 1.0) -> Tensor:
    """Return weight |grad L_rec| / (|grad L_adv| + 1e-4), gradients on the decoder's last layer, at most 1e4 weight.

    Source: Esser et al., VQGAN, arXiv:2012.09841, Eq. 7. Both losses keep their graphs; the result has none.
    """
    ours, theirs = (
        torch.autograd.grad(loss, last_layer, retain_graph=True)[0].norm() for loss in (reconstruction, adversarial)
    )
    return weight * (ours / (theirs + 1e-4)).clamp(0, 1e4).detach()


# Latents ---------------------------------------------------------------------------------------------------------


def straight_through(z_e: Tensor, z_q: Tensor) -> Tensor:
    """Return z_q, with the gradient going to z_e unchanged (VQ-VAE, arXiv:1711.00937, Sec. 3.1)."""
    return z_e + (z_q - z_e).detach()


def vq(z_e: Tensor, z_q: Tensor, beta: float = 0.25) -> Tensor:
    """Return |sg[z_e] - z_q|^2 + beta |z_e - sg[z_q]|^2, means over all elements.

    Source: VQ-VAE, arXiv:1711.00937, Eq. 3. The quantiser that Latent Diffusion publishes puts beta on the first term
    unless told otherwise; this follows the paper.

    Args:
        z_e: what the encoder made.
        z_q: the entries of the codebook nearest to it, as looked up, before `straight_through`.
        beta: weight of the commitment.
    """
    return F.mse_loss(z_q, z_e.detach()) + beta * F.mse_loss(z_e, z_q.detach())


def kl(mean: Tensor, logvar: Tensor) -> Tensor:
    """Return KL(N(mean, exp(logvar)) || N(0, 1)) = 1/2 sum(mean^2 + exp(logvar) - 1 - logvar).

    Added over a picture's elements, mean over the batch, as Latent Diffusion does it (its weight is 1e-6). PLTrans
    Eq. 2 (weight 5e-5) names no reduction. Source: VAE, arXiv:1312.6114, Appendix B.
    """
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1).mean()


# Diffusion -------------------------------------------------------------------------------------------------------


def diffusion(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the weighted squared error of a denoiser, mean over elements.

    With the noise as target it is L_simple of DDPM (arXiv:2006.11239, Eq. 14; PLTrans Eq. 4); with the clean picture or
    code as target, x0 prediction.

    Args:
        prediction: what the network made, (B, ...).
        target: noise or clean picture.
        weight: (B,) one for each picture, such as `edm_weight` or `min_snr_weight` gives; None for 1.
    """
    error = (prediction - target).square().flatten(1).mean(1)
    return (error if weight is None else weight * error).mean()


def edm_sigma(
    count: int, generator: torch.Generator, mean: float = -1.2, std: float = 1.2, device: torch.device | str = "cpu"
) -> Tensor:
    """Draw noise levels, ln sigma ~ N(mean, std^2), (count,).

    Source: Karras et al., EDM, arXiv:2206.00364, Table 1 (P_mean, P_std). Drawn on the CPU, so that a seed means the
    same on every device.
    """
    return (mean + std * torch.randn(count, generator=generator)).exp().to(device)


def edm_weight(sigma: Tensor, sigma_data: float = 0.5) -> Tensor:
    """Return lambda(sigma) = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2.

    Source: EDM, arXiv:2206.00364, Table 1. It weighs the error of the denoised picture D(x; sigma) against the clean
    one, and makes the loss of a fresh network, which gives c_skip x, equal to 1 at every sigma.
    """
    return (sigma.square() + sigma_data**2) / (sigma * sigma_data).square()


def min_snr_weight(snr: Tensor, predicts: Literal["noise", "clean"], gamma: float = 5.0) -> Tensor:
    """Return the Min-SNR weight: min(SNR, gamma) for x0 prediction, divided by SNR for noise prediction.

    Source: Hang et al., arXiv:2303.09556; SNR = abar / (1 - abar).
    """
    clipped = snr.clamp(max=gamma)
    return clipped if predicts == "clean" else clipped / snr


def variational_bound(
    values: Tensor, x0: Tensor, x_t: Tensor, clean: Tensor, kept: Tensor, kept_before: Tensor
) -> Tensor:
    """Return the term of the variational bound for one step of the chain, in bits per value, which trains its variance.

    KL(q(x_{t-1} | x_t, x0) || p(x_{t-1} | x_t)), and where x_{t-1} is the picture, - log p(x0 | x_1) of values that are
    steps of 1 / 127.5 (DDPM Eq. 13). The mean has no gradient here: the other loss trains it.

    Source: Improved DDPM, arXiv:2102.09672, Eq. 4-7, 15 and Sec. 3.1.

    Args:
        values: the network's channels for the variance, -1 the posterior's and 1 beta; all (B, C, H, W).
        x0: the clean picture in [-1, 1].
        x_t: the noisy one.
        clean: the network's estimate of x0.
        kept: alpha_bar of x_t, (B, 1, 1, 1).
        kept_before: alpha_bar of x_{t-1}, 1 where that is the picture itself.
    """
    beta = 1 - kept / kept_before
    toward_clean = kept_before.sqrt() * beta / (1 - kept)
    toward_noisy = (kept / kept_before).sqrt() * (1 - kept_before) / (1 - kept)
    mean = (toward_clean * clean + toward_noisy * x_t).detach()
    true_mean = toward_clean * x0 + toward_noisy * x_t
    # A step to the picture itself has a posterior without variance; beta stands in there, as it does when sampling.
    log_posterior = (beta * (1 - kept_before) / (1 - kept)).clamp(min=1e-20).log()
    share = (values + 1) / 2
    first = kept_before >= 1
    floor = torch.where(first, beta.log(), log_posterior)
    log_variance = share * beta.log() + (1 - share) * floor
    kl = 0.5 * (
        log_variance - floor - 1 + (floor - log_variance).exp() + (true_mean - mean).square() * (-log_variance).exp()
    )
    scale = (-0.5 * log_variance).exp()
    above = torch.special.ndtr((x0 - mean + 1 / 255) * scale)
    below = torch.special.ndtr((x0 - mean - 1 / 255) * scale)
    likelihood = torch.where(x0 < -0.999, above, torch.where(x0 > 0.999, 1 - below, above - below))
    nll = -likelihood.clamp(min=1e-12).log()
    return (torch.where(first, nll, kl).flatten(1).mean(1) / math.log(2)).mean()
