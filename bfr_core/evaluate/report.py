"""The evaluation as one HTML file that needs nothing else: figures, plots and the worst faces."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from ..media.atomic import make_folder, publish
from . import table
from .catalogue import Metric
from .plots import histogram, timeline
from .results import Evaluation, Item, Row, WorstFace
from .sources import SIDES
from .style import STYLE

_TILES = ("psnr", "lpips", "identity", "lmd_5", "niqe", "aligned_flicker", "warp_error", "ssim")
"""Figures at the top: the first four of these that were measured."""
_MOST_NAMES = 200
_BETTER = {"higher": "&#8593; higher", "lower": "&#8595; lower", "truth": "&#8776; truth"}


def write_html(path: Path, evaluation: Evaluation) -> None:
    """Write the report, whole or not at all, making its folder where needed.

    Raises:
        OutputMediaError: it cannot be written.
    """
    make_folder(path.parent)
    # A file name may hold bytes that are no UTF-8; they become question marks.
    data = render(evaluation).encode("utf-8", "replace")
    with publish(path) as file:
        file.write(data)


def render(evaluation: Evaluation) -> str:
    """Return the report as an HTML page. Everything that came from outside, such as a file name, is escaped."""
    parts = [
        _header(evaluation),
        _tiles(evaluation),
        _figures(evaluation),
        _left_out(evaluation),
        _plots(evaluation),
        _worst(evaluation),
        _footer(),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(_title(evaluation))}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _title(evaluation: Evaluation) -> str:
    return f"Restoration report: {Path(evaluation.paths['restored']).name}"


def _sides(evaluation: Evaluation) -> list[str]:
    return [side for side in SIDES if any(side in row.sides for row in evaluation.rows)]


def _things(evaluation: Evaluation) -> str:
    return "frames" if evaluation.kind == "clip" else "faces"


def _header(evaluation: Evaluation) -> str:
    count = len(evaluation.faces)
    paths = "".join(
        f'<dt class="{side}">{side}</dt><dd><code>{escape(evaluation.paths[side])}</code></dd>'
        for side in SIDES
        if side in evaluation.paths
    )
    of = (
        "the largest face of each, cut out with the points of the truth"
        if evaluation.kind == "clip"
        else "aligned faces, matched by name"
    )
    return (
        f"<header><h1>Restoration report</h1>\n<p>{count} {_things(evaluation)} compared with their truth: {of}.</p>\n"
        f'<dl class="what">{paths}</dl>\n<p class="soft">{escape(_made(evaluation))}</p></header>'
    )


def _made(evaluation: Evaluation) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in evaluation.versions.items())
    return f"Made {evaluation.made.replace('T', ' ')} with {versions}"


def _tiles(evaluation: Evaluation) -> str:
    rows = {row.metric.key: row for row in evaluation.rows if table.mean(row, "restored") != "-"}
    tiles = []
    for key in [key for key in _TILES if key in rows][:4]:
        row = rows[key]
        told = [f"input {table.mean(row, 'input')}"] if "input" in row.sides else []
        told += [f"truth {table.mean(row, 'truth')}"] if "truth" in row.sides else []
        told += [f"better in {share}"] if (share := table.improved(row)) else []
        title = row.metric.title.split(", ")[0]
        tiles.append(
            f'<div class="card tile"><div class="name">{escape(title)}, {table.BETTER[row.metric.better]} is better'
            "</div>"
            f'<div class="value restored">{table.mean(row, "restored")} '
            f'<span class="unit">{escape(row.metric.unit)}</span></div>'
            f'<div class="soft">{escape("; ".join(told))}</div></div>'
        )
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def _figures(evaluation: Evaluation) -> str:
    sides = _sides(evaluation)
    with_input = "input" in sides
    heads = ["metric", *sides, "better is", "n"] + (["improved"] if with_input else [])
    head = "".join(f'<th scope="col"{f" class={name}" if name in SIDES else ""}>{escape(name)}</th>' for name in heads)
    body = []
    for row in evaluation.rows:
        if row.missing:
            continue
        best = table.winner(row)
        cells = [_cell(table.mean(row, side), side, side == best) for side in sides]
        cells.append(_cell(_BETTER[row.metric.better], "better is", escaped=True))
        cells.append(_cell(table.count(row), "n"))
        if with_input:
            cells.append(_cell(table.improved(row) or "-", "improved"))
        about = " ".join([row.metric.about, *(f"{remark}." for remark in table.remarks(row))])
        body.append(
            f'<tr><th scope="row">{escape(row.metric.label)}<span class="soft">{escape(about)}</span></th>'
            f"{''.join(cells)}</tr>"
        )
    absent = "".join(_missing_row(row, len(heads) - 1) for row in evaluation.rows if row.missing)
    told = "Means. " + (
        "The better of restored and input is shaded; improved is the share that came out better than its input."
        if with_input
        else ""
    )
    return (
        f'<section><h2>Figures</h2><p class="soft">{told}</p>\n<div class="wrap"><table class="figures"><thead><tr>'
        f"{head}</tr></thead>\n<tbody>{''.join(body)}</tbody>"
        f"{f'<tbody>{absent}</tbody>' if absent else ''}</table></div></section>"
    )


def _missing_row(row: Row, columns: int) -> str:
    return (
        f'<tr class="missing"><th scope="row">{escape(row.metric.label)}<span class="soft">{escape(row.metric.about)}'
        f'</span></th><td colspan="{columns}"><b>Not measured.</b> To measure it, {escape(row.missing)}.</td></tr>'
    )


def _cell(text: str, label: str, best: bool = False, *, escaped: bool = False) -> str:
    kind = "best" if best else "dash" if text == "-" else ""
    named = f' class="{kind}"' if kind else ""
    shown = text if escaped else "&#8211;" if text == "-" else escape(text)
    return f'<td{named} data-label="{label}">{shown}</td>'


def _left_out(evaluation: Evaluation) -> str:
    said = [
        f"<b>{escape(name)}</b> could not be compared. {escape(error)}" for name, error in evaluation.failed.items()
    ]
    said += [escape(line) for line in table.leftovers(evaluation, _MOST_NAMES)]
    said += [escape(note) for note in evaluation.notes]
    if not said:
        return ""
    items = "".join(f"<li>{line}</li>" for line in said)
    return f'<section><h2>What was left out</h2><div class="notes"><ul>{items}</ul></div></section>'


def _plots(evaluation: Evaluation) -> str:
    spread, over_time = [], []
    for row in evaluation.rows:
        if row.missing or row.metric.share or row.metric.scope == "set":
            continue
        items = evaluation.faces if row.metric.scope == "face" else evaluation.pairs
        finite = {side: [v for v in _values(items, row.metric, side) if math.isfinite(v)] for side in SIDES}
        finite = {side: values for side, values in finite.items() if values}
        if not finite:
            continue
        shown = "; ".join(f"{side} {table.mean(row, side)}" for side in finite)
        what = "pairs" if row.metric.scope == "pair" else _things(evaluation)
        plot = histogram(
            finite,
            unit=f"{row.metric.unit or row.metric.title.split(', ')[0]} ({table.BETTER[row.metric.better]} is better)",
            digits=row.metric.digits,
            what=what,
            title=f"{row.metric.title}, mean: {shown}",
        )
        spread.append(f'<div class="card"><h3>{escape(row.metric.title)}</h3>{plot}</div>')
        if evaluation.kind == "clip":
            over_time.append(_over_time(evaluation, row, items))
    out = ""
    if spread:
        out += (
            '<section><h2>Distributions</h2><p class="soft">How many '
            f"{_things(evaluation)} have which value. The dashed line is the mean.</p>\n"
            f'<div class="plots">{"".join(spread)}</div></section>'
        )
    if over_time:
        out += (
            '<section><h2>Over time</h2><p class="soft">Gaps are frames that could not be measured.</p>\n'
            f'<div class="plots">{"".join(over_time)}</div></section>'
        )
    return out


def _over_time(evaluation: Evaluation, row: Row, items: list[Item]) -> str:
    values = {side: _values(items, row.metric, side) for side in row.sides if row.sides[side].n}
    plot = timeline(
        values,
        title=f"{row.metric.title} over the time of the clip",
        times=(items[0].time or 0.0, items[-1].time or 0.0),
    )
    return f'<div class="card"><h3>{escape(row.metric.label)}</h3>{plot}</div>'


def _values(items: Sequence[Item], metric: Metric, side: str) -> list[float]:
    return [item.values.get(metric.key, {}).get(side, math.nan) for item in items]


def _worst(evaluation: Evaluation) -> str:
    by = evaluation.worst_by
    if not evaluation.worst or by is None:
        return ""
    cards = "".join(_worst_card(face, place, by, evaluation.rows) for place, face in enumerate(evaluation.worst, 1))
    one = ", at most one of each second" if evaluation.kind == "clip" else ""
    return (
        f"<section><h2>The {len(evaluation.worst)} worst {_things(evaluation)}</h2>"
        f'<p class="soft">By {escape(by.label)}, {table.BETTER[by.better]} is better{one}. The worst comes first.</p>\n'
        f'<div class="worst">{cards}</div></section>'
    )


def _worst_card(face: WorstFace, place: int, by: Metric, rows: Sequence[Row]) -> str:
    pictures = "".join(
        f'<figure><img alt="{side} of {escape(face.name)}" src="data:image/jpeg;base64,'
        f'{base64.b64encode(face.pictures[side]).decode()}"><figcaption class="{side}">{side}</figcaption></figure>'
        for side in ("input", "restored", "truth")
        if side in face.pictures
    )
    sides = [side for side in SIDES if any(side in values for values in face.values.values())]
    head = "".join(f'<th scope="col" class="{side}">{side}</th>' for side in sides)
    lines = []
    for row in rows:
        values = face.values.get(row.metric.key)
        if values is None or row.metric.share:
            continue
        cells = "".join(f"<td>{_shown(values.get(side), row.metric)}</td>" for side in sides)
        lines.append(f'<tr><th scope="row">{escape(row.metric.label)}</th>{cells}</tr>')
    value = f"{by.title} {_shown(face.values[by.key]['restored'], by)} {by.unit}"
    return (
        f'<article class="card"><header><h3>{place}. {escape(face.name)}</h3><span class="by">{escape(value)}</span>'
        f'</header><div class="pictures">{pictures}</div><table><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></article>"
    )


def _shown(value: float | None, metric: Metric) -> str:
    text = table.number(value, metric)
    return "–" if text == "-" else text


def _footer() -> str:
    return (
        '<footer class="soft"><p>PSNR counts pixels, so a blurred average can score well: read it beside identity, '
        "LPIPS and the faces themselves. Figures compare only with figures of the same faces, sizes and networks.</p>"
        "</footer>"
    )
