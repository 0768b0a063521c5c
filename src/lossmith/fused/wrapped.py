"""What is wrapped around models and heads, known without importing who wraps: what is inside, and what cannot be taken apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from torch import Tensor, nn


def _kind(module: nn.Module) -> str:
    """The package and name of a module's class."""
    return f"{type(module).__module__}.{type(module).__name__}"


_WITHIN = {
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel": "module",
    "deepspeed.runtime.engine.DeepSpeedEngine": "module",
}
"""Wrappers, and where they keep what they wrap. None that runs its inside once more in the backward pass."""

_SHARING = ("DistributedDataParallel", "FullyShardedDataParallel", "DeepSpeedEngine")
"""Those that share the work over ranks, as does what `fully_shard` makes of a module in place."""


def _within(module: nn.Module) -> nn.Module | None:
    """What a wrapper holds, or None where it is none."""
    if (name := _WITHIN.get(_kind(module))) is not None:
        return getattr(module, name)
    if type(module).__module__.startswith("peft."):
        if callable(base := getattr(module, "get_base_model", None)):
            return base()
        saved, active = getattr(module, "modules_to_save", None), getattr(module, "active_adapters", ())
        if isinstance(saved, nn.ModuleDict) and getattr(module, "disable_adapters", False):
            return cast(nn.Module, module.original_module)
        if isinstance(saved, nn.ModuleDict) and len(active) == 1 and active[0] in saved:  # a copy of the module that is trained whole
            return saved[active[0]]
    return None


def layers(module: nn.Module) -> list[nn.Module]:
    """A module and what it wraps, from the outermost to the innermost."""
    found = [module]
    while (inside := _within(found[-1])) is not None:
        found.append(inside)
    return found


def innermost(module: nn.Module) -> nn.Module:
    """The model, or the linear map, within whatever is wrapped around it."""
    return layers(module)[-1]


def linear(head: nn.Module) -> nn.Linear:
    """The linear map within a head that is not refused."""
    return cast(nn.Linear, innermost(head))


def is_compiled(module: nn.Module) -> bool:
    """Whether a module is what `torch.compile` made of another."""
    return _kind(module) == "torch._dynamo.eval_frame.OptimizedModule"


def wrapper(model: nn.Module) -> str | None:
    """The name of a wrapper that shares the work over ranks, or None."""
    for module in (*layers(model), *innermost(model).modules()):
        if type(module).__name__ in _SHARING:
            return type(module).__name__
        if hasattr(module, "set_requires_gradient_sync"):
            return "fully_shard"
    return None


def places(model: nn.Module, head: nn.Module) -> list[tuple[nn.Module, str]]:
    """Every module of the model that holds the head, and under which name."""
    return [(parent, name) for parent in model.modules() for name, child in parent._modules.items() if child is head]


def refused(head: nn.Module) -> str | None:
    """Why a head cannot be taken apart, in words that follow its name; None where it can."""
    within = innermost(head)
    if hasattr(within, "base_layer") or hasattr(within, "lora_A"):
        return "carries an adapter, which is more than a linear map: merge it, or adapt other layers"
    if type(within).forward is not nn.Linear.forward:
        return f"is a {type(within).__name__}, which is not known to be a linear map"
    for layer in layers(head):
        if "forward" in layer.__dict__ and not is_compiled(layer):
            return "has a forward that somebody has replaced, which would be passed over"
        for hooks in (layer._forward_hooks, layer._backward_hooks, layer._backward_pre_hooks):
            for hook in hooks.values():
                if not getattr(hook, "__module__", "").startswith(("torch.distributed.", "deepspeed.")):
                    return f"has a hook, {getattr(hook, '__qualname__', hook)}, which would see the loss in place of the logits"
    return _quantised(linear(head).weight)


def in_pieces(weight: Tensor) -> bool:
    """Whether a weight lies in pieces over ranks; inside the head's forward pass, hooks have put them together."""
    return type(weight).__name__ == "DTensor" or (hasattr(weight, "ds_id") and weight.numel() == 0)


@contextmanager
def without_layouts(head: nn.Module) -> Iterator[None]:
    """A head called without what tensor parallelism does to its logits: how these are split says nothing of a loss."""
    hooks = linear(head)._forward_hooks
    kept = dict(hooks)
    for key, hook in kept.items():
        if getattr(hook, "__module__", "").startswith("torch.distributed.tensor."):
            del hooks[key]
    try:
        yield
    finally:
        hooks.clear()
        hooks.update(kept)


def _quantised(weight: Tensor) -> str | None:
    if type(weight) not in (Tensor, nn.Parameter) and not in_pieces(weight) and not hasattr(weight, "ds_id"):
        return f"has a weight of type {type(weight).__name__}, which is not known to be a plain matrix"
    if not weight.is_floating_point():
        return f"has a weight of dtype {str(weight.dtype).removeprefix('torch.')}, which is not floating-point"
    return None


def in_words(head: nn.Module) -> str:
    """A head, in words."""
    within = linear(head)
    bias = "" if within.bias is None else ", with bias"
    return f"{within.in_features} to {within.out_features} classes{bias}"
