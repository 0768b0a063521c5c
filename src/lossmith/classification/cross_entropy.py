"""Cross-entropy: the objective everything else is measured against."""

from typing import Unpack

from lossmith._options import RowOptions
from lossmith._rows import of_log_prob
from lossmith._sources import LogitSource
from lossmith._typing import Float, Hyper, Logits, Target, Tensor
from lossmith.card import Claims, Instance, Proved, Range, objective
from lossmith.generators import kl, shannon


def _log_loss(log_p: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
    return -log_p


@objective(
    row=_log_loss,
    form="log_prob",
    source="Good 1952, 'Rational Decisions', J. R. Stat. Soc. B 14(1)",
    summary="the negative log-probability of the right class: the standard, and the baseline of every comparison",
    use_when="you want a well-understood default, calibrated probabilities, and labels you trust",
    formula=r"-\log p_y",
    ranges={"label_smoothing": Range(0, 1)},
    instances=[
        Instance("divergence", of=lambda label_smoothing: kl if label_smoothing == 0 else None),
        Instance("proper loss", of=lambda label_smoothing: shannon if label_smoothing == 0 else None),
        Instance("fenchel-young", of=lambda label_smoothing: shannon if label_smoothing == 0 else None),
    ],
    settings=[{"label_smoothing": 0.1}],
    aliases=("ce", "log_loss", "softmax_cross_entropy"),
    tags=("baseline", "proper scoring rule", "maximum likelihood"),
    claims=Claims(
        convex=Proved(True, "log-sum-exp is convex: Boyd & Vandenberghe 2004, section 3.1.5"),
        proper=Proved(True, "Gneiting & Raftery 2007, section 3.1: the logarithmic score"),
        calibrated=Proved(True, "Bartlett, Jordan & McAuliffe 2006; Tewari & Bartlett 2007"),
        symmetric=False,
        shift_invariant=True,
        class_symmetric=True,
        growth="linear",
        bounds=lambda: (0.0, float("inf")),
    ),
    provenance="written from the definition; checked against torch.nn.functional.cross_entropy bit for bit",
)
def cross_entropy(
    input: Logits | LogitSource,
    target: Target | LogitSource,
    *,
    label_smoothing: Hyper = 0.0,
    **options: Unpack[RowOptions],
) -> Float[Tensor, "*reduced"]:
    r"""Cross-entropy of the softmax of the logits with the target, in nats.

    .. math:: \ell(z, y) = -\log \operatorname{softmax}(z)_y = \log \textstyle\sum_k e^{z_k} - z_y

    With ``reduction="none"`` it equals :func:`torch.nn.functional.cross_entropy` bit for bit in float32 and float64 (of
    ``input.float()`` for half precision); mean and sum agree within 4 units in the last place of a compensated sum. It differs on purpose
    here:

    ==========================================  ================================  ==================================
    case                                        torch                             lossmith
    ==========================================  ================================  ==================================
    every row ignored, or ``n = 0``, mean       NaN                               0, with a zero gradient
    NaN or inf in an ignored row                value right, gradient NaN         changes neither value nor gradient
    half-precision input                        computed and returned in half     computed and returned in float32
    under autocast                              float32                           float32
    a class at ``-inf`` with soft target 0      NaN                               left out
    weights of all kept rows 0, mean            NaN                               0, with a zero gradient
    one logit (``c = 1``)                       always 0                          an error that names the right function
    integer targets                             int64 and uint8                   any integer type
    rows removed otherwise than by index        no way                            ``sample_weight=0``
    ==========================================  ================================  ==================================

    Args:
        input: logits `(c,)`, `(n, c)` or `(n, c, *d)`, or a source of them.
        target: class indices without the class axis, or class probabilities in the input's shape: the expectation over labels. For a
            `lossmith.fused.LinearLogits` as input, class probabilities are another one's: softmax of the logits of a second head.
        label_smoothing: the share of the target given to the uniform distribution over classes.

    Returns:
        One loss a row (`reduction="none"`), or their mean or sum; float32 at least.

    Example:
        >>> import torch, lossmith
        >>> lossmith.cross_entropy(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0]))
        tensor(0.2395)
    """
    return of_log_prob(_log_loss, input, target, options, smoothing=label_smoothing, slope=-1.0)
