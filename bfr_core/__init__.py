"""Restore degraded faces in photos and films.

The package knows tensors, files and models; it never imports ComfyUI. Importing it is cheap: torch and the
networks load when something first needs them.
"""

__version__ = "0.2.0"
