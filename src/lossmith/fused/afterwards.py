"""What a model does to the logits after its head, read off the model itself: a stand-in takes the logits' place and writes it down.

The stand-in has the logits' shape and no memory. Multiplying, dividing, adding a number a class, one tanh, a cut of the last classes and
changes of dtype are what models do, and become the temperature, bias and softcap of a :class:`~lossmith.fused.LinearLogits`. Anything else
is an error at the line of the model that does it: nothing is known by a model's name, and nothing is guessed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lossmith._checks import describe
from lossmith._typing import Hyper


@dataclass(frozen=True)
class Afterwards:
    """z = outer * tanh(scale * u + shift), or scale * u + shift while `outer` is None, of the head's u, cut to the first classes."""

    scale: Hyper = 1.0
    shift: Tensor | None = None
    outer: Hyper | None = None
    classes: int | None = None

    def times(self, factor: Hyper) -> Afterwards:
        if self.outer is not None:
            return replace(self, outer=self.outer * factor)
        return replace(self, scale=self.scale * factor, shift=None if self.shift is None else self.shift * factor)

    def plus(self, shift: Tensor) -> Afterwards:
        return replace(self, shift=shift if self.shift is None else self.shift + shift)

    def cut(self, classes: int) -> Afterwards:
        return replace(self, classes=classes, shift=None if self.shift is None else self.shift[:classes])

    def of_head(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None, Hyper, Hyper | None]:
        """The weight, bias, temperature T and softcap s for which (s/T) tanh((h W' + b) / s) is this."""
        if self.classes is not None:
            weight, bias = weight[: self.classes], None if bias is None else bias[: self.classes]
        if self.shift is not None:
            added = self.shift.to(weight.device) / self.scale
            bias = added if bias is None else bias + added
        if self.outer is None:
            return weight, bias, _one_over(self.scale), None
        return weight, bias, _one_over(self.scale * self.outer), _one_over(self.scale)


def _one_over(value: Hyper) -> Hyper:
    """1/value; exactly 1 where a number's rounding alone stands between: cap * (1 / cap)."""
    found = 1 / value
    return 1.0 if not isinstance(found, Tensor) and abs(found - 1) < 1e-12 else found


class UnknownAfterwards(ValueError):  # no TypeError: torch turns those of operators into NotImplemented
    """A model does to its logits what no head here can stand for."""


