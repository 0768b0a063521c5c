"""The command line itself: help, errors as one line, exit status, what is imported, and what is missing."""

import importlib.util
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import lossmith as library
from lossmith import card
from lossmith.cli import app

COMMANDS = ("find", "show", "check", "compare", "report", "new", "cite")


def environment() -> dict[str, str]:
    """In which a new process finds the library that is being tested."""
    return {**os.environ, "PYTHONPATH": str(Path(library.__file__).parents[1])}


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment())


def test_help_tells_the_story_and_names_every_command(lossmith):
    ran = lossmith("--help")
    assert ran.status == 0
    for word in ("1. find one", "2. read", "3. see whether", *COMMANDS):
        assert word in ran.out


def test_no_command_is_help(lossmith):
    assert lossmith().out == lossmith("--help").out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples(lossmith, name):
    ran = lossmith(name, "--help")
    assert ran.status == 0
    assert f"Usage: lossmith {name}" in ran.out
    assert "Examples:" in ran.out
    assert f"\n  lossmith {name}" in ran.out


def test_examples_fit_a_narrow_terminal():
    texts = [app.STORY, app.EPILOGUE, *(examples for _, examples in app.COMMANDS.values())]
    too_wide = [line for text in texts for line in text.splitlines() if len(line) > 80]
    assert not too_wide


def test_version(lossmith):
    assert lossmith("--version").out.strip() == f"lossmith {library.__version__}"


def test_unknown_command_offers_the_nearest(refused):
    assert "did you mean 'compare'?" in refused("comapre", status=2)


def test_unknown_option_offers_the_nearest(refused):
    assert "--task" in refused("find", "--taks", "x", status=2)


def test_missing_argument(refused):
    assert "lossmith show --help" in refused("show", status=2)


def test_a_wrong_kind_of_value(refused):
    assert "--epochs" in refused("compare", "--data", "wine", "--objectives", "ce", "--epochs", "many", status=2)


def test_debug_shows_the_traceback(lossmith):
    plain, debug = lossmith("show", "gcee"), lossmith("show", "gcee", "--debug")
    assert "Traceback" not in plain.err
    assert "Traceback" in debug.err
    assert debug.err.strip().endswith(plain.err.strip())


def test_a_bug_is_one_line_with_its_type(lossmith, monkeypatch):
    monkeypatch.setattr("lossmith.cli.find.all_cards", lambda: 1 / 0)
    ran = lossmith("find")
    assert (ran.status, ran.err) == (1, "lossmith find: ZeroDivisionError: division by zero (--debug shows where)\n")


def test_ctrl_c(lossmith, monkeypatch):
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lossmith.cli.find.all_cards", interrupted)
    ran = lossmith("find")
    assert (ran.status, ran.err) == (130, "lossmith find: stopped\n")


def test_a_library_warning_is_one_line(lossmith, monkeypatch):
    def warning():
        warnings.warn("objectives of 'other' were\nnot registered", stacklevel=1)
        return card.all_cards()

    monkeypatch.setattr("lossmith.cli.find.all_cards", warning)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        ran = lossmith("find")
    assert ran.status == 0
    assert ran.err == "lossmith: warning: objectives of 'other' were not registered\n"


@pytest.mark.parametrize("command", [("compare", "--data", "wine", "--objectives", "ce"), ("report", "x.sqlite")])
def test_a_missing_extra_is_one_pip_line(refused, monkeypatch, command):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in ("sklearn", "joblib") else there(name, *rest))
    line = refused(*command, status=2)
    assert line == f'lossmith {command[0]}: lossmith {command[0]} needs scikit-learn, joblib: pip install "lossmith[compare]"'


def test_a_plot_without_matplotlib_is_one_pip_line(refused, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "matplotlib" else there(name, *rest))
    assert 'pip install "lossmith[compare]"' in refused("show", "gce", "--plot", "gce.png", status=2)


@pytest.mark.subprocess
def test_without_cyclopts_the_module_prints_the_pip_line():
    code = "import sys, runpy; sys.modules['cyclopts'] = None; sys.argv = ['lossmith']; runpy.run_module('lossmith', run_name='__main__')"
    ran = python(code)
    assert ran.returncode == 2
    assert ran.stderr == 'lossmith: the command needs cyclopts: pip install "lossmith[cli]"\n'
    assert ran.stdout == ""


@pytest.mark.subprocess
def test_find_show_and_cite_need_only_the_cli_extra():
    code = """
import sys
for name in ("numpy", "scipy", "sklearn", "pandas", "matplotlib", "joblib"):
    sys.modules[name] = None
import warnings
warnings.filterwarnings("ignore")  # torch without numpy says so
from lossmith.cli.app import run
sys.exit(max(run(["find", "noisy labels"]), run(["show", "gce", "--plot"]), run(["show", "ce", "--json"]), run(["cite", "gce"])))
"""
    ran = python(code)
    assert ran.returncode == 0, ran.stderr
    assert "start here: cross_entropy" in ran.stdout


@pytest.mark.subprocess
def test_a_reader_that_leaves_early_is_no_error():
    code = "import sys; from lossmith.cli.app import run; sys.exit(run(['find', '--json']))"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        complaint = process.stderr.read()
    assert complaint == ""
