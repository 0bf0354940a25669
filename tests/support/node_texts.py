"""What the page says of every node in five languages, made from the schemas and one table of translations.

`tests/nodes/texts.txt` has a block of five lines for each text: English, as it stands in the code, then Chinese,
Japanese, German and French; `=` where it stays English. A text that several nodes share is there once.
`tests/nodes/help.toml` says when to take a node, and which picture its page shows.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from fake_host import FakeHost

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = Path(__file__).resolve().parents[2]
TABLE, HELP = (PROJECT / "tests" / "nodes" / name for name in ("texts.txt", "help.toml"))
LANGUAGES = ("en", "zh", "ja", "de", "fr")
PACK = "bfr-faces"
TITLE = "BFR Faces"
SPECIAL = set("|{}@")
"""What the page's translator would take for syntax."""
WIDGETS = ("COMBO", "INT", "FLOAT", "BOOLEAN", "STRING")
CHOICE = re.compile(r"- (.*) \((\S+)\)")
"""A line of a tooltip that lists a choice with its label."""
HEADINGS = ("When to use it", "Inputs", "Outputs", "optional", "default")
LISTS = ("file", "weights", "recogniser", "landmarks")
"""Combos of files, whose choices differ from place to place."""

Table = dict[str, dict[str, str]]


def read_table(path: Path = TABLE) -> Table:
    """Return {English: {language: text}}.

    Raises: ValueError, for a block of another length or an English text that is there twice.
    """
    found: Table = {}
    for block in path.read_text("utf-8").strip().split("\n\n"):
        lines = block.splitlines()
        if len(lines) != len(LANGUAGES):
            raise ValueError(f"{path.name}: {len(lines)} lines after {lines[0]!r}; expected {len(LANGUAGES)}")
        if lines[0] in found:
            raise ValueError(f"{path.name}: {lines[0]!r} is there twice")
        english = lines[0]
        found[english] = {
            language: english if line == "=" else line for language, line in zip(LANGUAGES, lines, strict=True)
        }
    return found


def pieces(text: str) -> list[str]:
    """Return what of a text is translated: its lines, and of a line that lists a choice its label."""
    return [found[1] if (found := CHOICE.fullmatch(line)) else line for line in text.split("\n")]


def translated(text: str, table: Table, language: str) -> str:
    """Return a text in a language, line by line.

    Raises: KeyError, where the table lacks a piece of it.
    """
    lines = []
    for line, piece in zip(text.split("\n"), pieces(text), strict=True):
        found = CHOICE.fullmatch(line)
        lines.append(f"- {table[piece][language]} ({found[2]})" if found else table[piece][language])
    return "\n".join(lines)


def read_help(path: Path = HELP) -> dict[str, dict[str, str]]:
    return tomllib.loads(path.read_text("utf-8"))


def schemas() -> dict[str, Any]:
    """Return the schema of every node by its id, of a stand-in host with no files of anybody's."""
    with tempfile.TemporaryDirectory() as folder, FakeHost(Path(folder)) as host:
        extension = asyncio.run(host.load(PROJECT).root.comfy_entrypoint())
        made = [node.define_schema() for node in asyncio.run(extension.get_node_list())]
    return {schema.node_id: schema for schema in made}


def labels(item: Any) -> dict[str, str]:
    """Return what the page shows in place of the choices of a combo."""
    return (item.extra_dict or {}).get("labels", {})


def texts(schema: Any) -> Iterator[tuple[str, str]]:
    """Give where each text of a node stands, and the text."""
    node = schema.node_id
    yield f"{node}: title", schema.display_name
    yield f"{node}: description", schema.description
    for room in schema.category.split("/"):
        yield f"{node}: category", room
    for item in schema.inputs:
        yield f"{node}: name of input {item.id}", item.id
        yield f"{node}: tooltip of input {item.id}", item.tooltip
        for choice, label in labels(item).items():
            yield f"{node}: label of {choice} of input {item.id}", label
    for item in schema.outputs:
        yield f"{node}: name of output {item.display_name}", item.display_name
        yield f"{node}: tooltip of output {item.display_name}", item.tooltip


