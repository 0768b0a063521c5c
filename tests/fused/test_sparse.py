"""Filtered gradients against exact ones: what is left out, what never is, and that the random ones are right on average."""

from __future__ import annotations

import pytest
import torch

import lossmith
from lossmith.fused import GradientFilter, LinearLogits, explain, linear_stats
from tests.fused.heads import assert_close, dense, gradients, problem


def filtered(p, by, **how):
    return lossmith.cross_entropy(LinearLogits(*p.inputs, gradient_filter=by, **how), p.target)


def slopes(p, **how):
    """The derivative of the mean cross-entropy by the logits."""
    z = dense(p, **how).detach().requires_grad_()
    return torch.autograd.grad(lossmith.cross_entropy(z, p.target), z)[0]


@pytest.mark.parametrize("mode", ["columns", "random"])
@pytest.mark.parametrize("how", [{}, {"temperature": 0.7, "softcap": 2.0}])
def test_a_threshold_of_0_leaves_nothing_out(mode, how):
    p = problem(300, classes=40)
    by = GradientFilter(0.0, mode)
    assert_close(gradients(filtered(p, by, **how), p.inputs), gradients(lossmith.cross_entropy(dense(p, **how), p.target), p.inputs))
    assert by.dropped == 0
    assert by.kept == 1


def test_columns_leave_out_the_light_classes_of_a_block_and_say_their_mass():
    p = problem(20, classes=60, scale=1.5)
    s = slopes(p)
    mass = s.abs().sum(0)
    threshold = mass.quantile(0.6).item()
    heavy = mass >= threshold
    heavy[p.target[p.target >= 0]] = True
    by = GradientFilter(threshold)
    value = filtered(p, by)
    assert_close(value, lossmith.cross_entropy(dense(p), p.target))
    dx, dw, db = gradients(value, p.inputs)
    s_kept = torch.where(heavy, s, 0)
    assert_close((dx, dw, db), (s_kept @ p.weight.detach(), s_kept.T @ p.hidden.detach(), s.sum(0)))
    assert_close(by.dropped, mass[~heavy].sum())
    assert by.kept.item() == pytest.approx(heavy.double().mean().item())
    assert 0.1 < by.kept < 0.9
    longest = p.weight.detach().norm(dim=1).max()
    exact = gradients(lossmith.cross_entropy(dense(p), p.target), p.inputs)
    assert 0 < (dx - exact[0]).norm(dim=1).max() <= by.dropped * longest


def test_the_threshold_is_in_units_of_the_final_gradient():
    p = problem(20, classes=60, scale=1.5)
    by, scaled = GradientFilter(1e-3), GradientFilter(1e-3 * 1024)
    plain = gradients(filtered(p, by), p.inputs)
    larger = gradients(1024 * filtered(p, scaled), p.inputs)
    assert_close(larger, tuple(1024 * g for g in plain), 1e-12)
    assert_close(scaled.dropped, 1024 * by.dropped, 1e-12)
    by.reset()
    assert by.dropped is None
    assert by.kept is None
    gradients(1024 * filtered(p, by), p.inputs)
    assert by.kept > scaled.kept


@pytest.mark.parametrize("mode", ["columns", "random"])
def test_a_filter_shared_by_several_calls_counts_them_all(mode):
    """Two heads of one loss, as many backward passes, or both: what each left out by itself, added up."""
    parts = [problem(20, classes=60, scale=1.5), problem(300, classes=40, scale=1.5, seed=1)]
    filters = [GradientFilter(1e-3, mode, generator=None if mode == "columns" else torch.Generator().manual_seed(i)) for i in (0, 1)]
    for p, by in zip(parts, filters, strict=True):
        gradients(filtered(p, by), p.inputs)
    shared = GradientFilter(1e-3, mode, generator=None if mode == "columns" else torch.Generator())
    for seed, p in enumerate(parts):
        if shared.generator is not None:
            shared.generator.manual_seed(seed)
        gradients(filtered(p, shared), p.inputs)
    assert_close(shared.dropped, filters[0].dropped + filters[1].dropped)
    entries = [int((p.target >= 0).sum()) * len(p.weight) for p in parts]
    assert_close(shared.kept, sum(by.kept.double() * n for by, n in zip(filters, entries, strict=True)) / sum(entries), 1e-6)
    if mode == "columns":
        sum(filtered(p, shared) for p in parts).backward()
        assert_close(shared.dropped, 2 * (filters[0].dropped + filters[1].dropped))


@pytest.mark.parametrize("mode", ["columns", "random"])
def test_the_labels_and_the_bias_are_never_left_out(mode):
    p = problem(20, classes=60)
    s, rows = slopes(p), p.target >= 0
    dx, _, db = gradients(filtered(p, GradientFilter(0.3 if mode == "columns" else 1e-9, mode)), p.inputs)
    assert_close(db, s.sum(0))
    if mode == "columns":  # every other class is light
        only = torch.zeros(60, dtype=torch.bool).index_fill_(0, p.target[rows], True)
        assert_close(dx, torch.where(only, s, 0) @ p.weight.detach())
    by = GradientFilter(1e6, "random")  # nothing but the labels, almost surely
    dx, _, db = gradients(filtered(p, by), p.inputs)
    label = torch.where(rows, p.target, 0)
    alone = torch.where(rows, s.gather(1, label.unsqueeze(1)).squeeze(1), 0)
    assert_close(dx, alone.unsqueeze(1) * p.weight.detach()[label])
    assert_close(db, s.sum(0))


