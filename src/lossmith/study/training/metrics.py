"""What a trial is measured by: ten named metrics of logits against labels.

Three kinds, by what they need of the predictor:

* ``labels``: only which class comes first (accuracy and its kin).
* ``scores``: how well rows are ordered, class by class (AUROC, average precision). The order is that of the softmax
  probabilities at temperature 1, compared as log-odds, so that no ties arise where the softmax saturates.
* ``probabilities``: the numbers themselves (log loss, Brier, ECE; AURC, whose ranking compares probabilities of
  different rows). An objective whose minimiser is not the class probability makes no promise about them, so they are
  taken raw only where the objective's card says that it predicts probabilities, and otherwise after temperature
  scaling on the validation rows. :meth:`Metric.label` says which.

Definitions where usage varies. Brier is the squared distance of the whole row of probabilities from the label's unit
vector, from 0 to 2. ECE uses the top label and 15 bins of equal width. F1, AUROC and average precision are means over
classes with equal weight. A class without a test row is left out of balanced accuracy, worst-class accuracy, AUROC and
average precision; in F1 it is left out unless it was predicted, and then counts as 0. AUROC also leaves out a class
that every test row belongs to; with no class left it is NaN.

Logits that are not all finite belong to a diverged model, and every metric of them is NaN.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lossmith.calibration import area_under_risk_coverage, expected_calibration_error

Needs = Literal["labels", "scores", "probabilities"]


class Labels:
    """Labels that logits are held against, many times perhaps: checked once, and counted once.

    Args:
        target: class indices ``(n,)``.
        classes: how many there are.
    """

    def __init__(self, target: Int[Tensor, " n"], classes: int) -> None:
        self.target, self.classes = target.detach().long().cpu(), classes
        if not bool(((self.target >= 0) & (self.target < classes)).all()):
            raise ValueError(f"target: a class index outside 0 to {classes - 1}")

    @cached_property
    def support(self) -> Float[Tensor, " c"]:
        return torch.bincount(self.target, minlength=self.classes).double()


class _Predictions:
    """Logits and labels, with what several metrics share computed once and only when asked for."""

    def __init__(self, logits: Float[Tensor, "n c"], labels: Labels, temperature: float) -> None:
        self.logits = logits
        self.labels = labels
        self.target = labels.target
        self.temperature = temperature
        self.classes = logits.shape[1]

    @cached_property
    def predicted(self) -> Int[Tensor, " n"]:
        return self.logits.argmax(1)

    @cached_property
    def hits(self) -> Float[Tensor, " n"]:
        return (self.predicted == self.target).double()

    @property
    def support(self) -> Float[Tensor, " c"]:
        return self.labels.support

    @cached_property
    def true_positives(self) -> Float[Tensor, " c"]:
        return torch.bincount(self.target, weights=self.hits, minlength=self.classes)

    @cached_property
    def recalls(self) -> Float[Tensor, " present"]:
        """The share of right answers in each class that has rows."""
        present = self.support > 0
        return self.true_positives[present] / self.support[present]

    @cached_property
    def log_probabilities(self) -> Float[Tensor, "n c"]:
        """Tempered."""
        return torch.log_softmax(self.logits / self.temperature, 1)

    @cached_property
    def probabilities(self) -> Float[Tensor, "n c"]:
        """Tempered."""
        return self.log_probabilities.exp()

    @cached_property
    def log_odds(self) -> np.ndarray:
        """Log-odds of each class against the rest, not tempered: the order of the probabilities without its ties."""
        return _log_odds(self.logits).numpy()


def all_finite(x: Tensor) -> bool:
    """Whether no entry is infinite or NaN. A finite sum says so at a fifth of the price; one that is not may have overflowed."""
    return math.isfinite(x.sum().item()) or bool(x.isfinite().all())


def _log_odds(logits: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
    """log p - log(1 - p) of softmax probabilities, without cancellation where p is nearly 1.

    Only the largest entry of a row can have p above 1/2, so it alone needs 1 - p summed from the other entries.
    """
    log_p = torch.log_softmax(logits, 1)
    top = logits.argmax(1, keepdim=True)
    rest_of_top = logits.scatter(1, top, -math.inf).logsumexp(1, keepdim=True)
    # The top entry's own 1 - p may be 0 here; it is overwritten.
    odds = log_p - torch.log1p(-log_p.exp())
    return odds.scatter(1, top, logits.gather(1, top) - rest_of_top)


def _f1(p: _Predictions) -> float:
    appearances = p.support + torch.bincount(p.predicted, minlength=p.classes)
    seen = appearances > 0
    return (2 * p.true_positives[seen] / appearances[seen]).mean().item()


def _auroc(p: _Predictions) -> float:
    """By the rank-sum identity, all classes at once: a hundredth of the cost of a curve for each class."""
    from scipy.stats import rankdata

    judged = (p.support > 0) & (p.support < len(p.target))
    if not bool(judged.any()):
        return math.nan
    ranks = torch.from_numpy(rankdata(p.log_odds, axis=0))
    positives = p.support
    rank_sum = torch.zeros(p.classes, dtype=torch.float64)
    rank_sum.index_add_(0, p.target, ranks.gather(1, p.target[:, None]).squeeze(1))
    pairs = positives * (len(p.target) - positives)
    return ((rank_sum - positives * (positives + 1) / 2)[judged] / pairs[judged]).mean().item()


def _average_precision(p: _Predictions) -> float:
    target = p.target.numpy()
    values = [_area_under_precision(target == k, p.log_odds[:, k]) for k in range(p.classes) if p.support[k] > 0]
    return float(np.mean(values))


def _area_under_precision(positive: np.ndarray, score: np.ndarray) -> float:
    """scikit-learn's `average_precision_score` to the bit, without the checks of its arguments, which take fifty times as long."""
    order = np.argsort(score, kind="stable")[::-1]
    score = score[order]
    last = np.append(np.flatnonzero(score[1:] != score[:-1]), len(score) - 1)  # of every group of equal scores
    hits = np.cumsum(positive[order], dtype=np.float64)[last]
    precision, recall = hits / (1 + last), hits / hits[-1]
    return max(0.0, float(-np.sum(np.diff(np.append(recall[::-1], 0.0)) * precision[::-1])))


