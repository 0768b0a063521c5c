"""What is asked: the study, its objectives, and the trials it comes down to.

Everything here is plain data with a canonical JSON form. A trial's key is the SHA-256 of that form, so that equal questions have
equal keys whatever study asked them.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from lossmith._checks import nearest
from lossmith.study.budget import parse_time
from lossmith.study.data.corruption import Noise
from lossmith.study.data.dataset import Dataset, Roles
from lossmith.study.data.sources import load_data
from lossmith.study.data.strange import beside, hold_out_classes
from lossmith.study.errors import StudyError
from lossmith.study.references import is_reference
from lossmith.study.training.metrics import METRICS
from lossmith.study.training.models import check_model
from lossmith.study.training.objectives import ObjectiveSpec, source
from lossmith.study.training.probes import read_probes
from lossmith.study.training.trees import RATES, TREES

PROTOCOL = 1
"""Version of the training protocol; a change of anything that moves a trial's numbers raises it, and old trials are left alone."""

LEARNING_RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
"""The default tuning budget: six learning rates, half a decade apart."""

OPTIMIZER = {"name": "AdamW", "weight_decay": 0.01, "schedule": "constant"}
"""How every trial is optimised. Part of a trial's key."""

STOPS = ("last", "best")


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
        return {"protocol": PROTOCOL, "optimizer": OPTIMIZER, **plain}

    @property
    def key(self) -> str:
        """SHA-256 of the canonical JSON."""
        return hashlib.sha256(_canonical(self.as_dict()).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """A whole comparison.

    Texts are read where objects are expected: ``objectives=["cross_entropy", "gce:q=0.7"]``, ``noise="symmetric:0.4"``.

    Attributes:
        data: ``digits``, ``wine``, ``breast_cancer``, a CSV, Parquet or ARFF file, ``folder:PATH``, ``hf:NAME``, ``openml:ID``,
            ``module:function``; or what is at hand: a data frame, (features, labels), a `Dataset`.
        target: the column to predict, for files and data frames.
        objectives: what to compare, the first being the baseline.
        model: ``linear``, ``mlp``, ``cnn`` (images), ``xgboost`` or ``lightgbm`` (boosted trees, see
            `lossmith.study.training.boosted`), ``timm:NAME`` or ``hf:NAME`` (images), or ``module:function``.
        noise: label noise of training and validation rows, see `Noise`.
        imbalance: smallest class over largest among the training rows, see `lossmith.study.data.corruption.long_tail`.
        labels: how many training rows of each class keep their label, the rest being left out; None for all.
        seeds: how many (0, 1, 2, ...), or which.
        metric: the primary metric, declared before the run: it selects learning rates and epochs, and it alone is tested.
        stop: which epoch the verdict is about: the "last", or the "best" on the validation rows. Both are always recorded.
        epochs, batch_size: of every trial.
        learning_rates: the tuning budget, the same for every objective, spent anew inside each seed; of trees, other ones by default.
        validation, test: fractions of the rows of each class.
        folds: K for a cross-validation of K folds, redrawn by every seed; None for one random split a seed.
        group: column of a table; rows with the same value stay on one side of every split.
        split_column: column of a table with the user's own split: train, validation (or val), test.
        clean_validation: whether learning rates and epochs are chosen by labels known to be right: without the added noise, and by
            `clean_target` where there is one.
        clean_target: column of a table with labels known to be right; test rows are scored by them.
        references: whether scikit-learn's logistic regression and gradient boosting are run beside the objectives, on tables.
        time: seconds, or a text such as ``90m``: how long the study may take; None for as long as it needs. Whole seeds count.
        planned_seeds: the seeds that were asked for, of a study that its time cut short.
        duplicates: rows of a table that are equal in every feature: ``together`` on one side of every split, or ``apart``.
        probes: what else to look at in every trained model, see `lossmith.study.training.probes`: ``corruptions,fgsm:0.1,margins``.
        ood: data, as for `data`, whose rows no class is right for; how well they are told from test rows is a probe.
        ood_classes: classes to hold out of the study, whose rows are such.
        grid: of a study that is one of several run together (`lossmith.study.grid`), all their data and all their kinds of label noise.
        text: columns of a table that hold text, see `lossmith.study.data.text`: ``review``, ``review@4096``.
        tokenizer: of transformers, a folder or a name, that cuts the text; None for words and pairs of words.
    """

    data: str | Dataset
    objectives: tuple[ObjectiveSpec, ...]
    target: str | None = None
    model: str = "mlp"
    noise: Noise | None = None
    imbalance: float | None = None
    seeds: tuple[int, ...] = tuple(range(10))
    metric: str = "accuracy"
    stop: str = "last"
    epochs: int = 60
    batch_size: int = 128
    learning_rates: tuple[float, ...] = LEARNING_RATES
    validation: float = 0.1
    test: float = 0.1
    folds: int | None = None
    group: str | None = None
    split_column: str | None = None
    clean_validation: bool = False
    clean_target: str | None = None
    references: bool = True
    time: float | None = None
    planned_seeds: tuple[int, ...] | None = None
    duplicates: str = "together"
    labels: int | None = None
    probes: tuple[str, ...] = ()
    ood: str | Dataset | None = None
    ood_classes: tuple[str, ...] = ()
    grid: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    text: tuple[str, ...] = ()
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        for name, value in _read(self).items():
            object.__setattr__(self, name, value)
        _check(self)

    @property
    def roles(self) -> Roles:
        """What columns of a table are for, besides features and target."""
        return Roles(
            group=self.group, split=self.split_column, trusted=self.clean_target, duplicates=self.duplicates, text=_words(self.text),
            tokenizer=self.tokenizer,
        )  # fmt: skip

    def load(self) -> Dataset:
        """The data of the study."""
        dataset = load_data(self.data, self.target, self.roles)
        if dataset.parts is not None and self.split_column is None:
            raise StudyError(f"data {dataset.name} bring their own split: say so with --split-column parts")
        if dataset.parts is not None and (dataset.parts == 1).any() and self.validation != StudySpec.validation:
            raise StudyError(f"--split-column {self.split_column} says which rows validate: leave out --validation-fraction")
        if dataset.trusted is not None:
            _check_trusted(self, dataset)
        if self.ood_classes:
            dataset = hold_out_classes(dataset, self.ood_classes)
        elif self.ood is not None:
            dataset = beside(dataset, load_data(self.ood))
        read_probes(self.probes, dataset)
        return dataset

    @property
    def draws(self) -> dict[int, tuple[int, int | None]]:
        """The splits by number, each with its seed and its fold: the seeds as they are, or ``seed * folds + fold``."""
        if self.folds is None:
            return {seed: (seed, None) for seed in self.seeds}
        return {seed * self.folds + fold: (seed, fold) for seed in self.seeds for fold in range(self.folds)}

    @property
    def looked_at(self) -> tuple[str, ...]:
        """The probes, that of strange rows among them where there are any."""
        strange = self.ood is not None or bool(self.ood_classes)
        return (*self.probes, "ood") if strange and "ood" not in self.probes else self.probes

    @property
    def unit(self) -> str:
        """What one paired difference comes from: a "seed", or a "fold"."""
        return "seed" if self.folds is None else "fold"

    def trials(self, fingerprint: str) -> list[TrialSpec]:
        """Every trial of the study, seed by seed and fold by fold, on the data with this fingerprint."""
        model_source = check_model(self.model)
        sources = {objective: source(objective.name) for objective in self.objectives}
        return [
            TrialSpec(
                data=fingerprint, model=self.model, model_source=model_source, objective=objective, objective_source=sources[objective],
                noise=self.noise, imbalance=self.imbalance, validation=self.validation, test=self.test, epochs=self.epochs,
                batch_size=self.batch_size, metric=self.metric, seed=seed, learning_rate=learning_rate, folds=self.folds, fold=fold,
                clean_validation=self.clean_validation, labels=self.labels, probes=self.looked_at,
            )
            for seed, fold in self.draws.values()
            for objective in self.objectives
            for learning_rate in self.learning_rates
        ]  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """A JSON-able form; a `Dataset` is represented by its name."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("data", "ood"):
            plain[name] = value.name if isinstance(value := plain[name], Dataset) else value
        plain["objectives"] = [{"name": objective.name, "hyper": dict(objective.hyper)} for objective in self.objectives]
        plain["noise"] = None if self.noise is None else str(self.noise)
        plain = {name: value for name, value in plain.items() if name not in _LATER or value != _LATER[name]}
        return plain | {"seeds": list(self.seeds), "learning_rates": list(self.learning_rates)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "StudySpec":
        """The study that `as_dict` wrote down; nothing is looked up, so that it can be read where its modules are absent."""
        objectives = tuple(ObjectiveSpec(item["name"], tuple(sorted(item["hyper"].items()))) for item in plain["objectives"])
        values: dict[str, Any] = {**plain, "objectives": objectives}
        return cls(**values)

    @property
    def selection_rule(self) -> str:
        """How learning rates and epochs are chosen, as a sentence."""
        better = "highest" if METRICS[self.metric].higher_is_better else "lowest"
        noisy = ""
        if self.clean_validation:
            noisy = " (by labels known to be right)"
        elif self.noise:
            noisy = " (whose labels carry the same noise as the training labels)"
        elif self.clean_target:
            noisy = f" (by the labels to be learnt, not by {self.clean_target})"
        if len(self.learning_rates) == 1:
            return (
                f"The learning rate is {self.learning_rates[0]:g} throughout; the best epoch is the earliest with the {better} "
                f"{self.metric} on the {self.unit}'s validation rows{noisy}. Test rows choose nothing."
            )
        return (
            f"For every objective and inside every {self.unit}, the learning rate is the one of {len(self.learning_rates)} "
            f"({', '.join(f'{rate:g}' for rate in self.learning_rates)}) with the {better} {self.metric} on that {self.unit}'s validation "
            f"rows{noisy}, at the last epoch for stop=last and at the best epoch for stop=best; ties go to the smaller learning rate and "
            "the earlier epoch, and a run that diverged is chosen only if all did. Test rows choose nothing."
        )


_LATER = {
    field.name: field.default
    for field in fields(StudySpec)
    if field.name
    in (
        "folds", "group", "split_column", "clean_validation", "clean_target", "references", "time", "planned_seeds", "duplicates",
        "labels", "probes", "ood", "ood_classes", "grid", "text", "tokenizer",
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
    rates: Any = spec.learning_rates
    if spec.model in TREES and rates == LEARNING_RATES:  # those are for AdamW, far too small for a shrinkage
        rates = RATES
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
        "learning_rates": tuple(float(rate) for rate in ([rates] if isinstance(rates, int | float) else rates)),
    }


def _words(given: Any) -> tuple[str, ...]:
    """Words separated by commas, or a sequence of them; each once."""
    words = given.split(",") if isinstance(given, str) else given
    return tuple(dict.fromkeys(str(word).strip() for word in words if str(word).strip()))


def _check(spec: StudySpec) -> None:
    def wanted(condition: bool, name: str, want: str) -> None:
        if not condition:
            raise StudyError(f"{name} must be {want}; got {getattr(spec, name)!r}")

    def whole(value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    wanted(len(spec.objectives) >= 1, "objectives", "one objective at least")
    twice = _repeated(objective.label for objective in spec.objectives)
    if twice is not None:
        raise StudyError(f"objective {twice} is named twice (aliases count as the same objective)")
    wanted(len(spec.seeds) >= 1 and all(whole(s) and s >= 0 for s in spec.seeds), "seeds", "a count of at least 1, or whole numbers >= 0")
    if _repeated(spec.seeds) is not None:
        raise StudyError(f"seed {_repeated(spec.seeds)} is named twice")
    if spec.metric not in METRICS:
        raise StudyError(f"metric must be one of {', '.join(METRICS)}; got {spec.metric!r}{nearest(spec.metric, METRICS)}")
    wanted(spec.stop in STOPS, "stop", "'last' or 'best'")
    wanted(whole(spec.epochs) and spec.epochs >= 1, "epochs", "a whole number >= 1")
    wanted(whole(spec.batch_size) and spec.batch_size >= 1, "batch_size", "a whole number >= 1")
    rates = spec.learning_rates
    wanted(len(rates) >= 1 and all(0 < rate < float("inf") for rate in rates), "learning_rates", "finite numbers > 0, one at least")
    if _repeated(rates) is not None:
        raise StudyError(f"learning rate {_repeated(rates)} is named twice: the budget counts different ones")
    wanted(spec.imbalance is None or 0 < spec.imbalance <= 1, "imbalance", "a fraction in (0, 1], smallest class over largest")
    wanted(spec.labels is None or (whole(spec.labels) and spec.labels >= 1), "labels", "a whole number >= 1, rows a class")
    if spec.ood is not None and spec.ood_classes:
        raise StudyError("--ood and --ood-classes both say which rows are strange: give one of them")
    for name in ("validation", "test"):
        wanted(0 < getattr(spec, name) < 1, name, "a fraction in (0, 1)")
    if spec.validation + spec.test >= 1:
        raise StudyError(f"validation and test leave nothing to train on: {spec.validation} + {spec.test} must be < 1")
    wanted(spec.folds is None or (whole(spec.folds) and spec.folds >= 2), "folds", "a whole number >= 2")
    if spec.folds is not None and spec.test != StudySpec.test:
        raise StudyError(f"--folds {spec.folds} tests on one fold after the other, 1/{spec.folds} of the rows: leave out --test-fraction")
    if spec.folds is not None and spec.validation >= 1 - 1 / spec.folds:
        raise StudyError(f"--folds {spec.folds} and --validation-fraction {spec.validation} leave nothing to train on")
    if spec.clean_validation and spec.noise is None and spec.clean_target is None:
        raise StudyError("--clean-validation needs labels that are not clean: it goes with --noise or --clean-target")
    wanted(spec.time is None or 0 < spec.time < float("inf"), "time", "a length of time such as 90m, 1.5h or 1h30m")
    if spec.split_column is not None:
        for name, value, default in (("--folds", spec.folds, None), ("--test-fraction", spec.test, StudySpec.test)):
            if value != default:
                raise StudyError(f"--split-column {spec.split_column} says which rows are tested: leave out {name}")
    if isinstance(spec.data, str) and spec.target is not None and is_reference(spec.data):
        raise StudyError(f"target is for files with columns; {spec.data} returns its own labels")


def _check_trusted(spec: StudySpec, dataset: Dataset) -> None:
    """Refuse trusted labels that are missing where they are needed: in test rows, and for a clean validation in validation rows."""
    trusted, parts = dataset.trusted, dataset.parts
    if spec.clean_target is None:
        raise StudyError(f"data {dataset.name} bring trusted labels: say so with --clean-target trusted")
    needed = np.ones(len(dataset.labels), dtype=bool)
    if parts is not None:
        held_out = 1 if (parts == 1).any() else 0
        needed = (parts == 2) | ((parts == held_out) & spec.clean_validation)
    lacking = np.flatnonzero(needed & (np.asarray(trusted) < 0))
    if len(lacking):
        where = "any row may be tested" if parts is None else "they are tested or validated with"
        raise StudyError(
            f"--clean-target {spec.clean_target}: {len(lacking)} rows have no trusted label (first in row {int(lacking[0]) + 1}), and "
            f"{where}: leave them out, or test on others by --split-column"
        )


def _repeated(values: Iterable[Any]) -> Any:
    """The first value that occurs a second time, or None."""
    seen = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


def _canonical(plain: Mapping[str, Any]) -> str:
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
