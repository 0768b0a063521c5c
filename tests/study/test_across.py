"""Claims over several data sets: formulas, populations, what is refused, what is said, and how often they are wrong."""

import math

import numpy as np
import pytest
from scipy import stats

from lossmith.study import Noise
from lossmith.study.across import StudyTable, compare_across, what_is_claimed
from lossmith.study.power_across import what_data_sets_can_show
from lossmith.study.report import words_across as say
from lossmith.study.sizes import Sizes
from lossmith.study.statistics.bayes import bayesian_signed_rank_test, correlated_t
from lossmith.study.statistics.paired import compare, holm
from lossmith.study.statistics.power import what_can_be_shown
from lossmith.study.statistics.signed_rank import signed_rank
from lossmith.study.summary import Summary

from .made_up import around, result

SIZES = Sizes(800, 100, 100)


def table(values, *, metric="accuracy", higher=True, setting="", sizes=SIZES) -> StudyTable:
    arrays = {name: {label: np.array(row, dtype=float) for label, row in rows.items()} for name, rows in values.items()}
    return StudyTable(setting, metric, higher, "ce", arrays, {name: sizes for name in values})


def several(count: int, gain: float, *, seed: int = 0, spread: float = 0.01, between: float = 0.0, seeds: int = 10) -> StudyTable:
    """Data sets on which `new` is better than `ce` by about `gain`, and `same` is as good."""
    rng = np.random.default_rng(seed)
    values = {}
    for k in range(count):
        level, gained = rng.uniform(0.6, 0.9), gain + between * rng.standard_normal()
        base = level + spread * rng.standard_normal(seeds)
        values[f"d{k}"] = {
            "ce": base,
            "new": base + gained + spread * rng.standard_normal(seeds),
            "same": base + spread * rng.standard_normal(seeds),
        }
    return table(values)


class TestThese:
    def test_one_data_set_is_the_corrected_test(self):
        one = several(1, 0.02)
        (new, same), expected = (
            compare_across(one, population="these"),
            compare(one.values["d0"], "ce", "accuracy", train_size=800, test_size=100),
        )
        for found, wanted in zip((new, same), expected, strict=True):
            assert (found.low, found.high, found.p, found.p_adjusted) == pytest.approx(
                (wanted.low, wanted.high, wanted.p, wanted.p_adjusted), rel=1e-10
            )
            assert found.verdict == wanted.verdict

    def test_without_overlap_two_data_sets_are_welchs_test(self):
        # The mean of two independent means is half their sum: the difference of one and the negative other.
        far = Sizes(10**15, 1, 1)
        both = table(several(2, 0.01, seed=1).values, sizes=far)
        d = list(both.differences("new").values())
        expected = stats.ttest_ind(d[0], -d[1], equal_var=False)
        found = compare_across(both, population="these")[0]
        assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
        interval = expected.confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((interval.low / 2, interval.high / 2), rel=1e-9)

    def test_data_sets_of_different_sizes_by_hand(self):
        three = several(3, 0.01, seed=2)
        sizes = {"d0": Sizes(80, 10, 10), "d1": Sizes(700, 150, 150), "d2": Sizes(900, 50, 50)}
        three = StudyTable("", "accuracy", True, "ce", three.values, sizes)
        found = compare_across(three, population="these")[0]
        d = three.differences("new")
        variances = np.array([row.var(ddof=1) * (1 / 10 + sizes[name].test / sizes[name].train) for name, row in d.items()])
        degrees = variances.sum() ** 2 / (variances**2 / 9).sum()
        t = np.mean([row.mean() for row in d.values()]) / (math.sqrt(variances.sum()) / 3)
        assert found.p == pytest.approx(2 * stats.t.sf(abs(t), degrees), rel=1e-10)

    def test_data_sets_that_disagree_may_still_differ_on_average(self):
        values = {
            "up": {"ce": around(0.7), "new": around(0.9, seed=1)},
            "down": {"ce": around(0.7, seed=2), "new": around(0.6, seed=3)},
        }
        (found,) = compare_across(table(values), population="these")
        assert (found.verdict, found.better_on, found.worse_on) == ("better", 1, 1)
        assert found.mean_difference == pytest.approx(0.05)


