"""Taylor cross-entropy: the first terms of cross-entropy's expansion around a certain right answer."""

from typing import Unpack

import torch

from lossmith._options import RowOptions
from lossmith._rows import of_log_prob
from lossmith._sources import LogitSource
from lossmith._typing import Float, Logits, Target, Tensor
from lossmith.card import At, Claims, Instance, Range, objective
from lossmith.generators import total_variation


def _taylor(log_p: Float[Tensor, "*rows"], order: int) -> Float[Tensor, "*rows"]:
    doubt, order = -torch.expm1(log_p), int(order)  # 3.0 is 3, as a command line or a search may write it
    total = torch.full_like(doubt, 1 / order)
    for k in range(order - 1, 0, -1):
        total = total * doubt + 1 / k
    return total * doubt


@objective(
    row=_taylor,
    form="log_prob",
    source="Feng et al. 2020, 'Can Cross Entropy Loss Be Robust to Label Noise?', IJCAI 2020, doi:10.24963/ijcai.2020/305",
    summary="the first terms of cross-entropy's Taylor series: robust at low order, cross-entropy at high",
    use_when="labels are noisy",
    formula=r"\sum_{k=1}^{t} (1 - p_y)^k / k",
    ranges={"order": Range(1, whole=True)},
    limits=[At(order=1, equals="classification_mae")],
    instances=[Instance("divergence", of=lambda order: total_variation if order == 1 else None)],
    settings=[{"order": 1}, {"order": 3}, {"order": 6}],
    aliases=("taylor_ce",),
    tags=("noisy labels", "robust"),
    claims=Claims(
        convex=False,
        proper=False,
        calibrated=True,
        symmetric=False,
        shift_invariant=True,
        class_symmetric=True,
        growth="bounded",
        bounds=lambda order: (0.0, sum(1 / k for k in range(1, int(order) + 1))),
    ),
    provenance="written from the paper's definition; checked against the sum in float64, mean absolute error and cross-entropy",
)
def taylor_cross_entropy(
    input: Logits | LogitSource,
    target: Target,
    *,
    order: int | float = 2,
    **options: Unpack[RowOptions],
) -> Float[Tensor, "*reduced"]:
    r"""Cross-entropy's Taylor series at certainty, up to an order.

    .. math:: \ell_t(z, y) = \sum_{k=1}^{t} \frac{(1 - p_y)^k}{k} \;\longrightarrow\; -\log p_y \quad (t \to \infty)

    Order 1 is :func:`classification_mae`, whose sum over labels is constant, hence robust to uniform label noise; each further order
    fits the labels harder. Where the label is unlikely the slope in :math:`p_y` stays below t, where cross-entropy's is
    :math:`1 / p_y`.

    Args:
        input: logits `(c,)`, `(n, c)` or `(n, c, *d)`, or a source of them.
        target: class indices without the class axis, or class probabilities in the input's shape: the expectation over labels.
        order: how many terms, a whole number; not a tensor, as it is no continuous quantity.

    Returns:
        One loss a row (`reduction="none"`), or their mean or sum; float32 at least.

    Example:
        >>> import torch, lossmith
        >>> lossmith.taylor_cross_entropy(torch.zeros(1, 4), torch.tensor([2]), order=2)
        tensor(1.0312)
    """
    return of_log_prob(_taylor, input, target, options, order=order)
