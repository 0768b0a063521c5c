"""Finished studies made up from numbers, so that what is said of them is known beforehand."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lossmith.study import Noise, ObjectiveSpec, Outcome, StudyResult, StudySpec
from lossmith.study.summary import Summary
from lossmith.study.training.metrics import METRICS
from lossmith.study.tuning.configuration import Configuration

CLASSES = ("no", "yes")


def result(
    accuracy: Mapping[str, Sequence[float]],
    *,
    best: Mapping[str, Sequence[float]] | None = None,
    diverged: Mapping[str, Sequence[int]] | None = None,
    data: Mapping[str, Any] | None = None,
    edge: Sequence[str] = (),
    scaled: Sequence[str] = (),
    **spec: Any,
) -> StudyResult:
    """A study of two classes, 100 rows, in which each objective has these accuracies at the last epoch, split by split.

    Args:
        accuracy: by label; the first is the baseline.
        best: the same at the best epoch; one point more everywhere when left out.
        diverged: by label, the splits on which every learning rate diverged.
        data: what the description of the data has besides.
        edge: labels whose learning rate is always at the edge.
        scaled: labels whose probabilities were scaled.
        **spec: further fields of the study.
    """
    labels = list(accuracy)
    n = len(accuracy[labels[0]]) // spec.get("folds", 1)
    objectives = tuple(ObjectiveSpec(label) for label in labels)
    plain = {"data": "wine", "objectives": objectives, "seeds": tuple(range(n)), "epochs": 3, "learning_rates": (0.01, 0.1, 1.0)}
    asked = StudySpec(**{**plain, **spec})
    values = {"last": accuracy, "best": best or {label: [value + 0.01 for value in row] for label, row in accuracy.items()}}
    described = {
        "name": "wine", "rows": 100, "inputs": "3 features", "image_shape": None, "classes": list(CLASSES), "class_counts": [60, 40],
        "notes": [], "fingerprint": "f" * 64,
    }  # fmt: skip
    outcomes = [
        _outcome(label, draw, stop, row[place], draw in (diverged or {}).get(label, ()), label in edge, label in scaled, asked.draws[draw])
        for stop, table in values.items()
        for label, row in table.items()
        for place, draw in enumerate(asked.draws)
    ]
    trials = {
        (label, draw, Configuration(rate)): _record(accuracy[label][place])
        for label in labels
        for place, draw in enumerate(asked.draws)
        for rate in asked.learning_rates or ()
    }
    return StudyResult(asked, {**described, **(data or {})}, tuple(outcomes), trials, ({"lossmith": "0.1.0", "torch": "2"},))


def _outcome(
    label: str, draw: int, stop: str, value: float, diverged: bool, edge: bool, scaled: bool, place: tuple[int, int | None]
) -> Outcome:
    metrics = {name: value if metric.higher_is_better else 1 - value for name, metric in METRICS.items()}
    return Outcome(
        objective=label,
        seed=place[0],
        fold=place[1],
        stop=stop,
        learning_rate=1.0 if edge else 0.1,
        metrics=metrics,
        epoch=3 if stop == "last" else 1 + draw % 3,
        validation=value,
        status="diverged" if diverged else "ok",
        at_edge=edge,
        calibration="temperature" if scaled else "raw",
        temperature=2.0 if scaled else 1.0,
        reliability=({"lower": 0.4, "upper": 0.6, "confidence": 0.5, "accuracy": value, "count": 10},),
    )


def _record(value: float) -> dict[str, Any]:
    epochs = [
        {"epoch": k, "train_loss": None if k == 0 else 1.0, "val": {"accuracy": value * k / 3}, "test": {"accuracy": value * k / 3}}
        for k in range(4)
    ]
    rows = {"train": 80, "validation": 10, "test": 10}
    return {"epochs": epochs, "seconds": 1.0, "status": "ok", "rows": rows}


def around(mean: float, spread: float = 0.01, n: int = 10, seed: int = 0) -> list[float]:
    """Values with exactly this mean and standard deviation."""
    drawn = np.random.default_rng(seed).standard_normal(n)
    return (mean + spread * (drawn - drawn.mean()) / drawn.std(ddof=1)).tolist()


def several(names: Sequence[str], noises: Sequence[str] = ("none", "symmetric:0.4"), n: int = 6) -> tuple[Summary, ...]:
    """Finished studies of these data sets under these kinds of noise, in which "up" is better everywhere and "near" nowhere."""
    together = (tuple(names), tuple(noises))
    made = []
    for noise in noises:
        for place, name in enumerate(names):
            base = around(0.7 + 0.05 * place, n=n, seed=place)
            up = (np.array(base) + around(0.08, 0.01, n, seed=10 + place)).tolist()
            near = (np.array(base) + around(0.002, 0.02, n, seed=20 + place)).tolist()
            data = {"name": name, "fingerprint": f"{place:064d}"}
            kind = None if noise == "none" else Noise.parse(noise)
            values = {"ce": base, "up": up, "near": near}
            made.append(Summary(result(values, data=data, noise=kind, grid=together)))
    return tuple(made)
