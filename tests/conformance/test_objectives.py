"""Every check on every registered objective, and the capability matrix against what the checks find."""

from pathlib import Path

import pytest

from lossmith._subject import subject
from lossmith.card import all_cards, get
from lossmith.conformance import checks, parametrize_with_checks
from lossmith.conformance.registry import chosen
from lossmith.conformance.tables import COLUMNS, cell, read, render

PAGE = Path(__file__).parents[2] / "docs" / "capabilities.md"
CAPABILITIES = read(PAGE.read_text(encoding="utf-8"))
NAMES = list(all_cards())
SEEDED = [check for check in checks() if check.seeded]
INDUCTOR = [
    "cross_entropy",
    "brier_loss",
    "crammer_singer",
    "binary_cross_entropy",
    "asymmetric_loss",
    "dice_loss",
    "divergence_distillation",
    "AdaptiveLDR",
]
"""One objective a form: the code around the mathematics differs by form, and the compiler does not care for the mathematics."""


MARKS = {"compile": pytest.mark.compile, "clear_errors": pytest.mark.untyped, "hyper_out_of_range": pytest.mark.untyped}


@pytest.mark.both
@parametrize_with_checks(NAMES, marks=MARKS)
def test_objective(objective, check):
    outcome = check.outcome(objective)
    assert outcome.status != "failed", outcome.explain()
    if check.name in COLUMNS:
        assert CAPABILITIES.get(objective, {}).get(check.name) == cell(outcome), "python -m lossmith.conformance.tables docs"
    if outcome.status == "skipped":
        pytest.skip(outcome.said)


@pytest.mark.compile
@pytest.mark.parametrize("objective", INDUCTOR)
def test_compiled_to_machine_code(objective):
    (check,) = chosen(["compile_inductor"])
    outcome = check(subject(objective))
    assert outcome.status == "passed", outcome.explain()


@pytest.mark.numbers
@pytest.mark.parametrize("objective", NAMES)
def test_twenty_seeds(objective):
    """The searches of `test_objective` at further seeds: no correct objective fails by bad luck."""
    under = subject(objective)
    for check in SEEDED:
        # the dearest search, at the defaults alone; `test_objective` runs it at every setting
        outcome = check(under.at({}) if check.name == "calibrated" else under, range(1, 20))
        assert outcome.status != "failed", f"seed {outcome.seed}: {outcome.explain()}"


def test_capabilities_are_of_the_objectives_there_are():
    assert sorted(CAPABILITIES) == NAMES
    assert PAGE.read_text(encoding="utf-8") == render(CAPABILITIES)


def test_inductor_meets_every_form():
    assert {get(name).form for name in INDUCTOR} == {card.form for card in all_cards().values()}
    assert len(INDUCTOR) <= 20
