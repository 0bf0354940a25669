"""The networks of the metrics against plain evaluations in NumPy, and what is said of files that hold others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from marks import opens_pickles
from safetensors.torch import save_file
from torch.nn import functional as F

from bfr_core.backends.expressions.hsemotion import EMOTIONS_7, EMOTIONS_8
from bfr_core.backends.landmarkers.fan import FanLandmarks, decode_heatmaps
from bfr_core.errors import InputMediaError, SettingsError, WeightsError
from bfr_core.metrics.lpips import Lpips
from bfr_core.models.checkpoints.files import load_state
from bfr_core.models.loader import load
from bfr_core.networks.alexnet import AlexNetFeatures, load_alexnet
from bfr_core.networks.fan import CoordConv, Fan
from bfr_core.networks.vgg import VggFeatures, load_vgg

VGG16 = [("c", 64), ("c", 64), "p", ("c", 128), ("c", 128), "p", *[("c", 256)] * 3, "p", *[("c", 512)] * 3, "p"]
VGG16 = [*VGG16, *[("c", 512)] * 3]
VGG_HEADS, ALEX_HEADS = (64, 128, 256, 512, 512), (64, 192, 384, 256, 256)


def random_state(net: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """Random values that keep the signal alive through many rectifiers."""
    random = torch.Generator().manual_seed(seed)
    state = {}
    for key, value in net.state_dict().items():
        if value.ndim == 4:
            state[key] = torch.randn(value.shape, generator=random) * (2 / value[0].numel()) ** 0.5
        elif value.is_floating_point():
            state[key] = torch.rand(value.shape, generator=random) * 0.2 + (1 if "running_var" in key else 0)
        else:
            state[key] = torch.zeros_like(value)
    return state


def save_heads(path: Path, widths: tuple[int, ...]) -> Path:
    random = torch.Generator().manual_seed(7)
    heads = {f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1, generator=random) for i, width in enumerate(widths)}
    save_file(heads, path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Backbones as torchvision publishes them, classifier included, with random values."""
    folder = tmp_path_factory.mktemp("weights")
    classifier = {"classifier.6.weight": torch.zeros(3, 2), "classifier.6.bias": torch.zeros(3)}
    save_file(random_state(VggFeatures(16), 1) | classifier, folder / "vgg16.safetensors")
    save_file(random_state(AlexNetFeatures(), 2) | classifier, folder / "alexnet.safetensors")
    save_heads(folder / "vgg_heads.safetensors", VGG_HEADS)
    save_heads(folder / "alex_heads.safetensors", ALEX_HEADS)
    return folder


def convolve(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int, padding: int) -> np.ndarray:
    """(C, H, W) to (O, H', W') in float64, one matrix product."""
    size = weight.shape[-1]
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))[:, ::stride, ::stride]
    columns = windows.transpose(1, 2, 0, 3, 4).reshape(-1, weight[0].size)
    flat = columns @ weight.reshape(len(weight), -1).T + bias
    return flat.T.reshape(len(weight), *windows.shape[1:3])


def pool(x: np.ndarray, size: int) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))[:, ::2, ::2].max((3, 4))


def plain_vgg16(state: dict[str, np.ndarray], x: np.ndarray) -> list[np.ndarray]:
    """The five maps that LPIPS reads, each the last before a pooling, and the last."""
    maps, at = [], 0
    for layer in VGG16:
        if layer == "p":
            maps.append(x)
            x, at = pool(x, 2), at + 1
        else:
            weight, bias = state[f"features.{at}.weight"], state[f"features.{at}.bias"]
            x, at = np.maximum(convolve(x, weight, bias, 1, 1), 0), at + 2
    return [*maps, x]


def plain_alexnet(state: dict[str, np.ndarray], x: np.ndarray) -> list[np.ndarray]:
    maps = []
    for at, stride, padding in ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1)):
        x = pool(x, 3) if at in (3, 6) else x
        x = np.maximum(convolve(x, state[f"features.{at}.weight"], state[f"features.{at}.bias"], stride, padding), 0)
        maps.append(x)
    return maps


