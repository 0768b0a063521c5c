"""A few classes of each row, the most likely ones, and soft targets from a second head: against the dense logits in float64."""

from pathlib import Path

import pytest
import torch

import lossmith
from lossmith.fused import LinearLogits, indices, linear_stats, linear_top_k
from tests.fused.heads import assert_close, class_axis, dense, gradients, leaf, problem
from tests.fused.test_plan import _status

INF = float("inf")


@pytest.mark.parametrize("rows", [(), (7,), (2, 3), (300,), (0,)])
@pytest.mark.parametrize("m", [0, 1, 4])
def test_logits_of_given_classes(rows, m, monkeypatch):
    monkeypatch.setattr(indices, "GATHERED", 64)  # several chunks of rows
    p = problem(*rows, classes=30)
    at = torch.randint(30, (*rows, m), generator=torch.Generator().manual_seed(0))
    at[..., :1] = 3  # the same class for many rows, whose gradients add up
    cap, t = leaf(torch.tensor(2.0).double()), leaf(torch.tensor(1.5).double())
    found = linear_stats(*p.inputs[:2], p.target, p.bias, want=(), at=at, softcap=cap, temperature=t).logits_at
    keep = (p.target >= 0).unsqueeze(-1)
    expected = torch.where(keep, dense(p, t, cap).gather(-1, at), 0)
    assert_close(found, expected, 1e-12)
    inputs = (*p.inputs, cap, t)
    assert_close(gradients(found.sin().sum(), inputs), gradients(expected.sin().sum(), inputs))


def test_a_class_to_be_ignored_and_a_row_to_be_ignored():
    p = problem(4, classes=30, ignored=False)
    at = torch.tensor([[0, -100], [5, 5], [29, 1], [-100, -100]])
    target = torch.tensor([1, -100, 2, 3])
    dirty = leaf(torch.where(torch.tensor([[0], [1], [0], [0]]) == 1, float("nan"), p.hidden))
    found = linear_stats(dirty, p.weight, target, p.bias, want=(), at=at.to(torch.int32)).logits_at
    assert torch.equal(found == 0, torch.tensor([[0, 1], [1, 1], [0, 0], [1, 1]]) == 1)
    slopes = gradients(found.sum(), (dirty, p.weight, p.bias))
    assert all(slope.isfinite().all() for slope in slopes)
    assert (slopes[0][1] == 0).all()
    assert slopes[2].sum() == 3


def test_no_row_of_the_head_is_gathered_for_all_rows_at_once():
    """2048 rows of 64 classes of width 256 would be 134 MB."""
    x, w = leaf(torch.randn(2048, 256)), leaf(torch.randn(500, 256))
    at = torch.randint(500, (2048, 64))

    def step():
        linear_stats(x, w, want=(), at=at).logits_at.sum().backward()

    step()
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("resident memory is read from Linux's /proc")
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    step()
    assert _status("VmHWM") - before < 40 * 2**20


@pytest.mark.parametrize("k", [1, 5, 600, 1030])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_the_most_likely_classes(k, softcap):
    p = problem(2, 3, classes=1030)
    classes, log_p = linear_top_k(*p.inputs[:2], k, p.bias, softcap=softcap, temperature=0.7)
    expected = dense(p, 0.7, softcap).log_softmax(-1).topk(k)
    assert torch.equal(classes, expected.indices)
    assert_close(log_p, expected.values, 1e-12)
    assert_close(gradients(log_p.sin().sum(), p.inputs), gradients(expected.values.sin().sum(), p.inputs))
    with torch.no_grad():
        again = linear_top_k(*p.inputs[:2], k, p.bias, softcap=softcap, temperature=0.7)
    assert torch.equal(again[0], classes)
    assert_close(again[1], expected.values, 1e-12)


def test_the_most_likely_classes_where_most_are_masked():
    """Fewer finite logits than k, in the last of three tiles: every class comes once."""
    p = problem(4, classes=1300, ignored=False)
    bias = torch.where(torch.arange(1300) < 1290, -INF, p.bias.detach())
    with torch.no_grad():
        classes, log_p = linear_top_k(p.hidden, p.weight, 700, bias)
    z = p.hidden @ p.weight.T + bias
    assert_close(log_p[:, :10], z.log_softmax(-1).topk(10).values, 1e-12)
    assert torch.equal(classes[:, :10], z.topk(10).indices)
    assert (log_p[:, 10:] == -INF).all()
    assert all(row.unique().numel() == 700 for row in classes)


def test_the_mass_of_the_most_likely_classes():
    p = problem(9, classes=1030)
    found = linear_stats(*p.inputs[:2], p.target, p.bias, want=("top_k_mass", "entropy"), top_k=20)
    expected = torch.where(p.target >= 0, dense(p).log_softmax(-1).topk(20).values.logsumexp(-1), 0)
    assert_close(found.top_k_mass, expected, 1e-12)
    assert found.logsumexp is None  # which was not asked for
    assert_close(gradients(found.top_k_mass.sin().sum(), p.inputs), gradients(expected.sin().sum(), p.inputs))


def test_statistics_of_a_teacher():
    student, teacher = problem(9, classes=1030), problem(9, width=4, classes=1030, seed=1)
    want = ("cross_entropy_to_teacher", "teacher_mean_logit")
    other = LinearLogits(*teacher.inputs, temperature=2.0)
    found = linear_stats(*student.inputs[:2], student.target, student.bias, want=want, teacher=other)
    keep, q, z = student.target >= 0, dense(teacher, 2.0).softmax(-1), dense(student)
    expected = torch.where(keep, -(q * z.log_softmax(-1)).sum(-1), 0), torch.where(keep, (q * z).sum(-1), 0)
    assert_close((found.cross_entropy_to_teacher, found.teacher_mean_logit), expected, 1e-11)
    inputs = (*student.inputs, *teacher.inputs)
    mine, theirs = (gradients((a.sin() + b.cos()).sum(), inputs) for a, b in ((found[6], found[7]), expected))
    assert_close(mine, theirs)


