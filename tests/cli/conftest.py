"""A command line run inside the test's own process, in a folder of its own."""

from typing import NamedTuple

import pytest


class Ran(NamedTuple):
    """What a command line came to."""

    status: int
    out: str
    err: str


@pytest.fixture
def lossmith(capsys, monkeypatch, tmp_path):
    """Run a command line in an empty folder."""
    from lossmith.cli.app import run

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def command(*arguments: object) -> Ran:
        status = run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Ran(status, out, err)

    return command


@pytest.fixture
def refused(lossmith):
    """Run a command line that must be refused with one line and no traceback, and return the line."""

    def command(*arguments: object, status: int | None = None) -> str:
        ran = lossmith(*arguments)
        assert ran.status != 0
        if status is not None:
            assert ran.status == status
        assert ran.err.count("\n") == 1, ran.err
        assert "Traceback" not in ran.out + ran.err
        return ran.err.strip()

    return command
