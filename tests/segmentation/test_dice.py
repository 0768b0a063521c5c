"""Dice and Dice with cross-entropy: against loops in plain Python, and against MONAI and nnU-Net on frozen numbers.

The frozen numbers are the outputs of MONAI 1.6.1 (`monai.losses`) and of nnU-Net at commit 0e49508 (`nnunetv2.training.loss`) on
``problem(shape)``: logits and labels from Python's own generator, whose stream is promised to stay. nnU-Net sums in float32, so its
numbers hold to about 1e-6.
"""

import math
import random

import pytest
import torch
import torch.nn.functional as F

import lossmith

FLAT, SOLID = (2, 3, 5, 4), (2, 3, 3, 4, 2)


def problem(shape: tuple[int, ...], ignored: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels, 30 % of them 255 when `ignored`."""
    draw = random.Random(20161606)
    n, c, *d = shape
    z = torch.tensor([draw.gauss(0, 2) for _ in range(math.prod(shape))], dtype=torch.float64).reshape(shape)
    y = torch.tensor([draw.randrange(c) for _ in range(z.numel() // c)]).reshape(n, *d)
    drop = torch.tensor([draw.random() < 0.3 for _ in range(z.numel() // c)]).reshape(n, *d)
    return z, torch.where(drop, 255, y) if ignored else y


def one_hot(y: torch.Tensor) -> torch.Tensor:
    return F.one_hot(y, 3).movedim(-1, 1).double()


MONAI = [
    ({}, (0.6676204878250128, 0.6254457808962708)),
    ({"over": "batch"}, (0.6621460972367054, 0.6194782105052726)),
    ({"squared": True}, (0.5916701374964296, 0.5448524431982665)),
    ({"include_background": False}, (0.6060575234035768, 0.6148392774268907)),
    ({"smooth": 1.0, "reduction": "sum"}, (3.704503803487613, 3.5247975527359134)),
]


@pytest.mark.parametrize(("options", "theirs"), MONAI)
def test_dice_is_monais(options, theirs):
    for shape, expected in zip((FLAT, SOLID), theirs, strict=True):
        z, y = problem(shape)
        assert lossmith.dice_loss(z, y, **options).item() == pytest.approx(expected, rel=1e-12)
        assert lossmith.dice_loss(z, one_hot(y), **options).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("shape", "expected"), [(FLAT, 0.6133713313648536), (SOLID, 0.5761793752055432)])
def test_dice_of_channels_is_monais(shape, expected):
    z, y = problem(shape)
    assert lossmith.dice_loss(z, one_hot(y), activation="sigmoid").item() == pytest.approx(expected, rel=1e-12)


NNUNET = [
    ({}, (-0.3323795199394226, -0.37455424666404724)),
    ({"over": "batch", "include_background": False}, (-0.4024559259414673, -0.39243555068969727)),
    ({"over": "batch", "smooth": 0}, (-0.33785364031791687, -0.3805215656757355)),
]


@pytest.mark.parametrize(("options", "theirs"), NNUNET)
def test_dice_is_one_plus_nnunets(options, theirs):
    for shape, expected in zip((FLAT, SOLID), theirs, strict=True):
        z, y = problem(shape)
        assert lossmith.dice_loss(z, y, **options).item() == pytest.approx(1 + expected, abs=2e-7)


@pytest.mark.parametrize(
    ("shape", "plain", "weighted"), [(FLAT, 2.8129034399781228, 4.589337927837323), (SOLID, 2.4137246591903336, 3.8803399766121)]
)
def test_dice_cross_entropy_is_monais(shape, plain, weighted):
    z, y = problem(shape)
    assert lossmith.dice_cross_entropy(z, y).item() == pytest.approx(plain, rel=1e-12)
    options = {"over": "batch", "dice_weight": 0.5, "cross_entropy_weight": 2.0, "include_background": False}
    assert lossmith.dice_cross_entropy(z, y, **options).item() == pytest.approx(weighted, rel=1e-12)


COMPOUND = [  # options, then (nothing ignored, 255 ignored, channels) a shape
    ({}, ((1.8129034322136879, 1.5001065490570489, 0.6835434436798096), (1.4137246316300158, 0.9656401457450763, 0.5352201461791992))),
    (
        {"over": "batch", "include_background": False},
        ((1.7428270262116432, 1.4120472131100121, 0.6500043869018555), (1.3958433276043658, 0.9845348181388751, 0.5390932559967041)),
    ),
]


@pytest.mark.parametrize(("options", "theirs"), COMPOUND)
def test_dice_cross_entropy_is_one_plus_nnunets(options, theirs):
    for shape, (plain, ignored, channels) in zip((FLAT, SOLID), theirs, strict=True):
        z, y = problem(shape)
        assert lossmith.dice_cross_entropy(z, y, **options).item() == pytest.approx(1 + plain, abs=1e-6)
        found = lossmith.dice_cross_entropy(z, one_hot(y), activation="sigmoid", **options)
        assert found.item() == pytest.approx(1 + channels, abs=1e-6)
        found = lossmith.dice_cross_entropy(*problem(shape, ignored=True), ignore_index=255, **options)
        assert found.item() == pytest.approx(1 + ignored, abs=1e-6)


def by_hand(z: torch.Tensor, y: torch.Tensor, weights: torch.Tensor, smooth: float) -> list[list[float]]:
    """Dice a sample and class, element by element; elements of weight 0 are not looked at."""
    n, c = z.shape[:2]
    rows = z.movedim(1, -1).reshape(n, -1, c).tolist()
    losses = []
    for sample, labels, shares in zip(rows, y.reshape(n, -1).tolist(), weights.reshape(n, -1).tolist(), strict=True):
        overlap, predicted, actual = [0.0] * c, [0.0] * c, [0.0] * c
        for logits, label, share in zip(sample, labels, shares, strict=True):
            if share == 0:
                continue
            total = sum(map(math.exp, logits))
            for k, value in enumerate(logits):
                overlap[k] += share * math.exp(value) / total * (k == label)
                predicted[k] += share * math.exp(value) / total
                actual[k] += share * (k == label)
        losses.append([1 - (2 * overlap[k] + smooth) / (predicted[k] + actual[k] + smooth) for k in range(c)])
    return losses


@pytest.mark.parametrize("shape", [FLAT, SOLID, (3, 3)])
def test_dice_is_the_loop_with_sample_weights(shape):
    z, y = problem(shape)
    shares = torch.rand(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    found = lossmith.dice_loss(z, y, sample_weight=shares, smooth=0.3, reduction="none")
    torch.testing.assert_close(found, torch.tensor(by_hand(z, y, shares, 0.3), dtype=torch.float64))


def test_ignoring_is_deleting():
    z, y = problem(FLAT, ignored=True)
    one, label = z[:1], y[:1]
    kept = label[0] != 255
    fewer, labels = one[:, :, kept], label[:, kept]
    for loss in (lossmith.dice_loss, lossmith.dice_cross_entropy):
        expected = loss(fewer, labels)
        torch.testing.assert_close(loss(one, label, ignore_index=255), expected)
        torch.testing.assert_close(loss(one, torch.where(kept, label, 0), sample_weight=kept.double().unsqueeze(0)), expected)
        garbage = torch.where(kept, one, torch.nan).requires_grad_()
        found = loss(garbage, label, ignore_index=255)
        torch.testing.assert_close(found, expected)
        (slope,) = torch.autograd.grad(found, garbage)
        assert slope.isfinite().all()
        assert slope[:, :, ~kept].abs().max().item() == 0


@pytest.mark.parametrize("loss", [lossmith.dice_loss, lossmith.dice_cross_entropy])
def test_a_sample_weight_is_one_an_element_for_channels_too(loss):
    z, y = problem((3, 3, 3, 3))  # every axis of the same length: nothing but the meaning tells them apart
    t = one_hot(y)
    kept = torch.rand(3, 3, 3, generator=torch.Generator().manual_seed(1)) < 0.6
    marked = torch.where(kept.unsqueeze(1), t, -100.0)
    torch.testing.assert_close(loss(z, t, activation="sigmoid", sample_weight=kept.double()), loss(z, marked, activation="sigmoid"))


@pytest.mark.parametrize("loss", [lossmith.dice_loss, lossmith.dice_cross_entropy])
def test_channels_take_class_indices_too(loss):
    z, y = problem(FLAT, ignored=True)
    t = torch.where(y.unsqueeze(1) == 255, -100, (y.unsqueeze(1) == torch.arange(3).reshape(3, 1, 1)).double())
    shares = torch.rand(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for options in ({}, {"sample_weight": shares, "weight": torch.tensor([1.0, 0.5, 2.0])}):
        torch.testing.assert_close(
            loss(z, y, activation="sigmoid", ignore_index=255, **options), loss(z, t, activation="sigmoid", **options)
        )


def test_class_weights_are_in_the_denominator_of_both_parts():
    z, y = problem(FLAT)
    weight = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)
    each = lossmith.dice_loss(z, y, reduction="none")
    dice = (each * weight).sum() / (2 * weight.sum())
    torch.testing.assert_close(lossmith.dice_loss(z, y, weight=weight), dice)
    torch.testing.assert_close(lossmith.dice_loss(z, y, weight=weight, include_background=False), (each * weight)[:, 1:].sum() / 8)
    both = lossmith.dice_cross_entropy(z, y, weight=weight)
    torch.testing.assert_close(both, dice + F.cross_entropy(z, y, weight=weight))
    channels = lossmith.dice_cross_entropy(z, one_hot(y), activation="sigmoid", weight=weight, dice_weight=0.0)
    torch.testing.assert_close(channels, lossmith.binary_cross_entropy(z, one_hot(y), weight=weight))


def test_class_probabilities_with_cross_entropy():
    z, _ = problem(FLAT)
    t = torch.softmax(problem((2, 3, 5, 4), ignored=True)[0].flip(0), 1)
    torch.testing.assert_close(lossmith.dice_cross_entropy(z, t), lossmith.dice_loss(z, t) + F.cross_entropy(z, t))


@pytest.mark.parametrize("smooth", [0.0, 1e-5, 1.0])
@pytest.mark.parametrize("over", ["sample", "batch"])
def test_nothing_kept_costs_nothing(smooth, over):
    z, y = problem(FLAT)
    for loss in (lossmith.dice_loss, lossmith.dice_cross_entropy):
        leaf = z.clone().requires_grad_()
        found = loss(leaf, torch.full_like(y, -100), smooth=smooth, over=over)
        found.backward()
        assert found.item() == 0
        assert leaf.grad.abs().max().item() == 0
        assert loss(z[:0], y[:0], smooth=smooth, over=over).item() == 0


def test_nothing_over_nothing_is_0_with_a_zero_gradient():
    """A class that is nowhere and whose probability underflows: 0 / 0 with smooth = 0."""
    z = torch.tensor([[[9.0, 9.0], [0.0, 0.0], [-1e4, -1e4]]], requires_grad=True)
    loss = lossmith.dice_loss(z, torch.tensor([[0, 1]]), smooth=0, reduction="none")
    assert loss[0, 2].item() == 0
    (slope,) = torch.autograd.grad(loss.sum(), z, create_graph=True)
    assert slope.isfinite().all()
    assert torch.autograd.grad(slope.square().sum(), z)[0].isfinite().all()


def test_one_channel():
    z, t = torch.tensor([[[0.0, 2.0]]], dtype=torch.float64), torch.tensor([[[0.0, 1.0]]], dtype=torch.float64)
    p = 1 / (1 + math.exp(-2))
    assert lossmith.dice_loss(z, t, activation="sigmoid", smooth=0).item() == pytest.approx(1 - 2 * p / (0.5 + p + 1))
    with pytest.raises(ValueError, match=r'For one logit an answer use lossmith.dice_loss\(..., activation="sigmoid"\)'):
        lossmith.dice_loss(z, torch.tensor([[0, 0]]))


def test_half_precision_is_computed_in_float32():
    z, y = problem(SOLID)
    half = z.bfloat16().requires_grad_()
    for loss in (lossmith.dice_loss, lossmith.dice_cross_entropy):
        found = loss(half, y)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, loss(z.bfloat16().float(), y))
        assert torch.autograd.grad(found, half)[0].dtype == torch.bfloat16


@pytest.mark.untyped
def test_bad_options():
    z, y = problem(FLAT)
    for loss in (lossmith.dice_loss, lossmith.dice_cross_entropy):
        name = loss.__name__
        with pytest.raises(ValueError, match=rf"{name}: activation must be in 'softmax' \| 'sigmoid'; got 'sigmoit'"):
            loss(z, y, activation="sigmoit")
        with pytest.raises(ValueError, match=f"{name}: over must be 'sample', 'batch' or 'ranks'; got 'image'"):
            loss(z, y, over="image")
        with pytest.raises(ValueError, match=f"{name}: group goes with over='ranks'; got over='batch'"):
            loss(z, y, over="batch", group="some group")
        with pytest.raises(ValueError, match=rf"{name}: smooth must be in \[0, inf\); got -1"):
            loss(z, y, smooth=-1)
        with pytest.raises(ValueError, match=f"{name}: input must have shape"):
            loss(z.flatten(), y.flatten())
        with pytest.raises(ValueError, match=rf"{name}: sample_weight must have shape \(2, 5, 4\)"):
            loss(z, one_hot(y), activation="sigmoid", sample_weight=torch.ones(2, 3))
        with pytest.raises(ValueError, match="over='ranks' needs"):
            loss(z, y, over="ranks")
    with pytest.raises(ValueError, match=r"dice_cross_entropy: dice_weight must be in \[0, inf\); got -1.0"):
        lossmith.dice_cross_entropy(z, y, dice_weight=-1.0)
    with pytest.raises(TypeError, match="reduction"):
        lossmith.dice_cross_entropy(z, y, reduction="sum")
    with pytest.raises(TypeError, match="dice_cross_entropy: no option 'reduction'"):
        lossmith.objective("dice_cross_entropy", reduction="sum")


def test_a_channel_ruled_out_by_an_infinite_logit_costs_nothing_where_it_is_absent():
    z = torch.tensor([[[-math.inf, math.inf]], [[-math.inf, 0.0]]], requires_grad=True)
    loss = lossmith.dice_cross_entropy(z, torch.tensor([[[0, 1]], [[0, 1]]]), activation="sigmoid", dice_weight=0.0)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2) / 4)
    assert torch.equal(z.grad, torch.tensor([[[0.0, 0.0]], [[0.0, -0.125]]]))
