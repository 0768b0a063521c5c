"""How many trials a study trains in a second of processor time, stacked and in a plain loop.

    OMP_NUM_THREADS=1 python benchmarks/study.py

Both ways give the same numbers, to the bit (`tests/study/test_stacked.py`). They take turns in one process with one thread, and the time is
the processor's, so that neither other work on the machine nor its warming up favours one. Printed are the medians over the rounds and how
far the rounds lie apart.

The plain loop of a study is a quick one, with AdamW's fused kernel. Beside it stands one as it is usually written, with `torch.optim.AdamW`
as it comes, `F.cross_entropy` (whatever the objective), and no more than accuracies on held-out rows after every epoch: its time over a
stacked trial's is printed as "usual".

The last column is what no way of stacking can exceed: the time of a plain trial over that of its matrix products alone. Products of the
default network fill the processor one at a time, so little is left to gain; the smaller the products, the more a plain loop wastes.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from lossmith.study import Dataset, StudySpec, TrialSpec, load_data, run_trials
from lossmith.study.training.chain import layers_of
from lossmith.study.training.models import build_model
from lossmith.study.training.trial import split_of

STACKED, PLAIN = 40, 3
"""Trials a round, of either kind."""


def narrow(in_features: int, n_classes: int) -> nn.Module:
    """Two hidden layers of 64."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(in_features, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, n_classes)
    )  # fmt: skip


@dataclass(frozen=True)
class Case:
    """What is trained."""

    data: str
    model: str
    objective: str
    batch_size: int = 128
    stacked: int = STACKED

    def trials(self, dataset: Dataset, count: int, epochs: int) -> list[TrialSpec]:
        """Trials of several seeds, each with several learning rates, as a study has them."""
        spec = StudySpec(
            data=dataset, model=self.model, objectives=self.objective, batch_size=self.batch_size, seeds=math.ceil(count / 4),
            learning_rates=[3e-4, 1e-3, 3e-3, 1e-2], epochs=epochs, noise="symmetric:0.4",
        )  # fmt: skip
        return spec.trials(dataset.fingerprint)[:count]


CASES = (
    Case("digits", "mlp", "cross_entropy"),
    Case("digits", "mlp", "cross_entropy", stacked=10),
    Case("digits", "mlp", "ldr_kl_loss"),
    Case("digits", "mlp", "cross_entropy", batch_size=32),
    Case("digits", "__main__:narrow", "cross_entropy"),
    Case("digits", "__main__:narrow", "cross_entropy", batch_size=32),
    Case("digits", "linear", "cross_entropy"),
    Case("wine", "mlp", "cross_entropy"),
    Case("wine", "linear", "ldr_kl_loss"),
)


def seconds(action: Callable[[], object]) -> float:
    started = time.process_time()
    action()
    return time.process_time() - started


def usual(trial: TrialSpec, dataset: Dataset) -> None:
    """A trial, as a training loop is usually written."""
    split = split_of(trial, dataset)
    model = build_model(trial.model, tuple(split.x_train.shape[1:]), dataset.n_classes, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=trial.learning_rate, weight_decay=trial.weight_decay)
    for _ in range(trial.epochs):
        model.train()
        for rows in torch.randperm(len(split.y_train)).split(trial.batch_size):
            loss = F.cross_entropy(model(split.x_train[rows]), split.y_train[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            for x, y in ((split.x_validation, split.y_validation), (split.x_test, split.y_test)):
                (model(x).argmax(1) == y).float().mean().item()


def products(trial: TrialSpec, dataset: Dataset) -> float:
    """The time of all matrix products of a trial: each layer forward and backward in training, forward on the held-out rows."""
    split = split_of(trial, dataset)
    shape = split.x_train.shape[1:]
    layers = layers_of(build_model(trial.model, tuple(shape), dataset.n_classes, 0), shape)
    if layers is None:
        return 0.0
    n = len(split.y_train)
    pieces = math.ceil(n / trial.batch_size)

    def products_of(rows: int, backward: bool) -> float:
        inputs = [torch.randn(rows, layer.weight.shape[1]) for layer in layers]
        slopes = [torch.randn(rows, layer.weight.shape[0]) for layer in layers]

        def once() -> None:
            for i, (layer, x, slope) in enumerate(zip(layers, inputs, slopes, strict=True)):
                torch.mm(x, layer.weight.t())
                if backward:
                    torch.mm(slope.t(), x)
                    if i:
                        torch.mm(slope, layer.weight)

        once()
        return min(seconds(once) for _ in range(50))

    held_out = products_of(len(split.y_validation), False) + products_of(len(split.y_test), False)
    return trial.epochs * (pieces * products_of(n // pieces, True) + held_out)


def measure(case: Case, epochs: int, rounds: int) -> str:
    """A line of the table."""
    dataset = load_data(case.data)
    trials = case.trials(dataset, case.stacked, epochs)
    for together in (True, False):
        run_trials(trials[:2], dataset, together=together)
    stacked, plain, written, bound = [], [], [], []
    for _ in range(rounds):
        written.append(seconds(lambda: [usual(trial, dataset) for trial in trials[:PLAIN]]) / PLAIN)
        plain.append(seconds(lambda: run_trials(trials[:PLAIN], dataset, together=False)) / PLAIN)
        stacked.append(seconds(lambda: run_trials(trials, dataset)) / len(trials))
        bound.append(products(trials[0], dataset))
    ratios = [a / b for a, b in zip(plain, stacked, strict=True)]
    a, b = statistics.median(plain), statistics.median(stacked)
    name = f"{case.data} x {case.model.removeprefix('__main__:')}, {case.objective}, batch {case.batch_size}"
    return (
        f"{name:44} {len(trials):>7} {1 / a:>8.2f} {1 / b:>8.2f} {a / b:>7.2f} "
        f"{f'{min(ratios):.2f} to {max(ratios):.2f}':>14} {statistics.median(written) / b:>7.2f} {a / statistics.median(bound):>7.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=60, help="of every trial (default: %(default)s, as a study's)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--cases", type=int, default=len(CASES), help="only the first so many")
    options = parser.parse_args()
    torch.set_num_threads(1)
    machine = f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"
    print(f"{machine}, {options.epochs} epochs; trials per second of processor time")
    print(f"{'':44} {'stacked':>7} {'plain':>8} {'stacked':>8} {'ratio':>7} {'over rounds':>14} {'usual':>7} {'at most':>7}")
    for case in CASES[: options.cases]:
        print(measure(case, options.epochs, options.rounds), flush=True)


if __name__ == "__main__":
    main()
