"""Divergences between two heads, values and gradients, against the definition on logits in float64."""

from pathlib import Path

import mpmath
import pytest
import torch

import lossmith
from lossmith.divergences import divergence
from lossmith.fused import LinearLogits, Logits, linear_divergence
from lossmith.fused.pair_functions import Both
from lossmith.fused.pair_plan import choose
from lossmith.fused.terms import Divergence
from lossmith.generators import FGenerator, all_generators, kl
from tests.fused.heads import Problem, assert_close, class_axis, dense, gradients, leaf, problem
from tests.fused.test_plan import _status

INF = float("inf")


def mine(u: torch.Tensor) -> torch.Tensor:
    return (u - 1) ** 2 / (u + 0.5)


GENERATORS = {
    **all_generators(),
    "a user's": FGenerator.from_function(mine),
    "a sum": kl + all_generators()["jensen_shannon"],
    "twice": 2.0 * all_generators()["skew_kl(skew=0.1)"],
    "tilted": kl.tilted(3.0),
}
generators = pytest.mark.parametrize("g", GENERATORS.values(), ids=GENERATORS)
SCHEDULES = {"forward": {"schedule": "forward"}, "auto": {}, "lean": {"memory": 1000}, "recompute": {"schedule": "recompute"}}
schedules = pytest.mark.parametrize("how", SCHEDULES.values(), ids=SCHEDULES)


def two(*rows: int, classes: int = 11, scale: float = 1.0) -> tuple[Problem, Problem]:
    """A student and a teacher of another width."""
    return problem(*rows, classes=classes, scale=scale), problem(*rows, width=4, classes=classes, scale=scale, seed=1)


def definition(student: Problem, teacher: Problem, g: FGenerator, temperature=1.0, softcap=None, teacher_softcap=None) -> torch.Tensor:
    z, t = dense(student, temperature, softcap), dense(teacher, temperature, teacher_softcap)
    return divergence(t.log_softmax(-1), z.log_softmax(-1), g, log=True)


def of_heads(student: Problem, teacher: Problem, **how) -> torch.Tensor:
    (h, w, b), (th, tw, tb) = student.inputs, teacher.inputs
    return linear_divergence(h, w, th, tw, b, tb, **how)


@generators
@pytest.mark.parametrize("memory", [None, 1000])
def test_every_generator_and_its_gradients(g, memory):
    student, teacher = two(9, classes=1030)
    inputs = (*student.inputs, *teacher.inputs)
    found, expected = of_heads(student, teacher, generator=g, memory=memory), definition(student, teacher, g)
    assert_close(found, expected, 1e-11)
    upstream = torch.linspace(-1, 2, 9, dtype=torch.float64)
    assert_close(gradients((found * upstream).sum(), inputs), gradients((expected * upstream).sum(), inputs))


@generators
@pytest.mark.parametrize("learning", [True, False])
def test_gradients_formed_in_the_forward_pass(g, learning):
    """A mean of 300 rows: two blocks, the teacher learning and not."""
    student, teacher = two(300, classes=70)
    sides = [LinearLogits(*student.inputs, schedule="forward")]
    sides.append(LinearLogits(*(teacher.inputs if learning else (tensor.detach() for tensor in teacher.inputs))))
    inputs = (*student.inputs, *teacher.inputs) if learning else student.inputs
    found = lossmith.divergence_distillation(*sides, generator=g, temperature=2.0)
    expected = 4 * definition(student, teacher, g, 2.0).mean()
    assert_close(found, expected, 1e-11)
    assert_close(gradients(found, inputs), gradients(expected, inputs))


@pytest.mark.parametrize("name", ["kl", "jensen_shannon", "pearson_chi2"])
def test_softcaps_and_temperature_are_learnt(name):
    student, teacher = two(300, classes=600)
    t, cap, teacher_cap = (leaf(torch.tensor(value, dtype=torch.float64)) for value in (1.3, 2.0, 3.0))
    inputs = (*student.inputs, *teacher.inputs, t, cap, teacher_cap)
    found = of_heads(student, teacher, generator=name, temperature=t, softcap=cap, teacher_softcap=teacher_cap)
    expected = definition(student, teacher, GENERATORS[name], t, cap, teacher_cap)
    assert_close(found, expected, 1e-11)
    assert_close(gradients(found.sin().sum(), inputs), gradients(expected.sin().sum(), inputs))


