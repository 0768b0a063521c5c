"""Running a study: what is missing from the store is computed by joblib's workers and stored as it arrives.

The coordinating process alone writes. Each worker trains one stack of trials at a time with one thread, so `jobs` is the number of busy
processors. How trials are stacked is a matter of time alone: it moves none of their numbers. Workers are processes of this machine or of
a cluster (:mod:`lossmith.study.backends`); another joblib backend set by ``joblib.parallel_config`` is used when there is one.
"""

import math
import os
import threading
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, NamedTuple

from lossmith.study.backends import Backend, Workers, answers
from lossmith.study.budget import Budget, time_text
from lossmith.study.data.dataset import Dataset
from lossmith.study.errors import StudyError, one_line
from lossmith.study.loggers.log import Log
from lossmith.study.results import StudyResult, load_result
from lossmith.study.shard import Shard
from lossmith.study.shipment import Shipment, references_of
from lossmith.study.spec import StudySpec, TrialSpec
from lossmith.study.store import Store, StoredStudy
from lossmith.study.training.objectives import ObjectiveSpec
from lossmith.study.training.trial import rehearse, run_trials, worth_stacking
from lossmith.study.training.yardsticks import Yardstick, measure, names, yardsticks

_Task = TrialSpec | Yardstick
_Outcome = tuple[dict[str, Any] | None, tuple[str, str] | None]

STACKS_A_WORKER = 4
"""As many at least, if there are trials enough, so that no worker waits long for the last one."""

OnProgress = Callable[[int, int, dict[str, Any] | None], None]
"""Called with the trials done (stored ones included), all trials, and the latest record; first with what was stored, and None."""


def run(
    spec: StudySpec,
    store_path: str | os.PathLike[str] | None = None,
    *,
    jobs: int | None = None,
    backend: str = "local",
    on_progress: OnProgress | None = None,
    log: Any = None,
) -> StudyResult:
    """Run a study, or what is left of it, and return what it found.

    With a time budget (`StudySpec.time`) the seeds are finished one after the other, each for all objectives, and the result is that of
    the whole seeds done in time; the same call goes on from there.

    Trials already in the store are not computed again, whichever study put them there. Interrupted (Ctrl-C, a kill, a power cut), the
    same call goes on where it stopped and ends with the same numbers. Rows of the store that are damaged are computed again.

    Args:
        spec: what to compare, on what, how.
        store_path: the SQLite file that keeps the trials, made when absent; None keeps nothing.
        jobs: how many worker processes of this machine; the number of processors when None. 1 runs in this process.
        backend: ``local``, or a cluster: ``dask://host:8786``, ``ray``, ``ray://host:10001``, ``spark``. Its workers need the same
            versions of lossmith and torch; data and your own modules are sent there, and this process alone writes the store.
        on_progress: called as trials finish.
        log: who else is told of every trial and of the result: ``"tensorboard:runs"``, ``"mlflow"``, ``"wandb"``, an object of your own,
            or several; see `lossmith.study.loggers.log`. One that fails costs no trial.

    Example:
        >>> from lossmith import study
        >>> spec = study.StudySpec(
        ...     data="wine", objectives=["cross_entropy", "gce:q=0.7"], model="linear", seeds=2, epochs=2, learning_rates=[0.01]
        ... )
        >>> result = study.run(spec, jobs=1)
        >>> result.values("accuracy").shape
        (2, 2)
    """
    budget = Budget(spec.time)
    crew, told = _crew(backend, jobs), Log.of(log)
    asked, tasks, dataset = _asked(spec)
    with Store(store_path) as store:
        store.put_study(asked)
        told.begin(spec)
        _compute(tasks, asked.spec, dataset, store, *crew, budget, on_progress, told)
        if spec.time is not None:
            asked = _finished(asked, tasks, store)
        result = load_result(asked, store)
    if told.loggers:
        from lossmith.study.summary import Summary

        told.end(Summary(result, told.test))
    return result


class Part(NamedTuple):
    """How far a shard of a study is: its trials that are done, all of its trials, and all trials of the study."""

    done: int
    trials: int
    study: int


