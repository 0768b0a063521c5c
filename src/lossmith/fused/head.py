"""The head of a model as users have it: Hugging Face, plain torch, and either under DistributedDataParallel, FSDP or ZeRO."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lossmith._checks import describe
from lossmith._typing import Float, Hyper
from lossmith.fused.afterwards import Afterwards, StandIn
from lossmith.fused.linear import LinearLogits
from lossmith.fused.plan import Schedule
from lossmith.fused.shards import _is_dtensor
from lossmith.fused.wrapped import (
    in_pieces,
    in_words,
    innermost,
    is_compiled,
    layers,
    linear,
    places,
    refused,
    without_layouts,
    wrapper,
)


def head_of(
    model: nn.Module,
    *,
    head: str | nn.Module | None = None,
    temperature: Hyper = 1.0,
    schedule: Schedule = "auto",
    memory: int | None = None,
) -> Head:
    r"""The linear head of a model, to be taken together with the objective, so that the model's logits are never made.

    .. math:: \texttt{model(x).logits} = \frac{s}{T} \tanh\!\Bigl(\frac{h W^\top + b}{s}\Bigr), \qquad h \text{ what its head is given}

    The model's own code runs, with something in the head's place that keeps the hidden states and gives back a stand-in for the logits,
    which writes down what is done to it. So whatever the model does *before* its head (T5's and MiniCPM's scaling, BERT's transform)
    is done by itself, and what it does *after* (a softcap as Gemma's, a scale as Cohere's and Granite's, BART's bias, a cut of padding) is
    read off at every call; what a linear head cannot stand for is an error. Then the head is called with its forward replaced by the
    loss: a wrapper's hooks gather its weight, and reduce its gradient, as they would anyway.

    Args:
        model: a model, wrapped or not: DistributedDataParallel, FSDP 1 or 2, DeepSpeed's engine, PEFT. Compile its body, not the whole
            (`model.model.compile()`); one that is compiled as a whole is run as it was before, with a warning.
        head: the head, or its name (``"decoder.output"``), where the model has no `get_output_embeddings`.
        temperature: divides the logits once more, as `LinearLogits` has it.
        schedule, memory: as for `LinearLogits`.

    Returns:
        A `Head`: `loss` for training, wrapped or not; `hidden_states`, and the head itself as a function, for models that are not.

    Raises:
        TypeError, ValueError: there is no such head; it is no plain linear map (an adapter such as LoRA, a quantised weight); or it has
            hooks that expect its logits.

    Example:
        >>> import torch, lossmith
        >>> from lossmith.fused import head_of
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 50))
        >>> head = head_of(model, head="2")
        >>> x, target = torch.randn(6, 4), torch.randint(50, (6,))
        >>> loss = head.loss(lambda logits: lossmith.focal_loss(logits, target), x)
        >>> torch.allclose(loss, lossmith.focal_loss(model(x), target))
        True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"head_of: model must be a torch.nn.Module; got {describe(model)}")
    if isinstance(model, nn.DataParallel):
        raise TypeError("head_of: torch.nn.DataParallel copies the model at every call; use DistributedDataParallel")
    inner = innermost(model)
    name = type(inner).__name__
    if head is None:
        ask = getattr(inner, "get_output_embeddings", None)
        found = ask() if callable(ask) else None
        if not isinstance(found, nn.Module):
            raise ValueError(f"head_of: {name} names no head of its own; name it: head_of(model, head='lm_head')")
    elif isinstance(head, str):
        try:
            found = inner.get_submodule(head)
        except AttributeError:
            raise ValueError(f"head_of: head must be the name of a module of {name}; got {head!r}") from None
    elif isinstance(head, nn.Module):
        found = head
    else:
        raise TypeError(f"head_of: head must be a module or its name; got {describe(head)}")
    at = places(inner, found)
    if not at:
        raise ValueError(f"head_of: head must be a module within {name}; got {type(found).__name__}, which is not")
    if why := refused(found):
        raise TypeError(f"head_of: {name}'s head {at[0][1]!r} {why}{_within_it(inner, found)}")
    if any(is_compiled(layer) or layer._compiled_call_impl is not None for layer in layers(model)):
        warnings.warn(
            f"head_of: {name} is compiled as a whole, and its head runs apart: it is run uncompiled; compile its body instead",
            stacklevel=2,
        )
    return Head(model, inner, found, temperature=temperature, schedule=schedule, memory=memory)


