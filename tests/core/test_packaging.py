"""What people download: the wheel, the source distribution, and the archive of the ComfyUI registry."""

from __future__ import annotations

import ast
import asyncio
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest
from fake_host import FakeHost
from PIL import Image

import bfr_core

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))
LARGEST_WHEEL = 95_000_000
"""Bytes. The package index takes 100 MiB; the rest is room for one more release."""
OF_THE_HOST = {"torch", "numpy"}
"""Dependencies that every ComfyUI has already, and that a pack must not touch."""
RUNS = {"__init__.py", "pyproject.toml", "requirements.txt", "README.md", "LICENSE"}
"""Files at the top that the pack needs, or its licence wants beside it."""


def git_files(*options: str) -> set[str]:
    command = ["git", "-C", str(PROJECT), "ls-files", "-z", *options]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip(f"not a git checkout: {listed.stderr.strip()}")
    return {name for name in listed.stdout.split("\0") if name and (PROJECT / name).is_file()}


def place(names: set[str], source: Path, target: Path) -> Path:
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)
    return target


def largest(sizes: dict[str, int], count: int = 8) -> str:
    """Return the largest files, a line each."""
    ranked = sorted(sizes.items(), key=lambda item: -item[1])[:count]
    return "\n".join(f"{size / 1e6:6.1f} MB  {name}" for name, size in ranked)


@pytest.fixture(scope="module")
def archive() -> set[str]:
    """Names in the archive of the registry: tracked files that .comfyignore leaves in."""
    return git_files() - git_files("--cached", "--ignored", f"--exclude-from={PROJECT / '.comfyignore'}")


def build(what: str, source: Path, target: Path) -> Path:
    """Build a distribution with the build back end itself, into `target`."""
    script = f"from setuptools import build_meta; print(build_meta.build_{what}({str(target)!r}))"
    done = subprocess.run([sys.executable, "-c", script], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target / done.stdout.splitlines()[-1]


def test_the_distributions_hold_what_runs_and_are_not_too_large(archive, tmp_path):
    """One test, so that two workers do not build twice; the wheel is built from the source distribution."""
    checkout = place(git_files("--cached", "--others", "--exclude-standard"), PROJECT, tmp_path / "checkout")
    path = build("sdist", checkout, tmp_path)
    with tarfile.open(path) as sdist:
        names = {str(PurePosixPath(*PurePosixPath(item.name).parts[1:])) for item in sdist if item.isfile()}
        sdist.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))  # noqa: S202
    assert names >= archive, f"missing: {sorted(archive - names)}"
    made = {name for name in names if name.startswith("bfr_faces.egg-info/")} | {"PKG-INFO", "setup.cfg"}
    assert names - archive - made == {"MANIFEST.in"}

    path = build("wheel", tmp_path / path.name.removesuffix(".tar.gz"), tmp_path)
    with zipfile.ZipFile(path) as wheel:
        sizes = {item.filename: item.compress_size for item in wheel.infolist()}
    tops = {name.split("/")[0] for name in sizes}
    assert tops == {"bfr_core", f"bfr_faces-{bfr_core.__version__}.dist-info"}
    assert set(sizes) >= {name for name in archive if name.startswith("bfr_core/")}
    size = path.stat().st_size
    assert size < LARGEST_WHEEL, f"{size / 1e6:.1f} MB; expected under {LARGEST_WHEEL / 1e6:g}\n{largest(sizes)}"


def test_the_registry_gets_what_runs_and_nothing_else(archive):
    assert {name for name in archive if "/" not in name} == RUNS | {"CHANGELOG.md"}
    assert {name.split("/")[0] for name in archive if "/" in name} == {
        *("bfr_core", "nodes", "workflows", "docs", "web", "locales")
    }
    assert {PurePosixPath(name).suffix for name in archive if name.startswith("docs/")} == {".md"}
    for folder in ("bfr_core", "nodes", "workflows", "web", "locales"):
        assert {name for name in git_files() if name.startswith(f"{folder}/")} <= archive


def test_relative_imports_of_the_archive_resolve_in_it(archive):
    for name in sorted(archive):
        if not name.endswith(".py"):
            continue
        for node in ast.walk(ast.parse((PROJECT / name).read_text("utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not node.level:
                continue
            folder = PurePosixPath(name).parents[node.level - 1]
            module = folder.joinpath(*(node.module or "").split(".")) if node.module else folder
            found = {f"{module}.py", f"{module}/__init__.py"} & archive
            if not node.module:
                found |= {f"{folder}/{alias.name}{end}" for alias in node.names for end in (".py", "/__init__.py")}
                found &= archive
            assert found, f"{name}:{node.lineno} {ast.unparse(node)}"


def test_the_archive_runs_by_itself(archive, tmp_path):
    """Unpacked alone, it gives every node to a host and loads its weights."""
    pack = place(archive, PROJECT, tmp_path / "custom_nodes" / "bfr-faces")
    with FakeHost(tmp_path / "base", newer=True) as host:
        loaded = host.load(pack)
        extension = asyncio.run(loaded.root.comfy_entrypoint())
        assert len(asyncio.run(extension.get_node_list())) > 30
        assert loaded.module("bfr_core.restorer").load_restorer("irn").source == "embedded irn_compact"
        assert loaded.module("bfr_core").__file__.startswith(str(pack))


def test_one_version():
    assert PYPROJECT["project"]["version"] == bfr_core.__version__
    assert "dynamic" not in PYPROJECT["project"], "the registry's tools read a static version only"
    assert re.fullmatch(r"\d+\.\d+\.\d+", bfr_core.__version__)
    headings = re.findall(r"^## (.*)$", (PROJECT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert re.fullmatch(rf"{re.escape(bfr_core.__version__)} - \d{{4}}-\d\d-\d\d", headings[1])


def test_the_pack_and_the_library_need_the_same():
    listed = (PROJECT / "requirements.txt").read_text("utf-8").splitlines()
    needed = PYPROJECT["project"]["dependencies"]
    assert listed == [item for item in needed if re.match(r"[\w-]+", item)[0] not in OF_THE_HOST]


def test_icon_and_banner_are_what_the_registry_takes():
    """A square icon of at most 400 pixels, a banner of 21 to 9; both are files of the repository that the URLs name."""
    sizes = {}
    for name in ("Icon", "Banner"):
        url = PYPROJECT["tool"]["comfy"][name]
        base = PYPROJECT["project"]["urls"]["Repository"].replace("//github.com/", "//raw.githubusercontent.com/")
        file = url.removeprefix(f"{base}/main/")
        assert file in git_files("--cached", "--others", "--exclude-standard"), url
        with Image.open(PROJECT / file) as picture:
            picture.load()
            sizes[name] = picture.size
    assert sizes["Icon"][0] == sizes["Icon"][1] <= 400
    assert sizes["Banner"][0] * 9 == sizes["Banner"][1] * 21
