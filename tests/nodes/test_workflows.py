"""The saved workflows: valid graphs of nodes that exist, the same in the page's form and in the host's, and readable.

They are drawn by `tests/support/lay_out.py`. After a change on purpose: make workflows
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lay_out
import pytest
from PIL import Image

PROJECT = Path(__file__).resolve().parents[2]
NODES = Path(__file__).parent
SCHEMAS = json.loads((NODES / "node_schemas.json").read_text("utf-8"))
DRAWN = {drawing.spec["title"]: drawing for drawing in lay_out.drawings()}
OFFERED = sorted(title for title, drawing in DRAWN.items() if drawing.spec.get("offered", True))
NARROWEST = 225
"""Width that Nodes 2.0 give every node at least."""
LARGEST_PICTURE = 16_000
"""Bytes of a template's picture in the browser."""


def ui(name: str) -> dict[str, Any]:
    return json.loads(lay_out.target(DRAWN[name].spec).read_text("utf-8"))


def api(name: str) -> dict[str, Any]:
    return json.loads((NODES / "api" / f"{DRAWN[name].spec['api']}.json").read_text("utf-8"))


def widgets(kind: str) -> list[str | None]:
    """Name the widgets of a node in the order of widgets_values; None for one that only the page has."""
    if kind == "MarkdownNote":
        return [None]
    if kind in lay_out.CORE:
        return [name if type_ else None for name, _, type_ in lay_out.CORE[kind][1]]
    names: list[str | None] = []
    for item in SCHEMAS[kind]["inputs"]:
        if item["type"] in lay_out.WIDGETS or "widgets" in item:
            names.append(item["name"])
            names += [None] * bool(item.get("control_after_generate"))
    return names


def test_there_are_workflows() -> None:
    assert {"Restore faces in a photo", "Restore faces in a video"} <= set(OFFERED)
    assert sorted(path.stem for path in (PROJECT / "workflows").glob("*.json")) == OFFERED
    runs = sorted(path.stem for path in (NODES / "api").glob("*.json"))
    assert sorted(drawing.spec["api"] for drawing in DRAWN.values()) == runs


@pytest.mark.parametrize("name", DRAWN)
def test_the_file_is_what_is_drawn(name: str) -> None:
    drawing = DRAWN[name]
    assert lay_out.target(drawing.spec).read_text("utf-8") == lay_out.text(drawing), "make workflows"


def test_every_node_of_the_pack_is_shown() -> None:
    used = {node["type"] for name in DRAWN for node in ui(name)["nodes"]}
    assert used >= set(SCHEMAS), f"in no workflow: {sorted(set(SCHEMAS) - used)}"


@pytest.mark.parametrize("name", DRAWN)
def test_nodes_and_values(name: str) -> None:
    meant = DRAWN[name].spec.get("nodes", {})
    for node in ui(name)["nodes"]:
        kind, values = node["type"], node["widgets_values"]
        assert node["mode"] == 0
        names = widgets(kind)
        assert len(values) == len(names), f"{kind}: {values} for {names}"
        if kind not in SCHEMAS:
            assert kind in lay_out.CORE or kind == "MarkdownNote", kind
            continue
        inputs = {item["name"]: item for item in SCHEMAS[kind]["inputs"]}
        sockets = [item for item in inputs if item not in names]
        assert [item["name"] for item in node["inputs"] if item["name"] not in names] == sockets
        chosen = meant.get(str(node["id"]), {}).get("values", {})
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
            strays = widget == "seed" or widget in chosen or not DRAWN[name].spec.get("offered", True)
            assert strays or value == item.get("default", value), f"{kind}: {widget} strays from its default"


@pytest.mark.parametrize("name", DRAWN)
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
        if node["type"] in SCHEMAS:
            expected = [item["type"] for item in SCHEMAS[node["type"]]["outputs"]]
            assert [item["type"] for item in node["outputs"]] == expected


@pytest.mark.parametrize("name", OFFERED)
def test_wires_go_by_way_of_reroutes_that_are_there(name: str) -> None:
    graph = ui(name)
    there = {item["id"]: item for item in graph["extra"].get("reroutes", [])}
    for item in graph["extra"].get("linkExtensions", []):
        following = item["parentId"]
        while following is not None:
            assert item["id"] in there[following]["linkIds"]
            following = there[following].get("parentId")
    used = {item["id"] for item in graph["extra"].get("linkExtensions", [])}
    assert {link for item in there.values() for link in item["linkIds"]} == used


