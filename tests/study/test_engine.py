"""Running a study: the same numbers on one process and two, nothing computed twice, and whatever is computed kept."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lossmith import study
from lossmith.study import StudyError, StudyResult, StudySpec
from lossmith.study import engine as engine_module

SOURCE = Path(study.__file__).parents[2]


def small(**changes: Any) -> StudySpec:
    options = {"data": "wine", "objectives": "cross_entropy,gce:q=0.7", "model": "linear", "seeds": 2, "epochs": 2}
    return StudySpec(**options | {"learning_rates": [0.01, 0.1], "noise": "symmetric:0.2"} | changes)


def table(result: StudyResult) -> str:
    return result.table().to_csv()


def test_a_study_from_start_to_end_in_memory() -> None:
    calls: list[tuple[int, int, Any]] = []
    result = study.run(small(), jobs=1, on_progress=lambda *call: calls.append(call))
    assert [(done, total) for done, total, _ in calls] == [(done, 8) for done in range(9)]
    assert calls[0][2] is None
    assert all(record["status"] == "ok" for _, _, record in calls[1:])
    assert result.values().shape == (2, 2)
    assert result.objectives == ("cross_entropy", "generalized_cross_entropy:q=0.7")


def test_workers_give_the_same_numbers_as_one_process(tmp_path: Path) -> None:
    assert table(study.run(small(), tmp_path / "a.sqlite", jobs=2)) == table(study.run(small(), jobs=1))


def test_nothing_is_computed_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "s.sqlite"
    first = study.run(small(), store, jobs=1)
    computed = []
    run_trials = engine_module.run_trials
    monkeypatch.setattr(engine_module, "run_trials", lambda trials, dataset: computed.extend(trials) or run_trials(trials, dataset))
    calls: list[tuple[int, int, Any]] = []
    again = study.run(small(), store, jobs=1, on_progress=lambda *call: calls.append(call))
    assert computed == []
    assert calls == [(8, 8, None)]
    assert table(again) == table(first)
    study.run(small(seeds=3, stop="best"), store, jobs=1)  # one more seed: only its trials are new
    assert {trial.seed for trial in computed} == {2}
    assert len(computed) == 4


def test_a_study_is_read_back_without_data_or_modules(tmp_path: Path, user: ModuleType) -> None:
    store = tmp_path / "s.sqlite"
    mine = study.run(small(objectives="objectives_of_a_user:plain,cross_entropy", seeds=1), store, jobs=1)
    study.run(small(seeds=1), store, jobs=1)
    code = f"from lossmith import study; print(study.load({str(store)!r}, 0).table().to_csv(), end='')"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    read = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert read.stdout == table(mine)
    with pytest.raises(StudyError, match="holds 2 studies"):
        study.load(store, 5)
    with pytest.raises(StudyError, match="there is no store"):
        study.load(tmp_path / "none.sqlite")


def test_an_interrupt_keeps_what_is_computed(tmp_path: Path) -> None:
    store = tmp_path / "s.sqlite"

    def stop(done: int, total: int, record: Any) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.run(small(), store, jobs=1, on_progress=stop)
    with pytest.raises(StudyError, match="5 of 8 trials are not in"):
        study.load(store)
    calls: list[int] = []
    result = study.run(small(), store, jobs=1, on_progress=lambda done, total, record: calls.append(done))
    assert calls == [3, 4, 5, 6, 7, 8]
    assert table(result) == table(study.run(small(), jobs=1))


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_trial_that_fails_is_one_line_and_loses_nothing(tmp_path: Path, user: ModuleType, jobs: int) -> None:
    store = tmp_path / "s.sqlite"
    spec = small(objectives="cross_entropy,objectives_of_a_user:late", seeds=1)
    with pytest.raises(StudyError, match=r"trial objectives_of_a_user:late, seed 0, .* failed: RuntimeError: late trouble") as caught:
        study.run(spec, store, jobs=jobs)
    assert "\n" not in str(caught.value)
    assert "late" in caught.value.__notes__[0]
    with sqlite3.connect(store) as connection:
        stored = {name for (name,) in connection.execute("SELECT objective FROM trials")}
    connection.close()
    assert stored == {"cross_entropy"}


SCRIPT = """
import time
from lossmith import study

def tell(done, total, record):
    print(done, flush=True)
    if done == 5:
        time.sleep(60)  # to be killed here, however slow the machine

if __name__ == "__main__":
    spec = study.StudySpec.from_dict({plain!r})
    study.run(spec, {store!r}, jobs={jobs}, on_progress=tell)
"""


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")
@pytest.mark.parametrize(("name", "jobs"), [("SIGKILL", 1), ("SIGINT", 2)])
def test_a_killed_study_goes_on_where_it_stopped(tmp_path: Path, name: str, jobs: int) -> None:
    spec, store, script = small(seeds=4), tmp_path / "s.sqlite", tmp_path / "script.py"
    script.write_text(SCRIPT.format(plain=spec.as_dict(), store=str(store), jobs=jobs))
    process = subprocess.Popen(
        [sys.executable, str(script)], env={**os.environ, "PYTHONPATH": str(SOURCE)}, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it, and so would its children
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "5":
            os.killpg(process.pid, getattr(signal, name))
            break
    _, complaints = process.communicate(timeout=60)
    assert process.returncode == -getattr(signal, name), complaints
    assert name == "SIGKILL" or complaints.rstrip().endswith("KeyboardInterrupt")
    calls: list[int] = []
    resumed = study.run(spec, store, jobs=1, on_progress=lambda done, total, record: calls.append(done))
    assert calls[0] == 5  # what was stored is kept, and only the rest is computed
    assert calls[-1] == 16
    assert table(resumed) == table(study.run(spec, jobs=1))


KILLED_WITHIN_A_STACK = """
import os, signal
from lossmith import study
from lossmith.study.training.run import Run

