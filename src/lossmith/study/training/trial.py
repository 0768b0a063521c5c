"""One training run, a pure function of its specification and the data.

Two trials that share a seed share the split, the corruption, the initial weights and the order of the batches, bit for bit, whatever
their objective and learning rate. The same trial gives the same numbers every time on the same machine and version of torch.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from lossmith.calibration import fit_temperature, reliability_curve
from lossmith.study.data.dataset import Dataset
from lossmith.study.data.splits import Split, make_split, stream
from lossmith.study.errors import StudyError, one_line
from lossmith.study.spec import OPTIMIZER, TrialSpec
from lossmith.study.training.chain import Layer, bytes_of, layers_of
from lossmith.study.training.criterion import Criterion
from lossmith.study.training.metrics import METRICS, evaluate
from lossmith.study.training.models import build_model, check_model
from lossmith.study.training.objectives import predicts_probabilities, source
from lossmith.study.training.stacked import batches, can_stack, train_stack

ROWS_AT_ONCE = 4096
"""How many rows a model sees at once when it is evaluated."""

TEMPERATURE_PRIOR = 1.0
"""Rows of the opinion that all classes are alike, when a temperature is fitted: it keeps the temperature of separable logits finite."""

LARGEST_STACK, SMALLEST_STACK = 24, 4
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
        layers = Run(trial, split, tuple(split.x_train.shape[1:]), dataset.n_classes).layers()
    if layers is None:
        return 1
    weights = sum(layer.weight.numel() for layer in layers)
    work = 6 * weights * len(split.y_train) * trial.epochs
    return max(1, min(LARGEST_STACK, STACK_BYTES // bytes_of(layers, trial.batch_size), max(SMALLEST_STACK, STACK_WORK // work)))


def _prepared(trial: TrialSpec, dataset: Dataset) -> "Run | Exception":
    try:
        _check_sources(trial)
        split = split_of(trial, dataset)
        return Run(trial, split, tuple(split.x_train.shape[1:]), dataset.n_classes)
    except Exception as error:  # a user's model or objective may raise anything
        return error


def _train(runs: "Sequence[Run]", together: bool) -> None:
    """Train runs, in step where that is possible; a run that fails keeps its `failure`."""
    stacks: dict[tuple[int, int, int], list[tuple[Run, list[Layer]]]] = {}
    for run in runs:
        layers = run.layers() if together else None
        if layers is None:
            run.train()
        else:
            shape = (len(run.split.y_train), run.trial.batch_size, run.trial.epochs)
            stacks.setdefault(shape, []).append((run, layers))
    for stack in stacks.values():
        train_stack([run for run, _ in stack], [layers for _, layers in stack])


def _outcome(run: "Run | Exception") -> dict[str, Any] | Exception:
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
    drawn = {name: getattr(trial, name) for name in ("noise", "imbalance", "validation", "test", "folds", "fold", "clean_validation")}
    key = (dataset.fingerprint, trial.seed, *drawn.values())
    if key not in _latest:
        split = make_split(dataset, trial.seed, **drawn)
        _latest.clear()
        _latest[key] = split
    return _latest[key]


def _torch_seed(seed: int, purpose: str) -> int:
    return int(stream(seed, purpose).integers(2**63 - 1))


class Run:
    """A model in training, and what is remembered of its epochs."""

    def __init__(self, trial: TrialSpec, split: Split, shape: tuple[int, ...], n_classes: int) -> None:
        self.trial, self.split, self.n_classes = trial, split, n_classes
        self.model = build_model(trial.model, shape, n_classes, _torch_seed(trial.draw, "weights"))
        self.criterion = Criterion(trial.objective, split.class_counts, len(split.y_train))
        self.batches = torch.Generator().manual_seed(_torch_seed(trial.draw, "batches"))
        self.scaled = not predicts_probabilities(trial.objective.name)
        self.epochs: list[dict[str, Any]] = []
        self.status = "ok"
        self.failure: Exception | None = None

    def layers(self) -> list[Layer] | None:
        """The layers of the model, when this run can be trained in step with others."""
        layers = layers_of(self.model, self.split.x_train.shape[1:])
        return layers if can_stack(self, layers) else None

    def random_state(self) -> Tensor:
        """The state of torch's global generator when training begins: what a model or an objective draws for itself, such as dropout."""
        torch.manual_seed(_torch_seed(self.trial.draw, "training"))
        return torch.get_rng_state()

    def train(self) -> None:
        """The plain loop: all epochs, or as many as stay finite."""
        try:
            parameters = [p for p in (*self.model.parameters(), *self.criterion.parameters()) if p.requires_grad]
            if not parameters:
                raise StudyError(f"model {self.trial.model!r} has no parameters to train")
            optimizer = torch.optim.AdamW(parameters, lr=self.trial.learning_rate, weight_decay=OPTIMIZER["weight_decay"], fused=True)
            torch.set_rng_state(self.random_state())
            self.begin()
            for epoch in range(1, self.trial.epochs + 1):
                self.finish(epoch, self._epoch(optimizer))
                if self.status != "ok":
                    break
        except Exception as error:  # a user's model or objective may raise anything
            self.failure = error

    def _epoch(self, optimizer: torch.optim.Optimizer) -> float:
        """One pass over the training rows; the mean loss of a row."""
        total = 0.0
        self.model.train()
        for x, y, index in batches(self.split, self.trial.batch_size, self.batches):
            loss = self.criterion(self.model(x), y, index)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(y)
        return total / len(self.split.y_train)

    def begin(self) -> None:
        """Measure the untrained model."""
        self.last = self.best = self._look(0, None)

    def finish(self, epoch: int, loss: float) -> None:
        """Measure the model after an epoch with this mean loss; if it is no longer finite, the run has diverged."""
        seen = self._look(epoch, loss)
        if seen is None:
            self.status = "diverged"
            return
        self.last = seen
        if self.best is None or self.best.epoch == 0 or _better(self.trial.metric, seen.value, self.best.value):
            self.best = seen

    def _look(self, epoch: int, loss: float | None) -> "_Seen | None":
        """Measure the model after an epoch and write it down; None, and nothing written, when it is no longer finite."""
        validation, test = self._logits(self.split.x_validation), self._logits(self.split.x_test)
        finite = (loss is None or math.isfinite(loss)) and bool(validation.isfinite().all()) and bool(test.isfinite().all())
        if not finite:
            return None
        metric = self.trial.metric
        temperature = self._temperature(validation) if METRICS[metric].needs == "probabilities" else 1.0
        values = {
            "val": evaluate(validation, self.split.y_validation, names=[metric], temperature=temperature),
            "test": evaluate(test, self.split.y_test, names=[metric], temperature=temperature),
        }
        self.epochs.append({"epoch": epoch, "train_loss": loss, **{part: _plain(v) for part, v in values.items()}})
        return _Seen(epoch, values["val"][metric], validation, test)

    @torch.inference_mode()
    def _logits(self, x: Tensor) -> Tensor:
        if self.model.training:  # to find it so costs less than to go through its parts
            self.model.eval()
        logits = torch.cat([self.model(rows) for rows in x.split(ROWS_AT_ONCE)])
        _check_logits(self.trial, logits, len(x), self.n_classes)
        return logits

    def _temperature(self, validation: Tensor) -> float:
        return fit_temperature(validation, self.split.y_validation, prior=TEMPERATURE_PRIOR) if self.scaled else 1.0

    def record(self) -> dict[str, Any]:
        """Everything measured, JSON-able."""
        if self.last is None or self.best is None:
            raise StudyError(f"model {self.trial.model!r} returns logits that are not finite before any training")
        last = self._measure(self.last)
        best = last if self.best is self.last else self._measure(self.best)
        split = self.split
        rows = {"train": len(split.y_train), "validation": len(split.y_validation), "test": len(split.y_test)}
        return {"status": self.status, "rows": rows, "epochs": self.epochs, "last": last, "best": best}

    def _measure(self, seen: "_Seen") -> dict[str, Any]:
        temperature = self._temperature(seen.validation)
        curve = reliability_curve(torch.softmax(seen.test.double() / temperature, 1), self.split.y_test)
        bins = {name: values.tolist() for name, values in asdict(curve).items()}
        rows = [dict(zip(bins, row, strict=True)) for row in zip(*bins.values(), strict=True)]
        return {
            "epoch": seen.epoch,
            "calibration": "temperature" if self.scaled else "raw",
            "temperature": temperature,
            "val": _plain(evaluate(seen.validation, self.split.y_validation, temperature=temperature)),
            "test": _plain(evaluate(seen.test, self.split.y_test, temperature=temperature)),
            "reliability": [row for row in rows if row["count"] > 0],
        }


