"""Progress without a terminal: few lines, what was stored, the time left once the pace is known."""

import io
import re

import pytest
from rich.console import Console

from lossmith.cli import progress as module


@pytest.fixture
def told(monkeypatch):
    """A progress whose clock advances two seconds a trial, and what it printed."""
    clock = iter(range(0, 10_000, 2))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    stream = io.StringIO()
    return module.Progress(Console(file=stream, width=80)), stream


def test_ten_lines_at_most(told):
    progress, stream = told
    with progress:
        progress(0, 1000, None)
        for done in range(1, 1001):
            progress(done, 1000, {"status": "ok"})
    lines = stream.getvalue().splitlines()
    assert lines[0] == "1000 trials"
    assert lines[-1] == "1000 of 1000 trials"
    assert len(lines) == 1 + 10


def test_what_was_stored_is_said_and_does_not_count_for_the_pace(told):
    progress, stream = told
    with progress:
        progress(50, 100, None)
        for done in range(51, 61):
            progress(done, 100, {"status": "ok"})
    lines = stream.getvalue().splitlines()
    assert lines[0] == "100 trials, 50 of them stored already"
    assert re.fullmatch(r"60 of 100 trials, about \d+ s left", lines[-1])


def test_the_first_trials_say_nothing_of_the_pace(told):
    progress, _ = told
    progress(0, 100, None)
    progress(1, 100, {"status": "ok"})
    progress(2, 100, {"status": "ok"})
    assert progress.left() is None


def test_trials_that_come_together_count_from_the_start(monkeypatch):
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    progress = module.Progress(Console(file=io.StringIO()))
    progress(0, 100, None)
    now = 140.0
    for done in range(1, 21):
        progress(done, 100, {"status": "ok"})
    assert progress.left() == 160.0  # twenty in 40 seconds, eighty to come


def test_divergence_is_counted(told):
    progress, stream = told
    progress(0, 2, None)
    progress(1, 2, {"status": "diverged"})
    progress(2, 2, {"status": "ok"})
    assert stream.getvalue().splitlines()[-1] == "2 of 2 trials, 1 diverged"


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "1 s"), (45, "45 s"), (300, "5 min"), (9000, "2.5 h")])
def test_durations(seconds, text):
    assert module.duration(seconds) == text
