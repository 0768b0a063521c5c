"""Backward: the slopes of the logits in one kernel, and the products that take them to hidden states and head.

The slopes of all rows exist for a share of the classes at a time, in the operands' dtype. So the head's gradient is one whole product a
share, written once; the hidden states' gradient is summed over the shares in float32.
"""

import torch
import triton
from torch import Tensor

from lossmith.fused.engine import BlockSlope, Gradients, Spec
from lossmith.fused.tiles import Given, Head, Labels
from lossmith.fused.triton import kernels
from lossmith.fused.triton.launch import Kept, reading, run, tiles
from lossmith.fused.triton.memory import ALIGNED, operand, slope_classes
from lossmith.fused.triton.products import add_product, product

FLOAT16 = 2.0**11
"""The largest upstream gradient in float16 slopes: small entries stay clear of its smallest numbers, large ones of its largest."""


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
    tile = tiles(dtype, device, spec)
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
        run(
            kernels.slopes, (blocks * across,), x, weight, bias, cap, v, kept.label, kept.count, rowwise, d, by_bias, by_v, by_cap,
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
