r"""What other fields read off a generator: each object under the name of its own literature, one line from f.

======================  =======================================  ================================================================
function                of the generator                         where it comes from
======================  =======================================  ================================================================
`preference_link`       :math:`f'(e^r)`                          the implicit reward of f-DPO, up to beta and a constant
`policy_reward`         :math:`-f'(e^r)`                         the pseudo-reward of f-DPG
`score_weight`          :math:`u^2 f''(u)` at :math:`u = e^r`    the weight of the score difference in f-distill
`density_ratio`         :math:`(f^*)'(t) = (f')^{-1}(t)`         the ratio that a critic of value t stands for
`output_activation`     increasing, onto the domain of f*        the last layer of an f-GAN critic
======================  =======================================  ================================================================

All are elementwise, of any shape, differentiable, and take an :class:`FGenerator` or the name of a registered one. Those of a log ratio
are finite wherever the exact value is, and never NaN. Half precision is computed and returned in float32.
"""

import math

import torch
import torch.nn.functional as F

from lossmith._checks import describe
from lossmith._typing import Float, Tensor
from lossmith.generators.fgenerator import FGenerator
from lossmith.generators.registry import named


def preference_link(log_ratio: Float[Tensor, "*n"], generator: FGenerator | str) -> Float[Tensor, "*n"]:
    r"""f-DPO's implicit reward of a response, up to the factor beta and a constant of the prompt: the link :math:`f'(\pi/\pi_{ref})`.

    .. math:: r(x, y) = \beta f'\!\left(\frac{\pi(y|x)}{\pi_{ref}(y|x)}\right) + \text{const}(x),
        \qquad D_f(\pi \| \pi_{ref}) = E_{\pi_{ref}} f(\pi/\pi_{ref})

    It solves the maximisation of :math:`E\,r - \beta D_f(\pi\|\pi_{ref})` where f'(0) = -inf, so that no response of the reference is
    given up; for other generators ("total_variation", "pearson_chi2" ...) the identity fails, and the paper excludes them. The constant
    cancels in differences of two responses to one prompt, and in nothing else.

    Names are ours, of the divergence with the policy first: what the paper calls reverse KL, plain DPO, is ``"kl"``, its forward KL is
    ``"reverse_kl"``, its JS is twice ``"jensen_shannon"`` (``"jensen_shannon_gan"``), its alpha divergence ``alpha_f_dpo(alpha)``.

    Args:
        log_ratio: :math:`\log \pi(y|x) - \log \pi_{ref}(y|x)` in nats, summed over the response's tokens.
        generator: an `FGenerator` or the name of one.

    Returns:
        The link of each log ratio.

    Raises:
        TypeError: `log_ratio` is no floating-point tensor, or `generator` neither a generator nor a name.

    Source:
        Wang, Jiang, Yang, Liu & Chen 2023, "Beyond reverse KL", arXiv:2309.16240, theorem 1 and table 1.

    Example:
        >>> import torch
        >>> from lossmith.generators import preference_link
        >>> r = torch.tensor([-1.0, 0.0, 1.0])
        >>> preference_link(r, "kl") - 1  # DPO: the log ratio itself
        tensor([-1.,  0.,  1.])
        >>> preference_link(r, "jensen_shannon_gan")  # bounded by log 2
        tensor([-0.6201, -0.0000,  0.3799])
    """
    return named("preference_link", generator).df_log(_floating("preference_link", "log_ratio", log_ratio))


