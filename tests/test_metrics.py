"""Measures against scikit-image, OpenCV and hand calculations."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from bfr_core.errors import InputMediaError
from bfr_core.faces.align import FFHQ_TEMPLATE
from bfr_core.faces.identity import arcface_crop, embed, identity_cosine
from bfr_core.metrics.fidelity import laplacian_variance, psnr
from bfr_core.networks.mobilefacenet import MobileFaceNet
from bfr_core.weights import fill, load_state


def test_psnr_is_scikit_images():
    first, second = (np.random.default_rng(s).integers(0, 256, (40, 50, 3), dtype=np.uint8) for s in (0, 1))
    tensors = [torch.from_numpy(x).permute(2, 0, 1)[None].float() / 255 for x in (first, second)]
    assert abs(psnr(*tensors).item() - peak_signal_noise_ratio(first, second)) < 1e-9
    assert psnr(tensors[0], tensors[0]).isinf()
    with pytest.raises(InputMediaError):
        psnr(tensors[0], tensors[1][..., :3])


def test_sharpness_is_opencvs():
    image = np.random.default_rng(0).random((30, 40, 3)).astype(np.float32)
    ours = laplacian_variance(torch.from_numpy(image).permute(2, 0, 1)[None]).item()
    luma = (image @ np.array([0.299, 0.587, 0.114])) * 255
    assert abs(ours - cv2.Laplacian(luma, cv2.CV_64F, ksize=1)[1:-1, 1:-1].var()) < 1e-2


def test_arcface_crop_puts_the_points_where_its_template_has_them():
    template = np.array([[38.29, 51.70], [73.53, 51.50], [56.03, 71.74], [41.55, 92.37], [70.73, 92.20]])
    for source, target in zip(FFHQ_TEMPLATE, template, strict=True):
        frame = torch.zeros(1, 3, 512, 512)
        x, y = source.astype(int)
        frame[..., y - 4 : y + 5, x - 4 : x + 5] = 1
        crop = arcface_crop(frame)[0, 0]
        rows, columns = torch.meshgrid(torch.arange(112) + 0.5, torch.arange(112) + 0.5, indexing="ij")
        at = np.array([(crop * columns).sum() / crop.sum(), (crop * rows).sum() / crop.sum()])
        assert np.abs(at - target).max() < 2.5  # the templates differ by a similarity with a residual of 1.6 px


def test_mobilefacenet_is_the_onnx_network(shared):
    """The published ONNX file, run by OpenCV, is an independent evaluation of the same weights."""
    net = MobileFaceNet().eval()
    fill(net, load_state(shared / "weights" / "mobilefacenet.pt"), what="MobileFaceNet")
    theirs = cv2.dnn.readNet(str(shared / "weights" / "MobileFaceNet.onnx"))
    image = cv2.imread(str(shared / "photos" / "clean" / "astronaut.png"))[..., ::-1]
    x = np.ascontiguousarray(cv2.resize(image, (112, 112)).transpose(2, 0, 1)[None]).astype(np.float32) / 255
    mean, std = (np.array(v, np.float32).reshape(1, 3, 1, 1) for v in (net.mean, net.std))
    theirs.setInput((x - mean) / std)
    truth = theirs.forward().ravel().astype(np.float64)
    with torch.no_grad():
        ours = net(torch.from_numpy(x))[0].numpy()
    np.testing.assert_allclose(ours, truth / np.linalg.norm(truth), atol=1e-4)


def test_identity_tells_people_apart_and_has_a_gradient(shared):
    net = MobileFaceNet().eval()
    fill(net, load_state(shared / "weights" / "mobilefacenet.pt"), what="MobileFaceNet")
    files = sorted((shared / "faces" / "pd512" / "val").iterdir())[:6]
    faces = torch.stack([torch.from_numpy(cv2.imread(str(f))[..., ::-1].copy()).permute(2, 0, 1) / 255 for f in files])
    same = identity_cosine(net, faces, faces.flip(-1))
    other = identity_cosine(net, faces, faces.roll(1, 0))
    assert same.min() > 0.75 > 0.6 > other.max()
    x = faces[:1].clone().requires_grad_()
    embed(net, x).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