def plain_lpips(network, backbone: Path, heads: Path, image: np.ndarray, truth: np.ndarray) -> float:
    """LPIPS as published: pictures in [-1, 1], the scaling layer's constants, Eq. 1."""
    state = {k: v.double().numpy() for k, v in load_state(backbone).items()}
    weights = [value.double().numpy()[0] for _, value in sorted(load_state(heads).items())]
    shift = np.array([-0.030, -0.088, -0.188])[:, None, None]
    scale = np.array([0.458, 0.448, 0.450])[:, None, None]
    first, second = (network(state, ((2 * x - 1) - shift) / scale) for x in (image, truth))
    total = 0.0
    for a, b, weight in zip(first, second, weights, strict=True):
        a, b = (x / (np.sqrt((x**2).sum(0)) + 1e-10) for x in (a, b))
        total += (weight * (a - b) ** 2).sum(0).mean()
    return total


@pytest.mark.parametrize(("net", "size"), [("vgg16", (37, 24)), ("alexnet", (70, 64))])
def test_lpips_is_a_plain_evaluation_of_its_equation(folder, net, size):
    plain = plain_vgg16 if net == "vgg16" else plain_alexnet
    heads = folder / ("vgg_heads.safetensors" if net == "vgg16" else "alex_heads.safetensors")
    images = np.random.default_rng(0).random((2, 3, *size))
    lpips = Lpips.load(folder / f"{net}.safetensors", heads)
    pair = torch.from_numpy(images).float()
    ours = lpips(pair, pair.flip(0))
    truth = plain_lpips(plain, folder / f"{net}.safetensors", heads, *images)
    np.testing.assert_allclose(ours.numpy(), [truth, truth], rtol=1e-4)
    assert lpips(pair, pair).abs().max() == 0


@opens_pickles
def test_published_heads_fit_their_backbone(folder, shared):
    heads = shared / "weights" / "lpips_heads"
    pair = torch.rand(2, 1, 3, 64, 64)
    for net, plain in (("vgg", plain_vgg16), ("alex", plain_alexnet)):
        backbone = folder / ("vgg16.safetensors" if net == "vgg" else "alexnet.safetensors")
        truth = plain_lpips(plain, backbone, heads / f"{net}.pth", *pair[:, 0, :, ::2, ::2].double().numpy())
        found = Lpips.load(backbone, heads / f"{net}.pth")(*pair[..., ::2, ::2])
        assert found.item() == pytest.approx(truth, rel=1e-4)
    with pytest.raises(WeightsError, match=r"squeeze\.pth holds 7 tensors"):
        Lpips.load(folder / "vgg16.safetensors", heads / "squeeze.pth")


def test_lpips_has_gradients_even_where_nothing_differs_or_all_is_rectified(folder):
    lpips = Lpips.load(folder / "alexnet.safetensors", folder / "alex_heads.safetensors")
    for bias in lpips.backbone.features.parameters():
        bias.data.sub_(0.3)  # whole pixels are rectified away
    truth = torch.rand(1, 3, 64, 64)
    image = (truth + 0.1 * torch.randn(1, 3, 64, 64)).requires_grad_()
    lpips(image, truth).sum().backward()
    assert image.grad is not None and image.grad.isfinite().all()
    assert not any(parameter.requires_grad for parameter in lpips.parameters())


def test_lpips_refuses_a_wrong_pair_and_says_which_file_to_give(folder, tmp_path):
    with pytest.raises(WeightsError, match=r"do not belong to AlexNet.*alex\.pth") as caught:
        Lpips.load(folder / "alexnet.safetensors", folder / "vgg_heads.safetensors")
    assert "[64, 128, 256, 512, 512]" in str(caught.value) and "[64, 192, 384, 256, 256]" in str(caught.value)
    with pytest.raises(WeightsError, match=r"no backbone.*vgg16-397923af\.pth"):
        Lpips.load(folder / "vgg_heads.safetensors", folder / "vgg_heads.safetensors")
    lpips = Lpips.load(folder / "alexnet.safetensors", folder / "alex_heads.safetensors")
    with pytest.raises(InputMediaError, match="at least 31"):
        lpips(torch.rand(1, 3, 30, 64), torch.rand(1, 3, 30, 64))
    with pytest.raises(InputMediaError, match="same"):
        lpips(torch.rand(1, 3, 64, 64), torch.rand(2, 3, 64, 64))


