"""A group is never on two sides, the user's own split is kept to the letter, and neither column is learnt from."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lossmith import study
from lossmith.study import Dataset, StudyError, StudySpec
from lossmith.study.data.dataset import Roles
from lossmith.study.data.splits import make_split
from lossmith.study.data.tables import encode_table
from lossmith.study.protocol import fitting_test
from lossmith.study.report import design
from lossmith.study.report import words as say
from lossmith.study.report.command import command
from lossmith.study.statistics.paired import compare
from lossmith.study.statistics.power import what_can_be_shown
from lossmith.study.statistics.stopping import hopeless
from lossmith.study.summary import Summary

from .made_up import around, result

ROWS = 120


def frame(**changes: Any) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    columns = {
        "x": generator.normal(size=ROWS),
        "z": generator.normal(size=ROWS),
        "patient": [f"p{i // 4}" for i in range(ROWS)],
        "part": np.where(np.arange(ROWS) % 4 == 0, "Test", np.where(np.arange(ROWS) % 4 == 1, "val", "train")),
        "y": np.arange(ROWS) // 4 % 2,
    }
    return pd.DataFrame(columns).assign(**changes)


def spec(table: pd.DataFrame | None = None, **changes: Any) -> StudySpec:
    options: dict[str, Any] = {"target": "y", "objectives": "cross_entropy,gce:q=0.7", "model": "linear", "epochs": 1, "seeds": 2}
    return StudySpec(data=frame() if table is None else table, **options | {"learning_rates": 0.1} | changes)


def sides(values: pd.Series, split: Any) -> list[set[str]]:
    return [set(values.iloc[rows]) for rows in (split.rows_train, split.rows_validation, split.rows_test)]


@pytest.mark.parametrize("folds", [None, 4])
def test_no_patient_is_on_two_sides(folds: int | None) -> None:
    table = frame(part=0)
    data = encode_table(table, "y", "t", Roles(group="patient"))
    for seed in range(5):
        for fold in range(folds or 1):
            found = sides(table["patient"], make_split(data, seed, folds=folds, fold=fold if folds else None))
            assert sum(map(len, found)) == len(set.union(*found)) == 30


def test_without_a_group_patients_do_cross() -> None:
    table = frame(part=0)
    found = sides(table["patient"], make_split(encode_table(table, "y", "t"), 0))
    assert found[0] & found[2]


def test_copies_in_different_groups_join_them() -> None:
    table = frame(part=0)
    table.loc[4, ["x", "z"]] = table.loc[0, ["x", "z"]]
    data = encode_table(table, "y", "t", Roles(group="patient"))
    assert any("joins 30 groups into 29" in note for note in data.notes)
    assert len({data.groups[i] for i in range(8)}) == 1
    apart = encode_table(table, "y", "t", Roles(group="patient", duplicates="apart"))
    assert len({apart.groups[i] for i in range(8)}) == 2


def test_the_group_is_not_learnt_from_and_is_said() -> None:
    data = encode_table(frame(part=0), "y", "t", Roles(group="patient"))
    assert [column.name for column in data.columns] == ["x", "z"]
    assert "patient: 30 groups, never on two sides of a split, and not learnt from" in data.notes


def test_rows_without_a_group_stand_alone() -> None:
    data = encode_table(frame(part=0, patient=[None] * 10 + ["p", "q"] * 55), "y", "t", Roles(group="patient"))
    assert len(np.unique(data.groups[:10])) == 10
    assert any("10 rows without one stand alone" in note for note in data.notes)


def test_the_split_is_the_column_s_own_for_every_seed() -> None:
    table = frame()
    data = encode_table(table, "y", "t", Roles(split="part"))
    assert "part: the split (60 train, 30 validation, 30 test), not learnt from" in data.notes
    for seed in range(3):
        assert sides(table["part"], make_split(data, seed)) == [{"train"}, {"val"}, {"Test"}]


def test_without_validation_rows_some_training_rows_are_held_out_group_by_group() -> None:
    table = frame(part=["test" if i // 4 % 5 == 0 else "train" for i in range(ROWS)])
    data = encode_table(table, "y", "t", Roles(split="part", group="patient"))
    splits = [make_split(data, seed, validation=0.25) for seed in range(2)]
    for split in splits:
        assert len(split.rows_validation) == pytest.approx(0.25 * 96, abs=4)
        found = sides(table["patient"], split)
        assert sum(map(len, found)) == len(set.union(*found))
        assert set(split.rows_test) == set(np.flatnonzero(table["part"] == "test"))
    assert set(splits[0].rows_validation) != set(splits[1].rows_validation)


def test_test_rows_that_copy_training_rows_are_warned_about() -> None:
    table = frame(patient=0)
    table.loc[[0, 4], ["x", "z"]] = table.loc[[2, 3], ["x", "z"]].to_numpy()
    warnings = encode_table(table, "y", "t", Roles(split="part")).warnings
    assert any("2 test rows of your own split are equal in every feature to a training or validation row" in one for one in warnings)


@pytest.mark.parametrize(
    ("table", "changes", "message"),
    [
        (frame(), {"group": "patent"}, r"--group: table has no column 'patent'; did you mean 'patient'"),
        (frame(), {"group": "y"}, "--group y: that column is already the one of --target"),
        (frame(), {"group": "part", "split_column": "part"}, "--split-column part: that column is already the one of --group"),
        (frame(), {"split_column": "patient"}, r"--split-column patient: its values must be .*'p0' in row 1"),
        (frame(part="train"), {"split_column": "part"}, "--split-column part: no row of table is test"),
        (frame(), {"group": "patient", "split_column": "part"}, "--group patient and --split-column part contradict each other: 'p0'"),
        (frame(), {"split_column": "part", "folds": 5}, "--split-column part says which rows are tested: leave out --folds"),
        (frame(), {"split_column": "part", "test": 0.2}, "leave out --test-fraction"),
        (frame(), {"split_column": "part", "validation": 0.2}, "leave out --validation-fraction"),
    ],
)
def test_what_cannot_be_is_one_line(table: pd.DataFrame, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message) as caught:
        spec(table, **changes).load()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changes", [{"group": "g"}, {"split_column": "s"}])
def test_roles_are_for_tables_or_for_data_that_bring_them(changes: dict[str, str]) -> None:
    with pytest.raises(StudyError, match="is for files with columns; wine has none"):
        StudySpec(data="wine", objectives="cross_entropy", **changes).load()
    data = Dataset("t", np.zeros((9, 1), np.float32), np.arange(9) % 2, ("a", "b"), parts=np.arange(9) % 3)
    with pytest.raises(StudyError, match="--split-column parts"):
        StudySpec(data=data, objectives="cross_entropy").load()
    assert StudySpec(data=data, objectives="cross_entropy", split_column="parts").load() is data


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"groups": np.arange(8)}, r"groups must be one whole number a row, shape \(9,\)"),
        ({"parts": np.full(9, 2)}, "parts must be 0 .train., 1"),
        ({"parts": np.arange(9) % 4}, "parts must be 0 .train., 1"),
        ({"trusted": np.full(9, 2)}, "trusted labels must be positions in class_names"),
    ],
)
def test_numbers_that_mean_nothing_are_one_line(numbers: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        Dataset("t", np.zeros((9, 1), np.float32), np.arange(9) % 2, ("a", "b"), **numbers)


def test_a_study_with_and_without_share_no_trial(tmp_path: Path) -> None:
    table = frame()
    keys = set()
    for changes in ({}, {"group": "patient"}, {"split_column": "part"}):
        asked = spec(table, **changes)
        keys |= {trial.key for trial in asked.trials(asked.load().fingerprint)}
    assert len(keys) == 12


def test_one_split_is_tested_by_the_plain_test_and_the_claim_is_narrow() -> None:
    made = result({"ce": around(0.7), "up": around(0.71, seed=1)}, split_column="part")
    summary = Summary(made)
    assert summary.test == "paired_t"
    difference = np.array(around(0.71, seed=1)) - np.array(around(0.7))
    comparison = summary.lines()[1].comparison
    assert comparison is not None
    assert comparison.p == pytest.approx(stats.ttest_1samp(difference, 0).pvalue)
    low, high = stats.t.interval(0.95, 9, 0.7, 0.01 / np.sqrt(10))
    assert (summary.lines()[0].estimate.low, summary.lines()[0].estimate.high) == pytest.approx((low, high))
    posterior = stats.t(9, difference.mean(), difference.std(ddof=1) / np.sqrt(10))
    assert summary.chances()["up"].better == pytest.approx(posterior.sf(0.01))
    assert "This speaks of one test set, your own" in say.headline(summary)
    assert "the test rows are always the same" in " ".join(design.limits(summary))
    assert "--split-column part" in (command(made.spec) or "")
    ranks = Summary(made, "signed_rank")
    assert ranks.lines()[0].estimate == summary.lines()[0].estimate
    assert "the test rows are always the same" in " ".join(design.limits(ranks))


def test_what_is_hopeless_on_one_split_is_so_without_a_correction() -> None:
    values = {"ce": around(0.7, n=8), "new": around(0.7, n=8, seed=3)}
    sizes = {"train_size": 50, "test_size": 50}
    one = hopeless(values, "ce", "accuracy", **sizes, test="paired_t")
    assert one == hopeless(values, "ce", "accuracy", **sizes, test="signed_rank")
    assert one != hopeless(values, "ce", "accuracy", **sizes)


def test_the_plain_test_s_power_has_no_floor() -> None:
    corrected, plain = (what_can_be_shown(100, 1, 50, 50, test=test) for test in ("corrected_t", "paired_t"))
    assert plain.smallest_effect == pytest.approx(0.283, abs=0.005)  # (t_.975 + t_.8) / sqrt(100)
    assert corrected.smallest_effect > 1


def test_tests_that_do_not_fit_the_split_are_refused() -> None:
    with pytest.raises(StudyError, match="--test paired_t is for one split of your own"):
        fitting_test(spec(), "paired_t")
    assert fitting_test(spec(split_column="part"), "corrected_t") == "paired_t"
    assert fitting_test(spec(split_column="part"), "signed_rank") == "signed_rank"
    with pytest.raises(StudyError, match="use corrected_t with --folds and with --split-column"):
        fitting_test(spec(split_column="part"), "anytime_t")
    assert fitting_test(spec(), "anytime_t") == "anytime_t"


def test_the_plain_test_is_scipy_s() -> None:
    a, b = np.array(around(0.7, n=8)), np.array(around(0.72, 0.03, n=8, seed=2))
    (found,) = compare({"a": a, "b": b}, "a", "accuracy", train_size=10, test_size=90, test="paired_t")
    assert found.p == pytest.approx(stats.ttest_rel(b, a).pvalue)


@pytest.mark.parametrize("changes", [{"group": "patient"}, {"split_column": "part"}])
def test_a_study_runs_and_is_read_back(tmp_path: Path, changes: dict[str, str]) -> None:
    made = study.run(spec(**changes), tmp_path / "s.sqlite", jobs=1)
    read = study.load(tmp_path / "s.sqlite")
    assert (read.values() == made.values()).all()
    assert {name: getattr(read.spec, name) for name in changes} == changes
    assert Summary(read).sizes.test > 0
