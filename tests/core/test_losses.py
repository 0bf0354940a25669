"""Losses against closed forms and float64 evaluations by numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import opens_pickles
from scipy import integrate
from scipy.stats import norm
from torch import nn
from torch.nn import functional as F

from bfr_core.backends.recognizers.mobilefacenet import LAYOUT
from bfr_core.errors import SettingsError
from bfr_core.faces.identity import RecognizerNet, embed, load_recognizer
from bfr_core.metrics.lpips import Lpips
from bfr_core.networks.discriminators import PatchDiscriminator
from bfr_core.networks.mobilefacenet import MobileFaceNet
from bfr_core.networks.vgg import VggFeatures
from train import losses

seeds = st.integers(0, 2**31)


def draw(*shape: int, seed: int = 0, spread: float = 1.0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * spread


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def blobs(count: int, size: int, seed: int = 0) -> torch.Tensor:
    """Pictures that differ in their large forms, as faces do and noise does not."""
    return F.interpolate(pictures(count, 3, 6, 6, seed=seed), size, mode="bicubic").clamp(0, 1)


def softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, x)


@pytest.fixture(scope="module")
def recogniser() -> RecognizerNet:
    """MobileFaceNet without knowledge of faces: the loss must not need any."""
    torch.manual_seed(0)
    net = MobileFaceNet()
    # Its own initialisation shrinks the signal until every picture has the same vector.
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return RecognizerNet(net, LAYOUT)


# Pixels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("enlarged", [(False, False, False), (True, True, True), (True, False, True)])
def test_l1_compares_enlarged_truths_at_half_size(enlarged):
    output, truth = pictures(3, 3, 8, 6), pictures(3, 3, 8, 6, seed=1)
    parts = []
    for one, other, half in zip(output.numpy().astype(float), truth.numpy().astype(float), enlarged, strict=True):
        if half:
            one, other = (x.reshape(3, 4, 2, 3, 2).mean((2, 4)) for x in (one, other))
        parts.append(np.abs(one - other).mean())
    assert losses.l1(output, truth, torch.tensor(enlarged)).item() == pytest.approx(np.mean(parts), rel=1e-6)
    plain = np.abs(output.numpy() - truth.numpy()).mean()
    assert losses.l1(output, truth).item() == pytest.approx(plain, rel=1e-6)
    assert losses.l1(output[:, 0, 0], truth[:, 0, 0]).item() > 0  # codes of any shape


def test_softness_of_an_enlarged_truth_is_free():
    """A sharp output whose 2x2 means are the truth's costs nothing against a truth that has only the means."""
    sharp = pictures(1, 3, 8, 8)
    soft = F.avg_pool2d(sharp, 2).repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert losses.l1(sharp, soft, torch.tensor([True])).item() < 1e-7 < 0.1 < losses.l1(sharp, soft).item()


def test_sparsity_is_the_mean_of_absolutes():
    assert losses.sparsity(torch.tensor([[-0.5, 0.25], [0.0, 1.0]])).item() == pytest.approx(0.4375)


# Identity --------------------------------------------------------------------------------------------------------


def test_identity_is_one_minus_cosine(recogniser):
    output, truth = blobs(2, 128), blobs(2, 128, seed=1)
    one, other = (embed(recogniser, x).numpy().astype(float) for x in (output, truth))
    cosine = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert 0.02 < 1 - cosine.mean() < 1.5
    assert losses.identity(recogniser, output, truth).item() == pytest.approx(1 - cosine.mean(), abs=1e-6)
    given_vectors = losses.identity(recogniser, output, embed(recogniser, truth))
    assert given_vectors.item() == pytest.approx(1 - cosine.mean(), abs=1e-6)
    assert losses.identity(recogniser, truth, truth).item() == pytest.approx(0, abs=1e-6)
    outside = torch.where(pictures(2, 3, 128, 128, seed=2) > 0.9, 3 * output - 1, output)
    clamped = losses.identity(recogniser, outside.clamp(0, 1), truth)
    assert torch.equal(losses.identity(recogniser, outside, truth), clamped)


def test_identity_moves_the_output_only(recogniser):
    output, truth = (blobs(1, 128, seed=n).requires_grad_() for n in (0, 1))
    losses.identity(recogniser, output, truth).backward()
    assert truth.grad is None and output.grad is not None and output.grad.abs().sum() > 0


