"""Scripts that make weights for `bfr_core`; nothing imports this package."""
