"""CSV and Parquet: what becomes a number, what a category, what is left out, what is said about it, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lossmith.study import Dataset, StudyError, StudySpec, load_data

ROWS = 60


def frame() -> pd.DataFrame:
    generator = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "id": np.arange(100, 100 + ROWS),
            "name": [f"person {i}" for i in range(ROWS)],
            "age": np.where(np.arange(ROWS) % 10 == 0, np.nan, generator.normal(40, 10, ROWS)),
            "colour": np.where(np.arange(ROWS) % 7 == 0, None, np.array(["red", "green", "blue"])[np.arange(ROWS) % 3]),
            "member": np.arange(ROWS) % 2 == 0,
            "since": pd.date_range("2020-01-01", periods=ROWS).astype(str),
            "constant": 3.5,
            "nothing": np.nan,
            "bought": np.where(np.arange(ROWS) % 3 == 0, "yes", "no"),
        }
    )


@pytest.fixture(params=["csv", "tsv", "semicolon", "parquet", "frame"])
def read(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[pd.DataFrame, str], Dataset]:
    def to_dataset(table: pd.DataFrame, target: str) -> Dataset:
        if request.param == "frame":
            spec = StudySpec(data=table, target=target, objectives="cross_entropy")
            assert isinstance(spec.data, Dataset)
            return spec.data
        path = tmp_path / f"people.{'parquet' if request.param == 'parquet' else 'tsv' if request.param == 'tsv' else 'csv'}"
        if request.param == "parquet":
            pytest.importorskip("pyarrow")
            table.to_parquet(path)
        else:
            table.to_csv(path, index=False, sep={"csv": ",", "tsv": "\t", "semicolon": ";"}[request.param])
        return load_data(str(path), target)

    return to_dataset


def test_a_table_is_read(read: Callable[[pd.DataFrame, str], Dataset]) -> None:
    data = read(frame(), "bought")
    assert data.class_names == ("no", "yes")
    assert data.labels.tolist() == [int(i % 3 == 0) for i in range(ROWS)]
    assert {column.name: column.kind for column in data.columns} == {
        "age": "numeric", "colour": "categorical", "member": "numeric", "since": "numeric", "since (month)": "numeric",
        "since (day of the week)": "numeric",
    }  # fmt: skip
    age, colour, member, since, month, day = data.features.T
    assert np.isnan(age).tolist() == [i % 10 == 0 for i in range(ROWS)]
    assert np.isnan(colour).tolist() == [i % 7 == 0 for i in range(ROWS)]
    assert data.columns[1].categories == ("blue", "green", "red")
    assert [data.columns[1].categories[int(code)] for code in colour[1:3]] == ["green", "blue"]
    assert member.tolist() == [float(i % 2 == 0) for i in range(ROWS)]
    assert since[:2].tolist() == [18262.0, 18263.0]  # days from 1970-01-01 to 2020-01-01
    assert month.tolist() == [1.0] * 31 + [2.0] * 29
    assert day[:8].tolist() == [2, 3, 4, 5, 6, 0, 1, 2]  # 2020-01-01 was a Wednesday


def test_every_decision_is_reported(read: Callable[[pd.DataFrame, str], Dataset]) -> None:
    notes = "\n".join(read(frame(), "bought").describe()["notes"])
    for said in (
        "id: left out, it numbers the rows",
        "name: left out as a name or free text, with 60 different values in 60 rows",
        "constant: left out, it is constant",
        "nothing: left out, it is always missing",
        "since: dates, read as days since 1970-01-01, month, day of the week",
        "missing values (age 6, colour 9)",
        "categorical columns",
    ):
        assert said in notes


def test_rows_without_a_target_are_left_out_and_reported(tmp_path: Path) -> None:
    table = frame()
    table["bought"] = table["bought"].where(table.index >= 5)
    table.to_csv(tmp_path / "t.csv", index=False)
    data = load_data(str(tmp_path / "t.csv"), "bought")
    assert len(data.labels) == ROWS - 5
    assert "5 of 60 rows have no bought and were left out" in data.notes


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([2, 10, 1], ("1", "2", "10")),
        ([2.0, np.nan, 1.0], ("1", "2")),
        ([True, False, True], ("False", "True")),
        (["b", "a", "B"], ("B", "a", "b")),
        ([0.5, 1.5, 0.5], ("0.5", "1.5")),
    ],
)
def test_classes_sort_as_numbers_or_as_words(tmp_path: Path, values: list[object], names: tuple[str, ...]) -> None:
    pd.DataFrame({"x": np.arange(30) ** 2, "y": values * 10}).to_csv(tmp_path / "t.csv", index=False)
    assert load_data(str(tmp_path / "t.csv"), "y").class_names == names


def test_question_marks_are_missing_numbers(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("x,y\n" + "".join(f"{'?' if i == 3 else i * i}, {'ab'[i % 2]}\n" for i in range(12)))
    data = load_data(str(tmp_path / "t.csv"), "y")
    assert data.columns[0].kind == "numeric"
    assert np.isnan(data.features[3, 0])
    assert data.class_names == ("a", "b")  # the space after the comma is no part of the word


BAD_FILES = {
    "empty.csv": b"",
    "blank.csv": b"\n \n",
    "header.csv": b"x,y\n",
    "binary.csv": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" * 9,
    "latin.csv": "x,y\n1,é\n".encode("latin-1"),
    "ragged.csv": b"x,y\n1,2\n1,2,3,4\n",
    "broken.parquet": b"PAR1 this is no parquet file",
    "sheet.xlsx": b"PK",
}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty.csv", "is empty"), ("blank.csv", "is empty"), ("header.csv", "no rows"), ("binary.csv", "binary file"),
        ("latin.csv", "UTF-8"), ("ragged.csv", "cannot be read"), ("broken.parquet", "cannot be read"), ("sheet.xlsx", "end in .csv"),
    ],
)  # fmt: skip
def test_a_bad_file_is_one_line(tmp_path: Path, name: str, message: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(BAD_FILES[name])
    with pytest.raises(StudyError, match=message) as caught:
        load_data(str(tmp_path / name), "y")
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("change", "target", "message"),
    [
        ({}, None, "say which one to predict with target"),
        ({}, "bougth", "no column 'bougth'; did you mean 'bought'"),
        ({"bought": "yes"}, "bought", "all 60 rows have the same label"),
        ({"bought": np.nan}, "bought", "every value of the target"),
        ({}, "age", "54 distinct numbers: a quantity"),
        ({"bought": ["a"] * 2 + ["b"] * 58}, "bought", "class 'a' has 2 rows"),
        ({"age": np.where(np.arange(ROWS) == 3, np.inf, np.arange(ROWS))}, "bought", "column 'age' holds infinite values"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_line(
    tmp_path: Path, change: dict[str, object], target: str | None, message: str | None
) -> None:
    frame().assign(**change).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(StudyError, match=message) as caught:
        load_data(str(tmp_path / "t.csv"), target)
    assert "\n" not in str(caught.value)


def test_nothing_to_learn_from_is_one_line(tmp_path: Path) -> None:
    frame()[["id", "constant", "bought"]].to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(StudyError, match=r"no column besides 'bought' is left .*numbers the rows; constant"):
        load_data(str(tmp_path / "t.csv"), "bought")


def test_a_column_of_lists_is_refused() -> None:
    table = frame().assign(tags=[[i] for i in range(ROWS)])
    with pytest.raises(StudyError, match="column 'tags' holds list"):
        StudySpec(data=table, target="bought", objectives="cross_entropy")
