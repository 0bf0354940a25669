"""How FFmpeg's scaler is asked to convert pixels."""

from __future__ import annotations

ACCURATE = 4 | 0x2000 | 0x4000 | 0x40000
"""swscale's bicubic with full chroma and accurate rounding; its default darkens by about a level at each conversion."""
