"""Torch's shapes, masks, weights and reductions against plain loops and against torch itself."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import lossmith
from lossmith import cross_entropy, generalized_cross_entropy

SHAPES = [(5,), (4, 5), (4, 5, 3), (2, 5, 3, 2)]


def problem(shape, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    axis = 0 if len(shape) == 1 else 1
    rows = shape[:axis] + shape[axis + 1 :]
    input = 3 * torch.randn(shape, generator=g, dtype=dtype)
    target = torch.randint(0, shape[axis], rows, generator=g)
    soft = torch.softmax(torch.randn(shape, generator=g, dtype=dtype), axis)
    return input, target, soft, torch.rand(shape[axis], generator=g, dtype=dtype) + 0.1, torch.rand(rows, generator=g, dtype=dtype) + 0.1


def by_loop(input, target, q, weight, sample_weight):
    """The weighted mean of (1 - p^q) / q, a row at a time in Python floats; `target` class indices, -100 ignored."""
    axis = 0 if input.ndim == 1 else 1
    rows = input.movedim(axis, -1).reshape(-1, input.shape[axis]).tolist()
    total = count = 0.0
    for z, y, s in zip(rows, target.reshape(-1).tolist(), sample_weight.reshape(-1).tolist(), strict=True):
        if y == -100:
            continue
        p = math.exp(z[y]) / sum(map(math.exp, z))
        w = weight[y].item() * s
        total, count = total + w * (1 - p**q) / q, count + w
    return total / count


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_equals_a_plain_loop(shape):
    input, target, _, weight, sample_weight = problem(shape)
    if target.numel() > 1:
        target.view(-1)[1] = -100
    ours = generalized_cross_entropy(input, target, q=0.4, weight=weight, sample_weight=sample_weight)
    assert ours.item() == pytest.approx(by_loop(input, target, 0.4, weight, sample_weight), rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cross_entropy_is_torchs_bit_for_bit(shape, weighted, kind, smoothing, dtype):
    for seed in range(3):
        input, target, soft, weight, _ = problem(shape, seed, dtype)
        if kind == "hard" and target.numel() > 2:
            target.view(-1)[2] = -100
        options = {"label_smoothing": smoothing, "weight": weight if weighted else None}
        goal = soft if kind == "soft" else target
        theirs = F.cross_entropy(input, goal, reduction="none", **options)
        assert torch.equal(cross_entropy(input, goal, reduction="none", **options), theirs)
        for reduction in ("mean", "sum"):
            value = cross_entropy(input, goal, reduction=reduction, **options)
            torch.testing.assert_close(
                value, F.cross_entropy(input, goal, reduction=reduction, **options), rtol=4 * torch.finfo(dtype).eps, atol=0
            )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_with_gradients_in_its_own_dtype(dtype):
    input, target, _, _, _ = problem((6, 5), dtype=torch.float32)
    half = input.to(dtype).requires_grad_()
    loss = cross_entropy(half, target, reduction="none")
    assert torch.equal(loss, F.cross_entropy(half.float(), target, reduction="none"))
    loss.sum().backward()
    assert half.grad is not None
    assert half.grad.dtype == dtype


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("by", ["index", "sample_weight", "soft"])
def test_what_masked_rows_hold_changes_nothing(garbage, by):
    input, target, soft, weight, sample_weight = problem((6, 5))
    bad = input.clone()
    bad[2] = garbage
    options = {"weight": weight}
    if by == "index":
        goal = target.clone()
        goal[2] = -100
    else:
        sample_weight = sample_weight.clone()
        sample_weight[2] = 0
        goal, options["sample_weight"] = (soft.clone() if by == "soft" else target), sample_weight
        if by == "soft":
            goal[2] = garbage
    keep = torch.tensor([0, 1, 3, 4, 5])
    values, gradients = [], []
    for x in (input, bad):
        x = x.clone().requires_grad_()
        value = generalized_cross_entropy(x, torch.where(goal.isfinite(), goal, soft) if x is input and by == "soft" else goal, **options)
        (gradient,) = torch.autograd.grad(value, x, create_graph=True)
        (second,) = torch.autograd.grad(gradient.square().sum(), x)
        values.append(value.detach())
        gradients.append(gradient.detach())
        assert second.isfinite().all()
    assert torch.equal(values[0], values[1])
    assert torch.equal(gradients[0], gradients[1])
    assert (gradients[0][2] == 0).all()
    fewer = {name: option[keep] if name == "sample_weight" else option for name, option in options.items()}
    torch.testing.assert_close(values[0], generalized_cross_entropy(input[keep], goal[keep], **fewer), rtol=1e-14, atol=0)


def test_soft_targets_are_the_expectation_over_labels():
    input, _, soft, weight, _ = problem((6, 5))
    each = torch.stack([generalized_cross_entropy(input, torch.full((6,), k), reduction="none") for k in range(5)], 1)
    torch.testing.assert_close(
        generalized_cross_entropy(input, soft, weight=weight, reduction="none"), (soft * weight * each).sum(1), rtol=1e-13, atol=0
    )


def test_a_class_that_is_ruled_out_costs_nothing_where_it_has_no_probability():
    input = torch.tensor([[1.0, -math.inf, 0.0]], requires_grad=True)
    value = cross_entropy(input, torch.tensor([[0.25, 0.0, 0.75]]))
    value.backward()
    assert value.item() == pytest.approx(0.25 * math.log1p(math.exp(-1)) + 0.75 * (math.log1p(math.exp(-1)) + 1), rel=1e-6)
    assert input.grad is not None
    assert input.grad.isfinite().all()


@pytest.mark.parametrize("nothing", ["ignored", "empty", "weightless"])
def test_the_mean_of_nothing_is_zero_with_zero_gradient(nothing):
    input = torch.full((0 if nothing == "empty" else 3, 4), math.nan if nothing == "ignored" else 1.0, requires_grad=True)
    target = torch.full((len(input),), -100 if nothing == "ignored" else 1)
    weight = torch.tensor([1.0, 0, 1, 1]) if nothing == "weightless" else None
    loss = cross_entropy(input, target, weight=weight)
    loss.backward()
    assert loss.item() == 0
    assert input.grad is not None
    assert (input.grad == 0).all()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_split_into_micro_batches_sums_to_the_whole(data):
    n = data.draw(st.integers(1, 9))
    input, target, _, weight, sample_weight = problem((n, 4), seed=data.draw(st.integers(0, 99)))
    target[torch.tensor(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))] = -100
    cut = data.draw(st.integers(0, n))
    options = {"weight": weight} if data.draw(st.booleans()) else {}
    total = lossmith.denominator(target, sample_weight=sample_weight, **options)
    total = total if total > 0 else 1.0
    whole = cross_entropy(input, target, sample_weight=sample_weight, **options)
    parts = [
        cross_entropy(input[s], target[s], sample_weight=sample_weight[s], denominator=total, **options)
        for s in (slice(0, cut), slice(cut, n))
    ]
    torch.testing.assert_close(sum(parts), whole, rtol=1e-12, atol=1e-15)


def test_the_denominator_of_soft_targets_is_the_number_of_kept_rows():
    _, _, soft, weight, sample_weight = problem((4, 5, 3))
    assert lossmith.denominator(soft, weight=weight).item() == 12
    assert lossmith.denominator(soft, sample_weight=sample_weight).item() == pytest.approx(sample_weight.sum().item())
    input = torch.randn(4, 5, 3, dtype=torch.float64)
    given_ = cross_entropy(input, soft, weight=weight, denominator=lossmith.denominator(soft))
    torch.testing.assert_close(given_, F.cross_entropy(input, soft, weight=weight))


def test_weights_may_be_learnt_through_the_mean():
    input, target, _, _, sample_weight = problem((6, 5))
    sample_weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: cross_entropy(input, target, sample_weight=s), sample_weight)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64])
def test_any_integer_dtype_serves_as_target(dtype):
    input, target, _, _, _ = problem((6, 5))
    assert torch.equal(cross_entropy(input, target.to(dtype)), cross_entropy(input, target))


class Given:
    """A source of logits that only tells the target's log-probability."""

    def __init__(self, logits):
        self.logits = logits
        self.rows, self.classes = logits.shape[:-1], logits.shape[-1]

    def target_log_prob(self, target, keep):
        return torch.where(keep, -F.cross_entropy(self.logits, target, reduction="none"), 0)


