"""A new objective passes as it stands, and nothing is ever overwritten."""

import importlib
import sys

import pytest

from lossmith import card


@pytest.fixture
def unregistered(monkeypatch):
    """What a new module registers is forgotten after the test."""
    card.load()
    monkeypatch.setattr(card, "_cards", dict(card._cards))
    monkeypatch.setattr(card, "_aliases", dict(card._aliases))
    yield
    sys.modules.pop("fresh_loss", None)
    sys.modules.pop("test_fresh_loss", None)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, on its first forward-mode derivative
@pytest.mark.compile
def test_the_files_pass_as_they_stand(lossmith, tmp_path, monkeypatch, unregistered):
    ran = lossmith("new", "fresh_loss")
    assert ran.status == 0
    assert "wrote fresh_loss.py and test_fresh_loss.py" in ran.out
    monkeypatch.syspath_prepend(str(tmp_path))
    checked = lossmith("check", "fresh_loss:fresh_loss")
    assert checked.status == 0, checked.out
    assert "fresh_loss: all that ran passed" in checked.out
    tests = importlib.import_module("test_fresh_loss")
    tests.test_value()
    (mark,) = tests.test_conformance.pytestmark
    assert len(mark.args[1]) > 20


def test_nothing_is_overwritten(lossmith, refused, tmp_path):
    (tmp_path / "test_fresh_loss.py").write_text("mine")
    assert "is there already; nothing was written" in refused("new", "fresh_loss")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test_fresh_loss.py"]
    assert (tmp_path / "test_fresh_loss.py").read_text() == "mine"


def test_a_folder_is_made(lossmith, tmp_path):
    assert lossmith("new", "fresh_loss", "--out", "a/b").status == 0
    assert (tmp_path / "a" / "b" / "fresh_loss.py").exists()


@pytest.mark.parametrize("name", ["my-loss", "class", "_hidden", "3d"])
def test_names_that_are_no_python_names(refused, name):
    assert "must be a Python name" in refused("new", name, status=2)


@pytest.mark.parametrize("name", ["cross_entropy", "gce", "torch"])
def test_names_that_are_taken(refused, name):
    assert "is taken" in refused("new", name, status=2)


def test_a_folder_that_cannot_be_made(refused, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot write to file/sub" in refused("new", "fresh_loss", "--out", "file/sub")
