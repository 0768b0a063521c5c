"""No row that belongs with a training row is ever tested on, the fractions are met, and every class is everywhere."""

import numpy as np
import pandas as pd
import pytest

from lossmith.study import Dataset, StudyError, StudySpec
from lossmith.study.data.dataset import Roles
from lossmith.study.data.splits import Split, make_split
from lossmith.study.data.tables import encode_table


def grouped(sizes: list[int], n_classes: int = 2, seed: int = 0) -> Dataset:
    """Groups of these sizes with random labels."""
    generator = np.random.default_rng(seed)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    labels = generator.integers(0, n_classes, len(groups))
    names = tuple(map(str, range(n_classes)))
    features = generator.normal(size=(len(groups), 2)).astype(np.float32)
    return Dataset("t", features, labels, names, groups=generator.permutation(len(sizes))[groups])


def crossing(numbers: np.ndarray, split: Split) -> set[int]:
    """Numbers that occur in more than one part."""
    parts = [set(numbers[rows].tolist()) for rows in (split.rows_train, split.rows_validation, split.rows_test)]
    return (parts[0] & parts[1]) | (parts[0] & parts[2]) | (parts[1] & parts[2])


def everything(split: Split) -> list[int]:
    return sorted(np.concatenate([split.rows_train, split.rows_validation, split.rows_test]).tolist())


@pytest.mark.parametrize("sizes", [[1] * 200, [2] * 100, [1] * 50 + [3] * 50, [20] * 12, list(range(1, 25)), [40, 30, 5, 5, 5, 5]])
@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_on_two_sides(sizes: list[int], seed: int) -> None:
    data = grouped(sizes)
    split = make_split(data, seed, validation=0.15, test=0.2)
    assert crossing(data.groups, split) == set()
    assert everything(split) == list(range(len(data.labels)))
    for rows in (split.rows_train, split.rows_validation, split.rows_test):
        assert np.bincount(data.labels[rows], minlength=2).min() >= 1


def test_fractions_are_met_as_nearly_as_groups_allow() -> None:
    data = grouped([1, 2, 3, 4, 5] * 40)
    for seed in range(5):
        split = make_split(data, seed, validation=0.1, test=0.2)
        for k in range(2):
            n = (data.labels == k).sum()
            assert (data.labels[split.rows_test] == k).sum() == pytest.approx(0.2 * n, abs=3)
            assert (data.labels[split.rows_validation] == k).sum() == pytest.approx(0.1 * n, abs=3)


def test_groups_of_one_row_are_split_by_class_exactly() -> None:
    data = grouped([1] * 300, n_classes=3)
    split = make_split(data, 0, validation=0.1, test=0.2)
    counts = np.bincount(data.labels)
    assert np.bincount(data.labels[split.rows_test]).tolist() == pytest.approx([0.2 * c for c in counts], abs=1)


def test_seeds_draw_different_groups() -> None:
    data = grouped([10] * 20)
    tested = {tuple(make_split(data, seed).rows_test) for seed in range(6)}
    assert len(tested) == 6


def test_a_huge_group_trains() -> None:
    data = grouped([60, *[2] * 20])
    for seed in range(4):
        assert len(make_split(data, seed, validation=0.1, test=0.1).rows_train) > 60


def test_too_few_groups_is_one_line() -> None:
    with pytest.raises(StudyError, match="groups of rows that stay together") as caught:
        make_split(grouped([30, 30]), 0)
    assert "--group" in str(caught.value)
    assert "\n" not in str(caught.value)


def table(copies: int = 20, n: int = 60) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({"x": generator.normal(size=n), "k": generator.choice(list("ab"), n), "y": np.arange(n) % 2})
    frame.loc[3, "x"] = np.nan
    again = frame.iloc[:copies].copy()
    return pd.concat([frame, again], ignore_index=True)


def test_copies_are_counted_and_never_cross() -> None:
    data = encode_table(table(), "y", "t")
    assert "20 of 80 rows repeat an earlier one in every feature; copies stay together in training, validation or test" in data.notes
    twin = np.arange(80) % 60
    for seed in range(10):
        assert crossing(twin[:], make_split(data, seed)) == set()


def test_copies_that_contradict_each_other_stay_together_and_are_said() -> None:
    frame = table()
    frame.loc[60:63, "y"] = 1 - frame.loc[60:63, "y"]
    data = encode_table(frame, "y", "t")
    assert any("8 rows have copies with another label" in note for note in data.notes)
    for seed in range(10):
        assert crossing(np.arange(80) % 60, make_split(data, seed)) == set()


def test_copies_apart_cross_and_the_study_is_warned() -> None:
    data = encode_table(table(), "y", "t", Roles(duplicates="apart"))
    assert data.groups is None
    assert any(crossing(np.arange(80) % 60, make_split(data, seed)) for seed in range(10))
    assert any("measure memory" in warning for warning in data.warnings)


def test_a_table_without_copies_keeps_its_splits_and_its_fingerprint() -> None:
    data = encode_table(table(copies=0), "y", "t")
    assert data.groups is None
    assert not any("repeat" in note for note in data.notes)
    assert data.fingerprint == Dataset("t", data.features, data.labels, data.class_names, data.columns).fingerprint


def test_groups_change_the_fingerprint() -> None:
    data = encode_table(table(), "y", "t")
    apart = encode_table(table(), "y", "t", Roles(duplicates="apart"))
    assert data.fingerprint != apart.fingerprint


def test_columns_of_few_values_are_warned_about() -> None:
    frame = pd.DataFrame({"a": np.arange(200) % 5, "b": np.arange(200) % 4, "y": np.arange(200) % 2})
    data = encode_table(frame, "y", "t")
    assert any("Only 20 of 200 rows are different" in warning and "--duplicates apart" in warning for warning in data.warnings)


def test_a_column_that_identifies_rows_is_warned_about() -> None:
    frame = table(copies=0).assign(customer=np.random.default_rng(1).permutation(60) * 7, size=np.arange(60) % 50)
    warnings = encode_table(frame, "y", "t").warnings
    assert len(warnings) == 1
    assert warnings[0].startswith("customer has a different whole number in every row")


def test_a_bad_way_with_duplicates_is_one_line() -> None:
    with pytest.raises(StudyError, match="--duplicates must be together or apart; got 'drop'"):
        StudySpec(data=table(), target="y", objectives="cross_entropy", duplicates="drop")
