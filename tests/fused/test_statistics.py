"""Row statistics of a head, values and gradients, against the dense definition in float64."""

import math

import pytest
import torch

from lossmith.fused import LinearLogits, linear_log_prob, linear_stats
from lossmith.fused.reference import WANTED, row_stats
from tests.fused.heads import assert_close, dense, gradients, leaf, log_prob, problem

SIZES = {
    "one tile": problem(6),
    "a row": problem(1),
    "a single class": problem(4, classes=1),
    "a hidden state of one number": problem(7, width=1),
    "rows no multiple of a block": problem(300, width=3, classes=9),
    "classes no multiple of a tile": problem(5, width=3, classes=2500),
    "both": problem(259, width=2, classes=1030),
    "exactly a block and a tile": problem(256, width=2, classes=1024),
    "rows in three axes": problem(2, 3, 2),
    "one hidden state without axis": problem(ignored=False),
    "no rows": problem(0),
}


@pytest.mark.parametrize("p", SIZES.values(), ids=SIZES)
def test_log_prob_of_every_shape(p):
    found, expected = linear_log_prob(p.hidden, p.weight, p.target, p.bias), log_prob(dense(p), p.target)
    assert found.shape == p.target.shape
    assert_close(found, expected, 1e-12)
    upstream = torch.linspace(-1, 2, found.numel(), dtype=torch.float64).reshape(found.shape)
    assert_close(gradients((found * upstream).sum(), p.inputs), gradients((expected * upstream).sum(), p.inputs))


@pytest.mark.parametrize("softcap", [None, 4.0])
@pytest.mark.parametrize("rows", [7, 300])
def test_every_statistic_and_its_gradient_in_everything(rows, softcap):
    p = problem(rows, width=3, classes=1100)
    temperature, cap = leaf(torch.tensor(1.3)).double(), None if softcap is None else leaf(torch.tensor(softcap)).double()
    temperature, cap = leaf(temperature), None if cap is None else leaf(cap)
    v = leaf(torch.rand(1100, dtype=torch.float64))
    inputs = (*p.inputs, temperature, v) if cap is None else (*p.inputs, temperature, v, cap)
    how = {"want": WANTED, "temperatures": (2.0, 0.5)}
    found = linear_stats(p.hidden, p.weight, p.target, p.bias, class_weight=v, temperature=temperature, softcap=cap, **how)
    expected = row_stats(dense(p, temperature, cap), p.target.clamp_min(0), v, **how)
    keep, g = p.target >= 0, torch.Generator().manual_seed(1)
    total = torch.zeros(2, dtype=torch.float64)
    for mine, theirs in zip(found, expected, strict=True):
        if theirs is None:  # the statistics that no definition of a single row of logits has
            continue
        theirs = torch.where(keep if theirs.ndim == 1 else keep[:, None], theirs, 0)
        assert_close(mine, theirs, 1e-12)
        upstream = torch.randn(mine.shape, generator=g, dtype=torch.float64)
        total = total + torch.stack([(upstream * mine).sum(), (upstream * theirs).sum()])
    assert_close(gradients(total[0], inputs, retain_graph=True), gradients(total[1], inputs))


@pytest.mark.parametrize("name", WANTED)
def test_each_statistic_alone(name):
    p = problem(9, classes=13)
    found = getattr(linear_stats(p.hidden, p.weight, p.target, p.bias, want=(name,)), name)
    expected = torch.where(p.target >= 0, getattr(row_stats(dense(p), p.target.clamp_min(0), want=(name,)), name), 0)
    assert_close(found, expected, 1e-12)
    inputs = p.inputs
    assert_close(gradients(found.sin().sum(), inputs), gradients(expected.sin().sum(), inputs))


@pytest.mark.parametrize("name", ["logsumexp", "entropy", "mean_logit"])
def test_statistics_without_a_target(name):
    p = problem(9, classes=1030)
    found = getattr(linear_stats(p.hidden, p.weight, bias=p.bias, want=(name,)), name)
    expected = getattr(row_stats(dense(p), want=(name,)), name)
    assert_close(found, expected, 1e-12)
    assert_close(gradients(found.sin().sum(), p.inputs), gradients(expected.sin().sum(), p.inputs))


