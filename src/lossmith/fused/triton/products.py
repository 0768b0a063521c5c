"""Matrix products of half-precision operands with results in float32, by the library that does them best."""

import torch
from torch import Tensor


def product(a: Tensor, b: Tensor, *, out: Tensor, scale: Tensor | None = None) -> None:
    """a @ b into `out`, summed in float32, divided by `scale` where there is one, and rounded once."""
    if scale is None and out.dtype == a.dtype:
        torch.mm(a, b, out=out)
    else:
        wide = torch.empty(out.shape, dtype=torch.float32, device=out.device)
        add_product(wide, a, b, anew=True)
        out.copy_(wide if scale is None else wide.div_(scale))


def add_product(total: Tensor, a: Tensor, b: Tensor, *, anew: bool = False) -> None:
    """total + a @ b in place and in float32; `anew`: whatever was there before is left out."""
    beta = 0 if anew else 1
    if a.dtype == total.dtype:
        total.addmm_(a, b, beta=beta)
    elif a.device.type == "cuda":
        torch.addmm(total, a, b, beta=beta, out_dtype=torch.float32, out=total)
    else:  # torch has results wider than the operands on GPUs alone; here the operands are widened
        total.addmm_(a.float(), b.float(), beta=beta)
