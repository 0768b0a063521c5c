"""A study on a Dask cluster of real processes: the numbers of one process, whatever is lost on the way, and one line where it cannot be."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

import lossmith
from lossmith import study
from lossmith.study import StudyError, StudyResult, StudySpec
from lossmith.study.store import Store

pytest.importorskip("distributed")
pytestmark = [
    pytest.mark.subprocess,
    pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's"),
]

SETTINGS = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1", "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5 s"}


class Cluster(NamedTuple):
    """A scheduler, and its workers as processes started from a folder of their own, where no module of ours lies."""

    backend: str
    folder: Path
    scheduler: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]]

    def add(self, *options: str, **environment: str) -> subprocess.Popen[bytes]:
        """One more worker; it is there when this returns."""
        place = self.backend.replace("dask", "tcp", 1)
        command = ["worker", place, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1", *options]
        worker, _ = start(self.folder, command, "Registered to", **environment)
        self.workers.append(worker)
        return worker

    def at_least(self, count: int) -> "Cluster":
        """The same, with so many workers alive: tests come in any order, and some are hard on workers."""
        self.workers[:] = [worker for worker in self.workers if worker.poll() is None]
        while len(self.workers) < count:
            self.add()
        return self

    def end(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


def start(folder: Path, command: list[str], ready: str, **environment: str) -> tuple[subprocess.Popen[bytes], str]:
    """A process of Dask's command line that is ready, and what it said before."""
    log = folder / f"{command[0]} {time.monotonic_ns()}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "dask", *command],
            cwd=folder,
            env={**os.environ, **SETTINGS, **environment},
            stdout=output,
            stderr=output,
        )
    while ready not in log.read_text():
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    return process, log.read_text()


def cluster_in(folder: Path) -> Cluster:
    scheduler, said = start(folder, ["scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"], "Scheduler at")
    (place,) = re.findall(r"Scheduler at:\s*tcp://(\S+)", said)
    return Cluster(f"dask://{place}", folder, scheduler, [])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = cluster_in(tmp_path_factory.mktemp("dask"))
    yield made
    made.end()


def spec(**changes: Any) -> StudySpec:
    options = {"data": "wine", "objectives": "cross_entropy,gce:q=0.7", "model": "linear", "seeds": 6, "epochs": 2}
    return StudySpec(**options | {"learning_rates": [0.01, 0.1], "noise": "symmetric:0.2"} | changes)


def table(result: StudyResult) -> str:
    return result.table().to_csv()


def records(store: Path) -> dict[str, dict[str, Any]]:
    """Every stored record without the time it took."""
    with Store(store) as opened:
        rows = list(opened.rows())
    return {row.key: {**json.loads(row.result), "seconds": None} for row in rows}


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the user's own modules, which the workers cannot see; the modules are forgotten afterwards."""
    folder = tmp_path / "my modules ü"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    known = set(sys.modules)
    yield folder
    for name in set(sys.modules) - known:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


SLEEPY = """
import os, time
from torch.nn import functional as F

def loss(logits, target):
    if os.getpid() != {home}:
        time.sleep(0.05)
    return F.cross_entropy(logits, target)
"""


@pytest.fixture
def sleepy(modules: Path) -> str:
    """An objective of the user's own that takes its time on workers, so that a study is under way when something happens to it."""
    (modules / "sleepy_module.py").write_text(SLEEPY.format(home=os.getpid()))
    return "cross_entropy,sleepy_module:loss"


def test_a_worker_is_killed_and_nothing_is_lost_or_counted_twice(cluster: Cluster, tmp_path: Path, user: ModuleType) -> None:
    """One of the three has four threads, whose random numbers must not mix: one objective and the model draw some while they train."""
    victim, *_ = cluster.at_least(2).workers
    wide, seen = cluster.add("--nthreads", "4"), []

    def kill_one(done: int, total: int, record: Any) -> None:
        seen.append(done)
        if done == 4:
            victim.kill()

    asked = spec(objectives="cross_entropy,objectives_of_a_user:noisy", model="objectives_of_a_user:with_dropout", seeds=3, epochs=5)
    result = study.run(asked, tmp_path / "s.sqlite", backend=cluster.backend, on_progress=kill_one)
    assert seen == list(range(13))  # every trial once
    assert victim.wait(10) == -signal.SIGKILL
    assert table(result) == table(study.run(asked, tmp_path / "here.sqlite", jobs=1))
    assert records(tmp_path / "s.sqlite") == records(tmp_path / "here.sqlite")
    wide.kill()
    wide.wait()


def test_all_workers_are_lost_with_the_data_and_others_come(cluster: Cluster, sleepy: str) -> None:
    cluster.at_least(1)

    def replace_all(done: int, total: int, record: Any) -> None:
        if done == 4:
            for worker in cluster.workers:
                worker.kill()
                worker.wait()
            cluster.at_least(1)

    asked = spec(objectives=sleepy, seeds=4)
    with pytest.warns(UserWarning, match="were lost .* their trials are computed again"):
        result = study.run(asked, backend=cluster.backend, on_progress=replace_all)
    assert table(result) == table(study.run(asked, jobs=1))


