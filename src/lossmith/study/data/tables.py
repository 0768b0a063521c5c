"""CSV, Parquet and ARFF files: which columns are numbers, which are categories, which are left out, and a note on each decision.

Only decisions that need no learning are taken here. A date becomes numbers; a constant column, a row number and a column of names are
left out; rows that repeat another are found, so that splits keep them together. Missing values stay missing until a split fills them from
its training rows.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lossmith._checks import nearest
from lossmith.study.data.arff import read_arff
from lossmith.study.data.copies import find_copies
from lossmith.study.data.dataset import FEATURES_ONLY, ROWS_PER_CLASS, Column, Dataset, Roles
from lossmith.study.data.dates import ambiguous, date_parts
from lossmith.study.data.roles import crossing, read_roles, together
from lossmith.study.data.text import cutter, text_columns, text_widths
from lossmith.study.errors import StudyError, one_line

CSV = (".csv", ".tsv", ".txt")
PARQUET = (".parquet", ".pq")
ARFF = (".arff",)

MANY = 20
"""More distinct numbers than this, some hardly ever repeated, are a quantity and not classes; more distinct words than this, most of
them never repeated, are names and not categories."""


def load_table(path: Path, target: str | None, roles: Roles = FEATURES_ONLY) -> Dataset:
    """Read a file and take one column as the target."""
    return encode_table(_read(path), target, path.name, roles)


def encode_table(frame: pd.DataFrame, target: str | None, file: str, roles: Roles = FEATURES_ONLY) -> Dataset:
    """A data frame as numbers, with notes; `file` is what messages call it."""
    frame = _checked(frame, file)
    if target is None:
        raise StudyError(f"{file} has columns {_names(frame)}: say which one to predict with target")
    if target not in frame.columns:
        raise StudyError(f"{file} has no column {target!r}{nearest(target, frame.columns)}; its columns are {_names(frame)}")
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
    warnings: list[str] = []
    own = read_roles(frame, target, roles, file)
    notes.extend(own.notes)
    texts, cut = text_widths(roles.text, frame, target, file), cutter(roles.tokenizer)
    for name in own.columns:
        if name in texts:
            raise StudyError(f"--text {name}: that column has another role already, and is not learnt from")
    for name in frame.columns.drop([target, *own.columns]):
        if name in texts:
            columns, note = text_columns(frame[name], texts[name], cut, roles.tokenizer, file)
            said = [note]
        else:
            columns, said = _encode_column(str(name), frame[name], file)
        notes.extend(said)
        for column, encoded in columns:
            kept.append(column)
            values.append(encoded)
        if columns and _identifies(frame[name]):
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
    trusted, said = None, None
    if roles.trusted is not None:
        trusted, said = _encode_trusted(frame[roles.trusted], labels, class_names, file, target)
        notes.append(said)
    return Dataset(file, features, labels, class_names, tuple(kept), tuple(notes), tuple(warnings), groups, own.parts, trusted, rows=rows)


def read_cells(path: Path) -> pd.DataFrame:
    """A file's cells as they stand there, for showing rows to whoever wrote them: text in CSV, without numbers or gaps read into it."""
    return _checked(_read(path, as_text=True), path.name)


def _read(path: Path, *, as_text: bool = False) -> pd.DataFrame:
    if path.is_dir():
        raise StudyError(f"{path} is a folder; data must be a CSV, Parquet or ARFF file, and images in folders are folder:{path}")
    suffix = path.suffix.lower()
    if suffix not in CSV + PARQUET + ARFF:
        raise StudyError(f"{path.name}: data files end in {', '.join(CSV + PARQUET + ARFF)}; this one in {suffix or 'nothing'}")
    try:
        if suffix in ARFF:
            return read_arff(path)
        return _read_csv(path, as_text) if suffix in CSV else pd.read_parquet(path)
    except StudyError:
        raise
    except pd.errors.EmptyDataError:
        raise StudyError(f"{path.name} is empty") from None
    except UnicodeDecodeError:
        raise StudyError(f"{path.name} is not a text file in UTF-8") from None
    except ImportError:
        raise StudyError(f"{path.name}: reading Parquet needs pyarrow (pip install pyarrow)") from None
    except Exception as error:  # pandas and pyarrow raise a dozen kinds for a damaged file
        raise StudyError(f"{path.name} cannot be read: {one_line(error)}") from error


