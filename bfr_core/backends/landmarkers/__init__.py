"""Landmark networks, one file each."""
