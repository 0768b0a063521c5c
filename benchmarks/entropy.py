"""Time sparsemax, 1.5-entmax and their Fenchel-Young losses against the ``entmax`` package, and against softmax as the floor.

    python benchmarks/entropy.py

Each line is one function on random normal logits of 256 rows of 32000 classes in float32, forward and backward. CPU time of one thread
(``time.process_time``); every round times all contenders in turn, and the ratio is taken within the round. Shown are the median of the
ratios and their range, beside how many classes have a probability above 0. A line is printed only after its gradients have agreed
with float64 to 1e-6 of the largest.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

import entmax as package
import torch
from torch import Tensor

from lossmith.generators import entmax as ours_entmax
from lossmith.generators import gini, sparsemax, tsallis

Contender = Callable[[Tensor], Tensor]


def seconds(contender: Contender, logits: Tensor, weight: Tensor) -> float:
    """CPU time of a forward and a backward pass."""
    theta = logits.clone().requires_grad_()
    begin = time.process_time()
    value = contender(theta)
    value.backward(weight if value.ndim == 2 else weight[:, 0])
    return time.process_time() - begin


def check(contender: Contender, logits: Tensor, weight: Tensor) -> None:
    """The gradient in float32 against the same in float64, on some of the rows."""
    gradients = []
    for dtype in (torch.float32, torch.float64):
        theta = logits.to(dtype).requires_grad_()
        value = contender(theta)
        gradients.append(torch.autograd.grad(value, theta, (weight if value.ndim == 2 else weight[:, 0]).to(dtype))[0])
    error = ((gradients[0] - gradients[1]).abs().max() / gradients[1].abs().max()).item()
    if not error <= 1e-6:
        raise SystemExit(f"the gradient is off by {error:.1e} of the largest")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--classes", type=int, default=32000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--scales", type=float, nargs="+", default=[0.003, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0], help="of the normal logits")
    given = parser.parse_args()
    torch.set_num_threads(1)
    random = torch.Generator().manual_seed(0)
    normal = torch.randn(given.rows, given.classes, generator=random)
    weight = torch.randn(given.rows, given.classes, generator=random)
    label = torch.randint(given.classes, (given.rows,), generator=random)

    def loss(entropy, theta):
        return entropy.fenchel_young(theta, label[: len(theta)])

    lines: dict[str, tuple[Contender, Contender]] = {
        "sparsemax": (sparsemax, lambda theta: package.sparsemax(theta, -1)),
        "1.5-entmax": (ours_entmax, lambda theta: package.entmax15(theta, -1)),
        "sparsemax loss": (lambda theta: loss(gini, theta), lambda theta: package.sparsemax_loss(theta, label)),
        "1.5-entmax loss": (lambda theta: loss(tsallis(1.5), theta), lambda theta: package.entmax15_loss(theta, label)),
    }
    print(
        f"{given.rows} x {given.classes} float32, one thread, {given.rounds} rounds; torch {torch.__version__}, entmax {version('entmax')}"
    )
    print(f"{'':16} {'scale':>6} {'support':>8}   {'ours':>7} {'entmax':>8}   {'ratio to entmax':>22}   {'ratio to softmax':>22}")
    for name, (ours, theirs) in lines.items():
        entropy = gini if name.startswith("sparsemax") else tsallis(1.5)
        for scale in given.scales:
            logits = scale * normal
            check(ours, logits[:8], weight[:8])
            contenders = (ours, theirs, lambda theta: theta.softmax(-1))
            for contender in contenders:
                seconds(contender, logits, weight)
            rounds = [[seconds(contender, logits, weight) for contender in contenders] for _ in range(given.rounds)]
            support = (entropy.argmax(logits) > 0).sum(-1).double().mean().item()
            mine, other, _ = (1e3 * statistics.median(times) for times in zip(*rounds, strict=True))
            to_package, to_softmax = (_spread([r[0] / r[k] for r in rounds]) for k in (1, 2))
            times = f"{mine:4.0f} ms {other:5.0f} ms"
            print(f"{name:16} {scale:6g} {support:8.1f}   {times}   {to_package:>22}   {to_softmax:>22}", flush=True)


def _spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})"


if __name__ == "__main__":
    main()
