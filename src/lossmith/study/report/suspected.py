"""What is said of labels that are probably wrong: in a sentence, in a section of the report, and in a file for spreadsheets."""

import csv
import io
import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossmith.study.mislabelled import BEFORE, FOLDS, Check, Suspects
from lossmith.study.report.exports import harmless
from lossmith.study.report.writing import write_whole
from lossmith.study.spec import StudySpec

if TYPE_CHECKING:
    import pandas as pd

FILE = "suspects.csv"

SHOWN = 10
"""Rows in the report; the others are in the file."""

CAVEAT = (
    "This is an estimate. Right labels of rows that are hard to tell are among these, those of rare classes above all; wrong labels that a "
    "model would give too are not. Look at each before you change it."
)

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


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
    frame = table(found)
    frame["probability_of_given"] = [float(f"{p:.6g}") for p in found.probability]
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow([_cell(name) for name in frame.columns])
    out.writerows([_cell(value) for value in row] for row in frame.itertuples(index=False))
    return write_whole(Path(folder) / FILE, text.getvalue().encode())


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


def _cell(value: Any) -> Any:
    """A value that a spreadsheet takes for what it is; a number, though it begin with a sign, is no formula, and NaN is an empty cell."""
    if value is None or value != value:
        return ""
    text = str(value)
    return text if _NUMBER.fullmatch(text) else harmless(text)
