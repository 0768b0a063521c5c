"""Rows shorter than a vector: the same bits by another way, whatever the processor."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from lossmith import _log_softmax
from lossmith._log_softmax import WORTHWHILE, log_softmax


def drawn(n: int, c: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    z = 5 * torch.randn(n, c, generator=torch.Generator().manual_seed(n * c), dtype=torch.float64).to(dtype)
    z[::7, 0], z[3, 1] = -torch.inf, 300.0
    return z.requires_grad_()


def both(z: torch.Tensor) -> None:
    n, c = z.shape
    slope = torch.randn(n, c, generator=torch.Generator().manual_seed(n), dtype=z.dtype)
    ours, theirs = log_softmax(z, 1, z.dtype), F.log_softmax(z, 1)
    assert torch.equal(ours, theirs)
    assert ours.shape == (n, c)
    assert ours.is_contiguous()
    (got,), (wanted,) = torch.autograd.grad(ours, z, slope), torch.autograd.grad(theirs, z, slope)
    assert torch.equal(got, wanted)
    assert got.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [0, 1, 5, 15], ids=lambda spare: f"{spare} beyond whole vectors")
@pytest.mark.parametrize("c", range(2, 20))
def test_value_and_gradient_are_torchs_to_the_bit(c: int, rows: int, dtype: torch.dtype) -> None:
    both(drawn(16 * (WORTHWHILE // c // 16 + 2) + rows, c, dtype))


@pytest.mark.parametrize("strides", ["columns", "every other row"])
def test_logits_may_lie_anyhow(strides: str) -> None:
    z = drawn(4096, 10).detach()
    laid = z.t().contiguous().t() if strides == "columns" else z.repeat_interleave(2, 0)[::2]
    both(laid.requires_grad_())


def test_short_rows_do_go_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the tests above compare torch with itself."""
    axes: list[int] = []
    real = F.log_softmax

    def spy(z: torch.Tensor, axis: int, **options: torch.dtype) -> torch.Tensor:
        axes.append(axis)
        return real(z, axis, **options)

    monkeypatch.setattr(_log_softmax.F, "log_softmax", spy)
    monkeypatch.setattr(_log_softmax, "_lanes", lambda dtype: 16)
    log_softmax(drawn(1000, 10), 1, torch.float32)
    log_softmax(drawn(100, 10), 1, torch.float32)  # so few that the calls would cost more
    log_softmax(drawn(1000, 16), 1, torch.float32)  # torch adds lane by lane, and so in another order
    log_softmax(drawn(1000, 10).to(torch.bfloat16), 1, torch.float32)
    log_softmax(drawn(1000, 10).as_subclass(Other), 1, torch.float32)  # spread over ranks, say, and not to be flattened
    assert axes == [0, 1, 1, 1, 1]


class Other(torch.Tensor):
    """A kind of tensor that is not torch's own."""

    __torch_function__ = torch._C._disabled_torch_function_impl


@pytest.mark.compile
@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
@pytest.mark.parametrize("rows", [8, 1000])
@pytest.mark.parametrize("way", ["torch.compile", "torch.export", "torch.export, strict", "torch.jit.trace"])
def test_what_is_traced_takes_any_number_of_rows(way: str, rows: int) -> None:
    """Few rows and many alike: the size from which the other way is worthwhile is no part of what was traced."""

    class Whole(torch.nn.Module):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return log_softmax(z, 1, torch.float32)

    z, others = drawn(rows, 10).detach(), drawn(1008 - rows, 10).detach()
    if way == "torch.compile":
        torch._dynamo.reset()
        traced = torch.compile(Whole(), backend="eager", fullgraph=True, dynamic=True)
    elif way == "torch.jit.trace":
        traced = torch.jit.trace(Whole(), (z,), check_trace=False)
    else:
        sizes = {"z": {0: torch.export.Dim("n", max=10_000)}}
        traced = torch.export.export(Whole(), (z,), dynamic_shapes=sizes, strict=way.endswith("strict")).module()
    for some in (z, others):
        assert torch.equal(traced(some), F.log_softmax(some, 1))


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # torch's own, from forward over reverse
def test_derivatives_of_every_kind_pass_through() -> None:
    z = drawn(1000, 9, torch.float64)[1:3].detach().repeat(500, 1)
    z[3, 1], z[:, 0] = 1.0, 0.5
    v = torch.randn_like(z)

    def loss(f):
        return lambda x: (f(x).exp() * f(x)).sum()

    ours, theirs = loss(lambda x: log_softmax(x, 1, x.dtype)), loss(lambda x: F.log_softmax(x, 1))
    for transform in (torch.func.grad, lambda f: lambda x: torch.func.jvp(f, (x,), (v,))[1]):
        assert torch.allclose(transform(ours)(z), transform(theirs)(z), rtol=1e-12, atol=1e-14)
    second = [torch.func.jvp(torch.func.grad(f), (z,), (v,))[1] for f in (ours, theirs)]
    assert torch.allclose(*second, rtol=1e-10, atol=1e-12)
    many = z.expand(3, -1, -1)
    assert torch.equal(torch.func.vmap(torch.func.grad(ours))(many)[2], torch.func.grad(ours)(z))


PROGRAM = """
import torch
from lossmith import _log_softmax
import tests.ground.test_log_softmax as here
assert _log_softmax._lanes(torch.float32) == {lanes}
for c in range(2, 20):
    here.both(here.drawn(_log_softmax.WORTHWHILE // c + 3, c))
"""


@pytest.mark.subprocess
@pytest.mark.parametrize(("name", "lanes"), [("AVX2", 8), ("DEFAULT", 0)])
def test_a_processor_with_shorter_vectors(name: str, lanes: int) -> None:
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip(f"this processor has no {name} to ask for")
    program = PROGRAM.format(lanes=lanes)
    environment = {"PATH": "", "ATEN_CPU_CAPABILITY": name.lower(), "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
