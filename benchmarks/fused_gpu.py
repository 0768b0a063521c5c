"""Time and memory of the fused linear head on a GPU, as ratios: to its floor and to its peers.

    python benchmarks/fused_gpu.py --rows 8192 --width 4096 --classes 128256
    python benchmarks/fused_gpu.py --tune

**Time** is between CUDA events around one forward and backward pass. All variants are interleaved in one process, in an order that
changes from round to round, each after the second-level cache was overwritten; a ratio is the median over the rounds of the ratio to the
floor in the same round. The floor is the three matrix products alone, by cuBLAS, in the inputs' dtype, into buffers that exist.

**Memory** is the allocator's high-water mark over what was allocated before the call, gradients included.

Peers: eager and compiled PyTorch, `F.linear_cross_entropy`, cut-cross-entropy, liger-kernel. What is not installed, or fails, is left out
with a line. `--tune` compares tiles for the two kernels instead.
"""

import argparse
import math
import random
import statistics
import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import lossmith
from lossmith.fused import LinearLogits, backend, explain, linear_stats

MIB = 2**20


class Problem(NamedTuple):
    hidden: Tensor
    weight: Tensor
    target: Tensor


Loss = Callable[[Problem], Tensor]
Step = Callable[[], None]


def problem(rows: int, width: int, classes: int, dtype: torch.dtype, *, ignored: float = 0.0) -> Problem:
    """Hidden states and a head that give logits of standard deviation 2, and labels."""
    g = torch.Generator("cuda").manual_seed(0)
    hidden = torch.randn(rows, width, device="cuda", generator=g).to(dtype).requires_grad_()
    weight = torch.randn(classes, width, device="cuda", generator=g).mul_(2 / math.sqrt(width)).to(dtype).requires_grad_()
    target = torch.randint(classes, (rows,), device="cuda", generator=g)
    target[torch.rand(rows, device="cuda", generator=g) < ignored] = -100
    return Problem(hidden, weight, target)


def backward(loss: Loss, p: Problem) -> Step:
    """Forward and backward; the gradients are dropped, as an optimizer's zero_grad would."""

    def step() -> None:
        p.hidden.grad = p.weight.grad = None
        loss(p).backward()

    return step


def floor(p: Problem, rows: int = 4096) -> Step:
    """The three products: logits, gradient of the hidden states, gradient of the head."""
    x, w = p.hidden.detach(), p.weight.detach()
    z, dx, dw = x.new_empty(min(rows, x.shape[0]), w.shape[0]), torch.empty_like(x), torch.zeros_like(w)

    def step() -> None:
        for start in range(0, x.shape[0], rows):
            some = x[start : start + rows]
            out = z[: some.shape[0]]
            torch.mm(some, w.T, out=out)
            torch.mm(out, w, out=dx[start : start + rows])
            dw.addmm_(out.T, some, beta=0 if start == 0 else 1)

    return step


def with_z_loss_and_entropy(p: Problem) -> Tensor:
    found = linear_stats(p.hidden, p.weight, p.target, want=("log_prob", "logsumexp", "entropy"))
    assert found.log_prob is not None
    assert found.logsumexp is not None
    assert found.entropy is not None
    return (-found.log_prob + 1e-4 * found.logsumexp**2 - 0.01 * found.entropy).mean()


def eager(p: Problem) -> Tensor:
    return F.cross_entropy(F.linear(p.hidden, p.weight), p.target)


def by_torch(p: Problem) -> Tensor:
    with backend("torch"):  # its backward pass was formed in the forward pass
        return lossmith.cross_entropy(LinearLogits(p.hidden, p.weight), p.target)


OURS: dict[str, Loss] = {
    "lossmith cross_entropy": lambda p: lossmith.cross_entropy(LinearLogits(p.hidden, p.weight), p.target),
    "lossmith cross_entropy, recompute": lambda p: lossmith.cross_entropy(LinearLogits(p.hidden, p.weight, schedule="recompute"), p.target),
    "lossmith focal_loss": lambda p: lossmith.focal_loss(LinearLogits(p.hidden, p.weight), p.target),
    "lossmith z-loss and entropy": with_z_loss_and_entropy,
    "lossmith cross_entropy, chunked torch": by_torch,
}


