"""Logits far out, infinite, or not numbers; and rows the model is sure of."""

import mpmath
import pytest
import torch

import lossmith
from lossmith.fused import LinearLogits, Logits, linear_log_prob, linear_stats
from tests.fused.heads import assert_close, class_axis, gradients, leaf, log_prob, problem

INF = float("inf")
SOURCES = {
    "auto": lambda h, w, b: LinearLogits(h, w, b),  # gradients in the forward pass for sums and means
    "recompute": lambda h, w, b: LinearLogits(h, w, b, schedule="recompute"),
    "frozen": lambda h, w, b: LinearLogits(h, w.detach(), b.detach()),
    "given": lambda h, w, b: Logits(h @ w.T + b),
}


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("scale", [3.0, 10.0, 30.0, 1e2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_logits(make, scale, dtype):
    """Losses of 88 and more overflow the exponential relative to the label in float32; logits reach 5e4."""
    p = problem(300, classes=40, scale=scale)
    p = p.to(dtype)
    wide = p.to(torch.float64)
    found = lossmith.cross_entropy(make(*p.inputs), p.target)
    expected = -log_prob(wide.hidden @ wide.weight.T + wide.bias, p.target).sum() / (p.target >= 0).sum()
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    assert found.isfinite()
    assert_close(found.double(), expected, tolerance)
    mine = gradients(found, p.inputs if make is not SOURCES["frozen"] else p.inputs[:1])
    theirs = gradients(expected, wide.inputs)[: len(mine)]
    for a, b in zip(mine, theirs, strict=True):
        assert a.isfinite().all()
        assert_close(a.double(), b, 1e-9 if dtype == torch.float64 else 3e-7 * scale**2)  # the logits' own rounding


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("exponent", [-3, -10, -20, -30])
def test_a_confident_row_keeps_its_digits(make, exponent):
    """Float32, to 1e-5 down to a loss of 1e-30, beside a row whose loss is 1e4. `log_softmax` gives 0 and a gradient of 0."""
    lead = round(-exponent * 2.302585 * 2**16) / 2**16  # exact in float32, so that the logits are
    weight = leaf(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.5]]))
    hidden, bias = leaf(torch.tensor([[lead, 0.0], [-1e4, 0.0]])), leaf(torch.zeros(3))
    found = lossmith.cross_entropy(make(hidden, weight, bias), torch.tensor([0, 0]), reduction="none")
    mpmath.mp.dps = 60
    loss = mpmath.log(1 + 2 * mpmath.exp(-lead))
    torch.testing.assert_close(found[0].item(), float(loss), rtol=1e-5, atol=0)
    slope = gradients(found[0], (hidden,))[0][0]
    p = mpmath.exp(-lead) / (1 + 2 * mpmath.exp(-lead))
    torch.testing.assert_close(slope.tolist(), [float(-2 * p), float(1.5 * p)], rtol=1e-5, atol=0)


@pytest.mark.parametrize("exponent", [-10, -30])
def test_the_gradient_of_a_confident_mean_keeps_its_digits(exponent):
    """The same in the 3-product schedule, in hidden states and head."""
    lead = round(-exponent * 2.302585 * 2**16) / 2**16
    weight, hidden = leaf(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.5]])), leaf(torch.tensor([[lead, 0.0]]))
    loss = lossmith.cross_entropy(LinearLogits(hidden, weight, schedule="forward"), torch.tensor([0]))
    p = float(mpmath.exp(-lead) / (1 + 2 * mpmath.exp(-lead)))
    of_hidden, of_weight = gradients(loss, (hidden, weight))
    torch.testing.assert_close(of_hidden[0].tolist(), [-2 * p, 1.5 * p], rtol=1e-5, atol=0)
    torch.testing.assert_close(of_weight[:, 0].tolist(), [-2 * p * lead, p * lead, p * lead], rtol=1e-5, atol=0)


