"""One training run, a pure function of its specification and the data.

Two trials that share a seed share the split, the corruption, the initial weights and the order of the batches, bit for bit, whatever
their objective and learning rate. The same trial gives the same numbers every time on the same machine and version of torch.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossmith.study.data.dataset import Dataset
from lossmith.study.data.splits import DRAWN, Split, make_split
from lossmith.study.errors import StudyError, one_line
from lossmith.study.spec import TrialSpec
from lossmith.study.training.boosted import BoostedRun, rehearse_trees
from lossmith.study.training.chain import Layer, bytes_of
from lossmith.study.training.criterion import Criterion
from lossmith.study.training.models import build_model, check_model
from lossmith.study.training.objectives import source
from lossmith.study.training.run import Run, check_logits, torch_seed
from lossmith.study.training.stacked import stackable, train_stack
from lossmith.study.training.trees import TREES

LARGEST_STACK, SMALLEST_STACK = 48, 4
"""Trials in a stack. More gain little, and a study that is killed loses those under way; fewer gain less."""

STACK_WORK = 1 << 40
"""Additions and multiplications of a stack, unless it is the smallest: about half a minute."""

STACK_BYTES = 1 << 28
"""Memory that a stack holds on to."""


def run_trial(trial: TrialSpec, dataset: Dataset) -> dict[str, Any]:
    """Train once and measure.

    Returns:
        A JSON-able record. ``epochs`` holds, for each epoch, the mean training loss and the primary metric on validation and test
        rows; epoch 0 is the untrained model. ``last`` and ``best`` (by the primary metric on validation rows, the earlier of equals)
        hold all metrics, the reliability of the test confidences in bins, and the `temperature` that the probabilities were taken
        at: 1 when ``calibration`` is "raw", because the objective predicts probabilities; else fitted on the validation rows. A
        missing number (a metric that is not defined on those rows) is None. A run whose loss or logits stop being finite ends there,
        with ``status`` "diverged" and the last finite epoch as its last.
    """
    (outcome,) = run_trials([trial], dataset)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def run_trials(trials: Sequence[TrialSpec], dataset: Dataset, *, together: bool = True) -> list[dict[str, Any] | Exception]:
    """Train several trials and measure each: its record, as `run_trial` gives it, or the exception that ended it.

    Trials that can be are trained in step, which takes less time and changes no number, not even its last bit; ``seconds`` is a
    trial's share of the time that all took.

    Args:
        trials: on the same data.
        dataset: the data.
        together: False trains one after the other, each in a plain loop of torch's own modules, autograd and optimizer.
    """
    started = time.perf_counter()
    with _one_thread(), torch.random.fork_rng(devices=[]):
        runs = [_prepared(trial, dataset) for trial in trials]
        _train([run for run in runs if isinstance(run, Run)], together)
        outcomes = [_outcome(run) for run in runs]
    share = {"seconds": (time.perf_counter() - started) / max(1, len(trials))}
    return [outcome if isinstance(outcome, Exception) else {**outcome, **share} for outcome in outcomes]


def predict_test_rows(trial: TrialSpec, dataset: Dataset, stop: str) -> tuple[NDArray[np.int64], Tensor]:
    """The test rows of a trial, and `(n, c)` probabilities of their classes by the model it trains; a StudyError if that diverges.

    Args:
        trial: what to train.
        dataset: the data.
        stop: the epoch, ``last`` or ``best``.
    """
    with _one_thread(), torch.random.fork_rng(devices=[]):
        run = _prepared(trial, dataset)
        if isinstance(run, Exception):
            raise run
        _train([run], together=True)
        if run.failure is not None:
            raise run.failure
        if run.status != "ok" or run.last is None:
            raise StudyError(f"{trial.objective.label} diverged at learning rate {trial.learning_rate:g}")
        return run.split.rows_test, run.probabilities(stop)


@contextmanager
def _one_thread() -> Iterator[None]:
    """How the work is shared among threads would change how sums are rounded."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def worth_stacking(trial: TrialSpec, dataset: Dataset) -> int:
    """How many trials like this one to train together: 1 where they cannot be, fewer the longer they take and the larger the model is."""
    split = split_of(trial, dataset)
    with _one_thread(), torch.random.fork_rng(devices=[]):
        layers = stackable(Run(trial, split, tuple(split.x_train.shape[1:]), dataset.n_classes))
    if layers is None:
        return 1
    weights = sum(layer.weight.numel() for layer in layers)
    work = 6 * weights * len(split.y_train) * trial.epochs
    return max(1, min(LARGEST_STACK, STACK_BYTES // bytes_of(layers, trial.batch_size), max(SMALLEST_STACK, STACK_WORK // work)))


def _prepared(trial: TrialSpec, dataset: Dataset) -> Run | Exception:
    try:
        _check_sources(trial)
        split = split_of(trial, dataset)
        kind = BoostedRun if trial.model in TREES else Run
        return kind(trial, split, tuple(split.x_train.shape[1:]), dataset.n_classes)
    except Exception as error:  # a user's model or objective may raise anything
        return error


def _train(runs: Sequence[Run], together: bool) -> None:
    """Train runs, in step where that is possible; a run that fails keeps its `failure`."""
    stacks: dict[tuple[int, int, int], list[tuple[Run, list[Layer]]]] = {}
    for run in runs:
        layers = stackable(run) if together else None
        if layers is None:
            run.train()
        else:
            shape = (len(run.split.y_train), run.trial.batch_size, run.trial.epochs)
            stacks.setdefault(shape, []).append((run, layers))
    for stack in stacks.values():
        train_stack([run for run, _ in stack], [layers for _, layers in stack])


def _outcome(run: Run | Exception) -> dict[str, Any] | Exception:
    if isinstance(run, Exception):
        return run
    if run.failure is not None:
        return run.failure
    try:
        return run.record()
    except Exception as error:
        return error


def _check_sources(trial: TrialSpec) -> None:
    """A trial must be stored under the hash of the code it ran, even if a file is edited while a study runs."""
    for what, name, wanted, now in (
        ("objective", trial.objective.name, trial.objective_source, source(trial.objective.name)),
        ("model", trial.model, trial.model_source, check_model(trial.model)),
    ):
        if now != wanted:
            raise StudyError(f"the file that defines {what} {name} was edited while the study ran; run it again")


_latest: dict[tuple[Any, ...], Split] = {}


def split_of(trial: TrialSpec, dataset: Dataset) -> Split:
    """The split of a trial's seed. The latest one is kept, since the trials of a seed come one after the other."""
    drawn = {name: getattr(trial, name) for name in DRAWN}
    key = (dataset.fingerprint, trial.seed, *drawn.values())
    if key not in _latest:
        split = make_split(dataset, trial.seed, **drawn)
        _latest.clear()
        _latest[key] = split
    return _latest[key]


def rehearse(trial: TrialSpec, dataset: Dataset) -> None:
    """Take the untrained model through a trial's first batch, and raise a StudyError if that could not be trained on."""
    split = split_of(trial, dataset)
    if trial.model in TREES:
        return rehearse_trees(trial.model, trial.objective, split.class_counts, dataset.n_classes, trial.probes)
    rows = torch.arange(min(trial.batch_size, len(split.y_train)))
    label = trial.objective.label
    with torch.random.fork_rng(devices=[]):
        model = build_model(trial.model, tuple(split.x_train.shape[1:]), dataset.n_classes, torch_seed(trial.draw, "weights"))
        try:
            logits = model(split.x_train[rows])
        except Exception as error:  # a user's model may raise anything
            raise StudyError(
                f"model {trial.model!r}, on features of shape {tuple(split.x_train[rows].shape)}: {one_line(error)}"
            ) from error
        check_logits(trial, logits, len(rows), dataset.n_classes)
        criterion = Criterion(trial.objective, split.class_counts, len(split.y_train))
        try:
            loss = criterion(logits, split.y_train[rows], rows)
        except Exception as error:  # and so may an objective
            raise StudyError(f"objective {label}: {one_line(error).removeprefix('ValueError: ')}") from error
    if not isinstance(loss, Tensor) or loss.ndim != 0 or not loss.requires_grad:
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise StudyError(f"objective {label} must return one number (a 0-d tensor) with a gradient; got {got}")
