"""Generators from a convex function alone, and what is refused."""

import math

import pytest
import torch
from generator_cases import REDERIVED, REGISTERED

from lossmith.generators import FGenerator, jeffreys, kl


@pytest.mark.parametrize("name", [name for name, g in REGISTERED.items() if g.strict])
def test_what_is_rederived_agrees_with_the_formulas(name):
    known, found = REGISTERED[name], REDERIVED[f"from_function of {name}"]
    u = torch.tensor([0.01, 0.3, 0.9, 1.2, 5.0, 100.0], dtype=torch.float64)
    t = known.df(u)
    for member, at, tolerance in (("df", u, 1e-11), ("d2f", u, 1e-9), ("conjugate", t, 1e-9), ("inverse_link", t, 1e-9)):
        torch.testing.assert_close(getattr(found, member)(at), getattr(known, member)(at), rtol=tolerance, atol=1e-11)
    assert found.numerical == ("df", "d2f", "conjugate", "inverse_link")
    assert (2 * found).tilted(1.0).numerical == found.numerical
    assert not known.numerical or set(known.numerical) == {"conjugate", "inverse_link"}


def test_a_formula_that_is_nan_at_zero_gets_its_limits():
    g = FGenerator.from_function(lambda u: u * u.log(), name="plain")
    assert (g.at_zero, g.slope_at_zero, g.slope_at_infinity) == (0.0, -math.inf, math.inf)
    assert g.f(torch.zeros(2)).tolist() == [0.0, 0.0]
    u = torch.tensor([0.0, 0.5, 2.0], requires_grad=True)
    g.f(u).sum().backward()
    assert u.grad is not None
    assert u.grad.isfinite().all()


def test_stated_limits_take_the_place_of_judged_ones():
    g = FGenerator.from_function(kl.f, name="stated", at_zero=0.0, slope_at_zero=-math.inf, slope_at_infinity=math.inf)
    t = torch.tensor([-3.0, 0.0, 2.0])
    torch.testing.assert_close(g.conjugate(t), (t - 1).exp())


def test_the_derivatives_of_a_root_are_exact_to_third_order():
    g = FGenerator.from_function(lambda u: u * u.log(), name="plain")
    t = torch.tensor(0.7, dtype=torch.float64)
    member = g.inverse_link
    for _ in range(4):
        torch.testing.assert_close(member(t), (t - 1).exp(), rtol=1e-11, atol=0)
        member = torch.func.grad(member)


def test_parameters_inside_the_function_are_learnt_through_the_conjugate():
    """f = a u log u has f*(t) = a e^(t/a - 1), with derivative in a of e^(t/a - 1) (1 - t/a)."""
    a = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    g = FGenerator(name="scaled", f=lambda u: a * u * u.log(), at_zero=0.0, slope_at_zero=-math.inf, slope_at_infinity=math.inf)
    t = torch.tensor([-1.0, 0.5, 3.0], dtype=torch.float64)
    for member, exact in (
        (g.conjugate, lambda a: a * (t / a - 1).exp()),
        (g.inverse_link, lambda a: (t / a - 1).exp()),
    ):
        (found,) = torch.autograd.grad(member(t).sum(), a)
        torch.testing.assert_close(found, torch.func.grad(lambda a: exact(a).sum())(a.detach()), rtol=1e-12, atol=0)  # noqa: B023


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda u: -(u * u.log()), r"not convex: f' falls from 12\.8155 at u = 1e-06 to .* at u = 1\.01391e-06 \(searched 2001 points of"),
        (lambda u: (u - 1).sin() ** 2, "f is not convex: f' falls from"),
        (lambda u: -(u - 1).abs(), "f is not convex: f' falls from 1 at u = 0.986"),
        (lambda u: (u >= 1) * (u - 1) - 5.0 * (u > 3), "f is not convex: it falls below its tangent at u = 2.97"),
        (lambda u: u * u, r"f\(1\) must be 0; got 1. Subtract it"),
        (lambda u: u.log() / 0, r"f\(1\) must be 0; got nan"),
        (lambda u: (u - 1).exp() - 1, r"f and f' must be finite; f\(7\d\d\.\d+\) = inf \(searched"),
        (lambda u: (u - 1).sum(), r"f must be elementwise; a tensor of shape \(1,\) gave float64 \(\)"),
    ],
)
def test_what_is_no_generator_is_refused_with_the_point(f, message):
    with pytest.raises(ValueError, match=message) as caught:
        FGenerator.from_function(f)
    assert "\n" not in str(caught.value)


def test_the_search_goes_where_it_is_told():
    f = lambda u: torch.where(u < 50, (u - 1).square(), 49 * 49 + 98 * (u - 50) - (u - 50).square())  # noqa: E731
    FGenerator.from_function(f, interval=(0.01, 40), slope_at_infinity=math.inf)
    with pytest.raises(ValueError, match=r"at u = 5\d\..*of \[0\.01, 100\]"):
        FGenerator.from_function(f, interval=(0.01, 100))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: kl.f(0.5), TypeError, r"kl.f: u must be a floating-point tensor; got float 0.5"),
        (lambda: kl.conjugate(torch.tensor([1])), TypeError, r"kl.conjugate: t must be a floating-point tensor; got int64 \(1,\)"),
        (lambda: kl.scaled(-1), ValueError, r"kl.scaled: c must be a positive finite number; got int -1"),
        (lambda: jeffreys.tilted(math.inf), ValueError, r"jeffreys.tilted: c must be a finite number; got float inf"),
        (lambda: kl + 1, TypeError, "unsupported operand"),
    ],
)
@pytest.mark.untyped
def test_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
