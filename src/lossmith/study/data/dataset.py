"""Data as a study sees it: features, labels, and an account of what was done to get them.

Nothing is imputed, scaled or encoded here: whatever learns from the data belongs to a split and is fitted on its training rows
(:mod:`lossmith.study.data.splits`).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lossmith.study.errors import StudyError, one_line

ROWS_PER_CLASS = 3
"""A class needs a row in each of train, validation and test."""

PARTS = ("train", "validation", "test")
"""The parts of a split, in the order in which they are numbered."""

WRITTEN = {"train": 0, "training": 0, "validation": 1, "valid": 1, "val": 1, "dev": 1, "test": 2}
"""What a split column, or the name of a folder, may say, in any case, and the part it means."""


@dataclass(frozen=True)
class Column:
    """One column of a table: a number, or the position of a category in `categories`, NaN being a missing value in either; or the number
    of one piece of a text in its tokenizer's vocabulary, -1 after its end."""

    name: str
    kind: Literal["numeric", "categorical", "piece"]
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pieces:
    """How a network that reads text wants it.

    Attributes:
        model: the network.
        tokenizer: of transformers, by folder or name.
        longest: how many pieces it takes at most.
        vocabulary: how many different ones it knows.
    """

    model: str
    tokenizer: str
    longest: int
    vocabulary: int


@dataclass(frozen=True)
class Roles:
    """What columns of a table are for, when they are neither features nor the target. None of them is learnt from.

    Attributes:
        group: rows with the same value stay on one side of every split.
        split: the user's own split, with the values train, validation (or val) and test.
        trusted: labels known to be right, which test rows are scored by.
        duplicates: ``together`` keeps rows that are equal in every feature on one side of every split; ``apart`` splits them like others.
        text: columns of text, which become numbers (`lossmith.study.data.text`), each perhaps with how many: ``review@4096``.
        tokenizer: a tokenizer of transformers that cuts them into pieces; None for words and pairs of words.
        pieces: how the one column of text becomes the numbers of its pieces, for a network that reads text; None hashes it.
        strange: a file with a further table, whose rows are read as these are and stand for strange ones.
    """

    group: str | None = None
    split: str | None = None
    trusted: str | None = None
    duplicates: str = "together"
    text: tuple[str, ...] = ()
    tokenizer: str | None = None
    pieces: Pieces | None = None
    strange: str | None = None

    def __post_init__(self) -> None:
        if self.duplicates not in ("together", "apart"):
            raise StudyError(f"--duplicates must be together or apart; got {self.duplicates!r}")
        if self.tokenizer is not None and not self.text:
            raise StudyError(f"--tokenizer {self.tokenizer} cuts text into pieces: name the columns of text with --text")


