"""Objectives with a bug each, and the check that is meant to catch it.

Each bug is one broken part of a correct objective (its sibling in :mod:`handmade`), or a plain function as users write them. Every check
of the suite is named by at least one bug, or it could not be known to be able to fail.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from lossmith._batch import frame, weigh
from lossmith._reduce import read, reduce, working_dtype
from lossmith._rows import expected, log_probabilities
from lossmith.card import Claims, Limit
from tests.conformance.handmade import ABSOLUTE, FOCAL, absolute, binary, card, dice, focal, pair, rows

BUGS: list["Bug"] = []


class Bug(NamedTuple):
    """What is wrong, the check that must fail, how to make the objective (a card or a function), and its form if it has no card."""

    name: str
    wrong: str
    check: str
    make: Callable[[], Any]
    form: str | None
    sibling: str


def bug(check: str, wrong: str, sibling: str = "log_loss", form: str | None = None):
    """Plant a function that makes a buggy objective of the given name."""

    def plant(make: Callable[[str], Any]) -> Callable[[str], Any]:
        BUGS.append(Bug(make.__name__, wrong, check, lambda: make(make.__name__), form, sibling))
        return make

    return plant


def softmax_nll(input, target):
    """A plain function, as users write it; the correct sibling of the plain bugs."""
    return F.cross_entropy(input.to(working_dtype(input)), target)


SIBLINGS: dict[str, tuple[Callable[[], Any], str | None]] = {
    "log_loss": (lambda: rows("correct_log_loss"), None),
    "absolute": (lambda: rows("correct_absolute", absolute, ABSOLUTE), None),
    "focal": (lambda: rows("correct_focal", focal, FOCAL, hyper={"gamma": 2.0}, settings=[{"gamma": 1.0}]), None),
    "binary": (lambda: binary("correct_binary"), None),
    "dice": (lambda: dice("correct_dice"), None),
    "pair": (lambda: pair("correct_pair"), None),
    "plain": (lambda: softmax_nll, "logits"),
}


# --- value and gradient -------------------------------------------------------------------------------------------------------------


@bug("prefers_right_answers", "the sign is wrong: log p instead of -log p")
def wrong_sign(name):
    return rows(name, lambda log_p: log_p, Claims(shift_invariant=True))


@bug("prefers_right_answers", "a plain function that forgot the minus sign", "plain", "logits")
def plain_wrong_sign(name):
    return lambda input, target: -softmax_nll(input, target)


@bug("returns_a_loss", "the result is rounded to float32 whatever came in")
def wrong_dtype(name):
    return rows(name, finish=lambda value, each, batch: reduce(value, each, batch.options).float())


@bug("returns_a_loss", "centres the logits in place", "plain", "logits")
def changes_its_input(name):
    def loss(input, target):
        with torch.no_grad():
            input -= input.mean(1, keepdim=True)
        return softmax_nll(input, target)

    return loss


@bug("gradcheck", "the focusing weight is detached: the value is right, the gradient is not", "focal")
def detached_term(name):
    return rows(name, lambda log_p, gamma: -((-torch.expm1(log_p)) ** gamma).detach() * log_p, FOCAL, hyper={"gamma": 2.0})


class _ForgetsItsHessian(torch.autograd.Function):
    @staticmethod
    def forward(ctx, log_p):
        ctx.save_for_backward(log_p)
        return -torch.expm1(log_p)

    @staticmethod
    def backward(ctx, grad):
        (log_p,) = ctx.saved_tensors
        return -grad * log_p.detach().exp()


@bug("double_backward", "a hand-written backward whose own derivative is wrong", "absolute")
def wrong_second_derivative(name):
    return rows(name, lambda log_p: _ForgetsItsHessian.apply(log_p), ABSOLUTE)


class _NoForwardMode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, log_p):
        return -log_p

    @staticmethod
    def backward(ctx, grad):
        return -grad


@bug("forward_ad", "a hand-written function without a forward-mode rule")
def no_forward_mode(name):
    return rows(name, lambda log_p: _NoForwardMode.apply(log_p))


@bug("vmap", "F.one_hot, which reads values and cannot run under vmap", "plain", "logits")
def one_hot(name):
    return lambda input, target: -(F.one_hot(target, input.shape[1]) * input.log_softmax(1)).sum(1).mean()


@bug("compile", "`.item()` in an `if`: the graph breaks")
def reads_a_value(name):
    def value(batch, log_p, row):
        losses = expected(batch, log_p, row)
        return losses * 1.0 if losses.numel() and losses.detach().max().item() > 1e6 else losses

    return rows(name, value=value)


# --- reductions, weights, denominators -----------------------------------------------------------------------------------------------


@bug("mean_denominator", "a mean over all rows, the ignored ones too")
def mean_over_everything(name):
    def finish(value, each, batch):
        plain = batch.options.reduction == "mean" and batch.options.denominator is None
        return value.sum() / max(value.numel(), 1) if plain else reduce(value, each, batch.options)

    return rows(name, finish=finish)


@bug("mean_denominator", "with further axes, pixels or tokens, the mean forgets the sample weights")
def mean_over_pixels(name):
    def finish(value, each, batch):
        return reduce(value, each if value.ndim < 2 else batch.keep.to(each.dtype), batch.options)

    return rows(name, finish=finish)


@bug("mean_denominator", "the mean of class probabilities divides by the number of rows, whatever their sample weights")
def soft_mean_over_rows(name):
    def finish(batch, value):
        value, each = weigh(batch, value)
        return value, each if batch.soft is None else batch.keep.to(each.dtype)

    return rows(name, weigh=finish)


@bug("mean_denominator", "the mean of class probabilities divides by the expected class weight, that of class indices by the label's")
def soft_mean_over_weights(name):
    def divided(batch, value):
        value, each = weigh(batch, value)
        if batch.soft is None or batch.class_weight is None:
            return value, each
        return value, each * (batch.soft * batch.per_class(batch.class_weight)).sum(batch.axis)

    return rows(name, weigh=divided)


@bug("mean_denominator", "`pos_weight` counts in what a mean divides by", "binary")
def pos_weight_in_denominator(name):
    return binary(name, counts_pos_weight=True)


@bug("soft_targets", "of class probabilities only the largest gets a gradient")
def soft_gradient_of_one(name):
    def value(batch, log_p, row):
        if batch.soft is not None:
            log_p = torch.where(batch.soft == batch.soft.amax(batch.axis, keepdim=True), log_p, log_p.detach())
        return expected(batch, log_p, row)

    return rows(name, value=value)


@bug("mean_denominator", "sample weights in the numerator of the mean only")
def weight_in_numerator_only(name):
    def unweighted(batch, value):
        return weigh(batch, value)[0], weigh(batch._replace(sample_weight=None), value)[1]

    return rows(name, weigh=unweighted)


@bug("reductions_agree", '"sum" that divides by the number of rows')
def sum_that_divides(name):
    def finish(value, each, batch):
        total = reduce(value, each, batch.options)
        return total / max(value.numel(), 1) if batch.options.reduction == "sum" else total

    return rows(name, finish=finish)


@bug("reductions_agree", "logits normalised over the batch: the rows depend on each other", "plain", "logits")
def couples_the_batch(name):
    return lambda input, target: softmax_nll(input - input.log_softmax(0), target)


@bug("weights_multiply", "the class weight is applied twice")
def squared_weight(name):
    def twice(batch, value):
        value, each = weigh(batch, value)
        return (value, each) if batch.class_weight is None or batch.label is None else (value * batch.class_weight[batch.label], each)

    return rows(name, weigh=twice)


@bug("weights_multiply", "`pos_weight` is accepted and ignored", "binary")
def ignored_pos_weight(name):
    return binary(name, pos_weight=False)


@bug("micro_batches", "the denominator given is used only where it is smaller than the batch's own")
def own_count(name):
    def finish(value, each, batch):
        opt = batch.options
        return reduce(
            value,
            each,
            opt if opt.denominator is None else opt._replace(denominator=torch.minimum(each.sum(), torch.as_tensor(opt.denominator))),
        )

    return rows(name, finish=finish)


@bug("empty_batch", "0 / 0 when every row is ignored")
def nan_when_empty(name):
    def finish(value, each, batch):
        plain = batch.options.reduction == "mean" and batch.options.denominator is None
        return value.sum() / each.sum() if plain else reduce(value, each, batch.options)

    return rows(name, finish=finish)


# --- masks --------------------------------------------------------------------------------------------------------------------------


def _unmasked(batch, input):
    return F.log_softmax(input, batch.axis, dtype=working_dtype(input))


@bug("ignore_index_deletes", "ignored rows are masked by multiplication: NaN * 0 is NaN")
def mask_by_multiplication(name):
    def multiplied(batch, value):
        each = torch.ones_like(value) if batch.class_weight is None or batch.label is None else batch.class_weight[batch.label]
        each = each * batch.keep * (1 if batch.sample_weight is None else batch.sample_weight)
        return value * each, each

    return rows(name, log_p=_unmasked, weigh=multiplied)


@bug("ignore_index_deletes", "masked only after log_softmax: the value is right, the gradient of ignored rows is NaN")
def nan_in_ignored_gradient(name):
    return rows(name, log_p=_unmasked)


@bug("sample_weight_deletes", "sample weights only multiply: a weight of 0 does not remove NaN")
def weight_only_multiplies(name):
    def batch(opt, input, target):
        found = frame(opt, input, target)
        return found if found.label is None else found._replace(keep=target != opt.ignore_index)

    return rows(name, batch=batch)


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, keep):
        ctx.save_for_backward(input, keep)
        return torch.where(keep, input, 0)

    @staticmethod
    def backward(ctx, grad):
        input, keep = ctx.saved_tensors
        return torch.where(keep, grad * (1 + 0 * input.square()), 0), None


@bug("masked_double_backward", "a hand-written mask whose backward masks its product with the input: NaN only in the second derivative")
def mask_of_a_product(name):
    return rows(name, log_p=lambda batch, input: _unmasked(batch, _Masked.apply(input, batch.keep.unsqueeze(batch.axis))))


@bug("ignore_index_deletes", "ignored pixels leave the overlap of the Dice score, but not its denominator", "dice")
def ignored_in_the_denominator(name):
    return dice(name, ignores=False)


# --- targets and shapes --------------------------------------------------------------------------------------------------------------


@bug("soft_targets", "the logarithm of the expected probability instead of the expected logarithm")
def log_of_expectation(name):
    def value(batch, log_p, row):
        return expected(batch, log_p, row) if batch.label is not None else row((batch.soft * log_p.exp()).sum(batch.axis).log())

    return rows(name, value=value)


@bug("soft_targets_weighted", "a soft target gets the class weight of its most likely label")
def weight_of_the_top_label(name):
    def value(batch, log_p, row):
        if batch.label is not None or batch.class_weight is None:
            return expected(batch, log_p, row)
        return expected(batch._replace(class_weight=None), log_p, row) * batch.class_weight[batch.soft.argmax(batch.axis)]

    return rows(name, value=value)


@bug("shapes_agree", "log_softmax over the last axis, which is the class axis only for (n, c)")
def wrong_axis(name):
    return rows(name, log_p=lambda batch, input: F.log_softmax(batch.mask(input), -1, dtype=working_dtype(input)))


@bug("sets_agree", "pixels on the right count more than those on the left", "dice")
def position_matters(name):
    return dice(name, position=True)


# --- keywords -----------------------------------------------------------------------------------------------------------------------


@bug("options_matter", "the hyper-parameter is accepted and never used", "focal")
def unused_hyper(name):
    return rows(name, lambda log_p, gamma: focal(log_p, 2.0), FOCAL, hyper={"gamma": 2.0})


@bug("unknown_option", "keywords it does not know are swallowed", "plain", "logits")
def swallows_options(name):
    return lambda input, target, **options: softmax_nll(input, target)


@bug("hyper_as_tensor", "float(gamma): a tensor hyper-parameter gets no gradient", "focal")
def number_only(name):
    return rows(name, lambda log_p, gamma: focal(log_p, float(gamma)), FOCAL, hyper={"gamma": 2.0})


@bug("hyper_out_of_range", "the range of the hyper-parameter is stated and never checked", "focal")
def unchecked_range(name):
    return rows(name, focal, FOCAL, hyper={"gamma": 2.0}, read=lambda row, options, hyper: read(row, options, {}))


@bug("clear_errors", "one logit goes through a softmax: the loss is always 0")
def takes_one_logit(name):
    def batch(opt, input, target):
        if input.is_floating_point() and input.ndim == 2 and input.shape[1] == 1:
            input = input.expand(-1, 2)
        return frame(opt, input, target)

    return rows(name, batch=batch)


@bug("claims_something", "a card that claims nothing")
def claims_nothing(name):
    return rows(name, claims=Claims())


# --- numbers ------------------------------------------------------------------------------------------------------------------------


@bug("extremes", "log(softmax): -inf as soon as the probability rounds to 0")
def log_of_zero(name):
    def log_p(batch, input):
        return torch.softmax(batch.mask(input), batch.axis, dtype=working_dtype(input)).log()

    return rows(name, log_p=log_p)


@bug("extremes", "NaN at p = 0: p log p as a product", "absolute")
def nan_at_zero(name):
    return rows(name, lambda log_p: absolute(log_p) + 0 * (log_p.exp().log() * log_p.exp()), ABSOLUTE)


@bug("extremes_double_backward", "(1 - p)^1.5: its second derivative at p = 1 is inf times 0", "focal")
def nan_in_second_derivative(name):
    return rows(name, lambda log_p: -((-torch.expm1(log_p)) ** 1.5) * log_p, FOCAL)


@bug("masked_class", "a sum of p log p over all classes, one of which is masked by -inf")
def entropy_of_masked_class(name):
    def value(batch, log_p, row):
        entropy = -(log_p.exp() * log_p).sum(batch.axis)
        return expected(batch, log_p, row) + 0.1 * entropy * (1 if batch.soft is None else batch.soft.sum(batch.axis))

    return rows(name, value=value, claims=Claims(shift_invariant=True, class_symmetric=True))


@bug("masked_class", "0 * inf: a class masked by -inf to which class probabilities give none")
def no_share_of_infinity(name):
    def value(batch, log_p, row):
        return expected(batch, log_p, row) if batch.soft is None else (batch.soft * row(log_p)).sum(batch.axis)

    return rows(name, value=value)


@bug("masked_class", "the loss of the answer that is not given is multiplied by 0: an absent label at -inf gives NaN", "binary")
def both_answers(name):
    return binary(name, guarded=False)


@bug("half_precision", "log_softmax in the input's half precision, converted afterwards")
def computed_in_half(name):
    return rows(name, log_p=lambda batch, input: F.log_softmax(batch.mask(input), batch.axis).to(working_dtype(input)))


@bug("half_precision", "returned in the input's half precision", "plain", "logits")
def returned_in_half(name):
    return lambda input, target: softmax_nll(input.float() if input.dtype.itemsize < 4 else input, target).to(input.dtype)


@bug("autocast", "a matrix product without a guard: it overflows under autocast alone")
def overflows_under_autocast(name):
    def log_p(batch, input):
        found = log_probabilities(batch, input)
        z = batch.mask(input).to(found.dtype)
        square = (z.flatten().unsqueeze(0) @ z.flatten().unsqueeze(1)).squeeze()
        return found - 1e-9 * (square - square.detach())

    return rows(name, log_p=log_p, guard=lambda input: nullcontext(), claims=Claims(symmetric=False))


# --- claims -------------------------------------------------------------------------------------------------------------------------


@bug("proper", "mean absolute error, which claims to be proper", "absolute")
def claims_properness(name):
    return rows(name, absolute, Claims(proper=True, shift_invariant=True))


@bug("convex", "cross-entropy, which claims not to be convex")
def claims_non_convexity(name):
    return rows(name, claims=Claims(convex=False, shift_invariant=True))


@bug("convex", "mean absolute error, which claims to be convex", "absolute")
def claims_convexity(name):
    return rows(name, absolute, Claims(convex=True, shift_invariant=True))


@bug("class_symmetric", "later classes cost more: the numbering of the classes is part of the loss")
def class_order(name):
    def value(batch, log_p, row):
        ramp = batch.per_class(1 + 0.1 * torch.arange(batch.classes, dtype=log_p.dtype))
        if batch.label is None:
            weight = torch.ones(batch.classes, dtype=log_p.dtype) if batch.class_weight is None else batch.class_weight
            return expected(batch._replace(class_weight=weight * ramp.flatten()), log_p, row)
        return expected(batch, log_p, row) * ramp.flatten()[batch.label]

    return rows(name, value=value)


@bug("symmetric", "cross-entropy, which claims to be symmetric")
def claims_symmetry(name):
    return rows(name, claims=Claims(symmetric=True, shift_invariant=True))


def _of_logits(name: str, row: Callable[..., Any], claims: Claims):
    from lossmith._rows import of_logits

    return card(name, "logits", lambda input, target, hyper, options: of_logits(row, input, target, options), row, claims, {})


@bug("shift_invariant", "a penalty on the raw logits, unsaid")
def raw_logits(name):
    def row(z, y):
        return -z.log_softmax(-1).gather(-1, y.unsqueeze(-1)).squeeze(-1) + 0.01 * z.square().mean(-1)

    return _of_logits(name, row, Claims(convex=True, shift_invariant=True, growth="quadratic"))


@bug("calibrated", "a hinge over more than two classes, which claims to be calibrated")
def multiclass_hinge(name):
    def row(z, y):
        own = z.gather(-1, y.unsqueeze(-1))
        named = y.unsqueeze(-1) == torch.arange(z.shape[-1])
        return torch.where(named, 0.0, 1 + z - own).clamp_min(0).amax(-1)

    return _of_logits(name, row, Claims(convex=True, calibrated=True, shift_invariant=True, growth="linear"))


@bug("proper", "a temperature for the teacher alone: at its best the student is another prediction", "pair")
def one_temperature(name):
    return pair(name, teacher_temperature=2.0)


@bug("class_symmetric", "of student and teacher, later classes cost more", "pair")
def class_order_of_a_pair(name):
    def row(log_p, log_q):
        ramp = torch.linspace(1.0, 1.1, log_p.shape[-1], dtype=log_p.dtype)
        return -(log_q.exp() * log_p * ramp).sum(-1)

    return pair(name, row)


@bug("masked_class", "a class at -inf to student and teacher alike: p (log p - log q) is 0 times NaN", "pair")
def impossible_to_both(name):
    return pair(name, lambda log_p, log_q: (log_q.exp() * (log_q - log_p)).sum(-1))


@bug("sample_weight_deletes", "in a removed row the student is masked and the teacher is not: its gradient is NaN", "pair")
def unmasked_teacher(name):
    return pair(name, masks_teacher=False)


@bug("growth", "probabilities clamped at 1e-7: far out the loss is flat and its gradient 0")
def silent_clamp(name):
    return rows(name, lambda log_p: -log_p.exp().clamp_min(1e-7).log())


@bug("bounds", "softmax applied twice: even certainty keeps a loss")
def double_softmax(name):
    def log_p(batch, input):
        return log_probabilities(batch, torch.softmax(batch.mask(input), batch.axis, dtype=working_dtype(input)))

    return rows(name, log_p=log_p, claims=Claims(shift_invariant=True, class_symmetric=True, bounds=lambda: (0.0, float("inf"))))


@bug("bounds", "mean absolute error, which claims a supremum of 2", "absolute")
def false_bounds(name):
    return rows(name, absolute, Claims(shift_invariant=True, bounds=lambda: (0.0, 2.0)))


@bug("limits", "claims to become twice what it becomes", "focal")
def false_limit(name):
    def double(input, target):
        """twice the cross-entropy"""
        return 2 * F.cross_entropy(input, target, reduction="none")

    return rows(name, focal, FOCAL, hyper={"gamma": 2.0}, limits=[Limit(gamma=0.0, equals=double)])


@bug("limits", "claims to tend slowly to what it stays away from", "focal")
def false_slow_limit(name):
    def double(input, target):
        """twice the cross-entropy"""
        return 2 * F.cross_entropy(input, target, reduction="none")

    return rows(name, focal, FOCAL, hyper={"gamma": 2.0}, limits=[Limit(gamma=0.0, equals=double, slowly=True)])
