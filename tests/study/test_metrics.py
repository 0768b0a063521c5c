"""The study's metrics against scikit-learn, definitions, and the corner cases where usage varies."""

import math
import re

import numpy as np
import pytest
import sklearn.metrics
import torch
from jaxtyping import TypeCheckError

from lossmith.study.training.metrics import METRICS, SCALED, _area_under_precision, all_finite, evaluate

NAMES = [
    "accuracy", "balanced_accuracy", "worst_class_accuracy", "f1", "auroc", "average_precision", "log_loss", "brier",
    "ece", "aurc",
]  # fmt: skip


def problem(n: int = 120, c: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, c, (n,), generator=generator)
    logits = torch.randn(n, c, generator=generator) + 1.5 * (target[:, None] == torch.arange(c))
    return logits, target


@pytest.mark.parametrize("classes", [2, 4])
def test_against_scikit_learn(classes):
    logits, target = problem(c=classes)
    values = evaluate(logits, target)
    p, y, top = torch.softmax(logits.double(), 1).numpy(), target.numpy(), logits.argmax(1).numpy()
    unit = np.eye(classes)[y]
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(y, top),
        "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(y, top),
        "worst_class_accuracy": sklearn.metrics.recall_score(y, top, average=None).min(),
        "f1": sklearn.metrics.f1_score(y, top, average="macro"),
        "auroc": np.mean([sklearn.metrics.roc_auc_score(unit[:, k], p[:, k]) for k in range(classes)]),
        "average_precision": sklearn.metrics.average_precision_score(unit, p, average="macro"),
        "log_loss": sklearn.metrics.log_loss(y, p),
        "brier": ((p - unit) ** 2).sum(1).mean(),
    }
    for name, value in expected.items():
        assert values[name] == pytest.approx(value, abs=1e-12), name


def test_ece_and_aurc_are_those_of_the_top_class():
    logits, target = problem(seed=1)
    p = torch.softmax(logits.double(), 1).numpy()
    confidence, wrong = p.max(1), (p.argmax(1) != target.numpy()).astype(float)
    place = np.minimum(np.floor(confidence * 15).astype(int), 14)
    gaps = [abs((confidence - 1 + wrong)[place == b].sum()) for b in range(15)]
    order = np.argsort(-confidence)
    risks = wrong[order].cumsum() / np.arange(1, len(wrong) + 1)
    values = evaluate(logits, target, names=["ece", "aurc"])
    assert values["ece"] == pytest.approx(sum(gaps) / len(wrong), abs=1e-12)
    assert values["aurc"] == pytest.approx(risks.mean(), abs=1e-12)


def test_there_are_ten_metrics_and_each_knows_itself():
    assert list(METRICS) == NAMES
    assert all(metric.name == name for name, metric in METRICS.items())
    assert [name for name in NAMES if not METRICS[name].higher_is_better] == ["log_loss", "brier", "ece", "aurc"]


@pytest.mark.parametrize("name", NAMES)
def test_the_direction_is_right(name):
    good, bad = torch.tensor([[4.0, 0], [3, 0], [0, 5], [0, 3.5]]), torch.tensor([[0, 4.0], [3, 0], [5, 0], [0, 3.5]])
    target = torch.tensor([0, 0, 1, 1])
    better, worse = (evaluate(logits, target, names=[name])[name] for logits in (good, bad))
    assert (better > worse) == METRICS[name].higher_is_better
    assert better != worse


def test_only_metrics_that_need_probabilities_change_with_temperature():
    logits, target = problem(seed=2)
    raw, scaled = evaluate(logits, target), evaluate(logits, target, temperature=3.0)
    changed = {name for name in NAMES if raw[name] != scaled[name]}
    assert changed == {name for name in NAMES if METRICS[name].needs == "probabilities"}
    assert scaled == {**raw, **evaluate(logits.double() / 3, target, names=changed)}


def test_the_label_says_when_scaling_came_first():
    assert METRICS["ece"].label("probabilities") == "ECE"
    assert METRICS["ece"].label("scores") == f"ECE ({SCALED})"
    assert METRICS["auroc"].label("scores") == "AUROC"
    assert METRICS["aurc"].is_scaled("scores")
    assert not METRICS["accuracy"].is_scaled("scores")


def test_names_choose_and_order():
    logits, target = problem()
    everything = evaluate(logits, target)
    assert list(everything) == NAMES
    some = evaluate(logits, target, names=("log_loss", "accuracy"))
    assert list(some) == ["log_loss", "accuracy"]
    assert some == {name: everything[name] for name in some}


def test_a_class_without_test_rows_is_left_out():
    logits, target = problem(c=3, seed=3)
    logits = torch.cat([logits, torch.full((len(logits), 1), -20.0)], 1)
    with_absent, without = evaluate(logits, target), evaluate(logits[:, :3], target)
    for name in NAMES:
        assert with_absent[name] == pytest.approx(without[name], abs=1e-6), name


