"""Where trials are kept: one SQLite file, a row a trial, keyed by the hash of what was asked.

Only the coordinating process of a study writes here. The file is in WAL mode and every trial is a transaction of its own, so that a
process killed at any moment loses at most the trials it was still computing.
"""

import hashlib
import json
import math
import os
import platform
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

import lossmith
from lossmith.study.errors import StudyError, one_line
from lossmith.study.spec import StudySpec, TrialSpec

if TYPE_CHECKING:
    from lossmith.study.training.yardsticks import Yardstick

APPLICATION = 0x4C534D54  # "LSMT": marks the file as ours
SCHEMA = 1
WAIT = 10.0
"""Seconds to wait for another process that is writing."""

TABLES = """
CREATE TABLE IF NOT EXISTS trials (
    key TEXT PRIMARY KEY, objective TEXT NOT NULL, seed INTEGER NOT NULL, learning_rate REAL NOT NULL, status TEXT NOT NULL,
    spec TEXT NOT NULL, result TEXT NOT NULL, created TEXT NOT NULL, versions TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS studies (
    id INTEGER PRIMARY KEY, spec TEXT NOT NULL, data TEXT NOT NULL, trials TEXT NOT NULL, created TEXT NOT NULL, UNIQUE (spec, data, trials)
);
CREATE TABLE IF NOT EXISTS looks (
    id INTEGER PRIMARY KEY, data TEXT NOT NULL, question TEXT NOT NULL, answers INTEGER NOT NULL, created TEXT NOT NULL,
    UNIQUE (data, question)
);
CREATE TABLE IF NOT EXISTS answers (
    id INTEGER PRIMARY KEY, holdout TEXT NOT NULL, question TEXT NOT NULL, validation REAL NOT NULL, test REAL NOT NULL,
    answer REAL NOT NULL, created TEXT NOT NULL, UNIQUE (holdout, question)
);
"""


class StoredStudy(NamedTuple):
    """A study that was asked for: what, on data so described (`Dataset.describe` and the names of the references), and the keys of its
    trials in their order, those of the references last.

    With these it can be read again without the data, and without the modules its objectives and model come from.
    """

    spec: StudySpec
    data: Mapping[str, Any]
    keys: tuple[str, ...]


class Looks(NamedTuple):
    """How often the test rows of some data were looked at before.

    Attributes:
        studies: other studies in the store that showed results on them.
        results: how many those were, one an objective and split.
    """

    studies: int = 0
    results: int = 0


NO_LOOKS = Looks()


class Answered(NamedTuple):
    """A question to a hold-out: the means over validation and test rows, and what was told."""

    validation: float
    test: float
    answer: float


