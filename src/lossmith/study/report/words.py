"""A study in plain words: numbers with their unit, and the sentences that a report begins and ends with."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lossmith.study.budget import time_text
from lossmith.study.holdout import BUDGET, threshold
from lossmith.study.protocol import counted, noise_limits, scope, scored_by, splitting, what_p_means
from lossmith.study.sizes import Sizes
from lossmith.study.spec import OPTIMIZER, STOPS, StudySpec
from lossmith.study.statistics.paired import Comparison, Test
from lossmith.study.statistics.power import Prospect, accuracy_spread, count
from lossmith.study.statistics.stopping import EFFECT, MISS
from lossmith.study.summary import ALPHA, Line, Summary
from lossmith.study.training.metrics import METRICS, SCALED, Metric
from lossmith.study.training.trees import TREES
from lossmith.study.tuning.space import Space

EPOCHS = {"last": "at the last epoch", "best": "at the epoch that validation found best"}
MINUS = "−"
ORDER = ("better", "worse", "no difference shown", "hopeless", "identical", "failed", "not tested")
"""Verdicts as a summary lists them."""

RULED_NOISE = (
    "The label noise was drawn by a rule. Real mistakes depend on what the rows look like, and robustness to one kind of noise does not "
    "promise robustness to another."
)


def number(metric: Metric, value: float) -> str:
    """A value with its unit: a share of rows or a chance in percent, everything else as it is."""
    if not math.isfinite(value):
        return "–"
    return f"{100 * value:.1f} %" if percent(metric) else f"{value:.3f}"


def difference(metric: Metric, value: float) -> str:
    """A signed difference, in points of a hundredth for what is in percent."""
    if not math.isfinite(value):
        return "–"
    scaled, digits = (100 * value, 1) if percent(metric) else (value, 3)
    text = f"{abs(scaled):.{digits}f}"
    sign = "±" if float(text) == 0 else "+" if scaled > 0 else MINUS
    return sign + text


def interval(metric: Metric, low: float, high: float) -> str:
    """``[low, high]`` of differences; what cannot be said is said so."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "no interval"
    return f"[{difference(metric, low)}, {difference(metric, high)}]"


