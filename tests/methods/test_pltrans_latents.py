"""PLTrans latents by themselves: made, sampled, mixed, edited, saved and decoded, with a tiny random network."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_pltrans import FEATURES, tiny_restorer
from torch import nn

from bfr_core.errors import InputMediaError, OutputMediaError, RestoreError, SettingsError
from bfr_core.methods.irn import METHOD as IRN
from bfr_core.methods.pltrans.latents import (
    PLTransLatents,
    decode,
    encode,
    load_latents,
    mix,
    replaced,
    sample,
    save_latents,
)
from bfr_core.restorer import Restorer
from bfr_core.runtime import Runtime

SEEDS = [5, 6, 7]
FACES = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
FEW = {"transitions": 2}


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    return tiny_restorer()


@pytest.fixture(scope="module")
def latents(restorer: Restorer) -> PLTransLatents:
    return encode(restorer, FACES, seeds=SEEDS, settings=FEW, runtime=Runtime(batch=2))


def drawn(count: int = 2, seed: int = 0, config: str = "tiny", side: int = 4) -> PLTransLatents:
    values = torch.randn(count, 5, side, side, generator=torch.Generator().manual_seed(seed))
    return PLTransLatents(values[:, :2].contiguous(), values[:, 2:].contiguous(), config)


def refused(kind: type[Exception], call: Any) -> Any:
    with pytest.raises(kind) as caught:
        call()
    assert all(part.strip() for part in caught.value.args)
    return caught.value


# Made and decoded.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("chosen", [{}, {"steps": "fixed", "wavelet": False, "fidelity": 0.8}, {"diffusion": False},
                                    {"dictionary": False}, {"transformer": False}], ids=str)  # fmt: skip
def test_decoded_they_are_what_restoring_gives(restorer, dtype, chosen):
    given = {**FEW, **chosen}
    latents = encode(restorer, FACES, seeds=SEEDS, settings=given, runtime=Runtime(batch=2, dtype=dtype))
    found = decode(restorer, latents, settings=given, runtime=Runtime(batch=2, dtype=dtype))
    wanted = restorer.restore(FACES, seeds=SEEDS, settings=given, runtime=Runtime(batch=2, dtype=dtype))
    assert torch.equal(found, wanted)


def test_their_shapes_and_what_they_depend_on(restorer, latents):
    assert latents.u.shape == (3, 4, FEATURES, FEATURES) and latents.q.shape == (3, 8, FEATURES, FEATURES)
    assert len(latents) == 3 and latents.config == "tiny"
    assert not latents.u.is_inference() and not latents.q.is_inference()
    other = encode(restorer, FACES[:2], seeds=[9, 6], settings=FEW, runtime=Runtime(batch=1))
    torch.testing.assert_close(other.u[1], latents.u[1], atol=1e-3, rtol=0)
    torch.testing.assert_close(other.q, latents.q[:2], atol=1e-4, rtol=0)
    assert (other.u[0] - latents.u[0]).abs().max() > 0.1


def test_no_face_has_no_latents(restorer):
    none = encode(restorer, FACES[:0], seeds=[], runtime=Runtime())
    assert len(none) == 0 and none.u.shape[1:] == (4, FEATURES, FEATURES)
    assert len(sample(restorer, seeds=[], runtime=Runtime())) == 0
    assert decode(restorer, none, runtime=Runtime()).shape == (0, 3, 64, 64)


def test_progress_is_of_rows(restorer):
    heard: list[tuple[int, int]] = []
    run = Runtime(batch=2, on_progress=lambda *done: heard.append(done))
    decode(restorer, encode(restorer, FACES, seeds=SEEDS, settings=FEW, runtime=run), runtime=run)
    assert heard == [(2, 3), (3, 3)] * 2


def test_other_restorers_and_configs_are_refused(restorer, latents):
    other = Restorer(IRN, IRN.configs[0], nn.Identity(), "test")
    for call in (
        lambda: encode(other, FACES, seeds=SEEDS, runtime=Runtime()),
        lambda: sample(other, seeds=SEEDS, runtime=Runtime()),
        lambda: decode(other, latents, runtime=Runtime()),
    ):
        assert "PLTrans" in refused(SettingsError, call).todo
    error = refused(InputMediaError, lambda: decode(restorer, replace(latents, config="paper"), runtime=Runtime()))
    assert "paper" in error.found and "tiny" in error.found
    error = refused(InputMediaError, lambda: decode(restorer, drawn(), runtime=Runtime()))
    assert "8 x 8" in error.found
    refused(SettingsError, lambda: encode(restorer, FACES, seeds=[1], runtime=Runtime()))
    refused(InputMediaError, lambda: encode(restorer, FACES + 1, seeds=SEEDS, runtime=Runtime()))


def test_broken_weights_are_told():
    broken = tiny_restorer()
    broken.net.regulariser.unet.out[2].bias[0] = torch.nan
    for call in (
        lambda: encode(broken, FACES, seeds=SEEDS, runtime=Runtime()),
        lambda: sample(broken, seeds=SEEDS, runtime=Runtime(), steps=3),
    ):
        assert "bfr models verify" in refused(RestoreError, call).todo


# Sampled.


def test_samples_depend_on_their_seed_alone(restorer):
    three = sample(restorer, seeds=SEEDS, runtime=Runtime(batch=2), steps=4)
    assert three.u.shape == (3, 4, FEATURES, FEATURES)
    alone = sample(restorer, seeds=[6], runtime=Runtime(), steps=4)
    torch.testing.assert_close(alone.u[0], three.u[1], atol=1e-3, rtol=0)
    assert (three.u[0] - three.u[1]).abs().mean() > 0.3
    with torch.no_grad():  # keys and values have no degraded face to come from
        torch.testing.assert_close(three.q, restorer.net.regulariser.decode(three.u), atol=1e-5, rtol=1e-5)
    assert decode(restorer, three, runtime=Runtime()).isfinite().all()
    refused(SettingsError, lambda: sample(restorer, seeds=[1], runtime=Runtime(), steps=1001))


def test_samples_of_a_network_that_knows_the_prior_have_the_variance_of_the_chain():
    restorer, steps = tiny_restorer(), 25
    # Of normal latents the clean estimate is alpha u_t, which an output of zero stands for.
    for weight in restorer.net.regulariser.unet.out[2].parameters():
        weight.zero_()
    u = sample(restorer, seeds=range(40), runtime=Runtime(batch=40), steps=steps).u
    # The mean of each step is linear in u_t, its noise independent of it (DDPM Eq. 7).
    bars = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[np.round(np.linspace(999, 0, steps)).astype(int)]
    variance = 1.0
    for now, then in zip(bars, [*bars[1:], 1.0], strict=True):
        beta = 1 - now / then
        factor = np.sqrt(then) * beta / (1 - now) * np.sqrt(now) + np.sqrt(1 - beta) * (1 - then) / (1 - now)
        variance = factor**2 * variance + (1 - then) / (1 - now) * beta
    assert abs(u.std().item() / np.sqrt(variance) - 1) < 0.03 and abs(u.mean()) < 0.05


# Mixed and edited.


@settings(max_examples=20, deadline=None)
@given(share=st.floats(0, 1))
def test_mixing_is_a_straight_line(share):
    a, b = drawn(seed=1), drawn(seed=2)
    mixed = mix(a, b, share)
    for name in ("u", "q"):
        x, y = (getattr(one, name).double().numpy() for one in (a, b))
        np.testing.assert_allclose(getattr(mixed, name).numpy(), (1 - share) * x + share * y, atol=1e-6)


def test_the_ends_of_the_line_and_one_face_for_all():
    a, b = drawn(seed=1), drawn(1, seed=2)
    assert torch.equal(mix(a, b, 0).u, a.u) and torch.equal(mix(a, b, 1).u, b.u.expand(2, -1, -1, -1))
    assert len(mix(b, a, 0.5)) == 2


def test_a_region_is_replaced_and_nothing_else():
    a, b, mask = drawn(seed=1), drawn(seed=2), torch.zeros(1, 1, 32, 32)
    mask[..., :16] = 1
    for share in (1.0, 0.25):
        edited = replaced(a, b, mask, share)
        for name in ("u", "q"):
            x, y, made = (getattr(one, name) for one in (a, b, edited))
            torch.testing.assert_close(made[..., 2:][..., 1:], x[..., 2:][..., 1:], msg="beyond the antialiased edge")
            torch.testing.assert_close(made[..., :1], torch.lerp(x, y, share)[..., :1])
    assert torch.equal(replaced(a, b, torch.zeros(2, 1, 4, 4)).u, a.u)
    assert torch.equal(replaced(a, b, torch.ones(1, 1, 4, 4)).u, b.u)


def test_what_cannot_be_mixed():
    a = drawn(3)
    for b in (drawn(2), drawn(3, side=8), drawn(3, config="paper")):
        refused(InputMediaError, lambda b=b: mix(a, b, 0.5))
    refused(SettingsError, lambda: mix(a, a, 1.5))
    for mask in (torch.ones(2, 1, 4, 4), torch.ones(3, 4, 4), torch.ones(3, 3, 4, 4), torch.full((1, 1, 4, 4), 2.0),
                 torch.full((1, 1, 4, 4), torch.nan)):  # fmt: skip
        refused(InputMediaError, lambda mask=mask: replaced(a, a, mask))


def test_tensors_that_do_not_fit_each_other():
    good = drawn()
    for bad in ({"q": good.q[:1]}, {"q": good.q[..., :2]}, {"u": good.u.double()}, {"u": good.u[0]},
                {"u": good.u * torch.nan}):  # fmt: skip
        refused(InputMediaError, lambda bad=bad: replace(good, **bad))


# In files.


def test_a_file_keeps_them_exactly(tmp_path: Path):
    latents, path = drawn(), tmp_path / "face.safetensors"
    save_latents(path, latents)
    back = load_latents(path)
    assert torch.equal(back.u, latents.u) and torch.equal(back.q, latents.q) and back.config == "tiny"
    save_latents(path, replace(latents, u=latents.u[..., :2, :2], q=latents.q[..., :2, :2]))  # views of larger ones
    assert load_latents(path).u.shape == (2, 2, 2, 2)
    refused(OutputMediaError, lambda: save_latents(tmp_path / "face.safetensors" / "under", latents))


def test_files_that_are_none(tmp_path: Path):
    path = tmp_path / "face.safetensors"
    assert "no such file" in refused(InputMediaError, lambda: load_latents(path)).found
    path.write_bytes(b"not tensors")
    assert "11 bytes" in refused(InputMediaError, lambda: load_latents(path)).found
    good = drawn()
    save_latents(path, good)
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    assert "damaged" in refused(InputMediaError, lambda: load_latents(path)).found
    known = {"format": "pltrans latents", "version": "1", "config": "tiny"}
    for tensors, said, expected in (
        ({"u": good.u}, known, "is missing"),
        ({"u": good.u, "q": good.q}, {**known, "version": "2"}, "version 2"),
        ({"u": good.u, "q": good.q}, {**known, "format": "vspbfr style codes"}, "expected PLTrans latents"),
        ({"u": good.u, "q": good.q.double()}, known, "float64"),
        ({"conv.weight": good.u}, {}, "1 tensors (conv.weight)"),
    ):
        path.write_bytes(safetensors.torch.save(tensors, said))
        assert expected in refused(InputMediaError, lambda: load_latents(path)).found
    header = json.dumps({"__metadata__": known}).encode()
    path.write_bytes((1 << 40).to_bytes(8, "little") + header)
    refused(InputMediaError, lambda: load_latents(path))