def test_an_absent_class_that_is_predicted_costs_f1_and_no_recall():
    logits = torch.tensor([[2.0, 0, 0], [0, 2, 0], [0, 0, 2], [0, 2, 0]])
    values = evaluate(logits, torch.tensor([0, 1, 1, 1]), names=["f1", "balanced_accuracy", "worst_class_accuracy"])
    assert values["f1"] == pytest.approx((1 + 0.8 + 0) / 3)
    assert values["balanced_accuracy"] == pytest.approx((1 + 2 / 3) / 2)
    assert values["worst_class_accuracy"] == pytest.approx(2 / 3)


def test_with_one_class_in_the_test_rows_auroc_is_undefined():
    values = evaluate(torch.randn(5, 2, generator=torch.Generator().manual_seed(0)), torch.ones(5).long())
    assert math.isnan(values.pop("auroc"))
    assert all(math.isfinite(value) for value in values.values())


def test_saturated_logits_are_still_ranked():
    # In float64 every softmax here is exactly 0 or 1, so that probabilities alone cannot tell the rows apart.
    margin = torch.tensor([400.0, 300.0, 200.0, 100.0])
    logits = torch.stack([margin, torch.zeros(4), -margin], 1)
    values = evaluate(logits, torch.tensor([0, 0, 1, 2]), names=["auroc", "average_precision", "aurc"])
    # Class 0 is ranked perfectly, class 1 too (its log-odds are -margin); class 2's only row comes first as well.
    assert values["auroc"] == pytest.approx((1 + 2 / 3 + 1) / 3)
    assert values["aurc"] == pytest.approx((0 + 0 + 1 / 3 + 2 / 4) / 4)
    assert 0 < values["average_precision"] < 1


def test_tied_scores_count_half():
    values = evaluate(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]), names=["auroc", "aurc", "accuracy"])
    assert values == {"auroc": 0.5, "aurc": 0.5, "accuracy": 0.5}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_diverged_model_has_no_metrics(bad):
    logits, target = problem()
    logits[5, 1] = bad
    values = evaluate(logits, target)
    assert list(values) == NAMES
    assert all(math.isnan(value) for value in values.values())


def test_large_logits_give_a_finite_exact_log_loss():
    values = evaluate(torch.tensor([[0.0, 5000.0]]), torch.tensor([0]), names=["log_loss", "brier"])
    assert values == {"log_loss": 5000.0, "brier": 2.0}


def test_half_precision_logits_with_gradients_are_accepted():
    logits, target = problem()
    half = logits.bfloat16().requires_grad_()
    assert evaluate(half, target) == evaluate(half.detach().double(), target)


@pytest.mark.parametrize(
    ("logits", "target", "options", "message"),
    [
        (torch.zeros(2, 2), torch.zeros(2).long(), {"names": ["acuracy"]}, "names: no metric 'acuracy'; there are acc"),
        (torch.zeros(2, 1), torch.zeros(2).long(), {}, r"logits: shape \(2, 1\)"),
        (torch.zeros(0, 2), torch.zeros(0).long(), {}, r"logits: shape \(0, 2\)"),
        (torch.zeros(2, 2), torch.zeros(3).long(), {}, r"target: shape \(3,\)"),
        (torch.zeros(2, 2), torch.tensor([0, 2]), {}, "target: a class index outside 0 to 1"),
        (torch.zeros(2, 2), torch.zeros(2).long(), {"temperature": 0.0}, "temperature: 0"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_that_names_the_argument(logits, target, options, message):
    # A runtime type checker, where one is installed, refuses a wrong shape or type before we can.
    with pytest.raises((ValueError, TypeCheckError)) as raised:
        evaluate(logits, target, **options)
    if isinstance(raised.value, ValueError):
        assert re.search(message, str(raised.value))
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("decimals", [0, 1, 12])
def test_average_precision_is_scikit_learn_s_to_the_bit(decimals):
    draw = np.random.default_rng(decimals)
    for n in (1, 2, 17, 180):
        for _ in range(10):
            positive = draw.random(n) < 0.3
            positive[draw.integers(n)] = True
            score = np.round(draw.normal(size=n) + positive, decimals)  # few decimals: many ties
            assert _area_under_precision(positive, score) == sklearn.metrics.average_precision_score(positive, score)


@pytest.mark.parametrize(
    ("entries", "finite"),
    [([1.0, -2.0], True), ([3e38, 3e38], True), ([3e38, 3e38, math.nan], False), ([math.inf, -math.inf], False), ([1.0, math.inf], False)],
)
def test_finite_entries_whose_sum_is_not(entries: list[float], finite: bool) -> None:
    assert all_finite(torch.tensor(entries)) is finite
