"""The U-Net and the autoencoder of the diffusion methods, against an evaluation by their published keys in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import correlate

from bfr_core.networks.conditional_diffusion import RESIDUAL, ConditionalDiffusion
from bfr_core.networks.unet import UNet, timestep_embedding
from bfr_core.networks.vq import SIGMA_DATA, VQAutoencoder
from bfr_core.registry import get_method

# An evaluation of its own: NumPy in float64, layers found by key alone --------------------------------------------


class Weights:
    """A state dict, walked by prefix."""

    def __init__(self, state, prefix=""):
        self.state, self.prefix = state, prefix

    def at(self, name):
        return Weights(self.state, f"{self.prefix}{name}.")

    def has(self, name):
        return any(key.startswith(self.prefix + name) for key in self.state)

    def __getitem__(self, name):
        return self.state[self.prefix + name]


def conv(x, w, stride=1, pad=None):
    kernel, bias = w["weight"], w["bias"]
    if kernel.ndim == 3:
        kernel = kernel[..., None]
    edge = kernel.shape[-1] // 2
    pad = ((edge, edge), (edge, edge)) if pad is None else pad
    x = np.pad(x, ((0, 0), *pad))
    maps = [
        sum(correlate(x[i], kernel[o, i], mode="valid", method="direct") for i in range(len(x)))
        for o in range(len(kernel))
    ]
    return np.stack(maps)[:, ::stride, ::stride] + bias[:, None, None]


def norm(x, w, groups, eps=1e-5):
    parts = x.reshape(groups, -1)
    parts = (parts - parts.mean(1, keepdims=True)) / np.sqrt(parts.var(1, keepdims=True) + eps)
    return parts.reshape(x.shape) * w["weight"][:, None, None] + w["bias"][:, None, None]


def silu(x):
    return x / (1 + np.exp(-x))


def repeat(x):
    return x.repeat(2, axis=1).repeat(2, axis=2)


def halve(x):
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


def linear(x, w):
    return w["weight"] @ x + w["bias"]


def residual(x, told, w, groups, scale_shift, change=None):
    h = silu(norm(x, w.at("in_layers.0"), groups))
    if change is not None:
        h, x = change(h), change(x)
    h = conv(h, w.at("in_layers.2"))
    shift = linear(silu(told), w.at("emb_layers.1"))
    if scale_shift:
        scale, shift = np.split(shift, 2)
        h = norm(h, w.at("out_layers.0"), groups) * (1 + scale)[:, None, None] + shift[:, None, None]
    else:
        h = norm(h + shift[:, None, None], w.at("out_layers.0"), groups)
    h = conv(silu(h), w.at("out_layers.3"))
    return h + (conv(x, w.at("skip_connection")) if w.has("skip_connection") else x)


def attention(x, w, groups, head):
    flat = conv(norm(x, w.at("norm"), groups), w.at("qkv")).reshape(-1, x[0].size)
    made = []
    for part in np.split(flat, max(len(x) // head, 1)):  # heads first, then q, k and v
        q, k, v = np.split(part, 3)
        score = np.exp(q.T @ k / np.sqrt(len(q)))
        made.append(v @ (score / score.sum(1, keepdims=True)).T)
    return x + conv(np.concatenate(made).reshape(x.shape), w.at("proj_out"))


def by_keys(state, x, t, *, channels, groups, head, scale_shift):
    """Evaluate a U-Net: what each block does is told by the keys it has."""
    w = Weights(state)
    angles = t * np.exp(-np.log(10_000) * np.arange(channels // 2) / (channels // 2))
    told = np.concatenate([np.cos(angles), np.sin(angles)])
    told = linear(silu(linear(told, w.at("time_embed.0"))), w.at("time_embed.2"))

    def block(h, w):
        index = 0
        while w.has(f"{index}."):
            layer = w.at(str(index))
            if layer.has("qkv"):
                h = attention(h, layer, groups, head)
            elif layer.has("in_layers"):
                # A block by itself on the way down, or the last of a level on the way up, changes the size.
                alone_down = "input_blocks" in w.prefix and w.prefix in downs
                last_up = "output_blocks" in w.prefix and index and not layer.has("skip_connection")
                change = halve if alone_down else repeat if last_up else None
                h = residual(h, told, layer, groups, scale_shift, change)
            elif layer.has("op"):
                h = conv(h, layer.at("op"), stride=2)
            elif layer.has("conv"):
                h = conv(repeat(h), layer.at("conv"))
            else:
                h = conv(h, layer)
            index += 1
        return h

    downs = {f"input_blocks.{index}." for index in by_keys.downs}
    skips, h, index = [], x, 0
    while w.has(f"input_blocks.{index}."):
        h = block(h, w.at(f"input_blocks.{index}"))
        skips.append(h)
        index += 1
    h = block(h, w.at("middle_block"))
    index = 0
    while w.has(f"output_blocks.{index}."):
        h = block(np.concatenate([h, skips.pop()]), w.at(f"output_blocks.{index}"))
        index += 1
    return conv(silu(norm(h, w.at("out.0"), groups)), w.at("out.2"))


def random_weights(net, seed=0):
    generator = torch.Generator().manual_seed(seed)
    net.double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return {key: value.numpy() for key, value in net.state_dict().items()}


@pytest.mark.parametrize("residual_resample", [True, False])
@pytest.mark.parametrize("scale_shift", [True, False])
def test_the_unet_is_what_its_published_keys_say(residual_resample, scale_shift):
    options = {"channels": 8, "mult": (1, 2), "blocks": 1, "attention": (2,), "head": 8, "groups": 4}
    net = UNet(5, 3, **options, residual_resample=residual_resample, scale_shift=scale_shift)
    state = random_weights(net)
    x = torch.randn(2, 5, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    times = torch.tensor([3.0, 417.0])
    made = net(x, times).detach().numpy()
    by_keys.downs = [2]  # the block between the two levels
    for row, t in enumerate(times.tolist()):
        wanted = by_keys(state, x[row].numpy(), t, channels=8, groups=4, head=8, scale_shift=scale_shift)
        # The sines are float32 in the network, so that half precision cannot reach them.
        assert np.abs(made[row] - wanted).max() < 2e-4 * np.abs(wanted).max()


def test_published_sizes():
    """552,814,086 is guided diffusion's 256 px model; 97 M and 13.7 + 20.2 M are CLR-Face's."""

    def size(net):
        return sum(parameter.numel() for parameter in net.parameters())

    with torch.device("meta"):
        adm = UNet(3, 6, channels=256, mult=(1, 1, 2, 2, 4, 4), blocks=2, attention=(8, 16, 32))
        clr = get_method("clr_face")
        paper = clr.build(clr.config("paper"))
    assert size(adm) == 552_814_086
    assert size(paper.unet) == pytest.approx(97.4e6, rel=1e-3)
    assert size(paper.vq.encoder) == pytest.approx(13.73e6, rel=1e-3)
    assert size(paper.vq.decoder) == pytest.approx(20.22e6, rel=1e-3)


@pytest.mark.parametrize("method", ["clr_face", "diffuse_restore", "lpip_diff"])
def test_compact_networks_are_small(method):
    declared = get_method(method)
    with torch.device("meta"):
        net = declared.build(declared.config("compact"))
    own = [parameter for name, parameter in net.named_parameters() if not name.startswith("irn.")]
    assert sum(parameter.numel() for parameter in own) <= 12e6


def test_an_untrained_unet_gives_nothing():
    """Zero convolutions at the end, as published: a chain starts from the preconditioning alone."""
    net = UNet(4, 2, channels=8, mult=(1, 2), blocks=1, groups=4)
    assert net(torch.randn(1, 4, 8, 8), torch.zeros(1)).abs().max() == 0


def test_folding_is_a_strided_layout_of_the_same_network():
    folded = UNet(2, 1, channels=8, mult=(1, 2), blocks=1, groups=4, fold=2)
    plain = UNet(8, 4, channels=8, mult=(1, 2), blocks=1, groups=4)
    random_weights(folded)
    plain.double().load_state_dict(folded.state_dict())
    x = torch.randn(1, 2, 16, 16, dtype=torch.float64)
    rows = x.view(1, 2, 8, 2, 8, 2).permute(0, 1, 3, 5, 2, 4).reshape(1, 8, 8, 8)
    small = plain(rows, torch.ones(1))
    assert folded.multiple == 4
    wanted = small.view(1, 1, 2, 2, 8, 8).permute(0, 1, 4, 2, 5, 3).reshape(1, 1, 16, 16)
    torch.testing.assert_close(folded(x, torch.ones(1)), wanted)


def test_times_are_told_apart():
    told = timestep_embedding(torch.tensor([0.0, 1.0, 999.0]), 64)
    np.testing.assert_allclose(told[0].numpy(), [1.0] * 32 + [0.0] * 32)
    assert (told[1] - told[2]).abs().max() > 0.5


# The autoencoder ---------------------------------------------------------------------------------------------------


def vq_block(x, w, groups):
    h = conv(silu(norm(x, w.at("norm1"), groups, 1e-6)), w.at("conv1"))
    h = conv(silu(norm(h, w.at("norm2"), groups, 1e-6)), w.at("conv2"))
    return h + (conv(x, w.at("nin_shortcut")) if w.has("nin_shortcut") else x)


def encoded(state, x, groups, levels):
    w = Weights(state, "encoder.")
    h = conv(x, w.at("conv_in"))
    for level in range(levels):
        h = vq_block(h, w.at(f"down.{level}.block.0"), groups)
        if w.has(f"down.{level}.downsample"):  # one row and column of zeros, at the far end only
            h = conv(h, w.at(f"down.{level}.downsample.conv"), stride=2, pad=((0, 1), (0, 1)))
    h = vq_block(vq_block(h, w.at("mid.block_1"), groups), w.at("mid.block_2"), groups)
    h = conv(silu(norm(h, w.at("norm_out"), groups, 1e-6)), w.at("conv_out"))
    return conv(h, Weights(state, "quant_conv."))


def decoded(state, z, groups, levels):
    w = Weights(state, "decoder.")
    h = conv(conv(z, Weights(state, "post_quant_conv.")), w.at("conv_in"))
    h = vq_block(vq_block(h, w.at("mid.block_1"), groups), w.at("mid.block_2"), groups)
    for level in reversed(range(levels)):
        for index in range(2):  # one block more than the encoder's
            h = vq_block(h, w.at(f"up.{level}.block.{index}"), groups)
        if w.has(f"up.{level}.upsample"):
            h = conv(repeat(h), w.at(f"up.{level}.upsample.conv"))
    return conv(silu(norm(h, w.at("norm_out"), groups, 1e-6)), w.at("conv_out"))


@pytest.fixture(scope="module")
def vq():
    net = VQAutoencoder(4, (1, 2, 2), 1, codes=32, groups=2)
    random_weights(net)
    return net.requires_grad_(False)


def test_the_autoencoder_is_what_its_published_keys_say(vq):
    state = {key: value.numpy() for key, value in vq.state_dict().items()}
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    z = vq.encode(x)
    assert z.shape == (1, 3, 4, 4)
    np.testing.assert_allclose(z[0].numpy(), encoded(state, x[0].numpy(), 2, 3), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(vq.decode_codes(z)[0].numpy(), decoded(state, z[0].numpy(), 2, 3), rtol=1e-8, atol=1e-8)


def test_the_shortcut_carries_means_of_colours():
    net = VQAutoencoder(4, (1, 2), 1, dim=4, codes=16, groups=2, shortcut=True)
    state = random_weights(net)
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    z = net.encode(x).detach()
    means = x[0].numpy().reshape(3, 4, 2, 4, 2).mean((2, 4))
    told = conv(means, Weights(state, "shortcut_in."))
    np.testing.assert_allclose(z[0].numpy(), encoded(state, x[0].numpy(), 2, 2) + told, rtol=1e-9, atol=1e-9)
    # A latent that is the same everywhere adds one colour.
    flat = torch.ones(1, 4, 4, 4, dtype=torch.float64)
    added = net.decode_codes(flat).detach()[0].numpy() - decoded(state, flat[0].numpy(), 2, 2)
    wanted = state["shortcut_out.weight"][:, :, 0, 0].sum(1) + state["shortcut_out.bias"]
    np.testing.assert_allclose(added, np.broadcast_to(wanted[:, None, None], added.shape), rtol=1e-8)


def test_the_nearest_entry_is_the_nearest(vq):
    """Eq. 1 by brute force over every entry."""
    z = torch.randn(2, 3, 9, 7, dtype=torch.float64)
    quantised, numbers = vq.quantise(z)
    distance = np.linalg.norm(z.numpy()[:, None] - vq.codebook.numpy()[None, :, :, None, None], axis=2)
    np.testing.assert_array_equal(numbers.numpy(), distance.argmin(1))
    np.testing.assert_array_equal(quantised.numpy(), vq.codebook.numpy()[distance.argmin(1)].transpose(0, 3, 1, 2))


def test_half_precision_chooses_the_same_entries():
    net = VQAutoencoder(4, (1,), 1, codes=4096, groups=2)
    torch.nn.init.normal_(net.quantize.embedding.weight)
    z = torch.randn(1, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        within = net.nearest(z)
    assert torch.equal(within, net.nearest(z))


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 12), st.integers(1, 12))
def test_quantising_twice_changes_nothing(height, width):
    net = VQAutoencoder(4, (1,), 1, codes=16, groups=2)
    torch.nn.init.normal_(net.quantize.embedding.weight)
    once, _ = net.quantise(torch.randn(1, 3, height, width))
    torch.testing.assert_close(net.quantise(once)[0], once, rtol=0, atol=0)


def test_gradients_pass_the_quantiser_straight_through(vq):
    z = torch.randn(1, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    (through,) = torch.autograd.grad((vq.decode(z) * weight).sum(), z)
    quantised = vq.quantise(z.detach())[0].requires_grad_(True)
    (wanted,) = torch.autograd.grad((vq.decode_codes(quantised) * weight).sum(), quantised)
    torch.testing.assert_close(through, wanted)


def test_normalised_latents_have_the_spread_that_edm_assumes(vq):
    z = 3 + 7 * torch.randn(1, 3, 64, 64, dtype=torch.float64)
    net = VQAutoencoder(4, (1,), 1, codes=16, groups=2)
    net.mean.fill_(3), net.std.fill_(7)
    made = net.normalise(z)
    assert made.std().item() == pytest.approx(SIGMA_DATA, rel=0.05)
    torch.testing.assert_close(net.denormalise(made), z)


# What the pixel models predict --------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 999), st.integers(0, 2**31))
def test_the_residual_is_edm_of_what_the_recovered_face_lacks(t, seed):
    """EDM Eq. 7 and 8 in NumPy for the data y_0 - g_phi(x), and the estimate of its own target is the truth."""
    rng = np.random.default_rng(seed)
    y_0, noise, recovered, said = (rng.normal(size=(1, 3, 2, 2)) for _ in range(4))
    net = ConditionalDiffusion(
        unet={"channels": 8, "mult": (1,), "blocks": 1, "groups": 4}, irn=None, condition="irn", predicts="residual"
    )
    kept = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[t]
    level = net.schedule.level(t)
    y_t = np.sqrt(kept) * y_0 + np.sqrt(1 - kept) * noise
    sigma, data = np.sqrt((1 - kept) / kept), RESIDUAL
    skip, out = data**2 / (sigma**2 + data**2), sigma * data / np.sqrt(sigma**2 + data**2)
    rest = y_t / np.sqrt(kept) - recovered
    wanted = recovered + skip * rest + out * said
    tensors = {name: torch.from_numpy(value) for name, value in locals().items() if isinstance(value, np.ndarray)}
    made = net.estimated(tensors["y_t"], tensors["said"], tensors["recovered"], level)
    np.testing.assert_allclose(made.clean.numpy(), wanted, rtol=1e-9)
    np.testing.assert_allclose(level.alpha * made.clean.numpy() + level.sigma * made.noise.numpy(), y_t, rtol=1e-9)
    target = net.target(tensors["y_0"], tensors["noise"], tensors["y_t"], tensors["recovered"], level)
    back = net.estimated(tensors["y_t"], target, tensors["recovered"], level)
    np.testing.assert_allclose(back.clean.numpy(), y_0, rtol=1e-6, atol=1e-9)
