"""CSV, Parquet and ARFF files as data frames."""

from pathlib import Path
from typing import Any

import pandas as pd

from lossmith.study.data.arff import read_arff
from lossmith.study.errors import StudyError, one_line

CSV = (".csv", ".tsv", ".txt")
PARQUET = (".parquet", ".pq")
ARFF = (".arff",)


def read_frame(path: Path) -> pd.DataFrame:
    """A file's table, with one row at least and one name a column."""
    return checked(_read(path), path.name)


def read_cells(path: Path) -> pd.DataFrame:
    """A file's cells as they stand there, for showing rows to whoever wrote them: text in CSV, without numbers or gaps read into it."""
    return checked(_read(path, as_text=True), path.name)


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


def checked(frame: pd.DataFrame, file: str) -> pd.DataFrame:
    """A frame whose columns have different names, and that has rows."""
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


def names(frame: pd.DataFrame, limit: int = 12) -> str:
    """The names of the columns, or of the first ones."""
    found = [str(name) for name in frame.columns]
    return ", ".join(found[:limit]) + (f" and {len(found) - limit} more" if len(found) > limit else "")
