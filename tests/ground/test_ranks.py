"""Two processes, each with half a batch, equal one process with all of it: values and gradients, under DistributedDataParallel."""

from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from torch import Tensor, nn

import lossmith

WORLD = 2
LABELS = torch.tensor([[0, 1, 2, 2, 1], [-100, 0, -100, 1, 0], [-100, -100, 2, -100, -100], [1, -100, 0, 0, -100]])
WEIGHT = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
CASES = ("denominator", "denominator of probabilities", "one rank empty", "dice", "dice_cross_entropy", "channels")


def inputs() -> Tensor:
    return torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Linear(6, 3).double()


def loss(case: str, logits: Tensor, part: slice, group: object) -> Tensor:
    """The loss of a part of the batch; `group` is None for the one process that has it all."""
    z, y, over = logits.movedim(-1, 1), LABELS[part], "batch" if group is None else "ranks"
    if case == "dice":
        return lossmith.dice_loss(z, y, weight=WEIGHT, smooth=0.1, over=over, group=group)
    if case == "dice_cross_entropy":
        return lossmith.dice_cross_entropy(z, y, weight=WEIGHT, over=over, group=group)
    if case == "channels":
        t = torch.where(y.unsqueeze(1) < 0, -100, y.unsqueeze(1) == torch.arange(3).reshape(1, 3, 1))
        return lossmith.dice_cross_entropy(z, t, activation="sigmoid", weight=WEIGHT, over=over, group=group)
    options = {"weight": WEIGHT}
    if case == "denominator of probabilities":
        y = torch.softmax(inputs()[..., :3].movedim(-1, 1), 1)[part]
    if case == "one rank empty":
        y = torch.where(torch.arange(4).reshape(4, 1)[part] < 2, -100, y)
    if group is not None:  # DistributedDataParallel averages gradients over ranks, where the parts are to be summed
        options["denominator"] = lossmith.denominator(y, weight=WEIGHT, group=group) / WORLD
    return lossmith.cross_entropy(z, y, **options)


def work(rank: int, folder: str) -> None:
    """One rank: half the batch through a DistributedDataParallel model, losses and gradients written down."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    part, group = slice(2 * rank, 2 * rank + 2), torch.distributed.group.WORLD
    found = {}
    for case in CASES:
        parallel = nn.parallel.DistributedDataParallel(model())
        value = loss(case, parallel(inputs()[part]), part, group)
        value.backward()
        found[case] = (value.detach(), parallel.module.weight.grad, parallel.module.bias.grad)
        del parallel, value
    torch.save(found, Path(folder) / f"{rank}.pt")
    torch.distributed.barrier()  # neither leaves while the other still speaks to it
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2])  # the children import this module by its name
        torch.multiprocessing.spawn(work, (str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.mark.subprocess
@pytest.mark.skipif(not torch.distributed.is_available() or not torch.distributed.is_gloo_available(), reason="torch without gloo")
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_are_one_process(ranks, case):
    whole = model()
    value = loss(case, whole(inputs()), slice(0, 4), None)
    value.backward()
    for found, weight, bias in (rank[case] for rank in ranks):
        torch.testing.assert_close(weight, whole.weight.grad)
        torch.testing.assert_close(bias, whole.bias.grad)
        if case in ("dice", "dice_cross_entropy", "channels"):  # every rank holds the whole set's loss
            torch.testing.assert_close(found, value.detach())
    if case not in ("dice", "dice_cross_entropy", "channels"):  # ranks hold parts, whose mean is the whole
        torch.testing.assert_close(sum(rank[case][0] for rank in ranks) / WORLD, value.detach())


def test_one_process_says_what_ranks_need():
    with pytest.raises(ValueError, match=r"over='ranks' needs torch\.distributed\.init_process_group; use over='batch' in one process"):
        lossmith.dice_loss(torch.zeros(1, 2, 3), torch.zeros(1, 3, dtype=torch.long), over="ranks")
