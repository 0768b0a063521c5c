"""From an objective to a callable that trains: giving it what it needs, and calling it, on one batch or on those of several trials."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from lossmith.study.errors import StudyError, one_line
from lossmith.study.references import is_reference
from lossmith.study.training.objectives import ObjectiveSpec, facts

ROW_FORMS = ("log_prob", "log_probs", "logits")
"""Forms of objective in which every row of a batch has a loss of its own."""


class Criterion:
    """An objective bound to its hyper-parameters and to one training set.

    Args:
        objective: which one.
        class_counts: `(c,)` training rows of each class, as labelled.
        n_train: number of training rows, for objectives that keep a state for each.
    """

    def __init__(self, objective: ObjectiveSpec, class_counts: Tensor, n_train: int) -> None:
        known = facts(objective.name)
        self.label = objective.label
        self._function: Callable[..., Any] = known.function
        self._keywords: dict[str, Any] = dict(objective.hyper)
        self._mean = self._keywords.get("reduction", "mean") == "mean"
        self._indexed = "sample_index" in known.needs
        has_state = inspect.isclass(known.function)
        self.by_rows = known.form in ROW_FORMS and not has_state and not self._indexed and not is_reference(objective.name)
        """Whether it is known to be the mean or sum of losses of single rows; nobody has said so of a user's function."""
        self.counts = "class_counts" in known.needs
        """Whether it differs between training sets."""
        if self.counts:
            self._keywords["class_counts"] = class_counts.to(torch.get_default_dtype())
        if has_state:
            size = {"num_samples": n_train} if "num_samples" in inspect.signature(known.function).parameters else {}
            try:
                self._function = known.function(**size, **self._keywords)
            except (ValueError, TypeError) as error:
                raise StudyError(f"objective {self.label}: {one_line(error)}") from error
            self._keywords = {}

    def __call__(self, logits: Tensor, target: Tensor, index: Tensor) -> Tensor:
        """The loss of a batch; `index` numbers its rows within the training set."""
        if self._indexed:
            return self._function(logits, target, index=index, **self._keywords)
        return self._function(logits, target, **self._keywords)

    def of_batches(self, logits: Tensor, target: Tensor) -> Tensor:
        """The losses `(k,)` of k batches in one call, for an objective `by_rows`: logits `(k, n, c)`, target `(k, n)`."""
        rows = self._function(logits.flatten(0, 1), target.flatten(), **{**self._keywords, "reduction": "none"})
        sums = rows.view(target.shape).sum(1)
        return sums / target.shape[1] if self._mean else sums

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """What the objective itself learns, if it does."""
        return self._function.parameters() if isinstance(self._function, torch.nn.Module) else iter(())
