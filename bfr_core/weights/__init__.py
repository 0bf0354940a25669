"""The weights that come with the package, in `embedded/`; who opens them stands in `models.checkpoints`.

The names below were here until now and are kept for one release.
"""

from ..models.checkpoints.cards import Card, embedded, embedded_cards, load_embedded, read_card
from ..models.checkpoints.conversion import convert
from ..models.checkpoints.files import fill, load_state, sha256_of
from ..models.checkpoints.origin import Origin, read_origin

__all__ = [
    "Card",
    "Origin",
    "convert",
    "embedded",
    "embedded_cards",
    "fill",
    "load_embedded",
    "load_state",
    "read_card",
    "read_origin",
    "sha256_of",
]
