"""Logits kept in the room of the head's gradient: the same numbers, one product fewer, hardly more memory."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import lossmith
from lossmith.fused import LinearLogits, explain, linear_log_prob, room, tiles
from tests.fused.heads import Problem, assert_close, dense, gradients, leaf, log_prob, most_held, problem

ROWS = 16
"""Of a block, where only some rows are to be kept."""


@pytest.fixture(params=["all rows kept", "some rows kept"])
def p(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Problem:
    if request.param == "all rows kept":
        return problem(30, width=31, classes=1100)  # three tiles, the last one narrow
    for module in (room, tiles):
        monkeypatch.setattr(module, "ROWS", ROWS)
    return problem(75, width=35, classes=1100)  # 60 rows with a label: 32 kept, 28 computed again


def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many logits every product computes, in their order."""
    found: list[int] = []
    real = tiles.Head.raw

    def raw(self: tiles.Head, x: torch.Tensor, start: int, stop: int, out: torch.Tensor) -> torch.Tensor:
        found.append(out.numel())
        return real(self, x, start, stop, out)

    monkeypatch.setattr(tiles.Head, "raw", raw)
    return found


LOSSES = {
    "rows": lambda z, y: lossmith.focal_loss(z, y),
    "smoothing": lambda z, y: lossmith.cross_entropy(z, y, label_smoothing=0.2),
    "class weights": lambda z, y: lossmith.cross_entropy(z, y, label_smoothing=0.2, weight=torch.linspace(0, 2, 1100, dtype=z.dtype)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_the_dense_computation(p: Problem, name: str) -> None:
    source = LinearLogits(*p.inputs)
    assert explain(source, loss="rows").path == "kept"
    found = gradients(LOSSES[name](source, p.target), p.inputs)
    assert_close(found, gradients(LOSSES[name](dense(p), p.target), p.inputs))


def everything(p: Problem, schedule: str, **how: object) -> torch.Tensor:
    """A loss of every statistic."""
    want = ("log_prob", "logsumexp", "entropy", "mean_logit", "target_logit")
    found = LinearLogits(*p.inputs, schedule=schedule, **how).row_stats(want, p.target, temperatures=(2.0, 3.0))
    return sum((k * getattr(found, name).sin()).sum() for k, name in enumerate(want, 1)) + found.logsumexp_at.sin().sum()


@pytest.mark.parametrize("how", [{}, {"softcap": 2.0}, {"temperature": 0.7}], ids=str)
def test_every_statistic_has_the_gradients_of_a_recomputation(p: Problem, how: dict[str, float]) -> None:
    kept, again = (gradients(everything(p, schedule, **how), p.inputs) for schedule in ("auto", "recompute"))
    assert_close(kept, again, 1e-12)


def test_learnt_class_weights(p: Problem) -> None:
    v = leaf(torch.linspace(0, 2, 1100, dtype=torch.float64))
    found, expected = (
        gradients(lossmith.cross_entropy(z, p.target, label_smoothing=0.2, weight=v), (*p.inputs, v))
        for z in (LinearLogits(*p.inputs), dense(p))
    )
    assert_close(found, expected)


def test_a_learnt_softcap_and_temperature(p: Problem) -> None:
    cap, temperature = leaf(torch.tensor(2.0, dtype=torch.float64)), leaf(torch.tensor(0.7, dtype=torch.float64))
    inputs = (*p.inputs, cap, temperature)
    fused = LinearLogits(*p.inputs, softcap=cap, temperature=temperature)
    assert explain(fused).path == "kept"
    found = gradients(lossmith.cross_entropy(fused, p.target), inputs)
    assert_close(found, gradients(lossmith.cross_entropy(dense(p, temperature, cap), p.target), inputs))


@pytest.mark.parametrize("asked", [(True, True, False), (False, True, False), (False, True, True)])
def test_gradients_that_nobody_asks_for(p: Problem, asked: tuple[bool, bool, bool]) -> None:
    for tensor, wanted in zip(p.inputs, asked, strict=True):
        tensor.requires_grad_(wanted)
    inputs = tuple(tensor for tensor in p.inputs if tensor.requires_grad)
    found = gradients(lossmith.focal_loss(LinearLogits(*p.inputs), p.target), inputs)
    assert_close(found, gradients(lossmith.focal_loss(dense(p), p.target), inputs))


def test_logits_of_rows_that_are_kept_are_computed_once(p: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = calls(monkeypatch)
    value = lossmith.focal_loss(LinearLogits(*p.inputs), p.target)
    labelled = int((p.target >= 0).sum())
    assert sum(seen) == labelled * 1100
    seen.clear()
    value.backward()
    kept = labelled if labelled <= 31 else 2 * ROWS
    assert sum(seen) == (labelled - kept) * 1100


def test_rows_far_from_their_label_are_done_again_and_keep_their_logits() -> None:
    p = problem(20, width=24, classes=700, scale=9.0, ignored=False)  # logits to some hundreds
    found = gradients(lossmith.generalized_cross_entropy(LinearLogits(*p.inputs), p.target, q=0.3), p.inputs)
    assert_close(found, gradients(lossmith.generalized_cross_entropy(dense(p), p.target, q=0.3), p.inputs))


def test_no_row_with_a_label() -> None:
    p = problem(6, width=8)
    value = lossmith.focal_loss(LinearLogits(*p.inputs), torch.full((6,), -100))
    assert all((g == 0).all() for g in gradients(value, p.inputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtypes(dtype: torch.dtype) -> None:
    p = problem(30, width=31, classes=600, scale=0.3).to(dtype)
    found = gradients(lossmith.focal_loss(LinearLogits(*p.inputs), p.target), p.inputs)
    assert all(g.dtype == dtype for g in found)
    again = gradients(lossmith.focal_loss(LinearLogits(*p.inputs, schedule="recompute"), p.target), p.inputs)
    for a, b in zip(found, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5 if dtype == torch.float32 else 8e-3, atol=1e-7)


def test_a_second_backward_pass_computes_again(p: Problem) -> None:
    value = lossmith.focal_loss(LinearLogits(*p.inputs), p.target)
    first = gradients(value, p.inputs, retain_graph=True)
    kept = tuple(g.clone() for g in first)
    for g in first:
        g.zero_()  # whoever gets them may write in them, the room itself among them
    assert_close(gradients(value, p.inputs), kept, 1e-12)


def test_gradients_can_be_differentiated() -> None:
    p = problem(9, width=10)
    penalties = []
    for z in (LinearLogits(*p.inputs), dense(p)):
        value = lossmith.focal_loss(z, p.target)
        slopes = gradients(value, p.inputs, create_graph=True)
        penalties.append(gradients(value + sum((g**2).sum() for g in slopes), p.inputs))
    assert_close(*penalties)


def test_many_upstream_gradients_at_once() -> None:
    p = problem(6, width=8, ignored=False)
    many = torch.eye(6, dtype=torch.float64)
    found = torch.autograd.grad(linear_log_prob(*p.inputs[:2], p.target, p.bias), p.inputs, many, is_grads_batched=True)
    assert_close(found, torch.autograd.grad(log_prob(dense(p), p.target), p.inputs, many, is_grads_batched=True))


def path(p: Problem, **how: object) -> str:
    return explain(LinearLogits(*p.inputs, **how), loss="rows").path


def test_a_head_has_one_room() -> None:
    """Of two calls that wait for their backward passes, as in DPO, the second computes again: no more memory than both would need."""
    p = problem(8, width=9)
    first = lossmith.focal_loss(LinearLogits(*p.inputs), p.target)
    assert path(p) == "recompute"
    assert path(problem(8, width=9)) == "kept"
    second = lossmith.focal_loss(LinearLogits(*p.inputs, temperature=2.0), p.target)
    found = gradients(first + second, p.inputs)
    expected = lossmith.focal_loss(dense(p), p.target) + lossmith.focal_loss(dense(p, 2.0), p.target)
    assert_close(found, gradients(expected, p.inputs))
    assert path(p) == "kept"
    third = lossmith.focal_loss(LinearLogits(*p.inputs), p.target)
    assert path(p) == "recompute"
    del third  # never differentiated
    gc.collect()
    assert path(p) == "kept"


def test_who_keeps_nothing() -> None:
    p = problem(8, width=9)
    assert path(p, memory=8 * 11 * 8) == "kept"
    assert path(p, memory=8 * 11 * 8 - 1) == "recompute"
    assert path(p, schedule="recompute") == "recompute"
    assert path(problem(300, width=9)) == "recompute"  # no block of rows fits
    assert path(problem(0, width=9)) == "recompute"
    with torch.no_grad():
        assert path(p) == "value"
    seen = []
    torch.func.grad(lambda h: seen.append(path(p._replace(hidden=h))) or h.sum())(p.hidden.detach())
    assert seen == ["recompute"]


@pytest.mark.compile
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # what Dynamo does with a Function
def test_compiled_code_computes_again() -> None:
    """The compiler decides what is kept."""
    p = problem(8, width=9)
    value = torch.compile(lambda: lossmith.focal_loss(LinearLogits(*p.inputs), p.target), backend="aot_eager", fullgraph=True)()
    assert path(p) == "kept"  # no room is held
    assert_close(gradients(value, p.inputs), gradients(lossmith.focal_loss(dense(p), p.target), p.inputs))


def test_a_checkpoint_around_the_head() -> None:
    """Its second forward pass finds the room held by the first."""
    p = problem(8, width=9)
    value = checkpoint(lambda h: lossmith.focal_loss(LinearLogits(h.tanh(), *p.inputs[1:]), p.target), p.hidden, use_reentrant=False)
    expected = lossmith.focal_loss(dense(p._replace(hidden=p.hidden.tanh())), p.target)
    assert_close(gradients(value, p.inputs), gradients(expected, p.inputs))


def test_the_gradient_is_the_room_itself() -> None:
    """61 MB, once; logits of 64 rows lie in it, and tiles beside it."""
    hidden, weight = leaf(torch.randn(64, 256)), leaf(torch.randn(60_000, 256))
    target = torch.randint(60_000, (64,))
    assert explain(LinearLogits(hidden, weight), loss="rows").path == "kept"
    held = most_held(lambda: lossmith.focal_loss(LinearLogits(hidden, weight), target).backward())
    assert held < 4 * weight.numel() + 4 * 2**20


def test_no_collector_is_needed_to_be_rid_of_the_room(p: Problem) -> None:
    """A cycle would hold what is as large as the head until the next collection."""
    gc.collect()
    gc.disable()
    try:
        value = lossmith.focal_loss(LinearLogits(*p.inputs), p.target)
        assert room.is_held(p.weight)
        del value
        assert not room.is_held(p.weight)
        value = lossmith.focal_loss(LinearLogits(*p.inputs), p.target)
        value.backward()
        assert not room.is_held(p.weight)
    finally:
        gc.enable()


def test_many_threads_under_one_head() -> None:
    p = problem(20, width=24, classes=700)
    expected = gradients(lossmith.focal_loss(dense(p), p.target), p.inputs)

    def work(_: int) -> None:
        hidden = leaf(p.hidden)
        for _ in range(5):
            value = lossmith.focal_loss(LinearLogits(hidden, p.weight, p.bias), p.target)
            assert_close(gradients(value, (hidden, p.weight, p.bias)), expected)

    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(work, range(8)))) == 8
    assert not room.is_held(p.weight)


@pytest.mark.parametrize("temperatures", [(), (2.0, 3.0)])
def test_the_peak_is_above_that_of_a_recomputation_by_20_mib_at_most(temperatures: tuple[float, ...]) -> None:
    """Where what lies beside the room is as much as it may be."""
    hidden, weight = leaf(torch.randn(1448, 1448)), leaf(torch.randn(1100, 1448) / 38)
    target = torch.randint(1100, (1448,))
    assert explain(LinearLogits(hidden, weight), loss="rows").path == "kept"

    def step(schedule: str) -> None:
        source = LinearLogits(hidden, weight, schedule=schedule, softcap=3.0)
        found = source.row_stats(("log_prob", "entropy"), target, temperatures=temperatures)
        total = sum(part.sum() for part in found if part is not None)
        gradients(total, (hidden, weight))

    kept, again = (most_held(lambda how=how: step(how)) for how in ("auto", "recompute"))
    assert 0 < kept - again < 20 * 2**20


def test_kept_rows() -> None:
    assert room.kept_rows(512, 512, 4) == 512
    assert room.kept_rows(1024, 512, 4) == 512
    assert room.kept_rows(1024, 700, 4) == 512
    assert room.kept_rows(1024, 100, 4) == 0
    assert room.kept_rows(100, 100, 4) == 100
    assert room.kept_rows(8192, 4096, 4) == 512  # wider heads have dearer hidden states
    assert room.kept_rows(0, 100, 4) == 0
