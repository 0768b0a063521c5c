"""Boosted trees race like any model: by hand-written derivatives the same forest grows, and what trees cannot follow is refused."""

import copy
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from lossmith import study
from lossmith.study import Dataset, StudyError, StudySpec, TrialSpec, load_data, run_trial
from lossmith.study.report.methods import paragraph
from lossmith.study.report.winner import script
from lossmith.study.training.boosted import DEPTH, LEAST_CURVATURE, LEAST_ROWS, _grower, boosting_objective
from lossmith.study.training.objectives import ObjectiveSpec
from lossmith.study.training.trees import RATES, TREES, Trees
from lossmith.study.training.trial import rehearse, split_of

xgboost = pytest.importorskip("xgboost")
lightgbm = pytest.importorskip("lightgbm")

MINE = "objectives_of_a_user"
ROUNDS, RATE = 6, 0.3


@pytest.fixture(scope="module")
def wine() -> Dataset:
    return load_data("wine")


def trials(dataset: Dataset, objectives: str = "cross_entropy", **changes: Any) -> list[TrialSpec]:
    options = {"model": "xgboost", "seeds": 1, "epochs": ROUNDS, "learning_rates": RATE, "metric": "log_loss"} | changes
    return StudySpec(data=dataset, objectives=objectives, **options).trials(dataset.fingerprint)


def numbers(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in copy.deepcopy(record).items() if key != "seconds"}


