"""Calibration errors against closed forms, brute force from the definitions, and every order of tied rows."""

import itertools
import math
import re

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from lossmith.calibration import area_under_risk_coverage, expected_calibration_error, reliability_curve


def grid(n: int) -> torch.Tensor:
    """Midpoints of n equal cells: the uniform distribution on (0, 1) without chance."""
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


def brute_force_ece(confidence: np.ndarray, correct: np.ndarray, bins: int) -> float:
    total = 0.0
    for b in range(bins):
        low, high = b / bins, (b + 1) / bins
        inside = (confidence >= low) & ((confidence < high) if b < bins - 1 else (confidence <= high))
        if inside.any():
            total += inside.mean() * abs(confidence[inside].mean() - correct[inside].mean())
    return total


class TestExpectedCalibrationError:
    def test_confidence_of_exactly_one_is_in_the_last_bin(self):
        confidence = torch.tensor([0.95, 1.0], dtype=torch.float64)
        assert expected_calibration_error(confidence, torch.tensor([1, 0]), bins=10).item() == pytest.approx(0.475, abs=1e-15)

    def test_confidence_of_exactly_zero_is_in_the_first_bin(self):
        curve = reliability_curve(torch.tensor([0.0, 0.0, 0.05]), torch.tensor([1, 0, 0]), bins=10)
        assert curve.count.tolist() == [3] + [0] * 9

    @pytest.mark.parametrize("equal_mass", [False, True])
    @pytest.mark.parametrize("bins", [1, 2, 7, 15, 40])
    def test_accuracy_below_confidence_everywhere_gives_one_sixth_for_every_binning(self, bins, equal_mass):
        p = grid(42_000)
        value = expected_calibration_error(p, p**2, bins=bins, equal_mass=equal_mass)
        assert value.item() == pytest.approx(1 / 6, abs=1e-9)

    @pytest.mark.parametrize(("bins", "expected"), [(1, 0), (2, 1 / 2), (6, 1 / 2), (5, 1 / 2 - 1 / 50), (15, 1 / 2 - 1 / 450)])
    def test_errors_of_opposite_sign_cancel_within_a_bin(self, bins, expected):
        p = grid(30_000)
        assert expected_calibration_error(p, 1 - p, bins=bins).item() == pytest.approx(expected, abs=1e-8)

    def test_bias_of_a_calibrated_predictor(self):
        generator = torch.Generator().manual_seed(0)
        n, bins, repeats = 10_000, 15, 1000
        values = []
        for _ in range(repeats):
            p = torch.rand(n, generator=generator, dtype=torch.float64)
            right = torch.rand(n, generator=generator, dtype=torch.float64) < p
            values.append(expected_calibration_error(p, right, bins=bins).item())
        expected = math.pi / 8 * math.sqrt(2 * bins / (math.pi * n))
        # The mean of a thousand values is known to 0.6 %.
        assert np.mean(values) == pytest.approx(expected, rel=0.03)

    @pytest.mark.parametrize("bins", [1, 10, 15, 50])
    def test_against_brute_force(self, bins):
        rng = np.random.default_rng(bins)
        # Many values on the edges themselves, among them those that floor(p * bins) puts on the wrong side.
        confidence = np.concatenate([rng.random(300), np.arange(bins + 1) / bins, rng.integers(0, 101, 200) / 100])
        correct = (rng.random(len(confidence)) < 0.7).astype(float)
        value = expected_calibration_error(torch.from_numpy(confidence), torch.from_numpy(correct), bins=bins)
        assert value.item() == pytest.approx(brute_force_ece(confidence, correct, bins), abs=1e-12)

    def test_class_probabilities_are_judged_by_their_top_class(self):
        generator = torch.Generator().manual_seed(1)
        probabilities = torch.softmax(3 * torch.randn(200, 4, generator=generator, dtype=torch.float64), 1)
        target = torch.randint(0, 4, (200,), generator=generator)
        confidence, predicted = probabilities.max(1)
        whole = expected_calibration_error(probabilities, target)
        assert whole == expected_calibration_error(confidence, predicted == target)
        assert whole.dtype == torch.float64

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    def test_rounded_softmax_is_accepted(self, dtype):
        probabilities = torch.softmax(torch.randn(100, 10, generator=torch.Generator().manual_seed(2)), 1)
        target = torch.arange(100) % 10
        rounded = probabilities.to(dtype)
        confidence, predicted = rounded.double().max(1)
        expected = brute_force_ece(confidence.numpy(), (predicted == target).double().numpy(), 15)
        assert expected_calibration_error(rounded, target).item() == pytest.approx(expected, abs=1e-12)

    def test_equal_mass_against_brute_force(self):
        rng = np.random.default_rng(3)
        confidence, correct = rng.random(120) ** 2, (rng.random(120) < 0.6).astype(float)
        order = np.argsort(confidence)
        parts = np.split(order, 8)
        expected = sum(15 / 120 * abs(confidence[i].mean() - correct[i].mean()) for i in parts)
        value = expected_calibration_error(torch.from_numpy(confidence), torch.from_numpy(correct), bins=8, equal_mass=True)
        assert value.item() == pytest.approx(expected, abs=1e-12)

    @pytest.mark.parametrize("equal_mass", [False, True])
    def test_the_order_of_rows_does_not_matter_even_with_ties(self, equal_mass):
        rng = np.random.default_rng(4)
        confidence, correct = rng.integers(1, 5, 101) / 5, rng.integers(0, 2, 101).astype(float)
        values = []
        for _ in range(10):
            shuffle = rng.permutation(101)
            pair = torch.from_numpy(confidence[shuffle]), torch.from_numpy(correct[shuffle])
            values.append(expected_calibration_error(*pair, bins=7, equal_mass=equal_mass).item())
        assert np.ptp(values) < 1e-12

    def test_more_bins_of_equal_mass_than_rows(self):
        confidence, right = torch.tensor([0.2, 0.6, 0.9], dtype=torch.float64), torch.tensor([0.0, 1.0, 1.0])
        value = expected_calibration_error(confidence, right, bins=10, equal_mass=True)
        assert value.item() == pytest.approx((0.2 + 0.4 + 0.1) / 3)


