"""References meet the rows, labels and choices of the objectives, never a test row; and a study that they win says so first."""

import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from lossmith import study
from lossmith.study import Dataset, Noise, StudyResult, StudySpec, TrialSpec
from lossmith.study import engine as engine_module
from lossmith.study.data.splits import make_split
from lossmith.study.report import words as say
from lossmith.study.report.command import command
from lossmith.study.report.page import render
from lossmith.study.summary import Summary
from lossmith.study.training import yardsticks as module
from lossmith.study.training.metrics import METRICS
from lossmith.study.training.yardsticks import Reference, Yardstick, announced, measure, names, references, yardsticks

from .made_up import around, result

ROWS = 120


@pytest.fixture(autouse=True)
def small_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRIDS", {"logistic_regression": (0.1, 1.0), "gradient_boosting": (0.1,)})
    monkeypatch.setattr(module, "ITERATIONS", 5)


def frame(rare: int = 60) -> pd.DataFrame:
    """Two classes apart by one column, the second with `rare` rows."""
    generator = np.random.default_rng(0)
    y = (np.arange(ROWS) < rare).astype(int)
    return pd.DataFrame({"x": generator.normal(size=ROWS) + 1.5 * y, "z": generator.normal(size=ROWS), "y": y})


def spec(table: pd.DataFrame | None = None, **changes: Any) -> StudySpec:
    options: dict[str, Any] = {"target": "y", "objectives": "cross_entropy,gce:q=0.7", "model": "linear", "seeds": 2, "epochs": 1}
    return StudySpec(data=frame() if table is None else table, **options | {"learning_rates": 0.1} | changes)


def asked(**changes: Any) -> tuple[list[Yardstick], Dataset]:
    made = spec(**changes)
    data = made.load()
    return yardsticks(made, data), data


