"""Several studies at once: what is run, what is stored, what is said of all of them, and which claim is tested."""

import re
from dataclasses import replace

import numpy as np
import pytest

from lossmith import study
from lossmith.study import StudyError, grid, load_all, load_all_united, run, run_all
from lossmith.study.grid import GridSummary, prospect_of
from lossmith.study.report import methods, words_across
from lossmith.study.report.command import command
from lossmith.study.report.page import render
from lossmith.study.statistics.paired import holm
from lossmith.study.statistics.power import what_can_be_shown
from lossmith.study.summary import Summary

from .made_up import around, result, several

SMALL = {"objectives": ["ce", "gce:q=0.7"], "model": "linear", "seeds": 2, "epochs": 1, "learning_rates": [0.1], "references": False}


def test_every_data_set_under_every_noise():
    specs = grid(["wine", "digits"], ["none", "symmetric:0.2"], **SMALL)
    assert [(spec.data, str(spec.noise)) for spec in specs] == [
        ("wine", "None"), ("digits", "None"), ("wine", "symmetric:0.2"), ("digits", "symmetric:0.2"),
    ]  # fmt: skip
    assert {spec.grid for spec in specs} == {(("wine", "digits"), ("none", "symmetric:0.2"))}


def test_one_study_is_no_grid():
    (spec,) = grid(["wine"], **SMALL)
    assert spec.grid is None
    assert "grid" not in spec.as_dict()


def test_a_grid_moves_no_trial():
    alone, together = grid(["wine"], **SMALL)[0], grid(["wine", "digits"], **SMALL)[0]
    assert [one.key for one in alone.trials("f")] == [one.key for one in together.trials("f")]


@pytest.mark.parametrize(
    ("data", "noise", "more", "said"),
    [
        (["wine", "wine"], [None], {}, "data wine is named twice"),
        (["wine"], ["symmetric:0.2", "symmetric:0.20"], {}, "noise symmetric:0.2 is named twice"),
        (["wine", "digits"], [None], {"seeds": 1}, "wanted 2 seeds or more"),
        (["wine", "digits"], [None], {"time": "5m"}, "--time is for one study"),
        (["wine", "digits"], [None], {"stop_hopeless": True}, "--stop-hopeless is for one study"),
        (["wine", "digits"], [None], {"holdout": "thresholdout"}, "--holdout thresholdout is for one study"),
        (["wine", "digits"], [None], {"target": "y"}, "wine, digits bring their own labels"),
        ([], [None], {}, "data: none given"),
        (["wine"], [], {}, "noise: none given"),
    ],
)
def test_what_makes_no_grid(data, noise, more, said):
    with pytest.raises(StudyError, match=said):
        grid(data, noise, **{**SMALL, **more})


@pytest.mark.untyped  # a store gives studies back as plain JSON
def test_one_count_of_trials_one_store_and_nothing_twice(tmp_path):
    specs = grid(["wine", "breast_cancer"], ["none", "symmetric:0.4"], **SMALL)
    counts = []
    results = run_all(
        specs, tmp_path / "s.sqlite", jobs=1, on_progress=lambda done, total, record: counts.append((done, total, record is None))
    )
    assert counts[0] == (0, 16, True)
    assert [done for done, _, _ in counts] == list(range(17))
    assert {total for _, total, _ in counts} == {16}
    counts.clear()
    run_all(specs, tmp_path / "s.sqlite", jobs=1, on_progress=lambda done, total, record: counts.append((done, total, record is None)))
    assert counts == [(16, 16, True)]
    again = load_all(tmp_path / "s.sqlite")
    assert [one.spec for one in again] == [one.spec for one in results]
    assert [one.data["name"] for one in again] == ["wine", "breast_cancer"] * 2
    np.testing.assert_array_equal(again[3].values(), results[3].values())
    study.run(grid(["wine"], **SMALL)[0], tmp_path / "s.sqlite", jobs=1)
    assert len(load_all(tmp_path / "s.sqlite")) == 1  # the latest study now is one alone
    with pytest.raises(StudyError, match="holds 5 studies"):
        load_all(tmp_path / "s.sqlite", 9)


@pytest.mark.untyped
def test_a_grid_that_was_interrupted_says_what_it_lacks(tmp_path):
    specs = grid(["wine", "breast_cancer"], **SMALL)
    study.run(specs[0], tmp_path / "s.sqlite", jobs=1)
    with pytest.raises(StudyError, match="lacks breast_cancer with noise none; run the same command again"):
        load_all(tmp_path / "s.sqlite")


