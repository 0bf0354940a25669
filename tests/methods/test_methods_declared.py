"""What a method has is said in its own folder: shared files name none, and a new one needs no other file."""

from __future__ import annotations

import ast
import asyncio
import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_host import FakeHost, execute
from PIL import Image
from safetensors.torch import save_file

import bfr_core
from bfr_core import bench, registry
from bfr_core.cli import main
from bfr_core.registry import MASK, Method, methods

PROJECT = Path(__file__).resolve().parents[2]

ALLOWED = {
    "bfr_core/networks/conditional_diffusion.py": "irn",  # g_phi is a child of this network, and keys of files say so
    "bfr_core/bench/diffusion.py": "irn",  # the same child, by its name
    "bfr_core/degrade/presets.py": "pltrans vspbfr",  # degradations are named after the papers that print them
    "bfr_core/evaluate/catalogue.py": "vspbfr",  # metrics name the paper that defines them
}
"""Shared files that name a method after all, and why."""


def shared_files() -> Iterator[Path]:
    own = {f"nodes/{name.removeprefix('.')}.py" for method in methods().values() for name in method.nodes}
    for path in sorted([*(PROJECT / "bfr_core").rglob("*.py"), *(PROJECT / "nodes").rglob("*.py")]):
        room = path.relative_to(PROJECT).as_posix()
        if not room.startswith("bfr_core/methods/") and room not in own:
            yield path


def words_of(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and text of names and of strings, but for docstrings, which may cite what they like."""
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value
        for field in ("id", "attr", "arg", "name", "module", "asname"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                yield getattr(node, "lineno", 0), value


def named_in(text: str, method: Method) -> bool:
    """Tell whether text, or an identifier in any case, names a method by its id or its title."""
    if method.title in text or re.search(rf"(?<![a-z0-9]){method.id}(?![a-z0-9])", text, re.IGNORECASE):
        return True
    plain = method.id.replace("_", "")
    return len(plain) > 3 and text.isidentifier() and plain in text.replace("_", "").lower()


def test_shared_files_name_no_method():
    found: dict[str, set[str]] = {}
    for path in shared_files():
        room = path.relative_to(PROJECT).as_posix()
        for line, text in words_of(ast.parse(path.read_text("utf-8"))):
            for method in methods().values():
                if named_in(text, method):
                    assert method.id in ALLOWED.get(room, "").split(), f"{room}:{line} names {method.id}: {text!r}"
                    found.setdefault(room, set()).add(method.id)
    assert {room: " ".join(sorted(ids)) for room, ids in found.items()} == ALLOWED, "take out what is named no longer"


def test_what_methods_declare_is_there():
    assert [method.id for method in methods().values() if method.default] == [registry.default_method().id]
    assert sum(bool(method.mask and method.mask.default) for method in methods().values()) == 1
    assert registry.guiding_methods()[0].mask and registry.guiding_methods()[0].mask.default
    for method in methods().values():
        guided = {one.name for one in method.params} >= {registry.GUIDANCE}
        assert guided == method.guides, method.id
        if method.mask:
            assert method.guides and any(given.kind == MASK for given in method.inputs), method.id
        assert bool(method.picture) == bool(method.picture_help), method.id
        for name in {**method.benches, **method.published_benches}.values():
            assert callable(importlib.import_module(name, bench.__name__).measure)
        for name in method.commands.values():
            assert callable(importlib.import_module(name, "bfr_core.cli").add)


# A sixth method that guides, in a folder of its own ---------------------------------------------------------------

DECLARATION = '''
"""A method that steers the average of a face to an identity."""

from dataclasses import dataclass

import torch
from torch import nn

from ...dial import Dial, fidelity_param
from ...diffusion.guidance import choose_mask, guide_or_embedded, steering, targets
from ...registry import MASK, Config, Input, LearntMask, Method, Paper
from ...settings import param

LIGHT = Dial("light that is added", 2, 1, 0.5)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.sixth = nn.Parameter(torch.tensor(0.1))


@dataclass(frozen=True, slots=True)
class SixthSettings:
    fidelity: float = fidelity_param()
    guidance: bool = param(False, "Steer")
    scale: float = param(0.05, "How far", low=0.0, high=1.0, step=0.01)


def restore(net, faces, settings, seeds, inputs, context):
    made = faces + net.sixth * LIGHT.at(settings.fidelity)
    if settings.guidance:
        guide = guide_or_embedded(context.guide, faces.device)
        mask = choose_mask("none", faces, given=inputs.get("mask"), makers={})
        made = made - steering(guide, made, targets(guide, faces), scale=settings.scale, mask=mask)
    return made


def half_mask(restorer, faces, *, seeds, settings=None, runtime):
    restorer.check(faces, seeds)
    return torch.ones_like(faces[:, :1]) * (torch.arange(faces.shape[-1]) < faces.shape[-1] // 2)


def restore_picture(restorer, picture, *, seed=0, settings=None, runtime):
    return 1 - picture


METHOD = Method(
    id="sixth",
    title="Sixth Sense",
    summary="Adds light.",
    papers=(Paper("A paper", "", "Sec. 6"),),
    configs=(Config("tiny", "Tiny", 64),),
    build=lambda config: Net(),
    restore=restore,
    recognise=lambda keys: "tiny" if set(keys) == {"sixth"} else None,
    settings_type=SixthSettings,
    inputs=(Input("mask", MASK, "Where"),),
    dials=(LIGHT,),
    guides=True,
    mask=LearntMask("half mask", half_mask),
    picture=restore_picture,
    picture_help="light and dark change places.",
    nodes=(f"{__name__}.shown",),
    benches={"sixth": f"{__name__}.bench"},
    commands={"sixth": f"{__name__}.command"},
)
'''
FILES = {
    "__init__.py": DECLARATION,
    "shown.py": """
from ....nodes.compat import io, schema


class SixthNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(node_id="BFR_Sixth", display_name="Sixth", category="Faces/Restore", inputs=[], outputs=[])

    @classmethod
    def execute(cls):
        return io.NodeOutput()


NODES = (SixthNode,)
""",
    "bench.py": "def measure(data, say, sheets=None):\n    say('measured')\n    return {'six': 6}\n",
    "command.py": """
def add(commands, argv):
    commands.add_parser("sixth", help="what only this method can").set_defaults(run=lambda args: 6)
""",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("methods")
    (place / "sixth").mkdir()
    for name, text in FILES.items():
        (place / "sixth" / name).write_text(text, encoding="utf-8")
    return place


@pytest.fixture
def known(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The method, found in its folder like any other."""
    package = importlib.import_module("bfr_core.methods")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    methods.cache_clear()
    yield methods()["sixth"]
    methods.cache_clear()
    for name in [name for name in sys.modules if name.startswith("bfr_core.methods.sixth")]:
        del sys.modules[name]


@pytest.fixture
def place(known: Any, tmp_path: Path) -> Path:
    save_file(known.build(known.configs[0]).state_dict(), tmp_path / "sixth.safetensors")
    Image.effect_noise((64, 64), 60).convert("RGB").save(tmp_path / "face.png")
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit):
        main([*arguments, "--help"])
    return " ".join(capsys.readouterr().out.split())


