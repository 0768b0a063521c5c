"""Where formats, infinities and empty denominators meet: each case was, or easily is, a silent error."""

import math

import numpy
import pytest
import torch
import torch.nn.functional as F

import lossmith
from lossmith._binary import of_binary
from lossmith._rows import of_logits
from lossmith.card import Claims, all_cards, aside, objective

INF = math.inf


def logits(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_narrow_target_is_not_compared_with_a_number_it_cannot_hold():
    # -100 compared as uint8 is 156, and 255 compared as int8 is -1
    z, y = logits(2, 200), torch.tensor([156, 3])
    assert torch.equal(lossmith.cross_entropy(z, y.to(torch.uint8), reduction="none"), F.cross_entropy(z, y, reduction="none"))
    assert lossmith.denominator(y.to(torch.uint8)).item() == 2
    with pytest.raises(ValueError, match="got -1"):
        lossmith.cross_entropy(z, torch.tensor([-1, 3], dtype=torch.int8), ignore_index=255)
    with pytest.raises(ValueError, match="got 156"):
        lossmith.binary_cross_entropy(z[:, 0], y.to(torch.uint8))
    mask = torch.tensor([[255, 1], [0, 255]], dtype=torch.uint8)
    ours = lossmith.dice_loss(logits(1, 2, 2, 2), mask[None], ignore_index=255)
    assert torch.equal(ours, lossmith.dice_loss(logits(1, 2, 2, 2), mask[None].long(), ignore_index=255))


@pytest.mark.parametrize("name", ["cross_entropy", "binary_cross_entropy"])
@pytest.mark.parametrize("number", [False, True])
def test_the_denominator_of_nothing_divides_by_one(name, number):
    z = torch.full((3, 4), math.nan, requires_grad=True)
    y = torch.full((3,) if name == "cross_entropy" else (3, 4), -100)
    total = lossmith.denominator(y, elementwise=name != "cross_entropy")
    loss = getattr(lossmith, name)(z, y, denominator=total.item() if number else total)
    loss.backward()
    assert loss.item() == 0
    assert z.grad is not None
    assert (z.grad == 0).all()


@pytest.mark.parametrize("weights", ["none", "number", "labels"])
@pytest.mark.parametrize("samples", ["none", "rows", "elements"])
@pytest.mark.parametrize("pos_weight", [False, True])
def test_the_denominator_of_elements_is_what_a_mean_divides_by(weights, samples, pos_weight):
    z, y = logits(5, 3, 2), torch.rand(5, 3, 2, generator=torch.Generator().manual_seed(1))
    y[0, 1] = -100
    weight = {"none": None, "number": torch.tensor(2.5), "labels": torch.tensor([0.5, 0.0, 3.0])}[weights]
    sample_weight = {"none": None, "rows": torch.tensor([0.0, 1, 2, 3, 4]), "elements": torch.arange(30.0).reshape(5, 3, 2)}[samples]
    options = {"weight": weight, "sample_weight": sample_weight}
    total = lossmith.denominator(y, elementwise=True, **options)
    each = 1.0 if weight is None else weight if weight.ndim == 0 else weight[:, None]
    each = each * (1.0 if sample_weight is None else sample_weight if sample_weight.ndim == 3 else sample_weight[:, None, None])
    assert total.item() == pytest.approx((each * (y != -100)).sum().item(), rel=1e-6)
    if pos_weight:
        options["pos_weight"] = torch.tensor([2.0, 3.0, 4.0])
    mean = lossmith.binary_cross_entropy(z, y, **options)
    torch.testing.assert_close(lossmith.binary_cross_entropy(z, y, reduction="sum", **options) / total, mean)
    torch.testing.assert_close(lossmith.binary_cross_entropy(z, y, denominator=total, **options), mean)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_mean_of_weighted_soft_targets_divides_by_the_weights_of_the_rows_alone(smoothing):
    z, soft = logits(6, 3, 2), logits(6, 3, 2, seed=1).softmax(1)
    weight, sample_weight = torch.tensor([0.2, 1.0, 5.0]), torch.rand(6, 2, generator=torch.Generator().manual_seed(2))
    sample_weight[0] = 0
    each = F.cross_entropy(z, soft, weight=weight, label_smoothing=smoothing, reduction="none")
    mean = lossmith.cross_entropy(z, soft, weight=weight, sample_weight=sample_weight, label_smoothing=smoothing)
    torch.testing.assert_close(mean, (each * sample_weight).sum() / sample_weight.sum())
    torch.testing.assert_close(mean * lossmith.denominator(soft, weight=weight, sample_weight=sample_weight), (each * sample_weight).sum())


MISTAKES = [
    (lambda z, y: lossmith.cross_entropy(z, y, denominator=torch.ones(2)), ValueError, "denominator must be a number or a 0-d tensor"),
    (lambda z, y: lossmith.cross_entropy(z, y, denominator="3"), TypeError, "denominator must be a number or a 0-d tensor; got str '3'"),
    (lambda z, y: lossmith.cross_entropy(z, y, denominator=-1), ValueError, "denominator must be at least 0; got -1"),
    (lambda z, y: lossmith.cross_entropy(z, y, ignore_index=None), TypeError, "ignore_index must be an integer; got NoneType None"),
    (lambda z, y: lossmith.cross_entropy(z, y, ignore_index=1.5), TypeError, "ignore_index must be an integer; got float 1.5"),
    (lambda z, y: lossmith.cross_entropy(z, numpy.zeros((3, 4))), TypeError, r"target must be .* got ndarray array"),
    (lambda z, y: lossmith.generalized_cross_entropy(z, y, q=torch.rand(3)), ValueError, r"q must be a number or a 0-d tensor in \(0, 1\]"),
    (lambda z, y: lossmith.generalized_cross_entropy(z, y, q=None), TypeError, "q must be a number or a 0-d tensor"),
    (lambda z, y: lossmith.binary_cross_entropy(z, z.sigmoid() * math.nan), ValueError, r"target must hold numbers in \[0, 1\] .* got nan"),
    (lambda z, y: lossmith.binary_cross_entropy(z, z.sigmoid(), pos_weight=torch.ones(1)), ValueError, r"must have shape \(\) or \(4,\)"),
    (lambda z, y: lossmith.denominator(y, classes=2), ValueError, r"class indices in 0..1 or ignore_index=-100; got 2"),
    (lambda z, y: lossmith.denominator(y, weight=torch.ones(2)), ValueError, r"class indices in 0..1 or ignore_index=-100; got 2"),
    (lambda z, y: lossmith.denominator(y, weight=torch.ones(2), classes=4), ValueError, r"weight must have shape \(4,\)"),
    (lambda z, y: lossmith.denominator(y, sample_weight=torch.ones(1)), ValueError, r"must have shape \(3,\); got float32 \(1,\)"),
    (lambda z, y: lossmith.denominator(z, weight=torch.ones(3)), ValueError, r"weight must have shape \(4,\); got float32 \(3,\)"),
    (lambda z, y: lossmith.denominator(z, weight=torch.ones(3), elementwise=True), ValueError, r"weight must have shape \(\) or \(4,\)"),
    (lambda z, y: lossmith.objective(3), TypeError, "name_or_function must be a name or a function"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), MISTAKES)
@pytest.mark.untyped
def test_a_mistake_gets_one_line_that_names_the_argument(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call(logits(3, 4), torch.tensor([0, 1, 2]))
    assert "\n" not in str(caught.value)


def test_a_wide_hyper_parameter_or_denominator_does_not_widen_the_loss():
    z, y, q = logits(3, 4), torch.tensor([0, 1, 2]), torch.tensor(0.5, dtype=torch.float64)
    for loss in (
        lossmith.generalized_cross_entropy(z[0], y[0], q=q),
        lossmith.cross_entropy(z[0], y[0], label_smoothing=q),
        lossmith.cross_entropy(z, y, denominator=q),
        lossmith.dice_cross_entropy(z[..., None], y[:, None], dice_weight=q),
    ):
        assert loss.dtype == torch.float32


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cross_entropy", {}),
        ("cross_entropy", {"denominator": 5.0}),
        ("crammer_singer", {}),
        ("dice_cross_entropy", {}),
        ("dice_cross_entropy", {"dice_weight": 0.3, "cross_entropy_weight": 2.0}),
    ],
    ids=str,
)
def test_a_slope_in_forward_mode_is_as_wide_as_the_loss(name, ignored, options):
    # torch widens that of a 0-d tensor beside a number to float64
    z, y = logits(6, 4), torch.tensor([0, 1, 2, 3, 2, -100 if ignored else 1])
    value, slope = torch.func.jvp(lambda x: getattr(lossmith, name)(x, y, **options), (z,), (z,))
    assert value.dtype == slope.dtype == torch.float32