class TestAlike:
    def test_it_is_the_signed_rank_test_of_the_means(self):
        eight = several(8, 0.01, seed=3, between=0.01)
        new, same = compare_across(eight, population="alike")
        means = np.array([row.mean() for row in eight.differences("new").values()])
        assert new.p == signed_rank(means).p
        assert (new.low, new.high) == (signed_rank(means).low, signed_rank(means).high)
        assert [new.p_adjusted, same.p_adjusted] == pytest.approx(holm(np.array([new.p, same.p])).tolist())

    def test_too_few_data_sets_say_that_nothing_could_be_shown(self):
        (new, _) = compare_across(several(5, 0.1), population="alike")
        assert new.verdict == "no difference shown"
        assert new.note == "with 2 comparisons it takes 7 data sets or more, so nothing could have been shown"
        (new, _) = compare_across(several(7, 0.1), population="alike")
        assert (new.verdict, new.note) == ("better", "")

    def test_more_seeds_are_no_more_data_sets(self):
        few, many = (compare_across(several(3, 0.1, seeds=seeds), population="alike")[0].p for seeds in (5, 50))
        assert few == many == 0.25


class TestBoth:
    @pytest.mark.parametrize("population", ["these", "alike"])
    def test_the_verdict_goes_by_the_direction_of_the_metric(self, population):
        up = several(8, 0.05, seed=4)
        down = table(up.values, metric="log_loss", higher=False)
        assert compare_across(up, population=population)[0].verdict == "better"
        found = compare_across(down, population=population)[0]
        assert (found.verdict, found.better_on, found.worse_on) == ("worse", 0, 8)
        assert found.mean_difference > 0

    @pytest.mark.parametrize("population", ["these", "alike"])
    def test_several_settings_are_adjusted_together(self, population):
        clean, noisy = several(8, 0.02, seed=5), several(8, 0.03, seed=6)
        found = compare_across(clean, noisy, population=population)
        assert len(found) == 4
        np.testing.assert_allclose([one.p_adjusted for one in found], holm(np.array([one.p for one in found])))

    @pytest.mark.parametrize("population", ["these", "alike"])
    def test_identical_and_failed(self, population):
        eight = several(8, 0.05, seed=7)
        rows = {name: {**row, "alias": row["ce"], "lost": row["new"].copy()} for name, row in eight.values.items()}
        rows["d3"]["lost"][2:4] = math.nan
        new, _, alias, lost = compare_across(table(rows), population=population)
        assert (alias.verdict, alias.p, alias.low, alias.high) == ("tied", 1, 0, 0)
        assert (lost.verdict, lost.p, lost.note) == ("failed", 1, "failed: 2 trials of lost on d3; not tested")
        assert new.p_adjusted == pytest.approx(4 * new.p)

    def test_a_baseline_that_failed_fails_all(self):
        rows = {name: dict(row) for name, row in several(3, 0.05).values.items()}
        rows["d1"]["ce"] = np.array([math.nan, *rows["d1"]["ce"][1:]])
        found = compare_across(table(rows), population="these")
        assert {one.verdict for one in found} == {"failed"}
        assert "1 trial of ce on d1" in found[0].note

    def test_what_is_claimed_names_the_population(self):
        assert "not about any other data set" in what_is_claimed("these", ["digits", "wine"])
        assert "data sets like digits, wine" in what_is_claimed("alike", ["digits", "wine"])


class TestChances:
    def test_over_data_sets_and_on_one(self):
        eight = several(8, 0.02, seed=8)
        means = np.array([row.mean() for row in eight.differences("new").values()])
        assert eight.chances("new", rope=0.01) == bayesian_signed_rank_test(means, rope=0.01)
        expected = correlated_t(eight.differences("new")["d2"], train_size=800, test_size=100, rope=0.01)
        assert eight.chances_on("d2", "new", rope=0.01) == expected
        turned = table(eight.values, metric="log_loss", higher=False)
        assert turned.chances("new", rope=0.01).worse == pytest.approx(eight.chances("new", rope=0.01).better, abs=1e-9)
        assert turned.chances_on("d2", "new", rope=0.01).worse == pytest.approx(expected.better)


