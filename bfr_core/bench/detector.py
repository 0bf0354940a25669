"""What a face detector is worth on real pictures.

The labels were made by YuNet on the clean pictures, so YuNet is compared with itself here and the others with it.
"""

from __future__ import annotations

import json
import statistics
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from ..degrade.chain import degrade, fixed
from ..faces.detect import load_detector
from ..faces.pyramid import overlap
from ..media.formats import is_picture
from ..media.pictures import read_picture
from ..models.roles import FaceDetector
from ..types import Face


def held_out_scenes(shared: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the labels of the tenth of the scenes that no detector of ours is trained on."""
    labels = json.loads((shared / "scenes" / "labels.json").read_text())
    return {name: faces for name, faces in sorted(labels.items()) if zlib.crc32(name.encode()) % 10 == 0}


def bench_detector(shared: Path, detector: FaceDetector | None = None, *, quick: bool = False) -> dict[str, Any]:
    """Return the figures of `detector`, the embedded one by default.

    Args:
        shared: the folder with scenes/, photos/ and weights/.
        detector: any detector.
        quick: leave out the timing.
    """
    detector = detector or load_detector()
    figures: dict[str, Any] = {}
    for name, params in (("clean", None), ("x8_jpeg60", fixed(8, jpeg_quality=60))):
        figures |= {f"{key}_{name}": value for key, value in _scenes(shared, detector, params).items()}
    degraded = _pictures(shared / "photos" / "degraded")
    found = sum(bool(_find(detector, read_picture(path).rgb)) for path in degraded)
    figures |= {"degraded_found": found, "degraded_pictures": len(degraded)}
    figures["solvay_faces"] = len(_find(detector, read_picture(shared / "photos" / "groups" / "solvay1927.jpg").rgb))
    empty = faceless(shared)
    alarms = [name for name, image in empty.items() if _find(detector, image)]
    figures |= {"false_alarm_pictures": len(alarms), "faceless_pictures": len(empty), "false_alarms": alarms}
    if not quick:
        picture = read_picture(shared / "photos" / "clean" / "obama-1080p.jpg").rgb
        for name, size in (("1080p", (1920, 1080)), ("4k", (3840, 2160))):
            figures[f"seconds_{name}"] = round(_seconds(detector, cv2.resize(picture, size)), 4)
    return figures


def measure(data: Path | None, say: Callable[[str], None], sheets: Path | None = None) -> dict[str, Any]:
    """Measure the embedded detector; without `data` only its speed, on noise."""
    del sheets
    if data is None:
        detector = load_detector()
        noise = np.random.Generator(np.random.PCG64(7)).integers(0, 256, (1080, 1920, 3), dtype=np.uint8)
        figures: dict[str, Any] = {"seconds_1080p": round(_seconds(detector, noise), 4)}
        say(f"{figures['seconds_1080p']:.3f} s a frame of 1080p noise (promised: 0.15); the rest needs --data")
        return figures
    figures = bench_detector(data)
    say(f"{figures['recall_x8_jpeg60']:.1%} of held-out faces found after 8x down and JPEG 60 (promised: 95 %)")
    say(f"{figures['point_error_x8_jpeg60']:.1%} of the eye distance: mean error of their points (promised: 6 %)")
    found, pictures = figures["degraded_found"], figures["degraded_pictures"]
    say(f"{found} of {pictures} real degraded pictures have a face (promised: 30)")
    say(f"{figures['solvay_faces']} faces in solvay1927, of 29 (promised: 20)")
    alarms, empty = figures["false_alarm_pictures"], figures["faceless_pictures"]
    say(f"{alarms} false alarms in {empty} faceless pictures (promised: 2 %)")
    say(f"{figures['seconds_1080p']:.3f} s a 1080p frame (promised: 0.15), {figures['seconds_4k']:.3f} s a 4K frame")
    return figures


def to_frames(image: np.ndarray) -> Tensor:
    """Return (1, 3, H, W) float32 of an (H, W, 3) uint8 picture."""
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


def _find(detector: FaceDetector, image: np.ndarray) -> list[Face]:
    return detector.detect(to_frames(image))[0]


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if is_picture(path))


def _scenes(shared: Path, detector: FaceDetector, params: Any) -> dict[str, float]:
    wanted = matched = extra = 0
    errors: list[float] = []
    for name, labels in held_out_scenes(shared).items():
        image = read_picture(shared / "scenes" / name).rgb
        faces = _find(detector, degrade(image, params) if params else image)
        boxes = np.array([face.box for face in faces]).reshape(-1, 4)
        used: set[int] = set()
        for label in labels:
            x, y, w, h = label["box"]
            truth = np.array(label["points"])
            iou = overlap(np.array([x, y, x + w, y + h]), boxes)[0]
            iou[list(used)] = 0
            wanted += 1
            if len(iou) and iou.max() >= 0.5:
                best = int(iou.argmax())
                used.add(best)
                matched += 1
                distance = np.linalg.norm(faces[best].points - truth, axis=1).mean()
                errors.append(float(distance / np.linalg.norm(truth[1] - truth[0])))
        extra += len(faces) - len(used)
    return {
        "recall": round(matched / max(wanted, 1), 4),
        "point_error": round(float(np.mean(errors)) if errors else 1.0, 4),
        "unlabelled": extra,
    }


def faceless(shared: Path) -> dict[str, np.ndarray]:
    """Return pictures without faces: parts of photographs away from every face, scikit-image's, and textures.

    A part counts as faceless where neither the labels nor YuNet, at a low threshold, have anything.
    """
    pictures: dict[str, np.ndarray] = {}
    for name, labels in list(held_out_scenes(shared).items())[::2]:
        image = read_picture(shared / "scenes" / name).rgb
        bottom = int(max(face["box"][1] + 1.2 * face["box"][3] for face in labels))
        if image.shape[0] - bottom >= 96:
            pictures[f"scene {name}"] = np.ascontiguousarray(image[bottom:])
    teacher = load_detector("yunet", path=shared / "weights" / "yunet_n_dynamic.onnx")
    for path in _pictures(shared / "photos" / "groups"):
        image = read_picture(path).rgb
        faces = teacher.detect(to_frames(image), threshold=0.3)[0]
        side = 192
        for y in range(0, image.shape[0] - side + 1, side):
            for x in range(0, image.shape[1] - side + 1, side):
                if all(_apart((x, y, x + side, y + side), face) for face in faces):
                    pictures[f"group {path.stem} {x},{y}"] = np.ascontiguousarray(image[y : y + side, x : x + side])
    return pictures | _without_people() | _textures()


def _apart(box: tuple[int, int, int, int], face: Face) -> bool:
    x0, y0, x1, y1 = face.box
    margin = 0.3 * face.size
    return box[2] < x0 - margin or box[0] > x1 + margin or box[3] < y0 - margin or box[1] > y1 + margin


def _without_people() -> dict[str, np.ndarray]:
    try:
        from skimage import data
    except ImportError:
        return {}
    pictures = {}
    # Without its coins, which bear portraits.
    for name in ("coffee", "rocket", "page", "text", "clock", "moon", "brick", "grass", "gravel", "chelsea",
                 "hubble_deep_field", "immunohistochemistry", "checkerboard", "colorwheel", "horse"):  # fmt: skip
        try:
            image = np.asarray(getattr(data, name)())
        except Exception:  # noqa: S112 - those that scikit-image would have to fetch from the network
            continue
        image = image.astype(np.uint8) * 255 if image.dtype == bool else image
        image = np.repeat(image[..., None], 3, 2) if image.ndim == 2 else image[..., :3]
        pictures[f"skimage {name}"] = np.ascontiguousarray(image)
    return pictures


def _textures() -> dict[str, np.ndarray]:
    rng = np.random.Generator(np.random.PCG64(7))
    side = 320
    ramp = np.linspace(0, 255, side).astype(np.uint8)
    fine = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    coarse = cv2.resize(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8), (side, side), interpolation=cv2.INTER_CUBIC)
    discs = np.full((side, side, 3), 120, np.uint8)
    for x, y in rng.integers(0, side, (30, 2)).tolist():
        cv2.circle(discs, (x, y), 14, (30, 40, 60), -1)
    flat = {f"flat {level}": np.full((side, side, 3), level, np.uint8) for level in (0, 128, 255)}
    return flat | {
        "ramp": np.repeat(np.tile(ramp, (side, 1))[..., None], 3, 2),
        "fine noise": fine,
        "coarse noise": coarse,
        "blocks": cv2.resize(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8), (side, side), interpolation=0),
        "discs": discs,
    }


def _seconds(detector: FaceDetector, image: np.ndarray) -> float:
    frames = to_frames(image)
    detector.detect(frames)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        detector.detect(frames)
        times.append(time.perf_counter() - start)
    return statistics.median(times)
