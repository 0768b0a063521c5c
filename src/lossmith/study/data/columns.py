"""A column of a table as numbers: how it is read, and how a further table's column is read in the same way."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lossmith.study.data.dataset import ROWS_PER_CLASS, Column
from lossmith.study.data.dates import ambiguous, date_parts
from lossmith.study.errors import StudyError

MANY = 20
"""More distinct numbers than this, some hardly ever repeated, are a quantity and not classes; more distinct words than this, most of
them never repeated, are names and not categories."""


def encode_column(name: str, series: pd.Series, file: str) -> tuple[list[tuple[Column, NDArray[np.float64]]], list[str]]:
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

    numbers = as_numbers(series)
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


def identifies(series: pd.Series) -> bool:
    """Whether a column has another whole number in each of many rows, as a customer's number has."""
    return series.dtype.kind in "iu" and len(series) > MANY and series.is_unique


def encode_like(columns: Sequence[Column], known: pd.Series, further: pd.Series, file: str) -> list[NDArray[np.float64]]:
    """A further table's column as the numbers that a study's own became; nothing is decided anew.

    A word that the study's column does not have gets a position after all of its categories, which no model has an indicator for.

    Args:
        columns: what the study's column became.
        known: that column.
        further: the one to be read like it.
        file: what messages call the further table.
    """
    name = str(known.name)
    if columns[0].kind == "categorical":
        place = {category: float(k) for k, category in enumerate(columns[0].categories)}
        new = float(len(place))
        words = zip(further, further.isna(), strict=True)
        return [np.array([np.nan if gap else place.get(str(word), place.get(_word(word), new)) for word, gap in words])]
    if as_numbers(known) is not None:
        numbers = np.full(len(further), np.nan) if further.isna().all() else as_numbers(further)
        if numbers is None:
            raise StudyError(f"{file}: column {name!r} holds {_example(further)}, and numbers in the study's table")
        if np.isinf(numbers).any():
            raise StudyError(f"{file}: column {name!r} holds infinite values")
        return [numbers]
    if further.isna().all():
        return [np.full(len(further), np.nan)] * len(columns)
    parts = {part.what: part.values[len(known) :] for part in date_parts(pd.concat([known, further], ignore_index=True))}
    wanted = [part.what for part in date_parts(known)]  # together they may show more: another month, another hour
    if not set(wanted) <= set(parts):
        date = known.dropna().iloc[0]
        raise StudyError(f"{file}: column {name!r} holds {_example(further)}, and in the study's table dates such as {date}")
    return [parts[what] for what in wanted]


def _word(value: object) -> str:
    """A whole number without the point that gaps in its column have given it, as it is written where other rows are words."""
    return f"{value:.15g}" if isinstance(value, float) and value.is_integer() else str(value)


def _example(series: pd.Series) -> str:
    """A value that shows what a column holds."""
    present = series.dropna()
    odd = present[pd.to_numeric(present.astype(str), errors="coerce").isna()]
    return repr(str((odd if len(odd) else present).iloc[0]))


def as_numbers(series: pd.Series) -> NDArray[np.float64] | None:
    """The column as float64 when it holds numbers or truth values, else None."""
    if isinstance(series.dtype, pd.CategoricalDtype) or pd.api.types.is_complex_dtype(series.dtype):
        return None
    if pd.api.types.is_numeric_dtype(series.dtype):  # truth values among them
        return series.to_numpy(dtype=np.float64, na_value=np.nan)
    if series.dtype == object and pd.api.types.infer_dtype(series, skipna=True) in ("boolean", "integer", "floating", "decimal"):
        return np.asarray(series.map(float, na_action="ignore").to_numpy(dtype=np.float64, na_value=np.nan), dtype=np.float64)
    return None
