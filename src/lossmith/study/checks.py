"""What a study may ask for: everything else is refused before anything is computed, in one line that names the option."""

from collections.abc import Callable, Iterable
from typing import Any, get_args

import numpy as np

from lossmith._checks import nearest
from lossmith.study.data.dataset import Dataset
from lossmith.study.declared import STOPS, Declared
from lossmith.study.errors import StudyError
from lossmith.study.references import is_reference
from lossmith.study.statistics.paired import Test
from lossmith.study.training.metrics import METRICS
from lossmith.study.training.trees import TREES
from lossmith.study.tuning.space import LEARNING_RATES as RATE_INTERVAL

TUNERS = ("quasi_random", "grid", "optuna")

HOLDOUTS = ("plain", "thresholdout")


def check_asked(spec: Declared) -> None:
    def wanted(condition: bool, name: str, want: str) -> None:
        if not condition:
            raise StudyError(f"{name} must be {want}; got {getattr(spec, name)!r}")

    def whole(value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    wanted(len(spec.objectives) >= 1, "objectives", "one objective at least")
    twice = _repeated(objective.label for objective in spec.objectives)
    if twice is not None:
        raise StudyError(f"objective {twice} is named twice (aliases count as the same objective)")
    wanted(len(spec.seeds) >= 1 and all(whole(s) and s >= 0 for s in spec.seeds), "seeds", "a count of at least 1, or whole numbers >= 0")
    if _repeated(spec.seeds) is not None:
        raise StudyError(f"seed {_repeated(spec.seeds)} is named twice")
    if spec.metric not in METRICS:
        raise StudyError(f"metric must be one of {', '.join(METRICS)}; got {spec.metric!r}{nearest(spec.metric, METRICS)}")
    wanted(spec.stop in STOPS, "stop", "'last' or 'best'")
    wanted(whole(spec.epochs) and spec.epochs >= 1, "epochs", "a whole number >= 1")
    wanted(whole(spec.batch_size) and spec.batch_size >= 1, "batch_size", "a whole number >= 1")
    if spec.model in TREES and spec.batch_size != Declared.batch_size:
        raise StudyError(f"--batch-size is for networks; {spec.model} takes every row in every round: leave it out")
    _check_tuning(spec, wanted, whole)
    wanted(spec.imbalance is None or 0 < spec.imbalance <= 1, "imbalance", "a fraction in (0, 1], smallest class over largest")
    wanted(spec.labels is None or (whole(spec.labels) and spec.labels >= 1), "labels", "a whole number >= 1, rows a class")
    if spec.ood is not None and spec.ood_classes:
        raise StudyError("--ood and --ood-classes both say which rows are strange: give one of them")
    for name in ("validation", "test"):
        wanted(0 < getattr(spec, name) < 1, name, "a fraction in (0, 1)")
    if spec.validation + spec.test >= 1:
        raise StudyError(f"validation and test leave nothing to train on: {spec.validation} + {spec.test} must be < 1")
    wanted(spec.folds is None or (whole(spec.folds) and spec.folds >= 2), "folds", "a whole number >= 2")
    if spec.folds is not None and spec.test != Declared.test:
        raise StudyError(f"--folds {spec.folds} tests on one fold after the other, 1/{spec.folds} of the rows: leave out --test-fraction")
    if spec.folds is not None and spec.validation >= 1 - 1 / spec.folds:
        raise StudyError(f"--folds {spec.folds} and --validation-fraction {spec.validation} leave nothing to train on")
    wanted(spec.holdout in HOLDOUTS, "holdout", f"one of {', '.join(HOLDOUTS)}")
    if spec.holdout == "thresholdout":
        if spec.metric != "accuracy":
            raise StudyError(f"--holdout thresholdout answers means over rows of 0 and 1: leave --metric at accuracy; got {spec.metric}")
        if spec.stop_hopeless is not None:
            raise StudyError("--stop-hopeless looks at the test rows themselves: leave it out with --holdout thresholdout")
        if spec.looked_at:
            raise StudyError(
                "--probes, --ood and --ood-classes look at the test rows themselves: leave them out with --holdout thresholdout"
            )
    tests = get_args(Test)
    wanted(spec.stop_hopeless is None or spec.stop_hopeless in tests, "stop_hopeless", f"True or one of {', '.join(tests)}")
    if spec.stop_hopeless is not None and spec.folds is not None:
        raise StudyError("--stop-hopeless is for random splits, every two of which overlap alike: leave out --folds")
    if spec.clean_validation and spec.noise is None and spec.clean_target is None:
        raise StudyError("--clean-validation needs labels that are not clean: it goes with --noise or --clean-target")
    wanted(spec.time is None or 0 < spec.time < float("inf"), "time", "a length of time such as 90m, 1.5h or 1h30m")
    if spec.split_column is not None:
        for name, value, default in (("--folds", spec.folds, None), ("--test-fraction", spec.test, Declared.test)):
            if value != default:
                raise StudyError(f"--split-column {spec.split_column} says which rows are tested: leave out {name}")
    if isinstance(spec.data, str) and spec.target is not None and is_reference(spec.data):
        raise StudyError(f"target is for files with columns; {spec.data} returns its own labels")


def _check_tuning(spec: Declared, wanted: Callable[[bool, str, str], None], whole: Callable[[object], bool]) -> None:
    """Refuse a tuner that there is not, and options that belong to another one."""
    if spec.tuner not in TUNERS:
        raise StudyError(f"tuner must be one of {', '.join(TUNERS)}; got {spec.tuner!r}{nearest(str(spec.tuner), TUNERS)}")
    rates, (low, high) = spec.learning_rates, (*spec.learning_rate_range, 0.0, 0.0)[:2]
    if spec.tuner == "grid":
        assert rates is not None
        wanted(len(rates) >= 1 and all(0 < rate < float("inf") for rate in rates), "learning_rates", "finite numbers > 0, one at least")
        if _repeated(rates) is not None:
            raise StudyError(f"learning rate {_repeated(rates)} is named twice: the budget counts different ones")
        if spec.configurations is not None:
            raise StudyError("--configurations is for the tuners that search; a grid has as many as --learning-rates says")
    elif rates is not None:
        raise StudyError(f"--learning-rates is the grid of --tuner grid; {spec.tuner} searches in --learning-rate-range")
    wanted(
        spec.configurations is None or (whole(spec.configurations) and spec.configurations >= 1), "configurations", "a whole number >= 1"
    )
    good = len(spec.learning_rate_range) == 2 and 0 < low < high < float("inf")
    wanted(good, "learning_rate_range", "two numbers above 0, the smaller first")
    if spec.tuner == "grid" and spec.learning_rate_range != RATE_INTERVAL:
        raise StudyError("--learning-rate-range is for the tuners that search; a grid is --learning-rates")


def check_trusted(spec: Declared, dataset: Dataset) -> None:
    """Refuse trusted labels that are missing where they are needed: in test rows, and for a clean validation in validation rows."""
    trusted, parts = dataset.trusted, dataset.parts
    if spec.clean_target is None:
        raise StudyError(f"data {dataset.name} bring trusted labels: say so with --clean-target trusted")
    needed = np.ones(len(dataset.labels), dtype=bool)
    if parts is not None:
        held_out = 1 if (parts == 1).any() else 0
        needed = (parts == 2) | ((parts == held_out) & spec.clean_validation)
    lacking = np.flatnonzero(needed & (np.asarray(trusted) < 0))
    if len(lacking):
        where = "any row may be tested" if parts is None else "they are tested or validated with"
        raise StudyError(
            f"--clean-target {spec.clean_target}: {len(lacking)} rows have no trusted label (first in row {int(lacking[0]) + 1}), and "
            f"{where}: leave them out, or test on others by --split-column"
        )


def _repeated(values: Iterable[Any]) -> Any:
    """The first value that occurs a second time, or None."""
    seen = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None
