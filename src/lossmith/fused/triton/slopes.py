"""Backward: the slopes of the logits in one kernel, and the products that take them to hidden states and head.

The slopes of all rows exist for a share of the classes at a time, in the operands' dtype. So the head's gradient is one whole product a
share, written once; the hidden states' gradient is summed over the shares in float32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from lossmith.fused.engine import BlockSlope, Gradients, Spec
from lossmith.fused.tiles import Given, Head, Labels
from lossmith.fused.triton.launch import Kept, reading, tiles
from lossmith.fused.triton.memory import ALIGNED, operand, slope_classes
from lossmith.fused.triton.products import add_product, product
from lossmith.fused.triton.tile import place, raw_logits, tanh

FLOAT16 = 2.0**11
"""The largest upstream gradient in float16 slopes: their small entries stay clear of its smallest numbers, their large ones of its largest."""
NOTHING = tl.constexpr(-1e30)


@triton.jit
def slopes(
    x, weight, bias, cap, class_weight, label, count, rowwise, slope, by_bias, by_class_weight, by_cap,
    start, stop, n, classes, width, x_row, x_col, w_row, w_col, slope_row,
    LABELLED: tl.constexpr, ENTROPY: tl.constexpr, MEAN: tl.constexpr, BETAS: tl.constexpr,
    ROWS: tl.constexpr, CLASSES: tl.constexpr, WIDTH: tl.constexpr, GROUP: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr, DESCRIBED: tl.constexpr,
):  # fmt: skip
    """Into `slope` `(n, stop - start)`: the derivative of a row's weighted statistics by its logits, before the softcap.

    `rowwise` `(5 + 2 len(BETAS), n)` holds the logsumexp, the weights of p and of -p log p, the label's slope, the weight of the mean, and
    for every further temperature minus its logsumexp and its weight. Sums over a block's rows go to `by_bias` and `by_class_weight`
    `(blocks, stop - start)`, over a tile to `by_cap` `(blocks, tiles)`.
    """
    across = tl.cdiv(stop - start, CLASSES)
    block, tile = place(tl.cdiv(n, ROWS), across, GROUP)
    row, col = block * ROWS, start + tile * CLASSES
    rows, cols = row + tl.arange(0, ROWS), col + tl.arange(0, CLASSES)
    kept, inside = rows < tl.load(count), cols < stop
    at = slope + rows.to(tl.int64)[:, None] * slope_row + (cols - start)[None, :]
    where = (rows < n)[:, None] & inside[None, :]
    summed = block.to(tl.int64) * (stop - start) + cols - start
    if row < tl.load(count):
        z = raw_logits(x, weight, bias, row, col, n, stop, width, x_row, x_col, w_row, w_col, ROWS, CLASSES, WIDTH, OPERAND, PRECISION, DESCRIBED)  # fmt: skip
        if cap is not None:
            c = tl.load(cap).to(tl.float32)
            ratio = z / c
            t = tanh(ratio)
            z = c * t
        log_p = tl.maximum(z - tl.load(rowwise + rows, mask=kept, other=0.0)[:, None], NOTHING)
        on_p = tl.load(rowwise + 1 * n + rows, mask=kept, other=0.0)[:, None]
        if ENTROPY:
            on_p = on_p - tl.load(rowwise + 2 * n + rows, mask=kept, other=0.0)[:, None] * log_p
        d = tl.exp(log_p) * on_p
        if LABELLED:
            y = tl.load(label + rows, mask=kept, other=-1)
            at_label = tl.load(rowwise + 3 * n + rows, mask=kept, other=0.0)
            d = tl.where(cols[None, :] == y[:, None], at_label[:, None], d)
        if MEAN:
            on_mean = tl.load(rowwise + 4 * n + rows, mask=kept, other=0.0)[:, None]
            if class_weight is None:
                d += on_mean / classes
            else:
                v = tl.load(class_weight + cols, mask=inside, other=0.0).to(tl.float32)[None, :]
                d += on_mean * v
                if by_class_weight is not None:
                    tl.store(by_class_weight + summed, tl.sum(tl.where(kept[:, None], on_mean * z, 0.0), 0), mask=inside)
        for i in tl.static_range(len(BETAS)):
            minus_lse = tl.load(rowwise + (5 + 2 * i) * n + rows, mask=kept, other=0.0)[:, None]
            on_it = tl.load(rowwise + (6 + 2 * i) * n + rows, mask=kept, other=0.0)[:, None]
            d += tl.exp(z * BETAS[i] + minus_lse) * on_it
        if cap is not None:
            curb = 1 - t * t
            if by_cap is not None:
                moved = d * (t - tl.where(curb == 0, 0.0, ratio) * curb)
                tl.store(by_cap + block * across + tile, tl.sum(tl.where(kept[:, None] & inside[None, :], moved, 0.0)))
            d *= curb
        d = tl.where(kept[:, None], d, 0.0)
        if by_bias is not None:
            tl.store(by_bias + summed, tl.sum(d, 0), mask=inside)
        tl.store(at, d.to(slope.dtype.element_ty), mask=where)
    else:
        tl.store(at, tl.zeros((ROWS, CLASSES), slope.dtype.element_ty), mask=where)
        if by_bias is not None:
            tl.store(by_bias + summed, tl.zeros((CLASSES,), tl.float32), mask=inside)
        if by_class_weight is not None:
            tl.store(by_class_weight + summed, tl.zeros((CLASSES,), tl.float32), mask=inside)
        if by_cap is not None:
            tl.store(by_cap + block * across + tile, 0.0)


class _Rowwise(BlockSlope):
    """What a row's slopes depend on: the same for the kernel as for the chunked engine, but that the kernel finds the labels itself."""

    def _located(self, label: Tensor, head: Head | Given) -> Labels | None:
        return None

    def packed(self) -> Tensor:
        nothing = torch.zeros_like(self.lse)
        columns = [self.lse, self.on_p, self.on_h, getattr(self, "at_label", None), self.mean]
        for _, minus_lse, weight in self.further:
            columns += [minus_lse, weight]
        return torch.stack([nothing if column is None else column.reshape(-1) for column in columns])


