"""Steering to an identity: the gradient by independent evaluations, where it acts, and everything around it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import opens_pickles
from PIL import Image
from skimage.data import astronaut
from torch import Tensor, nn
from torch.nn import functional as F

import bfr_core.restorer as restorer_module
from bfr_core.cli import main
from bfr_core.cli import restore as cli_restore
from bfr_core.diffusion.guidance import (
    IdentityGuide,
    choose_mask,
    guide_or_embedded,
    identity_gradient,
    normalised,
    steering,
    targets,
)
from bfr_core.errors import InputMediaError, SettingsError
from bfr_core.faces import identity
from bfr_core.faces.identity import embed, load_recognizer
from bfr_core.media.pictures import read_picture, to_float
from bfr_core.registry import MASK, Config, Input, Method, get_method
from bfr_core.restoration.options import RestoreOptions
from bfr_core.restoration.photo import restore_photo, restore_whole
from bfr_core.restorer import Restorer
from bfr_core.runtime import Runtime
from bfr_core.settings import param


class Small(nn.Module):
    """A recogniser of a few smooth layers, in float64."""

    size = 12

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = nn.Parameter(torch.randn(4, 3, 3, 3, generator=generator, dtype=torch.float64))
        self.last = nn.Parameter(torch.randn(5, 4 * 144, generator=generator, dtype=torch.float64))
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(torch.tanh(F.conv2d(x, self.first, padding=1)).flatten(1) @ self.last.T, dim=1)


class Linear(nn.Module):
    """e = W x / |W x| of the picture as it is: a recogniser whose gradient is known in closed form."""

    size = 4

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(6, 48, generator=torch.Generator().manual_seed(5), dtype=torch.float64))
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x.flatten(1) @ self.w.T, dim=1)


def small_guide(**fields) -> IdentityGuide:
    return IdentityGuide(Small(), "small recogniser", **fields)  # type: ignore[arg-type]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(rows: int, seed: int = 9) -> Tensor:
    return F.normalize(random(rows, 5, seed=seed) - 0.5, dim=1)


@pytest.fixture(scope="module")
def mobile(shared) -> identity.RecognizerNet:
    return load_recognizer(shared / "weights" / "mobilefacenet.pt")


@pytest.fixture(scope="module")
def people(shared) -> Tensor:
    """Three aligned faces of three people, (3, 3, 256, 256)."""
    files = sorted((shared / "faces" / "free256").rglob("*.*"))
    return torch.stack([to_float(read_picture(path)) for path in files[:: len(files) // 3][:3]])


# The gradient ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("through", [None, lambda z: torch.sigmoid(F.interpolate(z, (40, 40), mode="bilinear"))])
def test_the_gradient_is_what_finite_differences_say(through):
    guide, target = small_guide(), unit(2)
    x = random(2, 3, 40, 40) if through is None else random(2, 3, 10, 10) - 0.5

    def loss(x: Tensor) -> Tensor:
        faces = x if through is None else through(x)
        return 1 - (embed(guide.recogniser, faces) * target).sum(1)

    gradient = identity_gradient(guide, x, target, picture=through)
    assert gradient.dtype == torch.float64 and gradient.shape == x.shape and not gradient.requires_grad
    for seed in range(4):
        direction = random(*x.shape, seed=50 + seed) - 0.5
        numeric = (loss(x + 1e-5 * direction) - loss(x - 1e-5 * direction)) / 2e-5
        np.testing.assert_allclose((gradient * direction).flatten(1).sum(1), numeric, rtol=1e-6, atol=1e-10)


def test_the_gradient_is_the_closed_form_of_a_linear_recogniser(monkeypatch):
    monkeypatch.setattr("bfr_core.diffusion.guidance.embed", lambda recogniser, faces: recogniser(faces))
    recogniser = Linear()
    x, target = random(3, 3, 4, 4), F.normalize(random(3, 6, seed=1) - 0.5, dim=1)
    found = identity_gradient(IdentityGuide(recogniser, "linear"), x, target)  # type: ignore[arg-type]
    w = recogniser.w.numpy()
    for face, wanted, gradient in zip(x.flatten(1).numpy(), target.numpy(), found.flatten(1).numpy(), strict=True):
        made = w @ face
        length = np.linalg.norm(made)
        e = made / length
        # d(1 - e.t)/dx = -W^T (t - (e.t) e) / |W x|
        np.testing.assert_allclose(gradient, -w.T @ (wanted - (e @ wanted) * e) / length, rtol=1e-10, atol=1e-14)


def test_each_face_has_its_own_gradient():
    guide, x, target = small_guide(), random(3, 3, 40, 40), unit(3)
    together = identity_gradient(guide, x, target)
    for row in range(3):
        alone = identity_gradient(guide, x[row : row + 1], target[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-12, atol=1e-15)


def test_it_works_where_gradients_are_off_and_tensors_are_the_hosts():
    x, target = random(1, 3, 40, 40).float(), unit(1).float()
    wanted = identity_gradient(IdentityGuide(Small().float(), "small"), x, target)  # type: ignore[arg-type]
    with torch.inference_mode():
        guide = IdentityGuide(Small().float(), "small").to(torch.device("cpu"))  # type: ignore[arg-type]
        there, then = x.clone(), target.clone()
        assert there.is_inference()
        torch.testing.assert_close(identity_gradient(guide, there, then), wanted)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = identity_gradient(IdentityGuide(Small().float(), "small"), x.bfloat16(), target)  # type: ignore[arg-type]
    assert found.dtype == torch.float32


@settings(max_examples=30, deadline=None)
@given(scales=st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_normalised_gradients_have_unit_rms_in_each_face_and_keep_their_direction(scales, seed):
    gradient = (random(len(scales), 3, 6, 5, seed=seed) - 0.5) * torch.tensor(scales, dtype=torch.float64).view(
        -1, 1, 1, 1
    )
    found = normalised(gradient).numpy().reshape(len(scales), -1)
    np.testing.assert_allclose((found**2).mean(1), 1, rtol=1e-9)
    before = gradient.numpy().reshape(len(scales), -1)
    cosine = (found * before).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(before, axis=1)
    np.testing.assert_allclose(cosine, 1, rtol=1e-9)


def test_no_gradient_stays_none():
    gradient = torch.zeros(2, 3, 4, 4)
    gradient[1] = 1e-3
    found = normalised(gradient)
    assert not found[0].any() and torch.allclose(found[1], torch.ones(3, 4, 4))


def test_strength_scale_and_mask_multiply_and_masked_entries_stay():
    x, target, mask = random(2, 3, 40, 40), unit(2), torch.zeros(2, 1, 40, 40)
    mask[0, :, 10:20, 5:30], mask[1, :, :, :7] = 1, 0.25
    plain = normalised(identity_gradient(small_guide(), x, target))
    found = steering(small_guide(strength=3.0), x, target, scale=0.5, mask=mask)
    torch.testing.assert_close(found, plain * 1.5 * mask.double())
    assert not found[(mask == 0).expand_as(found)].any() and found[(mask > 0).expand_as(found)].any()
    raw = steering(small_guide(), x, target, scale=2.0, normalise=False)
    torch.testing.assert_close(raw, 2 * identity_gradient(small_guide(), x, target))
    assert not steering(small_guide(strength=0.0), x, target, scale=1.0).any()


@opens_pickles
def test_descending_brings_a_real_face_nearer_to_its_person_and_to_another(mobile, people):
    target = embed(mobile, people)
    low = F.interpolate(F.avg_pool2d(people, 12), (256, 256), mode="bilinear")
    mask = torch.zeros(1, 1, 256, 256)
    mask[..., 60:220, 60:200] = 1
    for whom in (target, target.roll(1, 0)):
        guide = IdentityGuide(mobile, "MobileFaceNet")
        x, cosines = low.clone(), []
        for _ in range(4):
            x = x - steering(guide, x, whom, scale=0.02, mask=mask)
            cosines.append((embed(mobile, x) * whom).sum(1))
        before = (embed(mobile, low) * whom).sum(1)
        assert bool((cosines[0] > before).all()) and bool((cosines[-1] > before + 0.15).all()), (before, cosines)
        assert torch.equal(x[..., :60, :], low[..., :60, :])


# Whom to steer to ------------------------------------------------------------------------------------------------


@opens_pickles
def test_targets_are_the_faces_own_or_the_reference(mobile, people):
    guide = IdentityGuide(mobile, "MobileFaceNet")
    torch.testing.assert_close(targets(guide, people), embed(mobile, people))
    reference = embed(mobile, people[:1])[0]
    found = targets(IdentityGuide(mobile, "MobileFaceNet", reference=5 * reference), people)
    torch.testing.assert_close(found, reference.expand(3, -1))
    with torch.autocast("cpu", torch.bfloat16):
        half = targets(guide, people)
    torch.testing.assert_close(half, embed(mobile, people))


def test_a_reference_of_another_recogniser_is_refused():
    with pytest.raises(SettingsError, match="7 numbers, expected 5") as caught:
        guide = IdentityGuide(Small().float(), "small", reference=torch.ones(7))  # type: ignore[arg-type]
        targets(guide, torch.rand(1, 3, 40, 40))
    assert caught.value.kept and caught.value.todo


@pytest.mark.parametrize(
    "fields",
    [
        {"strength": -1.0},
        {"strength": float("nan")},
        {"strength": 11.0},
        {"reference": torch.ones(1, 5)},
        {"reference": torch.tensor([1.0, float("inf")])},
    ],
    ids=str,
)
def test_unfit_guides_are_refused(fields):
    with pytest.raises(SettingsError, match="Cannot guide") as caught:
        small_guide(**fields)
    assert caught.value.found and caught.value.kept and caught.value.todo


def test_without_a_guide_the_embedded_recogniser_guides(monkeypatch):
    monkeypatch.setattr(identity, "embedded_recognizer", lambda device: ("embedded on", device))
    device = torch.device("cpu")
    assert guide_or_embedded(None, device).recogniser == ("embedded on", device)
    given = small_guide()
    assert guide_or_embedded(given, device) is given


# Masks -----------------------------------------------------------------------------------------------------------


def test_a_given_mask_takes_the_place_of_the_choice_and_is_resized():
    like, drawn = torch.zeros(2, 3, 48, 32), torch.rand(2, 1, 12, 8, generator=torch.Generator().manual_seed(3))
    makers = {"learned": lambda: torch.full((2, 3, 48, 32), 0.5)}
    assert torch.equal(choose_mask("none", like, makers=makers), torch.ones(2, 1, 48, 32))
    assert torch.equal(choose_mask("learned", like, makers=makers), torch.full((2, 3, 48, 32), 0.5))
    found = choose_mask("learned", like, given=drawn, makers=makers).numpy()
    for row in range(2):
        wanted = cv2.resize(drawn[row, 0].numpy(), (32, 48), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(found[row, 0], wanted, atol=1e-6)
    shrunk = choose_mask("none", torch.zeros(1, 3, 4, 4), given=torch.ones(1, 1, 64, 64).tril(), makers=makers)
    # Along the diagonal a smooth edge, not a jagged one; outside it nothing and everything.
    np.testing.assert_allclose(shrunk[0, 0].diagonal(), 0.5, atol=0.05)
    assert shrunk[0, 0, 0, 3] == 0 and shrunk[0, 0, 3, 0] == 1
    with pytest.raises(InputMediaError, match="one for each face"):
        choose_mask("none", like, given=torch.ones(3, 1, 4, 4), makers=makers)


# A method that guides ---------------------------------------------------------------------------------------------


def painter(net, faces, settings, seeds, inputs, context):
    """Show where the mask is, and steer a little where a guide is given."""
    context.report(0, 1)
    if settings.guidance and context.guide:
        whom = targets(context.guide, faces)
        faces = faces - steering(context.guide, faces, whom, scale=settings.scale)
    mask = inputs.get("mask", torch.zeros(len(faces), 1, 64, 64))
    return faces * (1 - mask) + mask


@dataclass(frozen=True, slots=True)
class GuiderSettings:
    guidance: bool = param(False, "Steer")
    scale: float = param(0.02, "How far", low=0.0, high=1.0, step=0.01)


GUIDER = Method(
    "guider", "Guider", "Guides.", (), (Config("tiny", "Tiny", 64),), lambda config: nn.Identity(), painter,
    lambda keys: None,
    settings_type=GuiderSettings,
    inputs=(Input("mask", MASK, "Where"),),
    guides=True,
    picture=lambda restorer, picture, *, seed, settings, runtime: 1 - picture,
)  # fmt: skip


def guider() -> Restorer:
    return Restorer(GUIDER, GUIDER.configs[0], nn.Identity(), "none")


def test_a_guide_is_bound_to_a_copy_that_shares_everything():
    plain, guide = guider(), small_guide()
    bound = plain.guided(guide)
    assert plain.guide is None and bound.guide is guide and bound.net is plain.net and bound.source == plain.source
    assert bound.guided(None).guide is None


def test_a_method_that_does_not_guide_refuses_a_guide():
    for name in ("irn", "vspbfr"):
        method = get_method(name)
        with pytest.raises(SettingsError, match=f"{method.title} cannot be guided") as caught:
            Restorer(method, method.configs[0], nn.Identity(), "none").guided(small_guide())
        assert "small recogniser" in caught.value.found and caught.value.kept and caught.value.todo


@opens_pickles
def test_a_guide_switches_guidance_on_unless_it_is_switched_off(mobile):
    face = F.interpolate(random(1, 3, 16, 16).float(), (64, 64), mode="bilinear")
    plain = guider()
    bound = plain.guided(IdentityGuide(mobile, "MobileFaceNet", reference=torch.ones(128)))

    def made(restorer, **chosen):
        runtime = Runtime()
        return restorer.restore(face, seeds=[0], settings=chosen, runtime=runtime), runtime.notes

    assert torch.equal(made(plain)[0], face)
    assert not torch.equal(made(bound)[0], face) and made(bound)[1] == []
    off, notes = made(bound, guidance=False)
    assert torch.equal(off, face) and "left aside" in notes[0] and "MobileFaceNet" in notes[0]


@opens_pickles
def test_a_host_in_inference_mode_may_guide(mobile):
    """ComfyUI runs nodes so, with tensors that take no part in gradients by themselves."""
    with torch.inference_mode():
        face = torch.rand(1, 3, 64, 64)
        bound = guider().guided(IdentityGuide(mobile, "MobileFaceNet", reference=torch.ones(128)))
        made = bound.restore(face, seeds=[0], runtime=Runtime())
    assert not torch.equal(made, face) and not made.is_inference()


def test_steps_are_heard_and_may_cancel():
    class StopError(Exception):
        pass

    steps, asked = [], []

    def cancel():
        asked.append(1)
        if len(asked) > 2:
            raise StopError

    runtime = Runtime(batch=1, on_step=lambda index, total: steps.append((index, total)), check_cancel=cancel)
    with pytest.raises(StopError):
        guider().restore(torch.rand(5, 3, 64, 64), seeds=range(5), runtime=runtime)
    assert steps == [(0, 1)] and len(asked) == 3


@pytest.mark.parametrize(
    ("mask", "word"),
    [
        (torch.ones(2, 64, 64), "shape"),
        (torch.ones(2, 3, 64, 64), "shape"),
        (torch.ones(1, 1, 64, 64), "2 rows"),
        (torch.full((2, 1, 8, 8), 1.5), "from 1.5 to 1.5"),
        (torch.full((2, 1, 8, 8), float("nan")), "NaN"),
    ],
)
def test_unfit_masks_are_refused_before_anything_runs(mask, word):
    with pytest.raises(InputMediaError, match=word) as caught:
        guider().restore(torch.rand(2, 3, 64, 64), seeds=[0, 1], inputs={"mask": mask}, runtime=Runtime())
    assert caught.value.kept and caught.value.todo


def test_a_mask_of_the_picture_reaches_each_face_where_it_lies():
    from bfr_core.types import Face

    frame, mask = torch.zeros(3, 200, 300), torch.zeros(200, 300)
    mask[:, 150:] = 1
    boxes = [(40.0, 60.0, 110.0, 150.0), (115.0, 50.0, 185.0, 140.0), (200.0, 60.0, 270.0, 150.0)]
    from bfr_core.faces.align import points_from_box

    faces = [Face(box, points_from_box(box), 0.9) for box in boxes]
    image = restore_photo(frame, guider(), faces=faces, mask=mask).image[0]
    inner = torch.zeros(200, 300, dtype=torch.bool)
    for x0, y0, x1, y1 in boxes:
        inner[int(y0) + 15 : int(y1) - 15, int(x0) + 15 : int(x1) - 15] = True
    near = torch.zeros_like(inner)
    near[:, 145:155] = True  # where the edge of the mask is resampled
    assert bool((image[inner & ~near & (mask == 1)] > 0.99).all()) and not image[inner & ~near & (mask == 0)].any()
    for wrong in (torch.zeros(300, 200), torch.zeros(1, 200, 300)):
        with pytest.raises(InputMediaError, match="Cannot use this mask"):
            restore_photo(frame, guider(), faces=faces, mask=wrong)
    irn = Restorer(get_method("irn"), get_method("irn").configs[0], nn.Identity(), "none")
    with pytest.raises(SettingsError, match="takes no mask"):
        restore_photo(frame, irn, faces=faces, mask=mask)


def test_whole_pictures_go_to_methods_that_take_them():
    frame = torch.rand(1, 37, 91).expand(3, -1, -1).clone()  # gray: colours would be kept
    made = restore_whole(frame, guider(), options=RestoreOptions(strength=0.5))
    torch.testing.assert_close(made.image, torch.full_like(frame, 0.5))
    assert made.report.detector == "whole"
    irn = Restorer(get_method("irn"), get_method("irn").configs[0], nn.Identity(), "none")
    with pytest.raises(SettingsError, match="not whole pictures"):
        restore_whole(frame, irn)


# The command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A command line that knows the guiding method, and a gray photo: what inverts it meets no colours to keep."""
    known = {"guider": GUIDER, "irn": get_method("irn")}
    monkeypatch.setattr(cli_restore, "methods", lambda: known)
    load = restorer_module.load_restorer

    def loaded(method, config="", *, weights=None):
        return guider() if method == "guider" else load(method, config, weights=weights)

    monkeypatch.setattr(restorer_module, "load_restorer", loaded)
    (tmp_path / "in").mkdir()
    Image.fromarray(astronaut()[0:320, 60:400]).convert("L").save(tmp_path / "in" / "portrait.png")
    return tmp_path


