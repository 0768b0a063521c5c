"""Bootstrapping: targets that trust the model's own predictions a little."""

from typing import Literal, Unpack

import torch

from lossmith._options import RowOptions
from lossmith._reduce import times
from lossmith._rows import of_log_probs
from lossmith._typing import Float, Hyper, Logits, Target, Tensor
from lossmith.card import At, Choice, Claims, Range, objective


def _bootstrap(log_p_y: Float[Tensor, "*#rows"], log_p: Float[Tensor, "*#rows c"], beta: Hyper, mode: str) -> Float[Tensor, "*#rows"]:
    if mode == "hard":
        own = -log_p.amax(-1)
    else:
        possible = log_p > -torch.inf  # 0 log 0 is 0
        own = -torch.where(possible, log_p.exp() * torch.where(possible, log_p, 0), 0).sum(-1)
    return times(beta, -log_p_y) + (1 - beta) * own


@objective(
    row=_bootstrap,
    form="log_probs",
    source="Reed et al. 2014, 'Training Deep Neural Networks on Noisy Labels with Bootstrapping', arXiv:1412.6596",
    summary="cross-entropy with a target mixed from the label and the model's own prediction",
    use_when="some labels are wrong, and the model soon knows better",
    formula=r"-\sum_k (\beta\, 1_{k = y} + (1 - \beta)\, r_k) \log p_k, \quad r = p \text{ (soft) or } e_{\arg\max p} \text{ (hard)}",
    ranges={"beta": Range(0, 1), "mode": Choice("soft", "hard")},
    limits=[At(beta=1.0, equals="cross_entropy")],
    settings=[{"beta": 0.8, "mode": "hard"}, {"beta": 0.6, "mode": "soft"}],
    aliases=("bootstrapping_loss",),
    tags=("noisy labels", "robust", "self-training", "entropy"),
    claims=Claims(
        convex=False,  # in the hard mode
        proper=False,
        calibrated=True,
        symmetric=False,
        shift_invariant=True,
        class_symmetric=True,
        growth="linear",
        bounds=lambda: (0.0, float("inf")),
    ),
    provenance="written from the definition in the paper; checked against the formula in float64",
)
def bootstrap_loss(
    input: Logits,
    target: Target,
    *,
    beta: Hyper = 0.95,
    mode: Literal["soft", "hard"] = "soft",
    **options: Unpack[RowOptions],
) -> Float[Tensor, "*reduced"]:
    r"""The bootstrapping loss, soft or hard.

    .. math::
        \ell_{soft}(z, y) = -\beta \log p_y + (1 - \beta) H(p), \qquad
        \ell_{hard}(z, y) = -\beta \log p_y - (1 - \beta) \log \max_k p_k

    The gradient is that of the loss as written: it flows through the prediction within the soft target too. So the paper reads it, which
    calls the soft loss softmax regression with minimum-entropy regularisation. Some implementations hold the soft target constant: then
    the second term pulls the prediction towards itself and its gradient is zero, leaving beta times cross-entropy. In the hard loss the
    class of the maximum is constant almost everywhere, and both readings agree.

    Convexity depends: the hard loss has a concave edge where the largest probabilities tie; the soft loss is convex for two classes when
    beta is at least 1/2, and loses it only with many classes or a smaller beta.

    Args:
        input: logits `(c,)`, `(n, c)` or `(n, c, *d)`.
        target: class indices without the class axis, or class probabilities in the input's shape: the expectation over labels.
        beta: the trust in the label: 1 is cross-entropy. The paper takes 0.95 for "soft" and 0.8 for "hard".
        mode: mix the label with the predicted probabilities, or with the most likely class.

    Returns:
        One loss a row (`reduction="none"`), or their mean or sum; float32 at least.

    Example:
        >>> import torch, lossmith
        >>> z, y = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([1])
        >>> lossmith.bootstrap_loss(z, y, beta=0.8, mode="hard")  # 0.8 * 2.2395 + 0.2 * 0.2395
        tensor(1.8395)
    """
    return of_log_probs(_bootstrap, input, target, options, beta=beta, mode=mode)
