"""Where trials are computed: how a back end is named, what is refused, and back ends of joblib that do not stream."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from lossmith import study
from lossmith.study import StudyError, StudyResult, StudySpec
from lossmith.study.backends import Backend
from lossmith.study.shipment import Code, Shipment, code_of, differing, versions
from lossmith.study.workers import Workers


def spec(**changes: Any) -> StudySpec:
    options = {"data": "wine", "objectives": "cross_entropy,gce:q=0.7", "model": "linear", "seeds": 2, "epochs": 2}
    return StudySpec(**options | {"learning_rates": [0.01, 0.1]} | changes)


def table(result: StudyResult) -> str:
    return result.table().to_csv()


@pytest.mark.parametrize(
    ("text", "kind", "address"),
    [
        ("local", "local", None),
        ("dask://head:8786", "dask", "tcp://head:8786"),
        ("dask+tls://[::1]:8786", "dask", "tls://[::1]:8786"),
        ("ray", "ray", None),
        ("ray://head:10001", "ray", "ray://head:10001"),
        ("spark", "spark", None),
    ],
)
def test_names_of_back_ends(text: str, kind: str, address: str | None) -> None:
    assert Backend.parse(text) == Backend(kind, address)  # pyrefly: ignore[bad-argument-type]


@pytest.mark.parametrize(
    "text", ["", "dask", "loky", "spark://head:1", "local://x", "dask://", "http://head:8786", "dask://head", "dask://head:x"]
)
def test_what_is_no_back_end_is_one_line(text: str) -> None:
    with pytest.raises(StudyError, match="--backend"):
        Backend.parse(text)


def test_jobs_are_for_this_machine() -> None:
    with pytest.raises(StudyError, match="jobs counts processes of this machine"):
        study.run(spec(), jobs=2, backend="dask://127.0.0.1:9")


@pytest.mark.parametrize(
    ("backend", "package", "line"),
    [
        ("dask://127.0.0.1:9", "distributed", r'pip install "lossmith\[cluster\]"'),
        ("ray", "ray", "pip install"),
        ("spark", "joblibspark", "pip install joblibspark"),
    ],
)
def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch, backend: str, package: str, line: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(StudyError, match=line) as caught:
        study.run(spec(), backend=backend)
    assert package in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.subprocess
def test_a_back_end_of_joblib_that_gives_nothing_before_all_is_done(tmp_path: Path) -> None:
    """Ray's and Spark's are such; multiprocessing is the one that joblib brings."""
    from joblib import parallel_config

    calls: list[int] = []
    with parallel_config(backend="multiprocessing"):
        result = study.run(spec(), tmp_path / "s.sqlite", jobs=2, on_progress=lambda done, *_: calls.append(done))
    assert calls == list(range(9))
    assert table(result) == table(study.run(spec(), jobs=1))


def test_threads_of_one_process_do_not_mix_their_random_numbers(user: ModuleType) -> None:
    from joblib import parallel_config

    asked = spec(objectives="cross_entropy,objectives_of_a_user:noisy", model="objectives_of_a_user:with_dropout")
    with parallel_config(backend="threading"):
        threaded = study.run(asked, jobs=2)
    assert table(threaded) == table(study.run(asked, jobs=1))


@pytest.mark.parametrize("address", [None, "ray://head:10001"])
def test_ray_is_reached_and_left(monkeypatch: pytest.MonkeyPatch, address: str | None) -> None:
    """Ray itself is not among the test dependencies: what is asked of it is recorded, and joblib's own processes do the work."""
    from joblib import register_parallel_backend
    from joblib.parallel import BACKENDS, SequentialBackend

    asked: list[Any] = []
    ray = SimpleNamespace(
        is_initialized=lambda: False, init=lambda **given: asked.append(given["address"]), shutdown=lambda: asked.append("left"),
        exceptions=SimpleNamespace(RayError=type("RayError", (Exception,), {})),
    )  # fmt: skip
    register = SimpleNamespace(register_ray=lambda: register_parallel_backend("ray", SequentialBackend))
    for name, module in {"ray": ray, "ray.util": SimpleNamespace(), "ray.util.joblib": register}.items():
        monkeypatch.setitem(sys.modules, name, module)
    try:
        result = study.run(spec(), backend=address or "ray")
    finally:
        BACKENDS.pop("ray", None)
    assert asked == [address, "left"]
    assert table(result) == table(study.run(spec(), jobs=1))


