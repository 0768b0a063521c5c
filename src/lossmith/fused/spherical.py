"""A linear head whose value, gradient and update cost the same whatever the number of classes, for objectives of the spherical family.

Vincent, de Brébisson & Bouthillier 2015 (arXiv:1412.7091). The head is kept in factors, and with it what the objective sees of it:

.. math::
    W = V U + 1 \\omega^\\top, \\qquad m = \\tfrac1c W^\\top 1, \\qquad P = (W - 1 m^\\top)^\\top (W - 1 m^\\top)

where they keep the sum and :math:`Q = W^\\top W`, which say the same and lose digits where m is large. For hidden states H, one a row,
the gradient of any spherical loss by W is a sum of three parts, by the label's lead, the mean and the variance of the logits:

.. math:: \\frac{\\partial \\ell}{\\partial W} = E^\\top \\mathrm{diag}(\\ell_{lead}) H + 1 k^\\top
    + (W - 1 m^\\top) K, \\qquad K = \\tfrac2c H^\\top \\mathrm{diag}(\\ell_{variance}) H, \\qquad
    k = \\tfrac1c H^\\top (\\ell_{mean} - \\ell_{lead})

The first changes the labels' rows, hence as many rows of V; the second :math:`\\omega`; the third is a product from the right, hence U.
A step of d^2 an example is so the step that gradient descent takes on all of W, but for rounding.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from lossmith._checks import describe
from lossmith._moments import Moments
from lossmith._typing import Bool, Float, Integer
from lossmith.fused.functions import transformed

BLOCK = 2**16
"""Rows of V that are worked on at a time where all of them are."""
SPREAD = 10.0
"""||U|| ||U^-1|| / d, 1 where all singular values are alike, beyond which a step stabilises at once."""
_SMALL = ("mix", "unmix", "shared", "mean", "scatter")
"""Buffers of d x d at most. They are kept in float64, as they are added to at every step, and cost next to nothing beside V."""


class SphericalHead(nn.Module):
    r"""A linear head for objectives of the spherical family that learns by itself, at a cost without the number of classes in it.

    .. math:: z = W h + b, \qquad W \leftarrow W - \eta \, \partial L / \partial W \text{ exactly}, \qquad O(d^2) \text{ an example}

    ``lossmith.zscore_loss(head(hidden), target)`` is the loss of ``hidden @ W.T``; its backward pass gives the gradient of the hidden
    states and leaves the head's own with the head, and ``head.step(lr)`` then takes the step of plain gradient descent. No logit and no
    gradient of W exists at any time: W is kept in factors (arXiv:1412.7091), of which a step changes d x d numbers and the labels' rows.

    An optimizer must not know of the head: it has buffers, no parameters. Momentum and adaptive steps would need the gradient of W;
    for those take :class:`LinearLogits`. In `eval()` nothing is kept for a step, and the gradient of the hidden states is the same.

    Args:
        width: how wide hidden states are.
        classes: how many classes there are.
        bias: whether there is a b, learnt as W is.
        stabilize_every: after how many steps the singular values of U outside [1/2, 2] are moved into V: c d operations each. It is
            done at once where U is about to become singular.
        dtype: of V, float32 or float64; the small factors are float64.
        device: where everything is.

    Raises:
        TypeError, ValueError: an argument has the wrong dtype, shape or range.

    Example:
        >>> import torch, lossmith
        >>> from lossmith.fused import SphericalHead
        >>> hidden, target = torch.randn(6, 8), torch.randint(50, (6,))
        >>> head = SphericalHead(8, 50)
        >>> dense = head.dense_weight().requires_grad_()
        >>> lossmith.zscore_loss(head(hidden), target).backward()
        >>> head.step(lr=1.0)
        >>> lossmith.zscore_loss(hidden @ dense.T, target).backward()
        >>> torch.allclose(head.dense_weight(), dense - dense.grad, atol=1e-5)
        True
    """

    rows: Tensor
    mix: Tensor
    unmix: Tensor
    shared: Tensor
    mean: Tensor
    scatter: Tensor

    def __init__(
        self,
        width: int,
        classes: int,
        bias: bool = False,
        *,
        stabilize_every: int = 100,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (("width", width, 1), ("classes", classes, 2), ("stabilize_every", stabilize_every, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"SphericalHead: {name} must be a whole number from {least}; got {describe(value)}")
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if dtype not in (torch.float32, torch.float64):
            raise TypeError(f"SphericalHead: dtype must be float32 or float64, for steps add up in it; got {dtype}")
        self.width, self.classes, self.bias, self.stabilize_every = width, classes, bias, stabilize_every
        d = width + bias
        self.register_buffer("rows", torch.empty(classes, d, dtype=dtype, device=device))
        for name in _SMALL:
            shape = (d,) if name in ("shared", "mean") else (d, d)
            self.register_buffer(name, torch.empty(shape, dtype=torch.float64, device=device))
        self.steps = self._version = 0
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []
        nn.init.uniform_(self.rows, -(width**-0.5), width**-0.5)  # as torch.nn.Linear
        self._reset()

    @torch.no_grad()
    def load_weight(self, weight: Float[Tensor, "c d"], bias: Float[Tensor, " c"] | None = None) -> None:
        """Take over the weight (and bias) of a head that exists, such as `torch.nn.Linear`'s."""
        if weight.shape != (self.classes, self.width):
            raise ValueError(f"SphericalHead: weight must have shape ({self.classes}, {self.width}); got {describe(weight)}")
        if (bias is not None) != self.bias or (bias is not None and bias.shape != (self.classes,)):
            wanted = f"have shape ({self.classes},)" if self.bias else "be None, as the head has none"
            raise ValueError(f"SphericalHead: bias must {wanted}; got {describe(bias)}")
        self.rows[:, : self.width] = weight
        if bias is not None:
            self.rows[:, self.width] = bias
        self._reset()

    def _reset(self) -> None:
        """W is in V alone."""
        eye = torch.eye(self.rows.shape[1], dtype=torch.float64, device=self.rows.device)
        self.mix, self.unmix, self.shared = eye, eye.clone(), torch.zeros_like(eye[0])
        self._pending.clear()
        self._version += 1
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Compute m and P anew from W, c d^2 operations: after V was changed from outside, or against rounding in a very long run."""
        self.mean = sum((block.sum(0) for block in self._blocks()), torch.zeros_like(self.shared)) / self.classes
        self.scatter = sum(((block - self.mean).mT @ (block - self.mean) for block in self._blocks()), torch.zeros_like(self.mix))

    def _blocks(self) -> Iterator[Tensor]:
        """The rows of W, a block at a time."""
        return (block.double() @ self.mix + self.shared for block in self.rows.split(BLOCK))

    def forward(self, hidden: Float[Tensor, "*rows d"]) -> "SphericalLogits":
        """The logits, as a source for objectives of the spherical family; none is computed."""
        return SphericalLogits(self, hidden)

    @torch.no_grad()
    def _dense(self) -> Tensor:
        return torch.cat([block.to(self.rows.dtype) for block in self._blocks()])

    def dense_weight(self) -> Float[Tensor, "c d"]:
        """W itself, c d^2 operations: for saving, or for predictions by ``hidden @ W.T``. Not connected to the head's learning."""
        return self._dense()[:, : self.width]

    def dense_bias(self) -> Float[Tensor, " c"] | None:
        """b itself, or None."""
        return self._dense()[:, self.width] if self.bias else None

    def target_moments(self, hidden: Tensor, label: Tensor, keep: Tensor) -> Moments:
        """The moments of rows `(n, d)`, from which a backward pass leads to the hidden states and to the next step."""
        if transformed():
            raise RuntimeError(
                "SphericalHead: no transform of torch.func, nor forward mode, leads through it; take LinearLogits with dense_weight()"
            )
        x = torch.where(keep.unsqueeze(1), hidden, 0).double()
        x = F.pad(x, (0, 1), value=1.0) if self.bias else x
        with torch.no_grad():
            label_row = self.rows.index_select(0, label).double() @ self.mix + (self.shared - self.mean)
        probe = self._probe(x.detach(), label) if self.training and torch.is_grad_enabled() else None
        seen = _Seen.apply(x, probe, label_row, self.mean, self.scatter / self.classes)
        lead, mean, variance = seen.to(torch.promote_types(hidden.dtype, self.rows.dtype)).unbind(1)
        return Moments(lead, mean, variance, lead.new_full((), self.classes))

    def _probe(self, x: Tensor, label: Tensor) -> Tensor:
        """Zeros to be added to the moments: what they accumulate, in `backward()` alone, is the head's gradient in short.

        The graph owns them, so that a loss that is thrown away leaves nothing behind.
        """
        if torch.compiler.is_compiling():
            raise RuntimeError(
                "SphericalHead: it keeps what it learns from outside of compiled code: compile what is before it, or use eval()"
            )
        probe = x.new_zeros(x.shape[0], 3, requires_grad=True)
        probe.register_post_accumulate_grad_hook(partial(self._record, x, label, self._version))
        return probe

    def _record(self, x: Tensor, label: Tensor, version: int, probe: Tensor) -> None:
        assert probe.grad is not None
        if version != self._version:
            raise RuntimeError("SphericalHead: this loss was computed before the last step; its gradient is that of another head")
        self._pending.append((x, label, probe.grad.detach()))
        probe.grad = None

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget what backward passes have left since the last step."""
        super().zero_grad(set_to_none)
        self._pending.clear()

    @torch.no_grad()
    def step(self, lr: float, *, weight_decay: float = 0.0) -> None:
        r"""The step of gradient descent on W (and b) from all backward passes since the last: :math:`W - \eta (\nabla + \lambda W)`.

        After no backward pass it does nothing. `weight_decay` is that of :class:`torch.optim.SGD`, the bias included.

        Raises:
            ValueError: `lr` or `weight_decay` is negative; or the gradient holds NaN or inf, and then nothing is changed.
            RuntimeError: there are several processes, each of which would step by its own examples.
        """
        for name, value in (("lr", lr), ("weight_decay", weight_decay)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
                raise ValueError(f"SphericalHead.step: {name} must be a number from 0; got {describe(value)}")
        if torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            raise RuntimeError("SphericalHead.step: it steps by this process's examples alone, and there are several processes")
        if not self._pending:
            return
        x, label, upstream = (torch.cat(pieces) for pieces in zip(*self._pending, strict=True))
        self._pending.clear()
        if not (upstream.isfinite().all() and x.isfinite().all()):
            raise ValueError("SphericalHead.step: the gradient holds NaN or inf; the head is left as it was")
        self._version += 1
        self.steps += 1
        on_lead, on_mean, on_variance = upstream.unbind(1)
        shift = lr / self.classes * ((on_mean - on_lead) @ x)
        self._turn(x, 2 * lr / self.classes * on_variance, 1 - lr * weight_decay, shift)
        if not self.mix.norm() * self.unmix.norm() <= SPREAD * self.mix.shape[0] or self.steps % self.stabilize_every == 0:
            self.stabilize()
        self._add(label, -lr * on_lead.unsqueeze(1) * x)

    def _turn(self, x: Tensor, share: Tensor, decay: float, shift: Tensor) -> None:
        """W <- W S + 1 (K m - shift)', with S = decay I - K and K = x' diag(share) x; the number of examples is the rank of K."""
        left = x.mT * share

        def times_s(matrix: Tensor) -> Tensor:
            return decay * matrix - (matrix @ left) @ x

        n, d = x.shape
        self.mix = times_s(self.mix)
        if n < d:  # Woodbury
            small = decay * torch.eye(n, dtype=x.dtype, device=x.device) - x @ left
            self.unmix = (self.unmix + left @ torch.linalg.solve_ex(small, x @ self.unmix)[0]) / decay if decay else self.unmix * torch.inf
        else:
            self.unmix = torch.linalg.solve_ex(times_s(torch.eye(d, dtype=x.dtype, device=x.device)), self.unmix)[0]
        self.shared = times_s(self.shared) + left @ (x @ self.mean) - shift
        self.mean = decay * self.mean - shift
        self.scatter = times_s(times_s(self.scatter).mT)

    def _add(self, label: Tensor, added: Tensor) -> None:
        """W_label += added, for every example; a class may be the label of several."""
        row = self.rows.index_select(0, label).double() @ self.mix + (self.shared - self.mean)
        slot = torch.searchsorted(label.sort().values, label)  # the same for examples of one class
        by_class = torch.zeros_like(added).index_add_(0, slot, added)
        cross, total = row.mT @ added, added.sum(0)
        self.scatter = self.scatter + cross + cross.mT + by_class.mT @ by_class - torch.outer(total, total) / self.classes
        self.mean = self.mean + total / self.classes
        self.rows.index_add_(0, label, (added @ self.unmix).to(self.rows.dtype))

    @torch.no_grad()
    def stabilize(self) -> None:
        """Move the singular values of U outside [1/2, 2] into V, where W stays what it is, and compute the inverse of U anew."""
        p, sigma, q = torch.linalg.svd(self.mix)
        astray = (sigma < 0.5) | (sigma > 2)
        if astray.any():
            axes, excess = p[:, astray].to(self.rows.dtype), (sigma[astray] - 1).to(self.rows.dtype)
            for block in self.rows.split(BLOCK):
                block.addmm_((block @ axes) * excess, axes.mT)
            sigma = torch.where(astray, 1, sigma)
            self.mix = p * sigma @ q
        self.unmix = q.mT / sigma @ p.mT

    def get_extra_state(self) -> dict[str, int]:
        """How many steps there were, of which every so many stabilise."""
        return {"steps": self.steps}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Go on from there; what is pending belongs to another head."""
        self.steps = state["steps"]
        self._pending.clear()
        self._version += 1

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SphericalHead":
        """To another device or dtype; the small factors stay in float64."""
        before = {name: getattr(self, name) for name in ("rows", *_SMALL)}
        super()._apply(fn, recurse)
        dtype = self.rows.dtype
        if dtype not in (torch.float32, torch.float64):
            for name, value in before.items():
                setattr(self, name, value)
            raise TypeError(f"SphericalHead: dtype must be float32 or float64, for steps add up in it; got {dtype}")
        for name in _SMALL:
            if getattr(self, name).dtype != torch.float64:
                setattr(self, name, before[name].to(self.rows.device))
        self._pending.clear()
        self._version += 1
        if dtype != before["rows"].dtype:
            self.refresh()
        return self

    def extra_repr(self) -> str:
        return f"{self.width}, {self.classes}, bias={self.bias}, stabilize_every={self.stabilize_every}"


