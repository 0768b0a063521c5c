"""Labels that look wrong: those flipped by hand are found, by models that did not see them, and written down so that a user finds them."""

import csv
import json
import sqlite3
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits, load_wine

from lossmith import study
from lossmith.study import Dataset, Noise, Store, StudyError, StudySpec, load, mislabelled, run, unite
from lossmith.study import suspects as search
from lossmith.study.data.splits import noisy_labels
from lossmith.study.noise_reports import keep, kept
from lossmith.study.report import suspected
from lossmith.study.report.page import render
from lossmith.study.report.suspected import BEFORE, FOLDS, Check, Suspects, content
from lossmith.study.summary import Summary
from lossmith.study.training.trial import run_trial, split_of

from .made_up import around, result

WINE = {"model": "linear", "seeds": 1, "epochs": 20, "learning_rates": [0.03], "references": False}
MLP = {"model": "mlp", "seeds": 1, "epochs": 20, "learning_rates": [3e-3], "references": False, "duplicates": "apart"}


def with_flips(path, load, rate, seed=0):
    """A table whose labels are wrong in these rows."""
    x, y = load(return_X_y=True)
    draw = np.random.default_rng(seed)
    rows = draw.permutation(len(y))[: round(rate * len(y))]
    labels = y.copy()
    labels[rows] = (y[rows] + draw.integers(1, y.max() + 1, len(rows))) % (y.max() + 1)
    pd.DataFrame(x).assign(label=[f"class {k}" for k in labels]).to_csv(path, index=False)
    return rows, y


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    path = tmp_path_factory.mktemp("digits") / "digits.csv"
    wrong, y = with_flips(path, load_digits, 0.1)
    found = search(run(StudySpec(data=str(path), target="label", objectives=["ce"], **MLP), jobs=1), jobs=1)
    return found, set(wrong.tolist()), y


def test_flipped_digits_are_found(digits):
    found, wrong, y = digits
    suspect = set(found.rows.tolist())
    assert len(suspect & wrong) / len(wrong) > 0.8  # 0.87 when this was written; by chance a tenth
    assert len(suspect & wrong) / len(suspect) > 0.65  # 0.76; by chance a tenth
    first = found.rows[:100]
    assert len(wrong.intersection(first.tolist())) > 85
    right = [f"class {y[row]}" == likely for row, likely in zip(found.rows, found.likely, strict=True) if row in wrong]
    assert np.mean(right) > 0.9  # and what they look like is what they are
    assert found.noise_rate == pytest.approx(0.1, abs=0.05)
    assert found.check is None


def test_flipped_wine_is_found_and_clean_wine_is_left_alone(tmp_path):
    wrong, _ = with_flips(tmp_path / "wine.csv", load_wine, 0.1)
    found = search(run(StudySpec(data=str(tmp_path / "wine.csv"), target="label", objectives=["ce"], **WINE), jobs=1), jobs=1)
    assert len(np.intersect1d(found.rows, wrong)) >= 15  # of 18; 16 when this was written
    assert len(found.rows) <= 23  # 19
    clean = search(run(StudySpec(data="wine", objectives=["ce"], **WINE), jobs=1), jobs=1)
    assert len(clean.rows) <= 3  # of 178; none
    assert "None of the 178 labels looks wrong." in clean.sentence or len(clean.rows)


def test_cleanlab_suspects_the_same_rows_of_the_same_predictions(digits):
    cleanlab = pytest.importorskip("cleanlab.filter")
    found, _, _ = digits
    theirs = cleanlab.find_label_issues(
        found.labels, found.probabilities, filter_by="confident_learning", return_indices_ranked_by="self_confidence", n_jobs=1
    )
    # where several classes are confident cleanlab takes the most probable of all: a row or two may differ
    assert len(set(theirs) ^ set(found.rows.tolist())) <= 3
    common = [row for row in theirs if row in set(found.rows.tolist())]
    assert common == [row for row in found.rows.tolist() if row in set(theirs)]
    np.testing.assert_allclose(found.probability, found.probabilities[found.rows, found.labels[found.rows]], rtol=0)


def spied(monkeypatch):
    """The trials of the folds and the data they are trained on, as they come."""
    seen, real = [], mislabelled.predict_test_rows

    def spy(trial, dataset, stop):
        seen.append((trial, dataset, stop))
        return real(trial, dataset, stop)

    monkeypatch.setattr(mislabelled, "predict_test_rows", spy)
    return seen