@pytest.mark.parametrize("share", [{"weight": torch.tensor([0.0, 1.0])}, {"label_smoothing": torch.tensor(0.0)}, {"label_smoothing": 1.0}])
@pytest.mark.parametrize("soft", [False, True])
def test_no_share_of_an_infinite_loss_is_nothing(share, soft):
    z = torch.tensor([[-INF, 0.0], [0.0, 1.0]], requires_grad=True)
    y = torch.tensor([[0.5, 0.5], [0.0, 1.0]]) if soft else torch.tensor([0 if "weight" in share else 1, 1])
    loss = lossmith.cross_entropy(z, y, **share)
    assert not loss.isnan()
    loss.backward()
    assert loss.isinf() or z.grad.isfinite().all()
    if "weight" in share:
        assert loss.item() == pytest.approx(math.log1p(math.exp(-1)) / (2 if soft else 1), rel=1e-6)


@pytest.mark.parametrize(
    "name", [name for name, card in all_cards().items() if card.form in ("binary", "multilabel") and not card.surrogate]
)
def test_an_infinite_logit_that_is_right_costs_nothing_and_moves_nothing(name):
    card = all_cards()[name]
    for setting in card.examples():
        z, t = torch.tensor([[-INF, INF]], requires_grad=True), torch.tensor([[0.0, 1.0]])
        loss = card.function(z, t, reduction="none", **setting)
        loss.sum().backward()
        assert loss[0, 0] == 0, setting
        assert torch.equal(loss, torch.zeros_like(loss)), setting
        assert torch.equal(z.grad, torch.zeros_like(z)), setting


