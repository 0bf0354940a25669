"""The README and the pages of docs/: what they say is declared somewhere, their commands parse, their samples run.

Tables between `<!-- name -->` and `<!-- end -->` are generated. After a change on purpose: make tables
"""

from __future__ import annotations

import asyncio
import importlib.util
import re
import shlex
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import pytest
from fake_host import FakeHost
from PIL import Image

import bfr_core.cli as cli
import train.__main__ as training
import train.planning.command as planning
from bfr_core.cli.formats import remarks
from bfr_core.media.formats import FILMS, PICTURES, FilmFormat, PictureFormat
from bfr_core.metrics.files import files
from bfr_core.models.registry import specs
from bfr_core.registry import default_method, methods
from train.stage import find_stage, stage_names

PROJECT = Path(__file__).resolve().parents[2]
PAGES = sorted(path.relative_to(PROJECT).as_posix() for path in (*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md")))
LONGEST_README = 150


def text(page: str) -> str:
    return (PROJECT / page).read_text("utf-8")


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (heading, *rows)]
    return "\n".join([lines[0], "|---" * len(heading) + "|", *lines[1:]])


def method_table() -> str:
    rows = []
    for method in sorted(methods().values(), key=lambda method: method is not default_method()):
        papers = "; ".join(f"{paper.title} {paper.section}" for paper in method.papers)
        configs = ", ".join(
            f"`{config.name}` ({'embedded weights' if config.embedded else 'bring your weights'})"
            for config in method.configs
        )
        rows.append((f"`{method.id}`", method.title, papers, configs))
    return table(("id", "method", "paper", "configs"), rows)


def detector_table() -> str:
    rows = [
        (
            f"`{backend.id}`",
            backend.title,
            " or ".join(f"`{known.name}`" for known in backend.files) or "comes with the package",
            backend.licence,
            f"`{backend.install}`" if backend.install else "",
        )
        for backend in specs("detector")
    ]
    return table(("name", "detector", "file", "licence of the weights", "needs"), rows)


def metric_table() -> str:
    rows = [(file.metric, ", ".join(f"`{name}`" for name in file.names)) for file in files().values()]
    return table(("metric", "file"), rows)


def dial_table() -> str:
    rows = []
    for method in methods().values():
        for dial in method.dials:
            values = [f"{value:g}" for value in (dial.perception, dial.published, dial.faithful)]
            rows.append((f"`{method.id}`", dial.quantity, *values))
    return table(("method", "what follows the dial", "at 0", "at 0.5", "at 1"), rows)


def stage_table() -> str:
    rows = []
    for name in stage_names():
        stage = find_stage(name)
        needs = ", ".join(f"`--{need}`" for need, about in stage.needs.items() if about.required)
        rows.append((f"`{name}`", stage.title, ", ".join(f"`{config}`" for config in stage.configs), needs))
    return table(("stage", "what it trains", "configs", "files it needs"), rows)


def node_table() -> str:
    with tempfile.TemporaryDirectory() as folder, FakeHost(Path(folder)) as host:
        extension = asyncio.run(host.load(PROJECT).root.comfy_entrypoint())
        schemas = [node.define_schema() for node in asyncio.run(extension.get_node_list())]
        return table(("node", "what it does"), [(f"*{item.display_name}*", item.description) for item in schemas])


def formats_table(formats: Sequence[PictureFormat | FilmFormat]) -> str:
    rows = []
    for each in formats:
        package = getattr(each, "needs", None)
        told = remarks(each) if isinstance(each, PictureFormat) else each.notes
        suffixes = " ".join(f"`{suffix}`" for suffix in each.suffixes)
        words = ("yes" if each.read else "no", "yes" if each.write else "no", package.title if package else "", told)
        rows.append((each.title, suffixes, *words))
    return table(("format", "suffixes", "read", "written", "needs", "notes"), rows)


TABLES: dict[tuple[str, str], Callable[[], str]] = {
    ("README.md", "methods"): method_table,
    ("docs/comfyui.md", "nodes"): node_table,
    ("docs/evaluation.md", "metric files"): metric_table,
    ("docs/formats.md", "films"): lambda: formats_table(FILMS),
    ("docs/formats.md", "pictures"): lambda: formats_table(PICTURES),
    ("docs/methods.md", "dials"): dial_table,
    ("docs/methods.md", "detectors"): detector_table,
    ("docs/training.md", "stages"): stage_table,
}


def between(page: str, name: str) -> re.Pattern[str]:
    found = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=<!-- end -->)", re.DOTALL)
    assert len(found.findall(text(page))) == 1, f"{page} has no place for the table of {name}"
    return found


