"""What an objective says of itself, and the registry of all that do.

A :class:`Card` is written once, beside the function, with the decorator :func:`objective`; it is what the documentation prints, what
``lossmith find`` searches, and what the conformance suite turns into tests. A claim is three-valued: True (tested), False (a
counterexample is found), None (unknown, and listed as a debt, so that claiming nothing is no way out).
"""

import importlib
import importlib.metadata
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple, TypeVar, get_args

from torch import Tensor

from lossmith._checks import UnknownName, describe, nearest
from lossmith._options import DEFAULTS, DOCS
from lossmith._ranges import Allowed, Named
from lossmith._ranges import Between as Between
from lossmith._ranges import Choice as Choice
from lossmith._ranges import Range as Range

Form = Literal["log_prob", "log_probs", "logits", "binary", "multilabel", "set", "teacher", "stateful"]
Growth = Literal["bounded", "linear", "quadratic", "exponential"]
F = TypeVar("F", bound=Callable[..., Any])

ROOMS = ("classification", "distillation", "segmentation")
"""The task rooms whose import registers their objectives."""
ENTRY_POINT = "lossmith.objectives"
"""The entry-point group by which other packages register theirs: each entry names a module to import."""


class Proved(NamedTuple):
    """A claim with a proof in print: ``Proved(True, "Theorem 3.2 of ...")``."""

    value: bool
    source: str


Claim = bool | Proved | None


@dataclass(frozen=True)
class Claims:
    """What is claimed of an objective, each as True, False, ``Proved(value, source)`` or None (unknown: a debt).

    Of an objective with a teacher, whose target is a whole prediction, the same is said with the teacher's probabilities for the true
    ones: convex in the student's logits; proper when the teacher's probabilities alone minimise it; symmetric in the sum over the
    teachers that are certain of one label.

    Attributes:
        convex: in the logits, for every target.
        proper: the conditional risk is minimised by reporting the true class probabilities (through softmax or sigmoid).
        calibrated: minimising the conditional risk predicts the most likely class.
        symmetric: the loss summed over all labels is constant, hence robust to uniform label noise.
        shift_invariant: adding a constant to a row's logits changes nothing.
        class_symmetric: permuting classes, in logits and target alike, changes nothing.
        growth: how a row's loss grows with the scale of its logits.
        bounds: infimum and supremum of a row's loss; a function of hyper-parameters and, by the name ``classes``, of the number of
            classes. The infimum must be approached by a confident right answer.
    """

    convex: Claim = None
    proper: Claim = None
    calibrated: Claim = None
    symmetric: Claim = None
    shift_invariant: Claim = None
    class_symmetric: Claim = None
    growth: Growth | None = None
    bounds: Callable[..., tuple[float, float]] | None = None

    def value(self, name: str) -> Any:
        """What is claimed of that property, without its proof."""
        claim = getattr(self, name)
        return claim.value if isinstance(claim, Proved) else claim

    def debts(self) -> list[str]:
        """The names of the properties nothing is claimed about."""
        return [f.name for f in fields(self) if getattr(self, f.name) is None]


class _Place:
    """Where in the space of hyper-parameters the objective equals another: a name, or a function of (logits, target)."""

    tends = False

    def __init__(self, *, equals: str | Callable[..., Tensor], **at: Any) -> None:
        self.equals, self.at = equals, at

    def __str__(self) -> str:
        arrow = " -> " if self.tends else " = "
        other = self.equals if isinstance(self.equals, str) else inspect.getdoc(self.equals) or self.equals.__name__
        places = (f"{name}{arrow}{value:g}" if isinstance(value, (int, float)) else f"{name} = {value}" for name, value in self.at.items())
        return ", ".join(places) + f": {other}"

    __repr__ = __str__


class Limit(_Place):
    """As its first hyper-parameter tends to a value (``math.inf`` included), with the others at theirs, it tends to another objective.

    `slowly`: the difference falls as one over the logarithm of the distance to that value, and is never small.
    """

    tends = True

    def __init__(self, *, equals: str | Callable[..., Tensor], slowly: bool = False, **at: float) -> None:
        super().__init__(equals=equals, **at)
        self.slowly = slowly


class At(_Place):
    """At exactly these hyper-parameters it equals another objective."""


Derived = Literal["divergence", "proper loss", "fenchel-young"]


