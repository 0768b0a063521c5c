"""From an objective to a callable that trains: giving it what it needs, and calling it."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from lossmith.study.errors import StudyError, one_line
from lossmith.study.objectives import ObjectiveSpec, facts


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
        self._indexed = "sample_index" in known.needs
        if "class_counts" in known.needs:
            self._keywords["class_counts"] = class_counts.to(torch.get_default_dtype())
        has_state = inspect.isclass(known.function)
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

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """What the objective itself learns, if it does."""
        return self._function.parameters() if isinstance(self._function, torch.nn.Module) else iter(())
