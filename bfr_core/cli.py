"""The command `bfr`: restore, models, bench, demo."""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__
from .bench import PARTS
from .errors import BfrError
from .faces.detect import BACKENDS
from .registry import Method, Param, get_method, methods

if TYPE_CHECKING:
    from .faces.detect import Detector
    from .media.outputs import Job
    from .pipeline import Options
    from .restorer import Restorer
    from .runtime import Runtime

_DEFAULT_METHOD = "irn"
_USAGE_ERROR, _FAILED = 2, 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 something failed, 2 wrong usage, 130 interrupted."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    args = _parser(argv).parse_args(argv)
    try:
        return args.run(args)
    except BfrError as error:
        _say(f"Error: {error}")
        return _FAILED
    except KeyboardInterrupt:
        _say("Interrupted. Files finished so far are kept; run the same command again for the rest.")
        return 130


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


def _parser(argv: Sequence[str] | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bfr",
        description="Restore degraded faces in photos.",
        epilog="`bfr COMMAND --help` shows the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"bfr {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_restore(commands, argv)
    _add_models(commands)
    bench = commands.add_parser("bench", help="measure speed, memory and quality here", description=_bench.__doc__)
    bench.add_argument("parts", nargs="*", help=f"{', '.join(PARTS)}; all when none is named")
    bench.add_argument("--data", type=Path, help="folder of faces, photos and scenes that the figures are measured on")
    bench.add_argument("--sheets", type=Path, metavar="DIR", help="write input | restored | truth of some faces there")
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    bench.set_defaults(run=_bench)
    demo = commands.add_parser("demo", help="degrade a portrait, restore it, show both", description=_demo.__doc__)
    demo.add_argument("-o", "--out", type=Path, default=Path("demo.png"), help="where the picture goes (%(default)s)")
    demo.add_argument("--seed", type=int, default=2, help="draws the degradation (%(default)s)")
    demo.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (%(default)s)")
    demo.set_defaults(run=_demo)
    return parser


def _chosen_method(argv: Sequence[str] | None) -> Method:
    """Look ahead for --method, whose parameters become options."""
    ahead = argparse.ArgumentParser(add_help=False)
    ahead.add_argument("--method", default=_DEFAULT_METHOD)
    known = ahead.parse_known_args(sys.argv[1:] if argv is None else list(argv))[0].method
    return methods().get(known) or get_method(_DEFAULT_METHOD)


def _add_restore(commands: Any, argv: Sequence[str] | None) -> None:
    method = _chosen_method(argv)
    parser = commands.add_parser(
        "restore",
        help="restore the faces in pictures",
        description="Restore the faces in pictures. Everything outside the faces stays as it was, bit for bit in "
        "formats that are exact. A file that cannot be read is named and the rest goes on.",
        epilog="example: bfr restore old_photos/ -o restored/ --compare --report restored/report.json",
    )
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="pictures, and folders of them")
    parser.add_argument("-o", "--out", required=True, type=Path, help="output file for one picture, else a folder")
    parser.add_argument("--method", choices=list(methods()), default=_DEFAULT_METHOD, help="default: %(default)s")
    parser.add_argument("--config", default="", help=f"size of the method: {', '.join(c.name for c in method.configs)}")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="weights to use in place of the embedded ones")
    parser.add_argument("--detector", default="embedded", help=f"{', '.join(BACKENDS)} (%(default)s)")
    parser.add_argument("--detector-weights", type=Path, metavar="FILE", help="the detector's file, where it needs one")
    parser.add_argument("--threshold", type=float, help="least confidence of a face (the detector's own)")
    parser.add_argument("--aligned", action="store_true", help="each picture is one aligned face: detect nothing")
    parser.add_argument("--max-faces", type=int, default=0, metavar="N", help="only the N largest faces (0: all)")
    parser.add_argument("--min-size", type=float, default=16.0, metavar="PX", help="leave smaller faces (%(default)s)")
    parser.add_argument(
        "--strength", type=float, default=1.0, help="0 keeps the input, 1 restores in full (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of methods that draw noise (%(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (%(default)s)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="(%(default)s)")
    parser.add_argument("--format", metavar="SUFFIX", help="suffix of the outputs, such as .png (each input's own)")
    parser.add_argument("--quality", type=int, default=95, help="of JPEG and WebP, 1 to 100 (%(default)s)")
    parser.add_argument("--compare", action="store_true", help="also write before | after beside each output")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write what was done to each face, as JSON")
    parser.add_argument("--overwrite", action="store_true", help="replace results of an earlier run, never an input")
    if method.params:
        group = parser.add_argument_group(f"settings of {method.title}")
        for param in method.params:
            _add_param(group, param)
    parser.set_defaults(run=_restore, params=method.params)


def _add_param(group: Any, param: Param) -> None:
    kind = type(param.default)
    span = f" from {param.low:g} to {param.high:g}" if param.low is not None else ""
    options: dict[str, Any] = {"default": param.default, "help": f"{param.help}{span} ({param.default})"}
    if kind is bool:
        options["action"] = argparse.BooleanOptionalAction
    else:
        options["type"] = kind
        if param.choices:
            options["choices"] = param.choices
    group.add_argument(f"--{param.name.replace('_', '-')}", dest=f"param_{param.name}", **options)


def _restore(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from .faces.detect import load_detector
    from .media.outputs import plan_outputs
    from .pipeline import Options
    from .restorer import load_restorer
    from .runtime import DTYPES, Runtime, pick_device

    # Everything that can fail for all pictures fails before the first one.
    options = Options(
        strength=args.strength,
        seed=args.seed,
        threshold=args.threshold,
        max_faces=args.max_faces,
        min_size=args.min_size,
        settings={param.name: getattr(args, f"param_{param.name}") for param in args.params},
    )
    options.check()
    runtime = Runtime(device=pick_device(args.device), dtype=DTYPES[args.dtype])
    restorer = load_restorer(args.method, args.config, weights=args.weights)
    restorer.method.settings(options.settings)
    detector = None
    if not args.aligned:
        detector = load_detector(args.detector, path=args.detector_weights, device=runtime.device)
    jobs = plan_outputs(args.inputs, args.out, suffix=args.format, overwrite=args.overwrite)

    entries: list[dict[str, Any]] = []
    failed = 0
    with tqdm(jobs, unit="picture", disable=None) as bar:
        for job in bar:
            bar.set_postfix_str(job.source.name[-32:], refresh=True)
            runtime.notes = []
            entry: dict[str, Any] = {"source": str(job.source), "target": str(job.target)}
            try:
                entry |= {"status": "done", **_restore_file(job, restorer, detector, options, runtime, args)}
            except BfrError as error:
                failed += 1
                entry |= {"status": "failed", "error": str(error)}
                tqdm.write(f"Failed: {error}", file=sys.stderr)
            entries.append(entry)
    if args.report:
        _write_json(args.report, {"bfr": __version__, "weights": restorer.source, "files": entries})
    faces = sum(face["action"] == "restored" for entry in entries for face in entry.get("report", {}).get("faces", []))
    _print(f"{len(jobs) - failed} of {len(jobs)} pictures done, {faces} faces restored, in {args.out}")
    if failed:
        names = ", ".join(entry["source"] for entry in entries if entry["status"] == "failed")
        _say(f"{failed} pictures failed and have no output: {names}")
    return _FAILED if failed else 0


def _restore_file(
    job: Job,
    restorer: Restorer,
    detector: Detector | None,
    options: Options,
    runtime: Runtime,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Restore one file and return its entry of the report."""
    from .media.atomic import publish
    from .media.pictures import FORMATS, from_float, read_picture, to_float, write_picture
    from .media.sheets import compare_sheet
    from .pipeline import restore_frame

    picture = read_picture(job.source)
    frame = to_float(picture)
    result = restore_frame(frame, restorer, detector, aligned=args.aligned, options=options, runtime=runtime)
    notes = list(picture.notes)
    if not bool(result.mask.any()) and FORMATS.get(job.target.suffix.lower()) == picture.kind:
        # Writing it anew would recompress a picture in which nothing changed.
        with job.source.open("rb") as source, publish(job.target) as target:
            shutil.copyfileobj(source, target)
        notes = ["no face was restored: the file was copied as it is"]
    else:
        restored = from_float(picture, result.image, result.mask > 0)
        write_picture(job.target, restored, quality=args.quality)
        notes += [note for note in restored.notes if note not in notes]
    entry: dict[str, Any] = {"report": result.report.to_dict(), "notes": notes}
    if args.compare:
        pairs = [(crop.image, face) for crop, face in zip(result.crops, result.faces, strict=True)]
        sheet = compare_sheet(frame, result.image, [] if args.aligned else pairs)
        target = job.target.with_name(f"{job.target.stem}.compare.png")
        _write_sheet(target, sheet)
        entry["compare"] = str(target)
    return entry


def _write_sheet(path: Path, sheet: Any) -> None:
    from .media.pictures import Picture, write_picture

    write_picture(path, Picture(sheet))


def _write_json(path: Path, content: Any) -> None:
    from .media.atomic import make_folder, publish

    make_folder(path.parent)
    with publish(path) as file:
        file.write(json.dumps(content, indent=2).encode() + b"\n")


def _add_models(commands: Any) -> None:
    models = commands.add_parser("models", help="list, verify and convert weights")
    actions = models.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="methods, configs, detectors and the weights they come with")
    listing.set_defaults(run=_models_list)
    verify = actions.add_parser("verify", help="check embedded weights, or files: hash, finite, which model")
    verify.add_argument("files", nargs="*", type=Path, metavar="FILE", help="default: all embedded weights")
    verify.set_defaults(run=_models_verify)
    fetch = actions.add_parser("fetch", help="download a detector's weights, the only thing that ever downloads")
    fetchable = [name for name, backend in BACKENDS.items() if any(file.url for file in backend.files)]
    fetch.add_argument("detector", help=" or ".join(fetchable))
    fetch.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="folder to put the file in")
    fetch.set_defaults(run=_models_fetch)
    convert = actions.add_parser("convert", help="write any readable checkpoint as safetensors")
    convert.add_argument("source", type=Path)
    convert.add_argument("-o", "--out", type=Path, required=True, help="a .safetensors file")
    convert.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="cast the numbers")
    convert.set_defaults(run=_models_convert)


def _models_list(args: argparse.Namespace) -> int:
    from .faces.detect import detectors
    from .weights import read_card

    for method in methods().values():
        _print(f"{method.id}: {method.title}. {method.summary}")
        for config in method.configs:
            line = f"  {config.name}: {config.title}, {config.size} px"
            if config.embedded:
                card = read_card(config.embedded)
                line += f", {card.parameters / 1e6:.1f} M parameters, weights {card.licence}, trained on {card.images}"
            _print(line)
    _print("detectors:")
    for info in detectors():
        _print(f"  {info.name}: {info.title}, {info.reason if info.available else 'not here, ' + info.reason}")
    return 0


def _models_verify(args: argparse.Namespace) -> int:
    from .registry import identify
    from .weights import embedded, embedded_cards, load_state, sha256_of

    wanted = [(path, None) for path in args.files] or [(embedded(card.name), card.sha256) for card in embedded_cards()]
    failed = 0
    for path, sha256 in wanted:
        try:
            state = load_state(path, sha256=sha256)
        except BfrError as error:
            failed += 1
            _print(f"FAILED {error}")
        else:
            count = sum(tensor.numel() for tensor in state.values())
            model = identify(state.keys()) or ("the embedded detector" if sha256 else "no method of this package")
            _print(f"ok {path}: {model}, {count / 1e6:.2f} M numbers, all finite, sha256 {sha256_of(path)}")
    return _FAILED if failed else 0


def _models_fetch(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from .errors import WeightsError
    from .weights.download import download

    backend = BACKENDS.get(args.detector)
    known = next((file for file in backend.files if file.url), None) if backend else None
    if backend is None or known is None:
        with_file = [name for name, other in BACKENDS.items() if any(file.url for file in other.files)]
        raise WeightsError(
            f"Nothing to download for {args.detector!r}",
            found=f"expected one of {', '.join(with_file)}",
            kept="Nothing was changed",
            todo="The embedded detector needs no file; `bfr models list` says where others are published",
        )
    target = args.out / known.name
    with tqdm(unit="B", unit_scale=True, disable=None, desc=known.name) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total or None
            bar.update(done - bar.n)

        fetched = download(known.url, target, sha256=known.sha256, on_progress=show)
    state = "fetched" if fetched else "there already"
    _print(f"{target}: {state}, sha256 {known.sha256}, licence {backend.licence}, from {known.source}")
    return 0


def _models_convert(args: argparse.Namespace) -> int:
    from .errors import SettingsError
    from .runtime import DTYPES
    from .weights import convert

    if args.out.suffix != ".safetensors":
        raise SettingsError(
            f"Cannot convert to {args.out}",
            found=f"its suffix is {args.out.suffix or 'missing'}, expected .safetensors",
            kept="Nothing was written",
            todo="Name the output something.safetensors",
        )
    written = convert(args.source, args.out, dtype=DTYPES[args.dtype] if args.dtype else None)
    _print(f"{args.out}: {written['tensors']} tensors, {written['bytes']} bytes, sha256 {written['sha256']}")
    return 0


def _bench(args: argparse.Namespace) -> int:
    """Print the figures this package promises, measured on this machine."""
    from .bench import run
    from .media.atomic import make_folder

    if args.sheets:
        make_folder(args.sheets)
    figures = run(args.parts, args.data, _print, sheets=args.sheets)
    if args.json:
        _write_json(args.json, figures)
    return 0


def _demo(args: argparse.Namespace) -> int:
    """Degrade NASA's astronaut portrait, which scikit-image ships, restore it, and write before | after | truth."""
    from .demo import run

    _print(run(args.out, seed=args.seed, device=args.device))
    return 0


if __name__ == "__main__":
    sys.exit(main())
