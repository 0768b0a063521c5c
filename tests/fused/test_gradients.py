"""What a training loop does with gradients: twice, into a tied head, in half precision, under autocast, through hooks."""

import pytest
import torch

import lossmith
from lossmith.fused import LinearLogits, Logits, linear_divergence, linear_log_prob
from tests.fused.heads import Problem, assert_close, dense, gradients, leaf, log_prob, problem

SCHEDULES = ["forward", "recompute"]


def mean(p: Problem, schedule: str = "auto", **how):
    return lossmith.cross_entropy(LinearLogits(*p.inputs, schedule=schedule, **how), p.target)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_retain_graph(schedule):
    p = problem(300)
    value = mean(p, schedule)
    first = gradients(value, p.inputs, retain_graph=True)
    kept = [g.clone() for g in first]
    for g in first:
        g.zero_()  # whoever gets them may write in them
    assert_close(gradients(value, p.inputs, retain_graph=True), tuple(kept), 1e-12)
    assert_close(gradients(3 * value, p.inputs), tuple(3 * g for g in kept), 1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_create_graph_gives_gradients_that_can_be_differentiated(schedule):
    """A gradient penalty; PyTorch's own chunked head gives gradients that ask for none."""
    p = problem(9)
    penalties = []
    for value in (mean(p, schedule), lossmith.cross_entropy(dense(p), p.target)):
        slopes = gradients(value, p.inputs, create_graph=True)
        assert all(g.requires_grad for g in slopes)
        penalties.append(gradients(value + sum((g**2).sum() for g in slopes), p.inputs))
    assert_close(*penalties)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("upstream", [0.0, -2.0, 1.0, 65536.0])
def test_the_scale_of_the_loss(schedule, upstream):
    p = problem(9)
    expected = gradients(lossmith.cross_entropy(dense(p), p.target), p.inputs)
    assert_close(gradients(mean(p, schedule) * upstream, p.inputs), tuple(upstream * g for g in expected))


def test_upstream_gradients_of_every_kind():
    p = problem(9)
    for upstream in (torch.tensor([0, -1.0, 2, 0, 0, 3, 1, 1, -4]).double(), torch.ones(()).double().expand(9), torch.zeros(9).double()):
        found = gradients((linear_log_prob(*p.inputs[:2], p.target, p.bias) * upstream).sum(), p.inputs)
        assert_close(found, gradients((log_prob(dense(p), p.target) * upstream).sum(), p.inputs))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_head_tied_to_the_embedding(schedule):
    tokens = torch.arange(8)

    def loss(embedding, fused):
        hidden = embedding[tokens].tanh()
        return lossmith.cross_entropy(LinearLogits(hidden, embedding, schedule=schedule) if fused else hidden @ embedding.T, tokens)

    embedding = leaf(torch.randn(20, 5, dtype=torch.float64))
    assert_close(*(gradients(loss(embedding, fused), (embedding,)) for fused in (True, False)))


@pytest.mark.parametrize("schedule", ["auto", "recompute"])
@pytest.mark.parametrize("asked", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1)])
@pytest.mark.parametrize("name", ["cross_entropy", "focal_loss"])
def test_gradients_of_some_alone(schedule, asked, name):
    p = problem(300)
    inputs = [tensor if want else tensor.detach() for tensor, want in zip(p.inputs, asked, strict=True)]
    wanted = tuple(tensor for tensor in inputs if tensor.requires_grad)
    function = getattr(lossmith, name)
    found = gradients(function(LinearLogits(*inputs, schedule=schedule), p.target), wanted)
    assert_close(found, gradients(function(inputs[0] @ inputs[1].T + inputs[2], p.target), wanted))


@pytest.mark.parametrize("how", [{"create_graph": True}, {"retain_graph": True}])
def test_a_frozen_head_twice(how):
    p = problem(9)
    head = p.weight.detach()
    value, expected = (lossmith.focal_loss(x, p.target) for x in (LinearLogits(p.hidden, head), p.hidden @ head.T))
    (mine,), (theirs,) = (gradients(v, (p.hidden,), **how) for v in (value, expected))
    assert_close(mine, theirs)
    again = (mine.sin().sum(), theirs.sin().sum()) if "create_graph" in how else (value, expected)
    assert_close(*(gradients(v, (p.hidden,)) for v in again))


def test_no_gradient_asked_for():
    p = problem(9)
    with torch.no_grad():
        value = mean(p)
    assert not value.requires_grad
    assert_close(value, lossmith.cross_entropy(dense(p), p.target).detach(), 1e-12)
    with torch.inference_mode():
        assert_close(mean(p), value, 1e-12)


