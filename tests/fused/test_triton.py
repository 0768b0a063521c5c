"""The Triton kernels: run by Triton's interpreter against the dense computation, and compiled for a GPU that need not be there.

A kernel is interpreted or compiled as TRITON_INTERPRET says when it is defined; so the cases under the interpreter run in a process of
their own, `tests/fused/interpreted.py`, all in one.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import lossmith
from lossmith.fused import LinearLogits, backend, explain
from tests.fused.heads import problem

HERE = Path(__file__).parent


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    root = str(HERE.parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=root, env=os.environ | {"PYTHONPATH": path, **environment})


@pytest.mark.subprocess
def test_under_the_interpreter():
    pytest.importorskip("triton")
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(HERE / "interpreted.py"), TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.subprocess
def test_every_kernel_compiles_for_hopper():
    """To machine code, within the shared memory of an H100, on the tensor cores, with registers to spare in the plain case."""
    pytest.importorskip("triton")
    done = run(str(HERE / "compiled.py"))
    if done.returncode == 77:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def test_tensors_on_the_cpu_are_left_to_chunked_torch():
    assert explain(LinearLogits(*problem(9).inputs)).backend == "chunked torch"


def test_what_cannot_be_followed_is_one_line():
    p = problem(9)
    with backend("triton"):
        for call in (lambda: explain(LinearLogits(*p.inputs)), lambda: lossmith.cross_entropy(LinearLogits(*p.inputs), p.target)):
            with pytest.raises(ValueError, match="backend 'triton' cannot be followed: hidden states are on cpu") as caught:
                call()
            assert "\n" not in str(caught.value)
    lossmith.cross_entropy(LinearLogits(*p.inputs), p.target)  # as before


def test_a_choice_may_be_for_good():
    before = backend("torch")
    try:
        assert explain(LinearLogits(*problem(9).inputs)).backend == "chunked torch"
    finally:
        before.__exit__()


@pytest.mark.untyped
def test_a_back_end_that_there_is_not():
    with pytest.raises(ValueError, match="backend: name must be one of 'auto', 'torch', 'triton'; got 'trition'; did you mean 'triton'"):
        backend("trition")


@pytest.mark.untyped  # stand-ins for tensors of a device that is not there
@pytest.mark.skipif("dtype_out" not in torch.ops.aten.addmm.overloads(), reason="such a PyTorch is refused first of all")
def test_the_choice_and_its_reason(monkeypatch):
    """On a GPU that is not there: what is asked is the device's type and the versions."""
    from types import SimpleNamespace

    from lossmith.fused import backends

    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(backends, "_capability", lambda device: (9, 0))

    def tensor(dtype):
        return SimpleNamespace(device=torch.device("cuda:0"), dtype=dtype)

    half, double = tensor(torch.bfloat16), tensor(torch.float64)
    monkeypatch.setattr(backends, "_INSTALLED", True)
    assert backends.chosen(half, half) == ("triton", "")
    assert backends.chosen(double, double) == ("torch", "torch.float64 is left to chunked torch")
    with backend("torch"):
        assert backends.chosen(half, half) == ("torch", "")
    monkeypatch.setattr(backends, "_capability", lambda device: (7, 5))
    assert backends.chosen(half, half) == ("torch", "the GPU is older than compute capability 8.0")
    monkeypatch.setattr(backends, "_INSTALLED", False)
    assert backends.chosen(half, half) == ("torch", "triton is not installed")


def test_importing_the_library_imports_no_triton():
    done = run("-c", "import sys, lossmith.fused; print('lossmith.fused.triton.engine' in sys.modules)")
    assert done.stdout.split() == ["False"], done.stderr
