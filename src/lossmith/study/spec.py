"""What is asked: the study, its objectives, and the trials it comes down to.

Everything here is plain data with a canonical JSON form. A trial's key is the SHA-256 of that form, so that equal questions have
equal keys whatever study asked them.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from lossmith.study.budget import parse_time
from lossmith.study.checks import check_asked, check_trusted
from lossmith.study.data.corruption import Noise
from lossmith.study.data.dataset import Dataset, Roles
from lossmith.study.data.sources import load_data
from lossmith.study.data.strange import beside, hold_out_classes, is_table
from lossmith.study.declared import CONFIGURATIONS as CONFIGURATIONS
from lossmith.study.declared import STOPS as STOPS
from lossmith.study.declared import Declared
from lossmith.study.errors import StudyError
from lossmith.study.training.hubs import check_fits, pieces_of
from lossmith.study.training.models import check_model
from lossmith.study.training.objectives import ObjectiveSpec, source
from lossmith.study.training.probes import read_probes
from lossmith.study.training.trees import RATES as TREE_RATES
from lossmith.study.training.trees import TREES
from lossmith.study.tuning.configuration import WEIGHT_DECAY, Configuration, grid
from lossmith.study.tuning.quasi_random import quasi_random
from lossmith.study.tuning.space import LEARNING_RATES as RATE_INTERVAL
from lossmith.study.tuning.space import Space, space_of

PROTOCOL = 2
"""Version of the training protocol; a change of anything that moves a trial's numbers raises it, and old trials are left alone."""

LEARNING_RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
"""The default grid: six learning rates, half a decade apart."""

OPTIMIZER = {"name": "AdamW", "weight_decay": WEIGHT_DECAY, "schedule": "constant"}
"""How every trial is optimised, unless its weight decay is another. Part of a trial's key."""