def test_the_command_line_knows_a_sixth_method(known, place, capsys):
    assert "sixth what only this method can" in told(capsys) and main(["sixth"]) == 6
    assert "pltrans,sixth,vspbfr" in told(capsys, "restore")
    options = told(capsys, "restore", "--method", "sixth")
    assert "settings of Sixth Sense" in options and "--scale X How far from 0 to 1 (0.05)" in options
    assert "sixth" in told(capsys, "bench") and main(["bench", "sixth"]) == 0 and "measured" in capsys.readouterr().out
    assert main(["models", "list"]) == 0 and "Sixth Sense" in capsys.readouterr().out

    def restored(name: str, *options: str) -> torch.Tensor:
        files = [str(place / "face.png"), "-o", str(place / name), "--weights", str(place / "sixth.safetensors")]
        assert main(["restore", *files, "--method", "sixth", "--report", str(place / "report.json"), *options]) == 0
        (entry,) = json.loads((place / "report.json").read_text("utf-8"))["files"]
        assert entry["report"]["method"] == "sixth"
        return torch.frombuffer(bytearray(Image.open(place / name).tobytes()), dtype=torch.uint8).float()

    plain = restored("plain.png", "--aligned")
    bright = restored("bright.png", "--aligned", "--fidelity", "0")
    guided = restored("guided.png", "--aligned", "--guide-strength", "5")
    assert bright.mean() > plain.mean() and not torch.equal(guided, plain)
    whole = restored("whole.png", "--whole")
    assert not torch.equal(whole, plain)


def test_nodes_know_a_sixth_method(folder: Path, tmp_path: Path) -> None:
    with FakeHost(tmp_path) as host:
        pack = host.load(PROJECT)
        package = pack.module("bfr_core.methods")
        package.__path__ = [*package.__path__, str(folder)]
        pack.module("bfr_core.registry").methods.cache_clear()
        extension = asyncio.run(pack.root.comfy_entrypoint())
        nodes = {node.define_schema().node_id: node for node in asyncio.run(extension.get_node_list())}
        schemas = {name: node.define_schema() for name, node in nodes.items()}
        assert {"BFR_Restore_sixth", "BFR_RestoreImage_sixth", "BFR_Sixth"} <= set(nodes)
        assert "the half mask of Sixth Sense" in schemas["BFR_GuidanceMask"].description
        assert "CLR-Face and Sixth Sense, in every node" in schemas["BFR_IdentityGuide"].description
        widgets = [item.id for item in schemas["BFR_Restore_sixth"].inputs]
        assert widgets == ["faces", "seed", "fidelity", "guidance", "scale", "restorer", "mask", "crops", "colours"]

        (host.models / "facerestore_models").mkdir()
        method = pack.module("bfr_core.registry").get_method("sixth")
        save_file(method.build(method.configs[0]).state_dict(), host.models / "facerestore_models" / "six.safetensors")
        (restorer,) = execute(nodes["BFR_LoadRestorer"], method="sixth/tiny", weights="six.safetensors")
        faces = torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(0)) / 2
        (mask,) = execute(nodes["BFR_GuidanceMask"], faces=faces, restorer=restorer)
        assert mask.shape == (2, 64, 64) and mask[..., :32].all() and not mask[..., 32:].any()
        plain, report = execute(nodes["BFR_Restore_sixth"], faces=faces, restorer=restorer)
        assert json.loads(report)[0]["method"] == "sixth" and (plain - faces).mean() > 0.05
        (bound,) = execute(nodes["BFR_IdentityGuide"], restorer=restorer)
        steered, _ = execute(nodes["BFR_Restore_sixth"], faces=faces, restorer=bound, mask=mask)
        moved = (steered - plain).abs().amax((0, 1, 3))
        assert moved[:24].max() > 1e-3, "steered inside the mask"
        image, _ = execute(nodes["BFR_RestoreImage_sixth"], image=faces, restorer=restorer)
        assert image.shape == faces.shape and not torch.equal(image, faces)


def test_the_folder_is_all_there_was(folder: Path) -> None:
    assert sorted(path.name for path in (folder / "sixth").iterdir() if path.suffix == ".py") == sorted(FILES)
    assert "sixth" not in methods() and not (Path(bfr_core.__file__).parent / "methods" / "sixth").exists()
