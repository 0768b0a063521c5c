"""Several data sets in plain words: what was found on average, on how many, and what could be told apart."""

import math
from collections.abc import Sequence

from lossmith.study.across import AcrossComparison
from lossmith.study.report.words import ORDER, difference, p_value, percent
from lossmith.study.statistics.power import count
from lossmith.study.statistics.ranks import Ranking
from lossmith.study.training.metrics import METRICS, Metric

POPULATIONS = {"these": "on average over these {} data sets", "alike": "on data sets like these {}"}


def headline(found: Sequence[AcrossComparison]) -> str:
    """All comparisons over several data sets in a sentence."""
    if not found:
        return "One objective: there is nothing to compare."
    first = found[0]
    where = POPULATIONS[first.population].format(first.data_sets)
    verdicts = [one.verdict for one in found]
    said = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in ORDER if verdict in verdicts)
    made = count(len(found), "comparison")
    return f"Compared with {first.baseline} in {METRICS[first.metric].title}, {where}, of {made}: {said}."


def findings(found: Sequence[AcrossComparison]) -> list[tuple[str, str, str]]:
    """The label, the verdict and what was found, the winners first."""
    return [(one.objective, one.verdict, finding(one)) for one in sorted(found, key=lambda one: ORDER.index(one.verdict))]


def finding(found: AcrossComparison) -> str:
    """One comparison over several data sets in a sentence or two."""
    metric = METRICS[found.metric]
    name = found.objective + (f" {found.setting}" if found.setting else "")
    where = POPULATIONS[found.population].format(found.data_sets)
    if found.verdict == "identical":
        return f"{name} is identical to {found.baseline} on every seed of all {found.data_sets} data sets."
    if found.verdict == "failed":
        return f"{name} could not be compared with {found.baseline}: {found.note}."
    bounds = (
        f"95 % interval {difference(metric, found.low)} to {difference(metric, found.high)}" if math.isfinite(found.low) else "no interval"
    )
    p = p_value(found.p_adjusted)
    evidence = f"({bounds}, adjusted p {p if p.startswith('<') else f'= {p}'})"
    size = _size(metric, found.mean_difference)
    if found.verdict in ("better", "worse"):
        verb = "beats" if found.verdict == "better" else "loses to"
        said = f"{name} {verb} {found.baseline} {where}, by {size} in the mean {evidence}."
    else:
        said = f"No difference between {name} and {found.baseline} is shown {where}: {size} in the mean {evidence}."
    said += f" It is better on {found.better_on} and worse on {found.worse_on} of {found.data_sets}."
    return said + (f" Note: {found.note}." if found.note else "")


def told_apart(ranking: Ranking) -> str:
    """What a ranking says about pairs, in a sentence or two."""
    apart = sum(pair.differ for pair in ranking.pairs)
    how = "exact signed-rank tests, Holm over all pairs" if ranking.method == "signed_rank" else "Nemenyi's test of mean ranks"
    said = f"{apart} of {count(len(ranking.pairs), 'pair')} of objectives are told apart over {ranking.data_sets} data sets ({how})."
    if not ranking.can_tell_apart:
        return f"{said} With so few data sets no pair could have been."
    return said


def _size(metric: Metric, value: float) -> str:
    return difference(metric, value) + (f" points of {metric.title}" if percent(metric) else f" in {metric.title}")
