"""``lossmith cite``: BibTeX of an objective's source and of the library."""

from lossmith import citation


def cite(objective: str = "", /) -> int:
    """Print BibTeX.

    Args:
        objective: name or alias; without it, only lossmith's own entry.
    """
    if objective:
        print(citation.of(objective.partition(":")[0]))
        print()
    print(citation.own())
    return 0
