"""The generators that every law is tested on: all that are registered, and those derived from them in each way there is."""

import torch

from lossmith.generators import (
    FGenerator,
    all_generators,
    chi_p,
    gan,
    jeffreys,
    jensen_shannon,
    kl,
    neyman_chi2,
    pearson_chi2,
    reverse_kl,
    skew_kl,
    squared_hellinger,
    total_variation,
    triangular,
)

REGISTERED = dict(all_generators())


def rederived(g: FGenerator) -> FGenerator:
    """The same convex function, with nothing known of it but its values and whatever limits cannot be seen in them."""
    return FGenerator.from_function(g.f, name=f"from_function of {g.name}")


DERIVED = {
    g.name: g
    for g in (
        chi_p(1.5).reverse(),
        chi_p(3.0).reverse(),
        0.3 * kl,
        2.5 * triangular,
        7.0 * jeffreys,
        kl.tilted(0.7),
        gan.centred(),
        squared_hellinger.tilted(-2.0),
        total_variation.tilted(0.25),
        kl.symmetrised(),
        pearson_chi2.symmetrised(),
        skew_kl(0.1).symmetrised(),
        chi_p(3.0).symmetrised(),
        kl + total_variation,
        squared_hellinger + pearson_chi2,
        jensen_shannon + neyman_chi2,
        triangular + total_variation,
        reverse_kl + gan + chi_p(1.5),
    )
}
REDERIVED = {g.name: g for g in map(rederived, REGISTERED.values())}
ALL = REGISTERED | DERIVED | REDERIVED
CLOSED = {name: g for name, g in REGISTERED.items() if not g.numerical}
DTYPES = (torch.float64, torch.float32)
