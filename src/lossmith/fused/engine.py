"""The chunked engine: row statistics and their gradients from hidden states and a head, in plain torch operations.

Forward, a block of rows goes over the classes a tile at a time and keeps sums alone. The exponentials are taken relative to the label's
logit,

.. math:: S = \\sum_{k \\ne y} e^{z_k - z_y}, \\qquad -\\log p_y = \\log(1 + S), \\qquad p_k = \\frac{e^{z_k - z_y}}{1 + S},

so that no maximum is searched for, no tile is normalised, and a confident row keeps all its digits. A row whose S leaves the safe range is
done again relative to its largest logit.

Where the classes are split over ranks, each sums over its own; these sums are added up, and everything else is as before. The label's
logit goes first, so that the exponentials of all ranks are relative to the same number: two messages, and no search for a maximum.

Everything here is called from behind an opaque operator (:mod:`lossmith.fused.operators`): it may look at values, and works in place.
A row with a negative label takes no part: it is not computed, and its statistics and gradients are zero.
"""

from collections.abc import Iterable, Sequence
from itertools import chain, islice, repeat
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lossmith.fused.room import gradients_from_room, keeping, parted
from lossmith.fused.shards import Shards, add_up, largest, largest_of_rows, sketch, total, total_of_labels
from lossmith.fused.slopes import NOTHING, BlockSlope, Gradients, _block_gradients, _curb
from lossmith.fused.spec import Spec, doublings
from lossmith.fused.tiles import CLASSES, ROWS, Given, Head, Labels, blocks, exponentials, rows_of_logits, spans, working

FEW = 16
"""Rows that are done again at once where a block's exponentials are kept: they are copied."""
SAFE = 1e20
"""S beyond which a row is done again: its reciprocal and products with it are to stay far from the ends of float32."""
RIGHT = 1e-5
"""What an entropy is right to: the difference of log(1 + S) and a moment, it is taken anew where rounding of these leaves less."""


def row_stats(x: Tensor, head: Head, class_weight: Tensor | None, label: Tensor, spec: Spec, room: Tensor | None = None) -> Tensor:
    """`(n, columns)`: the statistics of every row with a label of at least 0, zeros elsewhere.

    `room`, in the head's shape, is filled with logits for the way back.
    """
    out = torch.zeros(x.shape[0], spec.columns, dtype=head.working(x), device=x.device)
    kept = (label >= 0).nonzero().squeeze(1)
    inside, outside = parted(kept, room)
    out[kept] = stats_of(x, (*inside, *outside), head, class_weight, label, spec, keeping(head, inside, room))
    return out


class _Sums(NamedTuple):
    """Sums over the classes relative to a row's reference: exponentials (one row a temperature), entropy's moment, weighted logits."""

    exponentials: Tensor
    moment: Tensor
    mean: Tensor


