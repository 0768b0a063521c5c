"""Distillation against torch's divergence, definitions summed class by class, and a convex function that nobody had when it was written."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import lossmith
from lossmith.conformance.problems import leaf
from lossmith.generators import FGenerator


@pytest.fixture
def rows() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(11)
    return tuple(scale * torch.randn(20, 6, generator=g, dtype=torch.float64) for scale in (3.0, 2.0))


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return torch.xlogy(p, p / q).sum(1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_torch_has_the_same_kl_in_the_other_order(temperature, rows) -> None:
    z, t = rows
    log_p, log_q = (z / temperature).log_softmax(1), (t / temperature).log_softmax(1)
    theirs = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1)
    ours = lossmith.divergence_distillation(z, t, temperature=temperature, rescale=False, reduction="none")
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
    whole = F.kl_div(log_p, log_q, reduction="batchmean", log_target=True) * temperature**2
    torch.testing.assert_close(lossmith.divergence_distillation(z, t, temperature=temperature), whole, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("generator", "definition"),
    [
        ("kl", lambda q, p: kl(q, p)),
        ("reverse_kl", lambda q, p: kl(p, q)),
        ("jensen_shannon_skewed(weight=0.1)", lambda q, p: 0.1 * kl(q, 0.1 * q + 0.9 * p) + 0.9 * kl(p, 0.1 * q + 0.9 * p)),
        ("skew_kl(skew=0.1)", lambda q, p: kl(q, 0.1 * q + 0.9 * p)),
        ("skew_reverse_kl(skew=0.1)", lambda q, p: kl(p, 0.1 * p + 0.9 * q)),
        ("total_variation", lambda q, p: (q - p).abs().sum(1) / 2),
        ("pearson_chi2", lambda q, p: ((q - p) ** 2 / p).sum(1)),
    ],
)
def test_every_direction_is_a_generator(generator, definition, rows) -> None:
    """q is the teacher and p the student, as in the table of the docstring."""
    z, t = rows
    found = lossmith.divergence_distillation(z, t, generator=generator, reduction="none")
    torch.testing.assert_close(found, definition(t.softmax(1), z.softmax(1)), rtol=1e-10, atol=1e-12)


def test_a_generator_made_at_run_time(rows) -> None:
    """One entry of f, and nothing else anywhere, distils: (u - 1)^4 is sum (q - p)^4 / p^3, with a gradient that fits it."""
    z, t = rows
    fourth = FGenerator.from_function(lambda u: (u - 1) ** 4, name="fourth")
    p, q = z.softmax(1), t.softmax(1)
    found = lossmith.divergence_distillation(z, t, generator=fourth, reduction="none")
    torch.testing.assert_close(found, ((q - p) ** 4 / p**3).sum(1), rtol=1e-9, atol=1e-12)
    assert torch.autograd.gradcheck(lambda a: lossmith.divergence_distillation(a, t[:3], generator=fourth), (leaf(z[:3]),))


def test_nothing_is_lost_where_student_and_teacher_agree(rows) -> None:
    z, _ = rows
    for generator in ("kl", "reverse_kl", "jensen_shannon", "squared_hellinger"):
        student = leaf(z)
        loss = lossmith.divergence_distillation(student, z + 5.0, generator=generator, reduction="sum")
        assert loss.item() == pytest.approx(0, abs=1e-12)
        assert torch.autograd.grad(loss, student)[0].abs().max() < 1e-12


def test_the_gradient_of_kl_is_the_difference_of_the_probabilities(rows) -> None:
    """Hinton et al., equation 2, times the T^2 that keeps it of one size."""
    z, t = rows
    student = leaf(z)
    (slope,) = torch.autograd.grad(lossmith.divergence_distillation(student, t, temperature=3.0, reduction="sum"), student)
    torch.testing.assert_close(slope, 3.0 * ((z / 3).softmax(1) - (t / 3).softmax(1)), rtol=1e-10, atol=1e-12)


def test_at_high_temperature_it_matches_logits(rows) -> None:
    """Hinton et al., section 2.1: with logits centred in each row, half their mean squared difference, for T^2 KL."""
    z, t = (x - x.mean(1, keepdim=True) for x in rows)
    found = lossmith.divergence_distillation(z, t, temperature=1e4, reduction="none")
    torch.testing.assert_close(found, ((z - t) ** 2).mean(1) / 2, rtol=1e-3, atol=1e-6)


def test_log_probabilities_are_logits(rows) -> None:
    z, t = rows
    expected = lossmith.divergence_distillation(z, t, temperature=2.0)
    torch.testing.assert_close(lossmith.divergence_distillation(z, t.log_softmax(1), temperature=2.0), expected, rtol=1e-12, atol=0)


def test_the_teacher_learns_only_where_it_asks_to(rows) -> None:
    z, t = rows
    student, teacher = leaf(z), leaf(t)
    slopes = torch.autograd.grad(lossmith.divergence_distillation(student, teacher), (student, teacher))
    assert all(slope.abs().sum() > 0 for slope in slopes)
    assert torch.autograd.gradcheck(
        lambda a, b: lossmith.divergence_distillation(a, b, generator="jensen_shannon"), (leaf(z[:3]), leaf(t[:3]))
    )
    lossmith.divergence_distillation(student, t).backward()
    torch.testing.assert_close(student.grad, slopes[0])


def test_a_removed_row_may_hold_anything_on_both_sides(rows) -> None:
    z, t = rows
    weight = torch.ones(20, dtype=torch.float64).index_fill(0, torch.tensor([3, 7]), 0.0)
    gone = (weight == 0)[:, None]
    student, teacher = leaf(torch.where(gone, torch.nan, z)), leaf(torch.where(gone, torch.inf, t))
    loss = lossmith.divergence_distillation(student, teacher, sample_weight=weight)
    kept = weight != 0
    torch.testing.assert_close(loss, lossmith.divergence_distillation(z[kept], t[kept]), rtol=1e-12, atol=0)
    for slope in torch.autograd.grad(loss, (student, teacher)):
        assert slope.isfinite().all()
        assert slope[~kept].eq(0).all()


def test_classes_that_one_side_rules_out(rows) -> None:
    """What the student cannot choose and the teacher may costs infinitely much under kl, and f'(inf) times its probability otherwise."""
    z, t = rows
    hidden = torch.arange(6) == 1
    student = torch.where(hidden, -torch.inf, z)
    assert lossmith.divergence_distillation(student, t, reduction="none").isposinf().all()
    found = lossmith.divergence_distillation(student, t, generator="total_variation", reduction="none")
    torch.testing.assert_close(found, (t.softmax(1) - student.softmax(1)).abs().sum(1) / 2, rtol=1e-12, atol=1e-13)
    teacher = torch.where(hidden, -torch.inf, t)
    torch.testing.assert_close(
        lossmith.divergence_distillation(z, teacher, reduction="none"), kl(teacher.softmax(1), z.softmax(1)), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("generator", ["skew_kl(skew=0.1)", "skew_reverse_kl(skew=0.1)", "jensen_shannon_skewed(weight=0.1)"])
@pytest.mark.parametrize("lead", [80.0, 90.0, 100.0, 103.0])
def test_opposite_certainties_cost_the_bound_in_float32(generator, lead) -> None:
    """Ratios of which the inverse is no float."""
    student, teacher = leaf(torch.tensor([[0.0, lead, 3.0]])), leaf(torch.tensor([[lead, 0.0, 0.0]]))
    loss = lossmith.divergence_distillation(student, teacher, generator=generator)
    exact = lossmith.divergence_distillation(student.detach().double(), teacher.detach().double(), generator=generator)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)
    assert all(slope.abs().max() < 1e-6 for slope in torch.autograd.grad(loss, (student, teacher)))


