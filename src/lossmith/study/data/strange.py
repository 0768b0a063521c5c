"""Rows that no class of the study is right for: classes held out, or other data of the same shape."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lossmith._checks import nearest
from lossmith.study.data.dataset import Dataset
from lossmith.study.data.sources import load_data
from lossmith.study.errors import StudyError


def hold_out_classes(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """The data without some classes, whose rows become its strange ones.

    Args:
        dataset: the data.
        names: of classes; two others at least must stay.
    """
    for name in names:
        if name not in dataset.class_names:
            raise StudyError(f"--ood-classes: {dataset.name} has no class {name!r}{nearest(name, dataset.class_names)}")
    out = [k for k, name in enumerate(dataset.class_names) if name in names]
    left = [k for k in range(dataset.n_classes) if k not in out]
    if len(left) < 2:
        raise StudyError(f"--ood-classes: two classes at least must stay to be told apart; {dataset.name} has {dataset.n_classes}")
    stays = ~np.isin(dataset.labels, out)
    number = np.full(dataset.n_classes, -1)
    number[left] = np.arange(len(left))
    groups, parts, trusted = (None if kept is None else kept[stays] for kept in (dataset.groups, dataset.parts, dataset.trusted))
    rows = (np.arange(len(stays)) if dataset.rows is None else dataset.rows)[stays]
    if trusted is not None:  # a label known to be right that is one of those held out is none
        trusted = np.where(trusted < 0, -1, number[trusted])
    note = f"{int((~stays).sum())} rows of {', '.join(dataset.class_names[k] for k in out)} are held out: no model sees them in training"
    return replace(
        dataset, features=dataset.features[stays], labels=number[dataset.labels[stays]].astype(np.int64),
        class_names=tuple(dataset.class_names[k] for k in left), notes=(*dataset.notes, note), strange=dataset.features[~stays],
        groups=groups, parts=parts, trusted=trusted, rows=rows,
        files=tuple(file for file, kept in zip(dataset.files, stays, strict=False) if kept),
    )  # fmt: skip


def load_strange(data: str | Dataset) -> Dataset:
    """The data whose rows no class is right for; their labels say nothing."""
    if isinstance(data, Dataset):
        return data
    if Path(data).expanduser().is_file():
        raise StudyError(
            f"--ood {data}: rows of a table stand for strange ones only beside a table of the same columns, read in the same way, and that "
            "is not built; hold out classes of your table with --ood-classes, or name images or a module:function that returns numbers"
        )
    try:
        return load_data(data)
    except StudyError as error:
        raise StudyError(f"--ood {data}: {error}") from error


def beside(dataset: Dataset, other: Dataset) -> Dataset:
    """The data with another set's rows as its strange ones."""
    if dataset.columns or other.columns:
        raise StudyError("--ood is for images and rows of numbers; in a table, hold out classes with --ood-classes")
    if other.features.shape[1:] != dataset.features.shape[1:]:
        raise StudyError(
            f"--ood: rows of {other.name} have shape {other.features.shape[1:]}, those of {dataset.name} {dataset.features.shape[1:]}"
        )
    return replace(
        dataset, strange=other.features, notes=(*dataset.notes, f"{len(other.features)} rows of {other.name} stand for strange ones")
    )
