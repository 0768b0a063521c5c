"""Generators by name."""

import pytest
import torch

import lossmith
from lossmith import generators
from lossmith.generators import FGenerator, registry


@pytest.fixture
def scratch(monkeypatch):
    """A registry of which nothing remains."""
    monkeypatch.setattr(registry.GENERATORS, "instances", dict(registry.GENERATORS.instances))
    monkeypatch.setattr(registry.GENERATORS, "families", dict(registry.GENERATORS.families))


def test_every_generator_says_where_it_comes_from():
    for name, g in generators.all_generators().items():
        assert g.name == name
        assert g.formula
        assert g.source


def test_names_and_families():
    assert generators.get("kl") is generators.kl is lossmith.generators.kl
    assert generators.get("skew_kl", skew=0.1) is generators.skew_kl(0.1)
    assert generators.all_generators()["skew_kl(skew=0.1)"] is generators.skew_kl(0.1)
    assert set(generators.__all__) <= set(dir(generators))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: generators.get("jefreys"), KeyError, "no generator is called 'jefreys'; did you mean 'jeffreys'?"),
        (lambda: generators.get("kl", alpha=1), TypeError, "'kl' has no parameters; got alpha"),
        (lambda: generators.get("skew_kl", alpha=1), TypeError, "missing a required argument: 'skew'|unexpected keyword"),
        (lambda: generators.skew_kl(1.0), ValueError, r"skew_kl: skew must be in \[0, 1\); got 1.0"),
        (lambda: generators.jensen_shannon_skewed(0), ValueError, r"jensen_shannon_skewed: weight must be in \(0, 1\); got 0"),
        (lambda: generators.chi_p(1), ValueError, r"chi_p: p must be in \(1, inf\); got 1"),
        (lambda: generators.alpha_cichocki("1"), TypeError, "alpha_cichocki: alpha must be a number in"),
        (lambda: generators.register(generators.kl), ValueError, "the name 'kl' is taken"),
    ],
)
@pytest.mark.untyped
def test_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_new_divergence_takes_one_short_entry(scratch):
    """The harmonic divergence, sum of (p - q)^2 / (p + q) again, from its formula alone."""
    mine = generators.register(
        FGenerator(
            name="harmonic", formula=r"1 + u - 4 u / (1 + u)", source="Taneja 2005",
            f=lambda u: 1 + u - 4 * u / (1 + u),
            at_zero=1.0, slope_at_zero=-3.0, slope_at_infinity=1.0, closed=True,
        )
    )  # fmt: skip
    assert generators.get("harmonic") is mine
    u, t = torch.tensor([0.0, 0.5, 3.0]), torch.tensor([-4.0, -1.0, 0.5])
    known = generators.triangular
    for member, x in (("f", u), ("df", u), ("d2f", u), ("conjugate", t), ("inverse_link", t)):
        torch.testing.assert_close(getattr(mine, member)(x), getattr(known, member)(x), rtol=1e-5, atol=1e-6)