def test_each_data_set_by_itself_is_adjusted_over_all_of_them():
    found = GridSummary(several(["wine", "digits"]), "each")
    p = [line.comparison.p for summary in found.summaries for line in summary.lines() if line.comparison]
    assert [one.p_adjusted for _, one in found.each] == pytest.approx(holm(np.array(p)).tolist())
    assert [one.verdict for _, one in found.each] == ["better", "no difference shown"] * 4


def test_a_verdict_of_one_study_may_not_stand_among_many():
    """A p-value of about 0.02 is a winner alone and none among eight."""
    base = np.array(around(0.8, n=6))
    made = [
        Summary(
            result(
                {"ce": base.tolist(), "up": (base + around(0.02, 0.012, 6, seed=5)).tolist()}, data={"name": f"d{k}", "fingerprint": f"{k}"}
            )
        )
        for k in range(8)
    ]
    assert [summary.lines()[1].comparison.verdict for summary in made] == ["better"] * 8
    assert [one.verdict for _, one in GridSummary(tuple(made), "each").each] == ["no difference shown"] * 8


def test_the_headline_says_which_data_sets_it_is_about():
    studies = several(["wine", "digits"])
    these = words_across.grid_headline(GridSummary(studies, "these"))
    assert these == (
        "Compared with ce in accuracy at the last epoch, on average over these 2 data sets, "
        "of 4 comparisons: 2 better, 2 no difference shown."
    )
    alike = words_across.grid_headline(GridSummary(studies, "alike"))
    assert "on data sets like these 2, of 4 comparisons: 4 no difference shown. None of these is shown to beat ce here." in alike
    each = words_across.grid_headline(GridSummary(studies, "each"))
    assert "on each of wine and digits by itself, of 8 comparisons: 4 better, 4 no difference shown." in each
    alone = words_across.grid_headline(GridSummary(several(["wine"]), "these"))
    assert "on wine, of 4 comparisons: 2 better" in alone


def test_the_page_tests_the_claim_that_was_declared_and_no_other():
    studies = several(["wine", "digits"])
    these, each = render(GridSummary(studies, "these")), render(GridSummary(studies, "each"))
    front = these[: these.index("The studies one by one")]
    assert front.index("On average over these data sets") < front.index("On data sets like these") < front.index("Each data set")
    assert front.count('<span class="pill good">better</span>') == 2
    assert "▲" not in front.replace("▲ better", "")
    front = each[: each.index("The studies one by one")]
    assert front.count("<b>▲ ") == 4
    assert '<span class="pill' not in front
    assert these.count('<details class="whole"') == 4
    assert "critical-difference diagram" in these


def test_the_command_of_a_grid_names_all_of_it():
    assert command(several(["wine", "digits"])[0].spec).startswith(
        "lossmith compare --data wine,digits --objectives ce,up,near --noise none,symmetric:0.4"
    )


def test_the_command_of_a_grid_has_the_target_of_the_table_among_its_data():
    together = list(several(["wine", "t.csv"], noises=("none",)))
    together[1] = Summary(replace(together[1].result, spec=replace(together[1].spec, data="t.csv", target="ill")))
    assert "--data wine,t.csv" in (said := render(GridSummary(tuple(together), "each")))
    assert said.count("--data wine --objectives") == said.count("--data t.csv --objectives") == 1  # each by itself
    assert re.search(r"--objectives ce,up,near --target ill .*--claim each", said)


def test_the_paragraph_of_a_grid_says_that_some_labels_were_left_alone():
    assert "Label noise: none; or with probability 0.4" in methods.paragraph(GridSummary(several(["wine", "digits"])))
    assert "Label noise" not in methods.paragraph(GridSummary(several(["wine", "digits"], noises=("none",))))