@schedules
@pytest.mark.parametrize("learning", [True, False])
def test_softcaps_of_every_schedule(how, learning):
    student, teacher = two(20, classes=600)
    theirs = teacher.inputs if learning else tuple(tensor.detach() for tensor in teacher.inputs)
    sides = LinearLogits(*student.inputs, softcap=2.0, **how), LinearLogits(*theirs, softcap=3.0)
    found = lossmith.divergence_distillation(*sides, generator="reverse_kl", reduction="sum")
    expected = definition(student, teacher, GENERATORS["reverse_kl"], 1.0, 2.0, 3.0).sum()
    assert_close(found, expected, 1e-11)
    inputs = (*student.inputs, *teacher.inputs) if learning else student.inputs
    assert_close(gradients(found, inputs), gradients(expected, inputs))


@pytest.mark.parametrize("rows", [(), (1,), (2, 3, 2), (0,), (257,)])
def test_rows_of_any_shape(rows):
    student, teacher = two(*rows)
    found, expected = of_heads(student, teacher), definition(student, teacher, kl)
    assert found.shape == expected.shape
    assert_close(found, expected, 1e-12)
    inputs = (*student.inputs, *teacher.inputs)
    assert_close(gradients(found.sum(), inputs), gradients(expected.sum(), inputs))


@schedules
@pytest.mark.parametrize("garbage", [float("nan"), INF])
def test_a_masked_row_may_hold_anything(how, garbage):
    student, teacher = two(12)
    keep = torch.arange(12) % 3 != 1
    dirty = [leaf(torch.where(keep[:, None], side.hidden, garbage)) for side in (student, teacher)]

    def loss(h, th):
        sides = LinearLogits(h, *student.inputs[1:], **how), LinearLogits(th, *teacher.inputs[1:])
        return lossmith.divergence_distillation(*sides, sample_weight=keep.double())

    clean, soiled = loss(student.hidden, teacher.hidden), loss(*dirty)
    assert torch.equal(clean, soiled)
    assert_close(clean, definition(student, teacher, kl)[keep].mean(), 1e-12)
    found = gradients(clean, (*student.inputs, *teacher.inputs))
    others = gradients(soiled, (dirty[0], *student.inputs[1:], dirty[1], *teacher.inputs[1:]))
    assert all(torch.equal(a, b) for a, b in zip(found, others, strict=True))


@schedules
def test_sample_weights_are_learnt(how):
    """A weight of 0 removes its row, from the gradient by the weights as well."""
    student, teacher = two(6)
    weight = leaf(torch.tensor([0.0, 2.0, 0.5, 0.0, 1.0, 3.0], dtype=torch.float64))
    sides = LinearLogits(*student.inputs, **how), LinearLogits(*teacher.inputs)
    found = lossmith.divergence_distillation(*sides, sample_weight=weight)
    expected = lossmith.divergence_distillation(dense(student), dense(teacher), sample_weight=weight)
    assert_close(*(gradients(value, (weight, *student.inputs)) for value in (found, expected)))


def test_the_mask_of_rows():
    student, teacher = two(12)
    keep = torch.arange(12) % 3 != 1
    found = of_heads(student, teacher, mask=keep)
    assert torch.equal(found == 0, ~keep)
    assert_close(found[keep], definition(student, teacher, kl)[keep], 1e-12)


OPTIONS = [
    {},
    {"reduction": "none"},
    {"reduction": "sum", "rescale": False, "temperature": 3.0},
    {"temperature": torch.tensor(2.0, dtype=torch.float64)},
    {"denominator": 7.0},
    {"generator": "jensen_shannon_skewed(weight=0.1)", "sample_weight": torch.tensor([[1.0, 0, 2], [0.5, 1, 0]]).double()},
    {"sample_weight": torch.zeros(2, 3).double()},
    {"reduction": "none", "sample_weight": torch.tensor([[1.0, 0, 2], [0.5, 1, 0]]).double()},
]


@pytest.mark.parametrize("options", OPTIONS)
@schedules
def test_distillation_with_heads_equals_distillation_with_logits(options, how):
    if options.get("reduction") == "none" and how.get("schedule") == "forward":
        pytest.skip("cannot be followed, which test_plan says")
    student, teacher = two(2, 3)
    found = lossmith.divergence_distillation(LinearLogits(*student.inputs, **how), LinearLogits(*teacher.inputs), **options)
    expected = lossmith.divergence_distillation(class_axis(dense(student)), class_axis(dense(teacher)), **options)
    assert_close(found, expected, 1e-12)
    inputs = (*student.inputs, *teacher.inputs)
    assert_close(gradients(found.sin().sum(), inputs), gradients(expected.sin().sum(), inputs))


