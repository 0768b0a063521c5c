"""The e-processes against integrals of densities, scipy's noncentral t and their own promises; and what becomes of those ended early."""

import math
from typing import ClassVar

import mpmath
import numpy as np
import pytest
from scipy import integrate, stats

from lossmith.study.statistics.paired import compare, corrected_t, holm
from lossmith.study.statistics.sequential import (
    KAPPA,
    _log_scale_integral,
    anytime_t,
    fewest_seeds,
    log_evidence,
    log_evidence_against_advantage,
    seeds_until_excluded,
    seeds_until_hopeless,
)
from lossmith.study.statistics.stopping import hopeless

OVERLAP = 1 / 8
SIZES = {"train_size": 800, "test_size": 100}


def model(effect: float, studies: int, seeds: int, seed: int, overlap: float = OVERLAP) -> np.ndarray:
    """Differences drawn from the model: `(studies, seeds)`, in units of a seed's own deviation."""
    rng = np.random.default_rng(seed)
    return effect + math.sqrt(overlap) * rng.standard_normal((studies, 1)) + rng.standard_normal((studies, seeds))


@pytest.mark.parametrize("overlap", [0.0, OVERLAP, 0.5])
@pytest.mark.parametrize("n", [2, 3, 9])
def test_the_evidence_is_a_ratio_of_densities_with_the_scale_integrated_out(n, overlap):
    d = np.random.default_rng(n).normal(0.6, 1, n)

    def marginal(shared: float) -> float:
        covariance = np.eye(n) + shared
        density = stats.multivariate_normal(np.zeros(n), covariance).pdf
        # The right Haar measure dσ/σ, over σ = e^v.
        return integrate.quad(lambda v: density(d * math.exp(-v)) * math.exp(-n * v), -15, 25, epsabs=0, epsrel=1e-12, limit=400)[0]

    expected = math.log(marginal(overlap + KAPPA) / marginal(overlap))
    assert log_evidence(d, overlap=overlap, test_size=100)[-1] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", [2, 4, 22])
def test_the_evidence_has_mean_one_where_nothing_differs(n):
    """Its expectation, by quadrature over the central t distribution that the statistic has."""
    base = np.linspace(-1, 1, n) - np.linspace(-1, 1, n).mean()
    base /= base.std(ddof=1)

    def evidence(t: float) -> float:
        d = base + t * math.sqrt(1 / n + OVERLAP)
        return math.exp(log_evidence(d, overlap=OVERLAP, test_size=100)[-1])

    mean = 2 * integrate.quad(lambda t: evidence(t) * stats.t.pdf(t, n - 1), 0, np.inf, epsabs=0, limit=400)[0]
    assert mean == pytest.approx(1, rel=1e-6)


def test_one_seed_says_nothing_of_a_difference():
    assert log_evidence(np.array([[0.3], [0.0]]), overlap=OVERLAP, test_size=100)[:, 0] == pytest.approx([0, 0], abs=1e-12)


@pytest.mark.parametrize("effect", [0.5, 1.5])
@pytest.mark.parametrize("overlap", [0.0, OVERLAP])
def test_the_evidence_against_an_advantage_is_a_ratio_of_t_densities(overlap, effect):
    d = np.random.default_rng(1).normal(0.3, 0.02, 14) - 0.29
    found = log_evidence_against_advantage(d, overlap=overlap, test_size=100, effect=effect)
    for n in range(2, 15):
        width = math.sqrt(1 / n + overlap)
        t = d[:n].mean() / (d[:n].std(ddof=1) * width)
        expected = stats.t.logpdf(t, n - 1) - np.log(stats.nct.pdf(t, n - 1, effect / width))
        assert found[n - 1] == pytest.approx(expected, rel=1e-8)
    # One seed shows its sign alone.
    sign = 0.5 / stats.norm.cdf(math.copysign(effect / math.sqrt(1 + overlap), d[0]))
    assert found[0] == pytest.approx(math.log(sign), rel=1e-9)


