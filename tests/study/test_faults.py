"""Whatever breaks while a study runs, no trial is lost or counted twice, and what happened is one line."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lossmith import study
from lossmith.study import Store, StudyError, StudyResult, StudySpec

posix = pytest.mark.skipif(os.name == "nt", reason="signals and limits are POSIX's")


def spec(**changes: Any) -> StudySpec:
    options = {"data": "wine", "objectives": "cross_entropy,gce:q=0.7", "model": "linear", "seeds": 2, "epochs": 2}
    return StudySpec(**options | {"learning_rates": [0.01, 0.1], "noise": "symmetric:0.2"} | changes)


def table(result: StudyResult) -> str:
    return result.table().to_csv()


def stored(path: Path) -> list[str]:
    with Store(path) as store:
        return [row.key for row in store.rows()]


KILLED = """
import os, random, signal, sys, time
import torch
from lossmith import study
from lossmith.study.training import trial

torch.set_num_threads(1)  # no threads that a fork would lose
trial.LARGEST_STACK = 2  # many small steps
spec, path = study.StudySpec.from_dict({plain!r}), {store!r}
study.run(study.StudySpec.from_dict({plain!r} | {{"seeds": [0]}}), jobs=1)  # what every child would import is imported once
moments = random.Random(0)
for kill in range(20):
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        study.run(spec, path, jobs=1, on_progress=lambda *_: os.write(writing, b"."))
        os._exit(0)
    os.close(writing)
    for _ in range(moments.randrange(4)):  # let some results come, then wait a little: before, within and after a stack, or a write
        os.read(reading, 1)
    time.sleep(moments.uniform(0, 0.03))
    os.kill(child, signal.SIGKILL)
    os.close(reading)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@posix
@pytest.mark.subprocess
def test_twenty_kills_at_random_moments(tmp_path: Path) -> None:
    asked, store, script = spec(seeds=24), tmp_path / "s.sqlite", tmp_path / "script.py"
    script.write_text(KILLED.format(plain=asked.as_dict(), store=str(store)))
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [str(-signal.SIGKILL)] * 20  # none ended by itself
    before = stored(store)
    assert len(before) == len(set(before))
    calls: list[int] = []
    result = study.run(asked, store, jobs=1, on_progress=lambda done, *_: calls.append(done))
    assert calls == list(range(len(before), 97))  # nothing that was stored is computed again
    assert len(before) > 10
    assert sorted(stored(store)) == sorted({trial.key for trial in asked.trials(asked.load().fingerprint)})
    assert table(result) == table(study.run(asked, jobs=1))


FULL = """
import resource
from lossmith import study

resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    study.run(study.StudySpec.from_dict({plain!r}), {store!r}, jobs=1)
except study.StudyError as error:
    print(error)
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 160 kB, on a path with spaces and letters of more than one byte; only the superuser may make one."""
    place = tmp_path / "a small dïsk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(place)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("may not mount a small disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def go_on(asked: StudySpec, store: Path, complaint: str) -> None:
    """What a full disk left behind is kept, and the study ends as one that was never disturbed."""
    assert "\n" not in complaint
    assert f"store {store} cannot take more" in complaint
    calls: list[int] = []
    result = study.run(asked, store, jobs=1, on_progress=lambda done, *_: calls.append(done))
    assert 0 < calls[0] < 32
    assert calls == list(range(calls[0], 33))
    assert len(stored(store)) == 32
    assert table(result) == table(study.run(asked, jobs=1))


@posix
@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs is Linux's")
def test_a_full_disk(small_disk: Path) -> None:
    asked, store = spec(seeds=8), small_disk / "s.sqlite"
    with pytest.raises(StudyError) as caught:
        study.run(asked, store, jobs=1)
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    go_on(asked, store, str(caught.value))


@posix
@pytest.mark.subprocess
def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    asked, store = spec(seeds=8), tmp_path / "s.sqlite"
    code = FULL.format(plain=asked.as_dict(), store=str(store))
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    go_on(asked, store, ran.stdout.removesuffix("\n"))


def damage(path: Path, key: str, kind: str) -> None:
    """Spoil one row of a store, as a bad disk or a hand might."""
    change = {
        "a changed digit": "result = replace(result, '0.', '1.')",
        "no JSON": "result = substr(result, 1, 40)",
        "a number": "result = 7",
        "bytes": "result = x'ff00fe'",
        "text that is none": "result = CAST(x'7bff7d' AS TEXT)",
        "another trial's spec": "spec = '{}'",
        "no digest, and no record": "digest = NULL, result = '[1, 2]'",
        "no digest, and no JSON": "digest = NULL, result = substr(result, 1, 40)",
    }[kind]
    connection = sqlite3.connect(path)
    with connection:
        assert connection.execute(f"UPDATE trials SET {change} WHERE key = ?", (key,)).rowcount == 1
    connection.close()