LAYOUTS = {
    "transposed": lambda t: t.mT.contiguous().mT,
    "strided": lambda t: torch.stack([t, t], -1)[..., 0],
    "a slice": lambda t: torch.cat([t, t], -1)[..., : t.shape[-1]],
    "reversed and back": lambda t: t.flip(0).contiguous().flip(0),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_memory_layouts(layout):
    p = problem(300, classes=1030)
    value = linear_log_prob(layout(p.hidden), layout(p.weight), p.target, p.bias).cos().sum()
    expected = linear_log_prob(p.hidden, p.weight, p.target, p.bias).cos().sum()
    assert_close(gradients(value, p.inputs), gradients(expected, p.inputs))


def test_expanded_hidden_states_and_head():
    """Strides of 0 on both sides, and an upstream gradient of stride 0."""
    row, column = leaf(torch.randn(5, dtype=torch.float64)), leaf(torch.randn(11, 1, dtype=torch.float64))
    target = torch.arange(6)
    found = linear_log_prob(row.expand(6, 5), column.expand(11, 5), target).sum()
    expected = log_prob(row.expand(6, 5) @ column.expand(11, 5).T, target).sum()
    assert_close(gradients(found, (row, column)), gradients(expected, (row, column)))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32])
def test_any_integer_dtype_serves_as_target(dtype):
    p = problem(6, ignored=False)
    expected = linear_log_prob(p.hidden, p.weight, p.target, p.bias)
    assert torch.equal(linear_log_prob(p.hidden, p.weight, p.target.to(dtype), p.bias), expected)


def test_ignore_index_may_be_a_class():
    p = problem(20, classes=4, ignored=False)
    found = linear_log_prob(p.hidden, p.weight, p.target, p.bias, ignore_index=2)
    assert torch.equal(found == 0, p.target == 2)
    assert_close(found, torch.where(p.target == 2, 0, log_prob(dense(p), p.target)))


@pytest.mark.parametrize("garbage", [float("nan"), float("inf")])
@pytest.mark.parametrize("schedule", ["forward", "recompute"])
def test_an_ignored_row_may_hold_anything(garbage, schedule):
    p = problem(12)
    dirty = leaf(torch.where((p.target >= 0)[:, None], p.hidden, garbage))

    def value(hidden):
        source = LinearLogits(hidden, p.weight, p.bias, schedule=schedule)
        return source.weighted_log_prob(p.target, p.target >= 0, torch.ones(12, dtype=torch.float64))

    clean, soiled = value(p.hidden), value(dirty)
    assert torch.equal(clean, soiled)
    clean, soiled = gradients(clean, p.inputs), gradients(soiled, (dirty, p.weight, p.bias))
    assert all(torch.equal(a, b) for a, b in zip(clean, soiled, strict=True))
    assert (soiled[0][p.target < 0] == 0).all()


def test_the_same_numbers_from_run_to_run():
    p = problem(300, width=33, classes=2500).to(torch.float32)
    value = [linear_log_prob(p.hidden, p.weight, p.target, p.bias) for _ in range(2)]
    assert torch.equal(*value)
    first, second = (gradients(v.sin().sum(), p.inputs) for v in value)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_same_numbers_whatever_the_number_of_threads():
    p = problem(300, width=33, classes=2500).to(torch.float32)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        two = linear_log_prob(p.hidden, p.weight, p.target, p.bias)
        slopes = gradients(two.sin().sum(), p.inputs)
    finally:
        torch.set_num_threads(threads)
    one = linear_log_prob(p.hidden, p.weight, p.target, p.bias)
    assert_close(two, one, 1e-6)  # products are summed in another order
    assert_close(slopes, gradients(one.sin().sum(), p.inputs), 1e-5)


def test_float32_is_as_near_to_float64_as_torch_is():
    p = problem(301, width=96, classes=5003, scale=0.3)
    narrow = p.to(torch.float32)
    exact = log_prob(dense(p), p.target)
    errors = [
        (found.double() - exact).abs().max().item()
        for found in (linear_log_prob(*narrow.inputs[:2], p.target, narrow.bias), log_prob(dense(narrow), p.target))
    ]
    assert errors[0] <= 2 * errors[1]
    assert errors[0] < 1e-5


def test_temperature_towards_its_ends():
    """Towards infinity all classes are alike; towards 0 the largest has everything."""
    p = problem(6, ignored=False)
    hot = linear_log_prob(*p.inputs[:2], p.target, p.bias, temperature=1e8)
    assert_close(hot, torch.full((6,), -math.log(11), dtype=torch.float64), 1e-6)
    cold = linear_log_prob(*p.inputs[:2], dense(p).argmax(-1), p.bias, temperature=1e-8)
    assert (cold.abs() < 1e-12).all()


