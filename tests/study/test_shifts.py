"""Corruptions, strange rows, few labels and noise that depends on the row: by their definitions, and drawn from the seed alone."""

import math
from itertools import pairwise

import numpy as np
import pytest

from lossmith.study import Dataset, Noise, StudyError
from lossmith.study.data.corruption import add_noise, few_labels
from lossmith.study.data.dataset import Column
from lossmith.study.data.shifts import IMAGES, ROWS, SEVERITIES, corrupt, shifts_of
from lossmith.study.data.splits import make_split, stream
from lossmith.study.data.strange import beside, hold_out_classes

DRAW = np.random.default_rng(0)
LABELS = np.arange(60) % 3
PICTURES = Dataset.from_arrays("pictures", 16 * DRAW.random((60, 1, 12, 10)), LABELS)
NUMBERS = Dataset.from_arrays("numbers", DRAW.normal(size=(60, 4)) * [1, 10, 100, 0] + 5, LABELS)
TABLE = Dataset(
    "table", np.c_[DRAW.normal(size=60), DRAW.integers(0, 2, 60).astype(float)], LABELS, ("a", "b", "c"),
    (Column("x", "numeric"), Column("y", "categorical", ("u", "v"))),
)  # fmt: skip
EVERY = np.arange(60)


def corrupted(dataset, name, severity, seed=0):
    return corrupt(dataset, EVERY, EVERY, name, severity, stream(seed, name))


def distance(dataset, name, severity):
    return np.abs(corrupted(dataset, name, severity) - dataset.features).mean()


@pytest.mark.parametrize("name", IMAGES)
def test_images_are_changed_more_at_every_severity_and_stay_in_range(name):
    found = [distance(PICTURES, name, severity) for severity in SEVERITIES]
    assert found[0] > 0
    assert found == sorted(found)
    assert found[-1] > 1.2 * found[0]
    x = corrupted(PICTURES, name, 5)
    assert PICTURES.features.min() <= x.min()
    assert x.max() <= PICTURES.features.max() + 1e-12


@pytest.mark.parametrize("name", sorted(set(ROWS) - {"missing"}))
def test_rows_are_changed_more_at_every_severity(name):
    found = [distance(NUMBERS, name, severity) for severity in SEVERITIES]
    assert 0 < found[0]
    assert all(a < b for a, b in pairwise(found))


def test_definitions_of_pixels():
    """On two by two pixels of 0 and 1, where the results can be written down."""
    x = np.array([[0.0, 1.0], [1.0, 1.0]])
    one = Dataset.from_arrays("one", np.stack([x] * 6)[:, None], np.arange(6) % 2)
    rows = np.arange(6)

    def found(name, severity):
        return corrupt(one, rows, rows, name, severity, stream(0, name))[0, 0]

    np.testing.assert_allclose(found("contrast", 2), (x - 0.75) * 0.5 + 0.75)
    np.testing.assert_allclose(found("brightness", 5), np.clip(x + 0.3, 0, 1))
    np.testing.assert_allclose(found("pixelate", 5), np.full((2, 2), 0.75))  # 0.65 of two pixels is one


def greys(n, size):
    """Grey pictures, and a black and a white one at the end."""
    shades = np.r_[np.full(n - 2, 0.5), 0.0, 1.0]
    return Dataset.from_arrays("grey", np.broadcast_to(shades[:, None, None], (n, size, size)), np.arange(n) % 2)


def test_noise_of_pixels_has_the_stated_size():
    grey = Dataset.from_arrays(
        "grey", np.r_[np.full((98, 1, 16, 16), 0.5), np.zeros((1, 1, 16, 16)), np.ones((1, 1, 16, 16))], np.arange(100) % 2
    )
    rows = np.arange(100)
    x = corrupt(grey, rows[:98], rows, "gaussian_noise", 5, stream(0, "n"))
    assert x.std() == pytest.approx(0.10, rel=0.03)
    hit = corrupt(grey, rows[:98], rows, "impulse_noise", 5, stream(0, "n"))
    assert (hit != 0.5).mean() == pytest.approx(0.07, rel=0.1)
    assert set(np.unique(hit)) == {0.0, 0.5, 1.0}


def test_large_images_take_the_severities_of_imagenet_c():
    big = Dataset.from_arrays(
        "big", np.r_[np.full((8, 1, 80, 80), 0.5), np.zeros((1, 1, 80, 80)), np.ones((1, 1, 80, 80))], np.arange(10) % 2
    )
    assert corrupt(big, np.arange(8), np.arange(10), "gaussian_noise", 3, stream(0, "n")).std() == pytest.approx(0.18, rel=0.05)


def test_noise_of_columns_is_in_their_own_spread():
    change = corrupted(NUMBERS, "offset", 4) - NUMBERS.features
    np.testing.assert_allclose(np.abs(change), np.broadcast_to(0.8 * NUMBERS.features.astype(np.float64).std(axis=0), change.shape))
    assert len(np.unique(np.sign(change[:, :3]), axis=0)) == 1  # a column drifts one way for all rows


