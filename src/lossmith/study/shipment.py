"""What a worker needs besides its trials: the data, the user's own modules, and certainty that it computes what the coordinator would.

A worker on another machine has none of the folders here, so the modules that a study names travel with the data and are unpacked where they
arrive. A worker with another lossmith or torch is refused: its numbers would be stored as if they were ours.
"""

import atexit
import hashlib
import importlib
import os
import platform
import shutil
import signal
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path

import torch

import lossmith
from lossmith.study.data.dataset import Dataset
from lossmith.study.errors import StudyError, one_line
from lossmith.study.references import is_reference
from lossmith.study.spec import StudySpec

LARGEST_CODE = 1 << 25
"""Bytes of modules that travel; more is a folder of something else."""


@dataclass(frozen=True)
class Code:
    """The user's modules, as files by their path from where they are imported."""

    files: Mapping[str, bytes]

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(repr(sorted(self.files.items())).encode()).hexdigest()

    def unpack(self) -> None:
        """Make the modules importable in this process; those of an earlier study are put away, and their names forgotten."""
        before = _unpacked.get("folder", "")
        if not self.files or (self.digest == _unpacked.get("digest") and before in sys.path):
            return
        if before in sys.path:
            sys.path.remove(before)
            shutil.rmtree(before, ignore_errors=True)
        folder = tempfile.mkdtemp(prefix="lossmith-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        for name, content in self.files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        tops = {Path(name).parts[0].removesuffix(".py") for name in self.files}
        for name in [name for name in sys.modules if name.partition(".")[0] in tops]:
            del sys.modules[name]
        sys.path.insert(0, folder)
        importlib.invalidate_caches()
        _unpacked.update(digest=self.digest, folder=folder)


_unpacked: dict[str, str] = {}
"""What this process unpacked last, and where."""


@dataclass(frozen=True, eq=False)
class Shipment:
    """Everything that all trials of a study share, sent to a worker once.

    Attributes:
        dataset: the data.
        coordinator: process number of the coordinator when the workers are its children; None on a cluster.
        path: its module path, for its children: workers that joblib keeps may have started before a folder was added.
        code: the user's modules, for a cluster.
        versions: what a worker of a cluster must have, see `versions`.
    """

    dataset: Dataset
    coordinator: int | None
    path: tuple[str, ...] = ()
    code: Code = Code({})
    versions: Mapping[str, str] | None = None

    @classmethod
    def local(cls, dataset: Dataset) -> "Shipment":
        """For processes of this machine."""
        return cls(_bare(dataset), os.getpid(), tuple(sys.path))

    @classmethod
    def abroad(cls, spec: StudySpec, dataset: Dataset) -> "Shipment":
        """For the workers of a cluster."""
        return cls(_bare(dataset), None, (), code_of(spec), versions())

    def settle(self) -> None:
        """Make ready the process that this arrived in, or raise a StudyError if its numbers would not be the coordinator's."""
        if self.coordinator is None:
            if self.versions is not None and (other := differing(versions(), self.versions)):
                raise StudyError(f"worker {platform.node()}, process {os.getpid()}: {other}")
            self.code.unpack()
            return
        if os.getppid() == self.coordinator:
            _serve(self.coordinator)
        if os.getpid() != self.coordinator:
            sys.path.extend(folder for folder in self.path if folder not in sys.path)


def _bare(dataset: Dataset) -> Dataset:
    return replace(dataset, notes=(), warnings=(), rows=None, files=())


@cache
def versions() -> Mapping[str, str]:
    """What moves a trial's numbers: versions, the kind of processor, and lossmith's own code, which may differ under one version."""
    digest = hashlib.sha256()
    root = Path(lossmith.__file__).parent
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return {
        "lossmith": lossmith.__version__,
        "torch": torch.__version__,
        "python": ".".join(platform.python_version_tuple()[:2]),
        "scikit-learn": metadata.version("scikit-learn"),
        "machine": platform.machine(),
        "lossmith code": digest.hexdigest()[:12],
    }


def differing(theirs: Mapping[str, str | None], ours: Mapping[str, str]) -> str:
    """In words, the first thing of ours that they have otherwise; nothing when all is the same."""
    for name, wanted in ours.items():
        has = theirs.get(name)
        if has != wanted:
            return f"has no {name}" if has is None else f"has {name} {has} where this process has {wanted}"
    return ""


def references_of(spec: StudySpec) -> list[str]:
    """The ``module:function`` texts that a worker will import."""
    return [name for name in (spec.model, *(objective.name for objective in spec.objectives)) if is_reference(name)]


def code_of(spec: StudySpec) -> Code:
    """The files of the modules that a study names, and of what they import from beside them; installed packages are not among them."""
    files: dict[str, bytes] = {}
    for module in {text.partition(":")[0] for text in references_of(spec)}:
        top = sys.modules[module.partition(".")[0]]
        where = getattr(top, "__file__", None)
        if where is None:
            raise StudyError(f"module {module} has no file of its own and cannot be sent to a cluster: install it on the workers")
        home = Path(where).resolve().parent.parent if hasattr(top, "__path__") else Path(where).resolve().parent
        if not _installed(home):
            for file in _beside(home, top.__name__ if hasattr(top, "__path__") else None):
                files[file.relative_to(home).as_posix()] = file.read_bytes()
    size = sum(map(len, files.values()))
    if size > LARGEST_CODE:
        raise StudyError(f"the modules of this study and what lies beside them are {size >> 20} MiB: install them on the workers instead")
    return Code(files)


def _installed(folder: Path) -> bool:
    return any(folder == Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib", "stdlib"))


def _beside(home: Path, package: str | None) -> Iterable[Path]:
    """The files of a package, whole, and those of all modules that were imported from the same folder."""
    found = set() if package is None else set((home / package).rglob("*.py"))
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and file.endswith(".py") and name.partition(".")[0] not in ("lossmith", "__main__"):
            path = Path(file).resolve()
            if path.is_relative_to(home) and name.replace(".", "/") == path.relative_to(home).with_suffix("").as_posix().removesuffix(
                "/__init__"
            ):
                found.add(path)
    return sorted(found)


def importing(code: Code, modules: Iterable[str]) -> str | None:
    """Unpack modules in this process and import them; the line that says what went wrong, or None."""
    code.unpack()
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # a user's module may raise anything
            return f"importing {module} failed: {one_line(error)}"
    return None


@cache
def _serve(coordinator: int) -> None:
    """Settle a worker process, once: leave Ctrl-C, which reaches the whole group, to the coordinator, and do not outlive it."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == coordinator:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
