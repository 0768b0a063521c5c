"""Checks of numbers: half precision, autocast, logits of 1e4, classes masked by -inf, and NaN nowhere."""

import warnings

import torch
from torch import Tensor

from lossmith._subject import Subject, counted
from lossmith.conformance.growth import measured_growth
from lossmith.conformance.problems import confident, gradient, leaf, problem
from lossmith.conformance.registry import ELEMENTS, FORMS, PAIRS, ROWS, Failed, Skipped, differ, register

HALVES = (torch.bfloat16, torch.float16)


def _largest(subject: Subject) -> float:
    """How far out the values of this objective still fit float32."""
    return 40.0 if subject.claims is not None and subject.claims.growth == "exponential" else 1e4


@register(
    tests="half-precision logits are computed with in float32: the loss is float32's of the rounded logits, the gradient in their dtype",
    why="a log-softmax in bfloat16 is off by 5e-2, and a float16 sum overflows at 65504",
    cause="no conversion, or one after the log-softmax",
    surrogates=True,
)
def half_precision(subject: Subject, seed: int) -> str:
    for dtype in HALVES:
        z, y = problem(subject.form, seed, n=16, scale=4.0, dtype=dtype)
        y = y.float() if y.is_floating_point() else y
        half, full = leaf(z), leaf(z.float())
        got, expected = subject(half, y), subject(full, y)
        if got.dtype != torch.float32:
            raise Failed(f"{dtype} logits give a loss in {got.dtype}", input=z[:1], target=y[:1])
        if differ(got, expected, 1e-6):
            raise Failed(f"{dtype} logits give {got.item():.7g}; their values in float32 {expected.item():.7g}", input=z, target=y)
        found = gradient(got, half)
        if found.dtype != dtype:
            raise Failed(f"the gradient of {dtype} logits is {found.dtype}")
        if differ(found, gradient(expected, full).to(dtype), torch.finfo(dtype).eps):
            raise Failed(f"the gradient of {dtype} logits is not float32's, rounded", input=z, target=y)
    return "bfloat16 and float16: value to 1e-6, gradient to one rounding"


@register(
    tests="inside an autocast region float32 logits give the same loss and gradient, in float32",
    why="autocast rounds every matrix product within it, and what is right in a notebook overflows in training",
    cause="a matrix product, or another operation on autocast's list, without `autocast(enabled=False)`",
    surrogates=True,
)
def autocast(subject: Subject, seed: int) -> str:
    for dtype in HALVES:
        for scale in (1.0, 300.0):
            z, y = problem(subject.form, seed, scale=scale, dtype=torch.float32)
            plain_in, cast_in = leaf(z), leaf(z)
            plain = subject(plain_in, y)
            with warnings.catch_warnings(), torch.autocast("cpu", dtype=dtype):
                warnings.simplefilter("ignore")  # a build whose autocast does not know this dtype says so, and does nothing
                cast = subject(cast_in, y)
            if cast.dtype != torch.float32:
                raise Failed(f"under {dtype} autocast the loss is {cast.dtype}", input=z, target=y)
            if plain.isfinite().all() and differ(cast, plain, 1e-6):
                raise Failed(f"under {dtype} autocast gives {cast.item():.7g}, outside it {plain.item():.7g}", input=z, target=y)
            slope = gradient(plain, plain_in)
            if slope.isfinite().all() and differ(gradient(cast, cast_in), slope, 1e-6):
                raise Failed(f"under {dtype} autocast the gradient is another", input=z, target=y)
    return "bfloat16 and float16 autocast, logits of scale 1 and 300"


