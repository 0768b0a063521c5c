"""Checks of what torch does with a function: derivatives of first and second order, forward mode, vmap, compilation."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lossmith._subject import Subject, counted
from lossmith.conformance.problems import gradient, leaf, problem
from lossmith.conformance.reductions import per_row_weights
from lossmith.conformance.registry import Failed, Skipped, differ, register


def _small(subject: Subject, seed: int) -> tuple[Tensor, Tensor]:
    return problem(subject.form, seed, n=3, classes=3, extra=None if subject.form != "set" else (3,))


def _derivative(subject: Subject, seed: int, verify: Callable[..., bool], **how: Any) -> None:
    """Run one of torch's finite-difference checks; several losses at once cost little more than one."""
    z, y = _small(subject, seed)
    try:
        verify(lambda x: subject.each(x, y).sum(), (leaf(z),), **how)
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise Failed(lines[0], input=z, target=y) from error


@register(
    tests="the gradient is the finite difference, in float64, at every setting",
    why="a wrong gradient still goes downhill most of the time: training works, only worse",
    cause="a detached term, a hand-written backward, or arithmetic outside torch",
)
def gradcheck(subject: Subject, seed: int) -> str:
    for setting in subject.settings:
        _derivative(subject.at(setting).held(), seed, torch.autograd.gradcheck, fast_mode=False)
    return f"every partial derivative, {counted(subject)}"


@register(
    tests="the second derivative is the finite difference of the first",
    why="gradient penalties, influence functions and meta-learning differentiate twice; a wrong second derivative raises no error",
    cause="a hand-written backward that is not itself differentiable, or a detached gradient",
)
def double_backward(subject: Subject, seed: int) -> str:
    subject = subject.held()
    z, y = _small(subject, seed)
    slope = gradient(subject.each(x := leaf(z), y).sum(), x, create_graph=True)
    if not slope.requires_grad:
        if differ(gradient(subject.each(x := leaf(z + 1e-3 * z.sin()), y).sum(), x), slope, 1e-12):
            raise Failed("the gradient changes with the logits, but cannot itself be differentiated", input=z, target=y)
        raise Skipped("piecewise linear: the gradient is constant")
    _derivative(subject, seed, torch.autograd.gradgradcheck, atol=1e-4)
    return "finite differences of the gradient, float64"


@register(
    tests="forward-mode differentiation gives the same derivative as backward mode",
    why="Hessian-vector products and curvature methods run forward mode",
    cause="a hand-written function without `jvp`, or an in-place operation",
)
def forward_ad(subject: Subject, seed: int) -> str:
    z, y = _small(subject, seed)
    direction = torch.linspace(-1, 1, z.numel(), dtype=torch.float64).reshape(z.shape)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")  # what its own forward mode is built on
        forward = torch.func.jvp(lambda x: subject.each(x, y).sum(), (z,), (direction,))[1]
    backward = (gradient(subject.each(x := leaf(z), y).sum(), x) * direction).sum()
    if differ(forward, backward, 1e-10):
        raise Failed(f"forward mode gives {forward.item():.8g}, backward mode {backward.item():.8g}", input=z, target=y)
    return "one random direction"


@register(
    tests="vmap of the gradient gives every row's own gradient, as a loop does",
    why="per-example gradients (privacy, influence, noise) are one vmap, or a slow loop",
    cause="`F.one_hot`, `.item()`, boolean indexing, or an `if` on a value",
)
def vmap(subject: Subject, seed: int) -> str:
    if subject.remembers:
        raise Skipped("its state is written in every call, which vmap cannot do a row at a time")
    z, y = problem(subject.form, seed, n=4)
    call = subject.bound(z)

    def one(x: Tensor, t: Tensor) -> Tensor:
        return call(x.unsqueeze(0), t.unsqueeze(0)).sum()

    mapped = torch.func.vmap(torch.func.grad(one))(z, y)
    for i in range(z.shape[0]):
        row = leaf(z[i])
        if differ(mapped[i], gradient(one(row, y[i]), row), 1e-12):
            raise Failed("vmap of the gradient is not the gradient of the row", input=z[i], target=y[i])
    return "vmap(grad) against a loop of 4"


def _compiled(subject: Subject, seed: int, backend: str) -> None:
    z, y = problem(subject.form, seed, dtype=torch.float32)
    options = {}
    if subject.takes("ignore_index") and subject.form not in ("set",):
        y = y.clone()
        y[0] = -100
    if subject.takes("sample_weight"):
        options["sample_weight"] = per_row_weights(subject.form, y).float()
    eager_in, compiled_in = leaf(z), leaf(z)
    eager = subject.bound(z, **options)(eager_in, y)
    torch._dynamo.reset()  # the graphs of other objectives share this code, and there is a limit to their number
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        try:
            got = torch.compile(subject.bound(z, **options), fullgraph=True, backend=backend, dynamic=False)(compiled_in, y)
        except Exception as error:
            said = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise Failed(
                f"torch.compile(fullgraph=True, backend={backend!r}) refuses: {said[0] if said else type(error).__name__}"
            ) from error
        slope = gradient(got, compiled_in)
    if differ(got, eager, 1e-5):
        raise Failed(f"compiled it gives {got.item():.7g}, else {eager.item():.7g}", input=z, target=y)
    if differ(slope, gradient(eager, eager_in), 1e-5):
        raise Failed("compiled, its gradient is another", input=z, target=y)


@register(
    tests="torch.compile(fullgraph=True) takes it whole, and gives the same value and gradient",
    why="a graph break inside the loss splits the compiled training step",
    cause="`.item()`, printing, an `if` on a tensor's value, boolean indexing",
)
def compile(subject: Subject, seed: int) -> str:
    _compiled(subject, seed, "aot_eager")
    return "backend aot_eager, with a masked row and weights where it takes them"


@register(
    tests="compiled to machine code by inductor it gives the same value and gradient",
    why="it is what users run",
    cause="see `compile`; rarely, the compiler itself",
    on_request=True,
)
def compile_inductor(subject: Subject, seed: int) -> str:
    _compiled(subject, seed, "inductor")
    return "backend inductor"
