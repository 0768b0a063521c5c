"""Labels that are probably wrong, and what is said of them: in a sentence, in a section of the report, and in a file for spreadsheets."""

import csv
import hashlib
import io
import itertools
import math
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lossmith.study.data.corruption import Noise
from lossmith.study.errors import StudyError
from lossmith.study.report.exports import harmless
from lossmith.study.report.writing import write_whole
from lossmith.study.spec import StudySpec

if TYPE_CHECKING:
    import pandas as pd

FOLDS = 5
"""Every model learns from four fifths of the rows, validation rows included."""

BEFORE = "before the noise"
"""What the labels are called that the data have, where the study replaced some."""

FILE = "suspects.csv"

SHOWN = 10
"""Rows in the report; the others are in the file."""

CAVEAT = (
    "This is an estimate. Right labels of rows that are hard to tell are among these, those of rare classes above all; wrong labels that a "
    "model would give too are not. Look at each before you change it."
)

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Check:
    """How right the suspicions are, over the rows that have another label to compare with.

    Attributes:
        against: which labels count as right: those of the column of trusted ones, or ``"before the noise"`` that the study put in.
        known: how many rows have one.
        wrong: how many labels differ from it.
        suspect: how many are suspect.
        found: how many are both.
    """

    against: str
    known: int
    wrong: int
    suspect: int
    found: int

    @property
    def precision(self) -> float:
        """The share of the suspects that is wrong; NaN without any."""
        return self.found / self.suspect if self.suspect else math.nan

    @property
    def recall(self) -> float:
        """The share of the wrong labels that is suspect; NaN without any."""
        return self.found / self.wrong if self.wrong else math.nan