class Head:
    """The head of a model, apart from it; what :func:`head_of` returns."""

    def __init__(
        self, model: nn.Module, inner: nn.Module, module: nn.Module, *, temperature: Hyper, schedule: Schedule, memory: int | None
    ) -> None:
        self.model, self.inner, self.module = model, inner, module
        self.temperature, self.schedule, self.memory = temperature, schedule, memory
        self._afterwards: Afterwards | None = None

    def loss(self, objective: Callable[..., Any], *args: Any, with_output: bool = False, **kwargs: Any) -> Any:
        """The objective of the model's logits: `objective(logits)`, where `logits` are :class:`LinearLogits`.

        It is computed inside the model's own forward pass, and is what comes out of it: whatever is wrapped around the model, or hooked
        on to it, sees the loss as output, gathers weights when they are needed, and reduces each gradient once. Under a wrapper there is
        no other way.

        A wrapper that averages gradients over ranks expects each rank's mean over its own rows. Where ranks or micro-batches keep
        unequally many, give the objective ``denominator=lossmith.denominator(target, group=group) / world_size``.

        Args:
            objective: takes the logits and returns a tensor, or a tuple, list or dict of tensors: any expression of them, such as
                ``lambda logits: lossmith.focal_loss(logits, target)``.
            args, kwargs: what the model takes, without labels: those are the objective's.
            with_output: whether the objective takes the model's output as a second argument, say for its ``aux_loss``; its logits are
                a stand-in there.

        Returns:
            What the objective returns.

        Raises:
            TypeError, ValueError: labels among the model's arguments; a model that does not call its head once, or does to the logits
                what no head can stand for.
        """
        self._check(kwargs)
        if not callable(objective):
            raise TypeError(f"head_of: objective must be a function of the logits; got {describe(objective)}")

        def whole(*args: Any, **kwargs: Any) -> Any:
            hidden, output, after = self._capture(forward, args, kwargs)
            if with_output:
                return self._apply(lambda logits: _tensors(objective(logits, output)), hidden, after)
            if beside := [name for name, value in _named(output).items() if name.endswith("loss") and isinstance(value, Tensor)]:
                raise ValueError(
                    f"head_of: {self._name} returns {beside[0]!r}, which would be left out: "
                    "take it in the objective, lambda logits, output: ..., with_output=True"
                )
            return self._apply(lambda logits: _tensors(objective(logits)), hidden, after)

        forward = self.inner.forward
        with _forward_replaced(self.model, whole):
            return self.model(*args, **kwargs)

    def hidden_states(self, *args: Any, **kwargs: Any) -> Float[Tensor, "*rows d"]:
        """What the model gives its head, for models that are not wrapped; arguments as the model takes them, without labels."""
        self._check(kwargs)
        self._check_alone("hidden_states")
        forward = self.inner.forward

        def body(*args: Any, **kwargs: Any) -> Tensor:
            hidden, _, self._afterwards = self._capture(forward, args, kwargs)
            return hidden

        with _forward_replaced(self.model, body):
            return self.model(*args, **kwargs)

    def __call__(self, hidden: Float[Tensor, "*rows d"]) -> LinearLogits:
        """The logits of hidden states, for models that are not wrapped; `hidden_states` is to be called before, once."""
        self._check_alone("the head by itself")
        if self._afterwards is None:
            raise ValueError("head_of: call hidden_states once before: what the model does to its logits is read off there")
        return self._apply(lambda logits: logits, hidden, self._afterwards)

    @property
    def _name(self) -> str:
        return type(self.inner).__name__

    def _check(self, kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling():
            raise RuntimeError(
                "head_of: a head cannot be taken apart while compiling: compile the model's body, and not what calls the head"
            )
        if kwargs.get("labels") is not None:
            raise ValueError("head_of: labels would make the model compute a loss of its own; give them to the objective")

    def _check_alone(self, what: str) -> None:
        if why := wrapper(self.model):
            raise ValueError(f"head_of: {what} cannot be had outside the forward pass of a model under {why}: use loss")

    def _capture(self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Any, Afterwards]:
        """The hidden states, the model's output and what it did to the logits, by the model's own forward pass without its head."""
        stand_in, recorded = _InPlace(self.module, self._name), torch.is_grad_enabled()
        with _module_replaced(self.inner, self.module, stand_in):
            output = forward(*args, **kwargs)
        if len(stand_in.seen) != 1:
            times = f"{len(stand_in.seen)} times" if stand_in.seen else "not at all"
            raise ValueError(f"head_of: {self._name} must call its head once in a forward pass; it was called {times}")
        if recorded and not stand_in.recorded:
            raise ValueError(f"head_of: {self._name} calls its head where gradients are off, as inside a re-entrant checkpoint")
        logits = [value for value in _values(output) if isinstance(value, StandIn)]
        if len(logits) != 1:
            raise ValueError(f"head_of: {self._name}'s output must have its logits in one place; they are in {len(logits)}")
        return stand_in.seen[0], output, logits[0].afterwards

    def _apply(self, objective: Callable[[LinearLogits], Any], hidden: Tensor, after: Afterwards) -> Any:
        """The objective, inside the head's own forward."""
        within = linear(self.module)

        def inside(hidden: Tensor) -> Any:
            if in_pieces(within.weight):
                if not _is_dtensor(hidden):  # which tensor parallelism makes of it: all its ranks hold the same rows
                    raise ValueError(f"head_of: the weight of {self._name}'s head stays in pieces in its own forward pass")
                if after.shift is not None or after.classes is not None:
                    raise ValueError(
                        f"head_of: {self._name} adds to its logits, or cuts them, after a head under tensor parallelism, "
                        "whose classes are split"
                    )
            weight, bias, t, softcap = after.of_head(within.weight, within.bias)
            logits = LinearLogits(
                hidden, weight, bias, temperature=t * self.temperature, softcap=softcap, schedule=self.schedule, memory=self.memory
            )
            return objective(logits)

        with _forward_replaced(self.module, inside), without_layouts(self.module):
            return self.module(hidden)

    def __repr__(self) -> str:
        return f"Head({self._name}, {in_words(self.module)})"


def _within_it(model: nn.Module, head: nn.Module) -> str:
    """What to name in place of a row of layers, one of which is a linear map."""
    maps = [name for name, layer in head.named_modules() if name and type(layer) is nn.Linear]
    if len(maps) != 1 or not isinstance(head, nn.Sequential):
        return ""
    path = next(name for name, layer in model.named_modules() if layer is head)
    return f": name the one within it, head='{path}.{maps[0]}'"


class _InPlace(nn.Module):
    """Stands in the head's place: keeps what it is given and returns a stand-in for the logits. Has the head's attributes."""

    def __init__(self, head: nn.Module, model: str) -> None:
        super().__init__()
        self.__dict__["_head"], self.model = head, model  # not as a submodule: it is found in the tree once, where it belongs
        self.seen: list[Tensor] = []
        self.recorded = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_head"], name)

    def forward(self, input: Tensor) -> Tensor:
        self.seen.append(input)
        self.recorded = torch.is_grad_enabled()
        classes = linear(self.__dict__["_head"]).out_features
        zero = torch.zeros((), dtype=input.dtype, device=input.device) if _is_dtensor(input) else input.new_zeros(())
        return StandIn(zero, (*input.shape[:-1], classes), Afterwards(), self.model)


@contextmanager
def _forward_replaced(outermost: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """`outermost(...)` runs every wrapper and hook around another innermost forward, and nothing that was compiled of the old one.

    A wrapper that calls something else than what is known to be inside it is found out.
    """
    called = False

    def seen(*args: Any, **kwargs: Any) -> Any:
        nonlocal called
        called = True
        return forward(*args, **kwargs)

    with ExitStack() as stack:
        for module in layers(outermost):
            own = module.__dict__
            changed: dict[str, Any] = {"_compiled_call_impl": None}
            if is_compiled(module):
                changed["forward"] = module._orig_mod
            elif module is innermost(outermost):
                changed["forward"] = seen
            for name, value in changed.items():
                if name in own:
                    stack.callback(own.__setitem__, name, own[name])
                else:
                    stack.callback(own.pop, name, None)
                own[name] = value
        yield
        if not called:
            raise ValueError(f"head_of: {type(outermost).__name__} does not call the {type(innermost(outermost)).__name__} within it")


@contextmanager
def _module_replaced(model: nn.Module, old: nn.Module, new: nn.Module) -> Iterator[None]:
    """Another module wherever a model holds this one."""
    at = places(model, old)
    for parent, name in at:
        parent._modules[name] = new
    try:
        yield
    finally:
        for parent, name in at:
            parent._modules[name] = old


def _values(output: Any) -> list[Any]:
    """What a model returns, one by one: a tensor, a tuple, or what has names."""
    return list(_named(output).values()) or (list(output) if isinstance(output, (tuple, list)) else [output])


def _named(output: Any) -> dict[str, Any]:
    """What a model returns by name: a dictionary as Hugging Face's outputs are, a named tuple, a dataclass; else nothing."""
    if isinstance(output, dict):
        return dict(output)
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return dict(zip(output._fields, output, strict=True))
    return {field.name: getattr(output, field.name) for field in fields(output)} if is_dataclass(output) else {}


def _tensors(found: Any) -> Any:
    """What an objective returns: tensors that outlive the forward pass, in which alone a sharded head is whole.

    Views get memory of their own: wrappers hook on to outputs, and a view may lose its hook.
    """
    if isinstance(found, Tensor):
        return found.clone() if found._base is not None else found
    if isinstance(found, (tuple, list)):
        each = [_tensors(value) for value in found]
        return type(found)(*each) if hasattr(found, "_fields") else type(found)(each)
    if isinstance(found, dict):
        return {name: _tensors(value) for name, value in found.items()}
    if found is None:
        return None
    raise TypeError(f"head_of: the objective must return tensors; got {describe(found)}")
