"""Cauchy-Schwarz divergences of samples, against loops over kernels and the densities that they converge to."""

import math

import numpy as np
import pytest
import torch

from lossmith.divergences import cauchy_schwarz, conditional_cs_divergence, cs_divergence, cs_information_bottleneck, cs_qmi

f64 = torch.float64


def draw(seed, *shape):
    return torch.randn(*shape, dtype=f64, generator=torch.Generator().manual_seed(seed))


def kernel(x, y, h):
    """By its definition, in loops, without logarithms."""
    return np.array([[math.exp(-(math.dist(u, v) ** 2) / (2 * h * h)) for v in y.tolist()] for u in x.tolist()])


X, Y, T = draw(0, 7, 3), draw(1, 7, 2), draw(2, 7, 4)
Y_HAT = Y + 0.3 * draw(3, 7, 2)


def test_divergence_by_its_definition():
    x, y = draw(4, 6, 2), draw(5, 9, 2) + 0.5
    for h in (0.4, 1.0, 3.0):
        wanted = math.log(kernel(x, x, h).mean()) + math.log(kernel(y, y, h).mean()) - 2 * math.log(kernel(x, y, h).mean())
        assert cs_divergence(x, y, bandwidth=h).item() == pytest.approx(wanted, rel=1e-10)
        torch.testing.assert_close(cs_divergence(y + 1e3, x + 1e3, bandwidth=h), cs_divergence(x, y, bandwidth=h), rtol=1e-8, atol=0)
    assert cs_divergence(x, x).item() == pytest.approx(0, abs=1e-14)


def test_divergence_of_gaussians():
    """It tends to |delta|^2 / (2 sigma^2 + h^2): with h at 0 twice `cauchy_schwarz`, and KL. Five standard deviations over 20 repeats."""
    shift, sigma, h = torch.tensor([1.0, -0.5], dtype=f64), 0.8, 0.5
    values = torch.stack([cs_divergence(sigma * draw(s, 800, 2), sigma * draw(100 + s, 800, 2) + shift, bandwidth=h) for s in range(20)])
    wanted = shift.square().sum().item() / (2 * sigma**2 + h**2)
    assert abs(values.mean().item() - wanted) < 5 * values.std().item() / math.sqrt(20) + 0.01  # and a bias of a few over n
    covariance = sigma**2 * torch.eye(2, dtype=f64)
    p, q = (torch.distributions.MultivariateNormal(m, covariance) for m in (torch.zeros(2, dtype=f64), shift))
    assert 2 * cauchy_schwarz(p, q).item() == pytest.approx(torch.distributions.kl_divergence(p, q).item(), rel=1e-12)
    assert 2 * cauchy_schwarz(p, q).item() == pytest.approx(shift.square().sum().item() / (2 * sigma**2), rel=1e-12)


@pytest.mark.parametrize("form", ["paper", "code"])
def test_conditional_by_its_definition(form):
    k, own, predicted, crossed = (kernel(*z) for z in ((X, X, 0.9), (Y, Y, 1.3), (Y_HAT, Y_HAT, 1.3), (Y_HAT, Y, 1.3)))
    total = 0.0
    for sign, gram in ((1, own), (1, predicted), (-2, crossed)):
        each = []
        for j in range(7):
            denominator = sum(k[j]) ** 2 if form == "paper" else sum(k[j] ** 2)
            each.append(sum(k[j, i] * gram[j, i] for i in range(7)) / denominator)
        total += sign * math.log(sum(each))
    got = conditional_cs_divergence(X, Y, Y_HAT, bandwidth_x=0.9, bandwidth_y=1.3, form=form)
    assert got.item() == pytest.approx(total, rel=1e-10)
    assert conditional_cs_divergence(X, Y, Y, form=form).item() == 0


def test_conditional_on_nothing_is_the_divergence():
    got = conditional_cs_divergence(torch.zeros(7, 1, dtype=f64), Y, Y_HAT, bandwidth_y=0.7)
    assert got.item() == pytest.approx(cs_divergence(Y, Y_HAT, bandwidth=0.7).item(), rel=1e-10)


def test_qmi_by_its_definition():
    k, q = kernel(X, X, 1.2), kernel(T, T, 0.8)
    n = 7
    wanted = math.log(np.trace(k @ q) / n**2) + math.log(k.sum() * q.sum() / n**4) - 2 * math.log((k @ q).sum() / n**3)
    assert cs_qmi(X, T, bandwidth_x=1.2, bandwidth_t=0.8).item() == pytest.approx(wanted, rel=1e-10)
    assert cs_qmi(X, T).item() == pytest.approx(cs_qmi(T, X).item(), rel=1e-10)
    ratio = cs_qmi(X, T) / (cs_qmi(X, X) * cs_qmi(T, T)).sqrt()
    assert cs_qmi(X, T, normalised=True).item() == pytest.approx(ratio.item(), rel=1e-10)
    assert cs_qmi(X, X, normalised=True).item() == pytest.approx(1, rel=1e-12)


def test_qmi_of_independent_and_of_constant():
    values = [cs_qmi(draw(n, n), draw(n + 1, n)).item() for n in (50, 200, 800)]
    assert 0 <= values[2] < values[0] < 0.05
    assert values[2] < 2e-3
    constant = torch.full((7, 4), 3.0, dtype=f64, requires_grad=True)
    for normalised in (False, True):
        value = cs_qmi(X, constant, normalised=normalised)
        assert value.item() == pytest.approx(0, abs=1e-14)
        assert torch.autograd.grad(value, constant)[0].isfinite().all()
    assert all(cs_qmi(draw(s, 5), draw(s + 9, 5)).item() >= 0 for s in range(30))