@schedules
@pytest.mark.parametrize(
    ("name", "distance"),
    [(name, d) for name in ("kl", "reverse_kl", "squared_hellinger", "triangular", "jensen_shannon") for d in (1e-1, 1e-3)],
)
def test_rows_both_are_sure_of_keep_their_digits(how, name, distance):
    """Float32; all but 1e-10 of both on one class, where a difference of logarithms gives 0 or noise."""
    lead = 23.0
    weight = leaf(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.5]]))
    hidden, theirs = leaf(torch.tensor([[lead, 0.0]])), torch.tensor([[lead, round(distance * 2**16) / 2**16]])
    found = lossmith.divergence_distillation(LinearLogits(hidden, weight, **how), LinearLogits(theirs, weight.detach()), generator=name)
    mpmath.mp.dps = 60
    p, q = ([mpmath.exp(mpmath.mpf(z)) for z in (weight.detach() @ x[0]).tolist()] for x in (hidden.detach(), theirs))
    p, q = ([each / sum(row) for each in row] for row in (p, q))
    f = {
        "kl": lambda u: u * mpmath.log(u),
        "reverse_kl": lambda u: -mpmath.log(u),
        "jensen_shannon": lambda u: (u * mpmath.log(2 * u / (1 + u)) - mpmath.log((1 + u) / 2)) / 2,
        "squared_hellinger": lambda u: (mpmath.sqrt(u) - 1) ** 2,
        "triangular": lambda u: (u - 1) ** 2 / (u + 1),
    }[name]
    exact = sum(b * f(a / b) for a, b in zip(q, p, strict=True))
    # a term of size u^2 is the sum of two of size u: what is lost is eps / u
    torch.testing.assert_close(found.item(), float(exact), rtol=1e-6 / distance + 1e-5, atol=0)
    assert found > 0
    if name == "kl":
        (slope,) = gradients(found, (hidden,))
        by_logits = [float(b - a) for a, b in zip(q, p, strict=True)]
        expected = [by_logits[0], by_logits[1] + 0.5 * by_logits[2]]
        torch.testing.assert_close(slope[0].tolist(), expected, rtol=1e-6 / distance + 1e-5, atol=0)


@generators
@pytest.mark.parametrize("how", [SCHEDULES["forward"], SCHEDULES["lean"]])
def test_equal_heads_have_no_divergence(g, how):
    student, _ = two(9)
    found = lossmith.divergence_distillation(LinearLogits(*student.inputs, **how), LinearLogits(*student.inputs), generator=g)
    assert abs(found) < 1e-14
    assert all(slope.abs().max() < 1e-13 for slope in gradients(found, student.inputs))


MASKED = {
    "both": (torch.arange(11) >= 8, torch.arange(11) >= 8),
    "the student": (torch.arange(11) >= 8, torch.arange(11) >= 11),
    "the teacher": (torch.arange(11) >= 11, torch.arange(11) >= 8),
    "each another": (torch.arange(11) >= 9, torch.arange(11) < 2),
}


@generators
@pytest.mark.parametrize("masked", MASKED.values(), ids=MASKED)
@pytest.mark.parametrize("memory", [None, 100])
def test_classes_that_one_side_excludes(g, masked, memory):
    """What is infinite is inf, and never NaN; the gradient is that of the terms that are finite."""
    student, teacher = two(7)
    biases = [leaf(torch.where(mask, -INF, side.bias)) for mask, side in zip(masked, (student, teacher), strict=True)]
    student, teacher = student._replace(bias=biases[0]), teacher._replace(bias=biases[1])
    found, expected = of_heads(student, teacher, generator=g, memory=memory), definition(student, teacher, g)
    assert not found.isnan().any()
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-13)
    if expected.isfinite().all():
        inputs = (student.hidden, student.weight, teacher.hidden, teacher.weight)
        assert_close(gradients(found.sum(), inputs), gradients(expected.sum(), inputs))
    both = lossmith.divergence_distillation(*(LinearLogits(*side.inputs, memory=memory) for side in (student, teacher)), generator=g)
    torch.testing.assert_close(both, expected.mean(), rtol=1e-11, atol=1e-13)


