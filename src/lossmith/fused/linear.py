"""The linear head in place of its logits: a source of logits for every objective, and the row statistics beneath it."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lossmith._checks import describe, holds, validating
from lossmith._moments import Moments
from lossmith._reduce import times
from lossmith._sources import Source
from lossmith._typing import Bool, Float, Hyper, Integer
from lossmith.fused.collectives import copy_to_ranks
from lossmith.fused.engine import Spec
from lossmith.fused.functions import LOG_PROB, frozen_log_prob, stats, transformed, weighted_log_prob
from lossmith.fused.indices import logits_at, top_k
from lossmith.fused.moments import linear_moments
from lossmith.fused.pair_functions import Both
from lossmith.fused.pair_plan import compare, explain_pair
from lossmith.fused.plan import SCHEDULES, Path, Plan, Schedule, asks, block_bytes, check_memory, choose, describe_plan
from lossmith.fused.reference import WANTED, RowStats, softcapped
from lossmith.fused.second import Arguments
from lossmith.fused.shards import SPLIT_ALIKE, check_alike, coded, split_head
from lossmith.fused.sparse import GradientFilter, filtered_log_prob
from lossmith.fused.terms import CROSS_ENTROPY, code_of
from lossmith.fused.tiles import working
from lossmith.generators import FGenerator


class LinearLogits:
    r"""Logits that a linear head would give, without the logits: takes their place in any objective of the form ``log_prob``.

    .. math:: z = \frac{s}{T} \tanh\!\Bigl(\frac{h W^\top + b}{s}\Bigr), \qquad z = \frac{h W^\top + b}{T} \text{ without a softcap}

    ``lossmith.cross_entropy(LinearLogits(hidden, weight), target)`` equals
    ``lossmith.cross_entropy(hidden @ weight.T, target)`` and its gradients, in the memory of the gradients and a tile of logits. It is
    computed in float32 at least whatever the dtypes, autocast or not, and gradients come back in the dtypes of what they belong to.
    Rows that are ignored, or have a sample weight of 0, cost nothing and may hold anything.

    A sum or mean of cross-entropies forms its gradients in the forward pass, in three matrix products. Where more is made of the
    log-probabilities, the logits of d rows (under a wide head, of fewer) wait for the backward pass in the room of the head's gradient, and
    those of the others are computed again, a fourth product; under a head without gradients two are enough. :func:`explain` says which it
    is. Everything is differentiable twice, forwards, and under ``torch.func``; then the logits of a block of rows exist at a time.

    Args:
        hidden: hidden states `(*rows, d)`; a target has the shape of the rows.
        weight: the head `(c, d)`, one row a class, as in `torch.nn.Linear`.
        bias: `(c,)`; -inf masks a class, but under a softcap, which makes -s of it as of every logit far below.
        temperature: the T of the formula, above 0; a number or a 0-d tensor, which may be learnt.
        softcap: the s of the formula, above 0, or None; a number or a 0-d tensor, which may be learnt.
        schedule: "auto"; "forward", an error where gradients cannot be formed in the forward pass; or "recompute", where nothing of the
            head's size is held between the two passes.
        memory: bytes that the logits of a block of rows may take; where they would take more, they are computed again instead. By
            default half of the head's own size in float32, or 32 MiB.
        gradient_filter: a :class:`GradientFilter`, to leave negligible entries out of the gradients; None, so that they are exact. It
            goes with log-probabilities alone, once differentiable, and keeps a block of 256 rows of logits whatever `memory` says.
        group: a process group that the classes are split over: `weight` and `bias` hold this rank's, which may be any number and none, in
            the order of the ranks. Hidden states, targets, class weights and hyper-parameters are whole and the same on every rank,
            and target indices, `ignore_index` and `classes` count all classes. A weight that is a DTensor, Shard(0) on a mesh
            of one axis, needs no `group`.
        shards: how many classes each rank of the group holds. Where it is not given the ranks are asked, a small message a call; inside
            `torch.compile` it has to be given.

    **Gradients over ranks.** Every rank gets the whole gradient of the hidden states (and of temperature, softcap and class weights),
    summed over the ranks, and the head's gradient for its own classes. So nothing is to be summed or averaged over this group
    afterwards: DistributedDataParallel belongs on the axis of ranks that hold other rows, with the head's shard as any parameter. After a
    layer that leaves each rank a part of the sequence (sequence parallelism), gather the hidden states with an operation whose gradient
    takes this rank's part of the gradient as it is, and does not sum over the ranks once more. Every rank has to make the same calls
    in the same order. A head that FSDP2 shards is no such split, for its ranks hold different rows: give the whole weight there.

    Raises:
        TypeError, ValueError: an argument has the wrong dtype, shape or range; or ranks hold different targets or hidden states, which is
            found out on all of them at once (every entry is compared under `lossmith.validate(True)`, sums of them always).

    Source: the tiled logsumexp is that of Wijmans et al. 2024, 'Cut Your Losses in Large-Vocabulary Language Models', arXiv:2411.09009; the
    classes split over ranks are Shoeybi et al. 2019, 'Megatron-LM', arXiv:1909.08053; the exponentials relative to the label, and gradients
    without a filter, are ours.

    Example:
        >>> import torch, lossmith
        >>> from lossmith.fused import LinearLogits
        >>> hidden, weight = torch.randn(6, 8), torch.randn(50, 8)
        >>> target = torch.randint(50, (6,))
        >>> fused = lossmith.generalized_cross_entropy(LinearLogits(hidden, weight), target, q=0.7)
        >>> torch.allclose(fused, lossmith.generalized_cross_entropy(hidden @ weight.T, target, q=0.7), rtol=1e-4)
        True
    """

    def __init__(
        self,
        hidden: Float[Tensor, "*rows d"],
        weight: Float[Tensor, "c d"],
        bias: Float[Tensor, " c"] | None = None,
        *,
        temperature: Hyper = 1.0,
        softcap: Hyper | None = None,
        schedule: Schedule = "auto",
        memory: int | None = None,
        gradient_filter: GradientFilter | None = None,
        group: Any = None,
        shards: Sequence[int] | None = None,
    ) -> None:
        check_head(hidden, weight, bias, split=group is not None)
        _check_positive("temperature", temperature)
        if softcap is not None:
            _check_positive("softcap", softcap)
        if schedule not in SCHEDULES:
            raise ValueError(f"LinearLogits: schedule must be one of {', '.join(map(repr, SCHEDULES))}; got {schedule!r}")
        self.hidden, self.weight, self.bias, self.shards = split_head(hidden, weight, bias, group, shards)
        self.temperature, self.softcap, self.memory = temperature, softcap, check_memory(memory)
        self.schedule: Schedule = schedule
        if not (gradient_filter is None or isinstance(gradient_filter, GradientFilter)):
            raise TypeError(f"LinearLogits: gradient_filter must be a GradientFilter or None; got {describe(gradient_filter)}")
        if gradient_filter is not None and schedule == "forward":
            raise ValueError("LinearLogits: schedule='forward' cannot be followed: gradient_filter needs the final gradient")
        if gradient_filter is not None and self.shards is not None:
            raise ValueError("LinearLogits: gradient_filter is for a head that one process holds whole; this one's classes are split")
        self.gradient_filter = gradient_filter

    @property
    def rows(self) -> torch.Size:
        """The shape of a target."""
        return self.hidden.shape[:-1]

    @property
    def classes(self) -> int:
        """How many classes the head has, on all ranks together."""
        return self.weight.shape[0] if self.shards is None else self.shards.classes

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its statistics: float32 at least."""
        return working(self.hidden, self.weight)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.hidden.device

    def _arguments(self, keep: Tensor | None = None, class_weight: Tensor | None = None) -> Arguments:
        """Hidden states as rows of a matrix, and the temperature in them: z = (s/T) tanh((h/T W' + b/T) / (s/T)).

        Rows that are not kept may hold anything, which a temperature's gradient would multiply by 0: such a quotient has a 0 there.
        """
        hidden, bias, cap = self.hidden.flatten(0, -2) if self.hidden.ndim > 1 else self.hidden.unsqueeze(0), self.bias, self.softcap
        if class_weight is not None and self.shards is not None:
            class_weight = copy_to_ranks(class_weight, self.shards).narrow(0, self.shards.first, self.weight.shape[0])
        if cap is not None:
            cap = cap.to(self.dtype) if isinstance(cap, Tensor) else hidden.new_full((), cap, dtype=self.dtype)
        if isinstance(self.temperature, Tensor) or self.temperature != 1:
            t = self.temperature.to(self.dtype) if isinstance(self.temperature, Tensor) else self.temperature
            if keep is not None and isinstance(t, Tensor):
                hidden = torch.where(keep.reshape(-1, 1), hidden, 0)
            hidden = hidden.to(self.dtype) / t
            if bias is not None:
                bias, masked = bias.to(self.dtype), bias == -torch.inf  # which -inf / t would give t a slope of inf * 0
                by = copy_to_ranks(t, self.shards) if isinstance(t, Tensor) else t
                bias = torch.where(masked, bias, torch.where(masked, 0, bias) / by)
            cap = None if cap is None else cap / t
        return Arguments(hidden, self.weight, bias, cap, class_weight)

    def target_log_prob(self, target: Integer[Tensor, "*rows"], keep: Bool[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        """log p_y of every kept row, 0 elsewhere."""
        at, label = self._arguments(keep), self._label(torch.where(keep, target, -1))
        if self.gradient_filter is not None:
            return filtered_log_prob(at, label, self.gradient_filter).reshape(self.rows)
        path, _ = self._choose(at, known=False, log_prob_alone=True)
        return self._log_prob(at, label, path).reshape(self.rows)

    def weighted_log_prob(
        self, target: Integer[Tensor, "*rows"], keep: Bool[Tensor, "*rows"], weight: Float[Tensor, "*rows"]
    ) -> Float[Tensor, ""]:
        """The sum over the kept rows of weight_i log p_i."""
        at, label, weight = self._arguments(keep), self._label(torch.where(keep, target, -1)), weight.reshape(-1)
        if self.gradient_filter is not None:
            return times(weight, filtered_log_prob(at, label, self.gradient_filter)).sum()
        path, _ = self._choose(at, known=True, log_prob_alone=True)
        if path == "forward":
            wanted = [asks(tensor) for tensor in at[:3]]
            return weighted_log_prob(at, label, weight, wanted, self.shards)
        return times(weight, self._log_prob(at, label, path)).sum()

    def _log_prob(self, at: Arguments, label: Tensor, path: Path) -> Tensor:
        if path == "frozen":
            return frozen_log_prob(at, label, self.shards)
        return stats(at, label, LOG_PROB, self.shards, keep=path == "kept")[:, 0]

    def _choose(self, at: Arguments, *, known: bool, log_prob_alone: bool) -> tuple[Path, str]:
        return choose(at, self.shards, known=known, log_prob_alone=log_prob_alone, schedule=self.schedule, memory=self.memory)

    def _label(self, label: Tensor) -> Tensor:
        """Labels as a vector; where every rank has to hold the same and the user wants to know, it is found out."""
        self._alike("target", label, label >= 0)
        return label.reshape(-1)

    def _alike(self, name: str, given: Tensor, keep: Tensor) -> None:
        """Under :func:`lossmith.validate`: what is given by this name, and the kept rows' hidden states, are the same on every rank."""
        if self.shards is not None and validating() and not (torch.compiler.is_compiling() or transformed()):
            check_alike(name, given, self.shards)
            check_alike("hidden", torch.where(keep.unsqueeze(-1), self.hidden, 0), self.shards)

    def total_log_prob(
        self, target: Integer[Tensor, "*rows"], keep: Bool[Tensor, "*rows"], class_weight: Float[Tensor, " c"] | None
    ) -> tuple[Float[Tensor, "*rows"], Float[Tensor, "*rows"]]:
        """log p_y, and the sum over the classes of w_k log p_k (w = 1 where none is given); 0 in rows that are not kept."""
        found = self.row_stats(("log_prob", "logsumexp", "mean_logit"), torch.where(keep, target, -1), class_weight)
        log_p, lse, mean = found.log_prob, found.logsumexp, found.mean_logit
        assert log_p is not None
        assert lse is not None
        assert mean is not None
        if class_weight is None:
            return log_p, self.classes * (mean - lse)
        return log_p, mean - class_weight.sum() * lse

    def target_moments(self, target: Integer[Tensor, "*rows"], keep: Bool[Tensor, "*rows"]) -> Moments:
        """What an objective of the spherical family asks of every kept row, by products of d x d: no logit is formed."""
        if self.softcap is not None:
            raise ValueError("LinearLogits: the moments of softcapped logits need every logit; leave softcap=None for this objective")
        if self.schedule == "forward":
            raise ValueError("LinearLogits: schedule='forward' cannot be followed: a spherical objective computes no logits")
        self._whole("objectives of the spherical family are")
        found = linear_moments(self._arguments(keep), target.reshape(-1), keep.reshape(-1))
        return Moments(*(piece.reshape(self.rows) if piece.ndim else piece for piece in found))

    def row_stats(
        self, want: tuple[str, ...], label: Tensor, class_weight: Tensor | None = None, temperatures: tuple[float, ...] = ()
    ) -> RowStats:
        """The statistics named, of the rows whose label is at least 0; what :func:`linear_stats` checks and calls."""
        spec = Spec(tuple(name for name in WANTED if name in want), tuple(1 / t for t in temperatures))
        self._unfiltered()
        at = self._arguments(label >= 0, class_weight)
        path, _ = self._choose(at, known=False, log_prob_alone=False)
        out = stats(at, self._label(label), spec, self.shards, keep=path == "kept")
        found = {name: out[:, i].reshape(self.rows) for i, name in enumerate(spec.want)}
        further = out[:, len(spec.want) :].reshape(*self.rows, len(temperatures)) if temperatures else None
        return RowStats(**found, logsumexp_at=further)

    def logits_at(self, classes: Integer[Tensor, "*rows m"], keep: Bool[Tensor, "*rows"]) -> Float[Tensor, "*rows m"]:
        """The logits of some classes of every kept row, without a pass over the vocabulary; 0 elsewhere, and where a class is negative."""
        self._unfiltered()
        self._alike("at", classes, keep)
        at, flat = self._arguments(keep), keep.reshape(-1, 1)
        assert at.x is not None
        assert at.weight is not None
        wanted = torch.where(flat, classes.reshape(flat.shape[0], classes.shape[-1]), -1)
        u = logits_at(torch.where(flat, at.x, 0), at.weight, at.bias, wanted, self.shards)
        return softcapped(u, at.cap).reshape(classes.shape)

    def top_k(self, k: int) -> tuple[Integer[Tensor, "*rows k"], Float[Tensor, "*rows k"]]:
        """The k most likely classes of every row, most likely first, and their log-probabilities, which carry no gradient."""
        self._unfiltered()
        at = Arguments(*(None if part is None else part.detach() for part in self._arguments()))
        assert at.x is not None
        assert at.weight is not None
        classes, log_p = top_k(at.x, at.weight, at.bias, at.cap, k, coded(self.shards))
        return classes.reshape(*self.rows, k), log_p.reshape(*self.rows, k)

    def divergence_from(
        self,
        teacher: Source,
        generator: FGenerator,
        keep: Bool[Tensor, "*rows"],
        *,
        temperature: Hyper = 1.0,
        weight: Float[Tensor, "*rows"] | None = None,
    ) -> Float[Tensor, "*rows"] | Float[Tensor, ""]:
        """D_f(q || p) of a teacher's prediction q and this one p, both at a further temperature; with weights, their weighted sum."""
        if generator.f_log(torch.full((1,), 0.5)).requires_grad:
            raise TypeError(
                f"LinearLogits: the generator {generator.name!r} holds tensors that ask for a gradient, which it would not get: give logits"
            )
        return self._compared(teacher, code_of(generator), keep, None, temperature, weight)

    def cross_entropy_to(
        self,
        teacher: Source,
        keep: Bool[Tensor, "*rows"],
        class_weight: Float[Tensor, " c"] | None = None,
        *,
        weight: Float[Tensor, "*rows"] | None = None,
    ) -> Float[Tensor, "*rows"] | Float[Tensor, ""]:
        """-sum_k v_k q_k log p_k of a teacher's prediction q and this one p; with row weights, their weighted sum."""
        return self._compared(teacher, CROSS_ENTROPY, keep, class_weight, 1.0, weight)

    def _compared(
        self, teacher: Source, code: str, keep: Tensor, class_weight: Tensor | None, temperature: Hyper, weight: Tensor | None
    ) -> Tensor:
        at = self._beside(teacher, keep, class_weight, temperature)
        assert isinstance(teacher, LinearLogits)  # for the type checker: the line above has seen to it
        for side in (self, teacher):
            side._alike("mask", keep, keep)
        each = None if weight is None else weight.reshape(-1).to(self.dtype)
        found = compare(at, keep.reshape(-1), code, each, self.schedule, self.memory, self.shards).to(self.dtype)
        return found.reshape(self.rows) if weight is None else found

    def _beside(self, teacher: Source, keep: Tensor | None = None, class_weight: Tensor | None = None, temperature: Hyper = 1.0) -> Both:
        """Both sides of a comparison, at a further temperature, after the checks of one against the other."""
        if not isinstance(teacher, LinearLogits):
            raise TypeError(f"LinearLogits: the teacher must be a LinearLogits too; got {type(teacher).__name__}")
        for side in (self, teacher):
            side._unfiltered()
        if teacher.schedule not in ("auto", self.schedule) or teacher.memory not in (None, self.memory):
            raise ValueError(
                f"LinearLogits: schedule and memory of a comparison are the student's; the teacher has schedule={teacher.schedule!r} and "
                f"memory={teacher.memory!r}"
            )
        if teacher.shards != self.shards:
            raise ValueError(f"LinearLogits: {SPLIT_ALIKE}")
        if teacher.rows != self.rows or teacher.classes != self.classes:
            raise ValueError(f"LinearLogits: the teacher must have the rows and classes of {self}; got {teacher}")
        if teacher.hidden.device != self.hidden.device:
            raise ValueError(f"LinearLogits: the teacher must be on {self.hidden.device}; it is on {teacher.hidden.device}")
        sides = (side if isinstance(temperature, (int, float)) and temperature == 1 else side.at(temperature) for side in (self, teacher))
        student, other = (side._arguments(keep, v) for side, v in zip(sides, (class_weight, None), strict=True))
        return Both(*student[:4], *other[:4], student.class_weight)

    def at(self, temperature: Hyper) -> "LinearLogits":
        """The same logits divided by a further temperature."""
        _check_positive("temperature", temperature)
        other = copy.copy(self)
        other.temperature = self.temperature * temperature
        return other

    def _whole(self, what: str) -> None:
        """Refuse what is for a head whose classes are all here, and for exact gradients."""
        self._unfiltered()
        if self.shards is not None:
            raise ValueError(f"LinearLogits: {what} for a head that one process holds whole; this one's classes are split")

    def _unfiltered(self) -> None:
        if self.gradient_filter is not None:
            raise ValueError("LinearLogits: gradient_filter goes with log-probabilities alone; this objective asks for other statistics")

    def __repr__(self) -> str:
        split = "" if self.shards is None else f" of {self.classes} classes, {self.shards.words()}"
        return f"LinearLogits({describe(self.hidden)}, {describe(self.weight)}{split})"


def explain(source: LinearLogits, *, loss: str = "sum", teacher: LinearLogits | None = None) -> Plan:
    """Which way a call with these logits takes, why, and what memory it needs.

    Args:
        source: the logits as they would be given to an objective.
        loss: what is made of them: "sum" for cross-entropy's mean or sum; "rows" where log-probabilities are used one by one, as any
            other objective does; "stats" for other row statistics, label smoothing included.
        teacher: the head that they are compared with, if they are: by a divergence, or as soft targets of cross-entropy. Then "sum" is
            for a mean or sum of rows, "rows" for rows one by one.

    Returns:
        A `Plan`, which prints as a few lines of words.

    Raises:
        TypeError, ValueError: an argument is none of these, or the source's schedule cannot be followed.

    Example:
        >>> import torch
        >>> from lossmith.fused import LinearLogits, explain
        >>> hidden, weight = torch.zeros(512, 64, requires_grad=True), torch.zeros(1000, 64, requires_grad=True)
        >>> print(explain(LinearLogits(hidden, weight)))
        gradients formed in the forward pass: 3 matrix products of the size of the logits
        because the loss is a sum of log-probabilities with known weights
        memory: 378 KiB of gradients and 3.055 MiB of buffers; the logits and their gradient would take 3.906 MiB
        tiles of 256 rows x 1000 classes, by chunked torch on the tensors' own device
    """
    if not isinstance(source, LinearLogits):
        raise TypeError(f"explain: source must be a LinearLogits; got {describe(source)}")
    if loss not in ("sum", "rows", "stats"):
        raise ValueError(f"explain: loss must be 'sum', 'rows' or 'stats'; got {loss!r}")
    if teacher is not None:
        if loss == "stats":
            raise ValueError("explain: loss must be 'sum' or 'rows' beside a teacher; got 'stats'")
        return explain_pair(source._beside(teacher), loss == "sum", source.schedule, source.memory, source.shards)
    at = source._arguments()
    path, why = source._choose(at, known=loss == "sum", log_prob_alone=loss != "stats")
    if source.gradient_filter is not None and path != "value":
        plan = describe_plan(at, source.shards, "recompute", "gradient_filter needs the final gradient")
        return replace(plan, classes=source.classes, buffers=plan.buffers + block_bytes(at, source.classes))
    return describe_plan(at, source.shards, path, why)


def check_head(hidden: Tensor, weight: Tensor, bias: Tensor | None, *, split: bool) -> None:
    """Dtypes, shapes and devices of a head, or of a part of it."""
    for name, tensor in (("hidden", hidden), ("weight", weight), ("bias", bias)):
        if tensor is None and name == "bias":
            continue
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise TypeError(f"LinearLogits: {name} must be a floating-point tensor; got {describe(tensor)}")
        if tensor.device != hidden.device:
            raise ValueError(f"LinearLogits: {name} must be on the hidden states' device {hidden.device}; it is on {tensor.device}")
    if hidden.ndim == 0 or hidden.shape[-1] == 0:
        raise ValueError(f"LinearLogits: hidden must have shape (*rows, d); got {describe(hidden)}")
    if weight.ndim != 2 or weight.shape[1] != hidden.shape[-1] or (weight.shape[0] == 0 and not split):
        raise ValueError(f"LinearLogits: weight must have shape (c, {hidden.shape[-1]}); got {describe(weight)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"LinearLogits: bias must have shape ({weight.shape[0]},); got {describe(bias)}")


def _check_positive(name: str, value: Hyper) -> None:
    if isinstance(value, Tensor):
        if value.ndim or not value.is_floating_point():
            raise ValueError(f"LinearLogits: {name} must be a number or a 0-d tensor above 0; got {describe(value)}")
        if not holds(lambda: value > 0, value):
            raise ValueError(f"LinearLogits: {name} must be above 0; got {value.item():g}")
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"LinearLogits: {name} must be a number or a 0-d tensor above 0; got {describe(value)}")
    elif not 0 < value < float("inf"):
        raise ValueError(f"LinearLogits: {name} must be above 0 and finite; got {value!r}")
