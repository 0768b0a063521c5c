"""Binary cross-entropy against torch and the table of differences in its docstring; the asymmetric loss against its formula."""

import math

import pytest
import torch
import torch.nn.functional as F

import lossmith


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(5)
    z = torch.randn(shape, generator=random, dtype=dtype) * 3
    return z, (torch.rand(shape, generator=random) < 0.4).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("soft", [False, True])
def test_it_is_torchs_with_positive_weights_a_label(dtype, soft):
    z, t = draw(40, 6, dtype=dtype)
    t = torch.rand(t.shape, generator=torch.Generator().manual_seed(1), dtype=dtype) if soft else t
    weight, pos_weight = torch.arange(1.0, 7.0, dtype=dtype), torch.tensor([0.5, 1.0, 2.0, 3.0, 10.0, 0.1], dtype=dtype)
    rounding = 4 * torch.finfo(dtype).eps
    for given in ({}, {"pos_weight": pos_weight}, {"weight": weight}, {"weight": weight, "pos_weight": pos_weight}):
        theirs = F.binary_cross_entropy_with_logits(z, t, reduction="none", **given)
        scale = given.get("weight", torch.ones(6, dtype=dtype)) * given.get("pos_weight", torch.ones(6, dtype=dtype)).clamp_min(1)
        assert ((lossmith.binary_cross_entropy(z, t, reduction="none", **given) - theirs).abs() <= rounding * scale * (1 + z.abs())).all()
    torch.testing.assert_close(lossmith.binary_cross_entropy(z, t), F.binary_cross_entropy_with_logits(z, t))
    torch.testing.assert_close(
        lossmith.binary_cross_entropy(z, t, pos_weight=pos_weight), F.binary_cross_entropy_with_logits(z, t, pos_weight=pos_weight)
    )


def test_answers_of_yes_are_torchs_bit_for_bit():
    z = draw(1000, dtype=torch.float32)[0] * 4
    yes = torch.ones_like(z)
    ours, theirs = lossmith.binary_cross_entropy(z, yes, reduction="none"), F.binary_cross_entropy_with_logits(z, yes, reduction="none")
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("answer", [0.0, 1.0])
def test_float32_is_right_to_the_last_places_where_torchs_digits_cancel(answer):
    z = torch.linspace(-80, 80, 3201)
    t = torch.full_like(z, answer)
    exact = torch.where(t == 1, -z.double(), z.double()).exp().log1p()
    error = (lossmith.binary_cross_entropy(z, t, reduction="none").double() - exact).abs() / exact
    assert error.max().item() < 4 * torch.finfo(torch.float32).eps


def test_the_table_of_differences():
    one = torch.tensor([-20.0])
    assert F.binary_cross_entropy_with_logits(one, torch.zeros(1)).item() == 0
    assert lossmith.binary_cross_entropy(one, torch.zeros(1)).item() == pytest.approx(math.exp(-20), rel=1e-6)

    z, t = draw(5, 2)
    weight = torch.tensor([1.0, 3.0], dtype=torch.float64)
    each = F.binary_cross_entropy_with_logits(z, t, weight, reduction="none")
    assert F.binary_cross_entropy_with_logits(z, t, weight).item() == pytest.approx(each.sum().item() / 10)
    assert lossmith.binary_cross_entropy(z, t, weight=weight).item() == pytest.approx(each.sum().item() / 20)

    partly = t.clone()
    partly[0, 1] = -100
    kept = torch.ones(5, 2, dtype=torch.bool)
    kept[0, 1] = False
    plain = lossmith.binary_cross_entropy(z[kept], t[kept])
    torch.testing.assert_close(lossmith.binary_cross_entropy(z, partly), plain)
    torch.testing.assert_close(lossmith.binary_cross_entropy(z, t, sample_weight=kept.double()), plain)

    assert F.binary_cross_entropy_with_logits(z[:0], t[:0]).isnan()
    leaf = z.clone().requires_grad_()
    nothing = lossmith.binary_cross_entropy(leaf, torch.full_like(t, -100))
    nothing.backward()
    assert nothing.item() == 0
    assert leaf.grad.abs().max().item() == 0

    half = z.bfloat16()
    assert F.binary_cross_entropy_with_logits(half, t.bfloat16()).dtype == torch.bfloat16
    torch.testing.assert_close(lossmith.binary_cross_entropy(half, t), lossmith.binary_cross_entropy(half.float(), t))

    low = torch.tensor([float("-inf")], requires_grad=True)
    assert F.binary_cross_entropy_with_logits(low, torch.zeros(1)).isnan()
    never = lossmith.binary_cross_entropy(low, torch.zeros(1))
    assert never.item() == 0
    assert torch.autograd.grad(never, low)[0].item() == 0

    with pytest.raises(RuntimeError):
        F.binary_cross_entropy_with_logits(z, t.long())
    for kind in (torch.int64, torch.bool, torch.uint8):
        assert torch.equal(lossmith.binary_cross_entropy(z, t.to(kind)), lossmith.binary_cross_entropy(z, t))

    F.binary_cross_entropy_with_logits(z, t + 1)
    with pytest.raises(ValueError, match=r"binary_cross_entropy: target must hold numbers in \[0, 1\]"):
        lossmith.binary_cross_entropy(z, t + 1)


