"""The default search: points that fill the space evenly however few they are, drawn anew for every split.

The first configuration is what one would take without any tuning. The others are a Halton sequence, scrambled by the number of the split:
all objectives meet the same learning rates and weight decays there, so that luck in the draw is shared, as the luck of the split is.
"""

from lossmith.study.data.splits import stream
from lossmith.study.tuning.configuration import Configuration
from lossmith.study.tuning.space import Space


def quasi_random(space: Space, number: int, draw: int) -> list[Configuration]:
    """So many configurations, the default first.

    Args:
        space: where.
        number: how many, the default included.
        draw: the number of the split that they are tried on.
    """
    from scipy.stats import qmc

    if number == 1:
        return [space.usual]
    # the first two axes do not depend on how many others there are: each axis is scrambled after the one before
    halton = qmc.Halton(d=len(space.dimensions), scramble=True, seed=stream(draw, "tuning"))
    return [space.usual, *map(space.at, halton.random(number - 1))]
