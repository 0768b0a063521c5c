"""Every objective of the form ``log_prob``, through the fused head and through given logits, against its dense self in float64."""

import pytest
import torch

import lossmith
from lossmith.card import Range, all_cards
from lossmith.fused import LinearLogits, Logits
from tests.fused.heads import Problem, assert_close, class_axis, dense, gradients, leaf, log_prob, problem

CARDS = {name: card for name, card in all_cards().items() if card.form == "log_prob" and card.function.__module__.startswith("lossmith.")}
WEIGHTS = {
    "weight": torch.linspace(0.0, 2.0, 11, dtype=torch.float64),
    "sample_weight": torch.tensor([1.0, 0.5, 0, 2, 1, 1, 3, 0, 0.1], dtype=torch.float64),
}
OPTIONS = [
    {},
    {"reduction": "sum"},
    {"reduction": "none"},
    WEIGHTS,
    {"reduction": "none", **WEIGHTS},
    {"denominator": 7.0, "sample_weight": WEIGHTS["sample_weight"]},
    {"denominator": torch.tensor(7.0), "weight": WEIGHTS["weight"]},
    {"ignore_index": 3},
]


def settings(card):
    """Every setting of the card, and the hyper-parameters of the first as tensors that ask for a gradient."""
    yield from card.examples()
    learnt = {
        name: leaf(torch.tensor(float(card.hyper[name]), dtype=torch.float64))
        for name, allowed in card.ranges.items()
        if isinstance(allowed, Range) and isinstance(card.hyper[name], (int, float)) and not (allowed.whole or allowed.plain)
    }
    if learnt:
        yield learnt


def same(function, source, z, p: Problem, inputs, options, upstream=1.0) -> None:
    target = p.target if options.get("ignore_index", -100) == -100 else p.target.clamp_min(0)
    found, expected = function(source, target, **options), function(class_axis(z), target, **options)
    assert found.dtype == expected.dtype
    assert_close(found, expected, 1e-11)
    inputs = (*inputs, *(v for v in options.values() if isinstance(v, torch.Tensor) and v.requires_grad))
    mine = gradients((found * upstream).sum(), inputs)
    assert_close(mine, gradients((expected * upstream).sum(), inputs))


@pytest.mark.parametrize("objective", CARDS)
@pytest.mark.parametrize("schedule", ["auto", "recompute"])
def test_the_head_in_place_of_logits(objective, schedule):
    card, p = CARDS[objective], problem(9)
    for hyper in settings(card):
        for options in OPTIONS if hyper == {} else OPTIONS[3:5]:
            source = LinearLogits(*p.inputs, schedule=schedule)
            same(card.function, source, dense(p), p, p.inputs, {**hyper, **options}, upstream=torch.linspace(-1, 2, 9))


@pytest.mark.parametrize("objective", CARDS)
def test_temperature_and_softcap_with_gradients_in_both(objective):
    p = problem(9)
    t, cap = (leaf(torch.tensor(value, dtype=torch.float64)) for value in (0.7, 3.0))
    same(CARDS[objective].function, LinearLogits(*p.inputs, temperature=t, softcap=cap), dense(p, t, cap), p, (*p.inputs, t, cap), {})
    same(CARDS[objective].function, LinearLogits(*p.inputs, temperature=0.7, softcap=3), dense(p, 0.7, 3), p, p.inputs, {})
    same(CARDS[objective].function, LinearLogits(*p.inputs, temperature=t), dense(p, t), p, (*p.inputs, t), {})


@pytest.mark.parametrize("objective", CARDS)
def test_given_logits(objective):
    card, p = CARDS[objective], problem(9)
    z = leaf(dense(p))
    for hyper in settings(card):
        for options in OPTIONS if hyper == {} else OPTIONS[3:5]:
            same(card.function, Logits(z), z, p, (z,), {**hyper, **options})


