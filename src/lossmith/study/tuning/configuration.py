"""What is tuned: one choice of everything that an objective is given to be trained with."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lossmith.study.training.objectives import Hyper, ObjectiveSpec, read_hyper

LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.01
"""The usual ones of AdamW, which are always among those tried."""


@dataclass(frozen=True)
class Configuration:
    """A learning rate, a weight decay, and those hyper-parameters of an objective that are searched, in alphabetical order.

    A hyper-parameter that is neither here nor fixed by the user keeps the paper's default.
    """

    learning_rate: float = LEARNING_RATE
    weight_decay: float = WEIGHT_DECAY
    hyper: tuple[tuple[str, Hyper], ...] = ()

    def applied(self, objective: ObjectiveSpec) -> ObjectiveSpec:
        """The objective with these hyper-parameters beside those that the user fixed."""
        return ObjectiveSpec(objective.name, tuple(sorted((*objective.hyper, *self.hyper))))

    @classmethod
    def of_trial(cls, trial: Mapping[str, Any], objective: ObjectiveSpec) -> "Configuration":
        """That of a trial, as it is stored, of a study's objective; nothing is looked up, so that it can be read without its modules."""
        fixed = dict(objective.hyper)
        hyper = {name: value for name, value in read_hyper(trial["objective"], objective.name).items() if name not in fixed}
        return cls(trial["learning_rate"], trial["optimizer"]["weight_decay"], tuple(sorted(hyper.items())))

    def values(self) -> dict[str, Hyper]:
        """Everything by name."""
        return {"learning_rate": self.learning_rate, "weight_decay": self.weight_decay, **dict(self.hyper)}

    @property
    def hyper_text(self) -> str:
        """The hyper-parameters as they stand in a label: ``q=0.5``."""
        return ",".join(f"{name}={value}" for name, value in self.hyper)

    @property
    def order(self) -> tuple[float, float, str]:
        """By which equals are told apart: the smaller learning rate first, then the smaller weight decay."""
        return self.learning_rate, self.weight_decay, repr(self.hyper)


def grid(learning_rates: Iterable[float]) -> list[Configuration]:
    """These learning rates, and nothing else tuned."""
    return [Configuration(rate) for rate in learning_rates]
