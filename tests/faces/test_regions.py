"""Masks of face parts, their arithmetic, and identities from reference photos."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from bfr_core.compose.mask_algebra import OPERATIONS, combine_masks, overlay
from bfr_core.errors import InputMediaError, SettingsError
from bfr_core.faces.align import FFHQ_TEMPLATE, align_face
from bfr_core.faces.detect import load_detector
from bfr_core.faces.reference import reference_identity
from bfr_core.faces.regions import PARTS, crop_points, part_masks, select_parts, signed_distance
from bfr_core.types import Face

SIZE = 128
TEMPLATE = FFHQ_TEMPLATE / 512 * SIZE
UP = np.array([0, 14])
STRAY = st.lists(st.floats(-6, 6), min_size=10, max_size=10).map(lambda values: np.reshape(values, (5, 2)))


def photo():
    data = pytest.importorskip("skimage.data", reason="scikit-image has the photo")
    return torch.from_numpy(data.astronaut().copy()).permute(2, 0, 1).float() / 255


def iou(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.minimum(a, b).sum() / torch.maximum(a, b).sum())


def centroid(mask: torch.Tensor) -> np.ndarray:
    where = np.arange(mask.shape[-1]) + 0.5
    weights = mask.double().numpy() / mask.double().sum().item()
    return np.array([(weights.sum(0) * where).sum(), (weights.sum(1) * where).sum()])


# --- five points -------------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(STRAY, st.floats(0, 0.1), st.floats(-0.02, 0.05))
def test_the_parts_share_each_pixel(stray, feather, grow):
    masks = part_masks(TEMPLATE + stray, SIZE, feather=feather, grow=grow)
    assert list(masks) == list(PARTS)
    total = torch.stack(list(masks.values()))
    assert total.dtype == torch.float32 and total.shape == (len(PARTS), SIZE, SIZE)
    assert bool(((total >= 0) & (total <= 1)).all())
    assert torch.allclose(total.sum(0), torch.ones(SIZE, SIZE), atol=1e-5)


def test_parts_lie_on_the_features_of_a_real_face():
    picture = photo()
    (face,) = load_detector().detect(picture[None])[0]
    crop = align_face(picture, face, 256)
    points = crop_points(crop)
    masks = part_masks(points, 256)

    def value(part, point):
        x, y = np.asarray(point).astype(int)
        return float(masks[part][y, x])

    left, right, nose, left_corner, right_corner = points
    assert value("eyes", left) > 0.95 and value("eyes", right) > 0.95
    assert value("nose", nose) > 0.95
    assert value("mouth", (left_corner + right_corner) / 2 + [0, 3]) > 0.95
    assert value("brows", left - UP) > 0.5 and value("brows", right - UP) > 0.5
    for eye, corner in ((left, left_corner), (right, right_corner)):
        assert value("skin", (eye + corner) / 2) > 0.95, "a cheek"
    assert value("skin", (left + right) / 2 + [0, -45]) > 0.95, "the forehead"
    for corner in ((2, 2), (253, 2), (2, 253), (253, 253)):
        assert value("background", corner) == 1.0


def test_masks_move_scale_and_turn_with_the_points():
    plain = part_masks(TEMPLATE, SIZE)
    moved = part_masks(TEMPLATE + np.array([5, -3]), SIZE)
    for part in PARTS[:-1]:
        shifted = torch.roll(plain[part], (-3, 5), (0, 1))
        assert iou(moved[part], shifted) > 0.98, part
    large = part_masks(TEMPLATE * 2, 2 * SIZE)
    for part in PARTS:
        small = torch.nn.functional.avg_pool2d(large[part][None], 2)[0]
        assert iou(plain[part], small) > 0.96, part
    flipped = TEMPLATE[[1, 0, 2, 4, 3]] * [-1, 1] + [SIZE, 0]
    for part, mask in part_masks(flipped, SIZE).items():
        assert iou(mask.flip(-1), plain[part]) > 0.98, part


def test_a_turned_head_shows_more_of_the_other_cheek():
    turned = TEMPLATE.copy()
    turned[2, 0] += 5
    before, after = (part_masks(points, SIZE)["skin"] for points in (TEMPLATE, turned))
    assert centroid(after)[0] < centroid(before)[0] - 1.5
    assert abs(centroid(after)[1] - centroid(before)[1]) < 1.0


def test_wide_crops_are_drawn_small_and_enlarged():
    masks = part_masks(FFHQ_TEMPLATE * 1.5, 768)
    assert masks["skin"].shape == (768, 768)
    assert torch.allclose(torch.stack(list(masks.values())).sum(0), torch.ones(768, 768), atol=1e-5)
    reference = part_masks(FFHQ_TEMPLATE, 512)
    for part in PARTS:
        shrunk = torch.nn.functional.interpolate(masks[part][None, None], (512, 512), mode="bilinear")[0, 0]
        assert iou(shrunk, reference[part]) > 0.97, part


def test_feather_and_grow():
    hard, soft = (part_masks(TEMPLATE, SIZE, feather=feather)["mouth"] for feather in (0.0, 0.08))
    assert bool((soft >= hard - 1e-6).all()), "the outline stays covered; the edge lies outside"
    assert ((hard > 0.01) & (hard < 0.99)).float().mean() < 0.02
    assert soft.sum() > 1.2 * hard.sum()
    grown, shrunk = (part_masks(TEMPLATE, SIZE, feather=0, grow=grow)["mouth"] for grow in (0.03, -0.03))
    assert shrunk.sum() < 0.6 * hard.sum() < hard.sum() < 0.7 * grown.sum()


# --- landmarks ---------------------------------------------------------------------------------------------------

EYES, MOUTH, NOSE = ((86.0, 122.0), (170.0, 122.0)), (128.0, 190.0), (128.0, 140.0)


def ring(count, centre, across, down, start=np.pi):
    """Return points around an ellipse, from its left end over its top, as annotators go."""
    angles = start + np.arange(count) * 2 * np.pi / count
    return np.stack([centre[0] + across * np.cos(angles), centre[1] + down * np.sin(angles)], 1)


def jaw(count):
    angles = np.linspace(np.pi, 0, count)
    return np.stack([128 + 80 * np.cos(angles), 120 + 110 * np.sin(angles)], 1)


def w300():
    points = np.zeros((68, 2))
    points[:17] = jaw(17)
    points[17:22], points[22:27] = ([[x + 9 * i, 100.0] for i in range(5)] for x in (68, 152))
    points[27:31] = [[128, 125 + 10 * i] for i in range(4)]
    points[31:36] = [[114 + 7 * i, 162.0] for i in range(5)]
    points[36:42], points[42:48] = (ring(6, eye, 16, 7) for eye in EYES)
    points[48:60] = ring(12, MOUTH, 30, 12)
    points[60:] = ring(8, MOUTH, 20, 4)
    return points


def wflw():
    points = np.zeros((98, 2))
    points[:33] = jaw(33)
    points[33:42], points[42:51] = (ring(9, (x, 100), 18, 5) for x in (86, 170))
    points[51:55] = [[128, 125 + 10 * i] for i in range(4)]
    points[55:60] = [[114 + 7 * i, 162.0] for i in range(5)]
    points[60:68], points[68:76] = (ring(8, eye, 16, 7) for eye in EYES)
    points[76:88], points[88:96] = ring(12, MOUTH, 30, 12), ring(8, MOUTH, 20, 4)
    points[96], points[97] = EYES
    return points


def mesh(count):
    """Return the outlines of MediaPipe's mesh, by the index lists that its drawing code connects."""
    points = np.full((count, 2), 128.0)
    points[[33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7]] = ring(16, EYES[0], 16, 7)
    points[[362, 398, 384, 385, 386, 387, 388, 466, 263, 249, 390, 373, 374, 380, 381, 382]] = ring(16, EYES[1], 16, 7)
    points[[70, 63, 105, 66, 107, 55, 65, 52, 53, 46]] = ring(10, (86, 100), 18, 5)
    points[[336, 296, 334, 293, 300, 276, 283, 282, 295, 285]] = ring(10, (170, 100), 18, 5)
    lips = [61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146]
    points[lips] = ring(20, MOUTH, 30, 12)
    nose = [168, 193, 245, 188, 174, 198, 209, 129, 64, 98, 97, 2, 326, 327, 294, 358, 429, 420, 399, 412, 465, 417]
    points[nose] = ring(22, NOSE, 14, 24, start=-np.pi / 2)
    points[[127, 234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152]] = jaw(23)[:12]
    points[[356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377]] = jaw(23)[:11:-1]
    return points


