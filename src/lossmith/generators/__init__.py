"""Convex functions, each written once: the generators of f-divergences, and all that is derived from them.

An :class:`FGenerator` holds f, f', f'', the conjugate f*, the inverse link and the limits; its docstring states the conventions. The
instances are in `logarithmic`, `powers` and `alpha`;
``get`` finds one by name, and ``FGenerator.from_function`` makes one from any convex function.
"""

from lossmith.generators.alpha import alpha_amari, alpha_cichocki, alpha_f_dpo, alpha_tsallis, convert_alpha
from lossmith.generators.fgenerator import FGenerator
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
    "family",
    "gan",
    "get",
    "jeffreys",
    "jensen_shannon",
    "jensen_shannon_gan",
    "jensen_shannon_skewed",
    "kl",
    "neyman_chi2",
    "pearson_chi2",
    "register",
    "reverse_kl",
    "skew_kl",
    "skew_reverse_kl",
    "squared_hellinger",
    "total_variation",
    "triangular",
]
