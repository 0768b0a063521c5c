"""Fenchel-Young losses against searches over the simplex, closed forms, and the entmax package."""

from __future__ import annotations

import entmax as peer
import pytest
import torch

import lossmith
from lossmith.conformance.problems import leaf
from lossmith.generators import Entropy, all_entropies, get_entropy

NAMES = list(all_entropies())


@pytest.fixture
def rows() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(5)
    return 2 * torch.randn(40, 5, generator=g, dtype=torch.float64), torch.arange(40) % 5


@pytest.mark.parametrize("name", NAMES)
def test_the_largest_value_over_the_simplex(name) -> None:
    """Two classes: the maximum over p of <p, z> - Omega(p), found on a fine grid and by golden section around its best point."""
    entropy = get_entropy(name)
    for lead in (-3.0, -0.4, 0.0, 0.7, 2.5):
        grid = torch.linspace(0, 1, 200_001, dtype=torch.float64)
        value = grid * lead - entropy.omega(torch.stack([grid, 1 - grid], 1))
        expected = value.max().item() - lead
        found = lossmith.fenchel_young_loss(torch.tensor([[lead, 0.0]], dtype=torch.float64), torch.tensor([0]), entropy=name).item()
        assert found == pytest.approx(expected, abs=1e-8)
        assert found >= expected - 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_the_prediction_less_the_label(name, rows) -> None:
    z, y = rows
    logits, entropy = leaf(z), get_entropy(name)
    (slope,) = torch.autograd.grad(lossmith.fenchel_young_loss(logits, y, entropy=name, reduction="sum"), logits)
    expected = entropy.argmax(z) - torch.nn.functional.one_hot(y, 5)
    torch.testing.assert_close(slope, expected, rtol=1e-9, atol=1e-9)


def test_shannons_is_cross_entropy_bit_for_bit_up_to_rounding(rows) -> None:
    z, y = rows
    ours = lossmith.fenchel_young_loss(z, y, entropy="shannon", reduction="none")
    torch.testing.assert_close(ours, torch.nn.functional.cross_entropy(z, y, reduction="none"), rtol=1e-12, atol=1e-13)


def test_the_entmax_package_agrees(rows) -> None:
    z, y = rows
    torch.testing.assert_close(lossmith.sparsemax_loss(z, y, reduction="none"), peer.sparsemax_loss(z, y), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(lossmith.entmax_loss(z, y, reduction="none"), peer.entmax15_loss(z, y), rtol=1e-10, atol=1e-12)
    bisected = peer.entmax_bisect_loss(z, y, alpha=1.25, n_iter=80)
    torch.testing.assert_close(lossmith.entmax_loss(z, y, alpha=1.25, reduction="none"), bisected, rtol=1e-8, atol=1e-10)


def test_sparsemax_of_two_classes_is_the_modified_huber_loss() -> None:
    """Martins & Astudillo 2016, section 3.3."""
    lead = torch.linspace(-4, 4, 81, dtype=torch.float64)
    z = torch.stack([lead, torch.zeros_like(lead)], 1)
    expected = torch.where(lead >= 1, 0.0, torch.where(lead <= -1, -lead, (lead - 1) ** 2 / 4))
    found = lossmith.sparsemax_loss(z, torch.zeros(81, dtype=torch.long), reduction="none")
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_beyond_the_margin_the_loss_is_exactly_nothing() -> None:
    for alpha in (1.5, 2.0, 3.0):
        lead = 1 / (alpha - 1)
        for shift in (0.0, 100.0):
            z = shift + torch.tensor([[lead + 1e-6, 0.0, 0.0], [lead - 1e-2, 0.0, -9.0]], dtype=torch.float64)
            loss = lossmith.entmax_loss(z, torch.tensor([0, 0]), alpha=alpha, reduction="none")
            assert loss[0] == pytest.approx(0, abs=1e-15)
            assert loss[1] > 0


def test_class_probabilities_are_an_expectation_and_the_gradient_is_theirs(rows) -> None:
    """Omega(t) below the Fenchel-Young loss of the whole target."""
    z, _ = rows
    t = torch.softmax(z.flip(0), 1)
    entropy = get_entropy("tsallis", alpha=1.5)
    found = lossmith.fenchel_young_loss(z, t, entropy=entropy, reduction="none")
    torch.testing.assert_close(found, entropy.fenchel_young(z, t) - entropy.omega(t), rtol=1e-12, atol=1e-12)


def test_an_entropy_of_ones_own(rows) -> None:
    """Half the Gini entropy: sparsemax of twice the logits."""
    z, y = rows
    mine = Entropy(
        name="half", omega=lambda p: (p.square().sum(-1) - 1) / 4, argmax=lambda theta: get_entropy("gini").argmax(2 * theta)
    )  # fmt: skip
    found = lossmith.fenchel_young_loss(z, y, entropy=mine, reduction="none")
    torch.testing.assert_close(found, lossmith.sparsemax_loss(2 * z, y, reduction="none") / 2, rtol=1e-11, atol=1e-12)


def test_the_least_expected_loss_is_where_the_entropys_own_prediction_is_the_truth() -> None:
    truth = torch.tensor([[0.6, 0.4, 0.0]], dtype=torch.float64)
    z = torch.tensor([[0.2, 0.0, -5.0]], dtype=torch.float64)  # sparsemax of it is the truth, softmax is not
    torch.testing.assert_close(get_entropy("gini").argmax(z), truth)
    at_best = lossmith.sparsemax_loss(z, truth)
    g = torch.Generator().manual_seed(0)
    others = z + torch.randn(500, 3, generator=g, dtype=torch.float64)
    assert (lossmith.sparsemax_loss(others, truth.expand(500, 3), reduction="none") >= at_best - 1e-12).all()
    assert at_best.item() == pytest.approx((1 - 0.6**2 - 0.4**2) / 2)


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda z, y: lossmith.fenchel_young_loss(z, y, entropy="shanon"), ValueError, "did you mean 'shannon'"),
        (lambda z, y: lossmith.fenchel_young_loss(z, y, entropy="tsallis"), ValueError, r"did you mean 'tsallis\(alpha=...\)'"),
        (lambda z, y: lossmith.fenchel_young_loss(z, y, entropy=1.5), ValueError, "entropies, or an Entropy; got 1.5"),
        (lambda z, y: lossmith.entmax_loss(z, y, alpha=0.0), ValueError, r"alpha must be in \(0, inf\)"),
        (lambda z, y: lossmith.entmax_loss(z, y, alpha=torch.tensor(1.5)), TypeError, "alpha must be a plain number"),
    ],
)
def test_mistakes_are_one_clear_line(call, error, said, rows) -> None:
    with pytest.raises(error, match=said) as caught:
        call(*rows)
    assert "\n" not in str(caught.value)


@pytest.mark.compile
@pytest.mark.parametrize("name", ["gini", "tsallis(alpha=1.37)"])
def test_it_compiles_with_an_entropy_by_name(name, rows) -> None:
    z, y = rows
    eager = lossmith.fenchel_young_loss(z, y, entropy=name)
    compiled = torch.compile(lambda a, b: lossmith.fenchel_young_loss(a, b, entropy=name), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(z, y), eager, rtol=1e-12, atol=0)
