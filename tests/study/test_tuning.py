"""Tuned studies from start to end: the same budget for all, the same numbers however often interrupted, no tuner that sees test rows."""

import builtins
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from lossmith import study
from lossmith.study import StudyError, StudyResult, StudySpec
from lossmith.study import engine as engine_module
from lossmith.study.report import words
from lossmith.study.report.page import render
from lossmith.study.statistics.stopping import hopeless
from lossmith.study.summary import Summary
from lossmith.study.training.trial import run_trial, run_trials
from lossmith.study.tuning import tuner as tuner_module
from lossmith.study.tuning.configuration import Configuration
from lossmith.study.tuning.selection import select
from lossmith.study.tuning.validation import TestRowsError, ValidationRecord


def small(**changes: Any) -> StudySpec:
    options = {"data": "wine", "objectives": "cross_entropy,gce", "model": "linear", "seeds": 2, "epochs": 2, "configurations": 4}
    return StudySpec(**options | changes)


def table(result: StudyResult) -> str:
    return result.table().to_csv()


def progress() -> tuple[list[tuple[int, int]], Any]:
    calls: list[tuple[int, int]] = []
    return calls, lambda done, total, record: calls.append((done, total))


TUNED = [{}, {"tune_once": True}, {"tuner": "optuna"}, {"tuner": "optuna", "tune_once": True}, {"folds": 2, "tune_once": True}]


@pytest.mark.parametrize("how", TUNED, ids=str)
def test_a_tuned_study_counts_right_resumes_and_is_read_back(tmp_path: Path, how: dict[str, Any]) -> None:
    spec, store = small(**how), tmp_path / "s.sqlite"
    calls, tell = progress()
    once = study.run(spec, jobs=1, on_progress=tell)
    assert calls[-1][0] == calls[-1][1] == len({call for call in calls}) - 1
    assert [done for done, _ in calls] == list(range(len(calls)))
    stopped_at = len(calls) // 2

    def stop(done: int, total: int, record: Any) -> None:
        if done == stopped_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.run(spec, store, jobs=1, on_progress=stop)
    resumed, tell = progress()
    again = study.run(spec, store, jobs=1, on_progress=tell)
    assert table(again) == table(once)
    assert len(resumed) < len(calls)
    assert resumed[-1] == calls[-1]
    assert table(study.load(store)) == table(once)
    assert table(study.run(spec, store, jobs=1)) == table(once)


@pytest.mark.parametrize("how", TUNED[:3], ids=str)
def test_every_objective_has_the_same_budget(how: dict[str, Any]) -> None:
    spec = small(objectives="brier_loss,gce,active_passive_loss", **how)
    result = study.run(spec, jobs=1)
    draws = spec.tuning_draws or spec.draws
    for label in result.objectives:
        for draw in draws:
            tried = [one for name, number, one in result.trials if (name, number) == (label, draw)]
            assert len(tried) == 4
            assert tried[0] == Configuration()
            assert all(len(one.hyper) in (0, {"brier_loss": 0, "generalized_cross_entropy": 1}.get(label, 4)) for one in tried)


def test_tuned_once_takes_the_same_configuration_on_every_seed() -> None:
    result = study.run(small(tune_once=True, seeds=[4, 1]), jobs=1)
    assert list(result.spec.tuning_draws) == [5, 6, 7]
    for stop in ("last", "best"):
        for label in result.objectives:
            (chosen,) = {outcome.configuration for outcome in result.over(label, stop)}
            means = {}
            for draw in (5, 6, 7):
                for (name, number, configuration), record in result.trials.items():
                    if (name, number) == (label, draw):
                        means[configuration] = means.get(configuration, 0) + record[stop]["val"]["accuracy"] / 3
            assert means[chosen] == pytest.approx(max(means.values()))
    tested = {number for _, number, _ in result.trials} - {5, 6, 7}
    assert tested == {4, 1}


def test_what_is_tuned_reaches_the_training_and_stacks_to_the_bit() -> None:
    """Weight decays and hyper-parameters of their own in one stack give what each gives alone in torch's plain loop."""
    spec = small(objectives="symmetric_cross_entropy", seeds=2, configurations=5, epochs=3)
    dataset = spec.load()
    trials = spec.trials(dataset.fingerprint)
    stacked, alone = (run_trials(trials, dataset, together=together) for together in (True, False))
    plain = [{key: value for key, value in record.items() if key != "seconds"} for record in alone if isinstance(record, dict)]
    assert [{key: value for key, value in record.items() if key != "seconds"} for record in stacked if isinstance(record, dict)] == plain
    heavier = run_trial(replace(trials[0], weight_decay=1.0), dataset)
    assert heavier["epochs"][-1]["train_loss"] != plain[0]["epochs"][-1]["train_loss"]
    stacks = engine_module._stacks(trials, dataset, 1)
    assert len(stacks) < len(trials)