def test_the_user_s_modules_reach_the_workers_again_when_edited(cluster: Cluster, modules: Path) -> None:
    cluster.at_least(2)
    (modules / "factors_of_mine.py").write_text("FACTOR = 1.0\n")
    (modules / "losses_of_mine").mkdir()
    (modules / "losses_of_mine" / "__init__.py").write_text("")
    (modules / "losses_of_mine" / "own.py").write_text(
        "from torch.nn import functional as F\nfrom factors_of_mine import FACTOR\n"
        "def loss(logits, target):\n    return FACTOR * F.cross_entropy(logits, target)\n"
    )
    asked = spec(objectives="cross_entropy,losses_of_mine.own:loss", seeds=1)
    first = study.run(asked, backend=cluster.backend)
    assert table(first) == table(study.run(asked, jobs=1))
    code = (modules / "losses_of_mine" / "own.py").read_text()
    (modules / "losses_of_mine" / "own.py").write_text(code.replace("FACTOR *", "30 *"))
    edited = study.run(asked, backend=cluster.backend)
    label = "losses_of_mine.own:loss"
    assert edited.curves(label).train_loss[0, 1] > 10 * first.curves(label).train_loss[0, 1]


def test_a_module_that_workers_cannot_import_is_one_line(cluster: Cluster, modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.at_least(1)
    monkeypatch.setenv("ONLY_HERE", "yes")
    (modules / "picky_module.py").write_text(
        "import os\nif 'ONLY_HERE' not in os.environ: raise ImportError('needs a file that is not sent')\n"
        "def loss(logits, target): return logits.square().mean()\n"
    )
    with pytest.raises(StudyError, match="importing picky_module failed: ImportError: needs a file that is not sent") as caught:
        study.run(spec(objectives="picky_module:loss"), backend=cluster.backend)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("preload", "said"),
    [
        ("import sys; sys.modules['lossmith'] = None", "no lossmith answers there"),
        ("import lossmith; lossmith.__version__ = '0.0.1'", f"has lossmith 0.0.1 where this process has {lossmith.__version__}"),
    ],
)
def test_a_worker_that_would_compute_something_else_is_refused(cluster: Cluster, tmp_path: Path, preload: str, said: str) -> None:
    script = tmp_path / "preload.py"
    script.write_text(preload)
    other = cluster.at_least(1).add("--preload", str(script))
    try:
        with pytest.raises(StudyError, match=said) as caught:
            study.run(spec(), tmp_path / "s.sqlite", backend=cluster.backend)
    finally:
        other.kill()
        other.wait()
    assert "\n" not in str(caught.value)
    assert not records(tmp_path / "s.sqlite")


def test_an_interrupt_and_a_failing_trial_keep_what_is_done(cluster: Cluster, tmp_path: Path, user: ModuleType) -> None:
    cluster.at_least(1)

    def stop(done: int, total: int, record: Any) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.run(spec(), tmp_path / "s.sqlite", backend=cluster.backend, on_progress=stop)
    calls: list[int] = []
    result = study.run(spec(time="1h"), tmp_path / "s.sqlite", backend=cluster.backend, on_progress=lambda done, *_: calls.append(done))
    assert calls == list(range(4, 25))
    assert table(result) == table(study.run(spec(), jobs=1))
    with pytest.raises(StudyError, match=r"trial objectives_of_a_user:late, seed 0, .* failed: RuntimeError: late trouble"):
        study.run(spec(objectives="cross_entropy,objectives_of_a_user:late", seeds=1), tmp_path / "s.sqlite", backend=cluster.backend)


def test_trials_that_take_workers_down_are_given_up_in_one_line(cluster: Cluster, modules: Path) -> None:
    cluster.at_least(3)
    (modules / "deadly_module.py").write_text(
        f"import os, signal\ndef loss(logits, target):\n    if os.getpid() != {os.getpid()}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return logits.square().mean()\n"
    )
    with pytest.raises(StudyError, match="gave up trials that several workers went down with") as caught:
        study.run(spec(objectives="cross_entropy,deadly_module:loss", seeds=1), backend=cluster.backend)
    assert "\n" not in str(caught.value)


def test_the_scheduler_is_lost(tmp_path: Path, sleepy: str) -> None:
    asked = spec(objectives=sleepy, seeds=4)
    cluster = cluster_in(tmp_path).at_least(1)

    def kill(done: int, total: int, record: Any) -> None:
        if done == 4:
            cluster.scheduler.kill()

    try:
        with pytest.raises(StudyError, match=r"the Dask scheduler at .* was lost; what was done is kept") as caught:
            study.run(asked, tmp_path / "s.sqlite", backend=cluster.backend, on_progress=kill)
    finally:
        cluster.end()
    assert "\n" not in str(caught.value)
    calls: list[int] = []
    result = study.run(asked, tmp_path / "s.sqlite", jobs=1, on_progress=lambda done, *_: calls.append(done))
    assert 4 <= calls[0] < 16
    assert calls[-1] == 16
    assert table(result) == table(study.run(asked, jobs=1))


def test_no_scheduler_or_no_workers_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lossmith.study.cluster.PATIENCE", 0.5)
    with pytest.raises(StudyError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        study.run(spec(), backend="dask://127.0.0.1:9")
    cluster = cluster_in(tmp_path)
    try:
        with pytest.raises(StudyError, match="has no workers: start some with `dask worker"):
            study.run(spec(), backend=cluster.backend)
    finally:
        cluster.end()
