"""A comparison in one call, and its answer as something to look at in a notebook.

>>> from lossmith import study
>>> found = study.compare("wine", ["ce", "gce"], model="linear", seeds=2, epochs=2, learning_rates=[0.01], jobs=1)
>>> found.findings[0][0]
'generalized_cross_entropy'
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossmith.study.data.corruption import Noise
from lossmith.study.engine import OnProgress
from lossmith.study.grid import Claim, GridSummary, grid, run_all
from lossmith.study.loggers.log import Log
from lossmith.study.protocol import fitting_test
from lossmith.study.statistics.paired import Test
from lossmith.study.summary import Summary
from lossmith.study.training.objectives import ObjectiveSpec

if TYPE_CHECKING:
    import pandas as pd


def compare(
    data: Any,
    objectives: str | Sequence[str | ObjectiveSpec],
    *,
    noise: str | Noise | Sequence[str | Noise | None] | None = None,
    test: Test = "corrected_t",
    claim: Claim = "these",
    store: str | os.PathLike[str] | None = None,
    jobs: int | None = None,
    on_progress: OnProgress | None = None,
    optuna_storage: str | None = None,
    log: Any = None,
    **declared: Any,
) -> "Answer":
    """Compare objectives on data, as ``lossmith compare`` does.

    Args:
        data: ``digits``, ``wine``, ``breast_cancer``, a CSV or Parquet file, ``module:function``, a data frame, (features, labels), or a
            `Dataset`; a list of them for several data sets.
        objectives: what to compare, the first being the baseline: ``["ce", "gce:q=0.7"]``, ``"@robust"``.
        noise: label noise such as ``"symmetric:0.4"``; a list for several settings.
        test: how differences are tested.
        claim: of several data sets, what is declared and tested.
        store: a file that keeps the trials, so that the same call computes nothing twice; None keeps nothing.
        jobs: how many worker processes; the number of processors when None.
        on_progress: called as trials finish, see `lossmith.study.run`.
        optuna_storage: where Optuna keeps its studies, see `lossmith.study.run`.
        log: who else is told of every trial: ``"tensorboard:runs"``, ``"mlflow"``, an object of your own, see `lossmith.study.run`.
        **declared: the other fields of `StudySpec`: target, model, seeds, metric, stop, epochs, tuner, configurations, folds, group ...
    """
    together = [objectives] if isinstance(objectives, str) else list(objectives)
    named = [one if isinstance(one, str) else one.label for one in together]
    specs = grid(
        data if isinstance(data, list) else [data],
        [noise] if noise is None or isinstance(noise, str | Noise) else list(noise),
        objectives=ObjectiveSpec.parse_list(",".join(named)),
        **declared,
    )
    tested = fitting_test(specs[0], test)
    results = run_all(specs, store, jobs=jobs, on_progress=on_progress, optuna_storage=optuna_storage, log=Log.of(log, tested))
    return Answer.of([Summary(result, tested) for result in results], claim)


@dataclass(frozen=True, eq=False)
class Answer:
    """What a comparison found. In a notebook it shows itself: the verdict in a sentence, and a small table.

    Attributes:
        summary: the statistics, of one study or of several.
    """

    summary: Summary | GridSummary

    @classmethod
    def of(cls, summaries: Sequence[Summary], claim: Claim = "these") -> "Answer":
        """The answer of finished studies; of several, about the claim that was declared."""
        return cls(summaries[0] if len(summaries) == 1 else GridSummary(tuple(summaries), claim))

    @property
    def headline(self) -> str:
        """All of it in a sentence or two."""
        from lossmith.study.report import words, words_across

        return words_across.grid_headline(self.summary) if isinstance(self.summary, GridSummary) else words.headline(self.summary)

    @property
    def findings(self) -> list[tuple[str, str, str]]:
        """Label, verdict, and what was found in words, the winners first."""
        from lossmith.study.report import words, words_across

        return words_across.of_grid(self.summary) if isinstance(self.summary, GridSummary) else words.findings(self.summary)

    @property
    def notes(self) -> list[str]:
        """What to know before believing the numbers."""
        return self.summary.notes

    def table(self) -> "pd.DataFrame":
        """Every objective, metric and stop a row: means, intervals, differences; p-values and verdicts where declared."""
        from lossmith.study.report import exports

        if isinstance(self.summary, GridSummary):
            return exports.summary(self.summary.summaries, judged=False)
        return exports.summary([self.summary])

    def trials(self) -> "pd.DataFrame":
        """Every trial a row."""
        from lossmith.study.report import exports

        return exports.trials(self.summary.summaries if isinstance(self.summary, GridSummary) else [self.summary])

    def report(self, folder: str | os.PathLike[str]) -> Path:
        """Write the page, and of one study the script that trains the winner again, into a folder; return the page's path."""
        from lossmith.study.report.page import write_report
        from lossmith.study.report.winner import write_winner

        if isinstance(self.summary, Summary):
            write_winner(self.summary, folder)
        return write_report(self.summary, folder)

    def __repr__(self) -> str:
        heads, rows = self._small()
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (heads, *rows)]
        return "\n".join([self.headline, "", *lines, *(f"warning: {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        from lossmith.study.report.page import templates

        heads, rows = self._small()
        return templates().get_template("answer.html.j2").render(headline=self.headline, heads=heads, rows=rows, notes=self.notes)

    def _small(self) -> tuple[list[str], list[list[str]]]:
        """A table that fits beside code: headings and rows."""
        from lossmith.study.report import numbers, words_across

        metric = self.summary.metric
        if isinstance(self.summary, GridSummary):
            rows = [
                [one.objective, where, numbers.difference(metric, one.mean_difference), numbers.interval(metric, one.low, one.high),
                 numbers.p_value(one.p_adjusted), one.verdict]
                for where, one in words_across.declared(self.summary)
            ]  # fmt: skip
            return ["objective", "setting", "difference", "95 % interval", "adjusted p", "verdict"], rows
        rows = []
        for line in self.summary.lines():
            found = line.comparison
            compared = ["", "", "", "baseline"] if found is None else [
                numbers.difference(metric, found.mean_difference), numbers.interval(metric, found.low, found.high),
                numbers.p_value(found.p_adjusted), found.verdict,
            ]  # fmt: skip
            rows.append([line.objective, numbers.number(metric, line.estimate.mean), *compared])
        return ["objective", metric.title, "difference", "95 % interval", "adjusted p", "verdict"], rows
