"""Two processes that share a model equal one process: the head of `head_of` under DistributedDataParallel, FSDP 1 and 2, ZeRO-3."""

from __future__ import annotations

import os
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.multiprocessing
from torch import Tensor, nn

import lossmith
from lossmith.fused import head_of

WORLD, STEPS, CLASSES, WIDTH = 2, 2, 23, 24  # as wide as rows are many, so that logits can be kept in the room of the head's gradient


class Case(NamedTuple):
    """How the model is shared, and what is computed."""

    wrapped: str
    tied: bool = False
    reshard: bool = True
    schedule: str = "auto"
    objective: str = "cross_entropy"
    sync: bool = True  # whether gradients are reduced after every micro-batch, or after the last alone
    mixed: bool = False
    unused: bool = False  # a parameter without a part in the loss

    def __str__(self) -> str:
        return " ".join(
            f"{name}={value}" if name != "wrapped" else value
            for name, value in self._asdict().items()
            if value != Case._field_defaults.get(name)
        )


FSDP = [
    Case(wrapped, tied, reshard, objective=objective, sync=sync)
    for wrapped, tied in (("head in a group of its own", False), ("head in the root's group", False), ("head in the root's group", True))
    for reshard in (True, False)
    for objective, sync in (("cross_entropy", False), ("focal_loss", True), ("focal_loss", False))
]
CASES = {
    str(case): case
    for case in (
        *FSDP,
        Case("head in a group of its own", mixed=True),
        Case("head in a group of its own", schedule="recompute", objective="focal_loss"),
        Case("head in the root's group", tied=True, mixed=True),
        Case("DDP"),
        Case("DDP", tied=True, objective="focal_loss", sync=False),
        Case("DDP", tied=True, objective="focal_loss", schedule="recompute"),
        Case("DDP", unused=True, sync=False),
        Case("FSDP1"),
        Case("FSDP1", tied=True, sync=False, objective="focal_loss"),
    )
}


ZERO = {str(case): case for case in (Case("ZeRO-3"), Case("ZeRO-3", tied=True, objective="focal_loss"))}


class Model(nn.Module):
    """A body, a head, and a softcap after it."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CLASSES, WIDTH)
        self.body = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())
        self.head = nn.Linear(WIDTH, CLASSES, bias=not case.tied)
        if case.tied:
            self.head.weight = self.embedding.weight
        if case.unused:
            self.aside = nn.Linear(WIDTH, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.body(self.embedding(tokens))
        return 2 * torch.tanh(self.head(hidden) / 2)


def made(case: Case) -> Model:
    torch.manual_seed(5)
    return Model(case).to(torch.float32 if case.mixed or case.wrapped == "ZeRO-3" else torch.float64)


def tokens() -> Tensor:
    """`(ranks, micro-batches, rows, tokens)`: no two parts keep equally many."""
    found = torch.randint(CLASSES, (WORLD, STEPS, 3, 7), generator=torch.Generator().manual_seed(1))
    found[0, 0, 1:] = 0
    return found


def targets() -> Tensor:
    found = tokens().roll(-1, -1)
    found[..., -1] = -100
    found[0, 0, 1:] = -100
    found[1, 1, 0, :4] = -100
    return found


def share(model: Model, case: Case) -> nn.Module:
    if case.wrapped == "DDP":
        return nn.parallel.DistributedDataParallel(model, find_unused_parameters=case.unused)
    if case.wrapped == "FSDP1":
        from torch.distributed.fsdp import FullyShardedDataParallel

        if not case.tied:
            model.head = FullyShardedDataParallel(model.head, device_id=torch.device("cpu"), use_orig_params=True)
        return FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=True)
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if case.mixed else MixedPrecisionPolicy()
    for part in (model.body, *([model.head] if "own" in case.wrapped else [])):
        fully_shard(part, reshard_after_forward=case.reshard, mp_policy=policy)
    return fully_shard(model, reshard_after_forward=case.reshard, mp_policy=policy)


def objective(case: Case, target: Tensor, denominator: Tensor, logits: Any) -> Tensor:
    return getattr(lossmith, case.objective)(logits, target, denominator=denominator)


def whole_gradients(shared: nn.Module, model: nn.Module) -> dict[str, Tensor]:
    """The gradient of every parameter that has one, from all ranks."""
    if type(shared).__name__ == "FullyShardedDataParallel":
        with type(shared).summon_full_params(shared, with_grads=True):
            return {clean(n): p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {n: grad.full_tensor() if hasattr(grad, "full_tensor") else grad for n, grad in found.items()}


def clean(name: str) -> str:
    return name.replace("_fsdp_wrapped_module.", "")


def train(case: Case, rank: int) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Two micro-batches of one rank, and the gradients that are left."""
    model = made(case)
    shared = share(model, case)
    head = head_of(shared, head="head", schedule=case.schedule)
    denominator = lossmith.denominator(targets()[rank], group=torch.distributed.group.WORLD) / WORLD
    losses = []
    for step in range(STEPS):
        target, last = targets()[rank, step], step == STEPS - 1
        if hasattr(shared, "set_requires_gradient_sync"):
            shared.set_requires_gradient_sync(case.sync or last)
        context = shared.no_sync() if hasattr(shared, "no_sync") and not (case.sync or last) else torch.enable_grad()
        with context:
            loss = head.loss(partial(objective, case, target, denominator), tokens()[rank, step])
            loss.backward()
        losses.append(loss.detach())
    return losses, whole_gradients(shared, model)


