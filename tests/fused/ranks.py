"""What every rank of a process group runs to hold the split vocabulary to one process with all of it: :data:`CASES`, by name."""

from __future__ import annotations

import datetime
import os
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import forward_ad

import lossmith
from lossmith.divergences import divergence
from lossmith.fused import LinearLogits, explain, linear_divergence, linear_log_prob, linear_stats, linear_top_k
from lossmith.fused.reference import WANTED, row_stats
from lossmith.generators import all_generators
from tests.fused.heads import Problem, assert_close, dense, gradients, leaf, problem
from tests.fused.test_divergence import definition
from tests.fused.test_objectives import CARDS, OPTIONS, WEIGHTS, settings

INF, NAN = float("inf"), float("nan")
WORLDS = {"1 rank": (0,), "2 ranks": (1, 2), "3 ranks": (0, 1, 2)}  # in the second, a rank's number in the group is not its own


class Ranks(NamedTuple):
    """The group that the classes are split over."""

    group: dist.ProcessGroup

    @property
    def rank(self) -> int:
        return self.group.rank()

    @property
    def size(self) -> int:
        return self.group.size()

    def splits(self, classes: int) -> list[tuple[int, ...]]:
        """Even, uneven, and with ranks that hold nothing."""
        if self.size == 1:
            return [(classes,)]
        rest = classes - 1
        few = [(rest, 1), (0, classes)] if self.size == 2 else [(1, 0, rest), (rest - 2, 3, 0)]
        each = -(-classes // self.size)
        return [(*[each] * (self.size - 1), classes - each * (self.size - 1)), *few]

    def part(self, whole: Tensor, sizes: tuple[int, ...]) -> Tensor:
        """This rank's part of what has one entry a class."""
        return whole.split(list(sizes))[self.rank]

    def head(self, p: Problem, sizes: tuple[int, ...], **how) -> tuple[tuple[Tensor, ...], LinearLogits]:
        """Inputs that ask for gradients, and the split head."""
        inputs = (leaf(p.hidden), *(leaf(self.part(whole, sizes)) for whole in (p.weight, p.bias)))
        return inputs, LinearLogits(*inputs, group=self.group, shards=sizes, **how)

    def same(self, found: Tensor, mine: tuple, expected: Tensor, theirs: tuple, sizes: tuple[int, ...], tolerance=(1e-11, 1e-10)) -> None:
        """The value, and gradients by (hidden, weight, bias, and whatever follows): whole, two parts, whole."""
        assert_close(found, expected, tolerance[0])
        upstream = torch.linspace(-1, 2, found.numel(), dtype=found.dtype).reshape(found.shape) if found.ndim else 1.0
        ours, others = gradients((found * upstream).sum(), mine), gradients((expected * upstream).sum(), theirs)
        for i, (a, b) in enumerate(zip(ours, others, strict=True)):
            largest = b.abs().max().item() if b.numel() else 0.0  # of all ranks: a part may be nothing but small entries
            torch.testing.assert_close(a, self.part(b, sizes) if i in (1, 2) else b, rtol=0, atol=tolerance[1] * max(largest, 1e-300))


Case = Callable[[Ranks], None]
CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


@case
def every_objective(r: Ranks) -> None:
    p = problem(9)
    for name, card in CARDS.items():
        for number, hyper in enumerate(settings(card)):
            for options in OPTIONS[: 2 if number else None]:
                sizes = r.splits(11)[(number + len(options)) % len(r.splits(11))]
                target = p.target if options.get("ignore_index", -100) == -100 else p.target.clamp_min(0)
                learnt = tuple(v for v in hyper.values() if isinstance(v, Tensor))
                mine, source = r.head(p, sizes, schedule="recompute" if number % 2 else "auto")
                found = card.function(source, target, **hyper, **options)
                expected = card.function(dense(p), target, **hyper, **options)
                try:
                    r.same(found, (*mine, *learnt), expected, (*p.inputs, *learnt), sizes)
                except AssertionError as error:
                    raise AssertionError(f"{name} {hyper} {options} {sizes}: {error}") from error


@case
def every_objective_in_float32(r: Ranks) -> None:
    p = problem(300, classes=1100, width=7, scale=0.7).to(torch.float32)
    for name, card in CARDS.items():
        for sizes in r.splits(1100)[:2]:
            mine, source = r.head(p, sizes)
            found, expected = card.function(source, p.target), card.function(LinearLogits(*p.inputs), p.target)
            try:
                r.same(found, mine, expected, p.inputs, sizes, (1e-6, 1e-5))
            except AssertionError as error:
                raise AssertionError(f"{name} {sizes}: {error}") from error


@case
def every_statistic(r: Ranks) -> None:
    """With everything learnt that can be: temperature, softcap and the weights of the mean, which every rank holds whole."""
    for rows, classes in ((7, 11), (300, 1100)):
        p = problem(rows, width=3, classes=classes)
        for softcap in (None, 4.0):
            for sizes in r.splits(classes):
                t, v = leaf(torch.tensor(1.3, dtype=torch.float64)), leaf(torch.linspace(0, 1, classes, dtype=torch.float64))
                cap = None if softcap is None else leaf(torch.tensor(softcap, dtype=torch.float64))
                shared = (t, v) if cap is None else (t, v, cap)
                how = {"want": WANTED, "temperatures": (2.0, 0.5)}
                split = {"group": r.group, "shards": sizes, "temperature": t, "softcap": cap, "class_weight": v}
                h, w, b = r.head(p, sizes)[0]
                found = linear_stats(h, w, p.target, b, **how, **split)
                expected = row_stats(dense(p, t, cap), p.target.clamp_min(0), v, **how)
                keep = p.target >= 0
                for one, other in zip(found[:6], expected[:6], strict=True):  # those of `WANTED` and at further temperatures
                    assert_close(one, torch.where(keep if other.ndim == 1 else keep[:, None], other, 0), 1e-12)
                mixed = [torch.stack([*s[:5], *s.logsumexp_at.unbind(-1)], -1).where(keep[:, None], 0) for s in (found, expected)]
                r.same(mixed[0], (h, w, b, *shared), mixed[1], (*p.inputs, *shared), sizes)


@case
def each_statistic_alone(r: Ranks) -> None:
    p = problem(9, classes=1030)
    for sizes in r.splits(1030):
        for name in WANTED:
            for target in (p.target, None) if name not in ("log_prob", "target_logit") else (p.target,):
                mine = r.head(p, sizes)[0]
                h, w, b = mine
                found = getattr(linear_stats(h, w, target, b, want=(name,), group=r.group, shards=sizes), name)
                expected = getattr(linear_stats(*p.inputs[:2], target, p.bias, want=(name,)), name)
                r.same(found.sin(), mine, expected.sin(), p.inputs, sizes)
        h, w, b = r.head(p, sizes)[0]
        found = linear_stats(h, w, bias=b, want=(), temperatures=(0.7,), group=r.group, shards=sizes)
        assert_close(found.logsumexp_at, (dense(p) / 0.7).logsumexp(-1, keepdim=True), 1e-12)


@case
def a_few_classes_of_each_row(r: Ranks) -> None:
    """Logits of given classes, the most likely ones and their mass, whoever holds them; twice differentiable."""
    p, cap = problem(9), leaf(torch.tensor(3.0, dtype=torch.float64))
    at = torch.randint(11, (9, 4), generator=torch.Generator().manual_seed(1))
    at[0, 1] = -100
    keep, how = p.target >= 0, {"temperature": 1.5, "softcap": cap}
    for sizes in r.splits(11):
        (h, w, b), source = r.head(p, sizes)
        mine, split = (h, w, b, cap), {"group": r.group, "shards": sizes}
        for k in (1, 3, 11):
            z = dense(p, 1.5, cap)
            found = linear_stats(h, w, p.target, b, want=("top_k_mass",), top_k=k, at=at, **how, **split)
            best, where = z.log_softmax(1).topk(k, 1)
            logits = torch.where(keep[:, None] & (at >= 0), z.gather(1, at.clamp_min(0)), 0)
            expected = torch.cat([best.logsumexp(1).where(keep, 0).sin()[:, None], logits], 1)
            r.same(torch.cat([found.top_k_mass.sin()[:, None], found.logits_at], 1), mine, expected, (*p.inputs, cap), sizes)
            classes, log_p = linear_top_k(h, w, k, b, **how, **split)
            assert torch.equal(classes, where)
            r.same(log_p, mine, dense(p, 1.5, cap).log_softmax(1).gather(1, where), (*p.inputs, cap), sizes)
        ours = gradients(source.logits_at(at, keep).sin().sum(), mine[:3], create_graph=True)[0]
        theirs = gradients(LinearLogits(*p.inputs).logits_at(at, keep).sin().sum(), p.inputs, create_graph=True)[0]
        r.same(ours.square().sum(), mine[:2], theirs.square().sum(), p.inputs[:2], sizes)


def _two(r: Ranks, rows: int, classes: int) -> tuple[Problem, Problem]:
    return problem(rows, classes=classes), problem(rows, classes=classes, width=4, seed=1)


@case
def two_heads_split_alike(r: Ranks) -> None:
    """Divergences and their gradients by both sides, by every schedule; with a class that both exclude, too."""
    for rows, classes, name, memory in ((9, 11, "kl", None), (9, 11, "pearson_chi2", 1000), (300, 1100, "jensen_shannon", None)):
        for masked in (False, True)[: 1 if rows > 9 else 2]:
            student, teacher = _two(r, rows, classes)
            if masked:
                out = torch.arange(classes) == classes - 1
                student, teacher = (p._replace(bias=leaf(torch.where(out, -INF, p.bias))) for p in (student, teacher))
            cap, keep, g = None if masked else 4.0, student.target >= 0, all_generators()[name]
            for sizes in r.splits(classes)[: 1 if rows > 9 else None]:
                mine, theirs = r.head(student, sizes)[0], r.head(teacher, sizes)[0]
                (h, w, b), (th, tw, tb) = mine, theirs
                how = {"temperature": 1.3, "softcap": cap, "mask": keep, "memory": memory, "group": r.group, "shards": sizes}
                for ours, others in ((mine, student.inputs), (theirs, teacher.inputs)):
                    found = linear_divergence(h, w, th, tw, b, tb, generator=name, **how)
                    expected = torch.where(keep, definition(student, teacher, g, 1.3, cap), 0)
                    r.same(found, ours, expected, others, sizes)
                for schedule in ("forward", "recompute"):
                    sides = [LinearLogits(*x, group=r.group, shards=sizes, schedule=schedule) for x in (mine, theirs)]
                    found = lossmith.divergence_distillation(*sides, generator=name, temperature=2.0)
                    r.same(found, mine, 4 * definition(student, teacher, g, 2.0).mean(), student.inputs, sizes)


@case
def two_heads_in_second_order(r: Ranks) -> None:
    student, teacher = _two(r, 6, 7)
    for sizes in r.splits(7):

        def fused(h: Tensor, w: Tensor, b: Tensor, th: Tensor, tw: Tensor, tb: Tensor, sizes: tuple[int, ...] = sizes) -> Tensor:
            return linear_divergence(h, w, th, tw, b, tb, softcap=3.0, group=r.group, shards=sizes).sum()

        def plain(h: Tensor, w: Tensor, b: Tensor, th: Tensor, tw: Tensor, tb: Tensor) -> Tensor:
            z = 3 * torch.tanh((h @ w.T + b) / 3)
            return divergence((th @ tw.T + tb).log_softmax(-1), z.log_softmax(-1), "kl", log=True).sum()

        at, there = (*r.head(student, sizes)[0], *r.head(teacher, sizes)[0]), (*student.inputs, *teacher.inputs)
        first, whole = (gradients(f(*x), x, create_graph=True) for f, x in ((fused, at), (plain, there)))
        for i in (0, 1, 3):
            ours, expected = (gradients(g[i].sin().sum(), x, retain_graph=True) for g, x in ((first, at), (whole, there)))
            for j, (a, b) in enumerate(zip(ours, expected, strict=True)):
                torch.testing.assert_close(a, b if j in (0, 3) else r.part(b, sizes), rtol=0, atol=1e-9 * b.abs().max().item())
        at, there = (tuple(x.detach() for x in inputs) for inputs in (at, there))
        assert_close(torch.func.jvp(fused, at, at)[1], torch.func.jvp(plain, there, there)[1])


@case
def statistics_of_a_teacher(r: Ranks) -> None:
    student, teacher = _two(r, 9, 11)
    keep, v, want = (
        student.target >= 0,
        leaf(torch.linspace(0, 1, 11, dtype=torch.float64)),
        ("cross_entropy_to_teacher", "teacher_mean_logit"),
    )
    for sizes in r.splits(11):
        (mine, source), (_, other) = r.head(student, sizes), r.head(teacher, sizes)
        h, w, b = mine
        found = linear_stats(h, w, student.target, b, want=want, teacher=other, group=r.group, shards=sizes)
        z, q = dense(student), dense(teacher).softmax(1)
        expected = torch.stack([-(q * z.log_softmax(1)).sum(1), (q * z).sum(1)]).where(keep, 0)
        r.same(torch.stack([getattr(found, name) for name in want]), mine, expected, student.inputs, sizes)
        found = source.cross_entropy_to(other, keep, v).sin().sum()
        expected = (-(v * q * dense(student).log_softmax(1)).sum(1)).where(keep, 0).sin().sum()
        assert_close(gradients(found, (v,)), gradients(expected, (v,)))


@case
def two_heads_in_single_and_half_precision(r: Ranks) -> None:
    """As in one process: the value to float32's digits, whatever the dtypes; gradients to those of what they belong to."""
    for dtype, tolerance in ((torch.float32, (1e-6, 1e-5)), (torch.bfloat16, (1e-6, 8e-3))):
        student, teacher = (p.to(dtype) for p in _two(r, 300, 1100))
        for sizes in r.splits(1100)[::2]:
            for how in ({"schedule": "forward"}, {"schedule": "recompute"}, {"memory": 1000}):
                (mine, source), (theirs, other) = r.head(student, sizes, **how), r.head(teacher, sizes)
                found = lossmith.divergence_distillation(source, other, generator="kl")
                assert found.dtype == torch.float32
                whole = LinearLogits(*student.inputs, schedule="recompute"), LinearLogits(*teacher.inputs)
                expected = lossmith.divergence_distillation(*whole, generator="kl")
                r.same(found, mine, expected, student.inputs, sizes, tolerance)
                r.same(lossmith.divergence_distillation(source, other, generator="kl"), theirs, *_again(whole, teacher), sizes, tolerance)


def _again(whole: tuple[LinearLogits, LinearLogits], teacher: Problem) -> tuple[Tensor, tuple[Tensor, ...]]:
    return lossmith.divergence_distillation(*whole, generator="kl"), teacher.inputs


@case
def two_heads_with_logits_far_out(r: Ranks) -> None:
    """1e4 in the classes of one rank alone, of both sides or of one, whose rows are then sure of classes that another rank holds.

    In float32 a logit there is known to 1e-3 (as a power of 2, where none is a whole number), which a mean over the rows leaves 1e-4 of.
    """
    for dtype, tolerance in ((torch.float64, (1e-12, 1e-9)), (torch.float32, (1e-4, 1e-4))):
        for classes, rows in ((11, 9), (1100, 40)):
            for sizes in r.splits(classes):
                last, first = (torch.zeros(classes, dtype=torch.float64) for _ in range(2))
                last[classes - max(sizes[-1], 1) :], first[0] = 1e4, 1e4
                for of_student, of_teacher, name in ((last, last, "kl"), (last, first, "kl"), (last, first, "jensen_shannon")):
                    sides = [
                        Problem(p.hidden.round(), p.weight.round(), p.bias.round() + shift, p.target).to(dtype)
                        for p, shift in zip(_two(r, rows, classes), (of_student, of_teacher), strict=True)
                    ]
                    wide = [p.to(torch.float64) for p in sides]
                    expected = definition(*wide, all_generators()[name]).mean()
                    (mine, source), (theirs, other) = (r.head(p, sizes) for p in sides)
                    found = lossmith.divergence_distillation(source, other, generator=name)
                    assert_close(found, expected, tolerance[0])
                    ours = gradients(found, (*mine, *theirs))
                    for i, (a, b) in enumerate(zip(ours, gradients(expected, (*wide[0].inputs, *wide[1].inputs)), strict=True)):
                        limit = tolerance[1] * max(b.abs().max().item(), 1.0)  # rows that both are sure of have none but for rounding
                        torch.testing.assert_close(a.double(), r.part(b, sizes) if i % 3 else b, rtol=0, atol=limit)


@case
def two_heads_compiled_in_one_graph(r: Ranks) -> None:
    if r.size != 3:  # it takes its time, and depends on no number of ranks
        return
    student, teacher = _two(r, 9, 11)
    sizes = r.splits(11)[-1]

    def fused(h: Tensor, w: Tensor, b: Tensor, th: Tensor, tw: Tensor, tb: Tensor) -> Tensor:
        sides = [LinearLogits(*x, group=r.group, shards=sizes) for x in ((h, w, b), (th, tw, tb))]
        return lossmith.divergence_distillation(*sides, generator="kl")

    torch._dynamo.reset()
    mine, theirs = r.head(student, sizes)[0], r.head(teacher, sizes)[0]
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
    for ours, others in ((mine, student.inputs), (theirs, teacher.inputs)):
        r.same(compiled(*mine, *theirs), ours, definition(student, teacher, all_generators()["kl"]).mean(), others, sizes)


@case
def two_heads_that_do_not_go_together(r: Ranks) -> None:
    """Split differently; rows that one rank keeps and another does not, which is found out on all; hidden states that differ."""
    if r.size == 1:
        return
    student, teacher = _two(r, 9, 11)
    one, another = r.splits(11)[:2]
    (h, w, b), source = r.head(student, one)
    other = r.head(teacher, another)[1]
    alike, apart = r.head(teacher, one)[1], "the teacher's classes must be split as the student's are, over the same ranks"
    says(apart, lambda: lossmith.divergence_distillation(source, other, generator="kl"))
    says(apart, lambda: lossmith.cross_entropy(source, other))
    says(apart, lambda: lossmith.divergence_distillation(source, LinearLogits(*teacher.inputs), generator="kl"))
    kept = torch.arange(9) >= r.rank
    for schedule in ("auto", "recompute"):
        mine = LinearLogits(h, w, b, group=r.group, shards=one, schedule=schedule)
        says(
            "mask must be the same on every rank of the group",
            lambda s=mine: lossmith.divergence_distillation(s, alike, generator="kl", sample_weight=kept.double()),
        )
    with lossmith.validate(True):
        lossmith.divergence_distillation(source, alike, generator="kl")
        moved = r.head(teacher._replace(hidden=teacher.hidden + r.rank), one)[1]
        says("hidden must be the same on every rank", lambda: lossmith.divergence_distillation(source, moved, generator="kl"))
        at = torch.full((9, 1), r.rank)
        says("at must be the same on every rank", lambda: linear_stats(h, w, None, b, want=(), at=at, group=r.group, shards=one))


@case
def teachers_that_differ_from_rank_to_rank(r: Ranks) -> None:
    """Asked in the one message that asks for the sizes, so that none of them waits for a gradient that others do not have."""
    if r.size == 1:
        return
    student, teacher = _two(r, 9, 11)
    one, another = r.splits(11)[:2]
    mine, (h, w, b) = r.head(student, one)[0], r.head(teacher, one)[0]
    with counted() as messages:
        linear_divergence(*mine[:2], h, w, mine[2], b, group=r.group)
    assert messages.count("all_gather") == 1

    def compared(*theirs):
        return linear_divergence(*mine[:2], *theirs[:2], mine[2], theirs[2], group=r.group)

    first = r.rank == 0
    says("teacher_bias must be there, or not, on every rank", lambda: compared(h, w, None if first else b))
    says("teacher_weight must ask for a gradient, or not, on every rank", lambda: compared(h, w.detach() if first else w, b))
    says("teacher_hidden must ask for a gradient, or not, on every rank", lambda: compared(h.detach() if first else h, w, b))
    says(
        r"the teacher's classes must be split as the student's are, over the same ranks; ranks hold \[",
        lambda: compared(*r.head(teacher, another)[0]),
    )


@case
def rows_that_differ_from_rank_to_rank(r: Ranks) -> None:
    """As under a head that FSDP2 has sharded; without labels too, and in a DTensor that only says that it is replicated."""
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

    if r.size == 1:
        return
    student, teacher = _two(r, 300, 11)
    sizes = r.splits(11)[-1]
    target, split = student.target, {"group": r.group, "shards": sizes}
    (h, w, b), (th, tw, tb) = (r.head(p, sizes)[0] for p in (student, teacher))
    mesh = DeviceMesh.from_group(r.group, "cpu")
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        for apart, expected in ((1e-7, ""), (1.0, "must be the same on every rank of the group; it is not")):
            other, theirs = (x.detach().to(dtype) + apart * r.rank * torch.randn(x.shape).to(dtype) for x in (h, th))
            head, both = LinearLogits(other, w, b, **split), (w, tw, b, tb)
            wrapped = DTensor.from_local(other.float(), mesh, [Replicate()], run_check=False)
            whole = distribute_tensor(student.weight.detach().float(), mesh, [Shard(0)])
            calls = {
                "hidden": [
                    lambda s=head: lossmith.cross_entropy(s, target),
                    lambda s=head: lossmith.focal_loss(s, target),
                    lambda s=head: s.row_stats(("entropy",), target),
                    lambda x=other: linear_top_k(x, w, 2, b, **split),
                    lambda x=other, v=both: linear_divergence(x, v[0], th, v[1], v[2], v[3], **split),
                    lambda x=wrapped, v=whole: lossmith.focal_loss(LinearLogits(x, v), target),
                ],
                "teacher_hidden": [
                    lambda x=theirs, v=both: linear_divergence(h, v[0], x, v[1], v[2], v[3], **split),
                    lambda x=theirs: lossmith.divergence_distillation(LinearLogits(h, w, b, **split), LinearLogits(x, tw, tb, **split)),
                ],
            }
            for name, each in calls.items():
                for call in each:
                    says(f"{name} {expected}", call) if expected else call()


@case
def sizes_are_asked_of_the_ranks(r: Ranks) -> None:
    p = problem(9)
    for sizes in r.splits(11):
        inputs = r.head(p, sizes)[0]
        source = LinearLogits(*inputs, group=r.group)
        assert source.shards.sizes == sizes
        assert source.classes == 11
        r.same(lossmith.cross_entropy(source, p.target), inputs, lossmith.cross_entropy(dense(p), p.target), p.inputs, sizes)
        found = linear_log_prob(inputs[0], inputs[1], p.target, inputs[2], group=r.group)
        assert_close(found, linear_log_prob(*p.inputs[:2], p.target, p.bias), 1e-12)


@case
def rows_that_are_ignored(r: Ranks) -> None:
    """NaN in them, and nothing kept, and no rows."""
    p = problem(12)
    dirty = torch.where((p.target >= 0)[:, None], p.hidden, NAN).detach()
    for target in (p.target, torch.full((12,), -100)):
        for name in ("cross_entropy", "focal_loss"):
            for sizes in r.splits(11):
                mine, source = r.head(p._replace(hidden=dirty), sizes)
                function = getattr(lossmith, name)
                r.same(function(source, target), mine, function(dense(p), target), p.inputs, sizes)
    p = problem(0)
    mine, source = r.head(p, r.splits(11)[-1])
    for name in ("cross_entropy", "focal_loss"):
        value = getattr(lossmith, name)(source, p.target)
        assert value == 0
        assert all((g == 0).all() for g in gradients(value, mine))


@case
def logits_far_out(r: Ranks) -> None:
    """1e4 in the classes of the last rank alone: rows whose label is elsewhere are done again on all, relative to the maximum.

    Small whole numbers, so that float32 holds the logits exactly.
    """
    for dtype, tolerance in (
        (torch.float64, (1e-12, 1e-9)),
        (torch.float32, (1e-6, 1e-3)),
    ):  # a logsumexp of 1e4 has four digits behind the point
        for classes, rows in ((11, 9), (1100, 300)):
            for sizes in r.splits(classes):
                p = problem(rows, classes=classes, width=3)
                shift = torch.zeros(classes, dtype=torch.float64)
                shift[classes - max(sizes[-1], 1) :] = 1e4
                p = Problem(p.hidden.round(), p.weight.round(), p.bias.round() + shift, p.target).to(dtype)
                wide = p.to(torch.float64)
                for name in ("cross_entropy", "poly_loss"):
                    for schedule in ("auto", "recompute"):
                        mine, source = r.head(p, sizes, schedule=schedule)
                        found = getattr(lossmith, name)(source, p.target)
                        expected = getattr(lossmith, name)(dense(wide), p.target)
                        assert found.isfinite()
                        ours, theirs = gradients(found, mine), gradients(expected, wide.inputs)
                        assert_close(found.double(), expected, tolerance[0])
                        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
                            b, limit = (r.part(b, sizes) if i else b), tolerance[1] * b.abs().max().item()
                            torch.testing.assert_close(a.double(), b, rtol=0, atol=limit)
                h, w, b = r.head(p, sizes)[0]
                for target in (p.target, None):
                    found = linear_stats(h, w, target, b, want=("logsumexp", "entropy"), group=r.group, shards=sizes)
                    expected = linear_stats(*p.inputs[:2], target, p.bias, want=("logsumexp", "entropy"))
                    assert_close(found.logsumexp, expected.logsumexp, 1e-6)
                    assert_close(found.entropy, expected.entropy, 1e-5)


@case
def a_confident_row_keeps_its_digits(r: Ranks) -> None:
    lead = 60.0
    weight, bias = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.5]]), torch.zeros(3)
    p = Problem(leaf(torch.tensor([[lead, 0.0]])), leaf(weight), leaf(bias), torch.tensor([0]))
    for sizes in r.splits(3):
        for schedule in ("forward", "recompute"):
            mine, source = r.head(p, sizes, schedule=schedule)
            loss = lossmith.cross_entropy(source, p.target)
            tiny = 2 * torch.exp(torch.tensor(-lead, dtype=torch.float64)).item()
            torch.testing.assert_close(loss.item(), tiny, rtol=1e-5, atol=0)
            torch.testing.assert_close(gradients(loss, mine)[0][0].tolist(), [-tiny, 0.75 * tiny], rtol=1e-5, atol=0)