def test_random_gradients_are_right_on_average_and_their_error_falls_as_one_over_the_root():
    p = problem(20, classes=50, scale=1.5, ignored=False)
    exact = torch.cat([g.flatten() for g in gradients(lossmith.cross_entropy(dense(p), p.target), p.inputs[:2])])
    by = GradientFilter(5e-3, "random", generator=torch.Generator().manual_seed(0))
    draws = torch.stack([torch.cat([g.flatten() for g in gradients(filtered(p, by), p.inputs[:2])]) for _ in range(200)])
    assert by.kept < 0.5
    along = torch.randn(exact.numel(), 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    seen, expected = draws @ along, exact @ along  # sums over all entries: single ones move too rarely to be averaged
    z = (seen.mean(0) - expected) / (seen.std(0) / 200**0.5)
    assert z.abs().max() <= 5
    assert z.abs().max() > 0.5  # and the standard errors are not idle
    one = (draws - exact).norm(dim=1).mean()
    fifty = (draws.reshape(4, 50, -1).mean(1) - exact).norm(dim=1).mean()
    assert (one / fifty).item() == pytest.approx(50**0.5, rel=0.25)


def test_random_gradients_follow_their_generator():
    p = problem(10, classes=50)
    first, again, other = (
        gradients(filtered(p, GradientFilter(1e-2, "random", generator=torch.Generator().manual_seed(seed))), p.inputs)
        for seed in (1, 1, 2)
    )
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


@pytest.mark.parametrize("mode", ["columns", "random"])
def test_other_objectives_masks_frozen_heads_and_half_precision(mode):
    p = problem(12, classes=30)
    by = GradientFilter(0.0, mode)
    fused = lossmith.focal_loss(LinearLogits(*p.inputs, gradient_filter=by), p.target, reduction="none")
    expected = lossmith.focal_loss(dense(p), p.target, reduction="none")
    assert_close(fused, expected)
    direction = torch.linspace(-1, 1, 12, dtype=torch.float64)
    assert_close(gradients((fused * direction).sum(), p.inputs), gradients((expected * direction).sum(), p.inputs))
    frozen = lossmith.cross_entropy(LinearLogits(p.hidden, p.weight.detach(), gradient_filter=by), p.target)
    assert_close(gradients(frozen, (p.hidden,)), gradients(lossmith.cross_entropy(p.hidden @ p.weight.T.detach(), p.target), (p.hidden,)))
    half = p.to(torch.bfloat16)
    found = gradients(filtered(half, by), half.inputs)
    assert {g.dtype for g in found} == {torch.bfloat16}
    nothing = p._replace(target=torch.full_like(p.target, -100))
    assert all(g.abs().max() == 0 for g in gradients(filtered(nothing, by), p.inputs))
    assert by.dropped == 0


def test_what_it_does_not_go_with_is_refused():
    p, by = problem(6), GradientFilter(1e-4)
    source = LinearLogits(*p.inputs, gradient_filter=by)
    with pytest.raises(ValueError, match="LinearLogits: gradient_filter goes with log-probabilities alone"):
        lossmith.cross_entropy(source, p.target, label_smoothing=0.1)
    with pytest.raises(ValueError, match="LinearLogits: gradient_filter goes with log-probabilities alone"):
        lossmith.zscore_loss(source, p.target)
    with pytest.raises(ValueError, match="LinearLogits: schedule='forward' cannot be followed: gradient_filter needs the final gradient"):
        LinearLogits(*p.inputs, gradient_filter=by, schedule="forward")
    with pytest.raises(RuntimeError, match=r"LinearLogits: gradient_filter does not go with torch\.compile, torch\.func or forward mode"):
        torch.func.grad(lambda h: lossmith.cross_entropy(LinearLogits(h, p.weight, gradient_filter=by), p.target))(p.hidden)
    cap = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match="LinearLogits: gradient_filter does not go with a learnt softcap"):
        filtered(p, by, softcap=cap)
    with pytest.raises(RuntimeError, match="LinearLogits: gradient_filter gives no second derivative"):
        torch.autograd.grad(filtered(p, by), p.hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="LinearLogits: gradient_filter gives one gradient at a time"):
        torch.autograd.grad(filtered(p, by), p.hidden, torch.ones(2, dtype=torch.float64), is_grads_batched=True)
    assert explain(source).path == "recompute"
    assert "gradient_filter" in explain(source).why
    assert linear_stats(*p.inputs[:2], p.target).log_prob is not None


@pytest.mark.parametrize("mode", ["columns", "random"])
def test_a_gradient_that_is_nan_is_not_left_out(mode):
    p = problem(4, ignored=False)
    loss = filtered(p, GradientFilter(1e6, mode)) * torch.nan
    assert all(g.isnan().all() for g in gradients(loss, p.inputs))


@pytest.mark.untyped
def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"GradientFilter: threshold must be a number from 0; got -1"):
        GradientFilter(-1)
    with pytest.raises(TypeError, match=r"GradientFilter: threshold must be a number from 0; got str"):
        GradientFilter("1")
    with pytest.raises(ValueError, match=r"GradientFilter: mode must be 'columns' or 'random'; got 'rows'"):
        GradientFilter(1.0, "rows")
    with pytest.raises(TypeError, match=r"LinearLogits: gradient_filter must be a GradientFilter or None; got float 0\.1"):
        LinearLogits(*problem(2).inputs, gradient_filter=0.1)
    with pytest.raises(ValueError, match="GradientFilter: generator goes with mode='random'"):
        GradientFilter(1.0, generator=torch.Generator())
