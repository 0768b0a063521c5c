"""The command line that runs a study again."""

import shlex
from collections.abc import Sequence
from typing import Any

from lossmith.study.budget import time_text
from lossmith.study.spec import CONFIGURATIONS, LEARNING_RATES, StudySpec


def command(
    spec: StudySpec, *, target: str | None = None, test: str | None = None, claim: str | None = None, noise_report: bool = False
) -> str | None:
    """The command line that runs this study, and all that were run together with it; None when data was an object of a program.

    Args:
        spec: the study, or the first of several.
        target: the column to predict, of a study run together with this one that has one.
        test, claim, noise_report: what was asked for beside the study itself.
    """
    if not isinstance(spec.data, str) or not isinstance(spec.ood, str | None):
        return None
    kinds = None if spec.noise is None else str(spec.noise)
    data, noise = (spec.data, kinds) if spec.grid is None else (",".join(spec.grid[0]), ",".join(spec.grid[1]))
    parts = ["lossmith", "compare", "--data", data, "--objectives", ",".join(objective.label for objective in spec.objectives)]
    given: list[tuple[str, Any, Any]] = [
        ("--target", spec.target or target, None),
        ("--model", spec.model, "mlp"),
        ("--noise", noise, None),
        ("--imbalance", None if spec.imbalance is None else str(spec.imbalance), None),
        ("--labels-per-class", spec.labels, None),
        ("--probes", ",".join(spec.probes), ""),
        ("--ood", spec.ood, None),
        ("--ood-classes", ",".join(spec.ood_classes), ""),
        ("--metric", spec.metric, "accuracy"),
        ("--stop", spec.stop, "last"),
        ("--epochs", spec.epochs, StudySpec.epochs),
        ("--batch-size", spec.batch_size, StudySpec.batch_size),
        ("--tuner", spec.tuner, "grid" if spec.learning_rates not in (None, LEARNING_RATES) else "quasi_random"),
        ("--configurations", spec.configurations, CONFIGURATIONS),
        ("--learning-rates", _listed(spec.learning_rates), _listed(LEARNING_RATES)),
        ("--learning-rate-range", _listed(spec.learning_rate_range), _listed(StudySpec.learning_rate_range)),
        ("--validation-fraction", spec.validation, StudySpec.validation),
        ("--test-fraction", spec.test, StudySpec.test),
        ("--folds", spec.folds, None),
        ("--group", spec.group, None),
        ("--split-column", spec.split_column, None),
        ("--clean-target", spec.clean_target, None),
        ("--time", None if spec.time is None else time_text(spec.time), None),
        ("--text", ",".join(spec.text), ""),
        ("--tokenizer", spec.tokenizer, None),
        ("--holdout", spec.holdout, StudySpec.holdout),
        ("--duplicates", spec.duplicates, StudySpec.duplicates),
        ("--test", None if test == "paired_t" else test, "corrected_t"),  # what corrected_t is with one split
        ("--claim", claim, "these"),
    ]
    for name, value, default in given:
        if value is not None and value != default:
            parts += [name, str(value)]
    parts += [] if spec.references else ["--no-references"]
    parts += ["--clean-validation"] if spec.clean_validation else []
    parts += ["--tune-once"] if spec.tune_once else []
    parts += ["--stop-hopeless"] if spec.stop_hopeless else []
    parts += ["--noise-report"] if noise_report else []
    seeds = spec.planned_seeds or spec.seeds
    counted = seeds == tuple(range(len(seeds)))
    parts += ["--seeds", str(len(seeds)) if counted else ",".join(map(str, seeds)) + ("," if len(seeds) == 1 else "")]
    return shlex.join(parts)


def _listed(numbers: Sequence[float] | None) -> str | None:
    return None if numbers is None else ",".join(f"{number:g}" for number in numbers)
