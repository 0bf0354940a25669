"""The nodes of masks and identity guides on a stand-in host, with tiny random networks loaded from files."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fake_host import FakeHost, execute
from marks import opens_pickles
from safetensors.torch import save_file

PROJECT = Path(__file__).resolve().parents[2]
SIZE = 64
"""Side of the crops of the tiny restorers."""
FACES = torch.rand(3, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(0))
PARTS = ("what", "found", "kept", "todo")
UNET = {"channels": 16, "mult": (1, 2), "blocks": 1, "attention": (2,), "head": 16, "groups": 4}
OPTIONS = {
    "clr_face": {
        "vq": {"channels": 8, "mult": (1, 2), "blocks": 1, "fold": 2, "groups": 4, "codes": 256},
        "unet": UNET,
        "condition": "both",
    },
    "diffuse_restore": {"unet": {**UNET, "fold": 4}, "condition": "both"},
    "lpip_diff": {"unet": {**UNET, "fold": 4}, "irn": "compact", "condition": "both", "predicts": "residual"},
}
"""Of the three methods, in test size."""
DEFAULTS = {
    "clr_face": {"steps": 2, "sampler": "dpm++"},
    "diffuse_restore": {"steps": 2},
    "lpip_diff": {"steps": 2, "patch": 32},
}


def shaken(net: Any) -> Any:
    """Return a network in which every part matters: what starts as zeros is random."""
    with torch.no_grad():
        for weight in net.parameters():
            if not weight.any():
                torch.nn.init.normal_(weight, std=0.1)
    return net


@pytest.fixture(scope="module", params=["new", "old"])
def setting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A host where these methods are tiny and a recogniser lies in models/insightface, with what it loaded."""
    base = tmp_path_factory.mktemp("host")
    with FakeHost(base, newer=request.param == "new") as host:
        pack = host.load(PROJECT)
        registry = pack.module("bfr_core.registry")
        for name, options in OPTIONS.items():
            config = registry.Config("tiny", "tiny", SIZE, options, embedded=("none",), defaults=DEFAULTS[name])
            registry.methods()[name] = replace(registry.get_method(name), configs=(config,))
        # The identity recovery network has configs of one size only, which would take most of the time.
        small = pack.module("bfr_core.networks.restore_unet").RestoreUNet
        irn = SimpleNamespace(config=lambda name: name, build=lambda name: small(widths=(8, 16), blocks=(1, 1)))
        for name in OPTIONS:
            pack.module(f"bfr_core.methods.{name}.model").IRN = irn
        extension = asyncio.run(pack.root.comfy_entrypoint())
        nodes = {node.define_schema().node_id: node for node in asyncio.run(extension.get_node_list())}
        for folder in ("facerestore_models", "insightface", "facedetection"):
            (host.models / folder).mkdir()
        torch.manual_seed(0)
        restorers = {}
        for name in OPTIONS:
            method = registry.get_method(name)
            net = shaken(method.build(method.configs[0]))
            save_file(net.state_dict(), host.models / "facerestore_models" / f"{name}_all.safetensors")
            (restorers[name],) = execute(
                nodes["BFR_LoadRestorer"], method=f"{name}/tiny", weights=f"{name}_all.safetensors"
            )
        recogniser = pack.module("bfr_core.networks.mobilefacenet").MobileFaceNet()
        save_file(recogniser.state_dict(), host.models / "insightface" / "mine.safetensors")
        (host.models / "insightface" / "buffalo.onnx").write_bytes(b"")
        yield SimpleNamespace(host=host, pack=pack, nodes=nodes, **restorers)


@pytest.fixture
def host(setting: SimpleNamespace) -> Iterator[FakeHost]:
    setting.host.progress.clear()
    yield setting.host
    setting.host.cancel_after = None


@pytest.fixture
def crops(setting: SimpleNamespace) -> Any:
    """Crops of two faces, the second turned."""
    types, align = setting.pack.module("bfr_core.types"), setting.pack.module("bfr_core.faces.align")
    points = align.FFHQ_TEMPLATE / 4
    turned = points + np.array([[0, 0], [0, 0], [6, 0], [0, 0], [0, 0]])
    frame = torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(4))
    faces = [types.Face((20.0, 20.0, 100.0, 110.0), five, 1.0) for five in (points, turned)]
    made = tuple(align.align_faces(frame, faces, 128))
    return setting.pack.module("nodes.types").Crops(made, 1, (128, 128))


def run(setting: SimpleNamespace, node: str, **inputs: Any) -> Any:
    return execute(setting.nodes[f"BFR_{node}"], **inputs)[0]


