"""Objectives and models as a user would write them, for the tests of the study."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lossmith

SEEN: list[tuple[str, Tensor]] = []
"""What the recording objectives were called with."""


def plain(logits: Tensor, target: Tensor) -> Tensor:
    SEEN.append(("plain", logits.detach().clone()))
    return F.cross_entropy(logits, target)


def scaled(logits: Tensor, target: Tensor, factor: float = 1.0) -> Tensor:
    SEEN.append(("scaled", target.clone()))
    return factor * F.cross_entropy(logits, target)


def still(logits: Tensor, target: Tensor) -> Tensor:
    """Nothing to learn: the gradient is zero, and the weights stay where they started."""
    SEEN.append(("still", torch.cat([logits.detach(), target[:, None].float()], 1)))
    return (0 * logits).sum()


def still_too(logits: Tensor, target: Tensor) -> Tensor:
    return still(logits, target)


def exploding(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits, target) + torch.log(0 * logits.sum())


def wrong_way(logits: Tensor, target: Tensor) -> Tensor:
    return -F.cross_entropy(logits, target)


def picky(logits: Tensor, target: Tensor, power: float = 1.0) -> Tensor:
    if not 0 < power <= 1:
        raise ValueError(f"picky: power must be in (0, 1]; got {power}")
    return F.cross_entropy(logits, target) ** power


def per_row(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits, target, reduction="none")


def noisy(logits: Tensor, target: Tensor) -> Tensor:
    """Draws random numbers, as a function that smooths by sampling would."""
    return F.cross_entropy(logits + 0.1 * torch.randn_like(logits), target)


def late(logits: Tensor, target: Tensor) -> Tensor:
    """Fails, but only once training is under way."""
    SEEN.append(("late", target))
    if len([name for name, _ in SEEN if name == "late"]) > 3:
        raise RuntimeError("late\ntrouble")
    return F.cross_entropy(logits, target)


def with_dropout(in_features: int, n_classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(in_features, 8), nn.Dropout(0.5), nn.Linear(8, n_classes))


def too_wide(in_features: int, n_classes: int) -> nn.Module:
    return nn.Linear(in_features, n_classes + 1)


def broken(in_features: int, n_classes: int) -> nn.Module:
    return nn.Linear(in_features + 1, n_classes)


def frozen(in_features: int, n_classes: int) -> nn.Module:
    return nn.Linear(in_features, n_classes).requires_grad_(False)


def on_flipped_labels(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy with every label replaced by the next class."""
    return lossmith.cross_entropy(logits, (target + 1) % logits.shape[1])


def another_name(logits: Tensor, target: Tensor) -> Tensor:
    return lossmith.cross_entropy(logits, target)