def _extreme(subject: Subject, size: float) -> tuple[Tensor, Tensor]:
    """Confident right, confident wrong, near ties far out, and everything equal."""
    _, y = problem(subject.form, 0, n=4, classes=3)
    right, wrong = confident(subject.form, y, 3, size), confident(subject.form, y, 3, size, right=False)
    ramp = torch.linspace(-1, 1, right.numel(), dtype=torch.float64).reshape(right.shape)
    if subject.form in PAIRS:  # as sure of it, or as undecided, as the student
        y = torch.cat([y, y, confident(subject.form, y, 3, size), y, size * ramp, 0 * y])
        return torch.cat([right, wrong, wrong + ramp, size * ramp, -size * ramp, torch.full_like(right, size)]), y
    return torch.cat([right, wrong, wrong + ramp, size * ramp, torch.full_like(right, size), 0 * right]), y.repeat(6, *[1] * (y.ndim - 1))


@register(
    tests="logits of 1e4 (40 for exponential growth): float32 gives float64's value and gradient where they fit, else +inf, never NaN",
    why="a confident mistake is when the gradient matters most; NaN or a silent zero there ruins or stalls training",
    cause="exp before log, log of a probability that rounded to 0, 1 - p by subtraction, or a `where` with NaN in the branch not taken",
    forms=FORMS,
)
def extremes(subject: Subject, seed: int) -> str:
    size = _largest(subject)
    for setting in subject.settings:
        at = subject.at(setting)
        z, y = _extreme(subject, size)
        exact_in, single_in = leaf(z), leaf(z.float())
        y_single = y.float() if y.is_floating_point() else y
        exact, single = at.each(exact_in, y), at.each(single_in, y_single)
        said = f" (with {dict(setting)})" if setting else ""
        top = torch.finfo(torch.float32).max
        slack = 2 * torch.finfo(torch.float32).eps * size  # half a unit in the last place of a logit, in and out of a sum
        grows = (subject.claims.growth if subject.claims else None) or measured_growth(at, seed)
        for i in range(z.shape[0]):
            if exact[i].isnan().any() or single[i].isnan().any():
                raise Failed(f"the loss is NaN{said}", input=z[i], target=y[i])
            if grows != "exponential" and exact[i].isinf().any():
                raise Failed(f"the loss is infinite, though its growth is {grows}{said}", input=z[i], target=y[i])
            if exact[i].abs().max() < top and _off(single[i], exact[i], slack):
                raise Failed(
                    f"float32 gives {single[i].sum().item():.7g}, float64 {exact[i].sum().item():.7g}{said}", input=z[i], target=y[i]
                )
        fits = (exact.abs() < top / 10) & single.isfinite()
        zero = torch.zeros((), dtype=torch.float64)
        slope = gradient(torch.where(fits, exact, zero).sum(), exact_in)
        found = gradient(torch.where(fits, single, zero.float()).sum(), single_in)
        for i in range(z.shape[0]):
            if not fits[i].all():
                continue
            if not found[i].isfinite().all() or not slope[i].isfinite().all():
                raise Failed(f"the gradient holds NaN or inf where the loss is {exact[i].sum().item():.6g}{said}", input=z[i], target=y[i])
            if differ(found[i], slope[i].float(), 1e-3):
                raise Failed(f"float32's gradient is not float64's{said}", input=z[i], target=y[i])
    return f"|logit| = {size:g}, float32 against float64, {counted(subject)}"


def _off(single: Tensor, exact: Tensor, slack: float) -> bool:
    """Whether float32 is off by more than its own rounding of such logits."""
    finite = exact.isfinite() & single.isfinite()
    wrong = (single.double() - exact).abs() > 1e-5 * exact.abs() + max(slack, 1e-5)
    return bool((wrong & finite).any() or (single.isfinite() != exact.isfinite()).any())


@register(
    tests="at extreme logits second derivatives hold no NaN",
    why="a NaN that only the second derivative sees appears first in a gradient penalty, days into a run",
    cause="a power or square root at 0 whose derivative is infinite, times a zero",
    forms=FORMS,
)
def extremes_double_backward(subject: Subject, seed: int) -> str:
    z, y = _extreme(subject, min(_largest(subject), 100.0))
    input = leaf(z)
    first = gradient(subject.each(input, y).sum(), input, create_graph=True)
    if not first.requires_grad:
        raise Skipped("piecewise linear: there is no second derivative")
    direction = torch.linspace(0.5, 1.5, z.numel(), dtype=torch.float64).reshape(z.shape)
    second = gradient((first * direction).sum(), input)
    for i in range(z.shape[0]):
        if second[i].isnan().any():
            raise Failed("the second derivative is NaN", input=z[i], target=y[i])
    return "|logit| up to 100"


