"""f-divergences from the label, against sums over the classes, mpmath, and the losses they contain."""

from __future__ import annotations

import math
import re

import mpmath
import pytest
import torch

import lossmith
from lossmith.conformance.problems import gradient, leaf
from lossmith.generators import FGenerator, all_generators, get

FINITE = [name for name, g in all_generators().items() if math.isfinite(g.at_zero)]


@pytest.fixture
def rows() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    return 2 * torch.randn(30, 4, generator=g, dtype=torch.float64), torch.arange(30) % 4


@pytest.mark.parametrize("name", FINITE)
def test_the_sum_over_the_classes(name, rows) -> None:
    """The definition, sum_k p_k f(e_k / p_k), by the generator's f alone."""
    z, y = rows
    p, label = z.softmax(1), torch.nn.functional.one_hot(y, 4).double()
    g = get(name)
    expected = (p * g.f(label / p)).sum(1)
    torch.testing.assert_close(lossmith.f_divergence_loss(z, y, generator=name, reduction="none"), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", sorted(set(all_generators()) - set(FINITE)))
def test_an_infinite_divergence_is_refused_and_the_reverse_named(name, rows) -> None:
    reverse = get(name).reverse().name
    with pytest.raises(ValueError, match=re.escape(f"that of {name!r} is inf: take its reverse, {reverse!r}")):
        lossmith.f_divergence_loss(*rows, generator=name)


def test_a_function_of_ones_own(rows) -> None:
    """(u - 1)^4 has f(0) = 1, so that D = (1/p - 1)^3 (1 - p) + (1 - p)."""
    z, y = rows
    g = FGenerator.from_function(lambda u: (u - 1) ** 4, name="fourth")
    p = z.softmax(1).gather(1, y[:, None])[:, 0]
    expected = p * (1 / p - 1) ** 4 + (1 - p)
    torch.testing.assert_close(lossmith.f_divergence_loss(z, y, generator=g, reduction="none"), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kl", lambda p, rest: -mpmath.log(p)),
        ("total_variation", lambda p, rest: rest),
        ("squared_hellinger", lambda p, rest: 2 - 2 * mpmath.sqrt(p)),
        ("pearson_chi2", lambda p, rest: rest / p),
        ("triangular", lambda p, rest: 2 * rest / (1 + p)),
        ("jensen_shannon", lambda p, rest: mpmath.log(2) + (p * mpmath.log(p) - (1 + p) * mpmath.log(1 + p)) / 2),
        ("skew_kl(skew=0.1)", lambda p, rest: -mpmath.log((1 + 9 * p) / 10)),
        ("gan", lambda p, rest: 2 * mpmath.log(2) + p * mpmath.log(p) - (1 + p) * mpmath.log(1 + p)),
    ],
)
@pytest.mark.parametrize("margin", [-40.0, -3.0, 0.0, 2.0, 12.0])
def test_digits_at_every_margin(name, value, margin) -> None:
    """Two classes, against 60 digits: to what log_softmax leaves of the digits of a sure, right prediction."""
    with mpmath.workdps(60):
        odds = mpmath.exp(margin)
        expected = float(value(odds / (1 + odds), 1 / (1 + odds)))
    z = torch.tensor([[margin, 0.0]], dtype=torch.float64)
    found = lossmith.f_divergence_loss(z, torch.tensor([0]), generator=name).item()
    assert found == pytest.approx(expected, rel=1e-12 if margin < 3 else 1e-10, abs=0)


