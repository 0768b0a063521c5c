"""Time, memory and rounding of the fused linear head, as ratios: to its floor and to what else PyTorch offers.

    python benchmarks/fused.py --table cross-entropy --memory
    python benchmarks/fused.py --table cross-entropy --rows 512 --vocab 131072
    python benchmarks/fused.py --table composed --memory
    python benchmarks/fused.py --table distillation --memory
    python benchmarks/fused.py --table distillation --generators --rounds 3
    python benchmarks/fused.py --table composed --dtype bfloat16 --errors

**Time** is CPU time of this process (`time.process_time`, one thread), forward and backward. All variants are interleaved in one process,
one call each a round, in an order that changes from round to round, so that a busy machine is busy for all of them; a ratio is the median
over the rounds of the ratio to the floor in the same round, with a 95 % interval of that median from its order statistics. Of
PyTorch's own head, what takes more than five times the floor runs in every fifth round alone. The floor is the three matrix products, in
float32, on 256 rows at a time into buffers that exist, laid out as the engine's are: no exponential, no sum. Distillation has a floor of
its own, the four products that it needs; its variants are divided by that one.

**Memory** (`--memory`) is the most that was resident beyond the inputs, gradients included, of one call in a fresh process: the
high-water mark that the kernel keeps (VmHWM), set back just before the call. Pages are counted when they are touched; blocks of more
than 1 MiB go back to the system when they are freed (MALLOC_MMAP_THRESHOLD_). A small call first loads the libraries. Linux only.

**Errors** (`--errors`) are against the definition in float64 on the same inputs: of the loss, relative; of both gradients, the largest
relative to the largest entry, beside what the exact gradient loses when it is rounded to its dtype.

Variants that cannot be run (a PyTorch without `F.linear_cross_entropy`, no compiler) are left out, and said so.
"""

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from fused_errors import errors, row_weights
from torch import Tensor

import lossmith
from lossmith.fused import LinearLogits, Logits, explain, linear_log_prob, linear_stats
from lossmith.fused.tiles import rows_of_logits
from lossmith.generators import all_generators

MIB = 2**20


class Problem(NamedTuple):
    hidden: Tensor
    weight: Tensor
    target: Tensor
    teacher_hidden: Tensor
    teacher_weight: Tensor


Step = Callable[[Problem], None]


def problem(rows: int, width: int, classes: int, dtype: torch.dtype, *, ignored: float = 0.0, frozen: bool = False) -> Problem:
    """Hidden states and a head that give logits of standard deviation 2, and labels."""
    torch.manual_seed(0)
    hidden = torch.randn(rows, width).to(dtype).requires_grad_()
    weight = (torch.randn(classes, width).mul_(2 / math.sqrt(width))).to(dtype).requires_grad_(not frozen)
    target = torch.randint(classes, (rows,))
    target[torch.rand(rows) < ignored] = -100
    teacher = torch.randn(rows, width).to(dtype), torch.randn(classes, width).mul_(2 / math.sqrt(width)).to(dtype)
    return Problem(hidden, weight, target, *teacher)


def backward(loss: Callable[[Problem], Tensor]) -> Step:
    """Forward and backward; the gradients are dropped, as an optimizer's zero_grad would."""

    def step(p: Problem) -> None:
        p.hidden.grad = p.weight.grad = None
        loss(p).backward()

    return step


def floor(p: Problem, rows: int = 256) -> Step:
    """The three products: logits, gradient of the hidden states, gradient of the head."""
    x, w = p.hidden.detach().float(), p.weight.detach().float()
    z, dx, dw = rows_of_logits(rows, w.shape[0], x), torch.empty_like(x), torch.zeros_like(w)

    def step(_: Problem) -> None:
        for start in range(0, x.shape[0], rows):
            some = x[start : start + rows]
            out = z[: some.shape[0]]
            torch.mm(some, w.T, out=out)
            torch.mm(out, w, out=dx[start : start + rows])
            dw.addmm_(out.T, some, beta=0)

    return step


