"""Recognisers: the published layouts, their blocks by hand, their preprocessing, and what the loader refuses."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from marks import opens_pickles
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from bfr_core.backends.recognizers import arcface_resnet18, embedded, ir_se50, iresnet, mobilefacenet, resnet101
from bfr_core.errors import WeightsError
from bfr_core.faces.identity import RecognizerLayout, RecognizerNet, arcface_crop, embed, load_recognizer
from bfr_core.models.loader import load
from bfr_core.models.registry import specs
from bfr_core.models.spec import ModelSpec
from bfr_core.networks.arcface_resnet import ArcFaceResNet18, ResNet101, _ArcFaceBlock, _Bottleneck
from bfr_core.networks.iresnet import DEPTHS, IResNet, _Unit
from bfr_core.networks.irse import IRSE50, IRBody, IRUnit


def on_meta(build):
    with torch.device("meta"):
        return build()


def shapes(net: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in net.state_dict().items()}


def quick(build) -> nn.Module:
    """Build a net with random weights in a tenth of the time its own initialisation takes."""
    net = on_meta(build).to_empty(device="cpu").eval()
    noise = torch.randn(4093, generator=torch.Generator().manual_seed(0))  # a prime, so that no two filters are equal
    for key, value in net.state_dict().items():
        if value.ndim > 1:
            repeated = noise.repeat(value.numel() // len(noise) + 1)[: value.numel()]
            value.copy_(repeated.view(value.shape) * (2 / value[0].numel()) ** 0.5)
        else:
            value.fill_(key.endswith(("weight", "running_var")))
    return net


def scramble(net: nn.Module) -> nn.Module:
    """Give every number a value of its own, statistics of normalisation included."""
    generator = torch.Generator().manual_seed(0)
    for key, value in net.state_dict().items():
        if key.endswith("running_var"):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif value.is_floating_point():
            scale = 0.3 if value.ndim < 2 else value[0].numel() ** -0.5
            value.copy_(torch.randn(value.shape, generator=generator) * scale)
    return net.double().eval()


# Layouts ---------------------------------------------------------------------------------------------------------


def bn(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    per_channel = ("weight", "bias", "running_mean", "running_var")
    return {**{f"{name}.{part}": (channels,) for part in per_channel}, f"{name}.num_batches_tracked": ()}


def published_ir_se50() -> dict[str, tuple[int, ...]]:
    """The layout of model_ir_se50.pth written out from its description, not from our modules."""
    layout = {"input_layer.0.weight": (64, 3, 3, 3), **bn("input_layer.1", 64), "input_layer.2.weight": (64,)}
    widths = [64] * 3 + [128] * 4 + [256] * 14 + [512] * 3
    previous = 64
    for index, width in enumerate(widths):
        unit = f"body.{index}"
        if width != previous:
            layout |= {
                f"{unit}.shortcut_layer.0.weight": (width, previous, 1, 1),
                **bn(f"{unit}.shortcut_layer.1", width),
            }
        layout |= {
            **bn(f"{unit}.res_layer.0", previous),
            f"{unit}.res_layer.1.weight": (width, previous, 3, 3),
            f"{unit}.res_layer.2.weight": (width,),
            f"{unit}.res_layer.3.weight": (width, width, 3, 3),
            **bn(f"{unit}.res_layer.4", width),
            f"{unit}.res_layer.5.fc1.weight": (width // 16, width, 1, 1),
            f"{unit}.res_layer.5.fc2.weight": (width, width // 16, 1, 1),
        }
        previous = width
    head = {"output_layer.3.weight": (512, 25088), "output_layer.3.bias": (512,)}
    return layout | bn("output_layer.0", 512) | head | bn("output_layer.4", 512)


def published_resnet18() -> dict[str, tuple[int, ...]]:
    layout = {"conv1.weight": (64, 1, 3, 3), **bn("bn1", 64), "prelu.weight": (1,)}
    previous = 64
    for stage, width in enumerate((64, 128, 256, 512), start=1):
        for index in range(2):
            block = f"layer{stage}.{index}"
            layout |= {
                **bn(f"{block}.bn0", previous),
                f"{block}.conv1.weight": (previous, previous, 3, 3),
                **bn(f"{block}.bn1", previous),
                f"{block}.prelu.weight": (1,),
                f"{block}.conv2.weight": (width, previous, 3, 3),
                **bn(f"{block}.bn2", width),
            }
            if previous != width:
                layout |= {
                    f"{block}.downsample.0.weight": (width, previous, 1, 1),
                    **bn(f"{block}.downsample.1", width),
                }
            previous = width
    return layout | bn("bn4", 512) | {"fc5.weight": (512, 32768), "fc5.bias": (512,)} | bn("bn5", 512)


def published_iresnet(*units: int) -> dict[str, tuple[int, ...]]:
    """The `backbone.pth` of InsightFace's arcface_torch: pre-activation units, a slope for every channel."""
    layout: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 3, 3), **bn("bn1", 64), "prelu.weight": (64,)}
    previous = 64
    for stage, (width, count) in enumerate(zip((64, 128, 256, 512), units, strict=True), start=1):
        for index in range(count):
            block = f"layer{stage}.{index}"
            layout |= {
                **bn(f"{block}.bn1", previous),
                f"{block}.conv1.weight": (width, previous, 3, 3),
                **bn(f"{block}.bn2", width),
                f"{block}.prelu.weight": (width,),
                f"{block}.conv2.weight": (width, width, 3, 3),
                **bn(f"{block}.bn3", width),
            }
            if index == 0:
                layout |= {
                    f"{block}.downsample.0.weight": (width, previous, 1, 1),
                    **bn(f"{block}.downsample.1", width),
                }
            previous = width
    layout |= {**bn("bn2", 512), "fc.weight": (512, 25088), "fc.bias": (512,), **bn("features", 512)}
    return layout