def mean_interval(metric: Metric, low: float, high: float) -> str:
    """``[low, high]`` of values."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "no interval"
    scale, digits = (100, 1) if percent(metric) else (1, 3)
    return f"[{scale * low:.{digits}f}, {scale * high:.{digits}f}]"


def p_value(p: float | None) -> str:
    if p is None:
        return "not tested"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def listing(items: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, (", ".join(items[:-1]), *items[-1:])))


def percent(metric: Metric) -> bool:
    """Whether the metric reads best in percent."""
    return metric.needs in ("labels", "scores")


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


def headline(summary: Summary) -> str:
    """The whole study in a sentence, after one that says so where a reference outside the comparison is ahead of every objective."""
    return f"{_outdone(summary)} {_compared(summary)}".lstrip()


def _outdone(summary: Summary) -> str:
    if not summary.standings or not summary.standings[0].ahead:
        return ""
    first, metric = summary.standings[0], summary.metric
    verb = "does better than" if first.surely else "is ahead of"
    bounds = "no interval"
    if math.isfinite(first.comparison.low):
        tail = "" if first.surely else ", which leaves no difference possible"
        bounds = f"95 % interval {_ends(metric, first.comparison)}{tail}"
    return (
        f"{first.name[0].upper()}{first.name[1:]}, a reference outside the comparison, {verb} every objective here: "
        f"{number(metric, first.mean)} {metric.title} against {number(metric, first.best_mean)} for {first.best}, the best of them "
        f"(difference {_signed(metric, first.comparison)}, {bounds})."
    )


def _compared(summary: Summary) -> str:
    where = f"On {setting(summary.spec, summary.result.data['name'])}, {EPOCHS[summary.spec.stop]}"
    compared = {line.objective: line.comparison.verdict for line in summary.lines() if line.comparison}
    verdicts = list(compared.values())
    if not verdicts:
        line = summary.lines()[0]
        reached = number(summary.metric, line.estimate.mean)
        return f"{where}, {line.objective} reaches {reached} {summary.metric.title}.{scope(summary.spec)}"
    of = len(verdicts) if len(verdicts) > 1 else next(iter(compared))
    said = []
    for verdict in ORDER:
        if n := verdicts.count(verdict):
            who = _count(n, of)
            told = {
                "no difference shown": f"for {who} no difference is shown",
                "hopeless": f"{who} {'was' if n == 1 else 'were'} ended early as hopeless",
                "failed": f"{who} could not be compared",
            }
            said.append(told.get(verdict, f"{who} {'is' if n == 1 else 'are'} {verdict}"))
    none = "" if "better" in verdicts or len(verdicts) == 1 else f" None of these is shown to beat {summary.baseline} here."
    return f"{where}, compared with {summary.baseline} in {summary.metric.title}: {', '.join(said)}.{none}{scope(summary.spec)}"


def findings(summary: Summary) -> list[tuple[str, str, str]]:
    """For each objective but the baseline, the winners first: its label, its verdict, and what was found, in a sentence or two."""
    other = {line.objective: line for line in summary.lines(stop=summary.other_stop)}
    found = [
        (line.objective, line.comparison.verdict, f"{_finding(summary, line)} {_elsewhere(summary, other[line.objective])}".rstrip())
        for line in summary.lines()
        if line.comparison is not None
    ]
    return sorted(found, key=lambda one: ORDER.index(one[1]))


def _finding(summary: Summary, line: Line) -> str:
    metric, found = summary.metric, line.comparison
    assert found is not None
    where, name, base = EPOCHS[summary.spec.stop], line.objective, summary.baseline
    if found.verdict == "identical":
        return f"{name} is identical to {base} on every {summary.spec.unit}."
    if found.verdict == "failed":
        return f"{name} could not be compared with {base}: {found.note}."
    bounds = f"95 % interval {_ends(metric, found)}" if math.isfinite(found.low) else "no interval"
    evidence = f"({bounds}, adjusted p {_p(found.p_adjusted)})"
    size = _points(metric, abs(found.mean_difference))
    if found.verdict == "hopeless":
        return (
            f"{name} was ended after {count(found.n, summary.spec.unit)}: the advantage over {base} that the study was to find is "
            f"excluded. The difference until then is {_signed(metric, found)} ({bounds}, which holds whenever one stops)."
        )
    if found.verdict in ("better", "worse"):
        verb = "beats" if found.verdict == "better" else "loses to"
        said = f"{name} {verb} {base} {where} by {size} {evidence}."
    else:
        said = f"No difference between {name} and {base} is shown {where}: {_signed(metric, found)} {evidence}."
        if found.low > 0 or found.high < 0:
            said += " The interval, taken alone, leaves out 0; counted among all the comparisons made, that is too little."
    return said + (f" Note: {found.note}." if found.note else "")


def _elsewhere(summary: Summary, line: Line) -> str:
    """The same at the other stop, which was not declared and so gets no verdict."""
    metric, found, where = summary.metric, line.comparison, EPOCHS[summary.other_stop]
    assert found is not None
    if not math.isfinite(found.low):
        return ""
    return f"{where[0].upper()}{where[1:]} the difference is {_signed(metric, found)} ({_ends(metric, found)}; not tested)."


def _ends(metric: Metric, found: Comparison) -> str:
    return f"{difference(metric, found.low)} to {difference(metric, found.high)}"


def _signed(metric: Metric, found: Comparison) -> str:
    return difference(metric, found.mean_difference) + (" points" if percent(metric) else "")


def _points(metric: Metric, value: float) -> str:
    return f"{100 * value:.1f} points of {metric.title}" if percent(metric) else f"{value:.3f} in {metric.title}"


def _p(p: float | None) -> str:
    text = p_value(p)
    return text if text.startswith("<") else f"= {text}"


def _count(n: int, of: int | str) -> str:
    """``2 of 4``, ``both``, ``all 4``; the only objective there is by its name."""
    if isinstance(of, str):
        return of
    if n < of:
        return f"{n} of {of}"
    return "both" if of == 2 else f"all {of}"


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
            spread = f"{low:g}" if low == high else f"{low:g} · {middle:g} · {high:g}"
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


def seen(summary: Summary) -> str:
    """The smallest difference that would have been found, in the metric's unit, by the spread that was seen; empty where there is none."""
    spreads = sorted(
        line.comparison.standard_deviation
        for line in summary.lines()
        if line.comparison is not None and line.comparison.standard_deviation > 0
    )
    if summary.prospect is None or not spreads or not math.isfinite(summary.prospect.smallest_effect):
        return ""
    low, high = (_points(summary.metric, summary.prospect.in_units(spread)) for spread in (spreads[0], spreads[-1]))
    between = low if low == high else f"{low} to {high}"
    deviations = f"{summary.prospect.smallest_effect:.1f} deviations"
    return f"By the spread seen here, {deviations} are {between}: smaller differences may well have been missed."


