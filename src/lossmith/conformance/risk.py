"""Searches for a truth that an objective misleads: whose honest report is not the best, or whose best report predicts wrongly."""

import itertools
from typing import Any

import torch
from torch import Tensor

from lossmith._risk import pattern_search, risk, risks
from lossmith._subject import Subject
from lossmith.conformance.problems import generator, gradient, leaf
from lossmith.conformance.registry import ELEMENTS

TRUTHS = 400
REPORTS = 400
ZOOM_TRUTHS = 16
ZOOM_ROUNDS = 22

Gap = tuple[int, str | None, dict[str, Any]]
"""How many points were tried, what was found, and the example."""


def truths(k: int, n: int, seed: int) -> Tensor:
    """Probabilities drawn uniformly from the simplex, a little away from its faces."""
    p = -torch.rand(n, k, generator=generator(seed), dtype=torch.float64).log() + 2e-3
    return p / p.sum(1, keepdim=True)


def honest(subject: Subject, p: Tensor) -> Tensor:
    """The logits that report these probabilities."""
    return (p[:, :1] / p[:, 1:]).log() if subject.form in ELEMENTS else p.log()


def properness_gap(subject: Subject, seed: int) -> Gap:
    """A truth whose honest report has a slope, or is no cheaper than another report by 1e-6 times their squared distance."""
    binary = subject.form in ELEMENTS
    for k in (2,) if binary else (3, 5):
        p = truths(k, 64, seed)
        z = leaf(honest(subject, p))
        cost = risk(subject, p, z)
        slope = gradient(cost.sum(), z).abs().amax(1)
        worst = int(slope.argmax())
        if slope[worst] > 1e-7 * max(1.0, cost[worst].abs().item()):
            return k, f"the risk of reporting the truth has slope {slope[worst].item():.3g}", {"truth": p[worst]}
    k = 2 if binary else 3
    p, q = truths(k, TRUTHS, seed), truths(k, REPORTS, seed + 1)
    own = risk(subject, p, honest(subject, p)).unsqueeze(1)
    other = risks(subject, p, honest(subject, q))
    gained = own + 1e-6 * torch.cdist(p, q).square() - other - 1e-12 * own.abs().clamp_min(1.0)
    if (gained > 0).any():
        truth, report = divmod(int(gained.argmax()), REPORTS)
        said = f"another report is as cheap as the truth: {other[truth, report].item():.6g} against {own[truth, 0].item():.6g}"
        return TRUTHS * REPORTS, said, {"truth": p[truth], "report": q[report]}
    return TRUTHS * REPORTS, None, {}


def calibration_gap(subject: Subject, seed: int, *, thorough: bool = False) -> Gap:
    """A truth under which some report that does not predict the most likely class (ties do not) is as cheap as all that do.

    The best report that does and the best that does not are first looked for on a grid closed under permutations; for the most
    doubtful truths (`thorough`: for many) both are then refined by a pattern search whose steps halve. Without it a steep loss fails
    for no better reason than a coarse grid.
    """
    grid = _grid(subject, seed)
    p = truths(2 if subject.form in ELEMENTS else 3, TRUTHS, seed + 2)
    top = p.topk(2, 1).values
    lead = top[:, 0] - top[:, 1]
    p, lead = p[lead > 0.03], lead[lead > 0.03]
    points = p.shape[0] * grid.shape[0]
    cost = risks(subject, p, grid)
    right = _predicted(grid) == p.argmax(1, keepdim=True)
    right_risk, right_at = torch.where(right, cost, torch.inf).min(1)
    wrong_risk, wrong_at = torch.where(right, torch.inf, cost).min(1)
    many = ZOOM_TRUTHS if subject.vectorised else ZOOM_TRUTHS // 4  # one call a row is dear
    doubtful = ((wrong_risk - right_risk) / lead).argsort().split(many)
    for part in doubtful[: 12 if thorough else 1]:
        found = _refined(subject, p[part], grid[right_at[part]], right_risk[part], grid[wrong_at[part]], wrong_risk[part])
        if found is not None:
            return points, *found
    return points, None, {}


