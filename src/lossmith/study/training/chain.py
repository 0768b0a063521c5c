"""Linear maps and ReLUs in a row, trained without autograd, to the very bits that autograd and `torch.optim.AdamW` give.

A training step of a small network is mostly overhead: graphs built and thrown away, hooks looked for, lists of parameters sorted. A
`Chain` calls the same kernels on the same shapes in the same order, into buffers that it keeps, and nothing else. The matrix products stay
one a model: batched over models they run no faster (one already fills the processor) and their operands leave the cache.
"""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lossmith.study.tuning.configuration import WEIGHT_DECAY

BETAS, EPSILON = (0.9, 0.999), 1e-8
"""The defaults of `torch.optim.AdamW`, which every trial is optimised with."""

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Layer(NamedTuple):
    """A linear map, and whether a ReLU follows."""

    weight: Tensor
    bias: Tensor
    relu: bool


def layers_of(model: nn.Module, shape: Sequence[int]) -> list[Layer] | None:
    """The layers of a model that can be a chain on features of this shape (of one row), else None.

    It can when it is a `Sequential` (of such) of Flatten, Linear and ReLU, these very classes, that ends in vectors; when its weights are
    float32, on the CPU, all trained and each used once; and when nothing hooks into it.
    """
    layers: list[Layer] = []
    flat, width = len(shape) == 1, math.prod(shape)
    for module in _pieces(model):
        if "forward" in vars(module) or any(getattr(module, hooks) for hooks in HOOKS):
            return None
        if type(module) is nn.Linear and flat and module.in_features == width and module.bias is not None:
            layers.append(Layer(module.weight.detach(), module.bias.detach(), relu=False))
            width = module.out_features
        elif type(module) is nn.ReLU and layers:
            layers[-1] = layers[-1]._replace(relu=True)
        elif type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
            flat = True
        elif type(module) is not nn.Sequential:
            return None
    parameters = list(model.parameters())
    plain = all(type(p) is nn.Parameter and p.requires_grad and p.is_contiguous() for p in parameters)
    usual = all(p.dtype == torch.float32 and p.device.type == "cpu" for p in parameters)
    return layers if layers and plain and usual and len(parameters) == 2 * len(layers) else None


def _pieces(model: nn.Module) -> Iterator[nn.Module]:
    """A model and, where it is a Sequential, its parts in their order; a part used twice comes twice."""
    yield model
    if type(model) is nn.Sequential:
        for part in model:
            yield from _pieces(part)


class Scratch:
    """Buffers for what is needed within one step only; chains that step in turn share them."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def buffer(self, purpose: str, *shape: int) -> Tensor:
        if (purpose, shape) not in self._buffers:
            self._buffers[purpose, shape] = torch.empty(shape, dtype=torch.float32)
        return self._buffers[purpose, shape]


class _Rows(NamedTuple):
    """What passes between the layers for a batch of some number of rows: each layer's output, and the gradient in it."""

    outputs: list[Tensor]
    gradients: list[Tensor]


