"""The entropies by name: the instances, and the families with a parameter."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar, cast

from lossmith._checks import nearest
from lossmith._ranges import Named
from lossmith.generators._parameters import asking, written_out
from lossmith.generators.entropy import Entropy

F = TypeVar("F", bound=Callable[..., Entropy])


class _Family(NamedTuple):
    function: Callable[..., Entropy]
    examples: tuple[Mapping[str, float], ...]


_instances: dict[str, Entropy] = {}
_families: dict[str, _Family] = {}
_written_out: dict[str, Entropy] = {}
"""Members of families by the name they were asked for with, parameters included: found without reading it again, also in a graph."""


class UnknownEntropy(KeyError):
    """No entropy has that name."""

    def __str__(self) -> str:
        return str(self.args[0])


def register_entropy(entropy: Entropy) -> Entropy:
    """Make an entropy known by its name, and return it. A name may be taken once."""
    _take(entropy.name)
    _instances[entropy.name] = entropy
    return entropy


def entropy_family(*examples: Mapping[str, float]) -> Callable[[F], F]:
    """Make a function of parameters known by its name; `examples` are the settings at which it is listed and tested."""

    def take(function: F) -> F:
        _take(function.__name__)
        signature = inspect.signature(function)
        made: dict[tuple[float, ...], Entropy] = {}

        @functools.wraps(function)
        def member(*args: float, **parameters: float) -> Entropy:
            # one object for one setting, however it is passed
            setting = signature.bind(*args, **parameters).args
            return made[setting] if setting in made else made.setdefault(setting, function(*setting))

        _families[function.__name__] = _Family(member, examples)
        return cast(F, member)

    return take


def _take(name: str) -> None:
    if name in _instances or name in _families:
        raise ValueError(f"generators.register_entropy: the name {name!r} is taken")


def get_entropy(name: str, **parameters: float) -> Entropy:
    """The entropy of that name; a family takes its parameters by keyword, or within the name.

    Example:
        >>> from lossmith import generators
        >>> generators.get_entropy("gini") is generators.gini is generators.get_entropy("tsallis", alpha=2.0)
        True
        >>> generators.get_entropy("tsallis(alpha=1.5)") is generators.tsallis(1.5)
        True
        >>> generators.get_entropy("shanon")
        Traceback (most recent call last):
        ...
        lossmith.generators.entropy_registry.UnknownEntropy: no entropy is called 'shanon'; did you mean 'shannon'?
    """
    if name in _families:
        return _families[name].function(**parameters)
    if name in _written_out and not parameters:
        return _written_out[name]
    if name not in _instances:
        written = written_out(name)
        if written is None or written[0] not in _families:
            raise UnknownEntropy(f"no entropy is called {name!r}{nearest(name, [*_instances, *_families])}")
        _written_out[name] = _families[written[0]].function(**written[1])
        return get_entropy(name, **parameters)
    if parameters:
        raise TypeError(f"generators.get_entropy: {name!r} has no parameters; got {', '.join(parameters)}")
    return _instances[name]


def all_entropies() -> dict[str, Entropy]:
    """Every instance, and every family at its example settings, by full name, such as ``"tsallis(alpha=1.5)"``."""
    members = [family.function(**setting) for family in _families.values() for setting in family.examples]
    return dict(sorted([*_instances.items(), *((e.name, e) for e in members)]))


def known_entropies() -> list[str]:
    """The names of all instances, and of all families with the parameters they ask for."""
    return [*_instances, *(asking(family.function) for family in _families.values())]


ANY_ENTROPY = Named("lossmith.generators' entropies, or an Entropy", Entropy, get_entropy, known_entropies, ("gini", "tsallis(alpha=1.5)"))
"""What a hyper-parameter may be that is an entropy: its name, or the object."""
