"""What is examined: a registered objective, a class with state, a module or a user's plain function, all called the same way.

A subject knows which keywords its function takes, so that a check can ask for what is there and skip, with a reason, what is not; and it
gives one loss a row whatever reductions the function has.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lossmith._checks import describe
from lossmith._module import Objective
from lossmith._options import DEFAULTS
from lossmith._ranges import Named
from lossmith.card import Card, Choice, Claims, Range, UnknownObjective, get


@dataclass(frozen=True)
class Subject:
    """An objective under examination.

    Attributes:
        name: what reports call it.
        function: what is called; a class is made anew for every call, so that its state never leaks from one check to the next.
        form: see `lossmith.card.Form`; a plain function of rows of logits has the form "logits".
        card: its card, when it has one.
        claims: what is claimed of it; by its card, or by the caller.
        keywords: the keyword arguments it takes.
        fixed: keyword arguments given with every call.
        settings: hyper-parameters to try: the defaults (empty), then those of the card.
        frozen: for a class, whether it is called in evaluation mode, in which its state stays as it is.
    """

    name: str
    function: Callable[..., Any]
    form: str
    card: Card | None = None
    claims: Claims | None = None
    keywords: frozenset[str] = frozenset()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    settings: tuple[Mapping[str, Any], ...] = ({},)
    frozen: bool = False

    @property
    def stateful(self) -> bool:
        return isinstance(self.function, type)

    @property
    def remembers(self) -> bool:
        """Whether a call changes what the next one gives: a class with parameters alone does not."""
        return self.stateful and (self.card is None or "sample_index" in self.card.needs)

    def takes(self, *keywords: str) -> bool:
        return all(keyword in self.keywords for keyword in keywords)

    def at(self, setting: Mapping[str, Any]) -> "Subject":
        """The same with these hyper-parameters fixed."""
        return replace(self, fixed={**self.fixed, **setting}, settings=({},))

    def held(self) -> "Subject":
        """The same with its state held still: what a derivative is the derivative of. No gradient flows through a state."""
        return replace(self, frozen=True) if self.stateful else self

    @cached_property
    def vectorised(self) -> bool:
        """Whether many rows can be asked for in one call."""
        if self.takes("reduction"):
            return True
        g = torch.Generator().manual_seed(0)
        shape = (3,) if self.form == "binary" else (3, 4, 5) if self.form == "set" else (3, 4)
        z = torch.randn(shape, generator=g, dtype=torch.float64)
        y = (
            torch.ones(shape, dtype=torch.float64)
            if self.form in ("binary", "multilabel", "teacher")
            else torch.zeros(z[:, 0].shape, dtype=torch.long)
        )
        try:
            return self(z, y).ndim > 0 or torch.func.vmap(self._one)(z, y).shape == (3,)
        except Exception:  # whatever vmap meets in it
            return False

    def _one(self, row: Tensor, target: Tensor) -> Tensor:
        return self(row.unsqueeze(0), target.unsqueeze(0))

    def bound(self, input: Tensor, **options: Any) -> Callable[..., Tensor]:
        """A function of (input, target) with the options given; for a class, one fresh instance."""
        needs = self.needs(input.shape[0 if input.ndim == 1 else 1], input.dtype) if input.ndim else {}
        options = {**needs, **self.fixed, **options}
        if not self.stateful:
            return lambda z, y: self.function(z, y, **options)
        rows = torch.Size([*input.shape[:1], *input.shape[2:]] if input.ndim > 1 else [])  # each a training row of its own
        made = {name: options.pop(name) for name in list(options) if name in _parameters(self.function)}
        if "num_samples" in _parameters(self.function):
            made.setdefault("num_samples", max(rows.numel(), 1))
        if "classes" in _parameters(self.function):
            made.setdefault("classes", max(input.shape[0 if input.ndim == 1 else 1], 2))
        if self.card is not None and "generator" in self.card.needs:
            made.setdefault("generator", torch.Generator().manual_seed(0))
        with torch.random.fork_rng(devices=[]):  # parameters that start at random, start alike
            torch.manual_seed(0)
            module = self.function(**made)
        module.train(not self.frozen)
        if "index" in _parameters(type(module).forward):
            options.setdefault("index", torch.arange(rows.numel()).reshape(rows))
        return lambda z, y: module(z, y, **options)

    def __call__(self, input: Tensor, target: Tensor, **options: Any) -> Tensor:
        return self.bound(input, **options)(input, target)

    def each(self, input: Tensor, target: Tensor, **options: Any) -> Tensor:
        """One loss a row, before any reduction: by `reduction="none"`, or else by asking for one row at a time."""
        if self.takes("reduction"):
            return self(input, target, reduction="none", **options)
        whole = self(input, target, **options)
        if whole.ndim and whole.shape[0] == input.shape[0]:
            return whole
        if self.vectorised:
            return torch.func.vmap(lambda z, y: self(z.unsqueeze(0), y.unsqueeze(0), **options))(input, target)
        return torch.stack([self(input[i : i + 1], target[i : i + 1], **options) for i in range(input.shape[0])])

    def rows(self, input: Tensor, target: Tensor, **options: Any) -> Tensor:
        """One number a batch item: its losses summed over further axes."""
        each = self.each(input, target, **options)
        return each.flatten(1).sum(1) if each.ndim > 1 else each

    def needs(self, classes: int, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
        """What the card says it needs of the data, beside the batch."""
        if self.card is None or "class_counts" not in self.card.needs:
            return {}
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        return {"class_counts": 10.0 * torch.arange(classes, 0, -1, dtype=wide)}


def subject(objective: Any, *, form: str | None = None, claims: Claims | None = None) -> Subject:
    """Wrap whatever can be examined: a name, a card, a function, a class with state, a module.

    Args:
        objective: a registered name or alias, a card, or a callable `(input, target) -> loss`.
        form: of a plain callable: "logits" for rows of class logits, "binary", "multilabel", "set" or "teacher"; guessed when left out.
        claims: what the caller claims of a plain callable.
    """
    if isinstance(objective, Subject):
        return objective
    fixed: dict[str, Any] = {}
    if isinstance(objective, Objective):
        objective, fixed = objective.function, objective.fixed
    card = card_of(objective)
    if card is not None:
        settings = ({},) if fixed else tuple(card.examples())
        keywords = {*card.options, *(DEFAULTS[card.form] if inspect.isclass(card.function) else ())}
        return Subject(card.name, card.function, card.form, card, claims or card.claims, frozenset(keywords), fixed, settings)
    if not callable(objective):
        raise TypeError(f"an objective to check must be a name or a callable (input, target) -> loss; got {describe(objective)}")
    name = getattr(objective, "__name__", type(objective).__name__)
    called = getattr(objective, "forward", objective)  # of a module, or of a class of modules
    keywords = frozenset([*_parameters(called), *(_parameters(objective) if isinstance(objective, type) else ())])
    plain = Subject(name, objective, form or "logits", None, claims, keywords, fixed)
    return plain if form is not None else replace(plain, form=_guess(plain))


def card_of(objective: Any) -> Card | None:
    """The card of a name, of a card, or of the very function that is registered."""
    if isinstance(objective, Card):
        return objective
    if isinstance(objective, str):
        return get(objective)
    try:
        card = get(getattr(objective, "__name__", ""))
    except UnknownObjective:
        return None
    return card if card.function is objective else None


def _parameters(function: Callable[..., Any]) -> list[str]:
    """The names a function takes by keyword, without its (self and) input and target."""
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin
        return []
    named = [p.name for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != "self"]
    return named if isinstance(function, type) else named[2:]


def _guess(plain: Subject) -> str:
    """The first form whose shapes the function takes; no two of them broadcast against each other."""
    classes = torch.tensor([0, 1, 2, 3, 0])
    trials = {
        "logits": (torch.zeros(5, 4), classes),
        "binary": (torch.zeros(5), torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0])),
        "multilabel": (torch.zeros(5, 4), torch.ones(5, 4)),
        "set": (torch.zeros(2, 4, 3, 5), torch.zeros(2, 3, 5, dtype=torch.long)),
    }
    told = {}
    for form, (input, target) in trials.items():
        try:
            plain(input, target)
        except Exception as error:  # a form it does not take
            told[form] = f"{form}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        else:
            return form
    raise TypeError(f"{plain.name} takes none of the forms, say form=...; tried " + "; ".join(told.values()))


def other_values(subject: Subject, name: str) -> list[Any]:
    """Further values a hyper-parameter may take, apart from its default: in its range, or somewhat above the default if it has none."""
    if subject.card is None:
        default = inspect.signature(subject.function).parameters[name].default
        return [default + 0.5, default + 0.05] if isinstance(default, float) else []
    allowed, default = subject.card.ranges.get(name), subject.card.hyper.get(name)
    if isinstance(allowed, Choice):
        return [option for option in allowed.options if option != default]
    if isinstance(allowed, Named):
        return [example for example in allowed.examples if example != default]
    listed = [setting[name] for setting in subject.card.settings if name in setting]
    if not isinstance(allowed, Range):
        return listed
    start = default if isinstance(default, (int, float)) and not isinstance(default, bool) else max(allowed.low, 0.5)
    tries = [*listed, *([start + 1, start + 2] if isinstance(default, int) else [start / 2, start + 0.25, start - 0.25, start * 2])]
    return [value for value in tries if value in allowed and value != default]


def counted(subject: Subject) -> str:
    """How many settings of the hyper-parameters were tried, in words."""
    return "the defaults" if len(subject.settings) == 1 else f"the defaults and {len(subject.settings) - 1} further settings"
