"""`bfr models`: list, verify, fetch and convert weights."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BfrError
from ..models.registry import describe, specs
from ..models.roles import ROLES
from ..registry import methods
from ._output import FAILED, show

if TYPE_CHECKING:
    from ..models.checkpoints.cards import Card
    from ..models.spec import KnownFile, ModelSpec

_LISTED = [role for role in ROLES if role != "restorer"]
"""Roles whose models are listed and fetched one by one; restorers are listed by method and config."""


def add(commands: Any, argv: Sequence[str] | None) -> None:
    """Declare the command and its actions."""
    models = commands.add_parser("models", help="list, verify and convert weights")
    actions = models.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="methods, configs, detectors and the weights they come with")
    listing.set_defaults(run=_models_list)
    verify = actions.add_parser("verify", help="check embedded weights, or files: hash, finite, which model")
    verify.add_argument(
        "files", nargs="*", type=Path, metavar="FILE", help="files, and folders of them; default: all embedded weights"
    )
    verify.set_defaults(run=_models_verify)
    fetch = actions.add_parser("fetch", help="download a model's weights, the only thing that ever downloads")
    fetch.add_argument("model", help=" or ".join(_fetchable()))
    fetch.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="folder to put the file in")
    fetch.set_defaults(run=_models_fetch)
    convert = actions.add_parser("convert", help="write any readable checkpoint as safetensors")
    convert.add_argument("source", type=Path, help="a checkpoint, or a folder with all parts of a network")
    convert.add_argument(
        "-o", "--out", type=Path, required=True, help="a .safetensors file; from a folder also a folder, a file a part"
    )
    convert.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="cast the numbers")
    convert.set_defaults(run=_models_convert)
    niqe = actions.add_parser("fit-niqe", help="fit a pristine model for NIQE to sharp pictures of your own")
    niqe.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="untouched pictures, and folders of them")
    niqe.add_argument("-o", "--out", type=Path, required=True, help="niqe_pris_params.npz, where `bfr eval` looks")
    niqe.set_defaults(run=_models_fit_niqe)


def _models_list(args: argparse.Namespace) -> int:
    from ..models.checkpoints.cards import read_card
    from ..models.loader import available

    for method in methods().values():
        show(f"{method.id}: {method.title}. {method.summary}")
        for config in method.configs:
            line = f"  {config.name}: {config.title}, {config.size} px"
            if config.embedded:
                cards = [read_card(name) for name in (*config.embedded, *config.shared.values())]
                licences, images = (
                    "; ".join(dict.fromkeys(getattr(card, field) for card in cards)) for field in ("licence", "images")
                )
                millions = sum(card.parameters for card in cards) / 1e6
                line += f", {millions:.1f} M parameters, weights {licences}, trained on {images}"
                if config.shared:
                    line += f", shares {', '.join(config.shared.values())}"
            elif config.published:
                files = ", ".join(part.file for part in method.parts) or "a file"
                line += f", get {files} by hand from {config.published}"
            show(line)
    for role in _LISTED:
        show(f"{ROLES[role].plural}:")
        for info in available(role):
            show(f"  {info.name}: {info.title}, {info.reason if info.available else 'not here, ' + info.reason}")
    return 0


def _models_verify(args: argparse.Namespace) -> int:
    from ..models.checkpoints.cards import embedded, embedded_cards
    from ..models.checkpoints.parts import candidates

    files = [file for path in args.files for file in ((path.is_dir() and candidates(path)) or [path])]
    wanted = [(path, None) for path in files] or [(embedded(card.name), card) for card in embedded_cards()]
    failed = 0
    for path, card in wanted:
        try:
            show(f"ok {path}: {_verified(path, card)}")
        except BfrError as error:
            failed += 1
            show(f"FAILED {error}")
    return FAILED if failed else 0


def _verified(path: Path, card: Card | None) -> str:
    """Check a file, against its card where it has one, and say what it is."""
    from ..models.checkpoints.files import load_state, sha256_of
    from ..models.checkpoints.origin import read_origin
    from ..models.checkpoints.parts import find_contents
    from ..registry import identify

    contents = find_contents(path) if path.is_file() and card is None else None
    if contents:
        state = {key: tensor for part in contents.parts for key, tensor in contents.check(part).items()}
    else:
        state = load_state(path, sha256=card.sha256 if card else None)
    count = sum(tensor.numel() for tensor in state.values())
    # A card, or the file itself, says what it is; layouts that two methods share do not.
    if card:
        model = f"{card.method}, {card.title}"
    else:
        origin = read_origin(path)
        known = identify(state.keys()) or describe(state.keys())
        model = origin.words if origin else known or "no model of this package"
    return f"{model}, {count / 1e6:.2f} M numbers, all finite, sha256 {sha256_of(path)}"


def _fetchable() -> dict[str, tuple[ModelSpec, KnownFile]]:
    """Return what can be downloaded, by name: models with the first of their files that has an address."""
    known = ((spec, [file for file in spec.files if file.url]) for role in _LISTED for spec in specs(role))
    return {spec.id: (spec, files[0]) for spec, files in known if files}


def _models_fetch(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ..errors import WeightsError
    from ..models.checkpoints.download import download

    fetchable = _fetchable()
    if args.model not in fetchable:
        raise WeightsError(
            f"Nothing to download for {args.model!r}",
            found=f"expected one of {', '.join(fetchable)}",
            kept="Nothing was changed",
            todo="The embedded detector needs no file; `bfr models list` says where others are published",
        )
    spec, known = fetchable[args.model]
    target = args.out / known.name
    with tqdm(unit="B", unit_scale=True, disable=None, desc=known.name) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total or None
            bar.update(done - bar.n)

        fetched = download(known.url, target, sha256=known.sha256, on_progress=progress)
    state = "fetched" if fetched else "there already"
    show(f"{target}: {state}, sha256 {known.sha256}, licence {spec.licence}, from {known.source}")
    return 0


def _models_convert(args: argparse.Namespace) -> int:
    from ..models.checkpoints.conversion import convert
    from ..runtime import DTYPES

    for written in convert(args.source, args.out, dtype=DTYPES[args.dtype] if args.dtype else None):
        show(f"{written['path']}: {written['tensors']} tensors, {written['bytes']} bytes, sha256 {written['sha256']}")
    return 0


def _models_fit_niqe(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ..errors import SettingsError
    from ..media.formats import is_picture
    from ..media.pictures import read_picture, to_float
    from ..metrics.niqe import Niqe

    if args.out.suffix != ".npz":
        raise SettingsError(
            f"Cannot write a NIQE model to {args.out}",
            found=f"its suffix is {args.out.suffix or 'missing'}, expected .npz",
            kept="Nothing was written",
            todo="Name it niqe_pris_params.npz",
        )
    files = [
        path
        for place in args.inputs
        for path in (sorted(place.rglob("*")) if place.is_dir() else [place])
        if path == place or is_picture(path)
    ]
    with tqdm(files, unit="picture", disable=None) as bar:
        model = Niqe.fit(to_float(read_picture(path)).clamp(0, 1) for path in bar)
    model.save(args.out)
    show(f"{args.out}: {model.model} of {len(files)} pictures; its figures do not compare with published ones")
    return 0
