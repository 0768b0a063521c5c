"""Columns of text as numbers that nobody has to learn: counts of pieces of text, hashed into a fixed number of columns; or, for a network
that reads text, the pieces themselves.

A vocabulary learnt from all rows would tell training of the test rows' words. Hashing has none (Weinberger et al. 2009, 'Feature Hashing
for Large Scale Multitask Learning', arXiv:0902.2206): a word's column is a function of the word alone.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lossmith._checks import nearest
from lossmith.study.data.dataset import Column, Pieces, Roles
from lossmith.study.errors import StudyError, one_line

WIDTH = 1024
"""How many columns a text becomes, where nothing is said."""

LONGEST = 512
"""How many pieces of a text a network reads at most, where nothing is said."""

PAIRS = (1, 2)
"""Words, and pairs of words that follow each other."""


Read = tuple[list[tuple[Column, NDArray[np.float64]]], str]
"""The columns that a column of text becomes, and a note."""


def text_readers(roles: Roles, frame: pd.DataFrame, target: str, file: str) -> dict[str, Callable[[pd.Series, str], Read]]:
    """What reads each column of text: called with it, or with a further table's, and what messages call the file."""
    pieces, readers = roles.pieces, {}
    if pieces is not None and len(roles.text) != 1:
        raise StudyError(f"--text: {pieces.model} reads one column of text; got {len(roles.text)} ({', '.join(roles.text)})")
    cut = None if roles.tokenizer is None or pieces is not None else _tokenizer(roles.tokenizer).tokenize
    for word in roles.text:
        name, width = _width(word, frame, target, file)
        if pieces is None:
            readers[name] = partial(_hashed, width or WIDTH, cut, roles.tokenizer)
        else:
            if width is not None and width > pieces.longest:
                raise StudyError(f"--text {word}: {pieces.model} reads {pieces.longest} pieces at most")
            readers[name] = partial(_cut, width or min(LONGEST, pieces.longest), pieces, _tokenizer(pieces.tokenizer))
    return readers


def _width(word: str, frame: pd.DataFrame, target: str, file: str) -> tuple[str, int | None]:
    """``COLUMN@1024`` as the column and how many columns it becomes, None where it does not say."""
    name, at, width = word.rpartition("@")
    if not at or word in frame.columns:
        name, width = word, ""
    if name not in frame.columns:
        raise StudyError(f"--text: {file} has no column {name!r}{nearest(name, frame.columns)}")
    if name == target:
        raise StudyError(f"--text {name}: that column is already the one of --target")
    if name == word:
        return name, None
    if not width.isdecimal() or int(width) < 2:
        raise StudyError(f"--text {word}: after @ comes how many columns the text becomes, a whole number >= 2; got {width!r}")
    return name, int(width)


def _tokenizer(name: str) -> Any:
    """A tokenizer of transformers, from a folder or by name."""
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise StudyError('--tokenizer needs transformers: pip install "lossmith[data]"') from None
    path = Path(name).expanduser()
    try:
        made: Any = AutoTokenizer.from_pretrained(str(path) if path.exists() else name)
    except Exception as error:  # the hub, the disk and the network raise many kinds
        raise StudyError(f"--tokenizer {name} cannot be loaded: {one_line(error)}") from error
    if len(made) <= len(made.all_special_ids):  # what transformers makes of a configuration alone: every piece would be an unknown one
        raise StudyError(f"--tokenizer {name} cannot be loaded: it has no vocabulary")
    return made


def _texts(series: pd.Series, file: str) -> tuple[pd.Series, str]:
    """The texts, missing ones being empty, and what to say of these."""
    missing = series.isna()
    strange = next((value for value in series[~missing] if not isinstance(value, str)), None)
    if strange is not None:
        raise StudyError(f"--text {series.name}: the column holds {type(strange).__name__} in {file}, and no text")
    return series.where(~missing, ""), f"; {int(missing.sum())} missing texts count as empty" if missing.any() else ""


def _hashed(width: int, cut: Callable[[str], list[str]] | None, tokenizer: str | None, series: pd.Series, file: str) -> Read:
    """Counts of pieces, each row of length 1 in the Euclidean norm (0 where there is no text)."""
    from sklearn.feature_extraction.text import HashingVectorizer

    texts, gaps = _texts(series, file)
    how: dict[str, Any] = {"ngram_range": PAIRS} if cut is None else {"analyzer": cut}
    hashed: Any = HashingVectorizer(n_features=width, **how).transform(texts)
    counts = hashed.toarray()
    pieces = "words and pairs of words" if cut is None else f"pieces by the tokenizer {tokenizer}"
    note = f"{series.name}: text, its {pieces} counted in {width} columns by hashing, scaled to length 1{gaps}; nothing is learnt from it"
    return [(Column(f"{series.name} ({i})", "numeric"), counts[:, i]) for i in range(width)], note


def _cut(width: int, pieces: Pieces, tokenizer: Any, series: pd.Series, file: str) -> Read:
    """The numbers of the pieces, with those that the tokenizer puts around them, and -1 after the end; what is longer is cut."""
    texts, gaps = _texts(series, file)
    found: Sequence[Sequence[int]] = tokenizer(texts.tolist(), truncation=True, max_length=width, padding=False)["input_ids"]
    whole: Sequence[Sequence[int]] = tokenizer(texts.tolist(), truncation=False, padding=False, verbose=False)["input_ids"]
    numbers = np.full((len(found), width), -1.0)
    for row, some in zip(numbers, found, strict=True):
        row[: len(some)] = some
    if numbers.max() >= pieces.vocabulary:
        raise StudyError(
            f"--tokenizer {pieces.tokenizer} numbers pieces up to {int(numbers.max())}, and {pieces.model} knows "
            f"{pieces.vocabulary} of them: take the network's own"
        )
    longer = sum(len(some) > width for some in whole)
    said = (f"; {longer} longer texts are cut" if longer else "") + gaps
    note = f"{series.name}: text, in at most {width} pieces by the tokenizer {pieces.tokenizer}{said}; nothing is learnt from it"
    return [(Column(f"{series.name} ({i})", "piece"), numbers[:, i]) for i in range(width)], note
