"""Everything that only the embedded face detector needs to be trained."""