FEATURES_ONLY = Roles()
"""Every column besides the target is a feature."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows with one label each.

    Attributes:
        name: for titles.
        features: float32 `(n, d)` or, for images, `(n, channels, height, width)`; for a table float64 `(n, columns)`, as `columns` says.
        labels: int64 `(n,)`, positions in `class_names`.
        class_names: what the labels mean.
        columns: of a table; empty otherwise.
        notes: what was done while reading, a sentence each.
        warnings: what in the data may make a study misleading, a sentence each.
        groups: int64 `(n,)`, or None; rows with the same number stay on one side of every split.
        parts: int64 `(n,)`, or None; the user's own split, positions in `PARTS`.
        trusted: int64 `(n,)`, or None; labels known to be right, positions in `class_names`, -1 where there is none.
        strange: further rows of features, or None; of no class of the study, for looking at what a model makes of them.
        rows: int64 `(n,)`, or None; positions in what was read, where some of its rows were left out.
        files: of images in folders, the path of each within the folder that was named; empty otherwise.
    """

    name: str
    features: NDArray[Any]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    columns: tuple[Column, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    groups: NDArray[np.int64] | None = None
    parts: NDArray[np.int64] | None = None
    trusted: NDArray[np.int64] | None = None
    strange: NDArray[Any] | None = None
    rows: NDArray[np.int64] | None = None
    files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check(self)

    @classmethod
    def from_arrays(cls, name: str, features: Any, labels: Any, class_names: Sequence[str] | None = None) -> "Dataset":
        """A data set from tensors or arrays; labels may be numbers or words, images `(n, h, w)` or `(n, channels, h, w)`."""
        x, y = features_of(features, name), _array(labels, name, "labels")
        if y.ndim != 1:
            raise StudyError(f"data {name}: labels must be one a row, shape (n,); got shape {y.shape}")
        missing = ~np.isfinite(y) if y.dtype.kind == "f" else np.array([value is None or value != value for value in y], dtype=bool)
        if missing.any():
            raise StudyError(f"data {name}: labels hold missing values (first in row {int(missing.argmax())})")
        values, codes = np.unique(y.astype(str) if y.dtype.kind == "O" else y, return_inverse=True)
        names = tuple(str(value) for value in values) if class_names is None else tuple(map(str, class_names))
        if len(names) != len(values):
            raise StudyError(f"data {name}: {len(names)} class names for {len(values)} classes")
        return cls(name, x, codes.astype(np.int64), names)

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(channels, height, width), or None for rows of features."""
        shape = self.features.shape[1:]
        return (int(shape[0]), int(shape[1]), int(shape[2])) if len(shape) == 3 else None

    @property
    def is_text(self) -> bool:
        """Whether rows are texts, piece by piece."""
        return any(column.kind == "piece" for column in self.columns)

    @property
    def n_classes(self) -> int:
        return len(self.class_names)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the content: features, labels, what they mean, what splits them; but neither the name nor where rows came from."""
        digest = hashlib.sha256()
        for array in (self.features, self.labels):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        digest.update(repr((self.class_names, [(column.name, column.kind, column.categories) for column in self.columns])).encode())
        for name, numbers in (("groups", self.groups), ("parts", self.parts), ("trusted", self.trusted)):
            if numbers is not None:  # data without any keep the fingerprint that they always had
                digest.update(name.encode())
                digest.update(np.ascontiguousarray(numbers, dtype=np.int64).data)
        if self.strange is not None:
            digest.update(f"strange{self.strange.dtype.str}{self.strange.shape}".encode())
            digest.update(np.ascontiguousarray(self.strange).data)
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """A JSON-able summary for the report."""
        if self.is_text:
            inputs = f"texts of up to {len(self.columns)} pieces"
        elif self.columns:
            kinds = [column.kind for column in self.columns]
            inputs = f"{kinds.count('numeric')} numeric and {kinds.count('categorical')} categorical columns"
        elif self.image_shape is not None:
            inputs = "images of {} x {} x {} (channels, height, width)".format(*self.image_shape)
        else:
            inputs = f"{self.features.shape[1]} features"
        return {
            "name": self.name,
            "rows": len(self.labels),
            "inputs": inputs,
            "image_shape": self.image_shape,
            "classes": list(self.class_names),
            "class_counts": np.bincount(self.labels, minlength=self.n_classes).tolist(),
            "notes": list(self.notes),
            "warnings": list(self.warnings),
            "fingerprint": self.fingerprint,
        }


def features_of(features: Any, name: str) -> NDArray[np.float32]:
    """Tensors or arrays as a data set holds them: `(n, d)`, or images `(n, channels, h, w)`, also given as `(n, h, w)`."""
    x = _array(features, name, "features")
    if x.ndim not in (2, 3, 4):
        raise StudyError(f"data {name}: features must be (n, d) or images (n, h, w) or (n, channels, h, w); got shape {x.shape}")
    try:
        x = np.ascontiguousarray(x, dtype=np.float32)
    except (TypeError, ValueError):
        raise StudyError(f"data {name}: features must be numbers; got {x.dtype}") from None
    return x[:, None] if x.ndim == 3 else x


def _array(values: Any, name: str, what: str) -> NDArray[Any]:
    try:
        return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    except (TypeError, ValueError) as error:
        raise StudyError(f"data {name}: {what} must be an array or a tensor: {one_line(error)}") from error


def _check(dataset: Dataset) -> None:
    """Refuse what no study could use."""
    name, n = dataset.name, len(dataset.labels)
    if len(dataset.features) != n:
        raise StudyError(f"data {name}: {len(dataset.features)} rows of features but {n} labels")
    if n == 0:
        raise StudyError(f"data {name}: there are no rows")
    if dataset.features[0].size == 0:
        raise StudyError(f"data {name}: no features are left to learn from")
    if not dataset.columns and not np.isfinite(dataset.features).all():
        row = int(np.flatnonzero(~np.isfinite(dataset.features).reshape(n, -1).all(axis=1))[0])
        raise StudyError(f"data {name}: features hold NaN or infinite values (first in row {row}); fill or remove them")
    for what in ("groups", "parts", "trusted", "rows"):
        numbers = getattr(dataset, what)
        if numbers is not None and np.shape(numbers) != (n,):
            raise StudyError(f"data {name}: {what} must be one whole number a row, shape ({n},); got shape {np.shape(numbers)}")
    if dataset.files and len(dataset.files) != n:
        raise StudyError(f"data {name}: {len(dataset.files)} files for {n} rows")
    if dataset.parts is not None and not {0, 2} <= set(np.unique(dataset.parts).tolist()) <= {0, 1, 2}:
        raise StudyError(f"data {name}: parts must be 0 (train), 1 (validation) and 2 (test), with rows of 0 and 2 at least")
    if dataset.strange is not None and np.shape(dataset.strange)[1:] != dataset.features.shape[1:]:
        raise StudyError(f"data {name}: strange rows must have the features' shape; got {np.shape(dataset.strange)[1:]}")
    if dataset.trusted is not None and not -1 <= dataset.trusted.min() <= dataset.trusted.max() < dataset.n_classes:
        raise StudyError(f"data {name}: trusted labels must be positions in class_names, or -1 where there is none")
    counts = np.bincount(dataset.labels, minlength=dataset.n_classes)
    if dataset.n_classes < 2:
        raise StudyError(f"data {name}: all {n} rows have the same label ({dataset.class_names[0]!r}); a study needs two classes or more")
    if counts.min() < ROWS_PER_CLASS:
        rarest = dataset.class_names[int(counts.argmin())]
        raise StudyError(
            f"data {name}: class {rarest!r} has {counts.min()} row{'s' if counts.min() != 1 else ''}; every class needs "
            f"{ROWS_PER_CLASS}, one each to train, validate and test"
        )