def test_rows_without_a_finite_logit_are_nan():
    student, teacher = two(3)
    nothing = torch.full_like(student.bias, -INF)
    assert linear_divergence(*student.inputs[:2], *teacher.inputs[:2], nothing).isnan().all()
    hidden = torch.where(torch.arange(3)[:, None] == 1, INF, student.hidden)
    assert linear_divergence(hidden, student.weight, *teacher.inputs[:2]).isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("name", ["kl", "reverse_kl", "jeffreys", "jensen_shannon", "total_variation", "skew_kl(skew=0.1)"])
@schedules
@pytest.mark.parametrize("scale", [6.0, 12.0, 100.0])
def test_rows_far_apart_in_float32(name, how, scale):
    """Log ratios of hundreds and thousands, where q/p and p/q are no floats: finite and right, as the same in float64."""
    pair = [side.to(torch.float32) for side in two(40, classes=600, scale=scale)]
    wide = [side.to(torch.float64) for side in pair]
    sides = [LinearLogits(*side.inputs, **(how if i == 0 else {})) for i, side in enumerate(pair)]
    found = lossmith.divergence_distillation(*sides, generator=name)
    with_logits = definition(*pair, GENERATORS[name]).mean()  # shares the rounding of logits of up to 1e5
    expected = definition(*wide, GENERATORS[name]).mean()
    assert_close(found.double(), expected, 2e-6)
    every = (gradients(value, side.inputs) for value, side in ((found, pair[0]), (with_logits, pair[0]), (expected, wide[0])))
    for mine, dense32, exact in zip(*every, strict=True):
        assert mine.isfinite().all()
        error, rounding = ((g.double() - exact).abs().max() for g in (mine, dense32))
        assert error <= 3 * rounding + 3e-5 * exact.abs().max() + 1e-8 * scale  # a log ratio of 70 is known to 4e-6


