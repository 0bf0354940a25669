"""Networks that more than one part of the package uses, one per file."""
