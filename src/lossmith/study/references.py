"""``module:attribute`` on the command line: finding the object it means, and telling when its source has changed."""

import hashlib
import importlib
import inspect
import os
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from lossmith._checks import nearest
from lossmith.study.errors import StudyError, one_line

PREFIXES = ("folder", "hf", "openml", "timm")
"""What stands before the colon of data and models that are no ``module:attribute``."""


def is_reference(text: str) -> bool:
    """Whether a text reads as ``module:attribute`` rather than as a name or a path (``C:\\data.csv`` is a path)."""
    module, separator, attribute = text.partition(":")
    return (
        module not in PREFIXES and bool(separator) and attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))
    )


def load_reference(text: str, what: str) -> Any:
    """The object that ``module:attribute`` names; modules are also looked for in the current folder.

    Args:
        text: the reference.
        what: what it is meant to be ("model", "data", "objective"), for the message.
    """
    module_name, _, attribute = text.partition(":")
    folder = os.getcwd()
    if folder not in sys.path and "" not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = _fresh(importlib.import_module(module_name))
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise StudyError(f"{what} {text!r}: there is no module {error.name!r} here or among the installed ones") from error
        raise StudyError(f"{what} {text!r}: importing it failed: {one_line(error)}") from error
    except Exception as error:  # a user's module may raise anything
        raise StudyError(f"{what} {text!r}: importing it failed: {one_line(error)}") from error
    if not hasattr(module, attribute):
        raise StudyError(f"{what} {text!r}: {module_name} has no {attribute!r}{nearest(attribute, vars(module))}")
    return getattr(module, attribute)


_read_as: dict[str, str] = {}
"""Module name -> hash of its file when it was last executed for us."""


def _fresh(module: ModuleType) -> ModuleType:
    """The module, executed again if its file has been edited: in a notebook, and in workers that are kept, it may have been."""
    file = getattr(module, "__file__", None)
    if file is None or not Path(file).is_file():
        return module
    now = source_hash(module)
    if _read_as.setdefault(module.__name__, now) != now:
        module = importlib.reload(module)
        _read_as[module.__name__] = now
    return module


def source_hash(thing: Any) -> str:
    """SHA-256 of the source file of a module, or of that which defines a function or class; of a name where there is no file.

    It is part of every trial's key: edit the file, and the trials that used it are run anew instead of being taken from the store.
    """
    try:
        file = inspect.getsourcefile(inspect.unwrap(thing))
    except TypeError:
        file = None
    if file is not None and Path(file).is_file():
        return file_hash(file)
    name = f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', repr(type(thing)))}"
    return hashlib.sha256(name.encode()).hexdigest()


def file_hash(file: str | Path) -> str:
    """SHA-256 of a file, read again when it was written again."""
    stamp = os.stat(file)
    return _hash_of(str(file), stamp.st_mtime_ns, stamp.st_size)


@lru_cache(maxsize=256)
def _hash_of(file: str, modified: int, size: int) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()
