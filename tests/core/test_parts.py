"""Weights that come in several files: found, told apart, read whole, converted, and every way they can be wrong."""

from __future__ import annotations

import argparse
import dataclasses
import fractions
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_host import FakeHost, execute
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from marks import opens_pickles
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bfr_core import registry
from bfr_core.cli import main
from bfr_core.cli import models as cli_models
from bfr_core.cli import restore as cli_restore
from bfr_core.errors import BfrError, SettingsError, WeightsError
from bfr_core.models.checkpoints import cards, folders, parts
from bfr_core.models.checkpoints.conversion import convert
from bfr_core.models.checkpoints.files import load_state, sha256_of
from bfr_core.models.checkpoints.parts import named_like_parts
from bfr_core.registry import Config, Method, Part, get_method
from bfr_core.restorer import load_restorer
from train.export import write_weights

pytestmark = opens_pickles

PUBLISHED = ("style_encoder_decoder.pt", "code_diffuser.pt", "restoration_net.pt")
METHODS = cli_restore.methods()
"""As they are declared; the tests below know only a stand-in. All of the command line is imported by then, so that none
of it keeps the stand-in."""
TITLES = ("style encoder and bank", "code diffuser", "restoration network")


def shapes(heads: int) -> dict[str, tuple[int, ...]]:
    """A few keys of each part, as the official network has them: `heads` of 18 stand for 1024 px, of 16 for 512."""
    convs = range(heads - 2)
    return {
        "encoder.input_layer.0.weight": (2, 3),
        **{f"encoder.styles.{n}.linear.weight": (2, 2) for n in range(heads)},
        "decoder.input.input": (1, 2, 4, 4),
        **{f"decoder.convs.{n}.conv.weight": (1, 2, 2, 3, 3) for n in convs},
        "latent_avg": (heads, 4),
        "att_mapper.0.q_matrix.weight": (4, 5),
        "att_mapper.3.beta_.3.bias": (4,),
        "restorer.encoder_convs.0.modulation.weight": (3, 2),
        "restorer.final_linear.0.weight": (2, 2),
    }


