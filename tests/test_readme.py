"""What the prose shows, runs: every Python block of the README, the guide and CONTRIBUTING, and every command named there."""

from __future__ import annotations

import functools
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.subprocess


def blocks(page: Path, language: str) -> list[str]:
    return [match["body"] for match in BLOCK.finditer(page.read_text()) if match["language"] == language]


def python_blocks(page: Path) -> list[str]:
    """In order: a later block may use what an earlier one defined."""
    return blocks(page, "python")


def commands(page: Path) -> list[list[str]]:
    """The words of every command line in the page's shell blocks, comments left out and continued lines joined."""
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def _ids(pages: list[Path]) -> list[str]:
    return [page.relative_to(ROOT).as_posix() for page in pages]


WITH_PYTHON = [page for page in PAGES if python_blocks(page)]
WITH_COMMANDS = [page for page in PAGES if commands(page)]


def test_readme_names_every_objective() -> None:
    from lossmith.card import all_cards

    text = (ROOT / "README.md").read_text()
    ours = [name for name, card in all_cards().items() if card.function.__module__.startswith("lossmith.")]
    assert [name for name in ours if f"`{name}`" not in text] == []


def test_readme_shows_python_and_commands() -> None:
    """Were the blocks not found, everything below would pass by testing nothing."""
    assert ROOT / "README.md" in WITH_PYTHON
    assert ROOT / "README.md" in WITH_COMMANDS


@pytest.mark.parametrize("page", WITH_PYTHON, ids=_ids(WITH_PYTHON))
def test_python_blocks_run(page: Path, tmp_path: Path) -> None:
    (tmp_path / "page.py").write_text("\n".join(python_blocks(page)))
    done = subprocess.run([sys.executable, "-W", "error", "page.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=_ids(WITH_COMMANDS))
def test_commands_exist(page: Path) -> None:
    """Make targets, extras, and `lossmith` with its subcommands and options; other programs are taken for granted."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    for words in commands(page):
        program, arguments = Path(words[0]).name, words[1:]
        if program == "make":
            named = {word for word in arguments if "=" not in word}
            assert named <= targets, f"{page.name}: no such make target: {named - targets}"
        elif program == "pip":
            named = {extra for word in arguments for extra in re.findall(r"\[(.*?)\]", word) for extra in extra.split(",")}
            assert named <= extras, f"{page.name}: no such extra: {named - extras}"
        elif program == "lossmith":
            _assert_command_exists(page, arguments)
        else:
            assert program in {"git", "cd", "python", "pre-commit", "dask"}, f"{page.name}: what is {program}?"


@functools.cache  # the pages name the same few commands again and again
def _help(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "lossmith", *command, "--help"], capture_output=True, text=True)


def _assert_command_exists(page: Path, arguments: list[str]) -> None:
    command = [word for word in arguments[:1] if not word.startswith("-")]
    done = _help(*command)
    assert done.returncode == 0, f"{page.name}: no such command: lossmith {' '.join(command)}"
    for word in arguments:
        if word.startswith("--"):
            assert word.partition("=")[0] in done.stdout, f"{page.name}: lossmith {' '.join(command)} has no option {word}"