def finish(run, epoch, loss, real=Run.finish):
    if run.trial.objective.name != "cross_entropy" and epoch == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    real(run, epoch, loss)

Run.finish = finish
study.run(study.StudySpec.from_dict({plain!r}), {store!r}, jobs=1)
"""


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")
def test_a_killed_stack_loses_its_unfinished_trials_only(tmp_path: Path) -> None:
    """Killed in the last epoch of the second stack, after a first one of four trials: those stay, the rest is computed anew."""
    spec, store, script = small(seeds=4), tmp_path / "s.sqlite", tmp_path / "script.py"
    script.write_text(KILLED_WITHIN_A_STACK.format(plain=spec.as_dict(), store=str(store)))
    ran = subprocess.run([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": str(SOURCE)}, capture_output=True, check=False)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    calls: list[int] = []
    resumed = study.run(spec, store, jobs=1, on_progress=lambda done, total, record: calls.append(done))
    assert calls == list(range(4, 17))
    assert table(resumed) == table(study.run(spec, jobs=1))


@pytest.mark.parametrize(("jobs", "sizes"), [(1, [16] * 4), (2, [8] * 8), (100, [1] * 64)])
def test_every_trial_is_in_one_stack(jobs: int, sizes: list[int]) -> None:
    spec = small(seeds=8, learning_rates=[0.001, 0.01, 0.1, 1.0])
    dataset = study.load_data("wine")
    trials = spec.trials(dataset.fingerprint)
    stacks = engine_module._stacks(trials, dataset, jobs)
    assert sorted(trial.key for stack in stacks for trial in stack) == sorted(trial.key for trial in trials)
    assert [len(stack) for stack in stacks] == sizes
    assert all(len({trial.objective for trial in stack}) == 1 for stack in stacks)
    firsts = [stack[0].seed for stack in stacks]
    assert firsts == sorted(firsts)  # the study goes seed by seed


def test_stacks_that_keep_to_their_seed_finish_it_before_the_next() -> None:
    dataset = study.load_data("wine")
    trials = small(seeds=3, folds=2).trials(dataset.fingerprint)
    stacks = engine_module._stacks(trials, dataset, 1, seed_by_seed=True)
    assert [len(stack) for stack in stacks] == [4] * 6  # both folds and both learning rates of an objective
    assert [{trial.seed for trial in stack} for stack in stacks] == [{0}, {0}, {1}, {1}, {2}, {2}]


def test_what_cannot_be_stacked_is_handed_out_one_by_one(user: ModuleType) -> None:
    dataset = study.load_data("wine")
    trials = small(model="objectives_of_a_user:with_dropout").trials(dataset.fingerprint)
    assert engine_module._stacks(trials, dataset, 1) == [[trial] for trial in trials]


def test_how_trials_are_stacked_moves_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    stacked = table(study.run(small(), jobs=1))
    monkeypatch.setattr("lossmith.study.training.trial.LARGEST_STACK", 1)
    assert table(study.run(small(), jobs=1)) == stacked


def test_more_jobs_than_processors_are_warned_about() -> None:
    with pytest.warns(UserWarning, match="will compete"):
        assert study.run(small(seeds=1, objectives="cross_entropy", learning_rates=0.1), jobs=10_000).values().shape == (1, 1)


@pytest.mark.parametrize("jobs", [0, -1, 1.5, True])
def test_bad_jobs_are_one_line(jobs: Any) -> None:
    with pytest.raises(StudyError, match="jobs must be a whole number >= 1"):
        study.run(small(), jobs=jobs)


def test_what_cannot_run_leaves_no_trace_in_the_store(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="q must be in"):
        study.run(small(objectives="cross_entropy,gce:q=2"), tmp_path / "s.sqlite", jobs=1)
    assert not (tmp_path / "s.sqlite").exists()


def test_every_row_of_the_store_explains_itself(tmp_path: Path) -> None:
    store = tmp_path / "s.sqlite"
    study.run(small(seeds=1, objectives="gce:q=0.7", learning_rates=0.1), store, jobs=1)
    with sqlite3.connect(store) as connection:
        row = connection.execute("SELECT objective, seed, learning_rate, status, spec, created, versions FROM trials").fetchone()
    connection.close()
    assert row[:4] == ("generalized_cross_entropy:q=0.7", 0, 0.1, "ok")
    asked = json.loads(row[4])
    assert asked["optimizer"]["name"] == "AdamW"
    assert asked["noise"] == "symmetric:0.2"
    assert "torch" in json.loads(row[6])


def test_edited_code_is_run_again_and_not_taken_from_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loss = "from torch.nn import functional as F\ndef loss(logits, target):\n    return {factor} * F.cross_entropy(logits, target)\n"
    spec = {"objectives": "edited_loss:loss", "seeds": 1, "learning_rates": 0.1}
    first_losses = []
    for factor in ("1.0", "1.0", "30.0"):
        (tmp_path / "edited_loss.py").write_text(loss.format(factor=factor))
        calls: list[int] = []
        result = study.run(small(**spec), tmp_path / "s.sqlite", jobs=1, on_progress=lambda done, total, record: calls.append(done))  # noqa: B023
        first_losses.append((len(calls), result.curves("edited_loss:loss").train_loss[0, 1]))
    (computed, one), (kept, same), (anew, other) = first_losses
    assert (computed, kept, anew) == (2, 1, 2)
    assert one == same
    assert other > 10 * one