@pytest.mark.parametrize(
    ("build", "published", "entries", "parameters"),
    [
        (IRSE50, published_ir_se50, 397, 43_797_696),
        (ArcFaceResNet18, published_resnet18, 181, 25_627_081),
        # 18 entries for a unit, 6 more for each stage's shortcut, 19 for what is before and behind.
        (lambda: IResNet(18), lambda: published_iresnet(2, 2, 2, 2), 187, 24_025_600),
        (lambda: IResNet(34), lambda: published_iresnet(3, 4, 6, 3), 331, 34_139_328),
        (lambda: IResNet(50), lambda: published_iresnet(3, 4, 14, 3), 475, 43_590_848),
        (lambda: IResNet(100), lambda: published_iresnet(3, 13, 30, 3), 925, 65_156_160),
    ],
    ids=["ir_se50", "resnet18", "iresnet18", "iresnet34", "iresnet50", "iresnet100"],
)
def test_layouts_are_the_published_ones(build, published, entries, parameters):
    net, wanted = on_meta(build), published()
    assert shapes(net) == wanted
    assert len(wanted) == entries
    assert sum(p.numel() for p in net.parameters()) == parameters


def test_resnet101_is_torchvisions():
    net = on_meta(lambda: ResNet101(1000))
    # torchvision's documentation states 44549160 for resnet101.
    assert sum(p.numel() for p in net.parameters()) == 44_549_160
    ours = shapes(on_meta(ResNet101))
    assert ours["fc.weight"] == (256, 2048)
    assert ours["layer3.22.conv2.weight"] == (256, 256, 3, 3)
    assert ours["layer2.0.downsample.0.weight"] == (512, 256, 1, 1)
    assert len(ours) == 626 and "layer3.23.conv1.weight" not in ours and "layer2.1.downsample.0.weight" not in ours


def test_the_trunk_has_the_keys_of_the_e4e_encoder(shared):
    """VSPBFR's encoder has the same trunk; its key list was read from code that saves it."""
    keys = shared.parent / "design" / "vspbfr_keys" / "keys_encoder.txt"
    if not keys.exists():
        pytest.skip(f"no key list at {keys}")
    wanted = {}
    for line in keys.read_text().splitlines():
        name, shape = line.split("\t")
        if name.startswith(("input_layer.", "body.")):
            wanted[name] = tuple(map(int, re.findall(r"\d+", shape)))
    assert shapes(on_meta(IRBody)) == wanted


# Blocks by hand --------------------------------------------------------------------------------------------------


