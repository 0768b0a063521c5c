"""What our studies measured: the file is consistent, the right studies speak, and ties are ordered by verdict and difference."""

import json
import math
import shlex
from dataclasses import fields

import pytest

from lossmith import card as cards
from lossmith.card import Card, Claims
from lossmith.cli import find as find_module
from lossmith.cli.evidence import Finding, Measured, Study, all_studies, measured, reorder, unspoken
from lossmith.cli.matching import Match, words
from lossmith.study import ObjectiveSpec
from lossmith.study.report import numbers
from lossmith.study.report import words as say
from lossmith.study.statistics.paired import Comparison
from lossmith.study.training.metrics import METRICS

FINDINGS = [
    pytest.param(study, one, id=f"{study.setting}, {study.metric}: {one.name}") for study in all_studies() for one in study.findings
]


def finding(name: str = "a", verdict: str = "no difference shown", difference: float | None = 0.01, **changes) -> Finding:
    """A finding made up; its interval lies around the difference."""
    low, high = (None, None) if difference is None else (difference - 0.02, difference + 0.02)
    plain = {
        "name": name, "objective": name, "mean": 0.9, "scaled": False, "at_edge": 0, "difference": difference, "low": low, "high": high,
        "p_adjusted": 0.5, "verdict": verdict, "text": "" if difference is None else "+1.0 points of accuracy [−1.0, +3.0]",
    }  # fmt: skip
    return Finding(**plain | changes)


def made_up(*findings: Finding, situation: tuple[str, ...] = ("noisy labels",), **changes) -> Study:
    plain = {
        "situation": situation, "setting": "digits with 40 % symmetric label noise", "data": "digits", "noise": "symmetric:0.4",
        "imbalance": None, "model": "mlp", "metric": "accuracy", "higher_is_better": True, "stop": "last", "baseline": "cross_entropy",
        "seeds": 10, "epochs": 60, "learning_rates": 6, "test": "corrected_t", "rows": {"train": 8, "validation": 1, "test": 1},
        "versions": ({"lossmith": "0.1.0"},), "warnings": (), "command": "lossmith compare --data digits", "findings": findings,
    }  # fmt: skip
    return Study(**plain | changes)


def match(name: str, score: float = 1.0) -> Match:
    def function() -> None: ...

    card = Card(
        name=name, function=function, row=function, form="log_prob", source="s", summary="s", use_when="u", formula="f", claims=Claims()
    )
    return Match(card, score, (("noisy", "noisy", "tag"),))


def names(matches: list[Match]) -> list[str]:
    return [one.card.name for one in matches]


def test_every_study_is_complete_and_its_command_asks_for_what_was_run(lossmith):
    assert all_studies()
    for study in all_studies():
        assert words(" ".join(study.situation)), "a situation needs a telling word, or no question ever meets it"
        assert study.findings[0].verdict == "baseline"
        assert study.findings[0].objective == study.baseline
        assert [one.verdict for one in study.findings].count("baseline") == 1
        assert METRICS[study.metric].higher_is_better == study.higher_is_better
        assert all("lossmith" in versions for versions in study.versions)
        program, *arguments = shlex.split(study.command)
        assert program == "lossmith"
        ran = lossmith(*arguments, "--dry-run")
        assert ran.status == 0, ran.err
        said = " ".join(ran.out.split())
        assert study.setting in said
        assert f"= {len(study.findings)} objectives x {study.seeds} seeds x {study.learning_rates} learning rates" in said
        assert f"{study.epochs} epochs each, model {study.model}" in said
        assert f"{study.rows['train']} training, {study.rows['validation']} validation, {study.rows['test']} test rows" in said
        asked = arguments[arguments.index("--objectives") + 1]
        assert [one.label for one in ObjectiveSpec.parse_list(asked)] == [one.objective for one in study.findings]


