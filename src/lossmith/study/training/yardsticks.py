"""References outside the comparison: what two classifiers of scikit-learn reach on the rows of a table that the objectives meet.

An objective that wins among objectives may still be a poor answer on a table. Logistic regression and gradient boosting train on the same
rows, labels and prepared features, choose their one hyper-parameter by the same validation rows and metric, and are scored on the same test
rows. Where classes are rare they are also tried with class weights and, for two classes, with a threshold chosen on validation: remedies
that cost nothing and that a new objective should beat.
"""

import hashlib
import json
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossmith.study.data.corruption import Noise
from lossmith.study.data.dataset import Dataset
from lossmith.study.data.splits import DRAWN, Split, make_split
from lossmith.study.spec import StudySpec
from lossmith.study.training.metrics import METRICS, evaluate
from lossmith.study.training.objectives import ObjectiveSpec

Kind = Literal["logistic_regression", "gradient_boosting"]

VERSION = 1
"""Of this protocol; a change of anything that moves the numbers raises it."""

GRIDS: dict[Kind, tuple[float, ...]] = {
    "logistic_regression": (0.001, 0.01, 0.1, 1.0, 10.0, 100.0),
    "gradient_boosting": (0.03, 0.1, 0.3),
}
"""What is chosen on validation: the inverse of the penalty, and the learning rate."""

ITERATIONS = 100
"""Trees a class that boosting adds."""

RARE = 1 / 3
"""Where the smallest class is smaller than this fraction of the largest, the remedies for rare classes are tried."""

FLOOR = 1e-15
"""Least probability, so that its logarithm is finite."""

THRESHOLDS = 200
"""How many thresholds are tried at most."""

THRESHOLD = ", threshold by validation"
"""What is added to a reference's name."""


