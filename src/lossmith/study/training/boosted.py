"""Boosted trees as a model of a study: every round is an epoch, the learning rate is the shrinkage, and each objective gives the trees its
gradient and curvature (`lossmith.integrations.as_objective`).

Everything else is a study's own: splits, noise, records of every epoch, the choice of the round on validation rows. Both libraries grow
trees of depth 6 with leaves of a least sum of curvatures, however few their rows, from scores of 0, by one thread, with nothing drawn: the
seed moves the split alone. The penalty of the leaves is the trial's weight decay over its default 0.01, so that by default it is 1,
XGBoost's own.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lossmith.integrations.boosting import BoostingObjective, as_objective
from lossmith.study.errors import StudyError, one_line
from lossmith.study.references import is_reference
from lossmith.study.training.criterion import Criterion
from lossmith.study.training.objectives import ObjectiveSpec, facts
from lossmith.study.training.run import ROWS_AT_ONCE, Run
from lossmith.study.training.trees import Trees, flat, library_of

DEPTH = 6
LEAST_CURVATURE = 1e-3
LEAST_ROWS = 1
"""Rows a leaf, for LightGBM. XGBoost knows sums of curvatures only, and so both are held to these alone."""

USUAL_DECAY = 0.01
"""The weight decay at which the penalty of the leaves is 1."""


class BoostedRun(Run):
    """Trees in training, and what is remembered of their rounds."""

    def train(self) -> None:
        """All rounds, or as many as stay finite."""
        try:
            assert isinstance(self.model, Trees)
            objective = boosting_objective(self.trial.objective, self.split.class_counts, self.n_classes)
            grow = _grower(self.model, self.split.x_train, self.split.y_train, self.trial.learning_rate, self._penalty(), objective)
            for rows in (self.split.x_validation, self.split.x_test):
                for piece in rows.split(ROWS_AT_ONCE):
                    self.model.follow(piece)
            self.model.follow(self.split.x_train)
            torch.set_rng_state(self.random_state())
            self.begin()
            every = torch.arange(len(self.split.y_train))
            for epoch in range(1, self.trial.epochs + 1):
                with torch.no_grad():
                    loss = self.criterion(self.model(self.split.x_train), self.split.y_train, every).item()
                grow()
                self.model.rounds += 1
                self.finish(epoch, loss)
                if self.status != "ok":
                    break
        except Exception as error:  # a user's objective may raise anything
            self.failure = error

    def _penalty(self) -> float:
        """That of the leaves. Only a trial that tunes its weight decay has one."""
        return self.trial.weight_decay / USUAL_DECAY


def boosting_objective(objective: ObjectiveSpec, class_counts: Tensor, n_classes: int) -> BoostingObjective:
    """What gives the trees an objective's derivatives; piecewise linear ones go by their gradient alone, every curvature being 1."""
    known = facts(objective.name)
    what = known.function if is_reference(objective.name) else objective.name
    given: dict[str, Any] = dict(objective.hyper)
    if "class_counts" in known.needs:
        given["class_counts"] = class_counts.double()
    if is_reference(objective.name) and not isinstance(what, type):
        given["form"] = "logits"
    z = torch.randn(2 * n_classes, n_classes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.arange(n_classes).repeat(2)
    try:
        steep = as_objective(what, curvature="one", **given)
        steep.derivatives(z.numpy(), y.numpy())
    except Exception as error:  # a user's objective may raise anything
        raise StudyError(f"objective {objective.label} cannot grow trees: {one_line(error).removeprefix('ValueError: ')}") from error
    curved = as_objective(what, **given)
    try:
        curved.derivatives(z.numpy(), y.numpy())
    except ValueError:  # all else was tried above: its curvature is 0 everywhere
        return steep
    return curved


def rehearse_trees(model: str, objective: ObjectiveSpec, class_counts: Tensor, n_classes: int, probes: Sequence[str]) -> None:
    """Refuse with a StudyError an objective that trees cannot follow, or a probe that trees have no answer to."""
    asked = [name for name in probes if name.partition(":")[0] in ("fgsm", "pgd", "collapse")]
    if asked:
        raise StudyError(f"probe {asked[0]} needs gradients or a last layer, which the trees of {model} have not: leave it out")
    derivatives = boosting_objective(objective, class_counts, n_classes)
    z = torch.randn(3 * n_classes, n_classes, generator=torch.Generator().manual_seed(1))
    y, index = torch.arange(n_classes).repeat(3), torch.arange(3 * n_classes)
    criterion = Criterion(objective, class_counts, len(y))
    whole, single = criterion(z, y, index), torch.stack([criterion(z[i : i + 1], y[i : i + 1], index[i : i + 1]) for i in range(len(y))])
    if not torch.allclose(whole, single.mean(), rtol=1e-4, atol=1e-6):
        raise StudyError(
            f"objective {derivatives.subject.name} of a batch is not the mean of its rows' losses, and trees are grown row by row: "
            "leave it out, or train a network"
        )


def _grower(trees: Trees, x: Tensor, y: Tensor, rate: float, penalty: float, objective: BoostingObjective) -> Callable[[], Any]:
    """A function that adds one round to the forest."""
    library, rows, labels = library_of(trees.library), flat(x), y.numpy()
    if trees.library == "xgboost":
        data = library.DMatrix(rows, label=labels, nthread=1)
        how = {
            "num_class": trees.n_classes, "base_score": 0.0, "disable_default_eval_metric": 1, "eta": rate, "max_depth": DEPTH,
            "min_child_weight": LEAST_CURVATURE, "lambda": penalty, "tree_method": "hist", "nthread": 1, "seed": 0, "verbosity": 0,
        }  # fmt: skip
        trees.booster = library.Booster(how, [data])
        return lambda: trees.booster.update(data, int(trees.rounds), fobj=objective)
    how = {
        "objective": "none", "num_class": trees.n_classes, "metric": "none", "learning_rate": rate, "max_depth": DEPTH,
        "num_leaves": 2**DEPTH, "min_sum_hessian_in_leaf": LEAST_CURVATURE, "min_data_in_leaf": LEAST_ROWS, "lambda_l2": penalty,
        "boost_from_average": False, "num_threads": 1, "deterministic": True, "force_row_wise": True, "seed": 0, "verbosity": -1,
    }  # fmt: skip
    trees.booster = library.Booster(how, library.Dataset(rows, label=labels, params=how))

    def grow() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that a round found no split worth making: the record shows it
            trees.booster.update(fobj=objective)

    return grow
