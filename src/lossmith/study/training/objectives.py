"""Objectives as a study names them, and what must be known of each before it can be trained with.

An objective is one of the library's (or of a package that registered its own), or a function of the user's, written
``package.module:function`` and called ``function(logits, target, **hyper)``.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lossmith import card as cards
from lossmith._checks import nearest
from lossmith.study.errors import StudyError
from lossmith.study.references import is_reference, load_reference, source_hash

Hyper = float | int | bool | str

NOT_CLASSES = {"teacher": "a teacher's logits", "binary": "one logit a row", "multilabel": "several labels a row", "set": "whole masks"}
"""Forms of objective that a study of one label among classes cannot use, and what they take instead."""

SERVED = ("class_counts", "sample_index")
"""What a study can supply to an objective that needs it."""


@dataclass(frozen=True)
class ObjectiveSpec:
    """An objective and the hyper-parameters given to it, in alphabetical order; what is not given keeps the paper's default."""

    name: str
    hyper: tuple[tuple[str, Hyper], ...] = ()

    @classmethod
    def parse(cls, text: str) -> "ObjectiveSpec":
        """Read ``cross_entropy``, ``gce:q=0.7``, ``name:a=1,b=word`` or ``package.module:function:a=1``.

        Aliases become full names. Unknown objectives and hyper-parameters are a `StudyError` that offers the nearest name.
        """
        name, _, rest = text.strip().partition(":")
        head, _, tail = rest.partition(":")
        name = name.strip()
        if head and "=" not in head and not is_registered(name):  # a function of the user's own
            name, rest = f"{name}:{head}", tail
        hyper: dict[str, Hyper] = {}
        for part in filter(None, map(str.strip, rest.split(","))):
            key, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals or not key or not value:
                raise StudyError(f"objective {text!r}: hyper-parameters are written name=value; got {part!r}")
            if key in hyper:
                raise StudyError(f"objective {text!r}: {key} is given twice")
            hyper[key] = _value(value)
        name, hyper = canonical(name, hyper)
        return cls(name, tuple(sorted(hyper.items())))

    @classmethod
    def parse_list(cls, text: str) -> "tuple[ObjectiveSpec, ...]":
        """Read a comma-separated list; ``a:x=1,y=2,b`` is a with x and y, then b.

        ``@robust`` is every objective with that tag that a study can train, each once and as the paper sets it; a list that begins with a
        group begins with cross-entropy, so that the baseline is not whatever comes first in the alphabet.
        """
        parts: list[str] = []
        for piece in filter(None, map(str.strip, text.split(","))):
            continues = "=" in piece and ":" not in piece.partition("=")[0]
            if continues and not parts:
                raise StudyError(f"objectives begin with a name; got {piece!r}")
            if continues:
                parts[-1] += ("," if "=" in parts[-1] else ":") + piece
            else:
                parts.append(piece)
        named = [cls.parse(part) for part in parts if not part.startswith("@")]
        if not any(part.startswith("@") for part in parts):
            return tuple(named)
        found = [BASELINE] if parts[0].startswith("@") and not any(one.name == BASELINE.name for one in named) else []
        for part in parts:
            found += [one for one in (members(part) if part.startswith("@") else [cls.parse(part)]) if one not in found]
        if parts[0].startswith("@"):
            found.sort(key=lambda one: one.name != BASELINE.name)
        return tuple(found)

    @property
    def label(self) -> str:
        """The objective as `parse` reads it back."""
        hyper = ",".join(f"{name}={_text(value)}" for name, value in self.hyper)
        return f"{self.name}:{hyper}" if hyper else self.name

    def __str__(self) -> str:
        return self.label


def read_hyper(label: str, name: str) -> dict[str, Hyper]:
    """The hyper-parameters of a label of the objective of this full name; nothing is looked up."""
    pairs = (part.partition("=") for part in label.removeprefix(name).removeprefix(":").split(",") if part)
    return {key: _value(value) for key, _, value in pairs}


