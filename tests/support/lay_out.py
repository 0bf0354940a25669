"""Draw the saved workflows: from what is run (tests/nodes/api) and where it stands (tests/nodes/workflows.toml).

A workflow is a row of columns; wires go from left to right. A wire to a column further on runs in a lane that is free
of nodes, by way of reroutes. Heights are the larger of what both kinds of page draw; widths are given.

    make workflows
"""

from __future__ import annotations

import json
import math
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = Path(__file__).resolve().parents[2]
NODES = PROJECT / "tests" / "nodes"
TITLE, ROW, WIDGET, BELOW = 30, 20, 28, 40
"""Height of a title, of a row of sockets, of a widget, and of what a page leaves below them; units of the canvas."""
GAP, BETWEEN, PAD = 52, 26, 16
"""Between columns, between nodes of a column below the title, and from a node to the edge of its group."""
LANE, CLEAR = 18, 16
"""Between two lanes, and from a lane to a node."""
SIDE = 26
"""From the edge of a column to the reroutes in the gap beside it."""
LOOP = 56
"""Between a node and one below it that it is wired to."""
STEEP = 250
"""From a lane up or down to an input: more than that takes a reroute of its own."""
STEP = 6
"""Of the search for a free lane."""
COLOURS = {"blue": "#3f789e", "green": "#4a7a4a", "purple": "#6b4f8a"}
WIDGETS = ("COMBO", "INT", "FLOAT", "BOOLEAN", "STRING")
EXAMPLES = {"LoadImage": "BFR_ExamplePortrait", "LoadVideo": "BFR_ExampleClip"}
"""What stands in a workflow where tests load a file: it runs on an installation that has no file yet."""
SCREEN, SHARE = (1900, 1000), 0.75
"""Pixels of the screen a graph must be readable on, and how much of it the page's Fit View fills."""
READABLE = 0.64
"""Least scale at Fit View: titles of 14 units are then 9 pixels high, and the page draws all text."""

CORE: dict[str, tuple[list[tuple[str, str, bool]], list[tuple[str, Any, str]], list[str]]] = {
    "SaveImage": ([("images", "IMAGE", False)], [("filename_prefix", "restored", "STRING")], []),
    "PreviewImage": ([("images", "IMAGE", False)], [], []),
    "MaskPreview": ([("mask", "MASK", False)], [], []),
    "PreviewAny": (
        [("source", "*", False)],
        [("preview_markdown", None, ""), ("preview_text", None, ""), ("previewMode", False, "")],
        ["STRING"],
    ),
    "SaveVideo": (
        [("video", "VIDEO", False)],
        [("filename_prefix", "video/restored", "STRING"), ("format", "auto", "COMBO"), ("codec", "auto", "COMBO")],
        [],
    ),
    "GetVideoComponents": ([("video", "VIDEO", False)], [], ["IMAGE images", "AUDIO audio", "FLOAT fps"]),
    "CreateVideo": ([("images", "IMAGE", False), ("audio", "AUDIO", True)], [("fps", 30, "FLOAT")], ["VIDEO"]),
}
"""Sockets with whether they are optional, widgets with their values, and outputs of the core nodes that are used.

Nodes that 0.8 has as well. A widget without a type is of the page alone.
"""
STRETCHED = {"SaveImage", "PreviewImage", "MaskPreview", "PreviewAny", "SaveVideo"}
"""What takes the height that its column has left."""


@dataclass
class Box:
    """A node and where it is."""

    number: int
    kind: str
    sockets: list[tuple[str, str, bool]]
    widgets: list[tuple[str, Any, str]]
    outputs: list[tuple[str, str]]
    title: str = ""
    column: int = 0
    x: float = 0.0
    y: float = 0.0
    width: float = 0.0
    height: float = 0.0
    links: dict[str, int] = field(default_factory=dict)

    def out(self, slot: int) -> tuple[float, float]:
        return self.x + self.width, self.y + 14 + ROW * slot

    def into(self, name: str) -> tuple[float, float]:
        names = [socket[0] for socket in self.sockets]
        if name in names:
            return self.x, self.y + 14 + ROW * names.index(name)
        rows = max(len(self.sockets), len(self.outputs))
        shown = [widget[0] for widget in self.widgets]
        return self.x, self.y + 8 + ROW * rows + 24 * shown.index(name) + 10

    def covers(self, x: float, y: float, margin: float = 0.0) -> bool:
        across = self.x - margin < x < self.x + self.width + margin
        return across and self.y - TITLE - margin < y < self.y + self.height + margin


