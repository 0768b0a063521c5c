"""How lossmith complains: one line that names the argument, what came and what was wanted.

Shapes, dtypes and plain numbers are always checked. Checks of values would synchronise a GPU, so on other devices than the CPU
they run only under :func:`validate`.
"""

import difflib
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

_validating = False


class validate:
    """Switch the checks of values on or off, for good or for a ``with`` block.

    Off (the default), only shapes, dtypes, plain numbers and, on the CPU, class indices are checked. On, every call also checks
    that probabilities are probabilities, weights are not negative and tensor hyper-parameters lie in their range, at the price of a
    synchronisation with the device a call.

    Example:
        >>> import torch, lossmith
        >>> with lossmith.validate(True):
        ...     lossmith.cross_entropy(torch.zeros(1, 2), torch.tensor([[0.9, 0.9]]))
        Traceback (most recent call last):
        ...
        ValueError: cross_entropy: target, as class probabilities, must be >= 0 and sum to 1 over the classes; got a row that sums to 1.8
    """

    def __init__(self, on: bool = True) -> None:
        global _validating
        self._before, _validating = _validating, bool(on)

    def __enter__(self) -> "validate":
        return self

    def __exit__(self, *_: object) -> None:
        global _validating
        _validating = self._before


def validating() -> bool:
    return _validating


def describe(value: object) -> str:
    """What came, in a few words: ``float32 (4, 10)`` for a tensor, the repr otherwise."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    text = " ".join(repr(value).split())  # an array's spans lines
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


class UnknownName(KeyError):
    """Nothing has that name; the message is a sentence, which a plain KeyError would quote."""

    def __str__(self) -> str:
        return str(self.args[0])


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'weight'?`` when some known name is close, else nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def holds(condition: Callable[[], Tensor], on: Tensor, *, always_on_cpu: bool = False) -> bool:
    """Whether a condition on values holds, where it may be asked at all; True where it may not.

    It may be asked under :func:`validate`, or on the CPU when it is cheap (``always_on_cpu``); never while compiling, and not of a
    tensor without readable values (under ``vmap``, fake tensors).
    """
    return not (_validating or (always_on_cpu and on.device.type == "cpu")) or _asked(condition) is not False


def is_seen(condition: Callable[[], Tensor | bool], on: Tensor) -> bool:
    """Whether a condition on values can be seen to hold at no more than the price of computing it: on the CPU, not while tracing.

    Other kinds of tensors are not asked: of one that is spread over ranks each would see its own part, and go another way than the rest.
    """
    return not tracing() and type(on) is Tensor and on.device.type == "cpu" and _asked(condition) is True


def tracing() -> bool:
    """Whether what runs is written down, to be run on other values and sizes: by Dynamo, by export or by ``torch.jit.trace``."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def _asked(condition: Callable[[], Tensor | bool]) -> bool | None:
    """The answer; None where there are no values to ask."""
    if torch.compiler.is_compiling():
        return None
    try:
        return bool(condition())
    except RuntimeError:  # data-dependent control flow under vmap or on a fake tensor
        return None