class Chain:
    """The training of one model: `forward` gives logits, `step` takes their gradient and moves the weights, those of the model itself.

    Every buffer begins where an allocation does, since how a product is rounded may depend on how its operands are aligned.

    Args:
        layers: of the model.
        learning_rate: of AdamW.
        scratch: shared with the chains that step in turn with this one.
        weight_decay: of AdamW; the rest is as in every trial.
    """

    def __init__(self, layers: Sequence[Layer], learning_rate: float, scratch: Scratch, weight_decay: float = WEIGHT_DECAY) -> None:
        self._layers, self._rate, self._decay, self._scratch = layers, learning_rate, weight_decay, scratch
        self._transposed = [layer.weight.t() for layer in layers]
        self.parameters = [parameter for layer in layers for parameter in (layer.weight, layer.bias)]
        self._means = [torch.zeros_like(p) for p in self.parameters]
        self._squares = [torch.zeros_like(p) for p in self.parameters]
        self._time = torch.zeros((), dtype=torch.float32)
        self._times = [self._time] * len(self.parameters)
        self._slopes = [scratch.buffer(f"parameter {i}", *p.shape) for i, p in enumerate(self.parameters)]
        self._rows: dict[int, _Rows] = {}
        self._memory: list[Tensor] = []

    def _buffers(self, n: int) -> _Rows:
        """The buffers of a batch of n rows. A trial's batches differ by one row, and use the same memory."""
        if n not in self._rows:
            widths = [len(layer.bias) for layer in self._layers]
            if not self._memory or len(self._memory[0]) < n * widths[0]:
                self._memory = [torch.empty(n * width, dtype=torch.float32) for width in widths]
                self._rows.clear()
            outputs = [memory[: n * width].view(n, width) for memory, width in zip(self._memory, widths, strict=True)]
            self._rows[n] = _Rows(outputs, [self._scratch.buffer(f"output {i}", n, width) for i, width in enumerate(widths)])
        return self._rows[n]

    def forward(self, x: Tensor) -> Tensor:
        """The logits of a batch `(n, d)`, in a buffer that the next call reuses, as it does what `step` needs of the way there."""
        for layer, transposed, out in zip(self._layers, self._transposed, self._buffers(len(x)).outputs, strict=True):
            torch.addmm(layer.bias, x, transposed, out=out)
            if layer.relu:
                out.relu_()
            x = out
        return x

    def predict(self, x: Tensor) -> Tensor:
        """The logits of rows that are not trained on, of any number and shape."""
        x = x.flatten(1)
        for layer, transposed in zip(self._layers, self._transposed, strict=True):
            x = torch.addmm(layer.bias, x, transposed)
            if layer.relu:
                x.relu_()
        return x

    def step(self, x: Tensor, gradient: Tensor) -> None:
        """One step of AdamW on the loss that has this gradient in the logits of the latest `forward`, which was of `x`."""
        outputs, gradients = self._buffers(len(x))
        back = gradients[-1].copy_(gradient)
        for i in range(len(self._layers) - 1, -1, -1):
            layer, enters = self._layers[i], outputs[i - 1] if i else x
            if layer.relu:
                torch.ops.aten.threshold_backward.grad_input(back, outputs[i], 0, grad_input=back)
            torch.mm(back.t(), enters, out=self._slopes[2 * i])
            torch.sum(back, 0, out=self._slopes[2 * i + 1])
            if i:
                back = torch.mm(back, layer.weight, out=gradients[i - 1])
        self._time += 1
        torch._fused_adamw_(
            self.parameters, self._slopes, self._means, self._squares, [], self._times, lr=self._rate, beta1=BETAS[0], beta2=BETAS[1],
            weight_decay=self._decay, eps=EPSILON, amsgrad=False, maximize=False, grad_scale=None, found_inf=None,
        )  # fmt: skip


def bytes_of(layers: Sequence[Layer], batch_size: int) -> int:
    """The memory a chain holds on to: its weights, AdamW's two means of each, and the outputs of a batch."""
    weights = sum(layer.weight.numel() + layer.bias.numel() for layer in layers)
    return 4 * (3 * weights + batch_size * sum(len(layer.bias) for layer in layers))


def same_bits(layers: Sequence[Layer], n: int) -> bool:
    """Whether, on this machine and with this torch, a chain of such layers on n rows gives the weights that autograd and AdamW give.

    Tried on made-up weights and rows. Which kernel multiplies depends on the shapes, so each combination is tried once.
    """
    return _same_bits(tuple((*layer.weight.shape, layer.relu) for layer in layers), n)


@lru_cache(maxsize=1024)
def _same_bits(shapes: tuple[tuple[int, int, bool], ...], n: int) -> bool:
    draw = torch.Generator().manual_seed(n)
    model = nn.Sequential()
    for outputs, inputs, relu in shapes:
        model.append(linear := nn.utils.skip_init(nn.Linear, inputs, outputs))
        for parameter in linear.parameters():
            nn.init.normal_(parameter, std=1 / math.sqrt(inputs), generator=draw)
        if relu:
            model.append(nn.ReLU())
    layers = [
        Layer(linear.weight.detach().clone(), linear.bias.detach().clone(), relu)
        for linear, (*_, relu) in zip((part for part in model if isinstance(part, nn.Linear)), shapes, strict=True)
    ]
    chain = Chain(layers, 0.01, Scratch())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=WEIGHT_DECAY, fused=True)
    for _ in range(2):
        x, gradient = torch.randn(n, shapes[0][1], generator=draw), torch.randn(n, shapes[-1][0], generator=draw)
        wanted = model(x)
        if not torch.equal(chain.forward(x), wanted):
            return False
        optimizer.zero_grad()
        wanted.backward(gradient)
        optimizer.step()
        chain.step(x, gradient)
    return all(torch.equal(p, q) for p, q in zip(model.parameters(), chain.parameters, strict=True))
