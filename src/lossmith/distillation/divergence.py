"""Distillation by a divergence between the teacher's and the student's predictions, whatever the convex function."""

from typing import Unpack

from lossmith._options import TeacherOptions
from lossmith._pairs import of_teacher
from lossmith._reduce import times
from lossmith._sources import LogitSource
from lossmith._typing import Float, Hyper, Logits, Tensor
from lossmith.card import Choice, Claims, Range, objective
from lossmith.divergences import divergence
from lossmith.generators import FGenerator
from lossmith.generators.registry import ANY

_HINTON = "Hinton, Vinyals & Dean 2015, 'Distilling the Knowledge in a Neural Network', arXiv:1503.02531"


def _from_teacher(
    log_p: Float[Tensor, "*rows c"], log_q: Float[Tensor, "*rows c"], generator: FGenerator, factor: Hyper
) -> Float[Tensor, "*rows"]:
    return times(factor, divergence(log_q, log_p, generator, log=True))


@objective(
    row=_from_teacher,
    form="teacher",
    source=f"{_HINTON}; Wen et al. 2023, 'f-Divergence Minimization for Sequence-Level Knowledge Distillation', arXiv:2307.15190",
    summary="the f-divergence of the teacher's prediction from the student's, for any convex function f",
    use_when="a small model is to predict what a large one does, and you want to choose which mistakes cost most",
    formula=r"T^2 D_f(\operatorname{softmax}(t / T) \| \operatorname{softmax}(z / T))",
    ranges={"generator": ANY, "temperature": Range(0, open_low=True), "rescale": Choice(True, False)},
    settings=[
        {"generator": "reverse_kl", "temperature": 2.0},
        {"generator": "jensen_shannon_skewed(weight=0.1)"},
        {"generator": "total_variation", "temperature": 0.5, "rescale": False},
        {"generator": "skew_kl(skew=0.1)", "temperature": 2.0, "rescale": False},
    ],
    aliases=("knowledge_distillation", "kd_loss"),
    tags=("distillation", "teacher", "f-divergence"),
    predicts="probabilities",
    claims=Claims(
        convex=False,  # at the defaults it is
        proper=True,
        calibrated=True,
        symmetric=False,
        shift_invariant=True,
        class_symmetric=True,
        growth=None,  # the generator's: linear for kl, exponential for pearson_chi2
        bounds=lambda generator, temperature, rescale: (
            0.0,
            (ANY(generator).at_zero + ANY(generator).slope_at_infinity) * (temperature**2 if rescale else 1.0),
        ),
    ),
    provenance="derived from the generator; checked against torch.nn.functional.kl_div, the definitions of the named divergences summed "
    "class by class, and finite differences",
)
def divergence_distillation(
    input: Logits | LogitSource,
    target: Logits | LogitSource,
    *,
    generator: FGenerator | str = "kl",
    temperature: Hyper = 1.0,
    rescale: bool = True,
    **options: Unpack[TeacherOptions],
) -> Float[Tensor, "*reduced"]:
    r"""The f-divergence between a teacher's prediction q and a student's prediction p, in the order of mathematics.

    .. math::
        \ell(z, t) = T^2 D_f(q \| p), \qquad q = \operatorname{softmax}(t / T), \quad p = \operatorname{softmax}(z / T)

    The teacher comes first, so that the default is the forward :math:`KL(q \| p)` of Hinton et al.; every other direction and mixture
    is another generator:

    ===================================  ========================================================  ==========================
    generator                            divergence                                                known as
    ===================================  ========================================================  ==========================
    ``kl``                               :math:`KL(q \| p)`                                        forward KL: covers
    ``reverse_kl``                       :math:`KL(p \| q)`                                        reverse KL: seeks modes
    ``jensen_shannon_skewed(weight=b)``  :math:`b KL(q \| m) + (1-b) KL(p \| m), m = bq + (1-b)p`  GKD's JSD(beta)
    ``skew_kl(skew=a)``                  :math:`KL(q \| a q + (1 - a) p)`                          DistiLLM's skew KL
    ``skew_reverse_kl(skew=a)``          :math:`KL(p \| a p + (1 - a) q)`                          DistiLLM's skew reverse KL
    ``total_variation``                  :math:`\tfrac12 \sum |q - p|`                             DistillSpec's TVD
    ===================================  ========================================================  ==========================

    The gradient in the logits falls as :math:`1/T^2` for large T; the factor :math:`T^2`, which Hinton et al. ask for, keeps it in
    proportion to that of a loss on labels beside it. With ``rescale=False`` the value is the divergence itself, in nats.

    Gradients flow into the teacher's logits too, if they ask for them. Compute them under ``torch.no_grad()`` for a teacher that does
    not learn.

    For ``kl`` torch wants the arguments the other way round:
    ``F.kl_div(z.log_softmax(1), t.log_softmax(1), reduction="none", log_target=True).sum(1)``. Its ``reduction="mean"`` divides by the
    number of classes as well, and its value is NaN where both give a class no probability.

    Args:
        input: the student's logits `(c,)`, `(n, c)` or `(n, c, *d)`, or a `lossmith.fused.LinearLogits`.
        target: the teacher's logits (or log-probabilities, which are logits too) in the input's shape; a `LinearLogits` for one.
        generator: f: an `FGenerator`, or the name of one.
        temperature: T, by which both are divided; a number or a 0-d tensor.
        rescale: whether the factor :math:`T^2` is part of the loss.

    Returns:
        One loss a row (`reduction="none"`), or their mean or sum; float32 at least.

    Example:
        >>> import torch, lossmith
        >>> student, teacher = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])
        >>> lossmith.divergence_distillation(student, teacher)
        tensor(0.1120)
        >>> lossmith.divergence_distillation(student, teacher, generator="reverse_kl", temperature=2.0)
        tensor(0.1240)
    """
    _from_teacher.card.check({"generator": generator, "temperature": temperature, "rescale": rescale})  # type: ignore[attr-defined]
    factor = temperature * temperature if rescale else 1.0
    g = ANY(generator)
    how = {"temperature": temperature, "generator": g, "factor": factor}
    return of_teacher(_from_teacher, input, target, options, divergence=(g, factor), **how)
