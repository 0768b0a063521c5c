"""Optuna as tuner: a tree-structured Parzen estimator that learns from the configurations tried before, objective by objective.

Optuna proposes in the process that coordinates a study; the trials are computed where all others are and kept where all others are.
Optuna's storage remembers what its samplers were told, for its dashboard and for whoever wants to analyse it. Each proposal has a sampler
of its own, seeded by the objective, the split and the position of the trial, so that what is proposed depends on nothing but what was told
before: a study that was killed goes on with the very proposals it would have had, with or without that storage.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lossmith.study.errors import StudyError, one_line
from lossmith.study.spec import PROTOCOL, StudySpec
from lossmith.study.training.models import check_model
from lossmith.study.training.objectives import Hyper, ObjectiveSpec, source
from lossmith.study.tuning.configuration import Configuration
from lossmith.study.tuning.selection import score
from lossmith.study.tuning.space import Interval, Options, Space
from lossmith.study.tuning.validation import ValidationRecord

if TYPE_CHECKING:
    import optuna

STARTUP = 1 / 3
"""The share of the budget that is spent before anything is learnt from."""

SETTINGS = (
    "model",
    "noise",
    "imbalance",
    "labels",
    "epochs",
    "batch_size",
    "metric",
    "stop",
    "validation",
    "test",
    "folds",
    "clean_validation",
)
"""What of a study, beside its data, objective and split, moves what a tuner is told."""


class Studies:
    """Makes the tuners of a study, an Optuna study each.

    Args:
        spec: the study.
        fingerprint: of its data.
        storage: a URL that Optuna takes; None for memory.
    """

    def __init__(self, spec: StudySpec, fingerprint: str, storage: str | None) -> None:
        try:
            import optuna
        except ImportError as error:
            raise StudyError("--tuner optuna needs Optuna: pip install 'lossmith[tune]'") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._spec, self._fingerprint = spec, fingerprint
        try:
            self._storage: Any = None if storage is None else optuna.storages.get_storage(storage)
        except Exception as error:  # whatever a database's driver raises
            raise StudyError(f"--optuna-storage {storage}: {one_line(error)}") from error

    def __call__(self, objective: ObjectiveSpec, draw: int) -> "TreeParzen":
        import optuna

        spec, space = self._spec, self._spec.space(objective)
        settings = {name: str(getattr(spec, name)) for name in SETTINGS}
        told = {**settings, "data": self._fingerprint, "objective": objective.label, "draws": self._draws(draw), "space": space.as_list()}
        told |= {"budget": spec.budget, "sources": [source(objective.name), check_model(spec.model)], "protocol": PROTOCOL}
        identity = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
        study = optuna.create_study(
            storage=self._storage,
            study_name=f"{objective.label}, split {draw}, {identity[:12]}",
            direction="maximize",
            load_if_exists=True,
        )
        return TreeParzen(study, space, spec.budget, identity, lambda seen: score(spec.metric, seen, spec.stop))

    def _draws(self, draw: int) -> list[int]:
        return list(self._spec.tuning_draws) or [draw]


class TreeParzen:
    """The tuner of one objective on one split, or on those that are tuned on once.

    Args:
        study: Optuna's, which maximises; it may know the first trials already.
        space: where.
        budget: how many configurations.
        identity: from which the samplers are seeded.
        score: what is maximised, of what was seen.
    """

    def __init__(
        self, study: "optuna.Study", space: Space, budget: int, identity: str, score: Callable[[Sequence[ValidationRecord]], float]
    ) -> None:
        self._study, self._space, self._budget, self._identity, self._score = study, space, budget, identity, score
        self._distributions = {_name(one): _distribution(one) for one in space.dimensions}
        self._startup = max(1, round(STARTUP * budget))
        self._asked: list[Configuration] = []
        self._numbers: dict[Configuration, list[int]] = {}

    def ask(self) -> Sequence[Configuration]:
        number = len(self._asked)
        new = 0 if number >= self._budget else self._startup if number == 0 else 1
        asked = [self._ask(number + k) for k in range(min(new, self._budget - number))]
        self._asked += asked
        return list(dict.fromkeys(asked))

    def _ask(self, number: int) -> Configuration:
        """The configuration of a position: the usual one first, then as Optuna says or has said before."""
        known = self._study.get_trials(deepcopy=False)
        if number < len(known):
            parameters = known[number].params
        else:
            import optuna

            seed = int(hashlib.sha256(f"{self._identity} {number}".encode()).hexdigest()[:8], 16)
            self._study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=self._startup, constant_liar=False)
            if number == 0:
                self._study.enqueue_trial(self._usual())
            parameters = self._study.ask(self._distributions).params
        configuration = self._space.usual if number == 0 else self._space.configuration(self._values(parameters))
        self._numbers.setdefault(configuration, []).append(number)
        return configuration

    def tell(self, configuration: Configuration, seen: Sequence[ValidationRecord]) -> None:
        import optuna

        value = self._score(seen) if all(record["status"] == "ok" for record in seen) else -math.inf
        for number in self._numbers[configuration]:
            if self._study.get_trials(deepcopy=False)[number].state == optuna.trial.TrialState.RUNNING:
                self._study.tell(number, value)

    def _values(self, parameters: Mapping[str, Any]) -> dict[str, Hyper]:
        """What Optuna's parameters stand for."""
        return {one.name: _value(one, parameters[_name(one)]) for one in self._space.dimensions}

    def _usual(self) -> dict[str, Any]:
        """The usual configuration as Optuna's parameters."""
        return {_name(one): _parameter(one) for one in self._space.dimensions}


def _name(dimension: Interval | Options) -> str:
    """What Optuna calls a dimension: where the scale is that of a distance, by that distance."""
    if isinstance(dimension, Options) or not dimension.origin:
        return dimension.name
    inside, origin = dimension.low >= dimension.origin, f"{dimension.origin:g}"
    return f"{dimension.name} - {origin}" if inside else f"{origin} - {dimension.name}"


def _distribution(dimension: Interval | Options) -> "optuna.distributions.BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(dimension, Options):
        return CategoricalDistribution(dimension.options)
    if dimension.whole:
        return IntDistribution(int(dimension.low), int(dimension.high))
    if dimension.origin is None:
        return FloatDistribution(dimension.low, dimension.high)
    near, far = dimension.distances
    return FloatDistribution(near, far, log=True)


def _parameter(dimension: Interval | Options) -> Any:
    """The usual value as Optuna's parameter."""
    usual: Any = dimension.usual
    return usual if isinstance(dimension, Options) or not dimension.origin else abs(usual - dimension.origin)


def _value(dimension: Interval | Options, parameter: Any) -> Hyper:
    if isinstance(dimension, Options):
        return parameter
    return dimension.rounded(parameter) if dimension.origin is None else dimension.at_distance(parameter)
