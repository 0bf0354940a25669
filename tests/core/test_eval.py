"""`bfr eval` from outside: figures against other implementations, what is left out, and the report."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import opens_pickles
from safetensors.torch import load_file
from scipy.linalg import sqrtm
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from bfr_core.cli import main
from bfr_core.degrade.chain import degrade, fixed
from bfr_core.evaluate import run as evaluation
from bfr_core.evaluate.catalogue import BY_KEY, METRICS
from bfr_core.evaluate.plots import histogram, timeline
from bfr_core.evaluate.results import Item, Spread, WorstKeeper, badness
from bfr_core.evaluate.tools import MetricModels
from bfr_core.faces.detect import load_detector
from bfr_core.faces.identity import arcface_crop
from bfr_core.models.checkpoints.cards import embedded
from bfr_core.networks.alexnet import AlexNetFeatures
from bfr_core.networks.face_embedder import FaceEmbedder

SIDE = 128
"""Faces of this size keep the tests fast; no metric depends on 512."""


def run(*arguments) -> int:
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1])


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path))[..., ::-1]


@pytest.fixture(scope="session")
def faces(shared) -> list[np.ndarray]:
    files = [sorted((shared / "faces" / name / "val").glob("*.*"))[0] for name in ("pd512", "free512", "cc0gen512")]
    return [cv2.resize(read(file), (SIDE, SIDE), interpolation=cv2.INTER_AREA) for file in files]


@pytest.fixture
def folders(faces, tmp_path) -> dict[str, Path]:
    """Three faces; the restored ones are degraded less than the inputs, the second the most."""
    for index, truth in enumerate(faces):
        write(tmp_path / "truth" / f"{index}.png", truth)
        write(tmp_path / "input" / f"{index}.png", degrade(truth, fixed(8, jpeg_quality=80)))
        write(tmp_path / "restored" / f"{index}.png", degrade(truth, fixed((1.5, 6, 3)[index])))
    return {side: tmp_path / side for side in ("restored", "input", "truth")}


def evaluate(folders: dict[str, Path], out: Path, *more) -> tuple[int, dict]:
    report = out / "report.json"
    given = ["--input", folders["input"]] if "input" in folders else []
    status = run("eval", folders["restored"], "--truth", folders["truth"], *given, "--report", report, *more)
    return status, json.loads(report.read_text()) if report.is_file() else {}


def rows(found: dict) -> dict[str, dict]:
    return {row["key"]: row for row in found["metrics"]}


def test_psnr_and_ssim_are_those_of_scikit_image(folders, tmp_path, capsys):
    status, found = evaluate(folders, tmp_path)
    assert status == 0
    for face in found["faces"]:
        truth = read(folders["truth"] / f"{face['name']}.png")
        for side in ("restored", "input"):
            image = read(folders[side] / f"{face['name']}.png")
            assert face["values"]["psnr"][side] == pytest.approx(peak_signal_noise_ratio(truth, image), abs=1e-5)
            ssim = structural_similarity(
                truth, image, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
            )
            assert face["values"]["ssim"][side] == pytest.approx(ssim, abs=1e-5)
    values = np.array([face["values"]["psnr"]["restored"] for face in found["faces"]])
    spread = rows(found)["psnr"]["sides"]["restored"]
    assert [spread[name] for name in ("mean", "median", "std", "n")] == pytest.approx(
        [values.mean(), np.median(values), values.std(), 3], abs=1e-5
    )
    assert rows(found)["psnr"]["improved"] == {"better_than_input": 3, "of": 3}
    assert "truth" not in rows(found)["psnr"]["sides"] and rows(found)["sharpness"]["sides"]["truth"]["n"] == 3
    printed = capsys.readouterr().out
    assert f"{values.mean():.2f}" in printed and "PSNR (dB)" in printed


def test_every_metric_is_a_row_and_a_missing_file_says_what_to_put_where(folders, tmp_path, capsys):
    _, found = evaluate(folders, tmp_path, "--report", tmp_path / "report.html")
    shown = rows(found)
    assert list(shown) == [metric.key for metric in METRICS if metric.scope != "pair"]
    for key, name in {
        "niqe": "niqe_pris_params.npz",
        "lpips": "vgg16-397923af.pth",
        "lmd": "alignment_WFLW_4HG.pth",
        "emotion": "enet_b0_8_best_vgaf.onnx",
        "fid": "--features-reference",
        "p_ids": "--features-truth",
    }.items():
        assert name in shown[key]["missing"] and shown[key]["sides"] == {}
    assert "--weights" in shown["niqe"]["missing"]
    page = (tmp_path / "report.html").read_text()
    assert page.count("Not measured.") == sum("missing" in row for row in shown.values())
    assert "niqe_pris_params.npz" in page and "NIQE: put niqe_pris_params.npz" in capsys.readouterr().out


def test_identity_needs_no_file(folders, tmp_path, capsys):
    status, found = evaluate(folders, tmp_path, "--report", tmp_path / "report.html")
    assert status == 0 and found["worst"]["by"] == "identity"
    for key in ("identity", "identity_degrees"):
        assert rows(found)[key]["measured_with"] == "embedded recogniser"
    assert "Measured with embedded recogniser" in (tmp_path / "report.html").read_text()
    net = FaceEmbedder()
    net.load_state_dict({key: value.float() for key, value in load_file(embedded("recogniser")).items()})
    vectors = []
    for side in ("restored", "truth"):
        face = torch.from_numpy(read(folders[side] / "0.png").copy()).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            vectors.append(net(arcface_crop(face, 96) * 2 - 1)[0])
    wanted = torch.cosine_similarity(*vectors, dim=0).item()
    assert found["faces"][0]["values"]["identity"]["restored"] == pytest.approx(wanted, abs=1e-4)


@opens_pickles
def test_a_recogniser_among_the_weights_comes_before_the_embedded_one(tmp_path, shared):
    (tmp_path / "mobilefacenet.pt").symlink_to(shared / "weights" / "mobilefacenet.pt")
    assert MetricModels(tmp_path).title_of("recognizer") == "MobileFaceNet"


@opens_pickles
def test_identity_and_its_angle_with_a_recogniser(folders, tmp_path, shared):
    recogniser = shared / "weights" / "mobilefacenet.pt"
    status, found = evaluate(folders, tmp_path, "--recogniser", recogniser)
    assert status == 0 and found["worst"]["by"] == "identity"
    assert rows(found)["identity"]["measured_with"] == "MobileFaceNet"
    for face in found["faces"]:
        cosine, angle = (face["values"][key]["restored"] for key in ("identity", "identity_degrees"))
        assert angle == pytest.approx(math.degrees(math.acos(cosine)), abs=0.02)
    # The same network in its published ONNX file, run by OpenCV.
    net = cv2.dnn.readNet(str(shared / "weights" / "MobileFaceNet.onnx"))
    vectors = []
    for side in ("restored", "truth"):
        face = torch.from_numpy(read(folders[side] / "0.png").copy()).permute(2, 0, 1)[None] / 255
        mean, std = (
            np.array(v, np.float32).reshape(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        )
        net.setInput((arcface_crop(face).numpy() - mean) / std)
        vectors.append(net.forward().ravel() / np.linalg.norm(net.forward()))
    assert found["faces"][0]["values"]["identity"]["restored"] == pytest.approx(vectors[0] @ vectors[1], abs=1e-3)
    means = {side: spread["mean"] for side, spread in rows(found)["identity"]["sides"].items()}
    assert means["input"] < means["restored"] < 1


def test_five_points_are_compared_at_512_px_and_by_the_eyes(folders, tmp_path):
    _, found = evaluate(folders, tmp_path)
    detector = load_detector()
    for face in found["faces"]:
        images = [read(folders[side] / f"{face['name']}.png") / 255 for side in ("restored", "truth")]
        points = [detector.detect(torch.from_numpy(x).permute(2, 0, 1)[None].float())[0][0].points for x in images]
        off = np.linalg.norm(points[0] - points[1], axis=1).mean()
        assert face["values"]["lmd_5"]["restored"] == pytest.approx(off * 512 / SIDE, abs=1e-4)
        eyes = np.linalg.norm(points[1][1] - points[1][0])
        assert face["values"]["nme_5"]["restored"] == pytest.approx(100 * off / eyes, abs=1e-4)


def test_names_without_a_partner_are_named_and_counted(folders, tmp_path, faces, capsys):
    write(folders["restored"] / "deep" / "alone.png", faces[0])
    write(folders["truth"] / "lonely.jpg", faces[0])
    (folders["input"] / "1.png").unlink()
    status, found = evaluate(folders, tmp_path)
    assert status == 0
    assert found["unmatched"] == {"restored": ["deep/alone"], "truth": ["lonely"], "input": ["1"]}
    assert rows(found)["psnr"]["sides"]["input"]["n"] == 2 and rows(found)["psnr"]["improved"]["of"] == 2
    said = capsys.readouterr().err
    assert "1 restored pictures have no truth: deep/alone" in said and "1 faces have no input: 1" in said


def test_a_broken_picture_is_named_and_the_rest_goes_on(folders, tmp_path, capsys):
    broken = folders["restored"] / "1.png"
    broken.write_bytes(broken.read_bytes()[:2000])
    status, found = evaluate(folders, tmp_path, "--report", tmp_path / "report.html")
    assert status == 1
    assert [face["name"] for face in found["faces"]] == ["0", "2"]
    assert list(found["failed"]) == ["1"] and "1.png" in found["failed"]["1"]
    assert str(broken) in capsys.readouterr().err
    assert "could not be compared" in (tmp_path / "report.html").read_text()


def test_other_sizes_are_refused_by_name_unless_resized(folders, tmp_path, faces, capsys):
    small = cv2.resize(faces[0], (40, 40), interpolation=cv2.INTER_AREA)
    write(folders["input"] / "0.png", small)
    status, found = evaluate(folders, tmp_path)
    assert status == 1 and len(found["faces"]) == 2
    assert "0.png with its truth. it is 40 x 40 pixels and the truth 128 x 128" in found["failed"]["0"]
    status, found = evaluate(folders, tmp_path, "--resize")
    assert status == 0 and len(found["faces"]) == 3
    large = cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    # torch's bicubic has another coefficient than OpenCV's (-0.5 with antialias, -0.75 without).
    expected = peak_signal_noise_ratio(faces[0], large)
    assert found["faces"][0]["values"]["psnr"]["input"] == pytest.approx(expected, abs=0.5)
    write(folders["restored"] / "0.png", faces[0][:100])
    assert run("eval", folders["restored"], "--truth", folders["truth"], "--resize") == 1
    assert "it is 128 x 100 pixels, expected a square" in capsys.readouterr().err


def test_a_face_that_equals_its_truth_is_in_no_mean(folders, tmp_path, faces, capsys):
    write(folders["restored"] / "0.png", faces[0])
    _, found = evaluate(folders, tmp_path, "--worst-by", "psnr")
    assert found["faces"][0]["values"]["psnr"]["restored"] == "inf"
    spread = rows(found)["psnr"]["sides"]["restored"]
    assert (spread["n"], spread["equal"]) == (2, 1) and spread["mean"] < 60
    assert found["worst"]["names"][-1] == "0"
    assert "1 restored equal to their truth, not in the mean" in capsys.readouterr().out


def test_what_cannot_be_measured_is_null_with_a_reason(folders, tmp_path):
    write(folders["truth"] / "2.png", np.full((SIDE, SIDE, 3), 128, np.uint8))
    _, found = evaluate(folders, tmp_path)
    third = found["faces"][2]
    assert third["values"]["lmd_5"]["restored"] is None and "no face in the truth" in third["why"]["lmd_5"]
    assert rows(found)["lmd_5"]["sides"]["restored"]["unmeasured"] == 1
    assert rows(found)["detected"]["sides"]["restored"] == pytest.approx(
        {"mean": 100.0, "median": 100.0, "std": 0.0, "n": 2, "equal": 0, "unmeasured": 1}
    )


def test_the_worst_faces_are_the_worst(folders, tmp_path):
    page = tmp_path / "report.html"
    _, found = evaluate(folders, tmp_path, "--worst", 2, "--worst-by", "psnr", "--report", page)
    values = {face["name"]: face["values"]["psnr"]["restored"] for face in found["faces"]}
    assert found["worst"] == {"by": "psnr", "names": sorted(values, key=values.__getitem__)[:2]}
    assert found["worst"]["names"][0] == "1"
    html = page.read_text()
    assert html.count("<article") == 2 and html.count("data:image/jpeg;base64,") == 6
    assert "The 2 worst faces" in html and "By PSNR (dB), higher is better" in html
    _, found = evaluate(folders, tmp_path, "--worst-by", "sharpness", "--worst", 1)
    off = {
        face["name"]: abs(face["values"]["sharpness"]["restored"] - face["values"]["sharpness"]["truth"])
        for face in found["faces"]
    }
    assert found["worst"]["names"] == [max(off, key=off.__getitem__)]


class Page(HTMLParser):
    """Checks that tags close in order, and collects tags, attributes and text."""

    VOID = frozenset({"meta", "img", "br", "rect", "line", "polyline"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


EVIL = "<img src=x onerror=alert(1)>\"'&<script>alert(2)"


def test_the_report_is_well_formed_needs_nothing_else_and_runs_no_file_name(folders, tmp_path):
    for side in folders:
        (folders[side] / "0.png").rename(folders[side] / f"{EVIL}.png")
    (folders["restored"] / "2.png").write_bytes(b"no picture")
    (folders["restored"] / "2.png").rename(folders["restored"] / f"2{EVIL}.png")
    (folders["truth"] / "2.png").rename(folders["truth"] / f"2{EVIL}.png")
    folders["restored"].rename(tmp_path / EVIL)
    report = tmp_path / f"{EVIL}.html"
    assert run("eval", tmp_path / EVIL, "--truth", folders["truth"], "--report", report) == 1
    page = Page()
    page.feed(report.read_text("utf-8"))
    page.close()
    assert page.open == [] and "script" not in page.tags and not [n for n, _ in page.attributes if n.startswith("on")]
    assert {"table", "svg", "img"} <= set(page.tags)
    links = [value for name, value in page.attributes if name in ("src", "href")]
    assert links and all(value.startswith("data:image/jpeg;base64,") for value in links)
    assert any(EVIL in text for text in page.text) and any(EVIL in v for n, v in page.attributes if n == "alt")
    text = report.read_text("utf-8")
    assert "url(" not in text and "@import" not in text and "prefers-color-scheme: dark" in text


def test_two_files_are_compared_whatever_their_names(faces, tmp_path):
    write(tmp_path / "a.png", faces[0])
    write(tmp_path / "b.png", degrade(faces[0], fixed(2)))
    status, found = evaluate({"restored": tmp_path / "b.png", "truth": tmp_path / "a.png"}, tmp_path)
    assert status == 0 and [face["name"] for face in found["faces"]] == ["b"]
    assert "improved" not in rows(found)["psnr"]


def test_features_give_the_distances_between_sets(folders, tmp_path, capsys):
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(40, 6)), rng.normal(0.3, 1.2, size=(40, 6))
    for name, array in {"real": real, "fake": fake}.items():
        np.save(tmp_path / f"{name}.npy", array)
    np.savez(tmp_path / "reference.npz", mu=real.mean(0), sigma=np.cov(real, rowvar=False))
    given = ["--features-restored", tmp_path / "fake.npy", "--features-truth", tmp_path / "real.npy"]
    _, found = evaluate(folders, tmp_path, *given, "--features-reference", tmp_path / "reference.npz")
    cov = [np.cov(x, rowvar=False) for x in (real, fake)]
    expected = np.square(real.mean(0) - fake.mean(0)).sum() + np.trace(
        cov[0] + cov[1] - 2 * sqrtm(cov[0] @ cov[1]).real
    )
    assert rows(found)["fid"]["sides"]["restored"]["mean"] == pytest.approx(expected, rel=1e-6)
    assert rows(found)["fid_truth"]["sides"]["restored"]["mean"] == pytest.approx(expected, rel=1e-6)
    assert 0 < rows(found)["u_ids"]["sides"]["restored"]["mean"] < 0.5
    assert "The features of restored have 40 rows for 3 faces compared" in capsys.readouterr().out
    # The reference may be features too: their statistics are the same.
    _, again = evaluate(folders, tmp_path, *given, "--features-reference", tmp_path / "real.npy")
    assert rows(again)["fid"]["sides"]["restored"]["mean"] == pytest.approx(expected, rel=1e-6)


@opens_pickles
def test_files_in_the_folder_are_found_and_used(folders, tmp_path, shared):
    for side, folder in folders.items():
        for path in folder.iterdir():
            write(path, cv2.resize(read(path), (192, 192), interpolation=cv2.INTER_CUBIC))
            if side != "truth":
                write(path, np.roll(read(path), 1, axis=0))
    weights = tmp_path / "weights"
    weights.mkdir()
    torch.manual_seed(0)
    torch.save(AlexNetFeatures().state_dict(), weights / "alexnet-owt-7be5be79.pth")
    (weights / "alex.pth").write_bytes((shared / "weights" / "lpips_heads" / "alex.pth").read_bytes())
    window = np.outer(*[np.hanning(9)[1:-1]] * 2)
    np.savez(
        weights / "niqe_pris_params.npz",
        mu_pris_param=np.zeros((1, 36)), cov_pris_param=np.eye(36), gaussian_window=window / window.sum(),
    )  # fmt: skip
    status, found = evaluate(folders, tmp_path, "--weights", weights)
    assert status == 0
    sides = {key: {side: spread["n"] for side, spread in row["sides"].items()} for key, row in rows(found).items()}
    assert sides["lpips_alex"] == {"restored": 3, "input": 3}
    assert sides["niqe"] == {"restored": 3, "input": 3, "truth": 3}
    assert rows(found)["niqe"]["measured_with"] == "another pristine model"
    assert sides["lpips"] == {} and "vgg16" in rows(found)["lpips"]["missing"]
    assert "--weights" not in rows(found)["lpips"]["missing"]  # the folder is named already
    (weights / "alexnet-owt-7be5be79.pth").write_bytes(b"cut short")
    (tmp_path / "report.json").unlink()
    assert evaluate(folders, tmp_path, "--weights", weights) == (1, {})


def test_a_niqe_model_of_ones_own_is_fitted_and_named(folders, tmp_path, shared, capsys):
    weights = tmp_path / "weights"
    weights.mkdir()
    sharp = shared / "faces" / "free512" / "val"
    assert main(["models", "fit-niqe", str(sharp), "-o", str(weights / "niqe_pris_params.npz")]) == 0
    assert "own pristine model of 16 pictures" in capsys.readouterr().out
    for folder in folders.values():
        for path in folder.iterdir():
            write(path, cv2.resize(read(path), (192, 192), interpolation=cv2.INTER_CUBIC))
    status, found = evaluate(folders, tmp_path, "--weights", weights)
    assert status == 0 and rows(found)["niqe"]["measured_with"] == "own pristine model"
    assert rows(found)["niqe"]["sides"]["restored"]["n"] == 3
    assert main(["models", "fit-niqe", str(sharp), "-o", str(tmp_path / "niqe.txt")]) == 1
    assert main(["models", "fit-niqe", str(folders["truth"]), "-o", str(tmp_path / "few.npz")]) == 1
    assert "sharp blocks" in capsys.readouterr().err and not (tmp_path / "few.npz").exists()


def test_98_points_and_expressions_by_hand(folders, tmp_path, faces):
    """With networks whose answer is known: points that move with the brightness, and a label for bright faces."""
    for name in ("alignment_WFLW_4HG.pth", "enet_b0_8_best_vgaf.onnx"):
        (tmp_path / name).write_bytes(b"")
    grid = torch.arange(98.0).double()[:, None] * torch.tensor([1.0, 0.5]).double()
    tools = MetricModels(tmp_path)
    vars(tools)["landmarker"] = lambda x: (grid + 100 * x.double().mean())[None]
    vars(tools)["expression"] = lambda x: (x.mean((1, 2, 3)) > 0.5).long()
    for index, (bright, true) in enumerate([(0.6, 0.7), (0.4, 0.6), (0.2, 0.2)]):
        for side, value in (("restored", bright), ("truth", true)):
            write(folders[side] / f"{index}.png", np.full((SIDE, SIDE, 3), round(255 * value), np.uint8))
    found = evaluation.evaluate({side: folders[side] for side in ("restored", "truth")}, tools).to_dict()
    shift = [abs(round(255 * a) - round(255 * b)) / 255 * 100 for a, b in ((0.6, 0.7), (0.4, 0.6), (0.2, 0.2))]
    eyes = 12 * math.hypot(1, 0.5)  # points 60 and 72
    for face, moved in zip(found["faces"], shift, strict=True):
        distance = moved * math.sqrt(2)
        assert face["values"]["lmd"]["restored"] == pytest.approx(distance * 512 / SIDE, abs=1e-4)
        assert face["values"]["nme"]["restored"] == pytest.approx(100 * distance / eyes, abs=1e-4)
    assert [face["values"]["emotion"]["restored"] for face in found["faces"]] == [100.0, 0.0, 100.0]
    assert rows(found)["emotion"]["sides"]["restored"]["mean"] == pytest.approx(200 / 3)


# --- clips -----------------------------------------------------------------------------------------------------


def write_clip(path: Path, frames: list[np.ndarray], times: list[int]) -> None:
    """Write RGB frames without loss, each at its time in 1/25 s."""
    import av

    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = frames[0].shape[0], frames[0].shape[1], "bgr0"
        for frame, time in zip(frames, times, strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = time, Fraction(1, 25)
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))


@pytest.fixture(scope="session")
def film(shared) -> list[np.ndarray]:
    import av

    with av.open(str(shared / "video" / "talking_480x480.mp4")) as clip:
        frames = [frame.to_ndarray(format="rgb24") for _, frame in zip(range(4), clip.decode(video=0), strict=False)]
    return [cv2.resize(frame, (240, 240), interpolation=cv2.INTER_AREA) for frame in frames]


@pytest.fixture
def small_crops(monkeypatch):
    monkeypatch.setattr(evaluation, "_FACE_SIZE", 128)


def test_a_clip_that_is_its_truth_is_as_steady_as_its_truth(film, tmp_path, small_crops):
    write_clip(tmp_path / "truth.mkv", film, [0, 1, 2, 3])
    write_clip(tmp_path / "same.mkv", film, [0, 1, 2, 3])
    noisy = [np.clip(f + np.random.default_rng(i).normal(0, 10, f.shape), 0, 255).astype(np.uint8)
             for i, f in enumerate(film)]  # fmt: skip
    write_clip(tmp_path / "noisy.mkv", noisy, [0, 1, 2, 3])
    paths = {"restored": tmp_path / "same.mkv", "truth": tmp_path / "truth.mkv", "input": tmp_path / "noisy.mkv"}
    status, found = evaluate(paths, tmp_path, "--report", tmp_path / "clip.html")
    assert status == 0 and found["kind"] == "clip"
    assert len(found["faces"]) == 4 and len(found["pairs"]) == 3
    sides = {key: {side: spread["mean"] for side, spread in row["sides"].items()} for key, row in rows(found).items()}
    assert sides["aligned_flicker"]["restored"] == sides["tlme_5"]["restored"] == 0.0
    assert sides["warp_error"]["restored"] == sides["warp_error"]["truth"]
    assert all(face["values"]["psnr"]["restored"] == "inf" for face in found["faces"])
    # Fresh noise adds up to twice its variance, less what reading between pixels averages away.
    gained = sides["warp_error"]["input"] - sides["warp_error"]["truth"]
    assert 1.2e3 * (10 / 255) ** 2 < gained < 2.05e3 * (10 / 255) ** 2
    assert sides["aligned_flicker"]["input"] > 3 and sides["tlme_5"]["input"] > 0
    page = Page()
    page.feed((tmp_path / "clip.html").read_text("utf-8"))
    assert page.open == [] and "Over time" in page.text and "polyline" in page.tags


def test_frames_are_matched_by_their_time(film, tmp_path, small_crops):
    write_clip(tmp_path / "truth.mkv", film, [0, 1, 2, 3])
    write_clip(tmp_path / "late.mkv", [film[0], film[2], film[3], film[3]], [0, 2, 3, 9])
    status, found = evaluate({"restored": tmp_path / "late.mkv", "truth": tmp_path / "truth.mkv"}, tmp_path)
    assert status == 0
    assert [face["name"].split(" (")[0] for face in found["faces"]] == ["frame 0", "frame 2", "frame 3"]
    assert all(face["values"]["psnr"]["restored"] == "inf" for face in found["faces"])
    assert len(found["pairs"]) == 1  # frames 2 and 3; 0 and 2 are no neighbours
    assert "1 frames without a partner: truth" in found["notes"]
    assert "1 frames without a partner: restored" in found["notes"]
    # The other way round: a frame that the truth lacks is passed over, and the next one is matched all the same.
    write_clip(tmp_path / "gap.mkv", [film[0], film[2]], [0, 2])
    status, found = evaluate({"restored": tmp_path / "truth.mkv", "truth": tmp_path / "gap.mkv"}, tmp_path)
    assert [face["values"]["psnr"]["restored"] for face in found["faces"]] == ["inf", "inf"]
    assert found["notes"] == ["2 frames without a partner: restored"]


def test_a_cut_and_a_frame_without_a_face_are_left_out_and_counted(film, tmp_path, small_crops):
    blank = np.random.default_rng(0).integers(0, 255, film[0].shape, np.uint8)
    write_clip(tmp_path / "truth.mkv", [film[0], blank], [0, 1])
    status, found = evaluate({"restored": tmp_path / "truth.mkv", "truth": tmp_path / "truth.mkv"}, tmp_path)
    assert status == 0 and len(found["faces"]) == 1
    assert "1 of 2 frames of the truth show no face" in found["notes"]
    assert found["pairs"][0]["values"]["warp_error"] == {"restored": None, "truth": None}
    assert set(found["pairs"][0]["why"]) == {"warp_error", "aligned_flicker", "tlme_5"}


# --- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{restored}", "--truth", "{truth}", "--report", "out.pdf"], "one of .html, .json"),
        (["{restored}", "--truth", "{truth}", "--worst-by", "beauty"], "there is no such metric"),
        (["{restored}", "--truth", "{truth}", "--worst-by", "lpips"], "vgg16-397923af.pth"),
        (["{restored}", "--truth", "{truth}", "--worst", "-1"], "negative"),
        (["{restored}", "--truth", "{truth}", "--weights", "{restored}/none"], "there is no such folder"),
        (["{restored}", "--truth", "{truth}", "--recogniser", "{restored}/none.pt"], "given for recogniser"),
        (["{restored}", "--truth", "{truth}", "--recogniser", "{restored}/0.png"], "0.png"),
        (["{restored}", "--truth", "{truth}/0.png"], "expected files only or folders only"),
        (["{restored}/none", "--truth", "{truth}"], "there is no such file or folder"),
        (["{restored}/x.mp4", "--truth", "{truth}"], "Cannot compare a clip with pictures"),
        (["{restored}/x.mp4", "--truth", "{restored}/y.mp4"], "there is no such file"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(folders, tmp_path, capsys, arguments, said):
    places = {side: str(folder) for side, folder in folders.items()}
    filled = [argument.format(**places) for argument in arguments]
    assert run("eval", *filled, "--report", tmp_path / "report.json") == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "report.json").exists()


def test_folders_that_cannot_be_matched_are_refused(folders, tmp_path, faces, capsys):
    write(folders["truth"] / "0.jpg", faces[0])
    assert evaluate(folders, tmp_path)[0] == 1
    assert "0.jpg and 0.png have one name but for the suffix" in capsys.readouterr().err
    for path in folders["truth"].iterdir():
        path.rename(path.with_name(f"other_{path.name}"))
    (folders["truth"] / "other_0.jpg").unlink()
    assert evaluate(folders, tmp_path)[0] == 1
    assert "none of its 3 pictures has the name of one of the 3" in capsys.readouterr().err


# --- properties ------------------------------------------------------------------------------------------------

numbers = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6) | st.just(math.nan) | st.just(math.inf), max_size=40))
def test_a_spread_is_numpys(values):
    spread = Spread.of(values)
    finite = np.array([v for v in values if math.isfinite(v)])
    assert (spread.n, spread.equal, spread.n + spread.equal + spread.unmeasured) == (
        len(finite), sum(v == math.inf for v in values), len(values)
    )  # fmt: skip
    if len(finite):
        assert [spread.mean, spread.median, spread.std] == pytest.approx(
            [finite.mean(), np.median(finite), finite.std()], rel=1e-9, abs=1e-6
        )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 60) | st.just(math.nan), max_size=30), st.integers(0, 6))
def test_the_keeper_keeps_the_worst(values, count):
    keeper = WorstKeeper(BY_KEY["psnr"], count)
    image = {"truth": torch.zeros(3, 2, 2)}
    for index, value in enumerate(values):
        keeper.offer(index, Item(str(index), {"psnr": {"restored": value}}), image)
    measured = [(value, index) for index, value in enumerate(values) if not math.isnan(value)]
    assert [face.name for face in keeper.worst()] == [str(index) for _, index in sorted(measured)[:count]]


def test_the_keeper_takes_one_of_a_group():
    keeper = WorstKeeper(BY_KEY["psnr"], 2)
    for name, group, value in (("a", 0, 30.0), ("b", 0, 20.0), ("c", 0, 25.0), ("d", 1, 28.0), ("e", 2, 29.0)):
        keeper.offer(group, Item(name, {"psnr": {"restored": value}}), {"truth": torch.zeros(3, 2, 2)})
    assert [face.name for face in keeper.worst()] == ["b", "d"]


def test_badness_grows_the_right_way():
    values = {"restored": 3.0, "input": 5.0, "truth": 4.5}
    assert badness("higher", values, "restored") > badness("higher", values, "input")
    assert badness("lower", values, "restored") < badness("lower", values, "input")
    assert badness("truth", values, "restored") == 1.5 > badness("truth", values, "input") == 0.5


def inside(svg: str) -> ET.Element:
    """Return the parsed picture, having checked that everything lies inside it."""
    root = ET.fromstring(svg)  # noqa: S314  our own text
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for element in root.iter():
        for name, limit in (("x", width), ("x1", width), ("x2", width), ("y", height), ("y1", height), ("y2", height)):
            if name in element.attrib:
                assert -0.11 <= float(element.attrib[name]) <= limit + 0.11, (element.tag, element.attrib)
        for point in element.attrib.get("points", "").split():
            assert all(-0.11 <= float(v) <= max(width, height) + 0.11 for v in point.split(","))
    return root


@settings(max_examples=80, deadline=None)
@given(numbers, numbers)
def test_a_histogram_is_a_picture_of_its_values(first, second):
    svg = histogram({"restored": first, "input": second}, unit="dB <&", digits=2, what="faces", title='"<x>')
    root = inside(svg)
    assert 'aria-label="&quot;&lt;x&gt;"' in svg
    bars = [e for e in root.iter("rect") if e.attrib["class"] == "bar restored"]
    assert bars and max(float(e.attrib["height"]) for e in bars) == 48.0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6) | st.just(math.nan), min_size=1, max_size=40).filter(
        lambda v: not all(map(math.isnan, v))
    )
)
def test_a_timeline_has_gaps_where_there_is_no_value(values):
    root = inside(timeline({"restored": values}, title="x", times=(0.0, 2.0)))
    points = [len(e.attrib["points"].split()) for e in root.iter("polyline")]
    assert sum(points) == sum(map(math.isfinite, values))
    runs = sum(math.isfinite(v) and (i == 0 or math.isnan(values[i - 1])) for i, v in enumerate(values))
    assert len(points) == runs
