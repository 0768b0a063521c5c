"""``lossmith compare``: which objective is better on these data, what could be shown, and what was."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

from cyclopts import Parameter

from lossmith.cli.output import console, fields
from lossmith.cli.presenting import present
from lossmith.cli.problems import INTERRUPTED, USAGE, Problem, message, need

if TYPE_CHECKING:
    from lossmith.study import ObjectiveSpec, StudyResult, StudySpec
    from lossmith.study.statistics.paired import Test

FOLDER = Path("lossmith-report")
STORE = "trials.sqlite"


def compare(
    *,
    data: str,
    objectives: str,
    target: str | None = None,
    model: str = "mlp",
    noise: str | None = None,
    imbalance: float | None = None,
    labels_per_class: int | None = None,
    seeds: str = "10",
    metric: str = "accuracy",
    stop: str = "last",
    baseline: str | None = None,
    epochs: int = 60,
    batch_size: int = 128,
    tuner: str | None = None,
    configurations: int | None = None,
    learning_rates: str | None = None,
    learning_rate_range: str = "3e-5,3e-2",
    tune_once: bool = False,
    optuna_storage: str | None = None,
    stop_hopeless: bool = False,
    holdout: str = "plain",
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
    folds: int | None = None,
    group: str | None = None,
    split_column: str | None = None,
    duplicates: str = "together",
    clean_target: str | None = None,
    clean_validation: bool = False,
    probes: str | None = None,
    ood: str | None = None,
    ood_classes: str | None = None,
    no_references: bool = False,
    time: str | None = None,
    test: str = "corrected_t",
    jobs: int | None = None,
    store: Path | None = None,
    out: Path = FOLDER,
    dry_run: bool = False,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Compare objectives.

    Args:
        data: digits, wine, breast_cancer (real, bundled); a CSV or Parquet file; or module:function returning (features, labels).
        objectives: separated by commas, with hyper-parameters after a colon: ce,gce:q=0.7; module:function for your own.
        target: the column to predict; for files.
        model: linear, mlp, cnn (images), or module:function returning a torch module.
        noise: wrong labels in training and validation rows: symmetric:0.4, asymmetric:0.3, or instance:0.4 (depending on the row).
            Test labels stay right.
        imbalance: thin the training classes, the smallest to this fraction of the largest.
        labels_per_class: train on so few rows of each class.
        seeds: how many, or which (0,1,7). Each redraws the split, the initial weights and the batches.
        metric: the one that is declared and tested (accuracy, balanced_accuracy, f1, auroc, log_loss, brier, ...); all are reported.
        stop: the epoch the verdict is about: last, or best on validation. Both are reported.
        baseline: which objective the others are compared with; the first when left out.
        epochs: of every trial.
        batch_size: of every trial.
        tuner: who proposes configurations for every objective inside each seed; validation rows choose among them.
            quasi_random spreads them over learning rate, weight decay and the hyper-parameters that --objectives does not fix; optuna
            learns from those before; grid tries --learning-rates and nothing else. When left out: grid with --learning-rates, else
            quasi_random.
        configurations: how many each objective gets, the same for all; 12 when left out.
        learning_rates: the grid, 3e-5,1e-4,3e-4,1e-3,3e-3,1e-2 when left out.
        learning_rate_range: where the other tuners search.
        tune_once: tune on three further seeds, which are not tested, and use what they chose for every seed.
        optuna_storage: a URL that Optuna takes; beside the store when left out.
        stop_hopeless: after every seed, end objectives for which a worthwhile advantage over the baseline is excluded.
            It makes no false winners: the others are tested on all seeds.
        holdout: how test rows answer: plain, or by thresholdout, where a store is asked again and again for months. It answers from
            validation rows as long as test rows roughly agree, and shows nothing else of these; accuracy only.
        validation_fraction: of the rows.
        test_fraction: of the rows.
        folds: K-fold cross-validation in place of random splits: every row is tested once a seed.
            --folds 5 --seeds 2 makes 10 paired differences.
        group: a column of a table, such as a patient: all rows with one value train, or validate, or test.
            The study then speaks of new patients, not of new rows of known ones.
        split_column: a column of a table with your own split: train, validation (or val), test.
            Its test rows are the same for all seeds, and the claim is about them alone.
        duplicates: rows of a table that are equal in every feature: together on one side of every split, or apart.
            Apart is for tables whose rows coincide because their columns take few values.
        clean_target: a column of a table with labels known to be right: --target is trained on, this scores test rows.
            Scores against noisy labels favour fitting the noise.
        clean_validation: let labels known to be right choose learning rates and epochs too: those of --clean-target,
            or those without --noise.
        probes: what else to look at in every trained model: corruptions (each at five severities; or by name, such as contrast),
            fgsm:0.1 or pgd:0.1 (attacks of that radius), collapse, margins, cost. Nothing is chosen by them.
        ood: data whose rows no class is right for, as for --data; how well they are told from test rows is a probe.
        ood_classes: classes to hold out of the study, whose rows are such.
        no_references: on a table, leave out scikit-learn's logistic regression and gradient boosting beside the objectives.
            When one of them is ahead of every objective, the report begins with it.
        time: end in so much time: 90m, 1.5h, 1h30m. Seeds are finished one after the other, and whole ones are reported.
            The same command goes on from there.
        test: corrected_t (new splits of rows like these), signed_rank (exact; splits of these very rows), or anytime_t (at any time).
            With --split-column, where nothing is redrawn, corrected_t is the plain paired t-test.
        jobs: worker processes; one a processor when left out.
        store: where trials are kept; OUT/trials.sqlite when left out.
        out: folder of the report.
        dry_run: print the plan, and what it could show, and stop.
        as_json: print the results as JSON; plan and progress go to stderr.
    """
    need("compare", "lossmith compare")
    from lossmith import study
    from lossmith.study.protocol import fitting_test
    from lossmith.study.report.words import plan
    from lossmith.study.sizes import sizes
    from lossmith.study.summary import prospect
    from lossmith.study.training.yardsticks import announced

    wanted = known_test(test)
    spec = study.StudySpec(
        data=data,
        target=target,
        objectives=_baseline_first(study.ObjectiveSpec.parse_list(objectives), baseline),
        model=model,
        noise=None if noise is None else study.Noise.parse(noise),
        imbalance=imbalance,
        labels=labels_per_class,
        seeds=_whole_numbers(seeds),
        metric=metric,
        stop=stop,
        epochs=epochs,
        batch_size=batch_size,
        tuner=tuner,
        configurations=configurations,
        learning_rates=None if learning_rates is None else _numbers("--learning-rates", learning_rates),
        learning_rate_range=_ends("--learning-rate-range", learning_rate_range),
        tune_once=tune_once,
        stop_hopeless=wanted if stop_hopeless else None,
        holdout=holdout,
        validation=validation_fraction,
        test=test_fraction,
        folds=folds,
        group=group,
        split_column=split_column,
        clean_validation=clean_validation,
        clean_target=clean_target,
        probes=_names(probes),
        ood=ood,
        ood_classes=_names(ood_classes),
        references=not no_references,
        time=None if time is None else study.parse_time(time),
        duplicates=duplicates,
    )
    tested = fitting_test(spec, wanted)
    dataset = spec.load()
    study.check(spec, dataset)
    described = dataset.describe()
    rows = sizes(spec, dataset)
    talk = console(stderr=as_json)
    said = plan(spec, described, rows, tested, prospect(spec, rows, tested), announced(spec, dataset))
    talk.print(fields([said[0], *(("", note) for note in (*described["notes"], *described["warnings"])), *said[1:]]))
    if dry_run:
        talk.print("dry run: nothing was computed")
        return 0
    path = out / STORE if store is None else store
    _writable(out)
    result = _run(spec, path, jobs, optuna_storage)
    return present(result, tested, out, as_json=as_json)


