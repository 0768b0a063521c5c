"""Logits that need not exist as a tensor: what an objective may ask of whoever stands for them."""

from typing import Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor

from lossmith._typing import Bool, Float, Integer


@runtime_checkable
class Source(Protocol):
    """Logits that need not exist as a tensor."""

    @property
    def rows(self) -> torch.Size:
        """The shape of an index target."""
        ...

    @property
    def classes(self) -> int: ...


@runtime_checkable
class LogitSource(Source, Protocol):
    """What an objective of the form ``log_prob`` asks of them."""

    def target_log_prob(self, target: Integer[Tensor, "*rows"], keep: Bool[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        """log p_y of every kept row; rows that are not kept may hold any finite number."""
        ...


@runtime_checkable
class SummingSource(LogitSource, Protocol):
    """A source that can also sum: over the classes, which label smoothing asks for, and over the rows.

    Told the weights of the rows' sum in advance, it may form gradients while the logits are at hand.
    """

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its log-probabilities."""
        ...

    @property
    def device(self) -> torch.device: ...

    def total_log_prob(
        self, target: Integer[Tensor, "*rows"], keep: Bool[Tensor, "*rows"], class_weight: Float[Tensor, " c"] | None
    ) -> tuple[Float[Tensor, "*rows"], Float[Tensor, "*rows"]]:
        """log p_y, and the sum over the classes of w_k log p_k (w = 1 where none is given)."""
        ...

    def weighted_log_prob(
        self, target: Integer[Tensor, "*rows"], keep: Bool[Tensor, "*rows"], weight: Float[Tensor, "*rows"]
    ) -> Float[Tensor, ""]:
        """The sum over the kept rows of weight_i log p_i."""
        ...


@runtime_checkable
class SoftSource(SummingSource, Protocol):
    """A source that can also be held to another source's prediction, as a tensor of logits to class probabilities."""

    def cross_entropy_to(
        self,
        teacher: Source,
        keep: Bool[Tensor, "*rows"],
        class_weight: Float[Tensor, " c"] | None,
        *,
        weight: Float[Tensor, "*rows"] | None = None,
    ) -> Float[Tensor, "*rows"] | Float[Tensor, ""]:
        """-sum_k w_k q_k log p_k with the teacher's prediction q, a number a row; with weights, their weighted sum."""
        ...


def is_source(x: object) -> TypeGuard[Source]:
    """Whether it stands for logits, of whose rows it knows log-probabilities or moments. (Dynamo answers ``isinstance`` wrongly.)"""
    return not isinstance(x, Tensor) and (hasattr(x, "target_log_prob") or hasattr(x, "target_moments"))


def can_sum(x: LogitSource) -> TypeGuard[SummingSource]:
    return hasattr(x, "weighted_log_prob")
