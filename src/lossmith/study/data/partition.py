"""Which rows train, validate and test: the same fractions of every class, and rows that belong together never on two sides.

Where rows are independent, a class is shuffled and cut. Where some belong together (copies of each other, a patient's visits), whole
groups are dealt out, each to the part that most lacks its classes, and the fractions are met as nearly as the groups allow.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lossmith.study.data.dataset import Dataset
from lossmith.study.errors import StudyError

Rows = NDArray[np.int64]

TRIES = 50
"""Deals of a few large groups, of which the one nearest to the fractions is taken."""

GROUPS_PLACED = 100_000
"""Groups that may be placed for one split, over all tries."""

NEAR = 0.1
"""A part whose size is within this share of what was asked for needs no further try."""


def three_parts(dataset: Dataset, validation: float, test: float, generator: np.random.Generator) -> tuple[Rows, Rows, Rows]:
    """Training, validation and test rows, in order; every class has a row at least in each.

    Args:
        dataset: whose labels and groups count; its own split does not.
        validation, test: fractions of the rows of each class.
        generator: draws them.
    """
    if dataset.groups is None:
        parts = _cut_classes(dataset, validation, test, generator)
    else:
        shares = (1 - validation - test, validation, test)
        parts = _deal(dataset, np.arange(len(dataset.labels)), shares, generator, f"validation={validation} and test={test}")
    train, held_out, tested = parts
    return train, held_out, tested


def fold_parts(
    dataset: Dataset, validation: float, folds: int, fold: int, dealer: np.random.Generator, generator: np.random.Generator
) -> tuple[Rows, Rows, Rows]:
    """Training, validation and test rows of one fold of a cross-validation: the fold tests, the rest trains and validates.

    Args:
        dataset: whose labels and groups count.
        validation: fraction of the rows of each class, of all folds together.
        folds: how many parts of equal size the rows are dealt into.
        fold: which of them tests.
        dealer: deals the folds, in the same way for every fold of a seed.
        generator: draws the validation rows of this fold.
    """
    everything = np.arange(len(dataset.labels))
    tested = _deal(dataset, everything, (1 / folds,) * folds, dealer, f"--folds {folds}")[fold]
    rest = np.setdiff1d(everything, tested)
    share = validation * folds / (folds - 1)
    train, held_out = _deal(dataset, rest, (1 - share, share), generator, f"--folds {folds} with validation={validation}")
    return train, held_out, tested


def own_parts(dataset: Dataset, validation: float, generator: np.random.Generator) -> tuple[Rows, Rows, Rows]:
    """The data's own training, validation and test rows; without validation rows, a fraction of the training rows becomes them.

    Args:
        dataset: with `parts`.
        validation: fraction of the training rows of each class; counts only where the data have no validation rows.
        generator: draws those.
    """
    train, held_out, tested = (np.flatnonzero(dataset.parts == p) for p in range(3))
    if len(held_out) == 0:
        asked = f"--validation-fraction {validation} of the training rows of --split-column"
        train, held_out = _deal(dataset, train, (1 - validation, validation), generator, asked)
    return train, held_out, tested


def _cut_classes(dataset: Dataset, validation: float, test: float, generator: np.random.Generator) -> list[Rows]:
    parts: tuple[list[Rows], ...] = ([], [], [])
    for k, name in enumerate(dataset.class_names):
        rows = generator.permutation(np.flatnonzero(dataset.labels == k))
        n_test, n_validation = max(1, round(test * len(rows))), max(1, round(validation * len(rows)))
        if len(rows) - n_test - n_validation < 1:
            raise StudyError(
                f"class {name!r} has {len(rows)} rows, too few for a training row beside validation={validation} and test={test}"
            )
        for part, chosen in zip(parts, np.split(rows, [len(rows) - n_test - n_validation, len(rows) - n_test]), strict=True):
            part.append(chosen)
    return [np.sort(np.concatenate(part)) for part in parts]


def _deal(dataset: Dataset, rows: Rows, shares: Sequence[float], generator: np.random.Generator, asked: str) -> list[Rows]:
    """Some rows dealt into parts of these shares, groups whole; `asked` names what asked for the parts, for the message."""
    labels = dataset.labels[rows]
    groups = np.arange(len(rows)) if dataset.groups is None else np.unique(dataset.groups[rows], return_inverse=True)[1]
    wanted = np.asarray(shares)[:, None] * np.bincount(labels, minlength=dataset.n_classes).astype(np.float64)
    tries = max(1, min(TRIES, GROUPS_PLACED // (1 + int((np.bincount(groups) > 1).sum()))))
    best, least = None, np.inf
    for _ in range(tries):
        part = _deal_once(labels, groups, wanted, generator)
        counts = np.zeros_like(wanted)
        np.add.at(counts, (part, labels), 1)
        if counts.min() < 1:
            continue
        off = float(np.abs(counts.sum(1) / wanted.sum(1) - 1).max())
        if off < least:
            best, least = part, off
        if off <= NEAR:
            break
    if best is None:
        raise StudyError(_too_few(dataset, labels, groups, len(shares), asked))
    return [rows[best == p] for p in range(len(shares))]


def _deal_once(labels: Rows, groups: Rows, wanted: NDArray[np.float64], generator: np.random.Generator) -> Rows:
    """The part of every row: groups of several rows in random order, each to where its classes are scarcest; then single rows."""
    n_classes = wanted.shape[1]
    sizes = np.bincount(groups)
    part = np.full(len(labels), -1, dtype=np.int64)
    placed = np.zeros_like(wanted)
    together = np.flatnonzero(sizes[groups] > 1)
    together = together[np.argsort(groups[together], kind="stable")]
    members = np.split(together, np.flatnonzero(np.diff(groups[together])) + 1) if len(together) else []
    for g in generator.permutation(len(members)):
        of_class = np.bincount(labels[members[g]], minlength=n_classes)
        scarcity = (placed * of_class / (wanted * wanted.sum(0))).sum(1)
        to = int(scarcity.argmin())
        part[members[g]] = to
        placed[to] += of_class
    for k in range(n_classes):
        single = generator.permutation(np.flatnonzero((labels == k) & (part < 0)))
        part[single] = _fill(placed[:, k], wanted[:, k], len(single), generator)
    return part


def _fill(placed: NDArray[np.float64], wanted: NDArray[np.float64], n: int, generator: np.random.Generator) -> Rows:
    """The parts of n further rows of a class: each part comes as near to what it wants as it can, and none stays empty if possible."""
    lacking = np.maximum(0, np.maximum(1, np.round(wanted)) - placed)
    if lacking.sum() > n:  # groups took too much elsewhere
        lacking *= n / lacking.sum()
    sizes = np.floor(lacking + 1e-9).astype(np.int64)
    ties = generator.random(len(wanted))
    for _ in range(n - int(sizes.sum())):
        sizes[np.lexsort((ties, placed + sizes - wanted))[0]] += 1
    return np.repeat(np.arange(len(wanted)), sizes)


def _too_few(dataset: Dataset, labels: Rows, groups: Rows, n_parts: int, asked: str) -> str:
    """Why no deal gave every part a row of every class."""
    if dataset.groups is None:
        k = int(np.argmin(np.bincount(labels, minlength=dataset.n_classes)))
        return f"class {dataset.class_names[k]!r} has {int((labels == k).sum())} rows here, too few for {n_parts} parts ({asked})"
    in_groups = [len(np.unique(groups[labels == k])) for k in range(dataset.n_classes)]
    rarest = int(np.argmin(in_groups))
    return (
        f"class {dataset.class_names[rarest]!r} has {in_groups[rarest]} groups of rows that stay together, and no way was found to give "
        f"each of {n_parts} parts some of every class ({asked}); rows stay together by --group or because they are copies (--duplicates)"
    )