def by_hand(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    p = np.exp(log_softmax(scores.astype(np.float64), axis=1))
    return p - np.eye(3)[labels], p * (1 - p)


def forest_by_hand(model: str, x: np.ndarray, y: np.ndarray, x_test: np.ndarray) -> np.ndarray:
    """Softmax and its derivatives in NumPy, given to the library's own loop."""
    if model == "xgboost":
        how = {"num_class": 3, "base_score": 0.0, "eta": RATE, "max_depth": DEPTH, "min_child_weight": LEAST_CURVATURE, "nthread": 1}
        how |= {"disable_default_eval_metric": 1, "lambda": 1.0}
        forest = xgboost.train(how, xgboost.DMatrix(x, label=y), ROUNDS, obj=lambda scores, data: by_hand(scores, y))
        return forest.predict(xgboost.DMatrix(x_test), output_margin=True)
    how = {"num_class": 3, "learning_rate": RATE, "max_depth": DEPTH, "num_leaves": 64, "min_sum_hessian_in_leaf": LEAST_CURVATURE}
    how |= {"min_data_in_leaf": LEAST_ROWS, "lambda_l2": 1.0, "num_threads": 1, "verbosity": -1, "force_row_wise": True}
    forest = lightgbm.train({**how, "objective": lambda scores, data: by_hand(scores, y)}, lightgbm.Dataset(x, label=y), ROUNDS)
    return np.asarray(forest.predict(x_test, raw_score=True))


@pytest.mark.parametrize("model", TREES)
def test_it_is_the_forest_of_derivatives_by_hand(wine: Dataset, model: str) -> None:
    (trial,) = trials(wine, model=model)
    split = split_of(trial, wine)
    record = run_trial(trial, wine)
    scores = forest_by_hand(model, split.x_train.numpy(), split.y_train.numpy(), split.x_test.numpy())
    wanted = -log_softmax(scores / record["last"]["temperature"], axis=1)[np.arange(len(scores)), split.y_test.numpy()].mean()
    assert record["last"]["test"]["log_loss"] == pytest.approx(wanted, rel=1e-5)
    assert record["last"]["test"]["accuracy"] == (scores.argmax(1) == split.y_test.numpy()).mean()
    assert record["epochs"][1]["train_loss"] == pytest.approx(np.log(3), rel=1e-6)  # before the first round all scores are 0
    losses = [entry["train_loss"] for entry in record["epochs"][1:]]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.5
    assert [entry["epoch"] for entry in record["epochs"]] == list(range(ROUNDS + 1))


@pytest.mark.parametrize("model", TREES)
def test_the_same_objective_gives_the_same_numbers(user: ModuleType, wine: Dataset, model: str) -> None:
    """By name twice, and as a function of the user's own."""
    first, mine = trials(wine, f"cross_entropy,{MINE}:scaled", model=model)
    record = numbers(run_trial(first, wine))
    assert record == numbers(run_trial(first, wine))
    theirs = numbers(run_trial(mine, wine))
    losses = [[one["train_loss"] for one in found["epochs"][1:]] for found in (record, theirs)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert theirs["last"]["test"]["accuracy"] == record["last"]["test"]["accuracy"]


@pytest.mark.parametrize("model", TREES)
def test_the_best_round_is_that_of_a_shorter_study(wine: Dataset, model: str) -> None:
    """Its scores, and what probes find in it, are those of the forest that ends there."""
    (trial,) = trials(wine, model=model, epochs=60, noise="symmetric:0.5", probes="margins,cost")
    record = run_trial(trial, wine)
    best = record["best"]["epoch"]
    assert 0 < best < 60
    (short,) = trials(wine, model=model, epochs=best, noise="symmetric:0.5", probes="margins,cost")
    ended = run_trial(short, wine)
    assert record["best"]["test"] == ended["last"]["test"]
    assert record["best"]["probes"]["margins"] == ended["last"]["probes"]["margins"]
    assert record["last"]["probes"]["margins"] != ended["last"]["probes"]["margins"]


@pytest.mark.parametrize("model", TREES)
def test_followed_rows_have_the_scores_of_the_whole_forest(wine: Dataset, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, round by round and at the best one, also where rounds find nothing to split; and no tree is asked twice."""
    (trial,) = trials(wine, model=model, epochs=80, noise="symmetric:0.3", probes="margins", learning_rates=0.5)
    asked: list[int] = []
    scores = Trees._scores

    def counted(self: Trees, rows: np.ndarray, first: int, end: int) -> np.ndarray:
        asked.append((end - first) * len(rows))
        return scores(self, rows, first, end)

    monkeypatch.setattr(Trees, "_scores", counted)
    record, split = run_trial(trial, wine), split_of(trial, wine)
    followed = sum(asked)
    # every tree once for each row, and again for the probes of the best and the last round, which look back
    assert followed <= (80 + 2 * 80) * len(wine.labels)
    monkeypatch.setattr(Trees, "follow", lambda self, x: None)
    asked.clear()
    assert numbers(record) == numbers(run_trial(trial, wine))
    assert sum(asked) > 80**2 / 2 * len(split.y_train)


def test_followed_rows_are_not_mistaken_for_others(wine: Dataset) -> None:
    """A view of other rows, or a copy of the same, is asked anew; what was followed can be asked for an earlier round again."""
    (trial,) = trials(wine)
    split = split_of(trial, wine)
    objective = boosting_objective(trial.objective, split.class_counts, 3)
    trees = Trees("xgboost", 3)
    grow = _grower(trees, split.x_train, split.y_train, RATE, 1.0, objective)
    trees.follow(split.x_test)
    by_round = []
    for _ in range(4):
        grow()
        trees.rounds += 1
        by_round.append(trees(split.x_test))
        assert torch.equal(by_round[-1], trees(split.x_test.clone()))
        assert torch.equal(by_round[-1][::2], trees(split.x_test[::2]))
    assert not torch.equal(by_round[0], by_round[1])
    trees.rounds -= 2
    assert torch.equal(trees(split.x_test), by_round[1])
    trees.rounds += 2
    assert torch.equal(trees(split.x_test), by_round[3])


@pytest.mark.parametrize("name", ["wine", "breast_cancer"])
def test_both_libraries_are_held_to_the_same(name: str) -> None:
    """With ten rows a leaf at least, LightGBM fitted training rows half as well (0.0108 against 0.0075 on wine, 0.0059 against 0.0037)."""
    data = load_data(name)
    losses = [run_trial(*trials(data, model=model, epochs=15), data)["epochs"][-1]["train_loss"] for model in TREES]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


def test_two_classes_and_class_counts() -> None:
    cancer = load_data("breast_cancer")
    plain, adjusted = trials(cancer, "cross_entropy,logit_adjusted", imbalance=0.1, metric="accuracy")
    assert run_trial(plain, cancer)["last"]["test"]["accuracy"] > 0.7
    counts = split_of(adjusted, cancer).class_counts
    z = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).numpy()
    gradient, _ = boosting_objective(adjusted.objective, counts, 2).derivatives(z, np.array([0, 1, 1, 0]))
    shifted = z + np.log(counts.numpy() / counts.numpy().sum())  # logit adjustment at tau = 1
    assert gradient == pytest.approx(np.exp(log_softmax(shifted, axis=1)) - np.eye(2)[[0, 1, 1, 0]])


def test_a_piecewise_linear_objective_follows_its_gradient(user: ModuleType) -> None:
    user.hinge = lambda z, y: (1 + z - z.gather(1, y[:, None])).relu().sum(1).mean() - 1
    made = boosting_objective(ObjectiveSpec(f"{MINE}:hinge"), torch.tensor([5, 5, 5]), 3)
    gradient, curvature = made.derivatives(np.zeros((1, 3)), np.array([0]))
    assert gradient.tolist() == [[-2, 1, 1]]
    assert curvature.tolist() == [[1, 1, 1]]


def test_what_trees_cannot_follow_is_one_line(user: ModuleType, wine: Dataset) -> None:
    def coupled(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (z - z.mean(0)).square().mean()

    user.coupled = coupled
    for objectives, changes, message in (
        ("AdaptiveLDR", {}, "learns or remembers"),
        ("cross_entropy:reduction=sum", {}, "reduction belongs to the library"),
        (f"{MINE}:coupled", {}, "is not the mean of its rows' losses"),
        ("cross_entropy", {"probes": "fgsm:0.1"}, "probe fgsm:0.1 needs gradients"),
        ("cross_entropy", {"probes": "collapse"}, "probe collapse needs gradients or a last layer"),
    ):
        (trial,) = trials(wine, objectives, **changes)
        with pytest.raises(StudyError, match=message) as caught:
            rehearse(trial, wine)
        assert "\n" not in str(caught.value)


def test_a_missing_library_is_one_line(wine: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(StudyError, match=r'model lightgbm needs lightgbm: pip install "lossmith\[boosting\]"'):
        trials(wine, model="lightgbm")


def test_trees_have_learning_rates_of_their_own() -> None:
    assert StudySpec(data="wine", objectives="ce", model="xgboost", tuner="grid").learning_rates == RATES
    searched = StudySpec(data="wine", objectives="ce", model="xgboost")
    assert searched.learning_rate_range == (RATES[0], RATES[-1])
    rates = [trial.learning_rate for trial in searched.trials("f")]
    assert RATES[0] <= min(rates) < 0.1 < max(rates) <= RATES[-1]
    assert StudySpec(data="wine", objectives="ce", model="xgboost", learning_rates=[0.7]).learning_rates == (0.7,)
    spec = StudySpec(data="wine", objectives="ce", model="lightgbm")
    assert StudySpec.from_dict(spec.as_dict()) == spec


def test_trees_have_no_batches() -> None:
    with pytest.raises(StudyError, match="--batch-size is for networks; lightgbm takes every row in every round"):
        StudySpec(data="wine", objectives="ce", model="lightgbm", batch_size=32)


def test_the_report_tells_of_rounds() -> None:
    found = study.compare(
        "wine", ["cross_entropy", "gce"], model="xgboost", seeds=3, epochs=3, learning_rates=[0.3], references=False, jobs=1
    )
    text = paragraph(found.summary)
    assert "The model was boosted trees of XGBoost" in text
    assert "grown for 3 rounds" in text
    assert "AdamW" not in text
    assert "initial weights" not in text
    assert script(found.summary) is None
