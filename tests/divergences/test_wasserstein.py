"""Wasserstein distances of Gaussians, against square roots of matrices and quantiles."""

import math

import pytest
import scipy.linalg
import scipy.stats
import torch
from torch.distributions import Independent, LogNormal, LowRankMultivariateNormal, MultivariateNormal, Normal

from lossmith.divergences import bures, wasserstein1_normal, wasserstein_gaussian

f64 = torch.float64


def t(*x):
    return torch.tensor(x if len(x) > 1 else x[0], dtype=f64)


def draw(seed, *shape):
    return torch.randn(*shape, dtype=f64, generator=torch.Generator().manual_seed(seed))


def by_square_roots(s1, s2):
    root = scipy.linalg.sqrtm(s2.numpy())
    return (s1.trace() + s2.trace()).item() - 2 * scipy.linalg.sqrtm(root @ s1.numpy() @ root).real.trace()


def test_known_numbers():
    assert wasserstein_gaussian(Normal(t(0.0), t(1.0)), Normal(t(1.0), t(2.0))).item() == pytest.approx(2, rel=1e-12)
    p = MultivariateNormal(t(0.0, 0.0), t([1.0, 0.5], [0.5, 2.0]))
    q = MultivariateNormal(t(1.0, -1.0), t([2.0, -0.3], [-0.3, 1.0]))
    for a, b in ((p, q), (q, p)):
        assert wasserstein_gaussian(a, b).item() == pytest.approx(2.57542589331, rel=1e-11)
    assert wasserstein1_normal(Normal(t(0.0), t(1.0)), Normal(t(1.0), t(2.0))).item() == pytest.approx(1.16663094118, rel=1e-11)


def test_by_square_roots_of_matrices():
    for d in (1, 2, 5):
        a, b = draw(d, d, d), draw(10 + d, d, d)
        assert bures(a, b).item() == pytest.approx(by_square_roots(a @ a.mT, b @ b.mT), rel=1e-10)
    p = MultivariateNormal(draw(0, 4, 1, 3), scale_tril=draw(1, 4, 1, 3, 3).tril().abs() + torch.eye(3, dtype=f64))
    q = MultivariateNormal(draw(2, 2, 3), scale_tril=draw(3, 2, 3, 3).tril().abs() + torch.eye(3, dtype=f64))
    both = wasserstein_gaussian(p, q)
    assert both.shape == (4, 2)
    s1, s2 = p.covariance_matrix[1, 0], q.covariance_matrix[1]
    wanted = (p.loc[1, 0] - q.loc[1]).square().sum().item() + by_square_roots(s1, s2)
    assert both[1, 1].item() == pytest.approx(wanted, rel=1e-10)


def test_every_way_to_write_a_gaussian():
    mean_p, scale_p, mean_q, scale_q = draw(4, 3), draw(5, 3).exp(), draw(6, 3), draw(7, 3).exp()
    wanted = ((mean_p - mean_q).square() + (scale_p - scale_q).square()).sum()
    p, q = Independent(Normal(mean_p, scale_p), 1), Independent(Normal(mean_q, scale_q), 1)
    full = MultivariateNormal(mean_q, torch.diag(scale_q.square()))
    low = LowRankMultivariateNormal(mean_q, torch.zeros(3, 1, dtype=f64), scale_q.square())
    for other in (q, full, low):
        torch.testing.assert_close(wasserstein_gaussian(p, other), wanted, rtol=1e-12, atol=0)
    with pytest.raises(NotImplementedError, match="wasserstein_gaussian: it has no closed form here for LogNormal"):
        wasserstein_gaussian(LogNormal(t(0.0), t(1.0)), LogNormal(t(1.0), t(1.0)))
    with pytest.raises(NotImplementedError, match="has no closed form here for Independent"):
        wasserstein_gaussian(*(Independent(LogNormal(m, t(1.0, 1.0)), 1) for m in (t(0.0, 1.0), t(1.0, 1.0))))


