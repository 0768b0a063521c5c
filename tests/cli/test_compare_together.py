"""Several data sets and kinds of noise from the command line, groups of objectives, and the formats of a report."""

import json

import pytest

SMALL = ("--model", "linear", "--seeds", 2, "--epochs", 1, "--learning-rates", "0.1", "--jobs", 1, "--no-references")
GRID = ("--data", "wine,breast_cancer", "--noise", "none,symmetric:0.4", "--objectives", "ce,gce:q=0.7", *SMALL)


@pytest.mark.untyped  # a store gives a study back as plain JSON, and the study makes objects of it
def test_one_report_over_all(lossmith, tmp_path):
    ran = lossmith("compare", *GRID)
    assert ran.status == 0, ran.err
    assert "16 of 16 trials" in ran.err
    for text in (
        "16 in 4 studies",
        "only this is tested, adjusted over all comparisons",
        "without noise: accuracy",
        "on average over these 2 data sets",
    ):
        assert text in ran.out
    page = (tmp_path / "lossmith-report" / "report.html").read_text()
    assert page.count('<details class="whole"') == 4
    again = lossmith("compare", *GRID)
    assert "16 of them stored already" in again.err
    lossmith("report", "lossmith-report/trials.sqlite", "--out", "again")
    assert (tmp_path / "again" / "report.html").read_text() == page
    found = json.loads(lossmith("report", "lossmith-report/trials.sqlite", "--claim", "each", "--json").out)
    assert found["claim"] == "each"
    assert len(found["studies"]) == len(found["each"]) == 4
    assert {one["verdict"] for one in found["these"]} == {"not tested"}
    for form, names in {"csv": ["claims.csv", "summary.csv", "trials.csv"], "latex": ["references.bib", "table.tex"]}.items():
        lossmith("report", "lossmith-report/trials.sqlite", "--format", form, "--out", form)
        assert sorted(path.name for path in (tmp_path / form).iterdir()) == names


def test_a_group_of_objectives(lossmith, refused):
    plan = lossmith("compare", "--data", "wine", "--objectives", "@robust", *SMALL, "--dry-run").out
    assert "against cross_entropy;" in plan
    assert "26 = 13 objectives x 2 seeds x 1 learning rate" in plan
    assert "did you mean '@robust'?" in refused("compare", "--data", "wine", "--objectives", "ce,@robst")
    assert "a study trains objectives of one label among classes" in refused("compare", "--data", "wine", "--objectives", "@overlap")


def test_groups_are_listed_where_objectives_are_found(lossmith, refused):
    assert "@robust (12)" in lossmith("find").out
    robust = lossmith("find", "@robust").out
    assert "generalized_cross_entropy" in robust
    assert "crammer_singer" not in robust
    assert "no group of objectives is called '@rare'" in refused("find", "@rare")


def test_what_is_refused(refused):
    assert "has an empty place between commas" in refused("compare", *SMALL, "--objectives", "ce,gce", "--data", "wine,", status=2)
    assert "--claim must be one of each, these, alike" in refused("compare", *GRID, "--claim", "all", status=2)
    assert "--format must be one of html, csv, parquet, latex; got 'cvs'; did you mean 'csv'?" in refused(
        "report", "none.sqlite", "--format", "cvs", status=2
    )


def test_the_plan_of_tuned_studies_counts_all_trials(lossmith):
    ran = lossmith("compare", "--data", "wine,digits", "--objectives", "ce,gce", "--seeds", 2, "--model", "linear", "--dry-run")
    assert ran.status == 0, ran.err
    said = " ".join(ran.out.split())
    assert f"{2 * 2 * 2 * 12} in 2 studies" in said
    assert "weight_decay 0.0001 to 1" in said


def test_a_file_with_a_comma_in_its_name_is_one(lossmith, tmp_path):
    (tmp_path / "a,b.csv").write_text("x,label\n" + "".join(f"{k}.5,{'u' if k % 2 else 'v'}\n" for k in range(40)))
    ran = lossmith("compare", "--data", "a,b.csv", "--target", "label", "--objectives", "ce,gce", *SMALL, "--dry-run")
    assert ran.status == 0, ran.err


def test_the_plan_of_each_data_set_by_itself_says_what_it_could_show(lossmith):
    ran = lossmith("compare", *GRID, "--claim", "each", "--probes", "margins", "--dry-run", "--json")
    assert ran.status == 0, ran.err
    found = json.loads(ran.out)
    assert (found["claim"], found["trials"], len(found["studies"])) == ("each", 16, 4)
    assert found["power"]["n_comparisons"] == 4
    said = " ".join(ran.err.split())
    assert "power On each data set by itself, with 2 seeds and 4 comparisons" in said
    assert "probes margins: looked at in every trained model" in said
