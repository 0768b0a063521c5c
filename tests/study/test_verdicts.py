"""From training to verdict: an objective that is worse is declared so, and one that is cross-entropy by another name is identical to it."""

from types import ModuleType

from lossmith import study
from lossmith.study.summary import Summary

WORSE = "objectives_of_a_user:on_flipped_labels"
ALIAS = "objectives_of_a_user:another_name"


def test_the_worse_objective_is_worse_and_the_alias_is_identical(user: ModuleType) -> None:
    spec = study.StudySpec(
        data="wine", objectives=f"cross_entropy,{WORSE},{ALIAS}", model="linear", seeds=4, epochs=8, learning_rates=[0.01, 0.03]
    )
    baseline, worse, alias = Summary(study.run(spec, jobs=1)).lines()
    assert baseline.comparison is None
    assert baseline.estimate.mean > 0.85
    assert worse.comparison.verdict == "worse"
    assert worse.comparison.high < 0
    assert worse.comparison.p_adjusted <= 0.05
    assert alias.comparison.verdict == "tied"
    assert alias.estimate.values == baseline.estimate.values
    assert alias.comparison.mean_difference == 0


def test_where_lower_is_better_the_same_objective_is_worse_too(user: ModuleType) -> None:
    spec = study.StudySpec(
        data="wine", objectives=f"cross_entropy,{WORSE}", model="linear", seeds=4, epochs=8, learning_rates=0.03, metric="brier"
    )
    _, worse = Summary(study.run(spec, jobs=1)).lines()
    assert worse.comparison.mean_difference > 0
    assert worse.comparison.verdict == "worse"
