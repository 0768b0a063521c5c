"""What a study says: sizes, intervals, verdicts, and the words for them."""

import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from scipy import stats

from lossmith.study import Noise, ObjectiveSpec, StudySpec, load_data, protocol
from lossmith.study.data.splits import make_split
from lossmith.study.report import design, exports, latex, numbers
from lossmith.study.report import words as say
from lossmith.study.sizes import Sizes, sizes
from lossmith.study.statistics.bayes import correlated_t
from lossmith.study.statistics.paired import Test
from lossmith.study.summary import Summary, prospect
from lossmith.study.training.metrics import METRICS

from .made_up import around, result

ACCURACY, LOG_LOSS = METRICS["accuracy"], METRICS["log_loss"]


@pytest.mark.parametrize("imbalance", [None, 0.2])
@pytest.mark.parametrize("fractions", [(0.2, 0.2), (0.1, 0.3)])
def test_sizes_are_those_of_a_split(imbalance, fractions):
    wine = load_data("wine")
    validation, test = fractions
    spec = StudySpec(data="wine", objectives=(ObjectiveSpec("cross_entropy"),), imbalance=imbalance, validation=validation, test=test)
    split = make_split(wine, 3, imbalance=imbalance, validation=validation, test=test)
    found = sizes(spec, wine)
    assert (found.train, found.validation, found.test) == (len(split.y_train), len(split.y_validation), len(split.y_test))


def test_the_interval_of_a_mean_is_corrected_for_overlap():
    values = around(0.8, 0.02)
    summary = Summary(result({"ce": values}))
    (line,) = summary.lines()
    reach = stats.t.ppf(0.975, 9) * 0.02 * math.sqrt(1 / 10 + 10 / 80)
    assert summary.sizes.train == 80
    assert line.estimate.mean == pytest.approx(0.8)
    assert (line.estimate.low, line.estimate.high) == pytest.approx((0.8 - reach, 0.8 + reach))
    assert line.comparison is None


def test_intervals_stay_where_the_metric_is():
    summary = Summary(result({"ce": around(0.99, 0.05)}))
    assert summary.lines()[0].estimate.high == 1.0
    assert summary.lines("brier")[0].estimate.low == 0.0


def test_only_the_declared_metric_at_the_declared_stop_is_tested():
    summary = Summary(result({"ce": around(0.7), "gce": around(0.8, seed=1)}))
    assert summary.lines()[1].comparison.verdict == "better"
    for metric, stop in (("accuracy", "best"), ("f1", "last")):
        assert summary.lines(metric, stop)[1].comparison.p_adjusted is None


def test_what_diverged_has_no_value():
    summary = Summary(result({"ce": around(0.7), "gce": around(0.8, seed=1)}, diverged={"gce": [0, 4]}))
    line = summary.lines()[1]
    assert line.estimate.missing == 2
    assert line.comparison.verdict == "failed"
    assert np.isnan(line.estimate.values[4])


def test_one_seed_has_no_interval():
    summary = Summary(result({"ce": [0.7], "gce": [0.8]}))
    assert math.isinf(summary.lines()[1].estimate.high)
    assert "no interval" in say.findings(summary)[0][2]


def test_the_prospect_needs_something_to_compare():
    spec = StudySpec(data="wine", objectives=(ObjectiveSpec("cross_entropy"),))
    assert prospect(spec, Sizes(80, 10, 10)) is None


def test_findings_begin_with_the_winners_and_say_how_much():
    summary = Summary(
        result(
            {"ce": around(0.8), "up": around(0.9, seed=1), "down": around(0.7, seed=2), "same": around(0.8)}, noise=Noise("symmetric", 0.4)
        )
    )
    found = say.findings(summary)
    assert [(label, verdict) for label, verdict, _ in found] == [("up", "better"), ("down", "worse"), ("same", "tied")]
    first = found[0][2]
    assert first.startswith("up beats ce at the last epoch by 10.0 points of accuracy (95 % interval +")
    assert "adjusted p < 0.001)" in first
    assert "At the epoch that validation found best the difference is +10.0 points" in first
    assert first.endswith("not tested).")
    assert found[1][2].startswith("down loses to ce at the last epoch by 10.0 points")
    assert found[2][2].startswith(
        "same and ce reach the same accuracy on every seed at the last epoch, and the same in every other metric."
    )


def test_the_same_accuracy_is_not_the_same_predictions():
    made = result({"ce": around(0.8), "same": around(0.8)})
    differing = [replace(one, metrics={**one.metrics, "log_loss": 0.3}) for one in made.outcomes if one.objective == "same"]
    others = [one for one in made.outcomes if one.objective != "same"]
    ((_, verdict, text),) = say.findings(Summary(replace(made, outcomes=(*others, *differing))))
    assert verdict == "tied"
    assert text.startswith("same and ce reach the same accuracy on every seed at the last epoch; in other metrics they differ.")


