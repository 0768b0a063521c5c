"""CSV, Parquet and ARFF files: which columns are numbers, which are categories, which are left out, and a note on each decision.

Only decisions that need no learning are taken here. A date becomes numbers; a constant column, a row number and a column of names are
left out; rows that repeat another are found, so that splits keep them together. Missing values stay missing until a split fills them from
its training rows.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lossmith._checks import nearest
from lossmith.study.data.columns import MANY, as_numbers, encode_column, encode_like, identifies
from lossmith.study.data.copies import find_copies
from lossmith.study.data.dataset import FEATURES_ONLY, ROWS_PER_CLASS, Column, Dataset, Roles
from lossmith.study.data.files import checked, names, read_frame
from lossmith.study.data.roles import crossing, read_roles, together
from lossmith.study.data.text import text_readers
from lossmith.study.errors import StudyError

NAMED = 3
"""Columns of many that a message names."""


def load_table(path: Path, target: str | None, roles: Roles = FEATURES_ONLY) -> Dataset:
    """Read a file and take one column as the target."""
    return encode_table(read_frame(path), target, path.name, roles)


def encode_table(frame: pd.DataFrame, target: str | None, file: str, roles: Roles = FEATURES_ONLY) -> Dataset:
    """A data frame as numbers, with notes; `file` is what messages call it. A further table of strange rows is read as the frame is."""
    other = None if roles.strange is None else _other_table(roles.strange)
    frame = checked(frame, file)
    if target is None:
        raise StudyError(f"{file} has columns {names(frame)}: say which one to predict with target")
    if target not in frame.columns:
        raise StudyError(f"{file} has no column {target!r}{nearest(target, frame.columns)}; its columns are {names(frame)}")
    notes: list[str] = []
    missing, rows = frame[target].isna(), None
    if missing.all():
        raise StudyError(f"{file}: every value of the target {target!r} is missing")
    if missing.any():
        notes.append(f"{int(missing.sum())} of {len(frame)} rows have no {target} and were left out")
        rows = np.flatnonzero(~missing)
        frame = frame[~missing].reset_index(drop=True)
    labels, class_names = encode_target(frame[target], file, target)
    kept: list[Column] = []
    values: list[NDArray[np.float64]] = []
    strange: list[NDArray[np.float64]] = []
    lacking: list[str] = []
    warnings: list[str] = []
    own = read_roles(frame, target, roles, file)
    notes.extend(own.notes)
    texts = text_readers(roles, frame, target, file)
    for name in own.columns:
        if name in texts:
            raise StudyError(f"--text {name}: that column has another role already, and is not learnt from")
    for name in frame.columns.drop([target, *own.columns]):
        if name in texts:
            columns, note = texts[name](frame[name], file)
            said = [note]
        elif roles.pieces is not None:
            columns, said = [], [f"{name}: left out, {roles.pieces.model} reads text alone"]
        else:
            columns, said = encode_column(str(name), frame[name], file)
        notes.extend(said)
        for column, encoded in columns:
            kept.append(column)
            values.append(encoded)
        if other is not None and columns and name not in other.columns:
            lacking.append(str(name))
        elif other is not None and columns and name in texts:
            strange += [numbers for _, numbers in texts[name](other[name], f"--ood {roles.strange}")[0]]
        elif other is not None and columns:
            strange += encode_like([column for column, _ in columns], frame[name], other[name], f"--ood {roles.strange}")
        if columns and identifies(frame[name]):
            warnings.append(
                f"{name} has a different whole number in every row. If it identifies the rows, remove it from the file: what is learnt "
                "from it says nothing about new rows."
            )
    if not kept:
        raise StudyError(f"{file}: no column besides {target!r} is left to learn from ({'; '.join(notes) or 'there is none'})")
    notes.extend(_account(kept, values))
    features = np.column_stack(values)
    copies = find_copies(features, labels)
    notes.extend(copies.notes(roles.duplicates))
    warnings.extend(copies.warnings(roles.duplicates, roles.trusted))
    groups, joined = together(own, copies if roles.duplicates == "together" else None)
    notes.extend(joined)
    warnings.extend(crossing(own, copies))
    if lacking:
        hint = nearest(lacking[0], other.columns.difference(frame.columns)) if other is not None else ""
        raise StudyError(f"--ood {roles.strange} lacks columns that are learnt from: {', '.join(lacking[:NAMED])}{_more(lacking)}{hint}")
    if other is not None:
        notes.append(f"{len(other)} rows of {Path(str(roles.strange)).name} stand for strange ones, read as these are")
        warnings.extend(_shared(features, np.column_stack(strange), str(roles.strange)))
    trusted, said = None, None
    if roles.trusted is not None:
        trusted, said = _encode_trusted(frame[roles.trusted], labels, class_names, file, target)
        notes.append(said)
    return Dataset(
        file, features, labels, class_names, tuple(kept), tuple(notes), tuple(warnings), groups, own.parts, trusted,
        None if other is None else np.column_stack(strange), rows,
    )  # fmt: skip


def _other_table(path: str) -> pd.DataFrame:
    """The table of strange rows."""
    try:
        return read_frame(Path(path).expanduser())
    except StudyError as error:
        raise StudyError(f"--ood {path}: {error}") from error


def _shared(features: NDArray[np.float64], strange: NDArray[np.float64], path: str) -> list[str]:
    """A warning where strange rows are rows of the study."""
    known = pd.MultiIndex.from_arrays(list(features.T))
    both = int(pd.MultiIndex.from_arrays(list(strange.T)).isin(known).sum())
    return [f"{both} of the {len(strange)} rows of --ood {path} are also rows of the study: they are not strange."] if both else []


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - NAMED} more" if len(names) > NAMED else ""


def encode_target(series: pd.Series, file: str, target: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels as positions in the sorted class names; numbers sort as numbers, anything else as text."""
    numbers = as_numbers(series)
    if numbers is None:
        values = series.astype(str).to_numpy(dtype=object)
        classes, codes = np.unique(values.astype(str), return_inverse=True)
        return codes.astype(np.int64), tuple(map(str, classes))
    distinct, codes, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    if len(distinct) > MANY and (counts.min() < ROWS_PER_CLASS or (distinct != np.round(distinct)).any()):
        raise StudyError(f"{file}: the target {target!r} has {len(distinct)} distinct numbers: a quantity, and a study predicts classes")
    if series.dtype.kind == "b":
        return codes.astype(np.int64), tuple(str(bool(value)) for value in distinct)
    return codes.astype(np.int64), tuple(f"{value:.15g}" for value in distinct)


