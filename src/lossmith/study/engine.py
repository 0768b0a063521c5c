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
from contextlib import ExitStack, closing
from dataclasses import replace
from types import TracebackType
from typing import Any, NamedTuple

from lossmith.study.backends import Backend
from lossmith.study.budget import Budget, time_text
from lossmith.study.data.dataset import Dataset
from lossmith.study.errors import StudyError, one_line
from lossmith.study.loading import load_result
from lossmith.study.loggers.log import Log
from lossmith.study.results import StudyResult
from lossmith.study.schedule import Schedule
from lossmith.study.shard import Shard
from lossmith.study.shipment import Shipment, references_of
from lossmith.study.spec import StudySpec, TrialSpec
from lossmith.study.store import Store
from lossmith.study.stored import StoredStudy
from lossmith.study.training.trial import rehearse, run_trials, worth_stacking
from lossmith.study.training.yardsticks import Yardstick, measure, names, yardsticks
from lossmith.study.tuning.configuration import Configuration
from lossmith.study.tuning.tuner import tuners
from lossmith.study.workers import Workers, answers

_Task = TrialSpec | Yardstick
_Outcome = tuple[dict[str, Any] | None, tuple[str, str] | None]

STACKS_A_WORKER = 4
"""As many at least, if there are trials enough, so that no worker waits long for the last one."""

OPTUNA = ".optuna"
"""What is added to the store's name for the file where Optuna keeps its studies."""

OnProgress = Callable[[int, int, dict[str, Any] | None], None]
"""Called with the trials done (stored ones included), all trials, and the latest record; first with what was stored, and None."""


