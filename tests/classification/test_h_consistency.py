"""H-consistency bounds against plain formulas, and against classifiers that try to break them."""

import math

import numpy as np
import pytest

from lossmith.classification import h_consistency_bound, h_consistency_transform

TAUS = [0.0, 0.5, 1.0, 1.5, 2.0]


def loss(tau, p):
    """The comp-sum loss of the label's probability, as the paper writes it."""
    with np.errstate(divide="ignore"):
        return -np.log(p) if tau == 1 else (p ** (tau - 1) - 1) / (1 - tau)


def least_risk(tau, truth):
    """The least conditional surrogate risk: p_k proportional to truth_k^(1 / (2 - tau)); all on the top class from tau = 2."""
    if tau >= 2:
        return (1 - truth.max(-1)) / (tau - 1)
    p = truth ** (1 / (2 - tau))
    p = p / p.sum(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(truth > 0, truth * loss(tau, p), 0).sum(-1)


def by_formula(tau, b, n):
    """T in the words of the paper: fine away from tau = 1 and from beta = 0."""
    if tau == 1:
        return (1 + b) / 2 * math.log(1 + b) + (1 - b) / 2 * math.log(1 - b)
    if tau >= 2:
        return b / ((tau - 1) * n ** (tau - 1))
    m = (((1 + b) ** (1 / (2 - tau)) + (1 - b) ** (1 / (2 - tau))) / 2) ** (2 - tau)
    return 2 ** (1 - tau) / (1 - tau) * (1 - m) if tau < 1 else (m - 1) / ((tau - 1) * n ** (tau - 1))


@pytest.mark.parametrize("tau", [*TAUS, 0.9, 1.1, 1.999, 2.5])
@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("classes", [2, 7])
def test_the_transform_is_the_papers(tau, beta, classes):
    assert h_consistency_transform(tau, beta, classes) == pytest.approx(by_formula(tau, beta, classes), rel=1e-11)


def test_known_numbers():
    assert h_consistency_transform(0.0, 0.5, 10) == pytest.approx(1 - math.sqrt(0.75), rel=1e-14)  # 1 - sqrt(1 - beta^2)
    assert h_consistency_transform(0.999, 0.5, 10) == pytest.approx(0.13078, abs=1e-5)
    assert h_consistency_transform(1.0, 0.5, 10) == pytest.approx(0.130812, abs=1e-6)
    assert h_consistency_transform(1.001, 0.5, 10) == pytest.approx(0.13063, abs=1e-5)
    assert h_consistency_transform(1.0, 1.0, 10) == pytest.approx(math.log(2), rel=1e-15)
    assert h_consistency_transform(2.0, 0.3, 10) == pytest.approx(0.03, rel=1e-15)
    assert h_consistency_bound(0.0, 0.1, 5) == pytest.approx(math.sqrt(1 - 0.81), abs=1e-12)  # inverse of 1 - sqrt(1 - beta^2)
    assert h_consistency_bound(2.0, 0.05, 10) == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize("at", [1.0, 2.0])
def test_it_is_continuous_in_tau(at):
    for beta in (1e-3, 0.5, 1.0):
        middle = h_consistency_transform(at, beta, 5)
        for step in (-1e-9, 1e-9):
            assert h_consistency_transform(at + step, beta, 5) == pytest.approx(middle, rel=1e-6)


def test_around_tau_1_the_integral_meets_the_difference():
    for beta in (1e-6, 0.3, 0.99):
        for edge in (0.999, 1.001):
            below, above = (h_consistency_transform(edge + step, beta, 3) for step in (-1e-12, 1e-12))
            assert below == pytest.approx(above, rel=1e-10)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.5])
def test_small_beta_is_quadratic_to_full_precision(tau):
    scale = 2**tau if tau <= 1 else 2 * 4 ** (tau - 1)
    assert h_consistency_transform(tau, 1e-7, 4) == pytest.approx(1e-14 / (scale * (2 - tau)), rel=1e-9)


@pytest.mark.parametrize("tau", [*TAUS, 2.5])
@pytest.mark.parametrize("beta", [0.0, 1e-9, 1e-3, 0.2, 0.7, 0.999])
def test_the_bound_inverts_the_transform(tau, beta):
    bound = h_consistency_bound(tau, h_consistency_transform(tau, beta, 4), 4)
    assert bound == pytest.approx(beta, rel=1e-9, abs=1e-12)
    # rounding errs upwards: the bound's own transform is not below what it was given
    assert h_consistency_transform(tau, bound, 4) >= h_consistency_transform(tau, beta, 4)


