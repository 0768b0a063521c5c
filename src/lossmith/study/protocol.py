"""What is asked on which data and split in which way, in words: what is redrawn, what a p-value then speaks of, and which tests fit."""

from collections.abc import Sequence

from lossmith.study.budget import time_text
from lossmith.study.errors import StudyError
from lossmith.study.sizes import Sizes
from lossmith.study.spec import StudySpec
from lossmith.study.statistics import paired
from lossmith.study.statistics.paired import Test
from lossmith.study.statistics.power import Prospect, count

EPOCHS = {"last": "at the last epoch", "best": "at the epoch that validation found best"}


def listing(items: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, (", ".join(items[:-1]), *items[-1:])))


def setting(spec: StudySpec, data: str) -> str:
    """``digits with 40 % symmetric label noise``."""
    parts = []
    if spec.noise is not None:
        parts.append(f"{100 * spec.noise.rate:g} % {spec.noise.kind} label noise")
    if spec.imbalance is not None:
        parts.append(f"classes thinned {1 / spec.imbalance:.3g} : 1")
    if spec.labels is not None:
        parts.append(f"{count(spec.labels, 'training row')} a class")
    return data + (f" with {listing(parts)}" if parts else "")


def thinned(spec: StudySpec) -> list[str]:
    """What was taken away from the training rows, a clause each."""
    said = []
    if spec.imbalance is not None:
        said.append(f"training classes thinned, the smallest to {spec.imbalance:g} of the largest")
    if spec.labels is not None:
        said.append(f"at most {count(spec.labels, 'training row')} of each class kept, the others left out")
    return said


def fitting_test(spec: StudySpec, test: Test) -> Test:
    """The test as asked for, if it fits the way of splitting; a StudyError if not."""
    if spec.folds is not None and test == "signed_rank":
        raise StudyError(
            "--test signed_rank takes the differences for independent, and the folds of one seed are not (each trains on the others' test "
            "rows): use corrected_t with --folds"
        )
    if test == "anytime_t" and (spec.folds is not None or spec.split_column is not None):
        raise StudyError(
            "--test anytime_t is for random splits, every two of which overlap alike: use corrected_t with --folds and with --split-column"
        )
    if spec.split_column is not None:
        return "paired_t" if test == "corrected_t" else test
    if test == "paired_t":
        raise StudyError("--test paired_t is for one split of your own (--split-column); redrawn splits overlap: use corrected_t")
    return test


def splitting(spec: StudySpec, rows: Sizes) -> str:
    """How the rows are split, in a sentence."""
    each = f"{rows.train} training, {rows.validation} validation, {rows.test} test rows"
    together = "" if spec.group is None else f"; all rows with the same {spec.group} on one side"
    if spec.folds is not None:
        return (
            f"{spec.folds}-fold cross-validation, dealt anew by every seed; each fold about {each}: every row is tested once a seed, and "
            f"the initial weights and batches are each fold's own{together}"
        )
    if spec.split_column is not None:
        return f"your own, column {spec.split_column}: {each}, the same test rows for every seed{together}"
    if together:
        return f"each seed about {each}, redrawn{together}"
    return f"each seed {each}, redrawn class by class"


def counted(spec: StudySpec) -> str:
    """The splits of a study: ``10 seeds``, ``2 seeds x 5 folds``."""
    seeds = count(len(spec.seeds), "seed")
    return seeds if spec.folds is None else f"{seeds} x {spec.folds} folds"


def scope(spec: StudySpec) -> str:
    """What narrows the claim of a whole study, as the end of its first sentence; mostly nothing."""
    said = "" if spec.planned_seeds is None else f" Time was over after {len(spec.seeds)} of {len(spec.planned_seeds)} seeds."
    if spec.split_column is None:
        return said
    return f"{said} This speaks of one test set, your own: the seeds vary the initial weights and the batches, never the test rows."


def time_note(spec: StudySpec, prospect: Prospect | None) -> list[str]:
    """What a study that its time cut short can claim."""
    if spec.planned_seeds is None or spec.time is None:
        return []
    can = "" if prospect is None else f" {prospect.sentence}"
    return [
        f"The time of {time_text(spec.time)} was over after {len(spec.seeds)} of {len(spec.planned_seeds)} seeds, and only whole seeds are "
        f"reported.{can} The same command goes on from there; decide beforehand how many seeds it should be: to go on, or not, "
        "after a look at the result finds winners that are none."
    ]


def scored_by(spec: StudySpec) -> str:
    """Which labels choose and which score, in a sentence."""
    test = f"test rows by the trusted labels of {spec.clean_target}" if spec.clean_target else "test rows by their labels in the data"
    validation = "labels known to be right" if spec.clean_validation else "labels like those trained on"
    return f"{test}; learning rates and epochs chosen by {validation}"


def noise_limits(spec: StudySpec) -> list[str]:
    """What noisy labels do to the scores and to the selection, where nobody has given labels to trust."""
    said = []
    if (spec.noise is not None or spec.clean_target is not None) and not spec.clean_validation:
        said.append(
            "Learning rates and epochs were chosen by labels as noisy as those trained on, as they would be in practice; scores against "
            "noisy labels favour fitting the noise. --clean-validation chooses by labels known to be right."
        )
    if spec.target is not None and spec.clean_target is None:
        said.append(
            f"Test rows were scored by {spec.target} as it stands in the data. If some of these labels are wrong, scores against them "
            "favour fitting the noise, and an objective that resists it looks worse than it is: --clean-target scores by labels known to "
            "be right."
        )
    return said


def what_p_means(spec: StudySpec, test: Test) -> str:
    """What a p-value of this study generalises over."""
    said = paired.what_p_means(test if spec.split_column is None else "paired_t")
    if spec.group is not None and spec.split_column is None:
        said += f" Rows of one {spec.group} stay together, so that new rows are those of a new {spec.group}."
    if spec.folds is not None:
        said += (
            " Folds in place of random splits: within a seed no two test sets share a row and every row is tested once; training sets "
            "still overlap, and the correction, s²(1/n + n_test/n_train), is that of repeated cross-validation (Bouckaert & Frank 2004). "
            "More seeds average out the luck of the deal, not that of the rows."
        )
    return said