KINDS = (
    "a changed digit", "no JSON", "a number", "bytes", "text that is none", "another trial's spec", "no digest, and no record",
    "no digest, and no JSON",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_row_is_named_and_computed_again(tmp_path: Path, kind: str) -> None:
    store, asked = tmp_path / "s.sqlite", spec(seeds=1)
    whole = study.run(asked, store, jobs=1)
    trial = asked.trials(asked.load().fingerprint)[1]
    damage(store, trial.key, kind)
    name = "trial cross_entropy, seed 0, learning rate 0.1"
    with pytest.raises(StudyError, match=f"{name} is damaged") as caught:
        study.load(store)
    assert "\n" not in str(caught.value)
    calls: list[int] = []
    with pytest.warns(UserWarning, match=f"{name} is damaged .*computed again"):
        again = study.run(asked, store, jobs=1, on_progress=lambda done, *_: calls.append(done))
    assert calls == [3, 4]
    assert table(again) == table(whole) == table(study.load(store))


@pytest.mark.parametrize("how", [{"tune_once": True}, {"tuner": "optuna"}, {"stop_hopeless": True}], ids=str)
def test_a_damaged_row_of_a_study_that_decides_by_results(tmp_path: Path, how: dict[str, Any]) -> None:
    store, asked = tmp_path / "s.sqlite", spec(learning_rates=None, configurations=3, **how)
    whole = study.run(asked, store, jobs=1)
    with Store(store) as opened:
        keys = opened.studies()[-1].keys
    damage(store, keys[1], "a changed digit")
    damage(store, keys[-1], "no JSON")
    with pytest.raises(StudyError, match="is damaged"):
        study.load(store)
    with pytest.warns(UserWarning, match="computed again"):
        again = study.run(asked, store, jobs=1)
    assert table(again) == table(whole) == table(study.load(store))


def test_a_damaged_record_of_a_study_costs_no_other_study(tmp_path: Path) -> None:
    store = tmp_path / "s.sqlite"
    first, second = spec(seeds=1), spec(seeds=1, stop="best")
    study.run(first, store, jobs=1)
    study.run(second, store, jobs=1)
    connection = sqlite3.connect(store)
    with connection:
        connection.execute("UPDATE studies SET spec = substr(spec, 1, 20) WHERE id = 2")
    connection.close()
    with pytest.warns(UserWarning, match="its record of study 2 is damaged"):
        assert study.load(store).spec == first
    calls: list[int] = []
    study.run(second, store, jobs=1, on_progress=lambda done, *_: calls.append(done))
    assert calls == [4]


def test_a_truncated_file_is_one_line_and_left_alone(tmp_path: Path) -> None:
    store = tmp_path / "s.sqlite"
    study.run(spec(seeds=4), store, jobs=1)
    store.write_bytes(store.read_bytes()[:-10_000])
    kept = store.read_bytes()
    with pytest.raises(StudyError, match="is damaged") as caught:
        study.run(spec(seeds=4), store, jobs=1)
    assert "\n" not in str(caught.value)
    assert store.read_bytes() == kept


def test_a_store_without_digests_is_brought_up_to_date(tmp_path: Path) -> None:
    store = tmp_path / "s.sqlite"
    whole = study.run(spec(seeds=1), store, jobs=1)
    connection = sqlite3.connect(store)
    with connection:
        connection.execute("ALTER TABLE trials DROP COLUMN digest")
        connection.execute("DROP TABLE looks")
        connection.execute("DROP TABLE answers")
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    calls: list[int] = []
    again = study.run(spec(seeds=1), store, jobs=1, on_progress=lambda done, *_: calls.append(done))
    assert calls == [4]
    assert table(again) == table(whole)


WRITER = """
import sys
from lossmith import study
from lossmith.study.training import trial

trial.LARGEST_STACK = 1
spec = study.StudySpec.from_dict({plain!r})
study.check(spec, spec.load())
print("ready", flush=True)
sys.stdin.readline()
print(study.run(spec, {store!r}, jobs=1).table().to_csv(), end="")
"""


@pytest.mark.subprocess
def test_two_writers_of_one_new_store(tmp_path: Path) -> None:
    """Two overlapping studies, begun at the same moment in a file that neither has made yet."""
    specs, store = (spec(seeds=[0, 1, 2, 3, 4]), spec(seeds=[4, 3, 2, 1, 5])), tmp_path / "s.sqlite"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER.format(plain=one.as_dict(), store=str(store))], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for one in specs
    ]  # fmt: skip
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer, one in zip(writers, specs, strict=True):
        out, err = writer.communicate(timeout=120)
        assert writer.returncode == 0, err
        assert out == table(study.run(one, jobs=1))
    keys = {trial.key for one in specs for trial in one.trials(one.load().fingerprint)}
    assert sorted(stored(store)) == sorted(keys)


