"""The nodes of VSPBFR's style prompts on a stand-in host, with a tiny random network loaded from a file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_host import FakeHost, execute
from safetensors.torch import save_file
from tiny_vspbfr import OPTIONS, tiny_restorer

PROJECT = Path(__file__).resolve().parents[2]
FACES = torch.rand(3, 64, 64, 3, generator=torch.Generator().manual_seed(0))
LAYERS, FEATURES, STEPS, BANK = 8, 8, 4, 32
"""Of the tiny network."""
PARTS = ("what", "found", "kept", "todo")


@pytest.fixture(scope="module", params=["new", "old"])
def setting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A host whose VSPBFR is tiny, and a restorer that Load Face Restorer made of a file."""
    base = tmp_path_factory.mktemp("host")
    with FakeHost(base, newer=request.param == "new") as host:
        pack = host.load(PROJECT)
        registry = pack.module("bfr_core.registry")
        configs = tuple(registry.Config(name, name, 64, OPTIONS, embedded=("none",)) for name in ("tiny", "twin"))
        registry.methods()["vspbfr"] = replace(registry.get_method("vspbfr"), configs=configs)
        extension = asyncio.run(pack.root.comfy_entrypoint())
        nodes = {node.define_schema().node_id: node for node in asyncio.run(extension.get_node_list())}
        folder = host.models / "facerestore_models"
        folder.mkdir()
        save_file(tiny_restorer().net.state_dict(), folder / "mine.safetensors")
        load = nodes["BFR_LoadRestorer"]
        (restorer,), (twin,) = (
            execute(load, method=f"vspbfr/{config}", weights="mine.safetensors") for config in ("tiny", "twin")
        )
        yield SimpleNamespace(host=host, pack=pack, nodes=nodes, restorer=restorer, twin=twin)


@pytest.fixture
def host(setting: SimpleNamespace) -> Iterator[FakeHost]:
    setting.host.progress.clear()
    yield setting.host
    setting.host.cancel_after = None


@pytest.fixture(scope="module")
def codes(setting: SimpleNamespace) -> Any:
    (made,) = execute(setting.nodes["BFR_StyleCodes"], faces=FACES, seed=3, restorer=setting.restorer)
    return made


def refused(setting: SimpleNamespace, kind: str, node: str, **inputs: Any) -> Any:
    with pytest.raises(getattr(setting.pack.module("bfr_core.errors"), kind)) as caught:
        execute(setting.nodes[node], **inputs)
    assert all(getattr(caught.value, part).strip() for part in PARTS)
    return caught.value


def file_choices(setting: SimpleNamespace) -> list[str]:
    return setting.nodes["BFR_LoadStyleCodes"].define_schema().inputs[0].options


def test_the_restoring_node_has_a_socket_for_codes(setting: SimpleNamespace) -> None:
    schema = setting.nodes["BFR_Restore_vspbfr"].define_schema()
    codes = next(item for item in schema.inputs if item.id == "codes")
    assert (codes.io_type, codes.optional) == ("BFR_STYLE_CODES", True)
    assert "codes" not in [item.id for item in setting.nodes["BFR_Restore_irn"].define_schema().inputs]


def test_every_declared_input_has_a_socket(setting: SimpleNamespace) -> None:
    input_kind = setting.pack.module("nodes.own").input_kind
    methods = setting.pack.module("bfr_core.registry").methods().values()
    sockets = {item.kind: input_kind(method, item.kind).socket for method in methods for item in method.inputs}
    assert sockets["mask"].io_type == "MASK" and sockets["style_codes"].io_type == "BFR_STYLE_CODES"


def test_unchanged_codes_restore_as_without(setting: SimpleNamespace, codes: Any) -> None:
    node, inputs = setting.nodes["BFR_Restore_vspbfr"], {"faces": FACES, "restorer": setting.restorer}
    alone, _ = execute(node, seed=3, **inputs)
    back, _ = execute(node, seed=3, codes=codes, **inputs)
    assert torch.equal(alone, back)
    assert alone.shape == FACES.shape and alone.std() > 0.05
    (other,) = execute(setting.nodes["BFR_StyleCodes"], faces=FACES, seed=4, restorer=setting.restorer)
    changed, _ = execute(node, seed=3, codes=other, **inputs)
    assert (changed - alone).abs().amax((1, 2, 3)).min() > 1e-3, "another seed of the codes is another face"
    settings = {"mixing": 0.0, "noise": False, "random_style": "mean"}
    plain, _ = execute(node, seed=3, codes=codes, **settings, **inputs)
    assert not torch.equal(plain, alone)
    assert torch.equal(plain, execute(node, seed=8, codes=codes, **settings, **inputs)[0]), "nothing else is drawn"


