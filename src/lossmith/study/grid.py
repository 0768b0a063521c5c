"""Several studies at once: the same objectives on each of several data sets, under each of several kinds of label noise.

Each is a study of its own, with its own trials, kept in one store; what is declared (objectives, model, seeds, metric, stop, budget) is the
same for all. What the studies say together depends on which data sets a claim is about, and that is declared beforehand:

* ``"each"``: every data set by itself, under every noise; adjusted over all these comparisons.
* ``"these"``: the average over the data sets at hand, a comparison for each objective and noise.
* ``"alike"``: data sets like these. See :mod:`lossmith.study.across`.

Only the claim that was declared has p-values and verdicts; the others are shown as intervals.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

from lossmith.study.across import AcrossComparison, Population, StudyTable, compare_across
from lossmith.study.data.corruption import Noise
from lossmith.study.data.dataset import Dataset
from lossmith.study.data.sources import BUNDLED
from lossmith.study.engine import OnProgress, check, run
from lossmith.study.errors import StudyError
from lossmith.study.loading import load, load_result
from lossmith.study.loggers.log import Log
from lossmith.study.power_across import ProspectAcross, what_data_sets_can_show
from lossmith.study.references import is_reference
from lossmith.study.results import StudyResult
from lossmith.study.spec import StudySpec
from lossmith.study.statistics.paired import Comparison, Test, adjusted_together
from lossmith.study.statistics.power import Prospect, what_can_be_shown
from lossmith.study.statistics.ranks import Ranking
from lossmith.study.store import Store
from lossmith.study.stored import StoredStudy
from lossmith.study.summary import ALPHA, Summary
from lossmith.study.training.metrics import Metric
from lossmith.study.training.yardsticks import yardsticks
from lossmith.study.union import load_united, united_studies

Claim = Literal["each", "these", "alike"]


def grid(data: Sequence[Any], noise: Sequence[str | Noise | None] = (None,), **declared: Any) -> tuple[StudySpec, ...]:
    """The studies of all data sets and all kinds of noise, one after the other; a single one is a study like any other.

    Args:
        data: as `StudySpec` takes them.
        noise: kinds of label noise; None, or ``"none"``, for none.
        **declared: the other fields of `StudySpec`, the same for all; `target` goes to the files and frames among the data.
    """
    noises = [None if one is None or one == "none" else one if isinstance(one, Noise) else Noise.parse(one) for one in noise]
    target = declared.pop("target", None)
    tables = [_has_columns(one) for one in data]
    if target is not None and not any(tables):
        raise StudyError(f"target is for files with columns; {', '.join(map(_named, data))} bring their own labels")
    if not data or not noises:
        raise StudyError(f"{'noise' if data else 'data'}: none given; wanted one at least")
    specs = [
        StudySpec(data=one, noise=kind, target=target if table else None, **declared)
        for kind in noises
        for one, table in zip(data, tables, strict=True)
    ]
    if len(specs) == 1:
        return tuple(specs)
    single = (
        ("--split-column", specs[0].split_column is not None), ("--time", specs[0].time is not None),
        ("--stop-hopeless", specs[0].stop_hopeless is not None), ("--holdout thresholdout", specs[0].holdout == "thresholdout"),
    )  # fmt: skip
    for option, given in single:
        if given:
            raise StudyError(f"{option} is for one study; several data sets or kinds of noise make {len(specs)}")
    if len(specs[0].draws) < 2:
        raise StudyError("several data sets or kinds of noise are compared over seeds: wanted 2 seeds or more")
    names = [_named(spec.data) for spec in specs[: len(data)]]
    texts = ["none" if one is None else str(one) for one in noises]
    for what, given in (("data", names), ("noise", texts)):
        if len(set(given)) < len(given):
            twice = next(one for one in given if given.count(one) > 1)
            raise StudyError(f"{what} {twice} is named twice: the same again is not another")
    return tuple(replace(spec, grid=(tuple(names), tuple(texts))) for spec in specs)


def _named(data: Any) -> str:
    return data.name if isinstance(data, Dataset) else str(data)


def _has_columns(data: Any) -> bool:
    """Whether it is a file or a data frame, of which one column is the target."""
    if isinstance(data, str | os.PathLike):
        text = os.fspath(data)
        return text not in BUNDLED and not text.startswith("folder:") and not is_reference(text)
    return hasattr(data, "columns") and not isinstance(data, Dataset)


def run_all(
    specs: Sequence[StudySpec],
    store_path: str | os.PathLike[str] | None = None,
    *,
    jobs: int | None = None,
    backend: str = "local",
    on_progress: OnProgress | None = None,
    optuna_storage: str | None = None,
    log: Any = None,
) -> list[StudyResult]:
    """Run studies one after the other, with one count of trials for all; see `lossmith.study.run`."""
    log = Log.of(log)
    if len(specs) == 1:
        how: dict[str, Any] = {"jobs": jobs, "backend": backend, "optuna_storage": optuna_storage, "log": log}
        return [run(specs[0], store_path, on_progress=on_progress, **how)]
    totals, stored = [], []
    with Store(store_path) as store:
        for spec in specs:
            dataset = spec.load()
            check(spec, dataset)
            references = yardsticks(spec, dataset)
            totals.append(spec.foreseen + len(references))
            stored.append(0 if spec.sequential else len(store.known(task.key for task in (*spec.trials(dataset.fingerprint), *references))))
    if on_progress is not None:
        on_progress(sum(stored), sum(totals), None)
    results = []
    for place, spec in enumerate(specs):

        def told(done: int, total: int, record: dict[str, Any] | None, place: int = place) -> None:
            news = record is not None or (done, total) != (stored[place], totals[place])
            stored[place], totals[place] = done, total
            if on_progress is not None and news:
                on_progress(sum(stored), sum(totals), record)

        results.append(run(spec, store_path, jobs=jobs, backend=backend, on_progress=told, optuna_storage=optuna_storage, log=log))
    return results


def load_all(store_path: str | os.PathLike[str], which: int = -1) -> list[StudyResult]:
    """A study read back from its store, with all that were run together with it; see `lossmith.study.load`."""
    found = load(store_path, which)
    if found.spec.grid is None:
        return [found]
    with Store(store_path) as store:
        return [load_result(study, store) for study in _together(found.spec, store.studies(), store.name)]


def load_all_united(store_paths: Sequence[str | os.PathLike[str]], which: int = -1) -> list[StudyResult]:
    """The same from several stores, in which the parts of a study or of several run together are spread; see `load_united`."""
    found = load_united(store_paths, which)
    if found.spec.grid is None:
        return [found]
    asked = united_studies(store_paths)
    wanted = _together(found.spec, asked, "the stores")
    return [load_united(store_paths, asked.index(study)) for study in wanted]


def _together(spec: StudySpec, studies: Sequence[StoredStudy], where: str) -> list[StoredStudy]:
    """The studies that were run together with one, in their order; of one that was run again, on data that changed, the latest."""
    assert spec.grid is not None
    names, noises = spec.grid
    members = {}
    for study in studies:
        if study.spec.declared == spec.declared:
            members[str(study.spec.noise or "none"), str(study.spec.as_dict()["data"])] = study
    wanted = [(noise, name) for noise in noises for name in names]
    missing = [f"{name} with noise {noise}" for noise, name in wanted if (noise, name) not in members]
    if missing:
        raise StudyError(f"{where} lacks {', '.join(missing)}; run the same command again to compute them")
    return [members[place] for place in wanted]


@dataclass(frozen=True, eq=False)
class GridSummary:
    """What several studies say together.

    Attributes:
        summaries: of each study, in the order in which they were run.
        claim: which data sets the verdicts are about: "each", "these", or "alike"; declared before the run.
    """

    summaries: tuple[Summary, ...]
    claim: Claim = "these"

    def __post_init__(self) -> None:
        if self.claim not in get_args(Claim):
            raise StudyError(f"--claim must be one of {', '.join(get_args(Claim))}; got {self.claim!r}")
        if not self.summaries:
            raise StudyError("summaries: none; wanted one at least")
        try:
            _ = self.settings
        except ValueError as error:
            raise StudyError(str(error)) from error

    @property
    def first(self) -> Summary:
        return self.summaries[0]

    @property
    def spec(self) -> StudySpec:
        """Of the first study; data and noise are its own, all else is what all declared."""
        return self.first.spec

    @property
    def metric(self) -> Metric:
        return self.first.metric

    @property
    def baseline(self) -> str:
        return self.first.baseline

    @property
    def objectives(self) -> tuple[str, ...]:
        return self.first.result.objectives

    @cached_property
    def settings(self) -> tuple[tuple[StudyTable, tuple[Summary, ...]], ...]:
        """For each kind of noise the table over the data sets, and the studies behind it."""
        kinds = dict.fromkeys(summary.spec.noise for summary in self.summaries)
        together = [tuple(one for one in self.summaries if one.spec.noise == kind) for kind in kinds]
        return tuple((StudyTable.of(studies), studies) for studies in together)

    @property
    def tables(self) -> tuple[StudyTable, ...]:
        """One for each kind of noise, over the data sets."""
        return tuple(table for table, _ in self.settings)

    @property
    def data_sets(self) -> tuple[str, ...]:
        return self.tables[0].data_sets

    @property
    def trials(self) -> int:
        """How many all studies have."""
        return sum(len(summary.result.trials) for summary in self.summaries)

    @cached_property
    def _across(self) -> dict[Population, list[AcrossComparison]]:
        return {population: compare_across(*self.tables, population=population, alpha=ALPHA) for population in get_args(Population)}

    def across(self, population: Population) -> list[AcrossComparison]:
        """Every objective against the baseline over the data sets, for each kind of noise, adjusted over all of them."""
        return self._across[population] if len(self.objectives) > 1 else []

    @cached_property
    def each(self) -> list[tuple[Summary, Comparison]]:
        """Every objective against the baseline in every study, adjusted over all of them."""
        found = [(summary, line.comparison) for summary in self.summaries for line in summary.lines() if line.comparison is not None]
        judged = adjusted_together([one for _, one in found], ALPHA) if found else []
        return [(summary, one) for (summary, _), one in zip(found, judged, strict=True)]

    def rankings(self) -> list[tuple[StudyTable, Ranking]]:
        """The objectives ranked over the data sets, for each kind of noise under which two or more of them have no failed trial."""
        ranked = []
        for table in self.tables:
            whole = [label for label in table.objectives if not table.failed(label)]
            if len(table.data_sets) > 1 and len(whole) > 1:
                ranked.append((table, table.ranking(alpha=ALPHA)))
        return ranked

    @property
    def notes(self) -> list[str]:
        """What a reader must know before believing the numbers, of every study."""
        found: dict[str, list[str]] = {}
        for place, summary in enumerate(self.summaries, 1):
            for note in summary.notes:
                found.setdefault(note, []).append(str(place))
        return [f"Study {', '.join(places)}: {note}" for note, places in found.items()]


def prospect_of(
    specs: Sequence[StudySpec], train: int, test: int, claim: Claim, *, by: Test = "corrected_t"
) -> ProspectAcross | Prospect | None:
    """What a grid can show of the claim that is declared; None where nothing is compared.

    Args:
        specs: its studies.
        train: rows trained on, per seed; of data sets of different sizes any one's, where the shares are the same.
        test: rows tested on.
        claim: over its data sets, or of each by itself, adjusted over the comparisons of all studies.
        by: the test of each study, for claims of each data set by itself.
    """
    others, settings = len(specs[0].objectives) - 1, len({spec.noise for spec in specs})
    if others < 1:
        return None
    if claim == "each":
        shown = what_can_be_shown(len(specs[0].draws), others * len(specs), train, test, ALPHA, test=by)
        return replace(shown, unit=specs[0].unit)
    return what_data_sets_can_show(len(specs) // settings, len(specs[0].draws), others * settings, train, test, population=claim)


def without_grid(summary: Summary) -> StudySpec:
    """The specification of one study of a grid, as if it had been run alone."""
    return replace(summary.spec, grid=None)