@pytest.mark.parametrize("name", [name for name, card in all_cards().items() if card.form in ("log_prob", "log_probs", "logits")])
def test_an_impossible_label_costs_its_limit_never_nan(name):
    card = all_cards()[name]
    needs = {"class_counts": torch.tensor([5, 3, 2])} if card.needs else {}
    ends = {"alpha": 0.0, "beta": 0.0}
    for setting in (*card.examples(), *({end: value} for end, value in ends.items() if value in card.ranges.get(end, ()))):
        z = torch.tensor([[-INF, 0.0, 1.0]], requires_grad=True)
        loss = card.function(z, torch.tensor([0]), **needs, **setting)
        loss.backward()
        far = card.function(torch.tensor([[-1e30, 0.0, 1.0]]), torch.tensor([0]), **needs, **setting).item()
        assert loss.item() == (INF if far > 1e20 else pytest.approx(far)), setting
        assert loss.isinf() or z.grad.isfinite().all(), setting


def test_the_gradient_in_the_power_survives_an_impossible_label():
    q = torch.tensor(0.5, requires_grad=True)
    lossmith.generalized_cross_entropy(torch.tensor([[-INF, 0.0]]), torch.tensor([0]), q=q).backward()
    assert q.grad is not None
    assert q.grad.item() == pytest.approx(-4.0)  # of 1 / q


def test_shapes_are_inferred_without_values():
    z, y = torch.zeros(3, 4, device="meta"), torch.zeros(3, dtype=torch.long, device="meta")
    assert lossmith.cross_entropy(z, y, reduction="none").shape == (3,)
    assert lossmith.binary_cross_entropy(z, z, reduction="none").shape == (3, 4)


def test_a_batch_of_nan_does_not_spoil_the_temperatures_of_its_rows():
    loss = lossmith.AdaptiveLDR(num_samples=2)
    z, y, index = logits(2, 3), torch.tensor([0, 1]), torch.tensor([0, 1])
    assert loss(torch.where(torch.tensor([[True], [False]]), math.nan, z), y, index).isnan()
    assert loss.temperatures[0] == 1.0
    assert loss.temperatures[1] < 1.0
    assert loss(z, y, index).isfinite()


def test_a_module_with_a_parameter_prints_on_one_line():
    loss = lossmith.objective("gce", q=torch.nn.Parameter(torch.tensor(0.5)))
    assert repr(loss) == "Objective(generalized_cross_entropy, q=tensor(0.5000))"


def _by_matrix_product(z, y):
    return torch.log_softmax(z @ torch.eye(z.shape[-1], dtype=z.dtype), -1).gather(-1, y.unsqueeze(-1)).squeeze(-1).neg()


def _squared_logit(z):
    return (z @ torch.eye(z.shape[-1])).square(), z.square()


def test_autocast_is_off_inside_an_objective():
    facts = {"source": "-", "summary": "-", "use_when": "-", "formula": "-", "claims": Claims()}

    def among_classes(input, target, **options):
        return of_logits(_by_matrix_product, input, target, options)

    def single(input, target, **options):
        return of_binary(_squared_logit, input, target, options)

    with aside():
        objective(row=_by_matrix_product, form="logits", **facts)(among_classes)
        objective(row=_squared_logit, form="binary", **facts)(single)
    z = logits(6, 4)
    for loss, y in ((among_classes, torch.arange(6) % 4), (single, (z > 0).float())):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            within = loss(z, y)
        assert torch.equal(within, loss(z, y))
        assert within.dtype == torch.float32
