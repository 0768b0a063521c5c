"""Divergences between distributions, each by the convex function that generates it; and how far apart samples are.

=====================  =========================================================================================================
what is given          what there is
=====================  =========================================================================================================
two distributions      :func:`divergence`, of any generator; :func:`renyi`, :func:`cauchy_schwarz`; of Gaussians,
                       :func:`wasserstein_gaussian`, :func:`bures`, :func:`wasserstein1_normal`; :func:`bregman`, of any convex function
two densities          :func:`estimate_divergence`, :func:`estimate_divergence_at`: from samples, with a standard error
a critic of samples    :func:`variational_bound`, :func:`tight_variational_bound`, of any generator
samples alone          :func:`cs_divergence`, :func:`conditional_cs_divergence`, :func:`cs_qmi`, :func:`cs_information_bottleneck`:
                       Cauchy-Schwarz divergences of kernel density estimates, as training objectives
=====================  =========================================================================================================
"""

from lossmith.divergences.bregman import bregman
from lossmith.divergences.cauchy_schwarz_samples import (
    conditional_cs_divergence,
    cs_divergence,
    cs_information_bottleneck,
    cs_qmi,
)
from lossmith.divergences.certainty import from_certainty
from lossmith.divergences.f_divergence import divergence
from lossmith.divergences.monte_carlo import estimate_divergence, estimate_divergence_at
from lossmith.divergences.renyi import cauchy_schwarz, renyi
from lossmith.divergences.variational import tight_variational_bound, variational_bound
from lossmith.divergences.wasserstein import bures, wasserstein1_normal, wasserstein_gaussian

__all__ = [
    "bregman",
    "bures",
    "cauchy_schwarz",
    "conditional_cs_divergence",
    "cs_divergence",
    "cs_information_bottleneck",
    "cs_qmi",
    "divergence",
    "estimate_divergence",
    "estimate_divergence_at",
    "from_certainty",
    "renyi",
    "tight_variational_bound",
    "variational_bound",
    "wasserstein1_normal",
    "wasserstein_gaussian",
]