def test_left_open_the_first_config_with_weights_is_used(
    setting: SimpleNamespace, codes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    for name in ("nodes.style", "nodes.restore"):
        monkeypatch.setattr(
            setting.pack.module(name), "get_restorer", lambda choice: asked.append(choice) or setting.restorer
        )
    (made,) = execute(setting.nodes["BFR_StyleCodes"], faces=FACES, seed=3)
    assert torch.equal(made.steps, codes.steps)
    execute(setting.nodes["BFR_StylePreview"], codes=codes)
    execute(setting.nodes["BFR_Restore_vspbfr"], faces=FACES, codes=codes)
    assert asked == ["vspbfr/tiny"] * 3


def test_preview_shows_each_face_from_noise_to_the_last_step(
    setting: SimpleNamespace, codes: Any, host: FakeHost
) -> None:
    node = setting.nodes["BFR_StylePreview"]
    show = next(item for item in node.define_schema().inputs if item.id == "show")
    assert show.options == ["steps", "final", "initial"]
    every, final, initial = (
        execute(node, codes=codes, show=name, restorer=setting.restorer)[0] for name in show.options
    )
    assert every.shape == (3 * (STEPS + 1), BANK, BANK, 3) and final.shape == initial.shape == (3, BANK, BANK, 3)
    assert torch.allclose(every[STEPS :: STEPS + 1], final, atol=1e-4)
    assert (initial - final).abs().amax((1, 2, 3)).min() > 0.01
    assert host.progress[-1] == (3, 3)
    net = setting.restorer.restorer.net
    with torch.no_grad():
        expected = ((net.decoder(codes.steps[1, 2][None]) + 1) / 2).clamp(0, 1).movedim(1, -1)
    assert torch.allclose(every[STEPS + 1 + 2], expected[0], atol=1e-4), "second face, third step"


def test_mixing(setting: SimpleNamespace, codes: Any) -> None:
    node, one = setting.nodes["BFR_MixStyleCodes"], setting.pack.module("bfr_core.methods.vspbfr.codes").StyleCodes
    single = one(codes.initial[:1], codes.steps[:1], "tiny")
    assert torch.equal(execute(node, a=codes, b=single, amount=0.0)[0].steps, codes.steps)
    (all_of_b,) = execute(node, a=codes, b=single, amount=1.0)
    assert torch.equal(all_of_b.denoised, codes.denoised[:1].expand(3, LAYERS, FEATURES))
    (half,) = execute(node, a=codes, b=single, amount=0.5, first_layer=3, last_layer=4)
    changed = (half.denoised[1:] - codes.denoised[1:]).abs().amax((0, 2)) > 0
    assert changed.tolist() == [index in (2, 3) for index in range(LAYERS)]
    restored, _ = execute(setting.nodes["BFR_Restore_vspbfr"], faces=FACES, codes=half, restorer=setting.restorer)
    assert restored.isfinite().all()
    first, last = (item for item in node.define_schema().inputs if item.io_type == "INT")
    assert (first.min, last.min, first.max, last.max) == (1, 0, 18, 18)
    error = refused(setting, "SettingsError", "BFR_MixStyleCodes", a=codes, b=codes, last_layer=LAYERS + 1)
    assert f"1 to {LAYERS}" in error.todo


def test_saved_codes_are_listed_and_loaded(setting: SimpleNamespace, codes: Any) -> None:
    before = file_choices(setting)
    assert before[0] == "none"
    assert setting.nodes["BFR_SaveStyleCodes"].define_schema().is_output_node
    execute(setting.nodes["BFR_SaveStyleCodes"], codes=codes)
    result = setting.nodes["BFR_SaveStyleCodes"].execute(codes=codes, filename_prefix="style_codes/face")
    (entry,) = result.ui["style_codes"]
    assert entry == {"filename": "face_00002_.safetensors", "subfolder": "style_codes", "type": "output"}
    added = [name for name in file_choices(setting) if name not in before]
    assert added == [f"style_codes/face_0000{number}_.safetensors [output]" for number in (1, 2)]
    (back,) = execute(setting.nodes["BFR_LoadStyleCodes"], file=added[1])
    assert torch.equal(back.steps, codes.steps) and torch.equal(back.initial, codes.initial)
    assert back.config == "tiny"
    node, inputs = setting.nodes["BFR_Restore_vspbfr"], {"faces": FACES, "restorer": setting.restorer}
    assert torch.equal(execute(node, codes=back, **inputs)[0], execute(node, codes=codes, **inputs)[0])
    for file in (setting.host.output / "style_codes").iterdir():
        file.unlink()


def test_files_in_the_input_folder_are_listed_and_noticed_when_replaced(setting: SimpleNamespace, codes: Any) -> None:
    save = setting.pack.module("bfr_core.methods.vspbfr.codes").save_codes
    (setting.host.input / "style_codes").mkdir(exist_ok=True)
    for name in ("mine.safetensors", "style_codes/ours.safetensors"):
        save(setting.host.input / name, codes)
    (setting.host.input / "photo.png").write_bytes(b"")
    assert file_choices(setting) == ["none", "mine.safetensors", "style_codes/ours.safetensors"]
    node = setting.nodes["BFR_LoadStyleCodes"]
    (back,) = execute(node, file="style_codes/ours.safetensors")
    assert torch.equal(back.steps, codes.steps)
    first = node.fingerprint_inputs(file="mine.safetensors")
    assert first == node.fingerprint_inputs(file="mine.safetensors")
    os.utime(setting.host.input / "mine.safetensors", (1000, 1000))
    assert node.fingerprint_inputs(file="mine.safetensors") != first
    assert node.fingerprint_inputs(file="none") == node.fingerprint_inputs() == node.fingerprint_inputs(file=None)
    (setting.host.input / "mine.safetensors").write_bytes(b"no codes")
    assert "mine.safetensors" in refused(setting, "InputMediaError", "BFR_LoadStyleCodes", file="mine.safetensors").what
    (setting.host.input / "mine.safetensors").unlink()
    assert node.fingerprint_inputs(file="mine.safetensors") == 0.0
    assert "no such file" in refused(setting, "InputMediaError", "BFR_LoadStyleCodes", file="mine.safetensors").found
    (setting.host.input / "style_codes" / "ours.safetensors").unlink()


def test_what_cannot_be_saved_or_loaded_says_what_to_do(setting: SimpleNamespace, codes: Any) -> None:
    assert "press R" in refused(setting, "SettingsError", "BFR_LoadStyleCodes", file="none").todo
    error = refused(setting, "OutputMediaError", "BFR_SaveStyleCodes", codes=codes, filename_prefix="../../away")
    assert "not allowed" in error.found and "More lines" not in error.found
    assert not list(setting.host.output.parent.parent.glob("away*"))


def test_codes_of_another_config_or_method_are_refused(setting: SimpleNamespace, codes: Any) -> None:
    for node, inputs in (("BFR_Restore_vspbfr", {"faces": FACES}), ("BFR_StylePreview", {})):
        error = refused(setting, "InputMediaError", node, codes=codes, restorer=setting.twin, **inputs)
        assert "tiny" in error.found and "twin" in error.found
    (other,) = execute(setting.nodes["BFR_LoadRestorer"], method="irn/compact")
    assert "VSPBFR" in refused(setting, "SettingsError", "BFR_StyleCodes", faces=FACES, restorer=other).todo


def test_codes_of_other_faces_are_refused(setting: SimpleNamespace, codes: Any) -> None:
    inputs = {"faces": FACES[:2], "codes": codes, "restorer": setting.restorer}
    assert "one for each face" in refused(setting, "InputMediaError", "BFR_Restore_vspbfr", **inputs).found
    inputs = {"faces": FACES[:, :, :32], "restorer": setting.restorer}
    assert "Align" in refused(setting, "InputMediaError", "BFR_StyleCodes", **inputs).todo


def test_cancel_comes_through_untouched(setting: SimpleNamespace, codes: Any, host: FakeHost) -> None:
    for node, inputs in (("BFR_StyleCodes", {"faces": FACES}), ("BFR_StylePreview", {"codes": codes})):
        host.cancel_after = 1
        with pytest.raises(host.interrupted) as caught:
            execute(setting.nodes[node], restorer=setting.restorer, **inputs)
        assert caught.type is host.interrupted
