"""The grain of a picture is measured around a face and put back into it; what is no grain is not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bfr_core.compose.grain import measure
from bfr_core.compose.paste import composite
from bfr_core.errors import SettingsError
from bfr_core.faces.align import FFHQ_TEMPLATE, align_face
from bfr_core.faces.detect import load_detector
from bfr_core.faces.find import find_faces
from bfr_core.media.pictures import read_picture, to_float
from bfr_core.media.sheets import to_bytes
from bfr_core.restoration.options import RestoreOptions
from bfr_core.restoration.photo import restore_photo, restore_photos
from bfr_core.restorer import load_restorer
from bfr_core.types import Face

SIDE = 400
"""Of the square of the face, in the middle of a picture of 512 px."""
FACE = Face((150.0, 130.0, 360.0, 410.0), (FFHQ_TEMPLATE - 256) * (SIDE / 512) + 256, 1.0)
SKIN = (slice(230, 330), slice(190, 320))
"""Cheeks and nose in that picture."""


def portrait(shared, number=1):
    return to_float(read_picture(sorted((shared / "faces" / "free512" / "val").glob("*.*"))[number]))


def gray(picture):
    return (0.299 * picture[0] + 0.587 * picture[1] + 0.114 * picture[2]).expand(3, -1, -1)


def noise(sigma, blur=0.0, seed=0, shape=(512, 512), colours=1):
    """Gaussian grain of so many levels that goes together over `blur` pixels, (colours, H, W) in [0, 1]."""
    made = np.random.default_rng(seed).standard_normal((*shape, colours)).astype(np.float32)
    made = cv2.GaussianBlur(made, (0, 0), blur).reshape(made.shape) if blur else made
    return torch.from_numpy(made * (sigma / 255 / made.std())).permute(2, 0, 1)


def as_bytes(picture):
    return (picture * 255).round().clamp(0, 255) / 255


def smooth(picture):
    """What a restorer does to grain: the crop keeps edges, and of grain a level or so."""
    bytes_ = np.ascontiguousarray(to_bytes(picture))
    return torch.from_numpy(cv2.bilateralFilter(bytes_, 9, 60, 4)).permute(2, 0, 1).float() / 255


def strength(picture, truth, where):
    """Grain in levels, measured apart from the product: the high frequencies of what differs from the clean truth."""
    difference = ((picture - truth).mean(0) * 255).numpy()
    return float((difference - cv2.GaussianBlur(difference, (0, 0), 3.0))[where].std())


def fine(picture):
    """The high frequencies of the light, in levels."""
    light = picture.mean(0).numpy() * 255
    return light - cv2.GaussianBlur(light, (0, 0), 2.0)


def pasted(frame, grain=1.0, seed=7, restored=None, **options):
    crop = align_face(frame, FACE)
    face = smooth(crop.image) if restored is None else restored
    return composite(frame, [crop], [face], grain=grain, seeds=[seed], worth=[0.0], **options)


@pytest.mark.parametrize(
    ("number", "sigma", "blur"), [(1, 4.0, 0.0), (1, 9.0, 0.8), (1, 15.0, 1.3), (2, 5.0, 0.8), (2, 9.0, 1.3)]
)
def test_grain_of_known_strength_is_measured_and_put_back(shared, number, sigma, blur):
    truth = gray(0.1 + 0.8 * portrait(shared, number))
    frame = as_bytes(truth + noise(sigma, blur))
    restored = align_face(truth, FACE).image  # by a restorer that makes no mistake
    without = pasted(frame, grain=0.0, restored=restored)[0]
    after = pasted(frame, restored=restored)[0]
    known = strength(frame, truth, SKIN)
    assert strength(without, truth, SKIN) < 0.5 * known
    assert strength(after, without, SKIN) == pytest.approx(known, rel=0.2)
    assert torch.equal(after[0], after[1]) and torch.equal(after[0], after[2]), "a gray picture stays gray"


def test_what_goes_together_in_the_grain_does_so_in_what_is_put_back(shared):
    """The correlation of neighbours, in both directions, of grain that is wider than high."""
    truth = gray(0.1 + 0.8 * portrait(shared))
    made = np.random.default_rng(3).standard_normal((512, 512)).astype(np.float32)
    made = cv2.GaussianBlur(made, (0, 0), sigmaX=1.2, sigmaY=0.8)
    frame = as_bytes(truth + torch.from_numpy(made * (9 / 255 / made.std())))
    restored = align_face(truth, FACE).image
    flat, grained = (pasted(frame, grain=grain, restored=restored)[0] for grain in (0.0, 1.0))
    for axis in (0, 1):
        known, drawn = (
            correlation(difference[0][SKIN].numpy(), axis) for difference in (frame - truth, grained - flat)
        )
        assert drawn == pytest.approx(known, abs=0.15)  # patches lose what is wider than half of them


def correlation(values, axis):
    one, two = np.delete(values, -1, axis), np.delete(values, 0, axis)
    return np.corrcoef(one.ravel(), two.ravel())[0, 1]


def test_strength_follows_the_brightness():
    """A ramp with twice the grain in the dark half of it, and faces of one brightness each."""
    ramp = torch.linspace(0.15, 0.85, 512).expand(3, 512, 512).clone()
    level = torch.where(ramp[:1] < 0.5, 10.0, 5.0)
    frame = as_bytes(ramp + noise(1.0) * level)
    grain = measure(frame)
    assert grain is not None
    dark, light = (float(grain.at(torch.tensor(value))) * 255 for value in (0.25, 0.75))
    assert dark == pytest.approx(10, rel=0.15) and light == pytest.approx(5, rel=0.15)
    out, mask = pasted(frame, restored=ramp[:, :, :1].expand(3, 512, 512).clone() * 0 + 0.75)
    inner = (slice(240, 330), slice(200, 310))
    assert mask[inner].min() > 0.99
    assert float(out.mean(0)[inner].std()) * 255 == pytest.approx(5, rel=0.2)


def test_colours_of_grain_go_together_as_in_the_picture():
    """Film grain that is mostly one in all colours, and stronger in blue."""
    shared_part, own = noise(5.0, 0.7, seed=1), noise(3.0, 0.7, seed=2, colours=3)
    grain = (shared_part + own) * torch.tensor([1.0, 0.9, 1.6])[:, None, None]
    frame = as_bytes(torch.full((3, 512, 512), 0.5) + grain)
    drawn = (pasted(frame, restored=torch.full((3, 512, 512), 0.5))[0] - 0.5)[:, SKIN[0], SKIN[1]].flatten(1)
    known = grain[:, SKIN[0], SKIN[1]].flatten(1)
    assert torch.allclose(drawn.std(1), known.std(1), rtol=0.2)
    assert torch.allclose(torch.corrcoef(drawn), torch.corrcoef(known), atol=0.12)


@pytest.mark.parametrize("quality", [None, 75, 30])
def test_clean_pictures_get_none_nor_do_those_of_a_codec(shared, quality):
    """Sharp digital portraits, as they are and stored as JPEG: blocks, rings and texture are no grain."""
    for number in range(3):
        frame = as_bytes(portrait(shared, number))
        if quality is not None:
            data = cv2.imencode(".jpg", to_bytes(frame)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
            frame = torch.from_numpy(cv2.imdecode(data, 1)[..., ::-1].copy()).permute(2, 0, 1).float() / 255
        assert torch.equal(pasted(frame)[0], pasted(frame, grain=0.0)[0])


def test_what_a_film_codec_leaves_is_no_grain(shared):
    """Frames of a real talk and of an old film that was cleaned and stored small."""
    import av

    for name in ("talking_480x480.mp4", "old_film_512x512.mp4"):
        with av.open(str(shared / "video" / name)) as film:
            for frame, _ in zip(film.decode(video=0), range(3), strict=False):
                rgb = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1).float() / 255
                assert measure(rgb) is None


def test_a_face_with_its_grain_gets_no_more():
    frame = as_bytes(torch.full((3, 512, 512), 0.5) + noise(9.0, 1.0))
    crop = align_face(frame, FACE, 1024)
    kept, plain = (composite(frame, [crop], [crop.image], grain=grain, seeds=[1])[0] for grain in (1.0, 0.0))
    assert float(kept[0][SKIN].std() / plain[0][SKIN].std()) < 1.1


def test_half_strength_and_the_edge_of_the_mask_have_the_grain_too():
    """Where a share of the face is shown, the frame's own grain makes up the rest."""
    frame = as_bytes(torch.full((3, 512, 512), 0.5) + noise(9.0, 0.8))
    flat = torch.full((3, 512, 512), 0.5)
    for strength_ in (0.3, 0.6, 1.0):
        out, mask = pasted(frame, restored=flat, strength=strength_)
        share = mask / strength_
        for low, high in ((0.2, 0.5), (0.5, 0.8), (0.95, 1.01)):
            part = out[0][(share > low) & (share < high)]
            assert float(part.std()) * 255 == pytest.approx(9, rel=0.2)


