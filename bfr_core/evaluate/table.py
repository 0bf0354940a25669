"""The figures of an evaluation as words: what the terminal and the report both show."""

from __future__ import annotations

from .catalogue import Metric
from .results import Evaluation, Row, badness
from .sources import SIDES

BETTER = {"higher": "higher", "lower": "lower", "truth": "near truth"}


def number(value: float | None, metric: Metric) -> str:
    """Return a value as it is shown; a dash where there is none."""
    if value is None or value != value:
        return "-"
    return "equal" if value == float("inf") else f"{value:.{metric.digits}f}"


def mean(row: Row, side: str) -> str:
    """Return the mean of one side as it is shown: `equal` where every face equals its truth."""
    spread = row.sides.get(side)
    if spread is None:
        return "-"
    return "equal" if spread.n == 0 and spread.equal else number(spread.mean, row.metric)


def winner(row: Row) -> str:
    """Return the side whose mean is better, restored or input; empty where neither is."""
    means = {side: spread.mean for side, spread in row.sides.items() if spread.mean is not None}
    if "restored" not in means or "input" not in means:
        return ""
    bad = {side: badness(row.metric.better, means, side) for side in ("restored", "input")}
    if bad["restored"] == bad["input"]:
        return ""
    return min(bad, key=bad.__getitem__)


def count(row: Row) -> str:
    """Return how many values the restored mean is of."""
    spread = row.sides.get("restored")
    if spread is None:
        return "-"
    if row.metric.scope == "set":
        return "set"
    left = f" of {spread.n + spread.equal + spread.unmeasured}" if spread.equal or spread.unmeasured else ""
    return f"{spread.n}{left}"


def improved(row: Row) -> str:
    """Return for how many faces the restored is better than the input, as a share."""
    if not row.compared or row.metric.scope == "set" or row.metric.share:
        return ""
    return f"{100 * row.better / row.compared:.0f} %"


def remarks(row: Row) -> list[str]:
    """Return what a reader should know about the values of a row."""
    said = [f"Measured with {row.measured_with}"] if row.measured_with else []
    for side, spread in row.sides.items():
        if spread.equal:
            said.append(f"{spread.equal} {side} equal to their truth, not in the mean")
    unmeasured = {side: spread.unmeasured for side, spread in row.sides.items() if spread.unmeasured}
    if unmeasured:
        counts = ", ".join(f"{count} {side}" for side, count in unmeasured.items())
        said.append(f"not measured: {counts} ({row.why})")
    return said


def lines(evaluation: Evaluation) -> list[str]:
    """Return the table as lines of text, then what was left out and why."""
    shown = [side for side in SIDES if any(side in row.sides for row in evaluation.rows)]
    head = ["metric", *shown, "better", "n"] + (["improved"] if "input" in shown else [])
    body: list[list[str]] = []
    missing: dict[str, list[str]] = {}
    notes: list[str] = []
    for row in evaluation.rows:
        if row.missing:
            missing.setdefault(row.missing, []).append(row.metric.title)
            continue
        cells = [row.metric.label, *(mean(row, side) for side in shown), BETTER[row.metric.better], count(row)]
        body.append(cells + ([improved(row)] if "input" in shown else []))
        notes += [f"{row.metric.title}: {remark}" for remark in remarks(row)]
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    table = ["  ".join(_pad(cell, width, index) for index, (cell, width) in enumerate(zip(cells, widths, strict=True)))
             for cells in (head, *body)]  # fmt: skip
    out = [line.rstrip() for line in table]
    if missing:
        out += [
            "",
            "Not measured, because a file is missing:",
            *(f"  {'; '.join(titles)}: {todo}" for todo, titles in missing.items()),
        ]
    if notes := notes + evaluation.notes:
        out += ["", *notes]
    return out


def _pad(cell: str, width: int, index: int) -> str:
    return cell.ljust(width) if index == 0 else cell.rjust(width)


def leftovers(evaluation: Evaluation, most: int = 8) -> list[str]:
    """Return what was not compared, by name, a line for each kind."""
    texts = {
        "restored": "restored pictures have no truth",
        "truth": "truths have no restored picture",
        "input": "faces have no input",
    }
    said = []
    for side, names in evaluation.unmatched.items():
        more = f" and {len(names) - most} more" if len(names) > most else ""
        said.append(f"{len(names)} {texts[side]}: {', '.join(names[:most])}{more}")
    return said