def asymmetric(z: float, t: int, gamma_negative: float, gamma_positive: float, shift: float) -> float:
    p = 1 / (1 + math.exp(-z))
    if t:
        return -((1 - p) ** gamma_positive) * math.log(p)
    shifted = max(p - shift, 0.0)
    return -(shifted**gamma_negative) * math.log(1 - shifted)


@pytest.mark.parametrize("hyper", [(4.0, 1.0, 0.05), (4.0, 0.0, 0.05), (2.0, 2.0, 0.2), (1.0, 0.0, 0.0), (0.0, 0.0, 0.3), (0.5, 0.5, 0.7)])
def test_the_asymmetric_loss_is_its_formula(hyper):
    names = dict(zip(("gamma_negative", "gamma_positive", "shift"), hyper, strict=True))
    z = torch.linspace(-12, 12, 97, dtype=torch.float64).unsqueeze(1)
    for t in (0, 1):
        expected = torch.tensor([[asymmetric(v, t, *hyper)] for v in z.flatten().tolist()], dtype=torch.float64)
        found = lossmith.asymmetric_loss(z, torch.full(z.shape, t), reduction="none", **names)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-13)
        assert found.min().item() >= 0


def test_the_asymmetric_loss_by_hand():
    z = torch.tensor([[0.0, 0.0, -5.0]], dtype=torch.float64)
    t = torch.tensor([[1, 0, 0]])
    found = lossmith.asymmetric_loss(z, t, reduction="none")
    torch.testing.assert_close(found[0], torch.tensor([0.5 * math.log(2), -(0.45**4) * math.log(0.55), 0.0], dtype=torch.float64))
    weight, pos_weight = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), torch.tensor([5.0, 1.0, 1.0], dtype=torch.float64)
    weighted = lossmith.asymmetric_loss(z, t, weight=weight, pos_weight=pos_weight)
    assert weighted.item() == pytest.approx((5 * 0.5 * math.log(2) - 2 * 0.45**4 * math.log(0.55)) / 6)
    soft = lossmith.asymmetric_loss(z, torch.full((1, 3), 0.25, dtype=torch.float64), reduction="none")
    assert soft[0, 0].item() == pytest.approx(0.25 * 0.5 * math.log(2) - 0.75 * 0.45**4 * math.log(0.55))


def test_the_asymmetric_loss_has_the_full_gradient():
    """Not the authors' default, which takes the focusing factor as a constant."""
    z = torch.tensor([[0.4]], dtype=torch.float64, requires_grad=True)
    for t in (0, 1):
        (found,) = torch.autograd.grad(lossmith.asymmetric_loss(z, torch.tensor([[t]])), z)
        h = 1e-6
        slope = (asymmetric(0.4 + h, t, 4.0, 1.0, 0.05) - asymmetric(0.4 - h, t, 4.0, 1.0, 0.05)) / (2 * h)
        assert found.item() == pytest.approx(slope, rel=1e-7)


@pytest.mark.parametrize("shift", [0.0, 1e-3, 0.05, 0.6])
@pytest.mark.parametrize("gamma", [0.0, 0.3, 4.0])
def test_the_asymmetric_loss_at_extreme_logits(gamma, shift):
    values = [-1e4, -200.0, -104.0, -80.0, -30.0, 0.0, 16.0, 30.0, 80.0, 104.0, 200.0, 1e4]
    found = []
    for dtype in (torch.float32, torch.float64):
        z = torch.tensor([values], dtype=dtype, requires_grad=True)
        no = lossmith.asymmetric_loss(z, torch.zeros(1, 12), gamma_negative=gamma, shift=shift, reduction="none")
        (slope,) = torch.autograd.grad(no.sum(), z)
        assert slope.isfinite().all()
        found.append((no.detach(), slope))
    torch.testing.assert_close(found[0][0].double(), found[1][0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[0][1].double(), found[1][1], rtol=1e-5, atol=1e-6)
    if shift:
        assert found[1][0][0, -1].item() == pytest.approx(-((1 - shift) ** gamma) * math.log(shift))
    else:
        assert found[0][0][0, -1].item() == 1e4


def test_the_asymmetric_loss_between_its_relatives():
    z, t = draw(20, 3)
    plain = lossmith.asymmetric_loss(z, t, gamma_negative=0.0, gamma_positive=0.0, shift=0.0)
    torch.testing.assert_close(plain, lossmith.binary_cross_entropy(z, t))
    focal = lossmith.asymmetric_loss(z, t, gamma_negative=2.0, gamma_positive=2.0, shift=0.0)
    torch.testing.assert_close(focal, lossmith.binary_focal_loss(z, t))


def test_hyper_parameters_of_the_asymmetric_loss_can_be_learnt():
    z, t = draw(20, 3)
    learnt = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (4.0, 1.0, 0.05)]

    def loss(gamma_negative, gamma_positive, shift):
        return lossmith.asymmetric_loss(z, t, gamma_negative=gamma_negative, gamma_positive=gamma_positive, shift=shift)

    assert torch.autograd.gradcheck(loss, learnt)
    none = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(loss(0.0, 0.0, none), none)
    odds = torch.where(t == 0, z.exp(), 0)  # d/dm of -log(m + sigma(-z)) at m = 0 is -(1 + e^z)
    assert found.item() == pytest.approx(-(torch.where(t == 0, 1, 0) + odds).mean().item())
    with pytest.raises(ValueError, match=r"asymmetric_loss: shift must be in \[0, 1\); got 1.0"):
        lossmith.asymmetric_loss(z, t, shift=1.0)
