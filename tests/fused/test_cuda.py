"""The Triton kernels for real, at sizes that a GPU is for. Skipped, visibly, where there is none."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

import lossmith
from lossmith.fused import LinearLogits, backend, explain, linear_log_prob, linear_stats
from tests.fused.heads import Problem, gradients, leaf
from tests.fused.kernels import TOLERANCE, Case, everything, near

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@pytest.fixture(autouse=True)
def by_triton() -> Iterator[None]:
    """An error where the kernels cannot be had, and no other way round them."""
    pytest.importorskip("triton")
    with backend("triton"):
        yield


@contextmanager
def never_waiting() -> Iterator[None]:
    """Any operation that waits for the device raises."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def problem(rows: int, width: int, classes: int, dtype: torch.dtype) -> Problem:
    """Logits of standard deviation 2, made on the device."""
    g = torch.Generator("cuda").manual_seed(0)
    hidden = torch.randn(rows, width, device="cuda", generator=g)
    weight, bias = torch.randn(classes, width, device="cuda", generator=g) * (2 / width**0.5), torch.zeros(classes, device="cuda")
    target = torch.randint(classes, (rows,), device="cuda", generator=g)
    target[::5] = -100
    return Problem(leaf(hidden.to(dtype)), leaf(weight.to(dtype)), leaf(bias.to(dtype)), target)


def test_the_kernels_are_what_is_chosen_there():
    p = problem(64, 32, 100, torch.bfloat16)
    with backend("auto"):
        assert explain(LinearLogits(*p.inputs)).backend == "Triton kernels and cuBLAS"
        double = explain(LinearLogits(*p.to(torch.float64).inputs)).backend
        assert double == "chunked torch (since torch.float64 is left to chunked torch)"


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize(("rows", "width", "classes"), [(300, 72, 1100), (37, 33, 259), (1, 16, 5000), (700, 128, 3)])
def test_every_statistic_and_its_gradient(dtype, softcap, rows, width, classes):
    everything(Case.of(rows, dtype, "cuda", width=width, classes=classes, scale=0.3), softcap=softcap, weighted=softcap is not None)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", ["cross_entropy", "focal_loss"])
def test_an_objective_at_a_large_vocabulary(dtype, name):
    p = problem(1000, 512, 32_003, dtype)
    function = getattr(lossmith, name)
    found = function(LinearLogits(*p.inputs), p.target)
    wide = p.to(torch.float64)
    expected = function(wide.hidden @ wide.weight.T + wide.bias, wide.target)
    near(found, expected, 2e-6)
    for mine, theirs in zip(gradients(found, p.inputs), gradients(expected, wide.inputs), strict=True):
        near(mine, theirs, TOLERANCE[dtype])


@pytest.mark.parametrize("name", ["cross_entropy", "focal_loss"])
def test_more_logits_than_32_bits_can_count(name):
    """70000 x 32000 > 2^31: the last rows and classes are right, too."""
    p = problem(70_000, 64, 32_000, torch.bfloat16)
    function = getattr(lossmith, name)
    hidden, weight = p.hidden, p.weight
    loss = function(LinearLogits(hidden, weight), p.target, reduction="sum")
    of_hidden, of_weight = gradients(loss, (hidden, weight))
    x, w = leaf(hidden[-1000:].double()), leaf(weight.double())
    part = function(x @ w.T, p.target[-1000:], reduction="sum")
    near(of_hidden[-1000:], gradients(part, (x,), retain_graph=True)[0], TOLERANCE[torch.bfloat16])
    total = torch.zeros_like(w)
    for some, y in zip(hidden.double().split(5000), p.target.split(5000), strict=True):
        total += gradients(function(some.detach() @ w.T, y, reduction="sum"), (w,))[0]
    near(of_weight, total, TOLERANCE[torch.bfloat16])


@pytest.mark.parametrize("name", ["cross_entropy", "focal_loss"])
def test_no_call_waits_for_the_gpu(name):
    p = problem(512, 128, 5000, torch.bfloat16)
    function = getattr(lossmith, name)

    def step():
        return gradients(function(LinearLogits(*p.inputs), p.target), p.inputs)

    step()  # compiles and loads the kernels
    torch.cuda.synchronize()
    with never_waiting():
        step()