def stats_of(
    x: Tensor, parts: Sequence[Any], head: Head | Given, class_weight: Tensor | None, label: Tensor, spec: Spec, heads: Sequence[Head] = ()
) -> Tensor:
    """`(rows, columns)` of the rows that the parts select, a part at a time and one after the other; the first parts by other heads."""
    chosen = labels_logits(x, parts, head, label) if spec.labelled else None
    labels = [label[part] for part in parts]
    sizes = [some.numel() for some in labels]
    if not parts:
        return x.new_empty(0, spec.columns, dtype=head.working(x))
    if chosen is None:
        maxima = torch.cat([_maximum(head.block(x, part), head, tiles=1)[0] for part in parts])
        reference = maxima if head.shards is None else largest_of_rows(maxima, sketch(x, torch.cat([*parts]), maxima.dtype), head.shards)
    else:
        reference = torch.cat([chosen[part] for part in parts])
    each = zip(parts, reference.split(sizes), [None] * len(parts) if chosen is None else labels, strict=True)
    by = chain(heads, repeat(head))
    sums = _sums_of(((head.block(x, part), next(by), about, at) for part, about, at in each), head.shards, class_weight, spec)
    at_label = None if chosen is None else reference
    found = _assemble(sums, reference, at_label, spec, aside=chosen is not None)
    lost = ~((sums.exponentials < SAFE).all(0) & reference.isfinite() & sums.moment.isfinite())
    if (entropy := spec.column(found, "entropy")) is not None:
        lost |= entropy < torch.finfo(entropy.dtype).eps / RIGHT * sums.exponentials[0].log1p()
    if lost.any():
        again = [(part, rows) for part, rows in zip(parts, lost.split(sizes), strict=True) if rows.any()]
        tops = [_maximum(head.block(x, part)[rows], head) for part, rows in again]
        mine, at = (torch.cat(each) for each in zip(*tops, strict=True))
        reference = largest(mine.clone(), head.shards)
        top = largest(torch.where(mine == reference, at, -1), head.shards)  # one of them, where several ranks hold one
        sizes = [int(rows.sum()) for _, rows in again]
        each = zip(again, reference.split(sizes), top.split(sizes), strict=True)
        sums = _sums_of(
            ((head.block(x, part)[rows], head, about, at) for (part, rows), about, at in each),
            head.shards,
            class_weight,
            spec,
            careful=True,
        )
        found[lost] = _assemble(sums, reference, None if at_label is None else at_label[lost], spec, aside=True, top=True)
    return found


def labels_logits(x: Tensor, parts: Sequence[Any], head: Head | Given, label: Tensor) -> Tensor:
    """The logit of every row's label, in the labels' shape; 0 in rows that are in no part."""
    out = torch.zeros(label.shape, dtype=head.working(x), device=x.device)
    for part in parts:
        out[part] = head.chosen(x, part, label[part])
    if head.shards is None:
        return out
    rows = torch.cat([label.new_empty(0), *parts])
    return total_of_labels(out, label, head.shards, hidden=sketch(x, rows, out.dtype))


def _sums_of(
    each: Iterable[tuple[Tensor, Head | Given, Tensor, Tensor | None]],
    shards: Shards | None,
    class_weight: Tensor | None,
    spec: Spec,
    careful: bool = False,
) -> _Sums:
    """The sums of blocks (hidden states, head, reference, labels), one after the other and over all ranks."""
    found = torch.cat([_sums(x, head, class_weight, about, label, spec, careful=careful) for x, head, about, label in each], 1)
    exponentials, moment, mean = total(found, shards).split([1 + len(spec.betas), 1, 1])
    return _Sums(exponentials, moment[0], mean[0])


def _sums(
    x: Tensor, head: Head | Given, class_weight: Tensor | None, reference: Tensor, label: Tensor | None, spec: Spec, *, careful: bool
) -> Tensor:
    """Sums relative to the reference; with labels, over the other classes alone. `careful` of classes at -inf in the entropy.

    `(1 + temperatures + 2, rows)`: the exponentials, the moment and the mean of :class:`_Sums`.
    """
    found = x.new_zeros(3 + len(spec.betas), x.shape[0])
    moment, mean = found[-2], found[-1]
    labels = None if label is None else Labels(head.local(label), head.classes, head.width)
    buffer = x.new_empty(x.shape[0], head.width)
    beside = torch.empty_like(buffer) if spec.betas or "entropy" in spec.want else buffer
    betas = (1.0, *spec.betas)
    chains = doublings(betas)  # the last ends with the exponentials at 1
    for start, stop in spans(head.classes, head.width):
        z, e = head.logits(x, start, stop, buffer[:, : stop - start]), beside[:, : stop - start]
        if "mean_logit" in spec.want:
            mean += _weighted(z, class_weight, start, stop, head.all_classes)
        z.sub_(reference.unsqueeze(1))
        if labels is not None and (hit := labels.within(start)) is not None:
            z[hit] = NOTHING
        for first, *doubled in chains:
            found[first] += exponentials(z, e, betas[first]).sum(1)
            for i in doubled:
                found[i] += e.mul_(e).sum(1)
        if "entropy" in spec.want:
            if careful:
                z.clamp_min_(NOTHING)
            moment += e.mul_(z).sum(1)
    return found