def test_gaps_are_added_before_and_taken_off_after():
    assert h_consistency_bound(1.0, 0.01, 3, minimizability_gap=0.02, zero_one_gap=0.1) == h_consistency_bound(1.0, 0.03, 3) - 0.1
    assert h_consistency_bound(1.0, 0.0, 3) == 0.0
    assert h_consistency_bound(1.0, math.inf, 3) == h_consistency_bound(1.0, math.log(2), 3) == 1.0


@pytest.mark.numbers
@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_no_classifier_breaks_the_bound(tau, classes):
    rng = np.random.default_rng(classes)
    truth = rng.dirichlet(np.full(classes, 0.7), 4000)
    report = rng.dirichlet(np.full(classes, 0.7), 4000)
    # half of the reports lie close to the truth but swap its top two, where the bound is nearly reached
    order = truth[:2000].argsort(-1)
    report[:2000] = truth[:2000]
    rows = np.arange(2000)
    halfway = (truth[rows, order[:, -1]] + truth[rows, order[:, -2]]) / 2
    report[rows, order[:, -1]], report[rows, order[:, -2]] = halfway * 0.999, halfway * 1.001
    report /= report.sum(-1, keepdims=True)
    error = truth.max(-1) - truth[np.arange(4000), report.argmax(-1)]
    excess = (truth * loss(tau, report)).sum(-1) - least_risk(tau, truth)
    for e, s in zip(error, excess, strict=True):
        assert s >= h_consistency_transform(tau, e, classes) - 1e-9
        assert e <= h_consistency_bound(tau, max(s, 0.0), classes) + 1e-6


@pytest.mark.parametrize(("tau", "classes"), [(0.0, 2), (0.0, 5), (0.5, 4), (1.0, 3), (1.0, 10), (1.5, 2), (2.0, 2)])
@pytest.mark.parametrize("beta", [0.05, 0.4, 0.95])
def test_it_is_tight_where_the_docstring_says_so(tau, classes, beta):
    """Two possible classes at (1 +- beta) / 2, and a model that cannot tell them apart and says the wrong one."""
    truth = np.array([[(1 + beta) / 2, (1 - beta) / 2] + [0.0] * (classes - 2)])
    excess = (truth[0, :2] * loss(tau, np.array([0.5, 0.5]))).sum() - least_risk(tau, truth)[0]
    assert h_consistency_bound(tau, excess, classes) == pytest.approx(beta, rel=1e-9)


def test_mean_absolute_error_is_tight_below_one_over_n_minus_one():
    """A uniform report that says the one class that is less likely than the others."""
    classes, beta = 4, 0.3
    truth = np.full((1, classes), (1 + beta) / classes)
    truth[0, 0] -= beta
    excess = 1 - 1 / classes - least_risk(2.0, truth)[0]
    assert h_consistency_bound(2.0, excess, classes) == pytest.approx(beta, rel=1e-9)


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: h_consistency_bound(-0.1, 0.1, 3), r"tau must be in \[0, inf\); got -0.1"),
        (lambda: h_consistency_bound(math.nan, 0.1, 3), r"tau must be in"),
        (lambda: h_consistency_bound(1.0, -0.1, 3), "epsilon must be at least 0; got -0.1"),
        (lambda: h_consistency_bound(1.0, math.nan, 3), "epsilon must be at least 0; got nan"),
        (lambda: h_consistency_bound(1.0, 0.1, 1), "classes must be at least 2; got 1"),
        (lambda: h_consistency_bound(1.0, 0.1, 3, minimizability_gap=-1.0), "minimizability_gap must be at least 0"),
        (lambda: h_consistency_bound(1.0, 0.01, 3, zero_one_gap=0.5), "zero_one_gap must not exceed"),
        (lambda: h_consistency_transform(1.0, 1.1, 3), r"beta must be in \[0, 1\]; got 1.1"),
    ],
)
def test_errors_name_the_argument(call, complaint):
    with pytest.raises(ValueError, match=complaint):
        call()


@pytest.mark.untyped
def test_classes_must_be_an_integer():
    with pytest.raises(TypeError, match=r"classes must be an integer; got float 3\.0"):
        h_consistency_bound(1.0, 0.1, 3.0)
