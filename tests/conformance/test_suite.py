"""The examination as users meet it: reports of their own losses, smallest examples, evidence, and their own pytest run."""

import json
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

import lossmith
from lossmith._subject import subject
from lossmith.card import Claims, UnknownObjective, aside, objective
from lossmith.conformance import check, checks, parametrize_with_checks
from lossmith.conformance.registry import Failed, require
from lossmith.conformance.risk import calibration_gap, properness_gap
from tests.conformance.handmade import log_loss

FAST = ["reductions_agree", "convex", "shift_invariant", "symmetric", "proper"]


def hinge(input, target):
    """Crammer and Singer's, as users write it: a mean and no options."""
    own = input.gather(1, target.unsqueeze(1))
    return (1 + input - own).scatter(1, target.unsqueeze(1), 0.0).amax(1).clamp_min(0).mean()


def test_a_users_function_is_told_what_holds_and_what_does_not():
    report = check(hinge, form="logits", only=[*FAST, "class_symmetric", "calibrated", "growth", "micro_batches"])
    assert report["convex"].status == "unclaimed"
    assert "you may claim it" in report["convex"].said
    assert report["calibrated"].said.startswith("does not hold")
    assert report["growth"].said == "measured: linear"
    assert report["micro_batches"].said == "the function takes no `denominator`"
    assert not report.failed


def test_a_users_keyword_that_does_nothing_is_found():
    def smoothed(input, target, smoothing=0.1, unused=0.1):
        return F.cross_entropy(input, target, label_smoothing=smoothing)

    assert check(smoothed, form="logits", only=["options_matter"])["options_matter"].said.startswith("unused changes neither")


def test_claims_of_a_users_function_are_held_against_it():
    report = check(hinge, form="logits", claims=Claims(convex=True, calibrated=True), only=["convex", "calibrated"])
    assert report["convex"].status == "passed"
    assert report["calibrated"].status == "failed"
    assert set(report["calibrated"].example) == {"truth", "wrong", "right"}


@pytest.mark.parametrize(
    ("function", "form"),
    [
        (hinge, "logits"),
        (F.binary_cross_entropy_with_logits, "binary"),
        (lambda input, target: F.binary_cross_entropy_with_logits(input, target) + 0 * input.shape[1], "multilabel"),
        (lambda input, target: 1 - torch.softmax(input, 1)[:, 1:].flatten(2).mean() + 0 * target[:, 0, 0].sum(), "set"),
    ],
)
def test_the_form_is_guessed(function, form):
    assert subject(function).form == form


def test_a_function_of_no_form_is_told_what_was_tried():
    def three_arguments(input, target, extra):
        return input.sum()

    with pytest.raises(TypeError, match=r"three_arguments takes none of the forms.*logits: TypeError"):
        check(three_arguments)


def test_a_module_is_examined_with_its_options():
    report = check(lossmith.objective("gce", q=1.0), only=["proper", "symmetric"])
    assert report.subject.fixed == {"q": 1.0}
    assert report["symmetric"].said.startswith("holds on all we tried")  # it is the mean absolute error there


def test_a_torch_module_is_a_plain_function():
    assert check(torch.nn.CrossEntropyLoss(), only=FAST)["proper"].said.startswith("holds")


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: check("cros_entropy"), UnknownObjective, "did you mean 'cross_entropy'"),
        (lambda: check(hinge, only=["convexe"]), ValueError, "did you mean 'convex'"),
        (lambda: check(hinge, form="logit"), ValueError, "did you mean 'logits'"),
        (lambda: check(hinge, claims=["convex"]), TypeError, "claims must be"),
        (lambda: check(7), TypeError, "int 7"),
        (lambda: check(hinge, seeds=()), ValueError, "at least one seed"),
        (lambda: parametrize_with_checks([hinge], expected_failures={"convexe": "?"}), ValueError, "did you mean 'convex'"),
    ],
)
def test_mistakes_are_one_clear_line(call, error, said):
    with pytest.raises(error, match=said) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_the_smallest_failing_input_is_small():
    def law(input, target):
        return "a large entry" if (input > 3.21).any() else None

    with pytest.raises(Failed) as caught:
        require(law, input=torch.tensor([[0.1234], [4.5678], [9.9]]), target=torch.tensor([0, 1, 2]))
    assert caught.value.example["input"].tolist() == [[5.0]]
    assert caught.value.example["target"].tolist() == [1]


