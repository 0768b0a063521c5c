"""One seed's view of the data: which rows train, validate and test, with what labels, prepared by what was learnt from training rows.

The rows, the corruption and the preparation depend on the seed and on nothing else, so that every objective meets the same ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossmith.study.data.corruption import Noise, add_noise, few_labels, long_tail
from lossmith.study.data.dataset import Dataset
from lossmith.study.data.partition import fold_parts, own_parts, three_parts
from lossmith.study.errors import StudyError

if TYPE_CHECKING:
    from sklearn.compose import ColumnTransformer

DRAWN = ("noise", "imbalance", "labels", "validation", "test", "folds", "fold", "clean_validation")
"""What a split depends on besides the data and the seed: the keywords of `make_split`, and fields of whatever asks for one."""

MAX_CATEGORIES = 50
"""A categorical column becomes this many indicators at most: its most frequent categories, and one for the rest."""


@dataclass(frozen=True, eq=False)
class Split:
    """The data of one seed, ready to train on.

    Training labels carry the noise, validation labels too unless they were to be clean; test labels never do, and are the trusted ones
    where the data have them. `rows_*` are positions in the data set, `class_counts` the training rows of each class as labelled (at least
    1, so that an objective may divide by it or take its logarithm). `prepare` turns raw features, of any rows, into what a model is
    given, as the training rows taught; `dataset` is where all this comes from.
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
    prepare: Callable[[NDArray[Any]], Tensor]
    dataset: Dataset


def stream(seed: int, purpose: str) -> np.random.Generator:
    """The random numbers of one seed for one purpose; purposes do not disturb each other."""
    return np.random.default_rng([seed, *purpose.encode()])


def make_split(
    dataset: Dataset,
    seed: int,
    *,
    noise: Noise | None = None,
    imbalance: float | None = None,
    labels: int | None = None,
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
        labels: how many training rows of each class keep their labels, the rest being left out; see `few_labels`. After the imbalance.
        validation, test: fractions of the rows of each class (one row at least in each part).
        folds, fold: of a cross-validation, how many and which one tests; `test` then counts for nothing.
        clean_validation: whether validation labels are those known to be right: without the noise, and trusted ones where there are any.
    """
    train, held_out, tested = draw_rows(
        dataset, seed, imbalance=imbalance, labels=labels, validation=validation, test=test, folds=folds, fold=fold
    )
    noisy = noisy_labels(dataset, noise, seed)
    right = dataset.labels if dataset.trusted is None else dataset.trusted
    prepare = _preparation(dataset, train)
    x_train, x_validation, x_test = (prepare(dataset.features[rows]) for rows in (train, held_out, tested))
    counts = np.maximum(1, np.bincount(noisy[train], minlength=dataset.n_classes))
    return Split(
        x_train, torch.from_numpy(noisy[train]), x_validation, torch.from_numpy((right if clean_validation else noisy)[held_out]), x_test,
        torch.from_numpy(right[tested]), train, held_out, tested, torch.from_numpy(counts), prepare, dataset,
    )  # fmt: skip


def noisy_labels(dataset: Dataset, noise: Noise | None, seed: int) -> NDArray[np.int64]:
    """The labels of all rows with a seed's noise."""
    return add_noise(dataset.labels, dataset.n_classes, noise, stream(seed, "noise"), lambda: _looks(dataset))


def whole(dataset: Dataset) -> Split:
    """Every row to train on and none held out, with the labels as they stand: for the model that is used in the end."""
    rows = np.arange(len(dataset.labels))
    prepare = _preparation(dataset, rows)
    x = prepare(dataset.features)
    y = torch.from_numpy(dataset.labels)
    counts = np.maximum(1, np.bincount(dataset.labels, minlength=dataset.n_classes))
    return Split(x, y, x[:0], y[:0], x[:0], y[:0], rows, rows[:0], rows[:0], torch.from_numpy(counts), prepare, dataset)


def draw_rows(
    dataset: Dataset,
    seed: int,
    *,
    imbalance: float | None,
    labels: int | None,
    validation: float,
    test: float,
    folds: int | None,
    fold: int | None,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The training (thinned), validation and test rows of a seed, as `make_split` takes them, without preparing anything."""
    if dataset.parts is not None:
        train, held_out, tested = own_parts(dataset, validation, stream(seed, "validation"))
    elif folds is not None and fold is not None:
        dealer, generator = stream(seed, "folds"), stream(seed, f"validation of fold {fold}")
        train, held_out, tested = fold_parts(dataset, validation, folds, fold, dealer, generator)
    else:
        train, held_out, tested = three_parts(dataset, validation, test, stream(seed, "rows"))
    train = train[long_tail(dataset.labels[train], dataset.n_classes, imbalance, stream(seed, "imbalance"))]
    return train[few_labels(dataset.labels[train], dataset.n_classes, labels, stream(seed, "few labels"))], held_out, tested


def _preparation(dataset: Dataset, train: NDArray[np.int64]) -> Callable[[NDArray[Any]], Tensor]:
    """What turns raw features into a float32 tensor as the training rows teach: standardised, and for tables encoded."""
    known = dataset.features[train]
    if dataset.columns:
        encoder = _table_encoder(dataset)
        encoder.fit(known)
        return lambda features: _tensor(np.asarray(encoder.transform(features)))
    axis = None if dataset.image_shape is not None else 0  # an image keeps its contrasts: one mean and one scale for all pixels
    mean, scale = known.astype(np.float64).mean(axis=axis), known.astype(np.float64).std(axis=axis)
    scale = np.where(scale > 0, scale, 1.0)
    return lambda features: _tensor((features - mean) / scale)


def _tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _looks(dataset: Dataset) -> NDArray[np.float64]:
    """All rows as numbers `(n, d)`, standardised: what a person who labels them sees, whatever is trained on."""
    if dataset.is_text:
        raise StudyError("instance noise depends on rows of numbers, and these are texts: take symmetric or asymmetric noise")
    x = dataset.features.astype(np.float64).reshape(len(dataset.features), -1)
    if dataset.columns:
        x = np.asarray(_table_encoder(dataset).fit_transform(dataset.features), dtype=np.float64)
    scale = x.std(axis=0)
    return (x - x.mean(axis=0)) / np.where(scale > 0, scale, 1.0)


def _table_encoder(dataset: Dataset) -> "ColumnTransformer":
    """Median and missing indicator, then standardised, for numbers; an indicator a category for words, missing being one of them; pieces of
    text as they are."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    places = {kind: [i for i, column in enumerate(dataset.columns) if column.kind == kind] for kind in ("numeric", "categorical", "piece")}
    numeric = make_pipeline(SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True), StandardScaler())
    categorical = OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=MAX_CATEGORIES, sparse_output=False)
    parts = {"numeric": numeric, "categorical": categorical, "piece": "passthrough"}
    return ColumnTransformer([(kind, how, places[kind]) for kind, how in parts.items()])
