"""Several data sets in plain words: what was found on average, on how many, and what could be told apart."""

from collections.abc import Sequence

from lossmith.study.across import AcrossComparison, Population
from lossmith.study.grid import GridSummary
from lossmith.study.protocol import EPOCHS, listing, setting
from lossmith.study.report.design import CUT_SHORT, RULED_NOISE
from lossmith.study.report.numbers import ends, is_cut, p_equals, signed_points
from lossmith.study.report.words import ORDER
from lossmith.study.statistics.paired import Comparison
from lossmith.study.statistics.power import count
from lossmith.study.statistics.ranks import Ranking
from lossmith.study.summary import Summary
from lossmith.study.training.metrics import METRICS

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


def _over(found: AcrossComparison) -> str:
    """The population of a claim; of one data set, its name."""
    return POPULATIONS[found.population].format(found.data_sets) if found.data_sets > 1 else f"on {next(iter(found.differences))}"


def findings(found: Sequence[AcrossComparison]) -> list[tuple[str, str, str]]:
    """The label, the verdict and what was found, the winners first."""
    return [(one.objective, one.verdict, finding(one)) for one in sorted(found, key=lambda one: ORDER.index(one.verdict))]


def finding(found: AcrossComparison) -> str:
    """One comparison over several data sets in a sentence or two."""
    metric = METRICS[found.metric]
    name = found.objective + (f" {found.setting}" if found.setting else "")
    where = _over(found)
    if found.verdict == "tied":
        return f"{name} and {found.baseline} reach the same {metric.title} on every seed of all {found.data_sets} data sets."
    if found.verdict == "failed":
        return f"{name} could not be compared with {found.baseline}: {found.note}."
    evidence = f"({ends(metric, found.low, found.high)}, adjusted p {p_equals(found.p_adjusted)})"
    size = signed_points(metric, found.mean_difference)
    if found.verdict in ("better", "worse"):
        verb = "beats" if found.verdict == "better" else "loses to"
        said = f"{name} {verb} {found.baseline} {where}, by {size} in the mean {evidence}."
    else:
        said = f"No difference between {name} and {found.baseline} is shown {where}: {size} in the mean {evidence}."
    if found.data_sets > 1:
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


def studies(found: GridSummary) -> str:
    """How many, in words."""
    return "1 study" if len(found.summaries) == 1 else f"{len(found.summaries)} studies"


def title(found: GridSummary) -> str:
    """``digits and wine, as they are and with 40 % symmetric label noise``."""
    kinds = [table.setting or "as they are" for table in found.tables]
    named = listing(found.data_sets)
    return named if kinds == ["as they are"] else f"{named}, {listing(kinds)}"


def grid_headline(found: GridSummary) -> str:
    """All studies in a sentence or two, after one that says so where a reference outside the comparison is ahead of every objective."""
    said = [_outdone(found), _verdicts(found)]
    return " ".join(filter(None, said))


def _outdone(found: GridSummary) -> str:
    ahead = [one for one in found.summaries if one.standings and one.standings[0].ahead]
    if not ahead:
        return ""
    where = listing([f"{setting(one.spec, one.result.data['name'])} ({one.standings[0].name})" for one in ahead])
    return f"A reference outside the comparison is ahead of every objective in {len(ahead)} of {studies(found)}: {where}."


def _verdicts(found: GridSummary) -> str:
    told = of_grid(found)
    if not told:
        return f"{found.baseline} alone was trained: there is nothing to compare."
    verdicts = [verdict for _, verdict, _ in told]
    said = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in ORDER if verdict in verdicts)
    where = f"{EPOCHS[found.spec.stop]}, {_where(found)}"
    head = f"Compared with {found.baseline} in {found.metric.title} {where}, of {count(len(told), 'comparison')}: {said}."
    return head if "better" in verdicts else f"{head} None of these is shown to beat {found.baseline} here."


