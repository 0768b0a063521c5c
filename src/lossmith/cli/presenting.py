"""What ``lossmith compare`` and ``lossmith report`` show of a study: the report, and a table or JSON in the terminal."""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lossmith.cli.noise_report import NOTHING_KEPT, Kept
from lossmith.cli.output import console, print_json

if TYPE_CHECKING:
    from lossmith.study import StudyResult, Suspects
    from lossmith.study.grid import Claim, GridSummary
    from lossmith.study.statistics.paired import Comparison, Test
    from lossmith.study.summary import Line, Summary

WIDE = 116
"""Columns that a terminal needs for one table with both epochs; two are printed otherwise."""
STYLES = {"better": "bold green", "worse": "bold red", "failed": "bold magenta"}


FORMATS = ("html", "csv", "parquet", "latex")
"""What a report can be written as."""


def present(
    results: Sequence["StudyResult"],
    test: "Test",
    claim: "Claim",
    out: Path,
    *,
    as_json: bool,
    form: str = "html",
    noise_report: Kept = NOTHING_KEPT,
) -> int:
    """Write the report of one study, or of several that were run together, then print the table, or JSON."""
    from lossmith.study.grid import GridSummary
    from lossmith.study.report import suspected
    from lossmith.study.summary import Summary

    summaries = [Summary(result, test) for result in results]
    found = summaries[0] if len(summaries) == 1 else GridSummary(tuple(summaries), claim)
    suspects = noise_report.suspects if form == "html" else None
    paths = _write(found, out, form, suspects)
    moved = suspected.make_way(out, suspects, noise_report.written) if form == "html" else ""
    if moved:
        console(stderr=True).print(Text(moved, style="yellow"))
    listed = None if suspects is None else suspects.write(out)
    if as_json:
        facts = _facts(found, paths[0]) if isinstance(found, Summary) else _facts_together(found, paths[0])
        print_json(facts if suspects is None or listed is None else {**facts, "suspects": suspected.facts(suspects, listed)})
        return 0
    if isinstance(found, Summary):
        _print(found)
    else:
        _print_together(found)
    if suspects is not None:
        console().print(Text(f"{suspects.sentence} {suspected.CAVEAT}" if len(suspects.rows) else suspects.sentence))
    for heading, path in zip_longest(["report:"], [*paths, *([] if listed is None else [listed])], fillvalue="       "):
        console().print(f"{heading} {path}")
    return 0


def _write(found: "Summary | GridSummary", out: Path, form: str, suspects: "Suspects | None") -> list[Path]:
    """Write a study in one of the formats; the report comes first."""
    from lossmith.study.report.exports import write_tables
    from lossmith.study.report.latex import write_latex
    from lossmith.study.report.page import write_report
    from lossmith.study.report.winner import write_winner
    from lossmith.study.summary import Summary

    if form == "latex":
        return write_latex(found, out)
    if form != "html":
        return write_tables(found, out, form)
    paths = [write_report(found, out, suspects), write_winner(found, out) if isinstance(found, Summary) else None]
    return [path for path in paths if path is not None]


