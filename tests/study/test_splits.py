"""No leakage: rows are disjoint, test labels are never noisy, and nothing outside the training rows moves the preparation."""

import numpy as np
import pandas as pd
import pytest
import torch

from lossmith.study import Dataset, Noise, StudyError, load_data
from lossmith.study.data.dataset import Roles
from lossmith.study.data.splits import make_split
from lossmith.study.data.tables import encode_table

NOISE = Noise("symmetric", 0.4)


@pytest.fixture(scope="module")
def wine() -> Dataset:
    return load_data("wine")


def table(n: int = 90) -> pd.DataFrame:
    generator = np.random.default_rng(1)
    frame = pd.DataFrame({"x": generator.normal(50, 9, n), "z": generator.normal(0, 1, n), "colour": generator.choice(list("abc"), n)})
    frame.loc[::6, "x"] = np.nan
    frame.loc[::8, "colour"] = None
    return frame.assign(y=np.arange(n) % 3)


def test_parts_are_disjoint_stratified_and_whole(wine: Dataset) -> None:
    split = make_split(wine, 0, validation=0.2, test=0.3)
    parts = (split.rows_train, split.rows_validation, split.rows_test)
    assert np.sort(np.concatenate(parts)).tolist() == list(range(178))
    counts = np.bincount(wine.labels)
    assert np.bincount(wine.labels[split.rows_test]).tolist() == [round(0.3 * c) for c in counts]
    assert np.bincount(wine.labels[split.rows_validation]).tolist() == [round(0.2 * c) for c in counts]


