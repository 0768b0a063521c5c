"""The head of a model, and the loss with it, against the model's own logits: Hugging Face's architectures at random, and plain torch."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lossmith
from lossmith.fused import engine, head_of, linear_stats, pairs
from tests.fused.heads import assert_close, largest_allocation

CLASSES = 23
INF = float("inf")


class Plain(nn.Module):
    """A body, a head, and whatever is done to the logits after it."""

    def __init__(self, after=lambda logits: logits, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.body = nn.Sequential(nn.Linear(4, 6), nn.Tanh())
        self.output = nn.Linear(6, CLASSES, bias=bias)
        self.after = after
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.output(self.body(x)))


X = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = torch.tensor([3, 0, -100, 22, 7])
ADDED = torch.linspace(-1, 1, CLASSES, dtype=torch.float64)


def focal(logits) -> Tensor:
    return lossmith.focal_loss(logits, Y.clamp(max=logits.shape[1] - 1 if isinstance(logits, Tensor) else logits.classes - 1))


def both(model: nn.Module, make) -> tuple[tuple[Tensor, ...], ...]:
    """Value and gradients of all parameters, with the head taken off and by the model's own logits."""
    found = []
    for value in (make, lambda: focal(model(X))):
        model.zero_grad()
        loss = value()
        loss.backward()
        found.append((loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)))
    return tuple(found)


AFTER = {
    "nothing": lambda z: z,
    "float and contiguous": lambda z: z.to(torch.float64).contiguous(),
    "scale": lambda z: 0.3 * z,
    "scale in place": lambda z: z.mul_(0.3).div_(2),
    "divided": lambda z: z / 4.0,
    "softcap": lambda z: torch.tanh(z / 3.0) * 3.0,
    "scale and softcap": lambda z: 2.0 * F.tanh(z * 0.7) * 1.1,
    "bias": lambda z: z + ADDED,
    "bias of one row, and scale": lambda z: (z / 2 + ADDED[None]) * 3,
    "bias and softcap": lambda z: torch.tanh(0.5 * z + ADDED) * 2,
    "bias twice": lambda z: 2 * (ADDED + z) + ADDED,
    "padding cut": lambda z: z[..., :17],
    "padding cut, bias": lambda z: z[:, :17] / 2 + ADDED[:17],
    "bias, padding cut": lambda z: (z / 2 + ADDED)[..., :17],
    "in place, by its name": lambda z: (z.mul_(0.3), z.div_(2), z)[-1],
    "in place, of a cast that changes nothing": lambda z: (z.double().mul_(0.3), z)[-1],
    "in place, of a copy": lambda z: (z.clone().mul_(0.3), z / 2)[-1],
    "tanh in place": lambda z: (z.div_(3).tanh_(), z * 3)[-1],
    "all of it": lambda z: z[..., :CLASSES][:],
}


@pytest.mark.parametrize("after", AFTER.values(), ids=AFTER)
@pytest.mark.parametrize("bias", [True, False])
def test_what_a_model_does_after_its_head_is_read_off(after, bias):
    model = Plain(after, bias)
    head = head_of(model, head="output")
    assert_close(*both(model, lambda: head.loss(focal, X)), 1e-12)
    assert_close(*both(model, lambda: focal(head(head.hidden_states(X)))), 1e-12)


