"""Scores of strangeness: by their definitions, and by scikit-learn's AUROC and ROC curve."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from lossmith.calibration import false_positive_rate, ood_auroc, ood_score

G = torch.Generator().manual_seed(0)
Z = 3 * torch.randn(50, 7, generator=G, dtype=torch.float64)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_scores_by_their_definitions(temperature):
    p = np.exp(Z.numpy() / temperature)
    total = p.sum(1)
    p /= total[:, None]
    expected = {
        "max_probability": p.max(1),
        "max_logit": Z.numpy().max(1),
        "energy": temperature * np.log(total),
        "negative_entropy": (p * np.log(p)).sum(1),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(ood_score(Z, name, temperature=temperature), values, rtol=1e-12)


def test_scores_of_extreme_logits():
    z = torch.tensor([[1e4, 0.0, -1e4], [-math.inf, 0.0, 0.0]])
    assert ood_score(z, "max_probability").tolist() == [1.0, 0.5]
    assert ood_score(z, "energy").tolist() == [1e4, math.log(2)]
    assert ood_score(z, "negative_entropy").tolist() == [0.0, -math.log(2)]


@pytest.mark.parametrize("ties", [False, True])
def test_auroc_and_fpr_against_scikit_learn(ties):
    inside, outside = torch.randn(300, generator=G) + 1, torch.randn(211, generator=G)
    if ties:
        inside, outside = inside.round(), outside.round()
    scores, truth = torch.cat([inside, outside]).numpy(), np.r_[np.ones(300), np.zeros(211)]
    assert ood_auroc(inside, outside).item() == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
    for recall in (0.5, 0.8, 0.95, 1.0):
        assert false_positive_rate(inside, outside, recall=recall).item() == pytest.approx(fpr[tpr >= recall - 1e-12].min(), abs=1e-12)


def test_separated_equal_and_reversed():
    low, high = torch.zeros(10), torch.ones(20)
    assert ood_auroc(high, low) == 1
    assert ood_auroc(low, high) == 0
    assert ood_auroc(low, low) == 0.5
    assert false_positive_rate(high, low) == 0
    assert false_positive_rate(low, high) == 1


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ood_score(Z, "energi"), "score must be one of.*'energy'"),
        (lambda: ood_score(Z[0]), r"logits must be a floating-point tensor \(n, c\)"),
        (lambda: ood_score(Z, temperature=0.0), "temperature must be above 0"),
        (lambda: ood_auroc(Z[:0, 0], Z[:, 0]), "inside must be scores"),
        (lambda: ood_auroc(Z[:, 0], torch.tensor([math.nan])), "outside must hold no NaN; got 1 of 1"),
        (lambda: false_positive_rate(Z[:, 0], Z[:, 0], recall=0.0), "recall must be in"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(call, words):
    with pytest.raises(ValueError, match=words):
        call()