class Tree(nn.Module):
    """A module whose state_dict has the keys it is told, and nothing else."""

    def __init__(self, wanted: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        for key, shape in wanted.items():
            *path, name = key.split(".")
            node: nn.Module = self
            for step in path:
                if step not in dict(node.named_children()):
                    node.add_module(step, nn.Module())
                node = node.get_submodule(step)
            node.register_buffer(name, torch.zeros(shape))


def described(tensors: Mapping[str, Tensor]) -> str:
    heads = sum(key.startswith("encoder.styles.") for key in tensors)
    return f"{heads} style heads, a generator of {2 ** (heads // 2 + 1)} px"


STAND_IN = Method(
    id="stand_in",
    title="Stand-in",
    summary="Three parts.",
    papers=(),
    configs=tuple(
        Config(name, name, 64, {"heads": heads}, published="https://example.org/three")
        for name, heads in (("large", 18), ("small", 16))
    ),
    build=lambda config: Tree(shapes(config.options["heads"])),
    restore=lambda net, faces, settings, seeds, inputs, context: faces,
    recognise=lambda keys: (
        ("large" if "encoder.styles.17.linear.weight" in keys else "small") if "decoder.input.input" in keys else None
    ),
    parts=(
        Part(
            "style_encoder_decoder",
            TITLES[0],
            PUBLISHED[0],
            ("encoder.", "decoder.", "latent_avg"),
            {"state_dict": "", "latent_avg": "latent_avg"},
            keys=("encoder.input_layer.0.weight", "decoder.input.input"),
            ignored=("decoder.noises.noise_*",),
            kernels={"decoder.*.kernel": 4.0},
            trained_with={"start_from_latent_avg": True},
            describe=described,
        ),
        Part(
            "code_diffuser",
            TITLES[1],
            PUBLISHED[1],
            ("att_mapper.",),
            {"att_mapper": ""},
            keys=("att_mapper.0.q_matrix.weight",),
        ),
        Part(
            "restoration_net",
            TITLES[2],
            PUBLISHED[2],
            ("restorer.",),
            {"g_ema": "restorer."},
            keys=("restorer.encoder_convs.0.modulation.weight",),
            ignored=("restorer.noises.noise_*",),
            kernels={"restorer.encoder_convs.*.kernel": 1.0, "restorer.*.kernel": 4.0},
        ),
    ),
    foreign_checkpoints={
        "the recogniser Arcface.pth": ("layer3.22.conv1.weight", "fc.weight"),
        "the discriminator": ("encoder_input_convs.0.weight", "final_linear.0.weight"),
    },
)


@pytest.fixture(autouse=True)
def only_the_stand_in(monkeypatch):
    """The only method that comes in parts, so that no other claims its keys."""
    known = {"irn": get_method("irn"), "stand_in": STAND_IN}
    for module in (registry, parts, folders, cli_models):
        monkeypatch.setattr(module, "methods", lambda: known)


def draw(heads: int = 18, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes(heads).items()}


def fir(gain: float) -> Tensor:
    return torch.tensor([[1, 3, 3, 1], [3, 9, 9, 3], [3, 9, 9, 3], [1, 3, 3, 1]]) / 64 * gain


def under(state: Mapping[str, Tensor], prefix: str, cut: str = "") -> dict[str, Tensor]:
    return {key.removeprefix(cut): value for key, value in state.items() if key.startswith(prefix)}


def official(state: Mapping[str, Tensor]) -> dict[str, dict]:
    """The three files as their authors save them."""
    options = argparse.Namespace(lr=0.002, path="faces", distributed=False, best_fid=1000)
    ema = under(state, "restorer.", "restorer.") | {
        "noises.noise_0": torch.randn(1, 1, 4, 4),
        "encoder_convs.1.conv.blur.kernel": fir(1),
        "convs.0.conv.blur.kernel": fir(4),
        "to_rgbs.0.upsample.kernel": fir(4),
    }
    style = under(state, "encoder.") | under(state, "decoder.")
    style |= {"decoder.noises.noise_0": torch.randn(1, 1, 4, 4), "decoder.convs.0.conv.blur.kernel": fir(4)}
    adam = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(4)}}, "param_groups": [{"lr": 0.002}]}
    return {
        PUBLISHED[0]: {
            "state_dict": style,
            "latent_avg": state["latent_avg"],
            "opts": {"encoder_type": "Encoder4Editing", "stylegan_size": 1024, "start_from_latent_avg": True},
            "optimizer": adam,
            "discriminator_state_dict": {"fc1.weight": torch.randn(2, 2)},
        },
        PUBLISHED[1]: {
            "att_mapper": under(state, "att_mapper."),
            "mapper_optim": adam,
            "args": options,
            "iter": 5,
            "best_path": "",
        },
        PUBLISHED[2]: {
            "g": {key: value + 1 for key, value in ema.items()},
            "d": {"encoder_input_convs.0.weight": torch.randn(2, 2), "final_linear.0.weight": torch.randn(2, 2)},
            "g_ema": ema,
            "g_optim": adam,
            "args": options,
            "ada_aug_p": 0.0,
        },
    }


def publish(folder: Path, state: Mapping[str, Tensor]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in official(state).items():
        torch.save(content, folder / name)
    return folder


def same(net: nn.Module, state: Mapping[str, Tensor]) -> bool:
    own = net.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[key], state[key]) for key in own)


def refused(path: Path, config: str = "") -> str:
    with pytest.raises(WeightsError) as caught:
        load_restorer("stand_in", config, weights=path)
    for part in ("what", "found", "kept", "todo"):
        assert getattr(caught.value, part).strip()
    return str(caught.value)


# --- found and loaded -------------------------------------------------------------------------------------------


