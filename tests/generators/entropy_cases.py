"""The entropies that every law is tested on, each with its formula and gradient written a second time, in NumPy and from the papers."""

import numpy as np
import torch

from lossmith.generators import Entropy, all_entropies, norm_entropy, squared_norm_entropy, tsallis

REGISTERED = dict(all_entropies())
USERS = {
    e.name: e
    for e in (
        Entropy.from_function(lambda p: p * p.log(), name="my shannon"),
        Entropy.from_function(lambda p: (p.square() - p) / 2, name="my gini"),
        Entropy.from_function(lambda p: (p**1.5 - p) / 0.75, name="my tsallis(1.5)"),
        Entropy.from_function(lambda p: p * p.log() + torch.xlogy(1 - p, 1 - p), name="pairwise"),
    )
}
ALL = REGISTERED | {e.name: e for e in (tsallis(1.05), tsallis(2.5), norm_entropy(1.2), squared_norm_entropy(3.0))} | USERS


def _tsallis(alpha):
    return (
        lambda p: ((p**alpha).sum(-1) - 1) / (alpha * (alpha - 1)),
        lambda p: np.where(p > 0, p, np.nan) ** (alpha - 1) / (alpha - 1) if alpha < 1 else p ** (alpha - 1) / (alpha - 1),
    )


def _norm(q):
    return (
        lambda p: (p**q).sum(-1) ** (1 / q) - 1,
        lambda p: (p**q).sum(-1, keepdims=True) ** (1 / q - 1) * p ** (q - 1),
    )


def _squared_norm(q):
    return (
        lambda p: ((p**q).sum(-1) ** (2 / q) - 1) / 2,
        lambda p: (p**q).sum(-1, keepdims=True) ** (2 / q - 1) * p ** (q - 1),
    )


_shannon = (
    lambda p: (p * np.log(np.where(p > 0, p, 1))).sum(-1),
    lambda p: np.log(np.where(p > 0, p, np.nan)),
)
_pairwise = (
    lambda p: (p * np.log(np.where(p > 0, p, 1)) + (1 - p) * np.log(np.where(p < 1, 1 - p, 1))).sum(-1),
    lambda p: np.log(np.where(p > 0, p, np.nan)) - np.log(np.where(p < 1, 1 - p, np.nan)),
)

FORMULAS = {
    "shannon": _shannon,
    "gini": _tsallis(2.0),
    **{f"tsallis(alpha={a})": _tsallis(a) for a in (0.5, 1.05, 1.2, 1.5, 2.5, 3.0)},
    **{f"norm_entropy(q={q})": _norm(q) for q in (1.2, 1.5, 2.0, 4.0)},
    **{f"squared_norm_entropy(q={q})": _squared_norm(q) for q in (1.5, 3.0, 4.0)},
    "my shannon": _shannon,
    "my gini": _tsallis(2.0),
    "my tsallis(1.5)": _tsallis(1.5),
    "pairwise": _pairwise,
}
"""Omega and its gradient; NaN where the slope is infinite."""

MARGINS = {
    "shannon": np.inf,
    "my shannon": np.inf,
    "pairwise": np.inf,
    "tsallis(alpha=0.5)": np.inf,
    "gini": 1.0,
    "my gini": 1.0,
    "my tsallis(1.5)": 2.0,
    **{f"tsallis(alpha={a})": 1 / (a - 1) for a in (1.05, 1.2, 1.5, 2.5, 3.0)},
    **{name: 1.0 for name in FORMULAS if "norm" in name},
}


def logits(*shape, scale=1.0, seed=0, dtype=torch.float64):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def interior(n, c, seed=1):
    """Probabilities of which none is 0 or very small."""
    p = 0.05 + torch.rand(n, c, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return p / p.sum(-1, keepdim=True)
