"""``lossmith report``: the table and the report of a study that is in a store, without computing anything."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lossmith._checks import nearest
from lossmith.cli.compare import known_claim, known_test
from lossmith.cli.noise_report import kept_by
from lossmith.cli.presenting import FORMATS, present
from lossmith.cli.problems import USAGE, Problem, need


def report(
    store: Path,
    /,
    *more: Path,
    study: int | None = None,
    out: Path | None = None,
    test: str = "corrected_t",
    claim: str = "these",
    format: str = "html",
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Rebuild a report.

    Args:
        store: the SQLite file that compare wrote.
        more: further ones, where a study was computed in parts (compare --shard): all are read as one.
            A trial that several hold counts once; where their numbers differ, the first store's count and a warning says so.
        study: which of its studies, counted from 1 in the order they were last run; the latest when left out.
        out: folder of the report; the first store's own when left out.
        test: corrected_t, signed_rank or anytime_t, see compare.
        claim: these, alike or each, of studies that were run together; see compare.
        format: html (report.html, train_winner.py, and suspects.csv where the study had a noise report), csv or parquet (trials and
            summary), or latex (table.tex and references.bib).
        as_json: print the results as JSON.
    """
    need("compare", "lossmith report")
    from lossmith.study import load_all, load_all_united
    from lossmith.study.protocol import fitting_test

    tested, declared = known_test(test), known_claim(claim)
    if format not in FORMATS:
        raise Problem(f"--format must be one of {', '.join(FORMATS)}; got {format!r}{nearest(format, FORMATS)}", USAGE)
    if study is not None and study < 1:
        raise Problem(f"--study counts from 1; got {study}", USAGE)
    which = -1 if study is None else study - 1
    results = load_all_united([store, *more], which) if more else load_all(store, which)
    tested = fitting_test(results[0].spec, tested)
    kept = kept_by([store, *more], results)
    return present(results, tested, declared, store.parent if out is None else out, as_json=as_json, form=format, noise_report=kept)
