"""What an estimate says of itself, against the textbook's formulas and repeated sampling."""

import copy
import math
import pickle

import pytest
import torch

import lossmith
from lossmith import Estimate

ASSUMED = "independent samples"
X = torch.tensor([0.3, 1.2, -0.4, 2.2, 0.9], dtype=torch.float64)
W = torch.tensor([1.0, 2.0, 0.5, 0.1, 3.0], dtype=torch.float64)


def test_a_plain_mean_and_its_error():
    estimate = Estimate.of_mean(X, assumption=ASSUMED)
    assert estimate.value.item() == pytest.approx(0.84, rel=1e-14)
    assert estimate.standard_error is not None
    assert estimate.standard_error.item() == pytest.approx(X.std().item() / math.sqrt(5), rel=1e-12)
    assert (estimate.n, estimate.effective_n, estimate.kind, estimate.assumption) == (5, 5.0, "estimate", ASSUMED)
    low, high = estimate.interval(0.95)
    assert high.item() - estimate.value.item() == pytest.approx(1.959963984540054 * estimate.standard_error.item(), rel=1e-12)
    assert low + high == pytest.approx(2 * estimate.value.item(), rel=1e-12)
    assert float(estimate) == estimate.value.item()


def test_weights_normalise_themselves():
    estimate = Estimate.of_mean(X, W, assumption=ASSUMED)
    mean = (W * X).sum() / W.sum()
    assert estimate.value.item() == pytest.approx(mean.item(), rel=1e-13)
    assert float(estimate.effective_n) == pytest.approx((W.sum() ** 2 / W.square().sum()).item(), rel=1e-13)
    assert estimate.standard_error is not None
    wanted = (5 / 4 * (W.square() * (X - mean).square()).sum()).sqrt() / W.sum()
    assert estimate.standard_error.item() == pytest.approx(wanted.item(), rel=1e-12)
    equal = Estimate.of_mean(X, torch.full_like(X, 0.7), assumption=ASSUMED)
    plain = Estimate.of_mean(X, assumption=ASSUMED)
    for one, other in ((equal.value, plain.value), (equal.standard_error, plain.standard_error)):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=0)
    assert float(equal.effective_n) == pytest.approx(5, rel=1e-13)


def test_a_sum_of_means():
    """Of independent samples of different sizes: the means add up, and so do their variances."""
    y = torch.tensor([1.0, 4.0, -2.0], dtype=torch.float64)
    estimate = Estimate.of_means(X, -y, assumption=ASSUMED)
    assert estimate.value.item() == pytest.approx(X.mean().item() - y.mean().item(), rel=1e-13)
    assert estimate.standard_error is not None
    assert estimate.standard_error.item() == pytest.approx(math.sqrt(X.var().item() / 5 + y.var().item() / 3), rel=1e-13)
    assert (estimate.n, estimate.effective_n) == (8, 8.0)
    assert Estimate.of_means(X, y[:1], assumption=ASSUMED).standard_error is None
    with pytest.raises(ValueError, match=r"every sample must have at least one term along the first axis; got float64 \(0,\)"):
        Estimate.of_means(X, y[:0], assumption=ASSUMED)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_interval_covers_as_often_as_it_says(weighted):
    """2000 estimates of a mean of 1 from 400 samples each; the share of intervals that hold it is 0.9 within 4.5 standard errors."""
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(400, 2000, dtype=torch.float64, generator=generator)
    terms = -torch.log(u)  # exponential, mean 1
    weights = 0.5 + torch.rand(400, 2000, dtype=torch.float64, generator=generator) if weighted else None
    low, high = Estimate.of_mean(terms, weights, assumption=ASSUMED).interval(0.9)
    share = ((low < 1) & (1 < high)).double().mean().item()
    assert abs(share - 0.9) < 4.5 * math.sqrt(0.09 / 2000)


