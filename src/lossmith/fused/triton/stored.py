"""Gradients in the forward pass: exponentials stored as the statistics are taken, then two products. Three products in all.

The exponentials of a block of rows are stored relative to powers of two, which hardly differ between the tiles of a row; where they do, a
tile is multiplied by the difference, exactly. The division by the total is left to the narrow operands of the two products.
"""

import torch
import triton
from torch import Tensor

from lossmith.fused.engine import Gradients, Spec
from lossmith.fused.tiles import Head
from lossmith.fused.triton import kernels
from lossmith.fused.triton.launch import Kept, run, tiles
from lossmith.fused.triton.memory import ALIGNED, operand
from lossmith.fused.triton.products import add_product
from lossmith.fused.triton.sums import Stored, statistics, take

LOG2_E, STEP = kernels.LOG2_E.value, kernels.STEP.value
LOG_PROB = Spec(("log_prob",), ())


def log_prob_and_gradients(kept: Kept, head: Head, upstream: Tensor, rows: int, found: Gradients) -> Tensor:
    """`(n)` log-probabilities; the gradients of their sum weighted by `upstream` go to `found`. All in the order of the kept rows."""
    n, classes = kept.x.shape[0], head.weight.shape[0]
    out = torch.zeros(n, dtype=torch.float32, device=kept.x.device)
    dtype, device = operand(kept.x, head.weight), kept.x.device
    buffer = torch.empty(min(rows, n), triton.cdiv(classes, ALIGNED) * ALIGNED, dtype=dtype, device=device)
    for first in range(0, n, rows):
        span = slice(first, first + rows)
        block = Kept(kept.x[span], kept.label[span], kept.order[span], (kept.count - first).clamp_(0, rows))
        e = buffer[: block.x.shape[0], :classes]
        out[span], scale = _exponentials(block, head, e)
        _two_products(e, scale * upstream[span], block.x, span, head, found)
    return out


def _exponentials(kept: Kept, head: Head, e: Tensor) -> tuple[Tensor, Tensor]:
    """Fill `e` so that the derivative of log p_y by the logits before the softcap is scale * e; return (log_prob, scale)."""
    n, classes = e.shape
    tile = tiles(e.dtype, e.device, LOG_PROB)
    power = torch.empty(n, triton.cdiv(classes, tile.classes), dtype=torch.float32, device=e.device)
    found = take(kept, head, None, LOG_PROB, Stored(e, power))
    log_prob = statistics(found, LOG_PROB)[:, 0].where(kept.takes_part, 0)
    of_label = found.chosen * LOG2_E
    common = power.amax(1)
    # where no other class has any mass, the label's own
    common = torch.where(common == -torch.inf, (of_label / STEP).ceil() * STEP, common)
    grid = (triton.cdiv(n, tile.rows), power.shape[1])
    known = {"ROWS": tile.rows, "CLASSES": tile.classes, "num_warps": tile.warps}
    run(kernels.level, grid, e, power, common, kept.count, n, classes, e.stride(0), **known)
    others = found.exponentials * torch.where(found.largest == -torch.inf, 0, (found.largest * LOG2_E - common).exp2())
    scale = torch.where(kept.takes_part, -1 / (others + (of_label - common).exp2()), 0)
    own = -others if head.cap is None else -others * (1 - (found.chosen / head.cap).square())
    label = kept.label.clamp_min(0).long().unsqueeze(1)
    e.scatter_(1, label, own.where(kept.takes_part, 0).to(e.dtype).unsqueeze(1))
    return log_prob, scale


def _two_products(e: Tensor, scale: Tensor, x: Tensor, span: slice, head: Head, found: Gradients) -> None:
    """From a block's exponentials; `scale` is what each row of them is to be multiplied by."""
    if found.x is not None:
        rows = found.x[span]
        add_product(rows, e, head.columns(0, e.shape[1], e.dtype), anew=True)
        rows.mul_(scale.unsqueeze(1))
    if found.weight is not None:
        add_product(found.weight, e.mT, (x * scale.unsqueeze(1)).to(e.dtype), anew=span.start == 0)
    if found.bias is not None:
        high = scale.to(e.dtype)  # in two parts, so that rounding the scale costs no digits
        low = (scale - high).to(e.dtype)
        total = torch.empty(e.shape[1], 2, dtype=torch.float32, device=e.device)
        add_product(total, e.mT, torch.stack([high, low], 1), anew=True)
        found.bias.add_(total.sum(1))