def test_the_predictions_are_those_that_trials_are_scored_by(monkeypatch):
    seen = spied(monkeypatch)
    for stop in ("last", "best"):
        seen.clear()
        found = search(run(StudySpec(data="wine", objectives=["gce:q=0.7"], stop=stop, **WINE), jobs=1), jobs=1)
        assert len(seen) == FOLDS
        for trial, data, at in seen:
            assert at == stop
            record, split = run_trial(trial, data)[stop], split_of(trial, data)
            p, y = found.probabilities[split.rows_test], data.labels[split.rows_test]
            assert (p.argmax(1) == y).mean() == pytest.approx(record["test"]["accuracy"], abs=1e-12)
            assert -np.log(p[np.arange(len(y)), y]).mean() == pytest.approx(record["test"]["log_loss"], rel=1e-9)
            assert record["calibration"] == "temperature"


def test_a_group_never_lies_on_two_sides_and_every_row_is_predicted_once(tmp_path, monkeypatch):
    x, y = load_wine(return_X_y=True)
    patients = np.arange(len(y)) // 3
    pd.DataFrame(x).assign(patient=patients, label=y).to_csv(tmp_path / "t.csv", index=False)
    spec = StudySpec(data=str(tmp_path / "t.csv"), target="label", group="patient", objectives=["ce"], **WINE)
    seen = spied(monkeypatch)
    found = search(run(spec, jobs=1), jobs=1)
    splits = [split_of(trial, data) for trial, data, _ in seen]
    for split in splits:
        sides = [set(patients[rows]) for rows in (split.rows_train, split.rows_validation, split.rows_test)]
        assert not sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]
    np.testing.assert_array_equal(np.sort(np.concatenate([split.rows_test for split in splits])), np.arange(len(y)))
    assert np.isfinite(found.probabilities).all()


def test_the_baseline_is_trained_with_all_that_most_splits_chose(monkeypatch):
    spec = StudySpec(
        data="wine", objectives=["gce", "ce"], model="linear", seeds=3, epochs=3, configurations=5, learning_rate_range=(0.02, 0.3),
        references=False,
    )  # fmt: skip
    done, seen = run(spec, jobs=1), spied(monkeypatch)
    found = search(done, jobs=1)
    chosen = [one.configuration for one in done.over("generalized_cross_entropy")]
    (used,) = {(trial.learning_rate, trial.weight_decay, trial.objective.label) for trial, _, _ in seen}
    counts = {one: chosen.count(one) for one in chosen}
    matching = [one for one in chosen if (one.learning_rate, one.weight_decay) == used[:2]]
    assert matching
    assert counts[matching[0]] == max(counts.values())
    assert found.objective == used[2] == matching[0].applied(spec.objectives[0]).label
    assert "q=" in found.objective


def test_the_same_again(digits):
    data = Dataset.from_arrays("wine", *load_wine(return_X_y=True))
    done = run(StudySpec(data=data, objectives=["ce"], **WINE), jobs=1)
    one, other = search(done, jobs=1), search(done, data, jobs=1)
    np.testing.assert_array_equal(one.probabilities, other.probabilities)
    assert one.cells is None


@pytest.mark.subprocess
def test_worker_processes_find_the_same_and_tell_how_far_they_are():
    done, told = run(StudySpec(data="wine", objectives=["ce"], **WINE), jobs=1), []
    two = search(done, jobs=2, on_progress=lambda *so_far: told.append(so_far))
    np.testing.assert_array_equal(two.probabilities, search(done, jobs=1).probabilities)
    assert told == [(k, FOLDS) for k in range(FOLDS + 1)]


def test_with_trusted_labels_it_says_how_right_it_is(tmp_path):
    wrong, y = with_flips(tmp_path / "t.csv", load_wine, 0.1)
    checked = pd.Series([f"class {k}" for k in y], dtype=object)
    unchecked = np.arange(len(y)) % 7 == 0
    table = pd.read_csv(tmp_path / "t.csv").assign(checked=checked.where(~unchecked), part=np.where(unchecked, "train", "test"))
    table.to_csv(tmp_path / "t.csv", index=False)
    spec = StudySpec(data=str(tmp_path / "t.csv"), target="label", clean_target="checked", split_column="part", objectives=["ce"], **WINE)
    found = search(run(spec, jobs=1), jobs=1)
    mistaken, suspect = np.isin(np.arange(len(y)), wrong) & ~unchecked, np.isin(np.arange(len(y)), found.rows) & ~unchecked
    assert found.check == Check("checked", int((~unchecked).sum()), mistaken.sum(), suspect.sum(), (mistaken & suspect).sum())
    assert found.check.recall > 0.7
    assert found.check.precision > 0.6
    assert found.right == tuple(None if unchecked[row] else f"class {y[row]}" for row in found.rows)
    assert f"By checked, wrong are {mistaken.sum()} of the {(~unchecked).sum()} that have one there" in found.sentence
    assert found.table()["trusted_label"].isna().sum() == unchecked[found.rows].sum()