def least_height(sockets: int, outputs: int, widgets: int) -> float:
    """Return the height that a node needs below its title, by the page that draws it higher."""
    return ROW * max(sockets, outputs) + WIDGET * widgets + BELOW


def schemas() -> dict[str, Any]:
    return json.loads((NODES / "node_schemas.json").read_text("utf-8"))


def specs() -> list[dict[str, Any]]:
    return tomllib.loads((NODES / "workflows.toml").read_text("utf-8"))["workflow"]


def make_box(number: int, kind: str, given: dict[str, Any], known: dict[str, Any]) -> Box:
    """Return a node with its values: those given, and what the schema says of the others."""
    if kind in CORE:
        sockets, widgets, outputs = CORE[kind]
        values = [(name, given.get(name, value), type_) for name, value, type_ in widgets]
        return Box(number, kind, sockets, values, [(text.split()[-1], text.split()[0]) for text in outputs])
    inputs, widgets = known[kind]["inputs"], []
    for item in inputs:
        if item["type"] in WIDGETS or "widgets" in item:
            first = item.get("default", (item.get("options") or [""])[0])
            value = given.get(item["name"], first)
            widgets.append((item["name"], value, item["type"]))
            if item.get("control_after_generate"):
                widgets.append((f"{item['name']}: control", "fixed", ""))
    shown = {name for name, _, _ in widgets}
    sockets = [(item["name"], item["type"], item["optional"]) for item in inputs if item["name"] not in shown]
    return Box(number, kind, sockets, widgets, [(item["name"], item["type"]) for item in known[kind]["outputs"]])


def note_height(text: str, width: float) -> float:
    """Return the height that a note of this width needs."""
    each = (width - 36) / 6.3
    lines = sum(
        1.7 if line.startswith("#") else max(1, math.ceil(len(line) / each)) for line in text.split("\n") if line
    )
    return 18 * lines + 11 * text.count("\n\n") + 50


Point = tuple[float, float]