def _refined(
    subject: Subject, p: Tensor, z_right: Tensor, right_risk: Tensor, z_wrong: Tensor, wrong_risk: Tensor
) -> tuple[str, dict[str, Any]] | None:
    """What is found when the best reports on both sides are refined; nothing, if the right one is cheaper for every truth."""
    side = torch.arange(2 * len(p)) < len(p)
    at, cost = _zoom(subject, torch.cat([p, p]), torch.cat([z_right, z_wrong]), torch.cat([right_risk, wrong_risk]), side)
    (z_right, z_wrong), (right_risk, wrong_risk) = at.chunk(2), cost.chunk(2)
    worse = right_risk + 1e-6 > wrong_risk
    if not worse.any():
        return None
    # the search may have stopped in a local minimum: look again beside the wrong report, on the right side
    p, z_wrong, wrong_risk = p[worse], z_wrong[worse], wrong_risk[worse]
    z_right, right_risk = _beside(subject, p, z_wrong, z_right[worse], right_risk[worse])
    # and then whether the lead that was found is worth anything
    z_wrong, wrong_risk = _cheaper(subject, p, _tied(p, z_right), z_wrong, wrong_risk)
    gained = right_risk + 1e-6 - wrong_risk
    if not (gained > 0).any():
        return None
    i = int(gained.argmax())
    said = f"a wrong prediction costs {wrong_risk[i].item():.6g}, the best right one {right_risk[i].item():.6g}"
    return said, {"truth": p[i], "wrong": z_wrong[i], "right": z_right[i]}


def _beside(subject: Subject, p: Tensor, wrong: Tensor, right: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """The best of the right reports known and of those found from the wrong ones with the most likely class put just in front."""
    if wrong.shape[1] == 1:
        moved = torch.where(p[:, :1] > p[:, 1:], 1e-3, -1e-3).to(p.dtype)
    else:
        label = p.argmax(1, keepdim=True)
        moved = wrong.scatter(1, label, wrong.amax(1, keepdim=True) + 1e-3)
    moved, _ = _zoom(subject, p, moved, risk(subject, p, moved), torch.ones(len(p), dtype=torch.bool))
    return _cheaper(subject, p, moved, right, known)


def _tied(p: Tensor, z: Tensor) -> Tensor:
    """Reports with the lead of the most likely class taken away."""
    if z.shape[1] == 1:
        return torch.zeros_like(z)
    label = p.argmax(1, keepdim=True)
    return z.scatter(1, label, z.scatter(1, label, -torch.inf).amax(1, keepdim=True))


def _cheaper(subject: Subject, p: Tensor, new: Tensor, known: Tensor, known_cost: Tensor) -> tuple[Tensor, Tensor]:
    """The cheaper of two reports, a truth a row, and what it costs."""
    cost = risk(subject, p, new)
    better = cost < known_cost
    return torch.where(better.unsqueeze(1), new, known), torch.where(better, cost, known_cost)


def _grid(subject: Subject, seed: int) -> Tensor:
    if subject.form in ELEMENTS:
        return torch.linspace(-12, 12, 241, dtype=torch.float64).unsqueeze(1)
    z = torch.randn(232, 3, generator=generator(seed), dtype=torch.float64)
    z = z * torch.tensor([0.3, 1.0, 3.0, 8.0], dtype=torch.float64).repeat(58).unsqueeze(1)
    tied = torch.stack([z[:23, 0], z[:23, 0], z[:23, 2]], 1)
    base = torch.cat([z, tied, torch.zeros(1, 3, dtype=torch.float64)])
    return torch.cat([base[:, list(order)] for order in itertools.permutations(range(3))])


def _predicted(z: Tensor) -> Tensor:
    """The class that reports `(..., c)` predict: of a single logit 0 is yes and 1 is no. A tie predicts none: -1."""
    if z.shape[-1] == 1:
        return torch.where(z[..., 0] > 0, 0, torch.where(z[..., 0] < 0, 1, -1))
    top = z.topk(2, -1)
    return torch.where(top.values[..., 0] > top.values[..., 1], top.indices[..., 0], -1)


def _zoom(subject: Subject, p: Tensor, at: Tensor, cost: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Pattern search from the best point of the grid, a truth a row, without leaving its side: right or not."""

    def cost_near(near: Tensor) -> Tensor:
        n, steps, c = near.shape
        stays = (_predicted(near) == p.argmax(1, keepdim=True)) == right.unsqueeze(1)
        found = risk(subject, p.repeat_interleave(steps, 0), near.reshape(-1, c)).reshape(n, steps)
        return torch.where(stays, found, torch.inf)

    return pattern_search(cost_near, at, cost, ZOOM_ROUNDS)
