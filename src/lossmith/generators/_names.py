"""Convex functions by name: instances, and families whose members are written with their parameters, ``skew_kl(skew=0.1)``."""

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar, cast

from lossmith._checks import UnknownName, describe, nearest
from lossmith._ranges import Named
from lossmith.card import Range

C = TypeVar("C")
F = TypeVar("F", bound=Callable[..., Any])


def inside(function: str, argument: str, value: float, allowed: Range) -> float:
    """A plain number in the range, as a float; a ValueError or TypeError that names the argument otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{function}: {argument} must be a number in {allowed}; got {describe(value)}")
    if value not in allowed:
        raise ValueError(f"{function}: {argument} must be in {allowed}; got {value!r}")
    return float(value)


class _Family(NamedTuple):
    function: Callable[..., Any]
    examples: tuple[Mapping[str, float], ...]


class Registry(Generic[C]):
    """All convex functions of one kind.

    Args:
        what: what one of them is called.
        kind: its class; it has a `name`.
        unknown: raised when no function has a name.
        prepare: done to a member of a family when its name is first read, since a compiled graph can use a function but not make one.
    """

    def __init__(self, what: str, kind: type[C], unknown: type[UnknownName], prepare: Callable[[C], Any] = lambda made: None) -> None:
        self._what, self._kind, self._unknown, self._prepare = what, kind, unknown, prepare
        self.instances: dict[str, C] = {}
        self.families: dict[str, _Family] = {}
        self._written_out: dict[str, C] = {}

    def register(self, convex: C) -> C:
        """Make one known by its name, which may be taken once."""
        name: str = getattr(convex, "name")  # noqa: B009 - a type variable has no declared attributes
        self._take(name)
        self.instances[name] = convex
        return convex

    def family(self, *examples: Mapping[str, float]) -> Callable[[F], F]:
        """Make a function of parameters known by its name; `examples` are the settings at which it is listed and tested."""

        def take(function: F) -> F:
            self._take(function.__name__)
            signature = inspect.signature(function)
            made: dict[tuple[float, ...], C] = {}

            @functools.wraps(function)
            def member(*args: float, **parameters: float) -> C:
                # one object for one setting, however it is passed, so that "is its own reverse" is an identity
                setting = signature.bind(*args, **parameters).args
                return made[setting] if setting in made else made.setdefault(setting, function(*setting))

            self.families[function.__name__] = _Family(member, examples)
            return cast(F, member)

        return take

    def _take(self, name: str) -> None:
        if name in self.instances or name in self.families:
            raise ValueError(f"generators: the name {name!r} is taken by another {self._what}")

    def get(self, name: str, **parameters: float) -> C:
        """The one of that name; a family takes its parameters by keyword, or within the name."""
        if name in self.families:
            return self.families[name].function(**parameters)
        if parameters and (name in self.instances or "(" in name):
            has = "its parameters in its name" if "(" in name else "no parameters"
            raise TypeError(f"generators: the {self._what} {name!r} has {has}; got {', '.join(parameters)}")
        if name in self._written_out:
            return self._written_out[name]
        if name not in self.instances:
            member = self._member(name)
            if member is None:
                raise self._unknown(f"no {self._what} is called {name!r}{nearest(name, [*self.instances, *self.families])}")
            self._written_out[name] = member
            return member
        return self.instances[name]

    def _member(self, name: str) -> C | None:
        """A family's member by its full name."""
        written = re.fullmatch(r"(\w+)\((.*)\)", name)
        if written is None or written[1] not in self.families:
            return None
        parts = [part.partition("=") for part in written[2].split(",") if part.strip()]
        try:
            parameters = {key.strip(): float(value) for key, _, value in parts}
        except ValueError:
            raise ValueError(f"a member of a family is written {written[1]}(parameter=number); got {name!r}") from None
        member = self.families[written[1]].function(**parameters)
        self._prepare(member)
        return member

    def all(self) -> dict[str, C]:
        """Every instance, and every family at its example settings, by full name."""
        members = [family.function(**setting) for family in self.families.values() for setting in family.examples]
        return dict(sorted([*self.instances.items(), *((member.name, member) for member in members)]))

    def known(self) -> list[str]:
        """The names of all instances, and of all families with the parameters they ask for: ``skew_kl(skew=...)``."""
        asking = ((name, inspect.signature(family.function).parameters) for name, family in self.families.items())
        return [*self.instances, *(f"{name}({', '.join(f'{parameter}=...' for parameter in parameters)})" for name, parameters in asking)]

    def hyper_parameter(self, where: str, *examples: str) -> Named:
        """What a hyper-parameter may be that is one of these: its name, or the object."""
        return Named(where, self._kind, self.get, self.known, examples)