class TestTable:
    def test_a_ranking_leaves_out_what_failed(self):
        rows = {name: dict(row) for name, row in several(8, 0.05, seed=9).values.items()}
        assert next(iter(table(rows).ranking().mean_ranks)) == "new"
        rows["d0"]["same"] = np.full(10, math.nan)
        assert set(table(rows).ranking().mean_ranks) == {"ce", "new"}

    def test_finished_studies_make_a_table(self):
        noise = Noise("symmetric", 0.4)
        made = [
            Summary(
                result(
                    {"ce": around(0.7, seed=k), "gce": around(0.8, seed=k + 9)},
                    data={"name": name, "fingerprint": name},
                    noise=noise,
                    diverged={"gce": [1]} if name == "b" else None,
                )
            )
            for k, name in enumerate("ab")
        ]
        found = StudyTable.of(made)
        assert (found.setting, found.metric, found.baseline) == ("with 40 % symmetric label noise", "accuracy", "ce")
        assert (found.data_sets, found.objectives) == (("a", "b"), ("ce", "gce"))
        assert found.failed("gce") == {"b": 1}
        assert found.values["a"]["gce"].tolist() == around(0.8, seed=9)
        assert found.sizes["a"] == made[0].sizes

    def test_the_same_data_twice_are_not_two_data_sets(self):
        made = [Summary(result({"ce": around(0.7), "gce": around(0.8)}, data={"name": name})) for name in "ab"]
        with pytest.raises(ValueError, match="b is there twice; the same data are not another data set"):
            StudyTable.of(made)

    def test_studies_that_were_declared_differently_make_no_table(self):
        made = [
            Summary(result({"ce": around(0.7), "gce": around(0.8)}, data={"name": name, "fingerprint": name}, metric=metric))
            for name, metric in (("a", "accuracy"), ("b", "log_loss"))
        ]
        with pytest.raises(ValueError, match="metric differs from study to study"):
            StudyTable.of(made)

    def test_a_split_of_one_s_own_has_no_place_in_a_table(self):
        with pytest.raises(ValueError, match="wine has a split of its own"):
            StudyTable.of([Summary(result({"ce": around(0.7), "gce": around(0.8)}, split_column="part"))])

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({}, "values: no data sets"),
            ({"a": {"ce": [1, 2], "x": [1, 2]}, "b": {"ce": [1, 2]}}, "wanted the same objectives"),
            ({"a": {"x": [1, 2]}}, "baseline: no values for 'ce' on a"),
            ({"a": {"ce": [1, 2], "x": [1]}}, "values: on a, wanted the same number of seeds"),
            ({"a": {"ce": [1], "x": [1]}}, "values: on a, wanted the same number of seeds for every objective, 2 or more"),
        ],
    )
    def test_bad_input_is_one_line(self, values, message):
        with pytest.raises(ValueError, match=message) as raised:
            table(values)
        assert "\n" not in str(raised.value)


class TestPlanning:
    def test_one_data_set_is_the_plan_of_one(self):
        one, plain = what_data_sets_can_show(1, 10, 4, 800, 100, population="these"), what_can_be_shown(10, 4, 800, 100)
        assert one.smallest_effect == pytest.approx(plain.smallest_effect)
        assert one.recommended == plain.recommended_seeds

    @pytest.mark.parametrize(("data_sets", "seeds"), [(3, 10), (8, 5)])
    def test_the_smallest_effect_on_average_is_found_with_the_promised_power(self, data_sets, seeds):
        prospect = what_data_sets_can_show(data_sets, seeds, 4, 800, 100, population="these")
        rng, draws = np.random.default_rng(data_sets), 20_000
        shared = math.sqrt(1 / 8) * rng.standard_normal((draws, data_sets, 1))
        d = prospect.smallest_effect + shared + rng.standard_normal((draws, data_sets, seeds))
        variances = d.var(-1, ddof=1) * (1 / seeds + 1 / 8)
        degrees = variances.sum(1) ** 2 / (variances**2 / (seeds - 1)).sum(1)
        t = d.mean((1, 2)) / (np.sqrt(variances.sum(1)) / data_sets)
        found = ((2 * stats.t.sf(np.abs(t), degrees) <= 0.05 / 4) & (t > 0)).mean()
        # The degrees of freedom are estimated, which the plan does not count: up to two per cent of power.
        assert 0.77 < found < 0.82

    def test_the_smallest_effect_on_data_sets_alike_is_found_with_the_promised_power(self):
        prospect = what_data_sets_can_show(12, 10, 1, 800, 100, population="alike", variation=0.5)
        rng, draws = np.random.default_rng(0), 500
        d = prospect.smallest_effect + math.sqrt(0.25 + 1 / 10 + 1 / 8) * rng.standard_normal((draws, 12))
        found = np.mean([signed_rank(row).p <= 0.05 for row in d])
        assert found == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / draws))

    def test_the_sentences(self):
        these = what_data_sets_can_show(3, 10, 4, 800, 100, population="these")
        assert these.sentence == (
            "On average over these, with 3 data sets, 10 seeds and 4 comparisons, a difference of 1.0 standard deviations of the paired"
            " difference would be found with probability 0.8. For one of 1.5 it takes 4 seeds."
        )
        alike = what_data_sets_can_show(3, 10, 4, 800, 100, population="alike", variation=5.0, effect=0.1)
        assert alike.sentence == (
            "On data sets like these, with 3 data sets, 10 seeds and 4 comparisons, no adjusted p-value can fall to 0.05, whatever the"
            " outcome. No number of data sets finds one of 0.1."
        )

    @pytest.mark.parametrize(
        ("change", "message"),
        [({"n_data_sets": 0}, "n_data_sets: 0"), ({"n_seeds": 1}, "n_seeds: 1"), ({"power": 1.0}, "power, effect, variation: 1.0")],
    )
    def test_bad_input_is_one_line(self, change, message):
        arguments = {"n_data_sets": 3, "n_seeds": 5, "n_comparisons": 1, "train_size": 8, "test_size": 1, "population": "these"}
        with pytest.raises(ValueError, match=message):
            what_data_sets_can_show(**arguments | change)