def run_shard(
    spec: StudySpec,
    shard: str,
    store_path: str | os.PathLike[str],
    *,
    jobs: int | None = None,
    backend: str = "local",
    on_progress: OnProgress | None = None,
    log: Any = None,
) -> Part:
    """Run one of several parts of a study, each in a store of its own; `load_united` then reads them together.

    Args:
        spec: the whole study, the same for every part.
        shard: ``2/8``, the second of eight parts. Every trial is in exactly one, whatever machine deals them.
        store_path: the file that keeps this part's trials. Parts may share one on a disk of one machine; on a network drive, where
            SQLite's locks are not to be trusted, each needs its own.
        jobs, backend, on_progress, log: as `run` takes them; the trials counted and told are those of the part, which has no end.
    """
    part = Shard.parse(shard)
    budget = Budget(spec.time)
    crew, told = _crew(backend, jobs), Log.of(log)
    asked, tasks, dataset = _asked(spec)
    mine = part.of(tasks)
    with Store(store_path) as store:
        store.put_study(asked)
        told.begin(spec)
        _compute(mine, spec, dataset, store, *crew, budget, on_progress, told)
        return Part(len(store.known(task.key for task in mine)), len(mine), len(tasks))


def _crew(backend: str, jobs: int | None) -> tuple[Backend, int]:
    """The back end, and the processes wanted of it."""
    found = Backend.parse(backend)
    if jobs is not None and not found.is_local:
        raise StudyError(f"jobs counts processes of this machine; the cluster {backend} uses all of its workers: leave it out")
    return found, _checked_jobs(jobs) if found.is_local else 1


def _asked(spec: StudySpec) -> tuple[StoredStudy, list[_Task], Dataset]:
    """A study whose first trials could run: as it is stored, trial by trial, and its data."""
    dataset = spec.load()
    check(spec, dataset)
    tasks: list[_Task] = [*spec.trials(dataset.fingerprint), *yardsticks(spec, dataset)]
    described = {**dataset.describe(), "references": names(spec, dataset)}
    return StoredStudy(spec, described, tuple(task.key for task in tasks)), tasks, dataset


def _compute(
    tasks: Sequence[_Task],
    spec: StudySpec,
    dataset: Dataset,
    store: Store,
    backend: Backend,
    jobs: int,
    budget: Budget,
    on_progress: OnProgress | None,
    log: Log,
) -> None:
    """Compute what the store lacks of these trials, and store it as it comes."""
    damaged = store.mend(task.key for task in tasks)
    for row, problem in damaged[:3]:
        warnings.warn(f"{store.name}: {row} is damaged ({problem}), and computed again", stacklevel=3)
    if len(damaged) > 3:
        warnings.warn(f"{store.name}: {len(damaged) - 3} more rows are damaged, and computed again", stacklevel=3)
    known = store.known(task.key for task in tasks)
    done = len(known)
    if on_progress is not None:
        on_progress(done, len(tasks), None)
    if log.loggers:  # whatever an interrupted run did not come to tell
        stored = store.results(known)
        for task in tasks:
            if task.key in stored:
                log.trial(task, stored[task.key])
    pending = [task for task in tasks if task.key not in known]
    if not pending:
        return
    shipment = Shipment.local(dataset) if backend.is_local else Shipment.abroad(spec, dataset)
    with backend.opened(jobs, shipment, (name.partition(":")[0] for name in references_of(spec))) as workers:
        # references first: they are quick, and every seed that is done should have them
        stacks: list[Sequence[_Task]] = [[one] for one in pending if isinstance(one, Yardstick)]
        trials = [one for one in pending if isinstance(one, TrialSpec)]
        stacks += _stacks(trials, dataset, workers.jobs, seed_by_seed=budget.limited)
        if backend.is_local:
            workers = replace(workers, jobs=min(jobs, len(stacks)))
        with closing(_results(stacks, shipment, workers, budget)) as results:
            for task, result in results:
                store.put(task, result)
                done += 1
                if on_progress is not None:
                    on_progress(done, len(tasks), result)
                log.trial(task, result)


def _finished(asked: StoredStudy, trials: Sequence[TrialSpec | Yardstick], store: Store) -> StoredStudy:
    """The part of a study whose seeds are whole, remembered as a study of its own when that is not all of it."""
    known = store.known(asked.keys)
    missing = {trial.seed for trial in trials if trial.key not in known}
    if not missing:
        return asked
    spec = asked.spec
    whole = tuple(seed for seed in spec.seeds if seed not in missing)
    if not whole:
        kept = "were done" if store.path is None else f"are kept in {store.name}, and the same command goes on from there"
        raise StudyError(
            f"--time {time_text(spec.time or 0)} was over before one seed was done for all objectives: "
            f"{len(known)} of {len(trials)} trials {kept}"
        )
    keys = tuple(trial.key for trial in trials if trial.seed not in missing)
    part = StoredStudy(replace(spec, seeds=whole, planned_seeds=spec.seeds), asked.data, keys)
    store.put_study(part)
    return part


