"""Neural collapse by its definitions, in exact geometries and in closed form; margins by brute force."""

import math

import numpy as np
import pytest
import torch

from lossmith.diagnostics import logit_margins, neural_collapse

G = torch.Generator().manual_seed(0)
FEATURES = torch.randn(60, 8, generator=G)
TARGET = torch.arange(60) % 4
WEIGHT, BIAS = torch.randn(4, 8, generator=G), torch.randn(4, generator=G)


def by_definition(h, y, w, b):
    """The paper's formulas, row by row in numpy."""
    c = w.shape[0]
    means, whole = np.stack([h[y == k].mean(0) for k in range(c)]), h.mean(0)
    within = sum(np.outer(row - means[k], row - means[k]) for row, k in zip(h, y, strict=True)) / len(h)
    between = sum(np.outer(m - whole, m - whole) for m in means) / c
    m = means - whole

    def angle(rows):
        cosines = [rows[k] @ rows[j] / np.linalg.norm(rows[k]) / np.linalg.norm(rows[j]) for k in range(c) for j in range(c) if j != k]
        return np.mean([abs(cosine + 1 / (c - 1)) for cosine in cosines])

    lengths = [np.linalg.norm(row) for row in m]
    nearest = [min(range(c), key=lambda k: np.linalg.norm(row - means[k])) for row in h]
    decided = [int(np.argmax(w @ row + b)) for row in h]
    return {
        "within_class": np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / c,
        "unequal_means": np.std(lengths) / np.mean(lengths),
        "unequal_weights": np.std(np.linalg.norm(w, axis=1)) / np.linalg.norm(w, axis=1).mean(),
        "angle_means": angle(m),
        "angle_weights": angle(w),
        "duality": np.sum((w / np.linalg.norm(w) - m / np.linalg.norm(m)) ** 2),
        "nearest_mean": np.mean(np.array(nearest) != np.array(decided)),
    }


@pytest.mark.parametrize("target", [TARGET, TARGET.clamp(max=3) * (torch.arange(60) < 50)], ids=["balanced", "imbalanced"])
def test_by_definition(target):
    found = neural_collapse(FEATURES, target, WEIGHT, BIAS)
    expected = by_definition(*(t.double().numpy() for t in (FEATURES,)), target.numpy(), WEIGHT.double().numpy(), BIAS.double().numpy())
    for name, value in expected.items():
        assert getattr(found, name).item() == pytest.approx(value, rel=1e-9), name


def test_a_simplex_is_collapsed_whatever_its_size_place_and_turn():
    c, d = 5, 9
    turn = torch.linalg.qr(torch.randn(d, d, generator=G, dtype=torch.float64)).Q[:, :c]
    corners = 3.0 * (torch.eye(c, dtype=torch.float64) - 1 / c) @ turn.mT
    found = neural_collapse((corners + 7.0).repeat(4, 1), torch.arange(c).repeat(4), 0.1 * corners, -0.7 * corners.sum(1))
    values = [found.within_class, found.unequal_means, found.angle_means, found.unequal_weights, found.angle_weights, found.duality]
    assert max(value.abs().item() for value in values) < 1e-12
    assert found.nearest_mean == 0


def test_spread_around_a_simplex_in_closed_form():
    """Two classes at -a and +a on a line, rows at distance s from their mean: S_W = s^2, S_B = a^2, NC1 = s^2 / (2 a^2)."""
    a, s = 3.0, 0.5
    h = torch.tensor([[-a - s], [-a + s], [a - s], [a + s]])
    assert neural_collapse(h, torch.tensor([0, 0, 1, 1])).within_class.item() == pytest.approx(s**2 / (2 * a**2))


def test_without_weights_there_is_no_duality():
    found = neural_collapse(FEATURES, TARGET)
    assert found.duality is None
    assert found.nearest_mean is None


def test_margins_by_brute_force():
    z, y = torch.randn(30, 5, generator=G), torch.randint(5, (30,), generator=G)
    expected = [z[i, y[i]] - max(z[i, k] for k in range(5) if k != y[i]) for i in range(30)]
    torch.testing.assert_close(logit_margins(z, y), torch.tensor(expected).double())
    assert logit_margins(torch.tensor([[math.inf, 0.0], [-math.inf, 0.0]]), torch.tensor([0, 0])).tolist() == [math.inf, -math.inf]
    assert logit_margins(z[:0], y[:0]).shape == (0,)


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: neural_collapse(FEATURES[0], TARGET), r"features must be a floating-point tensor \(n, d\)"),
        (lambda: neural_collapse(FEATURES * math.nan, TARGET), "features must be finite"),
        (lambda: neural_collapse(FEATURES, TARGET[:3]), r"target must be class indices \(60,\)"),
        (lambda: neural_collapse(FEATURES, TARGET * 0), "at least two classes"),
        (lambda: neural_collapse(FEATURES, TARGET * 2), "class 1 of 7 has none"),
        (lambda: neural_collapse(FEATURES, TARGET, WEIGHT[:3]), r"weight must have shape \(c, 8\) with c > 3"),
        (lambda: neural_collapse(FEATURES, TARGET, WEIGHT, BIAS[:2]), r"bias must have shape \(4,\)"),
        (lambda: neural_collapse(FEATURES, TARGET, bias=BIAS), "bias goes with weight"),
        (lambda: logit_margins(FEATURES[:, :1], TARGET), "at least 2 classes"),
        (lambda: logit_margins(FEATURES, TARGET[:2]), r"target must be class indices \(60,\)"),
        (lambda: logit_margins(FEATURES, TARGET + 7), r"target must be in 0..7; got 8"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(call, words):
    with pytest.raises(ValueError, match=words):
        call()