class _Seen(Function):
    """`(n, 3)`: the label's lead, the mean and the variance of the logits, from what is known of the head.

    Once differentiable: a second derivative would also have to lead to the head, through what here are constants.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, probe: Tensor | None, label_row: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
        half = x @ covariance
        ctx.save_for_backward(label_row, mean, half)
        return torch.stack([(x * label_row).sum(1), x @ mean, (x * half).sum(1).clamp_min(0)], 1)  # a square, but for rounding

    @staticmethod
    def backward(ctx: Any, *upstreams: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "SphericalHead: it gives no second derivative; take LinearLogits with dense_weight() where create_graph=True"
            )
        label_row, mean, half = ctx.saved_tensors
        on_lead, on_mean, on_variance = upstreams[0].unsqueeze(2).unbind(1)
        dx = on_lead * label_row + on_mean * mean + 2 * on_variance * half if ctx.needs_input_grad[0] else None
        return dx, upstreams[0] if ctx.needs_input_grad[1] else None, None, None, None


class SphericalLogits:
    """Logits that a :class:`SphericalHead` would give, without the logits; made by calling the head.

    Takes the place of logits in objectives of the spherical family.

    Args:
        head: the head.
        hidden: hidden states `(*rows, d)`; a target has the shape of the rows.
    """

    def __init__(self, head: SphericalHead, hidden: Float[Tensor, "*rows d"]) -> None:
        if not isinstance(hidden, Tensor) or not hidden.is_floating_point():
            raise TypeError(f"SphericalHead: hidden must be a floating-point tensor; got {describe(hidden)}")
        if hidden.ndim == 0 or hidden.shape[-1] != head.width:
            raise ValueError(f"SphericalHead: hidden must have shape (*rows, {head.width}); got {describe(hidden)}")
        if hidden.device != head.rows.device:
            raise ValueError(f"SphericalHead: hidden must be on the head's device {head.rows.device}; it is on {hidden.device}")
        self.head, self.hidden = head, hidden

    @property
    def rows(self) -> torch.Size:
        """The shape of a target."""
        return self.hidden.shape[:-1]

    @property
    def classes(self) -> int:
        """How many classes the head has."""
        return self.head.classes

    def target_moments(self, target: Integer[Tensor, "*rows"], keep: Bool[Tensor, "*rows"]) -> Moments:
        """The moments of every kept row."""
        flat = self.hidden.reshape(self.rows.numel(), self.head.width)
        found = self.head.target_moments(flat, target.reshape(-1), keep.reshape(-1))
        return Moments(*(piece.reshape(self.rows) if piece.ndim else piece for piece in found))

    def __repr__(self) -> str:
        return f"SphericalLogits({describe(self.hidden)}, {self.head})"
