"""Time of a training step of a spherical objective as the number of classes grows, at a fixed width and batch.

    python benchmarks/spherical.py --width 128 --rows 128 --classes 1000 10000 100000 1000000

A step is forward, backward and the update of the head, in CPU time of this process (`time.process_time`, one thread); all variants and
numbers of classes are interleaved, in an order that changes from round to round, and medians are printed with their ratio to the
smallest number of classes:

SphericalHead     `lossmith.zscore_loss(head(hidden), target)`, `backward()`, `head.step(lr)`
stabilising       `head.stabilize()` of one singular value: at most once in a hundred steps, and only where some are out of range
LinearLogits      `lossmith.zscore_loss(LinearLogits(hidden, weight), target)` and an SGD step: d^2 a class
cross-entropy     `lossmith.cross_entropy(LinearLogits(hidden, weight), target)` and an SGD step: the fused softmax

`--most` leaves the variants that grow with the classes out above that many.
"""

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable

import torch

import lossmith
from lossmith.fused import LinearLogits, SphericalHead

Step = Callable[[], None]


def spherical(width: int, rows: int, classes: int) -> tuple[Step, Step]:
    head = SphericalHead(width, classes, stabilize_every=10**9)

    def step() -> None:
        hidden = torch.randn(rows, width, requires_grad=True)
        lossmith.zscore_loss(head(hidden), torch.randint(classes, (rows,))).backward()
        head.step(0.1)

    def stabilize() -> None:
        head.mix[0] *= 3  # one singular value out of range
        head.stabilize()

    return step, stabilize


def dense(loss: Callable[..., torch.Tensor], width: int, rows: int, classes: int) -> Step:
    weight = (torch.rand(classes, width) / width**0.5).requires_grad_()
    optimizer = torch.optim.SGD([weight], lr=0.1)

    def step() -> None:
        hidden = torch.randn(rows, width, requires_grad=True)
        optimizer.zero_grad()
        loss(LinearLogits(hidden, weight), torch.randint(classes, (rows,))).backward()
        optimizer.step()

    return step


def steps(arguments: argparse.Namespace) -> dict[tuple[str, int], Step]:
    found: dict[tuple[str, int], Step] = {}
    for classes in arguments.classes:
        found["SphericalHead", classes], found["stabilising", classes] = spherical(arguments.width, arguments.rows, classes)
        if classes <= arguments.most:
            for name, loss in (("LinearLogits", lossmith.zscore_loss), ("cross-entropy", lossmith.cross_entropy)):
                found[name, classes] = dense(loss, arguments.width, arguments.rows, classes)
    return found


def timed(found: dict[tuple[str, int], Step], rounds: int) -> dict[tuple[str, int], list[float]]:
    """CPU seconds of every step in every round, after one that is not measured."""
    spent: dict[tuple[str, int], list[float]] = {key: [] for key in found}
    order, shuffle = list(found), random.Random(0)
    for done in range(rounds + 1):
        shuffle.shuffle(order)
        for key in order:
            start = time.process_time()
            found[key]()
            spent[key].append(time.process_time() - start)
        print(f"\rround {done} of {rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return {key: values[1:] for key, values in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--classes", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--most", type=int, default=100_000, help="the most classes for what grows with them")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    spent = timed(steps(arguments), arguments.rounds)
    print(f"{arguments.rows} rows, {arguments.width} wide, float32; torch {torch.__version__}; medians of {arguments.rounds} rounds")
    print(f"{'':16}{'classes':>10}{'ms':>12}{'x the fewest classes':>24}")
    base = min(arguments.classes)
    for name in dict.fromkeys(name for name, _ in spent):
        for classes in (c for n, c in spent if n == name):
            ratios = [a / b for a, b in zip(spent[name, classes], spent[name, base], strict=True)]
            print(f"{name:16}{classes:10}{1000 * statistics.median(spent[name, classes]):12.2f}{statistics.median(ratios):24.2f}")


if __name__ == "__main__":
    main()
