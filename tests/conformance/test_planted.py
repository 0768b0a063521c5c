"""Each planted bug is caught by the check meant for it; what it was made from passes every check."""

import pytest

from lossmith.card import all_cards
from lossmith.conformance import check, checks
from tests.conformance.bug_table import PAGE, render
from tests.conformance.planted import BUGS, SIBLINGS

NEEDS_COMPILER = {"compile"}


@pytest.mark.filterwarnings("ignore")  # what a bug makes torch warn of
@pytest.mark.parametrize(
    "bug", [pytest.param(bug, id=bug.name, marks=[pytest.mark.compile] if bug.check in NEEDS_COMPILER else []) for bug in BUGS]
)
def test_bug_is_caught(bug):
    outcome = check(bug.make(), form=bug.form, only=[bug.check])[bug.check]
    assert outcome.status == "failed", outcome.said


@pytest.mark.compile
@pytest.mark.parametrize("name", SIBLINGS)
def test_sibling_passes(name):
    make, form = SIBLINGS[name]
    report = check(make(), form=form)
    assert not report.failed, report.text()


def test_every_check_is_known_to_be_able_to_fail():
    on_request = {one.name for one in checks() if one.on_request}
    assert {bug.check for bug in BUGS} == {one.name for one in checks()} - on_request


def test_planted_bugs_are_many_named_once_and_not_registered():
    names = [bug.name for bug in BUGS]
    assert len(names) >= 20
    assert len(names) == len(set(names))
    for bug in BUGS:
        bug.make()
    assert not set(names) & set(all_cards())


def test_bug_table_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == render(BUGS), "python -m tests.conformance.bug_table"