def known_test(test: str) -> "Test":
    """The test of that name; refused before anything is computed when there is none."""
    from lossmith._checks import nearest
    from lossmith.study.report.words import TESTS

    if test not in TESTS:
        raise Problem(f"--test must be one of {', '.join(TESTS)}; got {test!r}{nearest(test, TESTS)}", USAGE)
    return cast("Test", test)


def _baseline_first(specs: Sequence["ObjectiveSpec"], baseline: str | None) -> tuple["ObjectiveSpec", ...]:
    """The objectives with the baseline in front; a name alone will do where it is not ambiguous."""
    from lossmith.study import ObjectiveSpec

    if baseline is None:
        return tuple(specs)
    wanted = ObjectiveSpec.parse(baseline)
    found = [spec for spec in specs if spec == wanted] or [spec for spec in specs if not wanted.hyper and spec.name == wanted.name]
    if len(found) != 1:
        problem = "is not among the objectives" if not found else "could be several of the objectives"
        raise Problem(f"baseline {wanted.label} {problem}: {', '.join(spec.label for spec in specs)}", USAGE)
    return (found[0], *(spec for spec in specs if spec != found[0]))


def _whole_numbers(text: str) -> tuple[int, ...]:
    """``10`` is how many, ``0,1,7`` is which, ``7,`` is seed 7 alone."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip()) if "," in text else tuple(range(int(text)))
    except ValueError:
        raise Problem(f"--seeds must be a count such as 10, or whole numbers separated by commas; got {text!r}", USAGE) from None


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise Problem(f"{option} must be numbers separated by commas; got {text!r}", USAGE) from None


def _names(text: str | None) -> tuple[str, ...]:
    return () if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def _ends(option: str, text: str) -> tuple[float, float]:
    ends = _numbers(option, text)
    if len(ends) != 2:
        raise Problem(f"{option} must be two numbers, the smaller first, such as 3e-5,3e-2; got {text!r}", USAGE)
    return ends[0], ends[1]


def _writable(folder: Path) -> None:
    """Refuse a folder that cannot be written to before hours are spent for it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise Problem(f"cannot write to the folder {folder}: {message(error)}") from error


def _run(spec: "StudySpec", path: Path, jobs: int | None, optuna_storage: str | None) -> "StudyResult":
    from lossmith import study
    from lossmith.cli.progress import Progress

    with Progress(console(stderr=True)) as progress:
        try:
            return study.run(spec, path, jobs=jobs, on_progress=progress, optuna_storage=optuna_storage)
        except KeyboardInterrupt:
            kept = f"{progress.done} of {progress.total} trials are kept in {path}" if progress.total else "nothing was computed yet"
            raise Problem(f"stopped; {kept}; the same command goes on from there", INTERRUPTED) from None
