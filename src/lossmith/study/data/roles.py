"""Columns of a table that are neither features nor the target: what keeps rows together, and the user's own split."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lossmith._checks import nearest
from lossmith.study.data.copies import Copies
from lossmith.study.data.dataset import PARTS, WRITTEN, Roles
from lossmith.study.errors import StudyError


@dataclass(frozen=True, eq=False)
class Own:
    """What the roles of a table's columns come to.

    Attributes:
        columns: those that are not learnt from.
        groups: `(n,)`, the same number for rows that stay together; None without a group column.
        parts: `(n,)`, positions in `PARTS`; None without a split column.
        notes: a sentence each.
    """

    columns: tuple[str, ...]
    groups: NDArray[np.int64] | None
    parts: NDArray[np.int64] | None
    notes: tuple[str, ...]


def read_roles(frame: pd.DataFrame, target: str, roles: Roles, file: str) -> Own:
    """The columns that have a role, read and checked."""
    used: dict[str, str] = {target: "--target"}
    for option, column in (("--group", roles.group), ("--split-column", roles.split), ("--clean-target", roles.trusted)):
        if column is None:
            continue
        if column not in frame.columns:
            raise StudyError(f"{option}: {file} has no column {column!r}{nearest(column, frame.columns)}")
        if column in used:
            raise StudyError(f"{option} {column}: that column is already the one of {used[column]}")
        used[column] = option
    groups = None if roles.group is None else _groups(frame[roles.group])
    parts = None if roles.split is None else _parts(frame[roles.split], file)
    notes = []
    if groups is not None:
        alone = int(frame[roles.group].isna().sum())
        single = f"; {alone} rows without one stand alone" if alone else ""
        notes.append(f"{roles.group}: {len(np.unique(groups))} groups, never on two sides of a split, and not learnt from{single}")
    if parts is not None:
        counts = ", ".join(f"{int((parts == p).sum())} {name}" for p, name in enumerate(PARTS))
        notes.append(f"{roles.split}: the split ({counts}), not learnt from")
    if groups is not None and parts is not None and (row := _first_crossing(groups, parts)) is not None:
        raise StudyError(
            f"--group {roles.group} and --split-column {roles.split} contradict each other: "
            f"{frame[roles.group].iloc[row]!r} is on two sides"
        )
    return Own(tuple(used)[1:], groups, parts, tuple(notes))


def _groups(series: pd.Series) -> NDArray[np.int64]:
    codes, values = pd.factorize(series)  # -1 where missing
    missing = codes < 0
    codes[missing] = len(values) + np.arange(int(missing.sum()))
    return codes.astype(np.int64)


def _parts(series: pd.Series, file: str) -> NDArray[np.int64]:
    read = series.map(lambda value: WRITTEN.get(str(value).strip().lower()))
    unread = np.flatnonzero(read.isna())
    if len(unread):
        raise StudyError(
            f"--split-column {series.name}: its values must be train, validation (or val) and test; {file} has {series.iloc[unread[0]]!r} "
            f"in row {int(unread[0]) + 1}"
        )
    parts = read.to_numpy(dtype=np.int64)
    for p, name in ((0, "train"), (2, "test")):
        if not (parts == p).any():
            raise StudyError(f"--split-column {series.name}: no row of {file} is {name}")
    return parts


def _first_crossing(numbers: NDArray[np.int64], parts: NDArray[np.int64]) -> int | None:
    """A row whose number occurs in another part too."""
    where = np.zeros((int(numbers.max()) + 1, len(PARTS)), dtype=bool)
    where[numbers, parts] = True
    crossing = np.flatnonzero(where[numbers].sum(1) > 1)
    return int(crossing[0]) if len(crossing) else None


def together(own: Own, copies: Copies | None) -> tuple[NDArray[np.int64] | None, list[str]]:
    """Which rows stay on one side: those of one group, copies of each other, and chains of both; a note where copies join groups."""
    if copies is None or not copies.repeated:
        return own.groups, []
    if own.groups is None:
        return copies.numbers, []
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    before = len(np.unique(own.groups))
    edges = (np.ones(len(own.groups), dtype=bool), (own.groups, int(own.groups.max()) + 1 + copies.numbers))
    size = int(own.groups.max()) + int(copies.numbers.max()) + 2
    _, component = connected_components(coo_array(edges, shape=(size, size)), directed=False)
    joined = component[own.groups].astype(np.int64)
    after = len(np.unique(joined))
    if after == before:
        return joined, []
    return joined, [f"rows of different groups are copies of each other, which joins {before} groups into {after}"]


def crossing(own: Own, copies: Copies) -> list[str]:
    """A warning where the user's own split tests on copies of rows that it trains or selects with."""
    if own.parts is None:
        return []
    known = np.zeros(int(copies.numbers.max()) + 1, dtype=bool)
    known[copies.numbers[own.parts != 2]] = True
    leaked = int(known[copies.numbers[own.parts == 2]].sum())
    if not leaked:
        return []
    return [
        f"{leaked} test rows of your own split are equal in every feature to a training or validation row: their scores measure memory."
    ]