def _weighted(z: Tensor, class_weight: Tensor | None, start: int, stop: int, classes: int) -> Tensor:
    """This tile's part of the mean logit; a class of weight 0 is left out, whatever its logit."""
    if class_weight is None:
        return z.sum(1) / classes
    v = class_weight[start:stop].to(z.dtype)
    return torch.where(v == 0, 0, z) @ v


def _maximum(x: Tensor, head: Head | Given, tiles: int | None = None) -> tuple[Tensor, Tensor]:
    """Every row's largest logit here, of all tiles or of the first ones, and its class; -inf where there is no class."""
    buffer, best = x.new_empty(x.shape[0], head.width), x.new_full((x.shape[0],), -torch.inf)
    at = torch.zeros(x.shape[0], dtype=torch.long, device=x.device)
    for start, stop in islice(spans(head.classes, head.width), tiles):
        here, column = head.logits(x, start, stop, buffer[:, : stop - start]).max(1)
        at, best = torch.where(here > best, column + start, at), torch.maximum(best, here)
    return best, at if head.shards is None else at + head.shards.first


def _assemble(sums: _Sums, reference: Tensor, chosen: Tensor | None, spec: Spec, *, aside: bool, top: bool = False) -> Tensor:
    """Columns of statistics from sums; `aside`: the reference's own exponential, which is 1, is not among them.

    The reference is the label's logit if there is one, or with `top` the largest.
    """
    betas = torch.tensor((1.0, *spec.betas), dtype=reference.dtype, device=reference.device).unsqueeze(1)
    logs = torch.log1p(sums.exponentials) if aside else sums.exponentials.log()
    if top:
        logs = torch.where(reference.isfinite(), logs, torch.nan)
    lse = betas * reference + logs
    columns = {"logsumexp": lse[0], "mean_logit": sums.mean}
    columns["entropy"] = logs[0] - sums.moment / (sums.exponentials[0] + float(aside))
    if chosen is not None:
        columns["target_logit"] = chosen
        columns["log_prob"] = (chosen - reference) - logs[0] if top else -logs[0]
    return torch.stack([*(columns[name] for name in spec.want), *lse[1:]], 1)


def row_stats_gradients(
    x: Tensor, head: Head, class_weight: Tensor | None, label: Tensor, stats: Tensor, upstream: Tensor, spec: Spec, wanted: str,
    room: Tensor | None = None,
) -> Gradients:  # fmt: skip
    """Gradients of `(stats * upstream).sum()`, every tile of logits computed again: 1 + 2 matrix products.

    `stats` and `upstream` have the columns of a `spec` that is whole. The logits that a `room` holds are not computed again; it becomes the
    head's gradient, in `wanted` or not.
    """
    found = Gradients.zeros(x, head, class_weight, wanted)
    dtype = working(x, head.weight)

    def slope(rows: Tensor) -> BlockSlope:
        return BlockSlope(spec, stats[rows].to(dtype), upstream[rows].to(dtype), label[rows], head)

    inside, outside = parted((label >= 0).nonzero().squeeze(1), room)
    if room is not None:
        found = found._replace(weight=room)
        gradients_from_room(x, inside, head, class_weight, [slope(rows) for rows in inside], room, found)
    for rows in outside:
        _block_gradients(head.block(x, rows), rows, head, class_weight, slope(rows), found)
    add_up((found.x, found.cap), head.shards)  # every class has its part in these
    return found


