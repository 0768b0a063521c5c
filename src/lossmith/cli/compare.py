"""``lossmith compare``: which objective is better on these data, what could be shown, and what was."""

import shlex
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

from cyclopts import Parameter

from lossmith.cli.announcing import announce
from lossmith.cli.noise_report import kept_by, look_for_wrong_labels
from lossmith.cli.output import console, fields, print_json
from lossmith.cli.presenting import present
from lossmith.cli.problems import INTERRUPTED, USAGE, Problem, message, need

if TYPE_CHECKING:
    from lossmith.cli.progress import Progress
    from lossmith.study import ObjectiveSpec, Part
    from lossmith.study.grid import Claim
    from lossmith.study.shard import Shard
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
    text: str | None = None,
    tokenizer: str | None = None,
    clean_validation: bool = False,
    probes: str | None = None,
    ood: str | None = None,
    ood_classes: str | None = None,
    noise_report: bool = False,
    no_references: bool = False,
    time: str | None = None,
    test: str = "corrected_t",
    claim: str = "these",
    jobs: int | None = None,
    backend: str = "local",
    shard: str | None = None,
    store: Path | None = None,
    out: Path = FOLDER,
    log: str | None = None,
    dry_run: bool = False,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Compare objectives.

    Args:
        data: digits, wine, breast_cancer (real, bundled); a CSV, Parquet or ARFF file; folder:PATH of images in folders named after
            their classes; hf:NAME_OR_PATH (Hugging Face); openml:ID_OR_NAME; or module:function returning (features, labels).
            Several, separated by commas, are compared one after the other and reported together.
        objectives: separated by commas, with hyper-parameters after a colon: ce,gce:q=0.7; module:function for your own.
            @robust stands for all objectives with that tag; lossmith find lists these groups.
        target: the column to predict; for files.
        model: linear, mlp (two hidden layers of 64; mlp:256x256 for others), cnn (images); xgboost or lightgbm (boosted trees, an
            epoch being a round); timm:NAME or hf:NAME_OR_PATH (images, or --text; @pretrained with weights); or module:function
            returning a torch module.
        noise: wrong labels in training and validation rows: symmetric:0.4, asymmetric:0.3, or instance:0.4 (depending on the row).
            Test labels stay right.
            Several, separated by commas, are settings of one report: none,symmetric:0.2,symmetric:0.4.
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
        text: columns of a table that hold text: words and pairs of words, hashed into 1024 numbers, or COLUMN@4096.
            A network of transformers that reads text (--model hf:NAME) reads one such column, by its own tokenizer; COLUMN@128 for
            128 pieces at most.
        tokenizer: one of transformers, by folder or name, that cuts the text into pieces instead.
        clean_validation: let labels known to be right choose learning rates and epochs too: those of --clean-target,
            or those without --noise.
        probes: what else to look at in every trained model: corruptions (each at five severities; or by name, such as contrast),
            fgsm:0.1 or pgd:0.1 (attacks of that radius), collapse, margins, cost. Nothing is chosen by them.
        ood: data whose rows no class is right for; how well they are told from test rows is a probe. As for --data, without labels:
            beside a table, a file with its columns, read as the table is; beside images, a folder of images or folder:PATH.
        ood_classes: classes to hold out of the study, whose rows are such.
        noise_report: afterwards, point at labels of the data that look wrong, in OUT/suspects.csv, the likeliest first.
            Five more trainings of the baseline predict every row unseen; suspect is who is confidently of another class.
            With --clean-target, or with --noise, which it then looks for, it says how many it finds.
        no_references: on a table, leave out scikit-learn's logistic regression and gradient boosting beside the objectives.
            When one of them is ahead of every objective, the report begins with it.
        time: end in so much time: 90m, 1.5h, 1h30m. Seeds are finished one after the other, and whole ones are reported.
            The same command goes on from there.
        test: corrected_t (new splits of rows like these), signed_rank (exact; splits of these very rows), or anytime_t (at any time).
            With --split-column, where nothing is redrawn, corrected_t is the plain paired t-test.
        claim: of several data sets, what is declared and tested: these (their average), alike (data sets like them), or each by itself.
        jobs: worker processes of this machine; one a processor when left out.
        backend: local, or the workers of a cluster: dask://HOST:8786, ray, ray://HOST:10001, spark.
            They need the same lossmith and torch; your data and modules are sent there. Trials are stored here.
        shard: compute one part of the study, such as 2/8, in a store of its own (for batch queues).
            When all are done: lossmith report STORE STORE ...
        store: where trials are kept; OUT/trials.sqlite when left out, OUT/trials-2-of-8.sqlite for a shard.
        out: folder of the report.
        log: where else every trial is told as it is done: tensorboard, mlflow, wandb, or module:function returning a logger of your own.
            A place after a colon: tensorboard:runs, mlflow:sqlite:///mlflow.db, mlflow:FOLDER, wandb:PROJECT. Several by commas.
        dry_run: print the plan, and what it could show, and stop.
        as_json: print the results as JSON, or with --dry-run the plan; what is said meanwhile goes to stderr.
    """
    need("compare", "lossmith compare")
    from lossmith import study
    from lossmith.study.backends import Backend
    from lossmith.study.loggers.log import Log
    from lossmith.study.protocol import fitting_test
    from lossmith.study.shard import Shard

    wanted, declared = known_test(test), known_claim(claim)
    part = None if shard is None else Shard.parse(shard)
    Backend.parse(backend)
    specs = study.grid(
        _data_sets(data),
        [None] if noise is None else _list("--noise", noise),
        target=target,
        objectives=_baseline_first(study.ObjectiveSpec.parse_list(objectives), baseline),
        model=model,
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
        text=_names(text),
        tokenizer=tokenizer,
        probes=_names(probes),
        ood=ood,
        ood_classes=_names(ood_classes),
        references=not no_references,
        time=None if time is None else study.parse_time(time),
        duplicates=duplicates,
    )
    if part is not None and len(specs) > 1:
        raise Problem(f"--shard is for one study; several data sets or kinds of noise make {len(specs)}: give each its jobs", USAGE)
    if part is not None:
        part.check(specs[0])
    if noise_report and (part is not None or len(specs) > 1):
        what = "a part has no report" if part is not None else f"several data sets or kinds of noise make {len(specs)}"
        raise Problem(f"--noise-report is for one whole study; {what}: leave it out", USAGE)
    if optuna_storage is not None and specs[0].tuner != "optuna":
        raise Problem("--optuna-storage is for --tuner optuna", USAGE)
    tested = fitting_test(specs[0], wanted)
    told = Log.of(log, tested)
    talk = console(stderr=as_json)
    plan = announce(specs, tested, declared, noise_report=noise_report)
    talk.print(fields(plan.lines))
    if dry_run:
        talk.print("dry run: nothing was computed")
        if as_json:
            print_json({"dry_run": True, **plan.facts})
        return 0
    path = store or out / (STORE if part is None else f"trials-{part.number}-of-{part.count}.sqlite")
    _writable(out)
    if part is not None:
        with _told(path) as progress:
            done = study.run_shard(specs[0], str(part), path, jobs=jobs, backend=backend, on_progress=progress, log=told)
        return _tell_part(part, done, path, as_json=as_json)
    with _told(path) as progress:
        results = study.run_all(specs, path, jobs=jobs, backend=backend, on_progress=progress, optuna_storage=optuna_storage, log=told)
    suspects, problem = look_for_wrong_labels(results[0], jobs, path) if noise_report else (None, None)
    kept = kept_by([path], results)
    status = present(results, tested, declared, out, as_json=as_json, noise_report=kept if suspects is None else kept.of(suspects))
    if problem is not None:  # what the study found is not withheld for it
        raise problem
    return status


def known_claim(claim: str) -> "Claim":
    """The claim of that name; refused before anything is computed when there is none."""
    from lossmith.study.grid import Claim

    if claim not in get_args(Claim):
        raise Problem(f"--claim must be one of {', '.join(get_args(Claim))}; got {claim!r}", USAGE)
    return cast("Claim", claim)


def known_test(test: str) -> "Test":
    """The test of that name; refused before anything is computed when there is none."""
    from lossmith._checks import nearest
    from lossmith.study.report.design import TESTS

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


def _data_sets(text: str) -> list[str]:
    """Data separated by commas; a file whose name has a comma is one."""
    return [text] if Path(text).expanduser().exists() else _list("--data", text)


def _list(option: str, text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise Problem(f"{option} has an empty place between commas; got {text!r}", USAGE)
    return parts


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


@contextmanager
def _told(path: Path) -> Iterator["Progress"]:
    """Progress on stderr, and Ctrl-C as the line that says what is kept."""
    from lossmith.cli.progress import Progress

    with Progress(console(stderr=True)) as progress:
        try:
            yield progress
        except KeyboardInterrupt:
            kept = f"{progress.done} of {progress.total} trials are kept in {path}" if progress.total else "nothing was computed yet"
            raise Problem(f"stopped; {kept}; the same command goes on from there", INTERRUPTED) from None


def _tell_part(shard: "Shard", part: "Part", path: Path, *, as_json: bool) -> int:
    """Say how far a part is, and where to go on: the report is for all parts together."""
    unfinished = part.done < part.trials
    if unfinished:
        onward = "time was over: the same command goes on from there"
    else:
        onward = f"no report is made of a part: when all are done, lossmith report {shlex.quote(str(path))} and the other stores"
    if as_json:
        print_json({"shard": str(shard), **part._asdict(), "store": str(path)})
    else:
        print(f"part {shard}: {part.done} of its {part.trials} trials are done (the study has {part.study}), in {path}; {onward}")
    return 0