@pytest.mark.parametrize("shape", [(11,), (4, 11), (4, 11, 3), (2, 11, 3, 2), (0, 11), (2, 11, 0)])
def test_given_logits_of_every_shape(shape):
    z = leaf(torch.randn(shape, dtype=torch.float64))
    axis = min(1, z.ndim - 1)
    target = torch.randint(11, shape[:axis] + shape[axis + 1 :])
    if target.ndim and target.numel():
        target.view(-1)[0] = -100
    for options in ({}, {"label_smoothing": 0.1}):
        found, expected = (lossmith.cross_entropy(x, target, **options) for x in (Logits(z), z))
        assert_close(found, expected, 1e-12)
        assert_close(gradients(found, (z,)), gradients(expected, (z,)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_given_logits_in_half_precision(dtype):
    z, target = leaf(torch.randn(40, 300).to(dtype)), torch.arange(40)
    found, expected = (lossmith.cross_entropy(x, target) for x in (Logits(z), z))
    assert found.dtype == torch.float32
    assert_close(found, expected, 1e-6)
    (mine,), (theirs,) = gradients(found, (z,)), gradients(expected, (z,))
    assert mine.dtype == dtype
    assert_close(mine, theirs, 1e-2)


@pytest.mark.parametrize("rows", [(9,), (2, 4), (1,), (0,)])
def test_rows_of_every_shape(rows):
    p = problem(*rows)
    for function in (lossmith.cross_entropy, lossmith.focal_loss):
        same(function, LinearLogits(*p.inputs), dense(p), p, p.inputs, {})


def test_a_row_without_axis():
    p = problem(ignored=False)
    same(lossmith.cross_entropy, LinearLogits(*p.inputs), dense(p), p, p.inputs, {})


@pytest.mark.parametrize("smoothing", [0.2, 1.0])
@pytest.mark.parametrize("weight", [None, WEIGHTS["weight"]])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_label_smoothing_is_torchs(smoothing, weight, reduction):
    """Class weights multiply the smoothing term too; and every class has its share, the masked rows have none."""
    p, options = problem(9, classes=11), {"label_smoothing": smoothing, "weight": weight}
    found = lossmith.cross_entropy(LinearLogits(*p.inputs), p.target, reduction=reduction, **options)
    expected = torch.nn.functional.cross_entropy(dense(p), p.target, reduction=reduction, **options)
    assert_close(found, expected, 1e-12)
    assert_close(gradients(found.sum(), p.inputs), gradients(expected.sum(), p.inputs))


def test_label_smoothing_may_be_learnt():
    p, s = problem(9), leaf(torch.tensor(0.1, dtype=torch.float64))
    same(lossmith.cross_entropy, LinearLogits(*p.inputs), dense(p), p, p.inputs, {"label_smoothing": s})


def test_class_weights_and_sample_weights_may_be_learnt():
    p = problem(9)
    weight, sample_weight = leaf(WEIGHTS["weight"]), leaf(WEIGHTS["sample_weight"])
    for options in ({}, {"label_smoothing": 0.1}):
        both = {"weight": weight, "sample_weight": sample_weight, **options}
        for source in (LinearLogits(*p.inputs), LinearLogits(*p.inputs, schedule="recompute")):
            same(lossmith.cross_entropy, source, dense(p), p, p.inputs, both)
        z = leaf(dense(p))
        same(lossmith.cross_entropy, Logits(z), z, p, (z,), both)


@pytest.mark.parametrize("make", [lambda p: LinearLogits(*p.inputs), lambda p: Logits(leaf(dense(p)))])
@pytest.mark.parametrize("name", ["cross_entropy", "focal_loss", "sum_exponential"])
def test_nothing_kept_gives_zero_with_a_zero_gradient(make, name):
    p = problem(6)
    source = make(p)
    inputs = p.inputs if isinstance(source, LinearLogits) else (source.input,)
    value = getattr(lossmith, name)(source, torch.full((6,), -100))
    assert value == 0
    assert all((g == 0).all() for g in gradients(value, inputs))


def test_micro_batches_add_up():
    p = problem(20)
    total = lossmith.denominator(p.target)
    parts = [
        lossmith.cross_entropy(LinearLogits(h, p.weight, p.bias), y, denominator=total)
        for h, y in zip(p.hidden.split(6), p.target.split(6), strict=True)
    ]
    whole = lossmith.cross_entropy(LinearLogits(*p.inputs), p.target)
    assert_close(sum(parts), whole, 1e-12)
    assert_close(gradients(sum(parts), p.inputs), gradients(whole, p.inputs))


def test_an_objective_as_a_module_takes_the_head():
    p = problem(9)
    found = lossmith.objective("gce", q=0.7)(LinearLogits(*p.inputs), p.target)
    assert_close(found, lossmith.generalized_cross_entropy(dense(p), p.target, q=0.7), 1e-12)


@pytest.mark.untyped
def test_what_the_head_cannot_stand_for_is_refused():
    p = problem(9)
    source = LinearLogits(*p.inputs)
    with pytest.raises(TypeError, match="LinearLogits takes class indices"):
        lossmith.cross_entropy(source, dense(p).softmax(-1))
    with pytest.raises(TypeError, match="brier_loss: input must be a tensor, for it needs every logit of a row; got a LinearLogits"):
        lossmith.brier_loss(source, p.target)
    with pytest.raises(ValueError, match="at least 2 classes; got a LinearLogits of 1"):
        lossmith.cross_entropy(LinearLogits(p.hidden, p.weight[:1]), p.target)
    with pytest.raises(ValueError, match=r"class indices in 0..10 or ignore_index=-100; got 11"):
        lossmith.cross_entropy(source, p.target.clamp_min(0) * 0 + 11)
    assert_close(lossmith.cross_entropy(source, p.target, reduction="none"), -log_prob(dense(p), p.target), 1e-12)
