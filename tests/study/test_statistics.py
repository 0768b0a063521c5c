"""The paired tests against formulas, enumeration and scipy; the verdicts; and the planning."""

import itertools
import math
import re

import numpy as np
import pytest
from jaxtyping import TypeCheckError
from scipy import stats

from lossmith.study.statistics.paired import compare, corrected_t, holm, what_p_means
from lossmith.study.statistics.power import accuracy_spread, recommended_seeds, what_can_be_shown
from lossmith.study.statistics.sequential import anytime_t
from lossmith.study.statistics.signed_rank import fewest_pairs, signed_rank

SIZES = {"train_size": 800, "test_size": 100}


def one(ours, theirs, metric="accuracy", **options):
    """The only comparison of two rows of values."""
    (comparison,) = compare({"a": ours, "base": theirs}, "base", metric, **{**SIZES, **options})
    return comparison


class TestCorrectedT:
    def test_the_formula_by_hand(self):
        d = np.array([0.02, 0.05, 0.01, 0.04])
        mean, low, high, p = corrected_t(d, train_size=80, test_size=20)
        error = math.sqrt(((d - 0.03) ** 2).sum() / 3 * (1 / 4 + 20 / 80))
        assert mean == pytest.approx(0.03)
        assert p == pytest.approx(2 * stats.t.sf(0.03 / error, 3))
        assert (low, high) == pytest.approx((0.03 - 3.182446305 * error, 0.03 + 3.182446305 * error))

    def test_without_overlap_it_is_the_paired_t_test(self):
        d = np.random.default_rng(0).normal(0.3, 1, (5, 12))
        _, low, high, p = corrected_t(d, train_size=10**15, test_size=1)
        expected = stats.ttest_1samp(d, 0, axis=-1)
        np.testing.assert_allclose(p, expected.pvalue, rtol=1e-12)
        interval = expected.confidence_interval(0.95)
        np.testing.assert_allclose([low, high], [interval.low, interval.high], rtol=1e-12)

    @pytest.mark.parametrize("alpha", [0.05, 0.2])
    def test_the_interval_ends_where_p_is_alpha(self, alpha):
        d = np.random.default_rng(1).normal(0.1, 1, 9)
        _, low, high, _ = corrected_t(d, **SIZES, alpha=alpha)
        for end in (low, high):
            assert corrected_t(d - end, **SIZES)[3] == pytest.approx(alpha, rel=1e-9)


class TestHolm:
    def test_by_its_definition(self):
        # Rejecting step by step at level a is the same as comparing the adjusted p-values with a.
        p = np.random.default_rng(2).random(7) ** 3
        adjusted = holm(p)
        for level in np.linspace(0.001, 0.999, 333):
            rejected = set()
            for step, index in enumerate(np.argsort(p)):
                if p[index] > level / (7 - step):
                    break
                rejected.add(index)
            assert rejected == set(np.flatnonzero(adjusted <= level))

    def test_along_the_last_axis(self):
        p = np.random.default_rng(3).random((4, 5, 6))
        np.testing.assert_array_equal(holm(p)[2, 3], holm(p[2, 3]))

    def test_one_comparison_needs_no_adjustment(self):
        assert holm(np.array([0.03])).tolist() == [0.03]


def enumerated_p(differences: np.ndarray) -> float:
    """The two-sided p-value by trying every choice of signs, zeros ranked and signless."""
    ranks = stats.rankdata(np.abs(differences))[differences != 0]
    observed = ranks[differences[differences != 0] > 0].sum()
    sums = [np.dot(signs, ranks) for signs in itertools.product([0, 1], repeat=len(ranks))]
    below, above = np.mean(np.array(sums) <= observed + 1e-9), np.mean(np.array(sums) >= observed - 1e-9)
    return min(1.0, 2 * min(below, above))


