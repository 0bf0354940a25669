"""Models by role: a folder for each role, a file for each model. `models.registry` finds them, nothing lists them."""
