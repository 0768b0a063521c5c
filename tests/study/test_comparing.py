"""A comparison in one call, and its answer in a notebook."""

import numpy as np
import pytest

from lossmith import study
from lossmith.study import Answer
from lossmith.study.summary import Summary

from .made_up import around, result, several

SMALL = {"model": "linear", "seeds": 2, "epochs": 1, "learning_rates": [0.1], "jobs": 1, "references": False}


def test_three_lines_are_enough(tmp_path):
    found = study.compare("wine", ["ce", "gce"], **SMALL)
    assert found.headline.startswith("On wine, at the last epoch, compared with cross_entropy in accuracy")
    path = found.report(tmp_path)
    assert path.read_text().count("<h1>wine</h1>") == 1
    assert (tmp_path / "train_winner.py").exists()
    assert len(found.table()) > len(found.trials()) > 0


def test_data_at_hand_and_several_data_sets(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 3)), rng.integers(0, 2, 60)
    assert study.compare((x, y), "ce,gce", **SMALL).headline.startswith("On arrays")
    found = study.compare(["wine", (x, y)], ["ce", study.ObjectiveSpec.parse("gce")], noise=["none", "symmetric:0.2"], **SMALL)
    assert [one.result.data["name"] for one in found.summary.summaries] == ["wine", "arrays"] * 2
    assert "on average over these 2 data sets" in found.headline
    assert "The studies one by one" in found.report(tmp_path).read_text()


def test_the_answer_shows_itself_as_text():
    shown = repr(Answer.of([Summary(result({"ce": around(0.8), "up": around(0.9, seed=1)}))]))
    first, _, heads, base, up = shown.splitlines()
    assert first == "On wine, at the last epoch, compared with ce in accuracy: up is better."
    assert heads.split() == ["objective", "accuracy", "difference", "95", "%", "interval", "adjusted", "p", "verdict"]
    assert base.split() == ["ce", "80.0", "%", "baseline"]
    assert up.split()[:4] == ["up", "90.0", "%", "+10.0"]
    assert up.endswith("< 0.001     better")


def test_the_answer_shows_itself_in_a_notebook():
    evil = "<script>alert(1)</script>"
    shown = Answer.of([Summary(result({"ce": around(0.8), evil: around(0.9, seed=1)}, edge=[evil]))])._repr_html_()
    assert "<script>" not in shown
    assert shown.count("<tr>") == 3
    assert "Before you believe this: The chosen learning rate is the largest tried" in shown


@pytest.mark.parametrize(("claim", "rows"), [("these", 4), ("alike", 4), ("each", 8)])
def test_of_several_studies_the_declared_claim_is_shown(claim, rows):
    found = Answer.of(several(["wine", "digits"]), claim)
    assert found._repr_html_().count("<tr>") == 1 + rows
    assert repr(found).count("with 40 % symmetric label noise") >= rows // 2
    assert len(found.findings) == rows