@pytest.mark.subprocess
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("backend", "packages"), [("ray", ["ray"]), ("spark", ["joblibspark", "pyspark"])])
def test_ray_and_spark_themselves(user: ModuleType, tmp_path: Path, backend: str, packages: list[str]) -> None:
    """Where they are installed: the user's own module travels, every trial is stored once, and the numbers are those of this process."""
    for package in packages:
        pytest.importorskip(package, reason=f"{package} is not installed: --backend {backend} is tried with stand-ins alone")
    if backend == "spark" and shutil.which("java") is None:
        pytest.skip("Spark needs Java, which is not installed")
    asked = spec(objectives="cross_entropy,objectives_of_a_user:plain")
    result = study.run(asked, tmp_path / "s.sqlite", backend=backend)
    assert table(result) == table(study.run(asked, jobs=1))
    with study.Store(tmp_path / "s.sqlite") as store:
        assert len(list(store.rows())) == 8


def test_workers_with_something_else_are_found_out() -> None:
    ours = versions()
    assert differing(dict(ours), ours) == ""
    assert differing({**ours, "torch": "2.0.0"}, ours) == f"has torch 2.0.0 where this process has {ours['torch']}"
    assert differing({key: value for key, value in ours.items() if key != "torch"}, ours) == "has no torch"
    assert "lossmith code" in differing({**ours, "lossmith code": "0" * 12}, ours)


def test_a_worker_that_joins_late_with_something_else_fails_its_trials_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was not there when workers were checked, so that it checks itself."""

    @contextmanager
    def cluster(self: Backend, jobs: int, shipment: Shipment, modules: Any) -> Iterator[Workers]:
        assert shipment.versions is not None
        object.__setattr__(shipment, "versions", {**shipment.versions, "torch": "9.9"})
        yield Workers(1)

    monkeypatch.setattr(Backend, "opened", cluster)
    with pytest.raises(StudyError, match=r"trial cross_entropy, seed 0, .* failed: worker .* has torch .* where this process has 9\.9"):
        study.run(spec(), backend="dask://127.0.0.1:9")


def test_the_code_that_travels_is_the_user_s_own(user: ModuleType) -> None:
    code = code_of(spec(objectives="cross_entropy,objectives_of_a_user:plain", model="objectives_of_a_user:broken"))
    assert "objectives_of_a_user.py" in code.files
    assert not any("lossmith" in name or "torch/" in name for name in code.files)
    assert code_of(spec()).files == {}
    assert code_of(spec(objectives="torch.nn.functional:cross_entropy")).files == {}  # installed there as here


def test_unpacked_modules_take_the_place_of_those_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    for value in (1, 2):
        Code({"sent_module.py": f"VALUE = {value}\n".encode(), "sent_package/inner/x.py": b""}).unpack()
        import sent_module  # pyrefly: ignore[missing-import]

        assert sent_module.VALUE == value
    assert sum("lossmith-" in folder for folder in sys.path) == 1
    sys.modules.pop("sent_module")


@pytest.mark.subprocess
@pytest.mark.parametrize("how", [{}, {"tuner": "optuna"}, {"tune_once": True}], ids=str)
def test_a_search_has_the_same_numbers_on_two_processes(how: dict[str, Any]) -> None:
    asked = spec(learning_rates=None, configurations=3, objectives="cross_entropy,gce", **how)
    assert table(study.run(asked, jobs=2, backend="local")) == table(study.run(asked, jobs=1))