@pytest.mark.parametrize(("dtype", "apart"), [(torch.float32, 1e-4), (torch.float64, 1e-9)], ids=str)
def test_nearly_equal_covariances(dtype, apart):
    """Far below the rounding error of the traces: about |a - b|^2, less what turning b takes off it."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(20, 20, dtype=torch.float64, generator=generator) for _ in range(2))
    a, b = (3 * a).to(dtype), (3 * a + apart * b).to(dtype)
    near = a.double() + (b.double() - a.double()) * (1e-3 / apart)  # the same direction, far enough for double precision
    assert bures(a, b).item() == pytest.approx(bures(a.double(), near).item() * (apart / 1e-3) ** 2, rel=1e-2)
    assert 0 <= bures(a, a).item() < 1e-9 * bures(a, torch.zeros_like(a)).item()


def test_factors_of_any_width_and_singular_covariances():
    """Fewer samples than dimensions; and any rotation of a factor's columns is the same covariance."""
    a, b = draw(8, 5, 3), draw(9, 5, 7)
    assert bures(a, b).item() == pytest.approx(by_square_roots(a @ a.mT, b @ b.mT), rel=1e-6)  # the square root of a singular matrix
    rotation = torch.linalg.qr(draw(10, 7, 7)).Q
    torch.testing.assert_close(bures(a, b @ rotation), bures(a, b), rtol=1e-12, atol=0)
    assert bures(a, torch.cat([a, torch.zeros(5, 2, dtype=f64)], 1)).item() == pytest.approx(0, abs=1e-13)
    assert bures(a, torch.zeros(5, 1, dtype=f64)).item() == pytest.approx(a.square().sum().item(), rel=1e-12)