def test_what_could_be_shown_beforehand():
    specs = grid(["wine", "digits", "breast_cancer"], ["none", "symmetric:0.2"], **{**SMALL, "seeds": 10})
    these, alike = (prospect_of(specs, 800, 100, claim) for claim in ("these", "alike"))
    assert (these.n_data_sets, these.n_seeds, these.n_comparisons, these.can_reach_alpha) == (3, 10, 2, True)
    assert not alike.can_reach_alpha
    each = prospect_of(specs, 800, 100, "each")
    assert (each.n_comparisons, each.n_seeds) == (6, 10)  # one objective, three data sets, two settings
    alone = what_can_be_shown(10, 6, 800, 100)
    assert each.smallest_effect == alone.smallest_effect > what_can_be_shown(10, 1, 800, 100).smallest_effect
    assert prospect_of(specs, 800, 100, "each", by="signed_rank").smallest_effect != each.smallest_effect
    lone = grid(["wine", "digits"], **{**SMALL, "objectives": ["ce"]})
    assert prospect_of(lone, 800, 100, "each") is None


def test_a_claim_that_is_none():
    with pytest.raises(StudyError, match="--claim must be one of each, these, alike"):
        GridSummary(several(["wine"]), "all")


def test_a_reference_ahead_is_said_first():
    from lossmith.study.training.yardsticks import Reference

    studies = several(["wine", "digits"])
    values = {"accuracy": [0.99] * 6}
    studies[0].result.__dict__["references"] = (Reference("gradient boosting", values),)
    said = words_across.grid_headline(GridSummary(studies, "these"))
    assert said.startswith("A reference outside the comparison is ahead of every objective in 1 of 4 studies: wine (gradient boosting).")


def test_studies_run_together_are_read_from_several_stores(tmp_path):
    specs = grid(["wine", "breast_cancer"], objectives=["ce", "gce"], model="linear", seeds=2, epochs=1, learning_rates=[0.01])
    whole = run_all(specs, tmp_path / "whole.sqlite", jobs=1)
    for place, spec in enumerate(specs):
        run(spec, tmp_path / f"{place}.sqlite", jobs=1)
    found = load_all_united([tmp_path / "0.sqlite", tmp_path / "1.sqlite"])
    assert [one.data["name"] for one in found] == ["wine", "breast_cancer"]
    for mine, theirs in zip(found, whole, strict=True):
        np.testing.assert_array_equal(mine.values(), theirs.values())
    with pytest.raises(StudyError, match="lacks wine"):
        load_all_united([tmp_path / "1.sqlite"])


@pytest.mark.parametrize("how", [{}, {"tuner": "optuna"}, {"tune_once": True}], ids=str)
def test_tuned_studies_together_count_right_and_resume(tmp_path, how):
    specs = grid(["wine", "breast_cancer"], **{**SMALL, "learning_rates": None, "configurations": 3, **how})
    counts, again = [], []
    results = run_all(specs, tmp_path / "s.sqlite", jobs=1, on_progress=lambda done, total, record: counts.append((done, total)))
    trials = sum(len(one.trials) for one in results)
    assert [done for done, _ in counts] == list(range(trials + 1))
    assert counts[-1] == (trials, trials)
    if not how.get("tune_once"):
        assert {total for _, total in counts} == {trials}

    def stop(done, total, record):
        if done > trials // 2:  # in the second study
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all(specs, tmp_path / "t.sqlite", jobs=1, on_progress=stop)
    resumed = run_all(specs, tmp_path / "t.sqlite", jobs=1, on_progress=lambda done, total, record: again.append((done, total)))
    assert again[-1] == (trials, trials)
    assert len(again) < len(counts)
    for mine, theirs in zip(resumed, results, strict=True):
        np.testing.assert_array_equal(mine.values(), theirs.values())
    everything = []
    run_all(specs, tmp_path / "t.sqlite", jobs=1, on_progress=lambda done, total, record: everything.append((done, total)))
    assert everything[-1] == (trials, trials)
    assert [one.spec for one in load_all(tmp_path / "t.sqlite")] == list(specs)
    page = render(GridSummary(tuple(map(Summary, results))))
    assert "where it was searched" in page


def test_studies_declared_together_are_one_look(tmp_path):
    store = tmp_path / "s.sqlite"
    noises = ["none", "symmetric:0.2", "symmetric:0.4"]
    assert [one.looks for one in run_all(grid(["wine"], noises, **SMALL), store, jobs=1)] == [(0, 0)] * 3
    later = study.run(grid(["wine"], **{**SMALL, "epochs": 2})[0], store, jobs=1)
    assert later.looks == (1, 2 * 2 * 3)  # two objectives, two seeds, three kinds of noise
    assert [one.looks for one in load_all(store, 0)] == [(0, 0)] * 3