def test_a_batch_is_each_alone():
    terms = torch.randn(50, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weights = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    whole = Estimate.of_mean(terms, weights, assumption=ASSUMED)
    assert whole.value.shape == (2, 3)
    one = Estimate.of_mean(terms[:, 1, 2], weights, assumption=ASSUMED)
    assert whole.standard_error is not None
    assert one.standard_error is not None
    assert whole.value[1, 2].item() == pytest.approx(one.value.item(), rel=1e-13)
    assert whole.standard_error[1, 2].item() == pytest.approx(one.standard_error.item(), rel=1e-13)


def test_the_value_keeps_its_gradient_and_nothing_else_has_one():
    x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
    estimate = Estimate.of_mean(x, w, assumption=ASSUMED)
    gradient = torch.autograd.grad(estimate.value, x, retain_graph=True)[0]
    torch.testing.assert_close(gradient, (w / w.sum()).detach())
    (gradient,) = torch.autograd.grad(estimate.value, w)
    torch.testing.assert_close(gradient, ((x - estimate.value) / w.sum()).detach())
    assert estimate.standard_error is not None
    assert isinstance(estimate.effective_n, torch.Tensor)
    assert not estimate.standard_error.requires_grad
    assert not estimate.effective_n.requires_grad


def test_warnings():
    calm = torch.randn(100, generator=torch.Generator().manual_seed(3))
    assert Estimate.of_mean(calm, assumption=ASSUMED).warning is None
    warned = {
        "few samples: as good as 5": Estimate.of_mean(X, assumption=ASSUMED),
        "few samples: as good as 1": Estimate.of_mean(X[:1], assumption=ASSUMED),
        "a few samples carry it: the 100 are as good as 1": Estimate.of_mean(calm, torch.eye(100)[0] + 1e-6, assumption=ASSUMED),
        "not a number": Estimate.of_mean(torch.cat([calm, torch.tensor([math.nan])]), assumption=ASSUMED),
        "infinite": Estimate.of_mean(torch.cat([calm, torch.tensor([math.inf])]), assumption=ASSUMED),
        "one term makes most of the variance": Estimate.of_mean(torch.cat([calm, torch.tensor([1e3])]), assumption=ASSUMED),
        "saturated": Estimate.of_mean(calm, assumption=ASSUMED, warning="saturated at log n"),
    }
    for text, estimate in warned.items():
        assert estimate.warning is not None
        assert text in estimate.warning
        assert f"(warning: {estimate.warning})" in repr(estimate)


def test_a_repr_reads_like_a_sentence():
    value, error = torch.tensor(0.44312), torch.tensor(0.0123)
    one = Estimate(value, n=1000, assumption="independent samples from q", standard_error=error, effective_n=200.0)
    assert repr(one) == "about 0.4431 ± 0.0123 nats: an estimate from n = 1000 (as good as 200), assuming independent samples from q"
    bound = Estimate(value, n=50, assumption="x", kind="upper bound")
    assert repr(bound) == "at most 0.4431 nats: an upper bound from n = 50, assuming x"
    pair = Estimate(torch.tensor([1.0, 2.0]), n=50, assumption="x", standard_error=torch.tensor([0.1, 0.25]))
    assert "[1.000 ± 0.100, 2.000 ± 0.250] nats" in repr(pair)
    many = Estimate(torch.arange(6.0).reshape(2, 3), n=50, assumption="x")
    assert "0 to 5 (a batch of (2, 3)) nats" in repr(many)
    assert "± " not in repr(Estimate.of_mean(torch.ones(40), assumption="x"))
    for empty in (torch.zeros(40, 0), torch.zeros(1, 0)):
        assert "[] nats" in repr(Estimate.of_mean(empty, torch.ones(empty.shape[0]), assumption="x"))


def test_an_estimate_does_not_change_and_can_be_kept():
    estimate = Estimate.of_mean(X, assumption=ASSUMED)
    with pytest.raises(AttributeError, match="value cannot be set"):
        estimate.value = X
    for twin in (copy.deepcopy(estimate), pickle.loads(pickle.dumps(estimate))):
        assert repr(twin) == repr(estimate)
    assert lossmith.Estimate is Estimate
    assert "Estimate" in dir(lossmith)


@pytest.mark.untyped
def test_mistakes_are_named():
    with pytest.raises(ValueError, match="kind must be one of 'estimate', 'lower bound', 'upper bound'; got 'bound'"):
        Estimate.of_mean(X, assumption=ASSUMED, kind="bound")  # pyrefly: ignore
    with pytest.raises(ValueError, match=r"at least one term along the first axis; got float32 \(0, 2\)"):
        Estimate.of_mean(torch.zeros(0, 2), assumption=ASSUMED)
    for of in (Estimate.of_mean, Estimate.of_means):
        with pytest.raises(TypeError, match=r"must be a floating-point tensor of shape \(n, \*batch\); got int64 \(3,\)"):
            of(torch.arange(3), assumption=ASSUMED)  # pyrefly: ignore
    with pytest.raises(ValueError, match=r"weights must have shape \(5,\) or \(5,\); got \(4,\)"):
        Estimate.of_mean(X, W[:4], assumption=ASSUMED)
    with pytest.raises(ValueError, match="has no standard error"):
        Estimate.of_mean(X[:1], assumption=ASSUMED).interval()
    with pytest.raises(ValueError, match="level must be between 0 and 1; got 95"):
        Estimate.of_mean(X, assumption=ASSUMED).interval(95)


@pytest.mark.parametrize("removed", [math.inf, -math.inf, math.nan])
def test_a_weight_of_zero_removes_a_term(removed):
    terms = torch.cat([X, X.new_tensor([removed])]).requires_grad_()
    got, wanted = Estimate.of_mean(terms, torch.cat([W, W.new_zeros(1)]), assumption=ASSUMED), Estimate.of_mean(X, W, assumption=ASSUMED)
    assert got.value.item() == pytest.approx(wanted.value.item(), rel=1e-12)
    n = len(X)
    assert got.standard_error.item() == pytest.approx(wanted.standard_error.item() * ((n + 1) / n * (n - 1) / n) ** 0.5, rel=1e-12)
    assert torch.autograd.grad(got.value, terms)[0][-1] == 0


@pytest.mark.parametrize("weights", [None, torch.ones(3)])
def test_an_infinite_value_is_infinitely_unsure(weights):
    estimate = Estimate.of_mean(torch.tensor([1.0, 2.0, math.inf]), weights, assumption=ASSUMED)
    assert estimate.value.isposinf()
    assert estimate.standard_error.isposinf()


def test_under_vmap():
    terms = torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    values = torch.vmap(lambda t: Estimate.of_mean(t, assumption=ASSUMED).value, in_dims=1)(terms)
    torch.testing.assert_close(values, terms.mean(0))


@pytest.mark.compile
def test_compiled_in_one_graph():
    torch._dynamo.reset()

    def value(x, w):
        return Estimate.of_mean(x.square(), w, assumption=ASSUMED).value

    compiled = torch.compile(value, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(X, W), value(X, W))