_UNUSED = {"folds": None, "fold": None, "clean_validation": False, "labels": None, "probes": ()}
"""Fields that the keys of trials stored by earlier versions do not have, and the values at which they stay out of them."""


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """One training run, completely: what is not in here does not change its numbers.

    Attributes:
        data: fingerprint of the data's content.
        model: name of the model, or ``module:function``; `model_source` is the hash of that function's file.
        objective: what is minimised; `objective_source` is the hash of the file that defines it.
        seed: draws the split, the corruption, the initial weights and the batches; nothing else does.
        folds, fold: of a cross-validation, how many and which one tests; None where every seed draws one test set.
        clean_validation: whether validation rows keep labels known to be right.
        metric: the primary metric, which is followed over the epochs and chooses the best one.
        labels: how many training rows of each class have labels; None for all.
        probes: what else is looked at in the trained model, see `lossmith.study.training.probes`.
    """

    data: str
    model: str
    model_source: str
    objective: ObjectiveSpec
    objective_source: str
    noise: Noise | None
    imbalance: float | None
    validation: float
    test: float
    epochs: int
    batch_size: int
    metric: str
    seed: int
    learning_rate: float
    folds: int | None = None
    fold: int | None = None
    clean_validation: bool = False
    labels: int | None = None
    probes: tuple[str, ...] = ()
    weight_decay: float = WEIGHT_DECAY

    @property
    def draw(self) -> int:
        """The number of the split, which also draws the initial weights and the batches: a fold has its own."""
        return self.seed if self.folds is None or self.fold is None else self.seed * self.folds + self.fold

    def as_dict(self) -> dict[str, Any]:
        """A JSON-able form, the one that is hashed; what a trial does not use is left out, so that keys outlive new options."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        plain = {name: value for name, value in plain.items() if name not in _UNUSED or value != _UNUSED[name]}
        plain["objective"] = self.objective.label
        plain["noise"] = None if self.noise is None else str(self.noise)
        optimizer = {**OPTIMIZER, "weight_decay": plain.pop("weight_decay")}
        return {"protocol": PROTOCOL, "optimizer": optimizer, **plain}

    @cached_property  # a study asks for it many times
    def key(self) -> str:
        """SHA-256 of the canonical JSON."""
        return hashlib.sha256(_canonical(self.as_dict()).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class StudySpec(Declared):
    __doc__ = Declared.__doc__  # what its fields are is said where they stand

    def __post_init__(self) -> None:
        for name, value in _read(self).items():
            object.__setattr__(self, name, value)
        check_asked(self)

    @property
    def roles(self) -> Roles:
        """What columns of a table are for, besides features and target."""
        return Roles(
            group=self.group, split=self.split_column, trusted=self.clean_target, duplicates=self.duplicates, text=_words(self.text),
            tokenizer=self.tokenizer, pieces=pieces_of(self.model, self.tokenizer) if self.text else None,
            strange=str(self.ood) if is_table(self.ood) else None,
        )  # fmt: skip

    def load(self) -> Dataset:
        """The data of the study."""
        dataset = load_data(self.data, self.target, self.roles)
        if dataset.parts is not None and self.split_column is None:
            raise StudyError(f"data {dataset.name} bring their own split: say so with --split-column parts")
        if dataset.parts is not None and (dataset.parts == 1).any() and self.validation != StudySpec.validation:
            raise StudyError(f"--split-column {self.split_column} says which rows validate: leave out --validation-fraction")
        if dataset.trusted is not None:
            check_trusted(self, dataset)
        if self.ood_classes:
            dataset = hold_out_classes(dataset, self.ood_classes)
        elif self.ood is not None and not is_table(self.ood):
            dataset = beside(dataset, self.ood)
        check_fits(self.model, dataset)
        read_probes(self.probes, dataset)
        return dataset

    def space(self, objective: ObjectiveSpec) -> Space:
        """Where an objective is searched, by the tuners that search."""
        return space_of(objective, self.learning_rate_range)

    def planned(self, objective: ObjectiveSpec, draw: int) -> list[Configuration] | None:
        """The configurations to try on a split, where they are known beforehand; with `optuna` they depend on what is found."""
        if self.tuner == "grid":
            return grid(self.learning_rates or ())
        return quasi_random(self.space(objective), self.budget, draw) if self.tuner == "quasi_random" else None

    def maker(self, fingerprint: str) -> Callable[[ObjectiveSpec, int, Configuration], TrialSpec]:
        """What makes the trial of an objective, the number of a split and a configuration, on the data with this fingerprint."""
        model_source = check_model(self.model)
        sources = {objective.name: source(objective.name) for objective in self.objectives}
        places = {**self.draws, **self.tuning_draws}

        def trial(objective: ObjectiveSpec, draw: int, configuration: Configuration) -> TrialSpec:
            seed, fold = places[draw]
            return TrialSpec(
                data=fingerprint, model=self.model, model_source=model_source, objective=configuration.applied(objective),
                objective_source=sources[objective.name], noise=self.noise, imbalance=self.imbalance, validation=self.validation,
                test=self.test, epochs=self.epochs, batch_size=self.batch_size, metric=self.metric, seed=seed,
                learning_rate=configuration.learning_rate, folds=self.folds, fold=fold, clean_validation=self.clean_validation,
                labels=self.labels, probes=self.looked_at, weight_decay=configuration.weight_decay,
            )  # fmt: skip

        return trial

    def trials(self, fingerprint: str) -> list[TrialSpec]:
        """Every trial of a study whose configurations are known beforehand, seed by seed and fold by fold."""
        if self.tuner == "optuna" or self.tune_once:
            raise StudyError("which trials are needed is known only as the study runs: it tunes by optuna, or once for all seeds")
        trial = self.maker(fingerprint)
        return [
            trial(objective, draw, configuration)
            for draw in self.draws
            for objective in self.objectives
            for configuration in self.planned(objective, draw) or ()
        ]

    def as_dict(self) -> dict[str, Any]:
        """A JSON-able form; a `Dataset` is represented by its name."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("data", "ood"):
            plain[name] = value.name if isinstance(value := plain[name], Dataset) else value
        plain["objectives"] = [{"name": objective.name, "hyper": dict(objective.hyper)} for objective in self.objectives]
        plain["noise"] = None if self.noise is None else str(self.noise)
        plain = {name: value for name, value in plain.items() if name not in _LATER or value != _LATER[name]}
        if self.tuner == "grid":  # the only tuner there was
            plain = {name: value for name, value in plain.items() if name not in ("tuner", "configurations")}
        return plain | {"seeds": list(self.seeds)} | ({"learning_rates": list(self.learning_rates)} if self.learning_rates else {})

    @property
    def declared(self) -> dict[str, Any]:
        """What it has in common with the studies that are run together with it: all but the data and their noise."""
        return {name: value for name, value in self.as_dict().items() if name not in ("data", "noise", "target")}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "StudySpec":
        """The study that `as_dict` wrote down; nothing is looked up, so that it can be read where its modules are absent."""
        objectives = tuple(ObjectiveSpec(item["name"], tuple(sorted(item["hyper"].items()))) for item in plain["objectives"])
        values: dict[str, Any] = {**plain, "objectives": objectives}
        return cls(**values)