def gradients(
    kept: Kept, head: Head, class_weight: Tensor | None, stats: Tensor, upstream: Tensor, spec: Spec, found: Gradients
) -> Gradients:
    """Gradients of `(stats * upstream).sum()`, all in the order of the kept rows; `found` says which, and where the head's goes."""
    n, (classes, _), device = kept.x.shape[0], head.weight.shape, kept.x.device
    dtype = operand(kept.x, head.weight)
    scale = _float16_scale(upstream) if dtype == torch.float16 else None
    upstream = upstream if scale is None else upstream * scale
    rowwise = _Rowwise(spec, stats, upstream, kept.label, head).packed()
    tile = tiles(dtype)
    blocks, step = triton.cdiv(n, tile.rows), slope_classes(n, classes, dtype.itemsize)
    (x, weight, bias, cap), strides, known = reading(kept.x, head, tile)
    v = None if class_weight is None else class_weight.contiguous()
    workspace = torch.empty(n, triton.cdiv(step, ALIGNED) * ALIGNED, dtype=dtype, device=device)
    wide = {"dtype": torch.float32, "device": device}
    for start in range(0, classes, step):
        stop = min(start + step, classes)
        across = triton.cdiv(stop - start, tile.classes)
        d = workspace[:, : stop - start]
        by_bias = None if found.bias is None else torch.empty(blocks, stop - start, **wide)
        by_v = None if found.class_weight is None else torch.zeros(blocks, stop - start, **wide)
        by_cap = None if found.cap is None else torch.empty(blocks, across, **wide)
        slopes[(blocks * across,)](
            x, weight, bias, cap, v, kept.label, kept.count, rowwise, d, by_bias, by_v, by_cap,
            start, stop, n, classes, head.weight.shape[1], *strides, d.stride(0),
            LABELLED=spec.labelled, ENTROPY="entropy" in spec.want, MEAN="mean_logit" in spec.want, BETAS=spec.betas, **known,
        )  # fmt: skip
        if found.x is not None:
            add_product(found.x, d, head.columns(start, stop, dtype), anew=start == 0)
        if found.weight is not None:
            product(d.mT, kept.x, out=found.weight[start:stop], scale=scale)
        for total, part in ((found.bias, by_bias), (found.class_weight, by_v)):
            if total is not None and part is not None:
                total[start:stop] = part.sum(0)
        if found.cap is not None and by_cap is not None:
            found.cap.add_(by_cap.sum())
    if scale is not None:  # the head's gradient was scaled back as it was written
        for total in (found.x, found.bias, found.cap, found.class_weight):
            if total is not None:
                total.div_(scale)
    return found


def _float16_scale(upstream: Tensor) -> Tensor:
    """What takes the largest upstream gradient to `FLOAT16`, as a power of two; known to the device alone."""
    largest = upstream.abs().amax() if upstream.numel() else upstream.new_zeros(())
    return torch.where(largest > 0, torch.exp2(torch.floor(torch.log2(FLOAT16 / largest))), 1)