@opens_pickles
def test_a_stranger_costs_more_than_the_same_person(shared):
    import cv2

    recogniser = load_recognizer(shared / "weights" / "mobilefacenet.pt")
    files = sorted((shared / "faces" / "pd512" / "val").iterdir())[:3]
    faces = torch.stack([torch.from_numpy(cv2.imread(str(f))[..., ::-1].copy()).permute(2, 0, 1) / 255 for f in files])
    same, other = (losses.identity(recogniser, x, faces).item() for x in (faces.flip(-1), faces.roll(1, 0)))
    assert same < 0.25 < 0.4 < other


# Perceptual ------------------------------------------------------------------------------------------------------


def random_vgg(depth: int) -> VggFeatures:
    """A VGG that no two filters of are equal, without the seconds a proper initialisation takes."""
    with torch.device("meta"):
        net = VggFeatures(depth)
    net = net.to_empty(device="cpu").requires_grad_(False)
    noise = 0.05 * draw(4093).float()
    for parameter in net.parameters():
        parameter.copy_(noise.repeat(parameter.numel() // 4093 + 1)[: parameter.numel()].view(parameter.shape))
    return net


def halves(x: torch.Tensor) -> list[torch.Tensor]:
    return [x, F.avg_pool2d(x, 2)]


@pytest.mark.parametrize("criterion", ["l1", "l2"])
@pytest.mark.parametrize("relative", [False, True])
def test_perceptual_by_hand(criterion, relative):
    loss = losses.Perceptual(nn.Identity(), halves, (0.25, 2.0), title="halves", criterion=criterion, relative=relative)
    output, truth = pictures(2, 3, 8, 8), pictures(2, 3, 8, 8, seed=1)
    measure = np.abs if criterion == "l1" else np.square
    wanted = 0.0
    for weight, one, other in zip((0.25, 2.0), halves(output), halves(truth), strict=True):
        for a, b in zip(one.numpy().astype(float), other.numpy().astype(float), strict=True):
            distance = measure(a - b).mean()
            if relative:
                distance /= measure(b - b.mean((1, 2), keepdims=True)).mean()
            wanted += weight * distance / 2
    assert loss(output, truth).item() == pytest.approx(wanted, rel=1e-5)
    assert loss(truth, truth).item() == 0
    moved, still = output.clone().requires_grad_(), truth.clone().requires_grad_()
    loss(moved, still).backward()
    assert moved.grad is not None and still.grad is None


def test_relative_is_about_one_for_a_picture_without_detail_and_does_not_know_the_scale():
    truth = pictures(2, 3, 32, 32)
    flat = truth.mean((2, 3), keepdim=True).expand_as(truth)

    def loss(scale: float) -> float:
        net = losses.Perceptual(
            nn.Identity(), lambda x: [scale * y for y in halves(x)], (0.5, 0.5), title="", relative=True
        )
        return net(flat, truth).item()

    assert loss(1) == pytest.approx(1, rel=1e-5)
    assert loss(1000) == pytest.approx(1, rel=1e-5)
    black = torch.zeros(1, 3, 8, 8)
    plain = losses.Perceptual(nn.Identity(), halves, (1, 1), title="", relative=True)
    assert math.isfinite(plain(black + 0.1, black).item())


@opens_pickles
@pytest.mark.parametrize(("depth", "last"), [(19, "relu3_4"), (16, "relu3_3")])
def test_vgg_compares_the_last_map_of_each_stage(tmp_path, depth, last):
    net, path = random_vgg(depth), tmp_path / "vgg.pth"
    torch.save(net.state_dict(), path)
    loss = losses.load_perceptual(vgg=path)
    assert loss.title == f"VGG{depth} relu1_2 to relu5_{last[-1]}, l1"
    output, truth = pictures(1, 3, 32, 32).requires_grad_(), pictures(1, 3, 32, 32, seed=1)
    names = ["relu1_2", "relu2_2", last, last.replace("3_", "4_"), last.replace("3_", "5_")]
    with torch.no_grad():
        one, other = net(output, names), net(truth, names)
    wanted = sum(
        w * (one[n] - other[n]).abs().double().mean().item() for w, n in zip((0.1, 0.1, 1, 1, 1), names, strict=True)
    )
    value = loss(output, truth)
    assert value.item() == pytest.approx(wanted, rel=1e-5)
    value.backward()
    assert output.grad is not None and output.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in loss.parameters())


def test_without_a_vgg_the_recogniser_looks_and_the_title_says_so(recogniser):
    loss = losses.load_perceptual(recogniser=recogniser)
    assert "MobileFaceNet" in loss.title
    loss.train()
    assert not any(module.training for module in loss.modules())
    truth = pictures(1, 3, 64, 64)
    assert loss(truth, truth).item() == 0
    # Faces above 256 px are shrunk with antialias; what the shrunk ones score is the same.
    large, other = pictures(1, 3, 512, 512), pictures(1, 3, 512, 512, seed=1)
    small = [F.interpolate(x, (256, 256), mode="bilinear", antialias=True) for x in (large, other)]
    assert loss(large, other).item() == pytest.approx(loss(*small).item(), rel=1e-6)
    with pytest.raises(SettingsError, match="neither a VGG nor a recogniser"):
        losses.load_perceptual()


def test_heads_without_a_backbone_are_refused(tmp_path, recogniser):
    with pytest.raises(SettingsError, match="heads without their backbone"):
        losses.load_perceptual(heads=tmp_path / "vgg.pth", recogniser=recogniser)


@opens_pickles
def test_a_recognisers_layers_count_alike_and_punish_blur_more_than_light(shared):
    import cv2

    recogniser = load_recognizer(shared / "weights" / "mobilefacenet.pt")
    file = sorted((shared / "faces" / "free512" / "val").iterdir())[0]
    image = cv2.imread(str(file))[..., ::-1].astype(np.float32) / 255
    blurred = cv2.GaussianBlur(image, (0, 0), 4)
    truth, blurred = (torch.from_numpy(x.copy()).permute(2, 0, 1)[None] for x in (image, blurred))
    brighter = truth + (blurred - truth).abs().mean()
    loss = losses.recogniser_perceptual(recogniser, side=128)
    layers = []
    for layer in range(4):
        loss.weights = tuple(float(n == layer) for n in range(4))
        layers.append(loss(blurred, truth).item())
        assert layers[-1] > 5 * loss(brighter, truth).item()
    assert max(layers) < 2 * min(layers)


@opens_pickles
def test_lpips_is_chosen_with_its_heads(shared, tmp_path):
    torch.save(random_vgg(16).state_dict(), tmp_path / "vgg16.pth")
    heads = shared / "weights" / "lpips_heads" / "vgg.pth"
    if not heads.exists():
        pytest.skip(f"no LPIPS heads at {heads}")
    loss = losses.load_perceptual(vgg=tmp_path / "vgg16.pth", heads=heads)
    assert loss.title == "LPIPS of VGG16"
    output, truth = pictures(2, 3, 32, 32).requires_grad_(), pictures(2, 3, 32, 32, seed=1)
    wanted = Lpips.load(tmp_path / "vgg16.pth", heads)(output, truth).mean().item()
    value = loss(output, truth)
    assert value.item() == pytest.approx(wanted) and wanted > 0
    value.backward()
    assert output.grad is not None and output.grad.abs().sum() > 0


# Adversarial -----------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(seeds, st.floats(0.1, 50))
def test_adversarial_losses_are_their_formulas(seed, spread):
    real, fake = draw(3, 1, 4, 4, seed=seed, spread=spread), draw(3, 1, 4, 4, seed=seed + 1, spread=spread)
    a, b = real.numpy(), fake.numpy()
    assert losses.generator_loss(fake).item() == pytest.approx(softplus(-b).mean())
    assert losses.discriminator_loss(real, fake).item() == pytest.approx((softplus(b) + softplus(-a)).mean())
    assert losses.generator_loss(fake, "hinge").item() == pytest.approx(-b.mean())
    hinge = 0.5 * (np.maximum(0, 1 - a) + np.maximum(0, 1 + b)).mean()
    assert losses.discriminator_loss(real, fake, "hinge").item() == pytest.approx(hinge)
    # Exchanging the pictures and the sign of the judge changes nothing.
    for kind in ("softplus", "hinge"):
        swapped = losses.discriminator_loss(-fake, -real, kind)
        assert losses.discriminator_loss(real, fake, kind).item() == pytest.approx(swapped.item()) and swapped >= 0


def test_a_judge_who_cannot_tell_pays_two_logarithms_of_two():
    zero = torch.zeros(4, 1)
    assert losses.discriminator_loss(zero, zero).item() == pytest.approx(2 * math.log(2))
    assert losses.discriminator_loss(zero, zero, "hinge").item() == 1
    # Far from convincing, the generator still has a full gradient: that is what non-saturating means.
    logit = torch.tensor([-40.0], requires_grad=True)
    losses.generator_loss(logit).backward()
    assert logit.grad is not None and logit.grad.item() == pytest.approx(-1)


@settings(max_examples=25, deadline=None)
@given(seeds, st.floats(0.1, 20), st.integers(1, 32))
def test_r1_of_a_linear_judge_is_half_gamma_times_its_squared_weights(seed, gamma, every):
    weights = draw(3, 5, 5, seed=seed).requires_grad_()
    real = draw(4, 3, 5, 5, seed=seed + 1).requires_grad_()
    penalty = losses.r1(real, (real * weights).sum((1, 2, 3)), gamma, every)
    assert penalty.item() == pytest.approx(every * 0.5 * gamma * weights.square().sum().item())
    (gradient,) = torch.autograd.grad(penalty, weights)
    torch.testing.assert_close(gradient, every * gamma * weights.detach())


def test_r1_reaches_every_weight_of_the_patch_discriminator():
    torch.manual_seed(0)
    judge = PatchDiscriminator(channels=4, depth=2).double()
    real = pictures(2, 3, 17, 20).double().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: judge(x).sum((1, 2, 3)), (real[:1, :, :6, :6],))
    losses.r1(real, judge(real)).backward()
    weights = [p for name, p in judge.named_parameters() if name.endswith("weight")]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in weights)


