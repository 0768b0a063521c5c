"""Where else a study is written down, trial by trial: TensorBoard, MLflow, Weights & Biases, or an object of the user's.

The store is what a study is read from; a log is for looking at it beside other work. So a log is told, never asked, by the coordinating
process alone, and one that fails costs a warning and no trial.
"""

import importlib
import importlib.util
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from lossmith._checks import nearest
from lossmith.study.errors import StudyError, one_line
from lossmith.study.references import is_reference, load_reference
from lossmith.study.spec import StudySpec, TrialSpec
from lossmith.study.statistics.paired import Test

if TYPE_CHECKING:
    from lossmith.study.summary import Summary
    from lossmith.study.training.yardsticks import Yardstick

TRACKERS = {
    "tensorboard": ("lossmith.study.loggers.tensorboard:TensorBoard", "tensorboard", '"lossmith[log]"'),
    "mlflow": ("lossmith.study.loggers.mlflow:MLflow", "mlflow", '"lossmith[log]"'),
    "wandb": ("lossmith.study.loggers.wandb:WeightsAndBiases", "wandb", "wandb"),
}
"""Name -> the logger, the package it needs, and what pip installs."""

PATIENCE = 3
"""Calls that may fail in a row before a logger is told no more: one that waits for a server that is gone would hold up the study."""


@runtime_checkable
class Logger(Protocol):
    """What a log is. Everything is called in the process that was asked for the study, never by a worker.

    Studies run together are told one after the other, each with a beginning and an end.
    """

    def begin(self, study: StudySpec) -> None:
        """A study begins. What is raised here, before the first trial, ends it with one line."""

    def trial(self, spec: "TrialSpec | Yardstick", record: Mapping[str, Any]) -> None:
        """A trial is done, and what it gave, as the store keeps it.

        A study that goes on, or is asked for again, tells the trials that were stored before first: `spec.key` says which are known.
        """

    def end(self, summary: "Summary") -> None:
        """The study is done: its numbers and their statistics. One that was interrupted, and a part of one, has no end."""


class Log:
    """The loggers of a study, told one after the other.

    Args:
        loggers: who is told.
        test: how differences are tested in the table at the end.
    """

    def __init__(self, loggers: Sequence[Logger], test: Test = "corrected_t") -> None:
        self.loggers, self.test = tuple(loggers), test
        self._begun = False
        self._failures = [0] * len(self.loggers)
        self._warned: set[int] = set()

    @classmethod
    def of(cls, given: Any, test: Test = "corrected_t") -> "Log":
        """Read ``"tensorboard:runs,mlflow"``, a `Logger`, several of either, or None."""
        if isinstance(given, Log):
            return given
        several = [given] if isinstance(given, str) or not isinstance(given, Sequence) else given
        found: list[Logger] = []
        for one in several if given is not None else ():
            found += [_named(part) for part in _parts(one)] if isinstance(one, str) else [_checked(one, repr(type(one).__name__))]
        return cls(found, test)

    def begin(self, study: StudySpec) -> None:
        """Tell of a study; a logger that cannot even begin is a StudyError, unless another study ran before."""
        for place, logger in enumerate(self.loggers):
            if self._begun:
                self._tell(place, "begin", study)
                continue
            try:
                logger.begin(study)
            except StudyError:
                raise
            except Exception as error:  # of packages and servers that are not ours
                raise StudyError(f"--log {_name(logger)} cannot begin: {one_line(error)}") from error
        self._begun = True

    def trial(self, spec: "TrialSpec | Yardstick", record: Mapping[str, Any]) -> None:
        for place in range(len(self.loggers)):
            self._tell(place, "trial", spec, record)

    def end(self, summary: "Summary") -> None:
        for place in range(len(self.loggers)):
            self._tell(place, "end", summary)

    def _tell(self, place: int, what: str, *told: Any) -> None:
        if self._failures[place] == PATIENCE:
            return
        logger = self.loggers[place]
        try:
            getattr(logger, what)(*told)
            self._failures[place] = 0
        except Exception as error:  # a log that fails must cost no trial
            self._failures[place] += 1
            if place not in self._warned:
                self._warned.add(place)
                warnings.warn(f"--log {_name(logger)} failed ({one_line(error)}); the study goes on, its store is complete", stacklevel=3)
            elif self._failures[place] == PATIENCE:
                warnings.warn(f"--log {_name(logger)} failed {PATIENCE} times in a row, and is told no more", stacklevel=3)


def _parts(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise StudyError(f"--log has an empty place between commas; got {text!r}")
    return parts


def _named(text: str) -> Logger:
    """The logger of a name with or without a location, or of ``module:function``."""
    name, _, location = text.partition(":")
    if name in TRACKERS:
        where, package, install = TRACKERS[name]
        if importlib.util.find_spec(package) is None:
            raise StudyError(f"--log {name} needs {package}: pip install {install}")
        module, _, tracker = where.partition(":")
        return getattr(importlib.import_module(module), tracker)(location or None)
    if not is_reference(text):
        wanted = f"{', '.join(TRACKERS)}, each with a location after a colon if you like, or module:function"
        raise StudyError(f"--log must be {wanted}; got {text!r}{nearest(name, TRACKERS)}")
    make = load_reference(text, "log")
    if not callable(make):
        raise StudyError(f"--log {text} must be a function that returns a logger; got {type(make).__name__}")
    try:
        made = make()
    except Exception as error:  # a user's function may raise anything
        raise StudyError(f"--log {text}: {one_line(error)}") from error
    return _checked(made, text)


def _checked(logger: Any, name: str) -> Logger:
    if isinstance(logger, type) or not isinstance(logger, Logger):
        raise StudyError(f"--log {name} must give an object with the methods begin, trial and end; got {type(logger).__name__}")
    return logger


def _name(logger: Logger) -> str:
    return next((name for name, (where, _, _) in TRACKERS.items() if where.endswith(f":{type(logger).__name__}")), type(logger).__name__)
