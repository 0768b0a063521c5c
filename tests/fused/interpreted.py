"""Run by `test_triton.py` in a process where TRITON_INTERPRET=1: the kernels on CPU tensors, in tiles of 16 rows x 32 classes."""

import mpmath
import pytest
import torch

import lossmith
from lossmith.fused import LinearLogits, backend, explain, linear_log_prob, linear_stats
from lossmith.fused.reference import WANTED, row_stats
from lossmith.fused.triton import launch, memory, slopes, sums
from tests.fused.heads import Problem, class_axis, dense, gradients, leaf, log_prob, problem
from tests.fused.kernels import TOLERANCE, Case, everything, near

INF = float("inf")
pytestmark = [
    pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning"),  # the interpreter's NumPy remarks what a mask then leaves out
    pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:All-NaN:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning"),  # what torch's own forward mode is built on
]


@pytest.fixture(autouse=True)
def by_triton():
    assert launch.INTERPRETED
    with backend("triton"):
        yield


@pytest.fixture(params=["descriptors", "pointers"])
def reading(request, monkeypatch):
    if request.param == "pointers":
        monkeypatch.setattr(launch, "describable", lambda tensor: False)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_every_statistic_and_its_gradient(dtype, softcap, reading):
    everything(Case.of(37, dtype, width=24, classes=101), softcap=softcap, weighted=softcap is not None)


SHAPES = {
    "a row": (1, 5, 11),
    "a single class": (4, 5, 1),
    "a hidden state of one number": (7, 1, 33),
    "exactly a tile": (16, 16, 32),
    "many shares of the classes": (5, 3, 700),
    "no rows": (0, 5, 11),
}