def curve(start: Point, end: Point, first: Point, last: Point) -> Iterator[Point]:
    """Give points of the spline that a page draws between two ends."""
    count = max(int(math.dist(start, end) / 4), 8)
    for index in range(count + 1):
        t = index / count
        a, b, c, d = (1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t * t, t**3
        yield tuple(a * start[i] + b * first[i] + c * last[i] + d * end[i] for i in (0, 1))  # type: ignore[misc]


def path(points: list[Point]) -> Iterator[Point]:
    """Give points of a wire from an output by way of reroutes to an input.

    It leaves and enters level, by a quarter of the distance; a reroute is passed in the direction halfway between
    where the wire comes from and where it goes.
    """
    for index, (start, end) in enumerate(pairwise(points)):
        reach = math.dist(start, end) * 0.25
        first, last = (start[0] + reach, start[1]), (end[0] - reach, end[1])
        if index > 0:
            along = _along(points[index - 1], start, end)
            first = start[0] + min(reach, 80) * along[0], start[1] + min(reach, 80) * along[1]
        if index + 2 < len(points):
            along = _along(start, end, points[index + 2])
            last = end[0] - min(reach, 80) * along[0], end[1] - min(reach, 80) * along[1]
        yield from curve(start, end, first, last)


def _along(before: Point, here: Point, after: Point) -> Point:
    angles = [math.atan2(b[1] - a[1], b[0] - a[0]) for a, b in ((before, here), (here, after))]
    middle = sum(angles) / 2
    return math.cos(middle), math.sin(middle)


def behind(points: list[Point], boxes: list[Box]) -> list[Box]:
    """Return the nodes that a wire passes behind, its own ones too where it doubles back."""
    hit = []
    for x, y in path(points):
        hit += [box for box in boxes if box not in hit and box.covers(x, y)]
    return hit


class Drawing:
    """One workflow on its canvas."""

    def __init__(self, spec: dict[str, Any], known: dict[str, Any]) -> None:
        self.spec = spec
        prompt = json.loads((NODES / "api" / f"{spec['api']}.json").read_text("utf-8"))
        self.boxes: dict[int, Box] = {}
        self.wires: list[tuple[int, int, int, int, str]] = []
        for key, entry in prompt.items():
            kind = EXAMPLES.get(entry["class_type"], entry["class_type"])
            own = spec.get("nodes", {}).get(key, {})
            values = {name: value for name, value in entry["inputs"].items() if not isinstance(value, list)}
            box = make_box(int(key), kind, {**values, **own.get("values", {})}, known)
            box.title = own.get("title", "")
            self.boxes[int(key)] = box
        number = 0
        for key, entry in prompt.items():
            target = self.boxes[int(key)]
            for name in [*(socket[0] for socket in target.sockets), *(widget[0] for widget in target.widgets)]:
                value = entry["inputs"].get(name)
                if isinstance(value, list):
                    number += 1
                    target.links[name] = number
                    self.wires.append((number, int(value[0]), value[1], int(key), name))
        self.groups: list[dict[str, Any]] = []
        self.reroutes: list[dict[str, Any]] = []
        self.last: dict[int, int] = {}
        """By wire: the reroute nearest to its input."""
        self._place()
        self._route()

    def _place(self) -> None:
        """Put the columns side by side and stretch their last nodes to one height."""
        lanes = self.spec.get("lanes", 0) * LANE
        gap = self.spec.get("gap", GAP)
        x, column, edges = 0.0, 0, []
        for group in self.spec["group"]:
            left = x
            for members in group["columns"]:
                width, y = float(group.get("width", 260)), 0.0
                for member in members:
                    own = self.spec.get("nodes", {}).get(str(member), {})
                    if member == 1:
                        text = self.spec["note"]
                        self.boxes[1] = Box(1, "MarkdownNote", [], [("text", text, "")], [])
                        height = note_height(text, width)
                    else:
                        box = self.boxes[member]
                        height = least_height(len(box.sockets), len(box.outputs), len(box.widgets))
                    box = self.boxes[member]
                    looped = any(
                        self.boxes[wire[1]].column == column and wire[1] in members
                        for wire in self.wires
                        if wire[3] == member
                    )
                    y += own.get("down", 0) + (LOOP - BETWEEN if looped and y else 0)
                    box.x, box.y, box.width, box.column = x, y, width, column
                    box.height = max(height, own.get("height", 0))
                    y += box.height + BETWEEN + TITLE
                x, column = x + width + gap, column + 1
            edges.append((group, left, x - gap))
        bottom = max(box.y + box.height for box in self.boxes.values())
        bottom = max(bottom, self.spec.get("height", 0))
        for index in range(column):
            box = max((box for box in self.boxes.values() if box.column == index), key=lambda box: box.y)
            if box.kind in STRETCHED or (box.number == 1):
                box.height = bottom - box.y
        top = -TITLE - lanes - PAD - 34
        self.groups = [
            {
                "id": number,
                "title": group["title"],
                "bounding": [left - PAD, top, right - left + 2 * PAD, bottom + PAD - top],
                "color": COLOURS[group["colour"]],
                "font_size": 24,
                "flags": {},
            }
            for number, (group, left, right) in enumerate(edges, 1)
        ]

    def _route(self) -> None:
        """Lead each wire that skips a column through a lane."""
        boxes = list(self.boxes.values())
        far: dict[tuple[int, int], list[tuple[int, int, int, int, str]]] = {}
        for wire in self.wires:
            if self.boxes[wire[3]].column > self.boxes[wire[1]].column + 1:
                far.setdefault((wire[1], wire[2]), []).append(wire)
        taken: list[tuple[float, float, float]] = []
        # The shortest stay next to the nodes, as those further out go round them.
        order = sorted(
            far, key=lambda key: max(self.boxes[wire[3]].column for wire in far[key]) - self.boxes[key[0]].column
        )
        for source, slot in order:
            wires = sorted(far[source, slot], key=lambda wire: self.boxes[wire[3]].x)
            start = self.boxes[source].out(slot)
            ends = [self.boxes[wire[3]].into(wire[4]) for wire in wires]
            y = self._lane(start, ends, boxes, taken)
            taken.append((start[0], ends[-1][0], y))
            shift = 5 * sum(1 for other in taken[:-1] if abs(other[0] - start[0]) < 1)
            before = None
            if abs(y - start[1]) > 1:
                corner = start[0] + SIDE - 10 + shift
                if abs(y - start[1]) > STEEP:  # a corner of two, as one would swing to both sides
                    before = self._reroute((corner, y + math.copysign(14, start[1] - y)), None)
                before = self._reroute((corner + (10 if before else 0), y), before)
            for wire, end in zip(wires, ends, strict=True):
                if abs(y - end[1]) > 1 or wire is not wires[-1]:
                    before = self._reroute((end[0] - SIDE + shift / 2, y), before)
                last = before
                if last is not None and abs(y - end[1]) > STEEP:
                    # A long curve would swing out of the gap: it goes straight, and turns at its end.
                    last = self._reroute(
                        (end[0] - SIDE + shift / 2, end[1] + math.copysign(STEEP / 5, y - end[1])), last
                    )
                if last is not None:
                    self.last[wire[0]] = last
        for wire in self.wires:
            (start, end), ends = self.points(wire)[:: max(len(self.points(wire)) - 1, 1)][:2], (wire[1], wire[3])
            if wire[0] in self.last or self.boxes[ends[1]].column != self.boxes[ends[0]].column + 1:
                continue
            if behind([start, end], boxes):  # a long way up or down: straight within the gap
                way = math.copysign(1, end[1] - start[1])
                first = self._reroute((start[0] + SIDE - 6, start[1] + way * 24), None)
                self.last[wire[0]] = self._reroute((end[0] - SIDE + 4, end[1] - way * STEEP / 5), first)
        for wire in self.wires:
            source, target_ = self.boxes[wire[1]], self.boxes[wire[3]]
            if source.column == target_.column:
                # Round its own node, through the space above the one below.
                y = target_.y - TITLE - LOOP / 2
                right, left = source.x + source.width, target_.x
                top = source.out(wire[2])[1]
                corners = [
                    (right + 16, top + 14),
                    (right + 18, y - 14),
                    (right + 4, y),
                    (left - 4, y),
                    (left - 18, y + 14),
                ]
                last = None
                for corner in corners:
                    last = self._reroute(corner, last)
                self.last[wire[0]] = last
        for wire, last in self.last.items():
            following: int | None = last
            while following is not None:
                there = self.reroutes[following - 1]
                there["linkIds"].append(wire)
                following = there.get("parentId")

    def _reroute(self, where: Point, parent: int | None) -> int:
        made: dict[str, Any] = {"id": len(self.reroutes) + 1, "pos": [round(v) for v in where], "linkIds": []}
        if parent is not None:
            made["parentId"] = parent
        self.reroutes.append(made)
        return made["id"]

    def _lane(
        self, start: Point, ends: list[Point], boxes: list[Box], taken: list[tuple[float, float, float]]
    ) -> float:
        """Return the height of the free lane with the shortest ways to and from it."""
        left, right = start[0] + 1, ends[-1][0] - 1
        between = [box for box in boxes if box.x < right and box.x + box.width > left]
        low = min(box.y for box in boxes) - TITLE - LANE * self.spec.get("lanes", 0)
        high = max(box.y + box.height for box in boxes)
        places = [start[1], *(end[1] for end in ends)]
        places += [low + STEP * index for index in range(int((high - low) / STEP))]
        free = [
            y
            for y in places
            if not any(box.y - TITLE - CLEAR < y < box.y + box.height + CLEAR for box in between)
            and not any(a < right and b > left and abs(y - other) < LANE for a, b, other in taken)
        ]
        if not free:
            raise ValueError(f"{self.spec['title']}: no lane from {start}; give it more lanes")
        return min(free, key=lambda y: abs(y - start[1]) + sum(abs(y - end[1]) for end in ends))

    def points(self, wire: tuple[int, int, int, int, str]) -> list[Point]:
        """Return where a wire goes: output, reroutes, input."""
        middle: list[Point] = []
        following = self.last.get(wire[0])
        while following is not None:
            there = self.reroutes[following - 1]
            middle.insert(0, tuple(there["pos"]))
            following = there.get("parentId")
        return [self.boxes[wire[1]].out(wire[2]), *middle, self.boxes[wire[3]].into(wire[4])]

    def graph(self) -> dict[str, Any]:
        """Return the workflow as a page saves it."""
        nodes = []
        for order, number in enumerate(sorted(self.boxes)):
            nodes.append(self._node(self.boxes[number], order))
        links = []
        for number, source, slot, target, name in self.wires:
            box = self.boxes[target]
            names = [item["name"] for item in _inputs(box)]
            links.append([number, source, slot, target, names.index(name), self.boxes[source].outputs[slot][1]])
        left, top, right, bottom = bounds(self.groups)
        scale = fit((left, top, right, bottom))
        offset = [SCREEN[0] / scale / 2 - (left + right) / 2, SCREEN[1] / scale / 2 - (top + bottom) / 2]
        extra: dict[str, Any] = {"ds": {"scale": round(scale, 4), "offset": [round(value, 1) for value in offset]}}
        if self.reroutes:
            extra["reroutes"] = self.reroutes
            extra["linkExtensions"] = [{"id": wire, "parentId": last} for wire, last in sorted(self.last.items())]
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, self.spec["api"])),
            "revision": 0,
            "last_node_id": max(self.boxes),
            "last_link_id": len(self.wires),
            "nodes": nodes,
            "links": links,
            "groups": self.groups,
            "config": {},
            "extra": extra,
            "version": 0.4,
        }

    def _node(self, box: Box, order: int) -> dict[str, Any]:
        outputs = []
        for slot, (name, kind) in enumerate(box.outputs):
            links = [wire[0] for wire in self.wires if wire[1:3] == (box.number, slot)]
            outputs.append({"localized_name": name, "name": name, "type": kind, "links": links or None})
        return {
            "id": box.number,
            "type": box.kind,
            "pos": [round(box.x), round(box.y)],
            "size": [round(box.width), round(box.height)],
            "flags": {},
            "order": order,
            "mode": 0,
            "inputs": _inputs(box),
            "outputs": outputs,
            **({"title": box.title} if box.title else {}),
            "properties": {} if box.number == 1 else {"Node name for S&R": box.kind},
            **({"color": "#432", "bgcolor": "#653"} if box.number == 1 else {}),
            "widgets_values": [value for _, value, _ in box.widgets],
        }