def run(
    spec: StudySpec,
    store_path: str | os.PathLike[str] | None = None,
    *,
    jobs: int | None = None,
    backend: str = "local",
    on_progress: OnProgress | None = None,
    optuna_storage: str | None = None,
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
        optuna_storage: for a study tuned by Optuna, the URL of the storage that keeps what its samplers were told; when None, an SQLite
            file beside the store.
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
    dataset = spec.load()
    check(spec, dataset)
    described = _described(spec, dataset)
    with Store(store_path) as store:
        make = tuners(spec, dataset.fingerprint, _storage(spec, store, optuna_storage))
        told.begin(spec)
        schedule = Schedule(spec, dataset.fingerprint, yardsticks(spec, dataset), make, store.results)
        progress = _Progress(lambda: schedule.total, on_progress)
        with _Crew(*crew, spec, dataset) as workers:
            for tasks in schedule.rounds():
                if not spec.sequential:  # so that a study that is interrupted can be read about
                    store.put_study(StoredStudy(spec, described, schedule.keys()))
                _compute(tasks, store, workers, budget, progress, told)
        result = load_result(_finished(spec, described, schedule, store), store)
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
        spec: the whole study, the same for every part; its trials must be known beforehand, so that it neither learns from them
            (``tuner="optuna"``, `tune_once`) nor ends objectives (`stop_hopeless`).
        shard: ``2/8``, the second of eight parts. Every trial is in exactly one, whatever machine deals them.
        store_path: the file that keeps this part's trials. Parts may share one on a disk of one machine; on a network drive, where
            SQLite's locks are not to be trusted, each needs its own.
        jobs, backend, on_progress, log: as `run` takes them; the trials counted and told are those of the part, which has no end.
    """
    part = Shard.parse(shard)
    part.check(spec)
    budget = Budget(spec.time)
    crew, told = _crew(backend, jobs), Log.of(log)
    dataset = spec.load()
    check(spec, dataset)
    tasks: list[_Task] = [*spec.trials(dataset.fingerprint), *yardsticks(spec, dataset)]
    mine = part.of(tasks)
    with Store(store_path) as store, _Crew(*crew, spec, dataset) as workers:
        store.put_study(StoredStudy(spec, _described(spec, dataset), tuple(task.key for task in tasks)))
        told.begin(spec)
        _compute(mine, store, workers, budget, _Progress(lambda: len(mine), on_progress), told)
        return Part(len(store.known(task.key for task in mine)), len(mine), len(tasks))


def _crew(backend: str, jobs: int | None) -> tuple[Backend, int]:
    """The back end, and the processes wanted of it."""
    found = Backend.parse(backend)
    if jobs is not None and not found.is_local:
        raise StudyError(f"jobs counts processes of this machine; the cluster {backend} uses all of its workers: leave it out")
    return found, checked_jobs(jobs) if found.is_local else 1


def _described(spec: StudySpec, dataset: Dataset) -> dict[str, Any]:
    """What is stored of a study's data, so that it can be read without them."""
    described = {**dataset.describe(), "references": names(spec, dataset)}
    if spec.tuner != "grid":
        described["searched"] = {objective.label: spec.space(objective).as_list() for objective in spec.objectives}
    return described


class _Crew:
    """The workers of a study, called when the first trial is missing and kept for all its rounds. A context manager."""

    def __init__(self, backend: Backend, jobs: int, spec: StudySpec, dataset: Dataset) -> None:
        self._backend, self._jobs, self._spec, self.dataset = backend, jobs, spec, dataset
        self._open = ExitStack()
        self._called: tuple[Shipment, Workers] | None = None

    def __enter__(self) -> "_Crew":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool | None:
        return self._open.__exit__(kind, error, trace)

    def call(self) -> tuple[Shipment, Workers]:
        """What all trials share, and who computes them."""
        if self._called is None:
            shipment = Shipment.local(self.dataset) if self._backend.is_local else Shipment.abroad(self._spec, self.dataset)
            modules = (name.partition(":")[0] for name in references_of(self._spec))
            self._called = shipment, self._open.enter_context(self._backend.opened(self._jobs, shipment, modules))
        return self._called

    def fitting(self, stacks: int) -> Workers:
        """No more processes of this machine than stacks; of a cluster, all."""
        _, workers = self.call()
        return replace(workers, jobs=min(self._jobs, stacks)) if self._backend.is_local else workers


def _compute(tasks: Sequence[_Task], store: Store, crew: _Crew, budget: Budget, progress: "_Progress", log: Log) -> None:
    """Compute what the store lacks of these trials, and store it as it comes."""
    damaged = store.mend(task.key for task in tasks)
    for row, problem in damaged[:3]:
        warnings.warn(f"{store.name}: {row} is damaged ({problem}), and computed again", stacklevel=3)
    if len(damaged) > 3:
        warnings.warn(f"{store.name}: {len(damaged) - 3} more rows are damaged, and computed again", stacklevel=3)
    known = store.known(task.key for task in tasks)
    progress.known(known, store)
    if log.loggers:  # whatever an interrupted run did not come to tell
        stored = store.results(known)
        for task in tasks:
            if task.key in stored:
                log.trial(task, stored[task.key])
    pending = [task for task in tasks if task.key not in known]
    if not pending:
        return
    shipment, workers = crew.call()
    # references first: they are quick, and every seed that is done should have them
    stacks: list[Sequence[_Task]] = [[one] for one in pending if isinstance(one, Yardstick)]
    trials = [one for one in pending if isinstance(one, TrialSpec)]
    stacks += _stacks(trials, crew.dataset, workers.jobs, seed_by_seed=budget.limited)
    with closing(_results(stacks, shipment, crew.fitting(len(stacks)), budget)) as results:
        for task, result in results:
            store.put(task, result)
            progress.computed(task.key, result)
            log.trial(task, result)


def _finished(spec: StudySpec, described: dict[str, Any], schedule: Schedule, store: Store) -> StoredStudy:
    """What of the study is whole, remembered as a study of its own: all its seeds, or as many as its time allowed."""
    whole = spec.seeds if spec.time is None else schedule.whole_seeds()
    if not whole:
        kept = "were done" if store.path is None else f"are kept in {store.name}, and the same command goes on from there"
        raise StudyError(
            f"--time {time_text(spec.time or 0)} was over before one seed was done for all objectives: "
            f"{len(store.known(schedule.keys()))} of {schedule.total} trials {kept}"
        )
    if whole != spec.seeds:
        spec = replace(spec, seeds=whole, planned_seeds=spec.seeds)
    if spec.sequential:
        described = {**described, "counts": schedule.counts(whole), "ended": schedule.ended}
    study = StoredStudy(spec, described, schedule.keys(whole))
    store.put_study(study)
    return study


def _storage(spec: StudySpec, store: Store, asked: str | None) -> str | None:
    """Where Optuna keeps its studies: as asked, else beside the store, else in memory."""
    if spec.tuner != "optuna":
        if asked is not None:
            raise StudyError("--optuna-storage is for --tuner optuna")
        return None
    return asked or (None if store.path is None else f"sqlite:///{store.path.with_name(store.path.name + OPTUNA)}")


class _Progress:
    """Counts the trials that are done, each once, and tells of them."""

    def __init__(self, total: Callable[[], int], tell: OnProgress | None) -> None:
        self._total, self._tell = total, tell
        self._done: set[str] = set()
        self._begun = False

    def known(self, keys: Iterable[str], store: Store) -> None:
        """Of a round, what is stored already; first with None, then, since it was not foreseen, as a record like others."""
        new = set(keys) - self._done
        self._done |= new
        if self._tell is not None and (new or not self._begun):
            record = next(iter(store.results([next(iter(new))]).values())) if self._begun else None
            self._tell(len(self._done), self._total(), record)
        self._begun = True

    def computed(self, key: str, result: dict[str, Any]) -> None:
        self._done.add(key)
        if self._tell is not None:
            self._tell(len(self._done), self._total(), result)


def check(spec: StudySpec, dataset: Dataset) -> None:
    """Raise a StudyError if the first trial of any objective could not run: a number out of range, a model of the wrong shape."""
    trial, draw = spec.maker(dataset.fingerprint), next(iter(spec.draws))
    for objective in spec.objectives:
        rehearse(trial(objective, draw, Configuration()), dataset)


def checked_jobs(jobs: int | None) -> int:
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
    """The trials that are trained together: of one objective, whatever its hyper-parameters, in parts of about equal size, in the order
    they were asked for.

    Args:
        pending: the trials.
        dataset: the data.
        jobs: how many workers share them.
        seed_by_seed: whether a stack keeps to one seed, so that a study that ends early has whole seeds.
    """
    groups: dict[tuple[str, int | None], list[int]] = {}
    for i, trial in enumerate(pending):
        groups.setdefault((trial.objective.name, trial.seed if seed_by_seed else None), []).append(i)
    first = {trial.objective.name: trial for trial in reversed(pending)}
    largest = {name: worth_stacking(trial, dataset) for name, trial in first.items()}
    fair = math.ceil(len(pending) / (STACKS_A_WORKER * jobs))
    found = []
    for (name, _), numbers in groups.items():
        pieces = math.ceil(len(numbers) / min(largest[name], fair))
        found += [numbers[len(numbers) * k // pieces : len(numbers) * (k + 1) // pieces] for k in range(pieces)]
    return [[pending[i] for i in stack] for stack in sorted(found)]


def _work(number: int, stack: Sequence[_Task], shipment: Shipment) -> tuple[int, list[_Outcome]]:
    """A stack in a worker: its number, and of each task either the record or why it failed, as a line and as a traceback."""
    from joblib import parallel_config

    with alone, parallel_config(backend="sequential"):
        try:
            shipment.settle()
        except StudyError as error:
            return number, [_plainly(error)] * len(stack)
        trials = [task for task in stack if isinstance(task, TrialSpec)]
        references = [task for task in stack if isinstance(task, Yardstick)]
        outcomes = run_trials(trials, shipment.dataset) if trials else [_measured(task, shipment.dataset) for task in references]
    return number, [_plainly(outcome) for outcome in outcomes]


alone = threading.Lock()
"""Held by whoever trains: workers may be threads, and torch's random numbers and its count of threads belong to the whole process."""


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
