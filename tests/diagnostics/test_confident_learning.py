"""Confident learning: against the cleanlab package, by its definition row by row, and on labels that were made wrong on purpose."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from lossmith.diagnostics import confident_learning


@pytest.fixture(scope="module")
def noisy_digits():
    x, y = load_digits(return_X_y=True)
    draw = np.random.default_rng(0)
    wrong = draw.random(len(y)) < 0.1
    noisy = np.where(wrong, (y + draw.integers(1, 10, len(y))) % 10, y)
    p = cross_val_predict(LogisticRegression(C=0.1, max_iter=200), x / 16, noisy, cv=5, method="predict_proba")
    return p, noisy, y


def by_definition(p, y):
    c = p.shape[1]
    t = [np.mean([p[i, j] for i in range(len(y)) if y[i] == j]) for j in range(c)]
    counted, likely = np.zeros((c, c)), []
    for i in range(len(y)):
        sure = [j for j in range(c) if p[i, j] >= t[j]]
        likely.append(max(sure, key=lambda j: p[i, j]) if sure else y[i])
        if sure:
            counted[y[i], likely[-1]] += 1
    np.fill_diagonal(counted, np.maximum(1, counted.diagonal()))
    share = np.bincount(y) / len(y)
    return counted / counted.sum(1, keepdims=True) * share[:, None], np.array(likely)


def test_by_definition(noisy_digits):
    p, noisy, _ = noisy_digits
    found = confident_learning(torch.from_numpy(p), torch.from_numpy(noisy))
    joint, likely = by_definition(p, noisy)
    np.testing.assert_allclose(found.joint, joint, atol=1e-12)
    np.testing.assert_array_equal(found.likely, likely)
    np.testing.assert_array_equal(found.suspect, (likely != noisy) & (p.argmax(1) != noisy))
    assert found.joint.sum().item() == pytest.approx(1)


def test_cleanlab_suspects_the_same_rows(noisy_digits):
    cleanlab = pytest.importorskip("cleanlab.filter")
    p, noisy, _ = noisy_digits
    theirs = cleanlab.find_label_issues(noisy, p, filter_by="confident_learning", return_indices_ranked_by="self_confidence", n_jobs=1)
    ours = confident_learning(torch.from_numpy(p), torch.from_numpy(noisy)).ranked()
    assert len(theirs) > 100
    # cleanlab takes the most probable of all classes where several are confident: a row or two may differ
    assert len(set(theirs) ^ set(ours.tolist())) <= 2
    common = [row for row in theirs if row in set(ours.tolist())]
    assert common == [row for row in ours.tolist() if row in set(theirs)]


def test_labels_made_wrong_are_found(noisy_digits):
    p, noisy, right = noisy_digits
    found = confident_learning(torch.from_numpy(p), torch.from_numpy(noisy))
    wrong = noisy != right
    suspects = found.suspect.numpy()
    assert (suspects & wrong).sum() / wrong.sum() > 0.7  # recall: a tenth of the labels is wrong
    assert (suspects & wrong).sum() / suspects.sum() > 0.8  # precision
    assert found.noise_rate == pytest.approx(wrong.mean(), abs=0.05)
    rows = found.ranked()[:50].numpy()
    assert wrong[rows].mean() > 0.95
    assert (found.likely.numpy()[rows] == right[rows]).mean() > 0.9


def test_nothing_is_suspect_where_predictions_agree():
    p = torch.tensor([[0.7, 0.3], [0.6, 0.4], [0.2, 0.8], [0.4, 0.6]])
    found = confident_learning(p, torch.tensor([0, 0, 1, 1]))
    assert not found.suspect.any()
    assert found.noise_rate == pytest.approx(0)
    assert found.ranked().shape == (0,)


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("p", "y", "words"),
    [
        (torch.ones(3), torch.zeros(3, dtype=torch.long), r"probabilities must be a floating-point tensor \(n, c\)"),
        (torch.ones(3, 2), torch.tensor([0, 1, 1]), "row 0 sums to 2"),
        (torch.tensor([[1.5, -0.5]]), torch.tensor([0]), "at least 0"),
        (torch.full((3, 2), 0.5), torch.zeros(2, dtype=torch.long), r"target must be class indices \(3,\)"),
        (torch.full((3, 2), 0.5), torch.zeros(3, dtype=torch.long), "class 1 of 2 has none"),
        (torch.full((3, 2), 0.5), torch.tensor([0, 1, 2]), r"target must be in 0\.\.1"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(p, y, words):
    with pytest.raises(ValueError, match=words):
        confident_learning(p, y)
