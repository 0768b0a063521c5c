"""What else is looked at in a trained model, when it is asked for: how it stands up to corruptions and attacks, what it makes of strange
rows, the geometry of its last layer, its margins, and what its objective costs.

A probe is a name, with a number where it needs one (``fgsm:0.1``); it gives named numbers. Nothing that is chosen in a study, no learning
rate and no epoch, depends on them.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from lossmith._checks import nearest
from lossmith.calibration import false_positive_rate, ood_auroc, ood_score
from lossmith.diagnostics import logit_margins, neural_collapse
from lossmith.robust import fgsm, pgd
from lossmith.study.data.dataset import Dataset
from lossmith.study.data.shifts import SEVERITIES, corrupt, pixel_range, shifts_of
from lossmith.study.data.splits import Split, stream
from lossmith.study.errors import StudyError
from lossmith.study.training.metrics import evaluate

if TYPE_CHECKING:
    from lossmith.study.training.criterion import Criterion

Numbers = dict[str, float | None]
Model = Callable[[Tensor], Tensor]

ATTACKS = {
    "fgsm": "accuracy on test rows moved by one step against their label, RADIUS in pixel ranges or standard deviations",
    "pgd": "the same by twenty steps from a random start in the ball",
}
PLAIN = {
    "ood": "how well strange rows are told from test rows (--ood, --ood-classes)",
    "collapse": "neural collapse of the training rows' last features: 0 where they have become the vertices of a simplex",
    "margins": "by how much the right class leads on training rows",
    "cost": "of one step: milliseconds of the objective, forward and backward, and MiB that it keeps for backward",
}
ALL_SHIFTS = "corruptions"
OOD_SCORES = ("max_probability", "energy")
TIMED = 5
"""Evaluations of an objective of which the quickest is its time."""


def read_probes(asked: str | Iterable[str], dataset: Dataset) -> tuple[str, ...]:
    """The probes asked for, in canonical form and each once; a StudyError for one that there is not, or that these data do not allow."""
    words = asked.split(",") if isinstance(asked, str) else list(asked)
    found: dict[str, None] = {}
    for word in (word.strip() for word in words):
        name, colon, number = word.partition(":")
        if not word:
            continue
        if name == ALL_SHIFTS and not colon and not shifts_of(dataset):
            raise StudyError("corruptions are of numbers and images, and these rows are texts; leave them out")
        if name == ALL_SHIFTS and not colon:
            found.update(dict.fromkeys(shifts_of(dataset)))
        elif name in ATTACKS:
            found[f"{name}:{_radius(word, number)!r}"] = None
            _attackable(dataset)
        elif not colon and (name in PLAIN or name in shifts_of(dataset)):
            found[name] = None
        else:
            known = [ALL_SHIFTS, *shifts_of(dataset), *(f"{attack}:RADIUS" for attack in ATTACKS), *PLAIN]
            raise StudyError(f"probes are {', '.join(known)}; got {word!r}{nearest(name, known)}")
    if "ood" in found and dataset.strange is None:
        raise StudyError("probe ood needs strange rows: name data with --ood, or classes to hold out with --ood-classes")
    if dataset.strange is not None:
        found["ood"] = None
    return tuple(found)


def _radius(word: str, number: str) -> float:
    try:
        radius = float(number)
    except ValueError:
        radius = math.nan
    if not 0 < radius < math.inf:
        raise StudyError(f"an attack needs a radius above 0, as in fgsm:0.1; got {word!r}")
    return radius


def _attackable(dataset: Dataset) -> None:
    if dataset.is_text:
        raise StudyError("attacks change numbers a little, and these rows are texts; leave fgsm and pgd out")
    kinds = {column.kind for column in dataset.columns}
    if "categorical" in kinds or not np.isfinite(dataset.features).all():
        raise StudyError("attacks change numbers a little, and these rows have categories or missing values; leave fgsm and pgd out")


def probe(
    names: Iterable[str],
    model: nn.Module,
    split: Split,
    *,
    seed: int,
    metric: str,
    temperature: float,
    criterion: "Criterion",
    batch_size: int,
) -> dict[str, Numbers]:
    """What each probe finds in a model: a mapping for each, a corruption at every severity being one of its own (``contrast@3``).

    Args:
        names: as `read_probes` takes them.
        model: trained; left in evaluation mode.
        split: the data of its seed.
        seed: draws what is drawn, the same for every model of the seed.
        metric: the study's primary metric, beside accuracy and log loss under corruption.
        temperature: what probabilities are taken at.
        criterion: the objective, for its cost.
        batch_size: of a training step.
    """
    model.eval()
    wanted = tuple(dict.fromkeys((metric, "accuracy", "log_loss")))
    found: dict[str, Numbers] = {}
    for name in read_probes(names, split.dataset):
        if name in shifts_of(split.dataset):
            for severity in SEVERITIES:
                draw = stream(seed, f"{name} {severity}")
                x = split.prepare(corrupt(split.dataset, split.rows_test, split.rows_train, name, severity, draw))
                found[f"{name}@{severity}"] = _finite(evaluate(_logits(model, x), split.y_test, names=wanted, temperature=temperature))
        elif name == "ood":
            found |= _strangeness(model, split, temperature)
        elif name == "collapse":
            found[name] = _collapse(model, split)
        elif name == "margins":
            found[name] = _margins(model, split)
        elif name == "cost":
            found[name] = _cost(model, split, criterion, batch_size)
        else:
            found[name] = {"accuracy": _attacked(name, model, split, seed)}
    return found


@torch.inference_mode()
def _logits(model: Model, x: Tensor) -> Tensor:
    return torch.cat([model(rows) for rows in x.split(4096)])


def _finite(values: Mapping[str, float]) -> Numbers:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _strangeness(model: Model, split: Split, temperature: float) -> dict[str, Numbers]:
    assert split.dataset.strange is not None
    inside, outside = _logits(model, split.x_test), _logits(model, split.prepare(split.dataset.strange))
    found = {}
    for score in OOD_SCORES:
        scores = [ood_score(z, score, temperature=temperature) for z in (inside, outside)]
        if any(values.isnan().any() for values in scores):
            found[f"ood {score}"] = Numbers({"auroc": None, "fpr95": None})
        else:
            found[f"ood {score}"] = {"auroc": ood_auroc(*scores).item(), "fpr95": false_positive_rate(*scores).item()}
    return found


def _collapse(model: nn.Module, split: Split) -> Numbers:
    """Empty where the model does not end in a linear layer that gives the logits."""
    caught: dict[nn.Linear, list[tuple[Tensor, Tensor]]] = {}

    def catch(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer, nn.Linear)
        if output.ndim == 2:
            caught.setdefault(layer, []).append((inputs[0], output))  # a model may take its rows in several parts

    hooks = [layer.register_forward_hook(catch) for layer in model.modules() if isinstance(layer, nn.Linear)]
    try:
        with torch.no_grad():
            logits = model(split.x_train)
    finally:
        for hook in hooks:
            hook.remove()
    layers = {layer: tuple(map(torch.cat, zip(*parts, strict=True))) for layer, parts in caught.items()}
    last = [layer for layer, (_, output) in layers.items() if output.shape == logits.shape and torch.equal(output, logits)]
    counted = torch.bincount(split.y_train, minlength=logits.shape[1])
    if not last or (counted == 0).any():
        return {}
    found = neural_collapse(layers[last[0]][0], split.y_train, last[0].weight, last[0].bias)
    return _finite({name: value.item() for name, value in vars(found).items()})


def _margins(model: Model, split: Split) -> Numbers:
    margins = logit_margins(_logits(model, split.x_train), split.y_train)
    least, middle = margins.quantile(torch.tensor([0.05, 0.5], dtype=margins.dtype)).tolist()
    wrong = (margins < 0).double().mean().item()
    return _finite({"mean": margins.mean().item(), "median": middle, "5 % quantile": least, "share below 0": wrong})


def _cost(model: Model, split: Split, criterion: "Criterion", batch_size: int) -> Numbers:
    """Of the objective alone, on the logits of a batch of training rows. Training is over: what it does to a state matters no more."""
    rows = torch.arange(min(batch_size, len(split.y_train)))
    logits, target = _logits(model, split.x_train[rows]).clone(), split.y_train[rows]
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    quickest = math.inf
    with torch.random.fork_rng(devices=[]), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        for _ in range(TIMED):
            z = logits.clone().requires_grad_()
            given = z.untyped_storage().data_ptr()
            kept.clear()
            started = time.process_time()
            torch.autograd.grad(criterion(z, target, rows), z)
            quickest = min(quickest, time.process_time() - started)
            kept.pop(given, None)
    return {"milliseconds": 1000 * quickest, "MiB": sum(kept.values()) / 2**20}


def _attacked(name: str, model: Model, split: Split, seed: int) -> float:
    """Accuracy under an attack that follows cross-entropy whatever the model was trained with, so that all meet the same."""
    kind, _, number = name.partition(":")
    radius, bounds = float(number), None
    if split.dataset.image_shape is not None:
        low, high = pixel_range(split.dataset, np.concatenate([split.rows_train, split.rows_test]))
        ends = [split.prepare(np.full((1, *split.dataset.image_shape), end)).flatten()[0].item() for end in (low, high)]
        bounds = (min(ends[0], split.x_test.min().item()), max(ends[1], split.x_test.max().item()))
        radius *= ends[1] - ends[0]
    if kind == "fgsm":
        moved = fgsm(model, split.x_test, split.y_test, radius=radius, bounds=bounds)
    else:
        draw = torch.Generator().manual_seed(int(stream(seed, name).integers(2**63 - 1)))
        moved = pgd(model, split.x_test, split.y_test, radius=radius, steps=20, bounds=bounds, generator=draw)
    return (_logits(model, moved).argmax(1) == split.y_test).double().mean().item()
