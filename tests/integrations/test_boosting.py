"""Derivatives for boosted trees: against finite differences, and against the libraries' own objectives in real training."""

import numpy as np
import pytest
import torch

import lossmith
from lossmith.integrations import as_objective

RNG = np.random.default_rng(0)
ROWS, CLASSES, FEATURES = 300, 4, 5
X = RNG.normal(size=(ROWS, FEATURES))
LABELS = (X[:, :CLASSES] + 0.5 * RNG.normal(size=(ROWS, CLASSES))).argmax(1)
WEIGHTS = RNG.integers(0, 4, ROWS).astype(float)
XGB = {"base_score": 0.0, "max_depth": 3, "eta": 0.3, "nthread": 1, "seed": 0}
LGB = {
    "num_leaves": 7,
    "learning_rate": 0.3,
    "num_threads": 1,
    "seed": 0,
    "verbosity": -1,
    "deterministic": True,
    "boost_from_average": False,
}

SMOOTH = ["cross_entropy", "generalized_cross_entropy", "focal_loss", "brier_loss", "symmetric_cross_entropy", "taylor_cross_entropy"]


def _finite_differences(loss, z, y, step=1e-4):
    """First and second central differences of every row's loss by each of its own scores."""
    first, second = np.empty_like(z), np.empty_like(z)
    middle = loss(z, y)
    for k in range(z.shape[1]):
        up, down = z.copy(), z.copy()
        up[:, k] += step
        down[:, k] -= step
        high, low = loss(up, y), loss(down, y)
        first[:, k], second[:, k] = (high - low) / (2 * step), (high - 2 * middle + low) / step**2
    return first, second


@pytest.mark.parametrize("name", SMOOTH)
def test_derivatives_are_finite_differences(name):
    z, y = RNG.normal(size=(20, CLASSES)), RNG.integers(0, CLASSES, 20)
    function = getattr(lossmith, name)

    def loss(z, y):
        return function(torch.from_numpy(z), torch.from_numpy(y), reduction="none").numpy()

    gradient, curvature = as_objective(name, curvature="exact").derivatives(z, y)
    first, second = _finite_differences(loss, z, y)
    np.testing.assert_allclose(gradient, first, atol=1e-7)
    np.testing.assert_allclose(curvature, second, atol=1e-6)
    np.testing.assert_array_equal(as_objective(name).derivatives(z, y)[1], np.abs(curvature))


def test_hyper_parameters_and_aliases_arrive():
    z, y = RNG.normal(size=(6, CLASSES)), RNG.integers(0, CLASSES, 6)
    near, far = as_objective("gce", q=1e-9).derivatives(z, y), as_objective("gce", q=0.7).derivatives(z, y)
    exact = as_objective("cross_entropy").derivatives(z, y)
    np.testing.assert_allclose(near, exact, atol=1e-7)
    assert np.abs(far[0] - exact[0]).max() > 0.05


def test_a_loss_that_is_not_convex_keeps_its_sign_only_where_asked():
    z, y = np.array([[0.0, 6.0]]), np.array([0])  # far on the wrong side, GCE is concave
    assert (as_objective("gce", curvature="exact").derivatives(z, y)[1] < 0).all()
    assert (as_objective("gce").derivatives(z, y)[1] > 0).all()


def test_xgboost_with_cross_entropy_grows_its_own_trees():
    """`multi:softprob` takes twice the second derivative; weights, rows of weight 0 included, are applied alike."""
    xgboost = pytest.importorskip("xgboost")
    data = xgboost.DMatrix(X, LABELS, weight=WEIGHTS)
    theirs = xgboost.train({**XGB, "objective": "multi:softprob", "num_class": CLASSES}, data, 10)
    ours = xgboost.train({**XGB, "num_class": CLASSES, "disable_default_eval_metric": 1}, data, 10, obj=as_objective("ce", factor=2))
    np.testing.assert_allclose(ours.predict(data, output_margin=True), theirs.predict(data, output_margin=True), atol=1e-5)


def test_xgboost_binary():
    xgboost = pytest.importorskip("xgboost")
    answer = (LABELS == 0).astype(float)
    theirs = xgboost.XGBClassifier(n_estimators=10, max_depth=3, base_score=0.5, n_jobs=1).fit(X, answer, sample_weight=WEIGHTS)
    mine = xgboost.XGBClassifier(
        n_estimators=10, max_depth=3, base_score=0.5, n_jobs=1, objective=as_objective("binary_cross_entropy"), eval_metric="error"
    ).fit(X, answer, sample_weight=WEIGHTS)
    np.testing.assert_allclose(mine.predict(X, output_margin=True), theirs.predict(X, output_margin=True), atol=1e-5)


def test_lightgbm_with_cross_entropy_grows_its_own_trees():
    """Its multi-class objective multiplies the second derivative by c/(c-1)."""
    lightgbm = pytest.importorskip("lightgbm")
    found = {}
    for name, objective in {"theirs": "multiclass", "ours": as_objective("ce", factor=CLASSES / (CLASSES - 1))}.items():
        data = lightgbm.Dataset(X, LABELS, weight=WEIGHTS)
        found[name] = lightgbm.train({**LGB, "objective": objective, "num_class": CLASSES}, data, 10).predict(X, raw_score=True)
    # its own derivatives are rounded to float32 on the way
    np.testing.assert_allclose(found["ours"], found["theirs"], atol=1e-4)