def test_seeds_draw_different_rows_and_the_same_seed_the_same(wine: Dataset) -> None:
    first, again, other = (make_split(wine, seed, noise=NOISE) for seed in (0, 0, 1))
    for name in ("x_train", "y_train", "x_validation", "y_validation", "x_test", "y_test"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert set(first.rows_test) != set(other.rows_test)


def test_training_and_validation_labels_are_noisy_and_test_labels_never(wine: Dataset) -> None:
    flipped = {"train": 0, "validation": 0}
    for seed in range(20):
        split = make_split(wine, seed, noise=Noise("symmetric", 0.9))
        assert (split.y_test.numpy() == wine.labels[split.rows_test]).all()
        flipped["train"] += int((split.y_train.numpy() != wine.labels[split.rows_train]).sum())
        flipped["validation"] += int((split.y_validation.numpy() != wine.labels[split.rows_validation]).sum())
    assert flipped["train"] > 0.85 * 20 * 106
    assert flipped["validation"] > 0.8 * 20 * 36


def test_noise_and_imbalance_do_not_move_the_test_rows(wine: Dataset) -> None:
    plain, harder = make_split(wine, 3), make_split(wine, 3, noise=NOISE, imbalance=0.1)
    assert (plain.rows_test == harder.rows_test).all()
    assert (plain.rows_validation == harder.rows_validation).all()
    assert set(harder.rows_train) < set(plain.rows_train)


def test_imbalance_is_of_the_training_rows_only(wine: Dataset) -> None:
    split = make_split(wine, 0, imbalance=0.1)
    sizes = np.bincount(wine.labels[split.rows_train])
    assert sizes[2] / sizes[0] == pytest.approx(0.1, abs=0.02)
    assert np.bincount(wine.labels[split.rows_test]).min() >= 9
    assert split.class_counts.tolist() == sizes.tolist()


def test_class_counts_are_of_the_labels_seen_and_at_least_one(wine: Dataset) -> None:
    split = make_split(wine, 0, noise=NOISE)
    assert split.class_counts.tolist() == torch.bincount(split.y_train, minlength=3).tolist()
    few = Dataset.from_arrays("few", np.random.default_rng(0).normal(size=(6, 2)), [0, 0, 0, 1, 1, 1])
    rare = [make_split(few, seed, noise=NOISE) for seed in range(20)]
    emptied = [split for split in rare if torch.bincount(split.y_train, minlength=2).min() == 0]
    assert emptied
    assert all(split.class_counts.min() == 1 for split in emptied)


def test_features_are_standardised_by_the_training_rows(wine: Dataset) -> None:
    split = make_split(wine, 0)
    train = wine.features[split.rows_train].astype(np.float64)
    expected = (wine.features[split.rows_test] - train.mean(0)) / train.std(0)
    assert split.x_test.numpy() == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert split.x_train.mean(0).abs().max() < 1e-5


def test_images_share_one_mean_and_one_scale() -> None:
    digits = load_data("digits")
    split = make_split(digits, 0)
    train = digits.features[split.rows_train].astype(np.float64)
    assert split.x_test.shape[1:] == (1, 8, 8)
    assert split.x_test.numpy() == pytest.approx((digits.features[split.rows_test] - train.mean()) / train.std(), rel=1e-4, abs=1e-5)


def test_a_table_is_filled_scaled_and_encoded_by_its_training_rows() -> None:
    frame = table()
    data = encode_table(frame, "y", "t")
    split = make_split(data, 0)
    train, test = frame.iloc[split.rows_train], frame.iloc[split.rows_test]
    x = train["x"].fillna(train["x"].median())
    got = split.x_test.numpy()
    assert got.shape[1] == 2 + 1 + 4  # two numbers, one indicator of a missing number, three colours and a missing one
    expected = (test["x"].fillna(train["x"].median()) - x.mean()) / x.std(ddof=0)
    assert got[:, 0] == pytest.approx(expected.to_numpy(), rel=1e-5, abs=1e-5)
    gaps = train["x"].isna()
    assert got[:, 2] == pytest.approx(((test["x"].isna() - gaps.mean()) / gaps.std(ddof=0)).to_numpy(), rel=1e-4)
    colours = test["colour"].fillna("missing")
    assert got[:, 3:] == pytest.approx(np.stack([colours == c for c in ("a", "b", "c", "missing")], 1).astype(float))


def test_nothing_outside_the_training_rows_moves_the_preparation() -> None:
    frame = table()
    apart = Roles(duplicates="apart")  # what is done to the rows outside makes copies of them
    split = make_split(encode_table(frame, "y", "t", apart), 0)
    outside = np.concatenate([split.rows_validation, split.rows_test])
    frame.loc[outside, "x"] = 1e6
    frame.loc[outside, "z"] = np.nan
    frame.loc[outside, "colour"] = "a colour never seen in training"
    moved = make_split(encode_table(frame, "y", "t", apart), 0)
    assert (moved.rows_train == split.rows_train).all()
    assert torch.equal(moved.x_train, split.x_train)
    assert moved.x_test[:, 3:].abs().sum() == 0  # an unseen category is none of the known ones


def test_a_column_always_missing_in_training_is_no_trouble() -> None:
    frame = table()
    split = make_split(encode_table(frame, "y", "t"), 0)
    frame.loc[split.rows_train, "z"] = np.nan
    assert make_split(encode_table(frame, "y", "t"), 0).x_test.isfinite().all()


def test_rare_categories_share_an_indicator() -> None:
    n = 2000
    frame = pd.DataFrame({"k": [f"k{i % 200}" for i in range(n)], "y": np.arange(n) % 2})
    assert make_split(encode_table(frame, "y", "t"), 0).x_train.shape[1] == 50


def test_a_class_too_small_for_the_fractions_is_one_line() -> None:
    data = Dataset.from_arrays("t", np.random.default_rng(0).normal(size=(13, 2)), [0] * 10 + [1] * 3)
    with pytest.raises(StudyError, match="class '1' has 3 rows, too few"):
        make_split(data, 0, validation=0.5, test=0.4)
    assert np.bincount(data.labels[make_split(data, 0).rows_train]).tolist() == [6, 1]
