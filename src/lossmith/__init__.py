"""lossmith: training objectives for PyTorch, behind one convention and held to their word.

Every objective is a function on torch's shapes, ``lossmith.generalized_cross_entropy(logits, target, q=0.7)``, found by its standard
name here or in its room (``lossmith.classification``). Rooms are imported when first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

from lossmith import card
from lossmith._checks import validate
from lossmith._module import objective
from lossmith._reduce import denominator

if TYPE_CHECKING:  # the stars, so that type checkers know every name that __getattr__ finds
    from lossmith.classification import *  # noqa: F403
    from lossmith.distillation import *  # noqa: F403
    from lossmith.estimate import Estimate
    from lossmith.segmentation import *  # noqa: F403

__version__ = "0.1.0"

_SUBPACKAGES = (
    *card.ROOMS,
    "calibration",
    "conformance",
    "diagnostics",
    "divergences",
    "estimate",
    "fused",
    "generators",
    "integrations",
    "robust",
    "study",
)


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module 'lossmith' has no attribute {name!r}")
    if name in _SUBPACKAGES:
        return importlib.import_module(f"lossmith.{name}")
    if name == "Estimate":
        return importlib.import_module("lossmith.estimate").Estimate
    for room in card.ROOMS:
        module = importlib.import_module(f"lossmith.{room}")
        if name in module.__all__:
            globals()[name] = getattr(module, name)  # the next time it is found without asking
            return globals()[name]
    from lossmith._checks import nearest

    raise AttributeError(f"module 'lossmith' has no attribute {name!r}{nearest(name, __dir__())}")


def __dir__() -> list[str]:
    rooms = [importlib.import_module(f"lossmith.{room}") for room in card.ROOMS]
    return sorted({*__all__, *_SUBPACKAGES, *(name for room in rooms for name in room.__all__)})


__all__ = ["Estimate", "card", "denominator", "objective", "validate"]
