"""What to look at when something is odd: properties of objectives and of training, measured."""

from lossmith.diagnostics.bayes_risk import BayesRisk, bayes_risk
from lossmith.diagnostics.confident_learning import ConfidentLearning, confident_learning
from lossmith.diagnostics.margins import logit_margins
from lossmith.diagnostics.neural_collapse import NeuralCollapse, neural_collapse
from lossmith.diagnostics.thresholdout import Answer, HoldoutSpentError, Thresholdout

__all__ = [
    "Answer",
    "BayesRisk",
    "ConfidentLearning",
    "HoldoutSpentError",
    "NeuralCollapse",
    "Thresholdout",
    "bayes_risk",
    "confident_learning",
    "logit_margins",
    "neural_collapse",
]