@case
def classes_masked_by_minus_infinity(r: Ranks) -> None:
    """A class, the label's own, all that a rank holds (as padding is), every class; infinity and NaN reach the loss of their row."""
    p = problem(7, classes=5, ignored=False)
    for sizes in r.splits(5):
        first = sum(sizes[:-1]) if sizes[-1] else 4
        for masked in ([1], [int(p.target[0])], [*range(first, 5)], [*range(5)]):
            at = torch.isin(torch.arange(5), torch.tensor(masked))
            q = p._replace(bias=leaf(torch.where(at, -INF, p.bias)))
            for schedule in ("auto", "recompute"):
                z = dense(q)
                mine, source = r.head(q, sizes, schedule=schedule)
                found, expected = (lossmith.cross_entropy(x, p.target, reduction="none") for x in (source, z))
                torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12, equal_nan=True)
                weight = (~at[p.target]).double()
                found = lossmith.cross_entropy(source, p.target, sample_weight=weight)
                if not weight.any():
                    assert found == 0
                    continue
                left = z[:, ~at].log_softmax(1).gather(1, (torch.cumsum(~at, 0) - 1).clamp_min(0)[p.target].unsqueeze(1)).squeeze(1)
                expected = -(weight * left).sum() / weight.sum()  # the classes that are left, by themselves
                assert_close(found, expected, 1e-11)
                assert_close(gradients(found, mine[:1]), gradients(expected, (p.hidden,)))
            h, w, b = mine
            stats = linear_stats(h, w, None, b, want=("entropy", "logsumexp"), group=r.group, shards=sizes)
            whole = linear_stats(p.hidden, p.weight, None, q.bias, want=("entropy", "logsumexp"))
            for one, other in zip(stats[2:4], whole[2:4], strict=True):
                torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12, equal_nan=True)
        for bad in (INF, NAN):
            hidden = torch.where(torch.arange(7)[:, None] == 2, bad, p.hidden)
            for schedule in ("auto", "recompute"):
                found = lossmith.cross_entropy(r.head(p._replace(hidden=hidden), sizes, schedule=schedule)[1], p.target, reduction="none")
                assert found[2].isnan()
                assert found[torch.arange(7) != 2].isfinite().all()


