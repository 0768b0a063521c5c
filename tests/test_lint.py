"""The checks of `make lint` can fail: each finds a fault planted in a small copy of the house."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.subprocess


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """Our configuration over a package of two task rooms and a study, without a fault."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for room in ("classification", "segmentation", "study"):
        folder = tmp_path / "src" / "lossmith" / room
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("length: int = 5\n")
    (tmp_path / "src" / "lossmith" / "__init__.py").write_text("")
    (tmp_path / "src" / "lossmith" / "card.py").write_text("")
    return tmp_path


def _plant(house: Path, room: str, line: str) -> None:
    (house / "src" / "lossmith" / room / "__init__.py").write_text(line + "\n")


def _types(house: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pyrefly", "check", "--python-interpreter-path", sys.executable]
    return subprocess.run(command, cwd=house, capture_output=True, text=True)


def _arrows(house: Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    return subprocess.run(command, cwd=house, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(house / "src")})


def test_nothing_is_found_where_nothing_is_wrong(house: Path) -> None:
    """A room may import the ground floor, and the study what the library may not."""
    _plant(house, "classification", "import lossmith.card")
    _plant(house, "study", "import scipy.stats\n\nimport lossmith.classification")
    types, arrows = _types(house), _arrows(house)
    assert types.returncode == 0, types.stdout
    assert arrows.returncode == 0, arrows.stdout


def test_a_wrong_type_is_found(house: Path) -> None:
    """Without a configuration that names the folder, the type checker checks nothing and is content."""
    _plant(house, "study", 'length: int = "five"')
    assert _types(house).returncode == 1


@pytest.mark.parametrize(
    ("room", "line"),
    [
        pytest.param("classification", "import lossmith.study", id="upwards"),
        pytest.param("classification", "import lossmith.segmentation", id="from room to room"),
        pytest.param("classification", "import scipy.stats", id="an extra in the library"),
    ],
)
def test_a_forbidden_arrow_is_found(house: Path, room: str, line: str) -> None:
    _plant(house, room, line)
    assert _arrows(house).returncode == 1


def test_a_room_without_its_place_is_found(house: Path) -> None:
    (house / "src" / "lossmith" / "attic.py").write_text("")
    done = _arrows(house)
    assert done.returncode == 1
    assert "lossmith.attic" in done.stdout
