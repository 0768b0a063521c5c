"""The table of CPU seconds per objective adds up what the workers of a parallel run report."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.subprocess

TESTS = """
import time
import pytest

@pytest.mark.parametrize("objective", ["cheap", "dear"])
@pytest.mark.parametrize("again", range(3))
def test_burns_processor_time(objective, again):
    end = time.process_time() + (0.4 if objective == "dear" else 0)
    while time.process_time() < end:
        pass

def test_of_no_objective(): ...

def test_that_names_its_objective(record_property):
    record_property("objective", "named")
"""


def test_seconds_are_summed_over_workers(tmp_path: Path) -> None:
    """Three tests of 0.4 s make an objective dear that no single test shows to be."""
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_burn.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-n", "1", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    out = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "3 objectives, " in out
    dear = re.findall(r"^ +([\d.]+)  (\w+)$", out, re.MULTILINE)
    assert [name for _, name in dear] == ["dear"]
    assert 1.1 <= float(dear[0][0]) < 3  # the clock ticks in hundredths
    assert out.rstrip().splitlines()[-1].startswith("=")
