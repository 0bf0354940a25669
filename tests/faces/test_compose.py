"""Compositing: bit-identical outside the mask, neighbours left alone, soft inside."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bfr_core.compose.paste import composite
from bfr_core.errors import InputMediaError, SettingsError
from bfr_core.faces.align import FFHQ_TEMPLATE, align_face
from bfr_core.faces.quality import detail
from bfr_core.types import Face


def crop_at(frame, centre, side, angle=0.0):
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = (FFHQ_TEMPLATE - 256) @ turn.T * (side / 512) + centre
    return align_face(frame, Face((0, 0, 1, 1), points, 1.0), 128)


@given(
    st.integers(1, 90), st.integers(1, 120), st.integers(0, 2**32 - 1),
    st.lists(
        st.tuples(st.floats(-40, 160), st.floats(-40, 130), st.floats(3, 300), st.floats(-3.2, 3.2)), max_size=4
    ),
    st.floats(0, 1), st.floats(0, 0.5),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_row18_outside_the_mask_every_bit_is_the_inputs(height, width, seed, faces, strength, feather):
    frame = torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))
    crops = [crop_at(frame, (x, y), side, angle) for x, y, side, angle in faces]
    white = [torch.ones(3, 128, 128) for _ in crops]
    out, mask = composite(frame, crops, white, strength=strength, feather=feather)
    assert torch.equal(out[:, mask == 0], frame[:, mask == 0])
    assert mask.min() >= 0 and mask.max() <= 1
    # What was blended never leaves the range between the frame and the face, where none of the frame's own detail is
    # added, but for the rounding of the shares of overlapping faces: a hundredth of a 16-bit step would be 1.5e-7, of
    # an 8-bit step 4e-5.
    out, _ = composite(frame, crops, white, strength=strength, feather=feather, worth=[0.0] * len(crops))
    assert (out >= frame - 1e-5).all() and (out <= 1 + 1e-5).all()


def test_a_face_shows_in_full_inside_its_square_and_fades_inwards():
    frame = torch.zeros(3, 300, 300)
    crop = crop_at(frame, (150, 150), 200)
    out, mask = composite(frame, [crop], [torch.ones(3, 128, 128)])
    inside = mask > 0
    rows, columns = torch.where(inside)
    assert rows.min() >= 50 and rows.max() < 250 and columns.min() >= 50 and columns.max() < 250
    assert out[0, 150, 150] == 1
    edge = mask[150, 50:100]
    assert (edge.diff() >= 0).all() and edge[0] == 0 and edge[-1] > 0.99


def test_strength_zero_is_the_input_and_half_is_half():
    frame = torch.rand(3, 100, 100)
    crop = crop_at(frame, (50, 50), 60)
    out, mask = composite(frame, [crop], [torch.ones(3, 128, 128)], strength=0)
    assert torch.equal(out, frame) and not mask.any()
    half, _ = composite(frame, [crop], [torch.ones(3, 128, 128)], strength=0.5)
    assert torch.allclose(half[:, 50, 50], (frame[:, 50, 50] + 1) / 2)


def test_neighbours_do_not_paint_over_each_other():
    """Two crops overlap; each face's centre keeps its own colour, and the order does not matter."""
    frame = torch.zeros(3, 300, 500)
    crops = [crop_at(frame, (200, 150), 200), crop_at(frame, (290, 150), 200)]
    red, blue = torch.zeros(3, 128, 128), torch.zeros(3, 128, 128)
    red[0], blue[2] = 1, 1
    out, mask = composite(frame, crops, [red, blue])
    swapped, _ = composite(frame, crops[::-1], [blue, red])
    assert torch.allclose(out, swapped, atol=1e-6)
    assert torch.allclose(out[:, 150, 200], torch.tensor([1.0, 0, 0])) and torch.allclose(
        out[:, 150, 290], torch.tensor([0, 0, 1.0])
    )
    assert (out.sum(0) <= 1 + 1e-5).all() and mask.max() <= 1  # float32 rounding
    # A hard border would show: along the line between the faces colour changes by small steps.
    assert out[0, 150, 200:290].diff().abs().max() < 0.25


