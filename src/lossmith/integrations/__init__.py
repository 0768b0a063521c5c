"""lossmith within other libraries: thin adapters, each of which needs its library only when it is used."""

from lossmith.integrations.boosting import BoostingObjective, as_objective

__all__ = ["BoostingObjective", "as_objective"]