def check(spec: StudySpec, dataset: Dataset) -> None:
    """Raise a StudyError if the first trial of any objective could not run: a number out of range, a model of the wrong shape."""
    first = {trial.objective: trial for trial in reversed(spec.trials(dataset.fingerprint))}
    for objective in spec.objectives:
        rehearse(first[objective], dataset)


def _checked_jobs(jobs: int | None) -> int:
    from joblib import cpu_count

    processors = cpu_count()
    if jobs is None:
        return processors
    if not isinstance(jobs, int) or isinstance(jobs, bool) or jobs < 1:
        raise StudyError(f"jobs must be a whole number >= 1; got {jobs!r}")
    if jobs > processors:
        warnings.warn(
            f"jobs={jobs} on {processors} processors: the workers, one thread each, will compete and the study take longer", stacklevel=3
        )
    return jobs


def _results(
    stacks: Sequence[Sequence[_Task]], shipment: Shipment, workers: Workers, budget: Budget
) -> Generator[tuple[_Task, dict[str, Any]], None, None]:
    """What the stacks give, begun in their order and as many as the time allows; a task that fails is told of when all else is stored."""
    from joblib import delayed

    failed: StudyError | None = None
    if budget.limited:
        workers = replace(workers, ahead=1)  # what waits for a worker has been allowed too early

    def calls(numbers: Iterable[int]) -> Iterator[Any]:
        for number in numbers:
            stack = stacks[number]
            if failed is not None or not budget.allows(type(stack[0]), len(stack)):  # what is under way is stored, and nothing else begun
                return
            yield delayed(_work)(number, stack, shipment)

    with closing(answers(workers, calls, len(stacks))) as found:
        for number, outcomes in found:
            for task, (result, failure) in zip(stacks[number], outcomes, strict=True):
                if failure is not None:
                    failed = failed or _failed(task, failure)
                    continue
                budget.took(result["seconds"], type(task))
                yield task, result
    if failed is not None:
        raise failed


def _failed(task: _Task, failure: tuple[str, str]) -> StudyError:
    error = StudyError(f"trial {task.objective.label}, seed {task.seed}, learning rate {task.learning_rate:g} failed: {failure[0]}")
    error.add_note(failure[1])
    return error


def _stacks(pending: Sequence[TrialSpec], dataset: Dataset, jobs: int, *, seed_by_seed: bool = False) -> list[list[TrialSpec]]:
    """The trials that are trained together: of one objective, in parts of about equal size, in the order they were asked for.

    Args:
        pending: the trials.
        dataset: the data.
        jobs: how many workers share them.
        seed_by_seed: whether a stack keeps to one seed, so that a study that ends early has whole seeds.
    """
    groups: dict[tuple[ObjectiveSpec, int | None], list[int]] = {}
    for i, trial in enumerate(pending):
        groups.setdefault((trial.objective, trial.seed if seed_by_seed else None), []).append(i)
    first = {trial.objective: trial for trial in reversed(pending)}
    largest = {objective: worth_stacking(trial, dataset) for objective, trial in first.items()}
    fair = math.ceil(len(pending) / (STACKS_A_WORKER * jobs))
    found = []
    for (objective, _), numbers in groups.items():
        pieces = math.ceil(len(numbers) / min(largest[objective], fair))
        found += [numbers[len(numbers) * k // pieces : len(numbers) * (k + 1) // pieces] for k in range(pieces)]
    return [[pending[i] for i in stack] for stack in sorted(found)]


def _work(number: int, stack: Sequence[_Task], shipment: Shipment) -> tuple[int, list[_Outcome]]:
    """A stack in a worker: its number, and of each task either the record or why it failed, as a line and as a traceback."""
    from joblib import parallel_config

    # workers of a cluster may be threads, and torch's random numbers and its count of threads belong to the whole process
    with _alone, parallel_config(backend="sequential"):
        try:
            shipment.settle()
        except StudyError as error:
            return number, [_plainly(error)] * len(stack)
        trials = [task for task in stack if isinstance(task, TrialSpec)]
        references = [task for task in stack if isinstance(task, Yardstick)]
        outcomes = run_trials(trials, shipment.dataset) if trials else [_measured(task, shipment.dataset) for task in references]
    return number, [_plainly(outcome) for outcome in outcomes]


_alone = threading.Lock()


def _measured(yardstick: Yardstick, dataset: Dataset) -> dict[str, Any] | Exception:
    try:
        return measure(yardstick, dataset)
    except Exception as error:  # as it comes with trials
        return error


def _plainly(outcome: dict[str, Any] | Exception) -> _Outcome:
    """An outcome that can travel: a user's exception may not unpickle."""
    if isinstance(outcome, Exception):
        return None, (one_line(outcome), "".join(traceback.format_exception(outcome)))
    return outcome, None
