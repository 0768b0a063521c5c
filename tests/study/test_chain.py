"""A chain trains to the bits of autograd and torch's AdamW, and only models that are chains are taken for one."""

from collections import OrderedDict
from collections.abc import Sequence

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from lossmith.study.spec import OPTIMIZER
from lossmith.study.training.chain import Chain, Layer, Scratch, bytes_of, layers_of, same_bits
from lossmith.study.training.models import build_model


def chain_of(models: Sequence[nn.Module], shape: tuple[int, ...], rates: Sequence[float], scratch: Scratch | None = None) -> Chain:
    layers = [layers_of(model, shape) for model in models]
    decays = [OPTIMIZER["weight_decay"] * (j + 1) for j in range(len(models))]
    return Chain([some for some in layers if some is not None], rates, scratch or Scratch(), decays)


def optimizers_of(models: Sequence[nn.Module], rates: Sequence[float]) -> list[torch.optim.Optimizer]:
    """Those that the models of such a chain are trained with."""
    return [
        torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=OPTIMIZER["weight_decay"] * (j + 1), fused=True)
        for j, (model, rate) in enumerate(zip(models, rates, strict=True))
    ]


def assert_same_weights(plain: Sequence[nn.Module], mine: Sequence[nn.Module]) -> None:
    for one, other in zip(plain, mine, strict=True):
        for p, q in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.equal(p, q)


@pytest.mark.parametrize("learning_rate", [3e-5, 1e-2, 3.0])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize(("inputs", "classes"), [((1, 8, 8), 10), ((13,), 3), ((1,), 2)])
@pytest.mark.parametrize("model", ["linear", "mlp"])
def test_weights_after_many_steps_are_those_of_autograd_and_adamw(
    model: str, inputs: tuple[int, ...], classes: int, k: int, learning_rate: float
) -> None:
    plain, mine = ([build_model(model, inputs, classes, seed) for seed in range(k)] for _ in range(2))
    rates = [learning_rate / (j + 1) for j in range(k)]
    optimizers, chain = optimizers_of(plain, rates), chain_of(mine, inputs, rates)
    draw = torch.Generator().manual_seed(0)
    for n in (37, 36, 37, 1, 64, 36):
        if k > 1 and not same_bits(layers_of(mine[0], inputs), n, k):
            continue  # torch multiplies several tiny matrices by a kernel of its own: such chains are of one model
        x, y = torch.randn(n, *inputs, generator=draw), torch.randint(classes, (n,), generator=draw)
        slopes = []
        for one, optimizer, got, look in zip(plain, optimizers, chain.forward(x.flatten(1)), chain.predict(x), strict=True):
            wanted = one(x)
            assert torch.equal(got, wanted)
            assert torch.equal(look, wanted)
            optimizer.zero_grad()
            nn.functional.cross_entropy(wanted, y).backward()
            optimizer.step()
            logits = got.clone().requires_grad_()
            slopes += torch.autograd.grad(nn.functional.cross_entropy(logits, y), logits)
        chain.step(x.flatten(1), slopes)
    chain.hand_back()
    assert_same_weights(plain, mine)


def test_a_chain_goes_on_without_some_of_its_models() -> None:
    draw = torch.Generator().manual_seed(0)
    plain, mine = ([build_model("mlp", (5,), 3, seed) for seed in range(4)] for _ in range(2))
    rates = [0.1, 0.01, 0.03, 0.3]
    optimizers, chain = optimizers_of(plain, rates), chain_of(mine, (5,), rates)
    left = [0, 1, 2, 3]
    for dropped in (None, 1, None, 3, None):
        if dropped is not None:
            chain.keep([place for place, j in enumerate(left) if j != dropped])
            left.remove(dropped)
        assert len(chain) == len(left)
        x, slopes = torch.randn(9, 5, generator=draw), torch.randn(len(left), 9, 3, generator=draw)
        chain.forward(x)
        chain.step(x, slopes.unbind())
        for j, slope in zip(left, slopes, strict=True):
            optimizers[j].zero_grad()
            plain[j](x).backward(slope)
            optimizers[j].step()
    chain.hand_back()
    assert_same_weights([plain[j] for j in left], [mine[j] for j in left])
    assert_same_weights([build_model("mlp", (5,), 3, 1)], [mine[1]])  # who has left is given nothing more


def test_chains_that_share_buffers_do_not_mix() -> None:
    """Forward all, then step all, as a stack does; each as if it were alone."""
    draw = torch.Generator().manual_seed(0)
    shared = Scratch()
    beside, alone = ([build_model("mlp", (5,), 3, seed) for seed in range(5)] for _ in range(2))
    parts = [slice(0, 2), slice(2, 4), slice(4, 5)]
    rates = [0.1, 0.2, 0.3, 0.4, 0.5]
    chains = [(chain_of(beside[part], (5,), rates[part], shared), chain_of(alone[part], (5,), rates[part])) for part in parts]
    x, gradients = torch.randn(9, 5, generator=draw), torch.randn(5, 9, 3, generator=draw)
    for _ in range(3):
        for together, _ in chains:
            together.forward(x)
        for (together, by_itself), part in zip(chains, parts, strict=True):
            together.step(x, gradients[part].unbind())
            by_itself.forward(x)
            by_itself.step(x, gradients[part].unbind())
    for pair in chains:
        for chain in pair:
            chain.hand_back()
    assert_same_weights(alone, beside)


def test_the_built_in_networks_are_chains_here() -> None:
    """If this fails, the numbers are still right, and trials take longer."""
    for model in ("linear", "mlp"):
        for n in (120, 119, 7):
            layers = layers_of(build_model(model, (1, 8, 8), 10, seed=0), (1, 8, 8))
            assert layers is not None
            for k in (1, 4, 5):
                assert same_bits(layers, n, k)


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
