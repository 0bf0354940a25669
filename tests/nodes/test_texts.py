"""Titles, tooltips and help pages in every language: all there, none stale. After a change on purpose: make texts"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from node_texts import LANGUAGES, PROJECT, SPECIAL, files, read_help, read_table, schemas, there, wanted

LARGEST = 200_000
"""Bytes of the pictures that the pack ships for its help pages, templates and examples."""


def test_every_text_is_translated_and_none_is_left_over() -> None:
    nodes, table = schemas(), read_table()
    need = wanted(nodes.values(), read_help())
    missing = [f"{place}: {text!r}" for text, place in need.items() if text not in table]
    assert not missing, "No translation in tests/nodes/texts.txt of\n" + "\n".join(missing)
    assert not (stale := [text for text in table if text not in need]), f"texts.txt has what no node says: {stale}"


def test_no_text_looks_like_syntax_to_the_page() -> None:
    for english, row in read_table().items():
        assert all(row[language].strip() for language in LANGUAGES), english
        assert not SPECIAL & set("".join(row.values())), f"{english}: none of {sorted(SPECIAL)} may be in a text"


def test_numbers_and_names_are_the_same_in_every_language() -> None:
    """A figure, a file or a value that a translation lost misleads; decimal commas are another way to write one."""
    for english, row in read_table().items():
        exact = re.findall(r"\d+(?:\.\d+)?|[a-z_]+/[a-z_]*|\w+\.pth|ffv1", english)
        for language in LANGUAGES[1:]:
            text = re.sub(r"(?<=\d),(?=\d)", ".", row[language])
            lost = [word for word in exact if word not in text]
            assert not lost, f"{language} of {english!r} lacks {lost}"


def test_every_node_has_a_help_page() -> None:
    pages, nodes = read_help(), schemas()
    assert set(pages) == set(nodes), f"help.toml lacks {set(nodes) - set(pages)}, or has {set(pages) - set(nodes)}"
    pictures = {page["picture"] for page in pages.values() if "picture" in page}
    assert pictures == {path.name for path in (PROJECT / "web" / "docs" / "pictures").glob("*")}


def test_generated_files_are_up_to_date() -> None:
    made = files()
    assert there() == set(made), f"make texts; differing: {sorted(map(str, there() ^ set(made)))}"
    stale = [str(path.relative_to(PROJECT)) for path, content in made.items() if path.read_text("utf-8") != content]
    assert not stale, f"{stale[:5]} differ from the schemas and the table: make texts"


@pytest.mark.parametrize("name", ["en", "de"])
def test_a_help_page_says_what_when_and_with_which_inputs(name: str) -> None:
    made = files()
    path = PROJECT / "web" / "docs" / ("BFR_RestoreFaces.md" if name == "en" else f"BFR_RestoreFaces/{name}.md")
    titles = {"en": ("# Face Restoration\n", "## Inputs"), "de": ("# Gesichter restaurieren\n", "## Eingaben")}[name]
    assert all(title in made[path] for title in titles)
    schema = schemas()["BFR_RestoreFaces"]
    assert made[path].count("\n- **") == len(schema.inputs) + len(schema.outputs)


def test_the_pack_stays_small() -> None:
    web = [path for path in (PROJECT / "web").rglob("*") if path.is_file()]
    assert {path.suffix for path in web} <= {".md", ".jpg", ".js"}
    folders = (PROJECT / "web", PROJECT / "workflows", PROJECT / "nodes")
    pictures = [path for folder in folders for path in folder.rglob("*") if path.suffix in (".jpg", ".png", ".mp4")]
    assert sum(path.stat().st_size for path in pictures) < LARGEST


def _write() -> None:
    made = files()
    for path in there() - set(made):
        path.unlink()
    for path, content in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, "utf-8")
    for folder in sorted(Path(PROJECT / "web" / "docs").iterdir()):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


if __name__ == "__main__":
    _write()
