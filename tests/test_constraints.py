"""The tested versions can be installed by every Python that pyproject.toml promises, its first patch releases included."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
PINNED = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if re.fullmatch(r"[\w.-]+==[\w.+-]+", line))


def test_every_pin_takes_the_oldest_python() -> None:
    """Distributions ship what they shipped first: Debian 12 has 3.11.2. Pip's complaint would be about something else."""
    oldest = SpecifierSet(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"])
    (lowest,) = [bound.version for bound in oldest if bound.operator == ">="]
    looked_at, refused = 0, []
    for distribution in importlib.metadata.distributions():
        name, version = distribution.metadata["Name"], distribution.version.partition("+")[0]
        if PINNED.get(name) != version:
            continue
        looked_at += 1
        if not SpecifierSet(distribution.metadata["Requires-Python"] or "").contains(f"{lowest}.0"):
            refused.append(f"{name}=={version} needs Python {distribution.metadata['Requires-Python']}")
    assert refused == []
    assert looked_at > len(PINNED) / 2  # of what is installed in another version nothing is known
