"""The examination itself: every check on one objective, for a report, and for a user's own pytest run."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lossmith._checks import describe, nearest
from lossmith._subject import card_of, subject
from lossmith.card import Claims

# importing these registers their checks, in the order a report lists them
from lossmith.conformance import arguments, limits, masks, numerics, properties, reductions, targets, transforms  # noqa: F401 - each registers its checks
from lossmith.conformance.registry import FORMS, Check, Outcome, chosen, known_checks
from lossmith.conformance.report import Report


def checks() -> tuple[Check, ...]:
    """All checks there are, the slow ones that run only on request included."""
    return tuple(known_checks().values())


def check(
    objective: Any,
    *,
    form: str | None = None,
    claims: Claims | None = None,
    seeds: Iterable[int] = (0,),
    only: Iterable[str] | None = None,
) -> Report:
    """Examine an objective, and report what holds and what does not.

    Args:
        objective: a registered name or alias, or any `(input, target) -> loss`: a function, a module, a class with state.
        form: of a callable without a card: "logits" (rows of class logits and class indices), "binary", "multilabel", "set" or
            "teacher" (a student's logits and a teacher's); when left out, the first but the last whose shapes it takes.
        claims: what you claim of a callable without a card; without claims the report says which properties hold on all that was tried.
        seeds: seeds of the random searches; more seeds search further.
        only: names of the checks to run; all but the slow ones when left out.

    Returns:
        A :class:`Report`: `text()` to read, `to_dict()` for JSON, `failed`.

    Raises:
        lossmith.card.UnknownObjective: no objective has that name; the nearest is offered.
        TypeError: a callable takes the shapes of no form.
        ValueError: no check or no form has that name.

    Example:
        >>> import torch
        >>> from lossmith.conformance import check
        >>> def squared(input, target):
        ...     right = input.softmax(1).gather(1, target.unsqueeze(1)).squeeze(1)
        ...     return (1 - right).square().mean()
        >>> check(squared, form="logits", only=["reductions_agree", "proper"])["proper"].said[:14]
        'does not hold:'
    """
    if form is not None and form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}; got {form!r}{nearest(form, FORMS)}")
    if claims is not None and not isinstance(claims, Claims):
        raise TypeError(f"claims must be a lossmith.card.Claims(...); got {describe(claims)}")
    seeds = tuple(seeds)
    if not seeds:
        raise ValueError("seeds must hold at least one seed")
    under = subject(objective, form=form, claims=claims)
    return Report(under, tuple(one(under, seeds) for one in chosen(only)), seeds)


def parametrize_with_checks(
    losses: Iterable[Any],
    *,
    form: str | None = None,
    only: Iterable[str] | None = None,
    seeds: Iterable[int] = (0,),
    expected_failures: Mapping[str, str] | None = None,
    marks: Mapping[str, Any] | None = None,
) -> Callable[[Any], Any]:
    """Make a pytest test of every check of every loss: one test each, by name.

    Args:
        losses: what :func:`check` takes.
        form: of those without a card.
        only: names of the checks; all but the slow ones when left out.
        seeds: seeds of the random searches.
        expected_failures: check name, or "loss:check", -> reason. Such a test must fail: one that passes after all fails the run.
        marks: check name -> a pytest mark to put on its tests.

    Example:
        >>> import lossmith.conformance
        >>> @lossmith.conformance.parametrize_with_checks(["cross_entropy"], only=["convex", "proper"])
        ... def test_my_losses(objective, check):
        ...     check(objective)
    """
    import pytest

    expected, named, wanted, seeds = dict(expected_failures or {}), dict(marks or {}), chosen(only), tuple(seeds)
    for key in (*(key.split(":")[-1] for key in expected), *named):
        if key not in known_checks():
            raise ValueError(f"no check is called {key!r}{nearest(key, known_checks())}")
    parameters = []
    for loss in losses:
        name = loss if isinstance(loss, str) else getattr(loss, "name", None) or getattr(loss, "__name__", type(loss).__name__)
        card = card_of(loss)
        for one in wanted:
            if card is not None and card.form not in one.forms:
                continue
            reason = expected.get(f"{name}:{one.name}", expected.get(one.name))
            on = [pytest.mark.xfail(reason=reason, strict=True)] if reason is not None else []
            on += [named[one.name]] if one.name in named else []
            parameters.append(pytest.param(loss, Assertion(one, form, seeds), id=f"{name}-{one.name}", marks=on))
    return pytest.mark.parametrize(("objective", "check"), parameters)


class Assertion:
    """A check that asserts: called with a loss, it fails, skips or passes the pytest test it is in."""

    def __init__(self, check: Check, form: str | None, seeds: tuple[int, ...]) -> None:
        self.name, self.check, self.form, self.seeds = check.name, check, form, seeds

    def outcome(self, objective: Any) -> Outcome:
        """What comes of it, without asserting anything."""
        return self.check(subject(objective, form=self.form), self.seeds)

    def __call__(self, objective: Any) -> None:
        import pytest

        outcome = self.outcome(objective)
        if outcome.status == "failed":
            pytest.fail(f"{self.name}: {outcome.explain()}", pytrace=False)
        if outcome.status == "skipped":
            pytest.skip(outcome.said)

    def __repr__(self) -> str:
        return self.name
