"""EnsLoss: the slopes are those of a convex, calibrated loss, whatever is drawn."""

from __future__ import annotations

import math

import pytest
import torch

import lossmith
from lossmith.classification import ensemble
from lossmith.classification.ensemble import calibrated_slopes
from lossmith.conformance.problems import leaf


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def slopes(z: torch.Tensor, t: torch.Tensor, loss: lossmith.EnsLoss, **options) -> torch.Tensor:
    """The gradient in the margins."""
    z = leaf(z)
    loss(z, t, reduction="sum", **options).backward()
    return z.grad * (2 * t - 1)


@pytest.mark.parametrize("power", [0.0, 0.7, -0.7, 1.0, -1.0])
@pytest.mark.parametrize("seed", range(3))
def test_slopes_are_negative_and_rise_with_the_margin(power, seed) -> None:
    z = 3 * torch.randn(500, generator=seeded(seed), dtype=torch.float64)
    t = (torch.arange(500) % 2).double()
    g = slopes(z, t, lossmith.EnsLoss(power=power, generator=seeded(seed)))
    in_order = g[((2 * t - 1) * z).argsort()]
    assert (g < 0).all()
    assert (in_order.diff() >= -1e-15).all()
    assert g.min() >= -1 - 1e-6


def test_the_definition_sample_by_sample() -> None:
    """Power 0: exponentials of normal draws, cut off at 1, the steepest for the smallest margin, over the margin beyond 1, less 1e-6."""
    z = torch.tensor([2.5, -0.3, 0.4, 1.5, -2.0], dtype=torch.float64)
    t = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    drawn = torch.randn(5, generator=seeded(4), dtype=torch.float64).tolist()
    margins = [(1 if yes else -1) * logit for logit, yes in zip(z.tolist(), t.tolist(), strict=True)]
    sizes = sorted((min(math.exp(e), 1.0) for e in drawn), reverse=True)
    expected = {}
    for rank, i in enumerate(sorted(range(5), key=margins.__getitem__)):
        expected[i] = -sizes[rank] / (margins[i] if margins[i] > 1 else 1) - 1e-6
    found = slopes(z, t, lossmith.EnsLoss(generator=seeded(4)))
    torch.testing.assert_close(found, torch.tensor([expected[i] for i in range(5)], dtype=torch.float64), rtol=1e-12, atol=0)


def test_of_one_sample_the_slope_is_the_draw() -> None:
    for seed in range(5):
        e = torch.randn(1, generator=seeded(seed), dtype=torch.float64).item()
        for power, size in ((0.0, math.exp(e)), (0.5, max(0.0, 1 + 0.5 * e) ** 2), (-0.5, 1 / max(1e-300, 1 - 0.5 * e) ** 2)):
            loss = lossmith.EnsLoss(power=power, generator=seeded(seed))
            found = slopes(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64), loss).item()
            assert found == pytest.approx(-min(1.0, size) - 1e-6, rel=1e-12)


@pytest.mark.parametrize("power", [1e-3, 1e-6, -1e-9])
def test_small_powers_are_near_the_exponential_in_float32(power) -> None:
    e, margin = torch.randn(50, generator=seeded()), torch.linspace(-2, -1, 50)
    keep = torch.ones(50, dtype=torch.bool)
    found = calibrated_slopes(margin, keep, e, power)
    torch.testing.assert_close(found.double(), calibrated_slopes(margin.double(), keep, e.double(), power), rtol=2e-6, atol=0)
    torch.testing.assert_close(found, calibrated_slopes(margin, keep, e, 0.0), rtol=5 * abs(power) + 1e-6, atol=0)


def test_with_logistic_slopes_the_gradient_is_cross_entropys(monkeypatch) -> None:
    """What is returned is slope times margin: with the slopes of the logistic loss, -sigmoid(-s), its gradient is that loss's."""
    z, t = leaf(torch.randn(50, generator=seeded(), dtype=torch.float64)), (torch.arange(50) % 2).double()
    monkeypatch.setattr(ensemble, "calibrated_slopes", lambda margin, keep, draws, power: -torch.sigmoid(-margin))
    (ours,) = torch.autograd.grad(lossmith.EnsLoss()(z, t), z)
    (theirs,) = torch.autograd.grad(lossmith.binary_cross_entropy(z, t), z)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)


def test_the_same_generator_draws_the_same_losses() -> None:
    z, t = torch.randn(20, generator=seeded(1)), (torch.arange(20) % 2).float()
    first, second = lossmith.EnsLoss(generator=seeded(7)), lossmith.EnsLoss(generator=seeded(7))
    drawn = [[slopes(z, t, loss) for _ in range(2)] for loss in (first, second)]
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert torch.equal(drawn[0][1], drawn[1][1])
    assert not torch.equal(drawn[0][0], drawn[0][1])
    assert first.redraw() == second.redraw() == first.power
    assert -1 < first.power < 1
    assert repr(first) == f"EnsLoss(power={first.power})"