def test_no_interval_is_shown_wider_than_differences_can_be():
    """Two seeds leave nearly everything possible, and no more than that."""
    summary = Summary(result({"ce": [0.5, 0.5], "far": [0.1, 0.9]}))
    found = summary.lines()[1].comparison
    assert found.low < -1
    assert found.high > 1  # as it was computed, for the exports and for other programs
    text = dict((label, text) for label, _, text in say.findings(summary))["far"]
    assert f"(95 % interval {numbers.MINUS}100.0 to +100.0, cut at what is possible, adjusted p" in text
    assert numbers.interval(METRICS["accuracy"], found.low, found.high) == f"[{numbers.MINUS}100.0, +100.0]"
    assert numbers.interval(METRICS["brier"], -1.5, 9) == f"[{numbers.MINUS}1.500, +2.000]"
    assert numbers.interval(METRICS["log_loss"], -1.5, 9) == f"[{numbers.MINUS}1.500, +9.000]"
    assert any("are shown cut there" in limit for limit in design.limits(summary))
    assert "Intervals are cut at what is possible." in latex.of_study(summary)
    table = exports.summary([summary])
    assert (table.difference_low.dropna() < -1).any()
    assert (table.difference_high.dropna() > 1).any()
    narrow = Summary(result({"ce": around(0.8), "up": around(0.9, seed=1)}))
    assert "cut at what is possible" not in latex.of_study(narrow)
    assert not any("are shown cut there" in limit for limit in design.limits(narrow))


def test_the_headline_counts():
    summary = Summary(
        result({"ce": around(0.8), "up": around(0.9, seed=1), "near": around(0.801, 0.05, seed=3)}, noise=Noise("symmetric", 0.4))
    )
    assert say.headline(summary) == (
        "On wine with 40 % symmetric label noise, at the last epoch, compared with ce in accuracy: 1 of 2 is better, "
        "for 1 of 2 no difference is shown."
    )
    odd = Summary(result({"ce": around(0.8), "same": around(0.8), "gone": around(0.9, seed=1)}, diverged={"gone": [0]}))
    assert say.headline(odd).endswith(
        ": 1 of 2 is tied on every seed, 1 of 2 could not be compared. None of these is shown to beat ce here."
    )
    pair = Summary(result({"ce": around(0.8), "up": around(0.9, seed=1)}))
    assert say.headline(pair) == "On wine, at the last epoch, compared with ce in accuracy: up is better."
    alone = Summary(result({"ce": around(0.8)}))
    assert say.headline(alone) == "On wine, at the last epoch, ce reaches 80.0 % accuracy."


def test_an_interval_beside_zero_that_is_not_enough_says_why():
    many = {"ce": around(0.8)} | {f"o{k}": around(0.8, 0.05, seed=10 + k) for k in range(6)}
    base = np.array(many["ce"])
    many["close"] = (base + around(0.02, 0.018, seed=30)).tolist()
    summary = Summary(result(many))
    line = next(line for line in summary.lines() if line.objective == "close")
    assert line.comparison.low > 0
    assert line.comparison.verdict == "no difference shown"
    text = next(text for label, _, text in say.findings(summary) if label == "close")
    assert "taken alone, leaves out 0" in text


def test_lower_is_better_for_log_loss():
    summary = Summary(result({"ce": around(0.8), "up": around(0.9, seed=1)}, metric="log_loss"))
    (found,) = say.findings(summary)
    assert found[1] == "better"
    assert "by 0.100 in log loss" in found[2]


def test_a_tuning_grid_that_is_too_narrow_is_a_warning():
    summary = Summary(result({"ce": around(0.8), "up": around(0.9, seed=1)}, edge=["up"]))
    (warning,) = summary.result.notes
    assert "the largest tried, 1, for up (10 of 10 seeds)" in warning
    assert "ce (" not in warning
    assert summary.rates("up") == {0.01: 0, 0.1: 0, 1.0: 10}


@pytest.mark.parametrize(("value", "text"), [(0.123, "+12.3"), (-0.0345, "−3.5"), (0.0, "0"), (-0.0001, "±0.0"), (math.nan, "–")])
def test_differences_are_signed(value, text):
    assert numbers.difference(ACCURACY, value) == text


