"""Objectives for choosing one of several classes, and for yes-or-no answers."""

from lossmith.classification.binary import asymmetric_loss, binary_cross_entropy
from lossmith.classification.bootstrap import bootstrap_loss
from lossmith.classification.brier import brier_loss
from lossmith.classification.comp_sum import (
    classification_mae,
    comp_sum,
    generalized_cross_entropy,
    sum_exponential,
)
from lossmith.classification.cross_entropy import cross_entropy
from lossmith.classification.ensemble import EnsLoss
from lossmith.classification.f_divergence import f_divergence_loss, generalized_jensen_shannon
from lossmith.classification.fenchel_young import entmax_loss, fenchel_young_loss, sparsemax_loss
from lossmith.classification.focal import binary_focal_loss, focal_loss
from lossmith.classification.h_consistency import h_consistency_bound, h_consistency_transform
from lossmith.classification.ldr_kl import AdaptiveLDR, ldr_kl_loss
from lossmith.classification.legendre import LegendreLink
from lossmith.classification.logit_adjustment import logit_adjusted
from lossmith.classification.multiclass_hinge import crammer_singer, weston_watkins
from lossmith.classification.poly import poly_loss
from lossmith.classification.proper import proper_loss_from_entropy
from lossmith.classification.spherical import one_hot_squared_loss, zscore_loss
from lossmith.classification.symmetric import active_passive_loss, symmetric_cross_entropy
from lossmith.classification.taylor import taylor_cross_entropy

__all__ = [
    "AdaptiveLDR",
    "EnsLoss",
    "LegendreLink",
    "active_passive_loss",
    "asymmetric_loss",
    "binary_cross_entropy",
    "binary_focal_loss",
    "bootstrap_loss",
    "brier_loss",
    "classification_mae",
    "comp_sum",
    "crammer_singer",
    "cross_entropy",
    "entmax_loss",
    "f_divergence_loss",
    "fenchel_young_loss",
    "focal_loss",
    "generalized_cross_entropy",
    "generalized_jensen_shannon",
    "h_consistency_bound",
    "h_consistency_transform",
    "ldr_kl_loss",
    "logit_adjusted",
    "one_hot_squared_loss",
    "poly_loss",
    "proper_loss_from_entropy",
    "sparsemax_loss",
    "sum_exponential",
    "symmetric_cross_entropy",
    "taylor_cross_entropy",
    "weston_watkins",
    "zscore_loss",
]