@pytest.mark.parametrize(("overlap", "effect", "miss"), [(OVERLAP, 1.5, 0.05), (0.0, 1.5, 0.05), (0.2, 1.0, 0.2)])
def test_many_studies_are_ended_when_their_evidence_says_so(overlap, effect, miss):
    rng, sizes = np.random.default_rng(6), {"overlap": overlap, "test_size": 20}
    d = rng.normal(rng.choice([-1.0, 0.0, effect], (400, 1)), 1, (400, 12))
    d[0], d[1], d[2] = 0.0, 0.25, -0.25  # equal on every seed
    reached = log_evidence_against_advantage(d, **sizes, effect=effect) >= -math.log(miss)
    after = seeds_until_excluded(d, **sizes, effect=effect, miss=miss)
    np.testing.assert_array_equal(after, np.where(reached.any(-1), reached.argmax(-1), 12) + 1)
    assert len(set(after.tolist())) > 8
    for one, seeds in zip(d[:20], after.tolist(), strict=False):
        assert seeds_until_hopeless(one, **sizes, effect=effect, miss=miss) == (None if seeds == 13 else seeds)


@pytest.mark.parametrize("n", [1, 2, 7, 100])
@pytest.mark.parametrize("shift", [-9.0, -0.5, 0.0, 3.0, 30.0])
def test_the_integral_over_the_scale_is_a_parabolic_cylinder_function(n, shift):
    expected = mpmath.log(mpmath.gamma(n)) + mpmath.mpf(shift) ** 2 / 4 + mpmath.log(mpmath.pcfd(-n, -shift))
    assert _log_scale_integral(n, np.array([shift]))[0] == pytest.approx(float(expected), rel=1e-10, abs=1e-11)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_unit_does_not_matter(scale):
    d = np.random.default_rng(2).normal(0.4, 1, 12)
    sizes = {"overlap": OVERLAP, "test_size": 100}
    np.testing.assert_allclose(log_evidence(scale * d, **sizes), log_evidence(d, **sizes), rtol=1e-9, atol=1e-12)
    one, other = log_evidence_against_advantage(scale * d, **sizes), log_evidence_against_advantage(d, **sizes)
    np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_looking_at_more_seeds_changes_nothing_seen_before():
    d = np.random.default_rng(3).normal(0.4, 1, 12)
    for evidence in (log_evidence, log_evidence_against_advantage):
        whole = evidence(d, overlap=OVERLAP, test_size=100)
        np.testing.assert_allclose(evidence(d[:7], overlap=OVERLAP, test_size=100), whole[:7], rtol=1e-12, atol=1e-14)


def test_the_interval_ends_where_the_evidence_reaches_its_threshold():
    d = np.random.default_rng(4).normal(0.8, 1, 15)
    for alpha in (0.05, 0.2):
        low, high, _ = anytime_t(d, overlap=OVERLAP, test_size=100, alpha=alpha)
        for end in (low, high):
            assert log_evidence(d - end, overlap=OVERLAP, test_size=100).max() == pytest.approx(-math.log(alpha), rel=1e-9)
        inside = anytime_t(d - (low + high) / 2, overlap=OVERLAP, test_size=100, alpha=alpha)
        assert inside.p > alpha


def test_the_p_value_never_rises_as_seeds_come_in():
    d = np.random.default_rng(5).normal(0.3, 1, 30)
    p = [float(anytime_t(d[:n], overlap=OVERLAP, test_size=100).p) for n in range(1, 31)]
    assert p[0] == 1
    assert p == sorted(p, reverse=True)


def test_looking_after_every_seed_keeps_the_error_rate():
    """In the model of the test, over sixty looks. The same evidence that ignores the overlap does not keep it."""
    d = model(0.0, 20_000, 60, seed=6)
    ever = {overlap: (anytime_t(d, overlap=overlap, test_size=100).p <= 0.05).mean() for overlap in (OVERLAP, 0.0)}
    assert 0 < ever[OVERLAP] <= 0.05
    assert ever[0.0] > 0.1


def test_looking_after_every_seed_with_the_corrected_test_does_not():
    """What the e-process is for: the corrected t-test is right at one number of seeds, not at the best of many."""
    d = model(0.0, 20_000, 60, seed=7)
    p = np.stack([corrected_t(d[:, :n], **SIZES)[3] for n in range(2, 61)])
    assert (p <= 0.05).any(0).mean() > 0.15