def test_a_class_of_probability_zero_costs_what_the_divergence_is_bounded_by() -> None:
    z = torch.tensor([[-torch.inf, 0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    for name, most in (("jensen_shannon", math.log(2)), ("total_variation", 1.0), ("squared_hellinger", 2.0), ("kl", math.inf)):
        loss = lossmith.f_divergence_loss(z, torch.tensor([0]), generator=name)
        assert loss.item() == pytest.approx(most)
        if math.isfinite(most):
            assert gradient(loss, z).eq(0).all()


@pytest.mark.parametrize("name", FINITE)
@pytest.mark.parametrize("margin", [-50.0, -30.0, 30.0, 95.0])
def test_the_gradient_at_far_margins_in_float32(name, margin) -> None:
    """A label of probability 1e-22 has a loss, and a gradient, that are floats."""
    z, y = torch.tensor([[margin, 0.0, 0.0]]), torch.tensor([0])
    (found, exact) = ((lossmith.f_divergence_loss(at, y, generator=name), at) for at in (leaf(z), leaf(z.double())))
    if exact[0].item() > 1e25:
        pytest.skip("near the largest float32")
    torch.testing.assert_close(found[0].double(), exact[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradient(*found).double(), gradient(*exact), rtol=1e-4, atol=1e-6)


def by_definition(predictions: list[torch.Tensor], y: torch.Tensor, w: float) -> torch.Tensor:
    """The weighted Jensen-Shannon divergence of e_y and the predictions, each compared with their mixture, over Z."""
    label = torch.nn.functional.one_hot(y, predictions[0].shape[1]).double()
    parts = [(w, label), *(((1 - w) / len(predictions), p) for p in predictions)]
    mixture = torch.stack([weight * p for weight, p in parts]).sum(0)
    total = torch.stack([weight * torch.xlogy(p, p / mixture).sum(1) for weight, p in parts]).sum(0)
    return total / (-(1 - w) * math.log(1 - w))


@pytest.mark.parametrize("w", [0.1, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("views", [1, 2, 3])
def test_jensen_shannon_by_its_definition(w, views, rows) -> None:
    z, y = rows
    inputs = [z.roll(3 * j, 0) for j in range(views)]
    expected = by_definition([x.softmax(1) for x in inputs], y, w)
    given = inputs if views > 1 else z
    found = lossmith.generalized_jensen_shannon(given, y, label_weight=w, reduction="none")
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_equal_views_are_one_view(rows) -> None:
    z, y = rows
    one = lossmith.generalized_jensen_shannon(z, y, reduction="none")
    torch.testing.assert_close(lossmith.generalized_jensen_shannon([z, z, z], y, reduction="none"), one, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(lossmith.generalized_jensen_shannon((z,), y, reduction="none"), one, rtol=1e-12, atol=1e-13)


def test_the_ends_are_cross_entropy_and_mean_absolute_error() -> None:
    """Towards 1 the difference falls as 1 / -log(1 - w): extrapolated in that number, nothing is left of it."""
    z, y = torch.randn(50, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64), torch.arange(50) % 5
    near_0 = lossmith.generalized_jensen_shannon(z, y, label_weight=1e-7, reduction="none")
    torch.testing.assert_close(near_0, lossmith.cross_entropy(z, y, reduction="none"), rtol=1e-4, atol=1e-6)
    at = torch.tensor([1e-5, 1e-7], dtype=torch.float64)
    near_1 = torch.stack([lossmith.generalized_jensen_shannon(z, y, label_weight=1 - gap, reduction="none") for gap in at.tolist()])
    step = -1 / at.log()
    at_1 = near_1[1] - step[1] * (near_1[1] - near_1[0]) / (step[1] - step[0])
    torch.testing.assert_close(at_1, lossmith.classification_mae(z, y, reduction="none"), rtol=1e-4, atol=1e-4)


def test_masks_soft_targets_and_gradients_of_several_views(rows) -> None:
    z, y = rows
    views = [z, z.roll(1, 0), z.roll(2, 1)]
    dropped = y.clone()
    dropped[4] = -100
    dirty = [leaf(view.index_fill(0, torch.tensor(4), torch.nan)) for view in views]
    loss = lossmith.generalized_jensen_shannon(dirty, dropped)
    kept = torch.arange(30) != 4
    expected = lossmith.generalized_jensen_shannon([view[kept] for view in views], y[kept])
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    for slope in torch.autograd.grad(loss, dirty):
        assert slope.isfinite().all()
        assert slope[4].eq(0).all()
    soft = torch.softmax(z.flip(0), 1)
    each = [lossmith.generalized_jensen_shannon(views, torch.full_like(y, k), reduction="none") for k in range(4)]
    found = lossmith.generalized_jensen_shannon(views, soft, reduction="none")
    torch.testing.assert_close(found, (soft * torch.stack(each, 1)).sum(1), rtol=1e-12, atol=1e-13)
    assert torch.autograd.gradcheck(lambda a, b: lossmith.generalized_jensen_shannon([a, b], y[:3]), (leaf(z[:3]), leaf(views[1][:3])))


def test_views_that_contradict_the_label_and_one_another_cost_the_entropy_of_the_weights() -> None:
    views = [300 * torch.eye(4, dtype=torch.float64)[k].unsqueeze(0) for k in (1, 2)]
    weights = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    most = -(weights * weights.log()).sum() / (0.5 * math.log(2))
    torch.testing.assert_close(lossmith.generalized_jensen_shannon(views, torch.tensor([0])), most, rtol=1e-12, atol=0)


def test_pixels_in_several_views(rows) -> None:
    z, y = rows
    a, b = z.reshape(5, 6, 4).movedim(-1, 1), z.flip(0).reshape(5, 6, 4).movedim(-1, 1)
    flat = lossmith.generalized_jensen_shannon([z, z.flip(0)], y, reduction="none")
    torch.testing.assert_close(lossmith.generalized_jensen_shannon([a, b], y.reshape(5, 6), reduction="none"), flat.reshape(5, 6))


def test_a_class_impossible_in_every_view(rows) -> None:
    z, _ = rows
    hidden = torch.arange(4) == 2
    views = [leaf(torch.where(hidden, -torch.inf, view)) for view in (z, z.flip(0))]
    loss = lossmith.generalized_jensen_shannon(views, torch.zeros(30, dtype=torch.long))
    assert loss.isfinite()
    assert all(slope.isfinite().all() for slope in torch.autograd.grad(loss, views))


@pytest.mark.parametrize("label_weight", [0.1, 0.5, 0.9])
def test_slopes_of_hopeless_rows(label_weight) -> None:
    """A label of probability p, where 1 - p rounds to 1 in float32: the slope by log p is that of the definition, by mpmath."""
    for log_p in (-18.0, -25.0, -60.0):
        z = torch.tensor([[log_p, 0.0]], requires_grad=True)
        (slope,) = torch.autograd.grad(lossmith.generalized_jensen_shannon(z, torch.tensor([0]), label_weight=label_weight), z)
        with mpmath.workdps(60):
            w = mpmath.mpf(label_weight)

            def loss(x, w=w):
                p = 1 / (1 + mpmath.exp(-x))
                m = w + (1 - w) * p
                kl = w * -mpmath.log(m) + (1 - w) * (p * mpmath.log(p / m) - (1 - p) * mpmath.log(1 - w))
                return kl / (-(1 - w) * mpmath.log(1 - w))

            expected = float(mpmath.diff(loss, log_p))
        assert slope[0, 0].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda z, y: lossmith.generalized_jensen_shannon([], y), TypeError, "input must be"),
        (lambda z, y: lossmith.generalized_jensen_shannon([z, z[:-1]], y), ValueError, r"views must have one shape.*\(30, 4\).*\(29, 4\)"),
        (lambda z, y: lossmith.generalized_jensen_shannon([z, z.float()], y), ValueError, "views must have one shape"),
        (lambda z, y: lossmith.generalized_jensen_shannon(z, y, label_weight=1.0), ValueError, r"label_weight must be in \(0, 1\)"),
        (lambda z, y: lossmith.f_divergence_loss(z, y, generator="jensen"), ValueError, "did you mean 'jensen_shannon'"),
        (
            lambda z, y: lossmith.f_divergence_loss(z, y, generator="alpha_tsallis"),
            ValueError,
            r"did you mean 'alpha_tsallis\(alpha=...\)'",
        ),
        (lambda z, y: lossmith.f_divergence_loss(z, y, generator="skew_kl(skew=x)"), ValueError, "must be in lossmith.generators"),
        (lambda z, y: lossmith.f_divergence_loss(z, y, generator=None), ValueError, "must be in lossmith.generators"),
    ],
)
def test_mistakes_are_one_clear_line(call, error, said, rows) -> None:
    with pytest.raises(error, match=said) as caught:
        call(*rows)
    assert "\n" not in str(caught.value)


@pytest.mark.compile
@pytest.mark.parametrize("name", ["kl", "alpha_tsallis(alpha=0.37)"])
def test_it_compiles_with_a_generator_by_name(name, rows) -> None:
    z, y = rows
    eager = lossmith.f_divergence_loss(z, y, generator=name)
    compiled = torch.compile(lambda a, b: lossmith.f_divergence_loss(a, b, generator=name), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(z, y), eager, rtol=1e-12, atol=0)
