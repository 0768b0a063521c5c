"""Checks of what a loss returns: reductions, weights, denominators, micro-batches and empty batches.

The commonest bug of the field is a mean over the wrong count: rows that are ignored, weighted or in another micro-batch.
"""

from typing import Any

import torch
from torch import Tensor

from lossmith._subject import Subject
from lossmith.conformance.problems import confident, gradient, leaf, problem, row_of
from lossmith.conformance.registry import ELEMENTS, FORMS, PAIRS, ROWS, SETS, Failed, Skipped, differ, register, require


def per_row_weights(form: str, target: Tensor) -> Tensor:
    """Distinct positive sample weights for a target."""
    rows = row_of(form, target)
    return (0.5 + 0.25 * torch.arange(rows.numel(), dtype=torch.float64)).reshape(rows.shape)


def label_weights(classes: int) -> Tensor:
    return 0.5 + torch.arange(classes, dtype=torch.float64)


@register(
    tests="the loss is a tensor of finite numbers, 0-d when reduced, the same at every call, and leaves its arguments as they were",
    why="a loss that changes its inputs, or answers differently every time, cannot be reproduced or debugged",
    cause="an in-place operation on the logits, randomness, or state that is kept between calls",
    surrogates=True,
)
def returns_a_loss(subject: Subject, seed: int) -> str:
    z, y = problem(subject.form, seed)
    input, target = z.clone(), y.clone()
    loss = subject(input, target)
    if not isinstance(loss, Tensor):
        raise Failed(f"returns a {type(loss).__name__}, not a tensor", input=z, target=y)
    if subject.takes("reduction") and loss.ndim:
        raise Failed(f"the default reduction gives a tensor of shape {tuple(loss.shape)}, not a number", input=z, target=y)
    if not loss.isfinite().all():
        raise Failed(f"gives {loss.detach().tolist()} on ordinary logits", input=z, target=y)
    if loss.dtype != z.dtype:
        raise Failed(f"returns {loss.dtype} for float64 logits: precision is lost", input=z, target=y)
    if not torch.equal(input, z) or not torch.equal(target, y):
        raise Failed("changes its arguments in place", input=z, target=y)
    if not torch.equal(subject(z, y), loss):
        raise Failed("two calls on the same input differ", input=z, target=y)
    return "2 calls, float64"


@register(
    tests="a confident right answer costs less than a confident wrong one, whatever the label",
    why="training walks downhill: with the sign or the label reversed it learns to be wrong",
    cause="a missing minus sign, gain instead of loss, or labels that index the wrong axis",
)
def prefers_right_answers(subject: Subject, seed: int) -> str:
    for classes in (3, 5):
        y = problem(subject.form, seed, n=12, classes=classes).target

        def law(target: Tensor, classes: int = classes) -> str | None:
            right, wrong = (subject.rows(confident(subject.form, target, classes, 6.0, right=r), target) for r in (True, False))
            worst = (right - wrong).argmax()
            if right[worst] < wrong[worst]:
                return None
            return f"a confident right answer costs {right[worst].item():.6g}, a confident wrong one {wrong[worst].item():.6g}"

        require(law, target=y)
    return "24 confident answers, 3 and 5 classes"


@register(
    tests='"sum" is the sum of "none", and a plain "mean" its mean; without a reduction, a number is the mean or the sum of its rows',
    why="a learning rate tuned with one reduction silently means another with the other",
    cause='"sum" that still divides, a mean over the wrong axis, or a loss that couples the rows of a batch',
    surrogates=True,
)
def reductions_agree(subject: Subject, seed: int) -> str:
    z, y = problem(subject.form, seed)
    if not subject.takes("reduction"):
        return _rows_make_the_batch(subject, z, y)

    def law(input: Tensor, target: Tensor) -> str | None:
        each = subject(input, target, reduction="none")
        if not each.ndim:
            return 'reduction="none" gives one number, not one a row'
        for reduction, expected in (("sum", each.sum()), ("mean", each.mean())):
            got = subject(input, target, reduction=reduction)
            if differ(got, expected, 1e-12):
                return f"reduction={reduction!r} gives {got.item():.8g}; the {reduction} of reduction='none' is {expected.item():.8g}"
        return None

    require(law, input=z, target=y)
    return '"mean" and "sum" against "none"'


