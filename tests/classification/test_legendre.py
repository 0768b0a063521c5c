"""LegendreTron: its link is what it is said to be, and the loss is proper in the link's own probabilities."""

from __future__ import annotations

import math

import pytest
import torch

import lossmith
from lossmith.classification.legendre import ConvexPotential, log_softmax_plus


def made(classes: int, seed: int = 0, **sizes: int) -> lossmith.LegendreLink:
    """A link with every parameter moved away from where it starts."""
    torch.manual_seed(seed)
    link = lossmith.LegendreLink(classes=classes, **sizes).double()
    with torch.no_grad():
        for parameter in link.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return link


def test_with_the_network_off_it_is_cross_entropy() -> None:
    """softplus(w1) = 0 and softplus(w0) = 1: every map is the identity."""
    link = made(5, blocks=3)
    with torch.no_grad():
        for potential in link.potentials:
            potential.w1.fill_(-torch.inf)
            potential.w0.fill_(math.log(math.e - 1))
    z, y = torch.randn(20, 5, dtype=torch.float64), torch.arange(20) % 5
    torch.testing.assert_close(link(z, y), torch.nn.functional.cross_entropy(z, y), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(link.log_probabilities(z), z.log_softmax(1), rtol=1e-10, atol=1e-12)


def test_softmax_plus_has_one_class_more() -> None:
    z = torch.tensor([[1.0, -2.0], [800.0, -800.0]], dtype=torch.float64)
    total = 1 + z[0].exp().sum()
    torch.testing.assert_close(log_softmax_plus(z)[0].exp(), torch.cat([z[0].exp(), torch.ones(1)]) / total)
    assert log_softmax_plus(z).isfinite().all()


@pytest.mark.parametrize("seed", range(4))
def test_every_blocks_jacobian_is_symmetric_and_positive_definite(seed) -> None:
    for potential in made(6, seed, hidden=5, depth=3).potentials:
        for scale in (0.1, 3.0, 30.0):
            z = scale * torch.randn(5, dtype=torch.float64)
            jacobian = torch.func.jacrev(potential.gradient)(z)
            torch.testing.assert_close(jacobian, jacobian.T, rtol=1e-10, atol=1e-12)
            assert torch.linalg.eigvalsh(jacobian).min() > 0


def test_every_block_is_monotone() -> None:
    for potential in made(6, 3).potentials:
        a, b = (4 * torch.randn(200, 5, dtype=torch.float64) for _ in range(2))
        assert ((potential.gradient(a) - potential.gradient(b)) * (a - b)).sum(1).min() > 0


def test_the_gradient_is_that_of_the_potential_by_finite_differences() -> None:
    potential = made(4, 1).potentials[0]
    z, h = torch.randn(3, dtype=torch.float64), 1e-6
    slope = torch.stack([(potential(z + h * e) - potential(z - h * e)) / (2 * h) for e in torch.eye(3, dtype=torch.float64)])
    torch.testing.assert_close(potential.gradient(z), slope.detach(), rtol=1e-7, atol=1e-8)


def test_of_two_classes_the_link_rises_from_0_to_1() -> None:
    link = made(2, 5)
    lead = torch.linspace(-60, 60, 400, dtype=torch.float64)
    p = link.log_probabilities(torch.stack([lead, torch.zeros_like(lead)], 1)).exp()[:, 0]
    assert (p.diff() >= 0).all()
    assert p[0] < 1e-6
    assert p[-1] > 1 - 1e-6


@pytest.mark.parametrize("seed", range(3))
def test_the_least_expected_loss_predicts_the_truth(seed) -> None:
    """Over the logits of one row, by quasi-Newton steps: the link's probabilities end at the truth, and softmax's do not."""
    link = made(4, seed).requires_grad_(False)
    truth = torch.tensor([0.5, 0.25, 0.15, 0.1], dtype=torch.float64)
    z = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([z], max_iter=300, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = link(z, truth)
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(link.log_probabilities(z.detach()).exp(), truth, rtol=0, atol=1e-6)
    assert link(z, truth).item() == pytest.approx(-(truth * truth.log()).sum().item(), rel=1e-10)
    assert (z.detach().softmax(0) - truth).abs().max() > 1e-2


def test_its_parameters_learn_the_link_that_generated_the_labels() -> None:
    """Labels from softmax(3 z): the link learns the 3, which the logits, fixed here, do not have."""
    g = torch.Generator().manual_seed(1)
    z = torch.randn(4000, 3, generator=g, dtype=torch.float64)
    y = torch.multinomial((3 * z).softmax(1), 1, generator=g)[:, 0]
    torch.manual_seed(0)
    link = lossmith.LegendreLink(classes=3, blocks=1).double()
    optimizer = torch.optim.Adam(link.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        loss = link(z, y)
        loss.backward()
        optimizer.step()
    best, untrained = lossmith.cross_entropy(3 * z, y).item(), lossmith.cross_entropy(z, y).item()
    assert loss.item() < best + 0.02 * (untrained - best)


def test_state_is_saved_and_restored() -> None:
    first, second = made(4, 0), made(4, 1)
    z, y = torch.randn(8, 4, dtype=torch.float64), torch.arange(8) % 4
    assert first(z, y) != second(z, y)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(z, y), second(z, y))
    assert repr(first).startswith("LegendreLink(\n  classes=4, blocks=2, hidden=2, depth=4")


def test_gradients_reach_logits_and_parameters() -> None:
    link = made(3, 2, blocks=1, hidden=3, depth=2)
    z, y = torch.randn(4, 3, dtype=torch.float64, requires_grad=True), torch.arange(4) % 3
    assert torch.autograd.gradcheck(lambda at: link(at, y), (z,))
    names, values = zip(*link.named_parameters(), strict=True)

    def at(*values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(link, dict(zip(names, values, strict=True)), (z.detach(), y))

    assert torch.autograd.gradcheck(at, values)


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: lossmith.LegendreLink(classes=1), ValueError, "classes must be at least 2; got 1"),
        (lambda: lossmith.LegendreLink(classes=2.5), TypeError, "classes must be an integer"),
        (lambda: lossmith.LegendreLink(classes=3, hidden=1), ValueError, "hidden must be in the whole numbers"),
        (lambda: lossmith.LegendreLink(classes=3)(torch.zeros(2, 4), torch.tensor([0, 1])), ValueError, "input must have 3 classes"),
        (lambda: lossmith.LegendreLink(classes=3)([1, 2], torch.tensor([0, 1])), TypeError, "input must be a floating-point tensor"),
    ],
)
def test_mistakes_are_one_clear_line(call, error, said) -> None:
    with pytest.raises(error, match=said) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_potential_is_convex_along_lines() -> None:
    torch.manual_seed(3)
    potential = ConvexPotential(5, hidden=4, depth=4).double()
    a, b = (5 * torch.randn(300, 5, dtype=torch.float64) for _ in range(2))
    assert (potential((a + b) / 2) < (potential(a) + potential(b)) / 2).all()
