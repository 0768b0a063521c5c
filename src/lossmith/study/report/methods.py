"""What a paper says of a study: a paragraph of methods, and the BibTeX of all that it rests on."""

from collections.abc import Mapping, Sequence

from lossmith import citation
from lossmith.study.grid import GridSummary
from lossmith.study.protocol import EPOCHS, listing, splitting, thinned
from lossmith.study.references import is_reference
from lossmith.study.report import works
from lossmith.study.report.design import TESTS
from lossmith.study.spec import OPTIMIZER, StudySpec
from lossmith.study.statistics.power import count
from lossmith.study.statistics.stopping import EFFECT
from lossmith.study.summary import ALPHA, Summary
from lossmith.study.training.trees import TREES

PROPOSED = {"quasi_random": "from a scrambled Halton sequence", "optuna": "proposed by Optuna's tree-structured Parzen estimator"}
"""Tuner -> how its configurations come about."""


CLAIMED = {
    "these": (
        "the average over these data sets, each counting alike, in every setting: a t-test of the mean over data sets of the mean paired "
        "differences, its variance corrected for overlapping training sets (Nadeau & Bengio 2003), Holm over all comparisons, two-sided"
    ),
    "alike": (
        "data sets like these, in every setting: an exact signed-rank test of the mean paired differences over data sets, Holm over all "
        "comparisons, two-sided"
    ),
    "each": "each data set by itself, in every setting: ",
}
"""Claim over several studies -> what it is about, and by which test; of each by itself, the studies' own."""


def paragraph(found: Summary | GridSummary) -> str:
    """How the studies were made, in sentences that a paper can use as they are."""
    summaries = _summaries(found)
    first = summaries[0]
    spec, metric = first.spec, first.metric
    others = [label for label in first.result.objectives if label != first.baseline]
    compared = f"We compared {listing(others)} with {first.baseline}" if others else f"We trained with {first.baseline}"
    data = listing([_data(one) for one in _one_a_data_set(summaries)])
    kinds = dict.fromkeys(one.spec.noise for one in summaries)
    noise = ["none" if kind is None else kind.describe(clean_validation=spec.clean_validation) for kind in kinds]
    declared = f"declared beforehand and tested at {ALPHA:g}"
    probed = [works.PROBED[kind] for kind in works.probed(first)]
    said = [
        f"{compared} on {data}.",
        f"Label noise: {'; or '.join(noise)}." if any(kinds) else "",
        *(f"{said[0].upper()}{said[1:]}." for said in thinned(spec)),
        *_trained(first, " (sizes of the first data set)" if len(summaries) > 1 else ""),
        _tuning(first),
        "Test rows chose nothing.",
        "Test rows answered through Thresholdout (Dwork et al. 2015)." if spec.holdout == "thresholdout" else "",
        f"Differences in {metric.title} {EPOCHS[spec.stop]} were {declared}: {_test(found)}." if others else "",
        f"Beside the metrics we looked at {listing(probed)}; nothing was chosen by these." if probed else "",
    ]
    versions = dict.fromkeys(_software(one) for summary in summaries for one in summary.result.versions)
    return " ".join([*filter(None, said), f"We used {'; '.join(versions)}."])


def _summaries(found: Summary | GridSummary) -> tuple[Summary, ...]:
    return found.summaries if isinstance(found, GridSummary) else (found,)


def _test(found: Summary | GridSummary) -> str:
    """What was claimed, and by which test."""
    if isinstance(found, Summary):
        return TESTS[found.test]
    return CLAIMED[found.claim] + (TESTS[found.first.test] if found.claim == "each" else "")


def _trained(summary: Summary, whose: str) -> list[str]:
    """The model and its training, and what was the same for all objectives, a sentence each."""
    spec = summary.spec
    split = f"{splitting(spec, summary.sizes)}{whose}."
    if spec.model in TREES:
        grown = f"grown for {count(spec.epochs, 'round')} by each objective's gradient and curvature"
        return [f"The model was {TREES[spec.model]}, {grown}.", f"Splits were the same for all objectives: {split}"]
    decay = f" (weight decay {OPTIMIZER['weight_decay']})" if spec.tuner == "grid" else ""
    return [
        f"The model was {spec.model}, trained for {count(spec.epochs, 'epoch')} with {OPTIMIZER['name']}{decay} in batches of "
        f"{spec.batch_size}.",
        f"Splits, initial weights and batches were the same for all objectives: {split}",
    ]


def _tuning(summary: Summary) -> str:
    spec = summary.spec
    better = "highest" if summary.metric.higher_is_better else "lowest"
    if spec.tuner == "grid" and spec.budget == 1:
        return f"The learning rate was {_rates(spec)} throughout."
    what, tried = "learning rate", _rates(spec)
    if spec.tuner != "grid":
        own = "weight decay and the objective's own hyper-parameters that were not fixed"
        what, tried = "configuration", f"{spec.budget} of learning rate, {own}, {PROPOSED[spec.tuner or '']}"
    where, on = f"For every objective and {spec.unit}", f"the {better} validation {summary.metric.title}"
    if spec.tune_once:
        where, on = "For every objective, once for all", f"{on}, averaged over {len(spec.tuning_draws)} further seeds that were not tested,"
    said = f"{where}, the {what} ({tried}) with {on} was taken."
    if spec.stop_hopeless is not None:
        said += f" After every seed, objectives without a chance of an advantage of {EFFECT:g} standard deviations were ended."
    return said


def _rates(spec: StudySpec) -> str:
    return ", ".join(f"{rate:g}" for rate in spec.learning_rates or ())


def _software(versions: Mapping[str, str]) -> str:
    names = {"lossmith": "lossmith", "torch": "PyTorch", "python": "Python"}
    return ", ".join(f"{said} {versions[name]}" for name, said in names.items() if name in versions)


def _data(summary: Summary) -> str:
    data = summary.result.data
    return f"{data['name']} ({data['rows']} rows, {data['inputs']}, {len(data['classes'])} classes)"


def _one_a_data_set(summaries: Sequence[Summary]) -> list[Summary]:
    return list({summary.result.data["fingerprint"]: summary for summary in reversed(summaries)}.values())[::-1]


def bibtex(found: Summary | GridSummary) -> str:
    """Entries of the library, of all that the studies rest on, and of each objective's source, every one once."""
    summaries = _summaries(found)
    claim = found.claim if isinstance(found, GridSummary) else None
    names = {objective.name for summary in summaries for objective in summary.spec.objectives}
    sources = [_source(name) for name in sorted(names, key=str.casefold) if not is_reference(name)]
    entries = [citation.own(), *works.used(summaries, claim), *sources]
    return "\n\n".join(dict.fromkeys(entry for entry in entries if entry))


def _source(name: str) -> str:
    """Of an objective's source; nothing for one that is not installed here."""
    try:
        return citation.of(name)
    except KeyError:
        return ""
