"""What a finished study holds: outcomes in a table, curves over the epochs, and what to know before believing them.

:mod:`lossmith.study.loading` makes it from stored trials.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lossmith.study.errors import StudyError
from lossmith.study.spec import StudySpec
from lossmith.study.stored import NO_LOOKS, Looks
from lossmith.study.training.metrics import METRICS
from lossmith.study.training.objectives import Hyper
from lossmith.study.training.yardsticks import Reference
from lossmith.study.tuning.configuration import WEIGHT_DECAY, Configuration

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Outcome:
    """What an objective achieved on one split, with the configuration that validation rows chose: the split's own, or those tuned on once.

    Attributes:
        objective: its label.
        seed: which.
        stop: "last" or "best" epoch.
        learning_rate: the one chosen.
        metrics: on the test rows, by name; NaN where a metric is not defined.
        epoch: the epoch measured.
        validation: the primary metric on the validation rows, which made the choice.
        status: "ok", or "diverged" when every configuration did; the metrics are then those of the last finite epoch.
        at_edge: the chosen learning rate is the smallest or the largest tried, or something chosen lies at the edge of where it was
            searched, so that a better one may lie outside.
        calibration: "raw", or "temperature" when the metrics of probabilities were taken after temperature scaling on validation.
        temperature: that temperature; 1 when raw.
        reliability: bins of test confidence, each with lower, upper, confidence, accuracy and count.
        fold: which fold of the seed tested; None without folds.
        weight_decay: the one chosen.
        hyper: the hyper-parameters chosen; empty where the paper's defaults were, or nothing was searched.
        edges: what lies at its edge, by name.
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
    weight_decay: float = WEIGHT_DECAY
    hyper: tuple[tuple[str, Hyper], ...] = ()
    edges: tuple[str, ...] = ()

    @property
    def configuration(self) -> Configuration:
        """Everything that was chosen."""
        return Configuration(self.learning_rate, self.weight_decay, self.hyper)


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
        trials: every trial's record, by objective label, number of the split (`StudySpec.draws`; the seed without folds) and
            configuration; with those of the splits that were only tuned on.
        versions: the different sets of library versions the trials were computed with; one, unless the store was used across upgrades.
        references: outside the comparison, see `lossmith.study.training.yardsticks`; empty where there are none.
        ended: the objectives that were ended as hopeless, and the seeds that each was run on, the first ones.
        looks: how often the same store had shown results on test rows of these data before this study.
        digest: what the study is known by in a store.
    """

    spec: StudySpec
    data: Mapping[str, Any]
    outcomes: tuple[Outcome, ...]
    trials: Mapping[tuple[str, int, Configuration], Mapping[str, Any]]
    versions: tuple[Mapping[str, str], ...]
    references: tuple[Reference, ...] = ()
    ended: Mapping[str, int] = field(default_factory=dict)
    looks: Looks = NO_LOOKS
    digest: str = ""

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
        return self.trials[objective, draw, self.outcome(objective, draw, stop).configuration]

    def over(self, objective: str, stop: str | None = None) -> list[Outcome]:
        """An objective's outcomes on all splits that it was run on, in their order."""
        return [self.outcome(objective, draw, stop) for draw in self._splits(objective)]

    def _splits(self, objective: str) -> list[int]:
        return list(self.spec.draws)[: self.ended.get(objective)]

    def values(self, metric: str | None = None, stop: str | None = None) -> NDArray[np.float64]:
        """A metric on the test rows, `(objectives, splits)`, aligned; the primary metric at the study's stop unless said otherwise.

        NaN where an objective was ended before.
        """
        name = metric or self.spec.metric
        if name not in METRICS:
            raise StudyError(f"metric must be one of {', '.join(METRICS)}; got {name!r}")
        found = np.full((len(self.objectives), len(self.spec.draws)), math.nan)
        for row, label in zip(found, self.objectives, strict=True):
            values = [outcome.metrics[name] for outcome in self.over(label, stop)]
            row[: len(values)] = values
        return found

    def curves(self, objective: str, stop: str | None = None) -> Curves:
        """An objective's epochs, with the configuration chosen for each seed at this stop."""
        splits, length = self._splits(objective), self.spec.epochs + 1
        loss, validation, test = (np.full((len(splits), length), np.nan) for _ in range(3))
        for i, draw in enumerate(splits):
            record = self.chosen(objective, draw, stop)
            for entry in record["epochs"]:
                loss[i, entry["epoch"]] = number(entry["train_loss"])
                validation[i, entry["epoch"]] = number(entry["val"][self.spec.metric])
                test[i, entry["epoch"]] = number(entry["test"][self.spec.metric])
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
        notes = [*self.data.get("warnings", ()), *self._tuning_notes()]
        if len(self.versions) > 1:
            listed = "; ".join(", ".join(f"{name} {version}" for name, version in versions.items()) for versions in self.versions)
            notes.append(f"Trials were computed with different versions: {listed}.")
        if self.looks.studies:
            studies = "1 other study" if self.looks.studies == 1 else f"{self.looks.studies} other studies"
            notes.append(
                f"Test rows of these data were looked at before: {studies} in this store had shown {self.looks.results} results on "
                "them when this one was first shown. The p-values here count the comparisons of this study alone: where what is compared "
                "was chosen after a look at those results, they are too small."
            )
        return tuple(notes)

    def _tuning_notes(self) -> list[str]:
        """No tuning, divergence, choices at the edge of what was tried."""
        spec, notes = self.spec, []
        rates = spec.learning_rates or ()
        if len(rates) == 1 and len(self.objectives) > 1:
            notes.append(
                f"One learning rate, {rates[0]:g}, for every objective: each has a best rate of its own, so what is compared is objectives "
                "at this rate. Give several --learning-rates to tune each."
            )
        chosen = {label: self.over(label) for label in self.objectives}
        for label, outcomes in chosen.items():
            diverged = sum(outcome.status != "ok" for outcome in outcomes)
            if diverged:
                what = "learning rate" if spec.tuner == "grid" else "configuration"
                notes.append(f"{label}: every {what} diverged on {diverged} of {len(outcomes)} {spec.unit}s, which have no result.")
        if spec.tuner != "grid":
            return [*notes, *self._searched_to_the_edge(chosen)]
        for extreme, rate in (("smallest", min(rates)), ("largest", max(rates))):
            there = {label: [outcome.at_edge and outcome.learning_rate == rate for outcome in found] for label, found in chosen.items()}
            often = [f"{label} ({sum(at)} of {len(at)} {spec.unit}s)" for label, at in there.items() if 2 * sum(at) > len(at)]
            if often:
                notes.append(
                    f"The chosen learning rate is the {extreme} tried, {rate:g}, for {', '.join(often)}. One beyond it may do better and "
                    "change the order: widen --learning-rates."
                )
        return notes

    def _searched_to_the_edge(self, chosen: Mapping[str, Sequence[Outcome]]) -> list[str]:
        notes = []
        for label, outcomes in chosen.items():
            counts = Counter(name for outcome in outcomes for name in outcome.edges)
            often = [
                f"{name} ({count} of {len(outcomes)} {self.spec.unit}s)" for name, count in counts.items() if 2 * count > len(outcomes)
            ]
            if often:
                names = [name for name, count in counts.items() if 2 * count > len(outcomes)]
                notes.append(
                    f"{label}: the chosen {', '.join(often)} is at the edge of where it was searched. One beyond may do better and "
                    f"change the order{_remedy(names)}."
                )
        return notes

    def table(self) -> "pd.DataFrame":
        """Every outcome as a row, metrics as columns."""
        import pandas as pd

        rows = [
            {
                "stop": outcome.stop, "objective": outcome.objective, "seed": outcome.seed,
                **({} if outcome.fold is None else {"fold": outcome.fold}), **self._chosen(outcome),
                "epoch": outcome.epoch, "status": outcome.status, "calibration": outcome.calibration, **outcome.metrics,
            }
            for outcome in self.outcomes
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def _chosen(self, outcome: Outcome) -> dict[str, Any]:
        """What was tuned, as columns of a table."""
        if self.spec.tuner == "grid":
            return {"learning_rate": outcome.learning_rate}
        chosen = outcome.configuration
        return {"learning_rate": chosen.learning_rate, "weight_decay": chosen.weight_decay, "hyper": chosen.hyper_text}

    def summary(self, stop: str | None = None) -> "pd.DataFrame":
        """The mean over seeds of every metric, an objective a row."""
        table = self.table()
        chosen = table[table["stop"] == (stop or self.spec.stop)]
        return chosen.groupby("objective", sort=False)[list(METRICS)].mean()

    def _repr_html_(self) -> str:
        return self.summary().to_html(float_format="{:.4f}".format)


def number(value: float | None) -> float:
    """A stored number: what was not finite is None there."""
    return math.nan if value is None else value


def _remedy(edges: Sequence[str]) -> str:
    """What can be done about choices at the edge of where they were searched; about the weight decay alone, nothing."""
    own = [name for name in edges if name not in ("learning_rate", "weight_decay")]
    said = ["widen --learning-rate-range"] if "learning_rate" in edges else []
    said += [f"give {', '.join(own)} a value of your own in --objectives"] if own else []
    return f": {', and '.join(said)}" if said else ""
