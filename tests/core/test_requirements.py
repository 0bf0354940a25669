"""What a host has to install for the pack."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOSTS = {"torch", "numpy"}
"""Every ComfyUI has them, in builds of its own that a package index would replace."""


def test_requirements_take_no_package_of_a_host_back():
    """An upper bound would have pip put an older release in the place of the one that the host runs on."""
    required = (ROOT / "requirements.txt").read_text("utf-8").split()
    assert not [line for line in required if re.search(r"<|==|~=|!=|@", line)]


def test_requirements_are_those_of_the_distribution():
    declared = re.search(r"^dependencies = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text("utf-8"), re.M | re.S)
    assert declared is not None
    needed = re.findall(r'"([^"]+)"', declared[1])
    kept = [line for line in needed if re.split(r"[<>=!~]", line)[0] not in HOSTS]
    assert (ROOT / "requirements.txt").read_text("utf-8").split() == kept


def test_the_oldest_versions_that_are_tested_are_those_that_are_allowed():
    declared = re.search(r"^dependencies = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text("utf-8"), re.M | re.S)
    assert declared is not None
    allowed = dict(re.findall(r'"([\w-]+)>=([\d.]+)"', declared[1]))
    versions = ROOT / "tests" / "support" / "versions"
    tested = dict(re.findall(r"^([\w-]+)==([\d.]+)$", (versions / "oldest.txt").read_text("utf-8"), re.M))
    assert tested.keys() >= allowed.keys()
    assert all(f"{tested[name]}.".startswith(f"{floor}.") for name, floor in allowed.items()), (tested, allowed)
    newest = dict(re.findall(r"^([\w-]+)==([\d.]+)$", (versions / "newest.txt").read_text("utf-8"), re.M))
    assert newest.keys() >= allowed.keys()
