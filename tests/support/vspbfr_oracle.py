"""VSPBFR evaluated a second time, in float64 NumPy, from the published equations and layouts.

Nothing here uses a layer of PyTorch: convolutions are sums over shifted views, resampling is written out, attention is
einsum. Every function takes `p`, a dict of float64 arrays under the published key names of one module (`at` narrows it
to a prefix), and the noise as an argument. Shapes: maps (B, C, H, W), codes (B, N, D).
Source: Lu et al., "Visual Style Prompt Learning Using Diffusion Models for Blind Face Restoration", Sec. III; the
layouts of StyleGAN2, e4e and the released VSPBFR checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.special import expit, softmax

Params = Mapping[str, np.ndarray]
Noise = Sequence["np.ndarray | float"]
FIR = (1.0, 3.0, 3.0, 1.0)
RATES = (1, 2, 4, 8)


def at(p: Params, prefix: str) -> dict[str, np.ndarray]:
    """The arrays below `prefix.`, without it."""
    found = {key[len(prefix) + 1 :]: value for key, value in p.items() if key.startswith(prefix + ".")}
    if not found:
        raise KeyError(prefix)
    return found


def count(p: Params, prefix: str) -> int:
    """How many numbered children `prefix` has."""
    return len({key[len(prefix) + 1 :].split(".")[0] for key in p if key.startswith(prefix + ".")})


# Convolution and FIR filtering


def conv(x, w, stride=1, padding=0, dilation=1):
    """Correlation of (B, C, H, W) with (O, C, k, k), or with one kernel per sample, (B, O, C, k, k)."""
    k = w.shape[-1]
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    h, v = ((n - dilation * (k - 1) - 1) // stride + 1 for n in x.shape[2:])
    spec = "boc,bchw->bohw" if w.ndim == 5 else "oc,bchw->bohw"
    total = 0.0
    for i in range(k):
        for j in range(k):
            view = x[:, :, i * dilation :: stride, j * dilation :: stride][:, :, :h, :v]
            total = total + np.einsum(spec, w[..., i, j], view, optimize=True)
    return total


def insert_zeros(x, up):
    """Each sample followed by `up - 1` zeros, in both directions."""
    out = np.zeros((*x.shape[:2], x.shape[2] * up, x.shape[3] * up))
    out[:, :, ::up, ::up] = x
    return out


def conv_transpose(x, w, stride=2):
    """Transposed convolution without padding by (B, O, C, k, k): each sample stamps the kernel `stride` apart."""
    z = insert_zeros(x, stride)[:, :, : 1 - stride or None, : 1 - stride or None]
    return conv(z, w[..., ::-1, ::-1], padding=w.shape[-1] - 1)


def upfirdn(x, taps=FIR, up=1, down=1, pad=(0, 0), gain=1.0):
    """Zero insertion, padding, convolution with the normalised separable filter, decimation."""
    kernel = np.outer(taps, taps) / np.sum(taps) ** 2 * gain
    z = np.pad(insert_zeros(x, up), ((0, 0), (0, 0), pad, pad))
    n = len(taps)
    h, v = z.shape[2] - n + 1, z.shape[3] - n + 1
    out = np.zeros((*z.shape[:2], h, v))
    for i in range(n):
        for j in range(n):
            out += kernel[n - 1 - i, n - 1 - j] * z[:, :, i : i + h, j : j + v]
    return out[:, :, ::down, ::down]


def upsample(x):
    """Twice the size: the filter with gain 4."""
    return upfirdn(x, up=2, pad=(2, 1), gain=4.0)


def bilinear(x, size, corners=False):
    """Two-tap bilinear resampling to (H, W), no antialiasing; `corners`: the outer samples' centres coincide."""
    for axis, n in zip((2, 3), size, strict=True):
        m = x.shape[axis]
        places = np.arange(n) * (m - 1) / max(n - 1, 1) if corners else (np.arange(n) + 0.5) * m / n - 0.5
        places = np.clip(places, 0, m - 1)
        low = np.floor(places).astype(int)
        part = (places - low).reshape([-1 if a == axis else 1 for a in range(4)])
        x = x.take(low, axis) * (1 - part) + x.take(np.minimum(low + 1, m - 1), axis) * part
    return x


