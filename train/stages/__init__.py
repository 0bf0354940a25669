"""The training stages, one module each; every one declares its `STAGE`."""