def _rows_make_the_batch(subject: Subject, z: Tensor, y: Tensor) -> str:
    if subject.form in SETS:
        raise Skipped("the function takes no `reduction`, and a set's loss is no mean over its elements")
    whole = subject(z, y)
    if whole.ndim:
        return "the function returns its rows"
    rows = subject.each(z, y)
    mean, total = rows.mean(), rows.sum()
    if differ(whole, mean) and differ(whole, total):
        said = f"neither the mean of its rows' losses ({mean.item():.6g}) nor their sum ({total.item():.6g})"
        raise Failed(f"the batch's loss {whole.item():.6g} is {said}", input=z, target=y)
    return f"the batch's loss is the {'mean' if not differ(whole, mean) else 'sum'} of its rows' losses"


@register(
    tests="a mean divides by the total weight of what is kept: class weights, sample weights and ignored rows included",
    why="otherwise the loss, hence the learning rate, depends on how much of a batch is padding",
    cause='`.mean()` after masking, or a weight in the numerator but not in the denominator (a plain "mean over the wrong count")',
    forms=(*ROWS, *ELEMENTS, *PAIRS),
    surrogates=True,
)
def mean_denominator(subject: Subject, seed: int) -> str:
    if not subject.takes("reduction"):
        raise Skipped("the function takes no `reduction`")
    tried: list[str] = []
    every = ("weight", "sample_weight", "ignore_index")
    # of a plain function no more is asked than rows (n, c) and class indices
    for extra in ((), (3,)) if subject.card is not None and subject.form in (*ROWS, *PAIRS) else ((),):
        z, y = problem(subject.form, seed, extra=extra)
        _, soft = problem(subject.form, seed, extra=extra, soft=True)
        has_soft = subject.card is not None and not subject.stateful and subject.form not in PAIRS
        for used in ((), ("weight",), ("sample_weight",), ("ignore_index",), ("pos_weight",), every):
            if subject.takes(*used):
                tried.append(" + ".join(used) or "plain")
                require(_denominator_law(subject, used), input=z, target=y, sample_weight=per_row_weights(subject.form, y))
        for used in ((), ("weight",), ("sample_weight",), ("weight", "sample_weight")):
            if subject.takes(*used) and has_soft:
                tried.append(" + ".join(("soft targets", *used)))
                require(_denominator_law(subject, used, soft=True), input=z, target=soft, sample_weight=per_row_weights(subject.form, y))
    return "; ".join(dict.fromkeys(tried))


def _denominator_law(subject: Subject, used: tuple[str, ...], *, soft: bool = False):
    ignored = -100

    def law(input: Tensor, target: Tensor, sample_weight: Tensor) -> str | None:
        options: dict[str, object] = {}
        kept = torch.ones_like(sample_weight, dtype=torch.bool)
        if "ignore_index" in used:
            kept.view(-1)[::3] = False
            target = torch.where(kept, target, ignored)
            options["ignore_index"] = ignored
        total = kept.double()
        if "weight" in used:
            classes = input.shape[min(1, input.ndim - 1)]
            weight = label_weights(classes)
            options["weight"] = weight if subject.form != "binary" or input.ndim > 1 else weight[0]
            if subject.form in ELEMENTS:
                total = total * options["weight"]
            elif not soft:  # the weights of class probabilities are in the loss, and not in what it is divided by
                total = total * weight[torch.where(kept, target, 0)]
        if "pos_weight" in used:
            options["pos_weight"] = torch.tensor(3.0, dtype=torch.float64)
        if "sample_weight" in used:
            options["sample_weight"] = sample_weight
            total = total * sample_weight
        mean = subject(input, target, reduction="mean", **options)
        expected = subject(input, target, reduction="sum", **options) / total.sum().clamp_min(torch.finfo(torch.float64).tiny)
        if differ(mean, expected, 1e-12):
            said = ", ".join((*used, *(("soft targets",) if soft else ()))) or "no option"
            return f"mean with {said} is {mean.item():.8g}; sum / total weight is {expected.item():.8g}"
        return None

    return law