def test_statistics_do_not_wait_either():
    p = problem(512, 128, 5000, torch.bfloat16)

    def step():
        found = linear_stats(p.hidden, p.weight, p.target, want=("log_prob", "logsumexp", "entropy"), temperatures=(2.0,))
        gradients((found.log_prob + found.logsumexp**2 + found.entropy + found.logsumexp_at.sum(-1)).sum(), p.inputs[:2])

    step()
    torch.cuda.synchronize()
    with never_waiting():
        step()


@pytest.mark.parametrize("name", ["cross_entropy", "focal_loss"])
def test_no_logits_are_held(name):
    """16384 x 64000 logits are 4 GiB in float32."""
    p = problem(16_384, 256, 64_000, torch.bfloat16)
    source = LinearLogits(p.hidden, p.weight)
    plan = explain(source, loss="sum" if name == "cross_entropy" else "rows")
    getattr(lossmith, name)(LinearLogits(p.hidden[:256], p.weight), p.target[:256]).backward()
    p.hidden.grad = p.weight.grad = None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    getattr(lossmith, name)(source, p.target).backward()
    assert torch.cuda.max_memory_allocated() - before < 1.3 * (plan.gradients + plan.buffers) + 64 * 2**20


def test_a_confident_row_keeps_its_digits():
    lead = 46.0
    weight, hidden = (
        leaf(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.5]], device="cuda")),
        leaf(torch.tensor([[lead, 0.0]], device="cuda")),
    )
    loss = lossmith.cross_entropy(LinearLogits(hidden, weight), torch.tensor([0], device="cuda"))
    q = torch.tensor(-lead, dtype=torch.float64).exp().item()
    torch.testing.assert_close(loss.item(), 2 * q, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradients(loss, (hidden,))[0][0].tolist(), [-2 * q, 1.5 * q], rtol=2e-5, atol=0)


def test_ignored_rows_hold_anything_and_all_may_be_ignored():
    p = problem(600, 64, 3000, torch.bfloat16)
    target = torch.where(torch.arange(600, device="cuda") % 3 == 0, p.target, -100)
    dirty = leaf(torch.where((target >= 0)[:, None], p.hidden.detach(), float("nan")))
    clean, soiled = (lossmith.focal_loss(LinearLogits(h, p.weight), target) for h in (p.hidden, dirty))
    assert torch.equal(clean, soiled)
    of_hidden, of_weight = gradients(soiled, (dirty, p.weight))
    assert torch.equal(of_weight, gradients(clean, (p.weight,))[0])
    assert (of_hidden[target < 0] == 0).all()
    assert lossmith.cross_entropy(LinearLogits(p.hidden, p.weight), torch.full_like(target, -100)) == 0


def test_the_same_numbers_from_run_to_run():
    p = problem(600, 64, 30_000, torch.bfloat16)
    values = [linear_log_prob(p.hidden, p.weight, p.target) for _ in range(2)]
    assert torch.equal(*values)
    assert all(torch.equal(a, b) for a, b in zip(*(gradients(v.sin().sum(), p.inputs[:2]) for v in values), strict=True))


def test_the_backends_agree():
    p = problem(600, 64, 3000, torch.float32)
    found = []
    for name in ("torch", "triton"):
        with backend(name):
            value = lossmith.focal_loss(LinearLogits(*p.inputs), p.target)
            found.append((value.detach(), *gradients(value, p.inputs)))
    for mine, theirs in zip(*found, strict=True):
        near(mine, theirs, 5e-6)


@pytest.mark.compile
def test_it_compiles_there():
    p = problem(512, 64, 3000, torch.bfloat16)
    whole = torch.compile(lambda h, w: lossmith.focal_loss(LinearLogits(h, w), p.target), fullgraph=True)
    value = whole(p.hidden, p.weight)
    torch.testing.assert_close(value, lossmith.focal_loss(LinearLogits(p.hidden, p.weight), p.target), rtol=1e-5, atol=1e-6)
    value.backward()
    assert p.weight.grad is not None


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU here")
def test_a_device_that_is_not_the_current_one():
    p = Problem(
        *(leaf(t.detach().to("cuda:1")) for t in problem(64, 32, 100, torch.float32).inputs), torch.randint(100, (64,), device="cuda:1")
    )
    with torch.cuda.device(0):
        found = linear_log_prob(p.hidden, p.weight, p.target)
    near(found, -torch.nn.functional.cross_entropy(p.hidden.double() @ p.weight.double().T, p.target, reduction="none"), 2e-6)
