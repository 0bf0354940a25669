"""What tells restored faces from others: all that decides what a restorer makes of a crop."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .. import __version__

if TYPE_CHECKING:
    from ..restorer import Restorer
    from ..runtime import Runtime

_DIGEST_BYTES = 16

_digests: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


def digest_of(net: nn.Module) -> str:
    """Return what tells a network from others of its kind: the hash of its weights.

    Computed once for each network, whose weights do not change once it is loaded.
    """
    found = _digests.get(net)
    if found is None:
        digest = hashlib.sha256()
        for name, tensor in sorted(net.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        found = _digests[net] = digest.hexdigest()
    return found


def fingerprint(restorer: Restorer) -> dict[str, Any]:
    """Return who restores, weights and guide included, as plain JSON types."""
    guide = restorer.guide
    told: dict[str, Any] = {
        "method": restorer.method.id,
        "config": restorer.config.name,
        "weights": digest_of(restorer.net),
        "guide": None,
    }
    if guide is not None:
        told["guide"] = {
            "recogniser": digest_of(guide.recogniser),
            "strength": guide.strength,
            "reference": None if guide.reference is None else guide.reference.detach().cpu().tolist(),
        }
    return told


def keys_of(
    images: Tensor,
    seeds: Sequence[int],
    restorer: Restorer,
    settings: Any,
    inputs: Mapping[str, Tensor],
    run: Runtime,
    *,
    whole: bool = False,
) -> list[str]:
    """Return the keys of a batch's faces: hashes of all that decides what the restorer makes of each.

    Args:
        images: (B, 3, S, S), the crops, or one whole picture.
        seeds: one for each.
        restorer: the loaded method.
        settings: of the method, checked.
        inputs: what the method takes beside the faces, one row for each.
        run: where they are restored.
        whole: it is one picture and no face.
    """
    told = {
        **fingerprint(restorer),
        "settings": asdict(settings),
        "whole": whole,
        "computed": [str(run.dtype), run.device.type, __version__, torch.__version__],
    }
    common = json.dumps(told, sort_keys=True).encode()
    keys: list[str] = []
    for index, image in enumerate(images):
        digest = hashlib.blake2b(common, digest_size=_DIGEST_BYTES)
        seed = seeds[index] if restorer.method.draws else None
        rows = {"image": image, **{name: rows[index] for name, rows in sorted(inputs.items())}}
        digest.update(json.dumps([seed, [[name, list(row.shape)] for name, row in rows.items()]]).encode())
        for row in rows.values():
            digest.update(row.detach().to("cpu", torch.float32).contiguous().numpy().data)
        keys.append(digest.hexdigest())
    return keys
