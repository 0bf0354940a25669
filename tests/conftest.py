"""What every test shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

# Workers of pytest-xdist share the cores.
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real pictures and small weights, beside the project where it is developed."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not (folder / "photos").is_dir():
        pytest.skip(f"no test pictures in {folder}")
    return folder
