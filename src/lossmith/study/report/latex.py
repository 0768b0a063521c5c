"""A study as a LaTeX table: booktabs, with intervals and p-values, to be read into a paper by ``\\input``."""

import os
from collections.abc import Sequence
from pathlib import Path

from lossmith.study.across import AcrossComparison
from lossmith.study.grid import GridSummary
from lossmith.study.report import design, methods, numbers, words, words_across
from lossmith.study.report.writing import write_whole
from lossmith.study.statistics.paired import Comparison
from lossmith.study.summary import Summary
from lossmith.study.training.metrics import Metric

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''",
    "−": "$-$", "±": r"$\pm$", "–": "--", "“": "``", "”": "''", "’": "'", "²": r"\textsuperscript{2}",
}  # fmt: skip
"""Characters that LaTeX reads as something else, or that its fonts may lack."""


def write_latex(found: Summary | GridSummary, folder: str | os.PathLike[str]) -> list[Path]:
    """Write ``table.tex`` and ``references.bib`` into a folder and return their paths."""
    text = of_grid(found) if isinstance(found, GridSummary) else of_study(found)
    return [
        write_whole(Path(folder) / "table.tex", text.encode()),
        write_whole(Path(folder) / "references.bib", (methods.bibtex(found) + "\n").encode()),
    ]


def escaped(text: str) -> str:
    """A text as LaTeX prints it, on one line."""
    return "".join(SPECIAL.get(letter, letter) for letter in " ".join(text.split()) if letter.isprintable())


def of_study(summary: Summary) -> str:
    """The declared comparison as a table."""
    metric, rows = summary.metric, []
    for line in summary.lines():
        found = line.comparison
        mean = (
            f"{_plain(numbers.number(metric, line.estimate.mean))} {numbers.mean_interval(metric, line.estimate.low, line.estimate.high)}"
        )
        difference, p, verdict = "", "", "baseline"
        if found is not None:
            difference = f"{numbers.difference(metric, found.mean_difference)} {numbers.interval(metric, found.low, found.high)}"
            p, verdict = numbers.p_value(found.p_adjusted), found.verdict
        rows.append([line.objective, mean, difference, p, verdict])
    unit = " (%)" if numbers.percent(metric) else ""
    heads = ["objective", f"{metric.title}{unit}", f"difference to {summary.baseline}", "adjusted p", "verdict"]
    caption = (
        f"{words.headline(summary)} Means over {len(summary.spec.draws)} {summary.spec.unit}s with 95 % intervals; "
        f"{design.TESTS[summary.test]}.{_cut(metric, [line.comparison for line in summary.lines() if line.comparison])}"
    )
    return _table("lrrrl", heads, rows, caption, "tab:lossmith")


def of_grid(found: GridSummary) -> str:
    """The declared claim over several studies as a table: a row for each objective and setting."""
    metric = found.metric
    rows = [
        [where, one.objective, f"{numbers.difference(metric, one.mean_difference)} {numbers.interval(metric, one.low, one.high)}",
         numbers.p_value(one.p_adjusted), one.verdict]
        for where, one in words_across.declared(found)
    ]  # fmt: skip
    points = " (points)" if numbers.percent(metric) else ""
    heads = ["data" if found.claim == "each" else "setting", "objective", f"difference in {metric.title}{points}", "adjusted p", "verdict"]
    how = f"Differences to {found.baseline} with 95 % intervals; p adjusted by Holm over all rows."
    caption = f"{words_across.grid_headline(found)} {how}{_cut(metric, [one for _, one in words_across.declared(found)])}"
    return _table("llrrl", heads, rows, caption, "tab:lossmith")


def _cut(metric: Metric, told: Sequence[Comparison | AcrossComparison]) -> str:
    """The end of a caption: that some intervals would reach beyond what is possible."""
    return f" Intervals are {numbers.CUT}." if any(numbers.is_cut(metric, one.low, one.high) for one in told) else ""


def _plain(number: str) -> str:
    """Without the unit, which stands in the heading."""
    return number.removesuffix(" %")


def _table(columns: str, heads: Sequence[str], rows: Sequence[Sequence[str]], caption: str, label: str) -> str:
    lines = [
        r"% needs \usepackage{booktabs}; references.bib has the sources",
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escaped(caption)}}}",
        rf"  \label{{{label}}}",
        rf"  \begin{{tabular}}{{{columns}}}",
        r"    \toprule",
        f"    {_row(heads)}",
        r"    \midrule",
        *(f"    {_row(row)}" for row in rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(_cell, cells)) + r" \\"


def _cell(text: str) -> str:
    """A cell; a bracket at its beginning is not the optional argument of the row's end before it."""
    plain = escaped(text)
    return f"{{{plain}}}" if plain.startswith("[") else plain
