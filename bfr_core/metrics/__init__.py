"""Measures of a restoration against its truth."""
