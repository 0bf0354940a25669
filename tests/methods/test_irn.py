"""The compact identity recovery network: its two heads, and how files tell which they have."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bfr_core.models.checkpoints.cards import load_embedded
from bfr_core.networks.restore_unet import FullSizeHead, RestoreUNet, full_from_folded
from bfr_core.restorer import load_restorer
from bfr_core.runtime import Runtime


@pytest.fixture(scope="module")
def folded() -> dict[str, torch.Tensor]:
    return load_embedded("irn_compact")


def smooth(size: int = 128) -> torch.Tensor:
    small = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    return torch.nn.functional.interpolate(small, (size, size), mode="bicubic").clamp(0, 1)


@torch.no_grad()
def test_a_head_at_full_size_begins_near_the_folded_one(folded):
    before, after = RestoreUNet(), RestoreUNet(head="full")
    before.load_state_dict(folded)
    after.load_state_dict(full_from_folded(folded))
    faces = smooth()
    change, off = before(faces) - faces, after(faces) - before(faces)
    assert off.abs().mean() < 0.25 * change.abs().mean()


@torch.no_grad()
def test_the_head_draws_no_grid_on_even_features():
    """Whatever its weights, features that do not vary come out the same at even and odd pixels of a flat picture."""
    torch.manual_seed(5)
    head, folded_head = FullSizeHead(8), nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2))
    features, flat = torch.randn(1, 8, 1, 1).expand(-1, -1, 32, 32), torch.full((1, 3, 64, 64), 0.2)
    inner = slice(16, 48)  # far from the border, whose padding shows
    even = head(features, flat)[..., inner, inner]
    assert (even - even.mean((2, 3), keepdim=True)).abs().max() < 1e-5
    spread = folded_head(features)[..., inner, inner]
    assert (spread - spread.mean((2, 3), keepdim=True)).abs().max() > 1e-2, "the folded head draws one"


def test_a_file_tells_its_head(folded, tmp_path):
    save_file(full_from_folded(folded), tmp_path / "full.safetensors")
    loaded = load_restorer("irn", weights=tmp_path / "full.safetensors")
    assert loaded.config.name == "compact" and hasattr(loaded.net.head, "conv2")
    faces = smooth(512)
    made = loaded.restore(faces, seeds=[0, 1], runtime=Runtime())
    assert (made - load_restorer("irn").restore(faces, seeds=[0, 1], runtime=Runtime())).abs().mean() < 0.02