def across(case: Case, after: Any = None, **layouts: Any) -> nn.Module:
    """The head alone under tensor parallelism."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    model = made(case)
    parallelize_module(model.head, init_device_mesh("cpu", (WORLD,)), ColwiseParallel(**layouts))
    if after is not None:
        model.forward = lambda tokens: after(model.head(model.body(model.embedding(tokens))))
    return model


def split(rank: int) -> dict[str, Any]:
    """Tensor parallelism: the same rows on both ranks, half of the classes (12 and 11) on each."""
    from torch.distributed.tensor import Replicate

    found = {}
    for name, layouts in {"split logits": {}, "whole logits": {"output_layouts": Replicate()}}.items():
        for objective in ("cross_entropy", "focal_loss"):
            model = across(Case("DDP"), **layouts)
            hooks = len(model.head._forward_hooks)
            head = head_of(model, head="head")
            loss = head.loss(lambda logits, o=objective: getattr(lossmith, o)(logits, targets()[0, 1]), tokens()[0, 1])
            loss.backward()
            assert len(model.head._forward_hooks) == hooks  # put back
            gradients = {n: p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad for n, p in model.named_parameters()}
            found[f"{name}, {objective}"] = loss.detach(), gradients
    return found


def mistakes(rank: int) -> dict[str, str]:
    """What is refused, and how."""
    case, x = Case("DDP"), tokens()[rank, 0]
    sharded = Case("head in the root's group")
    cut = across(case, lambda logits: logits[..., :20])
    calls = {
        "DDP": lambda: head_of(share(made(case), case), head="head").hidden_states(x),
        "fully_shard": lambda: head_of(share(made(sharded), sharded), head="head")(torch.zeros(2, WIDTH)),
        "tensor parallel, rows that differ": lambda: head_of(across(case), head="head").loss(
            lambda logits: lossmith.cross_entropy(logits, x), x
        ),
        "tensor parallel, cut": lambda: head_of(cut, head="head").loss(lambda logits: lossmith.cross_entropy(logits, x), x),
    }
    found = {}
    for name, call in calls.items():
        with pytest.raises((TypeError, ValueError)) as caught:
            call()
        found[name] = str(caught.value)
    return found


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    found = {name: train(case, rank) for name, case in CASES.items()}
    torch.save((found, mistakes(rank), split(rank)), Path(folder) / f"{rank}.pt")
    torch.distributed.barrier()  # neither leaves while the other still speaks to it
    torch.distributed.destroy_process_group()


def work_deepspeed(rank: int, folder: str) -> None:
    """ZeRO-3, which partitions every parameter; gradients are what its optimiser would get."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD), "LOCAL_SIZE": str(WORLD)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29531", "DS_ACCELERATOR": "cpu"}
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    import deepspeed
    from deepspeed.utils import safe_get_full_grad

    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": STEPS,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    }
    found = {}
    for name, case in ZERO.items():
        model = made(case)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, dist_init_required=False, config=config)
        assert model.head.weight.numel() == 0  # in pieces
        head = head_of(engine, head="head")
        # the engine takes the mean over micro-batches too
        denominator = lossmith.denominator(targets()[rank], group=torch.distributed.group.WORLD) / WORLD / STEPS
        losses = []
        for step in range(STEPS):
            loss = head.loss(partial(objective, case, targets()[rank, step], denominator), tokens()[rank, step])
            engine.backward(loss)
            losses.append(loss.detach() / STEPS)
        found[name] = losses, {n: safe_get_full_grad(p) for n, p in model.named_parameters()}
    torch.save((found, {}, {}), Path(folder) / f"{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def spawned(target: Any, folder: Path) -> list[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2])  # the children import this module by its name
        torch.multiprocessing.spawn(target, (str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return spawned(work, tmp_path_factory.mktemp("ranks"))


def assert_one_process(case: Case, found: list[tuple[list[Tensor], dict[str, Tensor]]]) -> None:
    """The mean of the ranks' losses and every gradient, on every rank, are those of all rows in one process by its own logits."""
    model = made(case).double()
    loss = getattr(lossmith, case.objective)(model(tokens()).movedim(-1, 1), targets())
    loss.backward()
    expected = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    value, slope = (1e-3, 2e-2) if case.mixed else (1e-6, 1e-6)  # a body in bfloat16 is that far from one in float64
    total = sum(sum(losses) for losses, _ in found) / WORLD
    torch.testing.assert_close(total.double(), loss.detach(), rtol=value, atol=0)
    for _, gradients in found:
        assert gradients.keys() == expected.keys()
        for n, gradient in gradients.items():
            torch.testing.assert_close(gradient.double(), expected[n], rtol=0, atol=slope * expected[n].abs().max().item())


gloo = pytest.mark.skipif(not torch.distributed.is_available() or not torch.distributed.is_gloo_available(), reason="torch without gloo")


@gloo
@pytest.mark.subprocess
@pytest.mark.parametrize("name", CASES)
def test_two_ranks_are_one_process(ranks, name):
    assert_one_process(CASES[name], [found[name] for found, *_ in ranks])


@gloo
@pytest.mark.subprocess
@pytest.mark.parametrize("objective", ["cross_entropy", "focal_loss"])
@pytest.mark.parametrize("logits", ["split logits", "whole logits"])
def test_a_head_under_tensor_parallelism_is_one_process(ranks, logits, objective):
    model = made(Case("DDP"))
    loss = getattr(lossmith, objective)(model(tokens()[0, 1]).movedim(-1, 1), targets()[0, 1])
    loss.backward()
    for *_, found in ranks:
        value, gradients = found[f"{logits}, {objective}"]
        torch.testing.assert_close(value, loss.detach(), rtol=1e-12, atol=0)
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=0, atol=1e-11 * parameter.grad.abs().max().item())


@gloo
@pytest.mark.subprocess
def test_rows_that_differ_under_tensor_parallelism_are_found_out(ranks):
    for _, refused, _ in ranks:
        assert "target must be the same on every rank of the group" in refused["tensor parallel, rows that differ"]


REFUSED = {
    "DDP": "hidden_states cannot be had outside the forward pass of a model under DistributedDataParallel: use loss",
    "fully_shard": "the head by itself cannot be had outside the forward pass of a model under fully_shard: use loss",
    "tensor parallel, cut": "Model adds to its logits, or cuts them, after a head under tensor parallelism, whose classes are split",
}


@gloo
@pytest.mark.subprocess
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_had_is_refused(ranks, name):
    assert [refused[name] for _, refused, _ in ranks] == [f"head_of: {REFUSED[name]}"] * WORLD


@gloo
@pytest.mark.subprocess
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
def test_two_ranks_of_deepspeed_are_one_process(tmp_path):
    ranks = spawned(work_deepspeed, tmp_path)
    for name, case in ZERO.items():
        assert_one_process(case, [found[name] for found, *_ in ranks])