_LATER = {
    field.name: field.default
    for field in fields(StudySpec)
    if field.name
    in (
        "folds", "group", "split_column", "clean_validation", "clean_target", "references", "time", "planned_seeds", "duplicates",
        "labels", "probes", "ood", "ood_classes", "grid", "tuner", "configurations", "learning_rates", "learning_rate_range", "tune_once",
        "stop_hopeless", "holdout", "text", "tokenizer",
    )
}  # fmt: skip
"""Fields that studies stored by earlier versions do not have, and their defaults; what is at its default is not written down."""


def _read(spec: StudySpec) -> dict[str, Any]:
    """The fields as the objects they stand for."""
    data: Any = spec.data
    if isinstance(data, tuple) and len(data) == 2:
        data = Dataset.from_arrays("arrays", *data)
    elif hasattr(data, "columns") and not isinstance(data, Dataset):
        from lossmith.study.data.tables import encode_table

        data = encode_table(data, spec.target, "table", spec.roles)
    given: Any = spec.objectives
    objectives = ObjectiveSpec.parse_list(given) if isinstance(given, str) else tuple(given)
    noise: Any = spec.noise
    seeds: Any = spec.seeds
    rates: Any = [spec.learning_rates] if isinstance(spec.learning_rates, int | float) else spec.learning_rates
    tuner = spec.tuner or ("quasi_random" if rates is None else "grid")
    if tuner == "grid" and rates is None:
        rates = LEARNING_RATES
    rate_range: Any = spec.learning_rate_range
    if spec.model in TREES:  # rates for AdamW are far too small for a shrinkage
        rates = TREE_RATES if rates == LEARNING_RATES else rates
        rate_range = (TREE_RATES[0], TREE_RATES[-1]) if tuner != "grid" and rate_range == RATE_INTERVAL else rate_range
    return {
        "data": data if isinstance(data, Dataset) else str(data),
        "objectives": tuple(ObjectiveSpec.parse(item) if isinstance(item, str) else item for item in objectives),
        "noise": Noise.parse(noise) if isinstance(noise, str) else noise,
        "seeds": tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds),
        "planned_seeds": None if spec.planned_seeds is None else tuple(spec.planned_seeds),
        "grid": None if spec.grid is None else (tuple(spec.grid[0]), tuple(spec.grid[1])),
        "time": parse_time(spec.time) if isinstance(spec.time, str) else spec.time,
        "probes": _words(spec.probes),
        "ood_classes": _words(spec.ood_classes),
        "text": _words(spec.text),
        "tuner": tuner,
        "stop_hopeless": "corrected_t" if spec.stop_hopeless is True else spec.stop_hopeless or None,
        "learning_rates": None if rates is None else tuple(float(rate) for rate in rates),
        "learning_rate_range": tuple(float(rate) for rate in rate_range),
    }


def _words(given: Any) -> tuple[str, ...]:
    """Words separated by commas, or a sequence of them; each once."""
    words = given.split(",") if isinstance(given, str) else given
    return tuple(dict.fromkeys(str(word).strip() for word in words if str(word).strip()))


def _canonical(plain: Mapping[str, Any]) -> str:
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