def test_a_folder_any_of_its_files_and_one_file_for_all_give_the_same_network(tmp_path):
    state = draw()
    folder = publish(tmp_path / "vspbfr", state)
    save_file(state, tmp_path / "whole.safetensors")
    for path in (folder, *(folder / name for name in PUBLISHED), tmp_path / "whole.safetensors"):
        restorer = load_restorer("stand_in", weights=path)
        assert restorer.config.name == "large" and same(restorer.net, state)
        names = ["whole.safetensors"] if path.suffix == ".safetensors" else PUBLISHED
        assert [Path(name).name for name in restorer.source.split(", ")] == list(names)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.permutations(["a", "b", "my encoder", "x.y", "style", "zz"]),
    ends=st.lists(st.sampled_from([".pt", ".pth", ".safetensors"]), min_size=3, max_size=3),
    given_as=st.sampled_from([None, 0, 1, 2]),
    seed=st.integers(0, 99),
)
def test_names_do_not_matter_where_the_keys_tell(tmp_path_factory, names, ends, given_as, seed):
    state, folder = draw(seed=seed), tmp_path_factory.mktemp("any")
    for (_, content), part, name, end in zip(official(state).items(), STAND_IN.parts, names, ends, strict=False):
        path = folder / f"{name}{end}"
        if end == ".safetensors":
            save_file({key: value for key, value in state.items() if part.holds(key)}, path)
        else:
            torch.save(content, path)
    torch.save({"w": torch.ones(2)}, folder / "another model.pth")
    path = folder if given_as is None else folder / f"{names[given_as]}{ends[given_as]}"
    assert same(load_restorer("stand_in", weights=path).net, state)


def test_files_that_are_named_alike_go_together(tmp_path):
    first, second = draw(seed=1), draw(seed=2)
    publish(tmp_path, first)
    for part in STAND_IN.parts:
        own = {key: value for key, value in second.items() if part.holds(key)}
        save_file(own, tmp_path / f"mine_{part.name}.safetensors")
    assert same(load_restorer("stand_in", weights=tmp_path).net, first)
    assert same(load_restorer("stand_in", weights=tmp_path / "mine_code_diffuser.safetensors").net, second)
    convert(tmp_path, tmp_path)
    assert "code_diffuser.safetensors" in load_restorer("stand_in", weights=tmp_path).source
    assert load_restorer("stand_in", weights=tmp_path / PUBLISHED[0]).source.count(".safetensors") == 0


def test_a_loaded_network_outlives_its_files(tmp_path):
    state = draw()
    net = load_restorer("stand_in", weights=publish(tmp_path, state)).net
    for name in PUBLISHED:
        (tmp_path / name).write_bytes(b"\0" * (tmp_path / name).stat().st_size)
    assert same(net, state)


# --- wrong files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", range(3))
def test_a_missing_part_is_named_with_what_is_there(tmp_path, lost):
    publish(tmp_path, draw())
    (tmp_path / PUBLISHED[lost]).unlink()
    torch.save({"w": torch.ones(2)}, tmp_path / "gfpgan.pth")
    (tmp_path / "broken.pt").write_bytes(b"")
    for path in (tmp_path, tmp_path / PUBLISHED[lost - 1]):
        text = refused(path)
        assert f"lacks its {TITLES[lost]}" in text and str(tmp_path) in text and "example.org/three" in text
        assert PUBLISHED[lost].replace(".pt", ".safetensors") in text
        found = text.split("found ", 1)[1].split("Nothing was loaded")[0]
        assert all((name in found) == (name != PUBLISHED[lost]) for name in PUBLISHED), found
        assert "broken.pt, which cannot be read (the file is empty" in text and "1 files of other models" in text


@pytest.mark.parametrize("copied", [False, True])
def test_swapped_files_and_copies_are_named(tmp_path, copied):
    publish(tmp_path, draw())
    diffuser, restoration = tmp_path / PUBLISHED[1], tmp_path / PUBLISHED[2]
    aside = diffuser.replace(tmp_path / "aside")
    shutil.copy(restoration, diffuser) if copied else restoration.replace(diffuser)
    if not copied:
        aside.replace(restoration)
    text = refused(tmp_path)
    assert str(diffuser) in text and "its name says code diffuser" in text
    assert "holds the restoration network (restoration_net.pt)" in text


def test_two_of_a_kind_are_not_chosen_between(tmp_path):
    publish(tmp_path, draw())
    for name in ("one.pt", "two.pt"):
        shutil.copy(tmp_path / PUBLISHED[1], tmp_path / name)
    (tmp_path / PUBLISHED[1]).unlink()
    text = refused(tmp_path)
    assert "which code diffuser" in text and "one.pt, two.pt" in text
    assert load_restorer("stand_in", weights=tmp_path / "two.pt").source.count("two.pt") == 1


