"""The least conditional risk against closed forms, and against every report of a grid."""

from __future__ import annotations

import pytest
import torch

import lossmith
from lossmith.diagnostics import bayes_risk
from lossmith.generators import all_entropies, get_entropy


@pytest.fixture(params=[2, 3, 7])
def p(request) -> torch.Tensor:
    g = torch.Generator().manual_seed(request.param)
    random = torch.rand(6, request.param, generator=g, dtype=torch.float64) + 1e-3
    return torch.cat([random, torch.ones(1, request.param, dtype=torch.float64)]) / torch.cat(
        [random.sum(1, keepdim=True), torch.full((1, 1), float(request.param), dtype=torch.float64)]
    )


CLOSED = {
    "cross_entropy": ({}, lambda p: -torch.xlogy(p, p).sum(1)),
    "brier_loss": ({}, lambda p: 1 - p.square().sum(1)),
    "classification_mae": ({}, lambda p: 1 - p.amax(1)),
    "sum_exponential": ({}, lambda p: p.sqrt().sum(1).square() - 1),
    "generalized_cross_entropy": ({"q": 0.5}, lambda p: 2 * (1 - p.square().sum(1).sqrt())),
    "comp_sum": ({"tau": 1.3}, lambda p: (1 - (p ** (1 / 0.7)).sum(1) ** 0.7) / 0.3),
    "sparsemax_loss": ({}, lambda p: (1 - p.square().sum(1)) / 2),
    "divergence_distillation": ({"generator": "squared_hellinger"}, lambda p: torch.zeros_like(p[:, 0])),
}


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms(name, p) -> None:
    hyper, closed = CLOSED[name]
    found = bayes_risk(name, p, **hyper)
    torch.testing.assert_close(found.risk, closed(p), rtol=1e-9, atol=1e-9)


