"""Films: faces of a clip restored from file to file, in constant memory, with nothing of the clip lost."""
