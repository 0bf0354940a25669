"""Classifiers of facial expressions, one file each."""