def policy_reward(log_ratio: Float[Tensor, "*n"], generator: FGenerator | str) -> Float[Tensor, "*n"]:
    r"""f-DPG's pseudo-reward of a sample x of the policy: :math:`-f'(\pi(x)/p(x))` for the target p.

    .. math:: \nabla_\theta D_f(\pi_\theta \| p) = E_{x \sim \pi_\theta}\, f'\!\left(\frac{\pi_\theta(x)}{p(x)}\right)
        \nabla_\theta \log \pi_\theta(x), \qquad D_f(\pi \| p) = E_p f(\pi/p)

    so that maximising this reward by policy gradients, the reward held constant, minimises the divergence. The ratio is of policy to
    target: ``"reverse_kl"`` gives :math:`p/\pi`, the reward of DPG for :math:`KL(p\|\pi)`, and ``"kl"`` the KL-penalised reward of
    RLHF for :math:`KL(\pi\|p)`. A target known up to its normaliser Z enters as log P - log Z. Any baseline may be subtracted.

    Args:
        log_ratio: :math:`\log \pi(x) - \log p(x)` in nats, of whole sequences; detach it, or the reward is differentiated too.
        generator: an `FGenerator` or the name of one.

    Returns:
        The reward of each sample.

    Raises:
        TypeError: `log_ratio` is no floating-point tensor, or `generator` neither a generator nor a name.

    Source:
        Go, Korbak, Kruszewski, Rozen, Ryu & Dymetman 2023, "Aligning language models with preferences through f-divergence
        minimization", arXiv:2302.08215, theorem 1 and table 1.

    Example:
        >>> import torch
        >>> from lossmith.generators import policy_reward
        >>> r = torch.tensor([-1.0, 0.0, 1.0])  # the policy gives the first sample too little, the last too much
        >>> policy_reward(r, "reverse_kl")
        tensor([2.7183, 1.0000, 0.3679])
        >>> policy_reward(r, "total_variation")
        tensor([ 0.5000, -0.0000, -0.5000])
    """
    return -named("policy_reward", generator).df_log(_floating("policy_reward", "log_ratio", log_ratio))


def score_weight(log_ratio: Float[Tensor, "*n"], generator: FGenerator | str) -> Float[Tensor, "*n"]:
    r"""f-distill's weight of the score difference: :math:`h(u) = u^2 f''(u)`, with u = p/q the ratio of teacher to student.

    .. math:: \nabla_\theta D_f(p \| q_\theta) = -E_{x \sim q_\theta}\, h\!\left(\frac{p(x)}{q_\theta(x)}\right)
        \bigl(\nabla_x \log p(x) - \nabla_x \log q_\theta(x)\bigr) \frac{\partial x}{\partial \theta}

    ====================  ============================    =======================  =======================
    generator             h                               generator                h
    ====================  ============================    =======================  =======================
    ``reverse_kl``        1, which is VSD and DMD         ``squared_hellinger``    :math:`\tfrac12 \sqrt u`
    ``kl``                u                               ``jeffreys``             u + 1
    ``jensen_shannon``    :math:`\tfrac12 u / (u + 1)`    ``pearson_chi2``         :math:`2 u^2`
    ``gan``               :math:`u / (u + 1)`             ``neyman_chi2``          :math:`2 / u`
    ====================  ============================    =======================  =======================

    The paper divides the weights of a batch by their mean and takes no gradient through them. It is also the coefficient in the
    expansion of D_f along a diffusion.

    Args:
        log_ratio: :math:`\log p(x) - \log q(x)` in nats, such as the logit of a discriminator of teacher and student samples.
        generator: an `FGenerator` or the name of one.

    Returns:
        The weight of each log ratio: inf where it is beyond the dtype, as ``"kl"`` at 800 is in float64.

    Raises:
        TypeError: `log_ratio` is no floating-point tensor, or `generator` neither a generator nor a name.

    Source:
        Xu, Nie & Vahdat 2025, "One-step diffusion models with f-divergence distribution matching", arXiv:2502.15681, theorem 1, table 1.

    Example:
        >>> import torch
        >>> from lossmith.generators import score_weight
        >>> r = torch.tensor([0.0, 800.0], dtype=torch.float64)
        >>> [score_weight(r, name).tolist() for name in ("kl", "reverse_kl", "jensen_shannon")]
        [[1.0, inf], [1.0, 1.0], [0.25, 0.5]]
    """
    return named("score_weight", generator).score_weight(_floating("score_weight", "log_ratio", log_ratio))