def test_removed_rows_take_no_part() -> None:
    """Whatever they hold; the slopes of the others are the sorted draws of their own, as if the batch were smaller."""
    z, t = torch.randn(40, generator=seeded(1), dtype=torch.float64), (torch.arange(40) % 2).double()
    gone = torch.arange(40) % 3 == 0
    options = ({"sample_weight": (~gone).double()}, {"ignore_index": 7})
    for option, target in zip(options, (t, torch.where(gone, 7.0, t)), strict=True):
        found = []
        for garbage in (0.0, torch.nan, torch.inf):
            logits = leaf(torch.where(gone, garbage, z))
            loss = lossmith.EnsLoss(generator=seeded(3))(logits, target, reduction="sum", **option)
            loss.backward()
            assert logits.grad[gone].eq(0).all()
            found.append(logits.grad)
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])
        draws = torch.randn(40, generator=seeded(3), dtype=torch.float64)[~gone]
        margin = ((2 * t - 1) * z)[~gone]
        alone = calibrated_slopes(margin, torch.ones_like(margin, dtype=torch.bool), draws, 0.0)
        torch.testing.assert_close(found[0][~gone], alone * (2 * t - 1)[~gone], rtol=1e-12, atol=0)


def test_weights_multiply_the_slopes() -> None:
    z, t = torch.randn(6, 2, generator=seeded(1), dtype=torch.float64), (torch.arange(12).reshape(6, 2) % 3 == 0).double()
    plain = slopes(z, t, lossmith.EnsLoss(generator=seeded(2)))
    weight = torch.tensor([2.0, 3.0], dtype=torch.float64)
    weighted = slopes(z, t, lossmith.EnsLoss(generator=seeded(2)), weight=weight, pos_weight=torch.tensor(5.0, dtype=torch.float64))
    torch.testing.assert_close(weighted, plain * weight * torch.where(t == 1, 5.0, 1.0), rtol=1e-12, atol=0)


def test_it_learns_what_logistic_regression_learns() -> None:
    """Two Gaussians, whose best rule is linear: the error on new rows is that of cross-entropy, to the noise of it."""
    g = seeded(0)

    def sample(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        y = (torch.rand(n, generator=g) > 0.5).double()
        return torch.randn(n, 5, generator=g, dtype=torch.float64) + (2 * y - 1)[:, None] * torch.tensor([0.8, -0.5, 0.3, 0.0, 0.0]), y

    (x, y), (x_new, y_new) = sample(2000), sample(20_000)

    def error(loss) -> float:
        w = torch.zeros(6, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([w], lr=0.1)
        for step in range(400):
            rows = torch.arange(128) + 128 * (step % 15)
            optimizer.zero_grad()
            loss(x[rows] @ w[:5] + w[5], y[rows]).backward()
            optimizer.step()
        return ((x_new @ w[:5] + w[5] > 0) != (y_new == 1)).double().mean().item()

    ours, theirs = error(lossmith.EnsLoss(generator=seeded(1))), error(lossmith.binary_cross_entropy)
    assert abs(ours - theirs) < 0.01
    assert theirs < 0.2


@pytest.mark.compile
def test_it_compiles_with_torchs_own_random_numbers() -> None:
    z, t = torch.randn(30), (torch.arange(30) % 2).float()
    loss = torch.compile(lossmith.EnsLoss(), fullgraph=True, backend="aot_eager")
    g = slopes(z, t, loss)
    assert (g < 0).all()
    assert (g[((2 * t - 1) * z).argsort()].diff() >= -1e-6).all()


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda z, t: lossmith.EnsLoss()(z, t / 2), ValueError, "target must hold the answers 0 and 1.*; got 0.5"),
        (lambda z, t: lossmith.EnsLoss(generator=3), TypeError, "generator must be a torch.Generator"),
        (lambda z, t: lossmith.EnsLoss(power=-math.inf), ValueError, r"power must be in \(-inf, inf\); got -inf"),
        (lambda z, t: lossmith.EnsLoss(power=torch.tensor(0.5)), TypeError, "power must be a plain number"),
        (lambda z, t: lossmith.EnsLoss()(z, t[:-1]), ValueError, "target must have the input's shape"),
    ],
)
def test_mistakes_are_one_clear_line(call, error, said) -> None:
    with pytest.raises(error, match=said) as caught:
        call(torch.zeros(4), torch.ones(4))
    assert "\n" not in str(caught.value)
