"""From stored trials to what they say: learning rates chosen, outcomes in a table, curves over the epochs.

Nothing here looks at a test row to choose anything.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lossmith.study.errors import StudyError
from lossmith.study.spec import STOPS, StudySpec
from lossmith.study.store import Store, StoredStudy
from lossmith.study.training.metrics import METRICS
from lossmith.study.training.yardsticks import Reference, references

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Outcome:
    """What an objective achieved on one split, with the learning rate that the split's validation rows chose.

    Attributes:
        objective: its label.
        seed: which.
        stop: "last" or "best" epoch.
        learning_rate: the one chosen.
        metrics: on the test rows, by name; NaN where a metric is not defined.
        epoch: the epoch measured.
        validation: the primary metric on the validation rows, which made the choice.
        status: "ok", or "diverged" when every learning rate did; the metrics are then those of the last finite epoch.
        at_edge: the chosen learning rate is the smallest or the largest tried, so that a better one may lie outside.
        calibration: "raw", or "temperature" when the metrics of probabilities were taken after temperature scaling on validation.
        temperature: that temperature; 1 when raw.
        reliability: bins of test confidence, each with lower, upper, confidence, accuracy and count.
        fold: which fold of the seed tested; None without folds.
    """

    objective: str
    seed: int
    stop: str
    learning_rate: float
    metrics: Mapping[str, float]
    epoch: int
    validation: float
    status: str
    at_edge: bool
    calibration: str
    temperature: float
    reliability: tuple[Mapping[str, float], ...]
    fold: int | None = None


@dataclass(frozen=True, eq=False)
class Curves:
    """An objective's epochs with the chosen learning rates: one row a split, one column an epoch, NaN after a divergence.

    Attributes:
        epochs: 0 (untrained) to the last.
        train_loss: mean loss on the training rows, in the objective's own unit.
        validation, test: the primary metric.
    """

    epochs: NDArray[np.int64]
    train_loss: NDArray[np.float64]
    validation: NDArray[np.float64]
    test: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class StudyResult:
    """A finished study.

    Attributes:
        spec: what was asked.
        data: a description of the data (`Dataset.describe`).
        outcomes: by stop, objective and seed, in the order of the specification.
        trials: every trial's record, by objective label, number of the split (`StudySpec.draws`; the seed without folds) and learning rate.
        versions: the different sets of library versions the trials were computed with; one, unless the store was used across upgrades.
        references: outside the comparison, see `lossmith.study.training.yardsticks`; empty where there are none.
    """

    spec: StudySpec
    data: Mapping[str, Any]
    outcomes: tuple[Outcome, ...]
    trials: Mapping[tuple[str, int, float], Mapping[str, Any]]
    versions: tuple[Mapping[str, str], ...]
    references: tuple[Reference, ...] = ()

    @property
    def objectives(self) -> tuple[str, ...]:
        """Labels, in the order asked for; the first is the baseline."""
        return tuple(objective.label for objective in self.spec.objectives)

    @property
    def rows(self) -> Mapping[str, int]:
        """How many rows train, validate and test in each seed."""
        return next(iter(self.trials.values()))["rows"]

    @property
    def selection_rule(self) -> str:
        """How learning rates and epochs were chosen, as a sentence."""
        return self.spec.selection_rule

    @cached_property
    def _by_place(self) -> dict[tuple[str, str, int], Outcome]:
        number = {place: draw for draw, place in self.spec.draws.items()}
        return {(one.stop, one.objective, number[one.seed, one.fold]): one for one in self.outcomes}

    def outcome(self, objective: str, draw: int, stop: str | None = None) -> Outcome:
        """One outcome, by the number of its split (`StudySpec.draws`); `stop` is the study's own unless said otherwise."""
        return self._by_place[stop or self.spec.stop, objective, draw]

    def chosen(self, objective: str, draw: int, stop: str | None = None) -> Mapping[str, Any]:
        """The whole record of the trial that was chosen on a split."""
        return self.trials[objective, draw, self.outcome(objective, draw, stop).learning_rate]

    def over(self, objective: str, stop: str | None = None) -> list[Outcome]:
        """An objective's outcomes on all splits, in their order."""
        return [self.outcome(objective, draw, stop) for draw in self.spec.draws]

    def values(self, metric: str | None = None, stop: str | None = None) -> NDArray[np.float64]:
        """A metric on the test rows, `(objectives, splits)`, aligned; the primary metric at the study's stop unless said otherwise."""
        name = metric or self.spec.metric
        if name not in METRICS:
            raise StudyError(f"metric must be one of {', '.join(METRICS)}; got {name!r}")
        return np.array([[outcome.metrics[name] for outcome in self.over(label, stop)] for label in self.objectives])

    def curves(self, objective: str, stop: str | None = None) -> Curves:
        """An objective's epochs, with the learning rate chosen for each seed at this stop."""
        length = self.spec.epochs + 1
        loss, validation, test = (np.full((len(self.spec.draws), length), np.nan) for _ in range(3))
        for i, draw in enumerate(self.spec.draws):
            record = self.chosen(objective, draw, stop)
            for entry in record["epochs"]:
                loss[i, entry["epoch"]] = _number(entry["train_loss"])
                validation[i, entry["epoch"]] = _number(entry["val"][self.spec.metric])
                test[i, entry["epoch"]] = _number(entry["test"][self.spec.metric])
        return Curves(np.arange(length), loss, validation, test)

    def reliability(self, objective: str, stop: str | None = None) -> list[dict[str, float]]:
        """The reliability bins of an objective, the test rows of all splits together."""
        together: dict[tuple[float, float], list[tuple[float, float, float]]] = {}
        for outcome in self.over(objective, stop):
            for row in outcome.reliability:
                entry = (row["count"], row["count"] * row["confidence"], row["count"] * row["accuracy"])
                together.setdefault((row["lower"], row["upper"]), []).append(entry)
        bins = []
        for (lower, upper), entries in sorted(together.items()):
            count, confidence, accuracy = (sum(column) for column in zip(*entries, strict=True))
            bins.append({"lower": lower, "upper": upper, "confidence": confidence / count, "accuracy": accuracy / count, "count": count})
        return bins

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know before believing the numbers: the data, no tuning, divergence, rates at the edge, mixed versions."""
        rates, counted = self.spec.learning_rates, f"{len(self.spec.draws)} {self.spec.unit}s"
        notes = list(self.data.get("warnings", ()))
        if len(rates) == 1 and len(self.objectives) > 1:
            notes.append(
                f"One learning rate, {rates[0]:g}, for every objective: each has a best rate of its own, so what is compared is objectives "
                "at this rate. Give several --learning-rates to tune each."
            )
        chosen = {label: self.over(label) for label in self.objectives}
        for label, outcomes in chosen.items():
            diverged = sum(outcome.status != "ok" for outcome in outcomes)
            if diverged:
                notes.append(f"{label}: every learning rate diverged on {diverged} of {counted}, which have no result.")
        for extreme, rate in (("smallest", min(rates)), ("largest", max(rates))):
            there = {
                label: sum(outcome.at_edge and outcome.learning_rate == rate for outcome in outcomes) for label, outcomes in chosen.items()
            }
            often = [f"{label} ({count} of {counted})" for label, count in there.items() if 2 * count > len(self.spec.draws)]
            if often:
                notes.append(
                    f"The chosen learning rate is the {extreme} tried, {rate:g}, for {', '.join(often)}. One beyond it may do better and "
                    "change the order: widen --learning-rates."
                )
        if len(self.versions) > 1:
            listed = "; ".join(", ".join(f"{name} {version}" for name, version in versions.items()) for versions in self.versions)
            notes.append(f"Trials were computed with different versions: {listed}.")
        return tuple(notes)

    def table(self) -> "pd.DataFrame":
        """Every outcome as a row, metrics as columns."""
        import pandas as pd

        rows = [
            {
                "stop": outcome.stop, "objective": outcome.objective, "seed": outcome.seed,
                **({} if outcome.fold is None else {"fold": outcome.fold}), "learning_rate": outcome.learning_rate,
                "epoch": outcome.epoch, "status": outcome.status, "calibration": outcome.calibration, **outcome.metrics,
            }
            for outcome in self.outcomes
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def summary(self, stop: str | None = None) -> "pd.DataFrame":
        """The mean over seeds of every metric, an objective a row."""
        table = self.table()
        chosen = table[table["stop"] == (stop or self.spec.stop)]
        return chosen.groupby("objective", sort=False)[list(METRICS)].mean()

    def _repr_html_(self) -> str:
        return self.summary().to_html(float_format="{:.4f}".format)


def load(store_path: str | os.PathLike[str], which: int = -1) -> StudyResult:
    """A study read back from its store, the latest one unless `which` counts otherwise; nothing is computed.

    Args:
        store_path: the file; it must exist.
        which: position among the store's studies, in the order they were last run.
    """
    if not Path(store_path).expanduser().is_file():
        raise StudyError(f"there is no store {store_path}")
    with Store(store_path, reading=True) as store:
        studies = store.studies()
        try:
            study = studies[which]
        except IndexError:
            raise StudyError(f"{store.name} holds {len(studies)} studies; there is no number {which}") from None
        return load_result(study, store)


def load_result(study: StoredStudy, store: Store) -> StudyResult:
    """The result of a study whose trials are all in the store."""
    spec = study.spec
    records = store.results(study.keys)
    missing = len(set(study.keys) - records.keys())
    if missing:
        raise StudyError(f"{missing} of {len(study.keys)} trials are not in {store.name} yet; run the same study again to compute them")
    places = product(spec.draws, (objective.label for objective in spec.objectives), spec.learning_rates)
    own = len(spec.draws) * len(spec.objectives) * len(spec.learning_rates)
    trials = {(label, draw, rate): records[key] for (draw, label, rate), key in zip(places, study.keys[:own], strict=True)}
    outcomes = []
    for stop, objective, draw in product(STOPS, spec.objectives, spec.draws):
        rate = select(spec, {rate: trials[objective.label, draw, rate] for rate in spec.learning_rates}, stop)
        outcomes.append(_outcome(spec, objective.label, draw, stop, rate, trials[objective.label, draw, rate]))
    beside = references(study.data.get("references", ()), [records[key] for key in study.keys[own:]])
    return StudyResult(spec, study.data, tuple(outcomes), trials, tuple(store.versions(study.keys)), beside)


def select(spec: StudySpec, records: Mapping[float, Mapping[str, Any]], stop: str) -> float:
    """The learning rate with the best primary metric on the validation rows, of the records of one objective and seed.

    A run that diverged comes after all that did not, a metric that is not defined after all that are, and of equals the smaller
    learning rate comes first.
    """
    sign = -1.0 if METRICS[spec.metric].higher_is_better else 1.0

    def rank(rate: float) -> tuple[bool, bool, float, float]:
        value = _number(records[rate][stop]["val"][spec.metric])
        return records[rate]["status"] != "ok", math.isnan(value), 0.0 if math.isnan(value) else sign * value, rate

    return min(records, key=rank)


def _outcome(spec: StudySpec, label: str, draw: int, stop: str, rate: float, record: Mapping[str, Any]) -> Outcome:
    seen = record[stop]
    seed, fold = spec.draws[draw]
    return Outcome(
        objective=label,
        seed=seed,
        fold=fold,
        stop=stop,
        learning_rate=rate,
        metrics={name: _number(value) for name, value in seen["test"].items()},
        epoch=seen["epoch"],
        validation=_number(seen["val"][spec.metric]),
        status=record["status"],
        at_edge=record["status"] == "ok" and len(spec.learning_rates) > 2 and rate in (min(spec.learning_rates), max(spec.learning_rates)),
        calibration=seen["calibration"],
        temperature=seen["temperature"],
        reliability=tuple(seen["reliability"]),
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else value
