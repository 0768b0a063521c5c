"""What to look at when something is odd: properties of objectives and of training, measured."""

from lossmith.diagnostics.bayes_risk import BayesRisk, bayes_risk

__all__ = ["BayesRisk", "bayes_risk"]
