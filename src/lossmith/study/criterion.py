"""From the name of an objective to a callable that trains: looking it up, giving it what it needs, and calling it.

An objective is one of the library's (or of a package that registered its own), or a function of the user's, written
``package.module:function`` and called ``function(logits, target, **hyper)``.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lossmith import card as cards
from lossmith._checks import nearest
from lossmith.study.errors import StudyError, one_line
from lossmith.study.references import is_reference, load_reference, source_hash

if TYPE_CHECKING:
    from lossmith.study.spec import Hyper, ObjectiveSpec

NOT_CLASSES = {"binary": "one logit a row", "multilabel": "several labels a row"}
"""Forms of objective that a study of one label among classes cannot use, and what they take instead."""

SERVED = ("class_counts", "sample_index")
"""What a study can supply to an objective that needs it."""


@dataclass(frozen=True)
class _Facts:
    """What a study must know of an objective."""

    function: Callable[..., Any]
    form: str
    needs: tuple[str, ...]
    predicts: str
    hyper: Mapping[str, Any] | None
    """Keyword-only parameters and their defaults; None when the function takes any."""


def _facts(name: str) -> _Facts:
    if is_reference(name):
        function = load_reference(name, "objective")
        if not callable(function):
            raise StudyError(f"objective {name!r} must be a function of (logits, target); got {type(function).__name__}")
        try:
            card = cards.get(function.__name__)
        except (KeyError, AttributeError):
            card = None
        if card is None or card.function is not function:
            return _Facts(function, "logits", (), "scores", _keywords(function))
    else:
        try:
            card = cards.get(name)
        except KeyError as error:
            raise StudyError(" ".join(str(error.args[0]).split())) from None
    if card.form in NOT_CLASSES:
        raise StudyError(f"objective {card.name} takes {NOT_CLASSES[card.form]}; a study compares objectives of class logits")
    missing = [need for need in card.needs if need not in SERVED]
    if missing:
        raise StudyError(f"objective {card.name} needs {', '.join(missing)}, which a study cannot supply")
    return _Facts(card.function, card.form, tuple(card.needs), str(card.predicts), card.hyper)


def _keywords(function: Callable[..., Any]) -> Mapping[str, Any] | None:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name: parameter.default for parameter in parameters[2:]}


def is_registered(name: str) -> bool:
    """Whether an objective of that name or alias is known."""
    try:
        cards.get(name)
    except KeyError:
        return False
    return True


def canonical(name: str, hyper: "Mapping[str, Hyper]") -> "tuple[str, dict[str, Hyper]]":
    """The full name of an objective, and its hyper-parameters checked by name and typed like their defaults (``q=1`` is ``q=1.0``)."""
    facts = _facts(name)
    full = name if is_reference(name) else facts.function.__name__
    if facts.hyper is None:
        return full, dict(hyper)
    own = [key for key in facts.hyper if key not in facts.needs and key != "num_samples"]
    read: dict[str, Any] = {}
    for key, value in hyper.items():
        if key not in own and key != "reduction":
            takes = f"it takes {', '.join(own)}" if own else "it takes none"
            raise StudyError(f"objective {full} has no hyper-parameter {key!r}{nearest(key, own) or '; ' + takes}")
        default = facts.hyper.get(key)
        read[key] = float(value) if isinstance(default, float) and type(value) is int else value
    required = [key for key in own if facts.hyper[key] is inspect.Parameter.empty and key not in read]
    if required:
        raise StudyError(f"objective {full} needs a value for {', '.join(required)}: write {full}:{required[0]}=...")
    return full, read


def source(name: str) -> str:
    """The hash of the file that defines the objective."""
    return source_hash(_facts(name).function)


def predicts_probabilities(name: str) -> bool:
    """Whether softmax of the trained logits is meant as probabilities; for a function without a card nobody has said so."""
    return _facts(name).predicts == "probabilities"


class Criterion:
    """An objective bound to its hyper-parameters and to one training set.

    Args:
        objective: which one.
        class_counts: `(c,)` training rows of each class, as labelled.
        n_train: number of training rows, for objectives that keep a state for each.
    """

    def __init__(self, objective: "ObjectiveSpec", class_counts: Tensor, n_train: int) -> None:
        facts = _facts(objective.name)
        self.label = objective.label
        self._function = facts.function
        self._keywords: dict[str, Any] = dict(objective.hyper)
        self._indexed = facts.form == "stateful" or "sample_index" in facts.needs
        if "class_counts" in facts.needs:
            self._keywords["class_counts"] = class_counts.to(torch.get_default_dtype())
        if facts.form == "stateful" or inspect.isclass(facts.function):
            size = {"num_samples": n_train} if facts.form == "stateful" else {}
            try:
                self._function = facts.function(**size, **self._keywords)
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
