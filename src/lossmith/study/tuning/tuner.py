"""Who proposes configurations: the tuners of a study, each for one objective on one split (or on those that are tuned on once for all)."""

from collections.abc import Callable, Sequence
from typing import Protocol

from lossmith.study.spec import StudySpec
from lossmith.study.training.objectives import ObjectiveSpec
from lossmith.study.tuning.configuration import Configuration
from lossmith.study.tuning.validation import ValidationRecord


class Tuner(Protocol):
    """Asked for configurations until it has none left; told of each what validation rows say."""

    def ask(self) -> Sequence[Configuration]:
        """What to try next: as many as can be told without knowing the results of one another; none when the budget is spent."""
        ...

    def tell(self, configuration: Configuration, seen: Sequence[ValidationRecord]) -> None:
        """What was seen with a configuration that was asked for, a record a split, none of it from test rows."""
        ...


MakeTuner = Callable[[ObjectiveSpec, int], Tuner]
"""For an objective and the number of a split."""


class Listed:
    """Configurations that are known beforehand."""

    def __init__(self, configurations: Sequence[Configuration]) -> None:
        self._left = list(configurations)

    def ask(self) -> Sequence[Configuration]:
        asked, self._left = self._left, []
        return asked

    def tell(self, configuration: Configuration, seen: Sequence[ValidationRecord]) -> None:
        pass


def tuners(spec: StudySpec, fingerprint: str, storage: str | None) -> MakeTuner:
    """What makes the tuners that a study asks for.

    Args:
        spec: the study.
        fingerprint: of its data.
        storage: where Optuna keeps its studies, a URL; None for memory.
    """
    if spec.tuner == "optuna":
        from lossmith.study.tuning.tpe import Studies

        return Studies(spec, fingerprint, storage)
    return lambda objective, draw: Listed(spec.planned(objective, draw) or ())
