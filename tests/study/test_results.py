"""Selection looks at validation rows only, breaks ties the same way every time, and never takes a divergence it can avoid."""

import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from lossmith import study
from lossmith.study import StudyError, StudyResult, StudySpec
from lossmith.study.results import _remedy
from lossmith.study.training.metrics import METRICS
from lossmith.study.tuning.configuration import Configuration
from lossmith.study.tuning.selection import select


def spec(**changes: Any) -> StudySpec:
    return StudySpec(**{"data": "wine", "objectives": "cross_entropy", "learning_rates": [0.1, 0.01, 0.001]} | changes)


def records(values: list[float | None], status: tuple[str, ...] = ("ok",) * 3, metric: str = "accuracy") -> dict[Configuration, Any]:
    return {
        Configuration(rate): [
            {
                "status": state,
                "last": {"val": {metric: value}, "test": {metric: 1.0 - (value or 0)}},
                "best": {"val": {metric: 1 - (value or 0)}, "test": {metric: value}},
            }
        ]
        for rate, value, state in zip([0.1, 0.01, 0.001], values, status, strict=True)
    }


def chosen(*arguments: Any) -> float:
    return select(*arguments).learning_rate


def test_the_best_on_validation_is_chosen_for_each_stop_by_itself() -> None:
    seen = records([0.2, 0.9, 0.5])
    assert chosen("accuracy", seen, "last") == 0.01
    assert chosen("accuracy", seen, "best") == 0.1


def test_lower_is_better_where_it_is() -> None:
    assert chosen("log_loss", records([0.2, 0.9, 0.5], metric="log_loss"), "last") == 0.1


def test_ties_go_to_the_smaller_learning_rate() -> None:
    assert chosen("accuracy", records([0.9, 0.9, 0.9]), "last") == 0.001
    assert chosen("accuracy", records([0.9, 0.9, 0.1]), "last") == 0.01


def test_a_divergence_is_chosen_only_if_all_diverged() -> None:
    assert chosen("accuracy", records([0.9, 0.2, 0.1], ("diverged", "ok", "ok")), "last") == 0.01
    assert chosen("accuracy", records([0.9, None, 0.1], ("diverged", "ok", "diverged")), "last") == 0.01
    assert chosen("accuracy", records([0.9, 0.2, 0.1], ("diverged",) * 3), "last") == 0.1


def test_a_metric_that_is_not_defined_comes_last() -> None:
    assert chosen("accuracy", records([None, 0.2, 0.1]), "last") == 0.01
    assert chosen("log_loss", records([None, 0.2, 0.3], metric="log_loss"), "last") == 0.01


@pytest.fixture(scope="module")
def result() -> StudyResult:
    asked = spec(objectives="cross_entropy,gce:q=0.7", model="linear", seeds=[3, 1], epochs=4, noise="symmetric:0.3", stop="best")
    return study.run(asked, jobs=1)


def test_outcomes_are_aligned_and_complete(result: StudyResult) -> None:
    assert len(result.outcomes) == 2 * 2 * 2
    for stop in ("last", "best"):
        values = result.values("accuracy", stop)
        for i, label in enumerate(result.objectives):
            for j, seed in enumerate((3, 1)):
                outcome = result.outcome(label, seed, stop)
                assert (outcome.objective, outcome.seed, outcome.stop) == (label, seed, stop)
                assert values[i, j] == outcome.metrics["accuracy"]
                assert set(outcome.metrics) == set(METRICS)
                record = result.trials[label, seed, outcome.configuration]
                assert outcome.metrics == record[stop]["test"]
    assert (result.values() == result.values("accuracy", "best")).all()
    assert (result.values(stop="last") != result.values(stop="best")).any()
    with pytest.raises(StudyError, match="metric must be one of"):
        result.values("speed")


def test_every_outcome_has_the_best_validation_metric_of_its_seed(result: StudyResult) -> None:
    for outcome in result.outcomes:
        tried = [
            result.trials[outcome.objective, outcome.seed, Configuration(rate)][outcome.stop]["val"]["accuracy"]
            for rate in result.spec.learning_rates or ()
        ]
        assert outcome.validation == max(tried)
        assert outcome.at_edge == (outcome.learning_rate in (0.1, 0.001))


def test_curves_follow_the_chosen_learning_rate(result: StudyResult) -> None:
    curves = result.curves("cross_entropy", "last")
    assert curves.epochs.tolist() == [0, 1, 2, 3, 4]
    assert curves.test.shape == (2, 5)
    assert curves.test[:, -1].tolist() == result.values("accuracy", "last")[0].tolist()
    assert np.isnan(curves.train_loss[:, 0]).all()
    assert np.isfinite(curves.train_loss[:, 1:]).all()


def test_reliability_adds_up_over_seeds(result: StudyResult) -> None:
    bins = result.reliability("cross_entropy")
    assert sum(row["count"] for row in bins) == 2 * 18
    right = sum(row["count"] * row["accuracy"] for row in bins)
    assert right / 36 == pytest.approx(result.values()[0].mean())
    assert [row["lower"] for row in bins] == sorted({row["lower"] for row in bins})


def test_tables(result: StudyResult) -> None:
    table = result.table()
    assert len(table) == 8
    assert result.rows == {"train": 142, "validation": 18, "test": 18}
    assert list(table["stop"].unique()) == ["last", "best"]
    summary = result.summary()
    assert list(summary.index) == list(result.objectives)
    assert summary.loc["cross_entropy", "accuracy"] == pytest.approx(result.values()[0].mean())
    assert "accuracy" in result._repr_html_()


@pytest.mark.parametrize(
    ("edges", "said"),
    [
        (["weight_decay"], ""),
        (["learning_rate", "weight_decay"], ": widen --learning-rate-range"),
        (["q"], ": give q a value of your own in --objectives"),
        (["learning_rate", "q", "k"], ": widen --learning-rate-range, and give q, k a value of your own in --objectives"),
    ],
)
def test_the_advice_fits_what_is_at_the_edge(edges: list[str], said: str) -> None:
    assert _remedy(edges) == said


def test_notes_speak_of_divergence_and_of_the_edge(user: ModuleType) -> None:
    asked = spec(objectives="cross_entropy,objectives_of_a_user:exploding", model="linear", seeds=2, epochs=1)
    notes = "\n".join(study.run(asked, jobs=1).notes)
    assert "exploding: every learning rate diverged on 2 of 2 seeds" in notes
    one = study.run(spec(model="linear", seeds=1, epochs=1, learning_rates=[1e-9, 1e-8, 0.1]), jobs=1)
    assert len(one.notes) == 1
    assert one.notes[0].startswith("The chosen learning rate is the largest tried, 0.1, for cross_entropy (1 of 1 seeds).")
    untuned = study.run(spec(objectives="cross_entropy,gce", model="linear", seeds=1, epochs=1, learning_rates=[0.01]), jobs=1)
    assert len(untuned.notes) == 1
    assert untuned.notes[0].startswith("One learning rate, 0.01, for every objective")
    assert untuned.selection_rule.startswith("The learning rate is 0.01 throughout")


def test_a_diverged_objective_leaves_nan_in_its_curves_and_numbers_in_its_table(user: ModuleType) -> None:
    asked = spec(objectives="objectives_of_a_user:exploding", model="linear", seeds=1, epochs=2)
    result = study.run(asked, jobs=1)
    curves = result.curves(result.objectives[0])
    assert math.isfinite(curves.test[0, 0])
    assert np.isnan(curves.test[0, 1:]).all()
    assert np.isfinite(result.values()).all()
    assert result.outcomes[0].status == "diverged"
