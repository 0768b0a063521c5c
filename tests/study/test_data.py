"""Bundled sets and functions become Datasets; bad ones are one line; the fingerprint follows the content."""

import sys
import types
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from lossmith.study import Dataset, StudyError, load_data

X = np.random.default_rng(0).normal(size=(9, 2))
Y = np.repeat([0, 1, 2], 3)


@pytest.fixture
def user() -> Iterator[types.ModuleType]:
    module = types.ModuleType("a_users_module")
    sys.modules["a_users_module"] = module
    yield module
    del sys.modules["a_users_module"]


@pytest.mark.parametrize(
    ("name", "shape", "classes", "image"),
    [("digits", (1797, 1, 8, 8), 10, (1, 8, 8)), ("wine", (178, 13), 3, None), ("breast_cancer", (569, 30), 2, None)],
)
def test_bundled_sets(name: str, shape: tuple[int, ...], classes: int, image: tuple[int, int, int] | None) -> None:
    data = load_data(name)
    assert data.features.shape == shape
    assert data.features.dtype == np.float32
    assert data.labels.dtype == np.int64
    assert data.n_classes == classes
    assert data.image_shape == image
    assert sum(data.describe()["class_counts"]) == shape[0]


def test_a_function_may_return_arrays_tensors_words_or_a_dataset(user: types.ModuleType) -> None:
    words = np.array(["b", "a", "c"])[Y]
    for made in ((X, words), (torch.from_numpy(X), list(words)), Dataset.from_arrays("mine", X, words)):
        user.make = lambda made=made: made
        data = load_data("a_users_module:make")
        assert data.class_names == ("a", "b", "c")
        assert data.labels.tolist() == np.array([1, 0, 2])[Y].tolist()
        assert data.features == pytest.approx(X, rel=1e-6)


def test_images_without_channels_get_one() -> None:
    assert Dataset.from_arrays("x", np.zeros((9, 5, 4)), Y).image_shape == (1, 5, 4)


def test_the_fingerprint_is_of_the_content() -> None:
    base = Dataset.from_arrays("a", X, Y)
    assert Dataset.from_arrays("b", X.copy(), Y).fingerprint == base.fingerprint
    moved = X.copy()
    moved[3, 1] += 1e-3
    assert Dataset.from_arrays("a", moved, Y).fingerprint != base.fingerprint
    assert Dataset.from_arrays("a", X, Y[::-1].copy()).fingerprint != base.fingerprint
    assert Dataset.from_arrays("a", X, Y, ["x", "y", "z"]).fingerprint != base.fingerprint


def raising() -> None:
    raise RuntimeError("two\nlines")


NAN = np.where(np.arange(18).reshape(9, 2) == 4, np.nan, X)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: (NAN, Y), r"NaN or infinite values \(first in row 2\)"),
        (lambda: (X, np.zeros(9)), "all 9 rows have the same label"),
        (lambda: (X, [0] * 7 + [1] * 2), "class '1' has 2 rows"),
        (lambda: (X, Y[:8]), "9 rows of features but 8 labels"),
        (lambda: (X[:0], Y[:0]), "no rows"),
        (lambda: (X[:, :0], Y), "no features are left"),
        (lambda: (np.full((9, 2), "word"), Y), "features must be numbers"),
        (lambda: (X, np.where(Y == 1, np.nan, Y)), r"labels hold missing values \(first in row 3\)"),
        (lambda: (X, np.array(["a", None, "b"], dtype=object)[Y]), r"labels hold missing values \(first in row 3\)"),
        (lambda: (X, np.array(["a", "b", np.nan], dtype=object)[Y]), r"labels hold missing values \(first in row 6\)"),
        (lambda: (X, np.stack([Y, Y], 1)), "labels must be one a row"),
        (lambda: (X[:, 0], Y), "features must be"),
        (lambda: X, r"must return \(features, labels\) or a Dataset"),
        (raising, "raised RuntimeError: two lines"),
        (3, "must be a function; got int"),
    ],
)
def test_a_bad_function_is_one_line(user: types.ModuleType, made: object, message: str) -> None:
    user.make = made
    with pytest.raises(StudyError, match=message) as caught:
        load_data("a_users_module:make")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digist", "did you mean 'digits'"),
        ("nothing.csv", "no bundled set"),
        ("no_such_module:make", "no module 'no_such_module'"),
        ("math:mak", "math has no 'mak'"),
    ],
)
def test_unknown_data_is_one_line(name: str, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        load_data(name)


def test_a_target_is_refused_where_it_has_no_meaning() -> None:
    with pytest.raises(StudyError, match="target is for files"):
        load_data("digits", target="y")