def _encode_trusted(
    series: pd.Series, labels: NDArray[np.int64], class_names: tuple[str, ...], file: str, target: str
) -> tuple[NDArray[np.int64], str]:
    """Trusted labels as positions among the target's classes, -1 where missing, and a note on how often the target differs."""
    present = series.notna().to_numpy()
    if not present.any():
        raise StudyError(f"--clean-target {series.name}: every value is missing in {file}")
    codes, names = encode_target(series[present], file, str(series.name))
    place = {name: k for k, name in enumerate(class_names)}
    strange = [name for name in names if name not in place]
    if strange:
        raise StudyError(f"--clean-target {series.name}: {strange[0]!r} is no class of {target}, which has {', '.join(class_names)}")
    trusted = np.full(len(series), -1, dtype=np.int64)
    trusted[present] = np.array([place[name] for name in names])[codes]
    differs, known = int((trusted != labels)[present].sum()), int(present.sum())
    return trusted, (
        f"{series.name}: trusted labels, which test rows are scored by, and not learnt from; {target} differs from them in {differs} of "
        f"{known} rows ({100 * differs / known:.1f} %)"
    )


def _account(columns: list[Column], values: list[NDArray[np.float64]]) -> list[str]:
    """What will be done to the columns that stay."""
    notes = []
    numeric = [column.name for column in columns if column.kind == "numeric"]
    categorical = [column.name for column in columns if column.kind == "categorical"]
    if numeric:
        notes.append(f"{len(numeric)} numeric columns, standardised by the training rows of each seed")
    if categorical:
        notes.append(f"{len(categorical)} categorical columns, one indicator a category seen in training: {', '.join(categorical)}")
    gaps = {column.name: int(np.isnan(v).sum()) for column, v in zip(columns, values, strict=True) if np.isnan(v).any()}
    if gaps:
        listed = ", ".join(f"{name} {count}" for name, count in gaps.items())
        notes.append(
            f"missing values ({listed}): numbers are filled with the median of the training rows and marked by an indicator, "
            "a missing category is a category of its own"
        )
    return notes
