"""The reusable hold-out: its answers by hand without noise, its noise by its distribution, and what it is for, on data without signal."""

import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from lossmith.diagnostics import Answer, HoldoutSpentError, Thresholdout


def make(**changes: Any) -> Thresholdout:
    options: dict[str, Any] = {"threshold": 0.1, "sigma": 0.0, "budget": 2, "generator": torch.Generator().manual_seed(0)}
    return Thresholdout(torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([1.0, 1.0, 1.0, 0.0]), **options | changes)


def test_without_noise_it_is_a_threshold() -> None:
    reusable = make(threshold=0.3)
    assert reusable(lambda x: x) == Answer(0.5, from_holdout=False)  # 0.5 and 0.75 are near enough
    assert reusable.budget == 2
    reusable = make(threshold=0.2)
    assert reusable(lambda x: x) == Answer(0.75, from_holdout=True)
    assert reusable.compare(0.5, 0.69) == Answer(0.5, from_holdout=False)
    assert reusable.compare(0.69, 0.2) == Answer(0.2, from_holdout=True)
    assert (reusable.budget, reusable.queries) == (0, 3)


def test_a_spent_budget_answers_nothing_more() -> None:
    reusable = make(budget=1)
    reusable.compare(0.0, 1.0)
    with pytest.raises(HoldoutSpentError, match="spent after 1 queries"):
        reusable.compare(0.5, 0.5)
    with pytest.raises(HoldoutSpentError, match="spent"):
        reusable(lambda x: x)


def test_the_noise_is_what_the_algorithm_says() -> None:
    """Of answers from the hold-out, Lap(sigma); of the threshold, Lap(2 sigma) + Lap(4 sigma), whose tail has a closed form."""
    generator, sigma, n = torch.Generator().manual_seed(1), 0.01, 4000
    errors = [make(sigma=sigma, generator=generator).compare(0.0, 1.0).value - 1.0 for _ in range(n)]
    assert stats.kstest(errors, stats.laplace(scale=sigma).cdf).pvalue > 1e-3
    x = 5 * sigma  # the difference lies that much above the threshold: from the hold-out unless the noise is larger
    kept = sum(not make(sigma=sigma, generator=generator).compare(0.0, 0.1 + x).from_holdout for _ in range(n)) / n
    a, b = 2 * sigma, 4 * sigma  # P(sum of Laplaces of scales a, b > x) = (b^2 e^(-x/b) - a^2 e^(-x/a)) / (2 (b^2 - a^2))
    tail = (b**2 * math.exp(-x / b) - a**2 * math.exp(-x / a)) / (2 * (b**2 - a**2))
    assert abs(kept - tail) < 5 * math.sqrt(tail * (1 - tail) / n)


def test_the_threshold_is_redrawn_only_after_an_answer_from_the_holdout() -> None:
    reusable = make(sigma=0.01, budget=100)
    before = reusable._gamma
    reusable.compare(0.5, 0.5)
    assert reusable._gamma == before
    reusable.compare(0.0, 1.0)
    assert reusable._gamma != before


def test_the_same_generator_gives_the_same_answers() -> None:
    told = [
        [reusable.compare(0.2, 0.3).value for _ in range(20)] for reusable in (make(sigma=0.02, budget=50), make(sigma=0.02, budget=50))
    ]
    assert told[0] == told[1]
    assert len(set(told[0])) > 1


def freedman(seed: int, n: int, d: int, kept: int) -> dict[str, float]:
    """The paper's experiment without signal: features that training and hold-out rows agree on are kept, and the strongest of them vote.

    Returns:
        What a plain hold-out says of the classifier that its own answers selected, what Thresholdout says of the one that its answers
        selected, and what both are worth on new rows.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, n, d, generator=generator)  # training, hold-out and new rows
    y = torch.randint(2, (3, n), generator=generator) * 2.0 - 1
    # a query has values in [0, 1]: whether a feature's sign is that of the label
    train, holdout = (((x[part].sign() * y[part, :, None] + 1) / 2).mean(0) for part in (0, 1))
    reusable = Thresholdout(None, None, threshold=4 / math.sqrt(n), sigma=1 / (4 * math.sqrt(n)), budget=d, generator=generator)
    answers = [reusable.compare(*means).value for means in zip(train.tolist(), holdout.tolist(), strict=True)]

    def selected(confirming: Tensor) -> Tensor:
        ours, theirs, far = train - 0.5, confirming - 0.5, 0.5 / math.sqrt(n)
        agreed = (ours * theirs > 0) & (ours.abs() > far) & (theirs.abs() > far)
        strength = torch.where(agreed, ours.abs(), 0.0)
        best = strength.topk(kept).indices
        return torch.zeros(d).index_copy(0, best, ours[best].sign() * (strength[best] > 0))

    def right(weights: Tensor, part: int) -> float:
        return float(((x[part] @ weights).sign() == y[part]).float().mean())

    naive, careful = selected(holdout), selected(torch.tensor(answers))
    said = reusable.compare(right(careful, 0), right(careful, 1)).value
    return {"holdout": right(naive, 1), "fresh": right(naive, 2), "thresholdout": said, "fresh of thresholdout": right(careful, 2)}


def test_adaptive_selection_fools_a_plain_holdout_and_not_this_one() -> None:
    """The paper has n = d = 10,000 and 500 kept: 63 % on the plain hold-out, 50 % in truth. Here all are a third of it or less."""
    n, runs = 3000, [freedman(seed, n=3000, d=3000, kept=150) for seed in range(3)]
    mean = {name: sum(run[name] for run in runs) / len(runs) for name in runs[0]}
    chance = 4 * 0.5 / math.sqrt(n * len(runs))
    assert mean["holdout"] > 0.58
    assert abs(mean["fresh"] - 0.5) < chance
    assert abs(mean["thresholdout"] - 0.5) < chance
    assert abs(mean["fresh of thresholdout"] - 0.5) < chance


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"threshold": 0.0}, "threshold must be a number > 0"),
        ({"threshold": math.inf}, "threshold must be"),
        ({"sigma": -1.0}, "sigma must be a number >= 0"),
        ({"budget": -1}, "budget must be a whole number >= 0"),
        ({"budget": 1.5}, "budget must be"),
    ],
)
def test_what_makes_no_sense_is_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        make(**changes)
    assert "\n" not in str(caught.value)


def test_queries_that_are_none() -> None:
    reusable = make()
    for query, said in (
        (lambda x: x.mean(), "a value for each"),
        (lambda x: x * 2, r"must lie in \[0, 1\]"),
        (lambda x: x * math.nan, r"must lie in \[0, 1\]"),
    ):
        with pytest.raises(ValueError, match=said):
            reusable(query)
    with pytest.raises(ValueError, match=r"a mean of values in \[0, 1\]"):
        reusable.compare(0.5, 1.5)
    assert reusable.queries == 0
