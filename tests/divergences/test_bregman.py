"""Bregman divergences of functions whose divergences have names."""

import pytest
import torch

from lossmith.divergences import bregman, divergence

f64 = torch.float64
P, Q = (torch.randn(4, 3, dtype=f64, generator=torch.Generator().manual_seed(s)).softmax(-1) for s in (0, 1))


def negative_entropy(p):
    return -torch.special.entr(p).sum(-1)


def test_named_ones():
    torch.testing.assert_close(bregman(P, Q, lambda x: x.square().sum(-1)), (P - Q).square().sum(-1), rtol=1e-12, atol=0)
    torch.testing.assert_close(bregman(P, Q, negative_entropy), divergence(P, Q, "kl"), rtol=1e-11, atol=0)
    itakura_saito = (P / Q - (P / Q).log() - 1).sum(-1)
    torch.testing.assert_close(bregman(P, Q, lambda x: -x.log().sum(-1)), itakura_saito, rtol=1e-11, atol=0)
    matrix = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, 0.2], [0.0, 0.2, 3.0]], dtype=f64)
    mahalanobis = torch.einsum("ni,ij,nj->n", P - Q, matrix, P - Q)
    torch.testing.assert_close(bregman(P, Q, lambda x: torch.einsum("...i,ij,...j->...", x, matrix, x)), mahalanobis, rtol=1e-11, atol=0)


def test_the_bijection_with_exponential_families():
    """With the log-partition of a softmax it is KL in the other order: B(theta_p, theta_q) = KL(q || p)."""
    p, q = P.log(), Q.log()
    value = bregman(p, q, lambda x: x.logsumexp(-1))
    torch.testing.assert_close(value, divergence(Q, P, "kl"), rtol=1e-11, atol=0)


def test_gradients_reach_everything():
    weight = torch.tensor(1.3, dtype=f64, requires_grad=True)
    p, q = P.clone().requires_grad_(), Q.clone().requires_grad_()
    function = lambda p, q, w: bregman(p, q, lambda x: (w * x.pow(3) + x.exp()).sum(-1))  # noqa: E731
    assert torch.autograd.gradcheck(function, (p, q, weight))
    assert torch.autograd.gradgradcheck(function, (p, q, weight))
    torch.testing.assert_close(torch.vmap(lambda a, b: bregman(a, b, negative_entropy))(P, Q), bregman(P, Q, negative_entropy))


def test_where_the_slope_is_infinite():
    edge = torch.tensor([1.0, 0.0], dtype=f64)
    assert bregman(edge, edge, negative_entropy).item() == 0
    assert bregman(torch.tensor([0.5, 0.5], dtype=f64), edge, negative_entropy).item() == float("inf")


def test_shapes_and_precision():
    assert bregman(torch.zeros(5, 1, 3), torch.zeros(4, 3), lambda x: x.square().sum(-1)).shape == (5, 4)
    assert bregman(P.bfloat16(), Q.bfloat16(), negative_entropy).dtype is torch.float32


@pytest.mark.compile
def test_compiled_in_one_graph():
    torch._dynamo.reset()
    compiled = torch.compile(lambda p, q: bregman(p, q, negative_entropy), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(P, Q), bregman(P, Q, negative_entropy))


@pytest.mark.untyped
def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"phi must give one number a row, of shape \(4,\); got float64 \(4, 3\)"):
        bregman(P, Q, lambda x: x.square())
    with pytest.raises(TypeError, match=r"q must be a floating-point tensor of shape \(\*rows, c\); got int 3"):
        bregman(P, 3, negative_entropy)
