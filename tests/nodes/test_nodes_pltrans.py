"""The nodes of PLTrans' latents on a stand-in host, with a tiny random network loaded from a file."""

from __future__ import annotations

import asyncio
import json
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
from tiny_pltrans import FEATURES, OPTIONS, tiny_restorer

from bfr_core.compose.colour import keep_colours

PROJECT = Path(__file__).resolve().parents[2]
SIZE, LATENT, DIM = 64, 4, 8
"""Side of the crops, and channels of u and of q, of the tiny network."""
FACES = torch.rand(3, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(0))
DEFAULTS = {"transitions": 2, "levels": 2}
PARTS = ("what", "found", "kept", "todo")
API = json.loads((PROJECT / "tests" / "nodes" / "api" / "pltrans_edit.json").read_text("utf-8"))


@pytest.fixture(scope="module", params=["new", "old"])
def setting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A host whose PLTrans is tiny, and a restorer that Load Face Restorer made of a file."""
    base = tmp_path_factory.mktemp("host")
    with FakeHost(base, newer=request.param == "new") as host:
        pack = host.load(PROJECT)
        registry = pack.module("bfr_core.registry")
        configs = tuple(
            registry.Config(name, name, SIZE, OPTIONS, embedded=("none",), defaults=DEFAULTS)
            for name in ("tiny", "twin")
        )
        registry.methods()["pltrans"] = replace(registry.get_method("pltrans"), configs=configs)
        extension = asyncio.run(pack.root.comfy_entrypoint())
        nodes = {node.define_schema().node_id: node for node in asyncio.run(extension.get_node_list())}
        folder = host.models / "facerestore_models"
        folder.mkdir()
        state = {key: tensor.contiguous() for key, tensor in tiny_restorer().net.state_dict().items()}
        save_file(state, folder / "mine.safetensors")
        restorers = (
            execute(nodes["BFR_LoadRestorer"], method=f"pltrans/{config}", weights="mine.safetensors")[0]
            for config in ("tiny", "twin")
        )
        restorer, twin = restorers
        latents = pack.module("bfr_core.methods.pltrans.latents")
        yield SimpleNamespace(host=host, pack=pack, nodes=nodes, restorer=restorer, twin=twin, latents=latents)


@pytest.fixture
def host(setting: SimpleNamespace) -> Iterator[FakeHost]:
    setting.host.progress.clear()
    yield setting.host
    setting.host.cancel_after = None


@pytest.fixture(scope="module")
def latent(setting: SimpleNamespace) -> Any:
    return run(setting, "PLTransLatent", faces=FACES, seed=3)


@pytest.fixture(scope="module")
def drawn(setting: SimpleNamespace) -> Any:
    return run(setting, "PLTransSample", seed=5, steps=4)


def run(setting: SimpleNamespace, node: str, **inputs: Any) -> Any:
    """Return the first output of a node, whose restorer is the tiny one where it takes one and none is given."""
    known = {item.id for item in setting.nodes[f"BFR_{node}"].define_schema().inputs}
    usual = {"restorer": setting.restorer} if "restorer" in known else {}
    return execute(setting.nodes[f"BFR_{node}"], **{**usual, **inputs})[0]


def refused(setting: SimpleNamespace, kind: str, node: str, **inputs: Any) -> Any:
    with pytest.raises(getattr(setting.pack.module("bfr_core.errors"), kind)) as caught:
        run(setting, node, **inputs)
    assert all(getattr(caught.value, part).strip() for part in PARTS)
    return caught.value


def same(a: Any, b: Any) -> bool:
    return torch.equal(a.u, b.u) and torch.equal(a.q, b.q) and a.config == b.config


def widgets(setting: SimpleNamespace, node: str) -> dict[str, Any]:
    return {item.id: item for item in setting.nodes[f"BFR_{node}"].define_schema().inputs}


# --- schemas -----------------------------------------------------------------------------------------------------


def test_the_restoring_node_shows_what_the_method_declares(setting: SimpleNamespace) -> None:
    shown = widgets(setting, "Restore_pltrans")
    assert "Sec. 3." in setting.nodes["BFR_Restore_pltrans"].define_schema().description
    assert (shown["fidelity"].default, shown["fidelity"].min, shown["fidelity"].max) == (0.5, 0.0, 1.0)
    assert (shown["steps"].default, shown["steps"].options) == ("auto", ["auto", "fixed"])
    assert [(shown[name].default, shown[name].min) for name in ("n", "s")] == [(400, 1), (220, 0)]
    assert shown["n"].max <= 1000 and shown["s"].max < 1000
    assert {name: shown[name].default for name in DEFAULTS} == DEFAULTS, "of the config that is used"
    assert all(shown[name].default is True for name in ("diffusion", "wavelet", "dictionary", "transformer"))


def test_every_setting_but_one_is_before_or_after_the_latent(setting: SimpleNamespace) -> None:
    """Without the regulariser u is not used, so neither node can switch it off."""
    shown, before, after = (widgets(setting, node) for node in ("Restore_pltrans", "PLTransLatent", "PLTransDecode"))
    declared = {param.name for param in setting.restorer.restorer.method.params}
    assert declared & set(before) & set(after) == set()
    assert declared - set(before) - set(after) == {"diffusion"}
    for name in declared - {"diffusion"}:
        here = (before | after)[name]
        assert here.fields == shown[name].fields, name


# --- restoring by latents ----------------------------------------------------------------------------------------


def coloured(faces: torch.Tensor, restored: torch.Tensor) -> torch.Tensor:
    """Give restored faces (B, H, W, 3) the colours of the input, as the restoring node does; a latent knows of none."""
    out = restored.clone()
    for index, (face, made) in enumerate(zip(faces.movedim(-1, 1), restored.movedim(-1, 1), strict=True)):
        out[index] = keep_colours(face.contiguous(), made.contiguous()).movedim(0, -1)
    return out


@pytest.mark.parametrize("count", [0, 1, 3])
def test_an_unchanged_latent_restores_as_without(setting: SimpleNamespace, count: int) -> None:
    faces = FACES[:count]
    latent = run(setting, "PLTransLatent", faces=faces, seed=3)
    assert latent.u.shape == (count, LATENT, FEATURES, FEATURES) and latent.q.shape == (count, DIM, FEATURES, FEATURES)
    back, alone = run(setting, "PLTransDecode", latent=latent), run(setting, "Restore_pltrans", faces=faces, seed=3)
    assert back.shape == alone.shape == faces.shape and back.dtype == torch.float32
    assert torch.equal(coloured(faces, back), alone)
    if count:
        assert alone.std() > 0.01
        other = run(setting, "PLTransDecode", latent=run(setting, "PLTransLatent", faces=faces, seed=4))
        assert (other - back).abs().amax((1, 2, 3)).min() > 1e-4, "another seed is another face"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"steps": "fixed", "n": 700, "s": 100}, {}),
        ({"fidelity": 0.9, "wavelet": False}, {"dictionary": False}),
        ({"levels": 1}, {"transformer": False}),
    ],
)
def test_settings_are_those_of_the_restoring_node(
    setting: SimpleNamespace, latent: Any, before: dict[str, Any], after: dict[str, Any]
) -> None:
    changed = run(
        setting, "PLTransDecode", latent=run(setting, "PLTransLatent", faces=FACES, seed=3, **before), **after
    )
    alone = run(setting, "Restore_pltrans", faces=FACES, seed=3, **before, **after)
    assert torch.equal(coloured(FACES, changed), alone)
    assert not torch.equal(changed, run(setting, "PLTransDecode", latent=latent))


def noted(setting: SimpleNamespace, node: str, **inputs: Any) -> list[str]:
    """Return the notes of the report of a node, its last output."""
    (entry,) = json.loads(execute(setting.nodes[f"BFR_{node}"], restorer=setting.restorer, **inputs)[1])
    assert (entry["method"], entry["config"]) == ("pltrans", "tiny") and entry["seconds"]["restore"] > 0
    return entry["notes"]


def test_reports_say_what_was_read_in_the_faces(setting: SimpleNamespace, latent: Any) -> None:
    setting.pack.module("nodes.host").RESTORED.clear()  # else the notes say that another test restored them
    for node in ("Restore_pltrans", "PLTransLatent"):
        (note,) = noted(setting, node, faces=FACES, seed=3)
        assert "3 faces: degradation 0, n 100, s 55" in note
        assert noted(setting, node, faces=FACES, seed=3, steps="fixed") == []
        aside, _ = noted(setting, node, faces=FACES, seed=3, n=300)
        assert "n 300 and s 220 were left aside" in aside
    assert noted(setting, "PLTransSample", steps=1) == noted(setting, "PLTransDecode", latent=latent) == []


def test_reports_say_that_memory_ran_out(
    setting: SimpleNamespace, latent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(setting.pack.module("nodes.host").BATCHES, "cpu", 2)
    net = setting.restorer.restorer.net

    def short(owner: Any, name: str) -> None:
        kept = getattr(owner, name)

        def call(x: torch.Tensor, *more: Any) -> Any:
            if len(x) > 1:
                raise torch.OutOfMemoryError("planned")
            return kept(x, *more)

        monkeypatch.setattr(owner, name, call)

    short(net, "decode")
    short(net.regulariser, "predict")
    for node, inputs in {
        "Restore_pltrans": {"faces": FACES},
        "PLTransLatent": {"faces": FACES},
        "PLTransSample": {"count": 2, "steps": 1},
        "PLTransDecode": {"latent": latent},
    }.items():
        notes = noted(setting, node, **inputs)
        assert "Memory ran out; the batch was reduced to 1" in notes, node
        assert [note for note in notes if "degradation" in note][:1] == [note for note in notes if "3 faces:" in note]


def test_left_open_the_first_config_with_weights_is_used(
    setting: SimpleNamespace, latent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        setting.pack.module("nodes.pltrans"), "get_restorer", lambda choice: asked.append(choice) or setting.restorer
    )
    assert same(run(setting, "PLTransLatent", faces=FACES, seed=3, restorer=None), latent)
    run(setting, "PLTransSample", steps=1, restorer=None)
    run(setting, "PLTransDecode", latent=latent, restorer=None)
    assert asked == ["pltrans/tiny"] * 3
    assert all(
        "pltrans/tiny" in widgets(setting, f"PLTrans{name}")["restorer"].tooltip for name in ("Sample", "Decode")
    )


# --- sampling, mixing, editing -----------------------------------------------------------------------------------


def test_sampling_by_seed(setting: SimpleNamespace, drawn: Any, host: FakeHost) -> None:
    three = run(setting, "PLTransSample", seed=5, count=3, steps=4)
    assert three.u.shape == (3, LATENT, FEATURES, FEATURES)
    assert torch.allclose(three.u[:1], drawn.u, atol=1e-4), "the first is the same, however many there are"
    assert (three.u[0] - three.u[1]).abs().max() > 0.1 and (three.u[1] - three.u[2]).abs().max() > 0.1
    assert not same(run(setting, "PLTransSample", seed=6, steps=4), drawn)
    faces = run(setting, "PLTransDecode", latent=three)
    assert faces.shape == (3, SIZE, SIZE, 3) and faces.min() >= 0 and faces.max() <= 1
    assert (faces[0] - faces[1]).abs().max() > 1e-3
    assert host.progress[-1] == (3, 3)
    steps = [value for value, total in host.progress if total == 3]
    assert any(value % 1 for value in steps), "the bar moves within a batch"


def test_interpolating(setting: SimpleNamespace, latent: Any, drawn: Any) -> None:
    assert same(run(setting, "PLTransMix", a=latent, b=drawn, amount=0.0), latent)
    every = run(setting, "PLTransMix", a=latent, b=drawn, amount=1.0)
    assert torch.equal(every.u, drawn.u.expand_as(latent.u)), "one face serves all"
    quarter = run(setting, "PLTransMix", a=latent, b=drawn, amount=0.25)
    assert torch.allclose(quarter.u, 0.75 * latent.u + 0.25 * drawn.u, atol=1e-6)
    assert torch.allclose(quarter.q, 0.75 * latent.q + 0.25 * drawn.q, atol=1e-6)
    ends = [run(setting, "PLTransDecode", latent=one) for one in (latent, every)]
    between = run(setting, "PLTransDecode", latent=quarter)
    assert all((between - end).abs().amax((1, 2, 3)).min() > 1e-4 for end in ends)


def test_a_mask_limits_the_mix_to_its_region(setting: SimpleNamespace, latent: Any, drawn: Any) -> None:
    mask = torch.zeros(1, SIZE, SIZE)
    mask[:, SIZE // 2 :] = 1
    half = FEATURES // 2
    edited = run(setting, "PLTransMix", a=latent, b=drawn, amount=1.0, mask=mask)
    for name in ("u", "q"):
        before, after, source = (getattr(one, name) for one in (latent, edited, drawn))
        assert torch.allclose(after[:, :, : half - 1], before[:, :, : half - 1], atol=1e-6)
        assert torch.allclose(after[:, :, half + 1 :], source[:, :, half + 1 :].expand(3, -1, -1, -1), atol=1e-6)
    partly = run(setting, "PLTransMix", a=latent, b=drawn, amount=0.5, mask=mask)
    assert torch.allclose(partly.u[:, :, -1], (latent.u[:, :, -1] + drawn.u[:, :, -1]) / 2, atol=1e-6)
    assert torch.equal(partly.u[:, :, 0], latent.u[:, :, 0])
    nowhere = run(setting, "PLTransMix", a=latent, b=drawn, amount=1.0, mask=torch.zeros(SIZE, SIZE))
    assert same(nowhere, latent)
    everywhere = run(setting, "PLTransMix", a=latent, b=drawn, amount=0.3, mask=torch.ones(1, 9, 9))
    assert torch.allclose(everywhere.u, run(setting, "PLTransMix", a=latent, b=drawn, amount=0.3).u, atol=1e-6)


def test_one_mask_for_each_face(setting: SimpleNamespace, latent: Any, drawn: Any) -> None:
    masks = torch.zeros(3, SIZE, SIZE)
    masks[1] = 1
    edited = run(setting, "PLTransMix", a=latent, b=drawn, amount=1.0, mask=masks.half())
    assert torch.equal(edited.u[0], latent.u[0]) and torch.equal(edited.u[2], latent.u[2])
    assert torch.allclose(edited.u[1], drawn.u[0], atol=1e-6)
    error = refused(setting, "InputMediaError", "PLTransMix", a=latent, b=drawn, mask=masks[:2])
    assert "2 masks for 3 faces" in error.found
    for wrong in (torch.full((1, 8, 8), 2.0), torch.full((1, 8, 8), float("nan")), torch.ones(1, 1, 8, 8)):
        refused(setting, "InputMediaError", "PLTransMix", a=latent, b=drawn, mask=wrong)


def test_what_does_not_belong_together_is_refused(setting: SimpleNamespace, latent: Any) -> None:
    error = refused(setting, "InputMediaError", "PLTransDecode", latent=latent, restorer=setting.twin)
    assert "tiny" in error.found and "twin" in error.found
    twins = run(setting, "PLTransSample", steps=1, restorer=setting.twin)
    refused(setting, "InputMediaError", "PLTransMix", a=latent, b=twins)
    two = run(setting, "PLTransSample", count=2, steps=1)
    assert "as many faces" in refused(setting, "InputMediaError", "PLTransMix", a=latent, b=two).found
    (other,) = execute(setting.nodes["BFR_LoadRestorer"], method="irn/compact")
    for node, inputs in {"Latent": {"faces": FACES}, "Sample": {}, "Decode": {"latent": latent}}.items():
        assert "PLTrans" in refused(setting, "SettingsError", f"PLTrans{node}", restorer=other, **inputs).todo
    assert "Align" in refused(setting, "InputMediaError", "PLTransLatent", faces=FACES[:, :, :32]).todo
    bad = FACES.clone()
    bad[1, 2, 3] = torch.nan
    assert "1 of 3" in refused(setting, "InputMediaError", "PLTransLatent", faces=bad).found
    wrong = {"steps": "fixed", "n": 100, "s": 200}
    assert "n 100 and s 200" in refused(setting, "SettingsError", "PLTransLatent", faces=FACES, **wrong).found


# --- files -------------------------------------------------------------------------------------------------------


def test_saved_latents_are_listed_and_loaded(setting: SimpleNamespace, latent: Any) -> None:
    load, save = (setting.nodes[f"BFR_{verb}PLTransLatent"] for verb in ("Load", "Save"))
    assert load.define_schema().inputs[0].options == ["none"]
    assert save.define_schema().is_output_node
    (entry,) = save.execute(latent=latent).ui["pltrans_latents"]
    assert entry == {"filename": "face_00001_.safetensors", "subfolder": "pltrans_latents", "type": "output"}
    execute(save, latent=latent)
    listed = load.define_schema().inputs[0].options
    assert listed == ["none", *(f"pltrans_latents/face_0000{number}_.safetensors [output]" for number in (1, 2))]
    assert setting.nodes["BFR_LoadStyleCodes"].define_schema().inputs[0].options == ["none"], "each has its folder"
    back = run(setting, "LoadPLTransLatent", file=listed[2])
    assert same(back, latent)
    assert torch.equal(run(setting, "PLTransDecode", latent=back), run(setting, "PLTransDecode", latent=latent))
    file = setting.host.output / "pltrans_latents" / "face_00001_.safetensors"
    first = load.fingerprint_inputs(file=listed[1])
    os.utime(file, (1000, 1000))
    assert load.fingerprint_inputs(file=listed[1]) not in (first, 0.0)
    file.unlink()
    assert load.fingerprint_inputs(file=listed[1]) == load.fingerprint_inputs(file="none") == 0.0
    assert "no such file" in refused(setting, "InputMediaError", "LoadPLTransLatent", file=listed[1]).found
    (setting.host.output / "pltrans_latents" / "face_00002_.safetensors").unlink()


def test_what_cannot_be_saved_or_loaded_says_what_to_do(setting: SimpleNamespace, latent: Any) -> None:
    error = refused(setting, "SettingsError", "LoadPLTransLatent", file="none")
    assert "PLTrans latents" in error.what and "Save PLTrans Latent" in error.found and "press R" in error.todo
    error = refused(setting, "OutputMediaError", "SavePLTransLatent", latent=latent, filename_prefix="../../away")
    assert "not allowed" in error.found and error.todo.endswith("pltrans_latents/face")
    assert not list(setting.host.output.parent.parent.glob("away*"))


def test_files_of_the_other_kind_are_told_apart(setting: SimpleNamespace) -> None:
    style = setting.pack.module("bfr_core.methods.vspbfr.codes")
    codes = style.StyleCodes(torch.zeros(1, 2, 3), torch.zeros(1, 4, 2, 3), "tiny")
    style.save_codes(setting.host.input / "codes.safetensors", codes)
    error = refused(setting, "InputMediaError", "LoadPLTransLatent", file="codes.safetensors")
    assert "PLTrans latents" in error.found and "Save PLTrans Latent" in error.todo
    (setting.host.input / "codes.safetensors").unlink()


# --- the host ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("checks", [0, 1, 2])
def test_cancel_comes_through_untouched(setting: SimpleNamespace, latent: Any, host: FakeHost, checks: int) -> None:
    nodes = {"PLTransLatent": {"faces": FACES}, "PLTransSample": {"count": 3}, "PLTransDecode": {"latent": latent}}
    for node, inputs in nodes.items():
        host.cancel_after = min(checks, 1) if node == "PLTransDecode" else checks
        with pytest.raises(host.interrupted) as caught:
            run(setting, node, **inputs)
        assert caught.type is host.interrupted


def test_the_workflow_runs(setting: SimpleNamespace) -> None:
    """Run the saved graph in the order of its links, from the aligned faces on, with the tiny restorer.

    Masks are drawn, as the crops of a tiny picture have no face.
    """
    mask = torch.zeros(3, SIZE, SIZE)
    mask[:, 40:56, 20:44] = 1
    given = {"BFR_AlignFaces": (FACES,), "BFR_LoadRestorer": (setting.restorer,), "BFR_FacePartMask": (mask,)}
    done: dict[str, tuple[Any, ...]] = {}

    def outputs(number: str) -> tuple[Any, ...]:
        kind, inputs = API[number]["class_type"], API[number]["inputs"]
        if kind in given:
            return given[kind]
        if number not in done:
            values = {
                name: outputs(value[0])[value[1]] if isinstance(value, list) else value
                for name, value in inputs.items()
            }
            done[number] = execute(setting.nodes[kind], **values)
        return done[number]

    ours = [
        number for number, node in API.items() if "PLTrans" in node["class_type"] or "pltrans" in node["class_type"]
    ]
    kinds = [API[number]["class_type"] for number in ours]
    assert {"BFR_PLTransLatent", "BFR_PLTransSample", "BFR_PLTransDecode", "BFR_SavePLTransLatent"} <= set(kinds)
    assert kinds.count("BFR_PLTransMix") == 2
    for number in ours:
        if API[number]["class_type"] != "BFR_LoadPLTransLatent":
            outputs(number)
    edits = [
        outputs(number)[0] for number, node in API.items()
        if node["class_type"] == "BFR_PLTransDecode" and "mask" in API[API[number]["inputs"]["latent"][0]]["inputs"]
    ]  # fmt: skip
    assert len(edits) == 1 and edits[0].shape == FACES.shape
    for file in (setting.host.output / "pltrans_latents").iterdir():
        file.unlink()
