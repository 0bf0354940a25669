"""No circle of imports: neither of modules, nor of what functions import, nor of what only types need."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("bfr_core", "nodes", "train")
KINDS = ("module", "function", "types")
"""What is counted, each kind with those before it: imports that run with the module, those inside functions, and those
under `if TYPE_CHECKING`."""


def files(root: Path) -> dict[str, Path]:
    """Return every module by its dotted name."""
    found = {}
    for path in (path for room in ROOMS for path in (root / room).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(node: ast.AST, kind: str) -> Iterator[ast.Import | ast.ImportFrom]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            if kind != "module":
                yield from imports(child, kind)
        elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for part in (*(child.body if kind == "types" else ()), *child.orelse):
                yield from imports(ast.Module([part], []), kind)
        else:
            yield from imports(child, kind)


def graph(known: dict[str, Path], kind: str) -> dict[str, set[str]]:
    """Return whom each module imports, packages on the way included unless it lies in them itself."""
    edges = {}
    for name, path in known.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        wanted = set()
        for node in imports(ast.parse(path.read_text("utf-8")), kind):
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
                continue
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            wanted |= {full if (full := f"{base}.{alias.name}") in known else base for alias in node.names}
        ways = {".".join(other.split(".")[:end]) for other in wanted for end in range(1, len(other.split(".")) + 1)}
        edges[name] = {way for way in ways if way in known and not f"{name}.".startswith(f"{way}.")}
        edges[name] |= (wanted & known.keys()) - {name}
    return edges


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Return the modules of each circle (strongly connected components of more than one)."""
    reach: dict[str, set[str]] = {}
    for start in edges:
        seen, todo = set(), [start]
        while todo:
            new = edges[todo.pop()] - seen
            seen |= new
            todo += new
        reach[start] = seen
    groups = {frozenset({start, *(other for other in reach[start] if start in reach[other])}) for start in edges}
    return sorted(sorted(group) for group in groups if len(group) > 1)


@pytest.mark.parametrize("kind", KINDS)
def test_no_module_is_imported_in_a_circle(kind):
    found = circles(graph(files(ROOT), kind))
    assert not found, "\n".join(f"circle of {len(circle)}: {', '.join(circle)}" for circle in found)


def test_circles_of_every_kind_are_seen(tmp_path):
    room = tmp_path / "bfr_core"
    (room / "inner").mkdir(parents=True)
    texts = {
        "__init__.py": "",
        "a.py": "from . import b",
        "b.py": "def f():\n    from .a import x",
        "c.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .inner.d import y",
        "inner/__init__.py": "from ..c import z",
        "inner/d.py": "",
        "e.py": "import bfr_core.f",
        "f.py": "class C:\n    from bfr_core.e import w",
    }
    for name, text in texts.items():
        (room / name).write_text(text)
    of = {kind: circles(graph(files(tmp_path), kind)) for kind in KINDS}
    assert of["module"] == [["bfr_core.e", "bfr_core.f"]]
    assert of["function"] == [["bfr_core.a", "bfr_core.b"], *of["module"]]
    assert of["types"] == [["bfr_core.a", "bfr_core.b"], ["bfr_core.c", "bfr_core.inner"], *of["module"]]