@pytest.mark.parametrize("form", ["paper", "code"])
def test_the_bottleneck_is_their_sum_and_the_code_another_unit(form):
    loss = cs_information_bottleneck(X, Y, Y_HAT, T, beta=0.3, bandwidth=1.1, form=form)
    prediction = conditional_cs_divergence(X, Y, Y_HAT, bandwidth_x=1.1, bandwidth_y=1.1, form=form)
    information = cs_qmi(X, T, bandwidth_x=1.1, bandwidth_t=1.1, normalised=True)
    assert loss.item() == pytest.approx((prediction + 0.3 * information).item(), rel=1e-12)
    in_bits = prediction / math.log(2) + 0.3 * information  # as the released code has it
    ours = cs_information_bottleneck(X, Y, Y_HAT, T, beta=0.3 * math.log(2), bandwidth=1.1, form=form) / math.log(2)
    assert ours.item() == pytest.approx(in_bits.item(), rel=1e-12)


def test_distant_samples_do_not_underflow():
    for dtype in (torch.float32, f64):
        x = torch.zeros(4, 1, dtype=dtype, requires_grad=True)
        value = cs_divergence(x, torch.full((5, 1), 1e3, dtype=dtype))
        assert value.item() == pytest.approx(1e6, rel=1e-6)
        (gradient,) = torch.autograd.grad(value, x)
        assert gradient.sum().item() == pytest.approx(-2e3, rel=1e-6)


def test_half_and_single_precision():
    single = cs_information_bottleneck(X.float(), Y.float(), Y_HAT.float(), T.float())
    assert single.dtype is torch.float32
    assert single.item() == pytest.approx(cs_information_bottleneck(X, Y, Y_HAT, T).item(), rel=1e-5)
    assert cs_divergence(X.bfloat16(), X.bfloat16() + 1).dtype is torch.float32
    far = 1e4 + X.float()  # whose differences survive, for the mean is taken off first
    assert cs_divergence(far, far + 0.5).item() == pytest.approx(cs_divergence(far.double(), far.double() + 0.5).item(), rel=1e-5)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, on its first forward-mode derivative
def test_gradients_of_both_orders():
    def loss(x, y, t, h):
        return cs_information_bottleneck(x, Y, y, t, beta=0.5, bandwidth=h) + cs_divergence(y, Y, bandwidth=h)

    h = torch.tensor(1.1, dtype=f64, requires_grad=True)
    inputs = (X.clone().requires_grad_(), Y_HAT.clone().requires_grad_(), T.clone().requires_grad_(), h)
    assert torch.autograd.gradcheck(loss, inputs)
    assert torch.autograd.gradgradcheck(loss, inputs)
    assert torch.autograd.gradcheck(loss, inputs, check_forward_ad=True, check_backward_ad=False)


def test_vmap():
    batch = torch.stack([Y_HAT, Y, T[:, :2]])
    each = torch.vmap(lambda y_hat: conditional_cs_divergence(X, Y, y_hat))(batch)
    torch.testing.assert_close(each, torch.stack([conditional_cs_divergence(X, Y, y_hat) for y_hat in batch]))


def test_training_finds_the_targets_with_narrow_kernels_only():
    """With a kernel as wide as x itself the estimate is negative for predictions that are drawn together: the docstring says so."""
    x = draw(6, 60, 1)
    assert conditional_cs_divergence(x, 2 * x, 1.5 * x).item() < -0.01
    weight = torch.zeros(1, dtype=f64, requires_grad=True)
    optimiser = torch.optim.Adam([weight], lr=0.1)
    for _ in range(150):
        optimiser.zero_grad()
        conditional_cs_divergence(x, 2 * x, weight * x, bandwidth_x=0.3).backward()
        optimiser.step()
    assert weight.item() == pytest.approx(2, abs=0.1)


@pytest.mark.compile
def test_compiled_in_one_graph():
    torch._dynamo.reset()
    compiled = torch.compile(lambda *z: cs_information_bottleneck(*z, beta=0.1), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(X, Y, Y_HAT, T), cs_information_bottleneck(X, Y, Y_HAT, T, beta=0.1))


@pytest.mark.untyped
def test_mistakes_are_named():
    with pytest.raises(ValueError, match="x and y must have the same dimension; got 3 and 2"):
        cs_divergence(X, Y)
    with pytest.raises(ValueError, match="as many as each other; got x of 7, t of 5"):
        cs_qmi(X, T[:5])
    with pytest.raises(ValueError, match=r"y and y_hat must have the same shape; got float64 \(7, 2\) and float64 \(7, 3\)"):
        conditional_cs_divergence(X, Y, X)
    with pytest.raises(ValueError, match=r"bandwidth must be a positive number; got float 0\.0"):
        cs_divergence(X, X, bandwidth=0.0)
    with pytest.raises(ValueError, match="form must be 'paper' or 'code'; got str 'codex'"):
        conditional_cs_divergence(X, Y, Y, form="codex")
    with pytest.raises(ValueError, match="beta must be a number >= 0; got int -1"):
        cs_information_bottleneck(X, Y, Y, T, beta=-1)
    with pytest.raises(TypeError, match=r"x must be a floating-point tensor of samples, \(n, d\) or \(n,\); got list"):
        cs_divergence([1.0], Y)
