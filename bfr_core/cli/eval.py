"""`bfr eval`: how good restored faces are, as figures and as a report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import SettingsError
from ._output import FAILED, say, show, write_json

_REPORTS = (".html", ".json")


def add(commands: Any, argv: Sequence[str] | None) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "eval",
        help="measure restored faces against their truth",
        description="Measure restored faces against their truth: aligned faces matched by name, or clips matched by "
        "time. Metrics that need a file which is not there say which, and where to put it.",
        epilog="example: bfr eval restored/ --truth clean/ --input degraded/ --report report.html",
    )
    parser.add_argument("restored", type=Path, metavar="RESTORED", help="a picture, a folder of them, or a clip")
    parser.add_argument("--truth", type=Path, required=True, metavar="GT", help="the same faces as they should be")
    parser.add_argument("--input", type=Path, metavar="LQ", help="the same faces before restoration, for comparison")
    parser.add_argument(
        "--report", type=Path, action="append", default=[], metavar="FILE",
        help=".html for reading, .json with every value of every face; may be given twice",
    )  # fmt: skip
    parser.add_argument("--weights", type=Path, metavar="DIR", help="folder with the files that some metrics need")
    parser.add_argument(
        "--recogniser", "--recognizer", type=Path, metavar="FILE",
        help="face recogniser for the identity metrics, such as ArcFace (one in --weights, else the embedded one)",
    )  # fmt: skip
    for side in ("restored", "input", "truth"):
        parser.add_argument(
            f"--features-{side}", type=Path, metavar="FILE", help=f"Inception features of {side}, for FID and IDS"
        )
    parser.add_argument(
        "--features-reference", type=Path, metavar="FILE", help="features or statistics of real faces, for FID"
    )
    parser.add_argument("--resize", action="store_true", help="bring restored and input to the size of the truth")
    parser.add_argument("--worst", type=int, default=10, metavar="N", help="show the N worst faces (%(default)s)")
    parser.add_argument(
        "--worst-by", default="", metavar="METRIC", help="what makes a face bad, such as psnr (identity, lpips or psnr)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (%(default)s)")
    parser.set_defaults(run=_eval)


def _eval(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ..evaluate.report import write_html
    from ..evaluate.run import EvalOptions, evaluate
    from ..evaluate.table import leftovers, lines
    from ..evaluate.tools import MetricModels
    from ..media.atomic import make_folder, require_writable
    from ..media.formats import is_clip
    from ..runtime import pick_device

    _check(args)
    for report in args.report:
        make_folder(report.parent)
        require_writable(report.parent)
    given = {
        "recognizer": args.recogniser,
        "features_restored": args.features_restored,
        "features_input": args.features_input,
        "features_truth": args.features_truth,
        "inception_reference": args.features_reference,
    }
    tools = MetricModels(args.weights, {key: path for key, path in given.items() if path}, pick_device(args.device))
    paths = {"restored": args.restored, "input": args.input, "truth": args.truth}
    with tqdm(unit="frame" if is_clip(args.restored) else "face", disable=None) as bar:

        def progress(done: int, total: int, name: str) -> None:
            bar.total = total or None
            bar.set_postfix_str(name[-32:], refresh=False)
            bar.update(done - bar.n)

        evaluation = evaluate(
            {side: path for side, path in paths.items() if path},
            tools,
            EvalOptions(resize=args.resize, worst=args.worst, worst_by=args.worst_by),
            on_progress=progress,
        )
    for line in lines(evaluation):
        show(line)
    for line in leftovers(evaluation):
        say(line)
    for report in args.report:
        if report.suffix.lower() == ".json":
            write_json(report, evaluation.to_dict())
        else:
            write_html(report, evaluation)
        show(f"written: {report}")
    if evaluation.failed:
        for error in evaluation.failed.values():
            say(f"Failed: {error}")
        say(f"{len(evaluation.failed)} faces could not be compared: {', '.join(evaluation.failed)}")
    return FAILED if evaluation.failed else 0


def _check(args: argparse.Namespace) -> None:
    wrong = [str(path) for path in args.report if path.suffix.lower() not in _REPORTS]
    if wrong:
        raise SettingsError(
            f"Cannot write a report to {', '.join(wrong)}",
            found=f"its suffix is not one of {', '.join(_REPORTS)}",
            kept="Nothing was measured",
            todo="Name it something.html or something.json",
        )
    if args.weights and not args.weights.is_dir():
        raise SettingsError(
            f"Cannot look for files in {args.weights}",
            found="there is no such folder",
            kept="Nothing was measured",
            todo="Name the folder of the metrics' files, or leave --weights out",
        )
    if args.worst < 0:
        raise SettingsError(
            f"Cannot show {args.worst} faces",
            found="--worst is negative; expected 0 or more",
            kept="Nothing was measured",
            todo="Give 0 to show none",
        )
