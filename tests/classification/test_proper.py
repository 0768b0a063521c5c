"""Proper losses from entropies against the named scores, and the properties that make them proper."""

from __future__ import annotations

import pytest
import torch

import lossmith
from lossmith.conformance import check
from lossmith.generators import all_entropies, get_entropy

NAMES = list(all_entropies())


@pytest.fixture
def rows() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(9)
    return 2 * torch.randn(40, 5, generator=g, dtype=torch.float64), torch.arange(40) % 5


def spherical(p: torch.Tensor, y: torch.Tensor, q: float) -> torch.Tensor:
    """1 - (p_y / |p|_q)^(q - 1): Good's pseudo-spherical score, as a loss."""
    norm = (p**q).sum(1) ** (1 / q)
    return 1 - (p.gather(1, y[:, None])[:, 0] / norm) ** (q - 1)


@pytest.mark.parametrize(
    ("name", "score"),
    [
        ("gini", lambda p, y: ((p - torch.nn.functional.one_hot(y, 5)) ** 2).sum(1) / 2),
        ("shannon", lambda p, y: -p.gather(1, y[:, None])[:, 0].log()),
        ("norm_entropy(q=2.0)", lambda p, y: spherical(p, y, 2.0)),
        ("norm_entropy(q=4.0)", lambda p, y: spherical(p, y, 4.0)),
        (
            "tsallis(alpha=3.0)",
            lambda p, y: 1 / 6 + (p**3).sum(1) / 3 - (p.gather(1, y[:, None])[:, 0] ** 2) / 2,
        ),
    ],
)
def test_named_scores(name, score, rows) -> None:
    z, y = rows
    found = lossmith.proper_loss_from_entropy(z, y, entropy=name, reduction="none")
    torch.testing.assert_close(found, score(z.softmax(1), y), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_the_truth_costs_the_entropy_and_everything_else_costs_more(name) -> None:
    """The expected loss of report p under truth q exceeds the entropy of q by the Bregman divergence, written out from omega alone."""
    g = torch.Generator().manual_seed(2)
    q, p = (torch.softmax(torch.randn(200, 4, generator=g, dtype=torch.float64), 1) for _ in range(2))
    entropy = get_entropy(name)
    truthful = lossmith.proper_loss_from_entropy(q.log(), q, entropy=name, reduction="none")
    torch.testing.assert_close(truthful, -entropy.omega(q), rtol=1e-10, atol=1e-12)
    report = p.clone().requires_grad_()
    (slope,) = torch.autograd.grad(entropy.omega(report).sum(), report)
    more = entropy.omega(q) - entropy.omega(p) - (slope * (q - p)).sum(1)
    assert (more > 0).all()
    found = lossmith.proper_loss_from_entropy(p.log(), q, entropy=name, reduction="none")
    torch.testing.assert_close(found, more - entropy.omega(q), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_conformance_finds_no_better_report_than_the_truth(name) -> None:
    report = check(lossmith.objective("proper_loss_from_entropy", entropy=name), only=["proper", "calibrated"])
    assert [report[claim].status for claim in ("proper", "calibrated")] == ["passed"] * 2
