"""Where trials are kept: one SQLite file, a row a trial, keyed by the hash of what was asked.

Only the coordinating process of a study writes here. The file is in WAL mode and every trial is a transaction of its own, so that a
process killed at any moment loses at most the trials it was still computing. Two studies may write one file at the same time. Every row
carries a digest of itself, so that a damaged one is found, named and computed again.
"""

import hashlib
import json
import math
import os
import platform
import sqlite3
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch

import lossmith
from lossmith.study.errors import StudyError, one_line
from lossmith.study.spec import StudySpec, TrialSpec
from lossmith.study.stored import Answered, Look, Looks, NoiseReport, Row, StoredStudy, digest_of

if TYPE_CHECKING:
    from lossmith.study.training.yardsticks import Yardstick

APPLICATION = 0x4C534D54  # "LSMT": marks the file as ours
SCHEMA = 4
"""1 had no digests; 2 neither looks nor answers; 3 no noise reports."""

WAIT = 30.0
"""Seconds to wait for another process that is writing."""

TABLES = """
CREATE TABLE IF NOT EXISTS trials (
    key TEXT PRIMARY KEY, objective TEXT NOT NULL, seed INTEGER NOT NULL, learning_rate REAL NOT NULL, status TEXT NOT NULL,
    spec TEXT NOT NULL, result TEXT NOT NULL, created TEXT NOT NULL, versions TEXT NOT NULL, digest TEXT
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
CREATE TABLE IF NOT EXISTS noise_reports (
    study TEXT PRIMARY KEY, found TEXT NOT NULL, probabilities BLOB NOT NULL, written TEXT NOT NULL, created TEXT NOT NULL,
    digest TEXT NOT NULL
) WITHOUT ROWID;
"""

COLUMNS = ", ".join(Row._fields)