def log_prob_and_gradients(x: Tensor, head: Head, label: Tensor, upstream: Tensor, wanted: str) -> tuple[Tensor, Gradients]:
    """The label's log-probability, and the gradients of `(log_prob * upstream).sum()` from the logits at hand: 3 products, not 4.

    A block of rows keeps its exponentials, `ROWS` times the classes; the division by 1 + S is left to the narrow operands of the two
    products that follow. Over ranks, the sums S of a block are therefore exchanged before its products: a message a block.
    """
    dtype = working(x, head.weight)
    out = torch.zeros(x.shape[0], dtype=dtype, device=x.device)
    found = Gradients.zeros(x, head, None, wanted)
    kept = (label >= 0).nonzero().squeeze(1)
    buffer = rows_of_logits(min(ROWS, kept.numel()), head.classes, out)
    chosen = labels_logits(x, blocks(kept), head, label)
    for rows in blocks(kept):
        some, e = head.block(x, rows), buffer[: rows.numel()]
        out[rows], scale = _exponentials(some, head, label[rows], chosen[rows], e)
        _from_exponentials(e, scale * -upstream[rows].to(dtype), some, rows, head, found)
    add_up((found.x,), head.shards)
    return out, found


def _exponentials(x: Tensor, head: Head, label: Tensor, chosen: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    """Fill `e` so that the derivative of log p_y by the logits before the softcap is -scale * e; return (log_prob, scale)."""
    labels, others = Labels(head.local(label), head.classes, 2 * CLASSES), torch.zeros_like(chosen)
    for start, stop in spans(head.classes, 2 * CLASSES):
        z = head.logits(x, start, stop, e[:, start:stop])
        curb = None if head.cap is None else _curb(z, head.cap)
        z -= chosen.unsqueeze(1)
        if (hit := labels.within(start)) is not None:
            z[hit] = NOTHING
        others += exponentials(z, z).sum(1)
        if curb is not None:
            z *= curb
    others = total(others, head.shards)
    rows, at = head.held(label)
    e[rows, at] = -others[rows] if head.cap is None else (-others * _curb(chosen, head.cap))[rows]
    log_prob, scale = -torch.log1p(others), 1 / (1 + others)
    lost = ~((others < SAFE) & chosen.isfinite())
    for some in blocks(lost.nonzero().squeeze(1), FEW):
        e[some], log_prob[some] = _softmax_again(x[some], head, label[some], chosen[some])
    return log_prob, torch.where(lost, 1, scale)


def _softmax_again(x: Tensor, head: Head, label: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """(p - the label's indicator) times the softcap's slope, and log p_y, of rows far from their label: relative to the largest logit."""
    z = head.logits(x, 0, head.classes, x.new_empty(x.shape[0], head.classes))
    curb = None if head.cap is None else _curb(z, head.cap)
    top = largest(z.amax(1) if head.classes else z.new_full((z.shape[0],), -torch.inf), head.shards)
    e = z.sub_(top.unsqueeze(1)).exp_()
    norm = total(e.sum(1), head.shards)
    p = e.div_(norm.unsqueeze(1))
    p[head.held(label)] -= 1
    return p if curb is None else p * curb, (chosen - top) - norm.log()


def _from_exponentials(e: Tensor, scale: Tensor, x: Tensor, rows: Tensor, head: Head, found: Gradients) -> None:
    """Two whole products from a block's exponentials; `scale` is what each row of them is to be multiplied by."""
    if found.x is not None:
        found.x[rows] = _times_head(e, head).mul_(scale.unsqueeze(1))
    if found.weight is not None:
        found.weight.addmm_(e.mT, x * scale.unsqueeze(1))
    if found.bias is not None:
        found.bias.addmv_(e.mT, scale)


def _times_head(e: Tensor, head: Head) -> Tensor:
    """e @ weight; a head in half precision is widened a part at a time."""
    if head.weight.dtype == e.dtype:
        return e @ head.weight
    out = e.new_zeros(e.shape[0], head.weight.shape[1])
    for start, stop in spans(head.classes, 8 * CLASSES):
        out.addmm_(e[:, start:stop], head.columns(start, stop, e.dtype))
    return out