def hand_bn(x: np.ndarray, state: dict, name: str) -> np.ndarray:
    gain, shift, mean, var = (
        state[f"{name}.{part}"].numpy().reshape(1, -1, 1, 1)
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / np.sqrt(var + 1e-5) * gain + shift


def hand_conv(x: np.ndarray, weight: torch.Tensor, stride: int = 1) -> np.ndarray:
    """Correlate with zero padding, one tap at a time."""
    kernel = weight.numpy()
    reach = kernel.shape[-1] // 2
    padded = np.pad(x, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    height, width = x.shape[2:]
    out = np.zeros((x.shape[0], kernel.shape[0], height, width))
    for i in range(kernel.shape[-2]):
        for j in range(kernel.shape[-1]):
            out += np.einsum("oc,bchw->bohw", kernel[:, :, i, j], padded[:, :, i : i + height, j : j + width])
    return out[..., ::stride, ::stride]


def hand_prelu(x: np.ndarray, slope: torch.Tensor) -> np.ndarray:
    return np.where(x > 0, x, x * slope.numpy().reshape(1, -1, 1, 1))


@pytest.mark.parametrize(("inp", "out", "stride"), [(16, 32, 2), (32, 32, 1), (32, 32, 2)])
def test_an_ir_unit_by_hand(inp, out, stride):
    unit = scramble(IRUnit(inp, out, stride))
    s, x = unit.state_dict(), np.random.default_rng(0).normal(size=(2, inp, 9, 8))
    h = hand_conv(hand_bn(x, s, "res_layer.0"), s["res_layer.1.weight"])
    h = hand_bn(hand_conv(hand_prelu(h, s["res_layer.2.weight"]), s["res_layer.3.weight"], stride), s, "res_layer.4")
    pooled = np.maximum(hand_conv(h.mean((2, 3), keepdims=True), s["res_layer.5.fc1.weight"]), 0)
    h = h / (1 + np.exp(-hand_conv(pooled, s["res_layer.5.fc2.weight"])))
    short = x[..., ::stride, ::stride]
    if inp != out:
        short = hand_bn(hand_conv(x, s["shortcut_layer.0.weight"], stride), s, "shortcut_layer.1")
    np.testing.assert_allclose(unit(torch.from_numpy(x)).numpy(force=True), h + short, atol=1e-12)


@pytest.mark.parametrize(("out", "stride"), [(24, 2), (16, 1)])
def test_an_arcface_block_by_hand(out, stride):
    block = scramble(_ArcFaceBlock(16, out, stride))
    s, x = block.state_dict(), np.random.default_rng(1).normal(size=(2, 16, 8, 7))
    h = hand_bn(hand_conv(hand_bn(x, s, "bn0"), s["conv1.weight"]), s, "bn1")
    h = hand_bn(hand_conv(hand_prelu(h, s["prelu.weight"]), s["conv2.weight"], stride), s, "bn2")
    short = x if out == 16 else hand_bn(hand_conv(x, s["downsample.0.weight"], stride), s, "downsample.1")
    wanted = hand_prelu(h + short, s["prelu.weight"])
    np.testing.assert_allclose(block(torch.from_numpy(x)).numpy(force=True), wanted, atol=1e-12)


@pytest.mark.parametrize(("out", "stride"), [(24, 2), (16, 1)])
def test_an_iresnet_unit_by_hand(out, stride):
    unit = scramble(_Unit(16, out, stride))
    s, x = unit.state_dict(), np.random.default_rng(3).normal(size=(2, 16, 8, 7))
    h = hand_bn(hand_conv(hand_bn(x, s, "bn1"), s["conv1.weight"]), s, "bn2")
    h = hand_bn(hand_conv(hand_prelu(h, s["prelu.weight"]), s["conv2.weight"], stride), s, "bn3")
    short = x if out == 16 else hand_bn(hand_conv(x, s["downsample.0.weight"], stride), s, "downsample.1")
    np.testing.assert_allclose(unit(torch.from_numpy(x)).numpy(force=True), h + short, atol=1e-12)


def test_an_iresnet_from_its_file_alone():
    """The whole network by torch's functions and the keys of the file, in float64."""
    net = scramble(quick(lambda: IResNet(18)))
    s, x = net.state_dict(), torch.rand(1, 3, 112, 112, generator=torch.Generator().manual_seed(1)).double()

    def norm(h: torch.Tensor, name: str) -> torch.Tensor:
        gain, shift, mean, var = (s[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var"))
        return F.batch_norm(h, mean, var, gain, shift)

    h = F.prelu(norm(F.conv2d(x, s["conv1.weight"], padding=1), "bn1"), s["prelu.weight"])
    for stage in range(1, 5):
        for index in range(2):
            name, stride = f"layer{stage}.{index}", 2 - index
            inner = norm(F.conv2d(norm(h, f"{name}.bn1"), s[f"{name}.conv1.weight"], padding=1), f"{name}.bn2")
            inner = F.conv2d(F.prelu(inner, s[f"{name}.prelu.weight"]), s[f"{name}.conv2.weight"], None, stride, 1)
            if index == 0:
                h = norm(F.conv2d(h, s[f"{name}.downsample.0.weight"], None, 2), f"{name}.downsample.1")
            h = h + norm(inner, f"{name}.bn3")
    wanted = norm(F.linear(norm(h, "bn2").flatten(1), s["fc.weight"], s["fc.bias"]), "features")
    with torch.no_grad():
        torch.testing.assert_close(net(x), wanted, atol=1e-9, rtol=1e-9)


def test_a_bottleneck_by_hand():
    block = scramble(_Bottleneck(16, 8, 2))
    s, x = block.state_dict(), np.random.default_rng(2).normal(size=(1, 16, 7, 9))
    h = np.maximum(hand_bn(hand_conv(x, s["conv1.weight"]), s, "bn1"), 0)
    h = np.maximum(hand_bn(hand_conv(h, s["conv2.weight"], 2), s, "bn2"), 0)
    h = hand_bn(hand_conv(h, s["conv3.weight"]), s, "bn3")
    wanted = np.maximum(h + hand_bn(hand_conv(x, s["downsample.0.weight"], 2), s, "downsample.1"), 0)
    np.testing.assert_allclose(block(torch.from_numpy(x)).numpy(force=True), wanted, atol=1e-12)


def test_the_pyramid_is_taken_where_e4e_takes_it():
    body = quick(IRBody)
    seen = {}
    for index in (6, 20, 23):
        body.body[index].register_forward_hook(lambda _m, _i, out, index=index: seen.__setitem__(index, out))
    with torch.no_grad():
        maps = body(torch.rand(1, 3, 32, 32))
    assert [tuple(m.shape[1:]) for m in maps] == [(128, 8, 8), (256, 4, 4), (512, 2, 2)]
    assert all(torch.equal(a, b) for a, b in zip(maps, seen.values(), strict=True))


@pytest.mark.parametrize(("build", "channels"), [(ArcFaceResNet18, 1), (ResNet101, 3)])
def test_forward_is_the_maps_and_a_head(build, channels):
    net = quick(build)
    x = torch.rand(1, channels, net.size, net.size)
    with torch.no_grad():
        maps, out = net.maps(x), net(x)
        last = maps[-1]
        wanted = net.fc(last.mean((2, 3))) if build is ResNet101 else net.bn5(net.fc5(net.bn4(last).flatten(1)))
    first = 4 if build is ResNet101 else 2
    assert [m.shape[-1] for m in maps] == [-(-net.size // (first << n)) for n in range(4)]
    torch.testing.assert_close(out, wanted)


# Preprocessing ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def faces() -> torch.Tensor:
    from skimage.data import astronaut

    return torch.from_numpy(astronaut().copy()).permute(2, 0, 1)[None].float() / 255


def area_mean(x: np.ndarray, size: int) -> np.ndarray:
    """Mean of rows floor(i n / size) to ceil((i + 1) n / size), likewise columns: adaptive pooling's definition."""
    n = x.shape[0]
    edges = [(i * n // size, -(-(i + 1) * n // size)) for i in range(size)]
    rows = np.stack([x[a:b].mean(0) for a, b in edges])
    return np.stack([rows[:, a:b].mean(1) for a, b in edges], 1)


def layout_of(spec: ModelSpec) -> RecognizerLayout:
    return spec.load.__self__


def seen_by(layout: RecognizerLayout, faces: torch.Tensor) -> torch.Tensor:
    """Return what the network of `layout` is given."""
    return layout.preprocessing.normalise(layout.preprocessing.crop(faces))


def test_ir_se50_sees_rows_35_to_223_of_256(faces):
    half = faces[0].double().permute(1, 2, 0).numpy().reshape(256, 2, 256, 2, 3).mean((1, 3))
    wanted = area_mean(half[35:223, 32:220], 112) * 2 - 1
    seen = seen_by(ir_se50.LAYOUT, faces)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(seen, wanted, atol=2e-6)
    # At 256 the published window is cut as it is.
    seen = seen_by(ir_se50.LAYOUT, torch.from_numpy(half).permute(2, 0, 1)[None].float())[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(seen, wanted, atol=2e-6)
    assert seen_by(ir_se50.LAYOUT, faces[..., :200, :200]).shape == (1, 3, 112, 112)


def test_resnet18_sees_gray_of_the_whole_face(faces):
    image = faces[0].permute(1, 2, 0).numpy() * 2 - 1
    gray = image @ np.array([0.2989, 0.5870, 0.1140], np.float32)
    wanted = cv2.resize(gray, (128, 128), interpolation=cv2.INTER_LINEAR)  # OpenCV has no antialias either
    seen = seen_by(arcface_resnet18.LAYOUT, faces)
    assert seen.shape == (1, 1, 128, 128)
    np.testing.assert_allclose(seen[0, 0].numpy(), wanted, atol=1e-5)


def test_resnet101_sees_the_whole_face(faces):
    image = faces[0].permute(1, 2, 0).numpy() * 2 - 1
    wanted = cv2.resize(image, (112, 112), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(seen_by(resnet101.LAYOUT, faces)[0].permute(1, 2, 0).numpy(), wanted, atol=1e-4)


def test_mobilefacenet_sees_the_arcface_template(faces):
    # 0.1265, 0.1195 and 0.7489 of 512 px.
    cut = faces[..., 61 : 61 + 383, 65 : 65 + 383]
    wanted = F.interpolate(cut, (112, 112), mode="bilinear", antialias=True)
    assert torch.equal(seen_by(mobilefacenet.LAYOUT, faces), wanted)
    assert torch.equal(arcface_crop(faces), wanted)


def test_an_iresnet_and_the_embedded_net_see_the_arcface_template(faces):
    cut = faces[..., 61 : 61 + 383, 65 : 65 + 383]
    for layout, size in ((layout_of(iresnet.SPECS[0]), 112), (embedded.LAYOUT, 96)):
        wanted = F.interpolate(cut, (size, size), mode="bilinear", antialias=True) * 2 - 1
        torch.testing.assert_close(seen_by(layout, faces), wanted)


# Loading ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet18_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "arcface_resnet18.pth"
    state = quick(ArcFaceResNet18).half().state_dict()
    # As DataParallel saved it, with a torch that did not count batches yet.
    torch.save({f"module.{k}": v for k, v in state.items() if not k.endswith("num_batches_tracked")}, path)
    return path


@opens_pickles
def test_a_dataparallel_file_loads_and_embeds(resnet18_file, faces):
    recogniser = load_recognizer(resnet18_file)
    assert recogniser.title == "ArcFace resnet18" and recogniser.size == 128
    x = faces.clone().requires_grad_()
    vector = embed(recogniser, x)
    assert vector.shape == (1, 512) and vector.dtype == torch.float32
    torch.testing.assert_close(vector.norm(dim=1), torch.ones(1))
    (vector * torch.linspace(-1, 1, 512)).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0 and bool(x.grad.isfinite().all())
    assert all(p.grad is None and not p.requires_grad for p in recogniser.parameters())
    state = {k.removeprefix("module."): v for k, v in torch.load(resnet18_file, weights_only=True).items()}
    net = quick(ArcFaceResNet18)
    assert all(key.endswith("num_batches_tracked") for key in net.load_state_dict(state, strict=False).missing_keys)
    with torch.no_grad():
        raw = net(seen_by(arcface_resnet18.LAYOUT, faces))
    torch.testing.assert_close(vector.detach(), raw / raw.norm())


# Of the iresnets the smallest stands for all: they differ in how many units follow each other.
LAYOUTS = [layout_of(spec) for spec in specs("recognizer") if spec not in iresnet.SPECS[1:]]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.title)
def test_every_layout_has_a_gradient_and_maps_of_any_size(layout, faces):
    recogniser = RecognizerNet(quick(layout.build), layout)
    x = faces[..., ::4, ::4].clone().requires_grad_()
    vector = embed(recogniser, x)
    (vector * torch.linspace(-1, 1, vector.shape[1])).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    with torch.no_grad():
        maps = recogniser.maps(faces[..., :96, :64])
    sizes = [tuple(m.shape[-2:]) for m in maps]
    assert len(maps) == 4 and all(a[0] == 2 * b[0] and a[1] == 2 * b[1] for a, b in pairwise(sizes))


@opens_pickles
def test_it_stays_in_evaluation_mode(resnet18_file, faces):
    """Batch statistics would make a face's identity depend on its neighbours."""
    trainer = nn.Sequential(load_recognizer(resnet18_file))
    before = trainer[0].state_dict()["net.bn1.running_mean"].clone()
    trainer.train()
    assert not any(module.training for module in trainer[0].modules())
    one = embed(trainer[0], faces)
    both = embed(trainer[0], torch.cat([faces, faces.flip(-1)]))
    torch.testing.assert_close(one, both[:1], atol=1e-5, rtol=0)
    assert torch.equal(trainer[0].state_dict()["net.bn1.running_mean"], before)


@opens_pickles
def test_the_mobilefacenet_file_is_told_by_its_keys(shared, faces):
    path = shared / "weights" / "mobilefacenet.pt"
    recogniser = load_recognizer(path)
    assert recogniser.title == "MobileFaceNet"
    with torch.no_grad():
        torch.testing.assert_close(
            embed(recogniser, faces), load(mobilefacenet.SPEC, path).net(arcface_crop(faces)), atol=1e-6, rtol=0
        )


@opens_pickles
def test_maps_lead_to_the_embedding(shared, faces):
    """The last map of MobileFaceNet, through its head, is what `embed` returns: no layer is left out."""
    recogniser = load_recognizer(shared / "weights" / "mobilefacenet.pt")
    net, crop = recogniser.net, recogniser.preprocessing.crop(faces)
    with torch.no_grad():
        head = net.bn(net.conv3(net.gdconv(net.conv2(recogniser.maps(crop)[-1])))).flatten(1)
        torch.testing.assert_close(F.normalize(head, dim=1), embed(recogniser, faces))


@pytest.mark.parametrize("depth", [18, 34, 50, 100, 200])
def test_the_depth_of_an_iresnet_is_told_by_its_keys(depth):
    """A deeper file has every key of the shallower ones, and must not be taken for one."""
    keys = published_iresnet(*DEPTHS[depth])
    assert [spec.id for spec in specs("recognizer") if spec.detect and spec.detect(keys)] == [f"iresnet{depth}"]


def test_an_iresnet_file_loads_and_embeds(tmp_path, faces):
    net = quick(lambda: IResNet(18))
    save_file({key: value.half() for key, value in net.state_dict().items()}, tmp_path / "backbone.safetensors")
    recogniser = load_recognizer(tmp_path / "backbone.safetensors")
    assert recogniser.title == "iresnet18" and recogniser.size == 112
    with torch.no_grad():
        raw = net(seen_by(layout_of(iresnet.SPECS[0]), faces))
    torch.testing.assert_close(embed(recogniser, faces), raw / raw.norm(), atol=5e-3, rtol=0)


def keys_of(*names: str) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(1) for name in names}


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (keys_of("input_layer.0.weight", "body.23.res_layer.4.weight", "output_layer.3.weight"), "IR-50 without"),
        (keys_of("encoder.input_layer.0.weight", "decoder.conv1.conv.weight"), "e4e or pSp encoder"),
        (keys_of("layer1.0.prelu.weight", "features.weight", "fc.weight"), "iresnet of another depth"),
        (keys_of("features.0.weight", "classifier.0.weight"), "VGG classifier"),
        (keys_of("layer1.0.conv1.weight", "fc.weight", "layer3.5.conv1.weight"), "ResNet of another depth"),
        (keys_of("some.thing"), "unknown model with keys some.thing"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, state, says):
    path = tmp_path / "other.safetensors"
    save_file(state, path)
    with pytest.raises(WeightsError) as caught:
        load_recognizer(path)
    assert says in str(caught.value)
    assert "expected embedded recogniser, MobileFaceNet, ArcFace resnet18, IR-SE50, iresnet200" in str(caught.value)
    assert "iresnet18 or resnet101 with 256 outputs" in str(caught.value)


def test_a_known_layout_of_another_size_is_refused(tmp_path):
    """An ImageNet resnet101 has every key, but 1000 outputs that tell no faces apart."""
    state = {key: torch.zeros(1) for key in shapes(on_meta(ResNet101))}
    path = tmp_path / "resnet101.safetensors"
    save_file(state, path)
    with pytest.raises(WeightsError, match=r"resnet101 with 256 outputs .*shape \(1,\), expected \(64, 3, 7, 7\)"):
        load_recognizer(path)
    state.pop("fc.bias")
    save_file(state, path)
    with pytest.raises(WeightsError, match="1 keys missing"):
        load_recognizer(path)