def guide(setting: SimpleNamespace, restorer: Any, **inputs: Any) -> Any:
    return run(setting, "IdentityGuide", restorer=restorer, recogniser="mine.safetensors", **inputs)


def refused(setting: SimpleNamespace, kind: str, node: str, **inputs: Any) -> Any:
    with pytest.raises(getattr(setting.pack.module("bfr_core.errors"), kind)) as caught:
        run(setting, node, **inputs)
    assert all(getattr(caught.value, part).strip() for part in PARTS)
    return caught.value


def choices(setting: SimpleNamespace, node: str, name: str) -> list[str]:
    return next(item for item in setting.nodes[f"BFR_{node}"].define_schema().inputs if item.id == name).options


def restored(setting: SimpleNamespace, name: str, **inputs: Any) -> torch.Tensor:
    return run(setting, f"Restore_{name}", **{"faces": FACES, "seed": 3, "restorer": getattr(setting, name), **inputs})


# --- schemas -----------------------------------------------------------------------------------------------------


def test_no_node_has_two_inputs_of_one_name(setting: SimpleNamespace) -> None:
    for name, node in setting.nodes.items():
        names = [item.id for item in node.define_schema().inputs]
        assert len(names) == len(set(names)), f"{name}: {names}"


def test_methods_that_take_a_mask_have_a_socket_for_it(setting: SimpleNamespace) -> None:
    for name in ("clr_face", "diffuse_restore"):
        sockets = {item.id: item for item in setting.nodes[f"BFR_Restore_{name}"].define_schema().inputs}
        assert (sockets["mask"].io_type, sockets["mask"].optional) == ("MASK", True)


def test_widgets_start_from_the_defaults_of_the_config_that_is_used(setting: SimpleNamespace) -> None:
    for name, expected in DEFAULTS.items():
        shown = {item.id: item for item in setting.nodes[f"BFR_Restore_{name}"].define_schema().inputs}
        assert {setting: shown[setting].default for setting in expected} == expected


# --- masks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clr_face", "diffuse_restore"])
def test_a_learned_mask_is_shown_and_changes_what_is_restored(setting: SimpleNamespace, name: str) -> None:
    restorer = getattr(setting, name)
    mask = run(setting, "GuidanceMask", faces=FACES, seed=3, restorer=restorer)
    assert mask.shape == (3, SIZE, SIZE) and mask.dtype == torch.float32
    assert bool(((mask >= 0) & (mask <= 1)).all())
    one = run(setting, "GuidanceMask", faces=FACES[1:2], seed=3, restorer=restorer)
    assert one.shape == (1, SIZE, SIZE)
    guided = guide(setting, restorer, strength=10.0)
    free, nowhere, here = (
        restored(setting, name, restorer=guided, mask=torch.full((1, 8, 8), value)) for value in (1.0, 0.0, 0.5)
    )
    assert (free - nowhere).abs().amax((1, 2, 3)).min() > 1e-4, "every face is steered"
    assert (here - nowhere).abs().amax() > 1e-5
    unguided = restored(setting, name, guidance=False)
    assert torch.allclose(nowhere, unguided, atol=1e-5), "where the mask is 0 nothing is steered"


def test_masks_one_for_all_or_one_each(setting: SimpleNamespace) -> None:
    guided = guide(setting, setting.diffuse_restore, strength=10.0)
    masks = torch.zeros(3, 16, 16)
    masks[1] = 1
    each = restored(setting, "diffuse_restore", restorer=guided, mask=masks)
    none, full = (
        restored(setting, "diffuse_restore", restorer=guided, mask=torch.full((16, 16), value)) for value in (0.0, 1.0)
    )
    assert torch.allclose(each[0], none[0], atol=1e-5) and torch.allclose(each[2], none[2], atol=1e-5)
    assert torch.allclose(each[1], full[1], atol=1e-5)
    error = refused(
        setting, "InputMediaError", "Restore_diffuse_restore", faces=FACES, mask=torch.ones(2, 8, 8), restorer=guided
    )
    assert "2 masks for 3 faces" in error.found
    for wrong in (torch.full((1, 8, 8), 2.0), torch.full((1, 8, 8), float("nan")), torch.ones(1, 1, 8, 8)):
        refused(setting, "InputMediaError", "Restore_diffuse_restore", faces=FACES, mask=wrong, restorer=guided)


