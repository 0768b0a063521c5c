"""Risks of given losses under the worst distribution near the data: distributionally robust optimisation."""

from lossmith.robust.dro import conditional_value_at_risk, dro_risk, dro_weights

__all__ = ["conditional_value_at_risk", "dro_risk", "dro_weights"]