@pytest.mark.parametrize("name", ["kl", "jensen_shannon", "jensen_shannon_skewed(weight=0.1)", "triangular", "total_variation"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@schedules
def test_logits_of_ten_thousand(name, dtype, how):
    """Logits near 1e4, a few apart: in float32 each is known to 5e-4, and so are probabilities, relative."""
    torch.manual_seed(3)
    sides = []
    for _ in range(2):
        hidden = torch.cat([torch.full((30, 1), 1e4), torch.randn(30, 8)], 1).to(dtype)
        weight = torch.cat([torch.ones(600, 1), torch.randn(600, 8)], 1).to(dtype)
        sides.append(Problem(leaf(hidden), leaf(weight), None, None))
    value = lossmith.divergence_distillation(*(LinearLogits(*side[:2], **how) for side in sides), generator=name)
    wide = [tuple(leaf(tensor.detach().double()) for tensor in side[:2]) for side in sides]
    logs = [(h @ w.T).log_softmax(1) for h, w in wide]
    expected = divergence(logs[1], logs[0], GENERATORS[name], log=True).mean()
    assert_close(value.double(), expected, 1e-3)
    found, exact = (gradients(v, (*of[0][:2], *of[1][:2])) for v, of in ((value, sides), (expected, wide)))
    for i, (mine, theirs) in enumerate(zip(found, exact, strict=True)):
        near = slice(1, None)  # what goes with the 1e4 is a sum of slopes that is 0
        assert_close(mine[:, near].double(), theirs[:, near], 2e-3 if dtype == torch.float32 else 1e-2)
        assert i % 2 or mine[:, 0].abs().max() < 1e-4


@generators
@pytest.mark.parametrize("how", [SCHEDULES["forward"], SCHEDULES["lean"]])
@pytest.mark.parametrize("down", [(-110.0, -120.0), (-120.0, -110.0), (-60.0, -95.0)])
def test_a_class_far_down_on_both_sides(g, how, down):
    """In float32, where the ratio's power overflows and its probability is 0: as the definition in float64."""
    eye, exact = (
        torch.eye(4),
        [leaf(torch.tensor([[x, 1.0, -3.0, far]], dtype=torch.float64)) for x, far in zip((0.0, 0.5), down, strict=True)],
    )
    p, q = (z.softmax(1) for z in exact)
    expected = (p * g.f(q / p)).sum()
    narrow = [leaf(z.float()) for z in exact]
    sides = LinearLogits(narrow[0], eye, **how), LinearLogits(narrow[1], eye)
    found = lossmith.divergence_distillation(*sides, generator=g)
    wanted = gradients(expected, tuple(exact))
    assert not found.isnan()
    if max(slope.abs().max() for slope in wanted) < 1e37:
        assert found.item() == pytest.approx(expected.item(), rel=3e-5, abs=1e-7)
        assert_close(torch.cat(gradients(found, tuple(narrow))).double(), torch.cat(wanted), 5e-5)


TOGETHER = {
    "jensen_shannon": (1.0, 0.5),
    "jensen_shannon_gan": (2.0, 0.5),
    "gan": (2.0, 0.5),
    "jensen_shannon_skewed(weight=0.1)": (1.0, 0.1),
    "a user's": (3.0, 0.5),
}


@pytest.mark.parametrize("name", TOGETHER)
def test_both_links_of_jensen_shannon_by_one_logarithm(name):
    """Exact near 0, where they are c w (1 - w) r, and far out, in float32: against 50 digits."""
    c, w = TOGETHER[name]
    terms = Divergence(3.0 * GENERATORS["jensen_shannon"] if name == "a user's" else GENERATORS[name], torch.float32)
    assert terms.links.__qualname__.startswith("_mixture")
    mpmath.mp.dps = 50
    r = torch.tensor([-1e4, -88.0, -3.0, -1e-3, -1e-7, 0.0, 1e-7, 1e-3, 3.0, 88.0, 1e4])
    m = [mpmath.log(w * mpmath.exp(mpmath.mpf(each)) + 1 - w) for each in r.tolist()]
    reverse_link, link = terms.links(r)
    expected = [[float(-c * (1 - w) * a) for a in m], [float(c * w * (mpmath.mpf(b) - a)) for a, b in zip(m, r.tolist(), strict=True)]]
    torch.testing.assert_close(reverse_link.tolist(), expected[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(link.tolist(), expected[1], rtol=1e-6, atol=0)


SKEWED = {"skew_kl(skew=0.1)": 0.1, "skew_kl(skew=0.5)": 0.5, "skew_reverse_kl(skew=0.1)": 0.1, "twice": 0.1}


@pytest.mark.parametrize("name", SKEWED)
def test_both_links_of_a_skew_divergence(name):
    """By one expm1 and one log1p, in float32 against the definition in 50 digits: log(u/m) + (1-a)/m - (1-a), and (1-a)^2 (1-u)/m."""
    a, times = SKEWED[name], 2.0 if name == "twice" else 1.0
    links = Divergence(GENERATORS[name], torch.float32).links
    assert links.__qualname__.startswith("_reversed" if "reverse" in name else "_skewed")
    mpmath.mp.dps = 50
    r = torch.tensor([-85.0, -3.0, -1e-3, -1e-7, 0.0, 1e-7, 1e-3, 3.0, 85.0])
    of_kl, of_reverse = [], []
    for each in (-r if "reverse" in name else r).tolist():
        u = mpmath.exp(mpmath.mpf(each))
        m = a * u + 1 - a
        of_kl.append(float(times * (mpmath.log(u / m) + (1 - a) / m - (1 - a))))
        of_reverse.append(float(times * (1 - a) ** 2 * (1 - u) / m))
    reverse_link, link = links(r)
    expected = (of_kl, of_reverse) if "reverse" in name else (of_reverse, of_kl)
    torch.testing.assert_close(reverse_link.tolist(), expected[0], rtol=2e-6, atol=0)
    torch.testing.assert_close(link.tolist(), expected[1], rtol=2e-6, atol=0)


CHI = {"chi_p(p=1.5)": 1.5, "chi_p(p=3.0)": 3.0, "pearson_chi2": 2.0, "neyman_chi2": 2.0}


@pytest.mark.parametrize("name", CHI)
def test_both_links_of_a_chi_divergence(name):
    """The same by one expm1: p |u-1|^(p-1) sign(u-1), and |u-1|^p - u p |u-1|^(p-1) sign(u-1)."""
    p, links = CHI[name], Divergence(GENERATORS[name], torch.float32).links
    assert links.__qualname__.startswith("_reversed" if name == "neyman_chi2" else "_chi")
    mpmath.mp.dps = 50
    sign = -1 if name == "neyman_chi2" else 1
    r = torch.tensor([-30.0, -3.0, -1e-3, -1e-7, 0.0, 1e-7, 1e-3, 3.0, 20.0])
    of_link, of_reverse = [], []
    for each in r.tolist():
        u = mpmath.exp(sign * mpmath.mpf(each))
        of_link.append(float(p * abs(u - 1) ** (p - 1) * mpmath.sign(u - 1)))
        of_reverse.append(float(abs(u - 1) ** p - u * p * abs(u - 1) ** (p - 1) * mpmath.sign(u - 1)))
    found = links(r)
    expected = (of_link, of_reverse) if sign < 0 else (of_reverse, of_link)
    for mine, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.tolist(), exact, rtol=5e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@schedules
def test_half_precision_is_computed_in_float32(dtype, how):
    student, teacher = (side.to(dtype) for side in two(40, classes=600))
    sides = LinearLogits(*student.inputs, **how), LinearLogits(*(tensor.detach() for tensor in teacher.inputs))
    found = lossmith.divergence_distillation(*sides)
    wide = [side.to(torch.float64) for side in (student, teacher)]
    expected = definition(*wide, kl).mean()
    assert found.dtype == torch.float32
    assert_close(found.double(), expected, 1e-6)
    for a, b in zip(gradients(found, student.inputs), gradients(expected, wide[0].inputs), strict=True):
        assert a.dtype == dtype
        assert_close(a.double(), b.to(dtype).double(), 2 * torch.finfo(dtype).eps)


def test_dtypes_of_the_sides_may_differ():
    student, teacher = two(9)
    narrow = student.to(torch.float32)
    found = linear_divergence(*narrow.inputs[:2], *teacher.inputs[:2])
    assert found.dtype == torch.float32
    assert {g.dtype for g in gradients(found.sum(), narrow.inputs[:2])} == {torch.float32}
    assert gradients(linear_divergence(*narrow.inputs[:2], *teacher.inputs[:2]).sum(), (teacher.weight,))[0].dtype == torch.float64


@pytest.mark.parametrize("how", [{}, {"schedule": "recompute"}])
def test_retain_graph(how):
    student, teacher = two(300)
    value = lossmith.divergence_distillation(LinearLogits(*student.inputs, **how), LinearLogits(*teacher.inputs))
    inputs = (*student.inputs, *teacher.inputs)
    first = gradients(value, inputs, retain_graph=True)
    kept = tuple(g.clone() for g in first)
    for g in first:
        g.zero_()
    assert_close(gradients(3 * value, inputs), tuple(3 * g for g in kept), 1e-12)


@schedules
@pytest.mark.parametrize("asked", [(1, 0, 0, 0, 0, 0), (0, 1, 0, 0, 0, 0), (0, 0, 1, 0, 0, 1), (0, 0, 0, 1, 1, 0)])
def test_gradients_of_some_alone(how, asked):
    student, teacher = two(30)
    every = (*student.inputs, *teacher.inputs)
    inputs = [tensor if want else tensor.detach() for tensor, want in zip(every, asked, strict=True)]
    found = lossmith.divergence_distillation(LinearLogits(*inputs[:3], **how), LinearLogits(*inputs[3:]))
    wanted = tuple(tensor for tensor, want in zip(every, asked, strict=True) if want)
    assert_close(gradients(found, wanted), gradients(definition(student, teacher, kl).mean(), wanted))


def test_a_head_shared_by_both_sides():
    """Self-distillation: the weight's gradient is the sum of both sides'."""
    student, teacher = problem(6), problem(6, seed=1)
    w = student.weight
    found = lossmith.divergence_distillation(LinearLogits(student.hidden, w), LinearLogits(teacher.hidden, w))
    expected = lossmith.divergence_distillation(student.hidden @ w.T, teacher.hidden @ w.T)
    assert_close(gradients(found, (w,)), gradients(expected, (w,)))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="resident memory is read from Linux's /proc")
@pytest.mark.parametrize("make", ["mean", "rows"])
def test_no_logits_are_held(make):
    """768 x 30000 logits of both sides are 176 MiB in float32; a block of both is 56 MiB, and the lean way holds tiles."""
    x, w = leaf(torch.randn(768, 8)), leaf(torch.randn(30_000, 8))
    t, tw = torch.randn(768, 4), torch.randn(30_000, 4)
    memory = None if make == "mean" else 1000

    def step():
        sides = LinearLogits(x, w, memory=memory), LinearLogits(t, tw)
        value = lossmith.divergence_distillation(*sides, generator="jensen_shannon", reduction="mean" if make == "mean" else "none")
        value.mean().backward()

    step()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    step()
    assert _status("VmHWM") - before < (64 if make == "mean" else 16) * 2**20


def test_the_path_and_the_reason():
    student, teacher = two(9)

    def path(known=True, memory=None, schedule="auto", softcap=None, inputs=student.inputs):
        at = LinearLogits(*inputs, softcap=softcap)._arguments(), LinearLogits(*teacher.inputs)._arguments()
        return choose(Both(*at[0][:4], *at[1][:4]), known=known, schedule=schedule, memory=memory)

    assert path()[::2] == ("forward", 256)
    assert path(known=False)[::2] == ("recompute", 256)
    assert path(memory=2 * 11 * 8 * 200)[::2] == ("forward", 200)
    assert path(memory=2 * 11 * 8 * 127)[::2] == ("recompute", 0)
    assert path(schedule="recompute")[0] == "recompute"
    assert "softcap" in path(softcap=leaf(torch.tensor(2.0)))[1]
    with torch.no_grad():
        assert path()[0] == "value"
    with pytest.raises(ValueError, match="schedule='forward' cannot be followed: what follows"):
        path(known=False, schedule="forward")


H, W, T, V = torch.zeros(3, 4), torch.zeros(5, 4), torch.zeros(3, 2), torch.zeros(5, 2)
learnt = torch.tensor(2.0, requires_grad=True)
MISTAKES = [
    (lambda: linear_divergence(H, W, T, V, generator="klo"), KeyError, "no generator is called 'klo'"),
    (lambda: linear_divergence(H, W, T, V, generator=3), TypeError, "generator must be an FGenerator or the name of one; got int 3"),
    (lambda: linear_divergence(H, W, T, V, mask=torch.ones(2) > 0), ValueError, r"mask must be a bool tensor of shape \(3,\); got bool"),
    (lambda: linear_divergence(H, W, T, V[:4]), ValueError, "teacher must have the rows and classes of LinearLogits"),
    (lambda: linear_divergence(H, W, T[:2], V), ValueError, "teacher must have the rows and classes of LinearLogits"),
    (
        lambda: linear_divergence(H, W, T, V, generator=FGenerator.from_function(lambda u: learnt * (u - 1) ** 2, name="mine")),
        TypeError,
        "generator 'mine' holds tensors that ask for a gradient",
    ),
    (
        lambda: lossmith.divergence_distillation(LinearLogits(H, W), T @ V.T),
        TypeError,
        r"must both be tensors of logits, or both be LinearLogits; got a LinearLogits and float32 \(3, 5\)",
    ),
    (lambda: lossmith.divergence_distillation(H @ W.T, LinearLogits(T, V)), TypeError, "must both be tensors of logits"),
    (lambda: lossmith.divergence_distillation(Logits(H), Logits(H)), TypeError, "got a Logits and a Logits"),
    (lambda: lossmith.divergence_distillation(LinearLogits(H, W), LinearLogits(H[:2], W)), ValueError, "input's rows and classes"),
    (
        lambda: lossmith.divergence_distillation(LinearLogits(H, W), LinearLogits(T, V), sample_weight=torch.ones(2)),
        ValueError,
        r"sample_weight must have shape \(3,\)",
    ),
    (lambda: lossmith.divergence_distillation(LinearLogits(H, W[:1]), LinearLogits(T, V[:1])), ValueError, "at least 2 classes"),
    (
        lambda: lossmith.divergence_distillation(LinearLogits(H, W), LinearLogits(T, V, schedule="recompute")),
        ValueError,
        "schedule and memory of a comparison are the student's; the teacher has schedule='recompute' and memory=None",
    ),
    (lambda: lossmith.divergence_distillation([1.0], H), TypeError, "input must be a floating-point tensor"),
]


@pytest.mark.untyped
@pytest.mark.parametrize(("call", "error", "message"), MISTAKES)
def test_a_mistake_gets_one_line_that_names_the_argument(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_two_generators_of_one_name_are_two():
    student, teacher = two(5)
    first, second = (FGenerator.from_function(lambda u, c=c: c * (u - 1) ** 2, name="same") for c in (1.0, 2.0))
    found = [of_heads(student, teacher, generator=g) for g in (first, second, first)]
    assert_close(found[1], 2 * found[0])
    assert torch.equal(found[0], found[2])