@pytest.mark.parametrize(("rows", "width", "classes"), SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("schedule", ["forward", "recompute"])
def test_shapes(rows, width, classes, schedule):
    case = Case.of(rows, torch.float32, width=width, classes=classes)
    p = case.narrow
    source, keep = LinearLogits(*p.inputs, schedule=schedule), p.target >= 0
    values = source.weighted_log_prob(p.target, keep, torch.ones(rows)), log_prob(dense(case.wide), p.target).sum()
    near(*values, 2e-6)
    for mine, theirs in zip(*(gradients(v, p.inputs) for v, p in zip(values, case, strict=True)), strict=True):
        near(mine, theirs, 5e-6)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("how", [{}, {"softcap": 3.0}, {"temperature": 2.0}])
@pytest.mark.parametrize("name", ["cross_entropy", "focal_loss"])
def test_objectives(dtype, how, name):
    """The 3-product schedule and the other, in blocks of fewer rows than there are."""
    case = Case.of(41, dtype, width=16, classes=70)
    function = getattr(lossmith, name)
    values = [function(LinearLogits(*case.narrow.inputs, **how), case.narrow.target)]
    z = dense(case.wide, softcap=how.get("softcap"), temperature=how.get("temperature", 1.0))
    values.append(function(z, case.wide.target))
    near(*values, 1e-6)
    for mine, theirs in zip(*(gradients(v, p.inputs) for v, p in zip(values, case, strict=True)), strict=True):
        near(mine, theirs, TOLERANCE[dtype])


def test_stored_exponentials_in_blocks_of_rows(monkeypatch):
    """Rows far apart, so that the tiles of one are stored relative to different powers of two."""
    monkeypatch.setattr("lossmith.fused.triton.engine.stored_rows", lambda x, weight: 32)
    p = problem(75, width=8, classes=200, scale=8.0)
    p = Problem(p.hidden, p.weight, leaf(p.bias + torch.linspace(0, 300, 200)), p.target).to(torch.float32)
    q = p.to(torch.float64)
    values = [lossmith.cross_entropy(LinearLogits(*p.inputs), p.target), lossmith.cross_entropy(dense(q), q.target)]
    near(*values, 1e-6)
    for mine, theirs in zip(*(gradients(v, x.inputs) for v, x in zip(values, (p, q), strict=True)), strict=True):
        near(mine, theirs, 1e-4)  # float32 logits of 1000


def test_slopes_in_shares_of_the_classes(monkeypatch):
    monkeypatch.setattr(slopes, "slope_classes", lambda rows, classes, itemsize: 64)
    everything(Case.of(20, torch.float32, width=8, classes=150), softcap=2.0, weighted=True)


@pytest.mark.parametrize("asked", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
@pytest.mark.parametrize("name", ["cross_entropy", "focal_loss"])
def test_gradients_of_some_alone(asked, name):
    p = problem(20, classes=40).to(torch.float32)
    inputs = [tensor if want else tensor.detach() for tensor, want in zip(p.inputs, asked, strict=True)]
    leaves = tuple(tensor for tensor in inputs if tensor.requires_grad)
    function = getattr(lossmith, name)
    found = gradients(function(LinearLogits(*inputs), p.target), leaves)
    expected = gradients(function(inputs[0] @ inputs[1].T + inputs[2], p.target), leaves)
    for mine, theirs in zip(found, expected, strict=True):
        near(mine, theirs, 5e-6)


@pytest.mark.parametrize("layout", ["transposed", "every other row", "expanded"])
@pytest.mark.parametrize("schedule", ["forward", "recompute"])
def test_strides(layout, schedule):
    h, w = torch.randn(20, 8), torch.randn(40, 8)
    h, w = {
        "transposed": (h.T.contiguous().T, w.T.contiguous().T),
        "every other row": (h.repeat_interleave(2, 0)[::2], w.repeat_interleave(2, 0)[::2]),
        "expanded": (h[:1].expand(20, 8), w),
    }[layout]
    h, w, y = h.requires_grad_(), w.requires_grad_(), torch.randint(40, (20,))
    fused, plain = (lossmith.cross_entropy(z, y) for z in (LinearLogits(h, w, schedule=schedule), h @ w.T))
    for mine, theirs in zip(gradients(fused, (h, w)), gradients(plain, (h, w)), strict=True):
        near(mine, theirs, 5e-6)


@pytest.mark.parametrize("schedule", ["forward", "recompute"])
@pytest.mark.parametrize("scale", [3.0, 10.0, 30.0, 1e2])
def test_large_logits(schedule, scale):
    p = problem(30, classes=40, scale=scale).to(torch.float32)
    q = p.to(torch.float64)
    found, expected = (
        lossmith.cross_entropy(LinearLogits(*p.inputs, schedule=schedule), p.target),
        lossmith.cross_entropy(dense(q), q.target),
    )
    near(found, expected, 1e-6)
    for mine, theirs in zip(gradients(found, p.inputs), gradients(expected, q.inputs), strict=True):
        assert mine.isfinite().all()
        near(mine, theirs, 3e-7 * scale**2)  # the logits' own rounding


@pytest.mark.parametrize("schedule", ["forward", "recompute"])
@pytest.mark.parametrize("exponent", [-3, -10, -20, -30])
def test_a_confident_row_keeps_its_digits(schedule, exponent):
    lead = round(-exponent * 2.302585 * 2**16) / 2**16
    weight, hidden = leaf(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.5]])), leaf(torch.tensor([[lead, 0.0]]))
    loss = lossmith.cross_entropy(LinearLogits(hidden, weight, schedule=schedule), torch.tensor([0]))
    mpmath.mp.dps = 60
    p = mpmath.exp(-lead) / (1 + 2 * mpmath.exp(-lead))
    torch.testing.assert_close(loss.item(), float(mpmath.log(1 + 2 * mpmath.exp(-lead))), rtol=1e-5, atol=0)
    of_hidden, of_weight = (g.double() for g in gradients(loss, (hidden, weight)))
    q = float(p)
    torch.testing.assert_close(of_hidden[0], torch.tensor([-2 * q, 1.5 * q]).double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(of_weight[:, 0], torch.tensor([-2 * q * lead, q * lead, q * lead]).double(), rtol=1e-5, atol=0)


def test_the_entropy_of_a_confident_row_keeps_its_digits():
    found = linear_stats(torch.tensor([[60.0]]), torch.tensor([[1.0], [0.0]]), torch.tensor([0]), want=("log_prob", "entropy")).entropy
    q = mpmath.exp(-60) / (1 + mpmath.exp(-60))
    torch.testing.assert_close(found.item(), float(-q * mpmath.log(q) - (1 - q) * mpmath.log(1 - q)), rtol=1e-5, atol=0)


@pytest.mark.parametrize("masked", ["another class", "the label's class", "every class", "every other class"])
@pytest.mark.parametrize("schedule", ["forward", "recompute"])
@pytest.mark.parametrize("shift", [0.0, -200.0])
def test_classes_masked_by_a_bias_of_minus_infinity(masked, schedule, shift):
    p = problem(7, classes=40, ignored=False).to(torch.float32)
    label = p.target[0].item()
    others = torch.arange(40) != label
    at = {
        "another class": torch.arange(40) == (label + 1) % 40,
        "the label's class": ~others,
        "every class": others | ~others,
        "every other class": others,
    }[masked]
    bias, target = leaf(torch.where(at, -INF, p.bias + shift)), p.target[:1].expand(7)
    z = p.hidden @ p.weight.T + bias
    found = lossmith.cross_entropy(LinearLogits(p.hidden, p.weight, bias, schedule=schedule), target, reduction="sum")
    torch.testing.assert_close(found, lossmith.cross_entropy(class_axis(z), target, reduction="sum"), rtol=1e-5, atol=1e-5, equal_nan=True)
    (mine,) = gradients(found, (p.hidden,))
    slope = z.softmax(-1) - torch.eye(40)[target]
    torch.testing.assert_close(mine, (slope @ p.weight).detach(), rtol=1e-4, atol=2e-5, equal_nan=True)


@pytest.mark.parametrize("labelled", [False, True])
def test_statistics_where_classes_are_masked(labelled):
    p = problem(6, classes=90, ignored=False).to(torch.float32)
    masked = torch.arange(90) >= 50
    target = p.target % 50 if labelled else None
    bias, v = leaf(torch.where(masked, -INF, p.bias)), torch.where(masked, 0.0, 1 / 50)
    want = ("logsumexp", "entropy", "mean_logit")
    found = linear_stats(p.hidden, p.weight, target, bias, want=want, class_weight=v, temperatures=(2.0,))
    z = p.to(torch.float64)
    expected = row_stats(z.hidden @ z.weight[:50].T + z.bias[:50], want=want, temperatures=(2.0,))
    for name in (*want, "logsumexp_at"):
        near(getattr(found, name), getattr(expected, name), 1e-6)
    mine = gradients((found.entropy + found.logsumexp).sum(), (p.hidden, p.weight))
    theirs = gradients((expected.entropy + expected.logsumexp).sum(), (z.hidden, z.weight))
    for a, b in zip(mine, theirs, strict=True):
        near(a, b, 5e-6)


@pytest.mark.parametrize("bad", [INF, float("nan")])
def test_infinity_and_nan_reach_every_statistic(bad):
    p = problem(7, classes=40, ignored=False).to(torch.float32)
    hidden = leaf(torch.where(torch.arange(7)[:, None] == 2, bad, p.hidden))
    found = linear_stats(hidden, p.weight, p.target, p.bias, want=WANTED, temperatures=(2.0,))
    for name in ("log_prob", "logsumexp", "entropy"):
        value = getattr(found, name)
        assert value[2].isnan()
        assert value[torch.arange(7) != 2].isfinite().all()
    assert found.logsumexp_at[2].isnan().all()


def test_a_label_or_another_class_at_plus_infinity_is_nan():
    p = problem(4, classes=40, ignored=False).to(torch.float32)
    for at in (0, 39):
        bias = torch.where(torch.arange(40) == at, INF, p.bias.detach())
        assert linear_log_prob(p.hidden, p.weight, torch.zeros(4, dtype=torch.long), bias).isnan().all()


@pytest.mark.parametrize("garbage", [float("nan"), INF])
@pytest.mark.parametrize("name", ["cross_entropy", "focal_loss"])
def test_an_ignored_row_may_hold_anything(garbage, name):
    """A whole block of rows is ignored, too: 16 rows and more."""
    p = problem(60, classes=40).to(torch.float32)
    target = torch.where(torch.arange(60) % 3 == 0, p.target, -100)
    dirty = leaf(torch.where((target >= 0)[:, None], p.hidden, garbage))
    function = getattr(lossmith, name)
    clean, soiled = (function(LinearLogits(h, p.weight, p.bias), target) for h in (p.hidden, dirty))
    assert torch.equal(clean, soiled)
    of_clean, of_soiled = gradients(clean, p.inputs), gradients(soiled, (dirty, p.weight, p.bias))
    assert all(torch.equal(a, b) for a, b in zip(of_clean, of_soiled, strict=True))
    assert (of_soiled[0][target < 0] == 0).all()


def test_all_rows_ignored():
    p = problem(20, classes=40).to(torch.float32)
    for schedule in ("forward", "recompute"):
        value = lossmith.cross_entropy(LinearLogits(*p.inputs, schedule=schedule), torch.full((20,), -100))
        assert value == 0
        assert all((g == 0).all() for g in gradients(value, p.inputs))


def test_float16_gradients_of_a_large_batch_do_not_vanish():
    """Weights of 1/100000: below float16's normal numbers, as are most of the slopes."""
    p = problem(20, classes=64).to(torch.float16)
    q = p.to(torch.float64)
    values = linear_log_prob(p.hidden, p.weight, p.target, p.bias).sum() * 1e-5, log_prob(dense(q), q.target).sum() * 1e-5
    mine, theirs = (torch.autograd.grad(v, x.weight)[0] for v, x in zip(values, (p, q), strict=True))
    assert (mine.double() - theirs).abs().max() <= 3.1e-8 + 1e-3 * theirs.abs().max()  # half the step of float16's smallest numbers


def test_second_derivatives_and_vmap_stay_right():
    p = problem(6, width=3, classes=7).to(torch.float32)
    q = p.to(torch.float64)
    found, expected = (
        torch.func.hessian(lambda h, f=f, x=x: lossmith.focal_loss(f(h, x.weight.detach()), p.target))(x.hidden.detach())
        for f, x in ((LinearLogits, p), (lambda h, w: h @ w.T, q))
    )
    near(found, expected, 1e-5)
    batch = torch.stack([p.hidden.detach(), 2 * p.hidden.detach()])
    found = torch.func.vmap(torch.func.grad(lambda h: lossmith.cross_entropy(LinearLogits(h, p.weight.detach()), p.target)))(batch)
    expected = torch.func.vmap(torch.func.grad(lambda h: lossmith.cross_entropy(h @ p.weight.detach().T, p.target)))(batch)
    near(found, expected, 5e-6)


def test_the_same_numbers_from_run_to_run():
    p = problem(20, classes=100).to(torch.float32)
    first, second = (lossmith.focal_loss(LinearLogits(*p.inputs), p.target) for _ in range(2))
    assert torch.equal(first, second)
    assert all(torch.equal(a, b) for a, b in zip(gradients(first, p.inputs), gradients(second, p.inputs), strict=True))


def test_the_plan_names_the_back_end():
    p = problem(9).to(torch.bfloat16)
    plan = explain(LinearLogits(*p.inputs))
    assert plan.backend == "Triton kernels and cuBLAS"
    assert plan.path == "forward"
    half = explain(LinearLogits(*p.to(torch.float16).inputs))
    assert (half.path, "float16" in half.why) == ("recompute", True)
    with pytest.raises(ValueError, match="float64 is left to chunked torch"):
        explain(LinearLogits(*p.to(torch.float64).inputs))


def test_rows_of_stored_exponentials_fit_what_is_allowed():
    x, weight = (torch.empty(*shape, dtype=torch.bfloat16, device="meta") for shape in ((8192, 4096), (128256, 4096)))
    assert memory.stored_rows(x, weight) == 4096
    assert memory.slope_classes(8192, 128256, 2) == 16384


@pytest.mark.parametrize(("blocks", "tiles"), [(1, 1), (4, 501), (64, 501), (64, 3), (1, 4000)])
def test_shares_cover_every_tile(blocks, tiles, monkeypatch):
    monkeypatch.setattr(sums, "processors", lambda device: 132)
    splits, share = sums.shares(blocks, tiles, torch.device("cpu"))
    assert (splits - 1) * share < tiles <= splits * share
    if blocks * tiles > 132 * 8:  # enough work for all: the last wave is nearly full
        programs = blocks * splits
        assert programs / (-(-programs // 132) * 132) > 0.85
