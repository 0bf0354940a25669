"""Measures against scikit-image, SciPy, scikit-learn, OpenCV, Pillow and hand calculations."""

from __future__ import annotations

import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import opens_pickles
from PIL import Image
from safetensors.numpy import save_file
from scipy import integrate, linalg, ndimage, special
from skimage.data import astronaut
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from bfr_core.errors import InputMediaError, SettingsError, WeightsError
from bfr_core.faces.align import FFHQ_TEMPLATE
from bfr_core.faces.identity import arcface_crop, embed, identity_cosine
from bfr_core.metrics import niqe as niqe_module
from bfr_core.metrics.distribution import (
    fid,
    frechet_distance,
    linear_svm,
    load_features,
    load_statistics,
    paired_unpaired_ids,
    statistics,
)
from bfr_core.metrics.emotion import emotion_accuracy
from bfr_core.metrics.fidelity import laplacian_variance, psnr, ssim
from bfr_core.metrics.files import files, find
from bfr_core.metrics.identity import degrees, identity_scores
from bfr_core.metrics.landmarks import EYE_POINTS, detection_success_rate, lmd, nme
from bfr_core.metrics.niqe import Niqe, fit_aggd
from bfr_core.models.checkpoints.files import fill, load_state
from bfr_core.networks.mobilefacenet import MobileFaceNet


def picture(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)[None].float() / 255


def faces_of(folder: Path, count: int) -> torch.Tensor:
    files = sorted(folder.iterdir())[:count]
    return torch.cat([picture(cv2.imread(str(file))[..., ::-1]) for file in files])


def test_psnr_is_scikit_images():
    first, second = (np.random.default_rng(s).integers(0, 256, (40, 50, 3), dtype=np.uint8) for s in (0, 1))
    tensors = [torch.from_numpy(x).permute(2, 0, 1)[None].float() / 255 for x in (first, second)]
    assert abs(psnr(*tensors).item() - peak_signal_noise_ratio(first, second)) < 1e-9
    assert psnr(tensors[0], tensors[0]).isinf()
    with pytest.raises(InputMediaError):
        psnr(tensors[0], tensors[1][..., :3])


def test_ssim_is_scikit_images():
    clean = astronaut()[:200, 150:350]
    rng = np.random.default_rng(0)
    worse = [
        np.clip(clean + rng.normal(0, 20, clean.shape), 0, 255).astype(np.uint8),
        cv2.GaussianBlur(clean, (0, 0), 2),
        rng.integers(0, 256, clean.shape, dtype=np.uint8),
    ]
    truth = [
        structural_similarity(
            clean, other, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, channel_axis=2
        )
        for other in worse
    ]
    ours = ssim(torch.cat([picture(other) for other in worse]), picture(clean).expand(3, -1, -1, -1))
    np.testing.assert_allclose(ours.numpy(), truth, atol=1e-7)
    assert ssim(picture(clean), picture(clean)).item() == 1