@dataclass(frozen=True)
class Instance:
    r"""A convex function that an objective is derived from, so that its formula is that function's and not another.

    With p the softmax of the logits z (for one logit: of z and 0) and :math:`e_y` the certainty of the label, the loss is `times`

    ================  ==================================================  ======================
    derived           the loss of label y                                 of
    ================  ==================================================  ======================
    "divergence"      :math:`D_f(e_y \| p)`                               an FGenerator f
    "proper loss"     :math:`-\Omega(p) - \nabla\Omega(p) \cdot (e_y-p)`  an Entropy :math:`\Omega`
    "fenchel-young"   :math:`\Omega^*(z) + \Omega(e_y) - z_y`              an Entropy :math:`\Omega`
    ================  ==================================================  ======================

    Attributes:
        derived: how the loss follows.
        of: the convex function; it takes hyper-parameters by their names, and gives None where the objective is no such instance.
        times: what the derived loss is multiplied by.
    """

    derived: Derived
    of: Callable[..., Any]
    times: float = 1.0

    def at(self, hyper: Mapping[str, Any]) -> Any:
        """The convex function at these hyper-parameters, or None."""
        return self.of(**{name: hyper[name] for name in inspect.signature(self.of).parameters})

    def says(self, hyper: Mapping[str, Any]) -> str:
        """In a line, such as ``2 x the proper loss of gini``; nothing where it is no such instance."""
        convex = self.at(hyper)
        if convex is None:
            return ""
        formula = {
            "divergence": "D_f(e_y || p) with f = ",
            "proper loss": "the proper loss of ",
            "fenchel-young": "the Fenchel-Young loss of ",
        }
        return ("" if self.times == 1 else f"{self.times:g} x ") + formula[self.derived] + convex.name


@dataclass(frozen=True)
class Card:
    """The record of one objective; see :func:`objective` for the fields.

    The value of a `surrogate` is there to be differentiated once, and says nothing; what is true of losses need not be true of it.
    """

    name: str
    function: Callable[..., Any]
    row: Callable[..., Any]
    form: Form
    source: str
    summary: str
    use_when: str
    formula: str
    claims: Claims
    ranges: Mapping[str, Allowed] = field(default_factory=dict)
    search: Mapping[str, Between] = field(default_factory=dict)
    limits: Sequence[Limit | At] = ()
    instances: Sequence[Instance] = ()
    settings: Sequence[Mapping[str, Any]] = ()
    aliases: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    predicts: Literal["probabilities", "scores"] | None = None
    surrogate: bool = False
    one_logit: str = "binary_cross_entropy"
    since: str = "0.1"
    provenance: str = ""
    bibtex: str = ""
    hyper: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.claims, Claims):
            raise TypeError(f"{self.name}: claims must be a Claims(...); got {describe(self.claims)}")
        if self.predicts is None:  # only a proper objective asks for the probabilities themselves
            object.__setattr__(self, "predicts", "probabilities" if self.claims.value("proper") else "scores")

    @property
    def room(self) -> str:
        """The task room the objective lives in; the top-level package's name for objectives of other packages."""
        parts = self.function.__module__.split(".")
        return parts[1] if parts[0] == "lossmith" and len(parts) > 1 else parts[0]

    @property
    def options(self) -> list[str]:
        """Every keyword the function takes: its hyper-parameters, then the options its form shares."""
        if inspect.isclass(self.function):
            return list(self.hyper)
        taken = inspect.signature(self.function).parameters  # a compound loss may leave some of its form's out
        return list(dict.fromkeys([*self.hyper, *(name for name in DEFAULTS[self.form] if name in taken)]))

    def examples(self) -> list[dict[str, Any]]:
        """Settings of the hyper-parameters worth trying: the defaults, then those the card lists."""
        return [{}, *map(dict, self.settings)]

    def check_names(self, given: Iterable[str], known: Sequence[str]) -> None:
        """Raise TypeError for an option that the function does not take, offering the nearest: options are never ignored."""
        for name in given:
            if name not in known:
                raise TypeError(f"{self.name}: no option {name!r}{nearest(name, known) or '.'} It takes {', '.join(known)}.")

    def check(self, hyper: Mapping[str, Any]) -> None:
        """Raise ValueError for a plain number or word outside its range, naming objective, argument, interval and value."""
        for name, allowed in self.ranges.items():
            value = hyper.get(name)
            if isinstance(value, Tensor) and isinstance(allowed, Range):
                if allowed.whole or allowed.plain:
                    raise TypeError(f"{self.name}: {name} must be a plain number in {allowed}; got {describe(value)}")
                if value.ndim:
                    raise ValueError(f"{self.name}: {name} must be a number or a 0-d tensor in {allowed}; got {describe(value)}")
            if name not in hyper or isinstance(value, Tensor) or (value is None and self.hyper.get(name) is None):
                continue
            if isinstance(allowed, Range) and not isinstance(value, (int, float)):
                raise TypeError(f"{self.name}: {name} must be a number or a 0-d tensor in {allowed}; got {describe(value)}")
            if value not in allowed:  # pyrefly: ignore[unsupported-operation] - numbers for a range, anything for a choice
                near = allowed.nearest(value) if isinstance(allowed, Named) and isinstance(value, str) else ""
                raise ValueError(f"{self.name}: {name} must be in {allowed}; got {value!r}{near}")