@dataclass(frozen=True, eq=False)
class Suspects:
    """Labels that are probably wrong, the likeliest to be wrong first.

    Attributes:
        objective: what the models minimised, with the hyper-parameters chosen.
        rows: positions in the data as they were given, counted from 0.
        given, likely: what the label says, and the class that the row is confidently of.
        probability: of the given label, by a model that did not see the row.
        noise_rate: the estimated share of wrong labels, of all rows.
        probabilities: `(n, c)` of all rows that were looked at, each by the model that did not see it.
        labels: `(n,)` theirs, as looked at: positions in `class_names`.
        class_names: what they mean.
        noise: that was put into the labels before they were looked at; None for the labels as they stand.
        right: the suspects' labels that count as right, None where a row has none; None altogether where there are none.
        check: how right the suspicions are, by these; None where there are none.
        files: the suspects' images, of images in folders; empty otherwise.
        cells: the suspects' rows as they stand in the file, without the target; None where the data are no file with columns.
    """

    objective: str
    rows: NDArray[np.int64]
    given: tuple[str, ...]
    likely: tuple[str, ...]
    probability: NDArray[np.float64]
    noise_rate: float
    probabilities: NDArray[np.float64]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    noise: Noise | None = None
    right: tuple[str | None, ...] | None = None
    check: Check | None = None
    files: tuple[str, ...] = ()
    cells: "pd.DataFrame | None" = None

    @property
    def sentence(self) -> str:
        """What was found, in words."""
        return sentence(self)

    def table(self) -> "pd.DataFrame":
        """The suspects, one a row, with their own columns where they have some; rows are counted from 1."""
        return table(self)

    def as_dict(self) -> dict[str, Any]:
        """All of it but the probabilities of all rows, in a JSON-able form; cells as they are written into the file."""
        plain = {name: getattr(self, name) for name in ("objective", "given", "likely", "noise_rate", "class_names", "right", "files")}
        numbers = {name: getattr(self, name).tolist() for name in ("rows", "probability", "labels")}
        cells = None
        if self.cells is not None:
            rows = [[_text(value) for value in row] for row in self.cells.itertuples(index=False)]
            cells = {"columns": list(map(str, self.cells.columns)), "rows": rows}
        noise, check = None if self.noise is None else str(self.noise), None if self.check is None else asdict(self.check)
        return {**plain, **numbers, "noise": noise, "check": check, "cells": cells}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], probabilities: NDArray[np.float64]) -> "Suspects":
        """What `as_dict` wrote down, with the probabilities."""
        read: dict[str, Any] = dict(plain)
        read |= {name: tuple(plain[name]) for name in ("given", "likely", "class_names", "files")}
        read |= {"rows": np.array(plain["rows"], dtype=np.int64), "labels": np.array(plain["labels"], dtype=np.int64)}
        read |= {"probability": np.array(plain["probability"], dtype=np.float64), "probabilities": probabilities}
        read |= {"right": None if plain["right"] is None else tuple(plain["right"])}
        read |= {"noise": None if plain["noise"] is None else Noise.parse(plain["noise"])}
        read |= {"check": None if plain["check"] is None else Check(**plain["check"])}
        if plain["cells"] is not None:
            import pandas as pd

            read["cells"] = pd.DataFrame(plain["cells"]["rows"], columns=plain["cells"]["columns"], dtype=object)
        return cls(**read)

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``suspects.csv`` into a folder, made when absent, and return its path."""
        return write_suspects(self, folder)

    def _repr_html_(self) -> str:
        return self.table().to_html(index=False)


def afterwards(spec: StudySpec) -> str:
    """What will be done, in a sentence for the plan."""
    labels = "the data's labels"
    if spec.noise is not None:
        labels += f" under the noise {spec.noise} of seed {spec.seeds[0]}, which are known"
    known = "" if spec.clean_target is None else f", and checks them by {spec.clean_target}"
    return f"{FOLDS} trainings of {spec.objectives[0].label} more look for wrong ones among {labels}{known}, for {FILE}"


def sentence(found: Suspects) -> str:
    """What was found, in a sentence or two."""
    n = len(found.labels)
    labels = f"{n} labels" if found.noise is None else f"{n} labels under noise {found.noise}"
    if not len(found.rows):
        said = f"None of the {labels} looks wrong."
    else:
        look = "looks" if len(found.rows) == 1 else "look"
        said = f"{len(found.rows)} of the {labels} {look} wrong (estimated share of wrong labels: {_percent(found.noise_rate)})."
    return said if found.check is None else f"{said} {_checked(found.check, n)}"


def how(found: Suspects) -> str:
    """Where the suspicions come from."""
    said = (
        f"Every row was predicted by a model that had not seen it: {found.objective}, in {FOLDS} folds, with the configuration that most "
        "splits chose. A label looks wrong when the row is confidently of another class (confident learning, Northcutt et al. 2021)."
    )
    if found.noise is None:
        return said
    return f"{said} The labels are those of the data with {found.noise} of the study’s first seed, to show how well such noise is found."


def table(found: Suspects) -> "pd.DataFrame":
    """The suspects, one a row: which, what the label says, what the row looks like, and the row's own columns."""
    import pandas as pd

    first = {"file": list(found.files)} if found.files else {"row": found.rows + 1}
    columns: dict[str, Any] = {
        **first,
        "given_label": list(found.given),
        "likely_label": list(found.likely),
        "probability_of_given": found.probability,
    }
    if found.right is not None and found.check is not None:
        columns[_column(found.check).replace(" ", "_")] = list(found.right)
    if found.cells is not None:
        for name in found.cells.columns:
            columns[f"{name} (yours)" if name in columns else str(name)] = found.cells[name].tolist()
    return pd.DataFrame(columns)


def write_suspects(found: Suspects, folder: str | os.PathLike[str]) -> Path:
    """Write ``suspects.csv``: every text on one line, and an apostrophe before what a spreadsheet would take for a formula."""
    return write_whole(Path(folder) / FILE, content(found))


def content(found: Suspects) -> bytes:
    """What ``suspects.csv`` holds."""
    frame = table(found)
    frame["probability_of_given"] = [float(f"{p:.6g}") for p in found.probability]
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow([_cell(name) for name in frame.columns])
    out.writerows([_cell(value) for value in row] for row in frame.itertuples(index=False))
    return text.getvalue().encode()


