"""The capability matrix of all objectives, measured and written: ``python -m lossmith.conformance.tables docs``."""

import sys
from collections.abc import Mapping
from pathlib import Path

from lossmith._subject import subject
from lossmith.card import all_cards
from lossmith.conformance.registry import Outcome, chosen

COLUMNS = {
    "gradcheck": "gradient",
    "double_backward": "double backward",
    "forward_ad": "forward AD",
    "vmap": "vmap(grad)",
    "compile": "compile, full graph",
    "half_precision": "bf16 and fp16",
    "extremes": "extreme logits",
}
"""The checks a capability stands for, and how the table calls it."""

Row = Mapping[str, str]
"""The check of each column -> its cell."""

_HEAD = """# What torch can do with each objective

Measured by the conformance suite, and written by `python -m lossmith.conformance.tables docs`. **yes**: the check passed. **no**: it
failed. A reason instead: there was nothing to check. The checks are described by `lossmith.conformance.checks()`.

"""


def cell(outcome: Outcome) -> str:
    """A check's outcome in a word, or the reason why there is none."""
    if outcome.status == "skipped":
        return outcome.said.split(":")[0].split(",")[0]
    return "yes" if outcome.status == "passed" else "no"


def measure(name: str) -> Row:
    """The row of one objective."""
    under = subject(name)
    return {check.name: cell(check(under)) for check in chosen(COLUMNS)}


def render(rows: Mapping[str, Row]) -> str:
    """The page, from the rows by objective."""
    lines = ["| objective | " + " | ".join(COLUMNS.values()) + " |", "| --- |" + " --- |" * len(COLUMNS)]
    lines += [f"| `{name}` | " + " | ".join(row[check] for check in COLUMNS) + " |" for name, row in sorted(rows.items())]
    return _HEAD + "\n".join(lines) + "\n"


def read(page: str) -> dict[str, Row]:
    """The rows of a page that :func:`render` wrote."""
    rows: dict[str, Row] = {}
    for line in page.splitlines():
        if line.startswith("| `"):
            name, *cells = (part.strip() for part in line.strip("|").split("|"))
            rows[name.strip("`")] = dict(zip(COLUMNS, cells, strict=True))
    return rows


def main(folder: str) -> None:
    """Measure every objective and write `capabilities.md` into the folder."""
    page = render({name: measure(name) for name in all_cards()})
    (Path(folder) / "capabilities.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("usage: python -m lossmith.conformance.tables FOLDER")
    main(sys.argv[1])
