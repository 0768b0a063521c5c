r"""The chunked engine for two heads: divergences of a teacher's rows from a student's, without the logits of either.

A row is normalised by its largest logit and the sum S of the *other* exponentials, :math:`\log p_k = (z_k - z_{\max}) - \log(1 + S)`, found
in one pass, so that a row that both are sure of keeps its digits. The sums of the shares A and B (:mod:`lossmith.fused.terms`) are one
number a row each, and give value and gradients.

Where a block of rows of both logits may be kept, the teacher's and the student's logits are computed once; where not, a tile of each is
computed twice, first for the normalisation and then for the sums. Rows whose ratios leave the safe range, and rows with classes that one
side excludes and the other does not, are done again by the plain definition, a few at a time.

Where the classes are split over ranks, both heads alike, each rank normalises and sums over its own: what is found of a block of rows is
merged in three messages.

Everything here is called from behind an opaque operator (:mod:`lossmith.fused.pair_functions`): it may look at values, and works in place.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lossmith.fused.collectives import log_softmax
from lossmith.fused.engine import FEW, SAFE, _from_exponentials
from lossmith.fused.shards import add_up, sketch, total, total_of_labels
from lossmith.fused.sides import Normaliser, Side, both_working, over_ranks
from lossmith.fused.slopes import NOTHING, Gradients, _accumulate, _curb, _product
from lossmith.fused.terms import CrossEntropy, Divergence
from lossmith.fused.tiles import ROWS, blocks, raised, rows_of_logits, spans, unit

Terms = Divergence | CrossEntropy

SIXTEEN = 16
"""Rows that a vector of the processor holds, or a small multiple of it."""
COLUMNS = 8
"""What is kept of a row: its value, reference and log(1 + S) of student and teacher, both sums of shares, whether it was done again."""


class _Block:
    """A block of rows of both sides with what is known of them.

    Its logits, and what is subtracted from them, are in the unit whose exponentials are raised: the hidden states are multiplied by it and
    not the differences that are exponentiated, so that p, q and their log ratio agree to the last digits. Shares of close rows cancel.
    """

    def __init__(self, student: Side, teacher: Side, v: Tensor | None, terms: Terms) -> None:
        self.student, self.teacher, self.v, self.terms = student, teacher, v, terms
        head, self.unit = student.head, unit(student.x)
        self.scaled = student.scaled(self.unit), teacher.scaled(self.unit)
        self.classes, self.width = head.classes, head.width
        self.beside = student.x.new_empty(student.x.shape[0], self.width)

    def normalise(self, z: Tensor | None, t: Tensor | None) -> None:
        """Find the normalisation of both, and fill z and t, as wide as the classes, with the logits if they are there."""
        of = Normaliser(self.student.x), Normaliser(self.teacher.x)
        for start, stop in spans(self.classes, self.width):
            for side, kept, normaliser in zip(self.scaled, (z, t), of, strict=True):
                out = self.student.x.new_empty(self.beside.shape[0], stop - start) if kept is None else kept[:, start:stop]
                normaliser.see(side.logits(start, stop, out), self.beside[:, : stop - start])
        over_ranks(of, self.student.head.shards)
        self.norm = of[0].found(), of[1].found()

    def logs(self, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities (b, a) of a tile, in place of its logits; the reference goes first, which is exact for the largest."""
        (top, delta), (top_t, delta_t) = self.norm
        return z.sub_(top).sub_(delta), t.sub_(top_t).sub_(delta_t)

    def tile(self, b: Tensor, a: Tensor, start: int, stop: int, *, in_place: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """(p, q, A, B, log ratio) of a tile of log-probabilities; `in_place`: p and A take the room of b and a, and q is overwritten."""
        ratio = a - b
        if self.unit != 1:
            ratio.mul_(1 / self.unit)
        log_p = torch.mul(b, 1 / self.unit) if self.terms.of_logs else b
        p, q = raised(b), raised(a)
        v = None if self.v is None else self.v[start:stop].to(b.dtype)
        into = (a, self.beside[:, : stop - start]) if in_place else (torch.empty_like(a), torch.empty_like(a))
        share_a, share_b = self.terms.of_tile(log_p, p, q, ratio, v, into)
        return p, q, share_a, share_b, ratio

    def start_sums(self) -> None:
        x = self.student.x
        self.sum_a, self.sum_b = x.new_zeros(x.shape[0]), x.new_zeros(x.shape[0])
        self.beyond = torch.zeros(x.shape[0], dtype=torch.bool, device=x.device)

    def add(self, share_a: Tensor, share_b: Tensor, ratio: Tensor) -> None:
        self.sum_a += share_a.sum(1)
        self.sum_b += share_b.sum(1)
        if self.terms.high < torch.inf:
            self.beyond |= ratio.amax(1) > self.terms.high
        if self.terms.low > -torch.inf:
            self.beyond |= ratio.amin(1) < self.terms.low

    def add_ranks(self) -> None:
        """The sums over the classes of all ranks; what is decided by them is decided alike everywhere."""
        if (shards := self.student.head.shards) is not None:
            self.sum_a, self.sum_b, beyond = total(torch.stack([self.sum_a, self.sum_b, self.beyond.to(self.sum_a.dtype)]), shards)
            self.beyond = beyond > 0

    def lost(self) -> Tensor:
        """Rows to be done again."""
        sound = (self.sum_a.abs() < SAFE) & (self.sum_b.abs() < SAFE) & ~self.beyond
        for top, delta in self.norm:
            sound &= (top > NOTHING / 2).squeeze(1) & top.isfinite().squeeze(1) & delta.isfinite().squeeze(1)
        return ~sound

    def columns(self) -> Tensor:
        """What is kept of the rows."""
        (top, delta), (top_t, delta_t) = self.norm
        value = self.terms.value(self.sum_a, self.sum_b)
        rows = [value, top.squeeze(1), delta.squeeze(1), top_t.squeeze(1), delta_t.squeeze(1), self.sum_a, self.sum_b]
        return torch.stack([*rows, torch.zeros_like(value)], 1)


def again(student: Side, teacher: Side, v: Tensor | None, terms: Terms) -> tuple[Tensor, Tensor, Tensor]:
    """(value, slope by the student's logits, slope by the teacher's) of a few rows, by the definition."""
    shards = student.head.shards
    b, a = log_softmax(student.dense(), shards), log_softmax(teacher.dense(), shards)
    term, share_a, share_b = terms.shares(a, b, None if v is None else v.to(b.dtype))
    value, sum_a, sum_b = total(torch.stack([term.sum(1), share_a.sum(1), share_b.sum(1)]), shards)
    return value, share_a - b.exp() * sum_a.unsqueeze(1), share_b - a.exp() * sum_b.unsqueeze(1)


def _curbed(slope: Tensor, side: Side) -> Tensor:
    return slope if side.head.cap is None else slope * _curb(side.dense(), side.head.cap)


def pair_stats(student: Side, teacher: Side, v: Tensor | None, keep: Tensor, terms: Terms, rows: int) -> Tensor:
    """`(n, COLUMNS)` of the kept rows, zeros elsewhere; blocks of `rows` rows of logits are kept, or none if that is 0."""
    dtype = both_working(student, teacher)
    _check_rows(student, teacher, keep, dtype)
    out = torch.zeros(student.x.shape[0], COLUMNS, dtype=dtype, device=student.x.device)
    kept = keep.nonzero().squeeze(1)
    for at in blocks(kept, _even(kept.numel(), rows or ROWS)):
        block = _Block(student.rows(at, dtype), teacher.rows(at, dtype), v, terms)
        out[at] = _block_stats(block, kept=rows > 0)
    return out


def _check_rows(student: Side, teacher: Side, keep: Tensor, dtype: torch.dtype) -> None:
    """Over ranks: whether all keep the same rows, and hold the same hidden states of both."""
    if student.head.shards is not None:
        kept = keep.nonzero().squeeze(1)
        sketches = {"hidden": sketch(student.x, kept, dtype), "teacher_hidden": sketch(teacher.x, kept, dtype)}
        total_of_labels(student.x.new_empty(0, dtype=dtype), keep.long(), student.head.shards, "mask", **sketches)


def _even(count: int, rows: int) -> int:
    """Rows a block, `rows` at most, so that no block is much smaller than the others: a product of few rows is slow, or of ragged ones."""
    even = max(1, -(-count // max(1, -(-count // rows))))
    return min(rows, -(-even // SIXTEEN) * SIXTEEN)


def _block_stats(block: _Block, *, kept: bool) -> Tensor:
    x = block.student.x
    z, t = (rows_of_logits(x.shape[0], block.classes if kept else block.width, x) for _ in range(2))
    block.normalise(*(z, t) if kept else (None, None))
    block.start_sums()
    for start, stop in spans(block.classes, block.width):
        here = slice(start, stop) if kept else slice(0, stop - start)
        if not kept:
            for side, out in zip(block.scaled, (z, t), strict=True):
                side.logits(start, stop, out[:, here])
        _, _, share_a, share_b, ratio = block.tile(*block.logs(z[:, here], t[:, here]), start, stop, in_place=True)
        block.add(share_a, share_b, ratio)
    block.add_ranks()
    out = block.columns()
    for some in blocks(block.lost().nonzero().squeeze(1), FEW):
        out[some, 0] = again(block.student.rows(some, x.dtype), block.teacher.rows(some, x.dtype), block.v, block.terms)[0]
        out[some, -1] = 1
    return out


def pair_and_gradients(
    student: Side, teacher: Side, v: Tensor | None, keep: Tensor, upstream: Tensor, terms: Terms, rows: int, wanted: str
) -> tuple[Tensor, Gradients, Gradients]:
    """Values of the kept rows, and the gradients of `(value * upstream).sum()` from the logits at hand: 4 products, 6 if both learn.

    `wanted` has a letter for hidden states, weight and bias of the student, then of the teacher.
    """
    dtype = both_working(student, teacher)
    _check_rows(student, teacher, keep, dtype)
    out = torch.zeros(student.x.shape[0], dtype=dtype, device=student.x.device)
    found = (
        student.zeros(wanted[:3] + "nn", dtype),
        teacher.zeros(wanted[3:] + "nn", dtype),
    )
    kept = keep.nonzero().squeeze(1)
    rows = _even(kept.numel(), rows)
    buffers = [rows_of_logits(rows, student.head.classes, out) for _ in range(2)]
    for at in blocks(kept, rows):
        z, t = (buffer[: at.numel()] for buffer in buffers)
        block = _Block(student.rows(at, dtype), teacher.rows(at, dtype), v, terms)
        out[at], by_z, by_t = _slopes(block, z, t) if "y" in wanted[3:] else (*_student_slope(block, z, t), None)
        scale = upstream[at].to(dtype)
        _from_exponentials(by_z, scale, block.student.x, at, student.head, found[0])
        if by_t is not None:
            _from_exponentials(by_t, scale, block.teacher.x, at, teacher.head, found[1])
    add_up((found[0].x, found[1].x), student.head.shards)
    return out, *found


def _student_slope(block: _Block, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """(values, slope by the student's logits before the softcap), the latter in place of the teacher's logits: p has the student's."""
    block.normalise(z, t)
    block.start_sums()
    cap = block.scaled[0].head.cap
    for start, stop in spans(block.classes, block.width):
        some, other = z[:, start:stop], t[:, start:stop]
        curb = None if cap is None else _curb(some, cap)
        p, _, share_a, share_b, ratio = block.tile(*block.logs(some, other), start, stop, in_place=True)
        block.add(share_a, share_b, ratio)
        if curb is not None:
            share_a *= curb
            p *= curb
    block.add_ranks()
    value, lost = block.columns()[:, 0], block.lost()
    if not block.terms.level:
        t.addcmul_(z, -block.sum_a.unsqueeze(1))
    for some in blocks(lost.nonzero().squeeze(1), FEW):
        few, few_t = block.student.rows(some, z.dtype), block.teacher.rows(some, z.dtype)
        value[some], by_z, _ = again(few, few_t, block.v, block.terms)
        t[some] = _curbed(by_z, few)
    return value, t


def _slopes(block: _Block, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(values, slope by the student's logits before the softcap, the same by the teacher's), each in its logits' place."""
    block.normalise(z, t)
    block.start_sums()
    cap, cap_t = (side.head.cap for side in block.scaled)
    for start, stop in spans(block.classes, block.width):
        block.add(*block.tile(*block.logs(z[:, start:stop].clone(), t[:, start:stop].clone()), start, stop)[2:])
    block.add_ranks()
    value, lost = block.columns()[:, 0], block.lost()
    sum_a, sum_b = block.sum_a.unsqueeze(1), block.sum_b.unsqueeze(1)
    for start, stop in spans(block.classes, block.width):
        some, other = z[:, start:stop], t[:, start:stop]
        curb, curb_t = (None if c is None else _curb(tile, c) for tile, c in ((some, cap), (other, cap_t)))
        p, q, share_a, share_b, _ = block.tile(*block.logs(some, other), start, stop)
        torch.addcmul(share_a, p, -sum_a, out=some)
        torch.addcmul(share_b, q, -sum_b, out=other)
        if curb is not None:
            some *= curb
        if curb_t is not None:
            other *= curb_t
    for some in blocks(lost.nonzero().squeeze(1), FEW):
        few, few_t = block.student.rows(some, z.dtype), block.teacher.rows(some, z.dtype)
        value[some], by_z, by_t = again(few, few_t, block.v, block.terms)
        z[some], t[some] = _curbed(by_z, few), _curbed(by_t, few_t)
    return value, z, t


class PairGradients(NamedTuple):
    """Gradients of both sides, and by the class weights."""

    student: Gradients
    teacher: Gradients
    class_weight: Tensor | None


def pair_gradients(
    student: Side, teacher: Side, v: Tensor | None, keep: Tensor, stats: Tensor, upstream: Tensor, terms: Terms, wanted: str
) -> PairGradients:
    """Gradients of `(value * upstream).sum()`, every tile of logits computed again: 2 + 2 products, 2 + 4 if both learn.

    `wanted` has a letter for hidden states, weight, bias and softcap of the student, for those of the teacher, and for class weights.
    """
    dtype = both_working(student, teacher)
    found = PairGradients(
        student.zeros(wanted[:4] + "n", dtype),
        teacher.zeros(wanted[4:8] + "n", dtype),
        torch.zeros(v.shape, dtype=dtype, device=v.device) if v is not None and wanted[8] == "y" else None,
    )
    done_again = stats[:, -1] != 0
    for at in blocks((keep & ~done_again).nonzero().squeeze(1)):
        _tiles_gradients(student, teacher, v, at, stats[at].to(dtype), upstream[at].to(dtype), terms, found)
    for at in blocks((keep & done_again).nonzero().squeeze(1), FEW):
        _few_gradients(student, teacher, v, at, upstream[at].to(dtype), terms, found)
    mine, theirs = found.student, found.teacher
    add_up((mine.x, mine.cap, theirs.x, theirs.cap), student.head.shards)  # every class has its part in these
    return found


def _tiles_gradients(
    student: Side, teacher: Side, v: Tensor | None, at: Tensor, stats: Tensor, upstream: Tensor, terms: Terms, found: PairGradients
) -> None:
    block = _Block(student.rows(at, stats.dtype), teacher.rows(at, stats.dtype), v, terms)
    top, delta, top_t, delta_t, sum_a, sum_b = stats[:, 1:7].unsqueeze(-1).unbind(1)
    block.norm = (top, delta), (top_t, delta_t)
    g, x = upstream.unsqueeze(1), block.student.x
    z, t = x.new_empty(x.shape[0], block.width), x.new_empty(x.shape[0], block.width)
    outs = [(side, gradients, torch.zeros_like(side.x)) for side, gradients in zip((block.student, block.teacher), found[:2], strict=True)]
    for start, stop in spans(block.classes, block.width):
        here = slice(0, stop - start)
        raw = [side.raw(start, stop, out[:, here]) for side, out in zip(block.scaled, (z, t), strict=True)]
        bends = [_Bend(u, side.head.cap) for u, side in zip(raw, block.scaled, strict=True)]
        logits = [side.settled(u) for u, side in zip(raw, block.scaled, strict=True)]
        for bend, capped_logits in zip(bends, logits, strict=True):
            bend.see(capped_logits)
        b, a = block.logs(*logits)
        if found.class_weight is not None:
            found.class_weight[start:stop] -= upstream @ (raised(a.clone()) * b) / block.unit
        p, q, share_a, share_b, _ = block.tile(b, a, start, stop)
        slopes = share_a.addcmul_(p, -sum_a).mul_(g), None if _none(found.teacher) else share_b.addcmul_(q, -sum_b).mul_(g)
        for slope, bend, (side, gradients, dx) in zip(slopes, bends, outs, strict=True):
            if slope is not None:
                _accumulate(bend.through(slope, gradients.cap), side.x, dx, side.head, start, stop, gradients)
    for _, gradients, dx in outs:
        if gradients.x is not None:
            gradients.x[at] = dx


def _none(gradients: Gradients) -> bool:
    return all(gradient is None for gradient in gradients)


class _Bend:
    """The softcap of a tile, on the way back."""

    def __init__(self, u: Tensor, cap: Tensor | None) -> None:
        self.cap, self.ratio = cap, None if cap is None else u / cap

    def see(self, z: Tensor) -> None:
        self.t = None if self.cap is None else z / self.cap

    def through(self, slope: Tensor, gradient: Tensor | None) -> Tensor:
        """The slope by the logits before the softcap; that by the softcap itself is added to its gradient."""
        if self.t is None or self.ratio is None:
            return slope
        curb = 1 - self.t * self.t
        if gradient is not None:
            gradient.add_((slope * (self.t - _product(self.ratio, curb))).sum())
        return slope.mul_(curb)


def _few_gradients(
    student: Side, teacher: Side, v: Tensor | None, at: Tensor, upstream: Tensor, terms: Terms, found: PairGradients
) -> None:
    """The same for a few rows that were done again, whole."""
    few, few_t, g = student.rows(at, upstream.dtype), teacher.rows(at, upstream.dtype), upstream.unsqueeze(1)
    _, by_z, by_t = again(few, few_t, v, terms)
    if found.class_weight is not None:
        b, a = (log_softmax(side.dense(), side.head.shards) for side in (few, few_t))
        found.class_weight.sub_(upstream @ torch.where(a.isneginf() | b.isneginf(), 0, a.exp() * b))
    for side, slope, gradients in ((few, by_z * g, found.student), (few_t, by_t * g, found.teacher)):
        if _none(gradients):
            continue
        dx, classes = torch.zeros_like(side.x), side.head.classes
        u = side.raw(0, classes, slope.new_empty(slope.shape))
        bend = _Bend(u, side.head.cap)
        bend.see(side.settled(u))
        _accumulate(bend.through(slope, gradients.cap), side.x, dx, side.head, 0, classes, gradients)
        if gradients.x is not None:
            gradients.x[at] = dx
