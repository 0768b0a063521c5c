"""Dates become numbers, in one way for a whole column, or not at all."""

import pandas as pd
import pytest

from lossmith.study.data.dates import ambiguous, date_parts


def parts(values: list[object]) -> dict[str, list[float]]:
    return {part.what: part.values.tolist() for part in date_parts(pd.Series(values))}


@pytest.mark.parametrize(
    "written",
    [
        ["2024-12-31", "2025-01-01"], ["2024-12-31T00:00", "2025-01-01 00:00:00"], ["31.12.2024", "1.1.2025"], ["2024/12/31", "2025/01/01"],
        ["12/31/2024", "01/01/2025"], ["31-12-2024", "01-01-2025"], [pd.Timestamp("2024-12-31"), pd.Timestamp("2025-01-01")],
        [pd.Timestamp("2024-12-31").date(), pd.Timestamp("2025-01-01").date()],
    ],
)  # fmt: skip
def test_the_same_days_however_they_are_written(written: list[object]) -> None:
    assert parts(written) == {"days since 1970-01-01": [20088.0, 20089.0], "month": [12.0, 1.0], "day of the week": [1.0, 2.0]}


def test_hours_are_there_where_they_differ_and_zones_are_one() -> None:
    found = parts(["2024-03-04T06:30+02:00", "2024-03-04T12:00+00:00"])
    assert found == {"days since 1970-01-01": [19786 + 4.5 / 24, 19786.5], "hour": [4.5, 12.0]}


def test_a_missing_date_is_missing_in_every_part() -> None:
    for values in parts(["2024-12-31", None, "2025-01-01"]).values():
        assert [value != value for value in values] == [False, True, False]


def test_durations_are_days() -> None:
    assert parts([pd.Timedelta(hours=36), pd.Timedelta(days=2)]) == {"days": [1.5, 2.0]}


@pytest.mark.parametrize("values", [["2024-12-31", "soon"], ["2024-13-31"], ["red", "blue"], [1, 2], ["31.12.2024", "2024-12-31"], ["1.5"]])
def test_what_is_not_all_dates_is_none(values: list[object]) -> None:
    assert parts(values) == {}


def test_day_and_month_are_not_guessed_at() -> None:
    unclear = pd.Series(["03/04/2024", "05/06/2024"])
    assert ambiguous(unclear)
    assert date_parts(unclear) == []
    assert not ambiguous(pd.Series(["03/04/2024", "25/06/2024"]))
    assert not ambiguous(pd.Series(["03/03/2024", "05/05/2024"]))  # the same days both ways
    assert parts(["03/04/2024", "25/06/2024"])["month"] == [4.0, 6.0]
