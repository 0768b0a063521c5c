"""The worst that could be: risks under the worst distribution near the data, and inputs changed for the worse."""

from lossmith.robust.attacks import fgsm, pgd
from lossmith.robust.dro import conditional_value_at_risk, dro_risk, dro_weights

__all__ = ["conditional_value_at_risk", "dro_risk", "dro_weights", "fgsm", "pgd"]
