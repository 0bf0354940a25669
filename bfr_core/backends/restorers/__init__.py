"""Restorers, one file each; those of the papers are declared under `methods/` and come in by `methods.py`."""
