"""Checks of what may be given as target and in which shape: torch's shapes, and class probabilities as an expectation over labels."""

import torch
from torch import Tensor

from lossmith._subject import Subject
from lossmith.conformance.problems import gradient, leaf, problem
from lossmith.conformance.reductions import label_weights
from lossmith.conformance.registry import ELEMENTS, PAIRS, ROWS, SETS, Failed, Skipped, differ, register, require


@register(
    tests="`(c,)`, `(n, c)`, `(n, c, d)` and `(n, c, d1, d2)` (binary: any shape) hold the same losses, laid out otherwise",
    why="pixels and tokens are rows like any others; an axis mixed up is silent whenever the sizes happen to fit",
    cause="a reshape without moving the class axis, or `dim=-1` where the classes are along axis 1",
    forms=(*ROWS, *ELEMENTS, *PAIRS),
    surrogates=True,
)
def shapes_agree(subject: Subject, seed: int) -> str:
    plain = subject.card is None
    z, y = problem(subject.form, seed, n=12)
    rows = subject.each(z, y)
    layouts = {"(n, c, d)": (3,), "(n, c, d1, d2)": (3, 2)}
    tried = ["(n, c)"]
    for what, extra in layouts.items():
        n = 12 // torch.Size(extra).numel()
        if subject.form == "binary":
            input, target, expected = z.reshape(n, *extra), y.reshape(n, *extra), rows.reshape(n, *extra)
        else:
            input = z.reshape(n, *extra, -1).movedim(-1, 1)
            target = y.reshape(n, *extra, *y.shape[1:])
            target = target.movedim(-1, 1) if subject.form in ("multilabel", *PAIRS) else target
            expected = rows.reshape(n, *extra, *rows.shape[1:])
            expected = expected.movedim(-1, 1) if subject.form == "multilabel" else expected
        try:
            got = subject.each(input, target)
        except Exception as error:
            if plain:
                continue
            raise Failed(f"{what}: raised {type(error).__name__}: {error}", input=input, target=target) from error
        if got.shape == expected.shape and differ(got, expected, 1e-12):
            raise Failed(f"{what} gives other losses than its rows one by one", input=input, target=target)
        if got.shape != expected.shape and subject.takes("reduction"):
            raise Failed(f"{what} gives losses of shape {tuple(got.shape)}, not {tuple(expected.shape)}", input=input, target=target)
        tried.append(what)
    if subject.takes("reduction") and subject.form in (*ROWS, *PAIRS) and not subject.stateful:
        one = subject.each(z[0], y[0])
        if one.shape != () or differ(one, rows[0], 1e-12):
            raise Failed("(c,) gives another loss than the same row in a batch", input=z[0], target=y[0])
        tried.append("(c,)")
    return ", ".join(tried)


def _expectation(subject: Subject, seed: int, **weights: Tensor) -> None:
    z, y = problem(subject.form, seed, n=5, extra=() if subject.form == "binary" else (2,), soft=True)

    def law(input: Tensor, target: Tensor) -> str | None:
        got = subject(input, target, reduction="none", **weights)
        if subject.form in ELEMENTS:
            yes, no = (subject(input, torch.full_like(target, v), reduction="none", **weights) for v in (1.0, 0.0))
            expected = target * yes + (1 - target) * no
        else:
            labels = [torch.full_like(target.select(1, 0), k, dtype=torch.long) for k in range(input.shape[1])]
            each = torch.stack([subject(input, label, reduction="none", **weights) for label in labels], 1)
            expected = (target * each).sum(1)
        if input.requires_grad and differ(gradient(got.sum(), input), gradient(expected.sum(), input), 1e-11):
            return "the value is the expectation over labels, the gradient is not"
        if differ(got, expected, 1e-11):
            worst = (got - expected).abs().flatten().argmax()
            return f"gives {got.flatten()[worst].item():.8g}; the expectation over labels is {expected.flatten()[worst].item():.8g}"
        return None

    require(law, input=z, target=y)
    said = law(leaf(z), y)
    if said is not None:
        raise Failed(said, input=z, target=y)


_WHY = "mixup, distillation and annotators' votes are soft targets; a loss that means another thing there trains on another objective"


@register(
    tests="class probabilities (binary: a target between 0 and 1) mean the expectation of the loss over labels drawn from them",
    why=_WHY,
    cause="putting the soft target into a formula that is only right for one-hot targets",
    forms=(*ROWS, *ELEMENTS),
)
def soft_targets(subject: Subject, seed: int) -> str:
    _needs_none(subject)
    _expectation(subject, seed)
    return "sum_k t_k loss(z, k), unweighted, value and gradient"


@register(
    tests="with weights too: sum_k t_k w_k loss(z, k), in value and gradient",
    why=_WHY,
    cause="the class weight of the most likely label, or one weight a row, applied to a soft target",
    forms=(*ROWS, *ELEMENTS),
)
def soft_targets_weighted(subject: Subject, seed: int) -> str:
    _needs_none(subject)
    used = [name for name in ("weight", "pos_weight") if subject.takes(name)]
    if not used:
        raise Skipped("the function takes no class weights")
    classes = 4 if subject.form != "binary" else None
    for name in used:
        weight = label_weights(classes) if classes else torch.tensor(2.5, dtype=torch.float64)
        _expectation(subject, seed, **{name: weight})
    return f"with {' and '.join(used)}"


def _needs_none(subject: Subject) -> None:
    if not subject.takes("reduction"):
        raise Skipped("the function takes no `reduction`, so its weights and rows cannot be told apart")
    if subject.card is None or subject.stateful:
        z, y = problem(subject.form, 0, soft=True)
        try:
            subject(z, y)
        except Exception as error:
            raise Skipped(
                f"the function takes no class probabilities ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})"
            ) from error


@register(
    tests="a set holds the same loss however its elements are laid out and ordered; one-hot probabilities equal class indices",
    why="an image flattened, or read column by column, is the same image",
    cause="a sum over the wrong axis",
    forms=SETS,
)
def sets_agree(subject: Subject, seed: int) -> str:
    z, y = problem(subject.form, seed, n=2, extra=(3, 4))
    whole = subject.each(z, y)
    if differ(subject.each(z.flatten(2), y.flatten(1)), whole, 1e-12):
        raise Failed("flattening the elements changes the loss", input=z, target=y)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    if differ(subject.each(z.flatten(2)[:, :, order], y.flatten(1)[:, order]), whole, 1e-12):
        raise Failed("the order of the elements changes the loss", input=z, target=y)
    if subject.card is not None:
        onehot = (y.unsqueeze(1) == torch.arange(z.shape[1]).reshape(1, -1, 1, 1)).double()
        if differ(subject.each(z, onehot), whole, 1e-12):
            raise Failed("one-hot probabilities give another loss than class indices", input=z, target=y)
    return "(n, c, d1, d2) against (n, c, d) and a permutation of the elements"
