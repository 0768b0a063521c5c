"""Which labels of the data are probably wrong: every row predicted by a model that did not see it, then confident learning.

The rows are dealt into folds, by groups where the data have them. On each fold predicts the study's baseline, trained on the others with
the configuration that most splits of the study chose, and the model, epochs and stop of the study.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from lossmith.diagnostics import confident_learning
from lossmith.study.data.dataset import Dataset
from lossmith.study.data.splits import draw_rows, noisy_labels
from lossmith.study.engine import alone, checked_jobs
from lossmith.study.errors import StudyError, one_line
from lossmith.study.noise_reports import keep, kept
from lossmith.study.report.suspected import BEFORE, FOLDS, Check, Suspects
from lossmith.study.results import StudyResult
from lossmith.study.shipment import Shipment
from lossmith.study.spec import StudySpec, TrialSpec
from lossmith.study.store import Store
from lossmith.study.training.trial import predict_test_rows
from lossmith.study.tuning.selection import most_chosen
from lossmith.study.workers import Workers, answers

if TYPE_CHECKING:
    import pandas as pd

OPTION = "--noise-report"


def suspects(
    result: StudyResult,
    dataset: Dataset | None = None,
    *,
    jobs: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    store: str | os.PathLike[str] | None = None,
) -> Suspects:
    """Look for wrong labels in the data of a finished study, by cross-validated confident learning.

    The labels are those that the study was given. Where it put noise into them, they are looked at with the noise of its first seed, so
    that `Suspects.check` says how well wrong labels in such data are found; so it does where the study has trusted labels.

    Args:
        result: the study.
        dataset: its data; read again from where they came from when None.
        jobs: how many worker processes; the number of processors when None.
        on_progress: called with the folds done and all folds.
        store: a file that keeps what is found beside the study, so that `lossmith report` shows it and the same call computes nothing; None
            keeps nothing.

    Raises:
        StudyError: the study left rows out on purpose or hides its test rows, the data are others than they were, a class has too few
            rows for the folds, or a model diverged.

    Example:
        >>> from lossmith import study
        >>> spec = study.StudySpec(
        ...     data="wine", objectives=["ce"], model="linear", noise="symmetric:0.1", seeds=2, epochs=60, learning_rates=[0.03]
        ... )
        >>> found = study.suspects(study.run(spec, jobs=1), jobs=1)
        >>> found.check.wrong, found.check.recall > 0.6
        (14, True)
    """
    spec = result.spec
    data = spec.load() if dataset is None else dataset
    if data.fingerprint != result.data["fingerprint"]:
        raise StudyError(f"{OPTION}: {data.name} is not what it was when the study was run: run it again")
    check_noise_report(spec, data)
    with Store(store) as opened:
        known = kept(result.digest, opened)
        if known is not None:
            if on_progress is not None:
                on_progress(FOLDS, FOLDS)
            return replace(known, cells=_cells(spec, known.rows))
        found = _search(result, data, checked_jobs(jobs), on_progress)
        keep(found, result.digest, opened)
    return found


def _search(result: StudyResult, data: Dataset, jobs: int, on_progress: Callable[[int, int], None] | None) -> Suspects:
    spec, label = result.spec, result.objectives[0]
    sound = [one.configuration for one in result.over(label) if one.status == "ok"]
    if not sound:
        raise StudyError(f"{OPTION}: {label} diverged in every configuration, and predicts nothing")
    configuration, _, _ = most_chosen(sound)
    looked_at, right = _looked_at(spec, data)
    crossed = _crossed(spec)
    make = crossed.maker(looked_at.fingerprint)
    trials = [make(spec.objectives[0], draw, configuration) for draw in crossed.draws]
    p = _out_of_fold(trials, looked_at, spec.stop, jobs, on_progress)
    learnt = confident_learning(torch.from_numpy(p), torch.from_numpy(looked_at.labels))
    found, suspect, names = learnt.ranked().numpy(), learnt.suspect.numpy(), data.class_names
    rows = found if data.rows is None else data.rows[found]
    return Suspects(
        objective=trials[0].objective.label,
        rows=rows,
        given=tuple(names[k] for k in looked_at.labels[found]),
        likely=tuple(names[k] for k in learnt.likely.numpy()[found]),
        probability=learnt.quality.numpy()[found],
        noise_rate=learnt.noise_rate,
        probabilities=p,
        labels=looked_at.labels,
        class_names=names,
        noise=spec.noise,
        right=None if right is None else tuple(None if k < 0 else names[k] for k in right[found]),
        check=None if right is None else _check(spec.clean_target or BEFORE, looked_at.labels, right, suspect),
        files=tuple(data.files[i] for i in found) if data.files else (),
        cells=_cells(spec, rows),
    )


def check_noise_report(spec: StudySpec, dataset: Dataset) -> None:
    """Refuse with a StudyError a study whose data cannot be looked at for wrong labels, before anything is computed."""
    if spec.grid is not None:
        raise StudyError(f"{OPTION} is for one study; this is one of {len(spec.grid[0]) * len(spec.grid[1])} run together")
    for option, given in (("--imbalance", spec.imbalance), ("--labels-per-class", spec.labels)):
        if given is not None:
            raise StudyError(
                f"{OPTION} looks at every row of the data, and {option} {given} leaves training rows out: leave out one of them"
            )
    if spec.holdout == "thresholdout":
        raise StudyError(f"{OPTION} looks at the labels of test rows themselves: leave it out with --holdout thresholdout")
    try:
        crossed, (looked_at, _) = _crossed(spec), _looked_at(spec, dataset)
        draw_rows(
            looked_at, spec.seeds[0], imbalance=None, labels=None, validation=crossed.validation, test=crossed.test, folds=FOLDS, fold=0
        )
    except StudyError as error:
        raise StudyError(f"{OPTION} deals the rows into {FOLDS} folds: {error}") from error


def _crossed(spec: StudySpec) -> StudySpec:
    """The same training in a cross-validation of its own; noise and trusted labels are the data's affair."""
    return replace(
        spec, noise=None, seeds=spec.seeds[:1], planned_seeds=None, folds=FOLDS, test=StudySpec.test, split_column=None, clean_target=None,
        clean_validation=False, stop_hopeless=None, probes=(), ood=None, ood_classes=(), time=None,
    )  # fmt: skip