def test_a_saturated_softcap_gives_finite_values_and_gradients():
    p = problem(6, scale=100.0)
    cap = leaf(torch.tensor(2.0, dtype=torch.float64))
    value, expected = linear_log_prob(*p.inputs[:2], p.target, p.bias, softcap=cap), log_prob(dense(p, softcap=cap), p.target)
    assert_close(value, expected, 1e-12)
    found, theirs = (gradients(v.sum(), (*p.inputs, cap)) for v in (value, expected))
    assert_close(found[3], theirs[3])
    for mine, other in zip(found, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12)  # slopes of a saturated tanh are lost in rounding


@pytest.mark.parametrize("temperatures", [(2.0, 4.0), (0.5, 0.25, 2.0), (3.0, 6.0, 12.0, 24.0)])
def test_temperatures_that_are_doubled_keep_float32s_digits(temperatures):
    """Exponentials at 1/T are the squares of those at 1/(2T)."""
    p = problem(60, classes=700, ignored=False)
    narrow = p.to(torch.float32)
    h, w, b = (tensor.detach() for tensor in narrow.inputs)
    found = linear_stats(h, w, p.target, b, want=("log_prob", "entropy", "logsumexp"), temperatures=temperatures)
    z = h.double() @ w.double().T + b.double()
    expected = torch.stack([(z / t).logsumexp(-1) for t in temperatures], -1)
    assert_close(found.logsumexp_at.double(), expected, 2e-6)
    assert_close(found.logsumexp.double(), z.logsumexp(-1), 2e-6)
    assert_close(found.entropy.double(), torch.distributions.Categorical(logits=z).entropy(), 4e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("likely", [0, 1, -1])
def test_an_entropy_keeps_its_digits_whatever_the_label(dtype, likely):
    """Rows sure of another class than the label, logits of 90: log(1 + S) and the moment are two numbers near 90, and H is 1e-9."""
    torch.manual_seed(22)
    hidden, weight = torch.randn(400, 64).to(dtype), (torch.randn(300, 64) * 3).to(dtype)
    z, order = (hidden.double() @ weight.double().T).sort(1, descending=True)
    label, below = order[:, likely], z[:, 1:] - z[:, :1]
    others = below.exp().sum(1)
    exact = others.log1p() - (below.exp() * below).sum(1) / (1 + others)  # float64 would lose it in -sum p log p
    found = linear_stats(hidden, weight, label, want=("log_prob", "entropy")).entropy
    assert (exact < 1e-6).any()
    assert found.min() >= 0
    torch.testing.assert_close(found.double(), exact, rtol=1e-3, atol=0)  # the logits, of up to 100, are rounded


@pytest.mark.parametrize("temperatures", [(2.0, 4.0), (0.5, 0.25, 3.0), (8.0, 4.0, 2.0, 0.01, 100.0), (1.0, 1.0)])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_further_temperatures_in_float32(temperatures, scale):
    """Exponentials of one temperature are squares of another's; logits reach 1e4, and inverse temperatures 100."""
    torch.manual_seed(5)
    hidden, weight, label = torch.randn(40, 16) * scale, torch.randn(700, 16), torch.randint(700, (40,))
    upstream = torch.randn(40, len(temperatures) + 2, dtype=torch.float64)

    def value(dtype):
        inputs = leaf(hidden.to(dtype)), leaf(weight.to(dtype))
        if dtype == torch.float32:
            found = linear_stats(*inputs, label, want=("log_prob", "entropy"), temperatures=temperatures)
            columns = [found.log_prob, found.entropy, *found.logsumexp_at.unbind(1)]
        else:
            z = inputs[0] @ inputs[1].T
            log_p = z.log_softmax(1)
            entropy = -(log_p.exp() * log_p).sum(1)
            columns = [log_p.gather(1, label[:, None])[:, 0], entropy, *((z / t).logsumexp(1) for t in temperatures)]
        return torch.stack(columns, 1), gradients((torch.stack(columns, 1) * upstream).sum(), inputs)

    (mine, by_mine), (exact, by_exact) = value(torch.float32), value(torch.float64)
    assert_close(mine.double(), exact, 1e-6 * scale)
    for a, b in zip(by_mine, by_exact, strict=True):
        assert_close(a.double(), b, 1e-5 * scale * max(1.0, 1 / min(temperatures)))  # an exponent's own rounding