UNKNOWN = {
    "log_softmax": lambda z: z.log_softmax(-1),
    "softmax": lambda z: F.softmax(z, -1),
    "masked": lambda z: z.masked_fill(torch.zeros(CLASSES, dtype=torch.bool), 0),
    "assigned": lambda z: z.__setitem__((..., 0), 0.0),
    "another class first": lambda z: z[..., 1:],
    "every other class": lambda z: z[..., ::2],
    "a cut that is written into": lambda z: (z[..., :17].mul_(2), z)[-1],
    "written into after a cut": lambda z: (z[..., :17], z.mul_(2))[0],
    "without its gradient": lambda z: z.detach(),
    "its data": lambda z: z + z.data,
    "integers": lambda z: z.to(torch.int64),
    "chosen by a tensor": lambda z: z[:, torch.arange(5)],
    "nothing left": lambda z: z[..., :0],
    "one more axis": lambda z: z + ADDED[None, None],
    "written into another": lambda z: torch.zeros(5, CLASSES).double().add_(z),
    "rows cut": lambda z: z[1:],
    "two softcaps": lambda z: z.tanh().tanh(),
    "a bias after a softcap": lambda z: z.tanh() + ADDED,
    "added to itself": lambda z: z + z,
    "a scale a class": lambda z: z * ADDED,
    "one over": lambda z: 1 / z,
    "a number added": lambda z: z + 1.0,
    "scaled by nothing": lambda z: z * 0.0,
    "concatenated": lambda z: torch.cat([z, z]),
    "relu": lambda z: F.relu(z),
}


@pytest.mark.parametrize("after", UNKNOWN.values(), ids=UNKNOWN)
def test_what_a_head_cannot_stand_for_is_refused(after):
    model = Plain(after)
    expected = r"head_of: (the model|Plain) applies .* to its logits, which a linear head .* cannot stand for"
    with pytest.raises(ValueError, match=expected) as caught:
        head_of(model, head="output").loss(focal, X)
    assert "\n" not in str(caught.value)
    assert isinstance(model.output, nn.Linear)  # put back
    assert "forward" not in vars(model)


def test_a_learnt_scale_has_its_gradient():
    scale = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
    model = Plain(lambda z: scale * z)
    model.scale = scale
    head = head_of(model, head="output")
    assert_close(*both(model, lambda: head.loss(focal, X)), 1e-12)


def test_temperature_schedule_and_memory_are_those_of_the_logits():
    model = Plain(lambda z: torch.tanh(z / 3) * 3)
    head = head_of(model, head=model.output, temperature=2.0, schedule="recompute", memory=5)
    logits = head(head.hidden_states(X))
    assert (logits.schedule, logits.memory, logits.temperature, logits.softcap) == ("recompute", 5, 2.0, 3.0)
    assert_close(focal(logits), focal(model(X) / 2), 1e-12)


def test_hidden_states_are_what_the_head_is_given():
    model = Plain()
    head = head_of(model, head="output")
    with pytest.raises(ValueError, match="call hidden_states once before"):
        head(X)
    assert torch.equal(head.hidden_states(X), model.body(X))
    assert repr(head) == "Head(Plain, 6 to 23 classes, with bias)"


def test_what_the_objective_returns_comes_back():
    model = Plain()
    head = head_of(model, head="output")
    each, total = head.loss(lambda z: (lossmith.cross_entropy(z, Y, reduction="none"), {"sum": lossmith.cross_entropy(z, Y)}), X)
    assert_close(each, lossmith.cross_entropy(model(X), Y, reduction="none"))
    assert_close(total["sum"], lossmith.cross_entropy(model(X), Y))
    parts = head.loss(lambda z: z.row_stats(("entropy",), Y), X)
    assert_close(parts.entropy, linear_stats(model.body(X), model.output.weight, Y, model.output.bias, want=("entropy",)).entropy)
    assert parts.log_prob is None
    with pytest.raises(TypeError, match=r"the objective must return tensors; got LinearLogits LinearLogits\(float64 \(5, 6\)"):
        head.loss(lambda z: z, X)


LOSSES = {
    "rows": lambda z, y: lossmith.focal_loss(z, y),
    "a sum": lambda z, y: lossmith.cross_entropy(z, y),
    "statistics": lambda z, y: lossmith.cross_entropy(z, y, label_smoothing=0.1),
    "two heads": lambda z, y: lossmith.divergence_distillation(z, copy.copy(z), generator="reverse_kl"),
    "two heads, rows": lambda z, y: lossmith.divergence_distillation(z, copy.copy(z), reduction="none").square().mean(),
}