def test_noise_of_the_study_is_looked_for_and_counted():
    spec = StudySpec(data="wine", objectives=["ce"], noise="symmetric:0.15", **{**WINE, "seeds": [4, 2]})
    found, data = search(run(spec, jobs=1), jobs=1), spec.load()
    noisy = noisy_labels(data, spec.noise, 4)
    np.testing.assert_array_equal(found.labels, noisy)
    changed = np.flatnonzero(noisy != data.labels)
    assert found.check == Check(BEFORE, 178, len(changed), len(found.rows), len(np.intersect1d(changed, found.rows)))
    assert found.check.recall > 0.7
    assert "178 labels under noise symmetric:0.15 look wrong" in found.sentence
    assert f"The noise replaced {len(changed)}: " in found.sentence
    assert list(found.table()["label_before_the_noise"]) == [data.class_names[data.labels[row]] for row in found.rows]


class TestKept:
    """What a store gives back is what was found."""

    def test_everything_comes_back(self, tmp_path):
        noisy = {"noise": Noise.parse("symmetric:0.1"), "right": ("-1", None), "check": Check(BEFORE, 9, 3, 2, 1)}
        draw = np.random.default_rng(3)
        cells = pd.DataFrame({"x": [0.1234567890123, np.nan], "day": [pd.Timestamp("2024-01-02"), pd.NaT], "=k": [["=a"], None]})
        for found in (made(), made(cells=None, files=("a.png", "b.png"), **noisy), made(cells=cells, probabilities=draw.random((9, 2)))):
            with Store(tmp_path / "trials.sqlite") as store:
                keep(found, "a study", store)
            with Store(tmp_path / "trials.sqlite") as store:
                again = kept("a study", store)
                assert kept("another", store) is None
            assert again is not None
            assert again.as_dict() == found.as_dict()
            np.testing.assert_array_equal(again.probabilities, found.probabilities)
            assert content(again) == content(found)
            assert suspected.section(again) == suspected.section(found)
            assert suspected.facts(again, tmp_path) == suspected.facts(found, tmp_path)

    def test_one_that_is_damaged_is_left_out_and_made_anew(self, tmp_path):
        path = tmp_path / "trials.sqlite"
        done = run(StudySpec(data="wine", objectives=["ce"], **WINE), path, jobs=1)
        found = search(done, jobs=1, store=path)
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE noise_reports SET found = replace(found, 'cross_entropy', 'focal_loss')")
        connection.close()
        with Store(path) as store, pytest.warns(UserWarning, match="the noise report of this study is damaged .*its digest does not fit"):
            assert kept(done.digest, store) is None
        with pytest.warns(UserWarning, match="damaged"):
            np.testing.assert_array_equal(search(done, jobs=1, store=path).probabilities, found.probabilities)
        with Store(path) as store:
            assert kept(done.digest, store).objective == "cross_entropy"

    def test_it_comes_along_where_stores_are_united(self, tmp_path):
        one, whole = tmp_path / "one.sqlite", tmp_path / "whole.sqlite"
        done = run(StudySpec(data="wine", objectives=["ce"], **WINE), one, jobs=1)
        with Store(one) as store:
            keep(made(), done.digest, store)
        unite([one], whole)
        with Store(whole) as store:
            assert kept(load(whole).digest, store).as_dict() == made().as_dict()

    def test_a_study_is_known_by_what_was_asked_and_of_which_data(self):
        spec = StudySpec(data="wine", objectives=["ce"], **WINE)
        same, more = run(spec, jobs=1), run(replace(spec, epochs=21), jobs=1)
        other = run(replace(spec, data=Dataset.from_arrays("wine", *load_wine(return_X_y=True))), jobs=1)
        changed = run(replace(spec, data=Dataset.from_arrays("wine", load_wine().data[1:], load_wine().target[1:])), jobs=1)
        assert len({same.digest, more.digest, other.digest, changed.digest}) == 4
        assert run(spec, jobs=1).digest == same.digest


