"""How often the statistics are wrong, by simulating whole studies of which the truth is known.

The learners are nearest-mean classifiers, each of which sees features of its own. The features are alike in
distribution, so all learners are equally accurate in the population, while on any one data set some look better; and
every study redraws its data set, so that a study's answer is right when it speaks of the population. Each seed splits
the data set anew, 80 : 10 : 10, and trains on the first part; the second is for validation, which these learners do
not need. As many studies are simulated as make the standard error of a rate well under one per cent.
"""

import math

import numpy as np
import pytest
from scipy import stats

from lossmith.study.across import StudyTable, compare_across
from lossmith.study.sizes import Sizes
from lossmith.study.statistics.paired import compare, corrected_t, holm
from lossmith.study.statistics.power import recommended_seeds
from lossmith.study.statistics.sequential import anytime_t, seeds_until_excluded
from lossmith.study.statistics.signed_rank import null_distribution, rank_sums
from lossmith.study.statistics.stopping import EFFECT, MISS

ROWS, TRAIN, TEST = 200, 160, 20
SIZES = {"train_size": TRAIN, "test_size": TEST}
FEATURES = 5  # a learner
LEARNERS = 5
SEEDS = recommended_seeds(LEARNERS - 1, TRAIN, TEST)
STUDIES = 8000


LOOKED_AT = 3000
"""Studies that are looked at after every seed, which takes longer."""


def standard_error(rate: float, studies: int) -> float:
    return math.sqrt(rate * (1 - rate) / studies)


def one_study(rng: np.random.Generator, y: np.ndarray) -> np.ndarray:
    """The accuracy of each learner on each seed, (learners, seeds), on a new data set."""
    x = rng.standard_normal((ROWS, LEARNERS, FEATURES)) + np.where(y == 1, 0.45, -0.45)[:, None, None]
    order = rng.random((SEEDS, ROWS)).argsort(1)
    trained = np.zeros((SEEDS, ROWS))
    np.put_along_axis(trained, order[:, :TRAIN], 1.0, 1)
    tested = order[:, TRAIN : TRAIN + TEST]
    flat = x.reshape(ROWS, -1)
    ones, zeros = trained * y, trained * (1 - y)
    mean1 = ones @ flat / ones.sum(1, keepdims=True)
    mean0 = zeros @ flat / zeros.sum(1, keepdims=True)
    weight = (mean1 - mean0).reshape(SEEDS, LEARNERS, FEATURES)
    middle = ((mean1 + mean0) / 2).reshape(SEEDS, LEARNERS, FEATURES)
    score = np.matmul(weight.transpose(1, 0, 2), x.transpose(1, 2, 0)) - (weight * middle).sum(2).T[:, :, None]
    right = (score > 0) == (y == 1)
    return np.take_along_axis(right, tested[None], 2).mean(2)