class TestReliabilityCurve:
    @pytest.mark.parametrize("equal_mass", [False, True])
    def test_it_adds_up_to_the_expected_calibration_error(self, equal_mass):
        generator = torch.Generator().manual_seed(5)
        confidence = torch.rand(500, generator=generator, dtype=torch.float64) ** 0.3
        right = torch.rand(500, generator=generator) < 0.8
        curve = reliability_curve(confidence, right, bins=12, equal_mass=equal_mass)
        gaps = torch.nan_to_num((curve.confidence - curve.accuracy).abs(), nan=0.0)
        expected = expected_calibration_error(confidence, right, bins=12, equal_mass=equal_mass)
        assert curve.count.sum() == 500
        assert ((curve.count * gaps).sum() / 500).item() == pytest.approx(expected.item(), abs=1e-14)
        filled = curve.count > 0
        assert bool((curve.lower[filled] <= curve.confidence[filled]).all())
        assert bool((curve.confidence[filled] <= curve.upper[filled]).all())

    def test_counts_are_a_histogram_of_the_confidences(self):
        confidence = np.random.default_rng(6).integers(0, 51, 400) / 50
        counts = reliability_curve(torch.from_numpy(confidence), torch.ones(400), bins=50).count.tolist()
        assert counts == np.histogram(confidence, np.arange(51) / 50)[0].tolist()

    def test_an_empty_bin_is_nan_and_counts_nothing(self):
        curve = reliability_curve(torch.tensor([0.9, 0.9]), torch.tensor([True, False]), bins=2)
        assert curve.count.tolist() == [0, 2]
        assert curve.accuracy[0].isnan()
        assert curve.confidence[0].isnan()
        assert curve.accuracy[1] == 0.5


