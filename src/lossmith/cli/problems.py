"""What goes wrong, as one line on stderr and an exit status.

Whatever a user can do wrong is a `Problem`, or an exception of the library whose message is already that line. Anything else is shown
as one line too, with its type, and with its traceback under ``--debug``.
"""

import importlib.util
from collections.abc import Sequence

from lossmith._checks import UnknownName

FAILED, USAGE, INTERRUPTED = 1, 2, 130

EXTRAS = {
    "compare": ("scipy", "sklearn", "pandas", "matplotlib", "jinja2", "joblib"),
    "plot": ("matplotlib",),
}
"""What a part of the command imports beyond the `cli` extra. All of it comes with the extra `compare`."""


class Problem(Exception):
    """Something a user can put right: the message is the line they read, `status` the exit status."""

    def __init__(self, message: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status


def need(what: str, command: str) -> None:
    """Refuse with the one pip line that brings what is missing, when something is."""
    missing = [package for package in EXTRAS[what] if importlib.util.find_spec(package) is None]
    if missing:
        named = ", ".join("scikit-learn" if package == "sklearn" else package for package in missing)
        raise Problem(f'{command} needs {named}: pip install "lossmith[compare]"', USAGE)


def message(error: BaseException) -> str:
    """An exception as one line; its type is named unless its message was written to be read alone."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, Problem | UnknownName | ValueError) and text:
        return text
    kind = type(error).__name__
    return f"{kind}: {text} (--debug shows where)" if text else f"{kind} (--debug shows where)"


def listed(names: Sequence[str], limit: int = 12) -> str:
    """Names separated by commas, the first dozen of many."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
