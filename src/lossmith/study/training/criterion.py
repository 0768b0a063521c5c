"""From an objective to a callable that trains: giving it what it needs, and calling it, on one batch or on those of several trials."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from typing import Any, cast

import torch
from torch import Tensor
from torch.func import functional_call

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

    Real-valued hyper-parameters of an objective that can be `shared` are handed to it as 0-d tensors. Several trials can then be
    evaluated in one call whatever theirs are, and one trial alone gives the same bits.

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
        self.indexed = "sample_index" in known.needs
        has_state = inspect.isclass(known.function)
        own_state = inspect.isclass(known.function) and issubclass(known.function, torch.nn.Module)
        of_rows = known.form in ROW_FORMS and not has_state and not self.indexed
        self.shared = not is_reference(objective.name) and (of_rows or own_state)
        """Whether the batches of several trials can be put to it in one call: it is known to be the mean or sum of losses of single rows,
        or a module. Nobody has said so of a user's function."""
        self.counts = "class_counts" in known.needs
        """Whether it differs between training sets."""
        numbers = numbers_of(objective, known) if self.shared else {}
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
                made: Any = known.function(**size, **self.fixed, **self.numbers)
                self.function = made
                self.fixed = {}
        except (ValueError, TypeError) as error:
            raise StudyError(f"objective {self.label}: {one_line(error)}") from error
        self._keywords = {} if has_state else {**self.fixed, **self.numbers}

    def __call__(self, logits: Tensor, target: Tensor, index: Tensor) -> Tensor:
        """The loss of a batch; `index` numbers its rows within the training set."""
        if self.indexed:
            return self.function(logits, target, index=index, **self._keywords)
        return self.function(logits, target, **self._keywords)

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """What the objective itself learns, if it does."""
        return self.function.parameters() if isinstance(self.function, torch.nn.Module) else iter(())


class Together:
    """Criteria of one kind that can be `shared`, in one call: each on a batch of its own, with its own numbers and its own state."""

    def __init__(self, criteria: Sequence[Criterion]) -> None:
        first = criteria[0]
        self._mean, self._indexed, self._fixed = first.mean, first.indexed, first.fixed
        self._numbers = {name: torch.stack([criterion.numbers[name] for criterion in criteria]) for name in first.numbers}
        self._function: Callable[..., Any] = first.function
        self._state: dict[str, Tensor] | None = None
        if isinstance(first.function, torch.nn.Module):
            modules = [cast(torch.nn.Module, criterion.function) for criterion in criteria]
            if any(getattr(first.function, name, None) is not number for name, number in first.numbers.items()):
                raise TypeError(f"objective {first.label} keeps its hyper-parameters elsewhere than in attributes of their names")
            self._function = copy(first.function)  # it is given the numbers of one and then of another
            self._state = {name: torch.stack([module.get_buffer(name) for module in modules]) for name, _ in first.function.named_buffers()}
            for name, states in self._state.items():  # what moves in the one call moves in each of them
                for module, state in zip(modules, states, strict=True):
                    setattr(module, name, state)

    def __call__(self, logits: Tensor, target: Tensor, index: Tensor) -> Tensor:
        """The losses `(k,)` of k batches: logits `(k, n, c)`, target and index `(k, n)`."""
        if self._state is not None:
            return torch.vmap(self._of_state)(logits, target, index, self._numbers, self._state)
        if self._numbers:
            rows = torch.vmap(self._of_rows)(logits, target, self._numbers)
        else:
            rows = self._of_rows(logits.flatten(0, 1), target.flatten(), {}).view(target.shape)
        sums = rows.sum(1)
        return sums / target.shape[1] if self._mean else sums

    def _of_rows(self, logits: Tensor, target: Tensor, numbers: Mapping[str, Tensor]) -> Tensor:
        return self._function(logits, target, **{**self._fixed, "reduction": "none"}, **numbers)

    def _of_state(self, logits: Tensor, target: Tensor, index: Tensor, numbers: Mapping[str, Tensor], state: dict[str, Tensor]) -> Tensor:
        module = cast(torch.nn.Module, self._function)
        for name, number in numbers.items():
            setattr(module, name, number)
        return functional_call(module, state, (logits, target), {"index": index} if self._indexed else {})
