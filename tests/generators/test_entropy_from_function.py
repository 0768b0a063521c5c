"""A user's own entropy: the same as ours where it is ours, refused where it is not convex, with gradients for what is inside it."""

import math

import pytest
import torch
from entropy_cases import logits
from torch.autograd import gradcheck, gradgradcheck

from lossmith.generators import Entropy, gini, shannon, tsallis

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
        (lambda p: p.sum(), "omega must be elementwise when separable"),
    ],
)
@pytest.mark.untyped
def test_what_is_no_entropy_is_refused(omega, message):
    with pytest.raises(ValueError, match=message):
        Entropy.from_function(omega)