@register(
    tests="`weight` multiplies each row's loss by its class's (label's) weight, `sample_weight` by the row's own, before any reduction",
    why="weights are how imbalance is corrected; one applied to the wrong axis corrects nothing",
    cause="a weight that broadcasts along the wrong axis, is squared, or is dropped for one reduction",
    surrogates=True,
)
def weights_multiply(subject: Subject, seed: int) -> str:
    if not subject.takes("reduction"):
        raise Skipped("the function takes no `reduction`")
    tried = []
    z, y = problem(subject.form, seed, extra=(3,))

    def law(input: Tensor, target: Tensor) -> str | None:
        plain = subject(input, target, reduction="none")
        w = label_weights(input.shape[1])
        if subject.takes("weight"):
            across = w.reshape(-1, *[1] * (plain.ndim - 2))
            factor = w[target] if subject.form in ROWS else across[: plain.shape[1]]
            if differ(subject(input, target, weight=w, reduction="none"), plain * factor, 1e-12):
                return "weight does not multiply each loss by its class's weight"
        s = per_row_weights(subject.form, target)
        if subject.takes("sample_weight") and subject.form not in SETS:
            if differ(subject(input, target, sample_weight=s, reduction="none"), plain * s, 1e-12):
                return "sample_weight does not multiply each row's loss"
        if subject.takes("pos_weight"):
            across = w.reshape(-1, *[1] * (plain.ndim - 2))
            if differ(subject(input, target, pos_weight=w, reduction="none"), plain * torch.where(target == 1, across, 1.0), 1e-12):
                return "pos_weight does not multiply the loss of the positive answers alone"
        return None

    for keyword in ("weight", "sample_weight", "pos_weight"):
        if subject.takes(keyword) and not (keyword == "sample_weight" and subject.form in SETS):
            tried.append(keyword)
    if not tried:
        raise Skipped("the function takes no weights")
    require(law, input=z, target=y)
    return ", ".join(tried)


@register(
    tests="with the full batch's `denominator=`, the losses and gradients of its micro-batches sum to the full batch's",
    why="gradient accumulation and data parallelism otherwise train on another objective than one big batch does",
    cause="each micro-batch divided by its own count",
    forms=(*ROWS, *ELEMENTS, *PAIRS),
)
def micro_batches(subject: Subject, seed: int) -> str:
    if not subject.takes("denominator"):
        raise Skipped("the function takes no `denominator`")
    if subject.remembers:
        raise Skipped("its state couples the rows of a batch")
    z, y = problem(subject.form, seed, n=7)
    whole_in, options = leaf(z), {"sample_weight": per_row_weights(subject.form, y)} if subject.takes("sample_weight") else {}
    total = options["sample_weight"].sum() if options else torch.tensor(float(row_of(subject.form, y).numel()), dtype=torch.float64)
    whole = subject(whole_in, y, **options)
    expected = gradient(whole, whole_in)
    part_in, parts = leaf(z), []
    for rows in (slice(0, 1), slice(1, 4), slice(4, 7)):
        cut = {name: value[rows] for name, value in options.items()}
        parts.append(subject(part_in[rows], y[rows], denominator=total, **cut))
    together = torch.stack(parts).sum()
    if differ(together, whole, 1e-12):
        raise Failed(f"three micro-batches sum to {together.item():.8g}, the whole batch gives {whole.item():.8g}", input=z, target=y)
    if differ(gradient(together, part_in), expected, 1e-12):
        raise Failed("the gradients of the micro-batches do not sum to the whole batch's", input=z, target=y)
    return "a batch of 7 as 1 + 3 + 3, value and gradient"


@register(
    tests="a batch with nothing in it, or nothing kept, gives 0 with a zero gradient",
    why="one fully masked micro-batch with a NaN loss ends a training run",
    cause="0 / 0 in the mean",
    forms=FORMS,
    surrogates=True,
)
def empty_batch(subject: Subject, seed: int) -> str:
    if subject.card is None and not subject.takes("reduction"):
        raise Skipped("a plain function may refuse an empty batch")
    tried = []
    z, y = problem(subject.form, seed)
    cases: dict[str, tuple[Tensor, Tensor, dict[str, Any]]] = {"n = 0": (z[:0], y[:0], {})}
    if subject.takes("ignore_index") and subject.form not in SETS:
        cases["every row ignored"] = (z, torch.full_like(y, -100), {"ignore_index": -100})
    if subject.takes("sample_weight") and subject.form not in SETS:
        cases["every sample weight 0"] = (z, y, {"sample_weight": 0 * per_row_weights(subject.form, y)})
    for how in ({"reduction": "mean"}, {"reduction": "sum"}) if subject.takes("reduction") else ({},):
        said = "".join(f", {k}={v!r}" for k, v in how.items())
        for case, (input, target, options) in cases.items():
            input = leaf(input)
            loss = subject(input, target, **how, **options)
            if loss.item() != 0:
                raise Failed(f"{case}{said}: gives {loss.item()}, not 0", input=input.detach(), target=target)
            if loss.requires_grad and gradient(loss, input).count_nonzero():
                raise Failed(f"{case}{said}: the gradient is not 0", input=input.detach(), target=target)
            tried.append(case)
    return "; ".join(dict.fromkeys(tried))
