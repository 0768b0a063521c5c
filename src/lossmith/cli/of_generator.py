"""What follows from the generator of an f-divergence, over ranges in which its shape can be seen."""

import math

import torch
from torch import Tensor

from lossmith import generators
from lossmith.cli.derived import Derived, Sheet, derived, grid
from lossmith.divergences import divergence
from lossmith.generators import FGenerator
from lossmith.robust import dro_weights

AGAINST = 0.3
"""The other distribution of two outcomes."""


def sheet(g: FGenerator) -> Sheet:
    """The generator with all that is derived from it."""
    return Sheet(g.name, f"f(u) = {g.formula}", facts(g), [*_of_itself(g), *_of_ratios(g), _of_losses(g)])


def facts(g: FGenerator) -> dict[str, str]:
    """What is said of it before anything is drawn."""
    symmetric = g.reverse() is g
    largest = g.at_zero + g.slope_at_infinity
    misses = "" if math.isfinite(g.at_zero) else ": the divergence is infinite where p has nothing and q something"
    beyond = "" if math.isfinite(g.slope_at_infinity) else ": the divergence is infinite where q has nothing and p something"
    return {
        "source": g.source or "not stated",
        "reverse": "itself: the divergence is symmetric" if symmetric else g.reverse().name,
        "f(0)": f"{g.at_zero:.4g}{misses}",
        "f'(inf)": f"{g.slope_at_infinity:.4g}{beyond}",
        "largest divergence": f"{largest:.4g}",
        "f* is finite on": str(g.conjugate_domain),
        "found numerically": ", ".join(g.numerical) or "nothing: each member has its formula",
    }


def _of_itself(g: FGenerator) -> list[Derived]:
    u, name = grid(0.0, 4.0), _argument(g)
    outcomes, other = grid(0.0, 1.0), torch.full((len(grid(0, 1)),), AGAINST, dtype=torch.float64)
    share, certain = grid(0.001, 0.999), torch.ones(len(grid(0, 1)), dtype=torch.float64)
    slope = g.df(torch.tensor([0.05, 4.0], dtype=torch.float64)).tolist()
    margin = 0.25 * (slope[1] - slope[0]) or 0.5
    t = grid(slope[0] - margin, min(slope[1] + margin, g.slope_at_infinity))
    finite = math.isfinite(g.at_zero)  # else the label's certainty is infinitely far from every prediction
    usable = name if finite else _argument(g.reverse())
    call = f"lossmith.f_divergence_loss(logits, target, generator={usable})" + ("" if finite else ", the reverse's")
    return [
        derived(
            "generator", "f(u), u = p/q", f"generators.get({name}).f(u)", "u", u,
            _both(g, "f(u)", g.f(u), "u f(1/u)", g.reverse().f(u)),
        ),
        derived(
            "conjugate", "f*(t) = sup u t - f(u)", f"generators.get({name}).conjugate(t)", "t", t,
            {"f*(t)": g.conjugate(t), "density ratio": generators.density_ratio(t, g)},
        ),
        derived(
            "divergence", "D_f(p||q) = E_q f(p/q)", f"divergences.divergence(p, q, {name})", f"p of two outcomes, q = {AGAINST}", outcomes,
            _both(g, "D(p||q)", _of_two(outcomes, other, g), "D(q||p)", _of_two(other, outcomes, g)),
        ),
        derived(
            "loss of a label", "D_f(e_y||p)", call, "probability of the label", share,
            _both(g, "D(e_y||p)", _of_two(certain, share, g), "D(p||e_y)", _of_two(share, certain, g)),
        ),
    ]  # fmt: skip


def _of_ratios(g: FGenerator) -> list[Derived]:
    r, name = grid(-4.0, 4.0), _argument(g)
    return [
        derived(
            "preference link", "f'(e^r)", f"generators.preference_link(r, {name})", "r = log policy / reference", r,
            {"f'(e^r)": generators.preference_link(r, g)},
        ),
        derived(
            "weight of a score", "u^2 f''(u) at u = e^r", f"generators.score_weight(r, {name})", "r = log teacher / student", r,
            {"u^2 f''(u)": generators.score_weight(r, g)},
        ),
        derived(
            "critic's output", "from R into where f* is finite", f"generators.output_activation(v, {name})", "v", r,
            {"T(v)": generators.output_activation(r, g)},
        ),
    ]  # fmt: skip


def _of_losses(g: FGenerator) -> Derived:
    losses = grid(0.0, 4.0)
    return derived(
        "weights of a robust risk", "sup E_q loss - D_f(q||p)", f"robust.dro_risk(losses, {_argument(g)}, penalty=1.0)",
        "a loss among losses spread evenly", losses, {"weight": dro_weights(losses, g, penalty=1.0) * len(losses)},
    )  # fmt: skip


def _both(g: FGenerator, first: str, one: Tensor, second: str, other: Tensor) -> dict[str, Tensor]:
    """Both directions, or the one there is."""
    return {first: one} if g.reverse() is g else {first: one, second: other}


def _argument(g: FGenerator) -> str:
    return f'"{g.name}"'


def _of_two(p: Tensor, q: Tensor, g: FGenerator) -> Tensor:
    return divergence(torch.stack([p, 1 - p], -1), torch.stack([q, 1 - q], -1), g)
