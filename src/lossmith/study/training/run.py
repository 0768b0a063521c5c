"""A model in training, and what is measured of it."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from lossmith.calibration import fit_temperature, reliability_curve
from lossmith.study.data.splits import Split, stream
from lossmith.study.errors import StudyError
from lossmith.study.spec import TrialSpec
from lossmith.study.training.criterion import Criterion
from lossmith.study.training.metrics import METRICS, Labels, all_finite, evaluate
from lossmith.study.training.models import build_model
from lossmith.study.training.objectives import predicts_probabilities
from lossmith.study.training.probes import probe

ROWS_AT_ONCE = 4096
"""How many rows a model sees at once when it is evaluated."""

TEMPERATURE_PRIOR = 1.0
"""Rows of the opinion that all classes are alike, when a temperature is fitted: it keeps the temperature of separable logits finite."""

Batch = tuple[Tensor, Tensor, Tensor]
"""Features, labels, and the numbers of the rows within the training set."""


def batches(split: Split, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
    """One pass over the training rows in a new order, in batches of equal size, give or take one."""
    order = torch.randperm(len(split.y_train), generator=generator)
    pieces = math.ceil(len(order) / batch_size)
    yield from zip(
        split.x_train[order].tensor_split(pieces), split.y_train[order].tensor_split(pieces), order.tensor_split(pieces), strict=True
    )


def torch_seed(seed: int, purpose: str) -> int:
    return int(stream(seed, purpose).integers(2**63 - 1))


class Run:
    """A model in training, and what is remembered of its epochs."""

    def __init__(self, trial: TrialSpec, split: Split, shape: tuple[int, ...], n_classes: int) -> None:
        self.trial, self.split, self.n_classes = trial, split, n_classes
        self.model = build_model(trial.model, shape, n_classes, torch_seed(trial.draw, "weights"))
        self.criterion = Criterion(trial.objective, split.class_counts, len(split.y_train))
        self.batches = torch.Generator().manual_seed(torch_seed(trial.draw, "batches"))
        self.scaled = not predicts_probabilities(trial.objective.name)
        self.predict: Callable[[Tensor], Tensor] = self.model
        """What gives the logits of the model as it is; whoever trains it may know a shorter way."""
        self.labels = Labels(split.y_validation, n_classes), Labels(split.y_test, n_classes)
        self.epochs: list[dict[str, Any]] = []
        self.status = "ok"
        self.failure: Exception | None = None

    def random_state(self) -> Tensor:
        """The state of torch's global generator when training begins: what a model or an objective draws for itself, such as dropout."""
        torch.manual_seed(torch_seed(self.trial.draw, "training"))
        return torch.get_rng_state()

    def train(self) -> None:
        """The plain loop: all epochs, or as many as stay finite."""
        try:
            parameters = [p for p in (*self.model.parameters(), *self.criterion.parameters()) if p.requires_grad]
            if not parameters:
                raise StudyError(f"model {self.trial.model!r} has no parameters to train")
            optimizer = torch.optim.AdamW(parameters, lr=self.trial.learning_rate, weight_decay=self.trial.weight_decay, fused=True)
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
        if not ((loss is None or math.isfinite(loss)) and all_finite(validation) and all_finite(test)):
            return None
        metric = self.trial.metric
        temperature = self._temperature(validation) if METRICS[metric].needs == "probabilities" else 1.0
        values = {
            part: evaluate(logits, labels, names=[metric], temperature=temperature)
            for part, logits, labels in zip(("val", "test"), (validation, test), self.labels, strict=True)
        }
        self.epochs.append({"epoch": epoch, "train_loss": loss, **{part: _plain(v) for part, v in values.items()}})
        # probes are for the end: until then the weights that they may be asked of are kept
        weights = {name: value.clone() for name, value in self.model.state_dict().items()} if self.trial.probes else None
        return _Seen(epoch, values["val"][metric], validation, test, weights)

    @torch.inference_mode()
    def _logits(self, x: Tensor) -> Tensor:
        if self.model.training:  # to find it so costs less than to go through its parts
            self.model.eval()
        logits = self.predict(x) if len(x) <= ROWS_AT_ONCE else torch.cat([self.predict(rows) for rows in x.split(ROWS_AT_ONCE)])
        check_logits(self.trial, logits, len(x), self.n_classes)
        return logits

    def _temperature(self, validation: Tensor) -> float:
        return fit_temperature(validation, self.split.y_validation, prior=TEMPERATURE_PRIOR) if self.scaled else 1.0

    def probabilities(self, stop: str) -> Tensor:
        """`(n, c)` of the test rows at the last or the best epoch, as the metrics take them."""
        seen = self.best if stop == "best" else self.last
        assert seen is not None
        return torch.softmax(seen.test.double() / self._temperature(seen.validation), 1)

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
        bins = {name: values.tolist() for name, values in vars(curve).items()}
        rows = [dict(zip(bins, row, strict=True)) for row in zip(*bins.values(), strict=True)]
        return {
            "epoch": seen.epoch,
            "calibration": "temperature" if self.scaled else "raw",
            "temperature": temperature,
            "val": _plain(evaluate(seen.validation, self.labels[0], temperature=temperature)),
            "test": _plain(evaluate(seen.test, self.labels[1], temperature=temperature)),
            "reliability": [row for row in rows if row["count"] > 0],
            **({} if seen.weights is None else {"probes": self._probed(seen.weights, temperature)}),
        }

    def _probed(self, weights: dict[str, Tensor], temperature: float) -> dict[str, Any]:
        self.model.load_state_dict(weights)
        trial = self.trial
        return probe(
            trial.probes, self.model, self.split, seed=trial.draw, metric=trial.metric, temperature=temperature, criterion=self.criterion,
            batch_size=trial.batch_size,
        )  # fmt: skip


class _Seen:
    """The model after one epoch, as its logits; and as its weights, where they will be asked for."""

    def __init__(self, epoch: int, value: float, validation: Tensor, test: Tensor, weights: dict[str, Tensor] | None) -> None:
        self.epoch, self.value, self.validation, self.test, self.weights = epoch, value, validation, test, weights


def _better(metric: str, value: float, than: float) -> bool:
    """Strictly better, so that the earlier of equals stays; a number is better than NaN."""
    if math.isnan(value) or math.isnan(than):
        return math.isnan(than) and not math.isnan(value)
    return value > than if METRICS[metric].higher_is_better else value < than


def _plain(values: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def check_logits(trial: TrialSpec, logits: object, n: int, n_classes: int) -> None:
    if not isinstance(logits, Tensor) or logits.shape != (n, n_classes):
        got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise StudyError(f"model {trial.model!r} must return logits of shape (n, n_classes) = ({n}, {n_classes}); got {got}")