@pytest.mark.parametrize(("study", "found"), FINDINGS)
def test_every_number_is_consistent(study, found):
    assert cards.get(found.name).name == found.name == ObjectiveSpec.parse(found.objective).name
    metric = METRICS[study.metric]
    assert 0 <= found.at_edge <= study.seeds
    if found.verdict == "baseline":
        assert (found.difference, found.low, found.high, found.p_adjusted, found.text) == (None, None, None, None, "")
        return
    if found.verdict == "failed":
        return
    assert found.low <= found.difference <= found.high
    assert 0 <= found.p_adjusted <= 1
    assert found.mean - study.findings[0].mean == pytest.approx(found.difference, abs=1e-9)
    gains = found.difference > 0 if metric.higher_is_better else found.difference < 0
    assert (found.verdict in ("better", "worse")) == (found.p_adjusted <= 0.05)
    assert found.verdict not in ("better", "worse") or (found.verdict == "better") == gains
    assert found.text.startswith(numbers.difference(metric, found.difference))
    assert found.text.endswith(numbers.interval(metric, found.low, found.high))


def test_a_verdict_is_one_that_a_comparison_gives():
    allowed = {"baseline", *say.ORDER} - {"not tested"}
    assert {one.verdict for study in all_studies() for one in study.findings} <= allowed
    assert {"p_adjusted", "verdict", "low", "high"} <= {field.name for field in fields(Comparison)} & {
        field.name for field in fields(Finding)
    }


def test_ties_are_ordered_by_verdict_and_then_by_difference():
    study = made_up(
        finding("a_worse", "worse", -0.1), finding("b_lower", difference=-0.01), finding("d_higher", difference=0.03),
        finding("e_better", "better", 0.05), finding("f_best", "better", 0.1),
    )  # fmt: skip
    tied = [match(name) for name in ("a_worse", "b_lower", "c_no_study", "d_higher", "e_better", "f_best")]
    assert names(reorder(tied, measured("noisy", [study]))) == ["f_best", "e_better", "d_higher", "c_no_study", "b_lower", "a_worse"]


def test_where_lower_is_better_a_fall_is_a_gain():
    study = made_up(finding("a", difference=0.02), finding("b", difference=-0.02), metric="log_loss", higher_is_better=False)
    assert names(reorder([match("a"), match("b")], measured("noisy", [study]))) == ["b", "a"]


def test_what_was_measured_carries_nothing_past_a_clearly_better_fit():
    found = measured("noisy", [made_up(finding("far", "better", 0.2), finding("near", "better", 0.1))])
    assert names(reorder([match("first", 3.0), match("near", 2.9), match("far", 2.0)], found)) == ["near", "first", "far"]


def test_near_scores_do_not_chain_into_one_group():
    found = measured("noisy", [made_up(finding("c", "better", 0.2))])
    assert names(reorder([match("a", 1.0), match("b", 0.95), match("c", 0.87)], found)) == ["a", "b", "c"]


def test_without_evidence_the_order_stays():
    matches = [match("z"), match("a"), match("m", 0.2)]
    assert reorder(matches, {}) == matches


def test_studies_that_disagree_cancel_out():
    studies = [made_up(finding("a", "better", 0.1)), made_up(finding("a", "worse", -0.1), finding("b", "better", 0.01))]
    found = measured("noisy", studies)
    assert len(found["a"]) == 2
    assert names(reorder([match("a"), match("b")], found)) == ["b", "a"]


@pytest.mark.parametrize(
    ("question", "situation", "speaks"),
    [
        ("noisy labels", ("noisy labels",), True),
        ("many mislabelled rows", ("noisy labels",), True),
        ("few rare classes", ("imbalance",), True),
        ("noisy labels, few rare classes", ("imbalance",), True),
        ("rare classes", ("noisy labels",), False),
        ("labels", ("noisy labels",), False),
        ("clean labels, not noisy", ("noisy labels",), False),
        ("clean labels", ("clean labels", "calibrated probabilities"), True),
    ],
)
def test_only_studies_of_the_situation_speak(question, situation, speaks):
    study = made_up(finding(), situation=situation)
    assert study.speaks_of(question) == speaks
    assert bool(measured(question, [study])) == speaks