_cards: dict[str, Card] = {}
_aliases: dict[str, str] = {}
_loaded: set[str] = set()


def objective(
    *,
    row: Callable[..., Any],
    form: Form,
    source: str,
    summary: str,
    use_when: str,
    formula: str,
    claims: Claims,
    **facts: Any,
) -> Callable[[F], F]:
    """Register a function as an objective, complete its signature and docstring, and return that very function.

    Args:
        row: the mathematics, a module-level function; what it takes and gives is said by `form` (see `lossmith._rows`,
            `_binary`, `_sets`, `_pairs`).
        form: "log_prob", "log_probs", "logits", "binary", "multilabel", "set", "teacher", or "stateful" for a Module class.
        source: who proposed it, with the paper's identifier.
        summary, use_when, formula: one line each: what it is, when to reach for it, its formula (TeX).
        claims: what is claimed of it.
        **facts: further fields of `Card`: ranges, search (where in a range a study tunes, if not by the rule for all), limits, instances
            (the convex functions it is derived from), settings (hyper-parameters to test beside the defaults), aliases, tags, needs
            ("class_counts", "sample_index"), predicts ("probabilities" | "scores"; by default probabilities for proper objectives
            alone), surrogate (only the gradient means something), one_logit (the function for binary problems), since, provenance,
            bibtex.
    """

    def register(function: F) -> F:
        name = function.__name__
        hyper = _hyper_parameters(function, form)
        card = Card(
            name=name, function=function, row=row, form=form, source=source, summary=summary, use_when=use_when, formula=formula,
            claims=claims, hyper=hyper, **facts,
        )  # fmt: skip
        _verify(card)
        setattr(row, "card", card)  # noqa: B010 - functions have no declared attributes
        _cards[name] = card
        _aliases.update(dict.fromkeys(card.aliases, name))
        _complete(function, card)
        return function

    return register


def _hyper_parameters(function: Callable[..., Any], form: Form) -> dict[str, Any]:
    """Keyword-only parameters and their defaults (`inspect.Parameter.empty` where required)."""
    keyword_only = inspect.Parameter.KEYWORD_ONLY
    return {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is keyword_only and name not in DEFAULTS.get(form, {})
    }


def _verify(card: Card) -> None:
    """A card that leaves something out does not register."""
    if card.form not in DEFAULTS:
        raise ValueError(f"{card.name}: form must be one of {', '.join(DEFAULTS)}; got {card.form!r}")
    for required in ("source", "summary", "use_when", "formula"):
        if not getattr(card, required).strip():
            raise ValueError(f"{card.name}: its card must state {required}")
    unranged = [n for n in card.hyper if n not in card.ranges and n not in card.needs and n != "num_samples"]
    if unranged:
        raise ValueError(f"{card.name}: its card gives no range for {', '.join(unranged)}")
    unknown = [n for n in card.ranges if n not in card.hyper]
    if unknown:
        raise ValueError(f"{card.name}: its card gives a range for {', '.join(unknown)}, which the function does not take")
    for n, interval in card.search.items():
        allowed = card.ranges.get(n)
        if not isinstance(allowed, Range) or interval.low not in allowed or interval.high not in allowed:
            raise ValueError(f"{card.name}: its card searches {n} in {interval}; wanted an interval within a range of numbers, {allowed}")
        if not interval.low <= card.hyper[n] <= interval.high:
            raise ValueError(f"{card.name}: its card searches {n} in {interval}, which leaves out the default, {card.hyper[n]}")
    for instance in card.instances:
        if instance.derived not in get_args(Derived):
            raise ValueError(f"{card.name}: an instance must be one of {', '.join(get_args(Derived))}; got {instance.derived!r}")
        strange = set(inspect.signature(instance.of).parameters) - set(card.hyper)
        if strange:
            raise ValueError(f"{card.name}: an instance asks for {', '.join(sorted(strange))}, which the function does not take")
    other: Card | None = getattr(card.row, "card", None)
    if other is not None and (other.name, other.function.__module__) != (card.name, card.function.__module__):
        raise ValueError(f"{card.name}: its row function is that of {other.name}; each objective needs one of its own, to find its card by")
    for taken in (card.name, *card.aliases):
        owner = _cards.get(_aliases.get(taken, taken))
        if owner is not None and (owner.name, owner.function.__module__) != (card.name, card.function.__module__):
            raise ValueError(f"{card.name}: the name {taken!r} is taken by {owner.function.__module__}.{owner.name}")