class _Seen:
    """The model after one epoch, as its logits."""

    def __init__(self, epoch: int, value: float, validation: Tensor, test: Tensor) -> None:
        self.epoch, self.value, self.validation, self.test = epoch, value, validation, test


def _better(metric: str, value: float, than: float) -> bool:
    """Strictly better, so that the earlier of equals stays; a number is better than NaN."""
    if math.isnan(value) or math.isnan(than):
        return math.isnan(than) and not math.isnan(value)
    return value > than if METRICS[metric].higher_is_better else value < than


def _plain(values: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def rehearse(trial: TrialSpec, dataset: Dataset) -> None:
    """Take the untrained model through a trial's first batch, and raise a StudyError if that could not be trained on."""
    split = split_of(trial, dataset)
    rows = torch.arange(min(trial.batch_size, len(split.y_train)))
    label = trial.objective.label
    with torch.random.fork_rng(devices=[]):
        model = build_model(trial.model, tuple(split.x_train.shape[1:]), dataset.n_classes, _torch_seed(trial.draw, "weights"))
        try:
            logits = model(split.x_train[rows])
        except Exception as error:  # a user's model may raise anything
            raise StudyError(
                f"model {trial.model!r}, on features of shape {tuple(split.x_train[rows].shape)}: {one_line(error)}"
            ) from error
        _check_logits(trial, logits, len(rows), dataset.n_classes)
        criterion = Criterion(trial.objective, split.class_counts, len(split.y_train))
        try:
            loss = criterion(logits, split.y_train[rows], rows)
        except Exception as error:  # and so may an objective
            raise StudyError(f"objective {label}: {one_line(error).removeprefix('ValueError: ')}") from error
    if not isinstance(loss, Tensor) or loss.ndim != 0 or not loss.requires_grad:
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise StudyError(f"objective {label} must return one number (a 0-d tensor) with a gradient; got {got}")


def _check_logits(trial: TrialSpec, logits: object, n: int, n_classes: int) -> None:
    if not isinstance(logits, Tensor) or logits.shape != (n, n_classes):
        got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise StudyError(f"model {trial.model!r} must return logits of shape (n, n_classes) = ({n}, {n_classes}); got {got}")