@pytest.mark.numbers
@pytest.mark.parametrize("name", [name for name in all_entropies() if name != "norm_entropy(q=1.5)"])
def test_a_proper_loss_costs_its_entropy_and_is_met_by_the_truth(name) -> None:
    p = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.34, 0.33, 0.33]], dtype=torch.float64)
    found = bayes_risk("proper_loss_from_entropy", p, entropy=name)
    torch.testing.assert_close(found.risk, get_entropy(name).bayes_risk(p), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(found.report.softmax(1), p, rtol=0, atol=1e-4)
    young = bayes_risk("fenchel_young_loss", p, entropy=name)
    torch.testing.assert_close(young.risk, get_entropy(name).bayes_risk(p), rtol=1e-7, atol=1e-8)


@pytest.mark.numbers
def test_the_hinge_of_crammer_and_singer(p) -> None:
    """2 (1 - max p) by predicting the likeliest class, or 1 by predicting none: Liu 2007. At a margin of 1."""
    expected = torch.minimum(2 * (1 - p.amax(1)), torch.ones_like(p[:, 0]))
    torch.testing.assert_close(bayes_risk("crammer_singer", p).risk, expected, rtol=1e-7, atol=1e-7)


def test_a_grid_finds_nothing_better() -> None:
    """Of three classes, every report with steps of 1/8, and the same for a hinge without a closed form here."""
    p = torch.tensor([[0.5, 0.3, 0.2], [0.45, 0.45, 0.1], [0.8, 0.15, 0.05]], dtype=torch.float64)
    one = torch.arange(-4, 4.01, 0.125, dtype=torch.float64)
    z = torch.cat([torch.cartesian_prod(one, one), torch.zeros(len(one) ** 2, 1, dtype=torch.float64)], 1)
    for name, slack in (("weston_watkins", 1e-7), ("focal_loss", 1e-9), ("taylor_cross_entropy", 1e-9)):
        losses = torch.stack([getattr(lossmith, name)(z, torch.full((len(z),), k), reduction="none") for k in range(3)], 1)
        least = (p @ losses.T).min(1).values
        found = bayes_risk(name, p).risk
        assert (found <= least + slack).all()
        assert (found >= least - 0.05).all()


def test_the_report_costs_what_is_said(p) -> None:
    for name in ("cross_entropy", "focal_loss", "crammer_singer"):
        found = bayes_risk(name, p)
        assert found.report.shape == p.shape
        torch.testing.assert_close(getattr(lossmith, name)(found.report, p, reduction="none"), found.risk, rtol=1e-12, atol=1e-12)


def test_single_logits() -> None:
    p = torch.tensor([[0.3, 0.7], [0.9, 0.1]], dtype=torch.float64)
    found = bayes_risk("binary_cross_entropy", p)
    torch.testing.assert_close(found.risk, -torch.xlogy(p, p).sum(1), rtol=1e-10, atol=0)
    torch.testing.assert_close(torch.sigmoid(found.report[:, 0]), p[:, 0], rtol=1e-5, atol=0)


def test_a_function_of_ones_own() -> None:
    """The hinge of one logit: 2 min(p, 1 - p); and mean squared error of the logits, the variance of a label's indicator."""

    def hinge(input, target):
        return (1 - (2 * target - 1) * input).clamp_min(0)

    p = torch.tensor([[0.3, 0.7], [0.9, 0.1], [0.5, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(bayes_risk(hinge, p, form="binary").risk, 2 * p.amin(1), rtol=1e-9, atol=1e-9)

    def squared(input, target, scale=1.0):
        return scale * (input - torch.nn.functional.one_hot(target, input.shape[1])).square().sum(1)

    q = torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64)
    found = bayes_risk(squared, q, form="logits", scale=3.0)
    torch.testing.assert_close(found.risk, 3 * (1 - q.square().sum(1)), rtol=1e-10, atol=0)
    torch.testing.assert_close(found.report, q, rtol=0, atol=1e-5)


def test_labels_that_cannot_be_cost_nothing_and_batches_keep_their_shape() -> None:
    p = torch.tensor([[[0.5, 0.5, 0.0]], [[1.0, 0.0, 0.0]]])
    found = bayes_risk("cross_entropy", p)
    assert found.risk.shape == (2, 1)
    assert found.report.shape == (2, 1, 3)
    torch.testing.assert_close(found.risk[:, 0], torch.tensor([2.0, 1.0], dtype=torch.float64).log(), rtol=0, atol=1e-9)
    assert bayes_risk("cross_entropy", p[:0]).report.shape == (0, 1, 3)


@pytest.mark.numbers
def test_it_is_concave(p) -> None:
    for name in ("focal_loss", "crammer_singer", "f_divergence_loss"):
        ends, middle = bayes_risk(name, torch.cat([p, p.flip(0)])).risk.chunk(2), bayes_risk(name, (p + p.flip(0)) / 2).risk
        assert (middle >= (ends[0] + ends[1]) / 2 - 1e-8).all()


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda p: bayes_risk("dice_loss", p), TypeError, "whole sets"),
        (lambda p: bayes_risk("EnsLoss", p[:, :2]), TypeError, "only the gradient does"),
        (lambda p: bayes_risk("cross_entropy", p, ignore_index=0), TypeError, "no option 'ignore_index'"),
        (lambda p: bayes_risk("logit_adjusted", p), TypeError, "needs class_counts"),
        (lambda p: bayes_risk("gce", p, q=2.0), ValueError, r"q must be in \(0, 1\]"),
        (lambda p: bayes_risk("gce", p, p=2.0), TypeError, "no option 'p'"),
        (lambda p: bayes_risk("gce", 2 * p), ValueError, "sum to 1"),
        (lambda p: bayes_risk("gce", p.tolist()), ValueError, "floating-point tensor"),
        (lambda p: bayes_risk("binary_cross_entropy", p), ValueError, r"shape \(\*batch, 2\)"),
    ],
)
def test_mistakes_are_one_clear_line(call, error, said) -> None:
    with pytest.raises(error, match=said) as caught:
        call(torch.full((2, 4), 0.25))
    assert "\n" not in str(caught.value)
