"""Rules of the house that no other test would notice being broken."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [*(ROOT / "bfr_core").rglob("*.py"), *(ROOT / "nodes").rglob("*.py"), ROOT / "__init__.py"]
BANNED_IMPORTS = {"subprocess", "requests", "urllib", "http", "socket", "torchvision"}
OPTIONAL = {
    "pillow_heif",
    "pillow_jxl",
    "tifffile",
    "imagecodecs",
    "insightface",
    "onnxruntime",
    "facexlib",
    "skimage",
    "torchvision",
    "basicsr",
}


def trees():
    return [(path, ast.parse(path.read_text("utf-8"))) for path in SOURCES]


def test_nothing_that_runs_code_or_calls_the_network():
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in {"eval", "exec", "os.system", "pickle.load", "pickle.loads", "__import__"} or (
                    path.name == "imports.py" and name == "__import__"
                ), f"{path}:{node.lineno} {name}"
                for keyword in node.keywords:
                    assert not (keyword.arg == "weights_only" and ast.unparse(keyword.value) != "True"), path
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            allowed = {"urllib", "http"} if path.name == "download.py" else set()
            banned = BANNED_IMPORTS - allowed
            assert not {name.split(".")[0] for name in names} & banned, f"{path}:{node.lineno}"


def test_only_one_room_opens_checkpoints_and_only_atomic_writes_files():
    for path, tree in trees():
        room = path.relative_to(ROOT).as_posix()
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            if name in {"torch.load", "safe_open"}:
                assert room.startswith("bfr_core/models/checkpoints/"), f"{room}:{node.lineno}"
            if name.endswith(".open") or name == "open":
                mode = "".join(a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))
                writes = set(mode) & set("wax+")
                proc = room == "bfr_core/bench/memory.py"  # resets a kernel counter, writes no file
                assert not writes or room == "bfr_core/media/atomic.py" or proc, f"{room}:{node.lineno}"


def test_imports_are_relative_and_optional_ones_are_inside_functions():
    for path, tree in trees():
        for node in tree.body:
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [(node.module or "").split(".")[0]]
            assert not set(modules) & (OPTIONAL | {"bfr_core", "nodes", "train"}), path
            if "bfr_core" in path.parts[len(ROOT.parts) :]:
                assert not set(modules) & {"comfy", "comfy_api", "folder_paths"}, path


def test_every_error_has_four_parts():
    kinds = {
        "BfrError",
        "InputMediaError",
        "OutputMediaError",
        "SettingsError",
        "WeightsError",
        "ModelError",
        "RestoreError",
        "NumbersError",
        "TrainError",
    }
    training = [(path, ast.parse(path.read_text("utf-8"))) for path in (ROOT / "train").rglob("*.py")]
    for path, tree in [*trees(), *training]:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds:
                assert {keyword.arg for keyword in node.keywords} >= {"found", "kept", "todo"}, f"{path}:{node.lineno}"


def test_modules_stay_small():
    for path in SOURCES:
        lines = len(path.read_text("utf-8").splitlines())
        assert lines <= 500, f"{path} has {lines} lines"


@pytest.mark.parametrize("missing", ["torchvision insightface facexlib onnxruntime skimage basicsr"])
def test_row56_imports_without_optional_packages(missing, tmp_path):
    script = (
        "import sys, types\n"
        f"for name in {missing.split()!r}: sys.modules[name] = None\n"
        "sys.modules['nodes'] = types.ModuleType('nodes')\n"  # ComfyUI has a module of that name
        "import bfr_core.restoration.photo, bfr_core.cli, bfr_core.faces.detect as d, bfr_core.restorer\n"
        "from bfr_core.registry import methods; assert 'irn' in methods()\n"
        "assert d.load_detector().name == 'embedded'\n"
        "assert not any(info.available for info in d.detectors() if info.name in ('insightface', 'facexlib'))\n"
        "assert not {'comfy', 'comfy_api', 'folder_paths', 'train'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


def test_importing_writes_nothing_and_calls_nobody():
    from bfr_core.bench.imports import measure

    assert measure(None, lambda line: None)["effects"] == []


def test_no_picture_or_clip_of_a_person_is_in_the_package():
    tracked = [p for p in (ROOT / "bfr_core").rglob("*") if p.suffix.lower() in {".jpg", ".png", ".mp4", ".webp"}]
    assert not tracked


def test_every_fault_we_promise_to_survive_has_a_test():
    """Rows of tests/FAULTS.md, by the names of tests."""
    names = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    rows = [int(row) for row in re.findall(r"^\| (\d+) \|", (ROOT / "tests" / "FAULTS.md").read_text("utf-8"), re.M)]
    assert rows == list(range(1, 63))
    assert [row for row in rows if not re.search(rf"def test_row(\d\d_)*{row:02d}_", names)] == []