BASELINE = ObjectiveSpec("cross_entropy")
"""What the others are compared with, where nothing else is said."""


def members(group: str) -> list[ObjectiveSpec]:
    """The objectives of a group, such as ``@robust``, that a study can train as their papers set them."""
    try:
        named = cards.group(group)
    except KeyError as error:
        raise StudyError(" ".join(str(error.args[0]).split())) from None
    found = []
    for card in named:
        try:
            found.append(ObjectiveSpec.parse(card.name))
        except StudyError:
            continue  # of another form, or with a hyper-parameter that has no default: see `facts` and `canonical`
    if not found:
        raise StudyError(f"no objective of {group} can be compared: a study trains objectives of one label among classes")
    return found


def _value(text: str) -> Hyper:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _text(value: Hyper) -> str:
    return str(value).lower() if isinstance(value, bool) else value if isinstance(value, str) else repr(value)


@dataclass(frozen=True)
class Facts:
    """What a study must know of an objective."""

    function: Callable[..., Any]
    form: str
    needs: tuple[str, ...]
    predicts: str
    hyper: Mapping[str, Any] | None
    """Keyword-only parameters and their defaults; None when the function takes any."""
    card: cards.Card | None = None


def facts(name: str) -> Facts:
    if is_reference(name):
        function = load_reference(name, "objective")
        if not callable(function):
            raise StudyError(f"objective {name!r} must be a function of (logits, target); got {type(function).__name__}")
        try:
            card = cards.get(function.__name__)
        except (KeyError, AttributeError):
            card = None
        if card is None or card.function is not function:
            return Facts(function, "logits", (), "scores", _keywords(function))
    else:
        try:
            card = cards.get(name)
        except KeyError as error:
            raise StudyError(" ".join(str(error.args[0]).split())) from None
    if card.form in NOT_CLASSES:
        raise StudyError(f"objective {card.name} takes {NOT_CLASSES[card.form]}; a study compares objectives of class logits")
    missing = [need for need in card.needs if need not in SERVED]
    if missing:
        raise StudyError(f"objective {card.name} needs {', '.join(missing)}, which a study cannot supply")
    return Facts(card.function, card.form, tuple(card.needs), str(card.predicts), card.hyper, card)


def _keywords(function: Callable[..., Any]) -> Mapping[str, Any] | None:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name: parameter.default for parameter in parameters[2:]}


def is_registered(name: str) -> bool:
    """Whether an objective of that name or alias is known."""
    try:
        cards.get(name)
    except KeyError:
        return False
    return True


def canonical(name: str, hyper: Mapping[str, Hyper]) -> tuple[str, dict[str, Hyper]]:
    """The full name of an objective, and its hyper-parameters checked by name and typed like their defaults (``q=1`` is ``q=1.0``)."""
    known = facts(name)
    full = name if is_reference(name) else known.function.__name__
    if known.hyper is None:
        return full, dict(hyper)
    own = [key for key in known.hyper if key not in known.needs and key != "num_samples"]
    read: dict[str, Any] = {}
    for key, value in hyper.items():
        if key not in own and key != "reduction":
            takes = f"it takes {', '.join(own)}" if own else "it takes none"
            raise StudyError(f"objective {full} has no hyper-parameter {key!r}{nearest(key, own) or '; ' + takes}")
        default = known.hyper.get(key)
        read[key] = float(value) if isinstance(default, float) and type(value) is int else value
    required = [key for key in own if known.hyper[key] is inspect.Parameter.empty and key not in read]
    if required:
        raise StudyError(f"objective {full} needs a value for {', '.join(required)}: write {full}:{required[0]}=...")
    return full, read


def source(name: str) -> str:
    """The hash of the file that defines the objective."""
    return source_hash(facts(name).function)


def predicts_probabilities(name: str) -> bool:
    """Whether softmax of the trained logits is meant as probabilities; for a function without a card nobody has said so."""
    return facts(name).predicts == "probabilities"