def test_vgg_is_recognised_by_its_shapes(folder, tmp_path):
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in VggFeatures(19).state_dict().items()}
    vgg19_file = tmp_path / "vgg19.safetensors"
    save_file({key: torch.zeros(shape, dtype=torch.half) for key, shape in shapes.items()}, vgg19_file)
    vgg19 = load_vgg(vgg19_file)
    assert vgg19.depth == 19 and list(vgg19.maps)[-1] == "relu5_4" and vgg19.maps["relu5_4"] == 35
    with pytest.raises(WeightsError, match="VGG19"):
        Lpips.load(vgg19_file, folder / "vgg_heads.safetensors")
    for wrong in ("alexnet.safetensors", "vgg_heads.safetensors"):
        with pytest.raises(WeightsError, match=r"no VGG16 or VGG19.*vgg16-397923af\.pth"):
            load_vgg(folder / wrong)
    with pytest.raises(WeightsError, match=r"no AlexNet.*alexnet-owt-7be5be79\.pth"):
        load_alexnet(folder / "vgg16.safetensors")


def test_vgg_gives_the_maps_asked_for_with_gradients(folder):
    vgg = load_vgg(folder / "vgg16.safetensors")
    x = torch.rand(1, 3, 32, 48, requires_grad=True)
    maps = vgg(x, ["relu3_1", "relu1_2"])
    assert {name: tuple(value.shape) for name, value in maps.items()} == {
        "relu3_1": (1, 256, 8, 12),
        "relu1_2": (1, 64, 32, 48),
    }
    state = {k: v.double().numpy() for k, v in load_state(folder / "vgg16.safetensors").items()}
    mean, std = (np.array(v)[:, None, None] for v in (vgg.mean, vgg.std))
    truth = plain_vgg16(state, (x[0].detach().double().numpy() - mean) / std)
    np.testing.assert_allclose(maps["relu1_2"][0].detach().numpy(), truth[0], atol=1e-4)
    maps["relu3_1"].mean().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    with pytest.raises(SettingsError, match="relu1_2"):
        vgg(x, ["relu6_1"])


def test_fan_has_the_published_layout():
    """Facts of facexlib's FAN(num_modules=4, num_landmarks=98), into which alignment_WFLW_4HG.pth loads strictly."""
    with torch.device("meta"):
        net = Fan()
    shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    assert len(shapes) == 1137
    assert sum(parameter.numel() for parameter in net.parameters()) == 24_153_036
    published = {
        "conv1.conv.weight": (64, 6, 7, 7),
        "conv1.conv.bias": (64,),
        "conv4.downsample.2.weight": (256, 128, 1, 1),
        "m0.coordconv.conv.weight": (256, 259, 1, 1),
        "m3.coordconv.conv.weight": (256, 261, 1, 1),
        "m2.b2_plus_1.bn3.weight": (64,),
        "m1.b1_4.conv1.weight": (128, 256, 3, 3),
        "top_m_3.conv2.weight": (64, 128, 3, 3),
        "conv_last1.weight": (256, 256, 1, 1),
        "bn_end0.running_var": (256,),
        "l0.weight": (99, 256, 1, 1),
        "al2.weight": (256, 99, 1, 1),
        "bl2.weight": (256, 256, 1, 1),
    }
    assert {key: shapes[key] for key in published} == published
    assert "al3.weight" not in shapes and "bl3.weight" not in shapes


def plain_fan(state: dict[str, torch.Tensor], x: torch.Tensor, stacks: int) -> torch.Tensor:
    """The FAN written out as functions of its parameters, in float64."""

    def norm(key, x):
        mean, variance = state[f"{key}.running_mean"], state[f"{key}.running_var"]
        return F.batch_norm(x, mean, variance, state[f"{key}.weight"], state[f"{key}.bias"])

    def conv(key, x, **how):
        return F.conv2d(x, state[f"{key}.weight"], state.get(f"{key}.bias"), **how)

    def block(key, x):
        a = conv(f"{key}.conv1", norm(f"{key}.bn1", x).relu(), padding=1)
        b = conv(f"{key}.conv2", norm(f"{key}.bn2", a).relu(), padding=1)
        c = conv(f"{key}.conv3", norm(f"{key}.bn3", b).relu(), padding=1)
        skip = x
        if f"{key}.downsample.2.weight" in state:
            skip = conv(f"{key}.downsample.2", norm(f"{key}.downsample.0", x).relu())
        return torch.cat([a, b, c], 1) + skip

    def coordinates(x):
        rows, columns = x.shape[-2:]
        down = (2 * torch.arange(rows).double() / (rows - 1) - 1)[:, None].expand(rows, columns)
        across = (2 * torch.arange(columns).double() / (columns - 1) - 1)[None].expand(rows, columns)
        return down[None, None], across[None, None], torch.sqrt((down**2 + across**2) / 2)[None, None]

    def level(key, depth, x):
        low = block(f"{key}.b2_{depth}", F.avg_pool2d(x, 2))
        low = level(key, depth - 1, low) if depth > 1 else block(f"{key}.b2_plus_1", low)
        low = block(f"{key}.b3_{depth}", low).repeat_interleave(2, 2).repeat_interleave(2, 3)
        return block(f"{key}.b1_{depth}", x) + low

    x = conv("conv1.conv", torch.cat([x, *coordinates(x)], 1), stride=2, padding=3)
    x = block("conv4", block("conv3", F.avg_pool2d(block("conv2", norm("bn1", x).relu()), 2)))
    maps = None
    for i in range(stacks):
        parts = [x, *coordinates(x)]
        if maps is not None:
            boundary = (maps[:, -1:] > 0.05).double()
            parts += [boundary * parts[1], boundary * parts[2]]
        y = block(f"top_m_{i}", level(f"m{i}", 4, conv(f"m{i}.coordconv.conv", torch.cat(parts, 1))))
        y = norm(f"bn_end{i}", conv(f"conv_last{i}", y)).relu()
        maps = conv(f"l{i}", y)
        if i < stacks - 1:
            x = x + conv(f"bl{i}", y) + conv(f"al{i}", maps)
    assert maps is not None
    return maps