class TestSignedRank:
    @pytest.mark.parametrize("n", [3, 8, 15, 40])
    def test_without_ties_it_is_scipys_exact_test(self, n):
        d = np.random.default_rng(n).normal(0.3, 1, n)
        assert signed_rank(d).p == pytest.approx(stats.wilcoxon(d, method="exact").pvalue, rel=1e-9)

    @pytest.mark.parametrize("seed", range(8))
    def test_with_ties_and_zeros_it_is_the_enumeration(self, seed):
        d = np.random.default_rng(seed).integers(-2, 5, 10) / 180
        assert signed_rank(d).p == pytest.approx(enumerated_p(d), rel=1e-12)

    def test_rounding_errors_do_not_break_ties(self):
        exact = np.array([-2, 2, 2, 1, 1, 1, 1, 3]) / 10
        dirty = exact + np.array([1, -1, 2, 1, -1, 0, 1, 0]) * 1e-17
        assert signed_rank(dirty).p == signed_rank(exact).p == pytest.approx(enumerated_p(np.round(exact, 9)))

    def test_more_of_the_same_is_never_weaker_evidence(self):
        # Pratt's example: with the zero dropped first, lowering every difference makes it more surely positive.
        d = np.array([0.0, 2, 3, 4, 6, 7, 8, 9, 11, 14, 15, 17, -18])
        assert enumerated_p(d[1:]) > enumerated_p(d - 0.5)
        assert signed_rank(d).p <= signed_rank(d - 0.5).p
        moved = [signed_rank(d + shift).p for shift in np.arange(0, 19, 0.5)]
        assert moved == sorted(moved, reverse=True)

    def test_the_interval_without_ties_is_between_averages_of_pairs(self):
        d = np.random.default_rng(4).normal(0, 1, 12)
        averages = np.sort([(a + b) / 2 for i, a in enumerate(d) for b in d[i:]])
        # The largest critical value for n = 12 at 5 % two-sided is 13 (any table), so the 14th from either end.
        result = signed_rank(d)
        assert (result.low, result.high) == pytest.approx((averages[13], averages[-14]), abs=1e-9)

    @pytest.mark.parametrize("seed", range(6))
    def test_the_interval_holds_the_shifts_that_are_not_rejected(self, seed):
        d = np.random.default_rng(seed).integers(-3, 6, 9).astype(float)
        result = signed_rank(d)
        for shift in np.arange(-4, 6.5, 0.25):
            if result.low < shift < result.high:
                assert enumerated_p(d - shift) > 0.05
            elif shift < result.low or shift > result.high:
                assert enumerated_p(d - shift) <= 0.05

    def test_too_few_pairs_bound_nothing(self):
        assert signed_rank(np.array([1.0, 2, 3, 4, 5])).low == -math.inf
        assert signed_rank(np.array([1.0, 2, 3, 4, 5, 6])).low == 1.0

    @pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
    def test_the_unit_does_not_matter(self, scale):
        d = np.array([3.0, -1, 4, 1, -5, 9, 2, 6])
        base, scaled = signed_rank(d), signed_rank(scale * d)
        assert scaled.p == base.p
        assert (scaled.low, scaled.high) == pytest.approx((scale * base.low, scale * base.high), rel=1e-12)

    @pytest.mark.parametrize("comparisons", [1, 4, 19])
    def test_the_rule_for_the_fewest_pairs(self, comparisons):
        n = fewest_pairs(comparisons)
        assert n == math.ceil(math.log2(2 * comparisons / 0.05))
        for pairs, reached in ((n, True), (n - 1, False)):
            # The most extreme outcome there is, and the other comparisons without evidence.
            extreme = signed_rank(np.arange(1.0, pairs + 1)).p
            assert (holm(np.array([extreme] + [1.0] * (comparisons - 1)))[0] <= 0.05) is np.bool_(reached)