def _complete(function: Callable[..., Any], card: Card) -> None:
    """Spell the shared options out in the signature, and append them and the card to the docstring."""
    if inspect.isclass(function):
        options_doc = ""
    else:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        takes_all = len(own) < len(signature.parameters)
        shared = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
            for name, default in (DEFAULTS[card.form] if takes_all else {}).items()
            if name not in signature.parameters
        ]
        setattr(function, "__signature__", signature.replace(parameters=own + shared))  # noqa: B010
        taken = {p.name for p in shared}
        lines = [line for line in DOCS[card.form] if line.split(":")[0] in taken]
        options_doc = "\n\n    Options:\n" + "\n".join(f"        {line}" for line in lines) if lines else ""
    facts = [f"Formula: `{card.formula}`", f"Use when: {card.use_when}.", f"Source: {card.source}."]
    if card.ranges:
        facts.append("Ranges: " + ", ".join(f"{n} in {r}" for n, r in card.ranges.items()) + ".")
    said = [instance.says(card.hyper) for instance in card.instances]
    if any(said):
        facts.append("Instance of: " + "; ".join(filter(None, said)) + ".")
    if card.limits:
        facts.append("Limits: " + "; ".join(map(str, card.limits)) + ".")
    card_doc = "\n\n    Card:\n" + "\n".join(f"        {fact}" for fact in facts)
    function.__doc__ = (function.__doc__ or card.summary).rstrip() + options_doc + card_doc + "\n    "


@contextmanager
def aside() -> Iterator[None]:
    """Objectives defined within the block get their cards, and are not registered: nobody finds them by name afterwards."""
    load()  # or a room imported meanwhile would be forgotten with them
    cards, aliases = dict(_cards), dict(_aliases)
    try:
        yield
    finally:
        _cards.clear()
        _cards.update(cards)
        _aliases.clear()
        _aliases.update(aliases)


def load() -> None:
    """Import every room, and every package that registers objectives by entry point; a broken one warns and is passed over."""
    for room in ROOMS:
        importlib.import_module(f"lossmith.{room}")
    for entry in importlib.metadata.entry_points(group=ENTRY_POINT):
        if entry.value in _loaded:
            continue
        _loaded.add(entry.value)
        try:
            entry.load()
        except Exception as error:  # somebody else's package: whatever it raises must not take ours down
            warnings.warn(f"objectives of {entry.name!r} ({entry.value}) were not registered: {error}", stacklevel=2)


def all_cards() -> dict[str, Card]:
    """Every registered objective's card by name, in alphabetical order."""
    load()
    return dict(sorted(_cards.items()))


def get(name: str) -> Card:
    """The card of an objective by name or alias; a KeyError that offers the nearest name otherwise."""
    if name not in _cards and name not in _aliases:
        load()
    card = _cards.get(_aliases.get(name, name))
    if card is None:
        raise UnknownObjective(f"no objective is called {name!r}{nearest(name, [*_cards, *_aliases])}")
    return card


def groups() -> dict[str, list[Card]]:
    """Groups of objectives by name, the largest first: ``@all``, and one a tag of the cards (``@robust``, ``@noisy-labels``)."""
    cards = list(all_cards().values())
    tags = {tag for card in cards for tag in card.tags}
    found = {f"@{tag.replace(' ', '-')}": [card for card in cards if tag in card.tags] for tag in sorted(tags, key=str.casefold)}
    return {"@all": cards, **dict(sorted(found.items(), key=lambda one: -len(one[1])))}


def group(name: str) -> list[Card]:
    """The objectives of one group, in alphabetical order; a KeyError that offers the nearest name where there is none."""
    known = groups()
    if name not in known:
        raise UnknownObjective(f"no group of objectives is called {name!r} (lossmith find lists them){nearest(name, known)}")
    return known[name]


class UnknownObjective(UnknownName):
    """No objective has that name."""