class Store:
    """The trials of any number of studies. A context manager.

    Args:
        path: the file, made when absent; None keeps everything in memory, for this process only.
        reading: whether a file that cannot be written, on a read-only disk, will do.
    """

    def __init__(self, path: str | os.PathLike[str] | None, *, reading: bool = False) -> None:
        self.path = None if path is None else Path(path).expanduser()
        self.name = "the store" if self.path is None else f"store {self.path}"
        self._writable = True
        try:
            self._connection = self._open()
        except StudyError as error:
            if not (reading and isinstance(error.__cause__, sqlite3.OperationalError) and self.path is not None and self.path.is_file()):
                raise
            self._connection, self._writable = self._read_only(self.path), False

    def _read_only(self, path: Path) -> sqlite3.Connection:
        """A connection that writes nothing, not even beside the file."""
        log = path.with_name(path.name + "-wal")
        if log.exists() and log.stat().st_size:
            raise StudyError(
                f"{self.name} was left behind by a killed process, and its log can only be read where one may write: copy both"
            )
        with self._plainly():
            connection = sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True, isolation_level=None)
            if self._checked(connection) < SCHEMA:
                connection.close()
                raise StudyError(
                    f"{self.name} was written by an earlier lossmith: copy it to where it can be written, to be brought up to date"
                )
        return connection

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

    def _checked(self, connection: sqlite3.Connection) -> int:
        """The schema of a file that is ours, or new, and not damaged."""
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        schema = connection.execute("PRAGMA user_version").fetchone()[0]
        empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
        if application != APPLICATION and not empty:
            raise StudyError(f"{self.name} is a database of something else; choose another file")
        if schema > SCHEMA:
            raise StudyError(f"{self.name} was written by a newer lossmith; upgrade, or choose another file")
        if (damage := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise StudyError(f"{self.name} is damaged ({' '.join(damage.split())}); move it away to start anew")
        return schema

    def _prepare(self, connection: sqlite3.Connection) -> None:
        schema = self._checked(connection)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        if schema == SCHEMA:  # whoever only reads leaves the file as it is
            return
        connection.execute("BEGIN IMMEDIATE")  # two processes may be here at once
        for statement in filter(str.strip, TABLES.split(";")):
            connection.execute(statement)
        if "digest" not in {name for _, name, *_ in connection.execute("PRAGMA table_info(trials)")}:
            connection.execute("ALTER TABLE trials ADD COLUMN digest TEXT")
        connection.execute(f"PRAGMA application_id={APPLICATION}")
        connection.execute(f"PRAGMA user_version={SCHEMA}")
        connection.execute("COMMIT")

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        """SQLite's complaints as one line each."""
        try:
            yield
        except sqlite3.OperationalError as error:
            text = str(error)
            if "locked" in text or "busy" in text:
                raise StudyError(f"{self.name} is locked by another process; wait for it to finish, or choose another file") from error
            if "full" in text or "disk I/O" in text:
                raise StudyError(
                    f"{self.name} cannot take more ({text}): its disk is full, or the file may not grow; what is in it stays, and "
                    "once there is room the same command goes on from there"
                ) from error
            if "readonly" in text or "unable to open" in text:
                raise StudyError(f"{self.name} cannot be written; choose a folder you may write to") from error
            raise StudyError(f"{self.name}: {one_line(error)}") from error
        except sqlite3.DatabaseError as error:
            raise StudyError(f"{self.name} is damaged or not a store ({error}); move it away to start anew") from error

    def known(self, keys: Iterable[str]) -> set[str]:
        """Those of the keys whose trial is stored."""
        return {key for (key,) in self._select("SELECT key FROM trials WHERE key IN ({})", keys)}

    def rows(self, keys: Iterable[str] | None = None) -> Iterator[Row]:
        """The stored trials among the keys, or all, sound or not."""
        # bytes that are no text are a row's own problem, and no reason to read none of them
        self._connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
        wanted = [key for (key,) in self._all("SELECT key FROM trials ORDER BY key")] if keys is None else keys
        yield from (Row(*values) for values in self._select(f"SELECT {COLUMNS} FROM trials WHERE key IN ({{}})", wanted))

    def results(self, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The results of those of the keys whose trial is stored; a StudyError names the first that is damaged."""
        found = {}
        for row in self.rows(keys):
            if row.problem:
                raise StudyError(f"{self.name}: {row.name} is damaged ({row.problem}); run the same study again, which computes it anew")
            found[row.key] = json.loads(row.result)
        return found

    def mend(self, keys: Iterable[str]) -> list[tuple[str, str]]:
        """Take out those of the trials whose rows are damaged, so that they are computed again; the name and the problem of each."""
        damaged = [row for row in self.rows(keys) if row.problem]
        with self._plainly():
            for row in damaged:
                self._connection.execute("DELETE FROM trials WHERE key = ?", (row.key,))
        return [(row.name, row.problem) for row in damaged]

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

    def _all(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._plainly():
            return self._connection.execute(query, values).fetchall()

    def put(self, trial: "TrialSpec | Yardstick", result: dict[str, Any]) -> None:
        """Keep a trial's result; a trial that is already there stays as it is."""
        asked, got = json.dumps(trial.as_dict(), sort_keys=True), json.dumps(_without_nan(result), allow_nan=False)
        versions = json.dumps(_versions(), sort_keys=True)
        digest = digest_of(trial.key, asked, got, versions)
        self.copy(
            Row(trial.key, trial.objective.label, trial.seed, trial.learning_rate, result["status"], asked, got, _now(), versions, digest)
        )

    def copy(self, row: Row) -> None:
        """Keep a row as it is, unless its trial is already there."""
        with self._plainly():
            self._connection.execute(f"INSERT OR IGNORE INTO trials ({COLUMNS}) VALUES ({', '.join('?' * len(row))})", row)

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
        return [study for study, _ in self.dated_studies()]

    def dated_studies(self) -> list[tuple[StoredStudy, str]]:
        """The same, each with the time when it was last asked for."""
        found = []
        for number, (*texts, created) in enumerate(self._all("SELECT spec, data, trials, created FROM studies ORDER BY id"), 1):
            try:
                spec, data, keys = map(json.loads, texts)
                found.append((StoredStudy(StudySpec.from_dict(spec), data, tuple(keys)), created))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                warnings.warn(
                    f"{self.name}: its record of study {number} is damaged ({one_line(error)}) and left out; to have it back, run it again",
                    stacklevel=2,
                )
        return found

    def look(self, study: StoredStudy, answers: int) -> Looks:
        """Write down that the test results of a study are about to be shown, and say which others of the same data were before.

        To look again at what was seen already is no new look, and studies that were declared and run together are one. Where the file
        cannot be written, the look is counted and not remembered.

        Args:
            study: whose.
            answers: how many results on test rows it shows.
        """
        data, question = study.data["fingerprint"], study.digest
        if study.spec.grid is not None:
            answers *= len(study.spec.grid[1])
            question = hashlib.sha256(json.dumps([study.spec.declared], sort_keys=True).encode()).hexdigest()
        if self._writable:
            self.copy_look(Look(data, question, answers, _now()))
        studies, results = self._all(
            "SELECT count(*), total(answers) FROM looks WHERE data = ? AND question != ? AND (created, id) < "
            "(SELECT ifnull(max(created), '~'), ifnull(max(id), 0) FROM looks WHERE data = ? AND question = ?)",
            (data, question, data, question),
        )[0]
        return Looks(studies, int(results))

    def looks(self) -> list[Look]:
        """Every look, in the order of the file."""
        return [Look(*values) for values in self._all(f"SELECT {', '.join(Look._fields)} FROM looks ORDER BY id")]

    def copy_look(self, look: Look) -> None:
        """Keep a look as it is; of one that is already there, the time of the first."""
        with self._plainly():
            self._connection.execute(
                f"INSERT INTO looks ({', '.join(Look._fields)}) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (data, question) DO UPDATE SET created = min(created, excluded.created)",
                look,
            )

    def answers(self, holdout: str | None = None) -> list[Answered]:
        """The questions that a hold-out, or any, was asked, in their order."""
        query = f"SELECT {', '.join(Answered._fields)} FROM answers WHERE ?1 IS NULL OR holdout = ?1 ORDER BY created, id"
        return [Answered(*values) for values in self._all(query, (holdout,))]

    def put_answer(self, holdout: str, question: str, validation: float, test: float, answer: float) -> None:
        """Keep what a hold-out was asked and answered."""
        self.copy_answer(Answered(holdout, question, validation, test, answer, _now()))

    def copy_answer(self, answered: Answered) -> None:
        """Keep an answer as it is, unless the question was answered already."""
        with self._plainly():
            self._connection.execute(f"INSERT OR IGNORE INTO answers ({', '.join(Answered._fields)}) VALUES (?, ?, ?, ?, ?, ?)", answered)

    def noise_reports(self, study: str | None = None) -> list[NoiseReport]:
        """The noise report of the study with this digest, if there is one, or those of all."""
        query = f"SELECT {', '.join(NoiseReport._fields)} FROM noise_reports WHERE ?1 IS NULL OR study = ?1 ORDER BY study"
        return [NoiseReport(*values) for values in self._all(query, (study,))]

    def put_noise_report(self, study: str, found: str, probabilities: bytes, written: str) -> None:
        """Keep the noise report of a study, in place of an earlier one."""
        digest = digest_of(study, found, probabilities.hex(), written)
        with self._plainly():
            self._connection.execute(
                f"INSERT OR REPLACE INTO noise_reports ({', '.join(NoiseReport._fields)}) VALUES (?, ?, ?, ?, ?, ?)",
                NoiseReport(study, found, probabilities, written, _now(), digest),
            )

    def copy_noise_report(self, report: NoiseReport) -> None:
        """Keep a noise report as it is, unless there is one of the same study."""
        with self._plainly():
            self._connection.execute(
                f"INSERT OR IGNORE INTO noise_reports ({', '.join(NoiseReport._fields)}) VALUES (?, ?, ?, ?, ?, ?)", report
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