def made(**other):
    """Two suspects with labels that are hostile."""
    evil = "=HYPERLINK(1)<script>alert(1)</script>"
    plain = {
        "objective": "cross_entropy", "rows": np.array([6, 1]), "given": (evil, "-1"), "likely": ("-1", evil),
        "probability": np.array([0.01234567, 0.2]), "noise_rate": 0.123, "probabilities": np.zeros((9, 2)),
        "labels": np.zeros(9, dtype=np.int64), "class_names": (evil, "-1"),
        "cells": pd.DataFrame({"=row": ["@me", "-5e3"], "row": ["+49 30", "a\r\n-b"], "n": ["007", ""]}),
    }  # fmt: skip
    return Suspects(**{**plain, **other})


def test_a_spreadsheet_runs_nothing_and_finds_every_row(tmp_path):
    path = made().write(tmp_path / "new")
    with path.open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert head == ["row", "given_label", "likely_label", "probability_of_given", "'=row", "row (yours)", "n"]
    evil = "'=HYPERLINK(1)<script>alert(1)</script>"
    assert rows == [["7", evil, "-1", "0.0123457", "'@me", "'+49 30", "007"], ["2", "-1", evil, "0.2", "-5e3", "a  -b", ""]]


def test_cells_of_other_files_keep_their_digits_and_gaps(tmp_path):
    cells = pd.DataFrame({"x": [0.1234567890123, np.nan], "day": [pd.Timestamp("2024-01-02"), pd.NaT], "k": [["=a"], None]})
    with made(cells=cells).write(tmp_path).open(newline="", encoding="utf-8") as file:
        _, *rows = csv.reader(file)
    assert [row[4:] for row in rows] == [["0.1234567890123", "2024-01-02 00:00:00", "['=a']"], ["", "", ""]]


def test_the_page_escapes_labels_and_files_and_says_where_the_rest_is():
    shown = Summary(result({"ce": around(0.8)}))
    many = made(
        rows=np.arange(12), given=("<b>a</b>",) * 12, likely=("<i>b</i>",) * 12, probability=np.full(12, 0.1), cells=None,
        files=("<u>x</u>.png",) * 12, right=("<s>c</s>",) * 12, check=Check("<q>", 9, 3, 12, 2),
    )  # fmt: skip
    page = render(shown, many)
    for tag in ("b", "i", "u", "s", "q"):
        assert f"<{tag}>" not in page.split("Labels that look wrong")[1].split("</section>")[0]
    assert page.count("&lt;u&gt;x&lt;/u&gt;.png") == suspected.SHOWN
    assert "The 10 likeliest of 12; all are in suspects.csv" in page
    assert "--noise-report" in page
    assert "Labels that look wrong" not in render(shown)
    none = render(shown, made(rows=np.arange(0), given=(), likely=(), probability=np.zeros(0), cells=None))
    assert "None of the 9 labels looks wrong." in none


def test_nothing_to_divide_by_is_said_in_counts():
    nothing = {"rows": np.arange(0), "given": (), "likely": (), "probability": np.zeros(0), "cells": None, "right": ()}
    assert made(**nothing, check=Check(BEFORE, 9, 2, 0, 0)).sentence.endswith("The noise replaced 2, and 0 of these look so.")
    assert np.isnan(Check(BEFORE, 9, 2, 0, 0).precision)
    assert np.isnan(Check(BEFORE, 9, 0, 1, 0).recall)
    json.dumps(suspected.facts(made(), suspected.Path("x")), allow_nan=False)


def test_rows_are_those_of_the_user_s_file(tmp_path):
    """Rows without a label and classes held out move no number, and cells are as they were written."""
    x, y = load_wine(return_X_y=True)
    wrong = np.array([5, 40, 90, 120])
    labels = np.array(["red", "white", "rosé"])[y].astype(object)
    labels[wrong] = np.where(labels[wrong] == "red", "white", "red")
    table = pd.DataFrame(x).assign(id=[f"{i:04d}" for i in range(len(y))], colour=labels)
    extra = table.iloc[:30].assign(colour=[None, None, "orange"] * 10)
    pd.concat([extra, table]).to_csv(tmp_path / "t.csv", index=False, sep=";")
    spec = StudySpec(data=str(tmp_path / "t.csv"), target="colour", objectives=["ce"], ood_classes=["orange"], duplicates="apart", **WINE)
    found = search(run(spec, jobs=1), jobs=1)
    assert {30 + row for row in wrong} <= set(found.rows.tolist())
    shown = found.table()
    assert list(shown["id"]) == [f"{row - 30:04d}" for row in found.rows]
    assert list(shown["row"]) == [row + 1 for row in found.rows]
    whole = pd.read_csv(tmp_path / "t.csv", sep=";")
    assert list(whole["colour"].iloc[found.rows]) == list(found.given)


