"""Every way torch has of differentiating and batching, for what takes two heads or a few classes: as tests of one head, test_transforms."""

import pytest
import torch
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

import lossmith
from lossmith.divergences import divergence
from lossmith.fused import LinearLogits, linear_divergence, linear_stats, linear_top_k
from tests.fused.heads import assert_close, gradients, problem
from tests.fused.test_transforms import compiled

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]

STUDENT, TEACHER = problem(3, width=2, classes=4), problem(3, width=2, classes=4, seed=1)
INPUTS = (*STUDENT.inputs, *TEACHER.inputs)
DETACHED = tuple(tensor.detach() for tensor in INPUTS)
KEEP = torch.arange(3) != 1
AT = torch.tensor([[0, 3], [2, 2], [-100, 1]])


def _logits(h, w, b, th, tw, tb):
    return h @ w.T + b, th @ tw.T + tb


def _rows(g):
    def fused(h, w, b, th, tw, tb):
        found = linear_divergence(h, w, th, tw, b, tb, generator=g, softcap=3.0, temperature=1.5, mask=KEEP)
        return found.sin().sum()

    def plain(*inputs):
        z, t = _logits(*inputs)
        found = divergence((t / 1.5).log_softmax(-1), (3 * torch.tanh(z / 3) / 1.5).log_softmax(-1), g, log=True)
        return torch.where(KEEP, found.sin(), 0).sum()

    return fused, plain


def _mean(h, w, b, th, tw, tb):
    return lossmith.divergence_distillation(LinearLogits(h, w, b), LinearLogits(th, tw, tb), generator="jeffreys")


def _soft(h, w, b, th, tw, tb):
    return lossmith.cross_entropy(LinearLogits(h, w, b), LinearLogits(th, tw, tb), weight=torch.arange(4).double())


def _soft_plain(*inputs):
    z, t = _logits(*inputs)
    return -(t.softmax(-1) * torch.arange(4) * z.log_softmax(-1)).sum(-1).mean()


def _few(h, w, b, th, tw, tb):
    found = linear_stats(h, w, bias=b, want=("top_k_mass",), top_k=2, at=AT, softcap=2.0)
    return (found.logits_at.sin().sum(-1) * found.top_k_mass).sum() + linear_top_k(th, tw, 2, tb)[1].sin().sum()


def _few_plain(*inputs):
    z, t = _logits(*inputs)
    z = 2 * torch.tanh(z / 2)
    chosen = torch.where(AT < 0, 0, z.gather(-1, AT.clamp_min(0)))
    mass = z.topk(2).values.logsumexp(-1) - z.logsumexp(-1)
    return (chosen.sin().sum(-1) * mass).sum() + t.log_softmax(-1).topk(2).values.sin().sum()


PAIRS = {
    "rows, kl": _rows("kl"),
    "rows, skew_kl": _rows("skew_kl(skew=0.1)"),
    "mean": (_mean, lambda *inputs: lossmith.divergence_distillation(*_logits(*inputs), generator="jeffreys")),
    "soft targets": (_soft, _soft_plain),
    "a few classes": (_few, _few_plain),
}
pairs = pytest.mark.parametrize(("fused", "plain"), PAIRS.values(), ids=PAIRS)


@pairs
def test_first_and_second_derivatives_are_finite_differences(fused, plain):
    assert torch.autograd.gradcheck(fused, INPUTS, nondet_tol=1e-12)
    assert torch.autograd.gradgradcheck(fused, INPUTS)


@pairs
def test_forward_mode_is_finite_differences(fused, plain):
    assert torch.autograd.gradcheck(fused, INPUTS, check_forward_ad=True, check_backward_ad=False)
    assert_close(jvp(fused, DETACHED, DETACHED)[1], jvp(plain, DETACHED, DETACHED)[1])


@pairs
def test_func_grad(fused, plain):
    every = tuple(range(6))
    assert_close(grad(fused, every)(*DETACHED), grad(plain, every)(*DETACHED))


SECOND = {
    "hessian": lambda f, i, j: hessian(f, i)(*DETACHED),
    "reverse over reverse": lambda f, i, j: jacrev(jacrev(f, i), j)(*DETACHED),
    "forward over reverse": lambda f, i, j: jacfwd(grad(f, i), j)(*DETACHED),
    "reverse over forward": lambda f, i, j: jacrev(jacfwd(f, i), j)(*DETACHED),
}


@pairs
@pytest.mark.parametrize("second", SECOND.values(), ids=SECOND)
@pytest.mark.parametrize(("i", "j"), [(0, 1), (1, 4), (3, 2)])
def test_second_derivatives_of_torch_func(fused, plain, second, i, j):
    assert_close(second(fused, i, j), second(plain, i, j))


def test_third_derivatives():
    fused, plain = PAIRS["rows, kl"]
    assert_close(jacrev(hessian(fused, 0), 1)(*DETACHED), jacrev(hessian(plain, 0), 1)(*DETACHED), 1e-9)


