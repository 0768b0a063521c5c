"""The command line that runs a study again."""

import shlex
from typing import Any

from lossmith.study.budget import time_text
from lossmith.study.spec import LEARNING_RATES, StudySpec


def command(spec: StudySpec) -> str | None:
    """The command line that runs this study, and all that were run together with it; None when the data was an object of a program."""
    if not isinstance(spec.data, str):
        return None
    kinds = None if spec.noise is None else f"{spec.noise.kind}:{spec.noise.rate:g}"
    data, noise = (spec.data, kinds) if spec.grid is None else (",".join(spec.grid[0]), ",".join(spec.grid[1]))
    parts = ["lossmith", "compare", "--data", data, "--objectives", ",".join(objective.label for objective in spec.objectives)]
    given: list[tuple[str, Any, Any]] = [
        ("--target", spec.target, None),
        ("--model", spec.model, "mlp"),
        ("--noise", noise, None),
        ("--imbalance", None if spec.imbalance is None else f"{spec.imbalance:g}", None),
        ("--labels-per-class", spec.labels, None),
        ("--probes", ",".join(spec.probes), ""),
        ("--ood", spec.ood if isinstance(spec.ood, str) else None, None),
        ("--ood-classes", ",".join(spec.ood_classes), ""),
        ("--metric", spec.metric, "accuracy"),
        ("--stop", spec.stop, "last"),
        ("--epochs", spec.epochs, StudySpec.epochs),
        ("--batch-size", spec.batch_size, StudySpec.batch_size),
        ("--learning-rates", ",".join(f"{rate:g}" for rate in spec.learning_rates), ",".join(f"{rate:g}" for rate in LEARNING_RATES)),
        ("--validation-fraction", spec.validation, StudySpec.validation),
        ("--test-fraction", spec.test, StudySpec.test),
        ("--folds", spec.folds, None),
        ("--group", spec.group, None),
        ("--split-column", spec.split_column, None),
        ("--clean-target", spec.clean_target, None),
        ("--time", None if spec.time is None else time_text(spec.time), None),
        ("--text", ",".join(spec.text), ""),
        ("--tokenizer", spec.tokenizer, None),
        ("--duplicates", spec.duplicates, StudySpec.duplicates),
    ]
    for name, value, default in given:
        if value is not None and value != default:
            parts += [name, str(value)]
    parts += [] if spec.references else ["--no-references"]
    parts += ["--clean-validation"] if spec.clean_validation else []
    seeds = spec.planned_seeds or spec.seeds
    counted = seeds == tuple(range(len(seeds)))
    parts += ["--seeds", str(len(seeds)) if counted else ",".join(map(str, seeds)) + ("," if len(seeds) == 1 else "")]
    return shlex.join(parts)
