"""How far a study is: a bar with the time left in a terminal, a line now and then anywhere else."""

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

FEW = 3
"""Trials that are too few to tell the pace from."""

SHARES = 10
"""How many lines at most a study prints where there is no terminal."""


class Progress:
    """Called with (trials done, all trials, the latest record or None), as `lossmith.study.run` does; a context manager.

    `what` is what it calls trials.
    """

    def __init__(self, console: Console, what: str = "trials") -> None:
        self.console, self.what = console, what
        self.done = self.total = self.diverged = 0
        self._stored = 0
        self._said = -1
        self._started = 0.0
        self._bar: Bar | None = None
        if console.is_terminal:
            columns = (TextColumn(what), BarColumn(None), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[left]}"))
            self._bar = Bar(*columns, console=console)

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(self.what, total=None, left="")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int, record: dict[str, Any] | None) -> None:
        self.done, self.total = done, total
        if record is None:
            self._stored, self._started = done, time.monotonic()
        else:
            self.diverged += record.get("status") == "diverged"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, left=self._note())
        else:
            self._line(first=record is None)

    def left(self) -> float | None:
        """Seconds that remain at the pace since the start: results come several at a time. None while few say little."""
        since = self.done - self._stored
        if since <= FEW:
            return None
        return (time.monotonic() - self._started) / since * (self.total - self.done)

    def _note(self) -> str:
        left = self.left()
        parts = [] if left is None or self.done == self.total else [f"about {duration(left)} left"]
        if self.diverged:
            parts.append(f"{self.diverged} diverged")
        return ", ".join(parts)

    def _line(self, *, first: bool) -> None:
        share = SHARES * self.done // max(1, self.total)
        if first:
            kept = f", {self.done} of them stored already" if self.done else ""
            self.console.print(f"{self.total} {self.what}{kept}")
            self._said = share
        elif share > self._said:
            self._said = share
            note = self._note()
            self.console.print(f"{self.done} of {self.total} {self.what}" + (f", {note}" if note else ""))


def duration(seconds: float) -> str:
    """``40 s``, ``3 min``, ``1.5 h``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
