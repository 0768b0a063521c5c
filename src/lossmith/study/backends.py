"""Where trials are computed: processes of this machine, or a cluster that joblib has a back end for.

There is no engine of our own: joblib hands stacks out, and its back ends bring them to a Dask, Ray or Spark cluster. What is added here is
what a study needs of any of them: answers as they come, a worker that is lost made good (:mod:`lossmith.study.workers`), and one clear line
when there is no cluster.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Literal

from lossmith.study.cluster import dask_workers
from lossmith.study.errors import StudyError, one_line
from lossmith.study.shipment import Shipment
from lossmith.study.workers import Workers

FORMS = "local, dask://HOST:PORT, ray, ray://HOST:PORT, spark"


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
    where = address or os.environ.get("RAY_ADDRESS") or "this machine"
    if ours:
        try:
            ray.init(address=address, log_to_driver=False, logging_level="error")
        except Exception as error:  # Ray raises ConnectionError, RuntimeError and others
            token = "" if "RAY_AUTH_MODE" in os.environ else "; a cluster that asks for a token is reached with RAY_AUTH_MODE=token"
            raise StudyError(f"no Ray cluster answers at {where}: {one_line(error)}{token}") from error
    try:
        register_ray()
        with parallel_config(backend="ray"):
            jobs = effective_n_jobs(-1)
        lost = (ray.exceptions.RayError,)
        yield Workers(jobs, lambda: parallel_config(backend="ray"), f"Ray workers at {where}", lost)
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
