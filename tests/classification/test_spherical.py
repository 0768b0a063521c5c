"""The spherical family against loops over the classes, closed forms and torch."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
import torch.nn.functional as F

import lossmith
from lossmith.fused import LinearLogits

FAMILY = [lossmith.zscore_loss, lossmith.one_hot_squared_loss]
LOGITS = torch.tensor([[2.0, 0.0, -1.0, 0.5], [0.3, 0.2, 1.0, -4.0], [-2.0, 3.0, 0.0, 3.0]], dtype=torch.float64)
TARGET = torch.tensor([0, 3, 2])


def softplus(x):
    return x + math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x))


def zscore(z, y, a=1.0, b=0.0):
    return softplus(a * (b - (z[y] - statistics.fmean(z)) / statistics.pstdev(z))) / a


def squared(z, y):
    return sum((v - (k == y)) ** 2 for k, v in enumerate(z))


LOOPS = dict(zip(FAMILY, (zscore, squared), strict=True))


@pytest.mark.parametrize("loss", FAMILY)
def test_it_equals_a_loop(loss):
    expected = [LOOPS[loss](z, y) for z, y in zip(LOGITS.tolist(), TARGET.tolist(), strict=True)]
    assert loss(LOGITS, TARGET, reduction="none").tolist() == pytest.approx(expected, rel=1e-13)
    assert loss(LOGITS, TARGET).item() == pytest.approx(statistics.fmean(expected), rel=1e-13)


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.0), (3.0, -1.0), (1.0, 2.5), (40.0, 1.0)])
def test_zscore_at_its_hyper_parameters(a, b):
    expected = [zscore(z, y, a, b) for z, y in zip(LOGITS.tolist(), TARGET.tolist(), strict=True)]
    assert lossmith.zscore_loss(LOGITS, TARGET, a=a, b=b, reduction="none").tolist() == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize(("a", "b"), [(1.0, 0.0), (2.0, -0.5)])
def test_zscores_gradient_is_the_papers(a, b):
    z = LOGITS.clone().requires_grad_()
    (found,) = torch.autograd.grad(lossmith.zscore_loss(z, TARGET, a=a, b=b, reduction="sum"), z)
    for row, y, gradient in zip(LOGITS.tolist(), TARGET.tolist(), found.tolist(), strict=True):
        sigma, c = statistics.pstdev(row), len(row)
        s = [(v - statistics.fmean(row)) / sigma for v in row]
        pull = 1 / (1 + math.exp(-a * (b - s[y])))
        assert gradient == pytest.approx([-pull / sigma * ((k == y) - (1 + s[y] * s[k]) / c) for k in range(c)], rel=1e-11, abs=1e-14)


def test_zscore_is_blind_to_offset_and_scale_and_its_gradient_orthogonal_to_both():
    z = LOGITS.clone().requires_grad_()
    value = lossmith.zscore_loss(z, TARGET, a=2.0, b=0.3, reduction="none")
    for scale, shift in ((1e-3, 0.0), (1.0, -7.0), (250.0, 1e3)):
        torch.testing.assert_close(
            lossmith.zscore_loss(scale * z + shift, TARGET, a=2.0, b=0.3, reduction="none"), value, rtol=1e-9, atol=0
        )
    (gradient,) = torch.autograd.grad(value.sum(), z)
    assert gradient.sum(1).abs().max() < 1e-15
    assert (gradient * LOGITS).sum(1).abs().max() < 1e-14
    assert gradient.abs().amax(1).min() > 1e-3


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_a_zscore_neither_overflows_nor_vanishes(size):
    z = (size * LOGITS.float()).requires_grad_()
    value = lossmith.zscore_loss(z, TARGET)
    assert value.item() == pytest.approx(lossmith.zscore_loss(LOGITS, TARGET).item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(value, z)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


def test_a_large_common_offset_costs_no_digits_in_single_precision():
    z = torch.tensor([[2.0, 0.0, -1.0, 0.5]]).repeat(1, 1000)
    exact = lossmith.zscore_loss(z.double(), torch.tensor([0])).item()
    assert lossmith.zscore_loss(z + 4096, torch.tensor([0])).item() == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("classes", [2, 5, 1000])
def test_the_least_and_the_largest_zscore_loss(classes):
    alone = torch.zeros(1, classes, dtype=torch.float64)
    alone[0, 0] = 3.0
    most = math.sqrt(classes - 1)
    assert lossmith.zscore_loss(alone, torch.tensor([0])).item() == pytest.approx(softplus(-most), rel=1e-9)
    assert lossmith.zscore_loss(-alone, torch.tensor([0])).item() == pytest.approx(softplus(most), rel=1e-9)


@pytest.mark.parametrize("level", [0.0, 0.1, -1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_logits_have_a_zscore_of_0_and_no_gradient(level, dtype):
    z = torch.full((1, 7), level, dtype=dtype, requires_grad=True)
    value = lossmith.zscore_loss(z, torch.tensor([4]), a=2.0, b=0.5)
    assert value.item() == pytest.approx(softplus(1.0) / 2, rel=1e-6)
    assert torch.autograd.grad(value, z)[0].tolist() == [[0.0] * 7]


def test_among_unequal_logits_the_zscore_risk_is_least_where_the_classes_are_ranked_as_the_truth_ranks_them():
    truth = torch.tensor([[0.5, 0.2, 0.3]], dtype=torch.float64)
    angle = torch.linspace(0, 2 * math.pi, 3601, dtype=torch.float64).unsqueeze(1)
    u, v = torch.tensor([[1.0, -1.0, 0.0]], dtype=torch.float64), torch.tensor([[1.0, 1.0, -2.0]], dtype=torch.float64)
    circle = u / u.norm() * angle.cos() + v / v.norm() * angle.sin()  # every row of three logits, up to offset and scale
    risk = lossmith.zscore_loss(circle, truth.expand(3601, 3), reduction="none")
    assert circle[risk.argmin()].argsort().tolist() == truth[0].argsort().tolist()


def test_squared_equals_torchs_mean_squared_error_of_the_one_hot_label():
    one_hot = F.one_hot(TARGET, 4).double()
    torch.testing.assert_close(lossmith.one_hot_squared_loss(LOGITS, TARGET), 4 * F.mse_loss(LOGITS, one_hot), rtol=1e-13, atol=0)
    z = one_hot.clone().requires_grad_()
    value = lossmith.one_hot_squared_loss(z, TARGET, reduction="none")
    assert value.abs().max() < 1e-15
    assert torch.autograd.grad(value.sum(), z)[0].abs().max() < 1e-15


def test_squared_is_least_at_the_class_probabilities():
    p = torch.tensor([[0.5, 0.2, 0.3]], dtype=torch.float64)
    z = p.clone().requires_grad_()
    value = lossmith.one_hot_squared_loss(z, p)
    assert torch.autograd.grad(value, z)[0].abs().max() < 1e-15
    assert value.item() == pytest.approx(1 - 0.38, rel=1e-12)  # 1 - |p|^2


@pytest.mark.parametrize("loss", FAMILY)
def test_class_probabilities_weights_and_ignored_rows(loss):
    soft = torch.softmax(LOGITS.flip(0), 1)
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    expected = [
        sum(t * w * LOOPS[loss](z, k) for k, (t, w) in enumerate(zip(ts, weight.tolist(), strict=True)))
        for z, ts in zip(LOGITS.tolist(), soft.tolist(), strict=True)
    ]
    assert loss(LOGITS, soft, weight=weight).item() == pytest.approx(sum(expected) / 3, rel=1e-12)
    z = torch.cat([LOGITS, torch.full((1, 4), torch.nan, dtype=torch.float64)]).requires_grad_()
    value = loss(z, torch.tensor([0, 3, 2, -100]), weight=weight)
    by_hand = [weight[y].item() * LOOPS[loss](r, y) for r, y in zip(LOGITS.tolist(), TARGET.tolist(), strict=True)]
    assert value.item() == pytest.approx(sum(by_hand) / (1 + 3 + 0.5), rel=1e-12)
    assert torch.autograd.grad(value, z)[0][3].tolist() == [0.0] * 4


@pytest.mark.parametrize("loss", FAMILY)
def test_a_class_at_minus_infinity_is_as_if_it_were_not_there(loss):
    z = torch.cat([LOGITS, torch.full((3, 1), -torch.inf, dtype=torch.float64)], 1).requires_grad_()
    value = loss(z, TARGET, reduction="none")
    torch.testing.assert_close(value, loss(LOGITS, TARGET, reduction="none"), rtol=1e-13, atol=0)
    assert torch.autograd.grad(value.sum(), z)[0].isfinite().all()
    assert loss(z, torch.tensor([4, 4, 4])).item() == pytest.approx(
        {squared: torch.inf, zscore: softplus(2.0)}[LOOPS[loss]]
    )  # their limits
    broken = LOGITS.clone()
    broken[0, 1] = torch.inf
    assert loss(broken, TARGET, reduction="none").isnan().tolist() == [True, False, False]


@pytest.mark.untyped
@pytest.mark.parametrize("loss", FAMILY)
def test_what_is_no_source_of_moments_is_refused(loss):
    from lossmith.fused import Logits, SphericalHead

    with pytest.raises(
        TypeError, match=rf"{loss.__name__}: input must be logits or a source with target_moments; got a Logits, which has none"
    ):
        loss(Logits(LOGITS), TARGET)
    with pytest.raises(TypeError, match=r"cross_entropy: input must be logits or a source with target_log_prob; got a SphericalLogits"):
        lossmith.cross_entropy(SphericalHead(4, 5)(LOGITS.float()), TARGET)
    with pytest.raises(TypeError, match=r"crammer_singer: input must be a tensor, for it needs every logit of a row; got a LinearLogits"):
        lossmith.crammer_singer(LinearLogits(LOGITS, LOGITS), TARGET)
    with pytest.raises(TypeError, match=r"a LinearLogits takes class indices; got float64"):
        loss(LinearLogits(LOGITS, LOGITS), torch.softmax(LOGITS, 1)[:, :3])