SCHEDULES = {"auto": {}, "lean": {"memory": 1000}, "recompute": {"schedule": "recompute"}}


@pytest.mark.parametrize("how", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("weight", [None, torch.arange(11).double()])
@pytest.mark.parametrize("options", [{}, {"reduction": "none"}, {"reduction": "sum"}, {"denominator": 5.0}, {"sample_weight": True}])
def test_soft_targets_from_a_second_head(how, weight, options):
    """Equal to class probabilities given as a tensor, which are held to torch elsewhere."""
    student, teacher = problem(2, 3), problem(2, 3, width=4, seed=1)
    options = options | ({"sample_weight": torch.tensor([[1.0, 0, 2], [0.5, 1, 0]]).double()} if "sample_weight" in options else {})
    weights = {} if weight is None else {"weight": leaf(weight)}
    found = lossmith.cross_entropy(LinearLogits(*student.inputs, **how), LinearLogits(*teacher.inputs), **weights, **options)
    soft = class_axis(dense(teacher)).softmax(1)
    expected = lossmith.cross_entropy(class_axis(dense(student)), soft, **weights, **options)
    assert_close(found, expected, 1e-12)
    inputs = (*student.inputs, *teacher.inputs, *weights.values())
    assert_close(gradients(found.sin().sum(), inputs), gradients(expected.sin().sum(), inputs))


@pytest.mark.parametrize("how", SCHEDULES.values(), ids=SCHEDULES)
def test_soft_targets_where_classes_are_masked(how):
    """A class that the teacher excludes is left out; one that only the student excludes costs everything."""
    student, teacher = problem(7, ignored=False), problem(7, seed=1)
    masked = torch.arange(11) >= 8
    biases = [torch.where(masked, -INF, side.bias.detach()) for side in (student, teacher)]
    heads = [LinearLogits(*side.inputs[:2], bias, **how) for side, bias in zip((student, teacher), biases, strict=True)]
    found = lossmith.cross_entropy(*heads)
    z, t = (side.hidden @ side.weight[:8].T + side.bias.detach()[:8] for side in (student, teacher))
    expected = lossmith.cross_entropy(z, t.softmax(1))
    assert_close(found, expected, 1e-12)
    inputs = (*student.inputs[:2], *teacher.inputs[:2])
    assert_close(gradients(found, inputs), gradients(expected, inputs))
    assert lossmith.cross_entropy(heads[0], LinearLogits(*teacher.inputs)) == INF


H, W, SOURCE = torch.zeros(3, 4), torch.zeros(5, 4), LinearLogits(torch.zeros(3, 4), torch.zeros(5, 4))
MISTAKES = [
    (lambda: linear_stats(H, W, want=(), at=torch.zeros(3, 2)), TypeError, "at must be integer class indices; got float32"),
    (lambda: linear_stats(H, W, want=(), at=torch.tensor([0, 1])), ValueError, r"at must have shape \(3, 'm'\); got int64 \(2,\)"),
    (lambda: linear_stats(H, W, want=(), at=torch.full((3, 1), 5)), ValueError, r"at must hold class indices in 0..4 .*; got 5"),
    (lambda: linear_stats(H, W, want=("top_k_mass",)), ValueError, "top_k goes with 'top_k_mass'; got top_k=None"),
    (lambda: linear_stats(H, W, want=("entropy",), top_k=2), ValueError, "top_k goes with 'top_k_mass'; got top_k=2"),
    (lambda: linear_stats(H, W, want=("top_k_mass",), top_k=6), ValueError, r"top_k must be in 1..5, the number of classes; got 6"),
    (lambda: linear_stats(H, W, want=("teacher_mean_logit",)), ValueError, "teacher goes with 'cross_entropy_to_teacher' and"),
    (lambda: linear_stats(H, W, want=("entropy",), teacher=SOURCE), ValueError, "teacher goes with .*; got one with want="),
    (lambda: linear_top_k(H, W, 0), ValueError, r"linear_top_k: k must be in 1..5, the number of classes; got 0"),
    (lambda: linear_top_k(H, W, 2.0), TypeError, "k must be a whole number; got float 2.0"),
    (lambda: lossmith.cross_entropy(SOURCE, SOURCE, label_smoothing=0.1), TypeError, "label_smoothing goes with class indices"),
    (lambda: lossmith.cross_entropy(SOURCE, SOURCE, ignore_index=3), ValueError, "ignore_index has no meaning with class probabilities"),
    (lambda: lossmith.cross_entropy(torch.zeros(3, 5), SOURCE), TypeError, r"both LinearLogits; got float32 \(3, 5\) and a LinearLogits"),
    (lambda: lossmith.cross_entropy(SOURCE, LinearLogits(H[:2], W)), ValueError, "target must have the input's rows and classes"),
    (lambda: lossmith.focal_loss(SOURCE, SOURCE), TypeError, "target must be class indices for a LinearLogits; got a LinearLogits"),
]


@pytest.mark.untyped
@pytest.mark.parametrize(("call", "error", "message"), MISTAKES)
def test_a_mistake_gets_one_line_that_names_the_argument(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