CASES = {
    "general": (draw(11, 3, 3), draw(12, 3, 3)),
    "equal": (torch.eye(3, dtype=f64), torch.eye(3, dtype=f64)),
    "commuting": (torch.diag(t(1.0, 2.0, 2.0)), torch.diag(t(2.0, 1.0, 1.0))),
    "wide": (draw(13, 2, 4), draw(14, 2, 3)),
    "equal and wide": (torch.cat([torch.eye(2, dtype=f64)] * 2, 1), torch.cat([torch.eye(2, dtype=f64)] * 2, 1)),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_both_orders(name):
    """Also where singular values coincide or vanish for good, which the derivatives of singular vectors do not survive."""
    a, b = (x.clone().requires_grad_() for x in CASES[name])
    assert torch.autograd.gradcheck(bures, (a, b))
    assert torch.autograd.gradgradcheck(bures, (a, b))
    (gradient,) = torch.autograd.grad(bures(a, b), a)
    if name.startswith("equal"):
        assert gradient.abs().max() < 1e-12


def test_gradients_in_covariances_and_at_singular_ones():
    s1, s2 = (x @ x.mT + torch.eye(3, dtype=f64) for x in (draw(15, 3, 3), draw(16, 3, 3)))
    s1 = s1.requires_grad_()
    value = wasserstein_gaussian(MultivariateNormal(t(0.0, 0.0, 0.0), s1), MultivariateNormal(t(1.0, 0.0, 0.0), s2))
    (gradient,) = torch.autograd.grad(value, s1)
    root = torch.tensor(scipy.linalg.sqrtm(s2.numpy()).real)
    inner = torch.tensor(scipy.linalg.sqrtm((root @ s1.detach() @ root).numpy()).real)
    wanted = torch.eye(3, dtype=f64) - root @ torch.linalg.inv(inner) @ root  # 1 minus the optimal map
    torch.testing.assert_close((gradient + gradient.mT) / 2, wanted, rtol=1e-9, atol=1e-12)
    singular = torch.diag(t(1.0, 0.0, 0.0)).requires_grad_()
    other = torch.eye(3, dtype=f64).requires_grad_()
    for gradient in torch.autograd.grad(bures(singular, other), (singular, other)):
        assert gradient.isfinite().all()
    nothing = torch.zeros(2, 2, dtype=f64, requires_grad=True)
    assert torch.autograd.grad(bures(nothing, nothing), nothing)[0].abs().max() == 0


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, on its first forward-mode derivative
def test_precision_and_vmap():
    a, b = draw(17, 4, 3, 3), draw(18, 4, 3, 3)
    torch.testing.assert_close(torch.vmap(bures)(a, b), bures(a, b), rtol=1e-12, atol=0)
    gradient = torch.vmap(torch.func.grad(bures))(a, b)
    x = a.clone().requires_grad_()
    torch.testing.assert_close(gradient, torch.autograd.grad(bures(x, b).sum(), x)[0], rtol=1e-12, atol=1e-14)
    forward = torch.func.jvp(lambda z: bures(z, b), (a,), (b,))[1]
    torch.testing.assert_close(forward, (gradient * b).sum((-2, -1)), rtol=1e-12, atol=0)
    assert bures(a.float(), b.float()).dtype is torch.float32
    torch.testing.assert_close(bures(a.float(), b.float()).double(), bures(a, b), rtol=1e-5, atol=0)
    assert bures(a.bfloat16(), b.bfloat16()).dtype is torch.float32


def test_first_order_by_quantiles():
    u = (torch.arange(200_000, dtype=f64) + 0.5) / 200_000
    quantile = torch.tensor(scipy.stats.norm.ppf(u.numpy()))
    for mean, scale in ((0.3, 2.0), (-2.0, 0.5), (0.0, 3.0), (5.0, 1.1)):
        wanted = (quantile - (mean + scale * quantile)).abs().mean().item()
        got = wasserstein1_normal(Normal(t(0.0), t(1.0)), Normal(t(mean), t(scale)))
        assert got.item() == pytest.approx(wanted, rel=1e-4)  # of the midpoint rule in the tails
    assert wasserstein1_normal(Normal(t(0.0), t(1.0)), Normal(t(-3.0), t(1.0))).item() == 3
    x = (t(0.2).requires_grad_(), t(1.0).requires_grad_(), t(0.9).requires_grad_(), t(1.7).requires_grad_())
    for y in (x, (x[0], x[1], t(0.2).requires_grad_(), x[3])):
        assert torch.autograd.gradcheck(lambda a, b, c, d: wasserstein1_normal(Normal(a, b), Normal(c, d)), y)
        assert torch.autograd.gradgradcheck(lambda a, b, c, d: wasserstein1_normal(Normal(a, b), Normal(c, d)), y)
    far, same = t(1e300).requires_grad_(), Normal(t(0.0), t(1.0).requires_grad_())
    value = wasserstein1_normal(same, Normal(far, same.scale))
    assert [g.item() for g in torch.autograd.grad(value, (far, same.scale))] == [1, 0]
    assert not math.isnan(torch.autograd.grad(wasserstein1_normal(same, same), same.scale)[0].item())


@pytest.mark.compile
def test_compiled_in_one_graph():
    torch._dynamo.reset()
    a, b = draw(19, 3, 3), draw(20, 3, 3)
    torch.testing.assert_close(torch.compile(bures, backend="aot_eager", fullgraph=True)(a, b), bures(a, b))


@pytest.mark.untyped
def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"same number of rows, the dimension; got float64 \(3, 2\) and float64 \(2, 2\)"):
        bures(draw(0, 3, 2), draw(0, 2, 2))
    with pytest.raises(TypeError, match=r"a must be a floating-point tensor of shape \(\*batch, d, k\); got float64 \(3,\)"):
        bures(draw(0, 3), draw(0, 3))
    with pytest.raises(NotImplementedError, match="wasserstein1_normal: it has no closed form here for"):
        wasserstein1_normal(LogNormal(t(0.0), t(1.0)), Normal(t(0.0), t(1.0)))
    with pytest.raises(ValueError, match="wasserstein_gaussian: p and q must have the same event shape; got MultivariateNormal"):
        wasserstein_gaussian(*(MultivariateNormal(torch.zeros(d), torch.eye(d)) for d in (2, 3)))
    with pytest.raises(TypeError, match=r"wasserstein_gaussian: q must be a distribution of torch; got float64 \(3,\)"):
        wasserstein_gaussian(Normal(t(0.0), t(1.0)), draw(0, 3))
