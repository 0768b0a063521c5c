"""The store keeps a trial once, and says in one line what is wrong with a file it cannot use."""

import math
import sqlite3
from pathlib import Path

import pytest

from lossmith.study import Store, StudyError, StudySpec, TrialSpec
from lossmith.study import store as store_module
from lossmith.study.stored import StoredStudy


def trials(n: int = 3) -> list[TrialSpec]:
    return StudySpec(data="wine", objectives="cross_entropy", seeds=n, learning_rates=0.1).trials("fingerprint")


def result(value: float = 0.5) -> dict[str, object]:
    return {"status": "ok", "last": {"test": {"accuracy": value}}, "epochs": []}


def test_what_is_put_is_read_back_by_another_connection(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "trials.sqlite"
    first, second, third = trials()
    with Store(path) as store:
        store.put(first, result(0.1))
        store.put(second, result(0.2))
        with Store(path) as reader:  # while the writer is still open
            assert reader.known([first.key, second.key, third.key]) == {first.key, second.key}
    with Store(path) as store:
        assert store.results([first.key, third.key]) == {first.key: result(0.1)}
        (versions,) = store.versions([first.key, second.key])
        assert set(versions) == {"lossmith", "torch", "python", "machine"}


def test_a_trial_is_kept_once(tmp_path: Path) -> None:
    (trial,) = trials(1)
    with Store(tmp_path / "s.sqlite") as store:
        store.put(trial, result(0.1))
        store.put(trial, result(0.2))
        assert store.results([trial.key])[trial.key] == result(0.1)


def test_the_file_is_in_wal_mode(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    Store(path).close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_many_keys_are_asked_for_at_once(tmp_path: Path) -> None:
    many = trials(1200)
    with Store(None) as store:
        for trial in many:
            store.put(trial, result())
        assert len(store.known(trial.key for trial in many)) == 1200


def test_nan_becomes_none() -> None:
    (trial,) = trials(1)
    with Store(None) as store:
        store.put(trial, {"status": "ok", "a": [math.nan, {"b": math.inf}]})
        assert store.results([trial.key])[trial.key] == {"status": "ok", "a": [None, {"b": None}]}


def test_studies_are_remembered_and_the_latest_is_last() -> None:
    one = StoredStudy(StudySpec(data="wine", objectives="cross_entropy", seeds=1), {"name": "wine"}, ("a", "b"))
    other = StoredStudy(StudySpec(data="wine", objectives="gce:q=0.5", seeds=1), {"name": "wine"}, ("c",))
    with Store(None) as store:
        for study in (one, other, one):
            store.put_study(study)
        assert store.studies() == [other, one]


def bad(kind: str, path: Path) -> Path:
    if kind == "text":
        path.write_text("these are not the trials you are looking for " * 100)
    elif kind == "other":
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE recipes (name TEXT)")
        connection.close()
    elif kind == "damaged":
        with Store(path) as store:
            for trial in trials(200):
                store.put(trial, result())
        whole = bytearray(path.read_bytes())
        whole[4096:40960] = b"\xff" * (40960 - 4096)
        path.write_bytes(whole)
    elif kind == "folder":
        path.mkdir()
    elif kind == "under a file":
        path.write_text("a file")
        return path / "trials.sqlite"
    elif kind == "no place to write":
        return Path("/proc") / path.name  # not even the superuser may make a file there
    elif kind == "newer":
        Store(path).close()
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA user_version=99")
        connection.close()
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        pytest.param("no place to write", "cannot be written", marks=pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")),
        ("text", "is damaged or not a store"),
        ("other", "is a database of something else"),
        ("damaged", "is damaged"),
        ("folder", "is a folder"),
        ("under a file", "cannot be made"),
        ("newer", "was written by a newer lossmith"),
    ],
)
def test_a_bad_store_is_one_line(tmp_path: Path, kind: str, message: str) -> None:
    path = bad(kind, tmp_path / "s.sqlite")
    with pytest.raises(StudyError, match=message) as caught:
        Store(path)
    assert "\n" not in str(caught.value)
    assert str(path.name) in str(caught.value)


def test_a_store_locked_by_another_process_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "WAIT", 0.05)
    path = tmp_path / "s.sqlite"
    (trial,) = trials(1)
    with Store(path) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StudyError, match="locked by another process"):
            store.put(trial, result())
        other.execute("ROLLBACK")
        other.close()
        store.put(trial, result())
        assert store.known([trial.key]) == {trial.key}


def test_a_store_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.sqlite"
    Store(path).close()
    (trial,) = trials(1)
    with Store(path) as store:
        store._connection.execute("PRAGMA query_only=ON")  # file modes do not bind the superuser, who may run this test
        with pytest.raises(StudyError, match="cannot be written"):
            store.put(trial, result())