@pytest.mark.parametrize("name", OFFERED)
def test_nothing_overlaps_and_all_lies_in_a_group(name: str) -> None:
    graph, title = ui(name), lay_out.TITLE
    boxes = [
        (*node["pos"], node["pos"][0] + node["size"][0], node["pos"][1] + node["size"][1]) for node in graph["nodes"]
    ]
    for index, (x0, y0, x1, y1) in enumerate(boxes):
        for left, top, right, bottom in boxes[index + 1 :]:
            space = lay_out.BETWEEN
            apart = (
                x1 + space <= left or right + space <= x0 or y1 + space <= top - title or bottom + space <= y0 - title
            )
            assert apart, graph["nodes"][index]["type"]
        assert any(
            left < x0 and top < y0 - title and x1 < left + width and y1 < top + height
            for left, top, width, height in (group["bounding"] for group in graph["groups"])
        ), graph["nodes"][index]["type"]


@pytest.mark.parametrize("name", OFFERED)
def test_no_node_is_smaller_than_the_page_draws_it(name: str) -> None:
    """What is in a node needs that height: rows of sockets, and widgets of 24 in the older kind of page."""
    for node in ui(name)["nodes"]:
        sockets = sum("widget" not in item for item in node["inputs"])
        widgets_here = 0 if node["type"] == "MarkdownNote" else len(node["widgets_values"])
        least = lay_out.ROW * max(sockets, len(node["outputs"])) + 24 * widgets_here + 14
        assert node["size"][1] >= least and node["size"][0] >= NARROWEST, node["type"]


@pytest.mark.parametrize("name", OFFERED)
def test_it_can_be_read_at_fit_view(name: str) -> None:
    scale = lay_out.fit(lay_out.bounds(ui(name)["groups"]))
    assert scale >= lay_out.READABLE, f"{scale:.3f} on a screen of {lay_out.SCREEN}"


@pytest.mark.parametrize("name", OFFERED)
def test_no_wire_passes_behind_a_node(name: str) -> None:
    drawing = DRAWN[name]
    boxes = list(drawing.boxes.values())
    for wire in drawing.wires:
        hit = lay_out.behind(drawing.points(wire), boxes)
        ends = [drawing.boxes[number].kind for number in (wire[1], wire[3])]
        assert not hit, f"{' to '.join(ends)}: behind {[box.kind for box in hit]}"


def test_a_wire_behind_a_node_is_noticed() -> None:
    boxes = [lay_out.Box(n, "x", [("image", "IMAGE", False)], [], [("image", "IMAGE")]) for n in range(3)]
    for index, box in enumerate(boxes):
        box.x, box.y, box.width, box.height = 300.0 * index, 0.0, 200.0, 100.0
    straight = [boxes[0].out(0), boxes[2].into("image")]
    assert lay_out.behind(straight, boxes) == [boxes[1]]
    over = [straight[0], (250.0, -60.0), (550.0, -60.0), straight[1]]
    assert not lay_out.behind(over, boxes)


@pytest.mark.parametrize("name", OFFERED)
def test_a_note_tells_what_to_do(name: str) -> None:
    nodes = ui(name)["nodes"]
    (note,) = (node for node in nodes if node["type"] == "MarkdownNote")
    text = note["widgets_values"][0]
    examples = {node["type"] for node in nodes if node["type"] in lay_out.EXAMPLES.values()}
    assert len(examples) == 1, "it runs on an installation that has no file yet"
    film = examples == {"BFR_ExampleClip"}
    assert "Press **Run**" in text
    assert f"put **Load {'Video' if film else 'Image'}** in the place of" in text


@pytest.mark.parametrize("name", OFFERED)
def test_a_template_has_a_picture(name: str) -> None:
    """The browser of templates shows the JPEG of the same name, and nothing else that a pack can say."""
    path = PROJECT / "workflows" / f"{name}.jpg"
    assert path.stat().st_size <= LARGEST_PICTURE
    with Image.open(path) as picture:
        assert picture.format == "JPEG" and min(picture.size) >= 240


@pytest.mark.parametrize("name", DRAWN)
def test_both_forms_agree(name: str) -> None:
    graph, prompt = ui(name), api(name)
    links = {link[0]: link for link in graph["links"]}
    shown = {str(node["id"]): node for node in graph["nodes"] if node["type"] != "MarkdownNote"}
    assert set(prompt) == set(shown)
    for number, node in shown.items():
        there = prompt[number]
        if there["class_type"] in lay_out.EXAMPLES:
            assert node["type"] == lay_out.EXAMPLES[there["class_type"]]
            continue
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