class Store:
    """The trials of any number of studies. A context manager; a path of None keeps everything in memory, for this process only."""

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = None if path is None else Path(path).expanduser()
        self.name = "the store" if self.path is None else f"store {self.path}"
        self._connection = self._open()

    def _open(self) -> sqlite3.Connection:
        if self.path is not None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StudyError(f"{self.name}: the folder {self.path.parent} cannot be made: {error.strerror or error}") from error
            if self.path.is_dir():
                raise StudyError(f"{self.name} is a folder; a store is a file, such as {self.path / 'trials.sqlite'}")
        with self._plainly():
            connection = sqlite3.connect(":memory:" if self.path is None else self.path, timeout=WAIT, isolation_level=None)
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        schema = connection.execute("PRAGMA user_version").fetchone()[0]
        empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
        if application != APPLICATION and not empty:
            raise StudyError(f"{self.name} is a database of something else; choose another file")
        if schema > SCHEMA:
            raise StudyError(f"{self.name} was written by a newer lossmith; upgrade, or choose another file")
        if (damage := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise StudyError(f"{self.name} is damaged ({' '.join(damage.split())}); move it away to start anew")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.executescript(f"BEGIN IMMEDIATE; PRAGMA application_id={APPLICATION}; PRAGMA user_version={SCHEMA}; {TABLES} COMMIT;")

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        """SQLite's complaints as one line each."""
        try:
            yield
        except sqlite3.OperationalError as error:
            text = str(error)
            if "locked" in text or "busy" in text:
                raise StudyError(f"{self.name} is locked by another process; wait for it to finish, or choose another file") from error
            if "readonly" in text or "unable to open" in text:
                raise StudyError(f"{self.name} cannot be written; choose a folder you may write to") from error
            raise StudyError(f"{self.name}: {one_line(error)}") from error
        except sqlite3.DatabaseError as error:
            raise StudyError(f"{self.name} is damaged or not a store ({error}); move it away to start anew") from error

    def known(self, keys: Iterable[str]) -> set[str]:
        """Those of the keys whose trial is stored."""
        return {key for (key,) in self._select("SELECT key FROM trials WHERE key IN ({})", keys)}

    def results(self, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The results of those of the keys whose trial is stored."""
        return {key: json.loads(result) for key, result in self._select("SELECT key, result FROM trials WHERE key IN ({})", keys)}

    def asked(self, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """What was asked of those of the keys whose trial is stored, as `TrialSpec.as_dict` wrote it down."""
        return {key: json.loads(spec) for key, spec in self._select("SELECT key, spec FROM trials WHERE key IN ({})", keys)}

    def versions(self, keys: Iterable[str]) -> list[dict[str, str]]:
        """The different sets of versions that the trials were computed with."""
        found = {versions for (versions,) in self._select("SELECT DISTINCT versions FROM trials WHERE key IN ({})", keys)}
        return [json.loads(versions) for versions in sorted(found)]

    def _select(self, query: str, keys: Iterable[str]) -> Iterator[tuple[Any, ...]]:
        wanted = list(keys)
        for start in range(0, len(wanted), 500):  # SQLite bounds the number of parameters
            some = wanted[start : start + 500]
            with self._plainly():
                yield from self._connection.execute(query.format(",".join("?" * len(some))), some).fetchall()

    def put(self, trial: "TrialSpec | Yardstick", result: dict[str, Any]) -> None:
        """Keep a trial's result; a trial that is already there stays as it is."""
        asked, got = json.dumps(trial.as_dict(), sort_keys=True), json.dumps(_without_nan(result), allow_nan=False)
        versions = json.dumps(_versions(), sort_keys=True)
        row = (trial.key, trial.objective.label, trial.seed, trial.learning_rate, result["status"], asked, got, _now(), versions)
        with self._plainly():
            self._connection.execute("INSERT OR IGNORE INTO trials VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def put_study(self, study: StoredStudy) -> None:
        """Remember that a study was asked for; one asked for again becomes the latest."""
        row = tuple(json.dumps(part, sort_keys=True) for part in (study.spec.as_dict(), study.data, study.keys))
        with self._plainly():
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute("DELETE FROM studies WHERE spec = ? AND data = ? AND trials = ?", row)
            self._connection.execute("INSERT INTO studies (spec, data, trials, created) VALUES (?, ?, ?, ?)", (*row, _now()))
            self._connection.execute("COMMIT")

    def studies(self) -> list[StoredStudy]:
        """The studies asked for, the latest last."""
        with self._plainly():
            rows = self._connection.execute("SELECT spec, data, trials FROM studies ORDER BY id").fetchall()
        read = ([json.loads(part) for part in row] for row in rows)
        return [StoredStudy(StudySpec.from_dict(spec), data, tuple(keys)) for spec, data, keys in read]

    def look(self, study: StoredStudy, answers: int) -> "Looks":
        """Write down that the test results of a study are about to be shown, and say which others of the same data were before.

        To look again at what was seen already is no new look.

        Args:
            study: whose.
            answers: how many results on test rows it shows.
        """
        data = study.data["fingerprint"]
        question = hashlib.sha256(json.dumps([study.spec.as_dict(), sorted(study.keys)], sort_keys=True).encode()).hexdigest()
        with self._plainly():
            self._connection.execute(
                "INSERT OR IGNORE INTO looks (data, question, answers, created) VALUES (?, ?, ?, ?)", (data, question, answers, _now())
            )
            studies, results = self._connection.execute(
                "SELECT count(*), total(answers) FROM looks WHERE data = ? AND id < (SELECT id FROM looks WHERE data = ? AND question = ?)",
                (data, data, question),
            ).fetchone()
        return Looks(studies, int(results))

    def answers(self, holdout: str) -> dict[str, Answered]:
        """The questions that a hold-out was asked, in their order."""
        query = "SELECT question, validation, test, answer FROM answers WHERE holdout = ? ORDER BY id"
        with self._plainly():
            return {question: Answered(*told) for question, *told in self._connection.execute(query, (holdout,)).fetchall()}

    def put_answer(self, holdout: str, question: str, validation: float, test: float, answer: float) -> None:
        """Keep what a hold-out was asked and answered."""
        with self._plainly():
            self._connection.execute(
                "INSERT INTO answers (holdout, question, validation, test, answer, created) VALUES (?, ?, ?, ?, ?, ?)",
                (holdout, question, validation, test, answer, _now()),
            )

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    return {
        "lossmith": lossmith.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: None stands for it."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