class TestCompare:
    better = (0.85, 0.86, 0.83, 0.87, 0.84, 0.88)
    base = (0.80, 0.82, 0.79, 0.81, 0.80, 0.83)

    @pytest.mark.parametrize("test", ["corrected_t", "signed_rank"])
    @pytest.mark.parametrize(("metric", "verdict"), [("accuracy", "better"), ("log_loss", "worse"), ("aurc", "worse")])
    def test_the_verdict_goes_by_the_direction_of_the_metric(self, metric, verdict, test):
        comparison = one(self.better, self.base, metric, test=test)
        assert comparison.verdict == verdict
        assert comparison.mean_difference == pytest.approx(np.mean(self.better) - np.mean(self.base))
        assert comparison.low > 0
        assert one(self.base, self.better, metric, test=test).verdict == {"better": "worse", "worse": "better"}[verdict]

    def test_swapping_sides_mirrors_everything(self):
        there, back = one(self.better, self.base), one(self.base, self.better)
        assert (back.low, back.high, back.p) == pytest.approx((-there.high, -there.low, there.p))

    def test_all_comparisons_are_adjusted_together(self):
        rng = np.random.default_rng(5)
        values = {f"o{k}": list(rng.normal(0.8 + 0.01 * k, 0.01, 10)) for k in range(5)}
        found = compare(values, "o0", "accuracy", **SIZES)
        assert [c.objective for c in found] == ["o1", "o2", "o3", "o4"]
        np.testing.assert_allclose([c.p_adjusted for c in found], holm(np.array([c.p for c in found])))
        for c in found:
            assert c.verdict == ("better" if c.p_adjusted <= 0.05 else "no difference shown")
            assert (c.p <= 0.05) == (not c.low <= 0 <= c.high)

    @pytest.mark.parametrize("test", ["corrected_t", "signed_rank"])
    def test_identical_outcomes(self, test):
        comparison = one(self.base, self.base, test=test)
        assert comparison.verdict == "tied"
        assert (comparison.p, comparison.p_adjusted, comparison.low, comparison.high) == (1.0, 1.0, 0.0, 0.0)
        assert comparison.standard_deviation == 0

    def test_rounding_errors_are_not_differences(self):
        shifted = [v + 1e-16 for v in self.base]
        assert one([0.1 + 0.2, *shifted], [0.3, *self.base]).verdict == "tied"

    def test_zero_values_are_identical_too(self):
        assert one([0.0, 0.0], [0.0, 0.0]).verdict == "tied"

    @pytest.mark.parametrize("lost", [math.nan, math.inf, None])
    @pytest.mark.parametrize("test", ["corrected_t", "signed_rank"])
    def test_a_failed_trial_does_not_vanish(self, lost, test):
        ours = [*self.better[:4], lost, lost]
        comparison = one(ours, self.base, test=test)
        assert comparison.verdict == "failed"
        assert (comparison.n, comparison.failed, comparison.baseline_failed) == (4, 2, 0)
        assert (comparison.p, comparison.low, comparison.high) == (1.0, -math.inf, math.inf)
        assert comparison.mean_difference == pytest.approx(np.mean(self.better[:4]) - np.mean(self.base[:4]))
        assert comparison.note.startswith("2 of 6 trials of a failed; not tested")

    def test_a_failing_baseline_fails_its_comparisons(self):
        comparison = one(self.better, [*self.base[:5], math.nan])
        assert (comparison.verdict, comparison.baseline_failed) == ("failed", 1)
        assert "1 of 6 trials of base failed" in comparison.note

    def test_nothing_finished_at_all(self):
        comparison = one([math.nan] * 6, [math.nan] * 6)
        assert (comparison.verdict, comparison.n) == ("failed", 0)
        assert math.isnan(comparison.mean_difference)
        assert comparison.note.startswith("6 of 6 trials of a failed and 6 of 6 trials of base failed")

    def test_a_failed_comparison_still_counts_in_the_adjustment(self):
        rows = {"base": self.base, "good": self.better}
        alone = compare(rows, "base", "accuracy", **SIZES)
        joined = compare({**rows, "lost": [math.nan] * 6}, "base", "accuracy", **SIZES)
        assert joined[0].p_adjusted == pytest.approx(2 * alone[0].p_adjusted)

    def test_a_metric_not_declared_gets_an_interval_and_no_verdict(self):
        declared, other = one(self.better, self.base), one(self.better, self.base, primary=False)
        assert (other.p, other.p_adjusted, other.verdict) == (None, None, "not tested")
        assert (other.low, other.high) == (declared.low, declared.high)

    def test_one_seed_says_nothing(self):
        comparison = one([0.9], [0.1])
        assert (comparison.verdict, comparison.p, comparison.low) == ("no difference shown", 1.0, -math.inf)
        assert comparison.note.startswith("one seed")

    def test_the_same_difference_everywhere_is_not_certainty(self):
        few = one([0.81, 0.83], [0.80, 0.82])
        assert few.verdict == "no difference shown"
        assert 0.05 < few.p < 1
        many = one([0.90] * 10, [0.80] * 10)
        assert many.verdict == "better"
        # The spread of rounding to one test row in a hundred, 0.01 / sqrt(12).
        reach = stats.t.isf(0.025, 9) * 0.01 / math.sqrt(12) * math.sqrt(1 / 10 + 1 / 8)
        assert (many.low, many.high) == pytest.approx((0.1 - reach, 0.1 + reach))
        assert "rounding error of one test row" in many.note

    def test_a_metric_of_ones_own_needs_a_direction(self):
        assert one(self.better, self.base, "utility", higher_is_better=True).verdict == "better"
        with pytest.raises(ValueError, match="metric: 'utility' is unknown, so higher_is_better must be given"):
            one(self.better, self.base, "utility")

    @pytest.mark.parametrize(
        ("values", "options", "message"),
        [
            ({"a": [1.0]}, {}, "baseline: no values for 'base'; there are 'a'"),
            ({"a": [1.0, 2.0], "base": [1.0]}, {}, "values: 2 seeds for 'a', 1 for the baseline"),
            ({"a": [], "base": []}, {}, "values: 0 seeds"),
            ({"a": [1.0], "base": [1.0]}, {"train_size": 0}, "train_size: 0"),
            ({"a": [1.0], "base": [1.0]}, {"test_size": 0}, "test_size: 0"),
            ({"a": [1.0], "base": [1.0]}, {"alpha": 1.5}, "alpha: 1.5"),
            ({"a": [1.0], "base": [1.0]}, {"test": "t"}, "test: 't'; wanted one of corrected_t, signed_rank"),
        ],
    )
    def test_bad_input_is_one_line_that_names_the_argument(self, values, options, message):
        # A runtime type checker, where one is installed, refuses a wrong shape or type before we can.
        with pytest.raises((ValueError, TypeCheckError)) as raised:
            compare(values, "base", "accuracy", **{**SIZES, **options})
        if isinstance(raised.value, ValueError):
            assert re.search(message, str(raised.value))
            assert "\n" not in str(raised.value)

    def test_the_baseline_alone_has_no_comparisons(self):
        assert compare({"base": self.base}, "base", "accuracy", **SIZES) == []