@case
def label_smoothing_is_torchs(r: Ranks) -> None:
    """Over all classes, not over the rank's own."""
    p = problem(9)
    for sizes in r.splits(11):
        for weight in (None, leaf(WEIGHTS["weight"])):
            for reduction in ("mean", "sum", "none"):
                mine, source = r.head(p, sizes)
                options = {"label_smoothing": 0.2, "reduction": reduction, "weight": weight}
                found = lossmith.cross_entropy(source, p.target, **options)
                torchs = {**options, "weight": None if weight is None else weight.detach()}
                assert_close(found, torch.nn.functional.cross_entropy(dense(p), p.target, **torchs), 1e-12)
                r.same(found, mine, lossmith.cross_entropy(dense(p), p.target, **options), p.inputs, sizes)
                if weight is not None:
                    expected = lossmith.cross_entropy(dense(p), p.target, **options).sum()
                    found = lossmith.cross_entropy(source, p.target, **options).sum()
                    assert_close(gradients(found, (weight,)), gradients(expected, (weight,)))


@case
def heads_without_gradients(r: Ranks) -> None:
    p = problem(300, classes=40)
    for sizes in r.splits(40):
        for name in ("cross_entropy", "focal_loss"):
            hidden = leaf(p.hidden)
            w, b = (r.part(whole.detach(), sizes) for whole in (p.weight, p.bias))
            source = LinearLogits(hidden, w, b, group=r.group, shards=sizes)
            assert explain(source, loss="rows").path == "frozen"
            function = getattr(lossmith, name)
            found, expected = function(source, p.target), function(dense(p), p.target)
            r.same(found, (hidden,), expected, (p.hidden,), sizes)
            with torch.no_grad():
                assert_close(function(source, p.target), expected, 1e-12)