def test_a_report_says_all_that_a_reader_needs():
    report = check(lambda input, target: -F.cross_entropy(input, target), form="logits", only=["prefers_right_answers", "convex", "limits"])
    text = report.text()
    for part in (
        "1 FAILED",
        "smallest failing input found",
        "why it matters",
        "usual cause",
        "not claimed",
        "Skipped",
        "the function has no card",
    ):
        assert part in text
    assert max(map(len, text.splitlines())) <= 110


def test_a_report_is_plain_data():
    report = check("gce", only=["convex", "hyper_out_of_range", "calibrated"], seeds=(0, 3))
    found = json.loads(json.dumps(report.to_dict()))
    assert found["objective"] == "generalized_cross_entropy"
    assert found["settings"] == [{}, {"q": 0.3}, {"q": 1.0}]
    assert [one["status"] for one in found["checks"]] == ["passed"] * 3
    assert found["seeds"] == [0, 3]
    assert not found["failed"]


def test_a_proof_is_quoted_and_a_search_is_not_called_one():
    said = check("cross_entropy", only=["convex", "growth"])
    assert said["convex"].said.startswith("proved (log-sum-exp is convex")
    assert said["growth"].said.startswith("tested")
    assert all("prov" not in outcome.said for outcome in check("brier_loss", only=["growth", "bounds"]).outcomes)


def test_a_function_without_vmap_is_examined_row_by_row():
    def reads(input, target):
        losses = F.cross_entropy(input, target, reduction="none")
        return losses.mean() if losses.max().item() < 1e9 else losses.sum()

    under = subject(reads, form="logits")
    assert not under.vectorised
    z, y = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    torch.testing.assert_close(under.each(z, y), F.cross_entropy(z, y, reduction="none"))


def test_a_quadratic_score_is_proper_and_calibrated_and_a_power_is_neither():
    def brier(input, target):
        return (input.softmax(1) - F.one_hot(target, input.shape[1])).square().sum(1)

    def cubed(input, target):
        return (input.softmax(1) - F.one_hot(target, input.shape[1])).abs().pow(3).sum(1)

    assert properness_gap(subject(brier, form="logits"), 0)[1] is None
    assert calibration_gap(subject(brier, form="logits"), 0)[1] is None
    assert properness_gap(subject(cubed, form="logits"), 0)[1] is not None


def test_expected_failures_must_fail():
    decorated = parametrize_with_checks(
        ["cross_entropy", hinge], form="logits", only=["convex", "sets_agree", "half_precision"],
        expected_failures={"hinge:half_precision": "computed in half"},
    )  # fmt: skip
    parameters = decorated.mark.args[1]
    assert [parameter.id for parameter in parameters] == ["cross_entropy-convex", "cross_entropy-half_precision"] + [
        f"hinge-{name}" for name in ("convex", "sets_agree", "half_precision")
    ]
    (mark,) = parameters[-1].marks
    assert (mark.name, mark.kwargs) == ("xfail", {"reason": "computed in half", "strict": True})


@parametrize_with_checks(
    [hinge], form="logits", only=["convex", "half_precision", "limits"], expected_failures={"half_precision": "in half"}
)
def test_a_users_own_run(objective, check):
    check(objective)


def test_cards_made_aside_are_not_registered():
    with aside():
        objective(row=log_loss, form="log_prob", source="-", summary="-", use_when="-", formula="-", claims=Claims())(hinge)
        assert "hinge" in lossmith.card.all_cards()
    assert "hinge" not in lossmith.card.all_cards()
    assert "cross_entropy" in lossmith.card.all_cards()


def test_every_check_explains_itself():
    for one in checks():
        assert one.tests, one.name
        assert one.why, one.name
        assert one.cause, one.name


@pytest.mark.subprocess
def test_the_suite_needs_no_test_framework():
    code = "import lossmith.conformance as c, sys; c.check('gce', only=['proper']); print({'pytest', 'hypothesis'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"