def test_what_is_chosen_is_told_of() -> None:
    result = study.run(small(objectives="cross_entropy,gce"), jobs=1)
    columns = result.table()
    assert {"learning_rate", "weight_decay", "hyper"} <= set(columns.columns)
    for outcome in result.outcomes:
        tried = {
            one: [record] for (label, draw, one), record in result.trials.items() if (label, draw) == (outcome.objective, outcome.seed)
        }
        assert outcome.configuration == select("accuracy", tried, outcome.stop)
        assert outcome.validation == max(records[0][outcome.stop]["val"]["accuracy"] for records in tried.values())
    edge = study.run(small(learning_rate_range=(1e-7, 1e-6), configurations=12, seeds=3), jobs=1)
    assert any("learning_rate" in note and "edge of where it was searched" in note for note in edge.notes)
    assert any("widen --learning-rate-range" in note for note in edge.notes)


# The barrier


class Peeking:
    """A tuner that chooses by test rows."""

    def __init__(self, how: Any) -> None:
        self._how, self._left = how, [Configuration()]

    def ask(self) -> Sequence[Configuration]:
        asked, self._left = self._left, []
        return asked

    def tell(self, configuration: Configuration, seen: Sequence[ValidationRecord]) -> None:
        self._how(seen[0])


PEEKS = {
    "the metrics": lambda seen: seen["last"]["test"]["accuracy"],
    "the best epoch": lambda seen: seen["best"]["test"],
    "an epoch": lambda seen: seen["epochs"][-1]["test"],
    "without an error": lambda seen: seen["last"].get("test"),
    "whether there are": lambda seen: "test" in seen["last"],
    "the confidences": lambda seen: seen["last"]["reliability"],
}


@pytest.mark.parametrize("how", PEEKS.values(), ids=PEEKS.keys())
def test_a_tuner_that_reads_test_rows_fails(monkeypatch: pytest.MonkeyPatch, how: Any) -> None:
    monkeypatch.setattr(engine_module, "tuners", lambda *_: lambda objective, draw: Peeking(how))
    with pytest.raises(TestRowsError, match="a tuner may not read"):
        study.run(small(), jobs=1)


def test_nothing_of_the_test_rows_is_in_what_a_tuner_gets() -> None:
    """Not behind any attribute either: the copy never held it."""
    told: list[ValidationRecord] = []
    record = run_trial(small().trials(small().load().fingerprint)[0], small().load())
    told.append(ValidationRecord(record))

    def names(value: Any) -> set[str]:
        if isinstance(value, ValidationRecord):
            value = value._seen
        if isinstance(value, dict):
            return set(value) | {name for item in value.values() for name in names(item)}
        return {name for item in value for name in names(item)} if isinstance(value, tuple) else set()

    assert names(told[0]) >= {"last", "best", "val", "accuracy", "status", "epochs", "train_loss"}
    assert not names(told[0]) & {"test", "reliability", "rows"}
    assert told[0]["last"]["val"]["accuracy"] == record["last"]["val"]["accuracy"]
    assert [epoch["val"] for epoch in told[0]["epochs"]] == [epoch["val"] for epoch in record["epochs"]]


# Optuna


def test_optuna_learns_from_validation_rows_and_keeps_its_studies(tmp_path: Path) -> None:
    import optuna

    url = f"sqlite:///{tmp_path / 'tuned.sqlite'}"
    spec = small(tuner="optuna", configurations=6, objectives="gce", seeds=1)
    result = study.run(spec, tmp_path / "s.sqlite", jobs=1, optuna_storage=url)
    (name,) = optuna.study.get_all_study_names(url)
    assert name.startswith("generalized_cross_entropy, split 0")
    kept = optuna.load_study(study_name=name, storage=url).trials
    told = {one.params["learning_rate"]: one.value for one in kept}
    assert len(kept) == 6
    values = [record["last"]["val"]["accuracy"] for _, record in sorted(result.trials.items(), key=lambda item: item[0][2].learning_rate)]
    assert [value for _, value in sorted(told.items())] == values
    study.run(spec, tmp_path / "s.sqlite", jobs=1, optuna_storage=url)
    assert len(optuna.load_study(study_name=name, storage=url).trials) == 6
    beside = study.run(spec, tmp_path / "t.sqlite", jobs=1)
    assert (tmp_path / "t.sqlite.optuna").exists()
    assert table(beside) == table(result)  # no number depends on where Optuna keeps what it was told


def test_optuna_is_told_that_a_divergence_is_worst(user: ModuleType, tmp_path: Path) -> None:
    result = study.run(small(tuner="optuna", objectives="objectives_of_a_user:exploding"), tmp_path / "s.sqlite", jobs=1)
    assert {outcome.status for outcome in result.outcomes} == {"diverged"}


