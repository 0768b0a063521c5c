"""How far stated probabilities may be believed, and how to mend them: calibration errors and temperature scaling."""

from lossmith.calibration.errors import (
    ReliabilityCurve,
    area_under_risk_coverage,
    expected_calibration_error,
    reliability_curve,
)
from lossmith.calibration.temperature import fit_temperature

__all__ = [
    "ReliabilityCurve",
    "area_under_risk_coverage",
    "expected_calibration_error",
    "fit_temperature",
    "reliability_curve",
]