def _checked(frame: pd.DataFrame, file: str) -> pd.DataFrame:
    if frame.empty:
        raise StudyError(f"{file} has a header and no rows" if len(frame.columns) else f"{file} is empty")
    frame = frame.set_axis(frame.columns.map(str), axis=1)
    if not frame.columns.is_unique:
        raise StudyError(f"{file} has two columns named {frame.columns[frame.columns.duplicated()][0]!r}")
    return frame.reset_index(drop=True)


def _read_csv(path: Path, as_text: bool) -> pd.DataFrame:
    with path.open("rb") as file:
        start = file.read(65536)
    if not start.strip():
        raise StudyError(f"{path.name} is empty")
    if b"\0" in start:
        raise StudyError(f"{path.name} is a binary file, not CSV")
    header = start.split(b"\n", 1)[0]
    separator = max(",;\t", key=lambda mark: header.count(mark.encode()))
    read: dict[str, Any] = {"dtype": str, "keep_default_na": False} if as_text else {"na_values": ["?"]}
    return pd.read_csv(path, sep=separator, encoding="utf-8-sig", skipinitialspace=True, low_memory=False, **read)


def _names(frame: pd.DataFrame, limit: int = 12) -> str:
    names = [str(name) for name in frame.columns]
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def encode_target(series: pd.Series, file: str, target: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels as positions in the sorted class names; numbers sort as numbers, anything else as text."""
    numbers = _numbers(series)
    if numbers is None:
        values = series.astype(str).to_numpy(dtype=object)
        names, codes = np.unique(values.astype(str), return_inverse=True)
        return codes.astype(np.int64), tuple(str(name) for name in names)
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


def _encode_column(name: str, series: pd.Series, file: str) -> tuple[list[tuple[Column, NDArray[np.float64]]], list[str]]:
    """A column as one or more of float64 with NaN for missing, and a note where one is needed; none for a column that is left out."""
    present = series.dropna()
    if present.empty:
        return [], [f"{name}: left out, it is always missing"]
    try:
        distinct = int(present.nunique())
    except TypeError:
        raise StudyError(f"{file}: column {name!r} holds {type(present.iloc[0]).__name__}; a study reads numbers and words") from None
    if distinct == 1 and len(present) == len(series):
        return [], [f"{name}: left out, it is constant"]

    numbers = _numbers(series)
    if numbers is not None:
        if np.isinf(numbers).any():
            raise StudyError(f"{file}: column {name!r} holds infinite values")
        if series.dtype.kind in "iu" and len(numbers) > ROWS_PER_CLASS and (np.diff(numbers) == 1).all():
            return [], [f"{name}: left out, it numbers the rows"]
        return [(Column(name, "numeric"), numbers)], []

    if parts := date_parts(series):
        first, *more = parts
        columns = [(Column(name, "numeric"), first.values), *((Column(f"{name} ({what})", "numeric"), rest) for what, rest in more)]
        return columns, [f"{name}: dates, read as {', '.join(part.what for part in parts)}"]
    if ambiguous(series):
        return [], [f"{name}: left out, its dates could be day/month or month/day; write them as 2024-12-31"]

    if distinct > MANY and distinct > len(present) / 2:
        return [], [f"{name}: left out as a name or free text, with {distinct} different values in {len(present)} rows"]
    words = present.astype(str)
    categories, codes = np.unique(words.to_numpy(dtype=object).astype(str), return_inverse=True)
    encoded = np.full(len(series), np.nan)
    encoded[series.notna().to_numpy()] = codes
    return [(Column(name, "categorical", tuple(str(category) for category in categories)), encoded)], []


def _identifies(series: pd.Series) -> bool:
    """Whether a column has another whole number in each of many rows, as a customer's number has."""
    return series.dtype.kind in "iu" and len(series) > MANY and series.is_unique


def _numbers(series: pd.Series) -> NDArray[np.float64] | None:
    """The column as float64 when it holds numbers or truth values, else None."""
    if isinstance(series.dtype, pd.CategoricalDtype) or pd.api.types.is_complex_dtype(series.dtype):
        return None
    if pd.api.types.is_numeric_dtype(series.dtype):  # truth values among them
        return series.to_numpy(dtype=np.float64, na_value=np.nan)
    if series.dtype == object and pd.api.types.infer_dtype(series, skipna=True) in ("boolean", "integer", "floating", "decimal"):
        return np.asarray(series.map(float, na_action="ignore").to_numpy(dtype=np.float64, na_value=np.nan), dtype=np.float64)
    return None


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