def test_without_optuna_it_is_one_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *arguments: Any, **options: Any) -> Any:
        if name.split(".")[0] == "optuna":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(StudyError, match=r"pip install 'lossmith\[tune\]'"):
        study.run(small(tuner="optuna"), jobs=1)


def test_a_storage_that_is_none_is_one_line() -> None:
    with pytest.raises(StudyError, match="--optuna-storage nowhere"):
        study.run(small(tuner="optuna"), jobs=1, optuna_storage="nowhere")
    with pytest.raises(StudyError, match="--optuna-storage is for --tuner optuna"):
        study.run(small(), jobs=1, optuna_storage="sqlite://")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tuner": "sobol"}, "tuner must be one of quasi_random, grid, optuna"),
        ({"tuner": "quasi_random", "learning_rates": [0.1]}, "--learning-rates is the grid of --tuner grid"),
        ({"configurations": 0}, "configurations must be a whole number >= 1"),
        ({"learning_rates": [0.1], "configurations": 3}, "--configurations is for the tuners that search"),
        ({"learning_rate_range": (0.1, 0.01)}, "learning_rate_range must be two numbers"),
        ({"tuner": "grid", "configurations": None, "learning_rate_range": (0.1, 1.0)}, "--learning-rate-range is for the tuners"),
        ({"stop_hopeless": "t"}, "stop_hopeless must be True or one of"),
        ({"stop_hopeless": True, "folds": 3}, "leave out --folds"),
    ],
)
def test_what_does_not_go_together_is_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(StudyError, match=said):
        small(**changes)


def test_a_tuned_study_is_written_down_and_read_back() -> None:
    for how in (*TUNED, {"stop_hopeless": True}, {"learning_rate_range": (1e-4, 1e-2)}):
        assert StudySpec.from_dict(small(**how).as_dict()) == small(**how)
    assert "tuner" not in small(tuner="grid", configurations=None).as_dict()  # as studies were written down before there was any other


def test_tuners_that_are_known_beforehand_ask_once() -> None:
    listed = tuner_module.Listed([Configuration()])
    assert listed.ask() == [Configuration()]
    assert listed.ask() == []


# Ending the hopeless


def test_a_hopeless_objective_ends_early_and_wins_nothing(user: ModuleType, tmp_path: Path) -> None:
    bad, options = "objectives_of_a_user:wrong_way", {"model": "linear", "seeds": 8, "epochs": 15, "learning_rates": [0.05]}
    spec = StudySpec(data="wine", objectives=f"cross_entropy,{bad},torch.nn.functional:cross_entropy", stop_hopeless=True, **options)
    store = tmp_path / "s.sqlite"
    calls, tell = progress()
    result = study.run(spec, store, jobs=1, on_progress=tell)
    assert 2 <= result.ended[bad] < 8
    assert len(result.over(bad)) == result.ended[bad]
    assert calls[0] == (0, 3 * 8)
    assert calls[-1][0] == calls[-1][1] == len(result.trials) == 8 + sum(result.ended.values())
    values = result.values()
    assert np.isnan(values[1, result.ended[bad] :]).all()
    assert np.isfinite(values[0]).all()
    summary = Summary(result)
    verdicts = {line.objective: line.comparison.verdict for line in summary.lines() if line.comparison}
    assert verdicts == {bad: "hopeless", "torch.nn.functional:cross_entropy": "tied"}
    assert f"{bad} was ended after {result.ended[bad]} seeds" in " ".join(text for _, _, text in words.findings(summary))
    assert "ended early as hopeless" in render(summary)
    assert summary.lines()[2].comparison is not None
    assert table(study.load(store)) == table(result)
    assert study.load(store).ended == result.ended
    again, tell = progress()
    assert table(study.run(spec, store, jobs=1, on_progress=tell)) == table(result)
    assert again[-1] == calls[-1]
    whole = study.run(StudySpec(data="wine", objectives=f"cross_entropy,{bad}", **options), store, jobs=1)
    assert whole.ended == {}  # asked for without it, the same trials are found and the rest is computed
    np.testing.assert_array_equal(whole.values()[1, : result.ended[bad]], values[1, : result.ended[bad]])
    by_hand = dict(zip(whole.objectives, whole.values(), strict=True))
    sizes = {"train_size": whole.rows["train"], "test_size": whole.rows["test"]}
    assert hopeless(by_hand, "cross_entropy", "accuracy", **sizes) == {bad: result.ended[bad]}


def test_a_timed_tuner_reports_whole_seeds(tmp_path: Path) -> None:
    full = study.run(small(tuner="optuna", seeds=3, time=3600.0), jobs=1)
    assert full.spec.seeds == (0, 1, 2)
    with pytest.raises(StudyError, match="was over before one seed was done"):
        study.run(small(tuner="optuna", seeds=3, time=1e-9), tmp_path / "s.sqlite", jobs=1)
