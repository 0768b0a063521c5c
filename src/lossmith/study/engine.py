"""Running a study: what is missing from the store is computed by joblib's workers and stored as it arrives.

The coordinating process alone writes. Each worker trains one stack of trials at a time with one thread, so `jobs` is the number of busy
processors. How trials are stacked is a matter of time alone: it moves none of their numbers. Another joblib backend (Dask, Ray, Spark)
set by ``joblib.parallel_config`` is used when there is one.
"""

import math
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cache
from typing import Any

from lossmith.study.budget import Budget, time_text
from lossmith.study.data.dataset import Dataset
from lossmith.study.errors import StudyError, one_line
from lossmith.study.results import StudyResult, load_result
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
    spec: StudySpec, store_path: str | os.PathLike[str] | None = None, *, jobs: int | None = None, on_progress: OnProgress | None = None
) -> StudyResult:
    """Run a study, or what is left of it, and return what it found.

    With a time budget (`StudySpec.time`) the seeds are finished one after the other, each for all objectives, and the result is that of
    the whole seeds done in time; the same call goes on from there.

    Trials already in the store are not computed again, whichever study put them there. Interrupted (Ctrl-C, a kill, a power cut), the
    same call goes on where it stopped and ends with the same numbers.

    Args:
        spec: what to compare, on what, how.
        store_path: the SQLite file that keeps the trials, made when absent; None keeps nothing.
        jobs: how many worker processes; the number of processors when None. 1 runs in this process.
        on_progress: called as trials finish.

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
    jobs = _checked_jobs(jobs)
    dataset = spec.load()
    check(spec, dataset)
    trials, references = spec.trials(dataset.fingerprint), yardsticks(spec, dataset)
    everything = [*trials, *references]
    described = {**dataset.describe(), "references": names(spec, dataset)}
    asked = StoredStudy(spec, described, tuple(trial.key for trial in everything))
    with Store(store_path) as store:
        store.put_study(asked)
        known = store.known(asked.keys)
        done = sum(trial.key in known for trial in everything)
        if on_progress is not None:
            on_progress(done, len(everything), None)
        # references first: they are quick, and every seed that is done should have them
        stacks: list[Sequence[_Task]] = [[one] for one in references if one.key not in known]
        stacks += _stacks([trial for trial in trials if trial.key not in known], dataset, jobs, seed_by_seed=budget.limited)
        with closing(_results(stacks, dataset, min(jobs, max(1, len(stacks))), budget)) as results:
            for task, result in results:
                store.put(task, result)
                done += 1
                if on_progress is not None:
                    on_progress(done, len(everything), result)
        if spec.time is not None:
            asked = _finished(asked, everything, store)
        return load_result(asked, store)


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
    stacks: Sequence[Sequence[_Task]], dataset: Dataset, jobs: int, budget: Budget
) -> Generator[tuple[_Task, dict[str, Any]], None, None]:
    """What the stacks give, begun in their order and as many as the time allows; a task that fails is told of when all else is stored."""
    from joblib import Parallel, delayed

    shipped = replace(dataset, notes=(), warnings=())
    home = (os.getpid(), tuple(sys.path))
    failed: StudyError | None = None

    def calls() -> Iterator[Any]:
        for number, stack in enumerate(stacks):
            if failed is not None or not budget.allows(type(stack[0]), len(stack)):  # what is under way is stored, and nothing else begun
                return
            yield delayed(_work)(number, stack, shipped, home)

    answers = Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1, pre_dispatch="n_jobs")(calls())
    try:
        for number, outcomes in answers:
            for task, (result, failure) in zip(stacks[number], outcomes, strict=True):
                if failure is not None:
                    failed = failed or _failed(task, failure)
                    continue
                budget.took(result["seconds"], type(task))
                yield task, result
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # joblib says that it cancels what was under way; so it should
            answers.close()
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


def _work(number: int, stack: Sequence[_Task], dataset: Dataset, home: tuple[int, tuple[str, ...]]) -> tuple[int, list[_Outcome]]:
    """A stack in a worker: its number, and of each task either the record or why it failed, as a line and as a traceback.

    `home` is the coordinator's process number and module path: workers that joblib keeps may have started before a folder was added.
    """
    coordinator, path = home
    if os.getppid() == coordinator:
        _serve(coordinator)
    if os.getpid() != coordinator:
        sys.path.extend(folder for folder in path if folder not in sys.path)
    trials = [task for task in stack if isinstance(task, TrialSpec)]
    outcomes = run_trials(trials, dataset) if trials else [_measured(task, dataset) for task in stack if isinstance(task, Yardstick)]
    return number, [_plainly(outcome) for outcome in outcomes]


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


@cache
def _serve(coordinator: int) -> None:
    """Settle a worker process, once: leave Ctrl-C, which reaches the whole group, to the coordinator, and do not outlive it."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == coordinator:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
