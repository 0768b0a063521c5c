"""What is asked: the study, its objectives, and the trials it comes down to.

Everything here is plain data with a canonical JSON form. A trial's key is the SHA-256 of that form, so that equal questions have
equal keys whatever study asked them.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from lossmith.study.budget import parse_time
from lossmith.study.checks import STOPS as STOPS
from lossmith.study.checks import check_asked, check_trusted
from lossmith.study.data.corruption import Noise
from lossmith.study.data.dataset import Dataset, Roles
from lossmith.study.data.sources import load_data
from lossmith.study.data.strange import beside, hold_out_classes
from lossmith.study.errors import StudyError
from lossmith.study.training.metrics import METRICS
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

CONFIGURATIONS = 12
"""The default tuning budget: how many configurations are tried for every objective."""

TUNING_SEEDS = 3
"""How many seeds `tune_once` tunes on, the first ones after those that are tested."""

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
        model: ``linear``, ``mlp`` (or ``mlp:256x256``), ``cnn`` (images), ``xgboost`` or ``lightgbm`` (boosted trees, see
            `lossmith.study.training.boosted`), ``timm:NAME`` or ``hf:NAME`` (images), or ``module:function``.
        noise: label noise of training and validation rows, see `Noise`.
        imbalance: smallest class over largest among the training rows, see `lossmith.study.data.corruption.long_tail`.
        labels: how many training rows of each class keep their label, the rest being left out; None for all.
        seeds: how many (0, 1, 2, ...), or which.
        metric: the primary metric, declared before the run: it selects learning rates and epochs, and it alone is tested.
        stop: which epoch the verdict is about: the "last", or the "best" on the validation rows. Both are always recorded.
        epochs, batch_size: of every trial.
        tuner: how configurations are proposed, the same number for every objective, inside each seed: ``quasi_random`` fills learning rate,
            weight decay and the objective's own hyper-parameters evenly; ``optuna`` learns from the trials before; ``grid`` tries
            `learning_rates` and nothing else. None is ``grid`` where those are given, else ``quasi_random``.
        configurations: how many; 12, or as many as the grid has.
        learning_rates: of the grid.
        learning_rate_range: where the other tuners search.
        tune_once: tune on seeds that are not tested (the three after those that are), and then take what was chosen for every seed.
        stop_hopeless: end an objective for which the advantage that is worth finding is excluded, see
            `lossmith.study.statistics.stopping`; the test that the study will end with, True being ``corrected_t``.
        holdout: how test rows answer: ``plain``, or by ``thresholdout``, see `lossmith.study.holdout`.
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
    tuner: str | None = None
    configurations: int | None = None
    learning_rates: tuple[float, ...] | None = None
    learning_rate_range: tuple[float, float] = RATE_INTERVAL
    tune_once: bool = False
    stop_hopeless: str | bool | None = None
    holdout: str = "plain"
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
        check_asked(self)

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
            check_trusted(self, dataset)
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

    @property
    def budget(self) -> int:
        """How many configurations are tried for every objective, inside each seed or once."""
        return len(self.learning_rates or ()) if self.tuner == "grid" else self.configurations or CONFIGURATIONS

    @property
    def tuning_draws(self) -> dict[int, tuple[int, int | None]]:
        """The splits that are tuned on but not tested, by number as in `draws`; none unless `tune_once`."""
        if not self.tune_once:
            return {}
        seeds = range(max(self.planned_seeds or self.seeds) + 1, max(self.planned_seeds or self.seeds) + 1 + TUNING_SEEDS)
        return {seed: (seed, None) for seed in seeds} if self.folds is None else {seed * self.folds: (seed, 0) for seed in seeds}

    @property
    def sequential(self) -> bool:
        """Whether which trials are needed depends on what others find."""
        return self.tuner == "optuna" or self.tune_once or self.stop_hopeless is not None

    @property
    def foreseen(self) -> int:
        """How many trials there will be, as far as is known beforehand."""
        a_split = 1 if self.tune_once else self.budget
        return len(self.objectives) * (len(self.draws) * a_split + len(self.tuning_draws) * self.budget)

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
        if self.tuner == "grid" and self.budget == 1:
            rate = self.learning_rates[0] if self.learning_rates else 0.0
            return (
                f"The learning rate is {rate:g} throughout; the best epoch is the earliest with the {better} "
                f"{self.metric} on the {self.unit}'s validation rows{noisy}. Test rows choose nothing."
            )
        what, ties = "configuration", "the smaller learning rate, then weight decay,"
        of = f"{self.budget} of learning rate, weight decay and its own hyper-parameters"
        if self.tuner == "grid":
            what, ties = "learning rate", "the smaller learning rate"
            of = f"{self.budget} ({', '.join(f'{rate:g}' for rate in self.learning_rates or ())})"
        where, whose = f"For every objective and inside every {self.unit}", f"that {self.unit}'s validation rows{noisy}"
        if self.tune_once:
            tuned = list(self.tuning_draws)
            where = "For every objective, once for all"
            whose = f"the validation rows{noisy} of {len(tuned)} seeds that are not tested, on average"
        return (
            f"{where}, the {what} is the one of {of} with the {better} {self.metric} on {whose}, at the last epoch for stop=last and at "
            f"the best epoch for stop=best; ties go to {ties} and the earlier epoch, and a run that diverged is chosen only if all did. "
            "Test rows choose nothing."
        )


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