def test_a_reference_learns_from_the_objectives_rows_and_labels_and_never_sees_a_test_row(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    class Spy(LogisticRegression):
        def fit(self, x: np.ndarray, y: np.ndarray) -> "Spy":
            seen.append((x, y))
            super().fit(x, y)
            return self

    monkeypatch.setattr(module, "_classifier", lambda yardstick, value: Spy(C=value))
    (first, *_), data = asked(noise="symmetric:0.3", folds=3)
    measure(first, data)
    split = make_split(data, 0, noise=Noise("symmetric", 0.3), validation=0.1, test=0.1, folds=3, fold=0)
    assert len(seen) == 2
    for x, y in seen:
        assert (x == split.x_train.numpy()).all()
        assert (y == split.y_train.numpy()).all()
        assert (y != data.labels[split.rows_train]).any()


def test_the_numbers_are_scikit_learn_s_with_the_value_that_validation_chose() -> None:
    (first, *_), data = asked()
    found = measure(first, data)
    split = make_split(data, 0, validation=0.1, test=0.1)
    scores = {}
    for value in (0.1, 1.0):
        model = LogisticRegression(C=value).fit(split.x_train.numpy().astype(float), split.y_train.numpy())
        parts = ((split.x_validation, split.y_validation), (split.x_test, split.y_test))
        scores[value] = [model.score(x.numpy().astype(float), y) for x, y in parts]
    assert found["chosen"] == max(scores, key=lambda value: scores[value][0])
    assert found["plain"]["accuracy"] == pytest.approx(scores[found["chosen"]][1])
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_nothing_is_chosen_by_test_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    (first, *_), data = asked(metric="balanced_accuracy", table=frame(rare=25))
    before = measure(first, data)
    real = module.make_split

    def turned(*arguments: Any, **options: Any) -> Any:
        split = real(*arguments, **options)
        return replace(split, y_test=1 - split.y_test)

    monkeypatch.setattr(module, "make_split", turned)
    after = measure(first, data)
    assert after["chosen"] == before["chosen"]
    for treatment in ("plain", "threshold"):  # the same predictions, of turned labels
        assert after[treatment]["accuracy"] == pytest.approx(1 - before[treatment]["accuracy"])


def test_a_threshold_is_moved_where_that_helps() -> None:
    logits = torch.tensor([[0.0, -3.0], [0.0, -2.0], [0.0, -1.0], [0.0, -0.5]], dtype=torch.float64)
    shift = module._best_shift("balanced_accuracy", logits, torch.tensor([0, 0, 1, 1]))
    assert shift == pytest.approx(1.5)
    assert module._best_shift("accuracy", logits, torch.tensor([0, 0, 0, 0])) == 0.0


def test_rare_classes_get_weights_and_two_classes_a_threshold() -> None:
    common, data = asked()
    assert [(one.kind, one.weighted, one.seed) for one in common] == [
        (kind, False, seed) for seed in (0, 1) for kind in ("logistic_regression", "gradient_boosting")
    ]
    assert names(spec(), data) == ["logistic regression", "gradient boosting"]
    rare, data = asked(table=frame(rare=20))
    assert names(spec(frame(rare=20)), data) == [
        "logistic regression", "logistic regression, class weights", "gradient boosting", "gradient boosting, class weights",
    ]  # fmt: skip
    plain, weighted = (measure(one, data) for one in rare[:2])
    assert weighted["plain"]["log_loss"] != plain["plain"]["log_loss"]
    assert set(plain["threshold"]) == set(METRICS)
    assert len(asked(imbalance=0.1)[0]) == 8


def test_no_threshold_where_none_can_matter() -> None:
    three = frame().assign(y=np.minimum(np.arange(ROWS) // 10, 2))
    for changes in ({"metric": "auroc", "table": frame(rare=20)}, {"table": three}, {"table": frame()}):
        (first, *_), data = asked(**changes)
        assert "threshold" not in measure(first, data)


def test_every_field_of_a_trial_that_moves_the_split_is_in_the_key() -> None:
    own = {"model", "model_source", "objective", "objective_source", "epochs", "batch_size", "learning_rate", "weight_decay", "probes"}
    assert {field.name for field in fields(TrialSpec)} - own <= {field.name for field in fields(Yardstick)}
    (first, *_), _ = asked()
    changes = {
        "kind": "gradient_boosting", "weighted": True, "threshold": True, "data": "g", "noise": Noise("symmetric", 0.1), "imbalance": 0.5,
        "validation": 0.3, "test": 0.3, "metric": "f1", "seed": 9, "folds": 3, "fold": 1, "clean_validation": True,
    }  # fmt: skip
    keys = {first.key, *(replace(first, **{name: value}).key for name, value in changes.items())}
    assert len(keys) == 1 + len(changes)


def test_training_rows_of_one_class_have_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    (first, *_), data = asked()
    split = make_split(data, 0)
    monkeypatch.setattr(module, "make_split", lambda *_, **__: replace(split, y_train=torch.zeros_like(split.y_train)))
    empty = measure(first, data)
    assert set(empty) == {"status", "seconds"}
    (found,) = references(["logistic regression"], [{"plain": {"accuracy": 0.5}}, empty])
    assert found.values["accuracy"][0] == 0.5
    assert math.isnan(found.values["accuracy"][1])
    assert references(["logistic regression"], [empty]) == ()


def test_a_study_of_a_table_has_references_and_computes_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    table = frame(rare=20)
    made = study.run(spec(table), tmp_path / "s.sqlite", jobs=1, on_progress=lambda done, total, record: calls.append((done, total)))
    assert calls == [(done, 12) for done in range(13)]
    assert [one.name for one in made.references] == announced(spec(table), spec(table).load()) == [
        "logistic regression", "logistic regression, threshold by validation", "logistic regression, class weights",
        "logistic regression, class weights, threshold by validation", "gradient boosting", "gradient boosting, threshold by validation",
        "gradient boosting, class weights", "gradient boosting, class weights, threshold by validation",
    ]  # fmt: skip
    monkeypatch.setattr(engine_module, "measure", None)
    monkeypatch.setattr(engine_module, "run_trials", None)
    assert study.run(spec(table), tmp_path / "s.sqlite", jobs=1).references == made.references
    assert study.load(tmp_path / "s.sqlite").references == made.references
    without = study.run(spec(table, references=False), tmp_path / "s.sqlite", jobs=1)
    assert without.references == ()
    assert (without.values() == made.values()).all()
    assert "--no-references" in (command(replace(without.spec, data="t.csv")) or "")


def test_what_is_no_table_has_none() -> None:
    made = StudySpec(data="wine", objectives="cross_entropy")
    assert yardsticks(made, made.load()) == []


def beside(mean: float, spread: float = 0.01) -> StudyResult:
    values = {name: tuple(around(mean, spread, seed=5)) for name in METRICS}
    made = result({"ce": around(0.7), "up": around(0.8, seed=1)})
    weak = {name: (0.5,) * 10 for name in METRICS}
    return replace(made, references=(Reference("logistic regression", weak), Reference("gradient boosting", values)))


def test_a_reference_that_wins_is_the_first_sentence() -> None:
    summary = Summary(beside(0.9))
    assert say.headline(summary).startswith(
        "Gradient boosting, a reference outside the comparison, does better than every objective here: 90.0 % accuracy against 80.0 % "
        "for up, the best of them (difference +10.0 points, 95 % interval +"
    )
    assert say.headline(summary).endswith("On wine, at the last epoch, compared with ce in accuracy: up is better.")
    assert [one.name for one in summary.standings] == ["gradient boosting", "logistic regression"]
    page = render(summary)
    assert page.index("Gradient boosting, a reference") < page.index("up beats ce")
    assert "References outside the comparison" in page


def test_a_reference_that_is_ahead_by_chance_perhaps_says_so() -> None:
    said = say.headline(Summary(beside(0.805, 0.05)))
    assert "is ahead of every objective here" in said
    assert "which leaves no difference possible" in said


def test_a_reference_that_does_not_win_is_in_the_table_only() -> None:
    summary = Summary(beside(0.75))
    assert say.headline(summary).startswith("On wine")
    assert "References outside the comparison" in render(summary)
    assert "References outside" not in render(Summary(result({"ce": around(0.7)})))


def test_lower_is_better_for_log_loss() -> None:
    made = beside(0.1)
    summary = Summary(replace(made, spec=replace(made.spec, metric="log_loss")))
    assert say.headline(summary).startswith("Gradient boosting, a reference outside the comparison, does better")


def test_one_seed_has_no_interval() -> None:
    made = result({"ce": [0.7]})
    one = replace(made, references=(Reference("gradient boosting", dict.fromkeys(METRICS, (0.9,))),))
    assert "is ahead of every objective here" in say.headline(Summary(one))
    assert "no interval" in say.headline(Summary(one))
