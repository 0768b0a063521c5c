"""What follows from an entropy on the simplex, shown for two classes."""

import math

import torch
from torch import Tensor

from lossmith.cli.derived import Sheet, derived, grid
from lossmith.generators import Entropy

AGAINST = 0.3
"""The report from which the Bregman divergence is drawn."""


def sheet(entropy: Entropy) -> Sheet:
    """The entropy with all that is derived from it."""
    margin, p = grid(-4.0, 4.0), grid(0.0, 1.0)
    logits, pair = torch.stack([margin, torch.zeros_like(margin)], -1), torch.stack([p, 1 - p], -1)
    other = torch.tensor([AGAINST, 1 - AGAINST], dtype=torch.float64)
    inside = grid(0.001, 0.999)
    within = torch.stack([inside, 1 - inside], -1)
    losses, slope = entropy.proper_loss(within), entropy.gradient(within)
    call = f'generators.get_entropy("{entropy.name}")'
    name = f'entropy="{entropy.name}"'
    return Sheet(entropy.name, rf"\Omega(p) = {entropy.formula}", facts(entropy), [
        derived("entropy", "-Omega(p), the Bayes risk", f"{call}.bayes_risk(p)", "p", p, {"-Omega": entropy.bayes_risk(pair)}),
        derived("link", "grad Omega(p)", f"{call}.gradient(p)", "p", inside, {"difference": slope[:, 0] - slope[:, 1]}),
        derived("proper loss", "-Omega(p) - <grad Omega(p), e_y - p>", f"lossmith.proper_loss_from_entropy(logits, target, {name})",
                "reported p", inside, {"class 1": losses[:, 0], "class 2": losses[:, 1]}),
        derived("regularised argmax", "argmax <p, z> - Omega(p)", f"{call}.argmax(logits)", "z1 - z2", margin,
                {"p": entropy.argmax(logits)[:, 0]}),
        derived("Fenchel-Young loss", "Omega*(z) + Omega(e_y) - z_y", f"lossmith.fenchel_young_loss(logits, target, {name})",
                "z1 - z2", margin, {"class 1": _loss(entropy, logits, 0), "class 2": _loss(entropy, logits, 1)}),
        derived("Bregman divergence", f"from p to {AGAINST}, and back", f"{call}.bregman(p, q)", "p", p,
                {"B(p||q)": entropy.bregman(pair, other.expand_as(pair)), "B(q||p)": entropy.bregman(other.expand_as(pair), pair)}),
    ])  # fmt: skip


def facts(entropy: Entropy) -> dict[str, str]:
    """What is said of it before anything is drawn."""
    sparse = math.isfinite(entropy.margin)
    return {
        "source": entropy.source or "not stated",
        "regularised argmax": "sparse: it gives probabilities of exactly 0" if sparse else "never exactly 0",
        "margin": f"{entropy.margin:.4g}: " + ("a label that leads by it costs nothing" if sparse else "no lead makes the loss 0"),
    }


def _loss(entropy: Entropy, logits: Tensor, label: int) -> Tensor:
    return entropy.fenchel_young(logits, torch.full(logits.shape[:-1], label))