def test_generators_of_1024_and_512_px_are_told_apart(tmp_path):
    for heads, config, size in ((16, "large", 512), (18, "small", 1024)):
        text = refused(publish(tmp_path / str(heads), draw(heads)), config)
        assert f"it has {heads} style heads, a generator of {size} px, expected {34 - heads} style heads" in text
        assert PUBLISHED[0] in text and f"config {config}" in text
    assert load_restorer("stand_in", weights=tmp_path / "16").config.name == "small"


def test_options_that_would_restore_another_face_are_refused(tmp_path):
    files = official(draw())
    files[PUBLISHED[0]]["opts"]["start_from_latent_avg"] = False
    publish(tmp_path, draw())
    torch.save(files[PUBLISHED[0]], tmp_path / PUBLISHED[0])
    assert "trained with start_from_latent_avg = False; expected True" in refused(tmp_path)


def test_shapes_and_missing_keys_are_shown(tmp_path):
    state = draw() | {"restorer.final_linear.0.weight": torch.zeros(7, 2)}
    assert "restorer.final_linear.0.weight (7, 2), expected (2, 2)" in refused(publish(tmp_path, state))
    files = official(draw())
    del files[PUBLISHED[0]]["latent_avg"]
    torch.save(files[PUBLISHED[0]], tmp_path / PUBLISHED[0])
    assert "1 keys missing (latent_avg)" in refused(tmp_path, "large")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_row07_numbers_that_are_not_finite_name_part_and_key(tmp_path, bad):
    state = draw()
    state["att_mapper.0.q_matrix.weight"][1, 2] = bad
    text = refused(publish(tmp_path, state))
    assert "att_mapper.0.q_matrix.weight of the code diffuser holds 1 NaN" in text and PUBLISHED[1] in text
    with pytest.raises(WeightsError, match="of the code diffuser"):
        convert(tmp_path, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_without_the_averaged_copy_nothing_is_taken(tmp_path):
    files = official(draw())
    del files[PUBLISHED[2]]["g_ema"]
    publish(tmp_path, draw())
    torch.save(files[PUBLISHED[2]], tmp_path / PUBLISHED[2])
    for path in (tmp_path, tmp_path / PUBLISHED[2]):
        text = refused(path)
        assert "no g_ema" in text and "holds g, a restoration network as it was trained" in text


def test_files_of_other_models_are_named(tmp_path):
    publish(tmp_path, draw())
    strangers = {
        "the recogniser Arcface.pth": {"layer3.22.conv1.weight": torch.ones(2), "fc.weight": torch.ones(2)},
        "the discriminator": {"d": official(draw())[PUBLISHED[2]]["d"]},
        "a dictionary with keys w": {"w": torch.ones(2)},
        "a list": [torch.ones(2)],
        "Identity recovery network, config compact": {
            "params": {f"{key}.0.weight": torch.ones(1) for key in ("encoder.0.0.conv1", "head")}
            | {key: torch.ones(1) for key in ("encoder.0.0.conv1.weight", "middle.0.conv1.weight")}
        },
    }
    for title, content in strangers.items():
        for name in (PUBLISHED[2], "chosen.pth"):
            torch.save(content, tmp_path / name)
            text = refused(tmp_path / name if name == "chosen.pth" else tmp_path)
            assert title in text and name in text and "restoration_net.pt" in text, text
    assert "expected a folder, or a file of Stand-in" in refused(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    assert "lacks its style encoder" in refused(tmp_path / "empty")


def test_a_folder_for_a_method_of_one_file_says_so(tmp_path):
    with pytest.raises(WeightsError, match="it is a folder"):
        load_restorer("irn", weights=tmp_path)


def test_only_the_filter_that_we_compute_with_may_be_left_out(tmp_path):
    for name, key in ((PUBLISHED[2], "encoder_convs.1.conv.blur.kernel"), (PUBLISHED[2], "convs.0.conv.blur.kernel")):
        for wrong in (fir(2), fir(4) + 0.01, torch.ones(3, 3), fir(1 if key.startswith("convs") else 4)):
            files = official(draw())
            files[name]["g_ema"][key] = wrong
            publish(tmp_path, draw())
            torch.save(files[name], tmp_path / name)
            text = refused(tmp_path)
            assert f"restorer.{key}" in text and "1, 3, 3, 1" in text


# --- hostile and damaged files ----------------------------------------------------------------------------------


class Evil:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


class Derived(argparse.Namespace):
    pass


@pytest.mark.parametrize("place", ["args", "inside", "beside", "derived", "method"])
def test_row08_namespaces_are_read_and_nothing_else(tmp_path, place):
    folder, canary = publish(tmp_path / "files", draw()), tmp_path / "canary"
    content = official(draw())[PUBLISHED[1]]
    if place == "args":
        content["args"] = argparse.Namespace(harmless=1, hook=Evil(canary))
    elif place == "inside":
        content["args"] = argparse.Namespace(ratio=fractions.Fraction(1, 2))
    elif place == "beside":
        content["best_fid"] = np.float64(3)
    elif place == "derived":
        content["args"] = Derived(lr=1)
    else:
        content["args"] = argparse.Namespace(call=argparse.ArgumentParser.parse_args)
    torch.save(content, folder / PUBLISHED[1])
    for path in (folder, folder / PUBLISHED[1]):
        assert "could run code" in refused(path)
    with pytest.raises(WeightsError, match="could run code"):
        convert(folder / PUBLISHED[1], tmp_path / "out.safetensors")
    assert not canary.exists() and not (tmp_path / "out.safetensors").exists()
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


def test_row09_a_namespace_is_not_read_from_files_of_other_models(tmp_path):
    torch.save({"w": torch.ones(2), "args": argparse.Namespace(lr=1)}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="Namespace"):
        convert(tmp_path / "a.pth", tmp_path / "a.safetensors")


def test_row10_a_part_that_claims_more_than_it_stores_is_refused(tmp_path):
    publish(tmp_path, draw())
    files = official(draw())
    files[PUBLISHED[2]]["g_ema"]["final_linear.0.weight"] = torch.zeros(1).expand(200_000, 200_000)
    torch.save(files[PUBLISHED[2]], tmp_path / PUBLISHED[2])
    assert "(200000, 200000)" in refused(tmp_path)
    with pytest.raises(WeightsError, match="200000"):
        convert(tmp_path / PUBLISHED[2], tmp_path / "out.safetensors")


@pytest.mark.parametrize("nested", [True, False])
def test_damage_inside_the_numbers_is_noticed(tmp_path, nested):
    """torch.load by itself compares no checksum."""
    state, path = draw(), publish(tmp_path, draw()) / PUBLISHED[1]
    if not nested:
        torch.save(under(state, "att_mapper."), path)
    data = bytearray(path.read_bytes())
    data[data.find(state["att_mapper.0.q_matrix.weight"].numpy().tobytes()) + 1] ^= 1
    path.write_bytes(data)
    loaded = torch.load(path, weights_only=False)
    assert not torch.equal(
        (loaded["att_mapper"] if nested else loaded)["att_mapper.0.q_matrix.weight"],
        state["att_mapper.0.q_matrix.weight"],
    )
    if nested:
        assert "damaged" in refused(path)
    else:
        with pytest.raises(WeightsError, match="damaged"):
            load_state(path)


def test_files_without_checksums_still_load(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        folder = publish(tmp_path, draw())
    finally:
        torch.serialization.set_crc32_options(True)
    assert same(load_restorer("stand_in", weights=folder).net, draw())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_row04_damaged_parts_never_raise_anything_else(tmp_path_factory, data):
    folder = publish(tmp_path_factory.mktemp("damaged"), draw())
    path = folder / PUBLISHED[data.draw(st.integers(0, 2))]
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2]))])
    try:
        net = load_restorer("stand_in", weights=folder).net
    except WeightsError:
        return
    assert same(net, draw()), "damage may hit what is not used, but not the weights"