def of_600_rows(loss) -> tuple[int, int]:
    """The largest allocation with the head taken off, and by the model's own logits."""
    model, x = Plain(lambda z: torch.tanh(z.float() / 3) * 3).float(), torch.randn(600, 4)
    head, target = head_of(model, head="output"), torch.randint(CLASSES, (600,))
    return (
        largest_allocation(lambda: head.loss(lambda z: loss(z, target), x).backward()),
        largest_allocation(lambda: loss(model(x), target).backward()),
    )


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_of_the_logits_size_is_made(name):
    """600 rows of logits, their gradient, or a softcap of either, beside a block of 256 rows and the head."""
    fused, dense = of_600_rows(LOSSES[name])
    assert fused < 600 * CLASSES * 4 <= dense


@pytest.mark.parametrize(
    ("module", "planted"), [(engine, "row_stats"), (engine, "row_stats_gradients"), (engine, "_sums"), (pairs, "again")]
)
def test_what_is_made_inside_an_operator_is_seen(module, planted, monkeypatch):
    """The test above fails where a function of the engine asks for all logits at once."""
    real = getattr(module, planted)

    def wasteful(x, *rest, **how):
        torch.empty(600, CLASSES)
        return real(x, *rest, **how)

    monkeypatch.setattr(module, planted, wasteful)
    monkeypatch.setattr(pairs._Block, "lost", lambda self: torch.ones(len(self.sum_a), dtype=torch.bool))
    assert of_600_rows(LOSSES["two heads" if module is pairs else "rows"])[0] >= 600 * CLASSES * 4


def test_a_float32_head_over_a_body_in_bfloat16():
    model = Plain().to(torch.bfloat16)
    model.output.float()
    found = head_of(model, head="output").loss(focal, X.bfloat16())
    expected = focal(model.output(model.body(X.bfloat16()).float()))
    assert found.dtype == torch.float32
    assert_close(found, expected, 1e-6)
    found.backward()
    assert model.output.weight.grad.dtype == torch.float32
    assert model.body[0].weight.grad.dtype == torch.bfloat16


def test_autocast():
    model = Plain().float()
    head = head_of(model, head="output")
    with torch.autocast("cpu", torch.bfloat16):
        found, hidden = head.loss(focal, X.float()), head.hidden_states(X.float())
    assert found.dtype == torch.float32
    assert_close(found, focal(model.output(hidden.float())), 1e-6)


def test_a_weight_that_is_computed_from_others():
    """torch's weight normalisation: a property of the head, whose parameters get the gradients."""
    model = Plain()
    nn.utils.parametrizations.weight_norm(model.output)
    head = head_of(model, head="output")
    assert_close(*both(model, lambda: head.loss(focal, X)), 1e-12)


def test_a_body_that_is_checkpointed():
    model, body = Plain(), Plain()
    model.forward = lambda x: body.output(torch.utils.checkpoint.checkpoint(body.body, x, use_reentrant=False))
    model.inside = body
    head = head_of(model, head=body.output)
    assert_close(*both(model, lambda: head.loss(focal, X)), 1e-12)


@pytest.mark.compile
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("how", ["model", "model in place", "head in place", "body"])
def test_what_is_compiled(how):
    model = Plain()
    wrapped = model
    if how == "model":
        wrapped = torch.compile(model, backend="eager")
    else:
        {"model in place": model, "head in place": model.output, "body": model.body}[how].compile(backend="eager")
    if how.startswith("model"):
        with pytest.warns(UserWarning, match="Plain is compiled as a whole"):
            head = head_of(wrapped, head="output")
    else:
        head = head_of(wrapped, head="output")
    assert_close(*both(model, lambda: head.loss(focal, X)), 1e-12)
    with pytest.raises(Exception, match="a head cannot be taken apart while compiling"):
        torch.compile(lambda x: head.loss(focal, x), backend="eager", fullgraph=True)(X)