def distillation_floor(p: Problem, rows: int = 256) -> Step:
    """The four products of distillation: both sides' logits, and the student's two gradients."""
    x, w, t, v = (tensor.detach().float() for tensor in (p.hidden, p.weight, p.teacher_hidden, p.teacher_weight))
    z, q, dx, dw = *(rows_of_logits(rows, w.shape[0], x) for _ in range(2)), torch.empty_like(x), torch.zeros_like(w)

    def step(_: Problem) -> None:
        for start in range(0, x.shape[0], rows):
            some = x[start : start + rows]
            out = z[: some.shape[0]]
            torch.mm(t[start : start + rows], v.T, out=q[: some.shape[0]])
            torch.mm(some, w.T, out=out)
            torch.mm(out, w, out=dx[start : start + rows])
            dw.addmm_(out.T, some, beta=0)

    return step


def distilled(generator: str, *, dense: bool = False) -> Callable[[Problem], Tensor]:
    """Distillation from a teacher that does not learn."""

    def loss(p: Problem) -> Tensor:
        if dense:
            sides = F.linear(p.hidden, p.weight), F.linear(p.teacher_hidden, p.teacher_weight)
            return F.kl_div(*(z.float().log_softmax(1) for z in sides), reduction="batchmean", log_target=True)
        sides = LinearLogits(p.hidden, p.weight), LinearLogits(p.teacher_hidden, p.teacher_weight)
        return lossmith.divergence_distillation(*sides, generator=generator)

    return loss


def eager(p: Problem) -> Tensor:
    return F.cross_entropy(F.linear(p.hidden, p.weight), p.target)


def of_torch(**options: object) -> Callable[[Problem], Tensor]:
    """PyTorch's own chunked head."""
    from torch.nn.modules.linear_cross_entropy_options import LinearCrossEntropyOptions

    chosen = LinearCrossEntropyOptions(**options)
    return lambda p: F.linear_cross_entropy(p.hidden, p.weight, p.target, options=chosen)


def weighted(p: Problem) -> Tensor:
    """What follows the log-probabilities is not known beforehand, as in the objectives of alignment."""
    return -(row_weights(p.target) * linear_log_prob(p.hidden, p.weight, p.target)).mean()


def smoothed(p: Problem) -> Tensor:
    return lossmith.cross_entropy(LinearLogits(p.hidden, p.weight), p.target, label_smoothing=0.1)


def with_z_loss_and_entropy(p: Problem) -> Tensor:
    found = linear_stats(p.hidden, p.weight, p.target, want=("log_prob", "logsumexp", "entropy"))
    return (-found.log_prob + 1e-4 * found.logsumexp**2 - 0.01 * found.entropy).mean()


def three_temperatures(p: Problem) -> Tensor:
    found = linear_stats(p.hidden, p.weight, p.target, want=("target_logit", "logsumexp"), temperatures=(2.0, 4.0))
    return (found.logsumexp + found.logsumexp_at.sum(-1) - 1.75 * found.target_logit).mean()


OURS: dict[str, Callable[[Problem], Tensor]] = {
    "cross_entropy": lambda p: lossmith.cross_entropy(LinearLogits(p.hidden, p.weight), p.target),
    "cross_entropy, recompute": lambda p: lossmith.cross_entropy(LinearLogits(p.hidden, p.weight, schedule="recompute"), p.target),
    "per-token weights": weighted,
    "focal_loss": lambda p: lossmith.focal_loss(LinearLogits(p.hidden, p.weight), p.target),
    "smoothing": smoothed,
    "z-loss and entropy": with_z_loss_and_entropy,
    "three temperatures": three_temperatures,
}

DISTILLED = ("kl", "reverse_kl", "jensen_shannon", "skew_kl(skew=0.1)", "total_variation", "squared_hellinger", "triangular")
"""Generators that distillation is timed with, against the floor of its own products; all there are with `--generators`."""


TABLES = {
    "cross-entropy": ("lossmith cross_entropy", "half the rows", "eager", "torch.compile", "F.linear_cross_entropy"),
    "composed": (*(f"lossmith {name}" for name in OURS if name != "cross_entropy"), "frozen"),
    "distillation": ("distillation",),
}


