"""What is recorded of an objective: losses, their mean and the gradient, on fixed inputs, with every option at its default.

The inputs are drawn by Python's own generator, whose stream is promised to stay, and rounded so that float32 holds them exactly:
both dtypes see the same numbers, on every platform and with every version of torch.
"""

from __future__ import annotations

import inspect
import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lossmith.card import Card, all_cards

VALUES = Path(__file__).parent / "values"
DTYPES = {"float32": torch.float32, "float64": torch.float64}
# Relative to the largest number of a record: single entries of a gradient are differences, and lose digits.
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}
CLASS_COUNTS = (90, 40, 12, 3)  # an imbalanced training set, for objectives that need to know

Record = dict[str, dict[str, Any]]


def cards() -> dict[str, Card]:
    """The cards of our own objectives; other packages, and the tests, may have registered theirs."""
    return {name: card for name, card in all_cards().items() if card.function.__module__.startswith("lossmith.")}


def record(card: Card) -> Record:
    """dtype -> case -> {"loss", "mean", "gradient"}, or the word "refused" where the objective takes no such target."""
    return {dtype: {case: _run(card, case, DTYPES[dtype]) for case in _CASES} for dtype in DTYPES}


def read(name: str, folder: Path = VALUES) -> Record:
    return json.loads((folder / f"{name}.json").read_text())


def write(name: str, values: Record, folder: Path = VALUES) -> None:
    """One line a list, so that a difference between two versions can be read."""
    lines = []
    for dtype, cases in values.items():
        body = ",\n".join(f'  "{case}": {_inline(content)}' for case, content in cases.items())
        lines.append(f'"{dtype}": {{\n{body}\n}}')
    (folder / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def differences(old: Record, new: Record) -> Iterator[str]:
    """One line for every number list that moved beyond the tolerance of its dtype, naming the first number that did."""
    for dtype, cases in new.items():
        for case, content in cases.items():
            before = old.get(dtype, {}).get(case)
            where = f"{dtype}, {case}"
            if before is None or isinstance(before, str) or isinstance(content, str):
                if before != content:
                    yield f"{where}: was {_brief(before)}, is {_brief(content)}"
                continue
            for what, numbers in content.items():
                moved = _first_moved(before[what], numbers, TOLERANCE[dtype])
                if moved is not None:
                    yield f"{where}: {what}{moved}"


def _first_moved(old: list[float], new: list[float], tolerance: float) -> str | None:
    if len(old) != len(new):
        return f" has {len(new)} numbers, had {len(old)}"
    a, b = torch.tensor(old, dtype=torch.float64), torch.tensor(new, dtype=torch.float64)
    finite = a[a.isfinite()].abs()
    scale = float(finite.max()) if finite.numel() else 0.0
    moved = ~torch.isclose(b, a, rtol=0, atol=tolerance * scale, equal_nan=True)
    if not moved.any():
        return None
    first = int(moved.nonzero()[0])
    return f"[{first}] was {old[first]!r}, is {new[first]!r}"


def _brief(content: Any) -> str:
    return repr(content) if content is None or isinstance(content, str) else "numbers"


def _inline(content: Any) -> str:
    if isinstance(content, str):
        return json.dumps(content)
    return "{" + ",\n    ".join(f'"{what}": {json.dumps(numbers)}' for what, numbers in content.items()) + "}"


def _run(card: Card, case: str, dtype: torch.dtype) -> dict[str, list[float]] | str:
    logits = _uniform(_SHAPES.get(card.form, (5, 4)), "logits", -3, 3).to(dtype).requires_grad_()
    target, options = _CASES[case](card.form, logits.detach())
    try:
        loss = _call(card, logits, target, options | {"reduction": "none"})
    except (TypeError, ValueError):
        return "refused"
    mean = _call(card, logits, target, options)
    (gradient,) = torch.autograd.grad(mean, logits)
    return {"loss": _list(loss), "mean": _list(mean), "gradient": _list(gradient)}


def _call(card: Card, logits: Tensor, target: Tensor, options: dict[str, Any]) -> Tensor:
    """The objective with its hyper-parameters at their defaults, and with those of the options that it takes.

    A stateful one is made anew for every call, with what it needs; the options go to the call.
    """
    served = {"class_counts": torch.tensor(CLASS_COUNTS), "num_samples": len(target)}
    if inspect.isclass(card.function):
        served |= {"classes": logits.shape[-1]} | ({"generator": torch.Generator().manual_seed(0)} if "generator" in card.needs else {})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            objective = card.function(**_taken(card.function, served))
        return objective(logits, target, *([torch.arange(len(target))] if "sample_index" in card.needs else []), **options)
    return card.function(logits, target, **_taken(card.function, options | served))


def _taken(function: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters
    return {name: value for name, value in given.items() if name in parameters}


def _indices(form: str, logits: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """Class indices, answers 0 and 1, or a teacher's logits."""
    if form == "teacher":
        return _uniform(logits.shape, "teacher", -2, 2).to(logits.dtype), {}
    rows = logits.shape if form in ("binary", "multilabel") else logits.movedim(1, -1).shape[:-1]
    classes = 2 if form in ("binary", "multilabel") else logits.shape[1]
    target = (_uniform(rows, "target", 0, 1) * classes).floor()
    return (target.to(logits.dtype) if classes == 2 else target.long()), {}


def _probabilities(form: str, logits: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """Class probabilities, or answers in between, in 256ths, one of them 0; or a teacher's log-probabilities."""
    if form == "teacher":
        return _probabilities("logits", logits)[0].log(), {}
    t = _uniform(logits.shape, "probabilities", 0, 1)
    if form not in ("binary", "multilabel"):
        t = (t / t.sum(1, keepdim=True) * 256).floor() / 256
        t[:, 0] += 1 - t.sum(1)
    return t.to(logits.dtype), {}


def _masked(form: str, logits: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """Class indices, one of them ignored, weighted by class and by sample; a teacher's logits, weighted by sample."""
    target, _ = _indices(form, logits)
    if form == "teacher":
        return target, {"sample_weight": _uniform(target[:, 0].shape, "sample weight", 0, 2).floor().to(logits.dtype)}
    target.view(-1)[1] = -100
    options: dict[str, Any] = {"sample_weight": _uniform(target.shape, "sample weight", 0, 2).to(logits.dtype)}
    if form == "set":
        options["sample_weight"] = (options["sample_weight"] > 0.5).to(logits.dtype)
    if form != "binary":
        options["weight"] = _uniform(logits.shape[1:2], "weight", 0.5, 2).to(logits.dtype)
    if form in ("binary", "multilabel"):
        options["pos_weight"] = torch.tensor(2.0, dtype=logits.dtype)
    return target, options


_SHAPES = {"binary": (5,), "multilabel": (5, 4), "set": (2, 3, 4, 4)}
_CASES = {"indices": _indices, "probabilities": _probabilities, "masked": _masked}


def _uniform(shape: torch.Size | tuple[int, ...], what: str, low: float, high: float) -> Tensor:
    """Numbers in [low, high), multiples of 1/256."""
    draw = random.Random(f"golden values: {what}")
    numbers = [low + (high - low) * draw.random() for _ in range(math.prod(shape))]
    return (torch.tensor(numbers, dtype=torch.float64).reshape(shape) * 256).floor() / 256


def _list(values: Tensor) -> list[float]:
    """Plain numbers, to the digits that the dtype has."""
    digits = 9 if values.dtype == torch.float32 else 17
    return [float(f"{value:.{digits}g}") for value in values.detach().reshape(-1).tolist()]
