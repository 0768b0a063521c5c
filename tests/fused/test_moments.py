"""Spherical objectives of a linear head by its moments, against the same of the logits themselves."""

from __future__ import annotations

import pytest
import torch

import lossmith
from lossmith.fused import LinearLogits, explain
from tests.fused.heads import assert_close, dense, gradients, problem

FAMILY = [lossmith.zscore_loss, lossmith.one_hot_squared_loss]


@pytest.mark.parametrize("loss", FAMILY)
@pytest.mark.parametrize("rows", [(), (7,), (2, 3), (40,)])
def test_value_and_gradients_are_those_of_the_logits(loss, rows):
    p = problem(*rows)
    temperature = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    inputs = (*p.inputs, temperature)
    fused = loss(LinearLogits(*p.inputs, temperature=temperature), p.target, reduction="sum")
    z = dense(p, temperature)
    expected = loss(z if z.ndim < 3 else z.movedim(-1, 1), p.target, reduction="sum")
    assert_close(fused, expected)
    if loss is lossmith.zscore_loss:  # a temperature changes nothing
        (found,), inputs = gradients(fused, (temperature,)), p.inputs
        assert found.abs() < 1e-12
        fused, expected = (loss(s, p.target, reduction="sum") for s in (LinearLogits(*p.inputs), z if z.ndim < 3 else z.movedim(-1, 1)))
    assert_close(gradients(fused, inputs), gradients(expected, inputs))


def test_without_a_bias_and_with_weights():
    p = problem(9)
    options = {"weight": torch.rand(11, dtype=torch.float64), "sample_weight": torch.rand(9, dtype=torch.float64), "reduction": "none"}
    fused = lossmith.zscore_loss(LinearLogits(p.hidden, p.weight), p.target, a=2.0, b=0.5, **options)
    assert_close(fused, lossmith.zscore_loss(p.hidden @ p.weight.T, p.target, a=2.0, b=0.5, **options))


def test_masked_rows_may_hold_anything_and_masked_classes_are_not_there():
    p = problem(6, ignored=False)
    hidden, bias, target = p.hidden.detach().clone(), p.bias.detach().clone(), p.target.clone()
    hidden[2], target[2], bias[4] = torch.nan, -100, -torch.inf
    target[target == 4] = 5
    hidden.requires_grad_()
    fused = lossmith.zscore_loss(LinearLogits(hidden, p.weight, bias), target)
    others = torch.arange(11) != 4
    kept = torch.arange(6) != 2
    z = (p.hidden @ p.weight.T + bias)[kept][:, others]
    assert_close(fused, lossmith.zscore_loss(z, target[kept] - (target[kept] > 4).long()))
    dx, dw = gradients(fused, (hidden, p.weight))
    assert dx[2].tolist() == [0.0] * 5
    assert dw[4].tolist() == [0.0] * 5
    assert dx.isfinite().all()
    assert lossmith.zscore_loss(LinearLogits(p.hidden, p.weight, bias), torch.full((6,), 4)).item() == pytest.approx(
        torch.nn.functional.softplus(torch.tensor(10.0).sqrt()).item(), rel=1e-6
    )  # the lowest of 11 scores


def test_a_large_mean_of_the_head_costs_no_digits():
    p = problem(8, width=6, classes=50, ignored=False)
    far = (p.weight.detach() + 1e3).float()
    expected = lossmith.zscore_loss(p.hidden.detach().float().double() @ far.double().T, p.target)
    assert lossmith.zscore_loss(LinearLogits(p.hidden.detach().float(), far), p.target).item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(dtype):
    p = problem(8, ignored=False)
    half = p.to(dtype)
    loss = lossmith.zscore_loss(LinearLogits(*half.inputs), p.target)
    assert loss.dtype == torch.float32
    expected = lossmith.zscore_loss(dense(half.to(torch.float64)), p.target)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert {g.dtype for g in gradients(loss, half.inputs)} == {dtype}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert lossmith.zscore_loss(LinearLogits(*half.inputs), p.target).item() == loss.item()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, on its first forward-mode derivative
def test_second_derivatives_forward_mode_and_transforms():
    p = problem(4, width=3, classes=5, ignored=False)

    def loss(hidden, weight, bias):
        return lossmith.zscore_loss(LinearLogits(hidden, weight, bias), p.target, reduction="sum")

    def of_logits(hidden, weight, bias):
        return lossmith.zscore_loss(hidden @ weight.T + bias, p.target, reduction="sum")

    assert torch.autograd.gradcheck(loss, p.inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(loss, p.inputs)
    assert_close(torch.func.grad(loss, (0, 1, 2))(*p.inputs), torch.func.grad(of_logits, (0, 1, 2))(*p.inputs))

    def one(hidden, target):
        return lossmith.zscore_loss(LinearLogits(hidden, p.weight, p.bias), target)

    each = torch.func.vmap(torch.func.grad(one))(p.hidden, p.target)
    assert_close(each, torch.func.grad(of_logits)(*p.inputs))


@pytest.mark.compile
def test_it_compiles_whole():
    p = problem(6)

    def loss(hidden, weight, bias):
        return lossmith.zscore_loss(LinearLogits(hidden, weight, bias), p.target)

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert_close(compiled(*p.inputs), loss(*p.inputs))
    assert_close(gradients(compiled(*p.inputs), p.inputs), gradients(loss(*p.inputs), p.inputs))


def test_a_softcap_and_a_schedule_are_refused():
    p = problem(3, ignored=False)
    with pytest.raises(ValueError, match="LinearLogits: the moments of softcapped logits need every logit"):
        lossmith.zscore_loss(LinearLogits(*p.inputs, softcap=3.0), p.target)
    source = LinearLogits(*p.inputs, schedule="forward")
    assert explain(source).path == "forward"
    with pytest.raises(ValueError, match="LinearLogits: schedule='forward' cannot be followed: a spherical objective computes no logits"):
        lossmith.zscore_loss(source, p.target)