def steps(
    p: Problem, *, compiled: bool = True, generators: Sequence[str] = DISTILLED
) -> tuple[dict[str, Callable[[Problem], Tensor]], list[str]]:
    """The loss of everything to be timed on a problem, and what had to be left out."""
    found = {f"lossmith {name}": loss for name, loss in OURS.items()}
    left_out = []
    found |= {f"lossmith distillation, {name}": distilled(name) for name in generators}
    found["distillation, dense F.kl_div"] = distilled("kl", dense=True)
    found["eager"] = eager
    if compiled:
        found["torch.compile"] = torch.compile(eager)
    if hasattr(F, "linear_cross_entropy"):
        found["F.linear_cross_entropy auto"] = of_torch()
        for rows in (256, 512, 1024):
            if rows < 2 * p.hidden.shape[0]:
                found[f"F.linear_cross_entropy {rows} rows"] = of_torch(batch_chunk_size=rows)
    else:
        left_out.append("F.linear_cross_entropy: this PyTorch has none")
    return found, left_out


def seconds(step: Step, p: Problem) -> float:
    start = time.process_time()
    step(p)
    return time.process_time() - start


def interval(values: list[float]) -> tuple[float, float]:
    """A 95 % interval of the median, from order statistics: the ranks within 1.96 standard deviations of a fair coin's heads."""
    ordered, n = sorted(values), len(values)
    reach = 1.96 * math.sqrt(n) / 2
    return ordered[max(0, math.floor(n / 2 - reach))], ordered[min(n - 1, math.ceil(n / 2 + reach) - 1)]


SLOW = 5
"""PyTorch's own head, where it takes this many times the floor, runs in every so many rounds alone."""


def timed(found: dict[str, Step], problems: dict[str, Problem], rounds: int) -> dict[str, list[float | None]]:
    """CPU seconds of every step in every round, None where it sat out; each runs once before. What fails to run is dropped."""
    ready, first = {}, {}
    for name, step in found.items():
        try:
            first[name] = seconds(step, problems[name])
            ready[name] = step
        except Exception as error:
            print(f"left out: {name}: {str(error).splitlines()[0]}")
    slow = {name for name in ready if "F.linear" in name and first[name] > SLOW * first["floor"]}
    spent: dict[str, list[float | None]] = {name: [] for name in ready}
    order, shuffle = list(ready), random.Random(0)
    for done in range(rounds):
        shuffle.shuffle(order)
        for name in order:
            spent[name].append(seconds(ready[name], problems[name]) if name not in slow or done % SLOW == 0 else None)
        print(f"\rround {done + 1} of {rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return spent


def table(spent: dict[str, list[float | None]]) -> None:
    print(f"{'':42}{'x floor':>8}  {'95 % of the median':>20}{'ms':>10}{'rounds':>8}")
    for name, values in spent.items():
        floors = spent["distillation floor" if "distillation" in name else "floor"]
        ratios = [value / least for value, least in zip(values, floors, strict=True) if value is not None and least is not None]
        low, high = interval(ratios)
        each = statistics.median(value for value in values if value is not None)
        print(f"{name:42}{statistics.median(ratios):8.2f}  {f'[{low:.2f}, {high:.2f}]':>20}{1000 * each:10.0f}{len(ratios):8}")


def status(field: str) -> int:
    """A line of /proc/self/status, in bytes."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def peak(name: str, p: Problem) -> int:
    """The most resident memory beyond what there was before the call."""
    small = problem(600, p.hidden.shape[1], 512, p.hidden.dtype)
    generators = (*DISTILLED, *all_generators())
    made, _ = steps(small, compiled=name == "torch.compile", generators=generators)
    backward(made[name])(small)
    step = backward(steps(p, compiled=False, generators=generators)[0].get(name) or made[name])
    if name == "torch.compile":
        step(p)  # compiled again for these shapes
        p.hidden.grad = p.weight.grad = None
    before = status("VmRSS")
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")
    step(p)
    return status("VmHWM") - before


def peaks(names: list[str], arguments: argparse.Namespace) -> None:
    """Every variant's peak, in a process of its own."""
    size = arguments.classes * arguments.width + arguments.rows * arguments.width
    item = torch.finfo(getattr(torch, arguments.dtype)).bits // 8
    print(f"\n{'peak memory, MiB':42}{'in all':>10}{'beyond the gradients':>24}    (gradients: {size * item / MIB:.0f})")
    for name in names:
        command = [sys.executable, __file__, *sys.argv[1:], "--peak-of", name]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"MALLOC_MMAP_THRESHOLD_": str(MIB)})
        if done.returncode:
            print(f"{name:42}{'failed: ' + done.stderr.strip().splitlines()[-1]}")
            continue
        most = json.loads(done.stdout.splitlines()[-1])
        print(f"{name:42}{most / MIB:10.0f}{(most - size * item) / MIB:24.0f}")


