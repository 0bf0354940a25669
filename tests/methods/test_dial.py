"""The dial with one meaning in every method: its arithmetic, and what it does to real faces."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_vspbfr import TINY, tiny_restorer
from torch.nn import functional as F

from bfr_core.dial import Dial, fidelity_param
from bfr_core.media.pictures import read_picture, to_float
from bfr_core.registry import methods
from bfr_core.restorer import Restorer, load_restorer
from bfr_core.runtime import Runtime
from bfr_core.settings import declared_params

values = st.floats(1e-3, 1e3)


def dial(fidelity: float, perception: float, published: float, faithful: float, *, linear: bool = False) -> float:
    return Dial("a quantity", perception, published, faithful, linear).at(fidelity)


@dataclass(frozen=True, slots=True)
class Dialled:
    fidelity: float = fidelity_param()


@given(low=values, middle=values, high=values)
def test_the_dial_goes_through_its_three_values(low, middle, high):
    for linear in (False, True):
        assert dial(0.5, low, middle, high, linear=linear) == middle
        assert math.isclose(dial(0, low, middle, high, linear=linear), low, rel_tol=1e-12)
        assert math.isclose(dial(1, low, middle, high, linear=linear), high, rel_tol=1e-12)
    # Halfway to an end: the geometric or the arithmetic mean of both.
    assert math.isclose(dial(0.25, low, middle, high), math.sqrt(low * middle), rel_tol=1e-9)
    assert math.isclose(dial(0.75, low, middle, high), math.sqrt(middle * high), rel_tol=1e-9)
    assert math.isclose(dial(0.75, low, middle, high, linear=True), (middle + high) / 2, rel_tol=1e-9)


@given(positions=st.lists(st.floats(0, 1), min_size=2, max_size=2), ends=st.lists(values, min_size=3, max_size=3))
def test_the_dial_never_turns_back(positions, ends):
    low, middle, high = sorted(ends)
    first, second = sorted(positions)
    for linear in (False, True):
        assert dial(first, low, middle, high, linear=linear) <= dial(second, low, middle, high, linear=linear) * (
            1 + 1e-12
        )
        assert dial(first, high, middle, low, linear=linear) >= dial(second, high, middle, low, linear=linear) * (
            1 - 1e-12
        )


def test_quantities_may_fade_to_nothing():
    assert [dial(at, 1, 1, 0, linear=True) for at in (0, 0.5, 0.75, 1)] == [1, 1, 0.5, 0]


def test_every_method_has_the_dial_at_the_published_place():
    for method in methods().values():
        assert declared_params(Dialled)[0] in method.params, method.id
        assert method.dials and len({each.quantity for each in method.dials}) == len(method.dials), method.id
        for config in method.configs:
            assert method.settings({}, config).fidelity == 0.5, f"{method.id}/{config.name} is not as published"


@pytest.fixture(scope="module")
def face(shared) -> torch.Tensor:
    """A real face of 512 px, degraded: (1, 3, 512, 512)."""
    path = sorted((shared / "faces" / "free512" / "val").iterdir())[0]
    clear = to_float(read_picture(path))[None]
    return F.interpolate(F.interpolate(clear, (64, 64), mode="area"), (512, 512), mode="bilinear").clamp(0, 1)


def made(restorer: Restorer, face: torch.Tensor, fidelity: float, **settings) -> torch.Tensor:
    return restorer.restore(face, seeds=[3], settings={"fidelity": fidelity, **settings}, runtime=Runtime())


def test_the_regressor_holds_back_half_of_its_correction_at_most(face):
    restorer = load_restorer("irn")
    published, halfway, faithful = (made(restorer, face, at) for at in (0.5, 0.75, 1.0))
    assert torch.equal(made(restorer, face, 0.2), published)
    inside = (published > 0) & (published < 1)  # where nothing was clamped
    for held, found in ((0.75, halfway), (0.5, faithful)):
        torch.testing.assert_close(found[inside], (face + held * (published - face))[inside], atol=1e-5, rtol=0)
    assert inside.float().mean() > 0.9 and not torch.equal(published, face)


def test_style_prompts_go_from_the_mean_over_the_published_to_what_the_encoder_sees():
    restorer, face = tiny_restorer(), torch.rand(2, 3, TINY.size, TINY.size)
    seeds = [4, 5]

    def paint(fidelity: float, **settings) -> torch.Tensor:
        chosen = {"fidelity": fidelity, **settings}
        return restorer.restore(face, seeds=seeds, settings=chosen, runtime=Runtime())

    published = restorer.restore(face, seeds=seeds, runtime=Runtime())
    assert torch.equal(paint(0.5), published)
    assert not torch.equal(paint(0.3), published) and not torch.equal(paint(0.7), published)
    # At 1 the codes are the encoder's and there is no noise, which is what two settings ask for by themselves.
    wanted = restorer.restore(face, seeds=seeds, settings={"prompts": "initial", "noise": False}, runtime=Runtime())
    torch.testing.assert_close(paint(1.0), wanted)


def test_the_truncated_codes_are_nearer_to_their_mean(monkeypatch):
    restorer, face = tiny_restorer(), torch.rand(1, 3, TINY.size, TINY.size)
    net, seen = restorer.net, {}
    features = net.decoder.features

    def watch(codes, *rest, **named):
        seen[len(seen)] = codes.clone()
        return features(codes, *rest, **named)

    monkeypatch.setattr(net.decoder, "features", watch)
    for fidelity in (0.5, 0.25, 0.0):
        restorer.restore(face, seeds=[1], settings={"fidelity": fidelity}, runtime=Runtime())
    for index, truncation in ((1, 0.85), (2, 0.7)):
        torch.testing.assert_close(seen[index] - net.latent_avg, truncation * (seen[0] - net.latent_avg))
