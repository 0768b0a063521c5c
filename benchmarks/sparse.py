"""What a gradient filter saves, and what it costs: time against exact gradients, the share that is kept, the error.

    python benchmarks/sparse.py --rows 512 --width 512 --classes 32768

Logits follow Zipf's law over the classes (a bias of -log rank) with Gaussian noise of standard deviation `--noise`, labels are drawn from
them, and the loss is the mean cross-entropy: the threshold is the given number divided by the rows. CPU time of this process, one thread,
all variants interleaved; medians of ratios to `LinearLogits(..., schedule="recompute")`, which is the same pass without a filter, and to
the default. The error is ||g - exact|| / ||exact|| of the gradients of hidden states and head together.
"""

import argparse
import random
import statistics
import sys
import time

import torch
from torch import Tensor

import lossmith
from lossmith.fused import GradientFilter, LinearLogits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--classes", type=int, default=32768)
    parser.add_argument("--noise", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--thresholds", type=float, nargs="+", default=[2**-12, 2**-8])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    n, d, c = arguments.rows, arguments.width, arguments.classes
    hidden, weight = torch.randn(n, d, requires_grad=True), torch.randn(c, d).mul_(arguments.noise / d**0.5).requires_grad_()
    bias = -torch.arange(1, c + 1).log()
    with torch.no_grad():
        target = torch.distributions.Categorical(logits=hidden @ weight.T + bias).sample()
    filters: dict[str, GradientFilter] = {}
    for threshold in arguments.thresholds:
        for mode in ("columns", "random"):
            filters[f"{mode}, {threshold:.1e} of a row"] = GradientFilter(threshold / n, mode)
    sources = {
        "default": LinearLogits(hidden, weight, bias),
        "recompute": LinearLogits(hidden, weight, bias, schedule="recompute"),
        **{name: LinearLogits(hidden, weight, bias, gradient_filter=by) for name, by in filters.items()},
    }

    def step(name: str) -> tuple[Tensor, Tensor]:
        return torch.autograd.grad(lossmith.cross_entropy(sources[name], target), (hidden, weight))

    exact = step("recompute")
    size = sum(g.square().sum() for g in exact).sqrt()
    spent: dict[str, list[float]] = {name: [] for name in sources}
    order, shuffle = list(sources), random.Random(0)
    for done in range(arguments.rounds + 1):
        shuffle.shuffle(order)
        for name in order:
            start = time.process_time()
            step(name)
            spent[name].append(time.process_time() - start)
        print(f"\rround {done} of {arguments.rounds}", end="", file=sys.stderr, flush=True)
    print(f"\n{n} rows, {d} wide, {c} classes, float32; torch {torch.__version__}")
    print(f"{'':32}{'x recompute':>12}{'x default':>12}{'kept':>10}{'dropped':>12}{'error':>10}")
    for name in sources:
        of = [statistics.median(a / b for a, b in zip(spent[name][1:], spent[base][1:], strict=True)) for base in ("recompute", "default")]
        by = filters.get(name)
        if by is not None:
            by.reset()  # what it tells is to be of the one step below
        error = sum((a - b).square().sum() for a, b in zip(step(name), exact, strict=True)).sqrt() / size
        told = "" if by is None else f"{by.kept.item():10.4f}{by.dropped.item():12.2e}{error.item():10.1e}"
        print(f"{name:32}{of[0]:12.2f}{of[1]:12.2f}{told}")


if __name__ == "__main__":
    main()