def test_learnt_sample_weights_under_a_frozen_model():
    p, s = problem(9), leaf(torch.rand(9, dtype=torch.float64))
    found = lossmith.cross_entropy(LinearLogits(p.hidden.detach(), p.weight.detach()), p.target, sample_weight=s)
    expected = lossmith.cross_entropy((p.hidden @ p.weight.T).detach(), p.target, sample_weight=s)
    assert_close(gradients(found, (s,)), gradients(expected, (s,)))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_hooks_of_the_head_fire_once(schedule):
    """As DistributedDataParallel and FSDP count on."""
    p = problem(600, classes=2100)
    fired = []
    p.weight.register_hook(lambda g: fired.append(g.shape))
    p.weight.register_post_accumulate_grad_hook(lambda w: fired.append(w.grad.shape))
    mean(p, schedule).backward()
    assert fired == [p.weight.shape, p.weight.shape]


def test_gradients_accumulate():
    p = problem(9)
    for _ in range(2):
        mean(p, "forward").backward()
    expected = gradients(lossmith.cross_entropy(dense(p), p.target), p.inputs)
    assert_close(tuple(tensor.grad for tensor in p.inputs), tuple(2 * g for g in expected))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["all", "head alone", "hidden states alone"])
def test_half_precision_is_accumulated_in_float32(schedule, dtype, kind):
    """70 blocks of rows: the loss to 1e-6, gradients to the rounding of their own dtype."""
    p = problem(70 * 256, width=8, classes=50, scale=0.5)
    hidden = leaf(p.hidden.to(torch.float32 if kind == "head alone" else dtype))
    weight = leaf(p.weight.to(torch.float32 if kind == "hidden states alone" else dtype))
    value = lossmith.cross_entropy(LinearLogits(hidden, weight, schedule=schedule), p.target)
    exact_hidden, exact_weight = leaf(hidden.double()), leaf(weight.double())
    exact = lossmith.cross_entropy(exact_hidden @ exact_weight.T, p.target)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), exact, rtol=1e-6, atol=0)
    found, expected = gradients(value, (hidden, weight)), gradients(exact, (exact_hidden, exact_weight))
    for mine, theirs, source in zip(found, expected, (hidden, weight), strict=True):
        assert mine.dtype == source.dtype
        limit = (theirs.to(source.dtype).double() - theirs).abs().max() if source.dtype == dtype else 0.0
        assert (mine.double() - theirs).abs().max() <= 1.05 * limit + 5e-6 * theirs.abs().max()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_float16_with_a_scaled_loss_does_not_underflow(schedule):
    """1 / 65536 rows is a subnormal of float16 already: the scale has to come in before the rounding."""
    p = problem(2**16, width=2, classes=4, ignored=False)
    hidden, weight = leaf(p.hidden.half()), leaf(p.weight.half())
    value = lossmith.cross_entropy(LinearLogits(hidden, weight, schedule=schedule), p.target)
    (found,) = gradients(65536.0 * value, (hidden,))
    exact = leaf(hidden.double())
    (expected,) = gradients(65536.0 * lossmith.cross_entropy(exact @ weight.double().T, p.target), (exact,))
    assert (found.double() - expected).abs().max() <= 1e-3 * expected.abs().max()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_autocast_changes_nothing(schedule):
    p = problem(9, width=64).to(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = mean(p, schedule)
        capped = mean(p, schedule, softcap=3.0, temperature=2.0)
        given = lossmith.cross_entropy(Logits(p.hidden.detach()), p.target.clamp(max=63))
    assert torch.equal(value, mean(p, schedule))
    assert torch.equal(capped, mean(p, schedule, softcap=3.0, temperature=2.0))
    assert torch.equal(given, lossmith.cross_entropy(Logits(p.hidden.detach()), p.target.clamp(max=63)))
    inside = gradients(value, p.inputs)
    assert all(torch.equal(a, b) for a, b in zip(inside, gradients(mean(p, schedule), p.inputs), strict=True))


def test_autocast_during_backward_changes_nothing():
    """Some training loops leave the whole step inside."""
    p = problem(9, width=64).to(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradients(mean(p, "recompute"), p.inputs)
    assert all(torch.equal(a, b) for a, b in zip(found, gradients(mean(p, "recompute"), p.inputs), strict=True))


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # what torch's own forward mode is built on
@pytest.mark.parametrize("heads", [1, 2])
def test_autocast_during_a_second_derivative_changes_nothing(heads):
    """A penalty on gradients inside, and forward mode: their products are not rounded to bfloat16."""
    p, teacher = (problem(9, width=16, seed=seed).to(torch.float32) for seed in (0, 1))

    def loss(h, w, b):
        if heads == 1:
            return lossmith.focal_loss(LinearLogits(h, w, b), p.target)
        return linear_divergence(h, w, *teacher.inputs[:2], b).sum()

    def found():
        slopes = gradients(loss(*p.inputs), p.inputs, create_graph=True)
        along = torch.func.jvp(loss, tuple(x.detach() for x in p.inputs), tuple(x.detach() for x in p.inputs))[1]
        return *gradients(sum(slope.square().sum() for slope in slopes), p.inputs), along

    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = found()
    assert all(torch.equal(a, b) for a, b in zip(inside, found(), strict=True))