def run(desk: Path, *arguments, method: str = "guider") -> int:
    fixed = ("restore", desk / "in", "-o", desk / "out", "--method", method, "--max-faces", 1, "--overwrite")
    return main([str(word) for word in (*fixed, *arguments)])


@opens_pickles
def test_the_command_steers_to_a_reference_photo(desk, shared):
    weights, photo = shared / "weights" / "mobilefacenet.pt", shared / "photos" / "clean" / "biden.jpg"
    report, results = desk / "r.json", {}
    for name, extra in {
        "plain": (),
        "own": ("--guide-strength", 2),
        "off": ("--recogniser", weights, "--no-guidance"),
        "other": ("--recogniser", weights, "--reference", photo),
    }.items():
        assert run(desk, "--report", report, *extra) == 0
        results[name] = read_picture(desk / "out" / "portrait.png").rgb.astype(int)
        said = json.loads(report.read_text())
        assert ("guide" in said) == (name != "plain")
        if name == "other":
            assert said["guide"] == {"recogniser": "recogniser mobilefacenet.pt", "strength": 1.0, "reference": True}
        notes = said["files"][0]["report"]["notes"]
        assert any("left aside" in note for note in notes) == (name == "off")
    assert np.array_equal(results["plain"], results["off"])
    assert (results["plain"] != results["other"]).any() and (results["own"] != results["other"]).any()