def test_a_source_of_logits_takes_the_place_of_logits():
    input, target, soft, weight, sample_weight = problem((6, 5))
    target[3] = -100
    for options in ({}, {"weight": weight, "sample_weight": sample_weight}, {"reduction": "none"}):
        ours = generalized_cross_entropy(Given(input), target, q=0.3, **options)
        torch.testing.assert_close(ours, generalized_cross_entropy(input, target, q=0.3, **options), rtol=1e-12, atol=0)
    with pytest.raises(TypeError, match="Given takes class indices"):
        generalized_cross_entropy(Given(input), soft)
    with pytest.raises(TypeError, match="no label smoothing"):
        cross_entropy(Given(input), target, label_smoothing=0.1)


X, Y = torch.zeros(3, 4), torch.tensor([0, 1, 2])
MISTAKES = [
    (lambda: cross_entropy(X.long(), Y), TypeError, r"input must be a floating-point tensor of logits; got int64 \(3, 4\)"),
    (lambda: cross_entropy(torch.tensor(1.0), Y), ValueError, r"input must have shape \(c,\), \(n, c\) or \(n, c, \*d\)"),
    (lambda: cross_entropy(torch.zeros(3, 1), Y), ValueError, "use lossmith.binary_cross_entropy"),
    (lambda: cross_entropy(X, [0, 1, 2]), TypeError, "target must be integer class indices or class probabilities; got list"),
    (lambda: cross_entropy(X, Y > 0), TypeError, "target must be integer class indices"),
    (lambda: cross_entropy(X, Y[:2]), ValueError, r"target must have shape \(3,\), the input's without the classes; got int64 \(2,\)"),
    (lambda: cross_entropy(X, Y.float()), ValueError, r"must have the input's shape \(3, 4\); got float32 \(3,\)"),
    (lambda: cross_entropy(X, Y + 2), ValueError, r"class indices in 0..3 or ignore_index=-100; got 4"),
    (lambda: cross_entropy(X, Y - 1), ValueError, "got -1"),
    (lambda: cross_entropy(X, Y, reduction="avg"), ValueError, "reduction must be 'none', 'mean' or 'sum'; got 'avg'"),
    (lambda: cross_entropy(X, Y, reduction="sum", denominator=3), ValueError, "denominator goes with reduction='mean'"),
    (lambda: cross_entropy(X, Y, weigth=None), TypeError, "no option 'weigth'; did you mean 'weight'"),
    (lambda: cross_entropy(X, Y, weight=torch.ones(3)), ValueError, r"weight must have shape \(4,\); got float32 \(3,\)"),
    (lambda: cross_entropy(X, Y, sample_weight=torch.ones(4)), ValueError, r"sample_weight must have shape \(3,\)"),
    (lambda: cross_entropy(X, X.softmax(1), ignore_index=0), ValueError, "ignore_index has no meaning with class probabilities"),
    (lambda: generalized_cross_entropy(X, Y, q=1.5), ValueError, r"generalized_cross_entropy: q must be in \(0, 1\]; got 1.5"),
    (lambda: generalized_cross_entropy(X, Y, q="a"), TypeError, "q must be a number or a 0-d tensor"),
]


@pytest.mark.parametrize(("call", "error", "message"), MISTAKES)
@pytest.mark.untyped
def test_a_mistake_gets_one_line_that_names_the_argument(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cross_entropy(X, torch.full((3, 4), 0.5)), "sum to 1 over the classes; got a row that sums to 2"),
        (lambda: cross_entropy(X, torch.tensor([[2.0, -1, 0, 0]] * 3)), "got an entry of -1"),
        (lambda: cross_entropy(X, Y, weight=torch.tensor([1.0, -1, 1, 1])), "weight must not be negative; its smallest entry is -1"),
        (lambda: generalized_cross_entropy(X, Y, q=torch.tensor(1.5)), r"q must be in \(0, 1\]; got 1.5"),
    ],
)
def test_values_are_checked_when_asked(call, message):
    call()  # unasked, nothing is said
    with lossmith.validate(True), pytest.raises(ValueError, match=message):
        call()
    call()
