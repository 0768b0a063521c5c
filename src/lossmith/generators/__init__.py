"""Convex functions, each written once: the generators of f-divergences, and all that is derived from them.

An :class:`FGenerator` holds f, f', f'', the conjugate f*, the inverse link and the limits; its docstring states the conventions. The
instances are in `logarithmic`, `powers` and `alpha`;
``get`` finds one by name, and ``FGenerator.from_function`` makes one from any convex function. `links` reads off a generator what
preference learning, policy gradients, score distillation and f-GANs need of it.
"""

from lossmith.generators.alpha import alpha_amari, alpha_cichocki, alpha_f_dpo, alpha_tsallis, convert_alpha
from lossmith.generators.fgenerator import FGenerator
from lossmith.generators.links import density_ratio, output_activation, policy_reward, preference_link, score_weight
from lossmith.generators.logarithmic import (
    gan,
    jeffreys,
    jensen_shannon,
    jensen_shannon_gan,
    jensen_shannon_skewed,
    kl,
    reverse_kl,
    skew_kl,
    skew_reverse_kl,
)
from lossmith.generators.powers import chi_p, neyman_chi2, pearson_chi2, squared_hellinger, total_variation, triangular
from lossmith.generators.registry import UnknownGenerator, all_generators, family, get, register

__all__ = [
    "FGenerator",
    "UnknownGenerator",
    "all_generators",
    "alpha_amari",
    "alpha_cichocki",
    "alpha_f_dpo",
    "alpha_tsallis",
    "chi_p",
    "convert_alpha",
    "density_ratio",
    "family",
    "gan",
    "get",
    "jeffreys",
    "jensen_shannon",
    "jensen_shannon_gan",
    "jensen_shannon_skewed",
    "kl",
    "neyman_chi2",
    "output_activation",
    "pearson_chi2",
    "policy_reward",
    "preference_link",
    "register",
    "reverse_kl",
    "score_weight",
    "skew_kl",
    "skew_reverse_kl",
    "squared_hellinger",
    "total_variation",
    "triangular",
]
