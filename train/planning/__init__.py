"""Many stages by one command: what to train in which order, and what of it is kept."""