def test_each_test_says_what_its_p_generalises_over():
    assert "new random splits" in what_p_means()
    assert "nothing about other data sets" in what_p_means()
    assert "this very data set" in what_p_means("signed_rank")
    assert what_p_means("anytime_t") == f"{what_p_means()} They hold whenever one looks, and after more seeds too."


class TestPlanning:
    @pytest.mark.parametrize(("n", "comparisons"), [(3, 1), (10, 4), (25, 19)])
    def test_the_smallest_effect_is_found_with_the_promised_power(self, n, comparisons):
        prospect = what_can_be_shown(n, comparisons, **SIZES)
        rng, draws = np.random.default_rng(n), 40_000
        # The model of the correction: the seeds of one data set share an error of variance n_test / n_train.
        shared = rng.normal(0, math.sqrt(1 / 8), (draws, 1))
        d = prospect.smallest_effect + shared + rng.normal(size=(draws, n))
        mean, _, _, p = corrected_t(d, **SIZES)
        found = np.mean((p <= 0.05 / comparisons) & (mean > 0))
        # Four standard errors of the simulation; the bisection is to a thousandth of the effect.
        assert found == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / draws) + 1e-3)

    def test_recommended_seeds_are_the_fewest(self):
        n = recommended_seeds(4, **SIZES)
        assert what_can_be_shown(n, 4, **SIZES).smallest_effect <= 1.5
        assert what_can_be_shown(n - 1, 4, **SIZES).smallest_effect > 1.5
        assert what_can_be_shown(10, 4, **SIZES).recommended_seeds == n

    @pytest.mark.parametrize("test", ["corrected_t", "signed_rank", "anytime_t"])
    def test_early_ending_takes_power_and_never_gives_any(self, test):
        sizes = {"train_size": 142, "test_size": 18}
        for comparisons in (1, 3):
            without = recommended_seeds(comparisons, **sizes, effect=2.0, test=test)
            within = recommended_seeds(comparisons, **sizes, effect=2.0, test=test, stop_hopeless=True)
            assert without <= within <= 1.15 * without
            plain, ending = (what_can_be_shown(8, comparisons, **sizes, test=test, stop_hopeless=ends) for ends in (False, True))
            assert plain.smallest_effect <= ending.smallest_effect <= 1.1 * plain.smallest_effect

    def test_the_sentence_does_not_contradict_itself(self):
        """Ten seeds find 1.5045 deviations, which rounds to the 1.5 for which it takes eleven."""
        prospect = what_can_be_shown(10, 1, train_size=142, test_size=18, stop_hopeless=True)
        assert prospect.smallest_effect == pytest.approx(1.503, abs=0.003)
        assert prospect.sentence.startswith("With 10 seeds and 1 comparison a difference of 1.6 standard")
        assert prospect.sentence.endswith("For one of 1.5 it takes 11 seeds.")

    def test_a_large_test_share_puts_it_out_of_reach(self):
        # However many seeds: 1.5 / sqrt(15 / 70) = 3.2 standard errors, against 3.0 + 0.84 needed for 19 comparisons.
        assert recommended_seeds(19, train_size=700, test_size=150) is None
        prospect = what_can_be_shown(10, 19, 700, 150)
        assert prospect.sentence.endswith("No number of seeds finds one of 1.5 on splits like these; a smaller test share would help.")

    def test_the_signed_rank_test_needs_enough_pairs(self):
        short = what_can_be_shown(7, 4, **SIZES, test="signed_rank")
        assert not short.can_reach_alpha
        assert short.smallest_effect == math.inf
        assert short.sentence.startswith("With 7 seeds and 4 comparisons no adjusted p-value can fall to 0.05")
        assert what_can_be_shown(8, 4, **SIZES, test="signed_rank").can_reach_alpha

    def test_the_power_of_the_signed_rank_test(self):
        n = recommended_seeds(1, **SIZES, effect=1.0, test="signed_rank")
        rng = np.random.default_rng(0)
        found = np.mean([signed_rank(rng.normal(1.0, 1, n)).p <= 0.05 for _ in range(600)])
        assert found == pytest.approx(0.82, abs=0.07)
        # The t-test on as many independent pairs has almost the same power.
        assert abs(n - recommended_seeds(1, 10**9, 1, effect=1.0)) <= 1

    def test_the_power_of_the_anytime_valid_test(self):
        n = recommended_seeds(4, **SIZES, effect=2.0, test="anytime_t")
        assert what_can_be_shown(n, 4, **SIZES, test="anytime_t").smallest_effect <= 2.0
        assert what_can_be_shown(n - 1, 4, **SIZES, test="anytime_t").smallest_effect > 2.0
        rng, draws = np.random.default_rng(1), 4000
        d = 2.0 + math.sqrt(1 / 8) * rng.standard_normal((draws, 1)) + rng.standard_normal((draws, n))
        found = (anytime_t(d, overlap=1 / 8, test_size=100).p <= 0.05 / 4).mean()
        # Four standard errors of two simulations of as many studies.
        assert found == pytest.approx(0.8, abs=4 * math.sqrt(2 * 0.16 / draws))

    def test_the_anytime_valid_test_needs_enough_seeds(self):
        few = what_can_be_shown(3, 4, **SIZES, test="anytime_t")
        assert not few.can_reach_alpha
        assert few.smallest_effect == math.inf
        assert recommended_seeds(19, **SIZES, test="anytime_t") is None

    @pytest.mark.parametrize("disagreement", [0.05, 0.4])
    def test_the_spread_of_a_difference_in_accuracy(self, disagreement):
        """Two classifiers that are each right where the other is wrong on half of the share on which they disagree."""
        rng, rows, studies = np.random.default_rng(2), 180, 20_000
        differing = rng.binomial(rows, disagreement, studies)
        difference = (2 * rng.binomial(differing, 0.5) - differing) / rows
        assert difference.std() == pytest.approx(accuracy_spread(disagreement, rows), rel=4 / math.sqrt(2 * studies))

    def test_a_difference_in_units_is_the_effect_times_the_spread(self):
        prospect = what_can_be_shown(10, 4, **SIZES)
        assert prospect.in_units(0.02) == 0.02 * prospect.smallest_effect

    @pytest.mark.parametrize(
        ("arguments", "message"), [((0.0, 10), "disagreement: 0"), ((1.1, 10), "disagreement: 1.1"), ((0.1, 0), "test_size: 0")]
    )
    def test_a_spread_of_nothing_is_refused(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            accuracy_spread(*arguments)

    def test_one_seed_cannot_reach_anything(self):
        prospect = what_can_be_shown(1, 1, **SIZES)
        assert not prospect.can_reach_alpha
        assert prospect.sentence.startswith("With 1 seed and 1 comparison no adjusted p-value")

    def test_the_sentence(self):
        assert what_can_be_shown(10, 4, **SIZES).sentence == (
            "With 10 seeds and 4 comparisons a difference of 1.9 standard deviations of the paired difference would be"
            " found with probability 0.8. For one of 1.5 it takes 22 seeds."
        )

    @pytest.mark.parametrize(
        ("arguments", "options", "message"),
        [
            ((0, 1), {}, "n_seeds: 0"),
            ((5, 0), {}, "n_comparisons: 0"),
            ((5, 1), {"power": 1.0}, "power: 1"),
            ((5, 1), {"effect": 0.0}, "effect: 0"),
        ],
    )
    def test_bad_input_is_one_line_that_names_the_argument(self, arguments, options, message):
        with pytest.raises(ValueError, match=message):
            what_can_be_shown(*arguments, **SIZES, **options)