def _inputs(box: Box) -> list[dict[str, Any]]:
    """Return the inputs of a node as a page saves them: sockets, then the widgets."""
    made = []
    for name, kind, optional in box.sockets:
        shape = {"shape": 7} if optional else {}
        made.append({"localized_name": name, "name": name, **shape, "type": kind, "link": box.links.get(name)})
    for name, _, kind in box.widgets:
        if kind:
            widget = {"widget": {"name": name}, "link": box.links.get(name)}
            made.append({"localized_name": name, "name": name, "type": kind, **widget})
    return made


def bounds(groups: list[dict[str, Any]]) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of all groups."""
    boxes = [group["bounding"] for group in groups]
    return (
        min(box[0] for box in boxes),
        min(box[1] for box in boxes),
        max(box[0] + box[2] for box in boxes),
        max(box[1] + box[3] for box in boxes),
    )


def fit(edges: tuple[float, float, float, float], screen: tuple[int, int] = SCREEN) -> float:
    """Return the scale that the page's Fit View shows a graph at."""
    left, top, right, bottom = edges
    return SHARE * min(screen[0] / (right - left + 20), screen[1] / (bottom - top + 20))


def drawings() -> list[Drawing]:
    known = schemas()
    return [Drawing(spec, known) for spec in specs()]


def target(spec: dict[str, Any]) -> Path:
    """Return where a workflow is saved: as a template, or, where it does not please yet, for tests alone."""
    folder = PROJECT / "workflows" if spec.get("offered", True) else NODES / "ui"
    return folder / f"{spec['title']}.json"


def text(drawing: Drawing) -> str:
    return json.dumps(drawing.graph(), ensure_ascii=False, indent=1) + "\n"


if __name__ == "__main__":
    for drawing in drawings():
        path_ = target(drawing.spec)
        path_.parent.mkdir(exist_ok=True)
        path_.write_text(text(drawing), "utf-8")
        hits = {
            (wire[1], wire[3]): [box.number for box in found]
            for wire in drawing.wires
            if (found := behind(drawing.points(wire), list(drawing.boxes.values())))
        }
        print(f"{fit(bounds(drawing.groups)):.3f} {drawing.spec['title']} {hits or ''}")