def test_a_mask_takes_away_and_never_adds():
    frame = torch.zeros(3, 200, 200)
    crop = crop_at(frame, (100, 100), 150)
    white = torch.ones(3, 128, 128)
    full, _ = composite(frame, [crop], [white])
    left = torch.zeros(64, 64)
    left[:, :32] = 1
    part, mask = composite(frame, [crop], [white], masks=[left])
    assert (part <= full + 1e-6).all()
    assert mask[100, 60] == 1 and mask[100, 140] == 0


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_row58_strength_out_of_range(strength):
    with pytest.raises(SettingsError, match="strength"):
        composite(torch.zeros(3, 8, 8), [], [], strength=strength)


def test_wrong_counts_shapes_and_nan_are_refused():
    frame = torch.rand(3, 50, 50)
    crop = crop_at(frame, (25, 25), 30)
    for restored in ([], [torch.ones(3, 64, 32)], [torch.full((3, 64, 64), float("nan"))]):
        with pytest.raises(InputMediaError):
            composite(frame, [crop], restored)
    with pytest.raises(InputMediaError, match="mask"):
        composite(frame, [crop], [torch.ones(3, 64, 64)], masks=[torch.full((5, 5), 2.0)])


def test_many_faces_and_a_restored_size_of_its_own():
    frame = torch.rand(3, 400, 400)
    crops = [crop_at(frame, (20 + 8 * index, 200), 30) for index in range(50)]
    out, _ = composite(frame, crops, [torch.rand(3, 256, 256) for _ in crops])
    assert out.isfinite().all()


# --- faces larger than their crop ---------------------------------------------------------------------------------


