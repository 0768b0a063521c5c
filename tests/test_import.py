"""`import lossmith` costs next to nothing beside `import torch`, and brings no library that the user did not ask for."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.subprocess

LIMIT = 0.15
EXTRAS = {"cyclopts", "jinja2", "joblib", "matplotlib", "numpy", "pandas", "rich", "scipy", "sklearn"}

# torch and lossmith in one process: the difference of two processes' times would carry the noise of loading torch twice.
AFTER_TORCH = """
import json, sys, time
import torch
packages = lambda: {{name.partition(".")[0] for name in sys.modules}}
before, start = packages(), time.process_time()  # of this process: what else runs on the machine does not count
{code}
seconds = time.process_time() - start
print(json.dumps([seconds, sorted(packages() - before)]))
"""


def _after_torch(code: str) -> tuple[float, set[str]]:
    """The seconds of processor time that `code` takes in a fresh process after `import torch`, and the packages it loads."""
    run = subprocess.run([sys.executable, "-c", AFTER_TORCH.format(code=code)], capture_output=True, text=True, check=True)
    seconds, loaded = json.loads(run.stdout)
    return seconds, set(loaded)


def test_import_is_cheap_and_loads_no_extra() -> None:
    """At most 0.15 s, the median of five processes; numpy counts as an extra, unless torch itself has loaded it."""
    times: list[float] = []
    while max(sum(seconds <= LIMIT for seconds in times), sum(seconds > LIMIT for seconds in times)) < 3:  # three of five decide
        seconds, loaded = _after_torch("import lossmith")
        assert "lossmith" in loaded
        assert not loaded & EXTRAS
        times.append(seconds)
    assert sum(seconds <= LIMIT for seconds in times) == 3, f"import lossmith took {times} s of processor time after import torch"


def test_using_an_objective_loads_no_extra() -> None:
    """The flat names are lazy, so the import alone would not show what an objective drags in."""
    _, loaded = _after_torch("import lossmith; lossmith.cross_entropy(torch.zeros(2, 3), torch.tensor([0, 1]))")
    assert "lossmith" in loaded
    assert not loaded & EXTRAS


def test_the_study_loads_no_analysis_before_it_analyses() -> None:
    """Every process that only trains would otherwise wait for it."""
    _, loaded = _after_torch("import lossmith.study")
    assert not loaded & {"joblib", "matplotlib", "pandas", "sklearn"}
    _, loaded = _after_torch("import lossmith.study; assert 'scipy.stats' not in sys.modules, 'scipy.stats is loaded'")
    assert "lossmith" in loaded
