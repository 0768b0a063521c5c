"""Linear maps and ReLUs in a row, trained without autograd, to the very bits that autograd and `torch.optim.AdamW` give.

A training step of a small network is mostly overhead: graphs built and thrown away, hooks looked for, lists of parameters sorted. A
`Chain` calls the same kernels on the same shapes in the same order, into buffers that it keeps, and nothing else. Several models that read
the same rows are one chain: a layer's matrix products of all of them are one call, as long as what they work on stays in the cache.
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

ALIGNED = 16
"""Single-precision numbers in the 64 bytes at whose multiples torch's allocations begin."""

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


def _aligned(*shape: int) -> Tensor:
    """An empty tensor `(k, ...)` whose k items each begin where an allocation might: how a product is rounded may depend on that.

    Where this leaves gaps between the items, torch multiplies them one by one, else in one call.
    """
    k, *item = shape
    size = math.prod(item)
    stride = -(-size // ALIGNED) * ALIGNED
    return torch.empty(k * stride, dtype=torch.float32).view(k, stride)[:, :size].view(shape)


class Scratch:
    """Buffers for what is needed within one step only; chains that step in turn share them."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def buffer(self, purpose: str, *shape: int) -> Tensor:
        if (purpose, shape) not in self._buffers:
            self._buffers[purpose, shape] = _aligned(*shape)
        return self._buffers[purpose, shape]


class _Rows(NamedTuple):
    """What passes between the layers for a batch of some number of rows: each layer's outputs, and the gradient in them.

    Of the last ones, the logits, also model by model.
    """

    outputs: list[Tensor]
    gradients: list[Tensor]
    logits: tuple[Tensor, ...]
    slopes: tuple[Tensor, ...]


class Chain:
    """The training of k models on the same rows: `forward` gives their logits, `step` takes the gradients in them and moves the weights.

    The weights are copies; `hand_back` gives them to the models.

    Args:
        models: the layers of each, alike in shape.
        learning_rates: of AdamW, one a model.
        scratch: shared with the chains that step in turn with this one.
        weight_decays: of AdamW, one a model; the rest is as in every trial.
    """

    def __init__(
        self, models: Sequence[Sequence[Layer]], learning_rates: Sequence[float], scratch: Scratch, weight_decays: Sequence[float]
    ) -> None:
        self._models, self._rates, self._decays, self._scratch = list(models), list(learning_rates), list(weight_decays), scratch
        self._parameters = [_stacked(alike) for alike in zip(*map(_parameters, models), strict=True)]
        self._means = [torch.zeros_like(p) for p in self._parameters]
        self._squares = [torch.zeros_like(p) for p in self._parameters]
        self._time = torch.zeros((), dtype=torch.float32)
        self._arrange()

    def _arrange(self) -> None:
        """What follows from the tensors that are kept from step to step."""
        self._relus = [layer.relu for layer in self._models[0]]
        self._weights, biases = self._parameters[::2], self._parameters[1::2]
        self._widths = [bias.shape[1] for bias in biases]
        self._maps = [(bias.unsqueeze(1), weight.transpose(1, 2)) for weight, bias in zip(self._weights, biases, strict=True)]
        self._slopes = [self._scratch.buffer(f"parameter {i}", *p.shape) for i, p in enumerate(self._parameters)]
        states = (self._parameters, self._slopes, self._means, self._squares)
        self._states = [[[tensor[j] for tensor in state] for state in states] for j in range(len(self))]
        self._times = [self._time] * len(self._parameters)
        self._rows: dict[int, _Rows] = {}

    def __len__(self) -> int:
        return len(self._models)

    def keep(self, places: Sequence[int]) -> None:
        """Go on with the models in these places alone."""
        self._models = [self._models[j] for j in places]
        self._rates, self._decays = ([numbers[j] for j in places] for numbers in (self._rates, self._decays))
        self._parameters, self._means, self._squares = (
            [_stacked([tensor[j] for j in places]) for tensor in state] for state in (self._parameters, self._means, self._squares)
        )
        self._arrange()

    def hand_back(self) -> None:
        """Give the models the weights as they are."""
        for model, (parameters, *_) in zip(self._models, self._states, strict=True):
            for theirs, ours in zip(_parameters(model), parameters, strict=True):
                theirs.copy_(ours)

    def _buffers(self, n: int) -> _Rows:
        """The buffers of a batch of n rows. A trial's batches differ by one row."""
        if n not in self._rows:
            k, widths = len(self), self._widths
            outputs = [_aligned(k, n, width) for width in widths]
            gradients = [self._scratch.buffer(f"output {i}", k, n, width) for i, width in enumerate(widths)]
            self._rows[n] = _Rows(outputs, gradients, outputs[-1].unbind(), gradients[-1].unbind())
        return self._rows[n]

    def forward(self, x: Tensor) -> Sequence[Tensor]:
        """The logits `(n, c)` of each model for a batch `(n, d)`, in buffers that the next call reuses, as it does what `step` needs."""
        buffers = self._buffers(x.shape[0])
        self._forward(x, buffers.outputs)
        return buffers.logits

    def predict(self, x: Tensor) -> Tensor:
        """The logits `(k, n, c)` of rows that are not trained on, of any number and shape."""
        x = x.flatten(1)
        return self._forward(x, [_aligned(len(self), x.shape[0], width) for width in self._widths])

    def _forward(self, x: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        x = x.expand(len(self), *x.shape)
        for (bias, transposed), relu, out in zip(self._maps, self._relus, outputs, strict=True):
            _products(x, transposed, out, bias)
            if relu:
                out.relu_()
            x = out
        return x

    def step(self, x: Tensor, slopes: Sequence[Tensor]) -> None:
        """One step of AdamW on losses that have these k gradients `(n, c)` in the logits of the latest `forward`, which was of `x`."""
        outputs, gradients, _, of_logits = self._buffers(x.shape[0])
        torch._foreach_copy_(of_logits, list(slopes))
        back = gradients[-1]
        for i in range(len(self._weights) - 1, -1, -1):
            enters = outputs[i - 1] if i else x.expand(len(self), *x.shape)
            if self._relus[i]:
                torch.ops.aten.threshold_backward.grad_input(back, outputs[i], 0, grad_input=back)
            _products(back.transpose(1, 2), enters, self._slopes[2 * i])
            torch.sum(back, 1, out=self._slopes[2 * i + 1])
            if i:
                back = _products(back, self._weights[i], gradients[i - 1])
        self._time += 1
        for (parameters, gradient, means, squares), rate, decay in zip(self._states, self._rates, self._decays, strict=True):
            torch._fused_adamw_(
                parameters, gradient, means, squares, [], self._times, lr=rate, beta1=BETAS[0], beta2=BETAS[1],
                weight_decay=decay, eps=EPSILON, amsgrad=False, maximize=False, grad_scale=None, found_inf=None,
            )  # fmt: skip


def _products(a: Tensor, b: Tensor, out: Tensor, bias: Tensor | None = None) -> Tensor:
    """The products of the items of a and b, and a bias to each, into `out`; of one item, by the kernel that a model's own call takes."""
    if out.shape[0] > 1:
        return torch.bmm(a, b, out=out) if bias is None else torch.baddbmm(bias, a, b, out=out)
    if bias is None:
        torch.mm(a[0], b[0], out=out[0])
    else:
        torch.addmm(bias[0, 0], a[0], b[0], out=out[0])
    return out


def _stacked(items: Sequence[Tensor]) -> Tensor:
    stacked = _aligned(len(items), *items[0].shape)
    for mine, item in zip(stacked, items, strict=True):
        mine.copy_(item)
    return stacked


def _parameters(model: Sequence[Layer]) -> list[Tensor]:
    return [parameter for layer in model for parameter in (layer.weight, layer.bias)]


def bytes_of(layers: Sequence[Layer], batch_size: int) -> int:
    """The memory a model in a chain holds on to: its weights, AdamW's two means of each, and the outputs of a batch."""
    weights = sum(parameter.numel() for parameter in _parameters(layers))
    return 4 * (3 * weights + batch_size * sum(len(layer.bias) for layer in layers))


def same_bits(layers: Sequence[Layer], n: int, k: int = 1) -> bool:
    """Whether, on this machine and with this torch, a chain of k models of such layers on n rows gives the weights that autograd and AdamW
    give each of them.

    Tried on made-up weights and rows. Which kernel multiplies depends on the shapes, so each combination is tried once.
    """
    return _same_bits(tuple((*layer.weight.shape, layer.relu) for layer in layers), n, k)


@lru_cache(maxsize=1024)
def _same_bits(shapes: tuple[tuple[int, int, bool], ...], n: int, k: int) -> bool:
    draw = torch.Generator().manual_seed(n)
    models = [_made_up(shapes, draw) for _ in range(k)]
    rates = [0.01 / (j + 1) for j in range(k)]
    copies = [_copied(model, shapes[0][1]) for model in models]
    chain = Chain(copies, rates, Scratch(), [WEIGHT_DECAY] * k)
    optimizers = [
        torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=WEIGHT_DECAY, fused=True)
        for model, rate in zip(models, rates, strict=True)
    ]
    for offset in range(2):  # batches of a training set begin anywhere, and it may matter where
        x = torch.randn(offset + n * shapes[0][1], generator=draw)[offset:].view(n, -1)
        gradients = torch.randn(k, n, shapes[-1][0], generator=draw)
        for got, model, optimizer, gradient in zip(chain.forward(x), models, optimizers, gradients, strict=True):
            wanted = model(x)
            if not torch.equal(got, wanted):
                return False
            optimizer.zero_grad()
            wanted.backward(gradient)
            optimizer.step()
        chain.step(x, gradients.unbind())
    chain.hand_back()
    trained = zip(models, copies, strict=True)
    return all(torch.equal(p, q) for model, copy in trained for p, q in zip(model.parameters(), _parameters(copy), strict=True))


def _copied(model: nn.Module, inputs: int) -> list[Layer]:
    layers = layers_of(model, (inputs,))
    assert layers is not None
    return [Layer(layer.weight.clone(), layer.bias.clone(), layer.relu) for layer in layers]


def _made_up(shapes: Sequence[tuple[int, int, bool]], draw: torch.Generator) -> nn.Sequential:
    """A network of such linear maps, and ReLUs behind those that have one."""
    model = nn.Sequential()
    for outputs, inputs, relu in shapes:
        model.append(linear := nn.utils.skip_init(nn.Linear, inputs, outputs))
        for parameter in linear.parameters():
            nn.init.normal_(parameter, std=1 / math.sqrt(inputs), generator=draw)
        if relu:
            model.append(nn.ReLU())
    return model
