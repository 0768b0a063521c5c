"""One seed's view of the data: which rows train, validate and test, with what labels, prepared by what was learnt from training rows.

The rows, the corruption and the preparation depend on the seed and on nothing else, so that every objective meets the same ones.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossmith.study.data.corruption import Noise, add_noise, long_tail
from lossmith.study.data.dataset import Dataset
from lossmith.study.data.partition import fold_parts, own_parts, three_parts

if TYPE_CHECKING:
    from sklearn.compose import ColumnTransformer

MAX_CATEGORIES = 50
"""A categorical column becomes this many indicators at most: its most frequent categories, and one for the rest."""


@dataclass(frozen=True, eq=False)
class Split:
    """The data of one seed, ready to train on.

    Training labels carry the noise, validation labels too unless they were to be clean; test labels never do, and are the trusted ones
    where the data have them. `rows_*` are positions in the data set, `class_counts` the training rows of each class as labelled (at least
    1, so that an objective may divide by it or take its logarithm).
    """

    x_train: Tensor
    y_train: Tensor
    x_validation: Tensor
    y_validation: Tensor
    x_test: Tensor
    y_test: Tensor
    rows_train: NDArray[np.int64]
    rows_validation: NDArray[np.int64]
    rows_test: NDArray[np.int64]
    class_counts: Tensor


def stream(seed: int, purpose: str) -> np.random.Generator:
    """The random numbers of one seed for one purpose; purposes do not disturb each other."""
    return np.random.default_rng([seed, *purpose.encode()])


def make_split(
    dataset: Dataset,
    seed: int,
    *,
    noise: Noise | None = None,
    imbalance: float | None = None,
    validation: float = 0.2,
    test: float = 0.2,
    folds: int | None = None,
    fold: int | None = None,
    clean_validation: bool = False,
) -> Split:
    """Draw a seed's rows, corrupt their labels, and prepare the features.

    Args:
        dataset: the data.
        seed: draws everything.
        noise: of the training labels, and of the validation labels unless they are to be clean.
        imbalance: of the training rows, see `long_tail`; applied by true label, before the noise.
        validation, test: fractions of the rows of each class (one row at least in each part).
        folds, fold: of a cross-validation, how many and which one tests; `test` then counts for nothing.
        clean_validation: whether validation labels are those known to be right: without the noise, and trusted ones where there are any.
    """
    train, held_out, tested = draw_rows(dataset, seed, imbalance=imbalance, validation=validation, test=test, folds=folds, fold=fold)
    noisy = add_noise(dataset.labels, dataset.n_classes, noise, stream(seed, "noise"))
    right = dataset.labels if dataset.trusted is None else dataset.trusted
    x_train, x_validation, x_test = _prepare(dataset, train, held_out, tested)
    counts = np.maximum(1, np.bincount(noisy[train], minlength=dataset.n_classes))
    return Split(
        x_train, torch.from_numpy(noisy[train]), x_validation, torch.from_numpy((right if clean_validation else noisy)[held_out]), x_test,
        torch.from_numpy(right[tested]), train, held_out, tested, torch.from_numpy(counts),
    )  # fmt: skip


def draw_rows(
    dataset: Dataset, seed: int, *, imbalance: float | None, validation: float, test: float, folds: int | None, fold: int | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The training (thinned), validation and test rows of a seed, as `make_split` takes them, without preparing anything."""
    if dataset.parts is not None:
        train, held_out, tested = own_parts(dataset, validation, stream(seed, "validation"))
    elif folds is not None and fold is not None:
        dealer, generator = stream(seed, "folds"), stream(seed, f"validation of fold {fold}")
        train, held_out, tested = fold_parts(dataset, validation, folds, fold, dealer, generator)
    else:
        train, held_out, tested = three_parts(dataset, validation, test, stream(seed, "rows"))
    return train[long_tail(dataset.labels[train], dataset.n_classes, imbalance, stream(seed, "imbalance"))], held_out, tested


def _prepare(dataset: Dataset, train: NDArray[np.int64], *others: NDArray[np.int64]) -> list[Tensor]:
    """The features of several sets of rows, float32, prepared by what the first set teaches."""
    features = dataset.features
    if dataset.columns:
        encoder = _table_encoder(dataset)
        arrays = [encoder.fit_transform(features[train]), *(encoder.transform(features[rows]) for rows in others)]
    else:
        axis = None if dataset.image_shape is not None else 0  # an image keeps its contrasts: one mean and one scale for all pixels
        known = features[train].astype(np.float64)
        mean, scale = known.mean(axis=axis), known.std(axis=axis)
        scale = np.where(scale > 0, scale, 1.0)
        arrays = [(features[rows] - mean) / scale for rows in (train, *others)]
    return [torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)) for array in arrays]


def _table_encoder(dataset: Dataset) -> "ColumnTransformer":
    """Median and missing indicator, then standardised, for numbers; an indicator a category for the rest, missing being one of them."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    places = {kind: [i for i, column in enumerate(dataset.columns) if column.kind == kind] for kind in ("numeric", "categorical")}
    numeric = make_pipeline(SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True), StandardScaler())
    categorical = OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=MAX_CATEGORIES, sparse_output=False)
    return ColumnTransformer([("numeric", numeric, places["numeric"]), ("categorical", categorical, places["categorical"])])
