"""The Bayesian tests against baycomp, closed forms and their limits."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from lossmith.study.statistics.bayes import Chances, bayesian_sign_test, bayesian_signed_rank_test, correlated_t
from lossmith.study.statistics.paired import corrected_t

# What baycomp 1.0.3 answered for `drawn(n, n)`, as CorrelatedTTest.probs(zeros, d, rope), and for `drawn(seed, 9, spread=0.03)`, as
# SignTest.probs(zeros, d, rope=0.01, nsamples=200_000, random_state=0) and SignedRankTest.probs with nsamples=20_000. It is recorded and
# not installed, because it installs a top-level package called `tests`.
CORRELATED_T = {
    (5, 0.005): (0.210038975527, 0.240554513664, 0.549406510809),
    (5, 0.02): (0.055095353112, 0.761367079904, 0.183537566984),
    (10, 0.005): (0.031387989359, 0.265594715897, 0.703017294744),
    (10, 0.02): (0.000769048356, 0.946721411587, 0.052509540057),
    (30, 0.005): (0.000555988685, 0.058477672888, 0.940966338427),
    (30, 0.02): (1.42732e-07, 0.914282698548, 0.08571715872),
}
SIGN = [(0.01098, 0.14166, 0.84736), (0.0071, 0.03508, 0.95782), (0.01338, 0.35925, 0.62736), (0.205, 0.7183, 0.07669)]
SIGNED_RANK = [(0.00025, 0.18195, 0.8178), (0.0015, 0.08945, 0.90905), (0.07385, 0.24035, 0.6858), (0.3821, 0.4475, 0.1704)]


def drawn(seed: int, n: int, mean: float = 0.01, spread: float = 0.02) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, spread, n)


def as_tuple(chances: Chances) -> tuple[float, float, float]:
    return chances.worse, chances.equivalent, chances.better


class TestCorrelatedT:
    @pytest.mark.parametrize(("n", "rope"), CORRELATED_T)
    def test_it_is_that_of_baycomp(self, n, rope):
        d = drawn(n, n)
        # Its folds overlap as in n-fold cross-validation: one fold tested, n - 1 trained on.
        found = correlated_t(d, train_size=(n - 1) * 10, test_size=10, rope=rope)
        assert as_tuple(found) == pytest.approx(CORRELATED_T[n, rope], rel=1e-9, abs=1e-12)

    def test_its_interval_is_that_of_the_corrected_test(self):
        d = drawn(1, 12)
        _, low, high, _ = corrected_t(d, train_size=800, test_size=100, alpha=0.1)
        middle, half = (low + high) / 2, (high - low) / 2
        found = correlated_t(d - middle, train_size=800, test_size=100, rope=half)
        assert as_tuple(found) == pytest.approx((0.05, 0.9, 0.05), rel=1e-9)

    def test_identical_outcomes_are_equivalent(self):
        assert as_tuple(correlated_t(np.zeros(5), train_size=800, test_size=100, rope=0.01)) == (0, 1, 0)

    def test_equal_differences_are_not_certainty(self):
        found = correlated_t(np.full(4, 0.01), train_size=80, test_size=20, rope=0.01)
        assert found.better == pytest.approx(0.5)


class TestOverDataSets:
    @pytest.mark.parametrize("seed", range(4))
    def test_the_sign_test_is_that_of_baycomp(self, seed):
        d = drawn(seed, 9, spread=0.03)
        # Four standard errors of its sampling, and what its pseudo-count of 1e-4 for an empty side may move.
        assert as_tuple(bayesian_sign_test(d, rope=0.01)) == pytest.approx(SIGN[seed], abs=4 * 0.5 / math.sqrt(200_000))

    @pytest.mark.parametrize("seed", range(4))
    def test_the_signed_rank_test_is_that_of_baycomp(self, seed):
        d = drawn(seed, 9, spread=0.03)
        # Four standard errors of the difference of two samples, of 20,000 and 50,000 draws.
        allowed = 4 * 0.5 * math.sqrt(1 / 20_000 + 1 / 50_000)
        assert as_tuple(bayesian_signed_rank_test(d, rope=0.01)) == pytest.approx(SIGNED_RANK[seed], abs=allowed)

    def test_the_sign_test_with_two_sides_is_a_beta_tail(self):
        # Nothing below the rope: the largest is decided between inside and above, whose share is a beta variable.
        d = np.array([0.0, 0.001, 0.05, 0.05, 0.05])
        found = bayesian_sign_test(d, rope=0.01, prior=0.5)
        assert as_tuple(found) == pytest.approx((0, stats.beta.cdf(0.5, 3, 2.5), stats.beta.sf(0.5, 3, 2.5)), rel=1e-8)

    @pytest.mark.parametrize("counts", [(1, 2, 4), (3, 1, 1), (0, 0, 7), (2, 30, 2)])
    def test_the_chances_of_the_sign_test_sum_to_one(self, counts):
        d = np.repeat([-0.1, 0.0, 0.1], counts)
        assert sum(as_tuple(bayesian_sign_test(d, rope=0.01, prior=0.3))) == pytest.approx(1, rel=1e-8)

    def test_the_signed_rank_test_of_one_data_set_by_hand(self):
        # Weights w on a difference beyond the rope, 1 - w on none: w² + 2 w (1 - w) above when their average is beyond it too.
        found = bayesian_signed_rank_test(np.array([0.05]), rope=0.01, prior=1.0)
        # Above is the largest where 1 - (1 - w)² > (1 - w)², and w is uniform.
        assert found.better == pytest.approx(math.sqrt(0.5), abs=4 * 0.46 / math.sqrt(50_000))
        assert found.worse == 0
        inside = bayesian_signed_rank_test(np.array([0.015]), rope=0.01, prior=1.0)
        # The average with the imagined data set is inside: above is largest where w² > 1/2.
        assert inside.better == pytest.approx(1 - math.sqrt(0.5), abs=4 * 0.46 / math.sqrt(50_000))

    @pytest.mark.parametrize("test", [bayesian_sign_test, bayesian_signed_rank_test])
    def test_turning_the_sides_round_turns_the_chances_round(self, test):
        d = drawn(7, 8)
        there, back = test(d, rope=0.01), test(-d, rope=0.01)
        assert (back.worse, back.equivalent, back.better) == pytest.approx((there.better, there.equivalent, there.worse), abs=1e-9)

    @pytest.mark.parametrize("test", [bayesian_sign_test, bayesian_signed_rank_test])
    def test_the_same_study_has_the_same_chances(self, test):
        assert test(drawn(8, 8), rope=0.01) == test(drawn(8, 8), rope=0.01)

    def test_many_data_sets_decide(self):
        assert bayesian_signed_rank_test(drawn(9, 40, 0.05), rope=0.01).verdict() == "better"
        assert bayesian_signed_rank_test(drawn(9, 40, -0.05), rope=0.01).verdict() == "worse"
        assert bayesian_signed_rank_test(drawn(9, 40, 0.0, 0.001), rope=0.01).verdict() == "equivalent"


def test_the_largest_part_of_a_dirichlet_vector_by_another_integral():
    """Over the simplex instead of gamma variables."""
    found = bayesian_sign_test(np.repeat([-0.1, 0.0, 0.1], (2, 1, 4)), rope=0.01, prior=1.0)

    def share(x: float, y: float) -> float:
        return stats.dirichlet.pdf([y, 1 - x - y, x], [2, 2, 4])

    # above = x is the largest: below = y < x and inside = 1 - x - y < x.
    expected = integrate.dblquad(lambda y, x: share(x, y), 1 / 3, 1, lambda x: max(0, 1 - 2 * x), lambda x: min(x, 1 - x))[0]
    assert found.better == pytest.approx(expected, rel=1e-7)


def test_a_verdict_needs_its_level():
    chances = Chances(0.01, 0.05, 0.94)
    assert (chances.verdict(), chances.verdict(0.9)) == ("undecided", "better")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: correlated_t(np.array([0.1]), train_size=8, test_size=1, rope=0.01), "differences: shape"),
        (lambda: correlated_t(np.array([0.1, np.nan]), train_size=8, test_size=1, rope=0.01), "wanted 2 finite numbers"),
        (lambda: correlated_t(np.array([0.1, 0.2]), train_size=8, test_size=1, rope=0.0), "rope: 0.0; wanted a positive number"),
        (lambda: correlated_t(np.array([0.1, 0.2]), train_size=0, test_size=1, rope=0.1), "train_size: 0"),
        (lambda: bayesian_sign_test(np.array([]), rope=0.01), "wanted 1 finite numbers or more"),
        (lambda: bayesian_sign_test(np.array([0.1]), rope=0.01, prior=0.0), "prior: 0.0"),
        (lambda: bayesian_signed_rank_test(np.array([0.1]), rope=0.01, prior=-1.0), "prior: -1.0"),
    ],
)
def test_bad_input_is_one_line_that_names_the_argument(call, message):
    with pytest.raises(ValueError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)
