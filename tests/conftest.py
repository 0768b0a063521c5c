"""One thread a process, what runs under the runtime type checker, and the CPU seconds that each objective costs the suite.

`make test` is two runs: of everything that bears it with every annotation checked at run time, then of the rest as users run it, with
a sample of what was checked. Which test belongs where is decided here, by markers (decision 21).

The suite grows with the number of objectives, so its price per objective is printed at the end: whatever costs more than
a second is named. A test belongs to an objective when it is parametrised by an argument called `objective` (a name, a card,
a function), or marked by `record_property("objective", name)`.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch

torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]

# Processes that tests start import this checkout, installed or not.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))

UNCHECKED_ROOMS = [ROOT / folder / room for room in ("study", "cli") for folder in ("tests", "src/lossmith")]
"""They are not about tensors, and take words from users where they keep records."""
UNCHECKED_MARKS = {"compile", "numbers", "subprocess", "untyped"}

SECONDS_WORTH_NAMING = 1.0

_last_seen = pytest.StashKey[float]()
_spent: dict[str, float] = defaultdict(float)


def pytest_configure(config: pytest.Config) -> None:
    """Under the type checker, rooms of which nothing runs there are not even imported."""
    if config.getoption("jaxtyping_packages", None):
        config.option.ignore = [*(config.option.ignore or []), *map(str, UNCHECKED_ROOMS)]


@pytest.hookimpl(tryfirst=True)  # before `-m` looks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what the type checker runs, and of that what also runs without it whatever the test says: the examples, as users copy them."""
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        if marks & UNCHECKED_MARKS or any(item.path.is_relative_to(room) for room in UNCHECKED_ROOMS):
            continue
        item.add_marker("checked")
        if isinstance(item, pytest.DoctestItem):
            item.add_marker("both")


def _cpu_seconds() -> float:
    """CPU time of this process and of the children it has waited for, all threads together."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _objective_of(item: pytest.Item) -> str | None:
    for key, value in item.user_properties:
        if key == "objective":
            return str(value)
    callspec = getattr(item, "callspec", None)
    value: Any = callspec.params.get("objective") if callspec else None
    if value is None or isinstance(value, str):
        return value
    return str(getattr(value, "name", None) or getattr(value, "__name__", None) or value)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[_last_seen] = _cpu_seconds()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Write the objective and the time of this phase into the report: reports are what xdist carries to the main process."""
    report = yield
    now = _cpu_seconds()
    name = _objective_of(item)
    if name is not None:
        report.user_properties.append(("cpu_seconds_of", (name, now - item.stash.get(_last_seen, now))))
    item.stash[_last_seen] = now
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Called in the workers too, to no effect: only the main process, which sees every report, prints a summary."""
    for key, value in report.user_properties:
        if key == "cpu_seconds_of":
            name, seconds = value
            _spent[name] += seconds


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _spent:
        return
    total = sum(_spent.values())
    write = terminalreporter.write_line
    terminalreporter.section("CPU seconds per objective")
    write(f"{len(_spent)} objectives, {total:.1f} s in all, {total / len(_spent):.2f} s each")
    dear = sorted(((seconds, name) for name, seconds in _spent.items() if seconds > SECONDS_WORTH_NAMING), reverse=True)
    for seconds, name in dear:
        write(f"{seconds:8.2f}  {name}")
    if not dear:
        write(f"none costs more than {SECONDS_WORTH_NAMING:g} s")