# --- conversion -------------------------------------------------------------------------------------------------


def test_converted_parts_hold_the_keys_of_the_network_bit_for_bit(tmp_path):
    state = draw()
    folder = publish(tmp_path / "published", state)
    for name, part in zip(PUBLISHED, STAND_IN.parts, strict=True):
        (written,) = convert(folder / name, tmp_path / f"{part.name}.safetensors")
        tensors = load_file(written["path"])  # by the library's own reader
        wanted = {key: value for key, value in state.items() if part.holds(key)}
        assert tensors.keys() == wanted.keys() and all(torch.equal(tensors[key], wanted[key]) for key in wanted)
        assert written["tensors"] == len(wanted) and written["sha256"] == sha256_of(written["path"])
    assert same(load_restorer("stand_in", weights=tmp_path / "code_diffuser.safetensors").net, state)


def test_a_folder_is_converted_part_by_part_or_into_one_file(tmp_path):
    state = draw()
    folder = publish(tmp_path / "published", state)
    apart = convert(folder, tmp_path / "apart")
    assert [written["path"].name for written in apart] == [f"{part.name}.safetensors" for part in STAND_IN.parts]
    (whole,) = convert(folder, tmp_path / "whole.safetensors")
    for path in (tmp_path / "apart", whole["path"]):
        assert same(load_restorer("stand_in", weights=path).net, state)
    half = convert(tmp_path / "apart", tmp_path / "half", dtype=torch.bfloat16)
    assert sum(written["bytes"] for written in half) < sum(written["bytes"] for written in apart)
    net = load_restorer("stand_in", weights=tmp_path / "half").net
    assert same(net, {key: value.bfloat16().float() for key, value in state.items()})
    (tmp_path / "none").mkdir()
    with pytest.raises(WeightsError, match="no network that comes in parts"):
        convert(tmp_path / "none", tmp_path / "out")
    with pytest.raises(WeightsError, match="onto itself"):
        convert(tmp_path / "apart", tmp_path / "apart")
    with pytest.raises(SettingsError, match=r"expected \.safetensors"):
        convert(folder / PUBLISHED[0], tmp_path / "out.pt")


