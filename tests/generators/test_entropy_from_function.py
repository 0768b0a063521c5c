"""A user's own entropy: the same as ours where it is ours, refused where it is not convex, with gradients for what is inside it."""

import math

import pytest
import torch
from entropy_cases import logits
from torch.autograd import gradcheck, gradgradcheck

from lossmith.generators import Entropy, gini, norm_entropy, shannon, squared_norm_entropy, tsallis

PAIRS = {
    "shannon": (lambda p: p * p.log(), shannon),
    "gini": (lambda p: (p.square() - p) / 2, gini),
    "tsallis 0.5": (lambda p: (p**0.5 - p) / -0.25, tsallis(0.5)),
    "tsallis 1.5": (lambda p: (p**1.5 - p) / 0.75, tsallis(1.5)),
    "tsallis 3": (lambda p: (p**3 - p) / 6, tsallis(3.0)),
}


@pytest.mark.parametrize("scale", [0.1, 2.0, 50.0])
@pytest.mark.parametrize(("omega", "known"), PAIRS.values(), ids=PAIRS.keys())
def test_what_is_ours_is_found_again(omega, known, scale):
    mine, theta = Entropy.from_function(omega), logits(3, 6, scale=scale)
    torch.testing.assert_close(mine.argmax(theta), known.argmax(theta), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(mine.conjugate(theta), known.conjugate(theta), rtol=1e-10, atol=1e-12)
    single = mine.argmax(theta.float())
    torch.testing.assert_close(single, known.argmax(theta.float()), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("name", ["shannon", "gini", "tsallis 1.5"])
def test_derivatives_through_the_roots(name):
    mine = Entropy.from_function(PAIRS[name][0])
    theta = torch.tensor([0.3, 0.0, -3.0], dtype=torch.float64, requires_grad=True)
    assert gradcheck(mine.argmax, theta, fast_mode=True)
    assert gradcheck(mine.conjugate, theta, fast_mode=True)
    assert gradgradcheck(mine.argmax, theta, fast_mode=True)


ROWS = {
    "norm 1.5": (lambda p: p.clamp(min=1e-300).pow(1.5).sum(-1).pow(1 / 1.5) - 1, norm_entropy(1.5)),
    "squared norm 3": (lambda p: (p.pow(3).sum(-1).pow(2 / 3) - 1) / 2, squared_norm_entropy(3.0)),
    "gini": (lambda p: (p.square().sum(-1) - 1) / 2, gini),
    "shannon": (shannon.omega, shannon),
}


@pytest.mark.parametrize("scale", [0.1, 2.0, 20.0])
@pytest.mark.parametrize(("omega", "known"), ROWS.values(), ids=ROWS.keys())
def test_an_omega_of_rows(omega, known, scale):
    mine, theta = Entropy.from_function(omega, separable=False, name="mine"), logits(2, 3, 6, scale=scale)
    torch.testing.assert_close(mine.argmax(theta), known.argmax(theta), rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(mine.conjugate(theta), known.conjugate(theta), rtol=1e-10, atol=1e-12)
    theta[..., 2] = -math.inf
    torch.testing.assert_close(mine.argmax(theta), known.argmax(theta), rtol=1e-8, atol=1e-12)
    assert mine.argmax(theta.float()).dtype == torch.float32


@pytest.mark.parametrize("name", ["squared norm 3", "gini", "shannon"])
def test_derivatives_of_an_omega_of_rows(name):
    mine = Entropy.from_function(ROWS[name][0], separable=False)
    theta = torch.tensor([[0.3, 0.0, -2.0, 0.1]], dtype=torch.float64, requires_grad=True)
    assert gradcheck(mine.argmax, theta, fast_mode=True)
    assert gradcheck(mine.conjugate, theta, fast_mode=True)
    assert gradgradcheck(mine.argmax, theta, fast_mode=True)
    torch.testing.assert_close(torch.func.vmap(mine.argmax)(theta), mine.argmax(theta))


def test_an_omega_of_rows_need_not_treat_classes_alike():
    """A weighted Gini: on the support, the slope is theta up to a constant."""
    weight = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    mine = Entropy.from_function(lambda p: (weight * (p.square() - p)).sum(-1) / 2, separable=False)
    theta = torch.tensor([0.2, 0.1, 0.0], dtype=torch.float64)
    p = mine.argmax(theta)
    tau = theta - weight * (p - 0.5)
    torch.testing.assert_close(tau, tau.mean().expand(3), rtol=0, atol=1e-12)


@pytest.mark.parametrize("separable", [True, False])
@pytest.mark.parametrize("row", [[math.nan, 1.0, 0.0], [-math.inf] * 3, [math.inf, 0.0, 1.0]], ids=str)
def test_a_row_without_a_prediction_is_nan_and_no_other_row_is(separable, row):
    mine = Entropy.from_function(PAIRS["gini"][0] if separable else gini.omega, separable=separable)
    theta = torch.tensor([row, [1.0, 0.5, 0.0]], dtype=torch.float64)
    p, conjugate = mine.argmax(theta), mine.conjugate(theta)
    assert p[0].isnan().any()
    assert conjugate[0].isnan()
    torch.testing.assert_close(p[1], gini.argmax(theta[1]))
    torch.testing.assert_close(conjugate[1], gini.conjugate(theta[1]))


def test_many_classes_are_searched_by_halves():
    theta = logits(66, 1000, dtype=torch.float32)
    p = Entropy.from_function(PAIRS["gini"][0]).argmax(theta)
    torch.testing.assert_close(p, gini.argmax(theta), rtol=1e-4, atol=1e-6)


def test_parameters_inside_receive_gradients():
    """d argmax / d alpha of a Tsallis entropy, against a difference quotient of ours."""
    alpha = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    theta, h = torch.tensor([0.4, 0.1, -0.1], dtype=torch.float64), 1e-5
    mine = Entropy.from_function(lambda p: (p**alpha - p) / (alpha * (alpha - 1)))
    (gradient,) = torch.autograd.grad(mine.argmax(theta)[0], alpha)
    expected = (tsallis(1.5 + h).argmax(theta)[0] - tsallis(1.5 - h).argmax(theta)[0]) / (2 * h)
    torch.testing.assert_close(gradient, expected, rtol=1e-7, atol=0)


def test_the_slope_at_zero_decides_about_sparsity():
    assert Entropy.from_function(PAIRS["shannon"][0]).margin == math.inf
    assert abs(Entropy.from_function(PAIRS["tsallis 1.5"][0]).margin - 2) <= 1e-9
    stated = Entropy.from_function(PAIRS["gini"][0], slope_at_zero=-0.5, name="stated")
    assert stated.name == "stated"
    assert stated.margin == 1


@pytest.mark.parametrize(
    ("omega", "message"),
    [
        (lambda p: p - p.square(), r"f is not convex: f' falls from 0.999998 at u = 1e-06"),
        (lambda p: p.square(), r"omega\(0\) and omega\(1\) must be 0; got 0 and 1"),
        (lambda p: p.square() - 1, r"omega\(0\) and omega\(1\) must be 0; got -1 and 0"),
        (lambda p: p.expand(2), "omega must be elementwise when separable"),
    ],
)
@pytest.mark.untyped
def test_what_is_no_entropy_is_refused(omega, message):
    with pytest.raises(ValueError, match=message):
        Entropy.from_function(omega)


@pytest.mark.untyped
def test_no_entropy_of_rows():
    with pytest.raises(ValueError, match="omega must give one number a row"):
        Entropy.from_function(lambda p: p, separable=False)
    with pytest.raises(ValueError, match="omega must be 0 at the vertices"):
        Entropy.from_function(lambda p: p.square().sum(-1), separable=False)
    with pytest.raises(TypeError, match="slope_at_zero goes with separable=True"):
        Entropy.from_function(gini.omega, separable=False, slope_at_zero=0.0)