def test_lightgbm_through_scikit_learn():
    lightgbm = pytest.importorskip("lightgbm")
    answer = (LABELS == 0).astype(float)
    how = {"n_estimators": 10, "num_leaves": 7, "n_jobs": 1, "verbosity": -1, "boost_from_average": False}
    theirs = lightgbm.LGBMClassifier(**how).fit(X, answer, sample_weight=WEIGHTS)
    mine = lightgbm.LGBMClassifier(**how, objective=as_objective("binary_cross_entropy")).fit(X, answer, sample_weight=WEIGHTS)
    np.testing.assert_allclose(mine.predict(X, raw_score=True), theirs.predict(X, raw_score=True), atol=1e-4)


def test_trees_under_wrong_labels_learn_by_a_robust_objective():
    """Real training end to end: the loss falls, and the trees are far better than chance on the right labels."""
    xgboost = pytest.importorskip("xgboost")
    noisy = np.where(RNG.random(ROWS) < 0.3, RNG.integers(0, CLASSES, ROWS), LABELS)
    data = xgboost.DMatrix(X, noisy)
    grown = xgboost.train(
        {**XGB, "num_class": CLASSES, "disable_default_eval_metric": 1, "min_child_weight": 0.1}, data, 30, obj=as_objective("gce")
    )
    scores = torch.from_numpy(grown.predict(data, output_margin=True))
    assert lossmith.generalized_cross_entropy(scores, torch.from_numpy(noisy)) < 0.8 * (1 - 0.25**0.7) / 0.7
    assert (scores.argmax(1).numpy() == LABELS).mean() > 0.7


def test_hinges_are_followed_along_the_gradient():
    z, y = RNG.normal(size=(6, CLASSES)), RNG.integers(0, CLASSES, 6)
    with pytest.raises(ValueError, match=r"crammer_singer: its second derivative is 0.*curvature='one'"):
        as_objective("crammer_singer").derivatives(z, y)
    gradient, curvature = as_objective("crammer_singer", curvature="one").derivatives(z, y, np.array([0.0, 1, 2, 1, 1, 1]))
    assert (curvature == np.array([0.0, 1, 2, 1, 1, 1])[:, None]).all()
    assert not gradient[0].any()
    assert gradient[1:].any()


def test_a_row_of_weight_0_may_hold_anything():
    z, y = RNG.normal(size=(4, CLASSES)), np.zeros(4)
    z[2] = np.nan
    gradient, curvature = as_objective("ce").derivatives(z, y, np.array([1.0, 1, 0, 1]))
    assert np.isfinite(gradient).all()
    assert np.isfinite(curvature).all()


def test_a_function_of_ones_own():
    def squares(input, target):
        return ((input.softmax(1) - torch.eye(CLASSES, dtype=input.dtype)[target]) ** 2).sum(1).mean()

    def mine(input, target):
        return torch.nn.functional.cross_entropy(input, target)

    z, y = RNG.normal(size=(5, CLASSES)), RNG.integers(0, CLASSES, 5)
    np.testing.assert_allclose(as_objective(mine, form="logits").derivatives(z, y), as_objective("ce").derivatives(z, y), atol=1e-12)
    np.testing.assert_allclose(as_objective(squares).derivatives(z, y), as_objective("brier_loss").derivatives(z, y), atol=1e-12)


def test_multilabel_scores():
    z, y = RNG.normal(size=(5, 3)), RNG.integers(0, 2, (5, 3))
    gradient, curvature = as_objective("binary_cross_entropy").derivatives(z, y)
    p = 1 / (1 + np.exp(-z))
    np.testing.assert_allclose(gradient, p - y, atol=1e-12)
    np.testing.assert_allclose(curvature, p * (1 - p), atol=1e-12)


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: as_objective("dice_loss"), "form 'set'"),
        (lambda: as_objective("EnsLoss"), "learns or remembers"),
        (lambda: as_objective("logit_adjusted"), "needs class_counts"),
        (lambda: as_objective("gce", q=3.0), r"q must be in"),
        (lambda: as_objective("gce", p=3.0), "no option 'p'"),
        (lambda: as_objective("gce", reduction="sum"), "reduction belongs to the library"),
        (lambda: as_objective("gce", curvature="newton"), "curvature must be one of"),
        (lambda: as_objective("gce", factor=0), "factor must be a number above 0"),
        (lambda: as_objective("ce").derivatives(np.zeros(4), np.zeros(4)), "scores must have shape"),
        (lambda: as_objective("ce").derivatives(np.zeros((4, 3)), np.zeros(3)), "target must have shape"),
        (lambda: as_objective("ce").derivatives(np.zeros((4, 3)), np.full(4, 0.5)), "class indices; got 0.5"),
        (lambda: as_objective("ce").derivatives(np.zeros((4, 3)), np.full(4, 3)), r"0\.\.2"),
        (lambda: as_objective("ce").derivatives(np.zeros((4, 3)), np.zeros(4), np.ones(3)), "sample_weight must have shape"),
        (lambda: as_objective("binary_cross_entropy").derivatives(np.zeros(4), np.zeros(3)), "the scores' shape"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(make, words):
    with pytest.raises((TypeError, ValueError), match=words):
        make()
