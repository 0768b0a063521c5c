"""How far stated probabilities may be believed, and how to mend them: calibration errors, temperature scaling, and scores of
how far an input is from the training data."""

from lossmith.calibration.errors import (
    ReliabilityCurve,
    area_under_risk_coverage,
    expected_calibration_error,
    reliability_curve,
)
from lossmith.calibration.out_of_distribution import false_positive_rate, ood_auroc, ood_score
from lossmith.calibration.temperature import fit_temperature

__all__ = [
    "ReliabilityCurve",
    "area_under_risk_coverage",
    "expected_calibration_error",
    "false_positive_rate",
    "fit_temperature",
    "ood_auroc",
    "ood_score",
    "reliability_curve",
]
