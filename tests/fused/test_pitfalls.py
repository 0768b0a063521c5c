"""What rounding must not do to statistics whose range is known, however they are computed."""

import math

import pytest
import torch

import lossmith
from lossmith.fused import LinearLogits, linear_log_prob, linear_stats, pages
from lossmith.fused.tiles import Reference, raised
from tests.fused.heads import assert_close, dense, gradients, leaf, log_prob, problem


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_no_probability_is_above_one(dtype, scale):
    """The label's logit comes of another sum than those that it is compared with: counted among them, rounding could show."""
    p = problem(300, width=33, classes=1100, scale=scale, ignored=False)
    hidden, weight = p.hidden.to(dtype), p.weight.to(dtype)
    likeliest = (hidden.float() @ weight.float().T).argmax(1)
    for label in (p.target, likeliest):
        log_p = linear_log_prob(hidden, weight, label)
        assert log_p.isfinite().all()
        assert (log_p <= 0).all()
    entropy = linear_stats(hidden, weight, want=("entropy",)).entropy
    assert (entropy >= -1e-5).all()  # logits of 50 are rounded to 4e-6
    assert (entropy <= math.log(1100) * (1 + 1e-6)).all()


@pytest.mark.parametrize("schedule", ["forward", "recompute"])
def test_classes_with_the_same_weights_share_alike(schedule):
    """Two classes alike, far above the others: a probability of 1/2 each, and nothing that draws a row from one to the other."""
    g = torch.Generator().manual_seed(0)
    hidden = leaf(torch.randn(300, 64, generator=g).abs())
    weight = torch.full((700, 64), -3.0)
    weight[[3, 650]] = torch.rand(64, generator=g)
    weight, label = leaf(weight), torch.tensor([3, 650]).repeat(150)
    source = LinearLogits(hidden, weight, schedule=schedule)
    total = source.weighted_log_prob(label, label >= 0, torch.ones(300))
    torch.testing.assert_close(total, torch.tensor(-300 * math.log(2)), rtol=1e-6, atol=0)
    by_hidden, by_weight = torch.autograd.grad(total, (hidden, weight))
    assert by_hidden.abs().max() < 1e-5
    torch.testing.assert_close(by_weight[3], -by_weight[650], rtol=1e-4, atol=1e-4)  # what one gains, the other loses
    assert by_weight[[0, 1, 2, 400]].abs().max() == 0


@pytest.fixture
def unwritten(monkeypatch):
    """Large buffers, the head's gradient among them, begin with what was there before: here with NaN."""
    room = pages.empty
    monkeypatch.setattr(pages, "empty", lambda *shape, like: room(*shape, like=like).fill_(math.nan))


@pytest.mark.parametrize("schedule", ["forward", "recompute"])
@pytest.mark.parametrize("ignored", [False, True])
def test_memory_that_was_not_written_is_not_read(unwritten, schedule, ignored):
    """700 rows are three blocks, of which the first writes the head's gradient and the others add to it."""
    p = problem(700, classes=600, ignored=ignored)
    other = problem(700, classes=600, seed=1)

    def of(p):
        return lossmith.cross_entropy(LinearLogits(*p.inputs, schedule=schedule), p.target)

    assert_close(gradients(of(p), p.inputs), gradients(-log_prob(dense(p), p.target).sum() / (p.target >= 0).sum(), p.inputs))
    sides = LinearLogits(*p.inputs, schedule=schedule), LinearLogits(*other.inputs)
    value = lossmith.divergence_distillation(*sides, sample_weight=(p.target >= 0).double())
    assert all(g.isfinite().all() for g in gradients(value, (*p.inputs, *other.inputs)))
    nothing = lossmith.cross_entropy(LinearLogits(*p.inputs, schedule=schedule), torch.full_like(p.target, -100))
    assert all((g == 0).all() for g in gradients(nothing, p.inputs))


@pytest.mark.parametrize("schedule", ["forward", "recompute"])
def test_the_head_as_its_own_hidden_states(unwritten, schedule):
    """One tensor on both sides: rows that are ignored keep a gradient of 0 of their own, whatever the head's is."""
    weight = leaf(torch.randn(40, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    target = torch.where(torch.arange(40) % 3 == 0, -100, torch.arange(40))
    found = lossmith.cross_entropy(LinearLogits(weight, weight, schedule=schedule), target, reduction="sum")
    assert_close(gradients(found, (weight,)), gradients(-log_prob(weight @ weight.T, target).sum(), (weight,)))


def test_large_buffers_without_large_pages(monkeypatch):
    """Where a system has no such pages, or no such call, the memory is the same."""
    monkeypatch.setattr(pages, "_advise", lambda: None)
    assert pages.zeros(2048, 2048, like=torch.empty(0)).sum() == 0
    refused = []
    monkeypatch.setattr(pages, "_advise", lambda: lambda *call: refused.append(call) or -1)
    assert pages.zeros(2048, 2048, like=torch.empty(0)).sum() == 0
    ((start, length, _),) = refused
    assert start.value % 4096 == 0
    assert 0 < length.value <= 2**24
    assert pages.empty(8, like=torch.empty(0)).shape == (8,)
    assert len(refused) == 1


@pytest.mark.parametrize("beta", [1.0, 0.25, 1 / 3])
def test_exponentials_relative_to_a_large_logit(beta):
    """A row's reference near 1e3, logits a few below: the shift is rounded by up to 6e-5, and what is made of it is not."""
    reference = 1e3 + torch.rand(400, generator=torch.Generator().manual_seed(0))
    z = reference.unsqueeze(1) - torch.arange(48) / 16  # exact: the spacing of floats is 2^-14 there
    about = Reference(reference, beta)
    expected = torch.exp(beta * (z.double() - reference.double().unsqueeze(1)))
    found = raised(about.exponents(z)) * about.made_good().unsqueeze(1)
    torch.testing.assert_close(found.double(), expected, rtol=5e-7, atol=0)
    assert (about.made_good() - 1).abs().max() > 1e-5
