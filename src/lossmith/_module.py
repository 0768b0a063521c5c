"""Any objective as a :class:`torch.nn.Module`, for those who want one.

A function is the objective. A module of its own exists only where there is state; this one wraps any function with its
hyper-parameters and options, prints itself, pickles, and takes its tensors along to a device.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from lossmith._checks import describe
from lossmith.card import get


class Objective(nn.Module):
    """An objective with its hyper-parameters and options fixed; made by :func:`lossmith.objective`."""

    def __init__(self, function: Callable[..., Tensor], **fixed: Any) -> None:
        super().__init__()
        self.function = function
        self._plain: dict[str, Any] = {}
        self._tensors: list[str] = []
        for name, value in fixed.items():
            if isinstance(value, Tensor):
                self._tensors.append(name)
                held = f"fixed_{name}"  # hyper-parameters may be called `training` or `forward`
                self.register_parameter(held, value) if isinstance(value, nn.Parameter) else self.register_buffer(held, value)
            else:
                self._plain[name] = value

    @property
    def fixed(self) -> dict[str, Any]:
        """The hyper-parameters and options that are set."""
        return {**self._plain, **{name: getattr(self, f"fixed_{name}") for name in self._tensors}}

    def forward(self, input: Any, target: Tensor, **options: Any) -> Tensor:
        """The objective of a tensor, or of a source of logits where it takes one.

        `options` given here (a batch's `sample_weight`, say) win over the fixed ones.
        """
        return self.function(input, target, **{**self.fixed, **options})

    def extra_repr(self) -> str:
        def brief(value: Any) -> str:
            if not isinstance(value, Tensor):
                return repr(value)
            return f"tensor{tuple(value.shape)}" if value.ndim else repr(value.detach())  # a parameter's own repr takes two lines

        return ", ".join([self.function.__name__, *(f"{name}={brief(value)}" for name, value in self.fixed.items())])


def objective(name_or_function: str | Callable[..., Any], **hyper: Any) -> nn.Module:
    """An objective as a module, by name, alias or function, with its hyper-parameters and options fixed.

    Args:
        name_or_function: a registered name or alias (`lossmith find` lists them), or any function `(input, target, **hyper)`.
        **hyper: hyper-parameters and options. A tensor becomes a buffer, an `nn.Parameter` a parameter, so that a
            hyper-parameter can be learnt.

    Raises:
        lossmith.card.UnknownObjective: no objective has that name; the nearest is offered.
        ValueError: a hyper-parameter is outside its range.

    Example:
        >>> import torch, lossmith
        >>> loss = lossmith.objective("gce", q=0.5)
        >>> loss
        Objective(generalized_cross_entropy, q=0.5)
        >>> loss(torch.zeros(2, 3), torch.tensor([0, 2]))
        tensor(0.8453)
    """
    function = name_or_function
    if isinstance(name_or_function, str):
        card = get(name_or_function)
        card.check_names(hyper, card.options)
        card.check(hyper)
        function = card.function
    if isinstance(function, type) and issubclass(function, nn.Module):
        return function(**hyper)
    if not callable(function):
        raise TypeError(f"objective: name_or_function must be a name or a function (input, target); got {describe(function)}")
    return Objective(function, **hyper)
