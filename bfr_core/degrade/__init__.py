"""Degradations: the chain that turns a clean face into a poor one, and the papers' ranges by name."""
