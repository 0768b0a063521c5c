"""A chain trains to the bits of autograd and torch's AdamW, and only models that are chains are taken for one."""

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from lossmith.study.spec import OPTIMIZER
from lossmith.study.training.chain import Chain, Layer, Scratch, bytes_of, layers_of, same_bits
from lossmith.study.training.models import build_model


@pytest.mark.parametrize("learning_rate", [3e-5, 1e-2, 3.0])
@pytest.mark.parametrize(("inputs", "classes"), [((1, 8, 8), 10), ((13,), 3), ((1,), 2)])
@pytest.mark.parametrize("model", ["linear", "mlp"])
def test_weights_after_many_steps_are_those_of_autograd_and_adamw(
    model: str, inputs: tuple[int, ...], classes: int, learning_rate: float
) -> None:
    plain, mine = (build_model(model, inputs, classes, seed=0) for _ in range(2))
    optimizer = torch.optim.AdamW(plain.parameters(), lr=learning_rate, weight_decay=OPTIMIZER["weight_decay"], fused=True)
    layers = layers_of(mine, inputs)
    assert layers is not None
    chain = Chain(layers, learning_rate, Scratch())
    draw = torch.Generator().manual_seed(0)
    for n in (37, 36, 37, 1, 64, 36):
        x, y = torch.randn(n, *inputs, generator=draw), torch.randint(classes, (n,), generator=draw)
        wanted = plain(x)
        got = chain.forward(x.flatten(1))
        assert torch.equal(got, wanted)
        logits = got.clone().requires_grad_()
        chain.step(x.flatten(1), *torch.autograd.grad(nn.functional.cross_entropy(logits, y), logits))
        optimizer.zero_grad()
        nn.functional.cross_entropy(wanted, y).backward()
        optimizer.step()
    for p, q in zip(plain.parameters(), mine.parameters(), strict=True):
        assert torch.equal(p, q)


def test_chains_that_share_buffers_do_not_mix() -> None:
    """Forward all, then step all, as a stack does; each as if it were alone."""
    draw = torch.Generator().manual_seed(0)
    scratch = Scratch()
    models = [(build_model("mlp", (5,), 3, seed), build_model("mlp", (5,), 3, seed)) for seed in range(3)]
    layers = [[layers_of(one, (5,)) for one in pair] for pair in models]
    chains = [(Chain(a, 0.1, scratch), Chain(b, 0.1, Scratch())) for a, b in layers if a is not None and b is not None]
    x, gradients = torch.randn(9, 5, generator=draw), torch.randn(3, 9, 3, generator=draw)
    for _ in range(3):
        for together, _ in chains:
            together.forward(x)
        for (together, alone), gradient in zip(chains, gradients, strict=True):
            together.step(x, gradient)
            alone.forward(x)
            alone.step(x, gradient)
    for pair in models:
        for p, q in zip(pair[0].parameters(), pair[1].parameters(), strict=True):
            assert torch.equal(p, q)


def test_the_built_in_networks_are_chains_here() -> None:
    """If this fails, the numbers are still right, and trials take longer."""
    for model in ("linear", "mlp"):
        for n in (120, 119, 7):
            layers = layers_of(build_model(model, (1, 8, 8), 10, seed=0), (1, 8, 8))
            assert layers is not None
            assert same_bits(layers, n)


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 3))
    model[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    return model


def patched() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 3))
    model[0].forward = lambda x: 2 * x[:, :3]  # type: ignore[method-assign]
    return model


def frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    model[0].weight.requires_grad_(False)
    return model


def shared() -> nn.Module:
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer)


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    return model


class Doubled(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


@pytest.mark.parametrize(
    "model",
    [
        hooked(), patched(), frozen(), shared(), tied(), Doubled(4, 3), nn.Flatten(),
        nn.Linear(4, 3, bias=False), nn.Linear(5, 3), nn.Linear(4, 3, dtype=torch.float64),
        nn.Sequential(nn.Linear(4, 3), nn.Dropout()), nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)),
        nn.Sequential(nn.ReLU(), nn.Linear(4, 3)), nn.Sequential(nn.Linear(4, 2), nn.Linear(3, 3)),
        nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 3))),
    ],
)  # fmt: skip
def test_what_is_no_chain_is_left_to_the_plain_loop(model: nn.Module) -> None:
    assert layers_of(model, (4,)) is None


def test_images_need_flattening_first() -> None:
    assert layers_of(nn.Sequential(nn.Linear(4, 3)), (1, 2, 4)) is None
    assert layers_of(nn.Sequential(nn.Flatten(2), nn.Linear(8, 3)), (1, 2, 4)) is None
    assert layers_of(build_model("cnn", (1, 8, 8), 3, seed=0), (1, 8, 8)) is None


def test_what_is_a_chain() -> None:
    nested = nn.Sequential(OrderedDict(flat=nn.Flatten(), body=nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.ReLU()), head=nn.Linear(4, 3)))
    layers = layers_of(nested, (1, 2, 4))
    assert layers is not None
    assert [(tuple(layer.weight.shape), layer.relu) for layer in layers] == [((4, 8), True), ((3, 4), False)]
    assert layers[0].weight.data_ptr() == nested.body[0].weight.data_ptr()
    assert layers_of(nn.Linear(4, 3), (4,)) is not None
    assert bytes_of(layers, 10) == 4 * (3 * (8 * 4 + 4 + 4 * 3 + 3) + 10 * (4 + 3))


def test_a_trailing_relu_is_trained_through() -> None:
    layers = [Layer(torch.randn(6, 4), torch.randn(6), relu=True), Layer(torch.randn(3, 6), torch.randn(3), relu=True)]
    assert same_bits(layers, 20)
