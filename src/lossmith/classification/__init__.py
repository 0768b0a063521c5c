"""Objectives for choosing one of several classes, and for yes-or-no answers."""

from lossmith.classification.brier import brier_loss
from lossmith.classification.comp_sum import (
    classification_mae,
    comp_sum,
    generalized_cross_entropy,
    sum_exponential,
)
from lossmith.classification.cross_entropy import cross_entropy
from lossmith.classification.h_consistency import h_consistency_bound, h_consistency_transform
from lossmith.classification.ldr_kl import AdaptiveLDR, ldr_kl_loss
from lossmith.classification.logit_adjustment import logit_adjusted
from lossmith.classification.multiclass_hinge import crammer_singer, weston_watkins

__all__ = [
    "AdaptiveLDR",
    "brier_loss",
    "classification_mae",
    "comp_sum",
    "crammer_singer",
    "cross_entropy",
    "generalized_cross_entropy",
    "h_consistency_bound",
    "h_consistency_transform",
    "ldr_kl_loss",
    "logit_adjusted",
    "sum_exponential",
    "weston_watkins",
]
