"""The parts that training is made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut

from bfr_core.degrade.presets import get_preset
from bfr_core.errors import InputMediaError
from bfr_core.networks.restore_unet import RestoreUNet
from train.data import FacePairs, Prefetch, list_images, to_tensor
from train.optim import Muon, orthogonalise


@pytest.fixture
def faces(tmp_path: Path) -> list[Path]:
    for index, (top, left) in enumerate(((0, 120), (10, 130), (5, 110))):
        Image.fromarray(astronaut()[top : top + 192, left : left + 192]).save(tmp_path / f"{index}.png")
    return list_images([tmp_path])


def pairs_of(files: list[Path], *, crop: int, seed: int = 0, size: int = 192) -> FacePairs:
    return FacePairs(files, [1.0] * len(files), get_preset("gfpgan"), size=size, crop=crop, seed=seed)


@pytest.mark.parametrize("crop", [64, 192])
def test_the_nth_pair_is_always_the_same(faces, crop):
    first, second, other = pairs_of(faces, crop=crop), pairs_of(faces, crop=crop), pairs_of(faces, crop=crop, seed=1)
    for index in (0, 7):
        assert np.array_equal(first[index].low, second[index].low)
        assert np.array_equal(first[index].truth, second[index].truth)
    assert not np.array_equal(first[0].truth, other[0].truth)
    sample = first[0]
    assert sample.low.shape == sample.truth.shape == (crop, crop, 3) and not sample.enlarged
    assert not np.array_equal(sample.low, sample.truth)


def test_small_truths_are_marked(faces):
    assert pairs_of(faces, crop=256, size=256)[0].enlarged


def test_broken_pictures_and_empty_folders_are_named(faces, tmp_path):
    (tmp_path / "0.png").write_bytes(b"nothing")
    with pytest.raises(InputMediaError, match=r"0\.png"):
        pairs_of(faces, crop=64)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputMediaError, match="empty"):
        list_images([tmp_path / "empty"])


def test_an_error_on_the_data_thread_reaches_the_loop(faces):
    class Broken(FacePairs):
        def __getitem__(self, index):
            raise ValueError("planned")

    broken = Broken(faces, [1.0] * 3, get_preset("gfpgan"), size=192, crop=64, seed=0)
    feed = Prefetch(broken, 0, 2)
    with pytest.raises(RuntimeError) as caught:
        feed.next()
    assert "planned" in str(caught.value.__cause__)
    feed.close()


@pytest.mark.parametrize("shape", [(32, 32), (16, 64), (64, 16)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
    assert values.min() > 0.5 and values.max() < 1.5


def test_the_net_starts_as_the_identity_and_learns(faces):
    torch.manual_seed(0)
    net = RestoreUNet((8, 16, 16), (1, 1, 1))
    pairs = pairs_of(faces, crop=64)
    samples = [pairs[index] for index in range(8)]
    low, truth = (to_tensor([getattr(sample, name) for sample in samples]) for name in ("low", "truth"))
    assert torch.equal(net(low), low)
    hidden = [p for n, p in net.named_parameters() if p.ndim == 4 and not n.startswith(("stem", "head"))]
    rest = [p for n, p in net.named_parameters() if p.ndim < 4 or n.startswith(("stem", "head"))]
    optimisers = [Muon(hidden, lr=0.01), torch.optim.Adam(rest, lr=1e-3)]
    losses = []
    for _ in range(40):
        loss = (net(low) - truth).abs().mean()
        losses.append(loss.item())
        net.zero_grad()
        loss.backward()
        for optimiser in optimisers:
            optimiser.step()
    assert losses[-1] < 0.85 * losses[0]
