"""Generators and entropies given by name, parameters included: what is found, what is offered where nothing is, and how it is checked."""

from __future__ import annotations

import pytest

from lossmith.generators import (
    UnknownEntropy,
    UnknownGenerator,
    all_entropies,
    all_generators,
    get,
    get_entropy,
    gini,
    kl,
    skew_kl,
    tsallis,
)
from lossmith.generators.entropy_registry import ANY_ENTROPY
from lossmith.generators.registry import ANY


@pytest.mark.parametrize("name", list(all_generators()))
def test_every_generator_is_found_by_its_full_name(name) -> None:
    assert get(name) is all_generators()[name]
    assert ANY(name) is get(name)
    assert name in ANY


@pytest.mark.parametrize("name", list(all_entropies()))
def test_every_entropy_is_found_by_its_full_name(name) -> None:
    assert get_entropy(name) is all_entropies()[name]
    assert ANY_ENTROPY(name) is get_entropy(name)


def test_a_parameter_that_nobody_used_before() -> None:
    assert get("skew_kl(skew=0.123)") is skew_kl(0.123)
    assert get("skew_kl( skew = 0.123 )") is skew_kl(0.123)
    assert get_entropy("tsallis(alpha=1.01)") is tsallis(1.01)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("jensen_shanon", "; did you mean 'jensen_shannon'?"),
        ("skew_kl", "; did you mean 'skew_kl(skew=...)'?"),
        ("skew_kl(skew=2)", ""),
        ("skew_kl(skew)", ""),
        ("skew_kl(weight=0.1)", ""),
        ("unheard_of(x=1)", ""),
    ],
)
def test_what_is_no_generator(name, hint) -> None:
    assert name not in ANY
    if hint:
        assert ANY.nearest(name) == hint


def test_only_the_kind_itself_is_taken_beside_names() -> None:
    assert kl in ANY
    assert gini in ANY_ENTROPY
    assert gini not in ANY
    assert 0.5 not in ANY


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"written skew_kl\(parameter=number\)"):
        get("skew_kl(skew=small)")
    with pytest.raises(UnknownGenerator, match="no generator is called 'unheard_of"):
        get("unheard_of(x=1)")
    with pytest.raises(UnknownEntropy, match="no entropy is called 'unheard_of"):
        get_entropy("unheard_of(x=1)")
    with pytest.raises(TypeError, match="has no parameters"):
        get("kl", alpha=1.0)
    for _ in range(2):  # before and after the name is known
        with pytest.raises(TypeError, match=r"'skew_kl\(skew=0.77\)' has its parameters in its name; got skew"):
            get("skew_kl(skew=0.77)", skew=0.5)
        get("skew_kl(skew=0.77)")
