"""What a paper says of a study: a paragraph of methods, and the BibTeX of all that it rests on."""

from collections.abc import Mapping, Sequence

from lossmith import citation
from lossmith.study import protocol
from lossmith.study.data.sources import BUNDLED
from lossmith.study.protocol import splitting
from lossmith.study.references import is_reference
from lossmith.study.report import design
from lossmith.study.spec import OPTIMIZER, StudySpec
from lossmith.study.statistics.power import count
from lossmith.study.statistics.stopping import EFFECT
from lossmith.study.summary import ALPHA, Summary
from lossmith.study.training.trees import TREES

PROPOSED = {"quasi_random": "from a scrambled Halton sequence", "optuna": "proposed by Optuna's tree-structured Parzen estimator"}
"""Tuner -> how its configurations come about."""


def paragraph(summaries: Sequence[Summary]) -> str:
    """How the studies were made, in sentences that a paper can use as they are."""
    first = summaries[0]
    spec, metric = first.spec, first.metric
    others = [label for label in first.result.objectives if label != first.baseline]
    compared = f"We compared {protocol.listing(others)} with {first.baseline}" if others else f"We trained with {first.baseline}"
    data = protocol.listing([_data(one) for one in _one_a_data_set(summaries)])
    kinds = dict.fromkeys(one.spec.noise for one in summaries)
    noise = ["none" if kind is None else kind.describe(clean_validation=spec.clean_validation) for kind in kinds]
    network = f"The model was {spec.model}, trained for {count(spec.epochs, 'epoch')} with {OPTIMIZER['name']}"
    decay = f" (weight decay {OPTIMIZER['weight_decay']})" if spec.tuner == "grid" else ""
    network += f"{decay} in batches of {spec.batch_size}"
    shared = f"Splits, initial weights and batches were the same for all objectives: {splitting(spec, first.sizes)}"
    if spec.model in TREES:
        network = f"The model was {TREES[spec.model]}, grown for {count(spec.epochs, 'round')} by each objective's gradient and curvature"
        shared = f"Splits were the same for all objectives: {splitting(spec, first.sizes)}"
    said = [
        f"{compared} on {data}.",
        f"Label noise: {'; or '.join(noise)}." if any(kinds) else "",
        *(f"{said[0].upper()}{said[1:]}." for said in protocol.thinned(spec)),
        f"{network}.",
        f"{shared}{' (sizes of the first data set)' if len(summaries) > 1 else ''}.",
        _tuning(first),
        "Test rows chose nothing.",
        "Test rows answered through Thresholdout (Dwork et al. 2015)." if spec.holdout == "thresholdout" else "",
    ]
    if others:
        tested = design.TESTS[first.test] if len(summaries) == 1 else "p-values adjusted by Holm's rule over all comparisons"
        said.append(
            f"Differences in {metric.title} {protocol.EPOCHS[spec.stop]} were declared beforehand and tested at {ALPHA:g}: {tested}."
        )
    versions = dict.fromkeys(_software(one) for summary in summaries for one in summary.result.versions)
    return " ".join([*filter(None, said), f"We used {'; '.join(versions)}."])


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


def bibtex(summaries: Sequence[Summary]) -> str:
    """Entries of the library, the software beneath it, the tests, and each objective's source, every one once."""
    used = [citation.own(), citation.PYTORCH]
    if any(one.spec.data in BUNDLED or one.spec.target is not None for one in summaries):
        used.append(citation.SCIKIT_LEARN)
    if any(one.test == "corrected_t" for one in summaries):
        used.append(citation.NADEAU_BENGIO)
    used.append(citation.HOLM)
    if len(summaries) > 1:
        used.append(citation.DEMSAR)
    names = {objective.name for summary in summaries for objective in summary.spec.objectives}
    used += [_source(name) for name in sorted(names, key=str.casefold) if not is_reference(name)]
    return "\n\n".join(dict.fromkeys(filter(None, used)))


def _source(name: str) -> str:
    """Of an objective's source; nothing for one that is not installed here."""
    try:
        return citation.of(name)
    except KeyError:
        return ""
