"""Putting restored faces back: masks and the paste itself."""