@pytest.mark.parametrize("points", [w300(), wflw(), mesh(468), mesh(478)], ids=lambda points: str(len(points)))
def test_landmarks_of_each_layout_become_the_outlines_they_mark(points):
    masks = part_masks(torch.from_numpy(points), 256, feather=0.0)

    def ellipse(centre, axes):
        drawn = np.zeros((256 * 8, 256 * 8), np.float32)
        cv2.ellipse(drawn, [round(8 * v) for v in centre], [8 * v for v in axes], 0, 0, 360, 1.0, -1)
        return torch.from_numpy(cv2.resize(drawn, (256, 256), interpolation=cv2.INTER_AREA))

    # A polygon with its corners on an ellipse has less area: of 6 corners 17 %.
    assert iou(masks["eyes"], torch.maximum(*(ellipse(eye, (16, 7)) for eye in EYES))) > 0.8
    assert iou(masks["mouth"], ellipse(MOUTH, (30, 12))) > 0.9
    for x in (86, 170):
        assert masks["brows"][100, x] == 1 and masks["brows"][85, x] == 0
    assert masks["nose"][150, 128] == 1 and masks["nose"][150, 100] == 0
    assert masks["skin"][170, 75] == 1, "a cheek"
    assert masks["skin"][70, 128] == 1, "the forehead, where no landmark is"
    assert masks["background"][225, 70] == 1, "outside the jaw"
    assert masks["background"][20, 128] == 1, "the hair"