def test_images_are_named_by_their_files(tmp_path):
    image = pytest.importorskip("PIL.Image")
    draw = np.random.default_rng(0)
    for k, name in enumerate(("dark", "light")):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(30):
            light = k if (name, i) != ("dark", 7) else 1
            pixels = np.clip(draw.normal(70 + 110 * light, 20, (8, 8)), 0, 255).astype(np.uint8)
            image.fromarray(pixels).save(tmp_path / "pets" / name / f"{i:02d}.png")
    (tmp_path / "pets" / "dark" / "00.png").write_bytes(b"damaged")
    spec = StudySpec(data=f"folder:{tmp_path}/pets@8@skip", objectives=["ce"], **WINE)
    found = search(run(spec, jobs=1), jobs=1)
    assert found.files == ("dark/07.png",)
    (told,) = suspected.facts(found, tmp_path)["suspects"]
    assert told == {"row": 7, "file": "dark/07.png", "given": "dark", "likely": "light", "probability_of_given": found.probability[0]}
    assert found.given + found.likely == ("dark", "light")
    assert found.sentence.startswith("1 of the 59 labels looks wrong (")
    assert list(found.table().columns) == ["file", "given_label", "likely_label", "probability_of_given"]


def test_boosted_trees_find_them_too(tmp_path):
    pytest.importorskip("xgboost")
    x, y = load_wine(return_X_y=True)
    labels = (y > 0).astype(int)
    labels[[3, 70, 150]] ^= 1
    done = run(
        StudySpec(data=(x, labels), objectives=["ce"], model="xgboost", seeds=1, epochs=15, learning_rates=[0.3], references=False), jobs=1
    )
    found = search(done, jobs=1)
    assert {3, 70, 150} <= set(found.rows.tolist())
    assert len(found.rows) <= 10


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"imbalance": 0.5}, "--imbalance 0.5 leaves training rows out"),
        ({"labels": 20}, "--labels-per-class 20 leaves training rows out"),
        ({"holdout": "thresholdout"}, "test rows themselves: leave it out with --holdout thresholdout"),
        ({"validation": 0.85, "test": 0.1}, "--noise-report deals the rows into 5 folds: --folds 5 and --validation-fraction 0.85"),
        ({"learning_rates": [1e30]}, "diverged in every configuration"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(spec, said):
    done = run(StudySpec(data="wine", objectives=["ce"], **{**WINE, **spec, "epochs": 2}), jobs=1)
    with pytest.raises(StudyError, match="--noise-report") as refused:
        search(done, jobs=1)
    assert said in str(refused.value)


def test_a_fold_that_fails_is_named(user, monkeypatch):
    done = run(StudySpec(data="wine", objectives=["objectives_of_a_user:plain"], **{**WINE, "epochs": 1}), jobs=1)

    def broken(*_, **__):
        raise RuntimeError("out of luck")

    monkeypatch.setattr("lossmith.study.training.run.Run.probabilities", broken)
    with pytest.raises(StudyError, match="fold 1 of 5: RuntimeError: out of luck"):
        search(done, jobs=1)


def test_rare_classes_are_too_few_for_the_folds():
    x, y = load_wine(return_X_y=True)
    keep = np.flatnonzero((y < 2) | (np.cumsum(y == 2) <= 4))
    done = run(StudySpec(data=(x[keep], y[keep]), objectives=["ce"], **WINE), jobs=1)
    with pytest.raises(StudyError, match="--noise-report deals the rows into 5 folds: class '2' has 4 rows here, too few for 5 parts"):
        search(done, jobs=1)


def test_data_that_changed_since_are_refused(tmp_path):
    with_flips(tmp_path / "t.csv", load_wine, 0.1)
    done = run(StudySpec(data=str(tmp_path / "t.csv"), target="label", objectives=["ce"], **{**WINE, "epochs": 1}), jobs=1)
    with_flips(tmp_path / "t.csv", load_wine, 0.2)
    with pytest.raises(StudyError, match=r"t\.csv is not what it was when the study was run"):
        search(done, jobs=1)


def test_studies_run_together_are_looked_at_one_by_one():
    specs = study.grid(["wine"], [None, "symmetric:0.1"], objectives=["ce"], **{**WINE, "epochs": 1, "seeds": 2})
    with pytest.raises(StudyError, match="is for one study; this is one of 2 run together"):
        search(study.run_all(specs, jobs=1)[0], jobs=1)