def wanted(nodes: Iterable[Any], help_pages: dict[str, dict[str, str]]) -> dict[str, str]:
    """Return every text that needs translations, and the first place where it stands."""
    found = {TITLE: "name of the pack", **dict.fromkeys(HEADINGS, "heading of a help page")}
    for schema in nodes:
        for place, text in texts(schema):
            for piece in pieces(text):
                found.setdefault(piece, place)
        if page := help_pages.get(schema.node_id):
            found.setdefault(page["when"], f"{schema.node_id}: when, in help.toml")
    return found


def node_defs(nodes: Iterable[Any], table: Table, language: str) -> dict[str, Any]:
    """Return what nodeDefs.json of a language holds, as the page reads it: outputs by their index."""

    def say(text: str) -> str:
        return translated(text, table, language)

    made = {}
    for schema in nodes:
        made[schema.node_id] = {
            "display_name": say(schema.display_name),
            "description": say(schema.description),
            "inputs": {
                item.id: {
                    "name": say(item.id),
                    "tooltip": say(item.tooltip),
                    **({"options": {key: say(text) for key, text in labels(item).items()}} if labels(item) else {}),
                }
                for item in schema.inputs
            },
            "outputs": {
                str(index): {"name": say(item.display_name), "tooltip": say(item.tooltip)}
                for index, item in enumerate(schema.outputs)
            },
        }
    return made


def kind(item: Any, say: Callable[[str], str]) -> str:
    """Return the type of an input as a help page shows it: what may be given, and what it is where nothing is."""
    given, parts = item.fields, [item.io_type]
    if item.io_type in ("INT", "FLOAT") and given.get("max") is not None:
        parts[0] += f" {given['min']} to {given['max']}"
    if given.get("options") and item.id not in LISTS:
        # Those with labels have a list of their own.
        choices = [] if labels(item) else [str(getattr(choice, "key", choice)) for choice in given["options"]]
        parts[0] = "COMBO" + (": " if choices else "") + ", ".join(choices)
    if (default := given.get("default")) is not None and default != "":
        parts.append(f"{say('default')} {default}")
    if item.optional and item.io_type not in WIDGETS:
        parts.append(say("optional"))
    return "; ".join(parts)


def help_page(schema: Any, page: dict[str, str], table: Table, language: str) -> str:
    """Return the help page of a node in Markdown: what it does, when to take it, a picture, inputs and outputs.

    Lists and no tables: the page shows them in a narrow column.
    """

    def say(text: str) -> str:
        return translated(text, table, language)

    lines = [f"# {say(schema.display_name)}", "", say(schema.description), ""]
    lines += [f"## {say('When to use it')}", "", say(page["when"]), ""]
    if "picture" in page:
        # From docs/ in every language: that is what the page puts before it.
        lines += [f"![{say(schema.display_name)}](pictures/{page['picture']})", ""]
    if schema.inputs:
        made = []
        for item in schema.inputs:
            made.append(f"- **{say(item.id)}** ({kind(item, say)}): {say(item.tooltip.splitlines()[0])}")
            made += [f"    - {say(label)} ({choice})" for choice, label in labels(item).items()]
        lines += [f"## {say('Inputs')}", "", *made, ""]
    if schema.outputs:
        made = [f"- **{say(item.display_name)}** ({item.io_type}): {say(item.tooltip)}" for item in schema.outputs]
        lines += [f"## {say('Outputs')}", "", *made, ""]
    return "\n".join(lines)


def files() -> dict[Path, str]:
    """Return every generated file and what it should hold."""
    nodes, table, pages = list(schemas().values()), read_table(), read_help()
    made: dict[Path, str] = {}
    rooms = dict.fromkeys(room for schema in nodes for room in schema.category.split("/"))
    for language in LANGUAGES:
        folder = PROJECT / "locales" / language
        main = {
            "nodeCategories": {room: table[room][language] for room in rooms},
            "templateWorkflows": {"category": {PACK: table[TITLE][language]}},
        }
        for name, content in (("nodeDefs", node_defs(nodes, table, language)), ("main", main)):
            made[folder / f"{name}.json"] = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
        for schema in nodes:
            # The page asks for its own language first, then for the file without one.
            name = f"{schema.node_id}.md" if language == "en" else f"{schema.node_id}/{language}.md"
            made[PROJECT / "web" / "docs" / name] = help_page(schema, pages[schema.node_id], table, language)
    return made


def there() -> set[Path]:
    """Return the generated files that lie in the checkout."""
    return {*(PROJECT / "locales").rglob("*.json"), *(PROJECT / "web" / "docs").rglob("*.md")}