def test_distance_to_an_outline_is_opencvs():
    generator = np.random.default_rng(3)
    for corners in (3, 5, 9):
        outline = generator.uniform(4, 36, (corners, 2)).astype(np.float32)  # may cross itself
        got = signed_distance(outline.astype(np.float64), 0, 0, 40, 40)
        expected = np.array(
            [[-cv2.pointPolygonTest(outline, (x + 0.5, y + 0.5), True) for x in range(40)] for y in range(40)]
        )
        assert np.abs(np.abs(got) - np.abs(expected)).max() < 1e-3
        convex = cv2.convexHull(outline)[:, 0].astype(np.float64)
        got = signed_distance(convex, 0, 0, 40, 40)
        expected = [[-cv2.pointPolygonTest(convex.astype(np.float32), (x + 0.5, y + 0.5), True) for x in range(40)]
                    for y in range(40)]  # fmt: skip
        assert np.abs(got - expected).max() < 1e-3


def test_selected_parts_add_up():
    masks = part_masks(TEMPLATE, SIZE)
    assert torch.allclose(select_parts(masks, PARTS), torch.ones(SIZE, SIZE), atol=1e-5)
    assert torch.allclose(select_parts(masks, ["nose", "eyes"]), masks["eyes"] + masks["nose"], atol=1e-6)
    for names in ([], ["ears"]):
        with pytest.raises(SettingsError) as caught:
            select_parts(masks, names)
        assert "background" in caught.value.found


@pytest.mark.parametrize(
    "points",
    [np.zeros((6, 2)), np.zeros((5, 3)), np.full((5, 2), np.nan), np.zeros(10)],
    ids=["6", "3d", "nan", "flat"],
)
def test_points_of_no_layout_are_refused(points):
    with pytest.raises(InputMediaError) as caught:
        part_masks(points, SIZE)
    assert "478" in caught.value.found


@pytest.mark.parametrize("given", [{"feather": -0.1}, {"feather": 0.6}, {"grow": float("nan")}])
def test_edges_out_of_range_are_refused(given):
    with pytest.raises(SettingsError):
        part_masks(TEMPLATE, SIZE, **given)


# --- arithmetic --------------------------------------------------------------------------------------------------

A, B = (torch.rand(3, 12, 16, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("union", np.maximum(A.numpy(), B.numpy())),
        ("intersection", np.minimum(A.numpy(), B.numpy())),
        ("subtract", np.clip(A.numpy() - B.numpy(), 0, 1)),
        ("multiply", A.numpy() * B.numpy()),
    ],
)
def test_operations(operation, expected):
    assert torch.allclose(combine_masks(A, B, operation=operation), torch.as_tensor(expected), atol=1e-6)
    inverted = combine_masks(A, B, operation=operation, invert=True)
    assert torch.allclose(inverted, 1 - torch.as_tensor(expected), atol=1e-6)
    assert set(OPERATIONS) == {"union", "intersection", "subtract", "multiply"}


