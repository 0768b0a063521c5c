"""How often whole studies are wrong, run by the engine itself: its rounds, its store, its early ending, and the verdicts of its result.

Training takes too long to be run hundreds of times, so scores are drawn in its place, from the model that the corrected test assumes: some
part of an objective's differences is the luck of the rows, shared by all seeds of a study, and the rest is each seed's own.
`test_null_simulations` has learners that learn; here nothing but the scores is made up. Studies with real training come last.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy import stats

from lossmith import study
from lossmith.study import Dataset, StudyResult, StudySpec, TrialSpec, load_data
from lossmith.study import engine as engine_module
from lossmith.study.statistics.paired import compare
from lossmith.study.statistics.power import recommended_seeds
from lossmith.study.statistics.stopping import EFFECT, MISS, hopeless
from lossmith.study.summary import Summary
from lossmith.study.training.metrics import METRICS

OBJECTIVES = ("cross_entropy", "generalized_cross_entropy", "focal_loss")
TRAIN, VALIDATION, TEST = 160, 8, 10
SEEDS = recommended_seeds(len(OBJECTIVES) - 1, TRAIN, TEST, stop_hopeless=True)
STUDIES = 200
SPREAD = 0.02
"""Of a paired difference from seed to seed."""


def _drawn(trial: TrialSpec, score: float) -> dict[str, Any]:
    """The record of a trial that reached this score, as training would have written it down."""
    metrics = dict.fromkeys(METRICS, score)
    seen = {"epoch": 1, "calibration": "raw", "temperature": 1.0, "val": metrics, "test": metrics, "reliability": []}
    epochs = [{"epoch": k, "train_loss": 1.0, "val": {trial.metric: score}, "test": {trial.metric: score}} for k in (0, 1)]
    rows = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
    return {"status": "ok", "rows": rows, "epochs": epochs, "last": seen, "best": seen, "seconds": 0.0}


class Both(NamedTuple):
    """A study, and the same with its hopeless objectives ended early."""

    whole: StudyResult
    sequential: StudyResult


@pytest.fixture(scope="module")
def simulated() -> Callable[[float], list[Both]]:
    """Studies by the advantage of the last objective, in standard deviations of the paired difference; the others are alike."""
    wine, known = load_data("wine"), {}

    def run(advantage: float) -> list[Both]:
        if advantage in known:
            return known[advantage]
        rng, made = np.random.default_rng(24), []
        for luck in _luck(rng):
            scores = 0.8 + SPREAD / math.sqrt(2) * (luck + rng.standard_normal((len(OBJECTIVES), SEEDS)))
            scores[-1] += advantage * SPREAD
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(engine_module, "check", lambda spec, dataset: None)
                patch.setattr(engine_module, "worth_stacking", lambda trial, dataset: len(OBJECTIVES) * SEEDS)
                patch.setattr(engine_module, "run_trials", lambda trials, dataset, scores=scores: _scored(trials, scores))
                made.append(Both(*(study.run(_spec(wine, stop_hopeless=ends), jobs=1) for ends in (None, True))))
        return known.setdefault(advantage, made)

    return run


def _luck(rng: np.random.Generator) -> np.ndarray:
    """That of each objective in each study, `(studies, objectives, 1)`.

    What decides most is the last objective's against the baseline's, so that it is drawn from as many strata as there are studies: the
    rates that are counted have the same expectation, and vary less.
    """
    drawn = rng.standard_normal((STUDIES, len(OBJECTIVES)))
    along = np.zeros(len(OBJECTIVES))
    along[[0, -1]] = -math.sqrt(0.5), math.sqrt(0.5)
    strata = stats.norm.ppf((rng.permutation(STUDIES) + rng.random(STUDIES)) / STUDIES)
    drawn += (strata - drawn @ along)[:, None] * along
    return math.sqrt(TEST / TRAIN) * drawn[:, :, None]


def _scored(trials: Sequence[TrialSpec], scores: np.ndarray) -> list[dict[str, Any]]:
    return [_drawn(one, scores[OBJECTIVES.index(one.objective.name), one.seed]) for one in trials]


def _spec(data: Dataset, **how: Any) -> StudySpec:
    options = {"objectives": OBJECTIVES, "model": "linear", "seeds": SEEDS, "epochs": 1, "learning_rates": [0.1]}
    return StudySpec(data=data, **{**options, **how})


def winners(result: StudyResult) -> set[str]:
    return {line.objective for line in Summary(result).lines() if line.comparison and line.comparison.verdict in ("better", "worse")}


def test_alike_objectives_seldom_win_with_and_without_early_ending(simulated: Callable[[float], list[Both]]) -> None:
    both = [(winners(one.whole), winners(one.sequential)) for one in simulated(0.0)]
    without, within = (np.mean([bool(won) for won in some]) for some in zip(*both, strict=True))
    assert 0 < without <= 0.07, f"{without:.4f}"
    assert within <= 0.07, f"{within:.4f}"
    assert all(ended <= whole for whole, ended in both), "who wins with the rule would have won without it"
    ended = [len(one.sequential.ended) for one in simulated(0.0)]
    assert np.mean(ended) > 0.8 * (len(OBJECTIVES) - 1), "alike objectives have no worthwhile advantage"


def test_a_worthwhile_advantage_is_found_with_and_without_early_ending(simulated: Callable[[float], list[Both]]) -> None:
    made = simulated(EFFECT)
    for results in zip(*made, strict=True):
        found = np.mean([OBJECTIVES[-1] in winners(one) for one in results])
        assert found >= 0.8, f"{found:.4f}"
    assert np.mean([OBJECTIVES[-1] in one.sequential.ended for one in made]) <= MISS


def test_the_engine_ends_as_the_rule_says_and_judges_as_the_statistics_do(simulated: Callable[[float], list[Both]]) -> None:
    for one in simulated(EFFECT)[:60]:
        whole = dict(zip(OBJECTIVES, one.whole.values(), strict=True))
        sizes = {"train_size": TRAIN, "test_size": TEST}
        over = hopeless(whole, OBJECTIVES[0], "accuracy", **sizes)
        assert one.sequential.ended == {label: seeds for label, seeds in over.items() if seeds < SEEDS}
        expected = compare(whole, OBJECTIVES[0], "accuracy", **sizes)
        judged = [line.comparison for line in Summary(one.whole).lines()[1:]]
        assert [(told.p_adjusted, told.verdict) for told in judged] == [(told.p_adjusted, told.verdict) for told in expected]


def test_the_same_objective_by_other_names_wins_nothing_when_trained(user: ModuleType) -> None:
    """Really trained, on two sets of seeds: no false win is claimed, and who is ended is who the rule says, by the result's own numbers."""
    wine, bad = load_data("wine"), "objectives_of_a_user:wrong_way"
    same = ("cross_entropy:label_smoothing=0.0", "torch.nn.functional:cross_entropy")
    for first in (0, 6):
        spec = _spec(wine, objectives=("cross_entropy", *same, bad), seeds=range(first, first + 6), epochs=3, learning_rates=[0.05])
        result = study.run(replace(spec, stop_hopeless=True), jobs=1)
        verdicts = {line.objective: line.comparison.verdict for line in Summary(result).lines() if line.comparison}
        assert {verdicts[label] for label in same} == {"tied"}
        assert verdicts[bad] in ("hopeless", "worse", "no difference shown")
        whole = study.run(spec, jobs=1)
        values = dict(zip(whole.objectives, whole.values(), strict=True))
        rows = Summary(whole).sizes
        over = hopeless(values, "cross_entropy", "accuracy", train_size=rows.train, test_size=rows.test)
        assert result.ended == {label: seeds for label, seeds in over.items() if seeds < 6}
        assert bad in result.ended
        for label, ended in result.ended.items():  # and those that were run are the same as without the rule
            np.testing.assert_array_equal(result.values()[whole.objectives.index(label), :ended], values[label][:ended])