def test_the_share_of_the_grain_is_the_setting():
    frame = as_bytes(torch.full((3, 512, 512), 0.5) + noise(9.0, 0.8))
    flat = torch.full((3, 512, 512), 0.5)
    full, half = (pasted(frame, grain=grain, restored=flat)[0] - 0.5 for grain in (1.0, 0.5))
    inner = (..., *SKIN)
    assert torch.allclose(full[inner], 2 * half[inner], atol=1e-5)
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(SettingsError, match="grain"):
            pasted(frame, grain=wrong)


def test_grain_is_drawn_for_each_face_from_its_seed(shared):
    """Another seed draws another; who else is in the batch, and in which order, does not."""
    truth = gray(0.1 + 0.8 * portrait(shared))
    frames = [as_bytes(truth + noise(9.0, 0.8, seed=seed)) for seed in (0, 1)]
    restorer, options = load_restorer("irn"), RestoreOptions(quality_filter=None)
    alone = [restore_photo(frame, restorer, faces=[FACE], options=options, frame_index=i).image
             for i, frame in enumerate(frames)]  # fmt: skip
    together = [made.image for made in restore_photos(frames, restorer, faces=[[FACE], [FACE]], options=options)]
    assert all(torch.allclose(one, two, atol=1e-4) for one, two in zip(alone, together, strict=True))
    other = restore_photo(frames[0], restorer, faces=[FACE], options=RestoreOptions(quality_filter=None, seed=1)).image
    drawn, again = (picture - pasted(frames[0], grain=0.0)[0] for picture in (alone[0], other))
    assert abs(float(np.corrcoef(drawn[0][SKIN].ravel(), again[0][SKIN].ravel())[0, 1])) < 0.9


