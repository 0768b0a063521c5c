"""Attacks: on linear models, where the worst change within a ball is known, and on a network, whose loss they must raise."""

import pytest
import torch
from torch import nn

import lossmith
from lossmith.robust import fgsm, pgd

G = torch.Generator().manual_seed(0)
X, W, B = (torch.randn(*shape, generator=G, dtype=torch.float64) for shape in ((40, 6), (2, 6), (2,)))
Y = torch.randint(2, (40,), generator=G)


def linear(x):
    return x @ W.T + B


def worst_change(radius, norm):
    """Of two classes under a linear model: against the difference of their weights."""
    away = (W[1] - W[0]) * torch.where(Y == 0, 1.0, -1.0)[:, None]
    return radius * (away.sign() if norm == "inf" else away / away.norm(dim=1, keepdim=True))


@pytest.mark.parametrize("norm", ["inf", "2"])
@pytest.mark.parametrize("random_start", [True, False])
def test_the_worst_change_of_a_linear_model(norm, random_start):
    found = pgd(
        linear, X, Y, radius=0.3, norm=norm, steps=40, step_size=0.3, random_start=random_start, generator=torch.Generator().manual_seed(1)
    )
    torch.testing.assert_close(found - X, worst_change(0.3, norm), atol=1e-5, rtol=0)


def test_fgsm_is_one_step_of_the_radius():
    torch.testing.assert_close(fgsm(linear, X, Y, radius=0.3) - X, worst_change(0.3, "inf"))


def test_fgsm_takes_its_step_even_where_it_harms_less():
    """A loss that falls again beyond a ridge: one step is one step, where pgd keeps the best point it saw."""

    def ridge(x):
        return torch.cat([(x - 0.1).abs(), 0 * x], 1)  # the label's logit is least at 0.1

    x, y = torch.zeros(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.long)
    torch.testing.assert_close(fgsm(ridge, x, y, radius=1.0), x + 1.0)
    torch.testing.assert_close(pgd(ridge, x, y, radius=1.0, steps=1, step_size=1.0, random_start=False), x)
    with pytest.raises(ValueError, match="fgsm: radius must be at least 0"):
        fgsm(linear, X, Y, radius=-1.0)


def test_targeted_attacks_go_the_other_way():
    torch.testing.assert_close(fgsm(linear, X, 1 - Y, radius=0.3, targeted=True), fgsm(linear, X, Y, radius=0.3))


@pytest.mark.parametrize("norm", ["inf", "2"])
def test_the_ball_and_the_bounds_are_kept(norm):
    x = torch.rand(20, 3, 4, generator=G)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3))
    y = torch.randint(3, (20,), generator=G)
    found = pgd(net, x, y, radius=0.2, norm=norm, steps=7, bounds=(0, 1), restarts=2, generator=torch.Generator().manual_seed(1))
    change = (found - x).flatten(1)
    size = change.abs().amax(1) if norm == "inf" else change.norm(dim=1)
    assert (size <= 0.2 + 1e-6).all()
    assert size.max() > 0.19
    assert 0 <= found.min()
    assert found.max() <= 1
    assert all(p.grad is None for p in net.parameters())
    assert not found.requires_grad


def test_more_steps_and_restarts_never_weaken_an_attack():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 2)).double().requires_grad_(False)

    def harm(**how):
        moved = pgd(net, X, Y, radius=0.5, generator=torch.Generator().manual_seed(1), **how)
        return nn.functional.cross_entropy(net(moved), Y, reduction="none")

    clean = nn.functional.cross_entropy(net(X), Y, reduction="none")
    one, five = harm(steps=5, step_size=0.1), harm(steps=5, step_size=0.1, restarts=5)
    assert (one > clean).all()
    assert (five >= one).all()
    assert (harm(steps=10, step_size=0.1) >= one).all()


def test_any_objective_may_be_followed():
    found = fgsm(linear, X, Y, radius=0.3, loss=lossmith.generalized_cross_entropy)
    torch.testing.assert_close(found, fgsm(linear, X, Y, radius=0.3))  # of two classes every loss of p_y goes the same way


def test_random_starts_fill_the_ball_evenly():
    """Without a slope the start is kept: of a uniform point in a ball of dimension d, the d-th power of the radius is uniform."""

    def flat(x):
        return torch.zeros(len(x), 2, requires_grad=True) + 0 * x[:, :1]

    x = torch.zeros(4000, 5)
    start = pgd(flat, x, torch.zeros(4000, dtype=torch.long), radius=2.0, norm="2", generator=torch.Generator().manual_seed(3))
    share = (start.norm(dim=1) / 2) ** 5
    assert abs(share.mean() - 0.5) < 5 / (12 * 4000) ** 0.5
    assert abs(start.mean()) < 0.05


def test_a_radius_of_0_and_no_rows():
    torch.testing.assert_close(pgd(linear, X, Y, radius=0.0), X)
    assert pgd(linear, X[:0], Y[:0], radius=0.1).shape == (0, 6)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"radius": -1.0}, "radius must be at least 0"),
        ({"radius": float("nan")}, "radius must be at least 0"),
        ({"radius": 0.1, "norm": "1"}, "norm must be one of"),
        ({"radius": 0.1, "steps": 0}, "steps must be a whole number"),
        ({"radius": 0.1, "restarts": 1.5}, "restarts must be a whole number"),
        ({"radius": 0.1, "step_size": -0.1}, "step_size must be at least 0"),
        ({"radius": 0.1, "bounds": (1, 0)}, r"bounds must be \(least, largest\)"),
        ({"radius": 0.1, "bounds": (0, 1)}, "input must lie within"),
    ],
)
@pytest.mark.untyped
def test_what_does_not_fit_is_said_in_a_line(how, words):
    with pytest.raises(ValueError, match=words):
        pgd(linear, X, Y, **how)