def _log_loss(p: _Predictions) -> float:
    return -p.log_probabilities.gather(1, p.target[:, None]).mean().item()


def _brier(p: _Predictions) -> float:
    at_target = p.probabilities.gather(1, p.target[:, None]).squeeze(1)
    return (p.probabilities.square().sum(1) - 2 * at_target + 1).mean().item()


def _ece(p: _Predictions) -> float:
    return expected_calibration_error(p.probabilities.amax(1), p.hits).item()


def _aurc(p: _Predictions) -> float:
    odds = torch.from_numpy(p.log_odds) if p.temperature == 1 else _log_odds(p.logits / p.temperature)
    return area_under_risk_coverage(odds.amax(1), p.hits).item()


@dataclass(frozen=True)
class Metric:
    """A named metric.

    Attributes:
        name: how it is asked for.
        title: how a report heads its column.
        higher_is_better: its direction.
        needs: what it takes of the predictor: ``labels``, ``scores`` or ``probabilities``.
        description: what it is, in one line.
    """

    name: str
    title: str
    higher_is_better: bool
    needs: Needs
    description: str
    _compute: Callable[[_Predictions], float]

    def label(self, predicts: Literal["probabilities", "scores"]) -> str:
        """The title as it must appear for an objective that predicts this: with a note where scaling came first."""
        return f"{self.title} ({SCALED})" if self.is_scaled(predicts) else self.title

    def is_scaled(self, predicts: Literal["probabilities", "scores"]) -> bool:
        """Whether it is taken after temperature scaling for an objective that predicts this."""
        return self.needs == "probabilities" and predicts != "probabilities"