class TestAreaUnderRiskCoverage:
    def test_perfect_ranking(self):
        n, r = 1_000_000, 0.1
        right = torch.arange(n) < n * (1 - r)
        value = area_under_risk_coverage(-torch.arange(n, dtype=torch.float64), right)
        assert value.item() == pytest.approx(r + (1 - r) * math.log(1 - r), abs=1e-6)

    def test_ranking_at_random_gives_the_error_rate(self):
        generator = torch.Generator().manual_seed(7)
        right = torch.rand(200_000, generator=generator) < 0.9
        value = area_under_risk_coverage(torch.rand(200_000, generator=generator), right)
        # The standard deviation of a risk among k rows averages to about 2 sqrt(r (1 - r) / n) = 0.0013 over k.
        assert value.item() == pytest.approx(0.1, abs=0.004)

    def test_no_ranking_at_all_gives_the_error_rate_exactly(self):
        right = torch.tensor([1, 1, 0, 1, 0])
        assert area_under_risk_coverage(torch.full((5,), 0.7), right).item() == pytest.approx(0.4, abs=1e-15)

    def test_ties_are_the_mean_over_all_orders(self):
        score, right = [0.9, 0.5, 0.5, 0.5, 0.2, 0.2], [1, 0, 1, 1, 0, 1]
        values = []
        for order in itertools.permutations(range(6)):
            if all(score[a] >= score[b] for a, b in itertools.pairwise(order)):
                wrong = np.array([1 - right[i] for i in order])
                values.append((wrong.cumsum() / np.arange(1, 7)).mean())
        assert len(values) == 12
        value = area_under_risk_coverage(torch.tensor(score), torch.tensor(right))
        assert value.item() == pytest.approx(np.mean(values), abs=1e-14)

    def test_only_the_order_of_scores_matters(self):
        generator = torch.Generator().manual_seed(8)
        score, right = torch.randn(300, generator=generator).double(), torch.rand(300, generator=generator) < 0.7
        assert area_under_risk_coverage(score, right) == area_under_risk_coverage(score.exp(), right)

    def test_class_probabilities_are_ranked_by_their_top_class(self):
        generator = torch.Generator().manual_seed(9)
        probabilities = torch.softmax(torch.randn(50, 3, generator=generator), 1)
        target = torch.arange(50) % 3
        confidence, predicted = probabilities.max(1)
        expected = area_under_risk_coverage(confidence, predicted == target)
        assert area_under_risk_coverage(probabilities, target) == expected


@pytest.mark.parametrize(
    ("probabilities", "target", "options", "message"),
    [
        (torch.randn(4, 3), torch.zeros(4).long(), {}, r"probabilities: values outside \[0, 1\]"),
        (torch.full((4, 3), 0.5), torch.zeros(4).long(), {}, "probabilities: rows that do not sum to 1"),
        (torch.tensor([0.5, math.nan]), torch.tensor([1, 0]), {}, "probabilities: .*NaN"),
        (torch.full((4, 2), 0.5), torch.zeros(4), {}, r"target: torch\.float32 with class probabilities"),
        (torch.full((4,), 0.5), torch.zeros(3), {}, r"target: shape \(3,\); wanted \(4,\)"),
        (torch.full((2,), 0.5), torch.tensor([2, 0]), {}, r"target: values outside \[0, 1\]"),
        (torch.zeros(0), torch.zeros(0), {}, "target: no rows"),
        (torch.zeros(4).long(), torch.zeros(4), {}, r"probabilities: torch\.int64"),
        (torch.full((2,), 0.5), torch.ones(2), {"bins": 0}, "bins: 0; wanted"),
    ],
)
def test_bad_input_is_one_line_that_names_the_argument(probabilities, target, options, message):
    # A runtime type checker, where one is installed, refuses a wrong shape or type before we can.
    with pytest.raises((ValueError, TypeCheckError)) as raised:
        expected_calibration_error(probabilities, target, **options)
    if isinstance(raised.value, ValueError):
        assert re.search(message, str(raised.value))
        assert "\n" not in str(raised.value)


def test_ranking_refuses_nan_scores():
    with pytest.raises(ValueError, match="probabilities: NaN among the scores"):
        area_under_risk_coverage(torch.tensor([0.5, math.nan]), torch.tensor([1, 0]))
