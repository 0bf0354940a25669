"""The figures this package promises, measured where it runs. Speed and memory live here, never in a timed test."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import SettingsError
from ..registry import default_method, methods

_SHARED = {
    "import": ".imports",
    "composite": ".composite",
    "batch": ".batch",
    "detector": ".detector",
    "recogniser": ".recogniser",
    "restorer": ".restorer",
    "degrade": ".degrade",
    "video": ".video",
}
"""Parts that are about no single method: module that measures them."""


def parts_of(*, paper: bool = False) -> dict[str, str]:
    """Return the parts of the benchmark, and the module that measures each: the shared ones, then those of methods.

    Args:
        paper: those of the published sizes, which take long and have no weights.
    """
    found = {} if paper else dict(_SHARED)
    for method in methods().values():
        found |= method.published_benches if paper else method.benches
    return found


def run(
    parts: Sequence[str],
    data: Path | None,
    say: Callable[[str], None],
    *,
    sheets: Path | None = None,
    paper: bool = False,
    only: Sequence[str] = (),
    weights: Path | None = None,
) -> dict[str, Any]:
    """Measure the named parts, all when none is named, and return their figures.

    Args:
        parts: some of `parts_of`.
        data: folder with `faces`, `photos`, `scenes` and `weights`; parts or figures that need it say so without.
        say: hears each figure as a line of text.
        sheets: folder for pictures of what was measured, where a part makes some.
        paper: measure the published sizes in their place, of the parts that have such.
        only: methods that the part `restorer` measures; empty for all.
        weights: of the one method in `only`, which that part measures beside the embedded ones.

    Raises:
        SettingsError: a part is unknown, or has no published sizes, or the folder does not exist, or methods or weights
            are named for other parts.
        WeightsError: the weights are not of the method.
    """
    import torch

    modules = parts_of(paper=paper)
    if unknown := [part for part in parts if part not in modules]:
        raise SettingsError(
            f"{'No published sizes to measure' if paper else 'Unknown part of the benchmark'}: {', '.join(unknown)}",
            found=f"expected {', '.join(modules)}",
            kept="Nothing was measured",
            todo="Name one of them, or none for all",
        )
    if data is not None and not data.is_dir():
        raise SettingsError(
            f"Cannot measure on {data}",
            found="no such folder; expected one with faces, photos, scenes and weights",
            kept="Nothing was measured",
            todo="Give the folder with --data, or leave it out for the figures that need none",
        )
    chosen = list(parts or modules)
    more: dict[str, Any] = {}
    if only or weights is not None:
        if paper or set(parts) - {"restorer"}:
            raise SettingsError(
                f"Cannot restrict {', '.join(parts) or 'the published sizes'} to methods or weights",
                found="only the part restorer measures one method or other weights",
                kept="Nothing was measured",
                todo=f"Run `bfr bench restorer --method {default_method().id}`, and the other parts without it",
            )
        chosen, more = ["restorer"], {"only": only, "weights": weights}
    torch.set_num_threads(2)
    say(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    figures: dict[str, Any] = {}
    for part in chosen:
        say(f"\n{part}")
        module = importlib.import_module(modules[part], __name__)
        figures[part] = module.measure(data, lambda line: say(f"  {line}"), sheets, **more)
    return figures
