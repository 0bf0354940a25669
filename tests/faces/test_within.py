"""A mask of where in a picture restoring may show."""

from __future__ import annotations

import pytest
import torch
from tiny_restorers import Brighten, restorer_of

from bfr_core.compose.within import OUTSIDE, check_within, is_within, keep_outside, within_of
from bfr_core.errors import InputMediaError
from bfr_core.faces.align import points_from_box
from bfr_core.restoration.options import RestoreOptions
from bfr_core.restoration.photo import restore_photo, restore_photos
from bfr_core.types import Face

BOXES = (20.0, 20.0, 60.0, 60.0), (120.0, 30.0, 150.0, 60.0)


def faces() -> list[Face]:
    return [Face(box, points_from_box(box), 0.9) for box in BOXES]


def picture() -> torch.Tensor:
    return torch.rand(3, 96, 192, generator=torch.Generator().manual_seed(3)) * 0.5


def test_nothing_shows_outside_and_all_of_it_inside() -> None:
    frame, net = picture(), Brighten()
    whole = restore_photo(frame, restorer_of(net), faces=faces())
    mask = torch.zeros(96, 192)
    mask[:, :40] = 1
    mask[40:, :40] = 0.5
    made = restore_photo(frame, restorer_of(net), faces=faces(), within=mask)
    assert torch.equal(made.image[:, mask == 0], frame[:, mask == 0])
    assert torch.equal(made.image[:, mask == 1], whole.image[:, mask == 1])
    half = mask == 0.5
    assert torch.allclose(made.image[:, half], (frame + whole.image)[:, half] / 2)
    assert torch.equal(made.mask, whole.mask * mask)
    assert made.mask.max() == 1


def test_a_face_outside_is_left_alone_and_takes_no_place() -> None:
    frame, net = picture(), Brighten()
    mask = torch.zeros(96, 192)
    mask[:, 100:] = 1
    made = restore_photo(frame, restorer_of(net), faces=faces(), within=mask, options=RestoreOptions(max_faces=1))
    assert [(face.action, face.reason) for face in made.report.faces] == [("kept", OUTSIDE), ("restored", "")]
    assert net.batches == [1], "the network is not asked for a face that nobody sees"
    assert not torch.equal(made.image, frame)
    nobody = restore_photo(frame, restorer_of(net), faces=faces(), within=torch.zeros(1, 1))
    assert torch.equal(nobody.image, frame)
    assert net.batches == [1]


def test_each_picture_has_its_own_and_any_size_will_do() -> None:
    frames = [picture(), picture()[:, :, :100]]
    left = torch.zeros(1, 12, 24)
    left[..., :10] = 1
    made = list(
        restore_photos(frames, restorer_of(Brighten()), faces=[faces(), faces()[:1]], within=[left, torch.zeros(7, 9)])
    )
    assert [one.mask.any().item() for one in made] == [True, False]
    assert not made[0].mask[:, 90:].any()
    assert tuple(within_of(left, 0, (96, 192)).shape) == (96, 192)


def test_one_serves_all_and_rounding_is_forgiven() -> None:
    masks = check_within(torch.full((4, 4), 1 + 5e-4), 5)
    assert masks.shape == (1, 4, 4)
    assert masks.max() == 1
    each = torch.arange(3.0)[:, None, None].expand(3, 4, 4) / 2
    assert [within_of(check_within(each, 3), index, (4, 4)).max().item() for index in range(3)] == [0, 0.5, 1]


@pytest.mark.parametrize(
    "mask",
    [torch.ones(3, 4, 4), torch.ones(1, 1, 4, 4), torch.ones(0, 4), torch.full((4, 4), 2.0), torch.full((4, 4), -1.0),
     torch.full((4, 4), torch.nan)],
    ids=["number", "shape", "empty", "above", "below", "nan"],
)  # fmt: skip
def test_what_is_no_mask_is_refused(mask: torch.Tensor) -> None:
    with pytest.raises(InputMediaError) as caught:
        check_within(mask, 2)
    assert "expected" in caught.value.found


def test_faces_beyond_the_border() -> None:
    assert not is_within(Face((-40.0, -40.0, -5.0, -5.0), points_from_box((-40, -40, -5, -5)), 1.0), torch.ones(9, 9))
    assert is_within(Face((-40.0, -40.0, 5.0, 5.0), points_from_box((-40, -40, 5, 5)), 1.0), torch.ones(9, 9))


def test_ends_are_exact() -> None:
    before, after = torch.rand(3, 8, 8), torch.rand(3, 8, 8)
    for share, expected in ((0.0, before), (1.0, after)):
        image, mask = keep_outside(before, after, torch.ones(8, 8), torch.full((8, 8), share))
        assert torch.equal(image, expected)
        assert (mask == share).all()
