"""The documentation builds, and a warning (a dead reference, an undocumented parameter, a page in no list) is an error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.subprocess


def _build(source: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-b", "html", "-d", folder / "doctrees", source]
    return subprocess.run([*map(str, command), str(folder / "html")], cwd=ROOT, capture_output=True, text=True)


def test_documentation_builds_without_warnings(tmp_path: Path) -> None:
    done = _build(ROOT / "docs", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "html" / "index.html").exists()