def given_logits(rows: int, classes: int, rounds: int) -> None:
    """`fused.Logits` against torch on logits that exist: time, and peak memory as a multiple of the logits."""
    torch.manual_seed(0)
    z, y = torch.randn(rows, classes).mul_(2).requires_grad_(), torch.randint(classes, (rows,))

    def step(loss: Callable[[], Tensor]) -> tuple[float, float]:
        z.grad = None
        before = status("VmRSS")
        with open("/proc/self/clear_refs", "w") as reset:
            reset.write("5")
        start = time.process_time()
        loss().backward()
        return time.process_time() - start, (status("VmHWM") - before) / (z.numel() * z.itemsize)

    ways = {"F.cross_entropy": lambda: F.cross_entropy(z, y), "lossmith.fused.Logits": lambda: lossmith.cross_entropy(Logits(z), y)}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, loss in ways.items():
            found[name].append(step(loss))
    print(f"\ngiven logits, {rows} x {classes}: peak as a multiple of the logits, time as a ratio to torch")
    for name, values in found.items():
        ratios = [mine[0] / theirs[0] for mine, theirs in zip(values[1:], found["F.cross_entropy"][1:], strict=True)]
        print(f"{name:42}{statistics.median(v[1] for v in values[1:]):8.2f} x{statistics.median(ratios):10.2f}")


def belongs(name: str, parts: Sequence[str]) -> bool:
    """Whether a variant's name contains one of these."""
    return any(part in name for part in parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", choices=tuple(TABLES), help="a part of the variants; all by default")
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--vocab", "--classes", dest="classes", type=int, default=32768)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--memory", action="store_true", help="peak memory too")
    parser.add_argument("--errors", action="store_true", help="errors against float64 too")
    parser.add_argument("--generators", action="store_true", help="distillation with every generator there is")
    parser.add_argument("--given", action="store_true", help="fused.Logits too")
    parser.add_argument("--only", nargs="*", default=[], help="variants whose name contains one of these, and the floor")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dtype = getattr(torch, arguments.dtype)
    p = problem(arguments.rows, arguments.width, arguments.classes, dtype)
    if arguments.peak_of:
        warnings.simplefilter("ignore")
        print(json.dumps(peak(arguments.peak_of, p)))
        return
    print(f"{arguments.rows} rows, {arguments.width} wide, {arguments.classes} classes, {arguments.dtype}; torch {torch.__version__}")
    print(explain(LinearLogits(p.hidden, p.weight)), end="\n\n")
    generators = tuple(all_generators()) if arguments.generators else DISTILLED
    found, left_out = steps(p, compiled=arguments.table in (None, "cross-entropy"), generators=generators)
    half, frozen = (problem(*p.hidden.shape, p.weight.shape[0], dtype, **how) for how in ({"ignored": 0.5}, {"frozen": True}))
    others = {"half the rows ignored": ("cross_entropy", half), "focal_loss, frozen head": ("focal_loss", frozen)}
    parts = arguments.only or TABLES.get(arguments.table, ("",))
    found, others = ({name: way for name, way in of.items() if belongs(name, parts)} for of in (found, others))
    if arguments.rounds:
        every = {"floor": floor(p)}
        if any("distillation" in name for name in found):
            every["distillation floor"] = distillation_floor(p)
        every |= {name: backward(loss) for name, loss in found.items()} | {name: backward(OURS[loss]) for name, (loss, _) in others.items()}
        table(timed(every, dict.fromkeys(every, p) | {name: on for name, (_, on) in others.items()}, arguments.rounds))
    for line in left_out:
        print(f"left out: {line}")
    if arguments.memory:
        peaks(list(found), arguments)
    if arguments.errors:
        errors(found, p)
    if arguments.given:
        given_logits(arguments.rows, arguments.classes, arguments.rounds)


if __name__ == "__main__":
    main()
