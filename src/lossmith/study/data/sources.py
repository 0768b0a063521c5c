"""Where a study's data comes from: scikit-learn's bundled sets, a file, a folder of images, Hugging Face, OpenML, a function of the
user's, or a `Dataset` itself.
"""

import os
from pathlib import Path

from lossmith._checks import nearest
from lossmith.study.data.dataset import FEATURES_ONLY, Dataset, Roles
from lossmith.study.errors import StudyError, one_line
from lossmith.study.references import is_reference, load_reference

BUNDLED = ("digits", "wine", "breast_cancer")
SOURCES = ("folder", "hf", "openml")
"""Prefixes: ``folder:PATH``, ``hf:NAME``, ``openml:ID``."""


def load_data(data: str | os.PathLike[str] | Dataset, target: str | None = None, roles: Roles = FEATURES_ONLY) -> Dataset:
    """The data of a study.

    Args:
        data: ``digits``, ``wine``, ``breast_cancer``; a CSV, Parquet or ARFF file; ``folder:PATH`` of images, ``hf:NAME_OR_PATH``,
            ``openml:ID_OR_NAME``; ``module:function`` returning (features, labels) or a `Dataset`; or a `Dataset`.
        target: the column to predict; for files, and needed there. Hugging Face and OpenML may say it themselves.
        roles: what other columns are for; for files.
    """
    if isinstance(data, Dataset):
        return _having(data, roles)
    data = os.fspath(data)
    if data in BUNDLED:
        if target is not None:
            raise StudyError(f"target is for files with columns; {data} brings its own labels")
        return _having(_bundled(data), roles)
    source, colon, rest = data.partition(":")
    if colon and source in SOURCES:
        return _from_source(source, rest, target, roles)
    if is_reference(data):
        return _having(_from_function(data), roles)
    path = Path(data).expanduser()
    if path.exists():
        from lossmith.study.data.tables import load_table  # pandas takes half a second, and only files need it

        return load_table(path, target, roles)
    raise StudyError(
        f"data {data!r} is no bundled set ({', '.join(BUNDLED)}), no file, no folder:PATH, hf:NAME or openml:ID, and no "
        f"module:function{nearest(data, BUNDLED)}"
    )


def _from_source(source: str, rest: str, target: str | None, roles: Roles) -> Dataset:
    if not rest:
        raise StudyError(f"data {source}: is followed by {'a folder' if source == 'folder' else 'a name'}; got nothing")
    if source == "folder":
        from lossmith.study.data.folders import load_folder

        if target is not None:
            raise StudyError(f"target is for files with columns; the classes of folder:{rest} are its folders")
        return _having(load_folder(rest), roles)
    if source == "hf":
        from lossmith.study.data.huggingface import load_hf

        return load_hf(rest, target, roles)
    from lossmith.study.data.openml import load_openml

    return load_openml(rest, target, roles)


def _having(dataset: Dataset, roles: Roles) -> Dataset:
    """The data, if they have what the roles ask of them: no columns are read here."""
    for option, asked, there in (
        ("--group", roles.group, dataset.groups),
        ("--split-column", roles.split, dataset.parts),
        ("--clean-target", roles.trusted, dataset.trusted),
        ("--text", ",".join(roles.text) or None, _texts(dataset, roles.text)),
    ):
        if asked is not None and there is None:
            raise StudyError(f"{option} {asked} is for files with columns; {dataset.name} has none")
    if roles.strange is not None and not (dataset.columns and dataset.strange is not None):
        raise StudyError(f"--ood {roles.strange} is a table, which stands beside a file with the same columns; {dataset.name} is no file")
    return dataset


def _texts(dataset: Dataset, asked: tuple[str, ...]) -> bool | None:
    """Whether these columns of text were read, of a frame say; None where one was not."""
    read = {column.name.removesuffix(" (0)") for column in dataset.columns if column.name.endswith(" (0)")}
    return True if all(name in read or name.rpartition("@")[0] in read for name in asked) else None


def _bundled(name: str) -> Dataset:
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    features = bunch.images if name == "digits" else bunch.data
    return Dataset.from_arrays(name, features, bunch.target, [str(label) for label in bunch.target_names])


def _from_function(reference: str) -> Dataset:
    function = load_reference(reference, "data")
    if isinstance(function, Dataset):
        return function
    if not callable(function):
        raise StudyError(f"data {reference!r} must be a function; got {type(function).__name__}")
    try:
        made = function()
    except Exception as error:  # a user's function may raise anything
        raise StudyError(f"data {reference!r} raised {one_line(error)}") from error
    if isinstance(made, Dataset):
        return made
    if not isinstance(made, tuple) or len(made) != 2:
        raise StudyError(f"data {reference!r} must return (features, labels) or a Dataset; got {type(made).__name__}")
    return Dataset.from_arrays(reference, *made)