@dataclass(frozen=True, kw_only=True)
class Yardstick:
    """One fit of a reference, completely: what is not in here does not change its numbers. The fields are those of a `TrialSpec`.

    Attributes:
        kind: which classifier.
        weighted: whether rows are weighted so that every class counts the same.
        threshold: whether a threshold between two classes is also chosen on validation.
    """

    kind: Kind
    weighted: bool
    threshold: bool
    data: str
    noise: Noise | None
    imbalance: float | None
    validation: float
    test: float
    metric: str
    seed: int
    folds: int | None
    fold: int | None
    clean_validation: bool
    labels: int | None = None
    learning_rate: float = 0.0  # a column of the store

    @property
    def objective(self) -> ObjectiveSpec:
        """The name under which it is stored."""
        return ObjectiveSpec(f"reference {self.kind}", (("class_weights", True),) if self.weighted else ())

    def as_dict(self) -> dict[str, Any]:
        """A JSON-able form, the one that is hashed."""
        noise = None if self.noise is None else str(self.noise)
        asked = {name: value for name, value in self.__dict__.items() if name != "labels" or value is not None}  # keys outlive new options
        return {**asked, "noise": noise, "reference": VERSION, "grid": list(GRIDS[self.kind]), "iterations": ITERATIONS}

    @property
    def key(self) -> str:
        """SHA-256 of the canonical JSON."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def yardsticks(spec: StudySpec, dataset: Dataset) -> list[Yardstick]:
    """The fits that a study asks for, split by split; none where the data are no table of numbers and words or the study wants none."""
    tabular = bool(dataset.columns) and not dataset.is_text
    if not (spec.references and tabular) or spec.holdout != "plain":  # they are scored by the test rows themselves
        return []
    rare = has_rare_classes(spec, dataset)
    threshold = rare and dataset.n_classes == 2 and METRICS[spec.metric].needs == "labels"
    return [
        Yardstick(
            kind=kind, weighted=weighted, threshold=threshold, data=dataset.fingerprint, noise=spec.noise, imbalance=spec.imbalance,
            validation=spec.validation, test=spec.test, metric=spec.metric, seed=seed, folds=spec.folds, fold=fold,
            clean_validation=spec.clean_validation, labels=spec.labels,
        )
        for seed, fold in spec.draws.values()
        for kind in GRIDS
        for weighted in ((False, True) if rare else (False,))
    ]  # fmt: skip


def has_rare_classes(spec: StudySpec, dataset: Dataset) -> bool:
    """Whether the smallest class, as trained on, is much smaller than the largest."""
    counts = np.bincount(dataset.labels, minlength=dataset.n_classes)
    return bool(min(counts.min() / counts.max(), spec.imbalance or 1.0) < RARE)


def measure(yardstick: Yardstick, dataset: Dataset) -> dict[str, Any]:
    """Fit a reference and score it.

    Returns:
        A JSON-able record: ``plain``, and ``threshold`` where one was chosen, each with the metrics on the test rows; ``chosen`` is the
        hyper-parameter. With ``status`` "failed", when the training rows have one class only, there are no metrics.
    """
    started = time.perf_counter()
    split = make_split(dataset, yardstick.seed, **{name: getattr(yardstick, name) for name in DRAWN})
    if len(np.unique(split.y_train)) < 2:
        return {"status": "failed", "seconds": time.perf_counter() - started}
    metric = yardstick.metric
    fitted = {value: _log_probabilities(yardstick, value, split, dataset.n_classes) for value in GRIDS[yardstick.kind]}
    chosen = max(fitted, key=lambda value: _goodness(metric, fitted[value][0], split.y_validation))
    validation, test = fitted[chosen]
    found: dict[str, Any] = {"plain": evaluate(test, split.y_test)}
    if yardstick.threshold:
        shift = torch.tensor([0.0, _best_shift(metric, validation, split.y_validation)], dtype=torch.float64)
        found["threshold"] = evaluate(test + shift, split.y_test)
    return {"status": "ok", "chosen": chosen, **found, "seconds": time.perf_counter() - started}


def _log_probabilities(yardstick: Yardstick, value: float, split: Split, n_classes: int) -> tuple[Tensor, Tensor]:
    """The logarithms of the probabilities of validation and test rows, by the reference with this hyper-parameter."""
    from sklearn.exceptions import ConvergenceWarning

    model = _classifier(yardstick, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a penalty too weak for separable classes: validation judges the result
        model.fit(_flat(split.x_train), split.y_train.numpy())
    made = []
    for x in (split.x_validation, split.x_test):
        p = np.zeros((len(x), n_classes))
        p[:, model.classes_] = model.predict_proba(_flat(x))
        made.append(torch.from_numpy(np.log(np.maximum(p, FLOOR))))
    return made[0], made[1]


def _classifier(yardstick: Yardstick, value: float) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression

    weight = "balanced" if yardstick.weighted else None
    if yardstick.kind == "logistic_regression":
        return LogisticRegression(C=value, class_weight=weight, max_iter=1000)
    return HistGradientBoostingClassifier(
        learning_rate=value, class_weight=weight, max_iter=ITERATIONS, early_stopping=False, random_state=yardstick.seed % 2**32
    )


def _flat(x: Tensor) -> NDArray[np.float64]:
    return x.flatten(1).numpy().astype(np.float64)


def _goodness(metric: str, logits: Tensor, target: Tensor) -> float:
    """The metric turned so that more is better; a metric that is not defined is the worst there is."""
    value = evaluate(logits, target, names=[metric])[metric]
    return -math.inf if math.isnan(value) else value if METRICS[metric].higher_is_better else -value


def _best_shift(metric: str, logits: Tensor, target: Tensor) -> float:
    """What to add to the second of two logits so that validation rows are classified best; of equals, the smallest."""
    gaps = np.unique((logits[:, 0] - logits[:, 1]).numpy())
    between = (gaps[1:] + gaps[:-1]) / 2
    if len(between) > THRESHOLDS:
        between = np.quantile(between, np.linspace(0, 1, THRESHOLDS))
    shifts: Sequence[float] = [0.0, *between.tolist()]
    added = torch.zeros(2, dtype=torch.float64)

    def rank(shift: float) -> tuple[float, float]:
        added[1] = shift
        return _goodness(metric, logits + added, target), -abs(shift)

    return max(shifts, key=rank)


@dataclass(frozen=True)
class Reference:
    """What a reference achieved.

    Attributes:
        name: in words.
        values: by metric, on the test rows of every split; NaN where there is none.
    """

    name: str
    values: Mapping[str, tuple[float, ...]]


def names(spec: StudySpec, dataset: Dataset) -> list[str]:
    """The names of the references that a study fits on every split, in order."""
    asked = yardsticks(spec, dataset)
    return [_name(one) for one in asked[: len(asked) // len(spec.draws)]]


def announced(spec: StudySpec, dataset: Dataset) -> list[str]:
    """The names of all references that a study will report."""
    endings = ["", THRESHOLD] if any(one.threshold for one in yardsticks(spec, dataset)) else [""]
    return [name + ending for name in names(spec, dataset) for ending in endings]


def references(names: Sequence[str], records: Sequence[Mapping[str, Any]]) -> tuple[Reference, ...]:
    """What the records of all splits, each with those of `names` in order, say of every reference and of every threshold."""
    found = []
    for i, name in enumerate(names):
        over = records[i :: len(names)]
        for treatment, ending in (("plain", ""), ("threshold", THRESHOLD)):
            if any(treatment in record for record in over):
                metrics = [record.get(treatment, {}) for record in over]
                found.append(Reference(name + ending, {metric: tuple(_number(row.get(metric)) for row in metrics) for metric in METRICS}))
    return tuple(found)


def _name(yardstick: Yardstick) -> str:
    return yardstick.kind.replace("_", " ") + (", class weights" if yardstick.weighted else "")


def _number(value: float | None) -> float:
    return math.nan if value is None else value