def test_one_mask_serves_all_and_sizes_are_brought_together():
    assert torch.equal(combine_masks(A[:1], B, operation="union"), torch.maximum(A[:1].expand(3, -1, -1), B))
    assert torch.equal(combine_masks(A, B[0], operation="union"), torch.maximum(A, B[:1].expand(3, -1, -1)))
    assert torch.equal(combine_masks(A), A)
    small = torch.full((1, 5, 7), 0.25)
    assert torch.allclose(
        combine_masks(torch.zeros(2, 12, 16), small, operation="union"), torch.full((2, 12, 16), 0.25)
    )


def test_the_blur_is_a_gaussian():
    mask = torch.zeros(1, 60, 80)
    mask[:, 20:40, 30:70] = 1
    got = combine_masks(mask, feather=0.05)[0].numpy()
    assert np.abs(got - gaussian_filter(mask[0].numpy(), 3.0, mode="nearest", truncate=6)).max() < 0.005
    assert torch.allclose(combine_masks(torch.ones(1, 9, 9), feather=0.2), torch.ones(1, 9, 9), atol=1e-6)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (A, B[:2]), (A * 2, None), (A * float("nan"), None), (A[None], None), (torch.zeros(0, 4, 4), None),
    ],
)  # fmt: skip
def test_unfit_masks_are_refused(a, b):
    with pytest.raises(InputMediaError):
        combine_masks(a, b)


@pytest.mark.parametrize("given", [{"operation": "xor"}, {"feather": 1.0}, {"feather": float("nan")}])
def test_unfit_operations_are_refused(given):
    with pytest.raises(SettingsError):
        combine_masks(A, B, **given)


def test_overlay_keeps_the_picture_and_shows_the_mask():
    picture = torch.rand(2, 3, 12, 16, generator=torch.Generator().manual_seed(5))
    assert torch.allclose(overlay(picture, A[:2], opacity=0.0), picture, atol=1e-6)
    assert torch.allclose(overlay(picture, A[:2], opacity=1.0), A[:2, None].expand(-1, 3, -1, -1), atol=1e-6)
    grey = torch.full((1, 3, 8, 8), 0.5)
    half = torch.zeros(1, 8, 8)
    half[..., 4:] = 1
    shown = overlay(grey, half)[0]
    outside, inside = shown[:, 0, 0], shown[:, 0, 7]
    assert bool((outside < 0.3).all()) and torch.allclose(outside, outside[0].expand(3)), "darker, not tinted"
    assert inside[0] > inside[1] > inside[2], "orange"
    assert overlay(picture, half).shape == picture.shape, "one mask, of another size, for all"
    with pytest.raises(InputMediaError):
        overlay(picture, A)
    with pytest.raises(SettingsError):
        overlay(picture, half, opacity=1.5)


# --- reference photos --------------------------------------------------------------------------------------------


class Colours:
    """Stands for a recogniser: the mean colour of the middle, as a direction."""

    size = 16

    def __call__(self, x):
        return torch.nn.functional.normalize(x.mean((2, 3)), dim=1)


class Faces:
    """Stands for a detector: boxes by the mean of a photo."""

    def __init__(self, *sides):
        self.sides = sides

    def detect(self, frames, *, threshold=None):
        if frames.mean() < 0.01:
            return [[]]
        return [
            [Face((0, 0, side, side), FFHQ_TEMPLATE / 512 * side + [offset, 0], 1.0) for offset, side in self.sides]
        ]


def test_the_largest_face_of_each_photo_counts():
    photo = torch.zeros(3, 64, 128)
    photo[0, :, :40] = 1.0  # a small red face at the left
    photo[1, :, 64:] = 1.0  # a large green one at the right
    identity = reference_identity(Colours(), [photo], Faces((0, 32), (64, 64)))
    assert torch.allclose(identity, torch.tensor([0.0, 1.0, 0.0]), atol=1e-3)


def test_several_photos_are_averaged():
    red, green = torch.zeros(3, 64, 64), torch.zeros(3, 64, 64)
    red[0], green[1] = 1.0, 0.5
    identity = reference_identity(Colours(), [red, green], Faces((0, 64)))
    assert torch.allclose(identity, torch.tensor([0.5**0.5, 0.5**0.5, 0.0]), atol=1e-3)


def test_a_photo_without_a_face_is_named():
    red = torch.ones(3, 64, 64)
    with pytest.raises(InputMediaError) as caught:
        reference_identity(Colours(), [red, red * 0], Faces((0, 64)))
    assert "photo 2 of 2" in caught.value.found
    with pytest.raises(InputMediaError):
        reference_identity(Colours(), [], Faces((0, 64)))
