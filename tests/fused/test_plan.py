"""Which path is taken, what `explain` says of it, what memory it takes, and what is refused in one line."""

import sys
from pathlib import Path

import pytest
import torch

import lossmith
from lossmith.fused import LinearLogits, Logits, explain, linear_log_prob, linear_stats
from tests.fused.heads import Problem, leaf, most_held, problem

P = problem(9)


def source(p: Problem = P, asked: tuple[bool, bool, bool] = (True, True, True), **how) -> LinearLogits:
    return LinearLogits(*(tensor if want else tensor.detach() for tensor, want in zip(p.inputs, asked, strict=True)), **how)


@pytest.mark.parametrize(
    ("made", "loss", "path", "products", "why"),
    [
        (source(), "sum", "forward", 3, "a sum of log-probabilities with known weights"),
        (source(softcap=3.0, temperature=2.0), "sum", "forward", 3, "known weights"),
        (source(), "rows", "recompute", 4, "is not a sum with known weights"),
        (source(), "stats", "recompute", 4, "other statistics"),
        (source(asked=(True, False, False)), "rows", "frozen", 2, "the head asks for no gradient"),
        (source(asked=(True, False, False)), "sum", "frozen", 2, "the head asks for no gradient"),
        (source(asked=(True, False, True)), "rows", "recompute", 4, "is not a sum"),
        (source(asked=(False, True, False)), "sum", "forward", 3, "known weights"),
        (source(asked=(False, False, False)), "sum", "value", 1, "neither hidden states nor head"),
        (source(schedule="recompute"), "sum", "recompute", 4, "asks for it"),
        (source(memory=100), "sum", "recompute", 4, "a block of logits takes 792 bytes, and 100 bytes are allowed"),
        (source(softcap=leaf(torch.tensor(3.0))), "sum", "recompute", 4, "softcap"),
        (source(temperature=leaf(torch.tensor(3.0))), "sum", "forward", 3, "known weights"),
    ],
)
def test_the_path_and_the_reason(made, loss, path, products, why):
    plan = explain(made, loss=loss)
    assert (plan.path, plan.products) == (path, products)
    assert why in plan.why
    assert why in str(plan)
    assert f"{products} matrix product" in str(plan)


TEACHER = source(problem(9, width=4, seed=1), asked=(False, False, False))


@pytest.mark.parametrize(
    ("made", "teacher", "loss", "path", "products", "why"),
    [
        (source(), TEACHER, "sum", "forward", 4, "a sum with known weights"),
        (source(), source(), "sum", "forward", 6, "a sum with known weights"),
        (source(asked=(True, False, False)), TEACHER, "sum", "forward", 3, "a sum with known weights"),
        (source(), TEACHER, "rows", "recompute", 6, "what follows the rows' values is not a sum"),
        (source(memory=100), TEACHER, "sum", "recompute", 8, "128 rows of both logits do not fit into 100 bytes"),
        (source(schedule="recompute"), source(), "sum", "recompute", 8, "asks for it"),
        (source(softcap=leaf(torch.tensor(3.0))), TEACHER, "sum", "recompute", 6, "softcap"),
        (source(asked=(False, False, False)), TEACHER, "sum", "value", 2, "neither side asks for a gradient"),
    ],
)
def test_the_path_of_two_heads(made, teacher, loss, path, products, why):
    """The products are those that are done: counted where the engine multiplies."""
    plan = explain(made, loss=loss, teacher=teacher)
    assert (plan.path, plan.products) == (path, products)
    assert why in str(plan)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        value = lossmith.divergence_distillation(made, teacher, generator="kl", reduction="none" if loss == "rows" else "mean")
        if value.requires_grad:
            value.sum().backward()
    assert sum(event.count for event in seen.key_averages() if event.key in ("aten::mm", "aten::addmm", "aten::addmm_")) == products


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="resident memory is read from Linux's /proc")
@pytest.mark.parametrize("learns", [False, True])
def test_the_memory_of_two_heads_is_what_the_plan_says(learns):
    sides = [LinearLogits(leaf(torch.randn(1024, 64)), leaf(torch.randn(30_000, 64))) for _ in range(2)]
    if not learns:
        sides[1] = LinearLogits(sides[1].hidden.detach(), sides[1].weight.detach())
    plan = explain(sides[0], teacher=sides[1])

    def step():
        for side in sides:
            side.hidden.grad = side.weight.grad = None
        lossmith.divergence_distillation(*sides, generator="kl").backward()

    step()
    for side in sides:
        side.hidden.grad = side.weight.grad = None
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    step()
    said = plan.gradients + plan.buffers
    assert _status("VmHWM") - before < 1.1 * said + 8 * 2**20
    kept = 4 * 2 * plan.rows * 30_000  # logits of both sides, of a block of rows
    assert kept < plan.buffers < 1.2 * kept
    assert plan.gradients == 4 * (1 + learns) * (1024 + 30_000) * 64
    assert plan.dense == 4 * (3 + learns) * 1024 * 30_000


