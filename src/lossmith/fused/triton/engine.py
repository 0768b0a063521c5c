"""The three entrances. As for the chunked engine: a row with a negative label takes no part, and its statistics and gradients are zero."""

import torch
from torch import Tensor

from lossmith.fused.engine import Gradients, Spec
from lossmith.fused.tiles import Head
from lossmith.fused.triton import slopes, stored
from lossmith.fused.triton.launch import Kept, on
from lossmith.fused.triton.memory import operand, stored_rows
from lossmith.fused.triton.sums import statistics, take


def row_stats(x: Tensor, head: Head, class_weight: Tensor | None, label: Tensor, spec: Spec) -> Tensor:
    """`(n, columns)`: the statistics of every row with a label of at least 0, zeros elsewhere; float32."""
    if not x.shape[0]:
        return torch.zeros(0, spec.columns, dtype=torch.float32, device=x.device)
    with on(x.device):
        kept = Kept.of(x, label, operand(x, head.weight))
        found = statistics(take(kept, head, class_weight, spec), spec)
        return kept.back(found.where(kept.takes_part.unsqueeze(1), 0))


def row_stats_gradients(
    x: Tensor, head: Head, class_weight: Tensor | None, label: Tensor, stats: Tensor, upstream: Tensor, spec: Spec, wanted: str
) -> Gradients:
    """Gradients of `(stats * upstream).sum()`, every tile of logits computed again; the head's in its own dtype, the others in float32."""
    found = _room(x, head, class_weight, wanted, head.weight.dtype)
    if not x.shape[0]:
        return found
    with on(x.device):
        kept = Kept.of(x, label, operand(x, head.weight))
        takes_part = kept.takes_part.unsqueeze(1)
        stats, upstream = (t.index_select(0, kept.order).float().where(takes_part, 0) for t in (stats, upstream))
        found = slopes.gradients(kept, head, class_weight, stats, upstream, spec, found)
        return found if found.x is None else found._replace(x=kept.back(found.x))


def log_prob_and_gradients(x: Tensor, head: Head, label: Tensor, upstream: Tensor, wanted: str) -> tuple[Tensor, Gradients]:
    """The label's log-probability, and the gradients of `(log_prob * upstream).sum()`: 3 products.

    In float16, whose range stored exponentials would leave, the logits are computed again: 4.
    """
    found = _room(x, head, None, wanted, torch.float32)
    if not x.shape[0]:
        return torch.zeros(0, dtype=torch.float32, device=x.device), found
    with on(x.device):
        kept = Kept.of(x, label, operand(x, head.weight))
        weights = upstream.index_select(0, kept.order).float().where(kept.takes_part, 0)
        if kept.x.dtype == torch.float16:
            spec = stored.LOG_PROB.whole
            stats = statistics(take(kept, head, None, spec), spec).where(kept.takes_part.unsqueeze(1), 0)
            out = stats[:, 0]
            found = slopes.gradients(kept, head, None, stats, torch.stack([weights, torch.zeros_like(weights)], 1), spec, found)
        else:
            out = stored.log_prob_and_gradients(kept, head, weights, stored_rows(x, head.weight), found)
        return kept.back(out), found if found.x is None else found._replace(x=kept.back(found.x))


def _room(x: Tensor, head: Head, class_weight: Tensor | None, wanted: str, of_weight: torch.dtype) -> Gradients:
    """Where the gradients that are wanted go: zeros where they are summed up, or there is no row; else what is there is written over."""

    def made(source: Tensor | None, want: str, dtype: torch.dtype, *, summed: bool) -> Tensor | None:
        if source is None or want == "n":
            return None
        return (torch.zeros if summed or not x.shape[0] else torch.empty)(source.shape, dtype=dtype, device=x.device)

    first, second, *others = wanted
    return Gradients(
        made(x, first, torch.float32, summed=False),
        made(head.weight, second, of_weight, summed=False),
        *(made(source, want, torch.float32, summed=True) for source, want in zip((head.bias, head.cap, class_weight), others, strict=True)),
    )
