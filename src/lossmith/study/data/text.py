"""Columns of text as numbers that nobody has to learn: counts of pieces of text, hashed into a fixed number of columns.

A vocabulary learnt from all rows would tell training of the test rows' words. Hashing has none (Weinberger et al. 2009, 'Feature Hashing
for Large Scale Multitask Learning', arXiv:0902.2206): a word's column is a function of the word alone.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lossmith._checks import nearest
from lossmith.study.data.dataset import Column
from lossmith.study.errors import StudyError, one_line

WIDTH = 1024
"""How many columns a text becomes, where nothing is said."""

PAIRS = (1, 2)
"""Words, and pairs of words that follow each other."""


def text_widths(asked: tuple[str, ...], frame: pd.DataFrame, target: str, file: str) -> dict[str, int]:
    """The columns of text and how many columns each becomes."""
    widths = {}
    for word in asked:
        name, at, width = word.rpartition("@")
        if not at or word in frame.columns:
            name, width = word, str(WIDTH)
        if name not in frame.columns:
            raise StudyError(f"--text: {file} has no column {name!r}{nearest(name, frame.columns)}")
        if name == target:
            raise StudyError(f"--text {name}: that column is already the one of --target")
        if not width.isdecimal() or int(width) < 2:
            raise StudyError(f"--text {word}: after @ comes how many columns the text becomes, a whole number >= 2; got {width!r}")
        widths[name] = int(width)
    return widths


def cutter(tokenizer: str | None) -> Callable[[str], list[str]] | None:
    """What cuts a text into pieces: a tokenizer of transformers, from a folder or by name; None for words and pairs."""
    if tokenizer is None:
        return None
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise StudyError('--tokenizer needs transformers: pip install "lossmith[data]"') from None
    path = Path(tokenizer).expanduser()
    try:
        made: Any = AutoTokenizer.from_pretrained(str(path) if path.exists() else tokenizer)
    except Exception as error:  # the hub, the disk and the network raise many kinds
        raise StudyError(f"--tokenizer {tokenizer} cannot be loaded: {one_line(error)}") from error
    return made.tokenize


def text_columns(
    series: pd.Series, width: int, cut: Callable[[str], list[str]] | None, tokenizer: str | None, file: str
) -> tuple[list[tuple[Column, NDArray[np.float64]]], str]:
    """A column of text as numbers, each row of length 1 in the Euclidean norm (0 where there is no text), and a note."""
    from sklearn.feature_extraction.text import HashingVectorizer

    missing = series.isna()
    strange = next((value for value in series[~missing] if not isinstance(value, str)), None)
    if strange is not None:
        raise StudyError(f"--text {series.name}: the column holds {type(strange).__name__} in {file}, and no text")
    how: dict[str, Any] = {"ngram_range": PAIRS} if cut is None else {"analyzer": cut}
    hashed: Any = HashingVectorizer(n_features=width, **how).transform(series.where(~missing, ""))
    counts = hashed.toarray()
    pieces = "words and pairs of words" if cut is None else f"pieces by the tokenizer {tokenizer}"
    gaps = f"; {int(missing.sum())} missing texts count as empty" if missing.any() else ""
    note = f"{series.name}: text, its {pieces} counted in {width} columns by hashing, scaled to length 1{gaps}; nothing is learnt from it"
    return [(Column(f"{series.name} ({i})", "numeric"), counts[:, i]) for i in range(width)], note
