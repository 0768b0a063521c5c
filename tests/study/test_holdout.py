"""Repeated looks at the same test rows: counted and told of, and answered by Thresholdout where that was asked for."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lossmith import study
from lossmith.study import StudyError, StudySpec, holdout
from lossmith.study.report.command import command
from lossmith.study.report.page import render
from lossmith.study.stored import Looks
from lossmith.study.summary import Summary


def small(**changes: Any) -> StudySpec:
    options = {"data": "digits", "objectives": "cross_entropy,gce:q=0.7", "model": "linear", "seeds": 2, "epochs": 2}
    return StudySpec(**options | {"learning_rates": [0.01, 0.1]} | changes)


def test_other_studies_of_the_same_data_are_counted(tmp_path: Path) -> None:
    store, first = tmp_path / "s.sqlite", small()
    assert study.run(first, store, jobs=1).looks == Looks(0, 0)
    assert study.run(first, store, jobs=1).looks == Looks(0, 0)  # the same again tells nothing new
    study.run(small(data="wine"), store, jobs=1)  # other rows
    second = study.run(small(objectives="cross_entropy,brier_loss", seeds=3), store, jobs=1)
    assert second.looks == Looks(1, 2 * 2)  # two objectives on two splits
    third = study.run(small(stop="best"), store, jobs=1)
    assert third.looks == Looks(2, 2 * 2 + 2 * 3)
    assert any("2 other studies in this store had shown 10 results" in note for note in third.notes)
    assert "2 other studies in this store had shown 10 results" in render(Summary(third))
    assert study.run(first, store, jobs=1).looks == Looks(0, 0)  # a report that is made again says what it said
    assert study.load(store, 0).looks == Looks(0, 0)


def test_thresholdout_answers_and_nothing_else_of_the_test_rows_is_shown(tmp_path: Path) -> None:
    spec, store = small(holdout="thresholdout"), tmp_path / "s.sqlite"
    plain, answered = study.run(small(), store, jobs=1), study.run(spec, store, jobs=1)
    test_rows = plain.rows["test"]
    for outcome in answered.outcomes:
        before = plain.outcome(outcome.objective, outcome.seed, outcome.stop)
        assert outcome.configuration == before.configuration
        assert outcome.reliability == ()
        known = {name for name, value in outcome.metrics.items() if not math.isnan(value)}
        assert known == ({"accuracy"} if outcome.stop == "last" else set())
        if outcome.stop == "last":  # validation and test differ by far less than the threshold here
            assert abs(before.metrics["accuracy"] - before.validation) < holdout.threshold(test_rows) / 2
            assert outcome.metrics["accuracy"] == outcome.validation
    assert all(np.isnan(answered.curves(label).test).all() for label in answered.objectives)
    assert all(record["last"]["test"]["accuracy"] is None for record in answered.trials.values())
    assert "test rows answer through Thresholdout".upper() in render(Summary(answered)).upper()
    assert "--holdout thresholdout" in str(command(spec))
    assert study.load(store).table().equals(answered.table())


def test_what_validation_rows_deny_comes_from_the_test_rows_until_they_are_spent(tmp_path: Path) -> None:
    asked = study.store.StoredStudy(small(holdout="thresholdout"), {"fingerprint": "f"}, ())
    with study.Store(tmp_path / "s.sqlite") as store:
        reusable = holdout.Holdout(asked, store)
        told = [reusable.answer(0, f"question {k}", 0.95, 0.1, 400) for k in range(holdout.BUDGET)]
        assert all(abs(answer - 0.1) < 0.3 for answer in told)
        assert len(set(told)) == holdout.BUDGET  # each with noise of its own
        assert reusable.answer(0, "question 3", 0.95, 0.1, 400) == told[3]  # asked again, it says the same and spends nothing
        with pytest.raises(StudyError, match="the test rows of seed 0 have given all their 16 answers"):
            reusable.answer(0, "one more", 0.5, 0.5, 400)
        assert reusable.answer(1, "one more", 0.5, 0.5, 400) == 0.5  # other test rows
    with study.Store(tmp_path / "s.sqlite") as store, pytest.raises(StudyError, match="have given all"):
        holdout.Holdout(asked, store).answer(0, "after a restart", 0.5, 0.5, 400)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"holdout": "reusable"}, "holdout must be one of plain, thresholdout"),
        ({"metric": "log_loss"}, "leave --metric at accuracy"),
        ({"stop_hopeless": True}, "--stop-hopeless looks at the test rows"),
        ({"probes": "margins"}, "--probes, --ood and --ood-classes look at the test rows"),
        ({"ood": "wine"}, "--probes, --ood and --ood-classes look at the test rows"),
    ],
)
def test_what_thresholdout_cannot_do_is_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(StudyError, match=said):
        small(**{"holdout": "thresholdout"} | changes)


def test_few_test_rows_cannot_be_asked_again() -> None:
    assert holdout.threshold(holdout.FEWEST - 1) >= 1 > holdout.threshold(holdout.FEWEST)
    with pytest.raises(StudyError, match="needs 17 test rows or more a split; here there are 9"):
        study.run(small(data="wine", test=0.05, holdout="thresholdout"), jobs=1)
