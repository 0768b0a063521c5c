"""Test rows as they might come tomorrow: corruptions of the features, each at five severities.

Images are corrupted as in CIFAR-10-C where they are small (at most 64 pixels high), as in ImageNet-C else, with those benchmarks'
severities (Hendrycks & Dietterich 2019, arXiv:1903.12261); brightness is added to every channel, not to the value of a hue. Rows of
numbers have corruptions of our own: noise, lost values, and columns whose unit or origin has drifted.

What is corrupted are raw features; the study prepares them afterwards by what its training rows taught, as it would tomorrow's.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from lossmith._checks import nearest
from lossmith.study.data.dataset import Dataset
from lossmith.study.errors import StudyError

Array = NDArray[np.float64]
Draw = np.random.Generator

SEVERITIES = (1, 2, 3, 4, 5)
SMALL = 64
"""Pixels of height up to which an image counts as small."""


def _gaussian_noise(x: Array, amount: float, draw: Draw) -> Array:
    return x + draw.normal(scale=amount, size=x.shape)


def _speckle_noise(x: Array, amount: float, draw: Draw) -> Array:
    return x + x * draw.normal(scale=amount, size=x.shape)


def _impulse_noise(x: Array, amount: float, draw: Draw) -> Array:
    """Salt and pepper: a share of the values becomes 0 or 1."""
    hit = draw.random(x.shape) < amount
    return np.where(hit, draw.integers(2, size=x.shape), x)


def _gaussian_blur(x: Array, amount: float, draw: Draw) -> Array:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(x, sigma=(0, 0, amount, amount), mode="nearest")


def _contrast(x: Array, amount: float, draw: Draw) -> Array:
    mean = x.mean(axis=(2, 3), keepdims=True)
    return (x - mean) * amount + mean


def _brightness(x: Array, amount: float, draw: Draw) -> Array:
    return x + amount


def _pixelate(x: Array, amount: float, draw: Draw) -> Array:
    """Fewer pixels: means over boxes, each then shown at its size."""
    for axis in (2, 3):
        size = x.shape[axis]
        box = np.arange(size) * max(1, int(size * amount)) // size
        means = np.stack([x.take(np.flatnonzero(box == b), axis=axis).mean(axis=axis) for b in range(box[-1] + 1)], axis=axis)
        x = means.take(box, axis=axis)
    return x


IMAGES: Mapping[str, tuple[Callable[[Array, float, Draw], Array], tuple[float, ...], tuple[float, ...]]] = {
    "gaussian_noise": (_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "speckle_noise": (_speckle_noise, (0.06, 0.1, 0.12, 0.16, 0.2), (0.15, 0.2, 0.35, 0.45, 0.6)),
    "impulse_noise": (_impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),
    "gaussian_blur": (_gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0), (1.0, 2.0, 3.0, 4.0, 6.0)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "pixelate": (_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
}
"""Corruption of images -> the function on pixels from 0 to 1, and its amount at each severity for small and for large images."""


def _noisy(x: Array, amount: float, draw: Draw, scale: Array) -> Array:
    return x + amount * scale * draw.standard_normal(x.shape)


def _lost(x: Array, amount: float, draw: Draw, scale: Array) -> Array:
    return np.where(draw.random(x.shape) < amount, np.nan, x)


def _gain(x: Array, amount: float, draw: Draw, scale: Array) -> Array:
    return x * np.exp(amount * draw.standard_normal(x.shape[1]))


def _offset(x: Array, amount: float, draw: Draw, scale: Array) -> Array:
    return x + amount * scale * draw.choice([-1.0, 1.0], size=x.shape[1])


ROWS: Mapping[str, tuple[Callable[[Array, float, Draw, Array], Array], tuple[float, ...]]] = {
    "gaussian_noise": (_noisy, (0.1, 0.2, 0.4, 0.8, 1.6)),
    "missing": (_lost, (0.05, 0.1, 0.2, 0.3, 0.5)),
    "gain": (_gain, (0.05, 0.1, 0.2, 0.4, 0.8)),
    "offset": (_offset, (0.1, 0.2, 0.4, 0.8, 1.6)),
}
"""Corruption of rows of numbers -> the function, and its amount at each severity: standard deviations of the training rows' columns for
noise and offset, the share of values lost, and the standard deviation of the logarithm of a column's factor for gain."""


def shifts_of(dataset: Dataset) -> tuple[str, ...]:
    """The corruptions that these data can be put through; texts have none."""
    if dataset.is_text:
        return ()
    return tuple(IMAGES if dataset.image_shape is not None else ROWS)


def check_shift(dataset: Dataset, name: str) -> None:
    known = shifts_of(dataset)
    if name not in known:
        what = "images" if dataset.image_shape is not None else "rows of numbers"
        raise StudyError(f"corruptions of {what} are {', '.join(known)}; got {name!r}{nearest(name, known)}")


def corrupt(
    dataset: Dataset, rows: NDArray[np.int64], train: NDArray[np.int64], name: str, severity: int, draw: Draw
) -> NDArray[np.float64]:
    """Raw features of some rows, corrupted.

    Args:
        dataset: the data; categories of a table stay as they are, except that they may be lost.
        rows: which rows.
        train: the training rows, whose spread says what is much.
        name: one of `shifts_of` the data.
        severity: 1 to 5.
        draw: what is drawn.
    """
    check_shift(dataset, name)
    x = dataset.features[rows].astype(np.float64)
    if dataset.image_shape is not None:
        function, small, large = IMAGES[name]
        low, high = pixel_range(dataset, train)
        amount = (small if dataset.image_shape[1] <= SMALL else large)[severity - 1]
        return low + (high - low) * np.clip(function((x - low) / (high - low), amount, draw), 0, 1)
    of_rows, amounts = ROWS[name]
    numeric = np.array([column.kind == "numeric" for column in dataset.columns] or [True] * x.shape[1])
    known = dataset.features[train].astype(np.float64)
    with np.errstate(invalid="ignore"):
        scale = np.array([np.std(column[~np.isnan(column)]) if not np.isnan(column).all() else 0.0 for column in known.T])
    moved = of_rows(x, amounts[severity - 1], draw, scale)
    if name == "missing":
        # rows without columns know no missing values: the training mean, which is what an imputer would have put there
        return moved if dataset.columns else np.where(np.isnan(moved), known.mean(axis=0), moved)
    return np.where(numeric, moved, x)


def pixel_range(dataset: Dataset, train: NDArray[np.int64]) -> tuple[float, float]:
    """The least and the largest pixel of the training rows."""
    low, high = float(dataset.features[train].min()), float(dataset.features[train].max())
    return (low, high) if high > low else (low, low + 1.0)
