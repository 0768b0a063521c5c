"""Workers that are there, and their answers as they come: one that is lost is made good, as long as somebody is left to try."""

import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import BrokenExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

from lossmith.study.errors import StudyError, one_line

LOSSES = 3
"""How often in a row, without an answer in between, workers may be lost before the study ends."""


@dataclass(frozen=True)
class Workers:
    """Workers that are there.

    Attributes:
        jobs: how many.
        config: makes the `joblib.parallel_config` under which they are used.
        where: what they are, for messages.
        lost: the exceptions that mean that workers, or the data on them, were lost, and that the rest may be tried again.
        still_there: raises a StudyError if there is nobody left who could try.
        ahead: stacks handed out for each worker; more than one keeps a worker that joins late busy too.
    """

    jobs: int
    config: Callable[[], AbstractContextManager[Any]] = nullcontext
    where: str = "worker processes"
    lost: tuple[type[BaseException], ...] = (BrokenExecutor,)
    still_there: Callable[[], None] = lambda: None
    ahead: int = 1


Call = tuple[Callable[..., tuple[int, Any]], tuple[Any, ...], Mapping[str, Any]]
"""A call as `joblib.delayed` writes it down."""


def answers(workers: Workers, calls: Callable[[Iterable[int]], Iterator[Call]], count: int) -> Generator[tuple[int, Any], None, None]:
    """What calls return, as it comes; those that went down with a worker are made again, until losses outrun the answers.

    Args:
        workers: who computes.
        calls: gives the calls of these numbers, in their order, and stops where no more should begin. A call returns its number and its
            answer.
        count: how many there are.
    """
    waiting = dict.fromkeys(range(count))
    losses = 0
    while waiting:
        try:
            with closing(_answers(workers, calls(tuple(waiting)))) as found:
                for number, answer in found:
                    del waiting[number]
                    losses = 0
                    yield number, answer
            return
        except workers.lost as error:
            workers.still_there()
            losses += 1
            if losses == LOSSES:
                raise StudyError(
                    f"{workers.where} were lost {LOSSES} times without a trial done in between ({one_line(error, 120)}); if memory ran "
                    "out, fewer workers or smaller batches need less; what was done is kept, and the same command goes on from there"
                ) from error
            warnings.warn(f"{workers.where} were lost ({one_line(error, 120)}); their trials are computed again", stacklevel=2)


def _answers(workers: Workers, calls: Iterator[Call]) -> Generator[tuple[int, Any], None, None]:
    from joblib import Parallel

    n_jobs = workers.jobs if workers.config is nullcontext else -1  # all of a cluster
    options = {"n_jobs": n_jobs, "batch_size": 1, "pre_dispatch": f"{workers.ahead}*n_jobs"}
    with workers.config():  # a Parallel takes its back end when it is made; what else runs meanwhile keeps its own
        try:
            parallel = Parallel(return_as="generator_unordered", **options)
        except ValueError:  # what joblib raises for back ends that give nothing before all is done: Ray's, Spark's, multiprocessing
            parallel = Parallel(**options)
    if not parallel.return_generator:
        with parallel:
            while some := list(islice(calls, workers.jobs)):  # round by round, so that a kill loses one round
                yield from parallel(some)
        return
    found = parallel(calls)
    try:
        for one in found:  # noqa: UP028  # "yield from" would close it before we can keep joblib quiet
            yield one
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # joblib says that it cancels what was under way; so it should
            found.close()