def test_lost_values_are_missing_in_a_table_and_the_training_mean_elsewhere():
    lost = corrupted(TABLE, "missing", 5)
    assert np.isnan(lost).mean() == pytest.approx(0.5, abs=0.15)
    assert np.isnan(lost[:, 1]).any()  # categories too
    rows = corrupted(NUMBERS, "missing", 5)
    changed = rows != NUMBERS.features
    np.testing.assert_allclose(rows[changed], np.broadcast_to(NUMBERS.features.astype(np.float64).mean(axis=0), rows.shape)[changed])


@pytest.mark.parametrize("name", sorted(set(ROWS) - {"missing"}))
def test_categories_stay(name):
    np.testing.assert_array_equal(corrupted(TABLE, name, 5)[:, 1], TABLE.features[:, 1])


@pytest.mark.parametrize("dataset", [PICTURES, NUMBERS, TABLE])
def test_corrupted_rows_can_be_prepared_and_are_drawn_from_the_seed(dataset):
    split = make_split(dataset, 0)
    for name in shifts_of(dataset):
        a, b, c = (corrupt(dataset, split.rows_test, split.rows_train, name, 3, stream(seed, name)) for seed in (0, 0, 1))
        np.testing.assert_array_equal(a, b)
        if name in ("gaussian_noise", "missing"):
            assert not np.array_equal(a, c, equal_nan=True)
        assert split.prepare(a).isfinite().all()


def test_a_shift_that_is_none_of_these_data():
    with pytest.raises(StudyError, match=r"corruptions of rows of numbers are .*; got 'contrast'"):
        corrupted(NUMBERS, "contrast", 1)


def test_noise_that_depends_on_the_row():
    x = np.random.default_rng(1).normal(size=(4000, 6))
    labels = np.arange(4000) % 4
    noisy = add_noise(labels, 4, Noise("instance", 0.4), stream(0, "noise"), lambda: x)
    rate = (noisy != labels).mean()
    assert rate == pytest.approx(0.4, abs=5 * math.sqrt(0.24 / 4000))
    np.testing.assert_array_equal(noisy, add_noise(labels, 4, Noise("instance", 0.4), stream(0, "noise"), lambda: x))
    # rows that look alike are taken for the same class: copies of a row flip to one class far more often than to each of three alike
    again = add_noise(labels, 4, Noise("instance", 0.4), stream(0, "noise"), lambda: np.tile(x[:4], (1000, 1)))
    flipped = [again[k::4][again[k::4] != k] for k in range(4)]
    assert np.mean([np.bincount(to, minlength=4).max() / len(to) for to in flipped]) > 0.6


def test_noise_that_depends_on_the_row_needs_rows():
    with pytest.raises(StudyError, match="needs the rows' features"):
        add_noise(LABELS, 3, Noise("instance", 0.4), stream(0, "noise"))
    assert (add_noise(LABELS, 3, Noise("instance", 0.0), stream(0, "noise")) == LABELS).all()


@pytest.mark.parametrize("dataset", [PICTURES, NUMBERS, TABLE])
def test_any_data_can_have_it(dataset):
    split = make_split(dataset, 0, noise=Noise.parse("instance:0.4"))
    assert 0 < (split.y_train.numpy() != dataset.labels[split.rows_train]).mean() < 0.8
    assert (split.y_test.numpy() == dataset.labels[split.rows_test]).all()


def test_few_labels():
    kept = few_labels(LABELS, 3, 5, stream(0, "few labels"))
    assert np.bincount(LABELS[kept]).tolist() == [5, 5, 5]
    assert len(few_labels(LABELS, 3, 500, stream(0, "few labels"))) == 60
    split = make_split(NUMBERS, 0, labels=4)
    assert split.y_train.bincount().tolist() == [4, 4, 4]
    whole = make_split(NUMBERS, 0)
    assert set(split.rows_train) < set(whole.rows_train)
    np.testing.assert_array_equal(split.rows_test, whole.rows_test)
    with pytest.raises(StudyError, match="a whole number >= 1; got 0"):
        few_labels(LABELS, 3, 0, stream(0, "few labels"))


def test_classes_held_out():
    left = hold_out_classes(TABLE, ["b"])
    assert left.class_names == ("a", "c")
    np.testing.assert_array_equal(left.features, TABLE.features[LABELS != 1])
    np.testing.assert_array_equal(left.labels, (LABELS[LABELS != 1] == 2).astype(int))
    np.testing.assert_array_equal(left.strange, TABLE.features[LABELS == 1])
    assert left.fingerprint != TABLE.fingerprint
    for names, words in ((["d"], "no class 'd'"), (["a", "b"], "two classes at least must stay")):
        with pytest.raises(StudyError, match=words):
            hold_out_classes(TABLE, names)


def test_other_data_beside():
    other = Dataset.from_arrays("other", np.zeros((6, 4)), np.arange(6) % 2)
    assert beside(NUMBERS, other).strange.shape == (6, 4)
    for wrong in (PICTURES, TABLE):
        with pytest.raises(StudyError, match="--ood"):
            beside(NUMBERS, wrong)