def test_transforms_are_a_reason():
    seen = []

    def loss(h):
        seen.append(explain(LinearLogits(h, P.weight)))
        return h.sum()

    torch.func.grad(loss)(P.hidden.detach())
    assert seen[0].path == "recompute"
    assert "transform" in seen[0].why


def test_without_gradients_the_value_alone():
    with torch.no_grad():
        assert explain(source()).path == "value"


@pytest.mark.parametrize("loss", ["rows", "stats"])
def test_a_schedule_that_cannot_be_followed_is_refused(loss):
    with pytest.raises(ValueError, match=r"LinearLogits: schedule='forward' cannot be followed: .*"):
        explain(source(schedule="forward"), loss=loss)
    with pytest.raises(ValueError, match="cannot be followed"):
        lossmith.focal_loss(source(schedule="forward"), P.target)


def test_the_plan_counts_memory():
    hidden, weight = leaf(torch.zeros(2048, 512)), leaf(torch.zeros(32768, 512))
    plan = explain(LinearLogits(hidden, weight))
    assert plan.gradients == 4 * (hidden.numel() + weight.numel())
    assert plan.dense == 2 * 4 * 2048 * 32768
    assert 4 * 256 * 32768 <= plan.buffers <= 1.1 * 4 * 256 * 32768
    lean = explain(LinearLogits(hidden, weight, schedule="recompute"), loss="rows")
    assert lean.buffers < 4 * 2**20
    kept = explain(LinearLogits(hidden, weight), loss="rows")
    assert (kept.path, kept.products) == ("kept", 3.75)  # 512 of 2048 rows
    assert kept.gradients == lean.gradients
    assert kept.buffers < 6 * 2**20


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="resident memory is read from Linux's /proc")
@pytest.mark.parametrize("name", ["cross_entropy", "focal_loss"])
def test_no_logits_are_held(name):
    """4096 x 30000 logits are 469 MiB in float32; the head's gradient is 1 MiB."""
    hidden, weight, target = leaf(torch.randn(4096, 8)), leaf(torch.randn(30_000, 8)), torch.randint(30_000, (4096,))
    function = getattr(lossmith, name)
    function(LinearLogits(hidden, weight), target).backward()  # libraries and caches
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    function(LinearLogits(hidden, weight), target).backward()
    assert _status("VmHWM") - before < 64 * 2**20


@pytest.mark.parametrize("asked", [(True, True), (False, True), (True, False)])
def test_the_gradient_of_the_head_is_held_once(asked):
    """61 MB of it, and a block of 64 rows; a second copy, or zeros of its size, would show."""
    hidden, weight = (torch.randn(*shape).requires_grad_(want) for shape, want in zip(((64, 256), (60_000, 256)), asked, strict=True))
    target = torch.randint(60_000, (64,))
    held = most_held(lambda: lossmith.cross_entropy(LinearLogits(hidden, weight), target).backward())
    assert held < 4 * (asked[1] * weight.numel() + 64 * 60_000) + 12 * 2**20


@pytest.mark.parametrize("shape", [(512, 20_000), (10_000, 1024), (2, 1024, 5000)])
def test_given_logits_need_their_gradient_and_little_more(shape):
    z = leaf(torch.randn(shape))
    target = torch.randint(shape[1], (shape[0], *shape[2:]))
    held = most_held(lambda: lossmith.cross_entropy(Logits(z), target).backward())
    assert 4 * z.numel() <= held < 1.25 * 4 * z.numel()


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


