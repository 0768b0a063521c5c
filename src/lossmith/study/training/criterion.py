"""From an objective to a callable that trains: giving it what it needs, and calling it, on one batch or on those of several trials."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lossmith._ranges import Range
from lossmith.study.errors import StudyError, one_line
from lossmith.study.references import is_reference
from lossmith.study.training.objectives import Facts, ObjectiveSpec, facts

ROW_FORMS = ("log_prob", "log_probs", "logits")
"""Forms of objective in which every row of a batch has a loss of its own."""


def numbers_of(objective: ObjectiveSpec, known: Facts) -> dict[str, float]:
    """Those of the hyper-parameters given that may be tensors: real numbers, of an objective that is known to take them so."""
    ranges: Mapping[str, Any] = {} if known.card is None or is_reference(objective.name) else known.card.ranges
    return {name: value for name, value in objective.hyper if type(value) is float and _real(ranges.get(name))}


def _real(allowed: object) -> bool:
    return isinstance(allowed, Range) and not allowed.whole and not allowed.plain


class Criterion:
    """An objective bound to its hyper-parameters and to one training set.

    Real-valued hyper-parameters of an objective `by_rows` are handed to it as 0-d tensors. Several trials can then be evaluated in one
    call whatever theirs are, and one trial alone gives the same bits.

    Args:
        objective: which one.
        class_counts: `(c,)` training rows of each class, as labelled.
        n_train: number of training rows, for objectives that keep a state for each.
    """

    def __init__(self, objective: ObjectiveSpec, class_counts: Tensor, n_train: int) -> None:
        known = facts(objective.name)
        self.label = objective.label
        self.function: Callable[..., Any] = known.function
        self.mean = dict(objective.hyper).get("reduction", "mean") == "mean"
        self._indexed = "sample_index" in known.needs
        has_state = inspect.isclass(known.function)
        self.by_rows = known.form in ROW_FORMS and not has_state and not self._indexed and not is_reference(objective.name)
        """Whether it is known to be the mean or sum of losses of single rows; nobody has said so of a user's function."""
        self.counts = "class_counts" in known.needs
        """Whether it differs between training sets."""
        numbers = numbers_of(objective, known) if self.by_rows else {}
        self.numbers = {name: torch.tensor(value) for name, value in numbers.items()}
        self.fixed: dict[str, Any] = {name: value for name, value in objective.hyper if name not in numbers}
        self.kind = objective.name, tuple(self.numbers), tuple(self.fixed.items())
        """What trials have in common that can be evaluated in one call."""
        if self.counts:
            self.fixed["class_counts"] = class_counts.to(torch.get_default_dtype())
        try:
            if numbers and known.card is not None:
                known.card.check(numbers)  # of a tensor, an objective itself does not ask where it lies
            if has_state:
                size = {"num_samples": n_train} if "num_samples" in inspect.signature(known.function).parameters else {}
                self.function, self.fixed = known.function(**size, **self.fixed), {}
        except (ValueError, TypeError) as error:
            raise StudyError(f"objective {self.label}: {one_line(error)}") from error

    def __call__(self, logits: Tensor, target: Tensor, index: Tensor) -> Tensor:
        """The loss of a batch; `index` numbers its rows within the training set."""
        if self._indexed:
            return self.function(logits, target, index=index, **self.fixed)
        return self.function(logits, target, **self.fixed, **self.numbers)

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """What the objective itself learns, if it does."""
        return self.function.parameters() if isinstance(self.function, torch.nn.Module) else iter(())


class Together:
    """Criteria of one kind, `by_rows`, in one call: each on a batch of its own, with its own numbers."""

    def __init__(self, criteria: Sequence[Criterion]) -> None:
        first = criteria[0]
        self._function, self._mean = first.function, first.mean
        self._fixed = {**first.fixed, "reduction": "none"}
        self._numbers = {name: torch.stack([criterion.numbers[name] for criterion in criteria]) for name in first.numbers}

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """The losses `(k,)` of k batches: logits `(k, n, c)`, target `(k, n)`."""
        if self._numbers:
            rows = torch.vmap(self._rows)(logits, target, self._numbers)
        else:
            rows = self._rows(logits.flatten(0, 1), target.flatten(), {}).view(target.shape)
        sums = rows.sum(1)
        return sums / target.shape[1] if self._mean else sums

    def _rows(self, logits: Tensor, target: Tensor, numbers: Mapping[str, Tensor]) -> Tensor:
        return self._function(logits, target, **self._fixed, **numbers)
