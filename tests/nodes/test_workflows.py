"""The saved workflows: valid graphs of nodes that exist, the same in the page's form and in the host's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[2]
SCHEMAS = json.loads((Path(__file__).parent / "node_schemas.json").read_text("utf-8"))
NAMES = sorted(path.stem for path in (PROJECT / "workflows").glob("*.json"))
WIDGETS = ("COMBO", "INT", "FLOAT", "BOOLEAN", "STRING", "COMFY_DYNAMICCOMBO_V3")
"""A dynamic combo at its first choice has no further widgets."""
SPACE = 20
"""Least distance between two nodes, in the units of the canvas; a title is drawn above its node."""
TITLE = 30

CORE: dict[str, tuple[list[str], list[str]]] = {
    "LoadImage": (["image", "upload"], ["IMAGE", "MASK"]),
    "SaveImage": (["filename_prefix"], []),
    "PreviewImage": ([], []),
    "MaskPreview": ([], []),
    "PreviewAny": (["preview_markdown", "preview_text", "previewMode"], ["STRING"]),
    "MarkdownNote": (["text"], []),
    "LoadVideo": (["file", "upload"], ["VIDEO"]),
    "SaveVideo": (["filename_prefix", "format", "codec"], []),
    "GetVideoComponents": ([], ["IMAGE", "AUDIO", "FLOAT"]),
    "CreateVideo": (["fps"], ["VIDEO"]),
}
"""Widgets and output types of the core nodes that workflows may use: those that 0.8 has as well."""

PAGE_ONLY = {"MarkdownNote"}

SHOWN = {
    "pltrans_edit": {("BFR_PLTransMix", "amount"), *(("BFR_FacePartMask", part) for part in ("eyes", "brows", "nose"))}
}
"""Settings that stray from their defaults because they are what a workflow shows: the whole mouth of another face."""


def ui(name: str) -> dict[str, Any]:
    return json.loads((PROJECT / "workflows" / f"{name}.json").read_text("utf-8"))


def api(name: str) -> dict[str, Any]:
    return json.loads((PROJECT / "tests" / "nodes" / "api" / f"{name}.json").read_text("utf-8"))


def widgets(kind: str) -> list[str | None]:
    """Name the widgets of a node in the order of widgets_values; None for one that only the page has."""
    if kind in CORE:
        return list(CORE[kind][0])
    names: list[str | None] = []
    for item in SCHEMAS[kind]["inputs"]:
        if item["type"] in WIDGETS:
            names.append(item["name"])
            names += [None] * bool(item.get("control_after_generate"))
    return names


def test_there_are_workflows() -> None:
    assert {"restore_faces", "restore_faces_step_by_step"} <= set(NAMES)
    assert sorted(path.stem for path in (PROJECT / "tests" / "nodes" / "api").glob("*.json")) == NAMES


def test_every_node_of_the_pack_is_shown() -> None:
    used = {node["type"] for name in NAMES for node in ui(name)["nodes"]}
    assert used >= set(SCHEMAS), f"in no workflow: {sorted(set(SCHEMAS) - used)}"


@pytest.mark.parametrize("name", NAMES)
def test_nodes_and_values(name: str) -> None:
    for node in ui(name)["nodes"]:
        kind, values = node["type"], node.get("widgets_values") or []
        assert kind in CORE or kind in SCHEMAS, kind
        assert node["mode"] == 0
        names = widgets(kind)
        assert len(values) == len(names), f"{kind}: {values} for {names}"
        if kind in CORE:
            continue
        inputs = {item["name"]: item for item in SCHEMAS[kind]["inputs"]}
        assert [item["name"] for item in node["inputs"] if item["name"] not in names] == [
            item for item in inputs if item not in names
        ]
        for widget, value in zip(names, values, strict=True):
            if widget is None:
                assert value == "fixed", "a saved workflow gives the same picture each time"
                continue
            item = inputs[widget]
            if item["type"] == "BOOLEAN":
                assert isinstance(value, bool)
            elif item["type"] == "STRING":
                assert isinstance(value, str)
            else:
                assert value in item["options"] if "options" in item else item["min"] <= value <= item["max"]
            # A second draw of the same faces is what another seed is for.
            meant = widget == "seed" or (kind, widget) in SHOWN.get(name, ())
            assert meant or value == item.get("default", value), f"{kind}: {widget} strays from its default"


@pytest.mark.parametrize("name", NAMES)
def test_links(name: str) -> None:
    graph = ui(name)
    nodes = {node["id"]: node for node in graph["nodes"]}
    assert len(nodes) == len(graph["nodes"])
    links = {link[0]: link for link in graph["links"]}
    assert max(nodes) <= graph["last_node_id"]
    assert max(links) <= graph["last_link_id"]
    for number, source, slot, target, index, kind in graph["links"]:
        assert number in nodes[source]["outputs"][slot]["links"]
        assert nodes[source]["outputs"][slot]["type"] == kind
        assert nodes[target]["inputs"][index]["link"] == number
        wanted = nodes[target]["inputs"][index]["type"]
        assert wanted in (kind, "*")
    for node in graph["nodes"]:
        for item in node.get("inputs", []):
            assert item.get("link") is None or links[item["link"]][3] == node["id"]
        for item in node.get("outputs", []):
            assert all(links[link][1] == node["id"] for link in item.get("links") or [])
        expected = CORE[node["type"]][1] if node["type"] in CORE else None
        expected = expected or [item["type"] for item in SCHEMAS.get(node["type"], {"outputs": []})["outputs"]]
        assert [item["type"] for item in node.get("outputs", [])] == expected


@pytest.mark.parametrize("name", NAMES)
def test_nothing_overlaps_and_all_lies_in_a_group(name: str) -> None:
    graph = ui(name)
    boxes = [
        (node["pos"][0], node["pos"][1] - TITLE, node["pos"][0] + node["size"][0], node["pos"][1] + node["size"][1])
        for node in graph["nodes"]
    ]
    for index, (x0, y0, x1, y1) in enumerate(boxes):
        for left, top, right, bottom in boxes[index + 1 :]:
            apart = x1 + SPACE <= left or right + SPACE <= x0 or y1 + SPACE <= top or bottom + SPACE <= y0
            assert apart, graph["nodes"][index]["type"]
        assert any(
            left < x0 and top < y0 and x1 < left + width and y1 < top + height
            for left, top, width, height in (group["bounding"] for group in graph["groups"])
        ), graph["nodes"][index]["type"]


@pytest.mark.parametrize("name", NAMES)
def test_a_note_tells_what_to_do(name: str) -> None:
    nodes = ui(name)["nodes"]
    (note,) = (node for node in nodes if node["type"] == "MarkdownNote")
    loads = [node for node in nodes if node["type"] in ("LoadImage", "LoadVideo")]
    assert loads
    films = {node["type"] for node in loads} == {"LoadVideo"}
    assert f"your own {'video' if films else 'photo'}" in note["widgets_values"][0]
    assert {node["widgets_values"][0] for node in loads} == {"example.mp4" if films else "example.png"}
    assert "Run" in note["widgets_values"][0]


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_agree(name: str) -> None:
    graph, prompt = ui(name), api(name)
    links = {link[0]: link for link in graph["links"]}
    shown = {str(node["id"]): node for node in graph["nodes"] if node["type"] not in PAGE_ONLY}
    assert set(prompt) == set(shown)
    for number, node in shown.items():
        there = prompt[number]
        assert there["class_type"] == node["type"]
        names = widgets(node["type"])
        values = dict(zip(names, node.get("widgets_values") or [], strict=True))
        for item in node.get("inputs", []):
            if item.get("link") is not None:
                assert there["inputs"][item["name"]] == [str(links[item["link"]][1]), links[item["link"]][2]]
            elif node["type"] in SCHEMAS and item["name"] in values:
                assert there["inputs"][item["name"]] == values[item["name"]]
        if node["type"] in SCHEMAS:
            linked = {item["name"] for item in node["inputs"] if item.get("link") is not None}
            assert set(there["inputs"]) == linked | {item for item in names if item}