def to_channels(x, patch):
    """(B, C, H, W) to (B, C patch^2, H / patch, W / patch): each square of pixels becomes channels, row by row."""
    b, c, h, w = x.shape
    squares = x.reshape(b, c, h // patch, patch, w // patch, patch)
    return squares.transpose(0, 1, 3, 5, 2, 4).reshape(b, c * patch**2, h // patch, w // patch)


def to_pixels(x, patch):
    """The way back."""
    b, c, h, w = x.shape
    squares = x.reshape(b, c // patch**2, patch, patch, h, w)
    return squares.transpose(0, 1, 4, 2, 5, 3).reshape(b, c // patch**2, h * patch, w * patch)


# Activations, linear layers, norms


def leaky(x, slope=0.2, gain=1.0):
    return np.where(x > 0, x, slope * x) * gain


def scaled_leaky(x, bias=0.0):
    """Leaky ReLU of slope 0.2 times the square root of 2, after a bias per channel."""
    if np.ndim(bias):
        bias = np.reshape(bias, (1, -1) + (1,) * (x.ndim - 2))
    return leaky(x + bias, gain=np.sqrt(2.0))


def linear(p, x):
    return x @ p["weight"].T + p.get("bias", 0.0)


def equal_linear(p, x, multiplier=1.0, activate=False):
    """Linear layer with equalised learning rate: weight times multiplier / sqrt(fan in), bias times multiplier."""
    out = x @ (p["weight"] * multiplier / np.sqrt(p["weight"].shape[1])).T
    bias = p["bias"] * multiplier
    return scaled_leaky(out, bias) if activate else out + bias


def equal_conv(p, x, **how):
    """Convolution with equalised learning rate, and its bias where it has one."""
    w = p["weight"]
    out = conv(x, w / np.sqrt(w[0].size), **how)
    return out + p["bias"].reshape(1, -1, 1, 1) if "bias" in p else out


def root_mean_square_norm(x, axis):
    return x / np.sqrt(np.mean(x**2, axis, keepdims=True) + 1e-8)


def layer_norm(x, p: Params | None = None):
    out = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return out * p["weight"] + p["bias"] if p else out


def batch_norm(p, x):
    """Batch normalisation with the stored statistics."""
    mean, var, weight, bias = (p[k].reshape(1, -1, 1, 1) for k in ("running_mean", "running_var", "weight", "bias"))
    return (x - mean) / np.sqrt(var + 1e-5) * weight + bias


# StyleGAN2


def modulated(w, scale, demodulate=True):
    """Kernels (O, C, k, k) of equalised learning rate, times each sample's `scale` (B, C), each output of norm 1."""
    w = w / np.sqrt(w[0].size) * scale[:, None, :, None, None]
    return w / np.sqrt((w**2).sum((2, 3, 4), keepdims=True) + 1e-8) if demodulate else w


def modulated_conv(p, x, style, mode="plain", demodulate=True):
    """`conv.*`: plain, up (transposed, then filtered) or down (filtered, then strided)."""
    w = modulated(p["weight"][0], equal_linear(at(p, "modulation"), style), demodulate)
    if mode == "up":
        return upfirdn(conv_transpose(x, w), pad=(1, 1), gain=4.0)
    if mode == "down":
        return conv(upfirdn(x, pad=(2, 2)), w, stride=2)
    return conv(x, w, padding=w.shape[-1] // 2)


def styled_conv(p, x, style, noise, mode="plain"):
    """Modulated convolution, noise, bias, scaled leaky ReLU."""
    out = modulated_conv(at(p, "conv"), x, style, mode) + p["noise.weight"] * noise
    return scaled_leaky(out, p["activate.bias"])


def to_rgb(p, x, style, skip=None, patch=1):
    """The picture of a map, on top of the enlarged one below; `patch`: pixels a position writes, in each direction."""
    out = to_pixels(modulated_conv(at(p, "conv"), x, style, demodulate=False), patch) + p["bias"].reshape(1, -1, 1, 1)
    if skip is None:
        return out
    return out + (upsample(skip) if patch == 1 else upsample(upsample(skip)))


def mapping(p, z):
    """`style.1` to `style.n`: normalisation over the channels, then linear layers of learning rate 0.01."""
    x = root_mean_square_norm(z, 1)
    for n in range(1, count(p, "style") + 1):
        x = equal_linear(at(p, f"style.{n}"), x, multiplier=0.01, activate=True)
    return x


def generator(p, codes, noise: Noise):
    """`decoder.*`: (image, features); the features are those after the first convolution of each resolution."""
    x = np.repeat(p["input.input"], len(codes), 0)
    x = styled_conv(at(p, "conv1"), x, codes[:, 0], noise[0])
    features = [x]
    image = to_rgb(at(p, "to_rgb1"), x, codes[:, 1])
    for n in range(count(p, "to_rgbs")):
        i = 2 * n
        x = styled_conv(at(p, f"convs.{i}"), x, codes[:, i + 1], noise[i + 1], "up")
        features.append(x)
        x = styled_conv(at(p, f"convs.{i + 1}"), x, codes[:, i + 2], noise[i + 2])
        image = to_rgb(at(p, f"to_rgbs.{n}"), x, codes[:, i + 3], image)
    return image, features


# Style encoder (e4e)


def bottleneck(p, x, stride):
    """`body.i`: batch norm, convolution, PReLU, strided convolution, batch norm, squeeze and excitation; shortcut."""
    r = at(p, "res_layer")
    y = conv(batch_norm(at(r, "0"), x), r["1.weight"], padding=1)
    y = np.where(y > 0, y, r["2.weight"].reshape(1, -1, 1, 1) * y)
    y = batch_norm(at(r, "4"), conv(y, r["3.weight"], stride=stride, padding=1))
    gate = np.maximum(conv(y.mean((2, 3), keepdims=True), r["5.fc1.weight"]), 0)
    y = y * expit(conv(gate, r["5.fc2.weight"]))
    if "shortcut_layer.0.weight" in p:
        return y + batch_norm(at(p, "shortcut_layer.1"), conv(x, p["shortcut_layer.0.weight"], stride=stride))
    return y + x[:, :, ::stride, ::stride]


def style_head(p, x):
    """`styles.i`: strided convolutions down to one pixel, leaky ReLU of slope 0.01 after each, then a linear layer."""
    for n in range(count(p, "convs")):
        layer = at(p, f"convs.{2 * n}")
        x = leaky(conv(x, layer["weight"], stride=2, padding=1) + layer["bias"].reshape(1, -1, 1, 1), 0.01)
    return equal_linear(at(p, "linear"), x.reshape(len(x), -1))


def style_encoder(p, x, units=(3, 4, 14, 3), latent_avg=0.0, coarse=3, middle=7):
    """`encoder.*` on pictures in [-1, 1]: one code for all layers from the deepest map, plus one difference a layer."""
    x = batch_norm(at(p, "input_layer.1"), conv(x, p["input_layer.0.weight"], padding=1))
    x = np.where(x > 0, x, p["input_layer.2.weight"].reshape(1, -1, 1, 1) * x)
    ends, block = [], 0
    for length in units:
        for n in range(length):
            x = bottleneck(at(p, f"body.{block}"), x, 2 if n == 0 else 1)
            block += 1
        ends.append(x)
    _, c1, c2, c3 = ends

    def lateral(name, top, side):
        add = conv(side, p[f"{name}.weight"]) + p[f"{name}.bias"].reshape(1, -1, 1, 1)
        return bilinear(top, side.shape[2:], corners=True) + add

    p2 = lateral("latlayer1", c3, c2)
    p1 = lateral("latlayer2", p2, c1)
    first = style_head(at(p, "styles.0"), c3)
    codes = [first]
    for n in range(1, count(p, "styles")):
        codes.append(first + style_head(at(p, f"styles.{n}"), c3 if n < coarse else p2 if n < middle else p1))
    return np.stack(codes, 1) + latent_avg


# Code diffuser


def with_time(codes, t):
    """[w, t]: the time as one more channel of every token."""
    return np.concatenate([codes, np.full((*codes.shape[:2], 1), float(t))], -1)


def tacc(p, x, condition, kappa=18.0):
    """`att_mapper.i` as released. `kappa`: the token scores are divided by its root (18 whatever the tokens)."""
    x = root_mean_square_norm(x, 1)
    q, k, v = linear(at(p, "q_matrix"), condition), linear(at(p, "k_matrix"), x), linear(at(p, "v_matrix"), x)
    tokens = np.einsum("bkq,bqd->bkd", softmax(np.einsum("bkd,bqd->bkq", k, q) / np.sqrt(kappa), 2), v)

    c = at(p, "attention_layer")
    q, k, v = linear(at(c, "q_matrix"), x), linear(at(c, "k_matrix"), condition), linear(at(c, "v_matrix"), x)
    scores = np.einsum("bnk,bnq->bkq", k, q) / np.sqrt(x.shape[2])
    channels = layer_norm(np.einsum("bnk,bkq->bnq", v, softmax(scores, 1)))

    def branch(name):
        hidden = scaled_leaky(layer_norm(linear(at(p, f"{name}.0"), condition), at(p, f"{name}.1")))
        return linear(at(p, f"{name}.3"), hidden)

    return layer_norm(tokens + channels) * (1 + expit(branch("gamma_"))) + scaled_leaky(branch("beta_"))


def tacc_paper(p, x, condition, hidden: Callable = leaky, last: Callable = leaky):
    """Eq. 4-5 as printed, with w of (D, N): softmax over the axis that the value is summed over.

    `hidden` and `last` are the activation between the two layers of an MLP and phi: leaky ReLU of slope 0.2.
    """
    c = at(p, "attention_layer")
    w = {name: linear(at(p, f"{name}_matrix"), condition if name == "q" else x).swapaxes(1, 2) for name in "qkv"}
    u = {name: linear(at(c, f"{name}_matrix"), condition if name == "q" else x).swapaxes(1, 2) for name in "qkv"}
    depth, length = w["v"].shape[1:]
    first = w["v"] @ softmax(w["q"].swapaxes(1, 2) @ w["k"] / np.sqrt(length), axis=1)
    second = softmax(u["q"] @ u["k"].swapaxes(1, 2) / np.sqrt(depth), axis=2) @ u["v"]

    def mlp(name):
        one, two = sorted((int(key.split(".")[1]) for key in p if key.startswith(name) and p[key].ndim == 2), key=int)
        return linear(at(p, f"{name}.{two}"), hidden(linear(at(p, f"{name}.{one}"), condition)))

    return layer_norm((first + second).swapaxes(1, 2)) * (expit(mlp("gamma_")) + 1) + last(mlp("beta_"))


def code_diffuser(p, x, initial, t, block: Callable = tacc):
    """`att_mapper.*`: the blocks one after the other, all conditioned on [w_hat, t]."""
    for n in range(count(p, "att_mapper")):
        x = block(at(p, f"att_mapper.{n}"), x, with_time(initial, t))
    return x


# Diffusion in W+


def betas_sqrt_linear(first=0.1, last=0.99, steps=4):
    """Squares of an even ladder between the roots (what latent diffusion calls linear)."""
    return np.linspace(first**0.5, last**0.5, steps) ** 2


def betas_linear(first=0.1, last=0.99, steps=4):
    return np.linspace(first, last, steps)


def noised(betas, x0, t, noise):
    """Eq. 1 in closed form; `t` counts from 0."""
    kept = np.prod(1 - betas[: t + 1])
    return np.sqrt(kept) * x0 + np.sqrt(1 - kept) * noise


def posterior(betas, t):
    """q(w^{t-1} | w^t, w^0): the weights of w^0 and of w^t in its mean, and its variance; `t` counts from 0.

    From Bayes' rule on the two Gaussians of Eq. 1: the precisions add.
    """
    alpha, before = 1 - betas[t], float(np.prod(1 - betas[:t]))
    if t == 0:
        return 1.0, 0.0, 0.0
    precision = alpha / betas[t] + 1 / (1 - before)
    return np.sqrt(before) / (1 - before) / precision, np.sqrt(alpha) / betas[t] / precision, 1 / precision


def chain_of_means(predict: Callable, betas, start):
    """[w^T ... w^0] where the network predicts w^0 and each step takes the posterior's mean (as released)."""
    steps = [start]
    for t in reversed(range(len(betas))):
        of_clean, of_noisy, _ = posterior(betas, t)
        steps.append(of_clean * predict(steps[-1], t) + of_noisy * steps[-1])
    return steps


def ancestral_chain(predict: Callable, betas, start, noise: Noise):
    """[w^T ... w^0] of Eq. 3; the network predicts the noise, `noise[i]` is what the i-th step visited adds."""
    steps = [start]
    for i, t in enumerate(reversed(range(len(betas)))):
        alpha, kept, before = 1 - betas[t], np.prod(1 - betas[: t + 1]), np.prod(1 - betas[:t])
        sigma = np.sqrt((1 - before) / (1 - kept) * betas[t])
        mean = (steps[-1] - (1 - alpha) / np.sqrt(1 - kept) * predict(steps[-1], t)) / np.sqrt(alpha)
        steps.append(mean + sigma * noise[i])
    return steps


# Restoration auto-encoder


def fused(p, x, padding=0):
    """Equalised convolution `0`, bias and scaled leaky ReLU `1`."""
    return scaled_leaky(equal_conv(at(p, "0"), x, padding=padding), p["1.bias"])


def smart(p, x, style, noise, rates=RATES):
    """SMART as released: a quarter of the width a dilation, one style for all, 3 x 3 fusion, noise, activation."""
    scale = equal_linear(at(p, "modulation"), style)
    branches = [
        conv(x, modulated(p[f"ModulatedConv2ds.{n}.weight"][0], scale), padding=rate, dilation=rate)
        for n, rate in enumerate(rates)
    ]
    out = fused(at(p, "fusion"), np.concatenate(branches, 1), padding=1) + p["noise.weight"] * noise
    return scaled_leaky(out, p["activate.bias"])


def smart_paper(p, x, style, noise=None, rates=RATES, phi: Callable = leaky):
    """Eq. 8: F^d = phi(Conv_d^k'(F)) with one kernel k' = Demod(Mod(k, s)), d in 1, 2, 4, 8; a 3 x 3 aggregation."""
    kernel = modulated(p["weight"][0], equal_linear(at(p, "modulation"), style))
    maps = [phi(conv(x, kernel, padding=rate, dilation=rate)) for rate in rates]
    return equal_conv(at(p, "fusion"), np.concatenate(maps, 1), padding=1)


def dilated_layer(p, x):
    """`down_from_big` and `final_layer`: four dilations, 1 x 1 fusion with its activation, one more activation."""
    reach = p["dilated_convs.0.weight"].shape[-1] // 2
    maps = [
        equal_conv(at(p, f"dilated_convs.{n}"), x, padding=reach * rate, dilation=rate) for n, rate in enumerate(RATES)
    ]
    return scaled_leaky(fused(at(p, "fusion"), np.concatenate(maps, 1)), p["activate.bias"])


def restorer_encoder(p, image, styles, noise: Noise, rates=RATES):
    """(global code, maps from 4 x 4 up); `styles[level]` (B, 2 D) for both layers of a level, largest level first."""
    x = dilated_layer(at(p, "down_from_big"), image)
    maps = []
    for level in range(count(p, "encoder_convs") // 2):
        x = smart(at(p, f"encoder_convs.{2 * level}"), x, styles[level], noise[2 * level], rates)
        maps.append(x)
        x = styled_conv(at(p, f"encoder_convs.{2 * level + 1}"), x, styles[level], noise[2 * level + 1], "down")
    x = dilated_layer(at(p, "final_layer"), x)
    code = equal_linear(at(p, "final_linear.0"), x.reshape(len(x), -1), activate=True)
    back = equal_linear(at(p, "final_transfer"), code, activate=True).reshape(x.shape)
    return code, [x + back, *reversed(maps)]


def restorer(p, image, priors, codes, random, encoder_noise: Noise, decoder_noise: Noise, rates=RATES, patch=1):
    """The released auto-encoder on a picture in [-1, 1].

    `priors`: maps of the facial feature bank from 4 x 4 up (the first is not read); `codes` (B, >= N, D) denoised;
    `random` (B, N, D) styles from `mapping`; the noises in the order of evaluation.
    """
    levels = count(p, "to_rgbs")
    styles = np.concatenate([codes[:, : 2 * levels + 2], random], -1)
    flipped = styles[:, ::-1]
    shared = [flipped[:, 2 * level] for level in range(levels)]
    code, maps = restorer_encoder(p, to_channels(image, patch), shared, encoder_noise, rates)

    def style(n):
        return np.concatenate([styles[:, n], code], 1)

    x = smart(at(p, "conv1"), maps[0], style(0), decoder_noise[0], rates)
    out = to_rgb(at(p, "to_rgb1"), x, style(1))
    for n in range(levels):
        i = 2 * n
        x = styled_conv(at(p, f"convs.{i}"), x, style(i + 1), decoder_noise[i + 1], "up")
        x = x + maps[n + 1] + (priors[n + 1] if priors is not None else 0.0)
        x = smart(at(p, f"convs.{i + 1}"), x, style(i + 2), decoder_noise[i + 2], rates)
        out = to_rgb(at(p, f"to_rgbs.{n}"), x, style(i + 3), out, patch if n == levels - 1 else 1)
    return out


def restorer_paper(p, image, priors, codes, random, encoder_noise: Noise, decoder_noise: Noise, rates=RATES, **smarts):
    """Eqs. 6 and 7, i counted from 1; `encoder_noise[i]` and `decoder_noise[i]` belong to F_i (SMART takes none).

    Convolutions that the text leaves open are 3 x 3 under `stem`, `first`, `head`, equalised; FC is `final_linear`.
    """
    layers = count(p, "encoder_convs")
    style = [np.concatenate([codes[:, i], random[:, i]], 1) for i in range(layers)]
    encoded = [equal_conv(at(p, "stem"), image, padding=1)]  # F_0 = Conv(I_de)
    for i in range(1, layers + 1):
        layer = at(p, f"encoder_convs.{i - 1}")
        if i % 2:
            encoded.append(smart_paper(layer, encoded[-1], style[i - 1], rates=rates, **smarts))
        else:
            x = styled_conv(layer, encoded[-1], style[i - 1], encoder_noise[i])
            encoded.append(bilinear(x, (x.shape[2] // 2, x.shape[3] // 2)))
    code = equal_linear(at(p, "final_linear"), encoded[-1].reshape(len(image), -1))  # c = FC(F_N)
    x = equal_conv(at(p, "first"), encoded[-1], padding=1)  # F_0 = Conv(F_N)
    for i in range(1, layers + 1):
        layer, prompt = at(p, f"decoder_convs.{i - 1}"), np.concatenate([style[i - 1], code], 1)
        if i % 2:
            x = styled_conv(layer, bilinear(x, (2 * x.shape[2], 2 * x.shape[3])), prompt, decoder_noise[i])
        else:
            x = x + encoded[layers - i + 1] + (priors[i // 2] if priors is not None else 0.0)
            x = smart_paper(layer, x, prompt, rates=rates, **smarts)
    return equal_conv(at(p, "head"), x, padding=1)  # I_out = Conv(F_N)


# Discriminator


def discriminator(p, image):
    """(B, 1) logits: residual blocks, the spread over groups of four pictures as one more map, two linear layers."""
    x = fused(at(p, "encoder_input_convs"), image)
    for n in range(count(p, "encoder_convs")):
        block = at(p, f"encoder_convs.{n}")
        y = fused(at(block, "conv1"), x, padding=1)
        y = equal_conv(at(block, "conv2.1"), upfirdn(y, pad=(2, 2)), stride=2)
        y = scaled_leaky(y, block["conv2.2.bias"])
        x = (y + equal_conv(at(block, "skip.1"), upfirdn(x, pad=(1, 1)), stride=2)) / np.sqrt(2.0)
    group = min(len(x), 4)
    grouped = x.reshape(group, -1, *x.shape[1:])
    spread = np.sqrt(grouped.var(0) + 1e-8).mean((1, 2, 3))
    plane = np.tile(spread, group)[:, None, None, None] * np.ones((1, 1, *x.shape[2:]))
    x = fused(at(p, "final_conv"), np.concatenate([x, plane], 1), padding=1)
    x = equal_linear(at(p, "final_linear.0"), x.reshape(len(x), -1), activate=True)
    return equal_linear(at(p, "final_linear.1"), x)