def test_adaptive_weight_balances_the_gradients():
    layer = draw(3, 4).requires_grad_()
    x = draw(4, seed=1)
    first, second = (layer @ x).square().sum(), (layer @ x).sum()
    # Gradients: 2 (W x) xT and 1 xT.
    ours = np.linalg.norm(2 * np.outer(layer.detach().numpy() @ x.numpy(), x.numpy()))
    theirs = np.linalg.norm(np.outer(np.ones(3), x.numpy()))
    balance = losses.adaptive_weight(first, second, layer, weight=0.75)
    assert balance.item() == pytest.approx(0.75 * ours / (theirs + 1e-4))
    faint = losses.adaptive_weight(first, 1e-3 * second, layer)
    assert faint.item() == pytest.approx(ours / (1e-3 * theirs + 1e-4))
    assert not balance.requires_grad
    (first + balance * second).backward()  # the graphs are still there
    tiny = losses.adaptive_weight((layer @ x).square().sum() * 1e6, 1e-12 * (layer @ x).sum(), layer)
    assert tiny.item() == 1e4


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 70), st.integers(2, 70), st.integers(1, 3))
def test_the_patch_discriminator_judges_any_size_one_by_one(height, width, depth):
    torch.manual_seed(0)
    judge = PatchDiscriminator(channels=4, depth=depth)
    batch = pictures(2, 3, height, width)
    with torch.no_grad():
        logits, alone = judge(batch), judge(batch[:1])
    size = [side // 2 for side in (height, width)]
    for _ in range(depth):
        size = [-(-side // 2) for side in size]
    assert logits.shape == (2, 1, *size)
    torch.testing.assert_close(logits[:1], alone)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_logit_sees_the_patch_the_docstring_states(depth):
    torch.manual_seed(0)
    judge = PatchDiscriminator(channels=4, depth=depth).double()
    x = torch.rand(1, 3, 160, 160, dtype=torch.float64, requires_grad=True)
    logits = judge(x)
    middle = logits.shape[-1] // 2
    logits[0, 0, middle, middle].backward()
    seen = x.grad.abs().sum((0, 1)).nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [12 * 2**depth - 4] * 2


# Latents ---------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(seeds, st.floats(0.01, 2))
def test_vq_gives_each_side_its_own_gradient(seed, beta):
    z_e, z_q = draw(2, 4, 3, 3, seed=seed).requires_grad_(), draw(2, 4, 3, 3, seed=seed + 1).requires_grad_()
    loss = losses.vq(z_e, z_q, beta)
    error = z_e.detach().numpy() - z_q.detach().numpy()
    assert loss.item() == pytest.approx((1 + beta) * (error**2).mean())
    loss.backward()
    assert z_e.grad is not None and z_q.grad is not None
    np.testing.assert_allclose(z_q.grad.numpy(), -2 * error / error.size, atol=1e-15)
    np.testing.assert_allclose(z_e.grad.numpy(), beta * 2 * error / error.size, atol=1e-15)


def test_straight_through_is_the_entry_forward_and_the_identity_backward():
    z_e, z_q = draw(2, 3).requires_grad_(), draw(2, 3, seed=1).requires_grad_()
    out = losses.straight_through(z_e, z_q)
    torch.testing.assert_close(out, z_q)
    pull = draw(2, 3, seed=2)
    out.backward(pull)
    assert torch.equal(z_e.grad, pull) and z_q.grad is None


@settings(max_examples=50, deadline=None)
@given(st.floats(-4, 4), st.floats(-5, 3))
def test_kl_is_the_integral(mean, logvar):
    std = math.exp(logvar / 2)
    x = np.linspace(mean - 12 * std, mean + 12 * std, 20_001)
    density = norm.pdf(x, mean, std)
    wanted = integrate.trapezoid(density * (norm.logpdf(x, mean, std) - norm.logpdf(x)), x)
    ours = losses.kl(torch.full((2, 1, 1, 1), mean).double(), torch.full((2, 1, 1, 1), logvar).double()).item()
    assert ours == pytest.approx(wanted, abs=1e-6, rel=1e-6) and ours > -1e-12


def test_kl_adds_over_elements_and_vanishes_for_the_unit_gaussian():
    mean, logvar = draw(3, 4, 2, 2), draw(3, 4, 2, 2, seed=1)
    m, v = mean.numpy(), logvar.numpy()
    wanted = (0.5 * (m**2 + np.exp(v) - 1 - v)).reshape(3, -1).sum(1).mean()
    assert losses.kl(mean, logvar).item() == pytest.approx(wanted)
    assert losses.kl(torch.zeros(2, 3), torch.zeros(2, 3)).item() == 0
    assert torch.autograd.gradcheck(losses.kl, (mean[:1].requires_grad_(), logvar[:1].requires_grad_()))


# Diffusion -------------------------------------------------------------------------------------------------------


def test_diffusion_weighs_each_picture():
    prediction, target, weight = draw(3, 2, 4, 4), draw(3, 2, 4, 4, seed=1), torch.tensor([0.5, 1.0, 4.0]).double()
    error = ((prediction - target).numpy() ** 2).reshape(3, -1).mean(1)
    assert losses.diffusion(prediction, target).item() == pytest.approx(error.mean())
    assert losses.diffusion(prediction, target, weight).item() == pytest.approx((weight.numpy() * error).mean())
    # Of guesses that cannot see it, zero is the best for unit noise, and costs 1.
    noise = draw(4, 3, 64, 64, seed=2)
    assert losses.diffusion(torch.zeros_like(noise), noise).item() == pytest.approx(1, abs=0.05)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.002, 80), st.floats(0.1, 2))
def test_edm_weight_makes_a_fresh_network_cost_one(sigma, sigma_data):
    """c_skip x is off by sigma^2 sigma_data^2 / (sigma^2 + sigma_data^2) on average (EDM, Appendix B.6)."""
    weight = losses.edm_weight(torch.tensor([sigma]).double(), sigma_data).item()
    assert weight * (sigma**2 * sigma_data**2) / (sigma**2 + sigma_data**2) == pytest.approx(1)


def test_edm_weight_numerically():
    """Denoise known data by c_skip x: the weighted loss is 1 at every noise level."""
    clean = draw(4, 40_000, spread=0.5)
    sigma = torch.tensor([0.05, 0.3, 1.0, 10.0]).double()
    noisy = clean + sigma[:, None] * draw(4, 40_000, seed=1)
    denoised = noisy * (0.25 / (sigma**2 + 0.25))[:, None]
    weight = losses.edm_weight(sigma)
    for row in range(4):
        part = slice(row, row + 1)
        assert losses.diffusion(denoised[part], clean[part], weight[part]).item() == pytest.approx(1, abs=0.03)


def test_edm_sigma_is_log_normal_and_seeded():
    first = losses.edm_sigma(20_000, torch.Generator().manual_seed(3))
    again = losses.edm_sigma(20_000, torch.Generator().manual_seed(3))
    assert torch.equal(first, again)
    logs = first.double().log()
    assert logs.mean().item() == pytest.approx(-1.2, abs=0.03) and logs.std().item() == pytest.approx(1.2, abs=0.03)
    below = (first < math.exp(-1.2 + 1.2)).double().mean().item()
    assert below == pytest.approx(norm.cdf(1), abs=0.01)


@settings(max_examples=50, deadline=None)
@given(st.floats(1e-3, 1 - 1e-3))
def test_min_snr_is_the_same_loss_for_noise_and_for_the_clean_picture(abar):
    """An error d in the noise is an error d sqrt(1 - abar) / sqrt(abar) in the picture it implies."""
    snr = torch.tensor([abar / (1 - abar)]).double()
    noise, clean = (losses.min_snr_weight(snr, kind).item() for kind in ("noise", "clean"))
    assert clean == pytest.approx(min(snr.item(), 5))
    assert noise == pytest.approx(clean * (1 - abar) / abar)


# Training --------------------------------------------------------------------------------------------------------


def fall(parameters, loss, *, steps: int = 60, lr: float = 0.02) -> tuple[float, float]:
    """Return the loss before and after a short training."""
    optimiser = torch.optim.Adam(parameters, lr)
    first = loss().item()
    for _ in range(steps):
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
    return first, loss().item()


def restorer_terms(recogniser):
    look = losses.load_perceptual(recogniser=recogniser)
    return {
        "l1": losses.l1,
        "half": lambda a, b: losses.l1(a, b, torch.tensor([True])),
        "identity": lambda a, b: losses.identity(recogniser, a, b),
        "perceptual": look,
        "diffusion": losses.diffusion,
    }


@pytest.mark.parametrize("name", ["l1", "half", "identity", "perceptual", "diffusion"])
def test_a_tiny_restorer_learns_from(name, recogniser):
    torch.manual_seed(0)
    truth = blobs(1, 64)
    low = truth[:, [1, 2, 0]] * 0.5  # colours changed places and darkened
    net = nn.Conv2d(3, 3, 1)
    nn.init.dirac_(net.weight)
    term = restorer_terms(recogniser)[name]
    before, after = fall(net.parameters(), lambda: term(net(low), truth), steps=15, lr=0.03)
    assert after < 0.9 * before


def test_a_tiny_autoencoder_learns_from_vq_and_kl():
    torch.manual_seed(0)
    data = (draw(8, 8)[torch.arange(64) % 8] + 0.1 * draw(64, 8, seed=1)).float()  # eight kinds
    encoder, decoder = nn.Linear(8, 4), nn.Linear(4, 8)
    book = nn.Parameter(encoder(data[:8]).detach() + 0.3 * torch.randn(8, 4))

    def quantised() -> torch.Tensor:
        z_e = encoder(data)
        z_q = book[torch.cdist(z_e, book).argmin(1)]
        return losses.diffusion(decoder(losses.straight_through(z_e, z_q)), data) + losses.vq(z_e, z_q)

    before, after = fall([book, *encoder.parameters(), *decoder.parameters()], quantised, steps=200, lr=0.01)
    assert after < 0.3 * before and encoder.weight.grad is not None and encoder.weight.grad.abs().sum() > 0
    head = nn.Linear(8, 8)
    before, after = fall(head.parameters(), lambda: losses.kl(*head(data).chunk(2, 1)))
    assert after < 0.1 * before


@pytest.mark.parametrize("kind", ["softplus", "hinge"])
def test_a_tiny_judge_learns_to_tell_and_a_generator_to_please_it(kind):
    torch.manual_seed(0)
    judge = PatchDiscriminator(channels=8, depth=1)
    real = pictures(4, 3, 12, 12)
    fake = 0.5 * real + 0.25  # too little contrast

    def judging() -> torch.Tensor:
        x = real.clone().requires_grad_()
        logits = judge(x)
        return losses.discriminator_loss(logits, judge(fake), kind) + losses.r1(x, logits, gamma=0.001)

    before, after = fall(judge.parameters(), judging, steps=20, lr=0.01)
    assert after < 0.75 * before
    judge.requires_grad_(False)
    contrast = nn.Conv2d(3, 3, 1)
    nn.init.dirac_(contrast.weight)
    before, after = fall(contrast.parameters(), lambda: losses.generator_loss(judge(contrast(fake)), kind), steps=20)
    assert after < before - 0.2
