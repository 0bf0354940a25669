"""The only room that opens checkpoints: safe loading, hashes, finite checks, conversion, embedded weights and cards."""

from .cards import Card, embedded, embedded_cards, load_embedded, read_card
from .conversion import convert
from .files import fill, load_state, sha256_of
from .origin import Origin, read_origin

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
