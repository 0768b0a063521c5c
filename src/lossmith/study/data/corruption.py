"""Making a study harder on purpose: wrong labels, and rare classes.

Both are drawn from the seed alone, so that every objective meets the very same corruption.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lossmith.study.errors import StudyError

KINDS = ("symmetric", "asymmetric")


@dataclass(frozen=True)
class Noise:
    """Label noise: with probability `rate`, a label is replaced.

    ``symmetric`` replaces it by one of the *other* classes, each equally likely. ``asymmetric`` replaces class k by class k + 1 (the
    last by the first), as when every class has one class it is taken for.
    """

    kind: Literal["symmetric", "asymmetric"]
    rate: float

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise StudyError(f"noise must be symmetric:RATE or asymmetric:RATE; got {self.kind}:{self.rate}")
        if not 0 <= self.rate < 1:
            raise StudyError(f"the rate of the noise must be in [0, 1); got {self.rate!r}")

    @classmethod
    def parse(cls, text: str) -> "Noise":
        """Read ``symmetric:0.4`` or ``asymmetric:0.3``."""
        kind, _, rate = text.strip().partition(":")
        try:
            number = float(rate)
        except ValueError:
            raise StudyError(f"noise must be symmetric:RATE or asymmetric:RATE; got {text!r}") from None
        return cls(kind, number)  # type: ignore[arg-type]  # the kind is checked on creation

    def __str__(self) -> str:
        return f"{self.kind}:{self.rate!r}"

    def describe(self, *, clean_validation: bool = False) -> str:
        """What it does, as a sentence for the report."""
        which = "training label" if clean_validation else "training or validation label"
        kept = "validation and test labels" if clean_validation else "test labels"
        other = "another class, each equally likely" if self.kind == "symmetric" else "the next class (the last by the first)"
        return f"with probability {self.rate:g}, a {which} is replaced by {other}; {kept} never are"


def add_noise(labels: NDArray[np.int64], n_classes: int, noise: Noise | None, generator: np.random.Generator) -> NDArray[np.int64]:
    """The labels, some of them replaced as `noise` says; the input is left alone."""
    if noise is None:
        return labels.copy()
    flipped = generator.random(len(labels)) < noise.rate
    if noise.kind == "symmetric":
        step = generator.integers(1, n_classes, size=len(labels))
    else:
        step = np.ones(len(labels), dtype=np.int64)
    return np.where(flipped, (labels + step) % n_classes, labels)


def long_tail(labels: NDArray[np.int64], n_classes: int, ratio: float | None, generator: np.random.Generator) -> NDArray[np.int64]:
    """Positions of the rows to keep so that class sizes fall exponentially in the order of the classes.

    Class k keeps ``n * ratio ** (k / (c - 1))`` rows, the last class a fraction `ratio` of the first, with n as large as the data
    allow; every class keeps one row at least.

    Args:
        labels: `(n,)` true labels of the training rows.
        n_classes: number of classes c.
        ratio: size of the smallest class over that of the largest, in (0, 1]; None keeps every row.
        generator: chooses the rows.
    """
    if ratio is None:
        return np.arange(len(labels))
    if not 0 < ratio <= 1:
        raise StudyError(f"imbalance must be a fraction in (0, 1], smallest class over largest; got {ratio!r}")
    profile = ratio ** (np.arange(n_classes) / max(1, n_classes - 1))
    available = np.bincount(labels, minlength=n_classes)
    sizes = np.maximum(1, np.round(profile * (available / profile).min())).astype(np.int64)
    kept = [generator.permutation(np.flatnonzero(labels == k))[: sizes[k]] for k in range(n_classes)]
    return np.sort(np.concatenate(kept))
