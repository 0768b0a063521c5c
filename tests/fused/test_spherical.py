"""The spherical head against gradient descent on a dense head: the same steps, whatever the loss, the batch and its factors."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

import lossmith
from lossmith.fused import SphericalHead


def taylor_softmax(input, target):
    """A spherical loss that the library has not: log-Taylor softmax (arXiv:1511.05042), by its definition and by the moments."""
    if isinstance(input, Tensor):
        f = 1 + input + input**2 / 2
        return -(f / f.sum(1, keepdim=True)).log().gather(1, target.unsqueeze(1)).mean()
    at = input.target_moments(target, torch.ones_like(target, dtype=torch.bool))
    z = at.lead + at.mean
    return (at.classes * (1 + at.mean + (at.mean**2 + at.variance) / 2) / (1 + z + z**2 / 2)).log().mean()


FAMILY = [lossmith.zscore_loss, lossmith.one_hot_squared_loss, taylor_softmax]
WIDTH, CLASSES = 6, 11


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


def head_of(weight: Tensor, bias: Tensor | None = None, **how: int) -> SphericalHead:
    classes, width = weight.shape
    head = SphericalHead(width, classes, bias is not None, dtype=weight.dtype, **how)
    head.load_weight(weight, bias)
    return head


def assert_sound(head: SphericalHead, tolerance: float = 1e-11) -> None:
    """What the head keeps is what follows from its dense weight."""
    w = head._dense().double()
    centred = w - w.mean(0)
    torch.testing.assert_close(head.mean, w.mean(0), rtol=0, atol=tolerance)
    torch.testing.assert_close(head.scatter, centred.T @ centred, rtol=0, atol=tolerance * max(1.0, head.scatter.abs().max().item()))
    eye = torch.eye(head.mix.shape[0], dtype=torch.float64)
    torch.testing.assert_close(head.mix @ head.unmix, eye, rtol=0, atol=1e-9)


@pytest.mark.parametrize("loss", FAMILY)
@pytest.mark.parametrize("n", [1, 4, 20])
@pytest.mark.parametrize("bias", [False, True])
def test_many_steps_are_those_of_dense_gradient_descent(loss, n, bias):
    w = normal(CLASSES, WIDTH).requires_grad_()
    b = normal(CLASSES, seed=1).requires_grad_() if bias else None
    head = head_of(w.detach(), None if b is None else b.detach(), stabilize_every=7)
    dense = torch.optim.SGD([w] if b is None else [w, b], lr=0.1, weight_decay=0.01)
    for step in range(60):
        h, y = normal(n, WIDTH, seed=step), torch.randint(CLASSES, (n,), generator=rng(step))
        ours, theirs = h.clone().requires_grad_(), h.clone().requires_grad_()
        value = loss(head(ours), y)
        value.backward()
        head.step(0.1, weight_decay=0.01)
        dense.zero_grad()
        z = theirs @ w.T
        expected = loss(z if b is None else z + b, y)
        expected.backward()
        dense.step()
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-10)
    torch.testing.assert_close(head.dense_weight(), w.detach(), rtol=0, atol=1e-10)
    if b is not None:
        torch.testing.assert_close(head.dense_bias(), b.detach(), rtol=0, atol=1e-10)
    assert (w.detach() - normal(CLASSES, WIDTH)).abs().max() > 0.05  # it moved
    assert_sound(head)


def test_a_body_and_a_head_learn_together():
    x, y = normal(200, 4), torch.randint(CLASSES, (200,), generator=rng())
    body, twin = (nn.Sequential(nn.Linear(4, WIDTH), nn.Tanh()).double() for _ in range(2))
    twin.load_state_dict(body.state_dict())
    w = normal(CLASSES, WIDTH, seed=3).requires_grad_()
    head = head_of(w.detach())
    assert not list(head.parameters())
    ours, theirs = torch.optim.Adam(body.parameters(), lr=0.01), torch.optim.Adam(twin.parameters(), lr=0.01)
    for start in range(0, 200, 10):
        some, label = x[start : start + 10], y[start : start + 10]
        ours.zero_grad()
        lossmith.zscore_loss(head(body(some)), label).backward()
        ours.step()
        head.step(0.5)
        theirs.zero_grad()
        w.grad = None
        lossmith.zscore_loss(twin(some) @ w.T, label).backward()
        theirs.step()
        w.data -= 0.5 * w.grad
    for a, b in zip(body.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    torch.testing.assert_close(head.dense_weight(), w.detach(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("n", [1, 9])
def test_a_step_that_makes_u_singular_is_still_the_dense_one(n):
    """lr 2 |h|^2 = 1 takes W h to the label alone: the step of least squares that loses a direction of U altogether."""
    w, h, y = normal(CLASSES, WIDTH), normal(1, WIDTH, seed=1).expand(n, -1).contiguous(), torch.tensor([3]).expand(n)
    head, dense = head_of(w), w.clone().requires_grad_()
    lr = 1 / (2 * h[0].square().sum().item())
    for _ in range(3):
        lossmith.one_hot_squared_loss(head(h), y).backward()
        head.step(lr)
        (gradient,) = torch.autograd.grad(lossmith.one_hot_squared_loss(h @ dense.T, y), dense)
        dense = (dense - lr * gradient).detach().requires_grad_()
    torch.testing.assert_close(head.dense_weight(), dense.detach(), rtol=0, atol=1e-12)
    assert head.dense_weight()[0] @ h[0] == pytest.approx(0, abs=1e-12)
    assert_sound(head)


def test_weight_decay_to_nothing_leaves_the_step_alone():
    w, h, y = normal(CLASSES, WIDTH), normal(4, WIDTH, seed=1), torch.tensor([0, 1, 2, 0])
    head, dense = head_of(w), w.clone().requires_grad_()
    lossmith.zscore_loss(head(h), y).backward()
    head.step(0.5, weight_decay=2.0)
    (gradient,) = torch.autograd.grad(lossmith.zscore_loss(h @ dense.T, y), dense)
    torch.testing.assert_close(head.dense_weight(), -0.5 * gradient, rtol=0, atol=1e-12)
    assert_sound(head)


def test_thousands_of_steps_in_single_precision_stay_sound():
    head = head_of(normal(300, 16).float() / 4)
    table = normal(300, 16, seed=5).float()
    for step in range(3000):
        y = torch.randint(300, (8,), generator=rng(step))
        lossmith.zscore_loss(head(table[y]), y).backward()
        head.step(2.0)
    w = head.dense_weight().double()
    centred = w - w.mean(0)
    assert ((centred.T @ centred - head.scatter).norm() / head.scatter.norm()).item() < 1e-5
    assert ((w.mean(0) - head.mean).norm() / w.norm(dim=1).mean()).item() < 1e-5
    assert torch.linalg.cond(head.mix).item() < 10
    z = table @ head.dense_weight().T
    y = torch.arange(300)
    assert lossmith.zscore_loss(head(table), y).item() == pytest.approx(lossmith.zscore_loss(z, y).item(), rel=1e-4)
    assert (z.argmax(1) == y).float().mean() > 0.9  # and it has learnt


def test_stabilising_changes_the_factors_and_not_the_head():
    head = head_of(normal(CLASSES, WIDTH))
    for step in range(30):
        lossmith.one_hot_squared_loss(head(normal(3, WIDTH, seed=step)), torch.tensor([0, 1, 1])).backward()
        head.step(0.05)
    before, factors = head.dense_weight(), head.mix
    assert torch.linalg.svdvals(head.mix).min() < 0.5
    head.stabilize()
    assert not torch.equal(head.mix, factors)
    assert torch.linalg.svdvals(head.mix).min() >= 0.5
    torch.testing.assert_close(head.dense_weight(), before, rtol=0, atol=1e-12)
    assert_sound(head)


def test_backward_passes_add_up_and_masked_rows_teach_nothing():
    w, h = normal(CLASSES, WIDTH), normal(6, WIDTH, seed=1)
    y = torch.tensor([0, 3, -100, 3, 10, 0])
    whole, parts = head_of(w), head_of(w)
    lossmith.zscore_loss(whole(h), y).backward()
    whole.step(1.0)
    h[2] = torch.nan
    total = lossmith.denominator(y)
    for some, label in zip(h.split(2), y.split(2), strict=True):
        lossmith.zscore_loss(parts(some), label, denominator=total).backward()
    parts.step(1.0)
    torch.testing.assert_close(parts.dense_weight(), whole.dense_weight(), rtol=0, atol=1e-13)
    assert not torch.allclose(parts.dense_weight(), w)


def test_only_backward_in_training_teaches():
    w, h, y = normal(CLASSES, WIDTH), normal(3, WIDTH, seed=1).requires_grad_(), torch.tensor([0, 1, 2])
    head = head_of(w)
    (gradient,) = torch.autograd.grad(lossmith.zscore_loss(head(h), y), h)
    lossmith.zscore_loss(head(h), y)
    with torch.no_grad():
        lossmith.zscore_loss(head(h), y)
    head.step(1.0)
    assert torch.equal(head.dense_weight(), w)
    head.eval()
    lossmith.zscore_loss(head(h), y).backward()
    head.step(1.0)
    assert torch.equal(head.dense_weight(), w)
    assert torch.equal(h.grad, gradient)
    head.train()
    lossmith.zscore_loss(head(h), y).backward()
    head.zero_grad()
    head.step(1.0)
    assert torch.equal(head.dense_weight(), w)
    assert head.steps == 0


def test_hidden_states_of_any_rows_and_dtype():
    w, h, y = normal(CLASSES, WIDTH), normal(2, 3, WIDTH, seed=1), torch.randint(CLASSES, (2, 3), generator=rng())
    head = head_of(w.float())
    for dtype in (torch.float32, torch.bfloat16):
        x = h.to(dtype).requires_grad_()
        loss = lossmith.zscore_loss(head(x), y, reduction="none")
        assert loss.dtype == torch.float32
        assert loss.shape == (2, 3)
        expected = lossmith.zscore_loss((x.float() @ w.float().T).movedim(-1, 1), y, reduction="none")
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
        loss.sum().backward()
        assert x.grad.dtype == dtype
    x = h.reshape(6, WIDTH)[0]
    assert lossmith.zscore_loss(head(x), y[0, 0]).item() == pytest.approx(
        lossmith.zscore_loss(x.float() @ w.float().T, y[0, 0]).item(), rel=1e-5
    )


def test_saving_copying_and_pickling_go_on_with_the_same_steps():
    def train(head: SphericalHead, first: int, last: int) -> SphericalHead:
        for step in range(first, last):
            lossmith.zscore_loss(head(normal(3, WIDTH, seed=step)), torch.tensor([0, 1, 1])).backward()
            head.step(1.0)
        return head

    whole = train(head_of(normal(CLASSES, WIDTH), stabilize_every=6), 0, 20)
    half = train(head_of(normal(CLASSES, WIDTH), stabilize_every=6), 0, 10)
    loaded = SphericalHead(WIDTH, CLASSES, stabilize_every=6, dtype=torch.float64)
    loaded.load_state_dict(half.state_dict())
    for head in (loaded, copy.deepcopy(half), pickle.loads(pickle.dumps(half))):
        assert torch.equal(train(head, 10, 20).dense_weight(), whole.dense_weight())


def test_moving_to_a_dtype_keeps_the_small_factors_in_double():
    head = head_of(normal(CLASSES, WIDTH)).float()
    assert head.rows.dtype == torch.float32
    assert {getattr(head, name).dtype for name in ("mix", "unmix", "shared", "mean", "scatter")} == {torch.float64}
    assert_sound(head, 1e-6)
    with pytest.raises(TypeError, match=r"SphericalHead: dtype must be float32 or float64, for steps add up in it; got torch\.bfloat16"):
        head.bfloat16()
    assert head.rows.dtype == torch.float32
    with pytest.raises(TypeError, match="SphericalHead: dtype must be float32 or float64"):
        SphericalHead(3, 4, dtype=torch.float16)


def test_a_loss_from_before_the_last_step_and_second_derivatives_are_refused():
    head, h, y = head_of(normal(CLASSES, WIDTH)), normal(3, WIDTH, seed=1).requires_grad_(), torch.tensor([0, 1, 2])
    first, second = lossmith.zscore_loss(head(h), y), lossmith.zscore_loss(head(h), y)
    first.backward()
    head.step(1.0)
    with pytest.raises(RuntimeError, match="SphericalHead: this loss was computed before the last step"):
        second.backward()
    for loss in FAMILY:
        with pytest.raises(RuntimeError, match="SphericalHead: it gives no second derivative"):
            torch.autograd.grad(loss(head(h), y), h, create_graph=True)


def test_a_gradient_that_is_not_finite_leaves_the_head_as_it_was():
    w = normal(CLASSES, WIDTH)
    head = head_of(w)
    (lossmith.zscore_loss(head(normal(2, WIDTH)), torch.tensor([0, 1])) * torch.inf).backward()
    with pytest.raises(ValueError, match=r"SphericalHead\.step: the gradient holds NaN or inf; the head is left as it was"):
        head.step(1.0)
    head.step(1.0)
    assert torch.equal(head.dense_weight(), w)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, on its first forward-mode derivative
def test_transforms_are_refused():
    head, h, y = head_of(normal(CLASSES, WIDTH)), normal(3, WIDTH, seed=1), torch.tensor([0, 1, 2])
    with pytest.raises(RuntimeError, match=r"SphericalHead: no transform of torch\.func"):
        torch.func.grad(lambda h: lossmith.zscore_loss(head(h), y))(h)
    with pytest.raises(RuntimeError, match=r"SphericalHead: no transform of torch\.func"), torch.autograd.forward_ad.dual_level():
        lossmith.zscore_loss(head(torch.autograd.forward_ad.make_dual(h, h)), y)


@pytest.mark.compile
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # what Dynamo does with a Function
def test_compiled_code_may_use_the_head_in_eval_and_is_refused_what_it_cannot_learn():
    head, h, y = head_of(normal(CLASSES, WIDTH)), normal(3, WIDTH, seed=1).requires_grad_(), torch.tensor([0, 1, 2])
    compiled = torch.compile(lambda h: lossmith.zscore_loss(head(h), y), fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match="SphericalHead: it keeps what it learns from outside of compiled code"):
        compiled(h)
    head.eval()
    expected = lossmith.zscore_loss(head(h), y)
    torch.testing.assert_close(compiled(h), expected)
    torch.testing.assert_close(torch.autograd.grad(compiled(h), h), torch.autograd.grad(expected, h))


def test_several_processes_are_refused(monkeypatch):
    head = head_of(normal(CLASSES, WIDTH))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(RuntimeError, match=r"SphericalHead\.step: it steps by this process's examples alone"):
        head.step(1.0)


@pytest.mark.untyped
def test_mistakes_are_named():
    head = head_of(normal(CLASSES, WIDTH))
    for message, wrong in {
        r"SphericalHead: width must be a whole number from 1; got int 0": lambda: SphericalHead(0, 4),
        r"SphericalHead: classes must be a whole number from 2; got int 1": lambda: SphericalHead(3, 1),
        r"SphericalHead: stabilize_every must be a whole number from 1": lambda: SphericalHead(3, 4, stabilize_every=0),
        r"SphericalHead: hidden must have shape \(\*rows, 6\); got float64 \(2, 5\)": lambda: head(normal(2, 5)),
        r"SphericalHead: weight must have shape \(11, 6\); got float64 \(6, 11\)": lambda: head.load_weight(normal(6, 11)),
        r"SphericalHead: bias must be None, as the head has none": lambda: head.load_weight(normal(11, 6), normal(11)),
        r"SphericalHead\.step: lr must be a number from 0; got float -0\.1": lambda: head.step(-0.1),
        r"SphericalHead\.step: weight_decay must be a number from 0": lambda: head.step(0.1, weight_decay=float("nan")),
        r"zscore_loss: target must have shape \(2,\)": lambda: lossmith.zscore_loss(head(normal(2, WIDTH)), torch.tensor([0])),
        r"zscore_loss: target must hold class indices in 0\.\.10": lambda: lossmith.zscore_loss(head(normal(1, WIDTH)), torch.tensor([11])),
    }.items():
        with pytest.raises(ValueError, match=message):
            wrong()
    with pytest.raises(TypeError, match="SphericalHead: hidden must be a floating-point tensor"):
        head(torch.zeros(2, WIDTH, dtype=torch.long))