@case
def half_precision(r: Ranks) -> None:
    p = problem(40, classes=600, scale=0.7).to(torch.bfloat16)
    for sizes in r.splits(600):
        for name in ("cross_entropy", "focal_loss"):
            mine, source = r.head(p, sizes)
            found, expected = (getattr(lossmith, name)(x, p.target) for x in (source, LinearLogits(*p.inputs)))
            assert found.dtype == torch.float32
            r.same(found, mine, expected, p.inputs, sizes, (1e-6, 8e-3))  # a rounding of bfloat16 is 4e-3


@case
def backward_twice(r: Ranks) -> None:
    p = problem(9)
    for sizes in r.splits(11):
        for name in ("cross_entropy", "focal_loss"):
            mine, source = r.head(p, sizes)
            value = getattr(lossmith, name)(source, p.target)
            first, second = gradients(value, mine, retain_graph=True), gradients(value, mine)
            for a, b in zip(first, second, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@contextmanager
def counted():
    """How many messages there are."""
    messages = []

    def spied(name):
        real = getattr(dist, name)

        def spy(*arguments, **options):
            messages.append(name)
            return real(*arguments, **options)

        return mock.patch.object(dist, name, spy)

    with spied("all_reduce"), spied("all_gather"):
        yield messages


@case
def messages_are_counted(r: Ranks) -> None:
    """Two forward, one backward, however many rows and statistics; gradients in the forward pass cost one more a block."""
    p, sizes = problem(600, classes=40), r.splits(40)[-1]
    t = leaf(torch.tensor(1.5, dtype=torch.float64))

    def stats(source: LinearLogits) -> Tensor:
        found = source.row_stats(WANTED, p.target, None, (2.0,))
        return sum(s.sum() for s in found if s is not None)

    def entropy(source: LinearLogits) -> Tensor:
        return source.row_stats(("entropy",), torch.zeros(600, dtype=torch.long)).entropy.sum()

    for loss, how, forward, backward in (
        (lambda s: lossmith.focal_loss(s, p.target), {}, 2, 1),
        (lambda s: lossmith.cross_entropy(s, p.target, label_smoothing=0.1), {}, 2, 1),
        (stats, {}, 2, 1),
        (stats, {"softcap": t}, 2, 1),  # the softcap's gradient goes with the hidden states'
        (stats, {"temperature": t}, 2, 2),  # the temperature's, by way of the bias, does not
        (entropy, {}, 2, 1),
        (lambda s: lossmith.cross_entropy(s, p.target), {"schedule": "recompute"}, 2, 1),
        (lambda s: lossmith.cross_entropy(s, p.target), {}, 1 + 2 + 1, 0),  # 480 rows are kept: two blocks
    ):
        _, source = r.head(p, sizes, **how)
        with counted() as messages:
            value = loss(source)
        assert len(messages) == forward, (messages, forward)
        with counted() as messages:
            value.backward()
        assert len(messages) == backward, (messages, backward)
    with counted() as messages:
        LinearLogits(*r.head(p, sizes)[0], group=r.group)
    assert messages == ["all_gather"]  # of the sizes, where they are not given


@case
def dtensors(r: Ranks) -> None:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = DeviceMesh.from_group(r.group, "cpu")
    for classes in (11, 4, 2):  # 2 over 3 ranks: the last holds none
        p = problem(9, classes=classes)
        for name in ("cross_entropy", "focal_loss"):
            function = getattr(lossmith, name)
            expected = gradients(function(dense(p), p.target), p.inputs)
            for placement in (Shard(0), Replicate()):
                w, b = (leaf(distribute_tensor(x.detach(), mesh, [placement])) for x in p.inputs[1:])
                for hidden in (leaf(p.hidden), leaf(distribute_tensor(p.hidden.detach(), mesh, [Replicate()]))):
                    source = LinearLogits(hidden, w, b)
                    assert source.classes == classes
                    found = gradients(function(source, p.target), (hidden, w, b))
                    assert found[1].placements == (placement,)
                    assert found[2].placements == (placement,)
                    assert_close(tuple(g.full_tensor() if hasattr(g, "full_tensor") else g for g in found), expected)
    p = problem(9)
    whole, columns = (distribute_tensor(p.weight.detach(), mesh, [placement]) for placement in (Shard(0), Shard(1)))
    says(r"weight, as a DTensor, must be Shard\(dim=0\) or Replicate\(\); got S", lambda: LinearLogits(p.hidden, columns))
    says("bias must be a DTensor split as the weight is", lambda: LinearLogits(p.hidden, whole, p.bias))
    says("group and shards go with plain tensors", lambda: LinearLogits(p.hidden, whole, group=r.group))
    rows = distribute_tensor(p.hidden.detach(), mesh, [Shard(0)])
    says("hidden must be the same on every rank; as a DTensor it is S", lambda: LinearLogits(rows, whole))


@case
def compiled_in_one_graph(r: Ranks) -> None:
    if r.size != 3:  # it takes its time, and depends on no number of ranks
        return
    p = problem(9)
    sizes, t = r.splits(11)[-1], leaf(torch.tensor(1.5, dtype=torch.float64))
    for loss in (
        lambda z: lossmith.cross_entropy(z, p.target),
        lambda z: lossmith.cross_entropy(z, p.target, label_smoothing=0.1, weight=WEIGHTS["weight"]),
    ):

        def fused(h: Tensor, w: Tensor, b: Tensor, t: Tensor, loss: Case = loss) -> Tensor:
            return loss(LinearLogits(h, w, b, temperature=t, group=r.group, shards=sizes))

        torch._dynamo.reset()
        mine = r.head(p, sizes)[0]
        found = torch.compile(fused, fullgraph=True, backend="aot_eager")(*mine, t)
        r.same(found, (*mine, t), loss(dense(p, t)), (*p.inputs, t), sizes)


def _mixture(found) -> Tensor:
    """Every statistic, nonlinearly."""
    value = found.log_prob * found.entropy + found.mean_logit**2 + found.logsumexp.sin() * found.target_logit
    return value + found.logsumexp_at.cos().sum(-1)


_WANT = {"want": ("log_prob", "target_logit", "logsumexp", "entropy", "mean_logit"), "temperatures": (2.0,)}


def _pairs(p: Problem, how: dict) -> list[tuple[Callable, Callable]]:
    """Values of the split head's inputs, and of the logits."""
    keep, label = p.target >= 0, p.target.clamp_min(0)
    return [
        (lambda h, w, b: lossmith.cross_entropy(LinearLogits(h, w, b, **how), p.target), lambda z: lossmith.cross_entropy(z, p.target)),
        (
            lambda h, w, b: lossmith.focal_loss(LinearLogits(h, w, b, softcap=3.0, temperature=1.5, **how), p.target),
            lambda z: lossmith.focal_loss(3 * torch.tanh(z / 3) / 1.5, p.target),
        ),
        (
            lambda h, w, b: torch.where(keep, _mixture(linear_stats(h, w, p.target, b, **_WANT, **how)), 0).sum(),
            lambda z: torch.where(keep, _mixture(row_stats(z, label, **_WANT)), 0).sum(),
        ),
    ]


@case
def derivatives_of_every_kind(r: Ranks) -> None:
    """Double backward, forward mode, and the transforms of torch.func and their combinations."""
    p = problem(6, width=3, classes=7)
    for sizes in r.splits(7)[1:] or r.splits(7):
        pairs = _pairs(p, {"group": r.group, "shards": sizes})
        for fused, of_logits in pairs:

            def plain(h: Tensor, w: Tensor, b: Tensor, of_logits: Case = of_logits) -> Tensor:
                return of_logits(h @ w.T + b)

            mine = r.head(p, sizes)[0]
            at, there = tuple(x.detach() for x in mine), tuple(x.detach() for x in p.inputs)
            _second_order(r, fused, plain, mine, p, sizes)
            # forward mode, every rank along its part of one direction
            expected = torch.func.jvp(plain, there, there)[1]
            assert_close(torch.func.jvp(fused, at, at)[1], expected)
            with forward_ad.dual_level():
                found = fused(*(forward_ad.make_dual(x, x) for x in at))
                assert_close(forward_ad.unpack_dual(found).tangent, expected)
            found, expected = (torch.func.grad(f, (0, 1, 2))(*x) for f, x in ((fused, at), (plain, there)))
            assert_close(found, (expected[0], *(r.part(g, sizes) for g in expected[1:])), 1e-9)
            for second in (
                torch.func.hessian,
                lambda f: torch.func.jacrev(torch.func.jacrev(f)),
                lambda f: torch.func.jacfwd(torch.func.grad(f)),
            ):
                assert_close(second(fused)(*at), second(plain)(*there))
            batches = [(torch.stack([x[0], 2 * x[0]]), *x[1:]) for x in (at, there)]
            found, expected = (
                torch.func.vmap(torch.func.grad(f), in_dims=(0, None, None))(*x) for f, x in zip((fused, plain), batches, strict=True)
            )
            assert_close(found, expected)
    with lossmith.validate(True):  # sizes are asked of the ranks within a transform too, and hidden states compared outside alone
        asked, whole = _pairs(p, {"group": r.group})[0][0], (lambda h, w, b: pairs[0][1](h @ w.T + b))
        assert_close(torch.func.grad(asked)(*at), torch.func.grad(whole)(*there))
        batches = [(torch.stack([x[0], 2 * x[0]]), *x[1:]) for x in (at, there)]
        found, expected = (torch.func.vmap(f, in_dims=(0, None, None))(*x) for f, x in zip((asked, whole), batches, strict=True))
        assert_close(found, expected)
    third = [
        torch.func.jacrev(torch.func.hessian(f))(*x) for f, x in ((pairs[1][0], at), (lambda h, w, b: pairs[1][1](h @ w.T + b), there))
    ]
    assert_close(*third)


def _second_order(r: Ranks, fused: Callable, plain: Callable, mine: tuple, p: Problem, sizes: tuple[int, ...]) -> None:
    """The gradient of a penalty on all gradients: every rank's part of the head's, and the hidden states', which all share."""
    slopes, whole = (gradients(f(*x), x, create_graph=True) for f, x in ((fused, mine), (plain, p.inputs)))
    assert all(g.requires_grad for g in slopes)
    for index in range(3):
        ours = gradients(slopes[index].sin().sum(), mine, retain_graph=True, allow_unused=True)
        theirs = gradients(whole[index].sin().sum(), p.inputs, retain_graph=True, allow_unused=True)
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            expected = r.part(b, sizes) if i else b
            torch.testing.assert_close(a, expected, rtol=0, atol=1e-9 * max(b.abs().max().item(), 1e-300))


def says(pattern: str, call: Callable[[], object]) -> None:
    with pytest.raises((ValueError, TypeError), match=pattern) as caught:
        call()
    assert "\n" not in str(caught.value)


@case
def mistakes(r: Ranks) -> None:
    """In one line, and on every rank, so that none waits."""
    p, sizes = problem(9), r.splits(11)[0]
    h, w, b = r.head(p, sizes)[0]
    says(
        rf"shards must have one number for each of the group's {r.size} ranks",
        lambda: LinearLogits(h, w, b, group=r.group, shards=(11,) * 4),
    )
    for bad in (tuple(float(size) for size in sizes), (-1,) * r.size):
        says(r"shards must be whole numbers of classes from 0; got \(", lambda bad=bad: LinearLogits(h, w, b, group=r.group, shards=bad))
    wrong = tuple(size + 1 for size in sizes)
    says("shards must say how many classes each rank holds", lambda: LinearLogits(h, w, b, group=r.group, shards=wrong))
    says("shards says how the classes are split over a group; got no group", lambda: LinearLogits(h, w, b, shards=sizes))
    says("group must be a process group that this process belongs to; got int -100", lambda: LinearLogits(h, w, b, group=-100))
    says(r"bias must have shape \(\d+,\)", lambda: LinearLogits(h, w, torch.zeros(12), group=r.group))
    nothing = tuple(0 for _ in sizes)
    says("weight must have at least one class on some rank", lambda: LinearLogits(h, w[:0], group=r.group, shards=nothing))
    source = LinearLogits(h, w, b, group=r.group, shards=sizes)
    says(r"target must hold class indices in 0..10 .* got 11", lambda: lossmith.cross_entropy(source, p.target.clamp_min(0) * 0 + 11))
    says(r"weight must have shape \(11,\)", lambda: lossmith.cross_entropy(source, p.target, weight=torch.ones(12)))
    plan = explain(source, loss="rows")
    assert f"vocabulary in {r.size} shard" in str(plan)
    assert "over gloo" in plan.backend
    assert plan.gradients == 8 * (h.numel() + w.numel() + b.numel())
    assert f"of 11 classes, vocabulary in {r.size} shard" in repr(source)
    if r.size == 1:
        return
    # what differs from rank to rank
    for schedule in ("auto", "recompute"):
        other = p.target.clone()
        other[0] = (r.rank + other[0]) % 11
        source = LinearLogits(h, w, b, group=r.group, shards=sizes, schedule=schedule)
        says("target must be the same on every rank of the group", lambda s=source, y=other: lossmith.cross_entropy(s, y))
        ignored = torch.where(torch.arange(9) < r.rank, -100, p.target.clamp_min(0))
        says("target must be the same on every rank of the group", lambda s=source, y=ignored: lossmith.cross_entropy(s, y))
    rows = h[: 9 - r.rank]
    says(r"hidden must have as many rows on every rank of the group; got \[9, 8", lambda: LinearLogits(rows, w, b, group=r.group))
    half = b if r.rank else None
    says(r"bias must be there, or not, on every rank", lambda: LinearLogits(h, w, half, group=r.group))
    frozen = w if r.rank else w.detach()
    says(r"weight must ask for a gradient, or not, on every rank", lambda: LinearLogits(h, frozen, b, group=r.group))
    with lossmith.validate(True):
        lossmith.cross_entropy(source, p.target)
        differs = LinearLogits(h + r.rank, w, b, group=r.group, shards=sizes)
        apart = r.size - 1
        says(
            rf"hidden must be the same on every rank of the group; entries differ by up to {apart}",
            lambda: lossmith.focal_loss(differs, p.target),
        )
        says("hidden must be the same", lambda: differs.row_stats(("entropy",), torch.zeros(9, dtype=torch.long)))


def work(rank: int, folder: str, world: int) -> None:
    """One rank: every case in every group that it belongs to; what failed is written down. All stop at the first failure of one."""
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world, timeout=datetime.timedelta(seconds=60)
    )
    groups = {name: dist.new_group(list(members), timeout=datetime.timedelta(seconds=60)) for name, members in WORLDS.items()}
    failed: dict[str, str] = {}
    for name, members in WORLDS.items():
        for number, (title, function) in enumerate(CASES.items()):
            if rank in members and not failed:
                try:
                    torch.manual_seed(number)
                    function(Ranks(groups[name]))
                except BaseException:
                    failed[f"{title}, {name}"] = traceback.format_exc()
            several = torch.tensor(float(bool(failed)))
            dist.all_reduce(several)
            if several:
                break
        else:
            continue
        break
    torch.save(failed, Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