def test_a_method_without_a_guidance_mask_is_refused(setting: SimpleNamespace) -> None:
    error = refused(setting, "SettingsError", "GuidanceMask", faces=FACES, restorer=setting.lpip_diff)
    assert "LPIP-Diff" in error.what and "CLR-Face" in error.found


def test_left_open_the_mask_is_diffuse_and_restores(setting: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        setting.pack.module("nodes.guidance"),
        "get_restorer",
        lambda choice: asked.append(choice) or setting.diffuse_restore,
    )
    mask = run(setting, "GuidanceMask", faces=FACES, seed=3)
    assert asked == ["diffuse_restore/tiny"]
    assert torch.equal(mask, run(setting, "GuidanceMask", faces=FACES, seed=3, restorer=setting.diffuse_restore))


def test_parts_of_each_face(setting: SimpleNamespace, crops: Any) -> None:
    off = dict.fromkeys(("eyes", "brows", "mouth", "nose", "skin", "background"), False)
    parts = {name: run(setting, "FacePartMask", crops=crops, **{**off, name: True}) for name in off}
    assert all(mask.shape == (2, 128, 128) for mask in parts.values())
    assert torch.allclose(torch.stack(list(parts.values())).sum(0), torch.ones(2, 128, 128), atol=1e-5)
    regions = setting.pack.module("bfr_core.faces.regions")
    expected = regions.part_masks(regions.crop_points(crops.crops[1]), 128)["mouth"]
    assert torch.equal(parts["mouth"][1], expected)
    assert not torch.equal(parts["nose"][0], parts["nose"][1])
    usual = run(setting, "FacePartMask", crops=crops)
    assert torch.allclose(usual, 1 - parts["skin"] - parts["background"], atol=1e-5)
    wide = run(setting, "FacePartMask", crops=crops, grow=0.05)
    assert wide.sum() > 1.2 * usual.sum()
    error = refused(setting, "SettingsError", "FacePartMask", crops=crops, **off)
    assert "at least one" in error.todo


def test_parts_where_there_is_no_face(setting: SimpleNamespace) -> None:
    none = setting.pack.module("nodes.types").Crops((), 1, (128, 128))
    mask = run(setting, "FacePartMask", crops=none)
    assert mask.shape[0] == 1 and not mask.any()


