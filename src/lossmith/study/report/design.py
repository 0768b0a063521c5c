"""The design of a study in plain words: the plan before it runs; what was run, and what it does not show, after."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lossmith.study.budget import time_text
from lossmith.study.holdout import BUDGET, threshold
from lossmith.study.protocol import EPOCHS, counted, noise_limits, scored_by, setting, splitting, thinned, what_p_means
from lossmith.study.report.numbers import duration, is_cut
from lossmith.study.sizes import Sizes
from lossmith.study.spec import OPTIMIZER, STOPS, StudySpec
from lossmith.study.statistics.paired import Test
from lossmith.study.statistics.power import Prospect, accuracy_spread, count
from lossmith.study.statistics.stopping import EFFECT, MISS
from lossmith.study.summary import ALPHA, Summary
from lossmith.study.training.metrics import METRICS, SCALED
from lossmith.study.training.trees import TREES
from lossmith.study.tuning.space import Space

TESTS = {
    "corrected_t": "paired t-test corrected for overlapping training sets (Nadeau & Bengio 2003), Holm over all comparisons, two-sided",
    "paired_t": "paired t-test over seeds that share one split, Holm over all comparisons, two-sided",
    "signed_rank": "exact signed-rank test over seeds, Holm over all comparisons, two-sided",
    "anytime_t": (
        "paired t-test that holds after any number of seeds, corrected for overlapping training sets, Holm over all comparisons, two-sided"
    ),
}

TUNED_BY = {
    "quasi_random": "the usual one and a scrambled Halton sequence",
    "optuna": "the usual one and Optuna's TPE",
}

RULED_NOISE = (
    "The label noise was drawn by a rule. Real mistakes depend on what the rows look like, and robustness to one kind of noise does not "
    "promise robustness to another."
)

CUT_SHORT = (
    "Some intervals of differences reach beyond any difference that there can be, and are shown cut there; the tables for other programs "
    "have them as they were computed. With so few seeds nearly everything is possible."
)


def plan(
    spec: StudySpec, data: Mapping[str, Any], rows: Sizes, test: Test, prospect: Prospect | None, references: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """What is about to be run and what it could show, said before it starts, as names and values."""
    trials, counts = planned(spec)
    better = "higher" if METRICS[spec.metric].higher_is_better else "lower"
    said = [
        ("data", f"{setting(spec, data['name'])}: {data['rows']} rows, {data['inputs']}, {len(data['classes'])} classes"),
        ("split", splitting(spec, rows)),
        ("trials", f"{trials} = {counts}, {spec.epochs} epochs each, model {spec.model}"),
        (
            "declared",
            f"{METRICS[spec.metric].title} ({better} is better) {EPOCHS[spec.stop]}, against {spec.objectives[0].label}; "
            "only this is tested",
        ),
        ("selection", spec.selection_rule),
    ]
    if spec.tuner != "grid":
        said.append(("searched", searched({objective.label: spec.space(objective).as_list() for objective in spec.objectives})))
    if spec.holdout == "thresholdout":
        said.append(("hold-out", through_thresholdout(rows)))
    if spec.looked_at:
        said.append(("probes", f"{', '.join(spec.looked_at)}: looked at in every trained model; nothing is chosen by them"))
    if spec.stop_hopeless is not None:
        said.append(
            ("ending early", f"after every seed, an objective for which an advantage of {EFFECT:g} standard deviations of the paired "
                             f"difference is excluded is ended; one that has it is given up with probability at most {MISS:g}")
        )  # fmt: skip
    if references:
        said.append(("references", f"{'; '.join(references)}: scikit-learn's, on the same splits, outside the comparison"))
    if spec.time is not None:
        said.append(
            ("time", f"at most {time_text(spec.time)}, give or take the trials under way: each seed is finished for all objectives before "
                     "the next, and only whole seeds are reported")
        )  # fmt: skip
    if prospect is None:
        return [*said, ("power", "one objective: there is nothing to compare")]
    reach = "can" if prospect.can_reach_alpha else "cannot"
    guess = beforehand(prospect, rows) if spec.metric == "accuracy" else ""
    said.append(("power", f"An adjusted p-value {reach} fall below {ALPHA:g}. {prospect.sentence} {guess}".rstrip()))
    said.append(("p-values", what_p_means(spec, test)))
    return said


def planned(spec: StudySpec) -> tuple[int, str]:
    """How many trials a study has at most, and how they come about."""
    objectives, tried = count(len(spec.objectives), "objective"), f"{spec.budget} {tried_word(spec)}"
    if not spec.tune_once:
        return len(spec.objectives) * len(spec.draws) * spec.budget, f"{objectives} x {counted(spec)} x {tried}"
    tuning, most = len(spec.tuning_draws), len(STOPS)  # the last and the best epoch may choose different ones
    trials = len(spec.objectives) * (tuning * spec.budget + most * len(spec.draws))
    return trials, f"{objectives} x ({count(tuning, 'tuning seed')} x {tried} + {counted(spec)} x at most {most} chosen)"


def tried_word(spec: StudySpec) -> str:
    """What a study tries, such as ``configurations``."""
    what = "learning rate" if spec.tuner == "grid" else "configuration"
    return what if spec.budget == 1 else f"{what}s"


def searched(plain: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Where every objective was searched, in a sentence."""
    spaces = {label: Space.from_list(dimensions).dimensions for label, dimensions in plain.items()}
    usual = "; ".join(map(str, next(iter(spaces.values()))[:2]))
    own = [f"{label}: {', '.join(map(str, dimensions[2:]))}" for label, dimensions in spaces.items() if dimensions[2:]]
    return "; ".join([usual, *own])