@pytest.mark.parametrize("name", ["Paris_Hilton_crop.png", "029_Blake_Lively_00_lq.png"])
def test_the_grain_of_real_prints(shared, name):
    """One in black and white, one in colours, with a grain of 4 to 12 levels; in the face, place by place."""
    frame = to_float(read_picture(shared / "photos" / "degraded" / name))
    restorer, faces = load_restorer("irn"), find_faces(frame, load_detector())
    plain, grained = (
        restore_photo(frame, restorer, faces=faces, options=RestoreOptions(quality_filter=None, grain=grain)).image
        for grain in (0.0, 1.0)
    )
    ratios = []
    for y in range(90, 440, 40):
        for x in range(110, 400, 40):
            known, left, after = (fine(picture)[y : y + 40, x : x + 40].std() for picture in (frame, plain, grained))
            if left < 0.5 * known:  # else the restorer has drawn eyes or hair there
                ratios.append(after / known)
    assert len(ratios) > 15
    assert np.median(ratios) == pytest.approx(1, abs=0.1)
    assert np.mean(np.abs(np.array(ratios) - 1) < 0.2) > 0.85


def test_tiny_pictures_and_extreme_values_do_no_harm():
    for height, width in ((1, 1), (8, 40), (17, 16), (40, 40)):
        frame = torch.rand(3, height, width)
        crop = align_face(frame, Face((0, 0, 1, 1), FFHQ_TEMPLATE * (max(height, width) / 512), 1.0), 64)
        out, mask = composite(frame, [crop], [torch.ones(3, 64, 64)], grain=1.0, seeds=[0])
        assert out.isfinite().all() and torch.equal(out[:, mask == 0], frame[:, mask == 0])
    frame = as_bytes(torch.full((3, 256, 256), 0.5) + noise(9.0, shape=(256, 256))) + 0.8
    crop = align_face(frame.clamp(0, 1), Face((0, 0, 1, 1), FFHQ_TEMPLATE / 2, 1.0), 256)
    out, _ = composite(frame, [crop], [F.avg_pool2d(crop.image, 5, 1, 2)], grain=1.0, seeds=[0])
    assert out.isfinite().all() and out.max() <= frame.max()