def test_fan_is_a_plain_evaluation_of_its_graph():
    net = Fan(points=5, stacks=2).eval()
    state = random_state(net, 0)
    net.load_state_dict(state)
    x = torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        truth = plain_fan({k: v.double() for k, v in state.items()}, x.double(), 2)
        assert 0 < (truth[:, -1] > 0.05).double().mean() < 1  # the boundary channels say something
        np.testing.assert_allclose(net(x).numpy(), truth.numpy(), rtol=1e-3, atol=1e-3 * truth.abs().max().item())


def test_coordinate_channels_run_down_then_across():
    layer = CoordConv(1, 3, 1, boundary=False)
    layer.conv.weight.data = torch.eye(4)[1:].view(3, 4, 1, 1)
    layer.conv.bias.data.zero_()
    with torch.no_grad():
        down, across, radius = layer(torch.zeros(1, 1, 3, 3))[0]
    assert down.tolist() == [[-1] * 3, [0] * 3, [1] * 3] and across.tolist() == [[-1, 0, 1]] * 3
    np.testing.assert_allclose(radius[0], [1, 0.5**0.5, 1], rtol=1e-6)


@opens_pickles
def test_fan_loads_with_or_without_batch_counters_and_refuses_others(folder, tmp_path):
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in Fan().state_dict().items()}
    state = {key: torch.zeros(1).expand(shape) for key, shape in shapes.items() if not key.endswith("_tracked")}
    state["l3.bias"] = torch.arange(99.0)
    torch.save({"state_dict": state}, tmp_path / "expanded.pth")
    with pytest.raises(WeightsError, match="claims"):  # one number expanded to a million is no checkpoint
        load("landmarker", tmp_path / "expanded.pth")
    torch.save({"state_dict": {k: v.half() for k, v in state.items()}}, tmp_path / "alignment_WFLW_4HG.pth")
    net = load("landmarker", tmp_path / "alignment_WFLW_4HG.pth").net
    assert torch.equal(net.state_dict()["l3.bias"], torch.arange(99.0))
    with pytest.raises(WeightsError, match=r"alignment_WFLW_4HG\.pth"):
        load("landmarker", folder / "vgg_heads.safetensors")


def test_heatmaps_are_decoded_to_a_quarter_pixel():
    maps = torch.zeros(2, 4, 64, 64)
    maps[0, 0, 10, 20], maps[0, 0, 10, 21], maps[0, 0, 9, 20] = 1, 0.5, 0.5  # towards the right and up
    maps[0, 1, 30, 40] = 1  # equal neighbours: no step
    maps[0, 2, 63, 63] = 1  # at the border: no neighbour to step to
    maps[0, 3, 0, 5], maps[0, 3, 0, 4] = 1, 0.5
    maps[1] = maps[0].flip(0)
    truth = [[20.75, 10.25], [40.5, 30.5], [63.5, 63.5], [5.25, 0.5]]
    found = decode_heatmaps(maps)
    assert found[0].tolist() == truth and found[1].tolist() == truth[::-1]


