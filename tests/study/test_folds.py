"""Cross-validation: every row is tested once a seed, nothing crosses, and the statistics count folds."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from lossmith import study
from lossmith.study import Dataset, StudyError, StudySpec, load_data
from lossmith.study.data.splits import make_split
from lossmith.study.protocol import fitting_test
from lossmith.study.report import design
from lossmith.study.report.command import command
from lossmith.study.report.page import render
from lossmith.study.sizes import sizes
from lossmith.study.statistics.paired import Test, corrected_t
from lossmith.study.summary import Summary, prospect
from lossmith.study.training.trial import split_of

from .made_up import around, result


@pytest.fixture(scope="module")
def wine() -> Dataset:
    return load_data("wine")


def spec(**changes: Any) -> StudySpec:
    options = {"data": "wine", "objectives": "cross_entropy,gce:q=0.7", "model": "linear", "folds": 3, "seeds": 2, "epochs": 1}
    return StudySpec(**options | {"learning_rates": 0.1} | changes)


def grouped() -> Dataset:
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), generator.integers(1, 6, 60))
    n = len(groups)
    return Dataset("t", generator.normal(size=(n, 2)).astype(np.float32), np.arange(n) % 2, ("a", "b"), groups=groups)


@pytest.mark.parametrize("data", ["wine", "grouped"])
def test_every_row_is_tested_once_a_seed_and_never_trained_on_beside(data: str, wine: Dataset) -> None:
    chosen = wine if data == "wine" else grouped()
    for seed in range(3):
        tested = []
        for fold in range(5):
            split = make_split(chosen, seed, validation=0.1, folds=5, fold=fold)
            parts = (split.rows_train, split.rows_validation, split.rows_test)
            assert np.sort(np.concatenate(parts)).tolist() == list(range(len(chosen.labels)))
            tested.append(split.rows_test)
            if chosen.groups is not None:
                sides = [set(chosen.groups[rows].tolist()) for rows in parts]
                assert sum(map(len, sides)) == len(set.union(*sides))
        assert np.sort(np.concatenate(tested)).tolist() == list(range(len(chosen.labels)))


def test_folds_are_of_equal_size_in_every_class(wine: Dataset) -> None:
    counts = np.array([np.bincount(wine.labels[make_split(wine, 0, folds=5, fold=fold).rows_test]) for fold in range(5)])
    assert np.ptp(counts, axis=0).max() <= 1
    split = make_split(wine, 0, validation=0.1, folds=5, fold=2)
    assert len(split.rows_validation) == pytest.approx(0.1 * 178, abs=3)


def test_seeds_deal_other_folds_and_noise_is_the_seed_s(wine: Dataset) -> None:
    noise = study.Noise("symmetric", 0.5)
    first, second = (make_split(wine, 0, noise=noise, folds=3, fold=fold) for fold in (0, 1))
    other = make_split(wine, 1, noise=noise, folds=3, fold=0)
    assert set(first.rows_test) != set(other.rows_test)
    labels = [dict(zip(s.rows_train.tolist(), s.y_train.tolist(), strict=True)) for s in (first, second)]
    assert all(labels[0][row] == labels[1][row] for row in labels[0].keys() & labels[1].keys())


def test_a_fold_starts_from_weights_of_its_own(wine: Dataset) -> None:
    trials = spec(objectives="cross_entropy").trials(wine.fingerprint)
    assert [(trial.seed, trial.fold) for trial in trials] == [(seed, fold) for seed in range(2) for fold in range(3)]
    assert [trial.draw for trial in trials] == list(range(6))
    from lossmith.study.training.models import build_model
    from lossmith.study.training.run import torch_seed

    weights = [build_model("linear", (13,), 3, torch_seed(trial.draw, "weights"))[1].weight for trial in trials[:2]]
    assert not torch.equal(weights[0], weights[1])
    assert set(split_of(trials[0], wine).rows_test).isdisjoint(split_of(trials[1], wine).rows_test)


def test_trials_with_and_without_folds_do_not_share_a_key() -> None:
    plain = {trial.key for trial in spec(folds=None, seeds=6).trials("f")}
    folded = {trial.key for trial in spec().trials("f")}
    other = {trial.key for trial in spec(folds=2, seeds=3).trials("f")}
    assert len(plain | folded | other) == 36


def test_the_statistics_count_folds() -> None:
    made = result({"ce": around(0.7, n=10), "up": around(0.8, n=10, seed=1)}, folds=5)
    assert made.spec.seeds == (0, 1)
    (line, _) = Summary(made).lines()
    reach = stats.t.ppf(0.975, 9) * 0.01 * math.sqrt(1 / 10 + 10 / 80)
    assert (line.estimate.low, line.estimate.high) == pytest.approx((0.7 - reach, 0.7 + reach))
    comparison = Summary(made).lines()[1].comparison
    assert comparison is not None
    assert comparison.n == 10


def test_the_sizes_are_those_of_a_fold(wine: Dataset) -> None:
    asked = spec(folds=5)
    found = sizes(asked, wine)
    assert found.test == pytest.approx(178 / 5, abs=1)
    assert found.train == pytest.approx(178 * 0.7, abs=2)
    shown = prospect(asked, found)
    assert shown is not None
    assert shown.n_seeds == 10
    assert "10 folds" in shown.sentence


def test_the_words_say_what_a_fold_changes() -> None:
    summary = Summary(result({"ce": around(0.7, n=10), "up": around(0.8, n=10, seed=1)}, folds=5))
    assert "no two test sets share a row" in " ".join(design.limits(summary))
    assert dict(design.protocol(summary))["split"].startswith("5-fold cross-validation, dealt anew by every seed")
    assert "Means over folds" in render(summary)
    assert "--folds 5" in (command(summary.spec) or "")


def test_a_study_of_folds_runs_and_is_read_back(tmp_path: Any) -> None:
    made = study.run(spec(), tmp_path / "s.sqlite", jobs=1)
    assert made.values().shape == (2, 6)
    assert list(made.table().query("objective == 'cross_entropy' and stop == 'last'")["fold"]) == [0, 1, 2, 0, 1, 2]
    assert sum(outcome.reliability[0]["count"] > 0 for outcome in made.outcomes) > 0
    assert sum(row["count"] for row in made.reliability("cross_entropy")) == 2 * 178
    read = study.load(tmp_path / "s.sqlite")
    assert read.spec == made.spec
    assert (read.values() == made.values()).all()
    assert "folds" not in json.dumps(replace(made.spec, folds=None).as_dict())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": 1}, "folds must be a whole number >= 2"),
        ({"test": 0.2}, "leave out --test-fraction"),
        ({"folds": 2, "validation": 0.5}, "leave nothing to train on"),
    ],
)
def test_bad_folds_are_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        spec(**changes)


def test_a_class_too_rare_for_the_folds_is_one_line() -> None:
    data = Dataset.from_arrays("t", np.random.default_rng(0).normal(size=(44, 2)), [0] * 40 + [1] * 4)
    with pytest.raises(StudyError, match=r"class '1' has 4 rows here, too few for 5 parts \(--folds 5\)"):
        make_split(data, 0, folds=5, fold=0)


@pytest.mark.parametrize("test", ["signed_rank", "anytime_t"])
def test_tests_that_folds_do_not_fit_are_refused(test: Test) -> None:
    with pytest.raises(StudyError, match="use corrected_t with --folds"):
        fitting_test(spec(), test)
    assert fitting_test(spec(folds=None), test) == test


def test_equal_learners_seldom_win_over_folds() -> None:
    """Nearest-mean classifiers on features of their own, equal in the population; every study redraws its rows. 5 folds, 4 seeds."""
    generator, rows, folds, seeds, studies = np.random.default_rng(30), 200, 5, 4, 1500
    y = np.tile([0, 1], rows // 2)
    differences = np.empty((studies, seeds * folds))
    for study_number in range(studies):
        x = generator.standard_normal((2, rows, 5)) + np.where(y == 1, 0.45, -0.45)[:, None]
        for seed in range(seeds):
            part = generator.permutation(rows) % folds
            tested = part == np.arange(folds)[:, None]  # (folds, rows)
            weights = [(~tested & (y == k)) / (~tested & (y == k)).sum(1, keepdims=True) for k in (0, 1)]
            low, high = (np.einsum("fr,lrd->lfd", weight, x) for weight in weights)
            score = np.einsum("lfd,lrd->lfr", high - low, x) - ((high**2 - low**2).sum(2) / 2)[:, :, None]
            right = (((score > 0) == (y == 1)) * tested).sum(2) / tested.sum(1)
            differences[study_number, seed * folds : (seed + 1) * folds] = right[1] - right[0]
    _, _, _, p = corrected_t(differences, train_size=160, test_size=40)
    plain = stats.ttest_1samp(differences, 0, axis=-1).pvalue
    assert 0.02 <= (p <= 0.05).mean() <= 0.07
    assert (plain <= 0.05).mean() > 0.15
