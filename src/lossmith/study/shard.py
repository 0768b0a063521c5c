"""A study in parts, for batch queues: each part finds its own trials without talking to the others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from lossmith.study.errors import StudyError
from lossmith.study.spec import StudySpec


@runtime_checkable  # the checks at run time look at it
class _Dealt(Protocol):
    @property
    def key(self) -> str: ...

    @property
    def seed(self) -> int: ...


T = TypeVar("T", bound=_Dealt)


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count`, counted from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read ``2/8``."""
        number, slash, count = (piece.strip() for piece in text.partition("/"))
        if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise StudyError(f"--shard must be I/N with 1 <= I <= N, such as 2/8; got {text!r}")
        return cls(int(number), int(count))

    def check(self, spec: StudySpec) -> None:
        """Refuse a study whose trials are not known beforehand: nobody can deal them."""
        options = (("--tuner optuna", spec.tuner == "optuna"), ("--tune-once", spec.tune_once), ("--stop-hopeless", spec.stop_hopeless))
        for option, given in options:
            if given:
                raise StudyError(
                    f"--shard deals trials that are known beforehand, and {option} decides by results which there are: leave it out"
                )

    def of(self, tasks: Sequence[T]) -> list[T]:
        """The trials of this part, in their order.

        Those of a seed are dealt round by their content hashes, so that parts are equally long, each mixes objectives and learning
        rates, and adding seeds to a study moves no trial to another part.
        """
        by_seed: dict[int, list[str]] = {}
        for task in tasks:
            by_seed.setdefault(task.seed, []).append(task.key)
        mine = set()
        for seed, keys in by_seed.items():
            first = (self.number - 1 - seed * len(keys)) % self.count  # each seed goes on dealing where the one before stopped
            mine.update(sorted(keys)[first :: self.count])
        return [task for task in tasks if task.key in mine]

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"
