"""Every objective whose card names a convex function is that function's own derived loss, to the last digits."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from lossmith._subject import other_values, subject
from lossmith.card import Card, Claims, Instance, all_cards, aside, get, objective
from lossmith.divergences import divergence
from lossmith.generators import jensen_shannon, kl

DERIVED = [name for name, card in all_cards().items() if card.instances]


def derived(instance: Instance, convex: Any, z: torch.Tensor) -> torch.Tensor:
    """The loss `(n, c)` of every label, by the convex function's own members."""
    log_p = z.log_softmax(-1)
    labels = torch.eye(z.shape[1], dtype=z.dtype)
    if instance.derived == "divergence":
        return instance.times * divergence(
            labels.log().expand(len(z), -1, -1), log_p.unsqueeze(1).expand(-1, len(labels), -1), convex, log=True
        )
    if instance.derived == "proper loss":
        return instance.times * convex.proper_loss(log_p.exp())
    return instance.times * convex.fenchel_young(z.unsqueeze(1).expand(-1, len(labels), -1), labels.expand(len(z), -1, -1))


def every_label(card: Card, hyper: dict[str, Any], z: torch.Tensor) -> torch.Tensor:
    """The loss `(n, c)` of every label, by the objective; one logit answers between two classes, the second of which has logit 0."""
    n, c = z.shape
    if card.form == "binary":
        logit = (z[:, :1] - z[:, 1:]).expand(n, 2)
        return card.function(logit, torch.tensor([1.0, 0.0], dtype=z.dtype).expand(n, 2), reduction="none", **hyper)
    labels = torch.arange(c).expand(n, c)
    return card.function(z.unsqueeze(-1).expand(n, c, c), labels, reduction="none", **hyper)


def settings(card: Card) -> Iterator[dict[str, Any]]:
    """The defaults, the card's settings, and further values of one hyper-parameter at a time."""
    yield from card.examples()
    for name in card.hyper:
        yield from ({name: value} for value in other_values(subject(card), name))


def differences(card: Card) -> list[str]:
    """Where the objective is not what its card says, over all settings; an error if there is no setting at which it says anything."""
    found, compared = [], 0
    g = torch.Generator().manual_seed(7)
    for hyper in settings(card):
        known = {name: default for name, default in card.hyper.items() if default is not inspect.Parameter.empty} | hyper
        for instance in card.instances:
            convex = instance.at(known)
            if convex is None:
                continue
            compared += 1
            for classes in (2,) if card.form == "binary" else (2, 5):
                z = torch.cat([scale * torch.randn(20, classes, generator=g, dtype=torch.float64) for scale in (0.1, 1.0, 4.0)])
                ours, theirs = every_label(card, hyper, z), derived(instance, convex, z)
                worst = ((ours - theirs).abs() / theirs.abs().clamp_min(1)).max().item()
                if not worst <= 1e-12:
                    found.append(f"{card.name}({hyper}) is not {instance.says(known)}: off by {worst:.3g}")
    assert compared
    return found


@pytest.mark.parametrize("name", DERIVED)
def test_it_is_the_derived_loss(name: str) -> None:
    assert differences(get(name)) == []


def test_the_objectives_that_are_derived_are_found() -> None:
    assert {"cross_entropy", "binary_cross_entropy", "generalized_cross_entropy", "classification_mae", "comp_sum"} <= set(DERIVED)


def test_a_card_that_names_another_function_is_found() -> None:
    """Both a wrong function and a factor that is off by one in a thousand million."""
    wrong = [Instance("divergence", of=lambda: jensen_shannon), Instance("divergence", of=lambda: kl, times=1 + 1e-9)]
    with aside():

        def row(log_p):
            return -log_p

        @objective(row=row, form="log_prob", source="-", summary="-", use_when="-", formula="-", claims=Claims(), instances=wrong)
        def mislabelled(input, target, **options):
            return get("cross_entropy").function(input, target, **options)

        assert len(differences(get("mislabelled"))) == 4


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("derived", "of", "said"),
    [
        ("divergences", lambda: kl, "an instance must be one of divergence, proper loss, fenchel-young; got 'divergences'"),
        ("divergence", lambda power: kl, "an instance asks for power, which the function does not take"),
    ],
)
def test_a_card_whose_instance_cannot_be_derived_does_not_register(derived: Any, of: Callable[..., Any], said: str) -> None:
    instance = Instance(derived, of=of)

    def row(log_p):
        return -log_p

    with aside(), pytest.raises(ValueError, match=f"unusable: {said}"):

        @objective(row=row, form="log_prob", source="-", summary="-", use_when="-", formula="-", claims=Claims(), instances=[instance])
        def unusable(input, target, **options):
            return input.sum()


def test_an_instance_says_what_it_is() -> None:
    (mae,) = get("classification_mae").instances
    assert mae.says({}) == "D_f(e_y || p) with f = total_variation"
    (comp_sum,) = get("comp_sum").instances
    assert comp_sum.says({"tau": 3.0}) == ""
    assert Instance("divergence", of=lambda: kl, times=0.5).says({}) == "0.5 x D_f(e_y || p) with f = kl"
    assert (
        "Instance of: D_f(e_y || p) with f = kl; the proper loss of shannon; the Fenchel-Young loss of shannon."
        in get("cross_entropy").function.__doc__
    )
