"""A study with a time budget ends in time, reports whole seeds only, says what they can show, and goes on from there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lossmith import study
from lossmith.study import Dataset, StudyError, StudySpec, TrialSpec
from lossmith.study import engine as engine_module
from lossmith.study.budget import Budget, parse_time, time_text
from lossmith.study.report import words as say
from lossmith.study.report.command import command
from lossmith.study.report.page import render
from lossmith.study.summary import Summary

from .made_up import around, result


@pytest.mark.parametrize(("text", "seconds"), [("90m", 5400), ("1.5h", 5400), ("1h30m", 5400), ("45s", 45), ("2D", 172800), (" 10m ", 600)])
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds
    assert parse_time(time_text(seconds)) == seconds


@pytest.mark.parametrize("text", ["90", "m", "", "1h 30", "-5m", "0s", "1y", "5m!"])
def test_what_is_no_length_of_time_is_one_line(text: str) -> None:
    with pytest.raises(StudyError, match="--time must be"):
        parse_time(text)


def test_nothing_is_started_that_would_end_too_late() -> None:
    now = [0.0]
    budget = Budget(100, lambda: now[0])
    assert budget.allows()
    now[0] = 30
    budget.took(30)
    budget.took(20)
    now[0] = 70
    assert budget.allows()
    assert not budget.allows(number=2)
    assert budget.allows("another kind", number=2)
    now[0] = 70.1
    assert not budget.allows()
    assert Budget(None, lambda: now[0]).allows()


def spec(**changes: Any) -> StudySpec:
    options = {"data": "wine", "objectives": "cross_entropy,gce:q=0.7", "model": "linear", "seeds": 3, "epochs": 1}
    return StudySpec(**options | {"learning_rates": [0.01, 0.1]} | changes)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock on which every trial takes 10 seconds, and a stack as long as its trials one after the other."""
    now = [0.0]
    real = engine_module.run_trials

    def run_trials(trials: Sequence[TrialSpec], dataset: Dataset) -> list[Any]:
        now[0] += 10 * len(trials)
        return [{**record, "seconds": 10.0} for record in real(trials, dataset) if isinstance(record, dict)]

    monkeypatch.setattr(engine_module, "run_trials", run_trials)
    monkeypatch.setattr(engine_module, "Budget", lambda seconds: Budget(seconds, lambda: now[0]))
    return now


def test_whole_seeds_are_reported_and_the_rest_is_kept(tmp_path: Path, clock: list[float]) -> None:
    store = tmp_path / "s.sqlite"
    first = study.run(spec(time="75s"), store, jobs=1)
    assert clock[0] == 60  # the fourth stack, of two trials, would have ended at 80
    assert first.spec.seeds == (0,)
    assert first.spec.planned_seeds == (0, 1, 2)
    assert first.values().shape == (2, 1)
    read = study.load(store)
    assert read.spec == first.spec

    calls: list[int] = []
    second = study.run(spec(time="75s"), store, jobs=1, on_progress=lambda done, total, record: calls.append(done))
    assert calls[0] == 6  # nothing is computed twice
    assert second.spec == spec(time="75s")
    assert study.load(store).spec.planned_seeds is None
    whole = study.run(spec(), store, jobs=1)
    assert (whole.values() == second.values()).all()
    assert whole.values()[:, :1].tolist() == first.values().tolist()


def test_seeds_are_finished_one_after_the_other() -> None:
    seeds = [trial.seed for trial in spec(folds=2).trials("f")]
    assert seeds == sorted(seeds)


def test_an_unfinished_fold_leaves_its_seed_out(tmp_path: Path, clock: list[float]) -> None:
    made = study.run(spec(folds=2, seeds=2, time="120s"), tmp_path / "s.sqlite", jobs=1)
    assert made.spec.seeds == (0,)
    assert made.values().shape == (2, 2)


def test_no_whole_seed_is_one_line(tmp_path: Path, clock: list[float]) -> None:
    with pytest.raises(
        StudyError, match=r"--time 25s was over before one seed was done .* 2 of 12 trials are kept in .*s.sqlite"
    ) as caught:
        study.run(spec(time="25s"), tmp_path / "s.sqlite", jobs=1)
    assert "\n" not in str(caught.value)


def test_workers_stop_too(tmp_path: Path) -> None:
    calls: list[int] = []
    with pytest.raises(StudyError, match="was over before one seed"):
        study.run(spec(time=1e-6), tmp_path / "s.sqlite", jobs=2, on_progress=lambda done, total, record: calls.append(done))
    assert calls == [0]


def test_time_is_no_part_of_a_trial() -> None:
    assert [trial.key for trial in spec(time="90m").trials("f")] == [trial.key for trial in spec().trials("f")]
    assert "time" not in spec().as_dict()
    assert StudySpec.from_dict(spec(time="90m").as_dict()) == spec(time="90m")


def test_the_report_says_what_can_be_claimed() -> None:
    made = result({"ce": around(0.7, n=4), "up": around(0.75, n=4, seed=1)}, time="90m", planned_seeds=tuple(range(10)))
    summary = Summary(made)
    assert "Time was over after 4 of 10 seeds." in say.headline(summary)
    assert summary.notes[0].startswith(
        "The time of 1h30m was over after 4 of 10 seeds, and only whole seeds are reported. With 4 seeds and 1"
    )
    assert "goes on from there" in render(summary)
    assert (command(made.spec) or "").endswith("--time 1h30m --seeds 10")
    plain = Summary(result({"ce": around(0.7), "up": around(0.75, seed=1)}, time="90m"))
    assert "Time was over" not in say.headline(plain)
    assert plain.notes == list(plain.result.notes)
