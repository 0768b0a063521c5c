"""How many rows the splits of a study give to training, validation and test."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from lossmith.study.data.dataset import Dataset
from lossmith.study.data.splits import draw_rows
from lossmith.study.spec import StudySpec

FEW = 10
"""Splits that are drawn to tell their sizes beforehand."""


@dataclass(frozen=True)
class Sizes:
    """Rows that train, validate and test, for each split; where groups make them differ, their means over the splits."""

    train: int
    validation: int
    test: int

    @classmethod
    def mean(cls, counts: Iterable[tuple[int, int, int]]) -> "Sizes":
        """Of the counts (training, validation, test) of several splits."""
        return cls(*(max(1, round(sum(column) / len(column))) for column in zip(*counts, strict=True)))


def sizes(spec: StudySpec, dataset: Dataset) -> Sizes:
    """The sizes of the splits that a study will make, from the first few of them: where groups make them differ, it is by little."""
    options = {name: getattr(spec, name) for name in ("imbalance", "labels", "validation", "test", "folds")}
    drawn = (draw_rows(dataset, seed, fold=fold, **options) for seed, fold in islice(spec.draws.values(), FEW))
    return Sizes.mean((len(train), len(held_out), len(tested)) for train, held_out, tested in drawn)
