"""Making a study harder on purpose: wrong labels, rare classes, few labels.

All are drawn from the seed alone, so that every objective meets the very same corruption.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lossmith.study.errors import StudyError

KINDS = ("symmetric", "asymmetric", "instance")
RATE_SPREAD = 0.1
"""The standard deviation of the rates of single rows under ``instance`` noise."""


@dataclass(frozen=True)
class Noise:
    """Label noise: with probability `rate`, a label is replaced.

    ``symmetric`` replaces it by one of the *other* classes, each equally likely. ``asymmetric`` replaces class k by class k + 1 (the
    last by the first), as when every class has one class it is taken for. ``instance`` makes it depend on the row: each has a rate of
    its own, normal around `rate` with standard deviation 0.1 and cut to [0, 1], and is taken for the classes that a random linear map
    of its features, one for each true class, says it looks like (Xia et al. 2020, 'Part-dependent Label Noise', arXiv:2006.07836).
    """

    kind: Literal["symmetric", "asymmetric", "instance"]
    rate: float

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise StudyError(f"noise must be {_FORMS}; got {self.kind}:{self.rate}")
        if not 0 <= self.rate < 1:
            raise StudyError(f"the rate of the noise must be in [0, 1); got {self.rate!r}")

    @classmethod
    def parse(cls, text: str) -> "Noise":
        """Read ``symmetric:0.4``, ``asymmetric:0.3`` or ``instance:0.4``."""
        kind, _, rate = text.strip().partition(":")
        try:
            number = float(rate)
        except ValueError:
            raise StudyError(f"noise must be {_FORMS}; got {text!r}") from None
        return cls(kind, number)  # type: ignore[arg-type]  # the kind is checked on creation

    def __str__(self) -> str:
        return f"{self.kind}:{self.rate!r}"

    def describe(self, *, clean_validation: bool = False) -> str:
        """What it does, as a sentence for the report."""
        which = "training label" if clean_validation else "training or validation label"
        kept = "validation and test labels" if clean_validation else "test labels"
        other = {
            "symmetric": "another class, each equally likely",
            "asymmetric": "the next class (the last by the first)",
            "instance": "a class that the row looks like",
        }[self.kind]
        chance = "about " if self.kind == "instance" else ""
        return f"with probability {chance}{self.rate:g}, a {which} is replaced by {other}; {kept} never are"


_FORMS = ", ".join(f"{kind}:RATE" for kind in KINDS[:-1]) + f" or {KINDS[-1]}:RATE"


def add_noise(
    labels: NDArray[np.int64],
    n_classes: int,
    noise: Noise | None,
    generator: np.random.Generator,
    looks: Callable[[], NDArray[np.float64]] | None = None,
) -> NDArray[np.int64]:
    """The labels, some of them replaced as `noise` says; the input is left alone.

    Args:
        labels: `(n,)`, of all rows.
        n_classes: how many classes there are.
        noise: what is replaced by what.
        generator: draws everything.
        looks: gives the rows as numbers `(n, d)`, standardised; called for ``instance`` noise, and needed there.
    """
    if noise is None or noise.rate == 0:
        return labels.copy()
    if noise.kind == "instance":
        if looks is None:
            raise StudyError("noise instance:RATE needs the rows' features")
        return _by_looks(labels, n_classes, noise.rate, looks(), generator)
    flipped = generator.random(len(labels)) < noise.rate
    if noise.kind == "symmetric":
        step = generator.integers(1, n_classes, size=len(labels))
    else:
        step = np.ones(len(labels), dtype=np.int64)
    return np.where(flipped, (labels + step) % n_classes, labels)


def _by_looks(
    labels: NDArray[np.int64], n_classes: int, rate: float, looks: NDArray[np.float64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """Labels replaced with a probability of the row's own, by the classes a map of its features points to."""
    from scipy.special import softmax
    from scipy.stats import truncnorm

    ends = (0 - rate) / RATE_SPREAD, (1 - rate) / RATE_SPREAD
    own = np.asarray(truncnorm.rvs(*ends, loc=rate, scale=RATE_SPREAD, size=len(labels), random_state=generator))
    replaced = labels.copy()
    for k in range(n_classes):
        rows = np.flatnonzero(labels == k)
        scores = looks[rows] @ generator.standard_normal((looks.shape[1], n_classes))
        scores[:, k] = -np.inf
        upto = np.cumsum(own[rows, None] * softmax(scores, axis=1), axis=1)
        draw = generator.random((len(rows), 1))
        replaced[rows] = np.where(draw[:, 0] < own[rows], (draw >= upto).sum(1).clip(max=n_classes - 1), k)
    return replaced


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


def few_labels(labels: NDArray[np.int64], n_classes: int, each: int | None, generator: np.random.Generator) -> NDArray[np.int64]:
    """Positions of the rows to keep so that every class has `each` at most.

    Args:
        labels: `(n,)` true labels of the training rows.
        n_classes: number of classes.
        each: how many rows a class keeps, at least 1; None keeps every row.
        generator: chooses the rows.
    """
    if each is None:
        return np.arange(len(labels))
    if isinstance(each, bool) or not isinstance(each, int) or each < 1:
        raise StudyError(f"labels per class must be a whole number >= 1; got {each!r}")
    kept = [generator.permutation(np.flatnonzero(labels == k))[:each] for k in range(n_classes)]
    return np.sort(np.concatenate(kept))
