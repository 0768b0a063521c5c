"""Data sets of Hugging Face's `datasets`: by name from the hub, or from a folder that `save_to_disk` wrote.

A column of images makes a data set of images; anything else is a table like one from a file. Splits named train, validation and test are
the user's own split.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lossmith._checks import nearest
from lossmith.study.data.dataset import WRITTEN, Dataset, Roles
from lossmith.study.data.images import Look, parse_look, read_images
from lossmith.study.data.roles import read_roles
from lossmith.study.data.tables import encode_table, encode_target
from lossmith.study.errors import StudyError, one_line

PART = "parts"
"""The column of a table that says which split a row came from, and what --split-column calls it."""


def load_hf(text: str, target: str | None, roles: Roles) -> Dataset:
    """Read a data set of Hugging Face's.

    Args:
        text: a folder or a name, a configuration after a colon, and after ``@`` one split to take alone, or how images are read:
            ``glue:sst2@validation``, ``mnist@28@grey``.
        target: the column to predict; the only column of class labels when left out.
        roles: what other columns are for.
    """
    name, look, words = parse_look(text)
    where = f"hf:{name}"
    splits = _splits(name, where)
    if len(words) > 1:
        raise StudyError(f"{where}: one split can be named after @; got {', '.join(words)}")
    if words:
        if words[0] not in splits:
            raise StudyError(f"{where} has no split {words[0]!r}{nearest(words[0], splits)}; it has {', '.join(splits)}")
        splits = {words[0]: splits[words[0]]}
    elif len(splits) > 1 and not {0, 2} <= {WRITTEN.get(split.lower(), -1) for split in splits}:
        raise StudyError(f"{where} has the splits {', '.join(splits)}, and no train and test: name one, as in {where}@{next(iter(splits))}")
    left = [] if len(splits) == 1 else [split for split in splits if split.lower() not in WRITTEN]
    splits = {split: rows for split, rows in splits.items() if split not in left}
    notes = [f"left out, they are no train, validation or test: the splits {', '.join(left)}"] if left else []
    features = next(iter(splits.values())).features
    target = _target(features, target, where)
    frame = pd.concat([_frame(rows) for rows in splits.values()], ignore_index=True)
    if len(splits) > 1:
        if PART in frame.columns:
            raise StudyError(f"{where} has splits and a column {PART!r}: name one split, as in {where}@{next(iter(splits))}")
        if roles.split not in (None, PART):
            raise StudyError(f"{where} has splits of its own: --split-column {PART}, or name one, as in {where}@{next(iter(splits))}")
        frame[PART] = np.repeat(list(splits), [len(rows) for rows in splits.values()])
        roles = replace(roles, split=PART)
    dataset = _images(frame, features, target, look, roles, where) or encode_table(frame, target, where, roles)
    return replace(dataset, notes=(*notes, *dataset.notes))


def _splits(name: str, where: str) -> dict[str, Any]:
    """The data by split; a data set without any is one called train."""
    try:
        import datasets
    except ImportError:
        raise StudyError(f'{where} needs datasets: pip install "lossmith[data]"') from None
    path = Path(name).expanduser()
    try:
        if any((path / file).is_file() for file in ("dataset_dict.json", "dataset_info.json", "state.json")):
            found = datasets.load_from_disk(str(path))
        else:
            head, _, configuration = name.partition(":")
            found = datasets.load_dataset(str(path) if path.exists() else head, configuration or None)
    except Exception as error:  # the hub, the disk and the network raise many kinds
        raise StudyError(f"{where} cannot be loaded: {one_line(error)}") from error
    splits: dict[str, Any] = {str(part): rows for part, rows in found.items()} if isinstance(found, dict) else {"train": found}
    if not splits or not all(isinstance(rows, datasets.Dataset) for rows in splits.values()):
        raise StudyError(f"{where} has no rows that can be read at once")
    return splits


def _target(features: Any, target: str | None, where: str) -> str:
    import datasets

    if target is None:
        labels = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
        if len(labels) != 1:
            raise StudyError(f"{where} has columns {', '.join(features)}: say which one to predict with target")
        return labels[0]
    if target not in features:
        raise StudyError(f"{where} has no column {target!r}{nearest(target, features)}; its columns are {', '.join(features)}")
    return target


def _frame(rows: Any) -> pd.DataFrame:
    """A split as a data frame; class labels become their names, and -1, which hides the label of a test row, is missing."""
    import datasets

    for name, kind in rows.features.items():
        if isinstance(kind, datasets.Image):
            rows = rows.cast_column(name, datasets.Image(decode=False))
    frame = rows.with_format(None).to_pandas()
    for name, kind in rows.features.items():
        if isinstance(kind, datasets.ClassLabel):
            words = dict(enumerate(kind.names))
            frame[name] = frame[name].map(words.get).astype(object)
    return frame


def _images(frame: pd.DataFrame, features: Any, target: str, look: Look, roles: Roles, where: str) -> Dataset | None:
    """The data as images; None where they have none."""
    import datasets

    columns = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    if not columns:
        return None
    if len(columns) > 1:
        raise StudyError(f"{where} has several columns of images: {', '.join(columns)}; a study reads one")
    if roles.text:
        raise StudyError(f"--text is for tables; {where} has images")
    if roles.trusted is not None:
        raise StudyError(f"--clean-target is for tables; {where} has images")
    known = frame[target].notna()
    notes = [] if known.all() else [f"{int((~known).sum())} of {len(frame)} rows have no {target} and were left out"]
    frame = frame[known].reset_index(drop=True)
    files = [_file(value) for value in frame[columns[0]]]
    found = read_images(files, [f"row {i + 1}" for i in range(len(files))], look, where)
    frame = frame.iloc[found.kept].reset_index(drop=True)
    labels, names = encode_target(frame[target], where, target)
    own = read_roles(frame, target, roles, where)
    other = [name for name in frame.columns.drop([target, columns[0], *own.columns])]
    notes += [*found.notes, *own.notes, *([f"left out beside the images: {', '.join(other)}"] if other else [])]
    rows = np.flatnonzero(known)[found.kept]
    return Dataset(where, found.pixels, labels, names, notes=tuple(notes), groups=own.groups, parts=own.parts, rows=rows)


def _file(value: Any) -> Path | bytes | None:
    if not isinstance(value, dict):
        return None
    return value["bytes"] if value.get("bytes") is not None else Path(value["path"]) if value.get("path") else None