def _looked_at(spec: StudySpec, dataset: Dataset) -> tuple[Dataset, NDArray[np.int64] | None]:
    """The data with the labels that are looked at, dealt anew whatever split they brought; and the right labels where some are known."""
    right = dataset.trusted if dataset.trusted is not None else None if spec.noise is None else dataset.labels
    labels = noisy_labels(dataset, spec.noise, spec.seeds[0])
    return replace(dataset, labels=labels, parts=None, trusted=None, strange=None), right


def _out_of_fold(
    trials: list[TrialSpec], dataset: Dataset, stop: str, jobs: int, on_progress: Callable[[int, int], None] | None
) -> NDArray[np.float64]:
    """`(n, c)` probabilities of every row, by the trial that tests on it."""
    from joblib import delayed

    tell = on_progress or (lambda done, total: None)
    shipment = Shipment.local(dataset)

    def calls(numbers: Iterable[int]) -> Iterator[Any]:
        for number in numbers:
            yield delayed(_predicted)(number, trials[number], stop, shipment)

    p = np.full((len(dataset.labels), dataset.n_classes), np.nan)
    tell(0, len(trials))
    for done, (number, answer) in enumerate(answers(Workers(min(jobs, len(trials))), calls, len(trials)), 1):
        if isinstance(answer, str):
            raise StudyError(f"{OPTION}: fold {number + 1} of {len(trials)}: {answer}")
        rows, found = answer
        p[rows] = found
        tell(done, len(trials))
    return p


def _predicted(number: int, trial: TrialSpec, stop: str, shipment: Shipment) -> tuple[int, Any]:
    """In a worker: its number, and the test rows with their probabilities or, in a line, why there are none."""
    from joblib import parallel_config

    with alone, parallel_config(backend="sequential"):
        try:
            shipment.settle()
            rows, p = predict_test_rows(trial, shipment.dataset, stop)
        except Exception as error:  # a user's model or objective may raise anything, which may not unpickle
            return number, str(error) if isinstance(error, StudyError) else one_line(error)
    return number, (rows, p.numpy())


def _check(against: str, labels: NDArray[np.int64], right: NDArray[np.int64], suspect: NDArray[np.bool_]) -> Check:
    known = right >= 0
    wrong = known & (labels != right)
    return Check(against, int(known.sum()), int(wrong.sum()), int((suspect & known).sum()), int((suspect & wrong).sum()))


def _cells(spec: StudySpec, rows: NDArray[np.int64]) -> "pd.DataFrame | None":
    """The rows as they stand in the user's file, without the target."""
    if spec.target is None or not isinstance(spec.data, str):
        return None
    path = Path(spec.data).expanduser()
    if not path.is_file():
        return None
    from lossmith.study.data.files import read_cells

    return read_cells(path).iloc[rows].drop(columns=spec.target).reset_index(drop=True)