def peers() -> tuple[dict[str, Loss], list[str]]:
    """What is installed, and a line on what is not."""
    found: dict[str, Loss] = {"eager": eager, "torch.compile": torch.compile(eager)}
    left_out = []
    if hasattr(F, "linear_cross_entropy"):
        found["F.linear_cross_entropy"] = lambda p: F.linear_cross_entropy(p.hidden, p.weight, p.target)
    else:
        left_out.append(f"F.linear_cross_entropy: not in torch {torch.__version__}")
    try:
        from cut_cross_entropy import linear_cross_entropy

        for how in ("cce", "cce_exact"):
            found[f"cut-cross-entropy {how}"] = lambda p, how=how: linear_cross_entropy(p.hidden, p.weight, p.target, impl=how)
    except ImportError as error:
        left_out.append(f"cut-cross-entropy: {error}")
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        liger = LigerFusedLinearCrossEntropyLoss()
        found["liger-kernel"] = lambda p: liger(p.weight, p.hidden, p.target)
    except ImportError as error:
        left_out.append(f"liger-kernel: {error}")
    return found, left_out


def milliseconds(step: Step, cache: Tensor) -> float:
    cache.zero_()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    step()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def timed(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every step in every round; each runs twice before, unmeasured. What fails to run is dropped."""
    cache = torch.empty(256 * MIB, dtype=torch.uint8, device="cuda")
    ready = {}
    for name, step in steps.items():
        try:
            step()
            step()
            torch.cuda.synchronize()
            ready[name] = step
        except Exception as error:
            print(f"left out: {name}: {str(error).splitlines()[0]}")
    spent: dict[str, list[float]] = {name: [] for name in ready}
    order, shuffle = list(ready), random.Random(0)
    for done in range(rounds):
        shuffle.shuffle(order)
        for name in order:
            spent[name].append(milliseconds(ready[name], cache))
        print(f"\rround {done + 1} of {rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return spent


def peak(step: Step) -> float:
    """MiB."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / MIB


def table(steps: dict[str, Step], spent: dict[str, list[float]]) -> None:
    base = spent["floor"]
    print(f"{'':42}{'x floor':>8}{'ms':>10}{'peak MiB':>10}")
    for name, values in spent.items():
        ratio = statistics.median(value / least for value, least in zip(values, base, strict=True))
        print(f"{name:42}{ratio:8.2f}{statistics.median(values):10.2f}{peak(steps[name]):10.0f}", flush=True)


def tune(p: Problem, rounds: int) -> None:
    """Other tiles for both kernels, against the one there is."""
    from lossmith.fused.triton import launch

    candidates = [launch.HALF, launch.SMALL] if p.hidden.dtype != torch.float32 else [launch.SINGLE]
    candidates += [
        t._replace(**change) for t in candidates for change in ({"stages": 4}, {"warps": 2 * t.warps}, {"group": 8}, {"group": 32})
    ]

    def with_tile(tile: launch.Tiles, step: Step) -> Step:
        def changed() -> None:
            before = launch.HALF, launch.SMALL, launch.SINGLE
            launch.HALF = launch.SMALL = launch.SINGLE = tile
            try:
                step()
            finally:
                launch.HALF, launch.SMALL, launch.SINGLE = before

        return changed

    names = ("lossmith cross_entropy", "lossmith focal_loss", "lossmith z-loss and entropy")
    steps = {"floor": floor(p)}
    steps |= {f"{name[9:]} {tuple(tile)}": with_tile(tile, backward(OURS[name], p)) for name in names for tile in candidates}
    table(steps, timed(steps, rounds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--classes", type=int, default=128256)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tune", action="store_true", help="compare tiles instead")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("fused_gpu.py: no GPU here; benchmarks/fused.py is the same for CPUs")
    dtype = getattr(torch, arguments.dtype)
    p = problem(arguments.rows, arguments.width, arguments.classes, dtype)
    sizes = f"{arguments.rows} rows, {arguments.width} wide, {arguments.classes} classes, {arguments.dtype}"
    print(f"{torch.cuda.get_device_name()}; torch {torch.__version__}; {sizes}")
    print(explain(LinearLogits(p.hidden, p.weight)), end="\n\n")
    if arguments.tune:
        tune(p, arguments.rounds)
        return
    others, left_out = peers()
    steps = {"floor": floor(p)} | {name: backward(loss, p) for name, loss in (OURS | others).items()}
    half = problem(arguments.rows, arguments.width, arguments.classes, dtype, ignored=0.5)
    steps["lossmith cross_entropy, half ignored"] = backward(OURS["lossmith cross_entropy"], half)
    table(steps, timed(steps, arguments.rounds))
    for line in left_out:
        print(f"left out: {line}")


if __name__ == "__main__":
    main()
