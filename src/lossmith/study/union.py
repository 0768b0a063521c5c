"""Stores read together: the parts of a study that were run apart, united by the content hashes of their trials.

A trial that several stores hold counts once. Where they hold different numbers for it, the first store's are used and the difference is
told of; nothing is averaged. How often test rows were looked at, and what Thresholdout answered, comes along.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lossmith.study.errors import StudyError
from lossmith.study.loading import load_result
from lossmith.study.results import StudyResult
from lossmith.study.spec import StudySpec
from lossmith.study.store import Store
from lossmith.study.stored import Row, StoredStudy

NAMED = 3
"""How many of many are named in a message."""


def load_united(store_paths: Sequence[str | os.PathLike[str]], which: int = -1) -> StudyResult:
    """A study whose trials are spread over several stores (`run_shard`); nothing is computed, and no store is written to, so that this
    look at test rows is remembered nowhere: `unite` the stores where looks are to be counted.

    The result's notes name trials for which stores hold different numbers, stores that hold none of the study, and other studies found.

    Args:
        store_paths: the files, in the order of trust: of a trial that several hold, the first one's numbers are taken.
        which: position among the studies of all stores, in the order they were last asked for; the latest when left out.
    """
    if not store_paths:
        raise StudyError("no store is named")
    with ExitStack() as stack, Store(None) as together:
        stores = [stack.enter_context(_reading(path)) for path in store_paths]
        asked = _studies(stores)
        try:
            study = asked[which]
        except IndexError:
            held = f"{len(asked)} studies" if len(asked) != 1 else "1 study"
            raise StudyError(f"{_named([store.name for store in stores])} hold {held}; there is no number {which}") from None
        notes = _gather(stores, study.keys, together)
        missing = _missing(study, together.known(study.keys))
        if missing:
            damaged = f" ({notes[0]})" if notes else ""
            raise StudyError(f"{missing}, in {_named([store.name for store in stores])}: run the rest, then this again{damaged}")
        if len(asked) > 1 and which == -1:
            notes.append(f"The stores hold {len(asked)} different studies; this is the one that was asked for last. --study counts them.")
        if study.spec.holdout == "thresholdout":
            raise StudyError(
                "--holdout thresholdout remembers in the store what test rows were asked: unite the stores (lossmith.study.unite) and read "
                "that one"
            )
        data = {**study.data, "warnings": [*study.data.get("warnings", ()), *notes]}
        return load_result(study._replace(data=data), together)


def united_studies(store_paths: Sequence[str | os.PathLike[str]]) -> list[StoredStudy]:
    """The studies of all stores, as `load_united` numbers them."""
    with ExitStack() as stack:
        return _studies([stack.enter_context(_reading(path)) for path in store_paths])


def unite(store_paths: Sequence[str | os.PathLike[str]], into: str | os.PathLike[str]) -> list[str]:
    """Copy the studies and trials of several stores into one, which may be new; what was odd about them, a sentence each.

    Args:
        store_paths: the files, in the order of trust; they are only read.
        into: the file to add to. A trial that it already holds stays as it is, and comes before all others.
    """
    with ExitStack() as stack, Store(into) as whole:
        stores = [stack.enter_context(_reading(path)) for path in store_paths]
        notes = _gather(stores, None, whole)
        for study in _studies(stores):
            whole.put_study(study)
    return notes


@contextmanager
def _reading(path: str | os.PathLike[str]) -> Iterator[Store]:
    if not Path(path).expanduser().is_file():
        raise StudyError(f"there is no store {path}")
    with Store(path, reading=True) as store:
        yield store


def _studies(stores: Iterable[Store]) -> list[StoredStudy]:
    """Every study once, in the order in which they were last asked for anywhere."""
    last: dict[str, tuple[str, StoredStudy]] = {}
    for store in stores:
        for study, created in store.dated_studies():
            name = json.dumps([study.spec.as_dict(), study.data, study.keys], sort_keys=True)
            last[name] = max(last.get(name, ("", study)), (created, study), key=lambda one: one[0])
    return [study for _, study in sorted(last.values(), key=lambda one: one[0])]


def _gather(stores: Sequence[Store], keys: Iterable[str] | None, together: Store) -> list[str]:
    """Copy the sound rows of these keys, or all, the first of each, and what was looked at; what was odd, a sentence each."""
    wanted = None if keys is None else tuple(keys)
    kept = {row.key: (row, together.name) for row in together.rows(wanted)}
    different, damaged, idle = [], [], []
    for store in stores:
        found = 0
        for row in store.rows(wanted):
            found += 1
            if row.problem:
                damaged.append(f"{row.name} in {store.name} ({row.problem})")
            elif row.key not in kept:
                together.copy(row)
                kept[row.key] = row, store.name
            elif not _same(first := kept[row.key][0], row):
                different.append(f"{row.name} ({kept[row.key][1]}: {_made_by(first)}; {store.name}: {_made_by(row)})")
        if not found:
            idle.append(store.name)
        for look in store.looks():
            together.copy_look(look)
        for answered in store.answers():
            together.copy_answer(answered)
        for report in store.noise_reports():
            together.copy_noise_report(report)
    return _notes(different, damaged, idle)


def _notes(different: Sequence[str], damaged: Sequence[str], idle: Sequence[str]) -> list[str]:
    notes = []
    if damaged:
        notes.append(f"Rows that are damaged were left out: {_named(damaged)}.")
    if different:
        notes.append(
            f"Stores hold different numbers for the same trial, {len(different)} in all; those of the store named first are used: "
            f"{_named(different)}."
        )
    if idle:
        notes.append(f"Nothing of this study is in {_named(idle)}.")
    return notes


def _same(one: Row, other: Row) -> bool:
    """Whether two rows of a trial say the same, whatever time they took."""
    first, second = (json.loads(row.result) | {"seconds": None} for row in (one, other))
    return first == second


def _made_by(row: Row) -> str:
    versions = json.loads(row.versions)
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _missing(study: StoredStudy, known: set[str]) -> str:
    """Which trials are in no store, in words; nothing when all are."""
    spec = study.spec
    lacking = [key for key in study.keys if key not in known]
    if not lacking:
        return ""
    splits = {**spec.draws, **spec.tuning_draws}
    names = {
        key: f"{label}, seed {splits[draw][0]}, {_tried(spec, place)}"
        for (label, draw), keys in study.by_place().items()
        for place, key in enumerate(keys)
    }
    named = [names.get(key, "a reference outside the comparison") for key in lacking]
    return f"{len(lacking)} of {len(study.keys)} trials are missing: {_named(named)}"


def _tried(spec: StudySpec, place: int) -> str:
    """What a trial tries, by its place among those of an objective and split."""
    return f"configuration {place + 1}" if spec.learning_rates is None else f"learning rate {spec.learning_rates[place]:g}"


def _named(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return "; ".join(names[:NAMED]) + more
