"""Labels known to be right score, and choose where asked to; they are never trained on; and the report says which labels did what."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lossmith import study
from lossmith.study import Dataset, Noise, StudyError, StudySpec, load_data
from lossmith.study.data.dataset import Roles
from lossmith.study.data.splits import make_split
from lossmith.study.data.tables import encode_table
from lossmith.study.report import design
from lossmith.study.report.command import command
from lossmith.study.summary import Summary

from .made_up import around, result

ROWS = 90


def frame(**changes: Any) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    right = np.array(["a", "b", "c"])[np.arange(ROWS) % 3]
    noisy = np.where(np.arange(ROWS) % 5 == 0, np.roll(right, 1), right)
    columns = {"x": generator.normal(size=ROWS), "z": generator.normal(size=ROWS), "noisy": noisy, "right": right}
    return pd.DataFrame(columns).assign(**changes)


def read(**roles: Any) -> Dataset:
    return encode_table(frame(), "noisy", "t", Roles(trusted="right", **roles))


def spec(table: pd.DataFrame | None = None, **changes: Any) -> StudySpec:
    options: dict[str, Any] = {"target": "noisy", "clean_target": "right", "objectives": "cross_entropy", "model": "linear", "seeds": 2}
    return StudySpec(data=frame() if table is None else table, **options | {"epochs": 1, "learning_rates": 0.1} | changes)


def test_test_rows_are_scored_by_trusted_labels_and_no_others_see_them() -> None:
    table, data = frame(), read()
    noisy, right = (table[name].map({"a": 0, "b": 1, "c": 2}).to_numpy() for name in ("noisy", "right"))
    for seed in range(3):
        plain, clean = (make_split(data, seed, clean_validation=choice) for choice in (False, True))
        for split in (plain, clean):
            assert (split.y_train.numpy() == noisy[split.rows_train]).all()
            assert (split.y_test.numpy() == right[split.rows_test]).all()
        assert (plain.y_validation.numpy() == noisy[plain.rows_validation]).all()
        assert (clean.y_validation.numpy() == right[clean.rows_validation]).all()
        assert (noisy[plain.rows_test] != right[plain.rows_test]).any()


def test_the_trusted_column_is_not_learnt_from_and_is_said() -> None:
    data = read()
    assert [column.name for column in data.columns] == ["x", "z"]
    assert any("noisy differs from them in 18 of 90 rows (20.0 %)" in note for note in data.notes)


def test_clean_validation_has_no_added_noise() -> None:
    wine, noise = load_data("wine"), Noise("symmetric", 0.6)
    plain, clean = (make_split(wine, 0, noise=noise, clean_validation=choice) for choice in (False, True))
    assert (clean.y_validation.numpy() == wine.labels[clean.rows_validation]).all()
    assert (plain.y_validation.numpy() != wine.labels[plain.rows_validation]).any()
    assert (plain.y_train == clean.y_train).all()


def test_a_missing_trusted_label_does_where_it_is_not_needed() -> None:
    parts = np.where(np.arange(ROWS) % 3 == 0, "test", np.where(np.arange(ROWS) % 3 == 1, "val", "train"))
    labels = np.array(["a", "b", "c"])[np.arange(ROWS) // 3 % 3]
    table = frame(part=parts, noisy=labels, right=np.where(parts == "test", labels, None))
    assert spec(table, split_column="part").load().trusted is not None
    with pytest.raises(
        StudyError, match=r"--clean-target right: 30 rows have no trusted label .first in row 2., and they are tested or val"
    ):
        spec(table, split_column="part", clean_validation=True).load()
    with pytest.raises(StudyError, match=r"60 rows have no trusted label .*any row may be tested"):
        spec(table).load()


@pytest.mark.parametrize(
    ("table", "changes", "message"),
    [
        (frame(), {"clean_target": "rigth"}, "--clean-target: table has no column 'rigth'; did you mean 'right'"),
        (frame(), {"clean_target": "noisy"}, "--clean-target noisy: that column is already the one of --target"),
        (frame(right="d"), {}, "--clean-target right: 'd' is no class of noisy, which has a, b, c"),
        (frame(right=None), {}, "--clean-target right: every value is missing"),
        (frame(), {"clean_target": None, "clean_validation": True}, "--clean-validation needs labels that are not clean"),
    ],
)
def test_what_cannot_be_is_one_line(table: pd.DataFrame, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message) as caught:
        spec(table, **changes).load()
    assert "\n" not in str(caught.value)


def test_trusted_labels_are_for_tables_or_for_data_that_bring_them() -> None:
    with pytest.raises(StudyError, match="--clean-target right is for files with columns"):
        StudySpec(data="wine", objectives="cross_entropy", clean_target="right").load()
    data = Dataset("t", np.zeros((9, 1), np.float32), np.arange(9) % 2, ("a", "b"), trusted=np.arange(9) % 2)
    with pytest.raises(StudyError, match="--clean-target trusted"):
        StudySpec(data=data, objectives="cross_entropy").load()


def test_no_trial_is_shared_that_was_scored_or_chosen_otherwise() -> None:
    keys = set()
    for changes in ({}, {"clean_target": None}, {"clean_validation": True}):
        asked = spec(**changes)
        keys |= {trial.key for trial in asked.trials(asked.load().fingerprint)}
    assert len(keys) == 6


def test_a_study_runs_and_is_read_back(tmp_path: Path) -> None:
    made = study.run(spec(clean_validation=True), tmp_path / "s.sqlite", jobs=1)
    again = study.load(tmp_path / "s.sqlite")
    assert again.spec.clean_target == "right"
    assert again.spec.clean_validation
    assert (again.values() == made.values()).all()


def test_the_report_says_which_labels_choose_and_score() -> None:
    def said(**changes: Any) -> str:
        summary = Summary(result({"ce": around(0.7), "up": around(0.8, seed=1)}, **changes))
        return " ".join([*design.limits(summary), summary.spec.selection_rule, *dict(design.protocol(summary)).values()])

    plain = said(target="y")
    assert "Test rows were scored by y as it stands" in plain
    assert "favour fitting the noise" in plain
    assert "favour fitting the noise" not in said()
    noisy = said(noise=Noise("symmetric", 0.4))
    assert "--clean-validation chooses by labels known to be right" in noisy
    clean = said(noise=Noise("symmetric", 0.4), clean_validation=True)
    assert "by labels known to be right" in clean
    assert "favour fitting the noise" not in clean
    assert "a training label is replaced" in clean
    trusted = said(target="y", clean_target="right", clean_validation=True)
    assert "test rows by the trusted labels of right" in trusted
    assert "favour fitting the noise" not in trusted


def test_the_command_has_both_options() -> None:
    made = result({"ce": around(0.7)}, target="y", clean_target="right", clean_validation=True)
    assert "--clean-target right --clean-validation" in (command(made.spec) or "")


def test_labels_that_contradict_each_other_are_warned_about_unless_others_are_trusted() -> None:
    table = frame()
    table.loc[1, ["x", "z"]] = table.loc[0, ["x", "z"]]
    assert any("favour fitting the noise" in one for one in encode_table(table.drop(columns="right"), "noisy", "t").warnings)
    assert encode_table(table, "noisy", "t", Roles(trusted="right")).warnings == ()
