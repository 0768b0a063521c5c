"""A study as tables for other programs: every trial a row, and every objective, metric and stop a row; CSV or Parquet.

Text that a spreadsheet would run as a formula is written with an apostrophe before it, in CSV only.
"""

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from lossmith.study.across import Population
from lossmith.study.errors import StudyError
from lossmith.study.grid import GridSummary
from lossmith.study.protocol import setting
from lossmith.study.report.writing import write_whole
from lossmith.study.spec import STOPS
from lossmith.study.summary import Summary
from lossmith.study.training.metrics import METRICS

if TYPE_CHECKING:
    import pandas as pd

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a cell begins with that a spreadsheet takes for a formula."""


def write_tables(found: Summary | GridSummary, folder: str | os.PathLike[str], kind: str) -> list[Path]:
    """Write ``trials`` and ``summary``, and for several studies ``claims``, as ``csv`` or ``parquet``; return the paths."""
    if isinstance(found, GridSummary):
        tables = {"trials": trials(found.summaries), "summary": summary(found.summaries, judged=False), "claims": claims(found)}
    else:
        tables = {"trials": trials([found]), "summary": summary([found])}
    return [write_whole(Path(folder) / f"{name}.{kind}", _bytes(table, kind)) for name, table in tables.items()]


def trials(summaries: Sequence[Summary]) -> "pd.DataFrame":
    """Every trial at both stops: what it was, whether validation chose it, and every metric on validation and test rows.

    Those on splits that were only tuned on (``tune_once``) are not `tested`: what their test rows say is left out.
    """
    import pandas as pd

    rows = []
    for one in summaries:
        splits = {**one.spec.draws, **one.spec.tuning_draws}
        for (label, draw, configuration), record in one.result.trials.items():
            seed, fold = splits[draw]
            tested = draw in one.spec.draws
            for stop in STOPS:
                seen = record.get(stop)
                if seen is None:
                    continue
                outcome = one.result.outcome(label, draw, stop) if tested else one.result.over(label, stop)[0]  # all chose the same
                rows.append(
                    {
                        **_place(one), "objective": label, "seed": seed, "fold": fold, "tested": tested,
                        "learning_rate": configuration.learning_rate, "weight_decay": configuration.weight_decay,
                        "hyper": configuration.hyper_text, "stop": stop,
                        "chosen": outcome.configuration == configuration, "epoch": seen["epoch"], "status": record["status"],
                        "seconds": record.get("seconds"), "calibration": seen["calibration"], "temperature": seen["temperature"],
                        **{f"validation_{name}": seen["val"].get(name) for name in METRICS},
                        **{f"test_{name}": seen["test"].get(name) if tested else None for name in METRICS},
                    }
                )  # fmt: skip
    return pd.DataFrame(rows).astype({"fold": "Int64"}) if rows else pd.DataFrame(rows)


def summary(summaries: Sequence[Summary], *, judged: bool = True) -> "pd.DataFrame":
    """Every objective in every metric at both stops: mean and interval, difference to the baseline, p-value and verdict where declared."""
    import pandas as pd

    rows = []
    for one in summaries:
        for stop in STOPS:
            for name in METRICS:
                for line in one.lines(name, stop):
                    found = line.comparison
                    declared = (name, stop) == (one.spec.metric, one.spec.stop)
                    rows.append(
                        {
                            **_place(one), "metric": name, "stop": stop, "declared": declared, "objective": line.objective,
                            "seeds": len(line.estimate.values), "missing": line.estimate.missing, "mean": line.estimate.mean,
                            "low": _finite(line.estimate.low), "high": _finite(line.estimate.high), "scaled": line.estimate.scaled,
                            "baseline": one.baseline,
                            "difference": None if found is None else found.mean_difference,
                            "difference_low": None if found is None else _finite(found.low),
                            "difference_high": None if found is None else _finite(found.high),
                            "p": None if found is None or not judged else found.p,
                            "p_adjusted": None if found is None or not judged else found.p_adjusted,
                            "verdict": None if found is None else found.verdict if judged else "not tested",
                        }
                    )  # fmt: skip
    return pd.DataFrame(rows)


def claims(found: GridSummary) -> "pd.DataFrame":
    """Every objective on each data set and over all, for each setting and claim; only the declared claim has p-values and verdicts."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for one, told in found.each:
        declared = found.claim == "each"
        rows.append(
            {
                "claim": "each", "declared": declared, "setting": setting(one.spec, one.result.data["name"]), "objective": told.objective,
                "baseline": told.baseline, "metric": told.metric, "data_sets": 1, "better_on": None, "worse_on": None,
                "difference": told.mean_difference, "low": _finite(told.low), "high": _finite(told.high), "p": told.p if declared else None,
                "p_adjusted": told.p_adjusted if declared else None, "verdict": told.verdict if declared else "not tested",
            }
        )  # fmt: skip
    for population in get_args(Population):
        declared = population == found.claim
        rows += [
            {
                "claim": population, "declared": declared, "setting": one.setting, "objective": one.objective, "baseline": one.baseline,
                "metric": one.metric, "data_sets": one.data_sets, "better_on": one.better_on, "worse_on": one.worse_on,
                "difference": one.mean_difference, "low": _finite(one.low), "high": _finite(one.high), "p": one.p if declared else None,
                "p_adjusted": one.p_adjusted if declared else None, "verdict": one.verdict if declared else "not tested",
            }
            for one in found.across(population)
        ]  # fmt: skip
    return pd.DataFrame(rows)


def _place(one: Summary) -> dict[str, Any]:
    """Which study a row is of."""
    return {
        "data": one.result.data["name"],
        "noise": str(one.spec.noise or "none"),
        "imbalance": one.spec.imbalance,
        "model": one.spec.model,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _bytes(table: "pd.DataFrame", kind: str) -> bytes:
    if kind == "csv":
        return _harmless(table).to_csv(index=False, lineterminator="\n").encode()
    target = io.BytesIO()
    try:
        table.to_parquet(target, index=False)
    except ImportError:
        raise StudyError("Parquet needs pyarrow: pip install pyarrow; or take --format csv") from None
    return target.getvalue()


def _harmless(table: "pd.DataFrame") -> "pd.DataFrame":
    """The table with every text `harmless`."""
    return table.map(lambda value: harmless(value) if isinstance(value, str) else value)


def harmless(text: str) -> str:
    """A text on one line, with an apostrophe before what a spreadsheet would take for a formula."""
    safe = f"'{text}" if text.startswith(FORMULA) else text
    return safe.replace("\r", " ").replace("\n", " ")
