"""The table of planted bugs and the checks that catch them: `python -m tests.conformance.bug_table` writes docs/bug_table.md."""

from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "bug_table.md"

_HEAD = """# The bugs the suite is known to catch

A suite that cannot fail proves nothing. Each line is an objective in which one part of a correct one was broken, and the check that
catches it; the tests run them all, and run every check on the correct objectives they were made from. Written by
`python -m tests.conformance.bug_table`.

"""


def render(bugs) -> str:
    lines = ["| planted bug | what is wrong | broken part of | caught by |", "| --- | --- | --- | --- |"]
    lines += [
        f"| `{bug.name}` | {bug.wrong} | `{bug.sibling}` | `{bug.check}` |" for bug in sorted(bugs, key=lambda bug: (bug.check, bug.name))
    ]
    return _HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    from tests.conformance.planted import BUGS

    PAGE.write_text(render(BUGS), encoding="utf-8")
