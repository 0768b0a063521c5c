"""Probes: what they find in models made by hand, in real trials, and that nothing else in a study moves by them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from lossmith import study
from lossmith.study import Dataset, StudyError, StudySpec
from lossmith.study.data.splits import make_split
from lossmith.study.data.strange import hold_out_classes
from lossmith.study.probed import findings
from lossmith.study.report import beside
from lossmith.study.report.command import command
from lossmith.study.report.page import render
from lossmith.study.summary import Summary
from lossmith.study.training.criterion import Criterion
from lossmith.study.training.objectives import ObjectiveSpec
from lossmith.study.training.probes import probe, read_probes
from lossmith.study.training.trial import run_trials

from .made_up import result

DRAW = np.random.default_rng(0)
LABELS = np.arange(90) % 3
CORNERS = Dataset.from_arrays("corners", 4 * np.eye(3)[LABELS] + 0.3 * DRAW.normal(size=(90, 3)), LABELS)
ALL = "corruptions,fgsm:0.1,pgd:0.1,collapse,margins,cost"


def looked(names, model=None, dataset=CORNERS, objective="cross_entropy"):
    split = make_split(dataset, 0)
    model = model or nn.Sequential(nn.Linear(3, 3))
    criterion = Criterion(ObjectiveSpec.parse(objective), split.class_counts, len(split.y_train))
    found = probe(names, model, split, seed=0, metric="f1", temperature=1.0, criterion=criterion, batch_size=16)
    return found, split


def right_model():
    """Scores of three standardised corners that are all right, and the margins one can compute by hand."""
    model = nn.Sequential(nn.Linear(3, 3))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3))
        model[0].bias.zero_()
    return model


def test_accuracy_falls_with_corruption_and_attack():
    found, _ = looked(["gaussian_noise", "fgsm:0.01", "fgsm:3.0"], right_model())
    assert found["fgsm:0.01"]["accuracy"] == 1.0
    assert found["fgsm:3.0"]["accuracy"] < 0.5
    assert found["gaussian_noise@1"]["accuracy"] > found["gaussian_noise@5"]["accuracy"]
    assert set(found["gaussian_noise@1"]) == {"f1", "accuracy", "log_loss"}


def test_margins_and_collapse_of_a_model_one_knows():
    found, split = looked(["margins", "collapse"], right_model())
    z, y = split.x_train, split.y_train
    by_hand = [(z[i, y[i]] - max(z[i, k] for k in range(3) if k != y[i])).item() for i in range(len(y))]
    assert found["margins"]["mean"] == pytest.approx(np.mean(by_hand))
    assert found["margins"]["share below 0"] == 0
    assert found["collapse"]["within_class"] < 0.2
    assert found["collapse"]["nearest_mean"] == 0


def test_no_last_layer_no_collapse():
    class Squared(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x):
            return self.inner(x) ** 2

    assert looked(["collapse"], Squared())[0]["collapse"] == {}


def test_strange_rows_are_told_apart():
    dataset = hold_out_classes(CORNERS, ["2"])
    model = nn.Sequential(nn.Linear(3, 2))
    with torch.no_grad():  # far along the first two axes is far from the third corner
        model[0].weight.copy_(8 * torch.eye(2, 3))
        model[0].bias.zero_()
    found, _ = looked([], model, dataset)
    assert found["ood energy"]["auroc"] == 1.0
    assert found["ood energy"]["fpr95"] == 0.0


def test_cost_counts_what_backward_needs():
    """Cross-entropy keeps the log-probabilities of 16 rows and 3 classes, float32, and little else."""
    found, _ = looked(["cost"])
    assert 16 * 3 * 4 / 2**20 <= found["cost"]["MiB"] < 40 * 16 * 3 * 4 / 2**20
    assert 0 < found["cost"]["milliseconds"] < 1000
    for objective in ("AdaptiveLDR", "bootstrap_loss"):  # a state, and a target that has a gradient
        assert looked(["cost"], objective=objective)[0]["cost"]["milliseconds"] > 0


def test_reading_probes():
    assert read_probes("margins, gain,margins", CORNERS) == ("margins", "gain")
    assert read_probes("corruptions", CORNERS) == ("gaussian_noise", "missing", "gain", "offset")
    assert read_probes("", hold_out_classes(CORNERS, ["2"])) == ("ood",)
    for text, words in (
        ("margin", "did you mean 'margins'|margins"),
        ("fgsm", "needs a radius above 0"),
        ("pgd:-1", "needs a radius above 0"),
        ("contrast", "probes are corruptions, gaussian_noise"),
        ("ood", "needs strange rows"),
        ("margins:2", "probes are"),
    ):
        with pytest.raises(StudyError, match=words):
            read_probes(text, CORNERS)


def test_rows_with_categories_are_not_attacked():
    from lossmith.study.data.dataset import Column

    table = Dataset("t", np.c_[DRAW.normal(size=30), np.arange(30) % 2.0], np.arange(30) % 2, ("a", "b"),
                    (Column("x", "numeric"), Column("y", "categorical", ("u", "v"))))  # fmt: skip
    with pytest.raises(StudyError, match="categories or missing values"):
        read_probes("fgsm:0.1", table)


@pytest.fixture(scope="module")
def specs():
    shared = {"data": CORNERS, "objectives": ["ce", "gce:q=0.5"], "model": "linear", "seeds": 3, "epochs": 3, "learning_rates": [0.01, 0.1]}
    return StudySpec(**shared), StudySpec(**shared, probes=ALL, ood_classes=())


def test_probes_move_no_number_and_old_keys_stay(specs):
    plain, probed = specs
    fingerprint = CORNERS.fingerprint
    without, with_them = plain.trials(fingerprint), probed.trials(fingerprint)
    assert "probes" not in without[0].as_dict()
    assert {t.key for t in without}.isdisjoint(t.key for t in with_them)
    for a, b in zip(run_trials(without, CORNERS), run_trials(with_them, CORNERS), strict=True):
        assert all(b[part]["probes"] for part in ("last", "best"))
        assert _without(a) == _without(b)


def _without(record, *more):
    """A record without its probes, or without some of them, and without what is never twice the same."""
    parts = {part: dict(record[part]) for part in ("last", "best")}
    for part in parts.values():
        found = part.pop("probes", {})
        if more:
            part["probes"] = {name: numbers for name, numbers in found.items() if name not in more}
    return {**record, **parts, "seconds": None}


def test_stacked_and_plain_trials_find_the_same(specs):
    trials = specs[1].trials(CORNERS.fingerprint)[:4]
    together, apart = run_trials(trials, CORNERS), run_trials(trials, CORNERS, together=False)
    for a, b in zip(together, apart, strict=True):
        assert _without(a, "cost") == _without(b, "cost")


def test_findings_of_a_study(specs, tmp_path):
    result = study.run(specs[1], tmp_path / "trials.sqlite", jobs=1)
    again = study.load(tmp_path / "trials.sqlite")
    found = {(one.probe, one.measure): one for one in findings(again)}
    contrast = found["gaussian_noise", "accuracy"]
    by_hand = [
        np.mean([result.chosen("cross_entropy", draw)["last"]["probes"][f"gaussian_noise@{s}"]["accuracy"] for s in range(1, 6)])
        for draw in result.spec.draws
    ]
    np.testing.assert_allclose(contrast.values["cross_entropy"], by_hand)
    same = contrast.difference("cross_entropy", "cross_entropy", train_size=72, test_size=9, overlap=True)
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    other = found["margins", "mean"].difference(
        "generalized_cross_entropy:q=0.5", "cross_entropy", train_size=72, test_size=9, overlap=True
    )
    assert other.low < other.mean < other.high
    epochs = found["training", "epochs to 95 % of the best"].mean("cross_entropy")
    assert 0 <= epochs <= 3
    curve = result.curves("cross_entropy").validation[0]
    assert found["training", "epochs to 95 % of the best"].values["cross_entropy"][0] == np.flatnonzero(curve >= 0.95 * curve.max())[0]


def test_what_a_run_had_before_it_diverged_is_no_finding():
    made = result({"ce": [0.8, 0.7, 0.9], "up": [0.9, 0.8, 0.9]}, diverged={"up": [1]})
    (found,) = findings(made)
    np.testing.assert_array_equal(np.isnan(found.values["up"]), [False, True, False])
    assert np.isfinite(found.values["ce"]).all()


def test_the_report_shows_what_was_found(specs):
    summary = Summary(study.run(specs[1], jobs=1))
    shown = beside.section(summary)
    names = [row["name"] for row in shown["rows"]]
    assert "epochs to 95 % of the best" in names
    assert "accuracy under FGSM of radius 0.1" in names
    assert "gaussian noise, mean of 5 severities: accuracy" in names
    assert "collapse within class" in names
    assert len(shown["severities"]) == 5 * 4 * 2
    found = {(one.probe, one.measure): one for one in findings(summary.result)}
    row = shown["rows"][names.index("gaussian noise, mean of 5 severities: accuracy")]
    assert row["cells"][0]["text"] == f"{100 * found['gaussian_noise', 'accuracy'].mean('cross_entropy'):.1f} %"
    assert row["cells"][0]["difference"] == ""
    assert "[" in row["cells"][1]["difference"]
    page = render(summary)
    assert "Beside the metrics" in page
    assert "accuracy under FGSM of radius 0.1" in page
    told = beside.facts(summary)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert {one["probe"] for one in told} >= {"training", "margins", "fgsm:0.1", "gain@3"}


def test_strange_rows_that_cannot_be_had_are_one_line_that_names_the_option(tmp_path):
    file = tmp_path / "other.csv"
    file.write_text("a,b\n1,2\n")
    for ood, message in (
        (str(file), r"--ood .*other\.csv is a table, which stands beside a file with the same columns; wine is no file"),
        ("nowhere.csv", r"--ood nowhere\.csv: data 'nowhere\.csv' is no bundled set"),
        ("digits", r"--ood: rows of digits have shape \(1, 8, 8\), those of wine \(13,\)"),
    ):
        with pytest.raises(StudyError, match=message) as caught:
            StudySpec(data="wine", objectives=["ce"], ood=ood).load()
        assert "\n" not in str(caught.value)


def test_strange_rows_of_a_program_have_no_command():
    spec = StudySpec(data="wine", objectives=["ce"], ood=CORNERS)
    assert command(spec) is None
    assert "--ood strange.py:load" in (command(replace(spec, ood="strange.py:load")) or "")


def test_a_study_without_probes_still_says_how_soon(specs):
    result = study.run(specs[0], jobs=1)
    assert [one.probe for one in findings(result)] == ["training"]


def test_a_spec_outlives_its_json(specs):
    again = StudySpec.from_dict({**specs[1].as_dict(), "data": CORNERS})
    assert again.probes == specs[1].probes
    assert "probes" not in specs[0].as_dict()