def density_ratio(t: Float[Tensor, "*n"], generator: FGenerator | str) -> Float[Tensor, "*n"]:
    r"""The ratio p/q that a critic of value t stands for: :math:`(f^*)'(t) = (f')^{-1}(t)`, exact at the optimal critic.

    `preference_link` of the log ratio, backwards. Where f is not strictly convex (total variation) a critic tells no ratio from another,
    and this is one of the subgradients.

    Args:
        t: values of the critic T, in the conjugate's domain; below f'(0) the ratio is 0, beyond f'(inf) it is inf.
        generator: an `FGenerator` or the name of one.

    Returns:
        The ratio of each value.

    Raises:
        TypeError: `t` is no floating-point tensor, or `generator` neither a generator nor a name.

    Source:
        Nguyen, Wainwright & Jordan 2010, "Estimating divergence functionals and the likelihood ratio by convex risk minimization",
        arXiv:0809.0853.

    Example:
        >>> import torch
        >>> from lossmith.generators import density_ratio
        >>> density_ratio(torch.tensor([0.0, 1.0, 2.0]), "kl")
        tensor([0.3679, 1.0000, 2.7183])
    """
    return named("density_ratio", generator).inverse_link(_floating("density_ratio", "t", t))


def output_activation(v: Float[Tensor, "*n"], generator: FGenerator | str) -> Float[Tensor, "*n"]:
    r"""The last layer of an f-GAN critic: from any real number into the conjugate's domain, increasing and smooth.

    ===========================================================================================  ====================================
    generator                                                                                    T
    ===========================================================================================  ====================================
    ``total_variation``                                                                          :math:`\tfrac12 \tanh v`
    ``reverse_kl``                                                                               :math:`-e^{-v}`
    ``squared_hellinger``, ``neyman_chi2``                                                       :math:`1 - e^{-v}`
    others with f'(inf) finite: ``gan``, the Jensen-Shannons, alpha below 1, ``triangular`` ...  :math:`f'(\infty) - \log(1 + e^{-v})`
    others: ``kl``, ``pearson_chi2``, ``jeffreys``, alpha of 1 and more ...                      :math:`v`
    ===========================================================================================  ====================================

    The first three lines, and the last two for the generators that f-GAN has, are its table 6; beyond the table we take its pattern. The
    paper asks for increasing functions, large where the critic believes in P, and so :math:`e^{-v}` stands where one printing of
    the table has :math:`e^v`. A multiple or a tilt of a generator in the first three lines has the multiple or the tilt of its function.

    In floats, f'(inf) is reached at large v where f'(inf) is not 0 (at 17 in float32), and there f* may be +inf: a critic that is
    trained as a log ratio has no such end, see `lossmith.divergences.variational_bound` with ``log_ratio=True``.

    Args:
        v: the output of a network.
        generator: an `FGenerator` or the name of one.

    Returns:
        The critic's values T, for `variational_bound`.

    Raises:
        TypeError: `v` is no floating-point tensor, or `generator` neither a generator nor a name.

    Source:
        Nowozin, Cseke & Tomioka 2016, "f-GAN", arXiv:1606.00709, section 3.1 and table 6.

    Example:
        >>> import torch
        >>> from lossmith.generators import output_activation
        >>> v = torch.tensor([-2.0, 0.0, 2.0])
        >>> output_activation(v, "gan")
        tensor([-2.1269, -0.6931, -0.1269])
        >>> output_activation(v, "kl")
        tensor([-2.,  0.,  2.])
    """
    g = named("output_activation", generator)
    v = _floating("output_activation", "v", v)
    if g.activation is not None:
        return g.activation(v)
    return v if math.isinf(g.slope_at_infinity) else g.slope_at_infinity + F.logsigmoid(v)


def _floating(function: str, argument: str, x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"{function}: {argument} must be a floating-point tensor; got {describe(x)}")
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