def _print_together(found: "GridSummary") -> None:
    """A table for each setting: the differences on every data set, and the declared claim over them."""
    from lossmith.study.report import numbers, words_across

    out, metric = console(), found.metric
    told = {(one.setting, one.objective): one for one in (found.across(found.claim) if found.claim != "each" else [])}
    single = {(id(summary), one.objective): one for summary, one in found.each}
    for table, summaries in found.settings:
        unit = ", points" if numbers.percent(metric) else ""
        heading = f"{table.setting or 'without noise'}: {metric.title}{unit}, difference to {found.baseline} [95 % interval]"
        shown = Table(title=heading, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        shown.add_column("objective", style="bold", overflow="fold")
        for name in table.data_sets:
            shown.add_column(name, justify="right", no_wrap=True)
        if told:
            shown.add_column("average" if found.claim == "these" else "data sets alike", justify="right", no_wrap=True)
            shown.add_column("adjusted p", justify="right", no_wrap=True)
            shown.add_column("verdict")
        for label in found.objectives[1:]:
            cells = [_difference(found.first, single[id(summary), label]) for summary in summaries]
            if found.claim == "each":
                cells = [Text.assemble(cell, "\n", _verdict(single[id(one), label])) for cell, one in zip(cells, summaries, strict=True)]
            else:
                one = told[table.setting, label]
                mean = f"{numbers.difference(metric, one.mean_difference)}\n{numbers.interval(metric, one.low, one.high)}"
                cells += [Text(mean), Text(numbers.p_value(one.p_adjusted)), Text(one.verdict, style=STYLES.get(one.verdict, ""))]
            shown.add_row(Text(label), *cells)
        out.print()
        out.print(shown)
    out.print(Text(words_across.grid_headline(found), style="bold"))
    for warning in found.notes:
        out.print(Text(f"warning: {warning}", style="yellow"))


def _facts_together(found: "GridSummary", page: Path) -> dict[str, Any]:
    from dataclasses import asdict

    from lossmith.study.report import words_across

    return {
        "claim": found.claim,
        "headline": words_across.grid_headline(found),
        "findings": [{"objective": label, "verdict": verdict, "text": text} for label, verdict, text in words_across.of_grid(found)],
        "these": [_of_claim(asdict(one), found.claim == "these") for one in found.across("these")],
        "alike": [_of_claim(asdict(one), found.claim == "alike") for one in found.across("alike")],
        "each": [
            {"data": one.result.data["name"], "noise": one.spec.as_dict()["noise"], **_of_claim(asdict(told), found.claim == "each")}
            for one, told in found.each
        ],
        "ranks": [{"setting": table.setting, **asdict(ranking)} for table, ranking in found.rankings()],
        "warnings": found.notes,
        "studies": [_facts(one, page) for one in found.summaries],
        "report": str(page),
    }


def _of_claim(facts: dict[str, Any], declared: bool) -> dict[str, Any]:
    """A comparison; one of a claim that was not declared has neither p-value nor verdict."""
    return facts if declared else {**facts, "p": None, "p_adjusted": None, "verdict": "not tested"}


def _print(summary: "Summary") -> None:
    from lossmith.study import protocol
    from lossmith.study.report import numbers, words

    out, spec = console(), summary.spec
    unit = ", %" if numbers.percent(summary.metric) else ""
    where = protocol.setting(spec, summary.result.data["name"])
    name = f"{where}: {summary.metric.title}{unit}, mean over {len(spec.draws)} {spec.unit}s [95 % interval]"
    declared, other = _declared_columns(summary), _other_columns(summary)
    out.print()
    if out.width >= WIDE:
        out.print(_table(summary, name, [*declared, *other]))
    else:
        out.print(_table(summary, name, declared))
        out.print(_table(summary, "not declared, and so not tested", other))
    for one in summary.standings:
        reached = numbers.number(summary.metric, one.mean)
        out.print(
            Text(f"reference: {one.name} {reached}, {numbers.difference(summary.metric, one.comparison.mean_difference)} to {one.best}")
        )
    out.print(Text(words.headline(summary), style="bold"))
    for warning in summary.notes:
        out.print(Text(f"warning: {warning}", style="yellow"))


def _table(summary: "Summary", title: str, columns: Sequence[tuple[str, list[Text]]]) -> Table:
    """The objectives, and a column a pair of heading and cells."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("objective", style="bold", overflow="fold")
    for heading, _ in columns:
        table.add_column(heading, justify="left" if heading == "verdict" else "right", no_wrap=True)
    for place, label in enumerate(summary.result.objectives):
        broken = label if len(label) <= 26 else label.replace(":", ":\n", 1)
        table.add_row(Text(broken), *(cells[place] for _, cells in columns))
    return table


def _declared_columns(summary: "Summary") -> list[tuple[str, list[Text]]]:
    from lossmith.study.report import numbers

    lines = summary.lines()
    found = [line.comparison for line in lines]
    return [
        (f"{summary.spec.stop} epoch\n(declared)", [_estimate(summary, line) for line in lines]),
        ("difference\nto baseline", [_difference(summary, one) for one in found]),
        ("adjusted\np", [Text("" if one is None else numbers.p_value(one.p_adjusted)) for one in found]),
        ("verdict", [_verdict(one) for one in found]),
    ]


def _other_columns(summary: "Summary") -> list[tuple[str, list[Text]]]:
    lines = summary.lines(stop=summary.other_stop)
    return [
        (f"{summary.other_stop} epoch\n(not tested)", [_estimate(summary, line) for line in lines]),
        ("difference\nto baseline", [_difference(summary, line.comparison) for line in lines]),
    ]


def _verdict(found: "Comparison | None") -> Text:
    if found is None:
        return Text("baseline", style="dim")
    return Text(found.verdict.replace("no difference shown", "no difference\nshown"), style=STYLES.get(found.verdict, ""))


def _estimate(summary: "Summary", line: "Line") -> Text:
    from lossmith.study.report import numbers

    ends = numbers.mean_interval(summary.metric, line.estimate.low, line.estimate.high)
    return Text(f"{numbers.number(summary.metric, line.estimate.mean).removesuffix(' %')}\n{ends}")


def _difference(summary: "Summary", found: "Comparison | None") -> Text:
    from lossmith.study.report import numbers

    if found is None:
        return Text("")
    return Text(f"{numbers.difference(summary.metric, found.mean_difference)}\n{numbers.interval(summary.metric, found.low, found.high)}")


def _facts(summary: "Summary", page: Path) -> dict[str, Any]:
    from dataclasses import asdict

    from lossmith.study.report import beside, words
    from lossmith.study.spec import STOPS
    from lossmith.study.training.metrics import METRICS

    tables = {
        stop: {
            name: [
                {
                    "objective": line.objective,
                    **asdict(line.estimate),
                    "comparison": None if line.comparison is None else asdict(line.comparison),
                }
                for line in summary.lines(name, stop)
            ]
            for name in METRICS
        }
        for stop in STOPS
    }
    return {
        "study": summary.spec.as_dict(),
        "data": dict(summary.result.data),
        "sizes": asdict(summary.sizes),
        "declared": {"metric": summary.spec.metric, "stop": summary.spec.stop, "baseline": summary.baseline, "test": summary.test},
        "headline": words.headline(summary),
        "findings": [{"objective": label, "verdict": verdict, "text": text} for label, verdict, text in words.findings(summary)],
        "references": [
            {"name": one.name, "mean": one.mean, "best_objective": one.best, "comparison": asdict(one.comparison)}
            for one in summary.standings
        ],
        "warnings": summary.notes,
        "results": tables,
        "beside": beside.facts(summary),
        "report": str(page),
    }
