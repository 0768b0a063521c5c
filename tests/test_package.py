"""The wheel: pure Python, typed, and installable without extras beside a torch that stays as it is."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.test_readme import ROOT, python_blocks

pytestmark = [pytest.mark.subprocess, pytest.mark.xdist_group("package")]


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    """The output of a command that has to succeed."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, cwd=ROOT)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtual environment's Python that has our wheel, torch, jaxtyping and what those two need: no extra, no numpy.

    torch is linked in, not installed; pip, without an index, could not bring another even if our metadata asked for it.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    site = Path(run(python, "-I", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    for distribution in _needed_by("torch", "jaxtyping"):
        for top in {Path(file).parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            (site / top).symlink_to(distribution.locate_file(top))
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--quiet", wheel]
    run(*pip, cwd=folder, env={name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHONPATH"))})
    return python


def _needed_by(*names: str) -> Iterator[importlib.metadata.Distribution]:
    """The installed distributions of those names, and what they require, without extras."""
    seen: set[str] = set()
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in seen:
            continue
        seen.add(name)
        distribution = importlib.metadata.distribution(name)
        yield distribution
        requirements = map(Requirement, distribution.requires or [])
        waiting += [r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]


def test_wheel_is_pure_python_and_typed(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "lossmith/py.typed" in names
    suffixes = {Path(name).suffix for name in names if name.startswith("lossmith/")}
    assert suffixes <= {".py", ".typed", ".html", ".css", ".js", ".j2", ".json", ".txt"}
    assert not [name for name in names if name.startswith(("tests", "docs"))]
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_wheel_holds_every_source_file(wheel: Path) -> None:
    source = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src" / "lossmith").rglob("*.py")}
    assert source | {"lossmith/cli/evidence.json"} <= set(zipfile.ZipFile(wheel).namelist())


def test_installing_changes_no_torch(environment: Path, tmp_path: Path) -> None:
    """Ours is the wheel's copy, torch is the one that was there, and none of the extras is to be had."""
    code = (
        "import importlib.util as util, lossmith, torch; print(torch.__version__); print(lossmith.__file__); "
        "print([name for name in ('numpy', 'scipy', 'sklearn', 'pandas', 'matplotlib', 'rich', 'cyclopts') if util.find_spec(name)])"
    )
    version, where, extras = run(environment, "-I", "-W", "ignore:Failed to initialize NumPy", "-c", code, cwd=tmp_path).splitlines()
    assert version == importlib.metadata.version("torch")
    assert Path(where).is_relative_to(environment.parents[1])
    assert extras == "[]"


def test_readme_runs_where_only_the_wheel_is_installed(environment: Path, tmp_path: Path) -> None:
    (tmp_path / "readme.py").write_text("\n".join(python_blocks(ROOT / "README.md")))
    run(environment, "-I", "-W", "error", "-W", "ignore:Failed to initialize NumPy", "readme.py", cwd=tmp_path)
