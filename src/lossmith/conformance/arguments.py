"""Checks of the keywords: every one does something, unknown ones are refused, hyper-parameters are tensors too, errors name names."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lossmith._subject import Subject, other_values
from lossmith.card import Range
from lossmith.conformance.problems import gradient, leaf, problem
from lossmith.conformance.reductions import label_weights, per_row_weights
from lossmith.conformance.registry import ELEMENTS, FORMS, PAIRS, ROWS, SETS, Failed, Skipped, differ, register


@register(
    tests="the card claims something: at least one property is said to hold or not to hold",
    why="a card that claims nothing cannot be wrong, and tells nobody anything",
    cause="Claims() left empty",
)
def claims_something(subject: Subject, seed: int) -> str:
    if subject.card is None:
        raise Skipped("the function has no card")
    assert subject.claims is not None
    debts = subject.claims.debts()
    if len(debts) == 8:
        raise Failed("its card claims none of the properties")
    return f"{8 - len(debts)} of 8 properties claimed" + (f"; debts: {', '.join(debts)}" if debts else "")


@register(
    tests="an unknown keyword is an error that names it",
    why="a misspelt option that is swallowed leaves the default in force, and nobody notices",
    cause="`**kwargs` that are not looked at",
    surrogates=True,
)
def unknown_option(subject: Subject, seed: int) -> str:
    z, y = problem(subject.form, seed)
    try:
        subject(z, y, weigth_of_things=1.0)
    except TypeError as error:
        if subject.card is not None and "weigth_of_things" not in str(error):
            raise Failed(f"the error does not name the option: {error}") from error
        return "a misspelt keyword"
    raise Failed("takes the unknown keyword weigth_of_things and says nothing")


@register(
    tests="every keyword the function takes changes the value or the gradient for some input",
    why="an option that is taken and ignored is worse than one that is refused",
    cause="a keyword in the signature that the formula never uses",
    surrogates=True,
)
def options_matter(subject: Subject, seed: int) -> str:
    tried, untried = [], []
    for name in sorted(subject.keywords):
        changes = _changes(subject, name)
        if changes is None:
            untried.append(name)
            continue
        elsewhere = [{k: v for k, v in setting.items() if k != name} for setting in subject.settings]  # it may matter beside others alone
        if not any(_changes_something(subject.at(setting), name, value, seed) for setting in elsewhere for value in changes):
            values = ", ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in changes if not isinstance(v, Tensor))
            raise Failed(f"{name} changes neither value nor gradient" + (f" (tried {values})" if values else ""))
        tried.append(name)
    if not tried:
        raise Skipped("no keyword whose effect is known beforehand")
    return ", ".join(tried) + (f" (not tried: {', '.join(untried)})" if untried else "")


def _changes(subject: Subject, name: str) -> list[Any] | None:
    """Values that must make a difference; None where that is not known or cannot be had here."""
    _, y = problem(subject.form, 0)
    shared: dict[str, list[Any]] = {
        "weight": [label_weights(4) if subject.form != "binary" else torch.tensor(2.0, dtype=torch.float64)],
        "pos_weight": [label_weights(4) if subject.form != "binary" else torch.tensor(3.0, dtype=torch.float64)],
        "sample_weight": [per_row_weights(subject.form, y)],
        "ignore_index": [int(y.flatten()[0])] if not y.is_floating_point() else [1],
        "reduction": ["sum", "none"],
        "denominator": [100.0],
        "over": ["batch"],
    }
    if name in ("group", "num_samples", "index", "class_counts"):
        return None
    if name in shared and (subject.card is None or name not in subject.card.hyper):
        return shared[name]
    return other_values(subject, name) or None


def _changes_something(subject: Subject, name: str, value: Any, seed: int) -> bool:
    reduction = {"reduction": "sum"} if name == "weight" and subject.form in ELEMENTS and subject.takes("reduction") else {}
    for scale in (1.0, 6.0):
        z, y = problem(subject.form, seed, scale=scale)
        before, after = ({**reduction}, {**reduction, name: value})
        if subject.card is not None and name in subject.card.needs and name not in subject.fixed:
            return True
        plain = _twice(subject, z, y, before)
        try:
            other = _twice(subject, z, y, after)
        except ValueError:
            if subject.card is None:
                return True  # a range nobody told us: the function does look at it
            raise
        if any(differ(a, b, 1e-12) for a, b in zip(plain, other, strict=True)):
            return True
    return False


def _twice(subject: Subject, z: Tensor, y: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Value and gradient; of the second call, when there is state for the option to act on."""
    call, input = subject.bound(z, **options), leaf(z)
    if subject.stateful:
        call(z, y)
    loss = call(input, y)
    return loss.detach(), gradient(loss.sum(), input)