OWN = """
import os, pathlib, signal
from torch.nn import functional as F

home = {home}

def loss(logits, target):
    mark = pathlib.Path({mark!r})
    if os.getpid() != home and (not mark.exists() or {always}):
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return F.cross_entropy(logits, target)
"""


@pytest.fixture
def deadly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bool], str]]:
    """Makes an objective that kills the worker it trains in, once or always, as the system does when memory runs out."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def make(always: bool) -> str:
        text = OWN.format(home=os.getpid(), mark=str(tmp_path / "killed"), always=always)
        (tmp_path / f"deadly_{always}.py").write_text(text)
        return f"deadly_{always}:loss"

    yield make
    for always in (True, False):
        sys.modules.pop(f"deadly_{always}", None)


@posix
@pytest.mark.subprocess
def test_a_worker_process_is_lost_and_its_trials_are_computed_again(tmp_path: Path, deadly: Callable[[bool], str]) -> None:
    asked = spec(objectives=f"cross_entropy,{deadly(False)}")
    calls: list[int] = []
    with pytest.warns(UserWarning, match="were lost .* their trials are computed again"):
        result = study.run(asked, tmp_path / "s.sqlite", jobs=2, on_progress=lambda done, *_: calls.append(done))
    assert (tmp_path / "killed").exists()
    assert calls == list(range(9))
    assert table(result) == table(study.run(asked, jobs=1))


@posix
@pytest.mark.subprocess
def test_a_trial_that_kills_every_worker_ends_the_study_in_one_line(
    tmp_path: Path, deadly: Callable[[bool], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lossmith.study.workers.LOSSES", 1)  # three would take their time
    asked = spec(objectives=f"cross_entropy,{deadly(True)}", seeds=1)
    with pytest.raises(StudyError, match="were lost 1 times without a trial done in between") as caught:
        study.run(asked, tmp_path / "s.sqlite", jobs=2)
    assert "\n" not in str(caught.value)
    assert "fewer workers" in str(caught.value)


@pytest.fixture
def frozen(tmp_path: Path) -> Iterator[Callable[[Path], None]]:
    """Makes a folder read-only, for the superuser too."""
    done: list[Path] = []

    def freeze(folder: Path) -> None:
        if os.geteuid():
            folder.chmod(0o500)
        elif subprocess.run(["mount", "--bind", str(folder), str(folder)], capture_output=True, check=False).returncode:
            pytest.skip("may not make a folder read-only")
        else:
            done.append(folder)
            subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)

    yield freeze
    for folder in done:
        subprocess.run(["umount", str(folder)], check=True)


@posix
def test_a_store_on_a_read_only_disk_is_read_and_not_written(tmp_path: Path, frozen: Callable[[Path], None]) -> None:
    folder = tmp_path / "ein Ordner, 只读"
    store = folder / "s.sqlite"
    whole = study.run(spec(seeds=1), store, jobs=1)
    frozen(folder)
    assert table(study.load(store)) == table(whole)
    assert table(study.load_united([store, store])) == table(whole)
    assert [path.name for path in folder.iterdir()] == ["s.sqlite"]
    assert study.load(store).looks == (0, 0)
    with pytest.raises(StudyError, match="cannot be written"):
        study.run(spec(seeds=2), store, jobs=1)


@posix
def test_a_log_left_on_a_read_only_disk_is_not_overlooked(tmp_path: Path, frozen: Callable[[Path], None]) -> None:
    folder = tmp_path / "left"
    folder.mkdir()
    (trial,) = spec(seeds=1, objectives="cross_entropy", learning_rates=0.1).trials("fingerprint")
    with Store(tmp_path / "s.sqlite") as store:
        store.put(trial, {"status": "ok"})
        for name in ("s.sqlite", "s.sqlite-wal"):
            (folder / name).write_bytes((tmp_path / name).read_bytes())
    frozen(folder)
    with pytest.raises(StudyError, match="left behind by a killed process"):
        study.load(folder / "s.sqlite")
