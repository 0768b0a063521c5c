"""Running a study: what is missing from the store is computed by joblib's workers and stored as it arrives.

The coordinating process alone writes. Each worker trains one trial at a time with one thread, so `jobs` is the number of busy
processors. Another joblib backend (Dask, Ray, Spark) set by ``joblib.parallel_config`` is used when there is one.
"""

import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import takewhile
from typing import Any

from lossmith.study.budget import Budget, time_text
from lossmith.study.dataset import Dataset
from lossmith.study.errors import StudyError, one_line
from lossmith.study.results import StudyResult, load_result
from lossmith.study.spec import StudySpec, TrialSpec
from lossmith.study.store import Store, StoredStudy
from lossmith.study.trial import rehearse, run_trial
from lossmith.study.yardsticks import Yardstick, measure, names, yardsticks

_Answer = tuple[int, dict[str, Any] | None, tuple[str, str] | None]

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
        for some in (references, trials):  # references first: they are quick, and every seed that is done should have them
            pending = [trial for trial in some if trial.key not in known]
            if pending:
                done = _compute(pending, dataset, store, min(jobs, len(pending)), done, len(everything), on_progress, budget)
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


def _compute(
    pending: Sequence[TrialSpec | Yardstick],
    dataset: Dataset,
    store: Store,
    jobs: int,
    done: int,
    total: int,
    on_progress: OnProgress | None,
    budget: Budget,
) -> int:
    """Run the trials, as many as the time allows, in their order, and store each result as it arrives; how many are done now."""
    from joblib import Parallel, delayed

    parallel = Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1, pre_dispatch=jobs if budget.limited else 2 * jobs)
    shipped = replace(dataset, notes=(), warnings=())
    home = (os.getpid(), tuple(sys.path))
    started = takewhile(lambda _: budget.allows(), enumerate(pending))
    answers = parallel(delayed(_work)(i, trial, shipped, home) for i, trial in started)
    try:
        for i, result, failure in answers:
            if failure is not None:
                error = StudyError(f"trial {pending[i].objective.label}, seed {pending[i].seed}, learning rate "
                                   f"{pending[i].learning_rate:g} failed: {failure[0]}")  # fmt: skip
                error.add_note(failure[1])
                raise error
            store.put(pending[i], result)
            budget.took(result["seconds"])
            done += 1
            if on_progress is not None:
                on_progress(done, total, result)
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # joblib says that it cancels what was under way; so it should
            answers.close()
    return done


def _work(i: int, trial: TrialSpec | Yardstick, dataset: Dataset, home: tuple[int, tuple[str, ...]]) -> _Answer:
    """One trial in a worker: its number, and either its record or why it failed, as a line and as a traceback.

    `home` is the coordinator's process number and module path: workers that joblib keeps may have started before a folder was added.
    """
    coordinator, path = home
    if os.getppid() == coordinator:
        _serve(coordinator)
    if os.getpid() != coordinator:
        sys.path.extend(folder for folder in path if folder not in sys.path)
    try:
        return i, measure(trial, dataset) if isinstance(trial, Yardstick) else run_trial(trial, dataset), None
    except Exception as error:  # it must travel back as plain data: a user's exception may not unpickle
        return i, None, (one_line(error), traceback.format_exc())


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