@given(seed=st.integers(0, 2**31), height=st.integers(11, 30), width=st.integers(11, 30))
@settings(max_examples=12, deadline=None)
def test_ssim_is_symmetric_and_at_most_one(seed, height, width):
    rng = np.random.default_rng(seed)
    first, second = (picture(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for _ in range(2))
    forward, back = ssim(first, second), ssim(second, first)
    torch.testing.assert_close(forward, back)
    assert -1 <= forward.item() < 1


def test_ssim_refuses_what_its_window_does_not_fit():
    with pytest.raises(InputMediaError, match=r"10x40.*11"):
        ssim(torch.zeros(1, 3, 40, 10), torch.zeros(1, 3, 40, 10))
    with pytest.raises(InputMediaError, match="same"):
        ssim(torch.zeros(1, 3, 40, 40), torch.zeros(1, 1, 40, 40))


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


@opens_pickles
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


@opens_pickles
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


def plain_niqe(image: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> float:
    """NIQE of an 8-bit RGB picture, block by block with NumPy and SciPy, from the equations of the paper."""
    axis = np.exp(-(np.arange(-3, 4) ** 2) / (2 * (7 / 6) ** 2))
    window = np.outer(axis, axis) / axis.sum() ** 2
    luma = np.round(image / 255.0 @ [65.481, 128.553, 24.966] + 16).astype(np.float32)
    rows, columns = luma.shape[0] // 96, luma.shape[1] // 96
    luma = luma[: rows * 96, : columns * 96]
    shapes = np.arange(0.2, 10.001, 0.001)
    table = special.gamma(2 / shapes) ** 2 / (special.gamma(1 / shapes) * special.gamma(3 / shapes))

    def aggd(x):
        left, right = np.sqrt(np.mean(x[x < 0] ** 2)), np.sqrt(np.mean(x[x > 0] ** 2))
        g, r = left / right, np.mean(np.abs(x)) ** 2 / np.mean(x**2)
        a = shapes[np.argmin((table - r * (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2) ** 2)]
        scale = np.sqrt(special.gamma(1 / a) / special.gamma(3 / a))
        return a, left * scale, right * scale

    features = []
    for size in (96, 48):
        mu = ndimage.convolve(luma.astype(np.float64), window, mode="nearest").astype(np.float32)
        square = ndimage.convolve(luma.astype(np.float64) ** 2, window, mode="nearest").astype(np.float32)
        normal = ((luma - mu) / (np.sqrt(np.abs(square - mu * mu)) + 1)).astype(np.float64)
        found = []
        for i in range(rows):
            for j in range(columns):
                block = normal[i * size : (i + 1) * size, j * size : (j + 1) * size]
                a, left, right = aggd(block)
                row = [a, (left + right) / 2]
                for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
                    a, left, right = aggd(block * np.roll(block, shift, (0, 1)))
                    row += [a, (right - left) * special.gamma(2 / a) / special.gamma(1 / a), left, right]
                found.append(row)
        features.append(np.array(found))
        luma = halved(luma)
    joined = np.concatenate(features, 1)
    away = mean - joined.mean(0)
    return float(np.sqrt(away @ np.linalg.pinv((covariance + np.cov(joined, rowvar=False)) / 2) @ away))


def halved(plane: np.ndarray) -> np.ndarray:
    """MATLAB's imresize by 0.5: Pillow's bicubic has the same cubic and antialiasing; the mirrored border is ours."""
    padded = Image.fromarray(np.pad(plane, 8, mode="symmetric").astype(np.float32))
    height, width = plane.shape
    return np.asarray(padded.resize((width // 2 + 8, height // 2 + 8), Image.Resampling.BICUBIC))[4:-4, 4:-4]


@pytest.fixture(scope="module")
def pristine(shared) -> Niqe:
    return Niqe.fit(faces_of(shared / "faces" / "pd512" / "train", 16)[..., 64:448, 112:400])


def test_niqe_is_a_plain_evaluation_of_its_equations(pristine):
    rng = np.random.default_rng(0)
    clean = astronaut()
    noisy = np.clip(clean[:300, :400] + rng.normal(0, 15, (300, 400, 3)), 0, 255).astype(np.uint8)
    for image in (clean[:300], noisy):
        truth = plain_niqe(image, pristine.mean.numpy(), pristine.covariance.numpy())
        assert abs(pristine(picture(image)).item() - truth) < 2e-3 * truth


def test_niqe_halves_as_matlab_does():
    plane = np.random.default_rng(0).random((96, 192)).astype(np.float32) * 255
    np.testing.assert_allclose(niqe_module._halve(torch.from_numpy(plane)).numpy(), halved(plane), atol=1e-3)


@pytest.mark.parametrize("shape", [0.5, 1.0, 2.0, 4.0])
def test_aggd_fit_finds_the_distribution_that_samples_come_from(shape):
    left, right = 0.7, 1.6
    rng = np.random.default_rng(1)
    size = rng.gamma(1 / shape, size=(1, 400_000)) ** (1 / shape)
    negative = rng.random(size.shape) < left / (left + right)
    found = fit_aggd(torch.from_numpy(np.where(negative, -left, right) * size))
    np.testing.assert_allclose([value.item() for value in found], [shape, left, right], rtol=0.03)


@pytest.mark.parametrize("shape", [1.0, 1.3, 3.0])
def test_aggd_moments_are_those_of_numerical_integration(shape):
    """Quantiles of a symmetric density, found by integrating it, are a sample without randomness."""
    grid = np.linspace(0, 40, 400_001)
    density = integrate.cumulative_trapezoid(np.exp(-(grid**shape)), grid, initial=0)
    upper = np.interp((np.arange(20_000) + 0.5) / 20_000, density / density[-1], grid)
    found, left, right = fit_aggd(torch.from_numpy(np.concatenate([-upper, upper])[None]))
    assert abs(found.item() - shape) < 0.01 * shape
    np.testing.assert_allclose([left.item(), right.item()], [1, 1], rtol=0.02)


def test_niqe_of_a_persons_own_model_rises_with_blur_noise_and_compression(pristine, shared):
    files = sorted((shared / "faces" / "pd512" / "val").iterdir())[:3]
    faces = [cv2.imread(str(file))[64:448, 112:400, ::-1] for file in files]
    rng = np.random.default_rng(0)
    ladders = {
        "blur": [lambda x, s=s: cv2.GaussianBlur(x, (0, 0), s) for s in (1, 4)],
        "noise": [lambda x, s=s: np.clip(x + rng.normal(0, s, x.shape), 0, 255).astype(np.uint8) for s in (10, 40)],
        "jpeg": [lambda x, q=q: cv2.imdecode(cv2.imencode(".jpg", x, [1, q])[1], 1) for q in (40, 8)],
    }
    best = pristine(torch.cat([picture(face) for face in faces])).mean().item()
    for name, steps in ladders.items():
        scores = [pristine(torch.cat([picture(step(face)) for face in faces])).mean().item() for step in steps]
        assert best < scores[0] < scores[1], f"{name}: {best} then {scores}"


def test_niqe_model_survives_a_file_and_says_whose_it_is(pristine, tmp_path):
    pristine.save(tmp_path / "mine.npz")
    again = Niqe.load(tmp_path / "mine.npz")
    assert again.model == pristine.model == "own pristine model"
    image = picture(astronaut()[:200, :200])
    assert again(image) == pristine(image)
    unmarked = {
        "mu_pris_param": pristine.mean[None],
        "cov_pris_param": pristine.covariance,
        "gaussian_window": pristine.window,
    }
    np.savez(tmp_path / "niqe_pris_params.npz", **unmarked)
    assert Niqe.load(tmp_path / "niqe_pris_params.npz").model == "another pristine model"
    # The published file is known by the sum of its mean and the trace of its covariance.
    unmarked["mu_pris_param"] = np.full((1, 36), 17.32876552816881 / 36)
    unmarked["cov_pris_param"] = np.eye(36) * 1.6309188316421013 / 36
    np.savez(tmp_path / "niqe_pris_params.npz", **unmarked)
    assert Niqe.load(tmp_path / "niqe_pris_params.npz").model == "published pristine model"


def test_niqe_refuses_wrong_files_and_pictures(pristine, tmp_path):
    with pytest.raises(WeightsError, match=r"no such file.*BasicSR"):
        Niqe.load(tmp_path / "niqe_pris_params.npz")
    wrong = tmp_path / "wrong.npz"
    np.savez(wrong, mu_pris_param=np.zeros(36), cov_pris_param=np.eye(35), gaussian_window=np.eye(7))
    with pytest.raises(WeightsError, match=r"covariance \(35, 35\)"):
        Niqe.load(wrong)
    np.savez(wrong, mu=np.zeros(3))
    with pytest.raises(WeightsError, match=r"no numbers called mu_pris_param.*\(mu\)"):
        Niqe.load(wrong)
    wrong.write_bytes(wrong.read_bytes()[:60])
    with pytest.raises(WeightsError, match="damaged"):
        Niqe.load(wrong)
    with pytest.raises(InputMediaError, match="90x200"):
        pristine(torch.rand(1, 3, 200, 90))
    with pytest.raises(InputMediaError, match="0 blocks"):
        pristine(torch.full((1, 3, 200, 200), 0.5))
    with pytest.raises(InputMediaError, match="sharp blocks"):
        Niqe.fit(torch.rand(2, 3, 200, 200))


def test_identity_score_is_the_cosine_and_its_angle():
    class Mean:
        size = 4

        def __call__(self, x):
            return torch.nn.functional.normalize(x.mean((2, 3)), dim=1)

    red, yellow = torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64)
    red[:, 0] = 1
    yellow[:, :2] = 1
    cosine = identity_scores(Mean(), torch.cat([red, red]), torch.cat([red, yellow]))
    torch.testing.assert_close(cosine, torch.tensor([1.0, 0.5**0.5]))
    torch.testing.assert_close(degrees(torch.tensor([1.0000001, 0.5, -1.0])), torch.tensor([0.0, 60.0, 180.0]).double())
    with pytest.raises(InputMediaError):
        identity_scores(Mean(), red, torch.zeros(1, 3, 32, 32))


def test_landmark_distance_by_hand():
    truth = np.zeros((2, 3, 2))
    moved = truth.copy()
    moved[0] += (3, 4)
    moved[1, 0] += (0, 6)
    np.testing.assert_allclose(lmd(moved, truth), [5, 2])
    np.testing.assert_allclose(lmd(torch.from_numpy(moved), truth, scale=2.0), [10, 4])
    for wrong in (truth[:1], truth[..., :1], truth * np.nan):
        with pytest.raises(InputMediaError):
            lmd(wrong, truth)


@pytest.mark.parametrize("count", [5, 68, 98])
def test_nme_divides_by_the_eyes_or_the_box(count):
    rng = np.random.default_rng(count)
    truth = rng.random((4, count, 2)) * 100
    points = truth + np.array([6, 8])
    first, second = EYE_POINTS[count]
    eyes = np.linalg.norm(truth[:, first] - truth[:, second], axis=1)
    np.testing.assert_allclose(nme(points, truth), 10 / eyes)
    box = np.sqrt(np.prod(truth.max(1) - truth.min(1), axis=1))
    np.testing.assert_allclose(nme(points, truth, "bbox"), 10 / box)
    np.testing.assert_allclose(nme(points * 3, truth * 3), nme(points, truth))  # no unit


def test_nme_refuses_what_has_no_size_or_no_known_eyes():
    points = np.random.default_rng(0).random((1, 7, 2))
    with pytest.raises(SettingsError, match="7 points"):
        nme(points, points)
    with pytest.raises(SettingsError, match="interocular or bbox"):
        nme(points, points, "pupils")  # type: ignore[arg-type]
    with pytest.raises(InputMediaError, match="size of zero"):
        nme(np.ones((1, 5, 2)), np.ones((1, 5, 2)))


def test_detection_success_counts_only_faces_that_the_truth_has():
    assert detection_success_rate([True, False, None, True]) == 2 / 3
    assert np.isnan(detection_success_rate([None]))


def test_emotion_accuracy_by_hand():
    assert emotion_accuracy([1, 2, 3, 4], torch.tensor([1, 2, 0, 4])) == 0.75
    for labels in ([], [1, 2]):
        with pytest.raises(InputMediaError):
            emotion_accuracy(labels, [1] if labels else [])


def gaussian(seed: int, rank: int, size: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(size, rank))
    return rng.normal(size=size), root @ root.T / rank


def test_frechet_distance_of_gaussians_known_in_closed_form():
    one = np.ones((1, 1))
    assert frechet_distance(np.array([1.0]), 4 * one, np.array([4.0]), 25 * one) == pytest.approx(9 + (2 - 5) ** 2)
    mean, covariance = gaussian(0, 20)
    assert frechet_distance(mean, covariance, mean, covariance) == pytest.approx(0, abs=1e-9)
    first, second = np.random.default_rng(1).random((2, 6)) + 0.1
    truth = np.square(np.sqrt(first) - np.sqrt(second)).sum() + 6 * 0.25
    found = frechet_distance(np.zeros(6), np.diag(first), np.full(6, 0.5), np.diag(second))
    assert found == pytest.approx(truth)


@pytest.mark.parametrize("ranks", [(20, 30), (20, 5), (4, 7), (1, 12)])
def test_frechet_distance_is_scipys_square_root(ranks):
    (mean_a, cov_a), (mean_b, cov_b) = gaussian(0, ranks[0]), gaussian(1, ranks[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", linalg.LinAlgWarning)
        root = linalg.sqrtm(cov_a @ cov_b + 0j)
    truth = np.square(mean_a - mean_b).sum() + np.trace(cov_a + cov_b) - 2 * np.trace(root).real
    # scipy loses half of the digits where the product has no full rank.
    assert frechet_distance(mean_a, cov_a, mean_b, cov_b) == pytest.approx(truth, rel=1e-9 if min(ranks) > 12 else 1e-5)


def test_fid_of_features_is_the_distance_of_their_statistics():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 6)).astype(np.float32)
    mean, covariance = statistics(features)
    np.testing.assert_allclose(mean, features.mean(0), atol=1e-6)
    np.testing.assert_allclose(covariance, np.cov(features.T), atol=1e-6)
    assert fid(features, (mean, covariance)) == pytest.approx(0, abs=1e-9)
    assert fid(features + 2, (mean, covariance)) == pytest.approx(6 * 4, rel=1e-5)
    with pytest.raises(InputMediaError, match="6 and 5 dim"):
        fid(features, (mean[:5], covariance[:5, :5]))
    with pytest.raises(InputMediaError, match="two rows"):
        statistics(features[:1])


@opens_pickles
@pytest.mark.parametrize("legacy", [False, True])
def test_published_statistics_load_without_running_code(legacy, tmp_path):
    mean, covariance = gaussian(0, 20)
    path = tmp_path / "inception_FFHQ_512.pth"
    published = {"name": "FFHQ", "size": 512, "mean": mean, "cov": covariance}
    torch.save(published, path, _use_new_zipfile_serialization=not legacy)
    for found, truth in zip(load_statistics(path), (mean, covariance), strict=True):
        np.testing.assert_array_equal(found, truth)
    np.savez(tmp_path / "fid.npz", mu=mean, sigma=covariance)
    np.testing.assert_array_equal(load_statistics(tmp_path / "fid.npz")[1], covariance)


@opens_pickles
def test_features_load_from_every_kind_of_file(tmp_path):
    features = np.random.default_rng(0).random((5, 8)).astype(np.float32)
    np.save(tmp_path / "a.npy", features)
    np.savez(tmp_path / "b.npz", features=features, other=np.zeros((2, 2)))
    save_file({"pool": features}, tmp_path / "c.safetensors")
    torch.save({"features": torch.from_numpy(features)}, tmp_path / "d.pth")
    torch.save(torch.from_numpy(features), tmp_path / "e.pt")
    for path in sorted(tmp_path.iterdir()):
        found = load_features(path)
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, features)


@opens_pickles
def test_files_of_features_and_statistics_that_are_refused(tmp_path):
    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"mean": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(WeightsError, match="unsafe"):
        load_statistics(tmp_path / "bomb.pth")
    np.save(tmp_path / "bomb.npy", np.array([Bomb()]), allow_pickle=True)
    with pytest.raises(WeightsError):
        load_features(tmp_path / "bomb.npy")
    assert not (tmp_path / "ran").exists()
    np.savez(tmp_path / "two.npz", a=np.zeros((2, 2)), b=np.zeros((3, 2)))
    with pytest.raises(WeightsError, match=r"a \(2, 2\), b \(3, 2\)"):
        load_features(tmp_path / "two.npz")
    with pytest.raises(WeightsError, match=r"a \(2, 2\).*inception_FFHQ_512"):
        load_statistics(tmp_path / "two.npz")
    np.savez(tmp_path / "words.npz", features=np.array([["a", "b"]]), mu=np.array(["a"]), sigma=np.array([["b"]]))
    for load in (load_features, load_statistics):
        with pytest.raises(WeightsError, match=r"features \(1, 2\)"):
            load(tmp_path / "words.npz")
    np.save(tmp_path / "nan.npy", np.full((2, 2), np.nan))
    with pytest.raises(WeightsError, match="4 of 4"):
        load_features(tmp_path / "nan.npy")
    (tmp_path / "page.npz").write_bytes(b"<!DOCTYPE html>")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "bomb.pth").read_bytes()[:100])
    (tmp_path / "cut.safetensors").write_bytes(b"12")
    for name in ("page.npz", "cut.pth", "cut.safetensors", "none.npy", "table.csv"):
        with pytest.raises(WeightsError):
            load_features(tmp_path / name)


@given(
    seed=st.integers(0, 2**31),
    samples=st.integers(2, 40),
    features=st.integers(1, 40),
    scale=st.sampled_from([0.1, 1, 30]),
)
@settings(max_examples=40, deadline=None)
def test_svm_stands_where_its_cost_has_no_slope(seed, samples, features, scale):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(samples, features)) * scale, np.where(rng.random(samples) < 0.5, 1.0, -1.0)
    weights, bias = linear_svm(x, y)
    slack = np.maximum(0, 1 - y * (x @ weights + bias))
    rows = np.concatenate([x, np.ones((samples, 1))], 1)
    slope = np.append(weights, bias) - 2 * rows.T @ (slack * y)
    assert np.abs(slope).max() < 1e-7 * max(1, np.abs(rows).sum())


@pytest.mark.parametrize(("samples", "features"), [(120, 8), (60, 200)])
def test_svm_and_scores_are_scikit_learns(samples, features):
    svm = pytest.importorskip("sklearn.svm", reason="scikit-learn, whose LinearSVC the metric is defined by, is absent")
    rng = np.random.default_rng(0)
    real = rng.normal(size=(samples, features))
    fake = real * 0.9 + rng.normal(size=real.shape) * 0.3 + 0.15
    x, y = np.concatenate([real, fake]), np.repeat([1, 0], samples)
    theirs = svm.LinearSVC(dual=False, tol=1e-10, max_iter=10_000).fit(x, y)
    weights, bias = linear_svm(x, np.where(y, 1.0, -1.0))
    np.testing.assert_allclose(np.append(weights, bias), np.append(theirs.coef_, theirs.intercept_), atol=1e-5)
    paired, unpaired = paired_unpaired_ids(real, fake)
    assert unpaired == pytest.approx(1 - theirs.score(x, y))
    assert paired == np.mean(theirs.decision_function(fake) > theirs.decision_function(real))
    assert 0 < unpaired < 0.5 or features == 200


def test_svm_that_does_not_settle_says_so(monkeypatch):
    monkeypatch.setattr("bfr_core.metrics.distribution._NEWTON_STEPS", 1)
    rng = np.random.default_rng(0)
    with pytest.raises(InputMediaError, match="did not settle"):
        linear_svm(rng.normal(size=(50, 3)) + np.repeat([[2.0], [-2.0]], 25, 0), np.repeat([1.0, -1.0], 25))


def test_discriminative_scores_of_sets_known_by_hand():
    real = np.array([[1.0, 0.0], [2.0, 1.0], [3.0, -1.0]])
    assert paired_unpaired_ids(real, real - (10, 0)) == (0, 0)  # apart: nothing is mistaken
    assert paired_unpaired_ids(real, real) == (0, 0.5)  # equal: no fake beats its truth, every second is mistaken
    assert paired_unpaired_ids(real, real[[1, 2, 0]])[1] == 0.5  # equal as sets, whoever is paired with whom
    # One coordinate, symmetric about zero: w by hand from w / 2 = 1 - w, and two of six on the wrong side.
    line = np.array([[1.0], [1.0], [-1.0]])
    weights, bias = linear_svm(np.concatenate([line, -line]), np.repeat([1.0, -1.0], 3))
    assert bias == pytest.approx(0)
    # 2 * 4 * (1 - w) - 2 * 2 * (1 + w) = w  at  w = 4 / 13
    assert weights[0] == pytest.approx(4 / 13)
    assert paired_unpaired_ids(line, -line) == (1 / 3, 1 / 3)
    with pytest.raises(InputMediaError, match="pair"):
        paired_unpaired_ids(real, real[:2])


def test_metric_files_are_found_by_any_of_their_names(tmp_path):
    assert find(None, "niqe") is None and find(tmp_path, "lpips_heads") is None
    (tmp_path / "vgg.pth").touch()
    assert find(tmp_path, "lpips_heads") == tmp_path / "vgg.pth"
    (tmp_path / "lpips_heads").mkdir()
    (tmp_path / "lpips_heads" / "vgg.pth").touch()
    assert find(tmp_path, "lpips_heads") == tmp_path / "lpips_heads" / "vgg.pth"
    for entry in files().values():
        assert entry.names[0] in entry.todo and entry.source in entry.todo
    with pytest.raises(SettingsError, match="lpips_backbone"):
        find(tmp_path, "vgg")