def make_way(folder: str | os.PathLike[str], found: Suspects | None, written: Collection[str]) -> str:
    """See to a ``suspects.csv`` that lies in a folder and is not what these suspects come to: the list of another study would stand beside
    this one's report. What was written before, and can be written again, is removed; what somebody may have worked in gets another name.

    Args:
        folder: of the report.
        found: what is to lie there afterwards; None for nothing.
        written: the SHA-256 of every list that can be written again.

    Returns:
        What was done, in a sentence; nothing where nothing was.
    """
    path = Path(folder) / FILE
    try:
        lies = path.read_bytes() if path.is_file() else None
        if lies is None or (found is not None and lies == content(found)):
            return ""
        if hashlib.sha256(lies).hexdigest() in written:
            path.unlink()
            return "" if found is not None else f"removed {path}, the list of another study; lossmith report brings it back"
        free = next(name for k in itertools.count(1) if not (name := path.with_name(f"{path.stem}-{k}{path.suffix}")).exists())
        path.rename(free)
    except OSError as error:
        raise StudyError(f"{path} is not of this study, and cannot be moved out of its way: {error.strerror or error}") from error
    return f"{path} was not of this study, or changed since: it is {free.name} now"


def section(found: Suspects) -> dict[str, Any]:
    """What the page shows: the sentence, where it comes from, and the first rows."""
    names = found.files or [str(row + 1) for row in found.rows]
    rights = [None] * len(found.rows) if found.right is None else found.right
    rows = zip(names, found.given, found.likely, found.probability.tolist(), rights, strict=True)
    return {
        "sentence": sentence(found),
        "how": how(found),
        "caveat": CAVEAT,
        "file": FILE,
        "count": len(found.rows),
        "place": "file" if found.files else "row",
        "checked": "" if found.check is None else _column(found.check),
        "rows": [
            {"name": name, "given": given, "likely": likely, "probability": f"{p:.3g}", "value": p, "right": right or ""}
            for name, given, likely, p, right in list(rows)[:SHOWN]
        ],
    }


def facts(found: Suspects, path: Path) -> dict[str, Any]:
    """The same as plain values, for JSON."""
    check = found.check
    rows = [
        {"row": row, "given": given, "likely": likely, "probability_of_given": p}
        for row, given, likely, p in zip((found.rows + 1).tolist(), found.given, found.likely, found.probability.tolist(), strict=True)
    ]
    return {
        "objective": found.objective,
        "sentence": sentence(found),
        "labels": len(found.labels),
        "noise_rate": found.noise_rate,
        "noise": None if found.noise is None else str(found.noise),
        "check": None if check is None else {**asdict(check), "precision": check.precision, "recall": check.recall},
        "suspects": [{**row, "file": file} for row, file in zip(rows, found.files, strict=True)] if found.files else rows,
        "file": str(path),
    }


def _checked(check: Check, n: int) -> str:
    of = "" if check.known == n else f" of the {check.known} that have one there"
    by = "The noise replaced" if check.against == BEFORE else f"By {check.against}, wrong are"
    if not check.wrong or not check.suspect:
        return f"{by} {check.wrong}{of}, and {check.found} of these look so."
    return f"{by} {check.wrong}{of}: {_percent(check.recall)} of these look so, and they are {_percent(check.precision)} of those that do."


def _column(check: Check) -> str:
    """What the labels that count as right are called."""
    return "label before the noise" if check.against == BEFORE else "trusted label"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _cell(value: Any) -> str:
    """A value that a spreadsheet takes for what it is; a number, though it begin with a sign, is no formula, and NaN is an empty cell."""
    text = _text(value)
    return text if _NUMBER.fullmatch(text) else harmless(text)


def _text(value: Any) -> str:
    return "" if value is None or value != value else str(value)
