"""The script that trains the winner again: run, as a user runs it, it repeats the study's own numbers."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import lossmith
from lossmith.study import StudySpec, run
from lossmith.study.report.winner import script, winner, write_winner
from lossmith.study.summary import Summary
from lossmith.study.training.models import build_model

from .made_up import around, result


def test_the_winner_is_the_best_of_the_better_or_else_the_baseline():
    values = {"ce": around(0.8), "up": around(0.85, seed=1), "top": around(0.9, seed=2), "near": around(0.8, 0.05, seed=3)}
    assert winner(Summary(result(values))) == "top"
    assert winner(Summary(result({name: values[name] for name in ("ce", "near")}))) == "ce"
    assert winner(Summary(result({"ce": around(0.8), "up": around(0.9, seed=1)}, metric="log_loss"))) == "up"


@pytest.mark.subprocess
def test_the_script_repeats_the_study_and_saves_the_weights(tmp_path, monkeypatch, capsys):
    """Of a table with words and gaps in it, under noise and folds: the recipe of the split has all its parts."""
    rows = "\n".join(f"{k % 7 if k % 5 else ''},{'red' if k % 3 else 'blue'},{'yes' if k % 2 else 'no'}" for k in range(90))
    (tmp_path / "t.csv").write_text(f"a,b,label\n{rows}\n")
    spec = StudySpec(
        data=str(tmp_path / "t.csv"), target="label", objectives=["gce:q=0.5", "ce"], model="linear", seeds=2, folds=3, epochs=3,
        noise="symmetric:0.2", learning_rates=[0.03, 0.1], duplicates="apart", references=False,
    )  # fmt: skip
    summary = Summary(run(spec, jobs=1))
    path = write_winner(summary, tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(Path(lossmith.__file__).parents[1])}

    label = winner(summary)
    chosen = [one for one in summary.result.over(label) if f"LEARNING_RATE = {one.learning_rate!r} " in path.read_text()]
    outcome = chosen[0]
    command = [sys.executable, path, "--seed", str(outcome.seed), "--fold", str(outcome.fold)]
    said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True, timeout=300).stdout
    assert f"accuracy on 30 test rows: {outcome.metrics['accuracy']:.6f}" in said
    state = torch.load(tmp_path / "winner.pt", weights_only=True)
    features = next(iter(state.values())).shape[1]
    build_model("linear", (features,), 2, 0).load_state_dict(state)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(path), "--all-rows", "--out", "whole.pt"])
    with torch.random.fork_rng(devices=[]):
        runpy.run_path(str(path), run_name="__main__")
    assert "test rows" not in capsys.readouterr().out
    assert not torch.equal(next(iter(torch.load(tmp_path / "whole.pt", weights_only=True).values())), next(iter(state.values())))


@pytest.mark.subprocess
@pytest.mark.parametrize("how", [{}, {"tune_once": True}], ids=["searched", "once"])
def test_the_script_has_all_that_was_tuned(tmp_path, monkeypatch, capsys, how):
    """Of a search that moved weight decay and hyper-parameters away from the defaults; without either the number would be another."""
    spec = StudySpec(
        data="wine", objectives=["symmetric_cross_entropy:alpha=0.5"], model="linear", seeds=3, epochs=3, configurations=6,
        learning_rate_range=(0.02, 0.3), references=False, metric="log_loss", **how,
    )  # fmt: skip
    summary = Summary(run(spec, jobs=1))
    outcomes = summary.result.over(winner(summary))
    text = script(summary)
    found = {}
    exec(text.split('if __name__ == "__main__"')[0], found)
    (outcome, *_) = [one for one in outcomes if one.learning_rate == found["LEARNING_RATE"]]
    assert found["WEIGHT_DECAY"] == outcome.weight_decay != 0.01
    assert outcome.hyper
    assert found["OBJECTIVE"] == outcome.configuration.applied(spec.objectives[0]).label
    assert "alpha=0.5" in found["OBJECTIVE"]
    path = write_winner(summary, tmp_path)
    said = _run(path, monkeypatch, capsys, "--seed", str(outcome.seed), "--out", str(tmp_path / "w.pt"))
    rows = summary.result.rows["test"]
    assert f"accuracy on {rows} test rows: {outcome.metrics['accuracy']:.6f}" in said
    record = summary.result.chosen(outcome.objective, outcome.seed)
    losses = [float(line.split()[-1]) for line in said.splitlines() if line.startswith("epoch")]
    assert losses[-1] == pytest.approx(record["epochs"][-1]["train_loss"], abs=1e-4)


def _run(path, monkeypatch, capsys, *options):
    monkeypatch.setattr("sys.argv", [str(path), *options])
    with torch.random.fork_rng(devices=[]):
        runpy.run_path(str(path), run_name="__main__")
    return capsys.readouterr().out


def test_hostile_names_stay_words_in_the_script():
    evil = '"""\nraise SystemExit("owned")\n"""\\'
    made = Summary(result({"ce": around(0.8), evil: around(0.9, seed=1)}, data={"name": evil}))
    text = script(made)
    code = compile(text, "train_winner.py", "exec")
    assert evil in code.co_consts
    assert "SystemExit" not in code.co_names


def test_data_at_hand_have_no_script():
    import numpy as np

    made = result({"ce": around(0.8)})
    made.spec.__dict__["data"] = "arrays"
    assert script(Summary(made)) is None
    assert np.isfinite(made.values()).all()