def test_dtypes_of_student_and_teacher_may_differ(rows) -> None:
    """The loss is in the student's working dtype, the gradient in its own; a teacher in half precision is no coarser than its logits."""
    z, t = rows
    for mine, theirs, loss_dtype in (
        (torch.float32, torch.bfloat16, torch.float32),
        (torch.bfloat16, torch.float64, torch.float32),
        (torch.float64, torch.float16, torch.float64),
    ):
        student, teacher = leaf(z.to(mine)), t.to(theirs)
        loss = lossmith.divergence_distillation(student, teacher)
        assert loss.dtype == loss_dtype
        assert torch.autograd.grad(loss, student)[0].dtype == mine
        exact = lossmith.divergence_distillation(student.detach().double(), teacher.double())
        assert loss.item() == pytest.approx(exact.item(), rel=1e-5)


def test_a_soft_target_of_cross_entropy_is_kl_and_the_teachers_entropy(rows) -> None:
    z, t = rows
    q = t.softmax(1)
    entropy = -torch.xlogy(q, q).sum(1)
    both = lossmith.divergence_distillation(z, t, reduction="none") + entropy
    torch.testing.assert_close(lossmith.cross_entropy(z, q, reduction="none"), both, rtol=1e-12, atol=1e-12)


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda z, t: lossmith.divergence_distillation(z, t, weight=torch.ones(6)), TypeError, "no option 'weight'"),
        (lambda z, t: lossmith.divergence_distillation(z, t, ignore_index=0), TypeError, "no option 'ignore_index'"),
        (lambda z, t: lossmith.divergence_distillation(z, t, temperature=0.0), ValueError, r"temperature must be in \(0, inf\)"),
        (lambda z, t: lossmith.divergence_distillation(z, t, rescale="yes"), ValueError, "rescale must be in True | False"),
        (lambda z, t: lossmith.divergence_distillation(z, t, generator="reverse-kl"), ValueError, "did you mean 'reverse_kl'"),
        (lambda z, t: lossmith.divergence_distillation(z, t[:, :-1]), ValueError, r"target must have the input's shape \(20, 6\)"),
        (lambda z, t: lossmith.divergence_distillation(z, t.argmax(1)), TypeError, "target must be the teacher's logits"),
        (lambda z, t: lossmith.divergence_distillation(z[:, :1], t[:, :1]), ValueError, "at least 2 classes"),
    ],
)
def test_mistakes_are_one_clear_line(call, error, said, rows) -> None:
    with pytest.raises(error, match=said) as caught:
        call(*rows)
    assert "\n" not in str(caught.value)
