"""Shared by the tests of the study: a user's module of objectives and models that can be named on a command line."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def user() -> Iterator[ModuleType]:
    """The module ``objectives_of_a_user``, importable by that name, with nothing recorded."""
    folder = str(Path(__file__).parent)
    sys.path.insert(0, folder)
    module = importlib.import_module("objectives_of_a_user")
    module.SEEN.clear()
    yield module
    sys.path.remove(folder)
