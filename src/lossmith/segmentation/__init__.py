"""Objectives on whole masks."""

from lossmith.segmentation.dice import dice_cross_entropy, dice_loss

__all__ = ["dice_cross_entropy", "dice_loss"]
