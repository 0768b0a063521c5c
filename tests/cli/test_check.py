"""The examination from the command line: its report, its exit status, and functions of the user's own."""

import json
import sys

import pytest

OWN = """
import torch
from torch.nn import functional as F
def right(input, target): return F.cross_entropy(input, target)
def wrong_sign(input, target): return -F.cross_entropy(input, target)
number = 3
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own_losses.py").write_text(OWN)
    yield "own_losses"
    sys.modules.pop("own_losses", None)


def test_a_registered_objective_passes(lossmith):
    ran = lossmith("check", "cross_entropy", "--only", "reductions_agree,convex")
    assert ran.status == 0
    assert ran.out.startswith("cross_entropy: all that ran passed")


def test_json(lossmith):
    report = json.loads(lossmith("check", "gce", "--only", "convex", "--seeds", 3, "--json").out)
    assert report["failed"] is False
    assert report["seeds"] == [0, 1, 2]
    assert [one["name"] for one in report["checks"]] == ["convex"]


def test_a_wrong_function_fails_with_status_1(lossmith, own):
    ran = lossmith("check", f"{own}:wrong_sign", "--only", "prefers_right_answers")
    assert ran.status == 1
    assert "FAILED prefers_right_answers" in ran.out
    assert "why it matters" in ran.out


def test_claims_are_held_against_the_function(lossmith, own):
    assert lossmith("check", f"{own}:right", "--claims", "convex,proper", "--only", "convex,proper").status == 0
    assert lossmith("check", f"{own}:right", "--claims", "no-convex", "--only", "convex").status == 1


def test_what_is_no_objective(refused, own):
    assert "did you mean 'gce'?" in refused("check", "gcee")
    assert "there is no module 'nowhere'" in refused("check", "nowhere:loss")
    assert "did you mean 'right'?" in refused("check", f"{own}:rigth")
    assert "got int 3" in refused("check", f"{own}:number")
    assert "module:function" in refused("check", f"{own}:1", status=2)
    assert "own_losses:FUNCTION" in refused("check", "own_losses.py", status=2)


def test_a_module_that_does_not_import(refused, tmp_path):
    (tmp_path / "broken_losses.py").write_text("1 / 0\n")
    assert "importing broken_losses failed: ZeroDivisionError" in refused("check", "broken_losses:loss")


def test_options_that_make_no_sense(refused, own):
    assert "--claims are convex" in refused("check", f"{own}:right", "--claims", "nice", status=2)
    assert "growth is one of" in refused("check", f"{own}:right", "--claims", "growth=slow", status=2)
    assert "has a card" in refused("check", "gce", "--claims", "convex", status=2)
    assert "--seeds" in refused("check", "gce", "--seeds", 0, status=2)
    assert "form must be one of" in refused("check", f"{own}:right", "--form", "pairs")
    assert "no check is called" in refused("check", "gce", "--only", "convx")