class Adapted(nn.Linear):
    def __init__(self) -> None:
        super().__init__(6, CLASSES)
        self.lora_A = nn.ParameterDict()


class Own(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


def _with(head: nn.Module | None = None, **do) -> nn.Module:
    model = Plain()
    if head is not None:
        model.output = head.double() if isinstance(head, nn.Linear) else head
    for name, arguments in do.items():
        getattr(model.output, name)(arguments)
    return model


class Quantised(Tensor):
    pass


def _quantised() -> nn.Module:
    model = Plain()
    model.output.weight = nn.Parameter(model.output.weight.detach().as_subclass(Quantised))
    return model


def _integer() -> nn.Module:
    model = Plain()
    model.output.weight = nn.Parameter(torch.zeros(CLASSES, 6, dtype=torch.int8), requires_grad=False)
    return model


def _replaced() -> nn.Module:
    model = Plain()
    model.output.forward = lambda x: x
    return model


def _forked(calls: int) -> nn.Module:
    model = Plain()

    def forward(x: Tensor) -> Tensor:
        hidden = model.body(x)
        return [hidden, *(model.output(hidden) for _ in range(calls))]

    model.forward = forward
    return model


class Hidden(nn.Module):
    """A head in a place of its own, which returns what it makes of the logits beside something else."""

    def __init__(self, returns) -> None:
        super().__init__()
        self.output, self.returns = nn.Linear(4, CLASSES).double(), returns

    def forward(self, x: Tensor, **_):
        return self.returns(self.output(x))


@dataclass
class Output:
    logits: Tensor
    aux_loss: Tensor | None = None


class Outputs(NamedTuple):
    logits: Tensor
    z_loss: Tensor


ASIDE = torch.tensor(1.0)


def loss(model: nn.Module, **kwargs):
    return head_of(model, head="output").loss(focal, X, **kwargs)


def _checkpointed() -> nn.Module:
    model = Plain()
    model.forward = lambda x: torch.utils.checkpoint.checkpoint(
        lambda x: model.output(model.body(x)), x.requires_grad_(), use_reentrant=True
    )
    return model


class Elsewhere(nn.Module):
    """A wrapper that passes over what it holds, known by its name alone."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module.body(x)


Elsewhere.__module__, Elsewhere.__qualname__ = "torch.nn.parallel.distributed", "DistributedDataParallel"
Elsewhere.__name__ = "DistributedDataParallel"

MISTAKES = [
    (lambda: loss(Elsewhere(Plain())), ValueError, "DistributedDataParallel does not call the Plain within it"),
    (lambda: loss(_checkpointed()), ValueError, "Plain calls its head where gradients are off, as inside a re-entrant checkpoint"),
    (lambda: head_of("gpt2"), TypeError, "model must be a torch.nn.Module; got str 'gpt2'"),
    (lambda: head_of(Plain()), ValueError, "Plain names no head of its own"),
    (lambda: head_of(Plain(), head="lm_head"), ValueError, "head must be the name of a module of Plain; got 'lm_head'"),
    (lambda: head_of(Plain(), head=3), TypeError, "head must be a module or its name; got int 3"),
    (lambda: head_of(Plain(), head=nn.Linear(6, CLASSES)), ValueError, "head must be a module within Plain; got Linear, which is not"),
    (lambda: head_of(nn.DataParallel(Plain()), head="output"), TypeError, "DataParallel copies the model at every call"),
    (lambda: head_of(_with(Adapted()), head="output"), TypeError, "Plain's head 'output' carries an adapter"),
    (lambda: head_of(_with(Own(6, CLASSES)), head="output"), TypeError, "'output' is a Own, which is not known to be a linear map"),
    (lambda: head_of(_with(nn.Identity()), head="output"), TypeError, "'output' is a Identity, which is not known"),
    (lambda: head_of(_quantised(), head="output"), TypeError, "has a weight of type Quantised, which is not known to be a plain matrix"),
    (lambda: head_of(_integer(), head="output"), TypeError, "has a weight of dtype int8, which is not floating-point"),
    (lambda: head_of(_replaced(), head="output"), TypeError, "has a forward that somebody has replaced"),
    (lambda: head_of(_with(register_forward_hook=focal), head="output"), TypeError, "has a hook, focal, which would see the loss"),
    (lambda: head_of(_with(register_full_backward_hook=focal), head="output"), TypeError, "has a hook, focal"),
    (lambda: loss(Plain(), labels=Y), ValueError, "labels would make the model compute a loss of its own"),
    (lambda: loss(_forked(2)), ValueError, "Plain must call its head once in a forward pass; it was called 2 times"),
    (lambda: loss(_forked(0)), ValueError, "Plain must call its head once in a forward pass; it was called not at all"),
    (lambda: loss(Hidden(lambda z: X)), ValueError, "Hidden's output must have its logits in one place; they are in 0"),
    (lambda: loss(Hidden(lambda z: (z, z / 2))), ValueError, "Hidden's output must have its logits in one place; they are in 2"),
    (lambda: loss(Hidden(lambda z: Output(z, ASIDE))), ValueError, "Hidden returns 'aux_loss', which would be left out"),
    (lambda: loss(Hidden(lambda z: Outputs(z, ASIDE))), ValueError, "Hidden returns 'z_loss', which would be left out"),
    (lambda: loss(Hidden(lambda z: {"loss": ASIDE, "logits": z})), ValueError, "Hidden returns 'loss', which would be left out"),
    (lambda: loss(Hidden(lambda z: z / -2)), ValueError, r"Hidden applies div\(logits, -2\) to its logits"),
    (lambda: loss(Hidden(lambda z: z * INF)), ValueError, r"Hidden applies mul\(logits, inf\) to its logits"),
    (lambda: head_of(Plain(), head="output").loss(X), TypeError, r"objective must be a function of the logits; got float64 \(5, 4\)"),
    (
        lambda: head_of(_with(nn.Sequential(nn.LayerNorm(6), nn.Linear(6, CLASSES))), head="output"),
        TypeError,
        "'output' is a Sequential, which is not known to be a linear map: name the one within it, head='output.1'",
    ),
]


@pytest.mark.untyped
@pytest.mark.parametrize(("call", "error", "message"), MISTAKES)
def test_a_mistake_gets_one_line(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_the_stand_in_says_what_it_is():
    seen = []
    head_of(Hidden(lambda z: {"logits": z / 2}), head="output").loss(lambda z, out: seen.append(repr(out["logits"])), X, with_output=True)
    assert seen == ["StandIn(float64 (5, 23), Afterwards(scale=0.5, shift=None, outer=None, classes=None))"]


def test_what_the_model_returns_beside_its_logits():
    model = Hidden(lambda z: Output(z, torch.tensor(1.0)))
    head = head_of(model, head="output")
    found = head.loss(lambda z, out: focal(z) + out.aux_loss, X, with_output=True)
    assert_close(found, focal(model.output(X)) + 1)


def test_a_head_within_a_container():
    """A norm before it, a cast after it: both are done, or read off, as what a model does around its head."""
    model = Plain()
    model.output = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, CLASSES)).double()
    assert_close(*both(model, lambda: head_of(model, head="output.1").loss(focal, X)), 1e-12)


@pytest.mark.parametrize("output", [Output, lambda z: Output(z, None), lambda z: {"logits": z}, lambda z: [None, z]])
def test_where_a_model_has_its_logits(output):
    model = Hidden(output)
    assert_close(head_of(model, head="output").loss(focal, X), focal(model.output(X)), 1e-12)


def test_a_model_whose_head_is_tied_and_in_two_places():
    model = Plain()
    model.alias = model.output  # the same module by another name: both are the place
    model.forward = lambda x: model.alias(model.body(x))
    head = head_of(model, head="output")
    assert_close(*both(model, lambda: head.loss(focal, X)), 1e-12)
    assert model.alias is model.output
