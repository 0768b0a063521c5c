"""Sparsemax and entmax against sorting, bisection and the entmax package: values, gradients, precision, and what that package fails at."""

import importlib.util
import math

import mpmath
import pytest
import torch
from entropy_cases import logits

from lossmith.generators import entmax, gini, shannon, sparsemax, threshold, tsallis

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, on its first forward-mode derivative

peer_installed = importlib.util.find_spec("entmax") is not None
with_peer = pytest.mark.skipif(not peer_installed, reason="the entmax package is not installed")


def sorted_sparsemax(theta):
    """The projection by its definition over sorted logits, in float64."""
    theta = theta.double()
    ordered = theta.sort(-1, descending=True).values
    rank = torch.arange(1, theta.shape[-1] + 1, dtype=torch.float64)
    size = (1 + rank * ordered > ordered.cumsum(-1)).sum(-1, keepdim=True)
    tau = (ordered.cumsum(-1).gather(-1, size - 1) - 1) / size
    return (theta - tau).clamp(min=0)


def bisected_entmax(theta, alpha, halvings=200):
    """The largest u by bisection in float64, straight from the definition."""
    d = (alpha - 1) * (theta.double() - theta.double().amax(-1, keepdim=True))
    low, high = torch.zeros_like(d[..., :1]), torch.ones_like(d[..., :1])
    for _ in range(halvings):
        middle = (low + high) / 2
        below = (middle + d).clamp(min=0).pow(1 / (alpha - 1)).sum(-1, keepdim=True) <= 1
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + d).clamp(min=0).pow(1 / (alpha - 1))


def jacobian_product(p, alpha, v):
    """The Jacobian is diag(s) - s s^T / sum(s) with s = p^(2 - alpha) on the support."""
    s = torch.where(p > 0, p.clamp(min=1e-300).pow(2 - alpha), 0)
    return s * v - s * (s * v).sum(-1, keepdim=True) / s.sum(-1, keepdim=True)


SHAPES = [(5, 2), (5, 9), (4, 257), (3, 700), (2, 3000)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("scale", [0.001, 0.03, 1.0, 10.0])
def test_sparsemax_is_the_projection(shape, scale):
    """Supports of one class, of a few (found among the largest logits) and of all."""
    theta = logits(*shape, scale=scale)
    torch.testing.assert_close(sparsemax(theta), sorted_sparsemax(theta), rtol=0, atol=1e-14)


@pytest.mark.parametrize("alpha", [1.1, 1.5, 1.7, 2.5])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0])
def test_entmax_is_what_bisection_finds(alpha, shape, scale):
    theta = logits(*shape, scale=scale)
    torch.testing.assert_close(entmax(theta, alpha), bisected_entmax(theta, alpha), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.5, 1.3, 1.5, 3.0])