def test_a_worthwhile_advantage_is_rarely_given_up():
    for effect in (1.5, 2.5):
        given_up = (seeds_until_excluded(model(effect, 4000, 30, seed=8), overlap=OVERLAP, test_size=100) <= 30).mean()
        assert given_up <= 0.05
        assert effect > 1.5 or given_up > 0.01


def test_what_has_no_advantage_is_given_up_early():
    d = model(0.0, 4000, 22, seed=9)
    reached = log_evidence_against_advantage(d, overlap=OVERLAP, test_size=100) >= -math.log(0.05)
    assert reached.any(-1).mean() > 0.85
    assert np.where(reached.any(-1), reached.argmax(-1) + 1, 22).mean() < 8


def test_equal_differences_are_not_certainty():
    d = np.full(10, 0.1)
    found = anytime_t(d, overlap=OVERLAP, test_size=100)
    assert 0 < found.p < 0.05
    assert 0 < found.low < 0.1 < found.high
    assert anytime_t(d, overlap=OVERLAP, test_size=10).p > found.p


def test_no_difference_at_all_is_hopeless_and_no_evidence_of_one():
    zeros = np.zeros(10)
    assert anytime_t(zeros, overlap=OVERLAP, test_size=100).p == 1
    assert seeds_until_hopeless(zeros, overlap=OVERLAP, test_size=100) is not None


def test_a_spread_that_is_small_beside_the_mean_is_kept():
    noise = np.random.default_rng(10).normal(0, 1, 12)
    one = log_evidence(1e6 + noise, overlap=OVERLAP, test_size=100)
    mean, squares, n = (1e6 + noise).mean(), ((noise - noise.mean()) ** 2).sum(), 12
    a, b = 1 + n * OVERLAP, 1 + n * (OVERLAP + KAPPA)
    expected = 0.5 * math.log(a / b) + n / 2 * math.log((squares + n * mean**2 / a) / (squares + n * mean**2 / b))
    assert one[-1] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("comparisons", [1, 4, 19])
def test_the_fewest_seeds(comparisons):
    n = fewest_seeds(comparisons, OVERLAP)
    # The same difference on every seed, which a large test set hardly rounds.
    for seeds, reached in ((n, True), (n - 1, False)):
        p = anytime_t(np.full(seeds, 1.0), overlap=OVERLAP, test_size=10**9).p
        assert (holm(np.array([p] + [1.0] * (comparisons - 1)))[0] <= 0.05) is np.bool_(reached)
    assert fewest_seeds(1, OVERLAP, most=3) == 4


