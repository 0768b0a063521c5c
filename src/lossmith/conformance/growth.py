"""How fast a loss grows with the scale of its logits: measured, to be held against a claim or to know what may overflow."""

from lossmith._subject import Subject
from lossmith.conformance.problems import problem

GROWTHS = ("bounded", "linear", "quadratic", "exponential")
"""From the slowest to the fastest."""


def measured_growth(subject: Subject, seed: int) -> str:
    """By what factor the loss grows when its logits are doubled, far out."""
    z, y = problem(subject.form, seed, n=64, classes=3)
    z = z / z.abs().amax()
    at_0, at_50, at_100 = (subject.rows(scale * z, y) for scale in (0.0, 50.0, 100.0))
    near, far = (at_50 - at_0).max().item(), (at_100 - at_0).max().item()
    factor = far / near if near > 1e-6 else 1.0
    return GROWTHS[sum(factor >= bound for bound in (1.4, 2.8, 8.0))]
