"""Where trials are computed: processes of this machine, or a cluster that joblib has a back end for.

There is no engine of our own: joblib hands stacks out, and its back ends bring them to a Dask, Ray or Spark cluster. What is added here is
what a study needs of any of them: answers as they come, a worker that is lost made good, and one clear line when there is no cluster.
"""

import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import BrokenExecutor
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from typing import Any, Literal

from lossmith.study.errors import StudyError, one_line
from lossmith.study.shipment import Shipment

FORMS = "local, dask://HOST:PORT, ray, ray://HOST:PORT, spark"

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


@dataclass(frozen=True)
class Backend:
    """Which workers: `kind`, and the address of their head where they have one."""

    kind: Literal["local", "dask", "ray", "spark"]
    address: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Backend":
        """Read ``local``, ``dask://host:8786`` (``dask+tls://`` where it is asked for), ``ray``, ``ray://host:10001``, ``spark``."""
        scheme, separator, place = text.strip().partition("://")
        if separator and place:
            if scheme in ("dask", "dask+tls"):
                host, colon, port = place.rpartition(":")
                if not colon or not host or not port.isdecimal():
                    raise StudyError(f"--backend {text!r} names no port: dask://HOST:8786 is where a Dask scheduler listens")
                return cls("dask", f"{'tls' if scheme == 'dask+tls' else 'tcp'}://{place}")
            if scheme == "ray":
                return cls("ray", text.strip())
        elif scheme in ("local", "ray", "spark") and not separator:
            return cls(scheme)  # pyrefly: ignore[bad-argument-type]  # one of three literals
        raise StudyError(f"--backend must be one of {FORMS}; got {text!r}")

    @property
    def is_local(self) -> bool:
        return self.kind == "local"

    @contextmanager
    def opened(self, jobs: int, shipment: Shipment, modules: Iterable[str] = ()) -> Iterator[Workers]:
        """The workers, checked; a StudyError where they are not there, or would compute something else.

        Args:
            jobs: how many, on this machine.
            shipment: what they will be sent.
            modules: those that they will import.
        """
        if self.kind == "dask":
            from lossmith.study.cluster import dask_workers

            with dask_workers(self.address or "", shipment, tuple(modules)) as workers:
                yield workers
        elif self.kind == "ray":
            with _ray(self.address) as workers:
                yield workers
        elif self.kind == "spark":
            yield _spark()
        else:
            yield Workers(jobs)


@contextmanager
def _ray(address: str | None) -> Iterator[Workers]:
    from joblib import effective_n_jobs, parallel_config

    try:
        ray, register_ray = import_module("ray"), import_module("ray.util.joblib").register_ray
    except ImportError as error:
        raise StudyError(f'--backend ray needs the package ray ({one_line(error)}): pip install "ray[default]"') from error
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(address=address, log_to_driver=False, logging_level="error")
        except Exception as error:  # Ray raises ConnectionError, RuntimeError and others
            raise StudyError(f"no Ray cluster answers at {address or 'this machine'}: {one_line(error)}") from error
    try:
        register_ray()
        with parallel_config(backend="ray"):
            jobs = effective_n_jobs(-1)
        lost = (ray.exceptions.RayError,)
        yield Workers(jobs, lambda: parallel_config(backend="ray"), f"Ray workers at {address or 'this machine'}", lost)
    finally:
        if ours:
            ray.shutdown()


def _spark() -> Workers:
    from joblib import effective_n_jobs, parallel_config

    try:
        register_spark = import_module("joblibspark").register_spark
    except ImportError as error:
        raise StudyError(f"--backend spark needs the package joblibspark ({one_line(error)}): pip install joblibspark pyspark") from error
    register_spark()
    try:
        with parallel_config(backend="spark"):
            jobs = effective_n_jobs(-1)
    except Exception as error:  # Spark raises Java's exceptions under names of its own
        raise StudyError(f"no Spark session can be had: {one_line(error)}") from error
    return Workers(jobs, lambda: parallel_config(backend="spark"), "Spark executors")


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
