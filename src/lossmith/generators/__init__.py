"""Convex functions, each written once: the generators of f-divergences, the entropies on the simplex, and all that is derived from them.

An :class:`FGenerator` holds f, f', f'', the conjugate f*, the inverse link and the limits; its docstring states the conventions. The
instances are in `logarithmic`, `powers` and `alpha`;
``get`` finds one by name, and ``FGenerator.from_function`` makes one from any convex function.

An :class:`Entropy` is the twin on the simplex: a convex function of probabilities, with its regularised argmax (softmax, sparsemax,
entmax), Fenchel-Young loss, Bregman divergence and proper loss. The instances are in `entropies`; ``get_entropy`` finds one by name.
A :class:`MirrorMap` is a convex function that descent can take its steps by.
"""

from lossmith.generators.alpha import alpha_amari, alpha_cichocki, alpha_f_dpo, alpha_tsallis, convert_alpha
from lossmith.generators.entropies import gini, norm_entropy, shannon, squared_norm_entropy, tsallis
from lossmith.generators.entropy import Entropy
from lossmith.generators.entropy_registry import UnknownEntropy, all_entropies, entropy_family, get_entropy, register_entropy
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
from lossmith.generators.mirror import MirrorMap, entropic_map, p_norm_map
from lossmith.generators.powers import chi_p, neyman_chi2, pearson_chi2, squared_hellinger, total_variation, triangular
from lossmith.generators.registry import UnknownGenerator, all_generators, family, get, register
from lossmith.generators.sparse_maps import entmax, sparsemax

__all__ = [
    "Entropy",
    "FGenerator",
    "MirrorMap",
    "UnknownEntropy",
    "UnknownGenerator",
    "all_entropies",
    "all_generators",
    "alpha_amari",
    "alpha_cichocki",
    "alpha_f_dpo",
    "alpha_tsallis",
    "chi_p",
    "convert_alpha",
    "entmax",
    "entropic_map",
    "entropy_family",
    "family",
    "gan",
    "get",
    "get_entropy",
    "gini",
    "jeffreys",
    "jensen_shannon",
    "jensen_shannon_gan",
    "jensen_shannon_skewed",
    "kl",
    "neyman_chi2",
    "norm_entropy",
    "p_norm_map",
    "pearson_chi2",
    "register",
    "register_entropy",
    "reverse_kl",
    "shannon",
    "skew_kl",
    "skew_reverse_kl",
    "sparsemax",
    "squared_hellinger",
    "squared_norm_entropy",
    "total_variation",
    "triangular",
    "tsallis",
]
