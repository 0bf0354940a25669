"""The embedded recogniser: its weights, its gradient, whom it takes for whom, and the figures of verification."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from marks import opens_pickles
from torch import nn

from bfr_core.degrade.chain import degrade, fixed
from bfr_core.faces.align import align_face
from bfr_core.faces.detect import load_detector
from bfr_core.faces.identity import (
    drift,
    embed,
    embedded_recognizer,
    identities,
    identity_cosine,
    load_recognizer,
)
from bfr_core.faces.people import People
from bfr_core.media.pictures import read_picture, to_float
from bfr_core.metrics.verification import accepted_at, agreement, roc_area, verification
from bfr_core.models import loader
from bfr_core.models.checkpoints.cards import embedded, read_card
from bfr_core.networks.face_detector import fold
from bfr_core.networks.face_embedder import FaceEmbedder


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255


def to_array(face: torch.Tensor) -> np.ndarray:
    return (face[0] * 255).round().byte().permute(1, 2, 0).numpy()


@pytest.fixture(scope="module")
def astronaut() -> torch.Tensor:
    from skimage.data import astronaut

    frame = tensor(astronaut())
    face = load_detector().detect(frame)[0][0]
    return align_face(frame[0], face, 512).image[None]


@pytest.fixture(scope="module")
def people(shared) -> torch.Tensor:
    """Twelve held-out people, generated ones among them."""
    paths = [
        path
        for folder in ("pd512", "free512", "cc0gen512")
        for path in sorted((shared / "faces" / folder / "val").iterdir())[:4]
    ]
    return torch.stack([to_float(read_picture(path)) for path in paths])


# The network ------------------------------------------------------------------------------------------------------


def test_it_is_small_and_its_card_fits():
    path, card = embedded("recogniser"), read_card("recogniser")
    assert path.stat().st_size <= 2_000_000
    assert card.parameters < 1_000_000 and card.method == "recogniser"
    assert load_recognizer(path).title == "embedded recogniser"


def test_folded_it_computes_the_same_as_in_training():
    torch.manual_seed(0)
    trained = FaceEmbedder(norm=True)
    with torch.no_grad():
        for _ in range(3):  # statistics of their own
            trained(torch.randn(4, 3, 96, 96))
    trained.eval()
    plain = FaceEmbedder()
    plain.load_state_dict(fold(trained))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in plain.modules())
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(plain(x), trained(x), atol=1e-4, rtol=1e-4)


def test_every_place_of_the_face_has_weights_of_its_own():
    torch.manual_seed(0)
    net = FaceEmbedder().eval()
    x = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        seen = nn.functional.silu(net.wide(net.maps(x)[-1]))[0].double().numpy()
        wanted = net.out.weight.double().numpy() @ np.einsum("cyx,cyx->c", seen, net.place.double().numpy())
        np.testing.assert_allclose(net(x)[0].numpy(), wanted + net.out.bias.double().numpy(), atol=1e-4)


def test_the_embedding_has_unit_length_and_a_finite_gradient(astronaut):
    recogniser = embedded_recognizer()
    x = astronaut.clone().requires_grad_()
    vector = embed(recogniser, x)
    assert vector.shape == (1, 128) and vector.dtype == torch.float32
    torch.testing.assert_close(vector.norm(dim=1), torch.ones(1))
    target = nn.functional.normalize(torch.randn(1, 128, generator=torch.Generator().manual_seed(0)), dim=1)
    (1 - (vector * target).sum()).backward()
    assert x.grad is not None and bool(x.grad.isfinite().all()) and x.grad.abs().max() > 0
    assert all(p.grad is None and not p.requires_grad for p in recogniser.parameters())


def test_the_gradient_is_the_slope():
    """Smooth: central differences in float64 agree along any direction, which kinks would spoil."""
    net = load_recognizer(embedded("recogniser")).net.double()
    generator = torch.Generator().manual_seed(1)
    x, way = (torch.rand(1, 3, 96, 96, generator=generator, dtype=torch.float64) * 2 - 1 for _ in range(2))

    def height(x: torch.Tensor) -> torch.Tensor:
        vector = nn.functional.normalize(net(x), dim=1)
        return vector[0, :64].sum()

    (slope,) = torch.autograd.grad(height(x.requires_grad_()), x)
    with torch.no_grad():
        rise = (height(x + 1e-4 * way) - height(x - 1e-4 * way)) / 2e-4
    assert (slope * way).sum().item() == pytest.approx(rise.item(), rel=1e-4)


def test_it_is_loaded_once_and_can_guide_whoever_asked_first(monkeypatch):
    monkeypatch.setattr(loader, "_kept", {})
    with torch.inference_mode():
        first = embedded_recognizer()
    assert embedded_recognizer() is first and embedded_recognizer("cpu") is first
    assert not any(weight.is_inference() for weight in first.parameters())


# People -----------------------------------------------------------------------------------------------------------


def test_a_degraded_astronaut_is_still_more_herself_than_anybody_else(astronaut, people):
    recogniser = embedded_recognizer()
    worse = tensor(degrade(to_array(astronaut), fixed(8, jpeg_quality=60)))
    wanted = People.of(recogniser, "embedded", only=identities(recogniser, astronaut))
    found = wanted.find(torch.cat([people, worse]))
    assert [not face.reason for face in found] == [False] * len(people) + [True]
    assert found[-1].cosine > max(face.cosine for face in found[:-1])


def test_selection_by_a_reference_finds_everybody(people):
    """Each shrunk to an eighth, among all the others as they are."""
    recogniser = embedded_recognizer()
    views = nn.functional.interpolate(people, scale_factor=0.125, mode="area")
    vectors = identities(recogniser, views)
    for number, vector in enumerate(vectors):
        found = People.of(recogniser, "embedded", only=vector[None]).find(people)
        assert [n for n, face in enumerate(found) if not face.reason] == [number]


def test_drift_grows_with_the_damage_and_is_nought_without(astronaut, people):
    recogniser = embedded_recognizer()
    image = to_array(astronaut)
    views = [tensor(degrade(image, fixed(factor))) for factor in (2, 8, 32)]
    moved = [drift(recogniser, astronaut, after).item() for after in (tensor(image), *views, people[:1])]
    assert moved[0] == pytest.approx(0, abs=2e-3)
    assert moved[1] < moved[2] < moved[3] and moved[2] < moved[4]


@opens_pickles
def test_it_agrees_with_its_teacher_about_people_it_never_saw(people, shared):
    teacher = load_recognizer(shared / "weights" / "mobilefacenet.pt")
    with torch.no_grad():
        ours, theirs = embed(embedded_recognizer(), people), embed(teacher, people)
    cosines = (ours @ theirs.T).numpy()
    others = cosines[~np.eye(len(people), dtype=bool)]
    # A person's two embeddings against those of two people; chance is 0.5 and 0.
    assert roc_area(np.diagonal(cosines), others) > 0.75
    assert np.diagonal(cosines).mean() > others.mean() + 0.1


def test_the_card_says_how_well_it_tells_people_apart_beside_its_teacher():
    figures = read_card("recogniser").metrics
    for view in ("moved", "x8_jpeg60", "x16_jpeg60", "gfpgan"):
        for one in (figures, figures["teacher"]):
            assert 0.5 < one[f"auc_{view}"] <= 1 and 0 < one[f"tar_{view}"] <= 1
    assert -1 <= figures["agreement"] <= 1


def test_identity_cosine_of_a_face_with_itself_is_one(astronaut):
    assert identity_cosine(embedded_recognizer(), astronaut, astronaut).item() == pytest.approx(1, abs=1e-5)


# Verification -----------------------------------------------------------------------------------------------------

scores = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=12).map(np.array)


@given(scores, scores)
def test_the_area_is_that_of_every_pair_counted(same, other):
    counted = sum((a > b) + 0.5 * (a == b) for a in same for b in other) / (len(same) * len(other))
    assert roc_area(same, other) == pytest.approx(counted)


@given(scores, scores, st.sampled_from([0.0, 0.01, 0.1, 0.5]))
def test_no_more_of_the_others_are_accepted_than_allowed(same, other, share):
    rate, threshold = accepted_at(same, other, share)
    assert (other > threshold).mean() <= share
    assert rate == np.mean([score > threshold for score in same])
    if share == 0:
        assert threshold == other.max()


def test_verification_by_hand():
    clean = torch.eye(3)
    views = torch.tensor([[0.6, 0.8, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    found = verification(clean, views)
    # Same: 0.6, 1, 1. Others: 0.8 once and 0 five times; the strictest threshold is 0.8.
    assert found["auc"] == pytest.approx((5 + 6 + 6) / 18)
    assert found["tar_at_far_1e-2"] == pytest.approx(2 / 3) and found["threshold"] == pytest.approx(0.8)
    assert found["same_mean"] == pytest.approx(2.6 / 3) and found["other_mean"] == pytest.approx(0.8 / 6)


def test_agreement_does_not_mind_how_many_numbers_an_embedding_has():
    one = nn.functional.normalize(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    wider = torch.cat([one, torch.zeros(6, 3)], 1)
    assert agreement(one, wider) == {"correlation": pytest.approx(1)}
    assert agreement(one, -one) == {"correlation": pytest.approx(1), "cosine": pytest.approx(-1)}
