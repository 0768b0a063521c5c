"""On the CPU a call looks whether anything is to be masked, and masks nothing if not: never a difference but time."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

import lossmith
from lossmith._batch import frame
from lossmith._reduce import read
from lossmith.classification.cross_entropy import _log_loss

OBJECTIVES = ("cross_entropy", "generalized_cross_entropy", "focal_loss", "brier_loss", "crammer_singer", "bootstrap_loss")


def rows() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(6, 4, generator=draw), torch.tensor([0, 1, 2, 3, 2, 1])


def with_one_more(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The same rows and one that is ignored and holds no number."""
    return torch.cat([z, torch.full_like(z[:1], torch.nan)]), torch.cat([y, torch.tensor([-100])])


def is_whole(y: Tensor, **options: object) -> bool:
    return frame(read(_log_loss, options, {"label_smoothing": 0.0}), torch.randn(*y.shape, 4), y).whole


def test_what_is_seen_to_be_whole() -> None:
    y = rows()[1]
    assert is_whole(y)
    assert is_whole(y, weight=torch.ones(4))
    assert not is_whole(y.int())
    assert not is_whole(y[:0])
    assert not is_whole(y, ignore_index=2)
    assert not is_whole(y, sample_weight=torch.ones(6))
    assert not is_whole(torch.tensor([0, -100, 3]))
    assert not is_whole(y.as_subclass(Spread))
    assert not is_whole(made_in_inference_mode(y))
    with torch.inference_mode():
        assert is_whole(y)


class Spread(Tensor):
    """A kind of tensor of which every rank may see another part, as DTensor is: ranks that see differently would wait for each other."""


def made_in_inference_mode(x: Tensor) -> Tensor:
    with torch.inference_mode():
        return x.clone()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_labels_and_logits_made_in_inference_mode(name: str) -> None:
    """Pseudo-labels are: autograd does not keep such tensors."""
    objective = getattr(lossmith, name)
    z, y = rows()
    z.requires_grad_()
    found, wanted = (torch.autograd.grad(objective(z, labels), z)[0] for labels in (made_in_inference_mode(y), y))
    assert torch.equal(found, wanted)


def test_logits_made_in_inference_mode_reach_a_row_function_as_others() -> None:
    """So that a hyper-parameter can be learnt on them."""
    z, y = rows()
    strange = made_in_inference_mode(z)
    batch = frame(read(_log_loss, {}, {"label_smoothing": 0.0}), strange, y)
    assert batch.whole
    assert not batch.mask(strange).is_inference()


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_a_row_that_is_ignored_changes_nothing(name: str, reduction: str) -> None:
    objective = getattr(lossmith, name)
    z, y = (x.requires_grad_() if x.is_floating_point() else x for x in rows())
    more_z, more_y = with_one_more(z.detach(), y)
    more_z.requires_grad_()
    whole, masked = objective(z, y, reduction=reduction), objective(more_z, more_y, reduction=reduction)
    if reduction == "none":
        masked = masked[:-1]
        assert torch.equal(whole, masked)
    torch.testing.assert_close(whole, masked, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(
        torch.autograd.grad(whole.sum(), z)[0], torch.autograd.grad(masked.sum(), more_z)[0][:-1], rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 2.0, 0.0, 3.0])], ids=["plain", "class weights"])
@pytest.mark.parametrize("denominator", [None, 5.0])
def test_means_divide_by_the_same(weight: Tensor | None, denominator: float | None) -> None:
    z, y = rows()
    options = {"weight": weight, "denominator": denominator}
    torch.testing.assert_close(lossmith.cross_entropy(z, y, **options), lossmith.cross_entropy(*with_one_more(z, y), **options))


@pytest.mark.compile
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_what_is_traced_on_whole_rows_masks_others() -> None:
    z, y = rows()
    z, y = torch.cat([z, z[:1]]), torch.cat([y, y[:1]])
    ignored = torch.cat([y[:-1], torch.tensor([-100])])
    wanted = lossmith.cross_entropy(z, ignored)
    assert not torch.equal(wanted, lossmith.cross_entropy(z, y))

    def loss(z: Tensor, y: Tensor) -> Tensor:
        return lossmith.cross_entropy(z, y)

    ways: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "torch.jit.trace": torch.jit.trace(loss, (z, y), check_trace=False),
        "make_fx": make_fx(loss, tracing_mode="fake")(z, y),
        "torch.compile": torch.compile(loss, backend="eager", fullgraph=True),
    }
    for name, way in ways.items():
        way(z, y)
        torch.testing.assert_close(way(z, ignored), wanted, msg=name)
    each = torch.vmap(loss)(torch.stack([z, z]), torch.stack([y, ignored]))
    torch.testing.assert_close(each[1], wanted)
