"""From stored trials to a result: what validation rows chose, and what the chosen trials reached. Test rows choose nothing."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from lossmith.study.errors import StudyError
from lossmith.study.holdout import Holdout, without_test
from lossmith.study.results import Outcome, StudyResult, number
from lossmith.study.spec import STOPS, StudySpec
from lossmith.study.store import Store
from lossmith.study.stored import StoredStudy
from lossmith.study.training.metrics import METRICS
from lossmith.study.training.yardsticks import references
from lossmith.study.tuning.configuration import Configuration
from lossmith.study.tuning.selection import select
from lossmith.study.tuning.space import Space


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


_Tried = dict[Configuration, Mapping[str, Any]]


def load_result(study: StoredStudy, store: Store) -> StudyResult:
    """The result of a study whose trials are all in the store."""
    spec = study.spec
    records = store.results(study.keys)
    missing = len(set(study.keys) - records.keys())
    if missing:
        raise StudyError(f"{missing} of {len(study.keys)} trials are not in {store.name} yet; run the same study again to compute them")
    keys = _keys_by_place(study, store)
    places: dict[tuple[str, int], _Tried] = {place: {one: records[key] for one, key in tried.items()} for place, tried in keys.items()}
    ended = study.data.get("ended", {})
    outcomes = []
    for stop, objective in product(STOPS, spec.objectives):
        label = objective.label
        once = _chosen(spec, [places[label, draw] for draw in spec.tuning_draws], stop) if spec.tune_once else None
        for draw in list(spec.draws)[: ended.get(label)]:
            chosen = once or _chosen(spec, [places[label, draw]], stop)
            outcomes.append(_outcome(spec, label, draw, stop, chosen, _edges(study, label, chosen), places[label, draw][chosen]))
    if spec.holdout == "thresholdout":
        outcomes = _answered(study, Holdout(study, store), keys, places, outcomes)
        hide = partial(without_test, metrics=tuple(METRICS), metric=spec.metric)
        places = {place: {one: hide(record) for one, record in tried.items()} for place, tried in places.items()}
    looks = store.look(study, len(outcomes) // len(STOPS))
    own = {key for key, plain in store.asked(study.keys).items() if "reference" not in plain}
    beside = references(study.data.get("references", ()), [records[key] for key in study.keys if key not in own])
    trials = {(*place, configuration): record for place, tried in places.items() for configuration, record in tried.items()}
    return StudyResult(spec, study.data, tuple(outcomes), trials, tuple(store.versions(study.keys)), beside, ended, looks, study.digest)


def _answered(
    study: StoredStudy,
    holdout: Holdout,
    keys: Mapping[tuple[str, int], Mapping[Configuration, str]],
    places: Mapping[tuple[str, int], _Tried],
    outcomes: Sequence[Outcome],
) -> list[Outcome]:
    """The outcomes as Thresholdout tells them: of the primary metric at the declared stop, and of nothing else."""
    spec = study.spec
    number = {place: draw for draw, place in spec.draws.items()}
    found = []
    for one in outcomes:
        metrics = dict.fromkeys(METRICS, math.nan)
        draw = number[one.seed, one.fold]
        if one.stop == spec.stop and one.status == "ok":
            place = one.objective, draw
            rows, question = places[place][one.configuration]["rows"]["test"], f"{keys[place][one.configuration]} {one.stop}"
            metrics[spec.metric] = holdout.answer(draw, question, one.validation, one.metrics[spec.metric], rows)
        found.append(replace(one, metrics=metrics, reliability=()))
    return found


def _keys_by_place(study: StoredStudy, store: Store) -> dict[tuple[str, int], dict[Configuration, str]]:
    """The keys by what they are of."""
    asked, objectives = store.asked(study.keys), {objective.label: objective for objective in study.spec.objectives}
    return {
        (label, draw): {Configuration.of_trial(asked[key], objectives[label]): key for key in keys}
        for (label, draw), keys in study.by_place().items()
    }


def _chosen(spec: StudySpec, places: Sequence[_Tried], stop: str) -> Configuration:
    """What the validation rows of these splits choose, of the configurations that all of them tried."""
    return select(spec.metric, {one: [tried[one] for tried in places] for one in places[0]}, stop)


def _edges(study: StoredStudy, label: str, chosen: Configuration) -> tuple[str, ...]:
    """What of a configuration lies at the edge of what was tried."""
    rates = study.spec.learning_rates
    if rates is None:
        return Space.from_list(study.data["searched"][label]).edges(chosen)
    return ("learning_rate",) if len(rates) > 2 and chosen.learning_rate in (min(rates), max(rates)) else ()


def _outcome(
    spec: StudySpec, label: str, draw: int, stop: str, chosen: Configuration, edges: tuple[str, ...], record: Mapping[str, Any]
) -> Outcome:
    seen = record[stop]
    seed, fold = spec.draws[draw]
    return Outcome(
        objective=label,
        seed=seed,
        fold=fold,
        stop=stop,
        learning_rate=chosen.learning_rate,
        weight_decay=chosen.weight_decay,
        hyper=chosen.hyper,
        edges=edges,
        metrics={name: number(value) for name, value in seen["test"].items()},
        epoch=seen["epoch"],
        validation=number(seen["val"][spec.metric]),
        status=record["status"],
        at_edge=record["status"] == "ok" and bool(edges),
        calibration=seen["calibration"],
        temperature=seen["temperature"],
        reliability=tuple(seen["reliability"]),
    )
