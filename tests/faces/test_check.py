"""The check of what was found: faces pass it, and what only scored like one does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from film_scans import film
from torch import Tensor

from bfr_core.bench.detector import faceless
from bfr_core.degrade.chain import degrade
from bfr_core.degrade.drawing import draw
from bfr_core.degrade.presets import get_preset
from bfr_core.faces.align import FFHQ_TEMPLATE
from bfr_core.faces.check import LEAST, VIEW_TEMPLATE, likelihoods, likelihoods_of, view, view_of_crop
from bfr_core.faces.detect import load_detector
from bfr_core.faces.find import find_faces
from bfr_core.media.pictures import read_picture, to_float
from bfr_core.types import Face
from bfr_core.video.choose import TrackSelection, choose
from bfr_core.video.tracks import link
from train.detection.objects import THINGS


@pytest.fixture(scope="module")
def detector():
    return load_detector()


def picture(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 255


def drawn_things(*, per: int = 2) -> dict[str, np.ndarray]:
    """Return pictures of buttons, pebbles, cloth, clouds, text, wheels, flowers, sockets and fronts of cars.

    The check has learnt from such pictures, drawn with other seeds, turned and degraded.
    """
    return {
        f"{draw.__name__} {seed}": draw(np.random.Generator(np.random.PCG64([seed, 777])), 384)
        for draw in THINGS
        for seed in range(per)
    }


def test_pictures_without_faces_have_none(shared, detector):
    """18 of things, and a third of the faceless pictures of the benchmark; the detector alone sees faces in some."""
    pictures = drawn_things() | dict(list(faceless(shared).items())[::3])
    assert len(pictures) >= 45
    alone = [name for name, image in pictures.items() if detector.detect(picture(image)[None])[0]]
    found = {name: find_faces(picture(image), detector).faces for name, image in pictures.items()}
    assert alone and {name: faces for name, faces in found.items() if faces} == {}


def test_what_is_thrown_out_is_named_with_its_score_and_place(detector):
    for image in drawn_things(per=8).values():
        (row,) = detector.detect(picture(image)[None])
        if row:
            break
    else:
        pytest.fail("the detector takes none of these for a face")
    found = find_faces(picture(image), detector)
    best = max(row, key=lambda face: face.score)
    assert found.faces == [] and "No face was found" in found.notes[-1]
    assert f"What looked like a face at {best.score:.2f}, and is none (at {round(best.box[0])}, " in found.notes[0]
    # Whoever wants it all the same gets it.
    assert len(find_faces(picture(image), detector, threshold=0.01).faces) >= len(row)
    assert len(find_faces(picture(image), detector, check=False).faces) >= len(row)


@pytest.mark.parametrize("name", ["gfpgan", "heavy", "vqfr-v2", "x8", "x16"])
def test_degraded_faces_stay_faces(shared, detector, name):
    kinds = ("free512", "cc0gen512", "free2_512")
    paths = sorted(path for kind in kinds for path in (shared / "faces" / kind / "val").iterdir())[::4]
    seen, lost = 0, []
    for number, path in enumerate(paths):
        frame = picture(degrade(read_picture(path).rgb, draw(get_preset(name), number)))
        (found,) = detector.detect(frame[None])
        seen += len(found)
        lost += [(path.name, likely) for likely in likelihoods_of(frame, found) if likely < LEAST]
    assert seen >= 5 and lost == []


def test_points_that_are_no_faces_are_told_from_those_that_are(shared):
    """The same pixels, with the points of the face, and with those of a face that stands on its head."""
    frame = to_float(read_picture(shared / "faces" / "free512" / "val" / "p136.jpg"))
    scale = frame.shape[-1] / 512
    upright, mirrored = FFHQ_TEMPLATE * scale, (512 - FFHQ_TEMPLATE) * scale
    first, second = (likelihoods_of(frame, [Face((0, 0, 1, 1), points, 0.9)])[0] for points in (upright, mirrored))
    assert first > 0.9 > 0.1 > second


def test_the_view_is_the_same_from_the_frame_and_from_its_crop():
    y, x = torch.meshgrid(torch.arange(512.0), torch.arange(512.0), indexing="ij")
    crop = torch.stack((x / 512, y / 512, (x + y) / 1024))
    torch.testing.assert_close(view(crop, FFHQ_TEMPLATE), view_of_crop(crop), atol=1e-3, rtol=0)
    assert likelihoods(torch.zeros(0, 3, 64, 64)) == []
    low, high = VIEW_TEMPLATE.min(), VIEW_TEMPLATE.max()
    assert 0 < low < high < 64


def test_a_track_of_a_film_is_a_face_or_none():
    """By the median of its looks; one that a person asked for by its number is a face."""
    scan = film({frame: [(150, 200, 80), (500, 200, 120)] for frame in range(50)}, 50)
    likely = np.full(len(scan.scores), np.nan, np.float32)
    likely[0:60:20], likely[1:61:20] = (0.97, 0.9, 0.2), (0.01, 0.9, 0.02)
    tracks = link(replace(scan, likelihood=likely))
    choose(tracks, TrackSelection(), (400, 1000))
    reasons = {round(track.facts["size"]): track.reason for track in tracks}
    assert reasons == {80: "", 120: "looked like a face at 0.99, and is none"}
    (none,) = (track.id for track in tracks if track.reason)
    choose(tracks, TrackSelection(ids=(none,)), (400, 1000))
    assert [track.restore for track in tracks if track.id == none] == [True]


def test_scans_of_before_the_check_are_read():
    scan = film({frame: [(150, 200, 80)] for frame in range(5)}, 5)
    assert scan.likelihood.shape == scan.scores.shape and np.isnan(scan.likelihood).all()
    (track,) = link(scan)
    assert "likelihood" not in track.facts
