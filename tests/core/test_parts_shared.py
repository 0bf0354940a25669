"""Networks that share a part with others: its own files, what comes along, configs without it, layouts in common."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bfr_core import registry
from bfr_core.cli import main
from bfr_core.cli import models as cli_models
from bfr_core.cli import restore as cli_restore
from bfr_core.errors import WeightsError
from bfr_core.models.checkpoints import cards, folders, origin, parts
from bfr_core.models.checkpoints.files import sha256_of
from bfr_core.models.checkpoints.origin import read_origin
from bfr_core.registry import Config, Method, Part, identify
from bfr_core.restorer import load_restorer
from train.export import write_weights


class Net(nn.Module):
    """`unet`, `mask` where there is one, and `irn` where there is one."""

    def __init__(self, width: int = 4, mask: bool = True, irn: bool = True) -> None:
        super().__init__()
        self.unet = nn.Linear(width, 3)
        if mask:
            self.mask = nn.Linear(2, 2)
        if irn:
            self.irn = nn.Linear(3, 5)


METHODS = cli_restore.methods()
UNET = Part("diffusion", "diffusion model", "painter_diffusion.safetensors", ("unet.",), {}, ("unet.weight",))
MASK = Part("mask", "region mask", "painter_mask.safetensors", ("mask.",), {}, ("mask.weight",))
IRN = Part("irn", "recovery network", "irn.safetensors", ("irn.",), {}, alone="recover")


def method(name: str, held: tuple[Part, ...], *configs: Config) -> Method:
    return Method(
        name, name.title(), "", (), configs, lambda config: Net(**config.options),
        lambda net, faces, settings, seeds, inputs, context: faces,
        lambda keys: configs[0].name if "unet.weight" in keys else None,
        parts=held,
    )  # fmt: skip


RECOVER = Method(
    "recover", "Recover", "", (), (Config("tiny", "", 8, embedded=("recover_tiny",)),), lambda config: nn.Linear(3, 5),
    lambda net, faces, settings, seeds, inputs, context: faces,
    lambda keys: "tiny" if set(keys) == {"weight", "bias"} else None,
)  # fmt: skip
PAINTER = method(
    "painter", (UNET, MASK, IRN),
    Config("small", "", 8, embedded=("painter_small_unet", "painter_small_mask"), shared={"irn.": "recover_tiny"}),
    Config("wide", "", 8, {"width": 9}),
    Config("bare", "", 8, {"irn": False, "width": 6}),
)  # fmt: skip
PATCHES = method("patches", (UNET, IRN), Config("small", "", 8, {"mask": False}))


def state(seed: int, **options) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return Net(**options).state_dict()


def some(full: Mapping[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in full.items() if key.startswith(prefixes)}


def alone(seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return nn.Linear(3, 5).state_dict()


def same(net: nn.Module, *pieces: Mapping[str, Tensor]) -> bool:
    wanted = {key: tensor for piece in pieces for key, tensor in piece.items()}
    own = net.state_dict()
    return own.keys() == wanted.keys() and all(torch.equal(own[key], wanted[key]) for key in own)


def under_irn(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"irn.{key}": tensor for key, tensor in own.items()}


@pytest.fixture(autouse=True)
def only_these(monkeypatch, tmp_path_factory):
    """The declared methods, with embedded weights: the mask and the U-Net of one, the whole of the other."""
    known = {"painter": PAINTER, "patches": PATCHES, "recover": RECOVER}
    for module in (registry, origin, parts, folders, cli_models):
        monkeypatch.setattr(module, "methods", lambda: known)
    monkeypatch.setattr(cli_restore, "methods", lambda: METHODS)  # its options are those of a declared method
    folder = tmp_path_factory.mktemp("embedded")
    monkeypatch.setattr(cards, "_FOLDER", folder)
    facts = {
        "method": "painter", "config": "small", "title": "t", "images": "pictures", "images_seen": 1, "command": "c",
        "metrics": {}, "weaknesses": "none",
    }  # fmt: skip
    full = state(100)
    for name, tensors in {
        "painter_small_unet": some(full, "unet."),
        "painter_small_mask": some(full, "mask."),
        "recover_tiny": alone(101),
    }.items():
        write_weights(folder / f"{name}.safetensors", tensors, dtype="float32", **facts)


def write(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    save_file(dict(tensors), path)
    return path


def test_embedded_weights_of_another_method_fill_a_child():
    restorer = load_restorer("painter")
    assert same(restorer.net, some(state(100), "unet.", "mask."), under_irn(alone(101)))
    assert restorer.source == "embedded painter_small_unet, painter_small_mask, recover_tiny"
    assert same(load_restorer("recover").net, alone(101))


def test_a_part_that_is_not_there_comes_from_the_embedded_weights_and_is_said(tmp_path):
    mine = write(tmp_path / "mine.safetensors", some(state(1), "unet."))
    for path in (mine, tmp_path):
        restorer = load_restorer("painter", weights=path)
        assert same(restorer.net, some(state(1), "unet."), some(state(100), "mask."), under_irn(alone(101)))
        assert restorer.source == f"{mine}, embedded painter_small_mask, embedded recover_tiny"
    masks = write(tmp_path / "masks.safetensors", some(state(2), "mask."))
    restorer = load_restorer("painter", weights=mine)
    assert same(restorer.net, some(state(1), "unet."), some(state(2), "mask."), under_irn(alone(101)))
    assert restorer.source == f"{mine}, {masks}, embedded recover_tiny"


def test_nothing_of_the_network_is_no_reason_to_take_what_comes_along(tmp_path):
    write(tmp_path / "other.safetensors", {"w": torch.ones(2)})
    with pytest.raises(WeightsError, match="lacks its diffusion model"):
        load_restorer("painter", weights=tmp_path)
    with pytest.raises(WeightsError, match=r"other\.safetensors for Painter"):
        load_restorer("painter", weights=tmp_path / "other.safetensors")


def test_a_config_without_weights_of_its_own_lacks_what_is_missing(tmp_path):
    mine = write(tmp_path / "mine.safetensors", some(state(1, width=9), "unet."))
    with pytest.raises(WeightsError, match="lacks its region mask"):
        load_restorer("painter", "wide", weights=mine)


def test_the_file_of_the_shared_network_itself_serves_as_the_part(tmp_path):
    mine = write(tmp_path / "mine.safetensors", some(state(1), "unet."))
    theirs = write(tmp_path / "trained yesterday.safetensors", alone(7))
    for path in (mine, theirs, tmp_path):
        restorer = load_restorer("painter", weights=path)
        assert same(restorer.net, some(state(1), "unet."), some(state(100), "mask."), under_irn(alone(7)))
        assert str(theirs) in restorer.source and "recover_tiny" not in restorer.source
    assert same(load_restorer("recover", weights=theirs).net, alone(7))
    torch.manual_seed(0)
    write(theirs, nn.Linear(3, 6).state_dict())
    with pytest.raises(WeightsError, match=r"as its recovery network .*irn.weight \(6, 3\), expected \(5, 3\)"):
        load_restorer("painter", weights=mine)


def test_a_config_without_the_child_does_not_ask_for_the_part(tmp_path):
    full = state(3, irn=False, width=6)
    mine = write(tmp_path / "mine.safetensors", full)
    restorer = load_restorer("painter", "bare", weights=mine)
    assert same(restorer.net, full) and restorer.source == str(mine)
    for name in ("a", "b"):  # several that it has no use for do no harm
        write(tmp_path / f"{name}.safetensors", alone(1))
    assert same(load_restorer("painter", "bare", weights=tmp_path).net, full)
    assert load_restorer("painter", weights=mine).config.name == "bare"  # told by its shapes


def test_of_several_files_the_one_that_fits_is_taken(tmp_path):
    write(tmp_path / "a.safetensors", some(state(1), "unet."))
    write(tmp_path / "b.safetensors", some(state(1, width=9), "unet."))
    write(tmp_path / "c.safetensors", some(state(1), "mask."))
    restorer = load_restorer("painter", "small", weights=tmp_path)
    assert "a.safetensors" in restorer.source and "b.safetensors" not in restorer.source
    write(tmp_path / "d.safetensors", some(state(2), "unet."))
    with pytest.raises(WeightsError, match=r"which diffusion model.*a.safetensors, b.safetensors, d.safetensors") as e:
        load_restorer("painter", "small", weights=tmp_path)
    assert e.value.kept and e.value.todo


def test_a_damaged_embedded_part_is_no_substitute(tmp_path, monkeypatch):
    mine = write(tmp_path / "mine.safetensors", some(state(1), "unet."))
    card = cards._FOLDER / "painter_small_mask.json"
    fields = json.loads(card.read_text())
    card.write_text(json.dumps(fields | {"sha256": "0" * 64}))
    with pytest.raises(WeightsError, match="painter_small_mask"):
        load_restorer("painter", weights=mine)


def test_layouts_in_common_are_all_named_and_the_network_that_has_all_of_a_file_first(tmp_path, capsys):
    full = state(1)
    assert identify(some(full, "unet.")) == "Painter, diffusion model or Patches, diffusion model"
    assert identify(some(full, "unet.", "mask.")) == "Painter, diffusion model and region mask"
    assert identify(full) == "Painter, config small"
    assert (
        identify(some(full, "unet.", "irn."))
        == "Painter, diffusion model and recovery network or Patches, config small"
    )
    assert identify(alone(1)) == "Recover, config tiny"
    theirs = write(tmp_path / "irn.safetensors", alone(1))
    assert main(["models", "verify", str(theirs)]) == 0
    told = capsys.readouterr().out
    assert "Recover, config tiny" in told and sha256_of(theirs) in told


def trained(path: Path, tensors: Mapping[str, Tensor], method: str, title: str) -> Path:
    """Write a file as training does, without its card."""
    facts = {"config": "small", "images": "i", "images_seen": 1, "command": "c", "metrics": {}, "weaknesses": "w"}
    write_weights(path, tensors, dtype="float32", method=method, title=title, **facts)
    path.with_suffix(".json").unlink()
    return path


def test_a_file_that_says_whose_it_is_serves_no_other_method_of_its_layout(tmp_path, capsys):
    theirs = trained(tmp_path / "theirs.safetensors", some(state(1), "unet."), "patches", "Patch model")
    with pytest.raises(WeightsError, match="weights of Patches, Patch model, config small; exp") as caught:
        load_restorer("painter", weights=theirs)
    assert caught.value.kept and caught.value.todo
    with pytest.raises(WeightsError, match=r"lacks its diffusion model.* 1 files of other models"):
        load_restorer("painter", weights=tmp_path)
    mine = trained(tmp_path / "mine.safetensors", some(state(2), "unet."), "painter", "Painting model")
    recover = trained(tmp_path / "irn.safetensors", alone(3), "recover", "Recovery")
    restorer = load_restorer("painter", weights=tmp_path)  # by keys alone both files could be its own
    assert same(restorer.net, some(state(2), "unet."), some(state(100), "mask."), under_irn(alone(3)))
    assert same(load_restorer("patches", weights=theirs).net, some(state(1), "unet."), under_irn(alone(3)))
    assert main(["models", "verify", str(theirs), str(mine), str(recover)]) == 0
    told = [line.split(": ")[1] for line in capsys.readouterr().out.splitlines()]
    wanted = ("Patches, Patch model, config small", "Painter, Painting model, config small")
    assert all(line.startswith(words) for line, words in zip(told, (*wanted, "Recover, Recovery, config"), strict=True))


def test_what_a_file_says_of_itself_goes_with_it_when_it_is_converted(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    mine = trained(folder / "a.safetensors", some(state(1), "unet."), "painter", "Painting model")
    out = tmp_path / "half.safetensors"
    assert main(["models", "convert", str(mine), "-o", str(out), "--dtype", "float16"]) == 0
    assert read_origin(out) == read_origin(mine) == origin.Origin("painter", "small", "Painting model")
    trained(folder / "b.safetensors", some(state(1), "mask."), "painter", "Mask")
    assert main(["models", "convert", str(folder), "-o", str(tmp_path / "apart")]) == 0
    assert read_origin(tmp_path / "apart" / MASK.file).title == "Mask"
    assert main(["models", "convert", str(folder), "-o", str(out)]) == 0
    assert read_origin(out) is None  # its parts say different things; what it is, its keys tell
    assert same(load_restorer("painter", weights=out).net, some(state(1), "unet.", "mask."), under_irn(alone(101)))


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"bfr.method": "painter"}, {"method": "patches"}])
def test_files_that_say_nothing_are_told_by_their_keys(tmp_path, metadata):
    path = tmp_path / "mine.safetensors"
    save_file(some(state(1), "unet."), path, metadata)
    assert read_origin(path) is None
    assert load_restorer("painter", weights=path).source.startswith(str(path))
    assert read_origin(tmp_path / "none.safetensors") is None
    path.write_bytes(b"damaged")
    assert read_origin(path) is None


def test_a_folder_belongs_to_the_network_that_all_its_files_are_parts_of(tmp_path):
    write(tmp_path / "a.safetensors", some(state(1), "unet."))
    write(tmp_path / "b.safetensors", some(state(1), "mask."))
    write(tmp_path / "c.safetensors", alone(1))
    assert folders.find_method(tmp_path) is PAINTER
    out = tmp_path / "out" / "all.safetensors"
    out.parent.mkdir()
    assert main(["models", "convert", str(tmp_path), "-o", str(out)]) == 0
    assert same(load_restorer("painter", weights=out).net, some(state(1), "unet.", "mask."), under_irn(alone(1)))
    for name in "bc":
        (tmp_path / f"{name}.safetensors").unlink()
    # Alone the first could be of either, but only one of them is whole with what comes along, which is not written.
    assert main(["models", "convert", str(tmp_path), "-o", str(out)]) == 0
    assert load_file(out).keys() == some(state(1), "unet.").keys()
    write(tmp_path / "c.safetensors", alone(1))
    write(tmp_path / "a.safetensors", some(state(1, width=9), "unet."))
    write(tmp_path / "b.safetensors", some(state(1), "mask."))
    assert folders.find_method(tmp_path) is PAINTER
    (tmp_path / "b.safetensors").unlink()
    write(tmp_path / "a.safetensors", some(state(1), "unet."))
    with pytest.raises(WeightsError, match="Painter, Patches; expected the parts of one network"):
        folders.find_method(tmp_path)


def test_the_list_of_models_names_what_is_shared(capsys):
    assert main(["models", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    small = next(line for line in lines if line.startswith("  small") and "shares" in line)
    assert "shares recover_tiny" in small and "pictures" in small
