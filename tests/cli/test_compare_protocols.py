"""Ways of splitting and scoring from the command line: what the plan says, what is refused, and a report at the end."""

import json

import numpy as np
import pandas as pd
import pytest

TWO = ("--objectives", "cross_entropy,gce:q=0.7")
SMALL = (
    "--data",
    "visits.csv",
    "--target",
    "ill",
    "--model",
    "linear",
    "--seeds",
    2,
    "--epochs",
    1,
    "--learning-rates",
    "0.1",
    "--jobs",
    1,
)


@pytest.fixture(autouse=True)
def visits(tmp_path, monkeypatch):
    """A table of visits by patients: two of them noted twice, dates, a trusted diagnosis, and a split."""
    from lossmith.study.training import yardsticks

    monkeypatch.setattr(yardsticks, "GRIDS", {"logistic_regression": (1.0,), "gradient_boosting": (0.1,)})
    monkeypatch.setattr(yardsticks, "ITERATIONS", 3)
    generator = np.random.default_rng(0)
    n = 120
    ill = np.arange(n) // 4 % 2
    table = pd.DataFrame(
        {
            "fever": generator.normal(37, 1, n) + ill,
            "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(generator.integers(0, 300, n), "D"),
            "ward": "A",
            "patient": [f"p{i // 4}" for i in range(n)],
            "part": np.array(["train", "train", "train", "val", "test"])[np.arange(n) // 4 % 5],
            "checked": np.where(ill, "yes", "no"),
            "ill": np.where(ill ^ (np.arange(n) % 11 == 0), "yes", "no"),
        }
    )
    pd.concat([table, table.iloc[:2]]).to_csv(tmp_path / "visits.csv", index=False)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            (),
            ("day: dates, read as days since 1970-01-01, month, day of the week", "ward: left out, it is constant", "2 of 122 rows repeat"),
        ),
        ((), ("references  logistic regression; gradient boosting",)),
        (("--folds", 4), ("4-fold cross-validation", "2 objectives x 2 seeds x 4 folds", "With 8 folds", "Bouckaert")),
        (("--group", "patient"), ("patient: 30 groups, never on two sides", "all rows with the same patient on one side")),
        (("--split-column", "part"), ("your own, column part", "(74 train, 24 validation, 24 test)", "test rows are always the same")),
        (("--time", "90m"), ("at most 1h30m",)),
        (("--clean-target", "checked"), ("ill differs from them in", "not by checked")),
        (("--clean-target", "checked", "--clean-validation"), ("by labels known to be right",)),
    ],
)
def test_the_plan_shows_it(lossmith, options, said):
    ran = lossmith("compare", *SMALL, *TWO, *options, "--dry-run")
    assert ran.status == 0, ran.err
    text = " ".join(ran.out.split())
    for part in said:
        assert " ".join(part.split()) in text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--folds", 1), "folds must be"),
        (("--folds", 4, "--test-fraction", 0.2), "--test-fraction"),
        (("--folds", 4, "--test", "signed_rank"), "--test signed_rank"),
        (("--folds", 4, "--split-column", "part"), "--folds"),
        (("--group", "patent"), "did you mean 'patient'?"),
        (("--split-column", "ward"), "--split-column ward"),
        (("--time", "soon"), "--time must be"),
        (("--clean-validation",), "--clean-validation needs"),
        (("--clean-target", "ward"), "--clean-target ward"),
        (("--duplicates", "drop"), "--duplicates must be"),
        (("--test", "paired_t"), "--test paired_t"),
    ],
)
def test_what_cannot_be_is_one_line_that_names_the_option(refused, options, said):
    assert said in refused("compare", *SMALL, *TWO, *options)


def test_a_study_with_all_of_it(lossmith, tmp_path):
    options = ("--group", "patient", "--folds", 3, "--clean-target", "checked", "--clean-validation", "--time", "10m")
    ran = lossmith("compare", *SMALL, *TWO, *options, "--json")
    assert ran.status == 0, ran.err
    found = json.loads(ran.out)
    assert len(found["results"]["last"]["accuracy"][0]["values"]) == 6
    assert {one["name"] for one in found["references"]} == {"logistic regression", "gradient boosting"}
    page = (tmp_path / "lossmith-report" / "report.html").read_text()
    for part in ("3-fold cross-validation", "trusted labels of checked", "References outside the comparison", "--time 10m"):
        assert part in page
    again = lossmith("report", "lossmith-report/trials.sqlite", "--json")
    assert json.loads(again.out)["results"] == found["results"]


def test_one_s_own_split_is_claimed_for_itself(lossmith):
    ran = lossmith("compare", *SMALL, *TWO, "--split-column", "part", "--no-references")
    assert "This speaks of one test set, your own" in " ".join(ran.out.split())
    assert "reference:" not in ran.out


def test_text_from_the_command_line(lossmith, refused, tmp_path):
    """The command reads the columns, the study learns from them, and the report's command says so."""
    told = [f"{'good' if k % 2 else 'bad'} film, number {k}" for k in range(40)]
    lines = [f'"{text}",{"yes" if k % 2 else "no"}' for k, text in enumerate(told)]
    (tmp_path / "films.csv").write_text("\n".join(["review,liked", *lines]) + "\n")
    asked = ("compare", "--data", "films.csv", "--target", "liked", "--objectives", "ce,gce", "--model", "linear", "--seeds", 2)
    small = ("--epochs", 30, "--learning-rates", "0.03", "--jobs", 1, "--no-references")
    ran = lossmith(*asked, *small, "--text", "review@128", "--json")
    assert ran.status == 0, ran.err
    found = json.loads(ran.out)
    assert found["study"]["text"] == ["review@128"]
    assert found["data"]["inputs"].startswith("128 numeric")
    assert [one["mean"] for one in found["results"]["last"]["accuracy"]] == [1, 1]
    assert "--text review@128" in (tmp_path / "lossmith-report" / "report.html").read_text()
    assert "did you mean 'review'" in refused(*asked, *small, "--text", "reviews")
