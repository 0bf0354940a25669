"""Plots of an evaluation as SVG that takes its colours from the page around it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

_WIDTH = 360
_LEFT, _RIGHT = 70, 12
_ROW, _GAP, _BOTTOM = 48, 22, 38
_MOST_BINS = 24


def histogram(values: Mapping[str, Sequence[float]], *, unit: str, digits: int, what: str, title: str) -> str:
    """Return how the values of each side are spread, a row a side over one axis, as an SVG element.

    Args:
        values: finite numbers by side, at least one in all. Far ones fall into the bin at their end of the axis.
        unit: of the values, for the axis.
        digits: decimals of the means.
        what: what is counted, such as `faces`.
        title: for readers who hear the page.
    """
    low, high, beyond = _bulk([value for numbers in values.values() for value in numbers])
    most = max(len(numbers) for numbers in values.values())
    bins = min(max(8, math.ceil(2 * math.sqrt(most))), _MOST_BINS)
    counts = {side: _count(numbers, low, high, bins) for side, numbers in values.items()}
    height = len(values) * (_ROW + _GAP) + _BOTTOM
    inside = _WIDTH - _LEFT - _RIGHT

    def at(value: float) -> float:
        return _LEFT + inside * (value - low) / (high - low)

    floor = height - _BOTTOM
    parts = [_vertical(at(tick), _GAP, floor, "rule") for tick in _ticks(low, high)]
    for index, (side, row) in enumerate(counts.items()):
        base = (index + 1) * (_ROW + _GAP)
        width, peak = inside / bins, max(row)
        for place, number in enumerate(row):
            if number:
                tall = max(_ROW * number / peak, 1.0)
                x = _LEFT + place * width + 0.5
                parts.append(
                    f'<rect class="bar {side}" x="{x:.1f}" y="{base - tall:.1f}" width="{max(width - 1, 1):.1f}" '
                    f'height="{tall:.1f}" rx="1"/>'
                )
        parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{base}" y2="{base}"/>')
        parts.append(f'<text class="side {side}" x="0" y="{base - 3}">{side}</text>')
        parts.append(_text(_LEFT - 5, base - _ROW + 9, str(peak), "end"))
        mean = math.fsum(values[side]) / len(values[side])
        parts.append(_vertical(at(min(max(mean, low), high)), base - _ROW - 2, base, "mean"))
        parts.append(
            _text(min(max(at(mean), _LEFT), _WIDTH - 26), base - _ROW - 5, f"{mean:.{digits}f}", "middle", "mean-text")
        )
    parts += [_text(at(tick), floor + 15, _short(tick), "middle") for tick in _ticks(low, high)]
    left_out = f"; {beyond} beyond the axis" if beyond else ""
    parts.append(_text(_WIDTH / 2, height - 6, unit + left_out, "middle"))
    parts.append(_text(0, _GAP + 9, what, "start"))
    return _svg(height, title, parts)


def timeline(values: Mapping[str, Sequence[float]], *, title: str, times: tuple[float, float]) -> str:
    """Return how the values of each side run over the time of a clip, as an SVG element.

    Args:
        values: numbers by side, of as many places; NaN leaves a gap.
        title: for readers who hear the page.
        times: of the first and the last place, in seconds.
    """
    finite = [value for numbers in values.values() for value in numbers if math.isfinite(value)]
    low, high = _limits(finite)
    height, top, floor = 190, 24, 190 - _BOTTOM
    inside = _WIDTH - _LEFT - _RIGHT

    def across(place: float, most: int) -> float:
        return _LEFT + inside * place / max(most - 1, 1)

    def up(value: float) -> float:
        return floor - (floor - top) * (value - low) / (high - low)

    parts = []
    for tick in _ticks(low, high):
        parts.append(
            f'<line class="rule" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{up(tick):.1f}" y2="{up(tick):.1f}"/>'
        )
        parts.append(_text(_LEFT - 6, up(tick) + 4, _short(tick), "end"))
    for side, numbers in values.items():
        for run in _runs(numbers):
            points = " ".join(f"{across(place, len(numbers)):.1f},{up(numbers[place]):.1f}" for place in run)
            parts.append(f'<polyline class="line {side}" points="{points}"/>')
    x = float(_LEFT)
    for side in values:
        parts.append(f'<text class="side {side}" x="{x}" y="13">{side}</text>')
        x += 68
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{floor}" y2="{floor}"/>')
    start, end = times
    parts += [
        _text(across(share, 2), floor + 15, f"{start + share * (end - start):.1f}", "middle") for share in (0, 0.5, 1)
    ]
    parts.append(_text(_LEFT + inside / 2, height - 6, "seconds", "middle"))
    return _svg(height, title, parts)


def _runs(numbers: Sequence[float]) -> list[list[int]]:
    """Return the places of each unbroken run of finite numbers."""
    runs: list[list[int]] = [[]]
    for place, value in enumerate(numbers):
        if math.isfinite(value):
            runs[-1].append(place)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _limits(numbers: Sequence[float]) -> tuple[float, float]:
    low, high = min(numbers), max(numbers)
    margin = 0.02 * (high - low) if high > low else max(abs(low) * 0.05, 0.5)
    return low - margin, high + margin


def _bulk(numbers: Sequence[float]) -> tuple[float, float, int]:
    """Return limits for an axis that a few far values do not squeeze, and how many values lie beyond them."""
    ranked = sorted(numbers)
    trim = len(ranked) // 40
    low, high = ranked[trim], ranked[-1 - trim]
    reach = high - low
    low = low if low - ranked[0] > reach else ranked[0]
    high = high if ranked[-1] - high > reach else ranked[-1]
    low, high = _limits([low, high])
    return low, high, sum(not low <= value <= high for value in numbers)


def _count(numbers: Sequence[float], low: float, high: float, bins: int) -> list[int]:
    row = [0] * bins
    for value in numbers:
        row[min(max(int(bins * (value - low) / (high - low)), 0), bins - 1)] += 1
    return row


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers between the limits, three to six of them."""
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [(first + index) * step for index in range(math.floor(high / step + 1e-9) - first + 1)]


def _short(value: float) -> str:
    return f"{value + 0.0:.6g}" if abs(value) > 1e-12 else "0"


def _vertical(x: float, top: float, floor: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{floor:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    head = f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">'
    return "\n".join([head, *parts, "</svg>"])