def test_a_card_that_says_nothing_but_was_measured_comes_last():
    said, silent = match("said", 0.1), match("silent").card
    found = measured("noisy", [made_up(finding("silent", "better", 0.3))])
    added = unspoken([said], [said.card, silent, match("neither").card], found)
    assert [(one.card.name, one.score, one.evidence) for one in added] == [("silent", 0.0, ())]
    assert names(reorder([said, *added], found)) == ["said", "silent"]


def test_the_sentence_says_what_was_run_and_how_sure_it_is():
    found = finding("generalized_cross_entropy", objective="generalized_cross_entropy:q=0.7")
    assert Measured(made_up(), found).sentence == (
        "digits with 40 % symmetric label noise, mlp, q=0.7, last epoch: +1.0 points of accuracy [−1.0, +3.0] against cross_entropy, "
        "no difference shown (10 seeds, 6 learning rates each)"
    )
    untuned = Measured(made_up(learning_rates=1), finding("a", scaled=True)).sentence
    assert untuned.endswith("no difference shown, after temperature scaling (10 seeds, one learning rate for all)")
    edge = Measured(made_up(), finding(at_edge=6)).sentence
    assert edge.endswith("(10 seeds, 6 learning rates each, on 6 seeds at the edge of those tried)")
    assert ": failed against cross_entropy (10 seeds" in Measured(made_up(), finding(verdict="failed", difference=None)).sentence


def test_find_shows_what_was_measured_after_where_to_start(lossmith, monkeypatch):
    shown = [finding("symmetric_cross_entropy", "better", 0.05), finding("active_passive_loss", "worse", -0.2)]
    monkeypatch.setattr(find_module, "all_studies", lambda: (made_up(*shown),))
    ran = lossmith("find", "noisy labels")
    assert ran.out.startswith("start here: cross_entropy")
    ranked = json.loads(lossmith("find", "noisy labels", "--json").out)["ranked"]
    tied = [one["name"] for one in ranked if one["score"] == ranked[0]["score"]]
    assert (tied[0], tied[-1]) == ("symmetric_cross_entropy", "active_passive_loss")
    said = " ".join(ran.out.split())
    assert said.count(" measured digits with 40 % symmetric label noise") == 1  # the one that was worse is ninth, and only named
    assert "against cross_entropy, better (10 seeds, 6 learning rates each)" in said
    assert "“no difference shown” is not “equal”" in ran.out
    missing = next(line for line in ran.out.splitlines() if line.startswith("not measured yet"))
    assert "taylor_cross_entropy" in missing
    assert "symmetric_cross_entropy" not in missing
    assert "measured  " not in lossmith("find", "boosting").out


def test_find_says_when_nothing_was_measured(lossmith, monkeypatch):
    monkeypatch.setattr(find_module, "all_studies", lambda: ())
    out = lossmith("find", "noisy labels").out
    assert "none of these is measured yet in such a situation" in out
    assert "no difference shown" not in out


def test_json_has_the_numbers_and_the_command(lossmith):
    ranked = {one["name"]: one for one in json.loads(lossmith("find", "noisy labels", "--json").out)["ranked"]}
    (entry,) = ranked["generalized_cross_entropy"]["measured"]
    (study,) = [one for one in all_studies() if one.noise is not None]
    found = next(one for one in study.findings if one.name == "generalized_cross_entropy")
    assert entry["difference"] == found.difference
    assert entry["verdict"] == found.verdict
    assert entry["command"] == study.command
    assert math.isclose(entry["mean"], found.mean)
    assert ranked["taylor_cross_entropy"]["measured"] == []
