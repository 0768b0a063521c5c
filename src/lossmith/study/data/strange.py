"""Rows that no class of the study is right for: classes held out, or other data of the same shape. (A table's are read where it is.)"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossmith._checks import nearest
from lossmith.study.data.dataset import Dataset, features_of
from lossmith.study.data.folders import load_images
from lossmith.study.data.images import Look
from lossmith.study.data.sources import BUNDLED, load_data
from lossmith.study.errors import StudyError, one_line
from lossmith.study.references import is_reference, load_reference


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


def is_table(ood: str | Dataset | None) -> bool:
    """Whether strange rows are those of a file with columns, which is read together with the table that it stands beside."""
    return isinstance(ood, str) and ood not in BUNDLED and Path(ood).expanduser().is_file()


def beside(dataset: Dataset, ood: str | Dataset) -> Dataset:
    """The data with other data's rows as its strange ones: a `Dataset`, images in a folder, or what `load_data` takes besides tables.

    What is read here needs no labels: a folder may hold images of no class or of one, a function may return features alone.
    """
    if dataset.columns:
        raise StudyError(f"--ood: beside a table stands a file with the same columns, not {_name(ood)}; --ood-classes holds classes out")
    name, features, notes = _rows(dataset, ood)
    if features.shape[1:] != dataset.features.shape[1:]:
        raise StudyError(f"--ood: rows of {name} have shape {features.shape[1:]}, those of {dataset.name} {dataset.features.shape[1:]}")
    if not np.isfinite(features).all():
        raise StudyError(f"--ood: rows of {name} hold NaN or infinite values; fill or remove them")
    return replace(dataset, strange=features, notes=(*dataset.notes, f"{len(features)} rows of {name} stand for strange ones", *notes))


def _name(ood: str | Dataset) -> str:
    return ood.name if isinstance(ood, Dataset) else ood


def _rows(dataset: Dataset, ood: str | Dataset) -> tuple[str, NDArray[Any], tuple[str, ...]]:
    """The name of other data, their rows, and notes on how they were read."""
    if isinstance(ood, Dataset):
        return _of(ood)
    try:
        folder = ood.removeprefix("folder:")
        if ood.startswith("folder:") or (ood not in BUNDLED and Path(ood).expanduser().is_dir()):
            return _images(dataset, folder)
        if is_reference(ood):
            features = _made(ood)
            if features is not None:
                return ood, features, ()
        other = load_data(ood)
    except StudyError as error:
        raise StudyError(f"--ood {ood}: {error}") from error
    return _of(other)


def _of(other: Dataset) -> tuple[str, NDArray[Any], tuple[str, ...]]:
    if other.columns:
        raise StudyError(f"--ood: rows of {other.name} are those of a table, which stands beside a file with the same columns")
    return other.name, other.features, ()


def _images(dataset: Dataset, text: str) -> tuple[str, NDArray[Any], tuple[str, ...]]:
    """All images in a folder and in those within it, of the size and colours that the data's images have unless it says others."""
    shape = dataset.image_shape
    if shape is None:
        raise StudyError(f"a folder holds images, and {dataset.name} has rows of numbers")
    if dataset.features.min() < 0 or dataset.features.max() > 1:
        raise StudyError(f"images of a folder have values from 0 to 1; those of {dataset.name} do not, which alone would tell them apart")
    found = load_images(text, Look(shape[1], "L" if shape[0] == 1 else "RGB"))
    return f"folder:{text}", found.pixels, found.notes


def _made(reference: str) -> NDArray[Any] | None:
    """The features that a user's function returns, alone or with labels, which say nothing here; None where it gives anything else."""
    function = load_reference(reference, "data")
    if isinstance(function, Dataset) or not callable(function):
        return None
    try:
        made = function()
    except Exception as error:  # a user's function may raise anything
        raise StudyError(f"{reference!r} raised {one_line(error)}") from error
    return made.features if isinstance(made, Dataset) else features_of(made[0] if isinstance(made, tuple) else made, reference)
