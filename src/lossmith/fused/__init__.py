"""Objectives at a large vocabulary: the linear head and the objective together, without the logits.

:class:`LinearLogits` takes the place of logits in every objective of the form ``log_prob``:
``lossmith.focal_loss(LinearLogits(hidden, weight), target)``. Beneath it are row statistics (:func:`linear_stats`,
:func:`linear_log_prob`), divergences from a second head (:func:`linear_divergence`) and the most likely classes (:func:`linear_top_k`),
differentiable in every way torch knows. The classes may be split over the ranks of a process group.
:func:`explain` says which way a call takes and what memory it needs; :class:`backend` chooses what computes it.
:class:`Logits` is for logits that exist already. Objectives of the spherical family (``lossmith.zscore_loss``) take :class:`LinearLogits`
too, without forming a logit, and :class:`SphericalHead`, whose value and update do not depend on the number of classes.
:func:`head_of` takes the head off a model, Hugging Face's or any other, sharded or not.
"""

from lossmith.fused.backends import backend
from lossmith.fused.divergence import linear_divergence
from lossmith.fused.head import Head, head_of
from lossmith.fused.linear import LinearLogits, explain
from lossmith.fused.logits import Logits
from lossmith.fused.plan import Plan
from lossmith.fused.reference import RowStats
from lossmith.fused.sparse import GradientFilter
from lossmith.fused.spherical import SphericalHead, SphericalLogits
from lossmith.fused.statistics import linear_log_prob, linear_stats, linear_top_k

__all__ = [
    "GradientFilter",
    "Head",
    "LinearLogits",
    "Logits",
    "Plan",
    "RowStats",
    "SphericalHead",
    "SphericalLogits",
    "backend",
    "explain",
    "head_of",
    "linear_divergence",
    "linear_log_prob",
    "linear_stats",
    "linear_top_k",
]
