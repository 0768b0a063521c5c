"""The entropies by name."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from lossmith._checks import UnknownName
from lossmith.generators._names import Registry
from lossmith.generators.entropy import Entropy

F = TypeVar("F", bound=Callable[..., Entropy])


class UnknownEntropy(UnknownName):
    """No entropy has that name."""


ENTROPIES = Registry("entropy", Entropy, UnknownEntropy)

ANY_ENTROPY = ENTROPIES.hyper_parameter("lossmith.generators' entropies, or an Entropy", "gini", "tsallis(alpha=1.5)")
"""What a hyper-parameter may be that is an entropy: its name, or the object."""


def register_entropy(entropy: Entropy) -> Entropy:
    """Make an entropy known by its name, and return it. A name may be taken once."""
    return ENTROPIES.register(entropy)


def entropy_family(*examples: Mapping[str, float]) -> Callable[[F], F]:
    """Make a function of parameters known by its name; `examples` are the settings at which it is listed and tested."""
    return ENTROPIES.family(*examples)


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
    return ENTROPIES.get(name, **parameters)


def all_entropies() -> dict[str, Entropy]:
    """Every instance, and every family at its example settings, by full name, such as ``"tsallis(alpha=1.5)"``."""
    return ENTROPIES.all()