def chances(summary: Summary) -> list[tuple[str, tuple[str, str, str]]]:
    """For each objective the posterior probabilities, in percent, that it is worse, equivalent and better; none where no rope is set."""
    return [(label, (_chance(found.worse), _chance(found.equivalent), _chance(found.better))) for label, found in summary.chances().items()]


def _chance(probability: float) -> str:
    if 0 < probability < 0.01:
        return "< 1 %"
    return "> 99 %" if 0.99 < probability < 1 else f"{100 * probability:.0f} %"


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


TESTS = {
    "corrected_t": "paired t-test corrected for overlapping training sets (Nadeau & Bengio 2003), Holm over all comparisons, two-sided",
    "paired_t": "paired t-test over seeds that share one split, Holm over all comparisons, two-sided",
    "signed_rank": "exact signed-rank test over seeds, Holm over all comparisons, two-sided",
    "anytime_t": (
        "paired t-test that holds after any number of seeds, corrected for overlapping training sets, Holm over all comparisons, two-sided"
    ),
}


def through_thresholdout(rows: Sizes) -> str:
    """What Thresholdout's answers are, in a sentence."""
    return (
        "test rows answer through Thresholdout (Dwork et al. 2015): the validation accuracy stands as long as test rows agree with it to "
        f"about {100 * threshold(rows.test):.1f} points, and smaller differences are those of validation rows; {BUDGET} answers a split "
        "may come from test rows, over all studies in the store; nothing else of the test rows is shown"
    )


TUNED_BY = {
    "quasi_random": "the usual one and a scrambled Halton sequence",
    "optuna": "the usual one and Optuna's TPE",
}


def _decay(spec: StudySpec) -> str:
    return f", weight decay {OPTIMIZER['weight_decay']}" if spec.tuner == "grid" else ""


def _budget(summary: Summary) -> str:
    spec = summary.spec
    where = f"once, on {count(len(spec.tuning_draws), 'seed')} that are not tested" if spec.tune_once else spec.unit
    said = f"{spec.budget} {tried_word(spec)} for every objective {'' if spec.tune_once else 'and '}{where}"
    if spec.tuner == "grid":
        return f"{said}: {', '.join(f'{rate:g}' for rate in spec.learning_rates or ())}"
    return f"{said}: {TUNED_BY[spec.tuner or '']} over {searched(summary.result.data['searched'])}"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


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
    if spec.noise is not None:
        said.append(RULED_NOISE)
    said += noise_limits(spec)
    if any(line.estimate.scaled for line in summary.lines("log_loss")):
        said.append(
            f"Objectives that do not predict probabilities have log loss, Brier score, ECE and AURC {SCALED}, marked T; beside raw ones "
            "they are not the same quantity."
        )
    return said