class TestStopping:
    values: ClassVar = {
        "base": [0.80, 0.82, 0.79, 0.81, 0.80, 0.83],
        "good": [0.84, 0.85, 0.83, 0.84, 0.85, 0.86],
        "bad": [0.79, 0.82, 0.77, 0.80, 0.81, 0.80],
    }

    def test_the_rule_goes_by_the_direction_of_the_metric(self):
        assert list(hopeless(self.values, "base", "accuracy", **SIZES)) == ["bad"]
        assert list(hopeless(self.values, "base", "log_loss", **SIZES)) == ["good"]

    def test_the_answer_for_earlier_seeds_stays(self):
        first = hopeless(self.values, "base", "accuracy", **SIZES)["bad"]
        shorter = {label: row[:first] for label, row in self.values.items()}
        assert hopeless(shorter, "base", "accuracy", **SIZES) == {"bad": first}
        assert hopeless({**self.values, "bad": self.values["bad"][:first]}, "base", "accuracy", **SIZES) == {"bad": first}
        assert hopeless({label: row[: first - 1] for label, row in self.values.items()}, "base", "accuracy", **SIZES) == {}

    def test_a_failed_trial_is_no_evidence(self):
        assert hopeless({**self.values, "bad": [*self.values["bad"][:5], None]}, "base", "accuracy", **SIZES) == {}

    def test_more_caution_ends_later(self):
        d = -np.array(self.values["bad"]) + self.values["base"]
        ends = [seeds_until_hopeless(-np.tile(d, 4), overlap=OVERLAP, test_size=100, miss=miss) for miss in (0.2, 0.05, 0.001)]
        assert ends == sorted(ends)
        assert ends[0] < ends[-1]

    def test_without_overlap_the_question_is_about_these_rows_and_answered_sooner(self):
        d = model(0.0, 300, 22, seed=11)

        def mean(overlap: float) -> float:
            return np.mean([seeds_until_hopeless(row, overlap=overlap, test_size=100) or 22 for row in d[:100]])

        assert mean(0.0) < mean(0.5)

    def test_the_ended_wins_nothing_and_counts_in_the_adjustment(self):
        pair = {label: self.values[label] for label in ("base", "good")}
        alone = compare(pair, "base", "accuracy", **SIZES)[0]
        good, bad = compare({**self.values, "bad": self.values["bad"][:3]}, "base", "accuracy", **SIZES, stopped=["bad"])
        assert good.p_adjusted == pytest.approx(2 * alone.p_adjusted)
        assert (bad.verdict, bad.p, bad.p_adjusted, bad.n) == ("hopeless", 1.0, 1.0, 3)
        later = compare({**self.values, "bad": self.values["bad"][:5]}, "base", "accuracy", **SIZES, stopped=["bad"])[1]
        d = np.array(self.values["bad"][:5]) - np.array(self.values["base"][:5])
        low, high, _ = anytime_t(d, overlap=OVERLAP, test_size=100)
        assert (bad.low, bad.high) == (-math.inf, math.inf)
        assert (later.low, later.high) == pytest.approx((float(low), float(high)))
        assert math.isfinite(later.low)

    def test_only_the_ended_may_have_fewer_seeds(self):
        short = {**self.values, "bad": self.values["bad"][:3]}
        with pytest.raises(ValueError, match="values: 3 seeds for 'bad', 6 for the baseline"):
            compare(short, "base", "accuracy", **SIZES)
        with pytest.raises(ValueError, match="values: 6 seeds for 'base', 3 for the baseline"):
            compare(short, "bad", "accuracy", **SIZES, stopped=["base"])

    def test_the_anytime_test_still_speaks_of_what_was_ended(self):
        rng = np.random.default_rng(12)
        base = rng.normal(0.8, 0.01, 20)
        worse = base - rng.normal(0.1, 0.01, 20)
        (found,) = compare({"base": base, "worse": worse[:9]}, "base", "accuracy", **SIZES, test="anytime_t", stopped=["worse"])
        assert (found.verdict, found.n) == ("worse", 9)
        assert found.p == pytest.approx(anytime_t(worse[:9] - base[:9], overlap=OVERLAP, test_size=100).p)

    def test_every_winner_with_stopping_is_one_without(self):
        rng = np.random.default_rng(13)
        winners = 0
        for _ in range(60):
            values = {f"o{k}": rng.normal(0.8 + 0.01 * k, 0.01, 22) for k in range(4)}
            ended = hopeless(values, "o0", "accuracy", **SIZES)
            short = {label: row[: ended.get(label, 22)] for label, row in values.items()}
            whole = {c.objective: c for c in compare(values, "o0", "accuracy", **SIZES)}
            for c in compare(short, "o0", "accuracy", **SIZES, stopped=ended):
                if c.verdict in ("better", "worse"):
                    winners += 1
                    assert whole[c.objective].verdict == c.verdict
                    assert c.p_adjusted >= whole[c.objective].p_adjusted
        assert winners > 30

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"effect": 0.0}, "effect: 0"),
            ({"miss": 1.0}, "miss: 1"),
            ({"baseline": "none"}, "baseline: no values for 'none'"),
            ({"values": {"base": [0.1], "a": [0.1, 0.2]}}, "values: 2 seeds for 'a', 1 for the baseline"),
        ],
    )
    def test_bad_input_is_one_line_that_names_the_argument(self, change, message):
        arguments = {"values": self.values, "baseline": "base", "metric": "accuracy", **SIZES} | change
        with pytest.raises(ValueError, match=message):
            hopeless(arguments.pop("values"), arguments.pop("baseline"), arguments.pop("metric"), **arguments)
