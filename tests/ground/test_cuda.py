"""The same numbers on a GPU, without waiting for it. Skipped, visibly, where there is none."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

import lossmith
from lossmith.card import Card, all_cards
from lossmith.conformance.problems import problem

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
CARDS = [card for card in all_cards().values() if card.function.__module__.startswith("lossmith.")]


def ready(card: Card, device: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The objective with what it needs, on a device."""
    if card.form == "stateful":
        module = card.function(num_samples=64).to(device)
        index = torch.arange(64, device=device)
        return lambda z, y: module(z, y, index)
    needs = {"class_counts": torch.tensor([5.0, 1.0, 3.0, 9.0], device=device)} if "class_counts" in card.needs else {}
    return lambda z, y: card.function(z, y, **needs)


@contextmanager
def never_waiting() -> Iterator[None]:
    """Any operation that waits for the device raises."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def on_both(card: Card, dtype: torch.dtype = torch.float32) -> Iterator[tuple[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor]]:
    z, y = problem(card.form, n=64, dtype=dtype)
    for device in ("cpu", "cuda"):
        yield ready(card, device), z.to(device).requires_grad_(), y.to(device)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_values_and_gradients_are_the_cpus(card: Card) -> None:
    found = []
    for function, z, y in on_both(card):
        value = function(z, y)
        value.backward()
        assert z.grad is not None
        found.append((value.detach().cpu(), z.grad.cpu()))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_no_call_waits_for_the_gpu(card: Card) -> None:
    _, (function, z, y) = on_both(card)
    function(z, y).backward()  # the first call loads kernels
    torch.cuda.synchronize()
    with never_waiting():
        function(z, y).backward()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_half_precision_is_computed_in_float32(card: Card, dtype: torch.dtype) -> None:
    _, (function, z, y) = on_both(card, dtype)
    y = y.float() if y.is_floating_point() else y
    with torch.autocast("cuda", dtype=dtype):
        value = function(z, y)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, function(z.detach().float(), y), rtol=1e-6, atol=1e-7)


@pytest.mark.compile
@pytest.mark.parametrize("name", ["cross_entropy", "brier_loss", "ldr_kl_loss", "asymmetric_loss", "dice_loss"])
def test_it_compiles_there(name: str) -> None:
    _, (function, z, y) = on_both(all_cards()[name])
    torch.testing.assert_close(torch.compile(function, fullgraph=True)(z, y), function(z, y), rtol=1e-5, atol=1e-6)


def test_a_target_or_weight_left_behind_is_named() -> None:
    z, y = torch.zeros(3, 4, device="cuda"), torch.tensor([0, 1, 2])
    with pytest.raises(ValueError, match="target must be on the input's device cuda:0; it is on cpu"):
        lossmith.cross_entropy(z, y)
    with pytest.raises(ValueError, match="weight must be on the input's device cuda:0; it is on cpu"):
        lossmith.cross_entropy(z, y.cuda(), weight=torch.ones(4))


def test_a_wrong_index_is_named_when_values_are_checked() -> None:
    z, y = torch.zeros(3, 4, device="cuda"), torch.tensor([0, 1, 7], device="cuda")
    with lossmith.validate(True), pytest.raises(ValueError, match=r"class indices in 0\.\.3"):
        lossmith.cross_entropy(z, y)
