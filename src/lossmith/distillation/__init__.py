"""Objectives that hold a student to a teacher's predictions."""

from lossmith.distillation.divergence import divergence_distillation

__all__ = ["divergence_distillation"]
