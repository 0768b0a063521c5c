"""What the user declares of a study before it runs, as plain fields, and what follows from them alone."""

from dataclasses import dataclass

from lossmith.study.data.corruption import Noise
from lossmith.study.data.dataset import Dataset
from lossmith.study.training.metrics import METRICS
from lossmith.study.training.objectives import ObjectiveSpec
from lossmith.study.tuning.space import LEARNING_RATES as RATE_INTERVAL

STOPS = ("last", "best")

CONFIGURATIONS = 12
"""The default tuning budget: how many configurations are tried for every objective."""

TUNING_SEEDS = 3
"""How many seeds `tune_once` tunes on, the first ones after those that are tested."""


@dataclass(frozen=True, kw_only=True)
class Declared:
    """A whole comparison.

    Texts are read where objects are expected: ``objectives=["cross_entropy", "gce:q=0.7"]``, ``noise="symmetric:0.4"``.

    Attributes:
        data: ``digits``, ``wine``, ``breast_cancer``, a CSV, Parquet or ARFF file, ``folder:PATH``, ``hf:NAME``, ``openml:ID``,
            ``module:function``; or what is at hand: a data frame, (features, labels), a `Dataset`.
        target: the column to predict, for files and data frames.
        objectives: what to compare, the first being the baseline.
        model: ``linear``, ``mlp`` (or ``mlp:256x256``), ``cnn`` (images), ``xgboost`` or ``lightgbm`` (boosted trees, see
            `lossmith.study.training.boosted`), ``timm:NAME`` or ``hf:NAME`` (images), or ``module:function``.
        noise: label noise of training and validation rows, see `Noise`.
        imbalance: smallest class over largest among the training rows, see `lossmith.study.data.corruption.long_tail`.
        labels: how many training rows of each class keep their label, the rest being left out; None for all.
        seeds: how many (0, 1, 2, ...), or which.
        metric: the primary metric, declared before the run: it selects learning rates and epochs, and it alone is tested.
        stop: which epoch the verdict is about: the "last", or the "best" on the validation rows. Both are always recorded.
        epochs, batch_size: of every trial.
        tuner: how configurations are proposed, the same number for every objective, inside each seed: ``quasi_random`` fills learning rate,
            weight decay and the objective's own hyper-parameters evenly; ``optuna`` learns from the trials before; ``grid`` tries
            `learning_rates` and nothing else. None is ``grid`` where those are given, else ``quasi_random``.
        configurations: how many; 12, or as many as the grid has.
        learning_rates: of the grid.
        learning_rate_range: where the other tuners search.
        tune_once: tune on seeds that are not tested (the three after those that are), and then take what was chosen for every seed.
        stop_hopeless: end an objective for which the advantage that is worth finding is excluded, see
            `lossmith.study.statistics.stopping`; the test that the study will end with, True being ``corrected_t``.
        holdout: how test rows answer: ``plain``, or by ``thresholdout``, see `lossmith.study.holdout`.
        validation, test: fractions of the rows of each class.
        folds: K for a cross-validation of K folds, redrawn by every seed; None for one random split a seed.
        group: column of a table; rows with the same value stay on one side of every split.
        split_column: column of a table with the user's own split: train, validation (or val), test.
        clean_validation: whether learning rates and epochs are chosen by labels known to be right: without the added noise, and by
            `clean_target` where there is one.
        clean_target: column of a table with labels known to be right; test rows are scored by them.
        references: whether scikit-learn's logistic regression and gradient boosting are run beside the objectives, on tables.
        time: seconds, or a text such as ``90m``: how long the study may take; None for as long as it needs. Whole seeds count.
        planned_seeds: the seeds that were asked for, of a study that its time cut short.
        duplicates: rows of a table that are equal in every feature: ``together`` on one side of every split, or ``apart``.
        probes: what else to look at in every trained model, see `lossmith.study.training.probes`: ``corruptions,fgsm:0.1,margins``.
        ood: data, as for `data` but without labels, whose rows no class is right for; how well they are told from test rows is a probe.
            Beside a table it is a file with the same columns.
        ood_classes: classes to hold out of the study, whose rows are such.
        grid: of a study that is one of several run together (`lossmith.study.grid`), all their data and all their kinds of label noise.
        text: columns of a table that hold text, see `lossmith.study.data.text`: ``review``, ``review@4096``.
        tokenizer: of transformers, a folder or a name, that cuts the text; None for words and pairs of words.
    """

    data: str | Dataset
    objectives: tuple[ObjectiveSpec, ...]
    target: str | None = None
    model: str = "mlp"
    noise: Noise | None = None
    imbalance: float | None = None
    seeds: tuple[int, ...] = tuple(range(10))
    metric: str = "accuracy"
    stop: str = "last"
    epochs: int = 60
    batch_size: int = 128
    tuner: str | None = None
    configurations: int | None = None
    learning_rates: tuple[float, ...] | None = None
    learning_rate_range: tuple[float, float] = RATE_INTERVAL
    tune_once: bool = False
    stop_hopeless: str | bool | None = None
    holdout: str = "plain"
    validation: float = 0.1
    test: float = 0.1
    folds: int | None = None
    group: str | None = None
    split_column: str | None = None
    clean_validation: bool = False
    clean_target: str | None = None
    references: bool = True
    time: float | None = None
    planned_seeds: tuple[int, ...] | None = None
    duplicates: str = "together"
    labels: int | None = None
    probes: tuple[str, ...] = ()
    ood: str | Dataset | None = None
    ood_classes: tuple[str, ...] = ()
    grid: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    text: tuple[str, ...] = ()
    tokenizer: str | None = None

    @property
    def draws(self) -> dict[int, tuple[int, int | None]]:
        """The splits by number, each with its seed and its fold: the seeds as they are, or ``seed * folds + fold``."""
        if self.folds is None:
            return {seed: (seed, None) for seed in self.seeds}
        return {seed * self.folds + fold: (seed, fold) for seed in self.seeds for fold in range(self.folds)}

    @property
    def looked_at(self) -> tuple[str, ...]:
        """The probes, that of strange rows among them where there are any."""
        strange = self.ood is not None or bool(self.ood_classes)
        return (*self.probes, "ood") if strange and "ood" not in self.probes else self.probes

    @property
    def unit(self) -> str:
        """What one paired difference comes from: a "seed", or a "fold"."""
        return "seed" if self.folds is None else "fold"

    @property
    def budget(self) -> int:
        """How many configurations are tried for every objective, inside each seed or once."""
        return len(self.learning_rates or ()) if self.tuner == "grid" else self.configurations or CONFIGURATIONS

    @property
    def tuning_draws(self) -> dict[int, tuple[int, int | None]]:
        """The splits that are tuned on but not tested, by number as in `draws`; none unless `tune_once`."""
        if not self.tune_once:
            return {}
        seeds = range(max(self.planned_seeds or self.seeds) + 1, max(self.planned_seeds or self.seeds) + 1 + TUNING_SEEDS)
        return {seed: (seed, None) for seed in seeds} if self.folds is None else {seed * self.folds: (seed, 0) for seed in seeds}

    @property
    def sequential(self) -> bool:
        """Whether which trials are needed depends on what others find."""
        return self.tuner == "optuna" or self.tune_once or self.stop_hopeless is not None

    @property
    def foreseen(self) -> int:
        """How many trials there will be, as far as is known beforehand."""
        a_split = 1 if self.tune_once else self.budget
        return len(self.objectives) * (len(self.draws) * a_split + len(self.tuning_draws) * self.budget)

    @property
    def selection_rule(self) -> str:
        """How learning rates and epochs are chosen, as a sentence."""
        better = "highest" if METRICS[self.metric].higher_is_better else "lowest"
        noisy = ""
        if self.clean_validation:
            noisy = " (by labels known to be right)"
        elif self.noise:
            noisy = " (whose labels carry the same noise as the training labels)"
        elif self.clean_target:
            noisy = f" (by the labels to be learnt, not by {self.clean_target})"
        if self.tuner == "grid" and self.budget == 1:
            rate = self.learning_rates[0] if self.learning_rates else 0.0
            return (
                f"The learning rate is {rate:g} throughout; the best epoch is the earliest with the {better} "
                f"{self.metric} on the {self.unit}'s validation rows{noisy}. Test rows choose nothing."
            )
        what, ties = "configuration", "the smaller learning rate, then weight decay,"
        of = f"{self.budget} of learning rate, weight decay and its own hyper-parameters"
        if self.tuner == "grid":
            what, ties = "learning rate", "the smaller learning rate"
            of = f"{self.budget} ({', '.join(f'{rate:g}' for rate in self.learning_rates or ())})"
        where, whose = f"For every objective and inside every {self.unit}", f"that {self.unit}'s validation rows{noisy}"
        if self.tune_once:
            tuned = list(self.tuning_draws)
            where = "For every objective, once for all"
            whose = f"the validation rows{noisy} of {len(tuned)} seeds that are not tested, on average"
        return (
            f"{where}, the {what} is the one of {of} with the {better} {self.metric} on {whose}, at the last epoch for stop=last and at "
            f"the best epoch for stop=best; ties go to {ties} and the earlier epoch, and a run that diverged is chosen only if all did. "
            "Test rows choose nothing."
        )