def test_equal_objectives_win_no_more_often_than_promised():
    """Families of two over three data sets whose seeds overlap and whose spreads differ threefold, in the model of the correction."""
    rng, draws, spreads = np.random.default_rng(10), 500, (0.01, 0.02, 0.03)
    wrong = 0
    for _ in range(draws):
        values = {
            f"d{k}": {"ce": np.full(10, 0.8)}
            | {label: 0.8 + spread * (math.sqrt(1 / 8) * rng.standard_normal() + rng.standard_normal(10)) for label in ("new", "same")}
            for k, spread in enumerate(spreads)
        }
        wrong += any(one.verdict in ("better", "worse") for one in compare_across(table(values), population="these"))
    assert wrong / draws <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / draws)


class TestWords:
    def test_findings_begin_with_the_winners_and_say_on_how_many(self):
        eight = several(8, 0.03, seed=11)
        rows = {name: {**row, "alias": row["ce"], "lost": np.full(10, math.nan)} for name, row in eight.values.items()}
        found = compare_across(table(rows, setting="with 40 % symmetric label noise"), population="these")
        texts = say.findings(found)
        assert [(label, verdict) for label, verdict, _ in texts] == [
            ("new", "better"), ("same", "no difference shown"), ("alias", "tied"), ("lost", "failed"),
        ]  # fmt: skip
        won = f"beats ce on average over these 8 data sets, by +{100 * found[0].mean_difference:.1f} points of accuracy in the mean"
        assert texts[0][2].startswith(f"new with 40 % symmetric label noise {won}")
        assert texts[0][2].endswith("adjusted p < 0.001). It is better on 8 and worse on 0 of 8.")
        assert texts[1][2].startswith("No difference between same with 40 % symmetric label noise and ce is shown on average over these 8")
        assert texts[2][2] == "alias with 40 % symmetric label noise and ce reach the same accuracy on every seed of all 8 data sets."
        assert "could not be compared with ce: failed: 10 trials of lost on d0" in texts[3][2]
        counted = "1 better, 1 no difference shown, 1 tied, 1 failed"
        assert say.headline(found) == f"Compared with ce in accuracy, on average over these 8 data sets, of 4 comparisons: {counted}."

    def test_too_few_data_sets_are_named(self):
        (new, _) = compare_across(several(3, 0.1), population="alike")
        assert "is shown on data sets like these 3:" in say.finding(new)
        assert "(no interval, adjusted p = 0.500)" in say.finding(new)
        assert "Note: with 2 comparisons it takes 7 data sets or more" in say.finding(new)
        assert say.headline([]) == "One objective: there is nothing to compare."

    def test_where_lower_is_better_a_winner_has_less(self):
        down = table(several(8, -0.05, seed=12).values, metric="log_loss", higher=False)
        text = say.finding(compare_across(down, population="alike")[0])
        assert text.startswith("new beats ce on data sets like these 8, by −0.05")
        assert "in log loss in the mean" in text

    def test_a_ranking_says_how_many_pairs(self):
        assert say.told_apart(several(8, 0.05, seed=9).ranking()).startswith(
            "2 of 3 pairs of objectives are told apart over 8 data sets (exact"
        )
        few = several(3, 0.05, seed=9).ranking(method="nemenyi")
        assert say.told_apart(few).startswith("0 of 3 pairs")
        assert not several(3, 0.05, seed=9).ranking().can_tell_apart
        assert say.told_apart(several(3, 0.05, seed=9).ranking()).endswith("With so few data sets no pair could have been.")