def test_fan_landmarks_are_in_pixels_of_the_face_they_come_from():
    """A net that finds the brightest spot of what it is shown, in 64 steps a side."""

    class Brightest:
        def __call__(self, x):
            assert x.shape[-2:] == (256, 256)
            spot = F.avg_pool2d(x.mean(1, keepdim=True), 4)
            return spot.expand(-1, 99, -1, -1)

    face = torch.zeros(1, 3, 512, 384)
    face[..., 200:216, 90:102] = 1  # two rows by two columns of the heatmap, centre (96, 208)
    face[..., 200:208, 90:96] = 1.1
    points = FanLandmarks(Brightest())(face)  # type: ignore[arg-type]
    assert points.shape == (1, 98, 2)
    np.testing.assert_allclose(points[0, 0], [93 + 0.25 * 6, 204 + 0.25 * 8])


def field(number: int, value: bytes | int | str) -> bytes:
    """One protobuf field."""

    def varint(n: int) -> bytes:
        return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)

    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def onnx_classifier(path: Path, weight: np.ndarray, size: int | None) -> Path:
    """Write an ONNX file: the mean of each channel times `weight` (classes, 3)."""

    def tensor_type(*shape: int | str) -> bytes:
        dims = b"".join(field(1, field(1, d) if isinstance(d, int) else field(2, d)) for d in shape)
        return field(1, field(1, 1) + field(2, dims))

    def node(kind: str, inputs: list[str], output: str) -> bytes:
        return b"".join(field(1, name) for name in inputs) + field(2, output) + field(4, kind)

    classes = len(weight)
    dims = field(1, classes) + field(1, 3) + field(1, 1) * 2
    stored = dims + field(2, 1) + field(8, "w") + field(9, np.ascontiguousarray(weight, np.float32).tobytes())
    kernel_shape = field(1, "kernel_shape") + field(8, 1) * 2 + field(20, 7)
    side = size or "side"
    graph = (
        field(1, node("GlobalAveragePool", ["faces"], "pooled"))
        + field(1, node("Conv", ["pooled", "w"], "maps") + field(5, kernel_shape))
        + field(1, node("Flatten", ["maps"], "scores"))
        + field(2, "emotions")
        + field(5, stored)
        + field(11, field(1, "faces") + field(2, tensor_type("batch", 3, side, side)))
        + field(12, field(1, "scores") + field(2, tensor_type("batch", classes)))
    )
    path.write_bytes(field(1, 8) + field(8, field(1, "") + field(2, 13)) + field(7, graph))
    return path


@pytest.mark.parametrize(("classes", "size"), [(7, 260), (8, 224), (10, None)])
def test_emotion_net_reads_classes_and_size_from_the_file(classes, size, tmp_path):
    weight = np.random.default_rng(0).normal(size=(classes, 3))
    net = load("expression", onnx_classifier(tmp_path / "net.onnx", weight, size))
    assert net.size == (size or 224) and net.names == (EMOTIONS_7 if classes == 7 else EMOTIONS_8)
    faces = torch.rand(3, 3, 1, 1, generator=torch.Generator().manual_seed(0)).expand(-1, -1, 40, 40)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    scores = (((faces[..., 0, 0].double().numpy() - mean) / std) @ weight.T)[:, : len(net.names)]
    truth = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    # OpenCV adds the 50,000 values of its mean one by one in single precision.
    np.testing.assert_allclose(net.probabilities(faces).numpy(), truth, atol=3e-3)
    assert net(faces).tolist() == truth.argmax(1).tolist()


def test_emotion_net_refuses_other_files(tmp_path, shared):
    onnx = onnx_classifier(tmp_path / "classes.onnx", np.ones((5, 3)), 224)
    with pytest.raises(WeightsError, match=r"\(1, 5\).*7 or 8 emotions"):
        load("expression", onnx)
    with pytest.raises(WeightsError, match="112 px"):
        load("expression", onnx_classifier(tmp_path / "small.onnx", np.ones((8, 3)), 112))
    with pytest.raises(WeightsError, match="no emotion network"):
        load("expression", shared / "weights" / "MobileFaceNet.onnx")
    (tmp_path / "text.onnx").write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(WeightsError, match="cannot read"):
        load("expression", tmp_path / "text.onnx")
    with pytest.raises(WeightsError, match=r"no such file.*enet_b0_8_best_vgaf\.onnx"):
        load("expression", tmp_path / "none.onnx")
