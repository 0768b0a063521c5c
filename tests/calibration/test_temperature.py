"""The fitted temperature against closed forms, its own optimality condition, and another minimiser."""

import math
import re

import pytest
import torch
from jaxtyping import TypeCheckError
from scipy.optimize import minimize_scalar

from lossmith.calibration import fit_temperature


def sample(n: int, c: int, temperature: float, scale: float = 2.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels drawn from softmax(logits / temperature)."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n, c, generator=generator, dtype=torch.float64)
    target = torch.multinomial(torch.softmax(logits / temperature, 1), 1, generator=generator).squeeze(1)
    return logits, target


def nll(logits: torch.Tensor, target: torch.Tensor, temperature) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits / temperature, target)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7, 6.0])
def test_recovers_the_temperature_that_labels_were_drawn_with(temperature):
    n = 20_000
    logits, target = sample(n, 5, temperature)
    z = logits / temperature
    p = torch.softmax(z, 1)
    information = ((p * z**2).sum(1) - (p * z).sum(1) ** 2).mean().item()  # of log T, a row
    error = math.log(fit_temperature(logits, target)) - math.log(temperature)
    assert abs(error) < 4 / math.sqrt(information * n)


def test_a_coin_has_the_temperature_of_its_odds():
    logits = torch.tensor([[3.0, -1.0]]).repeat(10, 1)
    target = torch.tensor([0] * 9 + [1])
    assert fit_temperature(logits, target) == pytest.approx(4 / math.log(9), rel=1e-12)


@pytest.mark.parametrize("scale", [0.05, 0.5, 5.0, 100.0])
def test_the_gradient_vanishes_and_no_other_minimiser_does_better(scale):
    # At scale 100 the softmax at T = 1 is saturated: plain Newton's first step leaves the line of positive numbers.
    logits, target = sample(400, 6, scale * 0.6, scale=scale, seed=1)
    fitted = fit_temperature(logits, target)
    log_t = torch.tensor(math.log(fitted), dtype=torch.float64, requires_grad=True)
    nll(logits, target, log_t.exp()).backward()
    assert abs(log_t.grad.item()) < 1e-11
    other = minimize_scalar(
        lambda x: nll(logits, target, math.exp(x)).item(), bounds=(math.log(1e-2), math.log(1e3)), method="bounded",
        options={"xatol": 1e-10},
    )  # fmt: skip
    assert nll(logits, target, fitted).item() <= other.fun + 1e-12
    assert fitted == pytest.approx(math.exp(other.x), rel=1e-5)


def test_scaling_the_logits_scales_the_temperature_and_shifts_and_orders_change_nothing():
    logits, target = sample(300, 4, 1.5, seed=2)
    fitted = fit_temperature(logits, target)
    assert fit_temperature(7 * logits, target) == pytest.approx(7 * fitted, rel=1e-10)
    assert fit_temperature(logits + 1e3 * torch.randn(300, 1).double(), target) == pytest.approx(fitted, rel=1e-10)
    shuffle, classes = torch.randperm(300), torch.tensor([2, 0, 3, 1])
    renamed = torch.argsort(classes)[target]
    assert fit_temperature(logits[shuffle][:, classes], renamed[shuffle]) == pytest.approx(fitted, rel=1e-10)


def test_single_precision_logits_are_fitted_in_double():
    logits, target = sample(300, 4, 1.5, seed=3)
    assert fit_temperature(logits.float(), target) == fit_temperature(logits.float().double(), target)


def test_separated_labels_give_the_lower_bound_exactly():
    logits = 3 * torch.eye(4).repeat(5, 1)
    target = torch.arange(4).repeat(5)
    assert fit_temperature(logits, target) == 1e-2
    assert fit_temperature(logits, target, bounds=(0.25, 10.0)) == 0.25


def test_logits_that_mislead_give_the_upper_bound_exactly():
    logits = -3 * torch.eye(4).repeat(5, 1)
    assert fit_temperature(logits, torch.arange(4).repeat(5)) == 1e3


def test_equal_logits_leave_the_temperature_at_one():
    assert fit_temperature(torch.full((6, 3), 2.5), torch.tensor([0, 1, 2, 0, 0, 0])) == 1.0


def test_the_prior_keeps_separated_labels_finite():
    n, gap = 18, 5.0
    logits = torch.tensor([[gap, 0.0]], dtype=torch.float64).repeat(n, 1)
    # One more row, undecided between two classes: the first has n + 1/2 of n + 1.
    expected = gap / math.log((n + 0.5) / 0.5)
    assert fit_temperature(logits, torch.zeros(n).long(), prior=1.0) == pytest.approx(expected, rel=1e-12)


def test_the_prior_fades_with_the_number_of_rows():
    logits, target = sample(20_000, 5, 1.7, seed=4)
    assert fit_temperature(logits, target, prior=1.0) == pytest.approx(fit_temperature(logits, target), rel=1e-3)


@pytest.mark.parametrize(
    ("logits", "target", "options", "message"),
    [
        (torch.zeros(3, 1), torch.zeros(3).long(), {}, r"logits: .* shape \(3, 1\)"),
        (torch.zeros(0, 2), torch.zeros(0).long(), {}, r"logits: .* shape \(0, 2\)"),
        (torch.zeros(3, 2), torch.zeros(2).long(), {}, r"target: .* shape \(2,\)"),
        (torch.zeros(3, 2), torch.tensor([0, 1, 2]), {}, "target: a class index outside 0 to 1"),
        (torch.tensor([[math.inf, 0.0]]), torch.tensor([0]), {}, "logits: infinite or NaN"),
        (torch.zeros(1, 2), torch.tensor([0]), {"prior": -1.0}, "prior: -1"),
        (torch.zeros(1, 2), torch.tensor([0]), {"bounds": (2.0, 1.0)}, r"bounds: \(2.0, 1.0\)"),
    ],
)
def test_bad_input_is_one_line_that_names_the_argument(logits, target, options, message):
    # A runtime type checker, where one is installed, refuses a wrong shape or type before we can.
    with pytest.raises((ValueError, TypeCheckError)) as raised:
        fit_temperature(logits, target, **options)
    if isinstance(raised.value, ValueError):
        assert re.search(message, str(raised.value))
        assert "\n" not in str(raised.value)