def test_numbers_that_a_dtype_cannot_hold_are_not_cast(tmp_path):
    state = draw()
    state["att_mapper.3.beta_.3.bias"][0] = 1e6
    folder = publish(tmp_path / "published", state)
    with pytest.raises(WeightsError, match=r"att_mapper\.3\.beta_\.3\.bias holds numbers that torch\.float16"):
        convert(folder, tmp_path / "half.safetensors", dtype=torch.float16)
    assert [path.name for path in tmp_path.iterdir()] == ["published"]


_TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int16, torch.bool]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tensors=st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__" and name.isprintable()),
        st.tuples(st.lists(st.integers(0, 3), max_size=3), st.sampled_from(_TYPES)),
        min_size=1,
        max_size=5,
    )
)
def test_what_we_write_is_safetensors(tmp_path_factory, tensors):
    folder = tmp_path_factory.mktemp("written")
    state = {f"k{name}": torch.randint(0, 2, shape).to(kind) for name, (shape, kind) in tensors.items()}
    torch.save(state, folder / "a.pth")
    convert(folder / "a.pth", folder / "a.safetensors")
    with safe_open(folder / "a.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(state) and file.metadata() == {"format": "pt"}
        for key, value in state.items():
            there = file.get_tensor(key)
            assert there.dtype == value.dtype and there.shape == value.shape and torch.equal(there, value)


# --- the command line -------------------------------------------------------------------------------------------


def test_models_commands_know_parts(tmp_path, capsys):
    folder = publish(tmp_path / "published", draw())
    assert main(["models", "list"]) == 0
    listed = capsys.readouterr().out
    assert f"get {', '.join(PUBLISHED)} by hand from https://example.org/three" in listed
    assert main(["models", "verify", *(str(folder / name) for name in PUBLISHED)]) == 0
    said = capsys.readouterr().out
    assert [line.split(": ")[1].split(", ")[1] for line in said.splitlines()] == list(TITLES)
    assert main(["models", "convert", str(folder), "-o", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.count("sha256") == 3
    assert main(["models", "verify", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "Stand-in, code diffuser, 0.00 M numbers" in said and len(said.splitlines()) == 3
    assert main(["models", "fetch", "stand_in", "-o", str(tmp_path)]) != 0
    assert "`bfr models list` says where others are published" in capsys.readouterr().err
    state = draw()
    state["att_mapper.3.beta_.3.bias"][0] = float("nan")
    assert main(["models", "verify", str(publish(folder, state) / PUBLISHED[1])]) != 0
    assert "of the code diffuser" in capsys.readouterr().out


def test_a_config_without_weights_says_where_they_are_published():
    with pytest.raises(BfrError) as caught:
        load_restorer("stand_in")
    assert all(name in caught.value.found for name in PUBLISHED) and "example.org/three" in caught.value.todo


def test_a_config_may_have_several_embedded_files(tmp_path, monkeypatch, capsys):
    state, names = {key: value.half().float() for key, value in draw().items()}, ("tiny_a", "tiny_b", "tiny_c")
    card = {"images": "faces; CC0", "images_seen": 1, "command": "c", "metrics": {}, "weaknesses": "w"}
    for name, title, part in zip(names, TITLES, STAND_IN.parts, strict=True):
        own = {key: value for key, value in state.items() if part.holds(key)}
        write_weights(tmp_path / f"{name}.safetensors", own, method="stand_in", config="tiny", title=title, **card)
    config = dataclasses.replace(STAND_IN.configs[0], name="tiny", embedded=names)
    method = dataclasses.replace(STAND_IN, configs=(config,), recognise=lambda keys: None)
    for module in (registry, parts, folders, cli_models):
        monkeypatch.setattr(module, "methods", lambda: {"stand_in": method})
    monkeypatch.setattr(cards, "_FOLDER", tmp_path)
    restorer = load_restorer("stand_in")
    assert same(restorer.net, state) and restorer.source == "embedded tiny_a, tiny_b, tiny_c"
    assert same(load_restorer("stand_in", weights=tmp_path / "tiny_b.safetensors").net, state)
    assert named_like_parts(method, names)
    assert main(["models", "list"]) == 0 and main(["models", "verify"]) == 0
    listed, *checked = [line for line in capsys.readouterr().out.splitlines() if "tiny" in line or "large" in line]
    assert "weights MIT, trained on faces; CC0" in listed
    assert [line.split("stand_in, ")[1].split(", ")[0] for line in checked] == list(TITLES)
    (tmp_path / "tiny_b.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match="tiny_b"):
        load_restorer("stand_in")


# --- nodes ------------------------------------------------------------------------------------------------------


def test_nodes_offer_a_folder_of_parts_as_one_choice(tmp_path, monkeypatch):
    with FakeHost(tmp_path) as host:
        pack = host.load(Path(__file__).resolve().parents[2])
        node = next(n for n in _nodes(pack) if n.define_schema().node_id == "BFR_LoadRestorer")
        models = pack.module("nodes.models")
        known = {"irn": models.methods()["irn"], "stand_in": _in_pack(pack)}
        for name in (
            "bfr_core.registry",
            "bfr_core.models.checkpoints.parts",
            "bfr_core.models.checkpoints.folders",
            "nodes.models",
        ):
            monkeypatch.setattr(pack.module(name), "methods", lambda: known)
        base = host.models / "facerestore_models"
        base.mkdir(parents=True, exist_ok=True)
        publish(base / "vspbfr", draw())
        (base / "half").mkdir()
        shutil.copy(base / "vspbfr" / PUBLISHED[0], base / "half")
        files = [f"vspbfr{os.sep}{name}" for name in sorted(PUBLISHED)]
        assert models.restorer_files() == ["embedded", "vspbfr/", f"half{os.sep}{PUBLISHED[0]}", *files]
        (loaded,) = execute(node, method="stand_in/large", weights="vspbfr/")
        assert same(loaded.restorer.net, draw())
        (again,) = execute(node, method="stand_in/large", weights=files[0])
        assert same(again.restorer.net, draw())
        before = [node.fingerprint_inputs(method="stand_in/large", weights=choice) for choice in ("vspbfr/", files[0])]
        publish(base / "vspbfr", draw(seed=9))
        os.utime(base / "vspbfr" / PUBLISHED[2], (1000, 1000))
        after = [node.fingerprint_inputs(method="stand_in/large", weights=choice) for choice in ("vspbfr/", files[0])]
        assert before[0] != after[0] and before[1] != after[1]
        (changed,) = execute(node, method="stand_in/large", weights="vspbfr/")
        assert same(changed.restorer.net, draw(seed=9))
        (base / "vspbfr" / PUBLISHED[1]).unlink()
        with pytest.raises(pack.module("bfr_core.errors").WeightsError, match="Cannot find vspbfr/"):
            execute(node, method="stand_in/large", weights="vspbfr/")


def _in_pack(pack) -> object:
    """The stand-in, declared with the classes of the pack that the host loaded."""
    there = pack.module("bfr_core.registry")
    fields = {field.name: getattr(STAND_IN, field.name) for field in dataclasses.fields(STAND_IN)}
    copied = {
        name: tuple(
            kind(**{field.name: getattr(item, field.name) for field in dataclasses.fields(item)})
            for item in getattr(STAND_IN, name)
        )
        for name, kind in (("configs", there.Config), ("parts", there.Part))
    }
    return there.Method(**{**fields, **copied})


def _nodes(pack) -> list:
    import asyncio

    return asyncio.run(asyncio.run(pack.root.comfy_entrypoint()).get_node_list())


# --- what every method with parts declares ----------------------------------------------------------------------


@pytest.mark.parametrize("method", [method for method in METHODS.values() if method.parts], ids=lambda m: m.id)
def test_every_key_belongs_to_one_part_and_every_part_is_told_by_its_keys(method):
    for config in method.configs:
        with torch.device("meta"):
            state = method.build(config).state_dict()
        for key in state:
            assert sum(part.holds(key) for part in method.parts) == 1, key
        for part in method.parts:
            own = [key for key in state if part.holds(key)]
            if not own:  # a config that has no such child
                continue
            assert part.among(own) and not any(other.among(own) for other in method.parts if other is not part)
            assert not any(parts._matches((*part.ignored, *part.kernels), key) for key in own)
    assert named_like_parts(method, [Path(part.file).stem for part in method.parts])
    assert not named_like_parts(method, [Path(part.file).stem for part in method.parts[1:]])


def test_the_published_key_lists_of_vspbfr_are_its_official_network(shared, tmp_path, monkeypatch):
    """Key by key and shape by shape, from lists that were made with the authors' code; 512 px is told from 1024."""
    folder = shared.parent / "design" / "vspbfr_keys"
    if not folder.is_dir():
        pytest.skip(f"no key lists in {folder}")

    def listed(name: str, prefix: str = "") -> dict[str, Tensor]:
        found = {}
        for line in (folder / f"keys_{name}.txt").read_text("utf-8").splitlines():
            key, shape = line.split("\t")
            sides = [int(side) for side in shape.strip("()").split(",") if side.strip()]
            kernel = fir(1 if key.startswith("encoder_convs") else 4)
            found[prefix + key] = kernel if key.endswith(".kernel") else torch.empty(sides, device="meta")
        return found

    style = listed("encoder", "encoder.") | listed("stylegan1024", "decoder.")
    files = {
        PUBLISHED[0]: {"state_dict": style, "latent_avg": torch.empty(18, 512, device="meta"), "opts": {}},
        PUBLISHED[1]: {"att_mapper": listed("code_diffuser"), "args": argparse.Namespace()},
        PUBLISHED[2]: {"g_ema": listed("restoration"), "d": listed("discriminator")},
    }
    monkeypatch.setattr(parts, "open_torch", lambda path, allowed: files[path.name])
    for name in files:
        (tmp_path / name).write_bytes(b"mapped")
    method = METHODS["vspbfr"]
    config = method.config("official")
    with torch.device("meta"):
        own = method.build(config).state_dict()
    _, located = folders.locate(method, tmp_path)
    for part, contents in located:
        parts.check_fit(config, part, contents, own)
    assert method.recognise({key for _, contents in located for key in contents.tensors}) == "official"
    for number in (16, 17):  # what an encoder for a generator of 512 px does not have
        for key in [key for key in style if f".styles.{number}." in key or f".convs.{number - 2}." in key]:
            del style[key]
    for key in [key for key in style if key.startswith("decoder.to_rgbs.7.")]:
        del style[key]
    part, contents = folders.locate(method, tmp_path, "official")[1][0]
    with pytest.raises(
        WeightsError, match=r"16 style heads, a generator of 512 px, expected 18 style heads, .* 1024 px"
    ):
        parts.check_fit(config, part, contents, own)
    files[PUBLISHED[2]] = {"g": listed("restoration"), "d": listed("discriminator")}
    with pytest.raises(WeightsError, match="no g_ema"):
        folders.locate(method, tmp_path)
    files[PUBLISHED[2]] = listed("discriminator")
    with pytest.raises(WeightsError, match="holds the discriminator"):
        folders.locate(method, tmp_path)
    files[PUBLISHED[2]] = {"g_ema": listed("stylegan1024"), "latent_avg": torch.zeros(512)}
    with pytest.raises(WeightsError, match="holds a StyleGAN2 generator"):
        folders.locate(method, tmp_path)