@register(
    tests="a class (label) whose logit is -inf, and is not there, gives no NaN; where the loss is finite so is its gradient",
    why="masking impossible classes (tokens, actions, labels) by -inf is common practice",
    cause="0 * -inf in a sum over classes: use xlogy, or a double `where`",
    forms=(*ROWS, *ELEMENTS, *PAIRS),
    surrogates=True,
)
def masked_class(subject: Subject, seed: int) -> str:
    z, y = problem(subject.form, seed)
    if subject.form in ELEMENTS:
        return _masked_labels(subject, z, y)
    if subject.form in PAIRS:
        return _masked_in_a_pair(subject, z, y)
    hidden = ((y + 1) % 4).unsqueeze(1) == torch.arange(4)
    targets = [y]
    if subject.card is not None and not subject.stateful:  # class probabilities that give it none
        targets.append(torch.softmax(torch.where(hidden, -torch.inf, z.sin()), 1))
    for target in targets:
        for row in range(z.shape[0]):
            input, one = leaf(torch.where(hidden, -torch.inf, z)[row : row + 1]), target[row : row + 1]
            loss = subject(input, one)
            if loss.isnan().any():
                raise Failed("the loss is NaN", input=input.detach(), target=one)
            if target is not y and not loss.isfinite().all():
                raise Failed("the loss is infinite, though the class has no share in the target", input=input.detach(), target=one)
            if loss.isfinite().all() and not gradient(loss.sum(), input).isfinite().all():
                raise Failed("the loss is finite, its gradient is not", input=input.detach(), target=one)
    return "one class of four at -inf" + (", class indices and probabilities" if len(targets) > 1 else "")


def _masked_in_a_pair(subject: Subject, z: Tensor, y: Tensor) -> str:
    """One class at -inf to student, teacher, or both; what neither can choose costs nothing."""
    hidden = torch.arange(4) == 2
    for setting in subject.settings:
        at = subject.at(setting)
        for who, masked_z, masked_y in (("student", True, False), ("teacher", False, True), ("both", True, True)):
            target = torch.where(hidden & masked_y, -torch.inf, y)
            for row in range(z.shape[0]):
                input, one = leaf(torch.where(hidden & masked_z, -torch.inf, z)[row : row + 1]), target[row : row + 1]
                loss = at(input, one)
                if loss.isnan():
                    raise Failed(f"the loss is NaN with a class at -inf ({who})", input=input.detach(), target=one)
                if loss.isfinite() and not gradient(loss, input).isfinite().all():
                    raise Failed(f"the loss is finite, its gradient is not, with a class at -inf ({who})", input=input.detach(), target=one)
            if who == "both" and differ(at(torch.where(hidden, -torch.inf, z), target), at(z[:, ~hidden], y[:, ~hidden]), 1e-12):
                raise Failed("a class at -inf to both is not as if it were not there", input=z, target=y)
    return f"one class of four at -inf to student, teacher or both, {counted(subject)}"


def _masked_labels(subject: Subject, z: Tensor, y: Tensor) -> str:
    """Every absent label at -inf."""
    if subject.card is None:
        raise Skipped("torch's own functions of one logit give NaN there, and a plain function may too")
    for setting in subject.settings:
        input = leaf(torch.where(y == 0, -torch.inf, z))
        loss = subject.at(setting)(input, y)
        if loss.isnan():
            raise Failed("the loss is NaN", input=input.detach(), target=y)
        if loss.isfinite() and not gradient(loss, input).isfinite().all():
            raise Failed("the loss is finite, its gradient is not", input=input.detach(), target=y)
    return f"every absent label at -inf, {counted(subject)}"
