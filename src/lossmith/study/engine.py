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
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import chain
from typing import Any

from lossmith.study.data import load_data
from lossmith.study.dataset import Dataset
from lossmith.study.errors import StudyError, one_line
from lossmith.study.objectives import ObjectiveSpec
from lossmith.study.results import StudyResult, load_result
from lossmith.study.spec import StudySpec, TrialSpec
from lossmith.study.store import Store, StoredStudy
from lossmith.study.trial import rehearse, run_trials, worth_stacking

_Answer = tuple[int, dict[str, Any] | None, tuple[str, str] | None]

STACKS_A_WORKER = 4
"""As many at least, if there are trials enough, so that no worker waits long for the last one."""

OnProgress = Callable[[int, int, dict[str, Any] | None], None]
"""Called with the trials done (stored ones included), all trials, and the latest record; first with what was stored, and None."""


def run(
    spec: StudySpec, store_path: str | os.PathLike[str] | None = None, *, jobs: int | None = None, on_progress: OnProgress | None = None
) -> StudyResult:
    """Run a study, or what is left of it, and return what it found.

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
    jobs = _checked_jobs(jobs)
    dataset = load_data(spec.data, spec.target)
    check(spec, dataset)
    trials = spec.trials(dataset.fingerprint)
    asked = StoredStudy(spec, dataset.describe(), tuple(trial.key for trial in trials))
    with Store(store_path) as store:
        store.put_study(asked)
        known = store.known(asked.keys)
        pending = [trial for trial in trials if trial.key not in known]
        done = len(trials) - len(pending)
        if on_progress is not None:
            on_progress(done, len(trials), None)
        if pending:
            _compute(pending, dataset, store, min(jobs, len(pending)), done, on_progress)
        return load_result(asked, store)


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


def _compute(pending: list[TrialSpec], dataset: Dataset, store: Store, jobs: int, done: int, on_progress: OnProgress | None) -> None:
    """Run the trials and store each result as it arrives."""
    from joblib import Parallel, delayed

    total = done + len(pending)
    shipped = replace(dataset, notes=())
    home = (os.getpid(), tuple(sys.path))
    failed: StudyError | None = None

    def tasks() -> Iterator[Any]:
        for stack in _stacks(pending, dataset, jobs):
            if failed is not None:  # what is under way is stored, and nothing else begun
                return
            yield delayed(_work)([(i, pending[i]) for i in stack], shipped, home)

    answers = Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1, pre_dispatch="n_jobs")(tasks())
    try:
        for i, result, failure in chain.from_iterable(answers):
            if failure is not None:
                failed = failed or _failed(pending[i], failure)
                continue
            store.put(pending[i], result)
            done += 1
            if on_progress is not None:
                on_progress(done, total, result)
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # joblib says that it cancels what was under way; so it should
            answers.close()
    if failed is not None:
        raise failed


def _failed(trial: TrialSpec, failure: tuple[str, str]) -> StudyError:
    error = StudyError(f"trial {trial.objective.label}, seed {trial.seed}, learning rate {trial.learning_rate:g} failed: {failure[0]}")
    error.add_note(failure[1])
    return error


def _stacks(pending: list[TrialSpec], dataset: Dataset, jobs: int) -> list[list[int]]:
    """The trials that are trained together, by number: of one objective, in parts of about equal size, in the order they were asked for."""
    by_objective: dict[ObjectiveSpec, list[int]] = {}
    for i, trial in enumerate(pending):
        by_objective.setdefault(trial.objective, []).append(i)
    fair = math.ceil(len(pending) / (STACKS_A_WORKER * jobs))
    stacks = []
    for numbers in by_objective.values():
        size = min(worth_stacking(pending[numbers[0]], dataset), max(fair, 1))
        pieces = math.ceil(len(numbers) / size)
        stacks += [numbers[len(numbers) * k // pieces : len(numbers) * (k + 1) // pieces] for k in range(pieces)]
    return sorted(stacks)


def _work(stack: list[tuple[int, TrialSpec]], dataset: Dataset, home: tuple[int, tuple[str, ...]]) -> list[_Answer]:
    """A stack of trials in a worker: of each its number, and either its record or why it failed, as a line and as a traceback.

    `home` is the coordinator's process number and module path: workers that joblib keeps may have started before a folder was added.
    """
    coordinator, path = home
    if os.getppid() == coordinator:
        _serve(coordinator)
    if os.getpid() != coordinator:
        sys.path.extend(folder for folder in path if folder not in sys.path)
    outcomes = run_trials([trial for _, trial in stack], dataset)
    return [(i, *_plainly(outcome)) for (i, _), outcome in zip(stack, outcomes, strict=True)]


def _plainly(outcome: dict[str, Any] | Exception) -> tuple[dict[str, Any] | None, tuple[str, str] | None]:
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