@pairs
@pytest.mark.parametrize("axes", [(0, None, None, None, None, None), (0, None, None, 0, None, None), (None, 0, None, None, 1, 0)])
def test_vmap_of_the_gradient(fused, plain, axes):
    batched = [
        tensor if axis is None else torch.stack([tensor, 2 * tensor, -tensor], axis) for tensor, axis in zip(DETACHED, axes, strict=True)
    ]
    found, expected = (vmap(grad(f, (0, 1, 3, 4)), in_dims=axes)(*batched) for f in (fused, plain))
    assert_close(found, expected)
    found, expected = (vmap(f, in_dims=axes)(*batched) for f in (fused, plain))
    assert_close(found, expected)


@pairs
def test_forward_mode_within_forward_mode_is_refused(fused, plain):
    with pytest.raises(RuntimeError, match="forward mode within forward mode"):
        jacfwd(jacfwd(fused))(*DETACHED)


@pytest.mark.compile
@pairs
def test_compile_in_one_graph(fused, plain):
    whole = compiled(fused)
    assert_close(whole(*DETACHED), plain(*DETACHED))
    assert_close(gradients(whole(*INPUTS), INPUTS, allow_unused=True), gradients(plain(*INPUTS), INPUTS))


@pytest.mark.compile
@pytest.mark.parametrize("weighted", [True, False])
def test_compile_of_a_head_that_both_share(weighted):
    """As where a model learns from its own earlier layers."""

    def loss(student, teacher):
        found = lossmith.divergence_distillation(student, teacher, generator="jensen_shannon", reduction="mean" if weighted else "none")
        return found.sin().sum()

    h, w, b = INPUTS[:3]
    fused = compiled(lambda h, w, b: loss(LinearLogits(h, w, b), LinearLogits(h.cos(), w, b)))(h, w, b)
    plain = loss(h @ w.T + b, h.cos() @ w.T + b)
    assert_close(fused, plain)
    assert_close(gradients(fused, (h, w, b)), gradients(plain, (h, w, b)))


@pytest.mark.compile
@pairs
def test_compile_of_a_derivative_is_refused(fused, plain):
    with pytest.raises(Exception, match=r"pytorch/pytorch#193279"):
        compiled(grad(fused))(*DETACHED)


@pytest.mark.compile
def test_the_operators_are_what_they_say():
    from lossmith.fused import indices, pair_functions

    at = (*DETACHED[:3], None, *DETACHED[3:], None, None, KEEP)
    checks = ("test_schema", "test_faketensor")
    for code in ("kl", "cross_entropy"):
        found = pair_functions.pair_stats(*at, code, 0, "")
        torch.library.opcheck(pair_functions.pair_stats, (*at, code, 0, ""), test_utils=checks)
        torch.library.opcheck(pair_functions.pair_gradients, (*at, found, found[:, 0].clone(), code, "yyynyyynn", ""), test_utils=checks)
        torch.library.opcheck(pair_functions.pair_and_gradients, (*at, found[:, 0].clone(), code, 128, "yyyyyn", ""), test_utils=checks)
    few = (*DETACHED[:3], AT)
    torch.library.opcheck(indices._gathered, few, test_utils=checks)
    torch.library.opcheck(indices._gathered_gradients, (*few, AT.double()), test_utils=checks)
    torch.library.opcheck(indices.top_k, (*DETACHED[:3], None, 3, ""), test_utils=checks)


@pairs
def test_many_upstream_gradients_at_once(fused, plain):
    upstream = torch.tensor([1.0, 2.0, -3.0], dtype=torch.float64)
    how = {"allow_unused": True, "materialize_grads": True, "retain_graph": True}
    expected = tuple(torch.stack([u * g for u in upstream]) for g in gradients(plain(*INPUTS), INPUTS, **how))
    value = fused(*INPUTS)
    assert_close(torch.autograd.grad(value, INPUTS, upstream, is_grads_batched=True, **how), expected)
    assert_close(vmap(lambda u: torch.autograd.grad(value, INPUTS, u, **how))(upstream), expected)


def test_class_weights_of_0_are_learnt():
    """Of soft targets by a second head: such a class costs nothing, and says how much it would cost."""
    v = torch.tensor([0.0, 2.0, 0.0, 1.0], dtype=torch.float64, requires_grad=True)

    def fused(h, w, b, th, tw, tb, v):
        return lossmith.cross_entropy(LinearLogits(h, w, b), LinearLogits(th, tw, tb), weight=v, reduction="sum")

    def plain(h, w, b, th, tw, tb, v):
        z, t = _logits(h, w, b, th, tw, tb)
        return -(t.softmax(-1) * v * z.log_softmax(-1)).sum()

    inputs = (*INPUTS, v)
    slopes = [gradients(f(*inputs), inputs, create_graph=True) for f in (fused, plain)]
    assert_close(*slopes)
    assert_close(*(gradients(sum(g.sin().sum() for g in each), inputs) for each in slopes))