@pytest.fixture(scope="module")
def accuracies() -> np.ndarray:
    """(studies, learners, seeds), of learners that are equal in the population."""
    rng = np.random.default_rng(20)
    y = np.tile([0, 1], ROWS // 2)
    return np.stack([one_study(rng, y) for _ in range(STUDIES)])


@pytest.fixture(scope="module")
def differences(accuracies) -> np.ndarray:
    """(studies, learners - 1, seeds), against the first learner."""
    return accuracies[:, 1:] - accuracies[:, :1]


def test_the_simulated_learners_learn_and_differ(accuracies, differences):
    assert 0.75 < accuracies.mean() < 0.9
    assert np.abs(accuracies.mean((0, 2)) - accuracies.mean()).max() < 0.003
    assert (differences != 0).mean() > 0.7


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    """(studies, 20, 10): twenty objectives that differ by nothing but independent noise, on ten seeds."""
    return np.random.default_rng(21).normal(0.9, 0.01, (STUDIES, 20, 10))


def test_identical_objectives_with_seed_noise(noise):
    _, _, _, p = corrected_t(noise[:, 1:] - noise[:, :1], train_size=800, test_size=100)
    wins = (holm(p) <= 0.05).any(1).mean()
    assert wins <= 0.07, f"{wins:.4f}, standard error {standard_error(wins, STUDIES):.4f}"


def test_identical_objectives_with_seed_noise_by_ranks(noise):
    ranks, statistic = rank_sums(noise[:, 1:] - noise[:, :1])
    tail = null_distribution(np.sort(ranks[0, 0])).cumsum()
    p = np.minimum(1, 2 * tail[np.minimum(statistic, ranks.sum(-1) - statistic)])
    wins = (holm(p) <= 0.05).any(1).mean()
    assert wins <= 0.07, f"{wins:.4f}, standard error {standard_error(wins, STUDIES):.4f}"
    # With ten seeds and nineteen comparisons the least adjusted p is 0.037, so a false winner is possible.
    assert wins > 0


@pytest.mark.parametrize("test", ["corrected_t", "signed_rank"])
def test_reports_say_what_the_simulations_count(noise, test):
    """The simulations work on arrays; this is the same by the function that reports use, on a few studies."""
    labels = [f"objective {k}" for k in range(20)]
    for study in noise[:10]:
        d = study[1:] - study[0]
        if test == "corrected_t":
            _, _, _, p = corrected_t(d, train_size=800, test_size=100)
        else:
            p = np.array([stats.wilcoxon(row, method="exact").pvalue for row in d])
        rows = dict(zip(labels, study, strict=True))
        compared = compare(rows, labels[0], "accuracy", train_size=800, test_size=100, test=test)
        np.testing.assert_allclose([c.p_adjusted for c in compared], holm(p), rtol=1e-6)
        found = [c.verdict in ("better", "worse") for c in compared]
        assert found == (holm(p) <= 0.05).tolist()


def test_two_different_learners_equal_in_the_population(differences):
    _, _, _, p = corrected_t(differences[:, 0], **SIZES)
    wins = (p <= 0.05).mean()
    assert wins <= 0.07, f"{wins:.4f}, standard error {standard_error(wins, STUDIES):.4f}"
    # Nor is it so low that nothing could ever be found.
    assert wins >= 0.02, f"{wins:.4f}, standard error {standard_error(wins, STUDIES):.4f}"


def test_five_different_learners_equal_in_the_population(accuracies, differences):
    """The family-wise rate of false winners; also by the very function that reports use."""
    _, _, _, p = corrected_t(differences, **SIZES)
    false_winner = (holm(p) <= 0.05).any(1)
    rate = false_winner.mean()
    assert rate <= 0.07, f"{rate:.4f}, standard error {standard_error(rate, STUDIES):.4f}"
    labels = [f"learner {k}" for k in range(LEARNERS)]
    for study, expected in zip(accuracies[:300], false_winner[:300], strict=True):
        compared = compare(dict(zip(labels, study, strict=True)), labels[0], "accuracy", **SIZES)
        assert any(c.verdict in ("better", "worse") for c in compared) == expected


def test_the_uncorrected_paired_test_finds_false_winners(differences):
    """What the correction is for: about three of ten such studies would announce a winner between equals."""
    p = stats.ttest_1samp(differences[:, 0], 0, axis=-1).pvalue
    wins = (p <= 0.05).mean()
    assert wins > 0.2, f"{wins:.4f}, standard error {standard_error(wins, STUDIES):.4f}"


def one_unstable_study(rng: np.random.Generator, y: np.ndarray, seeds: int) -> np.ndarray:
    """The difference in accuracy, (seeds,), of two one-nearest-neighbour classifiers on features of their own."""
    x = rng.standard_normal((2, ROWS, FEATURES)) + np.where(y == 1, 0.45, -0.45)[:, None]
    squares = (x**2).sum(2)
    distance = squares[:, :, None] + squares[:, None, :] - 2 * np.matmul(x, x.transpose(0, 2, 1))
    accuracy = np.empty((2, seeds))
    for seed in range(seeds):
        order = rng.permutation(ROWS)
        trained, tested = order[:TRAIN], order[TRAIN : TRAIN + TEST]
        nearest = trained[distance[:, tested[:, None], trained].argmin(2)]
        accuracy[:, seed] = (y[nearest] == y[tested]).mean(1)
    return accuracy[1] - accuracy[0]


def test_learners_that_memorise_rows_are_the_known_limit_of_the_correction():
    """The correction assumes that a learner depends on its training rows in bulk; here it hangs on single rows."""
    rng, studies = np.random.default_rng(22), 1500
    y = np.tile([0, 1], ROWS // 2)
    d = np.stack([one_unstable_study(rng, y, 10) for _ in range(studies)])
    _, _, _, p = corrected_t(d, **SIZES)
    wins, uncorrected = (p <= 0.05).mean(), (stats.ttest_1samp(d, 0, axis=-1).pvalue <= 0.05).mean()
    message = f"{wins:.4f} and {uncorrected:.4f}, standard error {standard_error(0.07, studies):.4f}"
    assert wins <= 0.1, message
    assert wins < uncorrected / 2, message


@pytest.mark.parametrize("comparisons", [1, LEARNERS - 1])
def test_a_real_difference_is_found_at_the_recommended_seeds(differences, comparisons):
    """1.5 standard deviations of the paired difference, added to one learner; the others stay equal."""
    seeds = recommended_seeds(comparisons, TRAIN, TEST)
    d = differences[:, :comparisons, :seeds].copy()
    deviation = math.sqrt(d[:, 0].var(-1, ddof=1).mean())
    d[:, 0] += 1.5 * deviation
    mean, _, _, p = corrected_t(d, **SIZES)
    found = ((holm(p)[:, 0] <= 0.05) & (mean[:, 0] > 0)).mean()
    assert found >= 0.8, f"{found:.4f}, standard error {standard_error(found, STUDIES):.4f}"


def test_five_learners_on_three_data_sets(accuracies):
    """The family-wise rate of false winners on average over data sets, which are three of the simulated ones at a time."""
    names, studies = ("first", "second", "third"), 1000
    wrong = 0
    for three in accuracies[: 3 * studies, :, :10].reshape(studies, 3, LEARNERS, 10):
        values = {name: {f"learner {k}": row for k, row in enumerate(learners)} for name, learners in zip(names, three, strict=True)}
        sizes = {name: Sizes(TRAIN, ROWS - TRAIN - TEST, TEST) for name in names}
        table = StudyTable("", "accuracy", True, "learner 0", values, sizes)
        wrong += any(c.verdict in ("better", "worse") for c in compare_across(table, population="these"))
    assert 0 < wrong / studies <= 0.07, f"{wrong / studies:.4f}, standard error {standard_error(0.05, studies):.4f}"


def ended_early(differences: np.ndarray) -> np.ndarray:
    """Whether an objective was ended as hopeless after any of its seeds, along the last axis."""
    seeds = differences.shape[-1]
    return seeds_until_excluded(differences, overlap=TEST / TRAIN, test_size=TEST, effect=EFFECT, miss=MISS) <= seeds


def test_stopping_the_hopeless_makes_no_false_winners(differences):
    d = differences[:LOOKED_AT]
    ended = ended_early(d)
    assert ended.mean() > 0.8, "equal learners have no worthwhile advantage"
    _, _, _, p = corrected_t(d, **SIZES)
    without = (holm(p) <= 0.05).any(1)
    wins = (holm(np.where(ended, 1.0, p)) <= 0.05).any(1)
    assert not (wins & ~without).any()
    assert wins.mean() <= 0.07, f"{wins.mean():.4f}, standard error {standard_error(0.05, LOOKED_AT):.4f}"


def test_looking_after_every_seed_makes_no_false_winners(differences):
    """The family-wise rate over all looks. Evidence that takes the seeds for independent fails here: new splits are not new rows."""
    p = anytime_t(differences, overlap=TEST / TRAIN, test_size=TEST).p
    wins = (holm(p) <= 0.05).any(1).mean()
    assert 0 < wins <= 0.07, f"{wins:.4f}, standard error {standard_error(wins, STUDIES):.4f}"
    ignorant = anytime_t(differences, overlap=0.0, test_size=TEST).p
    assert (holm(ignorant) <= 0.05).any(1).mean() > 0.15


def test_looking_at_identical_objectives_with_seed_noise(noise):
    d = noise[:, 1:] - noise[:, :1]
    wins = (holm(anytime_t(d, overlap=1 / 8, test_size=100).p) <= 0.05).any(1).mean()
    assert wins <= 0.07, f"{wins:.4f}, standard error {standard_error(0.05, STUDIES):.4f}"


@pytest.mark.parametrize("comparisons", [1, LEARNERS - 1])
def test_a_real_difference_survives_the_stopping_of_the_hopeless(differences, comparisons):
    """1.5 standard deviations of the paired difference, as in the test without stopping."""
    d = differences[:LOOKED_AT, :comparisons, : recommended_seeds(comparisons, TRAIN, TEST, stop_hopeless=True)].copy()
    d[:, 0] += 1.5 * math.sqrt(d[:, 0].var(-1, ddof=1).mean())
    ended = ended_early(d)
    mean, _, _, p = corrected_t(d, **SIZES)
    found = ((holm(np.where(ended, 1.0, p))[:, 0] <= 0.05) & (mean[:, 0] > 0)).mean()
    assert found >= 0.8, f"{found:.4f}, standard error {standard_error(found, LOOKED_AT):.4f}"
    assert ended[:, 0].mean() <= MISS, f"{ended[:, 0].mean():.4f} given up"


class TestWhatEarlyEndingCosts:
    """In the model of the corrected test, where its own power is known; that takes most of the chance out of the simulated rates."""

    STUDIES = 100_000

    def found(self, effect: float, comparisons: int, train: int, test: int, seeds: int) -> tuple[float, float, float]:
        """How often a difference is found, without and with early ending, and the standard error of the latter."""
        rng, parts = np.random.default_rng(25), 4
        won, kept = [], []
        for _ in range(parts):
            d = effect + math.sqrt(test / train) * rng.standard_normal((self.STUDIES // parts, 1))
            d = d + rng.standard_normal((self.STUDIES // parts, seeds))
            mean, _, _, p = corrected_t(d, train_size=train, test_size=test)
            won.append((p <= 0.05 / comparisons) & (mean > 0))
            kept.append(seeds_until_excluded(d[won[-1]], overlap=test / train, test_size=test, effect=EFFECT, miss=MISS) >= seeds)
        whole, lost = np.concatenate(won).mean(), 1 - np.concatenate(kept).mean()
        width = math.sqrt(1 / seeds + test / train)
        exact = stats.nct.sf(stats.t.isf(0.025 / comparisons, seeds - 1), seeds - 1, effect / width)
        assert whole == pytest.approx(exact, abs=4 * standard_error(exact, self.STUDIES))
        return exact, exact * (1 - lost), exact * standard_error(lost, int(whole * self.STUDIES))

    def test_the_recommended_seeds_find_it_nonetheless(self):
        """On 142 rows, tested on 18, the ten seeds that are enough without early ending are a little too few with it."""
        exact, power, error = self.found(EFFECT, 1, 142, 18, recommended_seeds(1, 142, 18))
        assert exact >= 0.8
        assert power + 4 * error < 0.8, f"{power:.4f}, standard error {error:.4f}"
        _, power, error = self.found(EFFECT, 1, 142, 18, recommended_seeds(1, 142, 18, stop_hopeless=True))
        assert power - 4 * error > 0.8, f"{power:.4f}, standard error {error:.4f}"

    @pytest.mark.parametrize("comparisons", [1, 4])
    def test_nor_is_a_seed_more_recommended_than_it_takes(self, comparisons):
        seeds = recommended_seeds(comparisons, TRAIN, TEST, stop_hopeless=True)
        _, power, error = self.found(EFFECT, comparisons, TRAIN, TEST, seeds)
        assert power - 4 * error > 0.8, f"{power:.4f}, standard error {error:.4f}"
        _, fewer, error = self.found(EFFECT, comparisons, TRAIN, TEST, seeds - 1)
        assert fewer + 4 * error < 0.8, f"{fewer:.4f}, standard error {error:.4f}"


def test_looking_at_learners_that_memorise_rows():
    """Where the correction falls short, so does the model of this evidence; what it gives away in power happens to cover that here."""
    rng, studies = np.random.default_rng(23), 1000
    y = np.tile([0, 1], ROWS // 2)
    d = np.stack([one_unstable_study(rng, y, 22) for _ in range(studies)])
    wins = (anytime_t(d, overlap=TEST / TRAIN, test_size=TEST).p <= 0.05).mean()
    assert wins <= 0.07, f"{wins:.4f}, standard error {standard_error(0.05, studies):.4f}"