def _where(found: GridSummary) -> str:
    if found.claim == "each" or len(found.data_sets) == 1:
        named = listing(found.data_sets)
        return f"on {named}" if len(found.data_sets) == 1 else f"on each of {named} by itself"
    return POPULATIONS[found.claim].format(len(found.data_sets))


def of_grid(found: GridSummary) -> list[tuple[str, str, str]]:
    """What was found of the claim that was declared: label, verdict and a sentence or two, the winners first."""
    if found.claim != "each":
        return findings(found.across(found.claim))
    order = sorted(found.each, key=lambda one: ORDER.index(one[1].verdict))
    return [(one.objective, one.verdict, _on_one(summary, one)) for summary, one in order]


def _on_one(summary: Summary, one: Comparison) -> str:
    where = setting(summary.spec, summary.result.data["name"])
    if one.verdict == "tied":
        return f"On {where}, {one.objective} and {one.baseline} reach the same {summary.metric.title} on every {summary.spec.unit}."
    if one.verdict == "failed":
        return f"On {where}, {one.objective} could not be compared with {one.baseline}: {one.note}."
    evidence = f"({ends(summary.metric, one.low, one.high)}, adjusted p {p_equals(one.p_adjusted)})"
    size = signed_points(summary.metric, one.mean_difference)
    if one.verdict in ("better", "worse"):
        verb = "beats" if one.verdict == "better" else "loses to"
        return f"On {where}, {one.objective} {verb} {one.baseline}, by {size} {evidence}."
    return f"On {where}, no difference between {one.objective} and {one.baseline} is shown: {size} {evidence}."


def declared(found: GridSummary) -> list[tuple[str, AcrossComparison | Comparison]]:
    """The comparisons of the claim that was declared, each with where it was made, in the order of the studies."""
    if found.claim == "each":
        return [(setting(summary.spec, summary.result.data["name"]), one) for summary, one in found.each]
    return [(one.setting or "without noise", one) for one in found.across(found.claim)]


def what_over(found: GridSummary, population: Population, *, declared: bool) -> str:
    """What the table of a claim over the data sets shows."""
    said = f"{found.metric.title[0].upper()}{found.metric.title[1:]} {EPOCHS[found.spec.stop]}, objective less {found.baseline}"
    how = {
        "these": "the mean over the data sets of the mean differences, with its 95 % interval from the seeds",
        "alike": "the same mean, with the 95 % interval of the centre by the exact signed-rank test over the data sets",
    }[population]
    tested = "This claim was declared and is tested, adjusted over all rows." if declared else "Not declared, and so not tested."
    return f"{said}: {how}. {tested}"


def what_each(found: GridSummary) -> str:
    """What the small tables show."""
    said = f"Difference to {found.baseline} in {found.metric.title} on each data set, with its own 95 % interval."
    if found.claim == "each":
        return f"{said} This claim was declared and is tested, p-values adjusted over all cells. ▲ better, ▼ worse."
    return f"{said} Not declared, and so not tested: among so many cells some intervals leave out 0 by chance."


def limits(found: GridSummary) -> list[str]:
    """What the studies do not show."""
    spec = found.spec
    said = [
        f"One model ({spec.model}), {spec.epochs} epochs: another may order the objectives otherwise.",
        "Three claims can be made of the same trials (of each data set, of their average, of data sets like them). One was declared before "
        "the run, and only its p-values hold; to choose among the three afterwards would find winners that are none.",
        "“No difference shown” is not “no difference”: the interval says which differences remain possible.",
    ]
    told = [*(one for _, one in found.each), *found.across("these"), *found.across("alike")]
    if any(is_cut(found.metric, one.low, one.high) for one in told):
        said.append(CUT_SHORT)
    if len(found.tables) > 1:
        said.append(
            "The same rows under more noise are not another data set: every kind of noise is a setting of its own, and p-values are "
            "adjusted over all settings."
        )
    if any(table.setting for table in found.tables):
        said.append(RULED_NOISE)
    return said