@given(
    st.integers(0, 2**32 - 1),
    st.lists(
        st.tuples(st.floats(0, 260), st.floats(0, 240), st.floats(165, 600), st.floats(-3.2, 3.2)),
        min_size=1, max_size=3,
    ),
    st.floats(0, 1), st.floats(0, 0.5),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_what_was_not_changed_gives_the_frame_back(seed, faces, strength, feather):
    """The crops have 128 px, so that of noise little outlives shrinking."""
    frame = torch.rand(3, 240, 260, generator=torch.Generator().manual_seed(seed))
    crops = [crop_at(frame, (x, y), side, angle) for x, y, side, angle in faces]
    out, _ = composite(
        frame, crops, [crop.image for crop in crops], strength=strength, feather=feather, worth=[1.0] * len(crops)
    )
    assert torch.allclose(out, frame, atol=1e-6)


@pytest.mark.parametrize("side", [40, 70, 85])
def test_faces_that_the_crop_holds_are_pasted_as_they_are(side):
    frame = torch.rand(3, 200, 200)
    crop = crop_at(frame, (100, 100), side, 0.3)
    face = torch.rand(3, 128, 128)
    kept, plain = (composite(frame, [crop], [face], worth=[worth])[0] for worth in (1.0, 0.0))
    assert torch.equal(kept, plain)


def test_a_restored_face_with_pixels_enough_brings_its_own_detail():
    frame = torch.rand(3, 300, 300)
    crop, face = crop_at(frame, (150, 150), 170), torch.rand(3, 256, 256)
    kept, plain = (composite(frame, [crop], [face], worth=[worth])[0] for worth in (1.0, 0.0))
    assert torch.equal(kept, plain)


def test_a_face_that_outgrows_its_crop_does_not_jump():
    """The detail sets in by and by: at 87 px, of 128, hardly; from 117 on it is there in full."""
    frame = torch.rand(3, 300, 300)
    change = []
    for side in (85.0, 86.0, 90.0, 100.0, 118.0, 160.0):
        crop = crop_at(frame, (150, 150), side)
        kept, plain = (composite(frame, [crop], [crop.image], worth=[worth])[0] for worth in (1.0, 0.0))
        change.append(float((kept - plain)[:, 120:180, 120:180].std()))
    full = float((frame - plain)[:, 120:180, 120:180].std())
    assert change == sorted(change) and change[0] == 0
    assert change[1] < 0.05 * full and change[2] < 0.25 * full and change[-1] == pytest.approx(full, rel=1e-3)


def test_noise_of_a_blurred_face_does_not_come_back(shared):
    """As it is, the face keeps its detail; blurred and noisy, all that it had was noise."""
    path = shared / "faces" / "pd512" / "val" / "A000361.jpg"
    sharp = torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy()).permute(2, 0, 1).float() / 255
    blurred = torch.nn.functional.avg_pool2d(sharp, 25, 1, 12, count_include_pad=False)
    noisy = (blurred + 0.06 * torch.randn(blurred.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    left = []
    for frame in (sharp, noisy):
        crop = crop_at(frame, (256, 256), 512)
        smooth = torch.nn.functional.avg_pool2d(crop.image, 3, 1, 1, count_include_pad=False)
        out, _ = composite(frame, [crop], [smooth])
        inside = (..., slice(120, 400), slice(120, 400))
        left.append(detail(out[inside]) / detail(frame[inside]))
    assert left[0] > 0.9 and left[1] < 0.05


# --- the shape of a head ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("angle", [0.0, 0.4, -1.2])
def test_what_lies_beside_the_head_stays_the_inputs(angle):
    """Corners of the square, and what is left and right of the neck, to the bit; eyes, mouth and chin in full."""
    frame = torch.rand(3, 400, 400)
    crop = crop_at(frame, (200, 200), 300, angle)
    out, mask = composite(frame, [crop], [torch.ones(3, 128, 128)])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    def at(x, y):
        column, row = (np.array([x - 256, y - 256]) @ turn.T * (300 / 512) + 200).astype(int)
        return row, column

    for beside in ((40, 470), (472, 470), (30, 60), (482, 60), (20, 256), (492, 256)):
        place = (slice(None), *at(*beside))
        assert mask[place[1:]] == 0 and torch.equal(out[place], frame[place])
    for on in ((193, 240), (319, 240), (256, 371), (256, 440), (256, 100), (130, 300), (382, 300)):
        assert mask[at(*on)] == 1


def test_the_mask_follows_a_head_that_is_turned():
    """The far cheek of a face that looks to the left lies nearer to the nose, and what is beyond it is background."""
    frame = torch.rand(3, 400, 400)
    points = (FFHQ_TEMPLATE - 256) * (300 / 512) + 200
    turned = points.copy()
    turned[2, 0] -= 18
    reach = []
    for these in (points, turned):
        crop = crop_at(frame, (200, 200), 300)
        crop = replace(crop, face=Face((0, 0, 1, 1), these, 1.0))
        _, mask = composite(frame, [crop], [torch.ones(3, 128, 128)])
        row = mask[210] > 0.5
        reach.append((int(row.nonzero()[0]), int(row.nonzero()[-1])))
    assert reach[1][0] > reach[0][0] + 4 or reach[1][1] > reach[0][1] + 4


# --- resampling ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "least"), [(100, 36.0), (200, 36.0), (420, 45.0)])
def test_what_is_cut_out_and_pasted_back_is_nearly_what_it_was(shared, side, least):
    """A crop of 512 px of smaller faces. Drawn out linearly there and back, it was 3 to 10 dB worse."""
    picture = np.asarray(Image.open(shared / "faces" / "pd512" / "val" / "A000361.jpg").convert("RGB"))
    small = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
    frame = torch.from_numpy(small).permute(2, 0, 1).float() / 255
    points = (FFHQ_TEMPLATE - 256) @ np.array([[0.998, 0.06], [-0.06, 0.998]]) * (0.96 * side / 512) + side / 2 + 0.3
    crop = align_face(frame, Face((0, 0, 1, 1), points, 1.0))
    out, _ = composite(frame, [crop], [crop.image], worth=[0.0])
    inner = (..., slice(round(side * 0.3), round(side * 0.7)), slice(round(side * 0.3), round(side * 0.7)))
    assert -10 * np.log10(float((out - frame)[inner].square().mean())) > least


def test_a_sharp_face_about_as_large_as_the_crop_stays_sharp(shared):
    """Turned by a few degrees; sampled there and back it kept a fifth of its finest detail."""
    picture = torch.from_numpy(np.asarray(Image.open(shared / "faces" / "pd512" / "val" / "A000361.jpg")).copy())
    frame = picture.permute(2, 0, 1).float() / 255
    points = (FFHQ_TEMPLATE - 256) @ np.array([[0.998, 0.06], [-0.06, 0.998]]) * 0.97 + 256.3
    crop = align_face(frame, Face((0, 0, 1, 1), points, 1.0))
    assert 1 < crop.scale < 1.1
    out, _ = composite(frame, [crop], [crop.image])
    inner = (..., slice(150, 400), slice(130, 380))
    assert detail(out[inner]) > 0.9 * detail(frame[inner])