SCALED = "after temperature scaling on validation"

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "accuracy", True, "labels", "share of rows whose top class is right",
               lambda p: p.hits.mean().item()),
        Metric("balanced_accuracy", "balanced accuracy", True, "labels", "accuracy within each class, averaged",
               lambda p: p.recalls.mean().item()),
        Metric("worst_class_accuracy", "worst-class accuracy", True, "labels", "accuracy within the worst class",
               lambda p: p.recalls.min().item()),
        Metric("f1", "macro F1", True, "labels", "harmonic mean of precision and recall, averaged over classes", _f1),
        Metric("auroc", "AUROC", True, "scores",
               "chance that a row of a class outranks a row of another, averaged over classes", _auroc),
        Metric("average_precision", "average precision", True, "scores",
               "precision averaged over recall, averaged over classes", _average_precision),
        Metric("log_loss", "log loss", False, "probabilities", "mean negative log-probability of the label", _log_loss),
        Metric("brier", "Brier score", False, "probabilities",
               "squared distance of the probabilities from the label, from 0 to 2", _brier),
        Metric("ece", "ECE", False, "probabilities", "gap between confidence and accuracy, in 15 bins", _ece),
        Metric("aurc", "AURC", False, "probabilities",
               "error rate among the most confident rows, averaged over how many are kept", _aurc),
    )
}  # fmt: skip


def evaluate(
    logits: Float[Tensor, "n c"],
    target: Int[Tensor, " n"] | Labels,
    *,
    names: Iterable[str] | None = None,
    temperature: float = 1.0,
) -> dict[str, float]:
    """The named metrics of logits against labels.

    Args:
        logits: ``(n, c)``, c at least 2. Where any entry is infinite or NaN, every metric is NaN.
        target: class indices ``(n,)``, or `Labels` made of them, which spares logits that follow others the checks.
        names: which metrics, keys of :data:`METRICS`; all when None.
        temperature: what the logits are divided by before the metrics that need probabilities. 1 for an objective
            that predicts probabilities; else fitted on validation rows (``lossmith.calibration.fit_temperature``).

    Returns:
        The values by name, in the order asked for.

    Example:
        >>> import torch
        >>> from lossmith.study.training.metrics import evaluate
        >>> logits = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0], [0.5, 0.0]])
        >>> values = evaluate(logits, torch.tensor([0, 0, 1, 1]), names=["accuracy", "auroc", "log_loss"])
        >>> {name: round(value, 3) for name, value in values.items()}
        {'accuracy': 0.75, 'auroc': 1.0, 'log_loss': 0.366}
    """
    chosen = list(METRICS) if names is None else list(names)
    for name in chosen:
        if name not in METRICS:
            raise ValueError(f"names: no metric {name!r}; there are {', '.join(METRICS)}")
    if logits.ndim != 2 or logits.shape[0] == 0 or logits.shape[1] < 2:
        raise ValueError(f"logits: shape {tuple(logits.shape)}; wanted (n, c) with n >= 1 and c >= 2")
    shape = (target.target if isinstance(target, Labels) else target).shape
    if shape != logits.shape[:1]:
        raise ValueError(f"target: shape {tuple(shape)}; wanted ({len(logits)},), a class index a row")
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature: {temperature}; wanted a positive number")
    logits = logits.detach().double().cpu()
    labels = target if isinstance(target, Labels) else Labels(target, logits.shape[1])
    if labels.classes != logits.shape[1]:
        raise ValueError(f"target: labels of {labels.classes} classes; the logits are of {logits.shape[1]}")
    if not all_finite(logits):
        return dict.fromkeys(chosen, math.nan)
    predictions = _Predictions(logits, labels, temperature)
    return {name: METRICS[name]._compute(predictions) for name in chosen}
