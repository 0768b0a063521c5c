"""The registry, and what it refuses."""

import inspect
import math
import sys
import types

import pytest
import torch

import lossmith
from lossmith import card as cards
from lossmith._options import DEFAULTS
from lossmith.card import At, Card, Choice, Claims, Limit, Proved, Range, objective

FACTS = {"form": "log_prob", "source": "nobody", "summary": "a loss", "use_when": "never", "formula": "-x", "claims": Claims()}


def row(log_p, s=1.0):
    return -s * log_p


@pytest.fixture(autouse=True)
def _leave_no_trace(monkeypatch):
    cards.load()
    monkeypatch.setattr(cards, "_cards", dict(cards._cards))
    monkeypatch.setattr(cards, "_aliases", dict(cards._aliases))
    yield
    row.__dict__.pop("card", None)


def register(name="my_loss", hyper=True, **facts):
    def with_hyper(input, target, *, s=1.0, **options):
        "Mine."

    def without(input, target, **options):
        "Mine."

    function = with_hyper if hyper else without
    function.__name__ = name
    return objective(row=row, **{**FACTS, **({"ranges": {"s": Range(0)}} if hyper else {}), **facts})(function)


def test_the_decorator_returns_the_same_function_with_all_it_takes_spelt_out():
    function = register()
    assert inspect.isfunction(function)
    parameters = inspect.signature(function).parameters
    assert list(parameters) == ["input", "target", "s", *DEFAULTS["log_prob"]]
    assert {p: parameters[p].default for p in DEFAULTS["log_prob"]} == DEFAULTS["log_prob"]
    for word in ("Options:", "sample_weight:", "Formula: `-x`", "Source: nobody.", "s in [0, inf)"):
        assert word in function.__doc__


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"source": " "}, "must state source"),
        ({"form": "row"}, "form must be one of log_prob"),
        ({"ranges": {}}, "gives no range for s"),
        ({"ranges": {"s": Range(0), "t": Range(0)}}, "gives a range for t, which the function does not take"),
        ({"name": "cross_entropy"}, "the name 'cross_entropy' is taken"),
        ({"aliases": ("gce",)}, "the name 'gce' is taken by lossmith.classification.comp_sum.generalized_cross_entropy"),
    ],
)
@pytest.mark.untyped
def test_a_card_that_leaves_something_out_does_not_register(facts, message):
    before = dict(cards._cards)
    with pytest.raises(ValueError, match=message):
        register(**facts)
    assert cards._cards == before


def test_two_objectives_do_not_share_a_row_function():
    register()
    register()  # a module that is reloaded registers the same again
    with pytest.raises(ValueError, match="its row function is that of my_loss"):
        register("another_loss")


@pytest.mark.untyped
def test_claims_must_be_claims():
    with pytest.raises(TypeError, match="claims must be a Claims"):
        register(claims={"convex": True})


def test_claims_are_three_valued_and_remember_their_proof():
    claims = Claims(convex=Proved(True, "a theorem"), proper=False)
    assert (claims.value("convex"), claims.value("proper"), claims.value("symmetric")) == (True, False, None)
    assert "convex" not in claims.debts()
    assert {"symmetric", "growth", "bounds"} <= set(claims.debts())


@pytest.mark.parametrize(
    ("interval", "text", "inside", "outside"),
    [
        (Range(0, 1), "[0, 1]", [0, 0.5, 1], [-1e-9, 1.1, math.nan]),
        (Range(0, 1, open_low=True, open_high=True), "(0, 1)", [0.5], [0, 1]),
        (Range(0), "[0, inf)", [0, 1e300], [-1, math.inf, math.nan]),
        (Range(-math.inf), "(-inf, inf)", [-1e300, 0, 1e300], [-math.inf, math.inf, math.nan]),
        (Range(1, whole=True), "the whole numbers of [1, inf)", [1, 3, 3.0], [0, 2.5]),
        (Choice("a", "b"), "'a' | 'b'", ["a"], ["c"]),
    ],
)
def test_ranges(interval, text, inside, outside):
    assert str(interval) == text
    assert all(value in interval for value in inside)
    assert not any(value in interval for value in outside)


def test_limits_print_as_mathematics():
    assert str(Limit(q=0.0, equals="cross_entropy")) == "q -> 0: cross_entropy"
    assert str(At(q=1.0, s=2.0, equals="mae")) == "q = 1, s = 2: mae"


def test_every_objective_is_found_by_name_by_alias_and_in_its_room():
    for name, card in cards.all_cards().items():
        assert cards.get(name) is card
        assert all(cards.get(alias) is card for alias in card.aliases)
        if card.function.__module__.startswith("lossmith."):
            assert getattr(lossmith, name) is card.function
            assert getattr(getattr(lossmith, card.room), name) is card.function
            assert name in dir(lossmith)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(cards.UnknownObjective, match="no objective is called 'gec'; did you mean 'gce'"):
        cards.get("gec")
    with pytest.raises(AttributeError, match="did you mean 'cross_entropy'"):
        _ = lossmith.cross_entropi


def test_other_packages_register_theirs_by_entry_point(monkeypatch):
    module = types.ModuleType("their_losses")
    monkeypatch.setitem(sys.modules, "their_losses", module)

    class Entry:
        def __init__(self, name, value, action):
            self.name, self.value, self.load = name, value, action

    def broken():
        raise ImportError("no such thing")

    entries = [Entry("good", "their_losses", lambda: register("their_loss")), Entry("bad", "bad_losses", broken)]
    monkeypatch.setattr(cards.importlib.metadata, "entry_points", lambda group: entries if group == "lossmith.objectives" else [])
    monkeypatch.setattr(cards, "_loaded", set())
    with pytest.warns(UserWarning, match=r"objectives of 'bad' \(bad_losses\) were not registered: no such thing"):
        assert cards.get("their_loss").name == "their_loss"
    assert "their_loss" in cards.all_cards()  # and the broken one does not warn again


def test_a_card_checks_plain_numbers_and_leaves_tensors_alone():
    card = cards.get("gce")
    assert isinstance(card, Card)
    card.check({"q": 0.5})
    card.check({"q": torch.tensor(7.0)})
    with pytest.raises(ValueError, match=r"q must be in \(0, 1\]; got 0"):
        card.check({"q": 0})
