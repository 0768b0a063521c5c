"""The report: one HTML file that opens offline, on a phone too, with the plain-words summary first.

Everything that comes from data or from the command line (class names, columns, file names, labels) is escaped by the template engine. The
page may run one script, its own, and load nothing: its security policy says so to the browser.
"""

import base64
import hashlib
import math
import os
import re
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

import lossmith
from lossmith.study.grid import GridSummary
from lossmith.study.report import grid_sections, sections
from lossmith.study.report.suspected import Suspects
from lossmith.study.report.writing import write_whole
from lossmith.study.summary import Summary

FILE = "report.html"


def write_report(summary: Summary | GridSummary, folder: str | os.PathLike[str], suspects: Suspects | None = None) -> Path:
    """Write ``report.html`` into a folder, made when absent, and return its path."""
    return write_whole(Path(folder) / FILE, render(summary, suspects).encode())


def render(summary: Summary | GridSummary, suspects: Suspects | None = None) -> str:
    """The report of a study, with the labels that look wrong where they were looked for, or of several studies at once, as HTML."""
    environment = templates()
    if isinstance(summary, GridSummary):
        name, context = "grid.html.j2", grid_sections.grid(summary)
        body = environment.get_template("study.html.j2")
        for study in context["studies"]:
            study["body"] = Markup(body.render(**study, level=3, cited=False))
    else:
        name, context = "report.html.j2", {**sections.study(summary, suspects), "level": 2, "cited": True}
    script = environment.get_template("report.js").render().strip()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = environment.get_template(name).render(**context, version=lossmith.__version__, script=Markup(script), digest=digest)
    return re.sub(r"(<pre.*?</pre>|<script.*?</script>)| %", lambda found: found[1] or "\u00a0%", text, flags=re.S)


def templates() -> jinja2.Environment:
    """The report's templates; an unknown name in one is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lossmith.study.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["label"] = _label
    environment.filters["options"] = _options
    environment.filters["sortable"] = _sortable
    environment.filters["sentence"] = _sentence
    return environment


def _sortable(value: float | None) -> str:
    """A number as the page's script sorts by it; what is no number comes last there."""
    return "" if value is None or not math.isfinite(value) else repr(float(value))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _options(text: str) -> Markup:
    """A sentence whose command-line options are not broken across lines."""
    return Markup(re.sub(r"(?<!\S)(--[a-z][a-z-]*)", r'<span class="option">\1</span>', str(escape(text))))


def _label(text: str) -> Markup:
    """A label that may be broken after an underscore or a punctuation mark, where a narrow column needs it."""
    return Markup(re.sub(r"([_:,]|\.(?=\D))", r"\1<wbr>", str(escape(text))))