@opens_pickles
def test_references_without_or_with_several_faces_are_refused(desk, shared, capsys):
    weights = shared / "weights" / "mobilefacenet.pt"
    Image.fromarray(np.full((200, 200, 3), 90, np.uint8)).save(desk / "wall.png")
    for photo, words in (
        (desk / "wall.png", "no faces found"),
        (shared / "photos" / "groups" / "solvay1927.jpg", "faces found in it; expected exactly one"),
        (desk / "gone.png", "gone.png"),
    ):
        assert run(desk, "--recogniser", weights, "--reference", photo) == 1
        told = capsys.readouterr().err
        assert words in told and photo.name in told and not (desk / "out").exists()
    assert run(desk, "--recogniser", weights, "--reference", desk / "wall.png", method="irn") == 1
    assert "cannot be guided" in capsys.readouterr().err
    assert run(desk, "--recogniser", weights, "--guide-strength", 40) == 1
    assert "0 to 10" in capsys.readouterr().err


def test_the_command_lays_a_mask_over_each_picture(desk, capsys):
    mask = np.zeros((160, 170), np.uint8)  # half the picture's size
    mask[:, :85] = 255
    Image.fromarray(mask).save(desk / "mask.png")
    assert run(desk, "--mask", desk / "mask.png") == 0
    before, after = (read_picture(desk / name / "portrait.png").rgb for name in ("in", "out"))
    rows, columns = np.where((before != after).any(2))
    middle, reach = int(rows.mean()), int(np.ptp(rows) * 0.2)
    band = slice(middle - reach, middle + reach)
    assert columns.min() < 140 < 200 < columns.max()
    assert after[band, 150:165].mean() > 250 and (after[band, 180:200] < 250).all(2).mean() > 0.9
    Image.fromarray(mask[:100]).save(desk / "mask.png")
    assert run(desk, "--mask", desk / "mask.png") == 1
    assert "170 x 100 pixels, the picture 340 x 320" in capsys.readouterr().err
    assert run(desk, "--mask", desk / "mask.png", method="irn") == 1 and "takes no mask" in capsys.readouterr().err


@pytest.mark.parametrize("method", list(cli_restore.methods().values()), ids=lambda method: method.id)
def test_the_command_shows_every_setting_with_the_defaults_of_its_config(method, capsys):
    for config in method.configs:
        with pytest.raises(SystemExit) as end:
            main(["restore", "--method", method.id, "--config", config.name, "--help"])
        told = " ".join(capsys.readouterr().out.split())
        assert end.value.code == 0 and "--guide-strength" in told and f"with the defaults of {config.name}" in told
        for one in method.params_of(config):
            assert f"--{one.name.replace('_', '-')} " in told and f"({one.default})" in told


def test_the_command_restores_whole_pictures_where_a_method_can(desk, capsys):
    assert run(desk, "--whole") == 0
    before, after = (read_picture(desk / name / "portrait.png").rgb for name in ("in", "out"))
    assert np.abs(255 - before.astype(int) - after).max() <= 1
    assert run(desk, "--whole", method="irn") == 1 and "not whole pictures" in capsys.readouterr().err
