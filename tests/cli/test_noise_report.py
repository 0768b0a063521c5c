"""The search for wrong labels from the command line: what is planned, said and written, and what is refused."""

import json

import pandas as pd
import pytest
from sklearn.datasets import load_wine

from lossmith import study

WRONG = (4, 60, 140)
SMALL = (
    "--data", "wine.csv", "--target", "grape", "--objectives", "ce", "--model", "linear", "--seeds", 2, "--epochs", 60,
    "--learning-rates", "0.03", "--jobs", 1, "--no-references",
)  # fmt: skip


@pytest.fixture(autouse=True)
def wine(tmp_path):
    x, y = load_wine(return_X_y=True)
    y[list(WRONG)] = (y[list(WRONG)] + 1) % 3
    pd.DataFrame(x).assign(bottle=[f"no {i}" for i in range(len(y))], grape=[f"g{k}" for k in y]).to_csv(tmp_path / "wine.csv", index=False)


def test_rows_with_wrong_labels_are_written_down_and_said(lossmith, tmp_path):
    ran = lossmith("compare", *SMALL, "--noise-report")
    assert ran.status == 0, ran.err
    text, folder = " ".join(ran.out.split()), tmp_path / "lossmith-report"
    assert "noise report 5 trainings of cross_entropy more look for wrong ones among the data's labels" in text
    assert "of the 178 labels look wrong (estimated share of wrong labels: " in text
    assert "This is an estimate." in text
    assert text.endswith("lossmith-report/suspects.csv")
    assert "5 of 5 folds of the noise report" in ran.err
    written = pd.read_csv(folder / "suspects.csv")
    assert {row + 1 for row in WRONG} <= set(written["row"])
    assert len(written) <= 10
    assert list(written["bottle"]) == [f"no {row - 1}" for row in written["row"]]
    page = (folder / "report.html").read_text()
    assert "Labels that look wrong" in page
    assert "--no-references --noise-report --seeds 2" in page
    before = (folder / "suspects.csv").read_bytes(), page
    again = lossmith("compare", *SMALL, "--noise-report", "--json")
    assert ((folder / "suspects.csv").read_bytes(), (folder / "report.html").read_text()) == before
    facts = json.loads(again.out)["suspects"]
    assert [one["row"] for one in facts["suspects"]] == list(written["row"])
    assert facts["check"] is None
    assert facts["file"] == "lossmith-report/suspects.csv"


STORE = "lossmith-report/trials.sqlite"


def test_the_page_is_rebuilt_with_it_and_without_the_data(lossmith, tmp_path):
    lossmith("compare", *SMALL, "--noise-report")
    folder = tmp_path / "lossmith-report"
    before = (folder / "report.html").read_text(), (folder / "suspects.csv").read_bytes()
    (tmp_path / "wine.csv").unlink()
    (folder / "suspects.csv").unlink()
    ran = lossmith("report", STORE)
    assert ran.status == 0, ran.err
    assert ((folder / "report.html").read_text(), (folder / "suspects.csv").read_bytes()) == before
    assert "of the 178 labels look wrong" in " ".join(ran.out.split())
    assert lossmith("report", STORE, "--format", "csv", "--out", "tables").status == 0
    assert not (tmp_path / "tables" / "suspects.csv").exists()


def test_it_is_made_once(lossmith, tmp_path, monkeypatch):
    lossmith("compare", *SMALL, "--noise-report")
    before = (tmp_path / "lossmith-report" / "suspects.csv").read_text()
    monkeypatch.setattr("lossmith.study.mislabelled._out_of_fold", None)
    ran = lossmith("compare", *SMALL, "--noise-report")
    assert ran.status == 0, ran.err
    assert (tmp_path / "lossmith-report" / "suspects.csv").read_text() == before
    assert "5 of 5 folds of the noise report" in ran.err
    # a column that is not learnt from may change: rows are shown as they stand in the file now
    table = pd.read_csv(tmp_path / "wine.csv")
    table.assign(bottle=table["bottle"].str.replace("no", "nr")).to_csv(tmp_path / "wine.csv", index=False)
    lossmith("compare", *SMALL, "--noise-report")
    assert (tmp_path / "lossmith-report" / "suspects.csv").read_text() == before.replace(",no ", ",nr ")


def test_a_list_does_not_outlive_its_report(lossmith, tmp_path):
    """Beside the report of another study it would be taken for that one's."""
    lossmith("compare", *SMALL, "--noise-report")
    path = tmp_path / "lossmith-report" / "suspects.csv"
    before, other = path.read_bytes(), ("compare", *SMALL, "--batch-size", 64)
    ran = lossmith(*other)
    assert not path.exists()
    assert "removed lossmith-report/suspects.csv, the list of another study" in " ".join(ran.err.split())
    assert "Labels that look wrong" not in path.with_name("report.html").read_text()
    assert lossmith("report", STORE, "--study", 1).status == 0
    assert path.read_bytes() == before
    # whoever went through the list and wrote into it keeps the work
    path.write_bytes(before + b"mine")
    for run, name in ((other, "suspects-1.csv"), (("report", STORE, "--study", 1), "suspects-2.csv")):
        ran = lossmith(*run)
        assert f"it is {name} now" in " ".join(ran.err.split())
        assert path.with_name(name).read_bytes() == before + b"mine"
        path.write_bytes(before + b"mine")


def test_under_noise_the_plan_says_that_it_is_known(lossmith, tmp_path):
    ran = lossmith("compare", *SMALL, "--noise", "symmetric:0.1", "--noise-report", "--dry-run")
    assert "under the noise symmetric:0.1 of seed 0, which are known, for suspects.csv" in " ".join(ran.out.split())
    assert not (tmp_path / "lossmith-report").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--shard", "1/2"), "--noise-report is for one whole study; a part has no report"),
        (("--noise", "none,symmetric:0.2"), "several data sets or kinds of noise make 2"),
        (("--imbalance", 0.5), "--noise-report looks at every row of the data, and --imbalance 0.5"),
        (("--holdout", "thresholdout"), "leave it out with --holdout thresholdout"),
    ],
)
def test_what_cannot_be_looked_at_is_refused_before_anything_is_computed(refused, monkeypatch, options, said):
    monkeypatch.setattr("lossmith.study.engine.run_trials", None)
    assert said in refused("compare", *SMALL, *options, "--noise-report").splitlines()[-1]


def test_a_search_that_fails_costs_no_report(lossmith, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise study.StudyError("--noise-report: fold 2 of 5: out of luck")

    monkeypatch.setattr(study, "suspects", fails)
    ran = lossmith("compare", *SMALL, "--noise-report")
    assert ran.status == 1
    assert ran.err.strip().splitlines()[-1].endswith("--noise-report: fold 2 of 5: out of luck")
    assert (tmp_path / "lossmith-report" / "report.html").exists()
    assert not (tmp_path / "lossmith-report" / "suspects.csv").exists()


def test_ctrl_c_says_what_is_kept(lossmith, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "suspects", stopped)
    ran = lossmith("compare", *SMALL, "--noise-report")
    assert ran.status == 130
    assert "the study's trials are kept in lossmith-report/trials.sqlite; the same command does the noise report again" in ran.err