def test_entmax_to_thirty_digits(alpha):
    row = [0.8, 0.1, -0.2, 0.75, -4.0]
    with mpmath.workdps(30):
        a, z = mpmath.mpf(alpha), [mpmath.mpf(x) for x in row]

        def p(s):
            u = [s + (a - 1) * (x - max(z)) for x in z]
            return [x ** (1 / (a - 1)) if x > 0 else mpmath.mpf(0) for x in u]

        bracket = (0.01, 1) if alpha > 1 else (1, 10)
        s = mpmath.findroot(lambda s: sum(p(s)) - 1, bracket, solver="anderson", tol=1e-25)
        expected = [float(x) for x in p(s)]
    torch.testing.assert_close(entmax(torch.tensor(row, dtype=torch.float64), alpha).tolist(), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("alpha", [1.3, 1.5, 2.0])
@pytest.mark.parametrize("scale", [0.01, 0.3, 3.0])
@pytest.mark.parametrize("classes", [9, 1000])
def test_gradients_are_the_closed_form(alpha, scale, classes):
    theta, v = logits(4, classes, scale=scale).requires_grad_(), logits(4, classes, seed=1)
    (gradient,) = torch.autograd.grad(entmax(theta, alpha), theta, v)
    expected = jacobian_product(bisected_entmax(theta.detach(), alpha), alpha, v)
    torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("alpha", [1.5, 2.0])
@pytest.mark.parametrize("scale", [0.01, 0.3, 3.0])
def test_float32_at_a_vocabulary(alpha, scale):
    """Values and gradients of map and loss within 1e-6 of float64, relative to the largest; rows sum to 1."""
    theta, v, label = logits(3, 32000, scale=scale), logits(3, 32000, seed=1), torch.tensor([0, 77, 31999])
    entropy = tsallis(alpha)
    results = []
    for dtype in (torch.float32, torch.float64):
        z = theta.float().to(dtype).requires_grad_()
        p, loss = entmax(z, alpha), entropy.fenchel_young(z, label)
        results.append((p.detach(), loss.detach(), *torch.autograd.grad(p, z, v.to(dtype)), *torch.autograd.grad(loss.sum(), z)))
    for single, double in zip(*results, strict=True):
        assert (single - double).abs().max() <= 1e-6 * double.abs().max()
    assert (results[0][0].sum(-1) - 1).abs().max() <= 1e-5


@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_rows_sum_to_one(alpha, dtype):
    for scale in (0.01, 1.0, 8.0):
        theta = logits(4, 32000, scale=scale).to(dtype).requires_grad_()
        p = entmax(theta, alpha)
        assert p.dtype == torch.float32
        assert (p.sum(-1) - 1).abs().max() <= 1e-4
        (gradient,) = torch.autograd.grad(p.square().sum(), theta)
        assert gradient.dtype == dtype
        assert gradient.isfinite().all()


def test_why_half_precision_is_not_returned():
    """No rounding rule that treats equal logits equally makes three equal bfloat16 probabilities sum to 1 within 1e-3."""
    third = sparsemax(torch.zeros(3, dtype=torch.bfloat16)).bfloat16()
    assert abs(third.double().sum().item() - 1) > 1e-3


@pytest.mark.parametrize("alpha", [1.02, 1.001, 1.00001, 1.0000001, 0.9999])
def test_float32_next_to_softmax(alpha):
    """u^r with an r of up to ten million, in the digits of float32."""
    theta = logits(4, 50, scale=3, dtype=torch.float32).requires_grad_()
    p, exact = entmax(theta, alpha), entmax(theta.detach().double(), alpha)
    assert p.dtype == torch.float32
    assert (p.sum(-1) - 1).abs().max() <= 1e-6
    torch.testing.assert_close(p.double(), exact, rtol=1e-5, atol=1e-7)
    conjugate = tsallis(alpha).conjugate(theta)
    torch.testing.assert_close(conjugate.double(), tsallis(alpha).conjugate(theta.detach().double()), rtol=1e-6, atol=1e-6)
    (slope,) = torch.autograd.grad(conjugate.sum(), theta)
    torch.testing.assert_close(slope, p, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("ratio", [0.5, 0.7, 0.9, 0.99])
@pytest.mark.parametrize("alpha", [1.2, 1.5, 2.0])
def test_newton_arrives_whatever_the_row(ratio, alpha):
    """Logits that close in on the largest geometrically, the hard case for an active-set method, in the steps that are promised."""
    theta = -torch.tensor(ratio, dtype=torch.float64).pow(torch.arange(400)).flip(0) * torch.tensor([[1.0], [1e-3], [1e3]])
    torch.testing.assert_close(torch.func.vmap(lambda t: entmax(t, alpha))(theta), bisected_entmax(theta, alpha), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("r", [1.0, 2.0, 5.0, -2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_bound_on_newtons_steps_is_kept(r, dtype, monkeypatch):
    """More steps than promised change nothing."""
    d = -logits(20, 300, dtype=dtype).abs() * logits(20, 1, scale=2, seed=3, dtype=dtype).exp() * math.copysign(1, r)
    d = d - (d.amax(-1, keepdim=True) if r > 0 else d.amin(-1, keepdim=True))
    monkeypatch.setattr(threshold, "decided", lambda condition: False)
    promised = threshold.largest(d, r)
    monkeypatch.setattr(threshold, "_enough_steps", lambda *_: 200)
    torch.testing.assert_close(promised, threshold.largest(d, r), rtol=8 * torch.finfo(dtype).eps, atol=0)


def test_vmap_and_few_of_many_logits_agree():
    """Under vmap the whole row is used, in eager mode the largest logits when they suffice."""
    theta = torch.cat([logits(3, 500, scale=5), logits(3, 500, scale=0.01, seed=2)])
    for alpha in (1.4, 1.5, 2.0):
        torch.testing.assert_close(torch.func.vmap(lambda t, a=alpha: entmax(t, a))(theta), entmax(theta, alpha), rtol=1e-9, atol=1e-12)
        assert (tsallis(alpha).argmax(theta[:3]) > 0).sum(-1).max() < 128


@pytest.mark.parametrize("dim", [0, 1, -1, -2])
def test_any_axis(dim):
    theta = logits(4, 5, 6)
    torch.testing.assert_close(entmax(theta, dim=dim).sum(dim), torch.ones_like(theta.sum(dim)), rtol=1e-12, atol=0)
    torch.testing.assert_close(sparsemax(theta, dim), gini.argmax(theta.movedim(dim, -1)).movedim(-1, dim), rtol=1e-12, atol=1e-15)


def test_softmax_is_the_first_of_them():
    theta = logits(4, 5)
    torch.testing.assert_close(entmax(theta, 1), theta.softmax(-1))
    torch.testing.assert_close(shannon.argmax(theta), theta.softmax(-1))


def test_empty_and_scalar_inputs():
    assert sparsemax(torch.zeros(0, 3)).shape == (0, 3)
    assert entmax(torch.zeros(3, 0)).shape == (3, 0)
    assert entmax(torch.tensor(2.0)) == 1


def test_masked_logits():
    theta = torch.full((2, 400), -math.inf)
    theta[:, :3] = torch.tensor([[0.1, 0.0, -0.1], [5.0, 0.0, 0.0]])
    theta.requires_grad_()
    for alpha in (0.5, 1.0, 1.5, 1.7, 2.0, 3.0):
        p = entmax(theta, alpha)
        torch.testing.assert_close(p[:, :3], entmax(theta[:, :3], alpha), rtol=1e-5, atol=1e-7)
        assert (p[:, 3:] == 0).all()
        (gradient,) = torch.autograd.grad(p.square().sum(), theta, create_graph=True)
        (second,) = torch.autograd.grad(gradient.square().sum(), theta)
        assert gradient.isfinite().all()
        assert second.isfinite().all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: entmax(torch.tensor([1, 2])), TypeError, "entmax: logits must be a floating-point tensor; got int64"),
        (lambda: sparsemax([1.0]), TypeError, "sparsemax: logits must be a floating-point tensor; got list"),
        (lambda: entmax(torch.zeros(2), alpha=0), ValueError, r"entmax: alpha must be in \(0, inf\); got 0"),
        (lambda: entmax(torch.zeros(2), alpha=math.nan), ValueError, r"entmax: alpha must be in \(0, inf\); got nan"),
        (lambda: entmax(torch.zeros(2), dim=1), IndexError, "Dimension out of range"),
    ],
)
@pytest.mark.untyped
def test_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


@with_peer
@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0])
def test_the_package_agrees_on_values_and_first_derivatives(scale):
    import entmax as package

    theta, label, v = logits(4, 300, scale=scale).requires_grad_(), torch.tensor([0, 1, 2, 299]), logits(4, 300, seed=1)
    pairs = (
        (sparsemax(theta), package.sparsemax(theta, -1), v),
        (entmax(theta), package.entmax15(theta, -1), v),
        (gini.fenchel_young(theta, label), package.sparsemax_loss(theta, label), v[:, 0]),
        (tsallis(1.5).fenchel_young(theta, label), package.entmax15_loss(theta, label), v[:, 0]),
    )
    for ours, theirs, weight in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
        (mine,), (other,) = (torch.autograd.grad(value, theta, weight, retain_graph=True) for value in (ours, theirs))
        torch.testing.assert_close(mine, other, rtol=1e-7, atol=1e-10)


def test_second_derivatives_where_the_package_fails():
    """Its second derivative of 1.5-entmax is NaN as soon as a probability is 0; ours is right, and autograd's own."""
    theta = torch.tensor([[1.2, 0.3, -2.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(entmax, theta)
    if not peer_installed:
        pytest.skip("the entmax package is not installed")
    import entmax as package

    (first,) = torch.autograd.grad(package.entmax15(theta, -1)[0, 0], theta, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), theta)
    assert second.isnan().any()


@with_peer
def test_vmap_and_bfloat16_where_the_package_fails():
    import entmax as package

    theta = logits(4, 5)
    with pytest.raises(RuntimeError):
        torch.func.vmap(package.entmax15)(theta)
    assert torch.func.vmap(entmax)(theta).shape == (4, 5)
    rows = logits(64, 32000).bfloat16()
    assert (package.entmax15(rows, -1).double().sum(-1) - 1).abs().max() > 1e-2
    assert (entmax(rows).double().sum(-1) - 1).abs().max() <= 1e-4
