"""What trackers are told of a study, in the flat form that all of them take: names, parameters, numbers, curves, a table."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lossmith.study.spec import STOPS, StudySpec, TrialSpec
from lossmith.study.training.yardsticks import Yardstick
from lossmith.study.tuning.configuration import WEIGHT_DECAY

if TYPE_CHECKING:
    import pandas as pd

    from lossmith.study.summary import Summary


def study_name(study: StudySpec) -> str:
    """Readable, and another one for every other question."""
    asked = study.as_dict()
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:8]
    noise = "" if study.noise is None else f", {study.noise}"
    return f"{asked['data']}{noise}, {study.model}, {digest}"


def trial_name(trial: TrialSpec | Yardstick) -> str:
    """Readable, and another one for every other trial of a study; the usual weight decay goes without saying."""
    fold = "" if trial.fold is None else f", fold {trial.fold}"
    name = f"{trial.objective.label}, seed {trial.seed}{fold}"
    if not isinstance(trial, TrialSpec):
        return name
    decay = "" if trial.weight_decay == WEIGHT_DECAY else f", weight decay {trial.weight_decay:g}"
    return f"{name}, learning rate {trial.learning_rate:g}{decay}"


def parameters(trial: TrialSpec | Yardstick) -> dict[str, str | int | float | bool]:
    """All that a trial depends on; what it does not use is left out."""
    named = {**trial.as_dict(), "objective": trial.objective.label, **{f"objective.{name}": value for name, value in trial.objective.hyper}}
    return {
        name: value if isinstance(value, str | int | float | bool) else json.dumps(value)
        for name, value in named.items()
        if value is not None
    }


def curves(record: Mapping[str, Any]) -> Iterator[tuple[int, str, float]]:
    """Epoch, name and value of all that was measured after every epoch; a reference has none."""
    for entry in record.get("epochs", ()):
        found = {"train_loss": entry["train_loss"]}
        for part, name in (("val", "validation"), ("test", "test")):
            found |= {f"{name}/{metric}": value for metric, value in entry[part].items()}
        for name, value in found.items():
            if _is_number(value):
                yield entry["epoch"], name, float(value)


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """What a trial ended with: ``last/test/accuracy``, ``best/validation/log_loss``; of a reference ``plain/test/accuracy``."""
    found: dict[str, Any] = {}
    for stop in STOPS:
        seen = record.get(stop, {})
        for part, name in (("val", "validation"), ("test", "test")):
            found |= {f"{stop}/{name}/{metric}": value for metric, value in seen.get(part, {}).items()}
        for probe, measures in (seen.get("probes") or {}).items():
            found |= {f"{stop}/probe/{probe}/{measure}": value for measure, value in measures.items()}
        if seen:
            found[f"{stop}/epoch"] = seen["epoch"]
    for treatment in ("plain", "threshold"):
        found |= {f"{treatment}/test/{metric}": value for metric, value in record.get(treatment, {}).items()}
    found["seconds"] = record.get("seconds")
    return {name: float(value) for name, value in found.items() if _is_number(value)}


def table(summary: "Summary") -> "pd.DataFrame":
    """A study's final table; one that was run together with others is not judged by itself."""
    from lossmith.study.report import exports

    return exports.summary([summary], judged=summary.spec.grid is None)


def table_numbers(rows: "pd.DataFrame") -> dict[str, float]:
    """The means of the final table: ``mean/last/accuracy/cross_entropy``."""
    named = zip(rows["stop"], rows["metric"], rows["objective"], rows["mean"], strict=True)
    return {f"mean/{stop}/{metric}/{objective}": float(mean) for stop, metric, objective, mean in named if _is_number(mean)}


def markdown(summary: "Summary", rows: "pd.DataFrame") -> str:
    """The declared part of the final table, and the answer in words over it where the study was one alone."""
    from lossmith.study.report import words

    columns = ["objective", "mean", "low", "high", "difference", "difference_low", "difference_high", "p_adjusted", "verdict"]
    declared = rows[rows["declared"]][columns]
    lines = [columns, ["---"] * len(columns), *([_cell(value) for value in row] for row in declared.itertuples(index=False))]
    head = words.headline(summary) if summary.spec.grid is None else f"{summary.metric.title}, one of several studies run together"
    return "\n".join([head, "", *(f"| {' | '.join(line)} |" for line in lines)])


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else ""
    return "" if value is None else str(value).replace("|", "\\|")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