def test_the_entropy_of_a_confident_row_keeps_its_digits():
    lead = 60.0
    weight, hidden = torch.tensor([[1.0], [0.0]]), torch.tensor([[lead]])
    found = linear_stats(hidden, weight, torch.tensor([0]), want=("log_prob", "entropy")).entropy
    q = mpmath.exp(-lead) / (1 + mpmath.exp(-lead))
    torch.testing.assert_close(found.item(), float(-q * mpmath.log(q) - (1 - q) * mpmath.log(1 - q)), rtol=1e-5, atol=0)


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("masked", ["another class", "the label's class", "every class", "every other class"])
def test_classes_masked_by_a_bias_of_minus_infinity(make, masked):
    p = problem(7, classes=5, ignored=False)
    label = p.target[0].item()
    others = torch.arange(5) != label
    at = {
        "another class": torch.arange(5) == (label + 1) % 5,
        "the label's class": ~others,
        "every class": others | ~others,
        "every other class": others,
    }[masked]
    bias = leaf(torch.where(at, -INF, p.bias))
    z = p.hidden @ p.weight.T + bias
    for reduction in ("none", "sum"):
        found = lossmith.cross_entropy(make(p.hidden, p.weight, bias), p.target, reduction=reduction)
        expected = lossmith.cross_entropy(class_axis(z), p.target, reduction=reduction)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12, equal_nan=True)
    if masked != "every class":
        keep = torch.isfinite(-log_prob(z, p.target)) | (p.target == label)
        weight = keep.double()
        found = lossmith.cross_entropy(make(p.hidden, p.weight, bias), p.target, sample_weight=weight, reduction="sum")
        (mine,) = gradients(found, (p.hidden,))
        # e_y - p, by hand: differentiating log_softmax at -inf is not what is in question
        slope = (z.softmax(-1) - torch.eye(5, dtype=torch.float64)[p.target]) * weight[:, None]
        assert_close(mine, slope.detach() @ p.weight.detach())


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("bad", [INF, float("nan")])
def test_infinity_and_nan_reach_the_loss(make, bad):
    p = problem(7, classes=5, ignored=False)
    hidden = leaf(torch.where(torch.arange(7)[:, None] == 2, bad, p.hidden))
    found = lossmith.cross_entropy(make(hidden, p.weight, p.bias), p.target, reduction="none")
    assert found[2].isnan()
    assert found[torch.arange(7) != 2].isfinite().all()


def test_a_row_far_out_does_not_disturb_its_block():
    """The rows beside one that is done again come out as without it, to the last bit."""
    p = problem(20, classes=30, ignored=False).to(torch.float32)
    far = leaf(p.hidden * torch.where(torch.arange(20) == 3, 1e4, 1.0)[:, None])
    others = torch.arange(20) != 3
    value, beside = (linear_log_prob(h, p.weight, p.target, p.bias) for h in (p.hidden, far))
    assert torch.equal(value[others], beside[others])
    (mine,), (theirs,) = (gradients(v[others].sum(), (h,)) for v, h in ((value, p.hidden), (beside, far)))
    assert torch.equal(mine[others], theirs[others])


def test_statistics_without_a_label_far_out():
    """The reference is the largest logit of the first tile; here every other tile holds more."""
    p = problem(6, classes=2100)
    bias = leaf(p.bias + torch.linspace(0, 2000, 2100, dtype=torch.float64))
    found = linear_stats(p.hidden, p.weight, bias=bias, want=("logsumexp", "entropy"))
    z = p.hidden @ p.weight.T + bias
    assert_close(found.logsumexp, z.logsumexp(-1), 1e-12)
    entropy = torch.distributions.Categorical(logits=z).entropy()
    assert_close(found.entropy, entropy, 1e-10)
    assert_close(gradients(found.entropy.sum(), (p.hidden,)), gradients(entropy.sum(), (p.hidden,)))


@pytest.mark.parametrize("target", [None, torch.tensor([0, 1, 2, 0, 1, 2])])
def test_statistics_where_classes_are_masked(target):
    """A class at -inf has no part in the entropy, and none in a mean that gives it no weight."""
    p = problem(6, classes=600, ignored=False)
    masked = torch.arange(600) >= 400
    bias = leaf(torch.where(masked, -INF, p.bias))
    want, v = ("logsumexp", "entropy", "mean_logit"), torch.where(masked, 0.0, 1 / 400).double()
    found = linear_stats(p.hidden, p.weight, target, bias, want=want, class_weight=v)
    expected = linear_stats(p.hidden, p.weight[:400], target, p.bias[:400], want=want)
    for name in want:
        assert_close(getattr(found, name), getattr(expected, name), 1e-7)  # 1/400 came from float32
    mine, theirs = (gradients((s.entropy + s.logsumexp).sum(), (p.hidden, p.weight)) for s in (found, expected))
    assert_close(mine, theirs)


def test_a_label_that_is_masked_has_no_part_in_the_entropy():
    p = problem(6, classes=5, ignored=False)
    bias, target = leaf(torch.where(torch.arange(5) == 2, -INF, p.bias)), torch.full((6,), 2)
    found = linear_stats(p.hidden, p.weight, target, bias, want=("log_prob", "entropy"))
    assert (found.log_prob == -INF).all()
    entropy = torch.distributions.Categorical(logits=p.hidden @ p.weight[[0, 1, 3, 4]].T + p.bias[[0, 1, 3, 4]]).entropy()
    assert_close(found.entropy, entropy, 1e-12)
    assert_close(gradients(found.entropy.sum(), (p.hidden, p.weight)), gradients(entropy.sum(), (p.hidden, p.weight)))


