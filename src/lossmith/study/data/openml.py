"""Data sets of OpenML, by number or name, through scikit-learn, which keeps what it fetched."""

import warnings
from dataclasses import replace
from typing import Any

from lossmith.study.data.dataset import Dataset, Roles
from lossmith.study.data.tables import encode_table
from lossmith.study.errors import StudyError, one_line


def load_openml(text: str, target: str | None, roles: Roles) -> Dataset:
    """Read a data set of OpenML.

    Args:
        text: a number, ``61``, or a name with or without a version, ``iris@1``.
        target: the column to predict; the one OpenML names when left out.
        roles: what other columns are for.
    """
    from sklearn.datasets import fetch_openml

    where = f"openml:{text}"
    name, at, version = text.partition("@")
    if at and (name.isdecimal() or not version.isdecimal()):
        raise StudyError(f"{where}: a name may have a version, as in openml:iris@1, and a number has none")
    asked: dict[str, Any] = {"data_id": int(name)} if name.isdecimal() else {"name": name, "version": int(version) if at else "active"}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            bunch = fetch_openml(**asked, as_frame=True, parser="auto")
        except Exception as error:  # the network, the server and the parser raise many kinds
            raise StudyError(f"{where} cannot be loaded: {one_line(error)}") from error
    if target is None:
        if len(bunch.target_names) != 1:
            raise StudyError(f"{where} names {len(bunch.target_names) or 'no'} targets: say which column to predict with target")
        target = bunch.target_names[0]
    dataset = encode_table(bunch.frame, target, where, roles)
    said = [one_line(StudyError(str(one.message))) for one in told if one.category is UserWarning]
    note = f"OpenML's number {bunch.details['id']}, version {bunch.details['version']}; the target is {target}"
    return replace(dataset, notes=(note, *dataset.notes), warnings=(*said, *dataset.warnings))
