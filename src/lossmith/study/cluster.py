"""A Dask cluster: reaching it, making sure that its workers compute what this process would, and answers that never go missing."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lossmith.study.errors import StudyError, one_line
from lossmith.study.shipment import Shipment, differing, importing, versions
from lossmith.study.workers import Workers

PATIENCE = 10.0
"""Seconds to wait for a scheduler to answer, and for a first worker."""


@contextmanager
def dask_workers(address: str, shipment: Shipment, modules: tuple[str, ...]) -> Iterator[Workers]:
    """The workers of a Dask cluster, each checked; their tasks are forgotten when this ends, in whatever way.

    Args:
        address: of the scheduler.
        shipment: what they will be sent; `joblib.parallel_config` scatters it to all of them.
        modules: those that they will import.
    """
    try:
        from concurrent.futures import CancelledError

        from distributed import Client, KilledWorker
        from joblib import parallel_config
    except ImportError as error:
        raise StudyError(f'--backend dask needs the package distributed ({one_line(error)}): pip install "lossmith[cluster]"') from error
    with _quiet():
        try:
            client = Client(address, timeout=PATIENCE, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise StudyError(
                f"no Dask scheduler answers at {address}: start one with `dask scheduler`, and workers with "
                f"`dask worker {address} --nthreads 1` ({one_line(error, 120)})"
            ) from error
        with client:
            count = _checked(client, address, shipment, modules)
            backend = _streaming()

            def still_there() -> None:
                if client.status != "running":
                    raise StudyError(
                        f"the Dask scheduler at {address} was lost; what was done is kept, and the same command goes on from there"
                    )

            try:
                yield Workers(
                    count,
                    lambda: parallel_config(backend=backend(client=client, scatter=[shipment])),
                    f"workers of {address}",
                    (CancelledError,),
                    still_there,
                    ahead=2,
                )
            except KilledWorker as error:
                raise StudyError(
                    f"the cluster at {address} gave up trials that several workers went down with ({one_line(error, 160)}); if memory ran "
                    "out, workers with more of it are needed; what was done is kept, and the same command goes on from there"
                ) from error


def _checked(client: Any, address: str, shipment: Shipment, modules: tuple[str, ...]) -> int:
    """How many workers there are, if each has what it needs."""
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError:
        raise StudyError(f"the Dask scheduler at {address} has no workers: start some with `dask worker {address} --nthreads 1`") from None
    found = _asked(client, versions)
    _refuse(address, {worker: _other(theirs, shipment.versions or {}) for worker, theirs in found.items()})
    if modules:
        _refuse(address, _asked(client, importing, shipment.code, modules))
    return max(1, len(found))  # none answered only if all went down just now, and others may come


def _asked(client: Any, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """What each worker answers, an exception included; without those that are gone by now."""
    answers = client.run(function, *arguments, on_error="return")
    return {worker: answer for worker, answer in answers.items() if not isinstance(answer, OSError)}


def _other(theirs: Any, ours: Mapping[str, str]) -> str:
    """What a worker has otherwise; where it could not even say, it has no lossmith to say it with."""
    return f"no lossmith answers there ({one_line(theirs, 120)})" if isinstance(theirs, Exception) else differing(theirs, ours)


def _refuse(address: str, complaints: dict[str, Any]) -> None:
    wrong = {worker: one_line(it, 120) if isinstance(it, Exception) else it for worker, it in complaints.items() if it}
    if wrong:
        worker, complaint = next(iter(wrong.items()))
        more = f", and {len(wrong) - 1} more like it," if len(wrong) > 1 else ""
        raise StudyError(f"worker {worker} of the cluster at {address}{more} cannot be used: {complaint}")


def _streaming() -> type:
    """joblib's back end for Dask, whose answers come as they are ready, with two gaps closed."""
    from joblib._dask import DaskDistributedBackend  # the class itself: joblib's public names only make instances of it

    class StreamingDask(DaskDistributedBackend):
        """Tells joblib also of tasks that Dask gave up, which it would wait for forever, and uses a cluster of one worker too."""

        def effective_n_jobs(self, n_jobs: int) -> int:
            return max(2, super().effective_n_jobs(n_jobs))  # with 1, joblib computes in this process

        def submit(self, func: Callable[..., Any], callback: Callable[[Any], None] | None = None) -> Any:
            future = super().submit(func, callback)

            def tell(done: Any) -> None:
                if callback is not None and done.exception() is not None:
                    callback(done.exception())

            future.add_done_callback(tell)
            return future

    return StreamingDask


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Dask's log of connections lost and found: what matters of it is said by the study."""
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
