"""The generators by name: the instances, and the families with a parameter."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar, cast

from lossmith._checks import describe, nearest
from lossmith._ranges import Named
from lossmith.generators._parameters import asking, written_out
from lossmith.generators.fgenerator import FGenerator

F = TypeVar("F", bound=Callable[..., FGenerator])


class _Family(NamedTuple):
    function: Callable[..., FGenerator]
    examples: tuple[Mapping[str, float], ...]


_instances: dict[str, FGenerator] = {}
_families: dict[str, _Family] = {}
_written_out: dict[str, FGenerator] = {}
"""Members of families by the name they were asked for with, parameters included: found without reading it again, also in a graph."""


class UnknownGenerator(KeyError):
    """No generator has that name."""

    def __str__(self) -> str:
        return str(self.args[0])


def register(generator: FGenerator) -> FGenerator:
    """Make a generator known by its name, and return it. A name may be taken once.

    Example:
        >>> import torch
        >>> from lossmith import generators
        >>> from lossmith.generators import FGenerator
        >>> cubic = generators.register(FGenerator.from_function(lambda u: (u**3 - 1) / 3 - (u - 1), name="cubic"))
        >>> generators.get("cubic") is cubic
        True
    """
    _take(generator.name)
    _instances[generator.name] = generator
    return generator


def family(*examples: Mapping[str, float]) -> Callable[[F], F]:
    """Make a function of parameters known by its name; `examples` are the settings at which it is listed and tested."""

    def take(function: F) -> F:
        _take(function.__name__)
        signature = inspect.signature(function)
        made: dict[tuple[float, ...], FGenerator] = {}

        @functools.wraps(function)
        def member(*args: float, **parameters: float) -> FGenerator:
            # one object for one setting, however it is passed, so that "is its own reverse" is an identity
            setting = signature.bind(*args, **parameters).args
            return made[setting] if setting in made else made.setdefault(setting, function(*setting))

        _families[function.__name__] = _Family(member, examples)
        return cast(F, member)

    return take


def _take(name: str) -> None:
    if name in _instances or name in _families:
        raise ValueError(f"generators.register: the name {name!r} is taken")


def get(name: str, **parameters: float) -> FGenerator:
    """The generator of that name; a family takes its parameters by keyword, or within the name.

    Example:
        >>> from lossmith import generators
        >>> generators.get("alpha_cichocki", alpha=0.5)
        FGenerator(alpha_cichocki(alpha=0.5): \\frac{u^\\alpha - 1 - \\alpha (u - 1)}{\\alpha (\\alpha - 1)}, \\alpha = 0.5)
        >>> generators.get("skew_kl(skew=0.1)") is generators.skew_kl(0.1)
        True
        >>> generators.get("reverse_lk")
        Traceback (most recent call last):
        ...
        lossmith.generators.registry.UnknownGenerator: no generator is called 'reverse_lk'; did you mean 'reverse_kl'?
    """
    if name in _families:
        return _families[name].function(**parameters)
    if name in _written_out and not parameters:
        return _written_out[name]
    if name not in _instances:
        member = _member(name)
        if member is None:
            raise UnknownGenerator(f"no generator is called {name!r}{nearest(name, [*_instances, *_families])}")
        _written_out[name] = member
        return get(name, **parameters)
    if parameters:
        raise TypeError(f"generators.get: {name!r} has no parameters; got {', '.join(parameters)}")
    return _instances[name]


def _member(name: str) -> FGenerator | None:
    """A family's member by its full name, such as ``"skew_kl(skew=0.1)"``."""
    written = written_out(name)
    if written is None or written[0] not in _families:
        return None
    family, parameters = written
    member = _families[family].function(**parameters)
    member.reverse()  # a graph can use a generator but not make one
    return member


def known() -> list[str]:
    """The names of all instances, and of all families with the parameters they ask for."""
    return [*_instances, *(asking(family.function) for family in _families.values())]


ANY = Named("lossmith.generators, or an FGenerator", FGenerator, get, known, ("kl", "total_variation", "alpha_tsallis(alpha=0.3)"))
"""What a hyper-parameter may be that is a generator: its name, or the object."""


def named(function: str, generator: FGenerator | str) -> FGenerator:
    """The generator that a function was given, itself or by its name; a TypeError in that function's name otherwise."""
    g = get(generator) if isinstance(generator, str) else generator
    if not isinstance(g, FGenerator):
        raise TypeError(f"{function}: generator must be an FGenerator or the name of one; got {describe(generator)}")
    return g


def all_generators() -> dict[str, FGenerator]:
    """Every instance, and every family at its example settings, by full name, such as ``"skew_kl(skew=0.1)"``."""
    members = [family.function(**setting) for family in _families.values() for setting in family.examples]
    return dict(sorted([*_instances.items(), *((g.name, g) for g in members)]))
