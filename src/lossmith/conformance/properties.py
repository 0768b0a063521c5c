"""The claims of a card as searches for a counterexample, in float64, seeded and vectorised.

A claim of True must survive the search, a claim of False must be shown by a counterexample, and of what nobody claims the report says
what the search found. A passed search is evidence over the region that was tried, never a proof.

Claims speak of the objective at its defaults and at every setting its card lists, except settings of `label_smoothing`: that replaces
the target, and the claims are about the loss against the target it is given.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lossmith._risk import label_losses
from lossmith._subject import Subject
from lossmith.card import Proved
from lossmith.conformance.growth import GROWTHS, measured_growth
from lossmith.conformance.problems import SCALES, confident, generator, problem
from lossmith.conformance.registry import ELEMENTS, FORMS, PAIRS, SETS, Failed, Unclaimed, register, show, shrink
from lossmith.conformance.risk import calibration_gap, properness_gap

CLASSES = (2, 3, 10)
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Search:
    """What a search tried, and the counterexample when it found one."""

    points: int
    region: str
    against: str | None = None
    example: dict[str, Any] = field(default_factory=dict)

    @property
    def tried(self) -> str:
        return f"{self.points} points, {self.region}"


Searcher = Callable[[Subject, int], Search]


def claimed_settings(subject: Subject) -> list[Mapping[str, Any]]:
    return [setting for setting in subject.settings if not setting.get("label_smoothing")]


def judge(subject: Subject, name: str, search: Searcher, seed: int) -> str:
    """Hold a three-valued claim against what a search finds."""
    claim = None if subject.claims is None else subject.claims.value(name)
    given = None if subject.claims is None else getattr(subject.claims, name)
    searches = []
    for setting in claimed_settings(subject):
        found = search(subject.at(setting), seed)
        searches.append(found)
        if found.against is None:
            continue
        at = f" (with {', '.join(f'{k}={v}' for k, v in setting.items())})" if setting else ""
        if claim is True:
            raise Failed(f"claimed True, but {found.against}{at}", **found.example)
        if claim is False:
            return f"counterexample{at}: {found.against}"
        example = "; ".join(f"{key} = {show(value)}" for key, value in found.example.items())
        raise Unclaimed(f"does not hold{at}: {found.against} [{example}]")
    tried = f"{sum(s.points for s in searches)} points, {searches[0].region}"
    # a card says no when some setting breaks the property: at a setting of the caller's own it may hold all the same
    narrowed = subject.card is not None and any(name in subject.card.hyper for name in subject.fixed)
    if claim is False and not narrowed:
        raise Failed(f"claimed False, but no counterexample was found ({tried})")
    if not claim:
        raise Unclaimed(f"holds on all we tried ({tried}): you may claim it")
    proof = f"proved ({given.source}); " if isinstance(given, Proved) else ""
    return f"{proof}tested ({tried})"


def batches(subject: Subject, seed: int, n: int, scales: tuple[float, ...] = SCALES) -> list[tuple[int, Tensor, Tensor]]:
    """(classes, logits, target) at all scales together, for several numbers of classes where the form has classes."""
    form = subject.form
    counts = (1,) if form in ELEMENTS else (3,) if form in SETS else CLASSES
    found = []
    for classes in counts:
        parts = [problem(form, 97 * seed + i, n=n, classes=classes, scale=scale) for i, scale in enumerate(scales)]
        found.append((classes, torch.cat([p.input for p in parts]), torch.cat([p.target for p in parts])))
    return found


def _search(subject: Subject, examples: list[dict[str, Tensor]], law: Callable[..., Tensor], said: str, region: str) -> Search:
    """Ask a law of all rows at once; a law gives one number a row, how far it is broken (positive is broken)."""
    points = 0
    for example in examples:
        broken = law(**example)
        points += broken.shape[0]
        if not (broken > 0).any():
            continue
        worst = int(torch.where(broken.isnan(), -1.0, broken).argmax())
        one = {name: value[worst : worst + 1] for name, value in example.items()}
        small = shrink(lambda **e: "broken" if (law(**e) > 0).all() else None, one)
        return Search(points, region, said, {name: value[0] for name, value in small.items()})
    return Search(points, region)


def _tolerance(*values: Tensor) -> Tensor:
    return TOLERANCE * torch.stack([v.abs() for v in values]).amax(0).clamp_min(1.0)


def _convex(subject: Subject, seed: int) -> Search:
    g = generator(seed)
    examples = []
    for _, a, y in batches(subject, seed, 128 if subject.form in SETS else 256):
        step = torch.randn(a.shape, generator=g, dtype=torch.float64) * a.flatten(1).std(1).reshape(-1, *[1] * (a.ndim - 1)) if (
            a.ndim > 1 and a.shape[1] > 1
        ) else torch.randn(a.shape, generator=g, dtype=torch.float64) * (1 + a.abs())  # fmt: skip
        short = (torch.arange(a.shape[0]) % 2 == 0).reshape(-1, *[1] * (a.ndim - 1))
        examples.append({"a": a, "b": a + torch.where(short, 0.05, 2.0) * step, "target": y})

    def law(a: Tensor, b: Tensor, target: Tensor) -> Tensor:
        n = a.shape[0]
        at_a, at_b, middle = subject.rows(torch.cat([a, b, (a + b) / 2]), target.repeat(3, *[1] * (target.ndim - 1))).split(n)
        return middle - (at_a + at_b) / 2 - _tolerance(at_a, at_b)

    return _search(
        subject, examples, law, "the loss midway between a and b is above the mean of its ends",
        f"chords, half of them short, {_classes(subject)}, logits of scale 0.1 to 12",
    )  # fmt: skip


def _classes(subject: Subject) -> str:
    if subject.form in ELEMENTS:
        return "both answers"
    return "3 classes" if subject.form in SETS else f"{', '.join(map(str, CLASSES))} classes"


def _shift_invariant(subject: Subject, seed: int) -> Search:
    examples = []
    for _, z, y in batches(subject, seed, 64):
        by = 3 * torch.randn(z.shape[0], *([1] * (z.ndim - 1)), generator=generator(seed), dtype=torch.float64)
        examples.append({"input": z, "shift": by, "target": y})

    def law(input: Tensor, shift: Tensor, target: Tensor) -> Tensor:
        before, after = subject.rows(input, target), subject.rows(input + shift, target)
        return (before - after).abs() - 10 * _tolerance(before, after)

    return _search(subject, examples, law, "adding a constant to a row's logits changes its loss", _classes(subject))


def _class_symmetric(subject: Subject, seed: int) -> Search:
    """Classes permuted in logits, target and what is given by class; for single logits, yes and no exchanged: the logit negated."""
    g = generator(seed)
    examples = []
    for classes, z, y in batches(subject, seed, 64):
        for order in (torch.randperm(classes, generator=g), torch.arange(classes).roll(1)):  # the second moves every class
            examples.append({"input": z, "target": y, "order": order.expand(z.shape[0], -1)})

    def law(input: Tensor, target: Tensor, order: Tensor) -> Tensor:
        if subject.form in ELEMENTS:
            permuted, named = -input, 1 - target
        else:
            permuted, named = input[:, order[0]], target[:, order[0]] if subject.form in PAIRS else order[0].argsort()[target]
        counts = {name: value[order[0]] for name, value in subject.needs(input.shape[-1]).items()} if input.ndim > 1 else {}
        before, after = subject.rows(input, target), subject.rows(permuted, named, **counts)
        return (before - after).abs() - _tolerance(before, after)

    what = "exchanging yes and no" if subject.form in ELEMENTS else "permuting the classes"
    return _search(subject, examples, law, f"{what}, in logits and target alike, changes the loss", _classes(subject))


def _symmetric(subject: Subject, seed: int) -> Search:
    """The sum over all labels is the same wherever the logits are: at every row what it is at logits 0."""
    counts = (2,) if subject.form in ELEMENTS else (3, 5)
    points = 0
    for k in counts:
        parts = [problem("logits", seed + i, n=64, classes=k, scale=s).input for i, s in enumerate(SCALES)]
        z = torch.cat(parts)[:, : 1 if subject.form in ELEMENTS else k]

        def law(input: Tensor) -> Tensor:
            total, origin = label_losses(subject, input).sum(1), label_losses(subject, 0 * input).sum(1)
            return (total - origin).abs() - _tolerance(total, origin)

        found = _search(subject, [{"input": z}], law, "the loss summed over all labels is not what it is at logits 0", "")
        points += found.points
        if found.against:
            return found
    return Search(points, "the two answers" if subject.form in ELEMENTS else "3 and 5 classes")


def _proper(subject: Subject, seed: int) -> Search:
    points, against, example = properness_gap(subject, seed)
    region = "both answers" if subject.form in ELEMENTS else "3 classes, the gradient also with 5"
    return Search(points, f"pairs of truth and report, {region}", against, example)


def _calibrated(subject: Subject, seed: int) -> Search:
    denied = subject.claims is not None and subject.claims.value("calibrated") is False
    points, against, example = calibration_gap(subject, seed, thorough=denied)
    return Search(
        points, "pairs of truth and report, " + ("both answers" if subject.form in ELEMENTS else "3 classes alone"), against, example
    )


def _extent(subject: Subject, seed: int, classes: int) -> tuple[float, float, float, float]:
    """The smallest and largest loss found, and those of confident right answers and wrong ones."""
    form = subject.form
    size = 40.0 if subject.claims is not None and subject.claims.growth == "exponential" else 1e4
    # large sets: an additive smoothing keeps small ones away from the supremum
    n, extra = (2, (1024,)) if form in SETS else (32, None)
    y = problem(form, seed, n=n, classes=classes, extra=extra).target
    if form in PAIRS:  # teachers that are certain, or the infimum would be elsewhere
        y = confident(form, y, classes, size)
    right, wrong = confident(form, y, classes, size), confident(form, y, classes, size, right=False)
    excluded = right.clamp_min(0.0).neg()  # the label alone far below the others, which are alike
    usual = [problem(form, seed + i, n=n, classes=classes, extra=extra, scale=s) for i, s in enumerate(SCALES)]
    z, target = torch.cat([right, wrong, excluded, *(p.input for p in usual)]), torch.cat([y, y, y, *(p.target for p in usual)])
    every = subject.each(z, target)
    right, wrong = every[:n], every[n : 2 * n]
    return every.min().item(), every.max().item(), right.max().item(), wrong.max().item()


def _claim(name: str, search: Searcher, tests: str, why: str, cause: str) -> None:
    def run(subject: Subject, seed: int) -> str:
        return judge(subject, name, search, seed)

    run.__name__ = name
    register(tests=tests, why=why, cause=cause, forms=FORMS, seeded=True)(run)


_claim(
    "convex", _convex, "the loss is convex in the logits, for every target (as claimed)",
    "a linear model then has no bad local minima; many optimisation guarantees need it",
    "a bounded or robust loss, which cannot be convex; or a card that guesses",
)  # fmt: skip
_claim(
    "shift_invariant", _shift_invariant, "adding a constant to a row's logits changes nothing (as claimed)",
    "the softmax cannot see such a constant; a loss that does drives all logits somewhere", "a term in the raw logits",
)  # fmt: skip
_claim(
    "class_symmetric", _class_symmetric, "permuting the classes, in logits and target alike, changes nothing (as claimed)",
    "otherwise the numbering of the classes is part of the objective",
    "an index of a class in the formula, or a cumulative sum along the class axis",
)  # fmt: skip
_claim(
    "symmetric", _symmetric, "the loss summed over all labels is constant (as claimed)",
    "it is what makes a loss robust to uniform label noise", "a normalisation that is missing a term",
)  # fmt: skip
_claim(
    "proper", _proper, "the true class probabilities, and they alone, minimise the conditional risk (as claimed)",
    "only then are the outputs probabilities that can be believed", "a focusing, margin or robust term: it bends the probabilities",
)  # fmt: skip
_claim(
    "calibrated", _calibrated, "minimising the conditional risk predicts the most likely class (as claimed)",
    "otherwise more data does not lead to the best classifier", "a hinge over more than two classes, or weights that differ by class",
)  # fmt: skip


@register(
    tests="a row's loss grows with the scale of its logits as claimed: bounded, linear, quadratic or exponential",
    why="growth decides how much one wrong label can pull, and a loss that is flat far out teaches nothing there",
    cause="a silent clamp: the value stops growing and the gradient is 0",
    seeded=True,
)
def growth(subject: Subject, seed: int) -> str:
    found = [measured_growth(subject.at(setting), seed) for setting in claimed_settings(subject)]
    fastest = max(found, key=GROWTHS.index)
    claim = None if subject.claims is None else subject.claims.growth
    if claim is None:
        raise Unclaimed(f"measured: {fastest}")
    if fastest != claim:
        raise Failed(f"claimed {claim}, measured {fastest} from logits of size 50 to 100")
    return f"tested ({64 * len(found)} points, logits of size 50 against 100)"


@register(
    tests="no loss lies outside the claimed bounds; a confident right answer reaches the infimum, something the supremum",
    why="a loss whose best value is not reached by being right never lets go of what is learnt, and bounds are what one plots against",
    cause="softmax applied twice: then even certainty keeps a loss; or bounds of another normalisation",
    seeded=True,
)
def bounds(subject: Subject, seed: int) -> str:
    counts = (2,) if subject.form in ELEMENTS else (3, 10)
    claim = None if subject.claims is None else subject.claims.bounds
    points = 0
    for setting in claimed_settings(subject):
        at = subject.at(setting)
        for classes in counts:
            least, most, right, wrong = _extent(at, seed, classes)
            points += 7 * (2 if subject.form in SETS else 32)
            if claim is None:
                raise Unclaimed(
                    f"measured with {classes} classes: from {least:.6g} to {most:.6g}; a confident right answer costs {right:.6g}"
                )
            low, high = _bounds(subject, claim, setting, classes)
            said = f"with {classes} classes" + "".join(f", {k}={v}" for k, v in setting.items())
            slack = 1e-6 * max(1.0, abs(low) if math.isfinite(low) else 0.0)
            if least < low - slack or most > high + 1e-6 * max(1.0, abs(high)):
                raise Failed(f"claimed [{low:g}, {high:g}], but losses from {least:.6g} to {most:.6g} occur ({said})")
            if math.isfinite(low) and right > low + slack:
                raise Failed(f"a confident right answer costs {right:.6g}; the claimed infimum is {low:g} ({said})")
            if math.isfinite(high) and most < high - 0.01 * max(1e-12, abs(high - max(low, -1e6))):
                raise Failed(f"claimed supremum {high:g}, but nothing above {most:.6g} was found ({said})")
            if math.isinf(high) and wrong < (right if math.isfinite(right) else 0.0) + 3.0:
                raise Failed(f"claimed unbounded above, but a confident wrong answer costs only {wrong:.6g} ({said})")
    return f"tested ({points} points, |logit| up to 1e4, {', '.join(map(str, counts))} classes)"


def _bounds(subject: Subject, claim: Callable[..., tuple[float, float]], setting: Mapping[str, Any], classes: int) -> tuple[float, float]:
    known = {**(subject.card.hyper if subject.card else {}), **subject.fixed, **setting, "classes": classes}
    low, high = claim(**{name: known[name] for name in inspect.signature(claim).parameters})
    return float(low), float(high)
