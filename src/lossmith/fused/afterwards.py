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

    def __new__(cls, base: Tensor, shape: tuple[int, ...], afterwards: Afterwards, model: str) -> StandIn:
        self = base.expand(shape).as_subclass(cls)
        self.base, self.afterwards, self.model = base, afterwards, model
        return self

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            name = func.__name__
            if name in _ASKS:
                return func(*args, **kwargs)
            found = next((a for a in args if isinstance(a, StandIn)), None)
            if found is None:  # within a list, as torch.cat has it, or as a keyword
                raise UnknownAfterwards(f"head_of: the model applies {name} to its logits, {_WHAT_A_HEAD_IS} cannot stand for")
            if name in _CASTS:
                plain = [a.base if isinstance(a, StandIn) else a for a in args]
                return found._next(base=func(*plain, **{k: v for k, v in kwargs.items() if k != "memory_format"}))
            after = _read(name, found, args, kwargs)
            if after is None:
                raise UnknownAfterwards(
                    f"head_of: {found.model} applies {name}({', '.join(_short(a) for a in args)}) to its logits, "
                    f"{_WHAT_A_HEAD_IS} cannot stand for"
                )
            return found._next(afterwards=after)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"StandIn({describe(self)}, {self.afterwards})"

    def _next(self, *, base: Tensor | None = None, afterwards: Afterwards | None = None) -> StandIn:
        after = self.afterwards if afterwards is None else afterwards
        base = self.base if base is None else base
        shape = tuple(Tensor.size(self))
        return StandIn(base, shape if after.classes is None else (*shape[:-1], after.classes), after, self.model)


_ASKS = {"__get__", "__len__", "dim", "element_size", "get_device", "is_contiguous", "is_floating_point", "ndimension", "numel", "size"}
_CASTS = {"float", "double", "half", "bfloat16", "to", "type", "type_as", "contiguous", "cpu", "cuda"}
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
        if other.numel() == classes and other.shape[-1:] == (classes,):
            return after.plus(other.reshape(-1))
    return None


def _is_number(value: object) -> bool:
    """A number or a 0-d tensor, which may be learnt."""
    if isinstance(value, Tensor):
        return not isinstance(value, StandIn) and value.ndim == 0 and value.is_floating_point()
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value != 0


def _cut(after: Afterwards, index: Any, shape: torch.Size) -> Afterwards | None:
    """logits[..., :n]: the first classes alone, as where a vocabulary is padded; logits[:] and the like change nothing."""
    index = index if isinstance(index, tuple) else (index,)
    everything = slice(None)
    *rows, last = index
    full = all(i is Ellipsis or i == everything for i in rows)
    if not full or not isinstance(last, slice) or (Ellipsis not in index and len(index) != len(shape)):
        return after if full and (last is Ellipsis or last == everything) else None
    start, stop, step = last.indices(shape[-1])
    if start or step != 1:
        return None
    return after if stop == shape[-1] else after.cut(stop)