class StandIn(Tensor):
    """A tensor of the logits' shape, dtype and device that holds one 0, and writes down what is done to it."""

    afterwards: Afterwards
    base: Tensor
    model: str
    shared: bool
    """Whether others look at the same logits, as a cut does."""

    def __new__(cls, base: Tensor, shape: tuple[int, ...], afterwards: Afterwards, model: str) -> StandIn:
        self = base.expand(shape).as_subclass(cls)
        self.base, self.afterwards, self.model = base, afterwards, model
        self.shared = False
        return self

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs, name = kwargs or {}, func.__name__
        with torch._C.DisableTorchFunctionSubclass():
            if name in _ASKS or (name == "__get__" and func.__self__.__name__ in _PROPERTIES):
                return func(*args, **kwargs)
            found = next((a for a in args if isinstance(a, StandIn)), None)
            if found is None:  # within a list, as torch.cat has it, or as a keyword
                raise UnknownAfterwards(f"head_of: the model applies {name} to its logits, {_WHAT_A_HEAD_IS} cannot stand for")
            done = found._cast(func, args, kwargs) if name in _CASTS else found._done(name, args, kwargs)
            if done is None:
                shown = func.__self__.__name__ if name == "__get__" else f"{name}({', '.join(_short(a) for a in args)})"
                raise UnknownAfterwards(f"head_of: {found.model} applies {shown} to its logits, {_WHAT_A_HEAD_IS} cannot stand for")
            return done

    def _cast(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StandIn | None:
        """The same logits where nothing changes, as torch has it, else a copy."""
        plain = [a.base if isinstance(a, StandIn) else a for a in args]
        base = func(*plain, **{k: v for k, v in kwargs.items() if k != "memory_format"})
        if base is self.base:
            return self
        return StandIn(base, tuple(Tensor.size(self)), self.afterwards, self.model) if base.is_floating_point() else None

    def _done(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StandIn | None:
        """The logits after an operation; None where it is none of what is known."""
        after = _read(name, self, args, kwargs)
        if after is None or after is self.afterwards:
            return None if after is None else self
        if name.endswith("_") and not name.endswith("__"):
            if self.shared or args[0] is not self:  # what is written into a view would have to show elsewhere too
                return None
            self.afterwards = after
            return self
        shape = tuple(Tensor.size(self))
        out = StandIn(self.base, shape if after.classes is None else (*shape[:-1], after.classes), after, self.model)
        self.shared = out.shared = self.shared or name == "__getitem__"
        return out

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"StandIn({describe(self)}, {self.afterwards})"


_ASKS = {"__len__", "dim", "element_size", "get_device", "is_contiguous", "is_floating_point", "ndimension", "numel", "size"}
_PROPERTIES = {
    "device",
    "dtype",
    "is_cpu",
    "is_cuda",
    "is_leaf",
    "is_meta",
    "itemsize",
    "layout",
    "nbytes",
    "ndim",
    "requires_grad",
    "shape",
}
_CASTS = {"float", "double", "half", "bfloat16", "to", "type", "type_as", "contiguous", "clone", "cpu", "cuda"}
_WHAT_A_HEAD_IS = "which a linear head with temperature, bias and softcap"
_TIMES = {"mul", "mul_", "multiply", "multiply_"}
_OVER = {"div", "div_", "divide", "divide_", "true_divide", "true_divide_"}
_PLUS = {"add", "add_"}
_TANH = {"tanh", "tanh_"}


def _short(value: object) -> str:
    return "logits" if isinstance(value, StandIn) else describe(value) if isinstance(value, Tensor) else repr(value)


def _read(name: str, logits: StandIn, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Afterwards | None:
    """What the logits have gone through once this is done too; None where it is none of what is known."""
    after = logits.afterwards
    if kwargs:
        return None
    if name in _TANH:
        return replace(after, outer=1.0) if after.outer is None else None
    if len(args) != 2:
        return None
    other = args[1] if args[0] is logits else args[0]
    if name == "__getitem__":
        return _cut(after, other, Tensor.size(logits))
    if name in _TIMES and _is_number(other):
        return after.times(other)
    if name in _OVER and args[0] is logits and _is_number(other):
        return after.times(1 / other)
    if name in _PLUS and after.outer is None and isinstance(other, Tensor) and not isinstance(other, StandIn):
        classes = Tensor.size(logits)[-1]
        if other.numel() == classes and other.shape[-1:] == (classes,) and other.ndim <= Tensor.dim(logits):
            return after.plus(other.reshape(-1))
    return None


def _is_number(value: object) -> bool:
    """A number above 0 or a 0-d tensor, which may be learnt."""
    if isinstance(value, Tensor):
        return not isinstance(value, StandIn) and value.ndim == 0 and value.is_floating_point()
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf")


def _cut(after: Afterwards, index: Any, shape: torch.Size) -> Afterwards | None:
    """logits[..., :n]: the first classes alone, as where a vocabulary is padded; logits[:] and the like change nothing."""
    index = index if isinstance(index, tuple) else (index,)
    whole = [i is Ellipsis or (isinstance(i, slice) and i == slice(None)) for i in index]
    if all(whole):
        return after
    to_the_last = len(index) == len(shape) or any(i is Ellipsis for i in index[:-1])
    if not all(whole[:-1]) or not isinstance(index[-1], slice) or not to_the_last:
        return None
    start, stop, step = index[-1].indices(shape[-1])
    if start or step != 1 or not stop:
        return None
    return after if stop == shape[-1] else after.cut(stop)