def code(page: str) -> list[str]:
    """Return the commands in the indented blocks of a page, a continued one as one."""
    joined = text(page).replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if re.match(r"    (bfr|python|FACES=|PLACES=)", line)]


def first_cells(page: str, heading: str) -> list[str]:
    """Return what stands between backticks in the first cell of each row of the table with that heading."""
    _, _, rest = text(page).partition(f"{heading}\n")
    assert rest, f"{page} has no table {heading}"
    rows = rest.split("\n\n")[0].splitlines()[1:]
    return [re.match(r"\| `(.*?)` \|", row)[1] for row in rows]


@pytest.mark.parametrize(("page", "name"), TABLES, ids=lambda value: value)
def test_tables_say_what_is_declared(page, name):
    written, made = between(page, name).search(text(page))[0], TABLES[page, name]()
    assert written == f"\n{made}\n\n", f"{page} differs from what is declared; run make tables"


def test_the_readme_is_short_and_has_the_two_commands():
    lines = text("README.md").splitlines()
    assert len(lines) <= LONGEST_README
    # As .ci/run finds them.
    for end in (r"bfr demo", r"pytest$"):
        assert len([line for line in lines if re.match(rf"    python3 -m venv .*{end}", line)]) == 1, end


def test_every_workflow_is_in_the_readme():
    there = {path.stem for path in (PROJECT / "workflows").glob("*.json")}
    listed = first_cells("README.md", "| workflow | what it does |")
    assert set(listed) == there and len(listed) == len(there)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", text(page)):
        assert "://" in target or (PROJECT / page).parent.joinpath(target).exists(), f"{page}: {target}"


def test_every_picture_is_shown():
    shown = {Path(target).name for page in PAGES for target in re.findall(r"\]\(([^)]+\.png)\)", text(page))}
    assert shown == {path.name for path in (PROJECT / "docs").glob("*.png")}


@pytest.mark.parametrize("page", [page for page in PAGES if code(page)])
def test_commands_can_be_given(page, monkeypatch):
    """They are parsed, with the options of the method or stage that they name; nothing runs."""
    variables: dict[str, str] = {}
    for line in code(page):
        for name, value in variables.items():
            line = line.replace(f"${name}", value)
        words = shlex.split(line)
        if match := re.fullmatch(r'([A-Z]+)="(.*)"', line):
            variables[match[1]] = match[2]
        elif words[0] == "bfr":
            assert callable(cli._parser(words[1:]).parse_args(words[1:]).run), line
        elif words[:3] == ["python", "-m", "train"] and words[3] in stage_names():
            training._parser(find_stage(words[3]), words[3]).parse_args(words[4:])
        elif words[:4] == ["python", "-m", "train", "plan"]:
            assert (PROJECT / planning.parser().parse_args(words[4:]).plan).is_file(), line
        elif words[:4] == ["python", "-m", "train", "export"]:
            monkeypatch.setattr("train.export.export", lambda *_, **__: pytest.fail("not reached"))
            with pytest.raises(SystemExit) as stopped:
                training.main([*words[3:], "--help"])
            assert stopped.value.code == 0, line
        elif words[:2] == ["python", "-m"] and words[2].startswith("train."):
            assert importlib.util.find_spec(words[2]), line
        else:
            assert words[:2] == ["python3", "-m"], f"{page}: nobody checks {line!r}"


def test_the_samples_of_the_library_run(tmp_path, monkeypatch):
    from skimage.data import astronaut

    portrait = Image.fromarray(astronaut())
    portrait.save(tmp_path / "old.jpg", quality=60)
    with av.open(str(tmp_path / "film.mp4"), "w") as film:
        stream = film.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 128, "yuv420p"  # its face is too small to take time
        for _ in range(4):
            film.mux(stream.encode(av.VideoFrame.from_image(portrait.resize((128, 128)))))
        film.mux(stream.encode(None))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    samples = re.findall(r"```python\n(.*?)```", text("docs/library.md"), re.DOTALL)
    for sample in samples:
        exec(compile(sample, "docs/library.md", "exec"), names)  # noqa: S102
    assert len(samples) >= 4
    assert (tmp_path / "better.jpg").is_file() and (tmp_path / "restored.mp4").is_file()
    assert names["report"].frames == 4


if __name__ == "__main__":
    for (page, name), make in TABLES.items():
        table_text = f"\n{make()}\n\n"
        (PROJECT / page).write_text(between(page, name).sub(lambda _, new=table_text: new, text(page)), "utf-8")
