"""Columns of dates and times as numbers: a trend (days since 1970) and where in the year, the week and the day.

A column is dates when every value is. Texts are read in one of a few fixed ways, the same for the whole column; a column that could be
read in two ways (is 03/04/2024 in March or in April?) is not guessed at.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

ISO = r"\d{4}-\d{2}-\d{2}(?:[T ].*)?"

WRITTEN = {
    r"\d{1,2}\.\d{1,2}\.\d{4}": ("%d.%m.%Y",),
    r"\d{4}/\d{1,2}/\d{1,2}": ("%Y/%m/%d",),
    r"\d{1,2}/\d{1,2}/\d{4}": ("%d/%m/%Y", "%m/%d/%Y"),
    r"\d{1,2}-\d{1,2}-\d{4}": ("%d-%m-%Y", "%m-%d-%Y"),
}
"""How a text may look besides ISO 8601, and the orders of day and month it may then have."""


class Part(NamedTuple):
    """One number made of every date of a column, NaN where the date is missing."""

    what: str
    values: NDArray[np.float64]


def date_parts(series: pd.Series) -> list[Part]:
    """What a column of dates or durations becomes; empty where it is none.

    Days since 1970-01-01 always; month, day of the week (Monday is 0) and hour where they differ among the rows. Times with a zone are
    read in UTC. A duration becomes a number of days.
    """
    if pd.api.types.is_timedelta64_dtype(series.dtype):
        return [Part("days", np.asarray(series / pd.Timedelta(days=1), dtype=np.float64))]
    stamps = _stamps(series)
    if stamps is None:
        return []
    days = (stamps - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(days=1)
    parts = [Part("days since 1970-01-01", np.asarray(days, dtype=np.float64))]
    for what, values in (
        ("month", stamps.dt.month),
        ("day of the week", stamps.dt.day_of_week),
        ("hour", stamps.dt.hour + stamps.dt.minute / 60 + stamps.dt.second / 3600),
    ):
        if values.nunique() > 1:
            parts.append(Part(what, values.to_numpy(dtype=np.float64, na_value=np.nan)))
    return parts


def ambiguous(series: pd.Series) -> bool:
    """Whether a column holds dates whose day and month could be either of two numbers."""
    return _is_text(series) and len(_readings(series)) > 1


def _stamps(series: pd.Series) -> pd.Series | None:
    """The column as times in UTC, or None where a value is no date or the column can be read in two ways."""
    stamps: Any = None
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        stamps = pd.to_datetime(series, utc=True)
    elif _is_text(series):
        if series.dropna().str.fullmatch(ISO).all():
            stamps = pd.to_datetime(series, format="ISO8601", errors="coerce", utc=True)
        elif len(readings := _readings(series)) == 1:
            stamps = readings[0]
    elif pd.api.types.infer_dtype(series, skipna=True) in ("date", "datetime", "datetime64"):
        stamps = pd.to_datetime(series, errors="coerce", utc=True)
    return None if stamps is None or (stamps.isna() & series.notna()).any() else stamps


def _is_text(series: pd.Series) -> bool:
    return pd.api.types.is_string_dtype(series.dtype) and pd.api.types.infer_dtype(series, skipna=True) == "string"


def _readings(series: pd.Series) -> list[pd.Series]:
    """The column read in each of the ways that make a date of every value, different results only."""
    present = series.dropna().str.strip()
    for pattern, formats in WRITTEN.items():
        if present.str.fullmatch(pattern).all():
            read = [pd.to_datetime(series.str.strip(), format=form, errors="coerce", utc=True) for form in formats]
            whole = [stamps for stamps in read if not (stamps.isna() & series.notna()).any()]
            return whole[:1] if len(whole) == 2 and whole[0].equals(whole[1]) else whole
    return []