@opens_pickles
def test_parts_by_a_landmark_network(setting: SimpleNamespace, crops: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choices(setting, "FacePartMask", "landmarks") == ["five points"]
    path = setting.host.models / "facedetection" / "fan.pth"
    torch.save(dict.fromkeys(("conv1.conv.weight", "m3.coordconv.conv.weight", "l3.bias"), torch.zeros(1)), path)
    (path.parent / "yunet.onnx").write_bytes(b"")
    try:
        assert choices(setting, "FacePartMask", "landmarks") == ["five points", "fan.pth"]
        refused(setting, "WeightsError", "FacePartMask", crops=crops, landmarks="fan.pth")
        points = torch.rand(98, 2, generator=torch.Generator().manual_seed(2)).double() * 128
        seen: list[torch.Size] = []
        network = lambda faces: seen.append(faces.shape) or points[None]  # noqa: E731
        fan = setting.pack.module("bfr_core.backends.landmarkers.fan")
        loads: list[Path] = []
        told = lambda checkpoint: loads.append(checkpoint.path) or network  # noqa: E731
        monkeypatch.setattr(fan, "SPEC", replace(fan.SPEC, load=told, detect=None))
        stamps = []
        for stamp in (1000, 1000, 2000):
            os.utime(path, (stamp, stamp))
            stamps.append(setting.nodes["BFR_FacePartMask"].fingerprint_inputs(landmarks="fan.pth"))
            mask = run(setting, "FacePartMask", crops=crops, landmarks="fan.pth")
        assert stamps == [1000, 1000, 2000] and len(loads) == 2
        assert seen[0] == (1, 3, 128, 128)
        regions = setting.pack.module("bfr_core.faces.regions")
        expected = regions.select_parts(regions.part_masks(points, 128), regions.PARTS[:4])
        assert torch.equal(mask[0], expected)
    finally:
        path.unlink()
        (path.parent / "yunet.onnx").unlink()


def test_masks_are_combined_and_shown(setting: SimpleNamespace, crops: Any) -> None:
    parts = run(setting, "FacePartMask", crops=crops)
    brush = torch.zeros(1, 64, 64)
    brush[:, :32] = 1
    both = run(setting, "CombineGuidanceMasks", a=parts, b=brush, operation="intersection")
    assert both.shape == (2, 128, 128) and not both[:, 66:].any() and torch.equal(both[:, :60], parts[:, :60])
    rest = run(setting, "CombineGuidanceMasks", a=parts, invert=True)
    assert torch.allclose(rest, 1 - parts)
    images = torch.rand(2, 128, 128, 4, generator=torch.Generator().manual_seed(6))
    shown = run(setting, "PreviewGuidanceMask", image=images, mask=both)
    assert shown.shape == (2, 128, 128, 3)
    inside, outside = both[0] > 0.99, both[0] < 0.01
    change = shown[0] - images[0, ..., :3]
    assert change[inside][:, 0].mean() > change[inside][:, 2].mean() + 0.1, "orange"
    assert change[outside].mean() < -0.1, "dark"
    error = refused(setting, "InputMediaError", "CombineGuidanceMasks", a=parts, b=torch.rand(3, 8, 8))
    assert "2 and 3" in error.found
    refused(setting, "InputMediaError", "PreviewGuidanceMask", image=images, mask=torch.rand(3, 8, 8))
    refused(setting, "InputMediaError", "PreviewGuidanceMask", image=images, mask=torch.rand(2, 8, 8) * 3)


# --- identity ----------------------------------------------------------------------------------------------------


def test_recognisers_are_the_embedded_one_and_those_torch_can_open(setting: SimpleNamespace) -> None:
    assert choices(setting, "IdentityGuide", "recogniser") == ["embedded", "mine.safetensors"]
    import folder_paths  # type: ignore[import-not-found]

    assert ".onnx" in folder_paths.folder_names_and_paths["insightface"][1], "what other packs list there stays"


@pytest.mark.parametrize("name", ["clr_face", "diffuse_restore"])
def test_a_guide_steers_and_the_restorer_it_came_from_stays(setting: SimpleNamespace, name: str) -> None:
    restorer = getattr(setting, name)
    everywhere = torch.ones(1, 8, 8)
    guided = guide(setting, restorer, strength=10.0)
    assert guided is not restorer and guided.restorer.net is restorer.restorer.net
    assert restorer.restorer.guide is None
    off = restored(setting, name, restorer=guide(setting, restorer, strength=0.0), mask=everywhere)
    on = restored(setting, name, restorer=guided, mask=everywhere)
    assert torch.allclose(off, restored(setting, name, guidance=False), atol=1e-5)
    assert (on - off).abs().amax((1, 2, 3)).min() > 1e-4


def test_a_reference_photo_is_whom_it_steers_to(setting: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    types, align = setting.pack.module("bfr_core.types"), setting.pack.module("bfr_core.faces.align")
    face = types.Face((10.0, 10.0, 110.0, 120.0), align.FFHQ_TEMPLATE / 4, 1.0)
    found: list[list[Any]] = [[face]]
    detector = SimpleNamespace(name="tiny", detect=lambda frames, *, threshold=None: found)
    photo = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(8))
    guided = guide(setting, setting.diffuse_restore, reference=photo, detector=detector)
    bound = guided.restorer.guide
    identity = setting.pack.module("bfr_core.faces.identity")
    crop = align.align_face(photo[0].movedim(-1, 0), face)
    expected = identity.embed(setting.pack.module("nodes.models").get_recogniser("mine.safetensors"), crop.image[None])
    assert torch.allclose(bound.reference, expected[0], atol=1e-5)
    assert "mine.safetensors" in bound.title
    alone = guide(setting, setting.diffuse_restore)
    assert alone.restorer.guide.reference is None
    everywhere = torch.ones(1, 8, 8)
    to_photo, to_self = (restored(setting, "diffuse_restore", restorer=one, mask=everywhere) for one in (guided, alone))
    assert (to_photo - to_self).abs().max() > 1e-4
    monkeypatch.setattr(setting.pack.module("nodes.guidance"), "get_detector", lambda *_: detector)
    assert torch.equal(guide(setting, setting.clr_face, reference=photo).restorer.guide.reference, bound.reference)
    found[0] = []
    error = refused(
        setting, "InputMediaError", "IdentityGuide", restorer=setting.clr_face, recogniser="mine.safetensors",
        reference=photo, detector=detector,
    )  # fmt: skip
    assert "photo 1 of 1" in error.found


def test_the_embedded_recogniser_is_the_default(setting: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = setting.pack.module("nodes.models").get_recogniser("mine.safetensors")
    embedded = setting.pack.module("bfr_core.backends.recognizers.embedded")
    monkeypatch.setattr(embedded, "SPEC", replace(embedded.SPEC, load=lambda checkpoint: mine))
    monkeypatch.setattr(setting.pack.module("bfr_core.models.loader"), "_kept", {})
    made = run(setting, "IdentityGuide", restorer=setting.clr_face)
    assert made.restorer.guide.recogniser is mine and made.restorer.guide.strength == 1.0


def test_what_cannot_be_guided_says_so(setting: SimpleNamespace) -> None:
    (irn,) = execute(setting.nodes["BFR_LoadRestorer"], method="irn/compact")
    for restorer in (irn, setting.lpip_diff):
        error = refused(setting, "SettingsError", "IdentityGuide", restorer=restorer, recogniser="mine.safetensors")
        assert "CLR-Face" in error.todo
    error = refused(setting, "WeightsError", "IdentityGuide", restorer=setting.clr_face, recogniser="gone.pth")
    assert "gone.pth" in error.what
    refused(
        setting,
        "SettingsError",
        "IdentityGuide",
        restorer=setting.clr_face,
        recogniser="mine.safetensors",
        strength=99.0,
    )


def test_a_replaced_recogniser_is_noticed(setting: SimpleNamespace) -> None:
    node, path = setting.nodes["BFR_IdentityGuide"], setting.host.models / "insightface" / "mine.safetensors"
    first = node.fingerprint_inputs(recogniser="mine.safetensors")
    assert first == node.fingerprint_inputs(recogniser="mine.safetensors")
    before = setting.pack.module("nodes.models").get_recogniser("mine.safetensors")
    os.utime(path, (1000, 1000))
    assert node.fingerprint_inputs(recogniser="mine.safetensors") != first
    assert setting.pack.module("nodes.models").get_recogniser("mine.safetensors") is not before
    assert node.fingerprint_inputs() == node.fingerprint_inputs(recogniser=None) == 0.0


def test_weights_the_host_moved_in_inference_mode_still_guide(setting: SimpleNamespace) -> None:
    """A host moves networks in inference mode, whose tensors take no part in gradients."""
    net = setting.clr_face.restorer.net
    with torch.inference_mode():
        for weight in net.vq.parameters():
            weight.data = weight.data.clone()
    moved = restored(setting, "clr_face", restorer=guide(setting, setting.clr_face), mask=torch.ones(1, 8, 8))
    assert moved.isfinite().all()
    assert not any(weight.is_inference() for weight in net.parameters())


def test_the_bar_moves_within_a_batch(setting: SimpleNamespace, host: FakeHost) -> None:
    restored(setting, "diffuse_restore")
    values = [value for value, _ in host.progress]
    assert values == sorted(values) and {total for _, total in host.progress} == {3}
    assert values[-1] == 3 and any(0 < value < 2 for value in values)


@pytest.mark.parametrize("checks", [1, 2])
def test_cancel_between_steps_comes_through_untouched(setting: SimpleNamespace, host: FakeHost, checks: int) -> None:
    host.cancel_after = checks
    with pytest.raises(host.interrupted) as caught:
        restored(setting, "clr_face")
    assert caught.type is host.interrupted


# --- whole pictures ----------------------------------------------------------------------------------------------


def test_whole_pictures_of_any_size(setting: SimpleNamespace, host: FakeHost) -> None:
    images = torch.rand(2, 75, 101, 4, generator=torch.Generator().manual_seed(9))
    node = setting.nodes["BFR_RestoreImage_lpip_diff"]
    out, report = execute(node, image=images, seed=3, restorer=setting.lpip_diff)
    told = json.loads(report)
    assert [(entry["method"], entry["detector"], entry["colours"]) for entry in told] == [
        ("lpip_diff", "whole", "input")
    ] * 2
    assert out.shape == images.shape and torch.equal(out[..., 3], images[..., 3])
    assert out.isfinite().all() and bool(((out >= 0) & (out <= 1)).all())
    assert not torch.allclose(out[..., :3], images[..., :3], atol=1e-2)
    again, _ = execute(node, image=images[:1], seed=3, restorer=setting.lpip_diff)
    assert torch.allclose(again[0], out[0], atol=1e-5), "an image does not depend on its batch"
    assert host.progress[-1] == (1, 1)
    error = refused(setting, "SettingsError", "RestoreImage_lpip_diff", image=images, seed=3, restorer=setting.clr_face)
    assert "LPIP-Diff" in error.found


def test_cancel_of_whole_pictures(setting: SimpleNamespace, host: FakeHost) -> None:
    host.cancel_after = 1
    with pytest.raises(host.interrupted):
        run(setting, "RestoreImage_lpip_diff", image=torch.rand(1, 64, 64, 3), restorer=setting.lpip_diff)