def chosen(summary: Summary, label: str, stop: str) -> str:
    """What tuning chose for an objective over the splits: of numbers the lowest, the median and the highest, of words how often each."""
    outcomes = summary.result.over(label, stop)
    found: dict[str, list[Any]] = {}
    for outcome in outcomes:
        for name, value in outcome.configuration.values().items():
            found.setdefault(name, []).append(value)
    said = []
    for name, values in found.items():
        defaults = "" if len(values) == len(outcomes) else f", else the default ({len(outcomes) - len(values)})"
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            low, middle, high = min(values), sorted(values)[len(values) // 2], max(values)
            spread = f"{low:.3g}" if low == high else f"{low:.3g} · {middle:.3g} · {high:.3g}"
        else:
            spread = ", ".join(f"{value} ({times})" for value, times in Counter(values).most_common())
        said.append(f"{name.replace('_', ' ')} {spread}{defaults}")
    return "; ".join(said)


def beforehand(prospect: Prospect, rows: Sizes, disagreement: float = 0.05) -> str:
    """The smallest difference in accuracy that would be found, in points, guessed before there are trials; empty where there is none."""
    if not math.isfinite(prospect.smallest_effect):
        return ""
    points = 100 * prospect.in_units(accuracy_spread(disagreement, rows.test))
    return (
        f"In accuracy, {prospect.smallest_effect:.1f} deviations are {points:.1f} points or more if, of two networks, one is right and the "
        f"other wrong on {100 * disagreement:g} % of the test rows."
    )


def protocol(summary: Summary) -> list[tuple[str, str]]:
    """What was run, as names and values."""
    spec, data, rows = summary.spec, summary.result.data, summary.sizes
    trials = len(summary.result.trials)
    seconds = sum(float(record.get("seconds") or 0) for record in summary.result.trials.values())
    target = f", target {spec.target}" if spec.target else ""
    found = [
        ("data", f"{data['name']}{target}: {data['rows']} rows, {data['inputs']}, {len(data['classes'])} classes"),
        ("split", splitting(spec, rows)),
        ("label noise", spec.noise.describe(clean_validation=spec.clean_validation) if spec.noise else "none added"),
        ("class sizes", "; ".join(thinned(spec)) or "as in the data"),
        ("labels", scored_by(spec)),
        *_model(spec),
        ("budget", _budget(summary)),
        ("seeds", f"{len(spec.seeds)}: {', '.join(map(str, spec.seeds))}"),
        ("declared", f"{METRICS[spec.metric].title} {EPOCHS[spec.stop]}, baseline {summary.baseline}"),
        ("test", TESTS[summary.test]),
        ("trials", f"{trials}, {duration(seconds)} of computing in all"),
        (
            "versions",
            "; ".join(", ".join(f"{name} {version}" for name, version in versions.items()) for versions in summary.result.versions),
        ),
    ]
    return found


def _model(spec: StudySpec) -> list[tuple[str, str]]:
    if spec.model in TREES:
        return [
            ("model", f"{TREES[spec.model]}, grown by the gradient and curvature of each objective"),
            ("training", f"{spec.epochs} rounds, which count as epochs; the learning rate is the shrinkage"),
        ]
    return [
        ("model", f"{spec.model}, with the same initial weights and batches for every objective of a {spec.unit}"),
        ("training", f"{spec.epochs} epochs, batches of {spec.batch_size}, {OPTIMIZER['name']}{_decay(spec)}"),
    ]


def _decay(spec: StudySpec) -> str:
    return f", weight decay {OPTIMIZER['weight_decay']}" if spec.tuner == "grid" else ""


def _budget(summary: Summary) -> str:
    spec = summary.spec
    where = f"once, on {count(len(spec.tuning_draws), 'seed')} that are not tested" if spec.tune_once else spec.unit
    said = f"{spec.budget} {tried_word(spec)} for every objective {'' if spec.tune_once else 'and '}{where}"
    if spec.tuner == "grid":
        return f"{said}: {', '.join(f'{rate:g}' for rate in spec.learning_rates or ())}"
    return f"{said}: {TUNED_BY[spec.tuner or '']} over {searched(summary.result.data['searched'])}"


def through_thresholdout(rows: Sizes) -> str:
    """What Thresholdout's answers are, in a sentence."""
    return (
        "test rows answer through Thresholdout (Dwork et al. 2015): the validation accuracy stands as long as test rows agree with it to "
        f"about {100 * threshold(rows.test):.1f} points, and smaller differences are those of validation rows; {BUDGET} answers a split "
        "may come from test rows, over all studies in the store; nothing else of the test rows is shown"
    )


def limits(summary: Summary) -> list[str]:
    """What the study does not show."""
    spec = summary.spec
    said = [
        what_p_means(spec, summary.test),
        f"One data set, one model ({spec.model}), {spec.epochs} epochs: another of any of these may order the objectives otherwise.",
        _what_was_tuned(spec),
        *([f"T{through_thresholdout(summary.sizes)[1:]}."] if spec.holdout == "thresholdout" else []),
        f"Only {summary.metric.title} {EPOCHS[spec.stop]} was declared and tested. All other intervals are single ones, not adjusted for "
        "their number: among many, some leave out 0 by chance, and none is a verdict.",
        "“No difference shown” is not “no difference”: the interval says which differences remain possible.",
    ]
    if any(is_cut(summary.metric, one.low, one.high) for stop in STOPS for line in summary.lines(stop=stop) if (one := line.comparison)):
        said.append(CUT_SHORT)
    if spec.noise is not None:
        said.append(RULED_NOISE)
    said += noise_limits(spec)
    if any(line.estimate.scaled for line in summary.lines("log_loss")):
        said.append(
            f"Objectives that do not predict probabilities have log loss, Brier score, ECE and AURC {SCALED}, marked T; beside raw ones "
            "they are not the same quantity."
        )
    return said


def _what_was_tuned(spec: StudySpec) -> str:
    if spec.tuner == "grid":
        return (
            f"{'Only the learning rate' if spec.budget > 1 else 'Nothing'} was tuned. "
            "Hyper-parameters of the objectives were taken as given, and a better value may exist for any."
        )
    once = (
        " Tuned once, every seed uses the same configuration, so that the luck of that choice is in no interval; and the rows that were "
        "tuned on are tested by other seeds."
        if spec.tune_once and spec.split_column is None
        else ""
    )
    return (
        f"{spec.budget} configurations were tried for every objective, however many hyper-parameters it has: one with more of them is "
        f"searched more thinly.{once}"
    )
