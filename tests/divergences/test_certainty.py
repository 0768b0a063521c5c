"""The divergence of a label's certainty is that of its one-hot row."""

from __future__ import annotations

import math

import pytest
import torch

from lossmith.divergences import divergence, from_certainty
from lossmith.generators import all_generators, get


@pytest.mark.parametrize("name", list(all_generators()))
def test_it_is_the_divergence_of_the_one_hot_row(name) -> None:
    """Infinite ones included, and at probabilities of 0 and 1."""
    p = torch.tensor([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0], [1e-300, 0.5, 0.5], [0.0, 0.25, 0.75]], dtype=torch.float64)
    label = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).expand(4, 3)
    found = from_certainty(p[:, 0].log(), get(name))
    torch.testing.assert_close(found, divergence(label, p, name), rtol=1e-12, atol=1e-14)


def test_logarithms_that_no_float_has_the_probability_of() -> None:
    log_p = torch.tensor([-1e5, -1e30], dtype=torch.float64)
    torch.testing.assert_close(from_certainty(log_p, get("kl")), -log_p, rtol=1e-14, atol=0)
    torch.testing.assert_close(from_certainty(log_p, get("jensen_shannon")), torch.full_like(log_p, math.log(2)), rtol=1e-14, atol=0)


@pytest.mark.parametrize("q", [-0.2, 0.0, 0.01, 0.3, 0.9])
def test_powers_of_probabilities_that_round_to_nothing(q) -> None:
    """(1 - p^q) / q in float32, where p itself is 0 and its power is not."""
    generator = get("alpha_cichocki", alpha=1 - q)
    for log_p in (-150.0, -400.0, -1e-3):
        exact = -log_p if q == 0 else -math.expm1(q * log_p) / q
        found = from_certainty(torch.tensor(log_p), generator).item() * (1 - q)
        assert found == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.3, 0.5, 0.7, 1.0, 1.5, 3.0])
def test_an_alpha_divergence_of_a_log_ratio_is_a_number_at_both_ends(alpha) -> None:
    r = torch.tensor([-torch.inf, -1e30, -1e4, 0.0, 88.0, 1e4, torch.inf])
    generator = get("alpha_cichocki", alpha=alpha)
    found = generator.f_log(r)
    assert not found.isnan().any()
    assert found[0].item() == pytest.approx(generator.at_zero)
    assert found[3] == 0
    assert found[5:].isposinf().all()
