"""The generators by name."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from lossmith._checks import UnknownName, describe
from lossmith.generators._names import Registry
from lossmith.generators.fgenerator import FGenerator

F = TypeVar("F", bound=Callable[..., FGenerator])


class UnknownGenerator(UnknownName):
    """No generator has that name."""


GENERATORS = Registry("generator", FGenerator, UnknownGenerator, prepare=FGenerator.reverse)

ANY = GENERATORS.hyper_parameter("lossmith.generators, or an FGenerator", "kl", "total_variation", "alpha_tsallis(alpha=0.3)")
"""What a hyper-parameter may be that is a generator: its name, or the object."""


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
    return GENERATORS.register(generator)


def family(*examples: Mapping[str, float]) -> Callable[[F], F]:
    """Make a function of parameters known by its name; `examples` are the settings at which it is listed and tested."""
    return GENERATORS.family(*examples)


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
    return GENERATORS.get(name, **parameters)


def named(function: str, generator: FGenerator | str) -> FGenerator:
    """The generator that a function was given, itself or by its name; a TypeError in that function's name otherwise."""
    g = get(generator) if isinstance(generator, str) else generator
    if not isinstance(g, FGenerator):
        raise TypeError(f"{function}: generator must be an FGenerator or the name of one; got {describe(generator)}")
    return g


def all_generators() -> dict[str, FGenerator]:
    """Every instance, and every family at its example settings, by full name, such as ``"skew_kl(skew=0.1)"``."""
    return GENERATORS.all()