def test_numbers_have_their_unit():
    assert numbers.number(ACCURACY, 0.5) == "50.0 %"
    assert numbers.number(LOG_LOSS, 0.5) == "0.500"
    assert numbers.interval(LOG_LOSS, -math.inf, math.inf) == "no interval"
    assert numbers.p_value(0.0004) == "< 0.001"
    assert numbers.p_value(None) == "not tested"


def test_an_imbalance_is_named():
    assert (
        protocol.setting(StudySpec(data="wine", objectives=(ObjectiveSpec("cross_entropy"),), imbalance=0.2), "wine")
        == "wine with classes thinned 5 : 1"
    )


def test_limits_speak_of_what_was_done():
    plain = " ".join(design.limits(Summary(result({"ce": around(0.8)}))))
    assert "label noise" not in plain
    assert "temperature" not in plain
    noisy = " ".join(design.limits(Summary(result({"ce": around(0.8)}, noise=Noise("symmetric", 0.4), scaled=["ce"]))))
    assert "The label noise was drawn by a rule" in noisy
    assert "marked T" in noisy


def test_what_was_ended_early_is_said_so():
    base = around(0.8, 0.02)
    worse = (np.array(base) - around(0.02, 0.02, seed=5)).tolist()
    made = result({"ce": base, "up": around(0.9, seed=1), "none": worse})
    summary = Summary(made, stopped={"none": 6})
    assert summary.lines()[2].estimate.values == tuple(worse[:6])
    assert say.headline(summary).endswith(": 1 of 2 is better, 1 of 2 was ended early as hopeless.")
    label, verdict, text = say.findings(summary)[-1]
    assert (label, verdict) == ("none", "hopeless")
    assert text.startswith(
        "none was ended after 6 seeds: the advantage over ce that the study was to find is excluded. The difference until"
    )
    assert "which holds whenever one stops)" in text
    whole = Summary(made).lines()[1].comparison
    assert summary.lines()[1].comparison.p_adjusted == pytest.approx(2 * whole.p)


def test_chances_are_those_of_the_correlated_t_test():
    ours, theirs = np.array(around(0.82, 0.02, seed=1)), np.array(around(0.8))
    summary = Summary(result({"ce": theirs.tolist(), "up": ours.tolist(), "gone": ours.tolist()}, diverged={"gone": [0]}))
    expected = correlated_t(ours - theirs, train_size=80, test_size=10, rope=0.01)
    found = summary.chances()
    assert list(found) == ["up"]
    assert found["up"].better == pytest.approx(expected.better)
    ((label, cells),) = say.chances(summary)
    assert label == "up"
    assert cells[2] == f"{100 * expected.better:.0f} %"
    assert say.chances(Summary(result({"ce": theirs.tolist(), "up": (theirs + 0.3).tolist()})))[0][1] == ("< 1 %", "< 1 %", "> 99 %")


def test_chances_need_a_scale_and_two_seeds():
    assert Summary(result({"ce": around(0.8), "up": around(0.9, seed=1)}, metric="log_loss")).chances() == {}
    assert Summary(result({"ce": [0.8], "up": [0.9]})).chances() == {}


def test_what_can_be_seen_is_said_in_points_before_and_after():
    base = np.array(around(0.8))
    made = result(
        {"ce": base.tolist(), "a": (base + around(0.01, 0.01, seed=3)).tolist(), "b": (base + around(0.0, 0.02, seed=4)).tolist()}
    )
    summary = Summary(made)
    effect = summary.prospect.smallest_effect
    between = f"{effect:.1f} points of accuracy to {2 * effect:.1f} points of accuracy"
    told = f"{effect:.1f} deviations are {between}: smaller differences may well have been missed."
    assert say.seen(summary) == f"By the spread seen here, {told}"
    points = 100 * effect * math.sqrt(0.05 / 10)
    assert design.beforehand(summary.prospect, summary.sizes).startswith(f"In accuracy, {effect:.1f} deviations are {points:.1f} points")
    assert say.seen(Summary(result({"ce": around(0.8)}))) == ""
    one = Summary(result({"ce": [0.7], "gce": [0.8]}))
    assert say.seen(one) == design.beforehand(one.prospect, one.sizes) == ""


def test_the_plan_says_what_can_be_seen_in_points_of_accuracy_only():
    for metric, told in (("accuracy", True), ("f1", False), ("log_loss", False)):
        summary = Summary(result({"ce": around(0.8), "up": around(0.9, seed=1)}, metric=metric))
        said = dict(design.plan(summary.spec, summary.result.data, summary.sizes, "corrected_t", summary.prospect))
        assert ("points or more" in said["power"]) is told


def test_every_test_has_its_words():
    assert set(design.TESTS) == set(get_args(Test))