def test_objectives_that_grow_exponentially():
    p = problem(30, classes=8, scale=2.0)
    z = p.hidden @ p.weight.T + p.bias
    found, expected = (lossmith.sum_exponential(x, p.target) for x in (LinearLogits(*p.inputs), z))
    assert_close(found, expected, 1e-10)
    assert_close(gradients(found, p.inputs), gradients(expected, p.inputs))


@pytest.mark.parametrize("schedule", ["auto", "recompute"])
def test_a_softcap_lifts_a_masked_class(schedule):
    """By the formula, tanh(-inf) = -1: such a class is as any whose logit is far below, and has no gradient before the cap."""
    p = problem(7, classes=5, ignored=False)
    bias = leaf(torch.where(torch.arange(5) == 3, -float("inf"), p.bias.detach()))
    z = 2 * torch.tanh((p.hidden @ p.weight.T + bias) / 2)
    source = LinearLogits(p.hidden, p.weight, bias, softcap=2.0, schedule=schedule)
    found, expected = (lossmith.focal_loss(x, p.target) for x in (source, z))
    assert_close(found, expected, 1e-12)
    assert_close(gradients(found, (p.hidden, p.weight, bias)), gradients(expected, (p.hidden, p.weight, bias)))


@pytest.mark.parametrize("schedule", ["auto", "recompute"])
@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("loss", [lossmith.cross_entropy, lossmith.focal_loss])
def test_temperature_and_softcap_are_learnt_where_classes_are_masked(schedule, cap, loss):
    """First and second derivatives, without the inf * 0 that dividing a bias of -inf would give them."""
    p = problem(7, classes=5, ignored=False)
    masked = torch.arange(5) == 3
    bias, target = leaf(torch.where(masked, -INF, p.bias)), torch.tensor([0, 1, 2, 4, 0, 1, 2])
    t, s = (None if x is None else leaf(torch.tensor(x, dtype=torch.float64)) for x in (1.3, cap))
    inputs = (p.hidden, p.weight, bias, t) if s is None else (p.hidden, p.weight, bias, t, s)
    u = p.hidden @ p.weight.T + torch.where(masked, 0, bias)
    z = torch.where(masked, -INF, u / t) if s is None else torch.where(masked, -s, s * torch.tanh(u / s)) / t
    source = LinearLogits(p.hidden, p.weight, bias, temperature=t, softcap=s, schedule=schedule)
    slopes = [gradients(loss(x, target), inputs, create_graph=True) for x in (source, z)]
    assert_close(*slopes)
    assert_close(*(gradients(sum(g.sin().sum() for g in each), inputs) for each in slopes))


def test_the_logit_of_a_masked_class_under_a_learnt_softcap():
    p = problem(4, classes=5, ignored=False)
    bias, s = leaf(torch.where(torch.arange(5) == 3, -INF, p.bias)), leaf(torch.tensor(2.0, dtype=torch.float64))
    found = linear_stats(p.hidden, p.weight, bias=bias, want=(), at=torch.full((4, 1), 3), softcap=s).logits_at
    assert (found == -2).all()
    assert gradients(found.sum(), (s,))[0] == -4


OF_ROWS = {
    "a sum": lambda source, other, y: lossmith.cross_entropy(source, y),
    "rows": lambda source, other, y: lossmith.focal_loss(source, y),
    "statistics": lambda source, other, y: lossmith.cross_entropy(source, y, label_smoothing=0.1),
    "moments": lambda source, other, y: lossmith.zscore_loss(source, y),
    "logits": lambda source, other, y: source.logits_at(y.clamp_min(0).unsqueeze(1), y >= 0).square().sum(),
    "two heads": lambda source, other, y: lossmith.divergence_distillation(source, other, sample_weight=(y >= 0).double()),
}


@pytest.mark.parametrize("name", OF_ROWS)
@pytest.mark.parametrize("garbage", [INF, float("nan")])
def test_the_temperatures_gradient_knows_no_ignored_row(name, garbage):
    """By which its hidden states are divided too: first and second derivatives, to the bit."""
    p = problem(9, classes=5)
    keep, found = (p.target >= 0).unsqueeze(1), []
    for hidden in (p.hidden, torch.where(keep, p.hidden, garbage)):
        h, t = leaf(hidden), leaf(torch.tensor(1.3, dtype=torch.float64))
        inputs = (h, p.weight, p.bias, t)
        sides = LinearLogits(h, p.weight, p.bias, temperature=t), LinearLogits(h, p.weight.cos(), temperature=t)
        slopes = gradients(OF_ROWS[name](*sides, p.target), inputs, create_graph=True)
        found.append((*slopes, *gradients(sum(slope.sin().sum() for slope in slopes), inputs)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
