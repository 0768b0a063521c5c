"""Finding an objective: lists, filters, ranking by what cards declare, and the evidence."""

import json

import pytest

from lossmith.card import Card, Claims, all_cards
from lossmith.cli.matching import rank, stem, words


def card(name: str, **facts) -> Card:
    """A card that is not registered."""
    plain = {"form": "log_prob", "source": "s", "summary": "a summary", "use_when": "always", "formula": "f", "claims": Claims()}

    def function() -> None: ...

    return Card(name=name, function=function, row=function, **{**plain, **facts})


def test_without_words_every_objective_is_listed(lossmith):
    ran = lossmith("find")
    assert ran.status == 0
    for name, known in all_cards().items():
        assert name in ran.out
        assert known.aliases == () or known.aliases[0] in ran.out
    assert "classification (" in ran.out


def test_words_begin_with_cross_entropy_and_show_what_matched(lossmith):
    ran = lossmith("find", "noisy labels, few rare classes")
    assert ran.out.startswith("start here: cross_entropy")
    assert "generalized_cross_entropy" in ran.out
    assert "noisy (tag)" in ran.out


def test_json_is_the_ranking_with_its_evidence(lossmith):
    found = json.loads(lossmith("find", "noisy labels", "--json").out)
    assert found["start_here"] == "cross_entropy"
    first = found["ranked"][0]
    assert "noisy labels" in first["tags"]
    assert {"asked": "noisy", "met": "noisy", "in": "tag"} in first["evidence"]
    scores = [entry["score"] for entry in found["ranked"]]
    assert scores == sorted(scores, reverse=True)


def test_json_without_words_is_the_list(lossmith):
    assert [entry["name"] for entry in json.loads(lossmith("find", "--json").out)] == list(all_cards())


def test_properties_filter_by_what_is_claimed_true(lossmith):
    found = {entry["name"] for entry in json.loads(lossmith("find", "--property", "convex", "--property", "proper", "--json").out)}
    claimed = {name for name, one in all_cards().items() if one.claims.value("convex") is True and one.claims.value("proper") is True}
    assert found == claimed
    assert "cross_entropy" in found
    assert "generalized_cross_entropy" not in found


def test_tasks_filter_by_room(lossmith):
    found = json.loads(lossmith("find", "--task", "classification", "--json").out)
    assert {entry["room"] for entry in found} == {"classification"}


def test_unknown_task_and_property(refused):
    assert "did you mean 'classification'?" in refused("find", "--task", "clasification", status=2)
    assert "did you mean 'convex'?" in refused("find", "--property", "convx", status=2)


def test_words_that_tell_nothing(refused):
    assert "no telling word" in refused("find", "the loss for my data", status=2)


def test_words_that_no_card_speaks_of(lossmith):
    ran = lossmith("find", "xylophone")
    assert ran.status == 0
    assert "no other card speaks of" in ran.out


@pytest.mark.parametrize(
    ("one", "other"), [("labels", "label"), ("classifying", "classify"), ("imbalanced", "imbalance"), ("noises", "noise")]
)
def test_endings_do_not_matter(one, other):
    assert stem(one) == stem(other)


def test_words_split_at_hyphens_and_drop_what_tells_nothing():
    assert words("The long-tailed data") == ["long-tailed", "long", "tailed"]


def test_a_tag_counts_more_than_the_summary():
    cards = [card("b", summary="for noisy labels"), card("a", tags=("noisy labels",)), card("c")]
    assert [match.card.name for match in rank("noisy", cards)] == ["a", "b"]


def test_the_very_word_counts_more_than_a_related_one():
    cards = [card("related", tags=("imbalance",)), card("exact", tags=("rare classes",))]
    ranked = rank("rare classes", cards)
    assert [match.card.name for match in ranked] == ["exact", "related"]
    assert ranked[1].why == "rare ~ imbalance (tag)"


def test_a_rarer_word_counts_more():
    cards = [card("one", tags=("robust",)), card("two", tags=("robust",)), card("three", tags=("convex",))]
    assert rank("robust convex", cards)[0].card.name == "three"


def test_noise_is_answered_by_robustness():
    assert [match.card.name for match in rank("mislabelled", [card("r", tags=("robust",)), card("n", tags=("boosting",))])] == ["r"]


def test_data_of_another_kind_come_later_unless_asked_for():
    cards = [card("a_mask", form="set", tags=("rare", "segmentation")), card("rows", use_when="classes are rare")]
    assert [match.card.name for match in rank("rare", cards)] == ["rows", "a_mask"]
    assert rank("rare structures in a segmentation", cards)[0].card.name == "a_mask"


def test_what_a_card_says_it_is_not_does_not_count():
    assert rank("probabilities", [card("hinge", use_when="you want a margin, not probabilities")]) == []


def test_consistency_is_not_taken_for_calibrated_probabilities():
    (match,) = rank("calibrated", [card("a", claims=Claims(calibrated=True)), card("b", claims=Claims(proper=True))])
    assert match.card.name == "b"
    assert match.why == "calibrated ~ proper (claim)"


def test_a_claim_is_evidence():
    (match,) = rank("convex", [card("yes", claims=Claims(convex=True)), card("no", claims=Claims(convex=False))])
    assert match.card.name == "yes"
    assert match.evidence == (("convex", "convex", "claim"),)