def hyper_numbers(subject: Subject) -> list[str]:
    """The hyper-parameters that may be 0-d tensors: those with a range of real numbers."""
    if subject.card is None:
        return []
    parameters = inspect.signature(subject.card.function).parameters
    found = []
    for name, allowed in subject.card.ranges.items():
        annotation = parameters[name].annotation if name in parameters else None
        if not isinstance(allowed, Range):
            continue
        whole = allowed.whole or annotation in (int, bool)
        only_numbers = allowed.plain or (subject.stateful and "Tensor" not in str(annotation))
        if not whole and not only_numbers:
            found.append(name)
    return found


@register(
    tests="a hyper-parameter given as a 0-d tensor means what the number means, and its gradient is the finite difference",
    why="hyper-parameters that are tensors can be learnt, annealed on the device, and run in parallel under vmap",
    cause="`float(...)`, `.item()`, `math` instead of torch, or an `if` on the value",
    forms=FORMS,
)
def hyper_as_tensor(subject: Subject, seed: int) -> str:
    names = hyper_numbers(subject)
    if not names:
        raise Skipped("it has no hyper-parameter that is a real number")
    assert subject.card is not None
    z, y = problem(subject.form, seed)
    tried = []
    for name in names:
        allowed, default = subject.card.ranges[name], subject.card.hyper[name]
        for number in [*([default] if isinstance(default, (int, float)) else []), *other_values(subject, name)[:2]]:
            tensor = torch.tensor(float(number), dtype=torch.float64, requires_grad=True)
            by_number, by_tensor = subject(z, y, **{name: number}), subject(z, y, **{name: tensor})
            if differ(by_tensor, by_number, 1e-12):
                raise Failed(f"{name}={number} gives {by_number.item():.8g}; as a tensor {by_tensor.item():.8g}", input=z, target=y)
            h = 1e-5 * max(1.0, abs(number))
            if number - h not in allowed or number + h not in allowed:
                continue  # at the end of its range there is nothing to difference
            slope = (subject(z, y, **{name: number + h}) - subject(z, y, **{name: number - h})) / (2 * h)
            if not by_tensor.requires_grad:
                if differ(slope, torch.zeros_like(slope), 1e-6):
                    raise Failed(f"{name}={number} as a tensor gets no gradient; the finite difference is {slope.item():.6g}")
                continue
            found = gradient(by_tensor, tensor)
            if differ(found, slope, 1e-5):
                raise Failed(f"the gradient in {name} at {number} is {found.item():.6g}; the finite difference is {slope.item():.6g}")
        tried.append(name)
    return ", ".join(tried)


@register(
    tests="a number outside its range is a ValueError that names objective, argument, interval and value",
    why="a mistyped hyper-parameter should cost one line, not a training run",
    cause="no check, or one that says only that something is wrong",
    surrogates=True,
)
def hyper_out_of_range(subject: Subject, seed: int) -> str:
    if subject.card is None or not subject.card.ranges:
        raise Skipped("it has no hyper-parameter with a range" if subject.card else "the function has no card that gives ranges")
    z, y = problem(subject.form, seed)
    for name, allowed in subject.card.ranges.items():
        for value in _outside(allowed):
            try:
                subject(z, y, **{name: value})
            except ValueError as error:
                missing = [part for part in (subject.name, name, str(allowed), repr(value)) if part not in str(error)]
                if missing:
                    raise Failed(f"the error for {name}={value!r} does not name {missing[0]}: {error}") from error
            else:
                raise Failed(f"takes {name}={value!r}, which is outside {allowed}")
    return ", ".join(f"{name} outside {allowed}" for name, allowed in subject.card.ranges.items())