H, W, Y = torch.zeros(3, 4), torch.zeros(5, 4), torch.tensor([0, 1, 4])
MISTAKES = [
    (lambda: LinearLogits(H.long(), W), TypeError, r"hidden must be a floating-point tensor; got int64 \(3, 4\)"),
    (lambda: LinearLogits(H, [1.0]), TypeError, r"weight must be a floating-point tensor; got list"),
    (lambda: LinearLogits(torch.tensor(1.0), W), ValueError, r"hidden must have shape \(\*rows, d\)"),
    (lambda: LinearLogits(H, W.T), ValueError, r"weight must have shape \(c, 4\); got float32 \(4, 5\)"),
    (lambda: LinearLogits(H, W, torch.zeros(4)), ValueError, r"bias must have shape \(5,\); got float32 \(4,\)"),
    (lambda: LinearLogits(H, W.to("meta")), ValueError, "weight must be on the hidden states' device cpu; it is on meta"),
    (lambda: LinearLogits(H, W, temperature=0.0), ValueError, "temperature must be above 0 and finite; got 0.0"),
    (lambda: LinearLogits(H, W, temperature=float("inf")), ValueError, "temperature must be above 0 and finite; got inf"),
    (lambda: LinearLogits(H, W, temperature="1"), TypeError, "temperature must be a number or a 0-d tensor"),
    (
        lambda: LinearLogits(H, W, temperature=torch.ones(3)),
        ValueError,
        r"must be a number or a 0-d tensor above 0; got float32",
    ),
    (lambda: LinearLogits(H, W, softcap=-1), ValueError, "softcap must be above 0 and finite; got -1"),
    (lambda: LinearLogits(H, W, schedule="fast"), ValueError, "schedule must be one of 'auto', 'forward', 'recompute'; got 'fast'"),
    (
        lambda: linear_log_prob(H, W, Y + 1),
        ValueError,
        r"target must hold class indices in 0..4 or ignore_index=-100; got 5",
    ),
    (lambda: linear_log_prob(H, W, Y.float()), TypeError, "target must be integer class indices; got float32"),
    (lambda: linear_log_prob(H, W, Y[:2]), ValueError, r"target must have shape \(3,\), that of the rows; got int64 \(2,\)"),
    (lambda: linear_stats(H, W), ValueError, "target must be given for 'log_prob' and 'target_logit'; got None"),
    (lambda: linear_stats(H, W, want=("entropie",)), ValueError, "got 'entropie'; did you mean 'entropy'"),
    (lambda: linear_stats(H, W, want=()), ValueError, "want must name at least one statistic"),
    (lambda: linear_stats(H, W, Y, temperatures=(0.0,)), ValueError, "temperatures must be numbers above 0; got float 0.0"),
    (lambda: linear_stats(H, W, Y, class_weight=torch.ones(5)), ValueError, "class_weight goes with 'mean_logit'"),
    (lambda: linear_stats(H, W, want=("mean_logit",), class_weight=torch.ones(4)), ValueError, r"class_weight must have shape \(5,\)"),
    (lambda: explain(LinearLogits(H, W), loss="mean"), ValueError, "loss must be 'sum', 'rows' or 'stats'; got 'mean'"),
    (lambda: explain(H), TypeError, r"explain: source must be a LinearLogits; got float32 \(3, 4\)"),
    (lambda: explain(LinearLogits(H, W), teacher=H), TypeError, "the teacher must be a LinearLogits too; got Tensor"),
    (
        lambda: explain(LinearLogits(H, W), loss="stats", teacher=LinearLogits(H, W)),
        ValueError,
        "loss must be 'sum' or 'rows' beside a teacher; got 'stats'",
    ),
    (lambda: LinearLogits(H, W, memory=-1), ValueError, "memory must be a whole number of bytes from 0, or None; got int -1"),
    (lambda: LinearLogits(H, W, memory="1GB"), ValueError, "memory must be a whole number of bytes from 0, or None; got str '1GB'"),
    (lambda: linear_stats(H, W, want="entropy"), TypeError, r"want must be a tuple of names, as \('entropy',\); got str 'entropy'"),
    (lambda: linear_stats(H, W, Y, temperatures=2.0), TypeError, "temperatures must be a tuple of numbers; got float 2.0"),
    (
        lambda: linear_stats(H, W, want=("mean_logit",), class_weight=[1.0] * 5),
        TypeError,
        r"class_weight must be a tensor of shape \(5,\); got list",
    ),
    (lambda: Logits(H.long()), TypeError, r"Logits: input must be a floating-point tensor of logits; got int64 \(3, 4\)"),
    (lambda: Logits(torch.tensor(1.0)), ValueError, r"Logits: input must have shape \(c,\), \(n, c\) or \(n, c, \*d\)"),
]


@pytest.mark.untyped
@pytest.mark.parametrize(("call", "error", "message"), MISTAKES)
def test_a_mistake_gets_one_line_that_names_the_argument(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_tensor_temperature_is_looked_at_when_validating():
    with lossmith.validate(True), pytest.raises(ValueError, match="temperature must be above 0; got -1"):
        LinearLogits(H, W, temperature=torch.tensor(-1.0))


def test_sources_say_what_they_are():
    assert repr(LinearLogits(H, W)) == "LinearLogits(float32 (3, 4), float32 (5, 4))"
    assert repr(Logits(H)) == "Logits(float32 (3, 4))"


def test_nothing_is_computed_before_a_target_is_checked(monkeypatch):
    from lossmith.fused import engine

    monkeypatch.setattr(engine, "row_stats", lambda *_: pytest.fail("computed"))
    with pytest.raises(ValueError, match="got 7"):
        linear_log_prob(H, W, Y + 3)
    assert sys.modules["lossmith.fused.engine"] is engine