def _outside(allowed: Any) -> list[Any]:
    if not isinstance(allowed, Range):
        return ["no such choice"]
    ends = [] if math.isinf(allowed.low) else [allowed.low if allowed.open_low else allowed.low - 1]
    return ends + ([] if math.isinf(allowed.high) else [allowed.high if allowed.open_high else allowed.high + 1])


@register(
    tests="wrong shapes, dtypes and options are errors of one line that name the argument at fault",
    why="a wrong shape that broadcasts gives a number, and a number looks like success",
    cause="no check, so that torch complains about something else, somewhere else, or nobody does",
    forms=FORMS,
    surrogates=True,
)
def clear_errors(subject: Subject, seed: int) -> str:
    if subject.card is None:
        return _refuses_wrong_targets(subject, seed)
    tried = []
    for argument, what, call in _mistakes(subject, seed):
        try:
            call()
        except (TypeError, ValueError) as error:
            said = str(error)
            if "\n" in said:
                raise Failed(f"{what}: the error has more than one line") from error
            missing = [word for word in (subject.name, argument) if word not in said]
            if missing:
                raise Failed(f"{what}: the error does not name {missing[0]}: {said}") from error
        except Exception as error:
            line = (str(error).splitlines() or [""])[0]
            raise Failed(f"{what}: raised {type(error).__name__} instead of a TypeError or ValueError: {line}") from error
        else:
            raise Failed(f"{what}: no error")
        tried.append(what)
    return f"{len(tried)} mistakes: {'; '.join(tried)}"


def _refuses_wrong_targets(subject: Subject, seed: int) -> str:
    z, y = problem(subject.form, seed)
    try:
        subject(z, y[:-1])
    except Exception:  # any error will do: it is torch's or the user's own
        return "a target with a row too few"
    raise Failed("a target with a row too few gives a number, not an error", input=z, target=y[:-1])


def _mistakes(subject: Subject, seed: int) -> list[tuple[str, str, Callable[[], Any]]]:
    """(argument, mistake, the call that makes it)."""
    z, y = problem(subject.form, seed)
    wrong = torch.ones(99, dtype=torch.float64)
    mistakes: list[tuple[str, str, Callable[[], Any]]] = [
        ("input", "integer logits", lambda: subject(z.long(), y)),
        ("target", "a target with a row too few", lambda: subject(z, y[:-1])),
        ("target", "a target that is no tensor", lambda: subject.bound(z)(z, None)),
    ]
    if subject.form in ROWS:
        mistakes += [
            ("input", "one logit for a softmax", lambda: subject(z[:, :1], torch.zeros_like(y))),
            ("target", "a class index out of range", lambda: subject(z, y + 1)),
            ("target", "probabilities of another shape", lambda: subject(z, z[:, :-1].softmax(1))),
        ]
    elif subject.form in ELEMENTS:
        mistakes.append(("target", "a target of 2", lambda: subject(z, y + 2)))
    elif subject.form in PAIRS:
        mistakes += [
            ("input", "one logit for a softmax", lambda: subject(z[:, :1], y[:, :1])),
            ("target", "class indices for a teacher", lambda: subject(z, y.argmax(1))),
            ("target", "a teacher of other classes", lambda: subject(z, y[:, :-1])),
        ]
    else:
        mistakes.append(("over", "over='image'", lambda: subject(z, y, over="image")))
    for keyword in ("weight", "pos_weight", "sample_weight"):
        if subject.takes(keyword):
            mistakes.append((keyword, f"a {keyword} of the wrong shape", lambda k=keyword: subject(z, y, **{k: wrong})))
    if subject.takes("weight") and subject.form not in ("binary", *SETS):
        mistakes.append(("weight", "a negative weight", lambda: _validated(lambda: subject(z, y, weight=-label_weights(4)))))
    if subject.takes("reduction"):
        mistakes.append(("reduction", "reduction='avg'", lambda: subject(z, y, reduction="avg")))
    if subject.takes("denominator"):
        mistakes.append(("denominator", "denominator with reduction='sum'", lambda: subject(z, y, denominator=3.0, reduction="sum")))
    return mistakes


def _validated(call: Callable[[], Any]) -> Any:
    from lossmith._checks import validate

    with validate(True):
        return call()
